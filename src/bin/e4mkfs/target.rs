//! Where the filesystem goes: an existing file or block device, a new file that appears complete or not at all, or standard
//! output, every byte in order.

use std::io::Write;
use std::path::Path;

use ext4kit::Result;
use ext4kit::cli::Failure;
use ext4kit::device::{Access, BlockDevice, FileDevice, NewFile};

/// Bytes written to standard output at once.
const CHUNK: usize = 1 << 20;

/// A file or device to be written.
#[derive(Debug)]
pub(crate) struct Target {
    place: Place,
    /// Reads as zeros all over.
    pub(crate) fresh: bool,
}

#[derive(Debug)]
enum Place {
    Existing(FileDevice),
    New(NewFile),
    /// Kept in a file without a name until it is complete.
    Stdout(FileDevice),
}

impl Target {
    /// Open what exists, for `need` bytes from `offset`; a regular file grows as needed.
    pub(crate) fn existing(path: &Path, offset: u64, need: u64) -> Result<Self> {
        let device = FileDevice::open(path, Access::ReadWrite)?;
        let end = offset + need;
        if !device.is_block_device() && device.len() < end {
            device.set_len(end)?;
        }
        let mut fresh = false;
        if !device.is_block_device() {
            let in_the_way = device.next_data(offset)?.is_some_and(|r| r.start < end);
            if in_the_way && offset == 0 && device.len() == end {
                device.set_len(0)?;
                device.set_len(end)?;
            } else if in_the_way {
                device.zero(offset, need)?;
            }
            fresh = true;
        }
        Ok(Self { place: Place::Existing(device), fresh })
    }

    /// A new file of `len` bytes that gets its name in [`Target::finish`].
    pub(crate) fn new_file(path: &Path, len: u64) -> Result<Self> {
        Ok(Self { place: Place::New(NewFile::create(path, len)?), fresh: true })
    }

    /// Standard output, for `len` bytes.
    pub(crate) fn stdout(len: u64) -> Result<Self> {
        Ok(Self { place: Place::Stdout(NewFile::unnamed(std::env::temp_dir(), len)?), fresh: true })
    }

    pub(crate) const fn device(&self) -> &FileDevice {
        match &self.place {
            Place::Existing(device) | Place::Stdout(device) => device,
            Place::New(file) => file.device(),
        }
    }

    /// The filesystem is complete.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        match self.place {
            Place::Existing(_) => Ok(()),
            Place::New(file) => Ok(file.publish()?),
            Place::Stdout(file) => stream(&file),
        }
    }
}

/// Write all of `file` to standard output; its holes are zeros.
fn stream(file: &FileDevice) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let mut buf = vec![0; CHUNK];
    let zeros = vec![0; CHUNK];
    let (mut at, len) = (0, file.len());
    while at < len {
        let data = file.next_data(at)?.unwrap_or(len..len);
        while at < data.start {
            let n = (data.start - at).min(CHUNK as u64);
            out.write_all(&zeros[..n as usize])?;
            at += n;
        }
        while at < data.end {
            let n = (data.end - at).min(CHUNK as u64);
            let part = &mut buf[..n as usize];
            file.read_at(at, part)?;
            out.write_all(part)?;
            at += n;
        }
    }
    Ok(out.flush()?)
}
