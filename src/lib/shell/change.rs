//! Commands that change the image. Most are commands of scripts ([`crate::batch::Command`]), from the current directory on.

use std::io::Write;

use super::args::{Args, number, number32};
use super::place::numbered;
use super::session::Session;
use super::table::{Command, Family, row};
use super::{Failure, Outcome};
use crate::batch::{Command as Edit, Report, Unwatched};
use crate::env::Timestamp;
use crate::error::Error;
use crate::format::acl::Acl;
use crate::format::bitmap;
use crate::format::xattr::{INDEX_POSIX_ACL_ACCESS, INDEX_POSIX_ACL_DEFAULT, split_name};
use crate::inspect::{Format, NamesView};
use crate::namei::split;
use crate::units::Ino;

const FAMILY: Family = Family::Change;
/// Blocks that taking a name away dirties at most.
const CREDITS: u32 = 16;
/// Commands of scripts whose paths are of files that are there.
const OF_FILES: &[&str] = &["chmod", "chown", "chproj", "setfattr", "touch", "truncate"];

pub(super) const COMMANDS: &[Command] = &[
    row("begin", &[], "", "Begin a transaction: what comes is committed together, or not at all", (FAMILY, begin)),
    row("commit", &[], "", "Commit what was done since the last commit", (FAMILY, commit)),
    row("abort", &[], "", "Forget what was done since the last commit", (FAMILY, abort)),
    row(
        "put",
        &[],
        "[-rapn] [-o uid:gid] [-m mode] [-t time] host_file path",
        "Copy a file of the host, or (-r) a directory",
        (FAMILY, script),
    ),
    row("write", &[], "host_file file", "Copy a file of the host to a new file", (FAMILY, write)),
    row("untar", &[], "host_file directory", "Unpack a tar archive of the host", (FAMILY, script)),
    row("rm", &[], "[-rf] path...", "Remove names (-r: directories with all that is in them)", (FAMILY, script)),
    row("unlink", &[], "path", "Remove a name", (FAMILY, unlink)),
    row("rmdir", &[], "directory...", "Remove empty directories", (FAMILY, script)),
    row("mkdir", &[], "[-p] [-m mode] directory...", "Make directories (-p: with those on the way)", (FAMILY, script)),
    row("ln", &["link"], "path new_path", "Give a file one more name", (FAMILY, link)),
    row("symlink", &[], "path target", "Make a symbolic link", (FAMILY, symlink)),
    row("mv", &[], "[-n] path new_path", "Move a name (-n: replace nothing)", (FAMILY, script)),
    row("chmod", &[], "[-R] mode path...", "Change permissions", (FAMILY, script)),
    row("chown", &[], "[-Rh] uid[:gid] path...", "Change owner and group", (FAMILY, script)),
    row("chproj", &[], "[-R] project path...", "Change the project", (FAMILY, script)),
    row(
        "touch",
        &[],
        "[-c] [-d time] path...",
        "Set the times of files; make those that are missing (-c: do not)",
        (FAMILY, script),
    ),
    row(
        "truncate",
        &[],
        "[-c] -s size path... | file first_block [last_block]",
        "Give files a size; without -s the same as punch",
        (FAMILY, truncate),
    ),
    row(
        "mknod",
        &[],
        "[-m mode] path b|c|p [major minor]",
        "Make a device or a pipe (without -m one that nobody may use, as debugfs does)",
        (FAMILY, mknod),
    ),
    row("mkfifo", &[], "[-m mode] path", "Make a pipe", (FAMILY, script)),
    row(
        "setfattr",
        &[],
        "[-h] -n name [-v value] | -x name path...",
        "Set or remove an extended attribute",
        (FAMILY, script),
    ),
    row(
        "ea_set",
        &[],
        "[-f host_file] [-r] file name [value]",
        "Set an extended attribute (-r: an access control list as it is stored)",
        (FAMILY, ea_set),
    ),
    row("ea_rm", &[], "file name...", "Remove extended attributes", (FAMILY, ea_rm)),
    row("punch", &["punch_blocks"], "file first_block [last_block]", "Make a hole of a file's blocks", (FAMILY, punch)),
];

fn begin(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    session.begin()
}

fn commit(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    session.commit()
}

fn abort(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    session.abort()
}

/// A command of scripts.
fn script(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    run(session, args, args.command.name, args.words.iter().map(Vec::as_slice))
}

/// The command of scripts called `name` with these words.
fn run<'w>(session: &mut Session, args: &Args<'_>, name: &'w str, words: impl Iterator<Item = &'w [u8]>) -> Outcome {
    session.edit()?;
    let words = std::iter::once(name.as_bytes()).chain(words).map(<[u8]>::to_vec).collect();
    let mut command = Edit::from_words(words).map_err(|_| args.usage())?;
    let mut failed = None;
    command.for_each_path(&mut |path| {
        // What is there already may be named by its number.
        let all = match numbered(path).filter(|_| OF_FILES.contains(&name)) {
            Some(ino) => path_of_number(session, ino),
            None => session.absolute(path),
        };
        match all {
            Ok(all) => *path = all,
            Err(e) => failed = Some(e),
        }
    });
    if let Some(e) = failed {
        return Err(e);
    }
    command.for_host_path(&mut |path| {
        use std::os::unix::ffi::OsStrExt;
        *path = session.host_path(path.as_os_str().as_bytes());
    });
    Ok(command.run(session.edit()?, &mut Unwatched, &mut Report::default())?)
}

/// Some path of an inode, from the root of the filesystem.
fn path_of_number(session: &Session, ino: Ino) -> Outcome<Vec<u8>> {
    let volume = session.volume()?;
    volume.geometry().inode_place(ino)?;
    if ino == Ino::ROOT {
        return Ok(b"/".to_vec());
    }
    let names = NamesView::new(volume, &[ino], false)?.names;
    let path = names.into_iter().map(|n| n.path.0).find(|p| p.starts_with(b"/"));
    path.ok_or_else(|| Failure::Usage(format!("inode {ino} has no name")))
}

/// Tell which inode a new name has, as debugfs does.
fn allocated(session: &Session, path: &[u8], out: &mut dyn Write) -> Outcome {
    if session.settings().format == Format::Json {
        return Ok(());
    }
    let ino = session.resolve(path)?;
    Ok(writeln!(out, "Allocated inode: {ino}")?)
}

fn write(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 2, 2)?;
    let to = o.operand(1);
    session.edit()?;
    match session.resolve(to) {
        Ok(_) => return Err(Error::Exists { path: to.to_vec() }.into()),
        Err(Failure::Library(Error::NotFound { .. })) => {}
        Err(e) => return Err(e),
    }
    run(session, args, "put", [o.operand(0), to].into_iter())?;
    allocated(session, to, out)
}

fn mknod(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    if args.words.iter().any(|w| w.starts_with(b"-m")) {
        return script(session, args, out);
    }
    // Numbers as debugfs reads them.
    let mut words = vec![b"-m".to_vec(), b"0".to_vec()];
    for (at, word) in args.words.iter().enumerate() {
        words.push(if at < 2 { word.clone() } else { number(word, "device number")?.to_string().into_bytes() });
    }
    run(session, args, "mknod", words.iter().map(Vec::as_slice))?;
    allocated(session, args.words.first().map(Vec::as_slice).unwrap_or_default(), out)
}

fn truncate(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let sized = args.words.iter().any(|w| w.starts_with(b"-"));
    if sized { script(session, args, out) } else { punch(session, args, out) }
}

fn unlink(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    session.edit()?;
    if let Some((dir, name)) = nameless(session, o.operand(0))? {
        session.edit()?.run_raw(CREDITS, |fs, store| {
            let mut edit = fs.edit(store);
            let mut dir = edit.open(dir)?;
            edit.remove_entry(&mut dir, &name)?;
            edit.put(&mut dir)
        })?;
        return Ok(());
    }
    run(session, args, "rm", [o.operand(0)].into_iter())
}

/// Directory and name of a path that leads to an inode that is not in use (`kill_file` leaves such names).
fn nameless(session: &Session, spec: &[u8]) -> Outcome<Option<(Ino, Vec<u8>)>> {
    let ino = session.resolve(spec)?;
    let volume = session.volume()?;
    let (group, bit) = volume.geometry().inode_place(ino)?;
    if bitmap::test(&volume.inode_bitmap(group)?, bit as usize) {
        return Ok(None);
    }
    let (dir, name) = split(spec);
    let dir = if spec.contains(&b'/') { dir } else { b"." };
    Ok(Some((session.directory(dir)?, name.to_vec())))
}

fn link(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 2, 2)?;
    // By its number also what has no name.
    if numbered(o.operand(0)).is_some() {
        let ino = session.resolve(o.operand(0))?;
        let path = session.absolute(o.operand(1))?;
        session.edit()?.run(|n| {
            let (dir, name) = n.parent_of(&path)?;
            n.link(ino, dir, &name)
        })?;
        return Ok(());
    }
    run(session, args, "ln", [o.operand(0), o.operand(1)].into_iter())
}

fn symlink(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 2, 2)?;
    run(session, args, "symlink", [&b"--"[..], o.operand(1), o.operand(0)].into_iter())
}

fn ea_set(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("f:r", 2, 3)?;
    let mut value = match o.value('f') {
        Some(file) if o.operands.len() == 2 => {
            let path = session.host_path(file);
            std::fs::read(&path).map_err(|e| Error::host("read", &path, e))?
        }
        None if o.operands.len() == 3 => o.operand(2).to_vec(),
        _ => return Err(args.usage()),
    };
    let ino = session.resolve(o.operand(0))?;
    let name = o.operand(1);
    let is_list = |(index, _): &(u8, _)| matches!(*index, INDEX_POSIX_ACL_ACCESS | INDEX_POSIX_ACL_DEFAULT);
    if o.has('r') && split_name(name).as_ref().is_some_and(is_list) {
        value = Acl::decode_disk(&value)?.encode_host();
    }
    session.edit()?.run(|n| n.set_xattr(ino, name, Some(&value)))?;
    Ok(())
}

fn ea_rm(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 2, usize::MAX)?;
    let ino = session.resolve(o.operand(0))?;
    for name in o.operands.iter().skip(1) {
        if !session.edit()?.run(|n| n.set_xattr(ino, name, None))? {
            return Err(Error::NotFound { path: name.to_vec() }.into());
        }
    }
    Ok(())
}

fn punch(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 2, 3)?;
    let ino = session.resolve(o.operand(0))?;
    let first = number32(o.operand(1), "block number")?;
    let last = o.operands.get(2).map(|w| number32(w, "block number")).transpose()?.unwrap_or(u32::MAX);
    if last < first {
        return Err(args.usage());
    }
    session.edit()?.run_on_content(ino, |n| n.punch(ino, first.into(), u64::from(last) + 1))?;
    Ok(())
}

/// Seconds, or debugfs's `YYYYMMDDhhmmss`, or what [`Timestamp::parse`] reads.
pub(super) fn time(word: &[u8]) -> Outcome<Timestamp> {
    let text = str::from_utf8(word).unwrap_or_default();
    let text = text.strip_prefix('@').unwrap_or(text);
    let whole = format!("{text}000000");
    let text = if text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit()) { whole.as_str() } else { text };
    let long = if text.len() == 14 && text.bytes().all(|b| b.is_ascii_digit()) {
        let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
        let (date, time) = ((part(0, 4), part(4, 6), part(6, 8)), (part(8, 10), part(10, 12), part(12, 14)));
        format!("{}-{}-{}T{}:{}:{}", date.0, date.1, date.2, time.0, time.1, time.2)
    } else {
        text.to_owned()
    };
    Timestamp::parse(&long).ok_or_else(|| Failure::Usage(format!("{text}: not a time")))
}
