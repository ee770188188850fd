//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use ext4kit::cli::Failure;
use ext4kit::extract::{Options, Preserve};

use crate::place::{ImagePath, Place};

/// Copy files out of an ext2, ext3 or ext4 image, without root and without mounting it.
///
/// IMAGE:PATH names a path in an image; IMAGE may be IMAGE@OFFSET, the filesystem that begins OFFSET bytes into a disk
/// image (suffixes s, K, M, G). A destination that is a directory gets the copies under their own names; `IMAGE:/` and
/// `IMAGE:/dir/.` stand for the content. The destination `-` writes a tar to standard output, with everything.
///
/// Copies are made by name below DEST and never through a symbolic link that is there; a file in the way is replaced.
/// What cannot be copied (damaged, or a name that no host takes) is told and left out, the rest is copied, and the exit
/// code is 1. Owners and attributes that the host does not allow are told once, and the exit code stays 0. An empty
/// lost+found of the root is left out.
#[derive(Parser, Debug)]
#[command(override_usage = "e4cp [-a | -rp] IMAGE:PATH... DEST\n       e4cp IMAGE:PATH... -\n       \
                            e4cp -l [-r] [--json] IMAGE:PATH...\n       e4cp --discard IMAGE:PATH...")]
pub(crate) struct Args {
    /// What to copy, and where to: IMAGE:PATH..., then a file or directory of the host, or `-`.
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
}

impl Args {
    /// Make out what is asked for.
    ///
    /// # Errors
    /// [`Failure::Usage`] where the operands do not say, or it cannot be done yet.
    pub(crate) fn task(&self) -> Result<Task, Failure> {
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
            Some(Place::Host(path)) if path == "-" => Ok(Task::Tar(sources(places)?)),
            Some(Place::Host(path)) => Ok(Task::Out(sources(places)?, path.into())),
            Some(Place::Image(_)) if places.iter().any(|p| matches!(p, Place::Image(_))) => {
                usage("copying from image to image is not possible: go through the host")
            }
            Some(Place::Image(to)) => usage(&format!(
                "{}: copying into an image is not possible with this version, only out of one",
                to.image.display()
            )),
            None => usage("nothing to copy"),
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
        let preserve = if self.archive {
            Preserve::ALL
        } else if self.preserve {
            Preserve::BASIC
        } else {
            Preserve::default()
        };
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
        assert!(task(&["x", "i:/"]).unwrap_err().contains("not possible with this version"));
        assert!(task(&["i:/x", "j:/"]).unwrap_err().contains("image to image"));
        assert!(task(&["i:/x"]).unwrap_err().contains("destination"));
        assert!(task(&["x", "y"]).unwrap_err().contains("IMAGE:PATH"));
        assert!(task(&["-l", "x"]).unwrap_err().contains("IMAGE:PATH"));
    }
}
