//! `e4es crash`: a script, cut off at every moment of it.

use std::io::Write;
use std::path::PathBuf;

use clap::ArgAction;
use ext4kit::cli::{self, Exit, Failure};
use ext4kit::device::crash::bytes_of;
use ext4kit::device::{Access, ImageSpec};
use ext4kit::script::crash::Recording;
use ext4kit::script::{self, Script};

use crate::TIME;
use crate::run::IoPath;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
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

/// Run a script, and judge what a crash in it leaves.
pub(crate) fn run(args: &Args, host: &cli::Session) -> Result<Exit, Failure> {
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
