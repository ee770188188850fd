//! Pass 1: every inode, in pieces of the inode table, in parallel.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::clerk::Clerk;
use super::dup::Sharer;
use super::inode::{Check, Harvest};
use super::problem::{Pass, Problem as P};
use super::quota::Usage;
use super::report::Finding;
use super::state::{Ctx, Dir, Judge, Scout, note};
use super::tally::Tally;
use super::view::{View, le32};
use super::xattrs;
use crate::error::Result;
use crate::format::features::{Incompat, RoCompat};
use crate::format::inode::{FileType, InodeFlags};
use crate::progress::{Step, Unit};
use crate::units::{Fsblk, Group, Ino};

/// Inodes of a piece: one worker looks at them in one go.
const PIECE: u32 = 1024;

/// Inodes of one group's table.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    group: Group,
    first: u32,
    count: u32,
}

/// What pass 1 leaves to the later ones, beyond the maps.
#[derive(Default)]
pub(super) struct Found {
    /// Directories, by number.
    pub(super) dirs: Vec<Dir>,
    /// References to attribute inodes, counted.
    pub(super) ea_refs: BTreeMap<Ino, u64>,
    /// Space and inodes by owner.
    pub(super) usage: Usage,
    /// Inodes where the harvest was not what it should be, and was taken by the clerk.
    pub(super) large_files: bool,
    pub(super) large_dirs: bool,
    /// The list of bad blocks, in order.
    pub(super) bad_blocks: Vec<u64>,
    /// Who claims blocks that others claim too.
    pub(super) sharers: Vec<Sharer>,
}

/// What one worker collects from its piece.
#[derive(Default)]
struct Batch {
    dirs: Vec<Ino>,
    suspects: Vec<Ino>,
    /// Attribute blocks, with whether e2fsck counts the reference as well.
    ea_blocks: Vec<(u64, bool)>,
    ibody_refs: Vec<Ino>,
    usage: Usage,
    tally: Tally,
    large_dirs: bool,
    unreadable: bool,
}

impl Batch {
    /// Take a sound inode's harvest over into the shared maps.
    fn apply(&mut self, ctx: &Ctx<'_>, v: &View<'_>, h: &Harvest, quota: bool) {
        claim(ctx, h);
        if let Some(b) = h.attrs.block {
            // e2fsck looks at no blocks of symbolic links in the inode, so either count is taken for right.
            let inline_link = v.is(FileType::Symlink) && v.has(InodeFlags::INLINE_DATA);
            self.ea_blocks.push((b.0, !inline_link));
        }
        self.ibody_refs.extend_from_slice(&h.attrs.ibody_refs);
        if h.note != 0 {
            ctx.notes.set(v.ino.0.into(), h.note);
        }
        if h.note & note::USED == 0 {
            return;
        }
        ctx.balance.add(v.ino.0.into(), -i32::from(h.links));
        if h.note & note::TYPE == note::DIRECTORY {
            self.dirs.push(v.ino);
        }
        let small = h.claims.clusters < u64::from(ctx.geo.clusters_per_group);
        self.tally.count(v, h.note & note::TYPE, h.claims.clusters != 0, h.claims.fragmented && small);
        self.tally.large_files += u64::from(h.large_file);
        self.large_dirs |= h.large_dir;
        if quota && let Some(clusters) = h.quota {
            let bytes = (clusters << ctx.geo.cluster_bits).saturating_mul(ctx.geo.block_size.into());
            self.usage.add(v, bytes, 1 + h.attrs.inodes);
        }
    }
}

/// Mark an inode's blocks.
fn claim(ctx: &Ctx<'_>, h: &Harvest) {
    // Where blocks may be shared on purpose, claiming them again means nothing.
    let shared = ctx.shares;
    for (at, len) in &h.claims.ranges {
        let (from, to) = bits(ctx, *at, *len);
        if shared {
            ctx.found.set_range(from, to);
        } else {
            ctx.found.claim(from, to, &ctx.dup);
        }
    }
    for (at, len) in &h.claims.misplaced {
        let (from, to) = bits(ctx, *at, *len);
        ctx.found.set_range(from, to);
        ctx.dup.set_range(from, to);
    }
}

/// The bits of a range of blocks.
pub(super) fn bits(ctx: &Ctx<'_>, at: u64, len: u64) -> (u64, u64) {
    (ctx.cluster_bit(Fsblk(at)), ctx.cluster_bit(Fsblk(at + len - 1)) + 1)
}

/// All pieces of inode tables that may hold inodes in use.
pub(super) fn pieces(ctx: &Ctx<'_>) -> Vec<Piece> {
    let mut all = Vec::new();
    for group in ctx.geo.all_groups() {
        let n = ctx.inodes_to_scan(group);
        let mut first = 0;
        while first < n {
            let count = PIECE.min(n - first);
            all.push(Piece { group, first, count });
            first += count;
        }
    }
    all
}

/// Call `f` with every slot of a piece, read into `buf`. `Err` where the table cannot be read.
pub(super) fn each_slot(
    ctx: &Ctx<'_>,
    piece: Piece,
    buf: &mut Vec<u8>,
    mut f: impl FnMut(Ino, Fsblk, &[u8]),
) -> Result<()> {
    let size = usize::from(ctx.geo.inode_size);
    let first = Ino(ctx.geo.group_first_ino(piece.group).0 + piece.first);
    let per_block = ctx.geo.block_size / u32::from(ctx.geo.inode_size);
    let table = ctx.vol.group(piece.group)?.inode_table();
    let start = table.saturating_add(u64::from(piece.first / per_block));
    let blocks = (piece.first % per_block + piece.count).div_ceil(per_block);
    buf.resize(blocks as usize * ctx.geo.block_size as usize, 0);
    ctx.vol.read_blocks(start, buf)?;
    let skip = (piece.first % per_block) as usize * size;
    for (i, slot) in buf.get(skip..).unwrap_or_default().chunks_exact(size).take(piece.count as usize).enumerate() {
        let i = i as u32;
        f(Ino(first.0 + i), start.saturating_add(u64::from((piece.first % per_block + i) / per_block)), slot);
    }
    Ok(())
}

pub(super) fn run(ctx: &mut Ctx<'_>, clerk: &mut Clerk<'_>) -> Result<Found> {
    clerk.pass(Pass::P1);
    let bad_blocks = bad_blocks(ctx, clerk)?;
    let quota = ctx.geo.features.ro_compat.contains(RoCompat::QUOTA);
    let pieces = pieces(ctx);
    ctx.progress.begin(Step { name: "checking inodes", unit: Unit::Inodes, total: Some(ctx.geo.inodes_count.into()) });
    let shared: &Ctx<'_> = ctx;
    let batches: Vec<Batch> = shared.pool.install(|| {
        pieces
            .par_iter()
            .map_init(<(Harvest, Vec<u8>)>::default, |(h, buf), piece| {
                shared.progress.check()?;
                let batch = scout(shared, *piece, h, buf, quota, &bad_blocks);
                shared.progress.advance(piece.count.into());
                Ok(batch)
            })
            .collect::<Result<_>>()
    })?;
    ctx.progress.end();
    let mut total = Batch::default();
    for (piece, b) in pieces.iter().zip(batches) {
        if b.unreadable {
            clerk.report(Finding::group(P::InodeTableUnreadable, piece.group));
        }
        merge(&mut total, b);
    }
    let mut h = Harvest::default();
    for ino in std::mem::take(&mut total.suspects) {
        clerk_inode(ctx, ino, &mut h, quota, clerk, &mut total)?;
    }
    total.tally.bad_blocks = bad_blocks.len() as u64;
    Ok(Found { bad_blocks, ..finish(ctx, total, clerk) })
}

fn merge(total: &mut Batch, b: Batch) {
    total.dirs.extend(b.dirs);
    total.suspects.extend(b.suspects);
    total.ea_blocks.extend(b.ea_blocks);
    total.ibody_refs.extend(b.ibody_refs);
    total.usage.merge(b.usage);
    total.tally.add(&b.tally);
    total.large_dirs |= b.large_dirs;
}

fn scout(ctx: &Ctx<'_>, piece: Piece, h: &mut Harvest, buf: &mut Vec<u8>, quota: bool, bad_blocks: &[u64]) -> Batch {
    let mut batch = Batch::default();
    let read = each_slot(ctx, piece, buf, |ino, block, slot| {
        if !bad_blocks.is_empty() && bad_blocks.binary_search(&block.0).is_ok() {
            if ino == Ino::BAD {
                batch.suspects.push(ino);
            }
            ctx.add_note(ino, note::USED | note::BAD_BLOCK);
            return;
        }
        // Slots that were never used are all zeros, but reserved inodes count as in use, the project quota's among them.
        if View::is_blank(slot) && ino.0 >= ctx.geo.first_ino && ino.0 != ctx.sb.prj_quota_inum.get() {
            return;
        }
        let Some(v) = View::new(ino, slot) else { return };
        // A blank slot has no checksum either.
        let csums_matter = !View::is_blank(slot);
        let mut check = Check { ctx, judge: &mut Scout, v: &v, out: h };
        if check.run_if(csums_matter).is_ok() {
            batch.apply(ctx, &v, h, quota);
        } else {
            batch.suspects.push(ino);
        }
    });
    batch.unreadable = read.is_err();
    batch
}

fn clerk_inode(
    ctx: &Ctx<'_>,
    ino: Ino,
    h: &mut Harvest,
    quota: bool,
    clerk: &mut Clerk<'_>,
    total: &mut Batch,
) -> Result<()> {
    if ctx.note(ino) & note::BAD_BLOCK != 0 {
        clerk.report(Finding::inode(P::BadBlocksInBadBlocks, ino));
        return Ok(());
    }
    let slot = ctx.vol.raw_inode(ino)?;
    let Some(v) = View::new(ino, slot.as_bytes()) else { return Ok(()) };
    let csums_matter = !View::is_blank(slot.as_bytes());
    if csums_matter && ino.0 >= ctx.geo.first_ino && v.bad_checksum(ctx.csums).is_some() && is_among_garbage(ctx, ino) {
        clerk.report(Finding::inode(P::InodeGarbage, ino));
        return Ok(());
    }
    // The clerk never stops.
    let _ = Check { ctx, judge: clerk, v: &v, out: h }.run_if(csums_matter);
    total.apply(ctx, &v, h, quota);
    Ok(())
}

/// Whether most inodes of a block of the table have wrong checksums: the block is something else.
#[doc(alias = "check_inode_block_sanity")]
fn is_among_garbage(ctx: &Ctx<'_>, ino: Ino) -> bool {
    let per = ctx.geo.block_size / u32::from(ctx.geo.inode_size);
    let Ok((_, index)) = ctx.geo.inode_place(ino) else { return false };
    let first = ino.0 - index % per;
    let bad = (first..first + per).filter(|n| {
        let Ok(slot) = ctx.vol.raw_inode(Ino(*n)) else { return false };
        let blank = View::is_blank(slot.as_bytes());
        !blank && View::new(Ino(*n), slot.as_bytes()).is_some_and(|v| v.bad_checksum(ctx.csums).is_some())
    });
    bad.count() * 2 > per as usize
}

/// What is known only when all inodes were looked at: attribute blocks and who refers to what.
fn finish(ctx: &mut Ctx<'_>, mut total: Batch, clerk: &mut Clerk<'_>) -> Found {
    total.dirs.sort_unstable();
    total.ea_blocks.sort_unstable();
    let mut ea_refs: BTreeMap<Ino, u64> = BTreeMap::new();
    for ino in total.ibody_refs {
        *ea_refs.entry(ino).or_default() += 1;
    }
    let large_values = ctx.geo.features.incompat.contains(Incompat::EA_INODE);
    for same in total.ea_blocks.chunk_by(|a, b| a.0 == b.0) {
        let Some(&(at, _)) = same.first() else { continue };
        let users = same.len() as u64;
        let counted = same.iter().filter(|s| s.1).count() as u64;
        if let Some(count) = xattrs::block_refcount(ctx, Fsblk(at))
            && u64::from(count) != users
            && u64::from(count) != counted
        {
            clerk.report(Finding::fs(P::EaRefcount).block(Fsblk(at)).num(count).want(users));
        }
        let (from, to) = bits(ctx, at, 1);
        ctx.found.claim(from, to, &ctx.dup);
        if large_values {
            for ino in xattrs::block_refs(ctx, Fsblk(at)) {
                *ea_refs.entry(ino).or_default() += 1;
            }
        }
    }
    ctx.values = ea_refs.keys().copied().collect();
    ctx.summary.tally = total.tally;
    if total.large_dirs && !ctx.geo.features.incompat.contains(Incompat::LARGEDIR) {
        clerk.report(Finding::fs(P::FeatureLargeDirs));
    }
    Found {
        dirs: total.dirs.into_iter().map(|ino| Dir { ino, parent: Ino(0), dotdot: Ino(0) }).collect(),
        ea_refs,
        usage: total.usage,
        large_files: total.tally.large_files != 0,
        large_dirs: total.large_dirs,
        bad_blocks: Vec::new(),
        sharers: Vec::new(),
    }
}

/// The list of bad blocks, in order; what is wrong with it is reported.
#[doc(alias = "process_bad_block")]
fn bad_blocks(ctx: &Ctx<'_>, clerk: &mut Clerk<'_>) -> Result<Vec<u64>> {
    let Ok(slot) = ctx.vol.raw_inode(Ino::BAD) else { return Ok(Vec::new()) };
    let Some(v) = View::new(Ino::BAD, slot.as_bytes()) else { return Ok(Vec::new()) };
    if v.has(InodeFlags::INLINE_DATA | InodeFlags::EXTENTS) || (0..15).all(|i| v.pointer(i) == 0) {
        return Ok(Vec::new());
    }
    let mut list = BadList { ctx, clerk, data: Vec::new(), nodes: BTreeSet::new() };
    for i in 0..12 {
        list.data(v.pointer(i));
    }
    for level in 1..=3 {
        list.node(v.pointer(11 + level), level);
    }
    let BadList { mut data, nodes, .. } = list;
    data.sort_unstable();
    data.dedup();
    for b in &data {
        if nodes.contains(b) {
            clerk.report(Finding::fs(P::BadInodeMetaBlock).block(Fsblk(*b)));
        } else if ctx.meta.get(*b) {
            bad_metadata(ctx, Fsblk(*b), clerk)?;
        } else {
            ctx.found.set(ctx.cluster_bit(Fsblk(*b)));
        }
    }
    Ok(data)
}

struct BadList<'a, 'c, 'k> {
    ctx: &'a Ctx<'c>,
    clerk: &'a mut Clerk<'k>,
    data: Vec<u64>,
    nodes: BTreeSet<u64>,
}

impl BadList<'_, '_, '_> {
    fn valid(&mut self, pointer: u32) -> bool {
        if pointer == 0 || self.data.len() as u64 > self.ctx.geo.blocks_count {
            return false;
        }
        let b = Fsblk(pointer.into());
        if !self.ctx.geo.has_block(b) {
            // A clerk does not stop.
            let _ = self.clerk.raise(Finding::fs(P::BadBlockIllegalNum).block(b));
            return false;
        }
        true
    }

    fn data(&mut self, pointer: u32) {
        if self.valid(pointer) {
            self.data.push(pointer.into());
        }
    }

    fn node(&mut self, pointer: u32, level: usize) {
        let b = u64::from(pointer);
        if !self.valid(pointer) || !self.nodes.insert(b) {
            return;
        }
        if self.ctx.meta.get(b) {
            self.clerk.report(Finding::fs(P::BadInodeFsBlock).block(Fsblk(b)));
            return;
        }
        self.ctx.found.set(self.ctx.cluster_bit(Fsblk(b)));
        let Ok(bytes) = self.ctx.vol.block(Fsblk(b)) else { return };
        for p in bytes.chunks_exact(4) {
            let p = le32(p, 0);
            if level == 1 { self.data(p) } else { self.node(p, level - 1) }
        }
    }
}

/// A bad block that is metadata: say which.
fn bad_metadata(ctx: &Ctx<'_>, b: Fsblk, clerk: &mut Clerk<'_>) -> Result<()> {
    let geo = ctx.geo;
    for g in geo.all_groups() {
        let start = geo.group_start(g);
        let desc = ctx.vol.group(g)?;
        let first = g.0 == 0;
        // Blocks that are reserved for descriptors to come hold nothing.
        let in_use = u64::from(geo.super_and_gdt_blocks(g)).min(1 + u64::from(geo.gdt_blocks));
        let supers = start.0..start.0 + in_use;
        let problem = if b == start && geo.has_super(g) {
            if first { P::BadPrimarySuper } else { P::BadBackupSuper }
        } else if supers.contains(&b.0) {
            if first { P::BadPrimaryDescriptor } else { P::BadBackupDescriptor }
        } else if b == desc.block_bitmap() {
            P::BlockBitmapBadBlock
        } else if b == desc.inode_bitmap() {
            P::InodeBitmapBadBlock
        } else if (desc.inode_table().0..desc.inode_table().0 + u64::from(geo.itable_blocks)).contains(&b.0) {
            // The scan of the table passes over them.
            return Ok(());
        } else {
            continue;
        };
        clerk.report(Finding::group(problem, g).block(b));
        return Ok(());
    }
    clerk.report(Finding::fs(P::BadBlockClaimed).block(b));
    Ok(())
}
