//! The journal's superblock: 1024 bytes at the start of the journal (on an external device: at byte 1024, behind an
//! ext4 superblock). Kernel name: `journal_superblock_t`. Big endian.

use bitflags::bitflags;
use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::bytes::{field, same_checksum, short};
use super::super::csum::crc32c;
use super::{BlockKind, DEFAULT_FC_BLOCKS, JournalCsum, JournalFormat, MAGIC};
use crate::error::{Error, FeatureBit, FeatureWord, Flaw, Place, Result, Structure};
use crate::units::Tid;

/// Size of the superblock in bytes.
pub const SUPERBLOCK_SIZE: usize = 1024;
/// Users (filesystems) that an external journal can have.
const MAX_USERS: usize = 48;
/// crc32c, as the checksum type says it.
const CRC32C: u8 = 4;
const OF: Structure = Structure::JournalSuperblock;

bitflags! {
    /// `s_feature_compat`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct JournalCompat: u32 {
        /// Checksums v1.
        const CHECKSUM = 1;
        const _ = !0;
    }
}

bitflags! {
    /// `s_feature_incompat`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct JournalIncompat: u32 {
        /// Holds revocations.
        const REVOKE = 1;
        /// 64-bit block numbers.
        const BIT64 = 2;
        /// A commit block may reach the disk before what it commits.
        const ASYNC_COMMIT = 4;
        /// Checksums v2.
        const CSUM_V2 = 8;
        /// Checksums v3.
        const CSUM_V3 = 0x10;
        /// Has fast-commit blocks at its end.
        const FAST_COMMIT = 0x20;
        const _ = !0;
    }
}

impl JournalIncompat {
    /// The bits that this library handles.
    pub const SUPPORTED: Self = Self::REVOKE
        .union(Self::BIT64)
        .union(Self::ASYNC_COMMIT)
        .union(Self::CSUM_V2)
        .union(Self::CSUM_V3)
        .union(Self::FAST_COMMIT);
}

/// The superblock's bytes.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "journal_superblock_t")]
pub struct JournalSuperblock {
    /// [`MAGIC`].
    pub magic: U32,
    /// [`BlockKind::SuperblockV1`] or [`BlockKind::SuperblockV2`].
    pub blocktype: U32,
    /// Sequence of the header; unused.
    pub header_sequence: U32,
    /// Block size of the journal in bytes.
    pub blocksize: U32,
    /// Blocks of the journal.
    pub maxlen: U32,
    /// First block of the ring.
    pub first: U32,
    /// The first transaction expected in the log.
    pub sequence: U32,
    /// Block where the log starts; 0 where the journal is empty.
    pub start: U32,
    /// Error of an aborted journal (negative errno, as two's complement).
    pub errno: U32,
    /// Compatible features.
    pub feature_compat: U32,
    /// Incompatible features.
    pub feature_incompat: U32,
    /// Read-only compatible features; none exist.
    pub feature_ro_compat: U32,
    /// UUID of the journal: of the filesystem where it is internal.
    pub uuid: [u8; 16],
    /// Filesystems that use the journal.
    pub nr_users: U32,
    /// Block of a copy of the superblock (unused).
    pub dynsuper: U32,
    /// Limit of journal blocks per transaction (unused).
    pub max_transaction: U32,
    /// Limit of data blocks per transaction (unused).
    pub max_trans_data: U32,
    /// Checksum algorithm of v2 and v3: 4 is crc32c.
    pub checksum_type: u8,
    /// Padding; kept.
    pub padding2: [u8; 3],
    /// Fast-commit blocks at the end of the journal; 0 stands for 256.
    pub num_fc_blks: U32,
    /// Block where the next transaction goes, in an empty journal.
    pub head: U32,
    /// Padding; kept.
    pub padding: [U32; 40],
    /// crc32c of the superblock with this field as 0 (v2, v3).
    pub checksum: U32,
    /// UUIDs of the filesystems that use the journal.
    pub users: [[u8; 16]; MAX_USERS],
}

const _: () = {
    assert!(size_of::<JournalSuperblock>() == SUPERBLOCK_SIZE);
    assert!(std::mem::offset_of!(JournalSuperblock, feature_compat) == 0x24);
    assert!(std::mem::offset_of!(JournalSuperblock, uuid) == 0x30);
    assert!(std::mem::offset_of!(JournalSuperblock, checksum_type) == 0x50);
    assert!(std::mem::offset_of!(JournalSuperblock, head) == 0x58);
    assert!(std::mem::offset_of!(JournalSuperblock, checksum) == 0xfc);
    assert!(std::mem::offset_of!(JournalSuperblock, users) == 0x100);
};

impl std::fmt::Debug for JournalSuperblock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JournalSuperblock")
            .field("blocktype", &self.blocktype.get())
            .field("blocksize", &self.blocksize.get())
            .field("maxlen", &self.maxlen.get())
            .field("first", &self.first.get())
            .field("sequence", &self.sequence.get())
            .field("start", &self.start.get())
            .field("errno", &self.error())
            .field("compat", &self.compat())
            .field("incompat", &self.incompat())
            .finish_non_exhaustive()
    }
}

impl JournalSuperblock {
    /// A version 2 superblock of an empty journal of `maxlen` blocks, the log from block 1, used by one filesystem.
    pub fn new(block_size: u32, maxlen: u32, uuid: [u8; 16]) -> Self {
        let mut sb = Self::new_zeroed();
        sb.magic = U32::new(MAGIC);
        sb.blocktype = U32::new(BlockKind::SuperblockV2.code());
        sb.blocksize = U32::new(block_size);
        sb.maxlen = U32::new(maxlen);
        sb.first = U32::new(1);
        sb.sequence = U32::new(1);
        sb.nr_users = U32::new(1);
        sb.uuid = uuid;
        sb
    }

    /// Decode `bytes` (at least 1024): magic number, version and, where there is one, the checksum are verified.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let sb = Self::decode_unchecked(bytes)?;
        if sb.magic.get() != MAGIC {
            return Err(Error::corrupt(Flaw::Magic { of: OF, found: sb.magic.get() }, Place::FS.offset(0)));
        }
        match BlockKind::from_code(sb.blocktype.get()) {
            Some(BlockKind::SuperblockV1 | BlockKind::SuperblockV2) => (),
            _ => return Err(field(OF, "blocktype", sb.blocktype.get().into(), 4)),
        }
        sb.verify_checksum()?;
        Ok(sb)
    }

    /// Decode `bytes` as they are.
    pub fn decode_unchecked(bytes: &[u8]) -> Result<Self> {
        Self::read_from_prefix(bytes).map(|(sb, _)| sb).map_err(|_| short(OF, SUPERBLOCK_SIZE, bytes.len()))
    }

    /// The bytes to store, with the checksum brought up to date where the journal has one.
    pub fn encode(&self) -> [u8; SUPERBLOCK_SIZE] {
        let mut sb = self.clone();
        sb.update_checksum();
        zerocopy::transmute!(sb)
    }

    /// Compatible features; none in version 1.
    pub fn compat(&self) -> JournalCompat {
        JournalCompat::from_bits_retain(if self.has_features() { self.feature_compat.get() } else { 0 })
    }

    /// Incompatible features; none in version 1.
    pub fn incompat(&self) -> JournalIncompat {
        JournalIncompat::from_bits_retain(if self.has_features() { self.feature_incompat.get() } else { 0 })
    }

    /// Store the features, with the checksum type that they need.
    pub fn set_features(&mut self, compat: JournalCompat, incompat: JournalIncompat) {
        self.feature_compat = U32::new(compat.bits());
        self.feature_incompat = U32::new(incompat.bits());
        let crc32c = incompat.intersects(JournalIncompat::CSUM_V2 | JournalIncompat::CSUM_V3);
        self.checksum_type = if crc32c { CRC32C } else { 0 };
    }

    fn has_features(&self) -> bool {
        self.blocktype.get() == BlockKind::SuperblockV2.code()
    }

    fn has_checksum(&self) -> bool {
        self.incompat().intersects(JournalIncompat::CSUM_V2 | JournalIncompat::CSUM_V3)
    }

    /// The checksum that the superblock should have.
    #[doc(alias = "jbd2_superblock_csum")]
    pub fn computed_checksum(&self) -> u32 {
        let mut sb = self.clone();
        sb.checksum = U32::new(0);
        crc32c(!0, sb.as_bytes())
    }

    /// Compare the stored checksum, where the journal has one.
    pub fn verify_checksum(&self) -> Result<()> {
        if !self.has_checksum() {
            return Ok(());
        }
        same_checksum(OF, self.checksum.get(), self.computed_checksum())
    }

    /// Bring the checksum up to date, where the journal has one.
    pub fn update_checksum(&mut self) {
        if self.has_checksum() {
            self.checksum = U32::new(self.computed_checksum());
        }
    }

    /// Seed of checksums v2 and v3.
    pub fn csum_seed(&self) -> u32 {
        crc32c(!0, &self.uuid)
    }

    /// How the journal's blocks look. Fails on features that this library does not know, and where both kinds of
    /// crc32c checksums, or an unknown algorithm, are claimed.
    pub fn format(&self) -> Result<JournalFormat> {
        let incompat = self.incompat();
        let unknown = incompat.difference(JournalIncompat::SUPPORTED).bits();
        let ro = if self.has_features() { self.feature_ro_compat.get() } else { 0 };
        if unknown != 0 || ro != 0 {
            let bits = |word, v: u32| {
                (0..32u8).filter(move |b| v >> b & 1 == 1).map(move |bit| FeatureBit { word, bit, name: None })
            };
            let features = bits(FeatureWord::Incompat, unknown).chain(bits(FeatureWord::RoCompat, ro)).collect();
            return Err(Error::Unsupported { features });
        }
        let (v2, v3) = (incompat.contains(JournalIncompat::CSUM_V2), incompat.contains(JournalIncompat::CSUM_V3));
        if v2 && v3 {
            let detail = "two kinds of checksums";
            return Err(Error::corrupt(Flaw::Inconsistent { of: OF, detail }, Place::FS.offset(0x28)));
        }
        if (v2 || v3) && self.checksum_type != CRC32C {
            return Err(field(OF, "checksum_type", self.checksum_type.into(), 0x50));
        }
        let csum = if v3 {
            JournalCsum::V3(self.csum_seed())
        } else if v2 {
            JournalCsum::V2(self.csum_seed())
        } else if self.compat().contains(JournalCompat::CHECKSUM) {
            JournalCsum::V1
        } else {
            JournalCsum::None
        };
        let bits64 = incompat.contains(JournalIncompat::BIT64);
        Ok(JournalFormat { block_size: self.blocksize.get() as usize, bits64, csum })
    }

    /// Check geometry against the journal's block size and `blocks` that the file (or device) really has.
    pub fn validate(&self, block_size: u32, blocks: u64) -> Result<()> {
        let maxlen = self.maxlen.get();
        let checks = [
            ("blocksize", self.blocksize.get(), 12, self.blocksize.get() == block_size),
            ("maxlen", maxlen, 16, u64::from(maxlen) <= blocks && maxlen > 2),
            ("first", self.first.get(), 20, self.first.get() != 0 && self.first.get() < self.log_end()),
            ("start", self.start.get(), 28, self.start.get() < self.log_end()),
            ("num_fc_blks", self.num_fc_blks.get(), 0x54, self.fc_blocks() < maxlen),
            ("nr_users", self.nr_users.get(), 0x40, self.nr_users.get() as usize <= MAX_USERS),
        ];
        match checks.iter().find(|c| !c.3) {
            Some((name, value, at, _)) => Err(field(OF, name, u64::from(*value), *at)),
            None => Ok(()),
        }
    }

    /// Fast-commit blocks at the end of the journal; 0 without `fast_commit`.
    #[doc(alias = "jbd2_journal_get_num_fc_blks")]
    pub fn fc_blocks(&self) -> u32 {
        match (self.incompat().contains(JournalIncompat::FAST_COMMIT), self.num_fc_blks.get()) {
            (false, _) => 0,
            (true, 0) => DEFAULT_FC_BLOCKS,
            (true, n) => n,
        }
    }

    /// The block after the ring: the log uses blocks `first..log_end`, fast commits [`Self::fc_range`].
    #[doc(alias = "j_last")]
    pub fn log_end(&self) -> u32 {
        self.maxlen.get().saturating_sub(self.fc_blocks())
    }

    /// The blocks of fast commits; empty without `fast_commit`. The block between the ring and them is not used.
    #[doc(alias = "j_fc_first")]
    pub fn fc_range(&self) -> std::ops::Range<u32> {
        match self.fc_blocks() {
            0 => self.maxlen.get()..self.maxlen.get(),
            _ => self.log_end().saturating_add(1)..self.maxlen.get(),
        }
    }

    /// The first transaction expected.
    pub fn sequence(&self) -> Tid {
        Tid(self.sequence.get())
    }

    /// Whether the journal is empty: nothing to recover (but fast commits are not looked at).
    pub fn is_empty(&self) -> bool {
        self.start.get() == 0
    }

    /// Error of an aborted journal: a negative errno, or 0.
    pub fn error(&self) -> i32 {
        self.errno.get() as i32
    }

    /// Store where the log starts (`None`: empty) and which transaction is next.
    pub fn set_log(&mut self, start: Option<u32>, sequence: Tid) {
        self.start = U32::new(start.unwrap_or(0));
        self.sequence = U32::new(sequence.0);
    }

    /// Store the error of an aborted journal.
    pub fn set_error(&mut self, errno: i32) {
        self.errno = U32::new(errno as u32);
    }

    /// UUIDs of the filesystems that use the journal.
    pub fn user_uuids(&self) -> &[[u8; 16]] {
        self.users.get(..self.nr_users.get() as usize).unwrap_or(&self.users)
    }
}
