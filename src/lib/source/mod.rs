//! Where files come from: a source lists a tree once, and then hands out contents to several threads at once.

mod contexts;
pub(crate) mod forest;
mod host;
mod overlay;
mod rules;
mod spec;
mod tar;
pub(crate) mod tree;

pub use contexts::{FileContexts, Labelled, OwnerNames};
pub use host::HostDir;
pub use overlay::Overlay;
pub use rules::{Exclude, OwnerMap};
pub use spec::SpecFile;
pub use tar::TarFile;
pub use tree::{Attributes, Segment, Tree};

use std::os::fd::BorrowedFd;

use crate::error::Result;
use crate::progress::Progress;

/// Extended attributes of a file: names and values, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

impl<S: Source + ?Sized> Source for Box<S> {
    fn list(&self, threads: usize, progress: &dyn Progress) -> Result<Tree> {
        (**self).list(threads, progress)
    }

    fn reader<'a>(&'a self, tree: &'a Tree) -> Result<Box<dyn Reader + 'a>> {
        (**self).reader(tree)
    }
}

/// A source of files.
pub trait Source: Send + Sync {
    /// List all files. The tree must be the same whatever the order in which the host lists them and whatever the number
    /// of `threads`.
    ///
    /// # Errors
    /// What cannot be read, by name.
    fn list(&self, threads: usize, progress: &dyn Progress) -> Result<Tree>;

    /// A reader of contents for one thread.
    ///
    /// # Errors
    /// What cannot be opened, by name.
    fn reader<'a>(&'a self, tree: &'a Tree) -> Result<Box<dyn Reader + 'a>>;
}

/// Reads contents, one file after the other.
pub trait Reader {
    /// Turn to a node of the tree. Cheapest when nodes come in order.
    ///
    /// # Errors
    /// What cannot be opened, by name.
    fn open(&mut self, node: u32) -> Result<()>;

    /// Fill `buf` from byte `offset` of the file.
    ///
    /// # Errors
    /// [`crate::Error::HostChanged`] where the file ends before.
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// The file of the host that the node's content is, where it is one; its bytes are those that [`Reader::read`] gives.
    fn host_file(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// A file of the host that has the node's content from some byte on, and that byte, where there is one.
    fn host_range(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.host_file().map(|file| (file, 0))
    }

    /// The extended attributes of the node, sorted by name; names and values as the host gives them.
    ///
    /// # Errors
    /// What cannot be read, by name.
    fn xattrs(&mut self) -> Result<Xattrs>;

    /// The extended attributes of any node, without reading its content.
    ///
    /// # Errors
    /// What cannot be read, by name.
    fn attributes(&mut self, node: u32) -> Result<Xattrs> {
        self.open(node)?;
        let found = self.xattrs()?;
        self.close()?;
        Ok(found)
    }

    /// Done with the node.
    ///
    /// # Errors
    /// [`crate::Error::HostChanged`] where it is not what was listed any more.
    fn close(&mut self) -> Result<()>;

    /// Done with all nodes.
    ///
    /// # Errors
    /// [`crate::Error::HostChanged`] where the source as a whole is not what was listed any more.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
