//! Commands about directories and paths.

use std::io::Write;

use serde::Serialize;

use super::args::{Args, number32};
use super::session::Session;
use super::table::{Command, Family};
use super::{Failure, Outcome};
use crate::error::Error;
use crate::format::casefold;
use crate::format::dirhash::HashVersion;
use crate::inspect::{
    DirHashView, DirSearchView, DirView, Format, HtreeView, ListOptions, ListStyle, NamesView, Page, PathText, View,
};
use crate::units::Ino;
use crate::volume::Owner;

const FAMILY: Family = Family::Directory;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "ls",
        aliases: &["list_directory"],
        args: "[-c] [-d] [-l] [-p] [-r] [directory]",
        help: "List a directory (-d: deleted entries too, -l: long, -p: for programs, -c: block checksums)",
        family: FAMILY,
        run: ls,
    },
    Command {
        name: "cd",
        aliases: &["change_working_directory"],
        args: "directory",
        help: "Go to a directory",
        family: FAMILY,
        run: cd,
    },
    Command {
        name: "chroot",
        aliases: &["change_root_directory"],
        args: "directory",
        help: "Make a directory the root of paths",
        family: FAMILY,
        run: chroot,
    },
    Command {
        name: "pwd",
        aliases: &["print_working_directory"],
        args: "",
        help: "Show the current directory and the root",
        family: FAMILY,
        run: pwd,
    },
    Command {
        name: "ncheck",
        aliases: &[],
        args: "[-c] inode…",
        help: "Show the paths of inodes (-c: check the types that entries record)",
        family: FAMILY,
        run: ncheck,
    },
    Command {
        name: "dirsearch",
        aliases: &[],
        args: "directory name",
        help: "Search a directory for a name",
        family: FAMILY,
        run: dirsearch,
    },
    Command {
        name: "htree_dump",
        aliases: &["htree"],
        args: "directory",
        help: "Show the index of a hashed directory",
        family: FAMILY,
        run: htree,
    },
    Command {
        name: "dx_hash",
        aliases: &["hash"],
        args: "[-h algorithm] [-s seed] [-c] [-e utf8] name",
        help: "Hash a name (-c: case-insensitively)",
        family: FAMILY,
        run: dx_hash,
    },
];

fn ls(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("cdlpr", 0, 1)?;
    let spec: &[u8] = if o.operands.is_empty() { b"." } else { o.operand(0) };
    let ino = session.directory(spec)?;
    let volume = session.volume()?;
    let inode = volume.raw_inode(ino)?;
    let options = ListOptions {
        style: match (o.has('p'), o.has('l')) {
            (true, _) => ListStyle::Parse,
            (false, true) => ListStyle::Long,
            (false, false) => ListStyle::Short,
        },
        deleted: o.has('d'),
        checksums: o.has('c'),
        raw: o.has('r'),
        inodes: session.settings().format == Format::Json,
    };
    session.show(DirView::new(volume, Owner { ino, inode: &inode }, options)?, out)
}

fn cd(session: &mut Session, args: &Args<'_>, _out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let (root, _) = session.directories()?;
    let dir = session.directory(o.operand(0))?;
    session.set_directories(root, dir);
    Ok(())
}

fn chroot(session: &mut Session, args: &Args<'_>, _out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let dir = session.directory(o.operand(0))?;
    session.set_directories(dir, dir);
    Ok(())
}

/// A directory with its path.
#[derive(Debug, Serialize)]
struct Place {
    ino: Ino,
    #[serde(flatten)]
    path: PathText,
}

/// Where the session is.
#[derive(Debug, Serialize)]
struct PwdView {
    cwd: Place,
    root: Place,
}

impl View for PwdView {
    const SCHEMA: &'static str = "pwd/1";

    fn text(&self, page: &mut Page<'_>) -> std::io::Result<()> {
        for (name, place) in [("[pwd]", &self.cwd), ("[root]", &self.root)] {
            write!(page, "{name:<7} INODE: {:6}  PATH: ", place.ino.0)?;
            page.bytes(&place.path.0)?;
            writeln!(page)?;
        }
        Ok(())
    }
}

fn pwd(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    let (root, cwd) = session.directories()?;
    let place = |ino| -> Outcome<Place> { Ok(Place { ino, path: PathText(session.path_of(ino)?) }) };
    session.show(PwdView { cwd: place(cwd)?, root: place(root)? }, out)
}

fn ncheck(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("c", 1, usize::MAX)?;
    let volume = session.volume()?;
    let mut inodes = Vec::new();
    for word in &o.operands {
        let bare = word.strip_prefix(b"<").and_then(|w| w.strip_suffix(b">")).unwrap_or(word);
        let ino = Ino(number32(bare, "inode number")?);
        volume.geometry().inode_place(ino)?;
        inodes.push(ino);
    }
    session.show(NamesView::new(volume, &inodes, o.has('c'))?, out)
}

fn dirsearch(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 2, 2)?;
    let ino = session.directory(o.operand(0))?;
    let volume = session.volume()?;
    let inode = volume.raw_inode(ino)?;
    let view = DirSearchView::new(volume, Owner { ino, inode: &inode }, o.operand(1))?;
    let found = view.found.is_some();
    session.show(view, out)?;
    if found { Ok(()) } else { Err(Error::NotFound { path: o.operand(1).to_vec() }.into()) }
}

fn htree(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let ino = session.directory(o.operand(0))?;
    let volume = session.volume()?;
    let inode = volume.raw_inode(ino)?;
    session.show(HtreeView::new(volume, Owner { ino, inode: &inode })?, out)
}

/// The four words of a seed in UUID format.
fn seed(text: &[u8]) -> Option<[u32; 4]> {
    let uuid = uuid::Uuid::try_parse_ascii(text).ok()?;
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(uuid.as_bytes().as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    Some(words)
}

fn dx_hash(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("ch:s:e:", 1, 1)?;
    let bad = |what: &str, word: &[u8]| Failure::Usage(format!("{}: not a {what}", String::from_utf8_lossy(word)));
    let version = match o.value('h') {
        None => HashVersion::Legacy,
        Some(word) => (0..=5)
            .filter_map(HashVersion::from_code)
            .find(|v| v.name().as_bytes() == word || v.code().to_string().as_bytes() == word)
            .ok_or_else(|| bad("hash algorithm (legacy, half_md4, tea, or one of them with _unsigned)", word))?,
    };
    let seed = match o.value('s') {
        None => [0; 4],
        Some(word) => seed(word).ok_or_else(|| bad("seed (a UUID)", word))?,
    };
    if let Some(word) = o.value('e').filter(|e| casefold::encoding(&String::from_utf8_lossy(e)).is_none()) {
        return Err(bad("encoding (utf8)", word));
    }
    session.show(DirHashView::new(o.operand(0), version, seed, o.has('c'))?, out)
}
