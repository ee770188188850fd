//! Who uses a block: debugfs's `icheck`, and the filesystem's own metadata.

use std::io::{self, Write};
use std::ops::ControlFlow;

use serde::Serialize;

use super::page::Page;
use super::scan::for_each_inode;
use super::table::{Align, Table};
use super::{Damage, View};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::bitmap;
use crate::format::features::Incompat;
use crate::units::{Fsblk, Group, Ino, Lblk};
use crate::volume::{MapEvent, Owner, Volume};

/// Most uses that are recorded for one block.
const MAX_USES: usize = 1024;

/// A use of a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BlockUse {
    /// A superblock.
    Superblock {
        /// Of which group.
        group: Group,
    },
    /// Group descriptors.
    GroupDescriptors {
        /// In which group.
        group: Group,
    },
    /// A block bitmap.
    BlockBitmap {
        /// Of which group.
        group: Group,
    },
    /// An inode bitmap.
    InodeBitmap {
        /// Of which group.
        group: Group,
    },
    /// Inodes.
    InodeTable {
        /// Of which group.
        group: Group,
        /// The first inode in the block.
        first_inode: Ino,
    },
    /// The multiple-mount protection block.
    Mmp,
    /// Content of an inode.
    Data {
        /// Which inode.
        ino: Ino,
        /// Logical block.
        lblk: Lblk,
    },
    /// A block of an inode's map.
    Map {
        /// Which inode.
        ino: Ino,
        /// First logical block that it describes.
        lblk: Lblk,
    },
    /// Extended attributes.
    Xattrs {
        /// Of which inode.
        ino: Ino,
    },
}

impl BlockUse {
    const fn ino(&self) -> Option<Ino> {
        match self {
            Self::Data { ino, .. } | Self::Map { ino, .. } | Self::Xattrs { ino } => Some(*ino),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Superblock { group } => format!("superblock, group {group}"),
            Self::GroupDescriptors { group } => format!("group descriptors, group {group}"),
            Self::BlockBitmap { group } => format!("block bitmap of group {group}"),
            Self::InodeBitmap { group } => format!("inode bitmap of group {group}"),
            Self::InodeTable { group, first_inode } => {
                format!("inode table of group {group}, from inode {first_inode}")
            }
            Self::Mmp => "multiple-mount protection".into(),
            Self::Data { lblk, .. } => format!("logical block {lblk}"),
            Self::Map { lblk, .. } => format!("map of blocks from {lblk}"),
            Self::Xattrs { .. } => "extended attributes".into(),
        }
    }
}

/// A block and who uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockOwner {
    /// The block.
    pub block: Fsblk,
    /// Whether the block bitmap has it in use; `None` where that cannot be read.
    pub in_use: Option<bool>,
    /// Its uses: metadata first, then inodes in order.
    pub uses: Vec<BlockUse>,
}

/// Blocks and who uses them.
#[derive(Debug, Serialize)]
pub struct OwnersView {
    /// One for each block asked about, in the order asked.
    pub blocks: Vec<BlockOwner>,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

impl OwnersView {
    /// Read the maps of all inodes in use, looking for `blocks`. Nobody uses those that the filesystem does not have.
    ///
    /// # Errors
    /// Descriptors or bitmaps cannot be read.
    pub fn new(volume: &Volume, blocks: &[Fsblk]) -> Result<Self> {
        let geo = volume.geometry();
        let mut wanted = blocks.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        let mut search = Search {
            found: wanted.iter().map(|b| metadata_use(volume, *b)).collect::<Result<_>>()?,
            wanted,
            nodes_left: geo.blocks_count,
        };
        let mut damage = Vec::new();
        let mut flaws = Vec::new();
        for_each_inode(volume, &mut damage, &mut |ino, inode| {
            let walked = search.inode(volume, Owner { ino, inode });
            flaws.extend(walked.err().map(Damage::from));
            Ok(if search.nodes_left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        damage.append(&mut flaws);
        let owner = |block: &Fsblk| BlockOwner {
            block: *block,
            in_use: in_use(volume, *block),
            uses: search
                .wanted
                .binary_search(block)
                .ok()
                .and_then(|i| search.found.get(i))
                .cloned()
                .unwrap_or_default(),
        };
        Ok(Self { blocks: blocks.iter().map(owner).collect(), damage })
    }
}

fn in_use(volume: &Volume, block: Fsblk) -> Option<bool> {
    if !volume.geometry().has_block(block) {
        return None;
    }
    let (group, bit) = volume.geometry().cluster_bit_of(block);
    volume.block_bitmap(group).ok().map(|map| bitmap::test(&map, bit as usize))
}

/// The uses of a block that the group descriptors tell.
fn metadata_use(volume: &Volume, block: Fsblk) -> Result<Vec<BlockUse>> {
    let geo = volume.geometry();
    let mut uses = Vec::new();
    if block.0 >= geo.blocks_count {
        return Ok(uses);
    }
    let (group, _) = geo.group_of(block);
    let superblock = geo.super_block(group);
    let first_gdt = superblock.map_or_else(|| geo.group_start(group), |b| b.saturating_add(1));
    let nth = block.0.checked_sub(first_gdt.0);
    if superblock == Some(block) {
        uses.push(BlockUse::Superblock { group });
    } else if nth.is_some_and(|n| n < geo.gdt_blocks_in_group(group).into()) {
        uses.push(BlockUse::GroupDescriptors { group });
    }
    for group in geo.all_groups() {
        let desc = volume.group(group)?;
        if desc.block_bitmap() == block {
            uses.push(BlockUse::BlockBitmap { group });
        }
        if desc.inode_bitmap() == block {
            uses.push(BlockUse::InodeBitmap { group });
        }
        if let Some(nth) = block.0.checked_sub(desc.inode_table().0).filter(|n| *n < geo.itable_blocks.into()) {
            let per_block = geo.block_size / u32::from(geo.inode_size.max(1));
            let first_inode = geo.group_first_ino(group).saturating_add((nth as u32).saturating_mul(per_block));
            uses.push(BlockUse::InodeTable { group, first_inode });
        }
    }
    if geo.features.incompat.contains(Incompat::MMP) && volume.superblock().mmp_block.get() == block.0 {
        uses.push(BlockUse::Mmp);
    }
    Ok(uses)
}

struct Search {
    /// Sorted, no doubles.
    wanted: Vec<Fsblk>,
    found: Vec<Vec<BlockUse>>,
    /// Every block can be part of one map only; more than that is damage, and might take forever.
    nodes_left: u64,
}

impl Search {
    fn add(&mut self, first: Fsblk, len: u64, what: impl Fn(u64) -> BlockUse) {
        let from = self.wanted.partition_point(|b| *b < first);
        let hits = self.wanted.iter().zip(&mut self.found).skip(from);
        for (block, uses) in hits.take_while(|(b, _)| b.0 < first.0.saturating_add(len)) {
            if uses.len() < MAX_USES {
                uses.push(what(block.0 - first.0));
            }
        }
    }

    fn inode(&mut self, volume: &Volume, owner: Owner<'_>) -> Result<()> {
        let ino = owner.ino;
        let acl = owner.inode.file_acl();
        if acl.0 != 0 {
            self.add(acl, 1, |_| BlockUse::Xattrs { ino });
        }
        volume.walk_map(owner, &mut |event| {
            match event {
                MapEvent::Node { block, lblk, .. } => {
                    self.nodes_left = self.nodes_left.saturating_sub(1);
                    self.add(block, 1, |_| BlockUse::Map { ino, lblk });
                }
                MapEvent::Data(e) => {
                    self.add(e.pblk, e.len.into(), |n| BlockUse::Data { ino, lblk: e.lblk.saturating_add(n as u32) });
                }
            }
            if self.nodes_left == 0 {
                let flaw = Flaw::Inconsistent { of: Structure::ExtentNode, detail: "maps share their blocks" };
                return Err(Error::corrupt(flaw, Place::inode(ino)));
            }
            Ok(ControlFlow::Continue(()))
        })
    }
}

impl OwnersView {
    /// As debugfs has it: block and inode. What is no inode's is not found.
    fn text_plain(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "Block\tInode number")?;
        for b in &self.blocks {
            let mut inodes: Vec<Ino> = b.uses.iter().filter_map(BlockUse::ino).collect();
            inodes.dedup();
            if inodes.is_empty() {
                writeln!(page, "{}\t<block not found>", b.block)?;
            }
            inodes.iter().try_for_each(|ino| writeln!(page, "{}\t{ino}", b.block))?;
        }
        Ok(())
    }
}

impl View for OwnersView {
    const SCHEMA: &'static str = "block-owners/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        if !page.is_terminal() {
            return self.text_plain(page);
        }
        let mut table = Table::new([("Block", Align::Left), ("Inode number", Align::Left), ("Use", Align::Left)]);
        for b in &self.blocks {
            if b.uses.is_empty() {
                let state = match b.in_use {
                    Some(true) => "in use, by nothing found",
                    Some(false) => "free",
                    None => "",
                };
                table.row([b.block.to_string(), "<block not found>".into(), state.into()]);
            }
            for u in &b.uses {
                let ino = u.ino().map_or_else(|| "-".into(), |ino| ino.to_string());
                table.row([b.block.to_string(), ino, u.text()]);
            }
        }
        table.write(page)
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}
