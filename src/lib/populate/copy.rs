//! Contents into the image: several threads, each taking the next piece in ascending order of blocks.
//!
//! Extended attributes and inline data come back, to go into inodes. Small files and directories are gathered into one buffer and written together; large files are cut into pieces. What
//! is written where does not depend on the number of threads.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::dirs::DirWriter;
use super::inline::Inlined;
use super::plan::Plan;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::csum::Checksums;
use crate::format::extent::Extent;
use crate::format::inline_data::InlineData;
use crate::progress::{Progress, Step, Unit};
use crate::source::tree::{Data, Node, NodeId, Tree};
use crate::source::{Reader, Source, Xattrs};
use crate::units::{Fsblk, Lblk};

/// Bytes of a thread's buffer, a multiple of every block size.
const BUFFER: usize = 512 * 1024;
/// Least bytes for which the host is asked to copy itself.
const HOST_LEAST: u64 = 64 << 10;
/// Bytes of data that a thread takes at once.
const PIECE: u64 = 4 << 20;
/// Files that a thread takes at once.
const FILES: u32 = 256;

/// A share of the work.
enum Job {
    /// All of these nodes.
    Nodes(NodeId, NodeId),
    /// Parts of one large file. The first part also sees to the file's attributes.
    Parts { node: NodeId, first: bool, parts: Vec<Extent> },
}

/// What all threads need.
pub(crate) struct Copier<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) plan: &'a Plan,
    pub(crate) csums: Checksums,
    pub(crate) dev: &'a dyn BlockDevice,
    pub(crate) progress: &'a dyn Progress,
    /// Whether extended attributes are still to be read.
    pub(crate) attributes: bool,
}

/// What goes into inodes, by node.
#[derive(Default)]
pub(crate) struct Copied {
    pub(crate) xattrs: Vec<(NodeId, Xattrs)>,
    pub(crate) inline: Inlined,
}

impl Copier<'_> {
    /// Copy everything.
    pub(crate) fn run(&self, source: &dyn Source, threads: usize) -> Result<Copied> {
        let jobs = self.jobs();
        let total = Some(self.tree.data_bytes());
        self.progress.begin(Step { name: "copying files", unit: Unit::Bytes, total });
        let next = AtomicUsize::new(0);
        let results = Mutex::new((Copied::default(), None::<Error>));
        let lock = || results.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            let done = self.work(source, &jobs, &next);
            let mut results = lock();
            match done {
                Ok(found) => {
                    results.0.xattrs.extend(found.xattrs);
                    results.0.inline.extend(found.inline);
                }
                Err(e) => {
                    next.store(usize::MAX / 2, Ordering::Relaxed);
                    results.1.get_or_insert(e);
                }
            }
        };
        std::thread::scope(|s| {
            for _ in 1..threads.min(jobs.len()) {
                s.spawn(work);
            }
            work();
        });
        self.progress.end();
        let (mut copied, error) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(e) = error {
            return Err(e);
        }
        copied.xattrs.sort_unstable_by_key(|x| x.0);
        Ok(copied)
    }

    fn jobs(&self) -> Vec<Job> {
        let bs = self.plan.block_size;
        let mut jobs = Vec::new();
        let (mut first, mut bytes) = (0, 0);
        for (id, _) in (0..).zip(&self.plan.places) {
            let runs = self.plan.runs(id);
            let size = runs.blocks() * bs;
            if size > PIECE && !self.tree.node(id).is_some_and(Node::is_dir) {
                if first != id {
                    jobs.push(Job::Nodes(first, id));
                }
                self.parts(id, runs.as_slice(), &mut jobs);
                (first, bytes) = (id + 1, 0);
                continue;
            }
            bytes += size;
            if bytes >= PIECE || id + 1 - first >= FILES {
                jobs.push(Job::Nodes(first, id + 1));
                (first, bytes) = (id + 1, 0);
            }
        }
        let end = self.plan.places.len() as NodeId;
        if first != end {
            jobs.push(Job::Nodes(first, end));
        }
        jobs
    }

    /// Cut a large file.
    fn parts(&self, node: NodeId, runs: &[Extent], jobs: &mut Vec<Job>) {
        let most = PIECE / self.plan.block_size;
        let (mut parts, mut len, mut first) = (Vec::new(), 0, true);
        for run in runs {
            let mut done = 0;
            while done < u64::from(run.len) {
                let n = (u64::from(run.len) - done).min(most - len);
                parts.push(Extent {
                    lblk: Lblk(run.lblk.0 + done as u32),
                    len: n as u32,
                    pblk: Fsblk(run.pblk.0 + done),
                    unwritten: false,
                });
                done += n;
                len += n;
                if len == most {
                    jobs.push(Job::Parts { node, first, parts: std::mem::take(&mut parts) });
                    (len, first) = (0, false);
                }
            }
        }
        if !parts.is_empty() {
            jobs.push(Job::Parts { node, first, parts });
        }
    }

    fn work(&self, source: &dyn Source, jobs: &[Job], next: &AtomicUsize) -> Result<Copied> {
        let mut w = Worker {
            all: self,
            reader: source.reader(self.tree)?,
            buf: vec![0; BUFFER],
            at: 0,
            fill: 0,
            host_copies: true,
            found: Copied { xattrs: Vec::new(), inline: HashMap::new() },
        };
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            self.progress.check()?;
            match job {
                Job::Nodes(from, to) => {
                    for id in *from..*to {
                        w.node(id)?;
                    }
                }
                Job::Parts { node, first, parts } => {
                    w.reader.open(*node)?;
                    if *first {
                        w.attributes(*node)?;
                    }
                    w.data(*node, parts)?;
                    w.reader.close()?;
                }
            }
            w.flush()?;
        }
        w.reader.finish()?;
        Ok(w.found)
    }
}

struct Worker<'a> {
    all: &'a Copier<'a>,
    reader: Box<dyn Reader + 'a>,
    buf: Vec<u8>,
    /// Byte of the image where the buffer goes.
    at: u64,
    fill: usize,
    /// The host has not refused to copy from file to file.
    host_copies: bool,
    found: Copied,
}

impl Worker<'_> {
    fn node(&mut self, id: NodeId) -> Result<()> {
        let Some(node) = self.all.tree.node(id) else { return Ok(()) };
        self.reader.open(id)?;
        self.attributes(id)?;
        let runs = self.all.plan.runs(id);
        if self.all.plan.is_inline(id) {
            self.inline(id, node)?;
            return self.reader.close();
        }
        match node.data {
            Data::File | Data::Sparse(_) => self.data(id, runs.as_slice())?,
            Data::Dir { .. } => self.directory(id, runs.as_slice())?,
            Data::Symlink(_) => {
                if let [e] = runs.as_slice() {
                    let tree = self.all.tree;
                    let bs = self.all.plan.block_size as usize;
                    let slot = self.room(e.pblk.0, bs)?;
                    slot[..node.size as usize].copy_from_slice(tree.target(node));
                    slot[node.size as usize..].fill(0);
                }
            }
            Data::Device(..) | Data::Special => {}
        }
        self.reader.close()
    }

    /// Keep the content of a node that is inside its inode.
    fn inline(&mut self, id: NodeId, node: &Node) -> Result<()> {
        let (tree, plan) = (self.all.tree, self.all.plan);
        let data = match node.data {
            Data::Dir { .. } => plan.inline.and_then(|rules| rules.directory(tree, node, &|n| plan.ino(n))),
            Data::Symlink(_) => Some(InlineData::split(tree.target(node))),
            _ => {
                let mut content = vec![0; node.size as usize];
                self.reader.read(0, &mut content)?;
                self.all.progress.advance(node.size);
                Some(InlineData::split(&content))
            }
        };
        self.found.inline.extend(data.map(|d| (id, d)));
        Ok(())
    }

    fn attributes(&mut self, id: NodeId) -> Result<()> {
        if !self.all.attributes {
            return Ok(());
        }
        let found = self.reader.xattrs()?;
        if !found.is_empty() {
            self.found.xattrs.push((id, found));
        }
        Ok(())
    }

    fn directory(&mut self, id: NodeId, runs: &[Extent]) -> Result<()> {
        let (plan, tree, csums) = (self.all.plan, self.all.tree, self.all.csums);
        let mut blocks = runs.iter().flat_map(|e| e.pblk.0..e.pblk.0 + u64::from(e.len));
        let dir = plan.places.get(id as usize).and_then(|p| plan.dirs.get(p.dir as usize));
        let seed = csums.inode_seed(plan.ino(id), 0).unwrap_or(0);
        let writer = DirWriter { rules: &plan.rules, tree, id, plan: dir, ino_of: &|n| plan.ino(n), seed };
        writer.blocks(&mut |bytes| {
            if let Some(block) = blocks.next() {
                self.room(block, bytes.len())?.copy_from_slice(bytes);
            }
            Ok(())
        })
    }

    /// Copy the parts of the open file.
    fn data(&mut self, id: NodeId, parts: &[Extent]) -> Result<()> {
        let bs = self.all.plan.block_size;
        let size = self.all.tree.node(id).map_or(0, |n| n.size);
        let mut copied = 0;
        for e in parts {
            let mut offset = u64::from(e.lblk.0) * bs;
            let end = (offset + u64::from(e.len) * bs).min(size);
            let mut block = e.pblk.0;
            while offset < end {
                let by_host = self.copied_by_host(block * bs, offset, end - offset)?;
                offset += by_host;
                block += by_host / bs;
                copied += by_host;
                if offset == end {
                    break;
                }
                if self.fill == BUFFER || self.at + self.fill as u64 != block * bs {
                    self.flush()?;
                    self.at = block * bs;
                }
                let n = (end - offset).min((BUFFER - self.fill) as u64) as usize;
                let padded = n.next_multiple_of(bs as usize);
                let slot = &mut self.buf[self.fill..self.fill + padded];
                let (data, rest) = slot.split_at_mut(n);
                self.reader.read(offset, data)?;
                rest.fill(0);
                self.fill += padded;
                offset += n as u64;
                block += padded as u64 / bs;
                copied += n as u64;
            }
        }
        self.all.progress.advance(copied);
        Ok(())
    }

    /// Let the host copy whole blocks of a large piece of the open file itself; how many bytes it copied.
    fn copied_by_host(&mut self, at: u64, offset: u64, len: u64) -> Result<u64> {
        let bs = self.all.plan.block_size;
        let whole = len / bs * bs;
        if !self.host_copies || whole < HOST_LEAST || self.reader.host_range().is_none() {
            return Ok(0);
        }
        self.flush()?;
        let Some((file, start)) = self.reader.host_range() else { return Ok(0) };
        let done = self.all.dev.copy_from(file, start + offset, at, whole)?;
        // A host that refused once is not asked again.
        self.host_copies = done == whole;
        Ok(done / bs * bs)
    }

    /// Room in the buffer for `len` bytes that go to `block`.
    fn room(&mut self, block: u64, len: usize) -> Result<&mut [u8]> {
        let at = block * self.all.plan.block_size;
        if self.at + self.fill as u64 != at || self.fill + len > BUFFER {
            self.flush()?;
            self.at = at;
        }
        let from = self.fill;
        self.fill += len;
        Ok(&mut self.buf[from..from + len])
    }

    fn flush(&mut self) -> Result<()> {
        if self.fill != 0 {
            self.all.dev.write_at(self.at, &self.buf[..self.fill])?;
            self.at += self.fill as u64;
            self.fill = 0;
        }
        Ok(())
    }
}
