//! How every tool names and opens an image: `PATH` or `PATH@OFFSET`.
//!
//! `OFFSET` is in bytes, or carries a suffix of [`parse_size`]: `disk.img@1M`, `disk.img@2048s`. A path that exists as
//! it stands is taken as it stands, so files with `@` in their name need nothing special.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Access, BlockDevice, FileDevice, MmapDevice, WindowDevice};
use crate::error::{Error, Result};
use crate::units::parse_size;

/// Which image, and where in it the filesystem begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// The file or block device.
    pub path: PathBuf,
    /// Byte offset of the filesystem's first byte.
    pub offset: u64,
}

impl ImageSpec {
    /// Read `PATH` or `PATH@OFFSET`. Looks whether the path exists literally; otherwise, a last part after `@` that is no
    /// size belongs to the path.
    pub fn parse(text: impl AsRef<OsStr>) -> Self {
        let text = text.as_ref();
        let whole = || Self { path: text.into(), offset: 0 };
        let bytes = text.as_bytes();
        let Some(at) = bytes.iter().rposition(|&b| b == b'@') else { return whole() };
        if at == 0 || std::fs::symlink_metadata(text).is_ok() {
            return whole();
        }
        match str::from_utf8(&bytes[at + 1..]).ok().and_then(|t| parse_size(t, 1)) {
            Some(offset) => Self { path: OsStr::from_bytes(&bytes[..at]).into(), offset },
            None => whole(),
        }
    }

    /// Open an existing image. For reading, a regular file is mapped into memory where the host can.
    ///
    /// # Errors
    /// Those of [`FileDevice::open`]; [`Error::InvalidArgument`] where the offset is beyond the end.
    pub fn open(&self, access: Access) -> Result<Arc<dyn BlockDevice>> {
        let file = FileDevice::open(&self.path, access)?;
        // A bad sector under a map ends the process (SIGBUS); read through the file it is an error like any other.
        if access == Access::ReadWrite || file.is_block_device() || file.len() == 0 {
            return self.windowed(file);
        }
        match MmapDevice::from_file(file) {
            Ok(map) => self.windowed(map),
            Err((file, _)) => self.windowed(file),
        }
    }

    /// Put the window that the offset asks for over a device that was opened in another way.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the offset is beyond the end.
    pub fn windowed(&self, device: impl BlockDevice + 'static) -> Result<Arc<dyn BlockDevice>> {
        if self.offset == 0 {
            return Ok(Arc::new(device));
        }
        let size = device.len();
        if self.offset >= size {
            return Err(Error::InvalidArgument {
                name: "offset",
                value: self.offset.to_string(),
                allowed: "less than the size of the image",
            });
        }
        Ok(Arc::new(WindowDevice::from_offset(device, self.offset)?))
    }
}

impl fmt::Display for ImageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)?;
        if self.offset != 0 {
            write!(f, "@{}", self.offset)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &str, offset: u64) -> ImageSpec {
        ImageSpec { path: path.into(), offset }
    }

    #[test]
    fn the_offset_follows_the_last_at_sign() {
        assert_eq!(ImageSpec::parse("none.img"), spec("none.img", 0));
        assert_eq!(ImageSpec::parse("none.img@4096"), spec("none.img", 4096));
        assert_eq!(ImageSpec::parse("none@x@2048s"), spec("none@x", 1 << 20));
        assert_eq!(ImageSpec::parse("none@x"), spec("none@x", 0));
        assert_eq!(ImageSpec::parse("none@"), spec("none@", 0));
        assert_eq!(ImageSpec::parse("@5"), spec("@5", 0));
        assert_eq!(ImageSpec::parse("none@1M").to_string(), "none@1048576");
        let odd = OsStr::from_bytes(b"none\xff@8");
        assert_eq!(ImageSpec::parse(odd), ImageSpec { path: OsStr::from_bytes(b"none\xff").into(), offset: 8 });
    }

    #[test]
    fn a_file_with_an_at_sign_is_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a@16");
        std::fs::write(&path, b"x").unwrap();
        assert_eq!(ImageSpec::parse(&path), ImageSpec { path, offset: 0 });
    }

    #[test]
    fn opens_what_lies_at_the_offset() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, (0..=255u8).collect::<Vec<_>>()).unwrap();
        let open = |offset, access| ImageSpec { path: path.clone(), offset }.open(access);
        let d = open(200, Access::ReadOnly).unwrap();
        assert_eq!((d.len(), d.is_read_only()), (56, true));
        assert_eq!(d.slice(1, 2).unwrap(), [201, 202]);
        drop(d);
        let d = open(200, Access::ReadWrite).unwrap();
        d.write_at(55, &[7]).unwrap();
        assert!(d.write_at(56, &[7]).is_err());
        assert!(d.slice(0, 1).is_none());
        drop(d);
        assert_eq!(std::fs::read(&path).unwrap()[255], 7);
        assert!(matches!(open(256, Access::ReadOnly), Err(Error::InvalidArgument { name: "offset", .. })));
    }

    #[test]
    fn an_empty_file_opens_as_an_empty_device() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(ImageSpec::parse(&path).open(Access::ReadOnly).unwrap().len(), 0);
    }
}
