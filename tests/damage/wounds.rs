//! Ways to hurt an image: fields of structures with their checksums right again, bytes, whole blocks and inodes.

use std::sync::Arc;

use ext4kit::device::{BlockDevice, MemoryDevice};
use ext4kit::env::{Entropy, SeededEntropy};
use ext4kit::error::Structure;
use ext4kit::testing::surgery::{Spot, Surgeon};
use ext4kit::units::Ino;
use ext4kit::volume::{OpenOptions, Owner, Volume};

/// Where an image can be hurt.
pub(crate) struct Clinic {
    surgeon: Surgeon,
    spots: Vec<Spot>,
    /// Blocks of journal, quota files, orphan file and the like: first byte, bytes.
    hidden: Vec<(u64, u64)>,
    block_size: usize,
    blocks: u64,
    inodes: u32,
}

/// One field, first byte and bytes, and which value it gets.
pub(crate) struct Cut {
    spot: Option<Spot>,
    at: u64,
    width: usize,
    value: u8,
}

fn pick<'p, T>(all: &'p [T], e: &mut SeededEntropy) -> &'p T {
    &all[e.next_u32() as usize % all.len()]
}

impl Clinic {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.to_vec()));
        let options = OpenOptions { dirty_journal: ext4kit::volume::DirtyJournal::Ignore, ..OpenOptions::default() };
        let vol = Volume::open(device, &options).unwrap();
        let surgeon = Surgeon::new(&vol).unwrap();
        let geo = vol.geometry().clone();
        let sb = vol.superblock();
        let special = [1, 3, 4, 7, 8, sb.prj_quota_inum.get(), sb.orphan_file_inum.get()];
        let mut hidden = Vec::new();
        for ino in special.into_iter().filter(|i| *i != 0).map(Ino) {
            let Ok(inode) = vol.raw_inode(ino) else { continue };
            let Ok(extents) = vol.extents(Owner { ino, inode: &inode }) else { continue };
            let size = u64::from(geo.block_size);
            // Of a journal its beginning only: the rest is content that does not matter.
            hidden.extend(extents.iter().take(4).map(|x| (x.pblk.0 * size, u64::from(x.len.min(16)) * size)));
        }
        Self {
            spots: surgeon.spots().to_vec(),
            surgeon,
            hidden,
            block_size: geo.block_size as usize,
            blocks: geo.blocks_count,
            inodes: geo.inodes_count,
        }
    }

    /// Hurt `device` in one to fifty places, or in `count`; what was done.
    pub(crate) fn wound(&self, device: &MemoryDevice, count: Option<u32>, e: &mut SeededEntropy) -> Vec<String> {
        let random = match e.next_u32() % 10 {
            0..=4 => 1 + e.next_u32() % 3,
            5..=7 => 4 + e.next_u32() % 7,
            _ => 11 + e.next_u32() % 40,
        };
        (0..count.unwrap_or(random)).map(|_| self.one(device, e)).collect()
    }

    /// Every field of the dense parts of structures of every kind, each with values that are likely to hurt.
    pub(crate) fn sweep(&self, healthy: &MemoryDevice) -> Vec<Cut> {
        let mut seen = std::collections::BTreeMap::new();
        let mut all = Vec::new();
        for spot in &self.spots {
            let mut bytes = vec![0; spot.len];
            healthy.read_at(spot.offset, &mut bytes).unwrap();
            // Inodes of one type with the same flags are alike, and so are other structures of one kind.
            let (len, alike, most) = match spot.what {
                Structure::Superblock => (0x280, 0, 1),
                Structure::Inode => {
                    let flags = u32::from_le_bytes(bytes[32..36].try_into().unwrap());
                    (160.min(spot.len), u64::from(flags) << 16 | u64::from(bytes[1] & 0xf0), 1)
                }
                Structure::GroupDesc => (spot.len, 0, 2),
                Structure::BlockBitmap | Structure::InodeBitmap => (16, 0, 2),
                _ => (64, 0, 3),
            };
            let count = seen.entry((spot.what, alike)).or_insert(0u32);
            *count += 1;
            if *count > most {
                continue;
            }
            let mut fields: Vec<(usize, usize)> = (0..len / 2).map(|i| (i * 2, 2)).collect();
            fields.extend((0..len / 4).map(|i| (i * 4, 4)));
            for (at, width) in fields.into_iter().filter(|(at, width)| at + width <= spot.len) {
                all.extend((0..6).map(|value| Cut { spot: Some(*spot), at: spot.offset + at as u64, width, value }));
            }
        }
        // What nobody names has no checksum to be made right, and the journal's fields have their high byte first.
        for (start, len) in &self.hidden {
            let fields = (0..128.min(*len) / 4).map(|i| (start + i * 4, 4));
            all.extend(fields.flat_map(|(at, width)| (0..7).map(move |value| Cut { spot: None, at, width, value })));
        }
        all
    }

    /// Make a cut, and the checksum right again; what was done.
    pub(crate) fn cut(&self, device: &MemoryDevice, cut: &Cut) -> Vec<String> {
        let at = cut.at;
        let mut old = [0u8; 4];
        device.read_at(at, &mut old[..cut.width]).unwrap();
        let old = u32::from_le_bytes(old);
        let ones = u32::MAX >> (32 - cut.width * 8);
        let new = match cut.value {
            0 => 0,
            1 => ones,
            2 => old.wrapping_add(1),
            3 => old.wrapping_sub(1),
            4 => old ^ (ones ^ (ones >> 1)),
            6 => 1 << 24,
            _ => (at as u32).wrapping_mul(0x9e37_79b9) >> 8,
        };
        device.write_at(at, &new.to_le_bytes()[..cut.width]).unwrap();
        let Some(spot) = cut.spot else { return vec![format!("hidden file at {at:x}: {old:x} -> {new:x}")] };
        let _ = self.surgeon.restamp(device, spot);
        vec![format!("{:?} at {:x}+{:x}: {old:x} -> {new:x}", spot.what, spot.offset, at - spot.offset)]
    }

    fn one(&self, device: &MemoryDevice, e: &mut SeededEntropy) -> String {
        match e.next_u32() % 16 {
            0..=5 => {
                let (spot, at) = self.surgeon.operate(device, e).unwrap();
                format!("{:?} field at {at:x}", spot.what)
            }
            6..=8 => self.number(device, e),
            9 | 10 => self.bytes(device, e),
            11 => self.block(device, e),
            12 => self.inode(device, e),
            13 => self.hidden(device, e),
            14 => self.bit(device, e),
            _ => Self::anywhere(device, e),
        }
    }

    fn spot(&self, e: &mut SeededEntropy) -> Spot {
        let mut kinds: Vec<Structure> = self.spots.iter().map(|s| s.what).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let kind = *pick(&kinds, e);
        let of_kind: Vec<&Spot> = self.spots.iter().filter(|s| s.what == kind).collect();
        **pick(&of_kind, e)
    }

    /// Half of the time the checksum is made right again.
    fn seal(&self, device: &MemoryDevice, spot: Spot, e: &mut SeededEntropy) -> &'static str {
        if e.next_u32().is_multiple_of(2) {
            // Some damage leaves nothing that a checksum could be made for.
            let _ = self.surgeon.restamp(device, spot);
            "stamped"
        } else {
            "unstamped"
        }
    }

    /// A field becomes the number of a block, an inode, or another small number that could be meant.
    fn number(&self, device: &MemoryDevice, e: &mut SeededEntropy) -> String {
        let spot = self.spot(e);
        let mut bytes = vec![0; spot.len];
        device.read_at(spot.offset, &mut bytes).unwrap();
        let slots = if spot.what == Structure::Inode { 40.min(spot.len / 4) } else { spot.len / 4 };
        let at = (e.next_u32() as usize % slots.max(1)) * 4;
        let value = match e.next_u32() % 4 {
            0 => (u64::from(e.next_u32()) % self.blocks) as u32,
            1 => 1 + e.next_u32() % self.inodes,
            2 => e.next_u32() % 64,
            _ => {
                // What stands elsewhere in a structure of the same kind.
                let other = (e.next_u32() as usize % slots.max(1)) * 4;
                bytes.get(other..other + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap()))
            }
        };
        if let Some(field) = bytes.get_mut(at..at + 4) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        device.write_at(spot.offset, &bytes).unwrap();
        format!("{:?} {} at {:x}: {value:x}", spot.what, self.seal(device, spot, e), spot.offset + at as u64)
    }

    /// Up to 64 bytes of a structure become random.
    fn bytes(&self, device: &MemoryDevice, e: &mut SeededEntropy) -> String {
        let spot = self.spot(e);
        let len = (1 + e.next_u32() as usize % 64).min(spot.len);
        let at = e.next_u32() as usize % (spot.len - len + 1);
        let noise: Vec<u8> = (0..len).map(|_| e.next_u32() as u8).collect();
        device.write_at(spot.offset + at as u64, &noise).unwrap();
        format!("{:?} {} at {:x}: {len} bytes", spot.what, self.seal(device, spot, e), spot.offset + at as u64)
    }

    /// A block with a structure is lost: zeros, ones, noise, or what is in another one.
    fn block(&self, device: &MemoryDevice, e: &mut SeededEntropy) -> String {
        let spot = self.spot(e);
        let size = self.block_size as u64;
        let at = spot.offset / size * size;
        let mut bytes = vec![0u8; self.block_size];
        let how = match e.next_u32() % 5 {
            0 => "zeros",
            1 => {
                bytes.fill(0xff);
                "ones"
            }
            2 => {
                bytes.fill_with(|| e.next_u32() as u8);
                "noise"
            }
            _ => {
                let other = self.spot(e).offset / size * size;
                device.read_at(other, &mut bytes).unwrap();
                "another"
            }
        };
        device.write_at(at, &bytes).unwrap();
        format!("{:?} block at {at:x}: {how}", spot.what)
    }

    /// An inode is written over another one.
    fn inode(&self, device: &MemoryDevice, e: &mut SeededEntropy) -> String {
        let inodes: Vec<Spot> = self.spots.iter().filter(|s| s.what == Structure::Inode).copied().collect();
        let (from, to) = (*pick(&inodes, e), *pick(&inodes, e));
        let mut bytes = vec![0; from.len];
        device.read_at(from.offset, &mut bytes).unwrap();
        device.write_at(to.offset, &bytes).unwrap();
        format!("inode at {:x} over {:x} {}", from.offset, to.offset, self.seal(device, to, e))
    }

    /// Something in the journal, a quota file, or the orphan file.
    fn hidden(&self, device: &MemoryDevice, e: &mut SeededEntropy) -> String {
        if self.hidden.is_empty() {
            return self.bit(device, e);
        }
        let (start, len) = *pick(&self.hidden, e);
        let room = if e.next_u32().is_multiple_of(2) { 128.min(len) } else { len };
        let at = start + u64::from(e.next_u32()) % room;
        let noise = [e.next_u32() as u8, e.next_u32() as u8, 0, 0];
        let n = [1usize, 2, 4][e.next_u32() as usize % 3];
        device.write_at(at, &noise[..n]).unwrap();
        format!("hidden file at {at:x}: {n} bytes")
    }

    /// One bit of a structure.
    fn bit(&self, device: &MemoryDevice, e: &mut SeededEntropy) -> String {
        let spot = self.spot(e);
        let at = spot.offset + u64::from(e.next_u32()) % spot.len as u64;
        let mut byte = [0];
        device.read_at(at, &mut byte).unwrap();
        byte[0] ^= 1 << (e.next_u32() % 8);
        device.write_at(at, &byte).unwrap();
        format!("{:?} {} bit at {at:x}", spot.what, self.seal(device, spot, e))
    }

    /// A byte anywhere.
    fn anywhere(device: &MemoryDevice, e: &mut SeededEntropy) -> String {
        let at = u64::from(e.next_u32()) % device.len();
        device.write_at(at, &[e.next_u32() as u8]).unwrap();
        format!("byte at {at:x}")
    }
}
