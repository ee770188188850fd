//! What is in the journal's log, block by block: debugfs's `logdump`.

use std::io::{self, Write};

use serde::Serialize;

use super::View;
use super::page::Page;
use crate::error::Result;
use crate::format::jbd2::{BlockHeader, BlockKind, Commit, Descriptor, Revoke};
use crate::journal::Log;
use crate::units::Fsblk;
use crate::volume::Volume;

/// A block that is logged.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LoggedBlock {
    /// Where it belongs.
    pub block: Fsblk,
    /// Journal block that holds it.
    pub at: u32,
    /// Flags of its tag as stored.
    pub flags: u32,
}

/// A block of the log that says something about others.
#[derive(Debug, Serialize)]
pub struct LogRecord {
    /// Journal block.
    pub at: u32,
    /// Its transaction.
    pub sequence: u32,
    /// `descriptor`, `commit`, `revoke`.
    pub kind: &'static str,
    /// Blocks that a descriptor logs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logged: Vec<LoggedBlock>,
    /// Blocks that are revoked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<Fsblk>,
    /// Time of a commit (seconds since 1970).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
}

/// Why a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The next block is none of the journal's.
    NoMagic,
    /// The next block is of another transaction than the one that is due.
    Sequence,
    /// The next block cannot be read as what it says it is.
    Damaged,
    /// All of the ring was read, or nothing waits to be replayed.
    Whole,
}

/// The log from its tail on.
#[derive(Debug, Serialize)]
pub struct LogView {
    /// Journal block where it starts; 0 where nothing waits to be replayed.
    pub start: u32,
    /// The first transaction.
    pub sequence: u32,
    /// Records in log order.
    pub records: Vec<LogRecord>,
    /// Journal block where it ends.
    pub end: u32,
    /// Transaction that is due there.
    pub next: u32,
    /// Why it ends there.
    pub why: End,
    /// Only what concerns this block is shown in the text.
    #[serde(skip)]
    pub only: Option<Fsblk>,
    /// The text shows every block that is logged.
    #[serde(skip)]
    pub all: bool,
}

impl LogView {
    /// The log of `volume`.
    ///
    /// # Errors
    /// The journal cannot be found or read.
    pub fn new(volume: &Volume) -> Result<Self> {
        let log = Log::open(volume, None)?;
        let (start, sequence) = (log.superblock().start.get(), log.superblock().sequence());
        let end = start.max(log.first());
        let mut view = Self {
            start,
            sequence: sequence.0,
            records: Vec::new(),
            end,
            next: sequence.0,
            why: End::Whole,
            only: None,
            all: false,
        };
        let (mut next, mut walked) = (sequence, 0u32);
        let mut block = vec![0; log.format().block_size];
        let format = log.format();
        view.why = loop {
            if start == 0 {
                break End::Whole;
            }
            if walked >= log.ring() {
                break End::Whole;
            }
            log.area().read(view.end, &mut block)?;
            let Some(header) = BlockHeader::decode(&block) else { break End::NoMagic };
            if header.sequence != next {
                break End::Sequence;
            }
            let at = view.end;
            let mut record =
                LogRecord { at, sequence: next.0, kind: "", logged: Vec::new(), revoked: Vec::new(), time: None };
            let mut len = 1;
            match header.kind() {
                Some(BlockKind::Descriptor) => {
                    let Ok(descriptor) = Descriptor::decode(&block, format) else { break End::Damaged };
                    record.kind = "descriptor";
                    for tag in &descriptor.tags {
                        let at = log.forward(at, len);
                        record.logged.push(LoggedBlock { block: tag.block, at, flags: tag.flags.bits() });
                        len += 1;
                    }
                }
                Some(BlockKind::Commit) => {
                    record.kind = "commit";
                    record.time = Commit::decode(&block).ok().map(|c| c.time.sec);
                    next = next.next();
                    view.next = next.0;
                }
                Some(BlockKind::Revoke) => {
                    record.kind = "revoke";
                    record.revoked = Revoke::decode(&block, format).map(|r| r.blocks).unwrap_or_default();
                }
                _ => break End::Damaged,
            }
            view.records.push(record);
            view.end = log.forward(at, len);
            walked = walked.saturating_add(len);
        };
        Ok(view)
    }
}

impl LogView {
    /// The blocks that a record names, as far as they are asked for.
    fn blocks(&self, r: &LogRecord, page: &mut Page<'_>) -> io::Result<()> {
        for l in r.logged.iter().filter(|l| self.all || self.only == Some(l.block)) {
            write!(page, "  FS block {} logged at ", l.block)?;
            if !self.all {
                write!(page, "sequence {}, ", r.sequence)?;
            }
            writeln!(page, "journal block {} (flags 0x{:x})", l.at, l.flags)?;
        }
        for b in r.revoked.iter().filter(|b| self.all || self.only == Some(**b)) {
            write!(page, "  Revoke FS block {b}")?;
            if !self.all {
                write!(page, " at block {}, sequence {}", r.at, r.sequence)?;
            }
            writeln!(page)?;
        }
        Ok(())
    }
}

impl View for LogView {
    const SCHEMA: &'static str = "log/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page, "Journal starts at block {}, transaction {}", self.start, self.sequence)?;
        for r in &self.records {
            if self.only.is_none() {
                let number = match r.kind {
                    "descriptor" => 1,
                    "commit" => 2,
                    _ => 5,
                };
                let kind = if r.kind == "revoke" { "revoke table" } else { r.kind };
                let block = if r.kind == "revoke" { "" } else { " block" };
                writeln!(
                    page,
                    "Found expected sequence {}, type {number} ({kind}{block}) at block {}",
                    r.sequence, r.at
                )?;
            }
            if self.all {
                let what = match r.kind {
                    "descriptor" => "Dumping descriptor block",
                    "revoke" => "Dumping revoke block",
                    _ => continue,
                };
                writeln!(page, "{what}, sequence {}, at block {}:", r.sequence, r.at)?;
            }
            self.blocks(r, page)?;
        }
        if self.start == 0 {
            return Ok(());
        }
        let (at, next) = (self.end, self.next);
        match self.why {
            End::NoMagic => writeln!(page, "No magic number at block {at}: end of journal."),
            End::Sequence => writeln!(page, "Another sequence number than {next} at block {at}: end of journal."),
            End::Damaged => writeln!(page, "Block {at} is damaged: end of journal."),
            End::Whole => writeln!(page, "All of the journal was read, up to block {at}."),
        }
    }
}
