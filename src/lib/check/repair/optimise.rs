//! What is asked for beyond repairs, when all before it is right: directories written anew, as dense as they can be and indexed
//! (pass 3A); block maps turned into extent trees; extent trees made as low as they can be (pass 1E); shared blocks no longer
//! allowed. Blocks that nobody uses any more are freed by pass 5.

use super::super::clerk::Clerk;
use super::super::pass1::Found;
use super::super::shape::has_block_map;
use super::super::state::{Ctx, note};
use super::super::view::View;
use super::map::{extents_of, rebuild};
use super::work::{Work, raw};
use super::{Hands, rehash};
use crate::error::Result;
use crate::format::extent;
use crate::format::features::{Incompat, RoCompat};
use crate::format::inode::{BLOCK_LEN, InodeFlags};
use crate::units::Ino;
use crate::volume::OpenInode;

/// What is to be made better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Optimise {
    /// Directories: fewer blocks, and an index.
    pub directories: bool,
    /// Block maps become extent trees.
    pub bmap_to_extents: bool,
    /// Extent trees become as low as they can be.
    pub extents: bool,
    /// Files get copies of the blocks that they share, and the feature goes.
    pub unshare_blocks: bool,
}

impl Optimise {
    /// Whether anything is asked for.
    pub const fn any(self) -> bool {
        self.directories || self.bmap_to_extents || self.extents || self.unshare_blocks
    }
}

/// Do it; whether something was changed.
pub(super) fn run(hands: &Hands<'_>, ctx: &Ctx<'_>, found: &Found, clerk: &mut Clerk<'_>) -> Result<bool> {
    let want = hands.options.optimise;
    if !want.any() || hands.optimised.get() || clerk.errors > 0 || !clerk.repairs() || !ctx.dup.is_empty() {
        return Ok(false);
    }
    clerk.own_doing = true;
    let mut work = Work::new(hands.dev, hands.options, ctx, true, true)?;
    let features = ctx.geo.features;
    if want.bmap_to_extents && !features.incompat.contains(Incompat::EXTENTS) {
        // With the feature, all is looked at again before anything uses it.
        super::fields::features(&mut work, |f| f.incompat |= Incompat::EXTENTS)?;
        work.finish()?;
        return Ok(true);
    }
    hands.optimised.set(true);
    let mut changed = 0u64;
    if want.unshare_blocks && features.ro_compat.contains(RoCompat::SHARED_BLOCKS) {
        super::fields::features(&mut work, |f| f.ro_compat -= RoCompat::SHARED_BLOCKS)?;
        changed += 1;
    }
    if want.bmap_to_extents || want.extents {
        changed += maps(&mut work, want)?;
    }
    if want.directories {
        for d in &found.dirs {
            ctx.progress.check()?;
            rehash::rebuild(&mut work, d.ino)?;
            changed += 1;
        }
    }
    if changed > 0 {
        work.finish()?;
    }
    Ok(changed > 0)
}

/// Give files and directories other maps; how many.
fn maps(work: &mut Work<'_, '_>, want: Optimise) -> Result<u64> {
    let ctx = work.ctx;
    let mut changed = 0;
    for group in ctx.geo.all_groups() {
        ctx.progress.check()?;
        for i in 0..ctx.inodes_to_scan(group) {
            let ino = Ino(ctx.geo.group_first_ino(group).0 + i);
            let ordinary = ino == Ino::ROOT || ino.0 >= ctx.geo.first_ino;
            if ordinary && ctx.note(ino) & note::USED != 0 {
                changed += u64::from(one(work, ino, want)?);
            }
        }
    }
    Ok(changed)
}

fn one(work: &mut Work<'_, '_>, ino: Ino, want: Optimise) -> Result<bool> {
    let ctx = work.ctx;
    let mut o = raw(work.vol(), ino)?;
    if !View::new(ino, o.inode.as_bytes()).is_some_and(|v| has_block_map(&v, ctx)) {
        return Ok(false);
    }
    let tree = o.has(InodeFlags::EXTENTS);
    let Some(extents) = extents_of(ctx, &o) else { return Ok(false) };
    let better = if tree {
        want.extents && depth_of(&o) > least_depth(extents.len(), ctx.geo.block_size)
    } else {
        want.bmap_to_extents
    };
    if better {
        o.set(InodeFlags::EXTENTS, true);
        rebuild(work, o, &extents)?;
    }
    Ok(better)
}

fn depth_of(o: &OpenInode) -> u16 {
    let area = o.inode.block_area();
    area.get(6..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_le_bytes(*b))
}

/// Levels below the root that `count` extents need.
fn least_depth(count: usize, block_size: u32) -> u16 {
    let per = extent::capacity(block_size as usize).max(2);
    let mut room = extent::capacity(BLOCK_LEN);
    let mut depth = 0;
    while room < count {
        room = room.saturating_mul(per);
        depth += 1;
    }
    depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_as_low_as_they_can_be() {
        assert_eq!(least_depth(0, 1024), 0);
        assert_eq!(least_depth(4, 1024), 0);
        assert_eq!(least_depth(5, 1024), 1);
        assert_eq!(least_depth(4 * 84, 1024), 1);
        assert_eq!(least_depth(4 * 84 + 1, 1024), 2);
    }
}
