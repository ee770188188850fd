//! Read everything in an image through every reader, and come back: for tests with damaged images.
//!
//! Errors are what damaged images give; they are counted, not returned. What must not happen is a panic, an endless
//! loop or a large allocation. How much file content is read is capped, so that the time spent says something
//! about the readers and not about the sizes that an image claims.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::check::{self, CheckOptions, Collect, Journal};
use crate::device::{BlockDevice, OverlayDevice};
use crate::env::Timestamp;
use crate::error::Result;
use crate::extract::{Extractor, Options, SilentObserver, Source};
use crate::format::inode::FileType;
use crate::inspect::{self, Format};
use crate::journal;
use crate::progress::Silent;
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::{DirtyJournal, LastLink, OpenOptions, Owner, Volume};

/// Most bytes of content that are read of one file.
const MAX_CONTENT: usize = 1 << 20;
/// Most bytes of content that are read of one image.
const MAX_TOTAL: usize = 8 << 20;
/// Most inodes that are looked at.
const MAX_INODES: u32 = 4096;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that gave an answer.
    pub answers: u64,
    /// Calls that gave an error.
    pub errors: u64,
    content: usize,
}

/// Bytes that are read at a time.
const STEP: usize = 16 << 10;

impl Tally {
    fn count<T>(&mut self, result: Result<T>) -> Option<T> {
        let answer = result.ok();
        match answer {
            Some(_) => self.answers += 1,
            None => self.errors += 1,
        }
        answer
    }
}

/// Open the filesystem on `device`, with checksums compared and without, and read everything in it.
pub fn read_everything(device: &Arc<dyn BlockDevice>) -> Tally {
    let mut tally = Tally::default();
    for verify in [true, false] {
        let options = OpenOptions {
            verify_checksums: verify,
            verify_groups: verify,
            search_backups: !verify,
            dirty_journal: DirtyJournal::Ignore,
            allow_truncated: !verify,
            ..OpenOptions::default()
        };
        if let Some(volume) = tally.count(Volume::open(Arc::clone(device), &options)) {
            read_volume(&volume, &mut tally);
            copy_out(&volume, &mut tally);
            if !verify {
                show(&volume, &mut tally);
            }
        }
    }
    check_it(device, &mut tally);
    let over: Arc<dyn BlockDevice> = Arc::new(OverlayDevice::new(Arc::clone(device)));
    tally.count(journal::recover(&over, None, journal::RecoverOptions::default()));
    tally
}

/// The checker, every pass, on one thread.
fn check_it(device: &Arc<dyn BlockDevice>, tally: &mut Tally) {
    let options = CheckOptions {
        superblock: None,
        block_size: None,
        force: true,
        now: Timestamp::from_secs(1_700_000_000),
        jobs: 1,
        journal: Journal::default(),
        journal_device: None,
    };
    let mut found = Collect::default();
    tally.count(check::check(device, &options, &mut found, &Silent));
}

/// Listing, tar stream, and reading all that a copy would read.
fn copy_out(volume: &Volume, tally: &mut Tally) {
    let options = Options::default();
    let extractor = Extractor { volume, options, observer: &SilentObserver, progress: &Silent };
    let Some(root) = tally.count(Source::find(volume, b"/", LastLink::Keep)) else { return };
    let sources = [root];
    tally.count(extractor.list(&sources, &mut |_| Ok(())));
    tally.count(extractor.discard(&sources));
}

/// The views of the shell.
fn show(volume: &Volume, tally: &mut Tally) {
    let mut sink = std::io::sink();
    let groups = tally.count(inspect::GroupsView::new(volume, true));
    if let Some(view) = groups {
        tally.answers += u64::from(inspect::show(&view, Format::Json, &mut sink).is_ok());
    }
    tally.count(inspect::FreeSpaceView::new(volume, None));
    for n in (1..=volume.geometry().inodes_count.min(MAX_INODES)).step_by(3) {
        if let Some(view) = tally.count(inspect::InodeView::new(volume, Ino(n))) {
            tally.answers += u64::from(inspect::show(&view, Format::Text { width: Some(80) }, &mut sink).is_ok());
        }
    }
}

fn read_volume(volume: &Volume, tally: &mut Tally) {
    for group in volume.geometry().all_groups().take(64) {
        tally.count(volume.block_bitmap(group));
        tally.count(volume.inode_bitmap(group));
    }
    for n in 1..=volume.geometry().inodes_count.min(MAX_INODES) {
        let ino = Ino(n);
        // Slots that were never used have no checksum either.
        let unused = volume.raw_inode(ino).is_ok_and(|i| i.as_bytes().iter().all(|b| *b == 0));
        if !unused && let Some(inode) = tally.count(volume.inode(ino)) {
            read_inode(volume, Owner { ino, inode: &inode }, tally);
        }
    }
    for path in [&b"/"[..], b"a/b/c/deep", b"many/../a/fast", b"link-800", b"small/UPPER", b"/../..//a/./hard"] {
        tally.count(volume.resolve(path, LastLink::Follow));
    }
    tally.count(volume.block(Fsblk(volume.geometry().blocks_count)));
}

fn read_inode(volume: &Volume, owner: Owner<'_>, tally: &mut Tally) {
    let mut events = 0u64;
    tally.count(volume.walk_map(owner, &mut |_| {
        events += 1;
        Ok(ControlFlow::Continue(()))
    }));
    for lblk in [0, 1, 11, 12, 300, 70_000, u32::MAX] {
        tally.count(volume.map(owner, Lblk(lblk)));
    }
    if let Some(all) = tally.count(volume.all_xattrs(owner)) {
        for x in all {
            tally.count(x.host_value());
        }
    }
    read_content(volume, owner, tally);
    match owner.inode.file_type() {
        Some(FileType::Directory) => {
            let entries = tally.count(volume.read_dir(owner)).unwrap_or_default();
            for e in entries.iter().take(20) {
                tally.count(volume.lookup(owner, &e.name));
            }
            tally.count(volume.lookup(owner, b"not there"));
        }
        Some(FileType::Symlink) => {
            tally.count(volume.symlink_target(owner));
        }
        _ => {
            tally.count(owner.inode.extra_isize());
        }
    }
}

fn read_content(volume: &Volume, owner: Owner<'_>, tally: &mut Tally) {
    let Some(reader) = tally.count(volume.reader(owner)) else { return };
    tally.answers += reader.segments().len() as u64;
    let mut buf = vec![0; STEP.min(reader.size() as usize)];
    let starts = [0, reader.size().saturating_sub(STEP as u64), reader.size() / 2];
    for start in starts {
        let mut offset = start;
        let mut left = MAX_CONTENT / 4;
        while left > 0 && tally.content < MAX_TOTAL {
            match tally.count(reader.read_at(offset, &mut buf)) {
                None | Some(0) => break,
                Some(n) => {
                    offset += n as u64;
                    left = left.saturating_sub(n);
                    tally.content += n;
                }
            }
        }
    }
}
