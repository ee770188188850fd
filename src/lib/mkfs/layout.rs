//! Where everything goes that a filesystem has before any file: groups, superblock copies, descriptors, bitmaps, inode
//! tables. Unit: blocks, unless a name says clusters or bytes.
//!
//! The numbers are those of e2fsprogs 1.47.4 (`ext2fs_initialize`, `ext2fs_allocate_tables`); the tests hold them against
//! recorded values. Invariant: no two structures share a block, and all lie inside the filesystem.

use std::ops::Range;

use super::options::{Options, invalid};
use super::params::{Params, div_ceil};
use super::space::Space;
use super::tables::{Tables, place_tables};
use crate::error::{Error, Result};
use crate::format::csum::{Checksums, crc32c};
use crate::format::features::{Compat, Features, Incompat, RoCompat};

/// Most clusters of a group: a 16-bit count less one byte of bitmap.
const MAX_CLUSTERS_PER_GROUP: u32 = (1 << 16) - 8;
/// First inode that is not reserved.
pub(crate) const FIRST_INO: u32 = 11;
/// Room that the last group must have beyond its own metadata, blocks.
const LAST_GROUP_SLACK: u64 = 50;
/// Smallest journal, blocks.
const MIN_JOURNAL: u64 = 1024;
/// Largest journal, blocks.
const MAX_JOURNAL: u64 = 10_240_000;
/// Journal blocks for one fast-commit block.
const FAST_COMMIT_RATIO: u64 = 64;
/// Most blocks of the orphan file.
const MAX_ORPHAN_BLOCKS: u64 = 512;

/// The journal's length in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalSize {
    /// Blocks of the log proper, superblock included.
    pub log: u64,
    /// Blocks for fast commits.
    pub fast_commit: u64,
}

impl JournalSize {
    /// All of it.
    pub const fn total(self) -> u64 {
        self.log + self.fast_commit
    }
}

/// The plan of an empty filesystem.
#[derive(Clone, Debug)]
pub struct Layout {
    pub(crate) features: Features,
    pub(crate) block_size: u32,
    /// Blocks per cluster.
    pub(crate) ratio: u32,
    pub(crate) inode_size: u32,
    pub(crate) desc_size: u32,
    pub(crate) first_data_block: u64,
    pub(crate) blocks: u64,
    pub(crate) reserved_blocks: u64,
    pub(crate) blocks_per_group: u32,
    pub(crate) groups: u32,
    pub(crate) desc_blocks: u32,
    pub(crate) reserved_gdt: u32,
    pub(crate) inodes_per_group: u32,
    pub(crate) itable_blocks: u32,
    pub(crate) log_flex: u32,
    pub(crate) backups: [u32; 2],
    pub(crate) journal: JournalSize,
    pub(crate) orphan_blocks: u64,
    pub(crate) quota: [bool; 3],
    pub(crate) tables: Vec<Tables>,
    pub(crate) space: Space,
    /// Clusters in use by the above, for the superblock's `overhead_clusters`.
    pub(crate) overhead: u64,
    pub(crate) options: Options,
}

/// The structures at the start of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupHead {
    /// Block of the superblock copy.
    pub(crate) superblock: Option<u64>,
    /// The whole descriptor table, without the reserved blocks.
    pub(crate) descs: Option<Range<u64>>,
    /// Reserved descriptor blocks.
    pub(crate) reserved: Range<u64>,
    /// Which block of the descriptor table, and where it is (`meta_bg`).
    pub(crate) meta_desc: Option<(u32, u64)>,
}

impl Layout {
    /// Lay out a filesystem.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] or [`Error::Conflict`] for options that make no filesystem, [`Error::NoSpace`] where
    /// the metadata does not fit.
    pub fn new(options: &Options) -> Result<Self> {
        let p = Params::resolve(options)?;
        let mut l = Self::geometry(options, &p)?;
        if l.features.incompat.contains(Incompat::JOURNAL_DEV) {
            return Ok(l);
        }
        l.journal = l.journal_size()?;
        if l.journal.log == 0 && options.journal.external.is_none() {
            l.features.compat -= Compat::HAS_JOURNAL | Compat::ORPHAN_FILE;
        }
        l.orphan_blocks = l.orphan_size();
        if l.features.ro_compat.contains(RoCompat::QUOTA) {
            l.quota = [options.quota.user, options.quota.group, p.quota_project];
        }
        l.space = Space::new(l.blocks);
        l.take_heads();
        l.take_bad_blocks()?;
        l.tables = place_tables(&mut l)?;
        l.check_journal()?;
        let ratio = u64::from(l.ratio);
        l.space.round_to_clusters(l.first_data_block, ratio);
        l.overhead = l.space.used() / ratio + div_ceil(l.journal.total(), ratio) + l.first_data_block;
        Ok(l)
    }

    /// A journal whose size is asked for takes at most half of what is free.
    fn check_journal(&self) -> Result<()> {
        // Root directory and lost+found come before the journal, and the resize inode's block.
        let own = 1 + super::system::lost_found_blocks(self) + u32::from(self.reserved_gdt != 0);
        let free = (self.blocks - self.first_data_block).saturating_sub(self.space.used() + u64::from(own));
        if self.journal_is_sized() && self.journal.total() > free / 2 {
            let allowed = "at most half of the free blocks";
            return Err(invalid("journal size in blocks", self.journal.total(), allowed));
        }
        Ok(())
    }

    fn geometry(options: &Options, p: &Params) -> Result<Self> {
        let ratio = p.cluster_size / p.block_size;
        let per_group = p.per_group.unwrap_or(p.block_size * 8).min(MAX_CLUSTERS_PER_GROUP) * ratio;
        let mut l = Self {
            features: p.features,
            block_size: p.block_size,
            ratio,
            inode_size: p.inode_size,
            desc_size: p.desc_size,
            first_data_block: u64::from(p.cluster_size == 1024),
            blocks: p.blocks & !(u64::from(ratio) - 1),
            reserved_blocks: p.reserved_blocks,
            blocks_per_group: per_group,
            groups: 0,
            desc_blocks: 0,
            reserved_gdt: 0,
            inodes_per_group: 0,
            itable_blocks: 0,
            log_flex: p.log_flex,
            backups: [0, 0],
            journal: JournalSize::default(),
            orphan_blocks: 0,
            quota: [false; 3],
            tables: Vec::new(),
            space: Space::default(),
            overhead: 0,
            options: options.clone(),
        };
        if l.features.incompat.contains(Incompat::JOURNAL_DEV) {
            l.journal.log = l.blocks;
            if options.journal.size_mib.is_some() {
                return Err(invalid("journal size", l.blocks, "none on a journal device, which is all journal"));
            }
            if l.blocks < MIN_JOURNAL {
                return Err(invalid("size in blocks", l.blocks, "at least 1024 for a journal device"));
            }
            return Ok(l);
        }
        // Each round either is the last, or makes the groups or the filesystem smaller.
        while !l.try_geometry(p)? {}
        let wanted = if l.features.compat.contains(Compat::SPARSE_SUPER2) { options.backups } else { 0 };
        if wanted >= 1 && l.groups > 1 {
            l.backups[0] = 1;
        }
        if wanted >= 2 && l.groups > 2 {
            l.backups[1] = l.groups - 1;
        }
        Ok(l)
    }

    /// One attempt; `false` where a parameter had to change and all must be computed anew.
    fn try_geometry(&mut self, p: &Params) -> Result<bool> {
        let too_many = || invalid("number of inodes", p.inodes, "few enough that their tables fit the groups");
        let too_small = || Error::NoSpace { what: "blocks for metadata", need: 0, have: p.blocks };
        let too_small = |need: u64| match too_small() {
            Error::NoSpace { what, have, .. } => Error::NoSpace { what, need, have },
            e => e,
        };
        if self.blocks <= self.first_data_block {
            return Err(too_small(self.first_data_block + 1));
        }
        let groups = div_ceil(self.blocks - self.first_data_block, u64::from(self.blocks_per_group));
        self.groups = u32::try_from(groups).map_err(|_| invalid("number of groups", groups, "below 2^32"))?;
        let per_block = self.block_size / self.desc_size;
        self.desc_blocks = self.groups.div_ceil(per_block);
        let inodes = p.inodes.max(u64::from(FIRST_INO) + 1);
        let mut ipg = div_ceil(inodes, groups);
        if ipg > u64::from(self.block_size) * 8 {
            if self.ratio == 1 && self.blocks_per_group >= 256 {
                self.blocks_per_group -= 8;
                self.blocks = p.blocks;
                return Ok(false);
            }
            return Err(too_many());
        }
        ipg = ipg.min((1 << 16) - u64::from(self.block_size / self.inode_size));
        self.set_inodes_per_group(ipg);
        self.reserved_gdt = self.reserved_descs(p);
        let gdt = self.reserved_gdt + self.desc_blocks;
        if gdt > self.blocks_per_group / 4 * 3 {
            self.features.incompat |= Incompat::META_BG;
            self.features.compat -= Compat::RESIZE_INODE;
            self.reserved_gdt = 0;
        }
        let meta_bg = self.features.incompat.contains(Incompat::META_BG);
        // Room that was asked for must be there, though meta_bg has no use for it.
        let head = p.reserved_gdt.unwrap_or(self.reserved_gdt) + if meta_bg { 1 } else { self.desc_blocks };
        if 3 + u64::from(self.itable_blocks) + u64::from(head) > u64::from(self.blocks_per_group) {
            return Err(too_many());
        }
        self.last_group_fits(p, too_small)
    }

    /// Drop the last group where it would hold next to nothing.
    fn last_group_fits(&mut self, p: &Params, too_small: impl Fn(u64) -> Error) -> Result<bool> {
        let has_super = if self.features.compat.contains(Compat::SPARSE_SUPER2) {
            self.options.backups >= if self.groups == 2 { 1 } else { 2 }
        } else {
            self.has_super(self.groups - 1)
        };
        let mut need = 2 + u64::from(self.itable_blocks);
        if has_super {
            need += 1 + u64::from(self.desc_blocks + self.reserved_gdt);
        }
        let rest = (self.blocks - self.first_data_block) % u64::from(self.blocks_per_group);
        if self.groups == 1 && rest != 0 && rest < need {
            return Err(too_small(need));
        }
        if rest != 0 && rest < need + LAST_GROUP_SLACK && self.groups > 1 {
            // The share that was asked for, of what was left when a group was dropped last.
            let share = p.reserved_blocks as f64 / p.blocks as f64;
            self.blocks -= rest;
            self.reserved_blocks = (share * self.blocks as f64) as u64;
            return Ok(false);
        }
        if rest != 0 && rest < need + LAST_GROUP_SLACK && self.first_data_block + rest == self.blocks {
            return Err(too_small(need + LAST_GROUP_SLACK));
        }
        Ok(true)
    }

    /// Fill whole blocks of the inode table, in multiples of 8 inodes.
    fn set_inodes_per_group(&mut self, wanted: u64) {
        let (bs, size) = (u64::from(self.block_size), u64::from(self.inode_size));
        let mut wanted = wanted;
        loop {
            let table = div_ceil(wanted * size, bs);
            let mut ipg = (table * bs / size).max(8) & !7;
            if ipg * u64::from(self.groups) <= u64::from(FIRST_INO) {
                ipg += 8;
            }
            if u32::try_from(ipg * u64::from(self.groups)).is_ok() || wanted <= 8 {
                self.inodes_per_group = ipg as u32;
                self.itable_blocks = div_ceil(ipg * size, bs) as u32;
                return;
            }
            wanted -= 1;
        }
    }

    fn reserved_descs(&self, p: &Params) -> u32 {
        if let Some(n) = p.reserved_gdt {
            return n;
        }
        if !self.features.compat.contains(Compat::RESIZE_INODE) {
            return 0;
        }
        let max = u64::from(u32::MAX);
        let limit = if self.blocks < max / 1024 { self.blocks * 1024 } else { max };
        let groups = div_ceil(limit - self.first_data_block, u64::from(self.blocks_per_group));
        let blocks = div_ceil(groups, u64::from(self.block_size / self.desc_size));
        (blocks as u32).saturating_sub(self.desc_blocks).min(self.block_size / 4)
    }

    /// Whether a size of the journal is asked for.
    fn journal_is_sized(&self) -> bool {
        let asked = self.options.journal;
        let fast = self.features.compat.contains(Compat::FAST_COMMIT);
        asked.size_mib.is_some() || (fast && asked.fast_commit_kib.is_some())
    }

    fn journal_size(&self) -> Result<JournalSize> {
        let asked = self.options.journal;
        let own = self.features.compat.contains(Compat::HAS_JOURNAL) && asked.external.is_none();
        if !own || self.blocks < 2048 {
            return Ok(JournalSize::default());
        }
        let fast = self.features.compat.contains(Compat::FAST_COMMIT);
        let log = match self.blocks {
            ..0x8000 => 1024,
            0x8000..0x4_0000 => 4096,
            0x4_0000..0x8_0000 => 8192,
            0x8_0000..0x40_0000 => 16384,
            0x40_0000..0x80_0000 => 32768,
            0x80_0000..0x100_0000 => 65536,
            0x100_0000..0x200_0000 => 131_072,
            _ => 262_144,
        };
        let mut size = JournalSize { log, fast_commit: if fast { log / FAST_COMMIT_RATIO } else { 0 } };
        if let Some(mib) = asked.size_mib {
            size.log = u64::from(mib) * 1024 / u64::from(self.block_size / 1024);
        }
        if let (Some(kib), true) = (asked.fast_commit_kib, fast) {
            size.fast_commit = u64::from(kib) * 1024 / u64::from(self.block_size);
        }
        if self.journal_is_sized() && !(MIN_JOURNAL..=MAX_JOURNAL).contains(&size.total()) {
            return Err(invalid("journal size in blocks", size.total(), "1024 to 10240000"));
        }
        Ok(size)
    }

    fn orphan_size(&self) -> u64 {
        if !self.features.compat.contains(Compat::ORPHAN_FILE) {
            return 0;
        }
        let n = match self.options.orphan_file_size {
            Some(size) => size.blocks(self.block_size).clamp(1, MAX_ORPHAN_BLOCKS),
            None if self.blocks < 128 * 1024 => 32,
            None if self.blocks < 2 * 1024 * 1024 => self.blocks / 4096,
            None => MAX_ORPHAN_BLOCKS,
        };
        n.next_multiple_of(u64::from(self.ratio))
    }

    /// Whether the group has a copy of the superblock.
    pub(crate) fn has_super(&self, group: u32) -> bool {
        if group == 0 {
            return true;
        }
        if self.features.compat.contains(Compat::SPARSE_SUPER2) {
            return self.backups.contains(&group);
        }
        if group == 1 || !self.features.ro_compat.contains(RoCompat::SPARSE_SUPER) {
            return true;
        }
        group % 2 == 1 && [3, 5, 7].into_iter().any(|base| is_power(group, base))
    }

    /// First block of the group.
    pub(crate) fn group_start(&self, group: u32) -> u64 {
        self.first_data_block + u64::from(group) * u64::from(self.blocks_per_group)
    }

    /// The block after the group's last.
    pub(crate) fn group_end(&self, group: u32) -> u64 {
        (self.group_start(group) + u64::from(self.blocks_per_group)).min(self.blocks)
    }

    /// What is at the start of the group.
    pub(crate) fn head(&self, group: u32) -> GroupHead {
        let mut head = GroupHead::default();
        let mut at = self.group_start(group);
        // With bigalloc and 1 KiB blocks the filesystem starts at block 0, the superblock at block 1 all the same.
        if at == 0 && self.block_size == 1024 {
            at = 1;
        }
        if self.has_super(group) {
            head.superblock = Some(at);
            at += 1;
        }
        if self.features.incompat.contains(Incompat::META_BG) {
            let per_block = self.block_size / self.desc_size;
            let (meta, index) = (group / per_block, group % per_block);
            if index <= 1 || index == per_block - 1 {
                head.meta_desc = Some((meta, at));
            }
        } else if head.superblock.is_some() {
            let end = at + u64::from(self.desc_blocks);
            head.descs = Some(at..end);
            head.reserved = end..end + u64::from(self.reserved_gdt);
        }
        head
    }

    /// The blocks where copies of the superblock are, ascending.
    pub fn superblock_copies(&self) -> impl Iterator<Item = u64> {
        self.groups_with_head().into_iter().skip_while(|g| *g == 0).filter_map(|g| self.head(g).superblock)
    }

    /// Groups that have something at their start, ascending. All groups of a very large filesystem need not be looked at.
    pub(crate) fn groups_with_head(&self) -> Vec<u32> {
        let meta = self.features.incompat.contains(Incompat::META_BG);
        let every = !meta
            && !self.features.compat.contains(Compat::SPARSE_SUPER2)
            && self.features.ro_compat.contains(RoCompat::SPARSE_SUPER);
        if !every {
            return (0..self.groups).filter(|g| self.head(*g) != GroupHead::default()).collect();
        }
        let mut groups = vec![0, 1];
        for base in [3u64, 5, 7] {
            let mut n = base;
            while n < u64::from(self.groups) {
                groups.push(n as u32);
                n *= base;
            }
        }
        groups.sort_unstable();
        groups.retain(|g| *g < self.groups);
        groups
    }

    fn take_heads(&mut self) {
        if self.block_size == 1024 && self.ratio > 1 {
            self.space.take(0..1);
        }
        for group in self.groups_with_head() {
            let head = self.head(group);
            if let Some(b) = head.superblock {
                self.space.take(b..b + 1);
            }
            if let Some(r) = head.descs {
                self.space.take(r);
            }
            self.space.take(head.reserved);
            if let Some((_, b)) = head.meta_desc {
                self.space.take(b..b + 1);
            }
        }
    }

    /// Nothing goes to a bad block. The first group's superblock and descriptors cannot do without theirs.
    fn take_bad_blocks(&mut self) -> Result<()> {
        let head = self.head(0);
        let descs = head.descs.map_or(0, |r| r.end).max(head.meta_desc.map_or(0, |(_, at)| at + 1));
        let must_be_good = self.first_data_block..descs.max(self.first_data_block + 1);
        let mut bad = std::mem::take(&mut self.options.bad_blocks);
        bad.sort_unstable();
        bad.dedup();
        bad.retain(|b| (self.first_data_block..self.blocks).contains(b) && u32::try_from(*b).is_ok());
        if let Some(block) = bad.iter().find(|b| must_be_good.contains(b)) {
            return Err(invalid("bad block", block, "blocks behind the superblock and the group descriptors"));
        }
        for b in &bad {
            self.space.take(*b..*b + 1);
        }
        self.options.bad_blocks = bad;
        Ok(())
    }

    /// Inodes of the filesystem.
    pub(crate) fn inodes(&self) -> u32 {
        self.inodes_per_group * self.groups
    }

    /// How metadata is protected.
    pub(crate) fn checksums(&self) -> Checksums {
        if self.features.ro_compat.contains(RoCompat::METADATA_CSUM) {
            Checksums::Metadata { seed: crc32c(!0, &self.options.uuid) }
        } else if self.features.ro_compat.contains(RoCompat::GDT_CSUM) {
            Checksums::Gdt { uuid: self.options.uuid }
        } else {
            Checksums::None
        }
    }

    /// Bytes of a block.
    pub const fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Blocks of the filesystem.
    pub const fn block_count(&self) -> u64 {
        self.blocks
    }

    /// Bytes of the filesystem.
    pub const fn byte_len(&self) -> u64 {
        self.blocks * self.block_size as u64
    }

    /// Groups of the filesystem.
    pub const fn group_count(&self) -> u32 {
        self.groups
    }

    /// Inodes of the filesystem.
    pub const fn inode_count(&self) -> u32 {
        self.inodes_per_group * self.groups
    }

    /// Bytes of an inode.
    pub const fn inode_size(&self) -> u32 {
        self.inode_size
    }

    /// Blocks of a cluster.
    pub(crate) const fn cluster_ratio(&self) -> u64 {
        self.ratio as u64
    }

    pub(crate) const fn hash_seed(&self) -> &[u8; 16] {
        &self.options.hash_seed
    }

    pub(crate) const fn now(&self) -> crate::env::Timestamp {
        self.options.now
    }

    pub(crate) const fn root_owner(&self) -> Option<(u32, u32)> {
        self.options.root_owner
    }

    /// The features, as settled.
    pub const fn features(&self) -> Features {
        self.features
    }

    /// The journal's size; all zero where there is none.
    pub const fn journal(&self) -> JournalSize {
        self.journal
    }
}

fn is_power(mut n: u32, base: u32) -> bool {
    while n.is_multiple_of(base) {
        n /= base;
    }
    n == 1
}
