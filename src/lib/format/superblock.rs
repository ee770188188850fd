//! The superblock: 1024 bytes at byte 1024 of the filesystem, with backups at the start of some groups.
//! Little endian. Kernel name: `struct ext4_super_block`.
//!
//! [`Superblock`] is the bytes as they are; nothing is validated here beyond the magic number and the checksum.
//! [`crate::volume`] validates once and derives the geometry.

use bitflags::bitflags;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::csum::{Checksums, crc32c};
use super::features::{Compat, Features, Incompat, RoCompat};
use super::{U16, U32, U64};
use crate::env::Timestamp;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::units::Group;

/// Byte offset of the primary superblock from the start of the filesystem.
pub const OFFSET: u64 = 1024;
/// Largest `log_block_size`: 64 KiB.
pub const MAX_LOG_BLOCK_SIZE: u32 = 6;
/// Size of a superblock in bytes.
pub const SIZE: usize = 1024;
/// Default mount options (`s_default_mount_opts`): bit, name. The bits 0x60 are the data mode.
pub const MOUNT_OPTIONS: [(u32, &str); 9] = [
    (0x1, "debug"),
    (0x2, "bsdgroups"),
    (0x4, "user_xattr"),
    (0x8, "acl"),
    (0x10, "uid16"),
    (0x100, "nobarrier"),
    (0x200, "block_validity"),
    (0x400, "discard"),
    (0x800, "nodelalloc"),
];
/// Data modes among the default mount options.
pub const DATA_MODES: [(u32, &str); 3] =
    [(0x20, "journal_data"), (0x40, "journal_data_ordered"), (0x60, "journal_data_writeback")];
/// The magic number.
#[doc(alias = "EXT4_SUPER_MAGIC")]
pub const MAGIC: u16 = 0xef53;
/// Inode size of revision 0 filesystems, bytes.
pub const GOOD_OLD_INODE_SIZE: u16 = 128;
/// Size of a group descriptor without `64bit`, bytes.
pub const MIN_DESC_SIZE: u16 = 32;
/// Size of a group descriptor with `64bit` that this library writes, bytes.
pub const DESC_SIZE_64BIT: u16 = 64;

bitflags! {
    /// `s_state`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct State: u16 {
        /// Unmounted cleanly.
        const VALID = 1;
        /// Errors were seen.
        const ERROR = 2;
        /// Orphans are being recovered.
        const ORPHAN = 4;
        /// Fast commits are being replayed.
        const FC_REPLAY = 0x20;
        const _ = !0;
    }
}

bitflags! {
    /// `s_flags`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SbFlags: u32 {
        /// Directory hashes treat names as signed characters.
        const SIGNED_HASH = 1;
        /// Directory hashes treat names as unsigned characters.
        const UNSIGNED_HASH = 2;
        /// In-development filesystem.
        const TEST_FILESYS = 4;
        /// Snapshot of another filesystem.
        const IS_SNAPSHOT = 0x10;
        /// The snapshot's superblock needs fixing.
        const FIX_SNAPSHOT = 0x20;
        /// The snapshot's exclude bitmap needs fixing.
        const FIX_EXCLUDE = 0x40;
        const _ = !0;
    }
}

/// The superblock's bytes.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "ext4_super_block")]
pub struct Superblock {
    /// Total inodes.
    pub inodes_count: U32,
    /// Blocks, low 32 bits.
    pub blocks_count_lo: U32,
    /// Blocks reserved for the super-user, low 32 bits.
    pub r_blocks_count_lo: U32,
    /// Free blocks (clusters × ratio), low 32 bits.
    pub free_blocks_count_lo: U32,
    /// Free inodes.
    pub free_inodes_count: U32,
    /// First block of group 0: 1 with 1 KiB blocks (and no bigalloc), else 0.
    pub first_data_block: U32,
    /// Block size is `1024 << log_block_size` bytes.
    pub log_block_size: U32,
    /// Cluster size is `1024 << log_cluster_size` bytes.
    pub log_cluster_size: U32,
    /// Blocks per group.
    pub blocks_per_group: U32,
    /// Clusters per group.
    pub clusters_per_group: U32,
    /// Inodes per group.
    pub inodes_per_group: U32,
    /// Last mount time, seconds, low 32 bits.
    pub mtime: U32,
    /// Last write time, seconds, low 32 bits.
    pub wtime: U32,
    /// Mounts since the last check.
    pub mnt_count: U16,
    /// Mounts after which a check is due.
    pub max_mnt_count: U16,
    /// `0xef53`.
    pub magic: U16,
    /// State flags; see [`State`].
    pub state: U16,
    /// What the kernel does on an error: 1 continue, 2 remount read-only, 3 panic.
    pub errors: U16,
    /// Minor revision.
    pub minor_rev_level: U16,
    /// Last check time, seconds, low 32 bits.
    pub lastcheck: U32,
    /// Longest time between checks, seconds.
    pub checkinterval: U32,
    /// Operating system that made it: 0 Linux, 1 Hurd, 2 Masix, 3 FreeBSD, 4 Lites.
    pub creator_os: U32,
    /// Revision: 0 (fixed inode size, no features) or 1.
    pub rev_level: U32,
    /// User that may use reserved blocks, low 16 bits.
    pub def_resuid: U16,
    /// Group that may use reserved blocks, low 16 bits.
    pub def_resgid: U16,
    /// First inode that is not reserved.
    pub first_ino: U32,
    /// Inode size in bytes.
    pub inode_size: U16,
    /// Group that this copy of the superblock is in.
    pub block_group_nr: U16,
    /// Compatible features.
    pub feature_compat: U32,
    /// Incompatible features.
    pub feature_incompat: U32,
    /// Read-only compatible features.
    pub feature_ro_compat: U32,
    /// UUID of the filesystem.
    pub uuid: [u8; 16],
    /// Label, NUL-padded.
    pub volume_name: [u8; 16],
    /// Directory last mounted on, NUL-padded.
    pub last_mounted: [u8; 64],
    /// Compression (unused).
    pub algorithm_usage_bitmap: U32,
    /// Blocks to preallocate for files (unused).
    pub prealloc_blocks: u8,
    /// Blocks to preallocate for directories (unused).
    pub prealloc_dir_blocks: u8,
    /// Reserved group descriptor blocks per group.
    pub reserved_gdt_blocks: U16,
    /// UUID of the external journal.
    pub journal_uuid: [u8; 16],
    /// Inode of the journal.
    pub journal_inum: U32,
    /// Device number of the external journal.
    pub journal_dev: U32,
    /// Head of the orphan inode list.
    pub last_orphan: U32,
    /// Seed of the directory hash.
    pub hash_seed: [U32; 4],
    /// Default directory hash.
    pub def_hash_version: u8,
    /// 1 where `jnl_blocks` holds a copy of the journal inode's map.
    pub jnl_backup_type: u8,
    /// Size of a group descriptor in bytes with `64bit`.
    pub desc_size: U16,
    /// Default mount options.
    pub default_mount_opts: U32,
    /// First meta block group.
    pub first_meta_bg: U32,
    /// Creation time, seconds, low 32 bits.
    pub mkfs_time: U32,
    /// Copy of the journal inode's `block` array, then its size (high, low).
    pub jnl_blocks: [U32; 17],
    /// Blocks, high 32 bits.
    pub blocks_count_hi: U32,
    /// Reserved blocks, high 32 bits.
    pub r_blocks_count_hi: U32,
    /// Free blocks, high 32 bits.
    pub free_blocks_count_hi: U32,
    /// Extra inode bytes that all inodes have.
    pub min_extra_isize: U16,
    /// Extra inode bytes that new inodes should have.
    pub want_extra_isize: U16,
    /// Miscellaneous flags; see [`SbFlags`].
    pub flags: U32,
    /// RAID stride, blocks.
    pub raid_stride: U16,
    /// Seconds between MMP updates.
    pub mmp_update_interval: U16,
    /// Block of the MMP structure.
    pub mmp_block: U64,
    /// RAID stripe width, blocks.
    pub raid_stripe_width: U32,
    /// Flexible group size is `1 << log_groups_per_flex` groups.
    pub log_groups_per_flex: u8,
    /// Metadata checksum algorithm: 1 is crc32c.
    pub checksum_type: u8,
    /// Encryption version (unused).
    pub encryption_level: u8,
    /// Padding.
    pub reserved_pad: u8,
    /// KiB written over the filesystem's life.
    pub kbytes_written: U64,
    /// Snapshot inode (unused).
    pub snapshot_inum: U32,
    /// Snapshot id (unused).
    pub snapshot_id: U32,
    /// Blocks reserved for the snapshot (unused).
    pub snapshot_r_blocks_count: U64,
    /// Snapshot list head (unused).
    pub snapshot_list: U32,
    /// Errors seen.
    pub error_count: U32,
    /// First error: time, seconds, low 32 bits.
    pub first_error_time: U32,
    /// First error: inode.
    pub first_error_ino: U32,
    /// First error: block.
    pub first_error_block: U64,
    /// First error: function name, NUL-padded.
    pub first_error_func: [u8; 32],
    /// First error: line.
    pub first_error_line: U32,
    /// Last error: time, seconds, low 32 bits.
    pub last_error_time: U32,
    /// Last error: inode.
    pub last_error_ino: U32,
    /// Last error: line.
    pub last_error_line: U32,
    /// Last error: block.
    pub last_error_block: U64,
    /// Last error: function name, NUL-padded.
    pub last_error_func: [u8; 32],
    /// Default mount options as text, NUL-padded.
    pub mount_opts: [u8; 64],
    /// Inode of the user quota file.
    pub usr_quota_inum: U32,
    /// Inode of the group quota file.
    pub grp_quota_inum: U32,
    /// Clusters of static metadata, or 0 where not computed.
    pub overhead_clusters: U32,
    /// Groups of the two backup superblocks with `sparse_super2`.
    pub backup_bgs: [U32; 2],
    /// Encryption algorithms in use.
    pub encrypt_algos: [u8; 4],
    /// Salt for encryption.
    pub encrypt_pw_salt: [u8; 16],
    /// Inode of lost+found (unused).
    pub lpf_ino: U32,
    /// Inode of the project quota file.
    pub prj_quota_inum: U32,
    /// Checksum seed with `metadata_csum_seed`.
    pub checksum_seed: U32,
    /// High 8 bits of `wtime`.
    pub wtime_hi: u8,
    /// High 8 bits of `mtime`.
    pub mtime_hi: u8,
    /// High 8 bits of `mkfs_time`.
    pub mkfs_time_hi: u8,
    /// High 8 bits of `lastcheck`.
    pub lastcheck_hi: u8,
    /// High 8 bits of `first_error_time`.
    pub first_error_time_hi: u8,
    /// High 8 bits of `last_error_time`.
    pub last_error_time_hi: u8,
    /// First error: code.
    pub first_error_errcode: u8,
    /// Last error: code.
    pub last_error_errcode: u8,
    /// File name encoding with `casefold`: 1 is UTF-8 12.1.
    pub encoding: U16,
    /// Encoding flags: bit 0 is strict.
    pub encoding_flags: U16,
    /// Inode of the orphan file.
    pub orphan_file_inum: U32,
    /// User that may use reserved blocks, high 16 bits.
    pub def_resuid_hi: U16,
    /// Group that may use reserved blocks, high 16 bits.
    pub def_resgid_hi: U16,
    /// Unused; kept.
    pub reserved: [U32; 93],
    /// crc32c of all bytes before it.
    pub checksum: U32,
}

const _: () = {
    assert!(size_of::<Superblock>() == SIZE);
    assert!(std::mem::offset_of!(Superblock, magic) == 0x38);
    assert!(std::mem::offset_of!(Superblock, uuid) == 0x68);
    assert!(std::mem::offset_of!(Superblock, hash_seed) == 0xec);
    assert!(std::mem::offset_of!(Superblock, blocks_count_hi) == 0x150);
    assert!(std::mem::offset_of!(Superblock, mmp_block) == 0x168);
    assert!(std::mem::offset_of!(Superblock, error_count) == 0x194);
    assert!(std::mem::offset_of!(Superblock, mount_opts) == 0x200);
    assert!(std::mem::offset_of!(Superblock, checksum_seed) == 0x270);
    assert!(std::mem::offset_of!(Superblock, orphan_file_inum) == 0x280);
    assert!(std::mem::offset_of!(Superblock, checksum) == 0x3fc);
};

impl std::fmt::Debug for Superblock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Superblock")
            .field("blocks_count", &self.blocks_count())
            .field("inodes_count", &self.inodes_count.get())
            .field("log_block_size", &self.log_block_size.get())
            .field("features", &self.features())
            .finish_non_exhaustive()
    }
}

impl Default for Superblock {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

const fn join(lo: U32, hi: U32) -> u64 {
    lo.get() as u64 | ((hi.get() as u64) << 32)
}

const fn split(v: u64) -> (U32, U32) {
    (U32::new(v as u32), U32::new((v >> 32) as u32))
}

macro_rules! wide {
    ($(#[$doc:meta])* $get:ident, $set:ident, $lo:ident, $hi:ident) => {
        $(#[$doc])*
        pub const fn $get(&self) -> u64 {
            if Incompat::from_bits_retain(self.feature_incompat.get()).contains(Incompat::BIT64) {
                join(self.$lo, self.$hi)
            } else {
                self.$lo.get() as u64
            }
        }

        #[doc = concat!("Store what [`Superblock::", stringify!($get), "`] returns.")]
        pub const fn $set(&mut self, v: u64) {
            (self.$lo, self.$hi) = split(v);
        }
    };
}

macro_rules! time {
    ($(#[$doc:meta])* $get:ident, $set:ident, $lo:ident, $hi:ident) => {
        $(#[$doc])*
        pub const fn $get(&self) -> Timestamp {
            Timestamp::from_secs((self.$lo.get() as i64) | ((self.$hi as i64) << 32))
        }

        #[doc = concat!("Store what [`Superblock::", stringify!($get), "`] returns; 40 bits of seconds are kept.")]
        pub const fn $set(&mut self, t: Timestamp) {
            self.$lo = U32::new(t.sec as u32);
            self.$hi = (t.sec >> 32) as u8;
        }
    };
}

impl Superblock {
    /// Decode `bytes` (at least [`SIZE`]). Fails on a wrong magic number, and on a wrong checksum where the
    /// superblock says that it has one.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let sb = Self::decode_unchecked(bytes)?;
        if sb.magic.get() != MAGIC {
            return Err(Error::NotExt4 { offset: OFFSET, found: sb.magic.get() });
        }
        sb.verify_checksum()?;
        Ok(sb)
    }

    /// Decode `bytes` as they are.
    pub fn decode_unchecked(bytes: &[u8]) -> Result<Self> {
        match Self::read_from_prefix(bytes) {
            Ok((sb, _)) => Ok(sb),
            Err(_) => Err(Error::corrupt(
                Flaw::Short { of: Structure::Superblock, need: SIZE as u64, have: bytes.len() as u64 },
                Place::FS,
            )),
        }
    }

    /// The bytes to store, with the checksum brought up to date where the filesystem has one.
    pub fn encode(&self) -> [u8; SIZE] {
        let mut sb = self.clone();
        sb.update_checksum();
        zerocopy::transmute!(sb)
    }

    /// The checksum that the bytes should have.
    pub fn computed_checksum(&self) -> u32 {
        let bytes = self.as_bytes();
        crc32c(!0, bytes.get(..std::mem::offset_of!(Self, checksum)).unwrap_or(bytes))
    }

    /// Compare the stored checksum, where the filesystem has one.
    pub fn verify_checksum(&self) -> Result<()> {
        if !self.features().ro_compat.contains(RoCompat::METADATA_CSUM) {
            return Ok(());
        }
        let (stored, computed) = (self.checksum.get(), self.computed_checksum());
        if stored == computed {
            return Ok(());
        }
        Err(Error::corrupt(Flaw::Checksum { of: Structure::Superblock, stored, computed }, Place::FS))
    }

    /// Bring the checksum up to date, where the filesystem has one.
    pub fn update_checksum(&mut self) {
        if self.features().ro_compat.contains(RoCompat::METADATA_CSUM) {
            self.checksum = U32::new(self.computed_checksum());
        }
    }

    /// The feature words. A revision 0 superblock has none.
    pub const fn features(&self) -> Features {
        Features {
            compat: Compat::from_bits_retain(self.feature_compat.get()),
            incompat: Incompat::from_bits_retain(self.feature_incompat.get()),
            ro_compat: RoCompat::from_bits_retain(self.feature_ro_compat.get()),
        }
    }

    /// Say whether the journal holds what is not home.
    #[doc(alias = "needs_recovery")]
    pub fn set_needs_recovery(&mut self, yes: bool) {
        let mut features = self.features();
        features.incompat.set(Incompat::RECOVER, yes);
        self.set_features(features);
    }

    /// The copy of it that `group` holds: of a filesystem that is neither clean nor to be recovered, since nobody keeps its state.
    #[must_use]
    #[doc(alias = "ext2fs_flush2")]
    pub fn backup(&self, group: Group) -> Self {
        let mut copy = self.clone();
        copy.block_group_nr = U16::new(u16::try_from(group.0).unwrap_or(u16::MAX));
        copy.state = U16::new(self.state_flags().difference(State::VALID).bits());
        copy.set_needs_recovery(false);
        copy
    }

    /// Store the feature words.
    pub const fn set_features(&mut self, f: Features) {
        self.feature_compat = U32::new(f.compat.bits());
        self.feature_incompat = U32::new(f.incompat.bits());
        self.feature_ro_compat = U32::new(f.ro_compat.bits());
    }

    wide!(
        /// Blocks of the filesystem.
        blocks_count, set_blocks_count, blocks_count_lo, blocks_count_hi
    );
    wide!(
        /// Blocks reserved for the super-user.
        r_blocks_count, set_r_blocks_count, r_blocks_count_lo, r_blocks_count_hi
    );
    wide!(
        /// Free blocks.
        free_blocks_count, set_free_blocks_count, free_blocks_count_lo, free_blocks_count_hi
    );
    time!(
        /// Last mount.
        mount_time, set_mount_time, mtime, mtime_hi
    );
    time!(
        /// Last write.
        write_time, set_write_time, wtime, wtime_hi
    );
    time!(
        /// Creation.
        created, set_created, mkfs_time, mkfs_time_hi
    );
    time!(
        /// Last check.
        check_time, set_check_time, lastcheck, lastcheck_hi
    );

    /// State flags.
    pub const fn state_flags(&self) -> State {
        State::from_bits_retain(self.state.get())
    }

    /// Miscellaneous flags.
    pub const fn misc_flags(&self) -> SbFlags {
        SbFlags::from_bits_retain(self.flags.get())
    }

    /// Size of an inode in bytes, as stored (128 in revision 0).
    pub const fn inode_size_bytes(&self) -> u16 {
        if self.rev_level.get() == 0 { GOOD_OLD_INODE_SIZE } else { self.inode_size.get() }
    }

    /// Size of a group descriptor in bytes, as stored (32 without `64bit`).
    pub const fn desc_size_bytes(&self) -> u16 {
        if self.features().incompat.contains(Incompat::BIT64) { self.desc_size.get() } else { MIN_DESC_SIZE }
    }

    /// First inode that is not reserved (11 in revision 0).
    pub const fn first_free_ino(&self) -> u32 {
        if self.rev_level.get() == 0 { 11 } else { self.first_ino.get() }
    }

    /// How metadata is protected, with the seed.
    pub fn checksums(&self) -> Checksums {
        let f = self.features();
        if f.ro_compat.contains(RoCompat::METADATA_CSUM) {
            let seed = if f.incompat.contains(Incompat::CSUM_SEED) {
                self.checksum_seed.get()
            } else {
                crc32c(!0, &self.uuid)
            };
            Checksums::Metadata { seed }
        } else if f.ro_compat.contains(RoCompat::GDT_CSUM) {
            Checksums::Gdt { uuid: self.uuid }
        } else {
            Checksums::None
        }
    }
}

/// The text of a NUL-padded field.
pub fn padded_text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        let mut bytes = [0u8; SIZE];
        for (i, b) in bytes.iter_mut().enumerate() {
            *b = (i * 7 + i / 256) as u8;
        }
        let mut sb = Superblock::decode_unchecked(&bytes).unwrap();
        sb.magic = U16::new(MAGIC);
        sb.set_features(Features { ro_compat: RoCompat::METADATA_CSUM, incompat: Incompat::BIT64, ..sb.features() });
        sb
    }

    #[test]
    fn every_byte_survives() {
        let bytes = sample().encode();
        assert_eq!(Superblock::decode(&bytes).unwrap().encode(), bytes);
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let mut bytes = sample().encode();
        bytes[700] ^= 4;
        assert!(matches!(
            Superblock::decode(&bytes),
            Err(Error::Corrupt { what: Flaw::Checksum { of: Structure::Superblock, .. }, .. })
        ));
    }

    #[test]
    fn short_input_is_an_error() {
        assert!(Superblock::decode(&[0; 1023]).is_err());
    }

    #[test]
    fn counts_use_the_high_half_only_with_64bit() {
        let mut sb = sample();
        sb.set_blocks_count(0x1_2345_6789);
        assert_eq!(sb.blocks_count(), 0x1_2345_6789);
        sb.set_features(Features { incompat: Incompat::empty(), ..sb.features() });
        assert_eq!(sb.blocks_count(), 0x2345_6789);
    }
}
