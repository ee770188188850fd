//! `e4fsck`: check an ext2, ext3 or ext4 filesystem in an image.
//!
//! Options and exit codes are e2fsck's. This version only looks: without `-n` it behaves the same, and says with exit code 8
//! that repairs are not possible yet where there is something to repair.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ext4kit::check::{self, CheckOptions, Finding, Journal, JsonSink, Outcome, PROBLEMS, Pass, Reason, Sink, TextSink};
use ext4kit::cli::{self, Failure, FsckExit, Session, Tool};
use ext4kit::device::{Access, FileDevice, ImageSpec};
use ext4kit::units::Fsblk;
use serde_json::json;

/// Check a filesystem.
///
/// IMAGE is a file or a block device; IMAGE@OFFSET is a filesystem inside it. Nothing is written by this version: with -p, -a
/// or -y, and without -n, problems are reported and the exit code says that they could not be repaired.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "one per option of e2fsck")]
struct Args {
    /// The image.
    #[arg(required_unless_present = "problems")]
    image: Option<PathBuf>,
    /// Change nothing; answer all questions with no.
    #[arg(short = 'n', conflicts_with_all = ["yes", "preen", "auto"])]
    no: bool,
    /// Answer all questions with yes.
    #[arg(short = 'y', conflicts_with_all = ["preen", "auto"])]
    yes: bool,
    /// Repair what can be repaired safely without asking.
    #[arg(short = 'p')]
    preen: bool,
    /// The same as -p.
    #[arg(short = 'a')]
    auto: bool,
    /// Check even where the filesystem says that it is clean.
    #[arg(short = 'f')]
    force: bool,
    /// Use the backup superblock at this block.
    #[arg(short = 'b', value_name = "BLOCK")]
    superblock: Option<u64>,
    /// Block size in bytes, for finding the superblock of -b.
    #[arg(short = 'B', value_name = "BYTES")]
    block_size: Option<u32>,
    /// Write progress to this file descriptor (0: a bar on the terminal).
    #[arg(short = 'C', value_name = "FD", allow_negative_numbers = true)]
    completion: Option<i32>,
    /// Look for bad blocks (not done: use a tool for the medium).
    #[arg(short = 'c', action = clap::ArgAction::Count)]
    badblocks: u8,
    /// Add the blocks that this file lists to the bad blocks.
    #[arg(short = 'l', value_name = "FILE")]
    add_bad: Option<PathBuf>,
    /// Set the bad blocks to those that this file lists.
    #[arg(short = 'L', value_name = "FILE")]
    set_bad: Option<PathBuf>,
    /// Where the external journal is.
    #[arg(short = 'j', value_name = "DEVICE")]
    journal: Option<PathBuf>,
    /// With -c, keep the bad blocks known so far.
    #[arg(short = 'k')]
    keep_bad: bool,
    /// Optimise directories.
    #[arg(short = 'D')]
    optimise: bool,
    /// Accepted for e2fsck's sake.
    #[arg(short = 'd', hide = true)]
    debug: bool,
    /// Accepted for e2fsck's sake.
    #[arg(short = 'F', hide = true)]
    flush: bool,
    /// Print how long it took.
    #[arg(short = 't', action = clap::ArgAction::Count)]
    timing: u8,
    /// Print more.
    #[arg(short = 'v')]
    verbose: bool,
    /// Extended options, separated by commas.
    #[arg(short = 'E', value_name = "OPTIONS", value_delimiter = ',')]
    extended: Vec<String>,
    /// Save what is overwritten to this file.
    #[arg(short = 'z', value_name = "FILE")]
    undo: Option<PathBuf>,
    /// Print the result as one JSON document.
    #[arg(long)]
    json: bool,
    /// Print the table of problems and nothing else.
    #[arg(long)]
    problems: bool,
    /// Threads; 0 for as many as the machine has.
    #[arg(long, value_name = "N", default_value_t = 0)]
    jobs: usize,
}

/// Extended options that are known, with whether they take a value.
const EXTENDED: &[(&str, bool)] = &[
    ("ea_ver", true),
    ("journal_only", false),
    ("fragcheck", false),
    ("discard", false),
    ("nodiscard", false),
    ("no_optimize_extents", false),
    ("optimize_extents", false),
    ("inode_count_fullmap", false),
    ("no_inode_count_fullmap", false),
    ("readahead_kb", true),
    ("bmap2extent", false),
    ("fixes_only", false),
    ("unshare_blocks", false),
    ("check_encoding", false),
];

/// Findings go on at once as text, or are kept for one document.
enum Report {
    Text(TextSink<cli::Output>),
    Json(JsonSink),
}

impl Sink for Report {
    fn pass(&mut self, pass: Pass) {
        match self {
            Self::Text(s) => s.pass(pass),
            Self::Json(s) => s.pass(pass),
        }
    }

    fn finding(&mut self, finding: &Finding, fixed: bool) {
        match self {
            Self::Text(s) => s.finding(finding, fixed),
            Self::Json(s) => s.finding(finding, fixed),
        }
    }
}

fn main() -> ExitCode {
    cli::run(Tool::FSCK, |args: Args, session| run(&args, session))
}

fn run(args: &Args, session: &Session) -> Result<FsckExit, Failure> {
    if args.problems {
        return list_problems(args, session);
    }
    check_arguments(args)?;
    let Some(image) = &args.image else { return Err(Failure::Usage("which image?".into())) };
    let spec = ImageSpec::parse(image);
    // Read, not mapped: most reads are of single blocks far apart, where a page fault costs more than a call.
    let device = spec.windowed(FileDevice::open(&spec.path, Access::ReadOnly)?)?;
    let options = CheckOptions {
        superblock: args.superblock.map(Fsblk),
        block_size: args.block_size,
        force: args.force,
        now: cli::clock(&["E2FSCK_TIME", "SOURCE_DATE_EPOCH"])?.now(),
        jobs: args.jobs,
        journal: Journal::Skip,
        journal_device: args.journal.as_ref().map(|j| ImageSpec::parse(j).open(Access::ReadOnly)).transpose()?,
    };
    let progress = session.progress(args.json || args.completion.is_none());
    let mut report = if args.json {
        Report::Json(JsonSink::default())
    } else {
        Report::Text(TextSink::new(session.out(), !(args.preen || args.auto)))
    };
    let outcome = check::check(&device, &options, &mut report, &*progress)?;
    let exit = exit_code(args, &outcome);
    let name = spec.to_string();
    match report {
        Report::Text(sink) => {
            sink.finish()?;
            print_end(args, session, &name, &outcome)?;
        }
        Report::Json(sink) => {
            let document = json!({
                "image": name,
                "reason": outcome.reason,
                "clean": outcome.errors == 0 && !outcome.aborted,
                "aborted": outcome.aborted,
                "errors": outcome.errors,
                "exit": exit.bits(),
                "findings": sink.0,
                "summary": outcome.summary,
            });
            writeln!(session.out(), "{document:#}")?;
        }
    }
    Ok(exit)
}

fn exit_code(args: &Args, outcome: &Outcome) -> FsckExit {
    let mut exit = FsckExit::empty();
    if outcome.aborted {
        exit |= FsckExit::OPERATIONAL;
    }
    if outcome.errors > 0 && outcome.opened {
        exit |= FsckExit::UNCORRECTED;
        if !args.no {
            exit |= FsckExit::OPERATIONAL;
        }
    }
    exit
}

fn print_end(args: &Args, session: &Session, name: &str, outcome: &Outcome) -> Result<(), Failure> {
    let mut out = session.out();
    let Some(reason) = outcome.reason else {
        let s = &outcome.summary;
        let (files, blocks) = ((s.inodes_used, s.inodes_total), (s.blocks_used, s.blocks_total));
        writeln!(out, "{name}: clean, {}/{} files, {}/{} blocks", files.0, files.1, blocks.0, blocks.1)?;
        return Ok(());
    };
    if outcome.aborted {
        writeln!(out, "{name}: the check could not be finished")?;
        return Ok(());
    }
    if args.verbose && reason != Reason::Forced {
        writeln!(out, "{name}: {}", reason.text())?;
    }
    if args.verbose {
        let s = &outcome.summary;
        let rows = [
            ("inodes used", s.inodes_used),
            ("non-contiguous files and directories", s.fragmented),
            ("blocks used", s.blocks_used),
            ("regular files", s.regular),
            ("directories", s.directories),
            ("symbolic links", s.symlinks),
            ("devices, pipes and sockets", s.special),
            ("additional links", s.extra_links),
        ];
        for (what, n) in rows {
            writeln!(out, "{n:>12} {what}")?;
        }
    }
    writeln!(out, "{name}: {}", outcome.summary.line())?;
    if outcome.errors > 0 {
        writeln!(out, "{name}: {} problems left", outcome.errors)?;
        if !args.no {
            writeln!(out, "{name}: this version does not repair; nothing was changed")?;
        }
    }
    Ok(())
}

fn check_arguments(args: &Args) -> Result<(), Failure> {
    let usage = |text: &str| Err(Failure::Usage(text.into()));
    for option in &args.extended {
        let (name, value) = option.split_once('=').map_or((option.as_str(), None), |(n, v)| (n, Some(v)));
        match EXTENDED.iter().find(|(n, _)| *n == name) {
            Some((_, takes)) if *takes == value.is_some() => {}
            Some(_) => return Err(Failure::Usage(format!("-E {name}: wrong use of a value"))),
            None => return Err(Failure::Usage(format!("-E {name}: no such extended option"))),
        }
    }
    if args.block_size.is_some_and(|b| !(1024..=65536).contains(&b) || !b.is_power_of_two()) {
        return usage("-B: a power of two from 1024 to 65536 is needed");
    }
    if args.badblocks > 0 && (args.add_bad.is_some() || args.set_bad.is_some()) {
        return usage("-c and -l or -L exclude each other");
    }
    if args.no && (args.badblocks > 0 || args.add_bad.is_some() || args.set_bad.is_some() || args.optimise) {
        return usage("-n changes nothing: -c, -l, -L and -D cannot be used with it");
    }
    Ok(())
}

fn list_problems(args: &Args, session: &Session) -> Result<FsckExit, Failure> {
    let mut out = session.out();
    if args.json {
        writeln!(out, "{:#}", serde_json::to_value(PROBLEMS)?)?;
        return Ok(FsckExit::empty());
    }
    for row in PROBLEMS {
        let code = row.e2fsck.map_or_else(|| "-".into(), |c| format!("{c:#08x}"));
        let mark = match (row.fatal, row.harmless) {
            (true, _) => "fatal",
            (_, true) => "harmless",
            _ => "",
        };
        writeln!(out, "{:<10} {code:<8} {mark:<8} {:?}: {}", row.problem.id(), row.problem, row.text)?;
    }
    Ok(FsckExit::empty())
}
