//! The extent tree of an inode, entry by entry: debugfs's `dump_extents`.

use std::io::{self, Write};
use std::ops::ControlFlow;

use serde::Serialize;

use super::page::Page;
use super::table::{Align, Table};
use super::{Damage, View};
use crate::error::{Error, Result};
use crate::format::extent::{Entries, Node};
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::{MapEvent, MapKind, Owner, Volume};

/// An entry of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExtentRow {
    /// Level of the node that holds the entry; 0 is the root, in the inode.
    pub level: u16,
    /// The entry's place in its node, from 1.
    pub entry: usize,
    /// Entries in use in its node.
    pub entries: usize,
    /// Whether it leads to another node (and not to data).
    pub index: bool,
    /// First logical block.
    pub lblk: Lblk,
    /// Logical blocks; for an index entry, up to the next one or the end of the file, which is an estimate.
    pub len: u64,
    /// First block of the data, or the block of the node that it leads to.
    pub pblk: Fsblk,
    /// Allocated, but reads as zeros.
    pub unwritten: bool,
}

/// An extent tree.
#[derive(Debug, Serialize)]
pub struct ExtentsView {
    /// Inode.
    pub ino: Ino,
    /// Levels below the root.
    pub depth: u16,
    /// Entries in the order of a walk: a node's entry comes before what is below it.
    pub rows: Vec<ExtentRow>,
    /// What could not be read.
    pub damage: Vec<Damage>,
    /// Blocks of the file, for the width of columns.
    #[serde(skip)]
    file_blocks: u64,
    /// Blocks of the filesystem, likewise.
    #[serde(skip)]
    fs_blocks: u64,
}

/// Which entries to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtentsFilter {
    /// Only entries that lead to nodes.
    pub nodes_only: bool,
    /// Only entries that lead to data.
    pub leaves_only: bool,
}

/// A node on the way from the root to where the walk is.
struct Level {
    entries: usize,
    next: usize,
    /// First logical blocks of the entries after each, and the end.
    starts: Vec<u64>,
}

impl Level {
    fn new(node: &Node, end: u64) -> Self {
        let starts = match &node.entries {
            Entries::Leaf(v) => v.iter().map(|e| u64::from(e.lblk.0)).chain([end]).collect(),
            Entries::Index(v) => v.iter().map(|i| u64::from(i.lblk.0)).chain([end]).collect(),
        };
        Self { entries: node.len(), next: 0, starts }
    }
}

impl ExtentsView {
    /// The tree of an inode.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an inode that has none; a root that is damaged.
    pub fn new(volume: &Volume, owner: Owner<'_>, filter: ExtentsFilter) -> Result<Self> {
        if volume.map_kind(owner.inode) != MapKind::Extents {
            return Err(Error::InvalidArgument {
                name: "inode",
                value: owner.ino.to_string(),
                allowed: "an inode that is mapped by extents",
            });
        }
        let root = Node::decode(&owner.inode.block_area())?;
        let end = owner.inode.size().div_ceil(volume.geometry().block_size.into());
        let mut levels = vec![Level::new(&root, end)];
        let mut rows = Vec::new();
        let walked = volume.walk_map(owner, &mut |event| {
            let (depth, row) = match event {
                MapEvent::Node { block, depth, lblk } => {
                    let row = ExtentRow {
                        level: 0,
                        entry: 0,
                        entries: 0,
                        index: true,
                        lblk,
                        len: 0,
                        pblk: block,
                        unwritten: false,
                    };
                    (depth.saturating_add(1), row)
                }
                MapEvent::Data(e) => {
                    let row = ExtentRow {
                        level: 0,
                        entry: 0,
                        entries: 0,
                        index: false,
                        lblk: e.lblk,
                        len: e.len.into(),
                        pblk: e.pblk,
                        unwritten: e.unwritten,
                    };
                    (0, row)
                }
            };
            let level = usize::from(root.depth).saturating_sub(depth as usize);
            levels.truncate(level.saturating_add(1));
            let Some(at) = levels.get_mut(level) else { return Ok(ControlFlow::Continue(())) };
            at.next = at.next.saturating_add(1);
            let next_start = at.starts.get(at.next).copied().unwrap_or(end);
            let len = if row.index { next_start.saturating_sub(row.lblk.0.into()) } else { row.len };
            let (entry, entries) = (at.next, at.entries);
            if row.index {
                let node = Node::decode(&volume.block(row.pblk)?)?;
                levels.push(Level::new(&node, next_start));
            }
            let shown = if row.index { !filter.leaves_only } else { !filter.nodes_only };
            if shown {
                rows.push(ExtentRow { level: level as u16, entry, entries, len, ..row });
            }
            Ok(ControlFlow::Continue(()))
        });
        let damage = walked.err().map(Damage::from).into_iter().collect();
        let fs_blocks = volume.geometry().blocks_count;
        Ok(Self { ino: owner.ino, depth: root.depth, rows, damage, file_blocks: end, fs_blocks })
    }
}

/// Digits that a number takes, at least as many as a column has.
fn digits(n: u64) -> usize {
    (n.max(1).ilog10() as usize).saturating_add(1).max(5)
}

impl ExtentsView {
    /// The columns as debugfs has them.
    fn text_plain(&self, page: &mut Page<'_>) -> io::Result<()> {
        let (l, p) = (digits(self.file_blocks), digits(self.fs_blocks));
        let (lw, pw) = (l.saturating_mul(2).saturating_add(3), p.saturating_mul(2).saturating_add(3));
        writeln!(page, "Level Entries {:>lw$} {:>pw$} Length Flags", "Logical", "Physical")?;
        for r in &self.rows {
            let last = |first: u64| first.saturating_add(r.len).saturating_sub(1);
            write!(page, "{:2}/{:2} {:3}/{:3} ", r.level, self.depth, r.entry, r.entries)?;
            write!(page, "{:l$} - {:l$} {:p$}", r.lblk.0, last(r.lblk.0.into()), r.pblk.0)?;
            if r.index {
                writeln!(page, "{:w$} {:6}", "", r.len, w = p.saturating_add(3))?;
            } else {
                let flags = if r.unwritten { "Uninit" } else { "" };
                writeln!(page, " - {:p$} {:6} {flags}", last(r.pblk.0), r.len)?;
            }
        }
        Ok(())
    }
}

impl View for ExtentsView {
    const SCHEMA: &'static str = "extents/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        if !page.is_terminal() {
            return self.text_plain(page);
        }
        use Align::{Left, Right};
        let mut table = Table::new([
            ("Level", Left),
            ("Entries", Right),
            ("Logical", Right),
            ("Physical", Right),
            ("Length", Right),
            ("Flags", Left),
        ]);
        for r in &self.rows {
            let physical = if r.index {
                r.pblk.to_string()
            } else {
                format!("{} - {}", r.pblk, r.pblk.0.saturating_add(r.len).saturating_sub(1))
            };
            let last = u64::from(r.lblk.0).saturating_add(r.len).saturating_sub(1);
            table.row([
                format!("{}/{}", r.level, self.depth),
                format!("{}/{}", r.entry, r.entries),
                format!("{} - {last}", r.lblk),
                physical,
                r.len.to_string(),
                if r.unwritten { "Unwritten".into() } else { String::new() },
            ]);
        }
        table.write(page)
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}
