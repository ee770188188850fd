//! Recovery of a filesystem whose journal was not written back, in stages:
//!
//! 1. [`replay_log`]: scan, revoke, replay. The blocks are home; the journal still holds them, and what its fast-commit
//!    area holds on top ([`Replayed::fast_commits`]) is for a room above to carry out.
//! 2. [`Replayed::finish`]: the journal is empty, `needs_recovery` is gone, what the journal knew about errors is in the
//!    filesystem's superblock, and its counts are those of the group descriptors.
//!
//! Each stage can be interrupted and repeated. [`recover`] does both where there are no fast commits. Orphans are not
//! cleaned up here either.
//!
//! Any device will do: recovery of an image that must not change goes to an [`crate::device::OverlayDevice`]
//! ([`open_log_recovered`]).

use std::sync::Arc;

use super::fast::FastCommits;
use super::log::Log;
use super::replay::{Outcome, replay};
use super::scan::{End, Scan};
use super::transact::{Journal, JournalOptions};
use crate::device::{BlockDevice, OverlayDevice};
use crate::env::Timestamp;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::features::Incompat;
use crate::format::superblock::{self, State, Superblock};
use crate::units::Tid;
use crate::volume::{DirtyJournal, OpenOptions, Volume};

/// What a journal that ends with an invalid transaction leaves as error: `-EINVAL`.
const EINVAL: i32 = -22;

/// What to do about a log that is damaged (not merely cut off).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// Fail. What could be recovered may be home already; the journal stays, and so does `needs_recovery`.
    #[default]
    Refuse,
    /// Take what is good, empty the journal, and note in the superblock that the filesystem needs a check.
    Salvage,
}

/// How to recover.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecoverOptions {
    /// What to do about damage.
    pub on_damage: OnDamage,
    /// Time to store as the last write, where it is to be stored.
    pub now: Option<Timestamp>,
    /// Leave the superblock's counts of free blocks and inodes as they are: somebody compares them later.
    pub keep_counts: bool,
}

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Whether the filesystem asked for recovery at all.
    pub needed: bool,
    /// First transaction of the log.
    pub first: u32,
    /// Whole transactions.
    pub transactions: u32,
    /// Why the log ends where it does; nothing where it was not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ending: Option<End>,
    /// Blocks brought home.
    pub blocks: u64,
    /// Older copies of those blocks, not written.
    pub superseded: u64,
    /// Copies left out because they were revoked.
    pub revoked: u64,
    /// Revoke records in the log.
    pub revoke_records: u64,
    /// Copies left out because they are damaged.
    pub damaged: u64,
    /// What was wrong with the log, as text; recovery took what was good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// Fast-commit records that count.
    pub fast_commit_records: usize,
    /// Error that the journal was aborted with (negative errno), now noted in the filesystem's superblock.
    pub journal_error: i32,
}

/// A filesystem whose log has been replayed, and whose journal does not know yet.
pub struct Replayed {
    device: Arc<dyn BlockDevice>,
    log: Log,
    end: Tid,
    head: u32,
    fast: FastCommits,
    report: Report,
    before: Superblock,
    options: RecoverOptions,
}

impl std::fmt::Debug for Replayed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replayed").field("report", &self.report).finish_non_exhaustive()
    }
}

/// Open a volume as it is, whatever the journal holds.
fn open_as_is(device: Arc<dyn BlockDevice>) -> Result<Volume> {
    let options = OpenOptions { dirty_journal: DirtyJournal::Ignore, verify_groups: false, ..OpenOptions::default() };
    Volume::open(device, &options)
}

/// Replay the log of the filesystem on `device`. `journal` is its journal's device, where it has one. `None` where
/// the filesystem does not ask for recovery.
///
/// # Errors
/// Those of opening the volume and its journal; [`Error::Corrupt`] for a damaged log unless salvaging; reading or
/// writing failed.
pub fn replay_log(
    device: &Arc<dyn BlockDevice>,
    journal: Option<Arc<dyn BlockDevice>>,
    options: RecoverOptions,
) -> Result<Option<Replayed>> {
    settle_superblock(device, journal.as_ref())?;
    let volume = open_as_is(Arc::clone(device))?;
    let before = volume.superblock().clone();
    if !before.features().incompat.contains(Incompat::RECOVER) {
        return Ok(None);
    }
    let log = Log::open(&volume, journal)?;
    let mut out = Replayed {
        device: Arc::clone(device),
        end: log.superblock().sequence(),
        head: log.first(),
        fast: FastCommits::default(),
        report: Report { needed: true, first: log.superblock().sequence().0, ..Report::default() },
        before,
        options,
        log,
    };
    out.run(&volume)?;
    Ok(Some(out))
}

impl Replayed {
    fn run(&mut self, volume: &Volume) -> Result<()> {
        self.report.journal_error = self.log.superblock().error();
        let scan = match Scan::of(&self.log) {
            Ok(scan) => scan,
            Err(e) => return self.damage(e),
        };
        (self.end, self.head) = (scan.end, scan.head);
        self.report.transactions = scan.transactions();
        self.report.revoke_records = scan.revoke_records;
        self.report.ending = Some(scan.ending.clone());
        if let End::BadCommit { at, .. } = scan.ending {
            let detail = "the commit block's checksum is wrong";
            let flaw = Flaw::Inconsistent { of: Structure::JournalBlock, detail };
            self.damage(Error::corrupt(flaw, Place::FS.in_lblk(crate::units::Lblk(at))))?;
            self.report.journal_error = EINVAL;
        }
        let done = replay(&self.log, &scan, volume.geometry(), &*self.device)?;
        self.count(done)?;
        match FastCommits::read(&self.log, self.end) {
            Ok(fast) => self.fast = fast,
            Err(e) if matches!(e, Error::Corrupt { .. }) => self.damage(e)?,
            Err(e) => return Err(e),
        }
        self.report.fast_commit_records = self.fast.len();
        Ok(())
    }

    fn count(&mut self, done: Outcome) -> Result<()> {
        let r = &mut self.report;
        (r.blocks, r.superseded, r.revoked, r.damaged) = (done.blocks, done.superseded, done.revoked, done.damaged);
        done.first_damage.map_or(Ok(()), |e| self.damage(e))
    }

    fn damage(&mut self, e: Error) -> Result<()> {
        if self.options.on_damage == OnDamage::Refuse || !e.is_corruption() {
            return Err(e);
        }
        self.report.damage.get_or_insert_with(|| e.to_string());
        Ok(())
    }

    /// The filesystem's device.
    pub const fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// What the fast-commit area holds on top of the log. To be carried out, durably, before [`Replayed::finish`].
    pub const fn fast_commits(&self) -> &FastCommits {
        &self.fast
    }

    /// Make changes on top of what was replayed, as the transaction that follows: all of them are recovered from then on, or
    /// none. The fast commits no longer count when it is there.
    ///
    /// # Errors
    /// Those of `change`; nothing has happened then. Writing failed.
    pub fn apply<T>(&mut self, options: JournalOptions, change: impl FnOnce(&mut Journal) -> Result<T>) -> Result<T> {
        let volume = open_as_is(Arc::clone(&self.device))?;
        let mut journal = Journal::on_top(&volume, self.log.clone(), self.head, self.end, options)?;
        let out = change(&mut journal)?;
        journal.commit()?;
        journal.checkpoint()?;
        self.end = journal.running();
        self.fast = FastCommits::default();
        Ok(out)
    }

    /// Leave the fast commits out: they are damaged, which is noted.
    ///
    /// # Errors
    /// `e` itself, unless salvaging.
    pub fn leave_fast_commits(&mut self, e: Error) -> Result<()> {
        self.damage(e)?;
        self.fast = FastCommits::default();
        Ok(())
    }

    /// What was found and done so far.
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// Mark the journal empty and the filesystem recovered. Everything is flushed.
    ///
    /// # Errors
    /// Reading or writing failed.
    pub fn finish(mut self) -> Result<Report> {
        let damaged = self.report.damage.is_some();
        // What a damaged log still holds may carry later numbers: stay clear of all that can be in it.
        let ahead = if damaged { self.log.ring() } else { 0 };
        let next = Tid(self.end.next().0.wrapping_add(ahead));
        self.device.flush()?;
        self.log.update(|sb| {
            sb.set_log(None, next);
            sb.set_error(0);
        })?;
        self.log.area().device().flush()?;
        let error = damaged || self.report.journal_error != 0;
        let before = &self.before;
        rewrite_superblock(&self.device, self.options.keep_counts, |sb| {
            keep_errors(before, sb);
            let mut state = sb.state_flags();
            if error {
                state |= State::ERROR;
            }
            if damaged {
                state -= State::VALID;
            }
            sb.state = state.bits().into();
            if let Some(now) = self.options.now {
                sb.set_write_time(now);
            }
        })?;
        Ok(self.report)
    }
}

/// Errors recorded before recovery are not forgotten because an older superblock came out of the log.
fn keep_errors(before: &Superblock, sb: &mut Superblock) {
    let state = sb.state_flags() | (before.state_flags() & State::ERROR);
    sb.state = state.bits().into();
    if before.error_count.get() == 0 {
        return;
    }
    sb.error_count = before.error_count;
    sb.first_error_time = before.first_error_time;
    sb.first_error_time_hi = before.first_error_time_hi;
    sb.first_error_ino = before.first_error_ino;
    sb.first_error_block = before.first_error_block;
    sb.first_error_func = before.first_error_func;
    sb.first_error_line = before.first_error_line;
    sb.first_error_errcode = before.first_error_errcode;
    sb.last_error_time = before.last_error_time;
    sb.last_error_time_hi = before.last_error_time_hi;
    sb.last_error_ino = before.last_error_ino;
    sb.last_error_line = before.last_error_line;
    sb.last_error_block = before.last_error_block;
    sb.last_error_func = before.last_error_func;
    sb.last_error_errcode = before.last_error_errcode;
}

/// A write of the superblock that was torn leaves a wrong checksum, because that is in another sector than most of what
/// changes. Such a superblock is taken as good where all that depends on its lasting fields holds together: the first
/// group descriptor, the journal inode and the journal's superblock, with the checksums that they have. It is stamped
/// anew then, and recovery is due. Otherwise it is left as it is.
fn settle_superblock(device: &Arc<dyn BlockDevice>, journal: Option<&Arc<dyn BlockDevice>>) -> Result<()> {
    let mut bytes = [0; superblock::SIZE];
    device.read_at(superblock::OFFSET, &mut bytes)?;
    let of = Structure::Superblock;
    if !matches!(Superblock::decode(&bytes), Err(Error::Corrupt { what: Flaw::Checksum { of: o, .. }, .. }) if o == of)
    {
        return Ok(());
    }
    let mut sb = Superblock::decode_unchecked(&bytes)?;
    sb.set_needs_recovery(true);
    let stamped = sb.encode();
    let trial: Arc<dyn BlockDevice> = Arc::new(OverlayDevice::new(Arc::clone(device)));
    trial.write_at(superblock::OFFSET, &stamped)?;
    let holds = open_as_is(trial).and_then(|volume| {
        volume.check_group(crate::units::Group(0))?;
        Log::open(&volume, journal.cloned())
    });
    if holds.is_ok() {
        device.write_at(superblock::OFFSET, &stamped)?;
        device.flush()?;
    }
    Ok(())
}

/// Clear `needs_recovery` in the primary superblock, bring its counts up to date unless they are kept, and apply `change`.
fn rewrite_superblock(
    device: &Arc<dyn BlockDevice>,
    keep_counts: bool,
    change: impl FnOnce(&mut Superblock),
) -> Result<()> {
    let volume = open_as_is(Arc::clone(device))?;
    let (mut clusters, mut inodes) = (0u64, 0u64);
    for group in volume.geometry().all_groups() {
        let desc = volume.group(group)?;
        clusters += u64::from(desc.free_clusters());
        inodes += u64::from(desc.free_inodes());
    }
    let mut sb = volume.superblock().clone();
    sb.set_needs_recovery(false);
    if !keep_counts {
        sb.set_free_blocks_count(clusters * u64::from(volume.geometry().cluster_ratio));
        sb.free_inodes_count = u32::try_from(inodes).unwrap_or(u32::MAX).into();
    }
    change(&mut sb);
    device.write_at(superblock::OFFSET, &sb.encode())?;
    device.flush()
}

/// Recover the filesystem on `device`: all stages. Where nothing is to be recovered, nothing is written.
///
/// # Errors
/// As [`replay_log`]; [`Error::Unsupported`] where there are fast commits: they need more than a journal.
#[doc(alias = "jbd2_journal_recover")]
pub fn recover(
    device: &Arc<dyn BlockDevice>,
    journal: Option<Arc<dyn BlockDevice>>,
    options: RecoverOptions,
) -> Result<Report> {
    let Some(replayed) = replay_log(device, journal, options)? else { return Ok(Report::default()) };
    if !replayed.fast_commits().is_empty() {
        let feature = crate::format::features::Features::parse("fast_commit");
        return Err(Error::Unsupported { features: feature.into_iter().collect() });
    }
    replayed.finish()
}

/// Open the filesystem on `device` for reading, recovered in memory where it needs to be: the device stays as it is, the
/// journal's too.
///
/// # Errors
/// Those of [`recover`] and of opening a volume.
pub fn open_log_recovered(
    device: Arc<dyn BlockDevice>,
    journal: Option<Arc<dyn BlockDevice>>,
    recovery: RecoverOptions,
    options: &OpenOptions,
) -> Result<(Volume, Report)> {
    let mut bytes = [0; superblock::SIZE];
    device.read_at(superblock::OFFSET, &mut bytes)?;
    let clean = |sb: Superblock| !sb.features().incompat.contains(Incompat::RECOVER);
    if Superblock::decode(&bytes).is_ok_and(clean) {
        return Ok((Volume::open(device, options)?, Report::default()));
    }
    let over: Arc<dyn BlockDevice> = Arc::new(OverlayDevice::new(device));
    let journal = journal.map(|j| Arc::new(OverlayDevice::new(j)) as Arc<dyn BlockDevice>);
    let report = recover(&over, journal, recovery)?;
    Ok((Volume::open(over, options)?, report))
}
