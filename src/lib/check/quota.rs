//! Who uses how much: counted in pass 1, compared with the quota files at the end.

use std::collections::BTreeMap;

use super::view::View;

/// Space in bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

/// Use by user, group and project.
#[derive(Debug, Default)]
pub(super) struct Usage(pub(super) [BTreeMap<u32, Used>; 3]);

impl Usage {
    /// Charge an inode to its owners.
    pub(super) fn add(&mut self, v: &View<'_>, bytes: u64, inodes: u64) {
        for (map, id) in self.0.iter_mut().zip([v.uid(), v.gid(), v.project()]) {
            let u = map.entry(id).or_default();
            u.bytes += bytes;
            u.inodes += inodes;
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (to, from) in self.0.iter_mut().zip(other.0) {
            for (id, u) in from {
                let t = to.entry(id).or_default();
                t.bytes += u.bytes;
                t.inodes += u.inodes;
            }
        }
    }
}
