//! Where the filesystem goes: an existing file or block device, or a new file that appears complete or not at all.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ext4kit::Result;
use ext4kit::device::{Access, BlockDevice, FileDevice};

/// A file or device to be written.
#[derive(Debug)]
pub(crate) struct Target {
    device: FileDevice,
    /// Reads as zeros all over.
    pub(crate) fresh: bool,
    /// Under what name to put it when it is complete; the temporary file goes away otherwise.
    rename_to: Option<PathBuf>,
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
        Ok(Self { device, fresh, rename_to: None })
    }

    /// A new file of `len` bytes that gets its name in [`Target::finish`].
    pub(crate) fn new_file(path: &Path, len: u64) -> Result<Self> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}", std::process::id()));
        let device = FileDevice::create_new(path.with_file_name(name), len)?;
        Ok(Self { device, fresh: true, rename_to: Some(path.to_path_buf()) })
    }

    pub(crate) const fn device(&self) -> &FileDevice {
        &self.device
    }

    /// The filesystem is complete.
    pub(crate) fn finish(mut self) -> Result<()> {
        if let Some(path) = self.rename_to.take() {
            std::fs::rename(self.device.path(), &path).map_err(|e| ext4kit::Error::host("rename to", &path, e))?;
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.rename_to.is_some() {
            // Nothing more can be done about a file that cannot be removed.
            let _ = std::fs::remove_file(self.device.path());
        }
    }
}
