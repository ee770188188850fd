//! The free clusters of one group as buddies: aligned chunks of 2^k clusters, each as large as it can be.
//! Positions and lengths in clusters from the start of the group.
//!
//! What is in use here is what may not be handed out: the bitmap's bits, and on top of them clusters that were freed
//! in a transaction not yet committed, and preallocations. Kernel name: `struct ext4_group_info`, `ext4_buddy`.

use crate::format::bitmap;

/// The chunks of one size.
#[derive(Clone, Debug, Default)]
struct Level {
    /// Bit `i`: the chunk from `i << order` is free, and its buddy is not (or it is the largest size).
    map: Vec<u64>,
    count: u32,
}

impl Level {
    fn has(&self, i: u32) -> bool {
        self.map.get(i as usize / 64).is_some_and(|w| w >> (i % 64) & 1 == 1)
    }

    fn set(&mut self, i: u32, on: bool) {
        let Some(word) = self.map.get_mut(i as usize / 64) else { return };
        let mask = 1 << (i % 64);
        if on {
            *word |= mask;
            self.count += 1;
        } else {
            *word &= !mask;
            self.count -= 1;
        }
    }

    fn first(&self) -> Option<u32> {
        let (i, word) = self.map.iter().enumerate().find(|(_, w)| **w != 0)?;
        Some(i as u32 * 64 + word.trailing_zeros())
    }
}

/// Free space of a group.
#[derive(Clone, Debug)]
pub(crate) struct Buddy {
    bits: u32,
    /// A set bit may not be handed out.
    used: Vec<u8>,
    levels: Vec<Level>,
    free: u32,
    fragments: u32,
}

impl Buddy {
    /// From a bitmap, of which `bits` count; chunks have at most `1 << max_order` clusters.
    #[doc(alias = "ext4_mb_generate_buddy")]
    pub(crate) fn new(map: &[u8], bits: u32, max_order: u32) -> Self {
        let mut used = map.get(..bits.div_ceil(8) as usize).unwrap_or(map).to_vec();
        bitmap::set_range(&mut used, bits as usize, usize::MAX);
        let orders = bits.max(1).ilog2().min(max_order) + 1;
        let levels = (0..orders).map(|k| Level { map: vec![0; (bits >> k).div_ceil(64) as usize], count: 0 }).collect();
        let mut buddy = Self { bits, used, levels, free: 0, fragments: 0 };
        let runs: Vec<_> = bitmap::zero_runs(&buddy.used, 0, bits as usize).collect();
        for run in runs {
            buddy.add_chunks(run.start as u32, run.len() as u32);
            buddy.free += run.len() as u32;
            buddy.fragments += 1;
        }
        buddy
    }

    /// Free clusters.
    pub(crate) const fn free(&self) -> u32 {
        self.free
    }

    /// Average length of a free run.
    #[doc(alias = "bb_avg_fragment_size_order")]
    pub(crate) const fn average(&self) -> u32 {
        match self.free.checked_div(self.fragments) {
            Some(n) => n,
            None => 0,
        }
    }

    fn is_free(&self, at: u32) -> bool {
        at < self.bits && !bitmap::test(&self.used, at as usize)
    }

    /// The order of the largest free chunk.
    #[doc(alias = "bb_largest_free_order")]
    pub(crate) fn largest_order(&self) -> Option<u32> {
        self.levels.iter().rposition(|l| l.count > 0).map(|k| k as u32)
    }

    /// Free clusters from `at` on in whole chunks, until there are `need`: what is left of the first chunk, and others as they
    /// follow. May be more than `need`.
    #[doc(alias = "mb_find_extent")]
    pub(crate) fn chunks_from(&self, at: u32, need: u32) -> u32 {
        let mut next = at;
        while next - at < need && self.is_free(next) {
            let Some((start, order)) = self.chunk_at(next) else { break };
            next = start + (1 << order);
        }
        next - at
    }

    /// Length of the free run from `at` on, at most `max`.
    pub(crate) fn run_at(&self, at: u32, max: u32) -> u32 {
        if !self.is_free(at) {
            return 0;
        }
        let end = at.saturating_add(max).min(self.bits) as usize;
        bitmap::find_one(&self.used, at as usize, end).unwrap_or(end) as u32 - at
    }

    /// The free runs, as half-open ranges.
    pub(crate) fn runs(&self) -> impl Iterator<Item = std::ops::Range<u32>> + '_ {
        bitmap::zero_runs(&self.used, 0, self.bits as usize).map(|r| r.start as u32..r.end as u32)
    }

    /// The lowest chunk of the smallest size that holds 2^`order` clusters.
    #[doc(alias = "ext4_mb_simple_scan_group")]
    pub(crate) fn find_order(&self, order: u32) -> Option<u32> {
        let levels = self.levels.iter().enumerate().skip(order as usize);
        levels.filter(|(_, l)| l.count > 0).find_map(|(k, l)| Some(l.first()? << k))
    }

    /// Take `at..at + len`, all of which must be free.
    #[doc(alias = "mb_mark_used")]
    pub(crate) fn take(&mut self, at: u32, len: u32) {
        if len == 0 || self.run_at(at, len) < len {
            debug_assert!(len == 0, "taking clusters that are not free");
            return;
        }
        let end = at + len;
        let left = at > 0 && self.is_free(at - 1);
        let right = self.is_free(end);
        let mut pos = at;
        while pos < end {
            let Some((start, order)) = self.chunk_at(pos) else { break };
            self.levels[order as usize].set(start >> order, false);
            let stop = start + (1 << order);
            self.add_chunks(start, pos - start);
            if stop > end {
                self.add_chunks(end, stop - end);
            }
            pos = stop;
        }
        bitmap::set_range(&mut self.used, at as usize, end as usize);
        self.free -= len;
        self.fragments = self.fragments + u32::from(left) + u32::from(right) - 1;
    }

    /// Give back `at..at + len`, none of which may be free.
    #[doc(alias = "mb_free_blocks")]
    pub(crate) fn give(&mut self, at: u32, len: u32) {
        let end = at.saturating_add(len).min(self.bits);
        let all_used = bitmap::find_zero(&self.used, at as usize, end as usize).is_none();
        if at >= end || !all_used {
            debug_assert!(all_used, "giving back clusters that are free");
            return;
        }
        let left = at > 0 && self.is_free(at - 1);
        let right = self.is_free(end);
        let mut pos = at;
        while pos < end {
            let order = chunk_order(pos, end - pos, self.levels.len() as u32 - 1);
            self.merge_chunk(pos, order);
            pos += 1 << order;
        }
        bitmap::clear_range(&mut self.used, at as usize, end as usize);
        self.free += end - at;
        self.fragments = self.fragments + 1 - u32::from(left) - u32::from(right);
    }

    /// The chunk that holds `pos`.
    fn chunk_at(&self, pos: u32) -> Option<(u32, u32)> {
        let orders = 0..self.levels.len() as u32;
        orders.into_iter().find(|k| self.levels[*k as usize].has(pos >> k)).map(|k| (pos >> k << k, k))
    }

    /// Enter a free run that has no free buddies beside it.
    fn add_chunks(&mut self, at: u32, len: u32) {
        let (mut pos, end) = (at, at + len);
        while pos < end {
            let order = chunk_order(pos, end - pos, self.levels.len() as u32 - 1);
            self.levels[order as usize].set(pos >> order, true);
            pos += 1 << order;
        }
    }

    fn merge_chunk(&mut self, at: u32, order: u32) {
        let (mut i, mut k) = (at >> order, order);
        while k + 1 < self.levels.len() as u32 && self.levels[k as usize].has(i ^ 1) {
            self.levels[k as usize].set(i ^ 1, false);
            i >>= 1;
            k += 1;
        }
        self.levels[k as usize].set(i, true);
    }
}

/// The largest chunk that starts at `pos` and is no longer than `len`.
fn chunk_order(pos: u32, len: u32, max: u32) -> u32 {
    len.ilog2().min(pos.trailing_zeros()).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(b: &Buddy) {
        let fresh = Buddy::new(&b.used, b.bits, b.levels.len() as u32 - 1);
        assert_eq!(b.free, fresh.free);
        assert_eq!(b.fragments, fresh.fragments);
        for (k, (l, f)) in b.levels.iter().zip(&fresh.levels).enumerate() {
            assert_eq!(l.count, f.count, "order {k}");
        }
        // Every free cluster is in exactly one chunk.
        for pos in 0..b.bits {
            let n = (0..b.levels.len() as u32).filter(|k| b.levels[*k as usize].has(pos >> k)).count();
            assert_eq!(n, usize::from(b.is_free(pos)), "{pos}");
        }
    }

    #[test]
    fn sizes_that_are_not_powers_of_two() {
        for bits in [8, 24, 1000, 1024, 8184] {
            let mut b = Buddy::new(&vec![0; bits as usize / 8], bits, 20);
            check(&b);
            assert_eq!((b.free(), b.average()), (bits, bits));
            b.take(3, 2);
            check(&b);
            assert_eq!(b.find_order(2), (bits > 8).then_some(8));
            b.give(3, 2);
            check(&b);
            assert_eq!(b.run_at(1, 5), 5);
        }
    }

    #[test]
    fn runs_are_measured_in_whole_chunks() {
        let mut b = Buddy::new(&[0; 8], 64, 4);
        b.take(0, 5);
        assert_eq!((b.chunks_from(5, 1), b.chunks_from(5, 2), b.chunks_from(5, 12)), (1, 3, 27));
        assert_eq!((b.chunks_from(20, 1), b.chunks_from(3, 1)), (12, 0));
        assert_eq!(b.largest_order(), Some(4));
    }

    proptest! {
        #[test]
        fn takes_and_gives_keep_it_canonical(
            bits in (1u32..40).prop_map(|n| n * 8),
            max in 2u32..10,
            ops in proptest::collection::vec((any::<u32>(), 1u32..50), 1..60),
        ) {
            let mut b = Buddy::new(&vec![0; bits as usize / 8], bits, max);
            for (at, len) in ops {
                let at = at % bits;
                let run = b.run_at(at, len);
                if run > 0 {
                    b.take(at, run);
                } else {
                    let end = (at + len).min(bits);
                    let stop = bitmap::find_zero(&b.used, at as usize, end as usize).map_or(end, |z| z as u32);
                    b.give(at, stop - at);
                }
                check(&b);
            }
        }
    }
}
