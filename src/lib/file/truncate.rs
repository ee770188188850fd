//! Sizes changed, and the partial blocks at the edges of what is changed. Kernel names: `ext4_setattr`, `ext4_truncate`,
//! `ext4_zero_partial_blocks`. Sizes and offsets in bytes.
//!
//! A smaller size takes effect on disk at once (`i_disksize` with it), even where it lies above delayed data that was never
//! written; so does a larger one.

use std::ops::Range;

use super::event::Event;
use super::extent_status::EsStatus;
use super::folio::PAGE_BITS;
use super::inode::MemInode;
use super::mount::Mount;
use crate::error::Result;
use crate::units::Ino;

/// One beyond the last logical block.
const LBLK_END: u64 = 1 << 32;

impl Mount {
    /// Set a file's size.
    ///
    /// # Errors
    /// Those of changing the filesystem.
    #[doc(alias = "ext4_setattr")]
    pub fn truncate(&mut self, ino: Ino, size: u64) -> Result<()> {
        self.will_change(ino);
        self.on(ino, |m, i| m.set_size(i, size))
    }

    pub(super) fn set_size(&mut self, i: &mut MemInode, size: u64) -> Result<()> {
        let old = i.size;
        if Self::is_inline(i) && self.set_inline_size(i, size)? {
            return Ok(());
        }
        if size != old {
            if size > old && !old.is_multiple_of(self.block_size()) {
                self.zero_to_block_end(i, old)?;
            }
            (i.size, i.disksize) = (size, size);
            self.store_data(i)?;
            if size > old {
                self.extended(i, old, size);
            }
        }
        i.cache.truncate(size, u64::MAX, size);
        if size <= old {
            self.cut(i)?;
        }
        Ok(())
    }

    /// Free all behind the end of the file, allocated or reserved, and clear the rest of its last block.
    #[doc(alias = "ext4_truncate")]
    pub(super) fn cut(&mut self, i: &mut MemInode) -> Result<()> {
        let cluster = self.block_size() << self.fs.volume.geometry().cluster_bits;
        let block = self.fs.volume.geometry().block_size;
        let sectors = || (i.o.inode.allocated_bytes(block) + u64::from(i.dd.reserved()) * cluster) / 512;
        self.tracer.emit(i.o.ino, || Event::Truncate { sectors: sectors() });
        if i.size == 0 && self.options.auto_da_alloc {
            i.flush_on_close = true;
        }
        if !i.size.is_multiple_of(self.block_size()) {
            self.zero_to_block_end(i, i.size)?;
        }
        i.disksize = i.size;
        let last = self.block_up(i.size);
        self.remove_space(i, last, LBLK_END)?;
        self.store_data(i)
    }

    /// Make the rest of the block that holds byte `from` zeros.
    #[doc(alias = "ext4_block_truncate_page")]
    pub(super) fn zero_to_block_end(&mut self, i: &mut MemInode, from: u64) -> Result<()> {
        let len = self.block_size() - from % self.block_size();
        self.zero_in_block(i, from, len)
    }

    /// Make the parts of `range` that are less than a block zeros.
    #[doc(alias = "ext4_zero_partial_blocks")]
    pub(super) fn zero_partial(&mut self, i: &mut MemInode, range: Range<u64>) -> Result<()> {
        let block = self.block_size();
        let last = range.end - 1;
        let (head, tail) = (range.start % block, last % block);
        if range.start / block == last / block && (head != 0 || tail != block - 1) {
            return self.zero_in_block(i, range.start, range.end - range.start);
        }
        if head != 0 {
            self.zero_in_block(i, range.start, block - head)?;
        }
        if tail != block - 1 {
            self.zero_in_block(i, last - tail, tail + 1)?;
        }
        Ok(())
    }

    /// Make `len` bytes from `from`, inside one block, zeros in the page cache, and dirty, where the block is not a hole.
    #[doc(alias = "ext4_block_zero_page_range")]
    fn zero_in_block(&mut self, i: &mut MemInode, from: u64, len: u64) -> Result<()> {
        let (bits, block) = (self.block_bits(), self.block_size());
        let lblk = self.block_of(from);
        let f = i.cache.grab(from >> PAGE_BITS, 0);
        f.create_buffers(bits);
        let (index, offset, uptodate) = (f.index, from - f.pos(), f.uptodate);
        let at = (offset >> bits) as usize;
        let mut b = f.buffers[at];
        // On the iomap path a dirty block need not have been looked up.
        let known = b.mapped || (b.dirty && self.uses_iomap(i).0);
        if !known {
            let e = self.query(i, lblk, 1)?;
            if e.status != EsStatus::Written {
                return Ok(());
            }
            (b.mapped, b.pblk) = (true, e.pblk);
        }
        b.uptodate |= uptodate;
        let mut content = None;
        if !b.uptodate {
            let mut bytes = vec![0; block as usize];
            self.read_block(b.pblk, &mut bytes)?;
            content = Some(bytes);
            b.uptodate = true;
        }
        let journalled = self.journals_data(i);
        b.dirty |= !journalled;
        let Some(f) = i.cache.find_mut(index) else { return Ok(()) };
        let start = at << bits;
        if let Some(bytes) = content {
            f.data[start..start + block as usize].copy_from_slice(&bytes);
        }
        f.data[offset as usize..(offset + len) as usize].fill(0);
        f.buffers[at] = b;
        f.dirty |= b.dirty;
        if journalled {
            let bytes = f.data[start..start + block as usize].to_vec();
            self.write_block(true, b.pblk, &bytes)?;
        } else if self.orders_data(i) {
            i.order(from..from + len, true);
        }
        Ok(())
    }
}
