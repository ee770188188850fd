//! New objects with a name: files, directories, links of both kinds, devices.

use super::{Namei, acl};
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::format::features::Incompat;
use crate::format::inode::{BLOCK_LEN, FileType, InodeFlags, TimeField};
use crate::units::{Ino, Lblk};
use crate::volume::credits::NEW_INODE;
use crate::volume::edit::OpenInode;
use crate::volume::{LastLink, NewInode, Wanted, inherited_group};

/// Longest target of a symbolic link, bytes.
#[doc(alias = "PATH_MAX")]
const MAX_TARGET: usize = 4095;

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// An empty regular file.
    File,
    /// An empty directory.
    Directory,
    /// A symbolic link to this.
    Symlink(&'a [u8]),
    /// A character or block device.
    Device {
        /// A block device (as opposed to a character device).
        block: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl What<'_> {
    /// Its type.
    pub const fn kind(&self) -> FileType {
        match self {
            Self::File => FileType::Regular,
            Self::Directory => FileType::Directory,
            Self::Symlink(_) => FileType::Symlink,
            Self::Device { block: true, .. } => FileType::BlockDevice,
            Self::Device { .. } => FileType::CharDevice,
            Self::Fifo => FileType::Fifo,
            Self::Socket => FileType::Socket,
        }
    }
}

/// Attributes of a new object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions with setuid, setgid and sticky. Those of symbolic links are always 0777.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Let the directory decide about group (setgid) and access control list (default list), as it does for new files of
    /// a running system. Project and flags are inherited in any case.
    pub inherit: bool,
    /// Access and modification time, where they are not now.
    pub mtime: Option<Timestamp>,
}

impl Attributes {
    /// Root's, with these permissions.
    pub const fn root(permissions: u16) -> Self {
        Self { permissions, uid: 0, gid: 0, inherit: true, mtime: None }
    }
}

impl Namei<'_> {
    /// Make an object called `name` in `dir`.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NotDirectory`], [`Error::InvalidArgument`] for bad names and targets, [`Error::NoSpace`].
    #[doc(alias = "ext4_create")]
    #[doc(alias = "ext4_mkdir")]
    #[doc(alias = "ext4_mknod")]
    #[doc(alias = "ext4_symlink")]
    pub fn make(&mut self, dir: Ino, name: &[u8], what: What<'_>, a: &Attributes) -> Result<OpenInode> {
        let dir = self.open_dir(dir, name)?;
        if self.edit.vol.lookup(dir.owner(), name)?.is_some() {
            return Err(Error::Exists { path: name.to_vec() });
        }
        self.make_in(dir, name, what, a)
    }

    /// [`Namei::make`] for a name that is known not to be there: it is not looked for. In a directory that folds case it is
    /// looked for all the same, because other names may be equal to it.
    ///
    /// # Errors
    /// As [`Namei::make`].
    pub fn make_absent(&mut self, dir: Ino, name: &[u8], what: What<'_>, a: &Attributes) -> Result<OpenInode> {
        let o = self.open_dir(dir, name)?;
        if self.edit.vol.folds_case(o.owner()) {
            return self.make(dir, name, what, a);
        }
        self.make_in(o, name, what, a)
    }

    fn make_in(&mut self, mut dir: OpenInode, name: &[u8], what: What<'_>, a: &Attributes) -> Result<OpenInode> {
        if let What::Symlink(target) = what {
            self.check_target(target)?;
        }
        let credits = self.edit.add_entry_credits(&dir)?.saturating_add(NEW_INODE).saturating_add(8);
        self.begin(credits.saturating_add(self.edit.xattr_credits(&dir, 0)))?;
        let kind = what.kind();
        if kind == FileType::Directory {
            self.edit.add_link(&mut dir)?;
        }
        let mut permissions = if kind == FileType::Symlink { 0o777 } else { a.permissions };
        let mut gid = a.gid;
        let mut lists = acl::Inherited::default();
        if a.inherit && kind != FileType::Symlink {
            lists = acl::inherited(self.edit.vol, &dir, kind, permissions)?;
            permissions = lists.permissions;
        }
        if a.inherit {
            (permissions, gid) = inherited_group(&dir, kind, permissions, gid);
        }
        let generation = self.generation();
        let new = NewInode { kind, permissions, uid: a.uid, gid, when: self.ctx.now, generation, name };
        let mut o = self.edit.new_inode(&dir, &new)?;
        if let Some(t) = a.mtime {
            o.inode.set_time(TimeField::Access, t);
            o.inode.set_time(TimeField::Modify, t);
        }
        match what {
            What::Directory => self.edit.init_dir(&mut o, dir.ino)?,
            What::Symlink(target) => self.write_target(&mut o, target)?,
            What::Device { major, minor, .. } => o.inode.set_device_numbers(major, minor),
            What::File | What::Fifo | What::Socket => {}
        }
        self.put_new(&mut o)?;
        for (index, value) in lists.attributes() {
            self.store_xattr(&mut o, index, b"", Some(&value))?;
        }
        self.edit.add_absent_entry(&mut dir, name, o.ino, kind)?;
        self.put_dir(&mut dir)?;
        Ok(o)
    }

    fn check_target(&self, target: &[u8]) -> Result<()> {
        let longest = MAX_TARGET.min(self.edit.block_size().saturating_sub(1));
        if target.is_empty() || target.len() > longest || target.contains(&0) {
            let value = String::from_utf8_lossy(target).into_owned();
            let allowed = "1 to 4095 bytes without NUL, less than a block";
            return Err(Error::InvalidArgument { name: "target of a symbolic link", value, allowed });
        }
        Ok(())
    }

    /// A short target goes into the inode, a longer one into a block.
    fn write_target(&mut self, o: &mut OpenInode, target: &[u8]) -> Result<()> {
        o.inode.set_size(target.len() as u64);
        if target.len() < BLOCK_LEN {
            let mut area = [0; BLOCK_LEN];
            area[..target.len()].copy_from_slice(target);
            o.set(InodeFlags::EXTENTS, false);
            o.inode.update(|c| c.block = area);
            return Ok(());
        }
        let got = self.edit.allocate_range(o, Wanted { lblk: Lblk(0), len: 1, unwritten: false, ahead: 0 })?;
        let mut bytes = target.to_vec();
        bytes.resize(self.edit.block_size(), 0);
        self.edit.store.create(got.pblk, bytes.into())
    }

    /// Give an object another name.
    ///
    /// # Errors
    /// [`Error::IsDirectory`] for directories, [`Error::Exists`], [`Error::NoSpace`] where it can have no more links.
    #[doc(alias = "ext4_link")]
    pub fn link(&mut self, ino: Ino, dir: Ino, name: &[u8]) -> Result<()> {
        let mut dir = self.open_dir(dir, name)?;
        if self.edit.vol.lookup(dir.owner(), name)?.is_some() {
            return Err(Error::Exists { path: name.to_vec() });
        }
        let mut o = self.edit.open(ino)?;
        let Some(kind) = o.inode.file_type().filter(|k| *k != FileType::Directory) else {
            return Err(Error::IsDirectory { path: name.to_vec() });
        };
        let credits = self.edit.add_entry_credits(&dir)?.saturating_add(2);
        self.begin(credits)?;
        self.edit.add_link(&mut o)?;
        o.inode.set_time(TimeField::Change, self.ctx.now);
        self.edit.add_absent_entry(&mut dir, name, ino, kind)?;
        self.put(&mut o)?;
        self.put_dir(&mut dir)
    }

    /// The directory at `path`, made with all that is missing on the way. Links on the way are followed.
    ///
    /// # Errors
    /// [`Error::NotDirectory`] where something else is in the way.
    pub fn make_path(&mut self, path: &[u8], a: &Attributes) -> Result<Ino> {
        let mut dir = Ino::ROOT;
        let mut done = Vec::new();
        for name in path.split(|b| *b == b'/').filter(|c| !c.is_empty()) {
            done.push(b'/');
            done.extend_from_slice(name);
            match self.edit.vol.resolve(&done, LastLink::Follow) {
                Ok(ino) => {
                    self.open_dir(ino, &done)?;
                    dir = ino;
                }
                Err(Error::NotFound { .. }) if self.lookup(dir, name)?.is_none() => {
                    dir = self.make(dir, name, What::Directory, a).map_err(|e| e.about(&done))?.ino;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(dir)
    }

    /// Whether the filesystem has a feature.
    pub(super) fn has_incompat(&self, feature: Incompat) -> bool {
        self.edit.vol.geometry().features.incompat.contains(feature)
    }
}
