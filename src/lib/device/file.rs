//! A regular file or block device of the host. Offsets and lengths in bytes.
//!
//! Invariants: a writer holds an exclusive `flock`, a reader a shared one, for as long as the device lives; a
//! block device is opened for writing only when nothing has it mounted or claimed (`O_EXCL`). The lock is
//! advisory: it keeps out the tools of this package, not the rest of the world. The first failed write, zeroing or
//! flush poisons the device: what reached the disk is then unknown, and later writes fail with
//! [`Error::Poisoned`] until the file is opened again.

use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use rustix::fs::{FallocateFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::{BlockDevice, FrozenView, check_range};
use crate::error::{Error, IoOp, Result};

/// The alignment asked of ranges that a block device zeroes itself; no sector is larger.
const ZERO_ALIGN: u64 = 4096;

/// What a device is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reading only, beside other readers.
    ReadOnly,
    /// Reading and writing, alone.
    ReadWrite,
}

/// A file or block device, read and written at given offsets; the file position plays no part.
#[derive(Debug)]
pub struct FileDevice {
    fd: OwnedFd,
    path: PathBuf,
    len: AtomicU64,
    access: Access,
    is_block: bool,
    poisoned: AtomicBool,
    /// Ranges that somebody looks at in place.
    held: RwLock<Vec<Range<u64>>>,
}

/// Keeps a range of a file as it is.
#[derive(Debug)]
pub(super) struct Hold<'d> {
    file: &'d FileDevice,
    range: Range<u64>,
}

impl Hold<'_> {
    pub(super) const fn range(&self) -> &Range<u64> {
        &self.range
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut held = self.file.held.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = held.iter().position(|r| *r == self.range) {
            held.swap_remove(at);
        }
    }
}

impl Drop for FileDevice {
    fn drop(&mut self) {
        // Not left to closing: a process that another thread is just starting has the file open too until it executes, and the
        // lock would live as long.
        let _ = retry(|| rustix::fs::flock(&self.fd, FlockOperation::NonBlockingUnlock));
    }
}

impl FileDevice {
    /// Open an existing regular file or block device.
    ///
    /// # Errors
    /// [`Error::Busy`] where another process holds it (or has the block device mounted), [`Error::Host`] where it cannot be
    /// opened, [`Error::InvalidArgument`] where it is neither a regular file nor a block device.
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Self> {
        let path = path.as_ref();
        let stat = rustix::fs::stat(path).map_err(|e| Error::host("open", path, e))?;
        // Looked at first, because opening a FIFO would wait for its other end.
        let is_block = check_type(path, stat.st_mode)?;
        let mut flags = OFlags::CLOEXEC | OFlags::NOCTTY;
        flags |= match access {
            Access::ReadOnly => OFlags::RDONLY,
            Access::ReadWrite if is_block => OFlags::RDWR | OFlags::EXCL,
            Access::ReadWrite => OFlags::RDWR,
        };
        let fd = retry(|| rustix::fs::open(path, flags, Mode::empty())).map_err(|e| match e {
            Errno::BUSY => Error::Busy { path: path.to_path_buf() },
            e => Error::host("open", path, e),
        })?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| Error::host("stat", path, e))?;
        if check_type(path, stat.st_mode)? != is_block {
            return Err(Error::HostChanged { path: path.to_path_buf() });
        }
        lock(&fd, path, access)?;
        // For a block device `st_size` is 0; the end that seeking finds is right for both.
        let len = rustix::fs::seek(&fd, SeekFrom::End(0)).map_err(|e| Error::host("seek", path, e))?;
        Ok(Self::new(fd, path, len, access, is_block))
    }

    /// Create a regular file of `len` zero bytes (a hole), or empty an existing one and give it that length.
    ///
    /// # Errors
    /// As [`FileDevice::open`]; a file that another process holds is left as it is.
    pub fn create(path: impl AsRef<Path>, len: u64) -> Result<Self> {
        Self::create_with(path.as_ref(), len, OFlags::empty())
    }

    /// Create a regular file of `len` zero bytes (a hole) that must not exist yet.
    ///
    /// # Errors
    /// [`Error::Host`] where it exists or cannot be made.
    pub fn create_new(path: impl AsRef<Path>, len: u64) -> Result<Self> {
        Self::create_with(path.as_ref(), len, OFlags::EXCL)
    }

    /// `Err` where something other than a regular file has the name.
    pub(super) fn check_creatable(path: &Path) -> Result<()> {
        match rustix::fs::stat(path) {
            Ok(stat) if !is_regular(stat.st_mode) => Err(not_an_image(path)),
            _ => Ok(()),
        }
    }

    /// Take over an empty regular file that nobody else can have open.
    pub(super) fn adopt_new(fd: OwnedFd, path: &Path, len: u64) -> Result<Self> {
        lock(&fd, path, Access::ReadWrite)?;
        retry(|| rustix::fs::ftruncate(&fd, len)).map_err(|e| Error::host("resize", path, e))?;
        Ok(Self::new(fd, path, len, Access::ReadWrite, false))
    }

    fn create_with(path: &Path, len: u64, flags: OFlags) -> Result<Self> {
        Self::check_creatable(path)?;
        // Not O_TRUNC: the lock comes before anything is changed.
        let flags = flags | OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = retry(|| rustix::fs::open(path, flags, Mode::from_raw_mode(0o666)))
            .map_err(|e| Error::host("create", path, e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| Error::host("stat", path, e))?;
        if !is_regular(stat.st_mode) {
            return Err(not_an_image(path));
        }
        lock(&fd, path, Access::ReadWrite)?;
        if stat.st_size != 0 {
            retry(|| rustix::fs::ftruncate(&fd, 0)).map_err(|e| Error::host("truncate", path, e))?;
        }
        retry(|| rustix::fs::ftruncate(&fd, len)).map_err(|e| Error::host("resize", path, e))?;
        Ok(Self::new(fd, path, len, Access::ReadWrite, false))
    }

    fn new(fd: OwnedFd, path: &Path, len: u64, access: Access, is_block: bool) -> Self {
        Self {
            fd,
            path: path.to_path_buf(),
            len: AtomicU64::new(len),
            access,
            is_block,
            poisoned: AtomicBool::new(false),
            held: RwLock::default(),
        }
    }

    /// Whether the range may be written; it stays so while the guard lives.
    fn check_held(&self, op: IoOp, offset: u64, len: u64) -> Result<RwLockReadGuard<'_, Vec<Range<u64>>>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        if held.iter().any(|r| offset < r.end && r.start < offset + len) {
            let source = std::io::Error::new(std::io::ErrorKind::ResourceBusy, "it is being looked at in place");
            return Err(Error::Io { op, offset, len, source });
        }
        Ok(held)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a block device (as opposed to a regular file).
    pub const fn is_block_device(&self) -> bool {
        self.is_block
    }

    /// Whether an earlier write failed.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Refuse all further writes, as after a failed one. For callers that write through the file descriptor themselves.
    pub fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    /// Give a regular file another length in bytes: what is added reads as zero and takes no room, what is cut off is gone.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Poisoned`], or [`Error::Host`] where the host refuses or it is a block device.
    pub fn set_len(&self, len: u64) -> Result<()> {
        self.check_writable()?;
        if self.is_block {
            return Err(Error::host("resize", &self.path, Errno::INVAL));
        }
        let cut = self.len().saturating_sub(len);
        let _guard = self.check_held(IoOp::Discard, len, cut)?;
        retry(|| rustix::fs::ftruncate(&self.fd, len)).map_err(|e| Error::host("resize", &self.path, e))?;
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    /// `Err` where writing is not allowed, or no longer.
    pub fn check_writable(&self) -> Result<()> {
        if self.access == Access::ReadOnly {
            return Err(Error::ReadOnly);
        }
        if self.is_poisoned() {
            return Err(Error::Poisoned);
        }
        Ok(())
    }

    fn failed(&self, op: IoOp, offset: u64, len: u64, source: Errno) -> Error {
        if op != IoOp::Read {
            self.poison();
        }
        Error::Io { op, offset, len, source: source.into() }
    }

    fn write_all(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            match rustix::io::pwrite(&self.fd, &data[done..], offset + done as u64) {
                Ok(0) => return Err(self.failed(IoOp::Write, offset, data.len() as u64, Errno::NOSPC)),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.failed(IoOp::Write, offset, data.len() as u64, e)),
            }
        }
        Ok(())
    }

    /// One call for up to `IOV_MAX` parts; where it takes less than all of them, what is left goes part by part.
    fn write_all_parts(&self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        const IOV_MAX: usize = 1024;
        let mut at = offset;
        for some in parts.chunks(IOV_MAX) {
            let len: usize = some.iter().map(|p| p.len()).sum();
            let taken = match retry(|| rustix::io::pwritev(&self.fd, some, at)) {
                Ok(n) => n,
                Err(e) => return Err(self.failed(IoOp::Write, at, len as u64, e)),
            };
            let mut end = at;
            for part in some {
                let start = end;
                end += part.len() as u64;
                let skip = (at + taken as u64).saturating_sub(start).min(part.len() as u64);
                if skip < part.len() as u64 {
                    self.write_all(start + skip, &part[skip as usize..])?;
                }
            }
            at = end;
        }
        Ok(())
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        const STEP: u64 = 1 << 20;
        let len = range.end - range.start;
        let zeros = vec![0; len.min(STEP) as usize];
        let mut at = range.start;
        while at < range.end {
            let n = (range.end - at).min(STEP);
            self.write_all(at, &zeros[..n as usize])?;
            at += n;
        }
        Ok(())
    }

    /// Whether the host zeroed the range without being handed the zeros.
    fn host_zeroes(&self, range: &Range<u64>) -> Result<bool> {
        // On a block device ZERO_RANGE is what BLKZEROOUT does, and the kernel drops its cached pages as well.
        let mode = if self.is_block { FallocateFlags::ZERO_RANGE } else { FallocateFlags::PUNCH_HOLE };
        self.host_allocates(mode | FallocateFlags::KEEP_SIZE, range)
    }

    fn host_allocates(&self, mode: FallocateFlags, range: &Range<u64>) -> Result<bool> {
        match retry(|| rustix::fs::fallocate(&self.fd, mode, range.start, range.end - range.start)) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV | Errno::PERM) => Ok(false),
            Err(e) => Err(self.failed(IoOp::Discard, range.start, range.end - range.start, e)),
        }
    }
}

impl BlockDevice for FileDevice {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let len = buf.len() as u64;
        check_range(IoOp::Read, offset, len, self.len())?;
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&self.fd, &mut buf[done..], offset + done as u64) {
                Ok(0) => {
                    // Somebody cut the file short under the lock.
                    let source = std::io::ErrorKind::UnexpectedEof.into();
                    return Err(Error::Io { op: IoOp::Read, offset, len, source });
                }
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.failed(IoOp::Read, offset, len, e)),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check_writable()?;
        check_range(IoOp::Write, offset, data.len() as u64, self.len())?;
        let _guard = self.check_held(IoOp::Write, offset, data.len() as u64)?;
        self.write_all(offset, data)
    }

    fn write_parts_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        self.check_writable()?;
        check_range(IoOp::Write, offset, parts.iter().map(|p| p.len() as u64).sum(), self.len())?;
        self.write_all_parts(offset, parts)
    }

    fn copy_from(&self, file: BorrowedFd<'_>, from: u64, offset: u64, len: u64) -> Result<u64> {
        self.check_writable()?;
        check_range(IoOp::Write, offset, len, self.len())?;
        let (mut from, mut to) = (from, offset);
        while to < offset + len {
            let left = usize::try_from(offset + len - to).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(file, Some(&mut from), &self.fd, Some(&mut to), left) {
                Ok(n) if n > 0 => {}
                Err(Errno::INTR) => {}
                // What the matter is shows when the rest is read and written.
                _ => break,
            }
        }
        Ok(to - offset)
    }

    fn flush(&self) -> Result<()> {
        if self.access == Access::ReadOnly {
            return Ok(());
        }
        self.check_writable()?;
        // Never retried after an error: the kernel reports a lost write once.
        match rustix::fs::fdatasync(&self.fd) {
            Ok(()) => Ok(()),
            Err(e) => Err(self.failed(IoOp::Flush, 0, self.len(), e)),
        }
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        check_range(IoOp::Discard, offset, len, self.len())?;
        let _guard = self.check_held(IoOp::Discard, offset, len)?;
        let whole = offset..offset + len;
        let inner = if self.is_block {
            offset.next_multiple_of(ZERO_ALIGN).min(whole.end)..(whole.end / ZERO_ALIGN * ZERO_ALIGN).max(offset)
        } else {
            whole.clone()
        };
        if inner.is_empty() || !self.host_zeroes(&inner)? {
            return self.write_zeros(whole);
        }
        self.write_zeros(whole.start..inner.start)?;
        self.write_zeros(inner.end..whole.end)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<bool> {
        self.check_writable()?;
        check_range(IoOp::Discard, offset, len, self.len())?;
        let _guard = self.check_held(IoOp::Discard, offset, len)?;
        if len == 0 {
            return Ok(true);
        }
        // On a block device that cannot do it without writing, the kernel refuses this mode.
        self.host_allocates(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, &(offset..offset + len))
    }

    fn freeze(&self, offset: u64, len: usize) -> Option<FrozenView<'_>> {
        check_range(IoOp::Read, offset, len as u64, self.len()).ok()?;
        if self.is_block || len == 0 {
            return None;
        }
        let range = offset..offset + len as u64;
        self.held.write().unwrap_or_else(PoisonError::into_inner).push(range.clone());
        FrozenView::of(self.fd.as_fd(), Hold { file: self, range })
    }

    fn host_file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        Some((self.fd.as_fd(), 0))
    }

    fn is_read_only(&self) -> bool {
        self.access == Access::ReadOnly
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        Ok(next_data(self.fd.as_fd(), offset, self.len()))
    }
}

impl AsFd for FileDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The next range of `fd` that is not a hole; where the host cannot tell, all the rest.
pub(super) fn next_data(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Option<Range<u64>> {
    if offset >= len {
        return None;
    }
    let start = match rustix::fs::seek(fd, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return None,
        Err(_) => return Some(offset..len),
    };
    let end = rustix::fs::seek(fd, SeekFrom::Hole(start)).unwrap_or(len).min(len);
    (start < end).then_some(start..end)
}

fn is_regular(mode: u32) -> bool {
    FileType::from_raw_mode(mode) == FileType::RegularFile
}

/// Whether it is a block device; `Err` where it is no regular file either.
fn check_type(path: &Path, mode: u32) -> Result<bool> {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Ok(false),
        FileType::BlockDevice => Ok(true),
        _ => Err(not_an_image(path)),
    }
}

fn not_an_image(path: &Path) -> Error {
    Error::InvalidArgument {
        name: "image",
        value: path.display().to_string(),
        allowed: "a regular file or a block device",
    }
}

fn lock(fd: &OwnedFd, path: &Path, access: Access) -> Result<()> {
    let operation = match access {
        Access::ReadOnly => FlockOperation::NonBlockingLockShared,
        Access::ReadWrite => FlockOperation::NonBlockingLockExclusive,
    };
    match retry(|| rustix::fs::flock(fd, operation)) {
        // Filesystems that know no locks: there is nothing to keep out with.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(Error::Busy { path: path.to_path_buf() }),
        Err(e) => Err(Error::host("lock", path, e)),
    }
}

/// Call again as long as a signal comes in between.
pub(super) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn blocks(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().blocks()
    }

    #[test]
    fn a_new_file_is_sparse_and_zeroing_gives_room_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("img");
        let d = FileDevice::create_new(&path, 64 << 20).unwrap();
        assert_eq!(d.len(), 64 << 20);
        assert!(blocks(&path) <= 8);
        d.write_at(16 << 20, &vec![7; 4 << 20]).unwrap();
        d.flush().unwrap();
        let full = blocks(&path);
        assert!((8192..9000).contains(&full), "{full}");
        let data = d.next_data(0).unwrap().unwrap();
        assert_eq!(data, 16 << 20..20 << 20);
        d.zero((16 << 20) + 5, (2 << 20) - 5).unwrap();
        d.flush().unwrap();
        assert!(blocks(&path) <= full - 4000, "{}", blocks(&path));
        let mut b = [9; 8];
        d.read_at(16 << 20, &mut b).unwrap();
        assert_eq!(b, [7, 7, 7, 7, 7, 0, 0, 0]);
        assert_eq!(d.next_data(20 << 20).unwrap(), None);
        assert_eq!(d.next_data(u64::MAX).unwrap(), None);
    }

    #[test]
    fn parts_are_written_one_behind_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let d = FileDevice::create(dir.path().join("img"), 8192).unwrap();
        // More parts than one call takes, of changing length, one of them empty.
        let bytes: Vec<u8> = (0..4000u32).map(|n| (n * 7) as u8).collect();
        let parts: Vec<IoSlice<'_>> = bytes.chunks(3).chain(std::iter::once(&[][..])).map(IoSlice::new).collect();
        assert!(parts.len() > 1024);
        d.write_parts_at(100, &parts).unwrap();
        let mut got = vec![0; 4000];
        d.read_at(100, &mut got).unwrap();
        assert_eq!(got, bytes);
        assert!(d.write_parts_at(5000, &parts).is_err() && !d.is_poisoned());
    }

    #[test]
    fn the_host_copies_where_it_can_and_no_further_than_the_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n * 7) as u8).collect();
        std::fs::write(dir.path().join("source"), &bytes).unwrap();
        let source = std::fs::File::open(dir.path().join("source")).unwrap();
        let d = FileDevice::create(dir.path().join("img"), 1 << 20).unwrap();
        let done = d.copy_from(source.as_fd(), 1000, 5000, 299_500).unwrap() as usize;
        assert!(done <= 299_000, "{done} bytes of a file that has 299000 left");
        let mut got = vec![0; done];
        d.read_at(5000, &mut got).unwrap();
        assert_eq!(got, bytes[1000..1000 + done]);
        assert!(d.copy_from(source.as_fd(), 0, 1 << 20, 1).is_err());
        drop(d);
        let d = FileDevice::open(dir.path().join("img"), Access::ReadOnly).unwrap();
        assert!(matches!(d.copy_from(source.as_fd(), 0, 0, 10), Err(Error::ReadOnly)));
    }

    #[test]
    fn one_writer_or_many_readers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("img");
        let writer = FileDevice::create(&path, 4096).unwrap();
        writer.write_at(0, b"kept").unwrap();
        for e in [
            FileDevice::open(&path, Access::ReadOnly).unwrap_err(),
            FileDevice::open(&path, Access::ReadWrite).unwrap_err(),
            FileDevice::create(&path, 10).unwrap_err(),
        ] {
            assert!(matches!(&e, Error::Busy { path: p } if *p == path), "{e:?}");
        }
        drop(writer);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4096);
        let one = FileDevice::open(&path, Access::ReadOnly).unwrap();
        let two = FileDevice::open(&path, Access::ReadOnly).unwrap();
        assert!(matches!(FileDevice::open(&path, Access::ReadWrite), Err(Error::Busy { .. })));
        let mut b = [0; 4];
        two.read_at(0, &mut b).unwrap();
        assert_eq!(&b, b"kept");
        assert!(matches!(one.write_at(0, &[1]), Err(Error::ReadOnly)));
        assert!(matches!(one.zero(0, 1), Err(Error::ReadOnly)));
        drop((one, two));
        FileDevice::open(&path, Access::ReadWrite).unwrap();
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::from_raw_mode(0o600)).unwrap();
        for path in [dir.path(), &fifo, Path::new("/dev/null")] {
            let e = FileDevice::open(path, Access::ReadOnly).unwrap_err();
            assert!(matches!(e, Error::InvalidArgument { name: "image", .. }), "{e:?}");
            let e = FileDevice::create(path, 0).unwrap_err();
            assert!(matches!(e, Error::InvalidArgument { name: "image", .. }), "{e:?}");
        }
        let e = FileDevice::open(dir.path().join("none"), Access::ReadOnly).unwrap_err();
        assert!(matches!(e, Error::Host { op: "open", .. }), "{e:?}");
        std::fs::write(dir.path().join("there"), b"x").unwrap();
        assert!(FileDevice::create_new(dir.path().join("there"), 1).is_err());
        assert_eq!(std::fs::read(dir.path().join("there")).unwrap(), b"x");
    }

    #[test]
    fn the_length_can_change() {
        let dir = tempfile::tempdir().unwrap();
        let d = FileDevice::create(dir.path().join("img"), 10).unwrap();
        d.write_at(0, &[1; 10]).unwrap();
        assert!(d.write_at(10, &[1]).is_err());
        assert!(!d.is_poisoned(), "a caller's mistake is not a failed write");
        d.set_len(4).unwrap();
        d.set_len(12).unwrap();
        let mut b = [9; 12];
        d.read_at(0, &mut b).unwrap();
        assert_eq!(b, [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_first_failed_write_is_the_last() {
        // /dev/full is a character device, so the descriptor is put in place by hand.
        let fd: OwnedFd = std::fs::OpenOptions::new().read(true).write(true).open("/dev/full").unwrap().into();
        let d = FileDevice::new(fd, Path::new("/dev/full"), 4096, Access::ReadWrite, false);
        assert!(matches!(d.write_at(0, &[1]), Err(Error::Io { op: IoOp::Write, .. })));
        assert!(matches!(d.write_at(0, &[1]), Err(Error::Poisoned)));
        assert!(matches!(d.flush(), Err(Error::Poisoned)));
        d.read_at(0, &mut [0]).unwrap();
    }

    #[test]
    fn the_lock_ends_with_the_device_though_another_has_the_file_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("img");
        let d = FileDevice::create_new(&path, 4096).unwrap();
        // As a child has it between fork and exec.
        let child = rustix::io::dup(&d.fd).unwrap();
        assert!(matches!(FileDevice::open(&path, Access::ReadOnly), Err(Error::Busy { .. })));
        drop(d);
        let d = FileDevice::open(&path, Access::ReadWrite).unwrap();
        drop(child);
        assert!(matches!(FileDevice::open(&path, Access::ReadOnly), Err(Error::Busy { .. })));
        drop(d);
    }

    #[test]
    fn a_file_cut_short_under_the_lock_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("img");
        let d = FileDevice::create(&path, 8192).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
        assert!(matches!(d.read_at(4096, &mut [0; 10]), Err(Error::Io { op: IoOp::Read, .. })));
    }
}
