//! What blocks of a file are, and making them something else: look-up, delayed, allocated, converted. Kernel names:
//! `ext4_map_blocks`, `ext4_da_map_blocks`. Units: logical blocks.

use std::ops::ControlFlow;

use super::delalloc::Allocation as _;
use super::event::Event;
use super::extent_status::{EsEntry, EsStatus, MAX_BLOCKS};
use super::inode::{Disk, MemInode};
use super::mount::Mount;
use crate::error::{Error, Result};
use crate::format::extent::{Entries, Extent, Node};
use crate::units::{Fsblk, Lblk};
use crate::volume::store::{BlockAlloc as _, FileInUse};
use crate::volume::{Cut, MapEvent, Mapping, Wanted};

/// How blocks are to be mapped.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Create {
    /// As unwritten; what is unwritten already stays so.
    pub(super) unwritten: bool,
    /// The data comes next, and then the end of its I/O: what is unwritten stays apart until then.
    #[doc(alias = "EXT4_GET_BLOCKS_PRE_IO")]
    pub(super) pre_io: bool,
    /// This is writeback of what was reserved.
    #[doc(alias = "EXT4_GET_BLOCKS_DELALLOC_RESERVE")]
    pub(super) writeback: bool,
    /// Nothing is to be set aside beyond what is asked for.
    #[doc(alias = "EXT4_GET_BLOCKS_NO_NORMALIZE")]
    pub(super) exact: bool,
    /// The data is sent to the device next: a commit that shows the blocks has only to wait for it.
    #[doc(alias = "EXT4_GET_BLOCKS_IO_SUBMIT")]
    pub(super) submits: bool,
    /// Written blocks become unwritten ones.
    #[doc(alias = "EXT4_GET_BLOCKS_CONVERT_UNWRITTEN")]
    pub(super) reset: bool,
}

/// Whether a delayed write looks at its blocks again once it holds the exclusive lock. The first look-up takes no lock that
/// keeps fallocate away from a page fault, so without a second one a reservation can be made for blocks that are
/// allocated by now. The engine always looks again; the explorer of interleavings shows what happens otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recheck {
    Yes,
    No,
}

/// What blocks are now, and whether that is news: allocated or initialised by this call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapped {
    pub(super) e: EsEntry,
    pub(super) new: bool,
}

const fn hole(lblk: u32, len: u32) -> EsEntry {
    EsEntry { lblk: Lblk(lblk), len, status: EsStatus::Hole, pblk: Fsblk(0) }
}

impl Mount {
    /// What `lblk` is, and for how many blocks (at most `len`) the answer holds.
    #[doc(alias = "ext4_map_query_blocks")]
    pub(super) fn query(&self, i: &mut MemInode, lblk: u32, len: u32) -> Result<EsEntry> {
        let want = lblk..lblk.saturating_add(len.max(1));
        if let Some(e) = i.dd.es().lookup(Lblk(lblk)) {
            return Ok(e.clip(&want));
        }
        let all = match self.fs.volume.map(i.o.owner(), Lblk(lblk))? {
            Mapping::Hole { .. } => self.hole_around(i, lblk)?,
            Mapping::Mapped { pblk, len, unwritten } => {
                self.learn_leaf(i, lblk)?;
                let status = if unwritten { EsStatus::Unwritten } else { EsStatus::Written };
                let len = u32::try_from(len).unwrap_or(u32::MAX).min(want.end - lblk);
                EsEntry { lblk: Lblk(lblk), len, status, pblk }
            }
        };
        i.dd.cache(all);
        let e = i.dd.es().lookup(Lblk(lblk)).unwrap_or(all);
        Ok(e.clip(&want))
    }

    /// The hole at `lblk`, from the extent before it on (from `lblk` where there is none), up to what is delayed or mapped.
    #[doc(alias = "ext4_ext_determine_insert_hole")]
    fn hole_around(&self, i: &mut MemInode, lblk: u32) -> Result<EsEntry> {
        let extents = self.is_extents(i);
        if extents {
            self.learn_leaf(i, lblk)?;
        }
        let all = if extents { self.fs.volume.extents(i.o.owner())? } else { Vec::new() };
        let at = all.partition_point(|e| e.lblk.0 <= lblk);
        let before = at.checked_sub(1).and_then(|n| all.get(n)).map(|e| e.lblk.0 + e.len);
        let mut start = match (before, all.is_empty()) {
            (Some(end), _) => end,
            (None, true) => 0,
            (None, false) => lblk,
        };
        let mut end = all.get(at).map_or(MAX_BLOCKS, |e| e.lblk.0);
        if !extents {
            let Mapping::Hole { len } = self.fs.volume.map(i.o.owner(), Lblk(lblk))? else { return Ok(hole(lblk, 1)) };
            (start, end) = (lblk, u32::try_from(u64::from(lblk) + len).unwrap_or(MAX_BLOCKS));
        }
        if i.dd.es().any(EsStatus::Delayed, start..lblk) {
            start = lblk;
        }
        if let Some(d) = i.dd.es().find(EsStatus::Delayed, start..end) {
            end = d.lblk.0;
        }
        Ok(hole(start, end.saturating_sub(start).max(1)))
    }

    /// What a delayed write finds in `[lblk, lblk + len)`: holes become delayed, as far as one answer reaches.
    #[doc(alias = "ext4_da_map_blocks")]
    pub(super) fn map_delayed(&mut self, i: &mut MemInode, lblk: u32, len: u32) -> Result<Mapped> {
        let e = self.query(i, lblk, len)?;
        if e.status == EsStatus::Hole { self.insert_delayed(i, e, Recheck::Yes) } else { Ok(Mapped { e, new: false }) }
    }

    /// The second half of a delayed write, under the exclusive lock: what was a hole becomes delayed, unless it is one no more.
    #[doc(alias = "ext4_insert_delayed_blocks")]
    pub(super) fn insert_delayed(&mut self, i: &mut MemInode, found: EsEntry, recheck: Recheck) -> Result<Mapped> {
        let e = match recheck {
            Recheck::Yes => self.query(i, found.lblk.0, found.len)?,
            Recheck::No => found,
        };
        if e.status != EsStatus::Hole {
            return Ok(Mapped { e, new: false });
        }
        let disk = Disk { vol: &self.fs.volume, o: &i.o };
        i.dd.insert_delayed(e.lblk, e.len, &disk, &mut self.space)?;
        Ok(Mapped { e: EsEntry { status: EsStatus::Delayed, ..e }, new: true })
    }

    /// Map blocks from `lblk` on, at least one and at most `len`, allocating or converting as `how` says.
    #[doc(alias = "ext4_map_blocks")]
    pub(super) fn map_create(&mut self, i: &mut MemInode, lblk: u32, len: u32, how: Create) -> Result<Mapped> {
        // What is known of the blocks bounds one step; delayed ones have their clusters reserved.
        let known = self.query(i, lblk, len)?;
        let len = known.len;
        self.learn_leaf(i, lblk)?;
        let found = self.fs.volume.map(i.o.owner(), Lblk(lblk))?;
        let (pblk, have, unwritten) = match found {
            Mapping::Mapped { pblk, len: have, unwritten } => (pblk, have, unwritten),
            Mapping::Hole { .. } => {
                return self.allocate(i, lblk, len, how, known.status == EsStatus::Delayed);
            }
        };
        let len = u32::try_from(have).unwrap_or(u32::MAX).min(len);
        let status = if unwritten { EsStatus::Unwritten } else { EsStatus::Written };
        let e = EsEntry { lblk: Lblk(lblk), len, status, pblk };
        match status {
            EsStatus::Written if how.reset => {
                self.convert(i, lblk, u64::from(lblk) + u64::from(len), true)?;
                Ok(Mapped { e: EsEntry { status: EsStatus::Unwritten, ..e }, new: false })
            }
            EsStatus::Unwritten if !how.unwritten => self.initialise(i, e, how),
            _ => {
                if how.pre_io && unwritten {
                    self.edit(|edit| {
                        edit.split_for_io(&mut i.o, e.lblk, Lblk(e.end()))?;
                        edit.put(&mut i.o)
                    })?;
                }
                if i.dd.es().lookup(Lblk(lblk)).is_none_or(|had| had.clip(&(lblk..e.end())) != e) {
                    self.note_allocated(i, e, false)?;
                }
                Ok(Mapped { e, new: false })
            }
        }
    }

    /// Allocate for a hole; `reserved` where delayed allocation has reserved the clusters.
    fn allocate(&mut self, i: &mut MemInode, lblk: u32, len: u32, how: Create, reserved: bool) -> Result<Mapped> {
        let geo = self.fs.volume.geometry();
        let (ratio, bits) = (geo.cluster_ratio, geo.cluster_bits);
        let offset = lblk & (ratio - 1);
        let mut len = len.min(self.longest(how.unwritten));
        let shares = ratio > 1 && {
            let first = lblk & !(ratio - 1);
            Disk { vol: &self.fs.volume, o: &i.o }.any_mapped(first..first.saturating_add(ratio))?
        };
        if !reserved && !shares {
            // What is not reserved must be claimed, half of it where there is not enough.
            let hole = match self.fs.volume.map(i.o.owner(), Lblk(lblk))? {
                Mapping::Hole { len } => u32::try_from(len).unwrap_or(u32::MAX),
                Mapping::Mapped { .. } => 1,
            };
            len = len.min(hole);
            let mut clusters = (u64::from(offset) + u64::from(len)).div_ceil(ratio.into());
            while clusters > 0 && !self.space.has(clusters) {
                clusters /= 2;
            }
            if clusters == 0 {
                let have = self.space.free.exact();
                return Err(Error::NoSpace { what: "clusters", need: 1, have });
            }
            let most = (clusters << bits) - u64::from(offset);
            len = u32::try_from(most).unwrap_or(u32::MAX).min(len);
        }
        let wanted = Wanted { lblk: Lblk(lblk), len, unwritten: how.unwritten, ahead: 0 };
        let file = self.fs.alloc.in_use().then_some(FileInUse {
            size: i.size,
            exact: how.exact,
            reserved,
            writeback: how.writeback || reserved,
            apart: how.pre_io && how.unwritten,
            open: i.open,
            ..FileInUse::default()
        });
        i.o.inode.set_size(i.disksize);
        if !how.writeback && !reserved {
            self.keep_pool();
        }
        let got = self.edit(|e| {
            let got = e.allocate_in_use(&mut i.o, wanted, file)?;
            e.put(&mut i.o)?;
            Ok(got)
        })?;
        let tid = Some(self.journal.running());
        i.sync_tid = tid;
        if !how.unwritten {
            i.datasync_tid = tid;
        }
        self.tracer.emit(i.o.ino, || Event::AllocateBlocks { lblk: got.lblk.0, len: got.len, pblk: got.pblk });
        self.pass_leaves(i, lblk, u64::from(lblk) + 1)?;
        let status = if got.unwritten { EsStatus::Unwritten } else { EsStatus::Written };
        let e = EsEntry { lblk: got.lblk, len: got.len, status, pblk: got.pblk };
        self.learn_leaf(i, lblk)?;
        self.note_allocated(i, e, reserved)?;
        self.expose(i, &e, how);
        Ok(Mapped { e, new: true })
    }

    /// Blocks have a place now. Where that settles the last reservation of a file that nobody has open for writing, nothing
    /// stays set aside for it.
    #[doc(alias = "ext4_da_update_reserve_space")]
    fn note_allocated(&mut self, i: &mut MemInode, e: EsEntry, reserved: bool) -> Result<()> {
        let settled = i.dd.insert_allocated(e, reserved, &mut self.space);
        if settled > 0 && i.dd.reserved() == 0 && !i.open {
            self.fs.alloc.release_file(&self.fs.volume, i.o.ino)?;
        }
        Ok(())
    }

    /// Metadata of what comes next must leave what is promised and what is kept for what must not fail.
    fn keep_pool(&mut self) {
        self.fs.alloc.keep(self.space.dirty.exact() + self.space.pool);
    }

    fn longest(&self, unwritten: bool) -> u32 {
        let _ = self;
        crate::volume::extent_plan::max_len(unwritten)
    }

    /// A commit will show these blocks: where data is ordered, what is dirty over them must be written before.
    pub(super) fn expose(&self, i: &mut MemInode, e: &EsEntry, how: Create) {
        if e.status == EsStatus::Written && !self.journals_data(i) {
            i.exposed.extend(e.lblk.0..e.end());
        }
        if e.status == EsStatus::Written && self.orders_data(i) {
            let bits = self.block_bits();
            i.order(u64::from(e.lblk.0) << bits..u64::from(e.end()) << bits, !how.submits);
        }
    }

    /// Make all that is mapped of `[start, end)` written, or unwritten.
    #[doc(alias = "ext4_convert_unwritten_extents")]
    pub(super) fn convert(&mut self, i: &mut MemInode, start: u32, end: u64, unwritten: bool) -> Result<()> {
        self.convert_by(i, start, end, unwritten, Cut::First)
    }

    /// The same; `cut` says how extents that are converted in part are cut.
    pub(super) fn convert_by(
        &mut self,
        i: &mut MemInode,
        start: u32,
        end: u64,
        unwritten: bool,
        cut: Cut,
    ) -> Result<()> {
        self.learn_leaf(i, start)?;
        i.o.inode.set_size(i.disksize);
        if unwritten {
            self.keep_pool();
        }
        self.edit(|e| {
            e.convert_extents_by(&mut i.o, Lblk(start), end, unwritten, cut)?;
            e.put(&mut i.o)
        })?;
        self.pass_leaves(i, start, end)?;
        if unwritten {
            i.exposed.retain(|b| *b < start || u64::from(*b) >= end);
        }
        let tid = Some(self.journal.running());
        (i.sync_tid, i.datasync_tid) = (tid, tid);
        let mut at = u64::from(start);
        while let Ok(lblk) = u32::try_from(at)
            && at < end
        {
            at += match self.fs.volume.map(i.o.owner(), Lblk(lblk))? {
                Mapping::Hole { len } => len,
                Mapping::Mapped { pblk, len, unwritten } => {
                    let len = len.min(end - at);
                    let status = if unwritten { EsStatus::Unwritten } else { EsStatus::Written };
                    let e = EsEntry { lblk: Lblk(lblk), len: len as u32, status, pblk };
                    self.note_allocated(i, e, false)?;
                    len
                }
            };
        }
        Ok(())
    }

    /// Free `[start, end)` of a file. A cluster of the device that goes while delayed blocks of its cluster stay is reserved
    /// again for them.
    #[doc(alias = "ext4_ext_remove_space")]
    pub(super) fn remove_space(&mut self, i: &mut MemInode, start: u32, end: u64) -> Result<()> {
        let journalled = self.journals_data(i);
        let upto = u32::try_from(end).unwrap_or(u32::MAX);
        i.dd.remove(start..upto, &mut self.space);
        self.tracer.emit(i.o.ino, || Event::RemoveSpace { start, end: upto.saturating_sub(1), depth: depth(i) });
        let gone = |b: &u32| *b >= start && u64::from(*b) < end;
        i.exposed.retain(|b| !gone(b));
        i.failed.retain(|b| !gone(b));
        i.o.inode.set_size(i.disksize);
        self.fs.alloc.release_file(&self.fs.volume, i.o.ino)?;
        self.edit(|e| {
            let had = journalled.then(|| e.vol.extents(i.o.owner())).transpose()?;
            e.remove_blocks(&mut i.o, Lblk(start), end)?;
            // Blocks whose content is in the journal must not come back from there.
            for e2 in
                had.unwrap_or_default().iter().filter_map(|x| crate::volume::extent_plan::clip(x, start.into(), end))
            {
                for n in 0..u64::from(e2.len) {
                    e.store.forget(e2.pblk.saturating_add(n))?;
                }
            }
            e.put(&mut i.o)
        })?;
        self.pass_leaves(i, start, end)?;
        let bits = self.fs.volume.geometry().cluster_bits;
        let pending: Vec<u32> = i.dd.pending().collect();
        for cluster in pending {
            let first = cluster << bits;
            let blocks = first..first.saturating_add(1 << bits);
            if !(Disk { vol: &self.fs.volume, o: &i.o }).any_mapped(blocks)? && i.dd.rereserve(cluster) {
                self.space.dirty.add(1);
            }
        }
        Ok(())
    }
}

/// Levels of a file's extent tree above its leaves.
fn depth(i: &MemInode) -> u16 {
    Node::decode(&i.o.inode.block_area()).map_or(0, |n| n.depth)
}

impl Mount {
    /// Note the extents of the leaf that holds `lblk`, and the holes between them: a look-up passes them all. A leaf outside the
    /// inode is noted when it is first read.
    #[doc(alias = "ext4_cache_extents")]
    pub(super) fn learn_leaf(&self, i: &mut MemInode, lblk: u32) -> Result<()> {
        if !self.is_extents(i) {
            return Ok(());
        }
        let leaf = match Node::decode(&i.o.inode.block_area())?.entries {
            Entries::Leaf(extents) => {
                i.leaves_read.clear();
                extents
            }
            Entries::Index(_) => {
                let (block, extents) = self.leaf_holding(i, lblk)?;
                if !i.leaves_read.insert(block) {
                    return Ok(());
                }
                extents
            }
        };
        if i.no_cache {
            return Ok(());
        }
        let mut end = None;
        for x in leaf {
            if let Some(end) = end.filter(|end| *end < x.lblk.0) {
                let len = x.lblk.0 - end;
                i.dd.learn(EsEntry { lblk: Lblk(end), len, status: EsStatus::Hole, pblk: Fsblk(0) });
            }
            let status = if x.unwritten { EsStatus::Unwritten } else { EsStatus::Written };
            i.dd.learn(EsEntry { lblk: x.lblk, len: x.len, status, pblk: x.pblk });
            end = Some(x.lblk.0 + x.len);
        }
        Ok(())
    }

    /// The leaves outside the inode that meet `[first, end)` have been read, or were made just now: they are not noted again.
    #[doc(alias = "set_buffer_verified")]
    pub(super) fn pass_leaves(&self, i: &mut MemInode, first: u32, end: u64) -> Result<()> {
        if !self.is_extents(i) || depth(i) == 0 {
            return Ok(());
        }
        let mut before = None;
        let mut passed = Vec::new();
        self.fs.volume.walk_map(i.o.owner(), &mut |event| {
            if let MapEvent::Node { block, depth: 0, lblk } = event {
                if lblk.0 <= first {
                    before = Some(block);
                } else if u64::from(lblk.0) < end {
                    passed.push(block);
                } else {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        i.leaves_read.extend(before.into_iter().chain(passed));
        Ok(())
    }

    /// The leaf where `lblk` belongs: where it is, and what it holds.
    fn leaf_holding(&self, i: &MemInode, lblk: u32) -> Result<(Fsblk, Vec<Extent>)> {
        let (mut at, mut all) = (Fsblk(0), Vec::new());
        self.fs.volume.walk_map(i.o.owner(), &mut |event| {
            match event {
                MapEvent::Node { block, depth: 0, lblk: first } => {
                    if first.0 > lblk && at != Fsblk(0) {
                        return Ok(ControlFlow::Break(()));
                    }
                    (at, all) = (block, Vec::new());
                }
                MapEvent::Node { .. } => {}
                MapEvent::Data(e) => all.push(e),
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((at, all))
    }
}
