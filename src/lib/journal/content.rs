//! Content of files, written beside the log: to blocks that nothing refers to yet, and before the commit that exposes them.
//! Blocks are those of the filesystem.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::pending::Shared;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::units::Fsblk;

/// Writes content of files into blocks that nothing refers to yet; for several threads at once.
#[derive(Clone)]
pub struct ContentWriter(Arc<Shared>);

impl std::fmt::Debug for ContentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentWriter").finish_non_exhaustive()
    }
}

impl ContentWriter {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> usize {
        self.0.block_size as usize
    }

    /// Write whole blocks from `block` on; they are on the device before the running transaction commits.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for parts of blocks, and for blocks that hold metadata; the device's.
    pub fn write(&self, block: Fsblk, bytes: &[u8]) -> Result<()> {
        self.claim(block, bytes.len())?;
        self.0.device.write_at(self.0.byte(block), bytes)
    }

    /// As [`ContentWriter::write`], for bytes in several parts of any length.
    ///
    /// # Errors
    /// As [`ContentWriter::write`].
    pub fn write_parts(&self, block: Fsblk, parts: &[IoSlice<'_>]) -> Result<()> {
        self.claim(block, parts.iter().map(|p| p.len()).sum())?;
        self.0.device.write_parts_at(self.0.byte(block), parts)
    }

    /// Let the host copy `len` bytes of a file, whole blocks, to `block` and on, see [`BlockDevice::copy_from`].
    ///
    /// # Errors
    /// As [`ContentWriter::write`].
    pub fn copy_from(&self, block: Fsblk, file: BorrowedFd<'_>, from: u64, len: u64) -> Result<u64> {
        self.claim(block, len as usize)?;
        self.0.device.copy_from(file, from, self.0.byte(block), len)
    }

    /// `len` bytes of content are about to be written from `block` on.
    fn claim(&self, block: Fsblk, len: usize) -> Result<()> {
        let shared = &*self.0;
        let size = shared.block_size as usize;
        if !len.is_multiple_of(size) {
            return Err(invalid("bytes", len as u64, "whole blocks"));
        }
        let count = (len / size) as u64;
        check_block(shared, block, count)?;
        let span = block..Fsblk(block.0 + count);
        let mut state = shared.write();
        state.running.data = true;
        let running = state.running.blocks.range(span.clone()).next().map(|(b, _)| *b);
        let clash = running.or_else(|| state.committed.range(span.clone()).next().map(|(b, _)| *b));
        match clash {
            Some(b) => Err(invalid("block", b.0, "free since a commit, or content already")),
            None => state.keep_content(shared, span),
        }
    }
}

pub(super) fn invalid(name: &'static str, value: u64, allowed: &'static str) -> Error {
    Error::InvalidArgument { name, value: value.to_string(), allowed }
}

pub(super) fn check_block(shared: &Shared, block: Fsblk, len: u64) -> Result<()> {
    match block.0.checked_add(len) {
        Some(end) if end <= shared.blocks_count => Ok(()),
        _ => Err(invalid("block", block.0, "below the number of blocks")),
    }
}
