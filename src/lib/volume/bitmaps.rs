//! Block and inode bitmaps as they count: read and compared where they were written, made up where a group is
//! still uninitialised. One bit per cluster (or inode), bit 0 of byte 0 first; a set bit is in use.

use std::borrow::Cow;

use super::Volume;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::csum::crc32c;
use crate::format::group_desc::GroupDesc;
use crate::units::{Fsblk, Group};

/// Descriptor size from which bitmap checksums have 32 bits (the high halves exist).
const WIDE_DESC: u16 = 64;

impl Volume {
    /// The block bitmap of a group, `clusters_per_group / 8` bytes. For an uninitialised group: the bits of the
    /// group's own metadata. Bits beyond the filesystem's end are set.
    #[doc(alias = "ext4_read_block_bitmap")]
    pub fn block_bitmap(&self, group: Group) -> Result<Cow<'_, [u8]>> {
        let desc = self.group(group)?;
        if self.is_block_uninit(&desc) {
            return Ok(Cow::Owned(self.fresh_block_bitmap(group, &desc)));
        }
        let bytes = self.geo.clusters_per_group.div_ceil(8) as usize;
        let stored = desc.block_bitmap_csum();
        self.read_bitmap(group, desc.block_bitmap(), bytes, stored, Structure::BlockBitmap)
    }

    /// The inode bitmap of a group, `inodes_per_group / 8` bytes (rounded up); no bit is set in an uninitialised group.
    #[doc(alias = "ext4_read_inode_bitmap")]
    pub fn inode_bitmap(&self, group: Group) -> Result<Cow<'_, [u8]>> {
        let desc = self.group(group)?;
        let bytes = self.geo.inodes_per_group.div_ceil(8) as usize;
        if self.is_inode_uninit(&desc) {
            return Ok(Cow::Owned(vec![0; bytes]));
        }
        let stored = desc.inode_bitmap_csum();
        self.read_bitmap(group, desc.inode_bitmap(), bytes, stored, Structure::InodeBitmap)
    }

    fn read_bitmap(
        &self,
        group: Group,
        block: Fsblk,
        bytes: usize,
        stored: u32,
        of: Structure,
    ) -> Result<Cow<'_, [u8]>> {
        let place = Place::group(group).in_block(block);
        if !self.geo.has_block(block) {
            return Err(Error::corrupt(Flaw::BlockOutOfRange { of: Structure::GroupDesc, block }, Place::group(group)));
        }
        let bitmap = self.bytes(self.geo.byte_of(block), bytes)?;
        if self.verify
            && let Some(computed) = self.bitmap_checksum(&bitmap)
        {
            let stored = if self.geo.desc_size < WIDE_DESC { stored & 0xffff } else { stored };
            if stored != computed {
                return Err(Error::corrupt(Flaw::Checksum { of, stored, computed }, place));
            }
        }
        Ok(bitmap)
    }

    /// The checksum that a bitmap should have in its group descriptor; `None` without `metadata_csum`.
    pub fn bitmap_checksum(&self, bitmap: &[u8]) -> Option<u32> {
        let crc = crc32c(self.geo.checksums.seed()?, bitmap);
        Some(if self.geo.desc_size < WIDE_DESC { crc & 0xffff } else { crc })
    }

    /// The block bitmap that an uninitialised group stands for: superblock and descriptors at its start, its bitmaps
    /// and inode table where they are inside the group, and the clusters beyond the end of the filesystem.
    #[doc(alias = "ext4_init_block_bitmap")]
    fn fresh_block_bitmap(&self, group: Group, desc: &GroupDesc) -> Vec<u8> {
        let bits = self.geo.clusters_per_group;
        let mut map = vec![0u8; bits.div_ceil(8) as usize];
        let mut set = |bit: u32| {
            if let Some(byte) = map.get_mut((bit >> 3) as usize) {
                *byte |= 1u8.wrapping_shl(bit & 7);
            }
        };
        let start = self.geo.group_start(group);
        let own = [
            (start, self.geo.super_and_gdt_blocks(group)),
            (desc.block_bitmap(), 1),
            (desc.inode_bitmap(), 1),
            (desc.inode_table(), self.geo.itable_blocks),
        ];
        for (first, len) in own {
            for n in 0..u64::from(len) {
                let (g, bit) = self.geo.cluster_bit_of(first.saturating_add(n));
                if g == group {
                    set(bit);
                }
            }
        }
        (self.geo.clusters_in_group(group)..bits).for_each(set);
        map
    }
}
