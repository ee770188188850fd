//! Bitmaps and inode tables that are where they may not be, or on top of others, get another place. What lies at a place where it cannot
//! be is lost: bitmaps are made anew by pass 5, an inode table begins empty. What is merely shared is copied.

use super::super::open::allowed_range;
use super::super::problem::Problem as P;
use super::super::report::Finding;
use super::work::Work;
use crate::error::{Error, Result};
use crate::format::group_desc::{BgFlags, GroupDesc};
use crate::units::{Fsblk, Group, Ino};
use crate::volume::store::AllocRequest;

/// Which part of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in super::super) enum Part {
    BlockBitmap,
    InodeBitmap,
    InodeTable,
}

/// The part that a problem is about, and whether its content is lost.
pub(in super::super) const fn part_of(p: P) -> Option<(Part, bool)> {
    Some(match p {
        P::BlockBitmapNotInGroup | P::BlockBitmapMissing => (Part::BlockBitmap, true),
        P::InodeBitmapNotInGroup | P::InodeBitmapMissing => (Part::InodeBitmap, true),
        P::InodeTableNotInGroup | P::InodeTableMissing => (Part::InodeTable, true),
        P::BlockBitmapConflict | P::BlockBitmapBadBlock => (Part::BlockBitmap, false),
        P::InodeBitmapConflict | P::InodeBitmapBadBlock => (Part::InodeBitmap, false),
        P::InodeTableConflict => (Part::InodeTable, false),
        _ => return None,
    })
}

pub(super) const fn mends(p: P) -> bool {
    part_of(p).is_some()
}

pub(super) fn mend(work: &mut Work<'_, '_>, f: &Finding) -> Result<()> {
    let (Some(group), Some((part, lost))) = (f.place.group, part_of(f.problem)) else { return Ok(()) };
    work.step(|edit| {
        let geo = edit.vol.geometry().clone();
        let mut desc = edit.vol.group(group)?;
        let len = if part == Part::InodeTable { geo.itable_blocks } else { 1 };
        let range = allowed_range(&geo, group);
        let request = AllocRequest { min_len: len, len, ..AllocRequest::metadata(Ino(0), goal(&geo, group, &desc)) };
        let got = edit.alloc.allocate(edit.vol, edit.store, request)?.start;
        if got.0 < range.start || got.0 + u64::from(len) > range.end {
            return Err(Error::NoSpace { what: "blocks of the group", need: len.into(), have: 0 });
        }
        let old = place(&desc, part);
        for n in 0..u64::from(len) {
            let from = Fsblk(old.0 + n);
            let bytes = if lost || !geo.has_block(from) {
                vec![0; geo.block_size as usize].into()
            } else {
                edit.store.read(from)?
            };
            edit.store.create(Fsblk(got.0 + n), bytes)?;
        }
        match part {
            Part::BlockBitmap => desc.set_block_bitmap(got),
            Part::InodeBitmap => desc.set_inode_bitmap(got),
            Part::InodeTable => desc.set_inode_table(got),
        }
        if part == Part::InodeTable && lost {
            desc.set_bg_flags(desc.bg_flags() - BgFlags::INODE_UNINIT);
            desc.set_itable_unused(0);
        }
        desc.set_bg_flags(desc.bg_flags() - BgFlags::BLOCK_UNINIT);
        edit.vol.store_group(edit.store, group, &desc)
    })?;
    Ok(())
}

fn goal(geo: &crate::volume::Geometry, group: Group, _: &GroupDesc) -> Fsblk {
    let start = geo.group_start(group);
    Fsblk(start.0 + u64::from(geo.super_and_gdt_blocks(group)))
}

const fn place(desc: &GroupDesc, part: Part) -> Fsblk {
    match part {
        Part::BlockBitmap => desc.block_bitmap(),
        Part::InodeBitmap => desc.inode_bitmap(),
        Part::InodeTable => desc.inode_table(),
    }
}
