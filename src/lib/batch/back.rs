//! Taking changes back, also those that were committed: what they replaced is kept in memory, and is written again as a change
//! like any other, in the running transaction.
//!
//! Blocks that were in use before the change go through the transaction. What blocks held that were free then matters to
//! changes before it only; it is written behind the commit, where the last commit still shows them in use, else at once.
//! What a commit frees stays out of reach until the next one, as ever.
//!
//! A change is taken back only where its blocks are as it left them, and the superblock on the device as this session did.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::session::Session;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::{bitmap, superblock};
use crate::journal::{Before, Handle, LogArea, OldContent};
use crate::units::{Fsblk, Group};
use crate::volume::store::MetaStore;
use crate::volume::{OpenOptions, Volume};

/// Bytes of content that one change may keep.
const ROOM: usize = 64 << 20;

/// A change that can be taken back.
#[derive(Clone, Debug)]
pub struct Change {
    before: Before,
    /// CRC-32C of each of its blocks, as it left them.
    after: BTreeMap<Fsblk, u32>,
}

impl Change {
    /// Bytes of memory that it takes.
    pub fn size(&self) -> usize {
        self.before.size()
    }

    /// Blocks of metadata that it changed.
    pub fn blocks(&self) -> usize {
        self.before.blocks.len()
    }

    /// Whether it wrote over content that was not kept: changes before it cannot be taken back.
    pub fn ends_history(&self) -> bool {
        self.before.has_lost()
    }

    /// What differs in `ranges` of bytes between `old` and `new`, which are both clean; blocks of the journal aside. `None` where it is
    /// too much to be kept.
    ///
    /// # Errors
    /// Reading failed.
    pub fn between(old: &Volume, new: &Volume, ranges: &[Range<u64>]) -> Result<Option<Self>> {
        let size = u64::from(new.geometry().block_size);
        let used = InUse::read(old, old.geometry().all_groups())?;
        let log = LogArea::locate(new, None).ok();
        let mut change = Self { before: Before::default(), after: BTreeMap::new() };
        for range in ranges {
            for block in (range.start / size..range.end.div_ceil(size)).map(Fsblk) {
                if !new.geometry().has_block(block) || log.as_ref().is_some_and(|l| l.holds(block)) {
                    continue;
                }
                let (was, now) = (old.block(block)?, new.block(block)?);
                if was == now {
                    continue;
                }
                change.after.insert(block, crc32c::crc32c(&now));
                let was: Arc<[u8]> = was.into_owned().into();
                if used.has(old, block) {
                    change.before.blocks.insert(block, was);
                } else {
                    change.before.content.push((block, 1, OldContent::Bytes(was)));
                }
                if change.size() > ROOM {
                    return Ok(None);
                }
            }
        }
        Ok(Some(change))
    }

    /// Make this one and the one after it one.
    pub fn absorb(&mut self, newer: Self) {
        self.before.absorb(newer.before);
        self.after.extend(newer.after);
    }
}

/// Content to be written behind the next commit, in order.
pub(super) type Rest = Vec<(Fsblk, Arc<[u8]>)>;

/// Which blocks are in use in a state of the filesystem.
struct InUse {
    /// Bitmaps of the groups that were asked for.
    maps: BTreeMap<Group, Vec<u8>>,
    first: Fsblk,
}

impl InUse {
    fn read(volume: &Volume, groups: impl Iterator<Item = Group>) -> Result<Self> {
        let mut maps = BTreeMap::new();
        for group in groups {
            if let std::collections::btree_map::Entry::Vacant(slot) = maps.entry(group) {
                slot.insert(volume.block_bitmap(group)?.into_owned());
            }
        }
        Ok(Self { maps, first: volume.geometry().group_start(Group(0)) })
    }

    /// Whether a block is; what lies before the first group is.
    fn has(&self, volume: &Volume, block: Fsblk) -> bool {
        if block < self.first {
            return true;
        }
        let (group, bit) = volume.geometry().cluster_bit_of(block);
        self.maps.get(&group).is_none_or(|map| bitmap::test(map, bit as usize))
    }
}

impl Session {
    /// From now on keep what changes replace, up to [`Session::take_change`].
    pub fn watch(&mut self) {
        self.mount.journal.watch(ROOM);
    }

    /// What was changed since [`Session::watch`]. `None` where nothing was, or nothing is kept. What a commit does by itself is part of
    /// it where [`Session::prepare`] was called before. Content that waited is not, see [`Session::take_late`].
    ///
    /// # Errors
    /// Reading failed.
    pub fn take_change(&mut self) -> Result<Option<Change>> {
        let Some(before) = self.mount.journal.take_before() else { return Ok(None) };
        if before.blocks.is_empty() && before.content.is_empty() {
            return Ok(None);
        }
        let mut after = BTreeMap::new();
        for block in before.blocks.keys().filter(|b| self.mount.journal.has_changed(**b)) {
            after.insert(*block, crc32c::crc32c(&self.mount.journal.block(*block)?));
        }
        self.note_front()?;
        Ok(Some(Change { before, after }))
    }

    /// What [`Session::write_contents`] replaced since the last call, where changes are watched: a part of the changes that the content
    /// is of.
    pub const fn take_late(&mut self) -> Option<Change> {
        self.late.take()
    }

    /// What was replaced since [`Session::watch`] was by content that waited.
    pub(super) fn keep_late(&mut self) {
        let Some(before) = self.mount.journal.take_before().filter(|b| !b.content.is_empty()) else { return };
        let late = self.late.get_or_insert_with(|| Change { before: Before::default(), after: BTreeMap::new() });
        late.before.absorb(before);
    }

    /// CRC-32C of the superblock on the device.
    fn front(&self) -> Result<u32> {
        let mut bytes = [0; superblock::SIZE];
        self.device().read_at(superblock::OFFSET, &mut bytes)?;
        Ok(crc32c::crc32c(&bytes))
    }

    /// The superblock on the device is ours.
    pub(super) fn note_front(&mut self) -> Result<()> {
        self.front = Some(self.front()?);
        Ok(())
    }

    /// `Err` where somebody else changed the image after `change`.
    fn check_ours(&self, change: &Change) -> Result<()> {
        let geo = self.volume().geometry();
        if self.front.is_some_and(|f| self.front().is_ok_and(|now| now != f)) {
            let block = Fsblk(superblock::OFFSET / u64::from(geo.block_size));
            return Err(Error::ChangedElsewhere { block });
        }
        for (block, crc) in &change.after {
            if crc32c::crc32c(&self.mount.journal.block(*block)?) != *crc {
                return Err(Error::ChangedElsewhere { block: *block });
            }
        }
        Ok(())
    }

    /// Take a change back, in the running transaction. All that came after it must have been taken back before.
    ///
    /// # Errors
    /// [`Error::ChangedElsewhere`], before anything happens; [`Error::TransactionTooLarge`]: then, and where reading fails,
    /// [`Session::discard`] what is running.
    pub fn take_back(&mut self, change: &Change) -> Result<()> {
        self.check_ours(change)?;
        let groups = self.groups_of(change)?;
        // What the last commit shows.
        let running = self.mount.journal.save();
        self.mount.journal.discard();
        let durable = Volume::open(self.mount.journal.view(), &OpenOptions::default())
            .and_then(|v| InUse::read(&v, groups.iter().copied()));
        self.mount.journal.restore(running);
        let durable = durable?;
        {
            let mut handle = self.mount.journal.start(0)?;
            for (block, bytes) in &change.before.blocks {
                put(&mut handle, *block, Arc::clone(bytes))?;
            }
        }
        let old = Volume::open(self.mount.journal.view(), &OpenOptions::default())?;
        let used = InUse::read(&old, groups.iter().copied())?;
        self.put_old_content(change, &old, &used, &durable)?;
        self.look_again()?;
        for (group, map) in &durable.maps {
            let Some(now) = used.maps.get(group) else { continue };
            for (at, len) in freed(map, now, old.geometry().clusters_in_group(*group)) {
                self.mount.fs.alloc.hold(*group, at, len);
            }
        }
        self.note_front()
    }

    /// Blocks that were free before the change are dropped from the transaction, and all content is put where it was.
    fn put_old_content(&mut self, change: &Change, old: &Volume, used: &InUse, durable: &InUse) -> Result<()> {
        let mut content: Rest = std::mem::take(&mut self.rest);
        let block_size = old.geometry().block_size as usize;
        for (first, count, was) in change.before.content.iter().rev() {
            for n in 0..u64::from(*count) {
                let block = first.saturating_add(n);
                let bytes: Arc<[u8]> = match was {
                    OldContent::Zeros => vec![0; block_size].into(),
                    OldContent::Bytes(all) => {
                        let at = n as usize * block_size;
                        all.get(at..at + block_size).unwrap_or_default().into()
                    }
                    OldContent::Lost if used.has(old, block) => return Err(lost(block_size)),
                    OldContent::Lost => continue,
                };
                content.push((block, bytes));
            }
        }
        // What went through the transaction was perhaps never on the device: then its content is kept with it alone.
        content.retain(|(block, _)| !change.before.blocks.contains_key(block));
        let freed = change.before.blocks.iter().filter(|(b, _)| !used.has(old, **b));
        let freed: Rest = freed.map(|(b, bytes)| (*b, Arc::clone(bytes))).collect();
        for (block, _) in &freed {
            self.mount.journal.start(0)?.forget(*block)?;
        }
        for (block, bytes) in content.into_iter().chain(freed) {
            match (used.has(old, block), durable.has(old, block)) {
                // Through the transaction, which alone may change what is durable.
                (true, true) => put(&mut self.mount.journal.start(0)?, block, bytes)?,
                (false, true) => {
                    self.mount.journal.start(0)?.forget_content(block, 1)?;
                    self.rest.push((block, bytes));
                }
                (_, false) => self.mount.journal.content_writer().write(block, &bytes)?,
            }
        }
        Ok(())
    }

    /// Groups whose bitmaps a change, or the running transaction, has changed, or whose blocks it wrote to.
    fn groups_of(&self, change: &Change) -> Result<Vec<Group>> {
        let geo = self.volume().geometry();
        let running = self.mount.journal.changed_blocks();
        let content = change.before.content.iter().map(|(b, n, _)| *b..b.saturating_add(u64::from(*n)));
        let rest = self.rest.iter().map(|(b, _)| *b..b.saturating_add(1));
        let blocks = change.before.blocks.keys().map(|b| *b..b.saturating_add(1));
        let in_range = |r: Range<Fsblk>| {
            let first = r.start.max(geo.group_start(Group(0)));
            let (from, to) = (geo.group_of(first).0, geo.group_of(Fsblk(r.end.0.saturating_sub(1).max(first.0))).0);
            from.0..=to.0
        };
        let mut groups: std::collections::BTreeSet<u32> =
            content.chain(rest).chain(blocks).flat_map(in_range).collect();
        for group in geo.all_groups() {
            let bitmap = self.volume().group(group)?.block_bitmap();
            if running.contains(&bitmap) || change.before.blocks.contains_key(&bitmap) {
                groups.insert(group.0);
            }
        }
        Ok(groups.into_iter().map(Group).collect())
    }

    /// After a commit: content that had to wait for it.
    pub(super) fn write_rest(&mut self) -> Result<()> {
        let writer = self.mount.journal.content_writer();
        std::mem::take(&mut self.rest).iter().try_for_each(|(block, bytes)| writer.write(*block, bytes))
    }
}

fn lost(block_size: usize) -> Error {
    Error::NoSpace { what: "bytes of memory for what was overwritten", need: block_size as u64, have: 0 }
}

/// Store a block through the transaction, with a credit where it takes one.
fn put(handle: &mut Handle<'_>, block: Fsblk, bytes: Arc<[u8]>) -> Result<()> {
    if handle.credits() == 0 {
        // Where there is no room for more, a block that is in the transaction already needs none.
        handle.extend(1)?;
    }
    match handle.write(block, bytes) {
        Err(Error::NoSpace { what: "credits", .. }) => {
            let need = handle.blocks_with(1);
            Err(Error::TransactionTooLarge { need, have: need.saturating_sub(1) })
        }
        other => other,
    }
}

/// Runs of bits that are set in `before` and not in `now`.
fn freed(before: &[u8], now: &[u8], bits: u32) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for bit in 0..bits {
        if !bitmap::test(before, bit as usize) || bitmap::test(now, bit as usize) {
            continue;
        }
        match runs.last_mut() {
            Some((at, len)) if *at + *len == bit => *len += 1,
            _ => runs.push((bit, 1)),
        }
    }
    runs
}
