//! Small look-ups: where a logical block is, where an inode is, whether a block or inode is in use.

use std::io::{self, Write};

use serde::Serialize;

use super::View;
use super::page::Page;
use crate::error::{Error, Result};
use crate::format::bitmap;
use crate::units::{Fsblk, Group, Ino, Lblk};
use crate::volume::{Mapping, Owner, Volume};

/// Most blocks that one question about blocks in use may be about.
const MAX_TESTED: u64 = 1 << 20;

/// What a logical block is mapped to.
#[derive(Debug, Serialize)]
pub struct BlockMapView {
    /// Inode.
    pub ino: Ino,
    /// Logical block.
    pub lblk: Lblk,
    /// What it is mapped to, and for how many blocks.
    pub mapping: Mapping,
}

impl BlockMapView {
    /// Look up a logical block.
    pub fn new(volume: &Volume, owner: Owner<'_>, lblk: Lblk) -> Result<Self> {
        Ok(Self { ino: owner.ino, lblk, mapping: volume.map(owner, lblk)? })
    }
}

impl View for BlockMapView {
    const SCHEMA: &'static str = "bmap/1";

    /// The block's number, 0 for a hole; `(unwritten)` after it where it is.
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        match self.mapping {
            Mapping::Hole { .. } => writeln!(page, "0"),
            Mapping::Mapped { pblk, unwritten: false, .. } => writeln!(page, "{pblk}"),
            Mapping::Mapped { pblk, unwritten: true, .. } if page.is_terminal() => writeln!(page, "{pblk} (unwritten)"),
            Mapping::Mapped { pblk, unwritten: true, .. } => writeln!(page, "{pblk} (uninit)"),
        }
    }
}

/// Where an inode's slot is.
#[derive(Debug, Serialize)]
pub struct InodePlaceView {
    /// Inode.
    pub ino: Ino,
    /// Its group.
    pub group: Group,
    /// The block that holds it.
    pub block: Fsblk,
    /// Its first byte in that block.
    pub offset: u64,
}

impl InodePlaceView {
    /// Where inode `ino` is.
    pub fn new(volume: &Volume, ino: Ino) -> Result<Self> {
        let geo = volume.geometry();
        let (group, _) = geo.inode_place(ino)?;
        let (byte, block) = volume.inode_offset(ino)?;
        Ok(Self { ino, group, block, offset: byte.saturating_sub(geo.byte_of(block)) })
    }
}

impl View for InodePlaceView {
    const SCHEMA: &'static str = "imap/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "Inode {} is part of block group {}", self.ino, self.group)?;
        writeln!(page, "  located at block {}, offset {:#06x}", self.block, self.offset)
    }
}

/// Whether an inode is in use, as the bitmap has it.
#[derive(Debug, Serialize)]
pub struct InodeStateView {
    /// Inode.
    pub ino: Ino,
    /// Whether its bit is set.
    pub in_use: bool,
}

impl InodeStateView {
    /// Look at the inode bitmap.
    pub fn new(volume: &Volume, ino: Ino) -> Result<Self> {
        let (group, index) = volume.geometry().inode_place(ino)?;
        Ok(Self { ino, in_use: bitmap::test(&volume.inode_bitmap(group)?, index as usize) })
    }
}

impl View for InodeStateView {
    const SCHEMA: &'static str = "inode-state/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let state = if self.in_use { "marked in use" } else { "not in use" };
        writeln!(page, "Inode {} is {state}", self.ino)
    }
}

/// Whether a block is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BlockState {
    /// Block.
    pub block: Fsblk,
    /// Whether the bit of its cluster is set.
    pub in_use: bool,
}

/// Whether blocks are in use, as the bitmaps have it.
#[derive(Debug, Serialize)]
pub struct BlockStateView {
    /// One for each block.
    pub blocks: Vec<BlockState>,
}

impl BlockStateView {
    /// Look at the block bitmaps for `count` blocks from `first` on.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for blocks that the filesystem does not have, or more than a million.
    pub fn new(volume: &Volume, first: Fsblk, count: u64) -> Result<Self> {
        let geo = volume.geometry();
        if count == 0 || count > MAX_TESTED || !geo.has_range(first, count) {
            return Err(Error::InvalidArgument {
                name: "block",
                value: format!("{first} (count {count})"),
                allowed: "blocks of the filesystem, at most 1048576",
            });
        }
        let mut blocks = Vec::with_capacity(count as usize);
        let mut map = None;
        for n in 0..count {
            let block = first.saturating_add(n);
            let (group, bit) = geo.cluster_bit_of(block);
            let bits = match &map {
                Some((g, bits)) if *g == group => bits,
                _ => &map.insert((group, volume.block_bitmap(group)?)).1,
            };
            blocks.push(BlockState { block, in_use: bitmap::test(bits, bit as usize) });
        }
        Ok(Self { blocks })
    }
}

/// Free blocks.
#[derive(Debug, Serialize)]
pub struct FreeBlocksView {
    /// Their numbers.
    pub blocks: Vec<Fsblk>,
}

impl FreeBlocksView {
    /// The first `count` free blocks from `goal` on, going round at the end.
    ///
    /// # Errors
    /// [`Error::NoSpace`] where there are not so many.
    pub fn new(volume: &Volume, goal: Fsblk, count: u64) -> Result<Self> {
        let geo = volume.geometry();
        let count = count.min(MAX_TESTED) as usize;
        let goal = if geo.has_block(goal) { goal } else { Fsblk(geo.first_data_block) };
        let (first_group, _) = geo.group_of(goal);
        let mut blocks = Vec::new();
        for n in 0..=geo.groups {
            let group = Group((u64::from(first_group.0).saturating_add(n.into()) % u64::from(geo.groups)) as u32);
            let bits = volume.block_bitmap(group)?;
            let start = geo.group_start(group);
            for i in 0..geo.blocks_in_group(group) {
                let block = start.saturating_add(i.into());
                // The goal's group is looked at twice: from the goal on first, up to the goal last.
                if (n == 0 && block < goal) || (n == geo.groups && block >= goal) {
                    continue;
                }
                if blocks.len() == count {
                    return Ok(Self { blocks });
                }
                let (_, bit) = geo.cluster_bit_of(block);
                if !bitmap::test(&bits, bit as usize) {
                    blocks.push(block);
                }
            }
        }
        if blocks.len() < count {
            return Err(Error::NoSpace { what: "blocks", need: count as u64, have: blocks.len() as u64 });
        }
        Ok(Self { blocks })
    }
}

impl View for FreeBlocksView {
    const SCHEMA: &'static str = "free-blocks/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        write!(page, "Free blocks found: ")?;
        self.blocks.iter().try_for_each(|b| write!(page, "{b} "))?;
        writeln!(page)
    }
}

/// A free inode.
#[derive(Debug, Serialize)]
pub struct FreeInodeView {
    /// Its number.
    pub ino: Ino,
}

impl View for FreeInodeView {
    const SCHEMA: &'static str = "free-inode/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "Free inode found: {}", self.ino)
    }
}

impl View for BlockStateView {
    const SCHEMA: &'static str = "block-state/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for b in &self.blocks {
            writeln!(page, "Block {} {}", b.block, if b.in_use { "marked in use" } else { "not in use" })?;
        }
        Ok(())
    }
}
