//! What recovery changes in the use of space and inodes, by owner, for the quota files that the filesystem keeps hidden
//! (`quota`). Space in bytes.

use std::collections::BTreeMap;

use crate::alloc::Filesystem;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::features::RoCompat;
use crate::format::inode::{Inode, InodeFlags};
use crate::format::quota::{Quota, QuotaKind};
use crate::units::{Fsblk, Ino};
use crate::volume::store::MetaStore;
use crate::volume::{Owner, Volume};

/// Largest quota file that is rewritten, bytes: 4 million entries.
const MAX_FILE: usize = 1 << 30;

/// Changes by kind and id: bytes and inodes.
#[derive(Debug)]
pub(super) struct Usage {
    enabled: bool,
    changes: BTreeMap<(QuotaKind, u32), (i64, i64)>,
}

impl Usage {
    /// For `volume`; nothing is counted where it has no quota files.
    pub(super) const fn new(volume: &Volume) -> Self {
        let enabled = volume.superblock().features().ro_compat.contains(RoCompat::QUOTA);
        Self { enabled, changes: BTreeMap::new() }
    }

    /// An inode as it was.
    pub(super) fn subtract(&mut self, volume: &Volume, inode: &Inode) {
        self.count(volume, inode, -1);
    }

    /// An inode as it is now.
    pub(super) fn add(&mut self, volume: &Volume, inode: &Inode) {
        self.count(volume, inode, 1);
    }

    fn count(&mut self, volume: &Volume, inode: &Inode, sign: i64) {
        if !self.enabled {
            return;
        }
        let geo = volume.geometry();
        let in_blocks =
            geo.features.ro_compat.contains(RoCompat::HUGE_FILE) && inode.flags().contains(InodeFlags::HUGE_FILE);
        let unit = if in_blocks { geo.block_size.into() } else { 512 };
        let bytes = inode.blocks_raw().saturating_mul(unit) as i64;
        let ids = [
            (QuotaKind::User, inode.uid()),
            (QuotaKind::Group, inode.gid()),
            (QuotaKind::Project, inode.core().projid.get()),
        ];
        for key in ids {
            let change = self.changes.entry(key).or_default();
            change.0 += sign * bytes;
            change.1 += sign;
        }
    }

    /// Bring the quota files up to date.
    pub(super) fn store(&self, fs: &Filesystem, store: &mut dyn MetaStore) -> Result<()> {
        let sb = fs.volume.superblock();
        let files = [
            (QuotaKind::User, sb.usr_quota_inum.get()),
            (QuotaKind::Group, sb.grp_quota_inum.get()),
            (QuotaKind::Project, sb.prj_quota_inum.get()),
        ];
        for (kind, ino) in files {
            let changes = self.changes.range((kind, 0)..=(kind, u32::MAX)).map(|(k, c)| (k.1, *c));
            let changes: Vec<_> = changes.filter(|(_, c)| *c != (0, 0)).collect();
            if ino != 0 && !changes.is_empty() {
                rewrite(&fs.volume, store, kind, Ino(ino), &changes).map_err(|e| e.at(Place::inode(Ino(ino))))?;
            }
        }
        Ok(())
    }
}

fn rewrite(
    volume: &Volume,
    store: &mut dyn MetaStore,
    kind: QuotaKind,
    ino: Ino,
    changes: &[(u32, (i64, i64))],
) -> Result<()> {
    let inode = volume.inode(ino)?;
    let owner = Owner { ino, inode: &inode };
    let large = Flaw::Field { of: Structure::Quota, field: "size", value: inode.size() };
    let Some(old) = volume.reader(owner)?.read_all(MAX_FILE)? else {
        return Err(Error::corrupt(large, Place::FS));
    };
    let mut quota = Quota::decode(&old, kind)?;
    for (id, (bytes, inodes)) in changes {
        let entry = quota.entries.entry(*id).or_default();
        entry.space = entry.space.saturating_add_signed(*bytes);
        entry.inodes = entry.inodes.saturating_add_signed(*inodes);
    }
    let mut new = quota.encode(kind);
    if new.len() > old.len() {
        // An owner that the file has never seen, and no room for it: left to a check.
        return Ok(());
    }
    new.resize(old.len(), 0);
    let size = volume.geometry().block_size as usize;
    let mut old = old;
    old.resize(old.len().next_multiple_of(size), 0);
    new.resize(old.len(), 0);
    for e in volume.extents(owner)? {
        for n in 0..e.len {
            let at = (e.lblk.0 as usize).saturating_add(n as usize).saturating_mul(size);
            let (Some(was), Some(is)) = (old.get(at..at + size), new.get(at..at + size)) else { break };
            if was != is {
                store.write(Fsblk(e.pblk.0.saturating_add(n.into())), is.into())?;
            }
        }
    }
    Ok(())
}
