//! Commit blocks: the end of a transaction, with the time and a checksum. Big endian. Kernel name:
//! `struct commit_header`.
//!
//! With checksums v2 and v3, `chksum[0]` is crc32c of the block with that field as 0. With v1 it is a crc32
//! (most significant bit first, start value all ones) of the transaction's descriptor and data blocks.

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::bytes::{put, same_checksum, short};
use super::super::csum::crc32c;
use super::{BlockHeader, BlockKind, JournalCsum, JournalFormat, MAGIC, OF};
use crate::env::Timestamp;
use crate::error::Result;
use crate::units::Tid;

/// The algorithm of v1: crc32.
const CRC32: u8 = 1;
/// Bytes of a v1 checksum.
const CRC32_SIZE: u8 = 4;

/// The bytes that a commit block starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "commit_header")]
struct Raw {
    magic: U32,
    blocktype: U32,
    sequence: U32,
    chksum_type: u8,
    chksum_size: u8,
    padding: [u8; 2],
    chksum: [U32; 8],
    commit_sec: U64,
    commit_nsec: U32,
}

const CHKSUM_AT: usize = std::mem::offset_of!(Raw, chksum);
const _: () = {
    assert!(size_of::<Raw>() == 60);
    assert!(CHKSUM_AT == 16);
    assert!(std::mem::offset_of!(Raw, commit_sec) == 48);
};

/// A commit block in typed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Transaction.
    pub sequence: Tid,
    /// When it was committed.
    pub time: Timestamp,
    /// Algorithm of a v1 checksum: 1 is crc32; 0 otherwise.
    pub chksum_type: u8,
    /// Bytes of a v1 checksum.
    pub chksum_size: u8,
    /// Checksums; only the first is used.
    pub chksum: [u32; 8],
}

impl Commit {
    /// A commit of `sequence` at `time`. `v1` is the transaction's checksum where the journal has that kind.
    pub fn new(sequence: Tid, time: Timestamp, v1: Option<V1Checksum>) -> Self {
        let (chksum_type, chksum_size) = if v1.is_some() { (CRC32, CRC32_SIZE) } else { (0, 0) };
        let first = v1.map_or(0, V1Checksum::value);
        Self { sequence, time, chksum_type, chksum_size, chksum: [first, 0, 0, 0, 0, 0, 0, 0] }
    }

    /// Decode a block. Its checksum is the caller's to verify ([`Commit::verify`], [`Commit::verify_v1`]).
    pub fn decode(block: &[u8]) -> Result<Self> {
        let header = BlockHeader::expect(block, BlockKind::Commit)?;
        let Ok((raw, _)) = Raw::read_from_prefix(block) else {
            return Err(short(OF, size_of::<Raw>(), block.len()));
        };
        Ok(Self {
            sequence: header.sequence,
            time: Timestamp { sec: raw.commit_sec.get() as i64, nsec: raw.commit_nsec.get() },
            chksum_type: raw.chksum_type,
            chksum_size: raw.chksum_size,
            chksum: raw.chksum.map(U32::get),
        })
    }

    /// The block, with its checksum (v2, v3).
    pub fn encode(&self, format: JournalFormat) -> Vec<u8> {
        let raw = Raw {
            magic: U32::new(MAGIC),
            blocktype: U32::new(BlockKind::Commit.code()),
            sequence: U32::new(self.sequence.0),
            chksum_type: self.chksum_type,
            chksum_size: self.chksum_size,
            padding: [0; 2],
            chksum: self.chksum.map(U32::new),
            commit_sec: U64::new(self.time.sec as u64),
            commit_nsec: U32::new(self.time.nsec),
        };
        let mut block = vec![0; format.block_size];
        put(&mut block, 0, raw.as_bytes());
        if let Some(crc) = format.csum.seed().and_then(|seed| Self::checksum(&block, seed)) {
            put(&mut block, CHKSUM_AT, &crc.to_be_bytes());
        }
        block
    }

    /// crc32c of a commit block (v2, v3).
    #[doc(alias = "jbd2_commit_block_csum_set")]
    fn checksum(block: &[u8], seed: u32) -> Option<u32> {
        let crc = crc32c(seed, block.get(..CHKSUM_AT)?);
        let crc = crc32c(crc, &[0; 4]);
        Some(crc32c(crc, block.get(CHKSUM_AT.checked_add(4)?..)?))
    }

    /// Compare the checksum of `block`, from which this was decoded (v2, v3; otherwise nothing is done).
    #[doc(alias = "jbd2_commit_block_csum_verify")]
    pub fn verify(&self, block: &[u8], format: JournalFormat) -> Result<()> {
        let [stored, ..] = self.chksum;
        match format.csum.seed().and_then(|seed| Self::checksum(block, seed)) {
            Some(computed) => same_checksum(OF, stored, computed),
            None => Ok(()),
        }
    }

    /// Compare a v1 checksum with that of the transaction's blocks. A commit block without one (written before the
    /// feature was switched on) is accepted, as the kernel does.
    pub fn verify_v1(&self, format: JournalFormat, transaction: V1Checksum) -> Result<()> {
        let [stored, ..] = self.chksum;
        if format.csum != JournalCsum::V1 {
            return Ok(());
        }
        match (self.chksum_type, self.chksum_size) {
            (CRC32, CRC32_SIZE) => same_checksum(OF, stored, transaction.value()),
            (0, 0) if stored == 0 => Ok(()),
            _ => Err(super::super::bytes::field(OF, "chksum_type", self.chksum_type.into(), 12)),
        }
    }
}

/// The running v1 checksum of a transaction: feed every descriptor and data block, as stored, in log order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V1Checksum(u32);

impl Default for V1Checksum {
    fn default() -> Self {
        Self(!0)
    }
}

impl V1Checksum {
    /// Add a block.
    pub fn update(&mut self, block: &[u8]) {
        self.0 = crc32_be(self.0, block);
    }

    /// The checksum so far.
    pub const fn value(self) -> u32 {
        self.0
    }
}

const CRC32_TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut rest: &mut [u32] = &mut table;
    let mut byte = 0u32;
    while let Some((slot, tail)) = rest.split_first_mut() {
        let mut c = byte << 24;
        let mut bit = 0u32;
        while bit < 8 {
            c = if c >> 31 == 1 { (c << 1) ^ 0x04c1_1db7 } else { c << 1 };
            bit = bit.wrapping_add(1);
        }
        *slot = c;
        byte = byte.wrapping_add(1);
        rest = tail;
    }
    table
};

/// Continue a crc32 (polynomial 0x04c11db7, most significant bit first, no inversion) over `bytes`.
pub fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, b| {
        let [top, ..] = crc.to_be_bytes();
        (crc << 8) ^ CRC32_TABLE.get(usize::from(top ^ *b)).copied().unwrap_or_default()
    })
}
