//! The write path between two operations of a script: what the kernel would hold in memory of each open file, and what the
//! running transaction has taken. Blocks are logical, sizes bytes, reservations clusters.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::View;
use super::page::Page;
use super::table::{Align, Table};
use crate::file::extent_status::EsStatus;
use crate::file::{MemInode, Mount};
use crate::units::Ino;

/// An entry of an extent-status tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LiveEntry {
    /// First block.
    pub lblk: u32,
    /// Blocks.
    pub len: u32,
    /// What they are.
    pub status: EsStatus,
    /// First block on the device, where they have one.
    pub pblk: Option<u64>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LiveFile {
    /// Its name in the script.
    pub name: String,
    /// Its inode.
    pub ino: u32,
    /// How its buffered writes go: `buffer-head` or `iomap`.
    pub path: &'static str,
    /// `i_size`.
    pub size: u64,
    /// `i_disksize`.
    pub disksize: u64,
    /// `i_es_seq`: changes of the extent-status tree.
    pub seq: u64,
    /// Reserved clusters.
    pub reserved: u32,
    /// Logical clusters with a pending reservation.
    pub pending: Vec<u32>,
    /// Folios in the page cache.
    pub folios: u64,
    /// Dirty ones: first page and pages of each.
    pub dirty: Vec<(u64, u64)>,
    /// The extent-status tree.
    pub es: Vec<LiveEntry>,
}

/// The state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LiveView {
    /// The number of the operation, from 0 on.
    pub step: u64,
    /// What was done, in words.
    pub operation: String,
    /// Its error, where it had one.
    pub errno: Option<String>,
    /// The running transaction.
    pub transaction: u32,
    /// Metadata blocks that it has changed.
    pub credits_used: u64,
    /// Metadata blocks that it may still change.
    pub credits_left: u64,
    /// Free clusters, reserved ones among them.
    pub free_clusters: u64,
    /// Reserved clusters of all files.
    pub dirty_clusters: u64,
    /// Open files.
    pub files: Vec<LiveFile>,
}

impl LiveFile {
    fn new(mount: &Mount, name: &str, i: &MemInode) -> Self {
        let es = i.dd.es();
        Self {
            name: name.to_owned(),
            ino: i.o.ino.0,
            path: mount.path_of(i).name(),
            size: i.size,
            disksize: i.disksize,
            seq: es.seq(),
            reserved: i.dd.reserved(),
            pending: i.dd.pending().collect(),
            folios: i.cache.iter().count() as u64,
            dirty: i.cache.iter().filter(|f| f.dirty).map(|f| (f.index, f.next_index() - f.index)).collect(),
            es: es
                .iter()
                .map(|e| LiveEntry {
                    lblk: e.lblk.0,
                    len: e.len,
                    status: e.status,
                    pblk: e.status.is_mapped().then_some(e.pblk.0),
                })
                .collect(),
        }
    }
}

impl LiveView {
    /// The state of `mount` with the files `open`, after operation number `step`: `operation`, in words.
    pub fn new(
        mount: &Mount,
        open: &BTreeMap<String, Ino>,
        step: u64,
        operation: String,
        errno: Option<String>,
    ) -> Self {
        let journal = mount.journal();
        let files = open.iter().filter_map(|(name, ino)| Some(LiveFile::new(mount, name, mount.inode(*ino)?)));
        Self {
            step,
            operation,
            errno,
            transaction: journal.running().0,
            credits_used: journal.pending().0,
            credits_left: journal.room(),
            free_clusters: mount.space().free.exact(),
            dirty_clusters: mount.space().dirty.exact(),
            files: files.collect(),
        }
    }
}

/// Ranges of pages: `0-3 8`.
fn pages(dirty: &[(u64, u64)]) -> String {
    let one = |(first, len): &(u64, u64)| match len {
        1 => first.to_string(),
        _ => format!("{first}-{}", first + len - 1),
    };
    if dirty.is_empty() { "-".into() } else { dirty.iter().map(one).collect::<Vec<_>>().join(" ") }
}

impl View for LiveView {
    const SCHEMA: &'static str = "live/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let errno = self.errno.as_ref().map(|e| format!(" = {e}")).unwrap_or_default();
        writeln!(page, "#{} {}{errno}", self.step, self.operation)?;
        writeln!(
            page,
            "transaction {}: {} credits used, {} left; clusters: {} free, {} of them reserved",
            self.transaction, self.credits_used, self.credits_left, self.free_clusters, self.dirty_clusters
        )?;
        let number = |n: &dyn std::fmt::Display| n.to_string();
        let mut files = Table::new([
            ("file", Align::Left),
            ("inode", Align::Right),
            ("path", Align::Left),
            ("size", Align::Right),
            ("disksize", Align::Right),
            ("seq", Align::Right),
            ("reserved", Align::Right),
            ("pending", Align::Left),
            ("folios", Align::Right),
            ("dirty pages", Align::Left),
        ]);
        for f in &self.files {
            let pending: Vec<String> = f.pending.iter().map(u32::to_string).collect();
            files.row([
                f.name.clone(),
                number(&f.ino),
                f.path.to_owned(),
                number(&f.size),
                number(&f.disksize),
                number(&f.seq),
                number(&f.reserved),
                if pending.is_empty() { "-".into() } else { pending.join(" ") },
                number(&f.folios),
                pages(&f.dirty),
            ]);
        }
        files.write(page)?;
        let mut entries = Table::new([
            ("file", Align::Left),
            ("block", Align::Right),
            ("length", Align::Right),
            ("status", Align::Left),
            ("at", Align::Right),
        ]);
        for (f, e) in self.files.iter().flat_map(|f| f.es.iter().map(move |e| (f, e))) {
            let status = format!("{:?}", e.status).to_lowercase();
            let at = e.pblk.map_or_else(|| "-".into(), |p| p.to_string());
            entries.row([f.name.clone(), number(&e.lblk), number(&e.len), status, at]);
        }
        if self.files.iter().any(|f| !f.es.is_empty()) {
            entries.write(page)?;
        }
        writeln!(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_ranges() {
        assert_eq!(pages(&[]), "-");
        assert_eq!(pages(&[(0, 4), (8, 1)]), "0-3 8");
    }
}
