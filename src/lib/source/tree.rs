//! The files that go into an image, in memory: one record per inode, names in one buffer. About 100 bytes per file.
//!
//! Invariants: node 0 is the root directory; the nodes of a directory's files follow it at once, the nodes of its
//! subdirectories (each with all that is below it) come after those; entries of a directory are sorted by name. So the
//! order of nodes depends on names alone, not on the order in which a source lists them. A hard link is a second entry for
//! a node; the node stands where its first name stands.

use std::ops::Range;

use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::format::inode::{FileType, encode_time};

/// Index of a node.
pub(crate) type NodeId = u32;

/// A range of bytes of a file that is not a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
}

/// One inode of the tree.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Directory of its first name; 0 for the root itself.
    pub(crate) parent: NodeId,
    pub(crate) name: Name,
    /// Type and permissions.
    pub(crate) mode: u16,
    /// Names (files), or 2 and the number of subdirectories (directories).
    pub(crate) links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Modification time as the inode stores it: seconds, epoch bits and nanoseconds.
    pub(crate) mtime: (u32, u32),
    /// What the source knows the state of its file by, to see a change.
    pub(crate) stamp: u64,
    /// Bytes of a file or of a symlink's target.
    pub(crate) size: u64,
    pub(crate) data: Data,
}

/// What a node has beside its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    /// A file without holes.
    File,
    /// A file with holes: its segments, by index.
    Sparse(u32),
    /// A directory: its entries.
    Dir { first: u32, count: u32 },
    /// A symlink: where its target begins in the buffer of names.
    Symlink(u32),
    /// A device: major, minor.
    Device(u32, u32),
    /// A fifo or socket.
    Special,
}

/// A name in the buffer of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) at: u32,
    pub(crate) len: u8,
}

/// A directory's entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) name: Name,
    pub(crate) node: NodeId,
}

/// Attributes of a node, as a source finds them.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// Type and permissions.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// What the source knows the state of its file by.
    pub stamp: u64,
    /// Bytes of a file.
    pub size: u64,
    /// Device numbers, major and minor.
    pub device: (u32, u32),
}

/// A tree of files.
#[derive(Debug, Default)]
pub struct Tree {
    pub(crate) nodes: Vec<Node>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) names: Vec<u8>,
    pub(crate) sparse: Vec<Vec<Segment>>,
    /// Directories that the source does not name, only what is in them; ascending.
    pub(crate) implied: Vec<NodeId>,
    /// Times of last access and of last change of each node, as inodes store them. Empty where the source was not asked to
    /// keep them: then they are the modification time.
    pub(crate) times: Vec<[(u32, u32); 2]>,
}

impl Tree {
    /// Inodes, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing, not even a root.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Bytes of all files, as far as they are not holes.
    pub fn data_bytes(&self) -> u64 {
        self.nodes
            .iter()
            .map(|n| match n.data {
                Data::File => n.size,
                Data::Sparse(i) => self.segments(i).iter().map(|s| s.end - s.start).sum(),
                _ => 0,
            })
            .sum()
    }

    /// Keep bytes in the buffer of names.
    pub(crate) fn intern(&mut self, bytes: &[u8]) -> Result<u32> {
        let at = self.names.len();
        self.names.extend_from_slice(bytes);
        u32::try_from(at).map_err(|_| Error::NoSpace {
            what: "bytes for names",
            need: at as u64,
            have: u64::from(u32::MAX),
        })
    }

    /// Append a node.
    pub(crate) fn push(&mut self, parent: NodeId, name: Name, a: &Attributes, data: Data) -> Result<NodeId> {
        let id = u32::try_from(self.nodes.len()).map_err(|_| Error::NoSpace {
            what: "inodes",
            need: 1 << 32,
            have: u64::from(u32::MAX),
        })?;
        let links = if matches!(data, Data::Dir { .. }) { 2 } else { 1 };
        let (mode, uid, gid, stamp, size) = (a.mode, a.uid, a.gid, a.stamp, a.size);
        let mtime = encode_time(a.mtime);
        self.nodes.push(Node { parent, name, mode, links, uid, gid, mtime, stamp, size, data });
        Ok(id)
    }

    /// Keep the times of last access and change of the node that was pushed last.
    pub(crate) fn keep_times(&mut self, atime: Timestamp, ctime: Timestamp) {
        self.times.resize(self.nodes.len().saturating_sub(1), [(0, 0); 2]);
        self.times.push([encode_time(atime), encode_time(ctime)]);
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id as usize)
    }

    pub(crate) fn name(&self, name: Name) -> &[u8] {
        self.names.get(name.at as usize..name.at as usize + usize::from(name.len)).unwrap_or_default()
    }

    /// A symlink's target.
    pub(crate) fn target(&self, node: &Node) -> &[u8] {
        match node.data {
            Data::Symlink(at) => self.names.get(at as usize..at as usize + node.size as usize).unwrap_or_default(),
            _ => &[],
        }
    }

    pub(crate) fn segments(&self, index: u32) -> &[Segment] {
        self.sparse.get(index as usize).map_or(&[], Vec::as_slice)
    }

    /// A directory's entries.
    pub(crate) fn dir_entries(&self, node: &Node) -> &[Entry] {
        match node.data {
            Data::Dir { first, count } => {
                let range: Range<usize> = first as usize..first as usize + count as usize;
                self.entries.get(range).unwrap_or_default()
            }
            _ => &[],
        }
    }

    /// The path of a node below the root, without a leading slash.
    pub(crate) fn path(&self, id: NodeId) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut at = id;
        while at != 0
            && let Some(node) = self.node(at)
        {
            parts.push(node.name);
            at = node.parent;
        }
        let mut path = Vec::new();
        for (i, part) in parts.into_iter().rev().enumerate() {
            if i != 0 {
                path.push(b'/');
            }
            path.extend_from_slice(self.name(part));
        }
        path
    }
}

/// The path of `name` in the directory at `path`.
pub(crate) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len() + 1 + name.len());
    out.extend_from_slice(path);
    if !path.is_empty() {
        out.push(b'/');
    }
    out.extend_from_slice(name);
    out
}

impl Node {
    pub(crate) const fn file_type(&self) -> FileType {
        match FileType::from_mode(self.mode) {
            Some(t) => t,
            None => FileType::Regular,
        }
    }

    pub(crate) const fn is_dir(&self) -> bool {
        matches!(self.data, Data::Dir { .. })
    }
}
