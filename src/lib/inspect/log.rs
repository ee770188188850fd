//! What is in the journal's log, block by block: debugfs's `logdump`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use serde::Serialize;

use super::View;
use super::page::Page;
use super::text::{hex, printable};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::format::bitmap;
use crate::format::fast_commit::{Dentry, Record, records};
use crate::format::features::Compat;
use crate::format::jbd2::{BlockHeader, BlockKind, Commit, Descriptor, Revoke, unescape};
use crate::journal::Log;
use crate::units::{Fsblk, Ino, Tid};
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
    /// The transaction that is due.
    pub sequence: u32,
    /// Its own transaction: another one only where old records are read too.
    pub own_sequence: u32,
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
    /// Transaction that was found there instead, where that is why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<u32>,
    /// What the fast-commit area holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fast_commits: Vec<String>,
    #[serde(skip)]
    options: LogOptions,
    /// Content of the blocks that are shown, by journal block.
    #[serde(skip)]
    contents: BTreeMap<u32, Vec<u8>>,
    /// The bitmap that knows about the block or inode that is asked about, and its bit there.
    #[serde(skip)]
    bitmap: Option<(Fsblk, usize, String)>,
}

/// What of the log is read and shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogOptions {
    /// Only what concerns this block is shown in the text.
    pub only: Option<Fsblk>,
    /// The block is asked about because it holds this inode.
    pub inode: Option<Ino>,
    /// The text shows every block that is logged.
    pub all: bool,
    /// The text shows the content of logged blocks.
    pub contents: bool,
    /// Records of transactions that were written back long ago are read too.
    pub old: bool,
    /// Read past blocks that are none of the journal's, until so many transactions have been seen.
    pub transactions: Option<u32>,
}

impl LogView {
    /// The log of `volume`, which is on `external` where it has a device of its own.
    ///
    /// # Errors
    /// The journal cannot be found or read.
    pub fn new(volume: &Volume, external: Option<Arc<dyn BlockDevice>>, options: LogOptions) -> Result<Self> {
        let log = Log::open(volume, external)?;
        let mut view = Self::of_log(&log, options)?;
        let geo = volume.geometry();
        if geo.features.compat.contains(Compat::FAST_COMMIT) {
            view.fast_commits = fast_commits(&log)?;
        }
        view.bitmap = match (options.inode, options.only) {
            (Some(ino), _) => {
                let (group, bit) = geo.inode_place(ino)?;
                let words = format!("inode bitmap for inode {ino}: inode");
                Some((volume.group(group)?.inode_bitmap(), bit as usize, words))
            }
            (None, Some(block)) if geo.has_block(block) => {
                let (group, bit) = geo.cluster_bit_of(block);
                let words = format!("block bitmap for block {block}: block");
                Some((volume.group(group)?.block_bitmap(), bit as usize, words))
            }
            _ => None,
        };
        Ok(view)
    }

    /// A log without its filesystem.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_log(log: &Log, options: LogOptions) -> Result<Self> {
        let (start, sequence) = (log.superblock().start.get(), log.superblock().sequence());
        let mut view = Self {
            start,
            sequence: sequence.0,
            records: Vec::new(),
            end: start.max(log.first()),
            next: sequence.0,
            why: End::Whole,
            found: None,
            fast_commits: Vec::new(),
            options,
            contents: BTreeMap::new(),
            bitmap: None,
        };
        if start != 0 || options.old {
            view.walk(log, sequence)?;
        }
        Ok(view)
    }

    /// Read the ring once, from the tail on.
    fn walk(&mut self, log: &Log, sequence: Tid) -> Result<()> {
        let (mut next, mut walked, mut seen) = (sequence, 0u32, 0u32);
        let mut block = vec![0; log.format().block_size];
        self.why = loop {
            if walked >= log.ring() || self.options.transactions.is_some_and(|n| seen >= n) {
                break End::Whole;
            }
            log.area().read(self.end, &mut block)?;
            let at = self.end;
            let Some(header) = BlockHeader::decode(&block) else {
                if self.options.transactions.is_none() {
                    break End::NoMagic;
                }
                self.end = log.forward(at, 1);
                walked = walked.saturating_add(1);
                continue;
            };
            if header.sequence != next && !self.options.old {
                self.found = Some(header.sequence.0);
                break End::Sequence;
            }
            let Some(record) = self.record(log, header, next, &block)? else { break End::Damaged };
            let len = 1 + record.logged.len() as u32;
            if record.kind == "commit" {
                next = next.next();
                self.next = next.0;
                seen = seen.saturating_add(1);
            }
            self.records.push(record);
            self.end = log.forward(at, len);
            walked = walked.saturating_add(len);
        };
        Ok(())
    }

    /// The record in a block; `None` where it is not what it says it is.
    fn record(&mut self, log: &Log, header: BlockHeader, next: Tid, block: &[u8]) -> Result<Option<LogRecord>> {
        let (at, format) = (self.end, log.format());
        let mut record = LogRecord {
            at,
            sequence: next.0,
            own_sequence: header.sequence.0,
            kind: "",
            logged: Vec::new(),
            revoked: Vec::new(),
            time: None,
        };
        match header.kind() {
            Some(BlockKind::Descriptor) => {
                let Ok(descriptor) = Descriptor::decode(block, format) else { return Ok(None) };
                record.kind = "descriptor";
                for tag in &descriptor.tags {
                    let at = log.forward(at, 1 + record.logged.len() as u32);
                    record.logged.push(LoggedBlock { block: tag.block, at, flags: tag.flags.bits() });
                    if self.options.contents || self.options.only.is_some() {
                        let mut content = vec![0; format.block_size];
                        log.area().read(at, &mut content)?;
                        if tag.is_escaped() {
                            unescape(&mut content);
                        }
                        self.keep(tag.block, at, content);
                    }
                }
            }
            Some(BlockKind::Commit) => {
                record.kind = "commit";
                record.time = Commit::decode(block).ok().map(|c| c.time.sec);
            }
            Some(BlockKind::Revoke) => {
                record.kind = "revoke";
                record.revoked = Revoke::decode(block, format).map(|r| r.blocks).unwrap_or_default();
            }
            _ => return Ok(None),
        }
        Ok(Some(record))
    }

    /// Keep the content of a logged block where the text may need it: all of one block that is asked about, else little.
    fn keep(&mut self, block: Fsblk, at: u32, content: Vec<u8>) {
        let wanted = self.options.contents && (self.options.all || self.options.only == Some(block));
        if (wanted || self.options.only.is_some()) && self.contents.len() < MAX_CONTENTS {
            self.contents.insert(at, content);
        }
    }
}

/// Most blocks whose content is kept.
const MAX_CONTENTS: usize = 1 << 16;

/// The records in the fast-commit area, whether they count or not, in words.
fn fast_commits(log: &Log) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut block = vec![0; log.format().block_size];
    let sb = log.superblock();
    // The area stays where it was when the journal says that it has none. Its first block is not used.
    for at in sb.maxlen.get().saturating_sub(sb.num_fc_blks.get()).saturating_add(1)..sb.maxlen.get() {
        log.area().read(at, &mut block)?;
        let before = lines.len();
        lines.extend(records(&block).map_while(Result::ok).map(|tag| fast_commit_text(&tag.record)));
        if lines.len() == before {
            break;
        }
    }
    Ok(lines)
}

fn fast_commit_text(record: &Record<'_>) -> String {
    let dentry = |what: &str, d: &Dentry<'_>| {
        format!("tag {what}, parent {}, ino {}, name \"{}\"", d.parent, d.ino, printable(d.name))
    };
    match record {
        Record::AddRange { ino, extent: e } => {
            format!("tag ADD_RANGE, inode {ino}, lblk {}, pblk {}, len {}", e.lblk, e.pblk, e.len)
        }
        Record::DelRange { ino, lblk, len } => format!("tag DEL_RANGE, inode {ino}, lblk {lblk}, len {len}"),
        Record::Create(d) => dentry("CREAT", d),
        Record::Link(d) => dentry("LINK", d),
        Record::Unlink(d) => dentry("UNLINK", d),
        Record::Inode { ino, .. } => format!("tag INODE, inode {ino}"),
        Record::Pad { .. } => "tag PAD".into(),
        Record::Tail { tid, .. } => format!("tag TAIL, tid {tid}"),
        Record::Head { features, tid } => format!("tag HEAD, features {features:#x}, tid {tid}"),
    }
}

impl LogView {
    /// The blocks that a record names, as far as they are asked for.
    fn blocks(&self, r: &LogRecord, page: &mut Page<'_>) -> io::Result<()> {
        let LogOptions { only, all, .. } = self.options;
        let bitmap = self.bitmap.as_ref();
        let concerns = |b: Fsblk| only == Some(b) || bitmap.is_some_and(|(map, ..)| *map == b);
        for l in r.logged.iter().filter(|l| all || concerns(l.block)) {
            write!(page, "  FS block {} logged at ", l.block)?;
            if !all {
                write!(page, "sequence {}, ", r.sequence)?;
            }
            writeln!(page, "journal block {} (flags 0x{:x})", l.at, l.flags)?;
            let content = self.contents.get(&l.at);
            if let (Some((map, bit, words)), Some(content)) = (bitmap, content)
                && *map == l.block
            {
                let state = if bitmap::test(content, *bit) { "SET" } else { "CLEAR" };
                writeln!(page, "    ({words} is {state})")?;
            }
            if let (true, Some(content)) = (self.options.contents, content) {
                hex_lines(content, page)?;
            }
        }
        for b in r.revoked.iter().filter(|b| all || only == Some(**b)) {
            write!(page, "  Revoke FS block {b}")?;
            if !all {
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
            if r.own_sequence != r.sequence {
                let (own, due) = (r.own_sequence, r.sequence);
                writeln!(page, "Found sequence {own} (not {due}) at block {}: end of journal.", r.at)?;
            }
            if self.options.only.is_none() {
                let (number, kind) = match r.kind {
                    "descriptor" => (1, "descriptor block"),
                    "commit" => (2, "commit block"),
                    _ => (5, "revoke table"),
                };
                let own = r.own_sequence;
                writeln!(page, "Found expected sequence {own}, type {number} ({kind}) at block {}", r.at)?;
            }
            if self.options.all {
                match r.kind {
                    "descriptor" => {
                        writeln!(page, "Dumping descriptor block, sequence {}, at block {}:", r.sequence, r.at)?;
                    }
                    "revoke" => writeln!(page, "Dumping revoke block, sequence {}, at block {}:", r.sequence, r.at)?,
                    _ => {}
                }
            }
            self.blocks(r, page)?;
        }
        self.ending(page)?;
        if !self.fast_commits.is_empty() {
            writeln!(page, "\n*** Fast Commit Area ***")?;
            self.fast_commits.iter().try_for_each(|line| writeln!(page, "{line}"))?;
        }
        Ok(())
    }
}

impl LogView {
    fn ending(&self, page: &mut Page<'_>) -> io::Result<()> {
        if self.start == 0 && !self.options.old {
            return Ok(());
        }
        let (at, next) = (self.end, self.next);
        match (self.why, self.found) {
            (End::NoMagic, _) => writeln!(page, "No magic number at block {at}: end of journal."),
            (End::Sequence, Some(found)) => {
                writeln!(page, "Found sequence {found} (not {next}) at block {at}: end of journal.")
            }
            (End::Sequence, None) | (End::Damaged, _) => writeln!(page, "Block {at} is damaged: end of journal."),
            (End::Whole, _) => writeln!(page, "All of the journal was read, up to block {at}."),
        }
    }
}

/// Lines of 16 bytes: offset, four words, ASCII.
fn hex_lines(bytes: &[u8], page: &mut Page<'_>) -> io::Result<()> {
    for (n, line) in bytes.chunks(16).enumerate() {
        write!(page, "    {:04x}:  ", n.saturating_mul(16))?;
        // Words are shown as numbers, little endian.
        line.chunks(4).try_for_each(|word| {
            let word: Vec<u8> = word.iter().rev().copied().collect();
            write!(page, "{} ", hex(&word))
        })?;
        let ascii: String = line.iter().map(|b| if matches!(b, 0x20..=0x7e) { *b as char } else { '.' }).collect();
        writeln!(page, "{ascii}")?;
    }
    Ok(())
}
