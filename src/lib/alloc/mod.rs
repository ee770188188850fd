//! Allocation of blocks and inodes: buddies, goals and criteria, preallocation, placement of inodes, freeing.
//! Counts are in clusters unless they say blocks. Kernel names: `mballoc.c`, `ialloc.c`.
//!
//! [`Allocator`] keeps in memory, per group, which clusters may be handed out ([`buddy`]); it is built from the
//! bitmap when the group is first looked at. Clusters freed in a transaction come back with
//! [`Allocator::committed`]. Bitmaps, descriptors and their checksums are changed through the store at once, the
//! superblock's counts with [`Allocator::sync_counts`].
//!
//! The same state and the same calls give the same places: nothing here is random.
//!
//! [`Filesystem`] ties a volume that is edited to its allocator. A transaction that is given up takes both with it:
//! open anew.

mod aside;
mod blocks;
mod buddy;
mod claim;
mod group;
mod inodes;
#[cfg(test)]
mod model_tests;
mod regular;
mod search;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::features::{Compat, Incompat, RoCompat};
use crate::units::{Group, Ino};
use crate::volume::store::MetaStore;
use crate::volume::{Edit, Geometry, OpenOptions, Volume};
use buddy::Buddy;
use group::SystemZone;

/// Clusters that are set aside for one inode's next request: in memory only.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "ext4_prealloc_space")]
struct Preallocation {
    group: Group,
    at: u32,
    len: u32,
}

/// Hands out and takes back blocks and inodes of one volume.
#[derive(Debug)]
pub struct Allocator {
    groups: BTreeMap<Group, Buddy>,
    /// Freed in the running transaction: group, first cluster in it, clusters.
    pending: Vec<(Group, u32, u32)>,
    /// Clusters of `pending`.
    pending_clusters: u64,
    preallocated: BTreeMap<Ino, Preallocation>,
    /// Set aside for files in use.
    aside: aside::Aside,
    /// The group of the last request of a large file in use.
    #[doc(alias = "s_mb_last_groups")]
    last_group: Group,
    /// The filesystem is in use: metadata goes where the kernel puts it.
    in_use: bool,
    /// Changes of the count of free clusters, one by one, since they were last asked for; kept where the filesystem is in use.
    changes: Vec<Change>,
    /// What is done now is writeback of what was reserved.
    writeback: bool,
    /// Clusters that metadata of what is done now must leave free.
    kept: u64,
    /// Free clusters as the descriptors count them, pending ones included.
    free_clusters: u64,
    free_inodes: u64,
    /// Whether data may use the blocks reserved for the super-user.
    privileged: bool,
    /// Clusters reserved for the super-user.
    reserved: u64,
    /// Blocks of a RAID stripe; 0 or 1 where there is none.
    stripe: u32,
    system: Option<SystemZone>,
}

/// A change of the count of free clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Clusters more that are free.
    pub free: i64,
    /// Clusters that were claimed before some of them were taken, and are no longer.
    #[doc(alias = "ext4_claim_free_clusters")]
    pub claimed: i64,
}

impl Allocator {
    /// For `vol`. Reads no bitmap.
    pub fn new(vol: &Volume) -> Result<Self> {
        let (mut free_clusters, mut free_inodes) = (0u64, 0u64);
        for g in vol.geometry().all_groups() {
            let desc = vol.group(g)?;
            free_clusters += u64::from(desc.free_clusters());
            free_inodes += u64::from(desc.free_inodes());
        }
        let sb = vol.superblock();
        Ok(Self {
            groups: BTreeMap::new(),
            pending: Vec::new(),
            pending_clusters: 0,
            preallocated: BTreeMap::new(),
            aside: aside::Aside::default(),
            last_group: Group(0),
            in_use: false,
            changes: Vec::new(),
            writeback: false,
            kept: 0,
            free_clusters,
            free_inodes,
            privileged: true,
            reserved: sb.r_blocks_count() >> vol.geometry().cluster_bits,
            stripe: sb.raid_stripe_width.get(),
            system: None,
        })
    }

    /// Whether data may use the blocks reserved for the super-user (it may from the start).
    pub const fn set_privileged(&mut self, privileged: bool) {
        self.privileged = privileged;
    }

    /// The filesystem is in use from now on: blocks go where the kernel would put them, and changes are counted one by one.
    pub const fn set_in_use(&mut self) {
        self.in_use = true;
    }

    /// Metadata must leave so many clusters free, until the changes are taken: they are promised, or kept for what must not fail.
    #[doc(alias = "EXT4_MB_USE_RESERVED")]
    pub const fn keep(&mut self, clusters: u64) {
        self.kept = clusters;
    }

    /// The changes of the count of free clusters since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        (self.writeback, self.kept) = (false, 0);
        std::mem::take(&mut self.changes)
    }

    fn count(&mut self, free: i64, claimed: i64) {
        if self.in_use {
            self.changes.push(Change { free, claimed });
        }
    }

    /// Clusters that can be handed out now; those freed in the running transaction are not among them.
    pub const fn available_clusters(&self) -> u64 {
        let free = self.free_clusters.saturating_sub(self.pending_clusters);
        if self.privileged { free } else { free.saturating_sub(self.reserved) }
    }

    /// Free clusters as the descriptors count them: those freed in the running transaction are among them.
    pub const fn counted_clusters(&self) -> u64 {
        self.free_clusters
    }

    /// Clusters freed in the running transaction: they can be handed out once it has committed.
    #[doc(alias = "s_mb_free_pending")]
    pub const fn pending_clusters(&self) -> u64 {
        self.pending_clusters
    }

    /// Free inodes.
    pub const fn free_inodes(&self) -> u64 {
        self.free_inodes
    }

    /// Whether `blocks` blocks and `inodes` inodes can be had: what a batch asks before it starts. Blocks of the batch's
    /// own metadata are the caller's to add.
    ///
    /// # Errors
    /// [`Error::NoSpace`] with what is missing.
    pub const fn check_room(&self, geo: &Geometry, blocks: u64, inodes: u64) -> Result<()> {
        let need = blocks.div_ceil(geo.cluster_ratio as u64);
        let have = self.available_clusters();
        if need > have {
            let have = have.saturating_mul(geo.cluster_ratio as u64);
            return Err(Error::NoSpace { what: "blocks", need: blocks, have });
        }
        if inodes > self.free_inodes {
            return Err(Error::NoSpace { what: "inodes", need: inodes, have: self.free_inodes });
        }
        Ok(())
    }

    /// The transaction has committed: what was freed in it can be handed out.
    #[doc(alias = "ext4_process_freed_data")]
    pub fn committed(&mut self) {
        for (group, at, len) in std::mem::take(&mut self.pending) {
            if let Some(buddy) = self.groups.get_mut(&group) {
                buddy.give(at, len);
            }
        }
        self.pending_clusters = 0;
    }

    /// Hold back free clusters (group, first cluster in it, clusters) until the transaction has committed: what is durable still
    /// refers to them. Only for an allocator that has handed out nothing yet.
    pub fn hold(&mut self, group: Group, at: u32, len: u32) {
        self.pending.push((group, at, len));
        self.pending_clusters += u64::from(len);
    }

    /// Drop what is set aside for an inode.
    #[doc(alias = "ext4_discard_preallocations")]
    pub fn discard_preallocation(&mut self, ino: Ino) {
        if let Some(p) = self.preallocated.remove(&ino)
            && let Some(buddy) = self.groups.get_mut(&p.group)
        {
            buddy.give(p.at, p.len);
        }
    }

    /// Drop all preallocations.
    pub fn discard_preallocations(&mut self) {
        while let Some(ino) = self.preallocated.keys().next().copied() {
            self.discard_preallocation(ino);
        }
    }

    /// Take other counts of free clusters and inodes for right than the groups say: they are what the superblock gets.
    pub const fn set_counts(&mut self, clusters: u64, inodes: u64) {
        self.free_clusters = clusters;
        self.free_inodes = inodes;
    }

    /// Bring the superblock's counts of free blocks and inodes up to date.
    #[doc(alias = "ext4_update_super")]
    pub fn sync_counts(&self, vol: &mut Volume, store: &mut dyn MetaStore) -> Result<()> {
        let blocks = self.free_clusters << vol.geometry().cluster_bits;
        let inodes = u32::try_from(self.free_inodes).unwrap_or(u32::MAX);
        let sb = vol.superblock();
        if sb.free_blocks_count() == blocks && sb.free_inodes_count.get() == inodes {
            return Ok(());
        }
        vol.store_superblock(store, |sb| {
            sb.set_free_blocks_count(blocks);
            sb.free_inodes_count.set(inodes);
        })
    }
}

/// A volume that is edited, with its allocator.
#[derive(Debug)]
pub struct Filesystem {
    /// The volume, opened over the view of the store that changes go through.
    pub volume: Volume,
    /// The allocator.
    pub alloc: Allocator,
}

impl Filesystem {
    /// Open for editing. `view` is the store's view of the device.
    ///
    /// # Errors
    /// Those of [`Volume::open`], and [`Error::Unsupported`] for features that this library does not write.
    pub fn open(view: Arc<dyn BlockDevice>, options: &OpenOptions) -> Result<Self> {
        let volume = Volume::open(view, options)?;
        let features = unwritable(volume.geometry());
        if !features.is_empty() {
            return Err(Error::Unsupported { features });
        }
        let alloc = Allocator::new(&volume)?;
        Ok(Self { volume, alloc })
    }

    /// The hands for one operation.
    pub fn edit<'a>(&'a mut self, store: &'a mut dyn MetaStore) -> Edit<'a> {
        Edit { vol: &mut self.volume, store, alloc: &mut self.alloc }
    }

    /// The transaction has committed.
    pub fn committed(&mut self) {
        self.alloc.committed();
    }

    /// Store the superblock's counts; see [`Allocator::sync_counts`].
    pub fn sync_counts(&mut self, store: &mut dyn MetaStore) -> Result<()> {
        self.alloc.sync_counts(&mut self.volume, store)
    }
}

/// Features that stand in the way of writing.
fn unwritable(geo: &Geometry) -> Vec<crate::error::FeatureBit> {
    let known_ro = RoCompat::SPARSE_SUPER
        | RoCompat::LARGE_FILE
        | RoCompat::HUGE_FILE
        | RoCompat::GDT_CSUM
        | RoCompat::DIR_NLINK
        | RoCompat::EXTRA_ISIZE
        | RoCompat::QUOTA
        | RoCompat::BIGALLOC
        | RoCompat::METADATA_CSUM
        | RoCompat::PROJECT
        | RoCompat::VERITY
        | RoCompat::ORPHAN_PRESENT;
    let features = crate::format::features::Features {
        compat: geo.features.compat & (Compat::EXCLUDE_BITMAP | Compat::IMAGIC_INODES),
        incompat: geo.features.incompat & Incompat::COMPRESSION,
        ro_compat: geo.features.ro_compat.difference(known_ro),
    };
    features.bits().collect()
}
