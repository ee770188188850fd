//! A device that saves what it overwrites: before a block changes for the first time, its old bytes go to a file, durably. With
//! that file the device can be brought back to what it was, also after a kill.
//!
//! The file, all numbers little-endian: a header of 32 bytes (`E4UNDO1\n`, length of the device in bytes (64 bits), length of a
//! saved piece in bytes (32 bits), CRC-32C of the 20 bytes before (32 bits), eight zeros), then one record for each piece that
//! changed: offset (64 bits), length (32 bits), CRC-32C of offset, length and bytes (32 bits), the bytes.
//!
//! Invariants: a record is durable before the write that it belongs to begins; every piece is saved once, as it was when the
//! device was opened. A record cut short at the end of the file belongs to a write that never happened.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::BlockDevice;
use crate::error::{Error, IoOp, Result};

const MAGIC: &[u8; 8] = b"E4UNDO1\n";
const HEADER: usize = 32;
const RECORD: usize = 16;
/// Bytes of a piece.
const PIECE: u64 = 4096;

/// Bytes that are saved and zeroed at once.
const ZEROED: u64 = 1 << 20;

/// A device whose old content goes to a file.
#[derive(Debug)]
pub struct UndoDevice<D> {
    base: D,
    log: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    file: File,
    /// Pieces that were saved, by number.
    saved: BTreeSet<u64>,
}

fn file_error(op: IoOp, source: std::io::Error) -> Error {
    Error::Io { op, offset: 0, len: 0, source }
}

fn open_error(path: &Path, e: &std::io::Error) -> Error {
    Error::host("open", path, rustix::io::Errno::from_io_error(e).unwrap_or(rustix::io::Errno::IO))
}

fn header(len: u64) -> [u8; HEADER] {
    let mut h = [0; HEADER];
    h[..8].copy_from_slice(MAGIC);
    h[8..16].copy_from_slice(&len.to_le_bytes());
    h[16..20].copy_from_slice(&(PIECE as u32).to_le_bytes());
    let crc = crc32c::crc32c(&h[..20]);
    h[20..24].copy_from_slice(&crc.to_le_bytes());
    h
}

impl<D: BlockDevice> UndoDevice<D> {
    /// Save what `base` loses to a new file.
    ///
    /// # Errors
    /// [`Error::Io`] where there is a file of that name already, or it cannot be written.
    pub fn create(base: D, path: &Path) -> Result<Self> {
        let open = File::options().write(true).create_new(true).open(path);
        let mut file = open.map_err(|e| open_error(path, &e))?;
        let write = file.write_all(&header(base.len())).and_then(|()| file.sync_all());
        write.map_err(|e| file_error(IoOp::Write, e))?;
        Ok(Self { base, log: Mutex::new(Log { file, saved: BTreeSet::new() }) })
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Save the pieces of a range that were not saved yet.
    fn save(&self, log: &mut Log, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len).min(self.base.len());
        let mut records = Vec::new();
        let mut pieces = Vec::new();
        for piece in offset / PIECE..end.div_ceil(PIECE) {
            if log.saved.contains(&piece) {
                continue;
            }
            let at = piece * PIECE;
            let mut bytes = vec![0; PIECE.min(self.base.len() - at) as usize];
            self.base.read_at(at, &mut bytes)?;
            let mut head = [0; RECORD];
            head[..8].copy_from_slice(&at.to_le_bytes());
            head[8..12].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..12]), &bytes);
            head[12..].copy_from_slice(&crc.to_le_bytes());
            records.extend_from_slice(&head);
            records.extend_from_slice(&bytes);
            pieces.push(piece);
        }
        if pieces.is_empty() {
            return Ok(());
        }
        let write = log.file.write_all(&records).and_then(|()| log.file.sync_data());
        write.map_err(|e| file_error(IoOp::Write, e))?;
        log.saved.extend(pieces);
        Ok(())
    }
}

impl<D: BlockDevice> BlockDevice for UndoDevice<D> {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.base.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut log = self.lock();
        self.save(&mut log, offset, data.len() as u64)?;
        self.base.write_at(offset, data)
    }

    fn flush(&self) -> Result<()> {
        self.base.flush()
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        super::check_range(IoOp::Discard, offset, len, self.base.len())?;
        let mut log = self.lock();
        let (mut at, end) = (offset, offset + len);
        // What is a hole already stays one, and is saved when something is written there.
        while let Some(data) = self.base.next_data(at)?.filter(|d| d.start < end) {
            at = data.start.max(at);
            let n = (data.end.min(end) - at).min(ZEROED);
            self.save(&mut log, at, n)?;
            self.base.zero(at, n)?;
            at += n;
        }
        Ok(())
    }

    fn is_read_only(&self) -> bool {
        self.base.is_read_only()
    }

    fn next_data(&self, offset: u64) -> Result<Option<std::ops::Range<u64>>> {
        self.base.next_data(offset)
    }
}

/// Write back what an [`UndoDevice`] saved in `path`; how many bytes.
///
/// # Errors
/// [`Error::InvalidArgument`] where the file is none of these, or belongs to a device of another length; [`Error::Io`] where
/// reading or writing failed.
pub fn undo(device: &dyn BlockDevice, path: &Path) -> Result<u64> {
    let mut file = File::open(path).map_err(|e| open_error(path, &e))?;
    let mut head = [0; HEADER];
    let read = file.read_exact(&mut head);
    if read.is_err() || head != header(device.len()) {
        let (value, allowed) = (path.display().to_string(), "a file that was made for this device");
        return Err(Error::InvalidArgument { name: "undo file", value, allowed });
    }
    let mut at = HEADER as u64;
    let mut done = 0;
    loop {
        let mut record = [0; RECORD];
        file.seek(SeekFrom::Start(at)).map_err(|e| file_error(IoOp::Read, e))?;
        if file.read_exact(&mut record).is_err() {
            break;
        }
        let field = |r: std::ops::Range<usize>| record.get(r).unwrap_or_default().iter().rev();
        let offset = field(0..8).fold(0u64, |n, b| n << 8 | u64::from(*b));
        let len = field(8..12).fold(0u64, |n, b| n << 8 | u64::from(*b));
        let crc = field(12..16).fold(0u32, |n, b| n << 8 | u32::from(*b));
        if len > PIECE {
            break;
        }
        let mut bytes = vec![0; len as usize];
        let whole = file.read_exact(&mut bytes).is_ok();
        if !whole || crc != crc32c::crc32c_append(crc32c::crc32c(&record[..12]), &bytes) {
            // The write that this one was for did not happen.
            break;
        }
        device.write_at(offset, &bytes)?;
        done += len;
        at += RECORD as u64 + len;
    }
    device.flush()?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    #[test]
    fn what_was_overwritten_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo");
        let before: Vec<u8> = (0..50_001u32).map(|i| (i % 251) as u8).collect();
        let device = UndoDevice::create(MemoryDevice::from_bytes(before.clone()), &path).unwrap();
        assert!(
            UndoDevice::create(MemoryDevice::from_bytes(before.clone()), &path).is_err(),
            "files are not overwritten"
        );
        device.write_at(10, &[1; 9000]).unwrap();
        device.write_at(4000, &[2; 200]).unwrap();
        device.zero(40_000, 10_001).unwrap();
        device.flush().unwrap();
        let changed = MemoryDevice::from_bytes(device.base.to_bytes());
        assert_ne!(changed.to_bytes(), before);
        undo(&changed, &path).unwrap();
        assert_eq!(changed.to_bytes(), before);
        // A record cut short is that of a write that did not happen.
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 7]).unwrap();
        let again = MemoryDevice::from_bytes(before.clone());
        undo(&again, &path).unwrap();
        assert_eq!(again.to_bytes(), before);
        assert!(undo(&MemoryDevice::from_bytes(vec![0; 10]), &path).is_err());
    }
}
