//! The other passes of recovery: leave out what was revoked, and bring the rest home.
//!
//! Of a block that was logged several times only the last good copy is written, blocks go home in ascending order and
//! neighbours in one write. The result is the same as replaying transaction by transaction.
//!
//! A copy with a wrong checksum, or one that belongs outside the filesystem or into the journal itself, is left out and
//! counted: the rest is recovered, and the filesystem needs a check.

use super::log::Log;
use super::scan::{Logged, Scan};
use crate::device::BlockDevice;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::jbd2::unescape;
use crate::units::Fsblk;
use crate::volume::Geometry;

/// Most bytes that are written at once.
const MAX_WRITE: usize = 1 << 20;

/// What a replay did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Blocks brought home.
    pub blocks: u64,
    /// Older copies of those, not written.
    pub superseded: u64,
    /// Copies left out because they were revoked.
    pub revoked: u64,
    /// Copies left out because they are damaged.
    pub damaged: u64,
    /// What was wrong with the first of those.
    pub first_damage: Option<Error>,
}

/// Replay the transactions of `scan` onto the filesystem's device. The device is flushed.
///
/// # Errors
/// Reading the log or writing failed. Damage is in the answer.
#[doc(alias = "PASS_REPLAY")]
pub fn replay(log: &Log, scan: &Scan, geometry: &Geometry, device: &dyn BlockDevice) -> Result<Outcome> {
    let mut done = Outcome::default();
    let mut order: Vec<&Logged> = Vec::with_capacity(scan.copies.len());
    for copy in &scan.copies {
        if scan.revokes.is_revoked(copy.home, copy.tid) {
            done.revoked += 1;
        } else if copy.home.0 >= geometry.blocks_count || log.area().holds(copy.home) {
            let flaw = Flaw::BlockOutOfRange { of: Structure::JournalBlock, block: copy.home };
            done.damage(Error::corrupt(flaw, Place::FS));
        } else {
            order.push(copy);
        }
    }
    // Stable: copies of one block stay in the order of the log.
    order.sort_by_key(|c| c.home);
    let mut out = Out::new(device, geometry.block_size);
    for copies in order.chunk_by(|a, b| a.home == b.home) {
        if let Some(block) = last_good(log, copies, &mut done)? {
            out.push(copies[0].home, &block)?;
            done.blocks += 1;
        }
    }
    out.write()?;
    device.flush()?;
    Ok(done)
}

/// The last copy that is good, ready to be written. All of them are verified: damage anywhere counts.
fn last_good(log: &Log, copies: &[&Logged], done: &mut Outcome) -> Result<Option<Vec<u8>>> {
    let format = log.format();
    let mut best = None;
    let mut good = 0;
    for (n, copy) in copies.iter().enumerate() {
        if format.csum.seed().is_none() && n + 1 < copies.len() {
            good += 1;
            continue;
        }
        let mut block = vec![0; format.block_size];
        log.area().read(copy.at, &mut block)?;
        match format.verify_data(copy.tid, &copy.tag(), &block) {
            Ok(()) => {
                good += 1;
                if copy.escaped {
                    unescape(&mut block);
                }
                best = Some(block);
            }
            Err(e) => done.damage(e.at(Place::block(copy.home))),
        }
    }
    done.superseded += u64::saturating_sub(good, 1);
    Ok(best)
}

impl Outcome {
    fn damage(&mut self, e: Error) {
        self.damaged += 1;
        self.first_damage.get_or_insert(e);
    }
}

/// Gathers neighbouring blocks into large writes.
pub(super) struct Out<'d> {
    device: &'d dyn BlockDevice,
    block_size: u32,
    start: u64,
    bytes: Vec<u8>,
}

impl<'d> Out<'d> {
    pub(super) fn new(device: &'d dyn BlockDevice, block_size: u32) -> Self {
        Self { device, block_size, start: 0, bytes: Vec::new() }
    }

    /// Add a block; blocks come in ascending order.
    pub(super) fn push(&mut self, block: Fsblk, bytes: &[u8]) -> Result<()> {
        let at = block.0 * u64::from(self.block_size);
        if at != self.start + self.bytes.len() as u64 || self.bytes.len() + bytes.len() > MAX_WRITE {
            self.write()?;
            self.start = at;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Write what was gathered.
    pub(super) fn write(&mut self) -> Result<()> {
        if !self.bytes.is_empty() {
            self.device.write_at(self.start, &self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }
}
