//! What must hold between any two operations, checked.

use super::extent_status::EsStatus;
use super::inode::{Disk, MemInode};
use super::mount::Mount;
use crate::error::Result;
use crate::units::Lblk;
use crate::volume::Mapping;

impl Mount {
    /// Check the invariants of all files in memory; the first violation as text.
    ///
    /// Reservations are those that delayed blocks need, and their sum is the filesystem's; what the extent-status tree says is
    /// what the block map says; every delayed block lies under a dirty block of the page cache; the size on disk is not
    /// above the size.
    pub fn check_state(&self) -> Result<Option<String>> {
        let mut reserved = 0;
        for i in self.inodes.values() {
            reserved += u64::from(i.dd.reserved());
            if let Some(wrong) = self.check_inode(i)? {
                return Ok(Some(format!("inode {}: {wrong}", i.o.ino)));
            }
        }
        let dirty = self.space.dirty.exact();
        if reserved != dirty {
            return Ok(Some(format!("files hold {reserved} reserved clusters, the filesystem counts {dirty}")));
        }
        let (counted, free) = (self.fs.alloc.counted_clusters(), self.space.free.exact());
        Ok((counted != free).then(|| format!("{counted} clusters are free, {free} are counted")))
    }

    fn check_inode(&self, i: &MemInode) -> Result<Option<String>> {
        if i.disksize > i.size {
            return Ok(Some(format!("the size on disk is {}, the size {}", i.disksize, i.size)));
        }
        if let Some(wrong) = i.dd.check(&Disk { vol: &self.fs.volume, o: &i.o })? {
            return Ok(Some(wrong));
        }
        for e in i.dd.es().iter() {
            let end = u64::from(e.end());
            let mut at = u64::from(e.lblk.0);
            while at < end {
                let m = self.fs.volume.map(i.o.owner(), Lblk(at as u32))?;
                let skip = at - u64::from(e.lblk.0);
                let (len, right) = match m {
                    Mapping::Hole { len } => (len, !e.status.is_mapped()),
                    Mapping::Mapped { pblk, len, unwritten } => {
                        let status = if unwritten { EsStatus::Unwritten } else { EsStatus::Written };
                        (len, status == e.status && pblk.0 == e.pblk.0 + skip)
                    }
                };
                if !right {
                    return Ok(Some(format!("block {at}: the status tree says {:?}, the map {m:?}", e.status)));
                }
                at += len;
            }
        }
        Ok(self.uncovered(i).map(|b| format!("block {b} is delayed, and nothing dirty is over it")))
    }

    /// A delayed block that no dirty block of the page cache covers.
    fn uncovered(&self, i: &MemInode) -> Option<u32> {
        let bits = self.block_bits();
        let delayed = i.dd.es().iter().filter(|e| e.status == EsStatus::Delayed);
        delayed.flat_map(|e| e.lblk.0..e.end()).find(|b| {
            let pos = u64::from(*b) << bits;
            let f = i.cache.find(pos >> super::folio::PAGE_BITS);
            !f.is_some_and(|f| f.dirty && f.buffers.get(((pos - f.pos()) >> bits) as usize).is_some_and(|b| b.dirty))
        })
    }
}
