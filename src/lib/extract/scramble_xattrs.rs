//! Other names and values for extended attributes that users give (`user.` and `trusted.`), other content for files that lie inside
//! their inodes, and for values that lie in inodes of their own. Lengths stay, so that everything stays where it is; hashes and
//! checksums follow. Access control lists, security attributes and what the filesystem itself keeps stay as they are.

use std::collections::BTreeMap;

use super::scramble::{Names, Work, bad};
use crate::error::Result;
use crate::format::csum::crc32c;
use crate::format::inode::{FileType, InodeFlags};
use crate::format::xattr::{self, INDEX_TRUSTED, INDEX_USER, MAX_VALUE, NewValue, NewXattr, Value, Xattr};
use crate::units::{Fsblk, Ino};
use crate::volume::OpenInode;
use crate::volume::store::MetaStore;

/// What was done already: blocks and values may have several users.
#[derive(Debug, Default)]
pub(super) struct Done {
    blocks: BTreeMap<Fsblk, bool>,
    /// Hashes of values by the inode that holds them.
    values: BTreeMap<Ino, u32>,
}

/// An attribute with its new name and value.
struct Replaced {
    index: u8,
    name: Vec<u8>,
    value: Vec<u8>,
    /// The inode that holds the value, its length and its hash.
    apart: Option<(Ino, u32, u32)>,
}

impl Replaced {
    fn as_new(&self) -> NewXattr<'_> {
        let value = match self.apart {
            Some((ino, size, value_hash)) => NewValue::Inode { ino, size, value_hash },
            None => NewValue::Bytes(&self.value),
        };
        NewXattr { index: self.index, name: &self.name, value }
    }
}

impl Work {
    /// The attributes of an inode, and its content where that is inside.
    pub(super) fn attributes(&mut self, ino: Ino) -> Result<()> {
        let mut o = OpenInode { ino, inode: self.fs.volume.raw_inode(ino)? };
        if o.has(InodeFlags::INLINE_DATA)
            && !o.has(InodeFlags::ENCRYPT)
            && o.inode.file_type() == Some(FileType::Regular)
        {
            let len = self.fs.volume.inline_content(o.owner())?.len().min(o.inode.size() as usize);
            let content = Names::new(ino, true).draw(len);
            self.store_inline(&mut o, &content)?;
        }
        let area = o.inode.xattr_area().to_vec();
        let held = xattr::parse_ibody(&area)?;
        if held.iter().any(is_replaced) {
            let all = self.replaced(&held, &mut Names::new(ino, true))?;
            let all: Vec<_> = all.iter().map(Replaced::as_new).collect();
            if !xattr::build_ibody(&all, o.inode.xattr_area_mut()) {
                return Err(bad(ino, "attributes that have no room"));
            }
            self.put(o.clone())?;
        }
        let block = o.inode.file_acl();
        if block.0 == 0 || self.done.blocks.insert(block, true).is_some() {
            return Ok(());
        }
        self.attribute_block(ino, block)
    }

    fn attribute_block(&mut self, ino: Ino, block: Fsblk) -> Result<()> {
        let bytes = self.journal.block(block)?.to_vec();
        let (header, held) = xattr::parse_block(&bytes)?;
        if !held.iter().any(is_replaced) {
            return Ok(());
        }
        // Names of several lists of one inode are drawn apart.
        let all = self.replaced(&held, &mut Names::new(Ino(!ino.0), true))?;
        let all: Vec<_> = all.iter().map(Replaced::as_new).collect();
        let mut new = xattr::build_block(&all, bytes.len()).ok_or_else(|| bad(ino, "attributes that have no room"))?;
        xattr::set_refcount(&mut new, header.refcount.get());
        if let Some(seed) = self.fs.volume.geometry().checksums.seed() {
            xattr::stamp_block(&mut new, seed, block);
        }
        self.journal.start(1)?.write(block, new.into())
    }

    /// A list with other names and values.
    fn replaced(&mut self, held: &[Xattr<'_>], names: &mut Names) -> Result<Vec<Replaced>> {
        let mut all = Vec::with_capacity(held.len());
        for x in held {
            let other = is_replaced(x);
            let users = other && x.index == INDEX_USER && !x.name.is_empty();
            let name = if users { names.fresh(x.name.len()) } else { x.name.to_vec() };
            self.renamed.names += u64::from(users);
            let (value, apart) = match x.value {
                Value::Bytes(v) if other => (names.draw(v.len()), None),
                Value::Bytes(v) => (v.to_vec(), None),
                Value::Inode { ino, size } => (Vec::new(), Some((ino, size, self.value(ino, size)?))),
            };
            all.push(Replaced { index: x.index, name, value, apart });
        }
        Ok(all)
    }

    /// Replace a value that is in an inode of its own; its hash. Whose it is is not known there: all of them are replaced.
    fn value(&mut self, ino: Ino, size: u32) -> Result<u32> {
        if let Some(hash) = self.done.values.get(&ino) {
            return Ok(*hash);
        }
        let mut o = OpenInode { ino, inode: self.fs.volume.inode(ino)? };
        if !o.has(InodeFlags::EA_INODE) || u64::from(size) != o.inode.size() || size > MAX_VALUE {
            return Err(bad(ino, "an attribute's value that is none"));
        }
        let value = Names::new(ino, true).draw(size as usize);
        let block_size = self.fs.volume.geometry().block_size as usize;
        let blocks = self.fs.volume.extents(o.owner())?.into_iter();
        let blocks = blocks.flat_map(|e| (0..u64::from(e.len)).map(move |n| e.pblk.saturating_add(n)));
        for (block, part) in blocks.zip(value.chunks(block_size)) {
            let mut bytes = part.to_vec();
            bytes.resize(block_size, 0);
            self.journal.start(1)?.write(block, bytes.into())?;
        }
        let seed = self.fs.volume.geometry().checksums.seed();
        let seed = seed.unwrap_or_else(|| crc32c(!0, &self.fs.volume.superblock().uuid));
        let hash = xattr::ea_inode_value_hash(seed, &value);
        xattr::set_ea_inode_hash(&mut o.inode, hash);
        self.put(o)?;
        self.done.values.insert(ino, hash);
        Ok(hash)
    }
}

/// Attributes that users give; and those whose value is in an inode, which others may refer to as well.
const fn is_replaced(x: &Xattr<'_>) -> bool {
    matches!(x.index, INDEX_USER | INDEX_TRUSTED) || matches!(x.value, Value::Inode { .. })
}
