//! A journal for a filesystem that lost its own, when all else is right again: the bitmaps can be trusted then.

use std::sync::Arc;

use super::Hands;
use crate::alloc::Filesystem;
use crate::env::FixedClock;
use crate::error::{Error, Result};
use crate::format::features::{Compat, Incompat};
use crate::format::inode::{FileType, GOOD_OLD_SIZE, Inode, TimeField};
use crate::format::jbd2::JournalSuperblock;
use crate::journal::{JournalOptions, direct};
use crate::units::{Ino, Lblk};
use crate::volume::{OpenInode, OpenOptions, Volume, Wanted};

/// Blocks of the filesystem below which there is no journal, and the journal's blocks for those below each limit.
const SIZES: &[(u64, u32)] = &[
    (2048, 0),
    (32768, 1024),
    (256 << 10, 4096),
    (512 << 10, 8192),
    (4096 << 10, 16384),
    (8192 << 10, 32768),
    (16384 << 10, 65536),
    (32768 << 10, 131_072),
];
const LARGEST: u32 = 262_144;
/// Blocks that are cleared at a time.
const CHUNK: u32 = 256;

/// Blocks of a new journal; 0 where the filesystem is too small for one.
#[doc(alias = "ext2fs_default_journal_size")]
fn size(blocks: u64) -> u32 {
    SIZES.iter().find(|(limit, _)| blocks < *limit).map_or(LARGEST, |s| s.1)
}

/// Make a journal where the filesystem has room for one and is `sound`, else give up the feature; whether there is one now.
pub(super) fn journal(hands: &Hands<'_>, sound: bool) -> Result<bool> {
    let now = hands.options.check.now;
    let vol = Volume::open(Arc::clone(hands.dev), &OpenOptions::as_it_is())?;
    if vol.superblock().journal_inum.get() != 0 {
        return Ok(false);
    }
    let blocks = size(vol.geometry().blocks_count);
    if blocks == 0 || !sound {
        return give_up(hands);
    }
    let mut journal = direct::open_regardless(&vol, JournalOptions::new(Arc::new(FixedClock(now))))?;
    let mut fs = Filesystem::open(journal.view(), &OpenOptions::as_it_is())?;
    let credits = u32::try_from(journal.room()).unwrap_or(u32::MAX);
    let mut handle = journal.start(credits)?;
    let made = make(&mut fs, &mut handle, blocks, now);
    match made {
        Ok(()) => {
            journal.close()?;
            Ok(true)
        }
        Err(Error::NoSpace { .. }) => {
            journal.discard();
            journal.close()?;
            give_up(hands)
        }
        Err(e) => Err(e),
    }
}

/// There is no journal.
fn give_up(hands: &Hands<'_>) -> Result<bool> {
    let vol = Volume::open(Arc::clone(hands.dev), &OpenOptions::as_it_is())?;
    let write = JournalOptions::new(Arc::new(FixedClock(hands.options.check.now)));
    let mut journal = direct::open_regardless(&vol, write)?;
    let mut vol = Volume::open(journal.view(), &OpenOptions::as_it_is())?;
    let mut handle = journal.start(1)?;
    vol.store_superblock(&mut handle, |sb| {
        let mut f = sb.features();
        f.compat -= Compat::HAS_JOURNAL;
        sb.set_features(f);
    })?;
    journal.close()?;
    Ok(false)
}

fn make(
    fs: &mut Filesystem,
    handle: &mut crate::journal::Handle<'_>,
    blocks: u32,
    now: crate::env::Timestamp,
) -> Result<()> {
    let geo = fs.volume.geometry().clone();
    let uuid = fs.volume.superblock().uuid;
    let mut edit = fs.edit(handle);
    let mut inode = Inode::empty(geo.inode_size);
    inode.update(|c| {
        if usize::from(geo.inode_size) > GOOD_OLD_SIZE {
            c.extra_isize.set(32.min(geo.inode_size - GOOD_OLD_SIZE as u16));
        }
        c.mode.set(FileType::Regular.mode_bits() | 0o600);
        c.links_count.set(1);
    });
    for t in [TimeField::Access, TimeField::Change, TimeField::Modify] {
        inode.set_time(t, now);
    }
    let mut o = OpenInode { ino: Ino::JOURNAL, inode };
    edit.init_map(&mut o);
    let zeros = vec![0; (CHUNK * geo.block_size) as usize];
    let mut first = None;
    let mut at = 0;
    while at < blocks {
        let wanted = Wanted { lblk: Lblk(at), len: (blocks - at).min(CHUNK), unwritten: false, ahead: 0 };
        let got = edit.allocate_range(&mut o, wanted)?;
        let bytes = zeros.get(..got.len as usize * geo.block_size as usize).unwrap_or_default();
        edit.store.write_data(got.pblk, bytes)?;
        first.get_or_insert(got.pblk);
        at += got.len;
    }
    let mut block = JournalSuperblock::new(geo.block_size, blocks, uuid).encode().to_vec();
    block.resize(geo.block_size as usize, 0);
    if let Some(first) = first {
        edit.store.write_data(first, &block)?;
    }
    o.inode.set_size(u64::from(blocks) * u64::from(geo.block_size));
    edit.put(&mut o)?;
    let area = o.inode.block_area();
    let size = o.inode.size();
    fs.sync_counts(handle)?;
    fs.volume.store_superblock(handle, |sb| {
        let mut f = sb.features();
        f.compat |= Compat::HAS_JOURNAL;
        f.incompat -= Incompat::RECOVER;
        sb.set_features(f);
        sb.journal_inum.set(Ino::JOURNAL.0);
        for (to, from) in sb.jnl_blocks.iter_mut().zip(area.chunks_exact(4)) {
            to.set(from.first_chunk().map_or(0, |b| u32::from_le_bytes(*b)));
        }
        let [.., high, low] = &mut sb.jnl_blocks;
        high.set((size >> 32) as u32);
        low.set(size as u32);
        sb.jnl_backup_type = 1;
    })
}
