//! A file mapped into memory, read-only: all of it ([`MmapDevice`]), or a range of one that is open for writing
//! ([`FrozenView`]). Offsets and lengths in bytes.
//!
//! The only module of the library with `unsafe` code. The safety argument, in full:
//!
//! - The mapping is private to this device, read-only, and lives as long as it; [`MmapDevice::slice`] borrows from the
//!   device, so no view outlives the mapping. Its length is fixed at the file's length when it was opened.
//! - A shared view must not change while it is looked at. The device holds a shared `flock` on the file for its whole
//!   life, and every writer of this package takes the exclusive one, so none of them writes to a mapped file.
//! - A range is mapped under the exclusive lock. The device that holds it refuses writes that touch the range for as long as
//!   the view lives ([`BlockDevice::freeze`]), and the view borrows from the device.
//! - The lock is advisory. A foreign process that writes to the image all the same can make two reads of a byte
//!   differ. Readers of the library take bytes out of a view once, into typed values, and validate those: they do
//!   not validate bytes in place and then read them again. A byte is a byte whatever its value, so no invalid value arises.
//! - A foreign process that cuts the file short makes access beyond the new end raise SIGBUS, which ends the process:
//!   where all of a file is mapped nothing has been written by then, where a range is mapped it is as if the power had
//!   failed, and no memory is misused. The same happens where the medium cannot be read; that is why block devices are not
//!   mapped unless the caller asks for it.

#![expect(unsafe_code, reason = "mapping a file is unsafe by nature; the argument is in the module's documentation")]

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use memmap2::{Advice, Mmap, UncheckedAdvice};

use super::file::{Access, FileDevice, Hold, next_data};
use super::{BlockDevice, check_range};
use crate::error::{Error, IoOp, Result};

/// A file that is read in place.
#[derive(Debug)]
pub struct MmapDevice {
    map: Mmap,
    file: FileDevice,
}

impl MmapDevice {
    /// Map an existing file for reading, under a shared lock.
    ///
    /// # Errors
    /// As [`FileDevice::open`], and [`Error::Host`] where the file cannot be mapped.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_file(FileDevice::open(path, Access::ReadOnly)?).map_err(|(_, e)| e)
    }

    /// Map a file that is open for reading. On failure the file is handed back beside the error.
    #[expect(clippy::result_large_err, reason = "the file is handed back once, at opening")]
    pub fn from_file(file: FileDevice) -> Result<Self, (FileDevice, Error)> {
        if !file.is_read_only() {
            return Err((file, Error::Conflict { a: "a memory map", relation: "cannot be used with", b: "writing" }));
        }
        let Ok(len) = usize::try_from(file.len()) else {
            let e = Error::host("map", file.path(), std::io::ErrorKind::OutOfMemory);
            return Err((file, e));
        };
        // SAFETY: see the module's documentation. `len` is the file's length; the shared lock is held by `file`, which lives
        // as long as the map.
        match unsafe { memmap2::MmapOptions::new().len(len).map(&file.as_fd()) } {
            Ok(map) => Ok(Self { map, file }),
            Err(e) => {
                let e = Error::host("map", file.path(), e);
                Err((file, e))
            }
        }
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Tell the host that the file will be read from front to back, so that it reads ahead.
    pub fn advise_sequential(&self) {
        // Only a hint: a host that does not take it reads as it always does.
        let _ = self.map.advise(Advice::Sequential);
    }
}

/// A view of a range of a file that is open for writing. The device refuses to write there while it lives.
#[derive(Debug)]
pub struct FrozenView<'d> {
    map: Mmap,
    _hold: Hold<'d>,
}

impl<'d> FrozenView<'d> {
    /// Map the range that `hold` keeps as it is. `None` where the host does not map it.
    pub(super) fn of(file: BorrowedFd<'_>, hold: Hold<'d>) -> Option<Self> {
        let range = hold.range();
        let len = usize::try_from(range.end - range.start).ok()?;
        // SAFETY: see the module's documentation. The range lies inside the file, and `hold` lives as long as the map.
        let map = unsafe { memmap2::MmapOptions::new().offset(range.start).len(len).map(&file) }.ok()?;
        Some(Self { map, _hold: hold })
    }
}

impl std::ops::Deref for FrozenView<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl BlockDevice for MmapDevice {
    fn len(&self) -> u64 {
        self.map.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(IoOp::Read, offset, buf.len() as u64, self.len())?;
        let start = offset as usize;
        buf.copy_from_slice(&self.map[start..start + buf.len()]);
        Ok(())
    }

    fn write_at(&self, _offset: u64, _data: &[u8]) -> Result<()> {
        Err(Error::ReadOnly)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn zero(&self, _offset: u64, _len: u64) -> Result<()> {
        Err(Error::ReadOnly)
    }

    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.map.get(start..start.checked_add(len)?)
    }

    fn host_file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.file.host_file()
    }

    fn release(&self) {
        // SAFETY: the map is shared and read-only, so its pages are the file's own: letting go of them changes no byte that a
        // view shows, only that the next look brings them back.
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        Ok(next_data(self.file.as_fd(), offset, self.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_at_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let d = FileDevice::create(dir.path().join("f"), 1 << 20).unwrap();
        d.write_at(5000, b"abc").unwrap();
        assert!(d.freeze((1 << 20) - 1, 2).is_none(), "beyond the end");
        assert!(d.freeze(7, 0).is_none(), "nothing");
        let (view, other) = (d.freeze(5000, 10_000).unwrap(), d.freeze(5002, 1).unwrap());
        assert_eq!((&view[..4], &other[..]), (&b"abc\0"[..], &b"c"[..]));
        assert!(d.write_at(4998, &[1, 2]).is_ok() && d.write_at(15_000, &[1]).is_ok(), "beside it");
        for (at, len) in [(4998, 3), (5000, 1), (14_999, 9), (0, 20_000)] {
            assert!(d.write_at(at, &vec![1; len]).is_err() && d.zero(at, len as u64).is_err(), "{at}");
        }
        drop(view);
        assert!(d.write_at(5002, &[1]).is_err() && d.write_at(5003, &[1]).is_ok());
        drop(other);
        d.zero(5002, 1).unwrap();
        assert!(!d.is_poisoned());
    }

    #[test]
    fn reads_and_views_agree_and_nothing_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("img");
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let d = MmapDevice::open(&path).unwrap();
        assert_eq!(d.bytes(), bytes);
        assert_eq!(d.slice(99_990, 10).unwrap(), &bytes[99_990..]);
        assert!(d.slice(99_990, 11).is_none());
        assert!(d.slice(u64::MAX, 1).is_none());
        assert!(d.slice(1, usize::MAX).is_none());
        let mut b = [0; 10];
        d.read_at(12_345, &mut b).unwrap();
        assert_eq!(b, bytes[12_345..12_355]);
        let view = d.slice(0, 100_000).unwrap();
        d.release();
        assert_eq!(view, bytes);
        assert!(d.read_at(99_999, &mut b).is_err());
        assert!(matches!(d.write_at(0, &[1]), Err(Error::ReadOnly)));
        assert!(matches!(d.zero(0, 1), Err(Error::ReadOnly)));
        assert!(matches!(FileDevice::open(&path, Access::ReadWrite), Err(Error::Busy { .. })));
    }

    #[test]
    fn a_writable_file_is_handed_back() {
        let dir = tempfile::tempdir().unwrap();
        let f = FileDevice::create(dir.path().join("img"), 4096).unwrap();
        let (f, e) = MmapDevice::from_file(f).unwrap_err();
        assert!(matches!(e, Error::Conflict { .. }));
        f.write_at(0, &[1]).unwrap();
    }
}
