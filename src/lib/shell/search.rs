//! Commands that look through content, compare filesystems, and draw them.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use super::args::{Args, number};
use super::session::Session;
use super::table::{Command, Family, row};
use super::{Failure, Outcome};
use crate::device::{Access, ImageSpec};
use crate::error::Error;
use crate::format::inode::FileType;
use crate::inspect::{DiffView, HexView, MapView};
use crate::units::Ino;
use crate::volume::{LastLink, Owner, Volume};

/// Longest file that is looked through, bytes.
const MAX_FILE: usize = 1 << 30;
/// Bytes that `hexdump` shows where nothing else is asked for.
const SHOWN: u64 = 4096;

pub(super) const COMMANDS: &[Command] = &[
    row(
        "grep",
        &[],
        "[-c] [-l] text file...",
        "Show lines that hold a text (-c: how many, -l: which files)",
        (Family::File, grep),
    ),
    row(
        "hexdump",
        &[],
        "[-s offset] [-n length] file",
        "Show bytes of a file (the first 4096, where nothing else is said)",
        (Family::File, hexdump),
    ),
    row(
        "diff",
        &[],
        "image[@offset]",
        "Show what differs from another filesystem's tree (-: only here, +: only there, !: not the same)",
        (Family::Directory, diff),
    ),
    row(
        "map",
        &[],
        "[-s host_file] [file]",
        "Draw how full the groups are, and where a file lies (-s: as SVG into a file)",
        (Family::Filesystem, map),
    ),
];

/// All of a regular file.
fn whole(volume: &Volume, ino: Ino, spec: &[u8]) -> Outcome<Vec<u8>> {
    let inode = volume.raw_inode(ino)?;
    if inode.file_type() == Some(FileType::Directory) {
        return Err(Error::IsDirectory { path: spec.to_vec() }.into());
    }
    let content = volume.reader(Owner { ino, inode: &inode })?.read_all(MAX_FILE)?;
    content.ok_or_else(|| Failure::Usage(format!("{}: larger than 1 GiB", String::from_utf8_lossy(spec))))
}

fn grep(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("cl", 2, usize::MAX)?;
    let Some((text, files)) = o.operands.split_first() else { return Err(args.usage()) };
    let mut found = false;
    for spec in files {
        let ino = session.resolve_link(spec, LastLink::Follow)?;
        let content = whole(session.volume()?, ino, spec)?;
        let holds = |line: &&[u8]| text.is_empty() || line.windows(text.len()).any(|w| w == *text);
        let hits: Vec<&[u8]> = content.split_inclusive(|b| *b == b'\n').filter(holds).collect();
        found |= !hits.is_empty();
        let label = |out: &mut dyn Write, end: &[u8]| out.write_all(&[spec, end].concat());
        if o.has('l') {
            if !hits.is_empty() {
                label(out, b"\n")?;
            }
        } else if o.has('c') {
            label(out, b":")?;
            writeln!(out, "{}", hits.len())?;
        } else {
            for line in hits {
                if files.len() > 1 {
                    label(out, b":")?;
                }
                out.write_all(line)?;
                if !line.ends_with(b"\n") {
                    writeln!(out)?;
                }
            }
        }
    }
    if found { Ok(()) } else { Err(Error::NotFound { path: text.to_vec() }.into()) }
}

fn hexdump(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("s:n:", 1, 1)?;
    let start = o.value('s').map_or(Ok(0), |w| number(w, "offset"))?;
    let len = o.value('n').map_or(Ok(SHOWN), |w| number(w, "length"))?.min(MAX_FILE as u64);
    let (ino, inode) = session.inode(o.operand(0))?;
    let reader = session.volume()?.reader(Owner { ino, inode: &inode })?;
    let mut bytes = vec![0; len.min(reader.size().saturating_sub(start)) as usize];
    let n = reader.read_at(start, &mut bytes)?;
    bytes.truncate(n);
    session.show(HexView::new(&bytes), out)
}

fn diff(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let other = ImageSpec::parse(OsStr::from_bytes(o.operand(0)));
    let other = Volume::open(other.open(Access::ReadOnly)?, &session.settings().open)?;
    session.show(DiffView::new(session.volume()?, &other)?, out)
}

fn map(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let words: Vec<Vec<u8>> =
        args.words.iter().map(|w| if w == b"--svg" { b"-s".to_vec() } else { w.clone() }).collect();
    let args = Args { words: &words, ..*args };
    let o = args.options("s:", 0, 1)?;
    let file = o.operands.first().map(|spec| session.inode(spec)).transpose()?;
    let owner = file.as_ref().map(|(ino, inode)| Owner { ino: *ino, inode });
    let view = MapView::new(session.volume()?, owner)?;
    if let Some(to) = o.value('s') {
        let path = session.host_path(to);
        return Ok(std::fs::write(&path, view.svg()).map_err(|e| Error::host("write", &path, e))?);
    }
    session.show(view, out)
}
