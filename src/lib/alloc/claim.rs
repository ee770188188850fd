//! Blocks and inodes that are known to be in use before the bitmaps say so: what a replay of logical changes finds in its
//! records. Counts are in clusters.

use super::{Allocator, group, inodes};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::bitmap;
use crate::units::{Fsblk, Group, Ino};
use crate::volume::Volume;
use crate::volume::store::MetaStore;

impl Allocator {
    /// Mark `start..start + len` as in use, as far as they are not; also what was freed in this transaction. Returns how
    /// many clusters were free.
    ///
    /// # Errors
    /// [`Error::Corrupt`] outside the filesystem, or where blocks of the filesystem itself would be handed out.
    #[doc(alias = "ext4_mb_mark_bb")]
    pub fn claim_blocks(&mut self, vol: &mut Volume, store: &mut dyn MetaStore, start: Fsblk, len: u32) -> Result<u64> {
        let place = Place::block(start);
        let out = Flaw::BlockOutOfRange { of: Structure::FastCommit, block: start };
        if !vol.geometry().has_range(start, len.into()) || self.system_zone(vol)?.meets(start, len.into()) {
            return Err(Error::corrupt(out, place));
        }
        let mut claimed = 0;
        let end = start.0 + u64::from(len);
        let mut at = start.0;
        while at < end {
            let (group, bit) = vol.geometry().cluster_bit_of(Fsblk(at));
            if !bitmap::test(&vol.block_bitmap(group)?, bit as usize) {
                self.claim_cluster(vol, store, group, bit)?;
                claimed += 1;
            }
            let ratio = u64::from(vol.geometry().cluster_ratio);
            at = (at / ratio + 1) * ratio;
        }
        Ok(claimed)
    }

    fn claim_cluster(&mut self, vol: &mut Volume, store: &mut dyn MetaStore, group: Group, bit: u32) -> Result<()> {
        // Loaded before the bit changes.
        let free = self.buddy(vol, group)?.run_at(bit, 1) == 1;
        group::mark_clusters(vol, store, group, bit..bit + 1, true)?;
        self.free_clusters = self.free_clusters.saturating_sub(1);
        if free {
            self.buddy(vol, group)?.take(bit, 1);
            return Ok(());
        }
        if let Some(i) = self.pending.iter().position(|p| p.0 == group && (p.1..p.1 + p.2).contains(&bit)) {
            let (_, from, n) = self.pending.swap_remove(i);
            let rest = [(from, bit - from), (bit + 1, from + n - bit - 1)];
            self.pending.extend(rest.into_iter().filter(|r| r.1 > 0).map(|(at, len)| (group, at, len)));
            self.pending_clusters = self.pending_clusters.saturating_sub(1);
        }
        Ok(())
    }

    /// Whether an inode's number is taken.
    pub fn is_inode_used(&self, vol: &Volume, ino: Ino) -> Result<bool> {
        let (group, bit) = vol.geometry().inode_place(ino)?;
        Ok(bitmap::test(&vol.inode_bitmap(group)?, bit as usize))
    }

    /// Mark an inode, which must be free, as in use. Its slot is the caller's to write.
    #[doc(alias = "ext4_mark_inode_used")]
    pub fn claim_inode(
        &mut self,
        vol: &mut Volume,
        store: &mut dyn MetaStore,
        ino: Ino,
        directory: bool,
    ) -> Result<()> {
        let (group, bit) = vol.geometry().inode_place(ino)?;
        let free = vol.group(group)?.free_inodes();
        if ino.0 < vol.geometry().first_ino || free == 0 || self.is_inode_used(vol, ino)? {
            let flaw = Flaw::Inconsistent { of: Structure::InodeBitmap, detail: "an inode in use is created" };
            return Err(Error::corrupt(flaw, Place::inode(ino)));
        }
        inodes::take_bit(vol, store, group, bit as usize, directory)?;
        self.free_inodes = self.free_inodes.saturating_sub(1);
        Ok(())
    }
}
