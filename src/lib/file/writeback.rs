//! Writeback with buffer heads, and the end of its I/O. Kernel names: `ext4_do_writepages`, `mpage_map_and_submit_extent`,
//! `ext4_end_io_end`. Positions in bytes, extents in logical blocks.
//!
//! Folios that need no mapping are written first. Then, extent by extent: the contiguous blocks that need one are gathered
//! over folios, mapped in one go (the allocator may give less), the folios that are mapped all over are written, and
//! `i_disksize` moves to the end of the last one. Blocks that were allocated unwritten are converted when their data is
//! on the device.

use std::io::IoSlice;
use std::ops::Range;

use super::event::{Event, Task};
use super::extent_status::EsStatus;
use super::folio::{Buffer, PAGE, PAGE_BITS};
use super::inode::{Lost, MemInode};
use super::map::Create;
use super::mount::{Mount, is_full};
use crate::error::{Error, Result};
use crate::units::Fsblk;

/// Most blocks of one extent.
#[doc(alias = "MAX_WRITEPAGES_EXTENT_LEN")]
const MAX_EXTENT: u32 = 2048;

/// Most bytes of one write to the device.
#[doc(alias = "BIO_MAX_VECS")]
const MAX_BIO: u64 = 1 << 20;

/// Blocks to be mapped together; they are all delayed, or all unwritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Gathered {
    lblk: u32,
    len: u32,
    delay: bool,
    unwritten: bool,
}

/// A pass over dirty folios.
#[derive(Debug)]
#[doc(alias = "mpage_da_data")]
pub(super) struct Pass {
    /// Where to go on.
    pos: u64,
    /// Last page.
    last: u64,
    /// Where the next folio must begin to be gathered with what is.
    next_pos: u64,
    /// Blocks may be mapped: a transaction is at hand.
    may_map: bool,
    /// Everything up to the end of the range or of the file has been looked at.
    finished: bool,
    map: Gathered,
    /// Mapped unwritten: to be converted when the data is on the device.
    convert: Vec<Range<u32>>,
}

impl Pass {
    /// One over the folios that meet `range`, which is not empty.
    pub(super) fn new(range: &Range<u64>) -> Self {
        Self {
            pos: range.start & !(PAGE - 1),
            last: (range.end - 1) >> PAGE_BITS,
            next_pos: 0,
            may_map: false,
            finished: false,
            map: Gathered::default(),
            convert: Vec::new(),
        }
    }

    /// A transaction is at hand; gather anew.
    pub(super) fn map_more(&mut self) {
        (self.may_map, self.map) = (true, Gathered::default());
    }

    /// Whether all has been looked at, and nothing is left to be mapped.
    pub(super) const fn is_done(&self) -> bool {
        self.finished && self.map.len == 0
    }

    /// Whether the block can be part of what is gathered, or needs nothing while nothing is gathered.
    #[doc(alias = "mpage_add_bh_to_extent")]
    fn add(&mut self, lblk: u32, b: &Buffer) -> bool {
        if !b.needs_mapping() {
            return self.map.len == 0;
        }
        if self.map.len == 0 {
            if !self.may_map {
                return false;
            }
            self.map = Gathered { lblk, len: 1, delay: b.delay, unwritten: b.unwritten };
            return true;
        }
        let more = self.map.len < MAX_EXTENT
            && lblk == self.map.lblk + self.map.len
            && (b.delay, b.unwritten) == (self.map.delay, self.map.unwritten);
        self.map.len += u32::from(more);
        more
    }
}

/// Whether byte `at`, which goes to block `pblk`, can be written with what `run` holds.
fn continues(run: &(Range<u64>, Fsblk), at: u64, pblk: Fsblk, block: u64) -> bool {
    let (bytes, first) = run;
    let len = bytes.end - bytes.start;
    bytes.end == at && first.0 + len / block == pblk.0 && len < MAX_BIO
}

impl Mount {
    /// Write back the dirty folios that meet `range`.
    #[doc(alias = "ext4_do_writepages")]
    pub(super) fn write_pages(&mut self, i: &mut MemInode, range: Range<u64>) -> Result<()> {
        self.tracer.emit(i.o.ino, || Event::WritePages { start: range.start, end: range.end.saturating_sub(1) });
        if range.is_empty() || !i.cache.iter().any(|f| f.dirty) {
            return Ok(());
        }
        if self.journals_data(i) {
            return self.write_journalled(i);
        }
        let mut pass = Pass::new(&range);
        let done = self.write_pass(i, &mut pass);
        let sent = self.flush_bio(i);
        if let (Ok(()), Some(ended)) = (&done, &mut self.ended) {
            ended.extend(pass.convert.drain(..).map(|r| (i.o.ino, r)));
        }
        let ended = self.end_all_io(i, &mut pass);
        done.and(sent).and(ended)
    }

    /// All rounds of a pass.
    fn write_pass(&mut self, i: &mut MemInode, pass: &mut Pass) -> Result<()> {
        self.gather(i, pass)?;
        self.flush_bio(i)?;
        let mut commits = 0;
        while !pass.finished {
            self.make_room(Some(i))?;
            pass.map_more();
            self.gather(i, pass)?;
            let done = self.map_gathered(i, pass);
            self.flush_bio(i)?;
            match done {
                Err(e) if is_full(&e) && self.space.free.exact() > 0 && commits < 3 && self.may_commit() => {
                    // Before a commit has gone through, what was submitted has ended.
                    self.end_submitted()?;
                    self.end_all_io(i, pass)?;
                    // What was freed can be handed out after a commit; what was gathered is gathered anew.
                    commits += 1;
                    pass.finished = false;
                    self.commit(Some(i))?;
                }
                Err(e) if is_full(&e) => {
                    self.end_all_io(i, pass)?;
                    // Nothing is left: what was promised cannot be kept. The data is lost, the reservation is not.
                    let lost = pass.map;
                    let bits = self.block_bits();
                    let (from, to) = (u64::from(lost.lblk) << bits, u64::from(lost.lblk + lost.len) << bits);
                    i.dd.remove(lost.lblk..lost.lblk + lost.len, &mut self.space);
                    i.cache.truncate(from, to, i.size);
                    i.lost = Some(Lost::NoSpace);
                    return Err(e);
                }
                done => {
                    done?;
                    commits = 0;
                }
            }
        }
        Ok(())
    }

    /// The data that was submitted is on the device: what was allocated unwritten for it becomes written.
    #[doc(alias = "ext4_end_io_rsv_work")]
    pub(super) fn end_all_io(&mut self, i: &mut MemInode, pass: &mut Pass) -> Result<()> {
        let task = self.tracer.act_as(Task::EndIo);
        let done = std::mem::take(&mut pass.convert).into_iter().try_for_each(|r| self.end_io(i, r));
        self.tracer.act_as(task);
        done
    }

    /// Map and write what was gathered.
    pub(super) fn map_gathered(&mut self, i: &mut MemInode, pass: &mut Pass) -> Result<()> {
        if pass.map.len > 0 { self.map_and_submit(i, pass) } else { Ok(()) }
    }

    /// Data that goes through the journal is at home in it: a commit makes it durable.
    fn write_journalled(&mut self, i: &mut MemInode) -> Result<()> {
        if i.datasync_tid == Some(self.journal.running()) {
            self.commit(Some(i))?;
        }
        for f in i.cache.iter_mut() {
            f.dirty = false;
            f.buffers.iter_mut().for_each(|b| b.dirty = false);
        }
        Ok(())
    }

    /// Write of `range` what needs no mapping; the rest stays dirty.
    pub(super) fn write_mapped(&mut self, i: &mut MemInode, range: Range<u64>) -> Result<()> {
        let (mut at, last) = (range.start >> PAGE_BITS, (range.end - 1) >> PAGE_BITS);
        while let Some(index) = i.cache.next_dirty(at, last) {
            let Some(f) = i.cache.find(index) else { break };
            at = f.next_index();
            if f.buffers.iter().any(Buffer::is_writable) {
                self.submit(i, index)?;
            }
        }
        self.flush_bio(i)
    }

    /// Write the dirty folios that meet `range` as far as their blocks have a place and hold data already. The rest stays dirty; a
    /// folio without buffers gets them by look-up, which allocates nothing.
    #[doc(alias = "ext4_writepage")]
    pub(super) fn write_placed(&mut self, i: &mut MemInode, range: &Range<u64>) -> Result<()> {
        let (bits, limit, iomap) = (self.block_bits(), self.block_up(i.size), self.uses_iomap(i).0);
        let (mut at, last) = (range.start >> PAGE_BITS, (range.end - 1) >> PAGE_BITS);
        while let Some(index) = i.cache.next_dirty(at, last) {
            let Some(f) = i.cache.find_mut(index) else { break };
            at = f.next_index();
            let (first, look_up) = ((f.pos() >> bits) as u32, iomap || f.buffers.is_empty());
            f.create_buffers(bits);
            let count = f.buffers.len() as u32;
            for n in (0..count).take_while(|n| look_up && first + n < limit) {
                let e = self.query(i, first + n, 1)?;
                let b = i.cache.find_mut(index).and_then(|f| f.buffers.get_mut(n as usize)).filter(|b| b.dirty);
                match b {
                    Some(_) if iomap && e.status == EsStatus::Written => {
                        self.write_cached(i, first + n..first + n + 1, e.pblk)?;
                    }
                    Some(b) if !iomap && e.status != EsStatus::Hole => b.place(&e, false),
                    _ => {}
                }
            }
            if !iomap && i.cache.find(index).is_some_and(|f| f.buffers.iter().any(Buffer::is_writable)) {
                self.submit(i, index)?;
            }
        }
        self.flush_bio(i)
    }

    /// Walk dirty folios: write those that need no mapping while nothing is gathered, then gather what does.
    #[doc(alias = "mpage_prepare_extent_to_map")]
    pub(super) fn gather(&mut self, i: &mut MemInode, pass: &mut Pass) -> Result<()> {
        let mut at = pass.pos >> PAGE_BITS;
        while let Some(index) = i.cache.next_dirty(at, pass.last) {
            let Some(f) = i.cache.find(index) else { break };
            let (pos, end) = (f.pos(), f.end());
            if pass.map.len > 0 && pass.next_pos != pos {
                return Ok(());
            }
            if pass.map.len == 0 {
                pass.pos = pos;
            }
            pass.next_pos = end;
            at = f.next_index();
            if f.buffers.is_empty() {
                if let Some(f) = i.cache.find_mut(index) {
                    f.dirty = false;
                }
                continue;
            }
            if !self.look(i, pass, index, 0)? {
                return Ok(());
            }
        }
        pass.finished = true;
        Ok(())
    }

    /// Look at the blocks of a folio from the `from`th on; `false` where gathering ends.
    #[doc(alias = "mpage_process_page_bufs")]
    fn look(&mut self, i: &mut MemInode, pass: &mut Pass, index: u64, from: usize) -> Result<bool> {
        let bits = self.block_bits();
        let blocks = self.block_up(i.size);
        let Some(f) = i.cache.find(index) else { return Ok(true) };
        let mut lblk = self.block_of(f.pos() + ((from as u64) << bits));
        for b in f.buffers.get(from..).unwrap_or_default() {
            if lblk >= blocks || !pass.add(lblk, b) {
                if pass.map.len > 0 || !pass.may_map {
                    return Ok(false);
                }
                break;
            }
            lblk += 1;
        }
        if pass.map.len == 0 {
            self.submit(i, index)?;
            pass.pos = i.cache.find(index).map_or(pass.pos, |f| f.end().max(pass.pos));
        }
        if lblk >= blocks {
            pass.finished = true;
            return Ok(false);
        }
        Ok(true)
    }

    /// Map what is gathered, piece by piece, and write the folios that have no block left to map.
    #[doc(alias = "mpage_map_and_submit_extent")]
    fn map_and_submit(&mut self, i: &mut MemInode, pass: &mut Pass) -> Result<()> {
        let unwritten = self.allocates_unwritten(i);
        let mut progress = false;
        let mut done = Ok(());
        while pass.map.len > 0 {
            let (pre_io, writeback) = (unwritten, pass.map.delay);
            let how = Create { unwritten, pre_io, writeback, submits: true, ..Create::default() };
            let Gathered { lblk, len, delay, unwritten } = pass.map;
            self.tracer.emit(i.o.ino, || Event::DaWritePagesExtent { lblk, len, delayed: delay, unwritten });
            match self.map_create(i, pass.map.lblk, pass.map.len, how) {
                Ok(m) => {
                    progress = true;
                    if m.e.status == EsStatus::Unwritten {
                        pass.convert.push(m.e.lblk.0..m.e.end());
                    }
                    self.submit_mapped(i, pass, m.e.lblk.0..m.e.end(), m.e.pblk.0)?;
                }
                Err(e) => {
                    if progress {
                        self.submit_partly(i, pass)?;
                    }
                    let again = is_full(&e) && progress && self.space.free.exact() > 0;
                    pass.finished &= !again;
                    done = if again { Ok(()) } else { Err(e) };
                    break;
                }
            }
        }
        let end = pass.pos.min(i.size);
        if self.grow_disksize(i, end) {
            self.store(i)?;
        }
        done
    }

    /// The blocks `got` have places: tell the buffers, write full folios, and find what to map next in a folio that is not.
    #[doc(alias = "mpage_map_and_submit_buffers")]
    fn submit_mapped(&mut self, i: &mut MemInode, pass: &mut Pass, got: Range<u32>, first: u64) -> Result<()> {
        let bits = self.block_bits();
        // The allocator gave less: the rest is gathered anew.
        pass.finished &= got.end >= pass.map.lblk + pass.map.len;
        let last = (u64::from(got.end) << bits).div_ceil(PAGE);
        let mut at = (u64::from(got.start) << bits) >> PAGE_BITS;
        while at < last {
            let Some(f) = i.cache.find_mut(at) else { break };
            let (index, next, start) = (f.index, f.next_index(), (f.pos() >> bits) as u32);
            let count = f.buffers.len() as u32;
            for (n, b) in (start..).zip(&mut f.buffers).filter(|(n, _)| got.contains(n)) {
                if b.delay {
                    b.pblk = Fsblk(first + u64::from(n - got.start));
                }
                (b.delay, b.unwritten) = (false, false);
            }
            at = next;
            if start + count > got.end {
                // Blocks of this folio lie behind what was mapped.
                pass.map = Gathered::default();
                self.look(i, pass, index, (got.end - start) as usize)?;
                return Ok(());
            }
            self.submit(i, index)?;
            pass.pos = pass.pos.max(next << PAGE_BITS);
        }
        pass.map = Gathered::default();
        Ok(())
    }

    /// What was mapped ends inside a folio: its blocks go on their way without the rest. They will be converted, and the size is
    /// to cover them.
    #[doc(alias = "mpage_submit_partial_folio")]
    fn submit_partly(&mut self, i: &mut MemInode, pass: &mut Pass) -> Result<()> {
        let pos = u64::from(pass.map.lblk) << self.block_bits();
        match i.cache.find(pos >> PAGE_BITS).map(|f| (f.index, f.pos())) {
            Some((index, start)) if start < pos => {
                pass.pos = pass.pos.max(pos);
                self.submit(i, index)
            }
            _ => Ok(()),
        }
    }

    /// Send the blocks of a folio that have a place on their way, neighbours together; the folio stays dirty where others do
    /// not. They are on the device after [`Mount::flush_bio`].
    #[doc(alias = "ext4_bio_write_folio")]
    fn submit(&mut self, i: &mut MemInode, index: u64) -> Result<()> {
        let block = self.block_size();
        let size = i.size;
        let Some(f) = i.cache.find_mut(index) else { return Ok(()) };
        let len = f.size().min(size.saturating_sub(f.pos()));
        f.data[len as usize..].fill(0);
        let pos = f.pos();
        let (mut keep, mut runs) = (false, Vec::<(Range<u64>, Fsblk)>::new());
        for (n, b) in f.buffers.iter_mut().enumerate() {
            let at = n as u64 * block;
            if at >= len {
                (b.dirty, b.uptodate) = (false, true);
                continue;
            }
            if !b.is_writable() {
                b.dirty &= b.mapped;
                keep |= b.dirty;
                continue;
            }
            b.dirty = false;
            let (at, end) = (pos + at, pos + at + block);
            match runs.last_mut().filter(|r| continues(r, at, b.pblk, block)) {
                Some((bytes, _)) => bytes.end = end,
                None => runs.push((at..end, b.pblk)),
            }
        }
        f.dirty = keep;
        for (bytes, pblk) in runs {
            if let Some((had, _)) = i.bio.as_mut().filter(|r| continues(r, bytes.start, pblk, block)) {
                had.end = bytes.end;
            } else {
                self.flush_bio(i)?;
                i.bio = Some((bytes, pblk));
            }
        }
        Ok(())
    }

    /// Write what is on its way.
    #[doc(alias = "ext4_io_submit")]
    pub(super) fn flush_bio(&mut self, i: &mut MemInode) -> Result<()> {
        match i.bio.take() {
            Some((bytes, pblk)) => self.write_bytes(i, &bytes, pblk),
            None => Ok(()),
        }
    }

    /// Write bytes of the page cache, whole blocks, from block `pblk` on, in one go.
    ///
    /// What the device does not take is noted in the file, for its next fsync; where the transaction is not this mount's own,
    /// it is an error at once.
    #[doc(alias = "mapping_set_error")]
    pub(super) fn write_bytes(&mut self, i: &mut MemInode, bytes: &Range<u64>, pblk: Fsblk) -> Result<()> {
        let folios = i.cache.following(bytes.start >> PAGE_BITS).take_while(|f| f.pos() < bytes.end);
        let parts: Vec<IoSlice<'_>> = folios
            .map(|f| (f, bytes.start.saturating_sub(f.pos()), bytes.end.min(f.end()) - f.pos()))
            .map(|(f, from, to)| IoSlice::new(&f.data[from as usize..to as usize]))
            .collect();
        let blocks = self.block_of(bytes.start)..self.block_up(bytes.end);
        if !i.exposed.is_empty() {
            i.exposed.retain(|b| !blocks.contains(b));
        }
        if !self.may_commit() {
            return self.journal.write_content(pblk, &parts);
        }
        let done = if self.journal.is_poisoned() {
            Err(Error::Poisoned)
        } else {
            self.journal.content_writer().write_parts(pblk, &parts)
        };
        match done {
            Err(e) if matches!(e.bare(), Error::Io { .. } | Error::Poisoned) => {
                i.lost = Some(Lost::Io(pblk.0 << self.block_bits(), bytes.end - bytes.start));
                i.failed.extend(blocks);
                for f in i.cache.meeting_mut(bytes.start >> PAGE_BITS, (bytes.end - 1) >> PAGE_BITS) {
                    f.error = true;
                }
                Ok(())
            }
            done => done,
        }
    }

    /// Write blocks that are dirty in the page cache to the device, from block `pblk` on, in one go; they are clean then. What
    /// lies behind the end of the file becomes zeros, in all of the last folio.
    #[doc(alias = "iomap_submit_ioend")]
    pub(super) fn write_cached(&mut self, i: &mut MemInode, blocks: Range<u32>, pblk: Fsblk) -> Result<()> {
        let bits = self.block_bits();
        let (start, end) = (u64::from(blocks.start) << bits, u64::from(blocks.end) << bits);
        let pages = (start >> PAGE_BITS, (end - 1) >> PAGE_BITS);
        if let Some(f) = i.cache.find_mut(pages.1)
            && i.size < f.end()
        {
            let at = f.pos();
            f.data[(i.size.max(at) - at) as usize..].fill(0);
        }
        self.write_either(i, &(start..end), pblk)?;
        for f in i.cache.meeting_mut(pages.0, pages.1) {
            let from = start.saturating_sub(f.pos()) >> bits;
            let to = (end.min(f.end()) - f.pos()) >> bits;
            let all = to - from == f.buffers.len() as u64;
            f.buffers[from as usize..to as usize].iter_mut().for_each(|b| b.dirty = false);
            f.dirty = !all && f.buffers.iter().any(|b| b.dirty);
        }
        Ok(())
    }

    /// The end of the I/O into blocks that are unwritten: they become written. Where some of it failed none does, and what is
    /// written to them next is to convert them.
    #[doc(alias = "ext4_end_io_end")]
    pub(super) fn end_io(&mut self, i: &mut MemInode, blocks: Range<u32>) -> Result<()> {
        if i.failed.range(blocks.clone()).next().is_none() {
            return self.convert(i, blocks.start, blocks.end.into(), false);
        }
        i.failed.retain(|b| !blocks.contains(b));
        let bits = self.block_bits();
        for lblk in blocks {
            let pos = u64::from(lblk) << bits;
            if let Some(f) = i.cache.find_mut(pos >> PAGE_BITS) {
                let at = ((pos - f.pos()) >> bits) as usize;
                f.error = true;
                if let Some(b) = f.buffers.get_mut(at) {
                    b.unwritten = true;
                }
            }
        }
        Ok(())
    }
}
