//! A range of another device: a partition in a disk image. Offsets and lengths in bytes.
//!
//! Invariant: the range lay inside the device below when the window was made, and nothing outside it is touched.

use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use super::{BlockDevice, FrozenView, check_range};
use crate::error::{Error, IoOp, Result};

/// Bytes `start..start + len` of the device below, seen as a device of their own.
#[derive(Clone, Debug)]
pub struct WindowDevice<D> {
    base: D,
    start: u64,
    len: u64,
}

impl<D: BlockDevice> WindowDevice<D> {
    /// The range of `len` bytes from `start`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the range leaves the device.
    pub fn new(base: D, start: u64, len: u64) -> Result<Self> {
        if start.checked_add(len).is_none_or(|end| end > base.len()) {
            return Err(outside(start));
        }
        Ok(Self { base, start, len })
    }

    /// All bytes from `start` on.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where `start` lies beyond the device.
    pub fn from_offset(base: D, start: u64) -> Result<Self> {
        let len = base.len().checked_sub(start).ok_or_else(|| outside(start))?;
        Self::new(base, start, len)
    }

    /// Where the window begins on the device below, in bytes.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// The device below.
    pub const fn base(&self) -> &D {
        &self.base
    }

    fn shift(&self, op: IoOp, offset: u64, len: u64) -> Result<u64> {
        check_range(op, offset, len, self.len)?;
        Ok(self.start + offset)
    }
}

fn outside(start: u64) -> Error {
    Error::InvalidArgument { name: "offset", value: start.to_string(), allowed: "inside the image" }
}

impl<D: BlockDevice> BlockDevice for WindowDevice<D> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.base.read_at(self.shift(IoOp::Read, offset, buf.len() as u64)?, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.base.write_at(self.shift(IoOp::Write, offset, data.len() as u64)?, data)
    }

    fn write_parts_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        let len = parts.iter().map(|p| p.len() as u64).sum();
        self.base.write_parts_at(self.shift(IoOp::Write, offset, len)?, parts)
    }

    fn copy_from(&self, file: BorrowedFd<'_>, from: u64, offset: u64, len: u64) -> Result<u64> {
        self.base.copy_from(file, from, self.shift(IoOp::Write, offset, len)?, len)
    }

    fn flush(&self) -> Result<()> {
        self.base.flush()
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.base.zero(self.shift(IoOp::Discard, offset, len)?, len)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<bool> {
        self.base.discard(self.shift(IoOp::Discard, offset, len)?, len)
    }

    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.base.slice(self.shift(IoOp::Read, offset, len as u64).ok()?, len)
    }

    fn freeze(&self, offset: u64, len: usize) -> Option<FrozenView<'_>> {
        self.base.freeze(self.shift(IoOp::Read, offset, len as u64).ok()?, len)
    }

    fn host_file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        let (fd, base) = self.base.host_file()?;
        Some((fd, base.checked_add(self.start)?))
    }

    fn release(&self) {
        self.base.release();
    }

    fn is_read_only(&self) -> bool {
        self.base.is_read_only()
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        if offset >= self.len {
            return Ok(None);
        }
        let end = self.start + self.len;
        let found = self.base.next_data(self.start + offset)?;
        Ok(found.filter(|r| r.start < end).map(|r| r.start - self.start..r.end.min(end) - self.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    #[test]
    fn nothing_outside_is_seen_or_touched() {
        let base = MemoryDevice::from_bytes((0..20).collect());
        let w = WindowDevice::new(&base, 5, 10).unwrap();
        assert_eq!(w.len(), 10);
        let mut b = [0; 10];
        w.read_at(0, &mut b).unwrap();
        assert_eq!(b, [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        assert!(w.read_at(1, &mut b).is_err());
        assert!(w.write_at(9, &[0, 0]).is_err());
        assert!(w.zero(8, 3).is_err());
        w.zero(8, 2).unwrap();
        assert_eq!(base.to_bytes()[12..16], [12, 0, 0, 15]);
        assert_eq!(w.next_data(3).unwrap(), Some(3..10));
        assert_eq!(w.next_data(10).unwrap(), None);
    }

    #[test]
    fn a_window_beyond_the_device_is_refused() {
        let base = MemoryDevice::new(20);
        assert!(WindowDevice::new(&base, 15, 6).is_err());
        assert!(WindowDevice::new(&base, u64::MAX, 2).is_err());
        assert!(WindowDevice::from_offset(&base, 21).is_err());
        assert_eq!(WindowDevice::from_offset(&base, 20).unwrap().len(), 0);
    }
}
