//! `e4es`: how files lie in an ext2, ext3 or ext4 image: extent status, extents, fragmentation, free space; and the write path
//! at work. One file per subcommand.

mod check_trace;
mod crash;
mod explore;
mod live;
mod run;
mod show;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ext4kit::cli::{self, Tool};
use ext4kit::env::Timestamp;

/// Show how files lie in an ext2, ext3 or ext4 image, without root and without mounting it.
///
/// For a file: what the kernel's extent-status tree would hold once the file was looked up, beside the extents on disk, and
/// the difference. `e4es IMAGE PATH` is short for `e4es show IMAGE PATH`.
#[derive(Parser, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    override_usage = "e4es [show] IMAGE PATH|'<INODE>' [--frag] [--json]\n       e4es [show] IMAGE --free [--chunk SIZE] [--json]"
)]
struct Tools {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    show: show::Args,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show a file, or free space.
    Show(show::Args),
    /// Run a script of file operations through the write path, and print the state after each as JSON lines.
    Run(run::Args),
    /// Run a script, cut the power at every moment of it, and check what is left after recovery.
    Crash(crash::Args),
    /// Hold a log of ext4's tracepoints against the rules of delayed allocation, and report the first event that breaks one.
    CheckTrace(check_trace::Args),
    /// Run small cases of tasks that race, in every order of their steps, and check what must hold.
    Explore(explore::Args),
}

/// The time that a script's filesystem is made and changed at: the same script gives the same records.
const TIME: Timestamp = Timestamp::from_secs(1_700_000_000);

fn main() -> ExitCode {
    cli::run(Tool::EXTENT_STATUS, |args: Tools, host| match &args.command {
        Some(Command::Show(args)) => show::run(args, host),
        Some(Command::Run(args)) => run::run(args, host),
        Some(Command::Crash(args)) => crash::run(args, host),
        Some(Command::CheckTrace(args)) => check_trace::run(args, host),
        Some(Command::Explore(args)) => explore::run(args, host),
        None => show::run(&args.show, host),
    })
}
