//! The index of a hashed directory, with the leaves it leads to.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde::Serialize;

use super::page::Page;
use super::text::Name;
use super::{Damage, View};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::casefold;
use crate::format::dirent;
use crate::format::dirhash::{DirHash, DirHasher};
use crate::format::htree::{DxEntry, DxNode, stored_checksum};
use crate::format::inode::InodeFlags;
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::{Owner, Volume};

/// A block of the index.
#[derive(Debug, Serialize)]
pub struct HtreeNode {
    /// Levels above it; 0 for the root.
    pub level: u8,
    /// Logical block.
    pub lblk: Lblk,
    /// Block.
    pub block: Fsblk,
    /// Room for entries.
    pub limit: u16,
    /// Stored checksum, with metadata_csum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<u32>,
    /// The entries.
    pub entries: Vec<DxEntry>,
    /// What the entries lead to, in order; empty where they lead to leaves that could not be read.
    pub children: Vec<HtreeChild>,
}

/// What an entry of the index leads to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HtreeChild {
    /// Another block of the index.
    Node(HtreeNode),
    /// A block of names.
    Leaf(HtreeLeaf),
}

/// A block of names.
#[derive(Debug, Serialize)]
pub struct HtreeLeaf {
    /// Logical block.
    pub lblk: Lblk,
    /// Block.
    pub block: Fsblk,
    /// Stored checksum, with metadata_csum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<u32>,
    /// The names in disk order.
    pub entries: Vec<LeafEntry>,
}

/// A name with its hash.
#[derive(Debug, Serialize)]
pub struct LeafEntry {
    /// Inode.
    pub ino: Ino,
    /// The name.
    #[serde(flatten)]
    pub name: Name,
    /// Its hash; `None` where a key would be needed.
    pub hash: Option<DirHash>,
    /// Length of the record in bytes.
    pub rec_len: usize,
    /// The hash is outside the range that the index has for the leaf.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub misplaced: bool,
}

/// The index of a directory.
#[derive(Debug, Serialize)]
pub struct HtreeView {
    /// The directory.
    pub ino: Ino,
    /// The hash function, as the root has it.
    pub hash_version: &'static str,
    /// The function's number on disk.
    pub hash_code: u8,
    /// Levels of nodes between the root and the leaves.
    pub indirect_levels: u8,
    /// Flags of the root.
    pub flags: u8,
    /// The root.
    pub root: HtreeNode,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

struct Walk<'a> {
    volume: &'a Volume,
    owner: Owner<'a>,
    hasher: Option<DirHasher>,
    levels: u8,
    seen: BTreeSet<Lblk>,
    damage: Vec<Damage>,
}

impl HtreeView {
    /// The index of a directory.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a directory without one; a root that is damaged.
    pub fn new(volume: &Volume, owner: Owner<'_>) -> Result<Self> {
        if !owner.inode.flags().contains(InodeFlags::INDEX) || owner.inode.flags().contains(InodeFlags::INLINE_DATA) {
            return Err(Error::InvalidArgument {
                name: "directory",
                value: format!("<{}>", owner.ino),
                allowed: "a hash-indexed directory",
            });
        }
        let place = Place::inode(owner.ino).in_lblk(Lblk(0));
        let missing = Flaw::Inconsistent { of: Structure::HtreeNode, detail: "the root is in a hole" };
        let (block, bytes) = volume.file_block(owner, Lblk(0))?.ok_or(Error::corrupt(missing, place))?;
        let place = place.in_block(block);
        let decoded = DxNode::decode_root(&bytes, volume.htree_format(owner)).map_err(|e| e.at(place))?;
        let no_info = Flaw::Inconsistent { of: Structure::HtreeNode, detail: "the root has no information" };
        let info = decoded.root.ok_or(Error::corrupt(no_info, place))?;
        let mut walk = Walk {
            volume,
            owner,
            hasher: volume.dir_hasher(info.hash_version),
            levels: info.indirect_levels,
            seen: BTreeSet::from([Lblk(0)]),
            damage: Vec::new(),
        };
        let root = walk.node(0, (Lblk(0), block, &bytes), &decoded, (0, 1 << 32));
        Ok(Self {
            ino: owner.ino,
            hash_version: info.hash_version.name(),
            hash_code: info.hash_version.disk_code(),
            indirect_levels: info.indirect_levels,
            flags: info.unused_flags,
            root,
            damage: walk.damage,
        })
    }
}

impl Walk<'_> {
    /// What is below a node; `range` has the hashes it is for. Recursion is bounded by the levels that the root says.
    fn node(
        &mut self,
        level: u8,
        (lblk, block, bytes): (Lblk, Fsblk, &[u8]),
        node: &DxNode,
        range: (u64, u64),
    ) -> HtreeNode {
        let mut children = Vec::new();
        let starts = node.entries.iter().skip(1).map(|e| u64::from(e.hash)).chain([range.1]);
        let mut from = range.0;
        for (entry, to) in node.entries.iter().zip(starts) {
            match self.child(level, *entry, (from, to)) {
                Ok(child) => children.push(child),
                Err(e) => self.damage.push(e.at(Place::inode(self.owner.ino).in_lblk(entry.lblk())).into()),
            }
            from = to;
        }
        let checksum = self.volume.htree_format(self.owner).checksums.then(|| stored_checksum(bytes)).flatten();
        HtreeNode { level, lblk, block, limit: node.limit, checksum, entries: node.entries.clone(), children }
    }

    fn child(&mut self, level: u8, entry: DxEntry, range: (u64, u64)) -> Result<HtreeChild> {
        let lblk = entry.lblk();
        let of = Structure::HtreeNode;
        let flaw = |detail| Error::corrupt(Flaw::Inconsistent { of, detail }, Place::FS);
        if !self.seen.insert(lblk) {
            return Err(flaw("two entries lead to one block"));
        }
        let (block, bytes) = self.volume.file_block(self.owner, lblk)?.ok_or(flaw("an entry leads to a hole"))?;
        if level < self.levels {
            let node = DxNode::decode_node(&bytes, self.volume.htree_format(self.owner))?;
            return Ok(HtreeChild::Node(self.node(level.saturating_add(1), (lblk, block, &bytes), &node, range)));
        }
        let mut entries = Vec::new();
        for e in dirent::entries(&bytes, self.volume.dir_format(self.owner)) {
            let e = e.map_err(|e| e.at(Place::block(block)))?;
            if !e.is_used() {
                continue;
            }
            let hash = e.hash.or_else(|| self.hash(e.name));
            // The lowest bit of a bound says that a chain of equal hashes goes on.
            let misplaced = hash.is_some_and(|h| {
                let h = u64::from(h.hash);
                h < range.0 & !1 || (h >= range.1 && !(range.1 & 1 == 1 && h == range.1 & !1))
            });
            entries.push(LeafEntry { ino: e.ino, name: e.name.into(), hash, rec_len: e.rec_len, misplaced });
        }
        let tail = self.volume.dir_format(self.owner).tail && dirent::has_tail(&bytes);
        let checksum = bytes.last_chunk().map(|b| u32::from_le_bytes(*b)).filter(|_| tail);
        Ok(HtreeChild::Leaf(HtreeLeaf { lblk, block, checksum, entries }))
    }

    fn hash(&self, name: &[u8]) -> Option<DirHash> {
        let folds = self.owner.inode.flags().contains(InodeFlags::CASEFOLD);
        let key = if folds { casefold::key(name) } else { name.into() };
        self.hasher?.hash(&key).ok()
    }
}

impl HtreeNode {
    /// Entries, then what each leads to.
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "Number of entries (count): {}", self.entries.len())?;
        writeln!(page, "Number of entries (limit): {}", self.limit)?;
        if let Some(checksum) = self.checksum {
            writeln!(page, "Checksum: {checksum:#010x}")?;
        }
        let entry = |page: &mut Page<'_>, i: usize, e: &DxEntry| {
            let mark = if e.is_continuation() { " (**)" } else { "" };
            writeln!(page, "Entry #{i}: Hash {:#010x}{mark}, block {}", e.hash, e.lblk())
        };
        self.entries.iter().enumerate().try_for_each(|(i, e)| entry(page, i, e))?;
        writeln!(page)?;
        for (i, (e, child)) in self.entries.iter().zip(&self.children).enumerate() {
            entry(page, i, e)?;
            match child {
                HtreeChild::Node(node) => node.text(page)?,
                HtreeChild::Leaf(leaf) => leaf.text(page)?,
            }
        }
        writeln!(page, "---------------------")
    }
}

impl HtreeLeaf {
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "Reading directory block {}, phys {}", self.lblk, self.block)?;
        let limit = page.width().map_or(80, usize::from);
        let mut column = 0usize;
        for e in &self.entries {
            let hash = e.hash.map_or("(needs the key)".into(), |h| format!("{:#010x}-{:08x}", h.hash, h.minor));
            let head = format!("{} {hash} ({}) ", e.ino, e.rec_len);
            let mark = if e.misplaced { "  MISPLACED" } else { "   " };
            let width = head.len().saturating_add(e.name.0.len()).saturating_add(mark.len());
            if column > 0 && column.saturating_add(width) > limit {
                writeln!(page)?;
                column = 0;
            }
            write!(page, "{head}")?;
            page.bytes(&e.name.0)?;
            write!(page, "{mark}")?;
            column = column.saturating_add(width);
        }
        writeln!(page)?;
        self.checksum.map_or(Ok(()), |c| writeln!(page, "leaf block checksum: {c:#010x}"))
    }
}

impl View for HtreeView {
    const SCHEMA: &'static str = "htree/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "Root node dump:")?;
        // What is not so cannot be read as an index.
        writeln!(page, "\t Reserved zero: 0")?;
        writeln!(page, "\t Hash Version: {}", self.hash_code)?;
        writeln!(page, "\t Info length: 8")?;
        writeln!(page, "\t Indirect levels: {}", self.indirect_levels)?;
        writeln!(page, "\t Flags: {}", self.flags)?;
        self.root.text(page)
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}
