//! The multiple-mount protection block: who has the filesystem open. Little endian.
//! Kernel name: `struct mmp_struct`.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::bytes::{same_checksum, short};
use super::csum::crc32c;
use super::{U16, U32, U64};
use crate::error::{Error, Flaw, Place, Result, Structure};

/// Magic number.
#[doc(alias = "EXT4_MMP_MAGIC")]
pub const MAGIC: u32 = 0x004d_4d50;
/// Sequence of a filesystem that nobody has open.
#[doc(alias = "EXT4_MMP_SEQ_CLEAN")]
pub const SEQ_CLEAN: u32 = 0xff4d_4d50;
/// Sequence while a checker works.
#[doc(alias = "EXT4_MMP_SEQ_FSCK")]
pub const SEQ_FSCK: u32 = 0xe24d_4d50;
/// Highest sequence of an ordinary user.
#[doc(alias = "EXT4_MMP_SEQ_MAX")]
pub const SEQ_MAX: u32 = 0xe24d_4d4f;
/// Size of the structure in bytes.
pub const SIZE: usize = 1024;
const OF: Structure = Structure::Mmp;

/// The block's bytes.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "mmp_struct")]
pub struct Mmp {
    /// [`MAGIC`].
    pub magic: U32,
    /// Sequence: grows while somebody has the filesystem open.
    pub seq: U32,
    /// Time of the last update, seconds.
    pub time: U64,
    /// Name of the host, NUL-padded.
    pub nodename: [u8; 64],
    /// Name of the device, NUL-padded.
    pub bdevname: [u8; 32],
    /// Seconds between updates that the last user kept.
    pub check_interval: U16,
    /// Padding; kept.
    pub pad1: U16,
    /// Padding; kept.
    pub pad2: [U32; 226],
    /// crc32c of all bytes before it, with the filesystem's seed.
    pub checksum: U32,
}

const _: () = {
    assert!(size_of::<Mmp>() == SIZE);
    assert!(std::mem::offset_of!(Mmp, check_interval) == 0x70);
    assert!(std::mem::offset_of!(Mmp, checksum) == 0x3fc);
};

impl std::fmt::Debug for Mmp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mmp")
            .field("seq", &format_args!("{:#x}", self.seq.get()))
            .field("time", &self.time.get())
            .field("check_interval", &self.check_interval.get())
            .finish_non_exhaustive()
    }
}

impl Mmp {
    /// The block of a filesystem that nobody has open.
    pub fn clean(check_interval: u16) -> Self {
        let mut mmp = Self::new_zeroed();
        mmp.magic = U32::new(MAGIC);
        mmp.seq = U32::new(SEQ_CLEAN);
        mmp.check_interval = U16::new(check_interval);
        mmp
    }

    /// Decode a block (at least 1024 bytes), its magic number and, with a `seed`, its checksum verified.
    pub fn decode(block: &[u8], seed: Option<u32>) -> Result<Self> {
        let Ok((mmp, _)) = Self::read_from_prefix(block) else { return Err(short(OF, SIZE, block.len())) };
        if mmp.magic.get() != MAGIC {
            return Err(Error::corrupt(Flaw::Magic { of: OF, found: mmp.magic.get() }, Place::FS.offset(0)));
        }
        if let Some(seed) = seed {
            same_checksum(OF, mmp.checksum.get(), mmp.computed_checksum(seed))?;
        }
        Ok(mmp)
    }

    /// The bytes to store, with the checksum brought up to date where there is a `seed`.
    pub fn encode(&self, seed: Option<u32>) -> [u8; SIZE] {
        let mut mmp = self.clone();
        if let Some(seed) = seed {
            mmp.checksum = U32::new(mmp.computed_checksum(seed));
        }
        zerocopy::transmute!(mmp)
    }

    /// The checksum that the block should have.
    #[doc(alias = "ext4_mmp_csum")]
    pub fn computed_checksum(&self, seed: u32) -> u32 {
        let bytes = self.as_bytes();
        crc32c(seed, bytes.get(..std::mem::offset_of!(Self, checksum)).unwrap_or(bytes))
    }

    /// Whether nobody has the filesystem open.
    pub const fn is_clean(&self) -> bool {
        self.seq.get() == SEQ_CLEAN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let mut bytes: Vec<u8> = (0..SIZE).map(|i| (i * 13) as u8).collect();
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        let mmp = Mmp::decode(&bytes, None).unwrap();
        assert_eq!(mmp.encode(None)[..], bytes);
        let stamped = mmp.encode(Some(4));
        assert_eq!(Mmp::decode(&stamped, Some(4)).unwrap().encode(Some(4)), stamped);
        assert!(matches!(
            Mmp::decode(&stamped, Some(5)),
            Err(Error::Corrupt { what: Flaw::Checksum { of: OF, .. }, .. })
        ));
        assert!(matches!(Mmp::decode(&[0; 1024], None), Err(Error::Corrupt { what: Flaw::Magic { .. }, .. })));
        assert!(matches!(Mmp::decode(&bytes[..1023], None), Err(Error::Corrupt { what: Flaw::Short { .. }, .. })));
        assert!(Mmp::clean(5).is_clean() && !mmp.is_clean());
    }
}
