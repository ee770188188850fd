//! Extent tree nodes: a 12-byte header, 12-byte entries, and in blocks a checksum tail. Little endian.
//! Kernel names: `struct ext4_extent_header`, `ext4_extent`, `ext4_extent_idx`, `ext4_extent_tail`.
//!
//! The root sits in the 60 bytes of the inode's `block` area (four entries, no tail); other nodes fill a block.
//! Physical block numbers have 48 bits. A leaf entry of more than 32768 blocks is unwritten: its length is what
//! exceeds 32768.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::csum::crc32c;
use super::{U16, U32};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::units::{Fsblk, Lblk};

/// Magic number of a node.
#[doc(alias = "EXT4_EXT_MAGIC")]
pub const MAGIC: u16 = 0xf30a;
/// Longest written extent, blocks.
#[doc(alias = "EXT_INIT_MAX_LEN")]
pub const MAX_WRITTEN_LEN: u16 = 32768;
/// Longest unwritten extent, blocks.
#[doc(alias = "EXT_UNWRITTEN_MAX_LEN")]
pub const MAX_UNWRITTEN_LEN: u16 = 32767;
/// Deepest tree: levels below the root.
#[doc(alias = "EXT4_MAX_EXTENT_DEPTH")]
pub const MAX_DEPTH: u16 = 5;
/// Bytes of the header, and of every entry.
pub const ENTRY_SIZE: usize = 12;
/// Bytes of the checksum tail.
const TAIL_SIZE: usize = 4;

/// A node's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "ext4_extent_header")]
pub struct ExtentHeader {
    /// [`MAGIC`].
    pub magic: U16,
    /// Entries in use.
    pub entries: U16,
    /// Room for entries.
    pub max: U16,
    /// Levels below this node; 0 for a leaf.
    pub depth: U16,
    /// Generation (unused by ext4; kept).
    pub generation: U32,
}

/// A leaf entry: logical blocks `block..block + len` are at `start..`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "ext4_extent")]
pub struct RawExtent {
    /// First logical block.
    pub block: U32,
    /// Length in blocks; above 32768 the extent is unwritten.
    pub len: U16,
    /// First physical block, high 16 bits.
    pub start_hi: U16,
    /// First physical block, low 32 bits.
    pub start_lo: U32,
}

/// An index entry: logical blocks from `block` on are described by the node at `leaf`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "ext4_extent_idx")]
pub struct RawIndex {
    /// First logical block.
    pub block: U32,
    /// Block of the child node, low 32 bits.
    pub leaf_lo: U32,
    /// Block of the child node, high 16 bits.
    pub leaf_hi: U16,
    /// Unused; kept.
    pub unused: U16,
}

const _: () = {
    assert!(size_of::<ExtentHeader>() == ENTRY_SIZE);
    assert!(size_of::<RawExtent>() == ENTRY_SIZE);
    assert!(size_of::<RawIndex>() == ENTRY_SIZE);
};

/// A mapped range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Extent {
    /// First logical block.
    pub lblk: Lblk,
    /// Length in blocks, 1 to 32768.
    pub len: u32,
    /// First physical block.
    pub pblk: Fsblk,
    /// Allocated, but reads as zeros.
    pub unwritten: bool,
}

impl Extent {
    /// The logical block after the last one (may be 2^32).
    pub const fn end(&self) -> u64 {
        (self.lblk.0 as u64).saturating_add(self.len as u64)
    }
}

impl From<RawExtent> for Extent {
    fn from(raw: RawExtent) -> Self {
        let len = raw.len.get();
        let unwritten = len > MAX_WRITTEN_LEN;
        Self {
            lblk: Lblk(raw.block.get()),
            len: u32::from(if unwritten { len.saturating_sub(MAX_WRITTEN_LEN) } else { len }),
            pblk: Fsblk(u64::from(raw.start_lo.get()) | (u64::from(raw.start_hi.get()) << 32)),
            unwritten,
        }
    }
}

impl From<Extent> for RawExtent {
    /// The on-disk entry. `len` must be at most [`MAX_WRITTEN_LEN`] ([`MAX_UNWRITTEN_LEN`] where unwritten).
    fn from(e: Extent) -> Self {
        debug_assert!(e.len <= u32::from(if e.unwritten { MAX_UNWRITTEN_LEN } else { MAX_WRITTEN_LEN }));
        let len = (e.len as u16).saturating_add(if e.unwritten { MAX_WRITTEN_LEN } else { 0 });
        Self {
            block: U32::new(e.lblk.0),
            len: U16::new(len),
            start_hi: U16::new((e.pblk.0 >> 32) as u16),
            start_lo: U32::new(e.pblk.0 as u32),
        }
    }
}

/// An index entry in typed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    /// First logical block below.
    pub lblk: Lblk,
    /// Block of the child node.
    pub child: Fsblk,
}

impl From<RawIndex> for Index {
    fn from(raw: RawIndex) -> Self {
        Self {
            lblk: Lblk(raw.block.get()),
            child: Fsblk(u64::from(raw.leaf_lo.get()) | (u64::from(raw.leaf_hi.get()) << 32)),
        }
    }
}

impl From<Index> for RawIndex {
    fn from(i: Index) -> Self {
        Self {
            block: U32::new(i.lblk.0),
            leaf_lo: U32::new(i.child.0 as u32),
            leaf_hi: U16::new((i.child.0 >> 32) as u16),
            unused: U16::new(0),
        }
    }
}

/// A node's entries: all of one kind, by the header's depth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entries {
    /// The node is a leaf.
    Leaf(Vec<Extent>),
    /// The node points to others.
    Index(Vec<Index>),
}

/// A node in typed form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Levels below this node.
    pub depth: u16,
    /// Room for entries.
    pub max: u16,
    /// The header's generation.
    pub generation: u32,
    /// What it holds.
    pub entries: Entries,
}

impl Node {
    /// Decode the node in `area` (the inode's 60 bytes, or a block). Checks what a node can tell by itself: magic,
    /// counts that fit, depth, entries in ascending order that do not overlap, lengths that are not zero. Block
    /// numbers and the checksum are the caller's to check.
    pub fn decode(area: &[u8]) -> Result<Self> {
        let bad = |flaw| Error::corrupt(flaw, Place::FS);
        let of = Structure::ExtentNode;
        let Ok((header, rest)) = ExtentHeader::read_from_prefix(area) else {
            return Err(bad(Flaw::Short { of, need: ENTRY_SIZE as u64, have: area.len() as u64 }));
        };
        if header.magic.get() != MAGIC {
            return Err(bad(Flaw::Magic { of, found: u32::from(header.magic.get()) }));
        }
        let (count, max, depth) = (header.entries.get(), header.max.get(), header.depth.get());
        if max == 0 || usize::from(max) > capacity(area.len()) {
            return Err(bad(Flaw::Field { of, field: "max", value: u64::from(max) }));
        }
        if count > max {
            return Err(bad(Flaw::Field { of, field: "entries", value: u64::from(count) }));
        }
        if depth > MAX_DEPTH {
            return Err(bad(Flaw::TooDeep { of, depth: u32::from(depth) }));
        }
        let records = rest.chunks_exact(ENTRY_SIZE).take(usize::from(count));
        let entries = if depth == 0 {
            let all: Vec<Extent> =
                records.filter_map(|r| RawExtent::read_from_bytes(r).ok()).map(Extent::from).collect();
            let mut next = 0u64;
            for e in &all {
                if e.len == 0 {
                    return Err(bad(Flaw::Field { of, field: "len", value: 0 }));
                }
                if u64::from(e.lblk.0) < next || e.end() > 1 << 32 {
                    return Err(bad(Flaw::Order { of }));
                }
                next = e.end();
            }
            Entries::Leaf(all)
        } else {
            let all: Vec<Index> = records.filter_map(|r| RawIndex::read_from_bytes(r).ok()).map(Index::from).collect();
            if all.is_empty() {
                return Err(bad(Flaw::Field { of, field: "entries", value: 0 }));
            }
            if !all.is_sorted_by(|a, b| a.lblk < b.lblk) {
                return Err(bad(Flaw::Order { of }));
            }
            Entries::Index(all)
        };
        Ok(Self { depth, max, generation: header.generation.get(), entries })
    }

    /// Write the node over the start of `area`: header and entries in use. The rest of `area` is left alone.
    /// Entries that do not fit `area` are a mistake of the caller.
    pub fn encode_into(&self, area: &mut [u8]) {
        let count = self.len();
        debug_assert!(count <= capacity(area.len()));
        let header = ExtentHeader {
            magic: U16::new(MAGIC),
            entries: U16::new(count as u16),
            max: U16::new(self.max),
            depth: U16::new(self.depth),
            generation: U32::new(self.generation),
        };
        let mut slots = area.chunks_exact_mut(ENTRY_SIZE);
        if let Some(slot) = slots.next() {
            slot.copy_from_slice(header.as_bytes());
        }
        match &self.entries {
            Entries::Leaf(v) => {
                for (slot, e) in slots.zip(v) {
                    slot.copy_from_slice(RawExtent::from(*e).as_bytes());
                }
            }
            Entries::Index(v) => {
                for (slot, i) in slots.zip(v) {
                    slot.copy_from_slice(RawIndex::from(*i).as_bytes());
                }
            }
        }
    }

    /// Entries in use.
    pub const fn len(&self) -> usize {
        match &self.entries {
            Entries::Leaf(v) => v.len(),
            Entries::Index(v) => v.len(),
        }
    }

    /// Whether there are no entries.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Room for entries in a node of `area` bytes. In a block, a tail of 4 bytes follows (the division leaves it).
pub const fn capacity(area: usize) -> usize {
    area.saturating_sub(ENTRY_SIZE) / ENTRY_SIZE
}

/// Where the checksum tail of a node block with room for `max` entries is, in bytes.
pub const fn tail_offset(max: u16) -> usize {
    ENTRY_SIZE.saturating_add(ENTRY_SIZE.saturating_mul(max as usize))
}

fn header_max(block: &[u8]) -> Option<u16> {
    ExtentHeader::read_from_prefix(block).ok().map(|(h, _)| h.max.get())
}

/// The stored and the right checksum of a node block, with the inode's seed. `None` where the tail would not fit.
#[doc(alias = "ext4_extent_block_csum")]
pub fn block_checksum(block: &[u8], inode_seed: u32) -> Option<(u32, u32)> {
    let at = tail_offset(header_max(block)?);
    let body = block.get(..at)?;
    let stored = block.get(at..at.checked_add(TAIL_SIZE)?)?;
    Some((u32::from_le_bytes(stored.try_into().ok()?), crc32c(inode_seed, body)))
}

/// Compare the checksum of a node block.
pub fn verify_block(block: &[u8], inode_seed: u32) -> Result<()> {
    let of = Structure::ExtentNode;
    match block_checksum(block, inode_seed) {
        Some((stored, computed)) if stored == computed => Ok(()),
        Some((stored, computed)) => Err(Error::corrupt(Flaw::Checksum { of, stored, computed }, Place::FS)),
        None => Err(Error::corrupt(
            Flaw::Field { of, field: "max", value: header_max(block).unwrap_or_default().into() },
            Place::FS,
        )),
    }
}

/// Bring the checksum of a node block up to date.
pub fn stamp_block(block: &mut [u8], inode_seed: u32) {
    let Some((_, crc)) = block_checksum(block, inode_seed) else { return };
    let at = tail_offset(header_max(block).unwrap_or_default());
    for (to, from) in block.iter_mut().skip(at).zip(crc.to_le_bytes()) {
        *to = from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(n: u32) -> Node {
        let extents = (0..n).map(|i| Extent {
            lblk: Lblk(i * 10),
            len: 1 + i % 5,
            pblk: Fsblk(0x1_0000_0000 + u64::from(i) * 100),
            unwritten: i % 2 == 1,
        });
        Node { depth: 0, max: 84, generation: 9, entries: Entries::Leaf(extents.collect()) }
    }

    #[test]
    fn nodes_come_back() {
        let mut block = vec![0xaa; 1024];
        let node = leaf(84);
        node.encode_into(&mut block);
        assert_eq!(Node::decode(&block).unwrap(), node);
        let index = Node {
            depth: 2,
            max: 4,
            generation: 0,
            entries: Entries::Index(vec![
                Index { lblk: Lblk(0), child: Fsblk(0xffff_ffff_ffff) },
                Index { lblk: Lblk(7), child: Fsblk(1) },
            ]),
        };
        let mut root = [0; 60];
        index.encode_into(&mut root);
        assert_eq!(Node::decode(&root).unwrap(), index);
    }

    #[test]
    fn flaws_are_named() {
        let mut block = vec![0; 1024];
        let fresh = |block: &mut Vec<u8>| leaf(3).encode_into(block);
        fresh(&mut block);
        block[0] = 0;
        assert!(matches!(Node::decode(&block), Err(Error::Corrupt { what: Flaw::Magic { .. }, .. })));
        fresh(&mut block);
        block[4] = 85;
        assert!(matches!(Node::decode(&block), Err(Error::Corrupt { what: Flaw::Field { field: "max", .. }, .. })));
        fresh(&mut block);
        block[2] = 85;
        assert!(matches!(Node::decode(&block), Err(Error::Corrupt { what: Flaw::Field { field: "entries", .. }, .. })));
        fresh(&mut block);
        block[24] = 0; // second extent starts at 0 again
        assert!(matches!(Node::decode(&block), Err(Error::Corrupt { what: Flaw::Order { .. }, .. })));
        fresh(&mut block);
        block[6] = 6;
        assert!(matches!(Node::decode(&block), Err(Error::Corrupt { what: Flaw::TooDeep { depth: 6, .. }, .. })));
    }

    #[test]
    fn the_tail_checksum() {
        let mut block = vec![0; 1024];
        leaf(3).encode_into(&mut block);
        stamp_block(&mut block, 5);
        verify_block(&block, 5).unwrap();
        assert!(verify_block(&block, 6).is_err());
        assert_eq!(tail_offset(84), 1020);
    }
}
