//! Descriptor blocks: a header, tags for the data blocks that follow, and a checksum tail (v2, v3). Big endian.
//! Kernel names: `journal_block_tag_t`, `journal_block_tag3_t`.
//!
//! A tag is: block number (low 32 bits), then with checksums v3 32-bit flags, high 32 bits, 32-bit checksum (16
//! bytes); otherwise 16-bit checksum (v2), 16-bit flags and, with 64-bit numbers, the high 32 bits. A tag without
//! [`TagFlags::SAME_UUID`] has a UUID of 16 bytes behind it: the first of every block.

use bitflags::bitflags;

use super::super::bytes::{array, put, short};
use super::{BlockHeader, BlockKind, HEADER, JournalCsum, JournalFormat, OF};
use crate::error::Result;
use crate::units::{Fsblk, Tid};

const UUID: usize = 16;

bitflags! {
    /// Flags of a tag.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct TagFlags: u32 {
        /// The data block started with the magic number: its first four bytes were zeroed.
        const ESCAPE = 1;
        /// No UUID behind the tag: the same as the one before.
        const SAME_UUID = 2;
        /// The block was deleted by this transaction (unused).
        const DELETED = 4;
        /// The last tag of the block.
        const LAST_TAG = 8;
        const _ = !0;
    }
}

/// A tag: where a data block belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Block of the filesystem.
    pub block: Fsblk,
    /// Flags as stored (16 bits, 32 with checksums v3).
    pub flags: TagFlags,
    /// Checksum of the data block: 32 bits in v3, 16 in v2, whatever is stored otherwise.
    pub checksum: u32,
    /// The UUID behind the tag, where there is one.
    pub uuid: Option<[u8; UUID]>,
}

impl Tag {
    /// Whether the data block's first four bytes are to be restored.
    pub const fn is_escaped(&self) -> bool {
        self.flags.contains(TagFlags::ESCAPE)
    }

    fn decode(block: &[u8], at: usize, format: JournalFormat) -> Option<Self> {
        let word = |off: usize| array(block, at.checked_add(off)?).map(u32::from_be_bytes);
        let half = |off: usize| array(block, at.checked_add(off)?).map(u16::from_be_bytes).map(u32::from);
        let low = word(0)?;
        let (flags, high, checksum) = if matches!(format.csum, JournalCsum::V3(_)) {
            (word(4)?, if format.bits64 { word(8)? } else { 0 }, word(12)?)
        } else {
            (half(6)?, if format.bits64 { word(8)? } else { 0 }, half(4)?)
        };
        let flags = TagFlags::from_bits_retain(flags);
        let uuid = if flags.contains(TagFlags::SAME_UUID) {
            None
        } else {
            Some(array::<UUID>(block, at.checked_add(format.tag_len())?)?)
        };
        Some(Self { block: Fsblk(u64::from(low) | (u64::from(high) << 32)), flags, checksum, uuid })
    }

    fn encode_into(&self, block: &mut [u8], at: usize, format: JournalFormat) -> Option<()> {
        let (low, high) = (self.block.0 as u32, (self.block.0 >> 32) as u32);
        let slot = block.get_mut(at..)?;
        put(slot, 0, &low.to_be_bytes())?;
        if matches!(format.csum, JournalCsum::V3(_)) {
            put(slot, 4, &self.flags.bits().to_be_bytes())?;
            put(slot, 8, &high.to_be_bytes())?;
            put(slot, 12, &self.checksum.to_be_bytes())?;
        } else {
            put(slot, 4, &(self.checksum as u16).to_be_bytes())?;
            put(slot, 6, &(self.flags.bits() as u16).to_be_bytes())?;
            if format.bits64 {
                put(slot, 8, &high.to_be_bytes())?;
            }
        }
        if let Some(uuid) = &self.uuid {
            put(slot, format.tag_len(), uuid)?;
        }
        Some(())
    }
}

/// A descriptor block in typed form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Transaction.
    pub sequence: Tid,
    /// Tags, in the order of the data blocks that follow.
    pub tags: Vec<Tag>,
}

impl Descriptor {
    /// Decode a block: header and tags. Tags end with the one that says so, or where no further one fits. The tail
    /// is the caller's to verify first ([`JournalFormat::verify_tail`]).
    pub fn decode(block: &[u8], format: JournalFormat) -> Result<Self> {
        if block.len() != format.block_size {
            return Err(short(OF, format.block_size, block.len()));
        }
        let header = BlockHeader::expect(block, BlockKind::Descriptor)?;
        let body = block.get(..format.body_end()).unwrap_or_default();
        let mut tags = Vec::new();
        let mut at = HEADER;
        while at.saturating_add(format.tag_len()) <= body.len() {
            let Some(tag) = Tag::decode(body, at, format) else {
                return Err(short(OF, at.saturating_add(format.tag_len()).saturating_add(UUID), body.len()));
            };
            at = at.saturating_add(format.tag_len()).saturating_add(if tag.uuid.is_some() { UUID } else { 0 });
            tags.push(tag);
            if tag.flags.contains(TagFlags::LAST_TAG) {
                break;
            }
        }
        Ok(Self { sequence: header.sequence, tags })
    }

    /// The block, stamped. Tags are written as they are, as many as fit; use [`DescriptorBuilder`] to make them.
    pub fn encode(&self, format: JournalFormat) -> Vec<u8> {
        let mut block = vec![0; format.block_size];
        put(&mut block, 0, &BlockHeader::encode(BlockKind::Descriptor, self.sequence));
        let mut at = HEADER;
        let end = format.body_end();
        for tag in &self.tags {
            let body = block.get_mut(..end).unwrap_or_default();
            if tag.encode_into(body, at, format).is_none() {
                break;
            }
            at = at.saturating_add(format.tag_len()).saturating_add(if tag.uuid.is_some() { UUID } else { 0 });
        }
        format.stamp_tail(&mut block);
        block
    }
}

/// Fills a descriptor block tag by tag.
#[derive(Clone, Debug)]
pub struct DescriptorBuilder {
    format: JournalFormat,
    uuid: [u8; UUID],
    at: usize,
    descriptor: Descriptor,
}

impl DescriptorBuilder {
    /// An empty block of transaction `sequence`; `uuid` is the journal's, and goes behind the first tag.
    pub const fn new(format: JournalFormat, uuid: [u8; UUID], sequence: Tid) -> Self {
        Self { format, uuid, at: HEADER, descriptor: Descriptor { sequence, tags: Vec::new() } }
    }

    /// Add a tag for the data block that belongs at `block`. `data` is the block as it will be stored in the journal, and
    /// `escaped` what [`super::escape`] said. `false` where the block is full, or cannot express the number.
    #[must_use]
    pub fn push(&mut self, block: Fsblk, data: &[u8], escaped: bool) -> bool {
        let first = self.descriptor.tags.is_empty();
        let len = self.format.tag_len().saturating_add(if first { UUID } else { 0 });
        let end = self.at.saturating_add(len);
        if end > self.format.body_end() || (!self.format.bits64 && block.0 > u64::from(u32::MAX)) {
            return false;
        }
        let mut flags = TagFlags::empty();
        flags.set(TagFlags::ESCAPE, escaped);
        flags.set(TagFlags::SAME_UUID, !first);
        let checksum = self.format.data_checksum(self.descriptor.sequence, data);
        self.descriptor.tags.push(Tag { block, flags, checksum, uuid: first.then_some(self.uuid) });
        self.at = end;
        true
    }

    /// Tags so far.
    pub const fn len(&self) -> usize {
        self.descriptor.tags.len()
    }

    /// Whether there are no tags yet.
    pub const fn is_empty(&self) -> bool {
        self.descriptor.tags.is_empty()
    }

    /// The block, its last tag marked, stamped.
    pub fn finish(mut self) -> Vec<u8> {
        if let Some(last) = self.descriptor.tags.last_mut() {
            last.flags |= TagFlags::LAST_TAG;
        }
        self.descriptor.encode(self.format)
    }
}
