//! Pass 5: the bitmaps and counts on disk against what the passes before found.

use rayon::prelude::*;

use super::clerk::Clerk;
use super::problem::{Pass, Problem as P};
use super::report::Finding;
use super::state::{Ctx, note};
use crate::error::Result;
use crate::format::bitmap::{self, Kind};
use crate::format::group_desc::GroupDesc;
use crate::units::{Fsblk, Group, Ino};

/// What one group's look gives.
#[derive(Default)]
struct Group5 {
    findings: Vec<Finding>,
    free_clusters: u64,
    free_inodes: u64,
    used_clusters: u64,
    used_inodes: u64,
}

pub(super) fn run(ctx: &mut Ctx<'_>, clerk: &mut Clerk<'_>) -> Result<()> {
    clerk.pass(Pass::P5);
    let shared: &Ctx<'_> = ctx;
    let results: Vec<Group5> = shared.pool.install(|| {
        (0..shared.geo.groups)
            .into_par_iter()
            .with_min_len(8)
            .map(|g| {
                let mut out = Group5::default();
                blocks(shared, Group(g), &mut out)?;
                inodes(shared, Group(g), &mut out)?;
                Ok(out)
            })
            .collect::<Result<_>>()
    })?;
    let (mut clusters, mut inodes, mut used, mut used_inodes) = (0, 0, 0, 0);
    for r in results {
        for f in r.findings {
            clerk.report(f);
        }
        clusters += r.free_clusters;
        inodes += r.free_inodes;
        used += r.used_clusters;
        used_inodes += r.used_inodes;
    }
    let free_blocks = clusters << ctx.geo.cluster_bits;
    if ctx.sb.free_blocks_count() != free_blocks {
        clerk.report(Finding::fs(P::FreeBlocks).num(ctx.sb.free_blocks_count()).want(free_blocks));
    }
    if u64::from(ctx.sb.free_inodes_count.get()) != inodes {
        clerk.report(Finding::fs(P::FreeInodes).num(ctx.sb.free_inodes_count.get()).want(inodes));
    }
    ctx.summary.blocks_total = ctx.geo.blocks_count;
    ctx.summary.blocks_used = (used << ctx.geo.cluster_bits) + ctx.geo.first_data_block;
    ctx.summary.inodes_total = ctx.geo.inodes_count.into();
    ctx.summary.inodes_used = used_inodes;
    Ok(())
}

/// Read the block of a bitmap; `None` (and a finding) where it cannot be read.
fn read(ctx: &Ctx<'_>, group: Group, at: Fsblk, what: &'static str, out: &mut Group5) -> Option<Vec<u8>> {
    if ctx.geo.has_block(at)
        && let Ok(bytes) = ctx.vol.block(at)
    {
        return Some(bytes.into_owned());
    }
    out.findings.push(Finding::group(P::BitmapUnreadable, group).block(at).what(what));
    None
}

fn descriptor_is_right(ctx: &Ctx<'_>, group: Group, desc: &GroupDesc) -> Result<bool> {
    let want = desc.computed_checksum(ctx.csums, group, ctx.geo.desc_size, ctx.vol.raw_group(group)?);
    Ok(want.is_none_or(|w| w == desc.checksum.get()))
}

/// A bitmap that a doubtful descriptor calls uninitialised: it may be in use, so its end should be as it must be.
fn written_after_all(ctx: &Ctx<'_>, group: Group, at: Fsblk, bytes: usize, problem: P, out: &mut Group5) {
    let block = ctx.geo.has_block(at).then(|| ctx.vol.block(at).ok()).flatten();
    if block.is_some_and(|b| b.get(bytes..).unwrap_or_default().iter().any(|x| *x != 0xff)) {
        out.findings.push(Finding::group(problem, group));
    }
}

/// Call `f` for every run of bits that differ, with its range and whether `want` has them set.
fn differences(have: &[u8], want: &[u8], bits: usize, mut f: impl FnMut(std::ops::Range<usize>, bool)) {
    let mut run: Option<(std::ops::Range<usize>, bool)> = None;
    for (i, (h, w)) in have.iter().zip(want).enumerate() {
        if h == w {
            continue;
        }
        for bit in i * 8..((i + 1) * 8).min(bits) {
            let (h, w) = (h >> (bit % 8) & 1, w >> (bit % 8) & 1);
            if h == w {
                continue;
            }
            match &mut run {
                Some((r, set)) if r.end == bit && *set == (w == 1) => r.end += 1,
                _ => {
                    if let Some((r, set)) = run.take() {
                        f(r, set);
                    }
                    run = Some((bit..bit + 1, w == 1));
                }
            }
        }
    }
    if let Some((r, set)) = run {
        f(r, set);
    }
}

fn blocks(ctx: &Ctx<'_>, group: Group, out: &mut Group5) -> Result<()> {
    let geo = ctx.geo;
    let desc = ctx.vol.group(group)?;
    let per = geo.clusters_per_group;
    let bits = geo.clusters_in_group(group) as usize;
    let bytes = per.div_ceil(8) as usize;
    let first = u64::from(group.0) * u64::from(per);
    let mut found = vec![0u8; bytes];
    ctx.found.copy_bytes(first, &mut found);
    let uninit = !ctx.from_backup && ctx.vol.is_block_uninit(&desc);
    if uninit && !descriptor_is_right(ctx, group, &desc)? {
        written_after_all(ctx, group, desc.block_bitmap(), bytes, P::BlockBitmapPadding, out);
    }
    let disk = if uninit {
        if bits < per as usize {
            // The last group, cut short: a bitmap that was never written does not say where it ends.
            out.findings.push(Finding::group(P::BlockBitmapPadding, group));
        }
        ctx.vol.block_bitmap(group)?.into_owned()
    } else {
        let Some(block) = read(ctx, group, desc.block_bitmap(), "block bitmap", out) else { return Ok(()) };
        if bitmap::verify(Kind::Block, &block, per, ctx.csums, &desc, geo.desc_size).is_err() && !ctx.from_backup {
            out.findings.push(Finding::group(P::BlockBitmapCsum, group));
        }
        let tail = block.get(bytes..).unwrap_or_default();
        let after = (bits..per as usize).all(|b| bitmap::test(&block, b));
        if tail.iter().any(|b| *b != 0xff) || !after {
            out.findings.push(Finding::group(P::BlockBitmapPadding, group));
        }
        block
    };
    let disk = disk.get(..bytes).unwrap_or(&disk);
    let mut differs = false;
    differences(disk, &found, bits, |r, used| {
        differs = true;
        let start = ctx.bit_block(first + r.start as u64);
        let end = Fsblk((ctx.bit_block(first + r.end as u64).0 - 1).min(geo.blocks_count - 1));
        let single = r.len() == 1;
        let problem = match (used, single) {
            (true, true) => P::BlockUsed,
            (true, false) => P::BlockRangeUsed,
            (false, true) => P::BlockUnused,
            (false, false) => P::BlockRangeUnused,
        };
        let f = Finding::fs(problem).block(start);
        out.findings.push(if single { f } else { f.block2(end) });
    });
    if differs && uninit {
        out.findings.push(Finding::group(P::BlockUninit, group));
    }
    let free = bitmap::count_zeros(disk, 0, bits) as u64;
    out.free_clusters = free;
    out.used_clusters = bits as u64 - bitmap::count_zeros(&found, 0, bits) as u64;
    if u64::from(desc.free_clusters()) != free {
        out.findings.push(Finding::group(P::FreeBlocksGroup, group).num(desc.free_clusters()).want(free));
    }
    Ok(())
}

/// The inodes of a group that are in use, and the directories among them, as bitmaps.
pub(super) fn inodes_found(ctx: &Ctx<'_>, group: Group) -> (Vec<u8>, Vec<u8>) {
    let per = ctx.geo.inodes_per_group;
    let first = ctx.geo.group_first_ino(group);
    let mut found = vec![0u8; per.div_ceil(8) as usize];
    let mut dirs = found.clone();
    // Inodes beyond those that pass 1 looked at have no notes.
    for i in 0..ctx.inodes_to_scan(group).min(per) {
        let n = ctx.note(Ino(first.0 + i));
        if n & note::USED != 0 {
            bitmap::set(&mut found, i as usize);
            if n & note::TYPE == note::DIRECTORY {
                bitmap::set(&mut dirs, i as usize);
            }
        }
    }
    (found, dirs)
}

fn inodes(ctx: &Ctx<'_>, group: Group, out: &mut Group5) -> Result<()> {
    let geo = ctx.geo;
    let desc = ctx.vol.group(group)?;
    let per = geo.inodes_per_group;
    let bits = per as usize;
    let bytes = per.div_ceil(8) as usize;
    let first = geo.group_first_ino(group);
    let (found, dirs_found) = inodes_found(ctx, group);
    let uninit = !ctx.from_backup && ctx.vol.is_inode_uninit(&desc);
    if uninit && !descriptor_is_right(ctx, group, &desc)? {
        written_after_all(ctx, group, desc.inode_bitmap(), bytes, P::InodeBitmapPadding, out);
    }
    let disk = if uninit {
        vec![0; bytes]
    } else {
        let Some(block) = read(ctx, group, desc.inode_bitmap(), "inode bitmap", out) else { return Ok(()) };
        if bitmap::verify(Kind::Inode, &block, per, ctx.csums, &desc, geo.desc_size).is_err() && !ctx.from_backup {
            out.findings.push(Finding::group(P::InodeBitmapCsum, group));
        }
        if block.get(bytes..).unwrap_or_default().iter().any(|b| *b != 0xff) {
            out.findings.push(Finding::group(P::InodeBitmapPadding, group));
        }
        block
    };
    let disk = disk.get(..bytes).unwrap_or(&disk);
    let mut differs = false;
    differences(disk, &found, bits, |r, used| {
        differs = true;
        let single = r.len() == 1;
        let problem = match (used, single) {
            (true, true) => P::InodeUsed,
            (true, false) => P::InodeRangeUsed,
            (false, true) => P::InodeUnused,
            (false, false) => P::InodeRangeUnused,
        };
        let f = Finding::inode(problem, Ino(first.0 + r.start as u32));
        out.findings.push(if single { f } else { f.target(Ino(first.0 + r.end as u32 - 1)) });
    });
    if differs && uninit {
        out.findings.push(Finding::group(P::InodeUninit, group));
    }
    let free = bitmap::count_zeros(disk, 0, bits) as u64;
    let dirs = disk.iter().zip(&dirs_found).map(|(a, b)| u64::from((a & b).count_ones())).sum::<u64>();
    out.free_inodes = free;
    out.used_inodes = bitmap::count_ones(&found, 0, bits) as u64;
    if u64::from(desc.free_inodes()) != free {
        out.findings.push(Finding::group(P::FreeInodesGroup, group).num(desc.free_inodes()).want(free));
    }
    if u64::from(desc.used_dirs()) != dirs {
        out.findings.push(Finding::group(P::DirsGroup, group).num(desc.used_dirs()).want(dirs));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_runs() {
        let mut out = Vec::new();
        differences(&[0b0000_1111, 0xff], &[0b1100_0011, 0xfe], 16, |r, used| out.push((r, used)));
        assert_eq!(out, [(2..4, false), (6..8, true), (8..9, false)]);
        out.clear();
        differences(&[0xff], &[0], 3, |r, used| out.push((r, used)));
        assert_eq!(out, [(0..3, false)]);
    }
}
