//! Where the filesystem goes: an existing file or block device, or a new file that appears complete or not at all.

use std::path::Path;

use ext4kit::Result;
use ext4kit::device::{Access, BlockDevice, FileDevice, NewFile};

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

    pub(crate) const fn device(&self) -> &FileDevice {
        match &self.place {
            Place::Existing(device) => device,
            Place::New(file) => file.device(),
        }
    }

    /// The filesystem is complete.
    pub(crate) fn finish(self) -> Result<()> {
        match self.place {
            Place::Existing(_) => Ok(()),
            Place::New(file) => file.publish(),
        }
    }
}
