//! The list of bad blocks, made anew: inode 1 with a block map that leads to every block that nobody may use. Who has one of
//! them gets a copy of what is in it from the next round on.
//!
//! Kernel-side name: none; e2fsprogs: `ext2fs_update_bb_inode`.

use std::collections::BTreeSet;

use super::super::clerk::Clerk;
use super::super::pass1::Found;
use super::super::state::Ctx;
use super::Hands;
use super::work::{Work, raw};
use crate::error::{Error, Result};
use crate::format::indirect::DIRECT;
use crate::format::inode::{InodeFlags, TimeField};
use crate::units::{Fsblk, Ino};
use crate::volume::Edit;
use crate::volume::store::AllocRequest;

/// Blocks that nobody may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadBlocks {
    /// Their numbers; those outside the filesystem are left out.
    pub blocks: Vec<Fsblk>,
    /// Those that are known already stay on the list.
    pub keep: bool,
}

/// What became of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct BadList {
    /// Blocks that it holds now.
    pub listed: u64,
    /// Blocks that were left out: they are outside the filesystem.
    pub outside: Vec<Fsblk>,
    /// It is not what it was.
    pub changed: bool,
}

/// Write the list that was asked for; whether the image has changed. Called when it is known what is free.
pub(super) fn write(hands: &Hands<'_>, ctx: &Ctx<'_>, found: &Found, clerk: &mut Clerk<'_>) -> Result<bool> {
    let Some(want) = &hands.options.bad_blocks else { return Ok(false) };
    if hands.bad_list.borrow().is_some() || !clerk.repairs() || clerk.stopped {
        return Ok(false);
    }
    let fits = |b: &Fsblk| ctx.geo.has_block(*b) && u32::try_from(b.0).is_ok();
    let (inside, outside): (Vec<Fsblk>, Vec<Fsblk>) = want.blocks.iter().partition(|b| fits(b));
    let known: BTreeSet<u64> = found.bad_blocks.iter().copied().collect();
    let mut list: BTreeSet<u64> = inside.into_iter().map(|b| b.0).collect();
    if want.keep {
        list.extend(&known);
    }
    let changed = list != known;
    *hands.bad_list.borrow_mut() = Some(BadList { listed: list.len() as u64, outside, changed });
    if !changed {
        return Ok(false);
    }
    // Not through the log: that may have bad blocks itself.
    let mut work = Work::new(hands.dev, hands.options, ctx, false, true)?;
    let now = work.now;
    let written = work.step(|edit| {
        let mut o = raw(edit.vol, Ino::BAD)?;
        let mut map = Map { edit, list: &list, left: list.iter().copied(), nodes: 0 };
        let mut area = [0; 60];
        for (slot, p) in area.chunks_exact_mut(4).enumerate() {
            let level = (slot + 1).saturating_sub(DIRECT) as u32;
            p.copy_from_slice(&map.pointer(level)?.to_le_bytes());
        }
        let clusters = map.nodes + list.len() as u64;
        let geo = edit.vol.geometry();
        let (bs, ratio) = (u64::from(geo.block_size), u64::from(geo.cluster_ratio));
        o.inode.set_flags(InodeFlags::empty());
        o.inode.update(|c| {
            c.mode.set(0);
            c.links_count.set(0);
            c.dtime.set(0);
            c.block = area;
        });
        o.inode.set_size(list.len() as u64 * bs);
        o.inode.set_blocks_raw(clusters * ratio * (bs / 512));
        for t in [TimeField::Access, TimeField::Modify] {
            o.inode.set_time(t, now);
        }
        edit.put(&mut o)
    })?;
    if written.is_none() {
        return Err(Error::NoSpace { what: "blocks for the list of bad blocks", need: 1, have: 0 });
    }
    clerk.corrected += 1;
    work.finish()?;
    Ok(true)
}

/// A block map that is made in the order of its pointers.
struct Map<'m, 'e, L> {
    edit: &'m mut Edit<'e>,
    list: &'m BTreeSet<u64>,
    left: L,
    nodes: u64,
}

impl<L: ExactSizeIterator<Item = u64>> Map<'_, '_, L> {
    /// The next pointer, to a bad block or to a node with pointers to `level` levels below it.
    fn pointer(&mut self, level: u32) -> Result<u32> {
        if level == 0 || self.left.len() == 0 {
            return Ok(self.left.next().map_or(0, |b| b as u32));
        }
        let at = self.room()?;
        let mut bytes = vec![0; self.edit.vol.geometry().block_size as usize];
        for p in bytes.chunks_exact_mut(4) {
            p.copy_from_slice(&self.pointer(level - 1)?.to_le_bytes());
        }
        self.edit.store.create(at, bytes.into())?;
        self.nodes += 1;
        Ok(at.0 as u32)
    }

    /// A free block that is not bad.
    fn room(&mut self) -> Result<Fsblk> {
        let goal = Fsblk(self.edit.vol.geometry().first_data_block);
        loop {
            let got =
                self.edit.alloc.allocate(self.edit.vol, self.edit.store, AllocRequest::metadata(Ino::BAD, goal))?;
            // One that is not taken stays away from whoever asks next.
            if u32::try_from(got.start.0).is_ok() && !self.list.contains(&got.start.0) {
                return Ok(got.start);
            }
        }
    }
}
