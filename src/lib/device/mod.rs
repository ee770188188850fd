//! Block devices: where an image's bytes live, and what stacks on top.
//!
//! A [`BlockDevice`] is a row of bytes with a fixed length. Offsets and lengths are in bytes from the start of
//! the device, with no alignment asked for. All methods take `&self`: a device may be read from many threads at
//! once; concurrent writes to overlapping ranges are the caller's mistake.
//!
//! Invariants: a read or write that touches a byte outside `0..len` fails as a whole and changes nothing; bytes
//! never written read as zero; after [`BlockDevice::flush`] returns, all earlier writes are durable.
//!
//! | device | is |
//! |---|---|
//! | [`FileDevice`] | a regular file or block device of the host, locked while open |
//! | [`NewFile`] | a regular file that gets its name when it is complete |
//! | [`MmapDevice`] | a file mapped read-only: views without copies |
//! | [`MemoryDevice`] | bytes in memory |
//! | [`WindowDevice`] | a range of another device: a partition in a disk image |
//! | [`OverlayDevice`] | another device with changes that stay in memory: dry runs, crash states |
//! | [`StagedDevice`] | another device whose writes can be held back, and applied in order |
//! | [`RecordDevice`] | another device, with a [`WriteLog`] of what was done to it |
//! | [`FaultDevice`] | another device that fails when told to |
//!
//! From a log, [`crash`] makes the states that a device may be in after the power failed.
//!
//! Tools open an image through [`ImageSpec`], which understands `img@OFFSET`.

pub mod crash;
pub mod fault;
mod file;
mod memory;
mod mmap;
#[cfg(test)]
mod model_tests;
mod new_file;
mod open;
pub mod overlay;
mod record;
pub mod replay;
mod staged;
mod undo;
mod window;

pub use fault::FaultDevice;
pub use file::{Access, FileDevice};
pub use memory::MemoryDevice;
pub use mmap::{FrozenView, MmapDevice};
pub use new_file::{NewFile, anonymous_file};
pub use open::ImageSpec;
pub use overlay::OverlayDevice;
pub use record::RecordDevice;
pub use replay::WriteLog;
pub use staged::StagedDevice;
pub use undo::{UndoDevice, undo};
pub use window::WindowDevice;

use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use crate::error::{Error, IoOp, Result};

/// A row of bytes that can be read and written at any offset.
#[expect(clippy::len_without_is_empty, reason = "an empty device is an error elsewhere, not a collection")]
pub trait BlockDevice: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Fill `buf` from byte `offset`. Fails where the range leaves the device.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Write all of `data` at byte `offset`. Fails where the range leaves the device.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Write all of `parts`, one behind the other, from byte `offset` on. Where the host can, it is one write.
    ///
    /// # Errors
    /// As [`BlockDevice::write_at`]; some of the parts may have been written.
    #[doc(alias = "pwritev")]
    fn write_parts_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        let mut at = offset;
        for part in parts {
            self.write_at(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Let the host itself copy `len` bytes of a file, from byte `from` on, to byte `offset`, where it can and nothing overlays
    /// the bytes. Returns how many were copied, from the first on; the rest is to be written.
    ///
    /// # Errors
    /// As [`BlockDevice::write_at`], before anything is copied.
    #[doc(alias = "copy_file_range")]
    fn copy_from(&self, file: BorrowedFd<'_>, from: u64, offset: u64, len: u64) -> Result<u64> {
        let _ = (file, from, offset, len);
        Ok(0)
    }

    /// Make all earlier writes durable.
    fn flush(&self) -> Result<()>;

    /// Make a range read as zeros, releasing its storage where the device can.
    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        const STEP: usize = 1 << 20;
        check_range(IoOp::Discard, offset, len, self.len())?;
        let zeros = vec![0; STEP.min(usize::try_from(len).unwrap_or(STEP))];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(STEP as u64);
            self.write_at(offset + done, &zeros[..n as usize])?;
            done += n;
        }
        Ok(())
    }

    /// Give up what a range holds, so that its storage can be used for something else, where the device can do that without being
    /// handed zeros. Returns whether it did; the range reads as zeros then, else it is as it was.
    ///
    /// # Errors
    /// As [`BlockDevice::write_at`].
    #[doc(alias = "BLKDISCARD")]
    #[doc(alias = "TRIM")]
    fn discard(&self, offset: u64, len: u64) -> Result<bool> {
        check_range(IoOp::Discard, offset, len, self.len())?;
        Ok(false)
    }

    /// A view of a range without copying, where the device is in memory and nothing overlays it.
    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let _ = (offset, len);
        None
    }

    /// A view of a range of a device that may be written elsewhere meanwhile: writes that touch the range fail for as long as the
    /// view lives. `None` where the device cannot do that, or the range is empty or not inside it.
    fn freeze(&self, offset: u64, len: usize) -> Option<FrozenView<'_>> {
        let _ = (offset, len);
        None
    }

    /// The file of the host that holds the bytes, and where in it byte 0 is; where the bytes are just that, and nothing
    /// overlays them. For copies that the host makes itself; the file is read only.
    fn host_file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        None
    }

    /// Let go of memory that views of the device occupy, where the device can get it back when it is looked at again.
    fn release(&self) {}

    /// Whether writes are refused.
    fn is_read_only(&self) -> bool {
        false
    }

    /// The first range at or after `offset` that may hold something other than zeros, clipped to the device;
    /// `None` where all the rest is known to be zero. The default knows nothing: all of it may hold data.
    fn next_data(&self, offset: u64) -> Result<Option<std::ops::Range<u64>>> {
        Ok((offset < self.len()).then(|| offset..self.len()))
    }
}

macro_rules! forward_device {
    ($($t:ty),*) => {$(
        impl<D: BlockDevice + ?Sized> BlockDevice for $t {
            fn len(&self) -> u64 {
                (**self).len()
            }
            fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
                (**self).read_at(offset, buf)
            }
            fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
                (**self).write_at(offset, data)
            }
            fn write_parts_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
                (**self).write_parts_at(offset, parts)
            }
            fn copy_from(&self, file: BorrowedFd<'_>, from: u64, offset: u64, len: u64) -> Result<u64> {
                (**self).copy_from(file, from, offset, len)
            }
            fn flush(&self) -> Result<()> {
                (**self).flush()
            }
            fn zero(&self, offset: u64, len: u64) -> Result<()> {
                (**self).zero(offset, len)
            }
            fn discard(&self, offset: u64, len: u64) -> Result<bool> {
                (**self).discard(offset, len)
            }
            fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
                (**self).slice(offset, len)
            }
            fn freeze(&self, offset: u64, len: usize) -> Option<FrozenView<'_>> {
                (**self).freeze(offset, len)
            }
            fn host_file(&self) -> Option<(BorrowedFd<'_>, u64)> {
                (**self).host_file()
            }
            fn release(&self) {
                (**self).release();
            }
            fn is_read_only(&self) -> bool {
                (**self).is_read_only()
            }
            fn next_data(&self, offset: u64) -> Result<Option<std::ops::Range<u64>>> {
                (**self).next_data(offset)
            }
        }
    )*};
}
forward_device!(&D, Box<D>, std::sync::Arc<D>);

/// `Err` unless `offset..offset + len` lies inside a device of `size` bytes.
pub(crate) fn check_range(op: IoOp, offset: u64, len: u64, size: u64) -> Result<()> {
    if offset.checked_add(len).is_some_and(|end| end <= size) {
        return Ok(());
    }
    Err(Error::Io {
        op,
        offset,
        len,
        source: std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "beyond the end of the device"),
    })
}
