//! Fragmentation of files: `filefrag`.

use std::io::{self, Write};

use serde::Serialize;

use super::page::Page;
use super::table::{Align, Table};
use super::text::PathText;
use super::{Damage, View};
use crate::format::extent::Extent;
use crate::format::inode::FileType;
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::{Owner, Volume};

/// A contiguous piece of a file: logically and on the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FragRun {
    /// First logical block.
    pub lblk: Lblk,
    /// First block.
    pub pblk: Fsblk,
    /// Where it would be if it continued the piece before; `None` where it does, for the first, and behind a hole.
    pub expected: Option<Fsblk>,
    /// Blocks.
    pub len: u64,
    /// All of it is allocated but reads as zeros.
    pub unwritten: bool,
}

/// Fragmentation of one file.
#[derive(Debug, Serialize)]
pub struct FragView {
    /// Inode.
    pub ino: Ino,
    /// How it was named.
    #[serde(flatten)]
    pub path: PathText,
    /// A directory.
    pub directory: bool,
    /// Size in bytes.
    pub size: u64,
    /// Data blocks.
    pub blocks: u64,
    /// Blocks in use, those of the map and of attributes too; the inode says so.
    pub allocated_blocks: u64,
    /// Entries of the map (extents; runs of an indirect map).
    pub entries: usize,
    /// Pieces.
    pub runs: Vec<FragRun>,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

/// Merge extents into contiguous pieces, whether they are written or not.
fn runs(extents: &[Extent]) -> Vec<FragRun> {
    let mut all: Vec<FragRun> = Vec::new();
    for e in extents {
        let run = FragRun { lblk: e.lblk, pblk: e.pblk, expected: None, len: e.len.into(), unwritten: e.unwritten };
        let Some(last) = all.last_mut() else {
            all.push(run);
            continue;
        };
        let next = Fsblk(last.pblk.0.saturating_add(last.len));
        let continues = u64::from(last.lblk.0).saturating_add(last.len) == u64::from(e.lblk.0);
        if next == e.pblk && continues {
            last.len = last.len.saturating_add(e.len.into());
            last.unwritten &= e.unwritten;
        } else {
            let expected = continues.then_some(next);
            all.push(FragRun { expected, ..run });
        }
    }
    all
}

impl FragView {
    /// The fragmentation of an inode that was named `path`.
    pub fn new(volume: &Volume, owner: Owner<'_>, path: &[u8]) -> Self {
        let (extents, damage) = match volume.extents(owner) {
            Ok(extents) => (extents, Vec::new()),
            Err(e) => (Vec::new(), vec![e.into()]),
        };
        let block_size = volume.geometry().block_size;
        let blocks = extents.iter().map(|e| u64::from(e.len)).sum();
        Self {
            ino: owner.ino,
            path: PathText(path.to_vec()),
            directory: owner.inode.file_type() == Some(FileType::Directory),
            size: owner.inode.size(),
            blocks,
            allocated_blocks: owner.inode.allocated_bytes(block_size) / u64::from(block_size.max(1)),
            entries: extents.len(),
            runs: runs(&extents),
            damage,
        }
    }

    /// The table of pieces.
    fn table(&self, page: &mut Page<'_>) -> io::Result<()> {
        use Align::{Left, Right};
        page.bytes(&self.path.0)?;
        writeln!(page, " has {} block(s), i_size is {}", self.allocated_blocks, self.size)?;
        if !page.is_terminal() {
            return self.table_plain(page);
        }
        let mut table = Table::new([
            ("ext", Right),
            ("logical", Right),
            ("physical", Right),
            ("expected", Right),
            ("length", Right),
            ("flags", Left),
        ]);
        for (i, r) in self.runs.iter().enumerate() {
            table.row([
                i.to_string(),
                r.lblk.to_string(),
                r.pblk.to_string(),
                r.expected.map(|b| b.to_string()).unwrap_or_default(),
                r.len.to_string(),
                if r.unwritten { "unwritten".into() } else { String::new() },
            ]);
        }
        table.write(page)
    }

    /// The columns as debugfs has them.
    fn table_plain(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, " ext logical physical expected  length")?;
        for (i, r) in self.runs.iter().enumerate() {
            let expected = r.expected.map(|b| b.to_string()).unwrap_or_default();
            writeln!(page, "{i:4} {:7} {:8} {expected:>8} {:7}", r.lblk.0, r.pblk.0, r.len)?;
        }
        Ok(())
    }

    fn summary(&self, page: &mut Page<'_>) -> io::Result<()> {
        page.bytes(&self.path.0)?;
        writeln!(page, ": {} contiguous extents{}", self.runs.len(), if self.directory { " (dir)" } else { "" })
    }
}

impl View for FragView {
    const SCHEMA: &'static str = "fragmentation/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        self.table(page)?;
        self.summary(page)
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}

/// Fragmentation of several files.
#[derive(Debug, Serialize)]
pub struct FragsView {
    /// Whether the text has the tables of pieces.
    #[serde(skip)]
    pub verbose: bool,
    /// One for each file.
    pub files: Vec<FragView>,
}

impl View for FragsView {
    const SCHEMA: &'static str = "fragmentation-list/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for file in &self.files {
            if self.verbose {
                file.table(page)?;
            }
            file.summary(page)?;
        }
        Ok(())
    }

    fn damage(&mut self) -> Vec<Damage> {
        self.files.iter_mut().flat_map(|f| std::mem::take(&mut f.damage)).collect()
    }
}

impl FragsView {
    /// Look at one more inode, which is named `path`.
    pub fn push(&mut self, volume: &Volume, owner: Owner<'_>, path: &[u8]) {
        self.files.push(FragView::new(volume, owner, path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_contiguous_on_both_sides() {
        let e = |lblk, len, pblk, unwritten| Extent { lblk: Lblk(lblk), len, pblk: Fsblk(pblk), unwritten };
        let got = runs(&[e(0, 4, 100, false), e(4, 2, 104, true), e(8, 1, 150, false), e(9, 1, 50, true)]);
        let summary: Vec<_> = got.iter().map(|r| (r.lblk.0, r.len, r.expected.map(|b| b.0), r.unwritten)).collect();
        assert_eq!(summary, [(0, 6, None, false), (8, 1, None, false), (9, 1, Some(151), true)]);
    }
}
