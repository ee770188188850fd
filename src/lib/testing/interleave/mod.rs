//! All interleavings of small tasks on one file: page faults, buffered writes, fallocate, truncate, punch and writeback, each a
//! sequence of steps that the locks of the kernel order in part ([`task`]). Every order that the locks allow is looked at, on a
//! fresh filesystem in memory, through the code of [`crate::file`] ([`crate::file::steps`]). What happens from a moment on depends
//! on what is in memory and on the device then: an order that comes to a moment that another came to ends there, and
//! counts with all that follow.
//!
//! After each step: what is reserved is what delayed blocks need, the status tree says what the map says. After the last:
//! delayed blocks lie under dirty ones, and once all is written back nothing is reserved. Tasks run on either buffered write path. A step is what happens under one
//! hold of `i_data_sem`, or between two of them.

pub mod cases;
pub mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::device::{BlockDevice, MemoryDevice};
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::file::event::{Traced, Tracer};
use crate::file::extent_status::EsStatus;
use crate::file::{Mount, MountOptions, PathChoice};
use crate::mkfs::{Draft, FeatureEdit, Layout, Options, Size};
use crate::namei::{Attributes, Context, Namei, What};
use crate::units::Ino;

pub use cases::{Case, all};
pub use task::{Act, Lock, Program, Step};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
/// Bytes of the filesystem.
const IMAGE: usize = 2 << 20;
/// Tasks of a case, at most; steps of a task, at most.
const MAX_STEPS: usize = 64;

/// A step of a schedule, and what it left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Done {
    /// The task's name.
    pub task: &'static str,
    /// What it did.
    pub step: String,
    /// Clusters that the file has reserved then.
    pub reserved: u32,
    /// Its extent status, `0-3 delayed, 4 unwritten`; holes are left out.
    pub status: String,
}

/// A schedule that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// What is wrong.
    pub violation: String,
    /// The steps, in their order.
    pub schedule: Vec<Done>,
    /// What happened, event by event, with the task that did it.
    #[serde(skip)]
    pub events: Vec<(usize, Traced)>,
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The case.
    pub case: &'static str,
    /// Its tasks.
    pub tasks: Vec<&'static str>,
    /// Schedules that were looked at: all that the locks allow, unless `complete` is false.
    pub interleavings: u64,
    /// Of them, those that were run until they ended, or came to a moment that was known.
    pub runs: u64,
    /// Different moments that they came to.
    pub moments: u64,
    /// Steps in all of them.
    pub steps: u64,
    /// Schedules that break a rule.
    pub violations: u64,
    /// Whether every schedule was looked at; not so where that takes more runs than were asked for.
    pub complete: bool,
    /// The shortest of them.
    pub first: Option<Found>,
}

/// A filesystem in which cases begin.
struct Stage {
    image: Vec<u8>,
    options: MountOptions,
    ino: Ino,
}

impl Stage {
    fn new(case: &Case, path: PathChoice) -> Result<Self> {
        let mut o = Options::new(Size::Units(IMAGE as u64 / u64::from(case.block_size)), [1; 16], [2; 16], NOW);
        o.block_size = Some(case.block_size);
        o.features.extend(FeatureEdit::parse_list("^has_journal,^resize_inode")?);
        if case.cluster_size > case.block_size {
            o.cluster_size = Some(case.cluster_size);
            o.features.extend(FeatureEdit::parse_list("bigalloc")?);
        }
        let device = MemoryDevice::new(IMAGE);
        Draft::new(Layout::new(&o)?)?.write(&device, true)?;
        let device = Arc::new(device);
        let options = MountOptions { path, ..MountOptions::default() };
        let mut mount = Mount::new(Arc::clone(&device) as Arc<dyn BlockDevice>, options, NOW)?;
        let mut names = Context::new(mount.volume(), NOW);
        let ino = mount.with_edit(&mut names, |e, c| {
            Ok(Namei::new(e, c).make(Ino::ROOT, b"a", What::File, &Attributes::root(0o644))?.ino)
        })?;
        mount.unmount()?;
        Ok(Self { image: device.to_bytes(), options, ino })
    }

    fn mount(&self) -> Result<Mount> {
        Mount::new(Arc::new(MemoryDevice::from_bytes(self.image.clone())), self.options, NOW)
    }
}

/// One run of a case.
struct Run {
    mount: Mount,
    ino: Ino,
    tasks: Vec<task::Running>,
    held: Vec<(usize, Lock)>,
    schedule: Vec<Done>,
    tracer: Tracer,
    events: Vec<(usize, Traced)>,
}

impl Run {
    fn new(stage: &Stage, case: &Case, recheck: bool, tracer: Tracer) -> Result<Self> {
        let mut mount = stage.mount()?;
        mount.trace(tracer.clone());
        mount.load(stage.ino)?;
        for op in case.setup {
            op.apply(&mut mount, stage.ino)?;
        }
        let iomap = mount.inode(stage.ino).is_some_and(|i| mount.uses_iomap(i).0);
        let tasks = case.tasks.iter().map(|p| task::Running::new(p, case.block_size, iomap, recheck)).collect();
        let events = tracer.take().into_iter().map(|e| (case.tasks.len(), e)).collect();
        Ok(Self { mount, ino: stage.ino, tasks, held: Vec::new(), schedule: Vec::new(), tracer, events })
    }

    /// The tasks whose next step no lock of another keeps back.
    fn enabled(&self) -> Vec<usize> {
        let free = |n: &usize| {
            let Some(step) = self.tasks[*n].next() else { return false };
            step.takes.iter().all(|want| self.held.iter().all(|(by, has)| by == n || !has.excludes(want)))
        };
        (0..self.tasks.len()).filter(free).collect()
    }

    /// What decides how it goes on.
    fn moment(&self) -> [u8; 32] {
        let text = format!("{:?} {:?} {}", self.tasks, self.held, self.mount.moment(self.ino));
        Sha256::digest(text).into()
    }

    fn is_over(&self) -> bool {
        self.tasks.iter().all(|t| t.next().is_none())
    }

    /// Do the next step of a task; the violation that it leaves.
    fn step(&mut self, n: usize) -> Result<Option<String>> {
        let Some(step) = self.tasks[n].next().cloned() else { return Ok(None) };
        self.held.extend(step.takes.iter().map(|l| (n, *l)));
        self.tasks[n].act(&mut self.mount, self.ino, &step.act)?;
        self.held.retain(|(by, l)| *by != n || !step.frees.contains(l));
        let (reserved, status) = self.state();
        self.schedule.push(Done { task: self.tasks[n].name, step: step.label, reserved, status });
        self.events.extend(self.tracer.take().into_iter().map(|e| (n, e)));
        self.mount.check_moment()
    }

    fn state(&self) -> (u32, String) {
        let Some(i) = self.mount.inode(self.ino) else { return (0, String::new()) };
        let word = |e: &crate::file::extent_status::EsEntry| {
            let (first, last) = (e.lblk.0, e.end() - 1);
            let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
            format!("{range} {}", format!("{:?}", e.status).to_lowercase())
        };
        let all: Vec<String> = i.dd.es().iter().filter(|e| e.status != EsStatus::Hole).map(|e| word(&e)).collect();
        (i.dd.reserved(), if all.is_empty() { "nothing".into() } else { all.join(", ") })
    }

    /// What must hold once all tasks are done, and once all is written back.
    fn end(&mut self) -> Result<Option<String>> {
        if let Some(wrong) = self.mount.check_state()? {
            return Ok(Some(wrong));
        }
        self.mount.sync()?;
        self.events.extend(self.tracer.take().into_iter().map(|e| (self.tasks.len(), e)));
        if let Some(wrong) = self.mount.check_state()? {
            return Ok(Some(format!("after sync: {wrong}")));
        }
        Ok(self.mount.check_synced().map(|wrong| format!("after sync: {wrong}")))
    }
}

/// How a case is explored.
#[derive(Clone, Copy, Debug)]
pub struct Explore {
    /// Delayed writes look at their blocks again under the exclusive lock.
    pub recheck: bool,
    /// Through which of the two buffered write paths.
    pub path: PathChoice,
    /// Most runs.
    pub limit: u64,
}

impl Default for Explore {
    fn default() -> Self {
        Self { recheck: true, path: PathChoice::Auto, limit: 1_000_000 }
    }
}

/// Look at all interleavings of a case.
///
/// # Errors
/// [`Error::InvalidArgument`] for a case with too many steps; what the filesystem reports beyond violations.
pub fn explore(case: &Case, how: Explore) -> Result<Outcome> {
    let iomap = how.path == PathChoice::Iomap;
    let steps: usize = case.tasks.iter().map(|p| p.steps(case.block_size, iomap).len()).sum();
    if steps > MAX_STEPS {
        return Err(Error::InvalidArgument { name: "case", value: case.name.into(), allowed: "at most 64 steps" });
    }
    let stage = Stage::new(case, how.path)?;
    let mut search = Search { stage: &stage, case, how, known: BTreeMap::new(), runs: 0, complete: true, first: None };
    let run = search.start(&[])?;
    let all = search.from(run, &mut Vec::new())?;
    let first = search.first.take().map(|found| replay(&stage, case, how.recheck, found)).transpose()?;
    Ok(Outcome {
        case: case.name,
        tasks: case.tasks.iter().map(Program::name).collect(),
        interleavings: all.schedules,
        runs: search.runs,
        moments: search.known.len() as u64,
        steps: all.steps,
        violations: all.violations,
        complete: search.complete,
        first,
    })
}

/// What follows from a moment on.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    schedules: u64,
    /// Steps in all of them.
    steps: u64,
    violations: u64,
}

/// The search through the orders of a case.
struct Search<'a> {
    stage: &'a Stage,
    case: &'a Case,
    how: Explore,
    /// What follows from moments that were come to.
    known: BTreeMap<[u8; 32], Rest>,
    runs: u64,
    complete: bool,
    first: Option<Found>,
}

impl Search<'_> {
    /// A run that has gone along `way`, which breaks no rule.
    fn start(&mut self, way: &[usize]) -> Result<Run> {
        self.runs += 1;
        let mut run = Run::new(self.stage, self.case, self.how.recheck, Tracer::OFF)?;
        for n in way {
            run.step(*n)?;
        }
        Ok(run)
    }

    /// All orders of what is left of a run that has gone along `way`. Recursion is bounded by the steps.
    fn from(&mut self, mut run: Run, way: &mut Vec<usize>) -> Result<Rest> {
        let moment = run.moment();
        if let Some(rest) = self.known.get(&moment) {
            return Ok(*rest);
        }
        let enabled = run.enabled();
        let mut sum = Rest::default();
        if enabled.is_empty() {
            let wrong = if run.is_over() { run.end()? } else { Some("all tasks wait for each other".into()) };
            sum = self.ended(wrong, run);
        } else {
            let mut first = Some(run);
            for n in enabled {
                if first.is_none() && self.runs >= self.how.limit {
                    self.complete = false;
                    return Ok(sum);
                }
                let mut run = match first.take() {
                    Some(run) => run,
                    None => self.start(way)?,
                };
                way.push(n);
                let rest = match run.step(n)? {
                    None => self.from(run, way)?,
                    wrong => self.ended(wrong, run),
                };
                way.pop();
                sum.schedules = sum.schedules.saturating_add(rest.schedules);
                sum.steps = sum.steps.saturating_add(rest.steps).saturating_add(rest.schedules);
                sum.violations = sum.violations.saturating_add(rest.violations);
            }
        }
        if self.complete {
            self.known.insert(moment, sum);
        }
        Ok(sum)
    }

    /// A schedule is over; the shortest that breaks a rule is kept.
    fn ended(&mut self, wrong: Option<String>, run: Run) -> Rest {
        let violations = u64::from(wrong.is_some());
        if let Some(violation) = wrong
            && self.first.as_ref().is_none_or(|f| run.schedule.len() < f.schedule.len())
        {
            self.first = Some(Found { violation, schedule: run.schedule, events: Vec::new() });
        }
        Rest { schedules: 1, steps: 0, violations }
    }
}

/// The same schedule again, with its events.
fn replay(stage: &Stage, case: &Case, recheck: bool, mut found: Found) -> Result<Found> {
    let mut run = Run::new(stage, case, recheck, Tracer::on())?;
    for done in &found.schedule {
        if let Some(n) = run.tasks.iter().position(|t| t.name == done.task) {
            run.step(n)?;
        }
    }
    found.events = run.events;
    Ok(found)
}

/// The names of tasks must tell them apart.
pub fn names_differ(case: &Case) -> bool {
    case.tasks.iter().map(Program::name).collect::<BTreeSet<_>>().len() == case.tasks.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `EXT4KIT_INTERLEAVINGS` is the most runs of a case (default 250).
    #[test]
    fn no_order_breaks_a_rule() {
        let limit = std::env::var("EXT4KIT_INTERLEAVINGS").ok().and_then(|v| v.parse().ok()).unwrap_or(250);
        for path in [PathChoice::BufferHead, PathChoice::Iomap] {
            let (mut whole, mut sum) = (0, 0);
            for case in all() {
                assert!(names_differ(case), "{}", case.name);
                let out = explore(case, Explore { path, limit, ..Explore::default() }).unwrap();
                assert_eq!((out.violations, &out.first), (0, &None), "{} {path:?}", case.name);
                assert!(out.interleavings > 1 && out.steps > out.interleavings, "{}: {out:?}", case.name);
                eprintln!(
                    "{path:?} {}: {} interleavings in {} runs, {} moments, all: {}",
                    case.name, out.interleavings, out.runs, out.moments, out.complete
                );
                (whole, sum) = (whole + u64::from(out.complete), sum + out.interleavings);
            }
            eprintln!("{path:?}: {sum} interleavings, {whole} cases in all orders");
            assert!(whole >= 9, "{whole} cases were run in all orders");
        }
    }

    #[test]
    fn without_the_second_look_a_reservation_leaks() {
        let case = all().iter().find(|c| c.name == "fault-fallocate").unwrap();
        for path in [PathChoice::BufferHead, PathChoice::Iomap] {
            leaks(case, path);
        }
    }

    fn leaks(case: &Case, path: PathChoice) {
        let out = explore(case, Explore { recheck: false, path, ..Explore::default() }).unwrap();
        assert!(out.violations > 0 && out.violations < out.interleavings, "{out:?}");
        let found = out.first.unwrap();
        assert!(found.violation.contains("1 clusters reserved, 0 delayed and not allocated"), "{}", found.violation);
        // Looked up by the fault, allocated by fallocate, reserved by the fault.
        let at = |task: &str, word: &str| {
            found.schedule.iter().position(|d| d.task == task && d.step.contains(word)).unwrap()
        };
        assert!(at("fault", "look up") < at("fallocate", "allocate"));
        assert!(at("fallocate", "allocate") < at("fault", "reserve"));
    }
}
