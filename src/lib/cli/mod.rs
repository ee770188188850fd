//! What the five binaries share: parsing and help, exit codes, sizes, the terminal, progress, errors, the host's clock.
//!
//! The only room that reads the environment, the clock, random numbers and the locale of the host; everything below gets
//! them as parameters. A binary is thin:
//!
//! ```no_run
//! use ext4kit::cli::{self, Exit, Failure, Tool};
//!
//! /// Say how long an image is.
//! #[derive(clap::Parser)]
//! struct Args {
//!     /// The image.
//!     image: String,
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     cli::run(Tool::COPY, |args: Args, session| {
//!         let image = ext4kit::device::ImageSpec::parse(&args.image);
//!         let device = image.open(ext4kit::device::Access::ReadOnly)?;
//!         use std::io::Write;
//!         writeln!(session.out(), "{}", cli::human_size(device.len()))?;
//!         Ok(Exit::Ok)
//!     })
//! }
//! ```
//!
//! Invariants: an error is one line on standard error, `e4xxx: error: …`, or one JSON object with `--json`; a reader that goes
//! away ends the program silently; no panic of the library shows Rust's text unless `RUST_BACKTRACE` asks for it.

mod exit;
mod generate;
mod host;
mod output;
mod progress;
mod report;
mod size;
mod terminal;

pub use exit::{Exit, FsckExit, Status};
pub use host::{SystemClock, SystemEntropy, SystemTimer, clock, entropy, open_tar};
pub use output::Output;
pub use progress::TerminalProgress;
pub use report::{Failure, error_json, hint};
pub use size::{exact_size, human_size, size_in};
pub use terminal::Terminal;

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Styles};

use crate::error::Result;
use crate::progress::{Progress, Silent};

/// One of the binaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Its name, which begins its messages.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Whether it uses fsck's exit codes instead of the common ones.
    pub fsck_codes: bool,
}

impl Tool {
    /// Creates filesystems.
    pub const MKFS: Self = Self {
        name: "e4mkfs",
        about: "Make an ext2, ext3 or ext4 image, empty or filled from a directory",
        fsck_codes: false,
    };
    /// Copies in and out.
    pub const COPY: Self =
        Self { name: "e4cp", about: "Copy files out of an ext4 image and into it", fsck_codes: false };
    /// Checks and repairs.
    pub const FSCK: Self = Self { name: "e4fsck", about: "Check an ext2, ext3 or ext4 image", fsck_codes: true };
    /// Shows extent status.
    pub const EXTENT_STATUS: Self = Self {
        name: "e4es",
        about: "Show how files lie in an ext4 image: extent status, extents, free space",
        fsck_codes: false,
    };
    /// The shell.
    pub const SHELL: Self =
        Self { name: "e4sh", about: "Look inside an ext4 image and change it, command by command", fsck_codes: false };
    /// All of them.
    pub const ALL: [Self; 5] = [Self::MKFS, Self::COPY, Self::FSCK, Self::EXTENT_STATUS, Self::SHELL];
}

/// What a running binary knows about its surroundings.
#[derive(Clone, Debug)]
pub struct Session {
    /// Which binary runs.
    pub tool: Tool,
    /// Whether `--json` was among the arguments.
    pub json: bool,
    /// What standard output and error are.
    pub terminal: Terminal,
}

impl Session {
    /// Buffered standard output. Errors of writing to it become [`Failure::Output`], with `?`; what fails when the buffer is
    /// written out at its end is not lost either: [`run`] finds it.
    pub fn out(&self) -> Output {
        Output::new()
    }

    /// A progress bar on standard error where that is a terminal and neither `quiet` nor `--json` is asked for; else silence.
    pub fn progress(&self, quiet: bool) -> Box<dyn Progress> {
        if quiet || self.json || !self.terminal.draws() {
            return Box::new(Silent);
        }
        Box::new(TerminalProgress::new())
    }

    /// Tell a failure that does not end the program. Returns the exit code that it would end with.
    pub fn report(&self, failure: &Failure) -> Status {
        report::failure(self, failure);
        exit::of_failure(self.tool, failure)
    }

    /// A line on standard error that is no error: `e4xxx: warning: …`. Not shown with `--json`.
    pub fn warn(&self, text: impl std::fmt::Display) {
        if !self.json {
            // Nobody is left to tell where standard error is gone.
            let _ = writeln!(std::io::stderr(), "{}: warning: {text}", self.tool.name);
        }
    }
}

/// Give a clap command what all binaries have alike: version, colours, width, the table of exit codes.
pub fn command(tool: Tool, command: clap::Command) -> clap::Command {
    let styles = Styles::styled()
        .header(AnsiColor::Green.on_default().bold())
        .usage(AnsiColor::Green.on_default().bold())
        .literal(AnsiColor::Cyan.on_default().bold())
        .placeholder(AnsiColor::Cyan.on_default());
    let codes = exit::table(tool);
    command
        .name(tool.name)
        .about(tool.about)
        .version(env!("CARGO_PKG_VERSION"))
        .styles(styles)
        .max_term_width(100)
        .after_long_help(codes)
}

/// Run a binary: parse the arguments, run `body`, report what went wrong, and turn the outcome into an exit code.
///
/// `--generate man|bash|zsh|fish` as the only argument prints the man page or completions instead.
pub fn run<A, S>(tool: Tool, body: impl FnOnce(A, &Session) -> Result<S, Failure>) -> ExitCode
where
    A: clap::Parser,
    S: Into<Status>,
{
    report::install_panic_hook(tool);
    let json = std::env::args_os().take_while(|a| a != "--").any(|a| a == "--json");
    let session = Session { tool, json, terminal: Terminal::detect() };
    let command = command(tool, A::command());
    if let Some(kind) = generate::requested() {
        return finish(&session, generate::print(tool, command, &kind).map(|()| Exit::Ok.into()));
    }
    let args = match command.try_get_matches().and_then(|m| A::from_arg_matches(&m)) {
        Ok(args) => args,
        Err(e) => return report::usage(&session, &e),
    };
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| body(args, &session)));
    match outcome {
        Ok(outcome) => finish(&session, outcome.map(Into::into)),
        Err(_) => exit::of_panic(tool).into(),
    }
}

fn finish(session: &Session, outcome: Result<Status, Failure>) -> ExitCode {
    let flushed = output::finish().map_err(Failure::Output);
    match outcome.and_then(|status| flushed.map(|()| status)) {
        Ok(status) => status.into(),
        Err(failure) => {
            report::failure(session, &failure);
            exit::of_failure(session.tool, &failure).into()
        }
    }
}
