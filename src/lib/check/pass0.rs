//! Before the passes: the superblock's fields, the group descriptors, the blocks that they say are metadata.

use std::sync::atomic::Ordering::Relaxed;

use super::CheckOptions;
use super::clerk::Clerk;
use super::inode::HURD;
use super::open::allowed_range;
use super::problem::Problem as P;
use super::repair::relocate::{Part, part_of};
use super::report::Finding;
use super::rescue::MAX_LOG_FLEX;
use super::state::Ctx;
use super::view::le16;
use crate::error::Result;
use crate::format::casefold;
use crate::format::features::{Compat, Features, Incompat, RoCompat};
use crate::format::group_desc::{BgFlags, GroupDesc};
use crate::format::inode::{FileType, GOOD_OLD_SIZE, InodeFlags};
use crate::format::quota::{Quota, QuotaKind};
use crate::format::superblock::SbFlags;
use crate::units::{Fsblk, Group, Ino};
use crate::volume::Owner;

/// Largest size of descriptors, bytes.
const MAX_DESC_SIZE: u16 = 1024;
/// Largest quota file that is looked at, bytes.
pub(super) const MAX_QUOTA_FILE: usize = 256 << 20;

/// Check superblock and descriptors, and mark the blocks of metadata. `false`: the check cannot go on.
pub(super) fn run(ctx: &mut Ctx<'_>, opts: &CheckOptions, clerk: &mut Clerk<'_>) -> Result<bool> {
    fields(ctx, clerk);
    features(ctx, clerk);
    times(ctx, opts, clerk);
    quota_inodes(ctx, clerk);
    for group in ctx.geo.all_groups() {
        let lost = descriptor(ctx, group, clerk)?;
        ctx.lost.extend(lost.into_iter().map(|p| (group, p)));
    }
    if clerk.fatal {
        return Ok(false);
    }
    mark_metadata(ctx, clerk)?;
    Ok(true)
}

fn fields(ctx: &Ctx<'_>, clerk: &mut Clerk<'_>) {
    let sb = ctx.sb;
    if sb.r_blocks_count() > ctx.geo.blocks_count / 2 {
        clerk.report(Finding::fs(P::MiscCorruptSuper).what("r_blocks_count").num(sb.r_blocks_count()));
    }
    let bigalloc = ctx.geo.features.ro_compat.contains(RoCompat::BIGALLOC);
    let clusters = sb.clusters_per_group.get();
    if !bigalloc && clusters != sb.blocks_per_group.get() {
        clerk.report(Finding::fs(P::MiscCorruptSuper).what("clusters_per_group").num(clusters));
    }
    let flex = ctx.geo.features.incompat.contains(Incompat::FLEX_BG);
    if !flex && sb.log_groups_per_flex > MAX_LOG_FLEX {
        clerk.report(Finding::fs(P::FlexGroupSize).num(sb.log_groups_per_flex));
    }
    if ctx.geo.features.incompat.contains(Incompat::CASEFOLD) && sb.encoding.get() < casefold::ENCODING_UTF8_12_1 {
        clerk.report(Finding::fs(P::MiscCorruptSuper).what("encoding").num(sb.encoding.get()));
    }
    let (wide, size) = (ctx.geo.features.incompat.contains(Incompat::BIT64), sb.desc_size.get());
    if !wide && size != 0 && (!size.is_power_of_two() || size > MAX_DESC_SIZE) {
        clerk.report(Finding::fs(P::MiscCorruptSuper).what("desc_size").num(size));
    }
    let room = usize::from(ctx.geo.inode_size).saturating_sub(GOOD_OLD_SIZE);
    if room > 0 {
        let bad = |v: u16| v != 0 && (v < 4 || usize::from(v) > room || !v.is_multiple_of(4));
        let (min, want) = (sb.min_extra_isize.get(), sb.want_extra_isize.get());
        if bad(min) {
            clerk.report(Finding::fs(P::BadMinExtraIsize).num(min));
        }
        if bad(want) {
            clerk.report(Finding::fs(P::BadWantExtraIsize).num(want));
        }
    }
}

fn features(ctx: &Ctx<'_>, clerk: &mut Clerk<'_>) {
    let f = ctx.geo.features;
    if f.ro_compat.contains(RoCompat::METADATA_CSUM | RoCompat::GDT_CSUM) {
        clerk.report(Finding::fs(P::MetaAndGdtCsumSet));
    }
    if ctx.sb.creator_os.get() == HURD && f.incompat.contains(Incompat::FILETYPE) {
        clerk.report(Finding::fs(P::HurdClearFiletype));
    }
    if f.incompat.contains(Incompat::CSUM_SEED) && !f.ro_compat.contains(RoCompat::METADATA_CSUM) {
        clerk.report(Finding::fs(P::CsumSeedWithoutMetaCsum));
    }
    if f.incompat.contains(Incompat::BIT64) && !f.incompat.contains(Incompat::EXTENTS) {
        clerk.report(Finding::fs(P::Bit64WithoutExtents));
    }
    if f.compat.contains(Compat::RESIZE_INODE) && f.incompat.contains(Incompat::META_BG) {
        clerk.report(Finding::fs(P::DisableResizeInode));
    }
    if ctx.sb.rev_level.get() == 0 && f != Features::default() {
        clerk.report(Finding::fs(P::FeaturesInRevisionZero));
    }
    let flags = ctx.sb.misc_flags();
    if clerk.repairs()
        && f.compat.contains(Compat::DIR_INDEX)
        && !flags.intersects(SbFlags::SIGNED_HASH | SbFlags::UNSIGNED_HASH)
    {
        clerk.report(Finding::fs(P::DirhashHint));
    }
    if flags.contains(SbFlags::TEST_FILESYS) {
        clerk.report(Finding::fs(P::ClearTestFs));
    }
    let reserved = ctx.sb.reserved_gdt_blocks.get();
    if !f.compat.contains(Compat::RESIZE_INODE) && reserved != 0 {
        clerk.report(Finding::fs(P::NonzeroReservedGdtBlocks).num(reserved));
    }
}

fn times(ctx: &Ctx<'_>, opts: &CheckOptions, clerk: &mut Clerk<'_>) {
    if !opts.force && ctx.sb.checkinterval.get() == 0 {
        return;
    }
    let now = u64::try_from(ctx.now).unwrap_or_default();
    let stamps = [(P::FutureLastMount, ctx.sb.mount_time()), (P::FutureLastWrite, ctx.sb.write_time())];
    for (problem, t) in stamps {
        if t.sec > ctx.now {
            clerk.report(Finding::fs(problem).num(t.sec.unsigned_abs()).want(now));
        }
    }
}

fn quota_inodes(ctx: &Ctx<'_>, clerk: &mut Clerk<'_>) {
    let sb = ctx.sb;
    let on = ctx.geo.features.ro_compat.contains(RoCompat::QUOTA);
    let files = [
        ("user", QuotaKind::User, sb.usr_quota_inum.get(), Some(Ino::USR_QUOTA)),
        ("group", QuotaKind::Group, sb.grp_quota_inum.get(), Some(Ino::GRP_QUOTA)),
        ("project", QuotaKind::Project, sb.prj_quota_inum.get(), None),
    ];
    for (what, kind, ino, reserved) in files {
        if ino == 0 || reserved.is_some_and(|r| r.0 == ino) {
            continue;
        }
        let outside = ino < ctx.geo.first_ino || ino > ctx.geo.inodes_count;
        // Somebody's file: it would lose its name, were it taken for a quota file.
        let other = || ctx.vol.raw_inode(Ino(ino)).is_ok_and(|inode| inode.core().links_count.get() != 0);
        if !outside && on && reserved.is_some_and(|r| can_hide(ctx, Ino(ino), r, kind)) {
            clerk.report(Finding::inode(P::HideQuota, Ino(ino)).what(what));
        } else if outside || (reserved.is_some() && other()) {
            clerk.report(Finding::inode(P::InvalidQuotaIno, Ino(ino)).what(what));
        }
    }
}

/// Whether an inode is a quota file that could have its reserved number, which nothing else has.
#[doc(alias = "e2fsck_hide_quota")]
fn can_hide(ctx: &Ctx<'_>, ino: Ino, reserved: Ino, kind: QuotaKind) -> bool {
    let Ok(inode) = ctx.vol.raw_inode(ino) else { return false };
    let free = ctx.vol.raw_inode(reserved).is_ok_and(|r| r.core().links_count.get() == 0);
    // Blocks of a deeper tree have checksums that go with the number.
    let flat = le16(&inode.block_area(), 6) == 0 && inode.flags().contains(InodeFlags::EXTENTS);
    let reader =
        || ctx.vol.reader(Owner { ino, inode: &inode }).and_then(|r| r.read_all(MAX_QUOTA_FILE)).ok().flatten();
    free && flat
        && inode.file_type() == Some(FileType::Regular)
        && reader().is_some_and(|content| Quota::decode(&content, kind).is_ok())
}

/// Block 0 means that there is none: where blocks begin with 0, that is the superblock's.
const fn missing(outside: P) -> P {
    match outside {
        P::BlockBitmapNotInGroup => P::BlockBitmapMissing,
        P::InodeBitmapNotInGroup => P::InodeBitmapMissing,
        _ => P::InodeTableMissing,
    }
}

/// Check one descriptor; what of its group gets another place.
fn descriptor(ctx: &Ctx<'_>, group: Group, clerk: &mut Clerk<'_>) -> Result<Vec<Part>> {
    let mut lost = Vec::new();
    let geo = ctx.geo;
    let raw = ctx.vol.raw_group(group)?;
    let desc = GroupDesc::decode(raw)?;
    let range = allowed_range(geo, group);
    let outside = |at: Fsblk, len: u64| at.0 < range.start || at.0.saturating_add(len) > range.end;
    let parts = [
        (P::BlockBitmapNotInGroup, desc.block_bitmap(), 1),
        (P::InodeBitmapNotInGroup, desc.inode_bitmap(), 1),
        (P::InodeTableNotInGroup, desc.inode_table(), u64::from(geo.itable_blocks)),
    ];
    for (problem, at, len) in parts {
        let problem = if at.0 == 0 { missing(problem) } else { problem };
        if at.0 == 0 || outside(at, len) {
            let yes = clerk.report(Finding::group(problem, group).block(at));
            lost.extend(part_of(problem).map(|p| p.0).filter(|_| yes));
            // A table that is nowhere cannot be looked at, and repairs without it would lose what it names.
            let needed = clerk.repairs() || (group.0 == 0 && at.0 == 0);
            clerk.fatal |=
                needed && !clerk.stopped && !yes && matches!(problem, P::InodeTableNotInGroup | P::InodeTableMissing);
        }
    }
    let flags = desc.bg_flags();
    let lazy = flags.intersects(BgFlags::BLOCK_UNINIT | BgFlags::INODE_UNINIT) || desc.itable_unused() != 0;
    if ctx.from_backup {
        return Ok(lost);
    }
    // What leads nowhere is damaged, whatever its checksum says: its flags would hide inodes.
    let distrusted = lazy && !lost.is_empty();
    if let Some(want) = desc.computed_checksum(ctx.csums, group, geo.desc_size, raw)
        && (want != desc.checksum.get() || distrusted)
    {
        clerk.report(Finding::group(P::GroupDescCsum, group).num(desc.checksum.get()).want(want));
    }
    if !ctx.csums.has_group_desc_csum() {
        if lazy && !clerk.report(Finding::group(P::GroupDescUninit, group)) {
            ctx.stale_lazy.store(true, Relaxed);
        }
        return Ok(lost);
    }
    if group.0 + 1 == geo.groups && flags.contains(BgFlags::BLOCK_UNINIT) {
        clerk.report(Finding::group(P::BlockBitmapUninitLast, group));
    }
    // The first group has the reserved inodes.
    let hidden = group.0 == 0 && flags.contains(BgFlags::INODE_UNINIT);
    let unused = if hidden { geo.inodes_per_group } else { desc.itable_unused() };
    if hidden || unused > desc.free_inodes() || unused > geo.inodes_per_group {
        clerk.report(Finding::group(P::GroupDescItableUnused, group).num(unused));
    }
    Ok(lost)
}

/// Mark superblocks, descriptors, bitmaps and inode tables; report where they are on top of each other.
#[doc(alias = "mark_table_blocks")]
fn mark_metadata(ctx: &Ctx<'_>, clerk: &mut Clerk<'_>) -> Result<()> {
    let geo = ctx.geo;
    let blocks = |start: Fsblk, len: u64| start.0..start.0.saturating_add(len).min(geo.blocks_count);
    for g in geo.all_groups() {
        let r = blocks(geo.group_start(g), geo.super_and_gdt_blocks(g).into());
        ctx.meta.set_range(r.start, r.end);
    }
    for g in geo.all_groups() {
        let desc = ctx.vol.group(g)?;
        let parts = [
            (P::InodeTableConflict, desc.inode_table(), u64::from(geo.itable_blocks)),
            (P::BlockBitmapConflict, desc.block_bitmap(), 1),
            (P::InodeBitmapConflict, desc.inode_bitmap(), 1),
        ];
        for (problem, at, len) in parts {
            if at.0 == 0
                || at.0 < geo.first_data_block
                || part_of(problem).is_some_and(|(p, _)| ctx.lost.contains(&(g, p)))
            {
                continue;
            }
            let r = blocks(at, len);
            if ctx.meta.any(r.start, r.end) {
                let first = (r.start..r.end).find(|b| ctx.meta.get(*b)).unwrap_or(r.start);
                clerk.report(Finding::group(problem, g).block(Fsblk(first)));
            }
            ctx.meta.set_range(r.start, r.end);
        }
    }
    for r in ctx.meta.runs(geo.first_data_block, geo.blocks_count) {
        ctx.found.set_range(ctx.cluster_bit(Fsblk(r.start)), ctx.cluster_bit(Fsblk(r.end - 1)) + 1);
    }
    // A boot block before the first data block of a bigalloc filesystem is counted as in use as well.
    if geo.features.incompat.contains(Incompat::MMP) && geo.has_block(Fsblk(ctx.sb.mmp_block.get())) {
        ctx.found.set(ctx.cluster_bit(Fsblk(ctx.sb.mmp_block.get())));
    }
    Ok(())
}
