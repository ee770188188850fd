//! Quota usage, kept right: what operations add and take is gathered, and brought into the quota files before a commit.
//! Space in bytes.
//!
//! Counted is what the kernel counts: the blocks and the number of every inode but the reserved ones, the quota files and
//! the orphan file; inodes that hold attribute values count for those who use them.

use std::collections::BTreeMap;

use super::edit::{Edit, OpenInode};
use super::{Mapping, Volume, Wanted};
use crate::error::Result;
use crate::format::inode::{Inode, InodeFlags};
use crate::format::quota::{Quota, QuotaKind};
use crate::units::{Ino, Lblk};

/// Largest quota file that is read.
const MAX_FILE: usize = 1 << 30;

/// More or less for one id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Delta {
    space: i64,
    inodes: i64,
}

/// A quota file and what is to be brought into it.
#[derive(Debug)]
struct QuotaFile {
    kind: QuotaKind,
    ino: Ino,
    changes: BTreeMap<u32, Delta>,
}

/// Changes that are not in the quota files yet.
#[derive(Debug, Default)]
pub struct QuotaChanges {
    kinds: Vec<QuotaFile>,
    first_ino: u32,
    /// Inodes that are not counted.
    own: Vec<Ino>,
}

impl QuotaChanges {
    /// None yet, of the quota files that `vol` has.
    pub fn new(vol: &Volume) -> Self {
        let sb = vol.superblock();
        let files = [
            (QuotaKind::User, sb.usr_quota_inum.get()),
            (QuotaKind::Group, sb.grp_quota_inum.get()),
            (QuotaKind::Project, sb.prj_quota_inum.get()),
        ];
        let on = vol.geometry().features.ro_compat.contains(crate::format::features::RoCompat::QUOTA);
        let mut own = vec![Ino(sb.orphan_file_inum.get())];
        own.extend(files.iter().map(|f| Ino(f.1)));
        let kinds = files.into_iter().filter(|f| on && f.1 != 0);
        let kinds = kinds.map(|(kind, n)| QuotaFile { kind, ino: Ino(n), changes: BTreeMap::new() }).collect();
        Self { kinds, first_ino: vol.geometry().first_ino, own }
    }

    /// Whether quotas are kept.
    pub fn is_on(&self) -> bool {
        !self.kinds.is_empty()
    }

    fn counts(&self, ino: Ino) -> bool {
        ino == Ino::ROOT || (ino.0 >= self.first_ino && !self.own.contains(&ino))
    }

    /// An inode is `new` and was `old`; one without links is none.
    pub fn replace(&mut self, ino: Ino, old: Option<&Inode>, new: Option<&Inode>, block_size: u32) {
        if !self.counts(ino) {
            return;
        }
        for (inode, sign) in old.into_iter().map(|i| (i, -1_i64)).chain(new.into_iter().map(|i| (i, 1_i64))) {
            if inode.core().links_count.get() != 0 && !inode.flags().contains(InodeFlags::EA_INODE) {
                let space = sign.saturating_mul(i64::try_from(inode.allocated_bytes(block_size)).unwrap_or(i64::MAX));
                self.add(inode, Delta { space, inodes: sign });
            }
        }
    }

    /// Count more (or fewer) inodes for an inode's owner.
    pub fn add_inodes(&mut self, inode: &Inode, inodes: i64) {
        if inodes != 0 {
            self.add(inode, Delta { space: 0, inodes });
        }
    }

    fn add(&mut self, inode: &Inode, by: Delta) {
        for k in &mut self.kinds {
            let id = match k.kind {
                QuotaKind::User => inode.uid(),
                QuotaKind::Group => inode.gid(),
                QuotaKind::Project => inode.core().projid.get(),
            };
            let delta = k.changes.entry(id).or_default();
            delta.space = delta.space.saturating_add(by.space);
            delta.inodes = delta.inodes.saturating_add(by.inodes);
        }
    }
}

/// Bring what has changed into the quota files.
///
/// # Errors
/// [`crate::Error::NoSpace`], [`crate::Error::Corrupt`] quota files.
pub fn sync(edit: &mut Edit<'_>, changes: &mut QuotaChanges) -> Result<()> {
    for k in &mut changes.kinds {
        k.changes.retain(|_, d| *d != Delta::default());
        if !k.changes.is_empty() {
            let all = std::mem::take(&mut k.changes);
            update(edit, k.kind, k.ino, &all)?;
        }
    }
    Ok(())
}

fn update(edit: &mut Edit<'_>, kind: QuotaKind, file: Ino, changes: &BTreeMap<u32, Delta>) -> Result<()> {
    let mut o = edit.open(file)?;
    let old = edit.vol.reader(o.owner())?.read_all(MAX_FILE)?.unwrap_or_default();
    let mut quota = Quota::decode(&old, kind)?;
    let mut new = old.clone();
    let mut in_place = true;
    for (id, delta) in changes {
        let e = quota.entries.entry(*id).or_default();
        e.space = e.space.saturating_add_signed(delta.space);
        e.inodes = e.inodes.saturating_add_signed(delta.inodes);
        in_place = in_place && Quota::patch(&mut new, *id, e);
    }
    if !in_place {
        // Somebody new: the file is laid out anew.
        new = quota.encode(kind);
    }
    write(edit, &mut o, &old, new)
}

/// Write the blocks of a file that differ. The file does not become shorter.
fn write(edit: &mut Edit<'_>, o: &mut OpenInode, old: &[u8], mut new: Vec<u8>) -> Result<()> {
    let bs = edit.block_size();
    let size = new.len().max(old.len());
    new.resize(size.next_multiple_of(bs), 0);
    for (n, block) in new.chunks(bs).enumerate() {
        let at = n.saturating_mul(bs);
        let lblk = Lblk(n as u32);
        let mapped = match edit.vol.map(o.owner(), lblk)? {
            Mapping::Mapped { pblk, unwritten: false, .. } => Some(pblk),
            _ => None,
        };
        let was = old.get(at..at.saturating_add(bs).min(old.len())).unwrap_or_default();
        let same = was.iter().eq(block.iter().take(was.len())) && block.iter().skip(was.len()).all(|b| *b == 0);
        let credits = edit.store.credits();
        if !same && credits < 16 {
            edit.store.extend(16)?;
        }
        match mapped {
            Some(_) if same => {}
            Some(pblk) => edit.store.write(pblk, block.into())?,
            None if block.iter().all(|b| *b == 0) => {}
            None => {
                let got = edit.allocate_range(o, Wanted { lblk, len: 1, unwritten: false, ahead: 0 })?;
                edit.store.create(got.pblk, block.into())?;
            }
        }
    }
    if o.inode.size() < size as u64 {
        o.inode.set_size(size as u64);
        edit.put(o)?;
    }
    Ok(())
}
