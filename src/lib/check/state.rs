//! What the passes share: the opened filesystem, what is known of every block and inode, and who is asked.
//!
//! Passes run in two steps. *Scouts* look at everything in parallel; the first problem of an inode or directory makes
//! them give it up, with nothing of it recorded. A *clerk* then goes through those that were given up, one by one and in
//! order, with the same code: it reports, asks, and goes on. So the order of findings does not depend on threads, and
//! what is sound (nearly everything) is looked at once, in parallel, with nothing allocated.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use super::bits::{Bits, Bytes, Counts};
use super::repair::relocate::Part;
use super::report::{Finding, Summary};
use crate::error::Result;
use crate::format::csum::Checksums;
use crate::format::features::RoCompat;
use crate::format::superblock::Superblock;
use crate::progress::Progress;
use crate::units::{Fsblk, Group, Ino};
use crate::volume::{Geometry, Volume};

/// What is known of an inode: its type as a directory entry tells it (0 for none) and marks.
pub(super) mod note {
    /// The bits of the type.
    pub(in super::super) const TYPE: u8 = 7;
    /// In use.
    pub(in super::super) const USED: u8 = 1 << 3;
    /// Has fields to be looked at where an entry names it.
    pub(in super::super) const BAD: u8 = 1 << 4;
    /// Needs no name (AFS).
    pub(in super::super) const IMAGIC: u8 = 1 << 5;
    /// Encrypted.
    pub(in super::super) const ENCRYPTED: u8 = 1 << 6;
    /// In a bad block.
    pub(in super::super) const BAD_BLOCK: u8 = 1 << 7;
    /// Type of a regular file.
    pub(in super::super) const REGULAR: u8 = 1;
    /// Type of a directory.
    pub(in super::super) const DIRECTORY: u8 = 2;
}

/// The inode or directory is given up.
pub(super) struct Stop;

/// Who hears of problems.
pub(super) trait Judge {
    /// A problem was found. `Ok(true)`: repair it; `Ok(false)`: leave it.
    fn raise(&mut self, finding: Finding) -> Result<bool, Stop>;
}

/// Gives up at the first problem.
pub(super) struct Scout;

impl Judge for Scout {
    fn raise(&mut self, _finding: Finding) -> Result<bool, Stop> {
        Err(Stop)
    }
}

/// Hears nothing and goes on: to walk once more over what was reported.
pub(super) struct Deaf;

impl Judge for Deaf {
    fn raise(&mut self, _finding: Finding) -> Result<bool, Stop> {
        Ok(false)
    }
}

/// A directory, as pass 1 found it and pass 2 completes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dir {
    pub(super) ino: Ino,
    /// Who has an entry for it; 0 while nobody does.
    pub(super) parent: Ino,
    /// Where its `..` leads; 0 where it has none.
    pub(super) dotdot: Ino,
}

/// The shared state.
pub(super) struct Ctx<'a> {
    pub(super) vol: &'a Volume,
    pub(super) sb: &'a Superblock,
    pub(super) geo: &'a Geometry,
    pub(super) csums: Checksums,
    pub(super) progress: &'a dyn Progress,
    /// Parts of groups that are not where they could be, and that get another place: there is nothing to look at.
    pub(super) lost: BTreeSet<(Group, Part)>,
    /// There are inodes whose blocks are not known: they are read in another way when their flags are mended.
    pub(super) unread: AtomicBool,
    /// Descriptors speak of unused parts, which the features do not allow, and keep on doing so.
    pub(super) stale_lazy: AtomicBool,
    /// The descriptors are a backup's: what they say of unused parts is out of date.
    pub(super) from_backup: bool,
    /// Blocks may belong to several files.
    pub(super) shares: bool,
    /// Where the parallel parts run.
    pub(super) pool: &'a rayon::ThreadPool,
    /// Now, seconds.
    pub(super) now: i64,
    /// Clusters in use, counted from the first data block.
    pub(super) found: Bits,
    /// Clusters claimed more than once.
    pub(super) dup: Bits,
    /// Blocks of filesystem metadata, by block number.
    pub(super) meta: Bits,
    /// Attribute blocks looked at, by block number.
    pub(super) ea_seen: Bits,
    /// Inodes that attributes refer to as holding their values.
    pub(super) values: BTreeSet<Ino>,
    /// Inodes, by number: see [`note`].
    pub(super) notes: Bytes,
    /// Names found less link count, by inode number.
    pub(super) balance: Counts,
    pub(super) summary: Summary,
}

impl<'a> Ctx<'a> {
    pub(super) fn new(
        vol: &'a Volume,
        now: i64,
        progress: &'a dyn Progress,
        pool: &'a rayon::ThreadPool,
    ) -> Result<Self> {
        let geo = vol.geometry();
        let clusters = geo.clusters_count();
        let inodes = u64::from(geo.inodes_count) + 1;
        Ok(Self {
            vol,
            sb: vol.superblock(),
            geo,
            csums: geo.checksums,
            progress,
            lost: BTreeSet::new(),
            unread: AtomicBool::new(false),
            stale_lazy: AtomicBool::new(false),
            from_backup: false,
            shares: geo.features.ro_compat.contains(RoCompat::SHARED_BLOCKS),
            pool,
            now,
            found: Bits::new(clusters)?,
            dup: Bits::new(clusters)?,
            meta: Bits::new(geo.blocks_count)?,
            ea_seen: Bits::new(geo.blocks_count)?,
            values: BTreeSet::new(),
            notes: Bytes::new(inodes)?,
            balance: Counts::new(inodes)?,
            summary: Summary::default(),
        })
    }

    /// Bytes that the maps need at most: what is not in use does not exist.
    pub(super) const fn memory(geo: &Geometry) -> u64 {
        let bits = 2 * geo.clusters_count() + 2 * geo.blocks_count;
        bits / 8 + (geo.inodes_count as u64 + 1) * 2
    }

    /// The bit of a block in `found` and `dup`.
    pub(super) const fn cluster_bit(&self, block: Fsblk) -> u64 {
        block.0.saturating_sub(self.geo.first_data_block) >> self.geo.cluster_bits
    }

    /// First block of a bit of `found`.
    pub(super) const fn bit_block(&self, bit: u64) -> Fsblk {
        Fsblk((bit << self.geo.cluster_bits) + self.geo.first_data_block)
    }

    pub(super) fn note(&self, ino: Ino) -> u8 {
        self.notes.get(ino.0.into())
    }

    pub(super) fn add_note(&self, ino: Ino, bits: u8) {
        self.notes.set(ino.0.into(), self.note(ino) | bits);
    }

    /// How many inodes at the start of a group's table may be in use.
    pub(super) fn inodes_to_scan(&self, group: Group) -> u32 {
        let Ok(desc) = self.vol.group(group) else { return 0 };
        if self.lost.contains(&(group, Part::InodeTable)) {
            return 0;
        }
        if self.from_backup {
            return self.geo.inodes_per_group;
        }
        if self.vol.is_inode_uninit(&desc) {
            return 0;
        }
        let unused = if self.csums.has_group_desc_csum() { desc.itable_unused() } else { 0 };
        self.geo.inodes_per_group.saturating_sub(unused)
    }

    /// Whether a number is one of the quota files that the superblock names.
    pub(super) fn is_super_quota(&self, ino: Ino) -> bool {
        let sb = self.sb;
        [sb.usr_quota_inum.get(), sb.grp_quota_inum.get(), sb.prj_quota_inum.get()].contains(&ino.0)
    }

    /// Whether a number is the orphan file that the superblock names.
    pub(super) const fn is_orphan_file(&self, ino: Ino) -> bool {
        self.sb.orphan_file_inum.get() == ino.0
    }
}
