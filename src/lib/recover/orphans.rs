//! Orphans: inodes that were being deleted, or cut to their size, when the power failed. They are on a list that starts in
//! the superblock and goes on in each inode's deletion time, or in the blocks of the orphan file. Kernel name:
//! `ext4_orphan_cleanup` (`fs/ext4/orphan.c`).
//!
//! An inode without links is deleted, another loses what is behind its size. Each is done and off its list in one
//! transaction; a large one in several, from its end on.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::usage::Usage;
use super::{all_credits, is_damage, later, open_for_change, write_options};
use crate::alloc::Filesystem;
use crate::device::BlockDevice;
use crate::env::Timestamp;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::features::{Compat, Incompat, RoCompat};
use crate::format::inode::{FileType, TimeField};
use crate::format::orphan_file;
use crate::journal::{Journal, OnDamage, RecoverOptions, direct};
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::edit::modify_block;
use crate::volume::store::MetaStore;
use crate::volume::{MapKind, OpenInode, OpenOptions, Volume};

/// Extents that one transaction frees at most.
const STEP_EXTENTS: usize = 256;
/// Block groups whose blocks one transaction frees at most.
const STEP_GROUPS: u64 = 64;
/// Credits that must be left for another step in the same transaction.
const STEP_CREDITS: u64 = 700;

/// What was found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Orphans {
    /// Inodes deleted.
    pub deleted: u64,
    /// Files cut to their size.
    pub truncated: u64,
    /// There is an orphan file, and it was marked as in use.
    #[serde(skip)]
    pub from_file: bool,
    /// What was wrong with the list, as text; the rest of it was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// Clean up the orphans of the filesystem on `device`, whose journal is empty. Without orphans nothing is written.
///
/// # Errors
/// [`Error::Corrupt`] for a list that leads nowhere, unless salvaging; those of changing a filesystem.
pub fn clean_orphans(
    device: &Arc<dyn BlockDevice>,
    external: Option<Arc<dyn BlockDevice>>,
    options: RecoverOptions,
) -> Result<Orphans> {
    let volume = Volume::open(Arc::clone(device), &OpenOptions { verify_groups: false, ..OpenOptions::default() })?;
    let sb = volume.superblock();
    let features = sb.features();
    // Without an orphan file the mark means nothing: that is for a check to say.
    let present =
        features.ro_compat.contains(RoCompat::ORPHAN_PRESENT) && features.compat.contains(Compat::ORPHAN_FILE);
    if sb.last_orphan.get() == 0 && !present {
        return Ok(Orphans::default());
    }
    let write = write_options(device, options)?;
    let when = write.clock.now();
    let logged =
        sb.features().compat.contains(Compat::HAS_JOURNAL) && !sb.features().incompat.contains(Incompat::JOURNAL_DEV);
    let mut journal = if logged { Journal::open(&volume, external, write)? } else { direct::open(&volume, write)? };
    let fs = open_for_change(&journal)?;
    let usage = Usage::new(&fs.volume);
    let mut cleaner = Cleaner { fs, journal: &mut journal, when, done: Orphans::default(), usage };
    if let Err(e) = cleaner.run(present) {
        if options.on_damage == OnDamage::Refuse || !is_damage(&e) || cleaner.journal.is_poisoned() {
            return Err(e);
        }
        // What was cleaned up before is committed; the rest of this transaction is not trusted.
        cleaner.done.damage = Some(e.to_string());
        cleaner.journal.discard();
    }
    let done = cleaner.done;
    journal.close()?;
    Ok(done)
}

/// The inodes that are listed as orphans, as far as the list can be followed.
pub(super) fn listed(volume: &Volume) -> Result<BTreeSet<Ino>> {
    let mut all = BTreeSet::new();
    let sb = volume.superblock();
    let mut next = Ino(sb.last_orphan.get());
    while next.0 != 0 && next.0 <= volume.geometry().inodes_count && all.insert(next) {
        next = Ino(volume.raw_inode(next)?.core().dtime.get());
    }
    let ino = Ino(sb.orphan_file_inum.get());
    if ino.0 != 0 && sb.features().ro_compat.contains(RoCompat::ORPHAN_PRESENT) {
        let inode = volume.inode(ino)?;
        for e in volume.extents(crate::volume::Owner { ino, inode: &inode })? {
            for n in 0..u64::from(e.len) {
                let block = volume.block(e.pblk.saturating_add(n))?;
                all.extend(orphan_file::orphans(&block)?.map(|(_, ino)| ino));
            }
        }
    }
    Ok(all)
}

struct Cleaner<'c> {
    fs: Filesystem,
    journal: &'c mut Journal,
    when: Timestamp,
    done: Orphans,
    usage: Usage,
}

/// Where an inode is listed.
#[derive(Clone, Copy)]
enum Listed {
    /// At the head of the list; the next one.
    Head(Ino),
    /// In a slot of a block of the orphan file: its number in the file, and the slot's.
    Slot(Fsblk, usize),
}

impl Cleaner<'_> {
    fn run(&mut self, present: bool) -> Result<()> {
        self.list()?;
        if present {
            self.file()?;
            self.done.from_file = true;
        }
        let mut handle = self.journal.start(all_credits(self.journal))?;
        self.usage.store(&self.fs, &mut handle)?;
        self.fs.sync_counts(&mut handle)?;
        if present {
            self.fs.volume.store_superblock(&mut handle, |sb| {
                let mut features = sb.features();
                features.ro_compat -= RoCompat::ORPHAN_PRESENT;
                sb.set_features(features);
            })?;
        }
        self.commit()
    }

    fn list(&mut self) -> Result<()> {
        let mut seen = BTreeSet::new();
        loop {
            let ino = Ino(self.fs.volume.superblock().last_orphan.get());
            if ino.0 == 0 {
                return Ok(());
            }
            if !seen.insert(ino) {
                return Err(bad(Structure::OrphanList, ino));
            }
            let o = self.open(ino, Structure::OrphanList)?;
            // One that names itself is the last one.
            let next = Some(Ino(o.inode.core().dtime.get())).filter(|next| *next != ino).unwrap_or(Ino(0));
            self.clean(o, Listed::Head(next))?;
        }
    }

    fn file(&mut self) -> Result<()> {
        let ino = Ino(self.fs.volume.superblock().orphan_file_inum.get());
        if ino.0 == 0 {
            return Ok(());
        }
        let inode = self.fs.volume.inode(ino)?;
        let file = OpenInode { ino, inode };
        let seed = self.fs.volume.inode_seed(ino, &file.inode);
        for e in self.fs.volume.extents(file.owner())? {
            for n in 0..u64::from(e.len) {
                let block = e.pblk.saturating_add(n);
                let bytes = self.fs.volume.block(block)?.into_owned();
                if let Some(seed) = seed {
                    orphan_file::verify(&bytes, seed, block)?;
                }
                let slots: Vec<_> = orphan_file::orphans(&bytes)?.collect();
                for (slot, ino) in slots {
                    let o = self.open(ino, Structure::OrphanFile)?;
                    self.clean(o, Listed::Slot(block, slot))?;
                }
            }
        }
        Ok(())
    }

    /// A listed inode: in use, and of a kind that can be on the list.
    fn open(&self, ino: Ino, list: Structure) -> Result<OpenInode> {
        let geo = self.fs.volume.geometry();
        if ino.0 < geo.first_ino || ino.0 > geo.inodes_count || !self.fs.alloc.is_inode_used(&self.fs.volume, ino)? {
            return Err(bad(list, ino));
        }
        Ok(OpenInode { ino, inode: self.fs.volume.inode(ino)? })
    }

    fn clean(&mut self, mut o: OpenInode, listed: Listed) -> Result<()> {
        let delete = o.links() == 0;
        self.usage.subtract(&self.fs.volume, &o.inode);
        let size = u64::from(self.fs.volume.geometry().block_size);
        let first = if delete { 0 } else { o.inode.size().div_ceil(size) };
        let first = Lblk(u32::try_from(first).unwrap_or(u32::MAX));
        self.cut_in_steps(&mut o, first)?;
        if self.journal.room() < STEP_CREDITS.min(self.journal.max_blocks()) {
            self.commit()?;
        }
        let mut handle = self.journal.start(all_credits(self.journal))?;
        let mut edit = self.fs.edit(&mut handle);
        if delete {
            let when = later(self.when, o.inode.time(TimeField::Change));
            edit.delete_inode(&mut o, when)?;
            self.done.deleted += 1;
        } else {
            if edit.vol.map_kind(&o.inode) != MapKind::None {
                edit.truncate_blocks(&mut o, first)?;
            }
            if matches!(listed, Listed::Head(_)) {
                o.inode.update(|c| c.dtime.set(0));
            }
            edit.put(&mut o)?;
            clear_tail(edit.vol, edit.store, &o)?;
            self.usage.add(&self.fs.volume, &o.inode);
            self.done.truncated += 1;
        }
        match listed {
            Listed::Head(next) => self.fs.volume.store_superblock(&mut handle, |sb| sb.last_orphan.set(next.0)),
            Listed::Slot(block, slot) => {
                let file = Ino(self.fs.volume.superblock().orphan_file_inum.get());
                let inode = self.fs.volume.inode(file)?;
                let seed = self.fs.volume.inode_seed(file, &inode);
                modify_block(&mut handle, block, |bytes| {
                    let _ = orphan_file::set_slot(bytes, slot, Ino(0));
                    if let Some(seed) = seed {
                        orphan_file::stamp(bytes, seed, block);
                    }
                })
            }
        }
    }

    /// Free what is far behind `first` in transactions of their own, as long as there is more than one of them takes.
    fn cut_in_steps(&mut self, o: &mut OpenInode, first: Lblk) -> Result<()> {
        let most = u64::from(self.fs.volume.geometry().blocks_per_group) * STEP_GROUPS;
        let mut extents = self.fs.volume.extents(o.owner())?;
        extents.retain(|e| e.end() > first.0.into());
        while extents.len() > STEP_EXTENTS || extents.iter().map(|e| u64::from(e.len)).sum::<u64>() > most {
            let (mut blocks, mut cut) = (0u64, first);
            for _ in 0..STEP_EXTENTS {
                if blocks >= most {
                    break;
                }
                let Some(e) = extents.pop() else { break };
                blocks += u64::from(e.len);
                cut = Lblk(e.lblk.0.max(first.0));
            }
            let mut handle = self.journal.start(all_credits(self.journal))?;
            let mut edit = self.fs.edit(&mut handle);
            edit.truncate_blocks(o, cut)?;
            edit.put(o)?;
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        self.journal.commit()?;
        self.fs.committed();
        Ok(())
    }
}

/// Clear what is behind the size of a file in its last block.
fn clear_tail(volume: &Volume, store: &mut dyn MetaStore, o: &OpenInode) -> Result<()> {
    let block_size = u64::from(volume.geometry().block_size);
    let keep = o.inode.size() % block_size;
    if keep == 0 || o.inode.file_type() != Some(FileType::Regular) || volume.map_kind(&o.inode) == MapKind::None {
        return Ok(());
    }
    let lblk = Lblk(u32::try_from(o.inode.size() / block_size).unwrap_or(u32::MAX));
    let crate::volume::Mapping::Mapped { pblk, unwritten: false, .. } = volume.map(o.owner(), lblk)? else {
        return Ok(());
    };
    let mut bytes = store.read(pblk)?.to_vec();
    let tail = bytes.get_mut(keep as usize..).unwrap_or_default();
    if tail.iter().all(|b| *b == 0) {
        return Ok(());
    }
    tail.fill(0);
    store.write_data(pblk, &bytes)
}

const fn bad(of: Structure, ino: Ino) -> Error {
    Error::corrupt(Flaw::Field { of, field: "inode", value: ino.0 as u64 }, Place::FS)
}
