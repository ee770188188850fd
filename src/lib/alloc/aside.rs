//! Clusters set aside for files in use: for one file, around what it asked for, or for small files together. Positions and
//! lengths in clusters unless they say blocks. Kernel names: `ext4_mb_normalize_request`, `ext4_prealloc_space`,
//! `ext4_locality_group`, `ext4_mb_use_preallocated`.
//!
//! What is set aside is in memory only: in use in the buddies, free in the bitmap. It goes back when the file is cut or let go
//! of, and when space runs out.

use std::collections::BTreeMap;

use super::regular::Goal;
use super::search::Run;
use super::{Allocator, group};
use crate::error::{Error, Result};
use crate::format::bitmap;
use crate::units::{Fsblk, Group, Ino};
use crate::volume::store::{AllocRequest, Allocated, FileInUse, MetaStore};
use crate::volume::{Geometry, Volume};

/// Blocks up to which a file shares what is set aside with others.
#[doc(alias = "mb_stream_req")]
const STREAM_REQUEST: u64 = 16;
/// Blocks set aside for small files together.
#[doc(alias = "mb_group_prealloc")]
const GROUP_PREALLOC: u32 = 512;
/// The least of it, clusters.
const GROUP_PREALLOC_MIN: u32 = 32;
/// Sizes by which the pieces for small files are kept.
#[doc(alias = "PREALLOC_TB_SIZE")]
const SIZES: usize = 10;
/// Pieces of one size that are kept, and how many are left where there were more.
const PIECES: (usize, usize) = (8, 5);
/// Tries before there is no space.
const TRIES: u32 = 3;

/// Set aside for one file.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "MB_INODE_PA")]
struct ForFile {
    /// The block of the file that the first cluster is for.
    lblk: u64,
    group: Group,
    at: u32,
    len: u32,
    /// Not handed out yet.
    free: u32,
}

/// Set aside for small files: all of it is free.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "MB_GROUP_PA")]
struct Shared {
    group: Group,
    at: u32,
    len: u32,
}

/// What is set aside.
#[derive(Clone, Debug, Default)]
pub(super) struct Aside {
    files: BTreeMap<Ino, Vec<ForFile>>,
    shared: [Vec<Shared>; SIZES],
}

/// A request in clusters.
#[derive(Clone, Copy, Debug)]
struct Ask {
    ino: Ino,
    file: FileInUse,
    len: u32,
    /// From what small files share.
    small: bool,
}

impl ForFile {
    fn end(&self, bits: u32) -> u64 {
        self.lblk + (u64::from(self.len) << bits)
    }
}

/// Which list a piece is in.
fn size_of(clusters: u32) -> usize {
    (clusters.max(1).ilog2() as usize).min(SIZES - 1)
}

impl Allocator {
    /// Blocks for a file in use, or for metadata where the filesystem is in use.
    #[doc(alias = "ext4_mb_new_blocks")]
    pub(super) fn allocate_in_use(
        &mut self,
        vol: &mut Volume,
        store: &mut dyn MetaStore,
        request: AllocRequest,
    ) -> Result<Allocated> {
        let geo = vol.geometry();
        let len = request.len.max(1).div_ceil(geo.cluster_ratio).min(geo.clusters_per_group);
        let goal = if geo.has_block(request.goal) { request.goal } else { Fsblk(geo.first_data_block) };
        let (group, at) = geo.cluster_bit_of(goal);
        let mut goal = Goal { group, at, len, exact: false, data: false, stream: false };
        let ask = request.file.map(|file| {
            let end = u64::from(file.lblk.0) + (u64::from(len) << geo.cluster_bits);
            let blocks = file.size.div_ceil(geo.block_size.into());
            let small = end.max(blocks) <= STREAM_REQUEST;
            // What nobody will write more to needs nothing of its own.
            let closed = end == blocks && !file.open;
            (goal.data, goal.stream) = (true, !small && !closed);
            let exact = file.exact || (closed && !small);
            Ask { ino: request.ino, file: FileInUse { exact, ..file }, len, small }
        });
        if ask.is_none() && !self.writeback && self.free_clusters < self.kept + u64::from(len) {
            return Err(Error::NoSpace { what: "blocks", need: 1, have: 0 });
        }
        let claimed = if ask.map_or(self.writeback, |a| a.file.reserved) { 0 } else { i64::from(len) };
        let took = match ask.as_ref().and_then(|a| self.use_aside(vol.geometry(), a, &goal)) {
            Some(run) => run,
            None => self.allocate_new(vol, ask.as_ref(), goal).inspect_err(|_| self.count(0, claimed))?,
        };
        group::mark_clusters(vol, store, took.group, took.at..took.at + took.len, true)?;
        self.free_clusters = self.free_clusters.saturating_sub(took.len.into());
        if let Some(ask) = &ask {
            self.writeback = ask.file.writeback;
        }
        self.count(-i64::from(took.len), claimed);
        let geo = vol.geometry();
        let start = geo.group_start(took.group).saturating_add(u64::from(took.at) << geo.cluster_bits);
        let left = geo.blocks_count.saturating_sub(start.0);
        let len = (took.len << geo.cluster_bits).min(request.len.max(1));
        Ok(Allocated { start, len: left.min(len.into()) as u32 })
    }

    /// Look for clusters, set aside what is found beyond the request, and take the request's part.
    fn allocate_new(&mut self, vol: &Volume, ask: Option<&Ask>, mut goal: Goal) -> Result<Run> {
        let (want, mut lblk) = (goal.len, 0);
        if let Some(ask) = ask {
            lblk = self.normalize(vol, ask, &mut goal);
        }
        for _ in 0..TRIES {
            let Some(run) = self.find_regular(vol, &goal)? else {
                self.discard_in_use(vol, want)?;
                // The place itself was tried; what large files share is the group.
                goal.exact &= !goal.stream;
                continue;
            };
            if goal.stream {
                self.last_group = run.group;
            }
            self.buddy(vol, run.group)?.take(run.at, run.len);
            return Ok(match ask {
                Some(ask) if run.len > want => self.set_aside(vol, ask, &goal, lblk, run),
                _ => run,
            });
        }
        let have = self.available_clusters() << vol.geometry().cluster_bits;
        Err(Error::NoSpace { what: "blocks", need: 1, have })
    }

    /// Take a request's clusters from what is set aside.
    #[doc(alias = "ext4_mb_use_preallocated")]
    fn use_aside(&mut self, geo: &Geometry, ask: &Ask, goal: &Goal) -> Option<Run> {
        let (bits, lblk) = (geo.cluster_bits, u64::from(ask.file.lblk.0));
        if let Some(all) = self.aside.files.get_mut(&ask.ino)
            && let Some(n) = all.iter().position(|p| p.lblk <= lblk && lblk < p.end(bits) && p.free > 0)
        {
            let run = all[n].take(lblk, ask.len, bits);
            if all[n].free == 0 {
                all.remove(n);
            }
            return Some(run);
        }
        if !ask.small {
            return None;
        }
        let block = |group: Group, at: u32| geo.group_start(group).0 + (u64::from(at) << bits);
        let near = block(goal.group, goal.at);
        let mut best: Option<(u64, usize, usize)> = None;
        for size in size_of(ask.len)..SIZES {
            for (n, p) in self.aside.shared[size].iter().enumerate().filter(|(_, p)| p.len >= ask.len) {
                let distance = block(p.group, p.at).abs_diff(near);
                if best.is_none_or(|b| distance < b.0) {
                    best = Some((distance, size, n));
                }
            }
        }
        let (_, size, n) = best?;
        let piece = self.aside.shared[size].remove(n);
        Some(self.take_shared(piece, ask.len))
    }

    /// Take the first `len` clusters of a piece, and put the rest where it belongs.
    #[doc(alias = "ext4_mb_add_n_trim")]
    fn take_shared(&mut self, piece: Shared, len: u32) -> Run {
        let run = Run { group: piece.group, at: piece.at, len };
        let rest = Shared { at: piece.at + len, len: piece.len - len, ..piece };
        if rest.len == 0 {
            return run;
        }
        let list = &mut self.aside.shared[size_of(rest.len)];
        let at = list.iter().position(|p| rest.len < p.len).unwrap_or(list.len());
        list.insert(at, rest);
        if list.len() > PIECES.0 {
            let many = list.len() - PIECES.1;
            let mut gone: Vec<usize> = (0..list.len()).filter(|n| *n != at).take(many).collect();
            gone.reverse();
            for n in gone {
                let p = self.aside.shared[size_of(rest.len)].remove(n);
                if let Some(buddy) = self.groups.get_mut(&p.group) {
                    buddy.give(p.at, p.len);
                }
            }
        }
        run
    }

    /// Set aside what was found, and take the request's part of it.
    #[doc(alias = "ext4_mb_new_preallocation")]
    fn set_aside(&mut self, vol: &Volume, ask: &Ask, goal: &Goal, lblk: u64, run: Run) -> Run {
        if ask.small {
            return self.take_shared(Shared { group: run.group, at: run.at, len: run.len }, ask.len);
        }
        let bits = vol.geometry().cluster_bits;
        let blocks = |n: u32| u64::from(n) << bits;
        let first = u64::from(ask.file.lblk.0);
        let mut from = lblk;
        if run.len < goal.len {
            // Less than wished for: at the end of the wish, at its start, or from the request on, whichever holds the request.
            let late = lblk + blocks(goal.len) - blocks(run.len);
            from = match () {
                () if first >= late => late,
                () if first + blocks(ask.len) <= lblk + blocks(run.len) => lblk,
                () => first,
            };
        }
        let mut piece = ForFile { lblk: from, group: run.group, at: run.at, len: run.len, free: run.len };
        let took = piece.take(first, ask.len, bits);
        if piece.free > 0 {
            self.aside.files.entry(ask.ino).or_default().push(piece);
        }
        took
    }

    /// Wish for more than is asked for: what a file of its size may need next. Returns the block of the file that the wish
    /// begins with.
    #[doc(alias = "ext4_mb_normalize_request")]
    fn normalize(&self, vol: &Volume, ask: &Ask, goal: &mut Goal) -> u64 {
        let (geo, file) = (vol.geometry(), &ask.file);
        let (bits, first) = (geo.block_bits, u64::from(file.lblk.0));
        if file.exact {
            return first;
        }
        if ask.small {
            let stripe = self.stripe >> geo.cluster_bits;
            goal.len = (GROUP_PREALLOC >> geo.cluster_bits).max(GROUP_PREALLOC_MIN);
            if stripe > 1 {
                goal.len = goal.len.next_multiple_of(stripe);
            }
            return first;
        }
        let asked = u64::from(ask.len) << geo.cluster_bits;
        let size = ((first + asked) << bits).max(file.size);
        let (mut start, mut len) = wish(first, asked, size, bits);
        let per_group = u64::from(geo.clusters_per_group) << geo.cluster_bits;
        start = start.max(first - first % per_group);
        let mut end = (start + len).min(u64::from(u32::MAX));
        if let Some((lblk, _)) = file.left {
            start = start.max(u64::from(lblk.0) + 1);
        }
        if let Some((lblk, _)) = file.right.filter(|r| r.1 != Fsblk(0)) {
            end = end.min(lblk.0.into());
        }
        end = end.min(start + per_group);
        for p in self.aside.files.get(&ask.ino).into_iter().flatten() {
            let stop = p.end(geo.cluster_bits);
            if p.lblk >= end || stop <= start {
                continue;
            }
            if stop <= first {
                start = start.max(stop);
            } else if p.lblk > first {
                end = end.min(p.lblk);
            }
        }
        len = end.saturating_sub(start);
        if start > first || end <= first {
            return first;
        }
        goal.len = len.div_ceil(geo.cluster_ratio.into()) as u32;
        if let Some((lblk, pblk)) = file.right
            && u64::from(lblk.0) == end
            && pblk.0 >= len
            && pblk.0 - len >= geo.first_data_block
        {
            (goal.group, goal.at) = geo.cluster_bit_of(Fsblk(pblk.0 - len));
            goal.exact = true;
        }
        if let Some((lblk, pblk)) = file.left
            && u64::from(lblk.0) + 1 == start
            && pblk.0 + 1 < geo.blocks_count
        {
            (goal.group, goal.at) = geo.cluster_bit_of(Fsblk(pblk.0 + 1));
            goal.exact = true;
        }
        start
    }

    /// Give back what is set aside for a file: it is being cut, or let go of.
    #[doc(alias = "ext4_discard_preallocations")]
    pub fn release_file(&mut self, vol: &Volume, ino: Ino) -> Result<()> {
        for p in self.aside.files.remove(&ino).unwrap_or_default() {
            self.give_back(vol, &p)?;
        }
        Ok(())
    }

    /// Give back what the bitmap says is free of what was set aside for a file.
    #[doc(alias = "ext4_mb_release_inode_pa")]
    fn give_back(&mut self, vol: &Volume, p: &ForFile) -> Result<u32> {
        let map = vol.block_bitmap(p.group)?;
        let free: Vec<_> = bitmap::zero_runs(&map, p.at as usize, (p.at + p.len) as usize).collect();
        let mut n = 0;
        let buddy = self.buddy(vol, p.group)?;
        for run in free {
            buddy.give(run.start as u32, run.len() as u32);
            n += run.len() as u32;
        }
        Ok(n)
    }

    /// Space has run out: give back what is set aside, group by group, until `need` clusters are free.
    #[doc(alias = "ext4_mb_discard_preallocations")]
    fn discard_in_use(&mut self, vol: &Volume, need: u32) -> Result<()> {
        let mut left = i64::from(need);
        for group in vol.geometry().all_groups() {
            if left <= 0 {
                break;
            }
            let mut gone = Vec::new();
            for all in self.aside.files.values_mut() {
                gone.extend(all.extract_if(.., |p| p.group == group));
            }
            for p in gone {
                left -= i64::from(self.give_back(vol, &p)?);
            }
            let shared: Vec<Shared> =
                self.aside.shared.iter_mut().flat_map(|l| l.extract_if(.., |p| p.group == group)).collect();
            for p in shared {
                self.buddy(vol, group)?.give(p.at, p.len);
                left -= i64::from(p.len);
            }
        }
        Ok(())
    }
}

impl ForFile {
    /// Take what of a request's `len` clusters from block `lblk` on lies in it.
    #[doc(alias = "ext4_mb_use_inode_pa")]
    fn take(&mut self, lblk: u64, len: u32, bits: u32) -> Run {
        let skip = ((lblk - self.lblk) >> bits) as u32;
        let len = len.min(self.len - skip).min(self.free);
        self.free -= len;
        Run { group: self.group, at: self.at + skip, len }
    }
}

/// What a file of `size` bytes may need around a request of `asked` blocks from `first` on: first block and blocks.
fn wish(first: u64, asked: u64, size: u64, bits: u32) -> (u64, u64) {
    const K: u64 = 1 << 10;
    const M: u64 = 1 << 20;
    let most = 2u64 << bits;
    let within = |have: u64, limit: u64, chunk: u64| have <= limit || most <= chunk;
    let aligned = |log: u32| (first >> (log - bits)) << (log - bits);
    match size {
        s if s <= M => (0, s.next_power_of_two().max(16 * K) >> bits),
        s if within(s, 4 * M, 2 * K) => (aligned(21), (2 * M) >> bits),
        s if within(s, 8 * M, 4 * K) => (aligned(22), (4 * M) >> bits),
        _ if within(asked, (8 * M) >> bits, 8 * K) => (aligned(23), (8 * M) >> bits),
        _ => (first, asked),
    }
}
