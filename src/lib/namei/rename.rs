//! Names moved.

use super::Namei;
use crate::error::{Error, Result};
use crate::format::inode::{FileType, TimeField};
use crate::units::Ino;
use crate::volume::edit::OpenInode;

/// Most directories on the way up to the root.
const MAX_DEPTH: u32 = 1 << 16;

/// The directories of a rename: one, or two different ones.
struct Dirs {
    from: OpenInode,
    to: Option<OpenInode>,
}

impl Dirs {
    fn to(&mut self) -> &mut OpenInode {
        self.to.as_mut().unwrap_or(&mut self.from)
    }
}

impl Namei<'_> {
    /// Move a name; what is called `to_name` in `to` already is replaced, unless `keep` forbids it. Nothing happens where
    /// both names stand for the same object.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Exists`] with `keep`; [`Error::IsDirectory`] and [`Error::NotDirectory`] where only one of the
    /// two is a directory; [`Error::NotEmpty`]; [`Error::IntoItself`].
    #[doc(alias = "ext4_rename")]
    #[doc(alias = "RENAME_NOREPLACE")]
    pub fn rename(&mut self, from: Ino, name: &[u8], to: Ino, to_name: &[u8], keep: bool) -> Result<()> {
        let to_dir = self.open_dir(to, to_name)?;
        let mut dirs =
            Dirs { from: self.open_dir(from, name)?, to: (from != to).then_some(to_dir).filter(|_| from != to) };
        let mut o = self.find(&dirs.from, name)?;
        let Some(kind) = o.inode.file_type() else { return Err(Error::NotFound { path: name.to_vec() }) };
        if o.is_dir() && from != to && self.is_below(to, o.ino)? {
            return Err(Error::IntoItself { path: name.to_vec() });
        }
        let old = match self.edit.vol.lookup(dirs.to().owner(), to_name)? {
            Some(_) if keep => return Err(Error::Exists { path: to_name.to_vec() }),
            Some(ino) if ino == o.ino => return Ok(()),
            Some(ino) => Some(self.edit.open(ino)?),
            None => None,
        };
        if let Some(old) = &old {
            self.check_replace(&o, old, to_name)?;
        }
        let mut credits = 8 + self.edit.add_entry_credits(dirs.to())?;
        if let Some(old) = &old {
            credits = credits.saturating_add(self.delete_credits(old)?);
        }
        self.begin(credits)?;
        let moves_dir = o.is_dir() && from != to;
        if moves_dir && old.is_none() {
            self.edit.add_link(dirs.to())?;
        }
        self.enter(dirs.to(), to_name, &o, kind, old.is_some())?;
        self.edit.remove_entry(&mut dirs.from, name)?;
        if moves_dir {
            self.edit.set_parent(&mut o, to)?;
        }
        // One directory less below `from`: moved away, or (in one directory) another one replaced.
        if o.is_dir() && (moves_dir || old.is_some()) {
            self.edit.drop_link(&mut dirs.from);
        }
        o.inode.set_time(TimeField::Change, self.ctx.now);
        self.put(&mut o)?;
        self.put_dir(&mut dirs.from)?;
        if let Some(to) = &mut dirs.to {
            self.put_dir(to)?;
        }
        match old {
            Some(mut old) if old.is_dir() => self.delete(&mut old),
            Some(mut old) => self.drop_name(&mut old),
            None => Ok(()),
        }
    }

    fn enter(&mut self, dir: &mut OpenInode, name: &[u8], o: &OpenInode, kind: FileType, replace: bool) -> Result<()> {
        if replace {
            self.edit.retarget_entry(dir, name, o.ino, kind).map(|_| ())
        } else {
            self.edit.add_absent_entry(dir, name, o.ino, kind)
        }
    }

    fn check_replace(&self, new: &OpenInode, old: &OpenInode, name: &[u8]) -> Result<()> {
        let path = name.to_vec();
        match (new.is_dir(), old.is_dir()) {
            (true, false) => Err(Error::NotDirectory { path }),
            (false, true) => Err(Error::IsDirectory { path }),
            (true, true) if !self.edit.is_empty_dir(old)? => Err(Error::NotEmpty { path }),
            _ => Ok(()),
        }
    }

    /// Whether directory `dir` is `top` or below it.
    fn is_below(&self, dir: Ino, top: Ino) -> Result<bool> {
        let mut at = dir;
        for _ in 0..MAX_DEPTH {
            if at == top {
                return Ok(true);
            }
            if at == Ino::ROOT {
                return Ok(false);
            }
            let o = self.edit.open(at)?;
            at = self.find(&o, b"..")?.ino;
        }
        Err(Error::IntoItself { path: Vec::new() })
    }
}
