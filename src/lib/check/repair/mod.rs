//! Repair: what the check finds is mended, pass by pass, until nothing is left to mend.
//!
//! A *round* is: recover the journal; open the filesystem; run the passes. The first pass with problems that are to be repaired
//! ends the round: they are mended in transactions of their own, and the next round begins. Later passes thus never see
//! what an earlier one is about to change, and what they say is true of the image as it is. Rounds are bounded, and
//! so are the times that the same place is mended.
//!
//! Mending follows the format's rules and looks again at what it changes: findings say *where* and *what*, never *how*.
//! Until pass 5 has compared the bitmaps they are not trusted: new blocks come from what the passes found to be free
//! ([`work`]), and pass 5 brings bitmaps and counts in line.
//!
//! All changes go through a [`crate::journal::Journal`]: the filesystem's own where it is known to be good (nothing wrong with
//! it, none of its blocks claimed by others), else straight home, content first and the superblock last. Either way a kill leaves
//! an image in which a second run finds the rest. The only exception is a primary superblock that is not there: a
//! backup is written over it, the superblock itself last ([`superblock`]).

mod bad;
mod bitmaps;
mod connect;
mod dirs;
mod dup;
mod fields;
mod inode;
mod journal;
mod map;
mod optimise;
mod quota;
mod recovery;
mod rehash;
pub(super) mod relocate;
mod renew;
mod salvage;
mod superblock;
mod work;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::clerk::{Answers, Clerk};
use super::open::Opened;
use super::pass1::Found;
use super::problem::Problem as P;
use super::report::{Finding, Sink, Summary};
use super::state::Ctx;
pub use bad::{BadBlocks, BadList};
pub use optimise::Optimise;
use work::Work;

use super::{CheckOptions, Outcome, Reason, Round};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::progress::Progress;
use crate::recover;

/// Rounds at most. Each one but the last mends something.
const MAX_ROUNDS: u32 = 100;

/// How to repair.
#[derive(Clone)]
pub struct RepairOptions {
    /// How to check.
    pub check: CheckOptions,
    /// Only recover the journal, and mend what stands in its way.
    pub journal_only: bool,
    /// What to make better when all is right.
    pub optimise: Optimise,
    /// What the list of bad blocks is to hold, where it is to change.
    pub bad_blocks: Option<BadBlocks>,
}

impl RepairOptions {
    /// Repair all, and no more.
    pub fn new(check: CheckOptions) -> Self {
        Self { check, journal_only: false, optimise: Optimise::default(), bad_blocks: None }
    }
}

/// What came out of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// What the last round said: problems that are left.
    pub left: Outcome,
    /// Repairs made.
    pub fixed: u64,
    /// Those of them that count as corrections.
    pub corrected: u64,
    /// The filesystem did not count as valid, and does now.
    pub revived: bool,
    /// The check stopped at a problem that is not for preening.
    pub stopped: bool,
    /// What was recovered from the journal.
    pub recovered: recover::Report,
    /// What became of the list of bad blocks, where it was to change.
    pub bad_list: Option<BadList>,
}

/// Recover the journal of the filesystem on `dev`, check it, and repair what `answers` say.
///
/// # Errors
/// Those of [`super::check`]; a device that cannot be written. Repairs that are not possible are problems that are left.
pub fn repair<'a>(
    dev: &Arc<dyn BlockDevice>,
    options: &RepairOptions,
    answers: Answers<'a>,
    sink: &'a mut dyn Sink,
    progress: &dyn Progress,
) -> Result<Repaired> {
    let pool = super::pool(&options.check)?;
    let mut clerk = Clerk::answered(sink, answers, can_mend);
    let mut check = options.check.clone();
    let mut recovered = recover::Report::default();
    let hands = Hands {
        dev,
        options,
        wants_journal: Cell::new(false),
        deferred: RefCell::default(),
        optimised: Cell::new(false),
        bad_list: RefCell::default(),
    };
    let over = |clerk: &Clerk<'_>, left: Outcome, revived: bool, recovered: recover::Report| Repaired {
        // A full check finds an orphan file that is in use not clean: to clean it up before is the same.
        corrected: clerk.corrected + u64::from(recovered.orphans.from_file && left.reason.is_some()),
        left: Outcome { aborted: left.aborted || clerk.fatal, ..left },
        revived,
        fixed: clerk.fixed,
        stopped: clerk.stopped,
        recovered,
        bad_list: hands.bad_list.take(),
    };
    let mut was_valid = None;
    for n in 0.. {
        if n >= MAX_ROUNDS {
            clerk.only_report();
        }
        clerk.begin_round();
        if hands.prepare(&check, &mut clerk, progress, &pool)? {
            check.superblock = None;
            continue;
        }
        recovery::recover(dev, options, &mut recovered)?;
        was_valid = was_valid.or_else(|| superblock::is_valid(dev));
        if options.journal_only && hands.prepare(&check, &mut clerk, progress, &pool)? {
            continue;
        }
        // Where the journal had to be mended, the rest is doubtful as well.
        if options.journal_only && clerk.fixed == 0 {
            let aborted = clerk.fatal || clerk.errors > 0;
            let left = super::outcome(&clerk, aborted, None, Summary::default());
            superblock::count(&hands, &recovered)?;
            return Ok(over(&clerk, left, false, recovered));
        }
        clerk.begin_round();
        match super::round(dev, &check, &mut clerk, progress, &pool, Some(&hands))? {
            Round::Again => check.superblock = None,
            Round::Over(left) => {
                let sound = left.errors == 0 && !left.aborted;
                if hands.wants_journal.take() && renew::journal(&hands, sound)? {
                    continue;
                }
                // A log that ends with a damaged commit says so in another way.
                let valid = superblock::settle(&hands, &left, &clerk)?;
                if left.reason.is_none() {
                    superblock::count(&hands, &recovered)?;
                }
                let told = recovered.journal.damage.is_some() && recovered.journal.journal_error != 0;
                let revived = valid && was_valid == Some(false) && !told;
                return Ok(over(&clerk, left, revived, recovered));
            }
        }
    }
    // The last round reports only, and is over.
    let left = super::outcome(&clerk, true, Some(Reason::Problems), Summary::default());
    clerk.stopped = true;
    Ok(over(&clerk, left, false, recovered))
}

/// Whether there is a way to mend it.
fn can_mend(f: &Finding) -> bool {
    [
        journal::MENDS,
        fields::MENDS,
        &[
            P::OpenFailed,
            P::CheckDescFailed,
            P::DescriptorsLost,
            P::FeaturesUnknown,
            P::SuperblockField,
            P::SuperblockLost,
            P::SuperblockTooNew,
        ],
    ]
    .iter()
    .any(|m| m.contains(&f.problem))
        || [bitmaps::mends, inode::mends, dirs::mends, connect::mends, quota::mends, relocate::mends]
            .iter()
            .any(|m| m(f.problem))
        || f.problem == P::DupFile
}

/// Whether mending it changes the features to what the inodes are.
const fn is_feature(ctx: &Ctx<'_>, p: P) -> bool {
    matches!(p, P::ExtentFeature | P::InlineDataFeature) || fields::is_about_clusters(ctx, p)
}

/// Whether mending it takes blocks.
fn needs_space(ctx: &Ctx<'_>, f: &Finding) -> bool {
    match f.problem {
        P::ResizeInodeInvalid => fields::lacks_resize_block(ctx),
        p => relocate::mends(p),
    }
}

/// How a round goes on.
pub(super) enum Next {
    /// Nothing to mend: on to the next pass.
    GoOn,
    /// Mended: begin anew.
    Again,
    /// A person must look.
    Stop,
}

/// What mending needs.
pub(super) struct Hands<'h> {
    dev: &'h Arc<dyn BlockDevice>,
    options: &'h RepairOptions,
    /// The journal was given up: the filesystem gets a new one when all else is right.
    wants_journal: Cell<bool>,
    /// Repairs that need space, found before pass 1.
    deferred: RefCell<Vec<Finding>>,
    /// What was asked for beyond repairs is done.
    optimised: Cell<bool>,
    /// The list of bad blocks, once it is what it is to be.
    bad_list: RefCell<Option<BadList>>,
}

impl Hands<'_> {
    /// Whether blocks that are shared on purpose are to be shared no more.
    pub(super) const fn unshares(&self) -> bool {
        self.options.optimise.unshare_blocks
    }

    /// Whether the filesystem gets a journal when all else is right: until then the feature says nothing.
    pub(super) const fn lacks_journal(&self) -> bool {
        self.wants_journal.get()
    }

    /// Do what was asked for beyond repairs; whether something was changed.
    pub(super) fn optimise(&self, ctx: &Ctx<'_>, found: &Found, clerk: &mut Clerk<'_>) -> Result<bool> {
        optimise::run(self, ctx, found, clerk)
    }

    /// Write the list of bad blocks that was asked for; whether something was changed.
    pub(super) fn bad_blocks(&self, ctx: &Ctx<'_>, found: &Found, clerk: &mut Clerk<'_>) -> Result<bool> {
        bad::write(self, ctx, found, clerk)
    }

    /// What comes before the journal is recovered: is there a superblock, and is the journal one? Whether something was
    /// mended.
    fn prepare(
        &self,
        check: &CheckOptions,
        clerk: &mut Clerk<'_>,
        progress: &dyn Progress,
        pool: &rayon::ThreadPool,
    ) -> Result<bool> {
        let Some(opened) = super::open::open(self.dev, check, clerk)? else { return Ok(false) };
        if self.restore(&opened, clerk)? {
            return Ok(true);
        }
        let ctx = Ctx::new(&opened.vol, check.now.sec, progress, pool)?;
        if !self.lacks_journal() {
            super::journal::journal(&ctx, check.journal_device.as_deref(), clerk);
        }
        Ok(matches!(self.mend(&ctx, None, clerk)?, Next::Again))
    }

    /// Write what was read from a backup over the primary superblock and descriptors, where they are not usable; whether it
    /// was done.
    pub(super) fn restore(&self, opened: &Opened, clerk: &mut Clerk<'_>) -> Result<bool> {
        if !clerk.repairs() || clerk.stopped {
            return Ok(false);
        }
        // The superblock comes first: with it descriptors are found again after a kill; from descriptors that were found it may not be made
        // as it was.
        if let Some(sb) = &opened.mended {
            superblock::write(self.dev, sb)?;
        }
        if opened.from_backup {
            superblock::restore(self.dev, &opened.vol)?;
        } else if opened.mended.is_none() {
            return Ok(false);
        }
        let done = std::mem::take(&mut clerk.accepted);
        clerk.tried(&done);
        Ok(true)
    }

    /// Mend what the clerk has accepted.
    pub(super) fn mend(&self, ctx: &Ctx<'_>, found: Option<&Found>, clerk: &mut Clerk<'_>) -> Result<Next> {
        if clerk.stopped {
            return Ok(Next::Stop);
        }
        let mut accepted = std::mem::take(&mut clerk.accepted);
        if found.is_none() {
            // What needs space waits until pass 1 knows where there is some.
            let (later, now): (Vec<_>, Vec<_>) = accepted.into_iter().partition(|f| needs_space(ctx, f));
            self.deferred.borrow_mut().extend(later);
            accepted = now;
        } else {
            let (places, others): (Vec<_>, Vec<_>) =
                self.deferred.take().into_iter().partition(|f| relocate::mends(f.problem));
            if !places.is_empty() && ctx.unread.load(Relaxed) && !accepted.is_empty() {
                // Nobody knows what is free: a later round gives them places.
            } else if !places.is_empty() {
                // What else this round found may come from what is not where it should be.
                accepted = places;
            } else if accepted.is_empty() {
                accepted = others;
            }
        }
        if accepted.is_empty() {
            return Ok(Next::GoOn);
        }
        if found.is_none() {
            self.deferred.borrow_mut().clear();
        }
        // The log may be written only where nobody else claims its blocks.
        let sound = found.is_some() && ctx.dup.is_empty();
        if accepted.iter().any(|f| is_feature(ctx, f.problem)) {
            // With the feature, maps are read in another way: all else is looked at again.
            accepted.retain(|f| is_feature(ctx, f.problem));
        }
        clerk.tried(&accepted);
        let scanned = found.is_some() && !ctx.unread.load(Relaxed);
        let mut work = Work::new(self.dev, self.options, ctx, sound && scanned, scanned)?;
        let done = self.mend_all(&mut work, found, &accepted);
        match done {
            // What could not be mended is found again.
            Err(e) if !work::is_passable(&e) => return Err(e),
            _ => {}
        }
        work.finish()?;
        Ok(Next::Again)
    }

    fn mend_all(&self, work: &mut Work<'_, '_>, found: Option<&Found>, accepted: &[Finding]) -> Result<()> {
        for f in accepted {
            if journal::MENDS.contains(&f.problem) {
                journal::mend(self, work, f)?;
            } else if fields::MENDS.contains(&f.problem) {
                fields::mend(work, f)?;
            } else if fields::is_about_clusters(work.ctx, f.problem) {
                return fields::mend_clusters(work);
            }
        }
        for f in accepted.iter().filter(|f| relocate::mends(f.problem)) {
            relocate::mend(work, f)?;
        }
        let of = |mends: fn(P) -> bool| accepted.iter().filter(|f| mends(f.problem)).collect::<Vec<&Finding>>();
        inode::mend(work, &of(inode::mends))?;
        if let Some(found) = found {
            dup::mend(work, found, &of(|p| p == P::DupFile))?;
        }
        dirs::mend(work, &of(dirs::mends))?;
        connect::mend(work, &of(|p| connect::mends(p) || p == P::ZeroLenInode))?;
        let bits = of(bitmaps::mends);
        if !bits.is_empty() {
            bitmaps::mend(work, &bits)?;
        }
        if let Some(found) = found {
            for f in of(quota::mends) {
                quota::mend(work, found, f)?;
            }
        }
        Ok(())
    }
}
