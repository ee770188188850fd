//! Where a copy goes on the host, by the rules of cp.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A destination, looked at once, before anything is copied. The path is the user's own: symbolic links in it are followed.
#[derive(Debug)]
pub struct Destination {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// A directory that is there: copies go into it.
    Directory(OwnedFd),
    /// Nothing yet: the copy gets this name in this directory.
    New(OwnedFd, Vec<u8>),
    /// Something other than a directory.
    Other,
}

impl Destination {
    /// Look at a destination for `sources` sources: more than one need a directory that is there.
    ///
    /// # Errors
    /// [`Error::Host`] where it, or for a new one its parent, cannot be opened; [`Error::InvalidArgument`] where several
    /// sources have no directory to go into.
    pub fn open(path: impl AsRef<Path>, sources: usize) -> Result<Self> {
        let path = path.as_ref();
        let kind = match rustix::fs::stat(path) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                Kind::Directory(open_dir(path)?)
            }
            Ok(_) => Kind::Other,
            Err(Errno::NOENT) => new(path)?,
            Err(e) => return Err(Error::host("look at", path, e)),
        };
        if sources > 1 && !matches!(kind, Kind::Directory(_)) {
            return Err(Error::InvalidArgument {
                name: "destination",
                value: path.display().to_string(),
                allowed: "a directory that exists, for several sources",
            });
        }
        Ok(Self { path: path.to_path_buf(), kind })
    }
}

/// A destination that does not exist: its parent must.
fn new(path: &Path) -> Result<Kind> {
    let text = path.as_os_str().as_bytes();
    let end = text.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
    let text = text.get(..end).unwrap_or_default();
    let cut = text.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    let (parent, name) = text.split_at_checked(cut).unwrap_or((b"", text));
    if matches!(name, b"" | b"." | b"..") {
        return Err(Error::host("look at", path, Errno::NOENT));
    }
    let parent = if parent.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(parent)) };
    Ok(Kind::New(open_dir(parent)?, name.to_vec()))
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::host("open", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_what_cp_takes_it_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), b"").unwrap();
        assert!(matches!(Destination::open(dir.path(), 2).unwrap().kind, Kind::Directory(_)));
        assert!(matches!(Destination::open(at("file"), 1).unwrap().kind, Kind::Other));
        for new in ["new", "new/", "new//"] {
            let d = Destination::open(at(new), 1).unwrap();
            assert!(matches!(d.kind, Kind::New(_, name) if name == b"new"), "{new}");
        }
        assert!(matches!(Destination::open(at("new"), 2), Err(Error::InvalidArgument { .. })));
        assert!(matches!(Destination::open(at("file"), 2), Err(Error::InvalidArgument { .. })));
        assert!(matches!(Destination::open(at("no/new"), 1), Err(Error::Host { .. })));
        assert!(matches!(Destination::open("", 1), Err(Error::Host { .. })));
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        // The name is taken by a link that leads nowhere: making it new fails later, and never follows.
        assert!(matches!(Destination::open(at("dangling"), 1).unwrap().kind, Kind::New(..)));
    }
}
