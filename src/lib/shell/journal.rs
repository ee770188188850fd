//! Commands that write transactions into the journal's log by hand, and recover it. While the log is open, and as long as it
//! holds what is not home, the filesystem can only be looked at.

use std::io::Write;

use super::args::{Args, number, number32};
use super::session::Session;
use super::table::{Command, Family, row};
use super::{Failure, Outcome};
use crate::device::{Access, ImageSpec};
use crate::error::Error;
use crate::journal::ByHand;
use crate::units::Fsblk;

/// Most blocks in a list.
const MAX_BLOCKS: usize = 1 << 20;

pub(super) const COMMANDS: &[Command] = &[
    row(
        "journal_open",
        &["jo"],
        "[-c] [-v version] [-f journal_device]",
        "Open the journal's log for writing by hand (-c: with checksums, of version 2 or 3)",
        (Family::Journal, open),
    ),
    row(
        "journal_write",
        &["jw"],
        "[-b blocks] [-r blocks] [-c] [file]",
        "Append a transaction: content of blocks from a file of the host, blocks that are revoked (-c: no commit)",
        (Family::Journal, write),
    ),
    row("journal_run", &["jr"], "", "Recover the journal: bring what it holds home", (Family::Journal, run)),
    row("journal_close", &["jc"], "", "Close the journal's log", (Family::Journal, close)),
];

/// A journal that is open.
#[derive(Debug)]
pub(super) struct Opened {
    log: ByHand,
    written: bool,
}

fn open(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("cv:f:", 0, 0)?;
    let version = o.value('v').map(|w| number32(w, "version")).transpose()?;
    let checksums = version.or_else(|| o.has('c').then_some(3));
    if session.journal().is_some() {
        return Err(Failure::Usage("the journal is open already".into()));
    }
    let external = match o.value('f') {
        // What is open already is not opened again.
        _ if session.journal_device().is_some() => session.journal_device(),
        None => None,
        Some(word) => Some(ImageSpec::parse(session.host_path(word)).open(Access::ReadWrite)?),
    };
    let device = session.stop_editing()?;
    match ByHand::open(session.volume()?, device, external, checksums) {
        Ok(log) => {
            *session.journal() = Some(Opened { log, written: false });
            Ok(())
        }
        Err(e) => {
            session.go_on_editing()?;
            Err(e.into())
        }
    }
}

/// Blocks of a list like `3,5-7`.
fn list(word: &[u8]) -> Outcome<Vec<Fsblk>> {
    let mut blocks = Vec::new();
    for part in word.split(|b| *b == b',') {
        let mut ends = part.splitn(2, |b| *b == b'-');
        let first = number(ends.next().unwrap_or_default(), "block number")?;
        let last = ends.next().map_or(Ok(first), |w| number(w, "block number"))?;
        if last < first || last - first >= (MAX_BLOCKS - blocks.len()) as u64 {
            return Err(Failure::Usage(format!("{}: not a list of blocks", String::from_utf8_lossy(word))));
        }
        blocks.extend((first..=last).map(Fsblk));
    }
    Ok(blocks)
}

fn write(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("b:r:c", 0, 1)?;
    let blocks = o.value('b').map_or(Ok(Vec::new()), list)?;
    let revoked = o.value('r').map_or(Ok(Vec::new()), list)?;
    if blocks.is_empty() && revoked.is_empty() || (!blocks.is_empty() && o.operands.is_empty()) {
        return Err(args.usage());
    }
    let geo = session.volume()?.geometry();
    let size = geo.block_size as usize;
    if let Some(bad) = blocks.iter().chain(&revoked).find(|b| !geo.has_range(**b, 1)) {
        return Err(Failure::Usage(format!("block {bad} is not in this filesystem")));
    }
    let mut content = Vec::with_capacity(blocks.len());
    if !blocks.is_empty() {
        let path = session.host_path(o.operand(0));
        let bytes = std::fs::read(&path).map_err(|e| Error::host("read", &path, e))?;
        let mut chunks = bytes.chunks_exact(size);
        for block in blocks {
            let Some(chunk) = chunks.next() else {
                return Err(Failure::Usage(format!("{}: no content for block {block}", path.display())));
            };
            content.push((block, chunk.to_vec()));
        }
    }
    let now = session.now()?;
    let Some(opened) = session.journal() else { return Err(not_open()) };
    opened.log.write(content, revoked, !o.has('c'), now)?;
    opened.written |= !o.has('c');
    Ok(())
}

fn not_open() -> Failure {
    Failure::Usage("the journal is not open (journal_open opens it)".into())
}

fn run(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    *session.journal() = None;
    session.stop_editing()?;
    // Whoever opens a filesystem for editing recovers it first.
    session.go_on_editing()
}

fn close(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    let opened = session.journal().take().ok_or_else(not_open)?;
    if opened.written {
        // What is in the log is recovered by who uses the filesystem next, or by journal_run.
        session.look_again()
    } else {
        session.go_on_editing()
    }
}
