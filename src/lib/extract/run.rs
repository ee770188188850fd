//! One copy under way: what it counts, whom it tells, and what stops it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Extractor, Options};
use crate::error::{Error, Result};
use crate::format::inode::FileType;
use crate::progress::{Progress, Step, Unit};
use crate::volume::Volume;

/// Bytes of a mapped image that may stay in the process's memory.
const VIEWED: u64 = 16 << 20;

/// What is being done when an extended attribute is set, in errors.
pub(super) const SET_ATTRIBUTE: &str = "set an attribute of";

/// Something that was not kept, told once however often it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Note {
    /// The host does not allow giving files away; they belong to whoever copies.
    OwnersNotKept,
    /// The host does not take some extended attributes, or does not allow setting them.
    XattrsNotKept,
    /// The host does not take some access control lists.
    AclsNotKept,
    /// Device files could not be made; they are counted as skipped.
    DevicesSkipped,
    /// Sockets have no place in a tar; they are counted as skipped.
    SocketsSkipped,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnersNotKept => "owners are not kept: only root can give files away",
            Self::XattrsNotKept => "some extended attributes are not kept: not supported or not permitted here",
            Self::AclsNotKept => "some access control lists are not kept: not supported or not permitted here",
            Self::DevicesSkipped => "device files are skipped: only root can make them",
            Self::SocketsSkipped => "sockets are skipped: a tar cannot hold them",
        })
    }
}

/// Hears of what happens to single files. Called from worker threads.
pub trait Observer: Sync {
    /// Something could not be copied; the rest goes on. The path is the one in the image.
    fn failed(&self, path: &[u8], error: &Error) {
        let _ = (path, error);
    }

    /// Something was not kept. Each note comes once.
    fn note(&self, note: Note) {
        let _ = note;
    }

    /// Whether [`Observer::copied`] is wanted; making the paths costs time.
    fn wants_paths(&self) -> bool {
        false
    }

    /// Something was copied.
    fn copied(&self, path: &[u8]) {
        let _ = path;
    }
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct SilentObserver;

impl Observer for SilentObserver {}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Directories.
    pub directories: u64,
    /// Regular files; each name of a file that is copied as one file counts in `hard_links` but for the first.
    pub files: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices, fifos and sockets.
    pub special: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Bytes of content, holes not counted.
    pub bytes: u64,
    /// Errors: each was told to the observer.
    pub failed: u64,
    /// Left out for lack of permission or because the target cannot hold it.
    pub skipped: u64,
    /// What was not kept.
    pub notes: BTreeSet<Note>,
}

impl Report {
    /// Whether all that was asked for was copied. Notes about metadata do not count against it.
    pub const fn is_complete(&self) -> bool {
        self.failed == 0 && self.skipped == 0
    }

    /// The sum of two reports.
    pub fn add(&mut self, other: &Self) {
        self.directories += other.directories;
        self.files += other.files;
        self.symlinks += other.symlinks;
        self.special += other.special;
        self.hard_links += other.hard_links;
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.notes.extend(&other.notes);
    }
}

/// State that all threads of a copy share.
pub(super) struct Run<'a> {
    pub volume: &'a Volume,
    pub options: Options,
    observer: &'a dyn Observer,
    progress: &'a dyn Progress,
    directories: AtomicU64,
    files: AtomicU64,
    symlinks: AtomicU64,
    special: AtomicU64,
    hard_links: AtomicU64,
    bytes: AtomicU64,
    /// Bytes of the image that were looked at since they were last given back.
    viewed: AtomicU64,
    /// The host's filesystem can share the image's blocks with new files.
    shares: AtomicBool,
    failed: AtomicU64,
    skipped: AtomicU64,
    notes: Mutex<BTreeSet<Note>>,
    stopped: AtomicBool,
    fatal: Mutex<Option<Error>>,
}

impl<'a> Run<'a> {
    pub(super) fn new(extractor: &Extractor<'a>) -> Self {
        Self {
            volume: extractor.volume,
            options: extractor.options,
            observer: extractor.observer,
            progress: extractor.progress,
            directories: AtomicU64::new(0),
            files: AtomicU64::new(0),
            symlinks: AtomicU64::new(0),
            special: AtomicU64::new(0),
            hard_links: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            viewed: AtomicU64::new(0),
            shares: AtomicBool::new(can_share(extractor.volume)),
            failed: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            notes: Mutex::default(),
            stopped: AtomicBool::new(false),
            fatal: Mutex::default(),
        }
    }

    /// Begin the one step there is; `whole` where all of the filesystem is copied, so that the number of files is known.
    pub(super) fn begin(&self, name: &'static str, whole: bool) {
        let sb = self.volume.superblock();
        let used = self.volume.geometry().inodes_count.saturating_sub(sb.free_inodes_count.get());
        let reserved = self.volume.geometry().first_ino.saturating_sub(1);
        let total = whole.then(|| u64::from(used.saturating_sub(reserved)));
        self.progress.begin(Step { name, unit: Unit::Files, total });
    }

    /// `n` more files are done; notices when the caller wants to stop.
    pub(super) fn advance(&self, n: u64) {
        self.progress.advance(n);
        self.check_cancelled();
    }

    /// Notice when the caller wants to stop.
    pub(super) fn check_cancelled(&self) {
        if self.progress.cancelled() {
            self.stop(Error::Cancelled);
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn stop(&self, error: Error) {
        let mut fatal = self.fatal.lock().unwrap_or_else(PoisonError::into_inner);
        fatal.get_or_insert(error);
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// An error about one file: told and counted, or the end of it all.
    pub(super) fn fail(&self, path: &[u8], error: Error) {
        if is_fatal(&error) {
            self.stop(error);
        } else if !self.is_stopped() {
            self.observer.failed(path, &error);
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn note(&self, note: Note) {
        if self.notes.lock().unwrap_or_else(PoisonError::into_inner).insert(note) {
            self.observer.note(note);
        }
    }

    pub(super) fn skip(&self, note: Note) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        self.note(note);
    }

    /// Count something that was copied, and say so where that is wanted.
    pub(super) fn copied(&self, kind: FileType, path: impl FnOnce() -> Vec<u8>) {
        let counter = match kind {
            FileType::Directory => &self.directories,
            FileType::Regular => &self.files,
            FileType::Symlink => &self.symlinks,
            _ => &self.special,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if self.observer.wants_paths() {
            self.observer.copied(&path());
        }
    }

    pub(super) fn linked(&self, path: impl FnOnce() -> Vec<u8>) {
        self.hard_links.fetch_add(1, Ordering::Relaxed);
        if self.observer.wants_paths() {
            self.observer.copied(&path());
        }
    }

    pub(super) fn shares(&self) -> bool {
        self.shares.load(Ordering::Relaxed)
    }

    /// The host refused: the destination is on another filesystem, or does not line up with the image.
    pub(super) fn stop_sharing(&self) {
        self.shares.store(false, Ordering::Relaxed);
    }

    /// `n` bytes of the image were looked at and will not be again: let go of what a map of it holds, now and then.
    pub(super) fn used(&self, n: u64) {
        if self.viewed.fetch_add(n, Ordering::Relaxed) + n >= VIEWED {
            self.viewed.store(0, Ordering::Relaxed);
            self.volume.device().release();
        }
    }

    pub(super) fn count_bytes(&self, n: u64) {
        self.bytes.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn finish(self) -> Result<Report> {
        self.progress.end();
        if let Some(e) = self.fatal.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(e);
        }
        Ok(Report {
            directories: self.directories.into_inner(),
            files: self.files.into_inner(),
            symlinks: self.symlinks.into_inner(),
            special: self.special.into_inner(),
            hard_links: self.hard_links.into_inner(),
            bytes: self.bytes.into_inner(),
            failed: self.failed.into_inner(),
            skipped: self.skipped.into_inner(),
            notes: self.notes.into_inner().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

/// Whether the image is on a filesystem whose files can share blocks: elsewhere the host would copy, which writing from
/// the map does better.
fn can_share(volume: &Volume) -> bool {
    /// `XFS_SUPER_MAGIC`, `BTRFS_SUPER_MAGIC`, `BCACHEFS_STATFS_MAGIC`.
    const SHARING: [u64; 3] = [0x5846_5342, 0x9123_683e, 0xca45_1a4e];
    let on = volume.device().host_file().and_then(|(fd, _)| rustix::fs::fstatfs(fd).ok());
    on.is_some_and(|stat| SHARING.contains(&(stat.f_type as u64)))
}

/// Whether nothing more can be copied after this error.
fn is_fatal(error: &Error) -> bool {
    use std::io::ErrorKind;
    match error {
        Error::Cancelled => true,
        // A file's attributes have a limit of their own.
        Error::Host { op, .. } if *op == SET_ATTRIBUTE => false,
        Error::Host { source, .. } => {
            matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem)
        }
        _ => false,
    }
}
