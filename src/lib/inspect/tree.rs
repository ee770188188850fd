//! Directories with all that is below them: `tree`, `find`, `du`.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde::Serialize;

use super::page::Page;
use super::text::{PathText, Target};
use super::{Damage, View};
use crate::error::Result;
use crate::format::dirent::is_dot_or_dotdot;
use crate::format::inode::{FileType, Inode};
use crate::units::Ino;
use crate::volume::{Owner, Volume};

/// Most directories above one another.
const MAX_DEPTH: usize = 4096;

/// A name below a directory.
#[derive(Clone, Debug, Serialize)]
pub struct Below {
    /// Its path, from the directory that was asked for.
    #[serde(flatten)]
    pub path: PathText,
    /// The inode.
    pub ino: Ino,
    /// Directories above it, below the one that was asked for.
    pub depth: usize,
    /// Its type; nothing where the inode has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_type: Option<FileType>,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that it occupies.
    pub occupied: u64,
    /// What a symbolic link points to.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// Collects names.
struct Walk<'v> {
    volume: &'v Volume,
    /// Directories that were read.
    seen: BTreeSet<Ino>,
    names: Vec<Below>,
    damage: Vec<Damage>,
}

impl Walk<'_> {
    fn add(&mut self, path: &[u8], ino: Ino, inode: &Inode, depth: usize) {
        let kind = inode.file_type();
        let target = (kind == Some(FileType::Symlink))
            .then(|| self.volume.symlink_target(Owner { ino, inode }).ok())
            .flatten()
            .map(Target);
        let size = inode.size();
        let occupied = inode.allocated_bytes(self.volume.geometry().block_size);
        self.names.push(Below { path: PathText(path.to_vec()), ino, depth, file_type: kind, size, occupied, target });
        if kind == Some(FileType::Directory) && depth < MAX_DEPTH && self.seen.insert(ino) {
            self.enter(path, ino, inode, depth);
        }
    }

    /// Recursion ends: each directory is read once, and [`MAX_DEPTH`] bounds it.
    fn enter(&mut self, path: &[u8], ino: Ino, inode: &Inode, depth: usize) {
        let mut entries = match self.volume.read_dir(Owner { ino, inode }) {
            Ok(entries) => entries,
            Err(e) => return self.damage.push(e.into()),
        };
        entries.retain(|e| !is_dot_or_dotdot(&e.name));
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            let separator: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
            let name = [path, separator, &entry.name].concat();
            match self.volume.raw_inode(entry.ino) {
                Ok(inode) => self.add(&name, entry.ino, &inode, depth + 1),
                Err(e) => self.damage.push(e.into()),
            }
        }
    }
}

/// Everything below a directory (or a file alone), names in order.
///
/// # Errors
/// Reading the inode failed. What is wrong below is in the second part of the answer.
pub(super) fn below(volume: &Volume, ino: Ino, path: &[u8]) -> Result<(Vec<Below>, Vec<Damage>)> {
    let inode = volume.raw_inode(ino)?;
    let mut walk = Walk { volume, seen: BTreeSet::new(), names: Vec::new(), damage: Vec::new() };
    walk.add(path, ino, &inode, 0);
    Ok((walk.names, walk.damage))
}

/// A tree of names.
#[derive(Debug, Serialize)]
pub struct TreeView {
    /// The names, each directory before what is in it.
    pub names: Vec<Below>,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

impl TreeView {
    /// What is below `ino`, down to `depth`.
    pub fn new(volume: &Volume, ino: Ino, path: &[u8], depth: usize) -> Result<Self> {
        let (mut names, damage) = below(volume, ino, path)?;
        names.retain(|n| n.depth <= depth);
        Ok(Self { names, damage })
    }
}

impl View for TreeView {
    const SCHEMA: &'static str = "tree/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        // Whether a further name follows at each depth.
        let mut open: Vec<bool> = Vec::new();
        let mut lines: Vec<Vec<u8>> = Vec::with_capacity(self.names.len());
        for name in self.names.iter().rev() {
            open.resize(open.len().max(name.depth + 1), false);
            let mut line = Vec::new();
            for more in open.iter().take(name.depth).skip(1) {
                line.extend_from_slice(if *more { "│   ".as_bytes() } else { b"    " });
            }
            if name.depth > 0 {
                let more = open.get(name.depth).is_some_and(|m| *m);
                line.extend_from_slice(if more { "├── ".as_bytes() } else { "└── ".as_bytes() });
            }
            let text = &name.path.0;
            let last = if name.depth == 0 { Some(&text[..]) } else { text.rsplit(|b| *b == b'/').next() };
            line.extend_from_slice(last.unwrap_or_default());
            if let Some(target) = &name.target {
                line.extend_from_slice(b" -> ");
                line.extend_from_slice(&target.0);
            }
            lines.push(line);
            open.truncate(name.depth + 1);
            if let Some(more) = open.last_mut() {
                *more = true;
            }
        }
        for line in lines.iter().rev() {
            page.bytes(line)?;
            writeln!(page)?;
        }
        Ok(())
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}

/// Names that were looked for.
#[derive(Debug, Serialize)]
pub struct FindView {
    /// The names.
    pub names: Vec<Below>,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

impl FindView {
    /// The names below `ino` that `wanted` wants.
    pub fn new(volume: &Volume, ino: Ino, path: &[u8], wanted: impl Fn(&Below) -> bool) -> Result<Self> {
        let (mut names, damage) = below(volume, ino, path)?;
        names.retain(wanted);
        Ok(Self { names, damage })
    }
}

impl View for FindView {
    const SCHEMA: &'static str = "find/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for name in &self.names {
            page.bytes(&name.path.0)?;
            writeln!(page)?;
        }
        Ok(())
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}

/// Room that a name takes with all that is below it.
#[derive(Debug, Serialize)]
pub struct Room {
    /// The path.
    #[serde(flatten)]
    pub path: PathText,
    /// Bytes that it and everything below occupies. A file with several names counts once.
    pub occupied: u64,
}

/// Room that directories take.
#[derive(Debug, Serialize)]
pub struct RoomView {
    /// Directories, each after those below it.
    pub rooms: Vec<Room>,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

impl RoomView {
    /// The room of `ino` and of the directories below it; of all names there with `all`, of it alone with `only`.
    pub fn new(volume: &Volume, ino: Ino, path: &[u8], (all, only): (bool, bool)) -> Result<Self> {
        let (names, damage) = below(volume, ino, path)?;
        let mut counted = BTreeSet::new();
        let own: Vec<u64> = names.iter().map(|n| if counted.insert(n.ino) { n.occupied } else { 0 }).collect();
        let mut rooms = Vec::new();
        // Names above the current one, with what was summed up for them.
        let mut above: Vec<(usize, u64)> = Vec::new();
        let mut close = |above: &mut Vec<(usize, u64)>, depth: usize| {
            while let Some((at, sum)) = above.pop_if(|(at, _)| names.get(*at).is_some_and(|n| n.depth >= depth)) {
                let Some(n) = names.get(at) else { continue };
                if let Some((_, outer)) = above.last_mut() {
                    *outer = outer.saturating_add(sum);
                }
                if n.depth == 0 || !only && (all || n.file_type == Some(FileType::Directory)) {
                    rooms.push(Room { path: n.path.clone(), occupied: sum });
                }
            }
        };
        for (at, n) in names.iter().enumerate() {
            close(&mut above, n.depth);
            above.push((at, own.get(at).copied().unwrap_or_default()));
        }
        close(&mut above, 0);
        Ok(Self { rooms, damage })
    }
}

impl View for RoomView {
    const SCHEMA: &'static str = "du/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for room in &self.rooms {
            write!(page, "{}\t", room.occupied.div_ceil(1024))?;
            page.bytes(&room.path.0)?;
            writeln!(page)?;
        }
        Ok(())
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}

/// How full a filesystem is.
#[derive(Debug, Serialize)]
pub struct FullView {
    /// Block size in bytes.
    pub block_size: u32,
    /// Blocks.
    pub blocks: u64,
    /// Blocks that are free.
    pub free_blocks: u64,
    /// Of those, blocks that only the super-user may take.
    pub reserved_blocks: u64,
    /// Inodes.
    pub inodes: u64,
    /// Inodes that are free.
    pub free_inodes: u64,
}

impl FullView {
    /// By the group descriptors.
    pub fn new(volume: &Volume) -> Result<Self> {
        let (geo, sb) = (volume.geometry(), volume.superblock());
        let (mut clusters, mut inodes) = (0u64, 0u64);
        for group in geo.all_groups() {
            let desc = volume.group(group)?;
            clusters = clusters.saturating_add(desc.free_clusters().into());
            inodes = inodes.saturating_add(desc.free_inodes().into());
        }
        Ok(Self {
            block_size: geo.block_size,
            blocks: geo.blocks_count,
            free_blocks: clusters.saturating_mul(geo.cluster_ratio.into()),
            reserved_blocks: sb.r_blocks_count(),
            inodes: sb.inodes_count.get().into(),
            free_inodes: inodes,
        })
    }
}

impl View for FullView {
    const SCHEMA: &'static str = "df/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let kib = |blocks: u64| u128::from(blocks) * u128::from(self.block_size) / 1024;
        let used = self.blocks.saturating_sub(self.free_blocks);
        let percent = |part: u64, of: u64| u128::from(part) * 100 / u128::from(of.max(1));
        page.pair("Size", format_args!("{} KiB", kib(self.blocks)))?;
        page.pair("Used", format_args!("{} KiB ({}%)", kib(used), percent(used, self.blocks)))?;
        page.pair("Free", format_args!("{} KiB", kib(self.free_blocks)))?;
        page.pair("Reserved", format_args!("{} KiB", kib(self.reserved_blocks)))?;
        let used = self.inodes.saturating_sub(self.free_inodes);
        page.pair("Inodes", self.inodes)?;
        page.pair("Inodes used", format_args!("{used} ({}%)", percent(used, self.inodes)))?;
        page.pair("Inodes free", self.free_inodes)
    }
}
