//! How many metadata blocks an operation may dirty: what a handle asks for before it starts. Pure; upper bounds, from
//! the state as it is. Units: blocks.
//!
//! Allocating or freeing in one group dirties its bitmap and its descriptor's block. Inodes that the operation stores
//! are counted once each where the text says so.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::edit::{Edit, OpenInode};
use super::{MapEvent, MapKind, dir_plan, extent_plan, indirect_edit, xattr_plan};
use crate::error::Result;
use crate::format::inode::InodeFlags;
use crate::units::{Group, Lblk};

/// A bitmap and a block of descriptors.
const GROUP: u32 = 2;
/// Making an inode: both bitmaps, descriptors, the inode itself, and blocks of the table that are used for the first
/// time.
#[doc(alias = "EXT4_XATTR_TRANS_BLOCKS")]
pub const NEW_INODE: u32 = 6;

impl Edit<'_> {
    /// Allocating and mapping `blocks` blocks in `runs` contiguous runs; the inode included.
    #[doc(alias = "ext4_meta_trans_blocks")]
    pub fn map_credits(&self, o: &OpenInode, runs: u32, blocks: u32) -> Result<u32> {
        let nodes = if self.vol.map_kind(&o.inode) == MapKind::Extents {
            extent_plan::insert_credits(self.extent_depth(o)?, runs)
        } else {
            let size = self.vol.geometry().block_size;
            indirect_edit::insert_credits(size, blocks).saturating_add(runs.saturating_mul(3))
        };
        // Every node may be a new one, in a group of its own.
        let groups = runs.saturating_add(nodes).saturating_mul(GROUP);
        Ok(nodes.saturating_add(groups).saturating_add(1))
    }

    /// Putting a name into a directory; its inode included.
    pub fn add_entry_credits(&self, dir: &OpenInode) -> Result<u32> {
        // An inline directory gets the map it does not have yet.
        let map = if dir.has(InodeFlags::INLINE_DATA) {
            let runs = dir_plan::ADD_BLOCKS;
            runs.saturating_mul(GROUP.saturating_add(2)).saturating_add(2)
        } else {
            self.map_credits(dir, dir_plan::ADD_BLOCKS, dir_plan::ADD_BLOCKS)?
        };
        Ok(map.saturating_add(dir_plan::ADD_CREDITS))
    }

    /// Unmapping and freeing `start..end`; the inode included. Walks the map.
    pub fn remove_credits(&self, o: &OpenInode, start: Lblk, end: u64) -> Result<u32> {
        let (mut nodes, mut groups) = (0u32, BTreeSet::<Group>::new());
        let geo = self.vol.geometry();
        self.vol.walk_map(o.owner(), &mut |event| {
            match event {
                MapEvent::Node { block, lblk, .. } => {
                    // Nodes behind the range stay; those before it may hold part of it.
                    if u64::from(lblk.0) < end {
                        nodes = nodes.saturating_add(1);
                        groups.insert(geo.group_of(block).0);
                    }
                }
                MapEvent::Data(e) if e.end() > u64::from(start.0) && u64::from(e.lblk.0) < end => {
                    let last = e.pblk.saturating_add(u64::from(e.len.saturating_sub(1)));
                    groups.extend((geo.group_of(e.pblk).0.0..=geo.group_of(last).0.0).map(Group));
                }
                MapEvent::Data(_) => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let split = if self.vol.map_kind(&o.inode) == MapKind::Extents { self.map_credits(o, 1, 1)? } else { 1 };
        let groups = u32::try_from(groups.len()).unwrap_or(u32::MAX).saturating_mul(GROUP);
        Ok(nodes.saturating_add(groups).saturating_add(split))
    }

    /// Setting or removing an attribute with a value of `value_len` bytes; the inode included. A value inode that is
    /// replaced adds what deleting it takes.
    pub fn xattr_credits(&self, o: &OpenInode, value_len: usize) -> u32 {
        let plain = xattr_plan::SET_CREDITS.saturating_add(GROUP.saturating_mul(2)).saturating_add(1);
        if !self.xattr_room(o).ea_inode {
            return plain;
        }
        let blocks = u32::try_from(value_len.div_ceil(self.block_size().max(1))).unwrap_or(u32::MAX);
        // Each block may be a run of its own, and a shared block's value inodes are all counted again.
        let shared = u32::try_from(self.block_size() >> 4).unwrap_or(u32::MAX);
        let value = NEW_INODE.saturating_add(blocks.saturating_mul(GROUP.saturating_add(3)));
        plain.saturating_add(value).saturating_add(shared)
    }
}
