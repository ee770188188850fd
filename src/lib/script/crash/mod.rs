//! Scripts that are cut off: a script is run over a device that takes everything down, and every state that a power failure
//! may leave is recovered and judged.
//!
//! [`Recording`] is the run: the image before it, its free blocks filled with a text that names them, the log of writes, and
//! what the files held at each moment. [`Recording::crash`] makes the states ([`crate::device::crash`]) and judges each
//! ([`Violation`]): the checker finds nothing, names and sizes are those of some moment, what was made durable is
//! there, and no byte shows what was never written to that place of that file.
//!
//! With `data=writeback`, where blocks are mapped as written before their data is there, a crash may show what they held
//! before. That is counted apart ([`Report::stale_allowed`]), not as a violation.

mod history;
mod judge;
mod marker;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use self::history::{Durable, History, Shift};
use super::engine::{Engine, Settings};
use super::parse::{Op, Script};
use crate::device::crash::{self, Counts, Failure, Outcome, Plan};
use crate::device::replay::CrashState;
use crate::device::{BlockDevice, MemoryDevice, RecordDevice, WriteLog};
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::format::features::Compat;
use crate::units::Ino;
use crate::volume::{OpenOptions, Volume};
pub use judge::{Kind, Violation};

/// A script that was run, with all that is needed to judge what a crash in it leaves.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The image before the script.
    pub base: Vec<u8>,
    /// What was done to the device.
    pub log: WriteLog,
    history: Arc<History>,
    ops: Vec<Value>,
    now: Timestamp,
    paths: BTreeSet<&'static str>,
    mount: String,
}

/// A violation, with when it happened.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Found {
    /// Index of the operation that ran when the power failed; as many as there are for the unmounting behind the last.
    pub op: usize,
    /// That operation, as the script has it.
    pub text: Value,
    /// Writes and flushes issued before the power failed.
    pub events: usize,
    /// Those of them that were not flushed and reached the device, at least in part.
    pub kept: Vec<usize>,
    /// What is wrong.
    #[serde(flatten)]
    pub violation: Violation,
    /// The state.
    #[serde(skip)]
    pub state: CrashState,
}

/// What came of all states.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// Operations of the script.
    pub ops: usize,
    /// Mount options.
    pub mount: String,
    /// Write paths that its files took.
    pub io_paths: BTreeSet<&'static str>,
    /// Writes and flushes of the run.
    pub events: usize,
    /// States, by kind.
    pub states: Counts,
    /// States that a rule does not allow.
    pub failed: u64,
    /// The same by what is wrong with them.
    pub violations: BTreeMap<&'static str, u64>,
    /// States with old content of blocks in files, as the mount options allow.
    pub stale_allowed: u64,
    /// The first violations.
    pub first: Vec<Found>,
}

impl Recording {
    /// Run `script` on `image`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an image without a journal: nothing is promised of it after a crash; those of
    /// running a script.
    pub fn new(script: &Script, image: Vec<u8>, settings: Settings) -> Result<Self> {
        let memory = Arc::new(MemoryDevice::from_bytes(image));
        let volume = Volume::open(Arc::<MemoryDevice>::clone(&memory), &OpenOptions::default())?;
        if !volume.superblock().features().compat.contains(Compat::HAS_JOURNAL) {
            let value = "no journal".to_owned();
            return Err(Error::InvalidArgument { name: "image", value, allowed: "one with a journal" });
        }
        marker::fill(&volume, &*memory)?;
        drop(volume);
        let base = memory.to_bytes();
        let recorder = Arc::new(RecordDevice::new(memory));
        let device: Arc<dyn BlockDevice> = Arc::<RecordDevice<Arc<MemoryDevice>>>::clone(&recorder);
        let mut history = History::new(&device, names_of(script))?;
        let mut engine = Engine::new(script, &device, settings)?;
        let mut paths = BTreeSet::new();
        for (op, _) in &script.ops {
            if let Op::Crash {} = op {
                history.observe(&engine.mount, recorder.recorded(), Durable::Nothing)?;
                continue;
            }
            let errno = engine.perform(op, &device)?;
            if errno.is_none()
                && let Some((ino, shift)) = moved(&engine, op, history.block_size as u64)
            {
                history.moved(ino, shift);
            }
            let durable = if errno.is_none() { made_durable(&engine, op) } else { Durable::Nothing };
            history.observe(&engine.mount, recorder.recorded(), durable)?;
            paths.extend(engine.mount.inodes().map(|i| engine.mount.path_of(i).name()));
            if let Op::Shutdown { .. } = op {
                break;
            }
        }
        if !matches!(script.ops.last(), Some((Op::Shutdown { .. }, _))) {
            engine.mount.sync()?;
            history.observe(&engine.mount, recorder.recorded(), Durable::All)?;
            engine.finish()?;
        }
        let ops = script.ops.iter().map(|(_, raw)| raw.clone()).collect();
        let mount = script.head.mount.clone();
        Ok(Self { base, log: recorder.log(), history: Arc::new(history), ops, now: settings.now, paths, mount })
    }

    /// A plan for at least `states` states.
    pub fn plan(&self, states: u64, seed: u64) -> Plan {
        Plan::with_total(&self.log, states, seed)
    }

    /// Judge all states that `plan` makes.
    ///
    /// # Errors
    /// Those of devices in memory.
    pub fn crash(&self, plan: Plan) -> Result<Report> {
        let counts: [AtomicU64; Kind::ALL.len()] = Default::default();
        let stale = AtomicU64::new(0);
        let outcome: Outcome<Violation> = crash::enumerate(&self.base, &self.log, plan, |device, state, _| {
            match judge::judge(&self.history, device, state, self.now) {
                Ok(passed) => stale.fetch_add(passed.stale.into(), Ordering::Relaxed),
                Err(v) => {
                    counts[v.kind as usize].fetch_add(1, Ordering::Relaxed);
                    return Err(v);
                }
            };
            Ok(())
        })?;
        let violations = Kind::ALL.iter().zip(&counts).map(|(k, n)| (k.name(), n.load(Ordering::Relaxed)));
        let first = outcome.first_failure.into_iter().chain(outcome.more_failures);
        Ok(Report {
            ops: self.ops.len(),
            mount: self.mount.clone(),
            io_paths: self.paths.clone(),
            events: self.log.len(),
            states: outcome.counts,
            failed: outcome.failed,
            violations: violations.filter(|(_, n)| *n > 0).collect(),
            stale_allowed: stale.load(Ordering::Relaxed),
            first: first.map(|f| self.found(f)).collect(),
        })
    }

    /// Judge one state: recover and check what `device` holds, and compare it with what may be there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn judge(&self, device: &Arc<dyn BlockDevice>, state: &CrashState) -> std::result::Result<(), Violation> {
        judge::judge(&self.history, device, state, self.now).map(|_| ())
    }

    fn found(&self, f: Failure<Violation>) -> Found {
        let (over, _) = self.history.moments(f.state.end);
        let kept = f.state.kept.iter().map(|k| k.event).collect();
        let text = self.ops.get(over).cloned().unwrap_or_else(|| "unmount".into());
        Found { op: over, text, events: f.state.end, kept, violation: f.message, state: f.state }
    }

    /// The bytes of a state's image, before recovery.
    ///
    /// # Errors
    /// Those of devices in memory.
    pub fn image(&self, state: &CrashState) -> Result<Vec<u8>> {
        let device = MemoryDevice::from_bytes(self.base.clone());
        self.log.apply(state, &device)?;
        Ok(device.into_bytes())
    }
}

/// The names that a script uses.
fn names_of(script: &Script) -> BTreeSet<String> {
    let to = |op: &Op| if let Op::Rename { to, .. } = op { Some(to.clone()) } else { None };
    script.ops.iter().flat_map(|(op, _)| [op.file().map(str::to_owned), to(op)]).flatten().collect()
}

/// Whose blocks an operation moved, and how.
fn moved(engine: &Engine, op: &Op, block: u64) -> Option<(Ino, Shift)> {
    let (file, from, by) = match op {
        Op::Collapse { file, off, len } => (file, off + len, -i64::try_from(len / block).ok()?),
        Op::Insert { file, off, len } => (file, *off, i64::try_from(len / block).ok()?),
        _ => return None,
    };
    Some((engine.ino_of(file)?, Shift { first: u32::try_from(from / block).ok()?, by }))
}

fn made_durable(engine: &Engine, op: &Op) -> Durable {
    match op {
        Op::Fsync { file } | Op::Fdatasync { file } => engine.ino_of(file).map_or(Durable::Nothing, Durable::File),
        Op::Sync {} => Durable::All,
        Op::Shutdown { mode } if mode.as_deref() == Some("default") => Durable::All,
        _ => Durable::Nothing,
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {} {}: after {} events", self.op, self.text, self.events)?;
        if let (Some(first), Some(last)) = (self.kept.first(), self.kept.last()) {
            let torn = self.state.kept.iter().filter(|k| k.parts.is_some()).count();
            write!(f, ", {} unflushed of {first}..={last} kept ({torn} torn)", self.kept.len())?;
        }
        write!(f, ": {}", self.violation)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.io_paths.iter().copied().collect::<Vec<_>>().join(", ");
        writeln!(f, "{} operations ({}; {paths}), {} writes and flushes", self.ops, self.mount, self.events)?;
        let s = &self.states;
        writeln!(
            f,
            "{} crash states: {} prefixes, {} torn, {} subsets, {} sampled, between {} flushes",
            s.total(),
            s.prefixes,
            s.torn,
            s.subsets,
            s.sampled,
            s.epochs
        )?;
        if self.stale_allowed > 0 {
            writeln!(f, "{} show old content of blocks, which data=writeback allows", self.stale_allowed)?;
        }
        if self.failed == 0 {
            return writeln!(f, "all recover to what is allowed");
        }
        let kinds = self.violations.iter().map(|(k, n)| format!("{n} {k}")).collect::<Vec<_>>().join(", ");
        writeln!(f, "{} violate what is allowed: {kinds}", self.failed)?;
        self.first.iter().try_for_each(|v| writeln!(f, "{v}"))
    }
}
