//! Inode numbers: placed by Orlov's rules, taken from the bitmap, given back. Kernel name: `ialloc.c`.
//!
//! Directories at the top are spread over the groups that have more free inodes and blocks than the average and the
//! fewest directories; others stay near their parent as long as their group is not crowded. Files go to their
//! parent's group, else are probed for at quadratic distance, else anywhere. With flexible groups, the flexible group
//! is what is chosen among.

use super::{Allocator, group};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::bitmap::{self, Kind};
use crate::format::group_desc::BgFlags;
use crate::units::{Fsblk, Group, Ino};
use crate::volume::edit::modify_block;
use crate::volume::store::{InodeRequest, MetaStore};
use crate::volume::{Geometry, Volume};

/// What is counted of a group, or of a flexible group.
#[derive(Clone, Copy, Debug, Default)]
#[doc(alias = "orlov_stats")]
struct Stats {
    free_inodes: u64,
    free_clusters: u64,
    used_dirs: u64,
}

impl Allocator {
    pub(super) fn new_inode(
        &mut self,
        vol: &mut Volume,
        store: &mut dyn MetaStore,
        request: InodeRequest,
    ) -> Result<Ino> {
        let Some(group) = self.choose_group(vol, request)? else {
            return Err(Error::NoSpace { what: "inodes", need: 1, have: self.free_inodes });
        };
        let groups = vol.geometry().groups;
        for n in 0..groups {
            let group = Group((group.0 + n) % groups);
            if let Some(ino) = take_inode(vol, store, group, request.directory)? {
                self.free_inodes = self.free_inodes.saturating_sub(1);
                return Ok(ino);
            }
        }
        Err(Error::NoSpace { what: "inodes", need: 1, have: 0 })
    }

    pub(super) fn release_inode(
        &mut self,
        vol: &mut Volume,
        store: &mut dyn MetaStore,
        ino: Ino,
        directory: bool,
    ) -> Result<()> {
        let geo = vol.geometry();
        let (group, bit) = geo.inode_place(ino)?;
        if ino.0 < geo.first_ino {
            let (value, allowed) = (ino.to_string(), "an inode that is not reserved");
            return Err(Error::InvalidArgument { name: "inode", value, allowed });
        }
        let mut desc = vol.group(group)?;
        let block = desc.inode_bitmap();
        let used = !vol.is_inode_uninit(&desc) && bitmap::test(&vol.inode_bitmap(group)?, bit as usize);
        let dirs = desc.used_dirs().checked_sub(directory.into());
        let (true, Some(dirs)) = (used, dirs) else {
            let detail = "an inode is freed that is not in use";
            let flaw = Flaw::Inconsistent { of: Structure::InodeBitmap, detail };
            return Err(Error::corrupt(flaw, Place::inode(ino).in_block(block)));
        };
        desc.set_used_dirs(dirs);
        desc.set_free_inodes((desc.free_inodes() + 1).min(geo.inodes_per_group));
        modify_block(store, block, |map| {
            bitmap::clear(map, bit as usize);
            bitmap::stamp(Kind::Inode, map, geo.inodes_per_group, geo.checksums, &mut desc, geo.desc_size);
        })?;
        vol.store_group(store, group, &desc)?;
        self.free_inodes += 1;
        Ok(())
    }

    /// The group to look in first.
    fn choose_group(&self, vol: &Volume, request: InodeRequest) -> Result<Option<Group>> {
        let (parent, _) = vol.geometry().inode_place(request.parent)?;
        if request.directory { self.orlov(vol, parent, request) } else { Self::near(vol, parent, request.parent) }
    }

    /// Stats of the `unit`-th flexible group (or group, where they are not used).
    #[doc(alias = "get_orlov_stats")]
    fn stats(vol: &Volume, unit: u32) -> Result<Stats> {
        let geo = vol.geometry();
        let first = unit << geo.flex_bits;
        let last = geo.groups.min(first.saturating_add(geo.groups_per_flex()));
        let mut sum = Stats::default();
        for g in first..last {
            let desc = vol.group(Group(g))?;
            sum.free_inodes += u64::from(desc.free_inodes());
            sum.free_clusters += u64::from(desc.free_clusters());
            sum.used_dirs += u64::from(desc.used_dirs());
        }
        Ok(sum)
    }

    /// The first group of a unit that has a free inode.
    fn in_unit(vol: &Volume, unit: u32) -> Result<Option<Group>> {
        let geo = vol.geometry();
        let first = unit << geo.flex_bits;
        let last = geo.groups.min(first.saturating_add(geo.groups_per_flex()));
        for g in (first..last).map(Group) {
            if vol.group(g)?.free_inodes() > 0 {
                return Ok(Some(g));
            }
        }
        Ok(None)
    }

    #[doc(alias = "find_group_orlov")]
    fn orlov(&self, vol: &Volume, parent: Group, request: InodeRequest) -> Result<Option<Group>> {
        let geo = vol.geometry();
        let units = geo.groups.div_ceil(geo.groups_per_flex());
        let per_unit = u64::from(geo.inodes_per_group) << geo.flex_bits;
        let count = u64::from(units.max(1));
        let avg_inodes = self.free_inodes / count;
        let avg_clusters = self.free_clusters / count;
        let mut dirs = 0u64;
        for unit in 0..units {
            dirs += Self::stats(vol, unit)?.used_dirs;
        }
        let home = parent.0 >> geo.flex_bits;
        if request.spread {
            let start = request.name_hash % units;
            let mut best: Option<(u64, u32)> = None;
            for unit in (0..units).map(|n| (start + n) % units) {
                let s = Self::stats(vol, unit)?;
                let fewer = best.is_none_or(|(d, _)| s.used_dirs < d);
                let roomy = s.free_inodes > 0 && s.free_inodes >= avg_inodes && s.free_clusters >= avg_clusters;
                if fewer && roomy {
                    best = Some((s.used_dirs, unit));
                }
            }
            if let Some((_, unit)) = best {
                return Self::in_unit(vol, unit);
            }
        } else {
            let max_dirs = dirs / count + per_unit / 16;
            let min_inodes = avg_inodes.saturating_sub(per_unit / 4).max(1);
            let per_unit_clusters = u64::from(geo.clusters_per_group) << geo.flex_bits;
            let min_clusters = avg_clusters.saturating_sub(per_unit_clusters / 4);
            for unit in (0..units).map(|n| (home + n) % units) {
                let s = Self::stats(vol, unit)?;
                if s.used_dirs < max_dirs && s.free_inodes >= min_inodes && s.free_clusters >= min_clusters {
                    return Self::in_unit(vol, unit);
                }
            }
        }
        // Anything from the parent on: first what has as many free inodes as the average, then whatever is left.
        let avg = self.free_inodes / u64::from(geo.groups.max(1));
        for least in [avg.max(1), 1] {
            for g in (0..geo.groups).map(|n| Group((parent.0 + n) % geo.groups)) {
                if u64::from(vol.group(g)?.free_inodes()) >= least {
                    return Ok(Some(g));
                }
            }
        }
        Ok(None)
    }

    #[doc(alias = "find_group_other")]
    fn near(vol: &Volume, parent: Group, parent_ino: Ino) -> Result<Option<Group>> {
        let geo = vol.geometry();
        let groups = geo.groups;
        if geo.flex_bits > 0 {
            // The flexible group of the parent, before anything else.
            if let Some(g) = Self::in_unit(vol, parent.0 >> geo.flex_bits)? {
                return Ok(Some(g));
            }
        }
        let roomy = |g: Group| vol.group(g).map(|d| d.free_inodes() > 0 && d.free_clusters() > 0);
        if roomy(parent)? {
            return Ok(Some(parent));
        }
        // Files of different directories in one group part here.
        let mut at = (u64::from(parent.0) + u64::from(parent_ino.0)) % u64::from(groups);
        let mut step = 1u64;
        while step < u64::from(groups) {
            at = (at + step) % u64::from(groups);
            if roomy(Group(at as u32))? {
                return Ok(Some(Group(at as u32)));
            }
            step <<= 1;
        }
        for g in (0..groups).map(|n| Group((parent.0 + n) % groups)) {
            if vol.group(g)?.free_inodes() > 0 {
                return Ok(Some(g));
            }
        }
        Ok(None)
    }
}

/// Take the first free inode of a group, which is initialised first where it has to be.
fn take_inode(vol: &mut Volume, store: &mut dyn MetaStore, group: Group, directory: bool) -> Result<Option<Ino>> {
    let desc = vol.group(group)?;
    if desc.free_inodes() == 0 {
        return Ok(None);
    }
    let geo = vol.geometry();
    let per = geo.inodes_per_group;
    let reserved = (geo.first_ino - 1).saturating_sub(group.0.saturating_mul(per));
    let bit = if vol.is_inode_uninit(&desc) {
        (reserved < per).then_some(reserved as usize)
    } else {
        bitmap::find_zero(&vol.inode_bitmap(group)?, reserved as usize, per as usize)
    };
    let Some(bit) = bit else { return Ok(None) };
    take_bit(vol, store, group, bit, directory).map(Some)
}

/// Take the inode with number `bit` of a group, which is free.
pub(super) fn take_bit(
    vol: &mut Volume,
    store: &mut dyn MetaStore,
    group: Group,
    bit: usize,
    directory: bool,
) -> Result<Ino> {
    let mut desc = vol.group(group)?;
    let geo = vol.geometry();
    let per = geo.inodes_per_group;
    group::init_inode_bitmap(vol, store, group, &mut desc)?;
    if geo.checksums.has_group_desc_csum() {
        // The kernel looks after the block bitmap here too.
        group::init_block_bitmap(vol, store, group, &mut desc)?;
        let used = per.saturating_sub(desc.itable_unused()).min(per);
        if bit as u32 >= used {
            if !desc.bg_flags().contains(BgFlags::INODE_ZEROED) {
                zero_table(geo, store, desc.inode_table(), used, bit as u32)?;
            }
            desc.set_itable_unused(per - bit as u32 - 1);
        }
    }
    let block = desc.inode_bitmap();
    modify_block(store, block, |map| {
        bitmap::set(map, bit);
        bitmap::stamp(Kind::Inode, map, per, geo.checksums, &mut desc, geo.desc_size);
    })?;
    desc.set_free_inodes(desc.free_inodes() - 1);
    desc.set_used_dirs(desc.used_dirs() + u32::from(directory));
    let ino = geo.group_first_ino(group).saturating_add(bit as u32);
    vol.store_group(store, group, &desc)?;
    Ok(ino)
}

/// Zero the blocks of an inode table that were never used, up to the one with inode `last` of the group. Blocks that
/// hold one of the first `used` inodes were zeroed as a whole when they came into use.
fn zero_table(geo: &Geometry, store: &mut dyn MetaStore, table: Fsblk, used: u32, last: u32) -> Result<()> {
    let per_block = (geo.block_size / u32::from(geo.inode_size)).max(1);
    for n in used.div_ceil(per_block)..=last / per_block {
        store.create(table.saturating_add(n.into()), vec![0; geo.block_size as usize].into())?;
    }
    Ok(())
}
