//! Pictures: how full block groups are, and where a file lies, as rows of cells; in characters or as SVG. A cell stands for
//! as many blocks as make a row of [`CELLS`] of a group (of several groups, where there are many).

use std::io::{self, Write};

use serde::Serialize;

use super::View;
use super::page::Page;
use crate::error::Result;
use crate::format::bitmap;
use crate::units::{Fsblk, Group, Ino};
use crate::volume::{Owner, Volume};

/// Cells of a row.
const CELLS: usize = 64;
/// Most rows.
const MAX_ROWS: u32 = 256;

/// Blocks behind one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// How many there are.
    pub blocks: u64,
    /// Of them in use.
    pub used: u64,
    /// Of them the filesystem's own: bitmaps, tables, descriptors.
    pub own: u64,
    /// Of them the file's.
    pub file: u64,
}

/// Groups in a row.
#[derive(Debug, Serialize)]
pub struct MapRow {
    /// The first group.
    pub group: Group,
    /// The first block.
    pub block: Fsblk,
    /// Its cells.
    pub cells: Vec<Cell>,
}

/// The picture.
#[derive(Debug, Serialize)]
pub struct MapView {
    /// The file that is marked, where one was asked for.
    pub ino: Option<Ino>,
    /// Groups in a row.
    pub groups_per_row: u32,
    /// Blocks in a cell.
    pub blocks_per_cell: u64,
    /// The rows.
    pub rows: Vec<MapRow>,
}

impl MapView {
    /// All groups of `volume`, with the blocks of a file.
    ///
    /// # Errors
    /// Bitmaps, or the file's map, that cannot be read.
    pub fn new(volume: &Volume, file: Option<Owner<'_>>) -> Result<Self> {
        let geo = volume.geometry();
        let per_row = geo.groups.div_ceil(MAX_ROWS).max(1);
        let row_blocks = u64::from(geo.blocks_per_group).saturating_mul(per_row.into());
        let per_cell = row_blocks.div_ceil(CELLS as u64).max(1);
        let rows = geo.groups.div_ceil(per_row);
        let mut view =
            Self { ino: file.map(|f| f.ino), groups_per_row: per_row, blocks_per_cell: per_cell, rows: Vec::new() };
        for row in 0..rows {
            let group = Group(row.saturating_mul(per_row));
            view.rows.push(MapRow { group, block: geo.group_start(group), cells: vec![Cell::default(); CELLS] });
        }
        for group in geo.all_groups() {
            let map = volume.block_bitmap(group)?;
            let start = geo.group_start(group);
            for n in 0..geo.blocks_in_group(group) {
                let used = bitmap::test(&map, (n >> geo.cluster_bits) as usize);
                if let Some(cell) = view.cell(volume, start.saturating_add(n.into())) {
                    cell.blocks = cell.blocks.saturating_add(1);
                    cell.used = cell.used.saturating_add(used.into());
                }
            }
            let desc = volume.group(group)?;
            let head = geo.super_block(group).unwrap_or(start);
            let own = [(head, geo.super_and_gdt_blocks(group)), (desc.block_bitmap(), 1), (desc.inode_bitmap(), 1)];
            for (first, len) in own.into_iter().chain([(desc.inode_table(), geo.itable_blocks)]) {
                view.mark(volume, first, len.into(), |cell| &mut cell.own);
            }
        }
        if let Some(owner) = file {
            for e in volume.extents(owner)? {
                view.mark(volume, e.pblk, e.len.into(), |cell| &mut cell.file);
            }
        }
        view.rows.iter_mut().for_each(|r| r.cells.retain(|c| c.blocks > 0));
        Ok(view)
    }

    fn cell(&mut self, volume: &Volume, block: Fsblk) -> Option<&mut Cell> {
        let geo = volume.geometry();
        let n = block.0.checked_sub(geo.first_data_block)?;
        let row_blocks = u64::from(geo.blocks_per_group).saturating_mul(self.groups_per_row.into()).max(1);
        let row = self.rows.get_mut((n / row_blocks) as usize)?;
        row.cells.get_mut((n % row_blocks / self.blocks_per_cell.max(1)) as usize)
    }

    fn mark(&mut self, volume: &Volume, first: Fsblk, len: u64, part: impl Fn(&mut Cell) -> &mut u64) {
        for n in 0..len {
            if let Some(cell) = self.cell(volume, first.saturating_add(n)) {
                let count = part(cell);
                *count = count.saturating_add(1);
            }
        }
    }

    /// The picture as an SVG document.
    pub fn svg(&self) -> String {
        let (size, left) = (12, 70);
        let width = left + size * CELLS;
        let height = size * self.rows.len() + 30;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"monospace\" font-size=\"10\">\n"
        );
        for (y, row) in self.rows.iter().enumerate() {
            let top = y.saturating_mul(size);
            let label = format!("<text x=\"2\" y=\"{}\">group {}</text>\n", top + 10, row.group);
            svg.push_str(&label);
            for (x, cell) in row.cells.iter().enumerate() {
                let at = left + x.saturating_mul(size);
                let (color, opacity) = cell.color();
                let rect = format!(
                    "<rect x=\"{at}\" y=\"{top}\" width=\"{size}\" height=\"{size}\" fill=\"{color}\" fill-opacity=\"{opacity:.2}\" stroke=\"#ccc\"/>\n"
                );
                svg.push_str(&rect);
            }
        }
        let legend = "red: the file, blue: the filesystem's own blocks, green: in use, white: free";
        svg + &format!(
            "<text x=\"2\" y=\"{}\">{legend}; a cell is {} blocks</text>\n</svg>\n",
            height - 8,
            self.blocks_per_cell
        )
    }
}

impl Cell {
    /// What is most of interest in it, and how much of that there is.
    fn color(&self) -> (&'static str, f64) {
        let share = |n: u64| 0.3 + 0.7 * (n as f64 / self.blocks.max(1) as f64);
        match (self.file, self.own, self.used) {
            (1.., ..) => ("#d03030", share(self.file)),
            (0, 1.., _) => ("#3060c0", share(self.own)),
            (0, 0, 1..) => ("#40a040", share(self.used)),
            _ => ("#ffffff", 1.0),
        }
    }

    const fn letter(&self) -> char {
        match (self.file, self.own, self.used) {
            (1.., ..) => '@',
            (0, 1.., _) => 'M',
            (0, 0, 0) => '·',
            (0, 0, n) if n == self.blocks => '█',
            (0, 0, n) if n.saturating_mul(2) >= self.blocks => '▓',
            _ => '░',
        }
    }
}

impl View for MapView {
    const SCHEMA: &'static str = "map/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for row in &self.rows {
            let line: String = row.cells.iter().map(Cell::letter).collect();
            let (used, blocks) = row.cells.iter().fold((0u64, 0u64), |(u, b), c| (u + c.used, b + c.blocks));
            let percent = used.saturating_mul(100).checked_div(blocks).unwrap_or(0);
            writeln!(page, "group {:5} |{line:<CELLS$}| {percent:3}%", row.group.0)?;
        }
        writeln!(
            page,
            "a cell is {} blocks; M: the filesystem's own, █ ▓ ░: all, most, some in use, ·: free",
            self.blocks_per_cell
        )?;
        if self.ino.is_some() { writeln!(page, "@: the file") } else { Ok(()) }
    }
}
