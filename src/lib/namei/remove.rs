//! Names removed, and with the last one what they stood for.

use super::Namei;
use crate::error::{Error, Result};
use crate::format::inode::TimeField;
use crate::units::{Ino, Lblk};
use crate::volume::edit::OpenInode;

/// Blocks that an entry's removal and the two inodes' change dirty.
const REMOVE: u32 = 4;
/// What freeing an inode dirties beside its blocks: bitmap, descriptors, superblock, the inode, its attribute block
/// and that block's bitmap.
const DELETE: u32 = 8;
/// Most entries of one directory, or levels, that removing a tree keeps in mind at a time.
const MAX_DEPTH: usize = 1 << 16;

impl Namei<'_> {
    /// Remove a name that is not a directory's.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::IsDirectory`].
    #[doc(alias = "ext4_unlink")]
    pub fn unlink(&mut self, dir: Ino, name: &[u8]) -> Result<()> {
        let mut dir = self.open_dir(dir, name)?;
        let mut o = self.find(&dir, name)?;
        if o.is_dir() {
            return Err(Error::IsDirectory { path: name.to_vec() });
        }
        let credits = REMOVE.saturating_add(self.drop_credits(&o)?);
        self.begin(credits)?;
        self.edit.remove_entry(&mut dir, name)?;
        self.put_dir(&mut dir)?;
        self.drop_name(&mut o)
    }

    /// Remove an empty directory.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`], [`Error::NotEmpty`].
    #[doc(alias = "ext4_rmdir")]
    pub fn rmdir(&mut self, dir: Ino, name: &[u8]) -> Result<()> {
        let mut dir = self.open_dir(dir, name)?;
        let mut o = self.find(&dir, name)?;
        if !o.is_dir() {
            return Err(Error::NotDirectory { path: name.to_vec() });
        }
        if !self.edit.is_empty_dir(&o)? {
            return Err(Error::NotEmpty { path: name.to_vec() });
        }
        let credits = REMOVE.saturating_add(self.delete_credits(&o)?);
        self.begin(credits)?;
        self.edit.remove_entry(&mut dir, name)?;
        self.edit.drop_link(&mut dir);
        self.put_dir(&mut dir)?;
        self.delete(&mut o)
    }

    /// Remove a name and, where it is a directory's, all that is below.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn remove_tree(&mut self, dir: Ino, name: &[u8]) -> Result<()> {
        let top = self.open_dir(dir, name)?;
        let o = self.find(&top, name)?;
        if !o.is_dir() {
            return self.unlink(dir, name);
        }
        // The name goes last, so that a change in several transactions leaves names that work.
        self.clear_dir(o.ino)?;
        self.rmdir(dir, name)
    }

    /// Remove all that is in a directory.
    pub fn clear_dir(&mut self, dir: Ino) -> Result<()> {
        // Directories that are being emptied, each with what is left of its entries.
        let mut stack = vec![(dir, self.entries(dir)?)];
        while let Some((at, left)) = stack.last_mut() {
            let at = *at;
            let Some(name) = left.pop() else {
                stack.pop();
                continue;
            };
            let parent = self.edit.open(at)?;
            let o = self.find(&parent, &name)?;
            if !o.is_dir() {
                self.unlink(at, &name)?;
            } else if self.edit.is_empty_dir(&o)? {
                self.rmdir(at, &name)?;
            } else {
                if stack.len() >= MAX_DEPTH {
                    return Err(Error::SymlinkLoop { path: name });
                }
                // Once more when it is empty.
                if let Some((_, left)) = stack.last_mut() {
                    left.push(name);
                }
                let inside = self.entries(o.ino)?;
                stack.push((o.ino, inside));
            }
        }
        Ok(())
    }

    /// Names in a directory, the last in its order first.
    fn entries(&self, dir: Ino) -> Result<Vec<Vec<u8>>> {
        let o = self.edit.open(dir)?;
        let mut names: Vec<_> = self.edit.vol.read_dir(o.owner())?.into_iter().map(|e| e.name).collect();
        names.reverse();
        Ok(names)
    }

    /// Credits for [`Namei::drop_name`].
    pub(super) fn drop_credits(&self, o: &OpenInode) -> Result<u32> {
        if o.links() > 1 { Ok(1) } else { self.delete_credits(o) }
    }

    /// Credits for [`Namei::delete`].
    pub(super) fn delete_credits(&self, o: &OpenInode) -> Result<u32> {
        let content = self.edit.remove_credits(o, Lblk(0), u64::MAX)?;
        Ok(content.saturating_add(DELETE).saturating_add(self.edit.xattr_credits(o, 0)))
    }

    /// One name less; with the last one the object goes.
    pub(super) fn drop_name(&mut self, o: &mut OpenInode) -> Result<()> {
        if o.links() <= 1 {
            return self.delete(o);
        }
        self.edit.drop_link(o);
        o.inode.set_time(TimeField::Change, self.ctx.now);
        self.put(o)
    }

    /// Free an inode and all that it has.
    pub(super) fn delete(&mut self, o: &mut OpenInode) -> Result<()> {
        if self.ctx.quota.is_on() {
            let was = self.edit.vol.raw_inode(o.ino)?;
            let block_size = self.edit.vol.geometry().block_size;
            self.ctx.quota.replace(o.ino, Some(&was), None, block_size);
            let values = self.value_inodes(o)?;
            self.ctx.quota.add_inodes(&was, -values);
        }
        o.inode.set_time(TimeField::Change, self.ctx.now);
        self.edit.delete_inode(o, self.ctx.now)
    }
}
