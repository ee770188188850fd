//! What kinds of inodes are in use, and how their blocks are mapped: the figures of a verbose report.

use serde::Serialize;

use super::state::note;
use super::view::{View, le16};
use crate::format::inode::InodeFlags;

/// Where the depth of an extent tree is in the area of the map, bytes.
const EXTENT_DEPTH: usize = 6;
/// Pointers of an indirect map that lead to data.
const DIRECT: usize = 12;

/// Inodes in use by kind and shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Regular files.
    pub regular: u64,
    /// Directories.
    pub directories: u64,
    /// Character devices.
    pub character_devices: u64,
    /// Block devices.
    pub block_devices: u64,
    /// FIFOs.
    pub fifos: u64,
    /// Sockets.
    pub sockets: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// … of these, those whose target is where others have their map.
    pub fast_symlinks: u64,
    /// Files, no directories, whose blocks are not contiguous.
    pub fragmented_files: u64,
    /// Directories whose blocks are not contiguous.
    pub fragmented_directories: u64,
    /// Files of 2 GiB and more.
    pub large_files: u64,
    /// Blocks that are listed as bad.
    pub bad_blocks: u64,
    /// Inodes with a map of blocks that has an indirect block; a double indirect block; a triple one.
    pub indirect: [u64; 3],
    /// Inodes with an extent tree, by its depth.
    pub extent_depth: [u64; 6],
}

/// Type of a symbolic link in a directory entry.
const SYMLINK: u8 = 7;

impl Tally {
    /// Count one more inode in use. `code` is its type as directory entries have it, 0 for the filesystem's own inodes; `mapped` says
    /// that it has blocks.
    pub(super) fn count(&mut self, v: &View<'_>, code: u8, mapped: bool, fragmented: bool) {
        let kind = match code {
            note::REGULAR => Some(&mut self.regular),
            note::DIRECTORY => Some(&mut self.directories),
            3 => Some(&mut self.character_devices),
            4 => Some(&mut self.block_devices),
            5 => Some(&mut self.fifos),
            6 => Some(&mut self.sockets),
            SYMLINK => Some(&mut self.symlinks),
            _ => None,
        };
        if let Some(kind) = kind {
            *kind += 1;
        }
        self.fast_symlinks += u64::from(code == SYMLINK && !mapped && !v.has(InodeFlags::INLINE_DATA));
        let pieces =
            if code == note::DIRECTORY { &mut self.fragmented_directories } else { &mut self.fragmented_files };
        *pieces += u64::from(fragmented);
        self.count_map(v, matches!(code, note::REGULAR | note::DIRECTORY) || code == SYMLINK && mapped);
    }

    fn count_map(&mut self, v: &View<'_>, pointers: bool) {
        if v.has(InodeFlags::EXTENTS) {
            let depth = usize::from(le16(v.area(), EXTENT_DEPTH));
            if let Some(n) = self.extent_depth.get_mut(depth) {
                *n += 1;
            }
        } else if pointers && !v.has(InodeFlags::INLINE_DATA) {
            for (i, n) in self.indirect.iter_mut().enumerate() {
                *n += u64::from(v.pointer(DIRECT + i) != 0);
            }
        }
    }

    /// All inodes that a directory names.
    pub const fn named(&self) -> u64 {
        self.regular
            + self.directories
            + self.character_devices
            + self.block_devices
            + self.fifos
            + self.sockets
            + self.symlinks
    }

    /// Files and directories whose blocks are not contiguous.
    pub const fn fragmented(&self) -> u64 {
        self.fragmented_files + self.fragmented_directories
    }

    /// Add what another one counted.
    pub(super) fn add(&mut self, other: &Self) {
        let Self { indirect, extent_depth, .. } = other;
        let pairs = [
            (&mut self.regular, other.regular),
            (&mut self.directories, other.directories),
            (&mut self.character_devices, other.character_devices),
            (&mut self.block_devices, other.block_devices),
            (&mut self.fifos, other.fifos),
            (&mut self.sockets, other.sockets),
            (&mut self.symlinks, other.symlinks),
            (&mut self.fast_symlinks, other.fast_symlinks),
            (&mut self.fragmented_files, other.fragmented_files),
            (&mut self.fragmented_directories, other.fragmented_directories),
            (&mut self.large_files, other.large_files),
            (&mut self.bad_blocks, other.bad_blocks),
        ];
        let maps = self.indirect.iter_mut().zip(*indirect).chain(self.extent_depth.iter_mut().zip(*extent_depth));
        for (sum, n) in pairs.into_iter().chain(maps) {
            *sum += n;
        }
    }
}
