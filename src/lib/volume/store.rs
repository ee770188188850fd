//! What changes to a filesystem go through: the traits that the rooms above implement.
//!
//! [`MetaStore`] is one handle on a running transaction (or the same interface without a journal). A block's bytes
//! are immutable once handed over: whoever changes a block reads it, makes new bytes (checksum stamped) and writes
//! them back whole, so that a commit in progress keeps the bytes it has and a reader never sees half an edit.
//! Reading through the store sees what the transaction has changed so far.
//!
//! The store shows the same to readers as a device: a [`Volume`] that is edited is opened over the *view* of its
//! store, a [`crate::device::BlockDevice`] that reads what the store would. All of the volume's readers then work
//! in the middle of a transaction.
//!
//! [`BlockAlloc`] finds and frees blocks and inodes. Blocks freed in a transaction are not handed out again before it
//! has committed: until then, a crash brings their old owner back.

use std::sync::Arc;

use super::Volume;
use crate::error::Result;
use crate::units::{Fsblk, Group, Ino, Lblk};

/// A handle on a running transaction: metadata is read and changed through it.
///
/// The bytes are whole blocks. A store that has failed once (`Poisoned`) fails ever after.
#[doc(alias = "handle_t")]
pub trait MetaStore {
    /// A block as the transaction sees it.
    fn read(&self, block: Fsblk) -> Result<Arc<[u8]>>;

    /// Replace a block's bytes. The block is part of the transaction from here on; its first use costs one credit.
    #[doc(alias = "jbd2_journal_get_write_access")]
    #[doc(alias = "jbd2_journal_dirty_metadata")]
    fn write(&mut self, block: Fsblk, bytes: Arc<[u8]>) -> Result<()>;

    /// Store a newly allocated metadata block. As [`MetaStore::write`], and a pending revoke of it is cancelled.
    #[doc(alias = "jbd2_journal_get_create_access")]
    fn create(&mut self, block: Fsblk, bytes: Arc<[u8]>) -> Result<()>;

    /// A metadata block has been freed: drop it from the transaction, and make sure that no older copy in the log is
    /// replayed over what the block becomes (a revoke record).
    #[doc(alias = "jbd2_journal_forget")]
    #[doc(alias = "jbd2_journal_revoke")]
    fn forget(&mut self, block: Fsblk) -> Result<()>;

    /// Blocks of content have been freed: those of them that went through the transaction or the log (the tail of a file
    /// that was cut) are forgotten.
    fn forget_content(&mut self, start: Fsblk, len: u32) -> Result<()>;

    /// Write content of a file, whole blocks from `block` on: not journalled, but on the device before the
    /// transaction commits (`data=ordered`).
    fn write_data(&mut self, block: Fsblk, bytes: &[u8]) -> Result<()>;

    /// Credits (metadata blocks) that this handle may still dirty.
    fn credits(&self) -> u32;

    /// Ask for `more` credits in the same transaction; `false` where it has no room for them.
    #[doc(alias = "jbd2_journal_extend")]
    fn extend(&mut self, more: u32) -> Result<bool>;
}

/// What an allocation is for and where it should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "ext4_allocation_request")]
pub struct AllocRequest {
    /// Block to start looking at: next to what the new blocks continue.
    pub goal: Fsblk,
    /// Blocks wanted; a shorter run may come back.
    pub len: u32,
    /// The shortest run that is of use, 1 or more.
    pub min_len: u32,
    /// Blocks to reserve behind the run for this inode's next request, where there is room: in memory only, until
    /// the inode's reservations are dropped.
    pub ahead: u32,
    /// Inode that the blocks are for.
    pub ino: Ino,
    /// Metadata (may use the reserved pool).
    pub metadata: bool,
    /// The file as it is in use, where it is.
    pub file: Option<FileInUse>,
}

/// What the allocator knows of a file that is being written: it sets blocks aside for what may come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileInUse {
    /// First logical block of the request; [`crate::volume::Edit::allocate_in_use`] sets it, `left` and `right`.
    pub lblk: Lblk,
    /// Bytes of the file, as readers see it.
    pub size: u64,
    /// Just what is asked for: nothing is set aside.
    #[doc(alias = "EXT4_MB_HINT_NOPREALLOC")]
    pub exact: bool,
    /// Its clusters have been reserved.
    #[doc(alias = "EXT4_MB_DELALLOC_RESERVED")]
    pub reserved: bool,
    /// This is the writeback of what was reserved: nodes of the tree are not claimed either.
    pub writeback: bool,
    /// The data comes later: the new extent is not joined with its neighbours yet.
    #[doc(alias = "EXT4_GET_BLOCKS_PRE_IO")]
    pub apart: bool,
    /// Somebody may write more to it.
    #[doc(alias = "inode_is_open_for_write")]
    pub open: bool,
    /// The last block mapped before the request.
    #[doc(alias = "lleft")]
    pub left: Option<(Lblk, Fsblk)>,
    /// The first block mapped after it.
    #[doc(alias = "lright")]
    pub right: Option<(Lblk, Fsblk)>,
}

impl AllocRequest {
    /// `len` blocks (or fewer) for the content of `ino`, from `goal` on.
    pub const fn data(ino: Ino, goal: Fsblk, len: u32) -> Self {
        Self { goal, len, min_len: 1, ahead: 0, ino, metadata: false, file: None }
    }

    /// One block of metadata for `ino`, near `goal`.
    pub const fn metadata(ino: Ino, goal: Fsblk) -> Self {
        Self { goal, len: 1, min_len: 1, ahead: 0, ino, metadata: true, file: None }
    }
}

/// Blocks handed out: `len` blocks from `start`, contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocated {
    /// First block.
    pub start: Fsblk,
    /// Blocks, at least the request's `min_len` and at most its `len`; whole clusters are taken.
    pub len: u32,
}

/// What an inode is for and where it should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeRequest {
    /// Directory that it will be in.
    pub parent: Ino,
    /// It will be a directory.
    pub directory: bool,
    /// Directories below the parent are to be spread: the parent is the root or has the `TOPDIR` flag.
    pub spread: bool,
    /// Hash of the name, which decides where spreading starts.
    pub name_hash: u32,
}

/// Finds and frees blocks and inodes. Bitmaps and group descriptors are changed through the store, and the volume's
/// copy of the descriptors with them.
pub trait BlockAlloc {
    /// Allocate blocks. [`crate::Error::NoSpace`] where there is no run of `min_len`; nothing is changed then.
    #[doc(alias = "ext4_mb_new_blocks")]
    fn allocate(&mut self, vol: &mut Volume, store: &mut dyn MetaStore, request: AllocRequest) -> Result<Allocated>;

    /// Free blocks: whole clusters, as they were handed out. They stay unavailable until the transaction has
    /// committed. `metadata` blocks are forgotten.
    #[doc(alias = "ext4_free_blocks")]
    fn free(
        &mut self,
        vol: &mut Volume,
        store: &mut dyn MetaStore,
        start: Fsblk,
        len: u32,
        metadata: bool,
    ) -> Result<()>;

    /// Allocate an inode. Its slot in the table is the caller's to write.
    #[doc(alias = "ext4_new_inode")]
    fn allocate_inode(&mut self, vol: &mut Volume, store: &mut dyn MetaStore, request: InodeRequest) -> Result<Ino>;

    /// Free an inode's number.
    #[doc(alias = "ext4_free_inode")]
    fn free_inode(&mut self, vol: &mut Volume, store: &mut dyn MetaStore, ino: Ino, directory: bool) -> Result<()>;

    /// Whether files of the filesystem are in use: blocks go where the kernel would put them, and extent trees have the shape that
    /// it would give them.
    fn in_use(&self) -> bool {
        false
    }

    /// Give back what is set aside for a file in use.
    #[doc(alias = "ext4_discard_preallocations")]
    fn discard_aside(&mut self, vol: &Volume, ino: Ino) -> Result<()> {
        let _ = (vol, ino);
        Ok(())
    }

    /// Free clusters of a group as counted now, for placement decisions.
    fn free_clusters(&self, vol: &Volume, group: Group) -> u32;
}
