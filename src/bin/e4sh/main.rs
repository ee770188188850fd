//! `e4sh`: look inside an ext2, ext3 or ext4 image and change it, command by command.

mod pager;
mod talk;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgAction, Parser};
use ext4kit::batch::Options;
use ext4kit::cli::{self, Exit, Failure, Output, Status, SystemTimer, Tool};
use ext4kit::device::{Access, ImageSpec};
use ext4kit::error::Error;
use ext4kit::inspect::Format;
use ext4kit::shell::{Commits, Session, Settings, Stopped, run_line, run_script};
use ext4kit::units::Fsblk;

/// Look inside an ext2, ext3 or ext4 image and change it with debugfs's commands, without root and without mounting it.
///
/// With -w the image can be changed. Everything that a script does (-R, -f, a pipe) is one transaction, which is committed
/// at its end, and not at all when a command fails; with --keep-going, and at a prompt, each command is one. `begin`,
/// `commit` and `abort` group commands otherwise. SOURCE_DATE_EPOCH, where it is set, is the time that goes into the image.
///
/// At a terminal, output that is longer than it goes through a pager: DEBUGFS_PAGER, PAGER, less or more; there is none where these
/// are empty or `__none__`, or NO_PAGER is set.
///
/// Without -R and -f, commands are read from standard input, with a prompt where that is a terminal. A script (-R, -f, a
/// pipe) ends at the first command that fails, and the exit code says so. Lines that begin with # are comments. `help`
/// lists the commands.
#[derive(Parser, Debug)]
#[command(override_usage = "e4sh [OPTIONS] [IMAGE[@OFFSET]]")]
struct Args {
    /// The image; IMAGE@OFFSET is the filesystem that begins OFFSET bytes into a disk image (suffixes s, K, M, G).
    image: Option<OsString>,

    /// Run a command and exit; may be given several times.
    #[arg(short = 'R', long = "request", value_name = "COMMAND", conflicts_with = "file", allow_hyphen_values = true)]
    requests: Vec<OsString>,

    /// Run the commands in FILE and exit; `-` is standard input.
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Go on after a command that fails; the exit code is that of the first failure.
    #[arg(long)]
    keep_going: bool,

    /// Open for writing.
    #[arg(short = 'w', long)]
    write: bool,

    /// Open what is badly damaged: group descriptors are not checked, the image may be cut short, and a journal that was
    /// not written back is left alone.
    #[arg(short = 'c', long)]
    catastrophic: bool,

    /// Don't compare checksums.
    #[arg(short = 'n', long)]
    no_checksums: bool,

    /// The block size, in bytes, to look for the superblock of -s with.
    #[arg(short = 'b', long, value_name = "BYTES")]
    block_size: Option<u32>,

    /// Use the backup superblock at BLOCK.
    #[arg(short = 's', long, value_name = "BLOCK")]
    superblock: Option<u64>,

    /// The image is an e2image file.
    #[arg(short = 'i', long)]
    metadata_image: bool,

    /// The image's external journal.
    #[arg(long, value_name = "DEVICE")]
    journal: Option<PathBuf>,

    /// Save what is overwritten in FILE, a new one; e4fsck --undo FILE brings it back.
    #[arg(short = 'z', long, value_name = "FILE")]
    undo: Option<PathBuf>,

    /// Write answers and errors as JSON, one line each.
    #[arg(long, action = ArgAction::SetTrue)]
    json: bool,
}

impl Args {
    /// Refuse what is not there yet, by its name.
    fn check(&self) -> Result<(), Failure> {
        let refused = [
            (self.undo.is_some() && !self.write, "-z: nothing is overwritten without -w"),
            (self.write && self.catastrophic, "-w and -c: what is badly damaged is for reading only"),
            (self.metadata_image, "-i: this version does not read e2image files"),
        ];
        match refused.iter().find(|(given, _)| *given) {
            Some((_, why)) => Err(Failure::Usage((*why).into())),
            None => Ok(()),
        }
    }

    fn settings(&self, host: &cli::Session) -> Settings {
        let mut settings = Settings::new(match (self.json, host.terminal.stdout) {
            (true, _) => Format::Json,
            (false, true) => Format::Text { width: Some(host.terminal.width) },
            (false, false) => Format::PLAIN,
        });
        settings.open.verify_checksums = !self.no_checksums;
        settings.open.verify_groups = !self.catastrophic;
        settings.open.allow_truncated = self.catastrophic;
        settings.open.superblock = self.superblock.map(Fsblk);
        settings.open.block_size = self.block_size;
        settings
    }
}

fn main() -> ExitCode {
    cli::run(Tool::SHELL, |args: Args, host| run(&args, host))
}

fn run(args: &Args, host: &cli::Session) -> Result<Status, Failure> {
    args.check()?;
    let mut settings = args.settings(host);
    settings.now = Some(cli::clock(&["SOURCE_DATE_EPOCH"])?.now());
    let mut session = Session::new(settings);
    if let Some(journal) = &args.journal {
        let access = if args.write { Access::ReadWrite } else { Access::ReadOnly };
        session.set_journal_device(ImageSpec::parse(journal).open(access)?);
    }
    let talks = args.requests.is_empty() && args.file.is_none() && host.terminal.stdin;
    if args.write {
        let clock = Arc::from(cli::clock(&["SOURCE_DATE_EPOCH"])?);
        let commits = if talks || args.keep_going { Commits::Each } else { Commits::AtEnd };
        if let Some(file) = &args.undo {
            session.save_overwritten(file.clone());
        }
        session.allow_writing(Options::new(clock, Arc::new(SystemTimer)), commits);
    }
    let done = commands(args, host, &mut session);
    let ended = if done.is_ok() { session.finish() } else { session.abandon() };
    // What failed first is told.
    let status = done?;
    ended?;
    Ok(status)
}

fn commands(args: &Args, host: &cli::Session, session: &mut Session) -> Result<Status, Failure> {
    if let Some(image) = &args.image
        && let Some(seen) = session.open(image)?
    {
        host.warn(seen);
    }
    let mut out = host.out();
    session.set_asker(Box::new(talk::ask));
    if !args.requests.is_empty() {
        return requests(args, host, session, &mut out);
    }
    match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            let file = File::open(path).map_err(|e| Error::host("open", path, e))?;
            script(args, host, session, &mut BufReader::new(file), &mut out)
        }
        None if host.terminal.stdin => {
            talk::talk(session, host, &mut out)?;
            Ok(Exit::Ok.into())
        }
        _ => script(args, host, session, &mut BufReader::new(talk::Lines), &mut out),
    }
}

/// What to do about a command that failed: end, or tell and remember the first one's code.
struct Failures<'a> {
    host: &'a cli::Session,
    keep_going: bool,
    status: Status,
}

impl Failures<'_> {
    fn decide(&mut self, stopped: Box<Stopped>, out: &mut Output) -> Option<Failure> {
        let failure = Failure::from(stopped);
        if !self.keep_going || matches!(failure.bare(), Failure::Output(_)) {
            return Some(failure);
        }
        // In order with what was shown before; where that fails, the end of the program finds out.
        let _ = out.flush();
        let status = self.host.report(&failure);
        if self.status == Exit::Ok.into() {
            self.status = status;
        }
        None
    }
}

fn requests(args: &Args, host: &cli::Session, session: &mut Session, out: &mut Output) -> Result<Status, Failure> {
    let mut failures = Failures { host, keep_going: args.keep_going, status: Exit::Ok.into() };
    for request in &args.requests {
        if let Err(failure) = run_line(session, request.as_bytes(), out) {
            let text = request.to_string_lossy().escape_debug().to_string();
            if let Some(e) = failures.decide(Box::new(Stopped { line: None, text, failure }), out) {
                return Err(e);
            }
        }
        if session.is_done() {
            break;
        }
    }
    Ok(failures.status)
}

fn script(
    args: &Args,
    host: &cli::Session,
    session: &mut Session,
    lines: &mut dyn BufRead,
    out: &mut Output,
) -> Result<Status, Failure> {
    let mut failures = Failures { host, keep_going: args.keep_going, status: Exit::Ok.into() };
    // Told at once, and in order: what was shown is written out before.
    run_script(session, lines, out, &mut |stopped, out| failures.decide(stopped, out))?;
    Ok(failures.status)
}
