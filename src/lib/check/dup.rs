//! Passes 1B and 1D: who claims the blocks that are claimed more than once.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::clerk::Clerk;
use super::inode::{Check, Harvest};
use super::pass1::{Found, Piece, bits, each_slot, pieces};
use super::problem::{Pass, Problem as P};
use super::report::Finding;
use super::state::{Ctx, Deaf, note};
use super::view::View;
use crate::error::Result;
use crate::format::features::RoCompat;
use crate::units::{Fsblk, Ino};

/// Most pairs of files that are told apart when counting who shares with whom.
const MAX_PAIRS: usize = 1 << 20;

/// An inode that claims shared clusters: which.
#[derive(Debug)]
pub(super) struct Sharer {
    pub(super) ino: Ino,
    pub(super) clusters: Vec<std::ops::Range<u64>>,
    metadata: bool,
}

pub(super) fn run(ctx: &Ctx<'_>, found: &mut Found, clerk: &mut Clerk<'_>) -> Result<()> {
    if ctx.dup.is_empty() {
        return Ok(());
    }
    clerk.pass(Pass::P1B);
    let lists: Vec<Vec<Sharer>> = ctx.pool.install(|| {
        pieces(ctx)
            .par_iter()
            .map_init(<(Harvest, Vec<u8>)>::default, |(h, buf), piece| {
                ctx.progress.check()?;
                Ok(sharers(ctx, *piece, h, buf))
            })
            .collect::<Result<_>>()
    })?;
    let all: Vec<Sharer> = lists.into_iter().flatten().collect();
    for s in &all {
        for r in &s.clusters {
            let (first, last) = (ctx.bit_block(r.start), Fsblk(ctx.bit_block(r.end).0 - 1));
            let f = Finding::inode(if r.end - r.start == 1 { P::DupBlock } else { P::DupRange }, s.ino).block(first);
            clerk.report(if r.end - r.start == 1 { f } else { f.block2(last) });
        }
    }
    clerk.pass(Pass::P1D);
    let others = count_others(&all);
    let refused = lacks_room(ctx, &all);
    for (s, n) in all.iter().zip(others) {
        let clusters: u64 = s.clusters.iter().map(|r| r.end - r.start).sum();
        let blocks = clusters << ctx.geo.cluster_bits;
        let finding = Finding::inode(P::DupFile, s.ino).num(blocks).want(n);
        if refused {
            clerk.refuse(&finding);
        }
        clerk.report(finding);
        if s.metadata {
            clerk.report(Finding::inode(P::ShareMetadata, s.ino));
        }
    }
    found.sharers = all;
    Ok(())
}

/// Whether blocks that are shared on purpose stay shared: there is no room for all copies. Sharing is no damage.
fn lacks_room(ctx: &Ctx<'_>, all: &[Sharer]) -> bool {
    if !ctx.geo.features.ro_compat.contains(RoCompat::SHARED_BLOCKS) {
        return false;
    }
    let mut owners: BTreeMap<u64, u64> = BTreeMap::new();
    for c in all.iter().flat_map(|s| s.clusters.iter().flat_map(Clone::clone)) {
        *owners.entry(c).or_default() += 1;
    }
    let copies: u64 = owners.values().map(|n| n - 1).sum();
    let used: u64 = ctx.found.runs(0, ctx.geo.clusters_count()).iter().map(|r| r.end - r.start).sum();
    used.saturating_add(copies) > ctx.geo.clusters_count()
}

fn sharers(ctx: &Ctx<'_>, piece: Piece, h: &mut Harvest, buf: &mut Vec<u8>) -> Vec<Sharer> {
    let mut out = Vec::new();
    // A table that cannot be read was reported by pass 1.
    let _ = each_slot(ctx, piece, buf, |ino, _, slot| {
        let n = ctx.note(ino);
        if n & note::USED == 0 || n & note::BAD_BLOCK != 0 || ino == Ino::BAD {
            return;
        }
        let Some(v) = View::new(ino, slot) else { return };
        let _ = Check { ctx, judge: &mut Deaf, v: &v, out: h }.run_if(false);
        let mut clusters = Vec::new();
        let mut metadata = false;
        let ea = h.attrs.block.map(|b| (b.0, 1));
        for (at, len) in h.claims.ranges.iter().copied().chain(h.claims.misplaced.iter().copied()).chain(ea) {
            let (from, to) = bits(ctx, at, len);
            clusters.extend(ctx.dup.runs(from, to));
            metadata |= ctx.meta.any(at, at + len);
        }
        if !clusters.is_empty() {
            clusters.sort_unstable_by_key(|r| r.start);
            out.push(Sharer { ino, clusters, metadata });
        }
    });
    out
}

/// For each of them, with how many of the others it shares.
fn count_others(all: &[Sharer]) -> Vec<u64> {
    let mut ranges: Vec<(u64, u64, usize)> =
        all.iter().enumerate().flat_map(|(i, s)| s.clusters.iter().map(move |r| (r.start, r.end, i))).collect();
    ranges.sort_unstable();
    let mut pairs = BTreeSet::new();
    for (n, &(_, end, a)) in ranges.iter().enumerate() {
        for &(start, _, b) in ranges.iter().skip(n + 1) {
            if start >= end || pairs.len() >= MAX_PAIRS {
                break;
            }
            if a != b {
                pairs.insert((a.min(b), a.max(b)));
            }
        }
    }
    let mut counts = vec![0; all.len()];
    for (a, b) in pairs {
        for i in [a, b] {
            if let Some(c) = counts.get_mut(i) {
                *c += 1;
            }
        }
    }
    counts
}
