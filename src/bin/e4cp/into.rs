//! Copying in, and scripts: from the command line to one transaction, and the report back.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use ext4kit::Error;
use ext4kit::batch::{
    self, Action, CopyOptions, Options, Origin, Pick, Report, Route, Script, Session as Edit, Target, WAY, Watch,
    base_name,
};
use ext4kit::cli::{self, Exit, Failure, Session, SystemTimer};
use ext4kit::device::{Access, BlockDevice, ImageSpec, OverlayDevice};
use ext4kit::extract::{Preserve, printable};
use ext4kit::progress::Progress;

use crate::args::{Args, Input};
use crate::place::ImagePath;

/// So many files are not worth a second thread.
const FEW: usize = 8;

/// Tells what happens.
struct Teller<'a> {
    session: &'a Session,
    /// Name what is done.
    tells: bool,
}

impl Teller<'_> {
    fn new<'a>(args: &Args, session: &'a Session) -> Teller<'a> {
        Teller { session, tells: (args.verbose || args.dry_run) && !args.json }
    }
}

impl Watch for Teller<'_> {
    fn done(&mut self, action: Action, path: &[u8]) {
        if self.tells {
            let what = match action {
                Action::Make => "make",
                Action::Write => "write",
                Action::Link => "link",
                Action::Remove => "remove",
                Action::Move => "move",
                Action::Change => "change",
            };
            // A reader that went away is found at the end.
            let _ = writeln!(self.session.out(), "{what} {}", printable(path));
        }
    }

    fn route(&mut self, path: &[u8], route: Route) {
        if self.tells {
            let path = printable(path);
            let Route { path: way, why } = route;
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            let _ = writeln!(self.session.out(), "through {way} {path}{why}");
        }
    }

    fn left_out(&mut self, path: &[u8], name: &[u8]) {
        let (path, name) = (printable(path), printable(name));
        self.session.warn(format_args!("{path}: attribute {name} is left out: ext4 has no place for it"));
    }
}

/// An image open for changing, or a copy of it in memory for a dry run.
fn open(args: &Args, session: &Session, spec: &ImageSpec, jobs: usize) -> Result<Edit, Failure> {
    let access = if args.dry_run { Access::ReadOnly } else { Access::ReadWrite };
    let over = |d: Arc<dyn BlockDevice>| -> Arc<dyn BlockDevice> {
        if args.dry_run { Arc::new(OverlayDevice::new(d)) } else { d }
    };
    let journal = args.journal.as_ref().map(|j| ImageSpec::parse(j).open(access)).transpose()?;
    let mut options = Options::new(Arc::from(cli::clock(&["SOURCE_DATE_EPOCH"])?), Arc::new(SystemTimer));
    options.journal = journal.map(over);
    options.chunked = args.chunked;
    options.jobs = jobs;
    // A dry run writes no content.
    options.through = args.through().filter(|_| !args.dry_run);
    let mut edit = Edit::open(over(spec.open(access)?), options)?;
    edit.set_progress(Arc::from(session.progress(args.quiet || args.verbose)));
    if !edit.is_atomic() && !args.dry_run {
        session.warn(format_args!("{spec}: no journal: a kill while this runs can leave a part of it"));
    }
    if edit.has_errors() {
        session.warn(format_args!("{spec}: the filesystem is marked as having errors: check it with e4fsck"));
    }
    if edit.recovered().is_some() {
        session.warn(format_args!("{spec}: the journal was replayed first"));
    }
    Ok(edit)
}

/// Carry out `work` on the image and commit it; where it fails, the image stays as it was.
fn batch(
    args: &Args,
    session: &Session,
    spec: &ImageSpec,
    jobs: usize,
    work: impl FnOnce(&mut Edit, &mut Report) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let mut edit = open(args, session, spec, jobs)?;
    let mut report = Report::default();
    let done = match work(&mut edit, &mut report) {
        Ok(()) if args.dry_run => edit.prepare().map_err(Failure::from),
        Ok(()) => edit.commit().map_err(Failure::from),
        Err(e) => Err(e),
    };
    let blocks = edit.pending_blocks();
    let commits = edit.commits();
    if let Err(e) = done {
        if commits > 0 {
            session.warn(format_args!("{spec}: {commits} transactions were committed before the failure"));
        }
        // The failure is what is told; what is left for recovery is no worse.
        let _ = edit.abandon();
        return Err(e);
    }
    if !args.dry_run {
        edit.close()?;
    }
    if args.json {
        let mut object = serde_json::to_value(report)?;
        object["dry_run"] = args.dry_run.into();
        object["transactions"] = commits.into();
        writeln!(session.out(), "{object}")?;
    } else if args.dry_run {
        writeln!(session.out(), "{}, {blocks} blocks of metadata", summary(&report))?;
    }
    Ok(Exit::Ok)
}

fn summary(r: &Report) -> String {
    let mut parts = vec![format!("{} files with {} bytes", r.files, r.bytes)];
    let rest = [
        (r.directories, "directories"),
        (r.others, "links and devices"),
        (r.links, "hard links"),
        (r.removed, "removed"),
        (r.changed, "changed"),
        (r.same, "equal"),
        (r.skipped, "skipped"),
    ];
    parts.extend(rest.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
    parts.join(", ")
}

/// Copy sources into an image.
pub(crate) fn copy(args: &Args, session: &Session, inputs: &[Input], to: &ImagePath) -> Result<Exit, Failure> {
    let options = args.copy_options();
    if options.delete && !args.is_recursive() && !args.untar {
        return Err(Failure::Usage("--delete is for directories: -r or -a".into()));
    }
    // The sources are listed before the image is touched.
    let progress = session.progress(args.quiet || args.verbose);
    let sources =
        inputs.iter().map(|input| source(args, input, &options, &*progress)).collect::<Result<Vec<_>, Failure>>()?;
    let mut teller = Teller::new(args, session);
    // Few files are copied by one thread: how many processors there are need not be found out.
    let few = sources.iter().map(|s| s.origin.nodes()).sum::<usize>() <= FEW;
    let jobs = if few { 1 } else { args.jobs() };
    batch(args, session, &to.spec(), jobs, |edit, report| {
        if args.mkdir {
            make_way(edit, to, sources.len() > 1 || sources.iter().all(|s| s.base.is_none()))?;
        }
        for source in &sources {
            let target = target(edit, source, to, sources.len())?;
            // An archive is unpacked with all that it says.
            let preserve = if source.is_tar { Preserve::ALL } else { options.preserve };
            let options = CopyOptions { preserve, ..options.clone() };
            batch::copy_in(edit, &source.origin, source.pick, &target, &options, &mut teller, report)?;
        }
        Ok(())
    })
}

/// A listed source.
struct Listed {
    origin: Arc<Origin>,
    pick: Pick,
    /// Its name; `None` where its content is meant.
    base: Option<Vec<u8>>,
    is_tar: bool,
}

fn source(args: &Args, input: &Input, options: &CopyOptions, progress: &dyn Progress) -> Result<Listed, Failure> {
    match input {
        Input::Host(path) => {
            let jobs = if args.is_recursive() { args.jobs() } else { 1 };
            let (origin, pick) = batch::host_origin(path, args.is_recursive(), options, jobs, progress)?;
            Ok(Listed { origin, pick, base: base_name(path), is_tar: false })
        }
        Input::Tar(path) => {
            let now = cli::clock(&["SOURCE_DATE_EPOCH"])?.now();
            let tar = cli::open_tar(path)?.implied_at(now);
            Ok(Listed { origin: Origin::list(tar, args.jobs(), progress)?, pick: Pick::Top, base: None, is_tar: true })
        }
    }
}

/// Make the directories that lead to the destination; with `whole`, it is one itself.
fn make_way(edit: &mut Edit, to: &ImagePath, whole: bool) -> Result<(), Error> {
    let whole = whole || to.path.ends_with(b"/");
    let end = to.path.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
    let path = if whole { &to.path[..] } else { &to.path[..end] };
    edit.make_path(path, &WAY).map(|_| ())
}

/// Where a source goes. Content of a directory goes to a directory, made where it is missing.
fn target(edit: &Edit, source: &Listed, to: &ImagePath, sources: usize) -> Result<Target, Error> {
    let target = edit.target(&to.path, source.base.as_deref())?;
    if sources > 1 && edit.name_target(&to.path).is_ok_and(|name| name == target) {
        return Err(Error::NotDirectory { path: to.path.clone() });
    }
    Ok(target)
}

/// Carry out a script.
pub(crate) fn script(args: &Args, session: &Session, file: &Path, image: &ImageSpec) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut f| f.read_to_end(&mut text))
    };
    read.map_err(|e| Error::host("read", file, e))?;
    let mut script = Script::parse(&text).map_err(|e| in_script(file, e.into()))?;
    if let Some(line) = args.from {
        script.skip_to(line);
    }
    let mut teller = Teller::new(args, session);
    let mut commits = 0;
    let done = batch(args, session, image, args.jobs(), |edit, report| {
        let mut last = 0;
        script.run(edit, &mut teller, report, &mut |edit, line| {
            if edit.commits() != commits {
                commits = edit.commits();
                session.warn(format_args!("{image}: committed as far as line {last}, go on with --from {}", last + 1));
            }
            last = line;
        })?;
        Ok(())
    });
    done.map_err(|e| match e {
        Failure::Library(e @ Error::Script { .. }) => in_script(file, e.into()),
        e => e,
    })
}

fn in_script(file: &Path, failure: Failure) -> Failure {
    Failure::At { place: file.display().to_string(), failure: Box::new(failure) }
}
