//! `e4mkfs`: make an ext2, ext3 or ext4 filesystem, empty or filled from a directory or a tar archive.

mod args;
mod target;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use args::Args;
use ext4kit::cli::{self, Exit, Failure, Session, Tool};
use ext4kit::device::{Access, BlockDevice, FileDevice, WindowDevice};
use ext4kit::env::Timestamp;
use ext4kit::mkfs::{Draft, Layout, Options, Size, parse};
use ext4kit::populate::{Dropped, Files, Filled, Gathered, HostDir, Source, Tree, build, enough_inodes, fit};
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
    let progress = session.progress(args.quiet);
    let threads = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let source = match &args.source {
        Some(path) => Some(open_source(path, args, extra.no_copy_xattrs, now)?),
        None => None,
    };
    let tree = source.as_ref().map(|s| s.list(threads, &*progress)).transpose()?;
    let exists = args.image.exists();
    let len = if exists { device_len(&args.image)?.saturating_sub(extra.offset) } else { 0 };
    let given = args.units()?.map(Size::Units).or((len != 0).then_some(Size::Device(len)));
    let mut attributes = None;
    match (given, &source, &tree) {
        (Some(size), _, tree) => {
            options.size = size;
            if let Some(tree) = tree {
                enough_inodes(&mut options, tree)?;
            }
        }
        (None, Some(source), Some(tree)) => {
            let gathered = Gathered::read(&**source, tree, threads, &*progress)?;
            fit(&mut options, tree, &gathered)?;
            attributes = Some(gathered);
        }
        _ => return Err(Failure::Usage("no size is given, and there is no image to take it from".into())),
    }
    let layout = Layout::new(&options)?;
    if args.dry_run || !args.quiet && !args.json {
        describe(&layout, session)?;
    }
    if args.dry_run {
        Draft::new(layout)?;
        return Ok(Exit::Ok);
    }
    let need = layout.byte_len();
    let target = if exists {
        Target::existing(&args.image, extra.offset, need)?
    } else {
        Target::new_file(&args.image, extra.offset + file_len(&options, need))?
    };
    let window;
    let device: &dyn BlockDevice = if extra.offset == 0 {
        target.device()
    } else {
        window = WindowDevice::from_offset(target.device(), extra.offset)?;
        &window
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| Failure::Usage(format!("cannot start threads: {e}")))?;
    let filled = pool.install(|| {
        if let (Some(source), Some(tree)) = (&source, &tree) {
            let files = Files { source: &**source, tree, attributes };
            return build(layout, files, device, target.fresh, threads, &*progress);
        }
        let mut draft = Draft::new(layout)?;
        draft.write(device, target.fresh)?;
        Ok(Filled { draft, dropped: Vec::new() })
    })?;
    target.finish()?;
    tell(&filled.dropped, session);
    if args.json {
        summary(&filled.draft, tree.as_ref(), session)?;
    }
    Ok(Exit::Ok)
}

/// Say which extended attributes are not in the image.
fn tell(dropped: &[Dropped], session: &Session) {
    for d in dropped {
        let (name, path) = (String::from_utf8_lossy(&d.name), String::from_utf8_lossy(&d.path));
        let more = if d.files > 1 { format!(" and of {} more files", d.files - 1) } else { String::new() };
        session.warn(format_args!("the filesystem cannot hold the attribute {name} of /{path}{more}"));
    }
}

/// A directory, a tar archive, or `-`: an archive from standard input.
fn open_source(path: &Path, args: &Args, without_xattrs: bool, now: Timestamp) -> Result<Box<dyn Source>, Failure> {
    let owner = args.owner.as_deref().map(parse::owner).transpose()?;
    if path.is_dir() {
        let source = HostDir::open(path)?.owned_by(owner);
        let source = if args.keep_times { source.with_times() } else { source };
        return Ok(Box::new(if without_xattrs { source.without_xattrs() } else { source }));
    }
    let source = cli::open_tar(path)?.owned_by(owner).implied_at(now);
    let source = if args.keep_times { source.with_times() } else { source };
    Ok(Box::new(if without_xattrs { source.without_xattrs() } else { source }))
}

fn summary(draft: &Draft, tree: Option<&Tree>, session: &Session) -> Result<(), Failure> {
    let l = draft.layout();
    let summary = serde_json::json!({
        "blocks": l.block_count(), "block_size": l.block_size(), "inodes": l.inode_count(),
        "groups": l.group_count(), "free_blocks": draft.free_blocks(),
        "features": l.features().bits().map(|b| b.to_string()).collect::<Vec<_>>(),
        "files": tree.map_or(0, Tree::len), "bytes": tree.map_or(0, Tree::data_bytes),
    });
    writeln!(session.out(), "{summary}")?;
    Ok(())
}

/// Length of a new file: what was asked for, even where the filesystem leaves a rest of it unused.
fn file_len(options: &Options, need: u64) -> u64 {
    match options.size {
        Size::Units(n) => (n * u64::from(options.block_size.unwrap_or(1024))).max(need),
        Size::Device(n) => n.max(need),
    }
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
