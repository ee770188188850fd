//! Blocks handed out and taken back. Requests are in blocks, everything inside in clusters.

use super::search::Run;
use super::{Allocator, Preallocation, group};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::units::{Fsblk, Group, Ino};
use crate::volume::Volume;
use crate::volume::store::{AllocRequest, Allocated, BlockAlloc, InodeRequest, MetaStore};

impl BlockAlloc for Allocator {
    fn discard_aside(&mut self, vol: &Volume, ino: Ino) -> Result<()> {
        self.release_file(vol, ino)
    }

    fn allocate(&mut self, vol: &mut Volume, store: &mut dyn MetaStore, request: AllocRequest) -> Result<Allocated> {
        if self.in_use || request.file.is_some() {
            return self.allocate_in_use(vol, store, request);
        }
        let geo = vol.geometry();
        let ratio = geo.cluster_ratio;
        let (want, min) = (request.len.max(1).div_ceil(ratio), request.min_len.max(1).div_ceil(ratio));
        let ahead = request.ahead.div_ceil(ratio);
        let no_space = |a: &Self| Error::NoSpace {
            what: "blocks",
            need: u64::from(min) << geo.cluster_bits,
            have: a.available_clusters() << geo.cluster_bits,
        };
        let allowed = if request.metadata {
            self.free_clusters.saturating_sub(self.pending_clusters)
        } else {
            self.available_clusters()
        };
        let want = u64::from(want).min(allowed) as u32;
        if want < min {
            return Err(no_space(self));
        }
        let run = match self.use_preallocation(vol, &request, want) {
            Some(run) => run,
            None => match self.search(vol, request.goal, want, min, ahead)? {
                Some(run) => run,
                None => return Err(no_space(self)),
            },
        };
        let take = run.len.min(want);
        group::mark_clusters(vol, store, run.group, run.at..run.at + take, true)?;
        self.free_clusters = self.free_clusters.saturating_sub(take.into());
        self.buddy(vol, run.group)?.take(run.at, run.len);
        let rest = run.len - take;
        if rest > 0 {
            self.discard_preallocation(request.ino);
            self.preallocated.insert(request.ino, Preallocation { group: run.group, at: run.at + take, len: rest });
        }
        let geo = vol.geometry();
        let start = geo.group_start(run.group).saturating_add(u64::from(run.at) << geo.cluster_bits);
        let len = (take << geo.cluster_bits).min(request.len.max(1));
        // The last cluster of the filesystem may be cut short.
        let left = geo.blocks_count.saturating_sub(start.0);
        Ok(Allocated { start, len: left.min(len.into()) as u32 })
    }

    fn free(
        &mut self,
        vol: &mut Volume,
        store: &mut dyn MetaStore,
        start: Fsblk,
        len: u32,
        metadata: bool,
    ) -> Result<()> {
        let place = Place::block(start);
        if !vol.geometry().has_range(start, len.into()) {
            return Err(Error::corrupt(Flaw::BlockOutOfRange { of: Structure::Inode, block: start }, place));
        }
        if self.system_zone(vol)?.meets(start, len.into()) {
            let detail = "blocks of the filesystem itself are freed";
            return Err(Error::corrupt(Flaw::Inconsistent { of: Structure::BlockBitmap, detail }, place));
        }
        let mut at = start;
        let end = start.0 + u64::from(len);
        while at.0 < end {
            let geo = vol.geometry();
            let (group, first) = geo.cluster_bit_of(at);
            let group_end = geo.group_start(group).0 + u64::from(geo.blocks_in_group(group));
            let stop = end.min(group_end);
            let (_, last) = geo.cluster_bit_of(Fsblk(stop - 1));
            self.free_bits(vol, store, group, first, last + 1 - first)?;
            at = Fsblk(stop);
        }
        if !metadata {
            return store.forget_content(start, len);
        }
        (start.0..end).try_for_each(|block| store.forget(Fsblk(block)))
    }

    fn allocate_inode(&mut self, vol: &mut Volume, store: &mut dyn MetaStore, request: InodeRequest) -> Result<Ino> {
        self.new_inode(vol, store, request)
    }

    fn free_inode(&mut self, vol: &mut Volume, store: &mut dyn MetaStore, ino: Ino, directory: bool) -> Result<()> {
        self.release_inode(vol, store, ino, directory)
    }

    fn in_use(&self) -> bool {
        self.in_use
    }

    fn free_clusters(&self, vol: &Volume, group: Group) -> u32 {
        match self.groups.get(&group) {
            Some(buddy) => buddy.free(),
            None => vol.group(group).map_or(0, |d| d.free_clusters()),
        }
    }
}

impl Allocator {
    fn free_bits(
        &mut self,
        vol: &mut Volume,
        store: &mut dyn MetaStore,
        group: Group,
        at: u32,
        len: u32,
    ) -> Result<()> {
        // Loaded before the bits change: what is freed now stays out of reach.
        self.buddy(vol, group)?;
        group::mark_clusters(vol, store, group, at..at + len, false)?;
        self.pending.push((group, at, len));
        self.pending_clusters += u64::from(len);
        self.free_clusters += u64::from(len);
        self.count(len.into(), 0);
        Ok(())
    }

    /// What is set aside for the inode, where the request continues it.
    #[doc(alias = "ext4_mb_use_preallocated")]
    fn use_preallocation(&mut self, vol: &Volume, request: &AllocRequest, want: u32) -> Option<Run> {
        if request.metadata {
            return None;
        }
        let p = *self.preallocated.get(&request.ino)?;
        if vol.geometry().cluster_bit_of(request.goal) != (p.group, p.at) {
            return None;
        }
        // Back to the buddy first, so that whoever takes the run finds it free; what is left over is kept again.
        self.discard_preallocation(request.ino);
        let run = Run { group: p.group, at: p.at, len: p.len };
        let len = run.len.max(self.groups.get(&p.group).map_or(0, |b| b.run_at(p.at, want)));
        Some(Run { len, ..run })
    }

    /// A run for `want` clusters, with `ahead` more behind it where there is room. When there is nothing, what is set
    /// aside for other inodes is given back first.
    fn search(&mut self, vol: &Volume, goal: Fsblk, want: u32, min: u32, ahead: u32) -> Result<Option<Run>> {
        if ahead > 0
            && let Some(run) = self.find_run(vol, goal, want.saturating_add(ahead), want)?
        {
            return Ok(Some(run));
        }
        let found = self.find_run(vol, goal, want, want)?;
        if found.is_some() || self.preallocated.is_empty() {
            return match found {
                None if min < want => self.find_run(vol, goal, want, min),
                found => Ok(found),
            };
        }
        self.discard_preallocations();
        self.find_run(vol, goal, want, min)
    }
}
