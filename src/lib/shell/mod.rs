//! The shell: debugfs's commands, with answers that scripts can trust.
//!
//! A [`Session`] has a filesystem open, and a root and a current directory in it. [`run_line`] runs one command,
//! [`run_script`] many and stops at the first that fails, [`complete`] helps a person who types. Commands are rows of a
//! table ([`commands`]), one file for each family; what they show are views of [`crate::inspect`], as text or as JSON.
//!
//! A *filespec* names an inode: a path (from the current directory, or from the root with `/`), or `<number>`.
//! Changes go through a [`crate::batch::Session`]: each command is a transaction of its own, or many together are one
//! ([`Commits`]). A command that fails in the middle of a change takes what was not committed with it.
//!
//! With `wp mount` the filesystem is in use, as the kernel would have it in memory; commands that look show it as it is then. What
//! it writes reaches the image when that ends, and not at all where the script fails.
//!
//! Words are split at spaces; `"…"` keeps spaces, and `""` inside stands for a quote, as debugfs has it.

mod args;
mod assign;
mod block;
mod change;
mod commits;
mod complete;
mod copy;
mod dir;
mod extents;
mod fields;
mod file;
mod fs;
mod inode;
mod journal;
mod lexer;
mod metadata;
mod misc;
mod place;
mod raw;
mod rescue;
mod script;
mod search;
mod session;
mod table;
mod through;
mod undo;
mod used;
mod walk;
mod xattr;

pub use args::{Args, Options};
pub use complete::{Completion, complete, expected};
pub use lexer::split;
pub use script::{Stopped, run_line, run_script};
pub use session::{Asker, Commits, DirtyJournalSeen, Session, Settings};
pub use table::{Command, Family, commands, find};

use crate::error::Error;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The library reports an error.
    Library(Error),
    /// The command line makes no sense; the text says why.
    Usage(String),
    /// Output cannot be written.
    Output(std::io::Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Library(e)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::Output(e)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Library(e) => e.fmt(f),
            Self::Usage(text) => f.write_str(text),
            Self::Output(e) => write!(f, "cannot write the output: {e}"),
        }
    }
}

impl std::error::Error for Failure {}

/// How a command ends.
pub type Outcome<T = ()> = std::result::Result<T, Failure>;
