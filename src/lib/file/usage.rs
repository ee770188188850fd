//! What owners use, counted where quotas are kept: the blocks and the number of files. Kernel names: `dquot_claim_block`,
//! `dquot_free_inode`. Space in bytes.
//!
//! What is reserved is counted in memory only, by the kernel too; the quota files follow what is allocated, in the transaction
//! that allocates it. Where the transaction is not this mount's own, its owner counts. Limits are not enforced.

use super::inode::MemInode;
use super::mount::Mount;
use crate::error::Result;
use crate::format::inode::Inode;
use crate::units::Ino;
use crate::volume::quota;

/// The inode as it counts: a file without a name counts until it goes.
fn counted(i: &MemInode) -> Inode {
    let mut inode = i.o.inode.clone();
    if i.unlinked {
        inode.update(|c| c.links_count.set(1));
    }
    inode
}

impl Mount {
    /// Whether this mount counts what is used.
    pub(super) fn counts_usage(&self) -> bool {
        self.usage.is_on() && self.may_commit()
    }

    fn charge(&mut self, i: &mut MemInode) {
        let Some(before) = i.charged.as_deref() else { return };
        let (now, block_size) = (counted(i), self.fs.volume.geometry().block_size);
        if now.allocated_bytes(block_size) != before.allocated_bytes(block_size) {
            self.usage.replace(i.o.ino, Some(before), Some(&now), block_size);
            i.charged = Some(Box::new(now));
        }
    }

    /// A file goes altogether.
    pub(super) fn discharge(&mut self, ino: Ino, i: &MemInode) {
        if let Some(before) = i.charged.as_deref() {
            self.usage.replace(ino, Some(before), None, self.fs.volume.geometry().block_size);
        }
    }

    /// Bring what files use now into the quota files. `current` is the file that is taken out.
    pub(super) fn charge_all(&mut self, current: Option<&mut MemInode>) -> Result<()> {
        if !self.counts_usage() {
            return Ok(());
        }
        if let Some(i) = current {
            self.charge(i);
        }
        let mut inodes = std::mem::take(&mut self.inodes);
        for i in inodes.values_mut() {
            self.charge(i);
        }
        self.inodes = inodes;
        let mut usage = std::mem::take(&mut self.usage);
        let done = self.edit(|e| quota::sync(e, &mut usage));
        self.usage = usage;
        done
    }
}
