//! The other passes of recovery: leave out what was revoked, and bring the rest home.
//!
//! Of a block that was logged several times only the last good copy is written, blocks go home in ascending order and
//! neighbours in one write; of a long log, several threads each bring a stretch of the filesystem home. The result is the
//! same as replaying transaction by transaction.
//!
//! A copy with a wrong checksum, or one that belongs outside the filesystem or into the journal itself, is left out and
//! counted: the rest is recovered, and the filesystem needs a check.

use rayon::prelude::*;

use super::log::Log;
use super::scan::{Logged, Scan};
use crate::device::BlockDevice;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::jbd2::unescape;
use crate::units::Fsblk;
use crate::volume::Geometry;

/// Most bytes that are written at once.
const MAX_WRITE: usize = 1 << 20;
/// Copies that are worth a thread.
const WORTH_A_THREAD: usize = 2048;

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
    let stretches = stretches(&order, rayon::current_num_threads());
    let parts: Vec<Result<Outcome>> =
        stretches.into_par_iter().map(|part| bring_home(log, part, geometry.block_size, device)).collect();
    for part in parts {
        done.add(part?);
    }
    device.flush()?;
    Ok(done)
}

/// Cut the copies, which are sorted by where they belong, into at most `most` pieces that share no block.
fn stretches<'o, 'c>(order: &'o [&'c Logged], most: usize) -> Vec<&'o [&'c Logged]> {
    let size = order.len().div_ceil(most.max(1)).max(WORTH_A_THREAD);
    let mut rest = order;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let mut end = size.min(rest.len());
        while end < rest.len() && rest[end].home == rest[end - 1].home {
            end += 1;
        }
        let (piece, behind) = rest.split_at(end);
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// Bring the last good copy of each block home.
fn bring_home(log: &Log, order: &[&Logged], block_size: u32, device: &dyn BlockDevice) -> Result<Outcome> {
    let mut done = Outcome::default();
    let mut out = Out::new(device, block_size);
    let size = log.format().block_size;
    let (mut block, mut best) = (vec![0; size], vec![0; size]);
    for copies in order.chunk_by(|a, b| a.home == b.home) {
        if last_good(log, copies, &mut block, &mut best, &mut done)? {
            out.push(copies[0].home, &best)?;
            done.blocks += 1;
        }
    }
    out.write()?;
    Ok(done)
}

/// The last copy that is good, into `best`, ready to be written; whether there is one. All of them are read into `block` and
/// verified: damage anywhere counts.
fn last_good(
    log: &Log,
    copies: &[&Logged],
    block: &mut Vec<u8>,
    best: &mut Vec<u8>,
    done: &mut Outcome,
) -> Result<bool> {
    let format = log.format();
    let mut found = false;
    let mut good = 0;
    for (n, copy) in copies.iter().enumerate() {
        if format.csum.seed().is_none() && n + 1 < copies.len() {
            good += 1;
            continue;
        }
        log.area().read(copy.at, block)?;
        match format.verify_data(copy.tid, &copy.tag(), block) {
            Ok(()) => {
                good += 1;
                if copy.escaped {
                    unescape(block);
                }
                std::mem::swap(block, best);
                found = true;
            }
            Err(e) => done.damage(e.at(Place::block(copy.home))),
        }
    }
    done.superseded += u64::saturating_sub(good, 1);
    Ok(found)
}

impl Outcome {
    fn damage(&mut self, e: Error) {
        self.damaged += 1;
        self.first_damage.get_or_insert(e);
    }

    fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.superseded += other.superseded;
        self.revoked += other.revoked;
        self.damaged += other.damaged;
        self.first_damage = self.first_damage.take().or(other.first_damage);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Tid;

    #[test]
    fn pieces_share_no_block() {
        let copy = |home| Logged { home: Fsblk(home), at: 0, tid: Tid(1), checksum: 0, escaped: false };
        // Blocks with one copy, and one block with very many in the middle.
        let all: Vec<Logged> = (0..3000).chain(std::iter::repeat_n(3000, 5000)).chain(3001..9000).map(copy).collect();
        let order: Vec<&Logged> = all.iter().collect();
        for most in [1, 2, 3, 100] {
            let pieces = stretches(&order, most);
            assert!(pieces.len() <= most && (most == 1 || pieces.len() > 1), "{most}");
            assert_eq!(pieces.iter().map(|p| p.len()).sum::<usize>(), order.len());
            for pair in pieces.windows(2) {
                assert!(pair[0].last().unwrap().home < pair[1][0].home);
            }
        }
        assert!(stretches(&[], 4).is_empty());
    }
}
