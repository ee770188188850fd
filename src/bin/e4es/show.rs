//! `e4es show`: a file's extent status, its fragmentation, or free space.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::ArgAction;
use ext4kit::cli::{self, Exit, Failure, size_in};
use ext4kit::inspect::{Format, FragView, FreeSpaceView, StatusView};
use ext4kit::shell::{Session, Settings};
use ext4kit::volume::Owner;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
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

/// Show it.
pub(crate) fn run(args: &Args, host: &cli::Session) -> Result<Exit, Failure> {
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
