//! An image that is being edited: its journal, its allocator, and what runs between two commits.
//!
//! Everything done through one [`Session`] until [`Session::commit`] is one transaction: a crash leaves all of it or none.
//! Nothing is written before the commit but content of files, to blocks that nothing refers to. [`Session::discard`]
//! forgets what is running. A session that is dropped leaves the last commit, to be recovered; [`Session::close`] leaves a
//! clean image.
//!
//! Without [`Options::chunked`], what does not fit one transaction fails as a whole
//! ([`Error::TransactionTooLarge`]). With it, full transactions are committed on the way, each one a consistent state.

use std::sync::Arc;

use super::contents::{Contents, NodeContent, Origin};
use super::mmp::Claim;
use super::through::{Route, Through};
use crate::alloc::Filesystem;
use crate::device::BlockDevice;
use crate::env::{Clock, FixedClock, Timer, Timestamp};
use crate::error::{Error, Result};
use crate::file::{Mount, MountOptions};
use crate::format::features::Compat;
use crate::format::inode::Inode;
use crate::format::superblock::State;
use crate::journal::{Journal, JournalOptions, OnDamage, RecoverOptions, direct};
use crate::namei::{Context, Namei};
use crate::progress::{Progress, Silent, Step, Unit};
use crate::recover;
use crate::source::Reader;
use crate::source::tree::NodeId;
use crate::units::Ino;
use crate::volume::store::MetaStore;
use crate::volume::{DirtyJournal, OpenOptions, Volume};

/// Credits that a commit's own changes need beside the quota files: the superblock.
const COMMIT_CREDITS: u32 = 4;
/// Blocks of metadata that writing a file through the page cache should find free in the transaction.
const ROOM: u64 = 256;

/// How to edit.
#[derive(Clone)]
pub struct Options {
    /// The time that goes into inodes, commits and the superblock. One moment for the whole session.
    pub clock: Arc<dyn Clock>,
    /// For multiple-mount protection.
    pub timer: Arc<dyn Timer>,
    /// The journal's device, where it has one of its own.
    pub journal: Option<Arc<dyn BlockDevice>>,
    /// Commit on the way where one transaction does not hold everything.
    pub chunked: bool,
    /// Threads that copy content.
    pub jobs: usize,
    /// Write content through the page cache; without, it goes straight to its blocks.
    pub through: Option<Through>,
    /// Flush where durability needs it; without, a crash can leave what is neither old nor new. For tests that must see
    /// the harm.
    pub barriers: bool,
}

impl Options {
    /// At this time, in one transaction, with one thread.
    pub fn new(clock: Arc<dyn Clock>, timer: Arc<dyn Timer>) -> Self {
        Self { clock, timer, journal: None, chunked: false, jobs: 1, through: None, barriers: true }
    }
}

/// An image that is being edited.
pub struct Session {
    device: Arc<dyn BlockDevice>,
    pub(super) mount: Mount,
    ctx: Context,
    contents: Contents,
    claim: Option<Claim>,
    options: Options,
    progress: Arc<dyn Progress>,
    /// Transactions committed.
    commits: u64,
    recovered: Option<recover::Report>,
    /// Content that is written behind the next commit.
    pub(super) rest: super::back::Rest,
    /// What content that waited has replaced.
    pub(super) late: Option<super::back::Change>,
    /// CRC-32C of the superblock on the device, as this session left it.
    pub(super) front: Option<u32>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("journal", &self.mount.journal)
            .field("commits", &self.commits)
            .finish_non_exhaustive()
    }
}

/// The volume on `device` whatever its journal holds.
fn open_as_is(device: &Arc<dyn BlockDevice>) -> Result<Volume> {
    let options = OpenOptions { dirty_journal: DirtyJournal::Ignore, verify_groups: false, ..OpenOptions::default() };
    Volume::open(Arc::clone(device), &options)
}

impl Session {
    /// Open the filesystem on `device` for editing. What its journal holds is recovered first.
    ///
    /// # Errors
    /// [`Error::MmpInUse`]; damage; [`Error::Unsupported`] for features that cannot be written; [`Error::ReadOnly`].
    pub fn open(device: Arc<dyn BlockDevice>, options: Options) -> Result<Self> {
        if device.is_read_only() {
            return Err(Error::ReadOnly);
        }
        let now = options.clock.now();
        let claim = Claim::take(&open_as_is(&device)?, &options.timer, now)?;
        match Self::open_claimed(device, options, now) {
            Ok(mut session) => {
                session.claim = claim;
                Ok(session)
            }
            Err(e) => {
                if let Some(claim) = claim {
                    claim.release()?;
                }
                Err(e)
            }
        }
    }

    fn open_claimed(device: Arc<dyn BlockDevice>, options: Options, now: Timestamp) -> Result<Self> {
        let recovery = RecoverOptions { on_damage: OnDamage::Refuse, now: Some(now), keep_counts: false };
        let report = recover::recover(&device, options.journal.clone(), recovery)?;
        // Groups are looked at when the filesystem is opened, below.
        let volume =
            Volume::open(Arc::clone(&device), &OpenOptions { verify_groups: false, ..OpenOptions::default() })?;
        let write = JournalOptions { clock: Arc::new(FixedClock(now)), barriers: options.barriers };
        let journal = if volume.geometry().features.compat.contains(Compat::HAS_JOURNAL) {
            Journal::open(&volume, options.journal.clone(), write)?
        } else {
            direct::open(&volume, write)?
        };
        let fs = Filesystem::open(journal.view(), &OpenOptions::default())?;
        let ctx = Context::new(&fs.volume, now);
        Ok(Self {
            device,
            mount: Mount::over(journal, fs, options.through.map_or_else(MountOptions::default, Through::mount), now),
            ctx,
            contents: Contents::default(),
            claim: None,
            options,
            progress: Arc::new(Silent),
            commits: 0,
            recovered: report.journal.needed.then_some(report),
            rest: Vec::new(),
            late: None,
            front: None,
        })
    }

    /// Tell `progress` about content that is copied, and stop when it says so.
    pub fn set_progress(&mut self, progress: Arc<dyn Progress>) {
        self.progress = progress;
    }

    /// The filesystem as it is with everything that was done so far.
    pub const fn volume(&self) -> &Volume {
        &self.mount.fs.volume
    }

    /// The time that goes into inodes.
    pub const fn now(&self) -> Timestamp {
        self.ctx.now()
    }

    /// Set the time that goes into inodes.
    pub const fn set_now(&mut self, now: Timestamp) {
        self.ctx.set_now(now);
    }

    /// Leave the block of multiple-mount protection like this when the session is closed; nothing happens to a filesystem
    /// without one. No transaction holds it.
    pub fn leave_mmp(&self, block: crate::format::mmp::Mmp) {
        if let Some(claim) = &self.claim {
            claim.leave(Some(block));
        }
    }

    /// Whether a commit is all or nothing. Without a journal it is not, and the user should be told.
    pub const fn is_atomic(&self) -> bool {
        self.mount.journal.is_atomic()
    }

    /// Whether the filesystem says that it has errors.
    pub fn has_errors(&self) -> bool {
        self.mount.fs.volume.superblock().state_flags().contains(State::ERROR)
    }

    /// What was recovered when the image was opened, where something was.
    pub const fn recovered(&self) -> Option<&recover::Report> {
        self.recovered.as_ref()
    }

    /// Transactions committed so far.
    pub const fn commits(&self) -> u64 {
        self.commits
    }

    /// Grows with every change of metadata: what has changed nothing needs no [`Session::discard`].
    pub fn changes(&self) -> u64 {
        self.mount.journal.changes()
    }

    /// Blocks of metadata that the running transaction changes.
    pub fn pending_blocks(&self) -> u64 {
        self.mount.journal.pending().0
    }

    /// Whether what comes may be committed in several transactions.
    pub const fn is_chunked(&self) -> bool {
        self.options.chunked
    }

    /// Whether `blocks` blocks of content and `inodes` inodes can be had.
    ///
    /// # Errors
    /// [`Error::NoSpace`].
    pub const fn check_room(&self, blocks: u64, inodes: u64) -> Result<()> {
        self.mount.fs.alloc.check_room(self.mount.fs.volume.geometry(), blocks, inodes)
    }

    /// Do one operation, in the running transaction. Where it finds no room in the transaction and has changed nothing, it
    /// is done again in the next one, if the session is chunked.
    ///
    /// # Errors
    /// Those of the operation. One that fails may leave half of itself in the running transaction: [`Session::discard`] it
    /// unless the operation is known to refuse before it changes anything.
    pub fn run<T>(&mut self, mut operation: impl FnMut(&mut Namei<'_>) -> Result<T>) -> Result<T> {
        self.progress.check()?;
        self.beat()?;
        loop {
            let before = self.mount.journal.changes();
            let mut handle = self.mount.journal.start(0)?;
            let done = operation(&mut Namei::new(self.mount.fs.edit(&mut handle), &mut self.ctx));
            match done {
                Err(e @ Error::TransactionTooLarge { .. }) => self.make_room(before, e)?,
                other => return other,
            }
        }
    }

    /// Change the filesystem past all operations, in the running transaction: at most `credits` blocks.
    ///
    /// # Errors
    /// Those of the change; [`Error::TransactionTooLarge`] before anything has happened.
    pub fn run_raw<T>(
        &mut self,
        credits: u32,
        change: impl FnOnce(&mut Filesystem, &mut dyn MetaStore) -> Result<T>,
    ) -> Result<T> {
        self.write_contents()?;
        let mut handle = self.mount.journal.start(0)?;
        if !handle.extend(credits)? {
            let have = handle.credits().into();
            return Err(Error::TransactionTooLarge { need: credits.into(), have });
        }
        change(&mut self.mount.fs, &mut handle)
    }

    /// [`Session::run_raw`] for a change of what an inode uses; quotas follow.
    ///
    /// # Errors
    /// As [`Session::run_raw`].
    pub fn run_raw_on<T>(
        &mut self,
        ino: Ino,
        credits: u32,
        change: impl FnOnce(&mut Filesystem, &mut dyn MetaStore) -> Result<T>,
    ) -> Result<T> {
        let old = self.volume().raw_inode(ino)?;
        let done = self.run_raw(credits, change)?;
        let new = self.volume().raw_inode(ino)?;
        self.count(ino, Some(&old), Some(&new));
        Ok(done)
    }

    /// Count for the quotas what an inode uses: it is `new` (`None`: free) and was `old`.
    pub fn count(&mut self, ino: Ino, old: Option<&Inode>, new: Option<&Inode>) {
        let block_size = self.volume().geometry().block_size;
        self.ctx.count(ino, old, new, block_size);
    }

    /// As [`Session::run`], for operations made of steps that may be left after each: they go on where they were.
    pub(super) fn run_steps(&mut self, mut operation: impl FnMut(&mut Namei<'_>) -> Result<()>) -> Result<()> {
        loop {
            let before = self.mount.journal.changes();
            match self.run(&mut operation) {
                Err(Error::TransactionTooLarge { .. })
                    if self.options.chunked && self.mount.journal.changes() != before =>
                {
                    self.commit()?;
                }
                other => return other,
            }
        }
    }

    /// After an operation that found the transaction full: a new one, where that is allowed and helps.
    fn make_room(&mut self, changes: u64, e: Error) -> Result<()> {
        let helps = self.mount.journal.pending() != (0, 0) && self.mount.journal.changes() == changes;
        if self.options.chunked && helps { self.commit() } else { Err(self.too_large(e)) }
    }

    /// The error with what the whole transaction needs so far.
    pub(super) fn too_large(&self, e: Error) -> Error {
        match (e, self.mount.journal.capacity()) {
            (Error::TransactionTooLarge { need, .. }, Some(have)) => {
                Error::TransactionTooLarge { need: self.mount.journal.log_blocks(need), have: have.into() }
            }
            (e, _) => e,
        }
    }

    /// An operation on a file's content through [`Session::run`]: what waits to be written for that file is written before.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_on_content<T>(&mut self, ino: Ino, operation: impl FnMut(&mut Namei<'_>) -> Result<T>) -> Result<T> {
        if self.contents.has(ino) {
            self.write_contents()?;
        }
        self.run(operation)
    }

    /// Make a file of the source all of a file's content. It is copied before the commit; how, is returned.
    pub(super) fn put_content(
        &mut self,
        ino: Ino,
        origin: &Arc<Origin>,
        id: NodeId,
        reader: &mut dyn Reader,
    ) -> Result<Route> {
        let node = origin.node(id)?;
        let Some(route) = self.around(ino, node.size)? else { return self.put_through(ino, origin, id, reader) };
        let extents = self.run_on_content(ino, |n| {
            let mut content = NodeContent { origin, node, id, reader };
            let mut o = n.open(ino)?;
            n.lay_out(&mut o, &mut content)
        })?;
        self.await_content(ino, origin, id, extents);
        Ok(route)
    }

    /// Blocks of `ino` are to get what the node holds there.
    pub(super) fn await_content(
        &mut self,
        ino: Ino,
        origin: &Arc<Origin>,
        id: NodeId,
        extents: Vec<crate::format::extent::Extent>,
    ) {
        let block_size = self.mount.fs.volume.geometry().block_size.into();
        self.contents.add(ino, origin, id, extents, block_size);
    }

    /// Write content that waits. Who reads files through [`Session::volume`] before a commit does this first.
    ///
    /// # Errors
    /// What cannot be read, by name; those of the device end the session.
    pub fn write_contents(&mut self) -> Result<()> {
        if self.contents.is_empty() {
            return Ok(());
        }
        let watched = self.mount.journal.take_before();
        if watched.is_some() {
            self.watch();
        }
        let done = self.copy_contents();
        if let Some(own) = watched {
            self.keep_late();
            self.mount.journal.watch_on(own);
        }
        done
    }

    fn copy_contents(&mut self) -> Result<()> {
        let claim = self.claim.as_ref();
        let beat = || claim.map_or(Ok(()), Claim::beat);
        let writer = self.mount.journal.content_writer();
        let done = self.contents.write(&writer, self.options.jobs, &*self.progress, &beat);
        if matches!(done, Err(Error::Io { .. } | Error::Poisoned)) {
            self.mount.journal.abort();
        }
        done
    }

    /// How content goes through the page cache, if it does.
    pub(super) const fn through(&self) -> Option<Through> {
        self.options.through
    }

    /// A step of `total` bytes of content begins.
    pub(super) fn begin_writing(&self, total: u64) {
        self.progress.begin(Step { name: "writing", unit: Unit::Bytes, total: Some(total) });
    }

    /// `n` more of them are done.
    pub(super) fn went_on(&self, n: u64) -> Result<()> {
        self.progress.advance(n);
        self.progress.check()?;
        self.beat()
    }

    /// All of them are.
    pub(super) fn end_writing(&self) {
        self.progress.end();
    }

    /// Before a file goes through the page cache, where nothing can be committed: a new transaction, where that is allowed
    /// and the running one is nearly full.
    pub(super) fn leave_room(&mut self) -> Result<()> {
        let low = self.mount.journal.room() < ROOM.min(self.mount.journal.max_blocks() / 2);
        if self.options.chunked && low { self.commit() } else { Ok(()) }
    }

    fn beat(&self) -> Result<()> {
        self.claim.as_ref().map_or(Ok(()), Claim::beat)
    }

    /// Bring what is kept in memory into the running transaction.
    fn settle(&mut self) -> Result<()> {
        let mut handle = self.mount.journal.start(0)?;
        if !handle.extend(COMMIT_CREDITS)? {
            let have = handle.credits().into();
            return Err(Error::TransactionTooLarge { need: COMMIT_CREDITS.into(), have });
        }
        Namei::new(self.mount.fs.edit(&mut handle), &mut self.ctx).sync_quota()?;
        self.mount.fs.sync_counts(&mut handle)
    }

    /// Look whether the running transaction could be committed, without writing anything.
    ///
    /// # Errors
    /// [`Error::TransactionTooLarge`], [`Error::NoSpace`].
    pub fn prepare(&mut self) -> Result<()> {
        self.settle().map_err(|e| self.too_large(e))?;
        match self.mount.journal.capacity().map(u64::from) {
            Some(have) if self.mount.journal.log_blocks(0) > have => {
                Err(Error::TransactionTooLarge { need: self.mount.journal.log_blocks(0), have })
            }
            _ => Ok(()),
        }
    }

    /// Make durable what was done since the last commit. When this returns, it survives a crash.
    ///
    /// # Errors
    /// [`Error::TransactionTooLarge`], and what copying content finds: nothing has been committed then. Failed writes end
    /// the session.
    pub fn commit(&mut self) -> Result<()> {
        self.prepare()?;
        self.write_contents()?;
        if self.mount.journal.commit()?.is_some() {
            self.commits += 1;
        }
        self.mount.fs.committed();
        self.ctx.committed();
        self.write_rest()?;
        if self.front.is_some() { self.note_front() } else { Ok(()) }
    }

    /// Forget what was done since the last commit.
    ///
    /// # Errors
    /// Reading failed.
    pub fn discard(&mut self) -> Result<()> {
        self.contents.clear();
        if let Some(claim) = &self.claim {
            claim.leave(None);
        }
        self.mount.journal.discard();
        self.rest.clear();
        self.look_again()
    }

    /// Forget what is known of the filesystem.
    pub(super) fn look_again(&mut self) -> Result<()> {
        self.mount.fs = Filesystem::open(self.mount.journal.view(), &OpenOptions::default())?;
        self.mount.recount();
        self.ctx = Context::new(&self.mount.fs.volume, self.ctx.now());
        Ok(())
    }

    /// Write what was committed to its place: the device has it all, but for what runs.
    ///
    /// # Errors
    /// Failed writes end the session.
    pub fn bring_home(&mut self) -> Result<()> {
        self.mount.journal.checkpoint()
    }

    /// Commit, write everything to its place, and leave the image clean.
    ///
    /// # Errors
    /// As [`Session::commit`].
    pub fn close(mut self) -> Result<()> {
        self.commit()?;
        self.end()
    }

    /// Leave the image clean as of the last commit; what came after it is forgotten.
    ///
    /// # Errors
    /// Failed writes.
    pub fn abandon(mut self) -> Result<()> {
        self.contents.clear();
        if let Some(claim) = &self.claim {
            claim.leave(None);
        }
        self.mount.journal.discard();
        self.end()
    }

    fn end(self) -> Result<()> {
        if self.mount.journal.is_poisoned() {
            return Err(Error::Poisoned);
        }
        self.mount.journal.close()?;
        if let Some(claim) = &self.claim {
            claim.release()?;
        }
        Ok(())
    }

    /// The device that is written to.
    pub const fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }
}
