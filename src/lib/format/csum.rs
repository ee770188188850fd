//! Checksums of the format: crc32c over metadata, crc16 over the descriptors of `uninit_bg`.
//!
//! crc32c here is ext4's: the running value is passed in and out without inversion at either end. Which bytes
//! each structure covers, and with what seed:
//!
//! | structure | seed | bytes |
//! |---|---|---|
//! | superblock | `!0` | bytes 0..1020 |
//! | group descriptor | filesystem seed | le32 group, descriptor with `checksum` as 0; low 16 bits kept |
//! | block / inode bitmap | filesystem seed | `clusters_per_group / 8`, `inodes_per_group / 8` bytes; 16 or 32 bits kept by descriptor size |
//! | inode | filesystem seed | le32 ino, le32 generation, inode with `checksum_lo/hi` as 0 |
//! | extent node, directory block, htree node | inode seed (seed, ino, generation) | block up to the tail |
//! | xattr block | filesystem seed | le64 block number, block with `checksum` as 0 |
//! | MMP, orphan block, verity, quota | see each structure's file | |
//!
//! The filesystem seed is `crc32c(!0, uuid)`, or `checksum_seed` with `metadata_csum_seed`.

/// Continue a raw crc32c (Castagnoli, reflected) over `bytes`, with no inversion at either end.
#[doc(alias = "ext4_chksum")]
#[inline]
#[must_use]
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// Continue a crc16 (polynomial 0x8005 reflected, as in `uninit_bg` descriptors) over `bytes`.
#[must_use]
pub fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(seed, |crc, &b| {
        (0..8).fold(crc ^ u16::from(b), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xa001 } else { c >> 1 })
    })
}

/// How a filesystem protects its metadata, with the seed where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// No checksums.
    None,
    /// crc16 of group descriptors only (`uninit_bg`), over this UUID.
    Gdt {
        /// The filesystem's UUID.
        uuid: [u8; 16],
    },
    /// crc32c of all metadata (`metadata_csum`), with this seed.
    Metadata {
        /// The filesystem's seed.
        seed: u32,
    },
}

impl Checksums {
    /// The seed of `metadata_csum`, where it is in use.
    pub const fn seed(self) -> Option<u32> {
        match self {
            Self::Metadata { seed } => Some(seed),
            _ => None,
        }
    }

    /// The seed for structures that belong to one inode, where `metadata_csum` is in use.
    pub fn inode_seed(self, ino: crate::units::Ino, generation: u32) -> Option<u32> {
        self.seed().map(|s| crc32c(crc32c(s, &ino.0.to_le_bytes()), &generation.to_le_bytes()))
    }

    /// Whether group descriptors carry checksums and uninitialised groups are possible.
    pub const fn has_group_desc_csum(self) -> bool {
        !matches!(self, Self::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vectors() {
        // The standard check values, in the raw (uninverted) form.
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
        assert_eq!(crc32c(crc32c(!0, b"1234"), b"56789"), crc32c(!0, b"123456789"));
    }
}
