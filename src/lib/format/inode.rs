//! Inodes: 128 bytes, or more with extra fields and in-inode extended attributes. Little endian.
//! Kernel name: `struct ext4_inode`.
//!
//! [`Inode`] holds the whole on-disk slot (128 to 65536 bytes): the fixed [`InodeCore`], the extra fields as far
//! as `extra_isize` says, and whatever follows. Times are seconds in 34 bits (from 1901 to 2446) and nanoseconds.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::csum::{Checksums, crc32c};
use super::{U16, U32};
use crate::env::Timestamp;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::units::{Fsblk, Ino};

/// Bytes of the fixed part.
#[doc(alias = "EXT4_GOOD_OLD_INODE_SIZE")]
pub const GOOD_OLD_SIZE: usize = 128;
/// Bytes of the `block` array, where block pointers, an extent root, a short symlink or inline data lives.
pub const BLOCK_LEN: usize = 60;
/// Bytes of the extra fields that this library knows, from byte 128.
pub const EXTRA_KNOWN: u16 = 32;
/// Smallest `extra_isize` that holds a 32-bit checksum.
const EXTRA_CSUM: u16 = 4;

bitflags! {
    /// `i_flags`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct InodeFlags: u32 {
        /// Secure deletion (unused).
        const SECRM = 0x1;
        /// Undelete (unused).
        const UNRM = 0x2;
        /// Compress (unused).
        const COMPR = 0x4;
        /// Synchronous updates.
        const SYNC = 0x8;
        /// Immutable.
        const IMMUTABLE = 0x10;
        /// Append only.
        const APPEND = 0x20;
        /// Not dumped.
        const NODUMP = 0x40;
        /// No access time updates.
        const NOATIME = 0x80;
        /// Dirty (compression, unused).
        const DIRTY = 0x100;
        /// Compressed blocks (unused).
        const COMPRBLK = 0x200;
        /// Not compressed (unused).
        const NOCOMPR = 0x400;
        /// Encrypted.
        const ENCRYPT = 0x800;
        /// The directory has a hash index.
        const INDEX = 0x1000;
        /// AFS directory.
        const IMAGIC = 0x2000;
        /// File data is journalled.
        const JOURNAL_DATA = 0x4000;
        /// Not to be tail-merged.
        const NOTAIL = 0x8000;
        /// Directory updates are synchronous.
        const DIRSYNC = 0x1_0000;
        /// Top of a directory hierarchy (Orlov).
        const TOPDIR = 0x2_0000;
        /// `blocks` counts filesystem blocks.
        const HUGE_FILE = 0x4_0000;
        /// Uses extents.
        const EXTENTS = 0x8_0000;
        /// fs-verity.
        const VERITY = 0x10_0000;
        /// Holds a large extended attribute value.
        const EA_INODE = 0x20_0000;
        /// Has blocks beyond the end (old; unused).
        const EOFBLOCKS = 0x40_0000;
        /// Direct access.
        const DAX = 0x200_0000;
        /// Data is inside the inode.
        const INLINE_DATA = 0x1000_0000;
        /// Children get the same project id.
        const PROJINHERIT = 0x2000_0000;
        /// Case-insensitive directory.
        const CASEFOLD = 0x4000_0000;
        const _ = !0;
    }
}

/// What an inode is, from `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileType {
    /// Named pipe.
    Fifo,
    /// Character device.
    CharDevice,
    /// Directory.
    Directory,
    /// Block device.
    BlockDevice,
    /// Regular file.
    Regular,
    /// Symbolic link.
    Symlink,
    /// Socket.
    Socket,
}

impl FileType {
    /// The type bits of `mode`; `None` where they mean nothing.
    pub const fn from_mode(mode: u16) -> Option<Self> {
        match mode & 0o170_000 {
            0o010_000 => Some(Self::Fifo),
            0o020_000 => Some(Self::CharDevice),
            0o040_000 => Some(Self::Directory),
            0o060_000 => Some(Self::BlockDevice),
            0o100_000 => Some(Self::Regular),
            0o120_000 => Some(Self::Symlink),
            0o140_000 => Some(Self::Socket),
            _ => None,
        }
    }

    /// The type bits for `mode`.
    pub const fn mode_bits(self) -> u16 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharDevice => 0o020_000,
            Self::Directory => 0o040_000,
            Self::BlockDevice => 0o060_000,
            Self::Regular => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }

    /// The `file_type` byte of a directory entry.
    #[doc(alias = "EXT4_FT_REG_FILE")]
    pub const fn dirent_code(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }

    /// The type for the `file_type` byte of a directory entry; `None` for 0 (unknown) and impossible values.
    pub const fn from_dirent_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Regular),
            2 => Some(Self::Directory),
            3 => Some(Self::CharDevice),
            4 => Some(Self::BlockDevice),
            5 => Some(Self::Fifo),
            6 => Some(Self::Socket),
            7 => Some(Self::Symlink),
            _ => None,
        }
    }

    /// The letter that `ls -l` shows.
    pub const fn letter(self) -> char {
        match self {
            Self::Fifo => 'p',
            Self::CharDevice => 'c',
            Self::Directory => 'd',
            Self::BlockDevice => 'b',
            Self::Regular => '-',
            Self::Symlink => 'l',
            Self::Socket => 's',
        }
    }
}

/// The fixed 128 bytes and the extra fields after them; extra fields beyond `extra_isize` read as zero.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "ext4_inode")]
pub struct InodeCore {
    /// Type and permissions.
    pub mode: U16,
    /// Owner, low 16 bits.
    pub uid_lo: U16,
    /// Size in bytes, low 32 bits.
    pub size_lo: U32,
    /// Access time, seconds.
    pub atime: U32,
    /// Change time, seconds.
    pub ctime: U32,
    /// Modification time, seconds.
    pub mtime: U32,
    /// Deletion time, seconds; or the next inode of the orphan list.
    pub dtime: U32,
    /// Group, low 16 bits.
    pub gid_lo: U16,
    /// Hard links.
    pub links_count: U16,
    /// 512-byte units (or blocks, see [`InodeFlags::HUGE_FILE`]) in use, low 32 bits.
    pub blocks_lo: U32,
    /// Flags; see [`InodeFlags`].
    pub flags: U32,
    /// Inode version, low 32 bits; for an EA inode, its reference count's low half (the high half is in `ctime`).
    pub version: U32,
    /// Block pointers, extent root, short symlink or inline data.
    pub block: [u8; BLOCK_LEN],
    /// Generation, for NFS.
    pub generation: U32,
    /// Extended attribute block, low 32 bits.
    pub file_acl_lo: U32,
    /// Size in bytes, high 32 bits.
    pub size_high: U32,
    /// Fragment address (unused).
    pub obso_faddr: U32,
    /// `blocks`, high 16 bits.
    pub blocks_high: U16,
    /// Extended attribute block, high 16 bits.
    pub file_acl_high: U16,
    /// Owner, high 16 bits.
    pub uid_high: U16,
    /// Group, high 16 bits.
    pub gid_high: U16,
    /// Checksum, low 16 bits.
    pub checksum_lo: U16,
    /// Unused; kept.
    pub reserved: U16,
    /// Bytes of extra fields in use after the fixed 128.
    pub extra_isize: U16,
    /// Checksum, high 16 bits.
    pub checksum_hi: U16,
    /// Change time: 2 bits epoch, 30 bits nanoseconds.
    pub ctime_extra: U32,
    /// Modification time: epoch and nanoseconds.
    pub mtime_extra: U32,
    /// Access time: epoch and nanoseconds.
    pub atime_extra: U32,
    /// Creation time, seconds.
    pub crtime: U32,
    /// Creation time: epoch and nanoseconds.
    pub crtime_extra: U32,
    /// Inode version, high 32 bits.
    pub version_hi: U32,
    /// Project id.
    pub projid: U32,
}

const CHECKSUM_LO_AT: usize = std::mem::offset_of!(InodeCore, checksum_lo);
const CHECKSUM_HI_AT: usize = std::mem::offset_of!(InodeCore, checksum_hi);
const CORE: usize = size_of::<InodeCore>();
const _: () = {
    assert!(CORE == 160);
    assert!(std::mem::offset_of!(InodeCore, block) == 0x28);
    assert!(std::mem::offset_of!(InodeCore, generation) == 0x64);
    assert!(CHECKSUM_LO_AT == 0x7c);
    assert!(std::mem::offset_of!(InodeCore, extra_isize) == GOOD_OLD_SIZE);
    assert!(CHECKSUM_HI_AT == 0x82);
    assert!(std::mem::offset_of!(InodeCore, projid) == 0x9c);
};

/// One of an inode's four times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeField {
    /// Last access.
    Access,
    /// Last change of the inode.
    Change,
    /// Last change of the content.
    Modify,
    /// Creation.
    Create,
}

/// An inode's slot in the inode table.
#[derive(Clone, PartialEq, Eq)]
pub struct Inode {
    raw: Vec<u8>,
}

impl std::fmt::Debug for Inode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inode")
            .field("mode", &format_args!("{:#o}", self.core().mode.get()))
            .field("size", &self.size())
            .field("links", &self.core().links_count.get())
            .field("flags", &self.flags())
            .finish_non_exhaustive()
    }
}

/// A device number in the encoding for numbers of more than 8 bits, which superblocks have too.
#[doc(alias = "new_encode_dev")]
pub const fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

impl Inode {
    /// Decode a slot of 128 bytes or more. Nothing is verified beyond the length.
    pub fn decode(slot: &[u8]) -> Result<Self> {
        if slot.len() < GOOD_OLD_SIZE {
            let flaw = Flaw::Short { of: Structure::Inode, need: GOOD_OLD_SIZE as u64, have: slot.len() as u64 };
            return Err(Error::corrupt(flaw, Place::FS));
        }
        Ok(Self { raw: slot.to_vec() })
    }

    /// An inode of zeros with `size` bytes, its `extra_isize` set as far as known fields and the slot go.
    pub fn empty(size: u16) -> Self {
        let mut inode = Self { raw: vec![0; usize::from(size).max(GOOD_OLD_SIZE)] };
        if usize::from(size) >= CORE {
            inode.update(|c| c.extra_isize = U16::new(EXTRA_KNOWN));
        }
        inode
    }

    /// The slot's bytes as they are.
    pub fn as_bytes(&self) -> &[u8] {
        &self.raw
    }

    /// The slot's bytes, to change.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.raw
    }

    /// The known fields. Extra fields that the inode does not have read as zero.
    pub fn core(&self) -> InodeCore {
        let mut bytes = [0; CORE];
        let have = self.known_len();
        if let (Some(to), Some(from)) = (bytes.get_mut(..have), self.raw.get(..have)) {
            to.copy_from_slice(from);
        }
        zerocopy::transmute!(bytes)
    }

    /// Change known fields in place. Extra fields that the inode does not have stay as they are.
    pub fn update(&mut self, change: impl FnOnce(&mut InodeCore)) {
        let mut core = self.core();
        change(&mut core);
        // A change of extra_isize itself decides how much is stored.
        let room = self.raw.len().saturating_sub(GOOD_OLD_SIZE);
        let have = if room == 0 {
            GOOD_OLD_SIZE
        } else {
            let extra = usize::from(core.extra_isize.get()).min(room);
            GOOD_OLD_SIZE.saturating_add(extra.max(2)).min(CORE)
        };
        if let (Some(to), Some(from)) = (self.raw.get_mut(..have), core.as_bytes().get(..have)) {
            to.copy_from_slice(from);
        }
    }

    /// How many bytes of [`InodeCore`] the slot really has. The field `extra_isize` itself always counts where
    /// the slot is larger than 128 bytes.
    fn known_len(&self) -> usize {
        let room = self.raw.len().saturating_sub(GOOD_OLD_SIZE);
        if room < 2 {
            return GOOD_OLD_SIZE;
        }
        let extra = usize::from(self.stored_extra_isize()).min(room).max(2);
        GOOD_OLD_SIZE.saturating_add(extra).min(CORE)
    }

    fn stored_extra_isize(&self) -> u16 {
        match self.raw.get(GOOD_OLD_SIZE..) {
            Some(&[lo, hi, ..]) => u16::from_le_bytes([lo, hi]),
            _ => 0,
        }
    }

    /// The `extra_isize` field, checked: a multiple of 4 that fits the slot. 0 for 128-byte inodes.
    pub fn extra_isize(&self) -> Result<u16> {
        let v = self.stored_extra_isize();
        let room = self.raw.len().saturating_sub(GOOD_OLD_SIZE);
        if !v.is_multiple_of(4) || usize::from(v) > room {
            let flaw = Flaw::Field { of: Structure::Inode, field: "extra_isize", value: u64::from(v) };
            return Err(Error::corrupt(flaw, Place::FS.offset(GOOD_OLD_SIZE as u64)));
        }
        Ok(v)
    }

    /// The bytes after the extra fields: room for extended attributes in the inode. Empty where `extra_isize` is
    /// impossible or there is no room.
    pub fn xattr_area(&self) -> &[u8] {
        let extra = self.extra_isize().unwrap_or(u16::MAX);
        self.raw.get(GOOD_OLD_SIZE.saturating_add(usize::from(extra))..).unwrap_or_default()
    }

    /// [`Inode::xattr_area`], to change.
    pub fn xattr_area_mut(&mut self) -> &mut [u8] {
        let extra = self.extra_isize().unwrap_or(u16::MAX);
        self.raw.get_mut(GOOD_OLD_SIZE.saturating_add(usize::from(extra))..).unwrap_or_default()
    }

    /// The 60 bytes of block pointers, extent root, short symlink or inline data.
    pub fn block_area(&self) -> [u8; BLOCK_LEN] {
        self.core().block
    }

    /// What it is; `None` where the mode's type bits mean nothing.
    pub fn file_type(&self) -> Option<FileType> {
        FileType::from_mode(self.core().mode.get())
    }

    /// Permission bits with setuid, setgid and sticky.
    pub fn permissions(&self) -> u16 {
        self.core().mode.get() & 0o7777
    }

    /// Flags.
    pub fn flags(&self) -> InodeFlags {
        InodeFlags::from_bits_retain(self.core().flags.get())
    }

    /// Store the flags.
    pub fn set_flags(&mut self, f: InodeFlags) {
        self.update(|c| c.flags = U32::new(f.bits()));
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        let c = self.core();
        u64::from(c.size_lo.get()) | (u64::from(c.size_high.get()) << 32)
    }

    /// Store the size in bytes.
    pub fn set_size(&mut self, size: u64) {
        self.update(|c| {
            c.size_lo = U32::new(size as u32);
            c.size_high = U32::new((size >> 32) as u32);
        });
    }

    /// Owner.
    pub fn uid(&self) -> u32 {
        let c = self.core();
        u32::from(c.uid_lo.get()) | (u32::from(c.uid_high.get()) << 16)
    }

    /// Group.
    pub fn gid(&self) -> u32 {
        let c = self.core();
        u32::from(c.gid_lo.get()) | (u32::from(c.gid_high.get()) << 16)
    }

    /// Store owner and group.
    pub fn set_owner(&mut self, uid: u32, gid: u32) {
        self.update(|c| {
            c.uid_lo = U16::new(uid as u16);
            c.uid_high = U16::new((uid >> 16) as u16);
            c.gid_lo = U16::new(gid as u16);
            c.gid_high = U16::new((gid >> 16) as u16);
        });
    }

    /// The raw block count: 512-byte units, or filesystem blocks with [`InodeFlags::HUGE_FILE`].
    pub fn blocks_raw(&self) -> u64 {
        let c = self.core();
        u64::from(c.blocks_lo.get()) | (u64::from(c.blocks_high.get()) << 32)
    }

    /// Store the raw block count (48 bits).
    pub fn set_blocks_raw(&mut self, n: u64) {
        self.update(|c| {
            c.blocks_lo = U32::new(n as u32);
            c.blocks_high = U16::new((n >> 32) as u16);
        });
    }

    /// Space in use in bytes, as the block count says.
    pub fn allocated_bytes(&self, block_size: u32) -> u64 {
        let unit = if self.flags().contains(InodeFlags::HUGE_FILE) { u64::from(block_size) } else { 512 };
        self.blocks_raw().saturating_mul(unit)
    }

    /// Extended attribute block; 0 where there is none.
    pub fn file_acl(&self) -> Fsblk {
        let c = self.core();
        Fsblk(u64::from(c.file_acl_lo.get()) | (u64::from(c.file_acl_high.get()) << 32))
    }

    /// Store the extended attribute block (48 bits).
    pub fn set_file_acl(&mut self, block: Fsblk) {
        self.update(|c| {
            c.file_acl_lo = U32::new(block.0 as u32);
            c.file_acl_high = U16::new((block.0 >> 32) as u16);
        });
    }

    /// One of the times. Without the extra fields: whole seconds, and no creation time (the epoch).
    pub fn time(&self, which: TimeField) -> Timestamp {
        let c = self.core();
        let (sec, extra) = match which {
            TimeField::Access => (c.atime, c.atime_extra),
            TimeField::Change => (c.ctime, c.ctime_extra),
            TimeField::Modify => (c.mtime, c.mtime_extra),
            TimeField::Create => (c.crtime, c.crtime_extra),
        };
        decode_time(sec.get(), extra.get())
    }

    /// Store one of the times; what the inode has no field for is dropped.
    pub fn set_time(&mut self, which: TimeField, t: Timestamp) {
        let (sec, extra) = encode_time(t);
        let (sec, extra) = (U32::new(sec), U32::new(extra));
        self.update(|c| match which {
            TimeField::Access => (c.atime, c.atime_extra) = (sec, extra),
            TimeField::Change => (c.ctime, c.ctime_extra) = (sec, extra),
            TimeField::Modify => (c.mtime, c.mtime_extra) = (sec, extra),
            TimeField::Create => (c.crtime, c.crtime_extra) = (sec, extra),
        });
    }

    /// Device numbers (major, minor) of a device inode, from whichever of the two encodings is used.
    pub fn device_numbers(&self) -> (u32, u32) {
        let block = self.block_area();
        let word = |i: usize| match block.get(i..) {
            Some(&[a, b, c, d, ..]) => u32::from_le_bytes([a, b, c, d]),
            _ => 0,
        };
        let old = word(0);
        if old != 0 {
            return ((old >> 8) & 0xff, old & 0xff);
        }
        let new = word(4);
        ((new >> 8) & 0xfff, (new & 0xff) | ((new >> 12) & 0xfff00))
    }

    /// Store device numbers: the old encoding where both fit 8 bits, else the new one.
    pub fn set_device_numbers(&mut self, major: u32, minor: u32) {
        let (first, second) =
            if major < 256 && minor < 256 { ((major << 8) | minor, 0) } else { (0, encode_device(major, minor)) };
        self.update(|c| {
            c.block = [0; BLOCK_LEN];
            for (to, from) in c.block.iter_mut().zip(first.to_le_bytes().into_iter().chain(second.to_le_bytes())) {
                *to = from;
            }
        });
    }

    fn has_wide_checksum(&self) -> bool {
        self.raw.len() > GOOD_OLD_SIZE && self.stored_extra_isize() >= EXTRA_CSUM
    }

    /// The stored checksum: 32 bits where the extra fields reach far enough, else 16.
    pub fn stored_checksum(&self) -> u32 {
        let at = |i: usize| match self.raw.get(i..) {
            Some(&[lo, hi, ..]) => u32::from(u16::from_le_bytes([lo, hi])),
            _ => 0,
        };
        let hi = if self.has_wide_checksum() { at(CHECKSUM_HI_AT) } else { 0 };
        at(CHECKSUM_LO_AT) | (hi << 16)
    }

    /// The checksum that the slot should have; `None` without `metadata_csum`.
    #[doc(alias = "ext4_inode_csum")]
    pub fn computed_checksum(&self, csums: Checksums, ino: Ino) -> Option<u32> {
        let mut crc = csums.inode_seed(ino, self.core().generation.get())?;
        let end_lo = CHECKSUM_LO_AT.checked_add(2)?;
        crc = crc32c(crc, self.raw.get(..CHECKSUM_LO_AT)?);
        crc = crc32c(crc, &[0, 0]);
        if self.has_wide_checksum() {
            crc = crc32c(crc, self.raw.get(end_lo..CHECKSUM_HI_AT)?);
            crc = crc32c(crc, &[0, 0]);
            crc = crc32c(crc, self.raw.get(CHECKSUM_HI_AT.checked_add(2)?..)?);
            Some(crc)
        } else {
            crc = crc32c(crc, self.raw.get(end_lo..)?);
            Some(crc & 0xffff)
        }
    }

    /// Compare the stored checksum, where there is one.
    pub fn verify_checksum(&self, csums: Checksums, ino: Ino) -> Result<()> {
        let stored = self.stored_checksum();
        match self.computed_checksum(csums, ino) {
            Some(computed) if computed != stored => {
                let flaw = Flaw::Checksum { of: Structure::Inode, stored, computed };
                Err(Error::corrupt(flaw, Place::inode(ino)))
            }
            _ => Ok(()),
        }
    }

    /// Bring the checksum up to date, where there is one.
    pub fn update_checksum(&mut self, csums: Checksums, ino: Ino) {
        let Some(crc) = self.computed_checksum(csums, ino) else { return };
        let wide = self.has_wide_checksum();
        let mut put = |at: usize, v: u16| {
            for (to, from) in self.raw.iter_mut().skip(at).zip(v.to_le_bytes()) {
                *to = from;
            }
        };
        put(CHECKSUM_LO_AT, crc as u16);
        if wide {
            put(CHECKSUM_HI_AT, (crc >> 16) as u16);
        }
    }
}

/// Seconds (34 bits) and nanoseconds from a time's two words.
#[doc(alias = "ext4_decode_extra_time")]
pub const fn decode_time(sec: u32, extra: u32) -> Timestamp {
    let base = sec as i32 as i64;
    let epoch = (extra & 3) as i64;
    Timestamp { sec: base.saturating_add(epoch << 32), nsec: extra >> 2 }
}

/// A time's two words. Seconds outside 34 bits wrap as the kernel's do.
#[doc(alias = "ext4_encode_extra_time")]
pub const fn encode_time(t: Timestamp) -> (u32, u32) {
    let low = t.sec as i32 as i64;
    let epoch = (t.sec.wrapping_sub(low) >> 32) as u32 & 3;
    (t.sec as u32, epoch | (t.nsec << 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        for size in [128usize, 132, 156, 160, 256, 1024] {
            for extra in [0u16, 4, 28, 32] {
                let mut bytes: Vec<u8> = (0..size).map(|i| (i * 31 + 5) as u8).collect();
                if size > 129 {
                    bytes[128..130].copy_from_slice(&extra.to_le_bytes());
                }
                let mut inode = Inode::decode(&bytes).unwrap();
                inode.update(|_| ());
                assert_eq!(inode.as_bytes(), bytes, "size {size}, extra {extra}");
            }
        }
        assert!(Inode::decode(&[0; 127]).is_err());
    }

    #[test]
    fn fields_beyond_extra_isize_are_not_written() {
        let mut inode = Inode::decode(&[0; 256]).unwrap();
        inode.update(|c| c.extra_isize = U16::new(4));
        inode.set_time(TimeField::Modify, Timestamp { sec: 5, nsec: 6 });
        assert_eq!(inode.time(TimeField::Modify), Timestamp::from_secs(5));
        assert!(inode.as_bytes()[132..].iter().all(|b| *b == 0));
    }

    #[test]
    fn times_cover_1901_to_2446() {
        for sec in [-0x8000_0000, -1, 0, 0x7fff_ffff, 0x8000_0000, 0x1_7fff_ffff, 0x3_7fff_ffff] {
            let t = Timestamp { sec, nsec: 999_999_999 };
            let (a, b) = encode_time(t);
            assert_eq!(decode_time(a, b), t);
        }
    }

    #[test]
    fn devices_use_the_old_encoding_where_it_fits() {
        for (major, minor) in [(8, 1), (255, 255), (259, 3), (1, 256), (4095, 0xf_ffff)] {
            let mut i = Inode::empty(256);
            i.set_device_numbers(major, minor);
            assert_eq!(i.device_numbers(), (major, minor));
            assert_eq!(i.block_area()[0] == 0 && i.block_area()[1] == 0, major > 255 || minor > 255);
        }
    }

    #[test]
    fn the_checksum_is_wide_only_with_the_field() {
        let csums = Checksums::Metadata { seed: 1 };
        let mut i = Inode::empty(256);
        i.update_checksum(csums, Ino(12));
        i.verify_checksum(csums, Ino(12)).unwrap();
        assert!(i.verify_checksum(csums, Ino(13)).is_err());
        let mut old = Inode::empty(128);
        old.update_checksum(csums, Ino(12));
        assert!(old.stored_checksum() <= 0xffff);
        old.verify_checksum(csums, Ino(12)).unwrap();
    }

    #[test]
    fn impossible_extra_isize() {
        let mut i = Inode::empty(256);
        i.as_bytes_mut()[128] = 0xff;
        assert!(i.extra_isize().is_err());
        assert!(i.xattr_area().is_empty());
    }
}
