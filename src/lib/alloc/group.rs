//! A group's bitmaps: loaded into buddies, initialised on first use, changed through the store with their checksums;
//! and the blocks that belong to the filesystem itself. Bits are clusters or inodes of the group.

use super::Allocator;
use super::buddy::Buddy;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::bitmap::{self, Kind};
use crate::format::group_desc::{BgFlags, GroupDesc};
use crate::units::{Fsblk, Group};
use crate::volume::edit::modify_block;
use crate::volume::store::MetaStore;
use crate::volume::{Geometry, Volume};

/// Superblocks, descriptors, bitmaps and inode tables: blocks that no file may free.
#[derive(Debug)]
#[doc(alias = "ext4_setup_system_zone")]
pub(super) struct SystemZone {
    /// Sorted, half-open.
    ranges: Vec<(u64, u64)>,
}

impl SystemZone {
    fn new(vol: &Volume) -> Result<Self> {
        let geo = vol.geometry();
        let mut ranges = Vec::with_capacity(geo.groups as usize * 4);
        for group in geo.all_groups() {
            let desc = vol.group(group)?;
            let own = u64::from(geo.super_and_gdt_blocks(group));
            let start = geo.group_start(group);
            let table = u64::from(geo.itable_blocks);
            for (at, len) in
                [(start, own), (desc.block_bitmap(), 1), (desc.inode_bitmap(), 1), (desc.inode_table(), table)]
            {
                if len > 0 {
                    ranges.push((at.0, at.0.saturating_add(len)));
                }
            }
        }
        ranges.sort_unstable();
        // Ends in ascending order too, for the search below.
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (from, to) in ranges {
            match merged.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        Ok(Self { ranges: merged })
    }

    /// Whether `start..start + len` meets one of them.
    pub(super) fn meets(&self, start: Fsblk, len: u64) -> bool {
        let at = self.ranges.partition_point(|r| r.1 <= start.0);
        self.ranges.get(at).is_some_and(|r| r.0 < start.0.saturating_add(len))
    }
}

impl Allocator {
    /// The free space of a group.
    #[doc(alias = "ext4_mb_load_buddy")]
    pub(super) fn buddy(&mut self, vol: &Volume, group: Group) -> Result<&mut Buddy> {
        use std::collections::btree_map::Entry;
        match self.groups.entry(group) {
            Entry::Occupied(e) => Ok(e.into_mut()),
            Entry::Vacant(e) => {
                let map = vol.block_bitmap(group)?;
                let geo = vol.geometry();
                let mut buddy = Buddy::new(&map, geo.clusters_in_group(group), geo.block_bits + 1);
                for (_, at, len) in self.pending.iter().filter(|p| p.0 == group) {
                    buddy.take(*at, *len);
                }
                Ok(e.insert(buddy))
            }
        }
    }

    /// The filesystem's own blocks.
    pub(super) fn system_zone(&mut self, vol: &Volume) -> Result<&SystemZone> {
        let zone = match self.system.take() {
            Some(zone) => zone,
            None => SystemZone::new(vol)?,
        };
        Ok(self.system.insert(zone))
    }
}

/// Change bits `from..to` of a group's block bitmap to `used`, all of which must be the opposite; free count, flags
/// and checksums follow.
#[doc(alias = "ext4_mb_mark_context")]
pub(super) fn mark_clusters(
    vol: &mut Volume,
    store: &mut dyn MetaStore,
    group: Group,
    bits: std::ops::Range<u32>,
    used: bool,
) -> Result<()> {
    let mut desc = vol.group(group)?;
    let block = desc.block_bitmap();
    init_block_bitmap(vol, store, group, &mut desc)?;
    let (from, to) = (bits.start as usize, bits.end as usize);
    let geo = vol.geometry();
    let old = store.read(block)?;
    let set = bitmap::count_ones(&old, from, to);
    if set != if used { 0 } else { to - from } || bits.end > geo.clusters_in_group(group) {
        let detail = if used { "a free cluster is in use" } else { "a cluster is freed that is not in use" };
        let flaw = Flaw::Inconsistent { of: Structure::BlockBitmap, detail };
        return Err(Error::corrupt(flaw, Place::group(group).in_block(block)));
    }
    let n = bits.end - bits.start;
    let free = desc.free_clusters();
    let free = if used { free.checked_sub(n) } else { free.checked_add(n) };
    let Some(free) = free.filter(|f| *f <= geo.clusters_in_group(group)) else {
        let value = desc.free_clusters().into();
        let flaw = Flaw::Field { of: Structure::GroupDesc, field: "free_blocks_count", value };
        return Err(Error::corrupt(flaw, Place::group(group)));
    };
    desc.set_free_clusters(free);
    modify_block(store, block, |map| {
        if used {
            bitmap::set_range(map, from, to);
        } else {
            bitmap::clear_range(map, from, to);
        }
        bitmap::stamp(Kind::Block, map, geo.clusters_per_group, geo.checksums, &mut desc, geo.desc_size);
    })?;
    vol.store_group(store, group, &desc)
}

/// Write the block bitmap of a group that has none yet. The descriptor is changed in memory only.
#[doc(alias = "ext4_init_block_bitmap")]
pub(super) fn init_block_bitmap(
    vol: &Volume,
    store: &mut dyn MetaStore,
    group: Group,
    desc: &mut GroupDesc,
) -> Result<()> {
    if !vol.is_block_uninit(desc) {
        return Ok(());
    }
    let geo = vol.geometry();
    let map = padded(geo, &vol.block_bitmap(group)?, geo.clusters_per_group);
    bitmap::stamp(Kind::Block, &map, geo.clusters_per_group, geo.checksums, desc, geo.desc_size);
    desc.set_bg_flags(desc.bg_flags() - BgFlags::BLOCK_UNINIT);
    store.create(desc.block_bitmap(), map.into())
}

/// Write the inode bitmap of a group that has none yet, and its block bitmap. The descriptor is changed in memory only.
pub(super) fn init_inode_bitmap(
    vol: &Volume,
    store: &mut dyn MetaStore,
    group: Group,
    desc: &mut GroupDesc,
) -> Result<()> {
    if !vol.is_inode_uninit(desc) {
        return Ok(());
    }
    init_block_bitmap(vol, store, group, desc)?;
    let geo = vol.geometry();
    let map = padded(geo, &[], geo.inodes_per_group);
    bitmap::stamp(Kind::Inode, &map, geo.inodes_per_group, geo.checksums, desc, geo.desc_size);
    desc.set_bg_flags(desc.bg_flags() - BgFlags::INODE_UNINIT);
    desc.set_itable_unused(geo.inodes_per_group);
    store.create(desc.inode_bitmap(), map.into())
}

/// A block that starts with a bitmap of `bits`, the rest of it set.
fn padded(geo: &Geometry, map: &[u8], bits: u32) -> Vec<u8> {
    let mut block = vec![0; geo.block_size as usize];
    for (to, from) in block.iter_mut().zip(map) {
        *to = *from;
    }
    bitmap::set_range(&mut block, bits as usize, usize::MAX);
    block
}
