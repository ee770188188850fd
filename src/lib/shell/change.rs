//! Commands that change the image. Most are commands of scripts ([`crate::batch::Command`]), from the current directory on.

use std::io::Write;

use super::args::{Args, number, number32};
use super::session::Session;
use super::table::{Command, Family, row};
use super::{Failure, Outcome};
use crate::batch::{Command as Edit, Report, Unwatched};
use crate::env::Timestamp;
use crate::error::Error;
use crate::format::inode::FileType;
use crate::namei::Change;
use crate::units::Ino;
use crate::volume::LastLink;

const FAMILY: Family = Family::Change;

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
    row("truncate", &[], "[-c] -s size path...", "Give files a size", (FAMILY, script)),
    row("mknod", &[], "[-m mode] path b|c|p [major minor]", "Make a device or a pipe", (FAMILY, script)),
    row("mkfifo", &[], "[-m mode] path", "Make a pipe", (FAMILY, script)),
    row(
        "setfattr",
        &[],
        "[-h] -n name [-v value] | -x name path...",
        "Set or remove an extended attribute",
        (FAMILY, script),
    ),
    row("ea_set", &[], "[-f host_file] file name [value]", "Set an extended attribute", (FAMILY, ea_set)),
    row("ea_rm", &[], "file name...", "Remove extended attributes", (FAMILY, ea_rm)),
    row("punch", &["punch_blocks"], "file first_block [last_block]", "Make a hole of a file's blocks", (FAMILY, punch)),
    row(
        "set_inode_field",
        &["sif"],
        "file field value",
        "Set mode, uid, gid, size, atime, mtime or projid of an inode",
        (FAMILY, set_field),
    ),
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
    command.for_each_path(&mut |path| match session.absolute(path) {
        Ok(all) => *path = all,
        Err(e) => failed = Some(e),
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

fn write(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 2, 2)?;
    let to = o.operand(1);
    session.edit()?;
    match session.resolve(to) {
        Ok(_) => return Err(Error::Exists { path: to.to_vec() }.into()),
        Err(Failure::Library(Error::NotFound { .. })) => {}
        Err(e) => return Err(e),
    }
    run(session, args, "put", [o.operand(0), to].into_iter())
}

fn unlink(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    run(session, args, "rm", [o.operand(0)].into_iter())
}

fn link(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 2, 2)?;
    run(session, args, "ln", [o.operand(0), o.operand(1)].into_iter())
}

fn symlink(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 2, 2)?;
    run(session, args, "symlink", [&b"--"[..], o.operand(1), o.operand(0)].into_iter())
}

fn ea_set(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("f:", 2, 3)?;
    let value = match o.value('f') {
        Some(file) if o.operands.len() == 2 => {
            let path = session.host_path(file);
            std::fs::read(&path).map_err(|e| Error::host("read", &path, e))?
        }
        None if o.operands.len() == 3 => o.operand(2).to_vec(),
        _ => return Err(args.usage()),
    };
    let ino = session.resolve(o.operand(0))?;
    let name = o.operand(1);
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
    let ino = session.resolve_link(o.operand(0), LastLink::Follow)?;
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
    let long = if text.len() == 14 && text.bytes().all(|b| b.is_ascii_digit()) {
        let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
        let (date, time) = ((part(0, 4), part(4, 6), part(6, 8)), (part(8, 10), part(10, 12), part(12, 14)));
        format!("{}-{}-{}T{}:{}:{}", date.0, date.1, date.2, time.0, time.1, time.2)
    } else {
        text.to_owned()
    };
    Timestamp::parse(&long).ok_or_else(|| Failure::Usage(format!("{text}: not a time")))
}

fn set_field(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 3, 3)?;
    let (ino, inode) = session.inode(o.operand(0))?;
    let value = o.operand(2);
    let mut change = Change::default();
    match o.operand(1) {
        b"mode" => {
            let mode = number32(value, "mode")?;
            let kind = inode.file_type().map_or(0, FileType::mode_bits);
            let same_type = mode & 0o17_0000 == 0 || mode & 0o17_0000 == u32::from(kind);
            if !same_type || mode > 0xffff {
                return Err(Failure::Usage("mode: the type of an inode cannot be changed".into()));
            }
            change.permissions = Some((mode & 0o7777) as u16);
        }
        b"uid" => change.uid = Some(number32(value, "user")?),
        b"gid" => change.gid = Some(number32(value, "group")?),
        b"projid" => change.project = Some(number32(value, "project")?),
        b"atime" => change.atime = Some(time(value)?),
        b"mtime" => change.mtime = Some(time(value)?),
        b"size" => {
            let size = number(value, "size")?;
            return resize(session, ino, size);
        }
        other => {
            let name = String::from_utf8_lossy(other).into_owned();
            return Err(Failure::Usage(format!("{name}: not one of mode, uid, gid, projid, size, atime, mtime")));
        }
    }
    Ok(session.edit()?.run(|n| n.change(ino, &change))?)
}

fn resize(session: &mut Session, ino: Ino, size: u64) -> Outcome {
    Ok(session.edit()?.run_on_content(ino, |n| n.truncate(ino, size))?)
}
