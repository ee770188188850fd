//! Before a round: what the journal holds is brought home, and orphans are cleaned up.

use super::RepairOptions;
use crate::device::BlockDevice;
use crate::env::FixedClock;
use crate::error::{Error, Result};
use crate::format::superblock::State;
use crate::journal::{JournalOptions, OnDamage, RecoverOptions, direct};
use crate::recover::{self, Orphans, Report};
use crate::volume::{OpenOptions, Volume};
use std::sync::Arc;

/// Recover. A journal (or a superblock) that is not usable is no error here: the answer is
/// `false`, and the check says what is wrong with it.
pub(super) fn recover(dev: &Arc<dyn BlockDevice>, options: &RepairOptions, total: &mut Report) -> Result<bool> {
    if options.check.superblock.is_some_and(|b| b.0 != 0) {
        return Ok(false);
    }
    let how = RecoverOptions { on_damage: OnDamage::Salvage, now: Some(options.check.now), keep_counts: true };
    let journal = options.check.journal_device.clone();
    let done = recover::recover_journal(dev, journal.clone(), how).and_then(|mut report| {
        if !options.journal_only {
            report.orphans = orphans(dev, journal, options)?;
        }
        Ok(report)
    });
    match done {
        Ok(report) => {
            if report.journal.needed {
                total.journal = report.journal;
                total.fast_commits = report.fast_commits;
            }
            total.orphans.deleted += report.orphans.deleted;
            total.orphans.truncated += report.orphans.truncated;
            total.orphans.from_file |= report.orphans.from_file;
            if report.orphans.damage.is_some() {
                total.orphans.damage = report.orphans.damage;
            }
            Ok(true)
        }
        Err(e) if is_for_the_check(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Clean up orphans. The list is not followed where it is not trusted: what is on it turns up in pass 1 or 4.
fn orphans(
    dev: &Arc<dyn BlockDevice>,
    journal: Option<Arc<dyn BlockDevice>>,
    options: &RepairOptions,
) -> Result<Orphans> {
    let vol = Volume::open(Arc::clone(dev), &OpenOptions::as_it_is())?;
    let trusted = !vol.superblock().state_flags().contains(State::ERROR);
    let how = RecoverOptions { on_damage: OnDamage::Salvage, now: Some(options.check.now), keep_counts: true };
    let done = if trusted { recover::clean_orphans(dev, journal, how) } else { Ok(Orphans::default()) };
    let done = match done {
        Err(e) if !is_for_the_check(&e) => return Err(e),
        done => done.unwrap_or_default(),
    };
    let vol = Volume::open(Arc::clone(dev), &OpenOptions::as_it_is())?;
    if vol.superblock().last_orphan.get() != 0 {
        let write = JournalOptions::new(Arc::new(FixedClock(options.check.now)));
        let mut direct = direct::open_regardless(&vol, write)?;
        let mut vol = Volume::open(direct.view(), &OpenOptions::as_it_is())?;
        let mut handle = direct.start(1)?;
        vol.store_superblock(&mut handle, |sb| {
            sb.last_orphan.set(0);
            sb.state = (sb.state_flags() - State::VALID).bits().into();
        })?;
        direct.close()?;
    }
    Ok(done)
}

/// Whether the check will say what the error says.
fn is_for_the_check(e: &Error) -> bool {
    e.is_corruption()
        || matches!(
            e,
            Error::Unsupported { .. }
                | Error::Conflict { .. }
                | Error::NeedsRecovery
                | Error::NoSuchInode { .. }
                | Error::NoSpace { .. }
                | Error::InvalidArgument { .. }
        )
}
