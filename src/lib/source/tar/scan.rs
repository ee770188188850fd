//! From headers to files: reads an archive from its beginning to its end and puts what it names into a [`Forest`].
//!
//! Contents stay where they are; an item's stamp is the byte of the archive where its content begins.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::feed::Feed;
use super::header::{BLOCK, Header, text};
use super::records::{self, MAX_PIECES, Records};
use crate::env::Timestamp;
use crate::error::{EntryFlaw, Error, Result};
use crate::format::inode::FileType;
use crate::progress::Progress;
use crate::source::forest::{Body, Forest, Item, NO_SET};
use crate::source::tree::{Attributes, Segment};
use crate::source::{OwnerNames, Xattrs};

/// Bytes of an extended header at most.
const MAX_RECORDS: u64 = 64 << 20;
/// Bytes of a long name at most.
const MAX_NAME: u64 = 1 << 20;
/// Bytes of a line in a sparse file's map at most: a number of 64 bits.
const MAX_LINE: usize = 20;
/// Entries between two looks at whether to go on.
const CHECK: u64 = 256;
/// Largest major and minor number that an inode holds.
const MAX_MAJOR: u64 = (1 << 12) - 1;
const MAX_MINOR: u64 = (1 << 20) - 1;

/// Everything that the archive says beside contents.
pub(super) struct Scanned {
    pub(super) forest: Forest,
    /// Sets of extended attributes, by number.
    pub(super) sets: Vec<Xattrs>,
}

/// What goes into the forest.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) xattrs: bool,
    /// Times of last access and change.
    pub(super) times: bool,
    pub(super) owner: Option<(u32, u32)>,
    /// Names count before numbers, where they are among these.
    pub(super) names: Option<Arc<OwnerNames>>,
    pub(super) implied: Attributes,
}

/// A scan under way.
pub(super) struct Scan<'a> {
    archive: &'a Path,
    feed: Feed<'a>,
    wanted: Wanted,
    out: Scanned,
    set_of: HashMap<Xattrs, u32>,
    /// What global headers say about all that follows.
    global: Records,
    /// Where the entry begins, extended headers included, and its path as far as it is known.
    start: u64,
    path: Vec<u8>,
}

/// What comes before an entry's own header.
#[derive(Default)]
struct Ahead {
    records: Option<Records>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(archive: &'a Path, feed: Feed<'a>, wanted: Wanted) -> Self {
        let forest = Forest::new(wanted.implied);
        let out = Scanned { forest, sets: Vec::new() };
        let global = Records { names: wanted.names.clone(), ..Records::default() };
        Self { archive, feed, wanted, out, set_of: HashMap::new(), global, start: 0, path: Vec::new() }
    }

    fn flawed(&self, flaw: EntryFlaw) -> Error {
        Error::Archive { archive: self.archive.to_path_buf(), entry: self.path.clone(), offset: self.start, flaw }
    }

    fn check<T>(&self, value: Result<T, EntryFlaw>) -> Result<T> {
        value.map_err(|flaw| self.flawed(flaw))
    }

    fn read_error(&self, e: std::io::Error) -> Error {
        Error::host("read", self.archive, e)
    }

    /// Read all of it.
    pub(super) fn run(mut self, progress: &dyn Progress) -> Result<Scanned> {
        let mut ahead = Ahead::default();
        let mut entries = 0;
        let mut pending = false;
        loop {
            if !pending {
                self.start = self.feed.pos();
                self.path.clear();
            }
            let Some(header) = self.header()? else { break };
            let size = header.size();
            let size = self.check(size)?;
            pending = true;
            match header.kind() {
                b'x' | b'X' => {
                    let body = self.body(size, MAX_RECORDS, "an extended header")?;
                    let mut records = self.global.clone();
                    let parsed = records.parse(&body);
                    self.check(parsed)?;
                    ahead.records = Some(records);
                }
                b'g' => {
                    let body = self.body(size, MAX_RECORDS, "an extended header")?;
                    let parsed = self.global.parse(&body);
                    self.check(parsed)?;
                    pending = false;
                }
                b'L' => ahead.long_path = Some(text(&self.body(size, MAX_NAME, "a path")?).to_vec()),
                b'K' => ahead.long_link = Some(text(&self.body(size, MAX_NAME, "a link")?).to_vec()),
                _ => {
                    self.entry(&header, size, std::mem::take(&mut ahead))?;
                    pending = false;
                    entries += 1;
                    if entries % CHECK == 0 {
                        progress.check()?;
                        progress.advance(CHECK);
                    }
                }
            }
        }
        if pending {
            return Err(self.flawed(EntryFlaw::Truncated));
        }
        self.feed.drain().map_err(|e| self.read_error(e))?;
        progress.advance(entries % CHECK);
        Ok(self.out)
    }

    /// The next block; `None` at the end of the input.
    fn block(&mut self) -> Result<Option<Header>> {
        let mut bytes = [0; BLOCK];
        match self.feed.read(&mut bytes).map_err(|e| self.read_error(e))? {
            BLOCK => Ok(Some(Header(bytes))),
            0 => Ok(None),
            _ if self.feed.pos() < BLOCK as u64 => Err(self.flawed(EntryFlaw::NotArchive)),
            _ => Err(self.flawed(EntryFlaw::Truncated)),
        }
    }

    /// The next header; `None` at the end of the archive: blocks of zeros, or the end of the input.
    fn header(&mut self) -> Result<Option<Header>> {
        let first = self.feed.pos() == 0;
        match self.block()? {
            None if first => Err(self.flawed(EntryFlaw::NotArchive)),
            None => Ok(None),
            Some(h) if h.is_zero() => Ok(None),
            Some(h) if h.is_valid() => Ok(Some(h)),
            Some(_) if first => Err(self.flawed(EntryFlaw::NotArchive)),
            Some(_) => Err(self.flawed(EntryFlaw::Checksum)),
        }
    }

    /// The bytes that belong to an extended header.
    fn body(&mut self, size: u64, most: u64, what: &'static str) -> Result<Vec<u8>> {
        if size > most {
            return Err(self.flawed(EntryFlaw::TooLong { what, len: size }));
        }
        let mut out = Vec::new();
        while (out.len() as u64) < size {
            let from = out.len();
            out.resize((size as usize).min(from + (1 << 20)), 0);
            let n = self.feed.read(&mut out[from..]).map_err(|e| self.read_error(e))?;
            if n != out.len() - from {
                return Err(self.flawed(EntryFlaw::Truncated));
            }
        }
        self.skip(size.next_multiple_of(BLOCK as u64) - size)?;
        Ok(out)
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        if self.feed.skip(len).map_err(|e| self.read_error(e))? {
            Ok(())
        } else {
            Err(self.flawed(EntryFlaw::Truncated))
        }
    }

    /// Pass over an entry's content; the padding of the last one may be missing.
    fn pass(&mut self, len: u64) -> Result<()> {
        self.skip(len)?;
        let padding = len.next_multiple_of(BLOCK as u64) - len;
        let _ = self.feed.skip(padding).map_err(|e| self.read_error(e))?;
        Ok(())
    }

    /// Whether what follows an entry without content is a header: then the size that it names is not to be passed over.
    fn ends_here(&mut self) -> Result<bool> {
        match self.feed.peek() {
            Ok(bytes) => Ok(bytes.try_into().map(Header).map_or(true, |h| h.is_zero() || h.is_valid())),
            Err(e) => Err(Error::host("read", self.archive, e)),
        }
    }

    fn entry(&mut self, header: &Header, size: u64, ahead: Ahead) -> Result<()> {
        let mut records = ahead.records.unwrap_or_else(|| self.global.clone());
        let path = records.sparse.name.take().or(records.path.take()).or(ahead.long_path);
        self.path = path.unwrap_or_else(|| header.path());
        let link = records.link.take().or(ahead.long_link).unwrap_or_else(|| header.link());
        let size = records.size.unwrap_or(size);
        let mut attributes = self.attributes(header, &records)?;
        let slash = self.path.ends_with(b"/");
        let body = match header.kind() {
            b'0' | 0 | b'7' if slash => None,
            b'0' | 0 | b'7' | b'S' => return self.file(header, attributes, records, size),
            b'1' => {
                self.pass_if_content(size)?;
                return self.hard_link(&link);
            }
            b'2' => Some((FileType::Symlink, Body::Symlink(self.target(link)?))),
            b'3' | b'4' => {
                let device = header.device();
                let (major, minor) = self.check(device)?;
                if major > MAX_MAJOR || minor > MAX_MINOR {
                    return Err(self.flawed(EntryFlaw::Device { major, minor }));
                }
                attributes.device = (major as u32, minor as u32);
                let char_device = header.kind() == b'3';
                Some((if char_device { FileType::CharDevice } else { FileType::BlockDevice }, Body::Special))
            }
            b'5' | b'D' => None,
            b'6' => Some((FileType::Fifo, Body::Special)),
            // A volume's label; lists of Solaris.
            b'V' | b'A' => return self.pass(size),
            b'M' => return Err(self.flawed(EntryFlaw::MultiVolume)),
            code => return Err(self.flawed(EntryFlaw::Type { code })),
        };
        if header.kind() == b'D' {
            self.pass(size)?;
        } else {
            self.pass_if_content(size)?;
        }
        let item = match body {
            None => {
                attributes.mode |= FileType::Directory.mode_bits();
                Item::dir(attributes)
            }
            Some((kind, body)) => {
                attributes.mode |= kind.mode_bits();
                if kind == FileType::Symlink {
                    attributes.mode |= 0o777;
                }
                Item::new(attributes, body)
            }
        };
        self.put(item, records)
    }

    /// Types without content may name a size all the same.
    fn pass_if_content(&mut self, size: u64) -> Result<()> {
        if size == 0 || self.ends_here()? { Ok(()) } else { self.pass(size) }
    }

    fn attributes(&self, header: &Header, records: &Records) -> Result<Attributes> {
        let (uid, gid) = if let Some(owner) = self.wanted.owner {
            owner
        } else {
            let names = self.wanted.names.as_ref();
            let (user, group) = header.owner_names();
            let user = records.user.as_deref().unwrap_or(user);
            let group = records.group.as_deref().unwrap_or(group);
            let uid = names.and_then(|n| n.user(user)).or(records.uid);
            let gid = names.and_then(|n| n.group(group)).or(records.gid);
            (uid.map_or_else(|| self.check(header.uid()), Ok)?, gid.map_or_else(|| self.check(header.gid()), Ok)?)
        };
        let mtime = match records.mtime {
            Some(t) => t,
            None => Timestamp::from_secs(self.check(header.mtime())?),
        };
        let mode = self.check(header.mode())?;
        Ok(Attributes { mode, uid, gid, mtime, stamp: 0, size: 0, device: (0, 0) })
    }

    fn target(&self, link: Vec<u8>) -> Result<Box<[u8]>> {
        if link.is_empty() {
            return Err(self.flawed(EntryFlaw::NoTarget));
        }
        if link.contains(&0) {
            return Err(self.flawed(EntryFlaw::NulInName));
        }
        Ok(link.into())
    }

    fn hard_link(&mut self, target: &[u8]) -> Result<()> {
        let found = self.out.forest.find(target);
        let target = || target.to_vec();
        let Some(id) = self.check(found)? else {
            return Err(self.flawed(EntryFlaw::LinkTarget { target: target() }));
        };
        if matches!(self.out.forest.item(id).map(|i| &i.body), Some(Body::Dir(_)) | None) {
            return Err(self.flawed(EntryFlaw::LinkToDirectory { target: target() }));
        }
        let path = std::mem::take(&mut self.path);
        let placed = self.out.forest.place(&path);
        match placed {
            Ok((dir, name)) if !name.is_empty() => {
                self.out.forest.link(dir, name, id);
                Ok(())
            }
            other => {
                let flaw = other.err().unwrap_or(EntryFlaw::IsRoot);
                self.path.clone_from(&path);
                Err(self.flawed(flaw))
            }
        }
    }

    /// A regular file, with holes or without.
    fn file(&mut self, header: &Header, attributes: Attributes, records: Records, size: u64) -> Result<()> {
        let mut attributes = Attributes { size, ..attributes };
        attributes.mode |= FileType::Regular.mode_bits();
        let start = self.feed.pos();
        let pieces = if header.kind() == b'S' {
            attributes.size = self.check(header.real_size())?;
            Some(self.old_map(header)?)
        } else if records.sparse.map_in_data {
            Some(self.map_in_data(size)?)
        } else {
            records.sparse.pieces.clone()
        };
        // A map before the data counts into the size, the blocks of an old one do not.
        let map = if header.kind() == b'S' { 0 } else { self.feed.pos() - start };
        let data = size.checked_sub(map).ok_or_else(|| self.flawed(EntryFlaw::SparseMap))?;
        attributes.stamp = self.feed.pos();
        let body = match pieces {
            None => Body::File,
            Some(pieces) => {
                attributes.size = records.sparse.real_size.unwrap_or(attributes.size);
                let body = sparse_body(&pieces, attributes.size, data);
                self.check(body)?
            }
        };
        self.pass(data)?;
        self.put(Item::new(attributes, body), records)
    }

    /// The map of GNU's old format: in the header, and in blocks behind it.
    fn old_map(&mut self, header: &Header) -> Result<Vec<Segment>> {
        let mut pieces = Vec::new();
        let mut more = self.check(header.pieces(&mut pieces))?;
        while more {
            if pieces.len() > MAX_PIECES {
                return Err(self.flawed(EntryFlaw::SparseMap));
            }
            let block = self.block()?.ok_or_else(|| self.flawed(EntryFlaw::Truncated))?;
            more = self.check(block.more_pieces(&mut pieces))?;
        }
        Ok(pieces)
    }

    /// The map of GNU's format 1.0: numbers, one a line, in whole blocks before the data.
    fn map_in_data(&mut self, size: u64) -> Result<Vec<Segment>> {
        let start = self.feed.pos();
        let mut line = Vec::with_capacity(MAX_LINE);
        let mut numbers = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            if self.feed.pos() - start >= size {
                return Err(self.flawed(EntryFlaw::SparseMap));
            }
            let Some(block) = self.block()? else { return Err(self.flawed(EntryFlaw::Truncated)) };
            for b in block.0 {
                if b != b'\n' {
                    line.push(b);
                    if line.len() > MAX_LINE {
                        return Err(self.flawed(EntryFlaw::SparseMap));
                    }
                    continue;
                }
                let number = records::decimal(&line).ok_or_else(|| self.flawed(EntryFlaw::SparseMap))?;
                line.clear();
                numbers.push(number);
                if numbers.len() == 1 {
                    let pieces = usize::try_from(number).ok().filter(|n| *n <= MAX_PIECES);
                    wanted = 1 + 2 * pieces.ok_or_else(|| self.flawed(EntryFlaw::SparseMap))?;
                }
                if numbers.len() == wanted {
                    break;
                }
            }
        }
        let mut pieces = Vec::new();
        for pair in numbers[1..].chunks_exact(2) {
            let pushed = records::push(&mut pieces, pair[0], pair[1]);
            self.check(pushed)?;
        }
        Ok(pieces)
    }

    /// Put an item into the tree, with its attributes.
    fn put(&mut self, mut item: Item, records: Records) -> Result<()> {
        if self.wanted.xattrs && !records.xattrs.is_empty() {
            item.set = self.set(records.xattrs.into_iter().collect());
        }
        let mtime = item.attributes.mtime;
        let put = self.out.forest.put(&self.path, item);
        let id = self.check(put)?;
        if self.wanted.times && (records.atime.is_some() || records.ctime.is_some()) {
            let times = [records.atime, records.ctime].map(|t| t.unwrap_or(mtime));
            self.out.forest.times.insert(id, times);
        }
        Ok(())
    }

    /// The number of a set of attributes.
    fn set(&mut self, xattrs: Xattrs) -> u32 {
        if let Some(i) = self.set_of.get(&xattrs) {
            return *i;
        }
        let i = u32::try_from(self.out.sets.len()).unwrap_or(NO_SET);
        self.out.sets.push(xattrs.clone());
        self.set_of.insert(xattrs, i);
        i
    }
}

/// The pieces of a file with holes, which have `data` bytes together: ascending and inside the file.
fn sparse_body(pieces: &[Segment], size: u64, data: u64) -> Result<Body, EntryFlaw> {
    let mut out: Vec<Segment> = Vec::new();
    let (mut end, mut sum) = (0, 0u64);
    for p in pieces {
        if p.start < end || p.end > size {
            return Err(EntryFlaw::SparseMap);
        }
        end = p.end;
        sum = sum.checked_add(p.end - p.start).ok_or(EntryFlaw::SparseMap)?;
        match out.last_mut() {
            _ if p.start == p.end => {}
            Some(last) if last.end == p.start => last.end = p.end,
            _ => out.push(*p),
        }
    }
    if sum != data {
        return Err(EntryFlaw::SparseMap);
    }
    let whole = matches!(out.as_slice(), [s] if s.start == 0 && s.end == size) || size == 0;
    Ok(if whole { Body::File } else { Body::Sparse(out.into()) })
}
