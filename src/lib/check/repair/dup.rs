//! Pass 1D: files that share blocks each get their own copy; the last one, where nothing else claims the blocks, keeps them.
//! Maps are written anew with the copies in, so nodes of a map that are shared are replaced as well.

use std::collections::{BTreeMap, BTreeSet};

use super::super::dup::Sharer;
use super::super::pass1::Found;
use super::super::problem::Problem as P;
use super::super::report::Finding;
use super::super::state::Ctx;
use super::map::{extents_of, write_map};
use super::work::{Work, raw};
use super::{fields, inode};
use crate::error::{Error, Result};
use crate::format::csum::Checksums;
use crate::format::extent::Extent;
use crate::format::inode::{FileType, InodeFlags};
use crate::format::xattr;
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::store::AllocRequest;
use crate::volume::{Edit, OpenInode};

/// Blocks that are copied at a time.
const CHUNK: u32 = 256;

/// Who claims which clusters, and what is metadata.
struct Claimed<'d, 'c> {
    ctx: &'d Ctx<'c>,
    owners: BTreeMap<u64, u32>,
    /// Blocks that may not be readable.
    bad: &'d [u64],
}

impl Claimed<'_, '_> {
    fn is_contested(&self, cluster: u64) -> bool {
        self.ctx.dup.get(cluster) && (self.owners.get(&cluster).is_some_and(|n| *n > 1) || self.is_metadata(cluster))
    }

    fn is_metadata(&self, cluster: u64) -> bool {
        let at = self.ctx.bit_block(cluster).0;
        self.ctx.meta.any(at, at + u64::from(self.ctx.geo.cluster_ratio))
    }

    fn give_up(&mut self, sharer: &Sharer) {
        for c in sharer.clusters.iter().flat_map(Clone::clone) {
            if let Some(n) = self.owners.get_mut(&c) {
                *n = n.saturating_sub(1);
            }
        }
    }
}

/// Give the files of `accepted` copies of what they share.
pub(super) fn mend(work: &mut Work<'_, '_>, found: &Found, accepted: &[&Finding]) -> Result<()> {
    let (ctx, sharers) = (work.ctx, &found.sharers);
    let mut owners: BTreeMap<u64, u32> = BTreeMap::new();
    for c in sharers.iter().flat_map(|s| s.clusters.iter().flat_map(Clone::clone)) {
        *owners.entry(c).or_default() += 1;
    }
    // The list of bad blocks keeps them.
    for c in found.bad_blocks.iter().map(|b| ctx.cluster_bit(Fsblk(*b))).collect::<BTreeSet<_>>() {
        if let Some(n) = owners.get_mut(&c) {
            *n += 1;
        }
    }
    let mut claimed = Claimed { ctx, owners, bad: &found.bad_blocks };
    for s in sharers {
        let wanted = accepted.iter().any(|f| f.problem == P::DupFile && f.place.ino == Some(s.ino));
        // A file that claims the same cluster twice shares it with itself.
        let mut own = s.clusters.iter().flat_map(Clone::clone);
        if !wanted || !own.any(|c| claimed.is_contested(c)) {
            continue;
        }
        if s.ino == Ino::RESIZE {
            // Its place follows from the geometry: the others move, unless it is metadata.
            if s.clusters.iter().flat_map(Clone::clone).any(|c| claimed.is_metadata(c)) {
                fields::renew_resize_inode(work)?;
                claimed.give_up(s);
            }
            continue;
        }
        let o = raw(work.vol(), s.ino)?;
        let known = extents_of(ctx, &o);
        // Nodes that lead to nothing are given up.
        let mapped = matches!(o.inode.file_type(), Some(FileType::Regular | FileType::Directory));
        if known.as_ref().is_some_and(Vec::is_empty)
            && mapped
            && !o.has(InodeFlags::INLINE_DATA)
            && o.inode.file_acl().0 == 0
        {
            work.step(|edit| write_map(edit, o, &[]))?;
            claimed.give_up(s);
            continue;
        }
        let extents = known.unwrap_or_default();
        let copied = work.step(|edit| clone(edit, &claimed, o, &extents))?;
        if copied.is_none() {
            // No room for copies: as long as nobody else gives up the blocks, only one can have them.
            inode::clear(work, s.ino)?;
        }
        claimed.give_up(s);
    }
    Ok(())
}

fn clone(edit: &mut Edit<'_>, claimed: &Claimed<'_, '_>, mut o: OpenInode, extents: &[Extent]) -> Result<()> {
    let acl = o.inode.file_acl();
    if acl.0 != 0 && claimed.is_contested(claimed.ctx.cluster_bit(acl)) {
        let got = edit.alloc.allocate(edit.vol, edit.store, AllocRequest::metadata(o.ino, acl))?;
        let mut bytes = edit.store.read(acl)?.to_vec();
        xattr::set_refcount(&mut bytes, 1);
        if let Checksums::Metadata { seed } = claimed.ctx.csums {
            xattr::stamp_block(&mut bytes, seed, got.start);
        }
        edit.store.create(got.start, bytes.into())?;
        o.inode.set_file_acl(got.start);
    }
    let mut out = Vec::new();
    let bits = claimed.ctx.geo.cluster_bits;
    let mut moved = BTreeSet::new();
    if bits > 0 {
        // The blocks of a logical cluster stay together.
        for e in extents {
            let hit = |n: &u32| claimed.is_contested(claimed.ctx.cluster_bit(Fsblk(e.pblk.0 + u64::from(*n))));
            moved.extend((0..e.len).filter(hit).map(|n| (e.lblk.0 + n) >> bits));
        }
    }
    let mut copies = Copies { claimed, ino: o.ino, directory: o.is_dir(), clusters: BTreeMap::new(), moved };
    for e in extents {
        copies.extent(edit, *e, &mut out)?;
    }
    if extents.is_empty() {
        return edit.put(&mut o);
    }
    write_map(edit, o, &out)
}

struct Copies<'k, 'd, 'c> {
    claimed: &'k Claimed<'d, 'c>,
    ino: Ino,
    directory: bool,
    /// Copies of logical clusters, where a cluster has several blocks.
    clusters: BTreeMap<u64, Fsblk>,
    /// Logical clusters that get a copy.
    moved: BTreeSet<u32>,
}

impl Copies<'_, '_, '_> {
    /// Take an extent over, copied as far as it is contested.
    fn extent(&mut self, edit: &mut Edit<'_>, e: Extent, out: &mut Vec<Extent>) -> Result<()> {
        let ctx = self.claimed.ctx;
        let end = e.pblk.0 + u64::from(e.len);
        let mut at = e.pblk.0;
        while at < end {
            let contested = |b: u64| {
                let lblk = u64::from(e.lblk.0) + b - e.pblk.0;
                self.claimed.is_contested(ctx.cluster_bit(Fsblk(b)))
                    || self.moved.contains(&((lblk >> ctx.geo.cluster_bits) as u32))
            };
            let this = contested(at);
            let mut to = at + 1;
            while to < end && contested(to) == this {
                to += 1;
            }
            let part = Extent {
                lblk: Lblk((u64::from(e.lblk.0) + at - e.pblk.0) as u32),
                len: (to - at) as u32,
                pblk: Fsblk(at),
                unwritten: e.unwritten,
            };
            if this {
                self.copy(edit, part, out)?;
            } else {
                push(out, part);
            }
            at = to;
        }
        Ok(())
    }

    fn copy(&mut self, edit: &mut Edit<'_>, e: Extent, out: &mut Vec<Extent>) -> Result<()> {
        let ratio = self.claimed.ctx.geo.cluster_ratio;
        let mut done = 0;
        while done < e.len {
            let lblk = e.lblk.0 + done;
            let (start, len) = if ratio == 1 {
                let request = AllocRequest::data(self.ino, e.pblk, (e.len - done).min(CHUNK));
                let got = edit.alloc.allocate(edit.vol, edit.store, request)?;
                (got.start, got.len)
            } else {
                let within = lblk & (ratio - 1);
                let cluster = if let Some(c) = self.clusters.get(&u64::from(lblk / ratio)) {
                    *c
                } else {
                    let request = AllocRequest::data(self.ino, e.pblk, ratio);
                    edit.alloc.allocate(edit.vol, edit.store, request)?.start
                };
                self.clusters.insert(u64::from(lblk / ratio), cluster);
                (Fsblk(cluster.0 + u64::from(within)), (ratio - within).min(e.len - done))
            };
            let from = Fsblk(e.pblk.0 + u64::from(done));
            self.bytes(edit, from, start, len)?;
            push(out, Extent { lblk: Lblk(lblk), len, pblk: start, unwritten: e.unwritten });
            done += len;
        }
        Ok(())
    }

    fn bytes(&self, edit: &mut Edit<'_>, from: Fsblk, to: Fsblk, len: u32) -> Result<()> {
        if self.directory {
            for n in 0..u64::from(len) {
                let bytes = edit.store.read(Fsblk(from.0 + n))?;
                edit.store.create(Fsblk(to.0 + n), bytes)?;
            }
            return Ok(());
        }
        let bytes = match edit.vol.blocks(from, len) {
            Ok(bytes) => bytes.into_owned(),
            Err(Error::Io { .. }) => self.readable(edit, from, len)?,
            Err(e) => return Err(e),
        };
        edit.store.write_data(to, &bytes)
    }

    /// What can be read of blocks; what is in bad ones is lost.
    fn readable(&self, edit: &Edit<'_>, from: Fsblk, len: u32) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for b in (0..u64::from(len)).map(|n| Fsblk(from.0 + n)) {
            match edit.vol.block(b) {
                Ok(bytes) => out.extend_from_slice(&bytes),
                Err(Error::Io { .. }) if self.claimed.bad.binary_search(&b.0).is_ok() => {
                    out.resize(out.len() + self.claimed.ctx.geo.block_size as usize, 0);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(out)
    }
}

/// Append, merged with the one before where it continues.
fn push(out: &mut Vec<Extent>, e: Extent) {
    match out.last_mut() {
        Some(l)
            if l.end() == u64::from(e.lblk.0)
                && l.pblk.0 + u64::from(l.len) == e.pblk.0
                && l.unwritten == e.unwritten
                && l.len + e.len < 1 << 15 =>
        {
            l.len += e.len;
        }
        _ => out.push(e),
    }
}
