//! Inodes whose maps mean something else than file content: the bad-blocks inode and the resize inode.
//!
//! The **bad-blocks inode** (1) has the damaged blocks of the device as the data blocks of an ordinary indirect map: its
//! layout is that of [`super::indirect`], and the order of blocks means nothing.
//!
//! The **resize inode** (7) owns the group descriptor blocks that are reserved for growth. Its only pointer is the double
//! indirect one. That block has, in the slot of each reserved descriptor block (its number among all descriptor
//! blocks, modulo the pointers per block), the block in group 0 itself; and that block in turn is read as a block of pointers
//! to its copies in the groups with backups, in order of group. e2fsprogs: `ext2fs_create_resize_inode`.

use super::indirect::{DIRECT, DOUBLE, IndirectGeometry, Pointers, pointer};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::units::{Fsblk, Group};

const OF: Structure = Structure::ResizeInode;

/// What decides where the reserved descriptor blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedGdt {
    /// Block size in bytes.
    pub block_size: u32,
    /// Block of the primary superblock (`first_data_block`).
    pub first_data_block: u64,
    /// Descriptor blocks in use, right behind the superblock (with `meta_bg`: `first_meta_bg`).
    pub desc_blocks: u32,
    /// Reserved descriptor blocks behind them (`reserved_gdt_blocks`).
    pub reserved: u16,
    /// Blocks per group.
    pub blocks_per_group: u32,
}

/// A reserved descriptor block, as the resize inode sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedBlock {
    /// Slot in the double indirect block.
    pub slot: u32,
    /// The block in group 0; it is itself a block of pointers to the copies.
    pub primary: Fsblk,
}

impl ReservedGdt {
    /// The reserved blocks of group 0 with their slots in the double indirect block.
    pub fn blocks(self) -> impl Iterator<Item = ReservedBlock> {
        let per_block = IndirectGeometry::new(self.block_size).per_block();
        (0..u32::from(self.reserved)).map(move |i| {
            let number = self.desc_blocks.saturating_add(i);
            let primary = self.first_data_block.saturating_add(1).saturating_add(u64::from(number));
            ReservedBlock { slot: number.checked_rem(per_block).unwrap_or_default(), primary: Fsblk(primary) }
        })
    }

    /// The copy of `primary` in a group with backups.
    pub const fn copy_in(self, primary: Fsblk, group: Group) -> Fsblk {
        Fsblk(primary.0.saturating_add((group.0 as u64).saturating_mul(self.blocks_per_group as u64)))
    }

    /// The resize inode's pointers, with the double indirect block at `dind`.
    pub fn pointers(dind: Fsblk) -> Pointers {
        let mut p = Pointers::default();
        for (slot, to) in p.0.iter_mut().enumerate() {
            if slot == DOUBLE {
                *to = dind.0 as u32;
            }
        }
        p
    }

    /// Size of the resize inode in bytes: all that single and double indirect blocks can map.
    pub const fn inode_size(self) -> u64 {
        let g = IndirectGeometry::new(self.block_size);
        let blocks = (DIRECT as u64).saturating_add(g.span(1)).saturating_add(g.span(2));
        blocks.saturating_mul(self.block_size as u64)
    }

    /// Blocks that the resize inode owns where `backups` groups (without group 0) have copies.
    pub const fn owned_blocks(self, backups: u64) -> u64 {
        (self.reserved as u64).saturating_mul(backups.saturating_add(1)).saturating_add(1)
    }

    /// The double indirect block.
    pub fn dind_block(self) -> Vec<u8> {
        let mut block = vec![0; self.block_size as usize];
        for b in self.blocks() {
            // Slots are below the pointers per block, and reserved blocks below 2^32 (the feature excludes more).
            let _ = super::indirect::set_pointer(&mut block, b.slot, Some(b.primary));
        }
        block
    }

    /// The content of the reserved block `primary` of group 0: its copies in `backups`, in order.
    pub fn primary_block(self, primary: Fsblk, backups: impl IntoIterator<Item = Group>) -> Vec<u8> {
        let mut block = vec![0; self.block_size as usize];
        for (slot, group) in (0u32..).zip(backups) {
            let _ = super::indirect::set_pointer(&mut block, slot, Some(self.copy_in(primary, group)));
        }
        block
    }

    /// Check the double indirect block: exactly the reserved blocks, in their slots.
    #[doc(alias = "verify_reserved_gdb")]
    pub fn verify_dind(self, block: &[u8]) -> Result<()> {
        same_pointers(block, &self.dind_block())
    }

    /// Check the content of a reserved block of group 0: exactly its copies in `backups`.
    pub fn verify_primary(self, block: &[u8], primary: Fsblk, backups: impl IntoIterator<Item = Group>) -> Result<()> {
        same_pointers(block, &self.primary_block(primary, backups))
    }
}

fn same_pointers(found: &[u8], want: &[u8]) -> Result<()> {
    for slot in 0..(want.len() / 4) as u32 {
        if pointer(found, slot)? != pointer(want, slot)? {
            let detail = "a pointer is not that of the reserved block";
            let place = Place::FS.offset(u64::from(slot).saturating_mul(4));
            return Err(Error::corrupt(Flaw::Inconsistent { of: OF, detail }, place));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_filesystem() {
        // mke2fs -b 1024 of 64 MiB: descriptors in block 2, reserved from 3, backups in groups 1, 3, 5, 7.
        let r = ReservedGdt {
            block_size: 1024,
            first_data_block: 1,
            desc_blocks: 1,
            reserved: 256,
            blocks_per_group: 8192,
        };
        let blocks: Vec<_> = r.blocks().collect();
        assert_eq!(blocks[0], ReservedBlock { slot: 1, primary: Fsblk(3) });
        assert_eq!(blocks[254], ReservedBlock { slot: 255, primary: Fsblk(257) });
        assert_eq!(blocks[255], ReservedBlock { slot: 0, primary: Fsblk(258) });
        assert_eq!(r.copy_in(Fsblk(3), Group(3)), Fsblk(3 + 3 * 8192));
        assert_eq!(r.inode_size(), (12 + 256 + 65536) * 1024);
        assert_eq!(r.owned_blocks(4), 256 * 5 + 1);
        assert_eq!(ReservedGdt::pointers(Fsblk(99)).get(DOUBLE), Some(Fsblk(99)));
        let dind = r.dind_block();
        r.verify_dind(&dind).unwrap();
        let groups = || [1, 3, 5, 7].map(Group);
        let primary = r.primary_block(Fsblk(3), groups());
        r.verify_primary(&primary, Fsblk(3), groups()).unwrap();
        assert!(r.verify_primary(&primary, Fsblk(4), groups()).is_err());
        let mut bad = dind;
        bad[8] ^= 1;
        assert!(matches!(
            r.verify_dind(&bad),
            Err(Error::Corrupt { what: Flaw::Inconsistent { of: OF, .. }, place }) if place.offset == Some(8)
        ));
        assert!(r.verify_dind(&bad[..1000]).is_err());
    }
}
