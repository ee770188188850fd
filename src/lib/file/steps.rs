//! Operations in pieces: what happens under one lock, as a call of its own. For the explorer of interleavings
//! ([`crate::testing::interleave`]), which orders the pieces of several tasks; each runs the code that the whole operations
//! run. A piece ends where the kernel would let go of a lock, or take one.

use std::ops::Range;

use super::event::Tracer;
use super::extent_status::EsEntry;
use super::folio::PAGE_BITS;
use super::iomap::Mapping;
use super::map::{Create, Recheck};
use super::mount::Mount;
use super::path::Bytes;
use super::writeback::Pass;
use crate::error::Result;
use crate::units::Ino;

/// Folios that writeback has locked, and what it will map, or has mapped.
#[derive(Debug)]
pub struct Writeback(Pass, Range<u64>, Vec<EsEntry>);

/// A mapping that a write on the iomap path holds between its steps.
#[derive(Clone, Copy, Debug)]
pub struct Held(Mapping);

impl Held {
    /// One beyond its last byte.
    pub fn end(&self, m: &Mount) -> u64 {
        u64::from(self.0.e.end()) << m.block_bits()
    }
}

impl Writeback {
    /// Whether there is nothing more to be mapped.
    pub const fn is_done(&self) -> bool {
        self.0.is_done()
    }
}

impl Mount {
    /// What decides how a file goes on from here, as text: all of it that is in memory, and what space and places there are.
    pub fn moment(&self, ino: Ino) -> String {
        let i = self.inodes.get(&ino);
        format!("{:?} {i:?} {:?} {:?}", i.map(|i| i.dd.es().seq()), self.space, self.fs.alloc)
    }

    /// A folio is locked for a page fault or a write: it is there, with its blocks. `false` where a fault finds it beyond the end.
    pub fn begin_folio(&mut self, ino: Ino, page: u64, fault: bool) -> Result<bool> {
        self.on(ino, |m, i| {
            if fault && page << PAGE_BITS >= i.size {
                return Ok(false);
            }
            let bits = m.block_bits();
            let f = i.cache.grab(page, 0);
            f.create_buffers(bits);
            let index = f.index;
            if fault {
                m.read_folio(i, index)?;
            }
            Ok(true)
        })
    }

    /// The first look at a block, which takes no lock that keeps others from changing it afterwards. `None` where the page
    /// cache knows the block's place.
    pub fn look_up_block(&mut self, ino: Ino, lblk: u32) -> Result<Option<EsEntry>> {
        self.on(ino, |m, i| {
            let pos = u64::from(lblk) << m.block_bits();
            let known = i
                .cache
                .find(pos >> PAGE_BITS)
                .is_some_and(|f| f.buffers.get(((pos - f.pos()) >> m.block_bits()) as usize).is_some_and(|b| b.mapped));
            if known { Ok(None) } else { m.query(i, lblk, 1).map(Some) }
        })
    }

    /// The second half, under the exclusive lock: what was found a hole becomes delayed; `recheck` is the second look.
    pub fn reserve_block(&mut self, ino: Ino, found: EsEntry, recheck: bool) -> Result<()> {
        self.on(ino, |m, i| {
            let lblk = found.lblk.0;
            let mapped = if found.status == super::extent_status::EsStatus::Hole {
                m.insert_delayed(i, found, if recheck { Recheck::Yes } else { Recheck::No })?
            } else {
                super::map::Mapped { e: found, new: false }
            };
            let (bits, pos) = (m.block_bits(), u64::from(lblk) << m.block_bits());
            if let Some(f) = i.cache.find_mut(pos >> PAGE_BITS) {
                let at = ((pos - f.pos()) >> bits) as usize;
                if let Some(b) = f.buffers.get_mut(at) {
                    b.place(&mapped.e, mapped.new);
                }
            }
            Ok(())
        })
    }

    /// The first look of the iomap path at what the bytes `range` are, as far as one answer reaches. No lock either.
    pub fn look_up_range(&mut self, ino: Ino, range: &Range<u64>) -> Result<EsEntry> {
        self.on(ino, |m, i| {
            let (first, end) = (m.block_of(range.start), m.block_up(range.end));
            m.query(i, first, end - first)
        })
    }

    /// The second half, under the exclusive lock; the mapping carries the validity cookie of this moment.
    pub fn reserve_range(&mut self, ino: Ino, found: EsEntry, recheck: bool) -> Result<Held> {
        self.on(ino, |m, i| {
            let (mut e, mut new) = (found, false);
            if found.status == super::extent_status::EsStatus::Hole {
                let got = m.insert_delayed(i, found, if recheck { Recheck::Yes } else { Recheck::No })?;
                (e, new) = (got.e, got.new);
            }
            Ok(Held(Mapping { e, new, cookie: i.dd.es().cookie() }))
        })
    }

    /// The folio is locked: copy into it what the mapping holds of `range`, where it still holds. Returns the bytes taken.
    pub fn copy_range(&mut self, ino: Ino, range: &Range<u64>, held: &Held) -> Result<u64> {
        self.on(ino, |m, i| {
            let bytes = vec![0x5a; (range.end - range.start) as usize];
            let taken = m.copy_mapped(i, range.start, &mut Bytes(&bytes), range.clone(), &held.0)?;
            Ok(taken as u64)
        })
    }

    /// The store of a fault, and the folio is let go of, dirty.
    pub fn end_fault(&mut self, ino: Ino, page: u64) -> Result<()> {
        self.on(ino, |m, i| {
            let iomap = m.uses_iomap(i).0;
            let Some(f) = i.cache.find(page) else { return Ok(()) };
            let (index, range) = (f.index, f.pos()..f.end().min(i.size));
            if range.is_empty() {
                return Ok(());
            }
            m.mark_dirty(i, index, &range);
            if let Some(f) = i.cache.find_mut(index).filter(|_| !iomap) {
                f.dirty_all();
            }
            Ok(())
        })
    }

    /// The end of a write into one folio: its blocks are dirty, the size follows.
    pub fn end_write(&mut self, ino: Ino, range: Range<u64>) -> Result<()> {
        self.on(ino, |m, i| {
            let Some(index) = i.cache.find(range.start >> PAGE_BITS).map(|f| f.index) else { return Ok(()) };
            m.end_delayed(i, index, range)
        })
    }

    /// fallocate's share of one lock: blocks from `first` on are allocated, unwritten. Returns where to go on.
    pub fn allocate_some(&mut self, ino: Ino, first: u32, end: u32) -> Result<u32> {
        self.on(ino, |m, i| {
            let how = Create { unwritten: true, ..Create::default() };
            let done = m.map_create(i, first, end - first, how)?.e.end();
            m.store_data(i)?;
            Ok(done)
        })
    }

    /// The size that fallocate leaves.
    pub fn extend_to(&mut self, ino: Ino, size: u64) -> Result<()> {
        self.on(ino, |m, i| {
            i.size = i.size.max(size);
            m.grow_disksize(i, size);
            m.store_data(i)
        })
    }

    /// A smaller size takes effect.
    pub fn shrink_to(&mut self, ino: Ino, size: u64) -> Result<()> {
        self.on(ino, |m, i| {
            (i.size, i.disksize) = (size, size);
            m.store_data(i)
        })
    }

    /// The pages of a range of bytes go; those at its edges are cleared in part.
    pub fn drop_range(&mut self, ino: Ino, range: Range<u64>) -> Result<()> {
        self.on(ino, |_, i| {
            i.cache.truncate(range.start, range.end, i.size);
            Ok(())
        })
    }

    /// What lies behind the end is freed.
    pub fn cut_end(&mut self, ino: Ino) -> Result<()> {
        self.on(ino, Self::cut)
    }

    /// Blocks are freed, and known as a hole.
    pub fn free_blocks(&mut self, ino: Ino, blocks: Range<u32>) -> Result<()> {
        self.on(ino, |m, i| {
            m.remove_space(i, blocks.start, blocks.end.into())?;
            m.note_hole(i, blocks.start, blocks.end);
            m.store_data(i)
        })
    }

    /// Writeback locks dirty folios of a range of bytes and gathers what it will map.
    pub fn gather_dirty(&mut self, ino: Ino, range: Range<u64>) -> Result<Writeback> {
        self.on(ino, |m, i| {
            let mut pass = Pass::new(&range);
            if m.uses_iomap(i).0 {
                return Ok(Writeback(pass, range, Vec::new()));
            }
            m.gather(i, &mut pass)?;
            pass.map_more();
            m.gather(i, &mut pass)?;
            m.flush_bio(i)?;
            Ok(Writeback(pass, range, Vec::new()))
        })
    }

    /// Writeback maps what it gathered, writes it, and lets go of the folios.
    pub fn map_dirty(&mut self, ino: Ino, w: &mut Writeback) -> Result<()> {
        self.on(ino, |m, i| {
            if m.uses_iomap(i).0 {
                let (mut at, last) = (w.1.start >> PAGE_BITS, (w.1.end - 1) >> PAGE_BITS);
                while let Some(e) = m.map_next(i, &mut at, last)? {
                    m.write_cached(i, e.lblk.0..e.end(), e.pblk)?;
                    w.2.push(e);
                }
                return Ok(());
            }
            let done = m.map_gathered(i, &mut w.0);
            m.flush_bio(i)?;
            done
        })
    }

    /// The end of I/O: what was mapped unwritten becomes written.
    pub fn finish_io(&mut self, ino: Ino, w: &mut Writeback) -> Result<()> {
        self.on(ino, |m, i| {
            m.end_all_io(i, &mut w.0)?;
            std::mem::take(&mut w.2).iter().try_for_each(|e| m.end_run(i, e))
        })
    }

    /// Check what must hold at every moment, tasks in the middle of something or not: reservations are those that delayed
    /// blocks need, the status tree says what the map says, nothing is promised twice. The first violation as text.
    pub fn check_moment(&self) -> Result<Option<String>> {
        let mut reserved = 0;
        for i in self.inodes.values() {
            reserved += u64::from(i.dd.reserved());
            if let Some(wrong) = self.check_reservations(i)? {
                return Ok(Some(wrong));
            }
        }
        let dirty = self.space.dirty.exact();
        Ok((reserved != dirty)
            .then(|| format!("files hold {reserved} reserved clusters, the filesystem counts {dirty}")))
    }

    /// Tell what happens to all files from now on.
    pub fn trace_all(&mut self, tracer: &Tracer) {
        self.tracer = tracer.clone();
        for i in self.inodes.values_mut() {
            i.dd.trace(i.o.ino, tracer.clone());
        }
    }
}
