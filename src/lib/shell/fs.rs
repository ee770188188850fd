//! Commands about the filesystem as a whole.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;

use super::args::{Args, number, number32};
use super::session::Session;
use super::table::{Command, Family};
use super::{Failure, Outcome};
use crate::format::quota::QuotaKind;
use crate::inspect::{
    FeaturesView, Format, FreeSpaceView, GroupsView, MmpView, Page, QuotaView, SuperblockView, View, show,
};
use crate::units::Fsblk;

const FAMILY: Family = Family::Filesystem;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "open",
        aliases: &["open_filesys"],
        args: "[-cn] [-b blocksize] [-s superblock] image[@offset]",
        help: "Open a filesystem",
        family: FAMILY,
        run: open,
    },
    Command {
        name: "close",
        aliases: &["close_filesys"],
        args: "[-a]",
        help: "Close the filesystem (-a: after bringing all backups of superblock and descriptors up to date)",
        family: FAMILY,
        run: close,
    },
    Command {
        name: "show_super_stats",
        aliases: &["stats"],
        args: "[-h]",
        help: "Show the superblock and the groups (-h: the superblock only)",
        family: FAMILY,
        run: stats,
    },
    Command {
        name: "groups",
        aliases: &[],
        args: "",
        help: "Show the groups with their free blocks and inodes",
        family: FAMILY,
        run: groups,
    },
    Command {
        name: "supported_features",
        aliases: &[],
        args: "[feature]",
        help: "Show the features that this program knows, or whether it knows one",
        family: FAMILY,
        run: supported_features,
    },
    Command {
        name: "freefrag",
        aliases: &["e2freefrag"],
        args: "[-c chunk_kb]",
        help: "Show free space by the size of its pieces",
        family: FAMILY,
        run: freefrag,
    },
    Command {
        name: "dump_mmp",
        aliases: &[],
        args: "[block]",
        help: "Show the multiple-mount protection block",
        family: FAMILY,
        run: dump_mmp,
    },
    Command {
        name: "list_quota",
        aliases: &["lq"],
        args: "user|group|project",
        help: "Show usage and limits of all ids",
        family: FAMILY,
        run: list_quota,
    },
    Command {
        name: "get_quota",
        aliases: &["gq"],
        args: "user|group|project id",
        help: "Show usage and limits of one id",
        family: FAMILY,
        run: get_quota,
    },
    Command {
        name: "params",
        aliases: &["show_debugfs_params"],
        args: "",
        help: "Show what is open, and how",
        family: FAMILY,
        run: params,
    },
];

fn open(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("cnwefiDb:s:d:z:", 1, 1)?;
    for refused in ['w', 'i', 'D'] {
        if o.has(refused) {
            return Err(Failure::Usage(format!("open -{refused} is not supported")));
        }
    }
    if session.image().is_some() {
        return Err(Failure::Usage("a filesystem is open already: close it first".into()));
    }
    let mut options = session.settings().open;
    if o.has('c') {
        options.verify_groups = false;
        options.allow_truncated = true;
    }
    if o.has('n') {
        options.verify_checksums = false;
    }
    if let Some(size) = o.value('b') {
        options.block_size = Some(number32(size, "block size")?);
    }
    if let Some(block) = o.value('s') {
        options.superblock = Some(Fsblk(number(block, "block number")?));
    }
    let seen = session.open_with(OsStr::from_bytes(o.operand(0)), &options)?;
    if let Some(seen) = seen.filter(|_| session.settings().format != Format::Json) {
        writeln!(out, "{seen}")?;
    }
    Ok(())
}

fn close(session: &mut Session, args: &Args<'_>, _out: &mut dyn Write) -> Outcome {
    let o = args.options("a", 0, 0)?;
    if o.has('a') {
        write_backups(session)?;
        session.commit()?;
    }
    session.close()
}

/// Bring the backups of superblock and group descriptors up to date.
fn write_backups(session: &mut Session) -> Outcome {
    let volume = session.edit()?.volume();
    let geo = volume.geometry();
    let mut copies = Vec::new();
    for group in geo.all_groups().skip(1) {
        let Some(at) = geo.super_block(group) else { continue };
        let mut bytes = volume.block(at)?.into_owned();
        let encoded = volume.superblock().backup(group).encode();
        bytes.iter_mut().zip(encoded).for_each(|(to, b)| *to = b);
        copies.push((at, bytes));
        for index in 0..geo.gdt_blocks {
            let (from, to) = (geo.gdt_block(Fsblk(0), index), geo.gdt_block(at, index));
            if from != to {
                copies.push((to, volume.block(from)?.into_owned()));
            }
        }
    }
    copies.sort_by_key(|(at, _)| *at);
    copies.dedup_by_key(|(at, _)| *at);
    let credits = u32::try_from(copies.len()).unwrap_or(u32::MAX);
    let edit = session.edit()?;
    Ok(edit.run_raw(credits, |_, store| copies.into_iter().try_for_each(|(at, bytes)| store.write(at, bytes.into())))?)
}

fn stats(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("h", 0, 0)?;
    let volume = session.volume()?;
    session.show(SuperblockView::new(volume)?, out)?;
    if o.has('h') {
        return Ok(());
    }
    let short = session.settings().format == Format::PLAIN;
    session.show(GroupsView { short, ..GroupsView::new(volume, false)? }, out)
}

fn groups(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    session.show(GroupsView::new(session.volume()?, true)?, out)
}

fn supported_features(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 0, 1)?;
    let Some(word) = o.operands.first() else { return session.show(FeaturesView::known(), out) };
    let name = String::from_utf8_lossy(word);
    let view = FeaturesView::known_as(&name).ok_or_else(|| Failure::Usage(format!("{name}: not a known feature")))?;
    session.show(view, out)
}

fn freefrag(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("c:", 0, 0)?;
    let chunk = o.value('c').map(|c| number(c, "chunk size")).transpose()?;
    let view = FreeSpaceView::new(session.volume()?, chunk.map(|kib| kib.saturating_mul(1024)))?;
    session.show(FreeSpaceView { device: session.image().map(ToString::to_string), ..view }, out)
}

fn dump_mmp(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 0, 1)?;
    let block = o.operands.first().map(|w| number(w, "block number").map(Fsblk)).transpose()?;
    session.show(MmpView::new(session.volume()?, block)?, out)
}

/// `user`, `group` or `project`, or the start of one, or 0 to 2.
fn quota_kind(word: &[u8]) -> Outcome<QuotaKind> {
    let kinds = [("user", QuotaKind::User), ("group", QuotaKind::Group), ("project", QuotaKind::Project)];
    let by_name = kinds.iter().find(|(name, _)| !word.is_empty() && name.as_bytes().starts_with(word));
    let found = by_name.or_else(|| kinds.get(number(word, "quota type").ok()? as usize));
    let bad = || Failure::Usage(format!("{}: not a quota type (user, group, project)", String::from_utf8_lossy(word)));
    found.map(|(_, kind)| *kind).ok_or_else(bad)
}

fn list_quota(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    session.show(QuotaView::new(session.volume()?, quota_kind(o.operand(0))?, None)?, out)
}

fn get_quota(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 2, 2)?;
    let id = number32(o.operand(1), "id")?;
    session.show(QuotaView::new(session.volume()?, quota_kind(o.operand(0))?, Some(id))?, out)
}

/// What is open.
#[derive(Debug, Serialize)]
struct ParamsView {
    image: Option<String>,
    read_only: bool,
    checksums_compared: bool,
}

impl View for ParamsView {
    const SCHEMA: &'static str = "params/1";

    fn text(&self, page: &mut Page<'_>) -> std::io::Result<()> {
        page.pair("Open mode", if self.read_only { "read-only" } else { "read-write" })?;
        if page.is_terminal() {
            page.pair("Checksums", if self.checksums_compared { "compared" } else { "not compared" })?;
        }
        page.pair("Filesystem in use", self.image.as_deref().unwrap_or("--none--"))
    }
}

fn params(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    let volume = session.volume().ok();
    let view = ParamsView {
        image: session.image().map(ToString::to_string),
        read_only: !session.is_writable(),
        checksums_compared: volume.is_none_or(crate::volume::Volume::verifies_checksums),
    };
    Ok(show(&view, session.settings().format, out)?)
}
