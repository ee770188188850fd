//! Paths: from a name to an inode. Names are bytes, `/` separates them, repeated separators count once.
//!
//! A path is resolved from the root directory, whether it starts with `/` or not. Symbolic links on the way are
//! followed inside the image; one at the end on request.

use super::{Owner, Volume};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::inode::{FileType, Inode};
use crate::units::Ino;

/// Most symbolic links that are followed on one path.
#[doc(alias = "MAXSYMLINKS")]
const MAX_SYMLINKS: u32 = 40;
/// Longest symbolic link target, bytes, and longest path that is followed.
const PATH_MAX: usize = 4096;
/// Most name components in one resolution, links included.
const MAX_COMPONENTS: usize = 1 << 16;

/// What to do with a symbolic link at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLink {
    /// Resolve to the link itself.
    Keep,
    /// Resolve to what it points to.
    Follow,
}

impl Volume {
    /// The inode that `path` stands for.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`] and [`Error::SymlinkLoop`] name the whole path.
    pub fn resolve(&self, path: &[u8], last: LastLink) -> Result<Ino> {
        self.resolve_from(&[Ino::ROOT], path, last)
    }

    /// [`Volume::resolve`] from another place than the root: `start` has the directories from the one that counts as
    /// root (absolute links lead there, and nothing leads above it) to where the path begins. An empty `start` is the
    /// root directory.
    pub fn resolve_from(&self, start: &[Ino], path: &[u8], last: LastLink) -> Result<Ino> {
        let whole = || path.to_vec();
        // Components still to walk, the next one last.
        let mut todo: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        let mut walked = if start.is_empty() { vec![Ino::ROOT] } else { start.to_vec() };
        let (mut links, mut steps) = (0u32, 0usize);
        while let Some(name) = todo.pop() {
            steps = steps.saturating_add(1);
            if steps > MAX_COMPONENTS {
                return Err(Error::SymlinkLoop { path: whole() });
            }
            let dir = walked.last().copied().unwrap_or(Ino::ROOT);
            let inode = self.inode(dir)?;
            if inode.file_type() != Some(FileType::Directory) {
                return Err(Error::NotDirectory { path: whole() });
            }
            match &name[..] {
                b"." => continue,
                b".." => {
                    if walked.len() > 1 {
                        walked.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let Some(ino) = self.lookup(Owner { ino: dir, inode: &inode }, &name)? else {
                return Err(Error::NotFound { path: whole() });
            };
            let child = self.inode(ino)?;
            let follow = !todo.is_empty() || last == LastLink::Follow || path.last() == Some(&b'/');
            if child.file_type() == Some(FileType::Symlink) && follow {
                links = links.saturating_add(1);
                if links > MAX_SYMLINKS {
                    return Err(Error::SymlinkLoop { path: whole() });
                }
                let target = self.symlink_target(Owner { ino, inode: &child })?;
                if target.first() == Some(&b'/') {
                    walked.truncate(1);
                }
                todo.extend(components(&target).rev().map(<[u8]>::to_vec));
            } else {
                walked.push(ino);
            }
        }
        Ok(walked.last().copied().unwrap_or(Ino::ROOT))
    }

    /// [`Volume::resolve`], with the inode.
    pub fn resolve_inode(&self, path: &[u8], last: LastLink) -> Result<(Ino, Inode)> {
        let ino = self.resolve(path, last)?;
        Ok((ino, self.inode(ino)?))
    }

    /// The target of a symbolic link, 1 to 4095 bytes. Encrypted targets are returned as stored.
    pub fn symlink_target(&self, owner: Owner<'_>) -> Result<Vec<u8>> {
        let of = Structure::Symlink;
        let bad = |value| Error::corrupt(Flaw::Field { of, field: "size", value }, Place::inode(owner.ino));
        let size = owner.inode.size();
        if size == 0 || size >= PATH_MAX as u64 {
            return Err(bad(size));
        }
        self.reader(owner)?.read_all(PATH_MAX)?.ok_or_else(|| bad(size))
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|c| !c.is_empty())
}
