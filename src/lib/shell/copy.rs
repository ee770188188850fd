//! A command that copies files and directories inside the image.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use super::args::Args;
use super::session::Session;
use super::table::{Command, Family, row};
use super::{Failure, Outcome};
use crate::error::{Error, Result};
use crate::format::inode::{FileType, Inode, TimeField};
use crate::namei::{Attributes, Change, Content, What, split};
use crate::source::Segment;
use crate::units::Ino;
use crate::volume::{self, LastLink, Owner, Volume};

/// Longest file that is copied, bytes.
const MAX_FILE: usize = 1 << 30;

pub(super) const COMMANDS: &[Command] = &[row(
    "cp",
    &[],
    "[-r] file new_path",
    "Copy a file inside the image, with its owner, mode, time and attributes (-r: or a directory, with all that is in it)",
    (Family::Change, cp),
)];

/// A file's bytes with its holes.
struct Copied {
    bytes: Vec<u8>,
    segments: Vec<Segment>,
}

impl Content for Copied {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn segments(&self) -> Cow<'_, [Segment]> {
        Cow::Borrowed(&self.segments)
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.bytes.get(from..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf.fill(0);
        buf.iter_mut().zip(rest.iter().take(n)).for_each(|(to, b)| *to = *b);
        Ok(())
    }
}

fn cp(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("r", 2, 2)?;
    let from = o.operand(0);
    session.edit()?;
    session.show_contents()?;
    // With -r a link is copied as one.
    let ino = session.resolve_link(from, if o.has('r') { LastLink::Keep } else { LastLink::Follow })?;
    let inode = session.volume()?.inode(ino)?;
    let directory = inode.file_type() == Some(FileType::Directory);
    if !o.has('r') && inode.file_type() != Some(FileType::Regular) {
        return Err(Failure::Usage("only a file is copied without -r".into()));
    }
    let mut path = session.absolute(o.operand(1))?;
    let into = session.directory(o.operand(1)).ok();
    if into.is_some() {
        path.push(b'/');
        path.extend_from_slice(split(from).1);
    }
    if directory {
        let parent = match into {
            Some(dir) => dir,
            None => session.edit()?.run(|n| n.parent_of(&path))?.0,
        };
        let mut below = session.path_of(ino)?;
        below.push(b'/');
        let mut to = session.path_of(parent)?;
        to.push(b'/');
        if to.starts_with(&below) || below == b"//" {
            return Err(Error::IntoItself { path: from.to_vec() }.into());
        }
    }
    copy_all(session, ino, path)
}

/// Copy what `ino` is to `path`, with all that is below. Names of one file stay names of one file.
fn copy_all(session: &mut Session, ino: Ino, path: Vec<u8>) -> Outcome {
    let mut todo = vec![(ino, path)];
    let (mut entered, mut linked, mut times) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
    while let Some((ino, path)) = todo.pop() {
        let inode = session.volume()?.inode(ino)?;
        if inode.file_type() == Some(FileType::Directory) {
            if !entered.insert(ino) {
                return Err(Failure::Usage(format!("directory {ino} has two names")));
            }
            let entries = session.volume()?.read_dir(Owner { ino, inode: &inode })?;
            // The first in order is made first.
            todo.extend(entries.into_iter().rev().map(|e| (e.ino, [&path[..], b"/", &e.name].concat())));
        }
        if let Some(made) = linked.get(&ino) {
            let made = *made;
            session.edit()?.run(|n| {
                let (dir, name) = n.parent_of(&path)?;
                n.link(made, dir, &name)
            })?;
            continue;
        }
        let made = copy_one(session, ino, &inode, &path)?;
        if inode.file_type() == Some(FileType::Directory) {
            times.push((made, inode.time(TimeField::Modify)));
        } else if inode.core().links_count.get() > 1 {
            linked.insert(ino, made);
        }
    }
    // What was made in them has changed them.
    for (dir, mtime) in times {
        session.edit()?.run(|n| n.change(dir, &Change { mtime: Some(mtime), ..Change::default() }))?;
    }
    Ok(())
}

/// A regular file's content.
fn content(volume: &Volume, owner: Owner<'_>, path: &[u8]) -> Outcome<Copied> {
    let reader = volume.reader(owner)?;
    let bytes = reader.read_all(MAX_FILE)?;
    let large = || Failure::Usage(format!("{}: larger than 1 GiB", String::from_utf8_lossy(path)));
    Ok(Copied { bytes: bytes.ok_or_else(large)?, segments: reader.segments().iter().filter_map(data).collect() })
}

/// Copy one inode to a new name; the inode that is made.
fn copy_one(session: &mut Session, ino: Ino, inode: &Inode, path: &[u8]) -> Outcome<Ino> {
    let volume = session.volume()?;
    let owner = Owner { ino, inode };
    let xattrs = volume.xattrs(owner)?.into_iter().map(|x| Ok((x.name(), x.host_value()?.into_owned())));
    let xattrs = xattrs.collect::<Result<Vec<(Vec<u8>, Vec<u8>)>>>()?;
    let kind = inode.file_type();
    let target = if kind == Some(FileType::Symlink) { volume.symlink_target(owner)? } else { Vec::new() };
    let mut copied = if kind == Some(FileType::Regular) { Some(content(volume, owner, path)?) } else { None };
    let (major, minor) = inode.device_numbers();
    let what = match kind {
        Some(FileType::Regular) => What::File,
        Some(FileType::Directory) => What::Directory,
        Some(FileType::Symlink) => What::Symlink(&target),
        Some(FileType::Fifo) => What::Fifo,
        Some(FileType::Socket) => What::Socket,
        Some(FileType::BlockDevice) => What::Device { block: true, major, minor },
        Some(FileType::CharDevice) => What::Device { block: false, major, minor },
        None => return Err(Failure::Usage(format!("inode {ino} has a type that means nothing"))),
    };
    let mtime = Some(inode.time(TimeField::Modify));
    let (permissions, uid, gid) = (inode.permissions(), inode.uid(), inode.gid());
    let attributes = Attributes { permissions, uid, gid, inherit: false, mtime };
    let made = session.edit()?.run(|n| {
        let (dir, name) = n.parent_of(path)?;
        let new = n.make(dir, &name, what, &attributes)?;
        if let Some(content) = &mut copied {
            n.write_file(new.ino, content)?;
        }
        for (name, value) in &xattrs {
            n.set_xattr(new.ino, name, Some(value))?;
        }
        n.change(new.ino, &Change { mtime, ..Change::default() })?;
        Ok(new.ino)
    })?;
    Ok(made)
}

/// A segment that is not zeros, as a part of the file.
const fn data(s: &volume::Segment) -> Option<Segment> {
    match *s {
        volume::Segment::Zeros { .. } => None,
        volume::Segment::Data { offset, len, .. } => Some(Segment { start: offset, end: offset.saturating_add(len) }),
        volume::Segment::Inline { len } => Some(Segment { start: 0, end: len }),
    }
}
