//! Plans of directory changes: how a full leaf is divided, and what blocks a change may dirty. Pure.
//! Sizes in bytes.

use crate::error::Result;
use crate::format::casefold;
use crate::format::dirent::{self, DirFormat, NewDirent};
use crate::format::dirhash::{DirHash, DirHasher};
use crate::units::Ino;

/// An entry of a leaf that is being divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafEntry {
    /// Hash of the name.
    pub hash: DirHash,
    /// Inode.
    pub ino: Ino,
    /// File type byte.
    pub file_type: u8,
    /// Name.
    pub name: Vec<u8>,
}

impl LeafEntry {
    /// As it is written.
    pub fn as_new(&self) -> NewDirent<'_> {
        NewDirent { ino: self.ino, name: &self.name, file_type: self.file_type, hash: self.hash }
    }
}

/// A leaf in two halves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division {
    /// What stays, in hash order.
    pub low: Vec<LeafEntry>,
    /// What goes to the new leaf, in hash order.
    pub high: Vec<LeafEntry>,
    /// Hash of the new leaf's index entry; its lowest bit says that the old leaf ends with the same hash.
    pub border: u32,
}

/// The used entries of a block, hashed, without `.` and `..`.
pub fn leaf_entries(block: &[u8], format: DirFormat, hasher: &DirHasher, folds: bool) -> Result<Vec<LeafEntry>> {
    let mut all = Vec::new();
    for e in dirent::entries(block, format) {
        let e = e?;
        if !e.is_used() || dirent::is_dot_or_dotdot(e.name) {
            continue;
        }
        let hash = if folds { hasher.hash(&casefold::key(e.name))? } else { hasher.hash(e.name)? };
        all.push(LeafEntry { hash, ino: e.ino, file_type: e.file_type, name: e.name.to_vec() });
    }
    Ok(all)
}

/// Divide entries into two halves of about the same size, by hash. `None` where there are fewer than two.
#[doc(alias = "do_split")]
pub fn divide(mut all: Vec<LeafEntry>, format: DirFormat, block_size: usize) -> Option<Division> {
    // Stable: entries with the same hash keep their order.
    all.sort_by_key(|e| e.hash.hash);
    let half = block_size / 2;
    let (mut size, mut moved) = (0usize, 0usize);
    for e in all.iter().rev() {
        let need = e.as_new().need(format);
        if size.saturating_add(need / 2) > half {
            break;
        }
        size = size.saturating_add(need);
        moved = moved.saturating_add(1);
    }
    let mut split = all.len().saturating_sub(moved);
    if split == 0 {
        split = all.len() / 2;
    }
    let last_low = all.get(split.checked_sub(1)?)?.hash.hash;
    let first_high = all.get(split)?.hash.hash;
    let border = first_high | u32::from(first_high == last_low);
    let high = all.split_off(split);
    Some(Division { low: all, high, border })
}

/// The most metadata blocks that adding a name dirties, the directory's inode, its block map and allocation not
/// counted: the leaf and its new half, every level of the index with the node it is split into, and a new level.
#[doc(alias = "EXT4_INDEX_EXTRA_TRANS_BLOCKS")]
pub const ADD_CREDITS: u32 = 2 + 2 * 3 + 1;

/// The most blocks that adding a name allocates.
pub const ADD_BLOCKS: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: DirFormat = DirFormat { filetype: true, hash_in_entry: false, tail: false };

    fn entry(hash: u32, len: usize) -> LeafEntry {
        LeafEntry { hash: DirHash { hash, minor: 0 }, ino: Ino(12), file_type: 1, name: vec![b'n'; len] }
    }

    #[test]
    fn halves_by_size_and_in_order() {
        let all: Vec<_> = (0..40u32).rev().map(|i| entry(i * 2, 16)).collect();
        let d = divide(all, FORMAT, 1024).unwrap();
        assert_eq!((d.low.len(), d.high.len()), (19, 21));
        assert_eq!(d.border, d.high[0].hash.hash);
        assert!(d.low.iter().all(|e| e.hash.hash < d.border));
        assert!(divide(vec![entry(0, 5)], FORMAT, 1024).is_none());
        assert!(divide(vec![], FORMAT, 1024).is_none());
    }

    #[test]
    fn equal_hashes_continue() {
        let d = divide((0..3).map(|_| entry(8, 250)).collect(), FORMAT, 1024).unwrap();
        assert_eq!(d.border, 9);
        assert_eq!(d.low.len() + d.high.len(), 3);
    }
}
