//! Blocks that a device cannot keep: lists of them, and the search for them. Unit: blocks of the filesystem, counted from its start.

use super::options::invalid;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::progress::{Progress, Step, Unit};

/// Bytes read at once; where that fails, block by block.
const CHUNK: u64 = 1 << 20;
/// What is written to try a block.
const PATTERNS: [u8; 4] = [0xaa, 0x55, 0xff, 0x00];

/// The numbers in a list of bad blocks, one a line, as badblocks(8) prints them.
///
/// # Errors
/// [`Error::InvalidArgument`] with the line that is no number.
pub fn read_list(text: &str) -> Result<Vec<u64>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| line.parse().map_err(|_| invalid("bad block", line, "a block number in each line"))).collect()
}

/// The blocks that cannot be read, of `blocks` blocks of `block_size` bytes. What is known to be a hole is not read.
///
/// # Errors
/// Failures other than those of reading; [`Error::Cancelled`].
pub fn scan(dev: &dyn BlockDevice, block_size: u32, blocks: u64, progress: &dyn Progress) -> Result<Vec<u64>> {
    let bs = u64::from(block_size);
    let end = (blocks * bs).min(dev.len() / bs * bs);
    progress.begin(Step { name: "looking for bad blocks", unit: Unit::Blocks, total: Some(end / bs) });
    let mut buf = vec![0; CHUNK.max(bs) as usize];
    let mut bad = Vec::new();
    let mut at = 0;
    while let Some(data) = dev.next_data(at)?.filter(|d| d.start < end) {
        at = data.start / bs * bs;
        let stop = data.end.min(end).next_multiple_of(bs);
        while at < stop {
            progress.check()?;
            let n = (stop - at).min(buf.len() as u64);
            if !can_read(dev, at, &mut buf[..n as usize])? {
                for one in (at..at + n).step_by(bs as usize) {
                    if !can_read(dev, one, &mut buf[..bs as usize])? {
                        bad.push(one / bs);
                    }
                }
            }
            progress.advance(n / bs);
            at += n;
        }
    }
    progress.end();
    Ok(bad)
}

/// The same by writing: every block gets several patterns, which must be there afterwards. What the device held is gone.
///
/// # Errors
/// The first failure of writing: a device that refuses writes cannot hold a filesystem.
pub fn wear(dev: &dyn BlockDevice, block_size: u32, blocks: u64, progress: &dyn Progress) -> Result<Vec<u64>> {
    let bs = u64::from(block_size);
    let end = (blocks * bs).min(dev.len() / bs * bs);
    let mut bad = vec![];
    let mut buf = vec![0; CHUNK.max(bs) as usize];
    for pattern in PATTERNS {
        let name = "looking for bad blocks by writing";
        progress.begin(Step { name, unit: Unit::Blocks, total: Some(2 * end / bs) });
        let full = vec![pattern; buf.len()];
        for at in (0..end).step_by(full.len()) {
            progress.check()?;
            let n = (end - at).min(full.len() as u64);
            dev.write_at(at, &full[..n as usize])?;
            progress.advance(n / bs);
        }
        dev.flush()?;
        for at in (0..end).step_by(full.len()) {
            progress.check()?;
            let n = (end - at).min(full.len() as u64);
            let good = can_read(dev, at, &mut buf[..n as usize])? && buf[..n as usize] == full[..n as usize];
            for one in (at..at + n).step_by(bs as usize).filter(|_| !good) {
                let part = &mut buf[..bs as usize];
                if !can_read(dev, one, part)? || part.iter().any(|b| *b != pattern) {
                    bad.push(one / bs);
                }
            }
            progress.advance(n / bs);
        }
        progress.end();
    }
    bad.sort_unstable();
    bad.dedup();
    Ok(bad)
}

/// Whether the bytes can be read; `Err` for other failures.
fn can_read(dev: &dyn BlockDevice, at: u64, buf: &mut [u8]) -> Result<bool> {
    match dev.read_at(at, buf) {
        Ok(()) => Ok(true),
        Err(Error::Io { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::device::MemoryDevice;
    use crate::error::IoOp;
    use crate::progress::Silent;

    /// A device some bytes of which cannot be read, and some of which forget what was written.
    struct Worn {
        base: MemoryDevice,
        unreadable: Range<u64>,
        forgets: u64,
    }

    impl BlockDevice for Worn {
        fn len(&self) -> u64 {
            self.base.len()
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
            let end = offset + buf.len() as u64;
            if offset < self.unreadable.end && self.unreadable.start < end {
                let source = std::io::ErrorKind::Other.into();
                return Err(Error::Io { op: IoOp::Read, offset, len: buf.len() as u64, source });
            }
            self.base.read_at(offset, buf)?;
            if (offset..end).contains(&self.forgets) {
                buf[(self.forgets - offset) as usize] &= 0xfe;
            }
            Ok(())
        }
        fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
            self.base.write_at(offset, data)
        }
        fn flush(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn blocks_that_fail_are_found_and_no_others() {
        let base = MemoryDevice::new(5 << 20);
        let worn = Worn { base, unreadable: (2 << 20) - 1..(2 << 20) + 4097, forgets: 4 << 20 };
        assert_eq!(scan(&worn, 4096, 1 << 20, &Silent).unwrap(), [511, 512, 513]);
        assert_eq!(scan(&worn, 4096, 512, &Silent).unwrap(), [511]);
        assert_eq!(wear(&worn, 4096, 1280, &Silent).unwrap(), [511, 512, 513, 1024]);
    }

    #[test]
    fn lists_have_a_number_in_each_line() {
        assert_eq!(read_list("7\n 12 \n\n3\n").unwrap(), [7, 12, 3]);
        assert!(read_list("7\n8 9\n").is_err());
        assert!(read_list("-1").is_err());
    }
}
