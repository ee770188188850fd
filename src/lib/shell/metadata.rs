//! A command that makes an image of the metadata alone.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use serde::Serialize;

use super::args::Args;
use super::session::{Session, Store};
use super::table::{Command, Family, row};
use super::{Failure, Outcome};
use crate::device::{Access, BlockDevice};
use crate::error::Error;
use crate::extract::MetadataImage;
use crate::image::{Format as ImageFormat, write_qcow2};
use crate::inspect::{Page, View};

pub(super) const COMMANDS: &[Command] = &[row(
    "image",
    &[],
    "raw|qcow2 host_file [--scramble-names]",
    "Copy the metadata without files' content into a sparse file or a qcow2 image (--scramble-names: with other names in it)",
    (Family::Filesystem, image),
)];

/// What was stored.
#[derive(Debug, Serialize)]
struct ImageView {
    /// Blocks that hold something.
    blocks: u64,
    /// Names and targets that were replaced.
    names_replaced: u64,
    /// Directories that lost their index.
    flattened: Vec<u32>,
    /// What could not be read, and is not there.
    damage: Vec<String>,
}

impl View for ImageView {
    const SCHEMA: &'static str = "image/1";

    fn text(&self, page: &mut Page<'_>) -> std::io::Result<()> {
        write!(page, "{} blocks of metadata", self.blocks)?;
        if self.names_replaced > 0 {
            write!(page, ", {} names replaced", self.names_replaced)?;
        }
        writeln!(page)?;
        if !self.flattened.is_empty() {
            writeln!(page, "{} directories have no index any more", self.flattened.len())?;
        }
        self.damage.iter().try_for_each(|d| writeln!(page, "left out: {d}"))
    }
}

/// The device to be copied: with other names, what a mount would show; else what is there.
fn source(session: &mut Session, scramble: bool) -> Outcome<Arc<dyn BlockDevice>> {
    session.volume()?;
    match session.store() {
        Some(Store::Write(edit)) => {
            edit.write_contents()?;
            edit.bring_home()?;
            return Ok(Arc::clone(edit.volume().device()));
        }
        Some(Store::Used(_)) => {
            return Err(Failure::Usage("the write path uses the filesystem: wp umount ends that".into()));
        }
        _ => {}
    }
    let opened = session.volume()?.device();
    if scramble || session.is_writing() {
        return Ok(Arc::clone(opened));
    }
    // What is open may be recovered in memory.
    let raw = session.image().map(|i| i.open(Access::ReadOnly));
    Ok(raw.transpose()?.unwrap_or_else(|| Arc::clone(opened)))
}

fn image(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let scramble = args.words.iter().any(|w| w == b"--scramble-names");
    let words: Vec<Vec<u8>> = args.words.iter().filter(|w| *w != b"--scramble-names").cloned().collect();
    let o = Args { words: &words, ..*args }.options("", 2, 2).map_err(|_| args.usage())?;
    let format = match o.operand(0) {
        b"raw" => ImageFormat::Raw,
        b"qcow2" => ImageFormat::Qcow2,
        _ => return Err(args.usage()),
    };
    let path = session.host_path(o.operand(1));
    let device = source(session, scramble)?;
    let image = MetadataImage::new(&device, scramble)?;
    if format == ImageFormat::Raw {
        image.write_raw(&path)?;
    } else {
        let file = File::create(&path).map_err(|e| Error::host("create", &path, e))?;
        let mut to = BufWriter::new(file);
        let written =
            write_qcow2(&image, &mut to).and_then(|()| to.flush().map_err(|e| Error::host("write", &path, e)));
        if let Err(e) = written {
            // Half an image is none.
            let _ = std::fs::remove_file(&path);
            return Err(e.into());
        }
    }
    let report = &image.report;
    let view = ImageView {
        blocks: report.blocks,
        names_replaced: report.names,
        flattened: report.flattened.iter().map(|i| i.0).collect(),
        damage: report.damage.iter().map(ToString::to_string).collect(),
    };
    session.show(view, out)
}
