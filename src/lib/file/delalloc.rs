//! Delayed allocation: reservations by cluster, and the pending ones of clusters that are already allocated.
//!
//! With D the clusters of an inode that hold a delayed block and E those that hold an allocated one, the state
//! between operations is always: reserved = |D − E| and pending = D ∩ E. A cluster of D − E will need a cluster
//! of the device at writeback, so one is reserved; a cluster of D ∩ E has one already. Without bigalloc a cluster
//! is a block, and no cluster is in both.
//!
//! [`Delalloc`] keeps that true through the three kinds of change (blocks become delayed, are allocated, go away)
//! and says what each means for the filesystem's count of reserved ("dirty") clusters. It does not know the
//! device: whether a cluster holds allocated blocks is asked through [`Allocation`], which answers from the block
//! map. Kernel names: `ext4_es_insert_delayed_extent`, `ext4_es_insert_extent`, `ext4_es_remove_extent`,
//! `__revise_pending`, `ext4_da_reserve_space`, `ext4_da_release_space`, `ext4_rereserve_cluster`.

use std::collections::BTreeSet;
use std::ops::Range;

use super::event::{Event, Tracer};
use super::extent_status::{EsEntry, EsStatus, EsTree};
use crate::error::{Error, Result};
use crate::units::{Fsblk, Ino, Lblk};

/// What is allocated on disk, as the block map says now.
pub trait Allocation {
    /// Whether a block of `range` is allocated, written or not.
    #[doc(alias = "ext4_clu_mapped")]
    fn any_mapped(&self, range: Range<u32>) -> Result<bool>;
}

/// The filesystem's side: how many clusters may still be reserved.
pub trait Ledger {
    /// Reserve `n` clusters, or fail with [`Error::NoSpace`] and change nothing.
    #[doc(alias = "ext4_claim_free_clusters")]
    fn reserve(&mut self, n: u32) -> Result<()>;

    /// Give `n` reserved clusters back: they were not needed.
    fn release(&mut self, n: u32);

    /// `n` reserved clusters have become allocated ones.
    fn consume(&mut self, n: u32);
}

/// Extent status, reservations and pending reservations of one inode.
#[derive(Clone, Debug, Default)]
pub struct Delalloc {
    es: EsTree,
    cluster_bits: u32,
    reserved: u32,
    /// Logical clusters that are both allocated and delayed.
    pending: BTreeSet<u32>,
    /// Whose it is, and where changes are told.
    ino: Ino,
    tracer: Tracer,
}

impl Delalloc {
    /// The state of an inode with nothing cached, in a filesystem with `1 << cluster_bits` blocks per cluster.
    pub const fn new(cluster_bits: u32) -> Self {
        Self {
            es: EsTree::new(),
            cluster_bits,
            reserved: 0,
            pending: BTreeSet::new(),
            ino: Ino(0),
            tracer: Tracer::OFF,
        }
    }

    /// Tell each change to `tracer`, as one of inode `ino`.
    pub fn trace(&mut self, ino: Ino, tracer: Tracer) {
        (self.ino, self.tracer) = (ino, tracer);
    }

    fn emit(&self, event: impl FnOnce() -> Event) {
        self.tracer.emit(self.ino, event);
    }

    /// The extent-status tree.
    pub const fn es(&self) -> &EsTree {
        &self.es
    }

    /// Blocks of a cluster, as a power of two.
    pub const fn cluster_bits(&self) -> u32 {
        self.cluster_bits
    }

    /// Clusters reserved.
    #[doc(alias = "i_reserved_data_blocks")]
    pub const fn reserved(&self) -> u32 {
        self.reserved
    }

    /// Logical clusters with a pending reservation, in order.
    #[doc(alias = "i_pending_tree")]
    pub fn pending(&self) -> impl Iterator<Item = u32> + '_ {
        self.pending.iter().copied()
    }

    const fn cluster_of(&self, lblk: u32) -> u32 {
        lblk >> self.cluster_bits
    }

    /// Blocks of a logical cluster.
    const fn blocks_of(&self, cluster: u32) -> Range<u32> {
        let start = cluster << self.cluster_bits;
        start..start.saturating_add(1 << self.cluster_bits)
    }

    fn is_delayed(&self, cluster: u32) -> bool {
        self.es.any(EsStatus::Delayed, self.blocks_of(cluster))
    }

    /// Clusters that hold a delayed block of `range`, in order, as ranges of cluster numbers without gaps in them.
    fn delayed_clusters(&self, range: Range<u32>) -> Vec<Range<u32>> {
        let mut all: Vec<Range<u32>> = Vec::new();
        for e in self.es.overlapping(range.clone()).filter(|e| e.status == EsStatus::Delayed) {
            let part = e.clip(&range);
            let clusters = self.cluster_of(part.lblk.0)..self.cluster_of(part.end() - 1) + 1;
            match all.last_mut() {
                Some(last) if last.end >= clusters.start => last.end = last.end.max(clusters.end),
                _ => all.push(clusters),
            }
        }
        all
    }

    /// Make the blocks `[lblk, lblk + len)`, which are a hole on disk and not delayed, delayed: reserve what they
    /// need. The middle clusters are all new. The first and the last are each: delayed already (nothing to do),
    /// allocated (a pending reservation), or neither (reserve one).
    ///
    /// # Errors
    /// [`Error::NoSpace`], or what asking the block map gave; nothing has changed then.
    #[doc(alias = "ext4_insert_delayed_blocks")]
    pub fn insert_delayed(
        &mut self,
        lblk: Lblk,
        len: u32,
        disk: &dyn Allocation,
        ledger: &mut dyn Ledger,
    ) -> Result<()> {
        let Some(last_block) = len.checked_sub(1).and_then(|n| lblk.0.checked_add(n)) else {
            return Err(Error::InvalidArgument { name: "len", value: len.to_string(), allowed: "1 to 2^32 - lblk" });
        };
        let (first, last) = (self.cluster_of(lblk.0), self.cluster_of(last_block));
        let mut need = last - first + 1;
        let mut pending: Vec<u32> = Vec::new();
        if self.cluster_bits > 0 {
            let edges = if first == last { vec![first] } else { vec![first, last] };
            for cluster in edges {
                if self.is_delayed(cluster) {
                    need -= 1;
                } else if disk.any_mapped(self.blocks_of(cluster))? {
                    need -= 1;
                    pending.push(cluster);
                }
            }
        }
        if need > 0 {
            ledger.reserve(need)?;
        }
        self.reserved += need;
        if need > 0 {
            self.emit(|| Event::DaReserve { clusters: need, reserved: self.reserved });
        }
        self.emit(|| Event::EsInsertDelayed {
            lblk: lblk.0,
            len,
            lclu_allocated: pending.contains(&first),
            end_allocated: last > first && pending.contains(&last),
        });
        self.pending.extend(pending);
        self.es.insert(EsEntry { lblk, len, status: EsStatus::Delayed, pblk: Fsblk(0) });
        Ok(())
    }

    /// Record what was seen on disk in passing, where nothing is known yet.
    #[doc(alias = "ext4_es_cache_extent")]
    pub fn learn(&mut self, e: EsEntry) {
        self.emit(|| Event::EsCache(e));
        self.es.cache(e);
    }

    /// Record what a look-up on disk gave, a hole or a mapping; delayed blocks under it stay.
    pub fn cache(&mut self, e: EsEntry) {
        let range = e.lblk.0..e.end();
        let delayed: Vec<EsEntry> = self.es.overlapping(range).filter(|d| d.status == EsStatus::Delayed).collect();
        let mut at = e.lblk.0;
        let gaps: Vec<Range<u32>> = delayed
            .iter()
            .map(|d| {
                let gap = at..d.lblk.0.max(at);
                at = d.end();
                gap
            })
            .collect();
        for gap in gaps.into_iter().chain(std::iter::once(at.min(e.end())..e.end())).filter(|g| !g.is_empty()) {
            let part = e.clip(&gap);
            self.emit(|| Event::EsInsert(part));
            self.es.insert(part);
        }
    }

    /// The blocks of `e` have been allocated (or converted): by writeback, fallocate, direct I/O, whoever. They
    /// stop being delayed. Clusters whose reservation is settled by this are consumed where `takes_clusters` (the
    /// allocation took new clusters of the device, which the reservation stood for) and released otherwise.
    /// Clusters that keep delayed blocks get a pending reservation. Returns the number of reservations settled.
    #[doc(alias = "ext4_es_insert_extent")]
    pub fn insert_allocated(&mut self, e: EsEntry, takes_clusters: bool, ledger: &mut dyn Ledger) -> u32 {
        if e.len == 0 {
            return 0;
        }
        let (first, last) = (self.cluster_of(e.lblk.0), self.cluster_of(e.end() - 1));
        // Reserved clusters that now have an allocated block, whether the delayed ones are inside `e` or beside it.
        let whole = self.blocks_of(first).start..self.blocks_of(last).end;
        let settled = self.count_reserved(whole);
        self.emit(|| Event::EsInsert(e));
        if settled > 0 {
            let reserved = self.reserved;
            self.emit(|| Event::DaUpdate { clusters: settled, reserved, quota_claim: takes_clusters });
        }
        self.es.insert(e);
        self.reserved -= settled;
        if self.cluster_bits > 0 {
            let inside: Vec<u32> = self.pending.range(first..=last).copied().collect();
            for cluster in inside {
                self.pending.remove(&cluster);
            }
            for cluster in [first, last] {
                if self.is_delayed(cluster) {
                    self.pending.insert(cluster);
                }
            }
        }
        if takes_clusters {
            ledger.consume(settled);
        } else {
            ledger.release(settled);
        }
        settled
    }

    /// Clusters with a delayed block in `range` (whole clusters) that hold a reservation.
    fn count_reserved(&self, range: Range<u32>) -> u32 {
        self.delayed_clusters(range)
            .into_iter()
            .map(|clusters| {
                let pending = self.pending.range(clusters.clone()).count() as u32;
                clusters.end - clusters.start - pending
            })
            .sum()
    }

    /// Forget blocks: truncate and punch. Delayed blocks go with their reservations; a cluster that keeps delayed
    /// blocks outside `range` keeps its own. Where the range is known to be empty afterwards, the caller inserts
    /// a hole.
    #[doc(alias = "ext4_es_remove_extent")]
    pub fn remove(&mut self, range: Range<u32>, ledger: &mut dyn Ledger) {
        if range.is_empty() {
            return;
        }
        let touched = self.delayed_clusters(range.clone());
        self.emit(|| Event::EsRemove { lblk: range.start, len: range.end - range.start });
        self.es.remove(range);
        let mut released = 0;
        for clusters in touched {
            released += self.release_clusters(clusters);
        }
        if released > 0 {
            self.emit(|| Event::DaRelease { clusters: released, reserved: self.reserved });
        }
        self.reserved -= released;
        if released > 0 {
            ledger.release(released);
        }
    }

    /// Of clusters that lost delayed blocks: end the pending reservations, and count the reservations, of those
    /// that have none left.
    fn release_clusters(&mut self, clusters: Range<u32>) -> u32 {
        let mut released = clusters.end - clusters.start;
        // Delayed blocks that are left can only be in the first and the last cluster.
        let mut edges = vec![clusters.start];
        if clusters.end - clusters.start > 1 {
            edges.push(clusters.end - 1);
        }
        let kept: Vec<u32> = edges.into_iter().filter(|c| self.is_delayed(*c)).collect();
        released -= kept.len() as u32;
        let ended: Vec<u32> = self.pending.range(clusters).copied().filter(|c| !kept.contains(c)).collect();
        for cluster in ended {
            self.pending.remove(&cluster);
            released -= 1;
        }
        released
    }

    /// The last allocated block of a cluster has gone while delayed ones stay: the cluster of the device is freed, and
    /// the pending reservation becomes a real one. The cluster that was just freed backs it, so this cannot fail;
    /// the caller moves it from free to reserved.
    #[doc(alias = "ext4_rereserve_cluster")]
    pub fn rereserve(&mut self, cluster: u32) -> bool {
        let moved = self.pending.remove(&cluster);
        if moved {
            self.reserved += 1;
        }
        moved
    }

    /// Forget everything but delayed entries. Pending reservations stay.
    pub fn shrink(&mut self) -> usize {
        self.es.shrink()
    }

    /// Check the invariants against what is allocated on disk; the first violation as text.
    pub fn check(&self, disk: &dyn Allocation) -> Result<Option<String>> {
        let delayed = self.delayed_clusters(0..u32::MAX);
        let (mut reserved, mut pending) = (0u32, BTreeSet::new());
        for cluster in delayed.into_iter().flatten() {
            if disk.any_mapped(self.blocks_of(cluster))? {
                pending.insert(cluster);
            } else {
                reserved += 1;
            }
        }
        if reserved != self.reserved {
            let leak = if self.reserved > reserved { "a reservation leaks: " } else { "" };
            let had = self.reserved;
            return Ok(Some(format!("{leak}{had} clusters reserved, {reserved} delayed and not allocated")));
        }
        if pending != self.pending {
            return Ok(Some(format!("pending {:?}, delayed and allocated {pending:?}", self.pending)));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The disk as an array of blocks.
    struct Disk(Vec<bool>);

    impl Allocation for Disk {
        fn any_mapped(&self, range: Range<u32>) -> Result<bool> {
            Ok(self.0[range.start as usize..(range.end as usize).min(self.0.len())].contains(&true))
        }
    }

    /// The filesystem's counts: free clusters and reserved ones.
    #[derive(Debug, PartialEq, Eq)]
    struct Counts {
        free: u32,
        dirty: u32,
    }

    impl Ledger for Counts {
        fn reserve(&mut self, n: u32) -> Result<()> {
            if self.free - self.dirty < n {
                let have = (self.free - self.dirty).into();
                return Err(Error::NoSpace { what: "clusters", need: n.into(), have });
            }
            self.dirty += n;
            Ok(())
        }
        fn release(&mut self, n: u32) {
            self.dirty -= n;
        }
        fn consume(&mut self, n: u32) {
            self.dirty -= n;
            self.free -= n;
        }
    }

    fn mapped(lblk: u32, len: u32) -> EsEntry {
        EsEntry { lblk: Lblk(lblk), len, status: EsStatus::Unwritten, pblk: Fsblk(5000 + u64::from(lblk)) }
    }

    #[test]
    fn first_and_last_cluster_are_new_delayed_or_allocated() {
        let mut disk = Disk(vec![false; 64]);
        let mut counts = Counts { free: 100, dirty: 0 };
        let mut d = Delalloc::new(2);
        d.insert_delayed(Lblk(6), 9, &disk, &mut counts).unwrap(); // clusters 1, 2, 3
        assert_eq!((d.reserved(), counts.dirty), (3, 3));
        disk.0[16] = true; // cluster 4 has an allocated block
        d.insert_delayed(Lblk(15), 3, &disk, &mut counts).unwrap(); // 15 is in cluster 3, 17 in cluster 4
        assert_eq!((d.reserved(), d.pending().collect::<Vec<_>>()), (3, vec![4]));
        assert_eq!(d.check(&disk).unwrap(), None);
    }

    #[test]
    fn no_space_changes_nothing() {
        let disk = Disk(vec![false; 64]);
        let mut counts = Counts { free: 3, dirty: 1 };
        let mut d = Delalloc::new(2);
        assert!(matches!(
            d.insert_delayed(Lblk(0), 9, &disk, &mut counts),
            Err(Error::NoSpace { need: 3, have: 2, .. })
        ));
        assert!(d.es().is_empty() && d.reserved() == 0 && counts.dirty == 1);
    }

    #[test]
    fn writing_back_one_block_of_a_cluster_leaves_it_pending() {
        let mut disk = Disk(vec![false; 64]);
        let mut counts = Counts { free: 100, dirty: 0 };
        let mut d = Delalloc::new(4);
        d.insert_delayed(Lblk(0), 1, &disk, &mut counts).unwrap();
        d.insert_delayed(Lblk(2), 1, &disk, &mut counts).unwrap();
        assert_eq!(d.reserved(), 1);
        disk.0[2] = true;
        assert_eq!(d.insert_allocated(mapped(2, 1), true, &mut counts), 1);
        assert_eq!((d.reserved(), d.pending().collect::<Vec<_>>()), (0, vec![0]));
        assert_eq!(counts, Counts { free: 99, dirty: 0 });
        // The allocated block goes: the cluster is free again, and reserved again.
        d.remove(2..3, &mut counts);
        disk.0[2] = false;
        assert!(d.rereserve(0));
        assert_eq!(d.reserved(), 1);
        assert_eq!(d.check(&disk).unwrap(), None);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Write(u32, u32),
        Allocate(u32, u32),
        Truncate(u32, u32),
        Shrink,
    }

    fn op() -> impl Strategy<Value = Op> {
        let range = (0u32..56, 1u32..24);
        prop_oneof![
            4 => range.clone().prop_map(|(l, n)| Op::Write(l, n)),
            3 => range.clone().prop_map(|(l, n)| Op::Allocate(l, n)),
            2 => range.prop_map(|(l, n)| Op::Truncate(l, n)),
            1 => Just(Op::Shrink),
        ]
    }

    /// Make runs of blocks that are neither delayed nor allocated delayed.
    fn write(d: &mut Delalloc, disk: &Disk, counts: &mut Counts, range: Range<u32>) {
        let mut at = range.start;
        while at < range.end {
            let is_hole = |b: u32, d: &Delalloc| !disk.0[b as usize] && !d.es.any(EsStatus::Delayed, b..b + 1);
            let len = (at..range.end).take_while(|b| is_hole(*b, d)).count() as u32;
            if len > 0 {
                d.insert_delayed(Lblk(at), len, disk, counts).unwrap();
            }
            at += len.max(1);
        }
    }

    /// Allocate holes and delayed blocks one by one; each takes a new cluster where its cluster has none.
    fn allocate(d: &mut Delalloc, disk: &mut Disk, counts: &mut Counts, range: Range<u32>) {
        for b in range.filter(|b| !disk.0[*b as usize]).collect::<Vec<_>>() {
            let blocks = d.blocks_of(d.cluster_of(b));
            let new_cluster = !disk.any_mapped(blocks).unwrap();
            disk.0[b as usize] = true;
            let settled = d.insert_allocated(mapped(b, 1), true, counts);
            assert!(settled == 0 || new_cluster);
            if new_cluster && settled == 0 {
                counts.free -= 1;
            }
        }
    }

    fn truncate(d: &mut Delalloc, disk: &mut Disk, counts: &mut Counts, range: Range<u32>) {
        d.remove(range.clone(), counts);
        for cluster in d.cluster_of(range.start)..=d.cluster_of(range.end - 1) {
            let blocks = d.blocks_of(cluster);
            let before = disk.any_mapped(blocks.clone()).unwrap();
            for b in blocks.clone().filter(|b| range.contains(b)) {
                disk.0[b as usize] = false;
            }
            if before && !disk.any_mapped(blocks).unwrap() {
                counts.free += 1;
                if d.rereserve(cluster) {
                    counts.dirty += 1;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn reservations_follow_the_definition(bits in 0u32..5, ops in proptest::collection::vec(op(), 1..40)) {
            let mut disk = Disk(vec![false; 96]);
            let mut counts = Counts { free: 1000, dirty: 0 };
            let mut d = Delalloc::new(bits);
            for op in ops {
                match op {
                    Op::Write(l, n) => write(&mut d, &disk, &mut counts, l..l + n),
                    Op::Allocate(l, n) => allocate(&mut d, &mut disk, &mut counts, l..l + n),
                    Op::Truncate(l, n) => truncate(&mut d, &mut disk, &mut counts, l..l + n),
                    Op::Shrink => {
                        d.shrink();
                    }
                }
                prop_assert_eq!(d.check(&disk).unwrap(), None);
                prop_assert_eq!(counts.dirty, d.reserved());
                let used = (0..96u32 >> bits).filter(|c| disk.any_mapped(d.blocks_of(*c)).unwrap()).count() as u32;
                prop_assert_eq!(counts.free, 1000 - used);
            }
        }
    }
}
