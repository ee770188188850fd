//! Opening: find the superblock, check it once, load the group descriptors.
//!
//! What comes out is a [`Volume`] whose geometry holds. Group descriptors are checked for block numbers and
//! checksums on request only ([`OpenOptions::verify_groups`]): a checker wants to open what is damaged.

use std::sync::Arc;

use super::{Geometry, Volume};
use crate::device::BlockDevice;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::features::Incompat;
use crate::format::group_desc::GroupDesc;
use crate::format::superblock::{self, Superblock};
use crate::units::{Fsblk, Group};

/// What to do about a journal that was not written back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirtyJournal {
    /// Refuse with [`Error::NeedsRecovery`].
    #[default]
    Refuse,
    /// Read the filesystem as it is without the journal; it may look inconsistent.
    Ignore,
}

/// How to open a filesystem.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Use the backup superblock at this block instead of the primary one.
    pub superblock: Option<Fsblk>,
    /// Block size in bytes, where `superblock` is given; otherwise it is tried.
    pub block_size: Option<u32>,
    /// Where the primary superblock is no good, look for a backup at the usual places.
    pub search_backups: bool,
    /// What to do about a journal that was not written back.
    pub dirty_journal: DirtyJournal,
    /// Compare checksums of everything that is read.
    pub verify_checksums: bool,
    /// Check every group descriptor's block numbers and checksum when opening.
    pub verify_groups: bool,
    /// Accept a device that is shorter than the filesystem; reading beyond it fails then.
    pub allow_truncated: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            superblock: None,
            block_size: None,
            search_backups: false,
            dirty_journal: DirtyJournal::Refuse,
            verify_checksums: true,
            verify_groups: true,
            allow_truncated: false,
        }
    }
}

impl OpenOptions {
    /// Open whatever is there, as it is: without its journal, and with nothing held against a checksum.
    pub fn as_it_is() -> Self {
        Self {
            dirty_journal: DirtyJournal::Ignore,
            verify_checksums: false,
            verify_groups: false,
            allow_truncated: true,
            ..Self::default()
        }
    }
}

/// Block sizes in the order in which they are tried when looking for a backup.
const BLOCK_SIZES: [u32; 7] = [1024, 2048, 4096, 8192, 16384, 32768, 65536];

impl Volume {
    /// Open the filesystem on `dev`.
    ///
    /// Errors: [`Error::NotExt4`], [`Error::Corrupt`] in the superblock (or a group descriptor),
    /// [`Error::Unsupported`] features, [`Error::DeviceTooSmall`], [`Error::NeedsRecovery`], or reading failed.
    pub fn open(dev: Arc<dyn BlockDevice>, options: &OpenOptions) -> Result<Self> {
        let (sb, geo, at) = find_superblock(&*dev, options)?;
        let unreadable = sb.features().unreadable();
        if !unreadable.is_empty() {
            return Err(Error::Unsupported { features: unreadable });
        }
        if !options.allow_truncated && dev.len() < geo.total_bytes() {
            return Err(Error::DeviceTooSmall { need: geo.total_bytes(), have: dev.len() });
        }
        if sb.features().incompat.contains(Incompat::RECOVER) && options.dirty_journal == DirtyJournal::Refuse {
            return Err(Error::NeedsRecovery);
        }
        let gdt = load_descriptors(&*dev, &geo, at)?;
        let volume = Self { dev, sb, geo, gdt, verify: options.verify_checksums };
        if options.verify_groups {
            for group in volume.geo.all_groups() {
                volume.check_group(group)?;
            }
        }
        Ok(volume)
    }

    /// Check one group descriptor: its bitmaps and inode table inside the filesystem, its checksum right.
    pub fn check_group(&self, group: Group) -> Result<()> {
        let raw = self.raw_group(group)?;
        let desc = GroupDesc::decode(raw)?;
        let place = Place::group(group);
        let tables = [
            (desc.block_bitmap(), 1),
            (desc.inode_bitmap(), 1),
            (desc.inode_table(), u64::from(self.geo.itable_blocks)),
        ];
        for (block, len) in tables {
            if !self.geo.has_range(block, len) {
                return Err(Error::corrupt(Flaw::BlockOutOfRange { of: Structure::GroupDesc, block }, place));
            }
        }
        if !self.verify {
            return Ok(());
        }
        let stored = desc.checksum.get();
        match desc.computed_checksum(self.geo.checksums, group, self.geo.desc_size, raw) {
            Some(computed) if computed != stored => {
                let flaw =
                    Flaw::Checksum { of: Structure::GroupDesc, stored: stored.into(), computed: computed.into() };
                Err(Error::corrupt(flaw, place))
            }
            _ => Ok(()),
        }
    }
}

/// The superblock to use, its geometry, and the block it was found at (0 for the primary one).
fn find_superblock(dev: &dyn BlockDevice, options: &OpenOptions) -> Result<(Superblock, Geometry, Fsblk)> {
    if let Some(block) = options.superblock {
        let sizes = options.block_size.as_ref().map_or(&BLOCK_SIZES[..], std::slice::from_ref);
        let mut first_error = None;
        for &size in sizes {
            match read_backup(dev, block, size) {
                Ok((sb, geo)) => return Ok((sb, geo, block)),
                Err(e) => first_error = first_error.or(Some(e)),
            }
        }
        return Err(first_error.unwrap_or(Error::NotExt4 { offset: 0, found: 0 }));
    }
    let primary = read_superblock(dev, superblock::OFFSET).and_then(|sb| Ok((Geometry::new(&sb)?, sb)));
    match primary {
        Ok((geo, sb)) => Ok((sb, geo, Fsblk(0))),
        Err(e) if options.search_backups && e.is_corruption() => search_backup(dev).ok_or(e),
        Err(e) => Err(e),
    }
}

fn read_superblock(dev: &dyn BlockDevice, offset: u64) -> Result<Superblock> {
    let mut bytes = [0; superblock::SIZE];
    let size = superblock::SIZE as u64;
    if dev.len() < offset.saturating_add(size) {
        return Err(Error::DeviceTooSmall { need: offset.saturating_add(size), have: dev.len() });
    }
    dev.read_at(offset, &mut bytes)?;
    match Superblock::decode(&bytes) {
        Err(Error::NotExt4 { found, .. }) => Err(Error::NotExt4 { offset, found }),
        other => other,
    }
}

/// A backup superblock at `block` of a filesystem with blocks of `size` bytes.
fn read_backup(dev: &dyn BlockDevice, block: Fsblk, size: u32) -> Result<(Superblock, Geometry)> {
    let offset = if block.0 == 0 { superblock::OFFSET } else { block.0.saturating_mul(size.into()) };
    let sb = read_superblock(dev, offset)?;
    let geo = Geometry::new(&sb)?;
    if geo.block_size != size {
        let flaw =
            Flaw::Field { of: Structure::Superblock, field: "log_block_size", value: sb.log_block_size.get().into() };
        return Err(Error::corrupt(flaw, Place::block(block)));
    }
    Ok((sb, geo))
}

/// The first good backup at the places where mke2fs puts them: the start of groups 1, 3, 5, 7, … with the default
/// number of blocks per group, for each block size.
fn search_backup(dev: &dyn BlockDevice) -> Option<(Superblock, Geometry, Fsblk)> {
    for size in BLOCK_SIZES {
        let per_group = u64::from(size).saturating_mul(8);
        for group in [1u64, 3, 5, 7, 9, 25, 27, 49] {
            let block = Fsblk(group.saturating_mul(per_group).saturating_add(u64::from(size == 1024)));
            if let Ok((sb, geo)) = read_backup(dev, block, size)
                && u64::from(sb.block_group_nr.get()) == group
            {
                return Some((sb, geo, block));
            }
        }
    }
    None
}

/// The raw group descriptors in order, without the padding at the ends of blocks.
fn load_descriptors(dev: &dyn BlockDevice, geo: &Geometry, super_block: Fsblk) -> Result<Vec<u8>> {
    let desc_size = usize::from(geo.desc_size);
    let total = (geo.groups as usize).saturating_mul(desc_size);
    let block_size = geo.block_size as usize;
    let mut gdt = vec![0; total];
    for (index, chunk) in gdt.chunks_mut(block_size).enumerate() {
        let block = geo.gdt_block(super_block, index as u32);
        if !geo.has_block(block) {
            let flaw = Flaw::BlockOutOfRange { of: Structure::GroupDesc, block };
            return Err(Error::corrupt(flaw, Place::block(block)));
        }
        dev.read_at(geo.byte_of(block), chunk)?;
    }
    Ok(gdt)
}
