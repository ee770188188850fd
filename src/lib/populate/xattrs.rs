//! Extended attributes of a new filesystem: in the inode as far as they fit, the rest in a block, which files with the same
//! rest share. Equal sets are kept once. Values that no block holds go into inodes of their own where the feature `ea_inode`
//! is on; equal values share one.

use std::collections::{BTreeMap, HashMap};

use super::plan::NONE;
use crate::error::{Error, Result};
use crate::format::acl::Acl;
use crate::format::extent::Extent;
use crate::format::features::{Compat, Incompat};
use crate::format::inode::{FileType, Inode, InodeFlags};
use crate::format::xattr::{self, NewValue, NewXattr};
use crate::mkfs::Draft;
use crate::mkfs::fill::finish_inode;
use crate::source::Xattrs;
use crate::source::tree::{NodeId, Tree};
use crate::units::{Fsblk, Ino};

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
    /// What the values in inodes of their own take, for each set: clusters and inodes. Every user is charged for all of it.
    ea: Vec<(u64, u64)>,
    /// The block of a node, where it has one.
    block_of: HashMap<NodeId, u64>,
}

/// Values in inodes of their own.
#[derive(Debug, Default)]
struct EaInodes {
    /// Inode and value hash, by value.
    by_value: HashMap<Vec<u8>, (Ino, u32)>,
    made: BTreeMap<Ino, EaInode>,
}

#[derive(Debug)]
struct EaInode {
    inode: Inode,
    extents: Vec<Extent>,
    refs: u64,
}

impl EaInodes {
    /// The inode that holds `value`, made where there is none yet; its reference is counted by [`EaInodes::count`].
    fn hold(&mut self, d: &mut Draft, value: &[u8]) -> Result<(Ino, u32)> {
        if let Some(known) = self.by_value.get(value) {
            return Ok(*known);
        }
        let bs = d.layout().block_size() as usize;
        let hash = xattr::ea_inode_value_hash(d.checksums().seed().unwrap_or(!0), value);
        let ino = d.new_ino()?;
        let mut extents = Vec::new();
        d.allocate_extents(0, value.len().div_ceil(bs) as u64, &mut extents)?;
        let blocks: Vec<u64> = extents.iter().flat_map(|e| e.pblk.0..e.pblk.0 + u64::from(e.len)).collect();
        for (block, part) in blocks.into_iter().zip(value.chunks(bs)) {
            let mut bytes = part.to_vec();
            bytes.resize(bs, 0);
            d.keep(block, bytes);
        }
        let mut inode = d.system_inode(FileType::Regular.mode_bits() | 0o600);
        inode.set_flags(InodeFlags::EA_INODE);
        inode.set_size(value.len() as u64);
        xattr::set_ea_inode_hash(&mut inode, hash);
        self.made.insert(ino, EaInode { inode, extents, refs: 0 });
        self.by_value.insert(value.to_vec(), (ino, hash));
        Ok((ino, hash))
    }

    fn count(&mut self, inos: &[Ino]) {
        for ino in inos {
            if let Some(e) = self.made.get_mut(ino) {
                e.refs += 1;
            }
        }
    }

    fn finish(self, d: &mut Draft) -> Result<()> {
        for (ino, mut e) in self.made {
            xattr::set_ea_inode_refs(&mut e.inode, e.refs);
            let blocks: u64 = e.extents.iter().map(|x| u64::from(x.len)).sum();
            finish_inode(d, ino, e.inode, &e.extents, blocks.div_ceil(d.ratio()))?;
        }
        Ok(())
    }
}

/// A set of attributes, placed.
#[derive(Debug, Default)]
struct Placed {
    ibody: Vec<u8>,
    block: Option<Vec<u8>>,
    /// Inodes that entries in the inode refer to, and those that entries in the block refer to.
    ibody_refs: Vec<Ino>,
    block_refs: Vec<Ino>,
    ea_clusters: u64,
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
        let mut placed: Vec<Placed> = Vec::new();
        let mut ea = EaInodes::default();
        let mut shared: HashMap<Vec<u8>, Shared> = HashMap::new();
        for (id, attrs) in found {
            let set = if let Some(i) = sets.get(&attrs) {
                *i
            } else {
                let mut new = split(d, tree, id, &attrs, &mut ea)?;
                let i = table.ibody.len() as u32;
                table.ibody.push(std::mem::take(&mut new.ibody));
                let inodes = new.ibody_refs.len() + new.block_refs.len();
                table.ea.push((new.ea_clusters, inodes as u64));
                placed.push(new);
                sets.insert(attrs, i);
                i
            };
            if let Some(slot) = table.set_of.get_mut(id as usize) {
                *slot = set;
            }
            let Some(p) = placed.get(set as usize) else { continue };
            ea.count(&p.ibody_refs);
            if let Some(bytes) = &p.block {
                let (block, new) = share(d, &mut shared, bytes)?;
                if new {
                    ea.count(&p.block_refs);
                }
                table.block_of.insert(id, block);
            }
        }
        ea.finish(d)?;
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

    /// Clusters and inodes that the node's values in inodes of their own take.
    pub(crate) fn ea(&self, id: NodeId) -> (u64, u64) {
        let set = self.set_of.get(id as usize).copied().unwrap_or(NONE);
        self.ea.get(set as usize).copied().unwrap_or_default()
    }

    /// The node's block.
    pub(crate) fn block(&self, id: NodeId) -> Option<u64> {
        self.block_of.get(&id).copied()
    }
}

/// A block with these bytes that has room for one more inode, and whether it is a new one.
fn share(d: &mut Draft, shared: &mut HashMap<Vec<u8>, Shared>, bytes: &Vec<u8>) -> Result<(u64, bool)> {
    if let Some(s) = shared.get_mut(bytes)
        && s.refs < REFCOUNT_MAX
    {
        s.refs += 1;
        return Ok((s.block, false));
    }
    let block = d.allocate_one()?;
    let new = Shared { block, refs: 1, bytes: bytes.clone() };
    if let Some(full) = shared.insert(bytes.clone(), new) {
        store(d, full);
    }
    Ok((block, true))
}

fn store(d: &mut Draft, mut s: Shared) {
    xattr::set_refcount(&mut s.bytes, s.refs);
    if let Some(seed) = d.checksums().seed() {
        xattr::stamp_block(&mut s.bytes, seed, Fsblk(s.block));
    }
    d.keep(s.block, s.bytes);
}

/// Decide what goes into the inode, what into a block, and what into an inode of its own.
fn split(d: &mut Draft, tree: &Tree, id: NodeId, attrs: &Xattrs, ea: &mut EaInodes) -> Result<Placed> {
    let bs = d.layout().block_size() as usize;
    let with_inodes = d.layout().features().incompat.contains(Incompat::EA_INODE);
    let mut values = Vec::with_capacity(attrs.len());
    for (name, value) in attrs {
        let Some((index, rest)) = xattr::split_name(name) else { continue };
        let value = match name.as_slice() {
            b"system.posix_acl_access" | b"system.posix_acl_default" => Acl::decode_host(value)?.encode_disk(),
            _ => value.clone(),
        };
        values.push((index, rest, value));
    }
    let mut area = vec![0; (d.layout().inode_size() as usize).saturating_sub(INODE_HEAD)];
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    let mut room = area.len().saturating_sub(4);
    // What a block holds beside its header and the end of its table.
    let mut block_room = bs - 32 - 4;
    let mut out = Placed::default();
    for (index, name, value) in &values {
        let mut attr = NewXattr { index: *index, name, value: NewValue::Bytes(value) };
        let end = if inside.is_empty() { 4 } else { 0 };
        let mut own = None;
        if with_inodes && attr.need() + end > room && attr.need() > block_room {
            let (ino, value_hash) = ea.hold(d, value)?;
            attr.value = NewValue::Inode { ino, size: value.len() as u32, value_hash };
            own = Some(ino);
            out.ea_clusters += value.len().div_ceil(bs).div_ceil(d.ratio() as usize) as u64;
        }
        if attr.need() + end <= room {
            room -= attr.need() + end;
            inside.push(attr);
            out.ibody_refs.extend(own);
        } else {
            block_room = block_room.saturating_sub(attr.need());
            outside.push(attr);
            out.block_refs.extend(own);
        }
    }
    let too_large = || Error::InvalidArgument {
        name: "extended attributes",
        value: String::from_utf8_lossy(&tree.path(id)).into_owned(),
        allowed: "as much as the inode and one block hold; more with the feature ea_inode",
    };
    if !area.is_empty() && !xattr::build_ibody(&inside, &mut area) {
        return Err(too_large());
    }
    if !inside.is_empty() {
        out.ibody = area;
    }
    if !outside.is_empty() {
        out.block = Some(xattr::build_block(&outside, bs).ok_or_else(too_large)?);
    }
    Ok(out)
}
