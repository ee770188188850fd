//! The index of a hashed directory: a root in logical block 0 and up to two levels of nodes. Little endian.
//! Kernel names: `struct dx_root`, `dx_node`, `dx_countlimit`, `dx_entry`, `dx_tail`.
//!
//! To a reader that knows no index, the root is a block with `.` and `..` (whose `rec_len` covers the rest), and a
//! node is one unused entry. Behind that come 8-byte entries (hash, logical block) in ascending order of hash. The
//! first entry's hash field holds `limit` (room for entries) and `count` instead: it stands for hash 0. With
//! `metadata_csum` the last 8 bytes that entries could use hold a checksum, right behind entry `limit`.
//!
//! The lowest bit of an entry's hash says that the leaf before it ends with the same hash (a collision chain).

use super::bytes::{array, field, le16, le32, put, same_checksum, short};
use super::csum::crc32c;
use super::dirent::{raw_rec_len, rec_len_to_disk};
use super::dirhash::HashVersion;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::units::{Ino, Lblk};

/// Where the entries of the root start, bytes.
const ROOT_ENTRIES: usize = 32;
/// Where the entries of other nodes start, bytes.
const NODE_ENTRIES: usize = 8;
/// Bytes of an entry.
const ENTRY: usize = 8;
/// Bytes of the checksum tail: reserved, checksum.
const TAIL: usize = 8;
/// Bits of an entry's block that are a block number.
#[doc(alias = "dx_get_block")]
const BLOCK_MASK: u32 = 0x0fff_ffff;
/// Length of the root's information, bytes.
const INFO_LEN: u8 = 8;
/// Offset of the root's information: reserved (le32), hash version, length, levels, flags.
const INFO_AT: usize = 24;
const OF: Structure = Structure::HtreeNode;

/// What decides how much an index block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HtreeFormat {
    /// Block size in bytes.
    pub block_size: usize,
    /// Blocks carry checksums (`metadata_csum`).
    pub checksums: bool,
    /// Directory entries carry their hash (encrypted and case-insensitive directory).
    pub hash_in_entry: bool,
    /// Three levels are allowed (`large_dir`).
    pub large_dir: bool,
}

impl HtreeFormat {
    /// Entries that the root has room for.
    #[doc(alias = "dx_root_limit")]
    pub const fn root_limit(self) -> u16 {
        self.limit(ROOT_ENTRIES)
    }

    /// Entries that a node below the root has room for.
    #[doc(alias = "dx_node_limit")]
    pub const fn node_limit(self) -> u16 {
        // The kernel sizes the fake entry of a node like a real one, with room for a hash that is not there.
        self.limit(if self.hash_in_entry { NODE_ENTRIES.saturating_add(8) } else { NODE_ENTRIES })
    }

    const fn limit(self, start: usize) -> u16 {
        let tail = if self.checksums { TAIL } else { 0 };
        (self.block_size.saturating_sub(start).saturating_sub(tail) / ENTRY) as u16
    }

    /// The highest `indirect_levels`: 1, or 2 with `large_dir`.
    #[doc(alias = "ext4_dir_htree_level")]
    pub const fn max_indirect_levels(self) -> u8 {
        if self.large_dir { 2 } else { 1 }
    }
}

/// An entry of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DxEntry {
    /// Lowest hash below; bit 0 marks a continued chain. 0 in the first entry.
    pub hash: u32,
    /// The stored block word; see [`DxEntry::lblk`].
    pub block: u32,
}

impl DxEntry {
    /// An entry for the names with `hash` and above, in the directory's block `lblk`.
    pub const fn new(hash: u32, lblk: Lblk) -> Self {
        Self { hash, block: lblk.0 }
    }

    /// The logical block of the directory where the node or leaf is.
    pub const fn lblk(self) -> Lblk {
        Lblk(self.block & BLOCK_MASK)
    }

    /// Whether the leaf before continues with the same hash here.
    pub const fn is_continuation(self) -> bool {
        self.hash & 1 == 1
    }
}

/// What the root says beside its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "dx_root_info")]
pub struct RootInfo {
    /// Inode of `.`.
    pub dot: Ino,
    /// Inode of `..`.
    pub dotdot: Ino,
    /// The hash function, as stored (without signedness).
    pub hash_version: HashVersion,
    /// Levels of nodes between root and leaves.
    pub indirect_levels: u8,
    /// Flags; none are known, and bit 0 makes the directory unusable.
    pub unused_flags: u8,
}

/// A block of the index in typed form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DxNode {
    /// The root's information; `None` in other nodes.
    pub root: Option<RootInfo>,
    /// Room for entries, as stored.
    pub limit: u16,
    /// The entries, at least one; the first has hash 0.
    pub entries: Vec<DxEntry>,
}

impl DxNode {
    /// Decode the root (logical block 0). Checks the fake entries, the information, that `limit` is what the block
    /// has room for, 1 ≤ count ≤ limit, and that hashes ascend. The checksum and block numbers are the caller's.
    pub fn decode_root(block: &[u8], format: HtreeFormat) -> Result<Self> {
        if block.len() < ROOT_ENTRIES.saturating_add(ENTRY) {
            return Err(short(OF, ROOT_ENTRIES, block.len()));
        }
        let names = (array::<4>(block, 8), array::<4>(block, 20));
        if names != (Some(*b".\0\0\0"), Some(*b"..\0\0"))
            || (le16_at(block, 6) & 0xff, le16_at(block, 18) & 0xff) != (1, 2)
        {
            let detail = "the root does not start with . and ..";
            return Err(Error::corrupt(Flaw::Inconsistent { of: OF, detail }, Place::FS.offset(0)));
        }
        for (at, want) in [(0, 12), (12, block.len().saturating_sub(12))] {
            let rec_len = raw_rec_len(block, at).unwrap_or_default();
            if rec_len != want {
                return Err(field(OF, "rec_len", rec_len as u64, at));
            }
        }
        let reserved = le32(block, INFO_AT).unwrap_or_default();
        let [version, info_len, levels, flags] = array(block, INFO_AT.saturating_add(4)).unwrap_or_default();
        let Some(hash_version) = HashVersion::from_code(version).filter(|v| v.disk_code() == version) else {
            return Err(field(OF, "hash_version", version.into(), 28));
        };
        let checks = [
            ("reserved_zero", u64::from(reserved), 24, reserved == 0),
            ("info_length", info_len.into(), 29, info_len == INFO_LEN),
            ("unused_flags", flags.into(), 31, flags & 1 == 0),
        ];
        for (name, value, at, good) in checks {
            if !good {
                return Err(field(OF, name, value, at));
            }
        }
        if levels > format.max_indirect_levels() {
            let flaw = Flaw::TooDeep { of: OF, depth: u32::from(levels) };
            return Err(Error::corrupt(flaw, Place::FS.offset(30)));
        }
        let root = RootInfo {
            dot: Ino(le32(block, 0).unwrap_or_default()),
            dotdot: Ino(le32(block, 12).unwrap_or_default()),
            hash_version,
            indirect_levels: levels,
            unused_flags: flags,
        };
        let (limit, entries) = decode_entries(block, ROOT_ENTRIES, format.root_limit())?;
        Ok(Self { root: Some(root), limit, entries })
    }

    /// Decode a node below the root, with the same checks.
    pub fn decode_node(block: &[u8], format: HtreeFormat) -> Result<Self> {
        if block.len() < NODE_ENTRIES.saturating_add(ENTRY) {
            return Err(short(OF, NODE_ENTRIES, block.len()));
        }
        let ino = le32(block, 0).unwrap_or_default();
        if ino != 0 {
            return Err(field(OF, "inode", ino.into(), 0));
        }
        let rec_len = raw_rec_len(block, 0).unwrap_or_default();
        if rec_len != block.len() {
            return Err(field(OF, "rec_len", rec_len as u64, 0));
        }
        let (limit, entries) = decode_entries(block, NODE_ENTRIES, format.node_limit())?;
        Ok(Self { root: None, limit, entries })
    }

    /// A root with `entries` (at least one, at most [`HtreeFormat::root_limit`]; the first hash is ignored).
    pub fn new_root(info: RootInfo, entries: Vec<DxEntry>, format: HtreeFormat) -> Self {
        Self { root: Some(info), limit: format.root_limit(), entries }
    }

    /// A node below the root with `entries` (at least one, at most [`HtreeFormat::node_limit`]).
    pub fn new_node(entries: Vec<DxEntry>, format: HtreeFormat) -> Self {
        Self { root: None, limit: format.node_limit(), entries }
    }

    /// Write the node over `block`, as many entries as fit; bytes behind the entries in use are left alone, and so
    /// are the types of `.` and `..` in an old root. In a block of zeros the directory type is stored
    /// where `filetype`. The checksum is the caller's to renew ([`stamp`]).
    pub fn encode_into(&self, block: &mut [u8], filetype: bool) {
        let len = block.len();
        let start = if let Some(info) = &self.root {
            let code = |old: Option<&u8>| match old {
                Some(0) | None => u8::from(filetype).saturating_mul(2),
                Some(v) => *v,
            };
            let (dot_type, dotdot_type) = (code(block.get(7)), code(block.get(19)));
            put(block, 0, &info.dot.0.to_le_bytes());
            put(block, 4, &[12, 0, 1, dot_type, b'.', 0, 0, 0]);
            put(block, 12, &info.dotdot.0.to_le_bytes());
            put(block, 16, &rec_len_to_disk(len.saturating_sub(12) & !3, len).to_le_bytes());
            put(block, 18, &[2, dotdot_type, b'.', b'.', 0, 0, 0, 0, 0, 0]);
            put(block, 28, &[info.hash_version.disk_code(), INFO_LEN, info.indirect_levels, info.unused_flags]);
            ROOT_ENTRIES
        } else {
            put(block, 0, &[0; 4]);
            put(block, 4, &rec_len_to_disk(len & !3, len).to_le_bytes());
            NODE_ENTRIES
        };
        let count = self.entries.len().min(usize::from(self.limit)) as u16;
        let slots = block.get_mut(start..).unwrap_or_default().chunks_exact_mut(ENTRY);
        for (i, (slot, e)) in slots.zip(self.entries.iter().take(usize::from(count))).enumerate() {
            if i == 0 {
                put(slot, 0, &self.limit.to_le_bytes());
                put(slot, 2, &count.to_le_bytes());
            } else {
                put(slot, 0, &e.hash.to_le_bytes());
            }
            put(slot, 4, &e.block.to_le_bytes());
        }
    }

    /// The place among the entries where `hash` belongs: the last one whose hash is not above it.
    #[doc(alias = "dx_probe")]
    pub fn position(&self, hash: u32) -> usize {
        self.entries.partition_point(|e| e.hash <= hash).saturating_sub(1)
    }
}

fn le16_at(block: &[u8], at: usize) -> u16 {
    le16(block, at).unwrap_or_default()
}

fn decode_entries(block: &[u8], start: usize, expected: u16) -> Result<(u16, Vec<DxEntry>)> {
    let (limit, count) = (le16_at(block, start), le16_at(block, start.saturating_add(2)));
    if limit != expected {
        return Err(field(OF, "limit", limit.into(), start));
    }
    if count == 0 || count > limit {
        return Err(field(OF, "count", count.into(), start.saturating_add(2)));
    }
    let slots = block.get(start..).unwrap_or_default().chunks_exact(ENTRY);
    let entries: Vec<DxEntry> = slots
        .take(usize::from(count))
        .enumerate()
        .map(|(i, slot)| DxEntry {
            hash: if i == 0 { 0 } else { le32(slot, 0).unwrap_or_default() },
            block: le32(slot, 4).unwrap_or_default(),
        })
        .collect();
    if entries.len() < usize::from(count) {
        return Err(field(OF, "limit", limit.into(), start));
    }
    if let Some(i) = entries.windows(2).position(|w| matches!(w, [a, b] if b.hash < a.hash)) {
        let at = start.saturating_add(i.saturating_add(1).saturating_mul(ENTRY));
        return Err(Error::corrupt(Flaw::Order { of: OF }, Place::FS.offset(at as u64)));
    }
    Ok((limit, entries))
}

/// Where the count and limit of an index block are, by what its fake entries look like; `None` for a block that
/// is not part of an index.
#[doc(alias = "get_dx_countlimit")]
fn entries_offset(block: &[u8]) -> Option<usize> {
    let first = raw_rec_len(block, 0)?;
    if first == block.len() {
        return Some(NODE_ENTRIES);
    }
    let root = first == 12
        && raw_rec_len(block, 12)? == block.len().checked_sub(12)?
        && le32(block, INFO_AT)? == 0
        && *block.get(INFO_AT.checked_add(5)?)? == INFO_LEN;
    root.then_some(ROOT_ENTRIES)
}

/// The stored and the right checksum of an index block, with the directory's inode seed, and where it is stored.
#[doc(alias = "ext4_dx_csum")]
fn checksum(block: &[u8], inode_seed: u32) -> Option<(u32, u32, usize)> {
    let start = entries_offset(block)?;
    let (limit, count) = (le16(block, start)?, le16(block, start.checked_add(2)?)?);
    if count > limit {
        return None;
    }
    let tail = start.checked_add(usize::from(limit).checked_mul(ENTRY)?)?;
    let used = start.checked_add(usize::from(count).checked_mul(ENTRY)?)?;
    let at = tail.checked_add(4)?;
    let crc = crc32c(inode_seed, block.get(..used)?);
    let crc = crc32c(crc, block.get(tail..at)?);
    Some((le32(block, at)?, crc32c(crc, &[0; 4]), at))
}

/// The stored checksum of an index block; `None` where it has no room for one.
pub fn stored_checksum(block: &[u8]) -> Option<u32> {
    checksum(block, 0).map(|(stored, ..)| stored)
}

/// Compare the checksum of an index block (root or node). A block without room for the checksum is a flaw too.
#[doc(alias = "ext4_dx_csum_verify")]
pub fn verify(block: &[u8], inode_seed: u32) -> Result<()> {
    match checksum(block, inode_seed) {
        Some((stored, computed, _)) => same_checksum(OF, stored, computed),
        None => Err(Error::corrupt(Flaw::Inconsistent { of: OF, detail: "no room for a checksum" }, Place::FS)),
    }
}

/// Bring the checksum of an index block up to date, where it has room for one.
#[doc(alias = "ext4_dx_csum_set")]
pub fn stamp(block: &mut [u8], inode_seed: u32) {
    if let Some((_, crc, at)) = checksum(block, inode_seed) {
        put(block, at, &crc.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const F: HtreeFormat = HtreeFormat { block_size: 1024, checksums: true, hash_in_entry: false, large_dir: false };
    const INFO: RootInfo = RootInfo {
        dot: Ino(12),
        dotdot: Ino(2),
        hash_version: HashVersion::HalfMd4,
        indirect_levels: 1,
        unused_flags: 0,
    };

    fn some(n: u32) -> Vec<DxEntry> {
        (0..n).map(|i| DxEntry::new(i * 1000, Lblk(i + 1))).collect()
    }

    #[test]
    fn limits_are_the_kernels() {
        // What mke2fs and the kernel make: 4 KiB blocks hold 507 and 510 entries with checksums, 508 and 511 without.
        let f = HtreeFormat { block_size: 4096, ..F };
        assert_eq!((f.root_limit(), f.node_limit()), (507, 510));
        let plain = HtreeFormat { checksums: false, ..f };
        assert_eq!((plain.root_limit(), plain.node_limit()), (508, 511));
        let hashed = HtreeFormat { hash_in_entry: true, ..f };
        assert_eq!((hashed.root_limit(), hashed.node_limit()), (507, 509));
    }

    #[test]
    fn nodes_come_back() {
        for size in [1024, 4096, 65536] {
            let f = HtreeFormat { block_size: size, ..F };
            for n in [1, 2, u32::from(f.root_limit())] {
                let mut block = vec![0; size];
                let root = DxNode::new_root(INFO, some(n), f);
                root.encode_into(&mut block, true);
                stamp(&mut block, 9);
                verify(&block, 9).unwrap();
                assert!(verify(&block, 8).is_err());
                assert_eq!(DxNode::decode_root(&block, f).unwrap(), root);
                assert!(DxNode::decode_node(&block, f).is_err());
                assert_eq!((block[7], block[19]), (2, 2));
                let mut block = vec![0; size];
                let node = DxNode::new_node(some(n), f);
                node.encode_into(&mut block, true);
                stamp(&mut block, 9);
                verify(&block, 9).unwrap();
                assert_eq!(DxNode::decode_node(&block, f).unwrap(), node);
                assert!(DxNode::decode_root(&block, f).is_err());
            }
        }
    }

    #[test]
    fn bytes_that_are_not_entries_survive() {
        let mut block = vec![0xee; 1024];
        DxNode::new_root(INFO, some(3), F).encode_into(&mut block, true);
        let old = block.clone();
        DxNode::decode_root(&block, F).unwrap().encode_into(&mut block, true);
        assert_eq!(block, old);
        assert!(block[32 + 24..].iter().all(|b| *b == 0xee));
    }

    #[test]
    fn positions() {
        let node = DxNode::new_node(some(4), F);
        for (hash, at) in [(0, 0), (999, 0), (1000, 1), (2999, 2), (u32::MAX, 3)] {
            assert_eq!(node.position(hash), at);
        }
    }

    #[test]
    fn flaws_are_named() {
        let mut good = vec![0; 1024];
        DxNode::new_root(INFO, some(5), F).encode_into(&mut good, true);
        let root = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut block = good.clone();
            change(&mut block);
            match DxNode::decode_root(&block, F) {
                Err(Error::Corrupt { what, place }) => (what, place.offset),
                other => panic!("{other:?}"),
            }
        };
        let is_field = |(flaw, at): (Flaw, Option<u64>), name, want| {
            assert!(matches!(flaw, Flaw::Field { of: OF, field, .. } if field == name), "{name}: {flaw:?}");
            assert_eq!(at, Some(want));
        };
        is_field(root(&|b| b[4] = 16), "rec_len", 0);
        is_field(root(&|b| b[16] = 0), "rec_len", 12);
        is_field(root(&|b| b[24] = 1), "reserved_zero", 24);
        is_field(root(&|b| b[28] = 4), "hash_version", 28);
        is_field(root(&|b| b[29] = 12), "info_length", 29);
        is_field(root(&|b| b[31] = 1), "unused_flags", 31);
        is_field(root(&|b| b[32] += 1), "limit", 32);
        is_field(root(&|b| b[34] = 0), "count", 34);
        is_field(root(&|b| b[34] = 255), "count", 34);
        assert_eq!(root(&|b| b[30] = 2), (Flaw::TooDeep { of: OF, depth: 2 }, Some(30)));
        assert_eq!(root(&|b| b[51] = 0xff), (Flaw::Order { of: OF }, Some(56)));
        assert!(matches!(root(&|b| b[8] = b'x').0, Flaw::Inconsistent { .. }));
        let mut deep = good.clone();
        deep[30] = 2;
        assert!(DxNode::decode_root(&deep, HtreeFormat { large_dir: true, ..F }).is_ok());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..1200), real: bool) {
            if real && bytes.len() >= 64 {
                let n = bytes.len() & !3;
                bytes.truncate(n);
                let keep = bytes[28..].to_vec();
                DxNode::new_root(INFO, some(1), F).encode_into(&mut bytes, true);
                bytes[32..].copy_from_slice(&keep[4..]);
            }
            let f = HtreeFormat { block_size: bytes.len(), ..F };
            let _ = DxNode::decode_root(&bytes, f);
            let _ = DxNode::decode_node(&bytes, f);
            let _ = verify(&bytes, 0);
            stamp(&mut bytes, 0);
        }
    }
}
