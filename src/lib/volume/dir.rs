//! Directories: their entries in disk order, and names looked up through the index or from block to block.
//!
//! Reading all entries ignores the index: index nodes look like unused entries. A look-up uses the index where it
//! is sound and otherwise searches block by block, as the kernel does. Names are bytes; in a case-insensitive
//! directory they compare folded.

use std::borrow::Cow;
use std::ops::ControlFlow;

use super::{MapEvent, Owner, Volume};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::casefold;
use crate::format::dirent::{self, DirFormat, Dirent};
use crate::format::dirhash::{DirHash, DirHasher, HashVersion};
use crate::format::extent::Extent;
use crate::format::features::{Compat, Incompat};
use crate::format::htree::{self, DxEntry, DxNode, HtreeFormat};
use crate::format::inode::{FileType, InodeFlags};
use crate::units::{Fsblk, Ino, Lblk};

/// A directory entry with where it is.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// Logical block of the directory; 0 for inline directories.
    pub lblk: Lblk,
    /// Block of the filesystem; `None` for inline directories.
    pub block: Option<Fsblk>,
    /// The entry: inode, name, type, byte offset in the block.
    pub entry: Dirent<'a>,
}

impl DirEntry<'_> {
    /// The type that the entry records; `None` where it does not.
    pub const fn file_type(&self) -> Option<FileType> {
        FileType::from_dirent_code(self.entry.file_type)
    }

    fn place(&self) -> Place {
        let place = Place::FS.in_lblk(self.lblk).offset(self.entry.offset as u64);
        self.block.map_or(place, |b| place.in_block(b))
    }
}

/// Where an entry is, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPlace {
    /// Inode.
    pub ino: Ino,
    /// The file type byte.
    pub file_type: u8,
    /// Logical block of the directory; 0 for inline directories.
    pub lblk: Lblk,
    /// Block of the filesystem; `None` for inline directories.
    pub block: Option<Fsblk>,
    /// Byte offset in the block, or in the inline content.
    pub offset: usize,
}

/// An entry that owns its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedEntry {
    /// Inode.
    pub ino: Ino,
    /// Name; neither `.` nor `..`.
    pub name: Vec<u8>,
    /// The type that the entry records; `None` where it does not.
    pub file_type: Option<FileType>,
}

impl Volume {
    /// What the blocks of a directory look like.
    pub fn dir_format(&self, owner: Owner<'_>) -> DirFormat {
        let both = InodeFlags::ENCRYPT | InodeFlags::CASEFOLD;
        DirFormat {
            filetype: self.geo.features.incompat.contains(Incompat::FILETYPE),
            hash_in_entry: owner.inode.flags().contains(both),
            tail: self.geo.checksums.seed().is_some(),
        }
    }

    /// Whether a directory compares names folded: case-insensitive, and the names can be read.
    pub fn folds_case(&self, owner: Owner<'_>) -> bool {
        let flags = owner.inode.flags();
        self.geo.features.incompat.contains(Incompat::CASEFOLD)
            && flags.contains(InodeFlags::CASEFOLD)
            && !flags.contains(InodeFlags::ENCRYPT)
    }

    /// Visit all entries in disk order, `.` and `..` included, unused ones left out.
    ///
    /// # Errors
    /// [`Error::NotDirectory`] for other inodes; [`Error::Corrupt`] for damaged blocks (wrong checksums included).
    pub fn for_each_entry(
        &self,
        owner: Owner<'_>,
        visit: &mut dyn FnMut(DirEntry<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if owner.inode.file_type() != Some(FileType::Directory) {
            return Err(Error::NotDirectory { path: format!("<{}>", owner.ino).into_bytes() });
        }
        if owner.inode.flags().contains(InodeFlags::INLINE_DATA) {
            return self.inline_entries(owner, visit).map(|_| ());
        }
        let blocks = self.dir_blocks(owner)?;
        for e in self.dir_extents(owner, blocks)? {
            for n in 0..e.len {
                let (lblk, block) = (e.lblk.saturating_add(n), e.pblk.saturating_add(n.into()));
                if self.dir_block_entries(owner, lblk, block, visit)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// All entries but `.` and `..`, in disk order.
    pub fn read_dir(&self, owner: Owner<'_>) -> Result<Vec<NamedEntry>> {
        let mut all = Vec::new();
        self.for_each_entry(owner, &mut |e| {
            if !dirent::is_dot_or_dotdot(e.entry.name) {
                all.push(NamedEntry { ino: e.entry.ino, name: e.entry.name.to_vec(), file_type: e.file_type() });
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(all)
    }

    /// Blocks of a directory, from its size.
    fn dir_blocks(&self, owner: Owner<'_>) -> Result<u64> {
        let blocks = owner.inode.size().div_ceil(self.geo.block_size.into());
        if blocks > self.geo.blocks_count {
            let flaw = Flaw::Field { of: Structure::Inode, field: "size", value: owner.inode.size() };
            return Err(Error::corrupt(flaw, Place::inode(owner.ino)));
        }
        Ok(blocks)
    }

    /// The written extents of a directory, clipped to its size.
    fn dir_extents(&self, owner: Owner<'_>, blocks: u64) -> Result<Vec<Extent>> {
        let mut all: Vec<Extent> = Vec::new();
        self.walk_map(owner, &mut |event| {
            let MapEvent::Data(mut e) = event else { return Ok(ControlFlow::Continue(())) };
            let left = blocks.saturating_sub(e.lblk.0.into());
            if left == 0 {
                return Ok(ControlFlow::Break(()));
            }
            e.len = e.len.min(u32::try_from(left).unwrap_or(u32::MAX));
            if !e.unwritten {
                all.push(e);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(all)
    }

    /// The bytes of one block of a directory, its checksum compared, and how its entries are to be read.
    pub fn dir_block(&self, owner: Owner<'_>, lblk: Lblk, block: Fsblk) -> Result<(Cow<'_, [u8]>, DirFormat)> {
        let place = Place::inode(owner.ino).in_lblk(lblk).in_block(block);
        let bytes = self.block(block)?;
        let index = self.is_indexed(owner) && is_index_block(&bytes, lblk);
        let format = self.dir_format(owner);
        // What looks like a tail in an index node is left over from when the block was a leaf.
        let format = DirFormat { tail: format.tail && !index, ..format };
        if let Some(seed) = self.verify_seed(owner.ino, owner.inode) {
            let checked = if index { htree::verify(&bytes, seed) } else { dirent::verify(&bytes, seed) };
            checked.map_err(|e| e.at(place))?;
        }
        Ok((bytes, format))
    }

    /// Visit the used entries of one block.
    fn dir_block_entries(
        &self,
        owner: Owner<'_>,
        lblk: Lblk,
        block: Fsblk,
        visit: &mut dyn FnMut(DirEntry<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        let place = Place::inode(owner.ino).in_lblk(lblk).in_block(block);
        let (bytes, format) = self.dir_block(owner, lblk, block)?;
        for entry in dirent::entries(&bytes, format) {
            let entry = entry.map_err(|e| e.at(place))?;
            if !entry.is_used() {
                continue;
            }
            let found = DirEntry { lblk, block: Some(block), entry };
            self.check_entry(owner, &found)?;
            if visit(found)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn check_entry(&self, owner: Owner<'_>, e: &DirEntry<'_>) -> Result<()> {
        let bad = |field, value| {
            let flaw = Flaw::Field { of: Structure::DirBlock, field, value };
            Err(Error::corrupt(flaw, e.place().in_inode(owner.ino)))
        };
        if e.entry.ino.0 > self.geo.inodes_count {
            return bad("inode", e.entry.ino.0.into());
        }
        if e.entry.name.is_empty() {
            return bad("name_len", 0);
        }
        Ok(())
    }

    fn inline_entries(
        &self,
        owner: Owner<'_>,
        visit: &mut dyn FnMut(DirEntry<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        let place = Place::inode(owner.ino);
        let content = self.inline_content(owner)?;
        let format = DirFormat { tail: false, ..self.dir_format(owner) };
        let Some(parent) = content.first_chunk::<4>().map(|b| Ino(u32::from_le_bytes(*b))) else {
            let flaw = Flaw::Short { of: Structure::InlineData, need: 4, have: content.len() as u64 };
            return Err(Error::corrupt(flaw, place));
        };
        let mut report = |entry: Dirent<'_>| {
            let found = DirEntry { lblk: Lblk(0), block: None, entry };
            self.check_entry(owner, &found)?;
            visit(found)
        };
        for (ino, name) in [(owner.ino, &b"."[..]), (parent, b"..")] {
            let file_type = FileType::Directory.dirent_code();
            if report(Dirent { offset: 0, ino, rec_len: 0, name, file_type, hash: None })?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        for (base, region) in Self::inline_regions(&content) {
            for entry in dirent::entries(region, format) {
                let mut entry = entry.map_err(|e| e.at(place))?;
                entry.offset = entry.offset.saturating_add(base);
                if entry.is_used() && report(entry)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The inode that `name` stands for in a directory; `None` where there is none. `.` and `..` are names too.
    #[doc(alias = "ext4_lookup")]
    pub fn lookup(&self, owner: Owner<'_>, name: &[u8]) -> Result<Option<Ino>> {
        Ok(self.find_entry(owner, name)?.map(|e| e.ino))
    }

    /// Where `name` is in a directory; `None` where it is not.
    #[doc(alias = "ext4_find_entry")]
    pub fn find_entry(&self, owner: Owner<'_>, name: &[u8]) -> Result<Option<EntryPlace>> {
        if name.is_empty() || name.len() > dirent::MAX_NAME {
            return Ok(None);
        }
        let wanted = Wanted::new(name, self.folds_case(owner));
        if let Some(leaves) = self.index_search(owner, &wanted)? {
            let mut found = None;
            for lblk in leaves {
                let Some((block, _)) = self.file_block(owner, lblk)? else { continue };
                let mut visit = wanted.visitor(&mut found);
                if self.dir_block_entries(owner, lblk, block, &mut visit)?.is_break() {
                    break;
                }
            }
            return Ok(found);
        }
        let mut found = None;
        self.for_each_entry(owner, &mut wanted.visitor(&mut found))?;
        Ok(found)
    }

    /// Whether a directory has an index.
    #[doc(alias = "is_dx")]
    pub fn is_indexed(&self, owner: Owner<'_>) -> bool {
        let flags = owner.inode.flags();
        self.geo.features.compat.contains(Compat::DIR_INDEX)
            && flags.contains(InodeFlags::INDEX)
            && !flags.contains(InodeFlags::INLINE_DATA)
    }

    /// The leaf blocks that may hold a name, by the directory's index; `None` where there is no usable index.
    #[doc(alias = "dx_probe")]
    fn index_search(&self, owner: Owner<'_>, wanted: &Wanted<'_>) -> Result<Option<Vec<Lblk>>> {
        if !self.is_indexed(owner) || dirent::is_dot_or_dotdot(wanted.name) {
            return Ok(None);
        }
        let Some((_, root)) = self.file_block(owner, Lblk(0))? else { return Ok(None) };
        let format = self.htree_format(owner);
        let Ok(DxNode { root: Some(info), entries, .. }) = DxNode::decode_root(&root, format) else { return Ok(None) };
        let Some(hasher) = self.dir_hasher(info.hash_version) else { return Ok(None) };
        let Ok(DirHash { hash, .. }) = hasher.hash(wanted.key()) else { return Ok(None) };
        let mut level: Vec<DxEntry> = candidates(&entries, hash);
        for _ in 0..info.indirect_levels {
            let mut below = Vec::new();
            for e in level {
                let Some((_, bytes)) = self.file_block(owner, e.lblk())? else { return Ok(None) };
                let Ok(node) = DxNode::decode_node(&bytes, format) else { return Ok(None) };
                below.extend(candidates(&node.entries, hash));
            }
            level = below;
        }
        Ok(Some(level.into_iter().map(DxEntry::lblk).collect()))
    }

    /// The shape of a directory's index nodes.
    pub fn htree_format(&self, owner: Owner<'_>) -> HtreeFormat {
        HtreeFormat {
            block_size: self.geo.block_size as usize,
            checksums: self.geo.checksums.seed().is_some(),
            hash_in_entry: self.dir_format(owner).hash_in_entry,
            large_dir: self.geo.features.incompat.contains(Incompat::LARGEDIR),
        }
    }

    /// The hash function for a version found in an index root, with the filesystem's signedness and seed; `None`
    /// where it needs a key.
    pub fn dir_hasher(&self, version: HashVersion) -> Option<DirHasher> {
        let version = HashVersion::from_disk(version.disk_code(), self.sb.misc_flags())?;
        if version == HashVersion::SipHash {
            return None;
        }
        Some(DirHasher::new(version, self.sb.hash_seed.map(crate::format::U32::get)))
    }
}

/// Whether a block of an indexed directory is a node of the index: the first block, or one that is a single unused
/// entry without a tail.
pub(crate) fn is_index_block(block: &[u8], lblk: Lblk) -> bool {
    lblk.0 == 0 || (block.first_chunk::<4>() == Some(&[0; 4]) && dirent::raw_rec_len(block, 0) == Some(block.len()))
}

/// The entries below which a hash may be: the last one that does not exceed it, and those after it that continue
/// the same hash (their lowest bit is set).
fn candidates(entries: &[DxEntry], hash: u32) -> Vec<DxEntry> {
    let at = entries.partition_point(|e| e.hash <= hash).saturating_sub(1);
    let mut all: Vec<DxEntry> = entries.get(at..).and_then(|v| v.first()).copied().into_iter().collect();
    let rest = entries.get(at.saturating_add(1)..).unwrap_or_default();
    all.extend(rest.iter().take_while(|e| e.is_continuation() && e.hash & !1 == hash));
    all
}

/// A name that is looked for.
struct Wanted<'a> {
    name: &'a [u8],
    folded: Option<Vec<u8>>,
}

impl<'a> Wanted<'a> {
    fn new(name: &'a [u8], folds: bool) -> Self {
        Self { name, folded: if folds { Some(casefold::key(name).into_owned()) } else { None } }
    }

    /// What is hashed.
    fn key(&self) -> &[u8] {
        self.folded.as_deref().unwrap_or(self.name)
    }

    fn matches(&self, name: &[u8]) -> bool {
        match &self.folded {
            None => name == self.name,
            Some(key) => name == self.name || casefold::key(name)[..] == key[..],
        }
    }

    fn visitor<'f>(
        &'f self,
        found: &'f mut Option<EntryPlace>,
    ) -> impl FnMut(DirEntry<'_>) -> Result<ControlFlow<()>> + use<'f, 'a> {
        move |e| {
            if self.matches(e.entry.name) {
                *found = Some(EntryPlace {
                    ino: e.entry.ino,
                    file_type: e.entry.file_type,
                    lblk: e.lblk,
                    block: e.block,
                    offset: e.entry.offset,
                });
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        }
    }
}
