//! A journal that was found and whose superblock holds: the area, the superblock, and how blocks look. Journal blocks are
//! numbered from the start of the area; the ring is `first..log_end` of them, fast commits are behind it.

use std::sync::Arc;

use super::area::LogArea;
use crate::device::BlockDevice;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::jbd2::{
    JournalCompat, JournalFormat, JournalIncompat, JournalSuperblock, MIN_BLOCKS, SUPERBLOCK_SIZE,
};
use crate::units::Tid;
use crate::volume::Volume;

/// A journal with a superblock that was checked.
#[derive(Clone, Debug)]
pub struct Log {
    area: LogArea,
    sb: JournalSuperblock,
    format: JournalFormat,
}

impl Log {
    /// Find the journal of `volume` and check its superblock. `external` is the journal's device where it has one.
    ///
    /// # Errors
    /// Those of [`LogArea::locate`]; [`Error::Corrupt`] and [`Error::Unsupported`] about the journal's superblock.
    #[doc(alias = "jbd2_journal_load")]
    pub fn open(volume: &Volume, external: Option<Arc<dyn BlockDevice>>) -> Result<Self> {
        Self::in_area(LogArea::locate(volume, external)?)
    }

    /// The journal in `area`.
    pub fn in_area(area: LogArea) -> Result<Self> {
        let mut bytes = [0; SUPERBLOCK_SIZE];
        area.device().read_at(area.superblock_at(), &mut bytes)?;
        let sb = JournalSuperblock::decode(&bytes)?;
        sb.validate(area.block_size(), area.blocks().into())?;
        let format = sb.format()?;
        if format.csum.seed().is_some() && sb.compat().contains(JournalCompat::CHECKSUM) {
            return Err(wrong(Flaw::Inconsistent { of: OF, detail: "two kinds of checksums" }));
        }
        let fast = sb.incompat().contains(JournalIncompat::FAST_COMMIT);
        if fast && sb.log_end() < MIN_BLOCKS {
            return Err(wrong(Flaw::Field { of: OF, field: "num_fc_blks", value: sb.fc_blocks().into() }));
        }
        Ok(Self { area, sb, format })
    }

    /// Make the journal in `area` an empty one, whatever its superblock holds: version 2, no features, the next
    /// transaction `sequence` (to be chosen so that nothing that is still in the log has a number near it). Fast-commit
    /// blocks are not set aside. Written, not flushed.
    #[doc(alias = "e2fsck_journal_reset_super")]
    pub fn reset(area: LogArea, uuid: [u8; 16], sequence: Tid) -> Result<Self> {
        let mut sb = JournalSuperblock::new(area.block_size(), area.blocks(), uuid);
        if area.is_external() {
            let behind = area.superblock_at() / u64::from(area.block_size()) + 1;
            sb.first = (behind as u32).into();
        }
        sb.set_log(None, sequence);
        let format = sb.format()?;
        let mut log = Self { area, sb, format };
        log.update(|_| ())?;
        Ok(log)
    }

    /// Where the blocks are.
    pub const fn area(&self) -> &LogArea {
        &self.area
    }

    /// The superblock as it was read (or last written).
    pub const fn superblock(&self) -> &JournalSuperblock {
        &self.sb
    }

    /// How blocks look.
    pub const fn format(&self) -> JournalFormat {
        self.format
    }

    /// First block of the ring.
    pub fn first(&self) -> u32 {
        self.sb.first.get()
    }

    /// Blocks of the ring.
    pub fn ring(&self) -> u32 {
        self.sb.log_end().saturating_sub(self.first()).max(1)
    }

    /// The block that is `n` behind `block` in the ring; `block` may be anywhere below its end.
    pub fn forward(&self, block: u32, n: u32) -> u32 {
        let at = u64::from(block.saturating_sub(self.first())) + u64::from(n);
        self.first() + (at % u64::from(self.ring())) as u32
    }

    /// The first fast-commit block; they go on to the end of the journal. One block behind the ring stays unused.
    #[doc(alias = "j_fc_first")]
    pub fn fc_first(&self) -> u32 {
        self.sb.log_end().saturating_add(1)
    }

    /// Change the superblock in memory only: it is written with the next [`Log::update`].
    pub(super) fn stage(&mut self, change: impl FnOnce(&mut JournalSuperblock)) -> Result<()> {
        change(&mut self.sb);
        self.sb.update_checksum();
        self.format = self.sb.format()?;
        Ok(())
    }

    /// Change the superblock and write it. It is not flushed.
    pub fn update(&mut self, change: impl FnOnce(&mut JournalSuperblock)) -> Result<()> {
        self.stage(change)?;
        self.area.device().write_at(self.area.superblock_at(), &self.sb.encode())
    }
}

const OF: Structure = Structure::JournalSuperblock;

const fn wrong(flaw: Flaw) -> Error {
    Error::corrupt(flaw, Place::FS)
}
