//! `wp`: the filesystem in use, as the kernel would have it in memory. `wp mount` begins, `wp umount` ends; between the two, files are
//! written, allocated, punched and made durable through the write path ([`crate::script::Running`]), `es` shows extent status,
//! reservations and dirty folios, and all commands that look see the filesystem as the running transaction has it.
//!
//! Until `wp umount`, `wp crash` or the end of the shell, everything stays in memory; then it goes to the image in the order in which the
//! write path wrote it. `wp crash` cuts the power: what was written, or (`flushed`) flushed, is on the image, and nothing else.

use std::io::Write;

use serde::Serialize;

use super::args::{Args, Options, number};
use super::session::Session;
use super::table::{Command, Family, row};
use super::{Failure, Outcome};
use crate::error::Error;
use crate::file::PathChoice;
use crate::inspect::{LiveView, Page, View};
use crate::namei::split;
use crate::script::{Op, Running, Settings, Whence};
use crate::units::{Ino, parse_size};
use crate::volume::LastLink;

pub(super) const COMMANDS: &[Command] = &[row(
    "wp",
    &[],
    "mount|umount|crash|write|mmap|dio|read|fallocate|punch|zero|collapse|insert|truncate|seek|writeback|writepage|fsync|fdatasync|\
     sync|close|drop|forget ...",
    "Use the filesystem through the write path, as the kernel does (\"wp\" alone lists how; \"es\" shows what is in memory)",
    (Family::Through, wp),
)];

/// Subcommands: name, arguments, what they do.
const SUBCOMMANDS: &[(&str, &str, &str)] = &[
    ("mount", "[options]", "begin; options of mount (nodelalloc, data=journal, buffered_iomap, ...)"),
    ("write", "[-s seed] [-t text] file offset [length]", "write a pattern, or a text; makes the file"),
    ("mmap", "[-s seed] file offset length", "store through a mapping"),
    ("dio", "[-s seed] file offset length", "write around the page cache"),
    ("read", "file offset length", "read through the page cache; shows a CRC-32"),
    ("fallocate", "[-k] file offset length", "allocate (-k: keep the size); makes the file"),
    ("punch", "file offset length", "make a hole"),
    ("zero", "[-k] file offset length", "make zeros (-k: keep the size)"),
    ("collapse", "file offset length", "take a range out"),
    ("insert", "file offset length", "put a range in"),
    ("truncate", "file size", "set the size; makes the file"),
    ("seek", "data|hole file offset", "find data or a hole"),
    ("writeback", "file [offset [length]]", "write back what is dirty"),
    ("writepage", "file [offset [length]]", "write what needs no mapping, as under memory pressure"),
    ("fsync", "file", "make a file durable"),
    ("fdatasync", "file", "make its data durable"),
    ("sync", "", "make everything durable"),
    ("close", "file", "close a file"),
    ("drop", "file", "write back and drop its pages"),
    ("forget", "file", "forget its extent status"),
    ("crash", "[flushed|logflush]", "cut the power (flushed: what was not flushed is lost; logflush: commit first)"),
    ("umount", "", "write everything back, and end"),
];

/// What an operation returned.
#[derive(Debug, Serialize)]
struct DoneView {
    /// The operation.
    operation: &'static str,
    /// Bytes written, or the place found.
    result: Option<u64>,
    /// Bytes read.
    length: Option<u64>,
    /// Their CRC-32.
    crc32: Option<u32>,
}

impl View for DoneView {
    const SCHEMA: &'static str = "wp/1";

    fn text(&self, page: &mut Page<'_>) -> std::io::Result<()> {
        match (self.operation, self.result, self.length, self.crc32) {
            ("seek", Some(at), ..) => writeln!(page, "{at}"),
            (_, Some(n), ..) => writeln!(page, "{n} bytes written"),
            (_, _, Some(n), Some(crc)) => writeln!(page, "{n} bytes read, CRC-32 {crc:08x}"),
            _ => Ok(()),
        }
    }
}

/// What a power cut left.
#[derive(Debug, Serialize)]
struct CrashView {
    /// Writes that did not reach the disk.
    lost_writes: usize,
    /// The journal holds what is not home.
    needs_recovery: bool,
}

impl View for CrashView {
    const SCHEMA: &'static str = "wp-crash/1";

    fn text(&self, page: &mut Page<'_>) -> std::io::Result<()> {
        if self.lost_writes > 0 {
            writeln!(page, "{} writes did not reach the disk", self.lost_writes)?;
        }
        let state = if self.needs_recovery {
            "the journal needs recovery (journal_run, and wp mount, recover it)"
        } else {
            "the journal holds nothing that is not home"
        };
        writeln!(page, "{state}")
    }
}

fn wp(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let Some((name, words)) = args.words.split_first() else {
        for (name, args, help) in SUBCOMMANDS {
            writeln!(out, "{:<52} {help}", format!("wp {name} {args}").trim_end())?;
        }
        return Ok(());
    };
    let known = SUBCOMMANDS.iter().find(|(n, ..)| n.as_bytes() == name);
    let Some((name, usage, _)) = known else {
        let name = String::from_utf8_lossy(name);
        return Err(Failure::Usage(format!("wp {}: no such operation (\"wp\" lists them)", name.escape_debug())));
    };
    let inner = Args { words, ..*args };
    let letters = match *name {
        "write" => "s:t:",
        "mmap" | "dio" => "s:",
        "fallocate" | "zero" => "k",
        _ => "",
    };
    let wrong = || Failure::Usage(format!("usage: wp {name} {usage}"));
    let o = inner.options(letters, 0, 3).map_err(|_| wrong())?;
    match (*name, o.operands.len()) {
        ("mount", 0 | 1) => {
            let options = String::from_utf8_lossy(o.operand(0)).into_owned();
            let now = session.now()?;
            session.use_through(&options, Settings { path: PathChoice::Auto, now, check: false })
        }
        ("umount", 0) => session.end_use(),
        ("crash", 0 | 1) => crash(session, o.operand(0), out).and_then(|known| known.ok_or_else(wrong)),
        _ => {
            let op = operation(session, name, &o)?.ok_or_else(wrong)?;
            perform(session, name, &o, &op, out)
        }
    }
}

fn crash(session: &mut Session, mode: &[u8], out: &mut dyn Write) -> Outcome<Option<()>> {
    let flushed = match mode {
        b"" => false,
        b"flushed" => true,
        b"logflush" => {
            session.running()?.commit()?;
            false
        }
        _ => return Ok(None),
    };
    let (lost_writes, needs_recovery) = session.cut_power(flushed)?;
    session.show(CrashView { lost_writes, needs_recovery }, out)?;
    Ok(Some(()))
}

/// A length or an offset, with a suffix where there is one.
fn bytes(word: &[u8]) -> Outcome<u64> {
    let size = std::str::from_utf8(word).ok().and_then(|t| parse_size(t, 1));
    size.ok_or_else(|| Failure::Usage(format!("{}: not a number of bytes", String::from_utf8_lossy(word))))
}

/// The operation that a subcommand stands for; `None` where its operands are not those it takes.
fn operation(session: &mut Session, name: &str, o: &Options<'_>) -> Outcome<Option<Op>> {
    let (least, most) = match name {
        "sync" => (0, 0),
        "fsync" | "fdatasync" | "close" | "drop" | "forget" => (1, 1),
        "writeback" | "writepage" => (1, 3),
        "truncate" => (2, 2),
        "write" if o.value('t').is_some() => (2, 2),
        _ => (3, 3),
    };
    if !(least..=most).contains(&o.operands.len()) {
        return Ok(None);
    }
    let seek = usize::from(name == "seek");
    let makes = matches!(name, "write" | "mmap" | "dio" | "fallocate" | "truncate");
    let file = if name == "sync" { String::new() } else { file(session, o.operand(seek), makes)? };
    let amount = |n: usize| o.operands.get(n).map_or(Ok(0), |w| bytes(w));
    let (off, len) = (amount(if seek == 1 { 2 } else { 1 })?, if seek == 1 { 0 } else { amount(2)? });
    let seed = o.value('s').map_or(Ok(0), |w| number(w, "seed"))?;
    let keep = o.has('k');
    Ok(Some(match name {
        "write" => Op::Write { file, off, len, seed },
        "mmap" => Op::MmapWrite { file, off, len, seed },
        "dio" => Op::DioWrite { file, off, len, seed },
        "read" => Op::Read { file, off, len },
        "fallocate" => Op::Fallocate { file, off, len, mode: if keep { "keep" } else { "" }.to_owned() },
        "punch" => Op::Punch { file, off, len },
        "zero" => Op::ZeroRange { file, off, len, keep },
        "collapse" => Op::Collapse { file, off, len },
        "insert" => Op::Insert { file, off, len },
        "truncate" => Op::Truncate { file, size: off },
        "seek" => match o.operand(0) {
            b"data" => Op::Seek { file, off, whence: Whence::Data },
            b"hole" => Op::Seek { file, off, whence: Whence::Hole },
            _ => return Ok(None),
        },
        "writeback" => Op::Writeback { file, off, len },
        "writepage" => Op::Writepage { file, off, len },
        "fsync" => Op::Fsync { file },
        "fdatasync" => Op::Fdatasync { file },
        "close" => Op::Close { file },
        "drop" => Op::DropCaches { file },
        "forget" => Op::ClearEs { file },
        _ => Op::Sync {},
    }))
}

/// The name that a file is open by; it is opened, and made where `makes` says so.
fn file(session: &mut Session, spec: &[u8], makes: bool) -> Outcome<String> {
    session.running()?;
    let shown = String::from_utf8_lossy(spec).into_owned();
    let ino = match session.resolve_link(spec, LastLink::Follow) {
        Err(Failure::Library(Error::NotFound { .. })) if makes && !spec.starts_with(b"<") => {
            let (dir, last) = split(spec);
            let dir = session.directory(if spec.contains(&b'/') { dir } else { b"." })?;
            let last = last.to_vec();
            session.running()?.make(&shown, dir, &last)?;
            return Ok(shown);
        }
        other => other?,
    };
    let running = session.running()?;
    if let Some((name, _)) = running.open_files().iter().find(|(_, i)| **i == ino) {
        return Ok(name.clone());
    }
    // A name that means another file by now (another directory is the current one) is told apart by the inode.
    let name = if running.open_files().contains_key(&shown) { format!("{shown} <{ino}>") } else { shown };
    running.open(&name, ino)?;
    Ok(name)
}

fn perform(session: &mut Session, name: &'static str, o: &Options<'_>, op: &Op, out: &mut dyn Write) -> Outcome {
    let running = session.running()?;
    let ret = match (op, o.value('t')) {
        (Op::Write { file, off, .. }, Some(text)) => {
            let ino = running.open_files().get(file).copied().unwrap_or(Ino(0));
            running.write(ino, *off, text)?.into()
        }
        _ => running.perform(op)?,
    };
    if let Some(wrong) = running.violation()? {
        return Err(Failure::Usage(format!("the state in memory breaks a rule: {wrong}")));
    }
    let number = |key: &str| ret.get(key).and_then(serde_json::Value::as_u64);
    let crc32 = number("crc32").and_then(|n| u32::try_from(n).ok());
    let view = DoneView { operation: name, result: ret.as_u64(), length: number("len"), crc32 };
    let wanted = match (op, o.value('t')) {
        (Op::Write { .. }, Some(text)) => Some(text.len() as u64),
        (Op::Write { len, .. } | Op::DioWrite { len, .. }, _) => Some(*len),
        _ => None,
    };
    if !ret.is_null() {
        session.show(view, out)?;
    }
    match (wanted, ret.as_u64()) {
        (Some(need), Some(have)) if have < need => Err(Error::NoSpace { what: "bytes", need, have }.into()),
        _ => Ok(()),
    }
}

/// Bytes of a file through the page cache; `None` where it is not in memory.
pub(super) fn read_cached(session: &mut Session, ino: Ino, at: u64, len: u64) -> Outcome<Option<Vec<u8>>> {
    match session.running() {
        Ok(running) if running.mount().inode(ino).is_some() => Ok(Some(Running::read(running, ino, at, len)?)),
        _ => Ok(None),
    }
}

/// Show what is in memory of a file, or of all that are open; whether there is something to show.
pub(super) fn show_live(session: &mut Session, ino: Option<Ino>, out: &mut dyn Write) -> Outcome<bool> {
    let last = session.last_used();
    let Ok(running) = session.running() else { return Ok(false) };
    if ino.is_some_and(|i| running.mount().inode(i).is_none()) {
        return Ok(false);
    }
    let open = running.open_files().iter().filter(|(_, i)| ino.is_none_or(|only| only == **i));
    let open = open.map(|(name, i)| (name.clone(), *i)).collect();
    let view = LiveView::new(running.mount(), &open, running.steps(), last, None);
    session.show(view, out)?;
    Ok(true)
}
