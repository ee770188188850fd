//! Where a session is in its filesystem, and what a filespec names there: a path from the current directory or, with `/` before
//! it, from the root of the session, or an inode by its number.

use std::ops::ControlFlow;

use super::Outcome;
use super::session::Session;
use crate::error::Error;
use crate::format::dirent::is_dot_or_dotdot;
use crate::format::inode::{FileType, Inode};
use crate::units::Ino;
use crate::volume::{LastLink, Owner};

/// Most directories above one another.
const MAX_DEPTH: usize = 4096;

impl Session {
    /// Where the current directory is none any more, go to the root.
    pub(super) fn leave_missing_directory(&mut self) {
        let is_dir = |s: &Self, ino| {
            s.volume().is_ok_and(|v| {
                v.inode(ino).is_ok_and(|i| i.file_type() == Some(FileType::Directory) && i.core().links_count.get() > 0)
            })
        };
        let Ok((root, cwd)) = self.directories() else { return };
        let root = if is_dir(self, root) { root } else { Ino::ROOT };
        self.set_directories(root, if is_dir(self, cwd) { cwd } else { root });
    }

    /// The inode that a filespec names. A symbolic link at the end is not followed.
    pub fn resolve(&self, spec: &[u8]) -> Outcome<Ino> {
        self.resolve_link(spec, LastLink::Keep)
    }

    /// [`Session::resolve`], and what to do with a symbolic link at the end.
    pub fn resolve_link(&self, spec: &[u8], last: LastLink) -> Outcome<Ino> {
        let volume = self.volume()?;
        let (root, cwd) = self.directories()?;
        if let Some(ino) = numbered(spec) {
            volume.geometry().inode_place(ino)?;
            return Ok(ino);
        }
        if spec.is_empty() {
            return Err(Error::NotFound { path: Vec::new() }.into());
        }
        let start = if spec.starts_with(b"/") || root == cwd { vec![root] } else { self.chain(root, cwd)? };
        Ok(volume.resolve_from(&start, spec, last)?)
    }

    /// The inode that a filespec names, with its content. Its checksum is not compared: commands look at what is there.
    pub fn inode(&self, spec: &[u8]) -> Outcome<(Ino, Inode)> {
        let ino = self.resolve(spec)?;
        Ok((ino, self.volume()?.raw_inode(ino)?))
    }

    /// The directory that a filespec names.
    pub fn directory(&self, spec: &[u8]) -> Outcome<Ino> {
        let ino = self.resolve_link(spec, LastLink::Follow)?;
        if self.volume()?.raw_inode(ino)?.file_type() != Some(FileType::Directory) {
            return Err(Error::NotDirectory { path: spec.to_vec() }.into());
        }
        Ok(ino)
    }

    /// The directories from `root` to `dir`, both included; of a directory that is not below the root, those above it.
    fn chain(&self, root: Ino, dir: Ino) -> Outcome<Vec<Ino>> {
        let volume = self.volume()?;
        let mut chain = vec![dir];
        let mut at = dir;
        while at != root && at != Ino::ROOT && chain.len() < MAX_DEPTH {
            let inode = volume.raw_inode(at)?;
            match volume.lookup(Owner { ino: at, inode: &inode }, b"..")? {
                Some(parent) if parent != at && !chain.contains(&parent) => at = parent,
                _ => break,
            }
            chain.push(at);
        }
        if at != root {
            chain.push(root);
        }
        chain.reverse();
        Ok(chain)
    }

    /// A path of the image from the root of the filesystem, as commands that change it name it.
    pub fn absolute(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        let (root, cwd) = self.directories()?;
        let mut all = self.path_of(if path.starts_with(b"/") { root } else { cwd })?;
        all.push(b'/');
        all.extend_from_slice(path);
        Ok(all)
    }

    /// The path of a directory from the root of the filesystem.
    pub fn path_of(&self, dir: Ino) -> Outcome<Vec<u8>> {
        let volume = self.volume()?;
        let chain = self.chain(Ino::ROOT, dir)?;
        let mut path = Vec::new();
        for pair in chain.windows(2) {
            let &[parent, child] = pair else { continue };
            let inode = volume.raw_inode(parent)?;
            let mut name = format!("<{child}>").into_bytes();
            volume.for_each_entry(Owner { ino: parent, inode: &inode }, &mut |e| {
                if e.entry.ino != child || is_dot_or_dotdot(e.entry.name) {
                    return Ok(ControlFlow::Continue(()));
                }
                name = e.entry.name.to_vec();
                Ok(ControlFlow::Break(()))
            })?;
            path.push(b'/');
            path.extend_from_slice(&name);
        }
        Ok(if path.is_empty() { b"/".to_vec() } else { path })
    }
}

/// The inode that `<number>` names.
pub(super) fn numbered(spec: &[u8]) -> Option<Ino> {
    let number = spec.strip_prefix(b"<").and_then(|s| s.strip_suffix(b">"))?;
    super::args::number32(number, "inode number").ok().map(Ino)
}
