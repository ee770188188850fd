//! All interleavings of small tasks on one file: page faults, buffered writes, fallocate, truncate, punch and writeback, each a
//! sequence of steps that the locks of the kernel order in part ([`task`]). Every order that the locks allow is run from the
//! start, on a fresh filesystem in memory, through the code of [`crate::file`] ([`crate::file::steps`]).
//!
//! After each step: what is reserved is what delayed blocks need, the status tree says what the map says. After the last:
//! delayed blocks lie under dirty ones, and once all is written back nothing is reserved. Tasks run on either buffered write path. A step is what happens under one
//! hold of `i_data_sem`, or between two of them.

pub mod cases;
pub mod task;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

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
    /// Schedules that were run: all that the locks allow, unless `complete` is false.
    pub interleavings: u64,
    /// Steps in all of them.
    pub steps: u64,
    /// Schedules that break a rule.
    pub violations: u64,
    /// Whether every schedule was run; not so where there are more than were asked for.
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

/// Choices of a schedule, deepest last: the task that was taken, and those that were not yet.
type Choices = Vec<(usize, Vec<usize>)>;

/// How a case is explored.
#[derive(Clone, Copy, Debug)]
pub struct Explore {
    /// Delayed writes look at their blocks again under the exclusive lock.
    pub recheck: bool,
    /// Through which of the two buffered write paths.
    pub path: PathChoice,
    /// Most schedules that are run.
    pub limit: u64,
}

impl Default for Explore {
    fn default() -> Self {
        Self { recheck: true, path: PathChoice::Auto, limit: 1_000_000 }
    }
}

/// Run all interleavings of a case.
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
    let mut out = Outcome {
        case: case.name,
        tasks: case.tasks.iter().map(Program::name).collect(),
        interleavings: 0,
        steps: 0,
        violations: 0,
        complete: true,
        first: None,
    };
    let mut choices = Choices::new();
    loop {
        let mut run = Run::new(&stage, case, how.recheck, Tracer::OFF)?;
        let wrong = finish(&mut run, &mut choices)?;
        out.interleavings += 1;
        out.steps += run.schedule.len() as u64;
        if let Some(violation) = wrong {
            out.violations += 1;
            if out.first.as_ref().is_none_or(|f| run.schedule.len() < f.schedule.len()) {
                out.first = Some(Found { violation, schedule: run.schedule, events: Vec::new() });
            }
        }
        // The next schedule: the deepest choice that has another way.
        while choices.last().is_some_and(|(_, others)| others.is_empty()) {
            choices.pop();
        }
        let Some((taken, others)) = choices.last_mut() else { break };
        if let Some(next) = others.pop() {
            *taken = next;
        }
        if out.interleavings >= how.limit {
            out.complete = false;
            break;
        }
    }
    if let Some(found) = out.first.take() {
        out.first = Some(replay(&stage, case, how.recheck, found)?);
    }
    Ok(out)
}

/// Go along the choices made, then along the first ways; the violation that ended it.
fn finish(run: &mut Run, choices: &mut Choices) -> Result<Option<String>> {
    let mut depth = 0;
    while !run.is_over() {
        let enabled = run.enabled();
        let Some((first, others)) = enabled.split_first() else {
            return Ok(Some("all tasks wait for each other".into()));
        };
        if depth == choices.len() {
            choices.push((*first, others.to_vec()));
        }
        let taken = choices[depth].0;
        depth += 1;
        if let Some(wrong) = run.step(taken)? {
            return Ok(Some(wrong));
        }
    }
    run.end()
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

    /// `EXT4KIT_INTERLEAVINGS` is the most that is run of a case (default 250; 100000 is all of all but one).
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
                eprintln!("{path:?} {}: {} interleavings, all: {}", case.name, out.interleavings, out.complete);
                (whole, sum) = (whole + u64::from(out.complete), sum + out.interleavings);
            }
            eprintln!("{path:?}: {sum} interleavings, {whole} cases in all orders");
            assert!(whole >= 7, "{whole} cases were run in all orders");
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
