//! fs-verity metadata behind the end of a file: hash tree, descriptor, and the descriptor's size. Little endian.
//! Kernel names: `struct fsverity_descriptor`, `ext4_get_verity_descriptor_location` (`fs/ext4/verity.c`).
//!
//! The metadata starts at the file's size rounded up to 64 KiB. The last four bytes of the last mapped block say how
//! long the descriptor is; it starts at the block boundary that leaves it room before them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::bytes::{field, short};
use super::{U32, U64};
use crate::error::{Error, Flaw, Place, Result, Structure};

/// Bytes of a descriptor before the signature.
pub const SIZE: usize = 256;
/// Longest descriptor this library reads, bytes.
#[doc(alias = "FS_VERITY_MAX_DESCRIPTOR_SIZE")]
pub const MAX_DESCRIPTOR: u32 = 16384;
/// What the start of the metadata is rounded up to, bytes.
const METADATA_ALIGN: u64 = 65536;
const SIZE_FIELD: u64 = 4;
const OF: Structure = Structure::Verity;

/// Byte of the file where the metadata starts: `size` rounded up to 64 KiB.
#[doc(alias = "ext4_verity_metadata_pos")]
pub const fn metadata_start(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(METADATA_ALIGN)
}

/// Byte of the file where the descriptor's size (le32) is stored, for a map that ends at logical block `end_lblk`.
pub const fn size_position(end_lblk: u64, block_size: u32) -> Option<u64> {
    match end_lblk.checked_mul(block_size as u64) {
        Some(end) => end.checked_sub(SIZE_FIELD),
        None => None,
    }
}

/// Byte of the file where the descriptor of `descriptor_size` bytes starts, given [`size_position`] and the file's
/// size.
///
/// # Errors
/// [`Error::Corrupt`] where the size is impossible or the descriptor would start before the metadata.
#[doc(alias = "ext4_get_verity_descriptor_location")]
pub fn descriptor_position(size_at: u64, descriptor_size: u32, file_size: u64, block_size: u32) -> Result<u64> {
    let impossible = || field(OF, "desc_size", descriptor_size.into(), 0);
    if descriptor_size > MAX_DESCRIPTOR || (descriptor_size as usize) < SIZE {
        return Err(impossible());
    }
    let from = size_at.checked_sub(u64::from(descriptor_size)).ok_or_else(impossible)?;
    let offset = from.checked_rem(u64::from(block_size)).ok_or_else(impossible)?;
    let at = from.saturating_sub(offset);
    if metadata_start(file_size).is_none_or(|start| at < start) {
        let detail = "the descriptor lies before the metadata";
        return Err(Error::corrupt(Flaw::Inconsistent { of: OF, detail }, Place::FS.offset(at)));
    }
    Ok(at)
}

/// The fixed part of a descriptor.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "fsverity_descriptor")]
pub struct VerityDescriptor {
    /// 1.
    pub version: u8,
    /// Hash: 1 is SHA-256, 2 is SHA-512.
    pub hash_algorithm: u8,
    /// Binary logarithm of the hash tree's block size.
    pub log_blocksize: u8,
    /// Bytes of salt.
    pub salt_size: u8,
    /// Bytes of signature behind this.
    pub sig_size: U32,
    /// Size of the file's data in bytes.
    pub data_size: U64,
    /// Root hash, zero-padded.
    pub root_hash: [u8; 64],
    /// Salt, zero-padded.
    pub salt: [u8; 32],
    /// Unused; kept.
    pub reserved: [u8; 144],
}

const _: () = assert!(size_of::<VerityDescriptor>() == SIZE);

impl std::fmt::Debug for VerityDescriptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerityDescriptor")
            .field("version", &self.version)
            .field("hash_algorithm", &self.hash_algorithm)
            .field("log_blocksize", &self.log_blocksize)
            .field("data_size", &self.data_size.get())
            .finish_non_exhaustive()
    }
}

impl VerityDescriptor {
    /// Decode a descriptor and its signature: version, sizes and the file's size are checked.
    pub fn decode(bytes: &[u8], file_size: u64) -> Result<(Self, &[u8])> {
        let Ok((d, rest)) = Self::read_from_prefix(bytes) else { return Err(short(OF, SIZE, bytes.len())) };
        let sig = d.sig_size.get();
        let checks = [
            ("version", u64::from(d.version), 0, d.version == 1),
            ("salt_size", d.salt_size.into(), 3, usize::from(d.salt_size) <= d.salt.len()),
            ("sig_size", sig.into(), 4, sig as usize <= rest.len()),
            ("data_size", d.data_size.get(), 8, d.data_size.get() == file_size),
        ];
        if let Some((name, value, at, _)) = checks.iter().find(|c| !c.3) {
            return Err(field(OF, name, *value, *at));
        }
        let signature = rest.get(..sig as usize).unwrap_or_default();
        Ok((d, signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn where_the_descriptor_is() {
        assert_eq!(metadata_start(0), Some(0));
        assert_eq!(metadata_start(1), Some(65536));
        assert_eq!(metadata_start(u64::MAX), None);
        // A file of 100,000 bytes: metadata from 131072, hash tree of one block, descriptor in the next.
        let size_at = size_position(34, 4096).unwrap();
        assert_eq!(size_at, 34 * 4096 - 4);
        assert_eq!(descriptor_position(size_at, 256, 100_000, 4096).unwrap(), 33 * 4096);
        assert!(descriptor_position(size_at, 256, 135_000, 4096).is_err());
        assert!(descriptor_position(size_at, 255, 100_000, 4096).is_err());
        assert!(descriptor_position(size_at, u32::MAX, 100_000, 4096).is_err());
        assert_eq!(size_position(0, 4096), None);
    }

    #[test]
    fn descriptors() {
        let mut bytes = vec![7; 260];
        bytes[..16].copy_from_slice(&[1, 1, 12, 8, 4, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0]);
        let (d, sig) = VerityDescriptor::decode(&bytes, 100).unwrap();
        assert_eq!((d.as_bytes(), sig), (&bytes[..256], &[7; 4][..]));
        for (at, value, name) in [(0, 2, "version"), (3, 33, "salt_size"), (4, 5, "sig_size"), (8, 99, "data_size")] {
            let mut bad = bytes.clone();
            bad[at] = value;
            assert!(matches!(
                VerityDescriptor::decode(&bad, 100),
                Err(Error::Corrupt { what: Flaw::Field { of: OF, field, .. }, .. }) if field == name
            ));
        }
    }

    proptest! {
        #[test]
        fn any_numbers_are_safe(a: u64, b: u32, c: u64, d: u32, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = size_position(a, b);
            let _ = descriptor_position(a, b, c, d);
            let _ = descriptor_position(a, b % 20000, c, d);
            let _ = VerityDescriptor::decode(&bytes, c);
        }
    }
}
