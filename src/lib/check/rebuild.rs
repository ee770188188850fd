//! A superblock made anew from what else is on the device, where neither the primary one nor any backup is left.
//!
//! The first descriptor, or what looks like an inode table ([`super::locate`]), tells where bitmaps and inode table of group 0 are; the padding of the bitmaps how many inodes and
//! clusters a group has; the root directory, which names itself, how large inodes are; the flags of inodes which features
//! there are; their checksums the seed. What fits all of that is taken, and nothing is where the root directory is not found.
//! Sizes are in bytes, places in blocks.

use std::sync::Arc;

use zerocopy::FromZeros;

use super::locate::{self, Table, first_block, unpadded};
use super::open::descriptors_are_sound;
use super::rescue::{INODE_SIZES, LOG_FLEX, Mended, as_mended, overlaid, primary};
use super::view::le32;
use crate::device::BlockDevice;
use crate::format::csum::{Checksums, crc32c};
use crate::format::features::{Compat, Features, Incompat, RoCompat};
use crate::format::group_desc::GroupDesc;
use crate::format::inode::{FileType, GOOD_OLD_SIZE, Inode, InodeFlags};
use crate::format::superblock::{self, SbFlags, Superblock};
use crate::format::{bitmap, casefold};
use crate::units::{Fsblk, Ino};

/// The polynomial of checksums, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Inodes at the beginning of the table whose flags and checksums are looked at.
const LOOKED_AT: u32 = 256;
/// Inodes whose checksums agree, before a seed is believed.
const AGREEING: usize = 3;
/// Largest power of two of blocks in a cluster.
const MAX_LOG_RATIO: u32 = 16;
/// Files whose beginnings tell how large clusters are.
const FILES: usize = 16;
/// Group sizes that are tried, each half the one before.
const GROUP_SIZES: u32 = 6;
/// Bytes of a short descriptor, and of a wide one.
const DESCRIPTORS: [u16; 2] = [64, 32];
/// Extra fields of inodes, bytes.
const EXTRA_ISIZE: u16 = 32;

/// What is known before inodes are looked at.
struct Site<'d> {
    dev: &'d Arc<dyn BlockDevice>,
    /// Block size as a shift.
    bits: u32,
    first_data_block: u32,
    desc_size: u16,
    desc: GroupDesc,
    blocks: u64,
    /// The inode table was found without a descriptor.
    table: Option<Table>,
}

/// A superblock that fits the device and one of `tables`, and the filesystem with it and with descriptors.
pub(super) fn relocated(dev: &Arc<dyn BlockDevice>, tables: &[Table]) -> Option<Mended> {
    let stored = primary(dev)?;
    tables.iter().find_map(|table| {
        let bits = table.bits;
        let firsts: &[u32] = if bits == 10 { &[1, 0] } else { &[0] };
        let all = locate::first_descriptors(dev, *table);
        all.iter().find_map(|desc| {
            firsts.iter().flat_map(|first| DESCRIPTORS.map(|size| (*first, size))).find_map(
                |(first_data_block, desc_size)| {
                    let (blocks, desc) = (dev.len() >> bits, *desc);
                    let site = Site { dev, bits, first_data_block, desc_size, desc, blocks, table: Some(*table) };
                    site.superblock(&stored)
                },
            )
        })
    })
}

/// A superblock that fits the device and its first descriptor, and the filesystem with it.
pub(super) fn rebuilt(dev: &Arc<dyn BlockDevice>) -> Option<Mended> {
    let stored = primary(dev)?;
    (10..=16).find_map(|bits| {
        let firsts: &[u32] = if bits == 10 { &[1, 0] } else { &[0] };
        firsts.iter().find_map(|first| {
            DESCRIPTORS.iter().find_map(|size| Site::new(dev, bits, *first, *size)?.superblock(&stored))
        })
    })
}

impl<'d> Site<'d> {
    fn new(dev: &'d Arc<dyn BlockDevice>, bits: u32, first_data_block: u32, desc_size: u16) -> Option<Self> {
        let blocks = dev.len() >> bits;
        // With small blocks the superblock is in block 1 either way.
        let table = if bits == 10 { 2 } else { 1 };
        let mut raw = vec![0; usize::from(desc_size)];
        dev.read_at(table << bits, &mut raw).ok()?;
        let desc = GroupDesc::decode(&raw).ok()?;
        let parts = [desc.block_bitmap().0, desc.inode_bitmap().0, desc.inode_table().0];
        let apart = parts[0] != parts[1] && parts[1] != parts[2] && parts[0] != parts[2];
        let inside = parts.iter().all(|b| *b > table && *b < blocks);
        (apart && inside).then_some(Self { dev, bits, first_data_block, desc_size, desc, blocks, table: None })
    }

    fn block(&self, at: Fsblk) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 1 << self.bits];
        self.dev.read_at(at.0.checked_shl(self.bits)?, &mut bytes).ok()?;
        Some(bytes)
    }

    fn superblock(&self, stored: &Superblock) -> Option<Mended> {
        let sizes = INODE_SIZES.iter().filter(|size| self.table.is_none_or(|t| t.inode_size == **size));
        sizes.into_iter().find_map(|size| {
            let root = self.inode(*size, Ino::ROOT)?;
            let entry_type = self.root_names_itself(&root)?;
            let seed = self.seed(*size);
            let features = self.features(*size, seed, entry_type);
            let per_group = self.inodes_per_group(stored, *size, &root);
            per_group.into_iter().find_map(|inodes| {
                self.group_sizes(stored, *size).into_iter().find_map(|(clusters, ratio)| {
                    let sb = self.draw(stored, *size, inodes, (clusters, ratio), features, seed)?;
                    if self.table.is_some() {
                        return as_mended(locate::with_descriptors(self.dev, &sb, &self.desc)?, stored, sb);
                    }
                    let vol = overlaid(self.dev, &sb)?;
                    descriptors_are_sound(&vol).ok().filter(|sound| *sound)?;
                    as_mended(vol, stored, sb)
                })
            })
        })
    }

    fn inode(&self, size: u16, ino: Ino) -> Option<Inode> {
        let at = (self.desc.inode_table().0 << self.bits).checked_add(u64::from(ino.0 - 1) * u64::from(size))?;
        let mut slot = vec![0; usize::from(size)];
        self.dev.read_at(at, &mut slot).ok()?;
        Inode::decode(&slot).ok()
    }

    /// Whether an inode is the root directory: its first entry is `.` for inode 2. The type that the entry has.
    fn root_names_itself(&self, root: &Inode) -> Option<u8> {
        if root.file_type() != Some(FileType::Directory) || root.core().links_count.get() < 2 {
            return None;
        }
        let block = self.block(first_block(root)?)?;
        let dot = le32(&block, 0) == Ino::ROOT.0 && block.get(6) == Some(&1) && block.get(8) == Some(&b'.');
        block.get(7).copied().filter(|_| dot)
    }

    /// Inodes at the beginning of the table that are in use.
    fn inodes(&self, size: u16) -> impl Iterator<Item = (Ino, Inode)> {
        (Ino::ROOT.0..LOOKED_AT).map(Ino).filter_map(move |ino| Some((ino, self.inode(size, ino)?))).filter(|(_, i)| {
            let c = i.core();
            c.links_count.get() > 0 && c.dtime.get() == 0 && i.file_type().is_some()
        })
    }

    /// The seed that the checksums of inodes were made with, where several agree.
    fn seed(&self, size: u16) -> Option<u32> {
        if usize::from(size) <= GOOD_OLD_SIZE {
            // Half a checksum tells too little.
            return None;
        }
        let length = 8 + u32::from(size);
        let seeds = self.inodes(size).filter_map(|(ino, inode)| {
            let of_zero = inode.computed_checksum(Checksums::Metadata { seed: 0 }, ino)?;
            Some(unwind(inode.stored_checksum() ^ of_zero, length))
        });
        let mut seeds: Vec<u32> = seeds.collect();
        seeds.sort_unstable();
        let most = seeds.chunk_by(|a, b| a == b).max_by_key(|same| same.len())?;
        (most.len() >= AGREEING).then(|| most.first().copied()).flatten()
    }

    /// Features that inodes ask for.
    fn features(&self, size: u16, seed: Option<u32>, entry_type: u8) -> Features {
        let sound =
            |ino: Ino, i: &Inode| seed.is_none_or(|seed| i.verify_checksum(Checksums::Metadata { seed }, ino).is_ok());
        let all: Vec<(Ino, Inode)> = self.inodes(size).filter(|(ino, i)| sound(*ino, i)).collect();
        // Without checksums, one alone may be wrong.
        let least = if seed.is_some() { 1 } else { 2 };
        let has = |flag: InodeFlags| all.iter().filter(|(_, i)| i.flags().contains(flag)).count() >= least;
        let mut f = Features {
            compat: Compat::EXT_ATTR | Compat::DIR_INDEX,
            ro_compat: RoCompat::SPARSE_SUPER | RoCompat::LARGE_FILE,
            ..Features::default()
        };
        let journal = all.iter().find(|(ino, _)| *ino == Ino::JOURNAL);
        if journal.is_some_and(|(_, i)| i.file_type() == Some(FileType::Regular)) {
            f.compat |= Compat::HAS_JOURNAL;
        }
        f.incompat.set(Incompat::FILETYPE, entry_type != 0);
        f.incompat.set(Incompat::BIT64, self.desc_size > superblock::MIN_DESC_SIZE);
        if has(InodeFlags::EXTENTS) {
            f.incompat |= Incompat::EXTENTS | Incompat::FLEX_BG;
            f.ro_compat |= RoCompat::HUGE_FILE | RoCompat::DIR_NLINK;
        }
        f.incompat.set(Incompat::INLINE_DATA, has(InodeFlags::INLINE_DATA));
        f.incompat.set(Incompat::ENCRYPT, has(InodeFlags::ENCRYPT));
        f.incompat.set(Incompat::CASEFOLD, has(InodeFlags::CASEFOLD));
        f.incompat.set(Incompat::EA_INODE, has(InodeFlags::EA_INODE));
        f.ro_compat.set(RoCompat::VERITY, has(InodeFlags::VERITY));
        f.ro_compat.set(RoCompat::EXTRA_ISIZE, usize::from(size) > GOOD_OLD_SIZE);
        f.ro_compat.set(RoCompat::METADATA_CSUM, seed.is_some());
        f
    }

    /// How many inodes a group may have: as the old superblock or the bitmap's padding says, or what is before content.
    fn inodes_per_group(&self, stored: &Superblock, size: u16, root: &Inode) -> Vec<u32> {
        let per_block = (1u32 << self.bits) / u32::from(size);
        let most = 8u32 << self.bits;
        let groups = u32::try_from(self.blocks.div_ceil(most.into())).unwrap_or(u32::MAX).max(1);
        let padded = self.block(self.desc.inode_bitmap()).map(|b| unpadded(&b));
        let before = first_block(root).and_then(|b| b.0.checked_sub(self.desc.inode_table().0));
        let before = before.and_then(|n| u32::try_from(n).ok()?.checked_mul(per_block));
        let whole = |n: u32| n.checked_next_multiple_of(per_block.max(8));
        let mut all = vec![stored.inodes_per_group.get()];
        all.retain(|n| whole(*n) == Some(*n));
        all.extend(padded.into_iter().chain(before).filter_map(whole));
        if let Some(table) = self.table {
            // A table that others begin in, or that ends before its last inode, is none.
            let content = locate::inodes_before_content(self.dev, table);
            all.extend(content.iter().chain(content.map(|n| n / groups).iter()).filter_map(|n| whole(*n)));
            let last = locate::last_inode(self.dev, table);
            all.retain(|n| u64::from(*n) * u64::from(groups) >= last.into());
        }
        all.retain(|n| *n >= Ino::GOOD_OLD_FIRST.0 && *n <= most);
        all.dedup();
        all
    }

    /// Clusters in a group, with the blocks in a cluster as a shift: what the old superblock says; the largest clusters that files
    /// begin with, and for which nearly all that is behind the device's end is marked in the bitmap; small clusters
    /// where there is no such end; then large ones although the bitmap does not tell.
    fn group_sizes(&self, stored: &Superblock, inode_size: u16) -> Vec<(u32, u32)> {
        let most = 8u32 << self.bits;
        let blocks = self.blocks - u64::from(self.first_data_block);
        let map = self.block(self.desc.block_bitmap()).unwrap_or_default();
        let firsts: Vec<Fsblk> = self.inodes(inode_size).filter_map(|(_, i)| first_block(&i)).collect();
        let begin = |ratio: u32| {
            let begin = firsts.iter().filter(|b| b.0.is_multiple_of(1 << ratio)).count();
            nearly(begin as u64, firsts.len() as u64)
        };
        let fits = |ratio: u32| {
            let (from, to) = (blocks.div_ceil(1 << ratio), blocks.div_ceil(1 << (ratio - 1)).min(most.into()));
            let marked = (from..to).filter(|n| bitmap::test(&map, *n as usize)).count() as u64;
            from < to && nearly(marked, to - from) && begin(ratio)
        };
        let told = stored.log_cluster_size.get().wrapping_sub(self.bits - 10);
        let old = (stored.clusters_per_group.get(), told);
        let large = |fits: &dyn Fn(u32) -> bool| {
            (1..=MAX_LOG_RATIO).take_while(|r| self.first_data_block == 0 && fits(*r)).last().unwrap_or(0)
        };
        let mut all = vec![(most, large(&fits))];
        all.extend((0..GROUP_SIZES).map(|n| (most >> n, 0)));
        if firsts.len() >= FILES {
            all.push((most, large(&begin)));
        }
        let known = told <= MAX_LOG_RATIO
            && old.0.checked_shl(told) == Some(stored.blocks_per_group.get())
            && old.0.is_multiple_of(8)
            && (256..=most).contains(&old.0);
        if known {
            all.insert(0, old);
        }
        all.dedup();
        all
    }

    fn draw(
        &self,
        stored: &Superblock,
        inode_size: u16,
        inodes: u32,
        (clusters, ratio): (u32, u32),
        features: Features,
        seed: Option<u32>,
    ) -> Option<Superblock> {
        let mut sb = Superblock::new_zeroed();
        let (mut f, shift) = (features, self.bits - 10);
        let per_group = clusters.checked_shl(ratio).filter(|n| n >> ratio == clusters)?;
        let groups = (self.blocks - u64::from(self.first_data_block)).div_ceil(per_group.into());
        f.ro_compat.set(RoCompat::BIGALLOC, ratio > 0);
        sb.set_blocks_count(self.blocks);
        sb.inodes_count.set(u32::try_from(groups).ok()?.checked_mul(inodes)?);
        sb.first_data_block.set(self.first_data_block);
        sb.log_block_size.set(shift);
        sb.log_cluster_size.set(shift + ratio);
        sb.blocks_per_group.set(per_group);
        sb.clusters_per_group.set(clusters);
        sb.inodes_per_group.set(inodes);
        sb.max_mnt_count.set(u16::MAX);
        sb.magic.set(superblock::MAGIC);
        sb.errors.set(1);
        sb.rev_level.set(1);
        sb.first_ino.set(Ino::GOOD_OLD_FIRST.0);
        sb.inode_size.set(inode_size);
        sb.def_hash_version = 1;
        sb.flags.set(SbFlags::SIGNED_HASH.bits());
        if f.compat.contains(Compat::HAS_JOURNAL) {
            sb.journal_inum.set(Ino::JOURNAL.0);
        }
        if f.incompat.contains(Incompat::BIT64) {
            sb.desc_size.set(self.desc_size);
        }
        if f.incompat.contains(Incompat::FLEX_BG) {
            sb.log_groups_per_flex = LOG_FLEX;
        }
        if f.incompat.contains(Incompat::CASEFOLD) {
            sb.encoding.set(casefold::ENCODING_UTF8_12_1);
        }
        if usize::from(inode_size) > GOOD_OLD_SIZE {
            sb.min_extra_isize.set(EXTRA_ISIZE);
            sb.want_extra_isize.set(EXTRA_ISIZE);
        }
        identify(&mut sb, stored, &mut f, seed);
        sb.set_features(f);
        Some(sb)
    }
}

/// Identifier, names and hashes: as stored where checksums prove the identifier right, else made up from the seed.
fn identify(sb: &mut Superblock, stored: &Superblock, f: &mut Features, seed: Option<u32>) {
    let proven = seed.is_some_and(|seed| crc32c(u32::MAX, &stored.uuid) == seed);
    if proven {
        sb.uuid = stored.uuid;
        sb.volume_name = stored.volume_name;
        sb.hash_seed = stored.hash_seed;
        sb.mkfs_time = stored.mkfs_time;
    } else {
        // Any identifier will do but none at all.
        let words = [seed.unwrap_or(1), 0x4000, 0x80, sb.inodes_count.get()];
        for (to, word) in sb.uuid.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }
    if let Some(seed) = seed {
        sb.checksum_type = 1;
        if !proven {
            f.incompat |= Incompat::CSUM_SEED;
            sb.checksum_seed.set(seed);
        }
    }
}

/// Whether a few in a hundred lack at most.
const fn nearly(some: u64, all: u64) -> bool {
    some * 20 >= all * 19
}

/// The start of a checksum over `length` zeros that ends with `state`.
fn unwind(mut state: u32, length: u32) -> u32 {
    for _ in 0..length * 8 {
        state = if state >> 31 == 0 { state << 1 } else { (state ^ POLYNOMIAL) << 1 | 1 };
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_goes_backwards() {
        let bytes = [7u8; 264];
        for seed in [0u32, 1, 0xdead_beef, u32::MAX] {
            let state = crc32c(seed, &bytes) ^ crc32c(0, &bytes);
            assert_eq!(unwind(state, 264), seed);
        }
    }
}
