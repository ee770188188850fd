//! Directories of a new filesystem: one block of entries, or a hash index over packed leaves. Unit: blocks.
//!
//! A directory is planned first (how many blocks, which entries in which leaf), and its blocks are made when they are
//! written. Leaves are filled to the brim, in order of hash; entries of a linear directory are in order of name. An index
//! has one to three levels; a directory too large for the levels that the features allow stays linear.

use crate::error::Result;
use crate::format::dirent::{DirFormat, DirPacker, NewDirent, TAIL_SIZE, min_rec_len};
use crate::format::dirhash::{DirHash, DirHasher};
use crate::format::htree::{self, DxEntry, DxNode, HtreeFormat, RootInfo};
use crate::format::inode::FileType;
use crate::source::tree::{Entry, Node, NodeId, Tree};
use crate::units::{Ino, Lblk};

/// What all directories of a filesystem have in common.
#[derive(Clone, Debug)]
pub(crate) struct DirRules {
    pub(crate) block_size: usize,
    pub(crate) format: DirFormat,
    /// How to hash, where directories are indexed.
    pub(crate) hasher: Option<DirHasher>,
    pub(crate) large_dir: bool,
    /// An entry of the root that is not in the tree.
    pub(crate) lost_found: Option<Ino>,
}

/// A directory of more than one block.
#[derive(Debug)]
pub(crate) struct DirPlan {
    /// The entries, by index, in the order in which they are stored.
    order: Vec<u32>,
    /// For each leaf its first entry in `order`, and the hash in its index entry.
    leaves: Vec<(u32, u32)>,
    /// Levels of nodes between root and leaves; `None` for a linear directory.
    levels: Option<u8>,
    pub(crate) blocks: u32,
}

/// Index of the entry for lost+found, which is not in the tree.
const LOST_FOUND: u32 = u32::MAX;
const LOST_FOUND_NAME: &[u8] = b"lost+found";

impl DirRules {
    fn room(&self) -> usize {
        self.block_size - if self.format.tail { TAIL_SIZE } else { 0 }
    }

    const fn htree(&self) -> HtreeFormat {
        HtreeFormat {
            block_size: self.block_size,
            checksums: self.format.tail,
            hash_in_entry: false,
            large_dir: self.large_dir,
        }
    }

    fn extra(&self, id: NodeId) -> Option<Ino> {
        self.lost_found.filter(|_| id == 0)
    }

    /// Plan a directory; `None` where one block will do.
    pub(crate) fn plan(&self, tree: &Tree, id: NodeId, node: &Node) -> Result<Option<DirPlan>> {
        let entries = tree.dir_entries(node);
        let extra = self.extra(id).map(|_| LOST_FOUND_NAME.len());
        let names = entries.iter().map(|e| usize::from(e.name.len)).chain(extra);
        let total: usize = names.map(|n| min_rec_len(n, false)).sum();
        if 24 + total <= self.room() {
            return Ok(None);
        }
        let name_of = |i: u32| entries.get(i as usize).map_or(LOST_FOUND_NAME, |e| tree.name(e.name));
        let all = (0..entries.len() as u32).chain(self.extra(id).map(|_| LOST_FOUND));
        if let Some(hasher) = &self.hasher {
            let mut hashed = Vec::with_capacity(entries.len() + 1);
            for i in all.clone() {
                hashed.push((hasher.hash(name_of(i))?, i));
            }
            // Equal hashes keep the order of names, whatever order the entries came in.
            hashed.sort_unstable();
            if let Some(plan) = self.indexed(&hashed, name_of) {
                return Ok(Some(plan));
            }
        }
        let order: Vec<u32> = all.collect();
        let mut leaves = vec![(0, 0)];
        let mut left = self.room() - 24;
        for (at, i) in (0u32..).zip(&order) {
            let need = min_rec_len(name_of(*i).len(), false);
            if need > left {
                leaves.push((at, 0));
                left = self.room();
            }
            left -= need;
        }
        let blocks = leaves.len() as u32;
        Ok(Some(DirPlan { order, leaves, levels: None, blocks }))
    }

    fn indexed<'t>(&self, hashed: &[(DirHash, u32)], name_of: impl Fn(u32) -> &'t [u8]) -> Option<DirPlan> {
        let mut leaves: Vec<(u32, u32)> = vec![(0, 0)];
        let mut left = self.room();
        let mut before = 0;
        for (at, (hash, i)) in (0u32..).zip(hashed) {
            let need = min_rec_len(name_of(*i).len(), false);
            if need > left {
                // The lowest bit says that the same hash is in the leaf before, too.
                leaves.push((at, hash.hash | u32::from(hash.hash == before)));
                left = self.room();
            }
            left -= need;
            before = hash.hash;
        }
        let format = self.htree();
        let (mut count, mut levels, mut nodes) = (leaves.len(), 0u8, 0);
        while count > usize::from(format.root_limit()) {
            count = count.div_ceil(usize::from(format.node_limit()));
            nodes += count;
            levels += 1;
        }
        if levels > format.max_indirect_levels() {
            return None;
        }
        let blocks = u32::try_from(1 + nodes + leaves.len()).ok()?;
        Some(DirPlan { order: hashed.iter().map(|h| h.1).collect(), leaves, levels: Some(levels), blocks })
    }
}

/// A directory about to be written.
pub(crate) struct DirWriter<'a> {
    pub(crate) rules: &'a DirRules,
    pub(crate) tree: &'a Tree,
    pub(crate) id: NodeId,
    pub(crate) plan: Option<&'a DirPlan>,
    /// Inode number of a node.
    pub(crate) ino_of: &'a dyn Fn(NodeId) -> Ino,
    /// Checksum seed of the directory's inode; 0 without checksums.
    pub(crate) seed: u32,
}

impl DirWriter<'_> {
    /// Make all blocks, in order, and hand each to `out`.
    pub(crate) fn blocks(&self, out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Some(node) = self.tree.node(self.id) else { return Ok(()) };
        let entries = self.tree.dir_entries(node);
        let mut block = vec![0; self.rules.block_size];
        let Some(plan) = self.plan else {
            let extra = self.rules.extra(self.id).map(|_| LOST_FOUND);
            let all = (0..entries.len() as u32).chain(extra);
            self.leaf(&mut block, entries, true, all);
            return out(&block);
        };
        if plan.levels.is_some() {
            self.index(plan, &mut block, out)?;
        }
        for (i, (from, _)) in plan.leaves.iter().enumerate() {
            let to = plan.leaves.get(i + 1).map_or(plan.order.len(), |l| l.0 as usize);
            let part = plan.order.get(*from as usize..to).unwrap_or_default();
            self.leaf(&mut block, entries, plan.levels.is_none() && i == 0, part.iter().copied());
            out(&block)?;
        }
        Ok(())
    }

    fn parent(&self) -> Ino {
        (self.ino_of)(self.tree.node(self.id).map_or(0, |n| n.parent))
    }

    fn leaf(&self, block: &mut [u8], entries: &[Entry], dots: bool, part: impl Iterator<Item = u32>) {
        let mut packer = DirPacker::new(block, self.rules.format);
        let mut fits = true;
        let mut push = |ino, name: &[u8], file_type: FileType| {
            let entry = NewDirent { ino, name, file_type: file_type.dirent_code(), hash: DirHash::default() };
            fits &= packer.push(&entry);
        };
        if dots {
            push((self.ino_of)(self.id), b".", FileType::Directory);
            push(self.parent(), b"..", FileType::Directory);
        }
        for i in part {
            if let Some(e) = entries.get(i as usize) {
                let file_type = self.tree.node(e.node).map_or(FileType::Regular, Node::file_type);
                push((self.ino_of)(e.node), self.tree.name(e.name), file_type);
            } else if let Some(ino) = self.rules.extra(self.id) {
                push(ino, LOST_FOUND_NAME, FileType::Directory);
            }
        }
        debug_assert!(fits, "planned leaves hold their entries");
        packer.finish(self.seed);
    }

    /// The root, then each level of nodes.
    fn index(&self, plan: &DirPlan, block: &mut [u8], out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let format = self.rules.htree();
        let first_leaf = plan.blocks - plan.leaves.len() as u32;
        let mut level: Vec<DxEntry> =
            (first_leaf..).zip(&plan.leaves).map(|(l, (_, hash))| DxEntry::new(*hash, Lblk(l))).collect();
        let mut below = Vec::new();
        let mut end = first_leaf;
        for _ in 0..plan.levels.unwrap_or(0) {
            let nodes: Vec<Vec<DxEntry>> = level.chunks(usize::from(format.node_limit())).map(<[_]>::to_vec).collect();
            let start = end - nodes.len() as u32;
            level =
                (start..).zip(&nodes).map(|(l, n)| DxEntry::new(n.first().map_or(0, |e| e.hash), Lblk(l))).collect();
            below.push(nodes);
            end = start;
        }
        let info = RootInfo {
            dot: (self.ino_of)(self.id),
            dotdot: self.parent(),
            hash_version: self.rules.hasher.map_or(crate::format::dirhash::HashVersion::HalfMd4, |h| h.version()),
            indirect_levels: plan.levels.unwrap_or(0),
            unused_flags: 0,
        };
        self.node(&DxNode::new_root(info, level, format), block, out)?;
        for nodes in below.into_iter().rev() {
            for entries in nodes {
                self.node(&DxNode::new_node(entries, format), block, out)?;
            }
        }
        Ok(())
    }

    fn node(&self, node: &DxNode, block: &mut [u8], out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        block.fill(0);
        node.encode_into(block, self.rules.format.filetype);
        if self.rules.format.tail {
            htree::stamp(block, self.seed);
        }
        out(block)
    }
}

impl DirPlan {
    /// Whether the directory has an index.
    pub(crate) const fn is_indexed(&self) -> bool {
        self.levels.is_some()
    }
}
