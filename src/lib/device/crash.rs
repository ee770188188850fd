//! Crash states, one after the other: everything that a device may hold after the power failed somewhere in a recorded
//! [`WriteLog`], made on an overlay and handed to a check.
//!
//! For each stretch between two flushes (an epoch): every prefix of its writes, every subset of them where there are few,
//! the last write of a prefix torn at every sector (of few), and sampled states: any subset, any write torn. What is
//! sampled depends on the seed alone. States are counted by kind; how many are checked at once does not change which.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::replay::{CrashState, Event};
use super::{BlockDevice, MemoryDevice, OverlayDevice, WriteLog};
use crate::env::SeededEntropy;
use crate::error::Result;

/// Which states to make.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What sampling depends on.
    pub seed: u64,
    /// Sampled states for each epoch.
    pub samples: u32,
    /// Epochs of up to this many writes are taken in every subset.
    pub all_subsets_up_to: u32,
    /// Most torn tails of one write.
    pub torn: usize,
    /// Most prefixes of one epoch; beyond, they are thinned evenly (the first and last stay).
    pub prefixes: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self { seed: 1, samples: 24, all_subsets_up_to: 5, torn: 4, prefixes: 200 }
    }
}

/// How many states were checked, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Stretches between flushes.
    pub epochs: u64,
    /// Prefixes of the log.
    pub prefixes: u64,
    /// Subsets of whole writes.
    pub subsets: u64,
    /// Prefixes whose last write was torn.
    pub torn: u64,
    /// Sampled states.
    pub sampled: u64,
}

impl Counts {
    /// All states.
    pub const fn total(&self) -> u64 {
        self.prefixes + self.subsets + self.torn + self.sampled
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, o: Self) {
        self.epochs += o.epochs;
        self.prefixes += o.prefixes;
        self.subsets += o.subsets;
        self.torn += o.torn;
        self.sampled += o.sampled;
    }
}

/// A state that did not pass the check.
#[derive(Clone, Debug)]
pub struct Failure<F = String> {
    /// The state; [`WriteLog::apply`] makes it again.
    pub state: CrashState,
    /// What the check said.
    pub message: F,
}

impl<F: std::fmt::Display> std::fmt::Display for Failure<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut kept = String::new();
        for k in &self.state.kept {
            let torn = if k.parts.is_some() { "~" } else { "" };
            let _ = write!(kept, " {}{torn}", k.event);
        }
        write!(f, "after {} events, of the unflushed ones kept{kept}: {}", self.state.end, self.message)
    }
}

/// Failures that are kept.
const MAX_KEPT: usize = 16;

/// What came out: how many states were checked, and those that failed.
#[derive(Clone, Debug)]
pub struct Outcome<F = String> {
    /// States checked.
    pub counts: Counts,
    /// States that failed.
    pub failed: u64,
    /// The first of them.
    pub first_failure: Option<Failure<F>>,
    /// A few more.
    pub more_failures: Vec<Failure<F>>,
}

/// Check every state that `plan` makes of `log`, which was recorded over `base` (its bytes before the log). The check may
/// write to the device it is given. `durable` tells it how many events of the log are flushed in that state: what was
/// acknowledged by then must be there.
///
/// # Errors
/// Those of the devices in memory. What checks say is in the [`Outcome`].
pub fn enumerate<F: Send>(
    base: &[u8],
    log: &WriteLog,
    plan: Plan,
    check: impl Fn(&Arc<dyn BlockDevice>, &CrashState, usize) -> std::result::Result<(), F> + Sync,
) -> Result<Outcome<F>> {
    let durable = Arc::new(MemoryDevice::from_bytes(base.to_vec()));
    let mut out = Outcome { counts: Counts::default(), failed: 0, first_failure: None, more_failures: Vec::new() };
    let mut entropy = SeededEntropy::new(plan.seed);
    let mut applied = 0;
    for epoch in epochs(log) {
        log.apply_range(applied..epoch.start, &*durable)?;
        applied = epoch.start;
        out.counts.epochs += 1;
        let states = states(log, &epoch, plan, &mut entropy, &mut out.counts);
        let failures = check_all(&states, &|state| {
            let overlay: Arc<dyn BlockDevice> = Arc::new(OverlayDevice::new(Arc::clone(&durable)));
            log.apply_pending(state, &*overlay)?;
            Ok(check(&overlay, state, epoch.start))
        })?;
        out.failed += failures.len() as u64;
        let mut failures = failures.into_iter();
        if out.first_failure.is_none() {
            out.first_failure = failures.next();
        }
        let room = MAX_KEPT - 1 - out.more_failures.len();
        out.more_failures.extend(failures.take(room));
    }
    Ok(out)
}

/// How many states `plan` makes of `log`.
pub fn count(log: &WriteLog, plan: Plan) -> Counts {
    let mut counts = Counts::default();
    let mut entropy = SeededEntropy::new(plan.seed);
    for epoch in epochs(log) {
        counts.epochs += 1;
        states(log, &epoch, plan, &mut entropy, &mut counts);
    }
    counts
}

impl Plan {
    /// A plan that makes at least `total` states of `log`, and few more: up to two thirds are prefixes, torn writes and subsets,
    /// the rest is sampled. A log of few writes has few states, each of which is then taken several times.
    pub fn with_total(log: &WriteLog, total: u64, seed: u64) -> Self {
        let mut plan = Self { seed, samples: 0, all_subsets_up_to: 8, torn: 16, prefixes: usize::MAX };
        let mut counts = count(log, plan);
        while counts.total() > total / 3 * 2 && (plan.prefixes > 1 || plan.torn > 0) {
            plan.all_subsets_up_to = plan.all_subsets_up_to.saturating_sub(1);
            plan.torn /= 2;
            plan.prefixes = if plan.prefixes == usize::MAX { log.len() } else { plan.prefixes / 2 }.max(1);
            counts = count(log, plan);
        }
        let written = epochs(log).iter().filter(|e| !e.is_empty()).count() as u64;
        let missing = total.saturating_sub(counts.total());
        plan.samples = u32::try_from(missing.div_ceil(written.max(1))).unwrap_or(u32::MAX);
        plan
    }
}

/// Check states by several plain threads (a pool's thread would take up other states while a check waits for a pool of its
/// own); what failed, in the order of the states.
fn check_all<F: Send>(
    states: &[CrashState],
    check: &(impl Fn(&CrashState) -> Result<std::result::Result<(), F>> + Sync),
) -> Result<Vec<Failure<F>>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut failed = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(state) = states.get(at) else { return Ok(failed) };
            if let Err(message) = check(state)? {
                failed.push((at, Failure { state: state.clone(), message }));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(states.len());
    let each = std::thread::scope(|s| {
        let threads: Vec<_> = (0..threads).map(|_| s.spawn(work)).collect();
        let join = |t: std::thread::ScopedJoinHandle<'_, _>| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    });
    let mut all: Vec<(usize, Failure<F>)> = each?.into_iter().flatten().collect();
    all.sort_by_key(|f| f.0);
    Ok(all.into_iter().map(|f| f.1).collect())
}

/// The stretches between flushes, the last one maybe not flushed. The flush itself is no part of them.
fn epochs(log: &WriteLog) -> Vec<Range<usize>> {
    let mut all = Vec::new();
    let mut start = 0;
    for (i, event) in log.events().iter().enumerate() {
        if *event == Event::Flush {
            all.push(start..i);
            start = i + 1;
        }
    }
    all.push(start..log.len());
    all
}

fn states(
    log: &WriteLog,
    epoch: &Range<usize>,
    plan: Plan,
    entropy: &mut SeededEntropy,
    counts: &mut Counts,
) -> Vec<CrashState> {
    let mut all = Vec::new();
    let step = epoch.len().div_ceil(plan.prefixes.max(1)).max(1);
    let ends = (epoch.start..epoch.end).step_by(step).chain([epoch.end]);
    for end in ends {
        all.push(log.prefix(end));
        counts.prefixes += 1;
        if end == epoch.start {
            continue;
        }
        let torn: Vec<CrashState> = log.torn_tails(end).collect();
        let thin = torn.len().div_ceil(plan.torn.max(1)).max(1);
        let torn = torn.into_iter().step_by(thin).take(plan.torn);
        let before = all.len();
        all.extend(torn);
        counts.torn += (all.len() - before) as u64;
    }
    if epoch.len() > 1 {
        let most = 1u64.checked_shl(plan.all_subsets_up_to).unwrap_or(u64::MAX);
        if let Some(subsets) = log.subsets(epoch.end, most) {
            let before = all.len();
            all.extend(subsets);
            counts.subsets += (all.len() - before) as u64;
        }
    }
    if !epoch.is_empty() {
        all.extend((0..plan.samples).map(|_| log.sample(epoch.end, entropy)));
        counts.sampled += u64::from(plan.samples);
    }
    all
}

/// The bytes of a device.
///
/// # Errors
/// Reading failed.
pub fn bytes_of(device: &dyn BlockDevice) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(device.len()).unwrap_or(0)];
    device.read_at(0, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::RecordDevice;

    #[test]
    fn a_plan_makes_as_many_states_as_are_asked_for() {
        let log = record(true);
        for total in [1, 60, 200, 1000, 5000] {
            let counts = count(&log, Plan::with_total(&log, total, 1));
            assert!(counts.total() >= total && counts.total() < total + 40, "{total}: {counts:?}");
        }
        assert_eq!(count(&WriteLog::default(), Plan::with_total(&WriteLog::default(), 50, 1)).total(), 1);
    }

    /// A value in sector 0 that refers to sector 1 or 2, written with or without a barrier.
    fn record(barrier: bool) -> WriteLog {
        let d = RecordDevice::new(MemoryDevice::new(4096));
        for n in 1..=6u8 {
            let slot = 1 + u64::from(n % 2);
            d.write_at(slot * 512, &[n; 512]).unwrap();
            if barrier {
                d.flush().unwrap();
            }
            d.write_at(0, &[slot as u8, n]).unwrap();
            d.flush().unwrap();
        }
        d.log()
    }

    fn check(o: &dyn BlockDevice) -> std::result::Result<(), String> {
        let bytes = bytes_of(o).unwrap();
        let (slot, n) = (usize::from(bytes[0]), bytes[1]);
        if n == 0 || bytes[slot * 512..][..512].iter().all(|b| *b == n) { Ok(()) } else { Err(format!("slot {slot}")) }
    }

    #[test]
    fn a_barrier_holds_and_its_absence_shows() {
        let plan = Plan::default();
        let good = enumerate(&[0; 4096], &record(true), plan, |o, _, _| check(&**o)).unwrap();
        assert_eq!(good.failed, 0, "{}", good.first_failure.unwrap());
        assert_eq!((good.counts.epochs, good.counts.prefixes), (13, 25));
        assert!(good.counts.total() > 300);
        let bad = enumerate(&[0; 4096], &record(false), plan, |o, _, _| check(&**o)).unwrap();
        assert!(bad.failed > 0);
        let again = enumerate(&[0; 4096], &record(false), plan, |o, _, _| check(&**o)).unwrap();
        assert_eq!((again.failed, again.counts), (bad.failed, bad.counts));
        assert_eq!(again.first_failure.unwrap().state, bad.first_failure.unwrap().state);
    }
}
