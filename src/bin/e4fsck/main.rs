//! `e4fsck`: check and repair an ext2, ext3 or ext4 filesystem in an image.
//!
//! Options and exit codes are e2fsck's. With `-n` nothing is written; otherwise the journal is recovered first.

mod args;
mod ask;
mod lists;
mod progress;
mod report;
mod times;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use args::Args;
use ask::Asker;
use ext4kit::check::{self, Answers, BadBlocks, CheckOptions, Finding, Journal, Medium, RepairOptions, Repaired};
use ext4kit::cli::{self, Failure, FsckExit, Session, Tool};
use ext4kit::device::{Access, BlockDevice, FileDevice, ImageSpec, UndoDevice, undo};
use ext4kit::progress::Progress;
use ext4kit::units::Fsblk;
use progress::{Deadline, Lines, Shared};
use report::{Discarded, Extra, Report};

fn main() -> ExitCode {
    cli::run(Tool::FSCK, |args: Args, session| run(&args, session))
}

fn run(args: &Args, session: &Session) -> Result<FsckExit, Failure> {
    if args.problems {
        return lists::list_problems(args, session);
    }
    if args.uncovered {
        return lists::list_uncovered(args, session);
    }
    args::check_arguments(args)?;
    let Some(image) = &args.image else { return Err(Failure::Usage("which image?".into())) };
    let spec = ImageSpec::parse(image);
    let listed = bad_blocks_of_file(args)?;
    let access = if args.no { Access::ReadOnly } else { Access::ReadWrite };
    // Read, not mapped: most reads are of single blocks far apart, where a page fault costs more than a call.
    let open = || spec.windowed(FileDevice::open(&spec.path, access)?);
    if let Some(file) = &args.bring_back {
        let bytes = undo(&*open()?, file)?;
        writeln!(session.out(), "{spec}: {bytes} bytes brought back")?;
        return Ok(FsckExit::empty());
    }
    let optimise = args::optimise(args);
    let options = CheckOptions {
        superblock: args.superblock.map(Fsblk),
        block_size: args.block_size,
        force: args.force || optimise.any() || args.badblocks > 0 || listed.is_some(),
        now: cli::clock(&["E2FSCK_TIME", "SOURCE_DATE_EPOCH"])?.now(),
        jobs: args.jobs,
        journal: Journal::Skip,
        journal_device: args.journal.as_ref().map(|j| ImageSpec::parse(j).open(access)).transpose()?,
    };
    let shown = Arc::new(match args.completion {
        Some(fd) if fd > 0 => Shared::Lines(Mutex::new(Lines::new(fd, spec.to_string())?)),
        wanted => Shared::Bar(session.progress(args.json || wanted != Some(0))),
    });
    let progress =
        Deadline { shown: Arc::clone(&shown), end: args.max_time.map(|s| Instant::now() + Duration::from_secs(s)) };
    let bad_blocks = bad_blocks(args, listed, &options, &progress, &mut || Ok(open()? as Arc<dyn BlockDevice>))?;
    let device = open()?;
    let device: Arc<dyn BlockDevice> = match &args.undo {
        Some(file) => Arc::new(UndoDevice::create(device, file)?),
        None => device,
    };
    if let Some(have) = args.max_memory {
        let need = check::memory(&device, &options)?;
        if need > have {
            return Err(ext4kit::Error::NoSpace { what: "bytes of memory", need, have }.into());
        }
    }
    let preen = args.preen || args.auto;
    let mut report = Report::new(args.json, preen, session, shown);
    let mut asker = Asker::default();
    let done = if args.no {
        let left = check::check(&device, &options, &mut report, &progress)?;
        Repaired {
            left,
            revived: false,
            fixed: 0,
            corrected: 0,
            stopped: false,
            recovered: ext4kit::recover::Report::default(),
            bad_list: None,
        }
    } else {
        let mut ask = |f: &Finding| asker.ask(f);
        let answers = match (args.yes, preen) {
            (true, _) => Answers::Yes,
            (_, true) => Answers::Preen,
            _ if !std::io::stdin().is_terminal() => return Err(no_terminal()),
            _ => Answers::Ask(&mut ask),
        };
        let journal_only = args.has("journal_only");
        let options = RepairOptions { check: options, journal_only, optimise, bad_blocks };
        check::repair(&device, &options, answers, &mut report, &progress)?
    };
    let mut exit = exit_code(&done);
    if let Some(file) = &args.expect {
        exit = report::expected(file, &report.ids, exit)?;
    }
    let extra = afterwards(args, &device, &done)?;
    report::finish(args, session, &spec.to_string(), (report, done, extra), exit)
}

/// What is done when the filesystem was looked at.
fn afterwards(args: &Args, device: &Arc<dyn BlockDevice>, done: &Repaired) -> Result<Extra, Failure> {
    let mut extra = Extra::default();
    let whole = done.left.opened && !done.left.aborted && done.left.reason.is_some() && !done.stopped;
    if whole && args.has("fragcheck") {
        extra.find_fragments(device)?;
    }
    if whole && done.left.errors == 0 && args.has("discard") && !args.no {
        extra.discarded = check::discard(device)?.map_or(Discarded::Impossible, Discarded::Bytes);
    }
    Ok(extra)
}

fn no_terminal() -> Failure {
    Failure::Usage("questions need a terminal: use -n, -p or -y".into())
}

fn exit_code(done: &Repaired) -> FsckExit {
    let mut exit = FsckExit::empty();
    exit.set(FsckExit::CORRECTED, done.corrected > 0 || done.revived);
    exit.set(FsckExit::OPERATIONAL, done.left.aborted);
    exit.set(FsckExit::UNCORRECTED, (done.left.errors > 0 && done.left.opened) || done.stopped);
    exit
}

/// What the list of bad blocks is to hold: `listed`, or what a scan finds.
fn bad_blocks(
    args: &Args,
    listed: Option<BadBlocks>,
    options: &CheckOptions,
    progress: &dyn Progress,
    reopen: &mut dyn FnMut() -> ext4kit::Result<Arc<dyn BlockDevice>>,
) -> Result<Option<BadBlocks>, Failure> {
    if args.badblocks == 0 {
        return Ok(listed);
    }
    let medium = if args.badblocks == 1 { Medium::Read } else { Medium::Write };
    let blocks = check::bad_blocks(reopen, options, medium, progress)?;
    Ok(Some(BadBlocks { blocks, keep: args.keep_bad }))
}

/// The blocks that the file of -l or -L lists: a number a line, as badblocks(8) writes them.
fn bad_blocks_of_file(args: &Args) -> Result<Option<BadBlocks>, Failure> {
    let Some(file) = args.add_bad.as_ref().or(args.set_bad.as_ref()) else { return Ok(None) };
    let text = std::fs::read_to_string(file)?;
    let mut blocks = Vec::new();
    for line in text.lines() {
        let Some(word) = line.split_whitespace().next().filter(|w| !w.starts_with('#')) else { continue };
        let number = word.parse().map_err(|_| Failure::Usage(format!("{}: {word} is not a block", file.display())))?;
        blocks.push(Fsblk(number));
    }
    Ok(Some(BadBlocks { blocks, keep: args.add_bad.is_some() }))
}
