//! Where bitmaps and inode tables are, by what is in them, where no descriptor and no backup tells it.
//!
//! The root directory names itself twice at its beginning; the second slot of the first inode table is a directory that begins
//! there. A bitmap has ones for what is behind its group: that of inodes agrees with the table, that of blocks ends with
//! the device. Groups behind the first have their parts where those that make filesystems put them, counted from
//! the first group's. Sizes are in bytes, places in blocks.

use std::ops::Range;
use std::sync::Arc;

use super::open::{allowed_range, descriptors_are_sound};
use super::rescue::{INODE_SIZES, each_kib, layered};
use super::view::{le16, le32};
use crate::device::BlockDevice;
use crate::format::bitmap;
use crate::format::group_desc::GroupDesc;
use crate::format::inode::{FileType, Inode, InodeFlags};
use crate::format::superblock::Superblock;
use crate::units::{Fsblk, Group, Ino};
use crate::volume::{Geometry, Volume};

/// Magic number of an extent tree.
const EXTENT_MAGIC: u16 = 0xf30a;
/// Places that are believed to be the beginning of a root directory, at most.
const MAX_ROOTS: usize = 64;
/// Slots that may be that of the root directory, at most.
const MAX_SLOTS: usize = 1 << 16;
/// First inode tables that are tried.
const MAX_PLACES: usize = 4;
/// Inodes that a bitmap is compared with.
const COMPARED: u32 = 256;
/// Groups per flexible group where nothing is known: the distance of bitmaps and table.
const USUAL_FLEX: u64 = 16;
/// Largest power of two of blocks in a cluster.
const MAX_LOG_RATIO: u32 = 16;

/// Where a first inode table seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// Block size as a shift.
    pub(super) bits: u32,
    pub(super) inode_size: u16,
    pub(super) at: Fsblk,
}

/// The block of logical block 0 of a file or directory, where the inode itself says it.
pub(super) fn first_block(inode: &Inode) -> Option<Fsblk> {
    let mapped = matches!(inode.file_type(), Some(FileType::Regular | FileType::Directory));
    if !mapped || inode.flags().contains(InodeFlags::INLINE_DATA) {
        return None;
    }
    let area = inode.block_area();
    let at = if le16(&area, 0) == EXTENT_MAGIC {
        let leaf = le16(&area, 6) == 0 && le16(&area, 2) > 0 && le32(&area, 12) == 0;
        (u64::from(le16(&area, 18)) << 32 | u64::from(le32(&area, 20))) * u64::from(leaf)
    } else {
        le32(&area, 0).into()
    };
    (at != 0).then_some(Fsblk(at))
}

/// Whether an inode can be that of the root directory, as far as it tells.
fn may_be_root(inode: &Inode) -> bool {
    let c = inode.core();
    inode.file_type() == Some(FileType::Directory) && c.links_count.get() >= 2 && c.dtime.get() == 0
}

/// Whether a block begins as that of the root directory does: both of its first entries name it.
fn begins_as_root(block: &[u8]) -> bool {
    let root = Ino::ROOT.0;
    (le32(block, 0), le16(block, 4), le32(block, 12)) == (root, 12, root)
        && (block.get(6), block.get(8), block.get(18)) == (Some(&1), Some(&b'.'), Some(&2))
        && block.get(20..22) == Some(b"..")
}

/// First inode tables on the device, the likeliest first.
pub(super) fn tables(dev: &Arc<dyn BlockDevice>) -> Vec<Table> {
    let most = usize::from(INODE_SIZES.into_iter().max().unwrap_or_default());
    let (mut roots, mut slots) = (Vec::new(), Vec::new());
    each_kib(dev, most, |offset, bytes| {
        if begins_as_root(bytes) && roots.len() < MAX_ROOTS {
            roots.push(offset);
        }
        for size in INODE_SIZES {
            let at = usize::from(size);
            // The type first: nearly nothing else has to be looked at.
            if le16(bytes, at) >> 12 == 4
                && slots.len() < MAX_SLOTS
                && let Some(inode) = bytes.get(at..at * 2).and_then(|slot| Inode::decode(slot).ok())
                && may_be_root(&inode)
                && let Some(first) = first_block(&inode)
            {
                slots.push((offset, size, first.0));
            }
        }
        None::<()>
    });
    let mut all = Vec::new();
    for (offset, inode_size, first) in slots {
        let fits = |bits: &u32| {
            offset.is_multiple_of(1 << bits) && first.checked_shl(*bits).is_some_and(|at| roots.contains(&at))
        };
        all.extend((10..=16).filter(fits).map(|bits| Table { bits, inode_size, at: Fsblk(offset >> bits) }));
    }
    all.retain(|t| !is_logged(dev, *t));
    all.truncate(MAX_PLACES);
    all
}

/// Whether what looks like a table is a copy in the journal, which is one piece nearly always.
fn is_logged(dev: &Arc<dyn BlockDevice>, table: Table) -> bool {
    let journal = Blocks { dev, bits: table.bits }.inode(table, Ino::JOURNAL.0);
    let first = journal.as_ref().and_then(|j| Some((first_block(j)?.0, j.size() >> table.bits)));
    first.is_some_and(|(first, len)| (first..first.saturating_add(len)).contains(&table.at.0))
}

/// A device as a row of blocks.
struct Blocks<'d> {
    dev: &'d Arc<dyn BlockDevice>,
    bits: u32,
}

impl Blocks<'_> {
    fn read(&self, at: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 1 << self.bits];
        self.dev.read_at(at.checked_shl(self.bits)?, &mut bytes).ok()?;
        Some(bytes)
    }

    fn inode(&self, table: Table, ino: u32) -> Option<Inode> {
        let at = (table.at.0 << self.bits).checked_add(u64::from(ino - 1) * u64::from(table.inode_size))?;
        let mut slot = vec![0; usize::from(table.inode_size)];
        self.dev.read_at(at, &mut slot).ok()?;
        Inode::decode(&slot).ok()
    }
}

/// Bits before the ones at the end of a map.
pub(super) fn unpadded(map: &[u8]) -> u32 {
    let all = u32::try_from(map.len() * 8).unwrap_or(u32::MAX);
    let ones = (0..all).rev().take_while(|n| bitmap::test(map, *n as usize)).count();
    all - ones as u32
}

/// What the first group's descriptor may be, the likeliest first; bitmaps that are nowhere get blocks before the table.
pub(super) fn first_descriptors(dev: &Arc<dyn BlockDevice>, table: Table) -> Vec<GroupDesc> {
    let blocks = Blocks { dev, bits: table.bits };
    let all = dev.len() >> table.bits;
    let inodes: Vec<Inode> = (1..=COMPARED).map_while(|ino| blocks.inode(table, ino)).collect();
    let used: Vec<bool> = inodes.iter().map(|i| i.core().links_count.get() > 0).collect();
    let taken: Vec<u64> = inodes.iter().filter_map(|i| first_block(i).map(|b| b.0)).collect();
    // Superblock and descriptors are before all else.
    let least = if table.bits == 10 { 3 } else { 2 };
    let mut maps = Vec::new();
    for at in (least..table.at.0).rev().take(1 << 10) {
        let Some(map) = blocks.read(at).filter(|m| m.iter().any(|b| *b != 0)) else { continue };
        maps.push((at, is_inode_bitmap(&map, &used), is_block_bitmap(&map, all, table.bits)));
    }
    let (of_inodes, of_blocks) = assign(&maps);
    // Where they are usually: right before the table, or as far as flexible groups have them apart.
    let free = |at: &u64| *at >= least && !taken.contains(at) && Some(*at) != of_blocks && Some(*at) != of_inodes;
    let near = |distance: u64, to: u64| to.checked_sub(distance).filter(free);
    let inode_map = of_inodes
        .or_else(|| near(USUAL_FLEX, of_blocks.map_or(table.at.0, |b| b + 2 * USUAL_FLEX)))
        .or_else(|| (least..table.at.0).rev().find(free));
    let Some(inode_map) = inode_map else { return Vec::new() };
    let distances = std::iter::once(USUAL_FLEX).chain(1..USUAL_FLEX);
    let any = (least..table.at.0).rev().find(|at| free(at) && *at != inode_map);
    let block_maps: Vec<u64> = match of_blocks {
        Some(at) => vec![at],
        None => distances.filter_map(|d| near(d, inode_map)).chain(any).collect(),
    };
    let desc = |block_map: u64| {
        let mut desc = GroupDesc::decode(&[0; 64]).ok()?;
        desc.set_block_bitmap(Fsblk(block_map));
        desc.set_inode_bitmap(Fsblk(inode_map));
        desc.set_inode_table(table.at);
        (block_map != inode_map).then_some(desc)
    };
    block_maps.into_iter().filter_map(desc).collect()
}

/// Which of the bitmaps found, from the table backwards, is that of inodes, and which that of blocks: each a place, and what it may be.
/// That of inodes is nearer to the table; what may be either, and is alone, ends with the device.
fn assign(maps: &[(u64, bool, bool)]) -> (Option<u64>, Option<u64>) {
    let inodes = |not: Option<u64>| maps.iter().find(|m| m.1 && Some(m.0) != not).map(|m| m.0);
    let blocks = |not: Option<u64>| maps.iter().find(|m| m.2 && Some(m.0) != not).map(|m| m.0);
    let nearest = inodes(None);
    let beside = blocks(nearest);
    let at = blocks(None);
    if beside.is_some() { (nearest, beside) } else { (inodes(at), at) }
}

/// Whether a block is a bitmap that says which of the first inodes are in use, and pads what no group has.
fn is_inode_bitmap(map: &[u8], used: &[bool]) -> bool {
    // The reserved ones always count as in use.
    let says = |n: usize| bitmap::test(map, n);
    let agree =
        used.iter().enumerate().skip(Ino::GOOD_OLD_FIRST.0 as usize - 1).filter(|(n, u)| says(*n) == **u).count();
    let compared = used.len().saturating_sub(Ino::GOOD_OLD_FIRST.0 as usize - 1);
    (0..Ino::GOOD_OLD_FIRST.0 as usize - 1).all(says) && agree * 20 >= compared * 19
}

/// Whether a block is a bitmap that begins with metadata in use, and ends where the device does.
fn is_block_bitmap(map: &[u8], blocks: u64, bits: u32) -> bool {
    let blocks = blocks - u64::from(bits == 10);
    let end = u64::from(unpadded(map));
    bitmap::test(map, 0) && (0..=MAX_LOG_RATIO).any(|ratio| blocks.div_ceil(1 << ratio) == end)
}

/// Inodes of a table up to the first block behind it that one of them uses.
pub(super) fn inodes_before_content(dev: &Arc<dyn BlockDevice>, table: Table) -> Option<u32> {
    let blocks = Blocks { dev, bits: table.bits };
    let firsts = (1..=COMPARED).filter_map(|ino| first_block(&blocks.inode(table, ino)?));
    let end = firsts.map(|b| b.0).filter(|b| *b > table.at.0).min()?;
    u32::try_from((end - table.at.0) << table.bits).ok().map(|n| n / u32::from(table.inode_size))
}

/// The last inode in use of a table, as far as its blocks hold inodes.
pub(super) fn last_inode(dev: &Arc<dyn BlockDevice>, table: Table) -> u32 {
    let blocks = Blocks { dev, bits: table.bits };
    let per_block = (1u32 << table.bits) / u32::from(table.inode_size);
    let most = (8u32 << table.bits) / per_block.max(1);
    let mut last = 0;
    for n in 0..most {
        let Some(block) = blocks.read(table.at.0 + u64::from(n)) else { break };
        if !holds_inodes(&block, table.inode_size) {
            break;
        }
        let slots = block.chunks_exact(usize::from(table.inode_size));
        let used = slots.map(|slot| Inode::decode(slot).is_ok_and(|i| i.core().links_count.get() > 0));
        let in_block = used.enumerate().filter(|(_, used)| *used).map(|(i, _)| i as u32 + 1).max();
        last = in_block.map_or(last, |i| n * per_block + i);
    }
    last
}

/// Whether most of a block's slots are inodes: of a type that there is and without the field that nobody uses, or blank.
fn holds_inodes(block: &[u8], inode_size: u16) -> bool {
    let slots = block.chunks_exact(usize::from(inode_size));
    let all = slots.len();
    let good = slots.filter_map(|slot| Inode::decode(slot).ok()).filter(|inode| {
        let used = inode.file_type().is_some() && inode.core().obso_faddr.get() == 0;
        used || inode.as_bytes().iter().all(|b| *b == 0)
    });
    good.count() * 2 > all
}

/// The filesystem that `sb` describes with `first` as its first descriptor, and with those of other groups that lead nowhere
/// made to fit it; `None` where that does not hold together.
pub(super) fn with_descriptors(dev: &Arc<dyn BlockDevice>, sb: &Superblock, first: &GroupDesc) -> Option<Volume> {
    let (over, vol) = layered(dev, sb)?;
    let geo = vol.geometry().clone();
    for g in geo.all_groups() {
        let raw = vol.raw_group(g).ok()?;
        let mut desc = GroupDesc::decode(raw).ok()?;
        if g.0 == 0 {
            take_places(&mut desc, first);
        } else if !is_inside(&geo, g, &desc) {
            take_places(&mut desc, &laid_out(&geo, g, first)?);
            if !looks_like_table(&vol, desc.inode_table()) {
                return None;
            }
        }
        let mut slot = raw.to_vec();
        desc.encode_into(&mut slot);
        let block = geo.gdt_block(Fsblk(0), g.0 / geo.desc_per_block);
        let within = u64::from(g.0 % geo.desc_per_block) * u64::from(geo.desc_size);
        over.write_at(geo.byte_of(block) + within, &slot).ok()?;
    }
    drop(vol);
    let vol = Volume::open(over, &super::open::options(None, None, false)).ok()?;
    (descriptors_are_sound(&vol).ok()? && has_root(&vol) && is_free_of_content(&vol)).then_some(vol)
}

/// Whether nearly no file begins in bitmaps or tables.
fn is_free_of_content(vol: &Volume) -> bool {
    let geo = vol.geometry();
    let last = COMPARED.min(geo.inodes_per_group);
    let mut firsts: Vec<u64> = (1..=last)
        .filter_map(|ino| vol.raw_inode(Ino(ino)).ok())
        .filter(|i| i.core().links_count.get() > 0)
        .filter_map(|i| first_block(&i).map(|b| b.0))
        .collect();
    firsts.sort_unstable();
    let within = |at: Fsblk, len: u64| {
        let below = |end: u64| firsts.partition_point(|b| *b < end);
        below(at.0.saturating_add(len)) - below(at.0)
    };
    let taken = geo.all_groups().filter_map(|g| vol.group(g).ok()).map(|d| {
        let table = within(d.inode_table(), geo.itable_blocks.into());
        table + within(d.block_bitmap(), 1) + within(d.inode_bitmap(), 1)
    });
    taken.sum::<usize>() * 20 <= firsts.len()
}

fn take_places(to: &mut GroupDesc, from: &GroupDesc) {
    to.set_block_bitmap(from.block_bitmap());
    to.set_inode_bitmap(from.inode_bitmap());
    to.set_inode_table(from.inode_table());
}

/// Whether the parts of a group are where they may be.
fn is_inside(geo: &Geometry, group: Group, desc: &GroupDesc) -> bool {
    let range: Range<u64> = allowed_range(geo, group);
    let parts =
        [(desc.block_bitmap(), 1), (desc.inode_bitmap(), 1), (desc.inode_table(), u64::from(geo.itable_blocks))];
    parts.iter().all(|(at, len)| at.0 > 0 && at.0 >= range.start && at.0.saturating_add(*len) <= range.end)
}

/// Where a group's parts are put, as the first group's are: side by side in a flexible group, else behind the descriptors.
fn laid_out(geo: &Geometry, group: Group, first: &GroupDesc) -> Option<GroupDesc> {
    let mut desc = GroupDesc::decode(&[0; 64]).ok()?;
    let g = u64::from(group.0);
    if geo.groups_per_flex() > group.0 {
        desc.set_block_bitmap(Fsblk(first.block_bitmap().0.checked_add(g)?));
        desc.set_inode_bitmap(Fsblk(first.inode_bitmap().0.checked_add(g)?));
        desc.set_inode_table(Fsblk(first.inode_table().0.checked_add(g * u64::from(geo.itable_blocks))?));
        return Some(desc);
    }
    let base = |g: Group| geo.group_start(g).0 + u64::from(geo.super_and_gdt_blocks(g));
    let moved = |b: Fsblk| Some(Fsblk(b.0.checked_sub(base(Group(0)))?.checked_add(base(group))?));
    desc.set_block_bitmap(moved(first.block_bitmap())?);
    desc.set_inode_bitmap(moved(first.inode_bitmap())?);
    desc.set_inode_table(moved(first.inode_table())?);
    Some(desc)
}

/// Whether a block holds inodes.
fn looks_like_table(vol: &Volume, at: Fsblk) -> bool {
    vol.block(at).is_ok_and(|b| holds_inodes(&b, vol.geometry().inode_size))
}

/// Whether the second inode is a root directory by its content.
pub(super) fn has_root(vol: &Volume) -> bool {
    let root = vol.raw_inode(Ino::ROOT).ok().filter(may_be_root);
    let block = root.and_then(|r| first_block(&r)).and_then(|b| vol.block(b).ok());
    block.is_some_and(|b| begins_as_root(&b))
}

/// The filesystem of a sound superblock whose first descriptor leads to no table, with one of `tables`.
pub(super) fn relocated(dev: &Arc<dyn BlockDevice>, vol: &Volume, tables: &[Table]) -> Option<Volume> {
    let geo = vol.geometry();
    let mut fitting =
        tables.iter().filter(|t| 1u32.checked_shl(t.bits) == Some(geo.block_size) && t.inode_size == geo.inode_size);
    fitting.find_map(|t| {
        first_descriptors(dev, *t).iter().find_map(|first| with_descriptors(dev, vol.superblock(), first))
    })
}

/// Whether the first descriptor leads to an inode table.
pub(super) fn has_table(vol: &Volume) -> bool {
    let Ok(desc) = vol.group(Group(0)) else { return false };
    has_root(vol) || (is_inside(vol.geometry(), Group(0), &desc) && looks_like_table(vol, desc.inode_table()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_at_the_end() {
        let mut map = [0u8; 128];
        map[3] = 0xff;
        map[64..].fill(0xff);
        assert_eq!(unpadded(&map), 512);
        map[63] = 0xe0;
        assert_eq!(unpadded(&map), 509);
    }

    #[test]
    fn the_nearer_bitmap_is_that_of_inodes() {
        assert_eq!(assign(&[(28, true, false), (12, true, true)]), (Some(28), Some(12)));
        assert_eq!(assign(&[(12, true, true)]), (None, Some(12)));
        assert_eq!(assign(&[(28, true, true), (12, true, true)]), (Some(28), Some(12)));
        assert_eq!(assign(&[(28, true, false)]), (Some(28), None));
    }

    #[test]
    fn bitmaps_are_known_by_what_they_say() {
        let mut map = vec![0u8; 1024];
        map[0] = 0xff;
        map[1] = 0x07;
        map[128..].fill(0xff);
        let used: Vec<bool> = (0..256).map(|n| n == 1 || n == 10).collect();
        assert!(is_inode_bitmap(&map, &used));
        assert!(!is_inode_bitmap(&map, &[true; 256]), "nobody but the reserved ones");
        assert!(is_block_bitmap(&map, 1025, 10) && is_block_bitmap(&map, 4096, 12), "clusters of four");
        assert!(!is_block_bitmap(&map, 1000, 10));
    }
}
