//! A file as the write path holds it in memory. Kernel name: `struct ext4_inode_info`. Sizes in bytes.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::delalloc::{Allocation, Delalloc};
use super::folio::PageCache;
use super::lent::Lender;
use crate::error::{Error, IoOp, Result};
use crate::format::inode::Inode;
use crate::units::{Fsblk, Lblk, Tid};
use crate::volume::{Mapping, OpenInode, Volume};

/// A file in memory.
#[derive(Clone, Debug)]
#[doc(alias = "ext4_inode_info")]
pub struct MemInode {
    /// The inode as the next [`super::Mount`] handle stores it; its size is `disksize`.
    pub o: OpenInode,
    /// The file of the host that holds what is written to it.
    pub(super) lender: Option<Arc<Lender>>,
    /// What readers see.
    #[doc(alias = "i_size")]
    pub size: u64,
    /// What the inode on disk will say.
    #[doc(alias = "i_disksize")]
    pub disksize: u64,
    /// Extent status and reservations.
    pub dd: Delalloc,
    /// Pages.
    pub cache: PageCache,
    /// The transaction that last changed the inode.
    #[doc(alias = "i_sync_tid")]
    pub sync_tid: Option<Tid>,
    /// The transaction that last changed what reading the data back needs.
    #[doc(alias = "i_datasync_tid")]
    pub datasync_tid: Option<Tid>,
    /// The transaction that the inode was last stored in as it is, and the size that it had then.
    pub(super) stored: Option<(Tid, u64)>,
    /// Bytes written since it was last written back for being too much.
    pub(super) since: u64,
    /// Bytes of the file on their way to the device, and the block that they go to.
    pub(super) bio: Option<(Range<u64>, Fsblk)>,
    /// Bytes that must be on the device before the running transaction commits.
    #[doc(alias = "jbd2_inode")]
    pub ordered: Option<Range<u64>>,
    /// A commit sends what is dirty of those bytes; else it has only to wait for what was sent. It stays set once it is.
    #[doc(alias = "JI_WRITE_DATA")]
    pub commit_writes: bool,
    /// Write back when it is closed.
    #[doc(alias = "EXT4_STATE_DA_ALLOC_CLOSE")]
    pub flush_on_close: bool,
    /// No name leads to it any more; it is on the orphan list.
    pub unlinked: bool,
    /// Leaves of the extent tree, outside the inode, that have been read.
    #[doc(alias = "buffer_verified")]
    pub leaves_read: BTreeSet<Fsblk>,
    /// What look-ups pass on their way is not noted.
    #[doc(alias = "EXT4_EX_NOCACHE")]
    pub(super) no_cache: bool,
    /// Its times are those of when it was made, and nobody has looked at them since: a change in the same instant leaves them.
    #[doc(alias = "inode_needs_update_time")]
    pub fresh: bool,
    /// Somebody has it open for writing.
    #[doc(alias = "i_writecount")]
    pub open: bool,
    /// What writeback could not do; the next fsync says so, once.
    #[doc(alias = "wb_err")]
    pub lost: Option<Lost>,
    /// Blocks whose data did not reach the device: they are not converted.
    pub failed: BTreeSet<u32>,
    /// As quotas count it; none where there are no quotas.
    pub(super) charged: Option<Box<Inode>>,
    /// Blocks that are allocated written, and whose data has not been sent to the device yet.
    pub exposed: BTreeSet<u32>,
}

/// How data that was to be written back got lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The device failed: byte and length of the write.
    #[doc(alias = "EIO")]
    Io(u64, u64),
    /// There was no room for what had been promised.
    #[doc(alias = "ENOSPC")]
    NoSpace,
}

impl Lost {
    /// As the error that fsync returns.
    pub fn error(self) -> Error {
        match self {
            Self::Io(offset, len) => {
                let source = std::io::Error::from(rustix::io::Errno::IO);
                Error::Io { op: IoOp::Write, offset, len, source }
            }
            Self::NoSpace => Error::NoSpace { what: "clusters", need: 1, have: 0 },
        }
    }
}

impl MemInode {
    /// As it is on disk, nothing cached.
    pub fn new(o: OpenInode, block_bits: u32, cluster_bits: u32, large: bool) -> Self {
        let size = o.inode.size();
        Self {
            o,
            lender: None,
            size,
            disksize: size,
            dd: Delalloc::new(cluster_bits),
            cache: PageCache::new(block_bits, large),
            sync_tid: None,
            datasync_tid: None,
            stored: None,
            since: 0,
            bio: None,
            ordered: None,
            commit_writes: false,
            flush_on_close: false,
            unlinked: false,
            leaves_read: BTreeSet::new(),
            no_cache: false,
            fresh: false,
            open: true,
            lost: None,
            failed: BTreeSet::new(),
            charged: None,
            exposed: BTreeSet::new(),
        }
    }

    /// Bytes `range` must be on the device before the running transaction commits; with `write`, the commit is to send them.
    #[doc(alias = "ext4_jbd2_inode_add_write", alias = "ext4_jbd2_inode_add_wait")]
    pub fn order(&mut self, range: Range<u64>, write: bool) {
        self.commit_writes |= write;
        self.ordered = Some(match self.ordered.take() {
            Some(had) => had.start.min(range.start)..had.end.max(range.end),
            None => range,
        });
    }
}

/// An inode's blocks as its map has them.
#[derive(Clone, Copy, Debug)]
pub struct Disk<'a> {
    /// The volume.
    pub vol: &'a Volume,
    /// The inode.
    pub o: &'a OpenInode,
}

impl Allocation for Disk<'_> {
    fn any_mapped(&self, range: Range<u32>) -> Result<bool> {
        if range.is_empty() {
            return Ok(false);
        }
        Ok(match self.vol.map(self.o.owner(), Lblk(range.start))? {
            Mapping::Mapped { .. } => true,
            Mapping::Hole { len } => u64::from(range.start) + len < u64::from(range.end),
        })
    }
}
