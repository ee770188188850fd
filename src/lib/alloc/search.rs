//! Where to allocate: the goal first, then criteria from the quickest to the most thorough. Positions and lengths in
//! clusters. Kernel names: `ext4_mb_find_by_goal`, `ext4_mb_regular_allocator`, `CR_POWER2_ALIGNED` and on.
//!
//! Groups are tried in order from the goal's, around the end. Among the runs of a group the one that wastes least is
//! taken, the lowest of equals.

use super::Allocator;
use super::buddy::Buddy;
use crate::error::Result;
use crate::units::{Fsblk, Group};
use crate::volume::Volume;

/// A run of free clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) group: Group,
    pub(super) at: u32,
    pub(super) len: u32,
}

impl Allocator {
    /// A run of `want` clusters near `goal`; where there is none, the longest there is, if it has `min`.
    pub(super) fn find_run(&mut self, vol: &Volume, goal: Fsblk, want: u32, min: u32) -> Result<Option<Run>> {
        let geo = vol.geometry();
        let goal = if geo.has_block(goal) { goal } else { Fsblk(geo.first_data_block) };
        let (first, at) = geo.cluster_bit_of(goal);
        let want = want.min(geo.clusters_per_group);
        let here = self.buddy(vol, first)?.run_at(at, want);
        if here == want {
            return Ok(Some(Run { group: first, at, len: want }));
        }
        if let Some(run) = self.find_aligned(vol, first, want)? {
            return Ok(Some(run));
        }
        if want.is_power_of_two() {
            for group in from(first, geo.groups) {
                if self.may_have(vol, group, want)?
                    && let Some(at) = self.buddy(vol, group)?.find_order(want.ilog2())
                {
                    return Ok(Some(Run { group, at, len: want }));
                }
            }
        }
        // Groups whose free space is in pieces long enough on average, then all.
        for thorough in [false, true] {
            for group in from(first, geo.groups) {
                if !self.may_have(vol, group, want)? {
                    continue;
                }
                let buddy = self.buddy(vol, group)?;
                if !thorough && buddy.average() < want {
                    continue;
                }
                if let Some(at) = best_fit(buddy, want) {
                    return Ok(Some(Run { group, at, len: want }));
                }
            }
        }
        if here >= min.max(want / 2) {
            return Ok(Some(Run { group: first, at, len: here }));
        }
        self.longest(vol, first, want, min)
    }

    /// Whether a group has `least` clusters free, as far as is known without reading its bitmap.
    pub(super) fn may_have(&self, vol: &Volume, group: Group, least: u32) -> Result<bool> {
        let free = match self.groups.get(&group) {
            Some(buddy) => buddy.free(),
            None => vol.group(group)?.free_clusters(),
        };
        Ok(free >= least)
    }

    /// A run that starts at a multiple of the RAID stripe, for requests of whole stripes.
    #[doc(alias = "ext4_mb_scan_aligned")]
    fn find_aligned(&mut self, vol: &Volume, first: Group, want: u32) -> Result<Option<Run>> {
        let geo = vol.geometry();
        let stripe = self.stripe >> geo.cluster_bits;
        if stripe <= 1 || !want.is_multiple_of(stripe) {
            return Ok(None);
        }
        for group in from(first, geo.groups) {
            if !self.may_have(vol, group, want)? {
                continue;
            }
            let base = geo.group_start(group).0 >> geo.cluster_bits;
            let buddy = self.buddy(vol, group)?;
            if let Some(at) = aligned(buddy, base, stripe, want) {
                return Ok(Some(Run { group, at, len: want }));
            }
        }
        Ok(None)
    }

    /// The longest run, of at least `min`.
    fn longest(&mut self, vol: &Volume, first: Group, want: u32, min: u32) -> Result<Option<Run>> {
        let mut best: Option<Run> = None;
        for group in from(first, vol.geometry().groups) {
            if !self.may_have(vol, group, min)? {
                continue;
            }
            let known = best.map_or(min.saturating_sub(1), |b| b.len);
            let buddy = self.buddy(vol, group)?;
            if buddy.free() <= known {
                continue;
            }
            for r in buddy.runs() {
                let len = (r.end - r.start).min(want);
                if len > best.map_or(known, |b| b.len) {
                    best = Some(Run { group, at: r.start, len });
                }
            }
        }
        Ok(best)
    }
}

/// All groups, from `first` on and around the end.
pub(super) fn from(first: Group, groups: u32) -> impl Iterator<Item = Group> {
    (first.0..groups).chain(0..first.0).map(Group)
}

/// The first `want` free clusters that start at a multiple of the stripe; `base` is the group's first cluster.
pub(super) fn aligned(buddy: &Buddy, base: u64, stripe: u32, want: u32) -> Option<u32> {
    buddy.runs().find_map(|r| {
        let abs = base + u64::from(r.start);
        let at = (abs.next_multiple_of(stripe.into()) - base) as u32;
        (at.saturating_add(want) <= r.end).then_some(at)
    })
}

/// The start of the shortest run that holds `want`.
fn best_fit(buddy: &Buddy, want: u32) -> Option<u32> {
    let fitting = buddy.runs().filter(|r| r.end - r.start >= want);
    fitting.min_by_key(|r| (r.end - r.start, r.start)).map(|r| r.start)
}
