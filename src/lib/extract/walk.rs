//! A walk over a tree of the image by several threads.
//!
//! Work is a stack of directories and of slices of large ones; a thread takes the latest, so the walk goes down before
//! it goes on, and little is waiting at any time. A directory is left (and its metadata set) when all below it is
//! done. Nothing recurses: depth costs a node on the heap.
//!
//! Determinism: a directory is entered once. Where a damaged image gives it two names, the one that its `..` confirms
//! wins: directories whose `..` leads elsewhere wait until all others are done, and then go in order of their paths.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::listing::{Entry, Listing};
use super::names;
use super::run::Run;
use crate::error::{Error, FeatureBit, FeatureWord, Flaw, Place, Result, Structure};
use crate::format::features::Incompat;
use crate::format::inode::{FileType, Inode, InodeFlags};
use crate::units::Ino;
use crate::volume::{Owner, Volume};

/// Entries of one piece of work: a directory with more is shared between threads.
const SLICE: usize = 256;
/// Deepest directory that is entered.
const MAX_DEPTH: u32 = 1 << 16;

/// What happens to the files and directories of a walk. Errors are told to the [`Run`] by the walk.
pub(super) trait Visitor: Sync {
    /// What a visitor keeps about a directory while it is open.
    type Dir: Send + Sync;

    /// A directory begins. `parent` is `None` for a source.
    fn enter(&self, node: &Node<Self::Dir>, parent: Option<&Self::Dir>) -> Result<Self::Dir>;

    /// Something other than a directory.
    fn entry(
        &self,
        walk: &Walk<'_, Self>,
        dir: &Arc<Node<Self::Dir>>,
        item: &Item<'_>,
        buf: &mut Vec<u8>,
    ) -> Result<()>;

    /// All below the directory is done.
    fn leave(&self, node: &Node<Self::Dir>, dir: &Self::Dir) -> Result<()>;
}

/// An entry of a directory with its inode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub name: &'a [u8],
    pub ino: Ino,
    pub inode: &'a Inode,
}

impl<'a> Item<'a> {
    pub(super) const fn owner(&self) -> Owner<'a> {
        Owner { ino: self.ino, inode: self.inode }
    }
}

/// A directory of the walk.
pub(super) struct Node<D> {
    parent: Option<Arc<Self>>,
    /// Its name in the parent; for a source, the path as it was given.
    pub name: Vec<u8>,
    pub ino: Ino,
    pub inode: Inode,
    depth: u32,
    dir: OnceLock<D>,
    /// Pieces of work that are not done: itself, its slices, its subdirectories, and what visitors hold.
    pending: AtomicUsize,
}

impl<D> Node<D> {
    fn new(parent: Option<Arc<Self>>, name: Vec<u8>, ino: Ino, inode: Inode) -> Arc<Self> {
        let depth = parent.as_ref().map_or(0, |p| p.depth + 1);
        Arc::new(Self { parent, name, ino, inode, depth, dir: OnceLock::new(), pending: AtomicUsize::new(1) })
    }

    /// What the visitor keeps about it; there from [`Visitor::enter`] on.
    pub(super) fn dir(&self) -> Option<&D> {
        self.dir.get()
    }

    pub(super) const fn owner(&self) -> Owner<'_> {
        Owner { ino: self.ino, inode: &self.inode }
    }

    /// Its path in the image, for messages.
    pub(super) fn path(&self) -> Vec<u8> {
        let mut parts = vec![&self.name[..]];
        let mut at = self;
        while let Some(p) = &at.parent {
            parts.push(&p.name);
            at = p;
        }
        let mut path = Vec::new();
        for part in parts.into_iter().rev() {
            if !path.is_empty() && !path.ends_with(b"/") {
                path.push(b'/');
            }
            path.extend_from_slice(part);
        }
        path
    }

    /// The path of an entry.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path();
        if !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// Wait with leaving it until [`Walk::release`].
    pub(super) fn hold(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }
}

impl<D> Drop for Node<D> {
    /// A long chain of parents goes one by one, not one inside the other.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut node) = next.and_then(Arc::into_inner) {
            next = node.parent.take();
        }
    }
}

enum Task<D> {
    Dir(Arc<Node<D>>),
    Slice(Arc<Node<D>>, Vec<Entry>),
}

struct Queue<D> {
    tasks: Vec<Task<D>>,
    active: usize,
}

/// A directory of a walk with this visitor.
type SharedNode<V> = Arc<Node<<V as Visitor>::Dir>>;

/// A walk under way.
pub(super) struct Walk<'a, V: Visitor + ?Sized> {
    pub run: &'a Run<'a>,
    visitor: &'a V,
    queue: Mutex<Queue<V::Dir>>,
    wake: Condvar,
    seen: Mutex<HashSet<Ino>>,
    /// Directories whose `..` leads elsewhere; `None` once these are walked themselves.
    misplaced: Mutex<Option<Vec<SharedNode<V>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a, V: Visitor> Walk<'a, V> {
    pub(super) fn new(run: &'a Run<'a>, visitor: &'a V) -> Self {
        Self {
            run,
            visitor,
            queue: Mutex::new(Queue { tasks: Vec::new(), active: 0 }),
            wake: Condvar::new(),
            seen: Mutex::default(),
            misplaced: Mutex::new(Some(Vec::new())),
        }
    }

    /// Walk a directory and all below it.
    pub(super) fn tree(&self, path: &[u8], ino: Ino, inode: &Inode) {
        self.push(Task::Dir(Node::new(None, path.to_vec(), ino, inode.clone())));
        self.drain();
        let mut misplaced = lock(&self.misplaced).take().unwrap_or_default();
        misplaced.sort_by_cached_key(|node| node.path());
        for node in misplaced {
            self.push(Task::Dir(node));
            self.drain();
        }
        *lock(&self.misplaced) = Some(Vec::new());
    }

    fn drain(&self) {
        std::thread::scope(|scope| {
            for _ in 1..self.run.options.jobs {
                scope.spawn(|| self.work());
            }
            self.work();
        });
    }

    fn push(&self, task: Task<V::Dir>) {
        lock(&self.queue).tasks.push(task);
        self.wake.notify_one();
    }

    fn work(&self) {
        let mut buf = Vec::new();
        while let Some(task) = self.next() {
            // Counted as done even where it panics, so that the other threads end too.
            let _busy = Busy { queue: &self.queue, wake: &self.wake };
            if self.run.is_stopped() {
                continue;
            }
            match task {
                Task::Dir(node) => self.directory(node, &mut buf),
                Task::Slice(node, entries) => {
                    self.entries(&node, entries, &mut buf);
                    self.release(node);
                }
            }
        }
    }

    fn next(&self) -> Option<Task<V::Dir>> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(task) = queue.tasks.pop() {
                queue.active += 1;
                return Some(task);
            }
            if queue.active == 0 {
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn directory(&self, node: Arc<Node<V::Dir>>, buf: &mut Vec<u8>) {
        match self.open_directory(&node) {
            Ok(Some(mut entries)) => {
                while entries.len() > SLICE {
                    let slice = entries.split_off(slice_start(&entries));
                    if entries.is_empty() {
                        entries = slice;
                        break;
                    }
                    node.hold();
                    self.push(Task::Slice(Arc::clone(&node), slice));
                }
                self.entries(&node, entries, buf);
                self.release(node);
            }
            Ok(None) => {}
            Err(e) => {
                self.run.fail(&node.path(), e);
                if let Some(parent) = &node.parent {
                    self.release(Arc::clone(parent));
                }
            }
        }
    }

    /// Enter a directory and list it. `None` where it has to wait.
    fn open_directory(&self, node: &Arc<Node<V::Dir>>) -> Result<Option<Vec<Entry>>> {
        if node.inode.flags().contains(InodeFlags::ENCRYPT) {
            return Err(encrypted());
        }
        if node.depth > MAX_DEPTH {
            let flaw = Flaw::TooDeep { of: Structure::DirBlock, depth: node.depth };
            return Err(Error::corrupt(flaw, Place::inode(node.ino)));
        }
        let mut listing = Listing::read(self.run.volume, node.owner());
        // Inodes, and mostly the data, lie in this order; it is the same in every run.
        listing.entries.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        let expected = node.parent.as_ref().map(|p| p.ino);
        if expected.is_some()
            && listing.parent != expected
            && let Some(waiting) = &mut *lock(&self.misplaced)
        {
            waiting.push(Arc::clone(node));
            return Ok(None);
        }
        if !lock(&self.seen).insert(node.ino) {
            return Err(second_name(node.ino));
        }
        let dir = self.visitor.enter(node, node.parent.as_ref().and_then(|p| p.dir()))?;
        let _ = node.dir.set(dir);
        for e in listing.errors {
            self.run.fail(&node.path(), e);
        }
        Ok(Some(listing.entries))
    }

    fn entries(&self, node: &Arc<Node<V::Dir>>, entries: Vec<Entry>, buf: &mut Vec<u8>) {
        let count = entries.len() as u64;
        let mut last_dir = None;
        for (name, ino) in entries {
            if self.run.is_stopped() {
                return;
            }
            // The first of a directory's names here is the one that counts, whichever thread would come first.
            let done = if last_dir == Some(ino) { Err(second_name(ino)) } else { self.one(node, &name, ino, buf) };
            match done {
                Ok(FileType::Directory) => last_dir = Some(ino),
                Ok(_) => {}
                Err(e) => self.run.fail(&node.path_of(&name), e),
            }
        }
        self.run.advance(count);
    }

    fn one(&self, node: &Arc<Node<V::Dir>>, name: &[u8], ino: Ino, buf: &mut Vec<u8>) -> Result<FileType> {
        names::check(name, node.ino)?;
        let volume = self.run.volume;
        let inode = entry_inode(volume, node.ino, ino)?;
        if inode.file_type() != Some(FileType::Directory) {
            let item = Item { name, ino, inode: &inode };
            self.visitor.entry(self, node, &item, buf)?;
            return Ok(FileType::Regular);
        }
        if is_empty_lost_found(volume, node.ino, name, Owner { ino, inode: &inode }) {
            return Ok(FileType::Directory);
        }
        node.hold();
        self.push(Task::Dir(Node::new(Some(Arc::clone(node)), name.to_vec(), ino, inode)));
        Ok(FileType::Directory)
    }

    /// One piece of work of a directory is done; leave it, and its parents, where it was the last.
    pub(super) fn release(&self, node: Arc<Node<V::Dir>>) {
        let mut node = node;
        loop {
            if node.pending.fetch_sub(1, Ordering::AcqRel) != 1 {
                return;
            }
            if let Some(dir) = node.dir()
                && !self.run.is_stopped()
            {
                match self.visitor.leave(&node, dir) {
                    Ok(()) => self.run.copied(FileType::Directory, || node.path()),
                    Err(e) => self.run.fail(&node.path(), e),
                }
            }
            let Some(parent) = node.parent.clone() else { return };
            node = parent;
        }
    }
}

/// Where the last slice of many entries begins: names of one inode stay together.
fn slice_start(entries: &[Entry]) -> usize {
    let mut at = entries.len().saturating_sub(SLICE);
    while at > 0 && entries.get(at).map(|e| e.1) == entries.get(at - 1).map(|e| e.1) {
        at -= 1;
    }
    at
}

struct Busy<'a, D> {
    queue: &'a Mutex<Queue<D>>,
    wake: &'a Condvar,
}

impl<D> Drop for Busy<'_, D> {
    fn drop(&mut self) {
        let mut queue = lock(self.queue);
        queue.active -= 1;
        if queue.active == 0 && queue.tasks.is_empty() {
            self.wake.notify_all();
        }
    }
}

/// The error for a directory that was met before.
pub(super) fn second_name(ino: Ino) -> Error {
    let detail = "a directory has more than one name";
    Error::corrupt(Flaw::Inconsistent { of: Structure::DirBlock, detail }, Place::inode(ino))
}

/// The inode that an entry of directory `dir` names.
pub(super) fn entry_inode(volume: &Volume, dir: Ino, ino: Ino) -> Result<Inode> {
    if ino.0 < volume.geometry().first_ino {
        let flaw = Flaw::Field { of: Structure::DirBlock, field: "inode", value: ino.0.into() };
        return Err(Error::corrupt(flaw, Place::inode(dir)));
    }
    let inode = volume.inode(ino)?;
    if inode.file_type().is_none() {
        let flaw = Flaw::Field { of: Structure::Inode, field: "mode", value: inode.core().mode.get().into() };
        return Err(Error::corrupt(flaw, Place::inode(ino)));
    }
    Ok(inode)
}

/// Whether an entry is the root's own `lost+found` with nothing in it.
pub(super) fn is_empty_lost_found(volume: &Volume, dir: Ino, name: &[u8], owner: Owner<'_>) -> bool {
    if dir != Ino::ROOT || name != b"lost+found" {
        return false;
    }
    let listing = Listing::read(volume, owner);
    listing.entries.is_empty() && listing.errors.is_empty()
}

/// The error for what cannot be read without a key.
pub(super) fn encrypted() -> Error {
    let bit = Incompat::ENCRYPT.bits().trailing_zeros() as u8;
    Error::Unsupported { features: vec![FeatureBit { word: FeatureWord::Incompat, bit, name: Some("encrypt") }] }
}
