//! Directories, changed: names added, removed and pointed elsewhere; `..`; new and inline directories. Sizes in bytes.
//!
//! A directory starts with one block (or inside the inode). When that is full it gets an index, where the filesystem
//! has `dir_index`; otherwise it grows block by block. It never shrinks. Directories whose names are encrypted are
//! refused.

use std::ops::ControlFlow;

use super::edit::{Edit, OpenInode, modify_block};
use super::map_edit::Wanted;
use crate::error::{Error, FeatureWord, Flaw, Place, Result, Structure};
use crate::format::dirent::{self, DirPacker, NewDirent};
use crate::format::dirhash::DirHash;
use crate::format::features::{Compat, Incompat};
use crate::format::htree;
use crate::format::inode::{FileType, InodeFlags};
use crate::format::{bytes, casefold};
use crate::units::{Fsblk, Ino, Lblk};

/// Byte offset of the `..` entry in the first block.
const DOTDOT_AT: usize = 12;

impl Edit<'_> {
    /// Put a name into a directory, which is changed in memory ([`Edit::put`] is the caller's).
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::InvalidArgument`] for a bad name, [`Error::NoSpace`], [`Error::Unsupported`] for
    /// encrypted directories.
    #[doc(alias = "ext4_add_entry")]
    pub fn add_entry(&mut self, dir: &mut OpenInode, name: &[u8], ino: Ino, kind: FileType) -> Result<()> {
        self.check_name(dir, name)?;
        if self.vol.find_entry(dir.owner(), name)?.is_some() {
            return Err(Error::Exists { path: name.to_vec() });
        }
        self.add_absent_entry(dir, name, ino, kind)
    }

    /// [`Edit::add_entry`] for a name that is known not to be there: it is not looked for.
    ///
    /// # Errors
    /// As [`Edit::add_entry`], but for [`Error::Exists`].
    pub fn add_absent_entry(&mut self, dir: &mut OpenInode, name: &[u8], ino: Ino, kind: FileType) -> Result<()> {
        self.check_name(dir, name)?;
        let entry = NewDirent { ino, name, file_type: kind.dirent_code(), hash: DirHash::default() };
        if dir.has(InodeFlags::INLINE_DATA) {
            if self.add_inline_entry(dir, &entry)? {
                return Ok(());
            }
            self.inline_dir_to_block(dir)?;
        }
        if self.vol.is_indexed(dir.owner()) {
            return self.add_indexed(dir, &entry);
        }
        let blocks = self.dir_block_count(dir);
        for n in 0..blocks {
            if let Some(block) = self.dir_block(dir, Lblk(n))?
                && self.insert_in_leaf(dir, block, &entry)?
            {
                return Ok(());
            }
        }
        if blocks == 1 && self.vol.geo.features.compat.contains(Compat::DIR_INDEX) {
            self.make_indexed(dir)?;
            return self.add_indexed(dir, &entry);
        }
        let (_, block) = self.append_dir_block(dir)?;
        let mut bytes = vec![0; self.block_size()];
        let mut packer = DirPacker::new(&mut bytes, self.vol.dir_format(dir.owner()));
        let fits = packer.push(&entry);
        packer.finish(self.seed(dir).unwrap_or(0));
        self.store.create(block, bytes.into())?;
        if fits { Ok(()) } else { Err(full()) }
    }

    /// Remove a name; the inode it stood for, or `None` where there is no such name.
    #[doc(alias = "ext4_delete_entry")]
    pub fn remove_entry(&mut self, dir: &mut OpenInode, name: &[u8]) -> Result<Option<Ino>> {
        self.check_name(dir, name)?;
        let Some(found) = self.vol.find_entry(dir.owner(), name)? else { return Ok(None) };
        let Some(block) = found.block else {
            self.remove_inline_entry(dir, found.offset)?;
            return Ok(Some(found.ino));
        };
        let format = self.vol.dir_format(dir.owner());
        let seed = self.seed(dir);
        let removed = modify_block(self.store, block, |bytes| {
            let removed = dirent::remove(bytes, format, found.offset);
            if let Some(seed) = seed {
                dirent::stamp(bytes, seed);
            }
            removed
        })??;
        Ok(removed.then_some(found.ino))
    }

    /// Point an existing name to another inode; the inode it stood for, or `None` where there is no such name.
    #[doc(alias = "ext4_setent")]
    pub fn retarget_entry(
        &mut self,
        dir: &mut OpenInode,
        name: &[u8],
        ino: Ino,
        kind: FileType,
    ) -> Result<Option<Ino>> {
        self.check_name(dir, name)?;
        let Some(found) = self.vol.find_entry(dir.owner(), name)? else { return Ok(None) };
        let Some(block) = found.block else {
            self.retarget_inline_entry(dir, found.offset, ino, kind)?;
            return Ok(Some(found.ino));
        };
        let format = self.vol.dir_format(dir.owner());
        let seed = self.seed(dir);
        modify_block(self.store, block, |bytes| {
            let _ = dirent::set_target(bytes, format, found.offset, ino, kind.dirent_code());
            if let Some(seed) = seed {
                dirent::stamp(bytes, seed);
            }
        })?;
        Ok(Some(found.ino))
    }

    /// Point `..` to another directory.
    #[doc(alias = "ext4_rename_dir_finish")]
    pub fn set_parent(&mut self, dir: &mut OpenInode, parent: Ino) -> Result<()> {
        if dir.has(InodeFlags::INLINE_DATA) {
            dir.inode.update(|c| {
                let _ = bytes::put(&mut c.block, 0, &parent.0.to_le_bytes());
            });
            return Ok(());
        }
        let place = Place::inode(dir.ino).in_lblk(Lblk(0));
        let bad = || Error::corrupt(Flaw::Inconsistent { of: Structure::DirBlock, detail: "no .. entry" }, place);
        let block = self.dir_block(dir, Lblk(0))?.ok_or_else(bad)?;
        let indexed = self.vol.is_indexed(dir.owner());
        let seed = self.seed(dir);
        let old = self.store.read(block)?;
        if bytes::array::<4>(&old, DOTDOT_AT.saturating_add(8)).is_none_or(|n| !n.starts_with(b"..")) {
            return Err(bad());
        }
        modify_block(self.store, block, |out| {
            let _ = bytes::put(out, DOTDOT_AT, &parent.0.to_le_bytes());
            match seed {
                Some(seed) if indexed => htree::stamp(out, seed),
                Some(seed) => dirent::stamp(out, seed),
                None => {}
            }
        })
    }

    /// Give a new directory its first content, `.` and `..`, and two links: inside the inode where the filesystem
    /// has `inline_data`, else in a block.
    #[doc(alias = "ext4_init_new_dir")]
    pub fn init_dir(&mut self, dir: &mut OpenInode, parent: Ino) -> Result<()> {
        dir.set_links(2);
        if self.init_inline_dir(dir, parent)? {
            return Ok(());
        }
        self.first_dir_block(dir, parent, &[])
    }

    /// Write the only block of a directory that has none.
    pub(super) fn first_dir_block(
        &mut self,
        dir: &mut OpenInode,
        parent: Ino,
        entries: &[NewDirent<'_>],
    ) -> Result<()> {
        dir.inode.set_size(0);
        let (_, block) = self.append_dir_block(dir)?;
        let mut bytes = vec![0; self.block_size()];
        let mut packer = DirPacker::new(&mut bytes, self.vol.dir_format(dir.owner()));
        let file_type = FileType::Directory.dirent_code();
        let dots = [(dir.ino, &b"."[..]), (parent, b"..")];
        let dots = dots.map(|(ino, name)| NewDirent { ino, name, file_type, hash: DirHash::default() });
        let fits = dots.iter().chain(entries).all(|e| packer.push(e));
        packer.finish(self.seed(dir).unwrap_or(0));
        self.store.create(block, bytes.into())?;
        if fits { Ok(()) } else { Err(full()) }
    }

    /// Whether a directory holds nothing but `.` and `..`.
    #[doc(alias = "ext4_empty_dir")]
    pub fn is_empty_dir(&self, dir: &OpenInode) -> Result<bool> {
        let mut empty = true;
        self.vol.for_each_entry(dir.owner(), &mut |e| {
            empty = dirent::is_dot_or_dotdot(e.entry.name);
            Ok(if empty { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(empty)
    }

    fn check_name(&self, dir: &OpenInode, name: &[u8]) -> Result<()> {
        if !dir.is_dir() {
            return Err(Error::NotDirectory { path: name.to_vec() });
        }
        if dir.has(InodeFlags::ENCRYPT) {
            let encrypt = Incompat::ENCRYPT.bits().trailing_zeros() as u8;
            let feature = crate::error::FeatureBit { word: FeatureWord::Incompat, bit: encrypt, name: Some("encrypt") };
            return Err(Error::Unsupported { features: vec![feature] });
        }
        let strict = self.vol.sb.encoding_flags.get() & casefold::ENCODING_STRICT != 0;
        let invalid = self.vol.folds_case(dir.owner()) && strict && !casefold::is_valid(name);
        if !dirent::is_valid_name(name) || dirent::is_dot_or_dotdot(name) || invalid {
            let value = String::from_utf8_lossy(name).into_owned();
            let allowed = "1 to 255 bytes without / and NUL, not . or .., valid UTF-8 in a strict directory";
            return Err(Error::InvalidArgument { name: "name", value, allowed });
        }
        Ok(())
    }

    /// Blocks of a directory, by its size.
    pub(super) fn dir_block_count(&self, dir: &OpenInode) -> u32 {
        u32::try_from(dir.inode.size() >> self.vol.geo.block_bits).unwrap_or(u32::MAX)
    }

    pub(super) fn dir_block(&self, dir: &OpenInode, lblk: Lblk) -> Result<Option<Fsblk>> {
        Ok(match self.vol.map(dir.owner(), lblk)? {
            super::Mapping::Mapped { pblk, unwritten: false, .. } => Some(pblk),
            _ => None,
        })
    }

    /// Give a directory one more block, which is empty. Names find room there later.
    ///
    /// # Errors
    /// [`crate::Error::InvalidArgument`] for a directory with an index, whose blocks have their places in it.
    #[doc(alias = "ext2fs_expand_dir")]
    pub fn expand_dir(&mut self, dir: &mut OpenInode) -> Result<Fsblk> {
        let (name, value) = ("directory", format!("<{}>", dir.ino));
        if self.vol.is_indexed(dir.owner()) {
            let allowed = "one without an index: a block that no index leads to is damage";
            return Err(crate::Error::InvalidArgument { name, value, allowed });
        }
        if dir.has(crate::format::inode::InodeFlags::INLINE_DATA) {
            let allowed = "one that has blocks: this one is inside its inode";
            return Err(crate::Error::InvalidArgument { name, value, allowed });
        }
        let format = self.vol.dir_format(dir.owner());
        let (_, block) = self.append_dir_block(dir)?;
        let mut bytes = vec![0; self.block_size()];
        dirent::init_empty(&mut bytes, format);
        if let Some(seed) = self.seed(dir) {
            dirent::stamp(&mut bytes, seed);
        }
        self.store.create(block, bytes.into())?;
        Ok(block)
    }

    /// Allocate the block behind the last one. Its content is the caller's to create.
    #[doc(alias = "ext4_append")]
    pub(super) fn append_dir_block(&mut self, dir: &mut OpenInode) -> Result<(Lblk, Fsblk)> {
        let lblk = Lblk(self.dir_block_count(dir));
        let got = self.allocate_range(dir, Wanted { lblk, len: 1, unwritten: false, ahead: 0 })?;
        let size = u64::from(lblk.0).saturating_add(1) << self.vol.geo.block_bits;
        dir.inode.set_size(size);
        Ok((lblk, got.pblk))
    }

    /// Insert into a block where it has room; whether it had.
    pub(super) fn insert_in_leaf(&mut self, dir: &OpenInode, block: Fsblk, entry: &NewDirent<'_>) -> Result<bool> {
        let format = self.vol.dir_format(dir.owner());
        let seed = self.seed(dir);
        let old = self.store.read(block)?;
        let place = Place::inode(dir.ino).in_block(block);
        if let Some(seed) = seed.filter(|_| self.vol.verifies_checksums()) {
            dirent::verify(&old, seed).map_err(|e| e.at(place))?;
        }
        let mut bytes = old.to_vec();
        if dirent::insert(&mut bytes, format, entry).map_err(|e| e.at(place))?.is_none() {
            return Ok(false);
        }
        if let Some(seed) = seed {
            dirent::stamp(&mut bytes, seed);
        }
        self.store.write(block, bytes.into())?;
        Ok(true)
    }
}

/// A directory's index can hold no more.
pub(super) const fn full() -> Error {
    Error::NoSpace { what: "directory index entries", need: 1, have: 0 }
}
