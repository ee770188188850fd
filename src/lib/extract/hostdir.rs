//! Directories of the host that a copy fills, each opened below its parent, never by a path.
//!
//! A directory keeps its file descriptor while it is in use; beyond a number of them the oldest are closed, and opened
//! again from the nearest ancestor that is still open. What is opened again is compared with what was made (device and
//! inode number), and a symbolic link is never followed: whoever moves things about in the destination meanwhile makes
//! the copy fail, not go elsewhere.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Resource;

/// The default of the host's own attribute for lists that new files inherit.
const DEFAULT_ACL: &str = "system.posix_acl_default";
const ACCESS_ACL: &str = "system.posix_acl_access";

/// A directory of the host.
pub(super) struct HostDir {
    parent: Option<Arc<Self>>,
    name: Vec<u8>,
    id: (u64, u64),
    fd: Mutex<Option<Arc<OwnedFd>>>,
    /// Made by this copy: what is in it was made by this copy too.
    pub fresh: bool,
    /// The group that new files in it get.
    pub gives_group: Option<u32>,
    /// New files in it inherit an access control list.
    pub gives_acl: bool,
}

/// Why a directory could not be made or opened.
pub(super) struct DirError {
    /// What was being done.
    pub op: &'static str,
    /// Why it failed.
    pub errno: Errno,
}

/// Closes directories when too many are open.
pub(super) struct FdCache {
    open: Mutex<VecDeque<Weak<HostDir>>>,
    limit: usize,
}

impl FdCache {
    /// A cache that leaves enough descriptors for everything else.
    pub(super) fn new() -> Self {
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(1024);
        Self { open: Mutex::default(), limit: usize::try_from(limit / 2).unwrap_or(512).clamp(4, 512) }
    }

    /// A new descriptor is open; close the oldest where there are too many.
    fn add(&self, dir: &Arc<HostDir>) {
        let oldest = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.push_back(Arc::downgrade(dir));
            if open.len() > self.limit { open.pop_front() } else { None }
        };
        if let Some(dir) = oldest.and_then(|d| d.upgrade()) {
            dir.slot().take();
        }
    }
}

impl HostDir {
    /// The directory that a copy begins in. Stays open.
    pub(super) fn base(fd: OwnedFd, fresh: bool) -> Result<Arc<Self>, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        let gives_acl = rustix::fs::fgetxattr_query(&fd, DEFAULT_ACL).is_ok_and(|n| n > 0);
        Ok(Arc::new(Self {
            parent: None,
            name: Vec::new(),
            id: (stat.st_dev, stat.st_ino),
            fd: Mutex::new(Some(Arc::new(fd))),
            fresh,
            gives_group: group_given(&stat),
            gives_acl,
        }))
    }

    /// Make a directory, or take the one that is there unless this copy made it. `keep_acl` leaves it the list that it
    /// inherits.
    pub(super) fn make(
        parent: &Arc<Self>,
        cache: &FdCache,
        name: &[u8],
        keep_acl: bool,
    ) -> Result<Arc<Self>, DirError> {
        let failed = |op| move |errno| DirError { op, errno };
        let above = parent.fd(cache).map_err(failed("open the parent of"))?;
        let fresh = match rustix::fs::mkdirat(&above, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) if !parent.fresh => false,
            Err(errno) => return Err(DirError { op: "make", errno }),
        };
        let fd = open_below(&above, name).map_err(failed("open"))?;
        let stat = rustix::fs::fstat(&fd).map_err(failed("stat"))?;
        let mut gives_acl =
            if fresh { parent.gives_acl } else { rustix::fs::fgetxattr_query(&fd, DEFAULT_ACL).is_ok_and(|n| n > 0) };
        if fresh && gives_acl && !keep_acl {
            for name in [DEFAULT_ACL, ACCESS_ACL] {
                ignore_missing(rustix::fs::fremovexattr(&fd, name)).map_err(failed("remove the inherited list of"))?;
            }
            gives_acl = false;
        }
        let dir = Arc::new(Self {
            parent: Some(Arc::clone(parent)),
            name: name.to_vec(),
            id: (stat.st_dev, stat.st_ino),
            fd: Mutex::new(Some(Arc::new(fd))),
            fresh,
            gives_group: group_given(&stat),
            gives_acl,
        });
        cache.add(&dir);
        Ok(dir)
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.fd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its descriptor, opened again where it was closed.
    pub(super) fn fd(self: &Arc<Self>, cache: &FdCache) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = &*self.slot() {
            return Ok(Arc::clone(fd));
        }
        let mut closed = vec![Arc::clone(self)];
        let mut fd = loop {
            let above = closed.last().and_then(|d| d.parent.clone()).ok_or(Errno::BADF)?;
            let open = above.slot().clone();
            match open {
                Some(fd) => break fd,
                None => closed.push(above),
            }
        };
        for dir in closed.into_iter().rev() {
            let opened = open_below(&fd, &dir.name)?;
            let stat = rustix::fs::fstat(&opened)?;
            if (stat.st_dev, stat.st_ino) != dir.id {
                return Err(Errno::STALE);
            }
            fd = Arc::new(opened);
            *dir.slot() = Some(Arc::clone(&fd));
            cache.add(&dir);
        }
        Ok(fd)
    }
}

impl Drop for HostDir {
    /// A long chain of parents goes one by one, not one inside the other.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut dir) = next.and_then(Arc::into_inner) {
            next = dir.parent.take();
        }
    }
}

/// The group that new files in a directory are known to get, where that is not simply the caller's.
fn group_given(stat: &rustix::fs::Stat) -> Option<u32> {
    let caller = rustix::process::getegid().as_raw();
    (stat.st_gid != caller || stat.st_mode & 0o2000 != 0).then_some(stat.st_gid)
}

fn open_below(above: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty())
}

/// Take away what is in the way of a new file: anything but a directory.
pub(super) fn remove_old(dir: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    rustix::fs::unlinkat(&dir, name, AtFlags::empty())
}

/// Take the inherited access control list from a new file.
pub(super) fn remove_acl(fd: impl AsFd) -> Result<(), Errno> {
    ignore_missing(rustix::fs::fremovexattr(fd, ACCESS_ACL))
}

/// The same for something that is not opened; `path` must not lead through anything that can be replaced.
pub(super) fn remove_acl_of_name(path: &[u8]) -> Result<(), Errno> {
    ignore_missing(rustix::fs::lremovexattr(path, ACCESS_ACL))
}

fn ignore_missing(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}
