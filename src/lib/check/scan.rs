//! Looking for bad blocks: every block of a filesystem is read, or written and read as well, past the host's cache where there
//! is one. Kernel-side name: none; e2fsprogs: `badblocks`.

use std::ops::Range;
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};

use super::clerk::Clerk;
use super::report::Collect;
use super::{CheckOptions, open};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::progress::{Progress, Step, Unit};
use crate::units::Fsblk;

/// Bytes that are looked at at a time, as long as they are good.
const CHUNK: u64 = 256 << 10;

/// How blocks are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// They are read.
    Read,
    /// Each is written with all its bits turned over and read, then with what was in it and read. A kill can leave the piece
    /// that it was at turned over.
    Write,
}

/// The bad blocks of the filesystem on the device that `reopen` opens, in order; none where there is no filesystem. It is opened
/// again when a failed write has made it useless.
///
/// # Errors
/// [`Error::Cancelled`]; what `reopen` says.
pub fn bad_blocks(
    reopen: &mut dyn FnMut() -> Result<Arc<dyn BlockDevice>>,
    options: &CheckOptions,
    medium: Medium,
    progress: &dyn Progress,
) -> Result<Vec<Fsblk>> {
    let device = reopen()?;
    let mut nobody = Collect::default();
    let Some(opened) = open::open(&device, options, &mut Clerk::new(&mut nobody))? else { return Ok(Vec::new()) };
    let (size, count) = (u64::from(opened.vol.geometry().block_size), opened.vol.geometry().blocks_count);
    drop(opened);
    // Behind the end of the device there is nothing to look at.
    let count = count.min(device.len() / size);
    let mut scan = Scan { device, reopen, size, medium, bad: Vec::new() };
    progress.begin(Step { name: "looking for bad blocks", unit: Unit::Blocks, total: Some(count) });
    let step = (CHUNK / size).max(1);
    let mut at = 0;
    while at < count {
        progress.check()?;
        let end = (at + step).min(count);
        scan.piece(at..end)?;
        progress.advance(end - at);
        at = end;
    }
    progress.end();
    Ok(scan.bad)
}

struct Scan<'s> {
    device: Arc<dyn BlockDevice>,
    reopen: &'s mut dyn FnMut() -> Result<Arc<dyn BlockDevice>>,
    size: u64,
    medium: Medium,
    bad: Vec<Fsblk>,
}

impl Scan<'_> {
    /// Look at blocks together, and one by one where that fails.
    fn piece(&mut self, blocks: Range<u64>) -> Result<()> {
        if self.is_good(&blocks)? {
            return Ok(());
        }
        for b in blocks {
            if !self.is_good(&(b..b + 1))? {
                self.bad.push(Fsblk(b));
            }
        }
        Ok(())
    }

    fn is_good(&mut self, blocks: &Range<u64>) -> Result<bool> {
        let Some(before) = self.read(blocks) else { return Ok(false) };
        if self.medium == Medium::Read {
            return Ok(true);
        }
        let turned: Vec<u8> = before.iter().map(|b| !b).collect();
        let good = self.holds(blocks, &turned)? && self.holds(blocks, &before)?;
        if !good {
            // What can be written gets back what was in it.
            for (b, bytes) in blocks.clone().zip(before.chunks_exact(self.size as usize)) {
                self.holds(&(b..b + 1), bytes)?;
            }
        }
        Ok(good)
    }

    /// What is in the blocks, from the medium itself.
    fn read(&self, blocks: &Range<u64>) -> Option<Vec<u8>> {
        let (at, len) = (blocks.start * self.size, (blocks.end - blocks.start) * self.size);
        if let Some((fd, base)) = self.device.host_file() {
            // Where the cache cannot be emptied, it is read.
            let _ = fadvise(fd, base + at, std::num::NonZeroU64::new(len), Advice::DontNeed);
        }
        let mut bytes = vec![0; len as usize];
        self.device.read_at(at, &mut bytes).ok().map(|()| bytes)
    }

    /// Write the blocks; whether they are then what was written.
    fn holds(&mut self, blocks: &Range<u64>, bytes: &[u8]) -> Result<bool> {
        let written = self.device.write_at(blocks.start * self.size, bytes).and_then(|()| self.device.flush());
        match written {
            Ok(()) => Ok(self.read(blocks).is_some_and(|b| b == bytes)),
            Err(Error::Io { .. } | Error::Poisoned) => {
                self.device = (self.reopen)()?;
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }
}
