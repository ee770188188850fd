//! The extent-status tree of one inode: what is known of its blocks. Kernel name: `struct ext4_es_tree`.
//!
//! Entries `[lblk, lblk + len)` are ordered and do not overlap; each is written or unwritten (with its physical
//! block), delayed, or a hole. A delayed entry is that and nothing else: once a block is allocated it stops being
//! delayed. Neighbours are one entry where the status is the same and, for the mapped kinds, the physical blocks
//! continue. Blocks without an entry are unknown: ask the disk. Only delayed entries carry information that is
//! nowhere else; all others are a cache and may be dropped.
//!
//! [`EsTree::seq`] grows with every insert and removal. A mapping handed to I/O code carries it as a cookie
//! ([`EsTree::cookie`]); the mapping may be used only while [`EsTree::is_valid`] says so.
//!
//! Cost: every operation is O(log n) and the number of entries it touches. An entry takes 16 bytes, and its share
//! of the B-tree's nodes: about 18 to 32 bytes, against 40 in the kernel.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::units::{Fsblk, Lblk};

/// The end of a file's block numbers: one beyond the last block that can exist.
#[doc(alias = "EXT_MAX_BLOCKS")]
pub const MAX_BLOCKS: u32 = u32::MAX;

/// What blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EsStatus {
    /// Allocated, and holds data.
    Written,
    /// Allocated, and reads as zeros.
    Unwritten,
    /// Dirty in the page cache, reserved, not allocated.
    Delayed,
    /// Nothing.
    Hole,
}

impl EsStatus {
    /// Whether there is a physical block.
    pub const fn is_mapped(self) -> bool {
        matches!(self, Self::Written | Self::Unwritten)
    }
}

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "extent_status")]
pub struct EsEntry {
    /// First block.
    pub lblk: Lblk,
    /// Length in blocks, 1 or more.
    pub len: u32,
    /// What they are.
    pub status: EsStatus,
    /// First physical block of the mapped kinds, else block 0.
    pub pblk: Fsblk,
}

impl EsEntry {
    /// One beyond the last block.
    pub const fn end(&self) -> u32 {
        self.lblk.0.saturating_add(self.len)
    }

    /// The part of the entry inside `range`, which it must overlap.
    #[must_use]
    pub fn clip(&self, range: &Range<u32>) -> Self {
        let from = self.lblk.0.max(range.start);
        let to = self.end().min(range.end);
        let skip = from - self.lblk.0;
        let pblk = if self.status.is_mapped() { self.pblk.saturating_add(skip.into()) } else { self.pblk };
        Self { lblk: Lblk(from), len: to - from, status: self.status, pblk }
    }
}

/// An entry as it is kept: 12 bytes beside the 4 of its key. The physical block has 48 bits, the status two.
#[derive(Clone, Copy)]
struct Packed {
    len: u32,
    pblk_lo: u32,
    pblk_hi_and_status: u32,
}

const STATUS_SHIFT: u32 = 30;

impl Packed {
    fn new(e: &EsEntry) -> Self {
        let status: u32 = match e.status {
            EsStatus::Written => 0,
            EsStatus::Unwritten => 1,
            EsStatus::Delayed => 2,
            EsStatus::Hole => 3,
        };
        Self {
            len: e.len,
            pblk_lo: e.pblk.0 as u32,
            pblk_hi_and_status: ((e.pblk.0 >> 32) as u32 & 0xffff) | (status << STATUS_SHIFT),
        }
    }

    fn entry(self, lblk: u32) -> EsEntry {
        let status = match self.pblk_hi_and_status >> STATUS_SHIFT {
            0 => EsStatus::Written,
            1 => EsStatus::Unwritten,
            2 => EsStatus::Delayed,
            _ => EsStatus::Hole,
        };
        let hi = u64::from(self.pblk_hi_and_status & 0xffff);
        EsEntry { lblk: Lblk(lblk), len: self.len, status, pblk: Fsblk(u64::from(self.pblk_lo) | (hi << 32)) }
    }
}

/// A validity cookie: the tree's sequence number when a mapping was taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "m_seq")]
pub struct Cookie(u64);

/// The extent-status tree.
#[derive(Clone, Default)]
#[doc(alias = "ext4_es_tree")]
pub struct EsTree {
    map: BTreeMap<u32, Packed>,
    seq: u64,
}

impl std::fmt::Debug for EsTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl EsTree {
    /// An empty tree.
    pub const fn new() -> Self {
        Self { map: BTreeMap::new(), seq: 0 }
    }

    /// Grows with every change.
    #[doc(alias = "i_es_seq")]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// A cookie for a mapping that is taken now.
    pub const fn cookie(&self) -> Cookie {
        Cookie(self.seq)
    }

    /// Whether nothing has changed since the cookie was taken.
    pub const fn is_valid(&self, cookie: Cookie) -> bool {
        cookie.0 == self.seq
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = EsEntry> + '_ {
        self.map.iter().map(|(l, p)| p.entry(*l))
    }

    /// The entry that holds a block.
    #[doc(alias = "ext4_es_lookup_extent")]
    pub fn lookup(&self, lblk: Lblk) -> Option<EsEntry> {
        let (l, p) = self.map.range(..=lblk.0).next_back()?;
        let e = p.entry(*l);
        (e.end() > lblk.0).then_some(e)
    }

    /// The entries that overlap `range`, whole, in order.
    pub fn overlapping(&self, range: Range<u32>) -> impl Iterator<Item = EsEntry> + '_ {
        let first = self.lookup(Lblk(range.start)).map_or(range.start, |e| e.lblk.0);
        let end = range.end.max(first);
        self.map.range(first..end).map(|(l, p)| p.entry(*l))
    }

    /// The first entry with `status` that overlaps `range`, clipped to it.
    #[doc(alias = "ext4_es_find_extent_range")]
    pub fn find(&self, status: EsStatus, range: Range<u32>) -> Option<EsEntry> {
        self.overlapping(range.clone()).find(|e| e.status == status).map(|e| e.clip(&range))
    }

    /// Whether a block of `range` has `status`.
    #[doc(alias = "ext4_es_scan_range")]
    pub fn any(&self, status: EsStatus, range: Range<u32>) -> bool {
        self.overlapping(range).any(|e| e.status == status)
    }

    /// Set what `[e.lblk, e.end())` is, replacing what was known of it. An empty entry changes nothing.
    #[doc(alias = "ext4_es_insert_extent")]
    pub fn insert(&mut self, e: EsEntry) {
        if e.len == 0 {
            return;
        }
        self.seq += 1;
        self.cut(e.lblk.0..e.end());
        self.put(e);
    }

    /// Remember what was found on disk, where nothing is known yet of any of it.
    #[doc(alias = "ext4_es_cache_extent")]
    pub fn cache(&mut self, e: EsEntry) {
        if e.len != 0 && self.overlapping(e.lblk.0..e.end()).next().is_none() {
            self.seq += 1;
            self.put(e);
        }
    }

    /// Forget what is known of `range`.
    #[doc(alias = "ext4_es_remove_extent")]
    pub fn remove(&mut self, range: Range<u32>) {
        if !range.is_empty() {
            self.seq += 1;
            self.cut(range);
        }
    }

    /// Forget everything but delayed entries; returns how many entries went.
    #[doc(alias = "ext4_clear_inode_es")]
    pub fn shrink(&mut self) -> usize {
        let before = self.map.len();
        self.map.retain(|l, p| p.entry(*l).status == EsStatus::Delayed);
        before - self.map.len()
    }

    /// Take `range` out of the map, splitting the entries at its edges.
    fn cut(&mut self, range: Range<u32>) {
        if let Some(first) = self.lookup(Lblk(range.start)).filter(|e| e.lblk.0 < range.start) {
            self.store(first.clip(&(first.lblk.0..range.start)));
            if first.end() > range.end {
                self.store(first.clip(&(range.end..first.end())));
                return;
            }
        }
        while let Some((&l, &p)) = self.map.range(range.clone()).next() {
            self.map.remove(&l);
            let e = p.entry(l);
            if e.end() > range.end {
                self.store(e.clip(&(range.end..e.end())));
            }
        }
    }

    /// Add an entry where there is none, and join it with its neighbours.
    fn put(&mut self, mut e: EsEntry) {
        if let Some(before) = e.lblk.0.checked_sub(1).and_then(|l| self.lookup(Lblk(l)))
            && joins(&before, &e)
        {
            e = EsEntry { lblk: before.lblk, len: before.len + e.len, ..before };
        }
        if let Some(p) = self.map.get(&e.end()).copied() {
            let after = p.entry(e.end());
            if joins(&e, &after) {
                self.map.remove(&e.end());
                e.len += after.len;
            }
        }
        self.store(e);
    }

    fn store(&mut self, e: EsEntry) {
        self.map.insert(e.lblk.0, Packed::new(&e));
    }
}

/// Whether `b`, which starts where `a` ends, can be one entry with it.
#[doc(alias = "ext4_es_can_be_merged")]
fn joins(a: &EsEntry, b: &EsEntry) -> bool {
    a.status == b.status
        && a.end() == b.lblk.0
        && a.len.checked_add(b.len).is_some()
        && (!a.status.is_mapped() || a.pblk.0 + u64::from(a.len) == b.pblk.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn e(lblk: u32, len: u32, status: EsStatus, pblk: u64) -> EsEntry {
        EsEntry { lblk: Lblk(lblk), len, status, pblk: Fsblk(pblk) }
    }

    fn list(t: &EsTree) -> Vec<(u32, u32, EsStatus, u64)> {
        t.iter().map(|e| (e.lblk.0, e.len, e.status, e.pblk.0)).collect()
    }

    #[test]
    fn a_hole_is_split_by_delayed_blocks_that_merge() {
        use EsStatus::{Delayed, Hole};
        let mut t = EsTree::new();
        t.insert(e(0, MAX_BLOCKS, Hole, 0));
        t.insert(e(5, 1, Delayed, 0));
        t.insert(e(6, 1, Delayed, 0));
        assert_eq!(list(&t), [(0, 5, Hole, 0), (5, 2, Delayed, 0), (7, MAX_BLOCKS - 7, Hole, 0)]);
    }

    #[test]
    fn mapped_neighbours_merge_only_where_the_blocks_continue() {
        use EsStatus::{Unwritten, Written};
        let mut t = EsTree::new();
        t.insert(e(0, 4, Written, 100));
        t.insert(e(4, 4, Written, 104));
        t.insert(e(8, 4, Written, 200));
        t.insert(e(12, 4, Unwritten, 204));
        assert_eq!(list(&t), [(0, 8, Written, 100), (8, 4, Written, 200), (12, 4, Unwritten, 204)]);
        t.remove(2..10);
        assert_eq!(list(&t), [(0, 2, Written, 100), (10, 2, Written, 202), (12, 4, Unwritten, 204)]);
        t.insert(e(0xffff_0000, 1, Written, 0xffff_1234_5678));
        assert_eq!(t.lookup(Lblk(0xffff_0000)).unwrap().pblk, Fsblk(0xffff_1234_5678));
    }

    #[test]
    fn a_cookie_ends_with_the_next_change() {
        let mut t = EsTree::new();
        t.insert(e(0, 10, EsStatus::Hole, 0));
        let cookie = t.cookie();
        t.cache(e(5, 5, EsStatus::Written, 9)); // known already: nothing changes
        assert!(t.is_valid(cookie));
        t.insert(e(3, 1, EsStatus::Delayed, 0));
        assert!(!t.is_valid(cookie));
    }

    #[test]
    fn shrinking_keeps_what_is_delayed() {
        let mut t = EsTree::new();
        t.insert(e(0, 10, EsStatus::Hole, 0));
        t.insert(e(4, 2, EsStatus::Delayed, 0));
        t.insert(e(10, 5, EsStatus::Written, 7));
        assert_eq!(t.shrink(), 3);
        assert_eq!(list(&t), [(4, 2, EsStatus::Delayed, 0)]);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(EsEntry),
        Cache(EsEntry),
        Remove(Range<u32>),
        Shrink,
    }

    fn ops() -> impl Strategy<Value = Op> {
        let status = prop_oneof![
            Just(EsStatus::Written),
            Just(EsStatus::Unwritten),
            Just(EsStatus::Delayed),
            Just(EsStatus::Hole)
        ];
        let entry = (0u32..60, 1u32..20, status).prop_map(|(lblk, len, status)| {
            // Physical blocks that make some neighbours continue and others not.
            let pblk = if status.is_mapped() { 1000 + u64::from(lblk) + u64::from(lblk / 16) * 5 } else { 0 };
            e(lblk, len, status, pblk)
        });
        prop_oneof![
            4 => entry.clone().prop_map(Op::Insert),
            1 => entry.prop_map(Op::Cache),
            2 => (0u32..60, 0u32..20).prop_map(|(l, n)| Op::Remove(l..l + n)),
            1 => Just(Op::Shrink),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_an_array_of_blocks(ops in proptest::collection::vec(ops(), 1..60)) {
            let mut t = EsTree::new();
            let mut model: Vec<Option<(EsStatus, u64)>> = vec![None; 100];
            let write = |model: &mut Vec<Option<(EsStatus, u64)>>, e: &EsEntry| {
                for n in 0..e.len {
                    let pblk = if e.status.is_mapped() { e.pblk.0 + u64::from(n) } else { 0 };
                    model[(e.lblk.0 + n) as usize] = Some((e.status, pblk));
                }
            };
            for op in ops {
                match op {
                    Op::Insert(e) => {
                        t.insert(e);
                        write(&mut model, &e);
                    }
                    Op::Cache(e) => {
                        t.cache(e);
                        if model[e.lblk.0 as usize..e.end() as usize].iter().all(Option::is_none) {
                            write(&mut model, &e);
                        }
                    }
                    Op::Remove(r) => {
                        t.remove(r.clone());
                        model[r.start as usize..r.end as usize].fill(None);
                    }
                    Op::Shrink => {
                        t.shrink();
                        for m in &mut model {
                            *m = m.filter(|(s, _)| *s == EsStatus::Delayed);
                        }
                    }
                }
                for (i, m) in model.iter().enumerate() {
                    let got = t.lookup(Lblk(i as u32)).map(|e| {
                        let c = e.clip(&(i as u32..i as u32 + 1));
                        (c.status, c.pblk.0)
                    });
                    prop_assert_eq!(got, *m, "block {}", i);
                }
                let all: Vec<EsEntry> = t.iter().collect();
                for pair in all.windows(2) {
                    prop_assert!(pair[0].end() <= pair[1].lblk.0 && !joins(&pair[0], &pair[1]), "{:?}", pair);
                }
            }
        }
    }
}
