//! After the passes: the orphan file, and quota files against what was counted.

use std::collections::BTreeMap;

use super::clerk::Clerk;
use super::pass0::MAX_QUOTA_FILE;
use super::pass1::Found;
use super::problem::{Pass, Problem as P};
use super::quota::Used;
use super::report::Finding;
use super::state::Ctx;
use crate::format::features::{Compat, RoCompat};
use crate::format::orphan_file;
use crate::format::quota::{Quota, QuotaKind};
use crate::units::{Ino, Lblk};
use crate::volume::{Mapping, Owner};

/// Most blocks of an orphan file that are looked at.
const MAX_ORPHAN_BLOCKS: u64 = 1 << 16;

pub(super) fn run(ctx: &Ctx<'_>, found: &Found, clerk: &mut Clerk<'_>) {
    clerk.pass(Pass::P6);
    if ctx.geo.features.ro_compat.contains(RoCompat::QUOTA) {
        let sb = ctx.sb;
        let files = [
            (QuotaKind::User, "user", sb.usr_quota_inum.get()),
            (QuotaKind::Group, "group", sb.grp_quota_inum.get()),
            (QuotaKind::Project, "project", sb.prj_quota_inum.get()),
        ];
        for ((kind, what, ino), used) in files.into_iter().zip(&found.usage.0) {
            if ino != 0
                && let Some(id) = wrong_quota(ctx, Ino(ino), kind, used)
            {
                clerk.report(Finding::inode(P::UpdateQuotas, Ino(ino)).what(what).num(id));
            }
        }
    }
    orphans(ctx, clerk);
}

/// The first id of which a quota file does not say what it uses.
#[doc(alias = "quota_compare_and_update")]
fn wrong_quota(ctx: &Ctx<'_>, ino: Ino, kind: QuotaKind, used: &BTreeMap<u32, Used>) -> Option<u32> {
    let first = || used.keys().next().copied().or(Some(0));
    let Ok(inode) = ctx.vol.raw_inode(ino) else { return first() };
    let content = ctx.vol.reader(Owner { ino, inode: &inode }).and_then(|r| r.read_all(MAX_QUOTA_FILE));
    let Some(quota) = content.ok().flatten().and_then(|c| Quota::decode(&c, kind).ok()) else { return first() };
    let stated = quota.entries.iter().find_map(|(id, e)| {
        let u = used.get(id).copied().unwrap_or_default();
        (u.bytes != e.space || u.inodes != e.inodes).then_some(*id)
    });
    let missing = used.iter().find(|(id, u)| **u != Used::default() && !quota.entries.contains_key(id));
    stated.into_iter().chain(missing.map(|(id, _)| *id)).min()
}

/// What an orphan file is like.
enum Orphans {
    Clean,
    Dirty,
    Unusable(&'static str),
}

#[doc(alias = "check_init_orphan_file")]
fn orphans(ctx: &Ctx<'_>, clerk: &mut Clerk<'_>) {
    let f = ctx.geo.features;
    let present = f.ro_compat.contains(RoCompat::ORPHAN_PRESENT);
    let ino = Ino(ctx.sb.orphan_file_inum.get());
    if !f.compat.contains(Compat::ORPHAN_FILE) {
        if present {
            clerk.report(Finding::fs(P::OrphanPresentNoFile));
        }
        return;
    }
    if !f.compat.contains(Compat::HAS_JOURNAL) {
        clerk.report(Finding::fs(P::OrphanFileWithoutJournal));
        return;
    }
    match orphan_blocks(ctx, ino, clerk) {
        Orphans::Clean if present => {
            clerk.report(Finding::fs(P::OrphanPresentCleanFile));
        }
        Orphans::Clean | Orphans::Dirty => {}
        Orphans::Unusable(what) => {
            clerk.report(Finding::inode(P::OrphanFileCorrupted, ino).what(what));
        }
    }
}

fn orphan_blocks(ctx: &Ctx<'_>, ino: Ino, clerk: &mut Clerk<'_>) -> Orphans {
    let Ok(inode) = ctx.vol.raw_inode(ino) else { return Orphans::Unusable("no such inode") };
    let bs = u64::from(ctx.geo.block_size);
    if inode.size() % bs != 0 || inode.size() / bs > MAX_ORPHAN_BLOCKS {
        return Orphans::Unusable("its size");
    }
    let seed = ctx.vol.inode_seed(ino, &inode);
    let mut state = Orphans::Clean;
    for lblk in 0..(inode.size() / bs) as u32 {
        let Ok(Mapping::Mapped { pblk, .. }) = ctx.vol.map(Owner { ino, inode: &inode }, Lblk(lblk)) else {
            return Orphans::Unusable("it has holes");
        };
        let Ok(bytes) = ctx.vol.block(pblk) else { return Orphans::Unusable("a block cannot be read") };
        let clean = orphan_file::orphans(&bytes).is_ok_and(|mut o| o.next().is_none());
        let right = seed.is_none_or(|s| orphan_file::verify(&bytes, s, pblk).is_ok());
        if !clean || !right {
            clerk.report(Finding::inode(P::OrphanBlockDirty, ino).lblk(lblk.into()).block(pblk));
            state = Orphans::Dirty;
        }
    }
    state
}
