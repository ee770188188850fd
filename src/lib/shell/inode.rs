//! Commands about inodes.

use std::io::Write;

use super::args::{Args, number32};
use super::session::Session;
use super::table::{Command, Family};
use super::{Failure, Outcome};
use crate::error::Error;
use crate::format::bitmap;
use crate::inspect::{FreeInodeView, HexView, InodePlaceView, InodeStateView, InodeView, RawXattrsView};
use crate::units::{Group, Ino};

const FAMILY: Family = Family::Inode;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "stat",
        aliases: &["show_inode_info"],
        args: "file",
        help: "Show an inode",
        family: FAMILY,
        run: stat,
    },
    Command {
        name: "inode_dump",
        aliases: &["idump", "id"],
        args: "[-b] [-e] [-x] file",
        help: "Show an inode's bytes (-b: the block area, -e: behind the extra fields, -x: that, as attributes)",
        family: FAMILY,
        run: inode_dump,
    },
    Command { name: "imap", aliases: &[], args: "file", help: "Show where an inode is", family: FAMILY, run: imap },
    Command {
        name: "testi",
        aliases: &[],
        args: "file",
        help: "Show whether an inode is in use",
        family: FAMILY,
        run: testi,
    },
    Command {
        name: "find_free_inode",
        aliases: &["ffi"],
        args: "[directory_inode [mode]]",
        help: "Show the next free inode",
        family: FAMILY,
        run: find_free_inode,
    },
];

fn stat(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let ino = session.resolve(o.operand(0))?;
    session.show(InodeView::new(session.volume()?, ino)?, out)
}

fn inode_dump(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("bex", 1, 1)?;
    let (_, inode) = session.inode(o.operand(0))?;
    if o.has('x') && inode.xattr_area().is_empty() {
        return Err(Failure::Usage("the inode has no room for attributes".into()));
    }
    if o.has('x') {
        return session.show(RawXattrsView::new(inode.xattr_area(), false), out);
    }
    let view = match (o.has('b'), o.has('e')) {
        (true, _) => HexView::new(&inode.block_area()),
        (false, true) => HexView::new(inode.xattr_area()),
        (false, false) => HexView::new(inode.as_bytes()),
    };
    session.show(view, out)
}

fn imap(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let ino = session.resolve(o.operand(0))?;
    session.show(InodePlaceView::new(session.volume()?, ino)?, out)
}

fn testi(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let ino = session.resolve(o.operand(0))?;
    session.show(InodeStateView::new(session.volume()?, ino)?, out)
}

fn find_free_inode(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 0, 2)?;
    let volume = session.volume()?;
    let geo = volume.geometry();
    let near = match o.operands.first() {
        Some(word) => Ino(number32(word, "inode number")?),
        None => session.directories()?.1,
    };
    if let Some(mode) = o.operands.get(1) {
        number32(mode, "mode")?;
    }
    let (first, _) = geo.inode_place(near)?;
    for n in 0..geo.groups {
        let group = Group((u64::from(first.0).saturating_add(n.into()) % u64::from(geo.groups)) as u32);
        let map = volume.inode_bitmap(group)?;
        let base = geo.group_first_ino(group).0;
        let from = geo.first_ino.saturating_sub(base) as usize;
        if let Some(bit) = bitmap::find_zero(&map, from, geo.inodes_per_group as usize) {
            return session.show(FreeInodeView { ino: Ino(base.saturating_add(bit as u32)) }, out);
        }
    }
    Err(Failure::Library(Error::NoSpace { what: "inodes", need: 1, have: 0 }))
}
