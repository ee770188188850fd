//! Where data is, and where it is not. Kernel names: `ext4_seek_data`, `iomap_seek_data`, `mapping_seek_hole_data`. Offsets in
//! bytes.
//!
//! Delayed blocks are data, like written ones. An unwritten block is data where the page cache knows its content, be it written
//! or only read; else it is a hole. The end of the file is a hole.

use std::ops::Range;

use super::extent_status::EsStatus;
use super::folio::{Folio, PAGE_BITS};
use super::inode::MemInode;
use super::mount::Mount;
use crate::error::Result;
use crate::units::Ino;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "lseek")]
pub enum Whence {
    /// The next byte that may hold something.
    #[doc(alias = "SEEK_DATA")]
    Data,
    /// The next byte that surely holds nothing.
    #[doc(alias = "SEEK_HOLE")]
    Hole,
}

impl Mount {
    /// The first byte at or behind `pos` that is data, or a hole; `None` (`ENXIO`) where `pos` is not inside the file, or only
    /// holes follow.
    ///
    /// # Errors
    /// Those of reading the block map.
    pub fn seek(&mut self, ino: Ino, pos: u64, whence: Whence) -> Result<Option<u64>> {
        self.on(ino, |m, i| m.seek_in(i, pos, whence))
    }

    fn seek_in(&self, i: &mut MemInode, pos: u64, whence: Whence) -> Result<Option<u64>> {
        let (bits, limit, inline) = (self.block_bits(), self.block_up(i.size), Self::is_inline(i));
        let mut at = pos;
        while at < i.size {
            let lblk = self.block_of(at);
            let e = self.query(i, lblk, limit - lblk)?;
            let range = at..(u64::from(e.end()) << bits).min(i.size);
            let status = if inline { EsStatus::Written } else { e.status };
            let found = match (status, whence) {
                (EsStatus::Unwritten, _) => self.seek_cached(i, range.clone(), whence),
                (EsStatus::Hole, Whence::Hole) | (EsStatus::Written | EsStatus::Delayed, Whence::Data) => Some(at),
                _ => None,
            };
            if found.is_some() {
                return Ok(found);
            }
            at = range.end;
        }
        Ok((whence == Whence::Hole && pos < i.size).then_some(i.size))
    }

    /// The same in a range that is allocated and unwritten, by what the page cache knows.
    #[doc(alias = "mapping_seek_hole_data")]
    fn seek_cached(&self, i: &MemInode, range: Range<u64>, whence: Whence) -> Option<u64> {
        let mut at = range.start;
        let first = i.cache.find(at >> PAGE_BITS).map_or(at >> PAGE_BITS, |f| f.index);
        let folios = i.cache.iter().skip_while(|f| f.index < first).take_while(|f| f.pos() < range.end);
        for f in folios {
            if at < f.pos() {
                if whence == Whence::Hole {
                    return Some(at);
                }
                at = f.pos();
            }
            at = self.seek_folio(f, at, whence);
            if at < f.end() {
                // A block behind the range ends it.
                let found = at.min(range.end);
                return (whence == Whence::Data || found < range.end).then_some(found);
            }
            if at >= range.end {
                break;
            }
        }
        (whence == Whence::Hole && at < range.end).then_some(at)
    }

    /// The first byte of a folio, from `at` on, whose block is known (or not); its end where there is none.
    #[doc(alias = "folio_seek_hole_data")]
    fn seek_folio(&self, f: &Folio, at: u64, whence: Whence) -> u64 {
        let data = whence == Whence::Data;
        if f.uptodate {
            return if data { at } else { f.end() };
        }
        let (bits, block) = (self.block_bits(), self.block_size());
        // A folio of one block is known as a whole, or not at all.
        let known = |n: u64| f.size() > block && f.buffers.get(n as usize).is_some_and(|b| b.uptodate);
        let (mut at, mut n) = (at, (at - f.pos()) >> bits);
        while at < f.end() && known(n) != data {
            at = (at + block) & !(block - 1);
            n += 1;
        }
        at
    }
}
