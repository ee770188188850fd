//! The multiple-mount protection block.

use std::io::{self, Write};

use serde::Serialize;

use super::View;
use super::page::Page;
use super::text::{date, printable, until_nul};
use crate::env::Timestamp;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::features::Incompat;
use crate::format::mmp::Mmp;
use crate::units::Fsblk;
use crate::volume::Volume;

/// What the block says.
#[derive(Debug, Serialize)]
pub struct MmpView {
    /// The block.
    pub block: Fsblk,
    /// Seconds between updates, as the superblock has it.
    pub update_interval: u16,
    /// Seconds between updates that the last user kept.
    pub check_interval: u16,
    /// Sequence; some values mean that nobody, or a checker, has the filesystem open.
    pub sequence: u32,
    /// Time of the last update.
    pub time: Timestamp,
    /// Name of the host.
    pub node_name: String,
    /// Name of the device.
    pub device_name: String,
    /// Magic number.
    pub magic: u32,
    /// Stored checksum.
    pub checksum: u32,
}

impl MmpView {
    /// The MMP block of `volume`, or another block read as one.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the filesystem has none; [`Error::Corrupt`].
    pub fn new(volume: &Volume, block: Option<Fsblk>) -> Result<Self> {
        let geo = volume.geometry();
        let sb = volume.superblock();
        if block.is_none() && !geo.features.incompat.contains(Incompat::MMP) {
            return Err(Error::InvalidArgument {
                name: "block",
                value: "none".into(),
                allowed: "needed: the filesystem has no multiple-mount protection",
            });
        }
        let at = block.unwrap_or(Fsblk(sb.mmp_block.get()));
        if !geo.has_block(at) {
            let flaw = Flaw::BlockOutOfRange { of: Structure::Mmp, block: at };
            return Err(Error::corrupt(flaw, Place::FS));
        }
        let seed = if volume.verifies_checksums() { geo.checksums.seed() } else { None };
        let mmp = Mmp::decode(&volume.block(at)?, seed).map_err(|e| e.at(Place::block(at)))?;
        Ok(Self {
            block: at,
            update_interval: sb.mmp_update_interval.get(),
            check_interval: mmp.check_interval.get(),
            sequence: mmp.seq.get(),
            time: Timestamp::from_secs(i64::try_from(mmp.time.get()).unwrap_or(i64::MAX).min(MAX_SHOWN)),
            node_name: printable(until_nul(&mmp.nodename)),
            device_name: printable(until_nul(&mmp.bdevname)),
            magic: mmp.magic.get(),
            checksum: mmp.checksum.get(),
        })
    }
}

/// The latest time that is shown, seconds: beyond the year 9999 a calendar says nothing.
const MAX_SHOWN: i64 = 253_402_300_799;

impl View for MmpView {
    const SCHEMA: &'static str = "mmp/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "block_number: {}", self.block)?;
        writeln!(page, "update_interval: {}", self.update_interval)?;
        writeln!(page, "check_interval: {}", self.check_interval)?;
        writeln!(page, "sequence: {:08x}", self.sequence)?;
        writeln!(page, "time: {} -- {}", self.time.sec, date(self.time))?;
        writeln!(page, "node_name: {}", self.node_name)?;
        writeln!(page, "device_name: {}", self.device_name)?;
        writeln!(page, "magic: {:#x}", self.magic)?;
        writeln!(page, "checksum: {:#010x}", self.checksum)
    }
}
