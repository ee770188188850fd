//! Block maps of ext2 and ext3: 15 block pointers in the inode and blocks of pointers. Little endian, 32-bit block
//! numbers, 0 for a hole. Kernel names: `EXT4_NDIR_BLOCKS`, `ext4_block_to_path` (`fs/ext4/indirect.c`).
//!
//! The first 12 pointers are data blocks; the next three lead to data through one, two and three levels of pointer
//! blocks. Pointer blocks have no checksum.

use super::U32;
use super::bytes::{field, short};
use super::inode::BLOCK_LEN;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::units::{Fsblk, Lblk};

/// Data blocks that the inode points to itself.
#[doc(alias = "EXT4_NDIR_BLOCKS")]
pub const DIRECT: usize = 12;
/// Pointers in the inode.
#[doc(alias = "EXT4_N_BLOCKS")]
pub const POINTERS: usize = 15;
/// Slot of the pointer to the single indirect block.
pub const SINGLE: usize = 12;
/// Slot of the pointer to the double indirect block.
pub const DOUBLE: usize = 13;
/// Slot of the pointer to the triple indirect block.
pub const TRIPLE: usize = 14;
const OF: Structure = Structure::IndirectBlock;

const _: () = assert!(POINTERS * size_of::<U32>() == BLOCK_LEN);

/// The 15 pointers of an inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pointers(pub [u32; POINTERS]);

impl Pointers {
    /// Decode an inode's `block` area.
    pub fn decode(area: &[u8; BLOCK_LEN]) -> Self {
        let words: [U32; POINTERS] = zerocopy::transmute!(*area);
        Self(words.map(U32::get))
    }

    /// The inode's `block` area.
    pub fn encode(&self) -> [u8; BLOCK_LEN] {
        let words = self.0.map(U32::new);
        zerocopy::transmute!(words)
    }

    /// The data blocks pointed to directly; 0 for holes.
    pub fn direct(&self) -> &[u32] {
        self.0.get(..DIRECT).unwrap_or_default()
    }

    /// The pointer in slot `slot` (0 to 14); `None` for a hole.
    pub fn get(&self, slot: usize) -> Option<Fsblk> {
        self.0.get(slot).filter(|b| **b != 0).map(|b| Fsblk(u64::from(*b)))
    }
}

/// How to get from the inode to a logical block: `depth` pointer blocks deep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Pointer blocks on the way: 0 to 3.
    pub depth: usize,
    /// The slot in the inode, then the slots in the pointer blocks; the first `depth + 1` count.
    pub slots: [u32; 4],
}

impl Path {
    /// The slots that count.
    pub fn slots(&self) -> &[u32] {
        self.slots.get(..self.depth.saturating_add(1)).unwrap_or(&self.slots)
    }
}

/// The shape of block maps with one block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndirectGeometry {
    bits: u32,
}

impl IndirectGeometry {
    /// For blocks of `block_size` bytes: a power of two from 1 KiB to 64 KiB.
    pub const fn new(block_size: u32) -> Self {
        Self { bits: block_size.trailing_zeros().saturating_sub(2) }
    }

    /// Pointers in a block.
    #[doc(alias = "EXT4_ADDR_PER_BLOCK")]
    pub const fn per_block(self) -> u32 {
        1u32.wrapping_shl(self.bits)
    }

    /// Logical blocks under one pointer that is `depth` pointer blocks above the data: 1, n, n², n³.
    pub const fn span(self, depth: u32) -> u64 {
        1u64.wrapping_shl(self.bits.saturating_mul(depth))
    }

    /// The first logical block under slot `slot` of the inode (15: the end of what the map can hold).
    pub const fn first_lblk(self, slot: usize) -> u64 {
        let direct = DIRECT as u64;
        match slot {
            0..=SINGLE => slot as u64,
            DOUBLE => direct.saturating_add(self.span(1)),
            TRIPLE => direct.saturating_add(self.span(1)).saturating_add(self.span(2)),
            _ => direct.saturating_add(self.span(1)).saturating_add(self.span(2)).saturating_add(self.span(3)),
        }
    }

    /// The way to `lblk`; `None` where the map cannot hold it.
    #[doc(alias = "ext4_block_to_path")]
    pub fn path(self, lblk: Lblk) -> Option<Path> {
        let n = lblk.0 as u64;
        let (depth, slot) = if n < self.first_lblk(SINGLE) {
            return Some(Path { depth: 0, slots: [lblk.0, 0, 0, 0] });
        } else if n < self.first_lblk(DOUBLE) {
            (1, SINGLE)
        } else if n < self.first_lblk(TRIPLE) {
            (2, DOUBLE)
        } else if n < self.first_lblk(POINTERS) {
            (3, TRIPLE)
        } else {
            return None;
        };
        let rest = n.saturating_sub(self.first_lblk(slot));
        let mask = self.span(1).saturating_sub(1);
        let digit = |level: u32| (rest.wrapping_shr(self.bits.saturating_mul(level)) & mask) as u32;
        let slots = match depth {
            1 => [slot as u32, digit(0), 0, 0],
            2 => [slot as u32, digit(1), digit(0), 0],
            _ => [slot as u32, digit(2), digit(1), digit(0)],
        };
        Some(Path { depth, slots })
    }
}

/// The pointers of a block, in order; 0 for holes.
pub fn pointers(block: &[u8]) -> impl ExactSizeIterator<Item = u32> + '_ {
    block.as_chunks::<4>().0.iter().map(|c| u32::from_le_bytes(*c))
}

/// The pointer in slot `slot` of a block; `None` for a hole.
///
/// # Errors
/// [`Flaw::Short`] where the block has no such slot.
pub fn pointer(block: &[u8], slot: u32) -> Result<Option<Fsblk>> {
    let at = (slot as usize).saturating_mul(4);
    match super::bytes::le32(block, at) {
        Some(0) => Ok(None),
        Some(b) => Ok(Some(Fsblk(u64::from(b)))),
        None => Err(short(OF, at.saturating_add(4), block.len())),
    }
}

/// Store a pointer in slot `slot` of a block.
///
/// # Errors
/// [`Flaw::Field`] for a block number beyond 32 bits, [`Flaw::Short`] where the block has no such slot.
pub fn set_pointer(block: &mut [u8], slot: u32, to: Option<Fsblk>) -> Result<()> {
    let at = (slot as usize).saturating_mul(4);
    let number = to.map_or(0, |b| b.0);
    let Ok(word) = u32::try_from(number) else { return Err(field(OF, "block", number, at)) };
    let have = block.len();
    super::bytes::put(block, at, &word.to_le_bytes()).ok_or_else(|| short(OF, at.saturating_add(4), have))
}

/// Check that every pointer of a block leads to a block in `range` (first data block up to the block count).
#[doc(alias = "ext4_check_indirect_blockref")]
pub fn check_range(block: &[u8], range: std::ops::Range<u64>) -> Result<()> {
    for (i, p) in pointers(block).enumerate() {
        if p != 0 && !range.contains(&u64::from(p)) {
            let flaw = Flaw::BlockOutOfRange { of: OF, block: Fsblk(u64::from(p)) };
            return Err(Error::corrupt(flaw, Place::FS.offset(i.saturating_mul(4) as u64)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_come_back() {
        let area: [u8; 60] = std::array::from_fn(|i| (i * 7) as u8);
        assert_eq!(Pointers::decode(&area).encode(), area);
        let p = Pointers(std::array::from_fn(|i| i as u32));
        assert_eq!((p.get(0), p.get(14), p.get(15)), (None, Some(Fsblk(14)), None));
        assert_eq!(p.direct().len(), 12);
    }

    #[test]
    fn paths_count_through_the_map_without_gaps() {
        let g = IndirectGeometry::new(1024);
        assert_eq!(g.per_block(), 256);
        let number = |p: &Path| -> u64 {
            let below = p.slots()[1..].iter().fold(0, |n, s| n * 256 + u64::from(*s));
            g.first_lblk(p.slots()[0] as usize) + below
        };
        for lblk in (0..70_000).chain((16_843_000..16_843_020).step_by(3)) {
            let p = g.path(Lblk(lblk)).unwrap();
            assert_eq!(number(&p), u64::from(lblk));
        }
        assert_eq!(g.path(Lblk(12)).unwrap(), Path { depth: 1, slots: [12, 0, 0, 0] });
        assert_eq!(g.path(Lblk(12 + 256)).unwrap(), Path { depth: 2, slots: [13, 0, 0, 0] });
        assert_eq!(g.path(Lblk(12 + 256 + 65536)).unwrap(), Path { depth: 3, slots: [14, 0, 0, 0] });
        let end = g.first_lblk(15);
        assert_eq!(end, 12 + 256 + 65536 + 16_777_216);
        assert_eq!(g.path(Lblk(end as u32 - 1)).unwrap().slots, [14, 255, 255, 255]);
        assert_eq!(g.path(Lblk(end as u32)), None);
        // With larger blocks every 32-bit logical block has a path.
        assert!(IndirectGeometry::new(65536).path(Lblk(u32::MAX)).is_some());
    }

    #[test]
    fn blocks_of_pointers() {
        let mut block = vec![0; 1024];
        set_pointer(&mut block, 255, Some(Fsblk(77))).unwrap();
        assert_eq!(pointer(&block, 255).unwrap(), Some(Fsblk(77)));
        assert_eq!(pointer(&block, 0).unwrap(), None);
        assert_eq!(pointers(&block).sum::<u32>(), 77);
        assert!(pointer(&block, 256).is_err());
        assert!(set_pointer(&mut block, 256, None).is_err());
        assert!(set_pointer(&mut block, 0, Some(Fsblk(1 << 32))).is_err());
        check_range(&block, 1..78).unwrap();
        let Err(Error::Corrupt { what, place }) = check_range(&block, 1..77) else { panic!() };
        assert_eq!(what, Flaw::BlockOutOfRange { of: OF, block: Fsblk(77) });
        assert_eq!(place.offset, Some(1020));
    }
}
