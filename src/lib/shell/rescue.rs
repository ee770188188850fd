//! Commands that free and bring back inodes with their blocks, and that map blocks by hand.

use std::io::Write;
use std::ops::ControlFlow;

use super::args::{Args, number, number32};
use super::session::Session;
use super::table::{Command, Family, row};
use super::{Failure, Outcome};
use crate::error::{Error, Result};
use crate::format::bitmap;
use crate::format::extent::Extent;
use crate::format::inode::{FileType, Inode, InodeFlags};
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::edit::OpenInode;
use crate::volume::store::BlockAlloc;
use crate::volume::{MapEvent, MapKind, Mapping, Owner, Volume, Wanted};

/// Blocks that one step changes at most: bitmaps and descriptors of some groups, nodes of a map.
const CREDITS: u32 = 64;
/// Most blocks that are mapped in one go.
const MAX_MAPPED: u64 = 1 << 24;

pub(super) const COMMANDS: &[Command] = &[
    row("kill_file", &[], "file", "Free an inode and its blocks; names of it stay", (Family::Raw, kill_file)),
    row(
        "undelete",
        &["undel"],
        "<inode> [path]",
        "Bring a deleted inode back, where all its blocks are still free, and give it a name",
        (Family::Raw, undelete),
    ),
    row(
        "copy_inode",
        &[],
        "inode inode",
        "Make the second inode a copy of the first, bit by bit",
        (Family::Raw, copy_inode),
    ),
    row("expand_dir", &["expand"], "directory", "Give a directory one more block", (Family::Raw, expand_dir)),
    row(
        "fallocate",
        &[],
        "file first_block [last_block]",
        "Allocate blocks that read as zeros where a file has none",
        (Family::Raw, fallocate),
    ),
];

/// Runs of blocks that an inode has: those of its map (`true`), and those with content.
fn runs(volume: &Volume, owner: Owner<'_>) -> Result<Vec<(Fsblk, u32, bool)>> {
    let mut runs = Vec::new();
    volume.walk_map(owner, &mut |event| {
        runs.push(match event {
            MapEvent::Node { block, .. } => (block, 1, true),
            MapEvent::Data(e) => (e.pblk, e.len, false),
        });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(runs)
}

fn is_used(volume: &Volume, ino: Ino) -> Result<bool> {
    let (group, bit) = volume.geometry().inode_place(ino)?;
    Ok(bitmap::test(&volume.inode_bitmap(group)?, bit as usize))
}

/// Blocks are freed, the inode is marked as deleted, and what it says of its blocks stays, so that it can be brought back.
fn kill_file(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let now = session.edit()?.now();
    let ino = session.resolve(o.operand(0))?;
    let volume = session.volume()?;
    if ino.0 < volume.geometry().first_ino {
        return Err(Failure::Usage(format!("inode {ino} belongs to the filesystem itself")));
    }
    if !is_used(volume, ino)? {
        return Err(Failure::Usage(format!("inode {ino} is not in use")));
    }
    let inode = volume.raw_inode(ino)?;
    let directory = inode.file_type() == Some(FileType::Directory);
    let blocks = runs(volume, Owner { ino, inode: &inode })?;
    session.edit()?.count(ino, Some(&inode), None);
    for (block, len, map) in blocks {
        session.edit()?.run_raw(CREDITS, |fs, store| {
            // Blocks of one cluster are freed together.
            let (group, bit) = fs.volume.geometry().cluster_bit_of(block);
            if !bitmap::test(&fs.volume.block_bitmap(group)?, bit as usize) {
                return Ok(());
            }
            fs.alloc.free(&mut fs.volume, store, block, len, map || directory)
        })?;
    }
    session.edit()?.run_raw(CREDITS, |fs, store| {
        let first_time = fs.volume.geometry().inodes_count.saturating_add(1);
        let mut open = OpenInode { ino, inode };
        let mut edit = fs.edit(store);
        edit.release_xattrs(&mut open)?;
        open.inode.update(|c| c.dtime.set((now.sec as u32).max(first_time)));
        edit.put(&mut open)?;
        fs.alloc.free_inode(&mut fs.volume, store, ino, directory)
    })?;
    Ok(())
}

fn undelete(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 2)?;
    session.edit()?;
    let spec = o.operand(0);
    if !spec.starts_with(b"<") {
        return Err(args.usage());
    }
    let ino = session.resolve(spec)?;
    let volume = session.volume()?;
    let inode = volume.raw_inode(ino)?;
    if is_used(volume, ino)? || inode.core().dtime.get() == 0 || ino.0 < volume.geometry().first_ino {
        return Err(Failure::Usage(format!("inode {ino} is not a deleted one")));
    }
    let directory = inode.file_type() == Some(FileType::Directory);
    let blocks = runs(volume, Owner { ino, inode: &inode })?;
    for (block, len, _) in &blocks {
        for n in 0..u64::from(*len) {
            let block = block.saturating_add(n);
            let (group, bit) = volume.geometry().cluster_bit_of(block);
            if bitmap::test(&volume.block_bitmap(group)?, bit as usize) {
                return Err(Failure::Usage(format!("block {block} of inode {ino} is in use by now")));
            }
        }
    }
    for (block, len, _) in blocks {
        session.edit()?.run_raw(CREDITS, |fs, store| fs.alloc.claim_blocks(&mut fs.volume, store, block, len))?;
    }
    let named = o.operands.len() == 2;
    session.edit()?.run_raw(CREDITS, |fs, store| {
        fs.alloc.claim_inode(&mut fs.volume, store, ino, directory)?;
        let mut inode = inode;
        inode.update(|c| {
            c.dtime.set(0);
            // The name that is given next counts itself.
            c.links_count.set((!named || directory).into());
        });
        fs.edit(store).put(&mut OpenInode { ino, inode })
    })?;
    if !named {
        let inode = session.volume()?.raw_inode(ino)?;
        session.edit()?.count(ino, None, Some(&inode));
        return Ok(());
    }
    if directory {
        return Err(Failure::Usage("a directory is brought back without a name (e2fsck gives it one)".into()));
    }
    let path = session.absolute(o.operand(1))?;
    session.edit()?.run(|n| {
        let (dir, name) = n.parent_of(&path)?;
        n.link(ino, dir, &name)
    })?;
    Ok(())
}

fn copy_inode(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 2, 2)?;
    session.edit()?;
    let from = session.resolve(o.operand(0))?;
    let to = session.resolve(o.operand(1))?;
    let inode = session.volume()?.raw_inode(from)?;
    session.edit()?.run_raw(CREDITS, |fs, store| fs.edit(store).put(&mut OpenInode { ino: to, inode }))?;
    Ok(())
}

fn expand_dir(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    session.edit()?;
    let ino = session.directory(o.operand(0))?;
    session.edit()?.run_raw_on(ino, CREDITS, |fs, store| {
        let mut edit = fs.edit(store);
        let mut dir = edit.open(ino)?;
        edit.expand_dir(&mut dir)?;
        edit.put(&mut dir)
    })?;
    Ok(())
}

/// A regular file whose blocks can be changed one by one.
fn mapped_file(session: &Session, ino: Ino) -> Outcome<Inode> {
    let volume = session.volume()?;
    let inode = volume.inode(ino)?;
    if volume.map_kind(&inode) == MapKind::None || inode.flags().contains(InodeFlags::INLINE_DATA) {
        return Err(Failure::Usage(format!("inode {ino} has no blocks that could be mapped")));
    }
    Ok(inode)
}

fn fallocate(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 2, 3)?;
    session.edit()?;
    let ino = session.resolve(o.operand(0))?;
    let extents = session.volume()?.map_kind(&mapped_file(session, ino)?) == MapKind::Extents;
    let first = number32(o.operand(1), "block number")?;
    let last = o.operands.get(2).map(|w| number32(w, "block number")).transpose()?;
    let end = last.map_or(u64::from(u32::MAX), |n| u64::from(n).saturating_add(1));
    let end = end.min(u64::from(first).saturating_add(MAX_MAPPED));
    if end <= first.into() {
        return Err(args.usage());
    }
    let mut at = u64::from(first);
    while at < end {
        let Ok(lblk) = u32::try_from(at).map(Lblk) else { break };
        let len = u32::try_from(end - at).unwrap_or(u32::MAX).min(1 << 15);
        let got = session.edit()?.run_raw_on(ino, CREDITS, |fs, store| {
            let mut edit = fs.edit(store);
            let mut file = edit.open(ino)?;
            let hole = matches!(edit.vol.map(file.owner(), lblk)?, Mapping::Hole { .. });
            let got = edit.allocate_range(&mut file, Wanted { lblk, len, unwritten: true, ahead: 0 })?;
            if hole && !extents {
                let zeros = vec![0; edit.block_size()];
                (0..got.len).try_for_each(|n| edit.store.write_data(got.pblk.saturating_add(n.into()), &zeros))?;
            }
            edit.put(&mut file)?;
            Ok(got)
        });
        match got {
            Ok(got) => at = at.saturating_add(got.len.max(1).into()),
            // Without an end, up to the last block there is.
            Err(Error::NoSpace { .. }) if last.is_none() => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Map a logical block to a block by hand. The bitmaps and counts stay as they are.
pub(super) fn set_block(session: &mut Session, ino: Ino, lblk: Lblk, pblk: Fsblk) -> Outcome {
    session.edit()?;
    mapped_file(session, ino)?;
    // Block 0 stands for a hole.
    if pblk.0 != 0 && !session.volume()?.geometry().has_range(pblk, 1) {
        return Err(Failure::Usage(format!("block {pblk} is not in this filesystem")));
    }
    session.edit()?.run_raw_on(ino, CREDITS, |fs, store| {
        let mut edit = fs.edit(store);
        let mut file = edit.open(ino)?;
        if matches!(edit.vol.map(file.owner(), lblk)?, Mapping::Mapped { .. }) {
            edit.unmap_block(&mut file, lblk)?;
        }
        if pblk.0 != 0 {
            edit.map_blocks(&mut file, Extent { lblk, len: 1, pblk, unwritten: false })?;
        }
        edit.put(&mut file)
    })?;
    Ok(())
}

/// The block of a logical block, which gets one where it has none.
pub(super) fn ensure_block(session: &mut Session, ino: Ino, lblk: Lblk) -> Outcome {
    session.edit()?;
    mapped_file(session, ino)?;
    session.edit()?.run_raw_on(ino, CREDITS, |fs, store| {
        let mut edit = fs.edit(store);
        let mut file = edit.open(ino)?;
        let was_hole = matches!(edit.vol.map(file.owner(), lblk)?, Mapping::Hole { .. });
        let got = edit.allocate_range(&mut file, Wanted { lblk, len: 1, unwritten: false, ahead: 0 })?;
        if was_hole {
            let zeros = vec![0; edit.block_size()];
            edit.store.write_data(got.pblk, &zeros)?;
        }
        let end = u64::from(lblk.0).saturating_add(1) * edit.block_size() as u64;
        if file.inode.size() < end && file.inode.file_type() == Some(FileType::Regular) {
            file.inode.set_size(end);
        }
        edit.put(&mut file)
    })?;
    Ok(())
}

/// The number of a command line as a block.
pub(super) fn block_number(word: &[u8]) -> Outcome<Fsblk> {
    number(word, "block number").map(Fsblk)
}
