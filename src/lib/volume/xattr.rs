//! Extended attributes from all three places: behind the inode's fields, in a block, in inodes of their own.
//!
//! Also what uses them as storage: the second part of inline data is the attribute `system.data`.

use std::borrow::Cow;

use super::{Owner, Volume};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::acl::Acl;
use crate::format::inode::{BLOCK_LEN, InodeFlags};
use crate::format::xattr::{self, Value, Xattr};
use crate::units::{Fsblk, Ino};

/// Most bytes of values that are loaded for one inode.
const MAX_TOTAL: u64 = 64 << 20;
/// Name, after `system.`, of the attribute that holds the second part of inline data.
const INLINE_NAME: &[u8] = b"data";

/// Where an attribute is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum XattrPlace {
    /// Behind the inode's fields.
    Inode,
    /// In the extended attribute block.
    Block(Fsblk),
}

/// An extended attribute with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedXattr {
    /// What the name begins with; see [`xattr::full_name`].
    pub index: u8,
    /// The rest of the name.
    pub suffix: Vec<u8>,
    /// The value as stored on disk.
    pub value: Vec<u8>,
    /// Where its entry is.
    pub place: XattrPlace,
    /// The inode that holds the value, where one does.
    pub value_ino: Option<Ino>,
}

impl NamedXattr {
    /// The whole name as the host shows it. For an index without a prefix of its own, `index.N.` stands in.
    pub fn name(&self) -> Vec<u8> {
        xattr::full_name(self.index, &self.suffix)
            .unwrap_or_else(|| [format!("index.{}.", self.index).as_bytes(), &self.suffix].concat())
    }

    /// The value as the host shows it: ACLs are stored in a shorter form.
    pub fn host_value(&self) -> Result<Cow<'_, [u8]>> {
        match self.index {
            xattr::INDEX_POSIX_ACL_ACCESS | xattr::INDEX_POSIX_ACL_DEFAULT => {
                Ok(Cow::Owned(Acl::decode_disk(&self.value)?.encode_host()))
            }
            _ => Ok(Cow::Borrowed(&self.value)),
        }
    }

    /// Whether the filesystem uses it itself and the host does not show it.
    pub fn is_internal(&self) -> bool {
        self.index == xattr::INDEX_ENCRYPTION || (self.index == xattr::INDEX_SYSTEM && self.suffix == INLINE_NAME)
    }
}

impl Volume {
    /// The attributes of an inode that a user sees, those in the inode first.
    pub fn xattrs(&self, owner: Owner<'_>) -> Result<Vec<NamedXattr>> {
        let mut all = self.all_xattrs(owner)?;
        all.retain(|x| !x.is_internal());
        Ok(all)
    }

    /// All attributes of an inode, internal ones too.
    pub fn all_xattrs(&self, owner: Owner<'_>) -> Result<Vec<NamedXattr>> {
        let place = Place::inode(owner.ino);
        let mut all = Vec::new();
        let mut budget = MAX_TOTAL;
        for x in xattr::parse_ibody(owner.inode.xattr_area()).map_err(|e| e.at(place))? {
            all.push(self.load(owner, &x, XattrPlace::Inode, &mut budget)?);
        }
        let block = owner.inode.file_acl();
        if block.0 == 0 {
            return Ok(all);
        }
        let place = place.in_block(block);
        let bytes = self.xattr_block(owner)?;
        let (_, entries) = xattr::parse_block(&bytes).map_err(|e| e.at(place))?;
        for x in entries {
            if self.verify {
                x.verify_hash(Structure::XattrBlock).map_err(|e| e.at(place))?;
            }
            all.push(self.load(owner, &x, XattrPlace::Block(block), &mut budget)?);
        }
        Ok(all)
    }

    /// The bytes of an inode's extended attribute block, its checksum compared. The inode must have one.
    fn xattr_block(&self, owner: Owner<'_>) -> Result<Cow<'_, [u8]>> {
        let block = owner.inode.file_acl();
        let place = Place::inode(owner.ino);
        if !self.geo.has_block(block) {
            let flaw = Flaw::BlockOutOfRange { of: Structure::XattrBlock, block };
            return Err(Error::corrupt(flaw, place));
        }
        let bytes = self.block(block)?;
        if self.verify
            && let Some(seed) = self.geo.checksums.seed()
        {
            xattr::verify_block(&bytes, seed, block).map_err(|e| e.at(place.in_block(block)))?;
        }
        Ok(bytes)
    }

    fn load(&self, owner: Owner<'_>, x: &Xattr<'_>, place: XattrPlace, budget: &mut u64) -> Result<NamedXattr> {
        let (value, value_ino) = match x.value {
            Value::Bytes(b) => (b.to_vec(), None),
            Value::Inode { ino, size } => {
                let left = budget.checked_sub(size.into());
                *budget = left.ok_or(Error::corrupt(
                    Flaw::Field { of: Structure::EaInode, field: "value_size", value: size.into() },
                    Place::inode(owner.ino),
                ))?;
                (self.ea_inode_value(ino, size, x).map_err(|e| e.at(Place::inode(owner.ino)))?, Some(ino))
            }
        };
        Ok(NamedXattr { index: x.index, suffix: x.name.to_vec(), value, place, value_ino })
    }

    /// The value of `size` bytes that an EA inode holds.
    fn ea_inode_value(&self, ino: Ino, size: u32, x: &Xattr<'_>) -> Result<Vec<u8>> {
        let of = Structure::EaInode;
        let place = Place::inode(ino);
        if ino.0 > self.geo.inodes_count {
            return Err(Error::corrupt(Flaw::Field { of, field: "value_inum", value: ino.0.into() }, Place::FS));
        }
        let inode = self.inode(ino)?;
        if !inode.flags().contains(InodeFlags::EA_INODE) {
            let flaw = Flaw::Field { of, field: "flags", value: inode.flags().bits().into() };
            return Err(Error::corrupt(flaw, place));
        }
        if inode.size() != u64::from(size) {
            return Err(Error::corrupt(Flaw::Field { of, field: "size", value: inode.size() }, place));
        }
        let value = self.reader(Owner { ino, inode: &inode })?.read_all(size as usize)?.unwrap_or_default();
        let Some(seed) = self.geo.checksums.seed().filter(|_| self.verify) else { return Ok(value) };
        let (stored, computed) = (xattr::ea_inode_hash(&inode), xattr::ea_inode_value_hash(seed, &value));
        if stored == computed {
            return Ok(value);
        }
        // Inodes written by old servers have the name hash only; the entry's hash decides then.
        if x.hash == xattr::entry_hash(x.name, &value, false) {
            return Ok(value);
        }
        Err(Error::corrupt(Flaw::Checksum { of, stored, computed }, place))
    }

    /// Content that is inside the inode: a fast symlink's target, or inline data (60 bytes in the block area, the rest
    /// in the attribute `system.data`), cut to the inode's size.
    pub fn inline_content(&self, owner: Owner<'_>) -> Result<Vec<u8>> {
        let mut content = owner.inode.block_area().to_vec();
        let size = owner.inode.size();
        if owner.inode.flags().contains(InodeFlags::INLINE_DATA) {
            let place = Place::inode(owner.ino);
            let entries = xattr::parse_ibody(owner.inode.xattr_area()).map_err(|e| e.at(place))?;
            let rest = entries.iter().find(|x| x.index == xattr::INDEX_SYSTEM && x.name == INLINE_NAME);
            if let Some(Value::Bytes(v)) = rest.map(|x| x.value) {
                content.extend_from_slice(v);
            }
        }
        if size > content.len() as u64 {
            let flaw = Flaw::Short { of: Structure::InlineData, need: size, have: content.len() as u64 };
            return Err(Error::corrupt(flaw, Place::inode(owner.ino)));
        }
        content.truncate(size as usize);
        Ok(content)
    }

    /// The regions of an inline directory that hold entries: behind the parent's number in the block area, and all
    /// of `system.data`; with their byte offsets in the content.
    pub(super) fn inline_regions(content: &[u8]) -> [(usize, &[u8]); 2] {
        let cut = content.len().min(BLOCK_LEN);
        let (first, second) = content.split_at_checked(cut).unwrap_or((content, &[]));
        [(PARENT_LEN, first.get(PARENT_LEN..).unwrap_or_default()), (cut, second)]
    }
}

/// Bytes of the parent's inode number at the start of an inline directory.
const PARENT_LEN: usize = 4;
