//! A tree under construction: files come by path in any order, and a later one takes the place of an earlier one.
//!
//! Paths are resolved inside the tree, as after a chroot: a leading `/` means the root, symbolic links of directories on
//! the way are followed, and nothing leads out. Directories that no entry names are made ("implied"). Invariants: item 0 is
//! the root directory; an item is in use when a path from the root leads to it.

use std::collections::{BTreeMap, HashMap};

use super::rules::Exclude;
use super::tree::{Attributes, Data, Entry, Name, NodeId, Segment, Tree, join};
use crate::env::Timestamp;
use crate::error::{EntryFlaw, Error, Result};
use crate::format::inode::FileType;

/// Index of an item.
pub(crate) type ItemId = u32;
/// The root directory.
pub(crate) const ROOT: ItemId = 0;
/// Bytes of a name at most.
#[doc(alias = "EXT4_NAME_LEN")]
pub(crate) const NAME_MAX: usize = 255;
/// Directories on the way to a file at most.
const MAX_DEPTH: usize = 4096;
/// Symbolic links on the way to a file at most, as the kernel has it.
const MAX_LINKS: u32 = 40;
/// No set of attributes.
pub(crate) const NO_SET: u32 = u32::MAX;

/// What an item is.
#[derive(Debug)]
pub(crate) enum Body {
    Dir(BTreeMap<Box<[u8]>, ItemId>),
    File,
    /// A file with holes: where it has data.
    Sparse(Box<[Segment]>),
    Symlink(Box<[u8]>),
    /// A device, fifo or socket; the mode says which.
    Special,
}

/// One inode of the tree to be.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) attributes: Attributes,
    pub(crate) body: Body,
    /// Extended attributes, by the source's number for them.
    pub(crate) set: u32,
    /// A directory that nothing names but what is in it.
    pub(crate) implied: bool,
}

/// A tree under construction.
#[derive(Debug)]
pub(crate) struct Forest {
    items: Vec<Item>,
    implied: Attributes,
    /// Times of last access and change, of the items for which they are known and wanted.
    pub(crate) times: HashMap<ItemId, [Timestamp; 2]>,
    /// The directory that was found last, and its path.
    last: (Vec<u8>, ItemId),
}

/// A tree, and which item each of its nodes was.
pub(crate) struct Flat {
    pub(crate) tree: Tree,
    pub(crate) item_of: Vec<ItemId>,
}

type Flawed<T> = Result<T, EntryFlaw>;

impl Item {
    pub(crate) const fn new(attributes: Attributes, body: Body) -> Self {
        Self { attributes, body, set: NO_SET, implied: false }
    }

    /// An empty directory.
    pub(crate) const fn dir(attributes: Attributes) -> Self {
        Self::new(attributes, Body::Dir(BTreeMap::new()))
    }

    const fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(_))
    }
}

impl Forest {
    /// Nothing but a root. It and every directory that is made along the way get the attributes `implied`.
    pub(crate) fn new(implied: Attributes) -> Self {
        let root = Item { implied: true, ..Item::dir(implied) };
        Self { items: vec![root], implied, times: HashMap::new(), last: (Vec::new(), ROOT) }
    }

    pub(crate) fn item(&self, id: ItemId) -> Option<&Item> {
        self.items.get(id as usize)
    }

    /// What `name` is in the directory.
    pub(crate) fn child(&self, dir: ItemId, name: &[u8]) -> Option<ItemId> {
        match &self.item(dir)?.body {
            Body::Dir(children) => children.get(name).copied(),
            _ => None,
        }
    }

    /// The directory that `path` goes into, and the name there; directories on the way are made. The name of the root
    /// itself is empty.
    pub(crate) fn place<'p>(&mut self, path: &'p [u8]) -> Flawed<(ItemId, &'p [u8])> {
        let (parent, name) = split(path)?;
        if self.last.0 == parent {
            return Ok((self.last.1, name));
        }
        let dir = self.walk(parent, true)?.ok_or(EntryFlaw::NotDirectory)?;
        self.last = (parent.to_vec(), dir);
        Ok((dir, name))
    }

    /// What `path` names, a symbolic link at its end not followed.
    pub(crate) fn find(&mut self, path: &[u8]) -> Flawed<Option<ItemId>> {
        let (parent, name) = split(path)?;
        let Some(dir) = self.walk(parent, false)? else { return Ok(None) };
        Ok(if name.is_empty() { Some(ROOT) } else { self.child(dir, name) })
    }

    /// Follow `path` to a directory; a missing one is made where `make` says so.
    fn walk(&mut self, path: &[u8], make: bool) -> Flawed<Option<ItemId>> {
        let mut stack = vec![ROOT];
        // What is still to be walked, the next component last, and how many of these are the path's own.
        let mut todo: Vec<Vec<u8>> = components(path);
        let mut links = 0;
        let mut own = todo.len();
        while let Some(part) = todo.pop() {
            let is_own = todo.len() < own;
            own = own.min(todo.len());
            let at = stack.last().copied().unwrap_or(ROOT);
            if part == b".." {
                match stack.len() {
                    1 if is_own => return Err(EntryFlaw::Escapes),
                    1 => {}
                    _ => drop(stack.pop()),
                }
                continue;
            }
            let next = match self.child(at, &part) {
                Some(id) => id,
                None if make => {
                    check_name(&part)?;
                    let dir = Item { implied: true, ..Item::dir(self.implied) };
                    self.insert(at, &part, dir)?
                }
                None => return Ok(None),
            };
            match self.item(next).map(|i| &i.body) {
                Some(Body::Dir(_)) => stack.push(next),
                Some(Body::Symlink(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(EntryFlaw::SymlinkLoop);
                    }
                    let more = components(target);
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    todo.extend(more);
                }
                _ => return Err(EntryFlaw::NotDirectory),
            }
            if stack.len() > MAX_DEPTH || todo.len() > MAX_DEPTH {
                return Err(EntryFlaw::TooDeep);
            }
        }
        Ok(stack.last().copied())
    }

    /// Put an item into a directory, in place of what has the name now.
    pub(crate) fn insert(&mut self, dir: ItemId, name: &[u8], item: Item) -> Flawed<ItemId> {
        let id = u32::try_from(self.items.len()).map_err(|_| EntryFlaw::TooMany)?;
        self.items.push(item);
        self.link(dir, name, id);
        Ok(id)
    }

    /// Give an item another name, in place of what has the name now.
    pub(crate) fn link(&mut self, dir: ItemId, name: &[u8], id: ItemId) {
        if let Some(Item { body: Body::Dir(children), .. }) = self.items.get_mut(dir as usize)
            && let Some(old) = children.insert(name.into(), id)
        {
            self.forget(old);
        }
    }

    /// Take a name away, and everything below it.
    pub(crate) fn remove(&mut self, dir: ItemId, name: &[u8]) {
        if let Some(Item { body: Body::Dir(children), .. }) = self.items.get_mut(dir as usize)
            && let Some(old) = children.remove(name)
        {
            self.forget(old);
        }
    }

    /// Empty a directory.
    pub(crate) fn clear(&mut self, dir: ItemId) {
        self.last = (Vec::new(), ROOT);
        if let Some(Item { body: Body::Dir(children), .. }) = self.items.get_mut(dir as usize) {
            children.clear();
        }
    }

    /// The directory at `path`, links followed; made where it is missing.
    pub(crate) fn directory_at(&mut self, path: &[u8]) -> Flawed<ItemId> {
        self.walk(path, true)?.ok_or(EntryFlaw::NotDirectory)
    }

    /// Take away what the patterns name.
    pub(crate) fn exclude(&mut self, patterns: &Exclude) {
        let mut stack = if patterns.is_empty() { Vec::new() } else { vec![(ROOT, Vec::new())] };
        while let Some((dir, path)) = stack.pop() {
            let Some(Item { body: Body::Dir(children), .. }) = self.items.get_mut(dir as usize) else { continue };
            let full = |name: &[u8]| join(&path, name);
            children.retain(|name, _| !patterns.matches(&full(name)));
            stack.extend(children.iter().map(|(name, id)| (*id, full(name))));
        }
        self.last = (Vec::new(), ROOT);
    }

    /// The last directory found may have led through what is gone now.
    fn forget(&mut self, old: ItemId) {
        if matches!(self.item(old).map(|i| &i.body), Some(Body::Dir(_) | Body::Symlink(_))) {
            self.last = (Vec::new(), ROOT);
        }
    }

    /// Put what an archive or a list names: a directory that is there already only gets new attributes.
    pub(crate) fn put(&mut self, path: &[u8], item: Item) -> Flawed<ItemId> {
        let (dir, name) = self.place(path)?;
        if name.is_empty() {
            return if item.is_dir() { Ok(self.describe(ROOT, &item)) } else { Err(EntryFlaw::IsRoot) };
        }
        match self.child(dir, name) {
            Some(old) if item.is_dir() && self.item(old).is_some_and(Item::is_dir) => Ok(self.describe(old, &item)),
            _ => self.insert(dir, name, item),
        }
    }

    /// Give a directory the attributes of `item`.
    pub(crate) fn describe(&mut self, id: ItemId, item: &Item) -> ItemId {
        if let Some(i) = self.items.get_mut(id as usize) {
            (i.attributes, i.set, i.implied) = (item.attributes, item.set, item.implied);
        }
        id
    }

    /// The tree, in its order.
    pub(crate) fn flatten(&self) -> Result<Flat> {
        let mut f = Flatten { forest: self, tree: Tree::default(), item_of: Vec::new(), node_of: HashMap::new() };
        // Directories whose entries wait to be put in place, the next one last.
        let mut stack = vec![(ROOT, 0 as NodeId, Name::default(), u32::MAX)];
        while let Some((item, parent, name, entry)) = stack.pop() {
            let Some(Item { body: Body::Dir(children), .. }) = self.item(item) else { continue };
            let id = f.directory(item, parent, name, children.len())?;
            if let Some(e) = f.tree.entries.get_mut(entry as usize) {
                e.node = id;
            }
            let base = stack.len();
            for (bytes, child) in children {
                let name = Name { at: f.tree.intern(bytes)?, len: bytes.len() as u8 };
                let entry = f.tree.entries.len() as u32;
                let node = if self.item(*child).is_some_and(Item::is_dir) {
                    stack.push((*child, id, name, entry));
                    NodeId::MAX
                } else {
                    f.file(*child, id, name)?
                };
                f.tree.entries.push(Entry { name, node });
            }
            // The first by name must come off the stack first.
            stack[base..].reverse();
        }
        Ok(Flat { tree: f.tree, item_of: f.item_of })
    }
}

/// Puts items in the order of a tree.
struct Flatten<'a> {
    forest: &'a Forest,
    tree: Tree,
    item_of: Vec<ItemId>,
    /// Files that have a node already.
    node_of: HashMap<ItemId, NodeId>,
}

impl Flatten<'_> {
    fn directory(&mut self, item: ItemId, parent: NodeId, name: Name, count: usize) -> Result<NodeId> {
        let Some(i) = self.forest.item(item) else { return Err(too_many()) };
        let first = u32::try_from(self.tree.entries.len()).map_err(|_| too_many())?;
        let attributes = Attributes { size: 0, ..i.attributes };
        let id = self.tree.push(parent, name, &attributes, Data::Dir { first, count: count as u32 })?;
        if i.implied {
            self.tree.implied.push(id);
        }
        self.item_of.push(item);
        self.times(item, i);
        if id != 0
            && let Some(p) = self.tree.nodes.get_mut(parent as usize)
        {
            p.links += 1;
        }
        Ok(id)
    }

    fn times(&mut self, id: ItemId, item: &Item) {
        if !self.forest.times.is_empty() {
            let [atime, ctime] = self.forest.times.get(&id).copied().unwrap_or([item.attributes.mtime; 2]);
            self.tree.keep_times(atime, ctime);
        }
    }

    fn file(&mut self, item: ItemId, dir: NodeId, name: Name) -> Result<NodeId> {
        if let Some(id) = self.node_of.get(&item) {
            if let Some(n) = self.tree.nodes.get_mut(*id as usize) {
                n.links += 1;
            }
            return Ok(*id);
        }
        let Some(i) = self.forest.item(item) else { return Err(too_many()) };
        let mut attributes = i.attributes;
        let data = match &i.body {
            Body::Symlink(target) => {
                attributes.size = target.len() as u64;
                Data::Symlink(self.tree.intern(target)?)
            }
            Body::Sparse(segments) => {
                self.tree.sparse.push(segments.to_vec());
                Data::Sparse(self.tree.sparse.len() as u32 - 1)
            }
            Body::File => Data::File,
            Body::Dir(_) | Body::Special => {
                attributes.size = 0;
                match FileType::from_mode(attributes.mode) {
                    Some(FileType::CharDevice | FileType::BlockDevice) => {
                        Data::Device(attributes.device.0, attributes.device.1)
                    }
                    _ => Data::Special,
                }
            }
        };
        let id = self.tree.push(dir, name, &attributes, data)?;
        self.item_of.push(item);
        self.times(item, i);
        self.node_of.insert(item, id);
        Ok(id)
    }
}

fn too_many() -> Error {
    Error::NoSpace { what: "inodes", need: 1 << 32, have: u64::from(u32::MAX) }
}

/// A path's components, the first one last; empty ones and `.` left out.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").rev().map(<[u8]>::to_vec).collect()
}

/// Directory and name; slashes and `.` at the end do not count.
fn split(path: &[u8]) -> Flawed<(&[u8], &[u8])> {
    let mut rest = path;
    loop {
        let at = rest.iter().rposition(|b| *b == b'/');
        let (parent, name) = at.map_or((&rest[..0], rest), |at| (&rest[..at], &rest[at + 1..]));
        match name {
            b"" | b"." if at.is_none() => return Ok((b"", b"")),
            b"" | b"." => rest = parent,
            b".." => return Err(EntryFlaw::Escapes),
            _ => {
                check_name(name)?;
                return Ok((parent, name));
            }
        }
    }
}

fn check_name(name: &[u8]) -> Flawed<()> {
    if name.len() > NAME_MAX {
        return Err(EntryFlaw::NameTooLong { len: name.len() });
    }
    if name.contains(&0) { Err(EntryFlaw::NulInName) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(mode: u16) -> Attributes {
        Attributes { mode, uid: 0, gid: 0, mtime: Timestamp::default(), stamp: 0, size: 0, device: (0, 0) }
    }

    fn forest() -> Forest {
        Forest::new(attributes(0o40755))
    }

    fn file() -> Item {
        Item::new(attributes(0o100_644), Body::File)
    }

    fn link(to: &[u8]) -> Item {
        Item::new(attributes(0o120_777), Body::Symlink(to.into()))
    }

    fn dir() -> Item {
        Item::dir(attributes(0o40700))
    }

    fn paths(f: &Forest) -> Vec<String> {
        let flat = f.flatten().unwrap();
        assert_eq!(flat.tree.nodes.len(), flat.item_of.len());
        (0..flat.tree.len() as NodeId).map(|id| String::from_utf8(flat.tree.path(id)).unwrap()).collect()
    }

    #[test]
    fn nodes_come_in_the_order_of_names() {
        let mut f = forest();
        for p in ["b/y", "./a", "/b/x/z", "b/x/a", "c//./d"] {
            f.put(p.as_bytes(), file()).unwrap();
        }
        assert_eq!(paths(&f), ["", "a", "b", "b/y", "b/x", "b/x/a", "b/x/z", "c", "c/d"]);
        let tree = f.flatten().unwrap().tree;
        assert_eq!(tree.implied, [0, 2, 4, 7]);
        assert_eq!((tree.nodes[0].links, tree.nodes[2].links), (4, 3));
    }

    #[test]
    fn later_entries_take_the_place_of_earlier_ones() {
        let mut f = forest();
        f.put(b"a/x", file()).unwrap();
        f.put(b"a", dir()).unwrap();
        assert_eq!(paths(&f), ["", "a", "a/x"]);
        f.put(b"a", file()).unwrap();
        assert_eq!(paths(&f), ["", "a"]);
        assert_eq!(f.put(b"a/y", file()), Err(EntryFlaw::NotDirectory));
        f.put(b"a", dir()).unwrap();
        f.put(b"a/y", file()).unwrap();
        assert_eq!(paths(&f), ["", "a", "a/y"]);
    }

    #[test]
    fn links_are_followed_inside_the_tree() {
        let mut f = forest();
        f.put(b"usr/lib", dir()).unwrap();
        f.put(b"lib", link(b"usr/lib")).unwrap();
        f.put(b"deep/up", link(b"/../../usr/./lib/")).unwrap();
        f.put(b"lib/one", file()).unwrap();
        f.put(b"deep/up/two", file()).unwrap();
        f.put(b"deep/up/../three", file()).unwrap();
        assert_eq!(
            paths(&f),
            ["", "lib", "deep", "deep/up", "usr", "usr/three", "usr/lib", "usr/lib/one", "usr/lib/two"]
        );
        f.put(b"loop", link(b"loop")).unwrap();
        assert_eq!(f.put(b"loop/x", file()), Err(EntryFlaw::SymlinkLoop));
    }

    #[test]
    fn nothing_leads_out() {
        let mut f = forest();
        for bad in ["../x", "a/../../x", "..", "a/..", "/.."] {
            assert_eq!(f.put(bad.as_bytes(), file()), Err(EntryFlaw::Escapes), "{bad}");
        }
        assert_eq!(f.put(b"./", file()), Err(EntryFlaw::IsRoot));
        assert_eq!(f.put(&[b'n'; 256], file()), Err(EntryFlaw::NameTooLong { len: 256 }));
        assert_eq!(f.put(&b"d/".repeat(5000), dir()), Err(EntryFlaw::TooDeep));
        assert!(f.put(b"a\0b", file()).is_err());
    }

    #[test]
    fn a_name_that_is_gone_does_not_lead_on() {
        let mut f = forest();
        f.put(b"a/b/x", file()).unwrap();
        f.put(b"a", link(b"c")).unwrap();
        f.put(b"a/b/y", file()).unwrap();
        assert_eq!(paths(&f), ["", "a", "c", "c/b", "c/b/y"]);
    }

    #[test]
    fn hard_links_share_a_node() {
        let mut f = forest();
        let id = f.put(b"z", file()).unwrap();
        let (dir, name) = f.place(b"d/first").unwrap();
        f.link(dir, name, id);
        f.put(b"z2", file()).unwrap();
        let tree = f.flatten().unwrap().tree;
        assert_eq!(tree.nodes.iter().map(|n| n.links).collect::<Vec<_>>(), [3, 2, 1, 2]);
    }
}
