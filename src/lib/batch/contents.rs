//! Content of files that has its place in the image and is not there yet: it is copied by several threads, after everything
//! that can be refused has been looked at, and before the commit that exposes it. Offsets and sizes in bytes.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::format::extent::Extent;
use crate::journal::ContentWriter;
use crate::namei::Content;
use crate::progress::{Progress, Step, Unit};
use crate::source::tree::{Data, Node, NodeId};
use crate::source::{Reader, Segment, Source, Tree};
use crate::units::{Fsblk, Ino};

/// Bytes that are copied at a time, a multiple of every block size.
const PIECE: usize = 1 << 18;
/// Most bytes that the host is asked to copy at a time.
const HOST_STEP: u64 = 8 << 20;
/// Least bytes for which it is asked.
const HOST_LEAST: u64 = 64 << 10;
/// Files that a thread takes at a time.
const TAKE: usize = 16;

/// A source of files and what it listed.
pub struct Origin {
    pub(super) source: Box<dyn Source + Send>,
    pub(super) tree: Tree,
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origin").field("nodes", &self.tree.len()).finish_non_exhaustive()
    }
}

impl Origin {
    /// List a source.
    ///
    /// # Errors
    /// What cannot be read, by name.
    pub fn list(source: impl Source + 'static, threads: usize, progress: &dyn Progress) -> Result<Arc<Self>> {
        let tree = source.list(threads, progress)?;
        Ok(Arc::new(Self { source: Box::new(source), tree }))
    }

    /// How many files, directories and others it has.
    pub fn nodes(&self) -> usize {
        self.tree.len()
    }

    pub(super) fn node(&self, id: NodeId) -> Result<&Node> {
        let beyond = || Error::InvalidArgument { name: "node", value: id.to_string(), allowed: "a node of the tree" };
        self.tree.node(id).ok_or_else(beyond)
    }

    /// What of a file is not a hole.
    pub(super) fn segments(&self, node: &Node) -> Cow<'_, [Segment]> {
        match node.data {
            Data::Sparse(i) => Cow::Borrowed(self.tree.segments(i)),
            _ => Cow::Owned(vec![Segment { start: 0, end: node.size }]),
        }
    }
}

/// One file's content, as it is read from its source.
pub(super) struct NodeContent<'a> {
    pub(super) origin: &'a Origin,
    pub(super) node: &'a Node,
    pub(super) id: NodeId,
    pub(super) reader: &'a mut (dyn Reader + 'a),
}

impl Content for NodeContent<'_> {
    fn size(&self) -> u64 {
        self.node.size
    }

    fn segments(&self) -> Cow<'_, [Segment]> {
        self.origin.segments(self.node)
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.reader.open(self.id)?;
        self.reader.read(offset, buf)?;
        self.reader.close()
    }
}

/// A file whose blocks wait for their content.
struct Waiting {
    origin: Arc<Origin>,
    node: NodeId,
    extents: Vec<Extent>,
}

/// Files whose blocks wait for their content.
#[derive(Default)]
pub(super) struct Contents {
    waiting: Vec<Waiting>,
    inodes: BTreeSet<Ino>,
    bytes: u64,
}

impl Contents {
    /// The blocks of `ino` get what `node` holds.
    pub(super) fn add(&mut self, ino: Ino, origin: &Arc<Origin>, node: NodeId, extents: Vec<Extent>, block_size: u64) {
        if extents.is_empty() {
            return;
        }
        self.inodes.insert(ino);
        self.bytes += extents.iter().map(|e| u64::from(e.len) * block_size).sum::<u64>();
        self.waiting.push(Waiting { origin: Arc::clone(origin), node, extents });
    }

    /// Whether blocks of an inode wait.
    pub(super) fn has(&self, ino: Ino) -> bool {
        self.inodes.contains(&ino)
    }

    /// Whether nothing waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Write all that waits. `beat` is called now and then.
    ///
    /// # Errors
    /// What cannot be read, by name; the device's.
    pub(super) fn write(
        &mut self,
        writer: &ContentWriter,
        threads: usize,
        progress: &dyn Progress,
        beat: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        progress.begin(Step { name: "copying", unit: Unit::Bytes, total: Some(self.bytes) });
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        let threads = threads.clamp(1, self.waiting.len().div_ceil(TAKE));
        let waiting = &self.waiting[..];
        let fail = |e| {
            // The others find nothing left to take.
            next.store(waiting.len(), Ordering::Relaxed);
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
        };
        let work = || {
            let mut worker = Worker { writer, progress, buf: Vec::new(), host_copies: true };
            loop {
                let from = next.fetch_add(TAKE, Ordering::Relaxed);
                let Some(rest) = waiting.get(from..).filter(|r| !r.is_empty()) else { return };
                let done = beat().and_then(|()| worker.files(&rest[..TAKE.min(rest.len())], beat));
                if let Err(e) = done {
                    fail(e);
                    return;
                }
            }
        };
        if threads == 1 {
            work();
        } else {
            std::thread::scope(|s| (0..threads).for_each(|_| drop(s.spawn(work))));
        }
        progress.end();
        let failed = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.clear();
        failed.map_or(Ok(()), Err)
    }
}

/// One thread's hands.
struct Worker<'a> {
    writer: &'a ContentWriter,
    progress: &'a dyn Progress,
    buf: Vec<u8>,
    /// The host has not refused to copy from file to file.
    host_copies: bool,
}

impl Worker<'_> {
    fn files(&mut self, files: &[Waiting], beat: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut at = 0;
        // Neighbours of one source share a reader.
        while let Some(first) = files.get(at) {
            let origin = &first.origin;
            let mut reader = origin.source.reader(&origin.tree)?;
            while let Some(file) = files.get(at).filter(|f| Arc::ptr_eq(&f.origin, origin)) {
                self.progress.check()?;
                self.file(file, &mut *reader, beat)?;
                at += 1;
            }
        }
        Ok(())
    }

    fn file(&mut self, file: &Waiting, reader: &mut dyn Reader, beat: &dyn Fn() -> Result<()>) -> Result<()> {
        let node = file.origin.node(file.node)?;
        let segments = file.origin.segments(node);
        let bs = self.writer.block_size() as u64;
        reader.open(file.node)?;
        for e in &file.extents {
            let (mut at, end) = (u64::from(e.lblk.0) * bs, e.end() * bs);
            let mut block = e.pblk.0;
            while at < end {
                let done = self.host_copy(at, end, block, &segments, node.size, reader)?;
                if done > 0 {
                    self.progress.advance(done);
                    beat()?;
                    (at, block) = (at + done, block + done / bs);
                    continue;
                }
                let n = (end - at).min(PIECE as u64);
                self.buf.clear();
                self.buf.resize(n as usize, 0);
                fill(&mut self.buf, at, &segments, node.size, reader)?;
                self.writer.write(Fsblk(block), &self.buf)?;
                self.progress.advance(n);
                beat()?;
                block += n / bs;
                at += n;
            }
        }
        reader.close()
    }
}

impl Worker<'_> {
    /// Let the host copy what it can of the whole blocks of data at `at`; how many bytes that were.
    fn host_copy(
        &mut self,
        at: u64,
        end: u64,
        block: u64,
        segments: &[Segment],
        size: u64,
        reader: &dyn Reader,
    ) -> Result<u64> {
        let bs = self.writer.block_size() as u64;
        let data = segments.get(segments.partition_point(|s| s.end <= at)).filter(|s| s.start <= at);
        let stop = data.map_or(at, |s| s.end.min(size).min(end).min(at + HOST_STEP));
        let len = (stop - at) / bs * bs;
        let Some(file) = reader.host_file().filter(|_| self.host_copies && len >= HOST_LEAST) else { return Ok(0) };
        let done = self.writer.copy_from(Fsblk(block), file, at, len)?;
        self.host_copies = done == len;
        Ok(done / bs * bs)
    }
}

/// Read what `segments` have of the bytes at `at` into `buf`, which holds zeros.
pub(super) fn fill(buf: &mut [u8], at: u64, segments: &[Segment], size: u64, reader: &mut dyn Reader) -> Result<()> {
    let end = (at + buf.len() as u64).min(size);
    let first = segments.partition_point(|s| s.end <= at);
    for s in segments.iter().skip(first).take_while(|s| s.start < end) {
        let (from, to) = (s.start.max(at), s.end.min(end));
        if let Some(part) = buf.get_mut((from - at) as usize..(to - at) as usize) {
            reader.read(from, part)?;
        }
    }
    Ok(())
}
