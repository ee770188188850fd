//! What the journal, the resize inode and the multiple-mount protection say before the passes begin.

use super::clerk::Clerk;
use super::problem::Problem as P;
use super::report::Finding;
use super::state::Ctx;
use super::view::{le16, le32};
use crate::device::BlockDevice;
use crate::error::{Error, Flaw};
use crate::format::features::{Compat, Incompat};
use crate::format::inode::{FileType, Inode, InodeFlags};
use crate::format::jbd2::{self, JournalIncompat, JournalSuperblock};
use crate::format::mmp::{self, Mmp};
use crate::format::superblock::{self, Superblock};
use crate::journal::backup_inode;
use crate::units::{Fsblk, Group, Ino};
use crate::volume::Owner;

/// `blocktype` of the journal's superblock, in its two versions.
const SUPER_V1: u32 = 3;
const SUPER_V2: u32 = 4;

/// `lacks`: there is to be a journal, and it is known that there is none.
pub(super) fn run(ctx: &Ctx<'_>, external: Option<&dyn BlockDevice>, lacks: bool, clerk: &mut Clerk<'_>) {
    if !lacks {
        journal(ctx, external, clerk);
        convenience(ctx, clerk);
    }
    resize_inode(ctx, clerk);
    mmp(ctx, clerk);
}

pub(super) fn journal(ctx: &Ctx<'_>, external: Option<&dyn BlockDevice>, clerk: &mut Clerk<'_>) {
    let sb = ctx.sb;
    let f = ctx.geo.features;
    let ino = Ino(sb.journal_inum.get());
    let recover = f.incompat.contains(Incompat::RECOVER);
    if sb.journal_uuid != [0; 16] && external.is_none() && (is_journal(ctx, ino) || has_none(ctx)) {
        clerk.report(Finding::inode(P::JournalUuidSpurious, ino));
        return;
    }
    if sb.journal_uuid != [0; 16] {
        match external {
            Some(dev) => external_journal(ctx, dev, clerk),
            None => {
                clerk.report(Finding::fs(P::CantFindJournal));
            }
        }
        return;
    }
    if !f.compat.contains(Compat::HAS_JOURNAL) {
        if ino.0 != 0
            && let Err(what) = journal_start(ctx, ino)
        {
            clerk.report(Finding::inode(P::JournalBadInode, ino).what(what));
        } else if ino.0 != 0 || sb.journal_dev.get() != 0 {
            clerk.report(Finding::inode(P::JournalHasJournal, ino));
        }
        if recover {
            clerk.report(Finding::fs(P::JournalRecoverSet));
        }
        return;
    }
    match journal_start(ctx, ino) {
        Err(what) => not_usable(ctx, ino, what, clerk),
        Ok((first, blocks)) => match ctx.vol.block(first) {
            // What does not even begin like a journal is most likely not one.
            Ok(bytes) if !starts_with_magic(&bytes) => {
                not_usable(ctx, ino, "it does not begin with a journal's superblock", clerk);
            }
            Ok(bytes) => journal_super(ctx, &bytes, blocks, clerk),
            Err(_) => {
                clerk.report(Finding::fs(P::JournalBadSuper).what("it cannot be read"));
            }
        },
    }
}

/// The journal's inode is no journal's: another one is, or the copy of its block map leads to it.
fn not_usable(ctx: &Ctx<'_>, ino: Ino, what: &'static str, clerk: &mut Clerk<'_>) {
    if ino != Ino::JOURNAL && is_journal(ctx, Ino::JOURNAL) {
        clerk.report(Finding::inode(P::JournalInumWrong, Ino::JOURNAL).target(ino).what(what));
    } else if ino == Ino::JOURNAL && ctx.vol.raw_inode(ino).is_ok() && copied(ctx).is_some() {
        clerk.report(Finding::inode(P::JournalInodeLost, ino).what(what));
    } else {
        clerk.report(Finding::inode(P::JournalBadInode, ino).what(what));
    }
}

/// The journal's inode as the copy of its block map has it, where that leads to a journal.
pub(super) fn copied(ctx: &Ctx<'_>) -> Option<Inode> {
    let inode = backup_inode(ctx.sb, ctx.geo.inode_size)?;
    let (first, _) = start_of(ctx, Ino::JOURNAL, &inode).ok()?;
    ctx.vol.block(first).is_ok_and(|b| starts_with_magic(&b)).then_some(inode)
}

fn is_journal(ctx: &Ctx<'_>, ino: Ino) -> bool {
    journal_start(ctx, ino).is_ok_and(|(first, _)| ctx.vol.block(first).is_ok_and(|b| starts_with_magic(&b)))
}

/// Whether nothing but an identifier says that there is a journal.
fn has_none(ctx: &Ctx<'_>) -> bool {
    let f = ctx.geo.features;
    !f.compat.contains(Compat::HAS_JOURNAL) && !f.incompat.contains(Incompat::RECOVER)
}

/// Names that a visible journal may have in the root directory.
const JOURNAL_NAMES: [&[u8]; 4] = [b".journal", b"journal", b".journal.dat", b"journal.dat"];

/// What the superblock keeps of the journal's inode: its block map, and its size with the high half first.
pub(super) fn journal_copy(inode: &Inode) -> [u32; 17] {
    let (area, size) = (inode.block_area(), inode.size());
    std::array::from_fn(|i| match i {
        15 => (size >> 32) as u32,
        16 => size as u32,
        _ => le32(&area, i * 4),
    })
}

/// A sound journal that a repair makes easier to find, and harder to lose.
#[doc(alias = "e2fsck_move_ext3_journal")]
fn convenience(ctx: &Ctx<'_>, clerk: &mut Clerk<'_>) {
    let ino = Ino(ctx.sb.journal_inum.get());
    let internal = ctx.sb.journal_uuid == [0; 16] && ctx.geo.features.compat.contains(Compat::HAS_JOURNAL);
    if !clerk.repairs() || !internal || journal_start(ctx, ino).is_err() {
        return;
    }
    let Ok(inode) = ctx.vol.raw_inode(ino) else { return };
    let stored = ctx.sb.jnl_blocks.map(zerocopy::little_endian::U32::get);
    let kind = ctx.sb.jnl_backup_type;
    if kind == 0 || (kind == 1 && stored.get(..15) != journal_copy(&inode).get(..15)) {
        clerk.report(Finding::inode(P::BackupJournal, ino));
    }
    let flat = !inode.flags().contains(InodeFlags::EXTENTS) || le16(&inode.block_area(), 6) == 0;
    let free = ctx.vol.raw_inode(Ino::JOURNAL).is_ok_and(|j| j.core().links_count.get() == 0);
    if ino == Ino::JOURNAL || inode.core().links_count.get() != 1 || !flat || !free {
        return;
    }
    let Ok(root) = ctx.vol.raw_inode(Ino::ROOT) else { return };
    let owner = Owner { ino: Ino::ROOT, inode: &root };
    let name = JOURNAL_NAMES.into_iter().find(|n| ctx.vol.lookup(owner, n).is_ok_and(|found| found == Some(ino)));
    if let Some(name) = name {
        clerk.report(Finding::inode(P::MoveJournal, ino).name(name));
    }
}

/// The journal's first block and how many it has; what is wrong with its inode.
fn journal_start(ctx: &Ctx<'_>, ino: Ino) -> Result<(Fsblk, u64), &'static str> {
    start_of(ctx, ino, &ctx.vol.raw_inode(ino).map_err(|_| "no such inode")?)
}

fn start_of(ctx: &Ctx<'_>, ino: Ino, inode: &Inode) -> Result<(Fsblk, u64), &'static str> {
    if inode.core().links_count.get() == 0 || inode.file_type() != Some(FileType::Regular) {
        return Err("it is not a regular file");
    }
    if inode.flags().contains(InodeFlags::ENCRYPT) {
        return Err("it is encrypted");
    }
    let blocks = inode.size() >> ctx.geo.block_bits;
    if blocks < jbd2::MIN_BLOCKS.into() {
        return Err("it is too small");
    }
    let extents = ctx.vol.extents(Owner { ino, inode }).map_err(|_| "its block map is damaged")?;
    let mut next = 0;
    for e in &extents {
        if u64::from(e.lblk.0) > next {
            break;
        }
        next = e.end();
    }
    if next < blocks {
        return Err("it has holes");
    }
    let first = extents.first().ok_or("it has holes")?.pblk;
    if ctx.meta.get(first.0) { Err("its first block is metadata") } else { Ok((first, blocks)) }
}

fn starts_with_magic(bytes: &[u8]) -> bool {
    bytes.first_chunk() == Some(&jbd2::MAGIC.to_be_bytes())
}

/// Where the fields of the second version begin, bytes.
pub(super) const V2_FIELDS: usize = 0x24;

fn journal_super(ctx: &Ctx<'_>, bytes: &[u8], blocks: u64, clerk: &mut Clerk<'_>) {
    let Ok(j) = JournalSuperblock::decode_unchecked(bytes) else {
        clerk.report(Finding::fs(P::JournalBadSuper).what("length"));
        return;
    };
    let (kind, maxlen, first, start) = (j.blocktype.get(), j.maxlen.get(), j.first.get(), j.start.get());
    let users = j.nr_users.get();
    let later = bytes.get(V2_FIELDS..V2_FIELDS + 12).is_some_and(|b| b.iter().any(|x| *x != 0)) || users != 0;
    let internal = ctx.sb.journal_uuid == [0; 16];
    if j.magic.get() == jbd2::MAGIC && ((kind == SUPER_V1 && later) || (kind == SUPER_V2 && users > 1 && internal)) {
        clerk.report(Finding::fs(P::JournalClearV2));
        return;
    }
    if kind == SUPER_V2 && users > 1 {
        clerk.report(Finding::fs(P::JournalMultiFs).num(users));
        return;
    }
    let incompat = if kind == SUPER_V2 { j.incompat() } else { JournalIncompat::empty() };
    let unknown =
        !JournalIncompat::SUPPORTED.contains(incompat) || (kind == SUPER_V2 && j.feature_ro_compat.get() != 0);
    let recover = ctx.geo.features.incompat.contains(Incompat::RECOVER);
    let known_kind = kind == SUPER_V1 || kind == SUPER_V2;
    // Descriptors, commits and revokes have no place here; other numbers may be those of later versions.
    let later_kind = !known_kind && !matches!(kind, 1 | 2 | 5);
    if j.magic.get() == jbd2::MAGIC && !recover && (later_kind || (kind == SUPER_V2 && unknown)) {
        clerk.report(Finding::fs(P::JournalUnknownForm).what(if later_kind { "versions" } else { "features" }));
        return;
    }
    let flaw = if j.magic.get() != jbd2::MAGIC {
        Some("magic number")
    } else if !known_kind {
        Some("version")
    } else if j.blocksize.get() != ctx.geo.block_size {
        Some("block size")
    } else if kind == SUPER_V2 && j.verify_checksum().is_err() {
        Some("checksum")
    } else if unknown {
        Some("unknown features")
    } else if u64::from(maxlen) > blocks || maxlen < jbd2::MIN_BLOCKS {
        Some("length")
    } else if first == 0 || first >= maxlen || (recover && start >= maxlen) {
        Some("start")
    } else {
        None
    };
    match flaw {
        // What the log holds is in a form that others may read.
        Some("unknown features") if recover => {
            clerk.report(Finding::fs(P::JournalUnknownFeatures));
        }
        Some(what) => {
            clerk.report(Finding::fs(P::JournalBadSuper).what(what));
        }
        None if start != 0 && !recover => {
            clerk.report(Finding::fs(P::JournalRecoveryClear));
        }
        None => {}
    }
}

/// A journal on a device of its own: a superblock like a filesystem's, then the journal's.
fn external_journal(ctx: &Ctx<'_>, dev: &dyn BlockDevice, clerk: &mut Clerk<'_>) {
    let mut bytes = vec![0; superblock::SIZE];
    let read = dev.read_at(superblock::OFFSET, &mut bytes).and_then(|()| Superblock::decode_unchecked(&bytes));
    let Some(sb) = read.ok().filter(|s| s.magic.get() == superblock::MAGIC) else {
        clerk.report(Finding::fs(P::ExtJournalBadSuper).what("no magic number"));
        return;
    };
    if !sb.features().incompat.contains(Incompat::JOURNAL_DEV) {
        clerk.report(Finding::fs(P::ExtJournalBadSuper).what("it is not a journal"));
        return;
    }
    if sb.verify_checksum().is_err() {
        clerk.report(Finding::fs(P::ExtJournalCsum));
    }
    if sb.uuid != ctx.sb.journal_uuid {
        clerk.report(Finding::fs(P::JournalBadUuid));
        return;
    }
    // Behind the block that the superblock is in.
    let at = if ctx.geo.block_size == 1024 { 2 } else { 1 };
    let mut bytes = vec![0; ctx.geo.block_size as usize];
    match dev.read_at(at * u64::from(ctx.geo.block_size), &mut bytes) {
        Ok(()) => journal_super(ctx, &bytes, sb.blocks_count(), clerk),
        Err(_) => {
            clerk.report(Finding::fs(P::JournalBadSuper).what("it cannot be read"));
        }
    }
}

/// The resize inode: one double-indirect block, which leads to the reserved descriptor blocks of each group.
#[doc(alias = "check_resize_inode")]
fn resize_inode(ctx: &Ctx<'_>, clerk: &mut Clerk<'_>) {
    let Ok(inode) = ctx.vol.raw_inode(Ino::RESIZE) else { return };
    let area = inode.block_area();
    let pointer = |i: usize| le32(&area, i * 4);
    if !ctx.geo.features.compat.contains(Compat::RESIZE_INODE) {
        if (0..15).any(|i| pointer(i) != 0) {
            clerk.report(Finding::inode(P::ClearResizeInode, Ino::RESIZE));
        }
        return;
    }
    if ctx.geo.features.incompat.contains(Incompat::META_BG) {
        return;
    }
    if let Err(what) = resize_map(ctx, &inode, pointer) {
        clerk.report(Finding::inode(P::ResizeInodeInvalid, Ino::RESIZE).what(what));
    }
}

fn resize_map(ctx: &Ctx<'_>, inode: &Inode, pointer: impl Fn(usize) -> u32) -> Result<(), &'static str> {
    const DIND: usize = 13;
    let geo = ctx.geo;
    let dind = Fsblk(pointer(DIND).into());
    if (0..15).any(|i| i != DIND && pointer(i) != 0) {
        return Err("it has other blocks");
    }
    if dind.0 == 0 || !geo.has_block(dind) {
        return Err("it has no double-indirect block");
    }
    if inode.core().links_count.get() == 0 || inode.core().mode.get() & 0o100_000 == 0 {
        return Err("it is not a regular file");
    }
    let dind = ctx.vol.block(dind).map_err(|_| "its block cannot be read")?;
    let per = geo.block_size as usize / 4;
    let backups: Vec<Group> = geo.all_groups().skip(1).filter(|g| geo.has_super(*g)).collect();
    let first = geo.gdt_block(Fsblk(0), 0).0 + u64::from(geo.gdt_blocks);
    // A quarter of them, as e2fsck does.
    for i in 0..u64::from(geo.reserved_gdt_blocks / 4) {
        let block = first + i;
        let slot = (geo.gdt_blocks as usize + i as usize) % per;
        if u64::from(le32(&dind, slot * 4)) != block {
            return Err("a reserved block is missing");
        }
        let ind = ctx.vol.block(Fsblk(block)).map_err(|_| "a reserved block cannot be read")?;
        for (j, g) in backups.iter().enumerate() {
            let want = block + u64::from(g.0) * u64::from(geo.blocks_per_group);
            if u64::from(le32(&ind, j * 4)) != want {
                return Err("a backup's reserved block is missing");
            }
        }
    }
    Ok(())
}

fn mmp(ctx: &Ctx<'_>, clerk: &mut Clerk<'_>) {
    if !ctx.geo.features.incompat.contains(Incompat::MMP) {
        return;
    }
    let at = Fsblk(ctx.sb.mmp_block.get());
    let block = (at.0 > ctx.geo.first_data_block && ctx.geo.has_block(at)).then(|| ctx.vol.block(at).ok()).flatten();
    let Some(bytes) = block else {
        clerk.report(Finding::fs(P::MmpInvalidBlock).block(at));
        return;
    };
    let mmp = match Mmp::decode(&bytes, ctx.csums.seed()) {
        Ok(mmp) => mmp,
        Err(Error::Corrupt { what: Flaw::Checksum { .. }, .. }) => {
            clerk.report(Finding::fs(P::MmpCsumInvalid).block(at));
            return;
        }
        Err(_) => {
            clerk.report(Finding::fs(P::MmpInvalidMagic).block(at));
            return;
        }
    };
    match mmp.seq.get() {
        mmp::SEQ_FSCK => {
            clerk.report(Finding::fs(P::MmpInUse).what("it is being checked"));
        }
        seq if seq > mmp::SEQ_MAX && !mmp.is_clean() => {
            clerk.report(Finding::fs(P::MmpInUse).what("its state is unknown"));
        }
        _ => {}
    }
}
