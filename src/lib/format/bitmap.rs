//! Bitmaps of blocks (clusters) and inodes: one bit per object of a group, lowest bit of the first byte first; a set
//! bit is in use. Positions are bit numbers from the start of the map.
//!
//! Bits beyond the bytes given read as set and cannot be changed: what a map does not hold cannot be allocated.
//! A bitmap's checksum is kept in its group's descriptor: 32 bits where the descriptor has the high half, else 16.

use super::csum::{Checksums, crc32c};
use super::group_desc::GroupDesc;
use crate::error::{Error, Flaw, Place, Result, Structure};

/// Size of a descriptor from which on it holds the high half of the block bitmap's checksum, bytes.
const BLOCK_CSUM_HI_END: u16 = 0x3a;
/// The same for the inode bitmap.
const INODE_CSUM_HI_END: u16 = 0x3c;

/// Whether bit `bit` is set.
#[inline]
pub fn test(map: &[u8], bit: usize) -> bool {
    map.get(bit / 8).is_none_or(|b| b >> (bit % 8) & 1 == 1)
}

/// Set bit `bit`; whether it was set before.
#[inline]
pub fn set(map: &mut [u8], bit: usize) -> bool {
    match map.get_mut(bit / 8) {
        Some(b) => {
            let mask = 1u8 << (bit % 8);
            let old = *b & mask != 0;
            *b |= mask;
            old
        }
        None => true,
    }
}

/// Clear bit `bit`; whether it was set before.
#[inline]
pub fn clear(map: &mut [u8], bit: usize) -> bool {
    match map.get_mut(bit / 8) {
        Some(b) => {
            let mask = 1u8 << (bit % 8);
            let old = *b & mask != 0;
            *b &= !mask;
            old
        }
        None => true,
    }
}

/// The lowest `n` bits of a byte (all from 8 on).
const fn low_bits(n: usize) -> u8 {
    if n >= 8 { 0xff } else { (1u8 << n).wrapping_sub(1) }
}

/// Change the bits `from..to`: `edge` gets a byte and the mask of its bits in the range, `fill` is for whole bytes.
fn change_range(map: &mut [u8], from: usize, to: usize, fill: u8) {
    let to = to.min(map.len().saturating_mul(8));
    if from >= to {
        return;
    }
    let mut edge = |index: usize, mask: u8| {
        if let Some(b) = map.get_mut(index) {
            *b = (*b & !mask) | (fill & mask);
        }
    };
    let (first, last) = (from / 8, to / 8);
    let head = !low_bits(from % 8);
    let tail = low_bits(to % 8);
    if first == last {
        edge(first, head & tail);
        return;
    }
    edge(first, head);
    if tail != 0 {
        edge(last, tail);
    }
    if let Some(middle) = map.get_mut(first.saturating_add(1)..last) {
        middle.fill(fill);
    }
}

/// Set the bits `from..to`.
#[doc(alias = "ext4_set_bits")]
pub fn set_range(map: &mut [u8], from: usize, to: usize) {
    change_range(map, from, to, 0xff);
}

/// Clear the bits `from..to`.
pub fn clear_range(map: &mut [u8], from: usize, to: usize) {
    change_range(map, from, to, 0);
}

/// The first bit in `from..to` whose value is `wanted`.
fn find(map: &[u8], from: usize, to: usize, wanted: bool) -> Option<usize> {
    let to = to.min(map.len().saturating_mul(8));
    if from >= to {
        return None;
    }
    let flip = if wanted { 0 } else { u64::MAX };
    // Whole words from the byte that holds `from` on; the bits before it are masked off in the first word.
    let start = from / 8;
    let (words, rest) = map.get(start..)?.as_chunks::<8>();
    let mut last = [if wanted { 0 } else { 0xff }; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let mut at = start.saturating_mul(8);
    let mut mask = u64::MAX << (from % 8);
    for word in words.iter().chain([&last]) {
        let hits = (u64::from_le_bytes(*word) ^ flip) & mask;
        if hits != 0 {
            let bit = at.saturating_add(hits.trailing_zeros() as usize);
            return (bit < to).then_some(bit);
        }
        at = at.saturating_add(64);
        if at >= to {
            return None;
        }
        mask = u64::MAX;
    }
    None
}

/// The first clear bit in `from..to`.
#[doc(alias = "mb_find_next_zero_bit")]
pub fn find_zero(map: &[u8], from: usize, to: usize) -> Option<usize> {
    find(map, from, to, false)
}

/// The first set bit in `from..to`.
#[doc(alias = "mb_find_next_bit")]
pub fn find_one(map: &[u8], from: usize, to: usize) -> Option<usize> {
    find(map, from, to, true)
}

/// How many bits in `from..to` are set. Bits beyond the map are not counted.
pub fn count_ones(map: &[u8], from: usize, to: usize) -> usize {
    let to = to.min(map.len().saturating_mul(8));
    if from >= to {
        return 0;
    }
    let (first, last) = (from / 8, to / 8);
    let byte = |i: usize| map.get(i).copied().unwrap_or_default();
    let ones = |b: u8| b.count_ones() as usize;
    let head = !low_bits(from % 8);
    let tail = low_bits(to % 8);
    if first == last {
        return ones(byte(first) & head & tail);
    }
    let (words, rest) = map.get(first.saturating_add(1)..last).unwrap_or_default().as_chunks::<8>();
    let middle: usize = words.iter().map(|w| u64::from_le_bytes(*w).count_ones() as usize).sum();
    let odd: usize = rest.iter().map(|b| ones(*b)).sum();
    [ones(byte(first) & head), middle, odd, ones(byte(last) & tail)].iter().sum()
}

/// How many bits in `from..to` are clear. Bits beyond the map are not counted.
#[doc(alias = "ext4_count_free")]
pub fn count_zeros(map: &[u8], from: usize, to: usize) -> usize {
    let to = to.min(map.len().saturating_mul(8));
    to.saturating_sub(from).saturating_sub(count_ones(map, from, to))
}

/// The runs of clear bits in `from..to`, as half-open ranges.
pub fn zero_runs(map: &[u8], from: usize, to: usize) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let to = to.min(map.len().saturating_mul(8));
    let mut at = from;
    std::iter::from_fn(move || {
        let start = find_zero(map, at, to)?;
        at = find_one(map, start, to).unwrap_or(to);
        Some(start..at)
    })
}

/// crc32c of the first `bits / 8` bytes of a bitmap, all 32 bits, with the filesystem's seed. `bits` is the number of
/// clusters or inodes per group; `None` where the map is shorter.
#[doc(alias = "ext4_block_bitmap_csum_set")]
pub fn checksum(map: &[u8], bits: u32, seed: u32) -> Option<u32> {
    Some(crc32c(seed, map.get(..bits as usize / 8)?))
}

/// Which of a group's two bitmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Clusters; `bits` is clusters per group.
    Block,
    /// Inodes; `bits` is inodes per group.
    Inode,
}

impl Kind {
    const fn structure(self) -> Structure {
        match self {
            Self::Block => Structure::BlockBitmap,
            Self::Inode => Structure::InodeBitmap,
        }
    }

    /// The part of a checksum that a descriptor of `desc_size` bytes keeps.
    const fn kept(self, crc: u32, desc_size: u16) -> u32 {
        let end = match self {
            Self::Block => BLOCK_CSUM_HI_END,
            Self::Inode => INODE_CSUM_HI_END,
        };
        if desc_size >= end { crc } else { crc & 0xffff }
    }
}

/// Compare a bitmap with the checksum in its group's descriptor, where the filesystem has checksums.
pub fn verify(kind: Kind, map: &[u8], bits: u32, csums: Checksums, desc: &GroupDesc, desc_size: u16) -> Result<()> {
    let Some(seed) = csums.seed() else { return Ok(()) };
    let of = kind.structure();
    let Some(crc) = checksum(map, bits, seed) else {
        let flaw = Flaw::Short { of, need: u64::from(bits / 8), have: map.len() as u64 };
        return Err(Error::corrupt(flaw, Place::FS));
    };
    let computed = kind.kept(crc, desc_size);
    let stored = kind.kept(
        match kind {
            Kind::Block => desc.block_bitmap_csum(),
            Kind::Inode => desc.inode_bitmap_csum(),
        },
        desc_size,
    );
    super::bytes::same_checksum(of, stored, computed)
}

/// Store a bitmap's checksum in its group's descriptor, where the filesystem has checksums. The descriptor's own
/// checksum is the caller's to renew.
pub fn stamp(kind: Kind, map: &[u8], bits: u32, csums: Checksums, desc: &mut GroupDesc, desc_size: u16) {
    let Some(crc) = csums.seed().and_then(|seed| checksum(map, bits, seed)) else { return };
    let crc = kind.kept(crc, desc_size);
    match kind {
        Kind::Block => desc.set_block_bitmap_csum(crc),
        Kind::Inode => desc.set_inode_bitmap_csum(crc),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_outside_is_in_use() {
        let mut map = [0u8; 2];
        assert!(!test(&map, 15));
        assert!(test(&map, 16));
        assert!(!set(&mut map, 15));
        assert!(set(&mut map, 15));
        assert!(set(&mut map, 16));
        assert!(clear(&mut map, 15));
        assert!(!clear(&mut map, 15));
        assert_eq!(find_zero(&map, 0, 100), Some(0));
        assert_eq!(find_one(&map, 0, 100), None);
        assert_eq!(count_zeros(&map, 3, 100), 13);
    }

    #[test]
    fn checksums_keep_16_or_32_bits() {
        let map = [0xf0; 64];
        let csums = Checksums::Metadata { seed: 3 };
        for kind in [Kind::Block, Kind::Inode] {
            let mut wide = GroupDesc::default();
            stamp(kind, &map, 512, csums, &mut wide, 64);
            verify(kind, &map, 512, csums, &wide, 64).unwrap();
            let mut narrow = GroupDesc::default();
            stamp(kind, &map, 512, csums, &mut narrow, 32);
            verify(kind, &map, 512, csums, &narrow, 32).unwrap();
            assert_ne!(wide, narrow);
            let crc = checksum(&map, 512, 3).unwrap();
            let stored = match kind {
                Kind::Block => (wide.block_bitmap_csum(), narrow.block_bitmap_csum()),
                Kind::Inode => (wide.inode_bitmap_csum(), narrow.inode_bitmap_csum()),
            };
            assert_eq!(stored, (crc, crc & 0xffff));
            let mut bad = map;
            bad[63] ^= 1;
            assert!(matches!(
                verify(kind, &bad, 512, csums, &wide, 64),
                Err(Error::Corrupt { what: Flaw::Checksum { of, .. }, .. }) if of == kind.structure()
            ));
            verify(
                kind,
                &bad,
                504,
                csums,
                &{
                    let mut d = wide;
                    stamp(kind, &map, 504, csums, &mut d, 64);
                    d
                },
                64,
            )
            .unwrap();
            assert!(verify(kind, &map, 520, csums, &wide, 64).is_err());
        }
    }

    proptest! {
        #[test]
        fn ranges_equal_bit_by_bit(
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..40),
            from in 0usize..340,
            to in 0usize..340,
        ) {
            let inside = |bit: usize| bit < bytes.len() * 8 && bit >= from && bit < to;
            let bits: Vec<bool> = (0..340).map(|b| inside(b) && test(&bytes, b)).collect();
            let zeros: Vec<bool> = (0..340).map(|b| inside(b) && !test(&bytes, b)).collect();
            prop_assert_eq!(count_ones(&bytes, from, to), bits.iter().filter(|b| **b).count());
            prop_assert_eq!(count_zeros(&bytes, from, to), zeros.iter().filter(|b| **b).count());
            prop_assert_eq!(find_one(&bytes, from, to), bits.iter().position(|b| *b));
            prop_assert_eq!(find_zero(&bytes, from, to), zeros.iter().position(|b| *b));
            let runs: Vec<bool> = {
                let mut v = vec![false; 340];
                zero_runs(&bytes, from, to).for_each(|r| v[r].fill(true));
                v
            };
            prop_assert_eq!(runs, zeros);
            for (fill, change) in [(true, set_range as fn(&mut [u8], usize, usize)), (false, clear_range)] {
                let mut map = bytes.clone();
                change(&mut map, from, to);
                for bit in 0..bytes.len() * 8 {
                    prop_assert_eq!(test(&map, bit), if inside(bit) { fill } else { test(&bytes, bit) });
                }
            }
        }
    }
}
