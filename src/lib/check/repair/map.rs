//! Block maps: an extent tree is written anew from the extents that hold; bad pointers are taken out of an indirect map, where
//! they are; blocks that belong to several files are copied (pass 1D).

use std::collections::BTreeSet;

use super::super::blocks::{Claims, Walk, extent_header};
use super::super::problem::Problem as P;
use super::super::report::Finding;
use super::super::shape::has_block_map;
use super::super::state::{Ctx, Deaf};
use super::super::view::View;
use super::inode;
use super::work::{Work, raw};
use crate::error::Result;
use crate::format::extent::Extent;
use crate::format::features::Incompat;
use crate::format::inode::{FileType, InodeFlags};
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::edit::modify_block;
use crate::volume::{Edit, OpenInode};

/// Pointers that are looked at in one map.
const MAX_POINTERS: u64 = 1 << 26;

const TREE: &[P] = &[
    P::ExtentBadStart,
    P::ExtentEndsBeyond,
    P::OutOfOrderExtents,
    P::ExtentHeaderInvalid,
    P::ExtentLengthZero,
    P::ExtentOnlyCsumInvalid,
    P::ExtentIndexStart,
    P::ExtentEndOutOfBounds,
    P::CollapseDirBlock,
    P::UninitDirBlock,
    P::ExtentCollision,
    P::ExtentBadMaxDepth,
    P::NoBigallocBlockMap,
];
/// Those of single extents, or of index entries.
const EXTENTS: &[P] =
    &[P::ExtentBadStart, P::ExtentEndsBeyond, P::OutOfOrderExtents, P::ExtentEndOutOfBounds, P::ExtentCollision];
const POINTERS: &[P] = &[P::IllegalBlockNum, P::TooBigDir, P::TooBigReg, P::TooBigSymlink, P::BadBlockIllegalNum];

pub(super) fn mends(p: P) -> bool {
    TREE.contains(&p) || POINTERS.contains(&p)
}

/// Mend an inode's map.
pub(super) fn mend(work: &mut Work<'_, '_>, ino: Ino, all: &[&Finding]) -> Result<()> {
    let o = raw(work.vol(), ino)?;
    let is_tree = work.ctx.geo.features.incompat.contains(Incompat::EXTENTS) && o.has(InodeFlags::EXTENTS);
    let has = |p: P| all.iter().any(|f| f.problem == p);
    if !is_tree && !has(P::NoBigallocBlockMap) {
        return prune(work, o);
    }
    let Some(mut extents) = extents_of(work.ctx, &o) else { return Ok(()) };
    if has(P::CollapseDirBlock) {
        collapse(work.ctx, &mut extents);
    }
    if has(P::UninitDirBlock) {
        for e in &mut extents {
            e.unwritten = false;
        }
    }
    let deep = extent_header(&o.inode.block_area()).is_some_and(|(_, depth)| depth > 0);
    // An index entry has no length.
    let wrong = |f: &&Finding| EXTENTS.contains(&f.problem) && f.args.num.is_some_and(|len| len > 0);
    if extents.is_empty() && deep && all.iter().any(wrong) {
        // All extents of the leaves were wrong: nothing of the file is left.
        return inode::clear(work, ino);
    }
    rebuild(work, o, &extents)
}

/// What is mapped, as far as it can be followed and holds.
pub(super) fn extents_of(ctx: &Ctx<'_>, o: &OpenInode) -> Option<Vec<Extent>> {
    let v = View::new(o.ino, o.inode.as_bytes())?;
    if !has_block_map(&v, ctx) {
        return None;
    }
    let mut claims = Claims::default();
    claims.keep_map = true;
    let mut walk = Walk { ctx, judge: &mut Deaf, v: &v, out: &mut claims };
    let tree = ctx.geo.features.incompat.contains(Incompat::EXTENTS) && v.has(InodeFlags::EXTENTS);
    let walked = if tree { walk.extents() } else { walk.indirect() };
    walked.ok()?;
    let mut out = Vec::with_capacity(claims.map.len());
    for r in &claims.map {
        let mut done = 0;
        while done < r.len {
            let len = (r.len - done).min(u64::from(u16::MAX >> 1));
            out.push(Extent {
                lblk: Lblk((r.lblk + done) as u32),
                len: len as u32,
                pblk: Fsblk(r.pblk + done),
                unwritten: r.unwritten,
            });
            done += len;
        }
    }
    Some(out)
}

/// Close gaps between the blocks of a directory. A cluster's blocks keep their places in it.
fn collapse(ctx: &Ctx<'_>, extents: &mut [Extent]) {
    let mask = u64::from(ctx.geo.cluster_ratio) - 1;
    let mut next = 0u64;
    for e in extents {
        if u64::from(e.lblk.0) > next {
            let at = if mask == 0 { next } else { ((next + mask) & !mask) | (e.pblk.0 & mask) };
            e.lblk = Lblk(at.min(e.lblk.0.into()) as u32);
        }
        next = e.end();
    }
}

/// Give an inode a new map, with nodes of its own.
pub(super) fn rebuild(work: &mut Work<'_, '_>, o: OpenInode, extents: &[Extent]) -> Result<()> {
    work.step(|edit| write_map(edit, o, extents))?;
    Ok(())
}

pub(super) fn write_map(edit: &mut Edit<'_>, mut o: OpenInode, extents: &[Extent]) -> Result<()> {
    if edit.vol.geometry().features.incompat.contains(Incompat::EXTENTS)
        && (o.has(InodeFlags::EXTENTS) || edit.vol.geometry().cluster_ratio > 1)
    {
        edit.init_extents(&mut o);
    } else {
        o.inode.update(|c| c.block.fill(0));
    }
    o.inode.set_blocks_raw(0);
    o.set(InodeFlags::HUGE_FILE, false);
    let mut clusters = BTreeSet::new();
    let bits = edit.vol.geometry().cluster_bits;
    let mut count = 0i64;
    for e in extents {
        edit.map_blocks(&mut o, *e)?;
        if bits == 0 {
            count += i64::from(e.len);
        } else {
            clusters.extend((e.pblk.0 >> bits)..=((e.pblk.0 + u64::from(e.len) - 1) >> bits));
        }
    }
    count += clusters.len() as i64 + i64::from(o.inode.file_acl().0 != 0);
    edit.count_clusters(&mut o, count)?;
    edit.put(&mut o)
}

/// Clear the pointers that lead nowhere.
fn prune(work: &mut Work<'_, '_>, mut o: OpenInode) -> Result<()> {
    let ctx = work.ctx;
    let kind = o.inode.file_type();
    work.step(|edit| {
        let mut pruner = Pruner { ctx, kind, high: o.inode.core().size_high.get() != 0, looked: 0 };
        let mut area = o.inode.block_area();
        let per = u64::from(ctx.geo.block_size / 4);
        let mut lblk = 0;
        for (slot, p) in area.chunks_exact_mut(4).enumerate() {
            let level = slot.saturating_sub(11) as u32;
            pruner.pointer(edit, p, level, lblk, per)?;
            lblk += per.pow(level);
        }
        o.inode.update(|c| c.block = area);
        edit.put(&mut o)
    })?;
    Ok(())
}

struct Pruner<'p, 'c> {
    ctx: &'p Ctx<'c>,
    kind: Option<FileType>,
    high: bool,
    looked: u64,
}

impl Pruner<'_, '_> {
    /// Whether a pointer at `lblk` can be; index blocks (`level` above 0) are anywhere.
    fn holds(&self, block: u64, level: u32, lblk: u64) -> bool {
        let geo = self.ctx.geo;
        let large = geo.features.incompat.contains(Incompat::LARGEDIR) || self.high;
        let fits = match self.kind {
            Some(FileType::Directory) => large || level > 0 || lblk <= 1 << (31 - geo.block_bits),
            Some(FileType::Regular) | None => true,
            Some(_) => level == 0 && lblk == 0,
        };
        geo.has_block(Fsblk(block)) && fits
    }

    /// Clear a pointer that cannot be, else look at those below it; whether it was changed.
    fn pointer(&mut self, edit: &mut Edit<'_>, p: &mut [u8], level: u32, lblk: u64, per: u64) -> Result<bool> {
        let block = u64::from(p.first_chunk().map_or(0, |b| u32::from_le_bytes(*b)));
        self.looked += 1;
        if block == 0 || self.looked > MAX_POINTERS {
            return Ok(false);
        }
        if !self.holds(block, level, lblk) {
            p.fill(0);
            return Ok(true);
        }
        // What lies on metadata is not written to.
        if level == 0 || self.ctx.meta.get(block) {
            return Ok(false);
        }
        let mut bytes = edit.store.read(Fsblk(block))?.to_vec();
        let mut changed = false;
        let span = per.pow(level - 1);
        for (i, q) in bytes.chunks_exact_mut(4).enumerate() {
            changed |= self.pointer(edit, q, level - 1, lblk + i as u64 * span, per)?;
        }
        if changed {
            modify_block(edit.store, Fsblk(block), |b| b.copy_from_slice(&bytes))?;
        }
        Ok(false)
    }
}
