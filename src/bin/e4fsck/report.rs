//! What is said: findings as they come, and the end of the run, as text or as one JSON document.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use ext4kit::check::{Finding, JsonSink, Pass, Problem, Reason, Repaired, Sink, Summary, TextSink};
use ext4kit::cli::{self, Failure, FsckExit, Session};
use ext4kit::device::BlockDevice;
use ext4kit::inspect::{FragRun, FragView, for_each_inode};
use ext4kit::units::Ino;
use ext4kit::volume::{OpenOptions, Owner, Volume};
use serde_json::{Value, json};

use crate::args::Args;
use crate::progress::Shared;
use crate::times::Times;

/// Findings go on at once as text, or are kept for one document.
enum Target {
    Text(TextSink<cli::Output>),
    Json(JsonSink),
}

/// Where findings go.
pub(crate) struct Report {
    target: Target,
    /// What was found, by id.
    pub(crate) ids: BTreeSet<String>,
    times: Times,
    shown: Arc<Shared>,
}

impl Report {
    /// Text with headings unless `quiet`, or JSON.
    pub(crate) fn new(json: bool, quiet: bool, session: &Session, shown: Arc<Shared>) -> Self {
        let text = || Target::Text(TextSink::new(session.out(), !quiet));
        let target = if json { Target::Json(JsonSink::default()) } else { text() };
        Self { target, ids: BTreeSet::new(), times: Times::default(), shown }
    }
}

impl Sink for Report {
    fn pass(&mut self, pass: Pass) {
        self.times.pass(pass);
        self.shown.pass(pass);
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

/// What became of the free blocks.
#[derive(Clone, Copy, Default)]
pub(crate) enum Discarded {
    /// Nobody asked for that.
    #[default]
    Kept,
    /// The device cannot do that.
    Impossible,
    /// So many bytes.
    Bytes(u64),
}

/// What is said beside the findings.
#[derive(Default)]
pub(crate) struct Extra {
    /// Pieces of files that do not continue the one before.
    fragments: Option<Vec<(Ino, bool, FragRun)>>,
    pub(crate) discarded: Discarded,
}

impl Extra {
    /// Look for fragments.
    pub(crate) fn find_fragments(&mut self, device: &Arc<dyn BlockDevice>) -> Result<(), Failure> {
        let volume = Volume::open(Arc::clone(device), &OpenOptions::as_it_is())?;
        let mut found = Vec::new();
        for_each_inode(&volume, &mut Vec::new(), &mut |ino, inode| {
            // What is kept for growth lies where the groups are.
            if ino == Ino::RESIZE {
                return Ok(std::ops::ControlFlow::Continue(()));
            }
            let view = FragView::new(&volume, Owner { ino, inode }, b"");
            let pieces = view.runs.into_iter().filter(|r| r.expected.is_some());
            found.extend(pieces.map(|r| (ino, view.directory, r)));
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        self.fragments = Some(found);
        Ok(())
    }

    fn print(&self, out: &mut impl Write, name: &str) -> Result<(), Failure> {
        for (ino, directory, r) in self.fragments.iter().flatten() {
            let kind = if *directory { "directory" } else { "file" };
            let want = r.expected.map_or(0, |b| b.0);
            writeln!(out, "{name}: {kind} {ino}: {} blocks from {} are at {}, not at {want}", r.len, r.lblk, r.pblk)?;
        }
        match self.discarded {
            Discarded::Bytes(bytes) => writeln!(out, "{name}: {bytes} bytes given back to the device")?,
            Discarded::Impossible => writeln!(out, "{name}: the device cannot give up blocks")?,
            Discarded::Kept => {}
        }
        Ok(())
    }

    fn fragments_json(&self) -> Value {
        let item =
            |(ino, directory, run): &(Ino, bool, FragRun)| json!({"ino": ino, "directory": directory, "run": run});
        self.fragments.as_ref().map_or(Value::Null, |all| all.iter().map(item).collect())
    }
}

/// Compare what was found with the ids that a file lists.
pub(crate) fn expected(file: &Path, found: &BTreeSet<String>, exit: FsckExit) -> Result<FsckExit, Failure> {
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

/// Say how it ended.
pub(crate) fn finish(
    args: &Args,
    session: &Session,
    name: &str,
    (report, done, extra): (Report, Repaired, Extra),
    exit: FsckExit,
) -> Result<FsckExit, Failure> {
    match report.target {
        Target::Text(sink) => {
            sink.finish()?;
            let mut out = session.out();
            extra.print(&mut out, name)?;
            print_end(args, &mut out, name, &done)?;
            report.times.print(&mut out, args.timing)?;
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
                "fragments": extra.fragments_json(),
                "discarded": match extra.discarded {
                    Discarded::Bytes(bytes) => Some(bytes),
                    Discarded::Kept | Discarded::Impossible => None,
                },
                "times": report.times.to_json(),
            });
            writeln!(session.out(), "{document:#}")?;
        }
    }
    Ok(exit)
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

fn print_end(args: &Args, out: &mut impl Write, name: &str, done: &Repaired) -> Result<(), Failure> {
    let outcome = &done.left;
    print_recovered(out, name, done)?;
    print_bad_list(out, name, done)?;
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
        print_tally(out, &outcome.summary)?;
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

fn print_tally(out: &mut impl Write, s: &Summary) -> Result<(), Failure> {
    let t = &s.tally;
    let percent = |n: u64, of: u64| (n * 10000).checked_div(of).map_or((0, 0), |p| (p / 100, p % 100));
    let (inodes, blocks) = (percent(s.inodes_used, s.inodes_total), percent(s.blocks_used, s.blocks_total));
    writeln!(out, "{:>12} inodes used ({}.{:02}% of {})", s.inodes_used, inodes.0, inodes.1, s.inodes_total)?;
    writeln!(out, "{:>12} blocks used ({}.{:02}% of {})", s.blocks_used, blocks.0, blocks.1, s.blocks_total)?;
    let rows = [
        ("non-contiguous files", t.fragmented_files),
        ("non-contiguous directories", t.fragmented_directories),
        ("bad blocks", t.bad_blocks),
        ("files of 2 GiB and more", t.large_files),
        ("regular files", t.regular),
        ("directories", t.directories),
        ("character devices", t.character_devices),
        ("block devices", t.block_devices),
        ("FIFOs", t.fifos),
        ("sockets", t.sockets),
        ("symbolic links", t.symlinks),
        ("of these in their inode", t.fast_symlinks),
        ("additional links", s.extra_links),
    ];
    for (what, n) in rows {
        writeln!(out, "{n:>12} {what}")?;
    }
    let numbers = |all: &[u64]| all.iter().map(u64::to_string).collect::<Vec<_>>().join("/");
    writeln!(out, "inodes with indirect, double and triple indirect blocks: {}", numbers(&t.indirect))?;
    let depths = t.extent_depth.iter().rposition(|n| *n != 0).map_or(0, |last| last + 1);
    if let Some(used) = t.extent_depth.get(..depths).filter(|d| !d.is_empty()) {
        writeln!(out, "inodes with extent trees of depth 0 and more: {}", numbers(used))?;
    }
    Ok(())
}
