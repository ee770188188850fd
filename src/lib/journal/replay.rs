//! The other passes of recovery: leave out what was revoked, and bring the rest home.
//!
//! Of a block that was logged several times only the last good copy is written, blocks go home in ascending order and
//! neighbours in one write; of a long log, several threads each bring a stretch of the filesystem home. The result is the
//! same as replaying transaction by transaction.
//!
//! A copy with a wrong checksum, or one that belongs outside the filesystem or into the journal itself, is left out and
//! counted: the rest is recovered, and the filesystem needs a check.

use rayon::prelude::*;

use super::area::LogView;
use super::log::Log;
use super::scan::{Logged, Scan};
use crate::device::BlockDevice;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::jbd2::unescape;
use crate::units::Fsblk;
use crate::volume::Geometry;

/// Most bytes that are written at once.
const MAX_WRITE: usize = 1 << 20;
/// Bytes that are worth a write of their own, rather than a copy that makes one large write of several.
const WORTH_A_WRITE: usize = 64 << 10;
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
    let view = log.area().freeze();
    let source = Source { log, view: view.as_ref() };
    let parts: Vec<Result<Outcome>> = stretches.into_par_iter().map(|part| bring_home(source, part, device)).collect();
    drop(view);
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
fn bring_home(source: Source<'_>, order: &[&Logged], device: &dyn BlockDevice) -> Result<Outcome> {
    let size = source.log.format().block_size;
    let out = Out::new(device, size as u32);
    let mut carrier = Carrier { source, device, out, spare: Vec::new(), done: Outcome::default() };
    let blocks: Vec<&[&Logged]> = order.chunk_by(|a, b| a.home == b.home).collect();
    let mut chosen: Vec<&Logged> = Vec::with_capacity(blocks.len());
    for copies in blocks {
        chosen.extend(carrier.last_good(copies)?);
    }
    // A piece is together at home and in the log.
    for piece in chosen.chunk_by(|a, b| b.home.0 - a.home.0 == 1 && b.at.wrapping_sub(a.at) == 1 && !b.escaped) {
        for part in piece.chunks((MAX_WRITE / size).max(1)) {
            carrier.carry(part)?;
        }
    }
    carrier.out.write()?;
    Ok(carrier.done)
}

/// Where copies are read.
#[derive(Clone, Copy)]
struct Source<'l> {
    log: &'l Log,
    /// The log in place, where that can be.
    view: Option<&'l LogView<'l>>,
}

impl<'l> Source<'l> {
    /// `count` blocks, in place or read into `spare`.
    fn blocks<'s>(self, at: u32, count: usize, spare: &'s mut Vec<u8>) -> Result<&'s [u8]>
    where
        'l: 's,
    {
        if let Some(bytes) = self.view.and_then(|v| v.blocks(at, count)) {
            return Ok(bytes);
        }
        spare.resize(count * self.log.format().block_size, 0);
        self.log.area().read(at, spare)?;
        Ok(spare)
    }
}

/// Takes blocks from the log to where they belong, in large writes.
struct Carrier<'l> {
    source: Source<'l>,
    device: &'l dyn BlockDevice,
    out: Out<'l>,
    spare: Vec<u8>,
    done: Outcome,
}

impl Carrier<'_> {
    /// The last good one of the copies of a block. All are verified: damage anywhere counts.
    fn last_good<'c>(&mut self, copies: &[&'c Logged]) -> Result<Option<&'c Logged>> {
        let format = self.source.log.format();
        let mut found = None;
        for copy in copies {
            let verdict = match format.csum.seed() {
                None => Ok(()),
                Some(_) => format.verify_data(copy.tid, &copy.tag(), self.source.blocks(copy.at, 1, &mut self.spare)?),
            };
            match verdict {
                Ok(()) => self.done.superseded += u64::from(found.replace(*copy).is_some()),
                Err(e) => self.done.damage(e.at(Place::block(copy.home))),
            }
        }
        self.done.blocks += u64::from(found.is_some());
        Ok(found)
    }

    /// Bring copies home that are together in the log and at home; only the first may be escaped.
    fn carry(&mut self, piece: &[&Logged]) -> Result<()> {
        let Some(first) = piece.first() else { return Ok(()) };
        let size = self.source.log.format().block_size;
        let mut bytes = self.source.blocks(first.at, piece.len(), &mut self.spare)?;
        if first.escaped {
            let (head, rest) = bytes.split_at(size);
            let mut block = head.to_vec();
            unescape(&mut block);
            self.out.push(first.home, &block)?;
            bytes = rest;
        } else if bytes.len() >= WORTH_A_WRITE {
            self.out.write()?;
            return self.device.write_at(first.home.0 * size as u64, bytes);
        }
        for (copy, block) in piece[piece.len() - bytes.len() / size..].iter().zip(bytes.chunks_exact(size)) {
            self.out.push(copy.home, block)?;
        }
        Ok(())
    }
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
