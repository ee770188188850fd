//! Putting a draft on a device: everything once, in large pieces, nothing that already reads as zero.
//!
//! Bitmaps and descriptors are computed per flexible group, on as many threads as the caller's pool has, and descriptors are
//! written to all of their places while others are computed; what is written does not depend on how many threads there are. Groups that hold nothing but their own metadata get no bitmap where checksums allow it.

use std::ops::Range;

use rayon::prelude::*;

use super::draft::Draft;
use super::superblock;
use super::system::journal_superblock;
use super::usage::{Usage, create_quota_files};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::bitmap::{self, Kind};
use crate::format::features::{Incompat, RoCompat};
use crate::format::group_desc::{BgFlags, GroupDesc};
use crate::format::superblock as sb_format;
use crate::format::superblock::{State, Superblock};
use crate::format::{U16, csum::Checksums};
use crate::units::{Fsblk, Group, Ino};

/// Most bytes gathered into one write.
const GATHER: usize = 64 << 10;
/// Groups whose bitmaps are computed together where there are no flexible groups.
const CHUNK: usize = 16;
/// Least bytes of descriptors that are written together.
const DESCS: usize = 64 << 10;

/// Inodes that are not the draft's own.
pub(crate) trait Inodes: Sync {
    /// Whether it is one of them.
    fn has(&self, ino: Ino) -> bool;

    /// Count what they use, for quotas.
    fn count(&self, usage: &mut Usage);

    /// The bytes of one, with its checksum, into a slot of zeros.
    fn fill(&self, ino: Ino, slot: &mut [u8]) -> Result<()>;
}

/// No other inodes.
#[derive(Debug)]
pub(crate) struct NoInodes;

impl Inodes for NoInodes {
    fn has(&self, _: Ino) -> bool {
        false
    }

    fn count(&self, _: &mut Usage) {}

    fn fill(&self, _: Ino, _: &mut [u8]) -> Result<()> {
        Ok(())
    }
}

/// Bytes for consecutive blocks, gathered into large writes.
struct Gather<'a> {
    dev: &'a dyn BlockDevice,
    at: u64,
    bytes: Vec<u8>,
}

impl<'a> Gather<'a> {
    const fn new(dev: &'a dyn BlockDevice) -> Self {
        Self { dev, at: 0, bytes: Vec::new() }
    }

    fn push(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        if at != self.at + self.bytes.len() as u64 || self.bytes.len() + bytes.len() > GATHER {
            self.flush()?;
            self.at = at;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.bytes.is_empty() {
            self.dev.write_at(self.at, &self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }
}

impl Draft {
    /// Write the filesystem. `fresh` says that the device reads as zeros all over.
    ///
    /// # Errors
    /// [`Error::DeviceTooSmall`], and what the device reports. A device that failed half-way holds no valid filesystem: the
    /// superblock is written last.
    pub fn write(&mut self, dev: &dyn BlockDevice, fresh: bool) -> Result<()> {
        self.count_dir(Ino::ROOT);
        self.write_with(dev, fresh, &NoInodes)
    }

    /// Write the filesystem together with more inodes, whose data is written already.
    pub(crate) fn write_with(&mut self, dev: &dyn BlockDevice, fresh: bool, more: &dyn Inodes) -> Result<()> {
        self.complete(more)?;
        let need = self.layout().byte_len();
        if dev.len() < need {
            return Err(Error::DeviceTooSmall { need, have: dev.len() });
        }
        if self.layout().features.incompat.contains(Incompat::JOURNAL_DEV) {
            return self.write_journal_device(dev);
        }
        let sb = superblock::build(self);
        if !fresh {
            // Where this ends half-way, nothing takes what is there for a filesystem.
            dev.zero(0, sb_format::OFFSET + size_of::<Superblock>() as u64)?;
        }
        self.write_groups(dev, more, fresh)?;
        if !fresh {
            self.clear_old(dev)?;
        }
        self.write_kept(dev)?;
        self.write_copies(dev, &sb)?;
        dev.write_at(sb_format::OFFSET, &sb.encode())
    }

    /// Write superblock and group descriptors alone, for a filesystem whose own are lost: what the groups hold stays, and a checker
    /// must find out what that is.
    ///
    /// # Errors
    /// As [`Draft::write`].
    #[doc(alias = "mke2fs -S")]
    pub fn write_super_only(&mut self, dev: &dyn BlockDevice) -> Result<()> {
        self.count_dir(Ino::ROOT);
        self.complete(&NoInodes)?;
        let l = self.layout();
        if dev.len() < l.byte_len() {
            return Err(Error::DeviceTooSmall { need: l.byte_len(), have: dev.len() });
        }
        let size = l.desc_size as usize;
        let mut descs = vec![0u8; l.desc_blocks as usize * l.block_size as usize];
        for (group, out) in (0..l.groups).zip(descs.chunks_exact_mut(size)) {
            let mut desc = self.group(group, &mut Vec::new(), true);
            // Nothing is known to be unused.
            desc.set_bg_flags(desc.bg_flags() - BgFlags::BLOCK_UNINIT - BgFlags::INODE_UNINIT);
            desc.set_itable_unused(0);
            let sum = desc.computed_checksum(l.checksums(), Group(group), size as u16, &vec![0; size]);
            desc.checksum = U16::new(sum.unwrap_or(0));
            desc.encode_into(out);
        }
        let mut sb = superblock::build(self);
        sb.state = U16::new((sb.state_flags() | State::ERROR).bits());
        // Where the journal is, the journal's inode knows.
        (sb.jnl_backup_type, sb.jnl_blocks) = (0, Default::default());
        self.write_descs(dev, &l.groups_with_head(), 0, &descs)?;
        self.write_copies(dev, &sb)?;
        dev.write_at(sb_format::OFFSET, &sb.encode())
    }

    /// Allocate what depends on everything else: quota files.
    pub(crate) fn complete(&mut self, more: &dyn Inodes) -> Result<()> {
        let mut usage = Usage::default();
        if self.layout().features.ro_compat.contains(RoCompat::QUOTA) {
            more.count(&mut usage);
        }
        create_quota_files(self, usage)?;
        self.finish_space();
        Ok(())
    }

    fn write_journal_device(&self, dev: &dyn BlockDevice) -> Result<()> {
        let l = self.layout();
        let sb = superblock::build(self);
        let at = if l.block_size == 1024 { 2 } else { 1 };
        dev.write_at(at * u64::from(l.block_size), &journal_superblock(l, 0))?;
        dev.write_at(sb_format::OFFSET, &sb.encode())
    }

    fn write_kept(&self, dev: &dyn BlockDevice) -> Result<()> {
        let bs = u64::from(self.layout().block_size);
        let mut out = Gather::new(dev);
        let zeros = vec![0; bs as usize];
        for (block, bytes) in &self.kept {
            out.push(block * bs, bytes)?;
            out.push(block * bs + bytes.len() as u64, zeros.get(bytes.len()..).unwrap_or_default())?;
        }
        out.flush()
    }

    /// Zero what must read as zeros and is not written otherwise.
    fn clear_old(&self, dev: &dyn BlockDevice) -> Result<()> {
        let l = self.layout();
        let bs = u64::from(l.block_size);
        dev.zero(0, sb_format::OFFSET)?;
        if !l.options.lazy_journal_init {
            for r in &self.zeroed {
                dev.zero(r.start * bs, (r.end - r.start) * bs)?;
            }
        }
        for g in l.groups_with_head() {
            let r = l.head(g).reserved;
            if !r.is_empty() {
                dev.zero(r.start * bs, (r.end - r.start) * bs)?;
            }
        }
        Ok(())
    }

    /// The copies of the superblock. The primary one is left to the end.
    fn write_copies(&self, dev: &dyn BlockDevice, sb: &Superblock) -> Result<()> {
        let l = self.layout();
        for group in l.groups_with_head() {
            if let (Some(at), true) = (l.head(group).superblock, group != 0) {
                dev.write_at(at * u64::from(l.block_size), &sb.backup(Group(group)).encode())?;
            }
        }
        Ok(())
    }

    /// Descriptors, from byte `from` of the table on, in whole blocks, to every place of theirs in the groups `heads`.
    fn write_descs(&self, dev: &dyn BlockDevice, heads: &[u32], from: usize, descs: &[u8]) -> Result<()> {
        let l = self.layout();
        let bs = u64::from(l.block_size);
        for group in heads {
            let head = l.head(*group);
            if let Some(range) = head.descs {
                dev.write_at(range.start * bs + from as u64, descs)?;
            }
            if let Some((index, at)) = head.meta_desc {
                let skip = (index as usize * bs as usize).checked_sub(from);
                if let Some(part) = skip.and_then(|s| descs.get(s..s + bs as usize)) {
                    dev.write_at(at * bs, part)?;
                }
            }
        }
        Ok(())
    }

    /// Bitmaps, inode tables and descriptors of all groups.
    fn write_groups(&self, dev: &dyn BlockDevice, more: &dyn Inodes, fresh: bool) -> Result<()> {
        let l = self.layout();
        let size = l.desc_size as usize;
        let per = size * (1usize << l.log_flex.min(20)).max(CHUNK);
        // All three are powers of two.
        let many = per.max(DESCS).max(l.block_size as usize);
        let heads = l.groups_with_head();
        let mut descs = vec![0u8; l.desc_blocks as usize * l.block_size as usize];
        descs.par_chunks_mut(many).enumerate().try_for_each(|(i, part)| -> Result<()> {
            part.par_chunks_mut(per).enumerate().try_for_each(|(j, flex)| {
                self.write_flex(dev, ((i * many + j * per) / size) as u32, flex, more, fresh)
            })?;
            self.write_descs(dev, &heads, i * many, part)
        })
    }

    /// Bitmaps and inode tables of the groups from `first` on, as many as `descs` has room for; their descriptors go there.
    fn write_flex(
        &self,
        dev: &dyn BlockDevice,
        first: u32,
        descs: &mut [u8],
        more: &dyn Inodes,
        fresh: bool,
    ) -> Result<()> {
        let l = self.layout();
        let size = l.desc_size as usize;
        let mut bitmaps = Vec::new();
        for (group, out) in (first..l.groups).zip(descs.chunks_exact_mut(size)) {
            let mut desc = self.group(group, &mut bitmaps, fresh);
            self.write_inodes(dev, group, more, fresh)?;
            desc.checksum =
                U16::new(desc.computed_checksum(l.checksums(), Group(group), size as u16, &vec![0; size]).unwrap_or(0));
            desc.encode_into(out);
        }
        bitmaps.sort_unstable_by_key(|(at, _)| *at);
        let mut out = Gather::new(dev);
        for (at, bytes) in &bitmaps {
            out.push(at * u64::from(l.block_size), bytes)?;
        }
        out.flush()
    }

    /// How many inodes of the group are in use; they are its first.
    fn used_inodes(&self, group: u32) -> u32 {
        let ipg = self.layout().inodes_per_group;
        (self.next_ino - 1).saturating_sub(group * ipg).min(ipg)
    }

    /// A group's descriptor without its checksum; its bitmaps, where they are to be written, into `bitmaps`.
    fn group(&self, group: u32, bitmaps: &mut Vec<(u64, Vec<u8>)>, fresh: bool) -> GroupDesc {
        let l = self.layout();
        let csums = l.checksums();
        let lazy = csums.has_group_desc_csum();
        let tables = l.tables.get(group as usize).copied().unwrap_or_default();
        let (start, end) = (l.group_start(group), l.group_end(group));
        let ratio = u64::from(l.ratio);
        let mut desc = GroupDesc::default();
        desc.set_block_bitmap(Fsblk(tables.block_bitmap));
        desc.set_inode_bitmap(Fsblk(tables.inode_bitmap));
        desc.set_inode_table(Fsblk(tables.inode_table));
        let used: u64 = self.space().used_in(start..end).map(|r| r.end - r.start).sum();
        desc.set_free_clusters(((end - start) / ratio - used / ratio) as u32);
        let inodes = self.used_inodes(group);
        desc.set_free_inodes(l.inodes_per_group - inodes);
        desc.set_used_dirs(self.dirs_in_group.get(&group).copied().unwrap_or(0));
        let mut flags = BgFlags::empty();
        let desc_size = l.desc_size as u16;
        if lazy && group + 1 != l.groups && used == self.own_blocks(group) {
            flags |= BgFlags::BLOCK_UNINIT;
        } else {
            let map = self.block_bitmap(start..end);
            bitmap::stamp(Kind::Block, &map, l.blocks_per_group / l.ratio, csums, &mut desc, desc_size);
            bitmaps.push((tables.block_bitmap, map));
        }
        if lazy {
            desc.set_itable_unused(l.inodes_per_group - inodes);
        }
        if lazy && inodes == 0 {
            flags |= BgFlags::INODE_UNINIT;
        } else {
            let mut map = vec![0xff; l.block_size as usize];
            bitmap::clear_range(&mut map, inodes as usize, l.inodes_per_group as usize);
            bitmap::stamp(Kind::Inode, &map, l.inodes_per_group, csums, &mut desc, desc_size);
            bitmaps.push((tables.inode_bitmap, map));
        }
        if lazy && (fresh || !l.options.lazy_itable_init) {
            flags |= BgFlags::INODE_ZEROED;
        }
        desc.set_bg_flags(flags);
        desc
    }

    /// Blocks of the group that are in use even if nothing is allocated in it, as the kernel works it out for a group
    /// without a block bitmap.
    fn own_blocks(&self, group: u32) -> u64 {
        let l = self.layout();
        let head = l.head(group);
        let mut n = head.superblock.map_or(0, |_| 1)
            + head.descs.map_or(0, |r| r.end - r.start)
            + (head.reserved.end - head.reserved.start)
            + head.meta_desc.map_or(0, |_| 1);
        if !l.features.incompat.contains(Incompat::FLEX_BG) {
            n += 2 + u64::from(l.itable_blocks);
        }
        n.next_multiple_of(u64::from(l.ratio))
    }

    fn block_bitmap(&self, range: Range<u64>) -> Vec<u8> {
        let l = self.layout();
        let ratio = u64::from(l.ratio);
        let mut map = vec![0xff; l.block_size as usize];
        bitmap::clear_range(&mut map, 0, ((range.end - range.start) / ratio) as usize);
        for r in self.space().used_in(range.clone()) {
            let bit = |block: u64| (block - range.start).div_ceil(ratio) as usize;
            bitmap::set_range(&mut map, bit(r.start), bit(r.end));
        }
        map
    }

    /// The part of the group's inode table that is in use; the rest where it must be zeroed.
    fn write_inodes(&self, dev: &dyn BlockDevice, group: u32, more: &dyn Inodes, fresh: bool) -> Result<()> {
        let l = self.layout();
        let used = self.used_inodes(group) as usize;
        let (size, bs) = (l.inode_size as usize, u64::from(l.block_size));
        let Some(tables) = l.tables.get(group as usize) else { return Ok(()) };
        let at = tables.inode_table * bs;
        let whole = u64::from(l.itable_blocks) * bs;
        let mut done = 0u64;
        if used != 0 {
            let mut buf = vec![0u8; (used * size).next_multiple_of(bs as usize)];
            let first = group * l.inodes_per_group + 1;
            for (ino, slot) in (first..).zip(buf.chunks_exact_mut(size).take(used)) {
                if more.has(Ino(ino)) {
                    more.fill(Ino(ino), slot)?;
                } else {
                    self.own_inode(ino, slot, l.checksums());
                }
            }
            dev.write_at(at, &buf)?;
            done = buf.len() as u64;
        }
        let lazy = l.options.lazy_itable_init && l.checksums().has_group_desc_csum();
        if !fresh && !lazy && done < whole {
            dev.zero(at + done, whole - done)?;
        }
        Ok(())
    }

    fn own_inode(&self, ino: u32, slot: &mut [u8], csums: Checksums) {
        if let Some(inode) = self.inodes.get(&ino) {
            let mut inode = inode.clone();
            inode.update_checksum(csums, Ino(ino));
            slot.copy_from_slice(inode.as_bytes());
        }
    }
}
