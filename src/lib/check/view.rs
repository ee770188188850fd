//! An inode in the inode table, looked at without copying more than its known fields.

use zerocopy::FromBytes;

use crate::env::Timestamp;
use crate::format::csum::{Checksums, crc32c};
use crate::format::features::Incompat;
use crate::format::inode::{BLOCK_LEN, FileType, GOOD_OLD_SIZE, InodeCore, InodeFlags};
use crate::units::{Fsblk, Ino};
use crate::volume::Geometry;

/// Bytes of the known fields.
const CORE: usize = size_of::<InodeCore>();

/// Little-endian 32 bits at `at`; 0 beyond the end.
#[inline]
pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

/// Little-endian 16 bits at `at`; 0 beyond the end.
#[inline]
pub(super) fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_le_bytes(*b))
}

/// An inode and its number.
pub(super) struct View<'a> {
    pub(super) ino: Ino,
    /// The whole slot.
    pub(super) raw: &'a [u8],
    /// The fixed fields, and the extra ones whether or not `extra_isize` covers them.
    core: InodeCore,
}

impl<'a> View<'a> {
    /// Look at a slot of 128 bytes or more; `None` where it is shorter.
    pub(super) fn new(ino: Ino, raw: &'a [u8]) -> Option<Self> {
        let core = if let Ok((core, _)) = InodeCore::read_from_prefix(raw) {
            core
        } else {
            let mut bytes = [0; CORE];
            bytes.get_mut(..GOOD_OLD_SIZE)?.copy_from_slice(raw.get(..GOOD_OLD_SIZE)?);
            zerocopy::transmute!(bytes)
        };
        Some(Self { ino, raw, core })
    }

    pub(super) const fn core(&self) -> &InodeCore {
        &self.core
    }

    pub(super) const fn mode(&self) -> u16 {
        self.core.mode.get()
    }

    pub(super) const fn file_type(&self) -> Option<FileType> {
        FileType::from_mode(self.core.mode.get())
    }

    pub(super) fn is(&self, t: FileType) -> bool {
        self.file_type() == Some(t)
    }

    pub(super) const fn flags(&self) -> InodeFlags {
        InodeFlags::from_bits_retain(self.core.flags.get())
    }

    pub(super) const fn has(&self, f: InodeFlags) -> bool {
        self.flags().intersects(f)
    }

    pub(super) const fn links(&self) -> u16 {
        self.core.links_count.get()
    }

    pub(super) const fn dtime(&self) -> u32 {
        self.core.dtime.get()
    }

    pub(super) const fn size(&self) -> u64 {
        self.core.size_lo.get() as u64 | ((self.core.size_high.get() as u64) << 32)
    }

    pub(super) const fn blocks_raw(&self) -> u64 {
        self.core.blocks_lo.get() as u64 | ((self.core.blocks_high.get() as u64) << 32)
    }

    /// The attribute block. The high part counts only in a filesystem of 64 bits.
    pub(super) const fn file_acl(&self, geo: &Geometry) -> Fsblk {
        let high = if geo.features.incompat.contains(Incompat::BIT64) { self.core.file_acl_high.get() } else { 0 };
        Fsblk(self.core.file_acl_lo.get() as u64 | ((high as u64) << 32))
    }

    pub(super) const fn area(&self) -> &[u8; BLOCK_LEN] {
        &self.core.block
    }

    /// Pointer `i` of the block map.
    pub(super) fn pointer(&self, i: usize) -> u32 {
        le32(&self.core.block, i * 4)
    }

    pub(super) const fn uid(&self) -> u32 {
        self.core.uid_lo.get() as u32 | ((self.core.uid_high.get() as u32) << 16)
    }

    pub(super) const fn gid(&self) -> u32 {
        self.core.gid_lo.get() as u32 | ((self.core.gid_high.get() as u32) << 16)
    }

    /// `extra_isize` as stored; 0 in a slot of 128 bytes.
    pub(super) const fn extra_isize(&self) -> u16 {
        if self.raw.len() > GOOD_OLD_SIZE { self.core.extra_isize.get() } else { 0 }
    }

    /// Project id; 0 where the inode has no field for it.
    pub(super) const fn project(&self) -> u32 {
        if self.extra_isize() >= 32 { self.core.projid.get() } else { 0 }
    }

    /// The bytes behind the extra fields, where there is room for attributes.
    pub(super) fn attribute_area(&self) -> &'a [u8] {
        let extra = usize::from(self.extra_isize());
        let room = self.raw.len().saturating_sub(GOOD_OLD_SIZE);
        if extra % 4 != 0 || extra + 4 >= room {
            return &[];
        }
        self.raw.get(GOOD_OLD_SIZE + extra..).unwrap_or_default()
    }

    /// Whether the fixed part is all zeros: a slot that was never used.
    pub(super) fn is_blank(raw: &[u8]) -> bool {
        raw.get(..GOOD_OLD_SIZE).is_some_and(|b| {
            b.chunks_exact(16).fold(0u128, |a, c| a | u128::from_ne_bytes(c.try_into().unwrap_or_default())) == 0
        })
    }

    /// The checksum seed of what belongs to this inode.
    pub(super) fn seed(&self, csums: Checksums) -> Option<u32> {
        csums.inode_seed(self.ino, self.core.generation.get())
    }

    /// Stored and right checksum where they differ.
    pub(super) fn bad_checksum(&self, csums: Checksums) -> Option<(u32, u32)> {
        const LO: usize = std::mem::offset_of!(InodeCore, checksum_lo);
        const HI: usize = std::mem::offset_of!(InodeCore, checksum_hi);
        let mut crc = self.seed(csums)?;
        let wide = self.extra_isize() >= 4;
        // One call over a copy of the fixed part: the rest is untouched by the two fields.
        let mut head = [0u8; CORE];
        let n = self.raw.len().min(if wide { CORE } else { GOOD_OLD_SIZE });
        head.get_mut(..n)?.copy_from_slice(self.raw.get(..n)?);
        head.get_mut(LO..LO + 2)?.fill(0);
        let mut stored = u32::from(self.core.checksum_lo.get());
        if wide {
            head.get_mut(HI..HI + 2)?.fill(0);
            stored |= u32::from(self.core.checksum_hi.get()) << 16;
        }
        crc = crc32c(crc, head.get(..n)?);
        crc = crc32c(crc, self.raw.get(n..)?);
        let computed = if wide { crc } else { crc & 0xffff };
        (stored != computed).then_some((stored, computed))
    }

    /// Whether one of the four times has the epoch bits that old kernels wrote for dates before 1970.
    pub(super) fn has_suspicious_time(&self) -> bool {
        let c = &self.core;
        let n = self.extra_isize();
        let odd = |sec: u32, extra: u32| sec & 0x8000_0000 != 0 && extra & 3 == 3;
        (n >= 8 && odd(c.ctime.get(), c.ctime_extra.get()))
            || (n >= 12 && odd(c.mtime.get(), c.mtime_extra.get()))
            || (n >= 16 && odd(c.atime.get(), c.atime_extra.get()))
            || (n >= 24 && odd(c.crtime.get(), c.crtime_extra.get()))
    }

    /// References that an attribute inode counts.
    pub(super) const fn ea_refs(&self) -> u64 {
        ((self.core.ctime.get() as u64) << 32) | self.core.version.get() as u64
    }
}

/// Years up to which a time after 2310 is taken for a mistake: until 2242.
pub(super) const TIME_CUTOFF: Timestamp = Timestamp::from_secs(2 << 32);
