//! Which inode and which blocks every file gets. Unit: blocks.
//!
//! Inode numbers follow the order of nodes, blocks too: one pass over the free space, so that what is read together lies
//! together and is written in ascending order.

use super::dirs::{DirPlan, DirRules};
use super::inline::InlineRules;
use crate::error::{Error, Result};
use crate::format::dirhash::DirHasher;
use crate::format::extent::{Extent, MAX_WRITTEN_LEN};
use crate::format::features::{Compat, Incompat, RoCompat};
use crate::format::inode::BLOCK_LEN;
use crate::mkfs::Draft;
use crate::mkfs::fill::{dir_format, extent_root, indirect_root};
use crate::source::tree::{Data, Node, NodeId, Segment, Tree};
use crate::units::{Fsblk, Ino, Lblk};

/// No index.
pub(crate) const NONE: u32 = u32::MAX;
/// Direct pointers of an inode without extents.
const DIRECT: u64 = 12;
/// Most names of a file, and most subdirectories without `dir_nlink`, as the kernel has it.
#[doc(alias = "EXT4_LINK_MAX")]
const LINK_MAX: u32 = 65000;

/// Where a node's blocks are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// First block, where all are in one run that the inode itself can describe.
    pub(crate) start: u64,
    /// Blocks of that run.
    pub(crate) blocks: u32,
    /// Index of the map, where it is more than that.
    pub(crate) map: u32,
    /// Index of the directory's plan, where it has more than one block.
    pub(crate) dir: u32,
    /// The content is inside the inode.
    pub(crate) inline: bool,
}

/// A map of several runs.
#[derive(Debug)]
pub(crate) struct Map {
    /// The inode's 60 bytes.
    pub(crate) area: [u8; BLOCK_LEN],
    /// Clusters in use, those of the map itself included.
    pub(crate) clusters: u64,
    pub(crate) extents: Vec<Extent>,
}

/// The plan for a tree.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) first_ino: u32,
    pub(crate) places: Vec<Place>,
    pub(crate) maps: Vec<Map>,
    pub(crate) dirs: Vec<DirPlan>,
    pub(crate) rules: DirRules,
    pub(crate) block_size: u64,
    pub(crate) extents: bool,
    pub(crate) inline: Option<InlineRules>,
}

impl Plan {
    /// Inode number of a node.
    pub(crate) const fn ino(&self, id: NodeId) -> Ino {
        if id == 0 { Ino::ROOT } else { Ino(self.first_ino + id - 1) }
    }

    /// Whether the node's content is inside its inode.
    pub(crate) fn is_inline(&self, id: NodeId) -> bool {
        self.places.get(id as usize).is_some_and(|p| p.inline)
    }

    /// The runs of a node, ascending.
    pub(crate) fn runs(&self, id: NodeId) -> Runs<'_> {
        let Some(p) = self.places.get(id as usize) else { return Runs::One(None) };
        match self.maps.get(p.map as usize) {
            Some(map) => Runs::Many(&map.extents),
            None if p.blocks == 0 => Runs::One(None),
            None => Runs::One(Some(Extent { lblk: Lblk(0), len: p.blocks, pblk: Fsblk(p.start), unwritten: false })),
        }
    }

    /// Number and allocate everything.
    pub(crate) fn new(d: &mut Draft, tree: &Tree, lost_found: Option<Ino>) -> Result<Self> {
        let l = d.layout();
        let hasher = l.features().compat.contains(Compat::DIR_INDEX).then(|| {
            let word = |i: usize| {
                let b = &l.hash_seed()[i * 4..];
                u32::from_le_bytes([b[0], b[1], b[2], b[3]])
            };
            DirHasher::new(l.options.hash, [word(0), word(1), word(2), word(3)])
        });
        let rules = DirRules {
            block_size: l.block_size() as usize,
            format: dir_format(l),
            hasher,
            large_dir: l.features().incompat.contains(Incompat::LARGEDIR),
            lost_found,
        };
        let mut plan = Self {
            first_ino: d.next_ino(),
            places: Vec::with_capacity(tree.len()),
            maps: Vec::new(),
            dirs: Vec::new(),
            rules,
            block_size: u64::from(l.block_size()),
            extents: l.features().incompat.contains(Incompat::EXTENTS),
            inline: InlineRules::of(l),
        };
        d.note_size(tree.nodes.iter().map(|n| n.size).max().unwrap_or(0));
        d.take_inos(tree.len() as u64 - 1)?;
        let nlink = l_has_nlink(d);
        for (id, node) in (0..).zip(&tree.nodes) {
            if node.links > LINK_MAX && !(node.is_dir() && nlink) {
                let have = u64::from(LINK_MAX);
                return Err(Error::NoSpace { what: "links to one inode", need: u64::from(node.links), have });
            }
            let place = plan.place(d, tree, id, node)?;
            plan.places.push(place);
        }
        Ok(plan)
    }

    fn place(&mut self, d: &mut Draft, tree: &Tree, id: NodeId, node: &Node) -> Result<Place> {
        let mut dir = NONE;
        let bs = self.block_size;
        if self.inline.is_some_and(|rules| rules.holds(tree, id, node)) {
            if node.is_dir() {
                d.count_dir(self.ino(id));
            }
            return Ok(Place { start: 0, blocks: 0, map: NONE, dir: NONE, inline: true });
        }
        let blocks = match node.data {
            Data::Dir { .. } => {
                d.count_dir(self.ino(id));
                match self.rules.plan(tree, id, node)? {
                    None => 1,
                    Some(plan) => {
                        let n = plan.blocks;
                        dir = self.dirs.len() as u32;
                        self.dirs.push(plan);
                        u64::from(n)
                    }
                }
            }
            Data::Symlink(_) if node.size < BLOCK_LEN as u64 => 0,
            Data::Symlink(_) if node.size >= bs => {
                return Err(Error::NoSpace { what: "bytes for a symlink's target", need: node.size + 1, have: bs });
            }
            Data::Symlink(_) => 1,
            Data::File => node.size.div_ceil(bs),
            Data::Sparse(i) => return self.sparse(d, id, node, tree.segments(i)),
            Data::Device(..) | Data::Special => 0,
        };
        if blocks > u64::from(u32::MAX) {
            return Err(Error::NoSpace { what: "blocks of one file", need: blocks, have: u64::from(u32::MAX) });
        }
        let mut extents = Vec::new();
        if id == 0 {
            d.root_extents(blocks, &mut extents)?;
        } else {
            d.allocate_extents(0, blocks, &mut extents)?;
        }
        let clusters = blocks.div_ceil(d.ratio());
        Ok(Place { dir, ..self.map(d, id, extents, clusters)? })
    }

    /// Only what is not a hole gets blocks, in whole clusters.
    fn sparse(&mut self, d: &mut Draft, id: NodeId, node: &Node, segments: &[Segment]) -> Result<Place> {
        let (bs, ratio) = (self.block_size, d.ratio());
        let end = node.size.div_ceil(bs);
        if end > u64::from(u32::MAX) {
            return Err(Error::NoSpace { what: "blocks of one file", need: end, have: u64::from(u32::MAX) });
        }
        let mut extents = Vec::new();
        let mut clusters = 0;
        let mut i = 0;
        while let Some(s) = segments.get(i) {
            let from = s.start / bs / ratio * ratio;
            let mut to = s.end.div_ceil(bs);
            i += 1;
            // Segments that share a cluster, or touch, are one.
            while let Some(next) = segments.get(i)
                && next.start / bs / ratio * ratio <= to.next_multiple_of(ratio)
            {
                to = next.end.div_ceil(bs);
                i += 1;
            }
            to = to.next_multiple_of(ratio).min(end);
            d.allocate_extents(from, to - from, &mut extents)?;
            clusters += (to - from).div_ceil(ratio);
        }
        self.map(d, id, extents, clusters)
    }

    fn map(&mut self, d: &mut Draft, id: NodeId, extents: Vec<Extent>, clusters: u64) -> Result<Place> {
        let simple = match extents.as_slice() {
            [] => Some((0, 0)),
            [e] if e.lblk.0 == 0 && (self.extents || u64::from(e.len) <= DIRECT) => Some((e.pblk.0, e.len)),
            _ => None,
        };
        if let Some((start, blocks)) = simple {
            debug_assert!(blocks <= u32::from(MAX_WRITTEN_LEN));
            return Ok(Place { start, blocks, map: NONE, dir: NONE, inline: false });
        }
        let mut clusters = clusters;
        let area = if self.extents {
            extent_root(d, self.ino(id), &extents, &mut clusters)?
        } else {
            indirect_root(d, &extents, &mut clusters)?
        };
        self.maps.push(Map { area, clusters, extents });
        Ok(Place { start: 0, blocks: 0, map: self.maps.len() as u32 - 1, dir: NONE, inline: false })
    }
}

fn l_has_nlink(d: &Draft) -> bool {
    d.layout().features().ro_compat.contains(RoCompat::DIR_NLINK)
}

/// The runs of a node.
pub(crate) enum Runs<'a> {
    One(Option<Extent>),
    Many(&'a [Extent]),
}

impl Runs<'_> {
    pub(crate) const fn as_slice(&self) -> &[Extent] {
        match self {
            Self::One(e) => e.as_slice(),
            Self::Many(v) => v,
        }
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.as_slice().iter().map(|e| u64::from(e.len)).sum()
    }
}
