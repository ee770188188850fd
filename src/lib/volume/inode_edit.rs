//! New inodes: a number, and every field that does not come from content. Times are the caller's.
//!
//! What a new inode inherits from its directory: flags (only those that its type may have), with `PROJINHERIT` the
//! project, with setgid the group.

use super::edit::{Edit, OpenInode};
use super::store::InodeRequest;
use crate::env::Timestamp;
use crate::error::Result;
use crate::format::dirhash::{DirHasher, HashVersion};
use crate::format::features::{Incompat, RoCompat};
use crate::format::inode::{EXTRA_KNOWN, FileType, GOOD_OLD_SIZE, Inode, InodeFlags, TimeField};
use crate::units::Ino;

/// What a new inode is to be.
#[derive(Clone, Copy, Debug)]
pub struct NewInode<'a> {
    /// What it is.
    pub kind: FileType,
    /// Permissions with setuid, setgid and sticky.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// All four times.
    pub when: Timestamp,
    /// Generation.
    pub generation: u32,
    /// The name it will have, which decides where a top-level directory goes.
    pub name: &'a [u8],
}

/// Flags that everything inherits from its directory.
#[doc(alias = "EXT4_FL_INHERITED")]
const INHERITED: InodeFlags = InodeFlags::SECRM
    .union(InodeFlags::UNRM)
    .union(InodeFlags::COMPR)
    .union(InodeFlags::SYNC)
    .union(InodeFlags::NODUMP)
    .union(InodeFlags::NOATIME)
    .union(InodeFlags::NOCOMPR)
    .union(InodeFlags::JOURNAL_DATA)
    .union(InodeFlags::NOTAIL)
    .union(InodeFlags::DIRSYNC)
    .union(InodeFlags::PROJINHERIT)
    .union(InodeFlags::CASEFOLD)
    .union(InodeFlags::DAX);

/// The flags of a new inode in a directory with flags `parent`.
#[doc(alias = "ext4_mask_flags")]
pub fn inherited_flags(parent: InodeFlags, kind: FileType) -> InodeFlags {
    let all = parent & INHERITED;
    match kind {
        FileType::Directory => all,
        FileType::Regular => {
            let dirs_only = InodeFlags::DIRSYNC | InodeFlags::TOPDIR | InodeFlags::CASEFOLD | InodeFlags::PROJINHERIT;
            all.difference(dirs_only)
        }
        _ => all & (InodeFlags::NODUMP | InodeFlags::NOATIME),
    }
}

/// Permissions and group of a new inode, where its directory has setgid.
#[doc(alias = "inode_init_owner")]
pub fn inherited_group(parent: &OpenInode, kind: FileType, permissions: u16, gid: u32) -> (u16, u32) {
    const SETGID: u16 = 0o2000;
    if parent.inode.permissions() & SETGID == 0 {
        return (permissions, gid);
    }
    let permissions = if kind == FileType::Directory { permissions | SETGID } else { permissions };
    (permissions, parent.inode.gid())
}

impl Edit<'_> {
    /// Make an inode in `parent`: number allocated, fields set, one link, no content, stored nowhere yet. Directories,
    /// regular files and symlinks have an empty block map.
    ///
    /// # Errors
    /// [`crate::Error::NoSpace`] where there is no inode.
    #[doc(alias = "ext4_new_inode")]
    pub fn new_inode(&mut self, parent: &OpenInode, new: &NewInode<'_>) -> Result<OpenInode> {
        let directory = new.kind == FileType::Directory;
        let request = InodeRequest {
            parent: parent.ino,
            directory,
            spread: parent.ino == Ino::ROOT || parent.has(InodeFlags::TOPDIR),
            name_hash: if directory { self.placement_hash(new.name)? } else { 0 },
        };
        let ino = self.alloc.allocate_inode(self.vol, self.store, request)?;
        let geo = &self.vol.geo;
        let mut inode = Inode::empty(geo.inode_size);
        inode.update(|c| {
            if usize::from(geo.inode_size) > GOOD_OLD_SIZE {
                c.extra_isize.set(self.wanted_extra_isize());
            }
            c.mode.set(new.kind.mode_bits() | (new.permissions & 0o7777));
            c.links_count.set(1);
            c.generation.set(new.generation);
        });
        inode.set_owner(new.uid, new.gid);
        for field in [TimeField::Access, TimeField::Change, TimeField::Modify, TimeField::Create] {
            inode.set_time(field, new.when);
        }
        inode.set_flags(inherited_flags(parent.inode.flags(), new.kind));
        if geo.features.ro_compat.contains(RoCompat::PROJECT) && parent.has(InodeFlags::PROJINHERIT) {
            let project = parent.inode.core().projid;
            inode.update(|c| c.projid = project);
        }
        let mut o = OpenInode { ino, inode };
        let mapped = matches!(new.kind, FileType::Directory | FileType::Regular | FileType::Symlink);
        if mapped && geo.features.incompat.contains(Incompat::EXTENTS) {
            self.init_extents(&mut o);
        }
        Ok(o)
    }

    /// Bytes of extra fields in new inodes: what this library knows, or more where the filesystem asks for it.
    #[doc(alias = "s_want_extra_isize")]
    fn wanted_extra_isize(&self) -> u16 {
        let sb = &self.vol.sb;
        let room = self.vol.geo.inode_size.saturating_sub(GOOD_OLD_SIZE as u16);
        let asked = if self.vol.geo.features.ro_compat.contains(RoCompat::EXTRA_ISIZE) {
            sb.want_extra_isize.get().max(sb.min_extra_isize.get())
        } else {
            0
        };
        let want = asked.max(EXTRA_KNOWN);
        if want <= room && want.is_multiple_of(4) { want } else { EXTRA_KNOWN.min(room) }
    }

    /// The hash that decides where a top-level directory goes.
    fn placement_hash(&self, name: &[u8]) -> Result<u32> {
        let seed = self.vol.sb.hash_seed.map(crate::format::U32::get);
        Ok(DirHasher::new(HashVersion::HalfMd4, seed).hash(name)?.hash)
    }
}
