//! Inodes that were deleted and whose blocks may still be there: debugfs's `lsdel`.

use std::io::{self, Write};
use std::ops::ControlFlow;

use serde::Serialize;

use super::View;
use super::page::Page;
use super::text::date;
use crate::env::Timestamp;
use crate::error::Result;
use crate::format::bitmap;
use crate::format::inode::InodeFlags;
use crate::units::{Fsblk, Ino};
use crate::volume::{MapEvent, Owner, Volume};

/// A deleted inode.
#[derive(Debug, Serialize)]
pub struct Deleted {
    /// The inode.
    pub ino: Ino,
    /// Its owner.
    pub uid: u32,
    /// Type and permissions.
    pub mode: u16,
    /// Size in bytes.
    pub size: u64,
    /// Blocks that are free now.
    pub free_blocks: u64,
    /// Blocks.
    pub blocks: u64,
    /// When it was deleted (seconds since 1970).
    pub time: u32,
}

/// Deleted inodes of which something may be saved.
#[derive(Debug, Serialize)]
pub struct DeletedView {
    /// The inodes, the first that was deleted first.
    pub inodes: Vec<Deleted>,
}

impl DeletedView {
    /// Read all inode tables. Inodes without blocks or content inside are left out, and those with a block outside the filesystem.
    ///
    /// # Errors
    /// Reading descriptors or bitmaps failed.
    pub fn new(volume: &Volume) -> Result<Self> {
        let geo = volume.geometry();
        let mut inodes = Vec::new();
        for group in geo.all_groups() {
            let desc = volume.group(group)?;
            if volume.is_inode_uninit(&desc) {
                continue;
            }
            let first = geo.group_first_ino(group).0;
            for ino in (first..first.saturating_add(geo.inodes_per_group)).map(Ino) {
                let Ok(inode) = volume.raw_inode(ino) else { continue };
                let time = inode.core().dtime.get();
                if time == 0 || time < geo.inodes_count {
                    // Never deleted, or on the list of orphans.
                    continue;
                }
                let mut runs: Vec<(Fsblk, u64)> = Vec::new();
                let read = volume.walk_map(Owner { ino, inode: &inode }, &mut |event| {
                    runs.push(match event {
                        MapEvent::Node { block, .. } => (block, 1),
                        MapEvent::Data(e) => (e.pblk, e.len.into()),
                    });
                    Ok(ControlFlow::Continue(()))
                });
                let inline = inode.flags().contains(InodeFlags::INLINE_DATA);
                if read.is_err() || (runs.is_empty() && !inline) || runs.iter().any(|(at, n)| !geo.has_range(*at, *n)) {
                    continue;
                }
                let blocks = runs.iter().map(|(_, n)| n).sum();
                let mut free_blocks = 0;
                for block in runs.iter().flat_map(|(at, n)| at.0..at.0.saturating_add(*n)) {
                    let (group, bit) = geo.cluster_bit_of(Fsblk(block));
                    free_blocks += u64::from(!bitmap::test(&volume.block_bitmap(group)?, bit as usize));
                }
                if free_blocks > 0 || inline {
                    let (uid, mode, size) = (inode.uid(), inode.core().mode.get(), inode.size());
                    inodes.push(Deleted { ino, uid, mode, size, free_blocks, blocks, time });
                }
            }
        }
        inodes.sort_by_key(|d| (d.time, d.ino));
        Ok(Self { inodes })
    }
}

impl View for DeletedView {
    const SCHEMA: &'static str = "deleted/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, " Inode  Owner  Mode    Size      Blocks   Time deleted")?;
        for d in &self.inodes {
            let time = date(Timestamp::from_secs(d.time.into()));
            let Deleted { ino, uid, mode, size, free_blocks, blocks, .. } = d;
            writeln!(page, "{:6} {uid:6} {mode:6o} {size:6} {free_blocks:6}/{blocks:6} {time}", ino.0)?;
        }
        writeln!(page, "{} deleted inodes found.", self.inodes.len())
    }
}
