//! Where bitmaps and inode tables go: in their own group, packed per flexible group, or all at the start.
//! Unit: blocks. Follows e2fsprogs (`ext2fs_allocate_group_table`, `flexbg_offset`).

use super::layout::Layout;
use crate::error::{Error, Result};
use crate::format::features::Incompat;

/// The three places of a group, as block numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    pub(crate) inode_table: u64,
}

/// Place the tables of all groups, and take their blocks.
pub(crate) fn place_tables(l: &mut Layout) -> Result<Vec<Tables>> {
    let flex = l.features.incompat.contains(Incompat::FLEX_BG);
    if flex && l.options.packed_meta_blocks {
        return packed(l);
    }
    let mut all = vec![Tables::default(); l.groups as usize];
    let per_flex = if flex { 1u32 << l.log_flex.min(31) } else { 1 };
    if per_flex == 1 {
        for (group, t) in (0u32..).zip(&mut all) {
            *t = own_group(l, group)?;
        }
        return Ok(all);
    }
    for (i, chunk) in (0u32..).zip(all.chunks_mut(per_flex as usize)) {
        let first = i * per_flex;
        if !together(l, first, chunk) {
            one_by_one(l, first, chunk)?;
        }
    }
    Ok(all)
}

fn no_space(l: &Layout, need: u64) -> Error {
    Error::NoSpace { what: "blocks for bitmaps and inode tables", need, have: l.blocks - l.space.used() }
}

fn take(l: &mut Layout, from: u64, limit: u64, len: u64) -> Option<u64> {
    let at = l.space.find(from, limit, len)?;
    l.space.take(at..at + len);
    Some(at)
}

/// All of them in one row: block bitmaps of all groups, inode bitmaps, inode tables.
fn together(l: &mut Layout, first: u32, chunk: &mut [Tables]) -> bool {
    let (n, table) = (chunk.len() as u64, u64::from(l.itable_blocks));
    let end = l.group_end(first + chunk.len() as u32 - 1);
    let Some(at) = l.space.find(l.group_start(first), end, n) else { return false };
    if n == 1 {
        return false;
    }
    let all = at..at + n * (2 + table);
    if all.end > end || !l.space.is_free(&all) {
        return false;
    }
    l.space.take(all);
    for (i, t) in (0u64..).zip(chunk) {
        *t = Tables { block_bitmap: at + i, inode_bitmap: at + n + i, inode_table: at + 2 * n + i * table };
    }
    true
}

/// A row of like tables of one flexible group: how many are left, how long each is, where the next should go.
struct Row {
    left: u64,
    len: u64,
    next: u64,
}

impl Row {
    /// Place one: next to its forerunner if it fits there, else where all the rest fits first, else where it fits.
    fn place(&mut self, l: &mut Layout, start: u64, end: u64) -> Result<u64> {
        let rest = (self.left * self.len).min(u64::from(l.blocks_per_group / 4)).max(1);
        let from = if self.next != 0 && l.space.is_free(&(self.next..self.next + self.len)) {
            self.next
        } else {
            l.space.find(start, end, rest).or_else(|| l.space.find(start, end, self.len)).unwrap_or(start)
        };
        let at = take(l, from, end, self.len)
            .or_else(|| take(l, start, end, self.len))
            .or_else(|| take(l, l.first_data_block, l.blocks, self.len))
            .ok_or_else(|| no_space(l, self.len))?;
        self.next = at + self.len;
        self.left -= 1;
        Ok(at)
    }
}

/// The same where something is in the way.
fn one_by_one(l: &mut Layout, first: u32, chunk: &mut [Tables]) -> Result<()> {
    let n = chunk.len() as u64;
    let (start, end) = (l.group_start(first), l.group_end(first + chunk.len() as u32 - 1));
    let row = |len| Row { left: n, len, next: 0 };
    let (mut blocks, mut inodes, mut tables) = (row(1), row(1), row(u64::from(l.itable_blocks)));
    // A group that is alone leaves the room that a full flexible group would need.
    let gap = if n == 1 { 1u64 << l.log_flex } else { n };
    for (i, t) in chunk.iter_mut().enumerate() {
        t.block_bitmap = blocks.place(l, start, end)?;
        if i == 0 {
            inodes.next = t.block_bitmap + gap;
        }
        t.inode_bitmap = inodes.place(l, start, end)?;
        if i == 0 {
            tables.next = t.inode_bitmap + gap;
        }
        t.inode_table = tables.place(l, start, end)?;
    }
    Ok(())
}

/// Without flexible groups: each group holds its own.
fn own_group(l: &mut Layout, group: u32) -> Result<Tables> {
    let (first, end) = (l.group_start(group), l.group_end(group));
    let table = u64::from(l.itable_blocks);
    let mut start = first;
    if l.options.stride != 0 {
        let free = l.space.find(first, end, 1).ok_or_else(|| no_space(l, 1))?;
        start = free + table;
        if start < end {
            start += u64::from(l.options.stride) * u64::from(group) % (end - start);
        }
        if start >= end {
            start = first;
        }
    }
    let one = |l: &mut Layout| take(l, start, end, 1).or_else(|| take(l, first, end, 1)).ok_or_else(|| no_space(l, 1));
    let block_bitmap = one(l)?;
    let inode_bitmap = one(l)?;
    let inode_table = take(l, first, end, table).ok_or_else(|| no_space(l, table))?;
    Ok(Tables { block_bitmap, inode_bitmap, inode_table })
}

/// All at the start of the filesystem.
fn packed(l: &mut Layout) -> Result<Vec<Tables>> {
    let mut all = vec![Tables::default(); l.groups as usize];
    let (mut at, end) = (l.first_data_block, l.blocks);
    let mut next = |l: &mut Layout, len: u64| -> Result<u64> {
        at = take(l, at, end, len).ok_or_else(|| no_space(l, len))?;
        Ok(at)
    };
    for t in &mut all {
        t.block_bitmap = next(l, 1)?;
    }
    for t in &mut all {
        t.inode_bitmap = next(l, 1)?;
    }
    for t in &mut all {
        t.inode_table = next(l, u64::from(l.itable_blocks))?;
    }
    Ok(all)
}
