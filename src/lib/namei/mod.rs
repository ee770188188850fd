//! Operations on names: make, link, unlink, rename, content, attributes. Kernel names: `namei.c`, `ext4_setattr`.
//!
//! [`Namei`] does one operation after the other in the running transaction of an [`Edit`]; what lives longer than an
//! operation (the time, quota changes, what was written since the last commit) is in a [`Context`]. An operation computes
//! its credits and asks for them before it changes anything. What can be refused is refused before the first change;
//! an operation that fails later ([`Error::NoSpace`], damage) leaves a transaction that must be given up. So does
//! one that finds in its middle that the transaction has no room for all of it ([`Error::TransactionTooLarge`] from content in
//! many pieces, or from what is done in steps): [`crate::journal::Journal::changes`] tells whether it had begun.
//!
//! Objects are named by directory and name; [`Namei::parent_of`] splits a path. Errors name what they were given: who
//! knows the whole path adds it with [`Error::about`]. Permissions are not checked: who may write the image may do all
//! of this. Quota limits are not enforced, usage is kept right.

mod acl;
mod attrs;
mod content;
mod create;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod names_tests;
mod remove;
mod rename;

pub use attrs::Change;
pub use content::{Bytes, Content};
pub use create::{Attributes, What};

use crate::env::{Entropy, SeededEntropy, Timestamp};
use crate::error::{Error, Result};
use crate::format::csum::crc32c;
use crate::format::inode::{Inode, TimeField};
use crate::units::{Fsblk, Ino};
use crate::volume::edit::{Edit, OpenInode};
use crate::volume::quota::{self, QuotaChanges};
use crate::volume::{LastLink, Volume};
use content::Fresh;

/// What operations need and leave beside the filesystem.
#[derive(Debug)]
pub struct Context {
    /// The time that goes into inodes.
    now: Timestamp,
    entropy: SeededEntropy,
    quota: QuotaChanges,
    fresh: Fresh,
}

impl Context {
    /// For operations on `vol` at `now`. Generations of new inodes follow from the two, so that the same changes to the
    /// same image give the same bytes.
    pub fn new(vol: &Volume, now: Timestamp) -> Self {
        let sb = vol.superblock();
        let uuid = u64::from(crc32c(!0, &sb.uuid));
        let state = (u64::from(sb.free_inodes_count.get()) << 32) ^ sb.write_time().sec as u64;
        let seed = (uuid << 32) ^ state ^ (now.sec as u64).rotate_left(20) ^ u64::from(now.nsec);
        Self { now, entropy: SeededEntropy::new(seed), quota: QuotaChanges::new(vol), fresh: Fresh::default() }
    }

    /// The time that goes into inodes.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// Set the time that goes into inodes.
    pub const fn set_now(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// An inode was changed past all operations: it is `new` (`None`: free) and was `old`. What it uses is counted.
    pub fn count(&mut self, ino: Ino, old: Option<&Inode>, new: Option<&Inode>, block_size: u32) {
        self.quota.replace(ino, old, new, block_size);
    }

    /// The transaction has committed.
    pub fn committed(&mut self) {
        self.fresh = Fresh::default();
    }

    /// Whether `block` holds content that was allocated in the running transaction: a crash loses nothing in it.
    pub fn is_fresh(&self, block: Fsblk) -> bool {
        self.fresh.has(block)
    }
}

/// Operations on names, in the running transaction.
#[derive(Debug)]
pub struct Namei<'a> {
    edit: Edit<'a>,
    ctx: &'a mut Context,
}

impl<'a> Namei<'a> {
    /// Operations through `edit`.
    pub const fn new(edit: Edit<'a>, ctx: &'a mut Context) -> Self {
        Self { edit, ctx }
    }

    /// The volume, as the transaction has it.
    pub const fn volume(&self) -> &Volume {
        self.edit.vol
    }

    /// What is kept between operations.
    pub const fn context(&self) -> &Context {
        self.ctx
    }

    /// Ask for `credits`, before anything is changed.
    ///
    /// # Errors
    /// [`Error::TransactionTooLarge`] where the transaction has no room for them. Nothing has happened then: after a commit,
    /// the operation can be tried again.
    fn begin(&mut self, credits: u32) -> Result<()> {
        let have = self.edit.store.credits();
        if have >= credits || self.edit.store.extend(credits.saturating_sub(have))? {
            return Ok(());
        }
        Err(Error::TransactionTooLarge { need: credits.into(), have: have.into() })
    }

    /// An inode, as the transaction has it.
    pub fn open(&self, ino: Ino) -> Result<OpenInode> {
        self.edit.open(ino)
    }

    /// A directory, as the transaction has it.
    fn open_dir(&self, ino: Ino, name: &[u8]) -> Result<OpenInode> {
        let dir = self.edit.open(ino)?;
        if dir.is_dir() { Ok(dir) } else { Err(Error::NotDirectory { path: name.to_vec() }) }
    }

    /// What `name` in `dir` stands for.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>> {
        let dir = self.open_dir(dir, name)?;
        self.edit.vol.lookup(dir.owner(), name)
    }

    /// What `name` in `dir` stands for, which must be there.
    fn find(&self, dir: &OpenInode, name: &[u8]) -> Result<OpenInode> {
        match self.edit.vol.lookup(dir.owner(), name)? {
            Some(ino) => self.edit.open(ino),
            None => Err(Error::NotFound { path: name.to_vec() }),
        }
    }

    /// What a path stands for.
    pub fn resolve(&self, path: &[u8], last: LastLink) -> Result<Ino> {
        self.edit.vol.resolve(path, last)
    }

    /// The directory of a path's last component, and that component. Links on the way are followed.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the path is the root or ends with `.` or `..`.
    pub fn parent_of(&self, path: &[u8]) -> Result<(Ino, Vec<u8>)> {
        let (parent, name) = split(path);
        if matches!(name, b"" | b"." | b"..") {
            let value = String::from_utf8_lossy(path).into_owned();
            return Err(Error::InvalidArgument { name: "path", value, allowed: "a path with a name at its end" });
        }
        let dir = self.edit.vol.resolve(parent, LastLink::Follow).map_err(|e| e.about(path))?;
        self.open_dir(dir, path)?;
        Ok((dir, name.to_vec()))
    }

    /// Store an inode, and count what it uses. Inodes that are deleted do not come by here.
    fn put(&mut self, o: &mut OpenInode) -> Result<()> {
        if self.ctx.quota.is_on() {
            let was = self.edit.vol.raw_inode(o.ino)?;
            let block_size = self.edit.vol.geometry().block_size;
            self.ctx.quota.replace(o.ino, Some(&was), Some(&o.inode), block_size);
        }
        self.edit.put(o)
    }

    /// Store an inode that had no content or owner before.
    fn put_new(&mut self, o: &mut OpenInode) -> Result<()> {
        if self.ctx.quota.is_on() {
            let block_size = self.edit.vol.geometry().block_size;
            self.ctx.quota.replace(o.ino, None, Some(&o.inode), block_size);
        }
        self.edit.put(o)
    }

    /// Store a directory whose entries have changed.
    fn put_dir(&mut self, dir: &mut OpenInode) -> Result<()> {
        dir.inode.set_time(TimeField::Modify, self.ctx.now);
        dir.inode.set_time(TimeField::Change, self.ctx.now);
        self.put(dir)
    }

    fn generation(&mut self) -> u32 {
        self.ctx.entropy.next_u32()
    }

    /// Bring the quota files up to date with what was done. Before each commit.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Corrupt`] quota files.
    pub fn sync_quota(&mut self) -> Result<()> {
        quota::sync(&mut self.edit, &mut self.ctx.quota)
    }
}

/// A path's directory and last component; trailing slashes do not count.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().rposition(|b| *b != b'/').map_or(0, |i| i + 1);
    let path = &path[..end];
    match path.iter().rposition(|b| *b == b'/') {
        Some(i) => (&path[..=i], &path[i + 1..]),
        None => (b"/", path),
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn paths_split_before_the_last_name() {
        for (path, parent, name) in [
            ("/a/b", "/a/", "b"),
            ("a", "/", "a"),
            ("/a//", "/", "a"),
            ("/", "/", ""),
            ("", "/", ""),
            ("a//b/", "a//", "b"),
        ] {
            assert_eq!(split(path.as_bytes()), (parent.as_bytes(), name.as_bytes()), "{path}");
        }
    }
}
