//! Pass 2: every directory, in parallel; who is whose parent; how many names each inode has.

use rayon::prelude::*;

use super::clerk::Clerk;
use super::dirs::{DirCheck, Scratch};
use super::pass1::Found;
use super::problem::{Pass, Problem as P};
use super::report::Finding;
use super::state::{Ctx, Dir, Judge, Scout};
use super::view::View;
use crate::error::Result;
use crate::format::features::RoCompat;
use crate::progress::{Step, Unit};
use crate::units::Ino;

/// Directories that one worker takes at a time.
const BATCH: usize = 64;

/// What one worker found out about its directories.
#[derive(Default)]
struct Batch {
    suspects: Vec<usize>,
    /// Index of the directory, where its `..` leads.
    dotdots: Vec<(usize, Ino)>,
    /// Child and parent.
    children: Vec<(Ino, Ino)>,
    names: u64,
}

/// The place of a directory in the sorted list.
pub(super) fn find(dirs: &[Dir], ino: Ino) -> Option<usize> {
    dirs.binary_search_by_key(&ino, |d| d.ino).ok()
}

fn check<J: Judge>(
    ctx: &Ctx<'_>,
    judge: &mut J,
    ino: Ino,
    out: &mut Scratch,
    parent_of: &dyn Fn(Ino) -> Option<Ino>,
) -> bool {
    let Ok(slot) = ctx.vol.raw_inode(ino) else { return true };
    let Some(v) = View::new(ino, slot.as_bytes()) else { return true };
    DirCheck { ctx, judge, v: &v, out, parent_of }.run().is_ok()
}

fn scout(ctx: &Ctx<'_>, first: usize, dirs: &[Dir], out: &mut Scratch) -> Batch {
    let mut batch = Batch::default();
    for (i, d) in dirs.iter().enumerate() {
        if !check(ctx, &mut Scout, d.ino, out, &|_| None) {
            batch.suspects.push(first + i);
            continue;
        }
        count(ctx, &out.refs, 1);
        batch.names += out.refs.len() as u64;
        batch.dotdots.push((first + i, out.dotdot));
        batch.children.extend(out.children.iter().map(|c| (*c, d.ino)));
    }
    batch
}

fn count(ctx: &Ctx<'_>, refs: &[Ino], n: i32) {
    for r in refs {
        ctx.balance.add(r.0.into(), n);
    }
}

pub(super) fn run(ctx: &mut Ctx<'_>, found: &mut Found, clerk: &mut Clerk<'_>) -> Result<()> {
    clerk.pass(Pass::P2);
    let total = found.dirs.len() as u64;
    ctx.progress.begin(Step { name: "checking directories", unit: Unit::Files, total: Some(total) });
    let shared: &Ctx<'_> = ctx;
    let batches: Vec<Batch> = shared.pool.install(|| {
        found
            .dirs
            .par_chunks(BATCH)
            .enumerate()
            .map_init(Scratch::default, |out, (n, dirs)| {
                shared.progress.check()?;
                shared.progress.advance(dirs.len() as u64);
                Ok(scout(shared, n * BATCH, dirs, out))
            })
            .collect::<Result<_>>()
    })?;
    ctx.progress.end();
    let mut names = 0;
    let mut suspects = Vec::new();
    let mut children = Vec::new();
    for b in batches {
        suspects.extend(b.suspects);
        children.extend(b.children);
        names += b.names;
        for (i, to) in b.dotdots {
            if let Some(d) = found.dirs.get_mut(i) {
                d.dotdot = to;
            }
        }
    }
    let mut out = Scratch::default();
    names -= adopt(ctx, found, children, &mut suspects, &mut out);
    suspects.sort_unstable();
    suspects.dedup();
    for i in suspects {
        names += by_clerk(ctx, found, i, &mut out, clerk);
    }
    let tally = &ctx.summary.tally;
    // Each directory has two entries for itself and its parent, and each inode but the root one name.
    ctx.summary.extra_links = names.saturating_sub((2 * tally.directories + tally.named()).saturating_sub(1));
    if found.large_files && !ctx.geo.features.ro_compat.contains(RoCompat::LARGE_FILE) {
        clerk.report(Finding::fs(P::FeatureLargeFiles));
    }
    if (found.large_files || found.large_dirs) && ctx.sb.rev_level.get() == 0 {
        clerk.report(Finding::fs(P::FsRevLevel));
    }
    Ok(())
}

/// Note parents. Directories that name a child that another one names too become suspects: what they counted is taken
/// back. Returns how many names were taken back.
fn adopt(
    ctx: &Ctx<'_>,
    found: &mut Found,
    mut children: Vec<(Ino, Ino)>,
    suspects: &mut Vec<usize>,
    out: &mut Scratch,
) -> u64 {
    children.sort_unstable();
    let mut contested: Vec<Ino> = Vec::new();
    // A child that a suspect names too is only known when the clerk looks at the suspect.
    for group in children.chunk_by(|a, b| a.0 == b.0) {
        if group.len() > 1 {
            contested.extend(group.iter().map(|(_, parent)| *parent));
        }
    }
    contested.sort_unstable();
    contested.dedup();
    let mut taken = 0;
    for parent in &contested {
        if check(ctx, &mut Scout, *parent, out, &|_| None) {
            count(ctx, &out.refs, -1);
            taken += out.refs.len() as u64;
        }
        suspects.extend(find(&found.dirs, *parent));
    }
    for (child, parent) in children {
        if contested.binary_search(&parent).is_err()
            && let Some(i) = find(&found.dirs, child)
            && let Some(d) = found.dirs.get_mut(i)
        {
            d.parent = parent;
        }
    }
    taken
}

fn by_clerk(ctx: &Ctx<'_>, found: &mut Found, i: usize, out: &mut Scratch, clerk: &mut Clerk<'_>) -> u64 {
    let Some(ino) = found.dirs.get(i).map(|d| d.ino) else { return 0 };
    let dirs = &found.dirs;
    let parent_of =
        |c: Ino| find(dirs, c).and_then(|i| dirs.get(i)).map(|d| d.parent).filter(|p| p.0 != 0 && *p != ino);
    // A clerk does not stop.
    check(ctx, clerk, ino, out, &parent_of);
    count(ctx, &out.refs, 1);
    for c in std::mem::take(&mut out.children) {
        if let Some(d) = find(&found.dirs, c).and_then(|i| found.dirs.get_mut(i)) {
            d.parent = ino;
        }
    }
    if let Some(d) = found.dirs.get_mut(i) {
        d.dotdot = out.dotdot;
    }
    out.refs.len() as u64
}
