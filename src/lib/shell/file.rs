//! Commands about the content of files.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::args::{Args, number32};
use super::session::Session;
use super::table::{Command, Family};
use super::{Failure, Outcome, rescue, through};
use crate::error::{Error, Result};
use crate::format::inode::{FileType, Inode, InodeFlags, TimeField};
use crate::inspect::{BlockMapView, BlocksView, ExtentsFilter, ExtentsView, FragsView, StatusView};
use crate::units::{Ino, Lblk};
use crate::volume::{Owner, Segment, Volume};

const FAMILY: Family = Family::File;
/// Bytes that are copied at once.
const STEP: usize = 1 << 20;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "cat",
        aliases: &[],
        args: "file",
        help: "Write a file's content to standard output",
        family: FAMILY,
        run: cat,
    },
    Command {
        name: "dump",
        aliases: &["dump_inode"],
        args: "[-p] file host_file",
        help: "Copy a file's content out (-p: with owner, mode and times)",
        family: FAMILY,
        run: dump,
    },
    Command {
        name: "ex",
        aliases: &["dump_extents", "extents"],
        args: "[-n] [-l] file",
        help: "Show the extent tree (-n: nodes only, -l: leaves only)",
        family: FAMILY,
        run: extents,
    },
    Command {
        name: "blocks",
        aliases: &[],
        args: "file",
        help: "Show all blocks of a file",
        family: FAMILY,
        run: blocks,
    },
    Command {
        name: "bmap",
        aliases: &[],
        args: "[-a] file logical_block [block]",
        help: "Show the block of a logical block, after setting it (-a: allocate one where there is none)",
        family: FAMILY,
        run: bmap,
    },
    Command {
        name: "filefrag",
        aliases: &[],
        args: "[-d] [-v] [-r] [file]",
        help: "Show the fragmentation of a file, or of all files in a directory (-r: and below, -d: of the directory itself)",
        family: FAMILY,
        run: filefrag,
    },
    Command {
        name: "es",
        aliases: &["extent_status"],
        args: "[file]",
        help: "Show extent status beside the extent tree on disk; of files in use (wp) what is in memory, without a file of all",
        family: FAMILY,
        run: status,
    },
];

fn cat(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let (ino, inode) = session.inode(o.operand(0))?;
    let mut at = 0;
    // A file that is in use is read as those see it who use it.
    while let Some(bytes) = through::read_cached(session, ino, at, STEP as u64)? {
        if bytes.is_empty() {
            return Ok(());
        }
        out.write_all(&bytes)?;
        at = at.saturating_add(bytes.len() as u64);
    }
    let reader = session.volume()?.reader(Owner { ino, inode: &inode })?;
    let mut buf = vec![0; STEP];
    loop {
        let n = reader.read_at(at, &mut buf)?;
        if n == 0 {
            return Ok(());
        }
        out.write_all(buf.get(..n).unwrap_or_default())?;
        at = at.saturating_add(n as u64);
    }
}

fn dump(session: &mut Session, args: &Args<'_>, _out: &mut dyn Write) -> Outcome {
    let o = args.options("p", 2, 2)?;
    let (ino, inode) = session.inode(o.operand(0))?;
    let path = session.host_path(o.operand(1));
    let file = copy_out(session.volume()?, Owner { ino, inode: &inode }, &path)?;
    if o.has('p') {
        keep_attributes(&file, &inode).map_err(|e| Error::host("set the attributes of", &path, e))?;
    }
    Ok(())
}

/// Copy an inode's content into a new file of the host; holes stay holes.
fn copy_out(volume: &Volume, owner: Owner<'_>, path: &Path) -> Result<File> {
    let write_error = |e| Error::host("write", path, e);
    let reader = volume.reader(owner)?;
    let file = File::create(path).map_err(|e| Error::host("create", path, e))?;
    file.set_len(reader.size()).map_err(write_error)?;
    let mut buf = vec![0; STEP];
    for segment in reader.segments() {
        let (mut at, len) = match segment {
            Segment::Zeros { .. } => continue,
            Segment::Data { offset, len, .. } => (offset, len),
            Segment::Inline { len } => (0, len),
        };
        let end = at.saturating_add(len);
        while at < end {
            let want = (end - at).min(STEP as u64) as usize;
            let Some(part) = buf.get_mut(..want) else { break };
            let n = reader.read_at(at, part)?;
            file.write_all_at(part.get(..n).unwrap_or_default(), at).map_err(write_error)?;
            if n == 0 {
                break;
            }
            at = at.saturating_add(n as u64);
        }
    }
    Ok(file)
}

/// Owner first: the host takes set-id bits away when it changes.
fn keep_attributes(file: &File, inode: &Inode) -> std::io::Result<()> {
    use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid};
    rustix::fs::fchown(file, Some(Uid::from_raw(inode.uid())), Some(Gid::from_raw(inode.gid())))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(inode.permissions().into()))?;
    let time = |which| {
        let t = inode.time(which);
        Timespec { tv_sec: t.sec, tv_nsec: t.nsec.min(999_999_999).into() }
    };
    let times = Timestamps { last_access: time(TimeField::Access), last_modification: time(TimeField::Modify) };
    Ok(rustix::fs::futimens(file, &times)?)
}

fn extents(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("nl", 1, 1)?;
    let (ino, inode) = session.inode(o.operand(0))?;
    let filter = ExtentsFilter { nodes_only: o.has('n') && !o.has('l'), leaves_only: o.has('l') && !o.has('n') };
    session.show(ExtentsView::new(session.volume()?, Owner { ino, inode: &inode }, filter)?, out)
}

fn blocks(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let (ino, inode) = session.inode(o.operand(0))?;
    session.show(BlocksView::new(session.volume()?, Owner { ino, inode: &inode })?, out)
}

fn bmap(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("a", 2, 3)?;
    let ino = session.resolve(o.operand(0))?;
    let lblk = Lblk(number32(o.operand(1), "block number")?);
    if let Some(word) = o.operands.get(2) {
        rescue::set_block(session, ino, lblk, rescue::block_number(word)?)?;
    } else if o.has('a') {
        rescue::ensure_block(session, ino, lblk)?;
    }
    let inode = session.volume()?.raw_inode(ino)?;
    if inode.flags().contains(InodeFlags::INLINE_DATA) {
        return Err(Failure::Usage(format!("inode {ino} has its content inside: it has no blocks")));
    }
    session.show(BlockMapView::new(session.volume()?, Owner { ino, inode: &inode }, lblk)?, out)
}

fn filefrag(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("dvr", 0, 1)?;
    let spec = o.operands.first().copied().unwrap_or(b".");
    let (ino, inode) = session.inode(spec)?;
    let volume = session.volume()?;
    let mut view = FragsView { verbose: o.has('v'), files: Vec::new() };
    if inode.file_type() == Some(FileType::Directory) && !o.has('d') {
        fragments_below(volume, (ino, inode), spec, o.has('r'), &mut view)?;
    } else {
        view.push(volume, Owner { ino, inode: &inode }, spec);
    }
    session.show(view, out)
}

/// Directories level by level, each once.
fn fragments_below(
    volume: &Volume,
    (ino, inode): (Ino, Inode),
    path: &[u8],
    recursive: bool,
    view: &mut FragsView,
) -> Result<()> {
    let mut seen = BTreeSet::from([ino]);
    let mut todo = VecDeque::from([(ino, inode, path.to_vec())]);
    while let Some((ino, inode, path)) = todo.pop_front() {
        for entry in volume.read_dir(Owner { ino, inode: &inode })? {
            let inode = volume.raw_inode(entry.ino)?;
            let separator: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
            let name = [&path[..], separator, &entry.name].concat();
            view.push(volume, Owner { ino: entry.ino, inode: &inode }, &name);
            if recursive && inode.file_type() == Some(FileType::Directory) && seen.insert(entry.ino) {
                todo.push_back((entry.ino, inode, name));
            }
        }
    }
    Ok(())
}

fn status(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 0, 1)?;
    let file = o.operands.first().map(|spec| session.inode(spec)).transpose()?;
    if through::show_live(session, file.as_ref().map(|(ino, _)| *ino), out)? {
        return Ok(());
    }
    let (ino, inode) = file.ok_or_else(|| args.usage())?;
    session.show(StatusView::new(session.volume()?, Owner { ino, inode: &inode }), out)
}
