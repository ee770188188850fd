//! The journal in use: one running transaction, filled by handles one after the other, committed as a whole. Counts are in
//! blocks of the filesystem (metadata) or of the log where they say so.
//!
//! All handles between two commits are one transaction: after a crash, all of their changes are there or none. Nothing of
//! them is on the device before [`Journal::commit`], but for file content, which goes to blocks that nothing refers to
//! yet. A transaction must fit the log: [`Journal::room`] says how much more it may take, [`Journal::max_blocks`]
//! how much at most.
//!
//! Invariants:
//! - `needs_recovery` is on the device before the first commit counts, and goes when everything is home ([`Journal::close`]);
//! - content is durable before the commit that exposes it; a commit block is written when all else of its transaction
//!   is durable, and a commit has happened when it is;
//! - a block goes home (checkpoint) only after its transaction committed, and log space is used again only after what
//!   it held is home and the journal's superblock says so, all durably;
//! - the first failed write poisons: the journal takes note of the error, and everything later fails
//!   ([`Error::Poisoned`]). Recovery brings back the last committed state.
//!
//! Blocks freed in a transaction belong to their old owner until it has committed. Who hands out blocks must hold them
//! back until [`Journal::commit`] has returned; [`Journal::running`] and [`Journal::committed`] say which transaction is which.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::before::Before;
use super::content::{ContentWriter, check_block};
use super::handle::Handle;
use super::log::Log;
use super::pending::{Running, Shared, View, write_home};
use super::writer::LogWriter;
use crate::device::BlockDevice;
use crate::env::Clock;
use crate::error::{Error, Result};
use crate::format::features::Incompat;
use crate::format::superblock::{State as FsState, Superblock};
use crate::units::{Fsblk, Tid};
use crate::volume::Volume;

/// The error stored in a journal that could not be written: `-EIO`.
const EIO: i32 = -5;
/// What a transaction without a journal may hold: 4 GiB of memory with blocks of 4 KiB.
const MAX_DIRECT: u64 = 1 << 20;

/// How to write.
#[derive(Clone)]
pub struct JournalOptions {
    /// Times of commits and of the last write.
    pub clock: Arc<dyn Clock>,
    /// Flush before the commit block. Without, a crash can leave a commit block whose transaction is not all there: for
    /// devices that lose nothing, and for tests that must see the harm.
    pub barriers: bool,
}

impl JournalOptions {
    /// With this clock, and barriers.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, barriers: true }
    }
}

/// A state of the running transaction, see [`Journal::save`].
#[derive(Clone, Debug)]
pub struct Savepoint(Running);

/// Where commits go.
#[derive(Debug)]
pub(super) enum Target {
    Log(Box<LogWriter>),
    /// Straight home.
    Home {
        next: Tid,
    },
}

/// A filesystem's running transaction, and the log that it goes to.
pub struct Journal {
    pub(super) shared: Arc<Shared>,
    pub(super) target: Target,
    options: JournalOptions,
    /// The superblock on the device says that the filesystem is in use.
    marked: bool,
    poisoned: bool,
    committed: Option<Tid>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("target", &self.target)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Take up the journal of `volume`, which must not need recovery. `external` is the journal's device where it has one.
    /// Nothing is written before the first commit.
    ///
    /// # Errors
    /// [`Error::NeedsRecovery`], those of [`Log::open`].
    pub fn open(volume: &Volume, external: Option<Arc<dyn BlockDevice>>, options: JournalOptions) -> Result<Self> {
        let log = Log::open(volume, external)?;
        let writer = LogWriter::new(log, volume.geometry(), options.barriers)?;
        Self::with_target(volume, Target::Log(Box::new(writer)), options)
    }

    /// The same interface without a log, see [`super::direct`].
    pub(super) fn home(volume: &Volume, options: JournalOptions) -> Result<Self> {
        Self::with_target(volume, Target::Home { next: Tid(1) }, options)
    }

    /// The same, whatever the journal holds.
    pub(super) fn home_regardless(volume: &Volume, options: JournalOptions) -> Result<Self> {
        Self::unchecked(volume, Target::Home { next: Tid(1) }, options)
    }

    /// Go on behind a log that was replayed and is not marked empty; the filesystem stays marked as in use.
    pub(super) fn on_top(volume: &Volume, log: Log, head: u32, tid: Tid, options: JournalOptions) -> Result<Self> {
        let writer = LogWriter::after(log, head, tid, options.barriers);
        let shared = Arc::new(Shared::new(Arc::clone(volume.device()), volume.geometry())?);
        let home = shared.block(shared.super_block)?;
        let clean = shared.with_super(&home, |sb| sb.set_needs_recovery(false))?;
        shared.write().home_super = Some(clean);
        let target = Target::Log(Box::new(writer));
        Ok(Self { shared, target, options, marked: true, poisoned: false, committed: None })
    }

    fn with_target(volume: &Volume, target: Target, options: JournalOptions) -> Result<Self> {
        if volume.superblock().features().incompat.contains(Incompat::RECOVER) {
            return Err(Error::NeedsRecovery);
        }
        Self::unchecked(volume, target, options)
    }

    fn unchecked(volume: &Volume, target: Target, options: JournalOptions) -> Result<Self> {
        if volume.device().is_read_only() {
            return Err(Error::ReadOnly);
        }
        let shared = Arc::new(Shared::new(Arc::clone(volume.device()), volume.geometry())?);
        Ok(Self { shared, target, options, marked: false, poisoned: false, committed: None })
    }

    /// The filesystem's device as it would be with everything pending written home: open a [`Volume`] over it to read in
    /// the middle of a transaction. It takes no writes.
    pub fn view(&self) -> Arc<dyn BlockDevice> {
        Arc::new(View(Arc::clone(&self.shared)))
    }

    /// Whether a commit is atomic. Without a journal it is not: a kill in the middle of one may leave a mixture, and the
    /// user should be told.
    pub const fn is_atomic(&self) -> bool {
        matches!(self.target, Target::Log(_))
    }

    /// The running transaction's id.
    pub const fn running(&self) -> Tid {
        match &self.target {
            Target::Log(w) => w.tid(),
            Target::Home { next } => *next,
        }
    }

    /// The last transaction that this journal committed.
    pub const fn committed(&self) -> Option<Tid> {
        self.committed
    }

    /// Blocks of log: what a transaction can take in all. `None` without a log.
    pub fn capacity(&self) -> Option<u32> {
        match &self.target {
            Target::Log(w) => Some(w.capacity()),
            Target::Home { .. } => None,
        }
    }

    /// Most metadata blocks of one transaction.
    pub fn max_blocks(&self) -> u64 {
        match &self.target {
            Target::Log(w) => w.max_blocks(0),
            Target::Home { .. } => MAX_DIRECT,
        }
    }

    /// Metadata blocks that the running transaction has changed, and blocks that it revokes.
    pub fn pending(&self) -> (u64, u64) {
        let state = self.shared.read();
        (state.running.blocks.len() as u64, state.running.revoked.len() as u64)
    }

    /// Metadata blocks that the running transaction may still take, if it revokes no more.
    pub fn room(&self) -> u64 {
        let (blocks, revokes) = self.pending();
        let max = match &self.target {
            Target::Log(w) => w.max_blocks(revokes),
            Target::Home { .. } => MAX_DIRECT,
        };
        max.saturating_sub(blocks)
    }

    /// Blocks of log that the running transaction would take with `more` metadata blocks.
    pub fn log_blocks(&self, more: u64) -> u64 {
        let (blocks, revokes) = self.pending();
        match &self.target {
            Target::Log(w) => w.need(blocks + more, revokes),
            Target::Home { .. } => blocks + more,
        }
    }

    /// Start a handle that changes at most `credits` metadata blocks, in the running transaction.
    ///
    /// # Errors
    /// [`Error::NoSpace`] where the transaction has no room for them: commit it first, or the log is too small.
    #[doc(alias = "jbd2_journal_start")]
    pub fn start(&mut self, credits: u32) -> Result<Handle<'_>> {
        self.check_alive()?;
        if u64::from(credits) > self.room() {
            return Err(Error::NoSpace { what: "blocks of the journal", need: credits.into(), have: self.room() });
        }
        Ok(Handle::new(self, credits))
    }

    /// Changes made so far, in all transactions: grows with every block that a handle writes or forgets.
    pub fn changes(&self) -> u64 {
        self.shared.read().changes
    }

    /// What threads write content of files with, beside the handles. To be done before the commit.
    pub fn content_writer(&self) -> ContentWriter {
        ContentWriter::new(Arc::clone(&self.shared))
    }

    /// Write content of a file, whole blocks in several parts, as [`crate::volume::store::MetaStore::write_data`] does.
    ///
    /// # Errors
    /// As [`ContentWriter::write`]; a failed write poisons the journal.
    pub fn write_content(&mut self, block: Fsblk, parts: &[IoSlice<'_>]) -> Result<()> {
        self.content(|writer| writer.write_parts(block, parts))
    }

    /// Let the host copy `len` bytes of a file, from byte `from` on, whole blocks, to `block` and on; returns how many it copied.
    ///
    /// # Errors
    /// As [`Journal::write_content`].
    pub fn copy_content(&mut self, block: Fsblk, file: BorrowedFd<'_>, from: u64, len: u64) -> Result<u64> {
        self.content(|writer| writer.copy_from(block, file, from, len))
    }

    /// Write content; what was asked for wrongly does not poison.
    fn content<T>(&mut self, write: impl FnOnce(ContentWriter) -> Result<T>) -> Result<T> {
        self.check_alive()?;
        match write(self.content_writer()) {
            Err(e @ Error::InvalidArgument { .. }) => Err(e),
            done => self.guard(done),
        }
    }

    /// Forget the running transaction: the filesystem is as at the last commit. Content that was written to free
    /// blocks stays there, unused. Who has taken blocks or inodes in memory must start anew.
    pub fn discard(&mut self) {
        self.shared.write().running = Running::default();
    }

    /// The running transaction as it is, to come back to with [`Journal::restore`]. Its cost grows with the transaction.
    pub fn save(&self) -> Savepoint {
        Savepoint(self.shared.read().running.clone())
    }

    /// Forget what the running transaction changed since `point`, which must be of the same transaction. Content stays written;
    /// who has taken blocks or inodes in memory must look again.
    pub fn restore(&mut self, point: Savepoint) {
        self.shared.write().running = point.0;
    }

    /// Keep what changes replace from now on, with room for so many bytes of content.
    pub fn watch(&mut self, room: usize) {
        self.shared.write().before = Some(Before::with_room(room));
    }

    /// What changes replaced since [`Journal::watch`]; nothing more is kept.
    pub fn take_before(&mut self) -> Option<Before> {
        self.shared.write().before.take()
    }

    /// Go on keeping what changes replace, after what was taken with [`Journal::take_before`].
    pub fn watch_on(&mut self, before: Before) {
        self.shared.write().before = Some(before);
    }

    /// A block as it is with everything pending.
    ///
    /// # Errors
    /// Reading failed.
    pub fn block(&self, block: Fsblk) -> Result<Arc<[u8]>> {
        check_block(&self.shared, block, 1)?;
        self.shared.block(block)
    }

    /// Whether the running transaction has changed a metadata block.
    pub fn has_changed(&self, block: Fsblk) -> bool {
        self.shared.read().running.blocks.contains_key(&block)
    }

    /// The metadata blocks that the running transaction has changed.
    pub fn changed_blocks(&self) -> BTreeSet<Fsblk> {
        self.shared.read().running.blocks.keys().copied().collect()
    }

    /// Commit the running transaction. When this returns, it survives a crash. `None` where there was nothing to commit.
    ///
    /// # Errors
    /// [`Error::NoSpace`] where it is larger than the log: nothing has happened then, [`Journal::discard`] is possible.
    /// Any failed write poisons the journal.
    #[doc(alias = "jbd2_journal_commit_transaction")]
    pub fn commit(&mut self) -> Result<Option<Tid>> {
        self.check_alive()?;
        let need = self.log_blocks(0);
        if let Some(have) = self.capacity().map(u64::from).filter(|&c| need > c) {
            return Err(Error::NoSpace { what: "blocks of the journal", need, have });
        }
        let done = self.try_commit(need);
        self.guard(done)
    }

    /// Make content that was written durable, without committing anything.
    ///
    /// # Errors
    /// A failed flush poisons the journal.
    pub fn flush_content(&mut self) -> Result<()> {
        self.check_alive()?;
        if self.shared.read().running.data {
            let done = self.shared.device.flush();
            self.guard(done)?;
            self.shared.write().running.data = false;
        }
        Ok(())
    }

    fn try_commit(&mut self, need: u64) -> Result<Option<Tid>> {
        let (empty, data) = {
            let running = &self.shared.read().running;
            (running.is_empty(), running.data)
        };
        if empty {
            if data {
                self.shared.device.flush()?;
                self.shared.write().running.data = false;
            }
            return Ok(None);
        }
        if let Target::Log(w) = &self.target
            && !w.has_room(need)
        {
            self.try_checkpoint()?;
        }
        self.mark()?;
        let tid = self.write_transaction()?;
        self.committed = Some(tid);
        let mut state = self.shared.write();
        let running = std::mem::take(&mut state.running);
        if self.is_atomic() {
            for block in &running.revoked {
                state.committed.remove(block);
            }
            state.committed.extend(running.blocks);
        } else if let Some(bytes) = running.blocks.get(&self.shared.super_block) {
            state.home_super = Some(Arc::clone(bytes));
        }
        Ok(Some(tid))
    }

    fn write_transaction(&mut self) -> Result<Tid> {
        let now = self.options.clock.now();
        let state = self.shared.read();
        let running = &state.running;
        let mut blocks = running.blocks.clone();
        if let Some(bytes) = blocks.get_mut(&self.shared.super_block) {
            *bytes = self.shared.with_super(bytes, |sb| mark(sb, matches!(self.target, Target::Log(_))))?;
        }
        match &mut self.target {
            Target::Log(w) => {
                // On one device, the barrier before the commit block covers the content as well.
                let apart = running.data && w.log().area().is_external();
                let flush = || if apart && self.options.barriers { self.shared.device.flush() } else { Ok(()) };
                w.commit(&blocks, &running.revoked, now, flush)
            }
            Target::Home { next } => {
                let tid = *next;
                let last = blocks.remove_entry(&self.shared.super_block);
                let made: Vec<_> = running.made.iter().filter_map(|b| blocks.remove_entry(b)).collect();
                write_home(&self.shared, made.iter().map(|(b, bytes)| (*b, bytes)))?;
                self.shared.device.flush()?;
                write_home(&self.shared, blocks.iter().map(|(b, bytes)| (*b, bytes)))?;
                self.shared.device.flush()?;
                if let Some((block, bytes)) = &last {
                    write_home(&self.shared, std::iter::once((*block, bytes)))?;
                    self.shared.device.flush()?;
                }
                *next = tid.next();
                Ok(tid)
            }
        }
    }

    /// Say in the superblock on the device that the filesystem is in use, durably.
    fn mark(&mut self) -> Result<()> {
        if self.marked {
            return Ok(());
        }
        let log = self.is_atomic();
        self.write_super(|sb| mark(sb, log))?;
        self.marked = true;
        Ok(())
    }

    /// Write the superblock as it is at home, changed, to the device, and flush.
    fn write_super(&self, change: impl FnOnce(&mut Superblock)) -> Result<()> {
        let Some(home) = self.shared.read().home_super.clone() else { return Ok(()) };
        let bytes = self.shared.with_super(&home, change)?;
        write_home(&self.shared, std::iter::once((self.shared.super_block, &bytes)))?;
        self.shared.device.flush()
    }

    /// Bring everything committed home and empty the log.
    ///
    /// # Errors
    /// Any failed write poisons the journal.
    #[doc(alias = "jbd2_log_do_checkpoint")]
    pub fn checkpoint(&mut self) -> Result<()> {
        self.check_alive()?;
        let done = self.try_checkpoint();
        self.guard(done)
    }

    fn try_checkpoint(&mut self) -> Result<()> {
        let Target::Log(writer) = &mut self.target else { return Ok(()) };
        let mut state = self.shared.write();
        if state.committed.is_empty() && writer.is_empty() {
            return Ok(());
        }
        let newer = state.committed.get(&self.shared.super_block).cloned();
        let marked = newer.as_ref().map(|b| self.shared.with_super(b, |sb| mark(sb, true))).transpose()?;
        let blocks = state.committed.iter().map(|(b, bytes)| (*b, bytes));
        let home =
            blocks.map(|(b, bytes)| (b, marked.as_ref().filter(|_| b == self.shared.super_block).unwrap_or(bytes)));
        write_home(&self.shared, home)?;
        self.shared.device.flush()?;
        writer.empty()?;
        if newer.is_some() {
            state.home_super = newer;
        }
        state.committed.clear();
        Ok(())
    }

    /// Commit what is running, bring everything home, and leave the filesystem clean. A journal that is dropped instead
    /// leaves what a crash would: everything committed is recovered.
    ///
    /// # Errors
    /// As [`Journal::commit`].
    #[doc(alias = "jbd2_journal_destroy")]
    pub fn close(mut self) -> Result<()> {
        self.commit()?;
        let done = self.try_close();
        self.guard(done)
    }

    fn try_close(&mut self) -> Result<()> {
        self.try_checkpoint()?;
        if !self.marked {
            return Ok(());
        }
        let now = self.options.clock.now();
        self.write_super(|sb| sb.set_write_time(now))
    }

    /// Poison on failure.
    fn guard<T>(&mut self, done: Result<T>) -> Result<T> {
        if done.is_err() {
            self.abort();
        }
        done
    }

    /// Take no more changes, and leave a note in the journal where the device still takes one.
    #[doc(alias = "jbd2_journal_abort")]
    pub fn abort(&mut self) {
        if !self.poisoned
            && self.marked
            && let Target::Log(w) = &mut self.target
        {
            w.abort(EIO);
        }
        self.poisoned = true;
    }

    /// Whether an earlier failure has ended its use.
    pub const fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    pub(super) const fn check_alive(&self) -> Result<()> {
        if self.poisoned { Err(Error::Poisoned) } else { Ok(()) }
    }
}

/// In use: to be recovered, or, without a journal, not cleanly unmounted.
fn mark(sb: &mut Superblock, log: bool) {
    if log {
        sb.set_needs_recovery(true);
    } else {
        sb.state = (sb.state_flags() - FsState::VALID).bits().into();
    }
}
