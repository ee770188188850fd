//! Extended attributes as they lie on disk, entry by entry, whether they make sense or not: debugfs's `idump -x` and
//! `block_dump -x`. Offsets are in bytes from the start of the area (an inode's behind its extra fields, or a block).

use std::io::{self, Write};

use serde::Serialize;
use zerocopy::FromBytes;

use super::View;
use super::page::Page;
use super::text::{Name, hex};
use crate::format::xattr::{BLOCK_HEADER, BlockHeader, IBODY_HEADER, MAGIC, RawEntry, entry_len};

/// Bytes that may be unprintable in a value that is shown as text.
const FEW: usize = 3;

/// An entry as stored.
#[derive(Debug, Serialize)]
pub struct RawXattr {
    /// Where it is.
    pub offset: usize,
    /// Its hash.
    pub hash: u32,
    /// The number that stands for the start of the name.
    pub name_index: u8,
    /// The rest of the name.
    #[serde(flatten)]
    pub name: Name,
    /// Where the value is, from the first entry of an inode's area, or from the start of a block.
    pub value_offset: u16,
    /// The inode that holds the value; 0 where it is here.
    pub value_inode: u32,
    /// Length of the value in bytes.
    pub value_size: u32,
    /// The value as stored; `None` where it is not inside the area.
    pub value_hex: Option<String>,
    #[serde(skip)]
    value: Option<Vec<u8>>,
}

/// An area of attributes.
#[derive(Debug, Serialize)]
pub struct RawXattrsView {
    /// The first word: the magic number of attributes, if they are any.
    pub magic: u32,
    /// Bytes of the area.
    pub len: usize,
    /// It is a block, which has a header: users, blocks, hash, checksum.
    pub header: Option<[u32; 4]>,
    /// Entries in order.
    pub entries: Vec<RawXattr>,
    /// Where the table of entries ends.
    pub end: usize,
}

impl RawXattrsView {
    /// The attributes in `area`: a whole block, or an inode's bytes behind its extra fields.
    pub fn new(area: &[u8], block: bool) -> Self {
        let magic = area.first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        let head = BlockHeader::read_from_prefix(area).ok().map(|(h, _)| h).filter(|_| block);
        let header = head.map(|h| [h.refcount.get(), h.blocks.get(), h.hash.get(), h.checksum.get()]);
        let (mut end, base) = if block { (BLOCK_HEADER, 0) } else { (IBODY_HEADER, IBODY_HEADER) };
        let mut view = Self { magic, len: area.len(), header, entries: Vec::new(), end };
        if magic != MAGIC {
            return view;
        }
        while let Some(entry) = RawXattr::read(area, end, base) {
            end = end.saturating_add(entry_len(entry.name.0.len()));
            view.entries.push(entry);
        }
        view.end = end;
        view
    }
}

impl RawXattr {
    /// The entry at `offset`; `None` at the end of the table, and where it reaches out of the area.
    fn read(area: &[u8], offset: usize, base: usize) -> Option<Self> {
        let rest = area.get(offset..)?;
        if rest.first_chunk() == Some(&[0; 4]) {
            return None;
        }
        let (entry, names) = RawEntry::read_from_prefix(rest).ok()?;
        let name = names.get(..usize::from(entry.name_len))?;
        let from = base.saturating_add(usize::from(entry.value_offs.get()));
        let here = entry.value_inum.get() == 0;
        let to = from.saturating_add(entry.value_size.get() as usize);
        let value = area.get(from..to).filter(|_| here).map(<[u8]>::to_vec);
        Some(Self {
            offset,
            hash: entry.hash.get(),
            name_index: entry.name_index,
            name: name.into(),
            value_offset: entry.value_offs.get(),
            value_inode: entry.value_inum.get(),
            value_size: entry.value_size.get(),
            value_hex: value.as_deref().map(hex),
            value,
        })
    }

    fn text(&self, page: &mut Page<'_>, base: usize) -> io::Result<()> {
        let Self { offset, hash, name_index, value_offset, value_inode, value_size, .. } = self;
        let (len, at) = (self.name.0.len(), usize::from(*value_offset).saturating_add(base));
        writeln!(page, "offset = {offset} ({offset:04o}), hash = {hash}, name_len = {len}, name_index = {name_index}")?;
        write!(page, "value_offset = {value_offset} ({at:04o}), value_inum = {value_inode}, ")?;
        writeln!(page, "value_size = {value_size}")?;
        write!(page, "name = ")?;
        page.bytes(&self.name.0)?;
        writeln!(page)?;
        match &self.value {
            Some(value) if value.is_empty() => {}
            Some(value) if value.iter().filter(|b| !matches!(b, 0x20..=0x7e)).count() <= FEW => {
                writeln!(page, "value = {}", carets(value))?;
            }
            Some(value) => {
                writeln!(page, "value = <hexdump>")?;
                super::hex::HexView::new(value).text(page)?;
                writeln!(page, "\n")?;
            }
            None if self.value_inode == 0 => writeln!(page, "value = <outside the area>")?,
            None => writeln!(page, "value = <ino {}>", self.value_inode)?,
        }
        writeln!(page)
    }
}

/// Bytes as `^A` and `M-x` show them.
fn carets(bytes: &[u8]) -> String {
    let mut text = String::new();
    for b in bytes {
        if b & 0x80 != 0 {
            text.push_str("M-");
        }
        match b & 0x7f {
            c @ 0..0x20 => text.extend(['^', char::from(c | 0x40)]),
            0x7f => text.push_str("^?"),
            c => text.push(char::from(c)),
        }
    }
    text
}

impl View for RawXattrsView {
    const SCHEMA: &'static str = "raw-xattrs/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        write!(page, "magic = {:08x}, length = {}", self.magic, self.len)?;
        match self.header {
            None => writeln!(page, ", value_start ={IBODY_HEADER} \n")?,
            Some(_) if self.magic != MAGIC => return writeln!(page),
            Some([refcount, blocks, hash, checksum]) => {
                writeln!(page, "\nrefcount = {refcount}, blocks = {blocks}")?;
                writeln!(page, "hash = {hash:08x}, checksum = {checksum:08x}")?;
                writeln!(page, "reserved: 00000000 00000000 00000000\n")?;
            }
        }
        if self.magic != MAGIC {
            return Ok(());
        }
        let base = if self.header.is_some() { 0 } else { IBODY_HEADER };
        self.entries.iter().try_for_each(|e| e.text(page, base))?;
        writeln!(page, "last entry found at offset {} ({:04o})", self.end, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_shown_and_ends() {
        let text = |area: &[u8], block| {
            let mut out = Vec::new();
            RawXattrsView::new(area, block).text(&mut Page::new(&mut out, None)).unwrap();
            String::from_utf8_lossy(&out).into_owned()
        };
        assert_eq!(text(&[0; 64], true), "magic = 00000000, length = 64\n");
        let mut area = vec![0xff; 96];
        area[..4].copy_from_slice(&MAGIC.to_le_bytes());
        // A name of 255 bytes does not fit.
        assert!(text(&area, false).contains("last entry found at offset 4 (0004)"));
        area[4] = 3;
        let shown = text(&area, false);
        assert!(shown.contains("name_len = 3") && shown.contains("value_offset = 65535"), "{shown}");
        assert_eq!(carets(b"\0a\xff\x7f"), "^@aM-^?^?");
    }
}
