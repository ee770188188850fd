//! Fast commits: logical changes after the last full commit, as tag-length-value records in the blocks at the end of the
//! journal. Little endian (unlike the rest of the journal). Kernel names: `struct ext4_fc_tl`, `EXT4_FC_TAG_*`
//! (`fs/ext4/fast_commit.h`).
//!
//! The area starts with a head. Every commit ends with a tail, whose value fills its block; its crc32c (start value
//! 0) covers all tags since the tail before it, across blocks, up to the tail's own checksum. A record never crosses
//! a block, and four bytes are always left for a padding tag.

use zerocopy::{FromBytes, IntoBytes};

use super::bytes::{field, le16, le32, put, short};
use super::csum::crc32c;
use super::extent::{Extent, RawExtent};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::units::{Ino, Lblk, Tid};

/// Bytes of a tag before its value.
#[doc(alias = "EXT4_FC_TAG_BASE_LEN")]
pub const TAG_HEADER: usize = 4;
/// Features of fast commits that are known: none exist.
#[doc(alias = "EXT4_FC_SUPPORTED_FEATURES")]
pub const SUPPORTED_FEATURES: u32 = 0;
const TAIL_VALUE: usize = 8;
const MIN_INODE: usize = 128;
const MAX_NAME: usize = 255;
const OF: Structure = Structure::FastCommit;

/// A name in a directory that a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "ext4_fc_dentry_info")]
pub struct Dentry<'a> {
    /// The directory.
    pub parent: Ino,
    /// The inode.
    pub ino: Ino,
    /// The name, 1 to 255 bytes.
    pub name: &'a [u8],
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// Blocks of an inode are mapped.
    AddRange {
        /// The inode.
        ino: Ino,
        /// The mapping.
        extent: Extent,
    },
    /// Blocks of an inode are unmapped.
    DelRange {
        /// The inode.
        ino: Ino,
        /// First logical block.
        lblk: Lblk,
        /// How many blocks.
        len: u32,
    },
    /// An inode is created with its first name.
    Create(Dentry<'a>),
    /// A name is added.
    Link(Dentry<'a>),
    /// A name is removed.
    Unlink(Dentry<'a>),
    /// An inode's new content: its slot's bytes as far as the extra fields go.
    Inode {
        /// The inode.
        ino: Ino,
        /// At least 128 bytes.
        raw: &'a [u8],
    },
    /// Nothing; fills a block.
    Pad {
        /// Bytes of value.
        len: usize,
    },
    /// End of a commit.
    Tail {
        /// The full commit that it follows up.
        tid: Tid,
        /// Checksum of the commit's records.
        crc: u32,
    },
    /// Start of the area.
    Head {
        /// Features needed to understand the records.
        features: u32,
        /// The full commit that follows.
        tid: Tid,
    },
}

/// A record where it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag<'a> {
    /// Byte offset in the block.
    pub offset: usize,
    /// Bytes with header and value.
    pub len: usize,
    /// The record.
    pub record: Record<'a>,
}

/// The records of `block`, up to the first flaw. A tail ends the block.
pub fn records(block: &[u8]) -> Records<'_> {
    Records { block, at: 0 }
}

/// Iterator over a block's records; see [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    fn read(&self) -> Result<Tag<'a>> {
        let at = self.at;
        let (Some(tag), Some(len)) = (le16(self.block, at), le16(self.block, at.saturating_add(2))) else {
            return Err(short(OF, at.saturating_add(TAG_HEADER), self.block.len()));
        };
        let from = at.saturating_add(TAG_HEADER);
        let value = match self.block.get(from..from.saturating_add(usize::from(len))) {
            Some(value) => value,
            // A tail that fills its block to the last byte claims a block more than there is.
            None if tag == 8 => self.block.get(from..).unwrap_or_default(),
            None => return Err(field(OF, "len", len.into(), at)),
        };
        let Some(record) = decode(tag, value) else {
            let known = matches!(tag, 1..=9);
            let (name, v) = if known { ("len", len) } else { ("tag", tag) };
            return Err(field(OF, name, v.into(), at));
        };
        Ok(Tag { offset: at, len: TAG_HEADER.saturating_add(usize::from(len)), record })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Tag<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at.saturating_add(TAG_HEADER) > self.block.len() {
            return None;
        }
        let tag = self.read();
        self.at = match &tag {
            Ok(Tag { record: Record::Tail { .. }, .. }) | Err(_) => self.block.len(),
            Ok(t) => t.offset.saturating_add(t.len),
        };
        Some(tag)
    }
}

fn decode(tag: u16, value: &[u8]) -> Option<Record<'_>> {
    let word = |at: usize| le32(value, at);
    let dentry = || {
        let name = value.get(8..).filter(|n| !n.is_empty() && n.len() <= MAX_NAME)?;
        Some(Dentry { parent: Ino(word(0)?), ino: Ino(word(4)?), name })
    };
    Some(match tag {
        1 if value.len() == 16 => {
            let raw = RawExtent::read_from_bytes(value.get(4..)?).ok()?;
            Record::AddRange { ino: Ino(word(0)?), extent: raw.into() }
        }
        2 if value.len() == 12 => Record::DelRange { ino: Ino(word(0)?), lblk: Lblk(word(4)?), len: word(8)? },
        3 => Record::Create(dentry()?),
        4 => Record::Link(dentry()?),
        5 => Record::Unlink(dentry()?),
        6 => Record::Inode { ino: Ino(word(0)?), raw: value.get(4..).filter(|r| r.len() >= MIN_INODE)? },
        7 => Record::Pad { len: value.len() },
        8 => Record::Tail { tid: Tid(word(0)?), crc: word(4)? },
        9 if value.len() == 8 => Record::Head { features: word(0)?, tid: Tid(word(4)?) },
        _ => return None,
    })
}

/// The value of a record, and its tag number.
fn encode(record: &Record<'_>) -> (u16, Vec<u8>) {
    let words = |w: &[u32]| w.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let dentry = |d: &Dentry<'_>| [&words(&[d.parent.0, d.ino.0])[..], d.name].concat();
    match record {
        Record::AddRange { ino, extent } => (1, [&words(&[ino.0])[..], RawExtent::from(*extent).as_bytes()].concat()),
        Record::DelRange { ino, lblk, len } => (2, words(&[ino.0, lblk.0, *len])),
        Record::Create(d) => (3, dentry(d)),
        Record::Link(d) => (4, dentry(d)),
        Record::Unlink(d) => (5, dentry(d)),
        Record::Inode { ino, raw } => (6, [&words(&[ino.0])[..], raw].concat()),
        Record::Pad { len } => (7, vec![0; *len]),
        Record::Tail { tid, crc } => (8, words(&[tid.0, *crc])),
        Record::Head { features, tid } => (9, words(&[*features, tid.0])),
    }
}

/// Follows the checksum over blocks: which commits of a fast-commit area are whole.
#[derive(Clone, Debug)]
pub struct Scanner {
    expected: Tid,
    crc: u32,
    seen: usize,
    valid: usize,
    ended: bool,
}

impl Scanner {
    /// For the records that follow up to the full commit before transaction `expected`.
    pub const fn new(expected: Tid) -> Self {
        Self { expected, crc: 0, seen: 0, valid: 0, ended: false }
    }

    /// Take the next block of the area; whether there may be more.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for unknown features; [`Error::Corrupt`] where not even the first commit is whole.
    #[doc(alias = "ext4_fc_replay_scan")]
    pub fn block(&mut self, block: &[u8]) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        if self.seen == 0 && !matches!(records(block).next(), Some(Ok(Tag { record: Record::Head { .. }, .. }))) {
            self.ended = true;
            return Ok(false);
        }
        for tag in records(block) {
            let tag = match tag {
                Ok(tag) => tag,
                Err(e) => return self.end(e),
            };
            let covered = match tag.record {
                Record::Tail { .. } => TAG_HEADER.saturating_add(4),
                _ => tag.len,
            };
            let bytes = block.get(tag.offset..tag.offset.saturating_add(covered)).unwrap_or_default();
            self.seen = self.seen.saturating_add(1);
            match tag.record {
                Record::Head { features, .. } if features & !SUPPORTED_FEATURES != 0 => {
                    let word = crate::error::FeatureWord::Compat;
                    let bits = (0..32u8).filter(|b| features >> b & 1 == 1);
                    let features = bits.map(|bit| crate::error::FeatureBit { word, bit, name: None }).collect();
                    return Err(Error::Unsupported { features });
                }
                Record::Head { tid, .. } if tid != self.expected => {
                    self.ended = true;
                    return Ok(false);
                }
                Record::Tail { tid, crc } => {
                    let computed = crc32c(self.crc, bytes);
                    self.crc = 0;
                    if tid != self.expected || crc != computed {
                        let flaw = Flaw::Checksum { of: OF, stored: crc, computed };
                        return self.end(Error::corrupt(flaw, Place::FS.offset(tag.offset as u64)));
                    }
                    self.valid = self.seen;
                }
                _ => self.crc = crc32c(self.crc, bytes),
            }
        }
        Ok(true)
    }

    fn end(&mut self, flaw: Error) -> Result<bool> {
        self.ended = true;
        if self.valid == 0 { Err(flaw) } else { Ok(false) }
    }

    /// How many records, from the start of the area, belong to whole commits: those may be replayed.
    pub const fn valid_records(&self) -> usize {
        self.valid
    }
}

/// Writes a fast-commit area: records into blocks.
#[derive(Clone, Debug)]
pub struct Writer {
    block_size: usize,
    tid: Tid,
    crc: u32,
    blocks: Vec<Vec<u8>>,
    at: usize,
}

impl Writer {
    /// An area for blocks of `block_size` bytes that follows up to the full commit before `tid`; with its head.
    pub fn new(block_size: usize, tid: Tid) -> Self {
        let mut w = Self { block_size, tid, crc: 0, blocks: vec![vec![0; block_size]], at: 0 };
        let _ = w.push(&Record::Head { features: SUPPORTED_FEATURES, tid });
        w
    }

    /// Append a record; `false` where it is longer than a block. Heads, tails and padding are the writer's own.
    #[must_use]
    pub fn push(&mut self, record: &Record<'_>) -> bool {
        let (tag, value) = encode(record);
        let len = TAG_HEADER.saturating_add(value.len());
        let Ok(value_len) = u16::try_from(value.len()) else { return false };
        if !self.make_room(len) {
            return false;
        }
        let bytes = [&tag.to_le_bytes()[..], &value_len.to_le_bytes(), &value].concat();
        self.append(&bytes);
        self.crc = crc32c(self.crc, &bytes);
        true
    }

    fn append(&mut self, bytes: &[u8]) {
        let at = self.at;
        if let Some(block) = self.blocks.last_mut() {
            put(block, at, bytes);
        }
        self.at = at.saturating_add(bytes.len());
    }

    /// Go to a new block where `len` bytes and a padding tag do not fit the current one.
    fn make_room(&mut self, len: usize) -> bool {
        if len > self.block_size.saturating_sub(TAG_HEADER) {
            return false;
        }
        let room = self.block_size.saturating_sub(TAG_HEADER).saturating_sub(self.at);
        if len > room {
            if self.at < self.block_size {
                let pad = [&7u16.to_le_bytes()[..], &(room as u16).to_le_bytes(), &vec![0; room]].concat();
                self.append(&pad);
                self.crc = crc32c(self.crc, &pad);
            }
            self.blocks.push(vec![0; self.block_size]);
            self.at = 0;
        }
        true
    }

    /// End a commit: the tail fills the block.
    #[doc(alias = "ext4_fc_write_tail")]
    pub fn commit(&mut self) {
        if !self.make_room(TAG_HEADER.saturating_add(TAIL_VALUE)) {
            return;
        }
        let fill = self.block_size.saturating_sub(self.at).saturating_sub(TAG_HEADER);
        let start = [&8u16.to_le_bytes()[..], &(fill as u16).to_le_bytes(), &self.tid.0.to_le_bytes()].concat();
        let crc = crc32c(self.crc, &start);
        self.append(&start);
        self.append(&crc.to_le_bytes());
        self.crc = 0;
        self.at = self.block_size;
    }

    /// The blocks written.
    pub fn into_blocks(self) -> Vec<Vec<u8>> {
        self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Fsblk;
    use proptest::prelude::*;

    fn all() -> Vec<Record<'static>> {
        let extent = Extent { lblk: Lblk(3), len: 4, pblk: Fsblk(0x1_0000_0005), unwritten: true };
        let d = Dentry { parent: Ino(2), ino: Ino(12), name: b"file" };
        vec![
            Record::AddRange { ino: Ino(12), extent },
            Record::DelRange { ino: Ino(12), lblk: Lblk(7), len: 9 },
            Record::Create(d),
            Record::Link(d),
            Record::Unlink(d),
            Record::Inode { ino: Ino(12), raw: &[5; 160] },
        ]
    }

    fn read(blocks: &[Vec<u8>]) -> Vec<Record<'_>> {
        blocks.iter().flat_map(|b| records(b)).map(|t| t.unwrap().record).collect()
    }

    #[test]
    fn areas_come_back() {
        for n in 1..80 {
            let mut w = Writer::new(1024, Tid(9));
            for i in 0..n {
                assert!(w.push(&all()[i % 6]));
            }
            w.commit();
            assert!(w.push(&all()[0]));
            w.commit();
            let blocks = w.into_blocks();
            let got = read(&blocks);
            let content: Vec<_> = got
                .iter()
                .filter(|r| !matches!(r, Record::Head { .. } | Record::Tail { .. } | Record::Pad { .. }))
                .copied()
                .collect();
            let want: Vec<_> = (0..n).map(|i| all()[i % 6]).chain([all()[0]]).collect();
            assert_eq!(content, want);
            let mut s = Scanner::new(Tid(9));
            for b in &blocks {
                assert!(s.block(b).unwrap());
            }
            assert_eq!(s.valid_records(), got.len());
        }
    }

    #[test]
    fn a_torn_commit_is_left_out_and_a_torn_first_one_is_an_error() {
        let mut w = Writer::new(1024, Tid(9));
        assert!(w.push(&all()[0]));
        w.commit();
        assert!(w.push(&all()[1]));
        w.commit();
        let mut blocks = w.into_blocks();
        blocks[1][6] ^= 1;
        let mut s = Scanner::new(Tid(9));
        assert!(s.block(&blocks[0]).unwrap());
        assert!(!s.block(&blocks[1]).unwrap());
        assert_eq!(s.valid_records(), 3);
        blocks[0][16] ^= 1;
        assert!(matches!(
            Scanner::new(Tid(9)).block(&blocks[0]),
            Err(Error::Corrupt { what: Flaw::Checksum { of: OF, .. }, .. })
        ));
        // Records of another transaction are old ones: nothing to replay.
        let mut s = Scanner::new(Tid(10));
        assert!(!s.block(&blocks[0]).unwrap());
        assert_eq!(s.valid_records(), 0);
        blocks[0][4] = 1;
        assert!(matches!(Scanner::new(Tid(9)).block(&blocks[0]), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn flaws_are_named() {
        let one = |tag: u16, len: u16| {
            let mut b = vec![0u8; 64];
            b[..2].copy_from_slice(&tag.to_le_bytes());
            b[2..4].copy_from_slice(&len.to_le_bytes());
            match records(&b).next().unwrap() {
                Err(Error::Corrupt { what: Flaw::Field { of: OF, field, value }, place }) => {
                    (field, value, place.offset.unwrap())
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(one(10, 4), ("tag", 10, 0));
        assert_eq!(one(0, 4), ("tag", 0, 0));
        assert_eq!(one(1, 15), ("len", 15, 0));
        assert_eq!(one(3, 8), ("len", 8, 0));
        assert_eq!(one(6, 100), ("len", 100, 0));
        assert_eq!(one(9, 61), ("len", 61, 0));
        assert!(!Writer::new(1024, Tid(1)).push(&Record::Inode { ino: Ino(1), raw: &[0; 1020] }));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(0u8..20, 0..256), head: bool) {
            if head && bytes.len() >= 12 {
                bytes[..12].copy_from_slice(&[9, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
            }
            let mut end = 0;
            for t in records(&bytes).flatten() {
                prop_assert_eq!(t.offset, end);
                end = t.offset + t.len;
            }
            let mut s = Scanner::new(Tid(1));
            let _ = s.block(&bytes);
            let _ = s.block(&bytes);
        }
    }
}
