//! Fast commits carried out: ranges mapped and unmapped, inodes written, names added and removed, in the order of the
//! records, as one transaction. Kernel names: `ext4_fc_replay_*` (`fs/ext4/fast_commit.c`).
//!
//! Records say what is, not how: the same one may be carried out on what it describes already. They hold no bitmaps, no
//! counts and nothing about directories but the names, so those follow from the changes. All blocks that the records
//! map are taken before anything else is, so that nothing is put on them.
//!
//! The number of links of a file is that of its last inode record, and what names did since; a directory has those that
//! its names make. A file whose last name goes is deleted.

use std::collections::BTreeSet;

use super::orphans::listed;
use super::usage::Usage;
use super::{all_credits, later, open_for_change};
use crate::alloc::Filesystem;
use crate::env::Timestamp;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::extent::Extent;
use crate::format::fast_commit::{Dentry, Record};
use crate::format::inode::{FileType, Inode, InodeFlags, TimeField};
use crate::journal::{FastCommits, Journal};
use crate::units::{Ino, Lblk};
use crate::volume::store::MetaStore;
use crate::volume::{MapKind, Mapping, OpenInode};

/// Where `block` and `generation` are in an inode: what is between is the map, which records of ranges change.
const BLOCK_AT: usize = 0x28;
const GENERATION_AT: usize = 0x64;
/// Magic number that an extent tree's root starts with.
const EXTENT_MAGIC: [u8; 2] = 0xf30a_u16.to_le_bytes();

/// How many records of each kind were carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Applied {
    /// Ranges mapped.
    pub added: u64,
    /// Ranges unmapped.
    pub removed: u64,
    /// Inodes created.
    pub created: u64,
    /// Names added.
    pub linked: u64,
    /// Names removed.
    pub unlinked: u64,
    /// Inodes written.
    pub inodes: u64,
}

/// Carry out `fast` in the journal's running transaction, which the caller commits.
pub(super) fn apply(fast: &FastCommits, journal: &mut Journal, when: Timestamp) -> Result<Applied> {
    let mut fs = open_for_change(journal)?;
    let mut handle = journal.start(all_credits(journal))?;
    let usage = Usage::new(&fs.volume);
    let orphans = listed(&fs.volume)?;
    let mut replay = Replay {
        orphans,
        fs: &mut fs,
        store: &mut handle,
        when,
        touched: BTreeSet::new(),
        done: Applied::default(),
        usage,
    };
    for record in fast.records() {
        if let Record::AddRange { extent, .. } = record {
            let Filesystem { volume, alloc } = &mut *replay.fs;
            alloc.claim_blocks(volume, replay.store, extent.pblk, extent.len)?;
        }
    }
    for record in fast.records() {
        replay.record(&record)?;
    }
    replay.finish()
}

struct Replay<'r> {
    fs: &'r mut Filesystem,
    store: &'r mut dyn MetaStore,
    when: Timestamp,
    /// Inodes that records were about, and that are there.
    touched: BTreeSet<Ino>,
    done: Applied,
    usage: Usage,
    /// Inodes whose end is already provided for.
    orphans: BTreeSet<Ino>,
}

impl Replay<'_> {
    fn record(&mut self, record: &Record<'_>) -> Result<()> {
        match *record {
            Record::AddRange { ino, extent } => self.add_range(ino, extent),
            Record::DelRange { ino, lblk, len } => self.del_range(ino, lblk, len),
            Record::Create(d) => self.create(d),
            Record::Link(d) => self.link(d),
            Record::Unlink(d) => self.unlink(d),
            Record::Inode { ino, raw } => self.inode(ino, raw),
            Record::Pad { .. } | Record::Tail { .. } | Record::Head { .. } => Ok(()),
        }
        .map_err(|e| e.at(Place::FS))
    }

    /// An inode in use; `None` where its number is free.
    fn find(&mut self, ino: Ino) -> Result<Option<OpenInode>> {
        if ino.0 < self.fs.volume.geometry().first_ino && ino != Ino::ROOT {
            return Err(bad("inode", ino.0.into()));
        }
        if !self.fs.alloc.is_inode_used(&self.fs.volume, ino)? {
            return Ok(None);
        }
        let o = self.fs.edit(self.store).open(ino)?;
        if self.touched.insert(ino) {
            self.usage.subtract(&self.fs.volume, &o.inode);
        }
        Ok(Some(o))
    }

    fn directory(&mut self, ino: Ino) -> Result<OpenInode> {
        match self.find(ino)? {
            Some(o) if o.is_dir() => Ok(o),
            _ => Err(bad("parent", ino.0.into())),
        }
    }

    fn put(&mut self, o: &mut OpenInode) -> Result<()> {
        self.fs.edit(self.store).put(o)
    }

    #[doc(alias = "ext4_fc_replay_add_range")]
    fn add_range(&mut self, ino: Ino, extent: Extent) -> Result<()> {
        let Some(mut o) = self.find(ino)? else { return Ok(()) };
        if o.is_dir() || self.fs.volume.map_kind(&o.inode) == MapKind::None {
            return Err(bad("inode", ino.0.into()));
        }
        let mut at = u64::from(extent.lblk.0);
        while at < extent.end() {
            let lblk = Lblk(at as u32);
            let skip = at - u64::from(extent.lblk.0);
            let pblk = extent.pblk.saturating_add(skip);
            let left = extent.end() - at;
            match self.fs.volume.map(o.owner(), lblk)? {
                Mapping::Hole { len } => {
                    let len = len.min(left) as u32;
                    self.map(&mut o, Extent { lblk, len, pblk, unwritten: extent.unwritten })?;
                    at += u64::from(len);
                }
                Mapping::Mapped { pblk: have, len, unwritten } => {
                    let end = at + len.min(left);
                    let mut edit = self.fs.edit(self.store);
                    if have == pblk {
                        if unwritten != extent.unwritten {
                            edit.convert_extents(&mut o, lblk, end, extent.unwritten)?;
                        }
                        at = end;
                    } else {
                        // Mapped in the next round.
                        edit.remove_blocks(&mut o, lblk, end)?;
                    }
                }
            }
        }
        self.done.added += 1;
        self.put(&mut o)
    }

    /// Map blocks of a hole, and count the clusters that the file did not have.
    fn map(&mut self, o: &mut OpenInode, new: Extent) -> Result<()> {
        let Filesystem { volume, alloc } = &mut *self.fs;
        alloc.claim_blocks(volume, self.store, new.pblk, new.len)?;
        let mut edit = self.fs.edit(self.store);
        let ratio = u64::from(edit.vol.geometry().cluster_ratio);
        let (first, last) = (u64::from(new.lblk.0) / ratio, (new.end() - 1) / ratio);
        let mut clusters = last - first + 1;
        if edit.cluster_in_use(o, new.lblk)?.is_some() {
            clusters -= 1;
        }
        if last > first && edit.cluster_in_use(o, Lblk((new.end() - 1) as u32))?.is_some() {
            clusters -= 1;
        }
        edit.map_blocks(o, new)?;
        edit.count_clusters(o, clusters as i64)
    }

    #[doc(alias = "ext4_fc_replay_del_range")]
    fn del_range(&mut self, ino: Ino, lblk: Lblk, len: u32) -> Result<()> {
        let Some(mut o) = self.find(ino)? else { return Ok(()) };
        if o.is_dir() {
            return Err(bad("inode", ino.0.into()));
        }
        let end = u64::from(lblk.0) + u64::from(len);
        self.fs.edit(self.store).remove_blocks(&mut o, lblk, end)?;
        self.done.removed += 1;
        self.put(&mut o)
    }

    #[doc(alias = "ext4_fc_replay_inode")]
    fn inode(&mut self, ino: Ino, raw: &[u8]) -> Result<()> {
        let size = usize::from(self.fs.volume.geometry().inode_size);
        let old = self.find(ino)?;
        let mut slot = old.as_ref().map_or_else(|| vec![0; size], |o| o.inode.as_bytes().to_vec());
        let raw = raw.get(..size).unwrap_or(raw);
        let (Some(front), Some(back)) = (raw.get(..BLOCK_AT), raw.get(GENERATION_AT..)) else {
            return Err(bad("inode", ino.0.into()));
        };
        slot[..BLOCK_AT].copy_from_slice(front);
        slot[GENERATION_AT..GENERATION_AT + back.len()].copy_from_slice(back);
        let mut o = OpenInode { ino, inode: Inode::decode(&slot)? };
        let recorded = Inode::decode(raw)?;
        keep(&mut o, old.as_ref());
        if o.has(InodeFlags::EXTENTS) {
            if !o.inode.block_area().starts_with(&EXTENT_MAGIC) {
                self.fs.edit(self.store).init_extents(&mut o);
            }
        } else if o.has(InodeFlags::INLINE_DATA) || !has_map(&recorded) {
            o.inode.update(|c| c.block = recorded.block_area());
        }
        if old.is_none() {
            let Filesystem { volume, alloc } = &mut *self.fs;
            alloc.claim_inode(volume, self.store, ino, o.is_dir())?;
            self.touched.insert(ino);
        }
        self.done.inodes += 1;
        self.put(&mut o)
    }

    #[doc(alias = "ext4_fc_replay_create")]
    fn create(&mut self, d: Dentry<'_>) -> Result<()> {
        let Some(mut o) = self.find(d.ino)? else { return Err(bad("inode", d.ino.0.into())) };
        if o.is_dir() && o.inode.size() == 0 {
            let time = o.inode.time(TimeField::Modify);
            self.fs.edit(self.store).init_dir(&mut o, d.parent)?;
            o.inode.set_time(TimeField::Modify, time);
            self.put(&mut o)?;
        }
        if self.add_name(&o, d)? && !o.is_dir() {
            o.set_links(1);
            self.put(&mut o)?;
        }
        self.done.created += 1;
        Ok(())
    }

    #[doc(alias = "ext4_fc_replay_link")]
    fn link(&mut self, d: Dentry<'_>) -> Result<()> {
        let Some(mut o) = self.find(d.ino)? else { return Err(bad("inode", d.ino.0.into())) };
        if self.add_name(&o, d)? && !o.is_dir() {
            o.set_links(o.links().saturating_add(1));
            self.put(&mut o)?;
        }
        self.done.linked += 1;
        Ok(())
    }

    /// Add a name, and a directory's link to its parent; `false` where it is there already.
    fn add_name(&mut self, o: &OpenInode, d: Dentry<'_>) -> Result<bool> {
        let mut dir = self.directory(d.parent)?;
        let Some(kind) = o.inode.file_type() else { return Err(bad("mode", o.inode.core().mode.get().into())) };
        match self.fs.volume.lookup(dir.owner(), d.name)? {
            Some(ino) if ino == d.ino => return Ok(false),
            Some(ino) => return Err(bad("name", ino.0.into())),
            None => {}
        }
        let mut edit = self.fs.edit(self.store);
        edit.add_entry(&mut dir, d.name, d.ino, kind)?;
        if kind == FileType::Directory {
            edit.add_link(&mut dir)?;
        }
        changed(&mut dir, o);
        self.put(&mut dir)?;
        Ok(true)
    }

    #[doc(alias = "ext4_fc_replay_unlink")]
    fn unlink(&mut self, d: Dentry<'_>) -> Result<()> {
        let Some(mut dir) = self.find(d.parent)?.filter(OpenInode::is_dir) else { return Ok(()) };
        let Some(found) = self.fs.volume.lookup(dir.owner(), d.name)? else { return Ok(()) };
        let target = self.find(d.ino)?;
        let was_dir = target.as_ref().is_some_and(OpenInode::is_dir);
        let mut edit = self.fs.edit(self.store);
        if found == d.ino {
            edit.remove_entry(&mut dir, d.name)?;
            if was_dir {
                edit.drop_link(&mut dir);
            }
            if let Some(o) = &target {
                changed(&mut dir, o);
            }
            edit.put(&mut dir)?;
        }
        self.done.unlinked += 1;
        let Some(mut o) = target else { return Ok(()) };
        let links = if was_dir { 0 } else { o.links().saturating_sub(1) };
        o.set_links(links);
        if links == 0 && !self.orphans.contains(&o.ino) {
            return self.delete(&mut o);
        }
        self.put(&mut o)
    }

    fn delete(&mut self, o: &mut OpenInode) -> Result<()> {
        self.touched.remove(&o.ino);
        let when = later(self.when, o.inode.time(TimeField::Change));
        self.fs.edit(self.store).delete_inode(o, when)
    }

    /// Delete what has no names, and bring counts up to date.
    fn finish(mut self) -> Result<Applied> {
        for ino in std::mem::take(&mut self.touched) {
            let mut o = self.fs.edit(self.store).open(ino)?;
            if o.links() == 0 && !self.orphans.contains(&ino) && !o.is_dir() {
                let when = later(self.when, o.inode.time(TimeField::Change));
                self.fs.edit(self.store).delete_inode(&mut o, when)?;
            } else {
                self.usage.add(&self.fs.volume, &o.inode);
            }
        }
        self.usage.store(self.fs, self.store)?;
        self.fs.sync_counts(self.store)?;
        Ok(self.done)
    }
}

/// What a record does not decide: counts of blocks, the place in the orphan list, and a directory's blocks.
fn keep(o: &mut OpenInode, old: Option<&OpenInode>) {
    let blocks = old.map_or(0, |old| old.inode.blocks_raw());
    o.inode.set_blocks_raw(blocks);
    o.set(InodeFlags::HUGE_FILE, old.is_some_and(|old| old.has(InodeFlags::HUGE_FILE)));
    let dtime = old.map_or(0, |old| old.inode.core().dtime.get());
    o.inode.update(|c| c.dtime.set(dtime));
    if !o.is_dir() {
        return;
    }
    match old {
        Some(old) if old.is_dir() => {
            o.inode.set_size(old.inode.size());
            for flag in [InodeFlags::INDEX, InodeFlags::EXTENTS, InodeFlags::INLINE_DATA] {
                o.set(flag, old.has(flag));
            }
            o.inode.update(|c| c.block = old.inode.block_area());
            o.set_links(old.links());
        }
        _ => {
            // Its first block comes with its name.
            o.inode.set_size(0);
            o.set(InodeFlags::INDEX, false);
        }
    }
}

/// Whether an inode's `block` array is a map, and not content.
fn has_map(inode: &Inode) -> bool {
    matches!(inode.file_type(), Some(FileType::Regular | FileType::Directory))
        || (inode.file_type() == Some(FileType::Symlink) && inode.size() >= 60)
}

/// A directory changes when its entries do: at the time of what they are about.
fn changed(dir: &mut OpenInode, o: &OpenInode) {
    let time = o.inode.time(TimeField::Change);
    for field in [TimeField::Modify, TimeField::Change] {
        let new = later(dir.inode.time(field), time);
        dir.inode.set_time(field, new);
    }
}

const fn bad(field: &'static str, value: u64) -> Error {
    Error::corrupt(Flaw::Field { of: Structure::FastCommit, field, value }, Place::FS)
}
