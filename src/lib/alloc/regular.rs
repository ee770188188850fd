//! Where a file in use, or the metadata of a filesystem in use, gets its clusters: the goal, then group by group under criteria
//! from the quickest to the most thorough, as the kernel decides. Positions and lengths in clusters. Kernel names:
//! `ext4_mb_regular_allocator`, `ext4_mb_scan_groups`, `ext4_mb_complex_scan_group`, `ext4_mb_check_limits`.
//!
//! Free space is measured in whole chunks of the buddies, which decides what is found where free space is in pieces.

use super::Allocator;
use super::buddy::Buddy;
use super::search::Run;
use crate::error::Result;
use crate::units::Group;
use crate::volume::Volume;

/// Extents looked at before the best is good enough, once it is as long as asked for.
#[doc(alias = "mb_min_to_scan")]
const MIN_TO_SCAN: u32 = 10;
/// Extents looked at before the best is taken, whatever its length.
#[doc(alias = "mb_max_to_scan")]
const MAX_TO_SCAN: u32 = 200;
/// The shortest power of two that is looked for among the chunks of its size.
#[doc(alias = "mb_order2_req")]
const ORDER2_REQS: u32 = 2;
/// Groups of a flexible group from which its first one is kept for metadata.
#[doc(alias = "EXT4_FLEX_SIZE_DIR_ALLOC_SCHEME")]
const FLEX_SCHEME: u32 = 4;

/// What to look for.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "ext4_allocation_context")]
pub(super) struct Goal {
    pub(super) group: Group,
    pub(super) at: u32,
    pub(super) len: u32,
    /// The place itself is wanted: it continues what the file has.
    #[doc(alias = "EXT4_MB_HINT_TRY_GOAL")]
    pub(super) exact: bool,
    /// For the content of a regular file.
    pub(super) data: bool,
    /// The group is that of the last such request.
    #[doc(alias = "EXT4_MB_STREAM_ALLOC")]
    pub(super) stream: bool,
}

/// How thorough a look at a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Criterion {
    /// Chunks of a power of two.
    Aligned,
    /// Groups whose free runs are long enough on average.
    Fast,
    /// Groups with so much free.
    Slow,
    /// Anything.
    Any,
}

/// A search under way.
struct Scan {
    want: u32,
    data: bool,
    looked_at: u32,
    best: Option<Run>,
}

/// How a step of the search ended.
enum Step {
    Found(Run),
    /// Enough was looked at.
    Enough,
    Continue,
}

impl Allocator {
    /// A run of at most `goal.len` clusters: the best there is.
    #[doc(alias = "ext4_mb_regular_allocator")]
    pub(super) fn find_regular(&mut self, vol: &Volume, goal: &Goal) -> Result<Option<Run>> {
        let want = goal.len;
        if goal.exact {
            let len = self.buddy(vol, goal.group)?.chunks_from(goal.at, want);
            if len >= want {
                return Ok(Some(Run { group: goal.group, at: goal.at, len: want }));
            }
        }
        let first = if goal.stream { self.last_group } else { goal.group };
        let mut scan = Scan { want, data: goal.data, looked_at: 0, best: None };
        let max = vol.geometry().block_bits + 1;
        let chunks = want.is_power_of_two() && (ORDER2_REQS - 1..=max).contains(&want.ilog2());
        let criteria = [Criterion::Aligned, Criterion::Fast, Criterion::Slow, Criterion::Any];
        'all: for how in criteria.into_iter().skip(usize::from(!chunks)) {
            for group in super::search::from(first, vol.geometry().groups) {
                match self.scan_group(vol, group, how, &mut scan)? {
                    Step::Found(run) => return Ok(Some(run)),
                    Step::Enough => break 'all,
                    Step::Continue => {}
                }
            }
        }
        let Some(best) = scan.best else { return Ok(None) };
        let len = self.buddy(vol, best.group)?.chunks_from(best.at, best.len).min(want);
        Ok(Some(Run { len, ..best }))
    }

    #[doc(alias = "ext4_mb_scan_group")]
    fn scan_group(&mut self, vol: &Volume, group: Group, how: Criterion, scan: &mut Scan) -> Result<Step> {
        let geo = vol.geometry();
        if how == Criterion::Aligned
            && scan.data
            && geo.groups_per_flex() >= FLEX_SCHEME
            && group.0.is_multiple_of(geo.groups_per_flex())
        {
            return Ok(Step::Continue);
        }
        let least = if how == Criterion::Any { 1 } else { scan.want };
        if !self.may_have(vol, group, least)? {
            return Ok(Step::Continue);
        }
        let base = geo.group_start(group).0 >> geo.cluster_bits;
        let stripe = self.stripe >> geo.cluster_bits;
        let buddy = self.buddy(vol, group)?;
        match how {
            Criterion::Aligned => {
                let order = scan.want.ilog2();
                let fits = buddy.largest_order().is_some_and(|k| k >= order);
                let at = if fits { buddy.find_order(order) } else { None };
                return Ok(at.map_or(Step::Continue, |at| Step::Found(Run { group, at, len: scan.want })));
            }
            Criterion::Fast if buddy.average() < scan.want => return Ok(Step::Continue),
            Criterion::Fast if stripe > 1 && scan.want.is_multiple_of(stripe) => {
                if let Some(at) = super::search::aligned(buddy, base, stripe, stripe) {
                    return Ok(Step::Found(Run { group, at, len: stripe }));
                }
            }
            _ => {}
        }
        Ok(scan.measure(buddy, group, how))
    }
}

impl Scan {
    /// Measure the free extents of a group.
    #[doc(alias = "ext4_mb_complex_scan_group")]
    fn measure(&mut self, buddy: &Buddy, group: Group, how: Criterion) -> Step {
        for free in buddy.runs() {
            let mut at = free.start;
            // Where long ones are known to be there, what is left of a run is not worth a look once it is short.
            let least = if how <= Criterion::Fast { self.want } else { 1 };
            while free.end.saturating_sub(at) >= least {
                let len = buddy.chunks_from(at, self.want).max(1);
                match self.look_at(Run { group, at, len }) {
                    Step::Continue => {}
                    done => return done,
                }
                at += len;
            }
        }
        match self.check_limits(true, group) {
            Step::Enough => Step::Enough,
            step => step,
        }
    }

    /// Compare a free extent with the best so far.
    #[doc(alias = "ext4_mb_measure_extent")]
    fn look_at(&mut self, run: Run) -> Step {
        self.looked_at += 1;
        if run.len == self.want {
            return Step::Found(run);
        }
        let better = match self.best {
            None => {
                self.best = Some(run);
                return Step::Continue;
            }
            Some(best) if best.len < self.want => run.len > best.len,
            Some(best) => run.len > self.want && run.len < best.len,
        };
        if better {
            self.best = Some(run);
        }
        self.check_limits(false, run.group)
    }

    /// Whether the search has gone on for long enough.
    fn check_limits(&self, group_done: bool, group: Group) -> Step {
        if self.looked_at > MAX_TO_SCAN {
            return Step::Enough;
        }
        match self.best {
            Some(best) if best.len >= self.want && best.group == group => {
                if group_done || self.looked_at > MIN_TO_SCAN {
                    return Step::Found(Run { len: self.want, ..best });
                }
                Step::Continue
            }
            _ => Step::Continue,
        }
    }
}
