//! `e4fsck`: check and repair an ext2, ext3 or ext4 filesystem in an image.
//!
//! Options and exit codes are e2fsck's. With `-n` nothing is written; otherwise the journal is recovered first.

use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use ext4kit::check::{
    self, Answers, Ask, BadBlocks, CheckOptions, Finding, Journal, JsonSink, Medium, Optimise, PROBLEMS, Pass, Problem,
    Reason, RepairOptions, Repaired, Sink, TextSink, UNCOVERED, Why,
};
use ext4kit::cli::{self, Failure, FsckExit, Session, Tool};
use ext4kit::device::{Access, BlockDevice, FileDevice, ImageSpec, UndoDevice, undo};
use ext4kit::progress::{Progress, Step};
use ext4kit::units::Fsblk;
use serde_json::json;

/// Check and repair a filesystem.
///
/// IMAGE is a file or a block device; IMAGE@OFFSET is a filesystem inside it. Without -n, what the journal holds is recovered
/// first. Without -n, -p, -a and -y, questions are asked on the terminal.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "one per option of e2fsck")]
struct Args {
    /// The image.
    #[arg(required_unless_present_any = ["problems", "uncovered"])]
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
    /// Look for blocks that cannot be read, and set the bad blocks to them; twice, write all blocks as well, without changing what
    /// is in them (a kill can leave the 256 KiB that it was at changed).
    #[arg(short = 'c', action = clap::ArgAction::Count)]
    badblocks: u8,
    /// Add the blocks that this file lists, one a line, to the bad blocks.
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
    /// Write all directories anew: as few blocks as they need, indexed.
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
    /// Save what is overwritten to this new file, durably and before it is overwritten.
    #[arg(short = 'z', value_name = "FILE", conflicts_with = "no")]
    undo: Option<PathBuf>,
    /// Bring the image back to what it was before the run whose -z wrote this file, and do nothing else.
    #[arg(long = "undo", value_name = "FILE", conflicts_with_all = ["no", "yes", "preen", "auto", "undo"])]
    bring_back: Option<PathBuf>,
    /// With -n: exactly the problems whose ids this file lists, one a line, are expected. Exit code 0 where they are what was
    /// found, 4 where not.
    #[arg(long, value_name = "FILE", requires = "no")]
    expect: Option<PathBuf>,
    /// Give up after so many seconds, with exit code 32. What was repaired by then stays.
    #[arg(long, value_name = "SECONDS")]
    max_time: Option<u64>,
    /// Give up where the maps of blocks and inodes would need more bytes than this.
    #[arg(long, value_name = "BYTES", value_parser = cli::size_in(1))]
    max_memory: Option<u64>,
    /// Print the result as one JSON document.
    #[arg(long)]
    json: bool,
    /// Print the table of problems and nothing else.
    #[arg(long)]
    problems: bool,
    /// Print the codes of e2fsck's table that have no row of their own, with the reasons, and nothing else.
    #[arg(long, conflicts_with = "problems")]
    uncovered: bool,
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
enum Target {
    Text(TextSink<cli::Output>),
    Json(JsonSink),
}

struct Report {
    target: Target,
    /// What was found, by id.
    ids: BTreeSet<String>,
}

impl Sink for Report {
    fn pass(&mut self, pass: Pass) {
        match &mut self.target {
            Target::Text(s) => s.pass(pass),
            Target::Json(s) => s.pass(pass),
        }
    }

    fn finding(&mut self, finding: &Finding, fixed: bool) {
        self.ids.insert(finding.problem.id());
        match &mut self.target {
            Target::Text(s) => s.finding(finding, fixed),
            Target::Json(s) => s.finding(finding, fixed),
        }
    }
}

/// Progress that ends at some time.
struct Deadline {
    shown: Box<dyn Progress>,
    end: Option<Instant>,
}

impl Progress for Deadline {
    fn begin(&self, step: Step) {
        self.shown.begin(step);
    }

    fn advance(&self, n: u64) {
        self.shown.advance(n);
    }

    fn end(&self) {
        self.shown.end();
    }

    fn cancelled(&self) -> bool {
        self.shown.cancelled() || self.end.is_some_and(|end| Instant::now() >= end)
    }
}

/// What is asked for beyond repairs.
fn optimise(args: &Args) -> Optimise {
    let has = |name: &str| args.extended.iter().any(|e| e == name);
    Optimise {
        directories: args.optimise,
        bmap_to_extents: has("bmap2extent"),
        extents: has("optimize_extents"),
        unshare_blocks: has("unshare_blocks"),
    }
}

/// Compare what was found with the ids that a file lists.
fn expected(file: &Path, found: &BTreeSet<String>, exit: FsckExit) -> Result<FsckExit, Failure> {
    let text = std::fs::read_to_string(file)?;
    let words = text.lines().filter_map(|l| l.split('#').next().map(str::trim)).filter(|l| !l.is_empty());
    let want: BTreeSet<String> = words.map(str::to_owned).collect();
    if let Some(unknown) = want.iter().find(|id| Problem::from_id(id).is_none()) {
        return Err(Failure::Usage(format!("--expect: {unknown} is the id of no problem")));
    }
    for id in want.difference(found) {
        eprintln!("{id} was expected and not found");
    }
    for id in found.difference(&want) {
        eprintln!("{id} was found and not expected");
    }
    let rest = exit - FsckExit::UNCORRECTED;
    Ok(if want == *found { rest } else { rest | FsckExit::UNCORRECTED })
}

fn main() -> ExitCode {
    cli::run(Tool::FSCK, |args: Args, session| run(&args, session))
}

fn run(args: &Args, session: &Session) -> Result<FsckExit, Failure> {
    if args.problems {
        return list_problems(args, session);
    }
    if args.uncovered {
        return list_uncovered(args, session);
    }
    check_arguments(args)?;
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
    let optimise = optimise(args);
    let options = CheckOptions {
        superblock: args.superblock.map(Fsblk),
        block_size: args.block_size,
        force: args.force || optimise.any() || args.badblocks > 0 || listed.is_some(),
        now: cli::clock(&["E2FSCK_TIME", "SOURCE_DATE_EPOCH"])?.now(),
        jobs: args.jobs,
        journal: Journal::Skip,
        journal_device: args.journal.as_ref().map(|j| ImageSpec::parse(j).open(access)).transpose()?,
    };
    let progress = Deadline {
        shown: session.progress(args.json || args.completion.is_none()),
        end: args.max_time.map(|s| Instant::now() + Duration::from_secs(s)),
    };
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
    let target =
        if args.json { Target::Json(JsonSink::default()) } else { Target::Text(TextSink::new(session.out(), !preen)) };
    let mut report = Report { target, ids: BTreeSet::new() };
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
        let journal_only = args.extended.iter().any(|e| e == "journal_only");
        let options = RepairOptions { check: options, journal_only, optimise, bad_blocks };
        check::repair(&device, &options, answers, &mut report, &progress)?
    };
    let mut exit = exit_code(&done);
    if let Some(file) = &args.expect {
        exit = expected(file, &report.ids, exit)?;
    }
    finish(args, session, &spec.to_string(), (report, done), exit)
}

fn finish(
    args: &Args,
    session: &Session,
    name: &str,
    (report, done): (Report, Repaired),
    exit: FsckExit,
) -> Result<FsckExit, Failure> {
    match report.target {
        Target::Text(sink) => {
            sink.finish()?;
            print_end(args, session, name, &done)?;
        }
        Target::Json(sink) => {
            let outcome = &done.left;
            let document = json!({
                "image": name,
                "reason": outcome.reason,
                "clean": outcome.errors == 0 && !outcome.aborted && !done.stopped,
                "aborted": outcome.aborted,
                "errors": outcome.errors,
                "fixed": done.fixed,
                "recovered": done.recovered,
                "bad_blocks": done.bad_list,
                "exit": exit.bits(),
                "findings": sink.0,
                "summary": outcome.summary,
            });
            writeln!(session.out(), "{document:#}")?;
        }
    }
    Ok(exit)
}

fn no_terminal() -> Failure {
    Failure::Usage("questions need a terminal: use -n, -p or -y".into())
}

/// Asks on the terminal.
#[derive(Default)]
struct Asker {
    all: bool,
}

impl Asker {
    fn ask(&mut self, finding: &Finding) -> bool {
        if self.all {
            return true;
        }
        let mut line = String::new();
        loop {
            eprint!(
                "{}: {}. {}? (yes, no, all) ",
                finding.problem.id(),
                finding.message(),
                question(finding.problem.row().ask)
            );
            line.clear();
            // Without an answer nothing is changed.
            if std::io::stdin().lock().read_line(&mut line).is_ok_and(|n| n == 0) {
                return false;
            }
            match line.trim().to_ascii_lowercase().as_str() {
                "y" | "yes" => return true,
                "n" | "no" => return false,
                "a" | "all" => {
                    self.all = true;
                    return true;
                }
                _ => {}
            }
        }
    }
}

const fn question(ask: Ask) -> &'static str {
    match ask {
        Ask::Nothing => "Go on",
        Ask::Fix => "Fix it",
        Ask::Clear => "Clear it",
        Ask::ClearInode => "Clear the inode",
        Ask::ClearIndex => "Clear the index",
        Ask::ClearFlag => "Clear the flag",
        Ask::Relocate => "Put it elsewhere",
        Ask::Allocate => "Allocate a block",
        Ask::Connect => "Connect it to lost+found",
        Ask::Salvage => "Save what can be saved",
        Ask::Truncate => "Truncate it",
        Ask::Abort => "Stop here",
        Ask::Clone => "Make copies",
        Ask::Recreate => "Make it anew",
        Ask::Rename => "Rename it",
    }
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

fn print_bad_list(out: &mut impl Write, name: &str, done: &Repaired) -> Result<(), Failure> {
    let Some(list) = &done.bad_list else { return Ok(()) };
    for b in &list.outside {
        writeln!(out, "{name}: block {b} is outside the filesystem: not listed as bad")?;
    }
    let what = if list.changed { "now" } else { "as before" };
    writeln!(out, "{name}: {} bad blocks are listed, {what}", list.listed)?;
    Ok(())
}

fn print_recovered(out: &mut impl Write, name: &str, done: &Repaired) -> Result<(), Failure> {
    let r = &done.recovered;
    if r.journal.needed {
        writeln!(
            out,
            "{name}: journal recovered, {} blocks of {} transactions",
            r.journal.blocks, r.journal.transactions
        )?;
    }
    if let Some(damage) = &r.journal.damage {
        writeln!(out, "{name}: the journal is damaged ({damage}); what was good was recovered")?;
    }
    if r.orphans.deleted + r.orphans.truncated > 0 {
        writeln!(out, "{name}: orphans: {} deleted, {} truncated", r.orphans.deleted, r.orphans.truncated)?;
    }
    Ok(())
}

fn print_end(args: &Args, session: &Session, name: &str, done: &Repaired) -> Result<(), Failure> {
    let mut out = session.out();
    let outcome = &done.left;
    print_recovered(&mut out, name, done)?;
    print_bad_list(&mut out, name, done)?;
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
    if done.stopped {
        writeln!(out, "{name}: a problem that is not for preening: run without -p or -a")?;
        return Ok(());
    }
    writeln!(out, "{name}: {}", outcome.summary.line())?;
    if done.fixed > 0 {
        writeln!(out, "{name}: {} problems repaired", done.fixed)?;
    }
    if outcome.errors > 0 {
        writeln!(out, "{name}: {} problems left", outcome.errors)?;
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
    let has = |name: &str| args.extended.iter().any(|e| e == name);
    if has("fixes_only") && (args.optimise || has("bmap2extent") || has("optimize_extents")) {
        return usage("-E fixes_only makes nothing better: not with -D, bmap2extent or optimize_extents");
    }
    if args.no && (has("bmap2extent") || has("unshare_blocks") || has("optimize_extents")) {
        return usage("-n changes nothing: bmap2extent, optimize_extents and unshare_blocks cannot be used with it");
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

fn list_uncovered(args: &Args, session: &Session) -> Result<FsckExit, Failure> {
    let mut out = session.out();
    if args.json {
        writeln!(out, "{:#}", serde_json::to_value(UNCOVERED)?)?;
        return Ok(FsckExit::empty());
    }
    for code in UNCOVERED {
        let why = match code.why {
            Why::Within(p) => p.id(),
            other => format!("{other:?}").to_lowercase(),
        };
        writeln!(out, "{:#08x} {why:<10} {}", code.e2fsck, code.reason)?;
    }
    Ok(FsckExit::empty())
}
