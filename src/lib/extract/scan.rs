//! A walk over a tree of the image by one thread, in order of names: for what is written in order.
//!
//! A directory comes before what is in it, and is entered once: at a second name it is an error.

use std::collections::HashSet;

use super::Source;
use super::listing::{Entry, Listing};
use super::names;
use super::run::Run;
use super::walk::{self, Item};
use crate::error::Result;
use crate::format::inode::{FileType, InodeFlags};
use crate::units::Ino;
use crate::volume::Owner;

/// A directory that is being read.
struct Level {
    ino: Ino,
    /// Length of its path.
    path: usize,
    entries: std::vec::IntoIter<Entry>,
}

/// Reads directories for a walk in order.
pub(super) struct Scan<'r, 'a> {
    run: &'r Run<'a>,
    seen: HashSet<Ino>,
}

impl<'r, 'a> Scan<'r, 'a> {
    pub(super) fn new(run: &'r Run<'a>) -> Self {
        Self { run, seen: HashSet::new() }
    }

    /// The entries of a directory by name; what cannot be read is told, and missing.
    pub(super) fn entries(&mut self, owner: Owner<'_>, path: impl Fn() -> Vec<u8>) -> Result<Vec<Entry>> {
        if owner.inode.flags().contains(InodeFlags::ENCRYPT) {
            return Err(walk::encrypted());
        }
        if !self.seen.insert(owner.ino) {
            return Err(walk::second_name(owner.ino));
        }
        let mut listing = Listing::read(self.run.volume, owner);
        for e in listing.errors {
            self.run.fail(&path(), e);
        }
        listing.entries.sort();
        Ok(listing.entries)
    }

    /// Visit a source and all below it. Paths begin with `prefix`. The visitor's errors are told and end nothing, but that
    /// a directory it refuses is not entered.
    pub(super) fn tree(
        &mut self,
        source: &Source,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &Item<'_>) -> Result<()>,
    ) {
        let run = self.run;
        let mut path = prefix.to_vec();
        let top = Item { name: prefix, ino: source.ino, inode: &source.inode };
        let mut levels = Vec::new();
        if let Err(e) = self.one(&path, &top, &mut levels, visit) {
            run.fail(&path, e);
        }
        while let Some(level) = levels.last_mut() {
            if run.is_stopped() {
                return;
            }
            let Some((name, ino)) = level.entries.next() else {
                levels.pop();
                continue;
            };
            let dir = level.ino;
            path.truncate(level.path);
            if path.last() != Some(&b'/') {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if let Err(e) = self.below(dir, &path, &name, ino, &mut levels, visit) {
                run.fail(&path, e);
            }
            run.advance(1);
        }
    }

    fn below(
        &mut self,
        dir: Ino,
        path: &[u8],
        name: &[u8],
        ino: Ino,
        levels: &mut Vec<Level>,
        visit: &mut dyn FnMut(&[u8], &Item<'_>) -> Result<()>,
    ) -> Result<()> {
        names::check(name, dir)?;
        let inode = walk::entry_inode(self.run.volume, dir, ino)?;
        let item = Item { name, ino, inode: &inode };
        if inode.file_type() == Some(FileType::Directory)
            && walk::is_empty_lost_found(self.run.volume, dir, name, item.owner())
        {
            return Ok(());
        }
        self.one(path, &item, levels, visit)
    }

    fn one(
        &mut self,
        path: &[u8],
        item: &Item<'_>,
        levels: &mut Vec<Level>,
        visit: &mut dyn FnMut(&[u8], &Item<'_>) -> Result<()>,
    ) -> Result<()> {
        if item.inode.file_type() != Some(FileType::Directory) {
            return visit(path, item);
        }
        let entries = self.entries(item.owner(), || path.to_vec())?;
        visit(path, item)?;
        levels.push(Level { ino: item.ino, path: path.len(), entries: entries.into_iter() });
        Ok(())
    }
}
