//! Several sources on top of each other, the first at the bottom: layers, with whiteouts as container images have them.
//!
//! A file takes the place of one below; a directory joins the one below and gives it its attributes, unless it is only
//! implied. `.wh.NAME` takes away NAME of the layers below, `.wh..wh..opq` everything that they have in its directory. An
//! implied directory where the layers below have a symbolic link goes where the link leads, as in a chroot.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use super::forest::{Body, Forest, Item, ItemId, ROOT};
use super::tree::{Attributes, Data, Node, NodeId, Tree};
use super::{Reader, Source, Xattrs};
use crate::env::Timestamp;
use crate::error::{EntryFlaw, Error, Result};
use crate::format::inode::decode_time;
use crate::progress::Progress;

/// Begins the name of a file that stands for one that is gone.
const WHITEOUT: &[u8] = b".wh.";
/// Name of a file that hides what the layers below have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Where a directory comes from that no layer names.
const NOWHERE: u64 = u64::MAX;

/// Sources on top of each other.
pub struct Overlay {
    layers: Vec<Box<dyn Source>>,
    implied: Attributes,
    listed: OnceLock<Listed>,
}

struct Listed {
    trees: Vec<Tree>,
    /// Where each node comes from: layer in the upper half, node of its tree in the lower.
    origin: Vec<u64>,
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay").field("layers", &self.layers.len()).finish_non_exhaustive()
    }
}

impl Overlay {
    /// These sources, the lowest first. Directories that none of them names are the super-user's, of the time `implied`.
    pub fn new(layers: Vec<Box<dyn Source>>, implied: Timestamp) -> Self {
        let mode = 0o40755;
        let implied = Attributes { mode, uid: 0, gid: 0, mtime: implied, stamp: NOWHERE, size: 0, device: (0, 0) };
        Self { layers, implied, listed: OnceLock::new() }
    }
}

impl Source for Overlay {
    fn list(&self, threads: usize, progress: &dyn Progress) -> Result<Tree> {
        let mut forest = Forest::new(self.implied);
        let mut trees = Vec::with_capacity(self.layers.len());
        for (i, layer) in (0..).zip(&self.layers) {
            let tree = layer.list(threads, progress)?;
            Merge { forest: &mut forest, tree: &tree, layer: i, items: HashMap::new() }.run()?;
            trees.push(tree);
        }
        let flat = forest.flatten()?;
        let origin = |item: &ItemId| forest.item(*item).map_or(NOWHERE, |i| i.attributes.stamp);
        let _ = self.listed.set(Listed { trees, origin: flat.item_of.iter().map(origin).collect() });
        Ok(flat.tree)
    }

    fn reader<'a>(&'a self, _tree: &'a Tree) -> Result<Box<dyn Reader + 'a>> {
        let listed = self.listed.get().ok_or(Error::NotFound { path: b"/".to_vec() })?;
        let readers = self.layers.iter().zip(&listed.trees).map(|(layer, tree)| layer.reader(tree));
        Ok(Box::new(LayerReader { listed, readers: readers.collect::<Result<_>>()?, current: None }))
    }
}

/// Puts one layer on those below.
struct Merge<'a> {
    forest: &'a mut Forest,
    tree: &'a Tree,
    layer: u64,
    /// Items of files that have several names.
    items: HashMap<NodeId, ItemId>,
}

impl Merge<'_> {
    fn run(&mut self) -> Result<()> {
        let Some(root) = self.tree.node(0) else { return Ok(()) };
        if !self.is_implied(0) {
            let item = Item::dir(self.attributes(0, root));
            self.describe(ROOT, 0, &item);
        }
        let mut stack = vec![(0 as NodeId, ROOT)];
        while let Some((id, dir)) = stack.pop() {
            let Some(node) = self.tree.node(id) else { continue };
            self.whiteouts(node, dir);
            for e in self.tree.dir_entries(node) {
                let name = self.tree.name(e.name);
                let Some(child) = self.tree.node(e.node).filter(|_| !name.starts_with(WHITEOUT)) else { continue };
                let placed = if child.is_dir() {
                    self.directory(dir, name, e.node, child).map(|item| stack.push((e.node, item)))
                } else {
                    self.file(dir, name, e.node, child)
                };
                placed.map_err(|flaw| {
                    let path = self.tree.path(e.node);
                    Error::Archive { archive: "overlaid sources".into(), entry: path, offset: 0, flaw }
                })?;
            }
        }
        Ok(())
    }

    fn is_implied(&self, id: NodeId) -> bool {
        self.tree.implied.binary_search(&id).is_ok()
    }

    /// Take away what this layer hides; its own files come after that.
    fn whiteouts(&mut self, node: &Node, dir: ItemId) {
        let names = || self.tree.dir_entries(node).iter().map(|e| self.tree.name(e.name));
        if names().any(|n| n == OPAQUE) {
            self.forest.clear(dir);
        }
        for name in names() {
            if let Some(gone) = name.strip_prefix(WHITEOUT) {
                self.forest.remove(dir, gone);
            }
        }
    }

    fn attributes(&self, id: NodeId, n: &Node) -> Attributes {
        let device = if let Data::Device(major, minor) = n.data { (major, minor) } else { (0, 0) };
        Attributes {
            mode: n.mode,
            uid: n.uid,
            gid: n.gid,
            mtime: decode_time(n.mtime.0, n.mtime.1),
            stamp: self.layer << 32 | u64::from(id),
            size: n.size,
            device,
        }
    }

    fn describe(&mut self, item: ItemId, id: NodeId, from: &Item) {
        self.forest.describe(item, from);
        self.times(item, id);
    }

    fn times(&mut self, item: ItemId, id: NodeId) {
        if let Some(times) = self.tree.times.get(id as usize) {
            self.forest.times.insert(item, times.map(|(sec, extra)| decode_time(sec, extra)));
        }
    }

    fn directory(&mut self, dir: ItemId, name: &[u8], id: NodeId, node: &Node) -> Result<ItemId, EntryFlaw> {
        let implied = self.is_implied(id);
        let mut new = Item::dir(self.attributes(id, node));
        new.implied = implied;
        let below = self.forest.child(dir, name);
        match below.and_then(|b| self.forest.item(b).map(|i| (b, &i.body))) {
            Some((below, Body::Dir(_))) => {
                if !implied {
                    self.describe(below, id, &new);
                }
                Ok(below)
            }
            Some((_, Body::Symlink(_))) if implied => {
                let path = self.tree.path(id);
                self.forest.directory_at(&path)
            }
            _ => {
                let item = self.forest.insert(dir, name, new)?;
                self.times(item, id);
                Ok(item)
            }
        }
    }

    fn file(&mut self, dir: ItemId, name: &[u8], id: NodeId, node: &Node) -> Result<(), EntryFlaw> {
        if let Some(item) = self.items.get(&id) {
            self.forest.link(dir, name, *item);
            return Ok(());
        }
        let body = match node.data {
            Data::Sparse(i) => Body::Sparse(self.tree.segments(i).into()),
            Data::Symlink(_) => Body::Symlink(self.tree.target(node).into()),
            Data::Device(..) | Data::Special => Body::Special,
            Data::File | Data::Dir { .. } => Body::File,
        };
        let item = self.forest.insert(dir, name, Item::new(self.attributes(id, node), body))?;
        self.times(item, id);
        if node.links > 1 {
            self.items.insert(id, item);
        }
        Ok(())
    }
}

/// Reads each file from the layer that it comes from.
struct LayerReader<'a> {
    listed: &'a Listed,
    readers: Vec<Box<dyn Reader + 'a>>,
    /// The layer of the node that is open.
    current: Option<usize>,
}

impl LayerReader<'_> {
    /// Layer and node of a node; none for a directory that no layer names.
    fn origin(&self, node: u32) -> Option<(usize, NodeId)> {
        let origin = self.listed.origin.get(node as usize).copied().filter(|o| *o != NOWHERE)?;
        Some(((origin >> 32) as usize, origin as NodeId))
    }
}

impl Reader for LayerReader<'_> {
    fn open(&mut self, node: u32) -> Result<()> {
        self.current = None;
        let Some((layer, id)) = self.origin(node) else { return Ok(()) };
        self.current = Some(layer);
        self.readers.get_mut(layer).map_or(Ok(()), |r| r.open(id))
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self.current.and_then(|l| self.readers.get_mut(l)) {
            Some(reader) => reader.read(offset, buf),
            None => Err(Error::IsDirectory { path: Vec::new() }),
        }
    }

    fn host_range(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.current.and_then(|l| self.readers.get(l))?.host_range()
    }

    fn xattrs(&mut self) -> Result<Xattrs> {
        self.current.and_then(|l| self.readers.get_mut(l)).map_or_else(|| Ok(Vec::new()), |r| r.xattrs())
    }

    fn attributes(&mut self, node: u32) -> Result<Xattrs> {
        self.current = None;
        let Some((layer, id)) = self.origin(node) else { return Ok(Vec::new()) };
        self.readers.get_mut(layer).map_or_else(|| Ok(Vec::new()), |r| r.attributes(id))
    }

    fn close(&mut self) -> Result<()> {
        self.current.take().and_then(|l| self.readers.get_mut(l)).map_or(Ok(()), |r| r.close())
    }

    fn finish(&mut self) -> Result<()> {
        self.readers.iter_mut().try_for_each(|r| r.finish())
    }
}
