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
    /// Why it ends there.
    pub why: &'static str,
    /// Only what concerns this block is shown in the text.
    #[serde(skip)]
    pub only: Option<Fsblk>,
    /// The text shows every block that is logged.
    #[serde(skip)]
    pub all: bool,
}

impl LogView {
    /// The log of `volume`, or what its ring holds from `from` on (journal block, sequence).
    ///
    /// # Errors
    /// The journal cannot be found or read.
    pub fn new(volume: &Volume) -> Result<Self> {
        let log = Log::open(volume, None)?;
        let (start, sequence) = (log.superblock().start.get(), log.superblock().sequence());
        let end = start.max(log.first());
        let mut view = Self { start, sequence: sequence.0, records: Vec::new(), end, why: "", only: None, all: false };
        let (mut next, mut walked) = (sequence, 0u32);
        let mut block = vec![0; log.format().block_size];
        let format = log.format();
        view.why = loop {
            if start == 0 {
                break "the log is empty";
            }
            if walked >= log.ring() {
                break "all of the ring was read";
            }
            log.area().read(view.end, &mut block)?;
            let Some(header) = BlockHeader::decode(&block) else { break "no magic number" };
            if header.sequence != next {
                break "another sequence number";
            }
            let at = view.end;
            let mut record =
                LogRecord { at, sequence: next.0, kind: "", logged: Vec::new(), revoked: Vec::new(), time: None };
            let mut len = 1;
            match header.kind() {
                Some(BlockKind::Descriptor) => {
                    let Ok(descriptor) = Descriptor::decode(&block, format) else { break "a damaged descriptor" };
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
                }
                Some(BlockKind::Revoke) => {
                    record.kind = "revoke";
                    record.revoked = Revoke::decode(&block, format).map(|r| r.blocks).unwrap_or_default();
                }
                _ => break "an unknown kind of block",
            }
            view.records.push(record);
            view.end = log.forward(at, len);
            walked = walked.saturating_add(len);
        };
        Ok(view)
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
            for l in r.logged.iter().filter(|l| self.all || self.only == Some(l.block)) {
                writeln!(
                    page,
                    "  FS block {} logged at sequence {}, journal block {} (flags 0x{:x})",
                    l.block, r.sequence, l.at, l.flags
                )?;
            }
            for b in r.revoked.iter().filter(|b| self.all || self.only == Some(**b)) {
                writeln!(page, "  Revoke FS block {b}")?;
            }
        }
        writeln!(page, "The log ends at block {}: {}", self.end, self.why)
    }
}
