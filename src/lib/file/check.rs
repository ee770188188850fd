//! What must hold between any two operations, checked. The numbers are those of the list of invariants:
//!
//! 1. what a file has reserved is what its delayed blocks need, and the sum is the filesystem's; nothing after a sync;
//! 2. a delayed block lies under a dirty block of the page cache, and a dirty block has a place, or a reservation;
//! 3. what the extent-status tree says is what the block map says;
//! 4. a pending reservation is of a cluster that is both allocated and delayed;
//! 5. the size on disk is not above the size, and covers no written block whose data neither is on the device nor goes there
//!    before the next commit;
//! 6. what is reserved can be allocated: free clusters are at least as many;
//! 7. what the page cache holds unchanged is what the device holds.

use super::extent_status::EsStatus;
use super::folio::Folio;
use super::inode::{Disk, MemInode};
use super::mount::Mount;
use super::options::DataMode;
use crate::error::Result;
use crate::units::Lblk;
use crate::volume::Mapping;

/// The first violation as text, if any.
type Wrong = Option<String>;

impl Mount {
    /// Check the invariants of all files in memory; the first violation as text.
    ///
    /// # Errors
    /// Those of reading block maps.
    pub fn check_state(&self) -> Result<Wrong> {
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
        if counted != free {
            return Ok(Some(format!("{counted} clusters are free, {free} are counted")));
        }
        Ok((dirty > free).then(|| format!("{dirty} clusters are reserved, {free} are free")))
    }

    /// Check what must hold behind a full sync: nothing is reserved, nothing is dirty, and sizes are on disk. Data that was
    /// lost is not.
    pub fn check_synced(&self) -> Wrong {
        if self.space.dirty.exact() != 0 {
            return Some(format!("{} clusters are reserved behind a sync", self.space.dirty.exact()));
        }
        let wrong = |i: &MemInode| {
            let below = |f: &Folio| f.dirty && f.pos() < i.size;
            match i.cache.iter().find(|f| below(f)) {
                Some(f) => Some(format!("page {} is dirty behind a sync", f.index)),
                None if i.lost.is_none() && i.disksize != i.size => {
                    Some(format!("the size on disk is {}, the size {} behind a sync", i.disksize, i.size))
                }
                None => None,
            }
        };
        self.inodes.values().find_map(|i| wrong(i).map(|w| format!("inode {}: {w}", i.o.ino)))
    }

    /// Check that what the page cache holds unchanged is what a reader without it would see (7). Reads all of that.
    ///
    /// # Errors
    /// Those of reading the block map and the device.
    pub fn check_cache(&self) -> Result<Wrong> {
        for i in self.inodes.values() {
            if let Some(wrong) = self.check_content(i)? {
                return Ok(Some(format!("inode {}: {wrong}", i.o.ino)));
            }
        }
        Ok(None)
    }

    fn check_content(&self, i: &MemInode) -> Result<Wrong> {
        let (bits, block) = (self.block_bits(), self.block_size());
        for f in i.cache.iter().filter(|f| !f.error) {
            for n in 0..f.size() >> bits {
                let (at, pos) = ((n << bits) as usize, f.pos() + (n << bits));
                let b = f.buffers.get(n as usize);
                let known = f.uptodate || b.is_some_and(|b| b.uptodate);
                if !known || pos >= i.size || b.map_or(f.dirty, |b| b.dirty) {
                    continue;
                }
                let mut bytes = vec![0; block as usize];
                let lblk = self.block_of(pos);
                if Self::is_inline(i) {
                    self.fs.volume.reader(i.o.owner())?.read_at(pos, &mut bytes)?;
                }
                if let Mapping::Mapped { pblk, unwritten: false, .. } = self.fs.volume.map(i.o.owner(), Lblk(lblk))? {
                    self.read_block(pblk, &mut bytes)?;
                }
                let keep = block.min(i.size - pos) as usize;
                if f.data[at..at + keep] != bytes[..keep] {
                    return Ok(Some(format!("block {lblk}: clean, and not what the device holds")));
                }
            }
        }
        Ok(None)
    }

    fn check_inode(&self, i: &MemInode) -> Result<Wrong> {
        if i.disksize > i.size {
            return Ok(Some(format!("the size on disk is {}, the size {}", i.disksize, i.size)));
        }
        if let Some(wrong) = self.check_reservations(i)? {
            return Ok(Some(wrong));
        }
        if let Some(b) = self.uncovered(i) {
            return Ok(Some(format!("block {b} is delayed, and nothing dirty is over it")));
        }
        if let Some(b) = self.homeless(i)? {
            return Ok(Some(format!("block {b} is dirty, and has neither a place nor a reservation")));
        }
        Ok(self.unordered(i).map(|b| {
            format!(
                "block {b} is written below the size on disk, and its data does not reach the device before a commit"
            )
        }))
    }

    /// Reservations against delayed blocks, and the status tree against the map.
    pub(super) fn check_reservations(&self, i: &MemInode) -> Result<Wrong> {
        if let Some(wrong) = i.dd.check(&Disk { vol: &self.fs.volume, o: &i.o })? {
            return Ok(Some(wrong));
        }
        self.check_status(i)
    }

    fn check_status(&self, i: &MemInode) -> Result<Wrong> {
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
        Ok(None)
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

    /// A dirty block below the end of the file that is a hole, and not delayed.
    fn homeless(&self, i: &MemInode) -> Result<Option<u32>> {
        let bits = self.block_bits();
        for f in i.cache.iter().filter(|f| f.dirty) {
            let first = self.block_of(f.pos());
            for (lblk, b) in (first..).zip(&f.buffers) {
                // A store through a mapping dirties all buffers of its folio; those that were never looked up are not written.
                let counts = b.dirty && (b.mapped || self.uses_iomap(i).0);
                if !counts || u64::from(lblk) << bits >= i.size {
                    continue;
                }
                let known = i.dd.es().lookup(Lblk(lblk)).is_some_and(|e| e.status != EsStatus::Hole);
                if !known && matches!(self.fs.volume.map(i.o.owner(), Lblk(lblk))?, Mapping::Hole { .. }) {
                    return Ok(Some(lblk));
                }
            }
        }
        Ok(None)
    }

    /// A block that the next commit would show without its data.
    fn unordered(&self, i: &MemInode) -> Option<u32> {
        if self.options.data != DataMode::Ordered {
            return None;
        }
        let (bits, limit) = (self.block_bits(), self.block_up(i.disksize));
        let ordered = |b: u32| i.ordered.as_ref().is_some_and(|r| r.contains(&(u64::from(b) << bits)));
        i.exposed.range(..limit).find(|b| !ordered(**b)).copied()
    }
}
