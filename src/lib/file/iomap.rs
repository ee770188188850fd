//! Buffered writes with iomap: one mapping for as long a range as possible, the folios after it. Kernel names:
//! `iomap_file_buffered_write`, `ext4_iomap_buffered_da_write_begin`, `iomap_writepages`. Offsets in bytes.
//!
//! New blocks are always unwritten until their data is on the device, so no commit can show stale data and there is no
//! ordered mode. `i_disksize` moves at the end of I/O, under what `i_size` is then. Writeback maps a whole delayed extent on
//! the first call, clipped by the range that is written back. The state of a block is what it is in the page cache
//! (known, dirty); where it lies is asked each time, and used only while the validity cookie of the extent-status tree holds.

use std::ops::Range;

use super::event::{Event, Task};
use super::extent_status::{Cookie, EsEntry, EsStatus};
use super::folio::{Folio, PAGE_BITS};
use super::inode::{Lost, MemInode};
use super::map::Create;
use super::mount::{Mount, is_full};
use super::path::{IovIter, WritePath};
use crate::error::Result;

/// The path of iomap.
#[derive(Clone, Copy, Debug)]
pub struct Iomap;

/// A mapping that is being used, and what says whether it still holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub(super) e: EsEntry,
    /// This call reserved or allocated it: what of it stays unused is given back.
    pub(super) new: bool,
    pub(super) cookie: Cookie,
}

impl WritePath for Iomap {
    fn name(&self) -> &'static str {
        "iomap"
    }

    fn write(&self, m: &mut Mount, i: &mut MemInode, pos: u64, from: &mut dyn IovIter) -> Result<usize> {
        let old = i.size;
        if pos > old {
            // The rest of the old last block, outside any transaction of the write.
            m.zero_tail(i, old, pos)?;
            m.extended(i, old, pos);
        }
        let mut done = 0;
        while done < from.len() {
            m.make_room(Some(i))?;
            match m.write_mapping(i, pos, from, done) {
                Ok(n) => done += n,
                Err(e) if done > 0 && is_full(&e) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn make_writable(&self, m: &mut Mount, i: &mut MemInode, page: u64) -> Result<()> {
        if page << PAGE_BITS >= i.size {
            return Err(super::buffer_head::too_far(page << PAGE_BITS));
        }
        let f = i.cache.grab(page, 0);
        let (index, pos, size) = (f.index, f.pos(), f.size());
        m.read_folio(i, index)?;
        let end = pos + size.min(i.size - pos);
        let mut at = pos;
        while at < end {
            let map = m.map_write(i, at, end - at)?;
            at = u64::from(map.e.end()) << m.block_bits();
        }
        m.mark_dirty(i, index, &(pos..end));
        Ok(())
    }

    fn write_back(&self, m: &mut Mount, i: &mut MemInode, range: Range<u64>) -> Result<()> {
        m.write_folios(i, range)
    }
}

impl Mount {
    /// A mapping for a write of `len` bytes at `pos`: what is there, or reserved (allocated, where nothing is delayed).
    #[doc(alias = "ext4_iomap_buffered_io_begin")]
    fn map_write(&mut self, i: &mut MemInode, pos: u64, len: u64) -> Result<Mapping> {
        let (lblk, end) = (self.block_of(pos), self.block_up(pos + len));
        let delayed = self.options.delalloc && !self.must_allocate(i)?;
        let mut tries = 0;
        loop {
            let got = if delayed {
                self.map_delayed(i, lblk, end - lblk)
            } else {
                self.map_create(i, lblk, end - lblk, Create { unwritten: true, ..Create::default() })
            };
            match got {
                Ok(m) => return Ok(Mapping { e: m.e, new: m.new, cookie: i.dd.es().cookie() }),
                Err(e) if is_full(&e) && self.should_retry(i, &mut tries)? => {}
                // A long reservation may fail where one block has room.
                Err(e) if is_full(&e) && end - lblk > 1 => {
                    return self.map_write(i, pos, self.block_size() - pos % self.block_size());
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Take what one mapping holds of a write at `pos`, of which `done` bytes have been taken.
    #[doc(alias = "iomap_write_iter")]
    fn write_mapping(&mut self, i: &mut MemInode, pos: u64, from: &mut dyn IovIter, done: usize) -> Result<usize> {
        let (start, all) = (pos + done as u64, pos + from.len() as u64);
        let map = self.map_write(i, start, all - start)?;
        self.copy_mapped(i, pos, from, start..all, &map)
    }

    /// Copy what a mapping holds of the bytes `part` of a write at `pos`, folio by folio; less where it does not hold any more.
    #[doc(alias = "iomap_write_begin")]
    pub(super) fn copy_mapped(
        &mut self,
        i: &mut MemInode,
        pos: u64,
        from: &mut dyn IovIter,
        part: Range<u64>,
        map: &Mapping,
    ) -> Result<usize> {
        let bits = self.block_bits();
        let stop = (u64::from(map.e.end()) << bits).min(part.end);
        let mut at = part.start;
        while at < stop {
            // The folio first, then: does the mapping still hold?
            let f = i.cache.grab_to_write(at, stop - at);
            let end = f.end().min(stop);
            let inside = (at - f.pos()) as usize..(end - f.pos()) as usize;
            if !i.dd.es().is_valid(map.cookie) {
                break;
            }
            let whole = inside.len() == f.data.len();
            if whole {
                f.lent = from.is_lent();
            }
            let owned = match &i.lender {
                Some(lender) if f.lent && !whole => lender.copy_to(f),
                _ => Ok(()),
            };
            let copied = owned.and_then(|()| self.fill_around(f, &inside, map)).and_then(|()| {
                if f.lent { Ok(()) } else { from.copy((at - pos) as usize, &mut f.data[inside.clone()]) }
            });
            if let Err(e) = copied {
                self.give_back(i, map, at);
                return Err(e);
            }
            f.written(&inside, bits);
            i.size = i.size.max(end);
            at = end;
        }
        Ok((at - part.start) as usize)
    }

    /// The blocks at the edges of a write into `part` of a folio must be known: read, or zeros where nothing was written yet.
    #[doc(alias = "__iomap_write_begin")]
    fn fill_around(&self, f: &mut Folio, part: &Range<usize>, map: &Mapping) -> Result<()> {
        let (bits, block) = (self.block_bits(), 1 << self.block_bits());
        for n in [part.start >> bits, (part.end - 1) >> bits] {
            let at = n << bits;
            let partial = at < part.start || at + block > part.end;
            if f.uptodate || f.buffers[n].uptodate || !partial {
                continue;
            }
            f.buffers[n].uptodate = true;
            let lblk = (f.pos() >> bits) + n as u64;
            let slot = &mut f.data[at..at + block];
            if map.e.status == EsStatus::Written {
                let pblk = map.e.pblk.saturating_add(lblk - u64::from(map.e.lblk.0));
                self.read_block(pblk, slot)?;
            } else {
                slot.fill(0);
            }
        }
        Ok(())
    }

    pub(super) fn mark_dirty(&self, i: &mut MemInode, index: u64, range: &Range<u64>) {
        let bits = self.block_bits();
        if let Some(f) = i.cache.find_mut(index) {
            f.create_buffers(bits);
        }
        self.commit_write(i, index, range);
    }

    /// A write failed: delayed blocks that it made, and that no dirty folio covers, are given back.
    #[doc(alias = "ext4_iomap_punch_delalloc")]
    fn give_back(&mut self, i: &mut MemInode, map: &Mapping, from: u64) {
        if map.new && map.e.status == EsStatus::Delayed {
            let first = self.block_up(from).max(map.e.lblk.0);
            let clean: Vec<u32> = (first..map.e.end()).filter(|b| !self.is_dirty(i, *b)).collect();
            for b in clean {
                i.dd.remove(b..b + 1, &mut self.space);
            }
        }
    }

    fn is_dirty(&self, i: &MemInode, lblk: u32) -> bool {
        let pos = u64::from(lblk) << self.block_bits();
        let at = |f: &Folio| ((pos - f.pos()) >> self.block_bits()) as usize;
        i.cache.find(pos >> PAGE_BITS).is_some_and(|f| f.buffers.get(at(f)).is_some_and(|b| b.dirty))
    }

    /// Before a write beyond the end: what of the old last block lies behind the old end becomes zeros.
    fn zero_tail(&mut self, i: &mut MemInode, old: u64, pos: u64) -> Result<()> {
        let block = self.block_size();
        let end = old.next_multiple_of(block).min(pos);
        if old >= end {
            return Ok(());
        }
        let lblk = self.block_of(old);
        let e = self.query(i, lblk, 1)?;
        let cached = self.is_dirty(i, lblk);
        if e.status != EsStatus::Written && !cached {
            return Ok(());
        }
        let f = i.cache.grab(old >> PAGE_BITS, 0);
        let index = f.index;
        self.read_folio(i, index)?;
        if let Some(f) = i.cache.find_mut(index) {
            let (from, to) = ((old - f.pos()) as usize, (end - f.pos()) as usize);
            f.data[from..to].fill(0);
        }
        self.mark_dirty(i, index, &(old..end));
        Ok(())
    }

    /// Write back what is dirty in the folios that meet `range`.
    #[doc(alias = "iomap_writepages")]
    fn write_folios(&mut self, i: &mut MemInode, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        self.tracer.emit(i.o.ino, || Event::WritePages { start: range.start, end: range.end - 1 });
        let (mut at, last) = (range.start >> PAGE_BITS, (range.end - 1) >> PAGE_BITS);
        while let Some(e) = self.map_next(i, &mut at, last)? {
            self.submit_run(i, &e)?;
        }
        Ok(())
    }

    /// Find what is dirty from page `at` on, up to page `last`, and give it places.
    #[doc(alias = "ext4_iomap_map_writeback_range")]
    pub(super) fn map_next(&mut self, i: &mut MemInode, at: &mut u64, last: u64) -> Result<Option<EsEntry>> {
        let bits = self.block_bits();
        let mut commits = 0;
        while let Some(index) = i.cache.next_dirty(*at, last) {
            self.make_room(Some(i))?;
            let Some(run) = self.dirty_run(i, index, last) else {
                if let Some(f) = i.cache.find_mut(index) {
                    f.dirty = false;
                    *at = f.next_index();
                }
                continue;
            };
            let e = self.query(i, run.start, run.end - run.start)?;
            let how = Create { unwritten: true, ..Create::default() };
            match self.map_create(i, run.start, e.end() - run.start, how) {
                Ok(m) => return Ok(Some(m.e)),
                Err(e) if is_full(&e) && self.space.free.exact() > 0 && commits < 3 && self.may_commit() => {
                    commits += 1;
                    self.commit(Some(i))?;
                }
                Err(e) => {
                    if is_full(&e) {
                        // The data is lost, loudly; the reservation is not.
                        i.dd.remove(run.clone(), &mut self.space);
                        i.cache.truncate(u64::from(run.start) << bits, u64::from(run.end) << bits, i.size);
                        i.lost = Some(Lost::NoSpace);
                    }
                    return Err(e);
                }
            }
        }
        Ok(None)
    }

    /// The contiguous dirty blocks from the first one of a folio on, up to the end of the file and of page `last`'s folio.
    fn dirty_run(&self, i: &mut MemInode, index: u64, last: u64) -> Option<Range<u32>> {
        let limit = self.block_up(i.size);
        let first_page = i.cache.find(index)?;
        let base = self.block_of(first_page.pos());
        let skip = first_page.buffers.iter().position(|b| b.dirty)?;
        let start = base + skip as u32;
        if start >= limit {
            for b in &mut i.cache.find_mut(index)?.buffers {
                b.dirty = false;
            }
            return None;
        }
        let mut end = start;
        for f in i.cache.following(index).take_while(|f| f.index <= last && f.dirty) {
            let first = self.block_of(f.pos());
            let rest = f.buffers.get((end - first) as usize..).unwrap_or_default();
            let dirty = rest.iter().take_while(|b| b.dirty).count();
            end += dirty as u32;
            if dirty < rest.len() || rest.is_empty() || end >= limit {
                break;
            }
        }
        Some(start..end.min(limit))
    }

    /// Write mapped blocks, and what the end of their I/O does.
    fn submit_run(&mut self, i: &mut MemInode, e: &EsEntry) -> Result<()> {
        self.write_cached(i, e.lblk.0..e.end(), e.pblk)?;
        self.end_run(i, e)
    }

    /// The end of the I/O: convert, and move `i_disksize`.
    #[doc(alias = "ext4_iomap_end_bio")]
    pub(super) fn end_run(&mut self, i: &mut MemInode, e: &EsEntry) -> Result<()> {
        let failed = i.failed.range(e.lblk.0..e.end()).next().is_some();
        let task = self.tracer.act_as(Task::EndIo);
        let done = self.finish_run(i, e, failed);
        self.tracer.act_as(task);
        done
    }

    fn finish_run(&mut self, i: &mut MemInode, e: &EsEntry, failed: bool) -> Result<()> {
        if e.status == EsStatus::Unwritten {
            self.end_io(i, e.lblk.0..e.end())?;
        }
        // The size on disk covers only what reached the device.
        let end = (u64::from(e.end()) << self.block_bits()).min(i.size);
        if !failed && self.grow_disksize(i, end) {
            self.store(i)?;
        }
        Ok(())
    }
}
