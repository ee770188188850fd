//! Block maps: which blocks of the device hold which blocks of a file. Extent trees and indirect maps behind one
//! interface. Logical and physical numbers are in blocks.
//!
//! A walk visits every node of a map once and reports it, so that one piece of code serves reading, block
//! ownership and checking. Bounds on hostile maps: extent trees cannot be deeper than the header allows and each
//! index node must start exactly where its parent says, so no node is reached twice; an indirect block that is
//! met twice in one map is [`Flaw::TooDeep`].

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::Volume;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::extent::{self, Entries, Extent, MAX_DEPTH, Node};
use crate::format::features::{Incompat, RoCompat};
use crate::format::inode::{FileType, Inode, InodeFlags};
use crate::units::{Fsblk, Ino, Lblk};

/// An inode and its number, as most operations need them.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Number.
    pub ino: Ino,
    /// Content.
    pub inode: &'a Inode,
}

/// What a logical block is mapped to, and for how many blocks the answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Mapping {
    /// Nothing: reads as zeros.
    Hole {
        /// Blocks from the one asked for to the next mapped one, or to block 2^32.
        len: u64,
    },
    /// Blocks of the device.
    Mapped {
        /// The block for the one asked for.
        pblk: Fsblk,
        /// Blocks from there on that are contiguous.
        len: u64,
        /// Allocated but never written: reads as zeros.
        unwritten: bool,
    },
}

/// What a walk over a map meets, in logical order (a node before what is below it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapEvent {
    /// A block of the map itself: extent node or indirect block.
    Node {
        /// Where it is.
        block: Fsblk,
        /// Levels below it.
        depth: u32,
        /// First logical block that it describes.
        lblk: Lblk,
    },
    /// Blocks of the file. Runs of an indirect map are merged where they continue.
    Data(Extent),
}

/// How an inode's blocks are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// No blocks: fast symlinks, devices, inline data and the like.
    None,
    /// Extent tree.
    Extents,
    /// Direct and indirect blocks.
    Indirect,
}

/// Most blocks that one step of an indirect walk merges into an extent.
const MAX_RUN: u32 = 1 << 15;

type Visit<'v> = &'v mut dyn FnMut(MapEvent) -> Result<ControlFlow<()>>;

impl Volume {
    /// How an inode's blocks are found.
    pub fn map_kind(&self, inode: &Inode) -> MapKind {
        let flags = inode.flags();
        if flags.contains(InodeFlags::INLINE_DATA) {
            return MapKind::None;
        }
        match inode.file_type() {
            Some(FileType::Symlink) if self.is_fast_symlink(inode) => MapKind::None,
            Some(FileType::Regular | FileType::Directory | FileType::Symlink) => {
                if flags.contains(InodeFlags::EXTENTS) { MapKind::Extents } else { MapKind::Indirect }
            }
            // The bad-blocks inode and the boot loader's may have no type.
            None if flags.contains(InodeFlags::EXTENTS) => MapKind::Extents,
            None if inode.blocks_raw() > 0 => MapKind::Indirect,
            _ => MapKind::None,
        }
    }

    /// Whether a symlink's target is in the inode itself: no data blocks beyond an extended attribute block, or, with
    /// `ea_inode`, short enough.
    #[doc(alias = "ext4_inode_is_fast_symlink")]
    pub fn is_fast_symlink(&self, inode: &Inode) -> bool {
        if inode.file_type() != Some(FileType::Symlink) || inode.flags().contains(InodeFlags::EA_INODE) {
            return false;
        }
        if inode.flags().intersects(InodeFlags::EXTENTS | InodeFlags::INLINE_DATA) {
            return false;
        }
        if self.geo.features.incompat.contains(Incompat::EA_INODE) {
            // Charged for values in other inodes: blocks say nothing.
            return inode.size() > 0 && inode.size() < extent_area_len();
        }
        let xattr = if inode.file_acl().0 == 0 {
            0
        } else if self.geo.features.ro_compat.contains(RoCompat::HUGE_FILE)
            && inode.flags().contains(InodeFlags::HUGE_FILE)
        {
            u64::from(self.geo.cluster_ratio)
        } else {
            u64::from(self.geo.cluster_ratio).saturating_mul(u64::from(self.geo.block_size).wrapping_shr(9))
        };
        inode.blocks_raw() <= xattr && inode.size() < extent_area_len()
    }

    /// Visit all of an inode's map. The visitor ends the walk early with `ControlFlow::Break`.
    pub fn walk_map(&self, owner: Owner<'_>, visit: Visit<'_>) -> Result<()> {
        let place = Place::inode(owner.ino);
        let walked = match self.map_kind(owner.inode) {
            MapKind::None => Ok(ControlFlow::Continue(())),
            MapKind::Extents => self.walk_extents(owner, visit),
            MapKind::Indirect => self.walk_indirect(owner.inode, visit),
        };
        walked.map(|_| ()).map_err(|e| e.at(place))
    }

    /// All mapped ranges of an inode in logical order. Memory grows with the number of extents on disk.
    pub fn extents(&self, owner: Owner<'_>) -> Result<Vec<Extent>> {
        let mut all: Vec<Extent> = Vec::new();
        self.walk_map(owner, &mut |event| {
            if let MapEvent::Data(e) = event {
                all.push(e);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(all)
    }

    /// What logical block `lblk` is mapped to.
    pub fn map(&self, owner: Owner<'_>, lblk: Lblk) -> Result<Mapping> {
        const END: u64 = 1 << 32;
        let mut answer = Mapping::Hole { len: END.saturating_sub(lblk.0.into()) };
        if self.map_kind(owner.inode) == MapKind::Extents {
            return self.map_extent(owner, lblk).map_err(|e| e.at(Place::inode(owner.ino)));
        }
        self.walk_map(owner, &mut |event| {
            let MapEvent::Data(e) = event else { return Ok(ControlFlow::Continue(())) };
            if e.end() <= u64::from(lblk.0) {
                return Ok(ControlFlow::Continue(()));
            }
            answer = answer_from(&e, lblk);
            Ok(ControlFlow::Break(()))
        })?;
        Ok(answer)
    }

    fn map_extent(&self, owner: Owner<'_>, lblk: Lblk) -> Result<Mapping> {
        let seed = self.verify_seed(owner.ino, owner.inode);
        let mut node = Node::decode(&owner.inode.block_area())?;
        let mut limit = 1u64 << 32;
        loop {
            match &node.entries {
                Entries::Leaf(v) => {
                    let next = v.iter().find(|e| e.end() > u64::from(lblk.0));
                    return Ok(match next {
                        Some(e) => {
                            self.check_extent(e)?;
                            answer_from(e, lblk)
                        }
                        None => Mapping::Hole { len: limit.saturating_sub(lblk.0.into()) },
                    });
                }
                Entries::Index(v) => {
                    let at = v.partition_point(|i| i.lblk <= lblk);
                    if let Some(next) = v.get(at) {
                        limit = limit.min(next.lblk.0.into());
                    }
                    let Some(index) = at.checked_sub(1).and_then(|at| v.get(at)) else {
                        return Ok(Mapping::Hole { len: limit.saturating_sub(lblk.0.into()) });
                    };
                    node = self.child_node(index.child, node.depth, seed)?;
                }
            }
        }
    }

    /// Read and check the extent node at `block`, a child of a node of depth `parent_depth`.
    fn child_node(&self, block: Fsblk, parent_depth: u16, seed: Option<u32>) -> Result<Node> {
        self.child_node_from(block, parent_depth, seed, || self.block(block))
    }

    /// Check the extent node at `block`, whose bytes `read` brings.
    pub(super) fn child_node_from<B: std::ops::Deref<Target = [u8]>>(
        &self,
        block: Fsblk,
        parent_depth: u16,
        seed: Option<u32>,
        read: impl FnOnce() -> Result<B>,
    ) -> Result<Node> {
        let of = Structure::ExtentNode;
        if !self.geo.has_block(block) {
            return Err(Error::corrupt(Flaw::BlockOutOfRange { of, block }, Place::FS));
        }
        let place = Place::block(block);
        let bytes = read()?;
        let node = Node::decode(&bytes).map_err(|e| e.at(place))?;
        if Some(node.depth) != parent_depth.checked_sub(1) {
            let flaw = Flaw::Field { of, field: "depth", value: node.depth.into() };
            return Err(Error::corrupt(flaw, place));
        }
        if let Some(seed) = seed {
            extent::verify_block(&bytes, seed).map_err(|e| e.at(place))?;
        }
        Ok(node)
    }

    pub(super) fn check_extent(&self, e: &Extent) -> Result<()> {
        if self.geo.has_range(e.pblk, e.len.into()) {
            return Ok(());
        }
        let last = Fsblk(e.pblk.0.saturating_add(u64::from(e.len).saturating_sub(1)));
        let block = if self.geo.has_block(e.pblk) { last } else { e.pblk };
        let flaw = Flaw::BlockOutOfRange { of: Structure::ExtentNode, block };
        Err(Error::corrupt(flaw, Place::FS.in_lblk(e.lblk)))
    }

    fn walk_extents(&self, owner: Owner<'_>, visit: Visit<'_>) -> Result<ControlFlow<()>> {
        let seed = self.verify_seed(owner.ino, owner.inode);
        let root = Node::decode(&owner.inode.block_area())?;
        if root.depth > MAX_DEPTH {
            let flaw = Flaw::TooDeep { of: Structure::ExtentNode, depth: root.depth.into() };
            return Err(Error::corrupt(flaw, Place::FS));
        }
        self.walk_node(&root, 1 << 32, seed, visit)
    }

    /// Visit what is below `node`, all of whose logical blocks must be below `limit`. Recursion is bounded by depth.
    fn walk_node(&self, node: &Node, limit: u64, seed: Option<u32>, visit: Visit<'_>) -> Result<ControlFlow<()>> {
        let of = Structure::ExtentNode;
        match &node.entries {
            Entries::Leaf(v) => {
                for e in v {
                    if e.end() > limit {
                        return Err(Error::corrupt(Flaw::Order { of }, Place::FS.in_lblk(e.lblk)));
                    }
                    self.check_extent(e)?;
                    if visit(MapEvent::Data(*e))?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            Entries::Index(v) => {
                let ends = v.iter().skip(1).map(|i| u64::from(i.lblk.0)).chain([limit]);
                for (index, end) in v.iter().zip(ends) {
                    let depth = u32::from(node.depth).saturating_sub(1);
                    let child = self.child_node(index.child, node.depth, seed)?;
                    if !child_starts_right(&child, index.lblk) || end > limit {
                        let place = Place::block(index.child).in_lblk(index.lblk);
                        return Err(Error::corrupt(Flaw::Order { of }, place));
                    }
                    let event = MapEvent::Node { block: index.child, depth, lblk: index.lblk };
                    if visit(event)?.is_break() || self.walk_node(&child, end, seed, visit)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn walk_indirect(&self, inode: &Inode, visit: Visit<'_>) -> Result<ControlFlow<()>> {
        let area = inode.block_area();
        let mut walk = IndirectWalk { volume: self, visit, run: None, seen: BTreeSet::new() };
        let pointers = area.chunks_exact(4).map(le32);
        let mut lblk = 0u64;
        for (slot, pointer) in pointers.enumerate() {
            let depth = (slot as u32).saturating_sub(11);
            if walk.pointer(pointer, depth, lblk)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            lblk = lblk.saturating_add(self.pointer_span(depth));
        }
        walk.flush()
    }

    /// Logical blocks that one pointer with `depth` levels below it covers.
    fn pointer_span(&self, depth: u32) -> u64 {
        let bits = self.geo.block_bits.saturating_sub(2).saturating_mul(depth);
        1u64.checked_shl(bits).unwrap_or(u64::MAX)
    }
}

const fn extent_area_len() -> u64 {
    crate::format::inode::BLOCK_LEN as u64
}

fn le32(bytes: &[u8]) -> u32 {
    match bytes {
        &[a, b, c, d, ..] => u32::from_le_bytes([a, b, c, d]),
        _ => 0,
    }
}

/// An index node must start exactly where its parent says; a leaf there or later (or be empty).
pub(super) fn child_starts_right(child: &Node, lblk: Lblk) -> bool {
    match &child.entries {
        Entries::Index(v) => v.first().is_some_and(|i| i.lblk == lblk),
        Entries::Leaf(v) => v.first().is_none_or(|e| e.lblk >= lblk),
    }
}

fn answer_from(e: &Extent, lblk: Lblk) -> Mapping {
    match lblk.0.checked_sub(e.lblk.0) {
        None => Mapping::Hole { len: u64::from(e.lblk.0.saturating_sub(lblk.0)) },
        Some(skip) => Mapping::Mapped {
            pblk: e.pblk.saturating_add(skip.into()),
            len: e.end().saturating_sub(lblk.0.into()),
            unwritten: e.unwritten,
        },
    }
}

/// A walk over an indirect map that merges neighbouring blocks into runs.
struct IndirectWalk<'a, 'v> {
    volume: &'a Volume,
    visit: Visit<'v>,
    run: Option<Extent>,
    seen: BTreeSet<Fsblk>,
}

impl IndirectWalk<'_, '_> {
    fn flush(&mut self) -> Result<ControlFlow<()>> {
        match self.run.take() {
            Some(run) => (self.visit)(MapEvent::Data(run)),
            None => Ok(ControlFlow::Continue(())),
        }
    }

    /// Follow one pointer. Recursion is bounded by `depth` ≤ 3.
    fn pointer(&mut self, pointer: u32, depth: u32, lblk: u64) -> Result<ControlFlow<()>> {
        if pointer == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        let of = Structure::IndirectBlock;
        let block = Fsblk(pointer.into());
        let Ok(lblk32) = u32::try_from(lblk) else {
            // Blocks that no file offset can reach.
            return Err(Error::corrupt(Flaw::Field { of, field: "block", value: lblk }, Place::FS));
        };
        let place = Place::FS.in_lblk(Lblk(lblk32));
        if !self.volume.geo.has_block(block) {
            return Err(Error::corrupt(Flaw::BlockOutOfRange { of, block }, place));
        }
        if depth == 0 {
            return self.data(Lblk(lblk32), block);
        }
        if !self.seen.insert(block) {
            return Err(Error::corrupt(Flaw::TooDeep { of, depth }, place.in_block(block)));
        }
        if self.flush()?.is_break()
            || (self.visit)(MapEvent::Node { block, depth: depth.saturating_sub(1), lblk: Lblk(lblk32) })?.is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        let bytes = self.volume.block(block)?.into_owned();
        let below = depth.saturating_sub(1);
        let span = self.volume.pointer_span(below);
        let mut at = lblk;
        for child in bytes.chunks_exact(4).map(le32) {
            if self.pointer(child, below, at)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            at = at.saturating_add(span);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn data(&mut self, lblk: Lblk, pblk: Fsblk) -> Result<ControlFlow<()>> {
        if let Some(run) = &mut self.run
            && run.end() == u64::from(lblk.0)
            && run.pblk.0.saturating_add(run.len.into()) == pblk.0
            && run.len < MAX_RUN
        {
            run.len = run.len.saturating_add(1);
            return Ok(ControlFlow::Continue(()));
        }
        let flushed = self.flush()?;
        self.run = Some(Extent { lblk, len: 1, pblk, unwritten: false });
        Ok(flushed)
    }
}
