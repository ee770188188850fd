//! Progress and cancellation: how a long operation tells its caller where it is, and is told to stop.
//!
//! The library never draws anything. It reports [`Step`]s to a [`Progress`] and asks it now and then
//! whether to go on; a cancelled operation ends with [`crate::Error::Cancelled`] and leaves the image as it was.

use crate::{Error, Result};

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// Bytes of data.
    Bytes,
    /// Files and directories.
    Files,
    /// Block groups.
    Groups,
    /// Inodes.
    Inodes,
    /// Blocks of the filesystem.
    Blocks,
}

/// One stage of a long operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// What is being done, in a few words ("writing data").
    pub name: &'static str,
    /// What the figures of this step count.
    pub unit: Unit,
    /// How many there will be, where it is known.
    pub total: Option<u64>,
}

/// Receives progress. Called from worker threads; must be cheap.
pub trait Progress: Send + Sync {
    /// A new step begins.
    fn begin(&self, step: Step) {
        let _ = step;
    }

    /// `n` more units of the current step are done.
    fn advance(&self, n: u64) {
        let _ = n;
    }

    /// The current step is over.
    fn end(&self) {}

    /// Whether the caller wants the operation to stop.
    fn cancelled(&self) -> bool {
        false
    }

    /// `Err(Cancelled)` when the caller wants the operation to stop.
    fn check(&self) -> Result<()> {
        if self.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Reports nothing, never cancels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
