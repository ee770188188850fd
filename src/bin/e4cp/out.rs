//! Copying out: from the command line to the library, and the report back.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use ext4kit::Error;
use ext4kit::cli::{self, Exit, Failure, Session};
use ext4kit::device::Access;
use ext4kit::extract::{Destination, Extractor, Listing, Note, Observer, Options, Report, Source, printable};
use ext4kit::journal::{OnDamage, RecoverOptions};
use ext4kit::progress::Silent;
use ext4kit::recover::open_recovered;
use ext4kit::volume::{LastLink, OpenOptions, Volume};
use serde_json::json;

use crate::args::Args;
use crate::place::ImagePath;

/// Tells about single files on standard error (and standard output, where that is free).
struct Teller<'a> {
    session: &'a Session,
    verbose: bool,
    /// A progress bar may be in the line.
    bar: bool,
    /// Standard output holds something else.
    stdout_taken: bool,
}

impl Teller<'_> {
    fn new<'a>(args: &Args, session: &'a Session, stdout_taken: bool) -> Teller<'a> {
        let bar = session.terminal.draws() && !args.quiet && !args.json;
        Teller { session, verbose: args.verbose, bar, stdout_taken }
    }

    fn warn(&self, text: &str) {
        if !self.session.json {
            self.error_line(&format!("{}: warning: {text}", self.session.tool.name));
        }
    }

    fn error_line(&self, line: &str) {
        let clear = if self.bar { "\r\x1b[2K" } else { "" };
        // Nobody is left to tell where standard error is gone.
        let _ = writeln!(std::io::stderr().lock(), "{clear}{line}");
    }
}

impl Observer for Teller<'_> {
    fn failed(&self, path: &[u8], error: &Error) {
        if self.session.json {
            let mut object = cli::error_json(error);
            object["source"] = printable(path).into();
            self.error_line(&json!({ "error": object }).to_string());
            return;
        }
        let (path, text) = (printable(path), error.to_string());
        let tool = self.session.tool.name;
        // Some errors begin with the path themselves.
        let line = match text.strip_prefix(&*path) {
            Some(rest) if rest.starts_with(": ") => format!("{tool}: error: {path}{rest}"),
            _ => format!("{tool}: error: {path}: {text}"),
        };
        self.error_line(&line);
    }

    fn note(&self, note: Note) {
        self.warn(&note.to_string());
    }

    fn wants_paths(&self) -> bool {
        self.verbose
    }

    fn copied(&self, path: &[u8]) {
        let path = printable(path);
        if self.stdout_taken || self.session.json {
            self.error_line(&path);
        } else {
            let _ = writeln!(std::io::stdout().lock(), "{path}");
        }
    }
}

/// The sources of one image.
struct Image {
    name: OsString,
    paths: Vec<Vec<u8>>,
}

/// Sources by image, in the order in which the images come.
fn by_image(sources: &[ImagePath]) -> Vec<Image> {
    let mut all: Vec<Image> = Vec::new();
    for source in sources {
        match all.iter_mut().find(|i| i.name == source.image) {
            Some(image) => image.paths.push(source.path.clone()),
            None => all.push(Image { name: source.image.clone(), paths: vec![source.path.clone()] }),
        }
    }
    all
}

/// Open each image, look up its sources (one that is not there is told and counted), and do `work` on them.
fn for_each_image(
    sources: &[ImagePath],
    last: LastLink,
    teller: &Teller<'_>,
    mut work: impl FnMut(&Volume, &[Source]) -> Result<Report, Failure>,
) -> Result<Report, Failure> {
    let mut total = Report::default();
    for image in by_image(sources) {
        let spec = ImagePath { image: image.name, path: Vec::new() }.spec();
        let device = spec.open(Access::ReadOnly)?;
        let recovery = RecoverOptions { on_damage: OnDamage::Salvage, now: None, keep_counts: false };
        let (volume, seen) = open_recovered(device, None, recovery, &OpenOptions::default())?;
        if seen.journal.needed {
            let damage = seen.journal.damage.or(seen.orphans.damage);
            total.failed += u64::from(damage.is_some());
            teller.warn(&match damage {
                None => "the journal was not written back: it is recovered in memory, the image stays as it is".into(),
                Some(why) => {
                    format!("the journal was not written back and is damaged ({why}): files may be out of date")
                }
            });
        }
        let mut found = Vec::new();
        for path in &image.paths {
            match Source::find(&volume, path, last) {
                Ok(source) => found.push(source),
                Err(e) => {
                    teller.failed(path, &e);
                    total.failed += 1;
                }
            }
        }
        total.add(&work(&volume, &found)?);
    }
    Ok(total)
}

const fn exit(report: &Report) -> Exit {
    if report.is_complete() { Exit::Ok } else { Exit::Failed }
}

fn summary(args: &Args, session: &Session, report: &Report) -> Result<Exit, Failure> {
    if args.json {
        let mut out = session.out();
        serde_json::to_writer(&mut out, report)?;
        writeln!(out)?;
    }
    Ok(exit(report))
}

/// What the host takes away from new files' modes: nothing where modes are kept.
fn take_umask(options: impl Fn(u32) -> Options) -> Options {
    use rustix::fs::Mode;
    let umask = rustix::process::umask(Mode::empty());
    let options = options(umask.as_raw_mode());
    if options.preserve.mode {
        return Options { umask: 0, ..options };
    }
    rustix::process::umask(umask);
    options
}

/// Without -r a symbolic link stands for what it leads to.
const fn last_link(args: &Args) -> LastLink {
    if args.is_recursive() { LastLink::Keep } else { LastLink::Follow }
}

/// Copy to the host.
pub(crate) fn copy(args: &Args, session: &Session, sources: &[ImagePath], destination: &Path) -> Result<Exit, Failure> {
    let destination = Destination::open(destination, sources.len())?;
    let options = take_umask(|umask| args.options(umask));
    let observer = Teller::new(args, session, false);
    let progress = session.progress(args.quiet || args.verbose);
    let report = for_each_image(sources, last_link(args), &observer, |volume, found| {
        let extractor = Extractor { volume, options, observer: &observer, progress: &*progress };
        Ok(extractor.copy(found, &destination)?)
    })?;
    summary(args, session, &report)
}

/// Read everything.
pub(crate) fn discard(args: &Args, session: &Session, sources: &[ImagePath]) -> Result<Exit, Failure> {
    let options = Options { jobs: args.jobs(), ..Options::default() };
    let observer = Teller::new(args, session, false);
    let progress = session.progress(args.quiet || args.verbose);
    let report = for_each_image(sources, LastLink::Keep, &observer, |volume, found| {
        let extractor = Extractor { volume, options, observer: &observer, progress: &*progress };
        Ok(extractor.discard(found)?)
    })?;
    summary(args, session, &report)
}

/// Write a tar to standard output.
pub(crate) fn tar(args: &Args, session: &Session, sources: &[ImagePath]) -> Result<Exit, Failure> {
    if session.terminal.stdout {
        return Err(Failure::Usage("a tar is not written to a terminal: redirect standard output".into()));
    }
    if by_image(sources).len() > 1 {
        return Err(Failure::Usage("a tar is made of one image at a time".into()));
    }
    let observer = Teller::new(args, session, true);
    let progress = session.progress(args.quiet || args.verbose);
    let options = Options::default();
    let mut out = session.out();
    let report = for_each_image(sources, LastLink::Keep, &observer, |volume, found| {
        let extractor = Extractor { volume, options, observer: &observer, progress: &*progress };
        match extractor.tar(found, &mut out) {
            Err(Error::Host { op: "write", source, .. }) => Err(Failure::Output(source)),
            other => Ok(other?),
        }
    })?;
    Ok(exit(&report))
}

/// List.
pub(crate) fn list(args: &Args, session: &Session, sources: &[ImagePath]) -> Result<Exit, Failure> {
    let observer = Teller::new(args, session, true);
    let options = Options { recursive: args.is_recursive(), ..Options::default() };
    let headings = options.recursive || sources.len() > 1;
    let mut out = session.out();
    let mut first = true;
    let mut lost = None;
    if args.json {
        write!(out, "[")?;
    }
    let report = for_each_image(sources, LastLink::Keep, &observer, |volume, found| {
        let extractor = Extractor { volume, options, observer: &observer, progress: &Silent };
        let listed = extractor.list(found, &mut |listing| {
            let written = if args.json {
                write_json(&mut out, &listing, &mut first)
            } else {
                write_text(&mut out, &listing, headings, &mut first)
            };
            written.map_err(|e| {
                lost = Some(e);
                Error::Cancelled
            })
        });
        match lost.take() {
            Some(e) => Err(Failure::Output(e)),
            None => Ok(listed?),
        }
    })?;
    if args.json {
        writeln!(out, "\n]")?;
    }
    Ok(exit(&report))
}

fn write_json(out: &mut dyn Write, listing: &Listing, first: &mut bool) -> std::io::Result<()> {
    for entry in &listing.entries {
        out.write_all(if std::mem::take(first) { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, entry)?;
    }
    Ok(())
}

fn write_text(out: &mut dyn Write, listing: &Listing, headings: bool, first: &mut bool) -> std::io::Result<()> {
    if headings && let Some(directory) = &listing.directory {
        let blank = if *first { "" } else { "\n" };
        writeln!(out, "{blank}{}:", printable(directory))?;
    }
    *first = false;
    listing.write_text(out)
}
