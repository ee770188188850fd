//! A filesystem in memory that is edited through its journal, committed, cut off, recovered, and judged.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::super::{Context, Namei};
use crate::Error;
use crate::alloc::Filesystem;
use crate::device::{BlockDevice, MemoryDevice, RecordDevice};
use crate::env::{FixedClock, Timestamp};
use crate::journal::{Journal, JournalOptions, RecoverOptions, direct};
use crate::volume::store::MetaStore;
use crate::volume::{OpenOptions, Volume};

pub(crate) const NOW: Timestamp = Timestamp { sec: 1_700_000_000, nsec: 7 };

pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let found = ["/usr/sbin", "/sbin", "/usr/bin"].iter().map(|d| Path::new(d).join(name)).find(|p| p.is_file());
    if found.is_none() {
        eprintln!("skipped: no {name} here");
    }
    found
}

/// A place for images, in memory where the host has one.
fn scratch() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm).unwrap() } else { tempfile::tempdir().unwrap() }
}

pub(crate) struct Rig {
    pub(crate) device: Arc<RecordDevice<MemoryDevice>>,
    /// There but for the moment of closing.
    journal: Option<Journal>,
    pub(crate) fs: Filesystem,
    pub(crate) ctx: Context,
    pub(crate) options: String,
}

fn open(device: &Arc<RecordDevice<MemoryDevice>>) -> Journal {
    let vol = Volume::open(Arc::clone(device) as Arc<dyn BlockDevice>, &OpenOptions::default()).unwrap();
    let options = JournalOptions::new(Arc::new(FixedClock(NOW)));
    if vol.superblock().journal_inum.get() == 0 {
        direct::open(&vol, options).unwrap()
    } else {
        Journal::open(&vol, None, options).unwrap()
    }
}

impl Rig {
    /// As mke2fs makes it; `None` (loudly) without one, or where it does not know the options.
    pub(crate) fn new(options: &str, size: &str) -> Option<Self> {
        let mke2fs = tool("mke2fs")?;
        let dir = scratch();
        let path = dir.path().join("image");
        let args = options.split_whitespace();
        let out = Command::new(mke2fs).args(["-q", "-F"]).args(args).arg(&path).arg(size).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if said.contains("Invalid filesystem option") {
            eprintln!("skipped: mke2fs {options}: {said}");
            return None;
        }
        assert!(out.status.success(), "mke2fs {options}: {said}");
        Some(Self::over(std::fs::read(&path).unwrap(), options))
    }

    /// Over an image.
    pub(crate) fn over(bytes: Vec<u8>, options: &str) -> Self {
        let device = Arc::new(RecordDevice::new(MemoryDevice::from_bytes(bytes)));
        let journal = open(&device);
        let fs = Filesystem::open(journal.view(), &OpenOptions::default()).unwrap();
        let ctx = Context::new(&fs.volume, NOW);
        Self { device, journal: Some(journal), fs, ctx, options: options.to_owned() }
    }

    pub(crate) fn journal(&mut self) -> &mut Journal {
        self.journal.as_mut().unwrap()
    }

    /// As the running transaction has it.
    pub(crate) fn view(&self) -> Arc<dyn BlockDevice> {
        self.journal.as_ref().unwrap().view()
    }

    /// One operation, in a transaction that is not committed for it.
    pub(crate) fn try_op<T>(&mut self, f: &dyn Fn(&mut Namei<'_>) -> crate::Result<T>) -> crate::Result<T> {
        let mut handle = self.journal.as_mut().unwrap().start(0)?;
        f(&mut Namei::new(self.fs.edit(&mut handle), &mut self.ctx))
    }

    /// One operation. A transaction that is full is committed first.
    pub(crate) fn op<T>(&mut self, f: impl Fn(&mut Namei<'_>) -> crate::Result<T>) -> crate::Result<T> {
        match self.try_op(&f) {
            Err(Error::TransactionTooLarge { .. }) => {
                self.commit();
                self.try_op(&f)
            }
            other => other,
        }
    }

    pub(crate) fn try_commit(&mut self) -> crate::Result<()> {
        let mut handle = self.journal.as_mut().unwrap().start(0)?;
        assert!(handle.extend(40)?, "no room for the counts of a commit");
        Namei::new(self.fs.edit(&mut handle), &mut self.ctx).sync_quota()?;
        self.fs.sync_counts(&mut handle)?;
        self.journal().commit()?;
        self.fs.committed();
        self.ctx.committed();
        Ok(())
    }

    pub(crate) fn commit(&mut self) {
        self.try_commit().unwrap();
        self.journal().checkpoint().unwrap();
        let _ = self.device.take_log();
    }

    /// Give up what was not committed.
    pub(crate) fn discard(&mut self) {
        self.journal().discard();
        let now = self.ctx.now();
        self.fs = Filesystem::open(self.view(), &OpenOptions::default()).unwrap();
        self.ctx = Context::new(&self.fs.volume, now);
    }

    /// Go on with what recovery makes of `bytes`, as they were when the power failed.
    pub(crate) fn recover(&mut self, bytes: Vec<u8>) {
        let now = self.ctx.now();
        let device = Arc::new(RecordDevice::new(MemoryDevice::from_bytes(bytes)));
        let as_device = Arc::clone(&device) as Arc<dyn BlockDevice>;
        let options = RecoverOptions { now: Some(now), ..RecoverOptions::default() };
        crate::recover::recover(&as_device, None, options).unwrap();
        let _ = device.take_log();
        self.restart(device, now);
    }

    fn restart(&mut self, device: Arc<RecordDevice<MemoryDevice>>, now: Timestamp) {
        self.journal = Some(open(&device));
        self.device = device;
        self.fs = Filesystem::open(self.view(), &OpenOptions::default()).unwrap();
        self.ctx = Context::new(&self.fs.volume, now);
    }

    /// Close and open again: the device holds all.
    pub(crate) fn reopen(&mut self) {
        self.commit();
        let (device, now) = (Arc::clone(&self.device), self.ctx.now());
        self.journal.take().unwrap().close().unwrap();
        let _ = device.take_log();
        self.restart(device, now);
    }

    pub(crate) fn check(&mut self) {
        self.commit();
        // As it will be when the journal is closed.
        let mut bytes = vec![0; self.device.len() as usize];
        self.view().read_at(0, &mut bytes).unwrap();
        self.judge(&bytes);
    }

    /// The reference checker has nothing to say about an image.
    pub(crate) fn judge(&self, bytes: &[u8]) {
        let Some(e2fsck) = tool("e2fsck") else { return };
        let dir = scratch();
        let path = dir.path().join("image");
        std::fs::write(&path, bytes).unwrap();
        let out = Command::new(e2fsck).arg("-fn").arg(&path).output().unwrap();
        if !out.status.success() {
            let kept = std::env::temp_dir().join(format!("ext4kit-failed-namei-{}.img", std::process::id()));
            let _ = std::fs::copy(&path, &kept);
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            panic!("e2fsck -fn ({}), image kept as {}:\n{text}", self.options, kept.display());
        }
    }
}
