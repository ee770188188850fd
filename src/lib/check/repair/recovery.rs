//! Before a round: what the journal holds is brought home, and orphans are cleaned up.

use super::RepairOptions;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::journal::{OnDamage, RecoverOptions};
use crate::recover::{self, Report};
use std::sync::Arc;

/// Recover. A journal (or a superblock) that is not usable is no error here: the answer is
/// `false`, and the check says what is wrong with it.
pub(super) fn recover(dev: &Arc<dyn BlockDevice>, options: &RepairOptions, total: &mut Report) -> Result<bool> {
    if options.check.superblock.is_some_and(|b| b.0 != 0) {
        return Ok(false);
    }
    let how = RecoverOptions { on_damage: OnDamage::Salvage, now: Some(options.check.now) };
    let journal = options.check.journal_device.clone();
    let done = recover::recover_journal(dev, journal.clone(), how).and_then(|mut report| {
        if !options.journal_only {
            report.orphans = recover::clean_orphans(dev, journal, how)?;
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
            if report.orphans.damage.is_some() {
                total.orphans.damage = report.orphans.damage;
            }
            Ok(true)
        }
        Err(e) if is_for_the_check(&e) => Ok(false),
        Err(e) => Err(e),
    }
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
