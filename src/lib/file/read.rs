//! Reading through the page cache. Offsets and sizes in bytes.

use super::extent_status::EsStatus;
use super::folio::{PAGE, PAGE_BITS};
use super::inode::MemInode;
use super::mount::Mount;
use crate::error::Result;
use crate::units::Ino;

impl Mount {
    /// Read from byte `pos`; what is behind the end of the file is not returned.
    #[doc(alias = "generic_file_read_iter")]
    pub fn read(&mut self, ino: Ino, pos: u64, len: usize) -> Result<Vec<u8>> {
        self.on(ino, |m, i| m.read_file(i, pos, len))
    }

    pub(super) fn read_file(&mut self, i: &mut MemInode, pos: u64, len: usize) -> Result<Vec<u8>> {
        let end = i.size.min(pos.saturating_add(len as u64));
        let mut out = Vec::with_capacity(end.saturating_sub(pos) as usize);
        // All missing pages of the request are read in single pages, not beyond the last page of the file.
        let last = pos.saturating_add(len as u64).div_ceil(PAGE).min(i.size.div_ceil(PAGE));
        if pos < end {
            for page in pos >> PAGE_BITS..last {
                let index = i.cache.grab(page, 0).index;
                self.read_folio(i, index)?;
            }
        }
        let mut at = pos;
        while at < end {
            let Some(f) = i.cache.find(at >> PAGE_BITS) else { break };
            let stop = f.end().min(end);
            out.extend_from_slice(&f.data[(at - f.pos()) as usize..(stop - f.pos()) as usize]);
            at = stop;
        }
        Ok(out)
    }

    /// Bring what is not known yet of a folio into it.
    #[doc(alias = "ext4_read_folio")]
    pub(super) fn read_folio(&self, i: &mut MemInode, index: u64) -> Result<()> {
        let (bits, block) = (self.block_bits(), self.block_size());
        let Some(f) = i.cache.find(index).filter(|f| !f.uptodate) else { return Ok(()) };
        if Self::is_inline(i) {
            return self.read_inline(i, index);
        }
        let (first, count, known) = (f.pos() >> bits, f.size() >> bits, f.buffers.clone());
        let limit = self.block_up(i.size);
        for n in 0..count {
            if known.get(n as usize).is_some_and(|b| b.uptodate) {
                continue;
            }
            let lblk = self.block_of((first + n) << bits);
            let mut bytes = vec![0; block as usize];
            // What lies behind the end is zeros, whatever is there.
            let e = if lblk < limit { Some(self.query(i, lblk, 1)?) } else { None };
            let written = e.filter(|e| e.status == EsStatus::Written);
            if let Some(e) = written {
                self.read_block(e.pblk, &mut bytes)?;
            }
            let Some(f) = i.cache.find_mut(index) else { return Ok(()) };
            f.data[(n * block) as usize..((n + 1) * block) as usize].copy_from_slice(&bytes);
            if let Some(b) = f.buffers.get_mut(n as usize) {
                b.uptodate = true;
                if let Some(e) = written {
                    (b.mapped, b.pblk) = (true, e.pblk);
                }
            }
        }
        if let Some(f) = i.cache.find_mut(index) {
            f.uptodate = true;
        }
        Ok(())
    }
}
