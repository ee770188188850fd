//! Extended attributes of one inode: in its body, in its attribute block, and values in inodes of their own.

use super::problem::Problem as P;
use super::report::Finding;
use super::state::{Ctx, Judge, Stop};
use super::view::{View, le16, le32};
use crate::format::csum::Checksums;
use crate::format::features::{Compat, Incompat};
use crate::format::inode::{FileType, InodeFlags};
use crate::format::xattr::{self, BLOCK_HEADER, ENTRY, IBODY_HEADER, MAGIC, MAX_VALUE};
use crate::units::{Fsblk, Ino};

/// What attributes cost and refer to.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// Clusters charged for values in inodes, and for the attribute block.
    pub(super) clusters: u64,
    /// Inodes charged.
    pub(super) inodes: u64,
    /// Inodes that the body refers to.
    pub(super) ibody_refs: Vec<Ino>,
    /// The attribute block, where it counts.
    pub(super) block: Option<Fsblk>,
}

impl Attributes {
    pub(super) fn reset(&mut self) {
        self.ibody_refs.clear();
        (self.clusters, self.inodes, self.block) = (0, 0, None);
    }

    /// The attribute block does not count.
    fn give_up_block(&mut self) {
        self.clusters -= u64::from(self.block.take().is_some());
    }
}

/// An entry of either place.
struct Entry<'a> {
    name: &'a [u8],
    index: u8,
    offs: usize,
    inum: u32,
    size: u32,
    hash: u32,
}

impl<'a> Entry<'a> {
    /// The entry at `at`, and where the next one is. `None` at the end of the table or of the bytes.
    fn read(bytes: &'a [u8], at: usize) -> Option<(Self, usize)> {
        let raw = bytes.get(at..at + ENTRY)?;
        if le32(raw, 0) == 0 {
            return None;
        }
        let len = usize::from(raw[0]);
        let end = (at + ENTRY + len).min(bytes.len());
        let entry = Self {
            name: bytes.get(at + ENTRY..end).unwrap_or_default(),
            index: raw[1],
            offs: le16(raw, 2).into(),
            inum: le32(raw, 4),
            size: le32(raw, 8),
            hash: le32(raw, 12),
        };
        Some((entry, at + xattr::entry_len(len)))
    }
}

/// Which 4-byte units of a place are taken: 64 KiB at most.
struct Region([u64; 256]);

impl Region {
    const fn new() -> Self {
        Self([0; 256])
    }

    /// Take bytes; `false` where some are taken, or beyond `limit`.
    fn take(&mut self, at: usize, len: usize, limit: usize) -> bool {
        let Some(end) = at.checked_add(len).filter(|e| *e <= limit) else { return false };
        for unit in at / 4..end.div_ceil(4) {
            let Some(word) = self.0.get_mut(unit / 64) else { return false };
            if *word >> (unit % 64) & 1 == 1 {
                return false;
            }
            *word |= 1 << (unit % 64);
        }
        true
    }
}

/// A value with the bytes that fill its last word: they count in its hash.
fn stored(bytes: &[u8], offs: usize, size: usize) -> &[u8] {
    bytes.get(offs..offs + xattr::padded(size)).or_else(|| bytes.get(offs..offs + size)).unwrap_or_default()
}

/// Whether the stored hash of a value in place is right, for either reading of characters.
fn hash_is(e: &Entry<'_>, value: &[u8]) -> bool {
    e.hash == xattr::entry_hash(e.name, value, false) || e.hash == xattr::entry_hash(e.name, value, true)
}

/// Check a value that is in an inode; the clusters charged for it, or what is wrong.
#[doc(alias = "check_large_ea_inode")]
fn value_inode(ctx: &Ctx<'_>, v: &View<'_>, e: &Entry<'_>) -> Result<u64, Box<Finding>> {
    let ino = Ino(e.inum);
    let bad = |p: P| Box::new(Finding::inode(p, v.ino).num(e.inum));
    if e.inum < ctx.geo.first_ino || e.inum > ctx.geo.inodes_count {
        return Err(bad(P::AttrValueEaInode));
    }
    if e.size == 0 {
        return Err(Finding::inode(P::AttrValueSize, v.ino).num(0u64).into());
    }
    let Ok(target) = ctx.vol.raw_inode(ino) else { return Err(bad(P::AttrValueEaInode)) };
    let Some(t) = View::new(ino, target.as_bytes()).filter(|t| t.is(FileType::Regular)) else {
        return Err(bad(P::AttrValueEaInode));
    };
    let value_hash = t.core().atime.get();
    let marked = t.has(InodeFlags::EA_INODE);
    let right = [false, true].into_iter().any(|s| e.hash == xattr::entry_hash_of_inode(e.name, value_hash, s));
    let clusters = if right {
        u64::from(e.size).div_ceil(u64::from(ctx.geo.block_size) << ctx.geo.cluster_bits)
    } else if t.core().mtime.get() == v.ino.0 && t.core().generation.get() == v.core().generation.get() {
        // A reference in Lustre's old style: the value's inode names its owner, and nothing is charged.
        0
    } else if marked {
        let want = xattr::entry_hash_of_inode(e.name, value_hash, false);
        return Err(Finding::inode(P::AttrHash, v.ino).num(e.hash).want(want).into());
    } else {
        return Err(bad(P::AttrValueEaInode));
    };
    if marked { Ok(clusters) } else { Err(bad(P::AttrSetEaInodeFlag)) }
}

/// Find an attribute's value in the inode's body.
pub(super) fn in_body<'a>(v: &View<'a>, index: u8, name: &[u8]) -> Option<&'a [u8]> {
    let area = v.attribute_area();
    if le32(area, 0) != MAGIC {
        return None;
    }
    find(area.get(IBODY_HEADER..)?, 0, index, name)
}

fn find<'a>(bytes: &'a [u8], start: usize, index: u8, name: &[u8]) -> Option<&'a [u8]> {
    let mut at = start;
    while let Some((e, next)) = Entry::read(bytes, at) {
        if e.index == index && e.name == name {
            return if e.inum == 0 { bytes.get(e.offs..e.offs.checked_add(e.size as usize)?) } else { None };
        }
        at = next;
    }
    None
}

/// Longest encryption policy, bytes.
const MAX_POLICY: usize = 24;
/// Bytes at the end of a context that are each file's own.
const NONCE: usize = 16;

/// An encryption policy: a context without what is the file's own.
pub(super) type EncryptionPolicy = [u8; MAX_POLICY];

/// The policy by which an inode is encrypted; `None` where it has no context of a known shape.
pub(super) fn encryption_policy(ctx: &Ctx<'_>, v: &View<'_>) -> Option<EncryptionPolicy> {
    let policy = |c: &[u8]| {
        if c.first().is_some_and(|v| *v > 2) {
            // Of a version to come: like no other.
            return Some([u8::MAX; MAX_POLICY]);
        }
        let known = matches!((c.first(), c.len()), (Some(1), 28) | (Some(2), 40));
        let part = c.get(..c.len().checked_sub(NONCE)?).filter(|_| known)?;
        let mut out = [0; MAX_POLICY];
        out.get_mut(..part.len())?.copy_from_slice(part);
        Some(out)
    };
    with_encryption_context(ctx, v, policy)?
}

/// Whether the encryption context is there and of a known shape; `None` where it is missing.
pub(super) fn encryption_context(ctx: &Ctx<'_>, v: &View<'_>) -> Option<bool> {
    let shape = |c: &[u8]| match c.first() {
        Some(1) => c.len() == 28,
        Some(2) => c.len() == 40,
        Some(0) | None => false,
        Some(_) => true,
    };
    with_encryption_context(ctx, v, shape)
}

/// What `f` says of the encryption context; `None` where it is missing.
fn with_encryption_context<T>(ctx: &Ctx<'_>, v: &View<'_>, f: impl Fn(&[u8]) -> T) -> Option<T> {
    if let Some(c) = in_body(v, xattr::INDEX_ENCRYPTION, xattr::NAME_ENCRYPTION_CONTEXT) {
        return Some(f(c));
    }
    let at = v.file_acl(ctx.geo);
    if at.0 == 0 || !ctx.geo.has_block(at) {
        return None;
    }
    let block = ctx.vol.block(at).ok()?;
    if le32(&block, 0) != MAGIC {
        return None;
    }
    find(&block, BLOCK_HEADER, xattr::INDEX_ENCRYPTION, xattr::NAME_ENCRYPTION_CONTEXT).map(f)
}

/// Check the attributes in the inode's body.
pub(super) fn body<J: Judge>(ctx: &Ctx<'_>, judge: &mut J, v: &View<'_>, out: &mut Attributes) -> Result<(), Stop> {
    let area = v.attribute_area();
    if le32(area, 0) != MAGIC {
        return Ok(());
    }
    if let Err(f) = body_entries(ctx, v, area, out) {
        judge.raise(*f)?;
    }
    // Whatever is wrong, what the entries refer to is referred to.
    let table = area.get(IBODY_HEADER..).unwrap_or_default();
    let mut at = 0;
    while let Some((e, next)) = Entry::read(table, at) {
        if e.inum != 0 {
            out.ibody_refs.push(Ino(e.inum));
        }
        at = next;
    }
    Ok(())
}

fn body_entries(ctx: &Ctx<'_>, v: &View<'_>, area: &[u8], out: &mut Attributes) -> Result<(), Box<Finding>> {
    let table = area.get(IBODY_HEADER..).unwrap_or_default();
    let limit = area.len();
    let mut region = Region::new();
    region.take(0, IBODY_HEADER, limit);
    let collision = || Box::new(Finding::inode(P::InodeEaCollision, v.ino));
    let mut remain = table.len();
    let mut at = 0;
    while let Some((e, next)) = Entry::read(table, at) {
        let len = next - at;
        if !region.take(IBODY_HEADER + at, len, limit) {
            let name_len = table[at];
            return Err(if IBODY_HEADER + next > limit {
                Finding::inode(P::AttrNameLen, v.ino).num(name_len).into()
            } else {
                collision()
            });
        }
        remain = remain.saturating_sub(len);
        if e.inum == 0 {
            let size = e.size as usize;
            if size > remain {
                return Err(Finding::inode(P::AttrValueSize, v.ino).num(e.size).into());
            }
            if size > 0 && !region.take(IBODY_HEADER + e.offs, xattr::padded(size), limit) {
                return Err(collision());
            }
            let value = stored(table, e.offs, size);
            // Old kernels left the hash of attributes in the body zero.
            if e.hash != 0 && !hash_is(&e, value) {
                let want = xattr::entry_hash(e.name, value, false);
                return Err(Finding::inode(P::AttrHash, v.ino).num(e.hash).want(want).into());
            }
            remain -= size;
        } else {
            out.clusters += value_inode(ctx, v, &e)?;
            out.inodes += 1;
        }
        at = next;
    }
    if region.take(IBODY_HEADER + at, 4, limit) { Ok(()) } else { Err(collision()) }
}

/// Check the attribute block; what it costs goes to `out`.
#[doc(alias = "check_ext_attr")]
pub(super) fn block<J: Judge>(ctx: &Ctx<'_>, judge: &mut J, v: &View<'_>, out: &mut Attributes) -> Result<(), Stop> {
    let at = v.file_acl(ctx.geo);
    if at.0 == 0 || !ctx.geo.features.compat.contains(Compat::EXT_ATTR) || !ctx.geo.has_block(at) {
        return Ok(());
    }
    out.block = Some(at);
    out.clusters += 1;
    let Ok(bytes) = ctx.vol.block(at) else {
        if judge.raise(Finding::inode(P::ReadEaBlock, v.ino).block(at))? {
            out.give_up_block();
        }
        return Ok(());
    };
    let large = ctx.geo.features.incompat.contains(Incompat::EA_INODE);
    let seen = ctx.ea_seen.get(at.0);
    if !seen && contents(ctx, judge, v, at, &bytes)? {
        out.give_up_block();
        return Ok(());
    }
    if large {
        let mut pos = BLOCK_HEADER;
        while let Some((e, next)) = Entry::read(&bytes, pos) {
            if e.inum != 0 {
                out.clusters += value_inode(ctx, v, &e).unwrap_or(0);
                out.inodes += 1;
            }
            pos = next;
        }
    }
    ctx.ea_seen.set(at.0);
    Ok(())
}

/// Look at what is in an attribute block; whether the inode gives it up.
fn contents<J: Judge>(ctx: &Ctx<'_>, judge: &mut J, v: &View<'_>, at: Fsblk, bytes: &[u8]) -> Result<bool, Stop> {
    let of = |p: P| Finding::inode(p, v.ino).block(at);
    if le32(bytes, 0) != MAGIC && judge.raise(of(P::BadEaBlock))? {
        return Ok(true);
    }
    if le32(bytes, 8) != 1 && judge.raise(of(P::EaMultiBlock).num(le32(bytes, 8)))? {
        return Ok(true);
    }
    let limit = bytes.len();
    let mut region = Region::new();
    region.take(0, BLOCK_HEADER, limit);
    let mut pos = BLOCK_HEADER;
    while let Some((e, next)) = Entry::read(bytes, pos) {
        if !region.take(pos, next - pos, limit) {
            return judge.raise(of(P::EaAllocCollision));
        }
        if e.index == 0 {
            return judge.raise(of(P::EaBadName));
        }
        if e.inum == 0 {
            let size = e.size as usize;
            if e.size > MAX_VALUE || e.offs + size > limit {
                return judge.raise(of(P::EaBadValue));
            }
            if size > 0 && !region.take(e.offs, xattr::padded(size), limit) && judge.raise(of(P::EaAllocCollision))? {
                return Ok(true);
            }
            let value = stored(bytes, e.offs, size);
            if !hash_is(&e, value) {
                let want = xattr::entry_hash(e.name, value, false);
                if judge.raise(of(P::AttrHash).num(e.hash).want(want))? {
                    return Ok(true);
                }
            }
        } else if let Err(f) = value_inode(ctx, v, &e) {
            // What the value's inode lacks is given to it, and the block stays.
            let stays = f.problem == P::AttrSetEaInodeFlag;
            if judge.raise(f.block(at))? && !stays {
                return Ok(true);
            }
        }
        pos = next;
    }
    if !region.take(pos, 4, limit) && judge.raise(of(P::EaAllocCollision))? {
        return Ok(true);
    }
    if let Checksums::Metadata { seed } = ctx.csums
        && xattr::verify_block(bytes, seed, at).is_err()
    {
        judge.raise(of(P::EaBlockOnlyCsumInvalid))?;
    }
    Ok(false)
}

/// Inodes that an attribute block refers to.
pub(super) fn block_refs(ctx: &Ctx<'_>, at: Fsblk) -> Vec<Ino> {
    let mut refs = Vec::new();
    if let Ok(bytes) = ctx.vol.block(at) {
        let mut pos = BLOCK_HEADER;
        while let Some((e, next)) = Entry::read(&bytes, pos) {
            if e.inum != 0 {
                refs.push(Ino(e.inum));
            }
            pos = next;
        }
    }
    refs
}

/// References that an attribute block counts; `None` where it is none.
pub(super) fn block_refcount(ctx: &Ctx<'_>, at: Fsblk) -> Option<u32> {
    let block = ctx.vol.block(at).ok().filter(|b| le32(b, 0) == MAGIC && !ctx.meta.get(at.0));
    block.map(|b| le32(&b, 4))
}
