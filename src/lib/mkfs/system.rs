//! The files that a filesystem has for itself: root directory, lost+found, reserved descriptors (resize inode), journal,
//! MMP block, quota files, orphan file. Unit: blocks.

use super::draft::Draft;
use super::layout::Layout;
use super::map;
use crate::error::Result;
use crate::format::dirent::{DirFormat, DirPacker, NewDirent};
use crate::format::dirhash::DirHash;
use crate::format::extent::Extent;
use crate::format::features::{Compat, Incompat, RoCompat};
use crate::format::inode::{FileType, Inode};
use crate::format::jbd2::JournalSuperblock;
use crate::format::mmp::Mmp;
use crate::format::orphan_file as orphan_format;
use crate::units::{Fsblk, Ino, Lblk};

/// Name of the directory for lost files.
const LOST_FOUND_NAME: &[u8] = b"lost+found";
/// Permissions of the system's files.
const PRIVATE: u16 = 0o600;
/// Bytes that lost+found has at least, so that names can be added without allocating.
const LOST_FOUND_BYTES: u32 = 16 * 1024;
/// Blocks that lost+found has at most.
const LOST_FOUND_BLOCKS: u32 = 12;
/// Make them all.
pub(crate) fn create(d: &mut Draft, with_lost_found: bool) -> Result<()> {
    if d.layout().features.incompat.contains(Incompat::JOURNAL_DEV) {
        return Ok(());
    }
    // The root comes first on disk: an empty one has one block, a populated one goes on elsewhere if it needs more.
    d.system.root_block = d.allocate_one()?;
    if with_lost_found {
        lost_found(d)?;
    }
    resize_inode(d)?;
    bad_blocks(d)?;
    journal(d)?;
    mmp(d)?;
    if d.layout().quota[2] {
        // The number comes before the orphan file's; the file itself is written when all use is known.
        d.system.quota[2] = d.new_ino()?.0;
    }
    orphan_file(d)
}

fn mmp(d: &mut Draft) -> Result<()> {
    if d.layout().features.incompat.contains(Incompat::MMP) {
        let at = d.allocate_one()?;
        let l = d.layout();
        let mut block = Mmp::clean(l.options.mmp_interval()).encode(l.checksums().seed()).to_vec();
        block.resize(l.block_size as usize, 0);
        d.keep(at, block);
        d.system.mmp_block = at;
    }
    Ok(())
}

/// How directory blocks look in this filesystem.
pub(crate) fn dir_format(l: &Layout) -> DirFormat {
    DirFormat {
        filetype: l.features.incompat.contains(Incompat::FILETYPE),
        hash_in_entry: false,
        tail: l.features.ro_compat.contains(RoCompat::METADATA_CSUM),
    }
}

/// The blocks of lost+found. With inline data mke2fs makes one less, and so does this.
pub(super) fn lost_found_blocks(l: &Layout) -> u32 {
    let blocks = (LOST_FOUND_BYTES / l.block_size).clamp(2, LOST_FOUND_BLOCKS);
    blocks - u32::from(l.features.incompat.contains(Incompat::INLINE_DATA))
}

/// Make lost+found. The root directory that names it is made with the tree, or by [`empty_root`].
fn lost_found(d: &mut Draft) -> Result<()> {
    let ino = d.new_ino()?;
    let bs = d.layout().block_size;
    let blocks = lost_found_blocks(d.layout());
    let mut extents = Vec::new();
    d.allocate_extents(0, u64::from(blocks), &mut extents)?;
    let format = dir_format(d.layout());
    let seed = d.layout().checksums().inode_seed(ino, 0).unwrap_or(0);
    let mut lblk = 0;
    for e in &extents {
        for i in 0..u64::from(e.len) {
            let mut block = vec![0; bs as usize];
            let mut packer = DirPacker::new(&mut block, format);
            if lblk == 0 {
                let _ = packer.push(&dirent(ino, b".", FileType::Directory));
                let _ = packer.push(&dirent(Ino::ROOT, b"..", FileType::Directory));
            }
            packer.finish(seed);
            d.keep(e.pblk.0 + i, block);
            lblk += 1;
        }
    }
    let mut inode = d.system_inode(FileType::Directory.mode_bits() | 0o700);
    inode.update(|c| c.links_count = 2.into());
    inode.set_size(u64::from(blocks * bs));
    let clusters = u64::from(blocks).div_ceil(u64::from(d.layout().ratio));
    finish_inode(d, ino, inode, &extents, clusters)?;
    d.count_dir(ino);
    d.system.lost_found = Some(ino);
    empty_root(d, ino)
}

/// The root directory of an empty filesystem.
fn empty_root(d: &mut Draft, lost_found: Ino) -> Result<()> {
    let permissions = d.layout().options.root_perms.unwrap_or(0o755);
    let mut inode = d.system_inode(FileType::Directory.mode_bits() | permissions);
    inode.update(|c| c.links_count = 3.into());
    let (uid, gid) = d.layout().options.root_owner.unwrap_or((0, 0));
    inode.set_owner(uid, gid);
    let at = d.system.root_block;
    let bs = d.layout().block_size;
    let mut block = vec![0; bs as usize];
    let mut packer = DirPacker::new(&mut block, dir_format(d.layout()));
    for (ino, name) in [(Ino::ROOT, &b"."[..]), (Ino::ROOT, b".."), (lost_found, LOST_FOUND_NAME)] {
        let _ = packer.push(&dirent(ino, name, FileType::Directory));
    }
    packer.finish(d.layout().checksums().inode_seed(Ino::ROOT, 0).unwrap_or(0));
    d.keep(at, block);
    inode.set_size(u64::from(bs));
    let extents = [Extent { lblk: Lblk(0), len: 1, pblk: Fsblk(at), unwritten: false }];
    finish_inode(d, Ino::ROOT, inode, &extents, 1)
}

/// An entry without a hash.
pub(crate) fn dirent(ino: Ino, name: &[u8], file_type: FileType) -> NewDirent<'_> {
    NewDirent { ino, name, file_type: file_type.dirent_code(), hash: DirHash::default() }
}

/// Attach the map, count blocks, and store the inode.
pub(crate) fn finish_inode(d: &mut Draft, ino: Ino, mut inode: Inode, extents: &[Extent], clusters: u64) -> Result<()> {
    let mut clusters = clusters;
    d.note_size(inode.size());
    map::attach(d, ino, &mut inode, extents, &mut clusters)?;
    d.set_clusters(&mut inode, clusters);
    d.inodes.insert(ino.0, inode);
    Ok(())
}

/// The resize inode: a double-indirect block whose entries are the reserved descriptor blocks; each of those lists its
/// copies in the other groups.
#[doc(alias = "ext2fs_create_resize_inode")]
fn resize_inode(d: &mut Draft) -> Result<()> {
    if !d.layout().features.compat.contains(Compat::RESIZE_INODE) {
        return Ok(());
    }
    let dind = d.allocate_one()?;
    let l = d.layout();
    let bs = l.block_size as usize;
    let per = bs / 4;
    let backups: Vec<u64> =
        l.groups_with_head().into_iter().skip(1).filter(|g| l.has_super(*g)).map(u64::from).collect();
    let first = l.head(0).reserved.start;
    let group_len = u64::from(l.blocks_per_group);
    let mut top = vec![0u8; bs];
    let mut kept = Vec::new();
    let mut used = 1u64;
    for i in 0..u64::from(l.reserved_gdt) {
        let at = first + i;
        let slot = (u64::from(l.desc_blocks) + i) as usize % per;
        top[slot * 4..slot * 4 + 4].copy_from_slice(&(at as u32).to_le_bytes());
        let mut copies = Vec::with_capacity(backups.len() * 4);
        for group in &backups {
            copies.extend_from_slice(&((at + group * group_len) as u32).to_le_bytes());
        }
        kept.push((at, copies));
        used += 1 + backups.len() as u64;
    }
    let per = per as u64;
    let size = (per * per + per + 12) * bs as u64;
    let sectors = used * u64::from(l.ratio) * (bs as u64 / 512);
    for (at, bytes) in kept {
        d.keep(at, bytes);
    }
    d.keep(dind, top);
    let mut inode = d.system_inode(FileType::Regular.mode_bits() | PRIVATE);
    inode.update(|c| c.block[52..56].copy_from_slice(&(dind as u32).to_le_bytes()));
    inode.set_size(size);
    d.note_size(size);
    inode.set_blocks_raw(sectors);
    d.inodes.insert(Ino::RESIZE.0, inode);
    Ok(())
}

/// The inode that holds the blocks that nothing may be put into, each by its number.
#[doc(alias = "ext2fs_update_bb_inode")]
fn bad_blocks(d: &mut Draft) -> Result<()> {
    let bad = d.layout().options.bad_blocks.clone();
    if bad.is_empty() {
        return Ok(());
    }
    let one =
        |(i, block): (usize, &u64)| Extent { lblk: Lblk(i as u32), len: 1, pblk: Fsblk(*block), unwritten: false };
    let extents: Vec<Extent> = bad.iter().enumerate().map(one).collect();
    let mut clusters = bad.len() as u64;
    // Always by indirect blocks, whatever the features.
    let area = map::indirect_root(d, &extents, &mut clusters)?;
    let mut inode = d.system_inode(0);
    inode.update(|c| {
        c.links_count = 0.into();
        c.block = area;
    });
    inode.set_size(bad.len() as u64 * u64::from(d.layout().block_size));
    d.set_clusters(&mut inode, clusters);
    d.inodes.insert(Ino::BAD.0, inode);
    Ok(())
}

fn journal(d: &mut Draft) -> Result<()> {
    let size = d.layout().journal;
    let l = d.layout();
    if !l.features.compat.contains(Compat::HAS_JOURNAL) || l.options.journal.external.is_some() {
        return Ok(());
    }
    let goal = match l.options.journal.location {
        Some(at) => at.blocks(l.block_size).clamp(l.first_data_block, l.blocks - 1),
        None if l.options.packed_meta_blocks => l.first_data_block,
        None => {
            d.settle();
            journal_goal(d)
        }
    };
    let goal = goal.next_multiple_of(u64::from(d.layout().ratio));
    let mut extents = Vec::new();
    d.allocate_near(goal, size.total(), &mut extents)?;
    let first = extents.first().map_or(0, |e| e.pblk.0);
    let block = journal_superblock(d.layout(), 1);
    d.keep(first, block);
    d.zeroed.extend(extents.iter().map(|e| e.pblk.0..e.pblk.0 + u64::from(e.len)));
    let mut inode = d.system_inode(FileType::Regular.mode_bits() | PRIVATE);
    inode.set_size(size.total() * u64::from(d.layout().block_size));
    let clusters = size.total().div_ceil(u64::from(d.layout().ratio));
    finish_inode(d, Ino::JOURNAL, inode, &extents, clusters)?;
    d.system.journal = d.inodes.get(&Ino::JOURNAL.0).cloned();
    Ok(())
}

/// Near the middle, in the emptiest of some groups.
fn journal_goal(d: &Draft) -> u64 {
    let l = d.layout();
    let free = |g: u32| {
        let (start, end) = (l.group_start(g), l.group_end(g));
        end - start - d.space().used_in(start..end).map(|r| r.end - r.start).sum::<u64>()
    };
    let mut group =
        ((l.blocks - l.first_data_block) / 2).saturating_sub(l.first_data_block) / u64::from(l.blocks_per_group);
    group = group.min(u64::from(l.groups - 1));
    let mut group = group as u32;
    let flex = 1u32 << l.log_flex.min(31);
    let start = if l.log_flex != 0 && group > flex {
        group &= !(flex - 1);
        while group < l.groups && free(group) == 0 {
            group += 1;
        }
        group %= l.groups;
        group
    } else {
        group.saturating_sub(1)
    };
    let end = (group + 1).min(l.groups - 1);
    let mut best = start;
    for g in start + 1..=end {
        if free(g) > free(best) {
            best = g;
        }
    }
    l.group_start(best)
}

/// The first block of an empty journal: superblock version 2, big endian. `users` is 0 on a journal device.
#[doc(alias = "journal_superblock_s")]
pub(crate) fn journal_superblock(l: &Layout, users: u32) -> Vec<u8> {
    let mut sb = JournalSuperblock::new(l.block_size, l.journal.total() as u32, l.options.uuid);
    sb.nr_users = users.into();
    sb.num_fc_blks = (l.journal.fast_commit as u32).into();
    if users == 0 {
        sb.first = if l.block_size == 1024 { 3 } else { 2 }.into();
    }
    let mut block = sb.encode().to_vec();
    block.resize(l.block_size as usize, 0);
    block
}

fn orphan_file(d: &mut Draft) -> Result<()> {
    let blocks = d.layout().orphan_blocks;
    if blocks == 0 {
        return Ok(());
    }
    let ino = d.new_ino()?;
    let mut extents = Vec::new();
    d.allocate_extents(0, blocks, &mut extents)?;
    let bs = d.layout().block_size as usize;
    let seed = d.layout().checksums().inode_seed(ino, 0);
    for at in extents.iter().flat_map(|e| e.pblk.0..e.pblk.0 + u64::from(e.len)) {
        let mut block = vec![0u8; bs];
        orphan_format::init_empty(&mut block);
        if let Some(seed) = seed {
            orphan_format::stamp(&mut block, seed, Fsblk(at));
        }
        d.keep(at, block);
    }
    let mut inode = d.system_inode(FileType::Regular.mode_bits() | PRIVATE);
    inode.set_size(blocks * bs as u64);
    let clusters = blocks.div_ceil(u64::from(d.layout().ratio));
    finish_inode(d, ino, inode, &extents, clusters)?;
    d.system.orphan_file = ino.0;
    Ok(())
}
