//! Free space by the size of its pieces: `e2freefrag`.

use std::io::{self, Write};

use serde::Serialize;

use super::page::Page;
use super::table::{Align, Table};
use super::{Damage, View};
use crate::error::{Error, Result};
use crate::format::bitmap;
use crate::volume::Volume;

/// Free pieces of one size class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SizeClass {
    /// Smallest size in bytes.
    pub from: u64,
    /// The size in bytes that is too large.
    pub below: u64,
    /// Pieces.
    pub extents: u64,
    /// Blocks in them.
    pub blocks: u64,
}

/// Free space.
#[derive(Debug, Serialize)]
pub struct FreeSpaceView {
    /// What it is named, where the text is to say so.
    #[serde(skip)]
    pub device: Option<String>,
    /// Block size in bytes.
    pub block_size: u32,
    /// Blocks of the filesystem.
    pub total_blocks: u64,
    /// Free blocks, by the bitmaps.
    pub free_blocks: u64,
    /// Chunks asked about: size in bytes, how many there are, how many are free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Chunks>,
    /// Free pieces.
    pub extents: u64,
    /// Smallest piece, blocks; 0 where there is none.
    pub min_blocks: u64,
    /// Largest piece, blocks.
    pub max_blocks: u64,
    /// Average piece, blocks, rounded down.
    pub avg_blocks: u64,
    /// Size classes (powers of two) that hold something, smallest first.
    pub histogram: Vec<SizeClass>,
    /// Bitmaps that could not be read.
    pub damage: Vec<Damage>,
}

/// Aligned pieces of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Chunks {
    /// Size in bytes.
    pub size: u64,
    /// How many the filesystem has, with what is behind the last whole one; that counts as one also where it is empty, as
    /// e2freefrag counts.
    pub total: u64,
    /// How many are free from end to end.
    pub free: u64,
}

/// Free pieces on the way through the bitmaps; a piece may go on in the next group.
struct Tally {
    classes: [SizeClass; 64],
    min: u64,
    max: u64,
    open: Option<(u64, u64)>,
    chunk_blocks: u64,
    free_chunks: u64,
}

impl Tally {
    fn run(&mut self, start: u64, end: u64) {
        match &mut self.open {
            Some((_, e)) if *e == start => *e = end,
            _ => {
                self.close();
                self.open = Some((start, end));
            }
        }
    }

    fn close(&mut self) {
        let Some((start, end)) = self.open.take() else { return };
        let len = end - start;
        self.min = self.min.min(len);
        self.max = self.max.max(len);
        let class = &mut self.classes[len.max(1).ilog2() as usize];
        class.extents = class.extents.saturating_add(1);
        class.blocks = class.blocks.saturating_add(len);
        if let Some(first) = start.checked_next_multiple_of(self.chunk_blocks.max(1))
            && self.chunk_blocks > 0
        {
            self.free_chunks = self.free_chunks.saturating_add(end.saturating_sub(first) / self.chunk_blocks);
        }
    }
}

impl FreeSpaceView {
    /// Read all block bitmaps. `chunk` is a size in bytes.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a chunk that is no power of two or smaller than a block.
    pub fn new(volume: &Volume, chunk: Option<u64>) -> Result<Self> {
        let geo = volume.geometry();
        let block_size = u64::from(geo.block_size);
        if let Some(size) = chunk
            && (!size.is_power_of_two() || size < block_size)
        {
            return Err(Error::InvalidArgument {
                name: "chunk size",
                value: size.to_string(),
                allowed: "a power of two, at least the block size",
            });
        }
        let empty = |i: usize| SizeClass {
            from: block_size.checked_shl(i as u32).unwrap_or(u64::MAX),
            below: block_size.checked_shl(i as u32 + 1).unwrap_or(u64::MAX),
            extents: 0,
            blocks: 0,
        };
        let mut tally = Tally {
            classes: std::array::from_fn(empty),
            min: u64::MAX,
            max: 0,
            open: None,
            chunk_blocks: chunk.unwrap_or(0) / block_size,
            free_chunks: 0,
        };
        let mut damage = Vec::new();
        for group in geo.all_groups() {
            let map = match volume.block_bitmap(group) {
                Ok(map) => map,
                Err(e) => {
                    damage.push(e.into());
                    continue;
                }
            };
            let start = geo.group_start(group).0;
            let end = start.saturating_add(geo.blocks_in_group(group).into());
            for run in bitmap::zero_runs(&map, 0, geo.clusters_in_group(group) as usize) {
                let from = start.saturating_add((run.start as u64) << geo.cluster_bits);
                tally.run(from, start.saturating_add((run.end as u64) << geo.cluster_bits).min(end));
            }
        }
        tally.close();
        let extents = tally.classes.iter().map(|c| c.extents).sum();
        let free_blocks: u64 = tally.classes.iter().map(|c| c.blocks).sum();
        Ok(Self {
            device: None,
            block_size: geo.block_size,
            total_blocks: geo.blocks_count,
            free_blocks,
            chunks: chunk.map(|size| Chunks {
                size,
                total: (geo.blocks_count / tally.chunk_blocks.max(1)).saturating_add(1),
                free: tally.free_chunks,
            }),
            extents,
            min_blocks: if extents == 0 { 0 } else { tally.min },
            max_blocks: tally.max,
            avg_blocks: free_blocks.checked_div(extents).unwrap_or(0),
            histogram: tally.classes.into_iter().filter(|c| c.extents > 0).collect(),
            damage,
        })
    }
}

/// The bounds of a size class in the unit of the lower one.
fn bounds(class: &SizeClass) -> (u64, u64, &'static str) {
    let (unit, shift) = match class.from {
        0x4000_0000.. => ("G", 30),
        0x10_0000.. => ("M", 20),
        _ => ("K", 10),
    };
    (class.from >> shift, class.below >> shift, unit)
}

impl FreeSpaceView {
    /// The columns as debugfs has them.
    fn histogram_plain(&self, page: &mut Page<'_>) -> io::Result<()> {
        let heads = ("Extent Size Range", "Free extents", "Free Blocks", "Percent");
        writeln!(page, "{} :  {:>12}  {:>12}  {:>7}", heads.0, heads.1, heads.2, heads.3)?;
        for class in &self.histogram {
            let (from, below, unit) = bounds(class);
            let share = percent(class.blocks, self.free_blocks);
            let counts = format!("{:12}  {:12}  {share:6.2}%", class.extents, class.blocks);
            writeln!(page, "{from:5}{unit}...{below:5}{unit}-  :  {counts}")?;
        }
        Ok(())
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

impl View for FreeSpaceView {
    const SCHEMA: &'static str = "free-space/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let kib = |blocks: u64| blocks.saturating_mul(self.block_size.into()) / 1024;
        if let Some(device) = &self.device {
            writeln!(page, "Device: {device}")?;
        }
        page.pair("Blocksize", format_args!("{} bytes", self.block_size))?;
        page.pair("Total blocks", self.total_blocks)?;
        let share = percent(self.free_blocks, self.total_blocks);
        page.pair("Free blocks", format_args!("{} ({share:.1}%)", self.free_blocks))?;
        if let Some(c) = self.chunks {
            let blocks = c.size / u64::from(self.block_size.max(1));
            page.pair("Chunksize", format_args!("{} bytes ({blocks} blocks)", c.size))?;
            page.pair("Total chunks", c.total)?;
            page.pair("Free chunks", format_args!("{} ({:.1}%)", c.free, percent(c.free, c.total)))?;
        }
        page.pair("Min. free extent", format_args!("{} KB", kib(self.min_blocks)))?;
        page.pair("Max. free extent", format_args!("{} KB", kib(self.max_blocks)))?;
        page.pair("Avg. free extent", format_args!("{} KB", kib(self.avg_blocks)))?;
        page.pair("Num. free extent", self.extents)?;
        writeln!(page, "\nHISTOGRAM OF FREE EXTENT SIZES:")?;
        if !page.is_terminal() {
            return self.histogram_plain(page);
        }
        use Align::{Left, Right};
        let mut columns = Table::new([
            ("Extent Size Range", Right),
            ("Free extents", Right),
            ("Free Blocks", Right),
            ("Percent", Right),
            ("", Left),
        ]);
        for class in &self.histogram {
            let share = percent(class.blocks, self.free_blocks);
            let (from, below, unit) = bounds(class);
            columns.row([
                format!("{from}{unit}...{below}{unit}-"),
                class.extents.to_string(),
                class.blocks.to_string(),
                format!("{share:.2}%"),
                if page.is_terminal() { "█".repeat((share / 5.0).round() as usize) } else { String::new() },
            ]);
        }
        columns.write(page)
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}
