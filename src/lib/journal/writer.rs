//! Transactions into the log. Journal blocks are numbered from the start of the area.
//!
//! A transaction is: revoke blocks, then descriptors with their data blocks, a flush, the commit block, a flush. A commit
//! block on the device therefore means that all the rest is there too. The journal's superblock says where the log
//! starts before the first transaction in an empty log counts.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::log::Log;
use super::pending::Blocks;
use super::scan::Scan;
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::format::features::Features;
use crate::format::jbd2::{
    BlockKind, Commit, DescriptorBuilder, JournalCompat, JournalCsum, JournalFormat, JournalIncompat, RevokeBuilder,
    V1Checksum, escape, needs_escape,
};
use crate::units::{Fsblk, Tid};
use crate::volume::Geometry;

/// Bytes of log that are written at once.
const MAX_WRITE: usize = 1 << 20;

/// Appends transactions to a log.
#[derive(Debug)]
pub(super) struct LogWriter {
    log: Log,
    /// Next block to write.
    head: u32,
    /// Blocks of the ring that hold transactions not yet home.
    used: u32,
    /// The next transaction.
    tid: Tid,
    barriers: bool,
}

/// Where blocks are put before they are written.
struct Spool<'w> {
    writer: &'w mut LogWriter,
    at: u32,
    bytes: Vec<u8>,
    sum: V1Checksum,
}

impl LogWriter {
    /// Take up writing in a journal that needs no recovery. Nothing is written yet.
    pub(super) fn new(mut log: Log, geometry: &Geometry, barriers: bool) -> Result<Self> {
        let sb = log.superblock();
        // What is left in a journal that was not to be recovered must not be mistaken for ours.
        let tid = if sb.is_empty() {
            sb.sequence().next()
        } else {
            Scan::of(&log).map_or(Tid(sb.sequence().0.wrapping_add(log.ring())), |s| s.end.next())
        };
        log.stage(|sb| {
            if sb.blocktype.get() != BlockKind::SuperblockV2.code() {
                sb.blocktype = BlockKind::SuperblockV2.code().into();
                sb.nr_users = 1.into();
                sb.set_features(JournalCompat::empty(), JournalIncompat::empty());
                sb.feature_ro_compat = 0.into();
            }
            let (compat, incompat) = wanted(sb.compat(), sb.incompat(), geometry);
            sb.set_features(compat, incompat);
        })?;
        Ok(Self { head: log.first(), used: 0, tid, log, barriers })
    }

    /// Go on behind what was replayed: all of that is home, the log starts at `head` with transaction `tid`.
    pub(super) const fn after(log: Log, head: u32, tid: Tid, barriers: bool) -> Self {
        Self { log, head, used: 0, tid, barriers }
    }

    pub(super) const fn log(&self) -> &Log {
        &self.log
    }

    pub(super) const fn tid(&self) -> Tid {
        self.tid
    }

    /// Whether nothing is in the log.
    pub(super) const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Most log blocks of one transaction.
    pub(super) fn capacity(&self) -> u32 {
        self.log.ring() - 1
    }

    /// Log blocks that a transaction takes.
    pub(super) fn need(&self, blocks: u64, revokes: u64) -> u64 {
        let format = self.log.format();
        blocks + blocks.div_ceil(tags(format)) + revokes.div_ceil(format.records_per_block().max(1) as u64) + 1
    }

    /// Most metadata blocks of a transaction that also revokes `revokes` blocks.
    pub(super) fn max_blocks(&self, revokes: u64) -> u64 {
        let room = u64::from(self.capacity()).saturating_sub(self.need(0, revokes));
        // One descriptor for every `tags` blocks, the last one maybe not full.
        let per = tags(self.log.format()) + 1;
        (room / per) * (per - 1) + (room % per).saturating_sub(1)
    }

    /// Whether a transaction of `need` blocks fits without a checkpoint.
    pub(super) fn has_room(&self, need: u64) -> bool {
        need <= u64::from(self.capacity() - self.used.min(self.capacity()))
    }

    /// Write a transaction and make it count. The caller has checked that there is room. `flush_data` makes content
    /// durable that the transaction exposes.
    #[doc(alias = "jbd2_journal_commit_transaction")]
    pub(super) fn commit(
        &mut self,
        blocks: &Blocks,
        revoked: &BTreeSet<Fsblk>,
        now: Timestamp,
        flush_data: impl FnOnce() -> Result<()>,
    ) -> Result<Tid> {
        let tid = self.tid;
        let (end, sum) = self.write_unfinished(blocks, revoked)?;
        flush_data()?;
        if self.barriers {
            self.log.area().device().flush()?;
        }
        let format = self.log.format();
        let v1 = (format.csum == JournalCsum::V1).then_some(sum);
        self.log.area().write(end, &Commit::new(tid, now, v1).encode(format))?;
        self.log.area().device().flush()?;
        self.head = self.log.forward(end, 1);
        self.used += self.need(blocks.len() as u64, revoked.len() as u64) as u32;
        self.tid = tid.next();
        Ok(tid)
    }

    /// Write all of a transaction but its commit block. Returns where that would be, and what it would have a checksum of.
    pub(super) fn write_unfinished(&mut self, blocks: &Blocks, revoked: &BTreeSet<Fsblk>) -> Result<(u32, V1Checksum)> {
        let (tid, head) = (self.tid, self.head);
        if self.used == 0 {
            self.log.update(|sb| sb.set_log(Some(head), tid))?;
        }
        let need = self.need(blocks.len() as u64, revoked.len() as u64) * self.log.format().block_size as u64;
        let bytes = Vec::with_capacity(MAX_WRITE.min(need as usize));
        let mut spool = Spool { at: head, bytes, sum: V1Checksum::default(), writer: self };
        spool.revokes(revoked)?;
        spool.blocks(blocks)?;
        spool.write()?;
        Ok((spool.at, spool.sum))
    }

    /// Go on behind transactions that are in the log and not home: it ends at `head`, transaction `tid` is next.
    pub(super) const fn behind(log: Log, head: u32, tid: Tid) -> Self {
        // How much is in use is not known; that something is keeps the start of the log where it is.
        Self { log, head, used: 1, tid, barriers: true }
    }

    /// Write the superblock as it is in memory.
    pub(super) fn store(&mut self, change: impl FnOnce(&mut crate::format::jbd2::JournalSuperblock)) -> Result<()> {
        self.log.update(change)
    }

    /// All transactions are home, durably: the log is empty.
    #[doc(alias = "jbd2_mark_journal_empty")]
    pub(super) fn empty(&mut self) -> Result<()> {
        let tid = self.tid;
        self.log.update(|sb| sb.set_log(None, tid))?;
        self.log.area().device().flush()?;
        self.used = 0;
        Ok(())
    }

    /// Store the error that ended the journal's use, as far as the device still takes it.
    #[doc(alias = "jbd2_journal_abort")]
    pub(super) fn abort(&mut self, errno: i32) {
        if self.log.update(|sb| sb.set_error(errno)).is_ok() {
            let _ = self.log.area().device().flush();
        }
    }
}

fn tags(format: JournalFormat) -> u64 {
    format.tags_per_block().max(1) as u64
}

/// The features that the kernel would give a journal: checksums as they are, or v3 where metadata has checksums.
#[doc(alias = "set_journal_csum_feature_set")]
fn wanted(
    mut compat: JournalCompat,
    mut incompat: JournalIncompat,
    geometry: &Geometry,
) -> (JournalCompat, JournalIncompat) {
    use crate::format::features::{Incompat, RoCompat};
    let Features { incompat: fs, ro_compat, .. } = geometry.features;
    let v2_or_v3 = JournalIncompat::CSUM_V2 | JournalIncompat::CSUM_V3;
    if ro_compat.contains(RoCompat::METADATA_CSUM) && !incompat.intersects(v2_or_v3) {
        compat -= JournalCompat::CHECKSUM;
        incompat |= JournalIncompat::CSUM_V3;
    }
    incompat.set(JournalIncompat::BIT64, incompat.contains(JournalIncompat::BIT64) || fs.contains(Incompat::BIT64));
    (compat, incompat | JournalIncompat::REVOKE)
}

impl Spool<'_> {
    fn revokes(&mut self, revoked: &BTreeSet<Fsblk>) -> Result<()> {
        let (format, tid) = (self.writer.log.format(), self.writer.tid);
        let mut builder = RevokeBuilder::new(format, tid);
        for &block in revoked {
            if !builder.push(block) {
                let full = std::mem::replace(&mut builder, RevokeBuilder::new(format, tid));
                self.put(&full.finish())?;
                if !builder.push(block) {
                    return Err(beyond(block));
                }
            }
        }
        if builder.is_empty() { Ok(()) } else { self.put(&builder.finish()) }
    }

    fn blocks(&mut self, blocks: &Blocks) -> Result<()> {
        let (format, tid) = (self.writer.log.format(), self.writer.tid);
        let uuid = self.writer.log.superblock().uuid;
        let all: Vec<(&Fsblk, &[u8])> = blocks.iter().map(|(b, bytes)| (b, &**bytes)).collect();
        for chunk in all.chunks(tags(format) as usize) {
            let mut descriptor = DescriptorBuilder::new(format, uuid, tid);
            let mut stored: Vec<Cow<'_, [u8]>> = Vec::with_capacity(chunk.len());
            for (block, bytes) in chunk {
                let escaped = needs_escape(bytes);
                let bytes = if escaped {
                    let mut copy = bytes.to_vec();
                    escape(&mut copy);
                    Cow::Owned(copy)
                } else {
                    Cow::Borrowed(*bytes)
                };
                if !descriptor.push(**block, &bytes, escaped) {
                    return Err(beyond(**block));
                }
                stored.push(bytes);
            }
            let descriptor = descriptor.finish();
            for bytes in std::iter::once(&*descriptor).chain(stored.iter().map(|b| &**b)) {
                if format.csum == JournalCsum::V1 {
                    self.sum.update(bytes);
                }
                self.put(bytes)?;
            }
        }
        Ok(())
    }

    /// Append a block.
    fn put(&mut self, block: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(block);
        let next = self.writer.log.forward(self.at, (self.bytes.len() / block.len()) as u32);
        if self.bytes.len() >= MAX_WRITE || next == self.writer.log.first() { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let size = self.writer.log.format().block_size.max(1);
        self.writer.log.area().write(self.at, &self.bytes)?;
        self.at = self.writer.log.forward(self.at, (self.bytes.len() / size) as u32);
        self.bytes.clear();
        Ok(())
    }
}

fn beyond(block: Fsblk) -> Error {
    Error::InvalidArgument { name: "block", value: block.to_string(), allowed: "what the journal's tags can express" }
}
