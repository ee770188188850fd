//! A tree of the image as a tar stream: pax, with nanoseconds, attributes, access control lists, hard links, devices and
//! holes (GNU sparse format 1.0).
//!
//! Entries come in order of names, the directory before what is in it, so the same image gives the same bytes. A path
//! begins with `.` where the content of a directory is asked for, else with the source's own name.

use std::collections::HashMap;
use std::io::Write;

use tar::EntryType;

use super::pax::{self, BLOCK};
use super::run::{Note, Report, Run};
use super::scan::Scan;
use super::walk::{self, Item};
use super::{Extractor, Source, data, entry};
use crate::error::{Error, Result};
use crate::format::acl::Acl;
use crate::format::inode::{FileType, InodeFlags, TimeField};
use crate::format::xattr;
use crate::units::Ino;
use crate::volume::{FileReader, Segment};

/// Fewest bytes of holes that make a file a sparse one.
const MIN_HOLES: u64 = 4096;

/// A tar under way.
struct Writer<'r, 'a, W> {
    run: &'r Run<'a>,
    out: W,
    /// Paths of files with several names.
    links: HashMap<Ino, Vec<u8>>,
    buf: Vec<u8>,
    /// The stream cannot go on: writing failed, or an entry is cut short.
    broken: Option<std::io::Error>,
}

/// Write `sources` to `out` as a tar.
pub(super) fn write(extractor: &Extractor<'_>, sources: &[Source], out: &mut dyn Write) -> Result<Report> {
    let run = Run::new(extractor);
    run.begin("writing tar", matches!(sources, [one] if one.ino == Ino::ROOT));
    let mut writer = Writer { run: &run, out, links: HashMap::new(), buf: Vec::new(), broken: None };
    for source in sources {
        let mut scan = Scan::new(&run);
        let prefix = source.base_name().unwrap_or(b".");
        scan.tree(source, prefix, &mut |path, item| writer.entry(path, item));
    }
    if !run.is_stopped() && writer.broken.is_none() {
        let end = [0; 2 * BLOCK as usize];
        writer.broken = writer.out.write_all(&end).and_then(|()| writer.out.flush()).err();
    }
    let broken = writer.broken;
    let report = run.finish();
    match broken {
        Some(source) => Err(Error::Host { op: "write", path: "standard output".into(), source }),
        None => report,
    }
}

/// What a file's content looks like in the stream.
struct Layout {
    /// Bytes in the stream.
    size: u64,
    /// The map of a sparse file, padded to whole blocks; empty for others.
    map: Vec<u8>,
}

impl Layout {
    fn of(reader: &FileReader<'_>) -> Self {
        let segments = reader.segments();
        let holes: u64 = segments.iter().map(|s| if let Segment::Zeros { len, .. } = s { *len } else { 0 }).sum();
        if holes < MIN_HOLES {
            return Self { size: reader.size(), map: Vec::new() };
        }
        let mut ranges: Vec<(u64, u64)> = segments
            .iter()
            .filter_map(|s| match s {
                Segment::Data { offset, len, .. } => Some((*offset, *len)),
                Segment::Inline { len } => Some((0, *len)),
                Segment::Zeros { .. } => None,
            })
            .collect();
        let data: u64 = ranges.iter().map(|r| r.1).sum();
        // A hole at the end is known by an empty range behind it.
        if ranges.last().is_none_or(|(offset, len)| offset + len < reader.size()) {
            ranges.push((reader.size(), 0));
        }
        let lines = ranges.iter().flat_map(|(offset, len)| [*offset, *len]);
        let mut map = Vec::new();
        for number in std::iter::once(ranges.len() as u64).chain(lines) {
            map.extend_from_slice(number.to_string().as_bytes());
            map.push(b'\n');
        }
        map.resize(map.len() + pax::padding(map.len() as u64) as usize, 0);
        Self { size: map.len() as u64 + data, map }
    }
}

impl<W: Write> Writer<'_, '_, W> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| self.stop(e))
    }

    /// End the whole stream.
    fn stop(&mut self, error: std::io::Error) -> Error {
        self.broken.get_or_insert(error);
        Error::Cancelled
    }

    fn entry(&mut self, path: &[u8], item: &Item<'_>) -> Result<()> {
        if item.inode.flags().contains(InodeFlags::ENCRYPT) {
            return Err(walk::encrypted());
        }
        let kind = item.inode.file_type().unwrap_or(FileType::Regular);
        if kind != FileType::Directory
            && item.inode.core().links_count.get() > 1
            && let Some(first) = self.links.get(&item.ino)
        {
            let mut entry = pax::Entry::new(EntryType::Link);
            entry.link(first);
            self.header(entry, path, item, 0)?;
            self.run.linked(|| path.to_vec());
            return Ok(());
        }
        match kind {
            FileType::Regular => self.regular(path, item)?,
            FileType::Directory => {
                let path = [path, b"/"].concat();
                self.header(pax::Entry::new(EntryType::Directory), &path, item, 0)?;
            }
            FileType::Symlink => {
                let mut entry = pax::Entry::new(EntryType::Symlink);
                entry.link(&entry::symlink_target(self.run, item)?);
                self.header(entry, path, item, 0)?;
            }
            FileType::Fifo => self.header(pax::Entry::new(EntryType::Fifo), path, item, 0)?,
            FileType::CharDevice | FileType::BlockDevice => {
                let block = kind == FileType::BlockDevice;
                let mut entry = pax::Entry::new(if block { EntryType::Block } else { EntryType::Char });
                let (major, minor) = item.inode.device_numbers();
                entry.device(major, minor);
                self.header(entry, path, item, 0)?;
            }
            FileType::Socket => {
                self.run.skip(Note::SocketsSkipped);
                return Ok(());
            }
        }
        if kind != FileType::Directory && item.inode.core().links_count.get() > 1 {
            self.links.insert(item.ino, path.to_vec());
        }
        self.run.copied(kind, || path.to_vec());
        Ok(())
    }

    /// Write the header: `entry` with what all kinds have.
    fn header(&mut self, mut entry: pax::Entry, path: &[u8], item: &Item<'_>, size: u64) -> Result<()> {
        entry.path(path);
        self.metadata(&mut entry, path, item);
        entry.size(size);
        self.put(&entry.finish(path))
    }

    fn metadata(&self, entry: &mut pax::Entry, path: &[u8], item: &Item<'_>) {
        entry.mode(item.inode.permissions().into());
        entry.owner(item.inode.uid(), item.inode.gid());
        entry.mtime(item.inode.time(TimeField::Modify));
        let all = match self.run.volume.xattrs(item.owner()) {
            Ok(all) => all,
            Err(e) => {
                self.run.fail(path, e);
                return;
            }
        };
        for x in all {
            let acl = match x.index {
                xattr::INDEX_POSIX_ACL_ACCESS => Some(&b"SCHILY.acl.access"[..]),
                xattr::INDEX_POSIX_ACL_DEFAULT => Some(&b"SCHILY.acl.default"[..]),
                _ => None,
            };
            match (acl, x.host_value()) {
                (Some(keyword), Ok(value)) => match Acl::decode_host(&value) {
                    Ok(acl) => entry.record(keyword, pax::acl_text(&acl).as_bytes()),
                    Err(e) => self.run.fail(path, e),
                },
                (None, Ok(value)) if !x.suffix.iter().any(|b| matches!(b, b'=' | 0 | b'\n')) => {
                    entry.record(&[b"SCHILY.xattr.", &x.name()[..]].concat(), &value);
                }
                // A record cannot hold such a name.
                (None, Ok(_)) => self.run.note(Note::XattrsNotKept),
                (_, Err(e)) => self.run.fail(path, e),
            }
        }
    }

    fn regular(&mut self, path: &[u8], item: &Item<'_>) -> Result<()> {
        let reader = data::open(self.run, item.owner())?;
        let layout = Layout::of(&reader);
        let mut entry = pax::Entry::new(EntryType::Regular);
        let sparse = !layout.map.is_empty();
        if sparse {
            entry.record(b"GNU.sparse.major", b"1");
            entry.record(b"GNU.sparse.minor", b"0");
            entry.record(b"GNU.sparse.name", path);
            entry.record(b"GNU.sparse.realsize", reader.size().to_string().as_bytes());
            let cut = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
            entry.short_path(&[&path[..cut], b"GNUSparseFile.0/", &path[cut..]].concat());
        } else {
            entry.path(path);
        }
        self.metadata(&mut entry, path, item);
        entry.size(layout.size);
        self.put(&entry.finish(path))?;
        self.put(&layout.map)?;
        self.content(path, &reader, sparse)?;
        let padding = pax::padding(layout.size);
        data::write_zeros(&mut self.out, padding).map_err(|e| self.stop(e))
    }

    /// Write a file's content, without its holes where it is sparse.
    fn content(&mut self, path: &[u8], reader: &FileReader<'_>, sparse: bool) -> Result<()> {
        let mut buf = std::mem::take(&mut self.buf);
        let (out, mut at, mut lost) = (&mut self.out, 0, None);
        let visited = data::for_each_piece(self.run, reader, &mut buf, |piece| {
            let hole = if sparse { 0 } else { piece.offset - at };
            let written = data::write_zeros(out, hole).and_then(|()| out.write_all(piece.bytes));
            at = piece.end();
            written.map_err(|e| {
                lost = Some(e);
                Error::Cancelled
            })
        });
        self.buf = buf;
        if let Some(e) = lost {
            return Err(self.stop(e));
        }
        match visited {
            Ok(bytes) => self.run.count_bytes(bytes),
            Err(e) => {
                // The size is written already: the stream would be out of step from here on.
                let text = e.to_string();
                let error = self.stop(std::io::Error::other(text));
                if !matches!(e, Error::Cancelled) {
                    self.run.fail(path, e);
                }
                return Err(error);
            }
        }
        let rest = if sparse { 0 } else { reader.size().saturating_sub(at) };
        data::write_zeros(&mut self.out, rest).map_err(|e| self.stop(e))
    }
}
