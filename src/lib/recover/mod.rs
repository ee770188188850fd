//! Recovery of a filesystem after a crash, all of it: the log, fast commits on top of it, and orphans.
//!
//! [`recover`] is what a mount does before anybody looks: [`crate::journal`] replays the log, the fast commits become one
//! transaction of their own ([`fast_commit`]), the journal is emptied, and inodes that were being deleted or cut when
//! the power failed are cleaned up ([`orphans`]). Each step can be interrupted and repeated.
//!
//! A damaged image that must not change is recovered over an overlay: [`open_recovered`].

mod fast_commit;
mod orphans;
#[cfg(test)]
mod recovery_tests;
mod usage;

use std::sync::Arc;

pub use fast_commit::Applied;
pub use orphans::{Orphans, clean_orphans};

use crate::alloc::Filesystem;
use crate::device::{BlockDevice, OverlayDevice};
use crate::env::{FixedClock, Timestamp};
use crate::error::{Error, Result};
use crate::format::features::Incompat;
use crate::format::superblock::{self, Superblock};
use crate::journal::{self, JournalOptions, RecoverOptions, replay_log};
use crate::volume::{OpenOptions, Volume};

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// The log.
    #[serde(flatten)]
    pub journal: journal::Report,
    /// Fast commits.
    pub fast_commits: Applied,
    /// Orphans.
    pub orphans: Orphans,
}

/// Recover the filesystem on `device`. `journal` is its journal's device, where it has one. Where nothing is to be
/// recovered, nothing is written.
///
/// # Errors
/// [`Error::Corrupt`] for a damaged log or damaged orphans, unless salvaging; [`Error::Unsupported`] for features that
/// cannot be written; reading or writing failed.
pub fn recover(
    device: &Arc<dyn BlockDevice>,
    journal: Option<Arc<dyn BlockDevice>>,
    options: RecoverOptions,
) -> Result<Report> {
    let mut report = recover_journal(device, journal.clone(), options)?;
    report.orphans = clean_orphans(device, journal, options)?;
    Ok(report)
}

/// Recover log and fast commits only; orphans stay on their list.
///
/// # Errors
/// As [`recover`].
pub fn recover_journal(
    device: &Arc<dyn BlockDevice>,
    journal: Option<Arc<dyn BlockDevice>>,
    options: RecoverOptions,
) -> Result<Report> {
    let Some(mut replayed) = replay_log(device, journal, options)? else { return Ok(Report::default()) };
    let mut report = Report::default();
    if !replayed.fast_commits().is_empty() {
        let fast = replayed.fast_commits().clone();
        let write = write_options(device, options)?;
        let when = write.clock.now();
        let done = replayed.apply(write, |journal| fast_commit::apply(&fast, journal, when));
        match done {
            Ok(applied) => report.fast_commits = applied,
            Err(e) => replayed.leave_fast_commits(e)?,
        }
    }
    report.journal = replayed.finish()?;
    Ok(report)
}

/// Open the filesystem on `device` for reading, recovered in memory where it needs to be: the device stays as it is, the
/// journal's too.
///
/// # Errors
/// Those of [`recover`] and of opening a volume.
pub fn open_recovered(
    device: Arc<dyn BlockDevice>,
    journal: Option<Arc<dyn BlockDevice>>,
    recovery: RecoverOptions,
    options: &OpenOptions,
) -> Result<(Volume, Report)> {
    if read_superblock(&*device).is_ok_and(|sb| !sb.features().incompat.contains(Incompat::RECOVER)) {
        return Ok((Volume::open(device, options)?, Report::default()));
    }
    let over: Arc<dyn BlockDevice> = Arc::new(OverlayDevice::new(device));
    let journal = journal.map(|j| Arc::new(OverlayDevice::new(j)) as Arc<dyn BlockDevice>);
    let report = recover(&over, journal, recovery)?;
    Ok((Volume::open(over, options)?, report))
}

pub(crate) fn read_superblock(device: &dyn BlockDevice) -> Result<Superblock> {
    let mut bytes = [0; superblock::SIZE];
    device.read_at(superblock::OFFSET, &mut bytes)?;
    Superblock::decode(&bytes)
}

/// How recovery writes: at the time given, or the time of the last write.
fn write_options(device: &Arc<dyn BlockDevice>, options: RecoverOptions) -> Result<JournalOptions> {
    let now = match options.now {
        Some(now) => now,
        None => read_superblock(&**device)?.write_time(),
    };
    Ok(JournalOptions::new(Arc::new(FixedClock(now))))
}

/// The filesystem as the journal's running transaction shows it, to be changed.
fn open_for_change(journal: &journal::Journal) -> Result<Filesystem> {
    // Descriptors are checked as they are used: a checker recovers what is damaged elsewhere.
    Filesystem::open(journal.view(), &OpenOptions { verify_groups: false, ..OpenOptions::default() })
}

/// All the credits that a transaction still has.
fn all_credits(journal: &journal::Journal) -> u32 {
    u32::try_from(journal.room()).unwrap_or(u32::MAX)
}

/// A time, where there was none before.
fn later(a: Timestamp, b: Timestamp) -> Timestamp {
    a.max(b)
}

/// Whether an error may be passed over when salvaging.
fn is_damage(e: &Error) -> bool {
    e.is_corruption() || matches!(e, Error::NoSuchInode { .. })
}
