//! Extent status beside the extent tree on disk, and what differs: the view of `e4es`.
//!
//! The left side is a list of extent-status entries: derived here from the disk as the kernel caches them once a file
//! was looked up from end to end, or handed in by whoever has a live tree ([`StatusView::compare`]). The right side is
//! what the map on disk has for the same logical blocks.

use std::io::{self, Write};

use serde::Serialize;

use super::page::Page;
use super::table::{Align, Table};
use super::{Damage, View};
use crate::file::extent_status::{EsEntry, EsStatus, EsTree, MAX_BLOCKS};
use crate::format::extent::Extent;
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::{MapKind, Owner, Volume};

/// The logical block number after the last one that a file can have.
const END: u64 = MAX_BLOCKS as u64;

const fn name(status: EsStatus) -> &'static str {
    match status {
        EsStatus::Written => "written",
        EsStatus::Unwritten => "unwritten",
        EsStatus::Delayed => "delayed",
        EsStatus::Hole => "hole",
    }
}

/// An extent-status entry, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StatusItem {
    /// First logical block.
    pub lblk: Lblk,
    /// Blocks; entries end at block 2^32 - 1 at the latest.
    pub len: u32,
    /// First block, where allocated.
    pub pblk: Option<Fsblk>,
    /// State.
    pub status: EsStatus,
}

impl From<EsEntry> for StatusItem {
    fn from(e: EsEntry) -> Self {
        Self { lblk: e.lblk, len: e.len, pblk: e.status.is_mapped().then_some(e.pblk), status: e.status }
    }
}

impl StatusItem {
    fn end(&self) -> u64 {
        u64::from(self.lblk.0).saturating_add(self.len.into())
    }
}

/// What a row says about the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// Both sides say the same, entry for entry.
    Same,
    /// Several entries on disk are one in the cache.
    Merged,
    /// The cache knows a hole; the disk has no entry for that.
    HoleCached,
    /// Reserved in memory only; nothing on disk.
    NotOnDisk,
    /// The two disagree about where the blocks are, or whether they are written.
    Conflict,
    /// On disk, but not cached.
    NotCached,
}

impl Difference {
    const fn name(self) -> &'static str {
        match self {
            Self::Same => "",
            Self::Merged => "entries merged",
            Self::HoleCached => "hole only cached",
            Self::NotOnDisk => "not on disk",
            Self::Conflict => "CONFLICT",
            Self::NotCached => "not cached",
        }
    }
}

/// A row: an entry of the cache and what the disk has there, or what the disk has and the cache has not.
#[derive(Debug, Serialize)]
pub struct StatusRow {
    /// The cached entry.
    pub status: Option<StatusItem>,
    /// The extents on disk that it overlaps.
    pub disk: Vec<Extent>,
    /// What differs.
    pub difference: Difference,
    /// It begins at or after the end of the file.
    pub beyond_eof: bool,
}

/// The view.
#[derive(Debug, Serialize)]
pub struct StatusView {
    /// Inode.
    pub ino: Ino,
    /// Size in bytes.
    pub size: u64,
    /// Block size in bytes.
    pub block_size: u32,
    /// How the inode is mapped: `extents`, `indirect` or `none`.
    pub map: &'static str,
    /// Allocated blocks of data on disk.
    pub disk_blocks: u64,
    /// Entries of the map on disk.
    pub disk_entries: usize,
    /// Entries of the cache.
    pub status_entries: usize,
    /// The rows, in order of logical blocks.
    pub rows: Vec<StatusRow>,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

/// The extent-status tree that the kernel has after every block was looked up once and none was dropped.
pub fn derive(disk: &[Extent]) -> EsTree {
    let mut tree = EsTree::default();
    let hole = |tree: &mut EsTree, from: u64, to: u64| {
        let (from, to) = (from.min(END) as u32, to.min(END) as u32);
        if from < to {
            tree.cache(EsEntry { lblk: Lblk(from), len: to - from, status: EsStatus::Hole, pblk: Fsblk(0) });
        }
    };
    let mut at = 0;
    for e in disk {
        hole(&mut tree, at, e.lblk.0.into());
        at = e.end();
        let status = if e.unwritten { EsStatus::Unwritten } else { EsStatus::Written };
        let len = at.min(END).saturating_sub(e.lblk.0.into()) as u32;
        if len > 0 {
            tree.cache(EsEntry { lblk: e.lblk, len, status, pblk: e.pblk });
        }
    }
    hole(&mut tree, at, END);
    tree
}

impl StatusView {
    /// The view of an inode, its extent status derived from the disk.
    pub fn new(volume: &Volume, owner: Owner<'_>) -> Self {
        let (disk, damage) = match volume.extents(owner) {
            Ok(disk) => (disk, Vec::new()),
            Err(e) => (Vec::new(), vec![e.into()]),
        };
        let kind = volume.map_kind(owner.inode);
        let status = if kind == MapKind::None || !damage.is_empty() { EsTree::default() } else { derive(&disk) };
        let mut view = Self::compare(&status, &disk, owner.inode.size(), volume.geometry().block_size);
        view.ino = owner.ino;
        view.map = match kind {
            MapKind::None => "none",
            MapKind::Extents => "extents",
            MapKind::Indirect => "indirect",
        };
        view.damage = damage;
        view
    }

    /// Put an extent-status tree beside the extents on disk, which are sorted and do not overlap.
    pub fn compare(status: &EsTree, disk: &[Extent], size: u64, block_size: u32) -> Self {
        let eof = size.div_ceil(block_size.max(1).into());
        let mut rows = Vec::new();
        let mut next_disk = 0;
        let orphan = |e: &Extent| StatusRow {
            status: None,
            disk: vec![*e],
            difference: Difference::NotCached,
            beyond_eof: u64::from(e.lblk.0) >= eof,
        };
        let mut last = 0;
        for s in status.iter().map(StatusItem::from) {
            while let Some(e) = disk.get(next_disk).filter(|e| e.end() <= s.lblk.0.into()) {
                // What begins before the end of the entry before was shown with that.
                if u64::from(e.lblk.0) >= last {
                    rows.push(orphan(e));
                }
                next_disk = next_disk.saturating_add(1);
            }
            let rest = disk.get(next_disk..).unwrap_or_default();
            let under: Vec<Extent> = rest.iter().take_while(|e| u64::from(e.lblk.0) < s.end()).copied().collect();
            let difference = differ(&s, &under);
            rows.push(StatusRow { status: Some(s), disk: under, difference, beyond_eof: u64::from(s.lblk.0) >= eof });
            last = s.end();
        }
        rows.extend(disk.iter().filter(|e| u64::from(e.lblk.0) >= last).map(orphan));
        Self {
            ino: Ino(0),
            size,
            block_size,
            map: "none",
            disk_blocks: disk.iter().map(|e| u64::from(e.len)).sum(),
            disk_entries: disk.len(),
            status_entries: status.len(),
            rows,
            damage: Vec::new(),
        }
    }
}

fn differ(s: &StatusItem, disk: &[Extent]) -> Difference {
    match s.status {
        EsStatus::Hole if disk.is_empty() => Difference::HoleCached,
        EsStatus::Delayed if disk.is_empty() => Difference::NotOnDisk,
        EsStatus::Hole | EsStatus::Delayed => Difference::Conflict,
        EsStatus::Written | EsStatus::Unwritten => {
            let agrees = disk.iter().all(|e| {
                let same_place = match s.pblk {
                    Some(p) => p.0.wrapping_sub(s.lblk.0.into()) == e.pblk.0.wrapping_sub(e.lblk.0.into()),
                    None => false,
                };
                same_place && e.unwritten == (s.status == EsStatus::Unwritten)
            });
            let covered: u64 = disk
                .iter()
                .map(|e| e.end().min(s.end()).saturating_sub(u64::from(e.lblk.0).max(s.lblk.0.into())))
                .sum();
            match disk.len() {
                _ if !agrees || covered != u64::from(s.len) => Difference::Conflict,
                1 => Difference::Same,
                _ => Difference::Merged,
            }
        }
    }
}

fn range(first: u64, len: u64) -> String {
    match len {
        0 | 1 => first.to_string(),
        _ => format!("{first}-{}", first.saturating_add(len - 1)),
    }
}

impl View for StatusView {
    const SCHEMA: &'static str = "extent-status/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(
            page,
            "inode {}: {} bytes, {} blocks of {} bytes; map: {}, {} entries on disk, {} in the extent status tree",
            self.ino, self.size, self.disk_blocks, self.block_size, self.map, self.disk_entries, self.status_entries
        )?;
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut table =
            Table::new([("Extent status", Align::Left), ("On disk", Align::Left), ("Difference", Align::Left)]);
        for row in &self.rows {
            let status = row.status.map_or_else(String::new, |s| {
                let place = s.pblk.map(|p| format!(" @{}", range(p.0, s.len.into()))).unwrap_or_default();
                let blocks = if s.end() == END && s.status == EsStatus::Hole {
                    format!("{}-", s.lblk)
                } else {
                    range(s.lblk.0.into(), s.len.into())
                };
                format!("{blocks} {}{place}", name(s.status))
            });
            let mut notes = row.difference.name().to_owned();
            if row.beyond_eof && (!row.disk.is_empty() || row.difference == Difference::NotOnDisk) {
                notes.push_str(if notes.is_empty() { "beyond end of file" } else { "; beyond end of file" });
            }
            let mut lines = row.disk.iter().map(|e| {
                let state = if e.unwritten { "unwritten" } else { "written" };
                format!("{} {state} @{}", range(e.lblk.0.into(), e.len.into()), range(e.pblk.0, e.len.into()))
            });
            table.row([status, lines.next().unwrap_or_else(|| "-".into()), notes]);
            for line in lines {
                table.row([String::new(), line, String::new()]);
            }
        }
        table.write(page)
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ext(lblk: u32, len: u32, pblk: u64, unwritten: bool) -> Extent {
        Extent { lblk: Lblk(lblk), len, pblk: Fsblk(pblk), unwritten }
    }

    #[test]
    fn derived_status_merges_and_knows_holes() {
        let disk = [ext(2, 3, 10, false), ext(5, 3, 13, false), ext(8, 1, 16, true), ext(20, 1, 30, false)];
        let list = |disk: &[Extent]| -> Vec<_> {
            derive(disk).iter().map(|e| (e.lblk.0, e.len, e.status.is_mapped().then_some(e.pblk.0), e.status)).collect()
        };
        use EsStatus::{Hole, Unwritten, Written};
        assert_eq!(
            list(&disk),
            [
                (0, 2, None, Hole),
                (2, 6, Some(10), Written),
                (8, 1, Some(16), Unwritten),
                (9, 11, None, Hole),
                (20, 1, Some(30), Written),
                (21, 0xffff_ffff - 21, None, Hole),
            ]
        );
        assert_eq!(list(&[]), [(0, 0xffff_ffff, None, Hole)]);
        assert_eq!(list(&[ext(u32::MAX - 1, 2, 5, false)]).last(), Some(&(u32::MAX - 1, 1, Some(5), Written)));
    }

    #[test]
    fn differences_are_named() {
        use Difference as D;
        let kinds = |status: &EsTree, disk: &[Extent]| -> Vec<D> {
            StatusView::compare(status, disk, 1 << 20, 4096).rows.iter().map(|r| r.difference).collect()
        };
        let disk = [ext(0, 4, 10, false), ext(4, 4, 14, false), ext(10, 1, 50, true)];
        assert_eq!(kinds(&derive(&disk), &disk), [D::Merged, D::HoleCached, D::Same, D::HoleCached]);
        let tree = |entries: &[(u32, u32, u64, EsStatus)]| {
            let mut tree = EsTree::default();
            for &(lblk, len, pblk, status) in entries {
                tree.insert(EsEntry { lblk: Lblk(lblk), len, status, pblk: Fsblk(pblk) });
            }
            tree
        };
        // Written in memory, not yet converted on disk; delayed; a hole where the disk has blocks; and one not cached.
        let live = tree(&[(0, 4, 10, EsStatus::Unwritten), (8, 2, 0, EsStatus::Delayed), (10, 1, 0, EsStatus::Hole)]);
        assert_eq!(kinds(&live, &disk), [D::Conflict, D::NotCached, D::NotOnDisk, D::Conflict]);
        assert_eq!(kinds(&EsTree::default(), &disk), [D::NotCached; 3]);
        // An extent that two entries share is in a row of each, and not one of its own.
        let split = tree(&[(0, 2, 10, EsStatus::Written), (3, 1, 13, EsStatus::Written)]);
        assert_eq!(kinds(&split, &disk[..1]), [D::Same, D::Same]);
    }
}
