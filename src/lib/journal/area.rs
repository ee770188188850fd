//! Where a journal's blocks are: in the blocks of an inode, or on a device of its own. Journal blocks are numbered from 0
//! (the superblock's, of an internal journal); offsets are in bytes of the device that holds them.
//!
//! An external journal starts with an ext4 superblock that has the `journal_dev` feature; the journal's own
//! superblock is in the block behind it, and journal block `n` is block `n` of that device.
//!
//! Invariant: every block below [`LogArea::blocks`] has a place inside the device, or the area could not be opened.

use std::sync::Arc;

use crate::device::{BlockDevice, FrozenView};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::features::Incompat;
use crate::format::inode::{FileType, GOOD_OLD_SIZE, Inode, InodeFlags};
use crate::format::jbd2::{JournalSuperblock, MIN_BLOCKS, SUPERBLOCK_SIZE};
use crate::format::superblock::{self, Superblock};
use crate::units::{Fsblk, Ino};
use crate::volume::{Owner, Volume};

/// Magic number of an extent node, as the backup of the journal inode's map shows it.
const EXTENT_MAGIC: u32 = 0xf30a;
/// Words of the `block` array in the superblock's backup of the journal inode; the size follows (high, low).
const BACKUP_WORDS: usize = 15;

/// Contiguous blocks of the area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u32,
    len: u32,
    byte: u64,
}

/// The blocks of a journal.
#[derive(Clone)]
pub struct LogArea {
    device: Arc<dyn BlockDevice>,
    runs: Vec<Run>,
    block_size: u32,
    blocks: u32,
    superblock_at: u64,
    external: bool,
}

impl std::fmt::Debug for LogArea {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogArea")
            .field("blocks", &self.blocks)
            .field("runs", &self.runs.len())
            .field("external", &self.external)
            .finish_non_exhaustive()
    }
}

impl LogArea {
    /// The journal of `volume`. Where that is on a device of its own, `external` must be that device.
    ///
    /// # Errors
    /// [`Error::Conflict`] where a device is needed and not given, or given and not needed; [`Error::Corrupt`] where
    /// the journal inode (and the superblock's backup of it) or the external device's superblock is no good.
    #[doc(alias = "ext4_get_journal")]
    pub fn locate(volume: &Volume, external: Option<Arc<dyn BlockDevice>>) -> Result<Self> {
        let sb = volume.superblock();
        let has_inode = sb.journal_inum.get() != 0;
        match external {
            Some(device) if !has_inode => Self::on_device(volume, device),
            Some(_) => {
                Err(Error::Conflict { a: "a journal device", relation: "cannot be used with", b: "a journal inode" })
            }
            None if has_inode => Self::in_inode(volume),
            None => Err(Error::Conflict { a: "this filesystem", relation: "needs", b: "its journal device" }),
        }
    }

    /// The journal that is all of `device`: a copy of a journal inode's content, or a device made for a journal.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where no journal begins there.
    pub fn bare(device: Arc<dyn BlockDevice>) -> Result<Self> {
        let mut front = [0; superblock::SIZE];
        if device.len() >= superblock::OFFSET.saturating_mul(2) {
            device.read_at(superblock::OFFSET, &mut front)?;
        }
        if let Ok(sb) = Superblock::decode(&front)
            && sb.features().incompat.contains(Incompat::JOURNAL_DEV)
            && sb.log_block_size.get() <= 6
        {
            return Ok(Self::all_of(device, &sb));
        }
        let mut bytes = [0; SUPERBLOCK_SIZE];
        device.read_at(0, &mut bytes)?;
        let block_size = JournalSuperblock::decode(&bytes)?.blocksize.get();
        let valid = block_size.is_power_of_two() && (1024..=65536).contains(&block_size);
        let blocks = device.len().checked_div(block_size.into()).filter(|_| valid);
        let Some(blocks) = blocks.map(|n| u32::try_from(n).unwrap_or(u32::MAX)) else {
            let of = Structure::JournalSuperblock;
            return Err(Error::corrupt(Flaw::Field { of, field: "blocksize", value: block_size.into() }, Place::FS));
        };
        let runs = vec![Run { first: 0, len: blocks, byte: 0 }];
        Ok(Self { device, runs, block_size, blocks, superblock_at: 0, external: false })
    }

    fn in_inode(volume: &Volume) -> Result<Self> {
        let ino = Ino(volume.superblock().journal_inum.get());
        let direct = volume.inode(ino).and_then(|inode| Self::from_inode(volume, ino, &inode));
        direct.or_else(|e| {
            let backup = backup_inode(volume.superblock(), GOOD_OLD_SIZE as u16).ok_or(e)?;
            Self::from_inode(volume, ino, &backup)
        })
    }

    /// The journal where the superblock's backup of its inode says it is.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where there is no backup, or it is no good.
    pub fn by_backup(volume: &Volume) -> Result<Self> {
        let sb = volume.superblock();
        let flaw =
            Flaw::Field { of: Structure::Superblock, field: "jnl_backup_type", value: sb.jnl_backup_type.into() };
        let missing = || Error::corrupt(flaw, Place::FS);
        let backup = backup_inode(sb, GOOD_OLD_SIZE as u16).ok_or_else(missing)?;
        Self::from_inode(volume, Ino(sb.journal_inum.get()), &backup)
    }

    fn from_inode(volume: &Volume, ino: Ino, inode: &Inode) -> Result<Self> {
        let geo = volume.geometry();
        let place = Place::inode(ino);
        let wrong = |field, value| Error::corrupt(Flaw::Field { of: Structure::Inode, field, value }, place);
        let core = inode.core();
        if inode.file_type() != Some(FileType::Regular) {
            return Err(wrong("mode", core.mode.get().into()));
        }
        if core.links_count.get() == 0 {
            return Err(wrong("links_count", 0));
        }
        let blocks = u32::try_from(inode.size() / u64::from(geo.block_size)).unwrap_or(u32::MAX);
        if blocks < MIN_BLOCKS {
            return Err(wrong("size", inode.size()));
        }
        let mut runs: Vec<Run> = Vec::new();
        let mut next = 0;
        for e in volume.extents(Owner { ino, inode })? {
            if e.lblk.0 >= blocks {
                break;
            }
            if e.lblk.0 != next {
                return Err(Error::corrupt(hole(), place));
            }
            let len = e.len.min(blocks - next);
            runs.push(Run { first: next, len, byte: geo.byte_of(e.pblk) });
            next += len;
        }
        if next < blocks {
            return Err(Error::corrupt(hole(), place));
        }
        let superblock_at = runs.first().map_or(0, |r| r.byte);
        let device = Arc::clone(volume.device());
        Ok(Self { device, runs, block_size: geo.block_size, blocks, superblock_at, external: false })
    }

    fn on_device(volume: &Volume, device: Arc<dyn BlockDevice>) -> Result<Self> {
        let block_size = volume.geometry().block_size;
        let mut bytes = [0; superblock::SIZE];
        device.read_at(superblock::OFFSET, &mut bytes)?;
        let sb = Superblock::decode(&bytes)?;
        let wrong = |field, value| Error::corrupt(Flaw::Field { of: Structure::Superblock, field, value }, Place::FS);
        if !sb.features().incompat.contains(Incompat::JOURNAL_DEV) {
            return Err(wrong("feature_incompat", sb.feature_incompat.get().into()));
        }
        if sb.log_block_size.get() > 6 || 1024 << sb.log_block_size.get() != block_size {
            return Err(wrong("log_block_size", sb.log_block_size.get().into()));
        }
        if sb.uuid != volume.superblock().journal_uuid {
            let detail = "its UUID is not that of the filesystem's journal";
            return Err(Error::corrupt(Flaw::Inconsistent { of: Structure::Superblock, detail }, Place::FS));
        }
        Ok(Self::all_of(device, &sb))
    }

    /// The journal of a device made for one, which begins with the superblock `sb`.
    fn all_of(device: Arc<dyn BlockDevice>, sb: &Superblock) -> Self {
        let block_size = 1024 << sb.log_block_size.get().min(6);
        let have = device.len() / u64::from(block_size);
        let blocks = u32::try_from(sb.blocks_count().min(have)).unwrap_or(u32::MAX);
        let runs = vec![Run { first: 0, len: blocks, byte: 0 }];
        let superblock_at = u64::from(block_size).max(2 * superblock::OFFSET);
        Self { device, runs, block_size, blocks, superblock_at, external: true }
    }

    /// Blocks of the area.
    pub const fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Block size in bytes.
    pub const fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Byte offset of the journal's superblock.
    pub const fn superblock_at(&self) -> u64 {
        self.superblock_at
    }

    /// Whether it is on a device of its own.
    pub const fn is_external(&self) -> bool {
        self.external
    }

    /// The device that holds it.
    pub const fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// Byte offset of a journal block, and how many blocks from there on are contiguous.
    ///
    /// # Errors
    /// [`Error::Corrupt`] beyond the end of the area.
    pub fn place(&self, block: u32) -> Result<(u64, u32)> {
        let at = self.runs.partition_point(|r| r.first <= block);
        match at.checked_sub(1).and_then(|i| self.runs.get(i)) {
            Some(r) if block - r.first < r.len => {
                let skip = block - r.first;
                Ok((r.byte + u64::from(skip) * u64::from(self.block_size), r.len - skip))
            }
            _ => {
                let flaw = Flaw::Field { of: Structure::JournalSuperblock, field: "maxlen", value: block.into() };
                Err(Error::corrupt(flaw, Place::FS))
            }
        }
    }

    /// Read whole blocks from `block` on, which must not leave the area.
    pub fn read(&self, block: u32, buf: &mut [u8]) -> Result<()> {
        let size = self.block_size as usize;
        let (mut block, mut rest) = (block, buf);
        while !rest.is_empty() {
            let (byte, run) = self.place(block)?;
            let n = rest.len().min((run as usize).saturating_mul(size));
            let (now, later) = rest.split_at_mut(n);
            self.device.read_at(byte, now)?;
            block = block.saturating_add(n.div_ceil(size) as u32);
            rest = later;
        }
        Ok(())
    }

    /// Look at the area in place, where its device can do that. The area is not written while the view lives.
    pub fn freeze(&self) -> Option<LogView<'_>> {
        let view = |r: &Run| {
            let bytes = (r.len as usize).checked_mul(self.block_size as usize)?;
            Some((r.first, self.device.freeze(r.byte, bytes)?))
        };
        Some(LogView { runs: self.runs.iter().map(view).collect::<Option<_>>()?, block_size: self.block_size as usize })
    }

    /// Write whole blocks from `block` on, which must not leave the area.
    pub fn write(&self, block: u32, bytes: &[u8]) -> Result<()> {
        let size = self.block_size as usize;
        let (mut block, mut rest) = (block, bytes);
        while !rest.is_empty() {
            let (byte, run) = self.place(block)?;
            let n = rest.len().min((run as usize).saturating_mul(size));
            let (now, later) = rest.split_at(n);
            self.device.write_at(byte, now)?;
            block = block.saturating_add(n.div_ceil(size) as u32);
            rest = later;
        }
        Ok(())
    }

    /// Whether a block of the filesystem is one of the journal's own.
    pub fn holds(&self, block: Fsblk) -> bool {
        let byte = block.0.saturating_mul(self.block_size.into());
        !self.external
            && self.runs.iter().any(|r| byte >= r.byte && byte - r.byte < u64::from(r.len) * u64::from(self.block_size))
    }
}

/// A journal's blocks, looked at in place.
#[derive(Debug)]
pub struct LogView<'a> {
    /// First journal block of each run, and its bytes.
    runs: Vec<(u32, FrozenView<'a>)>,
    block_size: usize,
}

impl LogView<'_> {
    /// `count` blocks from `block` on, where they are together.
    pub fn blocks(&self, block: u32, count: usize) -> Option<&[u8]> {
        let at = self.runs.partition_point(|(first, _)| *first <= block).checked_sub(1)?;
        let (first, bytes) = self.runs.get(at)?;
        let start = (block - first) as usize * self.block_size;
        bytes.get(start..start.checked_add(count.checked_mul(self.block_size)?)?)
    }
}

const fn hole() -> Flaw {
    Flaw::Inconsistent { of: Structure::Inode, detail: "the journal has a hole" }
}

/// The journal inode as the superblock's backup has it, `size` bytes large.
pub(crate) fn backup_inode(sb: &Superblock, size: u16) -> Option<Inode> {
    if sb.jnl_backup_type != 1 {
        return None;
    }
    let words = sb.jnl_blocks.map(zerocopy::little_endian::U32::get);
    let mut inode = Inode::empty(size);
    inode.update(|c| {
        c.mode = (FileType::Regular.mode_bits() | 0o600).into();
        c.links_count = 1.into();
        for (slot, word) in c.block.chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        if words[0] & 0xffff == EXTENT_MAGIC {
            c.flags = InodeFlags::EXTENTS.bits().into();
        }
        c.size_high = words[BACKUP_WORDS].into();
        c.size_lo = words[BACKUP_WORDS + 1].into();
    });
    Some(inode)
}
