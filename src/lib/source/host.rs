//! A directory of the host as a source: parallel walk, contents by several threads.
//!
//! Nothing is followed that is a symbolic link, and nothing is opened by a path of the caller's choosing other than the
//! top: directories are reached from it by `openat2` without links on the way, in pieces shorter than `PATH_MAX`. A file
//! is known to be unchanged by size and change time.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::rules::Exclude;
use super::tree::{Attributes, Data, Name, Node, NodeId, Segment, Tree, join};
use super::{Reader, Source, Xattrs};
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::format::inode::FileType;
use crate::progress::{Progress, Step, Unit};

/// Longest path given to one system call, bytes.
const PATH_PIECE: usize = 3000;
/// Buffer for directory entries, bytes.
const DIR_BUFFER: usize = 64 * 1024;

/// A directory of the host.
#[derive(Debug)]
pub struct HostDir {
    path: PathBuf,
    top: OwnedFd,
    /// The only name that counts.
    only: Option<CString>,
    xattrs: bool,
    times: bool,
    owner: Option<(u32, u32)>,
    exclude: Exclude,
}

/// What the walk found in one directory.
struct Found {
    stat: Stat,
    items: Vec<Item>,
}

/// One name of a directory.
struct Item {
    name: CString,
    stat: Stat,
    more: More,
}

enum More {
    Nothing,
    /// Index of the subdirectory's result.
    Dir(usize),
    Target(Vec<u8>),
    Segments(Vec<Segment>),
}

impl HostDir {
    /// Open the directory at `path` (a link there is followed).
    ///
    /// # Errors
    /// [`Error::Host`] where it is not a directory or cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::host("open", path, e))?;
        Ok(Self {
            path: path.to_path_buf(),
            top,
            only: None,
            xattrs: true,
            times: false,
            owner: None,
            exclude: Exclude::default(),
        })
    }

    /// Open the directory of the file at `path` with that file alone in it. With `follow`, a symbolic link stands for what
    /// it leads to.
    ///
    /// # Errors
    /// [`Error::Host`] where the directory cannot be opened or the path has no name at its end.
    pub fn open_file(path: impl AsRef<Path>, follow: bool) -> Result<Self> {
        let path = path.as_ref();
        let real = if follow { path.canonicalize().map_err(|e| Error::host("open", path, e))? } else { path.into() };
        let name = real.file_name().and_then(|n| CString::new(n.as_bytes()).ok());
        let Some(name) = name else { return Err(Error::host("open", path, Errno::INVAL)) };
        let parent = real.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { only: Some(name), ..Self::open(parent)? })
    }

    /// Leave extended attributes out.
    #[must_use]
    pub fn without_xattrs(mut self) -> Self {
        self.xattrs = false;
        self
    }

    /// Leave out what the patterns name; directories among it are not looked into.
    #[must_use]
    pub fn excluding(mut self, patterns: Exclude) -> Self {
        self.exclude = patterns;
        self
    }

    /// Keep the times of last access and change, too. They differ between copies of a tree, and so do images then.
    #[must_use]
    pub const fn with_times(mut self) -> Self {
        self.times = true;
        self
    }

    /// Everything belongs to this user and group.
    #[must_use]
    pub const fn owned_by(mut self, owner: Option<(u32, u32)>) -> Self {
        self.owner = owner;
        self
    }

    fn error(&self, op: &'static str, path: &[u8], e: Errno) -> Error {
        Error::host(op, self.path.join(OsStr::from_bytes(path)), e)
    }

    fn changed(&self, path: &[u8]) -> Error {
        Error::HostChanged { path: self.path.join(OsStr::from_bytes(path)) }
    }

    /// Open the directory at `path` below the top.
    fn open_dir(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let step = |at: &OwnedFd, piece: &[u8], flags| match rustix::fs::openat2(
            at,
            piece,
            flags,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        ) {
            Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(at, piece, flags, Mode::empty()),
            other => other,
        };
        let fail = |e| self.error("open", path, e);
        let mut rest = path;
        let mut at: Option<OwnedFd> = None;
        while rest.len() > PATH_PIECE {
            let cut = rest[..PATH_PIECE].iter().rposition(|b| *b == b'/').unwrap_or(PATH_PIECE);
            let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            at = Some(step(at.as_ref().unwrap_or(&self.top), &rest[..cut], through).map_err(fail)?);
            rest = &rest[cut + 1..];
        }
        let piece = if rest.is_empty() { b"." } else { rest };
        step(at.as_ref().unwrap_or(&self.top), piece, flags).map_err(fail)
    }

    /// Read one directory; `task` gives a number for each subdirectory.
    fn scan(&self, path: &[u8], task: &mut dyn FnMut(Vec<u8>) -> usize) -> Result<Found> {
        let fd = self.open_dir(path, OFlags::RDONLY)?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| self.error("stat", path, e))?;
        let mut names = match &self.only {
            Some(only) => vec![only.clone()],
            None => self.names(&fd, path)?,
        };
        names.sort_unstable();
        let mut items = Vec::with_capacity(names.len());
        for name in names {
            let full = join(path, name.to_bytes());
            let stat =
                rustix::fs::statat(&fd, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| self.error("stat", &full, e))?;
            let more = match FileType::from_mode(stat.st_mode as u16) {
                Some(FileType::Directory) => More::Dir(task(full)),
                Some(FileType::Symlink) => More::Target(
                    rustix::fs::readlinkat(&fd, &name, Vec::new())
                        .map_err(|e| self.error("read the link", &full, e))?
                        .into_bytes(),
                ),
                Some(FileType::Regular) if (stat.st_blocks as u64) * 512 < stat.st_size as u64 => {
                    self.segments(&fd, &name, &stat, &full)?
                }
                _ => More::Nothing,
            };
            items.push(Item { name, stat, more });
        }
        Ok(Found { stat, items })
    }

    /// The names in a directory.
    fn names(&self, dir: &OwnedFd, path: &[u8]) -> Result<Vec<CString>> {
        let mut names = Vec::new();
        let mut buffer = Vec::with_capacity(DIR_BUFFER);
        let mut dir = RawDir::new(dir, buffer.spare_capacity_mut());
        while let Some(entry) = dir.next() {
            let entry = entry.map_err(|e| self.error("read", path, e))?;
            let name = entry.file_name();
            let left_out = !self.exclude.is_empty() && self.exclude.matches(&join(path, name.to_bytes()));
            if !matches!(name.to_bytes(), b"." | b"..") && !left_out {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Where a file that takes less room than its size has data.
    fn segments(&self, dir: &OwnedFd, name: &CStr, stat: &Stat, path: &[u8]) -> Result<More> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| self.error("open", path, e))?;
        let size = stat.st_size as u64;
        let mut out: Vec<Segment> = Vec::new();
        let mut at = 0;
        while at < size {
            let start = match rustix::fs::seek(&fd, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(_) => at,
            };
            let end = rustix::fs::seek(&fd, SeekFrom::Hole(start)).unwrap_or(size).min(size);
            if end <= start {
                break;
            }
            out.push(Segment { start, end });
            at = end;
        }
        let whole = matches!(out.as_slice(), [s] if s.start == 0 && s.end == size);
        Ok(if whole { More::Nothing } else { More::Segments(out) })
    }

    fn attributes(&self, stat: &Stat) -> Attributes {
        let (uid, gid) = self.owner.unwrap_or((stat.st_uid, stat.st_gid));
        Attributes {
            mode: stat.st_mode as u16,
            uid,
            gid,
            mtime: Timestamp { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as u32 },
            stamp: stamp(stat),
            size: stat.st_size as u64,
            device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        }
    }
}

/// The change time in nanoseconds, mixed with the size.
fn stamp(stat: &Stat) -> u64 {
    (stat.st_ctime as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(stat.st_ctime_nsec)
        .wrapping_add((stat.st_size as u64).rotate_left(40))
}

/// Directories still to be read, and what was found so far.
#[derive(Default)]
struct Queue {
    todo: Vec<(usize, Vec<u8>)>,
    results: Vec<Option<Found>>,
    running: usize,
    error: Option<Error>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Read directories until none is left.
    fn work(&self, source: &HostDir, progress: &dyn Progress) {
        let mut queue = self.lock();
        loop {
            if queue.error.is_some() {
                return;
            }
            let Some((index, path)) = queue.todo.pop() else {
                if queue.running == 0 {
                    self.wake.notify_all();
                    return;
                }
                queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.running += 1;
            drop(queue);
            let mut new = Vec::new();
            let found = progress.check().and_then(|()| {
                source.scan(&path, &mut |p| {
                    new.push(p);
                    new.len() - 1
                })
            });
            queue = self.lock();
            queue.running -= 1;
            match found {
                Ok(mut found) => {
                    progress.advance(found.items.len() as u64);
                    let base = queue.results.len();
                    for item in &mut found.items {
                        if let More::Dir(i) = &mut item.more {
                            *i += base;
                        }
                    }
                    for (i, p) in new.into_iter().enumerate() {
                        queue.results.push(None);
                        queue.todo.push((base + i, p));
                    }
                    if let Some(slot) = queue.results.get_mut(index) {
                        *slot = Some(found);
                    }
                }
                Err(e) => queue.error = Some(e),
            }
            self.wake.notify_all();
        }
    }
}

impl Source for HostDir {
    fn list(&self, threads: usize, progress: &dyn Progress) -> Result<Tree> {
        progress.begin(Step { name: "listing files", unit: Unit::Files, total: None });
        let queue = Queue { todo: vec![(0, Vec::new())], results: vec![None], ..Queue::default() };
        let shared = Shared { queue: Mutex::new(queue), wake: Condvar::new() };
        std::thread::scope(|s| {
            for _ in 1..threads {
                s.spawn(|| shared.work(self, progress));
            }
            shared.work(self, progress);
        });
        progress.end();
        let queue = shared.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
        match queue.error {
            Some(e) => Err(e),
            None => Assemble::run(self, queue.results),
        }
    }

    fn reader<'a>(&'a self, tree: &'a Tree) -> Result<Box<dyn Reader + 'a>> {
        let dir = self.open_dir(b"", OFlags::PATH)?;
        Ok(Box::new(HostReader { source: self, tree, node: 0, dir_id: 0, dir, file: None }))
    }
}

/// Puts the directories' results together, in the order of names.
struct Assemble<'a> {
    source: &'a HostDir,
    results: Vec<Option<Found>>,
    tree: Tree,
    /// Files with several names, by device and inode number of the host.
    linked: HashMap<(u64, u64), NodeId>,
}

impl<'a> Assemble<'a> {
    fn run(source: &'a HostDir, results: Vec<Option<Found>>) -> Result<Tree> {
        let mut a = Self { source, results, tree: Tree::default(), linked: HashMap::new() };
        // Directories whose entries wait to be put in place, the next one last.
        let mut stack = vec![(0usize, 0 as NodeId, Name::default(), u32::MAX)];
        while let Some((result, parent, name, entry)) = stack.pop() {
            let Some(found) = a.results.get_mut(result).and_then(Option::take) else { continue };
            let id = a.directory(parent, name, &found)?;
            if let Some(e) = a.tree.entries.get_mut(entry as usize) {
                e.node = id;
            }
            a.files(id, found, &mut stack)?;
        }
        Ok(a.tree)
    }

    fn directory(&mut self, parent: NodeId, name: Name, found: &Found) -> Result<NodeId> {
        let first = self.tree.entries.len() as u32;
        let count = found.items.len() as u32;
        let mut attributes = self.source.attributes(&found.stat);
        attributes.size = 0;
        let id = self.tree.push(parent, name, &attributes, Data::Dir { first, count })?;
        self.times(&found.stat);
        if id != 0
            && let Some(p) = self.tree.nodes.get_mut(parent as usize)
        {
            p.links += 1;
        }
        Ok(id)
    }

    fn times(&mut self, stat: &Stat) {
        if self.source.times {
            let time = |sec, nsec: u64| Timestamp { sec, nsec: nsec as u32 };
            self.tree.keep_times(time(stat.st_atime, stat.st_atime_nsec), time(stat.st_ctime, stat.st_ctime_nsec));
        }
    }

    fn files(&mut self, dir: NodeId, found: Found, stack: &mut Vec<(usize, NodeId, Name, u32)>) -> Result<()> {
        let base = stack.len();
        for item in found.items {
            let bytes = item.name.to_bytes();
            let name = Name { at: self.tree.intern(bytes)?, len: bytes.len() as u8 };
            let entry = self.tree.entries.len() as u32;
            let node = if let More::Dir(result) = item.more {
                stack.push((result, dir, name, entry));
                NodeId::MAX
            } else {
                self.file(dir, name, item)?
            };
            self.tree.entries.push(super::tree::Entry { name, node });
        }
        // The first by name must come off the stack first.
        stack[base..].reverse();
        Ok(())
    }

    fn file(&mut self, dir: NodeId, name: Name, item: Item) -> Result<NodeId> {
        let key = (item.stat.st_dev, item.stat.st_ino);
        if item.stat.st_nlink > 1
            && let Some(id) = self.linked.get(&key)
        {
            if let Some(n) = self.tree.nodes.get_mut(*id as usize) {
                n.links += 1;
            }
            return Ok(*id);
        }
        let mut attributes = self.source.attributes(&item.stat);
        let data = match (item.more, FileType::from_mode(attributes.mode)) {
            (More::Target(target), _) => {
                attributes.size = target.len() as u64;
                Data::Symlink(self.tree.intern(&target)?)
            }
            (More::Segments(s), _) => {
                self.tree.sparse.push(s);
                Data::Sparse(self.tree.sparse.len() as u32 - 1)
            }
            (_, Some(FileType::Regular)) => Data::File,
            (_, Some(FileType::CharDevice | FileType::BlockDevice)) => {
                attributes.size = 0;
                Data::Device(attributes.device.0, attributes.device.1)
            }
            _ => {
                attributes.size = 0;
                Data::Special
            }
        };
        let id = self.tree.push(dir, name, &attributes, data)?;
        self.times(&item.stat);
        if item.stat.st_nlink > 1 {
            self.linked.insert(key, id);
        }
        Ok(id)
    }
}

/// Reads files of a [`HostDir`]; keeps the directory of the last one open.
struct HostReader<'a> {
    source: &'a HostDir,
    tree: &'a Tree,
    node: NodeId,
    dir_id: NodeId,
    dir: OwnedFd,
    file: Option<OwnedFd>,
}

impl HostReader<'_> {
    fn path(&self) -> Vec<u8> {
        self.tree.path(self.node)
    }

    /// Have the directory open that the current node is in, or is.
    fn turn_to(&mut self, wanted: NodeId) -> Result<()> {
        if wanted != self.dir_id {
            self.dir = self.source.open_dir(&self.tree.path(wanted), OFlags::RDONLY)?;
            self.dir_id = wanted;
        }
        Ok(())
    }

    fn current(&self) -> Result<&Node> {
        self.tree.node(self.node).ok_or_else(|| self.source.changed(b""))
    }

    /// Names and values through `list` and `get`, which fill a buffer.
    fn collect(
        &self,
        list: impl Fn(&mut Vec<u8>) -> rustix::io::Result<usize>,
        get: impl Fn(&CStr, &mut Vec<u8>) -> rustix::io::Result<usize>,
    ) -> Result<Xattrs> {
        let fail = |e| self.source.error("read the extended attributes of", &self.path(), e);
        let mut names = vec![0u8; 1024];
        let n = match grow(&mut names, list) {
            Ok(n) => n,
            Err(Errno::NOTSUP) => 0,
            Err(e) => return Err(fail(e)),
        };
        let mut out = Vec::new();
        for name in names[..n].split_inclusive(|b| *b == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            let mut value = vec![0u8; 256];
            match grow(&mut value, |b| get(name, b)) {
                Ok(n) => value.truncate(n),
                // Gone meanwhile, or one that the host lists but does not give.
                Err(Errno::NODATA | Errno::NOTSUP) => continue,
                Err(e) => return Err(fail(e)),
            }
            out.push((name.to_bytes().to_vec(), value));
        }
        out.sort_unstable();
        Ok(out)
    }
}

/// Call `fill` with a larger buffer until what it gives fits.
fn grow(buf: &mut Vec<u8>, fill: impl Fn(&mut Vec<u8>) -> rustix::io::Result<usize>) -> rustix::io::Result<usize> {
    loop {
        match fill(buf) {
            Err(Errno::RANGE) if buf.len() < 1 << 20 => {
                let n = buf.len() * 8;
                buf.resize(n, 0);
            }
            other => return other,
        }
    }
}

impl Reader for HostReader<'_> {
    fn open(&mut self, id: u32) -> Result<()> {
        self.node = id;
        self.file = None;
        let node = self.current()?;
        let (wanted, data, name) = (if node.is_dir() { id } else { node.parent }, node.data, node.name);
        self.turn_to(wanted)?;
        if matches!(data, Data::File | Data::Sparse(_)) {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let name = self.tree.name(name);
            let fd = rustix::fs::openat(&self.dir, name, flags, Mode::empty())
                .map_err(|e| self.source.error("open", &self.path(), e))?;
            self.file = Some(fd);
        }
        Ok(())
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let Some(fd) = &self.file else { return Err(self.source.changed(&self.path())) };
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(fd, &mut buf[done..], offset + done as u64) {
                Ok(0) => return Err(self.source.changed(&self.path())),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.source.error("read", &self.path(), e)),
            }
        }
        Ok(())
    }

    fn host_file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(OwnedFd::as_fd)
    }

    fn xattrs(&mut self) -> Result<Xattrs> {
        if !self.source.xattrs {
            return Ok(Vec::new());
        }
        if let Some(fd) = &self.file {
            let fd = fd.as_fd();
            return self.collect(
                |b| rustix::fs::flistxattr(fd, b.as_mut_slice()),
                |n, b| rustix::fs::fgetxattr(fd, n, b.as_mut_slice()),
            );
        }
        let node = self.current()?;
        let name = if node.is_dir() { &b"."[..] } else { self.tree.name(node.name) };
        let mut path = format!("/proc/self/fd/{}/", self.dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        self.collect(
            |b| rustix::fs::llistxattr(path.as_slice(), b.as_mut_slice()),
            |n, b| rustix::fs::lgetxattr(path.as_slice(), n, b.as_mut_slice()),
        )
    }

    fn attributes(&mut self, id: u32) -> Result<Xattrs> {
        self.node = id;
        self.file = None;
        let node = self.current()?;
        self.turn_to(if node.is_dir() { id } else { node.parent })?;
        self.xattrs()
    }

    fn close(&mut self) -> Result<()> {
        if let Some(fd) = self.file.take() {
            let stat = rustix::fs::fstat(&fd).map_err(|e| self.source.error("stat", &self.path(), e))?;
            let node = self.current()?;
            if stat.st_size as u64 != node.size || stamp(&stat) != node.stamp {
                return Err(self.source.changed(&self.path()));
            }
        }
        Ok(())
    }
}
