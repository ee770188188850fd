//! A filesystem being filled: the layout, what is allocated so far, and the bytes of its small metadata.
//!
//! Allocation is one pass over the free space, first block first ("next fit"): what is allocated one after the other
//! lies one after the other. Nothing is freed. Inode numbers are handed out densely, so the inodes in use are
//! `1..next_ino`. Unit: blocks, always whole clusters.

use std::collections::BTreeMap;
use std::ops::Range;

use super::layout::{FIRST_INO, Layout};
use super::space::Space;
use crate::error::{Error, Result};
use crate::format::extent::{Extent, MAX_WRITTEN_LEN};
use crate::format::features::RoCompat;
use crate::format::inode::{Inode, TimeField};
use crate::units::{Fsblk, Ino, Lblk};

/// Bytes from which on a file needs the feature `large_file`.
const LARGE_FILE: u64 = 1 << 31;

/// What the superblock must say about the system's files.
#[derive(Clone, Debug, Default)]
pub(crate) struct SystemFiles {
    pub(crate) journal: Option<Inode>,
    pub(crate) orphan_file: u32,
    pub(crate) quota: [u32; 3],
    pub(crate) mmp_block: u64,
    /// First block of the root directory.
    pub(crate) root_block: u64,
    pub(crate) lost_found: Option<Ino>,
}

/// A filesystem in the making.
#[derive(Debug)]
pub struct Draft {
    layout: Layout,
    space: Space,
    /// The free run that is being used up, and where its use began.
    run: Range<u64>,
    run_start: u64,
    pub(super) next_ino: u32,
    /// Inodes of the system's files, and the root.
    pub(super) inodes: BTreeMap<u32, Inode>,
    /// Blocks whose bytes are known, by number.
    pub(super) kept: BTreeMap<u64, Vec<u8>>,
    /// Ranges of blocks that are in use and must read as zeros.
    pub(super) zeroed: Vec<Range<u64>>,
    pub(super) dirs_in_group: BTreeMap<u32, u32>,
    pub(super) system: SystemFiles,
}

impl Draft {
    /// A filesystem with its own files: root directory, lost+found, journal and what the features ask for.
    ///
    /// # Errors
    /// [`Error::NoSpace`] where they do not fit.
    pub fn new(layout: Layout) -> Result<Self> {
        Self::with(layout, true)
    }

    /// The same for a tree that brings a directory `lost+found`.
    pub(crate) fn without_lost_found(layout: Layout) -> Result<Self> {
        Self::with(layout, false)
    }

    fn with(mut layout: Layout, lost_found: bool) -> Result<Self> {
        let space = std::mem::take(&mut layout.space);
        let start = layout.first_data_block;
        let mut draft = Self {
            layout,
            space,
            run: start..start,
            run_start: start,
            next_ino: FIRST_INO,
            inodes: BTreeMap::new(),
            kept: BTreeMap::new(),
            zeroed: Vec::new(),
            dirs_in_group: BTreeMap::new(),
            system: SystemFiles::default(),
        };
        super::system::create(&mut draft, lost_found)?;
        Ok(draft)
    }

    /// The layout underneath.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn checksums(&self) -> crate::format::csum::Checksums {
        self.layout.checksums()
    }

    /// Blocks of a cluster.
    pub(crate) fn ratio(&self) -> u64 {
        u64::from(self.layout.ratio)
    }

    /// The next inode number to be handed out.
    pub(crate) const fn next_ino(&self) -> u32 {
        self.next_ino
    }

    /// The inode of lost+found, where the draft made one.
    pub(crate) const fn lost_found(&self) -> Option<Ino> {
        self.system.lost_found
    }

    /// Blocks that nothing uses yet.
    pub fn free_blocks(&self) -> u64 {
        let pending = self.run.start - self.run_start;
        self.layout.blocks - self.layout.first_data_block - self.used_behind_start() - pending
    }

    /// The bytes of the filesystem that are in use, as ascending ranges, once it is written.
    pub fn ranges_in_use(&self) -> Vec<Range<u64>> {
        let bs = u64::from(self.layout.block_size);
        let blocks = self.space.used_in(0..self.layout.blocks);
        // What is before the first block, and the superblock, belong to it.
        let start = std::iter::once(0..self.layout.first_data_block.max(1) * bs);
        start.chain(blocks.map(|r| r.start * bs..r.end * bs)).collect()
    }

    /// Blocks in use, without what is before the first data block.
    fn used_behind_start(&self) -> u64 {
        self.space.used()
    }

    /// The next inode number.
    pub(crate) fn new_ino(&mut self) -> Result<Ino> {
        let have = self.layout.inodes();
        if self.next_ino > have {
            return Err(Error::NoSpace { what: "inodes", need: u64::from(self.next_ino), have: u64::from(have) });
        }
        self.next_ino += 1;
        Ok(Ino(self.next_ino - 1))
    }

    /// The next `n` inode numbers.
    pub(crate) fn take_inos(&mut self, n: u64) -> Result<()> {
        let (end, have) = (u64::from(self.next_ino) + n, u64::from(self.layout.inodes()));
        if end - 1 > have {
            return Err(Error::NoSpace { what: "inodes", need: end - 1, have });
        }
        self.next_ino = end as u32;
        Ok(())
    }

    /// The blocks of a root directory of `blocks` blocks: it keeps the first cluster that it has.
    pub(crate) fn root_extents(&mut self, blocks: u64, out: &mut Vec<Extent>) -> Result<()> {
        // Nothing of the draft's own goes there now.
        self.inodes.remove(&Ino::ROOT.0);
        let (at, first) = (self.system.root_block, blocks.min(self.ratio()));
        out.push(Extent { lblk: Lblk(0), len: first as u32, pblk: Fsblk(at), unwritten: false });
        self.kept.remove(&at);
        if blocks > first { self.allocate_extents(first, blocks - first, out) } else { Ok(()) }
    }

    /// Allocate `len` blocks, rounded up to clusters, and hand each piece to `each` in ascending order.
    pub(crate) fn allocate(&mut self, len: u64, mut each: impl FnMut(Range<u64>)) -> Result<()> {
        let mut left = len.next_multiple_of(u64::from(self.layout.ratio));
        while left != 0 {
            if self.run.is_empty() {
                self.next_run(left)?;
            }
            let n = left.min(self.run.end - self.run.start);
            each(self.run.start..self.run.start + n);
            self.run.start += n;
            left -= n;
        }
        Ok(())
    }

    /// Move on to the next free run.
    fn next_run(&mut self, need: u64) -> Result<()> {
        let at = self.run.end;
        self.settle();
        let Some(run) = self.space.next_free(at) else {
            return Err(Error::NoSpace { what: "blocks", need, have: self.free_blocks() });
        };
        self.run_start = run.start;
        self.run = run;
        Ok(())
    }

    /// Put what was allocated of the current run in use. The run is given up; allocation goes on behind it.
    pub(crate) fn settle(&mut self) {
        self.space.take(self.run_start..self.run.start);
        self.run = self.run.start..self.run.start;
        self.run_start = self.run.start;
    }

    /// Allocate one block (with `bigalloc`, a cluster of which only the first block is used).
    pub(crate) fn allocate_one(&mut self) -> Result<u64> {
        let mut at = 0;
        self.allocate(1, |r| at = r.start)?;
        Ok(at)
    }

    /// Allocate blocks for the logical blocks `from..from + len` of a file, appending to `out`. With `bigalloc`, `from` must
    /// be the start of a cluster.
    pub(crate) fn allocate_extents(&mut self, from: u64, len: u64, out: &mut Vec<Extent>) -> Result<()> {
        let mut lblk = from;
        let end = from + len;
        self.allocate(len, |run| push_extents(out, &mut lblk, end, run))
    }

    /// Allocate `len` blocks at or after `goal`, going round at the end of the filesystem.
    pub(crate) fn allocate_near(&mut self, goal: u64, len: u64, out: &mut Vec<Extent>) -> Result<()> {
        self.settle();
        let mut left = len.next_multiple_of(u64::from(self.layout.ratio));
        if left > self.free_blocks() {
            return Err(Error::NoSpace { what: "blocks", need: left, have: self.free_blocks() });
        }
        let (mut at, mut lblk) = (goal, 0);
        while left != 0 {
            let Some(run) = self.space.next_free(at) else {
                at = self.layout.first_data_block;
                continue;
            };
            let run = run.start..run.end.min(run.start + left);
            left -= run.end - run.start;
            at = run.end;
            self.space.take(run.clone());
            push_extents(out, &mut lblk, len, run);
        }
        Ok(())
    }

    /// Keep the bytes of a block until the filesystem is written; behind them it is zeros.
    pub(crate) fn keep(&mut self, block: u64, bytes: Vec<u8>) {
        self.kept.insert(block, bytes);
    }

    /// The blocks in use, complete.
    pub(super) fn finish_space(&mut self) -> &Space {
        self.settle();
        &self.space
    }

    pub(super) const fn space(&self) -> &Space {
        &self.space
    }

    /// Count a directory.
    pub(crate) fn count_dir(&mut self, ino: Ino) {
        if self.layout.inodes_per_group == 0 {
            return;
        }
        *self.dirs_in_group.entry((ino.0 - 1) / self.layout.inodes_per_group).or_default() += 1;
    }

    /// An inode of a system file: all times "now".
    pub(crate) fn system_inode(&self, mode: u16) -> Inode {
        let mut inode = Inode::empty(self.layout.inode_size as u16);
        inode.update(|c| {
            c.mode = mode.into();
            c.links_count = 1.into();
        });
        for t in [TimeField::Access, TimeField::Change, TimeField::Modify, TimeField::Create] {
            inode.set_time(t, self.layout.options.now);
        }
        inode
    }

    /// An inode of so many bytes: large ones need a feature.
    #[doc(alias = "ext2fs_needs_large_file_feature")]
    pub(crate) fn note_size(&mut self, bytes: u64) {
        if bytes >= LARGE_FILE {
            self.layout.features.ro_compat |= RoCompat::LARGE_FILE;
        }
    }

    /// Store the number of clusters in use in the inode's block count.
    pub(crate) fn set_clusters(&self, inode: &mut Inode, clusters: u64) {
        let l = &self.layout;
        inode.set_blocks_raw(clusters * u64::from(l.ratio) * u64::from(l.block_size / 512));
    }
}

/// Append the pieces of `run` as extents from `lblk` on, none beyond `end` or longer than an extent can be.
fn push_extents(out: &mut Vec<Extent>, lblk: &mut u64, end: u64, run: Range<u64>) {
    let mut at = run.start;
    while at < run.end && *lblk < end {
        let n = (run.end - at).min(end - *lblk).min(u64::from(MAX_WRITTEN_LEN));
        match out.last_mut() {
            Some(e)
                if e.pblk.0 + u64::from(e.len) == at
                    && e.end() == *lblk
                    && u64::from(e.len) + n <= u64::from(MAX_WRITTEN_LEN) =>
            {
                e.len += n as u32;
            }
            _ => out.push(Extent { lblk: Lblk(*lblk as u32), len: n as u32, pblk: Fsblk(at), unwritten: false }),
        }
        at += n;
        *lblk += n;
    }
}
