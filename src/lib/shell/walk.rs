//! Commands about all that is below a directory, about what was deleted, and about the journal's log.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::{Arc, Mutex};

use super::args::{Args, number, number32};
use super::session::Session;
use super::table::{Command, Family, row};
use super::{Failure, Outcome};
use crate::device::{Access, BlockDevice, FileDevice};
use crate::error::Error;
use crate::extract::{Destination, Extractor, Observer, Options, Preserve, Source};
use crate::format::bitmap;
use crate::format::inode::FileType;
use crate::inspect::{
    Below, DeletedView, FindView, Format, FullView, InodePlaceView, JournalView, LogOptions, LogView, RoomView,
    TreeView,
};
use crate::journal::{Log, LogArea};
use crate::progress::Silent;
use crate::source::Exclude as Patterns;
use crate::units::Fsblk;
use crate::volume::{LastLink, Volume};

pub(super) const COMMANDS: &[Command] = &[
    row("df", &[], "", "Show how full the filesystem is", (Family::Filesystem, df)),
    row(
        "logdump",
        &[],
        "[-acOsS] [-b block] [-i file] [-n transactions] [-f journal_file] [host_file]",
        "Show the journal's log (-a: every block that is logged, -b, -i: what concerns a block or an inode, -c: contents, \
         -O: old records too, -S: the superblock first, -s: found by the superblock's backup of the journal's inode, -f: of a file of the host)",
        (Family::Filesystem, logdump),
    ),
    row("tree", &[], "[-L depth] [directory]", "Show a directory with all that is below it", (Family::Directory, tree)),
    row(
        "find",
        &[],
        "[-n pattern] [-t type] [directory]",
        "Show the paths of all that is below a directory (-n: names like this, -t: f, d, l, b, c, p or s)",
        (Family::Directory, find),
    ),
    row(
        "du",
        &[],
        "[-a] [-s] [directory]",
        "Show the KiB that directories take with all below (-a: files too, -s: the sum only)",
        (Family::Directory, du),
    ),
    row(
        "rdump",
        &["get"],
        "path... host_directory",
        "Copy files and directories out, with all that is in them, owners, modes and times",
        (Family::File, rdump),
    ),
    row(
        "lsdel",
        &["list_deleted_inodes"],
        "[seconds]",
        "Show deleted inodes whose blocks are still there (seconds: that were deleted so long ago at most)",
        (Family::Inode, lsdel),
    ),
    row(
        "dump_unused",
        &[],
        "",
        "Write the bytes of all blocks that are not in use and not zero",
        (Family::Block, dump_unused),
    ),
];

fn df(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    session.show(FullView::new(session.volume()?)?, out)
}

/// The operand that names where to begin, `.` where there is none.
fn start<'a>(operands: &[&'a [u8]]) -> &'a [u8] {
    operands.first().copied().unwrap_or(b".")
}

fn tree(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("L:", 0, 1)?;
    let depth = o.value('L').map_or(Ok(u32::MAX), |w| number32(w, "depth"))?;
    let spec = start(&o.operands);
    let ino = session.resolve_link(spec, LastLink::Follow)?;
    session.show(TreeView::new(session.volume()?, ino, spec, depth as usize)?, out)
}

fn find(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("n:t:", 0, 1)?;
    let kind = match o.value('t') {
        None => None,
        Some(b"f") => Some(FileType::Regular),
        Some(b"d") => Some(FileType::Directory),
        Some(b"l") => Some(FileType::Symlink),
        Some(b"b") => Some(FileType::BlockDevice),
        Some(b"c") => Some(FileType::CharDevice),
        Some(b"p") => Some(FileType::Fifo),
        Some(b"s") => Some(FileType::Socket),
        Some(_) => return Err(args.usage()),
    };
    let pattern = o.value('n').map(|p| Patterns::new([p]));
    let spec = start(&o.operands);
    let ino = session.resolve_link(spec, LastLink::Follow)?;
    let wanted = |name: &Below| {
        let last = name.path.0.rsplit(|b| *b == b'/').next().unwrap_or_default();
        kind.is_none_or(|k| name.file_type == Some(k)) && pattern.as_ref().is_none_or(|p| p.matches(last))
    };
    session.show(FindView::new(session.volume()?, ino, spec, wanted)?, out)
}

fn du(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("as", 0, 1)?;
    let spec = start(&o.operands);
    let ino = session.resolve(spec)?;
    session.show(RoomView::new(session.volume()?, ino, spec, (o.has('a'), o.has('s')))?, out)
}

/// Keeps the first error.
#[derive(Default)]
struct First(Mutex<Option<(Vec<u8>, String)>>);

impl Observer for First {
    fn failed(&self, path: &[u8], error: &Error) {
        if let Ok(mut first) = self.0.lock() {
            first.get_or_insert_with(|| (path.to_vec(), error.to_string()));
        }
    }
}

fn rdump(session: &mut Session, args: &Args<'_>, _out: &mut dyn Write) -> Outcome {
    let o = args.options("", 2, usize::MAX)?;
    let Some((to, from)) = o.operands.split_last() else { return Err(args.usage()) };
    let mut sources = Vec::new();
    for spec in from {
        let (ino, inode) = session.inode(spec)?;
        sources.push(Source { path: spec.to_vec(), ino, inode });
    }
    let to = session.host_path(to);
    if !to.is_dir() {
        return Err(Error::host("copy into", &to, std::io::ErrorKind::NotADirectory).into());
    }
    let observer = First::default();
    let options = Options { preserve: Preserve::ALL, ..Options::default() };
    let extractor = Extractor { volume: session.volume()?, options, observer: &observer, progress: &Silent };
    let report = extractor.copy(&sources, &Destination::open(&to, sources.len())?)?;
    let first = observer.0.into_inner().ok().flatten();
    match first {
        Some((path, e)) => Err(Failure::Usage(format!("{}: {e}", String::from_utf8_lossy(&path)))),
        None if report.is_complete() => Ok(()),
        None => Err(Failure::Usage(format!("{} files could not be copied", report.failed + report.skipped))),
    }
}

fn lsdel(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 0, 1)?;
    let mut view = DeletedView::new(session.volume()?)?;
    if let Some(word) = o.operands.first() {
        let limit = number(word, "number of seconds")?;
        let unknown = || Failure::Usage("what time it is is not known here".into());
        let now = session.settings().now.or_else(|| session.now().ok()).ok_or_else(unknown)?.sec;
        view.inodes.retain(|d| i64::from(d.time).abs_diff(now) <= limit || limit == 0);
    }
    session.show(view, out)
}

fn dump_unused(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    let volume = session.volume()?;
    let geo = volume.geometry();
    for block in (geo.first_data_block..geo.blocks_count).map(Fsblk) {
        let (group, bit) = geo.cluster_bit_of(block);
        if bitmap::test(&volume.block_bitmap(group)?, bit as usize) {
            continue;
        }
        let bytes = volume.block(block)?;
        if bytes.iter().any(|b| *b != 0) {
            write!(out, "\nUnused block {block} contains non-zero data:\n\n")?;
            out.write_all(&bytes)?;
        }
    }
    Ok(())
}

fn logdump(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("ab:ci:f:n:sSO", 0, 1)?;
    let to = o.operands.first().map(|w| session.host_path(w));
    let mut file = match &to {
        Some(path) => Some(BufWriter::new(File::create(path).map_err(|e| Error::host("create", path, e))?)),
        None => None,
    };
    let out = file.as_mut().map_or(out, |f| f as &mut dyn Write);
    let mut options = LogOptions {
        all: o.has('a'),
        contents: o.has('c'),
        old: o.has('O'),
        transactions: o.value('n').map(|w| number32(w, "number of transactions")).transpose()?,
        ..LogOptions::default()
    };
    if let Some(file) = o.value('f') {
        let path = session.host_path(file);
        let device: Arc<dyn BlockDevice> = Arc::new(FileDevice::open(&path, Access::ReadOnly)?);
        let area = LogArea::bare(device)?;
        if area.is_external() && session.settings().format != Format::Json {
            writeln!(out, "Ext2 superblock header found.")?;
        }
        let log = Log::in_area(area)?;
        return session.show(LogView::of_log(&log, options)?, out);
    }
    // What is open has the log behind it already: it is read where it is.
    let opened = match session.image().map(|i| i.open(Access::ReadOnly)) {
        Some(Ok(device)) => Some(Volume::open(device, &session.settings().open)?),
        _ => None,
    };
    let volume = opened.as_ref().map_or_else(|| session.volume(), Ok)?;
    if o.has('s') {
        let log = Log::in_area(LogArea::by_backup(volume)?)?;
        return session.show(LogView::of_log(&log, options)?, out);
    }
    match (o.value('b'), o.value('i')) {
        (Some(_), Some(_)) => return Err(args.usage()),
        (Some(block), None) => options.only = Some(Fsblk(number(block, "block number")?)),
        (None, Some(spec)) => {
            let place = InodePlaceView::new(volume, session.resolve(spec)?)?;
            (options.only, options.inode) = (Some(place.block), Some(place.ino));
            if session.settings().format != Format::Json {
                let InodePlaceView { ino, group, block, offset } = place;
                writeln!(out, "Inode {ino} is at group {group}, block {block}, offset {offset}")?;
            }
        }
        (None, None) => {}
    }
    if o.has('S')
        && session.settings().format != Format::Json
        && let Some(journal) = JournalView::new(volume)?
    {
        session.show(journal, out)?;
        writeln!(out)?;
    }
    session.show(LogView::new(volume, session.journal_device(), options)?, out)
}
