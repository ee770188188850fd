//! Making one file of the host: regular file, symbolic link, device, fifo, socket, or a further name.
//!
//! Everything is made by name below an open directory and must be new: in a directory that was there before the copy
//! something in the way is removed first; in one that the copy made it is an error, because then the image holds the
//! name twice (or the host does not tell names apart that the image does).

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::data::{self, CopyError};
use super::hostdir::{self, HostDir};
use super::meta::{Identity, Meta, host_error};
use super::run::{Note, Run};
use super::walk::{self, Item};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::inode::{FileType, InodeFlags};

/// Where something is made: a directory of the host, open, and the name in it.
pub(super) struct Target<'a> {
    pub dir: &'a HostDir,
    pub fd: BorrowedFd<'a>,
    pub name: &'a [u8],
    /// The path in the image, for messages.
    pub path: &'a dyn Fn() -> Vec<u8>,
}

impl Target<'_> {
    fn error(&self, op: &'static str, errno: Errno) -> Error {
        host_error(op, (self.path)(), errno)
    }

    /// Make something new with `make`, after removing what is in the way where that is allowed.
    fn make<T>(&self, op: &'static str, make: impl Fn() -> Result<T, Errno>) -> Result<T> {
        match make() {
            Err(Errno::EXIST) if !self.dir.fresh => {
                hostdir::remove_old(self.fd, self.name).map_err(|e| self.error("replace", e))?;
                make().map_err(|e| self.error(op, e))
            }
            Err(Errno::EXIST) => Err(Error::Exists { path: (self.path)() }),
            other => other.map_err(|e| self.error(op, e)),
        }
    }
}

/// Make what `item` is, but for a directory. Whether it was made: devices are skipped where the host does not allow them.
pub(super) fn create(
    run: &Run<'_>,
    me: &Identity,
    target: &Target<'_>,
    item: &Item<'_>,
    buf: &mut Vec<u8>,
) -> Result<bool> {
    let kind = match item.inode.file_type() {
        Some(FileType::Regular) => {
            regular(run, me, target, item, buf)?;
            FileType::Regular
        }
        Some(FileType::Symlink) => {
            symlink(run, me, target, item)?;
            FileType::Symlink
        }
        Some(FileType::Directory) | None => return Err(Error::IsDirectory { path: (target.path)() }),
        Some(kind) => {
            if !special(run, me, target, item, kind)? {
                return Ok(false);
            }
            kind
        }
    };
    run.copied(kind, target.path);
    Ok(true)
}

fn regular(run: &Run<'_>, me: &Identity, target: &Target<'_>, item: &Item<'_>, buf: &mut Vec<u8>) -> Result<()> {
    // All that can be wrong with the map comes out before anything is made.
    let reader = data::open(run, item.owner())?;
    let meta = Meta::of(run, item.owner(), target.path);
    let mode = meta.create_mode(run, me, target.dir);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(target.fd, target.name, flags, Mode::from_raw_mode(mode));
    let fd = target.make("create", open)?;
    if let Err(e) = data::write_to(run, &reader, fd.as_fd(), buf) {
        // Half a file must not look like a whole one.
        let _ = rustix::fs::unlinkat(target.fd, target.name, AtFlags::empty());
        return Err(match e {
            CopyError::Image(e) => e,
            CopyError::Host(op, errno) => target.error(op, errno),
        });
    }
    meta.apply_to_file(run, me, target.dir, fd.as_fd(), mode).map_err(|(op, e)| target.error(op, e))
}

/// Where a symbolic link leads, refusing what the host could not hold.
pub(super) fn symlink_target(run: &Run<'_>, item: &Item<'_>) -> Result<Vec<u8>> {
    if item.inode.flags().contains(InodeFlags::ENCRYPT) {
        return Err(walk::encrypted());
    }
    let to = run.volume.symlink_target(item.owner())?;
    if to.contains(&0) {
        let flaw = Flaw::Inconsistent { of: Structure::Symlink, detail: "its target holds NUL" };
        return Err(Error::corrupt(flaw, Place::inode(item.ino)));
    }
    Ok(to)
}

fn symlink(run: &Run<'_>, me: &Identity, target: &Target<'_>, item: &Item<'_>) -> Result<()> {
    let to = symlink_target(run, item)?;
    target.make("make", || rustix::fs::symlinkat(&to[..], target.fd, target.name))?;
    let meta = Meta::of(run, item.owner(), target.path);
    meta.apply_to_name(run, me, (target.dir, target.fd), target.name, None).map_err(|(op, e)| target.error(op, e))
}

fn special(run: &Run<'_>, me: &Identity, target: &Target<'_>, item: &Item<'_>, kind: FileType) -> Result<bool> {
    use rustix::fs::FileType as Host;
    let (host, is_device) = match kind {
        FileType::CharDevice => (Host::CharacterDevice, true),
        FileType::BlockDevice => (Host::BlockDevice, true),
        FileType::Socket => (Host::Socket, false),
        _ => (Host::Fifo, false),
    };
    let (major, minor) = if is_device { item.inode.device_numbers() } else { (0, 0) };
    let meta = Meta::of(run, item.owner(), target.path);
    let mode = meta.create_mode(run, me, target.dir);
    let device = rustix::fs::makedev(major, minor);
    let made = target.make("make", || {
        match rustix::fs::mknodat(target.fd, target.name, host, Mode::from_raw_mode(mode), device) {
            Err(Errno::PERM) if is_device => Ok(false),
            other => other.map(|()| true),
        }
    })?;
    if !made {
        run.skip(Note::DevicesSkipped);
        return Ok(false);
    }
    meta.apply_to_name(run, me, (target.dir, target.fd), target.name, Some(mode))
        .map_err(|(op, e)| target.error(op, e))?;
    Ok(true)
}

/// Give a file that this copy made a further name.
pub(super) fn link(run: &Run<'_>, target: &Target<'_>, from: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    target.make("link", || rustix::fs::linkat(from, name, target.fd, target.name, AtFlags::empty()))?;
    run.linked(target.path);
    Ok(())
}
