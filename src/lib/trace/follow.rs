//! A log held against the rules of delayed allocation: each inode's extent-status tree and count of reserved clusters is
//! followed from event to event, by the same code that the write path uses ([`Delalloc`]).
//!
//! The rules, in the order of Linux 6.13 and newer:
//! - the count that an event of a reservation (`ext4_da_*`) shows is what the events before it left;
//! - `da_reserve_space` and the `es_insert_delayed_extent` after it name what the cluster arithmetic needs, and the blocks that
//!   become delayed were neither delayed nor allocated before: the race of page faults against fallocate breaks that;
//! - an insert of allocated blocks is followed by the `da_update_reserve_space` for the reservations that it settles, a removal
//!   by the `da_release_space` for those that end; both at once, by the same process;
//! - delayed blocks do not become a hole, and allocated ones do not change place, without a removal;
//! - an inode that is evicted holds nothing in the end.
//!
//! What was before the log began is not known: an inode is followed from where it is seen to hold nothing. Where events were
//! lost, all is unknown again. A log without the events of extent status is held against the counts alone.
//!
//! The number of blocks in a cluster is not in a log. Unless it is given, it is the one under which the log is consistent, or
//! else consistent for longest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use super::log::{Dev, Log, LogEvent, What};
use crate::error::Result;
use crate::file::delalloc::{Allocation, Delalloc, Ledger};
use crate::file::extent_status::{EsEntry, EsStatus, MAX_BLOCKS};
use crate::units::{Fsblk, Lblk};

/// The largest cluster: `1 << MAX_CLUSTER_BITS` blocks.
const MAX_CLUSTER_BITS: u32 = 15;

/// What an event contradicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The count of reserved clusters is another.
    Count {
        /// What it was after the event before.
        expected: u32,
        /// What the event says it was.
        shown: u32,
    },
    /// More is given back or used than is reserved.
    Below {
        /// Reserved clusters.
        reserved: u32,
        /// How many the event takes.
        taken: u32,
    },
    /// Blocks become delayed that are allocated: the reservation for them will not end.
    OverAllocated {
        /// A block.
        lblk: u32,
        /// Its place on the device.
        pblk: u64,
        /// How it is allocated.
        status: EsStatus,
    },
    /// Blocks become delayed that are.
    OverDelayed {
        /// A block.
        lblk: u32,
    },
    /// Blocks become delayed, and not what they need was reserved.
    Reserved {
        /// Clusters that they need.
        needed: u32,
        /// Clusters that were reserved just before.
        reserved: u32,
    },
    /// An insert or a removal settles reservations, and the event that says so does not follow.
    Owed {
        /// The line of the insert, the removal or the reservation.
        since: u64,
        /// The event that is owed, and its clusters.
        owed: Owed,
    },
    /// An event settles or ends reservations for which nothing was allocated or removed.
    Unasked {
        /// Clusters.
        clusters: u32,
    },
    /// Delayed blocks become a hole.
    Vanished {
        /// A block.
        lblk: u32,
    },
    /// Allocated blocks are somewhere else, or a hole, without having been removed.
    Moved {
        /// A block.
        lblk: u32,
        /// Where it was.
        from: u64,
        /// Where it is; none for a hole.
        to: Option<u64>,
    },
    /// An inode of which everything was removed (it was evicted, or cut to nothing) keeps reserved clusters.
    Leaked {
        /// Clusters.
        reserved: u32,
    },
}

/// What must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    /// `ext4_da_update_reserve_space` of so many clusters.
    Update(u32),
    /// `ext4_da_release_space` of so many clusters.
    Release(u32),
    /// `ext4_es_insert_delayed_extent` of blocks that need so many clusters.
    Insert(u32),
}

impl fmt::Display for Owed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Update(n) => write!(f, "ext4_da_update_reserve_space with used_blocks {n}"),
            Self::Release(n) => write!(f, "ext4_da_release_space with freed_blocks {n}"),
            Self::Insert(n) => write!(f, "ext4_es_insert_delayed_extent for the {n} reserved"),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { expected, shown } => {
                write!(f, "{expected} reserved clusters were expected before this event, it shows {shown}")
            }
            Self::Below { reserved, taken } => write!(f, "at most {reserved} clusters are reserved, {taken} are taken"),
            Self::OverAllocated { lblk, pblk, status } => {
                let how = if *status == EsStatus::Written { "written" } else { "unwritten" };
                write!(f, "a hole was expected at block {lblk}; it is {how} at {pblk}: its reservation leaks")
            }
            Self::OverDelayed { lblk } => write!(f, "a hole was expected at block {lblk}; it is delayed already"),
            Self::Reserved { needed, reserved } => {
                write!(f, "a reservation of {needed} clusters was expected just before, {reserved} were reserved")
            }
            Self::Owed { since, owed } => write!(f, "line {since} asks for {owed}, which does not follow"),
            Self::Unasked { clusters } => {
                write!(
                    f,
                    "an insert or removal over delayed blocks was expected before {clusters} clusters are settled"
                )
            }
            Self::Vanished { lblk } => {
                write!(f, "delayed block {lblk} becomes a hole; a removal or an allocation was expected")
            }
            Self::Moved { lblk, from, to: Some(to) } => {
                write!(f, "block {lblk} was expected at {from}, it is at {to} without having been removed")
            }
            Self::Moved { lblk, from, to: None } => {
                write!(f, "block {lblk} was expected at {from}, it is a hole without having been removed")
            }
            Self::Leaked { reserved } => {
                write!(f, "no reserved cluster was expected once all blocks are gone, {reserved} are left: a leak")
            }
        }
    }
}

/// The first event that is inconsistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inconsistency {
    /// Its line.
    pub line: u64,
    /// The device.
    pub dev: Dev,
    /// The inode.
    pub ino: u64,
    /// What is wrong.
    pub broken: Broken,
}

/// What a device's events came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The device.
    pub dev: Dev,
    /// Blocks in a cluster.
    pub cluster_blocks: u32,
    /// Its events.
    pub events: u64,
    /// Inodes with events of reservations or extent status.
    pub inodes: u64,
    /// Inodes whose extent status was followed, not the count alone.
    pub known: u64,
    /// Reserved clusters that inodes hold when the log ends: `(inode, clusters)`.
    pub held: Vec<(u64, u32)>,
    /// What is wrong first.
    pub first: Option<Inconsistency>,
}

/// Hold a log against the rules, each device by itself. `cluster_blocks` is the number of blocks in a cluster, a power of two.
pub fn follow(log: &Log, cluster_blocks: Option<u32>) -> Vec<Followed> {
    let mut devices: BTreeMap<Dev, bool> = BTreeMap::new();
    for e in log.events.iter().flatten() {
        *devices.entry(e.dev).or_default() |= matches!(e.what, What::EsInsertDelayed { .. });
    }
    devices.into_iter().map(|(dev, has_status)| follow_device(log, dev, has_status, cluster_blocks)).collect()
}

fn follow_device(log: &Log, dev: Dev, has_status: bool, cluster_blocks: Option<u32>) -> Followed {
    let with = |bits| Follower::new(dev, bits, has_status).run(log);
    if let Some(blocks) = cluster_blocks {
        return with(blocks.max(1).ilog2());
    }
    let mut best = with(0);
    for bits in 1..=MAX_CLUSTER_BITS {
        let Some(wrong) = &best.first else { break };
        let other = with(bits);
        if other.first.as_ref().is_none_or(|o| o.line > wrong.line) {
            best = other;
        }
    }
    best
}

/// An inode that is followed.
#[derive(Debug)]
struct Inode {
    dd: Delalloc,
    /// All delayed blocks are in `dd`.
    known: bool,
    /// Reserved clusters, where that was seen.
    count: Option<u32>,
    owed: Option<Debt>,
    /// It is leaving memory.
    evicting: bool,
    /// What the last removal took away that was mapped.
    removed: Vec<EsEntry>,
}

#[derive(Clone, Copy, Debug)]
struct Debt {
    owed: Owed,
    line: u64,
    pid: u32,
}

/// Takes every reservation, and counts them.
#[derive(Default)]
struct Counting {
    reserved: u32,
    settled: u32,
}

impl Ledger for Counting {
    fn reserve(&mut self, n: u32) -> Result<()> {
        self.reserved += n;
        Ok(())
    }
    fn release(&mut self, n: u32) {
        self.settled += n;
    }
    fn consume(&mut self, n: u32) {
        self.settled += n;
    }
}

/// Whether the first and the last cluster of a range are allocated, as the event says.
struct Edges {
    first: Range<u32>,
    allocated: (bool, bool),
}

impl Allocation for Edges {
    fn any_mapped(&self, range: Range<u32>) -> Result<bool> {
        Ok(if self.first == range { self.allocated.0 } else { self.allocated.1 })
    }
}

struct Follower {
    dev: Dev,
    bits: u32,
    has_status: bool,
    inodes: BTreeMap<u64, Inode>,
    /// Inodes with a debt.
    owing: BTreeSet<u64>,
    seen: BTreeSet<u64>,
    known: u64,
    events: u64,
}

fn insert(lblk: u32, len: u32, pblk: u64, status: EsStatus) -> EsEntry {
    EsEntry { lblk: Lblk(lblk), len, status, pblk: Fsblk(if status.is_mapped() { pblk } else { 0 }) }
}

impl Follower {
    fn new(dev: Dev, bits: u32, has_status: bool) -> Self {
        let (owing, seen) = (BTreeSet::new(), BTreeSet::new());
        Self { dev, bits, has_status, inodes: BTreeMap::new(), owing, seen, known: 0, events: 0 }
    }

    fn run(mut self, log: &Log) -> Followed {
        let mut first = None;
        for e in &log.events {
            let Some(e) = e else {
                self.inodes.clear();
                self.owing.clear();
                continue;
            };
            if e.dev != self.dev {
                continue;
            }
            self.events += 1;
            let done = self.check_debts(e).and_then(|()| self.event(e).map_err(|b| (e.ino, b)));
            if let Err((ino, broken)) = done {
                first = Some(Inconsistency { line: e.line, dev: self.dev, ino, broken });
                break;
            }
        }
        let held = |(ino, i): (&u64, &Inode)| i.count.filter(|c| *c > 0).map(|c| (*ino, c));
        Followed {
            dev: self.dev,
            cluster_blocks: 1 << self.bits,
            events: self.events,
            inodes: self.seen.len() as u64,
            known: self.known,
            held: self.inodes.iter().filter_map(held).collect(),
            first,
        }
    }

    /// A process that does something else has not done what it owed.
    fn check_debts(&self, e: &LogEvent) -> std::result::Result<(), (u64, Broken)> {
        for ino in &self.owing {
            let Some(debt) = self.inodes.get(ino).and_then(|i| i.owed.as_ref()) else { continue };
            let pays = *ino == e.ino
                && match (debt.owed, e.what) {
                    (Owed::Update(_), What::DaUpdate { .. })
                    | (Owed::Release(_), What::DaRelease { .. })
                    | (Owed::Insert(_), What::EsInsertDelayed { .. } | What::DaRelease { .. }) => true,
                    (_, What::Other) => e.pid != debt.pid,
                    _ => false,
                };
            if !pays && (e.pid == debt.pid || (*ino == e.ino && e.what != What::Other)) {
                return Err((*ino, Broken::Owed { since: debt.line, owed: debt.owed }));
            }
        }
        Ok(())
    }

    fn event(&mut self, e: &LogEvent) -> std::result::Result<(), Broken> {
        if e.ino == 0 || matches!(e.what, What::Other) {
            return Ok(());
        }
        let (bits, has_status) = (self.bits, self.has_status);
        self.seen.insert(e.ino);
        let i = self.inodes.entry(e.ino).or_insert_with(|| Inode::new(bits));
        let before = i.known;
        let done = i.event(e, bits, has_status);
        if i.owed.is_some() {
            self.owing.insert(e.ino);
        } else {
            self.owing.remove(&e.ino);
        }
        self.known += u64::from(i.known && !before);
        done
    }
}

impl Inode {
    const fn new(bits: u32) -> Self {
        let dd = Delalloc::new(bits);
        Self { dd, known: false, count: None, owed: None, evicting: false, removed: Vec::new() }
    }

    fn event(&mut self, e: &LogEvent, bits: u32, has_status: bool) -> std::result::Result<(), Broken> {
        match e.what {
            What::EsInsert { lblk, len, pblk, status } if has_status => self.insert(e, insert(lblk, len, pblk, status)),
            What::EsCache { lblk, len, pblk, status } if has_status => {
                self.dd.learn(insert(lblk, len, pblk, status));
                Ok(())
            }
            What::EsInsertDelayed { lblk, len, lclu_allocated, end_allocated } => {
                self.insert_delayed(lblk, len, (lclu_allocated, end_allocated), bits)
            }
            What::EsRemove { lblk, len } if has_status => self.remove(e, lblk..lblk.saturating_add(len)),
            What::DaReserve { clusters, after } => self.reserve(e, clusters, after, bits, has_status),
            What::DaUpdate { clusters, before } | What::DaRelease { clusters, before } => {
                self.settle(clusters, before, bits, has_status)
            }
            What::Rereserve { pblk, count } => {
                self.rereserve(pblk..pblk + count, bits);
                Ok(())
            }
            What::Evict { nlink } => self.evict(nlink),
            What::Begin => self.begin(bits),
            _ => Ok(()),
        }
    }

    /// From here on nothing is delayed but what is seen to become so.
    fn holds_nothing(&mut self, bits: u32) {
        self.dd = Delalloc::new(bits);
        (self.known, self.count) = (true, Some(0));
    }

    /// The count before an event.
    fn counted(&mut self, before: u32) -> std::result::Result<(), Broken> {
        match self.count {
            Some(expected) if expected != before => Err(Broken::Count { expected, shown: before }),
            _ => Ok(()),
        }
    }

    fn reserve(
        &mut self,
        e: &LogEvent,
        clusters: u32,
        after: u32,
        bits: u32,
        has_status: bool,
    ) -> std::result::Result<(), Broken> {
        let before = after.checked_sub(clusters).ok_or(Broken::Below { reserved: after, taken: clusters })?;
        if before == 0 && self.evicting && self.count.is_some_and(|c| c > 0) {
            return Err(Broken::Leaked { reserved: self.count.unwrap_or(0) });
        }
        self.counted(before)?;
        self.evicting = false;
        // Without clusters of several blocks, nothing reserved is nothing delayed.
        if before == 0 && bits == 0 && !self.known && has_status {
            self.holds_nothing(bits);
        }
        self.count = Some(after);
        if has_status {
            self.owed = Some(Debt { owed: Owed::Insert(clusters), line: e.line, pid: e.pid });
        }
        Ok(())
    }

    fn settle(&mut self, clusters: u32, before: u32, bits: u32, has_status: bool) -> std::result::Result<(), Broken> {
        self.counted(before)?;
        let after = before.checked_sub(clusters).ok_or(Broken::Below { reserved: before, taken: clusters })?;
        self.count = Some(after);
        match self.owed.take() {
            // What was reserved is given back where the insert failed.
            Some(Debt { owed: Owed::Insert(n), .. }) if n == clusters => {}
            Some(Debt { owed: Owed::Update(n) | Owed::Release(n), .. }) if n == clusters => {}
            Some(debt) => return Err(Broken::Owed { since: debt.line, owed: debt.owed }),
            None if self.known && has_status => return Err(Broken::Unasked { clusters }),
            None => {}
        }
        if after == 0 && bits == 0 && !self.known && has_status {
            self.holds_nothing(bits);
        }
        Ok(())
    }

    fn insert(&mut self, e: &LogEvent, new: EsEntry) -> std::result::Result<(), Broken> {
        if new.status == EsStatus::Hole && new.lblk.0 == 0 && new.end() >= MAX_BLOCKS - 1 && !self.known {
            // All of the file is a hole: nothing of it is delayed.
            if self.count.is_none_or(|c| c == 0) {
                self.dd = Delalloc::new(self.dd.cluster_bits());
                (self.known, self.count) = (true, Some(0));
            }
        }
        if !self.known {
            return Ok(());
        }
        let range = new.lblk.0..new.end();
        for had in self.dd.es().overlapping(range.clone()).collect::<Vec<_>>() {
            let (had, now) = (had.clip(&range), new.clip(&(had.lblk.0.max(range.start)..had.end().min(range.end))));
            let to = new.status.is_mapped().then_some(now.pblk.0);
            if had.status.is_mapped() && Some(had.pblk.0) != to {
                return Err(Broken::Moved { lblk: had.lblk.0, from: had.pblk.0, to });
            }
            if had.status == EsStatus::Delayed && !new.status.is_mapped() {
                return Err(Broken::Vanished { lblk: had.lblk.0 });
            }
        }
        if new.status.is_mapped() {
            let settled = self.dd.insert_allocated(new, true, &mut Counting::default());
            if settled > 0 {
                self.owed = Some(Debt { owed: Owed::Update(settled), line: e.line, pid: e.pid });
            }
        } else {
            self.dd.cache(new);
        }
        Ok(())
    }

    fn insert_delayed(
        &mut self,
        lblk: u32,
        len: u32,
        allocated: (bool, bool),
        bits: u32,
    ) -> std::result::Result<(), Broken> {
        let reserved = match self.owed.take() {
            Some(Debt { owed: Owed::Insert(n), .. }) => n,
            Some(debt) => return Err(Broken::Owed { since: debt.line, owed: debt.owed }),
            None => 0,
        };
        if !self.known {
            return Ok(());
        }
        let range = lblk..lblk.saturating_add(len);
        for had in self.dd.es().overlapping(range.clone()) {
            let had = had.clip(&range);
            if had.status == EsStatus::Delayed {
                return Err(Broken::OverDelayed { lblk: had.lblk.0 });
            }
            if had.status.is_mapped() {
                let (lblk, pblk, status) = (had.lblk.0, had.pblk.0, had.status);
                return Err(Broken::OverAllocated { lblk, pblk, status });
            }
        }
        let first = lblk >> bits << bits;
        let edges = Edges { first: first..first.saturating_add(1 << bits), allocated };
        let mut ledger = Counting::default();
        if self.dd.insert_delayed(Lblk(lblk), len, &edges, &mut ledger).is_err() {
            return Ok(());
        }
        if ledger.reserved == reserved { Ok(()) } else { Err(Broken::Reserved { needed: ledger.reserved, reserved }) }
    }

    fn remove(&mut self, e: &LogEvent, range: Range<u32>) -> std::result::Result<(), Broken> {
        let all = range.start == 0 && range.end >= MAX_BLOCKS - 1;
        let mut owed = 0;
        if self.known {
            self.removed = self.dd.es().overlapping(range.clone()).filter(|x| x.status.is_mapped()).collect();
            let mut ledger = Counting::default();
            self.dd.remove(range, &mut ledger);
            owed = ledger.settled;
        } else if all {
            // Whatever was reserved ends here, and the rest is known.
            owed = self.count.unwrap_or(0);
            if self.count.is_some() {
                self.dd = Delalloc::new(self.dd.cluster_bits());
                self.known = true;
            }
        }
        if owed > 0 {
            self.owed = Some(Debt { owed: Owed::Release(owed), line: e.line, pid: e.pid });
        }
        let left = self.count.unwrap_or(0).saturating_sub(owed);
        if all && self.known && left > 0 {
            return Err(Broken::Leaked { reserved: left });
        }
        Ok(())
    }

    /// A cluster of the device is freed under delayed blocks: its pending reservation becomes a real one.
    fn rereserve(&mut self, freed: Range<u64>, bits: u32) {
        if let Some(count) = &mut self.count {
            *count += 1;
        }
        let of = |lblk: u32| lblk >> bits;
        let in_freed = |x: &&EsEntry| x.pblk.0 < freed.end && x.pblk.0 + u64::from(x.len) > freed.start;
        let known = self.removed.iter().filter(in_freed).flat_map(|x| {
            let skip = freed.start.saturating_sub(x.pblk.0) as u32;
            of(x.lblk.0.saturating_add(skip))..=of(x.end() - 1)
        });
        let near = self.removed.iter().flat_map(|x| [of(x.lblk.0), of(x.end() - 1)]);
        let pending: Vec<u32> = self.dd.pending().collect();
        let found = known.chain(near).find(|c| pending.contains(c)).or_else(|| pending.first().copied());
        if let Some(cluster) = found {
            self.dd.rereserve(cluster);
        }
    }

    fn evict(&mut self, nlink: u32) -> std::result::Result<(), Broken> {
        self.evicting = true;
        match self.count {
            // A file that has a name was written back before.
            Some(reserved) if reserved > 0 && nlink > 0 => Err(Broken::Leaked { reserved }),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, bits: u32) -> std::result::Result<(), Broken> {
        if let Some(reserved) = self.count.filter(|c| *c > 0) {
            return Err(Broken::Leaked { reserved });
        }
        *self = Self::new(bits);
        self.holds_nothing(bits);
        Ok(())
    }
}
