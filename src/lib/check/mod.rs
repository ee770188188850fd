//! Checking a filesystem: what is wrong, by the format's rules, whatever made it so.
//!
//! The passes are e2fsck's: superblock and descriptors first; 1 inodes, block maps and attributes; 1B and 1D blocks
//! claimed more than once; 2 directories and their indexes; 3 connectivity; 4 link counts; 5 bitmaps and counts;
//! 6 quota and orphan file. Every problem is a row of a table ([`Problem`], [`PROBLEMS`]) and is reported to a [`Sink`] as a
//! [`Finding`], in an order that does not depend on the number of threads. [`check`] writes nothing; [`repair`] mends what it
//! finds, pass by pass.
//!
//! Memory: a bit per block (four maps, of which only pages in use exist), two bytes per inode, twelve per directory.

mod bits;
mod blocks;
mod clerk;
mod dirs;
mod discard;
mod dup;
mod index;
mod inode;
mod journal;
mod locate;
mod names;
mod open;
mod pass0;
mod pass1;
mod pass2;
mod pass34;
mod pass5;
mod pass6;
mod problem;
mod quota;
mod rebuild;
mod repair;
mod report;
mod rescue;
mod scan;
mod shape;
mod state;
mod table;
mod tally;
mod uncovered;
mod view;
mod xattrs;

use std::sync::Arc;

pub use clerk::Answers;
pub use discard::discard;
pub use problem::{Ask, PROBLEMS, Pass, Preen, Problem, Row};
pub use repair::{BadBlocks, BadList, Optimise, RepairOptions, Repaired, repair};
pub use report::{Args, Collect, Finding, JsonSink, Sink, Summary, TextSink};
pub use scan::{Medium, bad_blocks};
pub use tally::Tally;
pub use uncovered::{UNCOVERED, Uncovered, Why};

use crate::device::BlockDevice;
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::format::features::Incompat;
use crate::format::superblock::State;
use crate::progress::Progress;
use crate::units::Fsblk;
use crate::volume::Volume;
use clerk::Clerk;
use pass1::Found;
use repair::{Hands, Next};
use state::Ctx;

/// What to do about a journal that holds transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Journal {
    /// Check the filesystem as it is without them.
    #[default]
    Skip,
}

/// How to check.
#[derive(Clone)]
pub struct CheckOptions {
    /// Use the backup superblock at this block.
    pub superblock: Option<Fsblk>,
    /// Block size in bytes, for finding that superblock.
    pub block_size: Option<u32>,
    /// Check even where the filesystem says that it is clean.
    pub force: bool,
    /// The time to compare with.
    pub now: Timestamp,
    /// Threads; 0 for as many as the machine has.
    pub jobs: usize,
    /// The journal.
    pub journal: Journal,
    /// The device of an external journal.
    pub journal_device: Option<Arc<dyn BlockDevice>>,
}

impl CheckOptions {
    /// Check everything by one thread, whatever the filesystem says of itself; without its journal.
    pub const fn everything(now: Timestamp) -> Self {
        let journal = Journal::Skip;
        Self { superblock: None, block_size: None, force: true, now, jobs: 1, journal, journal_device: None }
    }
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Problems that leave the filesystem invalid.
    pub errors: u64,
    /// All findings.
    pub findings: u64,
    /// A filesystem was found.
    pub opened: bool,
    /// The check could not be brought to its end.
    pub aborted: bool,
    /// Why a full check was made; `None` where none was: the filesystem says that it is clean.
    pub reason: Option<Reason>,
    /// Figures: counted by a full check, else the superblock's.
    pub summary: Summary,
}

/// Why a full check is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It was asked for.
    Forced,
    /// The superblock says that there were errors.
    Errors,
    /// It was not unmounted cleanly.
    NotClean,
    /// The journal holds transactions.
    Journal,
    /// It was mounted so many times.
    MountCount,
    /// The last check is long ago.
    Interval,
    /// Something is wrong already.
    Problems,
}

impl Reason {
    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Forced => "check forced",
            Self::Errors => "contains a filesystem with errors, check forced",
            Self::NotClean => "was not cleanly unmounted, check forced",
            Self::Journal => "has a journal that was not written back, check forced",
            Self::MountCount => "has been mounted often enough without a check, check forced",
            Self::Interval => "has not been checked for long enough, check forced",
            Self::Problems => "has problems, check forced",
        }
    }
}

/// Check the filesystem on `dev`. Nothing is written.
///
/// # Errors
/// [`Error::Io`] where the device fails, [`Error::Unsupported`] for features that are not known, [`Error::Cancelled`],
/// [`Error::NoSpace`] where memory does not suffice. Damage is never an error: it is reported to `sink`.
pub fn check(
    dev: &Arc<dyn BlockDevice>,
    options: &CheckOptions,
    sink: &mut dyn Sink,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let pool = pool(options)?;
    let mut clerk = Clerk::new(sink);
    match round(dev, options, &mut clerk, progress, &pool, None)? {
        Round::Over(outcome) => Ok(outcome),
        // Without hands nothing is repaired, and nothing begins again.
        Round::Again => Ok(outcome(&clerk, true, None, Summary::default())),
    }
}

/// Bytes that the maps of a full check of the filesystem on `dev` may need; 0 where there is no filesystem.
///
/// # Errors
/// Those of [`check`].
pub fn memory(dev: &Arc<dyn BlockDevice>, options: &CheckOptions) -> Result<u64> {
    let mut nobody = Collect::default();
    let opened = open::open(dev, options, &mut Clerk::new(&mut nobody))?;
    Ok(opened.map_or(0, |o| Ctx::memory(o.vol.geometry())))
}

fn pool(options: &CheckOptions) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new().num_threads(options.jobs).build().map_err(|_| Error::NoSpace {
        what: "threads",
        need: options.jobs as u64,
        have: 0,
    })
}

/// How one run over the filesystem ended.
#[expect(clippy::large_enum_variant, reason = "there are a few in a run")]
enum Round {
    /// With nothing (more) to repair.
    Over(Outcome),
    /// Something was repaired, and what follows from it is not known.
    Again,
}

/// One run over the filesystem. Where `hands` are given, what a pass finds and the clerk accepts is repaired before the next
/// pass begins, and the round ends with that: later passes would look at what is no longer there.
fn round(
    dev: &Arc<dyn BlockDevice>,
    options: &CheckOptions,
    clerk: &mut Clerk<'_>,
    progress: &dyn Progress,
    pool: &rayon::ThreadPool,
    hands: Option<&Hands<'_>>,
) -> Result<Round> {
    clerk.pass(Pass::P0);
    let Some(opened) = open::open(dev, options, clerk)? else {
        let none = outcome(clerk, true, Some(Reason::Problems), Summary::default());
        return Ok(Round::Over(Outcome { opened: false, ..none }));
    };
    if let Some(hands) = hands
        && hands.restore(&opened, clerk)?
    {
        return Ok(Round::Again);
    }
    let vol = &opened.vol;
    let problems = clerk.found > 0 || clerk.fixed > 0;
    let Some(reason) = reason(vol, options, problems) else {
        return Ok(Round::Over(outcome(clerk, false, None, stored_summary(vol))));
    };
    if hands.is_none() {
        open::note_recovery(vol, options, clerk);
    }
    let mut ctx = Ctx::new(vol, options.now.sec, progress, pool)?;
    ctx.from_backup = opened.from_backup;
    ctx.shares &= !hands.is_some_and(Hands::unshares);
    // The hands say whether the round is over: something was repaired, or the clerk was stopped.
    let mend = |ctx: &Ctx<'_>, found: Option<&Found>, clerk: &mut Clerk<'_>| match hands {
        Some(hands) => hands.mend(ctx, found, clerk),
        None => Ok(Next::GoOn),
    };
    macro_rules! mend {
        ($found:expr) => {
            match mend(&ctx, $found, clerk)? {
                Next::GoOn => {}
                Next::Again => return Ok(Round::Again),
                Next::Stop => return Ok(Round::Over(outcome(clerk, false, Some(reason), ctx.summary))),
            }
        };
    }
    let usable = pass0::run(&mut ctx, options, clerk)?;
    if usable {
        let lacks = hands.is_some_and(Hands::lacks_journal);
        journal::run(&ctx, options.journal_device.as_deref(), lacks, clerk);
    }
    mend!(None);
    if !usable || clerk.fatal {
        return Ok(Round::Over(outcome(clerk, true, Some(reason), Summary::default())));
    }
    let mut found = pass1::run(&mut ctx, clerk)?;
    mend!(Some(&found));
    dup::run(&ctx, &mut found, clerk)?;
    mend!(Some(&found));
    if let Some(hands) = hands
        && hands.bad_blocks(&ctx, &found, clerk)?
    {
        return Ok(Round::Again);
    }
    pass2::run(&mut ctx, &mut found, clerk)?;
    mend!(Some(&found));
    pass34::connectivity(&ctx, &mut found, clerk);
    mend!(Some(&found));
    pass34::links(&ctx, &found, clerk)?;
    mend!(Some(&found));
    pass5::run(&mut ctx, clerk)?;
    mend!(Some(&found));
    pass6::run(&ctx, &found, clerk);
    mend!(Some(&found));
    if let Some(hands) = hands
        && hands.optimise(&ctx, &found, clerk)?
    {
        return Ok(Round::Again);
    }
    let summary = ctx.summary;
    Ok(Round::Over(outcome(clerk, clerk.fatal, Some(reason), summary)))
}

fn outcome(clerk: &Clerk<'_>, aborted: bool, reason: Option<Reason>, summary: Summary) -> Outcome {
    Outcome { opened: true, errors: clerk.errors, findings: clerk.found, aborted, reason, summary }
}

/// Why a full check is due.
#[doc(alias = "check_if_skip")]
fn reason(vol: &Volume, options: &CheckOptions, problems: bool) -> Option<Reason> {
    let sb = vol.superblock();
    let since = options.now.sec.saturating_sub(sb.check_time().sec);
    let interval = i64::from(sb.checkinterval.get());
    let mounts = sb.max_mnt_count.get() as i16;
    if options.force {
        Some(Reason::Forced)
    } else if problems {
        Some(Reason::Problems)
    } else if sb.state_flags().contains(State::ERROR) {
        Some(Reason::Errors)
    } else if !sb.state_flags().contains(State::VALID) {
        Some(Reason::NotClean)
    } else if sb.features().incompat.contains(Incompat::RECOVER) {
        Some(Reason::Journal)
    } else if mounts > 0 && sb.mnt_count.get() >= mounts.unsigned_abs() {
        Some(Reason::MountCount)
    } else if interval > 0 && since >= interval {
        Some(Reason::Interval)
    } else {
        None
    }
}

fn stored_summary(vol: &Volume) -> Summary {
    let (sb, geo) = (vol.superblock(), vol.geometry());
    Summary {
        inodes_used: u64::from(geo.inodes_count).saturating_sub(sb.free_inodes_count.get().into()),
        inodes_total: geo.inodes_count.into(),
        blocks_used: geo.blocks_count.saturating_sub(sb.free_blocks_count()),
        blocks_total: geo.blocks_count,
        ..Summary::default()
    }
}
