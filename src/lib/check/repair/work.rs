//! The hands on the filesystem: a transaction, a volume over its view, and space to work with.
//!
//! [`Work::step`] is one repair: whole in the transaction or not at all.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::bits::Bits;
use super::super::state::{Ctx, note};
use super::RepairOptions;
use crate::device::BlockDevice;
use crate::env::{FixedClock, Timestamp};
use crate::error::{Error, Result};
use crate::format::features::{Compat, Incompat};
use crate::format::superblock::State;
use crate::journal::{Handle, Journal, JournalOptions, direct};
use crate::units::{Fsblk, Group, Ino};
use crate::volume::edit::modify_block;
use crate::volume::store::{AllocRequest, Allocated, BlockAlloc, InodeRequest, MetaStore};
use crate::volume::{Edit, OpenInode, OpenOptions, Volume};

/// Metadata blocks that must be left for another step in the same transaction.
const STEP_CREDITS: u64 = 256;
/// Metadata blocks of one transaction without a journal.
const DIRECT_STEP: u64 = 4096;

/// Free space as the passes found it. Bitmaps on disk are not looked at and not changed: pass 5 compares them later.
pub(super) struct Space {
    used: Bits,
    /// Clusters below this one are in use.
    hint: u64,
    inodes: BTreeSet<Ino>,
    /// What pass 1 knew.
    complete: bool,
}

impl Space {
    fn new(ctx: &Ctx<'_>, complete: bool) -> Result<Self> {
        let clusters = ctx.geo.clusters_count();
        let used = Bits::new(clusters)?;
        for r in ctx.found.runs(0, clusters) {
            used.set_range(r.start, r.end);
        }
        Ok(Self { used, hint: 0, inodes: BTreeSet::new(), complete })
    }

    /// A free run of `len` clusters; shorter ones from `min` on will do where there is none. Looked for from `goal` on.
    fn find(&mut self, clusters: u64, goal: u64, len: u64, min: u64) -> Option<(u64, u64)> {
        let mut best: Option<(u64, u64)> = None;
        for (from, to) in [(goal, clusters), (self.hint, goal.min(clusters))] {
            let mut at = from;
            while at < to {
                let Some(start) = self.used.next_clear(at, to) else { break };
                let end = self.used.next_set(start, to.min(start + len)).unwrap_or_else(|| to.min(start + len));
                let have = end - start;
                if have >= len {
                    return Some((start, len));
                }
                if have >= min && best.is_none_or(|b| have > b.1) {
                    best = Some((start, have));
                }
                at = end.max(start + 1);
            }
        }
        best
    }

    /// Whether an inode was taken here.
    fn has_taken(&self, ino: Ino) -> bool {
        self.inodes.contains(&ino)
    }
}

/// What a step works with.
pub(super) struct Spare<'s, 'c> {
    pub(super) ctx: &'s Ctx<'c>,
    space: &'s mut Space,
}

impl BlockAlloc for Spare<'_, '_> {
    fn allocate(&mut self, vol: &mut Volume, _: &mut dyn MetaStore, request: AllocRequest) -> Result<Allocated> {
        let geo = vol.geometry();
        let ratio = u64::from(geo.cluster_ratio);
        let want = u64::from(request.len.max(1)).div_ceil(ratio);
        let min = u64::from(request.min_len.max(1)).div_ceil(ratio);
        let goal = self.ctx.cluster_bit(request.goal);
        let none = || Error::NoSpace { what: "blocks", need: request.len.into(), have: 0 };
        if !self.space.complete {
            return Err(none());
        }
        let (at, got) = self.space.find(geo.clusters_count(), goal, want, min).ok_or_else(none)?;
        self.space.used.set_range(at, at + got);
        let start = self.ctx.bit_block(at);
        let blocks = (got * ratio).min(geo.blocks_count - start.0).min(request.len.into());
        Ok(Allocated { start, len: blocks as u32 })
    }

    fn free(
        &mut self,
        _: &mut Volume,
        store: &mut dyn MetaStore,
        start: Fsblk,
        len: u32,
        metadata: bool,
    ) -> Result<()> {
        if metadata {
            for n in 0..u64::from(len) {
                store.forget(Fsblk(start.0 + n))?;
            }
        }
        Ok(())
    }

    fn allocate_inode(&mut self, vol: &mut Volume, store: &mut dyn MetaStore, _: InodeRequest) -> Result<Ino> {
        let geo = vol.geometry();
        let free =
            |ino: Ino| ino.0 >= geo.first_ino && self.ctx.note(ino) & note::USED == 0 && !self.space.has_taken(ino);
        let mut unused = None;
        for group in geo.all_groups() {
            let scanned = self.ctx.inodes_to_scan(group);
            let first = geo.group_first_ino(group).0;
            if let Some(ino) = (0..scanned).map(|i| Ino(first + i)).find(|i| free(*i)) {
                self.space.inodes.insert(ino);
                return Ok(ino);
            }
            if scanned < geo.inodes_per_group && unused.is_none() {
                unused = (scanned..geo.inodes_per_group).map(|i| Ino(first + i)).find(|i| free(*i)).map(|i| (group, i));
            }
        }
        // Beyond what any table has in use: the table grows by one.
        let (group, ino) = unused.ok_or(Error::NoSpace { what: "inodes", need: 1, have: 0 })?;
        self.space.inodes.insert(ino);
        let first = geo.group_first_ino(group).0;
        let left = geo.inodes_per_group - (ino.0 - first + 1);
        show_inodes(vol, store, group, left)?;
        Ok(ino)
    }

    fn free_inode(&mut self, _: &mut Volume, _: &mut dyn MetaStore, _: Ino, _: bool) -> Result<()> {
        Ok(())
    }

    fn free_clusters(&self, _: &Volume, _: Group) -> u32 {
        0
    }
}

/// Count fewer inodes at the end of a group's table as never used; those that now count are cleared.
pub(super) fn show_inodes(vol: &mut Volume, store: &mut dyn MetaStore, group: Group, unused: u32) -> Result<()> {
    use crate::format::group_desc::BgFlags;
    let geo = vol.geometry().clone();
    let mut desc = vol.group(group)?;
    let before = if vol.is_inode_uninit(&desc) { geo.inodes_per_group } else { desc.itable_unused() };
    let before = before.min(geo.inodes_per_group);
    if !desc.bg_flags().contains(BgFlags::INODE_ZEROED) {
        let size = usize::from(geo.inode_size);
        for i in geo.inodes_per_group - before..geo.inodes_per_group - unused.min(before) {
            let ino = Ino(geo.group_first_ino(group).0 + i);
            let (offset, block) = vol.inode_offset(ino)?;
            let at = (offset - geo.byte_of(block)) as usize;
            modify_block(store, block, |b| {
                if let Some(slot) = b.get_mut(at..at + size) {
                    slot.fill(0);
                }
            })?;
        }
    }
    desc.set_bg_flags(desc.bg_flags() - BgFlags::INODE_UNINIT);
    desc.set_itable_unused(unused);
    vol.store_group(store, group, &desc)
}

/// Repairs in transactions.
pub(super) struct Work<'w, 'c> {
    pub(super) ctx: &'w Ctx<'c>,
    pub(super) now: Timestamp,
    journal: Journal,
    vol: Volume,
    space: Space,
}

impl<'w, 'c> Work<'w, 'c> {
    /// Begin. `sound`: the journal may be used; `scanned`: pass 1 knows what is free.
    pub(super) fn new(
        dev: &Arc<dyn BlockDevice>,
        options: &RepairOptions,
        ctx: &'w Ctx<'c>,
        sound: bool,
        scanned: bool,
    ) -> Result<Self> {
        let now = options.check.now;
        let write = || JournalOptions::new(Arc::new(FixedClock(now)));
        let vol = Volume::open(Arc::clone(dev), &OpenOptions::as_it_is())?;
        let f = vol.geometry().features;
        let logged = sound
            && f.compat.contains(Compat::HAS_JOURNAL)
            && !f.incompat.intersects(Incompat::JOURNAL_DEV | Incompat::RECOVER);
        let journal = match logged.then(|| Journal::open(&vol, options.check.journal_device.clone(), write())) {
            Some(Ok(journal)) => journal,
            _ => direct::open_regardless(&vol, write())?,
        };
        let vol = Volume::open(journal.view(), &OpenOptions::as_it_is())?;
        Ok(Self { ctx, now, journal, vol, space: Space::new(ctx, scanned)? })
    }

    /// The volume as it is with what was done so far.
    pub(super) const fn vol(&self) -> &Volume {
        &self.vol
    }

    /// Whether a kill leaves all of what a transaction changes, or nothing.
    pub(super) const fn is_atomic(&self) -> bool {
        self.journal.is_atomic()
    }

    /// One repair. `Ok(None)` where it was not possible.
    pub(super) fn step<T>(&mut self, f: impl FnOnce(&mut Edit<'_>) -> Result<T>) -> Result<Option<T>> {
        let most = if self.journal.is_atomic() { self.journal.max_blocks() } else { u64::MAX };
        let (pending, _) = self.journal.pending();
        let full = self.journal.room() < STEP_CREDITS.min(most) || (!self.journal.is_atomic() && pending > DIRECT_STEP);
        if full {
            self.journal.commit()?;
        }
        let before = self.journal.save();
        let credits = u32::try_from(self.journal.room()).unwrap_or(u32::MAX);
        let mut handle: Handle<'_> = self.journal.start(credits)?;
        let mut spare = Spare { ctx: self.ctx, space: &mut self.space };
        let done = f(&mut Edit { vol: &mut self.vol, store: &mut handle, alloc: &mut spare });
        match done {
            Ok(t) => Ok(Some(t)),
            Err(e) if is_passable(&e) => {
                self.journal.restore(before);
                self.vol = Volume::open(self.journal.view(), &OpenOptions::as_it_is())?;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Everything to the device.
    ///
    /// Until the check is over the filesystem does not count as valid.
    pub(super) fn finish(mut self) -> Result<()> {
        if self.vol.superblock().state_flags().contains(State::VALID) {
            self.step(|edit| {
                edit.vol.store_superblock(edit.store, |sb| sb.state = (sb.state_flags() - State::VALID).bits().into())
            })?;
        }
        self.journal.close()
    }
}

/// An inode with whatever checksum it has.
pub(super) fn raw(vol: &Volume, ino: Ino) -> Result<OpenInode> {
    Ok(OpenInode { ino, inode: vol.raw_inode(ino)? })
}

/// Whether an error ends one repair only.
pub(super) fn is_passable(e: &Error) -> bool {
    e.is_corruption()
        || matches!(
            e,
            Error::NoSpace { .. }
                | Error::Unsupported { .. }
                | Error::InvalidArgument { .. }
                | Error::NoSuchInode { .. }
                | Error::NotFound { .. }
                | Error::NotDirectory { .. }
                | Error::Exists { .. }
        )
}
