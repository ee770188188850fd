//! Direct writes: around the page cache, straight to the device. Kernel name: `ext4_dio_write_iter`. Offsets in bytes.
//!
//! What is dirty in the range is written back and dropped first. Below the end of the file blocks are allocated unwritten
//! and converted when the data is there; behind it, they are allocated written. The size moves last.

use super::extent_status::EsStatus;
use super::folio::PAGE_BITS;
use super::inode::MemInode;
use super::map::{Create, Mapped};
use super::mount::{Mount, is_full};
use super::path::Bytes;
use crate::error::{Error, Result};
use crate::units::Ino;

/// What offsets and lengths are multiples of.
const SECTOR: u64 = 512;

impl Mount {
    /// Write at byte `pos` around the page cache; returns the bytes written.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for what is not whole sectors; [`Error::NoSpace`].
    pub fn write_direct(&mut self, ino: Ino, pos: u64, data: &[u8]) -> Result<usize> {
        self.changing(ino, |m, i| {
            if !pos.is_multiple_of(SECTOR) || !(data.len() as u64).is_multiple_of(SECTOR) || data.is_empty() {
                let value = pos.to_string();
                return Err(Error::InvalidArgument { name: "range", value, allowed: "whole sectors" });
            }
            m.leave_inline(i)?;
            m.store(i)?;
            let range = pos..pos + data.len() as u64;
            if m.journals_data(i) {
                let n = m.path_of(i).write(m, i, pos, &mut Bytes(data))?;
                m.write_back_range(i, range.clone())?;
                i.cache.drop_clean(pos >> PAGE_BITS, (range.end - 1) >> PAGE_BITS);
                return Ok(n);
            }
            m.write_back_range(i, range.clone())?;
            i.cache.drop_clean(pos >> PAGE_BITS, (range.end - 1) >> PAGE_BITS);
            let grows = range.end > i.size;
            // A commit in the middle must not leave written blocks behind the end.
            let orphan = grows && !i.unlinked;
            if orphan {
                m.join_orphans(i)?;
            }
            let done = m.write_around(i, pos, data);
            if done.is_err() && grows {
                i.cache.truncate(i.size, u64::MAX, i.size);
                m.cut(i)?;
            }
            i.cache.drop_clean(pos >> PAGE_BITS, (range.end - 1) >> PAGE_BITS);
            if done.is_ok() && (grows || range.end > i.disksize) {
                m.extended(i, i.size, pos);
                i.size = i.size.max(range.end);
                m.grow_disksize(i, range.end);
                m.store(i)?;
            }
            if orphan {
                m.leave_orphans(i)?;
                i.o.inode.update(|c| c.dtime.set(0));
                m.store(i)?;
            }
            done.map(|()| data.len())
        })
    }

    fn write_around(&mut self, i: &mut MemInode, pos: u64, data: &[u8]) -> Result<()> {
        let (bits, block) = (self.block_bits(), self.block_size());
        let end = pos + data.len() as u64;
        let mut convert = None;
        let mut at = pos;
        while at < end {
            let lblk = self.block_of(at);
            let m = self.map_direct(i, lblk, self.block_up(end) - lblk, end)?;
            let stop = (u64::from(m.e.end()) << bits).min(end);
            let fresh = m.new || m.e.status == EsStatus::Unwritten;
            while at < stop {
                let n = at >> bits;
                let (start, upto) = (n * block, ((n + 1) * block).min(stop));
                let pblk = m.e.pblk.saturating_add(n - u64::from(m.e.lblk.0));
                let mut bytes = vec![0; block as usize];
                if !fresh && (at > start || upto < start + block) {
                    self.read_block(pblk, &mut bytes)?;
                }
                bytes[(at - start) as usize..(upto - start) as usize]
                    .copy_from_slice(&data[(at - pos) as usize..(upto - pos) as usize]);
                self.write_block(false, pblk, &bytes)?;
                i.exposed.remove(&(n as u32));
                at = upto;
            }
            if m.e.status == EsStatus::Unwritten {
                convert = Some((self.block_of(pos), u64::from(self.block_up(end))));
            }
        }
        if let Some((first, last)) = convert {
            self.convert(i, first, last, false)?;
        }
        Ok(())
    }

    /// A place for what is written directly, from `lblk` on; `end` is where the write ends.
    #[doc(alias = "ext4_iomap_begin")]
    fn map_direct(&mut self, i: &mut MemInode, lblk: u32, len: u32, end: u64) -> Result<Mapped> {
        if end <= i.size {
            let e = self.query(i, lblk, len)?;
            if e.status == EsStatus::Written {
                return Ok(Mapped { e, new: false });
            }
        }
        let unwritten = u64::from(lblk) << self.block_bits() < i.size && self.is_extents(i);
        let how = Create { unwritten, pre_io: unwritten, ..Create::default() };
        let mut tries = 0;
        loop {
            match self.map_create(i, lblk, len, how) {
                Err(e) if is_full(&e) && self.should_retry(i, &mut tries)? => {}
                done => return done,
            }
        }
    }
}
