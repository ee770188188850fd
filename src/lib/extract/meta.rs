//! Metadata: from an inode of the image to a file of the host, as far as the host allows.
//!
//! Order matters on the host: giving a file away clears set-id bits and capabilities, and a file without write permission takes no
//! attributes from its owner. So: owner, attributes, permissions, times.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::hostdir::{self, HostDir};
use super::run::{Note, Run, SET_ATTRIBUTE};
use crate::env::Timestamp;
use crate::error::Error;
use crate::format::inode::{Inode, TimeField};
use crate::format::xattr;
use crate::volume::Owner;

/// Who copies, and what the host lets it do.
pub(super) struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    /// Files can be given away, until the host says otherwise.
    gives_away: AtomicBool,
}

impl Identity {
    pub(super) fn of_process() -> Self {
        let uid = rustix::process::geteuid();
        let mut groups: Vec<u32> =
            rustix::process::getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).collect();
        let gid = rustix::process::getegid().as_raw();
        groups.push(gid);
        Self { uid: uid.as_raw(), gid, groups, gives_away: AtomicBool::new(uid.is_root()) }
    }

    /// Whether permissions on directories bind it.
    pub(super) const fn is_bound_by_modes(&self) -> bool {
        self.uid != 0
    }
}

/// Metadata for a file of the host.
pub(super) struct Meta {
    /// Twelve bits.
    mode: u32,
    uid: u32,
    gid: u32,
    times: Timestamps,
    /// Names and values as the host wants them.
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A time for the host. Nanoseconds of a full second or more, which only a damaged inode has and some of which the host takes for
/// commands, become the last one.
fn timespec(t: Timestamp) -> Timespec {
    Timespec { tv_sec: t.sec, tv_nsec: t.nsec.min(999_999_999).into() }
}

impl Meta {
    /// The metadata of an inode. An error in its attributes is told, and it goes without them.
    pub(super) fn of(run: &Run<'_>, owner: Owner<'_>, path: impl Fn() -> Vec<u8>) -> Self {
        let preserve = run.options.preserve;
        let inode: &Inode = owner.inode;
        let mut mode = u32::from(inode.permissions());
        if !preserve.mode {
            mode &= 0o777 & !run.options.umask;
        }
        let mut xattrs = Vec::new();
        if preserve.mode || preserve.xattrs {
            match run.volume.xattrs(owner) {
                Ok(all) => {
                    for x in all {
                        let is_acl = matches!(x.index, xattr::INDEX_POSIX_ACL_ACCESS | xattr::INDEX_POSIX_ACL_DEFAULT);
                        if !(if is_acl { preserve.mode } else { preserve.xattrs }) {
                            continue;
                        }
                        match x.host_value() {
                            Ok(value) => xattrs.push((x.name(), value.into_owned())),
                            Err(e) => run.fail(&path(), e),
                        }
                    }
                }
                Err(e) => run.fail(&path(), e),
            }
        }
        Self {
            mode,
            uid: inode.uid(),
            gid: inode.gid(),
            times: Timestamps {
                last_access: timespec(inode.time(TimeField::Access)),
                last_modification: timespec(inode.time(TimeField::Modify)),
            },
            xattrs,
        }
    }

    /// The mode to create something with: the final one where nothing is to be done before it may be seen, else
    /// one that keeps everybody else out.
    pub(super) fn create_mode(&self, run: &Run<'_>, me: &Identity, dir: &HostDir) -> u32 {
        if self.xattrs.is_empty() && !self.changes_owner(run, me, dir) { self.mode & 0o777 } else { 0o600 }
    }

    /// Whether a new file in `dir` gets another owner or group than it should have.
    fn changes_owner(&self, run: &Run<'_>, me: &Identity, dir: &HostDir) -> bool {
        run.options.preserve.owner && (self.uid != me.uid || self.gid != dir.gives_group.unwrap_or(me.gid))
    }

    /// Give a file to its owner with `chown`; returns the mode that it may have: without the set-id bits where the owner
    /// or group that these speak for could not be kept.
    fn give(
        &self,
        run: &Run<'_>,
        me: &Identity,
        chown: impl Fn(Option<Uid>, Option<Gid>) -> Result<(), Errno>,
    ) -> Result<u32, Errno> {
        if me.gives_away.load(Ordering::Relaxed) {
            match chown(Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid))) {
                // INVAL: an id that a user namespace does not map.
                Err(Errno::INVAL) => {}
                Err(Errno::PERM) => me.gives_away.store(false, Ordering::Relaxed),
                done => return done.map(|()| self.mode),
            }
        }
        let group_kept = me.groups.contains(&self.gid) && chown(None, Some(Gid::from_raw(self.gid))).is_ok();
        if self.uid == me.uid && group_kept {
            return Ok(self.mode);
        }
        run.note(Note::OwnersNotKept);
        Ok(self.mode & !0o6000)
    }

    /// Put everything on an open regular file that was created with `created` as mode.
    pub(super) fn apply_to_file(
        &self,
        run: &Run<'_>,
        me: &Identity,
        dir: &HostDir,
        fd: BorrowedFd<'_>,
        created: u32,
    ) -> Result<(), (&'static str, Errno)> {
        let preserve = run.options.preserve;
        let mut mode = self.mode;
        if self.changes_owner(run, me, dir) {
            mode = self.give(run, me, |u, g| rustix::fs::fchown(fd, u, g)).map_err(|e| ("give away", e))?;
        }
        let inherited = preserve.mode && dir.gives_acl;
        if inherited {
            hostdir::remove_acl(fd).map_err(|e| ("remove the inherited list of", e))?;
        }
        self.set_xattrs(run, |name, value| rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()))?;
        if inherited || mode != created & !run.options.umask {
            rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(|e| ("set the mode of", e))?;
        }
        if preserve.times {
            rustix::fs::futimens(fd, &self.times).map_err(|e| ("set the times of", e))?;
        }
        Ok(())
    }

    /// Whether its owner could not list, change and enter a directory with this mode.
    pub(super) const fn locks_out_owner(&self) -> bool {
        self.mode & 0o700 != 0o700
    }

    /// Put everything on a regular file that was there before; where no metadata is kept it keeps its own.
    pub(super) fn apply_to_existing(
        &self,
        run: &Run<'_>,
        me: &Identity,
        fd: BorrowedFd<'_>,
    ) -> Result<(), (&'static str, Errno)> {
        self.apply_to_directory(run, me, fd, false)
    }

    /// Put everything on a directory: a new one, or (`fresh` false) one that was there and is brought in line.
    pub(super) fn apply_to_directory(
        &self,
        run: &Run<'_>,
        me: &Identity,
        fd: BorrowedFd<'_>,
        fresh: bool,
    ) -> Result<(), (&'static str, Errno)> {
        let preserve = run.options.preserve;
        let mut mode = self.mode;
        if preserve.owner {
            let stat = rustix::fs::fstat(fd).map_err(|e| ("stat", e))?;
            if (stat.st_uid, stat.st_gid) != (self.uid, self.gid) {
                mode = self.give(run, me, |u, g| rustix::fs::fchown(fd, u, g)).map_err(|e| ("give away", e))?;
            }
        }
        self.set_xattrs(run, |name, value| rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()))?;
        if fresh || preserve.mode {
            rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(|e| ("set the mode of", e))?;
        }
        if preserve.times {
            rustix::fs::futimens(fd, &self.times).map_err(|e| ("set the times of", e))?;
        }
        Ok(())
    }

    /// Put everything on something that is not opened: a device, fifo or socket that was created with `created` as
    /// mode, or a symbolic link, which has none.
    pub(super) fn apply_to_name(
        &self,
        run: &Run<'_>,
        me: &Identity,
        dir: (&HostDir, BorrowedFd<'_>),
        name: &[u8],
        created: Option<u32>,
    ) -> Result<(), (&'static str, Errno)> {
        let (dir, fd) = dir;
        let preserve = run.options.preserve;
        let mut mode = self.mode;
        if self.changes_owner(run, me, dir) {
            let chown = |u, g| rustix::fs::chownat(fd, name, u, g, AtFlags::SYMLINK_NOFOLLOW);
            mode = self.give(run, me, chown).map_err(|e| ("give away", e))?;
        }
        let inherited = preserve.mode && dir.gives_acl && created.is_some();
        if inherited || !self.xattrs.is_empty() {
            // There is no system call that takes a directory and a name; the path leads through the open directory.
            let path = [below_proc(fd).as_bytes(), b"/", name].concat();
            if inherited {
                hostdir::remove_acl_of_name(&path).map_err(|e| ("remove the inherited list of", e))?;
            }
            self.set_xattrs(run, |key, value| rustix::fs::lsetxattr(&path[..], key, value, XattrFlags::empty()))?;
        }
        if let Some(created) = created
            && (inherited || mode != created & !run.options.umask)
        {
            set_mode(fd, name, mode).map_err(|e| ("set the mode of", e))?;
        }
        if preserve.times {
            rustix::fs::utimensat(fd, name, &self.times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| ("set the times of", e))?;
        }
        Ok(())
    }

    fn set_xattrs(
        &self,
        run: &Run<'_>,
        set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
    ) -> Result<(), (&'static str, Errno)> {
        for (name, value) in &self.xattrs {
            let is_acl = name.starts_with(b"system.posix_acl_");
            match set(name, value) {
                Ok(()) => {}
                // INVAL: a list with ids that a user namespace does not map; labels of a policy that is not loaded.
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS | Errno::INVAL) if is_acl => {
                    run.note(Note::AclsNotKept);
                }
                Err(Errno::INVAL) if !name.starts_with(b"security.") => {
                    return Err((SET_ATTRIBUTE, Errno::INVAL));
                }
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS | Errno::INVAL) => run.note(Note::XattrsNotKept),
                Err(e) => return Err((SET_ATTRIBUTE, e)),
            }
        }
        Ok(())
    }
}

/// The path of an open file or directory under `/proc`.
fn below_proc(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Set the mode of a name that is no symbolic link (and where it has become one, of nothing).
fn set_mode(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Symlink {
        return Err(Errno::LOOP);
    }
    rustix::fs::chmod(below_proc(fd.as_fd()), Mode::from_raw_mode(mode))
}

/// An error about a file of the host, named by its path in the image.
pub(super) fn host_error(op: &'static str, path: Vec<u8>, errno: Errno) -> Error {
    use std::os::unix::ffi::OsStringExt;
    Error::host(op, PathBuf::from(std::ffi::OsString::from_vec(path)), errno)
}
