//! Commands about blocks.

use std::io::Write;

use super::args::{Args, number, number32};
use super::session::Session;
use super::table::{Command, Family};
use super::{Failure, Outcome};
use crate::inspect::{BlockStateView, FreeBlocksView, HexView, OwnersView, RawXattrsView};
use crate::units::{Fsblk, Lblk};
use crate::volume::{Mapping, Owner};

const FAMILY: Family = Family::Block;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "icheck", aliases: &[], args: "block…", help: "Show who uses blocks", family: FAMILY, run: icheck
    },
    Command {
        name: "testb",
        aliases: &[],
        args: "block [count]",
        help: "Show whether blocks are in use",
        family: FAMILY,
        run: testb,
    },
    Command {
        name: "find_free_block",
        aliases: &["ffb"],
        args: "[count [goal]]",
        help: "Show the next free blocks",
        family: FAMILY,
        run: find_free_block,
    },
    Command {
        name: "block_dump",
        aliases: &["bdump", "bd"],
        args: "[-x] [-f file] block",
        help: "Show a block's bytes (-f: a logical block of a file, -x: as extended attributes)",
        family: FAMILY,
        run: block_dump,
    },
];

fn icheck(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, usize::MAX)?;
    let numbers = o.operands.iter().map(|w| number(w, "block number").map(Fsblk));
    let blocks = numbers.collect::<Outcome<Vec<_>>>()?;
    session.show(OwnersView::new(session.volume()?, &blocks)?, out)
}

fn testb(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 2)?;
    let first = Fsblk(number(o.operand(0), "block number")?);
    let count = o.operands.get(1).map_or(Ok(1), |w| number(w, "count"))?;
    session.show(BlockStateView::new(session.volume()?, first, count)?, out)
}

fn find_free_block(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 0, 2)?;
    let volume = session.volume()?;
    let count = o.operands.first().map_or(Ok(1), |w| number(w, "count"))?;
    let goal = o.operands.get(1).map_or(Ok(volume.geometry().first_data_block), |w| number(w, "block number"))?;
    session.show(FreeBlocksView::new(volume, Fsblk(goal), count)?, out)
}

fn block_dump(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("xf:", 1, 1)?;
    let volume = session.volume()?;
    let block = block_of(session, o.value('f'), o.operand(0))?;
    if o.has('x') {
        return session.show(RawXattrsView::new(&volume.block(block)?, true), out);
    }
    session.show(HexView::new(&volume.block(block)?), out)
}

/// The block that a number names: of the filesystem, or the logical block of a file.
pub(super) fn block_of(session: &Session, file: Option<&[u8]>, number_of: &[u8]) -> Outcome<Fsblk> {
    let Some(spec) = file else { return Ok(Fsblk(number(number_of, "block number")?)) };
    let (ino, inode) = session.inode(spec)?;
    let lblk = Lblk(number32(number_of, "block number")?);
    match session.volume()?.map(Owner { ino, inode: &inode }, lblk)? {
        Mapping::Mapped { pblk, .. } => Ok(pblk),
        Mapping::Hole { .. } => Err(Failure::Usage(format!("logical block {lblk} is a hole"))),
    }
}
