//! The buffered write paths behind one interface. A path decides how a write, a store through a mapping and writeback use
//! pages, mappings and transactions; everything else (mapping, truncation, direct I/O, names) is the same for all.

use std::ops::Range;

use super::buffer_head::BufferHead;
use super::inode::MemInode;
use super::iomap::Iomap;
use super::mount::Mount;
use crate::error::Result;

/// The bytes of a write, which are copied straight to where they go. Offsets are from the beginning of the write.
#[expect(clippy::len_without_is_empty, reason = "a write of nothing is asked for by nobody")]
#[doc(alias = "iov_iter")]
pub trait IovIter {
    /// How many.
    fn len(&self) -> usize;

    /// Fill `out` with those from `at` on. Called with ascending `at`, once for each byte, unless a write is tried again.
    ///
    /// # Errors
    /// What cannot be read.
    #[doc(alias = "copy_folio_from_iter_atomic")]
    fn copy(&mut self, at: usize, out: &mut [u8]) -> Result<()>;

    /// Whether they are those that a file of the host lends ([`Mount::lend`]): they need not be copied before writeback.
    fn is_lent(&self) -> bool {
        false
    }
}

/// Bytes in memory.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl IovIter for Bytes<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn copy(&mut self, at: usize, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(&self.0[at..at + out.len()]);
        Ok(())
    }
}

/// How data gets from a write to the device.
pub trait WritePath: Sync {
    /// Its name, as `--io-path` takes it.
    fn name(&self) -> &'static str;

    /// One write of what `from` gives at byte `pos`; returns the bytes taken. A short write is not an error.
    fn write(&self, m: &mut Mount, i: &mut MemInode, pos: u64, from: &mut dyn IovIter) -> Result<usize>;

    /// Make the folio of a page ready for a store, where the page has content below the end of the file.
    #[doc(alias = "page_mkwrite")]
    fn make_writable(&self, m: &mut Mount, i: &mut MemInode, page: u64) -> Result<()>;

    /// Write back what is dirty in the bytes `range` (whole folios), to the end.
    #[doc(alias = "writepages")]
    fn write_back(&self, m: &mut Mount, i: &mut MemInode, range: Range<u64>) -> Result<()>;
}

impl Mount {
    /// The path that a file's writes take.
    pub fn path_of(&self, i: &MemInode) -> &'static dyn WritePath {
        if self.uses_iomap(i).0 { &Iomap } else { &BufferHead }
    }
}
