//! Passes 3 and 4: every directory can be reached from the root; every inode has as many names as it says.

use super::clerk::Clerk;
use super::pass1::Found;
use super::pass2::find;
use super::problem::{Pass, Problem as P};
use super::report::Finding;
use super::state::{Ctx, Dir, note};
use super::view::{View, le32};
use crate::error::Result;
use crate::format::features::RoCompat;
use crate::format::inode::{FileType, InodeFlags};
use crate::format::xattr;
use crate::units::Ino;
use crate::volume::Owner;

/// Where a repair puts what has no name.
const LOST_FOUND: &[u8] = b"lost+found";
/// Most links that a directory counts.
#[doc(alias = "EXT4_LINK_MAX")]
const LINK_MAX: u64 = 65000;

/// Whether a directory leads to the root.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    OnTheWay,
    Reached,
}

pub(super) fn connectivity(ctx: &Ctx<'_>, found: &mut Found, clerk: &mut Clerk<'_>) {
    clerk.pass(Pass::P3);
    let root_note = ctx.note(Ino::ROOT);
    let root = find(&found.dirs, Ino::ROOT).filter(|_| root_note & note::USED != 0);
    let Some(root) = root else {
        if root_note & note::USED == 0 {
            clerk.report(Finding::fs(P::NoRootInode));
        }
        return;
    };
    if let Some(d) = found.dirs.get_mut(root) {
        d.parent = Ino::ROOT;
    }
    if clerk.repairs() {
        lost_found(ctx, clerk);
    }
    let mut state = vec![State::Unknown; found.dirs.len()];
    if let Some(s) = state.get_mut(root) {
        *s = State::Reached;
    }
    let mut way = Vec::new();
    for i in 0..found.dirs.len() {
        climb(&found.dirs, i, &mut state, &mut way, clerk);
    }
    for d in &found.dirs {
        // A directory that is not connected has no right parent to compare with.
        if d.parent.0 != 0 && d.dotdot.0 != 0 && d.dotdot != d.parent {
            clerk.report(Finding::inode(P::BadDotDot, d.ino).target(d.dotdot).want(d.parent.0));
        } else if d.parent.0 != 0 && d.dotdot.0 == 0 {
            clerk.report(Finding::inode(P::BadDotDot, d.ino).target(Ino(0)).want(d.parent.0));
        }
    }
}

/// A repair wants a place for what has no name, before it knows whether there is any such thing.
fn lost_found(ctx: &Ctx<'_>, clerk: &mut Clerk<'_>) {
    let Ok(root) = ctx.vol.raw_inode(Ino::ROOT) else { return };
    match ctx.vol.lookup(Owner { ino: Ino::ROOT, inode: &root }, LOST_FOUND) {
        Ok(None) => {
            clerk.report(Finding::fs(P::NoLostFound));
        }
        Ok(Some(ino)) if ctx.note(ino) & note::TYPE != note::DIRECTORY => {
            clerk.report(Finding::fs(P::LostFoundNotDir));
        }
        Ok(Some(ino)) => {
            let flags = ctx.vol.raw_inode(ino).map(|i| i.flags()).unwrap_or_default();
            if flags.contains(InodeFlags::INLINE_DATA) {
                clerk.report(Finding::fs(P::LostFoundInline));
            } else if flags.contains(InodeFlags::ENCRYPT) {
                clerk.report(Finding::fs(P::LostFoundEncrypted));
            }
        }
        Err(_) => {}
    }
}

/// Go up from a directory to one that is known to be connected; report the topmost one that is not.
fn climb(dirs: &[Dir], start: usize, state: &mut [State], way: &mut Vec<usize>, clerk: &mut Clerk<'_>) {
    way.clear();
    let mut at = start;
    loop {
        match state.get(at) {
            Some(State::Unknown) => {}
            Some(State::Reached) | None => break,
            Some(State::OnTheWay) => {
                // A ring of directories.
                if let Some(d) = dirs.get(at) {
                    clerk.report(Finding::inode(P::LoopedDir, d.ino));
                }
                break;
            }
        }
        if let Some(s) = state.get_mut(at) {
            *s = State::OnTheWay;
        }
        way.push(at);
        let parent = dirs.get(at).map_or(Ino(0), |d| d.parent);
        match find(dirs, parent) {
            Some(p) if parent.0 != 0 => at = p,
            _ => {
                unconnected(dirs, at, clerk);
                break;
            }
        }
    }
    for i in way.drain(..) {
        if let Some(s) = state.get_mut(i) {
            *s = State::Reached;
        }
    }
}

fn unconnected(dirs: &[Dir], at: usize, clerk: &mut Clerk<'_>) {
    if let Some(d) = dirs.get(at) {
        clerk.report(Finding::inode(P::UnconnectedDir, d.ino).target(d.dotdot));
    }
}

/// Compare names found with link counts.
pub(super) fn links(ctx: &Ctx<'_>, found: &Found, clerk: &mut Clerk<'_>) -> Result<()> {
    clerk.pass(Pass::P4);
    for group in ctx.geo.all_groups() {
        ctx.progress.check()?;
        for i in 0..ctx.inodes_to_scan(group) {
            let ino = Ino(ctx.geo.group_first_ino(group).0 + i);
            let n = ctx.note(ino);
            if n & note::USED == 0 || n & (note::IMAGIC | note::BAD_BLOCK) != 0 {
                continue;
            }
            // Sound: as many names as links, and no attribute refers to it.
            if ctx.balance.get(ino.0.into()) == 0 && !found.ea_refs.contains_key(&ino) {
                continue;
            }
            one(ctx, found, ino, n, clerk)?;
        }
    }
    Ok(())
}

/// Whether an inode needs no name. Quota files of users and groups have reserved numbers; one elsewhere is not what the
/// superblock says it is, and is saved as any file.
fn is_exempt(ctx: &Ctx<'_>, ino: Ino) -> bool {
    ino == Ino::BAD
        || (ino.0 > Ino::ROOT.0 && ino.0 < ctx.geo.first_ino)
        || ino.0 == ctx.sb.prj_quota_inum.get()
        || ctx.is_orphan_file(ino)
}

fn one(ctx: &Ctx<'_>, found: &Found, ino: Ino, n: u8, clerk: &mut Clerk<'_>) -> Result<()> {
    if is_exempt(ctx, ino) {
        return Ok(());
    }
    let slot = ctx.vol.raw_inode(ino)?;
    let Some(v) = View::new(ino, slot.as_bytes()) else { return Ok(()) };
    let links = u64::from(v.links());
    let names = i64::from(ctx.balance.get(ino.0.into())) + links as i64;
    let mut names = u64::try_from(names).unwrap_or_default();
    let refs = found.ea_refs.get(&ino).copied().unwrap_or(0);
    if v.has(InodeFlags::EA_INODE) {
        if refs > 0 {
            // Old kernels' attribute inodes keep no count; their two times are alike.
            if v.ea_refs() != refs && v.core().ctime.get() != v.core().atime.get() {
                clerk.report(Finding::inode(P::EaInodeRefCount, ino).num(v.ea_refs()).want(refs));
            }
            names = names.max(1);
        } else if n & note::TYPE == note::REGULAR {
            clerk.report(Finding::inode(P::EaInodeSpuriousFlag, ino));
        }
    }
    if names == 0 {
        let empty = matches!(v.file_type(), Some(FileType::Regular | FileType::Directory))
            && v.blocks_raw() == 0
            && le32(v.attribute_area(), 0) != xattr::MAGIC;
        if empty {
            clerk.report(Finding::inode(P::ZeroLenInode, ino));
        }
        clerk.report(Finding::inode(P::UnattachedInode, ino));
        return Ok(());
    }
    let dir = n & note::TYPE == note::DIRECTORY;
    let nlink = ctx.geo.features.ro_compat.contains(RoCompat::DIR_NLINK);
    if dir && names > LINK_MAX {
        if !nlink {
            clerk.report(Finding::inode(P::DirNlinkFeature, ino).num(names));
        }
        names = 1;
    }
    if names == links {
        return Ok(());
    }
    let overflow = dir && links == 1 && v.has(InodeFlags::INDEX);
    let p = if overflow { P::DirOverflowRefCount } else { P::BadRefCount };
    clerk.report(Finding::inode(p, ino).num(links).want(names));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Names(Vec<u32>);

    impl super::super::report::Sink for Names {
        fn finding(&mut self, f: &Finding, _fixed: bool) {
            self.0.push(f.place.ino.unwrap().0);
        }
    }

    fn unreached(parents: &[(u32, u32)]) -> Vec<u32> {
        let dirs: Vec<Dir> =
            parents.iter().map(|&(i, p)| Dir { ino: Ino(i), parent: Ino(p), dotdot: Ino(p) }).collect();
        let mut names = Names(Vec::new());
        let mut clerk = Clerk::new(&mut names);
        let mut state = vec![State::Unknown; dirs.len()];
        state[0] = State::Reached;
        for i in 0..dirs.len() {
            climb(&dirs, i, &mut state, &mut Vec::new(), &mut clerk);
        }
        names.0
    }

    #[test]
    fn rings_and_orphans_are_reported_once() {
        assert_eq!(unreached(&[(2, 2), (12, 2), (13, 12), (14, 13)]), [0u32; 0]);
        assert_eq!(unreached(&[(2, 2), (12, 0), (13, 12)]), [12]);
        assert_eq!(unreached(&[(2, 2), (12, 13), (13, 14), (14, 12), (15, 14)]).len(), 1);
    }
}
