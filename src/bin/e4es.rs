//! `e4es`: how files lie in an ext2, ext3 or ext4 image: extent status, extents, fragmentation, free space.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgAction, Parser, Subcommand};
use ext4kit::cli::{self, Exit, Failure, Tool, size_in};
use ext4kit::device::crash::bytes_of;
use ext4kit::device::{Access, BlockDevice, ImageSpec};
use ext4kit::env::Timestamp;
use ext4kit::file::PathChoice;
use ext4kit::inspect::{Format, FragView, FreeSpaceView, StatusView};
use ext4kit::script::crash::Recording;
use ext4kit::script::{self, Script};
use ext4kit::shell::{Session, Settings};
use ext4kit::volume::Owner;

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
struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    show: Show,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show a file, or free space.
    Show(Show),
    /// Run a script of file operations through the write path, and print the state after each as JSON lines.
    Run(Run),
    /// Run a script, cut the power at every moment of it, and check what is left after recovery.
    Crash(Crash),
}

/// Which buffered write path.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum IoPath {
    /// What the script's mount options ask for.
    Auto,
    /// Buffer heads.
    BufferHead,
    /// iomap, where a file allows it.
    Iomap,
}

#[derive(clap::Args, Debug)]
struct Run {
    /// The script: JSON with the keys size, mkfs, mount and ops.
    script: PathBuf,

    /// Run on this image, which is changed, instead of a filesystem that is made in memory.
    #[arg(long, value_name = "IMAGE")]
    image: Option<PathBuf>,

    /// Which write path.
    #[arg(long, value_enum, default_value = "auto")]
    io_path: IoPath,

    /// Write the records here instead of to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write the image here as it is at the end.
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    keep_image: Option<PathBuf>,

    /// Check what must always hold after each operation; the exit code is 1 where it does not.
    #[arg(long)]
    check: bool,
}

#[derive(clap::Args, Debug)]
struct Crash {
    /// The script: JSON with the keys size, mkfs, mount and ops.
    script: PathBuf,

    /// Run on a copy of this image in memory instead of a filesystem that is made there.
    #[arg(long, value_name = "IMAGE")]
    image: Option<PathBuf>,

    /// Which write path.
    #[arg(long, value_enum, default_value = "auto")]
    io_path: IoPath,

    /// Check at least so many states: prefixes of the writes, subsets of those that were not flushed, writes torn at sectors.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    states: u64,

    /// Which states are taken where not all are.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Write the images of the first states that violate what is allowed here, as they are before recovery.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,

    /// Write the report and errors as JSON.
    #[arg(long, action = ArgAction::SetTrue)]
    json: bool,
}

impl From<IoPath> for PathChoice {
    fn from(path: IoPath) -> Self {
        match path {
            IoPath::Auto => Self::Auto,
            IoPath::BufferHead => Self::BufferHead,
            IoPath::Iomap => Self::Iomap,
        }
    }
}

#[derive(clap::Args, Debug)]
struct Show {
    /// The image; IMAGE@OFFSET is the filesystem that begins OFFSET bytes into a disk image (suffixes s, K, M, G).
    #[arg(required = true)]
    image: Option<OsString>,

    /// A path in the image, or an inode as `<NUMBER>`.
    #[arg(required_unless_present = "free", conflicts_with = "free")]
    path: Option<OsString>,

    /// Show the fragmentation of the file.
    #[arg(long)]
    frag: bool,

    /// Show free space by the size of its pieces.
    #[arg(long, conflicts_with = "frag")]
    free: bool,

    /// With --free, count the free pieces of SIZE bytes (a power of two; suffixes K, M, G).
    #[arg(long, value_name = "SIZE", requires = "free", value_parser = size_in(1))]
    chunk: Option<u64>,

    /// Don't compare checksums.
    #[arg(short = 'n', long)]
    no_checksums: bool,

    /// Write the answer and errors as JSON.
    #[arg(long, action = ArgAction::SetTrue)]
    json: bool,
}

/// The time that a script's filesystem is made and changed at: the same script gives the same records.
const TIME: Timestamp = Timestamp::from_secs(1_700_000_000);

fn main() -> ExitCode {
    cli::run(Tool::EXTENT_STATUS, |args: Args, host| {
        let show = match &args.command {
            Some(Command::Show(show)) => show,
            Some(Command::Run(script)) => return run_script(script, host),
            Some(Command::Crash(args)) => return run_crash(args, host),
            None => &args.show,
        };
        run(show, host)
    })
}

/// Run a script.
fn run_script(args: &Run, host: &cli::Session) -> Result<Exit, Failure> {
    let script = Script::parse(&std::fs::read(&args.script)?)?;
    let settings = script::Settings { path: args.io_path.into(), now: TIME, check: args.check };
    let mut memory = None;
    let device: Arc<dyn BlockDevice> = match &args.image {
        Some(image) => ImageSpec::parse(image).open(Access::ReadWrite)?,
        None => Arc::clone(memory.insert(Arc::new(script::make(&script.head, TIME)?))) as Arc<dyn BlockDevice>,
    };
    let mut out: Box<dyn Write> = match &args.output {
        Some(file) => Box::new(BufWriter::new(File::create(file)?)),
        None => Box::new(host.out()),
    };
    let mut broken = false;
    let mut failed = None;
    script::run(&script, &device, settings, &mut |record| {
        broken |= record.get("violation").is_some();
        if failed.is_none() {
            failed = writeln!(out, "{record}").err();
        }
        Ok(())
    })?;
    if let Some(e) = failed {
        return Err(e.into());
    }
    out.flush()?;
    if let (Some(file), Some(memory)) = (&args.keep_image, memory) {
        std::fs::write(file, memory.to_bytes())?;
    }
    Ok(if broken { Exit::Failed } else { Exit::Ok })
}

/// Run a script, and judge what a crash in it leaves.
fn run_crash(args: &Crash, host: &cli::Session) -> Result<Exit, Failure> {
    let script = Script::parse(&std::fs::read(&args.script)?)?;
    let settings = script::Settings { path: args.io_path.into(), now: TIME, check: false };
    let image = match &args.image {
        Some(image) => bytes_of(&*ImageSpec::parse(image).open(Access::ReadOnly)?)?,
        None => script::make(&script.head, TIME)?.into_bytes(),
    };
    let recording = Recording::new(&script, image, settings)?;
    let report = recording.crash(recording.plan(args.states, args.seed))?;
    if let Some(dir) = &args.keep {
        std::fs::create_dir_all(dir)?;
        for (n, found) in report.first.iter().enumerate() {
            std::fs::write(dir.join(format!("state-{n}.img")), recording.image(&found.state)?)?;
            std::fs::write(dir.join(format!("state-{n}.txt")), format!("{found}\n"))?;
        }
    }
    let mut out = host.out();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report).map_err(std::io::Error::from)?)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(if report.failed > 0 { Exit::Failed } else { Exit::Ok })
}

fn run(args: &Show, host: &cli::Session) -> Result<Exit, Failure> {
    let Some(image) = &args.image else { return Err(Failure::Usage("an image is needed".into())) };
    let mut settings = Settings::new(match (args.json, host.terminal.stdout) {
        (true, _) => Format::Json,
        (false, true) => Format::Text { width: Some(host.terminal.width) },
        (false, false) => Format::PLAIN,
    });
    settings.open.verify_checksums = !args.no_checksums;
    let mut session = Session::new(settings);
    if let Some(seen) = session.open(image)? {
        host.warn(seen);
    }
    let mut out = host.out();
    let Some(path) = &args.path else {
        session.show(FreeSpaceView::new(session.volume()?, args.chunk)?, &mut out)?;
        return Ok(Exit::Ok);
    };
    let (ino, inode) = session.inode(path.as_bytes())?;
    let owner = Owner { ino, inode: &inode };
    if args.frag {
        session.show(FragView::new(session.volume()?, owner, path.as_bytes()), &mut out)?;
    } else {
        session.show(StatusView::new(session.volume()?, owner), &mut out)?;
    }
    Ok(Exit::Ok)
}
