//! A progress bar on standard error.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::progress::{Progress, Step, Unit};

/// Draws one bar per step, with rate and remaining time where the total is known, and takes it away when the step ends.
#[derive(Debug, Default)]
pub struct TerminalProgress {
    bar: RwLock<Option<ProgressBar>>,
    cancelled: AtomicBool,
}

impl TerminalProgress {
    /// Nothing is drawn before the first step.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ask the operation to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    fn replace(&self, bar: Option<ProgressBar>) {
        let mut slot = self.bar.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = std::mem::replace(&mut *slot, bar) {
            old.finish_and_clear();
        }
    }
}

/// The template of a step's bar; the units are the words a reader knows.
fn template(step: &Step) -> &'static str {
    match (step.unit, step.total.is_some()) {
        (Unit::Bytes, true) => "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        (Unit::Bytes, false) => "{msg} {spinner} {bytes} {bytes_per_sec}",
        (_, true) => "{msg} [{bar:30}] {human_pos}/{human_len} {prefix} {per_sec} {eta}",
        (_, false) => "{msg} {spinner} {human_pos} {prefix}",
    }
}

const fn noun(unit: Unit) -> &'static str {
    match unit {
        Unit::Bytes => "bytes",
        Unit::Files => "files",
        Unit::Groups => "groups",
        Unit::Inodes => "inodes",
        Unit::Blocks => "blocks",
    }
}

impl Progress for TerminalProgress {
    fn begin(&self, step: Step) {
        let bar = step.total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        if let Ok(style) = ProgressStyle::with_template(template(&step)) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(step.name);
        bar.set_prefix(noun(step.unit));
        if step.total.is_none() {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        self.replace(Some(bar));
    }

    fn advance(&self, n: u64) {
        if let Some(bar) = &*self.bar.read().unwrap_or_else(PoisonError::into_inner) {
            bar.inc(n);
        }
    }

    fn end(&self) {
        self.replace(None);
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

impl Drop for TerminalProgress {
    fn drop(&mut self) {
        self.replace(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_well_formed() {
        for unit in [Unit::Bytes, Unit::Files, Unit::Groups, Unit::Inodes, Unit::Blocks] {
            for total in [None, Some(10)] {
                ProgressStyle::with_template(template(&Step { name: "x", unit, total })).unwrap();
            }
        }
    }

    #[test]
    fn cancelling_is_seen() {
        let p = TerminalProgress::new();
        p.begin(Step { name: "x", unit: Unit::Files, total: Some(3) });
        p.advance(2);
        p.check().unwrap();
        p.cancel();
        assert!(matches!(p.check(), Err(crate::Error::Cancelled)));
        p.end();
    }
}
