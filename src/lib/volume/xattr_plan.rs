//! Plans of extended attribute changes: which of the three places an attribute goes to. Pure. Sizes in bytes.
//!
//! As the kernel does it: very large values go to an inode of their own where the filesystem has `ea_inode`; else the
//! inode's own area is tried first, then the block, then (with `ea_inode`) an inode for the value.

use crate::format::xattr::{self, NewValue, NewXattr};
use crate::units::Ino;

/// A value in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldValue {
    /// The bytes.
    Bytes(Vec<u8>),
    /// In an inode of its own.
    Inode {
        /// Which inode.
        ino: Ino,
        /// Length of the value.
        size: u32,
        /// Hash of the value.
        value_hash: u32,
    },
}

/// An attribute in memory, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldXattr {
    /// Name index.
    pub index: u8,
    /// The rest of the name.
    pub name: Vec<u8>,
    /// The value.
    pub value: HeldValue,
}

impl HeldXattr {
    /// As it is written.
    pub fn as_new(&self) -> NewXattr<'_> {
        let value = match &self.value {
            HeldValue::Bytes(v) => NewValue::Bytes(v),
            HeldValue::Inode { ino, size, value_hash } => {
                NewValue::Inode { ino: *ino, size: *size, value_hash: *value_hash }
            }
        };
        NewXattr { index: self.index, name: &self.name, value }
    }

    /// The inode that holds the value, where one does.
    pub const fn value_ino(&self) -> Option<Ino> {
        match self.value {
            HeldValue::Inode { ino, .. } => Some(ino),
            HeldValue::Bytes(_) => None,
        }
    }

    /// Whether it has this name.
    pub fn is(&self, index: u8, name: &[u8]) -> bool {
        self.index == index && self.name == name
    }
}

/// Where a new attribute goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Behind the inode's fields.
    Inode,
    /// In the block.
    Block,
}

/// Room for attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The inode's area with its header; 0 where there is none.
    pub inode_area: usize,
    /// Block size.
    pub block: usize,
    /// Values may have inodes of their own.
    pub ea_inode: bool,
    /// The entries of such values may be in the inode's area. Not for symbolic links: a link with blocks (it is charged for
    /// the value) and no attribute block is taken for one whose target is in a block by e2fsck up to 1.47.
    pub apart_inside: bool,
}

impl Room {
    /// The smallest value that goes to an inode of its own without trying elsewhere.
    #[doc(alias = "EXT4_XATTR_MIN_LARGE_EA_SIZE")]
    pub const fn min_large(self) -> usize {
        let overhead = xattr::entry_len(3).saturating_add(xattr::BLOCK_HEADER).saturating_add(4);
        self.block.saturating_sub(overhead)
    }

    fn fits(self, place: Destination, others: &[HeldXattr], new: usize) -> bool {
        let (header, room) = match place {
            Destination::Inode => (xattr::IBODY_HEADER, self.inode_area),
            Destination::Block => (xattr::BLOCK_HEADER, self.block),
        };
        let old: usize = others.iter().map(|x| x.as_new().need()).fold(0, usize::saturating_add);
        header.saturating_add(old).saturating_add(new).saturating_add(4) <= room
    }

    /// Where an attribute goes beside what is there already, and whether its value gets an inode of its own.
    /// `None` where there is no room.
    pub fn place(
        self,
        name_len: usize,
        value_len: usize,
        in_inode: &[HeldXattr],
        in_block: &[HeldXattr],
    ) -> Option<(Destination, bool)> {
        let entry = xattr::entry_len(name_len);
        let whole = entry.saturating_add(xattr::padded(value_len));
        let large = self.ea_inode && value_len > self.min_large();
        let tries = [(whole, false), (entry, true)];
        let tries = if large { tries.get(1..) } else { tries.get(..if self.ea_inode { 2 } else { 1 }) };
        for (need, apart) in tries.unwrap_or_default() {
            for (place, others) in [(Destination::Inode, in_inode), (Destination::Block, in_block)] {
                let barred = *apart && place == Destination::Inode && !self.apart_inside;
                if !barred && self.fits(place, others, *need) {
                    return Some((place, *apart));
                }
            }
        }
        None
    }
}

/// The most metadata blocks that a change dirties, the inode, allocation and value inodes not counted: the old block
/// and a new one.
pub const SET_CREDITS: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_kernels_order() {
        let room = Room { inode_area: 96, block: 4096, ea_inode: false, apart_inside: true };
        assert_eq!(room.place(4, 20, &[], &[]), Some((Destination::Inode, false)));
        assert_eq!(room.place(4, 200, &[], &[]), Some((Destination::Block, false)));
        assert_eq!(room.place(4, 4096, &[], &[]), None);
        let with = Room { ea_inode: true, ..room };
        assert_eq!(with.min_large(), 4096 - 20 - 32 - 4);
        assert_eq!(with.place(4, 4096, &[], &[]), Some((Destination::Inode, true)));
        let link = Room { apart_inside: false, ..with };
        assert_eq!(link.place(4, 4096, &[], &[]), Some((Destination::Block, true)));
        let big = HeldXattr { index: 1, name: b"x".to_vec(), value: HeldValue::Bytes(vec![0; 3000]) };
        assert_eq!(with.place(4, 2000, &[], std::slice::from_ref(&big)), Some((Destination::Inode, true)));
        assert_eq!(room.place(4, 2000, &[], &[big]), None);
        // Exactly full.
        assert_eq!(room.place(4, 96 - 4 - 4 - 20, &[], &[]), Some((Destination::Inode, false)));
        assert_eq!(room.place(4, 96 - 4 - 4 - 19, &[], &[]), Some((Destination::Block, false)));
    }
}
