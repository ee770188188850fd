//! A dm-verity hash tree behind a filesystem, in the format of `veritysetup format`: a superblock, then the levels of the tree, the
//! top first. Each block of a level holds the SHA-256 digests of 128 blocks of the level below (salt first, then the block); the
//! digest of the top block is the root hash. Little-endian.
//!
//! Invariant: what is written depends on the data and the salt alone, whatever the number of threads.

use std::ops::Range;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::progress::{Progress, Step, Unit};

/// Bytes of a block, of data and of hashes.
const BLOCK: u64 = 4096;
const DIGEST: u64 = 32;
/// Digests in a block, as a power of two.
const PER_BLOCK_BITS: u32 = 7;
/// Hash blocks that a thread makes at once.
const SHARE: u64 = 16;
/// Longest salt, bytes.
const SALT_MAX: usize = 256;

/// A hash tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verity {
    /// The digest of everything, to be known to whoever opens the device.
    pub root_hash: [u8; 32],
    /// Where the superblock of the tree is, in bytes from the start of the filesystem.
    pub hash_offset: u64,
    /// Blocks of 4096 bytes that it covers.
    pub data_blocks: u64,
}

/// Bytes from the start of a filesystem of `len` bytes to the end of its tree.
pub fn verity_len(len: u64) -> u64 {
    let blocks = len.div_ceil(BLOCK);
    let levels = levels(blocks);
    levels.first().map_or(blocks + 1, |top| top.start + levels.iter().map(|l| l.end - l.start).sum::<u64>()) * BLOCK
}

/// The blocks of each level, the top one first, on the device.
fn levels(data_blocks: u64) -> Vec<Range<u64>> {
    let mut sizes = Vec::new();
    let mut n = data_blocks;
    while n > 1 {
        n = n.div_ceil(1 << PER_BLOCK_BITS);
        sizes.push(n);
    }
    // Behind the data and the superblock.
    let mut at = data_blocks + 1;
    let place = |n: u64| {
        at += n;
        at - n..at
    };
    sizes.into_iter().rev().map(place).collect()
}

/// Append the tree for the first `len` bytes of the device, which is long enough for it ([`verity_len`]).
///
/// # Errors
/// [`Error::InvalidArgument`] for a salt of more than 256 bytes, [`Error::DeviceTooSmall`], what the device reports.
pub fn append_verity(
    dev: &dyn BlockDevice,
    len: u64,
    salt: &[u8],
    uuid: [u8; 16],
    progress: &dyn Progress,
) -> Result<Verity> {
    if salt.len() > SALT_MAX {
        return Err(Error::InvalidArgument {
            name: "salt",
            value: salt.len().to_string(),
            allowed: "at most 256 bytes",
        });
    }
    let need = verity_len(len);
    if dev.len() < need {
        return Err(Error::DeviceTooSmall { need, have: dev.len() });
    }
    let data_blocks = len.div_ceil(BLOCK);
    progress.begin(Step { name: "hashing", unit: Unit::Blocks, total: Some(data_blocks) });
    let mut below = 0..data_blocks;
    for level in levels(data_blocks).into_iter().rev() {
        hash_level(dev, &below, &level, salt, progress)?;
        below = level;
    }
    progress.end();
    let mut top = vec![0; BLOCK as usize];
    dev.read_at(below.start * BLOCK, &mut top)?;
    dev.write_at(data_blocks * BLOCK, &superblock(data_blocks, salt, uuid))?;
    Ok(Verity { root_hash: digest(salt, &top), hash_offset: data_blocks * BLOCK, data_blocks })
}

fn digest(salt: &[u8], block: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(block).finalize().into()
}

/// Fill the blocks `to` with the digests of the blocks `from`.
fn hash_level(
    dev: &dyn BlockDevice,
    from: &Range<u64>,
    to: &Range<u64>,
    salt: &[u8],
    progress: &dyn Progress,
) -> Result<()> {
    let zeros = digest(salt, &vec![0; BLOCK as usize]);
    let shares = (to.end - to.start).div_ceil(SHARE);
    (0..shares).into_par_iter().try_for_each(|share| {
        progress.check()?;
        let first = share * SHARE;
        let count = SHARE.min(to.end - to.start - first);
        let start = from.start + (first << PER_BLOCK_BITS);
        let end = from.end.min(start + (count << PER_BLOCK_BITS));
        let mut out = Vec::with_capacity((count * BLOCK) as usize);
        let mut block = vec![0; BLOCK as usize];
        // Blocks before this one hold no data.
        let mut data = start;
        for at in start..end {
            if at >= data {
                data = dev.next_data(at * BLOCK)?.map_or(end, |d| d.start / BLOCK);
            }
            if at < data {
                out.extend_from_slice(&zeros);
                continue;
            }
            data = at + 1;
            dev.read_at(at * BLOCK, &mut block)?;
            out.extend_from_slice(&digest(salt, &block));
        }
        out.resize((count * BLOCK) as usize, 0);
        progress.advance(end - start);
        dev.write_at((to.start + first) * BLOCK, &out)
    })
}

/// The superblock, in a block of its own.
fn superblock(data_blocks: u64, salt: &[u8], uuid: [u8; 16]) -> Vec<u8> {
    let mut sb = b"verity\0\0".to_vec();
    // Version of the superblock, type of the hashes.
    for word in [1u32, 1] {
        sb.extend_from_slice(&word.to_le_bytes());
    }
    sb.extend_from_slice(&uuid);
    sb.extend_from_slice(b"sha256");
    sb.resize(64, 0);
    for word in [BLOCK as u32; 2] {
        sb.extend_from_slice(&word.to_le_bytes());
    }
    sb.extend_from_slice(&data_blocks.to_le_bytes());
    sb.extend_from_slice(&(salt.len() as u16).to_le_bytes());
    sb.extend_from_slice(&[0; 6]);
    sb.extend_from_slice(salt);
    sb.resize(BLOCK as usize, 0);
    sb
}

const _: () = assert!(DIGEST << PER_BLOCK_BITS == BLOCK);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;
    use crate::progress::Silent;

    #[test]
    fn levels_lie_behind_the_data_the_top_first() {
        assert!(levels(1).is_empty());
        assert_eq!(levels(2), std::slice::from_ref(&(3..4)));
        assert_eq!(levels(129), [130..131, 131..133]);
        assert_eq!(verity_len(129 * 4096), 133 * 4096);
        assert_eq!(verity_len(1), 2 * 4096);
    }

    #[test]
    fn the_root_is_the_digest_of_digests() {
        let mut bytes = vec![0; 130 * 4096];
        bytes[5] = 1;
        bytes[129 * 4096 + 7] = 2;
        let dev = MemoryDevice::new(verity_len(bytes.len() as u64) as usize);
        dev.write_at(0, &bytes).unwrap();
        let v = append_verity(&dev, bytes.len() as u64, b"salt", [0; 16], &Silent).unwrap();
        let mut leaves: Vec<u8> = bytes.chunks(4096).flat_map(|b| digest(b"salt", b)).collect();
        leaves.resize(2 * 4096, 0);
        let mut top: Vec<u8> = leaves.chunks(4096).flat_map(|b| digest(b"salt", b)).collect();
        top.resize(4096, 0);
        assert_eq!(v, Verity { root_hash: digest(b"salt", &top), hash_offset: 130 * 4096, data_blocks: 130 });
        assert!(append_verity(&MemoryDevice::new(4096), 4096, b"", [0; 16], &Silent).is_err());
    }
}
