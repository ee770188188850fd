//! Revoke blocks: numbers of blocks whose copies in this and older transactions must not be replayed, because they were
//! freed and may hold something unjournalled by now. Big endian. Kernel name: `jbd2_journal_revoke_header_t`.
//!
//! Header, `count` (be32: bytes in use, these 16 included), records of 4 or 8 bytes, and a checksum tail (v2, v3).

use std::collections::BTreeMap;

use super::super::bytes::{array, field, put, short};
use super::{BlockHeader, BlockKind, HEADER, JournalFormat, OF};
use crate::error::Result;
use crate::units::{Fsblk, Tid};

/// Where the records start, bytes.
pub(super) const FIRST_RECORD: usize = 16;

/// A revoke block in typed form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoke {
    /// Transaction.
    pub sequence: Tid,
    /// The blocks revoked, in stored order.
    pub blocks: Vec<Fsblk>,
}

impl Revoke {
    /// Decode a block. The tail is the caller's to verify first ([`JournalFormat::verify_tail`]).
    pub fn decode(block: &[u8], format: JournalFormat) -> Result<Self> {
        if block.len() != format.block_size {
            return Err(short(OF, format.block_size, block.len()));
        }
        let header = BlockHeader::expect(block, BlockKind::Revoke)?;
        let count = array(block, HEADER).map(u32::from_be_bytes).unwrap_or_default();
        let used = count as usize;
        if used < FIRST_RECORD || used > format.body_end() {
            return Err(field(OF, "count", count.into(), HEADER));
        }
        let records = block.get(FIRST_RECORD..used).unwrap_or_default().chunks_exact(format.record_len());
        let number = |r: &[u8]| r.iter().fold(0u64, |n, b| (n << 8) | u64::from(*b));
        Ok(Self { sequence: header.sequence, blocks: records.map(|r| Fsblk(number(r))).collect() })
    }

    /// The block, stamped; as many records as fit.
    pub fn encode(&self, format: JournalFormat) -> Vec<u8> {
        let mut block = vec![0; format.block_size];
        put(&mut block, 0, &BlockHeader::encode(BlockKind::Revoke, self.sequence));
        let n = self.blocks.len().min(format.records_per_block());
        let used = FIRST_RECORD.saturating_add(n.saturating_mul(format.record_len()));
        put(&mut block, HEADER, &(used as u32).to_be_bytes());
        let body = block.get_mut(FIRST_RECORD..used).unwrap_or_default();
        for (slot, b) in body.chunks_exact_mut(format.record_len()).zip(&self.blocks) {
            if format.bits64 {
                put(slot, 0, &b.0.to_be_bytes());
            } else {
                put(slot, 0, &(b.0 as u32).to_be_bytes());
            }
        }
        format.stamp_tail(&mut block);
        block
    }
}

/// Fills a revoke block number by number.
#[derive(Clone, Debug)]
pub struct RevokeBuilder {
    format: JournalFormat,
    revoke: Revoke,
}

impl RevokeBuilder {
    /// An empty block of transaction `sequence`.
    pub const fn new(format: JournalFormat, sequence: Tid) -> Self {
        Self { format, revoke: Revoke { sequence, blocks: Vec::new() } }
    }

    /// Add a block; `false` where the revoke block is full, or cannot express the number.
    #[must_use]
    pub fn push(&mut self, block: Fsblk) -> bool {
        let full = self.revoke.blocks.len() >= self.format.records_per_block();
        if full || (!self.format.bits64 && block.0 > u64::from(u32::MAX)) {
            return false;
        }
        self.revoke.blocks.push(block);
        true
    }

    /// Whether there are no records yet.
    pub const fn is_empty(&self) -> bool {
        self.revoke.blocks.is_empty()
    }

    /// The block, stamped.
    pub fn finish(self) -> Vec<u8> {
        self.revoke.encode(self.format)
    }
}

/// What recovery gathers from revoke blocks: for each block the latest transaction that revoked it.
#[derive(Clone, Debug, Default)]
#[doc(alias = "jbd2_journal_set_revoke")]
pub struct RevokeTable {
    latest: BTreeMap<Fsblk, Tid>,
}

impl RevokeTable {
    /// Add the records of a block.
    pub fn add(&mut self, revoke: &Revoke) {
        for b in &revoke.blocks {
            let tid = self.latest.entry(*b).or_insert(revoke.sequence);
            if revoke.sequence.is_after(*tid) {
                *tid = revoke.sequence;
            }
        }
    }

    /// Whether a copy of `block` in transaction `sequence` must not be replayed.
    #[doc(alias = "jbd2_journal_test_revoke")]
    pub fn is_revoked(&self, block: Fsblk, sequence: Tid) -> bool {
        self.latest.get(&block).is_some_and(|tid| !sequence.is_after(*tid))
    }

    /// Blocks revoked.
    pub fn len(&self) -> usize {
        self.latest.len()
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.latest.is_empty()
    }
}
