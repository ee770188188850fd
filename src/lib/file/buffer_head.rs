//! Buffered writes with buffer heads: page by page, each block looked up and reserved (or allocated) on its own. Kernel
//! names: `ext4_da_write_begin`, `ext4_write_begin`, `ext4_page_mkwrite`. Offsets and sizes in bytes.
//!
//! With delayed allocation a write reserves and starts no transaction, but to zero the tail of the old last block, or to move
//! `i_disksize` where the write ends in a block that is written already. Where space is short, and with `nodelalloc`,
//! blocks are allocated at once and `i_disksize` follows.

use std::ops::Range;

use super::folio::{Buffer, PAGE, PAGE_BITS};
use super::inode::MemInode;
use super::map::Create;
use super::mount::{Mount, is_full};
use super::path::{IovIter, WritePath};
use crate::error::{Error, Result};

/// The path of buffer heads.
#[derive(Clone, Copy, Debug)]
pub struct BufferHead;

/// How a block that a write touches gets a place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Get {
    /// Reserved.
    Delayed,
    /// Allocated, written.
    Written,
    /// Allocated, unwritten until writeback.
    Unwritten,
}

impl WritePath for BufferHead {
    fn name(&self) -> &'static str {
        "buffer-head"
    }

    fn write(&self, m: &mut Mount, i: &mut MemInode, pos: u64, from: &mut dyn IovIter) -> Result<usize> {
        let mut done = 0;
        while done < from.len() {
            m.make_room(Some(i))?;
            match m.write_folio(i, pos, from, done) {
                Ok(n) => done += n,
                Err(e) if done > 0 && is_full(&e) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn make_writable(&self, m: &mut Mount, i: &mut MemInode, page: u64) -> Result<()> {
        let mut tries = 0;
        loop {
            let done = m.make_folio_writable(i, page);
            match done {
                Err(e) if is_full(&e) && m.should_retry(i, &mut tries)? => {}
                done => return done,
            }
        }
    }

    fn write_back(&self, m: &mut Mount, i: &mut MemInode, range: Range<u64>) -> Result<()> {
        m.write_pages(i, range)
    }
}

impl Mount {
    /// Take one folio's share of a write at `start`, of which `done` bytes have been taken.
    #[doc(alias = "generic_perform_write")]
    fn write_folio(&mut self, i: &mut MemInode, start: u64, from: &mut dyn IovIter, done: usize) -> Result<usize> {
        let (pos, rest) = (start + done as u64, (from.len() - done) as u64);
        let delayed = self.options.delalloc && !self.journals_data(i) && !self.must_allocate(i)?;
        let get = match delayed {
            true => Get::Delayed,
            false if self.allocates_unwritten(i) => Get::Unwritten,
            false => Get::Written,
        };
        let mut tries = 0;
        let (index, len) = loop {
            let f = i.cache.grab_to_write(pos, rest);
            let (index, len) = (f.index, (f.end() - pos).min(rest));
            match self.prepare(i, index, pos..pos + len, get) {
                Ok(()) => break (index, len as usize),
                Err(e) => {
                    if pos + len > i.size {
                        // Blocks beyond the end may have been taken.
                        i.cache.truncate(i.size, u64::MAX, i.size);
                        self.cut(i)?;
                    }
                    if !is_full(&e) || !self.should_retry(i, &mut tries)? {
                        return Err(e);
                    }
                }
            }
        };
        let range = pos..pos + len as u64;
        let copied = i.cache.find_mut(index).map_or(Ok(()), |f| {
            let at = (pos - f.pos()) as usize;
            from.copy(done, &mut f.data[at..at + len])
        });
        if let Err(e) = copied {
            zero_new(i, index, range.clone(), self.block_size());
            if range.end > i.size {
                i.cache.truncate(i.size, u64::MAX, i.size);
                self.cut(i)?;
            }
            return Err(e);
        }
        if get == Get::Delayed {
            self.end_delayed(i, index, range)?;
        } else {
            self.end_allocated(i, index, range)?;
        }
        Ok(len)
    }

    /// Whether space is so short that a write must allocate at once. What writeback, which may begin here, does to that counts
    /// from the next write on.
    #[doc(alias = "ext4_nonda_switch")]
    pub(super) fn must_allocate(&mut self, i: &mut MemInode) -> Result<bool> {
        let short = self.space.is_short();
        if self.space.wants_writeback() {
            self.relieve(i)?;
        }
        Ok(short)
    }

    /// Give the blocks of `range`, in one folio, places, and make what of them the write does not cover right.
    #[doc(alias = "ext4_block_write_begin")]
    pub(super) fn prepare(&mut self, i: &mut MemInode, index: u64, range: Range<u64>, get: Get) -> Result<()> {
        let bits = self.block_bits();
        let block = self.block_size();
        if let Some(f) = i.cache.find_mut(index) {
            f.create_buffers(bits);
            if f.uptodate {
                f.buffers.iter_mut().for_each(|b| b.uptodate = true);
            }
        }
        for n in range.start >> bits..=(range.end - 1) >> bits {
            let at = n * block;
            if let Err(e) = self.prepare_block(i, index, n, &range, get) {
                zero_new(i, index, range.start..at, block);
                return Err(e);
            }
        }
        Ok(())
    }

    fn prepare_block(&mut self, i: &mut MemInode, index: u64, n: u64, range: &Range<u64>, get: Get) -> Result<()> {
        let block = self.block_size();
        let (start, end) = (n * block, (n + 1) * block);
        let Some(f) = i.cache.find(index) else { return Ok(()) };
        let (at, uptodate) = (((start - f.pos()) / block) as usize, f.uptodate);
        let mut b = f.buffers[at];
        b.new = false;
        if !b.mapped {
            let lblk = u32::try_from(n).map_err(|_| too_far(start))?;
            self.get_block(i, lblk, &mut b, get)?;
        }
        let partial = start < range.start || end > range.end;
        let mut content = None;
        if uptodate {
            b.uptodate = true;
        } else if !b.new && !b.uptodate && !b.delay && !b.unwritten && partial {
            let mut bytes = vec![0; block as usize];
            self.read_block(b.pblk, &mut bytes)?;
            content = Some(bytes);
            b.uptodate = true;
        }
        let Some(f) = i.cache.find_mut(index) else { return Ok(()) };
        let pos = f.pos();
        let slot = &mut f.data[(start - pos) as usize..(end - pos) as usize];
        if let Some(bytes) = content {
            slot.copy_from_slice(&bytes);
        } else if b.new && !uptodate && partial {
            let head = range.start.saturating_sub(start) as usize;
            let tail = (range.end.min(end) - start) as usize;
            slot[..head].fill(0);
            slot[tail..].fill(0);
        }
        f.buffers[at] = b;
        Ok(())
    }

    /// Find or make a place for a block.
    fn get_block(&mut self, i: &mut MemInode, lblk: u32, b: &mut Buffer, get: Get) -> Result<()> {
        let m = match get {
            Get::Delayed => self.map_delayed(i, lblk, 1)?,
            Get::Written => self.map_create(i, lblk, 1, Create::default())?,
            Get::Unwritten => self.map_create(i, lblk, 1, Create { unwritten: true, ..Create::default() })?,
        };
        b.place(&m.e, m.new);
        Ok(())
    }

    /// The end of a delayed write into one folio.
    #[doc(alias = "ext4_da_do_write_end")]
    pub(super) fn end_delayed(&mut self, i: &mut MemInode, index: u64, range: Range<u64>) -> Result<()> {
        let old = i.size;
        self.commit_write(i, index, &range);
        let mut moved = false;
        if range.end > old {
            i.size = range.end;
            let last = i.cache.find(index).map(|f| f.buffers[((range.end - 1 - f.pos()) / self.block_size()) as usize]);
            if last.is_some_and(|b| b.mapped && !b.delay && !b.unwritten) {
                moved = self.grow_disksize(i, range.end);
            }
        }
        if range.start > old {
            self.extended(i, old, range.start);
            self.zero_partial(i, old..range.start)?;
        }
        if moved || range.start > old {
            self.store(i)?;
        }
        Ok(())
    }

    /// The end of a write whose blocks are allocated.
    #[doc(alias = "ext4_write_end")]
    fn end_allocated(&mut self, i: &mut MemInode, index: u64, range: Range<u64>) -> Result<()> {
        let old = i.size;
        if self.journals_data(i) {
            self.journal_folio(i, index, &range)?;
        } else {
            self.commit_write(i, index, &range);
        }
        i.size = i.size.max(range.end);
        self.grow_disksize(i, range.end);
        if range.start > old {
            self.extended(i, old, range.start);
            self.zero_partial(i, old..range.start)?;
        }
        self.store(i)
    }

    /// The blocks of `range` hold what was written: dirty and known.
    #[doc(alias = "block_write_end")]
    pub(super) fn commit_write(&self, i: &mut MemInode, index: u64, range: &Range<u64>) {
        let bits = self.block_bits();
        let Some(f) = i.cache.find_mut(index) else { return };
        let at = f.pos();
        f.written(&((range.start - at) as usize..(range.end - at) as usize), bits);
    }

    /// Put the blocks of `range` into the journal.
    #[doc(alias = "ext4_journalled_write_end")]
    pub(super) fn journal_folio(&mut self, i: &mut MemInode, index: u64, range: &Range<u64>) -> Result<()> {
        let (bits, block) = (self.block_bits(), self.block_size());
        for n in range.start >> bits..=(range.end - 1) >> bits {
            let Some(f) = i.cache.find_mut(index) else { return Ok(()) };
            let at = (n * block - f.pos()) as usize;
            let b = &mut f.buffers[at / block as usize];
            (b.uptodate, b.new) = (true, false);
            let (pblk, bytes) = (b.pblk, f.data[at..at + block as usize].to_vec());
            f.uptodate |= f.buffers.iter().all(|b| b.uptodate);
            self.write_block(true, pblk, &bytes)?;
        }
        i.datasync_tid = Some(self.journal.running());
        Ok(())
    }

    /// What lies between the old end and a new one becomes part of the file: in a dirty folio it must be zeros. Folios whose
    /// content is in the journal do not show whether they were stored to.
    #[doc(alias = "pagecache_isize_extended")]
    pub(super) fn extended(&self, i: &mut MemInode, from: u64, to: u64) {
        let block = self.block_size();
        let up = from.next_multiple_of(block);
        if from >= to || block >= PAGE || up >= to || up.is_multiple_of(PAGE) {
            return;
        }
        let journalled = self.journals_data(i);
        if let Some(f) = i.cache.find_mut(from >> PAGE_BITS).filter(|f| f.dirty || journalled) {
            let end = (to.min(f.end()) - f.pos()) as usize;
            let start = (from - f.pos()) as usize;
            f.data[start..end].fill(0);
        }
    }

    fn make_folio_writable(&mut self, i: &mut MemInode, page: u64) -> Result<()> {
        if page << PAGE_BITS >= i.size {
            return Err(too_far(page << PAGE_BITS));
        }
        let f = i.cache.grab(page, 0);
        let (index, pos, size) = (f.index, f.pos(), f.size());
        self.read_folio(i, index)?;
        let end = pos + size.min(i.size - pos);
        let journalled = self.journals_data(i);
        let delayed = self.options.delalloc && !journalled && !self.must_allocate(i)?;
        let get = match delayed {
            true => Get::Delayed,
            false if self.allocates_unwritten(i) => Get::Unwritten,
            false => Get::Written,
        };
        let blocks = (end - pos).div_ceil(self.block_size()) as usize;
        let ready =
            i.cache.find(index).is_some_and(|f| !f.buffers.is_empty() && f.buffers[..blocks].iter().all(|b| b.mapped));
        if delayed || journalled || !ready {
            self.prepare(i, index, pos..end, get)?;
            if journalled {
                return self.journal_folio(i, index, &(pos..end));
            }
            self.commit_write(i, index, &(pos..end));
        }
        if let Some(f) = i.cache.find_mut(index) {
            f.dirty_all();
        }
        Ok(())
    }
}

/// After a failure: new blocks before `range.end` that hold nothing yet become dirty zeros.
#[doc(alias = "folio_zero_new_buffers")]
fn zero_new(i: &mut MemInode, index: u64, range: Range<u64>, block: u64) {
    let Some(f) = i.cache.find_mut(index) else { return };
    let (pos, mut dirty) = (f.pos(), false);
    for n in 0..f.buffers.len() {
        let (start, end) = (pos + n as u64 * block, pos + (n as u64 + 1) * block);
        let b = &mut f.buffers[n];
        if !b.new || end <= range.start || start >= range.end {
            continue;
        }
        if !f.uptodate {
            let (from, to) = (start.max(range.start), end.min(range.end));
            f.data[(from - pos) as usize..(to - pos) as usize].fill(0);
            b.uptodate = true;
        }
        (b.new, b.dirty, dirty) = (false, true, true);
    }
    f.dirty |= dirty;
}

/// A byte that no file can have, or (for mappings) that this one has not.
pub(super) fn too_far(at: u64) -> Error {
    Error::InvalidArgument { name: "offset", value: at.to_string(), allowed: "inside the file" }
}
