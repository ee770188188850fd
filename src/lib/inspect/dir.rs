//! Directory listings, deleted entries included; searching a directory; hashing a name.

use std::io::{self, Write};
use std::ops::ControlFlow;

use serde::Serialize;

use super::page::Page;
use super::text::{Name, printable, short_date};
use super::{Damage, View};
use crate::env::Timestamp;
use crate::error::{Error, Place, Result};
use crate::format::casefold;
use crate::format::dirent::{self, DirFormat, Dirent};
use crate::format::dirhash::{DirHasher, HashVersion};
use crate::format::htree;
use crate::format::inode::{FileType, InodeFlags, TimeField};
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::{DirEntry, Owner, Volume, is_index_block};

/// Columns that a short listing fills where no terminal says.
const SHORT_WIDTH: usize = 80;

/// How a listing looks as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListStyle {
    /// Inode, record length and name, several to a line.
    #[default]
    Short,
    /// One line each, with mode, owner, size and time.
    Long,
    /// `/inode/mode/user/group/name/size/`.
    Parse,
}

/// What to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// How.
    pub style: ListStyle,
    /// Deleted entries as well.
    pub deleted: bool,
    /// Checksums of the directory's blocks as well.
    pub checksums: bool,
    /// Names of an encrypted directory as they are stored.
    pub raw: bool,
    /// Look up each entry's inode (for mode, owner, size, time).
    pub inodes: bool,
}

/// What an entry's inode says.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ItemInode {
    /// Type and permissions.
    pub mode: u16,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
}

/// An entry.
#[derive(Clone, Debug, Serialize)]
pub struct DirItem {
    /// Name; for a deleted entry, what is left of it.
    #[serde(flatten)]
    pub name: Name,
    /// Inode; for a deleted entry, what is left of it.
    pub ino: Ino,
    /// The type byte: 0 where the filesystem does not record it.
    pub type_code: u8,
    /// Length of the record in bytes; 0 where the entry has none of its own.
    pub rec_len: usize,
    /// Logical block of the directory.
    pub lblk: Lblk,
    /// Block; `None` for a directory inside its inode.
    pub block: Option<Fsblk>,
    /// First byte in the block.
    pub offset: usize,
    /// The entry is not in use.
    pub deleted: bool,
    /// What its inode says, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<ItemInode>,
}

/// The checksum of a directory block.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DirBlockChecksum {
    /// Logical block.
    pub lblk: Lblk,
    /// Block.
    pub block: Fsblk,
    /// As stored.
    pub stored: u32,
}

/// A directory.
#[derive(Debug, Serialize)]
pub struct DirView {
    /// Its inode.
    pub ino: Ino,
    /// Its names are encrypted.
    pub encrypted: bool,
    /// Entries in disk order.
    pub entries: Vec<DirItem>,
    /// Checksums of its blocks, where asked for and there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checksums: Vec<DirBlockChecksum>,
    /// What could not be read.
    pub damage: Vec<Damage>,
    #[serde(skip)]
    options: ListOptions,
}

impl DirView {
    /// The entries of a directory. A damaged block is reported, and those after it are read.
    ///
    /// # Errors
    /// [`Error::NotDirectory`].
    pub fn new(volume: &Volume, owner: Owner<'_>, options: ListOptions) -> Result<Self> {
        if owner.inode.file_type() != Some(FileType::Directory) {
            return Err(Error::NotDirectory { path: format!("<{}>", owner.ino).into_bytes() });
        }
        let mut view = Self {
            ino: owner.ino,
            encrypted: owner.inode.flags().contains(InodeFlags::ENCRYPT),
            entries: Vec::new(),
            checksums: Vec::new(),
            damage: Vec::new(),
            options,
        };
        if owner.inode.flags().contains(InodeFlags::INLINE_DATA) {
            view.read_inline(volume, owner);
        } else {
            view.read_blocks(volume, owner);
        }
        if options.inodes || options.style != ListStyle::Short {
            view.read_inodes(volume);
        }
        Ok(view)
    }

    fn read_inline(&mut self, volume: &Volume, owner: Owner<'_>) {
        let entries = &mut self.entries;
        let read = volume.for_each_entry(owner, &mut |e: DirEntry<'_>| {
            entries.push(DirItem::new(&e.entry, e.lblk, e.block));
            Ok(ControlFlow::Continue(()))
        });
        self.damage.extend(read.err().map(Damage::from));
    }

    fn read_blocks(&mut self, volume: &Volume, owner: Owner<'_>) {
        let geo = volume.geometry();
        let format = volume.dir_format(owner);
        let blocks = owner.inode.size().div_ceil(geo.block_size.into()).min(geo.blocks_count);
        let extents = match volume.extents(owner) {
            Ok(extents) => extents,
            Err(e) => return self.damage.push(e.into()),
        };
        for e in extents.iter().filter(|e| !e.unwritten) {
            let len = u64::from(e.len).min(blocks.saturating_sub(e.lblk.0.into()));
            for n in 0..len as u32 {
                let (lblk, block) = (e.lblk.saturating_add(n), e.pblk.saturating_add(n.into()));
                if let Err(e) = self.read_block(volume, owner, format, lblk, block) {
                    self.damage.push(e.at(Place::inode(owner.ino).in_lblk(lblk).in_block(block)).into());
                }
            }
        }
    }

    fn read_block(
        &mut self,
        volume: &Volume,
        owner: Owner<'_>,
        format: DirFormat,
        lblk: Lblk,
        block: Fsblk,
    ) -> Result<()> {
        let bytes = volume.block(block)?;
        let index = volume.is_indexed(owner) && is_index_block(&bytes, lblk);
        // What looks like a tail in an index node is left over from when the block was a leaf.
        let format = DirFormat { tail: format.tail && !index, ..format };
        if self.options.checksums && format.tail && dirent::has_tail(&bytes) {
            let at = bytes.len().saturating_sub(4);
            let stored = bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
            self.checksums.push(DirBlockChecksum { lblk, block, stored });
        }
        if let Some(seed) = volume.inode_seed(owner.ino, owner.inode)
            && volume.verifies_checksums()
        {
            let checked = if index { htree::verify(&bytes, seed) } else { dirent::verify(&bytes, seed) };
            let place = Place::inode(owner.ino).in_lblk(lblk).in_block(block);
            self.damage.extend(checked.err().map(|e| Damage(e.at(place))));
        }
        for entry in dirent::entries(&bytes, format) {
            let entry = entry?;
            if entry.is_used() {
                self.entries.push(DirItem::new(&entry, lblk, Some(block)));
            } else if self.options.deleted && !index {
                self.entries.push(DirItem { deleted: true, ..DirItem::new(&entry, lblk, Some(block)) });
            }
            if self.options.deleted && !index {
                self.read_slack(&bytes, &entry, format, lblk, block);
            }
        }
        Ok(())
    }

    /// Entries that were once in the unused part of a record: where a chain of records goes on to its end.
    fn read_slack(&mut self, bytes: &[u8], record: &Dirent<'_>, format: DirFormat, lblk: Lblk, block: Fsblk) {
        let end = record.offset.saturating_add(record.rec_len);
        let hashed = format.hash_in_entry && record.is_used();
        // The records of a whole block: cut it at the end of this one, so that nothing reaches beyond.
        let area = bytes.get(..end).unwrap_or_default();
        let inner = DirFormat { tail: false, ..format };
        let at_offset = |at: usize| dirent::entries(area, inner).from_offset(at).next()?.ok();
        let leads_to = |mut at: usize, end: usize| {
            while at < end {
                match at_offset(at) {
                    Some(e) if e.name.len().saturating_add(dirent::HEADER) <= e.rec_len => {
                        at = at.saturating_add(e.rec_len.max(1));
                    }
                    _ => return false,
                }
            }
            at == end
        };
        let behind = |e: &Dirent<'_>, hashed| {
            let (size, end) = (dirent::min_rec_len(e.name.len(), hashed), e.offset.saturating_add(e.rec_len));
            let mut at = e.offset.saturating_add(size);
            while at < end && !leads_to(at, end) {
                at = at.saturating_add(4);
            }
            at.min(end)
        };
        let mut at = behind(record, hashed);
        while let Some(old) = Some(at).filter(|at| *at < end).and_then(at_offset) {
            self.entries.push(DirItem { deleted: true, ..DirItem::new(&old, lblk, Some(block)) });
            at = behind(&old, false).max(at.saturating_add(4));
        }
    }

    fn read_inodes(&mut self, volume: &Volume) {
        for item in self.entries.iter_mut().filter(|e| !e.deleted) {
            match volume.raw_inode(item.ino) {
                Ok(inode) => {
                    item.inode = Some(ItemInode {
                        mode: inode.core().mode.get(),
                        user: inode.uid(),
                        group: inode.gid(),
                        size: inode.size(),
                        mtime: inode.time(TimeField::Modify),
                    });
                }
                Err(e) => self.damage.push(e.into()),
            }
        }
    }

    fn shown_name(&self, item: &DirItem) -> Vec<u8> {
        if self.encrypted && !self.options.raw && !dirent::is_dot_or_dotdot(&item.name.0) {
            return printable(&item.name.0).into_bytes();
        }
        item.name.0.clone()
    }

    /// Entries, each checksum behind those of its block.
    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let mut checksums = self.checksums.iter().peekable();
        let mut rows = Vec::with_capacity(self.entries.len().saturating_add(self.checksums.len()));
        for item in &self.entries {
            while let Some(c) = checksums.next_if(|c| c.lblk < item.lblk) {
                rows.push(Row::Checksum(c));
            }
            rows.push(Row::Entry(item));
        }
        rows.extend(checksums.map(Row::Checksum));
        rows.into_iter()
    }

    fn text_short(&self, page: &mut Page<'_>) -> io::Result<()> {
        let limit = page.width().map_or(SHORT_WIDTH, usize::from);
        let mut column = 0usize;
        for row in self.rows() {
            let (head, name) = match row {
                Row::Entry(i) if i.deleted => (format!("<{}> ({}) ", i.ino, i.rec_len), self.shown_name(i)),
                Row::Entry(i) => {
                    let len = if i.is_implied() { dirent::min_rec_len(i.name.0.len(), false) } else { i.rec_len };
                    (format!(" {}  ({len}) ", i.ino), self.shown_name(i))
                }
                Row::Checksum(c) => (format!(" 0  (dirblock checksum: {:#010x})", c.stored), Vec::new()),
            };
            let name = listed_name(&name, page);
            let width = head.len().saturating_add(name.len()).saturating_add(3);
            if column > 0 && column.saturating_add(width) > limit {
                writeln!(page)?;
                column = 0;
            }
            write!(page, "{head}{name}   ")?;
            column = column.saturating_add(width);
        }
        if column > 0 { writeln!(page) } else { Ok(()) }
    }

    fn text_long(&self, page: &mut Page<'_>) -> io::Result<()> {
        for row in self.rows() {
            let item = match row {
                Row::Entry(item) => item,
                Row::Checksum(c) => {
                    writeln!(page, "{:7} {:7} (dirblock checksum: {:#010x})", 0, 0, c.stored)?;
                    continue;
                }
            };
            let type_code = if item.is_implied() && !page.is_terminal() { 0 } else { item.type_code };
            let ino = if item.deleted { format!("<{:6}>", item.ino.0) } else { format!("{:7}", item.ino.0) };
            match item.inode {
                Some(i) => write!(
                    page,
                    "{ino} {:7o} ({}) {:6} {:6} {:7} {} ",
                    i.mode,
                    type_code,
                    i.user,
                    i.group,
                    i.size,
                    short_date(i.mtime)
                )?,
                None => write!(page, "{ino} {:7} ({type_code}) {:6} {:6} {:7} {:17} ", 0, 0, 0, 0, "")?,
            }
            writeln!(page, "{}", listed_name(&self.shown_name(item), page))?;
        }
        Ok(())
    }

    fn text_parse(&self, page: &mut Page<'_>) -> io::Result<()> {
        for item in &self.entries {
            let (mode, user, group, size) = item.inode.map_or((0, 0, 0, 0), |i| (i.mode, i.user, i.group, i.size));
            write!(page, "/{}/{mode:06o}/{user}/{group}/", item.ino)?;
            page.bytes(&self.shown_name(item))?;
            if FileType::from_mode(mode) == Some(FileType::Directory) {
                writeln!(page, "//")?;
            } else {
                writeln!(page, "/{size}/")?;
            }
        }
        Ok(())
    }
}

/// A name in a listing for people: what is not printable ASCII is escaped where no terminal shows it, as debugfs has it.
fn listed_name(name: &[u8], page: &Page<'_>) -> String {
    if page.is_terminal() {
        return printable(name);
    }
    let text = |b: &u8| {
        if matches!(b, 0x20..=0x7e) && *b != b'\\' { char::from(*b).to_string() } else { format!("\\x{b:02x}") }
    };
    name.iter().map(text).collect()
}

/// A line of a listing.
enum Row<'a> {
    Entry(&'a DirItem),
    Checksum(&'a DirBlockChecksum),
}

impl DirItem {
    /// `.` and `..` of a directory inside its inode have no record.
    const fn is_implied(&self) -> bool {
        self.rec_len == 0
    }

    fn new(e: &Dirent<'_>, lblk: Lblk, block: Option<Fsblk>) -> Self {
        Self {
            name: e.name.into(),
            ino: e.ino,
            type_code: e.file_type,
            rec_len: e.rec_len,
            lblk,
            block,
            offset: e.offset,
            deleted: false,
            inode: None,
        }
    }
}

impl View for DirView {
    const SCHEMA: &'static str = "directory/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        match self.options.style {
            ListStyle::Short => self.text_short(page),
            ListStyle::Long => self.text_long(page),
            ListStyle::Parse => self.text_parse(page),
        }
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}

/// Where a name is in a directory.
#[derive(Debug, Serialize)]
pub struct DirSearchView {
    /// The directory.
    pub ino: Ino,
    /// The name.
    #[serde(flatten)]
    pub name: Name,
    /// The entry; `None` where there is none.
    pub found: Option<DirItem>,
}

impl DirSearchView {
    /// Search a directory from block to block for the bytes of `name`.
    pub fn new(volume: &Volume, owner: Owner<'_>, name: &[u8]) -> Result<Self> {
        let mut found = None;
        volume.for_each_entry(owner, &mut |e| {
            if e.entry.name != name {
                return Ok(ControlFlow::Continue(()));
            }
            found = Some(DirItem::new(&e.entry, e.lblk, e.block));
            Ok(ControlFlow::Break(()))
        })?;
        Ok(Self { ino: owner.ino, name: name.into(), found })
    }
}

impl View for DirSearchView {
    const SCHEMA: &'static str = "dirsearch/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        match &self.found {
            None => Ok(()),
            Some(DirItem { block: None, offset, ino, .. }) => {
                writeln!(page, "Entry found at inline data of inode {}, offset {offset}", self.ino)?;
                writeln!(page, "inode {ino}")
            }
            Some(DirItem { block: Some(block), lblk, offset, .. }) => {
                writeln!(page, "Entry found at logical block {lblk}, phys {block}, offset {offset}")?;
                writeln!(page, "offset {offset}")
            }
        }
    }
}

/// What a name hashes to.
#[derive(Debug, Serialize)]
pub struct DirHashView {
    /// The name.
    #[serde(flatten)]
    pub name: Name,
    /// The function.
    pub version: &'static str,
    /// The hash.
    pub hash: u32,
    /// The second hash, which decides between equal ones.
    pub minor: u32,
}

impl DirHashView {
    /// Hash `name` (folded first where `casefold`).
    pub fn new(name: &[u8], version: HashVersion, seed: [u32; 4], casefold: bool) -> Result<Self> {
        let key = if casefold { casefold::key(name) } else { name.into() };
        let hash = DirHasher::new(version, seed).hash(&key)?;
        Ok(Self { name: name.into(), version: version.name(), hash: hash.hash, minor: hash.minor })
    }
}

impl View for DirHashView {
    const SCHEMA: &'static str = "dirhash/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        write!(page, "Hash of ")?;
        page.bytes(&self.name.0)?;
        writeln!(page, " is {:#x} (minor {:#x})", self.hash, self.minor)
    }
}
