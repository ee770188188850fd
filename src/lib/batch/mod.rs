//! Edits of an existing image as one transaction: a tree, an archive or a script goes in as a whole, or not at all.
//!
//! [`Session`] is an image that is edited; [`copy_in`] puts files of a source into it, [`Script`] is a list of commands that
//! [`Script::run`] carries out. The order of a batch: everything that changes metadata is done in memory first, so that
//! whatever can be refused (a name, a missing file, space, room in the journal) is refused before a byte is written; then
//! content is copied to blocks that nothing refers to; then one commit exposes all of it.
//!
//! What was done can be taken back ([`Session::take_back`]), also after it was committed.
//!
//! Callers: `e4cp`, the shell. Paths are bytes, from the image's root.

mod args;
mod back;
mod contents;
mod copy;
mod mmp;
mod mode;
mod script;
mod session;
mod through;
mod words;

pub use args::owner as parse_owner;
pub use back::Change;
pub use contents::Origin;
pub use copy::CopyOptions;
pub use mode::ModeChange;
pub use script::{Command, Script, base_name};
pub use session::{Options, Session};
pub use through::{Route, Through};

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::features::Incompat;
use crate::format::inode::FileType;
use crate::namei::{Attributes, split};
use crate::progress::Progress;
use crate::source::HostDir;
use crate::units::Ino;
use crate::volume::LastLink;
use copy::Copier;

/// Permissions of directories that are made on the way to a destination.
pub const WAY: Attributes = Attributes::root(0o755);

/// What happened to a path of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Something new has this name.
    Make,
    /// A file has other content.
    Write,
    /// The name is one more of an object that has others.
    Link,
    /// The name is gone, with all below.
    Remove,
    /// The object has this name now.
    Move,
    /// Attributes are others.
    Change,
}

/// Hears of what happens, as it happens in memory: it counts once the batch has been committed.
pub trait Watch {
    /// Something happened to a path.
    fn done(&mut self, action: Action, path: &[u8]) {
        let _ = (action, path);
    }

    /// The content of a file goes this way; told where [`Options::through`] asks for a way.
    fn route(&mut self, path: &[u8], route: Route) {
        let _ = (path, route);
    }

    /// An extended attribute has no place in ext4 and was left out.
    fn left_out(&mut self, path: &[u8], name: &[u8]) {
        let _ = (path, name);
    }
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watch for Unwatched {}

/// What a batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Files made, or whose content was written.
    pub files: u64,
    /// Directories made.
    pub directories: u64,
    /// Symbolic links, devices, pipes and sockets made.
    pub others: u64,
    /// Names given to what has another one.
    pub links: u64,
    /// Names removed; what is below a directory is not counted.
    pub removed: u64,
    /// Objects whose attributes alone were changed.
    pub changed: u64,
    /// Names left as they are because something was there.
    pub skipped: u64,
    /// Files whose content was equal already.
    pub same: u64,
    /// Extended attributes left out.
    pub left_out: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// Where files go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Into this directory, whose path is given: the content of the source's directory.
    Merge(Ino, Vec<u8>),
    /// Under a name in a directory, whose path is given.
    Name(Ino, Vec<u8>, Vec<u8>),
}

/// Which node of a source is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The directory that the source is.
    Top,
    /// The only file in it.
    Only,
}

impl Session {
    /// Where a copy called `base` that is to go to `path` goes: into the directory of that path, where there is one (without
    /// `base`, its content is merged), else under that name, whose directory must be there.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`] (also where `path` ends with a slash and is none).
    pub fn target(&self, path: &[u8], base: Option<&[u8]>) -> Result<Target> {
        let there = match self.volume().resolve_inode(path, LastLink::Follow) {
            Ok((ino, inode)) => (inode.file_type() == Some(FileType::Directory)).then_some(ino),
            Err(Error::NotFound { .. }) => None,
            Err(e) => return Err(e),
        };
        if let Some(ino) = there {
            return Ok(match base {
                Some(base) => Target::Name(ino, path.to_vec(), base.to_vec()),
                None => Target::Merge(ino, path.to_vec()),
            });
        }
        if path.ends_with(b"/") && base.is_some() {
            return Err(Error::NotDirectory { path: path.to_vec() });
        }
        self.name_target(path)
    }

    /// The name that `path` ends with, in its directory, which must be there.
    ///
    /// # Errors
    /// As [`Session::target`].
    pub fn name_target(&self, path: &[u8]) -> Result<Target> {
        let (parent, name) = split(path);
        if matches!(name, b"" | b"." | b"..") {
            return Err(Error::Exists { path: path.to_vec() });
        }
        let (dir, inode) = self.volume().resolve_inode(parent, LastLink::Follow).map_err(|e| e.about(parent))?;
        if inode.file_type() != Some(FileType::Directory) {
            return Err(Error::NotDirectory { path: parent.to_vec() });
        }
        Ok(Target::Name(dir, parent.to_vec(), name.to_vec()))
    }

    /// Make the directories that lead to `path`, the last component included.
    ///
    /// # Errors
    /// [`Error::NotDirectory`] where something else is in the way; [`Error::NoSpace`].
    pub fn make_path(&mut self, path: &[u8], attributes: &Attributes) -> Result<Ino> {
        self.run(|n| n.make_path(path, attributes))
    }
}

/// Copy files of a source into the image, in the running transaction.
///
/// # Errors
/// What cannot be read or written, by name. The transaction then holds a part of it and must be given up.
pub fn copy_in(
    session: &mut Session,
    origin: &Arc<Origin>,
    pick: Pick,
    target: &Target,
    options: &CopyOptions,
    watch: &mut dyn Watch,
    report: &mut Report,
) -> Result<()> {
    let node = match pick {
        Pick::Top => 0,
        Pick::Only => 1,
    };
    let geo = session.volume().geometry();
    // What is copied surely needs as much; how much more its metadata needs is found out as it is made.
    if !options.sync && !options.keep && !geo.features.incompat.contains(Incompat::INLINE_DATA) {
        session.check_room(origin.tree.data_bytes() / u64::from(geo.block_size), 0)?;
    }
    if session.is_through() {
        session.begin_writing(origin.tree.data_bytes());
    }
    let mut copier = Copier::new(session, origin, options, watch, report)?;
    let done = match target {
        Target::Merge(ino, path) => copier.merge(node, *ino, path),
        Target::Name(dir, parent, name) => copier.copy(node, *dir, parent, name),
    };
    if copier.session.is_through() {
        copier.session.end_writing();
    }
    done
}

/// A file or directory of the host as a source. A file is the only one of its source; a symbolic link is followed unless
/// directories are gone into.
///
/// # Errors
/// [`Error::Host`]; [`Error::InvalidArgument`] for a directory that is not to be gone into.
pub fn host_origin(
    path: &Path,
    recursive: bool,
    options: &CopyOptions,
    threads: usize,
    progress: &dyn Progress,
) -> Result<(Arc<Origin>, Pick)> {
    let stat = |p: &Path| if recursive { std::fs::symlink_metadata(p) } else { std::fs::metadata(p) };
    let meta = stat(path).map_err(|e| Error::host("open", path, e))?;
    let with = |source: HostDir| {
        if options.preserve.xattrs || options.preserve.mode { source } else { source.without_xattrs() }
    };
    if meta.is_dir() {
        if !recursive {
            let value = path.display().to_string();
            return Err(Error::InvalidArgument { name: "source", value, allowed: "a file; directories need -r" });
        }
        return Ok((Origin::list(with(HostDir::open(path)?), threads, progress)?, Pick::Top));
    }
    let source = with(HostDir::open_file(path, !recursive)?);
    Ok((Origin::list(source, 1, progress)?, Pick::Only))
}

/// A path one name longer.
fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = parent.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
