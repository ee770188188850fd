//! Opening what may be damaged: the primary superblock and descriptors where they are usable, else a backup's.

use std::sync::Arc;

use super::bits::Bits;
use super::clerk::Clerk;
use super::problem::Problem as P;
use super::report::Finding;
use super::{CheckOptions, Journal};
use super::{locate, rebuild, rescue};
use crate::device::BlockDevice;
use crate::error::{Error, FeatureBit, FeatureWord, Flaw, Result};
use crate::format::casefold;
use crate::format::features::{Compat, Features, Incompat, READ_INCOMPAT, RoCompat};
use crate::format::superblock::{self, Superblock};
use crate::units::{Fsblk, Group};
use crate::volume::{Geometry, OpenOptions, Volume};

/// Highest `rev_level` there is.
const MAX_REVISION: u32 = 1;
/// Groups that have backups in most filesystems.
const USUAL_BACKUPS: [u32; 8] = [1, 3, 5, 7, 9, 25, 27, 49];
/// A filesystem larger than the device by more than this factor is not opened: its size is wrong beyond doubt.
const MAX_TRUNCATION: u64 = 16;
/// … except below this size in bytes.
const SMALL: u64 = 1 << 30;

/// An opened filesystem.
pub(super) struct Opened {
    pub(super) vol: Volume,
    /// Its descriptors come from a backup, which knows nothing of unused parts.
    pub(super) from_backup: bool,
    /// The primary superblock as it should be, where it is not.
    pub(super) mended: Option<Superblock>,
}

pub(super) fn options(superblock: Option<Fsblk>, block_size: Option<u32>, search_backups: bool) -> OpenOptions {
    OpenOptions { superblock, block_size, search_backups, ..OpenOptions::as_it_is() }
}

/// What is wrong with a superblock, in a word or two.
fn reason(e: &Error) -> &'static str {
    match e {
        Error::NotExt4 { .. } => "no magic number",
        Error::Corrupt { what: Flaw::Checksum { .. }, .. } => "wrong checksum",
        Error::Corrupt { what: Flaw::Field { field, .. }, .. } => field,
        Error::DeviceTooSmall { .. } => "the device is too small",
        _ => "damaged",
    }
}

/// A field that does not keep e2fsck from opening the filesystem, but from checking it: damage that counts.
fn later_field(e: &Error) -> Option<(&'static str, u64)> {
    const FIELDS: [&str; 4] = ["first_ino", "first_data_block", "log_groups_per_flex", "checksum_type"];
    match e {
        Error::Corrupt { what: Flaw::Field { field, value, .. }, .. } if FIELDS.contains(field) => {
            Some((field, *value))
        }
        _ => None,
    }
}

/// What is known here, beyond what reading needs.
const KNOWN: Features = Features {
    compat: Compat::DIR_PREALLOC
        .union(Compat::IMAGIC_INODES)
        .union(Compat::HAS_JOURNAL)
        .union(Compat::EXT_ATTR)
        .union(Compat::RESIZE_INODE)
        .union(Compat::DIR_INDEX)
        .union(Compat::SPARSE_SUPER2)
        .union(Compat::FAST_COMMIT)
        .union(Compat::STABLE_INODES)
        .union(Compat::ORPHAN_FILE),
    incompat: READ_INCOMPAT,
    ro_compat: RoCompat::SPARSE_SUPER
        .union(RoCompat::LARGE_FILE)
        .union(RoCompat::HUGE_FILE)
        .union(RoCompat::GDT_CSUM)
        .union(RoCompat::DIR_NLINK)
        .union(RoCompat::EXTRA_ISIZE)
        .union(RoCompat::QUOTA)
        .union(RoCompat::BIGALLOC)
        .union(RoCompat::METADATA_CSUM)
        .union(RoCompat::READONLY)
        .union(RoCompat::PROJECT)
        .union(RoCompat::SHARED_BLOCKS)
        .union(RoCompat::VERITY)
        .union(RoCompat::ORPHAN_PRESENT),
};

/// Features that change what is right, and that are not known here. (Those that stand in the way of reading were refused
/// when opening.)
fn unknown_features(f: Features) -> Vec<FeatureBit> {
    let rest = Features {
        compat: f.compat.difference(KNOWN.compat),
        ro_compat: f.ro_compat.difference(KNOWN.ro_compat),
        ..Features::default()
    };
    rest.bits().collect()
}

/// Open the filesystem. `None` where there is none to check: that has been reported.
pub(super) fn open(dev: &Arc<dyn BlockDevice>, opts: &CheckOptions, clerk: &mut Clerk<'_>) -> Result<Option<Opened>> {
    let Some(mut opened) = best_superblock(dev, opts, clerk)? else { return Ok(None) };
    // Where both are damaged, a backup knows the features better.
    if !opened.from_backup
        && !is_far_too_large(dev.len(), opened.vol.geometry())
        && !descriptors_are_sound(&opened.vol)?
        && let Some(vol) = other_descriptors(dev, &opened.vol, clerk)?
    {
        opened = Opened { vol, from_backup: true, mended: None };
    }
    let unknown = unknown_features(opened.vol.geometry().features);
    if !unknown.is_empty() {
        return Err(Error::Unsupported { features: unknown });
    }
    if let Some(field) = too_new(opened.vol.superblock()) {
        clerk.report(Finding::fs(P::SuperblockCorrupt).what(field));
        return Ok(None);
    }
    if !check_size(dev.len(), opened.vol.geometry(), clerk) {
        return Ok(None);
    }
    Ok(Some(opened))
}

/// The filesystem by the superblock that can be used best.
fn best_superblock(dev: &Arc<dyn BlockDevice>, opts: &CheckOptions, clerk: &mut Clerk<'_>) -> Result<Option<Opened>> {
    let given = opts.superblock.filter(|b| b.0 != 0);
    let first = Volume::open(Arc::clone(dev), &options(given, opts.block_size, false));
    if given.is_none() {
        let too_much = claims_too_much(&first);
        if too_much && let Some(vol) = elder(dev) {
            let at = backup_block(vol.geometry(), vol.superblock().block_group_nr.get());
            clerk.report(Finding::fs(P::SuperblockTooNew).block(at));
            return Ok(Some(Opened { vol, from_backup: true, mended: None }));
        }
        let too_old = is_too_old(&first);
        if (too_much || too_old)
            && let Some(opened) = modest(dev)
        {
            let finding = if too_old {
                Finding::fs(P::SuperblockField).what("rev_level").num(0u64).want(u64::from(MAX_REVISION))
            } else {
                Finding::fs(P::FeaturesUnknown)
            };
            clerk.report(finding);
            if opened.from_backup {
                clerk.report(Finding::fs(P::DescriptorsLost));
            }
            return Ok(Some(opened));
        }
    }
    let e = match first {
        Ok(vol) => return Ok(Some(Opened { vol, from_backup: given.is_some(), mended: None })),
        Err(e) if !e.is_corruption() => return Err(e),
        Err(e) => e,
    };
    if given.is_some() {
        clerk.report(Finding::fs(P::SuperblockCorrupt).what(reason(&e)));
        return Ok(None);
    }
    match own_backup(dev).map_or_else(|| Volume::open(Arc::clone(dev), &options(None, None, true)), Ok) {
        Ok(vol) => {
            let at = backup_block(vol.geometry(), vol.superblock().block_group_nr.get());
            let finding = match later_field(&e) {
                Some((field, value)) => Finding::fs(P::MiscCorruptSuper).what(field).num(value),
                None => Finding::fs(P::OpenFailed).what(reason(&e)).block(at),
            };
            clerk.report(finding);
            Ok(Some(Opened { vol, from_backup: true, mended: None }))
        }
        Err(Error::Unsupported { features }) => Err(Error::Unsupported { features }),
        Err(_) => Ok(rescued(dev, &e, clerk)),
    }
}

/// The filesystem with better descriptors than the primary ones: those of a backup, or ones for the inode tables that there are.
fn other_descriptors(dev: &Arc<dyn BlockDevice>, vol: &Volume, clerk: &mut Clerk<'_>) -> Result<Option<Volume>> {
    if let Some((other, at)) = better_descriptors(dev, vol.geometry(), sound_groups(vol)?)? {
        clerk.report(Finding::fs(P::CheckDescFailed).block(at));
        return Ok(Some(other));
    }
    if locate::has_table(vol) {
        return Ok(None);
    }
    let found = locate::relocated(dev, vol, &locate::tables(dev));
    if found.is_some() {
        clerk.report(Finding::fs(P::DescriptorsLost));
    }
    Ok(found)
}

/// A field with a value that only a later version can know.
fn too_new(sb: &Superblock) -> Option<&'static str> {
    let folds = sb.features().incompat.contains(Incompat::CASEFOLD);
    if sb.rev_level.get() > MAX_REVISION {
        Some("rev_level")
    } else if folds && sb.encoding.get() > casefold::ENCODING_UTF8_12_1 {
        Some("encoding")
    } else {
        None
    }
}

/// Neither the primary superblock nor a backup at a usual place can be used.
fn rescued(dev: &Arc<dyn BlockDevice>, e: &Error, clerk: &mut Clerk<'_>) -> Option<Opened> {
    let mut mended = rescue::mended(dev);
    if mended.is_none() {
        if let Some((vol, at)) = rescue::scan(dev) {
            clerk.report(Finding::fs(P::OpenFailed).what(reason(e)).block(at));
            return Some(Opened { vol, from_backup: true, mended: None });
        }
        if let Some(made) = rebuild::rebuilt(dev) {
            clerk.report(Finding::fs(P::SuperblockLost).what(reason(e)));
            return Some(Opened { vol: made.vol, from_backup: false, mended: Some(made.sb) });
        }
        let tables = locate::tables(dev);
        if let Some(found) = rescue::relocated(dev, &tables) {
            report_fields(&found.fields, clerk);
            clerk.report(Finding::fs(P::DescriptorsLost));
            return Some(Opened { vol: found.vol, from_backup: true, mended: None });
        }
        if let Some(made) = rebuild::relocated(dev, &tables) {
            clerk.report(Finding::fs(P::SuperblockLost).what(reason(e)));
            clerk.report(Finding::fs(P::DescriptorsLost));
            return Some(Opened { vol: made.vol, from_backup: true, mended: Some(made.sb) });
        }
        mended = rescue::readable(dev);
    }
    if let Some(found) = mended {
        report_fields(&found.fields, clerk);
        return Some(Opened { vol: found.vol, from_backup: false, mended: Some(found.sb) });
    }
    clerk.report(Finding::fs(P::SuperblockCorrupt).what(reason(e)));
    None
}

fn report_fields(fields: &[rescue::Field], clerk: &mut Clerk<'_>) {
    for f in fields {
        clerk.report(Finding::fs(P::SuperblockField).what(f.name).num(f.have).want(f.want));
    }
}

/// A backup where the damaged primary superblock says that groups begin.
fn own_backup(dev: &Arc<dyn BlockDevice>) -> Option<Volume> {
    let mut bytes = [0; superblock::SIZE];
    dev.read_at(superblock::OFFSET, &mut bytes).ok()?;
    let sb = Superblock::decode_unchecked(&bytes).ok()?;
    let size = 1024u32.checked_shl(sb.log_block_size.get()).filter(|s| sb.log_block_size.get() <= 6 && *s > 0)?;
    let per = u64::from(sb.blocks_per_group.get());
    let first = u64::from(sb.first_data_block.get());
    if per < 8 || first > 1 {
        return None;
    }
    let listed = sb.backup_bgs.map(|g| u64::from(g.get()));
    USUAL_BACKUPS.into_iter().map(u64::from).chain(listed).filter(|g| *g > 0).find_map(|g| {
        let at = Fsblk(g.checked_mul(per)?.checked_add(first)?);
        Volume::open(Arc::clone(dev), &options(Some(at), Some(size), false)).ok()
    })
}

/// Whether a superblock has a revision or features that are not known, of which some cannot be.
fn claims_too_much(first: &Result<Volume>) -> bool {
    match first {
        Ok(vol) => {
            let sb = vol.superblock();
            are_too_many(&unknown_features(sb.features())) || sb.rev_level.get() > MAX_REVISION
        }
        Err(Error::Unsupported { features }) => are_too_many(features),
        Err(_) => false,
    }
}

/// Whether features that are not known are damage: more than one that a kernel may have noted, or one that is no successor of
/// those that are known.
fn are_too_many(features: &[FeatureBit]) -> bool {
    const FEW: usize = 2;
    features.len() >= FEW || features.iter().any(|f| !may_come(*f))
}

/// Whether a feature may be somebody's: one with a name, or one of those that come next, as new ones are given one after the
/// other. A journal's device is no filesystem.
fn may_come(feature: FeatureBit) -> bool {
    const NEXT: u32 = 4;
    if feature.name.is_some() {
        return (feature.word, 1 << feature.bit) != (FeatureWord::Incompat, Incompat::JOURNAL_DEV.bits());
    }
    let last = match feature.word {
        FeatureWord::Compat => Compat::ORPHAN_FILE.bits(),
        FeatureWord::Incompat => Incompat::CASEFOLD.bits(),
        FeatureWord::RoCompat => RoCompat::ORPHAN_PRESENT.bits(),
    };
    let next = last.trailing_zeros() + 1;
    (next..next + NEXT).contains(&feature.bit.into())
}

/// The filesystem of a superblock that claims too much, without what is not known, where all else is as if it had not; or of
/// one of revision 0 that has what only later ones have, where the inodes are as those have them.
fn modest(dev: &Arc<dyn BlockDevice>) -> Option<Opened> {
    // The next revision may come.
    let mut sb = rescue::primary(dev).filter(|sb| sb.rev_level.get() != MAX_REVISION + 1)?;
    let f = sb.features();
    sb.set_features(Features {
        compat: f.compat & KNOWN.compat,
        incompat: f.incompat & KNOWN.incompat,
        ro_compat: f.ro_compat & KNOWN.ro_compat,
    });
    sb.rev_level.set(MAX_REVISION);
    sb.update_checksum();
    let vol = rescue::overlaid(dev, &sb)?;
    if descriptors_are_sound(&vol).ok()? && locate::has_root(&vol) {
        return Some(Opened { vol, from_backup: false, mended: Some(sb) });
    }
    let vol = locate::relocated(dev, &vol, &locate::tables(dev))?;
    Some(Opened { vol, from_backup: true, mended: None })
}

/// Whether a superblock of revision 0 has features, and leads to no root directory: its inodes are of another size.
fn is_too_old(first: &Result<Volume>) -> bool {
    first.as_ref().is_ok_and(|vol| {
        let sb = vol.superblock();
        sb.rev_level.get() == 0
            && sb.features() != Features::default()
            && sb.inode_size.get() != vol.geometry().inode_size
            && !locate::has_root(vol)
    })
}

/// A backup that claims less than the primary superblock does: what is new appears in all copies, damage in one.
fn elder(dev: &Arc<dyn BlockDevice>) -> Option<Volume> {
    let vol = own_backup(dev)?;
    let known = unknown_features(vol.geometry().features).is_empty() && too_new(vol.superblock()).is_none();
    (known && descriptors_are_sound(&vol).ok()?).then_some(vol)
}

fn backup_block(geo: &Geometry, group: u16) -> Fsblk {
    geo.group_start(Group(group.into()))
}

/// Whether the filesystem is larger than the device beyond doubt.
const fn is_far_too_large(have: u64, geo: &Geometry) -> bool {
    let need = geo.total_bytes();
    need > SMALL && need / MAX_TRUNCATION > have
}

/// Compare with the device's size; whether the filesystem can be looked at all the same.
fn check_size(have: u64, geo: &Geometry, clerk: &mut Clerk<'_>) -> bool {
    let need = geo.total_bytes();
    if need <= have {
        return true;
    }
    let room = have >> geo.block_bits;
    if is_far_too_large(have, geo) {
        clerk.report(Finding::fs(P::FsSizeWrong).num(geo.blocks_count).want(room));
        clerk.report(Finding::fs(P::SuperblockCorrupt).what("blocks_count"));
        return false;
    }
    clerk.report(Finding::fs(P::FsSizeWrong).num(geo.blocks_count).want(room));
    // A repair would give up what is beyond the end, which may only be missing here.
    !clerk.repairs() || clerk.stopped
}

/// The first backup whose descriptors make sense, and its block. It is of the same size, or of one that the device has room for where
/// the primary one's is not.
fn better_descriptors(dev: &Arc<dyn BlockDevice>, geo: &Geometry, primary: u32) -> Result<Option<(Volume, Fsblk)>> {
    const TRIES: usize = 8;
    let told = geo.all_groups().skip(1).filter(|g| geo.has_super(*g)).take(TRIES);
    // The features that say where backups are may be damaged as well.
    let usual = USUAL_BACKUPS.into_iter().map(Group).filter(|g| g.0 < geo.groups && !geo.has_super(*g));
    let backups = told.chain(usual);
    // Where none is sound, the least damaged is better than nothing.
    let (mut best, mut most) = (None, primary);
    for at in backups.map(|g| geo.group_start(g)) {
        if let Ok(vol) = Volume::open(Arc::clone(dev), &options(Some(at), Some(geo.block_size), false))
            && (vol.geometry().blocks_count == geo.blocks_count
                || (geo.total_bytes() > dev.len() && vol.geometry().total_bytes() <= dev.len()))
        {
            let sound = sound_groups(&vol)?;
            if sound == vol.geometry().groups {
                return Ok(Some((vol, at)));
            }
            if sound > most {
                (best, most) = (Some((vol, at)), sound);
            }
        }
    }
    Ok(best)
}

/// The blocks where a group's bitmaps and table may be.
pub(super) fn allowed_range(geo: &Geometry, group: Group) -> std::ops::Range<u64> {
    if geo.features.incompat.contains(Incompat::FLEX_BG) {
        return geo.first_data_block..geo.blocks_count;
    }
    let start = geo.group_start(group).0;
    start..start + u64::from(geo.blocks_in_group(group))
}

/// Whether all bitmaps and tables are where they may be, and none on top of another.
#[doc(alias = "ext2fs_check_desc")]
pub(super) fn descriptors_are_sound(vol: &Volume) -> Result<bool> {
    Ok(sound_groups(vol)? == vol.geometry().groups)
}

/// How many groups have all their parts where they may be, on top of nothing that came before.
fn sound_groups(vol: &Volume) -> Result<u32> {
    let geo = vol.geometry();
    let (used, twice) = (Bits::new(geo.blocks_count)?, Bits::new(geo.blocks_count)?);
    for g in geo.all_groups() {
        let start = geo.group_start(g).0;
        used.set_range(start, start + u64::from(geo.super_and_gdt_blocks(g)));
    }
    let mut count = 0;
    for g in geo.all_groups() {
        let mut sound = true;
        let desc = vol.group(g)?;
        let range = allowed_range(geo, g);
        let parts =
            [(desc.block_bitmap(), 1), (desc.inode_bitmap(), 1), (desc.inode_table(), u64::from(geo.itable_blocks))];
        for (at, len) in parts {
            let end = at.0.saturating_add(len);
            let inside = at.0 >= range.start && end <= range.end;
            sound &= inside && !used.claim(at.0, end, &twice);
        }
        count += u32::from(sound);
    }
    Ok(count)
}

/// What is said about a journal that was not written back.
pub(super) fn note_recovery(vol: &Volume, opts: &CheckOptions, clerk: &mut Clerk<'_>) {
    let needs = vol.geometry().features.incompat.contains(Incompat::RECOVER);
    if needs && opts.journal == Journal::Skip {
        clerk.report(Finding::fs(P::NeedsRecovery));
    }
}
