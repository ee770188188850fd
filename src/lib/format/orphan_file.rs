//! Blocks of the orphan file: inodes to be cleaned up, and a tail. Little endian.
//! Kernel name: `struct ext4_orphan_block_tail` (`fs/ext4/orphan.c`).
//!
//! A block is inode numbers (0: free slot) up to the last 8 bytes: magic number and checksum. The checksum is crc32c,
//! with the orphan file's inode seed, over the le64 block number and the inode numbers.

use super::bytes::{le32, put, same_checksum, short};
use super::csum::crc32c;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::units::{Fsblk, Ino};

/// Magic number of the tail.
#[doc(alias = "EXT4_ORPHAN_BLOCK_MAGIC")]
pub const MAGIC: u32 = 0x0b10_ca04;
/// Bytes of the tail.
const TAIL: usize = 8;
const OF: Structure = Structure::OrphanFile;

/// Slots of a block.
#[doc(alias = "ext4_inodes_per_orphan_block")]
pub const fn slots_per_block(block_size: usize) -> usize {
    block_size.saturating_sub(TAIL) / 4
}

/// Make `block` an empty orphan block, not stamped.
pub fn init_empty(block: &mut [u8]) {
    block.fill(0);
    let at = block.len().saturating_sub(TAIL);
    put(block, at, &MAGIC.to_le_bytes());
}

/// The slots in use: slot number and inode.
///
/// # Errors
/// [`Flaw::Magic`] where the tail is not there.
pub fn orphans(block: &[u8]) -> Result<impl Iterator<Item = (usize, Ino)> + '_> {
    check_magic(block)?;
    let slots = block.get(..block.len().saturating_sub(TAIL)).unwrap_or_default().as_chunks::<4>().0;
    let all = slots.iter().enumerate().map(|(i, s)| (i, Ino(u32::from_le_bytes(*s))));
    Ok(all.filter(|(_, ino)| ino.0 != 0))
}

/// Store `ino` (0: nothing) in slot `slot`; `None` where there is no such slot. The checksum is the caller's to renew.
pub fn set_slot(block: &mut [u8], slot: usize, ino: Ino) -> Option<()> {
    if slot >= slots_per_block(block.len()) {
        return None;
    }
    put(block, slot.checked_mul(4)?, &ino.0.to_le_bytes())
}

fn check_magic(block: &[u8]) -> Result<()> {
    let at = block.len().saturating_sub(TAIL);
    match le32(block, at) {
        Some(MAGIC) => Ok(()),
        Some(found) => Err(Error::corrupt(Flaw::Magic { of: OF, found }, Place::FS.offset(at as u64))),
        None => Err(short(OF, TAIL, block.len())),
    }
}

/// The checksum that a block should have, with the orphan file's inode seed.
#[doc(alias = "ext4_orphan_file_block_csum")]
pub fn checksum(block: &[u8], inode_seed: u32, number: Fsblk) -> Option<u32> {
    let slots = block.get(..slots_per_block(block.len()).checked_mul(4)?)?;
    Some(crc32c(crc32c(inode_seed, &number.0.to_le_bytes()), slots))
}

/// Compare magic number and checksum of a block.
pub fn verify(block: &[u8], inode_seed: u32, number: Fsblk) -> Result<()> {
    check_magic(block)?;
    let stored = le32(block, block.len().saturating_sub(4)).unwrap_or_default();
    match checksum(block, inode_seed, number) {
        Some(computed) => same_checksum(OF, stored, computed).map_err(|e| e.at(Place::block(number))),
        None => Err(short(OF, TAIL, block.len())),
    }
}

/// Bring the checksum of a block up to date.
pub fn stamp(block: &mut [u8], inode_seed: u32, number: Fsblk) {
    if let Some(crc) = checksum(block, inode_seed, number) {
        let at = block.len().saturating_sub(4);
        put(block, at, &crc.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slots_come_back() {
        let mut block = vec![9; 1024];
        init_empty(&mut block);
        assert_eq!(slots_per_block(1024), 254);
        set_slot(&mut block, 0, Ino(12)).unwrap();
        set_slot(&mut block, 253, Ino(13)).unwrap();
        assert!(set_slot(&mut block, 254, Ino(14)).is_none());
        stamp(&mut block, 1, Fsblk(5));
        verify(&block, 1, Fsblk(5)).unwrap();
        assert!(verify(&block, 1, Fsblk(6)).is_err());
        assert_eq!(orphans(&block).unwrap().collect::<Vec<_>>(), [(0, Ino(12)), (253, Ino(13))]);
        block[1016] = 0;
        assert!(matches!(
            orphans(&block).err(),
            Some(Error::Corrupt { what: Flaw::Magic { of: OF, found: 0x0b10_ca00 }, place }) if place.offset == Some(1016)
        ));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = verify(&bytes, 0, Fsblk(0));
            let _ = orphans(&bytes).map(Iterator::count);
            stamp(&mut bytes, 0, Fsblk(0));
            init_empty(&mut bytes);
        }
    }
}
