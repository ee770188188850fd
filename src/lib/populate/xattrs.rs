//! Extended attributes of a new filesystem: in the inode as far as they fit, the rest in a block, which files with the same
//! rest share. Equal sets are kept once. Values that no block holds go into inodes of their own where the feature `ea_inode`
//! is on; equal values share one. Inline data is the attribute `system.data`, and comes first.

use std::collections::{BTreeMap, HashMap};

use super::gather::Gathered;
use super::inline::{Inlined, NAME as INLINE_NAME};
use super::plan::NONE;
use crate::error::{Error, Result};
use crate::format::acl::Acl;
use crate::format::extent::Extent;
use crate::format::features::Incompat;
use crate::format::inode::{FileType, Inode, InodeFlags};
use crate::format::xattr::{self, NewValue, NewXattr};
use crate::mkfs::fill::finish_inode;
use crate::mkfs::{Draft, Layout};
use crate::source::Xattrs;
use crate::source::tree::{NodeId, Tree};
use crate::units::{Fsblk, Ino};

/// Most inodes that share a block.
#[doc(alias = "EXT4_XATTR_REFCOUNT_MAX")]
pub(super) const REFCOUNT_MAX: u32 = 1024;
/// Bytes of an inode before the attributes: the fixed part and the extra fields.
pub(super) const INODE_HEAD: usize = 128 + 32;

/// What attributes may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Bytes of the inode's area.
    pub(super) area: usize,
    pub(super) block: usize,
    /// Values may have inodes of their own.
    pub(super) ea_inode: bool,
}

impl Room {
    pub(super) fn of(l: &Layout) -> Self {
        Self {
            area: (l.inode_size() as usize).saturating_sub(INODE_HEAD),
            block: l.block_size() as usize,
            ea_inode: l.features().incompat.contains(Incompat::EA_INODE),
        }
    }
}

/// Where an attribute goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Where {
    /// In the inode, not in a block.
    pub(super) inside: bool,
    /// The value has an inode of its own.
    pub(super) own: bool,
}

/// Decide where attributes go that need so many bytes with their values and without, in order.
pub(super) fn shape(room: Room, needs: impl Iterator<Item = (usize, usize)>) -> Vec<Where> {
    let mut left = room.area.saturating_sub(xattr::IBODY_HEADER);
    // What a block holds beside its header and the end of its table.
    let mut block = room.block - xattr::BLOCK_HEADER - 4;
    let mut first = true;
    needs
        .map(|(need, bare)| {
            // The four zeros that end the table are there once.
            let end = if first { 4 } else { 0 };
            let own = room.ea_inode && need + end > left && need > block;
            let need = if own { bare } else { need };
            let inside = need + end <= left;
            if inside {
                left -= need + end;
                first = false;
            } else {
                block = block.saturating_sub(need);
            }
            Where { inside, own }
        })
        .collect()
}

/// The attributes of all nodes.
#[derive(Debug, Default)]
pub(crate) struct XattrTable {
    /// What was placed, for each node that has attributes.
    placed_of: HashMap<NodeId, u32>,
    /// What goes into the inode.
    ibody: Vec<Vec<u8>>,
    /// What the values in inodes of their own take: clusters and inodes. Every user is charged for all of it.
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
    pub(crate) fn new(d: &mut Draft, tree: &Tree, found: &Gathered, inlined: &Inlined) -> Result<Self> {
        let mut table = Self::default();
        // What is placed the same way: a set of attributes beside the same inline data.
        let mut known: HashMap<(u32, &[u8]), u32> = HashMap::new();
        let mut placed: Vec<Placed> = Vec::new();
        let mut ea = EaInodes::default();
        let mut shared: HashMap<Vec<u8>, Shared> = HashMap::new();
        for (id, set, attrs) in found.iter() {
            let second = inlined.get(&id).map(|i| i.second.as_slice());
            // Sets are fewer than 2^31; the highest bit stands for "no inline data".
            let key = (if second.is_some() { set } else { set | 1 << 31 }, second.unwrap_or_default());
            let index = if let Some(i) = known.get(&key) {
                *i
            } else {
                let mut new = split(d, tree, id, attrs, second, &mut ea)?;
                let i = table.ibody.len() as u32;
                table.ibody.push(std::mem::take(&mut new.ibody));
                let inodes = new.ibody_refs.len() + new.block_refs.len();
                table.ea.push((new.ea_clusters, inodes as u64));
                placed.push(new);
                known.insert(key, i);
                i
            };
            table.placed_of.insert(id, index);
            let Some(p) = placed.get(index as usize) else { continue };
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

    fn placed(&self, id: NodeId) -> usize {
        self.placed_of.get(&id).copied().unwrap_or(NONE) as usize
    }

    /// What goes into the inode's area for attributes.
    pub(crate) fn ibody(&self, id: NodeId) -> Option<&[u8]> {
        self.ibody.get(self.placed(id)).map(Vec::as_slice)
    }

    /// Clusters and inodes that the node's values in inodes of their own take.
    pub(crate) fn ea(&self, id: NodeId) -> (u64, u64) {
        self.ea.get(self.placed(id)).copied().unwrap_or_default()
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

/// Put attributes into the inode, a block, and inodes of their own. `second` is the inode's inline data.
fn split(
    d: &mut Draft,
    tree: &Tree,
    id: NodeId,
    attrs: &Xattrs,
    second: Option<&[u8]>,
    ea: &mut EaInodes,
) -> Result<Placed> {
    let room = Room::of(d.layout());
    let mut values = Vec::with_capacity(attrs.len() + 1);
    if let Some(data) = second {
        values.push((xattr::INDEX_SYSTEM, INLINE_NAME, data.to_vec()));
    }
    for (name, value) in attrs {
        let Some((index, rest)) = xattr::split_name(name) else { continue };
        let value = match index {
            xattr::INDEX_POSIX_ACL_ACCESS | xattr::INDEX_POSIX_ACL_DEFAULT => Acl::decode_host(value)
                .map_err(|e| Error::OnPath { path: tree.path(id), source: Box::new(e) })?
                .encode_disk(),
            _ => value.clone(),
        };
        values.push((index, rest, value));
    }
    let mut area = vec![0; room.area];
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    let mut out = Placed::default();
    let needs = values.iter().map(|(_, name, value)| {
        let bare = xattr::entry_len(name.len());
        (bare + xattr::padded(value.len()), bare)
    });
    for (place, (index, name, value)) in shape(room, needs).into_iter().zip(&values) {
        let mut attr = NewXattr { index: *index, name, value: NewValue::Bytes(value) };
        let mut own = None;
        if place.own {
            let (ino, value_hash) = ea.hold(d, value)?;
            attr.value = NewValue::Inode { ino, size: value.len() as u32, value_hash };
            own = Some(ino);
            out.ea_clusters += value.len().div_ceil(room.block).div_ceil(d.ratio() as usize) as u64;
        }
        if place.inside {
            inside.push(attr);
            out.ibody_refs.extend(own);
        } else {
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
        out.block = Some(xattr::build_block(&outside, room.block).ok_or_else(too_large)?);
    }
    Ok(out)
}
