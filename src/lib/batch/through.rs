//! Content written through the page cache of the write path (`crate::file`), in pieces, in order: delayed, reserved,
//! allocated at writeback, converted at the end of I/O. Sizes and offsets in bytes.
//!
//! All of it stays inside the batch's one transaction: the path must not commit ([`Commits::Held`]), its metadata is in the
//! running transaction, and its data goes to blocks that were free at the last commit, before the next one. What was in
//! the file before is freed first, and its blocks are held back until the commit; so a crash finds the old content or the
//! new one. One file at a time is in the page cache, of which no more than [`DIRTY`] bytes stay dirty.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::contents::Origin;
use super::session::Session;
use crate::error::{Error, Result};
use crate::file::{Commits, IovIter, Mount, MountOptions, PathChoice};
use crate::source::Reader;
use crate::source::tree::NodeId;
use crate::units::Ino;

/// Bytes that are written before writeback starts: what the caches of a processor hold.
const DIRTY: u64 = 8 << 20;
/// Pieces smaller than this are taken from a buffer of [`WINDOW`] bytes.
const SMALL: usize = 64 << 10;
/// Bytes that are read from the source at a time for small pieces.
const WINDOW: usize = 256 << 10;
/// The way around the page cache.
pub(super) const DIRECT: &str = "direct";

/// How content is written through the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Through {
    /// Which path; [`PathChoice::Auto`] is iomap where the file allows it, else buffer heads.
    pub path: PathChoice,
    /// Bytes of one write.
    pub write_size: usize,
}

impl Through {
    /// The mount options that this means.
    pub(super) fn mount(self) -> MountOptions {
        let path = if self.path == PathChoice::Auto { PathChoice::Iomap } else { self.path };
        MountOptions { path, dirty_bytes: DIRTY, commits: Commits::Held, ..MountOptions::default() }
    }
}

/// Which way the content of a file goes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// `iomap`, `buffer-head`, or `direct`: around the page cache.
    pub path: &'static str,
    /// Why it is not the one that was asked for; empty where it is.
    pub why: &'static str,
}

impl Session {
    /// Whether content goes through the page cache.
    pub(super) const fn is_through(&self) -> bool {
        self.through().is_some()
    }

    /// Whether `size` bytes of content go around the page cache although it was asked for; and why.
    pub(super) fn around(&mut self, ino: Ino, size: u64) -> Result<Option<Route>> {
        let direct = |why| Ok(Some(Route { path: DIRECT, why }));
        if !self.is_through() {
            return direct("");
        }
        if Mount::check_pages(self.volume()).is_err() {
            return direct("blocks are larger than a page");
        }
        if self.run(|n| n.is_inline(ino, size))? { direct("inline data") } else { Ok(None) }
    }

    /// Write a file of the source through the page cache.
    pub(super) fn put_through(
        &mut self,
        ino: Ino,
        origin: &Arc<Origin>,
        id: NodeId,
        reader: &mut dyn Reader,
    ) -> Result<Route> {
        let node = origin.node(id)?;
        self.leave_room()?;
        let was = self.run_on_content(ino, |n| n.begin_content(ino, node.size))?;
        self.mount.recount();
        let route = self.route(ino)?;
        reader.open(id)?;
        let lent = self.borrow(ino, origin, id, reader);
        let written = lent.and_then(|is_lent| self.write_pieces(ino, origin, id, reader, is_lent));
        self.mount.forget(ino);
        if matches!(written, Err(Error::Io { .. } | Error::Poisoned)) {
            self.mount.journal.abort();
        }
        written.map_err(|e| self.too_large(e))?;
        reader.close()?;
        self.run(|n| n.end_content(&was))?;
        Ok(route)
    }

    /// The path that writes to a file take.
    fn route(&mut self, ino: Ino) -> Result<Route> {
        self.mount.load(ino)?;
        let Some(i) = self.mount.inode(ino) else { return Ok(Route { path: DIRECT, why: "" }) };
        let path = self.mount.path_of(i).name();
        let (is_iomap, why) = self.mount.uses_iomap(i);
        let asked = is_iomap || self.mount.options().path == PathChoice::BufferHead;
        Ok(Route { path, why: if asked { "" } else { why } })
    }

    /// Where large folios may refer to what the source has instead of holding copies, see [`Mount::lend`]; whether they may.
    fn borrow(&mut self, ino: Ino, origin: &Origin, id: NodeId, reader: &dyn Reader) -> Result<bool> {
        let iomap = self.mount.inode(ino).is_some_and(|i| self.mount.uses_iomap(i).0);
        match reader.host_range() {
            Some((file, base)) if iomap => {
                let path = origin.tree.path(id);
                self.mount.lend(ino, file, base, Path::new(OsStr::from_bytes(&path))).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    fn write_pieces(
        &mut self,
        ino: Ino,
        origin: &Arc<Origin>,
        id: NodeId,
        reader: &mut dyn Reader,
        is_lent: bool,
    ) -> Result<()> {
        let node = origin.node(id)?;
        let size = self.through().map_or(SMALL, |t| t.write_size).max(1);
        let mut window = Window { at: 0, bytes: Vec::new() };
        for s in origin.segments(node).iter() {
            let mut at = s.start;
            let stop = s.end.min(node.size);
            while at < stop {
                let len = (stop - at).min(size as u64) as usize;
                let mut piece = Piece { reader, window: &mut window, at, len, stop, small: size < SMALL, is_lent };
                let taken = self.mount.write_from(ino, at, &mut piece)? as u64;
                self.went_on(taken)?;
                at += taken;
            }
        }
        let end = self.mount.inode(ino).map_or(0, |i| i.size);
        if end < node.size {
            self.mount.truncate(ino, node.size)?;
        }
        self.mount.write_back(ino, 0..u64::MAX)
    }
}

/// Bytes of the source, read ahead for small pieces.
struct Window {
    at: u64,
    bytes: Vec<u8>,
}

/// One write's bytes, from the source.
struct Piece<'a> {
    reader: &'a mut dyn Reader,
    window: &'a mut Window,
    at: u64,
    len: usize,
    /// Where the segment ends.
    stop: u64,
    small: bool,
    is_lent: bool,
}

impl IovIter for Piece<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn is_lent(&self) -> bool {
        self.is_lent
    }

    fn copy(&mut self, at: usize, out: &mut [u8]) -> Result<()> {
        let from = self.at + at as u64;
        if !self.small {
            return self.reader.read(from, out);
        }
        let w = &mut *self.window;
        let mut done = 0;
        while done < out.len() {
            let at = from + done as u64;
            let have = at.checked_sub(w.at).and_then(|skip| w.bytes.get(skip as usize..)).filter(|b| !b.is_empty());
            let Some(have) = have else {
                w.bytes.resize((self.stop - at).min(WINDOW as u64) as usize, 0);
                w.at = at;
                if let Err(e) = self.reader.read(at, &mut w.bytes) {
                    w.bytes.clear();
                    return Err(e);
                }
                continue;
            };
            let n = have.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&have[..n]);
            done += n;
        }
        Ok(())
    }
}
