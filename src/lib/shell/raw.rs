//! Commands that change single blocks, inodes and fields of the superblock, past the rules that keep a filesystem whole.
//!
//! They go through the transaction as all changes do: counts and checksums follow, and what cannot follow is refused (the
//! filesystem's own blocks are not freed, a field that the geometry depends on is not set). What they leave behind may be
//! damage all the same, which is what they are for.

use std::io::Write;

use super::args::{Args, number, number32};
use super::block::block_of;
use super::change::time;
use super::session::Session;
use super::table::{Command, Family, row};
use super::{Failure, Outcome};
use crate::error::Result;
use crate::format::bitmap;
use crate::format::inode::{FileType, Inode};
use crate::format::superblock::State;
use crate::inspect::{Format, date};
use crate::units::{Fsblk, Ino};
use crate::volume::Volume;
use crate::volume::edit::{OpenInode, modify_block};
use crate::volume::store::BlockAlloc;

/// Blocks that a change of a bit dirties at most: bitmaps (a group may be used for the first time), descriptors, superblock.
const CREDITS: u32 = 8;
/// The name of the block's bit that `zap_block -b` flips, in messages.
const BIT: &str = "bit";

pub(super) const COMMANDS: &[Command] = &[
    row("freeb", &[], "block [count]", "Mark blocks as free", (Family::Raw, freeb)),
    row("setb", &[], "block [count]", "Mark blocks as in use", (Family::Raw, setb)),
    row("freei", &[], "file [count]", "Mark inodes as free", (Family::Raw, freei)),
    row("seti", &[], "file [count]", "Mark inodes as in use", (Family::Raw, seti)),
    row("clri", &[], "file", "Fill an inode with zeros", (Family::Raw, clri)),
    row(
        "zap_block",
        &["zap"],
        "[-f file] [-o offset] [-l length] [-p pattern] | [-b bit] block",
        "Fill a block, or a part of it, with a byte, or flip a bit of it (-f: a logical block of a file)",
        (Family::Raw, zap),
    ),
    row(
        "dirty_filesys",
        &["dirty"],
        "[-clean]",
        "Mark the filesystem as not clean, or (-clean) as clean",
        (Family::Raw, dirty),
    ),
    row("set_current_time", &[], "time", "Set the time that changes from now on carry", (Family::Raw, set_now)),
];

/// A block number and how many there are.
fn blocks(args: &Args<'_>) -> Outcome<(u64, u64)> {
    let o = args.options("", 1, 2)?;
    Ok((number(o.operand(0), "block number")?, o.operands.get(1).map_or(Ok(1), |w| number(w, "count"))?))
}

/// Whether a block's bit is set.
fn in_use(volume: &Volume, block: Fsblk) -> Result<bool> {
    let (group, bit) = volume.geometry().cluster_bit_of(block);
    Ok(bitmap::test(&volume.block_bitmap(group)?, bit as usize))
}

/// Check that all of a range of blocks are in the filesystem, and in use or not.
fn expect_state(session: &Session, (first, count): (u64, u64), used: bool) -> Outcome {
    let volume = session.volume()?;
    if !volume.geometry().has_range(Fsblk(first), count.max(1)) {
        return Err(Failure::Usage(format!("blocks {first} and on: not {count} blocks of this filesystem")));
    }
    for block in (first..first.saturating_add(count)).map(Fsblk) {
        if in_use(volume, block)? != used {
            let state = if used { "free" } else { "in use" };
            return Err(Failure::Usage(format!("block {block} is {state} already")));
        }
    }
    Ok(())
}

fn freeb(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let (first, count) = blocks(args)?;
    session.edit()?;
    expect_state(session, (first, count), true)?;
    for block in (first..first.saturating_add(count)).map(Fsblk) {
        session.edit()?.run_raw(CREDITS, |fs, store| {
            // With clusters the first of its blocks frees all of them.
            if in_use(&fs.volume, block)? { fs.alloc.free(&mut fs.volume, store, block, 1, false) } else { Ok(()) }
        })?;
    }
    Ok(())
}

fn setb(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let (first, count) = blocks(args)?;
    session.edit()?;
    expect_state(session, (first, count), false)?;
    for block in (first..first.saturating_add(count)).map(Fsblk) {
        session.edit()?.run_raw(CREDITS, |fs, store| fs.alloc.claim_blocks(&mut fs.volume, store, block, 1))?;
    }
    Ok(())
}

/// The inodes that an operand and a count name.
fn inodes(session: &Session, args: &Args<'_>) -> Outcome<Vec<Ino>> {
    let o = args.options("", 1, 2)?;
    let first = session.resolve(o.operand(0))?;
    let count = o.operands.get(1).map_or(Ok(1), |w| number32(w, "count"))?;
    let volume = session.volume()?;
    let all: Vec<Ino> = (first.0..first.0.saturating_add(count)).map(Ino).collect();
    for ino in &all {
        volume.geometry().inode_place(*ino)?;
    }
    Ok(all)
}

fn freei(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    session.edit()?;
    for ino in inodes(session, args)? {
        let volume = session.volume()?;
        if ino.0 < volume.geometry().first_ino {
            return Err(Failure::Usage(format!("inode {ino} belongs to the filesystem itself")));
        }
        let directory = volume.raw_inode(ino)?.file_type() == Some(FileType::Directory);
        session
            .edit()?
            .run_raw(CREDITS, |fs, store| {
                if fs.alloc.is_inode_used(&fs.volume, ino)? {
                    fs.alloc.free_inode(&mut fs.volume, store, ino, directory).map(|()| true)
                } else {
                    Ok(false)
                }
            })?
            .then_some(())
            .ok_or_else(|| Failure::Usage(format!("inode {ino} is free already")))?;
    }
    Ok(())
}

fn seti(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    session.edit()?;
    for ino in inodes(session, args)? {
        let directory = session.volume()?.raw_inode(ino)?.file_type() == Some(FileType::Directory);
        session
            .edit()?
            .run_raw(CREDITS, |fs, store| {
                if fs.alloc.is_inode_used(&fs.volume, ino)? {
                    Ok(false)
                } else {
                    fs.alloc.claim_inode(&mut fs.volume, store, ino, directory).map(|()| true)
                }
            })?
            .then_some(())
            .ok_or_else(|| Failure::Usage(format!("inode {ino} is in use already")))?;
    }
    Ok(())
}

fn clri(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let ino = session.resolve(o.operand(0))?;
    session.edit()?.run_raw(CREDITS, |fs, store| {
        let inode = Inode::empty(fs.volume.geometry().inode_size);
        fs.edit(store).put(&mut OpenInode { ino, inode })
    })?;
    Ok(())
}

fn zap(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("f:o:l:p:b:", 1, 1)?;
    session.edit()?;
    if let Some(bit) = o.value('b') {
        return flip(session, block_of(session, o.value('f'), o.operand(0))?, number32(bit, BIT)?);
    }
    let volume = session.volume()?;
    let size = volume.geometry().block_size;
    let value = |letter, what: &str| o.value(letter).map(|w| number32(w, what)).transpose();
    let offset = value('o', "offset")?.unwrap_or(0);
    let length = value('l', "length")?.unwrap_or(size.saturating_sub(offset));
    let pattern = value('p', "pattern")?.unwrap_or(0);
    let Ok(byte) = u8::try_from(pattern) else { return Err(Failure::Usage("the pattern is a byte, 0 to 255".into())) };
    if length == 0 || offset.checked_add(length).is_none_or(|end| end > size) {
        return Err(Failure::Usage(format!("offset {offset}, length {length}: not inside a block of {size} bytes")));
    }
    let block = block_of(session, o.value('f'), o.operand(0))?;
    if !volume.geometry().has_range(block, 1) {
        return Err(Failure::Usage(format!("block {block} is not in this filesystem")));
    }
    let range = offset as usize..offset.saturating_add(length) as usize;
    session.edit()?.run_raw(CREDITS, |_, store| {
        modify_block(store, block, |bytes| {
            if let Some(part) = bytes.get_mut(range) {
                part.fill(byte);
            }
        })
    })?;
    Ok(())
}

/// Flip a bit of a block.
fn flip(session: &mut Session, block: Fsblk, bit: u32) -> Outcome {
    let geo = session.volume()?.geometry();
    if !geo.has_range(block, 1) || bit >= geo.block_size.saturating_mul(8) {
        return Err(Failure::Usage(format!("{BIT} {bit} of block {block} is not in this filesystem")));
    }
    session.edit()?.run_raw(CREDITS, |_, store| {
        modify_block(store, block, |bytes| {
            if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
            }
        })
    })?;
    Ok(())
}

fn dirty(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let clean = match args.words {
        [] => false,
        [word] if word == b"-clean" => true,
        _ => return Err(args.usage()),
    };
    session.edit()?.run_raw(CREDITS, |fs, store| {
        fs.volume.store_superblock(store, |sb| {
            let mut state = sb.state_flags();
            state.set(State::VALID, clean);
            sb.state = state.bits().into();
        })
    })?;
    Ok(())
}

fn set_now(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let now = time(o.operand(0))?;
    session.edit()?.set_now(now);
    if session.settings().format != Format::Json {
        writeln!(out, "Setting current time to {}", date(now))?;
    }
    Ok(())
}
