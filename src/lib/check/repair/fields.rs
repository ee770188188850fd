//! What stands in the superblock and the group descriptors, and in blocks of their own beside them: features, times, flags of
//! groups, multiple-mount protection, the resize inode.

use super::super::journal::journal_copy;
use super::super::problem::Problem as P;
use super::super::report::Finding;
use super::super::state::Ctx;
use super::super::view::le32;
use super::journal::superblock;
use super::work::{Work, raw};
use crate::error::Result;
use crate::format::casefold;
use crate::format::features::{Compat, Features, Incompat, RoCompat};
use crate::format::group_desc::BgFlags;
use crate::format::inode::{FileType, GOOD_OLD_SIZE, Inode, TimeField};
use crate::format::mmp::Mmp;
use crate::format::superblock::{SbFlags, Superblock};
use crate::units::{Fsblk, Group, Ino};
use crate::volume::edit::modify_block;
use crate::volume::{Edit, OpenInode};

/// Seconds between updates of the block for multiple-mount protection, where the superblock does not say.
const MMP_INTERVAL: u16 = 5;
/// One block in so many is reserved for root.
const RESERVED_PART: u64 = 20;
/// Bytes of extra fields that new inodes have.
pub(super) const EXTRA_ISIZE: u16 = 32;

pub(super) const MENDS: &[P] = &[
    P::MiscCorruptSuper,
    P::FlexGroupSize,
    P::NonzeroReservedGdtBlocks,
    P::ClearResizeInode,
    P::ResizeInodeInvalid,
    P::FutureLastMount,
    P::FutureLastWrite,
    P::GroupDescCsum,
    P::GroupDescUninit,
    P::GroupDescItableUnused,
    P::BlockBitmapUninitLast,
    P::MmpInvalidBlock,
    P::MmpInvalidMagic,
    P::MmpCsumInvalid,
    P::MetaAndGdtCsumSet,
    P::Bit64WithoutExtents,
    P::CsumSeedWithoutMetaCsum,
    P::BadMinExtraIsize,
    P::BadWantExtraIsize,
    P::InvalidQuotaIno,
    P::DisableResizeInode,
    P::HurdClearFiletype,
    P::FsRevLevel,
    P::FeaturesInRevisionZero,
    P::DirhashHint,
    P::ClearTestFs,
    P::HideQuota,
    P::MoveJournal,
    P::BackupJournal,
    P::FeatureLargeFiles,
    P::FeatureLargeDirs,
    P::DirNlinkFeature,
    P::ExtentFeature,
    P::InlineDataFeature,
    P::OrphanPresentCleanFile,
    P::OrphanPresentNoFile,
];

/// Whether it is the feature for clusters that does not fit the inodes: without extents it fits none.
pub(super) const fn is_about_clusters(ctx: &Ctx<'_>, p: P) -> bool {
    matches!(p, P::NoBigallocBlockMap) && !ctx.geo.features.incompat.contains(Incompat::EXTENTS)
}

/// Clusters of one block are blocks; larger ones need extents.
pub(super) fn mend_clusters(work: &mut Work<'_, '_>) -> Result<()> {
    let single = work.ctx.geo.cluster_ratio == 1;
    features(work, |f| {
        if single {
            f.ro_compat -= RoCompat::BIGALLOC;
        } else {
            f.incompat |= Incompat::EXTENTS;
        }
    })
}

/// Change the features.
pub(super) fn features(work: &mut Work<'_, '_>, change: impl FnOnce(&mut Features)) -> Result<()> {
    superblock(work, |sb| {
        let mut f = sb.features();
        change(&mut f);
        sb.set_features(f);
    })
}

pub(super) fn mend(work: &mut Work<'_, '_>, f: &Finding) -> Result<()> {
    let now = work.now;
    let room = work.ctx.geo.inode_size.saturating_sub(GOOD_OLD_SIZE as u16);
    match f.problem {
        P::MiscCorruptSuper => superblock(work, |sb| plausible(sb, f.args.what)),
        P::FlexGroupSize => superblock(work, |sb| sb.log_groups_per_flex = 0),
        P::NonzeroReservedGdtBlocks => superblock(work, |sb| sb.reserved_gdt_blocks.set(0)),
        P::ClearResizeInode => clear_resize_inode(work),
        P::ResizeInodeInvalid => renew_resize_inode(work),
        P::DisableResizeInode => {
            superblock(work, |sb| sb.reserved_gdt_blocks.set(0))?;
            features(work, |f| f.compat -= Compat::RESIZE_INODE)?;
            clear_resize_inode(work)
        }
        P::FutureLastMount => superblock(work, |sb| sb.set_mount_time(now)),
        P::FutureLastWrite => superblock(work, |sb| sb.set_write_time(now)),
        P::GroupDescCsum | P::GroupDescUninit | P::GroupDescItableUnused | P::BlockBitmapUninitLast => {
            descriptor(work, f)
        }
        P::MmpInvalidBlock => {
            superblock(work, |sb| sb.mmp_block.set(0))?;
            features(work, |f| f.incompat -= Incompat::MMP)
        }
        P::MmpInvalidMagic | P::MmpCsumInvalid => make_mmp(work),
        P::MetaAndGdtCsumSet => features(work, |f| f.ro_compat -= RoCompat::GDT_CSUM),
        P::Bit64WithoutExtents | P::ExtentFeature => features(work, |f| f.incompat |= Incompat::EXTENTS),
        P::CsumSeedWithoutMetaCsum => features(work, |f| f.incompat -= Incompat::CSUM_SEED),
        P::BadMinExtraIsize => superblock(work, |sb| sb.min_extra_isize.set(EXTRA_ISIZE.min(room))),
        P::BadWantExtraIsize => superblock(work, |sb| sb.want_extra_isize.set(EXTRA_ISIZE.min(room))),
        P::InvalidQuotaIno => superblock(work, |sb| forget_quota(sb, f.args.what)),
        P::HurdClearFiletype => features(work, |f| f.incompat -= Incompat::FILETYPE),
        P::DirhashHint => superblock(work, |sb| sb.flags.set((sb.misc_flags() | SbFlags::SIGNED_HASH).bits())),
        P::ClearTestFs => superblock(work, |sb| sb.flags.set((sb.misc_flags() - SbFlags::TEST_FILESYS).bits())),
        P::HideQuota => hide_quota(work, f),
        P::MoveJournal => hide_journal(work, f),
        P::BackupJournal => back_journal_up(work),
        P::FsRevLevel | P::FeaturesInRevisionZero => superblock(work, |sb| {
            sb.rev_level.set(1);
            sb.first_ino.set(Ino::GOOD_OLD_FIRST.0);
            sb.inode_size.set(GOOD_OLD_SIZE as u16);
        }),
        P::FeatureLargeFiles => features(work, |f| f.ro_compat |= RoCompat::LARGE_FILE),
        P::FeatureLargeDirs => features(work, |f| f.incompat |= Incompat::LARGEDIR),
        P::DirNlinkFeature => features(work, |f| f.ro_compat |= RoCompat::DIR_NLINK),
        P::InlineDataFeature => features(work, |f| f.incompat |= Incompat::INLINE_DATA),
        P::OrphanPresentCleanFile | P::OrphanPresentNoFile => {
            features(work, |f| f.ro_compat -= RoCompat::ORPHAN_PRESENT)
        }
        _ => Ok(()),
    }
}

/// A field whose value cannot be gets the usual one.
fn plausible(sb: &mut Superblock, which: Option<&str>) {
    match which {
        Some("r_blocks_count") => sb.set_r_blocks_count(sb.blocks_count() / RESERVED_PART),
        Some("clusters_per_group") => sb.clusters_per_group = sb.blocks_per_group,
        Some("desc_size") => sb.desc_size.set(0),
        Some("encoding") => sb.encoding.set(casefold::ENCODING_UTF8_12_1),
        _ => {}
    }
}

fn forget_quota(sb: &mut Superblock, which: Option<&str>) {
    match which {
        Some("user") => sb.usr_quota_inum.set(0),
        Some("group") => sb.grp_quota_inum.set(0),
        _ => sb.prj_quota_inum.set(0),
    }
}

/// Give what is in inode `from` the number `to`; `from` is not in use any more, and its names go in pass 2.
fn renumber(work: &mut Work<'_, '_>, from: Ino, to: Ino, store: impl Fn(&mut Superblock)) -> Result<()> {
    work.step(|edit| {
        let old = raw(edit.vol, from)?;
        edit.put(&mut OpenInode { ino: to, inode: old.inode })?;
        let blank = Inode::empty(edit.vol.geometry().inode_size);
        edit.put(&mut OpenInode { ino: from, inode: blank })?;
        edit.vol.store_superblock(edit.store, &store)
    })?;
    Ok(())
}

#[doc(alias = "move_quota_inode")]
fn hide_quota(work: &mut Work<'_, '_>, f: &Finding) -> Result<()> {
    let Some(from) = f.place.ino else { return Ok(()) };
    if f.args.what == Some("user") {
        renumber(work, from, Ino::USR_QUOTA, |sb| sb.usr_quota_inum.set(Ino::USR_QUOTA.0))
    } else {
        renumber(work, from, Ino::GRP_QUOTA, |sb| sb.grp_quota_inum.set(Ino::GRP_QUOTA.0))
    }
}

#[doc(alias = "e2fsck_move_ext3_journal")]
fn hide_journal(work: &mut Work<'_, '_>, f: &Finding) -> Result<()> {
    let (Some(from), Some(name)) = (f.place.ino, &f.args.name) else { return Ok(()) };
    work.step(|edit| {
        let mut root = raw(edit.vol, Ino::ROOT)?;
        edit.remove_entry(&mut root, name)?;
        edit.put(&mut root)
    })?;
    renumber(work, from, Ino::JOURNAL, |sb| sb.journal_inum.set(Ino::JOURNAL.0))
}

/// Keep the journal's block map and size in the superblock as well.
fn back_journal_up(work: &mut Work<'_, '_>) -> Result<()> {
    let ino = Ino(work.vol().superblock().journal_inum.get());
    let copy = journal_copy(&raw(work.vol(), ino)?.inode);
    superblock(work, |sb| {
        sb.jnl_backup_type = 1;
        for (to, from) in sb.jnl_blocks.iter_mut().zip(copy) {
            to.set(from);
        }
    })
}

/// A descriptor whose flags cannot be trusted: everything in the group counts as in use until it was looked at.
fn descriptor(work: &mut Work<'_, '_>, f: &Finding) -> Result<()> {
    let Some(group) = f.place.group else { return Ok(()) };
    let problem = f.problem;
    work.step(|edit| {
        let mut desc = edit.vol.group(group)?;
        let both = BgFlags::BLOCK_UNINIT | BgFlags::INODE_UNINIT;
        match problem {
            P::BlockBitmapUninitLast => desc.set_bg_flags(desc.bg_flags() - BgFlags::BLOCK_UNINIT),
            P::GroupDescItableUnused => {
                desc.set_itable_unused(0);
                if group.0 == 0 {
                    desc.set_bg_flags(desc.bg_flags() - BgFlags::INODE_UNINIT);
                }
            }
            _ => {
                desc.set_bg_flags(desc.bg_flags() - both);
                desc.set_itable_unused(0);
            }
        }
        edit.vol.store_group(edit.store, group, &desc)
    })?;
    Ok(())
}

fn make_mmp(work: &mut Work<'_, '_>) -> Result<()> {
    work.step(|edit| {
        let sb = edit.vol.superblock();
        let at = Fsblk(sb.mmp_block.get());
        let interval = if sb.mmp_update_interval.get() == 0 { MMP_INTERVAL } else { sb.mmp_update_interval.get() };
        let bytes = Mmp::clean(interval).encode(edit.vol.geometry().checksums.seed());
        modify_block(edit.store, at, |block| {
            for (to, from) in block.iter_mut().zip(bytes) {
                *to = from;
            }
        })
    })?;
    Ok(())
}

fn clear_resize_inode(work: &mut Work<'_, '_>) -> Result<()> {
    work.step(|edit| {
        let mut o = OpenInode { ino: Ino::RESIZE, inode: Inode::empty(edit.vol.geometry().inode_size) };
        edit.put(&mut o)
    })?;
    Ok(())
}

/// Make the resize inode anew, or clear it where the filesystem has none.
pub(super) fn renew_resize_inode(work: &mut Work<'_, '_>) -> Result<()> {
    if work.vol().geometry().features.compat.contains(Compat::RESIZE_INODE) {
        make_resize_inode(work)
    } else {
        clear_resize_inode(work)
    }
}

/// The resize inode: a double-indirect block whose entries are the reserved descriptor blocks; each of those lists its copies
/// in the other groups.
#[doc(alias = "ext2fs_create_resize_inode")]
fn make_resize_inode(work: &mut Work<'_, '_>) -> Result<()> {
    const DIND: usize = 13;
    let now = work.now;
    let old = raw(work.vol(), Ino::RESIZE)?;
    let at = DIND * 4;
    let area = old.inode.block_area();
    let stored = area.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap_or_default()));
    let keep = Fsblk(stored.into());
    let keep = is_resize_block(work.ctx, keep).then_some(keep);
    work.step(|edit| {
        let geo = edit.vol.geometry().clone();
        let goal = geo.gdt_block(Fsblk(0), 0);
        let dind = match keep {
            Some(b) => b,
            None => resize_block(edit, goal)?,
        };
        let bs = geo.block_size as usize;
        let backups: Vec<Group> = geo.all_groups().skip(1).filter(|g| geo.has_super(*g)).collect();
        let first = goal.0 + u64::from(geo.gdt_blocks);
        let mut top = vec![0u8; bs];
        let mut used = 1u64;
        for i in 0..u64::from(geo.reserved_gdt_blocks) {
            let at = first + i;
            let slot = (u64::from(geo.gdt_blocks) + i) as usize % (bs / 4) * 4;
            if let Some(p) = top.get_mut(slot..slot + 4) {
                p.copy_from_slice(&(at as u32).to_le_bytes());
            }
            let copies = backups.iter().map(|g| (at + u64::from(g.0) * u64::from(geo.blocks_per_group)) as u32);
            let mut block: Vec<u8> = copies.flat_map(u32::to_le_bytes).collect();
            block.resize(bs, 0);
            edit.store.create(Fsblk(at), block.into())?;
            used += 1 + backups.len() as u64;
        }
        edit.store.create(dind, top.into())?;
        let mut inode = Inode::empty(geo.inode_size);
        let per = bs as u64 / 4;
        inode.update(|c| {
            if usize::from(geo.inode_size) > GOOD_OLD_SIZE {
                c.extra_isize.set(EXTRA_ISIZE.min(geo.inode_size - GOOD_OLD_SIZE as u16));
            }
            c.mode.set(FileType::Regular.mode_bits() | 0o600);
            c.links_count.set(1);
            if let Some(p) = c.block.get_mut(DIND * 4..DIND * 4 + 4) {
                p.copy_from_slice(&(dind.0 as u32).to_le_bytes());
            }
        });
        for t in [TimeField::Access, TimeField::Change, TimeField::Modify] {
            inode.set_time(t, now);
        }
        inode.set_size((per * per + per + 12) * bs as u64);
        inode.set_blocks_raw(used * u64::from(geo.cluster_ratio) * (bs as u64 / 512));
        edit.put(&mut OpenInode { ino: Ino::RESIZE, inode })
    })?;
    Ok(())
}

/// Whether the resize inode has no block of its own that could be used.
pub(super) fn lacks_resize_block(ctx: &Ctx<'_>) -> bool {
    let Ok(inode) = ctx.vol.raw_inode(Ino::RESIZE) else { return true };
    let area = inode.block_area();
    let at = Fsblk(area.get(52..56).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap_or_default())).into());
    !is_resize_block(ctx, at)
}

/// Whether a block is the double-indirect block of the resize inode: it names the first reserved block. Another one may be
/// somebody's.
fn is_resize_block(ctx: &Ctx<'_>, at: Fsblk) -> bool {
    if !ctx.geo.has_block(at) || ctx.meta.get(at.0) {
        return false;
    }
    let first = ctx.geo.gdt_block(Fsblk(0), 0).0 + u64::from(ctx.geo.gdt_blocks);
    let slot = ctx.geo.gdt_blocks as usize % (ctx.geo.block_size as usize / 4) * 4;
    ctx.vol.block(at).is_ok_and(|b| u64::from(le32(&b, slot)) == first)
}

fn resize_block(edit: &mut Edit<'_>, goal: Fsblk) -> Result<Fsblk> {
    use crate::volume::store::AllocRequest;
    Ok(edit.alloc.allocate(edit.vol, edit.store, AllocRequest::metadata(Ino::RESIZE, goal))?.start)
}
