//! How long the passes took.

use std::io::Write;
use std::time::{Duration, Instant};

use ext4kit::check::Pass;
use ext4kit::cli::{Failure, human_size};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// A moment: wall and processor time.
#[derive(Clone, Copy)]
struct Moment {
    wall: Instant,
    processor: Duration,
}

impl Moment {
    fn now() -> Self {
        let t = clock_gettime(ClockId::ProcessCPUTime);
        let nanos = u32::try_from(t.tv_nsec).unwrap_or(0);
        Self { wall: Instant::now(), processor: Duration::new(t.tv_sec.unsigned_abs(), nanos) }
    }

    fn since(&self, earlier: &Self) -> Spent {
        let processor = self.processor.saturating_sub(earlier.processor);
        Spent { wall: self.wall.duration_since(earlier.wall), processor }
    }
}

/// Wall and processor time that went by.
#[derive(Clone, Copy, Default)]
struct Spent {
    wall: Duration,
    processor: Duration,
}

impl Spent {
    fn text(&self) -> String {
        format!("{:.3} s, processor {:.3} s", self.wall.as_secs_f64(), self.processor.as_secs_f64())
    }

    fn json(&self) -> Value {
        json!({"seconds": self.wall.as_secs_f64(), "processor_seconds": self.processor.as_secs_f64()})
    }
}

/// When each pass began. After repairs passes begin again; their times add up.
pub(crate) struct Times {
    start: Moment,
    passes: Vec<(Pass, Moment)>,
}

impl Default for Times {
    fn default() -> Self {
        Self { start: Moment::now(), passes: Vec::new() }
    }
}

impl Times {
    pub(crate) fn pass(&mut self, pass: Pass) {
        self.passes.push((pass, Moment::now()));
    }

    /// Each pass with its time, in order.
    fn by_pass(&self, end: Moment) -> Vec<(Pass, Spent)> {
        let mut all: Vec<(Pass, Spent)> = Vec::new();
        let ends = self.passes.iter().skip(1).map(|p| p.1).chain(std::iter::once(end));
        for ((pass, begin), end) in self.passes.iter().zip(ends) {
            let spent = end.since(begin);
            match all.iter_mut().find(|(p, _)| p == pass) {
                Some((_, sum)) => {
                    sum.wall += spent.wall;
                    sum.processor += spent.processor;
                }
                None => all.push((*pass, spent)),
            }
        }
        all
    }

    /// `level` 1: all of it; 2: each pass as well.
    pub(crate) fn print(&self, out: &mut impl Write, level: u8) -> Result<(), Failure> {
        if level == 0 {
            return Ok(());
        }
        let end = Moment::now();
        for (pass, spent) in self.by_pass(end).iter().filter(|_| level > 1) {
            writeln!(out, "Pass {}: {}", pass.label(), spent.text())?;
        }
        let host = Host::now();
        write!(out, "time: {}", end.since(&self.start).text())?;
        for (what, bytes) in [("memory", host.memory), ("read", host.read), ("written", host.written)] {
            if let Some(bytes) = bytes {
                write!(out, ", {what} {}", human_size(bytes))?;
            }
        }
        Ok(writeln!(out)?)
    }

    pub(crate) fn to_json(&self) -> Value {
        let end = Moment::now();
        let host = Host::now();
        let passes: Vec<Value> =
            self.by_pass(end).iter().map(|(p, t)| json!({"pass": p.label(), "time": t.json()})).collect();
        json!({
            "all": end.since(&self.start).json(), "passes": passes,
            "memory": host.memory, "read": host.read, "written": host.written,
        })
    }
}

/// What the host says that this process needed, in bytes; `None` where it says nothing.
struct Host {
    /// The most memory at any time.
    memory: Option<u64>,
    read: Option<u64>,
    written: Option<u64>,
}

impl Host {
    fn now() -> Self {
        let number = |file: &str, name: &str, unit: u64| -> Option<u64> {
            let text = std::fs::read_to_string(file).ok()?;
            let line = text.lines().find_map(|l| l.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(unit)
        };
        Self {
            memory: number("/proc/self/status", "VmHWM:", 1024),
            read: number("/proc/self/io", "rchar:", 1),
            written: number("/proc/self/io", "wchar:", 1),
        }
    }
}
