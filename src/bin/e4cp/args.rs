//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Parser, ValueEnum};
use ext4kit::batch::{self, CopyOptions, ModeChange, Through};
use ext4kit::cli::{self, Failure};
use ext4kit::device::ImageSpec;
use ext4kit::env::Timestamp;
use ext4kit::extract::{Options, Preserve};
use ext4kit::file::PathChoice;

use crate::place::{ImagePath, Place};

/// Copy files out of an ext2, ext3 or ext4 image and into it, without root and without mounting it.
///
/// IMAGE:PATH names a path in an image; IMAGE may be IMAGE@OFFSET, the filesystem that begins OFFSET bytes into a disk
/// image (suffixes s, K, M, G). A destination that is a directory gets the copies under their own names; `IMAGE:/` and
/// `IMAGE:/dir/.` stand for the content. The destination `-` writes a tar to standard output, with everything.
///
/// Copies are made by name below DEST and never through a symbolic link that is there; a file in the way is replaced.
/// Copying out: what cannot be copied (damaged, or a name that no host takes) is told and left out, the rest is copied, and the exit
/// code is 1. Owners and attributes that the host does not allow are told once, and the exit code stays 0. An empty
/// lost+found of the root is left out.
///
/// Copying in: everything that one command does is one transaction of the image's journal. It happens as a whole, or the
/// image stays as it was: when something cannot be read or has no room, and when the program is killed. What is copied is
/// root's and has the source's permissions, unless -p, -a or --owner and --mode say otherwise. A file that is there gets
/// the new content and keeps its inode; symbolic links in the way are replaced, not followed. SOURCE_DATE_EPOCH, where it
/// is set, is the time that goes into the image: the same edit of the same image then gives the same bytes.
///
/// A script (--script) has one command a line: put, untar, rm, rmdir, mkdir, ln, symlink, mv, chmod, chown, chproj, setfattr,
/// truncate, touch, mknod, mkfifo, with the options of their namesakes. Words are quoted as in a shell; # begins a comment.
#[derive(Parser, Debug)]
#[command(override_usage = "e4cp [-a | -rp] IMAGE:PATH... DEST\n       e4cp IMAGE:PATH... -\n       \
                            e4cp [-a | -rp] SOURCE... IMAGE:PATH\n       e4cp --script FILE IMAGE\n       \
                            e4cp -l [-r] [--json] IMAGE:PATH...\n       e4cp --discard IMAGE:PATH...")]
pub(crate) struct Args {
    /// What to copy, and where to. One side is IMAGE:PATH, the other a file or directory of the host, or `-` for a tar.
    #[arg(required = true, value_name = "SOURCE... DEST")]
    operands: Vec<OsString>,

    /// Copy everything: -r, with modes, owners, times, attributes, access control lists, hard links.
    #[arg(short = 'a', long)]
    archive: bool,

    /// Copy directories with all that is in them, symbolic links and devices as such; with -l, list all below.
    #[arg(short = 'r', short_alias = 'R', long)]
    recursive: bool,

    /// Keep modes with access control lists, owners and times.
    #[arg(short = 'p', long)]
    preserve: bool,

    /// List instead of copying, one line per file, dot files too; times are UTC.
    #[arg(short = 'l', long, conflicts_with = "discard")]
    pub(crate) list: bool,

    /// Read everything (as -a would) and throw it away: whether all of it can be read.
    #[arg(long)]
    pub(crate) discard: bool,

    /// Copying in: everything belongs to this user and group, as UID:GID.
    #[arg(long, value_name = "UID:GID", value_parser = parse_owner, help_heading = IN)]
    pub(crate) owner: Option<Owner>,

    /// Copying in: change the permissions as chmod(1) would: `0644`, `u+rwX,go-w`.
    #[arg(long, value_name = "MODE", value_parser = parse_mode, help_heading = IN)]
    pub(crate) mode: Option<ModeChange>,

    /// Copying in: modification time: @SECONDS, or YYYY-MM-DD HH:MM:SS (UTC).
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = IN)]
    pub(crate) mtime: Option<Timestamp>,

    /// Copying in: make the directories that lead to PATH.
    #[arg(long, help_heading = IN)]
    pub(crate) mkdir: bool,

    /// Copying in: leave what is there as it is.
    #[arg(short = 'n', long, conflicts_with = "sync", help_heading = IN)]
    pub(crate) no_clobber: bool,

    /// Copying in: change only what differs, and as few blocks as that takes. Contents are compared, not times.
    #[arg(long, help_heading = IN)]
    pub(crate) sync: bool,

    /// Copying in: in directories that are copied, remove what the source does not have.
    #[arg(long, help_heading = IN)]
    pub(crate) delete: bool,

    /// Copying in: the sources are tar archives (plain, gzip, zstd, xz), whose content goes to PATH with all that they say
    /// of it; `-`, standard input, is always one.
    #[arg(long, help_heading = IN)]
    pub(crate) untar: bool,

    /// Carry out the commands in FILE (`-`: standard input) on the image.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["list", "discard", "sync", "delete", "untar", "no_clobber"], help_heading = IN)]
    pub(crate) script: Option<PathBuf>,

    /// Copying in, scripts: do everything but write, and tell what would happen.
    #[arg(long, help_heading = IN)]
    pub(crate) dry_run: bool,

    /// Copying in, scripts: where one transaction is too small, use several. Each leaves a consistent image; where it
    /// stands is told on standard error. Go on with --sync or --from.
    #[arg(long, help_heading = IN)]
    pub(crate) chunked: bool,

    /// Scripts: begin at this line.
    #[arg(long, value_name = "LINE", requires = "script", help_heading = IN)]
    pub(crate) from: Option<u64>,

    /// Copying in, scripts: write content through the page cache, as the kernel does: delayed allocation, writeback, conversion
    /// at the end of I/O. auto is iomap where a file allows it, else buffer-head; -v tells which one a file took, and why.
    /// Still one transaction. Without this option content goes straight to its blocks, by several threads.
    #[arg(long, value_name = "PATH", value_enum, help_heading = IN)]
    pub(crate) io_path: Option<IoPath>,

    /// With --io-path: bytes of one write, 1 to 1G (suffixes K, M, G); 1M where it is not given.
    #[arg(long, value_name = "N", value_parser = parse_write_size, requires = "io_path", help_heading = IN)]
    pub(crate) write_size: Option<usize>,

    /// The image's external journal.
    #[arg(long, value_name = "DEVICE", help_heading = IN)]
    pub(crate) journal: Option<PathBuf>,

    /// Threads to work with; as many as there are processors where it is not given.
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,

    /// Name each file that is copied.
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,

    /// Draw no progress bar.
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,

    /// Write listing, summary and errors as JSON.
    #[arg(long, action = ArgAction::SetTrue)]
    pub(crate) json: bool,
}

/// Heading of the options that change an image.
const IN: &str = "Changing an image";

/// An owner: user, group.
pub(crate) type Owner = (Option<u32>, Option<u32>);

fn parse_owner(text: &str) -> Result<Owner, String> {
    batch::parse_owner(text.as_bytes()).map_err(|e| e.to_string())
}

fn parse_mode(text: &str) -> Result<ModeChange, String> {
    ModeChange::parse(text).map_err(|e| e.to_string())
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "@SECONDS or YYYY-MM-DD HH:MM:SS (UTC)".to_owned())
}

/// A path of buffered writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IoPath {
    /// iomap where the file allows it, else buffer heads
    Auto,
    /// iomap: one mapping for as long a range as possible, large folios
    Iomap,
    /// Buffer heads: page by page, block by block
    BufferHead,
}

fn parse_write_size(text: &str) -> Result<usize, String> {
    let size = cli::size_in(1)(text)?;
    usize::try_from(size).ok().filter(|n| (1..=1 << 30).contains(n)).ok_or_else(|| "1 to 1G".to_owned())
}

/// Where what is copied in comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A file or directory.
    Host(PathBuf),
    /// A tar archive; `-` for one on standard input.
    Tar(PathBuf),
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// List these.
    List(Vec<ImagePath>),
    /// Read these.
    Discard(Vec<ImagePath>),
    /// Write these as tar to standard output.
    Tar(Vec<ImagePath>),
    /// Copy these to the host.
    Out(Vec<ImagePath>, PathBuf),
    /// Copy these into an image.
    In(Vec<Input>, ImagePath),
    /// Carry out a script on an image.
    Script(PathBuf, ImageSpec),
}

impl Args {
    /// Make out what is asked for.
    ///
    /// # Errors
    /// [`Failure::Usage`] where the operands do not say, or it cannot be done yet.
    pub(crate) fn task(&self) -> Result<Task, Failure> {
        if let Some(script) = &self.script {
            let [image] = &self.operands[..] else { return usage("--script is for one image") };
            let spec = match Place::parse(image) {
                Place::Image(place) if place.path == b"/" => place.spec(),
                Place::Image(_) => return usage("--script takes an image, without a path"),
                Place::Host(image) => ImageSpec::parse(&image),
            };
            return Ok(Task::Script(script.clone(), spec));
        }
        let mut places: Vec<Place> = self.operands.iter().map(|o| Place::parse(o)).collect();
        if self.list || self.discard {
            let sources = sources(places)?;
            return Ok(if self.list { Task::List(sources) } else { Task::Discard(sources) });
        }
        let destination = places.pop();
        if places.is_empty() {
            return usage("a destination is missing: e4cp IMAGE:PATH... DEST (or -l to list)");
        }
        match destination {
            Some(Place::Host(_)) if self.changes() => usage("an option is for copying into an image: ... IMAGE:PATH"),
            Some(Place::Host(path)) if path == "-" => Ok(Task::Tar(sources(places)?)),
            Some(Place::Host(path)) => Ok(Task::Out(sources(places)?, path.into())),
            Some(Place::Image(_)) if places.iter().any(|p| matches!(p, Place::Image(_))) => {
                usage("copying from image to image is not possible: go through the host")
            }
            Some(Place::Image(to)) => Ok(Task::In(places.into_iter().filter_map(|p| self.input(p)).collect(), to)),
            None => usage("nothing to copy"),
        }
    }

    /// Whether something that only copying in knows was asked for.
    const fn changes(&self) -> bool {
        let what = self.owner.is_some() || self.mode.is_some() || self.mtime.is_some();
        let how = self.mkdir || self.no_clobber || self.sync || self.delete || self.untar || self.dry_run;
        what || how || self.chunked || self.io_path.is_some()
    }

    fn input(&self, place: Place) -> Option<Input> {
        match place {
            Place::Host(path) if self.untar || path == "-" => Some(Input::Tar(path.into())),
            Place::Host(path) => Some(Input::Host(path.into())),
            Place::Image(_) => None,
        }
    }

    /// How to copy in.
    pub(crate) fn copy_options(&self) -> CopyOptions {
        let (uid, gid) = self.owner.unwrap_or_default();
        CopyOptions {
            preserve: self.preserve(),
            uid,
            gid,
            mode: self.mode.clone(),
            mtime: self.mtime,
            keep: self.no_clobber,
            sync: self.sync,
            delete: self.delete,
        }
    }

    /// How content goes through the page cache, if it is to.
    pub(crate) fn through(&self) -> Option<Through> {
        let path = match self.io_path? {
            IoPath::Auto => PathChoice::Auto,
            IoPath::Iomap => PathChoice::Iomap,
            IoPath::BufferHead => PathChoice::BufferHead,
        };
        Some(Through { path, write_size: self.write_size.unwrap_or(1 << 20) })
    }

    /// What metadata is kept.
    const fn preserve(&self) -> Preserve {
        match (self.archive, self.preserve) {
            (true, _) => Preserve::ALL,
            (_, true) => Preserve::BASIC,
            _ => Preserve { mode: false, owner: false, times: false, xattrs: false, links: false },
        }
    }

    /// Threads.
    pub(crate) fn jobs(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.map_or_else(processors, usize::from)
    }

    /// Whether directories are gone into.
    pub(crate) const fn is_recursive(&self) -> bool {
        self.recursive || self.archive
    }

    /// How to copy, where `umask` is the process's.
    pub(crate) fn options(&self, umask: u32) -> Options {
        let preserve = self.preserve();
        Options { recursive: self.is_recursive(), preserve, jobs: self.jobs(), umask }
    }
}

fn usage<T>(text: &str) -> Result<T, Failure> {
    Err(Failure::Usage(text.to_owned()))
}

fn sources(places: Vec<Place>) -> Result<Vec<ImagePath>, Failure> {
    places
        .into_iter()
        .map(|p| match p {
            Place::Image(i) => Ok(i),
            Place::Host(h) => usage(&format!("{}: a path in an image is needed here: IMAGE:PATH", h.display())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn task(args: &[&str]) -> Result<Task, String> {
        let args = Args::try_parse_from([&["e4cp"], args].concat()).map_err(|e| e.to_string())?;
        args.task().map_err(|e| e.to_string())
    }

    fn at(image: &str, path: &str) -> ImagePath {
        ImagePath { image: image.into(), path: path.into() }
    }

    #[test]
    fn the_table_of_flags_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_last_operand_says_what_is_done() {
        assert_eq!(task(&["i:/a", "i:/b", "d"]), Ok(Task::Out(vec![at("i", "/a"), at("i", "/b")], "d".into())));
        assert_eq!(task(&["-a", "i:", "-"]), Ok(Task::Tar(vec![at("i", "/")])));
        assert_eq!(task(&["-lr", "i:/"]), Ok(Task::List(vec![at("i", "/")])));
        assert_eq!(task(&["-a", "i:/", "--discard"]), Ok(Task::Discard(vec![at("i", "/")])));
        assert_eq!(
            task(&["x", "-", "i:/"]),
            Ok(Task::In(vec![Input::Host("x".into()), Input::Tar("-".into())], at("i", "/")))
        );
        assert_eq!(task(&["--untar", "x", "i:/d"]), Ok(Task::In(vec![Input::Tar("x".into())], at("i", "/d"))));
        let script = |image: &str| Ok(Task::Script("s".into(), ImageSpec::parse(image)));
        assert_eq!(task(&["--script", "s", "i"]), script("i"));
        assert_eq!(task(&["--script", "s", "i@1M:"]), script("i@1M"));
        assert!(task(&["--script", "s", "i:/x"]).unwrap_err().contains("without a path"));
        assert!(task(&["--sync", "i:/x", "y"]).unwrap_err().contains("into an image"));
        assert!(task(&["i:/x", "j:/"]).unwrap_err().contains("image to image"));
        assert!(task(&["i:/x"]).unwrap_err().contains("destination"));
        assert!(task(&["x", "y"]).unwrap_err().contains("IMAGE:PATH"));
        assert!(task(&["-l", "x"]).unwrap_err().contains("IMAGE:PATH"));
    }
}
