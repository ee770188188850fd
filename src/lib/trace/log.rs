//! Logs of ext4's tracepoints, as `trace`, `trace_pipe`, `trace-cmd report` and `perf script` print them, parsed.
//!
//! A line is `TASK-PID [CPU] FLAGS TIMESTAMP: EVENT: FIELDS`; of the columns only the process and the event matter. Fields
//! may be in the words of the tracepoint (`dev 7,0 ino 12 es [0/1) mapped 0 status H`) or in those of `options/fields`
//! (`dev=0x700000 (7340032) ino=0xc (12) ...`). Lines that are no events of ext4 or jbd2 are passed over; of those, an
//! event that is known and cannot be read is an error that names its line. Blocks are logical, `len` in blocks.

use std::fmt;

use crate::file::extent_status::EsStatus;

/// Flag of `ext4_free_blocks`: the cluster goes, and is reserved again.
#[doc(alias = "EXT4_FREE_BLOCKS_RERESERVE_CLUSTER")]
const RERESERVE: u64 = 0x40;

/// A device number: major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dev(pub u32, pub u32);

impl fmt::Display for Dev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.0, self.1)
    }
}

/// What an event says, as far as reservations and extent status go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are the tracepoints' own")]
pub enum What {
    EsInsert {
        lblk: u32,
        len: u32,
        pblk: u64,
        status: EsStatus,
    },
    EsCache {
        lblk: u32,
        len: u32,
        pblk: u64,
        status: EsStatus,
    },
    EsInsertDelayed {
        lblk: u32,
        len: u32,
        lclu_allocated: bool,
        end_allocated: bool,
    },
    EsRemove {
        lblk: u32,
        len: u32,
    },
    DaReserve {
        clusters: u32,
        after: u32,
    },
    DaUpdate {
        clusters: u32,
        before: u32,
    },
    DaRelease {
        clusters: u32,
        before: u32,
    },
    /// A cluster of the device was freed and reserved again.
    Rereserve {
        pblk: u64,
        count: u64,
    },
    Evict {
        nlink: u32,
    },
    /// An inode is made.
    Begin,
    /// Any other event of ext4 or jbd2.
    Other,
}

/// An event of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEvent {
    /// The line, from 1 on.
    pub line: u64,
    /// The process.
    pub pid: u32,
    /// The device.
    pub dev: Dev,
    /// The inode; 0 where the event names none.
    pub ino: u64,
    /// What.
    pub what: What,
}

/// What a line can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// An event.
    Event(LogEvent),
    /// Events were lost before this line.
    Lost,
    /// Something else.
    Other,
}

/// A line that begins as an event does and cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The line, from 1 on.
    pub line: u64,
    /// The field that is missing or no number.
    pub field: &'static str,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: the event has no field \"{}\" that can be read", self.line, self.field)
    }
}

impl std::error::Error for Unreadable {}

/// A whole log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The events, and `None` where some were lost.
    pub events: Vec<Option<LogEvent>>,
    /// Lines in all.
    pub lines: u64,
    /// Lines that say that events were lost.
    pub lost: u64,
}

impl Log {
    /// Parse a log.
    ///
    /// # Errors
    /// [`Unreadable`] for the first event that cannot be read. A last line that was cut off is no such event.
    pub fn parse(text: &[u8]) -> Result<Self, Unreadable> {
        let mut log = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.iter().position(|b| *b == b'\n');
            let (line, next) = rest.split_at(end.map_or(rest.len(), |n| n + 1));
            log.lines += 1;
            match parse_line(&String::from_utf8_lossy(line), log.lines) {
                Ok(Line::Event(e)) => log.events.push(Some(e)),
                Ok(Line::Lost) => {
                    log.lost += 1;
                    log.events.push(None);
                }
                Ok(Line::Other) => {}
                Err(_) if end.is_none() => {}
                Err(e) => return Err(e),
            }
            rest = next;
        }
        Ok(log)
    }
}

/// Parse a line; `line` is its number.
///
/// # Errors
/// [`Unreadable`] for an event that is known and lacks a field.
pub fn parse_line(text: &str, line: u64) -> Result<Line, Unreadable> {
    let text = text.trim_end();
    if text.starts_with('#') {
        return Ok(Line::Other);
    }
    if text.contains("[LOST ") || text.starts_with("PERF_RECORD_LOST") {
        return Ok(Line::Lost);
    }
    let Some((pid, name, rest)) = columns(text) else { return Ok(Line::Other) };
    let f = Fields { text: rest, line };
    let Some(dev) = f.dev() else { return Ok(Line::Other) };
    let what = what(name, &f)?;
    let ino = f.number("ino").unwrap_or(0);
    Ok(Line::Event(LogEvent { line, pid, dev, ino, what }))
}

/// The process, the event's name, and its fields; `None` for a line that is no event of ext4 or jbd2.
fn columns(text: &str) -> Option<(u32, &str, &str)> {
    // "TASK-PID (TGID) [CPU] ..."; the name of a task may hold anything, the column of the CPU only digits.
    let mut from = 0;
    let (task, rest) = loop {
        let at = from + text[from..].find(" [")?;
        let (digits, rest) = text[at + 2..].split_once(']')?;
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            break (&text[..at], rest);
        }
        from = at + 2;
    };
    let task = task.trim_end();
    let task = task.strip_suffix(')').and_then(|t| t.rsplit_once('(')).map_or(task, |(t, _)| t.trim_end());
    let digits = task.len() - task.bytes().rev().take_while(u8::is_ascii_digit).count();
    let pid = task.get(digits..)?.parse().ok()?;
    let (_, rest) = rest.split_once(": ")?;
    let (name, rest) = rest.trim_start().split_once(": ")?;
    let name = name.strip_prefix("ext4:").or_else(|| name.strip_prefix("jbd2:")).unwrap_or(name);
    let ours = name.starts_with("ext4_") || name.starts_with("jbd2_");
    // The shrinker may run in the middle of anything.
    (ours && !name.starts_with("ext4_es_shrink")).then_some((pid, name, rest))
}

fn what(name: &str, f: &Fields<'_>) -> Result<What, Unreadable> {
    Ok(match name {
        "ext4_es_insert_extent" => {
            let (lblk, len) = f.range()?;
            What::EsInsert { lblk, len, pblk: f.pblk()?, status: f.status()? }
        }
        "ext4_es_cache_extent" => {
            let (lblk, len) = f.range()?;
            What::EsCache { lblk, len, pblk: f.pblk()?, status: f.status()? }
        }
        "ext4_es_insert_delayed_extent" | "ext4_es_insert_delayed_block" => {
            let (lblk, len) = f.range()?;
            let (lclu_allocated, end_allocated) = f.allocated();
            What::EsInsertDelayed { lblk, len, lclu_allocated, end_allocated }
        }
        "ext4_es_remove_extent" => {
            let (lblk, len) = f.range()?;
            What::EsRemove { lblk, len }
        }
        "ext4_da_reserve_space" => {
            // Older kernels reserve one at a time and do not say so.
            let clusters = if f.find("reserve_blocks").is_some() { f.count("reserve_blocks")? } else { 1 };
            What::DaReserve { clusters, after: f.count("reserved_data_blocks")? }
        }
        "ext4_da_update_reserve_space" => {
            What::DaUpdate { clusters: f.count("used_blocks")?, before: f.count("reserved_data_blocks")? }
        }
        "ext4_da_release_space" => {
            What::DaRelease { clusters: f.count("freed_blocks")?, before: f.count("reserved_data_blocks")? }
        }
        "ext4_free_blocks" if f.flags() & RERESERVE != 0 => {
            What::Rereserve { pblk: f.need("block")?, count: f.need("count")? }
        }
        "ext4_evict_inode" => What::Evict { nlink: f.count("nlink")? },
        "ext4_allocate_inode" => What::Begin,
        _ => What::Other,
    })
}

/// The fields of an event.
struct Fields<'t> {
    text: &'t str,
    line: u64,
}

impl<'t> Fields<'t> {
    /// What follows a field's name. Names begin where no other word goes on; `reserve_blocks 1reserved_data_blocks 2` is how
    /// the kernel prints two of them.
    fn find(&self, key: &str) -> Option<&'t str> {
        let mut from = 0;
        while let Some(n) = self.text[from..].find(key) {
            let at = from + n;
            from = at + key.len();
            let word = self.text[..at].bytes().next_back().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
            if let Some(value) = self.text[from..].strip_prefix([' ', '=']).filter(|_| !word) {
                return Some(value);
            }
        }
        None
    }

    fn number(&self, key: &str) -> Option<u64> {
        let value = self.find(key)?;
        // "options/fields" prints hexadecimal, and the same in decimal behind it, which may be negative.
        if let Some(hex) = value.strip_prefix("0x") {
            let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
            return u64::from_str_radix(&hex[..end], 16).ok();
        }
        let value = value.strip_prefix('(').unwrap_or(value);
        let end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
        value[..end].parse().ok()
    }

    fn need(&self, key: &'static str) -> Result<u64, Unreadable> {
        self.number(key).ok_or(Unreadable { line: self.line, field: key })
    }

    fn count(&self, key: &'static str) -> Result<u32, Unreadable> {
        u32::try_from(self.need(key)?).map_err(|_| Unreadable { line: self.line, field: key })
    }

    fn dev(&self) -> Option<Dev> {
        let value = self.find("dev")?;
        if let Some((major, rest)) = value.split_once(',')
            && let Ok(major) = major.parse()
        {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            return Some(Dev(major, rest[..end].parse().ok()?));
        }
        let n = self.number("dev")?;
        Some(Dev((n >> 20) as u32, (n & 0xf_ffff) as u32))
    }

    /// First block and length: `es [0/1)`, or fields of their own. One beyond the last block is the last that there can be.
    fn range(&self) -> Result<(u32, u32), Unreadable> {
        let wrong = Unreadable { line: self.line, field: "es" };
        let pair = match self.find("es") {
            Some(text) => {
                let inner = text.strip_prefix('[').and_then(|t| t.split_once(')')).ok_or(wrong)?.0;
                let (a, b) = inner.split_once('/').ok_or(wrong)?;
                (a.parse().map_err(|_| wrong)?, b.parse().map_err(|_| wrong)?)
            }
            None => (self.need("lblk")?, self.need("len")?),
        };
        let (lblk, len): (u64, u64) = pair;
        let lblk = u32::try_from(lblk).map_err(|_| wrong)?;
        let len = u32::try_from(len).map_err(|_| wrong)?;
        Ok((lblk, len.min(u32::MAX - lblk)))
    }

    fn pblk(&self) -> Result<u64, Unreadable> {
        self.number("mapped").or_else(|| self.number("pblk")).ok_or(Unreadable { line: self.line, field: "mapped" })
    }

    /// `WUDHR` in words, or bits. What is delayed beside something else (kernels before 6.13) is that something else.
    fn status(&self) -> Result<EsStatus, Unreadable> {
        let wrong = Unreadable { line: self.line, field: "status" };
        let text = self.find("status").ok_or(wrong)?;
        let bits = if let Some(hex) = text.strip_prefix("0x") {
            let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
            u64::from_str_radix(&hex[..end], 16).map_err(|_| wrong)? & 0xf
        } else {
            let letters = text.split(' ').next().unwrap_or_default();
            letters.chars().fold(0, |bits, c| bits | "WUDH".find(c).map_or(0, |n| 1 << n))
        };
        match bits {
            b if b & 1 != 0 => Ok(EsStatus::Written),
            b if b & 2 != 0 => Ok(EsStatus::Unwritten),
            b if b & 4 != 0 => Ok(EsStatus::Delayed),
            b if b & 8 != 0 => Ok(EsStatus::Hole),
            _ => Err(wrong),
        }
    }

    /// Whether the first and the last cluster are allocated: `allocated 1 0`, or fields of their own.
    fn allocated(&self) -> (bool, bool) {
        let set = |key| self.number(key).is_some_and(|n| n != 0);
        match self.find("allocated") {
            Some(text) => {
                let mut words = text.split_ascii_whitespace().map(|w| w != "0" && w != "false");
                (words.next().unwrap_or(false), words.next().unwrap_or(false))
            }
            None => (set("lclu_allocated"), set("end_allocated")),
        }
    }

    /// The flags that have no name.
    fn flags(&self) -> u64 {
        let words = self.find("flags").and_then(|t| t.split(' ').next()).unwrap_or_default();
        let hex = |w: &str| w.strip_prefix("0x").and_then(|h| u64::from_str_radix(h, 16).ok());
        words.split('|').filter_map(hex).fold(0, |all, bits| all | bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> LogEvent {
        match parse_line(text, 1).unwrap() {
            Line::Event(e) => e,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn columns_may_be_any() {
        let want = LogEvent {
            line: 1,
            pid: 77,
            dev: Dev(7, 3),
            ino: 12,
            what: What::EsInsert { lblk: 0, len: u32::MAX, pblk: 0, status: EsStatus::Hole },
        };
        let tail = "dev 7,3 ino 12 es [0/4294967295) mapped 0 status H";
        for head in [
            "              dd-77      [001] .....   123.456789: ext4_es_insert_extent: ",
            "   kworker/u8:2-77    [000] d..2. 42: ext4_es_insert_extent: ",
            " a [b] c-d-77      (   70) [011] ..... 1.000001: ext4_es_insert_extent: ",
            "fio    77 [002]  12.5: ext4:ext4_es_insert_extent: ",
            "<...>-77 [000] 1.0: ext4_es_insert_extent: ",
        ] {
            assert_eq!(event(&format!("{head}{tail}\n")), want, "{head}");
        }
        for other in ["# tracer: nop", "", "a-1 [000] 1.0: sched_switch: prev_comm=x", "no columns at all: x: y"] {
            assert_eq!(parse_line(other, 1).unwrap(), Line::Other, "{other}");
        }
        assert_eq!(parse_line("CPU:1 [LOST 12 EVENTS]", 9).unwrap(), Line::Lost);
    }

    #[test]
    fn fields_of_both_forms() {
        let head = "x-1 [000] ..... 1.0: ext4_da_reserve_space: ";
        let words = "dev 7,0 ino 12 mode 0100644 i_blocks 0 reserve_blocks 2reserved_data_blocks 5";
        let raw = "dev=0x700000 (7340032) ino=0xc (12) i_blocks=0x0 (0) reserve_blocks=(2) reserved_data_blocks=(5) mode=0x81a4 (33188)";
        for text in [words, raw] {
            let e = event(&format!("{head}{text}"));
            assert_eq!((e.dev, e.ino, e.what), (Dev(7, 0), 12, What::DaReserve { clusters: 2, after: 5 }), "{text}");
        }
        let e = event(
            "x-1 [000] 1.0: ext4_es_insert_delayed_extent: dev 7,0 ino 12 es [4/1) mapped 0 status D allocated 1 0",
        );
        assert_eq!(e.what, What::EsInsertDelayed { lblk: 4, len: 1, lclu_allocated: true, end_allocated: false });
        let e = event(
            "x-1 [000] 1.0: ext4_free_blocks: dev 7,0 ino 12 mode 0100644 block 4320 count 16 flags VALIDATED|0x40",
        );
        assert_eq!(e.what, What::Rereserve { pblk: 4320, count: 16 });
        let e = event("x-1 [000] 1.0: jbd2_start_commit: dev 7,0 transaction 2 sync 0");
        assert_eq!((e.ino, e.what), (0, What::Other));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let bad = "x-1 [000] 1.0: ext4_es_remove_extent: dev 7,0 ino 12 es [a/1)";
        assert_eq!(parse_line(bad, 7), Err(Unreadable { line: 7, field: "es" }));
        let log = "x-1 [000] 1.0: jbd2_start_commit: dev 7,0 transaction 2\nx-1 [000] 1.0: ext4_es_remove_extent: dev 7,0 ino 12 es [0/";
        assert_eq!(Log::parse(log.as_bytes()).unwrap().events.len(), 1, "the last line is cut off");
        assert!(Log::parse(format!("{log}\n").as_bytes()).is_err());
        assert!(Log::parse(b"\xff\xfe\x00 [1] \n: :\n [000]: : :").is_ok());
    }
}
