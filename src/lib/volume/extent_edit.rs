//! Extent trees, changed: insert, convert between written and unwritten, and remove, at any depth. Logical and
//! physical numbers in blocks.
//!
//! A full leaf is split behind the place of the new entry, so that appending leaves full leaves behind; where every
//! node on the path is full the tree grows by a level. Removing frees nodes that become empty, and a tree whose
//! entries fit the inode again goes back there. An index entry always holds the first block that is below it.
//! Blocks of the file are neither allocated nor freed here; nodes are.

use super::MapKind;
use super::block_map::child_starts_right;
use super::edit::{Edit, OpenInode, modify_block};
use super::extent_plan::{can_merge, clip, converted, inserted, inserted_apart, max_len, removed};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::extent::{self, Entries, Extent, Index, MAX_DEPTH, Node};
use crate::format::inode::{BLOCK_LEN, InodeFlags};
use crate::units::{Fsblk, Lblk};

/// Entries of the root.
const ROOT_MAX: u16 = extent::capacity(BLOCK_LEN) as u16;
/// Where all logical blocks end.
pub(super) const LBLK_END: u64 = 1 << 32;

/// How an extent that is converted in part comes apart in a filesystem in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It is cut, for which a full leaf needs room, and joined with what its parts continue then.
    First,
    /// The part becomes the end of a neighbour, if it has such a one.
    Never,
}

/// A node on the way from the root to a leaf.
struct Step {
    /// Where it is; `None` for the root.
    block: Option<Fsblk>,
    node: Node,
    /// In an index node: the entry followed. In a leaf: how many extents start at or before the block looked for.
    pos: usize,
}

/// What a removal took out of a tree.
#[derive(Clone, Copy, Debug)]
pub(super) enum Gone {
    Extent(Extent),
    /// A node that has nothing left below it.
    Node(Fsblk),
}

impl Step {
    const fn is_full(&self) -> bool {
        self.node.len() >= self.node.max as usize
    }
}

fn empty_root() -> Node {
    Node { depth: 0, max: ROOT_MAX, generation: 0, entries: Entries::Leaf(Vec::new()) }
}

/// The first logical block of a node.
fn first_key(node: &Node) -> Option<Lblk> {
    match &node.entries {
        Entries::Leaf(v) => v.first().map(|e| e.lblk),
        Entries::Index(v) => v.first().map(|i| i.lblk),
    }
}

fn leaf_of(node: &Node) -> &[Extent] {
    match &node.entries {
        Entries::Leaf(v) => v,
        Entries::Index(_) => &[],
    }
}

impl Edit<'_> {
    /// Make an inode's block area an empty extent tree.
    #[doc(alias = "ext4_ext_tree_init")]
    pub fn init_extents(&self, o: &mut OpenInode) {
        let mut area = [0; BLOCK_LEN];
        empty_root().encode_into(&mut area);
        o.inode.update(|c| c.block = area);
        o.set(InodeFlags::EXTENTS, true);
    }

    /// Levels below the root of an inode's extent tree.
    pub fn extent_depth(&self, o: &OpenInode) -> Result<u16> {
        Ok(Node::decode(&o.inode.block_area()).map_err(|e| e.at(Place::inode(o.ino)))?.depth)
    }

    /// Map `new` (any length). None of its blocks may be mapped.
    ///
    /// # Errors
    /// [`Error::NoSpace`] where a node cannot be allocated; [`Error::Corrupt`] where a block is mapped already.
    #[doc(alias = "ext4_ext_insert_extent")]
    pub fn insert_extent(&mut self, o: &mut OpenInode, new: Extent) -> Result<()> {
        self.insert_pieces(o, new, false)
    }

    /// Map `new`; `apart` as extents of its own, not joined with neighbours.
    pub(super) fn insert_pieces(&mut self, o: &mut OpenInode, new: Extent, apart: bool) -> Result<()> {
        let (mut at, end) = (u64::from(new.lblk.0), new.end());
        while at < end {
            let stop = at.saturating_add(max_len(new.unwritten).into());
            let Some(piece) = clip(&new, at, stop) else { break };
            self.insert_one(o, piece, apart).map_err(|e| e.at(Place::inode(o.ino).in_lblk(piece.lblk)))?;
            at = piece.end();
        }
        Ok(())
    }

    fn insert_one(&mut self, o: &mut OpenInode, new: Extent, apart: bool) -> Result<()> {
        // Each round splits or deepens; a tree of the greatest depth has room after as many rounds.
        for _ in 0..=MAX_DEPTH.saturating_add(1) {
            let path = self.extent_path(o, new.lblk)?;
            let Some(last) = path.last() else { break };
            let leaf = leaf_of(&last.node);
            let before = last.pos.checked_sub(1).and_then(|i| leaf.get(i));
            let overlaps = before.is_some_and(|e| e.end() > new.lblk.0.into())
                || leaf.get(last.pos).map_or(next_leaf_key(&path), |e| e.lblk.0.into()) < new.end();
            if overlaps {
                let detail = "a block is mapped twice";
                return Err(Error::corrupt(Flaw::Inconsistent { of: Structure::ExtentNode, detail }, Place::FS));
            }
            let merged = if apart { inserted_apart(leaf, new) } else { inserted(leaf, new) };
            let joins = apart || !self.alloc.in_use() || joins_at_once(leaf, last.pos, new);
            if merged.len() <= usize::from(last.node.max) && (joins || !last.is_full()) {
                self.replace_leaf(o, path, merged)?;
                return if apart { Ok(()) } else { self.merge_up(o) };
            }
            self.make_room(o, &path, new.lblk)?;
        }
        Err(too_deep())
    }

    /// Make all mapped blocks in `start..end` written, or unwritten.
    #[doc(alias = "ext4_convert_unwritten_extents")]
    pub fn convert_extents(&mut self, o: &mut OpenInode, start: Lblk, end: u64, unwritten: bool) -> Result<()> {
        self.convert_extents_by(o, start, end, unwritten, Cut::Never)
    }

    /// The same; `cut` says whether an extent that is converted in part is cut before its parts are joined with others.
    #[doc(alias = "ext4_split_extent")]
    pub fn convert_extents_by(
        &mut self,
        o: &mut OpenInode,
        start: Lblk,
        end: u64,
        unwritten: bool,
        cut: Cut,
    ) -> Result<()> {
        let mut at = u64::from(start.0);
        while at < end {
            let Ok(lblk) = u32::try_from(at) else { break };
            let path = self.extent_path(o, Lblk(lblk))?;
            let Some(last) = path.last() else { break };
            let leaf = leaf_of(&last.node);
            let next = next_leaf_key(&path);
            let changed = converted(leaf, at, end, unwritten);
            let cuts = if self.alloc.in_use() && cut == Cut::First { cuts_of(leaf, at, end) } else { 0 };
            if changed.len().max(leaf.len().saturating_add(cuts)) <= usize::from(last.node.max) {
                if changed[..] != *leaf {
                    self.replace_leaf(o, path, changed)?;
                    self.merge_up(o)?;
                }
                at = next;
                continue;
            }
            // No room: cut what has to be converted first into an extent of its own.
            let hit = leaf.iter().find(|e| e.unwritten != unwritten && e.end() > at);
            let Some(hit) = hit.and_then(|e| clip(e, at, end)) else { break };
            let longest = u64::from(hit.lblk.0).saturating_add(max_len(unwritten).into());
            let stop = hit.end().min(longest);
            if self.alloc.in_use() {
                self.split_for_io(o, hit.lblk, Lblk(stop as u32))?;
            } else {
                self.split_extent(o, hit.lblk)?;
                self.split_extent(o, Lblk(stop as u32))?;
            }
            let path = self.extent_path(o, hit.lblk)?;
            let leaf = path.last().map(|s| leaf_of(&s.node)).unwrap_or_default();
            let changed = converted(leaf, hit.lblk.0.into(), stop, unwritten);
            self.replace_leaf(o, path, changed)?;
            self.merge_up(o)?;
            at = stop;
        }
        Ok(())
    }

    /// Unmap `start..end`; returns what was mapped there, in order. The blocks are the caller's to free.
    pub fn remove_extents(&mut self, o: &mut OpenInode, start: Lblk, end: u64) -> Result<Vec<Extent>> {
        let mut cut = Vec::new();
        for gone in self.detach_extents(o, start, end)? {
            match gone {
                Gone::Extent(e) => cut.push(e),
                Gone::Node(block) => self.free_metadata(o, block)?,
            }
        }
        cut.reverse();
        Ok(cut)
    }

    /// Unmap `start..end`; returns what was mapped there and the nodes that held only that, from the end to the start, each
    /// node behind what was below it. All of them are the caller's to free, in this order where the filesystem is in use.
    #[doc(alias = "ext4_ext_remove_space")]
    pub(super) fn detach_extents(&mut self, o: &mut OpenInode, start: Lblk, end: u64) -> Result<Vec<Gone>> {
        let from = u64::from(start.0);
        let hole = {
            let path = self.extent_path(o, start)?;
            let leaf = path.last().map(|s| leaf_of(&s.node)).unwrap_or_default();
            leaf.iter().any(|e| u64::from(e.lblk.0) < from && e.end() > end) || self.alloc.in_use()
        };
        if let (true, Ok(cut)) = (hole, u32::try_from(end)) {
            self.split_extent(o, Lblk(cut))?;
        }
        let mut root = Node::decode(&o.inode.block_area())?;
        let mut gone = Vec::new();
        if self.prune(o, &mut root, from, end, &mut gone)? {
            if root.is_empty() {
                root = Node { generation: root.generation, ..empty_root() };
            }
            store_root(o, &root);
            if !self.alloc.in_use() {
                self.shrink_tree(o)?;
            }
        }
        Ok(gone)
    }

    /// After something was joined: a file in use gets a tree that fits the inode again.
    fn merge_up(&mut self, o: &mut OpenInode) -> Result<()> {
        if self.alloc.in_use() && self.extent_depth(o)? == 1 { self.shrink_tree(o) } else { Ok(()) }
    }

    /// Make `start..end`, part of one unwritten extent that is about to be written, an extent of its own.
    #[doc(alias = "ext4_split_convert_extents")]
    pub fn split_for_io(&mut self, o: &mut OpenInode, start: Lblk, end: Lblk) -> Result<()> {
        self.split_extent(o, end)?;
        self.split_extent(o, start)
    }

    /// Move all extents from `first` on up or down by `by` blocks; where they go nothing is mapped.
    #[doc(alias = "ext4_ext_shift_extents")]
    pub fn shift_extents(&mut self, o: &mut OpenInode, first: Lblk, up: bool, by: u32) -> Result<()> {
        let to = |l: Lblk| if up { l.saturating_add(by) } else { Lblk(l.0.saturating_sub(by)) };
        self.split_extent(o, first)?;
        let path = self.extent_path(o, first)?;
        let Some(last) = path.last() else { return Ok(()) };
        if path.iter().take(path.len().saturating_sub(1)).all(|s| s.node.len() == 1) {
            // One leaf: it is changed where it is.
            let mut moved: Vec<Extent> = Vec::new();
            for e in leaf_of(&last.node) {
                let e = if e.lblk < first { *e } else { Extent { lblk: to(e.lblk), ..*e } };
                moved = if e.lblk < first && up { inserted_apart(&moved, e) } else { inserted(&moved, e) };
            }
            return self.replace_leaf(o, path, moved);
        }
        for x in self.remove_extents(o, first, LBLK_END)? {
            self.insert_extent(o, Extent { lblk: to(x.lblk), ..x })?;
        }
        Ok(())
    }

    /// Cut `start..end` out of what is below `node`, the last first; whether the node itself changed. Recursion is bounded by
    /// depth.
    fn prune(
        &mut self,
        o: &mut OpenInode,
        node: &mut Node,
        start: u64,
        end: u64,
        gone: &mut Vec<Gone>,
    ) -> Result<bool> {
        let depth = node.depth;
        match &mut node.entries {
            Entries::Leaf(v) => {
                let (kept, cut) = removed(v, start, end);
                let changed = !cut.is_empty();
                gone.extend(cut.into_iter().rev().map(Gone::Extent));
                *v = kept;
                Ok(changed)
            }
            Entries::Index(v) => {
                let (mut kept, mut changed) = (Vec::with_capacity(v.len()), false);
                let mut stop = LBLK_END;
                for i in v.iter().rev() {
                    let up_to = std::mem::replace(&mut stop, i.lblk.0.into());
                    if up_to <= start || stop >= end {
                        kept.push(*i);
                        continue;
                    }
                    let mut child = self.extent_node(o, i.child, depth)?;
                    if !child_starts_right(&child, i.lblk) {
                        let place = Place::inode(o.ino).in_block(i.child);
                        return Err(Error::corrupt(Flaw::Order { of: Structure::ExtentNode }, place));
                    }
                    if !self.prune(o, &mut child, start, end, gone)? {
                        kept.push(*i);
                        continue;
                    }
                    let Some(lblk) = first_key(&child) else {
                        changed = true;
                        gone.push(Gone::Node(i.child));
                        continue;
                    };
                    self.store_node(o, i.child, &child)?;
                    changed |= lblk != i.lblk;
                    kept.push(Index { lblk, child: i.child });
                }
                kept.reverse();
                *v = kept;
                Ok(changed)
            }
        }
    }

    /// While the root leads to a single node whose entries fit the inode, move them there.
    #[doc(alias = "ext4_ext_try_to_merge_up")]
    fn shrink_tree(&mut self, o: &mut OpenInode) -> Result<()> {
        for _ in 0..=MAX_DEPTH {
            let root = Node::decode(&o.inode.block_area())?;
            let Entries::Index(v) = &root.entries else { return Ok(()) };
            let [only] = v[..] else { return Ok(()) };
            let child = self.extent_node(o, only.child, root.depth)?;
            if child.len() > usize::from(root.max) {
                return Ok(());
            }
            store_root(o, &Node { max: root.max, ..child });
            self.free_metadata(o, only.child)?;
        }
        Ok(())
    }

    /// Make a boundary between extents at `at`, where one spans it. The mapping stays the same.
    #[doc(alias = "ext4_split_extent_at")]
    fn split_extent(&mut self, o: &mut OpenInode, at: Lblk) -> Result<()> {
        let spans = |e: &Extent| e.lblk < at && e.end() > u64::from(at.0);
        for _ in 0..=MAX_DEPTH.saturating_add(1) {
            let path = self.extent_path(o, at)?;
            let Some(last) = path.last() else { break };
            if !last.is_full() {
                // The extent is the last one before `at`: in this leaf, or (this one is new and empty) before it.
                let Some(before) = at.0.checked_sub(1) else { return Ok(()) };
                let mut owner = self.extent_path(o, Lblk(before))?;
                let Some(step) = owner.last_mut() else { break };
                let leaf = leaf_of(&step.node).to_vec();
                let Some(e) = leaf.iter().find(|e| spans(e)).copied() else { return Ok(()) };
                let halves = |e: &Extent| [clip(e, 0, at.0.into()), clip(e, at.0.into(), u64::MAX)];
                if owner.last().and_then(|s| s.block) == path.last().and_then(|s| s.block) {
                    let all = leaf.iter().flat_map(|e| if spans(e) { halves(e) } else { [Some(*e), None] });
                    return self.replace_leaf(o, path, all.flatten().collect());
                }
                let [left, right] = halves(&e);
                let kept = leaf.iter().filter_map(|e| if spans(e) { left } else { Some(*e) }).collect();
                self.replace_leaf(o, owner, kept)?;
                let path = self.extent_path(o, at)?;
                let leaf = path.last().map(|s| leaf_of(&s.node)).unwrap_or_default();
                let all = right.iter().chain(leaf).copied().collect();
                return self.replace_leaf(o, path, all);
            }
            if !self.extent_spans(o, at)? {
                return Ok(());
            }
            self.make_room(o, &path, at)?;
        }
        Err(too_deep())
    }

    /// Whether an extent starts before `at` and ends behind it.
    fn extent_spans(&self, o: &OpenInode, at: Lblk) -> Result<bool> {
        let Some(before) = at.0.checked_sub(1) else { return Ok(false) };
        let path = self.extent_path(o, Lblk(before))?;
        let leaf = path.last().map(|s| leaf_of(&s.node)).unwrap_or_default();
        Ok(leaf.iter().any(|e| e.lblk < at && e.end() > u64::from(at.0)))
    }

    /// The nodes from the root to the leaf where `lblk` belongs.
    #[doc(alias = "ext4_find_extent")]
    fn extent_path(&self, o: &OpenInode, lblk: Lblk) -> Result<Vec<Step>> {
        let place = Place::inode(o.ino);
        let mut path = Vec::new();
        let (mut block, mut node) = (None, Node::decode(&o.inode.block_area()).map_err(|e| e.at(place))?);
        loop {
            let (pos, next) = match &node.entries {
                Entries::Leaf(v) => (v.partition_point(|e| e.lblk <= lblk), None),
                Entries::Index(v) => {
                    let pos = v.partition_point(|i| i.lblk <= lblk).saturating_sub(1);
                    (pos, v.get(pos).map(|i| i.child))
                }
            };
            let depth = node.depth;
            path.push(Step { block, node, pos });
            let Some(child) = next else { return Ok(path) };
            (block, node) = (Some(child), self.extent_node(o, child, depth).map_err(|e| e.at(place))?);
        }
    }

    fn extent_node(&self, o: &OpenInode, block: Fsblk, parent_depth: u16) -> Result<Node> {
        let seed = if self.vol.verifies_checksums() { self.seed(o) } else { None };
        self.vol.child_node_from(block, parent_depth, seed, || self.store.read(block))
    }

    fn store_node(&mut self, o: &OpenInode, block: Fsblk, node: &Node) -> Result<()> {
        let seed = self.seed(o);
        modify_block(self.store, block, |bytes| encode_node(node, bytes, seed))
    }

    fn create_node(&mut self, o: &OpenInode, block: Fsblk, node: &Node) -> Result<()> {
        let mut bytes = vec![0; self.block_size()];
        encode_node(node, &mut bytes, self.seed(o));
        self.store.create(block, bytes.into())
    }

    fn store_step(&mut self, o: &mut OpenInode, step: &Step) -> Result<()> {
        if let Some(block) = step.block {
            self.store_node(o, block, &step.node)
        } else {
            store_root(o, &step.node);
            Ok(())
        }
    }

    /// Store new extents in the leaf of `path`, and their first block in the index entries above.
    #[doc(alias = "ext4_ext_correct_indexes")]
    fn replace_leaf(&mut self, o: &mut OpenInode, mut path: Vec<Step>, extents: Vec<Extent>) -> Result<()> {
        let Some(mut step) = path.pop() else { return Ok(()) };
        step.node.entries = Entries::Leaf(extents);
        self.store_step(o, &step)?;
        let Some(key) = first_key(&step.node) else { return Ok(()) };
        while let Some(mut up) = path.pop() {
            let Entries::Index(v) = &mut up.node.entries else { break };
            let Some(entry) = v.get_mut(up.pos).filter(|i| i.lblk != key) else { break };
            entry.lblk = key;
            self.store_step(o, &up)?;
            if up.pos != 0 {
                break;
            }
        }
        Ok(())
    }

    /// Split what is full on the way to `lblk`, from the lowest node that has room; deepen the tree where none has.
    #[doc(alias = "ext4_ext_create_new_leaf")]
    fn make_room(&mut self, o: &mut OpenInode, path: &[Step], lblk: Lblk) -> Result<()> {
        let above = path.split_last().map(|(_, above)| above).unwrap_or_default();
        match above.iter().rposition(|s| !s.is_full()) {
            Some(at) => self.split_path(o, path, at, lblk),
            None => self.grow_tree(o),
        }
    }

    /// Move the root's entries into a new node, the only one below the root from then on.
    #[doc(alias = "ext4_ext_grow_indepth")]
    fn grow_tree(&mut self, o: &mut OpenInode) -> Result<()> {
        let root = Node::decode(&o.inode.block_area())?;
        if root.depth >= MAX_DEPTH {
            return Err(too_deep());
        }
        let goal = match &root.entries {
            Entries::Leaf(_) => self.vol.inode_goal(o),
            Entries::Index(v) => v.first().map(|i| i.child).unwrap_or_default(),
        };
        let child = self.allocate_metadata(o, goal)?;
        let lblk = first_key(&root).unwrap_or_default();
        let top = Node {
            depth: root.depth.saturating_add(1),
            max: root.max,
            generation: root.generation,
            entries: Entries::Index(vec![Index { lblk, child }]),
        };
        let max = extent::capacity(self.block_size()) as u16;
        self.create_node(o, child, &Node { max, generation: 0, ..root })?;
        store_root(o, &top);
        Ok(())
    }

    /// Give every node of `path` below level `at` a new right neighbour that takes the entries behind the path, and
    /// enter the topmost of them in level `at`, which has room.
    #[doc(alias = "ext4_ext_split")]
    fn split_path(&mut self, o: &mut OpenInode, path: &[Step], at: usize, lblk: Lblk) -> Result<()> {
        let Some((upper, below)) = path.split_at_checked(at.saturating_add(1)) else { return Ok(()) };
        let Some(leaf) = path.last() else { return Ok(()) };
        let border = leaf_of(&leaf.node).get(leaf.pos).map_or(lblk, |e| e.lblk);
        let goal = leaf.block.unwrap_or_default();
        let mut blocks = Vec::with_capacity(below.len());
        for _ in below {
            match self.allocate_metadata(o, goal) {
                Ok(block) => blocks.push(block),
                Err(e) => {
                    for block in blocks {
                        self.free_metadata(o, block)?;
                    }
                    return Err(e);
                }
            }
        }
        let max = extent::capacity(self.block_size()) as u16;
        let mut child: Option<Fsblk> = None;
        for (step, block) in below.iter().zip(blocks).rev() {
            let mut old = step.node.clone();
            let entries = match &mut old.entries {
                Entries::Leaf(v) => Entries::Leaf(v.split_off(step.pos.min(v.len()))),
                Entries::Index(v) => {
                    let moved = v.split_off(step.pos.saturating_add(1).min(v.len()));
                    let first = child.map(|child| Index { lblk: border, child });
                    Entries::Index(first.into_iter().chain(moved).collect())
                }
            };
            self.create_node(o, block, &Node { depth: old.depth, max, generation: 0, entries })?;
            if let Some(b) = step.block {
                self.store_node(o, b, &old)?;
            }
            child = Some(block);
        }
        let (Some(top), Some(child)) = (upper.last(), child) else { return Ok(()) };
        let mut node = top.node.clone();
        if let Entries::Index(v) = &mut node.entries {
            v.insert(top.pos.saturating_add(1).min(v.len()), Index { lblk: border, child });
        }
        self.store_step(o, &Step { block: top.block, node, pos: top.pos })
    }

    /// The extents before and behind an unmapped block.
    #[doc(alias = "ext4_ext_search_left")]
    #[doc(alias = "ext4_ext_search_right")]
    pub(super) fn neighbours(&self, o: &OpenInode, lblk: Lblk) -> Result<(Option<Extent>, Option<Extent>)> {
        if self.vol.map_kind(&o.inode) != MapKind::Extents {
            return Ok((None, None));
        }
        let path = self.extent_path(o, lblk)?;
        let Some(last) = path.last() else { return Ok((None, None)) };
        let leaf = leaf_of(&last.node);
        let before = last.pos.checked_sub(1).and_then(|i| leaf.get(i)).copied();
        let after = match (leaf.get(last.pos), u32::try_from(next_leaf_key(&path))) {
            (Some(e), _) => Some(*e),
            (None, Ok(next)) => self.extent_path(o, Lblk(next))?.last().and_then(|s| leaf_of(&s.node).first().copied()),
            (None, Err(_)) => None,
        };
        Ok((before, after))
    }

    /// Where blocks for `lblk` should go, by what is mapped near it: the block that would continue the extent before,
    /// or come before the one after it (the first block of all where there is none such); else next to the leaf.
    #[doc(alias = "ext4_ext_find_goal")]
    pub(super) fn extent_goal(&self, o: &OpenInode, lblk: Lblk) -> Result<Option<Fsblk>> {
        let path = self.extent_path(o, lblk)?;
        let Some(last) = path.last() else { return Ok(None) };
        let leaf = leaf_of(&last.node);
        if let Some(e) = last.pos.checked_sub(1).and_then(|i| leaf.get(i)) {
            return Ok(Some(e.pblk.saturating_add(u64::from(lblk.0.saturating_sub(e.lblk.0)))));
        }
        if let Some(e) = leaf.first() {
            let back = u64::from(e.lblk.0.saturating_sub(lblk.0));
            return Ok(Some(Fsblk(e.pblk.0.wrapping_sub(back))));
        }
        Ok(last.block)
    }
}

/// Whether a new extent, which belongs at `pos`, lengthens one of the leaf's before room for an entry is looked for: the one before
/// it, or, where that one ends earlier, the one behind.
fn joins_at_once(leaf: &[Extent], pos: usize, new: Extent) -> bool {
    let near = pos.checked_sub(1).and_then(|n| leaf.get(n)).or(leaf.first());
    match (near, leaf.get(pos)) {
        (Some(e), Some(next)) if e.end() < new.lblk.0.into() => can_merge(&new, next),
        (Some(e), _) => can_merge(e, &new) || can_merge(&new, e),
        (None, _) => false,
    }
}

/// How many of the ends of `start..end` lie inside an extent.
fn cuts_of(leaf: &[Extent], start: u64, end: u64) -> usize {
    let inside = |at: u64| leaf.iter().any(|e| u64::from(e.lblk.0) < at && at < e.end());
    usize::from(inside(start)).saturating_add(usize::from(inside(end)))
}

fn store_root(o: &mut OpenInode, root: &Node) {
    o.inode.update(|c| root.encode_into(&mut c.block));
}

fn encode_node(node: &Node, bytes: &mut [u8], seed: Option<u32>) {
    node.encode_into(bytes);
    if let Some(seed) = seed {
        extent::stamp_block(bytes, seed);
    }
}

/// Where the leaf behind that of `path` starts, as the index says.
fn next_leaf_key(path: &[Step]) -> u64 {
    path.iter()
        .rev()
        .find_map(|s| match &s.node.entries {
            Entries::Index(v) => v.get(s.pos.saturating_add(1)).map(|i| u64::from(i.lblk.0)),
            Entries::Leaf(_) => None,
        })
        .unwrap_or(LBLK_END)
}

const fn too_deep() -> Error {
    let depth = MAX_DEPTH as u32;
    Error::corrupt(Flaw::TooDeep { of: Structure::ExtentNode, depth }, Place::FS)
}
