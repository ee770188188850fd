//! Passes 3 and 4: the root and lost+found made anew, what has no name put into lost+found, `..` pointed to the parent.

use std::collections::BTreeSet;

use super::super::problem::Problem as P;
use super::super::report::Finding;
use super::inode;
use super::work::{Work, raw, show_inodes};
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::format::inode::{FileType, Inode, InodeFlags, TimeField};
use crate::units::{Group, Ino};
use crate::volume::{Edit, NewInode, OpenInode};

/// Name of the directory for lost files.
pub(in super::super) const LOST_FOUND: &[u8] = b"lost+found";

const MENDS: &[P] =
    &[P::NoRootInode, P::NoLostFound, P::UnconnectedDir, P::LoopedDir, P::BadDotDot, P::UnattachedInode];

/// A lost+found that cannot be used: it loses its name, and what is in it finds its way into a new one.
const UNUSABLE: &[P] = &[P::LostFoundNotDir, P::LostFoundInline, P::LostFoundEncrypted];

pub(super) fn mends(p: P) -> bool {
    MENDS.contains(&p) || UNUSABLE.contains(&p)
}

pub(super) fn mend(work: &mut Work<'_, '_>, accepted: &[&Finding]) -> Result<()> {
    let of = |p: P| accepted.iter().filter(move |f| f.problem == p);
    if of(P::NoRootInode).next().is_some() {
        // All else hangs on it.
        return make_root(work);
    }
    let unusable = accepted.iter().any(|f| UNUSABLE.contains(&f.problem));
    if unusable {
        work.step(|edit| {
            let mut root = raw(edit.vol, Ino::ROOT)?;
            edit.remove_entry(&mut root, LOST_FOUND)?;
            edit.put(&mut root)
        })?;
    }
    for f in of(P::BadDotDot) {
        if let (Some(ino), Some(want)) = (f.place.ino, f.args.want) {
            work.step(|edit| {
                let mut dir = raw(edit.vol, ino)?;
                edit.set_parent(&mut dir, Ino(want as u32))?;
                edit.put(&mut dir)
            })?;
        }
    }
    let cleared: BTreeSet<Ino> = of(P::ZeroLenInode).filter_map(|f| f.place.ino).collect();
    let lost: Vec<Ino> = of(P::UnconnectedDir)
        .chain(of(P::LoopedDir))
        .chain(of(P::UnattachedInode))
        .filter_map(|f| f.place.ino)
        .filter(|i| !cleared.contains(i))
        .collect();
    if lost.is_empty() && !unusable && of(P::NoLostFound).next().is_none() {
        return Ok(());
    }
    let home = lost_found(work)?;
    for ino in lost {
        attach(work, home, ino)?;
    }
    Ok(())
}

fn make_root(work: &mut Work<'_, '_>) -> Result<()> {
    let now = work.now;
    if work.ctx.inodes_to_scan(Group(0)) < Ino::ROOT.0 {
        // Else it would not be seen.
        let per = work.ctx.geo.inodes_per_group;
        work.step(|edit| show_inodes(edit.vol, edit.store, Group(0), per.saturating_sub(Ino::GOOD_OLD_FIRST.0)))?;
    }
    work.step(|edit| {
        let mut inode = Inode::empty(edit.vol.geometry().inode_size);
        let old = raw(edit.vol, Ino::ROOT)?;
        let template = raw(edit.vol, Ino::ROOT)?.inode.core().generation;
        inode.update(|c| {
            if usize::from(edit.vol.geometry().inode_size) > crate::format::inode::GOOD_OLD_SIZE {
                c.extra_isize.set(32.min(edit.vol.geometry().inode_size - 128));
            }
            c.mode.set(FileType::Directory.mode_bits() | 0o755);
            c.generation = template;
        });
        stamp_times(&mut inode, now);
        let mut root = OpenInode { ino: old.ino, inode };
        edit.init_map(&mut root);
        edit.init_dir(&mut root, Ino::ROOT)?;
        edit.put(&mut root)
    })?;
    Ok(())
}

fn stamp_times(inode: &mut Inode, now: Timestamp) {
    for t in [TimeField::Access, TimeField::Change, TimeField::Modify, TimeField::Create] {
        inode.set_time(t, now);
    }
}

/// lost+found, made where there is none; the root where there is no room for it.
fn lost_found(work: &mut Work<'_, '_>) -> Result<Ino> {
    let now = work.now;
    let made = work.step(|edit| {
        let mut root = raw(edit.vol, Ino::ROOT)?;
        if let Some(ino) = edit.vol.lookup(root.owner(), LOST_FOUND)? {
            return Ok(ino);
        }
        let new = NewInode {
            kind: FileType::Directory,
            permissions: 0o700,
            uid: 0,
            gid: 0,
            when: now,
            generation: 0,
            name: LOST_FOUND,
        };
        let mut dir = edit.new_inode(&root, &new)?;
        edit.init_dir(&mut dir, Ino::ROOT)?;
        if dir.has(InodeFlags::INLINE_DATA) {
            // What is found must fit.
            edit.inline_dir_to_block(&mut dir)?;
        }
        edit.put(&mut dir)?;
        edit.add_entry(&mut root, LOST_FOUND, dir.ino, FileType::Directory)?;
        edit.add_link(&mut root)?;
        edit.put(&mut root)?;
        Ok(dir.ino)
    })?;
    Ok(made.unwrap_or(Ino::ROOT))
}

/// Give an inode the name `#number` in `home`; a directory's `..` leads there. Link counts are pass 4's.
#[doc(alias = "e2fsck_reconnect_file")]
fn attach(work: &mut Work<'_, '_>, home: Ino, ino: Ino) -> Result<()> {
    if raw(work.vol(), ino)?.inode.file_type().is_none() {
        // Nothing that a name could stand for.
        return inode::clear(work, ino);
    }
    let done = work.step(|edit| attach_to(edit, home, ino))?;
    if done.is_none() && home != Ino::ROOT {
        work.step(|edit| attach_to(edit, Ino::ROOT, ino))?;
    }
    Ok(())
}

fn attach_to(edit: &mut Edit<'_>, home: Ino, ino: Ino) -> Result<()> {
    let mut dir = raw(edit.vol, home)?;
    let mut o = raw(edit.vol, ino)?;
    let kind = o.inode.file_type().ok_or(Error::NotDirectory { path: Vec::new() })?;
    let mut name = format!("#{}", ino.0).into_bytes();
    while edit.vol.lookup(dir.owner(), &name)?.is_some() {
        name.push(b'~');
    }
    edit.add_entry(&mut dir, &name, ino, kind)?;
    edit.put(&mut dir)?;
    if kind == FileType::Directory {
        edit.set_parent(&mut o, home)?;
        edit.put(&mut o)?;
    }
    Ok(())
}
