//! Unwritten extents made written where data is about to be written into them without a later conversion: by writes that
//! are not delayed, by writeback with `dioread_lock`, by direct writes behind the end. Kernel name:
//! `ext4_ext_convert_to_initialized`.
//!
//! Rather than leave small unwritten rests, the kernel writes zeros to blocks beside and makes them written too, within
//! [`MAX_ZEROOUT`], where the whole extent lies inside the file.

use super::extent_status::{EsEntry, EsStatus};
use super::inode::MemInode;
use super::map::{Create, Mapped};
use super::mount::Mount;
use crate::error::Result;
use crate::format::extent::Extent;
use crate::units::Lblk;
use crate::volume::Cut;
use crate::volume::extent_plan::max_len;

/// Most bytes that are zeroed to avoid a split.
#[doc(alias = "s_extent_max_zeroout_kb")]
const MAX_ZEROOUT: u64 = 32 << 10;

impl Mount {
    /// Make the blocks of `want`, part of one unwritten extent, written; perhaps others of that extent with them.
    pub(super) fn initialise(&mut self, i: &mut MemInode, want: EsEntry, how: Create) -> Result<Mapped> {
        let all = self.fs.volume.extents(i.o.owner())?;
        let at = all.partition_point(|e| e.end() <= want.lblk.0.into());
        let (first, last) = (want.lblk.0, u64::from(want.end()));
        let Some(ex) = all.get(at).copied() else { return Ok(Mapped { e: want, new: false }) };
        let before = at.checked_sub(1).and_then(|n| all.get(n));
        let (from, to, cut) = if moves_to_neighbour(&ex, before, all.get(at + 1), first, last) {
            (first, last, Cut::Never)
        } else {
            let (from, to) = self.zeroed_around(i, &ex, first, last);
            (from, to, Cut::First)
        };
        let bits = self.block_bits();
        let zeros = vec![0; 1 << bits];
        for lblk in (from..first).chain(last as u32..to as u32) {
            let pblk = ex.pblk.saturating_add((lblk - ex.lblk.0).into());
            self.write_block(self.journals_data(i), pblk, &zeros)?;
        }
        self.convert_by(i, from, to, false, cut)?;
        let e = EsEntry { status: EsStatus::Written, ..want };
        self.expose(i, &e, how);
        Ok(Mapped { e, new: true })
    }

    /// The blocks to make written, with those that are better zeroed than split off.
    fn zeroed_around(&self, i: &MemInode, ex: &Extent, first: u32, last: u64) -> (u32, u64) {
        let eof = u64::from(self.block_up(i.disksize)).max(last);
        if ex.end() > eof {
            return (first, last);
        }
        let most = MAX_ZEROOUT >> self.block_bits();
        let allocated = ex.end() - u64::from(first);
        let (mut from, mut to) = (first, last);
        if allocated > last - u64::from(first) {
            if allocated <= most {
                to = ex.end();
            }
            if to - u64::from(ex.lblk.0) < most {
                from = ex.lblk.0;
            }
        }
        (from, to)
    }
}

/// Whether the blocks at one end of the extent simply become the end of a written neighbour.
fn moves_to_neighbour(ex: &Extent, before: Option<&Extent>, after: Option<&Extent>, first: u32, last: u64) -> bool {
    let len = (last - u64::from(first)) as u32;
    if len >= ex.len {
        return false;
    }
    let joins = |a: &Extent, b: &Extent| a.end() == u64::from(b.lblk.0) && a.pblk.0 + u64::from(a.len) == b.pblk.0;
    let fits = |n: &Extent| !n.unwritten && n.len < max_len(false) - len;
    if ex.lblk == Lblk(first) {
        return before.is_some_and(|b| fits(b) && joins(b, ex));
    }
    last == ex.end() && after.is_some_and(|a| fits(a) && joins(ex, a))
}
