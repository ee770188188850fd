//! The block map of one inode: extent tree or indirect blocks, followed as far as it can be, whatever is in it.
//!
//! Blocks that are inside the filesystem are counted and claimed even where something else is wrong with the map, so that
//! nobody else is given them. Numbers are in blocks; counts are in clusters.

use super::problem::Problem as P;
use super::report::Finding;
use super::state::{Ctx, Judge, Stop};
use super::view::{View, le16, le32};
use crate::format::extent::{self, ENTRY_SIZE, MAGIC, MAX_DEPTH};
use crate::format::features::{Incompat, RoCompat};
use crate::format::indirect::DIRECT;
use crate::format::inode::{FileType, InodeFlags};
use crate::units::{Fsblk, Ino};

/// Levels of an extent tree that are followed, needed or not.
const DEEPEST: u16 = 16;

/// Blocks of a file that are contiguous in both numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) lblk: u64,
    pub(super) pblk: u64,
    pub(super) len: u64,
    pub(super) unwritten: bool,
}

/// What a walk over a map collects. Reused from inode to inode.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Ranges of blocks, whole clusters with bigalloc: first block, blocks.
    pub(super) ranges: Vec<(u64, u64)>,
    /// Ranges that must be taken for claimed twice: they are not where their cluster is.
    pub(super) misplaced: Vec<(u64, u64)>,
    /// Clusters.
    pub(super) clusters: u64,
    /// Last logical block mapped; `None` where there is none.
    pub(super) last: Option<u64>,
    /// Last logical block that is mapped and written.
    pub(super) last_written: Option<u64>,
    /// The block of logical block 0.
    pub(super) first: Option<Fsblk>,
    /// The blocks are not one contiguous run.
    pub(super) fragmented: bool,
    /// Where asked for: each run of data.
    pub(super) map: Vec<Run>,
    /// Fill `map`.
    pub(super) keep_map: bool,
    /// Physical block before the next one.
    previous: u64,
    /// First logical block that no extent so far reaches.
    next: u64,
    /// Pointers that lead nowhere.
    illegal: u32,
    /// Extent nodes that brought nothing new.
    stale: u32,
    /// The inode is to be cleared: no more of it is looked at.
    given_up: bool,
}

/// Pointers that lead nowhere, in one inode, that are reported one by one.
const MAX_REPORTED: u32 = 12;
/// … and that are looked at before the rest of the map is left alone.
const MAX_ILLEGAL: u32 = 1 << 20;
/// Extent nodes without a new extent before the rest of the tree is left alone.
const MAX_STALE: u32 = 1 << 12;
/// Most separate ranges of one map.
const MAX_RANGES: usize = 1 << 22;

impl Claims {
    pub(super) fn reset(&mut self) {
        let (mut ranges, mut misplaced) = (std::mem::take(&mut self.ranges), std::mem::take(&mut self.misplaced));
        let mut map = std::mem::take(&mut self.map);
        ranges.clear();
        misplaced.clear();
        map.clear();
        *self = Self { ranges, misplaced, map, keep_map: self.keep_map, ..Self::default() };
    }

    fn mapped(&mut self, lblk: u64, pblk: u64, len: u64, unwritten: bool) {
        if !self.keep_map {
            return;
        }
        match self.map.last_mut() {
            Some(r) if r.lblk + r.len == lblk && r.pblk + r.len == pblk && r.unwritten == unwritten => r.len += len,
            _ => self.map.push(Run { lblk, pblk, len, unwritten }),
        }
    }

    fn push(&mut self, at: u64, len: u64) {
        match self.ranges.last_mut() {
            Some((start, n)) if *start + *n == at => *n += len,
            _ => self.ranges.push((at, len)),
        }
    }
}

/// What a walk needs to know.
pub(super) struct Walk<'w, 'c, J> {
    pub(super) ctx: &'w Ctx<'c>,
    pub(super) judge: &'w mut J,
    pub(super) v: &'w View<'w>,
    pub(super) out: &'w mut Claims,
}

/// The header of an extent node, where it can be one: entries and depth.
#[doc(alias = "ext2fs_extent_header_verify")]
pub(super) fn extent_header(area: &[u8]) -> Option<(u16, u16)> {
    let (magic, entries, max, depth) = (le16(area, 0), le16(area, 2), le16(area, 4), le16(area, 6));
    let room = extent::capacity(area.len());
    let fits = usize::from(max) <= room && usize::from(max) + 2 >= room;
    (magic == MAGIC && entries <= max && fits).then_some((entries, depth))
}

/// Where a node's entries may reach.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    /// Last logical block; `None` where there is no limit.
    end: Option<u64>,
}

impl<J: Judge> Walk<'_, '_, J> {
    fn raise(&mut self, problem: P, block: u64, lblk: u64, len: u64) -> Result<bool, Stop> {
        self.judge.raise(Finding::inode(problem, self.v.ino).block(Fsblk(block)).lblk(lblk).num(len))
    }

    fn valid(&self, block: u64) -> bool {
        self.ctx.geo.has_block(Fsblk(block))
    }

    fn is_dir(&self) -> bool {
        self.v.is(FileType::Directory)
    }

    /// Last logical block of the file's size; `None` for an empty file.
    fn eof(&self) -> Option<u64> {
        self.v.size().div_ceil(self.ctx.geo.block_size.into()).checked_sub(1)
    }

    /// Directories end here, without `large_dir`.
    fn dir_limit(&self) -> Option<u64> {
        let large = self.ctx.geo.features.incompat.contains(Incompat::LARGEDIR) || self.v.core().size_high.get() != 0;
        (self.is_dir() && !large).then(|| 1u64 << (31 - self.ctx.geo.block_bits))
    }

    /// Follow the extent tree.
    pub(super) fn extents(&mut self) -> Result<(), Stop> {
        let area = self.v.area();
        let Some((entries, depth)) = extent_header(area) else {
            self.judge.raise(Finding::inode(P::MissingExtentHeader, self.v.ino))?;
            return Ok(());
        };
        if depth > MAX_DEPTH {
            let f = Finding::inode(P::ExtentBadMaxDepth, self.v.ino);
            self.judge.raise(f.num(depth).want(MAX_DEPTH))?;
        }
        if depth > DEEPEST {
            // Nothing that could be followed.
            return Ok(());
        }
        self.node(area, entries, depth, Span { start: 0, end: None }, true)
    }

    fn node(&mut self, area: &[u8], entries: u16, depth: u16, span: Span, judge: bool) -> Result<(), Stop> {
        let mut start = span.start;
        let records = area.chunks_exact(ENTRY_SIZE).skip(1).take(entries.into());
        let mut records = records.peekable();
        while let Some(r) = records.next() {
            let lblk = u64::from(le32(r, 0));
            if depth > 0 {
                let next = records.peek().map(|n| u64::from(le32(n, 0)));
                let end = match next {
                    Some(n) if n > lblk => Some(n - 1),
                    Some(_) => Some(lblk),
                    // As with e2fsck, what ends in the first block sets no bound.
                    None => span.end.or_else(|| self.eof().filter(|e| *e > 0)).filter(|e| *e >= lblk),
                };
                self.index(r, lblk, depth, Span { start, end }, span.end, judge)?;
                if self.is_hopeless() {
                    break;
                }
            } else if let Some(last) = self.leaf_entry(r, lblk, Span { start, end: span.end }, judge)? {
                start = last;
            }
        }
        Ok(())
    }

    /// One index entry: `span` is where its child may reach, `limit` where the node ends.
    fn index(
        &mut self,
        r: &[u8],
        lblk: u64,
        depth: u16,
        span: Span,
        limit: Option<u64>,
        judge: bool,
    ) -> Result<(), Stop> {
        let block = u64::from(le32(r, 4)) | (u64::from(le16(r, 8)) << 32);
        let problem = if !self.valid(block) {
            Some(P::ExtentBadStart)
        } else if lblk < span.start {
            Some(P::OutOfOrderExtents)
        } else if limit.is_some_and(|l| span.end.is_some_and(|e| e > l)) {
            Some(P::ExtentEndOutOfBounds)
        } else {
            None
        };
        if let Some(p) = problem {
            if judge {
                self.raise(p, block, lblk, 0)?;
            }
            return Ok(());
        }
        let mut child_judge = true;
        if self.ctx.meta.get(block) && self.v.ino != Ino::RESIZE {
            child_judge = false;
            self.raise(P::CriticalCollision, block, lblk, 0)?;
        }
        let vol = self.ctx.vol;
        let Ok(bytes) = vol.block(Fsblk(block)) else {
            self.raise(P::ExtentIterateFailure, block, lblk, 0)?;
            return Ok(());
        };
        let header = extent_header(&bytes).filter(|(n, d)| *d == depth - 1 && (*d == 0 || *n > 0));
        let Some((entries, child_depth)) = header else {
            // What lies on metadata is no node of anybody's.
            let p = if child_judge { P::ExtentHeaderInvalid } else { P::ExtentIterateFailure };
            self.raise(p, block, lblk, 0)?;
            return Ok(());
        };
        if entries == 0 && self.is_sole_leaf() {
            self.raise(P::ExtentIterateFailure, block, lblk, 0)?;
            return Ok(());
        }
        let first = u64::from(le32(&bytes, ENTRY_SIZE));
        if entries > 0 && first != lblk {
            self.judge
                .raise(Finding::inode(P::ExtentIndexStart, self.v.ino).block(Fsblk(block)).num(lblk).want(first))?;
        }
        let before = self.out.next;
        self.node(&bytes, entries, child_depth, Span { start: first, end: span.end }, child_judge)?;
        self.out.stale += u32::from(self.out.next == before);
        if self.is_hopeless() {
            return Ok(());
        }
        if let Some(seed) = self.v.seed(self.ctx.csums)
            && extent::verify_block(&bytes, seed).is_err()
        {
            self.raise(P::ExtentOnlyCsumInvalid, block, lblk, 0)?;
        }
        self.out.push(self.ctx.geo.cluster_start(self.ctx.geo.cluster_of(Fsblk(block))).0, self.ratio());
        self.out.clusters += 1;
        Ok(())
    }

    /// Whether the tree is one index entry and its leaf.
    fn is_sole_leaf(&self) -> bool {
        extent_header(self.v.area()) == Some((1, 1))
    }

    fn ratio(&self) -> u64 {
        self.ctx.geo.cluster_ratio.into()
    }

    /// One leaf entry; its last logical block where it was taken.
    fn leaf_entry(&mut self, r: &[u8], lblk: u64, span: Span, judge: bool) -> Result<Option<u64>, Stop> {
        let raw_len = le16(r, 4);
        let unwritten = raw_len > extent::MAX_WRITTEN_LEN;
        let len = u64::from(if unwritten { raw_len - extent::MAX_WRITTEN_LEN } else { raw_len });
        let block = u64::from(le32(r, 8)) | (u64::from(le16(r, 6)) << 32);
        let last = (lblk + len).wrapping_sub(1);
        let beyond_eof = self.eof().is_none_or(|e| last > e) && (unwritten || self.v.has(InodeFlags::VERITY));
        let mut problem = if block == 0 || !self.valid(block) {
            Some(P::ExtentBadStart)
        } else if lblk < span.start {
            Some(P::OutOfOrderExtents)
        } else if len > 0 && span.end.is_some_and(|e| last > e) && !beyond_eof {
            Some(P::ExtentEndOutOfBounds)
        } else if len == 0 {
            Some(P::ExtentLengthZero)
        } else if block + len > self.ctx.geo.blocks_count {
            Some(P::ExtentEndsBeyond)
        } else if self.dir_limit().is_some_and(|l| lblk + len > l) {
            Some(P::TooBigDir)
        } else {
            None
        };
        if problem.is_none() {
            if lblk < self.out.next {
                problem = Some(P::ExtentCollision);
            } else {
                self.out.next = lblk + len;
            }
        }
        if let Some(p) = problem {
            if judge {
                self.raise(p, block, lblk, len)?;
            }
            if judge || len == 0 || !self.valid(block) || block + len > self.ctx.geo.blocks_count {
                return Ok(None);
            }
        }
        if judge && unwritten && self.is_dir() {
            self.raise(P::UninitDirBlock, block, lblk, len)?;
        }
        self.take(block, lblk, len, judge, unwritten)?;
        if !unwritten && !self.is_dir() {
            self.out.last_written = Some(last);
        }
        Ok(Some(last))
    }

    /// Count and claim a run of data blocks.
    fn take(&mut self, block: u64, lblk: u64, len: u64, judge: bool, unwritten: bool) -> Result<(), Stop> {
        let out = &mut *self.out;
        if out.previous != 0 && out.previous + 1 != block {
            out.fragmented = true;
        }
        let expected = out.last.map_or(0, |l| l + 1);
        if judge && self.is_dir() && expected < lblk {
            self.judge.raise(Finding::inode(P::CollapseDirBlock, self.v.ino).num(lblk).want(expected))?;
        }
        let out = &mut *self.out;
        if lblk == 0 {
            out.first = Some(Fsblk(block));
        }
        let geo = self.ctx.geo;
        if geo.cluster_bits == 0 {
            out.push(block, len);
            out.clusters += len;
        } else {
            if unaligned(geo.cluster_bits, out.previous, out.last.unwrap_or(0), block, lblk) {
                self.raise(P::MisalignedCluster, block, lblk, len)?;
                self.out.misplaced.push((block, len));
            }
            let out = &mut *self.out;
            let (first, end) = (block >> geo.cluster_bits, (block + len).div_ceil(self.ctx.geo.cluster_ratio.into()));
            let again = out.previous != 0 && out.previous >> geo.cluster_bits == first;
            let first = first + u64::from(again);
            if first < end {
                out.push(first << geo.cluster_bits, (end - first) << geo.cluster_bits);
                out.clusters += end - first;
            }
        }
        self.out.mapped(lblk, block, len, unwritten);
        self.out.last = Some(lblk + len - 1);
        self.out.previous = block + len - 1;
        Ok(())
    }

    /// Follow direct and indirect blocks.
    pub(super) fn indirect(&mut self) -> Result<(), Stop> {
        let per = u64::from(self.ctx.geo.block_size / 4);
        for i in 0..DIRECT {
            self.data_pointer(self.v.pointer(i), i as u64)?;
        }
        let mut lblk = DIRECT as u64;
        let mut span = 1;
        for level in 1..=3u32 {
            span *= per;
            self.indirect_block(self.v.pointer(DIRECT - 1 + level as usize), lblk, level, span)?;
            lblk += span;
        }
        // Block maps know no unwritten blocks.
        self.out.last_written = self.out.last;
        Ok(())
    }

    fn max_blocks(&self) -> u64 {
        1 << (31 - (self.ctx.geo.block_bits - 10))
    }

    fn too_big(&self, lblk: Option<u64>) -> Option<P> {
        let large_dir = self.ctx.geo.features.incompat.contains(Incompat::LARGEDIR);
        let full = self.out.clusters + 1 >= self.max_blocks();
        match self.v.file_type() {
            Some(FileType::Directory) => {
                let limit = 1u64 << (31 - self.ctx.geo.block_bits);
                let over = !large_dir && self.v.core().size_high.get() == 0 && lblk.is_some_and(|l| l > limit);
                (over || full).then_some(P::TooBigDir)
            }
            Some(FileType::Regular) => full.then_some(P::TooBigReg),
            _ => lblk.is_some_and(|l| l > 0).then_some(P::TooBigSymlink),
        }
    }

    fn illegal(&mut self, problem: P, block: u64, lblk: u64) -> Result<(), Stop> {
        self.out.illegal += 1;
        if self.out.illegal == MAX_REPORTED {
            let answer = self.judge.raise(Finding::inode(P::TooManyBadBlocks, self.v.ino))?;
            self.out.given_up |= answer;
        }
        if self.out.illegal < MAX_REPORTED {
            self.raise(problem, block, lblk, 1)?;
        }
        Ok(())
    }

    /// Whether a map leads in circles, or everywhere: a bound on what hostile pointers cost.
    fn is_hopeless(&self) -> bool {
        self.out.given_up
            || self.out.illegal > MAX_ILLEGAL
            || self.out.stale > MAX_STALE
            || self.out.clusters > 2 * self.ctx.geo.blocks_count
            || self.out.ranges.len() > MAX_RANGES
    }

    fn data_pointer(&mut self, pointer: u32, lblk: u64) -> Result<(), Stop> {
        if pointer == 0 {
            return Ok(());
        }
        let block = u64::from(pointer);
        if !self.valid(block) {
            return self.illegal(P::IllegalBlockNum, block, lblk);
        }
        if let Some(p) = self.too_big(Some(lblk)) {
            return self.illegal(p, block, lblk);
        }
        if self.v.ino == Ino::RESIZE {
            // The reserved descriptor blocks are metadata already; they only count.
            self.out.clusters += 1;
            self.out.last = Some(lblk);
            return Ok(());
        }
        let geo = self.ctx.geo;
        let out = &mut *self.out;
        if out.previous != 0 && out.previous + 1 != block {
            out.fragmented = true;
        }
        if lblk == 0 {
            out.first = Some(Fsblk(block));
        }
        let mask = self.ctx.geo.cluster_ratio as u64 - 1;
        let same = out.previous != 0 && out.previous >> geo.cluster_bits == block >> geo.cluster_bits;
        if geo.cluster_bits == 0 {
            out.push(block, 1);
            out.clusters += 1;
        } else if !(same && block & mask == lblk & mask) {
            out.push(block & !mask, mask + 1);
            out.clusters += 1;
        } else if unaligned(geo.cluster_bits, out.previous, out.last.unwrap_or(0), block, lblk) {
            self.raise(P::MisalignedCluster, block, lblk, 1)?;
            self.out.misplaced.push((block, 1));
        }
        self.out.mapped(lblk, block, 1, false);
        self.out.last = Some(lblk);
        self.out.previous = block;
        Ok(())
    }

    fn indirect_block(&mut self, pointer: u32, lblk: u64, level: u32, span: u64) -> Result<(), Stop> {
        if pointer == 0 {
            return Ok(());
        }
        let block = u64::from(pointer);
        if !self.valid(block) {
            return self.illegal(P::IllegalBlockNum, block, lblk);
        }
        if let Some(p) = self.too_big(None) {
            return self.illegal(p, block, lblk);
        }
        let resize = self.v.ino == Ino::RESIZE;
        if !resize && self.ctx.meta.get(block) {
            self.raise(P::CriticalCollision, block, lblk, 1)?;
        }
        if self.out.previous != 0 && self.out.previous + 1 != block && !resize {
            self.out.fragmented = true;
        }
        if !resize || level == 2 {
            self.out.push(self.ctx.geo.cluster_start(self.ctx.geo.cluster_of(Fsblk(block))).0, self.ratio());
        }
        self.out.clusters += 1;
        if !resize {
            self.out.previous = block;
        }
        let vol = self.ctx.vol;
        let Ok(bytes) = vol.block(Fsblk(block)) else {
            self.raise(P::ExtentIterateFailure, block, lblk, 1)?;
            return Ok(());
        };
        let below = span / u64::from(self.ctx.geo.block_size / 4);
        for (i, p) in bytes.chunks_exact(4).enumerate() {
            let pointer = le32(p, 0);
            let at = lblk + i as u64 * below;
            if level == 1 {
                self.data_pointer(pointer, at)?;
            } else {
                self.indirect_block(pointer, at, level - 1, below)?;
            }
            if self.is_hopeless() {
                break;
            }
        }
        Ok(())
    }
}

/// Whether a logical block is not at its place in the cluster that holds it, or its cluster is split over two.
#[doc(alias = "has_unaligned_cluster_map")]
const fn unaligned(bits: u32, last_pblk: u64, last_lblk: u64, pblk: u64, lblk: u64) -> bool {
    let mask = (1u64 << bits) - 1;
    if lblk & mask != pblk & mask {
        return true;
    }
    last_pblk != 0 && lblk & mask != 0 && lblk >> bits == last_lblk >> bits && pblk >> bits != last_pblk >> bits
}

/// Largest size in bytes of a file with a block map.
pub(super) fn max_mapped_size(block_size: u32) -> u64 {
    let per = u64::from(block_size / 4);
    (DIRECT as u64 + per + per * per + per.saturating_mul(per).saturating_mul(per)).saturating_mul(block_size.into())
}

/// Whether `blocks` counts blocks of the filesystem for this inode.
pub(super) fn counts_fs_blocks(ctx: &Ctx<'_>, v: &View<'_>) -> bool {
    ctx.geo.features.ro_compat.contains(RoCompat::HUGE_FILE) && v.has(InodeFlags::HUGE_FILE)
}
