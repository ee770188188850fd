//! `e4mkfs`: make an ext2, ext3 or ext4 filesystem, empty or filled from directories, tar archives and lists of files.

mod args;
mod report;
mod source;
mod target;

use std::path::Path;
use std::process::ExitCode;

use args::Args;
use ext4kit::cli::{self, Exit, Failure, Session, Tool};
use ext4kit::device::{Access, BlockDevice, FileDevice, WindowDevice};
use ext4kit::mkfs::{Draft, Layout, Options, Size};
use ext4kit::populate::{Files, Filled, Gathered, Source, Tree, build, enough_inodes, fit, minimize, trial};
use ext4kit::progress::Progress;
use target::Target;

fn main() -> ExitCode {
    cli::run(Tool::MKFS, |args: Args, session| make(&args, session))
}

/// What the filesystem is filled with.
struct Content {
    source: Box<dyn Source>,
    tree: Tree,
    /// Extended attributes, where they had to be known before.
    attributes: Option<Gathered>,
}

impl Content {
    /// Read the attributes, where that has not been done.
    fn attributes(&mut self, threads: usize, progress: &dyn Progress) -> Result<&Gathered, Failure> {
        let known = match self.attributes.take() {
            Some(known) => known,
            None => Gathered::read(&*self.source, &self.tree, threads, progress)?,
        };
        Ok(self.attributes.insert(known))
    }
}

fn make(args: &Args, session: &Session) -> Result<Exit, Failure> {
    args.refuse()?;
    let now = cli::clock(&["SOURCE_DATE_EPOCH"])?.now();
    // With a fixed time, the rest that would be drawn at random is derived from it.
    let fixed = std::env::var_os("SOURCE_DATE_EPOCH").is_some_and(|v| !v.is_empty());
    let mut entropy = cli::entropy(args.seed(fixed.then_some(now.sec as u64)))?;
    let (mut options, extra) = args.options(now, &mut *entropy, session)?;
    let progress = session.progress(args.quiet);
    let threads = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let mut content = match source::open(args, extra.no_copy_xattrs, now)? {
        Some(source) => {
            let tree = source::list(&*source, args, threads, &*progress)?;
            Some(Content { source, tree, attributes: None })
        }
        None => None,
    };
    let to_stdout = args.image.as_os_str() == "-";
    let exists = !to_stdout && args.image.exists();
    let len = if exists { device_len(&args.image)?.saturating_sub(extra.offset) } else { 0 };
    settle_size(args, &mut options, &mut content, len, (threads, &*progress))?;
    let layout = Layout::new(&options)?;
    if args.dry_run || !args.quiet && !args.json && !to_stdout {
        if !args.json {
            report::describe(&layout, session)?;
        }
        if args.dry_run {
            return plan_only(args, layout, &mut content, session, (threads, &*progress));
        }
    }
    let need = layout.byte_len();
    let target = if to_stdout {
        Target::stdout(extra.offset + file_len(&options, need))?
    } else if exists {
        Target::existing(&args.image, extra.offset, need)?
    } else {
        Target::new_file(&args.image, extra.offset + file_len(&options, need))?
    };
    let filled = write(&target, extra.offset, layout, &mut content, (threads, &*progress))?;
    target.finish()?;
    report::tell(&filled.dropped, session);
    if args.json && !to_stdout {
        report::summary(&filled.draft, content.as_ref().map(|c| &c.tree), true, session)?;
    }
    Ok(Exit::Ok)
}

/// Decide on the size, where it depends on what there is: an image of `len` bytes, or files.
fn settle_size(
    args: &Args,
    options: &mut Options,
    content: &mut Option<Content>,
    len: u64,
    (threads, progress): (usize, &dyn Progress),
) -> Result<(), Failure> {
    let existing = (len != 0 && !args.wants_fit()).then_some(Size::Device(len));
    match (args.units()?.map(Size::Units).or(existing), content) {
        (Some(size), content) => {
            options.size = size;
            if let Some(content) = content {
                enough_inodes(options, &content.tree)?;
            }
        }
        (None, Some(content)) => {
            content.attributes(threads, progress)?;
            let Content { tree, attributes: Some(attributes), .. } = content else { return Ok(()) };
            if args.minimize {
                minimize(options, tree, attributes)?;
            } else {
                fit(options, tree, attributes, args.slack()?)?;
            }
        }
        (None, None) => {
            return Err(Failure::Usage("no size is given, and there is no image to take it from".into()));
        }
    }
    Ok(())
}

/// Say what would be made, and whether everything fits.
fn plan_only(
    args: &Args,
    layout: Layout,
    content: &mut Option<Content>,
    session: &Session,
    (threads, progress): (usize, &dyn Progress),
) -> Result<Exit, Failure> {
    let draft = match content {
        Some(content) => {
            content.attributes(threads, progress)?;
            let none = Gathered::default();
            trial(layout, &content.tree, content.attributes.as_ref().unwrap_or(&none))?
        }
        None => Draft::new(layout)?,
    };
    if args.json {
        report::summary(&draft, content.as_ref().map(|c| &c.tree), false, session)?;
    }
    Ok(Exit::Ok)
}

/// Make the filesystem at `offset` of the target.
fn write(
    target: &Target,
    offset: u64,
    layout: Layout,
    content: &mut Option<Content>,
    (threads, progress): (usize, &dyn Progress),
) -> Result<Filled, Failure> {
    let window;
    let device: &dyn BlockDevice = if offset == 0 {
        target.device()
    } else {
        window = WindowDevice::from_offset(target.device(), offset)?;
        &window
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| Failure::Usage(format!("cannot start threads: {e}")))?;
    Ok(pool.install(|| {
        if let Some(Content { source, tree, attributes }) = content {
            let files = Files { source: &**source, tree, attributes: attributes.take() };
            return build(layout, files, device, target.fresh, threads, progress);
        }
        let mut draft = Draft::new(layout)?;
        draft.write(device, target.fresh)?;
        Ok(Filled { draft, dropped: Vec::new() })
    })?)
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
