//! The first pass of recovery: walk the log from its tail and find out which transactions are whole.
//!
//! Sequence numbers wrap around and so does the log. The walk ends where the next block is not one of the transaction that
//! is due. What of that is normal and what is damage follows the kernel's `do_one_pass` (`fs/jbd2/recovery.c`):
//!
//! - a transaction with no commit block never happened;
//! - a commit block with a wrong checksum ends the log; it is damage unless commits are asynchronous, where it merely
//!   says that the commit was under way;
//! - a descriptor or revoke block with a wrong checksum is a leftover of older use of the log, unless a commit block
//!   that is no older than the one before it follows: then the log is damaged and nothing of it may be replayed.
//!
//! Memory: 32 bytes for every block logged.

use super::log::Log;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::jbd2::{
    BlockHeader, BlockKind, Commit, Descriptor, JournalCsum, JournalFormat, Revoke, RevokeTable, Tag, V1Checksum,
};
use crate::units::{Fsblk, Tid};

/// A block in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Where it belongs.
    pub home: Fsblk,
    /// Journal block that it is in.
    pub at: u32,
    /// Its transaction.
    pub tid: Tid,
    /// Checksum as its tag has it.
    pub checksum: u32,
    /// Its first four bytes are to be restored.
    pub escaped: bool,
}

impl Logged {
    /// The tag that describes it, as far as checksums need it.
    pub(super) const fn tag(&self) -> Tag {
        Tag { block: self.home, flags: crate::format::jbd2::TagFlags::empty(), checksum: self.checksum, uuid: None }
    }
}

/// Why a log ends where it does.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum End {
    /// After a whole transaction.
    Whole,
    /// In a transaction that was being written: it never happened.
    Unfinished {
        /// Journal blocks of it that were found.
        blocks: u32,
    },
    /// At a commit block with a wrong checksum, and commits are asynchronous.
    Asynchronous,
    /// At a commit block with a wrong checksum: that transaction is lost.
    #[doc(alias = "j_failed_commit")]
    BadCommit {
        /// The transaction.
        tid: Tid,
        /// Journal block of the commit block.
        at: u32,
    },
}

/// What a log holds.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The first transaction that was due.
    pub first: Tid,
    /// The transaction after the last whole one.
    pub end: Tid,
    /// Journal block behind the last whole transaction.
    pub head: u32,
    /// Why it ends there.
    pub ending: End,
    /// Blocks of whole transactions in log order, revoked ones included.
    pub copies: Vec<Logged>,
    /// Revocations of whole transactions.
    pub revokes: RevokeTable,
    /// Revoke records met.
    pub revoke_records: u64,
}

impl Scan {
    /// Scan the log. An empty journal gives an empty scan.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the log is damaged in a way that makes all of it untrustworthy; reading failed.
    #[doc(alias = "PASS_SCAN")]
    pub fn of(log: &Log) -> Result<Self> {
        let first = log.superblock().sequence();
        let start = log.superblock().start.get();
        let scan = Self {
            first,
            end: first,
            head: start.max(log.first()),
            ending: End::Whole,
            copies: Vec::new(),
            revokes: RevokeTable::default(),
            revoke_records: 0,
        };
        if start == 0 {
            return Ok(scan);
        }
        Walk::new(log, scan, start).run()
    }

    /// Whole transactions.
    pub const fn transactions(&self) -> u32 {
        self.end.0.wrapping_sub(self.first.0)
    }
}

/// What to do after a block.
enum Step {
    On,
    Stop,
}

struct Walk<'l> {
    log: &'l Log,
    scan: Scan,
    /// Next journal block to look at.
    at: u32,
    /// Blocks walked over; a ring is never walked twice.
    walked: u32,
    /// The transaction that is due.
    next: Tid,
    /// Set at the first bad commit block; only transactions before it count.
    end: Option<Tid>,
    /// How many of the scan's copies belong to whole transactions.
    whole: usize,
    /// Revocations of whole transactions.
    records: Vec<Revoke>,
    /// Those of the current transaction.
    fresh: Vec<Revoke>,
    /// A descriptor or revoke block had a wrong checksum.
    suspect: Option<Error>,
    last_commit: i64,
    v1: V1Checksum,
    /// Blocks of the current transaction.
    blocks: u32,
}

impl<'l> Walk<'l> {
    fn new(log: &'l Log, scan: Scan, at: u32) -> Self {
        Self {
            log,
            at,
            walked: 0,
            next: scan.first,
            scan,
            end: None,
            whole: 0,
            records: Vec::new(),
            fresh: Vec::new(),
            suspect: None,
            last_commit: 0,
            v1: V1Checksum::default(),
            blocks: 0,
        }
    }

    fn run(mut self) -> Result<Scan> {
        let mut block = vec![0; self.log.format().block_size];
        while self.walked < self.log.ring() {
            let at = self.at;
            self.log.area().read(at, &mut block)?;
            let Some(header) = BlockHeader::decode(&block).filter(|h| h.sequence == self.next) else { break };
            self.step(1);
            let step = match header.kind() {
                Some(BlockKind::Descriptor) => self.descriptor(&block)?,
                Some(BlockKind::Commit) => self.commit(&block, at)?,
                Some(BlockKind::Revoke) => self.revoke(&block),
                _ => Step::Stop,
            };
            if matches!(step, Step::Stop) {
                break;
            }
        }
        Ok(self.finish())
    }

    fn step(&mut self, n: u32) {
        self.at = self.log.forward(self.at, n);
        self.walked = self.walked.saturating_add(n);
        self.blocks = self.blocks.saturating_add(n);
    }

    fn descriptor(&mut self, block: &[u8]) -> Result<Step> {
        let format = self.log.format();
        if let Err(e) = format.verify_tail(block) {
            self.suspect.get_or_insert(e);
        }
        let Ok(descriptor) = Descriptor::decode(block, format) else {
            self.suspect.get_or_insert(Error::corrupt(
                Flaw::Inconsistent { of: Structure::JournalBlock, detail: "its tags run over its end" },
                Place::FS,
            ));
            return Ok(Step::Stop);
        };
        let count = descriptor.tags.len() as u32;
        if count >= self.log.ring() - self.walked.min(self.log.ring()) {
            return Ok(Step::Stop);
        }
        if format.csum == JournalCsum::V1 && self.end.is_none() {
            self.v1.update(block);
            let mut data = vec![0; format.block_size];
            for n in 0..count {
                self.log.area().read(self.log.forward(self.at, n), &mut data)?;
                self.v1.update(&data);
            }
        }
        for (n, tag) in descriptor.tags.iter().enumerate() {
            self.scan.copies.push(Logged {
                home: tag.block,
                at: self.log.forward(self.at, n as u32),
                tid: self.next,
                checksum: tag.checksum,
                escaped: tag.is_escaped(),
            });
        }
        self.step(count);
        Ok(Step::On)
    }

    fn revoke(&mut self, block: &[u8]) -> Step {
        let format = self.log.format();
        let decoded = format.verify_tail(block).and_then(|()| Revoke::decode(block, format));
        match decoded {
            Ok(revoke) => self.fresh.push(revoke),
            Err(e) => {
                self.suspect.get_or_insert(e);
            }
        }
        Step::On
    }

    fn commit(&mut self, block: &[u8], at: u32) -> Result<Step> {
        let format = self.log.format();
        let commit = Commit::decode(block)?;
        if let Some(e) = self.suspect.take() {
            // Time going backwards: what was suspect is of an older life of the log, and so is this commit block.
            return if commit.time.sec >= self.last_commit { Err(e.at(Place::FS)) } else { Ok(Step::Stop) };
        }
        let v1 = if self.end.is_none() { commit.verify_v1(format, self.v1) } else { Ok(()) };
        self.v1 = V1Checksum::default();
        if format.csum == JournalCsum::V1 && self.end.is_some() {
            // Whole transactions behind a broken one: not an interrupted commit.
            let tid = self.end.unwrap_or(self.next);
            self.scan.ending = End::BadCommit { tid, at };
            return Ok(Step::Stop);
        }
        if v1.is_err() || !is_whole(&commit, block, format) {
            if commit.time.sec < self.last_commit {
                return Ok(Step::Stop);
            }
            self.end.get_or_insert(self.next);
            if !self.log.superblock().incompat().contains(crate::format::jbd2::JournalIncompat::ASYNC_COMMIT) {
                self.scan.ending = End::BadCommit { tid: self.next, at };
                return Ok(Step::Stop);
            }
            self.scan.ending = End::Asynchronous;
        }
        self.last_commit = commit.time.sec;
        self.next = self.next.next();
        self.blocks = 0;
        if self.end.is_none() {
            self.whole = self.scan.copies.len();
            self.records.append(&mut self.fresh);
            self.scan.head = self.at;
        }
        Ok(Step::On)
    }

    fn finish(mut self) -> Scan {
        self.scan.copies.truncate(self.whole);
        for revoke in &self.records {
            self.scan.revokes.add(revoke);
            self.scan.revoke_records += revoke.blocks.len() as u64;
        }
        self.scan.end = self.end.unwrap_or(self.next);
        if self.scan.ending == End::Whole && self.blocks > 0 {
            self.scan.ending = End::Unfinished { blocks: self.blocks };
        }
        self.scan
    }
}

/// Whether a commit block's checksum is right (v2, v3). All that counts is in its first sector: a block of which only that
/// was written is whole, too.
#[doc(alias = "jbd2_commit_block_csum_verify_partial")]
fn is_whole(commit: &Commit, block: &[u8], format: JournalFormat) -> bool {
    commit.verify(block, format).is_ok() || {
        let alone = Commit::decode(&commit.encode(format));
        alone.is_ok_and(|alone| alone.chksum == commit.chksum)
    }
}
