//! Copying out of an image: into a tree of the host, into a tar stream, onto the screen, or into nothing; and its metadata alone,
//! into another image ([`MetadataImage`]).
//!
//! Everything here reads the image through [`Volume`] and trusts none of it:
//!
//! - Names come from the image. One that is empty, `.`, `..`, or holds `/` or NUL is an error and nothing is made for
//!   it. What is made below the destination is made relative to open directories, never through a path and never
//!   through a symbolic link, whether the image or somebody else put it there.
//! - A directory is entered once. One that has a second name, its own descendant's included, is an error at that
//!   second name; so a walk ends, whatever the image says. Depth costs memory, not stack, and few open files.
//! - A file that cannot be read in full is left out. The error names it, the rest goes on, and the [`Report`] counts it.
//!
//! The root's own `lost+found` is left out where it is empty: it belongs to the filesystem, not to its content.
//!
//! Times, sizes and offsets: seconds and nanoseconds, bytes. Paths in the image are bytes with `/` between names.

mod data;
mod destination;
mod discard;
mod entry;
mod hostdir;
mod links;
mod list;
mod listing;
mod meta;
mod metadata;
mod names;
mod pax;
mod run;
mod scan;
mod scramble;
mod scramble_xattrs;
mod tar;
mod tree;
mod walk;

pub use destination::Destination;
pub use list::{Listed, Listing};
pub use metadata::{MetadataImage, MetadataReport};
pub use names::printable;
pub use run::{Note, Observer, Report, SilentObserver};

use std::io::Write;

use crate::error::Result;
use crate::format::inode::Inode;
use crate::progress::Progress;
use crate::units::Ino;
use crate::volume::{LastLink, Volume};

/// What of a file's metadata is kept; what is not kept is as for a new file of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preserve {
    /// Permissions, set-id bits and access control lists.
    pub mode: bool,
    /// Owner and group, as far as the host allows.
    pub owner: bool,
    /// Times of access and modification.
    pub times: bool,
    /// Extended attributes, as far as the host allows.
    pub xattrs: bool,
    /// Several names of one file stay names of one file.
    pub links: bool,
}

impl Preserve {
    /// Everything.
    pub const ALL: Self = Self { mode: true, owner: true, times: true, xattrs: true, links: true };
    /// Permissions with their lists, owner and times.
    pub const BASIC: Self = Self { mode: true, owner: true, times: true, xattrs: false, links: false };
}

/// How to copy.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Copy directories with all that is in them, and symbolic links and devices as such. Without it only files are
    /// copied, and a symbolic link named as a source is followed.
    pub recursive: bool,
    /// What metadata is kept.
    pub preserve: Preserve,
    /// Threads that work; 0 counts as 1.
    pub jobs: usize,
    /// The process's file mode creation mask: what the host takes away from the mode of a new file.
    pub umask: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { recursive: true, preserve: Preserve::ALL, jobs: 1, umask: 0o022 }
    }
}

/// A path in the image to copy.
#[derive(Clone, Debug)]
pub struct Source {
    /// As it was given.
    pub path: Vec<u8>,
    /// What it stands for.
    pub ino: Ino,
    /// The inode.
    pub inode: Inode,
}

impl Source {
    /// Look up a path. A symbolic link at its end is followed only on request.
    ///
    /// # Errors
    /// Those of [`Volume::resolve`].
    pub fn find(volume: &Volume, path: &[u8], last: LastLink) -> Result<Self> {
        let (ino, inode) = volume.resolve_inode(path, last)?;
        Ok(Self { path: path.to_vec(), ino, inode })
    }

    /// The name it gets in a directory it is copied into; `None` for `/`, `.` and `..`, which stand for the content.
    pub fn base_name(&self) -> Option<&[u8]> {
        let name = self.path.rsplit(|b| *b == b'/').find(|c| !c.is_empty())?;
        (name != b"." && name != b"..").then_some(name)
    }
}

/// Copies out of one volume.
#[derive(Clone, Copy)]
pub struct Extractor<'a> {
    /// The volume.
    pub volume: &'a Volume,
    /// How.
    pub options: Options,
    /// Hears of every error and note.
    pub observer: &'a dyn Observer,
    /// Hears how far it is.
    pub progress: &'a dyn Progress,
}

impl std::fmt::Debug for Extractor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Extractor").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Extractor<'_> {
    /// Copy `sources` to `destination` on the host.
    ///
    /// # Errors
    /// Only what ends the whole copy: cancelled, or the host's filesystem is full or read-only. All else is told to the
    /// observer and counted in the report.
    pub fn copy(&self, sources: &[Source], destination: &Destination) -> Result<Report> {
        tree::copy(self, sources, destination)
    }

    /// Write `sources` with everything below them to `out` as a tar; metadata is always kept.
    ///
    /// # Errors
    /// [`crate::Error::Host`] where `out` takes no more, or the image could not be read in the middle of a file; cancelled.
    pub fn tar(&self, sources: &[Source], out: &mut dyn Write) -> Result<Report> {
        tar::write(self, sources, out)
    }

    /// List `sources`: one [`Listing`] for each directory (with [`Options::recursive`] also for each below) and for
    /// each source that is none.
    ///
    /// # Errors
    /// Those of `visit`.
    pub fn list(&self, sources: &[Source], visit: &mut dyn FnMut(Listing) -> Result<()>) -> Result<Report> {
        list::list(self, sources, visit)
    }

    /// Read everything that a copy would read, attributes and content, and keep nothing.
    ///
    /// # Errors
    /// Cancelled; all else is told to the observer and counted in the report.
    pub fn discard(&self, sources: &[Source]) -> Result<Report> {
        discard::discard(self, sources)
    }
}
