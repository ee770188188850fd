//! A tar archive as a source: old, ustar, GNU and pax; plain, or packed with gzip, zstd or xz.
//!
//! Owners, times (with fractions), extended attributes, access control lists, long names, hard links, devices and holes are
//! kept. Owners are the archive's numbers; names count where the caller gives them numbers.
//! A later entry takes the place of an earlier one of the same name. A plain file is read in place; a packed one, and one from a pipe, goes through a temporary file without a name.

mod acl;
mod feed;
mod header;
mod records;
mod scan;
#[cfg(test)]
mod tests;
mod unpack;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::rules::Exclude;
use super::tree::{Attributes, Data, NodeId, Segment, Tree};
use super::{OwnerNames, Reader, Source, Xattrs};
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::progress::{Progress, Step, Unit};
use feed::Feed;
use scan::{Scan, Wanted};
use unpack::Packing;

/// Where temporary files go, unless [`TarFile::spool_in`] says otherwise.
const SPOOL_DIR: &str = "/var/tmp";
/// Attributes of directories that an archive does not name: their mode.
const IMPLIED_MODE: u16 = 0o40755;

/// A tar archive.
pub struct TarFile {
    name: PathBuf,
    input: Mutex<Option<Input>>,
    spool_dir: PathBuf,
    wanted: Wanted,
    exclude: Exclude,
    listed: OnceLock<Listed>,
}

/// Where the bytes come from, until they are listed.
enum Input {
    File { file: File, base: u64 },
    Stream(Box<dyn Read + Send>),
}

/// What readers need.
struct Listed {
    file: File,
    /// Byte of the file where the archive begins.
    base: u64,
    /// Size and times of a file that others can change.
    stamp: Option<(u64, i64, i64)>,
    sets: Vec<Xattrs>,
    /// Number of the set of each node; empty where there are none.
    set_of: Vec<u32>,
}

impl std::fmt::Debug for TarFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarFile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl TarFile {
    /// The archive at `path`.
    ///
    /// # Errors
    /// [`Error::Host`] where it cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::host("open", path, e))?;
        Self::from_file(file, path)
    }

    /// An open file, from where it stands. `name` is for messages.
    ///
    /// # Errors
    /// [`Error::Host`] where nothing is known about it.
    pub fn from_file(mut file: File, name: impl AsRef<Path>) -> Result<Self> {
        let name = name.as_ref();
        let kind = file.metadata().map_err(|e| Error::host("stat", name, e))?.file_type();
        if kind.is_dir() {
            let e = std::io::Error::from(std::io::ErrorKind::IsADirectory);
            return Err(Error::host("read", name, e));
        }
        if !kind.is_file() {
            return Ok(Self::from_reader(file, name));
        }
        let base = file.stream_position().map_err(|e| Error::host("seek in", name, e))?;
        Ok(Self::new(Input::File { file, base }, name))
    }

    /// A stream, read to its end when it is listed. `name` is for messages.
    pub fn from_reader(stream: impl Read + Send + 'static, name: impl AsRef<Path>) -> Self {
        Self::new(Input::Stream(Box::new(stream)), name.as_ref())
    }

    fn new(input: Input, name: &Path) -> Self {
        let implied = Attributes {
            mode: IMPLIED_MODE,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            stamp: 0,
            size: 0,
            device: (0, 0),
        };
        Self {
            name: name.to_path_buf(),
            input: Mutex::new(Some(input)),
            spool_dir: SPOOL_DIR.into(),
            wanted: Wanted { xattrs: true, times: false, owner: None, names: None, implied },
            exclude: Exclude::default(),
            listed: OnceLock::new(),
        }
    }

    /// Leave out what the patterns name.
    #[must_use]
    pub fn excluding(mut self, patterns: Exclude) -> Self {
        self.exclude = patterns;
        self
    }

    /// Leave extended attributes out.
    #[must_use]
    pub const fn without_xattrs(mut self) -> Self {
        self.wanted.xattrs = false;
        self
    }

    /// Keep the times of last access and change, where the archive has them.
    #[must_use]
    pub const fn with_times(mut self) -> Self {
        self.wanted.times = true;
        self
    }

    /// Everything belongs to this user and group.
    #[must_use]
    pub const fn owned_by(mut self, owner: Option<(u32, u32)>) -> Self {
        self.wanted.owner = owner;
        if let Some((uid, gid)) = owner {
            (self.wanted.implied.uid, self.wanted.implied.gid) = (uid, gid);
        }
        self
    }

    /// Users and groups that the archive names, also in access control lists, get the numbers that these names have.
    #[must_use]
    pub fn naming(mut self, names: Option<OwnerNames>) -> Self {
        self.wanted.names = names.map(Arc::new);
        self
    }

    /// Modification time of directories that the archive does not name.
    #[must_use]
    pub const fn implied_at(mut self, time: Timestamp) -> Self {
        self.wanted.implied.mtime = time;
        self
    }

    /// Directory for a temporary file, where one is needed.
    #[must_use]
    pub fn spool_in(mut self, dir: impl AsRef<Path>) -> Self {
        self.spool_dir = dir.as_ref().to_path_buf();
        self
    }

    fn error(&self, op: &'static str, e: std::io::Error) -> Error {
        Error::host(op, &self.name, e)
    }

    /// Read the archive; a stream is kept in a file on the way.
    fn read(&self, input: Input, progress: &dyn Progress) -> Result<(scan::Scanned, File, u64)> {
        let packed = match input {
            Input::File { file, base } => {
                let mut start = [0; Packing::MAGIC];
                let n = file.read_at(&mut start, base).map_err(|e| self.error("read", e))?;
                if Packing::of(&start[..n]) == Packing::None {
                    let scan = Scan::new(&self.name, Feed::file(&file, base), self.wanted.clone());
                    let scanned = scan.run(progress)?;
                    return Ok((scanned, file, base));
                }
                let mut file = file;
                file.seek(SeekFrom::Start(base)).map_err(|e| self.error("seek in", e))?;
                Box::new(file)
            }
            Input::Stream(stream) => stream,
        };
        let stream = unpack::unpack(packed).map_err(|e| self.error("read", e))?;
        let spool = crate::device::anonymous_file(&self.spool_dir)?;
        let scanned = Scan::new(&self.name, Feed::stream(stream, &spool), self.wanted.clone()).run(progress)?;
        Ok((scanned, spool, 0))
    }
}

/// What tells whether a file is still the same.
fn stamp(file: &File) -> std::io::Result<(u64, i64, i64)> {
    file.metadata().map(|m| (m.size(), m.ctime(), m.ctime_nsec()))
}

impl Source for TarFile {
    fn list(&self, _threads: usize, progress: &dyn Progress) -> Result<Tree> {
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(input) = input else {
            // Listed before: what it was read from, or kept in, is still there.
            let listed = self.listed.get().ok_or_else(|| Error::HostChanged { path: self.name.clone() })?;
            let scan = Scan::new(&self.name, Feed::file(&listed.file, listed.base), self.wanted.clone());
            let mut forest = scan.run(progress)?.forest;
            forest.exclude(&self.exclude);
            return Ok(forest.flatten()?.tree);
        };
        let before = match &input {
            Input::File { file, .. } => Some(stamp(file).map_err(|e| self.error("stat", e))?),
            Input::Stream(_) => None,
        };
        progress.begin(Step { name: "listing the archive", unit: Unit::Files, total: None });
        let (mut scanned, file, base) = self.read(input, progress)?;
        progress.end();
        scanned.forest.exclude(&self.exclude);
        let flat = scanned.forest.flatten()?;
        let set = |item: &u32| scanned.forest.item(*item).map_or(u32::MAX, |i| i.set);
        let set_of = if scanned.sets.is_empty() { Vec::new() } else { flat.item_of.iter().map(set).collect() };
        let plain = stamp(&file).ok().filter(|s| Some(*s) == before);
        let _ = self.listed.set(Listed { file, base, stamp: plain, sets: scanned.sets, set_of });
        Ok(flat.tree)
    }

    fn reader<'a>(&'a self, tree: &'a Tree) -> Result<Box<dyn Reader + 'a>> {
        let changed = || Error::HostChanged { path: self.name.clone() };
        let listed = self.listed.get().ok_or_else(changed)?;
        Ok(Box::new(TarReader { name: &self.name, listed, tree, node: 0, starts: Vec::new() }))
    }
}

/// Reads files of a [`TarFile`].
struct TarReader<'a> {
    name: &'a Path,
    listed: &'a Listed,
    tree: &'a Tree,
    node: NodeId,
    /// For each segment of a file with holes, the byte of the archive where its data begins.
    starts: Vec<u64>,
}

impl TarReader<'_> {
    fn changed(&self) -> Error {
        Error::HostChanged { path: self.name.to_path_buf() }
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        self.listed.file.read_exact_at(buf, self.listed.base + at).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => self.changed(),
            _ => Error::host("read", self.name, e),
        })
    }

    /// Fill `buf` from a file with holes.
    fn read_sparse(&self, segments: &[Segment], offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset + buf.len() as u64;
        let mut at = offset;
        let first = segments.partition_point(|s| s.end <= offset);
        for (s, start) in segments.iter().zip(&self.starts).skip(first) {
            if s.start >= end {
                break;
            }
            let from = s.start.max(offset);
            let to = s.end.min(end);
            buf[(at - offset) as usize..(from - offset) as usize].fill(0);
            self.read_at(start + (from - s.start), &mut buf[(from - offset) as usize..(to - offset) as usize])?;
            at = to;
        }
        buf[(at - offset) as usize..].fill(0);
        Ok(())
    }
}

impl Reader for TarReader<'_> {
    fn open(&mut self, node: u32) -> Result<()> {
        self.node = node;
        self.starts.clear();
        let n = self.tree.node(node).ok_or_else(|| self.changed())?;
        if let Data::Sparse(i) = n.data {
            let mut at = n.stamp;
            for s in self.tree.segments(i) {
                self.starts.push(at);
                at += s.end - s.start;
            }
        }
        Ok(())
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let n = self.tree.node(self.node).ok_or_else(|| self.changed())?;
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > n.size) {
            return Err(self.changed());
        }
        match n.data {
            Data::Sparse(i) => self.read_sparse(self.tree.segments(i), offset, buf),
            _ => self.read_at(n.stamp + offset, buf),
        }
    }

    fn host_range(&self) -> Option<(BorrowedFd<'_>, u64)> {
        let node = self.tree.node(self.node).filter(|n| matches!(n.data, Data::File))?;
        Some((self.listed.file.as_fd(), self.listed.base.checked_add(node.stamp)?))
    }

    fn xattrs(&mut self) -> Result<Xattrs> {
        let set = self.listed.set_of.get(self.node as usize).and_then(|s| self.listed.sets.get(*s as usize));
        Ok(set.cloned().unwrap_or_default())
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        match self.listed.stamp {
            Some(before) if stamp(&self.listed.file).map_err(|e| Error::host("stat", self.name, e))? != before => {
                Err(self.changed())
            }
            _ => Ok(()),
        }
    }
}
