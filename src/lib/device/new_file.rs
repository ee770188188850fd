//! A new image file that appears under its name complete, or not at all.
//!
//! The file has no name while it is written (`O_TMPFILE`), so a kill at any moment leaves nothing behind. On a filesystem
//! that cannot do that it has a hidden name beside its future one, `.NAME.PID`, which is removed unless the process is killed.
//! Publishing is atomic: readers see no file (or the one that was there before), then the whole of the new one.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::FileDevice;
use super::file::retry;
use crate::error::{Error, Result};

/// A regular file on its way to a name.
#[derive(Debug)]
pub struct NewFile {
    device: FileDevice,
    path: PathBuf,
    /// Its name until then, where it needs one.
    hidden: Option<PathBuf>,
}

impl NewFile {
    /// A file of `len` zero bytes (a hole) that will be `path`.
    ///
    /// # Errors
    /// [`Error::Host`] where the directory cannot be written, [`Error::InvalidArgument`] where `path` is something other than
    /// a regular file (a directory, a device).
    pub fn create(path: impl AsRef<Path>, len: u64) -> Result<Self> {
        let path = path.as_ref();
        FileDevice::check_creatable(path)?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The name is given through /proc; where that is missing, better know now than when the work is done.
        if !Path::new("/proc/self/fd").is_dir() {
            return Self::create_hidden(path, len);
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match retry(|| rustix::fs::open(parent, flags, Mode::from_raw_mode(0o666))) {
            Ok(fd) => {
                let device = FileDevice::adopt_new(fd, path, len)?;
                Ok(Self { device, path: path.to_path_buf(), hidden: None })
            }
            // Filesystems and kernels that do not know O_TMPFILE.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Self::create_hidden(path, len),
            Err(e) => Err(Error::host("create", path, e)),
        }
    }

    /// A file of `len` zero bytes in `dir` that will never have a name.
    ///
    /// # Errors
    /// [`Error::Host`] where the directory cannot be written.
    pub fn unnamed(dir: impl AsRef<Path>, len: u64) -> Result<FileDevice> {
        let file = anonymous_file(dir.as_ref())?;
        FileDevice::adopt_new(file.into(), dir.as_ref(), len)
    }

    fn create_hidden(path: &Path, len: u64) -> Result<Self> {
        let hidden = hidden_name(path);
        let device = FileDevice::create_new(&hidden, len)?;
        Ok(Self { device, path: path.to_path_buf(), hidden: Some(hidden) })
    }

    /// The file, to be written.
    pub const fn device(&self) -> &FileDevice {
        &self.device
    }

    /// Give the file its name, in place of a file that has it now. Flush the device first where it must survive a power failure.
    ///
    /// # Errors
    /// [`Error::Poisoned`] where a write failed, [`Error::Host`] where the name cannot be given; nothing is left behind then.
    pub fn publish(mut self) -> Result<()> {
        self.device.check_writable()?;
        if self.hidden.is_none() {
            let this = format!("/proc/self/fd/{}", self.device.as_fd().as_raw_fd());
            let link = |to: &Path| rustix::fs::linkat(CWD, this.as_str(), CWD, to, AtFlags::SYMLINK_FOLLOW);
            match link(&self.path) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(e) => return Err(Error::host("create", &self.path, e)),
            }
            // A link does not replace a file; a rename does.
            let hidden = hidden_name(&self.path);
            link(&hidden).map_err(|e| Error::host("create", &hidden, e))?;
            self.hidden = Some(hidden);
        }
        if let Some(hidden) = &self.hidden {
            rustix::fs::rename(hidden, &self.path).map_err(|e| Error::host("create", &self.path, e))?;
            self.hidden = None;
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            // Nothing more can be done about a file that cannot be removed.
            let _ = rustix::fs::unlink(hidden);
        }
    }
}

/// `.NAME.PID` beside `path`.
fn hidden_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

/// A file without a name in `dir`, for what need not outlive the program.
///
/// # Errors
/// [`Error::Host`] where the directory cannot be written.
pub fn anonymous_file(dir: &Path) -> Result<File> {
    let fail = |e: Errno| Error::host("create a temporary file in", dir, e);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => return Ok(fd.into()),
        // Filesystems that do not know it.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
        Err(e) => return Err(fail(e)),
    }
    let dir_fd = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).map_err(fail)?;
    for n in 0..1000 {
        let name = format!(".ext4kit-{}-{n}", std::process::id());
        let new = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        match rustix::fs::openat(dir_fd.as_fd(), name.as_str(), new, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => {
                rustix::fs::unlinkat(dir_fd.as_fd(), name.as_str(), rustix::fs::AtFlags::empty()).map_err(fail)?;
                return Ok(fd.into());
            }
            Err(Errno::EXIST) => {}
            Err(e) => return Err(fail(e)),
        }
    }
    Err(fail(Errno::EXIST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::BlockDevice;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn both(path: &Path) -> [NewFile; 2] {
        [NewFile::create(path, 4096).unwrap(), NewFile::create_hidden(path, 4096).unwrap()]
    }

    #[test]
    fn it_appears_whole_and_replaces_what_was_there() {
        for way in 0..2 {
            for before in [None, Some(b"old")] {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("img");
                if let Some(bytes) = before {
                    std::fs::write(&path, bytes).unwrap();
                }
                let new = both(&path).into_iter().nth(way).unwrap();
                new.device().write_at(4093, b"new").unwrap();
                assert_eq!(std::fs::read(&path).ok().as_deref(), before.map(|b| &b[..]));
                new.publish().unwrap();
                let bytes = std::fs::read(&path).unwrap();
                assert_eq!((bytes.len(), &bytes[4093..]), (4096, &b"new"[..]));
                assert_eq!(names(dir.path()), ["img"]);
            }
        }
    }

    #[test]
    fn nothing_is_left_when_it_is_dropped_or_a_write_failed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("img");
        for new in both(&path) {
            new.device().poison();
            assert!(matches!(new.publish(), Err(Error::Poisoned)));
        }
        drop(both(&path));
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(NewFile::create(dir.path(), 0), Err(Error::InvalidArgument { .. })));
        let e = NewFile::create(dir.path().join("none/img"), 0).unwrap_err();
        assert!(matches!(e, Error::Host { op: "create", .. }), "{e:?}");
    }
}
