//! A filesystem in use: its journal, its allocator, and the files that are in memory. Kernel name: `struct super_block`.
//!
//! All changes go through handles of the journal; what a crash leaves is what the device holds, without the running
//! transaction. Operations take a [`MemInode`] out of the mount ([`Mount::take`]) and put it back, so that a commit in the
//! middle of one can reach all of the others as well.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::event::{Event, Task, Tracer};
use super::folio::{PAGE, Spare};
use super::inode::MemInode;
use super::options::{Commits, DataMode, MountOptions, PathChoice};
use super::space::Space;
use crate::alloc::Filesystem;
use crate::device::BlockDevice;
use crate::env::{FixedClock, Timestamp};
use crate::error::{Error, Result};
use crate::format::inode::InodeFlags;
use crate::journal::{Journal, JournalOptions, direct};
use crate::units::{Fsblk, Ino};
use crate::volume::edit::Edit;
use crate::volume::quota::QuotaChanges;
use crate::volume::store::BlockAlloc as _;
use crate::volume::{MapKind, OpenInode, OpenOptions, Volume};

/// Metadata blocks that must fit the running transaction before an operation starts; else it is committed.
const ROOM: u64 = 128;
/// The same where nobody may commit: what one step surely does not exceed.
const LEAST_ROOM: u64 = 32;

/// A filesystem in use.
#[derive(Debug)]
pub struct Mount {
    pub(crate) journal: Journal,
    pub(crate) fs: Filesystem,
    pub(super) options: MountOptions,
    pub(super) space: Space,
    pub(super) inodes: BTreeMap<Ino, MemInode>,
    /// What quotas have to learn before the next commit.
    pub(super) usage: QuotaChanges,
    /// Below so many changes of metadata the running transaction surely has room.
    roomy: u64,
    /// Memory of folios that went with their file.
    pub(super) spare: Spare,
    /// Files that were changed since they were last written back for the filesystem's sake, in the order in which they were.
    #[doc(alias = "b_dirty")]
    pub(super) dirtied: Vec<Ino>,
    /// While several files are written back: what was submitted, in order, and has to be converted when all of it is.
    pub(super) ended: Option<Vec<(Ino, Range<u32>)>>,
    pub(super) now: Timestamp,
    pub(super) tracer: Tracer,
}

impl Mount {
    /// Mount what is on `device`, which must not need recovery.
    ///
    /// # Errors
    /// Those of [`Journal::open`] and [`Filesystem::open`]; [`Error::InvalidArgument`] for blocks larger than a page.
    pub fn new(device: Arc<dyn BlockDevice>, options: MountOptions, now: Timestamp) -> Result<Self> {
        let volume = Volume::open(device, &OpenOptions::default())?;
        Self::check_pages(&volume)?;
        let with = JournalOptions::new(Arc::new(FixedClock(now)));
        let has_log = volume.superblock().features().compat.contains(crate::format::features::Compat::HAS_JOURNAL);
        let journal = if has_log { Journal::open(&volume, None, with)? } else { direct::open(&volume, with)? };
        drop(volume);
        let mut fs = Filesystem::open(journal.view(), &OpenOptions::default())?;
        fs.alloc.set_in_use();
        Ok(Self::over(journal, fs, options, now))
    }

    /// Over a journal and a filesystem that are in use already. Nothing is looked at.
    pub fn over(journal: Journal, fs: Filesystem, options: MountOptions, now: Timestamp) -> Self {
        let (inodes, dirtied, spare) = (BTreeMap::new(), Vec::new(), Spare::default());
        let space = Self::count(&fs, &options);
        let usage = QuotaChanges::new(&fs.volume);
        Self {
            journal,
            fs,
            options,
            space,
            inodes,
            usage,
            roomy: 0,
            spare,
            dirtied,
            ended: None,
            now,
            tracer: Tracer::OFF,
        }
    }

    fn count(fs: &Filesystem, options: &MountOptions) -> Space {
        let geo = fs.volume.geometry();
        Space::new(geo.blocks_count >> geo.cluster_bits, fs.alloc.counted_clusters(), options.cpus)
    }

    /// The filesystem has been changed beside the mount, in which no file is.
    pub fn recount(&mut self) {
        self.space = Self::count(&self.fs, &self.options);
    }

    /// `Err` where the page cache cannot hold the filesystem's blocks.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`].
    pub fn check_pages(volume: &Volume) -> Result<()> {
        if u64::from(volume.geometry().block_size) > PAGE {
            let value = volume.geometry().block_size.to_string();
            return Err(Error::InvalidArgument {
                name: "block size",
                value,
                allowed: "4096 or less: pages are of 4 KiB",
            });
        }
        Ok(())
    }

    /// Tell what happens to files that come into memory from now on.
    pub fn trace(&mut self, tracer: Tracer) {
        self.tracer = tracer;
    }

    /// The volume, as the running transaction has it.
    pub const fn volume(&self) -> &Volume {
        &self.fs.volume
    }

    /// How it is mounted.
    pub const fn options(&self) -> &MountOptions {
        &self.options
    }

    /// Space that is left.
    pub const fn space(&self) -> &Space {
        &self.space
    }

    /// The journal.
    pub const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// A file in memory.
    pub fn inode(&self, ino: Ino) -> Option<&MemInode> {
        self.inodes.get(&ino)
    }

    /// The files in memory.
    pub fn inodes(&self) -> impl Iterator<Item = &MemInode> {
        self.inodes.values()
    }

    pub(super) fn block_size(&self) -> u64 {
        self.fs.volume.geometry().block_size.into()
    }

    pub(super) fn block_bits(&self) -> u32 {
        self.fs.volume.geometry().block_bits
    }

    /// The first block at or behind byte `pos`.
    pub(super) fn block_up(&self, pos: u64) -> u32 {
        u32::try_from(pos.div_ceil(self.block_size())).unwrap_or(u32::MAX)
    }

    /// The block that holds byte `pos`.
    pub(super) fn block_of(&self, pos: u64) -> u32 {
        u32::try_from(pos >> self.block_bits()).unwrap_or(u32::MAX)
    }

    /// Bring a file into memory.
    #[doc(alias = "ext4_iget")]
    pub fn load(&mut self, ino: Ino) -> Result<()> {
        if !self.inodes.contains_key(&ino) {
            let o = OpenInode { ino, inode: self.fs.volume.inode(ino)? };
            let geo = self.fs.volume.geometry();
            let large = self.options.large_folios && self.options.data != DataMode::Journal;
            let mut i = MemInode::new(o, geo.block_bits, geo.cluster_bits, large);
            i.cache.adopt(std::mem::take(&mut self.spare));
            i.dd.trace(ino, self.tracer.clone());
            i.charged = self.counts_usage().then(|| Box::new(i.o.inode.clone()));
            // What changed it last is not known: the running transaction may have.
            let tid = Some(self.journal.running());
            (i.sync_tid, i.datasync_tid) = (tid, tid);
            self.inodes.insert(ino, i);
        }
        Ok(())
    }

    /// Let go of a file without writing back what is dirty: no page, mapping or reservation of it stays.
    pub fn forget(&mut self, ino: Ino) {
        if let Some(mut i) = self.inodes.remove(&ino) {
            i.dd.remove(0..u32::MAX, &mut self.space);
            self.dirtied.retain(|d| *d != ino);
            self.spare = i.cache.into_spare();
        }
    }

    /// Take a file out for an operation.
    pub(super) fn take(&mut self, ino: Ino) -> Result<MemInode> {
        self.load(ino)?;
        self.inodes.remove(&ino).ok_or(Error::NoSuchInode { ino, max: self.fs.volume.geometry().inodes_count })
    }

    /// Do an operation on a file whose content is all in memory, or on the device.
    pub(super) fn on<T>(&mut self, ino: Ino, f: impl FnOnce(&mut Self, &mut MemInode) -> Result<T>) -> Result<T> {
        self.on_lent(ino, |m, i| {
            Self::own_all(i)?;
            f(m, i)
        })
    }

    /// Do an operation on a file, some of whose content may be lent.
    pub(super) fn on_lent<T>(&mut self, ino: Ino, f: impl FnOnce(&mut Self, &mut MemInode) -> Result<T>) -> Result<T> {
        let mut i = self.take(ino)?;
        let done = self.make_room(Some(&mut i)).and_then(|()| f(self, &mut i));
        if done.is_err() {
            // What failed may have left the inode other than it is stored.
            i.stored = None;
        }
        self.inodes.insert(ino, i);
        done
    }

    /// An operation that changes a file: its times, or the blocks that it has.
    pub(super) fn changing<T>(&mut self, ino: Ino, f: impl FnOnce(&mut Self, &mut MemInode) -> Result<T>) -> Result<T> {
        if !self.inodes.get(&ino).is_some_and(|i| i.fresh) {
            self.will_change(ino);
            return self.on(ino, f);
        }
        let block = self.fs.volume.geometry().block_size;
        let (done, changed) = self.on(ino, |m, i| {
            let before = i.o.inode.allocated_bytes(block);
            let done = f(m, i);
            if done.is_err() {
                i.stored = None;
            }
            Ok((done, i.o.inode.allocated_bytes(block) != before || i.cache.iter().any(|f| f.dirty)))
        })?;
        if changed {
            self.will_change(ino);
        }
        done
    }

    /// A file has just been made, and is open for writing.
    pub fn made(&mut self, ino: Ino) -> Result<()> {
        self.open(ino)?;
        if let Some(i) = self.inodes.get_mut(&ino) {
            i.fresh = true;
        }
        Ok(())
    }

    /// Somebody looks at a file's times: the next change sets them.
    #[doc(alias = "fill_mg_cmtime")]
    pub fn look_at(&mut self, ino: Ino) {
        if let Some(i) = self.inodes.get_mut(&ino) {
            i.fresh = false;
        }
    }

    /// A file is about to be changed.
    pub(super) fn will_change(&mut self, ino: Ino) {
        if !self.dirtied.contains(&ino) {
            self.dirtied.push(ino);
        }
    }

    /// Commit, where the running transaction has little room left.
    pub(super) fn make_room(&mut self, current: Option<&mut MemInode>) -> Result<()> {
        let changes = self.journal.changes();
        if changes < self.roomy {
            return Ok(());
        }
        let least = if self.may_commit() { ROOM } else { LEAST_ROOM };
        let (room, need) = (self.journal.room(), least.min(self.journal.max_blocks() / 2));
        if room >= need {
            // A change takes one block, or makes one less fit by what it revokes.
            self.roomy = changes + (room - need) / 2;
            return Ok(());
        }
        self.commit(current)
    }

    /// Change the filesystem in the running transaction.
    pub(super) fn edit<T>(&mut self, f: impl FnOnce(&mut Edit<'_>) -> Result<T>) -> Result<T> {
        let credits = u32::try_from(self.journal.room()).unwrap_or(u32::MAX);
        let before = self.fs.alloc.counted_clusters();
        let mut handle = self.journal.start(credits)?;
        let done = f(&mut self.fs.edit(&mut handle));
        self.count_changes(before);
        done
    }

    /// Change names and what hangs on them, in the running transaction, with what such changes need beside (`context`).
    ///
    /// # Errors
    /// Those of `f`.
    pub fn with_edit<C, T>(
        &mut self,
        context: &mut C,
        f: impl for<'x> FnOnce(Edit<'x>, &'x mut C) -> Result<T>,
    ) -> Result<T> {
        self.make_room(None)?;
        let credits = u32::try_from(self.journal.room()).unwrap_or(u32::MAX);
        let before = self.fs.alloc.counted_clusters();
        let mut handle = self.journal.start(credits)?;
        let done = f(self.fs.edit(&mut handle), context);
        self.count_changes(before);
        done
    }

    /// Count what was allocated and freed: one by one where blocks go where the kernel puts them, for the counters are approximate by
    /// what they have seen.
    fn count_changes(&mut self, before: u64) {
        if !self.fs.alloc.in_use() {
            let after = self.fs.alloc.counted_clusters();
            return self.space.free.add(after as i64 - before as i64);
        }
        for c in self.fs.alloc.take_changes() {
            self.space.dirty.add(c.claimed);
            self.space.free.add(c.free);
            self.space.dirty.add(-c.claimed);
        }
    }

    /// A process opens a file for writing.
    pub fn open(&mut self, ino: Ino) -> Result<()> {
        self.load(ino)?;
        if let Some(i) = self.inodes.get_mut(&ino) {
            i.open = true;
        }
        Ok(())
    }

    /// Store the inode, with the size that the disk is to show.
    #[doc(alias = "ext4_mark_inode_dirty")]
    pub(super) fn store(&mut self, i: &mut MemInode) -> Result<()> {
        i.o.inode.set_size(i.disksize);
        let tid = self.journal.running();
        i.sync_tid = Some(tid);
        self.edit(|e| e.put(&mut i.o))?;
        i.stored = Some((tid, i.disksize));
        Ok(())
    }

    /// Note a change of the inode that leaves it as it is: it is part of the running transaction.
    #[doc(alias = "file_update_time")]
    pub(super) fn touch(&mut self, i: &mut MemInode) -> Result<()> {
        if i.stored == Some((self.journal.running(), i.disksize)) { Ok(()) } else { self.store(i) }
    }

    /// Store the inode; reading its data back needs the change.
    pub(super) fn store_data(&mut self, i: &mut MemInode) -> Result<()> {
        i.datasync_tid = Some(self.journal.running());
        self.store(i)
    }

    /// Move `i_disksize` up to `size`.
    #[doc(alias = "ext4_update_i_disksize")]
    pub(super) fn grow_disksize(&self, i: &mut MemInode, size: u64) -> bool {
        let grows = size > i.disksize;
        if grows {
            i.disksize = size;
            i.datasync_tid = Some(self.journal.running());
        }
        grows
    }

    /// Whether the file's data goes through the journal.
    #[doc(alias = "ext4_should_journal_data")]
    pub(super) fn journals_data(&self, i: &MemInode) -> bool {
        self.options.data == DataMode::Journal || i.o.has(InodeFlags::JOURNAL_DATA)
    }

    /// Whether new written blocks are to be on the device before a commit maps them.
    #[doc(alias = "ext4_should_order_data")]
    pub(super) fn orders_data(&self, i: &MemInode) -> bool {
        self.options.data == DataMode::Ordered && !self.journals_data(i) && !self.uses_iomap(i).0
    }

    /// Whether writeback allocates unwritten extents.
    #[doc(alias = "ext4_should_dioread_nolock")]
    pub(super) fn allocates_unwritten(&self, i: &MemInode) -> bool {
        self.options.dioread_nolock && self.options.delalloc && self.is_extents(i) && !self.journals_data(i)
    }

    pub(super) fn is_extents(&self, i: &MemInode) -> bool {
        self.fs.volume.map_kind(&i.o.inode) == MapKind::Extents
    }

    /// Whether writes to the file go through iomap, and if not, why.
    pub fn uses_iomap(&self, i: &MemInode) -> (bool, &'static str) {
        let cannot = [
            (i.o.has(InodeFlags::INLINE_DATA), "inline data"),
            (i.o.has(InodeFlags::VERITY), "verity"),
            (i.o.has(InodeFlags::ENCRYPT), "encryption"),
            (self.journals_data(i), "its data goes through the journal"),
            (i.o.has(InodeFlags::EA_INODE), "it holds an attribute's value"),
            (!self.is_extents(i), "it has no extent tree"),
        ];
        if self.options.path != PathChoice::Iomap {
            return (false, "not asked for");
        }
        match cannot.iter().find(|(is, _)| *is) {
            Some((_, why)) => (false, why),
            None => (true, "a regular file with an extent tree"),
        }
    }

    /// Write the content of a block. Where the device fails, content that is not journalled is lost, and nothing else: the
    /// journal goes on.
    pub(super) fn write_block(&mut self, journalled: bool, block: Fsblk, bytes: &[u8]) -> Result<()> {
        if journalled {
            return self.edit(|e| e.store.write(block, bytes.into()));
        }
        if self.journal.is_poisoned() {
            return Err(Error::Poisoned);
        }
        self.journal.content_writer().write(block, bytes)
    }

    /// Read the content of a block.
    pub(super) fn read_block(&self, block: Fsblk, bytes: &mut [u8]) -> Result<()> {
        self.fs.volume.read_blocks(block, bytes)
    }

    /// Whether the path commits by itself.
    pub(super) fn may_commit(&self) -> bool {
        self.options.commits == Commits::Own
    }

    /// Commit the running transaction: ordered data first. `current` is the file that is taken out.
    #[doc(alias = "jbd2_journal_commit_transaction")]
    pub(super) fn commit(&mut self, current: Option<&mut MemInode>) -> Result<()> {
        if !self.may_commit() {
            return Err(Error::TransactionTooLarge { need: LEAST_ROOM, have: self.journal.room() });
        }
        let transaction = self.journal.running().0;
        let task = self.tracer.act_as(Task::Commit);
        self.tracer.emit(Ino(0), || Event::StartCommit { transaction });
        let done = self.commit_running(current);
        self.tracer.emit(Ino(0), || Event::EndCommit { transaction });
        self.tracer.act_as(task);
        done
    }

    fn commit_running(&mut self, current: Option<&mut MemInode>) -> Result<()> {
        let mut current = current;
        if let Some(i) = current.as_deref_mut() {
            self.submit_ordered(i)?;
        }
        let all: Vec<Ino> = self.inodes.values().filter(|i| i.ordered.is_some()).map(|i| i.o.ino).collect();
        for ino in all {
            let mut i = self.take(ino)?;
            let done = self.submit_ordered(&mut i);
            self.inodes.insert(ino, i);
            done?;
        }
        self.charge_all(current)?;
        let credits = u32::try_from(self.journal.room()).unwrap_or(u32::MAX);
        let mut handle = self.journal.start(credits)?;
        self.fs.sync_counts(&mut handle)?;
        self.journal.commit()?;
        self.fs.committed();
        Ok(())
    }

    /// Write what the running transaction exposes of a file and can be written without mapping anything.
    #[doc(alias = "jbd2_submit_inode_data")]
    fn submit_ordered(&mut self, i: &mut MemInode) -> Result<()> {
        match i.ordered.take() {
            Some(range) if i.commit_writes && !i.cache.is_empty() => {
                self.tracer.emit(i.o.ino, || Event::SubmitInodeData);
                self.write_mapped(i, range)
            }
            _ => Ok(()),
        }
    }

    /// Whether an allocation that failed may succeed after a commit, which is made. `tries` counts.
    #[doc(alias = "ext4_should_retry_alloc")]
    pub(super) fn should_retry(&mut self, i: &mut MemInode, tries: &mut u32) -> Result<bool> {
        *tries += 1;
        if *tries > 3 || !self.journal.is_atomic() || !self.may_commit() {
            return Ok(false);
        }
        if self.fs.alloc.pending_clusters() == 0 {
            return Ok(self.space.has(1));
        }
        self.commit(Some(i))?;
        Ok(true)
    }
}

/// Whether an error says that there is no room.
pub(super) fn is_full(e: &Error) -> bool {
    matches!(e.bare(), Error::NoSpace { .. })
}
