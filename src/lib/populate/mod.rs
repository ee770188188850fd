//! Filling a new filesystem with files in one pass.
//!
//! A [`Source`] lists a [`Tree`]; the tree is planned (inode numbers, directory blocks, file blocks) before a byte is written;
//! then contents are copied in ascending order by several threads, and metadata is written once. The same tree gives the
//! same bytes whatever the order in which the host lists it and whatever the number of threads.

mod copy;
mod dirs;
mod fit;
mod gather;
mod inline;
mod inodes;
mod minimize;
mod plan;
mod xattrs;

pub use crate::source::{
    Attributes, Exclude, FileContexts, HostDir, Labelled, Overlay, OwnerMap, OwnerNames, Reader, Segment, Source,
    SpecFile, TarFile, Tree,
};
pub use fit::{Slack, enough_inodes, fit};
pub use gather::{Dropped, Gathered};
pub use minimize::{minimize, trial};

use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::features::Compat;
use crate::mkfs::{Draft, Layout};
use crate::progress::Progress;
use crate::source::tree;
use copy::Copier;
use inodes::TreeInodes;
use plan::Plan;
use xattrs::XattrTable;

/// Name of the directory that a checker puts lost files into.
const LOST_FOUND: &[u8] = b"lost+found";

impl Tree {
    /// Whether the root has a directory `lost+found` of its own.
    fn brings_lost_found(&self) -> Result<bool> {
        let Some(root) = self.node(0) else { return Ok(false) };
        match self.dir_entries(root).iter().find(|e| self.name(e.name) == LOST_FOUND) {
            None => Ok(false),
            Some(e) if self.node(e.node).is_some_and(tree::Node::is_dir) => Ok(true),
            Some(_) => Err(Error::NotDirectory { path: b"/lost+found".to_vec() }),
        }
    }
}

/// What goes into a filesystem.
pub struct Files<'a> {
    /// Where contents come from.
    pub source: &'a dyn Source,
    /// What it listed.
    pub tree: &'a Tree,
    /// Extended attributes, where they were read before; else they are read on the way.
    pub attributes: Option<Gathered>,
}

impl std::fmt::Debug for Files<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("files", &self.tree.len()).finish_non_exhaustive()
    }
}

/// A filesystem that is made.
#[derive(Debug)]
pub struct Filled {
    /// What it is like.
    pub draft: Draft,
    /// Extended attributes that it does not hold.
    pub dropped: Vec<Dropped>,
}

/// Make a filesystem of `layout` on `dev`, filled with `files`. `fresh` says that the device reads as zeros.
///
/// # Errors
/// [`Error::NoSpace`] before anything is written where the tree does not fit; what the source or the device reports.
pub fn build(
    layout: Layout,
    files: Files<'_>,
    dev: &dyn BlockDevice,
    fresh: bool,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Filled> {
    let Files { source, tree, attributes } = files;
    let own = tree.brings_lost_found()?;
    let mut draft = if own { Draft::without_lost_found(layout)? } else { Draft::new(layout)? };
    let need = draft.layout().byte_len();
    if dev.len() < need {
        return Err(Error::DeviceTooSmall { need, have: dev.len() });
    }
    let lost_found = draft.lost_found();
    let plan = Plan::new(&mut draft, tree, lost_found)?;
    let csums = draft.checksums();
    let copier = Copier { tree, plan: &plan, csums, dev, progress, attributes: attributes.is_none() };
    let copied = copier.run(source, threads)?;
    let mut found = attributes.map_or_else(|| Gathered::new(tree, copied.xattrs), Ok)?;
    if !draft.layout().features().compat.contains(Compat::EXT_ATTR) {
        found.drop_all(tree);
    }
    let xattrs = XattrTable::new(&mut draft, tree, &found, &copied.inline)?;
    let inodes = TreeInodes::new(&draft, tree, &plan, &xattrs, &copied.inline);
    draft.write_with(dev, fresh, &inodes)?;
    Ok(Filled { draft, dropped: found.dropped().to_vec() })
}
