//! Transactions written into a log by hand, for tests of recovery and for rescues: debugfs's `journal_write`. The blocks are
//! not written home: recovery does that.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::log::Log;
use super::pending::Blocks;
use super::scan::Scan;
use super::writer::LogWriter;
use crate::device::BlockDevice;
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::format::jbd2::{JournalCompat, JournalIncompat};
use crate::format::superblock::{OFFSET, SIZE, Superblock};
use crate::units::{Fsblk, Tid};
use crate::volume::Volume;

/// A log that is open for appending. The filesystem must not be in use otherwise.
pub struct ByHand {
    writer: LogWriter,
    device: Arc<dyn BlockDevice>,
}

impl std::fmt::Debug for ByHand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByHand").field("writer", &self.writer).finish_non_exhaustive()
    }
}

impl ByHand {
    /// Open the log of `volume`, whose superblock is on `device`. What is in it stays, and new transactions come behind.
    /// `checksums` turns those of version 2 or 3 on.
    ///
    /// # Errors
    /// As [`Log::open`]; [`Error::InvalidArgument`] for another version.
    pub fn open(
        volume: &Volume,
        device: Arc<dyn BlockDevice>,
        external: Option<Arc<dyn BlockDevice>>,
        checksums: Option<u32>,
    ) -> Result<Self> {
        let log = Log::open(volume, external)?;
        let mut writer = if log.superblock().is_empty() {
            LogWriter::new(log, volume.geometry(), true)?
        } else {
            let scan = Scan::of(&log)?;
            LogWriter::behind(log, scan.head, scan.end)
        };
        let version = match checksums {
            None => return Ok(Self { writer, device }),
            Some(2) => JournalIncompat::CSUM_V2,
            Some(3) => JournalIncompat::CSUM_V3,
            Some(v) => {
                let allowed = "2 or 3";
                return Err(Error::InvalidArgument { name: "version", value: v.to_string(), allowed });
            }
        };
        if !writer.log().superblock().is_empty() {
            return Err(Error::Conflict { a: "other checksums", relation: "cannot be used with", b: "a log in use" });
        }
        writer.store(|sb| {
            let both = JournalIncompat::CSUM_V2 | JournalIncompat::CSUM_V3;
            let incompat = (sb.incompat() - both) | version;
            sb.set_features(sb.compat() - JournalCompat::CHECKSUM, incompat);
        })?;
        Ok(Self { writer, device })
    }

    /// Append a transaction: content of blocks, and blocks whose older copies in the log do not count. Without `commit` it
    /// is left unfinished, as a crash leaves one; else the filesystem is marked as one whose journal has to be recovered.
    ///
    /// # Errors
    /// [`Error::TransactionTooLarge`], writing failed.
    pub fn write(
        &mut self,
        blocks: Vec<(Fsblk, Vec<u8>)>,
        revoked: Vec<Fsblk>,
        commit: bool,
        now: Timestamp,
    ) -> Result<Tid> {
        let blocks: Blocks = blocks.into_iter().map(|(b, bytes)| (b, bytes.into())).collect();
        let revoked: BTreeSet<Fsblk> = revoked.into_iter().collect();
        let need = self.writer.need(blocks.len() as u64, revoked.len() as u64);
        if !self.writer.has_room(need) {
            return Err(Error::TransactionTooLarge { need, have: self.writer.capacity().into() });
        }
        let tid = self.writer.tid();
        if commit {
            self.writer.commit(&blocks, &revoked, now, || Ok(()))?;
            self.mark()?;
        } else {
            self.writer.write_unfinished(&blocks, &revoked)?;
        }
        Ok(tid)
    }

    fn mark(&self) -> Result<()> {
        let mut bytes = [0; SIZE];
        self.device.read_at(OFFSET, &mut bytes)?;
        let mut sb = Superblock::decode(&bytes)?;
        sb.set_needs_recovery(true);
        self.device.write_at(OFFSET, &sb.encode())?;
        self.device.flush()
    }
}
