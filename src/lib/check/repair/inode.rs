//! Pass 1, fields of inodes: each problem says which field is wrong, and what it should be. An inode that is *cleared* keeps its
//! bytes but for links, flags and deletion time: it is no longer in use, and names that lead to it go in pass 2.

use std::collections::BTreeMap;

use super::super::problem::Problem as P;
use super::super::report::Finding;
use super::fields::features;
use super::work::{Work, raw};
use super::{fields, map};
use crate::error::Result;
use crate::format::csum::Checksums;
use crate::format::features::{Incompat, RoCompat};
use crate::format::inode::{FileType, GOOD_OLD_SIZE, Inode, InodeFlags};
use crate::format::{orphan_file, xattr};
use crate::units::{Ino, Lblk};
use crate::volume::Mapping;
use crate::volume::edit::modify_block;

/// Problems that end the inode.
const ENDS: &[P] = &[
    P::RootNoDir,
    P::ZeroLengthDir,
    P::TooManyBadBlocks,
    P::InodeGarbage,
    P::ExtentsSet,
    P::InlineDataSet,
    P::ClearExtentInlineInode,
    P::MissingExtentHeader,
    P::ExtentIterateFailure,
    P::CorruptEncryptionXattr,
    P::BadMode,
    P::BadCharDev,
    P::BadBlockDev,
    P::BadFifo,
    P::BadSocket,
    P::InvalidSymlink,
    P::ZeroLenInode,
];

/// Problems of an inode whose slot is to be as if it never was used.
const BLANKS: &[P] = &[
    P::JournalInodeNotClear,
    P::QuotaInodeNotClear,
    P::OrphanFileNotClear,
    P::InvalidBadInode,
    P::BadInodeMetaBlock,
    P::BadInodeFsBlock,
    P::BadBlocksInBadBlocks,
    P::BadPrimarySuper,
    P::BadPrimaryDescriptor,
];

/// Problems of one field.
const FIELDS: &[P] = &[
    P::RootDtime,
    P::ReservedBadMode,
    P::ZeroDtime,
    P::SetDtime,
    P::LowDtime,
    P::BadISize,
    P::BadIBlocks,
    P::SetImagic,
    P::SetImmutable,
    P::SetNonzeroSize,
    P::JournalBadMode,
    P::QuotaBadMode,
    P::OrphanFileBadMode,
    P::HtreeSet,
    P::HtreeNoDir,
    P::HtreeBadRoot,
    P::HtreeHashVersion,
    P::HtreeIncompat,
    P::HtreeDepth,
    P::HtreeNeedsSiphash,
    P::HtreeCannotSiphash,
    P::ExtraIsize,
    P::AttrNameLen,
    P::AttrValueSize,
    P::AttrHash,
    P::InodeEaCollision,
    P::AttrValueEaInode,
    P::ReadEaBlock,
    P::BadEaBlock,
    P::EaMultiBlock,
    P::EaAllocCollision,
    P::EaBadName,
    P::EaBadValue,
    P::EaBlockOnlyCsumInvalid,
    P::TreatAsDirectory,
    P::UnsetExtentFlag,
    P::FastSymlinkExtents,
    P::InodeOnlyCsumInvalid,
    P::InlineDataNoAttr,
    P::SpecialExtentsInline,
    P::ClearInlineForExtent,
    P::ClearExtentForInline,
    P::ClearBothFlags,
    P::TimeOutOfRange,
    P::CasefoldNonDir,
    P::CasefoldFeature,
    P::MissingEncryptionXattr,
    P::EaInodeFeature,
    P::EaInodeNonReg,
    P::FaddrNonzero,
    P::FileAclNonzero,
    P::FileAclBad,
    P::DirSizeHigh,
    P::BlocksHiNonzero,
    P::FragNonzero,
    P::FsizeNonzero,
    P::FileAclHiNonzero,
    P::BadRefCount,
    P::DirOverflowRefCount,
    P::EaInodeRefCount,
    P::EaInodeSpuriousFlag,
];

pub(super) fn mends(p: P) -> bool {
    [ENDS, BLANKS, FIELDS].iter().any(|l| l.contains(&p))
        || map::mends(p)
        || matches!(p, P::EaRefcount | P::AttrSetEaInodeFlag)
}

/// Mend inodes, each with all that is wrong with it.
pub(super) fn mend(work: &mut Work<'_, '_>, accepted: &[&Finding]) -> Result<()> {
    let mut by_inode: BTreeMap<Ino, Vec<&Finding>> = BTreeMap::new();
    for f in accepted {
        if f.problem == P::EaRefcount {
            refcount(work, f)?;
        } else if let (P::AttrSetEaInodeFlag, Some(value)) = (f.problem, f.args.num) {
            work.step(|edit| {
                let mut o = raw(edit.vol, Ino(value as u32))?;
                set_flag(&mut o.inode, InodeFlags::EA_INODE, true);
                edit.put(&mut o)
            })?;
            allow_values(work)?;
        } else if f.problem == P::EaInodeFeature && f.place.ino.is_some_and(|i| work.ctx.values.contains(&i)) {
            // It holds a value that somebody has: the feature was lost.
            allow_values(work)?;
        } else {
            by_inode.entry(owner(f)).or_default().push(f);
        }
    }
    for (ino, all) in by_inode {
        one(work, ino, &all)?;
    }
    Ok(())
}

fn allow_values(work: &mut Work<'_, '_>) -> Result<()> {
    features(work, |f| f.incompat |= Incompat::EA_INODE)
}

/// The inode that a finding is about; what has none is about the list of bad blocks.
fn owner(f: &Finding) -> Ino {
    f.place.ino.unwrap_or(Ino::BAD)
}

fn one(work: &mut Work<'_, '_>, ino: Ino, all: &[&Finding]) -> Result<()> {
    let has = |list: &[P]| all.iter().any(|f| list.contains(&f.problem));
    // Reserved inodes count as in use whatever they say: nothing of them may stay.
    let reserved = ino != Ino::ROOT && ino.0 < work.ctx.geo.first_ino;
    if has(&[P::OrphanFileNotClear]) {
        super::journal::superblock(work, |sb| sb.orphan_file_inum.set(0))?;
        if !is_orphan_file(work, ino)? {
            // The number was wrong, not the inode.
            return Ok(());
        }
    }
    if has(BLANKS) || (reserved && has(ENDS)) {
        return blank(work, ino);
    }
    if has(ENDS) {
        return clear(work, ino);
    }
    let now = work.now.sec;
    // A deletion time that is also a number of an inode would be taken for a link of the orphan list.
    let dtime = (now as u32).max(work.ctx.geo.inodes_count.saturating_add(1));
    for f in all.iter().filter(|f| f.problem == P::EaBlockOnlyCsumInvalid) {
        stamp_attributes(work, f)?;
    }
    let fields: Vec<&&Finding> = all.iter().filter(|f| FIELDS.contains(&f.problem)).collect();
    if !fields.is_empty() {
        work.step(|edit| {
            let mut o = raw(edit.vol, ino)?;
            for f in &fields {
                field(&mut o.inode, f, dtime, edit.vol.geometry().features.ro_compat.contains(RoCompat::HUGE_FILE));
            }
            edit.put(&mut o)
        })?;
    }
    if all.iter().any(|f| map::mends(f.problem)) {
        if ino == Ino::RESIZE {
            // What its map should be follows from the geometry.
            return fields::renew_resize_inode(work);
        }
        map::mend(work, ino, all)?;
    }
    Ok(())
}

/// Whether the first block of an inode is one of an orphan file.
fn is_orphan_file(work: &Work<'_, '_>, ino: Ino) -> Result<bool> {
    let (o, vol) = (raw(work.vol(), ino)?, work.vol());
    if o.inode.file_type() != Some(FileType::Regular) {
        return Ok(false);
    }
    let Ok(Mapping::Mapped { pblk, .. }) = vol.map(o.owner(), Lblk(0)) else { return Ok(false) };
    Ok(vol.block(pblk).is_ok_and(|b| orphan_file::orphans(&b).is_ok()))
}

/// Take an inode out of use.
pub(super) fn clear(work: &mut Work<'_, '_>, ino: Ino) -> Result<()> {
    let dtime = (work.now.sec as u32).max(work.ctx.geo.inodes_count.saturating_add(1));
    work.step(|edit| {
        let mut o = raw(edit.vol, ino)?;
        o.inode.set_flags(InodeFlags::empty());
        o.inode.update(|c| {
            c.links_count.set(0);
            c.dtime.set(dtime);
        });
        edit.put(&mut o)
    })?;
    Ok(())
}

fn blank(work: &mut Work<'_, '_>, ino: Ino) -> Result<()> {
    work.step(|edit| {
        let mut o = raw(edit.vol, ino)?;
        o.inode = Inode::empty(edit.vol.geometry().inode_size);
        edit.put(&mut o)
    })?;
    Ok(())
}

fn set_flag(inode: &mut Inode, flags: InodeFlags, on: bool) {
    let mut all = inode.flags();
    all.set(flags, on);
    inode.set_flags(all);
}

fn set_type(inode: &mut Inode, t: FileType) {
    inode.update(|c| c.mode.set((c.mode.get() & 0o7777) | t.mode_bits()));
}

/// Change the field that a problem is about.
fn field(inode: &mut Inode, f: &Finding, now: u32, huge: bool) {
    let want = f.args.want.unwrap_or_default();
    match f.problem {
        P::RootDtime | P::SetDtime => inode.update(|c| c.dtime.set(0)),
        P::ZeroDtime => inode.update(|c| c.dtime.set(now)),
        P::LowDtime => inode.update(|c| c.dtime.set(if c.links_count.get() == 0 { now } else { 0 })),
        P::ReservedBadMode => inode.update(|c| c.mode.set(0)),
        P::BadISize => inode.set_size(want),
        P::SetNonzeroSize => inode.set_size(0),
        P::BadIBlocks => {
            if huge {
                inode.set_blocks_raw(want);
            } else {
                inode.update(|c| c.blocks_lo.set(want as u32));
            }
        }
        P::JournalBadMode | P::QuotaBadMode | P::OrphanFileBadMode => set_type(inode, FileType::Regular),
        P::TreatAsDirectory => set_type(inode, FileType::Directory),
        P::ExtraIsize => inode.update(|c| c.extra_isize.set(32)),
        P::InlineDataNoAttr => {
            inode.set_size(0);
            set_flag(inode, InodeFlags::INLINE_DATA, false);
            inode.update(|c| c.block.fill(0));
        }
        P::TimeOutOfRange => earlier(inode),
        P::UnsetExtentFlag => set_flag(inode, InodeFlags::EXTENTS, true),
        P::FaddrNonzero => inode.update(|c| c.obso_faddr.set(0)),
        P::DirSizeHigh => inode.update(|c| c.size_high.set(0)),
        P::FragNonzero => inode.update(|c| c.blocks_high.set(c.blocks_high.get() & 0xff00)),
        P::FsizeNonzero => inode.update(|c| c.blocks_high.set(c.blocks_high.get() & 0xff)),
        P::BlocksHiNonzero => inode.update(|c| c.blocks_high.set(0)),
        P::FileAclHiNonzero => inode.update(|c| c.file_acl_high.set(0)),
        P::BadRefCount | P::DirOverflowRefCount => inode.update(|c| c.links_count.set(want as u16)),
        P::EaInodeRefCount => xattr::set_ea_inode_refs(inode, want),
        _ => flags_and_attributes(inode, f),
    }
}

fn flags_and_attributes(inode: &mut Inode, f: &Finding) {
    let flags = match f.problem {
        P::SetImagic => InodeFlags::IMAGIC,
        P::SetImmutable => InodeFlags::IMMUTABLE | InodeFlags::APPEND,
        P::HtreeSet
        | P::HtreeNoDir
        | P::HtreeBadRoot
        | P::HtreeHashVersion
        | P::HtreeIncompat
        | P::HtreeDepth
        | P::HtreeNeedsSiphash
        | P::HtreeCannotSiphash => InodeFlags::INDEX,
        P::FastSymlinkExtents | P::ClearExtentForInline => InodeFlags::EXTENTS,
        P::ClearInlineForExtent => InodeFlags::INLINE_DATA,
        P::SpecialExtentsInline | P::ClearBothFlags => InodeFlags::EXTENTS | InodeFlags::INLINE_DATA,
        P::CasefoldNonDir | P::CasefoldFeature => InodeFlags::CASEFOLD,
        P::MissingEncryptionXattr => InodeFlags::ENCRYPT,
        P::EaInodeFeature | P::EaInodeNonReg | P::EaInodeSpuriousFlag => InodeFlags::EA_INODE,
        // The checksum comes right with every change.
        P::InodeOnlyCsumInvalid | P::EaBlockOnlyCsumInvalid => return,
        _ => {
            // Attributes that cannot be trusted: those in the block where the finding names one, else those in the inode.
            if f.place.block.is_some() || matches!(f.problem, P::FileAclNonzero) {
                inode.set_file_acl(crate::units::Fsblk(0));
            } else if let Some(magic) = inode.xattr_area_mut().get_mut(..4) {
                magic.fill(0);
            }
            return;
        }
    };
    set_flag(inode, flags, false);
}

/// Times after 2310 become those of the first epoch, before 1970.
fn earlier(inode: &mut Inode) {
    let bytes = inode.as_bytes().len();
    inode.update(|c| {
        if bytes <= GOOD_OLD_SIZE {
            return;
        }
        for (sec, extra) in [
            (c.ctime.get(), &mut c.ctime_extra),
            (c.mtime.get(), &mut c.mtime_extra),
            (c.atime.get(), &mut c.atime_extra),
            (c.crtime.get(), &mut c.crtime_extra),
        ] {
            if sec & 0x8000_0000 != 0 && extra.get() & 3 == 3 {
                extra.set(extra.get() & !3);
            }
        }
    });
}

fn stamp_attributes(work: &mut Work<'_, '_>, f: &Finding) -> Result<()> {
    let (Some(at), Checksums::Metadata { seed }) = (f.place.block, work.ctx.csums) else { return Ok(()) };
    if work.ctx.meta.get(at.0) {
        return Ok(());
    }
    work.step(|edit| modify_block(edit.store, at, |b| xattr::stamp_block(b, seed, at)))?;
    Ok(())
}

fn refcount(work: &mut Work<'_, '_>, f: &Finding) -> Result<()> {
    let (Some(at), Some(n)) = (f.place.block, f.args.want) else { return Ok(()) };
    let csums = work.ctx.csums;
    work.step(|edit| {
        modify_block(edit.store, at, |b| {
            xattr::set_refcount(b, n as u32);
            if let Checksums::Metadata { seed } = csums {
                xattr::stamp_block(b, seed, at);
            }
        })
    })?;
    Ok(())
}
