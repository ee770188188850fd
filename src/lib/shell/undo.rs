//! What a session can take back: the last command that changed the image, or the last `begin` … `commit`, one after the other.
//!
//! What a change replaced is kept in memory, the newest at least, and all of it within [`MEMORY`]. Changes of a transaction that
//! runs are taken back one by one; once it is committed they are one.

use std::io::Write;

use serde::Serialize;

use super::args::Args;
use super::session::Session;
use super::table::{Command, Family, row};
use super::{Failure, Outcome};
use crate::batch::Change;
use crate::error::Error;
use crate::inspect::{Page, View};

/// Bytes that all changes together may take.
const MEMORY: usize = 256 << 20;
pub(super) const COMMANDS: &[Command] = &[row(
    "undo",
    &[],
    "[-l]",
    "Take back the last command, or begin ... commit, that changed the image (-l: show what can be taken back)",
    (Family::Change, undo),
)];

/// One step back.
#[derive(Debug)]
struct Step {
    /// The commands, in order.
    commands: Vec<String>,
    change: Change,
    /// Bytes of memory that it takes.
    size: usize,
    committed: bool,
}

/// The steps back, and those that were taken since the last commit.
#[derive(Debug, Default)]
pub(super) struct History {
    steps: Vec<Step>,
    /// Committed ones that were taken back in the running transaction, the last taken first.
    taken: Vec<Step>,
    /// Content of a command that is not done.
    early: Option<Change>,
    /// Steps were dropped because there was no room for them.
    dropped: bool,
}

impl History {
    /// A command has changed the image.
    pub(super) fn push(&mut self, command: String, mut change: Change) {
        if let Some(early) = self.early.take() {
            change.absorb(early);
        }
        if change.ends_history() {
            self.dropped |= !self.steps.is_empty();
            self.steps.clear();
        }
        let size = change.size();
        self.steps.push(Step { commands: vec![command], change, size, committed: false });
        let mut size: usize = self.steps.iter().map(|s| s.size).sum();
        let mut old = 0;
        while size > MEMORY && old + 1 < self.steps.len() {
            size -= self.steps.get(old).map_or(0, |s| s.size);
            old += 1;
        }
        self.dropped |= old > 0;
        self.steps.drain(..old);
    }

    /// What was done in another way, and is on the image already.
    pub(super) fn push_committed(&mut self, commands: Vec<String>, change: Change) {
        let size = change.size();
        self.steps.push(Step { commands, change, size, committed: true });
    }

    /// Content that was written late is of the last command.
    pub(super) fn more(&mut self, content: Change) {
        match (self.steps.last_mut(), &mut self.early) {
            (Some(last), _) => {
                last.change.absorb(content);
                last.size = last.change.size();
            }
            (None, Some(early)) => early.absorb(content),
            (None, early) => *early = Some(content),
        }
    }

    /// What runs was committed: it is one step now.
    pub(super) fn committed(&mut self) {
        self.taken.clear();
        let running = self.steps.iter().position(|s| !s.committed).unwrap_or(self.steps.len());
        let mut steps = self.steps.drain(running..);
        let Some(mut first) = steps.next() else { return };
        for next in steps {
            first.commands.extend(next.commands);
            first.change.absorb(next.change);
        }
        first.size = first.change.size();
        first.committed = true;
        self.steps.push(first);
    }

    /// What runs was forgotten, and with it what was taken back in it.
    pub(super) fn forgotten(&mut self) {
        self.steps.retain(|s| s.committed);
        let taken = std::mem::take(&mut self.taken);
        self.steps.extend(taken.into_iter().rev());
    }

    /// Nothing of what was done can be taken back any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What was taken back, or what can be.
#[derive(Debug, Serialize)]
struct UndoView {
    /// The commands of what was taken back, in the order in which they were run.
    #[serde(skip_serializing_if = "Option::is_none")]
    undone: Option<Vec<String>>,
    /// What can be taken back, the next first.
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<Vec<StepRow>>,
}

#[derive(Debug, Serialize)]
struct StepRow {
    commands: Vec<String>,
    /// Whether it is committed.
    committed: bool,
    /// Blocks of metadata that it changed.
    blocks: usize,
}

impl View for UndoView {
    const SCHEMA: &'static str = "undo/1";

    fn text(&self, page: &mut Page<'_>) -> std::io::Result<()> {
        for command in self.undone.iter().flatten() {
            writeln!(page, "undone: {command}")?;
        }
        for (n, step) in self.steps.iter().flatten().enumerate() {
            let state = if step.committed { "committed" } else { "not committed" };
            writeln!(page, "{}: {} ({state}, {} blocks)", n + 1, step.commands.join("; "), step.blocks)?;
        }
        Ok(())
    }
}

fn undo(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("l", 0, 0)?;
    session.edit()?;
    if o.has('l') {
        let row =
            |s: &Step| StepRow { commands: s.commands.clone(), committed: s.committed, blocks: s.change.blocks() };
        let steps = session.history().steps.iter().rev().map(row).collect();
        return session.show(UndoView { undone: None, steps: Some(steps) }, out);
    }
    if session.extents().is_some() {
        return Err(Failure::Usage("the extents of an inode are open: extent_close them first".into()));
    }
    session.show_contents()?;
    // What follows is no change to be taken back.
    session.edit()?.take_change()?;
    let history = session.history();
    let Some(step) = history.steps.pop() else {
        let why = if history.dropped { ": what was done before took too much memory to be kept" } else { "" };
        return Err(Failure::Usage(format!("there is nothing to take back{why}")));
    };
    let before = session.changes();
    let done = session.edit()?.take_back(&step.change);
    if let Err(Error::TransactionTooLarge { need, have }) = done {
        let what = step.commands.join("; ");
        // What was changed on the way is given up with the transaction, and then the step is there again.
        let changed = session.changes() != before;
        let history = session.history();
        if step.committed {
            if changed { history.taken.push(step) } else { history.steps.push(step) }
        }
        return Err(Failure::Usage(format!(
            "{what}: to take it back needs {need} blocks in the journal, which takes {have} in one transaction; all stays as it is"
        )));
    }
    if let Err(e) = done {
        // Refused before anything happened: it may be tried again.
        if matches!(e, Error::ChangedElsewhere { .. }) {
            session.history().steps.push(step);
        }
        return Err(e.into());
    }
    let undone = Some(step.commands.clone());
    if step.committed {
        session.history().taken.push(step);
    }
    session.leave_missing_directory();
    session.show(UndoView { undone, steps: None }, out)
}
