//! What changes to a filesystem go through: the traits that the rooms above implement.
//!
//! [`MetaStore`] is one handle on a running transaction (or the same interface without a journal). Every metadata
//! block that is changed is changed through it: the block's bytes are asked for with
//! [`MetaStore::write_access`], edited in place, checksum stamped by who edits, and reach the device when the
//! transaction commits. Reading through the store sees what the transaction has changed so far.
//!
//! [`BlockAlloc`] finds and frees blocks. Blocks freed in a transaction are not handed out again before it has
//! committed: until then, a crash brings their old owner back.

use std::sync::Arc;

use crate::error::Result;
use crate::units::{Fsblk, Group, Ino};

/// A handle on a running transaction: metadata is read and changed through it.
///
/// The bytes handed out are whole blocks. A store that has failed once (`Poisoned`) fails ever after.
#[doc(alias = "handle_t")]
pub trait MetaStore {
    /// A block as the transaction sees it.
    fn read(&self, block: Fsblk) -> Result<Arc<[u8]>>;

    /// A block's current bytes, to change. The block is part of the transaction from here on; its first use costs
    /// one credit.
    #[doc(alias = "jbd2_journal_get_write_access")]
    #[doc(alias = "jbd2_journal_dirty_metadata")]
    fn write_access(&mut self, block: Fsblk) -> Result<&mut [u8]>;

    /// A newly allocated metadata block, zeroed without being read. A pending revoke of it is cancelled.
    #[doc(alias = "jbd2_journal_get_create_access")]
    fn create_access(&mut self, block: Fsblk) -> Result<&mut [u8]>;

    /// A metadata block has been freed: drop it from the transaction, and make sure that no older copy in the log is
    /// replayed over what the block becomes (a revoke record).
    #[doc(alias = "jbd2_journal_forget")]
    #[doc(alias = "jbd2_journal_revoke")]
    fn forget(&mut self, block: Fsblk) -> Result<()>;

    /// Credits (metadata blocks) that this handle may still dirty.
    fn credits(&self) -> u32;

    /// Ask for `more` credits in the same transaction; `false` where it has no room for them.
    #[doc(alias = "jbd2_journal_extend")]
    fn extend(&mut self, more: u32) -> Result<bool>;
}

/// What an allocation is for and where it should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocRequest {
    /// Block to start looking at: next to what the new blocks continue.
    pub goal: Fsblk,
    /// Blocks wanted; a shorter run may come back.
    pub len: u32,
    /// The shortest run that is of use, 1 or more.
    pub min_len: u32,
    /// Inode that the blocks are for.
    pub ino: Ino,
    /// Metadata (may use the reserved pool).
    pub metadata: bool,
}

/// Blocks handed out: `len` blocks from `start`, contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocated {
    /// First block.
    pub start: Fsblk,
    /// Blocks, at least the request's `min_len` and at most its `len`; whole clusters are taken.
    pub len: u32,
}

/// Finds and frees blocks and inodes. Bitmaps, group descriptors and counts are changed through the store.
pub trait BlockAlloc {
    /// Allocate blocks. [`crate::Error::NoSpace`] where there is no run of `min_len`; nothing is changed then.
    #[doc(alias = "ext4_mb_new_blocks")]
    fn allocate(&mut self, store: &mut dyn MetaStore, request: AllocRequest) -> Result<Allocated>;

    /// Free blocks. They stay unavailable until the transaction has committed. `metadata` blocks are forgotten.
    #[doc(alias = "ext4_free_blocks")]
    fn free(&mut self, store: &mut dyn MetaStore, start: Fsblk, len: u32, metadata: bool) -> Result<()>;

    /// Allocate an inode for an object in `parent`.
    #[doc(alias = "ext4_new_inode")]
    fn allocate_inode(&mut self, store: &mut dyn MetaStore, parent: Ino, directory: bool) -> Result<Ino>;

    /// Free an inode's number.
    #[doc(alias = "ext4_free_inode")]
    fn free_inode(&mut self, store: &mut dyn MetaStore, ino: Ino, directory: bool) -> Result<()>;

    /// Free clusters of a group as counted now, for placement decisions.
    fn free_clusters(&self, group: Group) -> u32;
}
