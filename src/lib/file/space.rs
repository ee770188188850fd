//! What of the filesystem's space may still be promised: free clusters, reserved ("dirty") ones, and the shares that are kept
//! back for the super-user and for metadata. Counts are clusters.
//!
//! The kernel's counters are approximate: each CPU keeps changes of up to a batch to itself, and the cheap reading
//! ([`Counter::rough`]) does not see them. When writes stop being delayed depends on that, so it is kept here for
//! the one CPU that runs.

use super::delalloc::Ledger;
use crate::error::{Error, Result};

/// Changes that a CPU keeps to itself.
#[doc(alias = "percpu_counter_batch")]
const BATCH: i64 = 32;
/// Most clusters of the pool that metadata may use when it must not fail.
const MAX_POOL: u64 = 4096;
/// The pool's share of all clusters: one of so many.
const POOL_SHARE: u64 = 50;

/// A counter with a per-CPU part.
#[derive(Clone, Copy, Debug, Default)]
#[doc(alias = "percpu_counter")]
pub struct Counter {
    shared: i64,
    local: i64,
}

impl Counter {
    const fn new(n: u64) -> Self {
        Self { shared: n as i64, local: 0 }
    }

    /// The exact value.
    #[doc(alias = "percpu_counter_sum_positive")]
    pub fn exact(self) -> u64 {
        (self.shared + self.local).max(0) as u64
    }

    /// The value without what the CPU keeps to itself.
    #[doc(alias = "percpu_counter_read_positive")]
    pub fn rough(self) -> u64 {
        self.shared.max(0) as u64
    }

    /// Add `n`, which may be negative.
    pub const fn add(&mut self, n: i64) {
        self.local += n;
        if self.local.abs() >= BATCH {
            self.shared += self.local;
            self.local = 0;
        }
    }
}

/// Space that is left.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Free clusters, reserved ones among them.
    pub free: Counter,
    /// Reserved by delayed allocation, not yet allocated.
    #[doc(alias = "s_dirtyclusters_counter")]
    pub dirty: Counter,
    /// Kept for metadata that must not fail.
    #[doc(alias = "s_resv_clusters")]
    pub pool: u64,
    /// From how little space on writes are not delayed.
    #[doc(alias = "EXT4_FREECLUSTERS_WATERMARK")]
    watermark: u64,
}

impl Space {
    /// Of a filesystem with `total` clusters of which `free` are free.
    pub fn new(total: u64, free: u64, cpus: u32) -> Self {
        Self {
            free: Counter::new(free),
            dirty: Counter::new(0),
            pool: (total / POOL_SHARE).min(MAX_POOL),
            watermark: 4 * BATCH as u64 * u64::from(cpus),
        }
    }

    /// Whether `n` more clusters can be promised; the super-user's share is not kept back from who writes images.
    #[doc(alias = "ext4_has_free_clusters")]
    pub fn has(&self, n: u64) -> bool {
        self.free.exact() >= n + self.dirty.exact() + self.pool
    }

    /// Whether so much is reserved that writeback should begin.
    pub fn wants_writeback(&self) -> bool {
        let dirty = self.dirty.rough();
        dirty > 0 && self.free.rough() < 2 * dirty
    }

    /// Whether writes must allocate at once.
    #[doc(alias = "ext4_nonda_switch")]
    pub fn is_short(&self) -> bool {
        let (free, dirty) = (self.free.rough(), self.dirty.rough());
        2 * free < 3 * dirty || free < dirty + self.watermark
    }
}

impl Ledger for Space {
    fn reserve(&mut self, n: u32) -> Result<()> {
        if !self.has(n.into()) {
            let have = self.free.exact().saturating_sub(self.dirty.exact() + self.pool);
            return Err(Error::NoSpace { what: "clusters", need: n.into(), have });
        }
        self.dirty.add(n.into());
        Ok(())
    }

    fn release(&mut self, n: u32) {
        self.dirty.add(-i64::from(n));
    }

    fn consume(&mut self, n: u32) {
        self.dirty.add(-i64::from(n));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rough_counts_lag_by_less_than_a_batch() {
        let mut c = Counter::new(100);
        c.add(-31);
        assert_eq!((c.rough(), c.exact()), (100, 69));
        c.add(-1);
        assert_eq!((c.rough(), c.exact()), (68, 68));
    }

    #[test]
    fn the_pool_is_not_promised() {
        let mut s = Space::new(1000, 30, 2);
        assert!(s.has(10) && !s.has(11) && s.is_short());
        s.reserve(10).unwrap();
        assert!(matches!(s.reserve(1), Err(Error::NoSpace { have: 0, .. })));
        s.consume(4);
        assert_eq!(s.dirty.exact(), 6);
    }
}
