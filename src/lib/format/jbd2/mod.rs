//! The journal's blocks: superblock, descriptors, revocations, commits. BIG endian throughout.
//! Kernel names: `journal_header_t`, `journal_superblock_t`, `journal_block_tag_t`, `struct commit_header`.
//!
//! A journal is a file (or device) of blocks: its superblock, then a ring of transactions. A transaction is any number of
//! descriptor blocks, each followed by the data blocks it lists; revoke blocks; and one commit block. All but the
//! data blocks start with a header: magic number, kind, transaction id. A data block that starts with the magic number itself
//! is *escaped*: its first four bytes are stored as zeros, and its tag says so.
//!
//! Checksums come in three kinds, chosen by feature bits (version 2 and 3 use crc32c, seeded with the journal's UUID):
//!
//! | kind | covers |
//! |---|---|
//! | v1 (`checksum`) | crc32 (big-endian) of descriptors and data blocks, in the commit block |
//! | v2 (`csum_v2`) | superblock; descriptor and revoke blocks (tail); commit block; 16 bits per data block in its tag |
//! | v3 (`csum_v3`) | the same with 32 bits per data block |
//!
//! [`JournalFormat`] says how a journal's blocks look; everything else takes it.

mod commit;
mod descriptor;
mod revoke;
mod superblock;

pub use commit::{Commit, V1Checksum, crc32_be};
pub use descriptor::{Descriptor, DescriptorBuilder, Tag, TagFlags};
pub use revoke::{Revoke, RevokeBuilder, RevokeTable};
pub use superblock::{JournalCompat, JournalIncompat, JournalSuperblock, SUPERBLOCK_SIZE};

use super::bytes::{array, put, same_checksum};
use super::csum::crc32c;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::units::Tid;

/// Magic number of every block but data blocks.
#[doc(alias = "JBD2_MAGIC_NUMBER")]
pub const MAGIC: u32 = 0xc03b_3998;
/// Bytes of a block's header.
pub const HEADER: usize = 12;
/// Bytes of the checksum at the end of descriptor and revoke blocks (v2, v3).
#[doc(alias = "jbd2_journal_block_tail")]
pub const TAIL: usize = 4;
/// Fewest blocks of a journal.
#[doc(alias = "JBD2_MIN_JOURNAL_BLOCKS")]
pub const MIN_BLOCKS: u32 = 1024;
/// Blocks for fast commits where the superblock does not say.
#[doc(alias = "JBD2_DEFAULT_FAST_COMMIT_BLOCKS")]
pub const DEFAULT_FC_BLOCKS: u32 = 256;

pub(super) const OF: Structure = Structure::JournalBlock;

/// What a journal block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// Lists the data blocks that follow.
    #[doc(alias = "JBD2_DESCRIPTOR_BLOCK")]
    Descriptor,
    /// Ends a transaction.
    #[doc(alias = "JBD2_COMMIT_BLOCK")]
    Commit,
    /// Superblock, version 1: without features.
    #[doc(alias = "JBD2_SUPERBLOCK_V1")]
    SuperblockV1,
    /// Superblock, version 2.
    #[doc(alias = "JBD2_SUPERBLOCK_V2")]
    SuperblockV2,
    /// Lists blocks whose older copies must not be replayed.
    #[doc(alias = "JBD2_REVOKE_BLOCK")]
    Revoke,
}

impl BlockKind {
    /// The stored number.
    pub const fn code(self) -> u32 {
        match self {
            Self::Descriptor => 1,
            Self::Commit => 2,
            Self::SuperblockV1 => 3,
            Self::SuperblockV2 => 4,
            Self::Revoke => 5,
        }
    }

    /// The kind of a number.
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Descriptor),
            2 => Some(Self::Commit),
            3 => Some(Self::SuperblockV1),
            4 => Some(Self::SuperblockV2),
            5 => Some(Self::Revoke),
            _ => None,
        }
    }
}

/// What a block with the magic number starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "journal_header_t")]
pub struct BlockHeader {
    /// The stored kind; see [`BlockHeader::kind`].
    pub blocktype: u32,
    /// Transaction.
    pub sequence: Tid,
}

impl BlockHeader {
    /// The header of `block`; `None` where it does not start with the magic number.
    pub fn decode(block: &[u8]) -> Option<Self> {
        let word = |at: usize| array(block, at).map(u32::from_be_bytes);
        (word(0)? == MAGIC).then_some(())?;
        Some(Self { blocktype: word(4)?, sequence: Tid(word(8)?) })
    }

    /// What the block is; `None` for an unknown kind.
    pub const fn kind(self) -> Option<BlockKind> {
        BlockKind::from_code(self.blocktype)
    }

    /// A header of `kind` in transaction `sequence`, as bytes.
    pub fn encode(kind: BlockKind, sequence: Tid) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        put(&mut bytes, 0, &MAGIC.to_be_bytes());
        put(&mut bytes, 4, &kind.code().to_be_bytes());
        put(&mut bytes, 8, &sequence.0.to_be_bytes());
        bytes
    }

    /// The header of a block that must be of `kind`.
    pub(super) fn expect(block: &[u8], kind: BlockKind) -> Result<Self> {
        let found = array(block, 0).map(u32::from_be_bytes).unwrap_or_default();
        let Some(header) = Self::decode(block) else {
            return Err(Error::corrupt(Flaw::Magic { of: OF, found }, Place::FS.offset(0)));
        };
        if header.blocktype == kind.code() {
            Ok(header)
        } else {
            Err(super::bytes::field(OF, "blocktype", header.blocktype.into(), 4))
        }
    }
}

/// Which checksums a journal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalCsum {
    /// None.
    None,
    /// crc32 of the whole transaction, in the commit block.
    V1,
    /// crc32c with this seed, 16 bits per data block.
    V2(u32),
    /// crc32c with this seed, 32 bits per data block.
    V3(u32),
}

impl JournalCsum {
    /// The seed of v2 and v3.
    pub const fn seed(self) -> Option<u32> {
        match self {
            Self::V2(seed) | Self::V3(seed) => Some(seed),
            Self::None | Self::V1 => None,
        }
    }
}

/// How a journal's blocks look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalFormat {
    /// Block size in bytes.
    pub block_size: usize,
    /// Block numbers have 64 bits (`64bit`).
    pub bits64: bool,
    /// Checksums.
    pub csum: JournalCsum,
}

impl JournalFormat {
    /// Bytes of a tag, without a UUID behind it.
    #[doc(alias = "journal_tag_bytes")]
    pub const fn tag_len(self) -> usize {
        match (self.csum, self.bits64) {
            (JournalCsum::V3(_), _) => 16,
            // With v2 the kernel counts the checksum twice: two unused bytes follow the tag.
            (JournalCsum::V2(_), true) => 14,
            (JournalCsum::V2(_), false) => 10,
            (_, true) => 12,
            (_, false) => 8,
        }
    }

    /// Where the tail of a descriptor or revoke block starts: the end of what it may use.
    pub const fn body_end(self) -> usize {
        match self.csum.seed() {
            Some(_) => self.block_size.saturating_sub(TAIL),
            None => self.block_size,
        }
    }

    /// Bytes of a revoke record.
    pub const fn record_len(self) -> usize {
        if self.bits64 { 8 } else { 4 }
    }

    /// Revocations that fit a block.
    pub fn records_per_block(self) -> usize {
        self.body_end().saturating_sub(revoke::FIRST_RECORD).checked_div(self.record_len()).unwrap_or_default()
    }

    /// The largest number of tags that is sure to fit a descriptor block that starts with a UUID.
    pub fn tags_per_block(self) -> usize {
        let room = self.body_end().saturating_sub(HEADER).saturating_sub(16);
        room.checked_div(self.tag_len()).unwrap_or_default()
    }

    /// Checksum of a data block as stored in the journal (escaped) in transaction `sequence`, as far as a tag keeps it:
    /// 16 bits in v2, 32 in v3, 0 otherwise.
    #[doc(alias = "jbd2_block_tag_csum_set")]
    pub fn data_checksum(self, sequence: Tid, data: &[u8]) -> u32 {
        let crc = |seed| crc32c(crc32c(seed, &sequence.0.to_be_bytes()), data);
        match self.csum {
            JournalCsum::V3(seed) => crc(seed),
            JournalCsum::V2(seed) => crc(seed) & 0xffff,
            JournalCsum::None | JournalCsum::V1 => 0,
        }
    }

    /// Compare a data block, as stored in the journal, with its tag.
    #[doc(alias = "jbd2_block_tag_csum_verify")]
    pub fn verify_data(self, sequence: Tid, tag: &Tag, data: &[u8]) -> Result<()> {
        if self.csum.seed().is_none() {
            return Ok(());
        }
        same_checksum(OF, tag.checksum, self.data_checksum(sequence, data))
    }

    /// Compare the tail of a descriptor or revoke block, where the journal has them.
    #[doc(alias = "jbd2_descriptor_block_csum_verify")]
    pub fn verify_tail(self, block: &[u8]) -> Result<()> {
        let Some(seed) = self.csum.seed() else { return Ok(()) };
        let at = block.len().saturating_sub(TAIL);
        let (Some(stored), Some(computed)) = (array(block, at).map(u32::from_be_bytes), tail_checksum(block, seed))
        else {
            return Err(super::bytes::short(OF, TAIL, block.len()));
        };
        same_checksum(OF, stored, computed)
    }

    /// Bring the tail of a descriptor or revoke block up to date, where the journal has them.
    #[doc(alias = "jbd2_descriptor_block_csum_set")]
    pub fn stamp_tail(self, block: &mut [u8]) {
        if let Some(crc) = self.csum.seed().and_then(|seed| tail_checksum(block, seed)) {
            let at = block.len().saturating_sub(TAIL);
            put(block, at, &crc.to_be_bytes());
        }
    }
}

fn tail_checksum(block: &[u8], seed: u32) -> Option<u32> {
    let body = block.get(..block.len().checked_sub(TAIL)?)?;
    Some(crc32c(crc32c(seed, body), &[0; TAIL]))
}

/// Make a data block fit to be stored in the journal: where it starts with the magic number, those four bytes become
/// zeros. Whether they did: the block's tag must say so ([`TagFlags::ESCAPE`]).
pub fn escape(data: &mut [u8]) -> bool {
    let needed = needs_escape(data);
    if needed {
        put(data, 0, &[0; 4]);
    }
    needed
}

/// Whether a data block starts with the magic number.
pub fn needs_escape(data: &[u8]) -> bool {
    array(data, 0) == Some(MAGIC.to_be_bytes())
}

/// Undo [`escape`] on a block whose tag has [`TagFlags::ESCAPE`].
pub fn unescape(data: &mut [u8]) {
    put(data, 0, &MAGIC.to_be_bytes());
}

#[cfg(test)]
mod tests;
