//! Copying into a tree of the host.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::data::{self, CopyError};
use super::destination::{Destination, Kind};
use super::entry::{self, Target};
use super::hostdir::{FdCache, HostDir};
use super::links::{Claim, Links, Waiting};
use super::meta::{Identity, Meta, host_error};
use super::run::{Report, Run};
use super::walk::{Item, Node, Visitor, Walk};
use super::{Extractor, Source, names};
use crate::error::{Error, Result};
use crate::format::inode::FileType;

type Dir = Arc<HostDir>;

/// A directory whose metadata waits for the end: its permissions would lock out whoever copies.
struct Deferred {
    dir: Dir,
    meta: Meta,
    path: Vec<u8>,
}

/// The visitor that makes files of the host.
struct Copier<'r> {
    run: &'r Run<'r>,
    me: Identity,
    cache: FdCache,
    links: Links<Dir>,
    /// Where the source that is walked goes.
    root: Mutex<Option<Place>>,
    deferred: Mutex<Vec<Deferred>>,
}

/// Where the top directory of a source goes.
#[derive(Clone)]
enum Place {
    /// Its content goes into this directory.
    Into(Dir),
    /// It becomes this name in this directory.
    Named(Dir, Vec<u8>),
}

pub(super) fn copy(extractor: &Extractor<'_>, sources: &[Source], destination: &Destination) -> Result<Report> {
    let run = Run::new(extractor);
    let whole = matches!(sources, [one] if one.ino == crate::units::Ino::ROOT);
    run.begin("copying out", whole);
    let copier = Copier {
        run: &run,
        me: Identity::of_process(),
        cache: FdCache::new(),
        links: Links::new(),
        root: Mutex::default(),
        deferred: Mutex::default(),
    };
    for source in sources {
        if let Err(e) = copier.source(source, destination) {
            run.fail(&source.path, e);
        }
        if run.is_stopped() {
            break;
        }
    }
    copier.finish_deferred();
    drop(copier);
    run.finish()
}

impl Copier<'_> {
    fn source(&self, source: &Source, destination: &Destination) -> Result<()> {
        if source.inode.file_type() == Some(FileType::Directory) {
            if !self.run.options.recursive {
                return Err(Error::IsDirectory { path: source.path.clone() });
            }
            let place = Self::place(source.base_name(), destination)?;
            *self.root.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
            Walk::new(self.run, self).tree(&source.path, source.ino, &source.inode);
            return Ok(());
        }
        if matches!(destination.kind, Kind::Other) && source.inode.file_type() == Some(FileType::Regular) {
            return self.overwrite(source, destination);
        }
        let (dir, name) = match Self::place(source.base_name(), destination)? {
            Place::Named(dir, name) => (dir, name),
            Place::Into(_) => return Err(Error::NotDirectory { path: source.path.clone() }),
        };
        let fd = dir.fd(&self.cache).map_err(|e| host_error("open the parent of", source.path.clone(), e))?;
        let path = || source.path.clone();
        let target = Target { dir: &dir, fd: fd.as_fd(), name: &name, path: &path };
        let item = Item { name: &name, ino: source.ino, inode: &source.inode };
        self.file(&target, &dir, &item, None, &mut Vec::new()).map(|_| ())
    }

    /// Where a source of this name goes.
    fn place(base_name: Option<&[u8]>, destination: &Destination) -> Result<Place> {
        let failed = |op, e| Error::host(op, &destination.path, e);
        let base = |fd: &OwnedFd| {
            let fd = fd.try_clone().map_err(|e| Error::host("open", &destination.path, e))?;
            HostDir::base(fd, false).map_err(|e| failed("stat", e))
        };
        match (&destination.kind, base_name) {
            (Kind::Directory(fd), None) => Ok(Place::Into(base(fd)?)),
            (Kind::Directory(fd), Some(name)) => {
                names::check(name, crate::units::Ino(0))?;
                Ok(Place::Named(base(fd)?, name.to_vec()))
            }
            (Kind::New(fd, name), _) => Ok(Place::Named(base(fd)?, name.clone())),
            (Kind::Other, _) => Err(failed("copy over", Errno::NOTDIR)),
        }
    }

    /// Write a file's content into something that the user named and that is there, as cp does: a file, a pipe, `/dev/stdout`.
    fn overwrite(&self, source: &Source, destination: &Destination) -> Result<()> {
        let failed = |op, e| Error::host(op, &destination.path, e);
        let item = Item { name: b"", ino: source.ino, inode: &source.inode };
        let reader = data::open(self.run, item.owner())?;
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = rustix::fs::open(&destination.path, flags, Mode::empty()).map_err(|e| failed("open", e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| failed("stat", e))?;
        let mut buf = Vec::new();
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            let file = std::fs::File::from(fd);
            data::stream_to(self.run, &reader, &file, &mut buf)
                .map_err(|e| data_error(e, || destination.path.clone()))?;
            self.run.copied(FileType::Regular, || source.path.clone());
            return Ok(());
        }
        data::write_to(self.run, &reader, fd.as_fd(), &mut buf)
            .map_err(|e| data_error(e, || destination.path.clone()))?;
        let meta = Meta::of(self.run, item.owner(), || source.path.clone());
        meta.apply_to_existing(self.run, &self.me, fd.as_fd()).map_err(|(op, e)| failed(op, e))?;
        self.run.copied(FileType::Regular, || source.path.clone());
        Ok(())
    }

    /// Make a file, or a further name of one. `node` is the directory of the walk; a source has none.
    fn file(
        &self,
        target: &Target<'_>,
        dir: &Dir,
        item: &Item<'_>,
        node: Option<&Arc<Node<Dir>>>,
        buf: &mut Vec<u8>,
    ) -> Result<Vec<Waiting<Dir>>> {
        let (run, me) = (self.run, &self.me);
        if !run.options.preserve.links || item.inode.core().links_count.get() < 2 {
            entry::create(run, me, target, item, buf)?;
            return Ok(Vec::new());
        }
        match self.links.claim(item.ino, node.map(|n| (n, item.name))) {
            Claim::Wait => Ok(Vec::new()),
            Claim::Link(from, name) => {
                let fd = from.fd(&self.cache).map_err(|e| host_error("open the directory of", (target.path)(), e))?;
                entry::link(run, target, fd.as_fd(), &name)?;
                Ok(Vec::new())
            }
            Claim::Failed => Err(host_error("link", (target.path)(), Errno::NOENT)),
            Claim::Make => match entry::create(run, me, target, item, buf) {
                Ok(true) => Ok(self.links.made(item.ino, Arc::clone(dir), target.name.to_vec())),
                Ok(false) => Ok(self.links.failed(item.ino)),
                Err(e) => {
                    run.fail(&(target.path)(), e);
                    Ok(self.links.failed(item.ino))
                }
            },
        }
    }

    /// Make the names that waited for a file.
    fn waiting(&self, walk: &Walk<'_, Self>, item: &Item<'_>, waiting: Vec<Waiting<Dir>>, buf: &mut Vec<u8>) {
        for w in waiting {
            let again = Item { name: &w.name, ..*item };
            if let Err(e) = self.below(walk, &w.node, &again, buf) {
                self.run.fail(&w.node.path_of(&w.name), e);
            }
            walk.release(w.node);
        }
    }

    /// Make an entry of a directory of the walk.
    fn below(&self, walk: &Walk<'_, Self>, node: &Arc<Node<Dir>>, item: &Item<'_>, buf: &mut Vec<u8>) -> Result<()> {
        let Some(dir) = node.dir() else { return Ok(()) };
        let path = || node.path_of(item.name);
        let fd = dir.fd(&self.cache).map_err(|e| host_error("open the directory of", path(), e))?;
        let target = Target { dir, fd: fd.as_fd(), name: item.name, path: &path };
        let waiting = self.file(&target, dir, item, Some(node), buf)?;
        self.waiting(walk, item, waiting, buf);
        Ok(())
    }

    /// Set the metadata of directories that had to wait, the deepest first.
    fn finish_deferred(&self) {
        let all = std::mem::take(&mut *self.deferred.lock().unwrap_or_else(PoisonError::into_inner));
        for d in all {
            if let Err(e) = self.finish(&d.dir, &d.meta, || d.path.clone()) {
                self.run.fail(&d.path, e);
            }
        }
    }

    fn finish(&self, dir: &Dir, meta: &Meta, path: impl Fn() -> Vec<u8>) -> Result<()> {
        let fd = dir.fd(&self.cache).map_err(|e| host_error("open", path(), e))?;
        meta.apply_to_directory(self.run, &self.me, fd.as_fd(), dir.fresh).map_err(|(op, e)| host_error(op, path(), e))
    }
}

fn data_error(e: CopyError, path: impl FnOnce() -> PathBuf) -> Error {
    match e {
        CopyError::Image(e) => e,
        CopyError::Host(op, errno) => Error::host(op, path(), errno),
    }
}

impl Visitor for Copier<'_> {
    type Dir = Dir;

    fn enter(&self, node: &Node<Dir>, parent: Option<&Dir>) -> Result<Dir> {
        let (above, name) = match parent {
            Some(parent) => (Arc::clone(parent), node.name.clone()),
            None => match self.root.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                Some(Place::Into(dir)) => return Ok(dir),
                Some(Place::Named(dir, name)) => (dir, name),
                None => return Err(Error::NotFound { path: node.path() }),
            },
        };
        let keep_acl = !self.run.options.preserve.mode;
        HostDir::make(&above, &self.cache, &name, keep_acl).map_err(|e| match e.errno {
            Errno::EXIST => Error::Exists { path: node.path() },
            errno => host_error(e.op, node.path(), errno),
        })
    }

    fn entry(&self, walk: &Walk<'_, Self>, dir: &Arc<Node<Dir>>, item: &Item<'_>, buf: &mut Vec<u8>) -> Result<()> {
        self.below(walk, dir, item, buf)
    }

    fn leave(&self, node: &Node<Dir>, dir: &Dir) -> Result<()> {
        let preserve = self.run.options.preserve;
        if !(dir.fresh || preserve.mode || preserve.owner || preserve.times) {
            return Ok(());
        }
        let meta = Meta::of(self.run, node.owner(), || node.path());
        if self.me.is_bound_by_modes() && meta.locks_out_owner() {
            let deferred = Deferred { dir: Arc::clone(dir), meta, path: node.path() };
            self.deferred.lock().unwrap_or_else(PoisonError::into_inner).push(deferred);
            return Ok(());
        }
        self.finish(dir, &meta, || node.path())
    }
}
