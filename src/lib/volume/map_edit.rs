//! Blocks of files: allocated and mapped, unmapped and freed, for extent trees and indirect maps alike. Logical and
//! physical numbers in blocks; whole clusters are taken and given back.
//!
//! With clusters of more than one block, logical and physical clusters of a file correspond: a block in a cluster of
//! which the file already has a block lies in the same physical cluster, and a cluster is freed with the last of its
//! blocks. Truncating, and freeing all that an inode has, is here too: see [`Edit::truncate_blocks`] and
//! [`Edit::delete_inode`], which orphan clean-up uses.

use super::edit::{Edit, OpenInode};
use super::extent_edit::{Gone, LBLK_END};
use super::store::{AllocRequest, FileInUse};
use super::{MapKind, Mapping, Volume};
use crate::env::Timestamp;
use crate::error::{Place, Result};
use crate::format::extent::Extent;
use crate::format::inode::{FileType, InodeFlags};
use crate::units::{Fsblk, Lblk};

/// log2 of the groups per flexible group from which directories and files keep to different groups.
#[doc(alias = "EXT4_FLEX_SIZE_DIR_ALLOC_SCHEME")]
const FLEX_SCHEME_BITS: u32 = 2;

/// What to allocate for a hole of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// First logical block.
    pub lblk: Lblk,
    /// Blocks; fewer may be mapped.
    pub len: u32,
    /// Map them as unwritten (extent trees only).
    pub unwritten: bool,
    /// Blocks to reserve behind, in memory; see [`AllocRequest::ahead`].
    pub ahead: u32,
}

impl Volume {
    /// Where an inode's first block should go: its group, or with flexible groups the first group of its flexible
    /// group (files: the one behind it).
    #[doc(alias = "ext4_inode_to_goal_block")]
    pub fn inode_goal(&self, o: &OpenInode) -> Fsblk {
        let geo = &self.geo;
        let (group, _) = geo.inode_place(o.ino).unwrap_or_default();
        let mut goal = group;
        if geo.flex_bits >= FLEX_SCHEME_BITS {
            goal.0 &= !geo.groups_per_flex().saturating_sub(1);
            if o.inode.file_type() == Some(FileType::Regular) {
                goal = goal.saturating_add(1);
            }
        }
        geo.group_start(if goal.0 < geo.groups { goal } else { group })
    }
}

impl Edit<'_> {
    /// Whether an inode's blocks are metadata: journalled, and forgotten when freed.
    #[doc(alias = "ext4_should_journal_data")]
    pub fn has_metadata_blocks(&self, o: &OpenInode) -> bool {
        matches!(o.inode.file_type(), Some(FileType::Directory | FileType::Symlink))
            || o.has(InodeFlags::EA_INODE | InodeFlags::JOURNAL_DATA)
    }

    /// Enter blocks into an inode's map.
    pub fn map_blocks(&mut self, o: &mut OpenInode, new: Extent) -> Result<()> {
        match self.vol.map_kind(&o.inode) {
            MapKind::Extents => self.insert_extent(o, new),
            _ => self.insert_indirect(o, new),
        }
    }

    fn map_apart(&mut self, o: &mut OpenInode, new: Extent, apart: bool) -> Result<()> {
        match self.vol.map_kind(&o.inode) {
            MapKind::Extents => self.insert_pieces(o, new, apart),
            _ => self.insert_indirect(o, new),
        }
    }

    /// Where a block for `lblk` should go. A place by what is mapped may lie outside of the device: for a file in use that means its
    /// first block, else the inode's own group.
    pub fn goal(&self, o: &OpenInode, lblk: Lblk, in_use: bool) -> Result<Fsblk> {
        let near = match self.vol.map_kind(&o.inode) {
            MapKind::Extents => self.extent_goal(o, lblk)?,
            MapKind::Indirect if lblk.0 > 0 => match self.vol.map(o.owner(), Lblk(lblk.0.saturating_sub(1)))? {
                Mapping::Mapped { pblk, .. } => Some(pblk.saturating_add(1)),
                Mapping::Hole { .. } => None,
            },
            _ => None,
        };
        Ok(match near {
            Some(b) if self.vol.geo.has_block(b) => b,
            Some(_) if in_use => Fsblk(self.vol.geo.first_data_block),
            _ => self.vol.inode_goal(o),
        })
    }

    /// Allocate and map blocks for a hole: at least one, at most `wanted.len`. What is mapped already at
    /// `wanted.lblk` is returned as it is. The inode is changed in memory.
    ///
    /// # Errors
    /// [`crate::Error::NoSpace`]; nothing is mapped then.
    #[doc(alias = "ext4_map_blocks")]
    pub fn allocate_range(&mut self, o: &mut OpenInode, wanted: Wanted) -> Result<Extent> {
        self.allocate_in_use(o, wanted, None)
    }

    /// As [`Edit::allocate_range`], for a file in use, with what is known of it.
    pub fn allocate_in_use(&mut self, o: &mut OpenInode, wanted: Wanted, file: Option<FileInUse>) -> Result<Extent> {
        let lblk = wanted.lblk;
        let hole = match self.vol.map(o.owner(), lblk)? {
            Mapping::Mapped { pblk, len, unwritten } => {
                let len = u32::try_from(len).unwrap_or(u32::MAX).min(wanted.len);
                return Ok(Extent { lblk, len, pblk, unwritten });
            }
            Mapping::Hole { len } => u32::try_from(len).unwrap_or(u32::MAX),
        };
        let unwritten = wanted.unwritten && self.vol.map_kind(&o.inode) == MapKind::Extents;
        let mut len = wanted.len.min(hole).max(1);
        let ratio = self.vol.geo.cluster_ratio;
        let mask = ratio.saturating_sub(1);
        let offset = lblk.0 & mask;
        if ratio > 1 {
            if let Some(start) = self.cluster_in_use(o, lblk)? {
                let len = len.min(ratio.saturating_sub(offset));
                let new = Extent { lblk, len, pblk: start.saturating_add(offset.into()), unwritten };
                self.map_apart(o, new, file.is_some_and(|f| f.apart))?;
                return Ok(new);
            }
            // The last cluster may be in use for what follows the hole.
            let end = lblk.0.saturating_add(len);
            if end & mask != 0 && self.cluster_in_use(o, Lblk(end))?.is_some() {
                len = (end & !mask).saturating_sub(lblk.0);
            }
        }
        let goal = self.goal(o, lblk, file.is_some())?;
        let request = AllocRequest {
            goal: Fsblk(goal.0.saturating_sub(offset.into())),
            len: len.saturating_add(offset),
            min_len: offset.saturating_add(1),
            ahead: wanted.ahead,
            ino: o.ino,
            metadata: self.has_metadata_blocks(o),
            file: file.map(|f| self.file_in_use(o, lblk, offset, f)).transpose()?,
        };
        let got = self.alloc.allocate(self.vol, self.store, request)?;
        let new = Extent {
            lblk,
            len: got.len.saturating_sub(offset).min(len),
            pblk: got.start.saturating_add(offset.into()),
            unwritten,
        };
        let clusters = got.len.div_ceil(ratio.max(1));
        if let Err(e) = self.map_apart(o, new, file.is_some_and(|f| f.apart)) {
            // They may be part of what is set aside, which would be given back with them.
            self.alloc.discard_aside(self.vol, o.ino)?;
            self.alloc.free(self.vol, self.store, got.start, got.len, false)?;
            return Err(e);
        }
        self.count_clusters(o, clusters.into())?;
        Ok(new)
    }

    /// What the allocator is told of a file in use, for a hole at `lblk`, `offset` blocks into its cluster.
    fn file_in_use(&self, o: &OpenInode, lblk: Lblk, offset: u32, file: FileInUse) -> Result<FileInUse> {
        let (left, right) = self.neighbours(o, lblk)?;
        let left = left.map(|e| {
            let back = u64::from(e.len.saturating_sub(1));
            (Lblk(e.lblk.0.saturating_add(e.len.saturating_sub(1))), e.pblk.saturating_add(back))
        });
        let right = right.map(|e| (e.lblk, e.pblk));
        Ok(FileInUse { lblk: Lblk(lblk.0.saturating_sub(offset)), left, right, ..file })
    }

    /// The physical cluster that the logical cluster of `lblk` has, where one of its blocks is mapped.
    #[doc(alias = "get_implied_cluster_alloc")]
    pub fn cluster_in_use(&self, o: &OpenInode, lblk: Lblk) -> Result<Option<Fsblk>> {
        let ratio = self.vol.geo.cluster_ratio;
        let first = lblk.0 & !ratio.saturating_sub(1);
        let mut at = u64::from(first);
        let end = at.saturating_add(ratio.into());
        while at < end {
            let Ok(l) = u32::try_from(at) else { break };
            match self.vol.map(o.owner(), Lblk(l))? {
                Mapping::Mapped { pblk, .. } => {
                    let back = at.saturating_sub(first.into());
                    return Ok(Some(Fsblk(pblk.0.saturating_sub(back))));
                }
                Mapping::Hole { len } => at = at.saturating_add(len.max(1)),
            }
        }
        Ok(None)
    }

    /// Unmap a block that is mapped, and leave it to the caller: it is not freed and stays counted.
    pub fn unmap_block(&mut self, o: &mut OpenInode, lblk: Lblk) -> Result<()> {
        let end = u64::from(lblk.0).saturating_add(1);
        match self.vol.map_kind(&o.inode) {
            MapKind::None => Ok(()),
            MapKind::Extents => self.remove_extents(o, lblk, end).map(|_| ()),
            MapKind::Indirect => self.remove_indirect(o, lblk, end).map(|_| ()),
        }
    }

    /// Unmap `start..end` and free the blocks. The size stays. Returns the blocks that were mapped.
    #[doc(alias = "ext4_punch_hole")]
    pub fn remove_blocks(&mut self, o: &mut OpenInode, start: Lblk, end: u64) -> Result<u64> {
        let gone = match self.vol.map_kind(&o.inode) {
            MapKind::None => return Ok(0),
            MapKind::Extents => self.detach_extents(o, start, end)?,
            MapKind::Indirect => self.remove_indirect(o, start, end)?.into_iter().rev().map(Gone::Extent).collect(),
        };
        let metadata = self.has_metadata_blocks(o);
        let mut blocks = 0u64;
        let mut before = None;
        for gone in gone {
            match gone {
                Gone::Extent(e) => {
                    self.vol.check_extent(&e).map_err(|e| e.at(Place::inode(o.ino)))?;
                    blocks = blocks.saturating_add(e.len.into());
                    self.free_clusters_of(o, &e, metadata, &mut before)?;
                }
                Gone::Node(block) => self.free_metadata(o, block)?,
            }
        }
        Ok(blocks)
    }

    /// Free the clusters of an unmapped extent that the file no longer uses. `before` is the first logical cluster of the
    /// extent before, which lies behind this one: extents may share one.
    fn free_clusters_of(
        &mut self,
        o: &mut OpenInode,
        e: &Extent,
        metadata: bool,
        before: &mut Option<u64>,
    ) -> Result<()> {
        let ratio = u64::from(self.vol.geo.cluster_ratio);
        let bits = self.vol.geo.cluster_bits;
        if ratio == 1 {
            self.alloc.free(self.vol, self.store, e.pblk, e.len, metadata)?;
            return self.count_clusters(o, i64::from(e.len).wrapping_neg());
        }
        let mask = ratio.saturating_sub(1);
        let mut first = u64::from(e.lblk.0).wrapping_shr(bits);
        let mut stop = e.end().saturating_add(mask).wrapping_shr(bits);
        let base = first;
        let used = |edit: &Self, c: u64| edit.cluster_in_use(o, Lblk(c.wrapping_shl(bits) as u32));
        let end_cluster = stop.saturating_sub(1);
        if before.replace(first) == Some(end_cluster) || (e.end() & mask != 0 && used(self, end_cluster)?.is_some()) {
            stop = end_cluster;
        }
        if first < stop && u64::from(e.lblk.0) & mask != 0 && used(self, first)?.is_some() {
            first = first.saturating_add(1);
        }
        let n = stop.saturating_sub(first);
        if n == 0 {
            return Ok(());
        }
        let cluster = e.pblk.0.wrapping_shr(bits).saturating_add(first.saturating_sub(base));
        let start = Fsblk(cluster.wrapping_shl(bits));
        let len = n.saturating_mul(ratio);
        let left = self.vol.geo.blocks_count.saturating_sub(start.0);
        self.alloc.free(self.vol, self.store, start, len.min(left) as u32, metadata)?;
        self.count_clusters(o, i64::try_from(n).unwrap_or(0).wrapping_neg())
    }

    /// Free all blocks from `first` on, whatever the size. What orphan clean-up does to a file that is to be cut; the
    /// bytes of the last block behind the size are the caller's to clear.
    #[doc(alias = "ext4_truncate")]
    pub fn truncate_blocks(&mut self, o: &mut OpenInode, first: Lblk) -> Result<u64> {
        self.remove_blocks(o, first, LBLK_END)
    }

    /// Delete an inode that no name leads to: free its blocks and attributes, mark it deleted at `when`, and free its
    /// number. The inode is stored.
    #[doc(alias = "ext4_evict_inode")]
    pub fn delete_inode(&mut self, o: &mut OpenInode, when: Timestamp) -> Result<()> {
        let directory = o.is_dir();
        self.truncate_blocks(o, Lblk(0))?;
        self.release_xattrs(o)?;
        o.set_links(0);
        o.inode.set_size(0);
        // A time that is also an inode number would read as a link of the orphan list, and zero as "not deleted".
        let dtime = (when.sec as u32).max(self.vol.geo.inodes_count.saturating_add(1));
        o.inode.update(|c| c.dtime.set(dtime));
        self.put(o)?;
        self.alloc.free_inode(self.vol, self.store, o.ino, directory)
    }
}
