//! Surgery on an image: find every metadata structure, change some bytes of one, make its checksum right again.
//!
//! A reader that is only shown flipped bits sees nothing but checksum errors. With the checksum restamped, the value
//! itself reaches the code behind the check. Offsets are in bytes from the start of the device.

use std::ops::ControlFlow;

use crate::device::BlockDevice;
use crate::env::Entropy;
use crate::error::{Result, Structure};
use crate::format::group_desc::GroupDesc;
use crate::format::inode::Inode;
use crate::format::superblock::{self, Superblock};
use crate::format::{bitmap, dirent, extent, htree, xattr};
use crate::units::{Fsblk, Group, Ino, Lblk};
use crate::volume::{Geometry, MapEvent, MapKind, Owner, Volume};

/// A metadata structure and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// What it is.
    pub what: Structure,
    /// First byte.
    pub offset: u64,
    /// Length in bytes of what is in use: where a change is likely to matter.
    pub len: usize,
    /// Whose checksum seed counts, and which bytes it covers.
    owner: Seal,
}

/// What makes a structure's checksum right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seal {
    None,
    Superblock,
    GroupDesc(Group),
    BlockBitmap(Group),
    InodeBitmap(Group),
    Inode(Ino),
    Extent { seed: u32 },
    Dir { seed: u32 },
    Htree { seed: u32 },
    Xattr { block: Fsblk },
}

/// The structures of a healthy image.
#[derive(Debug)]
pub struct Surgeon {
    geo: Geometry,
    spots: Vec<Spot>,
    gdt: Vec<u64>,
}

impl Surgeon {
    /// Find the structures of `volume`, which must be healthy.
    pub fn new(volume: &Volume) -> Result<Self> {
        let geo = volume.geometry().clone();
        let gdt = (0..geo.gdt_blocks).map(|i| geo.byte_of(geo.gdt_block(Fsblk(0), i))).collect();
        let sb = Spot {
            what: Structure::Superblock,
            offset: superblock::OFFSET,
            len: superblock::SIZE,
            owner: Seal::Superblock,
        };
        let mut this = Self { geo, spots: vec![sb], gdt };
        for group in this.geo.all_groups() {
            this.group_spots(volume, group)?;
        }
        Ok(this)
    }

    /// All structures.
    pub fn spots(&self) -> &[Spot] {
        &self.spots
    }

    fn desc_offset(&self, group: Group) -> u64 {
        let (block, slot) = (group.0 / self.geo.desc_per_block, group.0 % self.geo.desc_per_block);
        self.gdt[block as usize] + u64::from(slot) * u64::from(self.geo.desc_size)
    }

    fn group_spots(&mut self, volume: &Volume, group: Group) -> Result<()> {
        let desc = volume.group(group)?;
        self.spots.push(Spot {
            what: Structure::GroupDesc,
            offset: self.desc_offset(group),
            len: usize::from(self.geo.desc_size),
            owner: Seal::GroupDesc(group),
        });
        if !volume.is_block_uninit(&desc) {
            self.spots.push(Spot {
                what: Structure::BlockBitmap,
                offset: self.geo.byte_of(desc.block_bitmap()),
                len: self.geo.clusters_per_group as usize / 8,
                owner: Seal::BlockBitmap(group),
            });
        }
        if volume.is_inode_uninit(&desc) {
            return Ok(());
        }
        self.spots.push(Spot {
            what: Structure::InodeBitmap,
            offset: self.geo.byte_of(desc.inode_bitmap()),
            len: self.geo.inodes_per_group as usize / 8,
            owner: Seal::InodeBitmap(group),
        });
        let used = volume.inode_bitmap(group)?;
        for index in 0..self.geo.inodes_per_group {
            if bitmap::test(&used, index as usize) {
                self.inode_spots(volume, Ino(self.geo.group_first_ino(group).0 + index))?;
            }
        }
        Ok(())
    }

    fn inode_spots(&mut self, volume: &Volume, ino: Ino) -> Result<()> {
        let inode = volume.inode(ino)?;
        let (offset, _) = volume.inode_offset(ino)?;
        let len = usize::from(self.geo.inode_size);
        self.spots.push(Spot { what: Structure::Inode, offset, len, owner: Seal::Inode(ino) });
        let owner = Owner { ino, inode: &inode };
        let seed = volume.inode_seed(ino, &inode).unwrap_or(0);
        let whole = self.geo.block_size as usize;
        let byte_of = |b: Fsblk| b.0 * u64::from(self.geo.block_size);
        let extents = volume.map_kind(&inode) == MapKind::Extents;
        let is_dir = inode.file_type() == Some(crate::format::inode::FileType::Directory);
        let mut found = Vec::new();
        volume.walk_map(owner, &mut |event| {
            match event {
                MapEvent::Node { block, .. } => {
                    let (what, owner) = if extents {
                        (Structure::ExtentNode, Seal::Extent { seed })
                    } else {
                        (Structure::IndirectBlock, Seal::None)
                    };
                    found.push(Spot { what, offset: byte_of(block), len: whole, owner });
                }
                MapEvent::Data(e) if is_dir => {
                    for n in 0..e.len {
                        let block = e.pblk.saturating_add(n.into());
                        let bytes = volume.block(block)?;
                        let node = volume.is_indexed(owner) && is_index(&bytes, e.lblk.saturating_add(n));
                        let (what, owner) = if node {
                            (Structure::HtreeNode, Seal::Htree { seed })
                        } else {
                            (Structure::DirBlock, Seal::Dir { seed })
                        };
                        found.push(Spot { what, offset: byte_of(block), len: whole, owner });
                    }
                }
                MapEvent::Data(_) => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let block = inode.file_acl();
        if block.0 != 0 {
            let owner = Seal::Xattr { block };
            found.push(Spot { what: Structure::XattrBlock, offset: byte_of(block), len: whole, owner });
        }
        self.spots.extend(found);
        Ok(())
    }

    /// Change one field of a random structure of `device` to an interesting value and restamp its checksum. Kinds of
    /// structures are equally likely. Returns which spot, and the byte offset of the change.
    pub fn operate(&self, device: &dyn BlockDevice, entropy: &mut dyn Entropy) -> Result<(Spot, u64)> {
        let mut kinds: Vec<Structure> = self.spots.iter().map(|s| s.what).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let kind = kinds[entropy.next_u32() as usize % kinds.len()];
        let of_kind: Vec<&Spot> = self.spots.iter().filter(|s| s.what == kind).collect();
        let spot = *of_kind[entropy.next_u32() as usize % of_kind.len()];
        let mut bytes = vec![0; spot.len];
        device.read_at(spot.offset, &mut bytes)?;
        let width = [1usize, 2, 2, 4, 4, 8][entropy.next_u32() as usize % 6].min(bytes.len());
        let at = pick_offset(&bytes, spot.what, width, entropy);
        change(&mut bytes[at..at + width], entropy);
        device.write_at(spot.offset, &bytes)?;
        self.restamp(device, spot)?;
        Ok((spot, spot.offset + at as u64))
    }

    /// Make the checksum of a structure right, as the bytes on `device` are now.
    pub fn restamp(&self, device: &dyn BlockDevice, spot: Spot) -> Result<()> {
        let csums = self.geo.checksums;
        let whole = match spot.owner {
            Seal::Inode(_) | Seal::GroupDesc(_) | Seal::Superblock => spot.len,
            _ => self.geo.block_size as usize,
        };
        let mut bytes = vec![0; whole];
        device.read_at(spot.offset, &mut bytes)?;
        match spot.owner {
            Seal::None => return Ok(()),
            Seal::Superblock => bytes = Superblock::decode_unchecked(&bytes)?.encode().to_vec(),
            Seal::GroupDesc(group) => {
                let mut desc = GroupDesc::decode(&bytes)?;
                desc.update_checksum(csums, group, self.geo.desc_size);
                desc.encode_into(&mut bytes);
            }
            Seal::BlockBitmap(group) | Seal::InodeBitmap(group) => {
                return self.restamp_bitmap(device, spot, group, &bytes);
            }
            Seal::Inode(ino) => {
                let mut inode = Inode::decode(&bytes)?;
                inode.update_checksum(csums, ino);
                bytes.copy_from_slice(inode.as_bytes());
            }
            _ if csums.seed().is_none() => return Ok(()),
            Seal::Extent { seed } => extent::stamp_block(&mut bytes, seed),
            Seal::Dir { seed } => dirent::stamp(&mut bytes, seed),
            Seal::Htree { seed } => htree::stamp(&mut bytes, seed),
            Seal::Xattr { block } => xattr::stamp_block(&mut bytes, csums.seed().unwrap_or(0), block),
        }
        device.write_at(spot.offset, &bytes)
    }

    fn restamp_bitmap(&self, device: &dyn BlockDevice, spot: Spot, group: Group, block: &[u8]) -> Result<()> {
        let Some(seed) = self.geo.checksums.seed() else { return Ok(()) };
        let at = self.desc_offset(group);
        let mut raw = vec![0; usize::from(self.geo.desc_size)];
        device.read_at(at, &mut raw)?;
        let mut desc = GroupDesc::decode(&raw)?;
        let crc = crate::format::csum::crc32c(seed, &block[..spot.len]);
        if spot.what == Structure::BlockBitmap {
            desc.set_block_bitmap_csum(crc);
        } else {
            desc.set_inode_bitmap_csum(crc);
        }
        desc.update_checksum(self.geo.checksums, group, self.geo.desc_size);
        desc.encode_into(&mut raw);
        device.write_at(at, &raw)
    }
}

fn is_index(block: &[u8], lblk: Lblk) -> bool {
    lblk.0 == 0 || (block.first_chunk::<4>() == Some(&[0; 4]) && dirent::raw_rec_len(block, 0) == Some(block.len()))
}

/// Where to change `bytes`: aligned to `width`, and mostly in the part that is full of fields.
fn pick_offset(bytes: &[u8], what: Structure, width: usize, entropy: &mut dyn Entropy) -> usize {
    let dense = match what {
        Structure::Inode => 160,
        Structure::ExtentNode | Structure::IndirectBlock | Structure::HtreeNode | Structure::XattrBlock => 96,
        Structure::DirBlock => 64,
        Structure::Superblock => 0x290,
        _ => bytes.len(),
    };
    let room = if entropy.next_u32().is_multiple_of(4) { bytes.len() } else { dense.min(bytes.len()) };
    let slots = (room / width).max(1);
    (entropy.next_u32() as usize % slots) * width
}

/// Give a little-endian field a value that is likely to hurt.
fn change(field: &mut [u8], entropy: &mut dyn Entropy) {
    let mut old = [0u8; 8];
    old[..field.len()].copy_from_slice(field);
    let old = u64::from_le_bytes(old);
    let new = match entropy.next_u32() % 10 {
        0 => 0,
        1 => u64::MAX,
        2 => old.wrapping_add(1),
        3 => old.wrapping_sub(1),
        4 => old ^ (1 << (entropy.next_u32() % 64)),
        5 => 1 << (entropy.next_u32() % 64),
        6 => u64::MAX >> (entropy.next_u32() % 64),
        7 => old.wrapping_mul(2),
        8 => u64::from(entropy.next_u32() % 256),
        _ => u64::from(entropy.next_u32()) << (entropy.next_u32() % 33),
    };
    let width = field.len();
    field.copy_from_slice(&new.to_le_bytes()[..width]);
}
