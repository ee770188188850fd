//! Block groups: where their metadata is, what is free; dumpe2fs's content.

use std::io::{self, Write};

use serde::Serialize;

use super::page::Page;
use super::{Damage, View};
use crate::error::Result;
use crate::format::bitmap;
use crate::format::features::{Incompat, RoCompat};
use crate::format::group_desc::{BgFlags, GroupDesc};
use crate::units::{Fsblk, Group};
use crate::volume::Volume;

/// Numbers from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The first one.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

impl Range {
    fn of_len(first: Fsblk, len: u32) -> Option<Self> {
        let more = u64::from(len.checked_sub(1)?);
        Some(Self { first: first.0, last: first.0.saturating_add(more) })
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// One group.
#[derive(Debug, Serialize)]
pub struct GroupView {
    /// Its number.
    pub group: Group,
    /// Its blocks.
    pub blocks: Range,
    /// Flags that are on, as dumpe2fs names them.
    pub flags: Vec<&'static str>,
    /// Stored checksum of the descriptor, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<u16>,
    /// The checksum that the descriptor should have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum_computed: Option<u16>,
    /// Block of the superblock copy, where the group has one.
    pub superblock: Option<u64>,
    /// Blocks of group descriptors.
    pub group_descriptors: Option<Range>,
    /// The descriptors are those of a meta block group.
    pub meta_bg: bool,
    /// Reserved blocks of group descriptors.
    pub reserved_gdt: Option<Range>,
    /// Block bitmap.
    pub block_bitmap: Fsblk,
    /// Stored checksum of the block bitmap, with metadata_csum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_bitmap_checksum: Option<u32>,
    /// Inode bitmap.
    pub inode_bitmap: Fsblk,
    /// Stored checksum of the inode bitmap, with metadata_csum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode_bitmap_checksum: Option<u32>,
    /// Inode table.
    pub inode_table: Range,
    /// Free clusters (blocks without bigalloc).
    pub free_clusters: u32,
    /// Free inodes.
    pub free_inodes: u32,
    /// Directories.
    pub directories: u32,
    /// Inodes at the end of the table that were never used; with descriptor checksums.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unused_inodes: Option<u32>,
    /// Ranges of free blocks, as the bitmap has them; where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_block_ranges: Option<Vec<Range>>,
    /// Ranges of free inodes, as the bitmap has them; where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_inode_ranges: Option<Vec<Range>>,
}

/// All groups.
#[derive(Debug, Serialize)]
pub struct GroupsView {
    /// Whether free space is counted in clusters of several blocks.
    pub bigalloc: bool,
    /// Blocks of a flexible group's metadata may lie in another group: groups per flexible group, log2.
    pub flex_bits: u32,
    /// Blocks per group.
    pub blocks_per_group: u32,
    /// First block of group 0.
    pub first_block: u64,
    /// The groups in order.
    pub groups: Vec<GroupView>,
    /// What could not be read.
    pub damage: Vec<Damage>,
    /// The text is debugfs's, which has less than dumpe2fs's.
    #[serde(skip)]
    pub short: bool,
}

/// How many directories the group descriptors count.
pub(super) fn directories(volume: &Volume) -> Result<u64> {
    volume.geometry().all_groups().try_fold(0u64, |n, g| Ok(n.saturating_add(volume.group(g)?.used_dirs().into())))
}

impl GroupsView {
    /// All groups of `volume`; with `free_ranges` their bitmaps are read.
    pub fn new(volume: &Volume, free_ranges: bool) -> Result<Self> {
        let geo = volume.geometry();
        let mut damage = Vec::new();
        let groups = geo
            .all_groups()
            .map(|g| GroupView::new(volume, g, free_ranges, &mut damage))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            bigalloc: geo.features.ro_compat.contains(RoCompat::BIGALLOC),
            flex_bits: geo.flex_bits,
            blocks_per_group: geo.blocks_per_group,
            first_block: geo.first_data_block,
            groups,
            damage,
            short: false,
        })
    }
}

impl GroupView {
    fn new(volume: &Volume, group: Group, free_ranges: bool, damage: &mut Vec<Damage>) -> Result<Self> {
        let geo = volume.geometry();
        let raw = volume.raw_group(group)?;
        let desc = GroupDesc::decode(raw)?;
        let start = geo.group_start(group);
        let (gdt, reserved) = descriptor_blocks(volume, group);
        let has_csum = geo.checksums.has_group_desc_csum();
        let bitmap_csum = |stored: u32| {
            let mask = if geo.desc_size < 64 { 0xffff } else { u32::MAX };
            geo.checksums.seed().map(|_| stored & mask)
        };
        let mut ranges = |found: Result<Vec<Range>>| match found {
            Ok(ranges) => Some(ranges),
            Err(e) => {
                damage.push(e.into());
                None
            }
        };
        let (free_block_ranges, free_inode_ranges) = if free_ranges {
            (ranges(free_blocks(volume, group)), ranges(free_inodes(volume, group)))
        } else {
            (None, None)
        };
        let blocks = Range::of_len(start, geo.blocks_in_group(group));
        Ok(Self {
            group,
            blocks: blocks.unwrap_or(Range { first: start.0, last: start.0 }),
            flags: flag_names(desc.bg_flags()),
            checksum: has_csum.then_some(desc.checksum.get()),
            checksum_computed: desc.computed_checksum(geo.checksums, group, geo.desc_size, raw),
            superblock: geo.super_block(group).map(|b| b.0),
            group_descriptors: gdt,
            meta_bg: in_meta_bg(volume, group),
            reserved_gdt: reserved,
            block_bitmap: desc.block_bitmap(),
            block_bitmap_checksum: bitmap_csum(desc.block_bitmap_csum()),
            inode_bitmap: desc.inode_bitmap(),
            inode_bitmap_checksum: bitmap_csum(desc.inode_bitmap_csum()),
            inode_table: Range::of_len(desc.inode_table(), geo.itable_blocks)
                .unwrap_or(Range { first: desc.inode_table().0, last: desc.inode_table().0 }),
            free_clusters: desc.free_clusters(),
            free_inodes: desc.free_inodes(),
            directories: desc.used_dirs(),
            unused_inodes: has_csum.then_some(desc.itable_unused()),
            free_block_ranges,
            free_inode_ranges,
        })
    }
}

impl GroupView {
    /// As debugfs has it.
    fn short_text(&self, page: &mut Page<'_>, bigalloc: bool) -> io::Result<()> {
        let plural = |n: u32| if n == 1 { "" } else { "s" };
        let (blocks, inodes, dirs) = (self.free_clusters, self.free_inodes, self.directories);
        writeln!(
            page,
            " Group {:2}: block bitmap at {}, inode bitmap at {}, inode table at {}",
            self.group.0, self.block_bitmap, self.inode_bitmap, self.inode_table.first
        )?;
        let unit = if bigalloc { "cluster" } else { "block" };
        write!(page, "           {blocks} free {unit}{}, {inodes} free inode{}, ", plural(blocks), plural(inodes))?;
        write!(page, "{dirs} used director{}", if dirs == 1 { "y" } else { "ies" })?;
        match self.unused_inodes {
            Some(n) => writeln!(page, ", {n} unused inode{}", plural(n))?,
            None => writeln!(page)?,
        }
        let Some(checksum) = self.checksum else { return Ok(()) };
        let names = [("INODE_UNINIT", "Inode not init, "), ("BLOCK_UNINIT", "Block not init, ")];
        let flags: String = names.iter().filter(|(f, _)| self.flags.contains(f)).map(|(_, text)| *text).collect();
        writeln!(page, "           [{flags}Checksum {checksum:#06x}]")
    }
}

/// Whether a group's descriptor is kept in its meta block group.
fn in_meta_bg(volume: &Volume, group: Group) -> bool {
    let geo = volume.geometry();
    geo.features.incompat.contains(Incompat::META_BG) && geo.meta_group_of(group) >= geo.first_meta_bg
}

/// Blocks of descriptors in a group, and those reserved for more.
fn descriptor_blocks(volume: &Volume, group: Group) -> (Option<Range>, Option<Range>) {
    let geo = volume.geometry();
    let here = geo.gdt_blocks_in_group(group);
    let first = geo.super_block(group).map_or_else(|| geo.group_start(group), |b| b.saturating_add(1));
    let gdt = Range::of_len(first, here);
    let reserved = if geo.has_super(group) && !in_meta_bg(volume, group) { geo.reserved_gdt_blocks } else { 0 };
    (gdt, Range::of_len(first.saturating_add(here.into()), reserved))
}

fn flag_names(flags: BgFlags) -> Vec<&'static str> {
    let names = [
        (BgFlags::INODE_UNINIT, "INODE_UNINIT"),
        (BgFlags::BLOCK_UNINIT, "BLOCK_UNINIT"),
        (BgFlags::INODE_ZEROED, "ITABLE_ZEROED"),
    ];
    names.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| name).collect()
}

fn free_blocks(volume: &Volume, group: Group) -> Result<Vec<Range>> {
    let geo = volume.geometry();
    let map = volume.block_bitmap(group)?;
    let (start, ratio) = (geo.group_start(group).0, u64::from(geo.cluster_ratio));
    let end = start.saturating_add(geo.blocks_in_group(group).into());
    let runs = bitmap::zero_runs(&map, 0, geo.clusters_in_group(group) as usize);
    Ok(runs
        .map(|run| Range {
            first: start.saturating_add((run.start as u64).saturating_mul(ratio)),
            last: start.saturating_add((run.end as u64).saturating_mul(ratio)).min(end).saturating_sub(1),
        })
        .collect())
}

fn free_inodes(volume: &Volume, group: Group) -> Result<Vec<Range>> {
    let geo = volume.geometry();
    let map = volume.inode_bitmap(group)?;
    let first = u64::from(geo.group_first_ino(group).0);
    let runs = bitmap::zero_runs(&map, 0, geo.inodes_per_group as usize);
    Ok(runs
        .map(|run| Range {
            first: first.saturating_add(run.start as u64),
            last: first.saturating_add(run.end as u64).saturating_sub(1),
        })
        .collect())
}

fn joined(ranges: &[Range]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl GroupsView {
    /// ` (+257)`, or the group whose metadata it shares.
    fn offset(&self, g: &GroupView, block: u64) -> String {
        if (g.blocks.first..=g.blocks.last).contains(&block) {
            return format!(" (+{})", block - g.blocks.first);
        }
        let relative = block.saturating_sub(self.first_block);
        let per = u64::from(self.blocks_per_group.max(1));
        format!(" (bg #{} + {})", relative / per, relative % per)
    }

    fn group_text(&self, g: &GroupView, page: &mut Page<'_>) -> io::Result<()> {
        write!(page, "Group {}: (Blocks {}-{})", g.group, g.blocks.first, g.blocks.last)?;
        if let Some(csum) = g.checksum {
            write!(page, " csum {csum:#06x}")?;
        }
        if let (Some(stored), Some(right)) = (g.checksum, g.checksum_computed)
            && stored != right
        {
            write!(page, " (EXPECTED {right:#06x})")?;
        }
        // Without checksums the flags mean nothing.
        if !g.flags.is_empty() && g.checksum.is_some() {
            write!(page, " [{}]", g.flags.join(", "))?;
        }
        writeln!(page)?;
        let kind = if g.group.0 == 0 { "Primary" } else { "Backup" };
        match (g.superblock, g.group_descriptors) {
            (Some(sb), Some(gdt)) if g.meta_bg => {
                writeln!(page, "  {kind} superblock at {sb}, Group descriptor at {gdt}")?;
            }
            (Some(sb), Some(gdt)) => {
                writeln!(page, "  {kind} superblock at {sb}, Group descriptors at {}-{}", gdt.first, gdt.last)?;
            }
            (Some(sb), None) => writeln!(page, "  {kind} superblock at {sb}")?,
            (None, Some(gdt)) => writeln!(page, "  Group descriptor at {gdt}")?,
            (None, None) => {}
        }
        if let Some(r) = g.reserved_gdt {
            writeln!(page, "  Reserved GDT blocks at {r}")?;
        }
        let bitmaps =
            [("Block", g.block_bitmap, g.block_bitmap_checksum), ("Inode", g.inode_bitmap, g.inode_bitmap_checksum)];
        for (name, block, csum) in bitmaps {
            write!(page, "  {name} bitmap at {block}{}", self.offset(g, block.0))?;
            match csum {
                Some(csum) => writeln!(page, ", csum {csum:#010x}")?,
                None => writeln!(page)?,
            }
        }
        writeln!(page, "  Inode table at {}{}", g.inode_table, self.offset(g, g.inode_table.first))?;
        let unit = if self.bigalloc { "clusters" } else { "blocks" };
        write!(
            page,
            "  {} free {unit}, {} free inodes, {} directories",
            g.free_clusters, g.free_inodes, g.directories
        )?;
        match g.unused_inodes.filter(|n| *n != 0) {
            Some(n) => writeln!(page, ", {n} unused inodes")?,
            None => writeln!(page)?,
        }
        if let Some(ranges) = &g.free_block_ranges {
            writeln!(page, "  Free blocks: {}", joined(ranges))?;
        }
        if let Some(ranges) = &g.free_inode_ranges {
            writeln!(page, "  Free inodes: {}", joined(ranges))?;
        }
        Ok(())
    }
}

impl View for GroupsView {
    const SCHEMA: &'static str = "groups/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let short = self.short;
        self.groups
            .iter()
            .try_for_each(|g| if short { g.short_text(page, self.bigalloc) } else { self.group_text(g, page) })
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}
