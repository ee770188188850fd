//! Ranges allocated, punched out, zeroed, taken out and put in. Kernel name: `ext4_fallocate`. Offsets and lengths in bytes.
//!
//! Allocation over delayed blocks makes them unwritten at once; their pages stay dirty. Punching and zeroing first move
//! `i_disksize` to the end of the range (not beyond the end of the file), whether the data below it is written or not.

use std::ops::Range;

use super::event::Event;
use super::folio::PAGE;
use super::inode::MemInode;
use super::map::Create;
use super::mount::{Mount, is_full};
use crate::error::{Error, Result};
use crate::units::{Ino, Lblk};
use crate::volume::edit::Edit;
use crate::volume::extent_plan::max_len;

impl Mount {
    /// Allocate `[pos, pos + len)` unwritten; the size follows unless `keep` says that it stays.
    ///
    /// # Errors
    /// [`Error::NoSpace`]: what was allocated stays, and the size has moved that far; [`Error::InvalidArgument`] for files
    /// without an extent tree and empty ranges.
    #[doc(alias = "ext4_do_fallocate")]
    pub fn fallocate(&mut self, ino: Ino, pos: u64, len: u64, keep: bool) -> Result<()> {
        self.changing(ino, |m, i| {
            let range = m.begin_range(i, pos, len, Event::Fallocate { offset: pos, len, keep_size: keep })?;
            let size = (!keep && (range.end > i.size || range.end > i.disksize)).then_some(range.end);
            let (first, end) = (m.block_of(range.start), m.block_up(range.end));
            m.allocate_blocks(i, first, end, size, Create { unwritten: true, ..Create::default() })
        })
    }

    /// Make a hole of `[pos, pos + len)`; edges inside blocks become zeros. The size stays.
    ///
    /// # Errors
    /// As [`Mount::fallocate`].
    #[doc(alias = "ext4_punch_hole")]
    pub fn punch(&mut self, ino: Ino, pos: u64, len: u64) -> Result<()> {
        self.changing(ino, |m, i| {
            let mut range = m.begin_range(i, pos, len, Event::PunchHole { offset: pos, len })?;
            if range.start >= i.size {
                return Ok(());
            }
            if range.end > i.size {
                range.end = i.size.next_multiple_of(PAGE);
            }
            m.grow_before_punch(i, &range)?;
            m.drop_pages(i, &range)?;
            m.zero_partial(i, range.clone())?;
            let (start, end) = (m.block_up(range.start), m.block_of(range.end));
            if end > start {
                m.remove_space(i, start, end.into())?;
                m.note_hole(i, start, end);
            }
            m.store_data(i)
        })
    }

    /// Make `[pos, pos + len)` read as zeros, with whole blocks unwritten and all of it allocated.
    ///
    /// # Errors
    /// As [`Mount::fallocate`].
    #[doc(alias = "ext4_zero_range")]
    pub fn zero_range(&mut self, ino: Ino, pos: u64, len: u64, keep: bool) -> Result<()> {
        self.changing(ino, |m, i| {
            let range = m.begin_range(i, pos, len, Event::ZeroRange { offset: pos, len, keep_size: keep })?;
            let block = m.block_size();
            let size = (!keep && (range.end > i.size || range.end > i.disksize)).then_some(range.end);
            let how = Create { unwritten: true, ..Create::default() };
            let aligned = range.start.is_multiple_of(block) && range.end.is_multiple_of(block);
            if !aligned {
                let (first, end) = (m.block_of(range.start), m.block_up(range.end));
                m.allocate_blocks(i, first, end, size, how)?;
            }
            m.grow_before_punch(i, &range)?;
            m.drop_pages(i, &range)?;
            let (start, end) = (m.block_up(range.start), m.block_of(range.end));
            if end > start {
                i.no_cache = true;
                let done = m.allocate_blocks(i, start, end, size, Create { reset: true, ..how });
                i.no_cache = false;
                done?;
            }
            if !aligned {
                m.zero_partial(i, range)?;
                if let Some(size) = size {
                    i.size = i.size.max(size);
                    m.grow_disksize(i, size);
                }
                m.store_data(i)?;
            }
            Ok(())
        })
    }

    /// Take `[pos, pos + len)` out of the file; what follows moves down.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a range that is not of whole clusters, or reaches the end of the file.
    #[doc(alias = "ext4_collapse_range")]
    pub fn collapse(&mut self, ino: Ino, pos: u64, len: u64) -> Result<()> {
        self.changing(ino, |m, i| {
            let range = m.begin_range(i, pos, len, Event::CollapseRange { offset: pos, len })?;
            m.check_shift(&range, range.end < i.size)?;
            let from = range.start & !(PAGE - 1);
            // The folio that holds the first byte goes as a whole.
            m.write_back_range(i, from..range.start + 1)?;
            m.write_back_range(i, range.end..u64::MAX)?;
            i.cache.truncate(from, u64::MAX, i.size);
            let (start, end) = (m.block_of(range.start), m.block_of(range.end));
            i.dd.remove(start..u32::MAX, &mut m.space);
            m.remove_space(i, start, end.into())?;
            m.shift(i, end, false, end - start)?;
            i.size -= len;
            i.disksize = i.size;
            m.store_data(i)
        })
    }

    /// Put a hole of `len` bytes in at `pos`; what follows moves up.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a range that is not of whole clusters, or begins at or behind the end of the file.
    #[doc(alias = "ext4_insert_range")]
    pub fn insert(&mut self, ino: Ino, pos: u64, len: u64) -> Result<()> {
        self.changing(ino, |m, i| {
            let range = m.begin_range(i, pos, len, Event::InsertRange { offset: pos, len })?;
            m.check_shift(&range, range.start < i.size)?;
            let from = range.start & !(PAGE - 1);
            m.write_back_range(i, from..u64::MAX)?;
            i.cache.truncate(from, u64::MAX, i.size);
            i.size += len;
            i.disksize += len;
            let (start, more) = (m.block_of(range.start), m.block_of(len));
            m.learn_leaf(i, start)?;
            i.dd.remove(start..u32::MAX, &mut m.space);
            m.fs.alloc.release_file(&m.fs.volume, i.o.ino)?;
            m.shift(i, start, true, more)?;
            m.store_data(i)
        })
    }

    /// What all of these begin with: the change is noted in the inode, the range is a range.
    fn begin_range(&mut self, i: &mut MemInode, pos: u64, len: u64, what: Event) -> Result<Range<u64>> {
        let bits = self.block_bits();
        let end = pos.checked_add(len).filter(|e| len > 0 && *e >> bits < u64::from(u32::MAX));
        let end = end.ok_or_else(|| invalid("range", len, "not empty, within the largest file"))?;
        self.leave_inline(i)?;
        if !self.is_extents(i) {
            return Err(invalid("file", i.o.ino.0.into(), "one with an extent tree"));
        }
        self.tracer.emit(i.o.ino, || what);
        self.store(i)?;
        Ok(pos..end)
    }

    fn check_shift(&self, range: &Range<u64>, inside: bool) -> Result<()> {
        let cluster = self.block_size() * u64::from(self.fs.volume.geometry().cluster_ratio);
        if !inside || !range.start.is_multiple_of(cluster) || !range.end.is_multiple_of(cluster) {
            return Err(invalid("range", range.start, "whole clusters inside the file"));
        }
        Ok(())
    }

    /// Map all of `[first, end)` as `how` says, moving the size towards `size` as it goes.
    #[doc(alias = "ext4_alloc_file_blocks")]
    fn allocate_blocks(
        &mut self,
        i: &mut MemInode,
        first: u32,
        end: u32,
        size: Option<u64>,
        how: Create,
    ) -> Result<()> {
        let (old, bits) = (i.size, self.block_bits());
        // What fits one extent is asked for as it is.
        let how = Create { exact: end.saturating_sub(first) <= max_len(true), ..how };
        let (mut at, mut tries) = (first, 0);
        while at < end {
            self.make_room(Some(i))?;
            match self.map_create(i, at, end - at, how) {
                Ok(m) => {
                    at = m.e.end();
                    tries = 0;
                }
                Err(e) if is_full(&e) => {
                    if self.should_retry(i, &mut tries)? {
                        continue;
                    }
                    return Err(e);
                }
                Err(e) => return Err(e),
            }
            if let Some(size) = size {
                let to = (u64::from(at) << bits).min(size);
                i.size = i.size.max(to);
                self.grow_disksize(i, to);
                if to > old {
                    self.extended(i, old, to);
                    self.zero_partial(i, old..to)?;
                }
            }
            self.store_data(i)?;
        }
        Ok(())
    }

    /// Before blocks below the end go: the size on disk covers the range.
    #[doc(alias = "ext4_update_disksize_before_punch")]
    fn grow_before_punch(&mut self, i: &mut MemInode, range: &Range<u64>) -> Result<()> {
        if range.start <= i.size && self.grow_disksize(i, range.end.min(i.size)) {
            self.store(i)?;
        }
        Ok(())
    }

    /// Drop the pages of a range that is about to change underneath.
    #[doc(alias = "ext4_truncate_page_cache_block_range")]
    fn drop_pages(&mut self, i: &mut MemInode, range: &Range<u64>) -> Result<()> {
        if self.journals_data(i) {
            self.write_back_range(i, range.clone())?;
        }
        i.cache.truncate(range.start, range.end, i.size);
        Ok(())
    }

    pub(super) fn write_back_range(&mut self, i: &mut MemInode, range: Range<u64>) -> Result<()> {
        if range.is_empty() { Ok(()) } else { self.path_of(i).write_back(self, i, range) }
    }

    pub(super) fn note_hole(&self, i: &mut MemInode, start: u32, end: u32) {
        let _ = self;
        let status = super::extent_status::EsStatus::Hole;
        let hole =
            super::extent_status::EsEntry { lblk: Lblk(start), len: end - start, status, pblk: crate::units::Fsblk(0) };
        i.dd.cache(hole);
    }

    /// Move all extents from `first` on.
    #[doc(alias = "ext4_ext_shift_extents")]
    fn shift(&mut self, i: &mut MemInode, first: u32, up: bool, by: u32) -> Result<()> {
        i.o.inode.set_size(i.disksize);
        self.edit(|e: &mut Edit<'_>| {
            e.shift_extents(&mut i.o, Lblk(first), up, by)?;
            e.put(&mut i.o)
        })?;
        self.pass_leaves(i, first.saturating_sub(by + 1), 1 << 32)
    }
}

fn invalid(name: &'static str, value: u64, allowed: &'static str) -> Error {
    Error::InvalidArgument { name, value: value.to_string(), allowed }
}
