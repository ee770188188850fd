//! The index of a directory, changed: made when the first block is full, leaves and nodes split, levels added.
//!
//! A leaf is divided by hash in halves of about the same size, a node in halves of the same number of entries. The
//! index has at most one level of nodes below the root, two with `large_dir`. It is never made smaller.

use super::dir_edit::full;
use super::dir_plan;
use super::edit::{Edit, OpenInode};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::casefold;
use crate::format::dirent::{DirPacker, NewDirent};
use crate::format::dirhash::{DirHasher, HashVersion};
use crate::format::features::Incompat;
use crate::format::htree::{self, DxEntry, DxNode, RootInfo};
use crate::format::inode::InodeFlags;
use crate::units::{Fsblk, Lblk};

/// A node of the index on the way to a leaf.
struct Frame {
    block: Fsblk,
    node: DxNode,
    at: usize,
}

impl Frame {
    fn has_room(&self) -> bool {
        self.node.entries.len() < usize::from(self.node.limit)
    }
}

impl Edit<'_> {
    fn index_hasher(&self, dir: &OpenInode, version: HashVersion) -> Result<DirHasher> {
        self.vol.dir_hasher(version).ok_or_else(|| {
            let flaw =
                Flaw::Field { of: Structure::HtreeNode, field: "hash_version", value: version.disk_code().into() };
            Error::corrupt(flaw, Place::inode(dir.ino))
        })
    }

    /// The index nodes from the root to the one whose entry leads to the leaf for a name, and the name's hash.
    #[doc(alias = "dx_probe")]
    fn index_path(&self, dir: &OpenInode, name: &[u8]) -> Result<(Vec<Frame>, DirHasher, u32)> {
        let format = self.vol.htree_format(dir.owner());
        let place = Place::inode(dir.ino);
        let read = |lblk: Lblk| -> Result<(Fsblk, std::sync::Arc<[u8]>)> {
            let hole = Error::corrupt(
                Flaw::Inconsistent { of: Structure::HtreeNode, detail: "an index entry leads to a hole" },
                place.in_lblk(lblk),
            );
            let block = self.dir_block(dir, lblk)?.ok_or(hole)?;
            let bytes = self.store.read(block)?;
            Ok((block, bytes))
        };
        let verify = |bytes: &[u8], block: Fsblk| match self.seed(dir).filter(|_| self.vol.verifies_checksums()) {
            Some(seed) => htree::verify(bytes, seed).map_err(|e| e.at(place.in_block(block))),
            None => Ok(()),
        };
        let (block, bytes) = read(Lblk(0))?;
        verify(&bytes, block)?;
        let node = DxNode::decode_root(&bytes, format).map_err(|e| e.at(place.in_block(block)))?;
        let Some(info) = node.root else { return Err(full()) };
        let hasher = self.index_hasher(dir, info.hash_version)?;
        let folds = self.vol.folds_case(dir.owner());
        let hash = if folds { hasher.hash(&casefold::key(name))? } else { hasher.hash(name)? }.hash;
        let at = node.position(hash);
        let mut path = vec![Frame { block, node, at }];
        for _ in 0..info.indirect_levels {
            let Some(entry) = path.last().and_then(|f| f.node.entries.get(f.at)) else { break };
            let (block, bytes) = read(entry.lblk())?;
            verify(&bytes, block)?;
            let node = DxNode::decode_node(&bytes, format).map_err(|e| e.at(place.in_block(block)))?;
            let at = node.position(hash);
            path.push(Frame { block, node, at });
        }
        Ok((path, hasher, hash))
    }

    /// Add to an indexed directory, making room from the leaf upwards.
    #[doc(alias = "ext4_dx_add_entry")]
    pub(super) fn add_indexed(&mut self, dir: &mut OpenInode, entry: &NewDirent<'_>) -> Result<()> {
        // Every round splits one node or adds a level: more rounds than nodes on the longest path are not needed.
        const ROUNDS: u32 = 16;
        for _ in 0..ROUNDS {
            let (mut path, hasher, _) = self.index_path(dir, entry.name)?;
            let Some(bottom) = path.last() else { break };
            let Some(leaf) = bottom.node.entries.get(bottom.at).map(|e| e.lblk()) else { break };
            let Some(block) = self.dir_block(dir, leaf)? else { break };
            if self.insert_in_leaf(dir, block, entry)? {
                return Ok(());
            }
            if bottom.has_room() {
                if let Some(frame) = path.pop() {
                    self.split_leaf(dir, frame, block, &hasher)?;
                }
                continue;
            }
            match path.iter().rposition(Frame::has_room) {
                Some(at) => {
                    let mut below = path.split_off(at.saturating_add(1)).into_iter();
                    if let (Some(parent), Some(full)) = (path.pop(), below.next()) {
                        self.split_index(dir, parent, full)?;
                    }
                }
                None => self.add_index_level(dir, path)?,
            }
        }
        Err(full())
    }

    /// Move the upper half of a leaf, by hash, to a new block and enter that in `frame`, which has room.
    #[doc(alias = "do_split")]
    fn split_leaf(&mut self, dir: &mut OpenInode, mut frame: Frame, block: Fsblk, hasher: &DirHasher) -> Result<()> {
        let format = self.vol.dir_format(dir.owner());
        let folds = self.vol.folds_case(dir.owner());
        let old = self.store.read(block)?;
        let entries = dir_plan::leaf_entries(&old, format, hasher, folds)
            .map_err(|e| e.at(Place::inode(dir.ino).in_block(block)))?;
        let Some(division) = dir_plan::divide(entries, format, self.block_size()) else { return Err(full()) };
        let (lblk, new_block) = self.append_dir_block(dir)?;
        let seed = self.seed(dir).unwrap_or(0);
        let pack = |entries: &[dir_plan::LeafEntry]| {
            let mut bytes = vec![0; old.len()];
            let mut packer = DirPacker::new(&mut bytes, format);
            let fits = entries.iter().all(|e| packer.push(&e.as_new()));
            packer.finish(seed);
            fits.then_some(bytes)
        };
        let (Some(low), Some(high)) = (pack(&division.low), pack(&division.high)) else { return Err(full()) };
        self.store.create(new_block, high.into())?;
        self.store.write(block, low.into())?;
        frame.node.entries.insert(frame.at.saturating_add(1), DxEntry::new(division.border, lblk));
        self.store_index(dir, frame.block, &frame.node)
    }

    /// Move the upper half of an index node to a new block and enter that in `parent`, which has room.
    fn split_index(&mut self, dir: &mut OpenInode, mut parent: Frame, mut full_node: Frame) -> Result<()> {
        let half = full_node.node.entries.len() / 2;
        let moved = full_node.node.entries.split_off(half);
        let Some(border) = moved.first().map(|e| e.hash) else { return Err(full()) };
        let (lblk, block) = self.append_dir_block(dir)?;
        let format = self.vol.htree_format(dir.owner());
        self.create_index(dir, block, &DxNode::new_node(moved, format))?;
        self.store_index(dir, full_node.block, &full_node.node)?;
        parent.node.entries.insert(parent.at.saturating_add(1), DxEntry::new(border, lblk));
        self.store_index(dir, parent.block, &parent.node)
    }

    /// Move the root's entries to a new node, the only one below the root from then on.
    fn add_index_level(&mut self, dir: &mut OpenInode, path: Vec<Frame>) -> Result<()> {
        let format = self.vol.htree_format(dir.owner());
        let Some(mut root) = path.into_iter().next() else { return Err(full()) };
        let Some(info) = &mut root.node.root else { return Err(full()) };
        if info.indirect_levels >= format.max_indirect_levels() {
            return Err(full());
        }
        info.indirect_levels = info.indirect_levels.saturating_add(1);
        let (lblk, block) = self.append_dir_block(dir)?;
        let entries = std::mem::replace(&mut root.node.entries, vec![DxEntry::new(0, lblk)]);
        self.create_index(dir, block, &DxNode::new_node(entries, format))?;
        self.store_index(dir, root.block, &root.node)
    }

    /// Turn a directory of one full block into an index root and a leaf.
    #[doc(alias = "make_indexed_dir")]
    pub(super) fn make_indexed(&mut self, dir: &mut OpenInode) -> Result<()> {
        let place = Place::inode(dir.ino).in_lblk(Lblk(0));
        let bad = |detail| Error::corrupt(Flaw::Inconsistent { of: Structure::DirBlock, detail }, place);
        let block = self.dir_block(dir, Lblk(0))?.ok_or_else(|| bad("the first block is a hole"))?;
        let old = self.store.read(block)?;
        let format = self.vol.dir_format(dir.owner());
        let parent = self.vol.find_entry(dir.owner(), b"..")?.ok_or_else(|| bad("no .. entry"))?.ino;
        let code = self.vol.sb.def_hash_version;
        let version = HashVersion::from_code(code).filter(|v| *v != HashVersion::SipHash);
        let hasher = self.index_hasher(dir, version.unwrap_or(HashVersion::HalfMd4))?;
        let entries = dir_plan::leaf_entries(&old, format, &hasher, self.vol.folds_case(dir.owner()))?;
        let (lblk, leaf) = self.append_dir_block(dir)?;
        let mut bytes = vec![0; self.block_size()];
        let mut packer = DirPacker::new(&mut bytes, format);
        let fits = entries.iter().all(|e| packer.push(&e.as_new()));
        packer.finish(self.seed(dir).unwrap_or(0));
        if !fits {
            return Err(full());
        }
        self.store.create(leaf, bytes.into())?;
        let info = RootInfo {
            dot: dir.ino,
            dotdot: parent,
            hash_version: hasher.version(),
            indirect_levels: 0,
            unused_flags: 0,
        };
        dir.set(InodeFlags::INDEX, true);
        let shape = self.vol.htree_format(dir.owner());
        let root = DxNode::new_root(info, vec![DxEntry::new(0, lblk)], shape);
        self.write_index(dir, block, &root, vec![0; self.block_size()])
    }

    fn store_index(&mut self, dir: &OpenInode, block: Fsblk, node: &DxNode) -> Result<()> {
        let bytes = self.store.read(block)?.to_vec();
        self.write_index(dir, block, node, bytes)
    }

    fn create_index(&mut self, dir: &OpenInode, block: Fsblk, node: &DxNode) -> Result<()> {
        let mut bytes = vec![0; self.block_size()];
        self.encode_index(dir, node, &mut bytes);
        self.store.create(block, bytes.into())
    }

    fn write_index(&mut self, dir: &OpenInode, block: Fsblk, node: &DxNode, mut bytes: Vec<u8>) -> Result<()> {
        self.encode_index(dir, node, &mut bytes);
        self.store.write(block, bytes.into())
    }

    fn encode_index(&self, dir: &OpenInode, node: &DxNode, bytes: &mut [u8]) {
        node.encode_into(bytes, self.vol.geo.features.incompat.contains(Incompat::FILETYPE));
        if let Some(seed) = self.seed(dir) {
            htree::stamp(bytes, seed);
        }
    }
}
