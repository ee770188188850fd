//! Inline data, changed: small files and directories inside the inode, and moved out to blocks. Sizes in bytes.
//!
//! The content is the 60 bytes of the block area, then the value of the attribute `system.data`, which is there even
//! when it is empty. A directory's content is its parent's number (le32) and two regions of entries: what is left of
//! the block area, and the attribute's value.

use super::Volume;
use super::edit::{Edit, OpenInode};
use super::map_edit::Wanted;
use super::xattr_edit::store_inode_xattrs;
use super::xattr_plan::{HeldValue, HeldXattr};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::bytes;
use crate::format::dirent::{self, DirFormat, NewDirent};
use crate::format::dirhash::DirHash;
use crate::format::features::Incompat;
use crate::format::inode::{BLOCK_LEN, FileType, InodeFlags};
use crate::format::xattr;
use crate::units::{Ino, Lblk};

/// Name, after `system.`, of the attribute with the second part.
const NAME: &[u8] = b"data";
/// Bytes of the parent's number at the start of a directory.
const PARENT_LEN: usize = 4;

impl Volume {
    /// Whether the filesystem keeps small content in inodes.
    pub fn has_inline_data(&self) -> bool {
        self.geo.features.incompat.contains(Incompat::INLINE_DATA)
    }
}

fn is_data(x: &HeldXattr) -> bool {
    x.is(xattr::INDEX_SYSTEM, NAME)
}

impl Edit<'_> {
    /// The most content that fits inside an inode, by what other attributes leave; 0 where there is no room at all or
    /// the filesystem does not do it.
    #[doc(alias = "ext4_get_max_inline_size")]
    pub fn inline_capacity(&self, o: &OpenInode) -> Result<usize> {
        if !self.vol.has_inline_data() || !matches!(o.inode.file_type(), Some(FileType::Regular | FileType::Directory))
        {
            return Ok(0);
        }
        let others: Vec<_> = self.inode_xattrs(o)?.into_iter().filter(|x| !is_data(x)).collect();
        let taken = others.iter().map(|x| x.as_new().need()).fold(0, usize::saturating_add);
        let fixed = xattr::IBODY_HEADER.saturating_add(4).saturating_add(xattr::entry_len(NAME.len()));
        let area = o.inode.xattr_area().len();
        Ok(match area.checked_sub(taken.saturating_add(fixed)) {
            Some(rest) => BLOCK_LEN.saturating_add(rest & !3),
            None => 0,
        })
    }

    /// Make `content` the inline content of an inode that has no blocks; whether it fits. The size becomes its
    /// length. The inode is changed in memory.
    pub fn write_inline(&mut self, o: &mut OpenInode, content: &[u8]) -> Result<bool> {
        if content.len() > self.inline_capacity(o)? {
            return Ok(false);
        }
        let (first, second) = content.split_at_checked(BLOCK_LEN).unwrap_or((content, &[]));
        let mut all = self.inode_xattrs(o)?;
        match all.iter_mut().find(|x| is_data(x)) {
            Some(x) => x.value = HeldValue::Bytes(second.to_vec()),
            None => all.push(HeldXattr {
                index: xattr::INDEX_SYSTEM,
                name: NAME.to_vec(),
                value: HeldValue::Bytes(second.to_vec()),
            }),
        }
        if !store_inode_xattrs(o, &all) {
            return Ok(false);
        }
        let mut area = [0; BLOCK_LEN];
        let _ = bytes::put(&mut area, 0, first);
        o.inode.update(|c| c.block = area);
        o.set(InodeFlags::EXTENTS, false);
        o.set(InodeFlags::INLINE_DATA, true);
        o.inode.set_size(content.len() as u64);
        Ok(true)
    }

    /// Take the content out of an inode and leave it with an empty block map; returns what was inside.
    #[doc(alias = "ext4_destroy_inline_data_nolock")]
    fn take_inline(&self, o: &mut OpenInode) -> Result<Vec<u8>> {
        let content = self.vol.inline_content(o.owner())?;
        let mut all = self.inode_xattrs(o)?;
        all.retain(|x| !is_data(x));
        let _ = store_inode_xattrs(o, &all);
        o.set(InodeFlags::INLINE_DATA, false);
        self.init_map(o);
        Ok(content)
    }

    /// Give an inode the empty block map that new inodes of this filesystem have.
    pub fn init_map(&self, o: &mut OpenInode) {
        if self.vol.geo.features.incompat.contains(Incompat::EXTENTS) {
            self.init_extents(o);
        } else {
            o.inode.update(|c| c.block = [0; BLOCK_LEN]);
            o.set(InodeFlags::EXTENTS, false);
        }
    }

    /// Move a file's inline content to a block. The size stays.
    #[doc(alias = "ext4_convert_inline_data")]
    pub fn inline_file_to_block(&mut self, o: &mut OpenInode) -> Result<()> {
        let mut content = self.take_inline(o)?;
        if content.is_empty() {
            return Ok(());
        }
        let got = self.allocate_range(o, Wanted { lblk: Lblk(0), len: 1, unwritten: false, ahead: 0 })?;
        content.resize(self.block_size(), 0);
        self.store.write_data(got.pblk, &content)
    }

    /// Start a directory inside its inode; whether there is room and the filesystem does it.
    #[doc(alias = "ext4_try_create_inline_dir")]
    pub(super) fn init_inline_dir(&mut self, dir: &mut OpenInode, parent: Ino) -> Result<bool> {
        if self.inline_capacity(dir)? < BLOCK_LEN {
            return Ok(false);
        }
        let mut content = [0; BLOCK_LEN];
        let _ = bytes::put(&mut content, 0, &parent.0.to_le_bytes());
        if let Some(region) = content.get_mut(PARENT_LEN..) {
            dirent::init_empty(region, self.inline_format(dir));
        }
        self.write_inline(dir, &content)
    }

    fn inline_format(&self, dir: &OpenInode) -> DirFormat {
        DirFormat { tail: false, ..self.vol.dir_format(dir.owner()) }
    }

    /// Put an entry into an inline directory, which takes what room the inode has; whether it fits.
    #[doc(alias = "ext4_try_add_inline_entry")]
    pub(super) fn add_inline_entry(&mut self, dir: &mut OpenInode, entry: &NewDirent<'_>) -> Result<bool> {
        let format = self.inline_format(dir);
        let place = Place::inode(dir.ino);
        let mut content = self.vol.inline_content(dir.owner())?;
        let cut = content.len().min(BLOCK_LEN);
        for range in [PARENT_LEN..cut, cut..content.len()] {
            let Some(region) = content.get_mut(range).filter(|r| !r.is_empty()) else { continue };
            if dirent::insert(region, format, entry).map_err(|e| e.at(place))?.is_some() {
                return self.write_inline(dir, &content);
            }
        }
        let (old, room) = (content.len(), self.inline_capacity(dir)?);
        let more = room.saturating_sub(old);
        if cut < BLOCK_LEN || more < dirent::min_rec_len(1, false) {
            return Ok(false);
        }
        // The new room is an unused entry behind the others.
        content.resize(room, 0);
        let Some(region) = content.get_mut(old..) else { return Ok(false) };
        dirent::init_empty(region, format);
        let Some(region) = content.get_mut(BLOCK_LEN..) else { return Ok(false) };
        if dirent::insert(region, format, entry).map_err(|e| e.at(place))?.is_none() {
            return Ok(false);
        }
        self.write_inline(dir, &content)
    }

    /// Change the region of an inline directory that holds the entry at `offset` of the content.
    fn change_inline<T>(
        &mut self,
        dir: &mut OpenInode,
        offset: usize,
        change: impl FnOnce(&mut [u8], DirFormat, usize) -> Result<T>,
    ) -> Result<T> {
        let format = self.inline_format(dir);
        let mut content = self.vol.inline_content(dir.owner())?;
        let cut = content.len().min(BLOCK_LEN);
        let (start, range) = if offset < cut { (PARENT_LEN, PARENT_LEN..cut) } else { (cut, cut..content.len()) };
        let lost = Error::corrupt(
            Flaw::Inconsistent { of: Structure::InlineData, detail: "an entry is outside the content" },
            Place::inode(dir.ino),
        );
        let Some(region) = content.get_mut(range) else { return Err(lost) };
        let done = change(region, format, offset.saturating_sub(start))?;
        if self.write_inline(dir, &content)? { Ok(done) } else { Err(lost) }
    }

    pub(super) fn remove_inline_entry(&mut self, dir: &mut OpenInode, offset: usize) -> Result<()> {
        self.change_inline(dir, offset, |region, format, at| dirent::remove(region, format, at).map(|_| ()))
    }

    pub(super) fn retarget_inline_entry(
        &mut self,
        dir: &mut OpenInode,
        offset: usize,
        ino: Ino,
        kind: FileType,
    ) -> Result<()> {
        self.change_inline(dir, offset, |region, format, at| {
            let _ = dirent::set_target(region, format, at, ino, kind.dirent_code());
            Ok(())
        })
    }

    /// Move a directory's inline content to a block.
    #[doc(alias = "ext4_convert_inline_data_nolock")]
    pub fn inline_dir_to_block(&mut self, dir: &mut OpenInode) -> Result<()> {
        let format = self.inline_format(dir);
        let content = self.take_inline(dir)?;
        let place = Place::inode(dir.ino);
        let Some(parent) = bytes::le32(&content, 0).map(Ino) else {
            let flaw = Flaw::Short { of: Structure::InlineData, need: 4, have: content.len() as u64 };
            return Err(Error::corrupt(flaw, place));
        };
        let mut entries = Vec::new();
        for (_, region) in Volume::inline_regions(&content) {
            for e in dirent::entries(region, format) {
                let e = e.map_err(|e| e.at(place))?;
                if e.is_used() {
                    let hash = e.hash.unwrap_or_else(DirHash::default);
                    entries.push(NewDirent { ino: e.ino, name: e.name, file_type: e.file_type, hash });
                }
            }
        }
        self.first_dir_block(dir, parent, &entries)
    }
}
