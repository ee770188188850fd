//! `e4mkfs`: make an ext2, ext3 or ext4 filesystem, empty or filled from directories, tar archives and lists of files.

mod args;
mod report;
mod source;
mod target;

use std::cell::LazyCell;
use std::io::BufRead;
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;

use args::Args;
use ext4kit::cli::{self, Exit, Failure, Session, Tool};
use ext4kit::device::{Access, BlockDevice, FileDevice, WindowDevice};
use ext4kit::image::{Format, append_verity, signatures, verity_len};
use ext4kit::mkfs::parse::Extra;
use ext4kit::mkfs::{Draft, ExternalJournal, Layout, Options, Size, find_journal, join_journal, scan, wear};
use ext4kit::populate::{Files, Filled, Gathered, Source, Tree, build, enough_inodes, fit, minimize, trial};
use ext4kit::progress::Progress;
use target::Target;

/// Bytes of salt where none is given.
const SALT: usize = 32;

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

/// So many groups without content are written by one thread sooner than others are started.
const FEW_GROUPS: u32 = 64;

fn make(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let now = cli::clock(&["SOURCE_DATE_EPOCH"])?.now();
    // With a fixed time, the rest that would be drawn at random is derived from it.
    let fixed = std::env::var_os("SOURCE_DATE_EPOCH").is_some_and(|v| !v.is_empty());
    args.refuse(fixed)?;
    let mut entropy = cli::entropy(args.seed(fixed.then_some(now.sec as u64)))?;
    let (mut options, extra) = args.options(now, &mut *entropy, session)?;
    let format = Format::parse(&args.format)?;
    let progress = session.progress(args.quiet);
    // Asking the host takes longer than a small filesystem does.
    let processors = LazyCell::new(|| {
        args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1)
    });
    let source = source::open(args, &extra, now)?;
    let mut threads = if source.is_some() || args.verity { *processors } else { 1 };
    let mut content = match source {
        Some(source) => {
            let tree = source::list(&*source, args, options.root_perms, threads, &*progress)?;
            Some(Content { source, tree, attributes: None })
        }
        None => None,
    };
    let journal = external_journal(&mut options, &extra)?;
    let to_stdout = args.image.as_os_str() == "-";
    let exists = !to_stdout && args.image.exists();
    // A file in another format than raw is not as long as what is in it.
    let known = exists && format == Format::Raw;
    let len = if known { device_len(&args.image)?.saturating_sub(extra.offset) } else { 0 };
    settle_size(args, &mut options, &mut content, len, (threads, &*progress))?;
    let mut layout = Layout::new(&options)?;
    if exists && !args.dry_run && !args.super_only && !may_overwrite(args, extra.offset, layout.byte_len(), session)? {
        return Ok(Exit::Failed);
    }
    if args.check != 0 && exists && !args.dry_run {
        options.bad_blocks.extend(find_bad_blocks(args, &layout, extra.offset, &*progress)?);
        layout = Layout::new(&options)?;
    }
    if args.dry_run || !args.quiet && !args.json && !to_stdout {
        if !args.json {
            report::describe(&layout, session)?;
        }
        if args.dry_run {
            return plan_only(args, layout, &mut content, session, (threads, &*progress));
        }
    }
    let plan =
        Plan { offset: extra.offset, fs_len: layout.byte_len(), file_len: file_len(&options, layout.byte_len()) };
    let mut target = open_target(args, &plan, format, exists)?;
    let discarded = !args.super_only && target.clear(plan.offset, plan.fs_len, extra.keep_blocks)?;
    target.fresh |= extra.prezeroed;
    let uuid = options.uuid;
    if layout.group_count() > FEW_GROUPS {
        threads = *processors;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build();
    let pool = pool.map_err(|e| Failure::Usage(format!("cannot start threads: {e}")))?;
    let (filled, tree) = pool.install(|| -> Result<_, Failure> {
        let filled = write(&target, args.super_only, plan.offset, layout, &mut content, (threads, &*progress))?;
        let mut salt = vec![0; SALT];
        entropy.fill(&mut salt);
        let salt = args.salt()?.unwrap_or(salt);
        let window = WindowDevice::from_offset(target.device(), plan.offset)?;
        let tree = args.verity.then(|| append_verity(&window, plan.fs_len, &salt, uuid, &*progress)).transpose()?;
        Ok((filled, tree))
    })?;
    if let Some((device, journal)) = journal {
        join_journal(&device, journal, uuid)?;
    }
    target.finish(&plan.in_use(&filled.draft, tree.is_some()), args.direct)?;
    report::tell(&filled.dropped, session);
    if args.verbose && !args.quiet && !args.json && !to_stdout {
        report::verbose(&filled.draft, uuid, discarded, session)?;
    }
    if args.json && !to_stdout {
        report::summary(&filled.draft, content.as_ref().map(|c| &c.tree), true, tree.as_ref(), session)?;
    } else if let Some(tree) = &tree {
        report::root_hash(tree, to_stdout, session)?;
    }
    Ok(Exit::Ok)
}

/// Lengths in bytes.
struct Plan {
    /// Where the filesystem begins.
    offset: u64,
    fs_len: u64,
    /// What was asked for, which may be more.
    file_len: u64,
}

impl Plan {
    /// What must be on the device as it is made, in bytes from its start.
    fn in_use(&self, draft: &Draft, verity: bool) -> Vec<Range<u64>> {
        let mut out: Vec<Range<u64>> = draft.ranges_in_use();
        if verity {
            // All of it is hashed.
            out = std::iter::once(0..verity_len(self.fs_len)).collect();
        }
        for r in &mut out {
            (r.start, r.end) = (r.start + self.offset, r.end + self.offset);
        }
        out
    }
}

/// Whether the `need` bytes from `offset` of what exists may be overwritten: they hold nothing that is known, or -F was given, or
/// whoever sits at the terminal says yes. Without a terminal it is said, and done.
fn may_overwrite(args: &Args, offset: u64, need: u64, session: &Session) -> Result<bool, Failure> {
    if args.force > 0 {
        return Ok(true);
    }
    let device = FileDevice::open(&args.image, Access::ReadOnly)?;
    let window = WindowDevice::new(&device, offset, need.min(device.len().saturating_sub(offset)))?;
    let found = signatures(&window)?;
    let Some(found) = found.first() else { return Ok(true) };
    let name = args.image.display();
    if !(session.terminal.stdin && session.terminal.stdout) {
        if !args.quiet {
            session.warn(format_args!("{name} held {found}: it is overwritten"));
        }
        return Ok(true);
    }
    eprint!("{name} holds {found}. Overwrite it? (y/N) ");
    let mut line = String::new();
    // No answer is none of these.
    let _ = std::io::stdin().lock().read_line(&mut line);
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn open_target(args: &Args, plan: &Plan, format: Format, exists: bool) -> Result<Target, Failure> {
    let hashed = if args.verity { verity_len(plan.fs_len) } else { 0 };
    let (need, len) = (plan.fs_len.max(hashed), plan.offset + plan.file_len.max(hashed));
    let path = &args.image;
    if path.as_os_str() == "-" {
        return Ok(Target::stdout(len, format)?);
    }
    if exists && path.metadata().is_ok_and(|m| !m.is_file()) && format != Format::Raw {
        return Err(Failure::Usage("a device takes raw images only".into()));
    }
    Ok(match (&args.undo, format) {
        (_, Format::Sparse | Format::Qcow2) => Target::packed(path, len, format)?,
        (Some(undo), _) if exists => Target::saved(path, plan.offset, need, undo, args.super_only)?,
        (Some(_), _) => return Err(Failure::Usage("-z needs an image that is there".into())),
        (None, _) if args.super_only => Target::as_it_is(path, plan.offset, need)?,
        (None, _) if exists => Target::existing(path, plan.offset, need)?,
        (None, _) => Target::new_file(path, len)?,
    })
}

/// The journal's device, open, and what it is.
fn external_journal(options: &mut Options, extra: &Extra) -> Result<Option<(FileDevice, ExternalJournal)>, Failure> {
    let Some(name) = &extra.journal_device else { return Ok(None) };
    let by = [("UUID=", "/dev/disk/by-uuid"), ("LABEL=", "/dev/disk/by-label")];
    let found = by.iter().find_map(|(prefix, dir)| Some(Path::new(dir).join(name.strip_prefix(prefix)?)));
    let path = found.unwrap_or_else(|| name.into());
    let device = FileDevice::open(&path, Access::ReadWrite)?;
    let journal = find_journal(&device, target::device_number(&device))?;
    if options.block_size.is_some_and(|b| b != journal.block_size) {
        return Err(Failure::Usage(format!(
            "the journal has blocks of {} bytes: the filesystem must have such, too",
            journal.block_size
        )));
    }
    options.block_size = Some(journal.block_size);
    options.journal.external = Some(journal);
    Ok(Some((device, journal)))
}

/// The blocks of an existing image that cannot be used.
fn find_bad_blocks(args: &Args, layout: &Layout, offset: u64, progress: &dyn Progress) -> Result<Vec<u64>, Failure> {
    let access = if args.check > 1 { Access::ReadWrite } else { Access::ReadOnly };
    let device = FileDevice::open(&args.image, access)?;
    let window = WindowDevice::from_offset(&device, offset.min(device.len()))?;
    let found = if args.check > 1 { wear } else { scan };
    Ok(found(&window, layout.block_size(), layout.block_count(), progress)?)
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
        report::summary(&draft, content.as_ref().map(|c| &c.tree), false, None, session)?;
    }
    Ok(Exit::Ok)
}

/// Make the filesystem at `offset` of the target.
fn write(
    target: &Target,
    super_only: bool,
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
    if let Some(Content { source, tree, attributes }) = content {
        let files = Files { source: &**source, tree, attributes: attributes.take() };
        return Ok(build(layout, files, device, target.fresh, threads, progress)?);
    }
    let mut draft = Draft::new(layout)?;
    if super_only {
        draft.write_super_only(device)?;
    } else {
        draft.write(device, target.fresh)?;
    }
    Ok(Filled { draft, dropped: Vec::new() })
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
