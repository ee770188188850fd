//! Group descriptors: 32 bytes, or 64 with `64bit` (then with high halves). Little endian.
//! Kernel name: `struct ext4_group_desc`.
//!
//! [`GroupDesc`] is always the long form; the short one is its first half with the rest zero. Descriptors longer
//! than 64 bytes are legal; what follows byte 64 is not interpreted, and kept by writing back only 64 bytes.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::csum::{Checksums, crc16, crc32c};
use super::{U16, U32};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::units::{Fsblk, Group};

/// Length of the long form in bytes.
pub const SIZE: usize = 64;
const SHORT: usize = 32;

bitflags! {
    /// `bg_flags`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct BgFlags: u16 {
        /// The inode table and inode bitmap are not initialised: no inode is in use.
        const INODE_UNINIT = 1;
        /// The block bitmap is not initialised: only the group's own metadata is in use.
        const BLOCK_UNINIT = 2;
        /// The inode table reads as zeros.
        const INODE_ZEROED = 4;
        const _ = !0;
    }
}

/// The bytes of a group descriptor, long form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "ext4_group_desc")]
pub struct GroupDesc {
    /// Block of the block bitmap, low 32 bits.
    pub block_bitmap_lo: U32,
    /// Block of the inode bitmap, low 32 bits.
    pub inode_bitmap_lo: U32,
    /// First block of the inode table, low 32 bits.
    pub inode_table_lo: U32,
    /// Free clusters, low 16 bits.
    pub free_blocks_count_lo: U16,
    /// Free inodes, low 16 bits.
    pub free_inodes_count_lo: U16,
    /// Directories, low 16 bits.
    pub used_dirs_count_lo: U16,
    /// Flags; see [`BgFlags`].
    pub flags: U16,
    /// Block of the exclude bitmap, low 32 bits (snapshots).
    pub exclude_bitmap_lo: U32,
    /// Checksum of the block bitmap, low 16 bits.
    pub block_bitmap_csum_lo: U16,
    /// Checksum of the inode bitmap, low 16 bits.
    pub inode_bitmap_csum_lo: U16,
    /// Inodes at the end of the table that were never used, low 16 bits.
    pub itable_unused_lo: U16,
    /// Checksum of this descriptor.
    pub checksum: U16,
    /// Block of the block bitmap, high 32 bits.
    pub block_bitmap_hi: U32,
    /// Block of the inode bitmap, high 32 bits.
    pub inode_bitmap_hi: U32,
    /// First block of the inode table, high 32 bits.
    pub inode_table_hi: U32,
    /// Free clusters, high 16 bits.
    pub free_blocks_count_hi: U16,
    /// Free inodes, high 16 bits.
    pub free_inodes_count_hi: U16,
    /// Directories, high 16 bits.
    pub used_dirs_count_hi: U16,
    /// Inodes never used, high 16 bits.
    pub itable_unused_hi: U16,
    /// Block of the exclude bitmap, high 32 bits.
    pub exclude_bitmap_hi: U32,
    /// Checksum of the block bitmap, high 16 bits.
    pub block_bitmap_csum_hi: U16,
    /// Checksum of the inode bitmap, high 16 bits.
    pub inode_bitmap_csum_hi: U16,
    /// Unused; kept.
    pub reserved: U32,
}

const CHECKSUM_AT: usize = std::mem::offset_of!(GroupDesc, checksum);
const _: () = {
    assert!(size_of::<GroupDesc>() == SIZE);
    assert!(CHECKSUM_AT == 0x1e);
    assert!(std::mem::offset_of!(GroupDesc, block_bitmap_csum_hi) == 0x38);
};

macro_rules! halves32 {
    ($(#[$doc:meta])* $get:ident, $set:ident, $lo:ident, $hi:ident) => {
        $(#[$doc])*
        pub const fn $get(&self) -> Fsblk {
            Fsblk(self.$lo.get() as u64 | ((self.$hi.get() as u64) << 32))
        }

        #[doc = concat!("Store what [`GroupDesc::", stringify!($get), "`] returns.")]
        pub const fn $set(&mut self, v: Fsblk) {
            self.$lo = U32::new(v.0 as u32);
            self.$hi = U32::new((v.0 >> 32) as u32);
        }
    };
}

macro_rules! halves16 {
    ($(#[$doc:meta])* $get:ident, $set:ident, $lo:ident, $hi:ident) => {
        $(#[$doc])*
        pub const fn $get(&self) -> u32 {
            self.$lo.get() as u32 | ((self.$hi.get() as u32) << 16)
        }

        #[doc = concat!("Store what [`GroupDesc::", stringify!($get), "`] returns.")]
        pub const fn $set(&mut self, v: u32) {
            self.$lo = U16::new(v as u16);
            self.$hi = U16::new((v >> 16) as u16);
        }
    };
}

impl GroupDesc {
    /// Decode a descriptor of `bytes.len()` bytes (32, or 64 and more). Nothing is verified.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut long = [0; SIZE];
        let n = bytes.len().min(SIZE);
        match (long.get_mut(..n), bytes.get(..n)) {
            (Some(to), Some(from)) if n >= SHORT => to.copy_from_slice(from),
            _ => {
                let flaw = Flaw::Short { of: Structure::GroupDesc, need: SHORT as u64, have: bytes.len() as u64 };
                return Err(Error::corrupt(flaw, Place::FS));
            }
        }
        Ok(zerocopy::transmute!(long))
    }

    /// Write the descriptor over the first bytes of `out`, as much as fits; bytes after 64 are left alone.
    pub fn encode_into(&self, out: &mut [u8]) {
        for (d, s) in out.iter_mut().zip(self.as_bytes()) {
            *d = *s;
        }
    }

    halves32!(
        /// Block of the block bitmap.
        block_bitmap, set_block_bitmap, block_bitmap_lo, block_bitmap_hi
    );
    halves32!(
        /// Block of the inode bitmap.
        inode_bitmap, set_inode_bitmap, inode_bitmap_lo, inode_bitmap_hi
    );
    halves32!(
        /// First block of the inode table.
        inode_table, set_inode_table, inode_table_lo, inode_table_hi
    );
    halves16!(
        /// Free clusters of the group.
        free_clusters, set_free_clusters, free_blocks_count_lo, free_blocks_count_hi
    );
    halves16!(
        /// Free inodes of the group.
        free_inodes, set_free_inodes, free_inodes_count_lo, free_inodes_count_hi
    );
    halves16!(
        /// Directories in the group.
        used_dirs, set_used_dirs, used_dirs_count_lo, used_dirs_count_hi
    );
    halves16!(
        /// Inodes at the end of the table that were never used.
        itable_unused, set_itable_unused, itable_unused_lo, itable_unused_hi
    );
    halves16!(
        /// Stored checksum of the block bitmap; only the low 16 bits with 32-byte descriptors.
        block_bitmap_csum, set_block_bitmap_csum, block_bitmap_csum_lo, block_bitmap_csum_hi
    );
    halves16!(
        /// Stored checksum of the inode bitmap; only the low 16 bits with 32-byte descriptors.
        inode_bitmap_csum, set_inode_bitmap_csum, inode_bitmap_csum_lo, inode_bitmap_csum_hi
    );

    /// Flags.
    pub const fn bg_flags(&self) -> BgFlags {
        BgFlags::from_bits_retain(self.flags.get())
    }

    /// Store the flags.
    pub const fn set_bg_flags(&mut self, f: BgFlags) {
        self.flags = U16::new(f.bits());
    }

    /// The checksum that a descriptor of `desc_size` bytes should have; `None` where there are no checksums.
    /// Bytes beyond 64 of an oversized descriptor are taken from `raw`.
    #[doc(alias = "ext4_group_desc_csum")]
    pub fn computed_checksum(&self, csums: Checksums, group: Group, desc_size: u16, raw: &[u8]) -> Option<u16> {
        let bytes = self.as_bytes();
        let size = usize::from(desc_size);
        let before = bytes.get(..CHECKSUM_AT)?;
        let after = bytes.get(CHECKSUM_AT.checked_add(2)?..size.min(SIZE)).unwrap_or_default();
        let beyond = raw.get(SIZE..size).unwrap_or_default();
        match csums {
            Checksums::None => None,
            Checksums::Metadata { seed } => {
                let mut crc = crc32c(seed, &group.0.to_le_bytes());
                for part in [before, &[0, 0], after, beyond] {
                    crc = crc32c(crc, part);
                }
                Some(crc as u16)
            }
            Checksums::Gdt { uuid } => {
                let mut crc = crc16(!0, &uuid);
                for part in [&group.0.to_le_bytes()[..], before, after, beyond] {
                    crc = crc16(crc, part);
                }
                Some(crc)
            }
        }
    }

    /// Bring the checksum up to date for a descriptor of `desc_size` (32 or 64) bytes.
    pub fn update_checksum(&mut self, csums: Checksums, group: Group, desc_size: u16) {
        if let Some(c) = self.computed_checksum(csums, group, desc_size, &[]) {
            self.checksum = U16::new(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_in_both_sizes() {
        for size in [32usize, 64, 128] {
            let bytes: Vec<u8> = (0..size).map(|i| i as u8 ^ 0x5a).collect();
            let d = GroupDesc::decode(&bytes).unwrap();
            let mut out = bytes.clone();
            out[0] = 0;
            d.encode_into(&mut out);
            assert_eq!(out, bytes);
        }
        assert!(GroupDesc::decode(&[0; 31]).is_err());
    }

    #[test]
    fn the_checksum_covers_group_number_and_size() {
        let mut d = GroupDesc::default();
        let m = Checksums::Metadata { seed: 7 };
        d.update_checksum(m, Group(3), 64);
        let stored = d.checksum.get();
        assert_eq!(d.computed_checksum(m, Group(3), 64, &[]), Some(stored));
        assert_ne!(d.computed_checksum(m, Group(4), 64, &[]), Some(stored));
        assert_ne!(d.computed_checksum(m, Group(3), 32, &[]), Some(stored));
        assert_eq!(d.computed_checksum(Checksums::None, Group(3), 64, &[]), None);
    }
}
