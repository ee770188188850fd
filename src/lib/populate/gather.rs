//! The extended attributes of a tree, read from its source: sets that are equal are kept once.
//!
//! Only what the kernel lets programs set is kept: `user.`, `trusted.`, `security.` and access control lists. Other names
//! are counted, so that the caller can tell.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::format::xattr;
use crate::progress::{Progress, Step, Unit};
use crate::source::tree::{NodeId, Tree};
use crate::source::{Source, Xattrs};

/// Longest value, bytes.
#[doc(alias = "XATTR_SIZE_MAX")]
const VALUE_MAX: usize = 65536;
/// Longest name behind its prefix, bytes.
const NAME_MAX: usize = 255;
/// Nodes that a thread takes at once.
const NODES: u32 = 512;

/// Attributes of one name that are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The name.
    pub name: Vec<u8>,
    /// A file that has it, below the root of the tree.
    pub path: Vec<u8>,
    /// How many files have it.
    pub files: u64,
}

/// The extended attributes of all nodes of a tree.
#[derive(Debug, Default)]
pub struct Gathered {
    sets: Vec<Xattrs>,
    /// Node and number of its set, ascending; nodes without attributes are left out.
    of: Vec<(NodeId, u32)>,
    dropped: Vec<Dropped>,
}

impl Gathered {
    /// Read them all, with several threads.
    ///
    /// # Errors
    /// What cannot be read, by name; names and values longer than the kernel takes.
    pub fn read(source: &dyn Source, tree: &Tree, threads: usize, progress: &dyn Progress) -> Result<Self> {
        let total = Some(tree.len() as u64);
        progress.begin(Step { name: "reading attributes", unit: Unit::Files, total });
        let next = AtomicU32::new(0);
        let results = Mutex::new((Vec::new(), None::<Error>));
        let end = tree.len() as u32;
        let share = || -> Result<Vec<(NodeId, Xattrs)>> {
            let mut reader = source.reader(tree)?;
            let mut out = Vec::new();
            loop {
                let from = next.fetch_add(NODES, Ordering::Relaxed);
                if from >= end {
                    return Ok(out);
                }
                progress.check()?;
                for id in from..end.min(from.saturating_add(NODES)) {
                    let found = reader.attributes(id)?;
                    if !found.is_empty() {
                        out.push((id, found));
                    }
                }
                progress.advance(u64::from(NODES));
            }
        };
        let work = || {
            let done = share();
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            match done {
                Ok(found) => results.0.extend(found),
                Err(e) => {
                    next.store(end, Ordering::Relaxed);
                    results.1.get_or_insert(e);
                }
            }
        };
        std::thread::scope(|s| {
            for _ in 1..threads.min(tree.len().div_ceil(NODES as usize)) {
                s.spawn(work);
            }
            work();
        });
        progress.end();
        let (mut found, error) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_unstable_by_key(|f| f.0);
        error.map_or_else(|| Self::new(tree, found), Err)
    }

    /// Keep what a filesystem can hold of `found`, which is sorted by node.
    pub(super) fn new(tree: &Tree, found: Vec<(NodeId, Xattrs)>) -> Result<Self> {
        let mut out = Self::default();
        let mut numbers: HashMap<Xattrs, u32> = HashMap::new();
        let mut dropped: BTreeMap<Vec<u8>, (NodeId, u64)> = BTreeMap::new();
        for (id, mut attrs) in found {
            attrs.retain(|(name, _)| {
                let kept = is_kept(name);
                if !kept {
                    dropped.entry(name.clone()).or_insert((id, 0)).1 += 1;
                }
                kept
            });
            for (name, value) in &attrs {
                check(name, value).map_err(|e| Error::OnPath { path: tree.path(id), source: Box::new(e) })?;
            }
            if attrs.is_empty() {
                continue;
            }
            let set = if let Some(n) = numbers.get(&attrs) {
                *n
            } else {
                let n = out.sets.len() as u32;
                out.sets.push(attrs.clone());
                numbers.insert(attrs, n);
                n
            };
            out.of.push((id, set));
        }
        let paths = dropped.into_iter().map(|(name, (id, files))| Dropped { name, path: tree.path(id), files });
        out.dropped = paths.collect();
        Ok(out)
    }

    /// Keep none of them.
    pub(super) fn drop_all(&mut self, tree: &Tree) {
        let mut dropped: BTreeMap<Vec<u8>, (NodeId, u64)> = BTreeMap::new();
        for (id, _, attrs) in self.iter() {
            for (name, _) in attrs {
                dropped.entry(name.clone()).or_insert((id, 0)).1 += 1;
            }
        }
        let paths = dropped.into_iter().map(|(name, (id, files))| Dropped { name, path: tree.path(id), files });
        self.dropped.extend(paths);
        (self.sets, self.of) = (Vec::new(), Vec::new());
    }

    /// Node, number of the set, set.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, u32, &Xattrs)> {
        self.of.iter().filter_map(|(id, set)| self.sets.get(*set as usize).map(|s| (*id, *set, s)))
    }

    /// What is not kept.
    pub fn dropped(&self) -> &[Dropped] {
        &self.dropped
    }
}

/// Whether programs may set such an attribute. The others in `system.` are the filesystem's own.
fn is_kept(name: &[u8]) -> bool {
    use xattr::{INDEX_POSIX_ACL_ACCESS, INDEX_POSIX_ACL_DEFAULT, INDEX_SECURITY, INDEX_TRUSTED, INDEX_USER};
    xattr::split_name(name).is_some_and(|(index, rest)| {
        matches!(index, INDEX_POSIX_ACL_ACCESS | INDEX_POSIX_ACL_DEFAULT)
            || matches!(index, INDEX_USER | INDEX_TRUSTED | INDEX_SECURITY) && !rest.contains(&0)
    })
}

fn check(name: &[u8], value: &[u8]) -> Result<()> {
    let shown = || String::from_utf8_lossy(name).into_owned();
    if xattr::split_name(name).is_some_and(|(_, rest)| rest.len() > NAME_MAX) {
        let allowed = "at most 255 bytes behind the prefix";
        return Err(Error::InvalidArgument { name: "extended attribute", value: shown(), allowed });
    }
    if value.len() > VALUE_MAX {
        let allowed = "at most 65536 bytes";
        let value = format!("{} of {} bytes", shown(), value.len());
        return Err(Error::InvalidArgument { name: "extended attribute", value, allowed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Timestamp;
    use crate::source::Attributes;
    use crate::source::forest::{Body, Forest, Item};

    fn tree() -> Tree {
        let mtime = Timestamp::default();
        let a = Attributes { mode: 0o40755, uid: 0, gid: 0, mtime, stamp: 0, size: 0, device: (0, 0) };
        let mut f = Forest::new(a);
        for name in ["a", "b", "c"] {
            f.put(name.as_bytes(), Item::new(Attributes { mode: 0o100_644, ..a }, Body::File)).unwrap();
        }
        f.flatten().unwrap().tree
    }

    fn set(attrs: &[(&str, &[u8])]) -> Xattrs {
        attrs.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.to_vec())).collect()
    }

    #[test]
    fn names_of_the_filesystem_itself_are_told_not_kept() {
        let odd: [(&str, &[u8]); 4] =
            [("system.data", b"evil"), ("system.richacl", b""), ("user.a", b"1"), ("weird", b"")];
        let found = vec![(1, set(&odd)), (2, set(&[("user.a", b"1")])), (3, set(&[("system.data", b"")]))];
        let g = Gathered::new(&tree(), found).unwrap();
        assert_eq!(g.sets, [set(&[("user.a", b"1")])]);
        assert_eq!(g.of, [(1, 0), (2, 0)]);
        let dropped: Vec<_> = g.dropped().iter().map(|d| (&d.name[..], &d.path[..], d.files)).collect();
        let want = [(&b"system.data"[..], &b"a"[..], 2), (b"system.richacl", b"a", 1), (b"weird", b"a", 1)];
        assert_eq!(dropped, want);
    }

    #[test]
    fn what_the_kernel_would_not_take_is_refused() {
        for (name, value) in [(format!("user.{}", "n".repeat(256)), 1), ("user.big".into(), 65537)] {
            let e = Gathered::new(&tree(), vec![(2, set(&[(&name, &vec![0; value])]))]).unwrap_err();
            assert!(matches!(&e, Error::OnPath { path, .. } if path == b"b"), "{e}");
        }
    }
}
