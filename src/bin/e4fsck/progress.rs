//! How far the check is: a bar, or lines for another program; and when it must end.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ext4kit::check::Pass;
use ext4kit::cli::Failure;
use ext4kit::progress::{Progress, Step};

/// Where progress is shown.
pub(crate) enum Shared {
    Bar(Box<dyn Progress>),
    Lines(Mutex<Lines>),
}

/// Lines for another program, in e2fsck's form: the number of the pass, how much of it is done, how much there is, the image. At most
/// a hundred for each pass; one where a pass does not say how far it is.
pub(crate) struct Lines {
    out: File,
    image: String,
    pass: u64,
    /// Of the present step.
    done: u64,
    total: u64,
    /// Hundredths that were told.
    told: u64,
    stepped: bool,
}

impl Lines {
    /// To a file descriptor that this process was given.
    pub(crate) fn new(fd: i32, image: String) -> Result<Self, Failure> {
        let path = format!("/proc/self/fd/{fd}");
        let out = File::options().write(true).open(path);
        let out = out.map_err(|e| Failure::Usage(format!("-C {fd}: this file descriptor cannot be written: {e}")))?;
        Ok(Self { out, image, pass: 0, done: 0, total: 0, told: 0, stepped: false })
    }

    fn tell(&mut self, done: u64, total: u64) {
        // Who does not read it any more does not stop the check.
        let _ = writeln!(self.out, "{} {done} {total} {}", self.pass, self.image);
    }

    fn pass(&mut self, pass: Pass) {
        if self.pass != 0 && !self.stepped {
            self.tell(1, 1);
        }
        let digits = pass.label().trim_end_matches(|c: char| !c.is_ascii_digit());
        (self.pass, self.stepped) = (digits.parse().unwrap_or(0), false);
    }

    fn begin(&mut self, step: Step) {
        (self.done, self.told) = (0, 0);
        self.total = step.total.unwrap_or(0);
        if self.total != 0 && self.pass != 0 {
            self.stepped = true;
            self.tell(0, self.total);
        }
    }

    fn advance(&mut self, n: u64) {
        self.done = self.done.saturating_add(n);
        let Some(hundredths) = self.done.saturating_mul(100).checked_div(self.total) else { return };
        if hundredths > self.told && self.pass != 0 {
            self.told = hundredths;
            self.tell(self.done.min(self.total), self.total);
        }
    }
}

impl Shared {
    fn lines(&self, f: impl FnOnce(&mut Lines)) {
        if let Self::Lines(lines) = self {
            f(&mut lines.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// A pass begins.
    pub(crate) fn pass(&self, pass: Pass) {
        self.lines(|l| l.pass(pass));
    }
}

impl Progress for Shared {
    fn begin(&self, step: Step) {
        match self {
            Self::Bar(bar) => bar.begin(step),
            Self::Lines(_) => self.lines(|l| l.begin(step)),
        }
    }

    fn advance(&self, n: u64) {
        match self {
            Self::Bar(bar) => bar.advance(n),
            Self::Lines(_) => self.lines(|l| l.advance(n)),
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.end();
        }
    }

    fn cancelled(&self) -> bool {
        matches!(self, Self::Bar(bar) if bar.cancelled())
    }
}

/// Progress that ends at some time.
pub(crate) struct Deadline {
    pub(crate) shown: Arc<Shared>,
    pub(crate) end: Option<Instant>,
}

impl Progress for Deadline {
    fn begin(&self, step: Step) {
        self.shown.begin(step);
    }

    fn advance(&self, n: u64) {
        self.shown.advance(n);
    }

    fn end(&self) {
        self.shown.end();
    }

    fn cancelled(&self) -> bool {
        self.shown.cancelled() || self.end.is_some_and(|end| Instant::now() >= end)
    }
}
