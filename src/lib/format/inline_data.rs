//! Small files and directories inside their inode: 60 bytes in the `block` area, and the rest as the value of the
//! attribute `system.data` in the inode body. Little endian. Kernel: `fs/ext4/inline.c`.
//!
//! A directory's first four bytes are the inode of `..`; entries fill the other 56 bytes, and then, as a list of its
//! own, the attribute's value. There is no `.`, no `..` and no checksum tail.

use super::bytes::{le32, put};
use super::dirent::{DirFormat, Dirents, entries};
use super::inode::{BLOCK_LEN, GOOD_OLD_SIZE, Inode};
use super::xattr::{INDEX_SYSTEM, NewXattr, Value, Xattr, entry_len, padded, parse_ibody};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::units::Ino;

/// Name of the attribute, behind `system.`.
#[doc(alias = "EXT4_XATTR_SYSTEM_DATA")]
pub const XATTR_NAME: &[u8] = b"data";
/// Bytes in the `block` area of an inode.
#[doc(alias = "EXT4_MIN_INLINE_DATA_SIZE")]
pub const IN_BLOCK: usize = BLOCK_LEN;
/// Bytes of a directory's first part that hold the inode of `..`.
#[doc(alias = "EXT4_INLINE_DOTDOT_SIZE")]
pub const PARENT_SIZE: usize = 4;
const OF: Structure = Structure::InlineData;

/// Inline data in its two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineData {
    /// The `block` area.
    pub first: [u8; IN_BLOCK],
    /// The attribute's value; empty where there is none.
    pub second: Vec<u8>,
}

impl InlineData {
    /// Read both parts of an inode with [`super::inode::InodeFlags::INLINE_DATA`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the attributes are damaged, or there is no `system.data` though the size needs it.
    pub fn read(inode: &Inode) -> Result<Self> {
        let attrs = parse_ibody(inode.xattr_area())?;
        let inconsistent = |detail| Err(Error::corrupt(Flaw::Inconsistent { of: OF, detail }, Place::FS));
        let second = match find(&attrs).map(|a| a.value) {
            Some(Value::Bytes(b)) => b.to_vec(),
            Some(Value::Inode { .. }) => return inconsistent("the second part is in another inode"),
            None if inode.size() > IN_BLOCK as u64 => return inconsistent("the second part is missing"),
            None => Vec::new(),
        };
        Ok(Self { first: inode.block_area(), second })
    }

    /// The file's content: `size` bytes.
    ///
    /// # Errors
    /// [`Flaw::Short`] where the parts hold less.
    pub fn content(&self, size: u64) -> Result<Vec<u8>> {
        let mut all = [&self.first[..], &self.second].concat();
        let have = all.len() as u64;
        if size > have {
            return Err(Error::corrupt(Flaw::Short { of: OF, need: size, have }, Place::FS));
        }
        all.truncate(size as usize);
        Ok(all)
    }

    /// Split content into the parts; the caller checks that the second one fits ([`capacity`]).
    pub fn split(content: &[u8]) -> Self {
        let (first, second) = content.split_at_checked(IN_BLOCK).unwrap_or((content, &[]));
        let mut area = [0; IN_BLOCK];
        put(&mut area, 0, first);
        Self { first: area, second: second.to_vec() }
    }

    /// A directory's `..`.
    pub fn parent(&self) -> Ino {
        Ino(le32(&self.first, 0).unwrap_or_default())
    }

    /// Store a directory's `..`.
    pub fn set_parent(&mut self, parent: Ino) {
        put(&mut self.first, 0, &parent.0.to_le_bytes());
    }

    /// A directory's entries: of the first part, then of the second. Offsets count from the start of each list.
    pub fn lists(&self, format: DirFormat) -> [Dirents<'_>; 2] {
        let format = DirFormat { tail: false, ..format };
        [entries(self.first.get(PARENT_SIZE..).unwrap_or_default(), format), entries(&self.second, format)]
    }

    /// The bytes of a directory's two lists, to change with [`super::dirent::insert`] and the like.
    pub fn lists_mut(&mut self) -> [&mut [u8]; 2] {
        [self.first.get_mut(PARENT_SIZE..).unwrap_or_default(), &mut self.second]
    }

    /// An empty directory with `..` at `parent`: one unused entry of 56 bytes.
    pub fn empty_directory(parent: Ino) -> Self {
        let mut data = Self { first: [0; IN_BLOCK], second: Vec::new() };
        data.set_parent(parent);
        let len = IN_BLOCK.saturating_sub(PARENT_SIZE) as u16;
        put(&mut data.first, PARENT_SIZE.saturating_add(4), &len.to_le_bytes());
        data
    }
}

/// The attribute `system.data` among an inode's attributes.
pub fn find<'a, 'x>(attrs: &'a [Xattr<'x>]) -> Option<&'a Xattr<'x>> {
    attrs.iter().find(|a| a.index == INDEX_SYSTEM && a.name == XATTR_NAME)
}

/// The most bytes that inline data can have in an inode of `inode_size` bytes with `extra_isize` bytes of extra
/// fields, beside `others`. `None` where not even an empty attribute fits: then nothing can be inline.
#[doc(alias = "ext4_get_max_inline_size")]
pub fn capacity(inode_size: usize, extra_isize: usize, others: &[NewXattr<'_>]) -> Option<usize> {
    let area = inode_size.checked_sub(GOOD_OLD_SIZE)?.checked_sub(extra_isize)?;
    let used = super::xattr::IBODY_HEADER
        .saturating_add(super::xattr::need(others))
        .saturating_add(entry_len(XATTR_NAME.len()));
    let room = area.checked_sub(used)? & !3;
    debug_assert!(padded(room) == room);
    Some(IN_BLOCK.saturating_add(room))
}

#[cfg(test)]
mod tests {
    use super::super::dirent::{Dirent, NewDirent, insert};
    use super::super::dirhash::DirHash;
    use super::super::inode::InodeFlags;
    use super::super::xattr::{NewValue, build_ibody};
    use super::*;
    use proptest::prelude::*;

    const F: DirFormat = DirFormat { filetype: true, hash_in_entry: false, tail: true };

    fn inode_with(data: &InlineData, size: u64) -> Inode {
        let mut inode = Inode::empty(256);
        inode.set_flags(InodeFlags::INLINE_DATA);
        inode.set_size(size);
        inode.update(|c| c.block = data.first);
        let attr = NewXattr { index: INDEX_SYSTEM, name: XATTR_NAME, value: NewValue::Bytes(&data.second) };
        assert!(build_ibody(&[attr], inode.xattr_area_mut()));
        inode
    }

    #[test]
    fn content_comes_back() {
        // The figures of a 256-byte inode with 32 bytes of extra fields: 60 + 68.
        let max = capacity(256, 32, &[]).unwrap();
        assert_eq!(max, 128);
        for len in [0, 1, 59, 60, 61, 100, max] {
            let content: Vec<u8> = (0..len).map(|i| i as u8 + 1).collect();
            let inode = inode_with(&InlineData::split(&content), len as u64);
            let got = InlineData::read(&inode).unwrap();
            assert_eq!(got.content(len as u64).unwrap(), content);
        }
        assert_eq!(capacity(128, 0, &[]), None);
        let label = NewXattr { index: 6, name: b"selinux", value: NewValue::Bytes(&[1; 32]) };
        assert_eq!(capacity(256, 32, &[label]), Some(60 + 68 - 24 - 32));
    }

    #[test]
    fn directories() {
        let mut d = InlineData::empty_directory(Ino(2));
        let entry = |n| NewDirent { ino: Ino(12), name: n, file_type: 1, hash: DirHash::default() };
        let mut n = 0;
        while insert(d.lists_mut()[0], DirFormat { tail: false, ..F }, &entry(b"name")).unwrap().is_some() {
            n += 1;
        }
        assert_eq!(n, 56 / 12);
        assert_eq!(d.parent(), Ino(2));
        let inode = inode_with(&d, 60);
        let got = InlineData::read(&inode).unwrap();
        let [first, second] = got.lists(F);
        assert_eq!(first.map(Result::unwrap).filter(Dirent::is_used).count(), 4);
        assert_eq!(second.count(), 0);
    }

    #[test]
    fn flaws_are_named() {
        let mut inode = Inode::empty(256);
        inode.set_size(61);
        assert!(matches!(
            InlineData::read(&inode),
            Err(Error::Corrupt { what: Flaw::Inconsistent { of: OF, .. }, .. })
        ));
        let d = InlineData::split(b"abc");
        assert!(matches!(d.content(61), Err(Error::Corrupt { what: Flaw::Short { need: 61, have: 60, .. }, .. })));
    }

    proptest! {
        #[test]
        fn random_inodes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 256), magic: bool) {
            if magic {
                bytes[128..130].copy_from_slice(&[32, 0]);
                bytes[160..164].copy_from_slice(&super::super::xattr::MAGIC.to_le_bytes());
            }
            let inode = Inode::decode(&bytes).unwrap();
            if let Ok(d) = InlineData::read(&inode) {
                let _ = d.content(inode.size());
                prop_assert!(d.lists(F).into_iter().map(Iterator::count).sum::<usize>() < 256);
            }
        }
    }
}
