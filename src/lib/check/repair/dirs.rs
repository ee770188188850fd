//! Pass 2: entries of directories, where they are; holes; and, for indexes and names that are there twice, the whole directory
//! written anew ([`super::rehash`]).

use std::collections::{BTreeMap, BTreeSet};

use super::super::problem::Problem as P;
use super::super::report::Finding;
use super::salvage::{self, rec_len, set_rec_len};
use super::work::{Work, raw};
use super::{inode, rehash};
use crate::error::Result;
use crate::format::dirent::{self, HEADER, min_rec_len};
use crate::format::features::Incompat;
use crate::format::htree;
use crate::format::inline_data::InlineData;
use crate::format::inode::{BLOCK_LEN, FileType, InodeFlags};
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::{Edit, Mapping, OpenInode, Wanted};

/// Entries that go.
const GONE: &[P] = &[
    P::UnusedInode,
    P::LinkDot,
    P::BbInode,
    P::LinkDir,
    P::LinkRoot,
    P::BadIno,
    P::DupDot,
    P::DupDotDot,
    P::NullName,
    P::BadEncryptedName,
    P::UnencryptedFile,
    P::EncryptionPolicy,
    P::DupEncrypted,
    P::EaInodeDirLink,
];
/// Entries of which something is changed.
const CHANGED: &[P] = &[
    P::SetFiletype,
    P::BadFiletype,
    P::ClearFiletype,
    P::BadName,
    P::BadEncodedName,
    P::MissingDot,
    P::FirstNotDot,
    P::DotNullTerm,
    P::BadInodeDot,
    P::SplitDot,
    P::MissingDotDot,
    P::SecondNotDotDot,
    P::DotDotNullTerm,
    P::DirCorrupted,
];
/// Directories that are written anew.
const ANEW: &[P] = &[
    P::HtreeNotRef,
    P::HtreeDupRef,
    P::HtreeMinHash,
    P::HtreeMaxHash,
    P::HtreeBadBlock,
    P::HtreeBadRootNode,
    P::HtreeBadLimit,
    P::HtreeBadCount,
    P::HtreeHashOrder,
    P::HtreeBadDepth,
    P::HtreeRootCsum,
    P::HtreeNodeCsum,
    P::LeafMissingCsum,
    P::ReportDupDirent,
];
const OTHERS: &[P] = &[P::DirectoryHole, P::LeafOnlyCsumInvalid, P::InoRefUnused, P::InoRefUninit, P::BadInlineDirSize];

pub(super) fn mends(p: P) -> bool {
    [GONE, CHANGED, ANEW, OTHERS].iter().any(|l| l.contains(&p))
}

/// Mend directories, each with all that is wrong with it.
pub(super) fn mend(work: &mut Work<'_, '_>, accepted: &[&Finding]) -> Result<()> {
    let mut by_dir: BTreeMap<Ino, Vec<&Finding>> = BTreeMap::new();
    let mut hidden: BTreeSet<Ino> = BTreeSet::new();
    for f in accepted {
        match (f.problem, f.place.ino, f.args.target) {
            (P::InoRefUnused | P::InoRefUninit, _, Some(target)) => {
                hidden.insert(target);
            }
            (_, Some(dir), _) => by_dir.entry(dir).or_default().push(f),
            _ => {}
        }
    }
    for ino in &hidden {
        show(work, *ino)?;
    }
    for (dir, all) in by_dir {
        // What is hidden may be in use after all: its names are looked at in the next round.
        let all: Vec<&Finding> =
            all.into_iter().filter(|f| f.args.target.is_none_or(|t| !hidden.contains(&t))).collect();
        if !all.is_empty() {
            one(work, dir, &all)?;
        }
    }
    Ok(())
}

/// Let the next round look at all inodes of a group.
fn show(work: &mut Work<'_, '_>, ino: Ino) -> Result<()> {
    let Ok((group, _)) = work.ctx.geo.inode_place(ino) else { return Ok(()) };
    work.step(|edit| {
        use crate::format::group_desc::BgFlags;
        let mut desc = edit.vol.group(group)?;
        if desc.bg_flags().contains(BgFlags::INODE_UNINIT) || desc.itable_unused() != 0 {
            desc.set_bg_flags(desc.bg_flags() - (BgFlags::INODE_UNINIT | BgFlags::BLOCK_UNINIT));
            desc.set_itable_unused(0);
            edit.vol.store_group(edit.store, group, &desc)?;
        }
        Ok(())
    })?;
    Ok(())
}

fn one(work: &mut Work<'_, '_>, dir: Ino, all: &[&Finding]) -> Result<()> {
    let o = raw(work.vol(), dir)?;
    if all.iter().any(|f| f.problem == P::BadInlineDirSize) {
        // What does not divide into entries is cut off.
        return inode::clear(work, dir);
    }
    if o.has(InodeFlags::INLINE_DATA) && work.ctx.geo.features.incompat.contains(Incompat::INLINE_DATA) {
        return inline(work, o, all);
    }
    let mut by_block: BTreeMap<u64, Vec<&Finding>> = BTreeMap::new();
    for f in all {
        let edits = GONE.contains(&f.problem) || CHANGED.contains(&f.problem) || f.problem == P::LeafOnlyCsumInvalid;
        if let Some(l) = f.place.lblk
            && edits
        {
            by_block.entry(l.0.into()).or_default().push(f);
        }
    }
    for (lblk, findings) in &by_block {
        block(work, &o, Lblk(*lblk as u32), findings)?;
    }
    for f in all.iter().filter(|f| f.problem == P::DirectoryHole) {
        if let Some(lblk) = f.place.lblk {
            fill_hole(work, dir, lblk)?;
        }
    }
    if all.iter().any(|f| ANEW.contains(&f.problem)) {
        rehash::rebuild(work, dir)?;
    }
    Ok(())
}

fn shape(work: &Work<'_, '_>, o: &OpenInode) -> salvage::Shape {
    let geo = work.ctx.geo;
    salvage::Shape {
        block_size: geo.block_size as usize,
        hashed: work.vol().dir_format(o.owner()).hash_in_entry,
        inodes: geo.inodes_count,
        dots: false,
    }
}

/// Mend the entries of one block.
fn block(work: &mut Work<'_, '_>, o: &OpenInode, lblk: Lblk, findings: &[&Finding]) -> Result<()> {
    let shape = salvage::Shape { dots: lblk.0 == 0, ..shape(work, o) };
    let filetype = work.ctx.geo.features.incompat.contains(Incompat::FILETYPE);
    let at = findings.iter().find_map(|f| f.place.block);
    work.step(|edit| {
        let pblk = match at {
            Some(b) => b,
            None => match edit.vol.map(o.owner(), lblk)? {
                Mapping::Mapped { pblk, .. } => pblk,
                Mapping::Hole { .. } => return Ok(()),
            },
        };
        let seed = edit.seed(o);
        let mut bytes = edit.store.read(pblk)?.to_vec();
        let tailed = seed.is_some() && dirent::has_tail(&bytes);
        let index = o.has(InodeFlags::INDEX) && crate::volume::is_index_block(&bytes, lblk);
        let end = if tailed { bytes.len() - dirent::TAIL_SIZE } else { bytes.len() };
        if let Some(part) = bytes.get_mut(..end) {
            entries(part, 0, o.ino, findings, shape, filetype);
        }
        if let Some(seed) = seed {
            if tailed {
                dirent::stamp(&mut bytes, seed);
            } else if index {
                htree::stamp(&mut bytes, seed);
            }
        }
        edit.store.write(pblk, bytes.into())
    })?;
    Ok(())
}

/// Apply findings to a list of entries; offsets are from its start.
fn entries(b: &mut [u8], start: usize, dir: Ino, findings: &[&Finding], shape: salvage::Shape, filetype: bool) {
    for f in findings {
        let at = f.place.offset.unwrap_or_default() as usize;
        if f.problem != P::DirCorrupted && at + HEADER <= b.len() {
            entry(b, at, dir, f, shape.block_size, filetype);
        }
    }
    if findings.iter().any(|f| f.problem == P::DirCorrupted) {
        salvage::salvage(b, start, shape);
    }
}

fn put(b: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = b.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

/// Mend one entry.
fn entry(b: &mut [u8], at: usize, dir: Ino, f: &Finding, size: usize, filetype: bool) {
    let code = if filetype { FileType::Directory.dirent_code() } else { 0 };
    match f.problem {
        p if GONE.contains(&p) => put(b, at, &[0; 4]),
        P::SetFiletype | P::BadFiletype => put(b, at + 7, &[f.args.want.unwrap_or_default() as u8]),
        P::ClearFiletype => put(b, at + 7, &[0]),
        P::BadName | P::BadEncodedName => {
            let len = usize::from(b.get(at + 6).copied().unwrap_or_default());
            if let Some(name) = b.get_mut(at + HEADER..at + HEADER + len) {
                plain_name(name, f.problem == P::BadEncodedName);
            }
        }
        P::MissingDot | P::FirstNotDot | P::DotNullTerm => {
            if rec_len(b, at, size) < min_rec_len(1, false) {
                set_rec_len(b, at, min_rec_len(1, false), size);
            }
            put(b, at, &dir.0.to_le_bytes());
            put(b, at + 6, &[1, code, b'.', 0]);
            split_dot(b, at, size);
        }
        P::BadInodeDot => put(b, at, &dir.0.to_le_bytes()),
        P::SplitDot => split_dot(b, at, size),
        P::MissingDotDot | P::SecondNotDotDot | P::DotDotNullTerm => {
            if rec_len(b, at, size) < min_rec_len(2, false) {
                set_rec_len(b, at, min_rec_len(2, false), size);
            }
            // Pass 3 knows who the parent is.
            put(b, at, &Ino::ROOT.0.to_le_bytes());
            put(b, at + 6, &[2, code, b'.', b'.', 0]);
        }
        _ => {}
    }
}

/// Make room for `..` behind `.`.
fn split_dot(b: &mut [u8], at: usize, size: usize) {
    const DOT: usize = min_rec_len(1, false);
    let len = rec_len(b, at, size);
    let rest = len.saturating_sub(DOT);
    if rest <= DOT || at + len > b.len() {
        return;
    }
    set_rec_len(b, at, DOT, size);
    // What is there may be `..` and all that follows it.
    let next = rec_len(b, at + DOT, size);
    if b.get(at + DOT + 6) == Some(&2)
        && b.get(at + DOT + HEADER..at + DOT + HEADER + 2) == Some(b"..")
        && next >= DOT
        && next.is_multiple_of(4)
        && at + DOT + next <= b.len()
    {
        return;
    }
    put(b, at + DOT, &[0; HEADER]);
    set_rec_len(b, at + DOT, rest, size);
}

/// Replace what may not be in a name by dots.
fn plain_name(name: &mut [u8], encoded: bool) {
    for c in name.iter_mut().filter(|c| matches!(**c, 0 | b'/')) {
        *c = b'.';
    }
    if encoded && !crate::format::casefold::is_valid(name) {
        for c in name.iter_mut().filter(|c| !c.is_ascii()) {
            *c = b'.';
        }
    }
}

/// The content of an inline directory is the parent's number, entries in the block area, and entries in an attribute.
fn inline(work: &mut Work<'_, '_>, mut o: OpenInode, all: &[&Finding]) -> Result<()> {
    let shape = shape(work, &o);
    let filetype = work.ctx.geo.features.incompat.contains(Incompat::FILETYPE);
    let Ok(data) = InlineData::read(&o.inode) else { return Ok(()) };
    let Ok(mut content) = data.content(o.inode.size()) else { return Ok(()) };
    let anew = all.iter().any(|f| ANEW.contains(&f.problem));
    let of = |part: u32| -> Vec<&Finding> {
        all.iter().copied().filter(|f| f.place.lblk == Some(Lblk(part)) && f.problem != P::MissingDotDot).collect()
    };
    let (first, second) = (of(0), of(1));
    work.step(|edit| {
        if all
            .iter()
            .any(|f| f.problem == P::MissingDotDot || (f.problem == P::BadIno && f.args.name.as_deref() == Some(b"..")))
        {
            put(&mut content, 0, &Ino::ROOT.0.to_le_bytes());
        }
        let split = BLOCK_LEN.min(content.len());
        let (area, more) = content.split_at_mut(split);
        let first: Vec<&Finding> = first.into_iter().filter(|f| f.place.offset.is_some_and(|o| o >= 4)).collect();
        inline_part(area, 4, o.ino, &first, shape, filetype);
        inline_part(more, 0, o.ino, &second, shape, filetype);
        edit.write_inline(&mut o, &content)?;
        edit.put(&mut o)
    })?;
    if anew {
        rehash::rebuild(work, o.ino)?;
    }
    Ok(())
}

fn inline_part(b: &mut [u8], start: usize, dir: Ino, findings: &[&Finding], shape: salvage::Shape, filetype: bool) {
    entries(b, start, dir, findings, shape, filetype);
}

/// Give a directory the block that it lacks: empty, or with `.` and `..` where it is the first.
fn fill_hole(work: &mut Work<'_, '_>, dir: Ino, lblk: Lblk) -> Result<()> {
    work.step(|edit| {
        let mut o = raw(edit.vol, dir)?;
        if matches!(edit.vol.map(o.owner(), lblk)?, Mapping::Mapped { .. }) {
            return Ok(());
        }
        let got = edit.allocate_range(&mut o, Wanted { lblk, len: 1, unwritten: false, ahead: 0 })?;
        empty_block(edit, &o, lblk, got.pblk)?;
        edit.put(&mut o)
    })?;
    Ok(())
}

fn empty_block(edit: &mut Edit<'_>, o: &OpenInode, lblk: Lblk, at: Fsblk) -> Result<()> {
    let mut bytes = vec![0; edit.block_size()];
    let mut packer = dirent::DirPacker::new(&mut bytes, edit.vol.dir_format(o.owner()));
    if lblk.0 == 0 {
        for (ino, name) in [(o.ino, &b"."[..]), (Ino::ROOT, b"..")] {
            let _ = packer.push(&rehash::dot(ino, name));
        }
    }
    packer.finish(edit.seed(o).unwrap_or(0));
    edit.store.create(at, bytes.into())
}
