//! What the write path does, event by event, as the kernel's tracepoints show it (`ext4_es_insert_extent`,
//! `ext4_da_reserve_space`, ...). Blocks are logical blocks, clusters where the kernel's "blocks" of a reservation are.
//!
//! A [`Tracer`] is where events go. One that is off holds nothing: an event costs one comparison and is not made.

use std::sync::{Arc, Mutex, PoisonError};

use super::extent_status::EsEntry;
use crate::units::{Fsblk, Ino};

/// On whose behalf something happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// The process that asked for the operation.
    #[default]
    Caller,
    /// The end of I/O: the kernel's worker.
    EndIo,
    /// The commit of a transaction: the kernel's `jbd2` thread.
    Commit,
}

/// An event. Names are those of the kernel's tracepoints.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are the tracepoints' own")]
pub enum Event {
    /// Blocks are known to be something.
    #[doc(alias = "ext4_es_insert_extent")]
    EsInsert(EsEntry),
    /// Blocks were seen in passing.
    #[doc(alias = "ext4_es_cache_extent")]
    EsCache(EsEntry),
    /// Blocks become delayed; whether the first and the last cluster are allocated already.
    #[doc(alias = "ext4_es_insert_delayed_extent")]
    EsInsertDelayed { lblk: u32, len: u32, lclu_allocated: bool, end_allocated: bool },
    /// Blocks are forgotten.
    #[doc(alias = "ext4_es_remove_extent")]
    EsRemove { lblk: u32, len: u32 },
    /// Clusters were reserved; `reserved` is the count after it.
    #[doc(alias = "ext4_da_reserve_space")]
    DaReserve { clusters: u32, reserved: u32 },
    /// Reservations are settled by an allocation; `reserved` is the count before it.
    #[doc(alias = "ext4_da_update_reserve_space")]
    DaUpdate { clusters: u32, reserved: u32, quota_claim: bool },
    /// Reservations are given back; `reserved` is the count before it.
    #[doc(alias = "ext4_da_release_space")]
    DaRelease { clusters: u32, reserved: u32 },
    /// Writeback is about to map blocks.
    #[doc(alias = "ext4_da_write_pages_extent")]
    DaWritePagesExtent { lblk: u32, len: u32, delayed: bool, unwritten: bool },
    /// Blocks were allocated.
    #[doc(alias = "ext4_allocate_blocks")]
    AllocateBlocks { lblk: u32, len: u32, pblk: Fsblk },
    /// A range is about to be freed; `end` is its last block.
    #[doc(alias = "ext4_ext_remove_space")]
    RemoveSpace { start: u32, end: u32, depth: u16 },
    /// A range of bytes is written back; `end` is its last byte.
    #[doc(alias = "ext4_writepages")]
    WritePages { start: u64, end: u64 },
    /// `fsync` and `fdatasync`.
    #[doc(alias = "ext4_sync_file_enter")]
    SyncFile { datasync: bool },
    /// Bytes are allocated.
    #[doc(alias = "ext4_fallocate_enter")]
    Fallocate { offset: u64, len: u64, keep_size: bool },
    /// Bytes are punched out.
    #[doc(alias = "ext4_punch_hole")]
    PunchHole { offset: u64, len: u64 },
    /// Bytes are zeroed.
    #[doc(alias = "ext4_zero_range")]
    ZeroRange { offset: u64, len: u64, keep_size: bool },
    /// Bytes are taken out.
    #[doc(alias = "ext4_collapse_range")]
    CollapseRange { offset: u64, len: u64 },
    /// A hole is put in.
    #[doc(alias = "ext4_insert_range")]
    InsertRange { offset: u64, len: u64 },
    /// What lies behind the end is freed; `sectors` are the file's 512-byte units.
    #[doc(alias = "ext4_truncate_enter")]
    Truncate { sectors: u64 },
    /// What is reserved goes to the device at once.
    #[doc(alias = "ext4_alloc_da_blocks")]
    AllocDaBlocks { reserved: u32 },
    /// A file without a name goes.
    #[doc(alias = "ext4_evict_inode")]
    EvictInode { nlink: u32 },
    /// A handle was used, for at most so many metadata blocks.
    #[doc(alias = "ext4_journal_start_inode")]
    JournalStart { caller: &'static str, blocks: u32 },
    /// A commit begins.
    #[doc(alias = "jbd2_start_commit")]
    StartCommit { transaction: u32 },
    /// Data goes before the commit that shows it.
    #[doc(alias = "jbd2_submit_inode_data")]
    SubmitInodeData,
    /// A commit has ended.
    #[doc(alias = "jbd2_end_commit")]
    EndCommit { transaction: u32 },
}

/// An event, whose it is, and on whose behalf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// On whose behalf.
    pub task: Task,
    /// The file; inode 0 for the filesystem.
    pub ino: Ino,
    /// What.
    pub event: Event,
}

#[derive(Debug, Default)]
struct Log {
    task: Task,
    all: Vec<Traced>,
}

/// Where events go; clones go to the same place.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Mutex<Log>>>);

impl Tracer {
    /// One that takes nothing.
    pub const OFF: Self = Self(None);

    /// One that keeps events until they are taken.
    pub fn on() -> Self {
        Self(Some(Arc::default()))
    }

    /// Whether events are kept.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Keep an event. It is made only where it is kept.
    pub fn emit(&self, ino: Ino, event: impl FnOnce() -> Event) {
        if let Some(log) = &self.0 {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let task = log.task;
            log.all.push(Traced { task, ino, event: event() });
        }
    }

    /// What follows happens on behalf of `task`; returns on whose it did before.
    pub fn act_as(&self, task: Task) -> Task {
        self.0
            .as_ref()
            .map_or(task, |log| std::mem::replace(&mut log.lock().unwrap_or_else(PoisonError::into_inner).task, task))
    }

    /// The events since the last time.
    pub fn take(&self) -> Vec<Traced> {
        self.0
            .as_ref()
            .map(|log| std::mem::take(&mut log.lock().unwrap_or_else(PoisonError::into_inner).all))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_not_made_where_nobody_listens() {
        Tracer::OFF.emit(Ino(12), || panic!("made"));
        assert!(Tracer::OFF.take().is_empty());
        let t = Tracer::on();
        let other = t.clone();
        assert_eq!(other.act_as(Task::EndIo), Task::Caller);
        t.emit(Ino(12), || Event::SubmitInodeData);
        assert_eq!(other.take(), [Traced { task: Task::EndIo, ino: Ino(12), event: Event::SubmitInodeData }]);
        assert!(t.take().is_empty());
    }
}
