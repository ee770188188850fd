//! Small files, directories and symbolic links inside their inodes (feature `inline_data`). Unit: bytes.
//!
//! Content comes before other attributes: what fits beside no attribute at all is inline, and attributes make way. The
//! root directory always has a block.

use std::collections::HashMap;

use super::xattrs::INODE_HEAD;
use crate::format::dirent::{DirFormat, DirPacker, NewDirent, min_rec_len};
use crate::format::dirhash::DirHash;
use crate::format::features::{Incompat, RoCompat};
use crate::format::inline_data::{self, IN_BLOCK, InlineData, PARENT_SIZE};
use crate::format::inode::FileType;
use crate::mkfs::Layout;
use crate::mkfs::fill::dir_format;
use crate::source::tree::{Data, Entry, Node, NodeId, Tree};
use crate::units::Ino;

/// Name of the attribute behind `system.`.
pub(super) use crate::format::inline_data::XATTR_NAME as NAME;

/// Inline data by node.
pub(super) type Inlined = HashMap<NodeId, InlineData>;

/// What can be inline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InlineRules {
    capacity: usize,
    format: DirFormat,
    /// Symbolic links, too. With quotas they are not: the reference checker does not count an inode of that kind.
    links: bool,
}

impl InlineRules {
    /// The rules; `None` where nothing can be inline.
    pub(super) fn of(l: &Layout) -> Option<Self> {
        let size = l.inode_size() as usize;
        let extra = INODE_HEAD - 128;
        let capacity = inline_data::capacity(size, extra, &[])?;
        let on = l.features().incompat.contains(Incompat::INLINE_DATA);
        let format = DirFormat { tail: false, ..dir_format(l) };
        let links = !l.features().ro_compat.contains(RoCompat::QUOTA);
        on.then_some(Self { capacity, format, links })
    }

    /// Bytes of the second part of a node's inline data; `None` where it has none.
    pub(super) fn second_len(&self, tree: &Tree, id: NodeId, node: &Node) -> Option<usize> {
        if !self.holds(tree, id, node) {
            return None;
        }
        if node.is_dir() {
            return self.parts(tree, tree.dir_entries(node)).map(|p| p.1);
        }
        Some((node.size as usize).saturating_sub(IN_BLOCK))
    }

    /// Whether the node is stored inside its inode.
    pub(super) fn holds(&self, tree: &Tree, id: NodeId, node: &Node) -> bool {
        match node.data {
            Data::File | Data::Sparse(_) => node.size != 0 && node.size <= self.capacity as u64,
            // A shorter one is in the inode anyway.
            Data::Symlink(_) => self.links && node.size >= IN_BLOCK as u64 && node.size <= self.capacity as u64,
            Data::Dir { .. } => id != 0 && self.parts(tree, tree.dir_entries(node)).is_some(),
            Data::Device(..) | Data::Special => false,
        }
    }

    /// How many of a directory's entries go into the first part, and the bytes of the others.
    fn parts(&self, tree: &Tree, entries: &[Entry]) -> Option<(usize, usize)> {
        let most = self.capacity - PARENT_SIZE;
        let (mut first, mut used) = (0, 0);
        let (mut rest, mut full) = (0, false);
        for e in entries {
            let need = min_rec_len(tree.name(e.name).len(), false);
            full = full || used + need > IN_BLOCK - PARENT_SIZE;
            if full {
                rest += need;
            } else {
                used += need;
                first += 1;
            }
            if used + rest > most {
                return None;
            }
        }
        (rest <= self.capacity - IN_BLOCK).then_some((first, rest))
    }

    /// A directory's content.
    pub(super) fn directory(&self, tree: &Tree, node: &Node, ino_of: &dyn Fn(NodeId) -> Ino) -> Option<InlineData> {
        let entries = tree.dir_entries(node);
        let (first, rest) = self.parts(tree, entries)?;
        let mut data = InlineData::empty_directory(ino_of(node.parent));
        data.second = vec![0; rest];
        let (head, tail) = entries.split_at(first);
        for (list, entries) in data.lists_mut().into_iter().zip([head, tail]) {
            if list.is_empty() {
                continue;
            }
            let mut packer = DirPacker::new(list, self.format);
            for e in entries {
                let file_type = tree.node(e.node).map_or(FileType::Regular, Node::file_type).dirent_code();
                let (ino, name) = (ino_of(e.node), tree.name(e.name));
                if !packer.push(&NewDirent { ino, name, file_type, hash: DirHash::default() }) {
                    return None;
                }
            }
            packer.finish(0);
        }
        Some(data)
    }
}
