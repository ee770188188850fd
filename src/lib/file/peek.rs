//! A file's content as a reader would see it now, without reading anything into the page cache. Offsets in bytes, blocks of
//! the filesystem's block size.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::folio::Folio;
use super::inode::MemInode;
use super::mount::Mount;
use crate::error::Result;
use crate::format::inode::InodeFlags;
use crate::volume::MapEvent;

impl Mount {
    /// Hand out every block of a file below its end that may hold something: those that the page cache knows, and those that
    /// are written on the device. Bytes behind the end are zeros. The order is not that of the file.
    ///
    /// # Errors
    /// Those of reading the block map and the device.
    pub fn peek(&self, i: &MemInode, each: &mut dyn FnMut(u32, &[u8])) -> Result<()> {
        let (bits, block, limit) = (self.block_bits(), self.block_size(), self.block_up(i.size));
        let mut bytes = vec![0; block as usize];
        let mut cached = BTreeSet::new();
        for f in i.cache.iter() {
            let first = self.block_of(f.pos());
            let known = |n: u64| f.uptodate || f.buffers.get(n as usize).is_some_and(|b| b.uptodate || b.dirty);
            for n in (0..f.size() >> bits).filter(|n| known(*n)) {
                let lblk = first.saturating_add(n as u32);
                if lblk < limit {
                    cached.insert(lblk);
                    each(lblk, self.content_of(i, f, n, &mut bytes));
                }
            }
        }
        if i.o.has(InodeFlags::INLINE_DATA) {
            if !cached.contains(&0) && limit > 0 {
                bytes.fill(0);
                self.fs.volume.reader(i.o.owner())?.read_at(0, &mut bytes)?;
                each(0, &bytes);
            }
            return Ok(());
        }
        let mut written = Vec::new();
        self.fs.volume.walk_map(i.o.owner(), &mut |event| {
            if let MapEvent::Data(e) = event
                && !e.unwritten
            {
                written.push(e);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for e in written {
            for lblk in
                (e.lblk.0..limit.min(u32::try_from(e.end()).unwrap_or(u32::MAX))).filter(|b| !cached.contains(b))
            {
                self.read_block(e.pblk.saturating_add((lblk - e.lblk.0).into()), &mut bytes)?;
                let keep = i.size.saturating_sub(u64::from(lblk) << bits).min(block) as usize;
                bytes[keep..].fill(0);
                each(lblk, &bytes);
            }
        }
        Ok(())
    }

    /// The `n`th block of a folio, zeros behind the end of the file.
    fn content_of<'b>(&self, i: &MemInode, f: &Folio, n: u64, bytes: &'b mut [u8]) -> &'b [u8] {
        let at = n << self.block_bits();
        bytes.copy_from_slice(&f.data[at as usize..at as usize + bytes.len()]);
        let keep = i.size.saturating_sub(f.pos() + at).min(bytes.len() as u64) as usize;
        bytes[keep..].fill(0);
        bytes
    }
}
