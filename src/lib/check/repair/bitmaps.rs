//! Pass 5: bitmaps, their checksums, flags and counts, brought in line with what the passes found. Whole groups at a time.

use std::collections::BTreeMap;

use super::super::pass5::inodes_found;
use super::super::problem::{Pass, Problem as P};
use super::super::report::Finding;
use super::work::Work;
use crate::error::Result;
use crate::format::bitmap::{self, Kind};
use crate::format::group_desc::BgFlags;
use crate::units::Group;

/// What is to be mended in a group.
#[derive(Clone, Copy, Default)]
struct Parts {
    blocks: bool,
    inodes: bool,
}

/// Whether a problem is one of these.
pub(super) fn mends(p: P) -> bool {
    p.row().pass == Pass::P5 && p != P::BitmapUnreadable
}

pub(super) fn mend(work: &mut Work<'_, '_>, accepted: &[&Finding]) -> Result<()> {
    let ctx = work.ctx;
    let mut groups: BTreeMap<Group, Parts> = BTreeMap::new();
    for f in accepted {
        let mut set = |g: Group, blocks: bool, inodes: bool| {
            let parts = groups.entry(g).or_default();
            parts.blocks |= blocks;
            parts.inodes |= inodes;
        };
        match (f.problem, f.place.group, f.place.block, f.place.ino) {
            (P::InodeBitmapPadding | P::InodeBitmapCsum | P::InodeUninit | P::FreeInodesGroup, Some(g), ..) => {
                set(g, false, f.problem != P::FreeInodesGroup);
            }
            (P::BlockBitmapPadding | P::BlockBitmapCsum | P::BlockUninit | P::FreeBlocksGroup, Some(g), ..) => {
                set(g, f.problem != P::FreeBlocksGroup, false);
            }
            (P::DirsGroup, Some(g), ..) => set(g, false, false),
            (_, None, Some(b), _) => {
                let last = f.args.block2.unwrap_or(b);
                for g in ctx.geo.group_of(b).0.0..=ctx.geo.group_of(last).0.0 {
                    set(Group(g), true, false);
                }
            }
            (_, None, None, Some(ino)) => {
                if let Ok((g, _)) = ctx.geo.inode_place(ino) {
                    set(g, false, true);
                }
            }
            _ => {}
        }
    }
    for (g, parts) in groups {
        group(work, g, parts)?;
    }
    counts(work)
}

fn group(work: &mut Work<'_, '_>, g: Group, parts: Parts) -> Result<()> {
    let ctx = work.ctx;
    work.step(|edit| {
        let geo = edit.vol.geometry().clone();
        let mut desc = edit.vol.group(g)?;
        let size = geo.block_size as usize;
        let clusters = geo.clusters_in_group(g) as usize;
        let bytes = geo.clusters_per_group.div_ceil(8) as usize;
        let mut map = vec![0u8; size];
        if let Some(bits) = map.get_mut(..bytes) {
            ctx.found.copy_bytes(u64::from(g.0) * u64::from(geo.clusters_per_group), bits);
        }
        bitmap::set_range(&mut map, clusters, usize::MAX);
        let free = bitmap::count_zeros(&map, 0, clusters) as u32;
        if parts.blocks {
            bitmap::stamp(Kind::Block, &map, geo.clusters_per_group, geo.checksums, &mut desc, geo.desc_size);
            desc.set_bg_flags(desc.bg_flags() - BgFlags::BLOCK_UNINIT);
            edit.store.create(desc.block_bitmap(), map.into())?;
        }
        let (mut used, dirs) = inodes_found(ctx, g);
        let inodes = geo.inodes_per_group as usize;
        let free_inodes = bitmap::count_zeros(&used, 0, inodes) as u32;
        if parts.inodes {
            let uninit = edit.vol.is_inode_uninit(&desc);
            used.resize(size, 0);
            bitmap::set_range(&mut used, inodes, usize::MAX);
            bitmap::stamp(Kind::Inode, &used, geo.inodes_per_group, geo.checksums, &mut desc, geo.desc_size);
            desc.set_bg_flags(desc.bg_flags() - BgFlags::INODE_UNINIT);
            if uninit {
                desc.set_itable_unused(geo.inodes_per_group);
            }
            edit.store.create(desc.inode_bitmap(), used.into())?;
        }
        desc.set_free_clusters(free);
        desc.set_free_inodes(free_inodes);
        desc.set_used_dirs(bitmap::count_ones(&dirs, 0, inodes) as u32);
        edit.vol.store_group(edit.store, g, &desc)
    })?;
    Ok(())
}

/// The superblock's counts are the sums of the groups'.
fn counts(work: &mut Work<'_, '_>) -> Result<()> {
    let (mut clusters, mut inodes) = (0u64, 0u64);
    for g in work.ctx.geo.all_groups() {
        let desc = work.vol().group(g)?;
        clusters += u64::from(desc.free_clusters());
        inodes += u64::from(desc.free_inodes());
    }
    let blocks = clusters << work.ctx.geo.cluster_bits;
    super::journal::superblock(work, |sb| {
        sb.set_free_blocks_count(blocks);
        sb.free_inodes_count.set(u32::try_from(inodes).unwrap_or(u32::MAX));
    })
}
