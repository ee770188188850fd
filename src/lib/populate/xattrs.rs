//! Extended attributes of a new filesystem: in the inode as far as they fit, the rest in a block, which files with the same
//! rest share. Equal sets are kept once.

use std::collections::HashMap;

use super::copy::Xattrs;
use super::plan::NONE;
use super::tree::{NodeId, Tree};
use crate::error::{Error, Result};
use crate::format::acl::Acl;
use crate::format::features::Compat;
use crate::format::xattr::{self, NewValue, NewXattr};
use crate::mkfs::Draft;
use crate::units::Fsblk;

/// Most inodes that share a block.
#[doc(alias = "EXT4_XATTR_REFCOUNT_MAX")]
const REFCOUNT_MAX: u32 = 1024;
/// Bytes of an inode before the attributes: the fixed part and the extra fields.
const INODE_HEAD: usize = 128 + 32;

/// The attributes of all nodes.
#[derive(Debug, Default)]
pub(crate) struct XattrTable {
    /// For each node the index of its set; empty where no node has attributes.
    set_of: Vec<u32>,
    /// What goes into the inode, for each set.
    ibody: Vec<Vec<u8>>,
    /// The block of a node, where it has one.
    block_of: HashMap<NodeId, u64>,
}

/// A block that is being shared.
struct Shared {
    block: u64,
    refs: u32,
    bytes: Vec<u8>,
}

impl XattrTable {
    /// Place the attributes found, allocating blocks.
    pub(crate) fn new(d: &mut Draft, tree: &Tree, found: Vec<(NodeId, Xattrs)>) -> Result<Self> {
        let mut table = Self::default();
        if found.is_empty() || !d.layout().features().compat.contains(Compat::EXT_ATTR) {
            return Ok(table);
        }
        table.set_of = vec![NONE; tree.len()];
        let mut sets: HashMap<Xattrs, u32> = HashMap::new();
        let mut blocks: Vec<Option<Vec<u8>>> = Vec::new();
        let mut shared: HashMap<Vec<u8>, Shared> = HashMap::new();
        for (id, attrs) in found {
            let set = if let Some(i) = sets.get(&attrs) {
                *i
            } else {
                let (ibody, block) = split(d, tree, id, &attrs)?;
                let i = table.ibody.len() as u32;
                table.ibody.push(ibody);
                blocks.push(block);
                sets.insert(attrs, i);
                i
            };
            if let Some(slot) = table.set_of.get_mut(id as usize) {
                *slot = set;
            }
            if let Some(bytes) = blocks.get(set as usize).and_then(Option::as_ref) {
                table.block_of.insert(id, share(d, &mut shared, bytes)?);
            }
        }
        let mut left: Vec<Shared> = shared.into_values().collect();
        left.sort_unstable_by_key(|s| s.block);
        for s in left {
            store(d, s);
        }
        Ok(table)
    }

    /// What goes into the inode's area for attributes.
    pub(crate) fn ibody(&self, id: NodeId) -> Option<&[u8]> {
        let set = self.set_of.get(id as usize)?;
        self.ibody.get(*set as usize).map(Vec::as_slice)
    }

    /// The node's block.
    pub(crate) fn block(&self, id: NodeId) -> Option<u64> {
        self.block_of.get(&id).copied()
    }
}

/// A block with these bytes that has room for one more inode.
fn share(d: &mut Draft, shared: &mut HashMap<Vec<u8>, Shared>, bytes: &Vec<u8>) -> Result<u64> {
    if let Some(s) = shared.get_mut(bytes)
        && s.refs < REFCOUNT_MAX
    {
        s.refs += 1;
        return Ok(s.block);
    }
    let block = d.allocate_one()?;
    let new = Shared { block, refs: 1, bytes: bytes.clone() };
    if let Some(full) = shared.insert(bytes.clone(), new) {
        store(d, full);
    }
    Ok(block)
}

fn store(d: &mut Draft, mut s: Shared) {
    xattr::set_refcount(&mut s.bytes, s.refs);
    if let Some(seed) = d.checksums().seed() {
        xattr::stamp_block(&mut s.bytes, seed, Fsblk(s.block));
    }
    d.keep(s.block, s.bytes);
}

/// What goes into the inode, and what into a block.
fn split(d: &Draft, tree: &Tree, id: NodeId, attrs: &Xattrs) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let mut values = Vec::with_capacity(attrs.len());
    for (name, value) in attrs {
        let Some((index, rest)) = xattr::split_name(name) else { continue };
        let value = match name.as_slice() {
            b"system.posix_acl_access" | b"system.posix_acl_default" => Acl::decode_host(value)?.encode_disk(),
            _ => value.clone(),
        };
        values.push((index, rest, value));
    }
    let l = d.layout();
    let mut area = vec![0; (l.inode_size() as usize).saturating_sub(INODE_HEAD)];
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    let mut room = area.len().saturating_sub(4);
    let new: Vec<NewXattr<'_>> = values
        .iter()
        .map(|(index, name, value)| NewXattr { index: *index, name, value: NewValue::Bytes(value) })
        .collect();
    for attr in new {
        let need = attr.need() + if inside.is_empty() { 4 } else { 0 };
        if need <= room {
            room -= need;
            inside.push(attr);
        } else {
            outside.push(attr);
        }
    }
    let too_large = || {
        let path = String::from_utf8_lossy(&tree.path(id)).into_owned();
        Error::InvalidArgument {
            name: "extended attributes",
            value: path,
            allowed: "as much as the inode and one block hold",
        }
    };
    if !area.is_empty() && !xattr::build_ibody(&inside, &mut area) {
        return Err(too_large());
    }
    if inside.is_empty() {
        area.clear();
    }
    let block = if outside.is_empty() {
        None
    } else {
        Some(xattr::build_block(&outside, l.block_size() as usize).ok_or_else(too_large)?)
    };
    Ok((area, block))
}
