//! `e4mkfs`: make an ext2, ext3 or ext4 filesystem, empty or filled from a directory.

mod args;
mod target;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use args::Args;
use ext4kit::cli::{self, Exit, Failure, Session, Tool};
use ext4kit::device::{Access, BlockDevice, FileDevice, WindowDevice};
use ext4kit::mkfs::{Draft, Layout, Options, Size};
use target::Target;

fn main() -> ExitCode {
    cli::run(Tool::MKFS, |args: Args, session| make(&args, session))
}

fn make(args: &Args, session: &Session) -> Result<Exit, Failure> {
    args.refuse()?;
    let now = cli::clock(&["SOURCE_DATE_EPOCH"])?.now();
    // With a fixed time, the rest that would be drawn at random is derived from it.
    let fixed = std::env::var_os("SOURCE_DATE_EPOCH").is_some_and(|v| !v.is_empty());
    let mut entropy = cli::entropy(fixed.then_some(now.sec as u64))?;
    let (mut options, extra) = args.options(now, &mut *entropy, session)?;
    let exists = args.image.exists();
    options.size = match args.units()? {
        Some(units) => Size::Units(units),
        None if exists => Size::Device(device_len(&args.image)?.saturating_sub(extra.offset)),
        None => return Err(Failure::Usage("the image does not exist, and no size is given".into())),
    };
    let layout = Layout::new(&options)?;
    if !args.quiet && !args.json || args.dry_run {
        describe(&layout, session)?;
    }
    let need = layout.byte_len();
    let mut draft = Draft::new(layout)?;
    if args.dry_run {
        return Ok(Exit::Ok);
    }
    let target = if exists {
        Target::existing(&args.image, extra.offset, need)?
    } else {
        Target::new_file(&args.image, extra.offset + file_len(&options, need))?
    };
    write(&mut draft, &target, extra.offset)?;
    target.finish()?;
    if args.json {
        let l = draft.layout();
        let summary = serde_json::json!({
            "blocks": l.block_count(), "block_size": l.block_size(), "inodes": l.inode_count(),
            "groups": l.group_count(), "free_blocks": draft.free_blocks(),
            "features": l.features().bits().map(|b| b.to_string()).collect::<Vec<_>>(),
        });
        writeln!(session.out(), "{summary}")?;
    }
    Ok(Exit::Ok)
}

/// Length of a new file: what was asked for, even where the filesystem leaves a rest of it unused.
fn file_len(options: &Options, need: u64) -> u64 {
    match options.size {
        Size::Units(n) => (n * u64::from(options.block_size.unwrap_or(1024))).max(need),
        Size::Device(n) => n.max(need),
    }
}

fn write(draft: &mut Draft, target: &Target, offset: u64) -> Result<(), Failure> {
    if offset == 0 {
        draft.write(target.device(), target.fresh)?;
    } else {
        draft.write(&WindowDevice::from_offset(target.device(), offset)?, target.fresh)?;
    }
    Ok(())
}

fn device_len(path: &Path) -> Result<u64, Failure> {
    Ok(FileDevice::open(path, Access::ReadOnly)?.len())
}

fn describe(l: &Layout, session: &Session) -> Result<(), Failure> {
    let mut out = session.out();
    writeln!(
        out,
        "{} blocks of {} bytes in {} groups, {} inodes",
        l.block_count(),
        l.block_size(),
        l.group_count(),
        l.inode_count()
    )?;
    writeln!(out, "journal: {} blocks", l.journal().total())?;
    let features: Vec<String> = l.features().bits().map(|b| b.to_string()).collect();
    writeln!(out, "features: {}", features.join(" "))?;
    Ok(())
}
