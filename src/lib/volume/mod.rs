//! An opened filesystem: geometry, groups, inodes, block maps, directories, extended attributes, path look-up.
//!
//! [`Volume`] is read-only state over a [`BlockDevice`]; all methods take `&self` and may be called from many
//! threads. It caches the superblock and the group descriptors, nothing else. Damage found on the way is
//! [`Error::Corrupt`] with the place; checksums are compared unless [`OpenOptions::verify_checksums`] is off.
//!
//! Changes go through the traits of [`store`], which the rooms above implement; this room plans, it does not write.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod bitmaps;
mod block_map;
pub mod credits;
mod dir;
mod dir_edit;
mod dir_index;
pub mod dir_plan;
pub mod edit;
mod extent_edit;
pub mod extent_plan;
mod file;
mod geometry;
pub mod indirect_edit;
mod inline_edit;
mod inode_edit;
mod map_edit;
mod open;
mod path;
pub mod quota;
pub mod store;
mod xattr;
mod xattr_edit;
pub mod xattr_plan;

use std::borrow::Cow;
use std::sync::Arc;

pub use block_map::{MapEvent, MapKind, Mapping, Owner};
pub(crate) use dir::is_index_block;
pub use dir::{DirEntry, EntryPlace, NamedEntry};
pub use edit::{Edit, OpenInode};
pub use extent_edit::Cut;
pub use file::{FileReader, Segment};
pub use geometry::Geometry;
pub use inode_edit::{NewInode, inherited_flags, inherited_group};
pub use map_edit::Wanted;
pub use open::{DirtyJournal, OpenOptions};
pub use path::LastLink;
pub use xattr::{NamedXattr, XattrPlace};

use crate::device::BlockDevice;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::group_desc::{BgFlags, GroupDesc};
use crate::format::inode::Inode;
use crate::format::superblock::Superblock;
use crate::units::{Fsblk, Group, Ino};

/// An opened filesystem.
pub struct Volume {
    dev: Arc<dyn BlockDevice>,
    sb: Superblock,
    geo: Geometry,
    /// Group descriptors as on disk, `geo.desc_size` bytes each.
    gdt: Vec<u8>,
    verify: bool,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume").field("geometry", &self.geo).finish_non_exhaustive()
    }
}

impl Volume {
    /// The device.
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.dev
    }

    /// The superblock as it was read.
    pub const fn superblock(&self) -> &Superblock {
        &self.sb
    }

    /// The geometry.
    pub const fn geometry(&self) -> &Geometry {
        &self.geo
    }

    /// Whether checksums are compared.
    pub const fn verifies_checksums(&self) -> bool {
        self.verify
    }

    /// The bytes of a group descriptor.
    pub fn raw_group(&self, group: Group) -> Result<&[u8]> {
        let size = usize::from(self.geo.desc_size);
        let start = (group.0 as usize).saturating_mul(size);
        self.gdt.get(start..start.saturating_add(size)).ok_or(Error::InvalidArgument {
            name: "group",
            value: group.to_string(),
            allowed: "below the number of groups",
        })
    }

    /// A group descriptor.
    pub fn group(&self, group: Group) -> Result<GroupDesc> {
        GroupDesc::decode(self.raw_group(group)?)
    }

    /// One block's bytes: borrowed where the device is in memory, else read.
    pub fn block(&self, block: Fsblk) -> Result<Cow<'_, [u8]>> {
        self.blocks(block, 1)
    }

    /// The bytes of `count` blocks from `block` on. The count is checked against the filesystem before anything is
    /// allocated.
    pub fn blocks(&self, block: Fsblk, count: u32) -> Result<Cow<'_, [u8]>> {
        self.check_range(block, count.into())?;
        let len = (self.geo.block_size as usize).saturating_mul(count as usize);
        self.bytes(self.geo.byte_of(block), len)
    }

    /// `len` bytes from byte `offset` of the filesystem: borrowed where the device is in memory, else read. The
    /// caller has checked that `len` is reasonable.
    fn bytes(&self, offset: u64, len: usize) -> Result<Cow<'_, [u8]>> {
        if let Some(bytes) = self.dev.slice(offset, len) {
            return Ok(Cow::Borrowed(bytes));
        }
        let mut buf = vec![0; len];
        self.dev.read_at(offset, &mut buf)?;
        Ok(Cow::Owned(buf))
    }

    /// Read whole blocks into `buf`, whose length is a multiple of the block size.
    pub fn read_blocks(&self, block: Fsblk, buf: &mut [u8]) -> Result<()> {
        let count = (buf.len() as u64).div_ceil(self.geo.block_size.into());
        self.check_range(block, count)?;
        self.dev.read_at(self.geo.byte_of(block), buf)
    }

    fn check_range(&self, block: Fsblk, count: u64) -> Result<()> {
        // The blocks before the first data block (a boot block) can be read as well.
        let end = block.0.saturating_add(count);
        if end <= self.geo.blocks_count {
            return Ok(());
        }
        Err(Error::InvalidArgument {
            name: "block",
            value: end.saturating_sub(1).to_string(),
            allowed: "below the number of blocks",
        })
    }

    /// Byte offset of an inode's slot from the start of the filesystem, and the block it is in.
    pub fn inode_offset(&self, ino: Ino) -> Result<(u64, Fsblk)> {
        let (group, index) = self.geo.inode_place(ino)?;
        let table = self.group(group)?.inode_table();
        let byte = u64::from(index).saturating_mul(self.geo.inode_size.into());
        let block = table.saturating_add(byte.wrapping_shr(self.geo.block_bits));
        if !self.geo.has_block(block) {
            let flaw = Flaw::BlockOutOfRange { of: Structure::GroupDesc, block };
            return Err(Error::corrupt(flaw, Place::group(group)));
        }
        Ok((self.geo.byte_of(table).saturating_add(byte), block))
    }

    /// An inode as it is on disk; its checksum is not compared.
    pub fn raw_inode(&self, ino: Ino) -> Result<Inode> {
        let (offset, _) = self.inode_offset(ino)?;
        Inode::decode(&self.bytes(offset, usize::from(self.geo.inode_size))?)
    }

    /// An inode, with its checksum compared (unless that is switched off).
    pub fn inode(&self, ino: Ino) -> Result<Inode> {
        let inode = self.raw_inode(ino)?;
        if self.verify {
            let (_, block) = self.inode_offset(ino)?;
            inode.verify_checksum(self.geo.checksums, ino).map_err(|e| e.at(Place::block(block)))?;
        }
        Ok(inode)
    }

    /// The checksum seed for structures that belong to an inode, where there is one and checksums are compared.
    fn verify_seed(&self, ino: Ino, inode: &Inode) -> Option<u32> {
        if self.verify { self.inode_seed(ino, inode) } else { None }
    }

    /// The checksum seed for structures that belong to an inode; `None` without `metadata_csum`.
    pub fn inode_seed(&self, ino: Ino, inode: &Inode) -> Option<u32> {
        self.geo.checksums.inode_seed(ino, inode.core().generation.get())
    }

    /// Whether a group's block bitmap was never written (only its own metadata is in use).
    pub fn is_block_uninit(&self, desc: &GroupDesc) -> bool {
        self.geo.checksums.has_group_desc_csum() && desc.bg_flags().contains(BgFlags::BLOCK_UNINIT)
    }

    /// Whether a group's inode bitmap and table were never written (no inode is in use).
    pub fn is_inode_uninit(&self, desc: &GroupDesc) -> bool {
        self.geo.checksums.has_group_desc_csum() && desc.bg_flags().contains(BgFlags::INODE_UNINIT)
    }
}
