//! The index of one hashed directory, put together while its blocks are looked at, then judged as a whole.

use super::problem::Problem as P;
use super::report::Finding;
use super::state::{Judge, Stop};
use super::view::{le16, le32};
use crate::format::dirhash::DirHasher;
use crate::units::Ino;

/// Bytes of an index entry, and of its checksum tail.
const ENTRY: usize = 8;
const TAIL: usize = 8;
/// Bits of an entry's block that are a block number.
const BLOCK_MASK: u32 = 0x0fff_ffff;
/// The highest hash there is.
const LAST_HASH: u32 = 0xffff_fffe;
/// Blocks of a directory above which its index is not put together: no directory gets there.
pub(super) const MAX_BLOCKS: u64 = 1 << 24;

/// What a block of an indexed directory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// Not looked at.
    #[default]
    Unknown,
    Leaf,
    Root,
    Node,
}

/// One block of the directory.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    kind: Kind,
    /// Hashes in the block.
    min: u32,
    max: u32,
    /// Hashes that the index allows.
    node_min: u32,
    node_max: u32,
    parent: u32,
    previous: u32,
    referenced: bool,
    twice: bool,
    first: bool,
    last: bool,
}

/// The index of a directory.
#[derive(Default)]
pub(super) struct Index {
    /// It is written anew: what else is wrong with it does not matter.
    pub(super) given_up: bool,
    slots: Vec<Slot>,
    depth: u16,
    /// The hash function of the names; `None` where names cannot be hashed.
    pub(super) hasher: Option<DirHasher>,
    /// Entries carry their hash.
    pub(super) hash_in_entry: bool,
}

impl Index {
    pub(super) fn start(&mut self, blocks: u64) {
        self.given_up = false;
        self.slots.clear();
        self.slots.resize(blocks as usize, Slot::default());
        self.depth = 0;
        self.hasher = None;
    }

    pub(super) fn set_root(&mut self, levels: u8) {
        self.depth = u16::from(levels) + 1;
        if let Some(s) = self.slots.first_mut() {
            (s.first, s.last) = (true, true);
        }
    }

    pub(super) fn kind(&self, lblk: u64) -> Kind {
        self.slots.get(lblk as usize).map_or(Kind::Unknown, |s| s.kind)
    }

    pub(super) fn set_kind(&mut self, lblk: u64, kind: Kind) {
        if let Some(s) = self.slots.get_mut(lblk as usize) {
            s.kind = kind;
            (s.min, s.max) = (u32::MAX, 0);
        }
    }

    /// A name with this hash is in the block.
    pub(super) fn saw(&mut self, lblk: u64, hash: u32) {
        if let Some(s) = self.slots.get_mut(lblk as usize) {
            s.min = s.min.min(hash);
            s.max = s.max.max(hash);
        }
    }

    /// Take in the entries of a node (or the root), which begin at byte `at`.
    #[doc(alias = "parse_int_node")]
    pub(super) fn node<J: Judge>(
        &mut self,
        judge: &mut J,
        dir: Ino,
        lblk: u64,
        block: &[u8],
        at: usize,
        checksums: bool,
    ) -> Result<(), Stop> {
        if self.given_up {
            return Ok(());
        }
        let mut gone = false;
        let finding = |p: P| Finding::inode(p, dir).lblk(lblk);
        let (limit, count) = (usize::from(le16(block, at)), usize::from(le16(block, at + 2)));
        let room = block.len().saturating_sub(at + if checksums { TAIL } else { 0 }) / ENTRY;
        if limit != room {
            gone |= judge.raise(finding(P::HtreeBadLimit).num(limit as u64))?;
        }
        if count > room {
            gone |= judge.raise(finding(P::HtreeBadCount).num(count as u64))?;
        }
        let count = count.min(room);
        let entry = |i: usize| {
            let hash = if i == 0 { 0 } else { le32(block, at + i * ENTRY) & !1 };
            (hash, le32(block, at + i * ENTRY + 4) & BLOCK_MASK)
        };
        let (mut min, mut max, mut before) = (u32::MAX, 0, 0);
        for i in 0..count {
            if gone {
                break;
            }
            let (hash, to) = entry(i);
            if to as usize >= self.slots.len() {
                gone |= judge.raise(finding(P::HtreeBadBlock).num(to))?;
                continue;
            }
            if hash < before {
                gone |= judge.raise(finding(P::HtreeHashOrder))?;
            }
            before = hash;
            let previous = if i == 0 { 0 } else { entry(i - 1).1 };
            let node_max = if i + 1 < count { entry(i + 1).0 } else { LAST_HASH };
            min = min.min(hash);
            max = max.max(hash);
            let Some(s) = self.slots.get_mut(to as usize) else { continue };
            if s.referenced {
                s.twice = true;
            } else {
                s.referenced = true;
                s.parent = lblk as u32;
            }
            s.previous = previous;
            (s.node_min, s.node_max) = (hash, node_max);
            s.last |= i + 1 == count;
            s.first |= i == 0;
        }
        if let Some(s) = self.slots.get_mut(lblk as usize) {
            (s.min, s.max) = (min, max);
        }
        self.given_up |= gone;
        Ok(())
    }

    /// Hand the lowest hash of a first child, and the highest of a last one, on to the parent.
    fn update_parents(&mut self, kind: Kind) {
        for i in 0..self.slots.len() {
            let Some(&s) = self.slots.get(i) else { break };
            if s.kind != kind {
                continue;
            }
            let mut previous = 0;
            if let Some(p) = self.slots.get_mut(s.parent as usize) {
                if s.first {
                    p.min = s.min;
                    previous = p.previous;
                }
                if s.last {
                    p.max = s.max;
                }
            }
            if previous != 0
                && let Some(p) = self.slots.get_mut(previous as usize)
            {
                p.node_max = s.min;
            }
        }
    }

    fn depth_of(&self, lblk: usize) -> u16 {
        let mut at = lblk;
        for depth in 0..=self.depth + 1 {
            match self.slots.get(at) {
                Some(s) if s.kind != Kind::Root => at = s.parent as usize,
                _ => return depth,
            }
        }
        u16::MAX
    }

    /// All blocks were looked at: does the index fit them?
    pub(super) fn finish<J: Judge>(&mut self, judge: &mut J, dir: Ino) -> Result<(), Stop> {
        if self.given_up {
            return Ok(());
        }
        if let Some(root) = self.slots.first_mut() {
            root.twice |= root.referenced;
            root.referenced = true;
        }
        self.update_parents(Kind::Leaf);
        self.update_parents(Kind::Node);
        for i in 0..self.slots.len() {
            let Some(&s) = self.slots.get(i) else { break };
            let finding = |p: P| Finding::inode(p, dir).lblk(i as u64);
            if s.kind == Kind::Unknown {
                // A hole: reported where the map was followed.
                continue;
            }
            if !s.first && s.min < s.node_min {
                judge.raise(finding(P::HtreeMinHash).num(s.min).want(s.node_min))?;
            }
            if s.kind == Kind::Leaf && s.referenced {
                let depth = self.depth_of(i);
                if depth != self.depth {
                    judge.raise(finding(P::HtreeBadDepth).num(depth).want(self.depth))?;
                }
            }
            if i > 0 && s.max > s.node_max {
                judge.raise(finding(P::HtreeMaxHash).num(s.max).want(s.node_max))?;
            }
            if !s.referenced {
                judge.raise(finding(P::HtreeNotRef))?;
            } else if s.twice {
                judge.raise(finding(P::HtreeDupRef))?;
            }
        }
        Ok(())
    }
}
