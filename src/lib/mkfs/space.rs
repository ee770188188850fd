//! The blocks in use while a filesystem is laid out: sorted runs, not a bitmap, so that an empty filesystem of 16 TiB takes
//! some thousand entries. Unit: blocks.
//!
//! Invariants: runs are ascending, do not overlap and do not touch (neighbours merge); none is empty.

use std::collections::BTreeMap;
use std::ops::Range;

/// The blocks in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Space {
    runs: BTreeMap<u64, u64>,
    end: u64,
    used: u64,
}

impl Space {
    /// Nothing in use of `first..end`; what is before `first` does not exist.
    pub(crate) const fn new(end: u64) -> Self {
        Self { runs: BTreeMap::new(), end, used: 0 }
    }

    /// Blocks in use.
    pub(crate) const fn used(&self) -> u64 {
        self.used
    }

    /// The run that holds `block` or the last before it.
    fn at_or_before(&self, block: u64) -> Option<Range<u64>> {
        self.runs.range(..=block).next_back().map(|(s, e)| *s..*e)
    }

    /// Whether none of `range` is in use and all of it exists.
    pub(crate) fn is_free(&self, range: &Range<u64>) -> bool {
        range.end <= self.end && self.runs.range(..range.end).next_back().is_none_or(|(_, e)| *e <= range.start)
    }

    /// Put `range` in use. Parts that are already in use stay so.
    pub(crate) fn take(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // Every run that overlaps or touches is merged into the new one.
        while let Some((s, e)) = self.runs.range(..=end).next_back().map(|(s, e)| (*s, *e)) {
            if e < start {
                break;
            }
            self.runs.remove(&s);
            self.used -= e - s;
            start = start.min(s);
            end = end.max(e);
        }
        self.used += end - start;
        self.runs.insert(start, end);
    }

    /// The first free run at or after `from` with at least `len` blocks, ending at or before `limit`: its first block.
    pub(crate) fn find(&self, from: u64, limit: u64, len: u64) -> Option<u64> {
        let limit = limit.min(self.end);
        let mut at = match self.at_or_before(from) {
            Some(run) if run.end > from => run.end,
            _ => from,
        };
        for (s, e) in self.runs.range(at..) {
            if s - at >= len {
                break;
            }
            at = *e;
        }
        (at.checked_add(len)? <= limit).then_some(at)
    }

    /// The first free run at or after `from`, whole.
    pub(crate) fn next_free(&self, from: u64) -> Option<Range<u64>> {
        let start = match self.at_or_before(from) {
            Some(run) if run.end > from => run.end,
            _ => from,
        };
        let end = self.runs.range(start..).next().map_or(self.end, |(s, _)| *s);
        (start < end).then_some(start..end)
    }

    /// The runs in use that overlap `range`, clipped to it, ascending.
    pub(crate) fn used_in(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.at_or_before(range.start).map_or(range.start, |r| r.start);
        self.runs.range(first..range.end.max(first)).filter_map(move |(s, e)| {
            let clipped = (*s).max(range.start)..(*e).min(range.end);
            (!clipped.is_empty()).then_some(clipped)
        })
    }

    /// Every run widened to whole clusters of `ratio` blocks counted from `first`.
    pub(crate) fn round_to_clusters(&mut self, first: u64, ratio: u64) {
        if ratio == 1 {
            return;
        }
        let runs = std::mem::take(&mut self.runs);
        self.used = 0;
        for (s, e) in runs {
            let start = first + (s - first) / ratio * ratio;
            let end = first + (e - first).div_ceil(ratio) * ratio;
            self.take(start..end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_merge_whatever_the_order() {
        let mut s = Space::new(100);
        for r in [10..20, 30..40, 20..30, 5..7, 0..50, 60..61, 61..62] {
            s.take(r);
        }
        assert_eq!(s.used_in(0..100).collect::<Vec<_>>(), [0..50, 60..62]);
        assert_eq!(s.used(), 52);
        assert_eq!(s.used_in(49..61).collect::<Vec<_>>(), [49..50, 60..61]);
        assert_eq!(s.used_in(50..60).count(), 0);
    }

    #[test]
    fn finding_respects_goal_length_and_limit() {
        let mut s = Space::new(100);
        s.take(10..20);
        s.take(25..90);
        assert_eq!(s.find(0, 100, 10), Some(0));
        assert_eq!(s.find(0, 100, 11), None);
        assert_eq!(s.find(5, 100, 5), Some(5));
        assert_eq!(s.find(12, 100, 5), Some(20));
        assert_eq!(s.find(12, 100, 6), Some(90));
        assert_eq!(s.find(12, 95, 6), None);
        assert_eq!(s.next_free(15), Some(20..25));
        assert_eq!(s.next_free(22), Some(22..25));
        assert_eq!(s.next_free(100), None);
        assert!(s.is_free(&(20..25)) && !s.is_free(&(20..26)) && !s.is_free(&(95..101)));
    }

    #[test]
    fn clusters_swallow_their_neighbours() {
        let mut s = Space::new(64);
        s.take(1..2);
        s.take(5..6);
        s.take(20..33);
        s.round_to_clusters(0, 16);
        assert!(s.used_in(0..64).eq(std::iter::once(0..48)));
    }
}
