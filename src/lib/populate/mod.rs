//! Filling a new filesystem with files in one pass.
//!
//! A [`Source`] lists a [`Tree`]; the tree is planned (inode numbers, directory blocks, file blocks) before a byte is written;
//! then contents are copied in ascending order by several threads, and metadata is written once. The same tree gives the
//! same bytes whatever the order in which the host lists it and whatever the number of threads.

mod copy;
mod dirs;
mod fit;
mod inodes;
mod plan;
mod xattrs;

pub use crate::source::{Attributes, HostDir, Reader, Segment, Source, TarFile, Tree};
pub use fit::fit;

use crate::device::BlockDevice;
use crate::error::{Error, Result};
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

/// Make a filesystem of `layout` on `dev`, filled with `tree` from `source`. `fresh` says that the device reads as zeros.
///
/// # Errors
/// [`Error::NoSpace`] before anything is written where the tree does not fit; what the source or the device reports.
pub fn build(
    layout: Layout,
    source: &dyn Source,
    tree: &Tree,
    dev: &dyn BlockDevice,
    fresh: bool,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Draft> {
    let own = tree.brings_lost_found()?;
    let mut draft = if own { Draft::without_lost_found(layout)? } else { Draft::new(layout)? };
    let need = draft.layout().byte_len();
    if dev.len() < need {
        return Err(Error::DeviceTooSmall { need, have: dev.len() });
    }
    let lost_found = draft.lost_found();
    let plan = Plan::new(&mut draft, tree, lost_found)?;
    let csums = draft.checksums();
    let found = Copier { tree, plan: &plan, csums, dev, progress }.run(source, threads)?;
    let xattrs = XattrTable::new(&mut draft, tree, found)?;
    let l = draft.layout();
    let inodes = TreeInodes {
        tree,
        plan: &plan,
        xattrs: &xattrs,
        csums,
        inode_size: l.inode_size() as u16,
        sectors: draft.ratio() * u64::from(l.block_size() / 512),
        ratio: draft.ratio(),
        now: l.now(),
        lost_found: !own,
        root_owner: l.root_owner(),
    };
    draft.write_with(dev, fresh, &inodes)?;
    Ok(draft)
}
