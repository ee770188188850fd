//! Surgery by hand: one structure of an image is changed, and its checksum made right again.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::missing_panics_doc, missing_docs)]

use std::sync::Arc;

use ext4kit::device::{BlockDevice, MemoryDevice};
use ext4kit::format::bitmap::{self, Kind};
use ext4kit::format::dirent;
use ext4kit::format::group_desc::GroupDesc;
use ext4kit::format::inode::Inode;
use ext4kit::format::superblock::Superblock;
use ext4kit::units::{Fsblk, Group, Ino, Lblk};
use ext4kit::volume::{DirtyJournal, LastLink, Mapping, OpenOptions, Owner, Volume};

/// An image being operated on.
pub struct Patient {
    pub bytes: Vec<u8>,
    pub vol: Volume,
}

impl Patient {
    pub fn new(bytes: &[u8]) -> Self {
        let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.to_vec()));
        Self { bytes: bytes.to_vec(), vol: Volume::open(device, &OpenOptions::default()).unwrap() }
    }

    /// An image that may be damaged already.
    pub fn damaged(bytes: &[u8]) -> Self {
        let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.to_vec()));
        let options =
            OpenOptions { verify_groups: false, dirty_journal: DirtyJournal::Ignore, ..OpenOptions::default() };
        Self { bytes: bytes.to_vec(), vol: Volume::open(device, &options).unwrap() }
    }

    /// The bytes of a block.
    pub fn block(&mut self, at: Fsblk) -> &mut [u8] {
        let size = self.vol.geometry().block_size as usize;
        &mut self.bytes[at.0 as usize * size..][..size]
    }

    /// The block of a logical block of an inode.
    pub fn mapped(&self, ino: Ino, lblk: u32) -> Fsblk {
        let inode = self.vol.raw_inode(ino).unwrap();
        let owner = Owner { ino, inode: &inode };
        let Mapping::Mapped { pblk, .. } = self.vol.map(owner, Lblk(lblk)).unwrap() else { panic!("{ino:?} {lblk}") };
        pblk
    }

    pub fn ino(&self, path: &str) -> Ino {
        self.vol.resolve(path.as_bytes(), LastLink::Keep).unwrap()
    }

    pub fn inode(&mut self, path: &str, change: impl FnOnce(&mut Inode)) {
        self.numbered(self.ino(path), change);
    }

    pub fn numbered(&mut self, ino: Ino, change: impl FnOnce(&mut Inode)) {
        let mut inode = self.vol.raw_inode(ino).unwrap();
        change(&mut inode);
        inode.update_checksum(self.vol.geometry().checksums, ino);
        let at = self.vol.inode_offset(ino).unwrap().0 as usize;
        self.bytes[at..at + inode.as_bytes().len()].copy_from_slice(inode.as_bytes());
    }

    pub fn superblock(&mut self, change: impl FnOnce(&mut Superblock)) {
        let mut sb = self.vol.superblock().clone();
        change(&mut sb);
        self.bytes[1024..2048].copy_from_slice(&sb.encode());
    }

    pub fn group(&mut self, change: impl FnOnce(&mut GroupDesc)) {
        let geo = self.vol.geometry();
        let mut desc = self.vol.group(Group(0)).unwrap();
        change(&mut desc);
        desc.update_checksum(geo.checksums, Group(0), geo.desc_size);
        let at = geo.byte_of(geo.gdt_block(Fsblk(0), 0)) as usize;
        desc.encode_into(&mut self.bytes[at..at + usize::from(geo.desc_size)]);
    }

    /// Change the block bitmap of group 0 and the checksum that its descriptor keeps.
    pub fn block_bitmap(&mut self, change: impl FnOnce(&mut [u8])) {
        let geo = self.vol.geometry().clone();
        let at = geo.byte_of(self.vol.group(Group(0)).unwrap().block_bitmap()) as usize;
        let map = &mut self.bytes[at..at + geo.block_size as usize];
        change(map);
        let map = map.to_vec();
        self.group(|d| bitmap::stamp(Kind::Block, &map, geo.clusters_per_group, geo.checksums, d, geo.desc_size));
    }

    /// Change logical block 0 of a directory.
    pub fn dir_block(&mut self, path: &str, change: impl FnOnce(&mut [u8])) {
        let ino = self.ino(path);
        let inode = self.vol.raw_inode(ino).unwrap();
        let owner = Owner { ino, inode: &inode };
        let Mapping::Mapped { pblk, .. } = self.vol.map(owner, Lblk(0)).unwrap() else { panic!("{path}") };
        let at = self.vol.geometry().byte_of(pblk) as usize;
        let block = &mut self.bytes[at..at + self.vol.geometry().block_size as usize];
        change(block);
        if let Some(seed) = self.vol.inode_seed(ino, &inode) {
            dirent::stamp(block, seed);
        }
    }
}

/// Offset of an entry in a directory block.
pub fn entry(block: &[u8], name: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let len = usize::from(u16::from_le_bytes([block[at + 4], block[at + 5]]));
        if &block[at + 8..at + 8 + usize::from(block[at + 6])] == name {
            return at;
        }
        at += len;
    }
}

pub type Cut = fn(&mut Patient);
