//! `e4es run`: a script of file operations through the write path.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::ArgAction;
use ext4kit::cli::{self, Exit, Failure};
use ext4kit::device::{Access, BlockDevice, ImageSpec};
use ext4kit::file::PathChoice;
use ext4kit::file::event::Tracer;
use ext4kit::inspect::Format;
use ext4kit::script::{self, Script, Seen};
use ext4kit::trace::render::{LogWriter, short};

use crate::{TIME, live};

/// Which buffered write path.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub(crate) enum IoPath {
    /// What the script's mount options ask for.
    Auto,
    /// Buffer heads.
    BufferHead,
    /// iomap, where a file allows it.
    Iomap,
}

/// The forms of what is written.
const AFTER: &str = "Records are those of a recording of the kernel: a header, one object per operation (i, op, ret, errno, fs, \
files), and what is left after recovery (final). With --events each has `events`: strings \"TASK NAME field=value ...\", with the \
names and fields of ext4's tracepoints without ext4_ (es_insert_extent, da_reserve_space, ...; jbd2_ stays); TASK is - for the \
process, k for the end of I/O, j for a commit. Fields that the library does not have are left out.\n\n\
With --live --json each line is {\"schema\":\"ext4kit/live/1\", step, operation, errno, transaction, credits_used, credits_left, \
free_clusters, dirty_clusters, files}; each file has name, ino, path (buffer-head or iomap), size, disksize (bytes), seq, reserved \
(clusters), pending (clusters), folios, dirty ([first page, pages]) and es ({lblk, len, status, pblk}, in blocks).";

#[derive(clap::Args, Debug)]
#[command(after_long_help = AFTER)]
pub(crate) struct Args {
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

    /// Add to each record what happened, as `events`: the kernel's tracepoints with their fields.
    #[arg(long)]
    events: bool,

    /// Write what happened here as a log in the format of the tracing filesystem (`e4es check-trace` reads it).
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Instead of the records show a table after each operation: extent status, reservations, dirty folios, sizes, and what the
    /// running transaction has taken.
    #[arg(long, visible_alias = "table")]
    live: bool,

    /// Check what must always hold after each operation; the exit code is 1 where it does not.
    #[arg(long)]
    check: bool,

    /// With --live, write each state as a line of JSON; errors are JSON too.
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

/// Write a record.
fn put(seen: Seen<'_>, events: bool, out: &mut dyn Write) -> std::io::Result<()> {
    let mut record = seen.record;
    if events {
        record["events"] = seen.events.iter().map(short).collect();
    }
    writeln!(out, "{record}")
}

/// Run a script.
pub(crate) fn run(args: &Args, host: &cli::Session) -> Result<Exit, Failure> {
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
    let format = match (args.json, &args.output, host.terminal.stdout) {
        (true, ..) => Format::Json,
        (_, None, true) => Format::Text { width: Some(host.terminal.width) },
        _ => Format::PLAIN,
    };
    let mut log = args.trace.as_ref().map(|file| LogWriter::new(BufWriter::new(File::create(file)?))).transpose()?;
    let tracer = if args.events || log.is_some() { Tracer::on() } else { Tracer::OFF };
    let mut broken = false;
    let mut failed = None;
    script::watch(&script, &device, settings, &tracer, &mut |seen| {
        broken |= seen.record.get("violation").is_some();
        let events = seen.events;
        if failed.is_none() {
            failed =
                if args.live { live::step(&seen, format, &mut out) } else { put(seen, args.events, &mut out) }.err();
        }
        if let Some(log) = log.as_mut().filter(|_| failed.is_none()) {
            failed = events.iter().try_for_each(|e| log.put_own(e)).err();
        }
        Ok(())
    })?;
    if let Some(e) = failed {
        return Err(e.into());
    }
    out.flush()?;
    log.map(LogWriter::finish).transpose()?;
    if let (Some(file), Some(memory)) = (&args.keep_image, memory) {
        std::fs::write(file, memory.to_bytes())?;
    }
    Ok(if broken { Exit::Failed } else { Exit::Ok })
}
