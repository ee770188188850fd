//! Walking along the extents of one inode, and changing them: debugfs's commands after `extent_open`.
//!
//! The walk goes over the entries of the tree: an entry that leads to a node comes before what is below it and once more
//! behind it. What is changed are mappings: the tree around them is kept as it must be (nodes are split and keys follow),
//! while the bitmaps and what blocks hold stay as they are.

use std::io::Write;

use serde::Serialize;

use super::args::{Args, number, number32};
use super::session::Session;
use super::table::{Command, Family, row};
use super::{Failure, Outcome};
use crate::format::extent::{ENTRY_SIZE, Extent, MAX_UNWRITTEN_LEN, MAX_WRITTEN_LEN, Node};
use crate::inspect::{ExtentRow, ExtentsFilter, ExtentsView, Page, View};
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::edit::Edit;
use crate::volume::{MapKind, Owner};

const FAMILY: Family = Family::Extents;
/// Blocks that a change of one extent dirties at most.
const CREDITS: u32 = 64;

pub(super) const COMMANDS: &[Command] = &[
    row("extent_open", &["eo"], "file", "Open an inode to walk along its extents", (FAMILY, open)),
    row("extent_close", &["ec"], "", "Close it", (FAMILY, close)),
    row("current_node", &["current"], "", "Show the extent where the walk is", (FAMILY, go)),
    row("root_node", &["root"], "", "Go to the first entry of the root", (FAMILY, go)),
    row("last_leaf", &[], "", "Go to the last extent", (FAMILY, go)),
    row("first_sib", &[], "", "Go to the first entry of this node", (FAMILY, go)),
    row("last_sib", &[], "", "Go to the last entry of this node", (FAMILY, go)),
    row("next_sib", &["ns"], "", "Go to the next entry of this node", (FAMILY, go)),
    row("prev_sib", &["ps"], "", "Go to the previous entry of this node", (FAMILY, go)),
    row("next_leaf", &[], "", "Go to the next extent", (FAMILY, go)),
    row("prev_leaf", &[], "", "Go to the previous extent", (FAMILY, go)),
    row("next", &["n"], "", "Go on", (FAMILY, go)),
    row("prev", &["p"], "", "Go back", (FAMILY, go)),
    row("up", &["u"], "", "Go to the entry that leads to this node", (FAMILY, go)),
    row("down", &["d"], "", "Go to the first entry of the node that this one leads to", (FAMILY, go)),
    row("goto_block", &["goto"], "logical_block [level]", "Go to the extent of a logical block", (FAMILY, goto)),
    row("info", &[], "", "Show where the walk is, and what the tree may hold", (FAMILY, info)),
    row("print_all", &["all"], "", "Walk along all of it", (FAMILY, all)),
    row("delete_node", &["delete"], "", "Unmap this extent; its blocks are not freed", (FAMILY, delete)),
    row(
        "insert_node",
        &["insert"],
        "[--after] [--uninit] logical_block length block",
        "Map blocks where there is a hole",
        (FAMILY, insert),
    ),
    row(
        "replace_node",
        &["replace"],
        "[--uninit] logical_block length block",
        "Map other blocks in place of this extent",
        (FAMILY, replace),
    ),
    row(
        "set_bmap",
        &[],
        "[--uninit] logical_block block",
        "Map one logical block to a block (0: to none)",
        (FAMILY, set_bmap),
    ),
    row("split_node", &["split"], "", "Nothing to do: nodes are split where they are full", (FAMILY, kept)),
    row("fix_parents", &["fixp"], "", "Nothing to do: keys of nodes follow every change", (FAMILY, kept)),
];

/// An inode with a place in its extents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    ino: Ino,
    /// The entry where the walk is; `None` before it has begun.
    at: Option<usize>,
}

impl Cursor {
    /// The inode.
    pub(super) const fn ino(&self) -> Ino {
        self.ino
    }
}

/// An entry on the way.
#[derive(Clone, Debug, Serialize)]
struct Visit {
    #[serde(flatten)]
    row: ExtentRow,
    /// The entry leads to a node, and all below that has been seen.
    second: bool,
    /// Which entry leads to its node.
    #[serde(skip)]
    parent: Option<usize>,
}

impl Visit {
    fn text(&self, page: &mut Page<'_>) -> std::io::Result<()> {
        let r = &self.row;
        let last = u64::from(r.lblk.0).saturating_add(r.len).saturating_sub(1);
        write!(page, "extent: lblk {}--{last}, len {}, pblk {}, flags: ", r.lblk, r.len, r.pblk)?;
        let flags = [(!r.index, "LEAF "), (r.unwritten, "UNINIT "), (self.second, "2ND_VISIT ")];
        let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        writeln!(page, "{}", if flags.is_empty() { "(none)" } else { &flags })
    }
}

/// Entries on the way.
#[derive(Debug, Serialize)]
struct WalkView {
    ino: Ino,
    entries: Vec<Visit>,
}

impl View for WalkView {
    const SCHEMA: &'static str = "extent-walk/1";

    fn text(&self, page: &mut Page<'_>) -> std::io::Result<()> {
        self.entries.iter().try_for_each(|e| e.text(page))
    }
}

/// The whole way.
fn walk(session: &Session, ino: Ino) -> Outcome<Vec<Visit>> {
    let volume = session.volume()?;
    let inode = volume.raw_inode(ino)?;
    let view = ExtentsView::new(volume, Owner { ino, inode: &inode }, ExtentsFilter::default())?;
    let mut visits: Vec<Visit> = Vec::new();
    // Entries that lead to the node where the walk is.
    let mut open: Vec<usize> = Vec::new();
    let leave = |visits: &mut Vec<Visit>, at: usize| {
        if let Some(v) = visits.get(at).cloned() {
            visits.push(Visit { second: true, ..v });
        }
    };
    for row in view.rows {
        while open.len() > usize::from(row.level) {
            if let Some(at) = open.pop() {
                leave(&mut visits, at);
            }
        }
        let index = row.index;
        visits.push(Visit { row, second: false, parent: open.last().copied() });
        if index {
            open.push(visits.len().saturating_sub(1));
        }
    }
    while let Some(at) = open.pop() {
        leave(&mut visits, at);
    }
    Ok(visits)
}

fn cursor(session: &mut Session) -> Outcome<Cursor> {
    let none = || Failure::Usage("no inode is open (extent_open opens one)".into());
    (*session.extents()).ok_or_else(none)
}

fn open(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let (ino, inode) = session.inode(o.operand(0))?;
    if session.volume()?.map_kind(&inode) != MapKind::Extents {
        return Err(Failure::Usage(format!("inode {ino} is not mapped by extents")));
    }
    *session.extents() = Some(Cursor { ino, at: None });
    Ok(())
}

fn close(session: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    cursor(session)?;
    *session.extents() = None;
    Ok(())
}

/// Show one entry and stay there.
fn stay(session: &mut Session, visits: &[Visit], at: usize, out: &mut dyn Write) -> Outcome {
    let Cursor { ino, .. } = cursor(session)?;
    let entry = visits.get(at).ok_or_else(|| Failure::Usage(format!("inode {ino} has no extents")))?;
    *session.extents() = Some(Cursor { ino, at: Some(at) });
    session.show(WalkView { ino, entries: vec![entry.clone()] }, out)
}

/// Where a step leads to.
fn step(visits: &[Visit], at: usize, name: &str) -> Option<usize> {
    let here = visits.get(at)?;
    let same_node = |v: &Visit| v.parent == here.parent && v.row.level == here.row.level && !v.second;
    let find_on =
        |f: &dyn Fn(&Visit) -> bool| (at.saturating_add(1)..visits.len()).find(|i| visits.get(*i).is_some_and(f));
    let find_back = |f: &dyn Fn(&Visit) -> bool| (0..at).rev().find(|i| visits.get(*i).is_some_and(f));
    let leaf = |v: &Visit| !v.row.index;
    // Of an entry that is seen the second time, the first one counts.
    let first_visit = if here.second { visits.iter().position(|v| v.row == here.row)? } else { at };
    match name {
        "current_node" => Some(at),
        "root_node" => Some(0),
        "last_leaf" => visits.iter().rposition(leaf),
        "first_sib" => visits.iter().position(same_node),
        "last_sib" => visits.iter().rposition(same_node),
        "next_sib" => find_on(&same_node),
        "prev_sib" => (0..first_visit).rev().find(|i| visits.get(*i).is_some_and(same_node)),
        "next_leaf" => find_on(&leaf),
        "prev_leaf" => find_back(&leaf),
        "next" => at.checked_add(1).filter(|i| *i < visits.len()),
        "prev" => at.checked_sub(1),
        "up" => here.parent,
        "down" => visits.get(at.checked_add(1)?).filter(|v| v.parent == Some(at)).and(at.checked_add(1)),
        _ => None,
    }
}

fn go(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    let Cursor { ino, at } = cursor(session)?;
    let visits = walk(session, ino)?;
    if visits.is_empty() {
        return Err(Failure::Usage(format!("inode {ino} has no extents")));
    }
    let name = args.command.name;
    let to = match at {
        None if name == "current_node" => return Err(nowhere()),
        // A walk begins at the root.
        None if name != "last_leaf" => Some(0),
        at => step(&visits, at.unwrap_or(0).min(visits.len().saturating_sub(1)), name),
    };
    let to = to.ok_or_else(|| Failure::Usage(format!("{name}: there is none")))?;
    stay(session, &visits, to, out)
}

/// The extent that maps a logical block, else the last one before it.
fn place_of(visits: &[Visit], lblk: u32) -> Option<usize> {
    let leaves = || visits.iter().enumerate().filter(|(_, v)| !v.row.index);
    leaves().rev().find(|(_, v)| v.row.lblk.0 <= lblk).or_else(|| leaves().next()).map(|(i, _)| i)
}

fn goto(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 2)?;
    let lblk = number32(o.operand(0), "block number")?;
    // Levels are counted from the leaves here.
    let above = o.operands.get(1).map_or(Ok(0), |w| number32(w, "level"))?;
    let Cursor { ino, .. } = cursor(session)?;
    let visits = walk(session, ino)?;
    let mut at = place_of(&visits, lblk);
    for _ in 0..above {
        at = at.and_then(|i| visits.get(i)?.parent);
    }
    let at = at.ok_or_else(|| Failure::Usage(format!("block {lblk}: no such entry")))?;
    stay(session, &visits, at, out)
}

fn nowhere() -> Failure {
    Failure::Usage("the walk has not begun (root_node begins it)".into())
}

/// Where the walk is.
#[derive(Debug, Serialize)]
struct PlaceView {
    ino: Ino,
    #[serde(skip)]
    extent: Visit,
    entry: usize,
    entries: usize,
    room: u16,
    room_bytes: usize,
    level: u16,
    depth: u16,
}

impl View for PlaceView {
    const SCHEMA: &'static str = "extent-place/1";

    fn text(&self, page: &mut Page<'_>) -> std::io::Result<()> {
        self.extent.text(page)?;
        write!(page, "Current handle location: {}/{} (max: {}, ", self.entry, self.entries, self.room)?;
        writeln!(page, "bytes {}), level {}/{}", self.room_bytes, self.level, self.depth)?;
        writeln!(page, "\tmax lblk: {}, max pblk: {}", u32::MAX, (1u64 << 48) - 1)?;
        writeln!(page, "\tmax_len: {MAX_WRITTEN_LEN}, max_uninit_len: {MAX_UNWRITTEN_LEN}")
    }
}

fn info(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    let Cursor { ino, at } = cursor(session)?;
    let visits = walk(session, ino)?;
    let volume = session.volume()?;
    let area = volume.raw_inode(ino)?.block_area();
    let root = Node::decode(&area)?;
    let extent = at.and_then(|at| visits.get(at)).cloned().ok_or_else(nowhere)?;
    let node = match extent.parent.and_then(|p| visits.get(p)) {
        Some(p) => Node::decode(&volume.block(p.row.pblk)?)?,
        None => root.clone(),
    };
    // Bytes of entries that there still is room for.
    let room_bytes = usize::from(node.max).saturating_sub(node.len()).saturating_mul(ENTRY_SIZE);
    let (entry, level) = (extent.row.entry, extent.row.level);
    let (entries, room, depth) = (node.len(), node.max, root.depth);
    session.show(PlaceView { ino, extent, entry, entries, room, room_bytes, level, depth }, out)
}

fn all(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    let Cursor { ino, .. } = cursor(session)?;
    let entries = walk(session, ino)?;
    *session.extents() = Some(Cursor { ino, at: entries.len().checked_sub(1) });
    session.show(WalkView { ino, entries }, out)
}

/// Change the mapping, go to `lblk` (or, where there is none, stay at the entry where the walk was), and show what is there.
fn change(
    session: &mut Session,
    lblk: Option<u32>,
    out: &mut dyn Write,
    change: impl FnOnce(&mut Edit<'_>, &mut crate::volume::edit::OpenInode) -> crate::error::Result<()>,
) -> Outcome {
    let Cursor { ino, at } = cursor(session)?;
    let before = walk(session, ino)?.into_iter().nth(at.unwrap_or(0)).map(|v| v.row);
    session.edit()?.run_raw(CREDITS, |fs, store| {
        let mut edit = fs.edit(store);
        let mut file = edit.open(ino)?;
        change(&mut edit, &mut file)?;
        edit.put(&mut file)
    })?;
    let visits = walk(session, ino)?;
    let same = |v: &Visit| before.as_ref().is_some_and(|b| (b.level, b.lblk) == (v.row.level, v.row.lblk));
    let to = match lblk {
        Some(lblk) => place_of(&visits, lblk),
        None => visits.iter().position(same).or_else(|| place_of(&visits, before.as_ref()?.lblk.0)),
    };
    *session.extents() = Some(Cursor { ino, at: to });
    match to {
        Some(to) => stay(session, &visits, to, out),
        None => Ok(()),
    }
}

/// The extent where the walk is.
fn here(session: &mut Session) -> Outcome<ExtentRow> {
    let Cursor { ino, at } = cursor(session)?;
    let here = walk(session, ino)?.into_iter().nth(at.ok_or_else(nowhere)?).map(|v| v.row);
    here.filter(|r| !r.index).ok_or_else(|| Failure::Usage("the walk is not at an extent (a leaf)".into()))
}

/// Options with two dashes, and numbers.
fn extent(session: &Session, args: &Args<'_>) -> Outcome<Extent> {
    let (flags, numbers): (Vec<&Vec<u8>>, Vec<&Vec<u8>>) = args.words.iter().partition(|w| w.starts_with(b"--"));
    if let Some(bad) = flags.iter().find(|f| !matches!(f.as_slice(), b"--after" | b"--uninit")) {
        return Err(Failure::Usage(format!("{}: --after or --uninit", String::from_utf8_lossy(bad))));
    }
    let unwritten = flags.iter().any(|f| f.as_slice() == b"--uninit");
    let [lblk, len, pblk] = numbers[..] else { return Err(args.usage()) };
    let (lblk, len) = (number32(lblk, "block number")?, number32(len, "length")?);
    let pblk = Fsblk(number(pblk, "block number")?);
    let most = if unwritten { MAX_UNWRITTEN_LEN } else { MAX_WRITTEN_LEN };
    if len == 0 || len > most.into() || lblk.checked_add(len).is_none() {
        return Err(Failure::Usage(format!("{len}: not a length of 1 to {most}")));
    }
    if !session.volume()?.geometry().has_range(pblk, len.into()) {
        return Err(Failure::Usage(format!("blocks {pblk} and on: not {len} blocks of this filesystem")));
    }
    Ok(Extent { lblk: Lblk(lblk), len, pblk, unwritten })
}

fn delete(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    session.edit()?;
    let row = here(session)?;
    let end = u64::from(row.lblk.0).saturating_add(row.len);
    // What comes behind it is the place then.
    let next = u32::try_from(end).unwrap_or(u32::MAX);
    let Cursor { ino, .. } = cursor(session)?;
    let next = walk(session, ino)?.into_iter().map(|v| v.row).find(|r| !r.index && r.lblk.0 >= next);
    let to = next.map_or(row.lblk.0, |r| r.lblk.0);
    change(session, Some(to), out, |edit, file| edit.remove_extents(file, row.lblk, end).map(|_| ()))
}

fn insert(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    session.edit()?;
    let new = extent(session, args)?;
    change(session, Some(new.lblk.0), out, |edit, file| edit.insert_extent(file, new))
}

fn replace(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    session.edit()?;
    let new = extent(session, args)?;
    let row = here(session)?;
    let end = u64::from(row.lblk.0).saturating_add(row.len);
    change(session, Some(new.lblk.0), out, |edit, file| {
        edit.remove_extents(file, row.lblk, end)?;
        edit.insert_extent(file, new)
    })
}

fn set_bmap(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let words: Vec<&[u8]> = args.words.iter().map(Vec::as_slice).collect();
    let (unwritten, words) = match words[..] {
        [b"--uninit", lblk, pblk] => (true, [lblk, pblk]),
        [lblk, pblk] => (false, [lblk, pblk]),
        _ => return Err(args.usage()),
    };
    session.edit()?;
    let [lblk, pblk] = words;
    let (lblk, pblk) = (Lblk(number32(lblk, "block number")?), Fsblk(number(pblk, "block number")?));
    if pblk.0 != 0 && !session.volume()?.geometry().has_range(pblk, 1) {
        return Err(Failure::Usage(format!("block {pblk} is not in this filesystem")));
    }
    change(session, None, out, |edit, file| {
        edit.unmap_block(file, lblk)?;
        if pblk.0 == 0 { Ok(()) } else { edit.insert_extent(file, Extent { lblk, len: 1, pblk, unwritten }) }
    })
}

fn kept(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    let Cursor { ino, at } = cursor(session)?;
    session.edit()?;
    let at = at.ok_or_else(nowhere)?;
    // debugfs shows where it is behind the one, and not behind the other.
    if args.command.name == "split_node" { stay(session, &walk(session, ino)?, at, out) } else { Ok(()) }
}
