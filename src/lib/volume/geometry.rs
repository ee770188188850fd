//! Geometry: every conversion between number spaces, derived once from a superblock that was checked once.
//!
//! A [`Geometry`] exists only for a superblock whose sizes and counts fit together, so code that holds one relies
//! on: block size 1 KiB to 64 KiB and a power of two; at least one group; descriptors that tile a block; inodes
//! that tile a block; `groups × inodes_per_group = inodes_count`. Units are in every name.

use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::U32;
use crate::format::csum::Checksums;
use crate::format::features::{Compat, Features, Incompat, RoCompat};
use crate::format::superblock::{self, Superblock};
use crate::units::{Cluster, Fsblk, Group, Ino};

/// Largest `log_cluster_size`: 512 MiB.
const MAX_LOG_CLUSTER_SIZE: u32 = 19;
/// Largest `log_groups_per_flex`.
const MAX_LOG_FLEX: u8 = 31;

/// Sizes, counts and places of a filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Geometry {
    /// Feature words.
    pub features: Features,
    /// How metadata is protected.
    pub checksums: Checksums,
    /// Block size in bytes.
    pub block_size: u32,
    /// log2 of the block size.
    pub block_bits: u32,
    /// Blocks per cluster; 1 without bigalloc.
    pub cluster_ratio: u32,
    /// log2 of the blocks per cluster.
    pub cluster_bits: u32,
    /// Blocks of the filesystem, including those before the first data block.
    pub blocks_count: u64,
    /// First block of group 0.
    pub first_data_block: u64,
    /// Blocks per group.
    pub blocks_per_group: u32,
    /// Clusters per group.
    pub clusters_per_group: u32,
    /// Inodes per group.
    pub inodes_per_group: u32,
    /// Inodes of the filesystem.
    pub inodes_count: u32,
    /// Inode size in bytes.
    pub inode_size: u16,
    /// Group descriptor size in bytes.
    pub desc_size: u16,
    /// Block groups.
    pub groups: u32,
    /// Blocks of one group's inode table.
    pub itable_blocks: u32,
    /// Group descriptors per block.
    pub desc_per_block: u32,
    /// Blocks of the group descriptor table.
    pub gdt_blocks: u32,
    /// Reserved descriptor blocks for growth, per group with a superblock.
    pub reserved_gdt_blocks: u32,
    /// First meta block group; where `meta_bg` is off, beyond the last descriptor block.
    pub first_meta_bg: u32,
    /// log2 of the groups per flexible group.
    pub flex_bits: u32,
    /// First inode that is not reserved.
    pub first_ino: u32,
    /// Groups of the two backups with `sparse_super2`.
    pub backup_groups: [u32; 2],
}

fn field(field: &'static str, value: u64) -> Error {
    Error::corrupt(Flaw::Field { of: Structure::Superblock, field, value }, Place::FS)
}

const fn log2(v: u32) -> u32 {
    v.trailing_zeros()
}

impl Geometry {
    /// Check `sb` and derive the geometry. Fails with the first field that cannot be.
    pub fn new(sb: &Superblock) -> Result<Self> {
        let features = sb.features();
        let (block_size, cluster_ratio) = Self::sizes(sb, features)?;
        let (blocks_per_group, clusters_per_group) = Self::group_sizes(sb, features, block_size, cluster_ratio)?;
        let (inode_size, desc_size) = Self::record_sizes(sb, features, block_size)?;
        let bits_per_block = block_size.saturating_mul(8);
        let first_data_block = u64::from(sb.first_data_block.get());
        if first_data_block != u64::from(block_size == 1024 && cluster_ratio == 1) {
            return Err(field("first_data_block", first_data_block));
        }
        let blocks_count = sb.blocks_count();
        if blocks_count <= first_data_block {
            return Err(field("blocks_count", blocks_count));
        }
        let groups = blocks_count.saturating_sub(first_data_block).div_ceil(blocks_per_group.into());
        let inodes_per_group = sb.inodes_per_group.get();
        let inodes_per_block = block_size.checked_div(inode_size.into()).unwrap_or(1);
        if inodes_per_group == 0 || inodes_per_group > bits_per_block {
            return Err(field("inodes_per_group", inodes_per_group.into()));
        }
        let inodes_count = sb.inodes_count.get();
        if u64::from(inodes_count) != groups.saturating_mul(inodes_per_group.into()) {
            return Err(field("inodes_count", inodes_count.into()));
        }
        let groups = u32::try_from(groups).map_err(|_| field("blocks_count", blocks_count))?;
        let itable_blocks = inodes_per_group.div_ceil(inodes_per_block.max(1));
        let least = u64::from(groups).saturating_mul(u64::from(itable_blocks).saturating_add(2));
        if least > blocks_count {
            return Err(field("inodes_per_group", inodes_per_group.into()));
        }
        let desc_per_block = block_size.checked_div(desc_size.into()).unwrap_or(1);
        let gdt_blocks = groups.div_ceil(desc_per_block.max(1));
        let reserved_gdt_blocks = u32::from(sb.reserved_gdt_blocks.get());
        if reserved_gdt_blocks > block_size.wrapping_shr(2) {
            return Err(field("reserved_gdt_blocks", reserved_gdt_blocks.into()));
        }
        let first_meta_bg =
            if features.incompat.contains(Incompat::META_BG) { sb.first_meta_bg.get() } else { gdt_blocks };
        if first_meta_bg > gdt_blocks {
            return Err(field("first_meta_bg", first_meta_bg.into()));
        }
        let first_ino = sb.first_free_ino();
        if first_ino < Ino::GOOD_OLD_FIRST.0 || first_ino > inodes_count {
            return Err(field("first_ino", first_ino.into()));
        }
        let log_flex = if features.incompat.contains(Incompat::FLEX_BG) { sb.log_groups_per_flex } else { 0 };
        if log_flex > MAX_LOG_FLEX {
            return Err(field("log_groups_per_flex", log_flex.into()));
        }
        if features.ro_compat.contains(RoCompat::METADATA_CSUM) && sb.checksum_type != 1 {
            return Err(field("checksum_type", sb.checksum_type.into()));
        }
        Ok(Self {
            features,
            checksums: sb.checksums(),
            block_size,
            block_bits: log2(block_size),
            cluster_ratio,
            cluster_bits: log2(cluster_ratio),
            blocks_count,
            first_data_block,
            blocks_per_group,
            clusters_per_group,
            inodes_per_group,
            inodes_count,
            inode_size,
            desc_size,
            groups,
            itable_blocks,
            desc_per_block,
            gdt_blocks,
            reserved_gdt_blocks,
            first_meta_bg,
            flex_bits: log_flex.into(),
            first_ino,
            backup_groups: sb.backup_bgs.map(U32::get),
        })
    }

    /// Block size and cluster ratio.
    fn sizes(sb: &Superblock, features: Features) -> Result<(u32, u32)> {
        let log_block = sb.log_block_size.get();
        if log_block > superblock::MAX_LOG_BLOCK_SIZE {
            return Err(field("log_block_size", log_block.into()));
        }
        let log_cluster = sb.log_cluster_size.get();
        let bigalloc = features.ro_compat.contains(RoCompat::BIGALLOC);
        if !bigalloc && log_cluster != log_block {
            return Err(field("log_cluster_size", log_cluster.into()));
        }
        if bigalloc && (log_cluster < log_block || log_cluster > MAX_LOG_CLUSTER_SIZE) {
            return Err(field("log_cluster_size", log_cluster.into()));
        }
        let ratio = if bigalloc { 1u32.wrapping_shl(log_cluster.saturating_sub(log_block)) } else { 1 };
        Ok((1024u32.wrapping_shl(log_block), ratio))
    }

    /// Blocks and clusters per group.
    fn group_sizes(sb: &Superblock, features: Features, block_size: u32, cluster_ratio: u32) -> Result<(u32, u32)> {
        let blocks_per_group = sb.blocks_per_group.get();
        let clusters_per_group = if features.ro_compat.contains(RoCompat::BIGALLOC) {
            sb.clusters_per_group.get()
        } else {
            blocks_per_group
        };
        let bits_per_block = block_size.saturating_mul(8);
        if clusters_per_group == 0 || clusters_per_group > bits_per_block || !clusters_per_group.is_multiple_of(8) {
            return Err(field("clusters_per_group", clusters_per_group.into()));
        }
        if u64::from(clusters_per_group).saturating_mul(cluster_ratio.into()) != u64::from(blocks_per_group) {
            return Err(field("blocks_per_group", blocks_per_group.into()));
        }
        Ok((blocks_per_group, clusters_per_group))
    }

    /// Inode and descriptor size in bytes.
    fn record_sizes(sb: &Superblock, features: Features, block_size: u32) -> Result<(u16, u16)> {
        let inode_size = sb.inode_size_bytes();
        if !(128..=block_size).contains(&u32::from(inode_size)) || !inode_size.is_power_of_two() {
            return Err(field("inode_size", inode_size.into()));
        }
        let desc_size = sb.desc_size_bytes();
        let wide = features.incompat.contains(Incompat::BIT64);
        let min = if wide { superblock::DESC_SIZE_64BIT } else { superblock::MIN_DESC_SIZE };
        if desc_size < min || !desc_size.is_power_of_two() || u32::from(desc_size) > block_size {
            return Err(field("desc_size", desc_size.into()));
        }
        Ok((inode_size, desc_size))
    }

    /// Byte offset of a block, from the start of the filesystem.
    #[inline]
    pub const fn byte_of(&self, block: Fsblk) -> u64 {
        block.0.saturating_mul(self.block_size as u64)
    }

    /// Whether a block is one of the filesystem's, from the first data block on.
    #[inline]
    pub const fn has_block(&self, block: Fsblk) -> bool {
        block.0 >= self.first_data_block && block.0 < self.blocks_count
    }

    /// Whether all of `block..block + len` are the filesystem's.
    #[inline]
    pub const fn has_range(&self, block: Fsblk, len: u64) -> bool {
        block.0 >= self.first_data_block
            && match block.0.checked_add(len) {
                Some(end) => end <= self.blocks_count,
                None => false,
            }
    }

    /// First block of a group.
    #[inline]
    pub const fn group_start(&self, group: Group) -> Fsblk {
        Fsblk((group.0 as u64).saturating_mul(self.blocks_per_group as u64).saturating_add(self.first_data_block))
    }

    /// Blocks of a group; the last one may be shorter, and a group that does not exist has none.
    pub const fn blocks_in_group(&self, group: Group) -> u32 {
        let left = self.blocks_count.saturating_sub(self.group_start(group).0);
        if left < self.blocks_per_group as u64 { left as u32 } else { self.blocks_per_group }
    }

    /// Clusters of a group, a partial one at the end included.
    pub const fn clusters_in_group(&self, group: Group) -> u32 {
        self.blocks_in_group(group).div_ceil(self.cluster_ratio)
    }

    /// Group of a block, and the block's number in it. Blocks before the first data block count as block 0 of group 0.
    #[inline]
    #[expect(clippy::arithmetic_side_effects, reason = "the divisor is not zero in a checked geometry")]
    pub const fn group_of(&self, block: Fsblk) -> (Group, u32) {
        let n = block.0.saturating_sub(self.first_data_block);
        let per = self.blocks_per_group as u64;
        (Group((n / per) as u32), (n % per) as u32)
    }

    /// Group of a block, and the number of the block's cluster (bit of the block bitmap) in it.
    #[inline]
    pub const fn cluster_bit_of(&self, block: Fsblk) -> (Group, u32) {
        let (group, n) = self.group_of(block);
        (group, n.wrapping_shr(self.cluster_bits))
    }

    /// Cluster of a block, counted from the start of the filesystem.
    #[inline]
    #[doc(alias = "EXT4_B2C")]
    pub const fn cluster_of(&self, block: Fsblk) -> Cluster {
        Cluster(block.0.wrapping_shr(self.cluster_bits))
    }

    /// First block of a cluster.
    #[inline]
    #[doc(alias = "EXT4_C2B")]
    pub const fn cluster_start(&self, cluster: Cluster) -> Fsblk {
        Fsblk(cluster.0.wrapping_shl(self.cluster_bits))
    }

    /// Clusters of the filesystem.
    pub const fn clusters_count(&self) -> u64 {
        self.blocks_count.saturating_sub(self.first_data_block).div_ceil(self.cluster_ratio as u64)
    }

    /// All groups in order.
    pub fn all_groups(&self) -> impl Iterator<Item = Group> + use<> {
        (0..self.groups).map(Group)
    }

    /// Group of an inode, and its index in that group's table. Fails for numbers that do not exist.
    #[expect(clippy::arithmetic_side_effects, reason = "the divisor is not zero in a checked geometry")]
    pub const fn inode_place(&self, ino: Ino) -> Result<(Group, u32)> {
        if ino.0 == 0 || ino.0 > self.inodes_count {
            return Err(Error::NoSuchInode { ino, max: self.inodes_count });
        }
        let n = ino.0.saturating_sub(1);
        Ok((Group(n / self.inodes_per_group), n % self.inodes_per_group))
    }

    /// First inode of a group.
    pub const fn group_first_ino(&self, group: Group) -> Ino {
        Ino(group.0.saturating_mul(self.inodes_per_group).saturating_add(1))
    }

    /// Whether a group starts with a superblock (the primary or a backup).
    #[doc(alias = "ext4_bg_has_super")]
    pub fn has_super(&self, group: Group) -> bool {
        let g = group.0;
        if g == 0 {
            return true;
        }
        if self.features.compat.contains(Compat::SPARSE_SUPER2) {
            return self.backup_groups.contains(&g);
        }
        if g == 1 || !self.features.ro_compat.contains(RoCompat::SPARSE_SUPER) {
            return true;
        }
        [3u32, 5, 7].into_iter().any(|base| is_power(g, base))
    }

    /// The block of a group's superblock, the primary or a backup; `None` where it has none.
    pub fn super_block(&self, group: Group) -> Option<Fsblk> {
        // With 1 KiB blocks the primary superblock fills block 1, also where bigalloc starts group 0 at block 0.
        let boot = u64::from(group.0 == 0 && self.block_size == 1024 && self.first_data_block == 0);
        self.has_super(group).then(|| self.group_start(group).saturating_add(boot))
    }

    /// Descriptor blocks that a group holds, right after its superblock or (meta_bg) at its start or after it.
    /// The reserved ones for growth are not counted.
    #[doc(alias = "ext4_bg_num_gdb")]
    pub fn gdt_blocks_in_group(&self, group: Group) -> u32 {
        let meta = self.meta_group_of(group);
        if !self.features.incompat.contains(Incompat::META_BG) || meta < self.first_meta_bg {
            return if self.has_super(group) {
                if self.features.incompat.contains(Incompat::META_BG) { self.first_meta_bg } else { self.gdt_blocks }
            } else {
                0
            };
        }
        let first = meta.saturating_mul(self.desc_per_block);
        let last = first.saturating_add(self.desc_per_block).saturating_sub(1);
        u32::from(group.0 == first || group.0 == first.saturating_add(1) || group.0 == last)
    }

    /// The meta block group of a group.
    pub fn meta_group_of(&self, group: Group) -> u32 {
        group.0.checked_div(self.desc_per_block).unwrap_or(0)
    }

    /// Where descriptor block `index` of the table is: in the primary copy with the superblock at `super_block`
    /// (0 stands for the primary one), or in its meta block group.
    #[doc(alias = "descriptor_loc")]
    pub fn gdt_block(&self, super_block: Fsblk, index: u32) -> Fsblk {
        let meta_bg = self.features.incompat.contains(Incompat::META_BG);
        if !meta_bg || index < self.first_meta_bg {
            // With 1 KiB blocks the primary superblock fills block 1, also where bigalloc starts group 0 at block 0.
            let primary = u64::from(self.block_size == 1024);
            let base = if super_block.0 == 0 { primary } else { super_block.0 };
            return Fsblk(base.saturating_add(1).saturating_add(index.into()));
        }
        // The primary copy is in the first group of the meta group, the backups in its second and last.
        let mut group = Group(index.saturating_mul(self.desc_per_block));
        if super_block.0 != 0 && group.0.saturating_add(1) < self.groups {
            group = Group(group.0.saturating_add(1));
        }
        let start = self.group_start(group);
        let mut block = start.saturating_add(u64::from(self.has_super(group)));
        // With 1 KiB blocks and bigalloc, block 0 is the boot block and the superblock is block 1.
        if group.0 == 0 && self.block_size == 1024 && self.first_data_block == 0 {
            block = block.saturating_add(1);
        }
        block
    }

    /// Blocks at the start of a group for superblock, descriptors and reserved descriptors.
    #[doc(alias = "ext4_num_base_meta_clusters")]
    pub fn super_and_gdt_blocks(&self, group: Group) -> u32 {
        let mut n = u32::from(self.has_super(group)).saturating_add(self.gdt_blocks_in_group(group));
        let old_style =
            !self.features.incompat.contains(Incompat::META_BG) || self.meta_group_of(group) < self.first_meta_bg;
        if old_style && self.has_super(group) {
            n = n.saturating_add(self.reserved_gdt_blocks);
        }
        if group.0 == 0 && self.block_size == 1024 && self.first_data_block == 0 {
            n = n.saturating_add(1);
        }
        n
    }

    /// Groups per flexible group.
    pub const fn groups_per_flex(&self) -> u32 {
        1u32.wrapping_shl(self.flex_bits)
    }

    /// Bytes that the device must have.
    pub const fn total_bytes(&self) -> u64 {
        self.blocks_count.saturating_mul(self.block_size as u64)
    }
}

fn is_power(n: u32, base: u32) -> bool {
    let mut v = base;
    while v < n {
        v = v.saturating_mul(base);
    }
    v == n
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::format::U16;

    /// A plausible superblock: 4 KiB blocks, `groups` full groups, sparse_super.
    pub(crate) fn sample(groups: u32) -> Superblock {
        let mut sb = Superblock {
            magic: U16::new(superblock::MAGIC),
            log_block_size: U32::new(2),
            log_cluster_size: U32::new(2),
            blocks_per_group: U32::new(32768),
            clusters_per_group: U32::new(32768),
            inodes_per_group: U32::new(8192),
            inodes_count: U32::new(8192 * groups),
            rev_level: U32::new(1),
            first_ino: U32::new(11),
            inode_size: U16::new(256),
            desc_size: U16::new(64),
            ..Superblock::default()
        };
        sb.set_features(Features {
            incompat: Incompat::BIT64 | Incompat::EXTENTS | Incompat::FILETYPE,
            ro_compat: RoCompat::SPARSE_SUPER,
            ..Features::default()
        });
        sb.set_blocks_count(32768 * u64::from(groups));
        sb
    }

    #[test]
    fn groups_and_blocks() {
        let geo = Geometry::new(&sample(10)).unwrap();
        assert_eq!(geo.group_of(Fsblk(32768)), (Group(1), 0));
        assert_eq!(geo.group_start(Group(9)), Fsblk(9 * 32768));
        assert_eq!(geo.inode_place(Ino(8193)).unwrap(), (Group(1), 0));
        assert!(geo.inode_place(Ino(0)).is_err());
        assert!(geo.inode_place(Ino(81921)).is_err());
        let supers: Vec<u32> = geo.all_groups().filter(|g| geo.has_super(*g)).map(|g| g.0).collect();
        assert_eq!(supers, [0, 1, 3, 5, 7, 9]);
        assert!(geo.has_range(Fsblk(327_679), 1));
        assert!(!geo.has_range(Fsblk(327_679), 2));
        assert!(!geo.has_range(Fsblk(1), u64::MAX));
    }

    #[test]
    fn each_impossible_field_is_named() {
        type Edit = fn(&mut Superblock);
        let cases: [(&str, Edit); 12] = [
            ("log_block_size", |s| s.log_block_size = U32::new(7)),
            ("clusters_per_group", |s| s.blocks_per_group = U32::new(32769)),
            ("clusters_per_group", |s| s.blocks_per_group = U32::new(0)),
            ("inode_size", |s| s.inode_size = U16::new(200)),
            ("inode_size", |s| s.inode_size = U16::new(0)),
            ("desc_size", |s| s.desc_size = U16::new(32)),
            ("first_data_block", |s| s.first_data_block = U32::new(1)),
            ("blocks_count", |s| s.set_blocks_count(0)),
            ("inodes_per_group", |s| s.inodes_per_group = U32::new(0)),
            ("inodes_count", |s| s.inodes_count = U32::new(1)),
            ("reserved_gdt_blocks", |s| s.reserved_gdt_blocks = U16::new(1025)),
            ("first_ino", |s| s.first_ino = U32::new(3)),
        ];
        for (name, edit) in cases {
            let mut sb = sample(2);
            edit(&mut sb);
            match Geometry::new(&sb) {
                Err(Error::Corrupt { what: Flaw::Field { field, .. }, .. }) => assert_eq!(field, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn meta_bg_places_descriptors_in_their_groups() {
        let mut sb = sample(200);
        let mut f = sb.features();
        f.incompat |= Incompat::META_BG;
        sb.set_features(f);
        let geo = Geometry::new(&sb).unwrap();
        assert_eq!(geo.desc_per_block, 64);
        assert_eq!(geo.gdt_block(Fsblk(0), 0), Fsblk(1));
        assert_eq!(geo.gdt_block(Fsblk(0), 1), Fsblk(64 * 32768));
        assert_eq!(geo.gdt_blocks_in_group(Group(64)), 1);
        assert_eq!(geo.gdt_blocks_in_group(Group(65)), 1);
        assert_eq!(geo.gdt_blocks_in_group(Group(66)), 0);
        assert_eq!(geo.gdt_blocks_in_group(Group(127)), 1);
    }
}
