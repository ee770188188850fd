//! Quota files: usage and limits of every user, group or project, in a radix tree. Little endian.
//! Kernel names: `struct v2_disk_dqheader`, `v2_disk_dqinfo`, `v2r1_disk_dqblk`, `qt_disk_dqdbheader` (format v2r1,
//! `QFMT_VFS_V1`).
//!
//! The file is blocks of 1 KiB, whatever the filesystem's block size. Block 0 has the header (magic number of the
//! kind, version 1) and the info (grace times, block count, free lists). Block 1 is the root of a tree of
//! four levels, 256 block numbers each, indexed by the bytes of the id from the highest down; the lowest level
//! leads to a leaf that holds the id's entry somewhere. A leaf has a header of 16 bytes and room for 14 entries of
//! 72. Leaves with room are chained from the info, as are free blocks.
//!
//! Space is in bytes; limits of space are in units of 1 KiB on disk, and in bytes here.

use std::collections::{BTreeMap, BTreeSet};

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::bytes::{field, le32, put, short};
use super::{U16, U32, U64};
use crate::error::{Error, Flaw, Place, Result, Structure};

/// Bytes of a block of the file.
#[doc(alias = "QT_BLKSIZE")]
pub const BLOCK: usize = 1024;
/// Version of the format that this library reads and writes (`v2r1`).
pub const VERSION: u32 = 1;
/// Grace time by default, seconds: a week.
pub const DEFAULT_GRACE: u32 = 7 * 24 * 3600;
/// Entries of a leaf.
pub const ENTRIES_PER_LEAF: usize = (BLOCK - size_of::<RawLeafHeader>()) / size_of::<RawEntry>();
const ROOT: u32 = 1;
const DEPTH: usize = 4;
const INFO_AT: usize = 8;
/// Unit of space limits on disk, bytes.
const LIMIT_UNIT: u64 = 1024;
const OF: Structure = Structure::Quota;

/// Whose quota a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaKind {
    /// Users.
    User,
    /// Groups.
    Group,
    /// Projects.
    Project,
}

impl QuotaKind {
    /// Magic number of the file.
    #[doc(alias = "V2_INITQMAGICS")]
    pub const fn magic(self) -> u32 {
        match self {
            Self::User => 0xd9c0_1f11,
            Self::Group => 0xd9c0_1927,
            Self::Project => 0xd9c0_3f14,
        }
    }
}

/// What block 0 says behind magic number and version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "v2_disk_dqinfo")]
pub struct QuotaInfo {
    /// Seconds that the soft limit of space may be exceeded.
    pub bgrace: U32,
    /// Seconds that the soft limit of inodes may be exceeded.
    pub igrace: U32,
    /// Flags.
    pub flags: U32,
    /// Blocks of the file.
    pub blocks: U32,
    /// First free block; 0 where there is none.
    pub free_blk: U32,
    /// First leaf with room; 0 where there is none.
    pub free_entry: U32,
}

/// A leaf's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "qt_disk_dqdbheader")]
struct RawLeafHeader {
    next_free: U32,
    prev_free: U32,
    entries: U16,
    pad1: U16,
    pad2: U32,
}

/// An entry of a leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "v2r1_disk_dqblk")]
struct RawEntry {
    id: U32,
    pad: U32,
    ihardlimit: U64,
    isoftlimit: U64,
    curinodes: U64,
    bhardlimit: U64,
    bsoftlimit: U64,
    curspace: U64,
    btime: U64,
    itime: U64,
}

const _: () = {
    assert!(size_of::<QuotaInfo>() == 24);
    assert!(size_of::<RawLeafHeader>() == 16);
    assert!(size_of::<RawEntry>() == 72);
    assert!(ENTRIES_PER_LEAF == 14);
};

/// Usage and limits of one id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct QuotaEntry {
    /// Bytes in use.
    pub space: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Soft limit of space in bytes, rounded up to 1 KiB when stored; 0 for none.
    pub space_soft: u64,
    /// Hard limit of space in bytes, rounded up to 1 KiB when stored; 0 for none.
    pub space_hard: u64,
    /// Soft limit of inodes; 0 for none.
    pub inodes_soft: u64,
    /// Hard limit of inodes; 0 for none.
    pub inodes_hard: u64,
    /// When the soft limit of space becomes hard, seconds; 0 where it is not exceeded.
    pub space_deadline: u64,
    /// When the soft limit of inodes becomes hard, seconds; 0 where it is not exceeded.
    pub inodes_deadline: u64,
}

impl QuotaEntry {
    fn from_raw(raw: &RawEntry) -> Self {
        Self {
            space: raw.curspace.get(),
            inodes: raw.curinodes.get(),
            space_soft: raw.bsoftlimit.get().saturating_mul(LIMIT_UNIT),
            space_hard: raw.bhardlimit.get().saturating_mul(LIMIT_UNIT),
            inodes_soft: raw.isoftlimit.get(),
            inodes_hard: raw.ihardlimit.get(),
            space_deadline: raw.btime.get(),
            inodes_deadline: raw.itime.get(),
        }
    }

    fn to_raw(self, id: u32) -> RawEntry {
        let mut raw = RawEntry {
            id: U32::new(id),
            pad: U32::new(0),
            ihardlimit: U64::new(self.inodes_hard),
            isoftlimit: U64::new(self.inodes_soft),
            curinodes: U64::new(self.inodes),
            bhardlimit: U64::new(self.space_hard.div_ceil(LIMIT_UNIT)),
            bsoftlimit: U64::new(self.space_soft.div_ceil(LIMIT_UNIT)),
            curspace: U64::new(self.space),
            btime: U64::new(self.space_deadline),
            itime: U64::new(self.inodes_deadline),
        };
        // An entry of zeros is a free one: that of id 0 with nothing in it is told apart by a deadline of 1.
        if raw.as_bytes().iter().all(|b| *b == 0) {
            raw.itime = U64::new(1);
        }
        raw
    }
}

/// A quota file in typed form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Grace times and flags; block count and free lists as they were read (rebuilt when encoding).
    pub info: QuotaInfo,
    /// Everything there is, by id.
    pub entries: BTreeMap<u32, QuotaEntry>,
}

impl Default for Quota {
    fn default() -> Self {
        let grace = U32::new(DEFAULT_GRACE);
        Self { info: QuotaInfo { bgrace: grace, igrace: grace, ..QuotaInfo::default() }, entries: BTreeMap::new() }
    }
}

impl Quota {
    /// Decode a whole file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where magic number or version are wrong, a block number is outside the file, a tree block
    /// is used twice, or the tree leads to a leaf that does not hold the id. Offsets are bytes of the file.
    pub fn decode(file: &[u8], kind: QuotaKind) -> Result<Self> {
        let Some(head) = file.get(..BLOCK) else { return Err(short(OF, BLOCK, file.len())) };
        let magic = le32(head, 0).unwrap_or_default();
        if magic != kind.magic() {
            return Err(Error::corrupt(Flaw::Magic { of: OF, found: magic }, Place::FS.offset(0)));
        }
        let version = le32(head, 4).unwrap_or_default();
        if version != VERSION {
            return Err(field(OF, "version", version.into(), 4));
        }
        let info = head.get(INFO_AT..).and_then(|b| QuotaInfo::read_from_prefix(b).ok()).map(|(i, _)| i);
        let info = info.ok_or_else(|| short(OF, BLOCK, file.len()))?;
        let blocks = u64::from(info.blocks.get());
        if blocks.saturating_mul(BLOCK as u64) > file.len() as u64 || blocks < 2 {
            return Err(field(OF, "blocks", blocks, 20));
        }
        for (name, block, at) in [("free_blk", info.free_blk.get(), 24), ("free_entry", info.free_entry.get(), 28)] {
            if u64::from(block) >= blocks {
                return Err(field(OF, name, block.into(), at));
            }
        }
        let mut reader = Reader { file, blocks: info.blocks.get(), trees: BTreeSet::new(), leaves: BTreeMap::new() };
        let mut entries = BTreeMap::new();
        reader.tree(ROOT, 0, 0, &mut entries)?;
        Ok(Self { info, entries })
    }

    /// The whole file: header, tree and leaves, blocks in the order in which ascending ids need them.
    pub fn encode(&self, kind: QuotaKind) -> Vec<u8> {
        let mut b = Builder { blocks: vec![[0; BLOCK]; 2] };
        let mut path: [Option<(u32, u32)>; DEPTH] = [None; DEPTH];
        let mut leaf = 0;
        let mut used = ENTRIES_PER_LEAF;
        for (id, entry) in &self.entries {
            // The lowest tree block is made (or found) first, then the leaf: as a writer that adds one id at a time.
            let mut at = ROOT;
            for (level, (known, byte)) in path.iter_mut().zip(id.to_be_bytes()).enumerate().take(DEPTH - 1) {
                let shift = 24u32.saturating_sub(8u32.saturating_mul(level as u32));
                let prefix = id >> shift;
                at = match *known {
                    Some((p, block)) if p == prefix => block,
                    _ => {
                        let block = b.add();
                        b.set_reference(at, byte, block);
                        *known = Some((prefix, block));
                        block
                    }
                };
            }
            if used == ENTRIES_PER_LEAF {
                leaf = b.add();
                used = 0;
            }
            let [.., last] = id.to_be_bytes();
            b.set_reference(at, last, leaf);
            b.set_entry(leaf, used, entry.to_raw(*id));
            used = used.saturating_add(1);
        }
        let info = QuotaInfo {
            blocks: U32::new(b.blocks.len() as u32),
            free_blk: U32::new(0),
            free_entry: U32::new(if used < ENTRIES_PER_LEAF { leaf } else { 0 }),
            ..self.info
        };
        if let Some(head) = b.blocks.first_mut() {
            put(head, 0, &kind.magic().to_le_bytes());
            put(head, 4, &VERSION.to_le_bytes());
            put(head, INFO_AT, info.as_bytes());
        }
        b.blocks.concat()
    }

    /// Put an entry in the place that `id` has in `file`; whether it has one. The rest of the file stays as it is.
    pub fn patch(file: &mut [u8], id: u32, entry: &QuotaEntry) -> bool {
        let mut block = ROOT;
        for byte in id.to_be_bytes() {
            let at = (block as usize).saturating_mul(BLOCK).saturating_add(usize::from(byte).saturating_mul(4));
            match le32(file, at) {
                Some(next) if next > ROOT => block = next,
                _ => return false,
            }
        }
        let base = (block as usize).saturating_mul(BLOCK);
        for slot in 0..ENTRIES_PER_LEAF {
            let at = base.saturating_add(entry_at(slot));
            let Some(raw) = file.get(at..).and_then(|b| RawEntry::read_from_prefix(b).ok()).map(|(raw, _)| raw) else {
                return false;
            };
            if raw.id.get() == id && raw != RawEntry::new_zeroed() {
                put(file, at, entry.to_raw(id).as_bytes());
                return true;
            }
        }
        false
    }
}

struct Builder {
    blocks: Vec<[u8; BLOCK]>,
}

impl Builder {
    fn add(&mut self) -> u32 {
        self.blocks.push([0; BLOCK]);
        (self.blocks.len() as u32).saturating_sub(1)
    }

    fn set_reference(&mut self, tree: u32, slot: u8, to: u32) {
        if let Some(block) = self.blocks.get_mut(tree as usize) {
            put(block, usize::from(slot).saturating_mul(4), &to.to_le_bytes());
        }
    }

    fn set_entry(&mut self, leaf: u32, slot: usize, entry: RawEntry) {
        if let Some(block) = self.blocks.get_mut(leaf as usize) {
            let at = entry_at(slot);
            put(block, at, entry.as_bytes());
            put(block, 8, &(slot.saturating_add(1) as u16).to_le_bytes());
        }
    }
}

const fn entry_at(slot: usize) -> usize {
    size_of::<RawLeafHeader>().saturating_add(slot.saturating_mul(size_of::<RawEntry>()))
}

struct Reader<'a> {
    file: &'a [u8],
    blocks: u32,
    /// Tree blocks seen: each has one place in the tree, so that no file can make reading longer than it is.
    trees: BTreeSet<u32>,
    /// The entries of the leaves seen.
    leaves: BTreeMap<u32, BTreeMap<u32, QuotaEntry>>,
}

impl Reader<'_> {
    fn block(&self, number: u32) -> Option<&[u8]> {
        let at = (number as usize).checked_mul(BLOCK)?;
        self.file.get(at..)?.get(..BLOCK)
    }

    fn tree(&mut self, number: u32, level: usize, prefix: u32, out: &mut BTreeMap<u32, QuotaEntry>) -> Result<()> {
        let base = (number as usize).saturating_mul(BLOCK);
        if !self.trees.insert(number) || self.leaves.contains_key(&number) {
            let detail = "a tree block is used twice";
            return Err(Error::corrupt(Flaw::Inconsistent { of: OF, detail }, Place::FS.offset(base as u64)));
        }
        let Some(block) = self.block(number) else { return Err(short(OF, base, self.file.len())) };
        let slots: Vec<u32> = super::indirect::pointers(block).collect();
        for (slot, child) in (0u32..).zip(slots) {
            if child == 0 {
                continue;
            }
            let at = base.saturating_add((slot as usize).saturating_mul(4));
            if child >= self.blocks || child <= ROOT {
                return Err(field(OF, "block", child.into(), at));
            }
            let id = (prefix << 8) | slot;
            if level.saturating_add(1) < DEPTH {
                self.tree(child, level.saturating_add(1), id, out)?;
            } else {
                let Some(entry) = self.leaf(child)?.get(&id) else {
                    let detail = "the tree leads to a leaf without the id";
                    return Err(Error::corrupt(Flaw::Inconsistent { of: OF, detail }, Place::FS.offset(at as u64)));
                };
                out.insert(id, *entry);
            }
        }
        Ok(())
    }

    fn leaf(&mut self, number: u32) -> Result<&BTreeMap<u32, QuotaEntry>> {
        let base = (number as usize).saturating_mul(BLOCK);
        if self.trees.contains(&number) {
            let detail = "a tree block is used as a leaf";
            return Err(Error::corrupt(Flaw::Inconsistent { of: OF, detail }, Place::FS.offset(base as u64)));
        }
        if !self.leaves.contains_key(&number) {
            let entries = self.read_leaf(number, base)?;
            self.leaves.insert(number, entries);
        }
        self.leaves.get(&number).ok_or_else(|| short(OF, base, self.file.len()))
    }

    fn read_leaf(&self, number: u32, base: usize) -> Result<BTreeMap<u32, QuotaEntry>> {
        let cut = || short(OF, base.saturating_add(BLOCK), self.file.len());
        let block = self.block(number).ok_or_else(cut)?;
        let (header, rest) = RawLeafHeader::read_from_prefix(block).map_err(|_| cut())?;
        let (raw, _) = <[RawEntry; ENTRIES_PER_LEAF]>::read_from_prefix(rest).map_err(|_| cut())?;
        let free = RawEntry::new_zeroed();
        let used: Vec<&RawEntry> = raw.iter().filter(|r| **r != free).collect();
        if used.len() != usize::from(header.entries.get()) {
            return Err(field(OF, "entries", header.entries.get().into(), base.saturating_add(8)));
        }
        let entries: BTreeMap<u32, QuotaEntry> = used.iter().map(|r| (r.id.get(), QuotaEntry::from_raw(r))).collect();
        if entries.len() != used.len() {
            let detail = "a leaf holds an id twice";
            return Err(Error::corrupt(Flaw::Inconsistent { of: OF, detail }, Place::FS.offset(base as u64)));
        }
        Ok(entries)
    }
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
