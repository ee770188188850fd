//! What a filesystem to be made shall be like: everything that mke2fs takes, as values.
//!
//! [`Options`] is what was asked for; most of it is optional and means "as mke2fs 1.47.4 would". Sizes are bytes unless a
//! name says otherwise. UUID, hash seed and the current time have no default: the caller brings them, so that the same
//! options make the same bytes.

use super::conf::{Conf, PROFILES};
use crate::env::Timestamp;
use crate::error::{Error, FeatureBit, FeatureWord, Result};
use crate::format::dirhash::HashVersion;
use crate::format::features::Features;

/// Default mount options `user_xattr` and `acl`.
const DEFAULT_MOUNT_OPTS: u32 = 0x4 | 0x8;

/// Which filesystem: decides the default features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FsType {
    /// No journal, indirect block maps.
    Ext2,
    /// With a journal.
    Ext3,
    /// All of today's defaults.
    #[default]
    Ext4,
}

impl FsType {
    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
        }
    }

    /// The type that `-t` names.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for any other name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "ext2" => Ok(Self::Ext2),
            "ext3" => Ok(Self::Ext3),
            "ext4" => Ok(Self::Ext4),
            _ => Err(invalid("filesystem type", name, "ext2, ext3 or ext4")),
        }
    }
}

/// How many blocks there shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many units of the block size; of 1024 bytes where no block size is asked for.
    Units(u64),
    /// As many as fit these bytes, in whole host pages (4096).
    Device(u64),
}

/// A length, either way it can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// In blocks of the filesystem.
    Blocks(u64),
    /// In bytes.
    Bytes(u64),
}

impl Amount {
    /// The amount that an argument names: a number of blocks, or a number of bytes with a suffix as in [`parse_units`].
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for anything else, zero and overflow.
    pub fn parse(text: &str) -> Result<Self> {
        match parse_units(text, 1)? {
            n if text.ends_with(|c: char| c.is_ascii_digit()) => Ok(Self::Blocks(n)),
            n => Ok(Self::Bytes(n)),
        }
    }

    /// In blocks, rounded down.
    pub const fn blocks(self, block_size: u32) -> u64 {
        match self {
            Self::Blocks(n) => n,
            Self::Bytes(n) => n / block_size as u64,
        }
    }
}

/// The usage that a filesystem of `units` blocks of `unit` bytes has where none is asked for.
pub(crate) const fn usage_of_size(units: u64, unit: u64) -> &'static str {
    let meg = (1 << 20) / unit;
    if units < 3 * meg {
        "floppy"
    } else if units < 512 * meg {
        "small"
    } else if units < 4 * 1024 * 1024 * meg {
        "default"
    } else if units < 16 * 1024 * 1024 * meg {
        "big"
    } else {
        "huge"
    }
}

/// What the kernel does when it finds an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Go on.
    #[default]
    Continue,
    /// Remount read-only.
    ReadOnly,
    /// Panic.
    Panic,
}

/// The journal's size and place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalOptions {
    /// A journal is wanted even where the type has none (`-j`, `-J size=`).
    pub wanted: bool,
    /// Size in MiB, without the fast-commit area; by filesystem size where `None`.
    pub size_mib: Option<u32>,
    /// Size of the fast-commit area in KiB.
    pub fast_commit_kib: Option<u32>,
    /// Where to start looking for room; the middle of the filesystem where `None`.
    pub location: Option<Amount>,
    /// A journal on a device of its own, instead of one inside.
    pub external: Option<ExternalJournal>,
}

/// A journal device that a filesystem is to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternalJournal {
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Its block size in bytes, which the filesystem must share.
    pub block_size: u32,
    /// The kernel's number of the device, as the superblock stores it; 0 where it is a file.
    pub number: u32,
}

/// Which quotas get a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaTypes {
    /// Per user.
    pub user: bool,
    /// Per group.
    pub group: bool,
    /// Per project.
    pub project: bool,
}

impl Default for QuotaTypes {
    fn default() -> Self {
        Self { user: true, group: true, project: false }
    }
}

/// One change of the feature set, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureEdit {
    /// Drop all features so far.
    None,
    /// Switch one on.
    Set(FeatureBit),
    /// Switch one off.
    Clear(FeatureBit),
}

impl FeatureEdit {
    /// The changes that `-O` names: `a,^b,none`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a feature that does not exist or that cannot be chosen when a filesystem is made.
    pub fn parse_list(text: &str) -> Result<Vec<Self>> {
        let mut out = Vec::new();
        for word in text.split([',', ' ', '\t']).filter(|w| !w.is_empty()) {
            if word.eq_ignore_ascii_case("none") {
                out.push(Self::None);
                continue;
            }
            let (name, on) = match word.strip_prefix(['-', '^']) {
                Some(rest) => (rest, false),
                None => (word.strip_prefix('+').unwrap_or(word), true),
            };
            let bit = Features::parse(name).filter(|b| is_choosable(*b));
            let bit = bit.ok_or_else(|| invalid("feature", word, "a feature that a new filesystem can have"))?;
            out.push(if on { Self::Set(bit) } else { Self::Clear(bit) });
        }
        Ok(out)
    }

    /// Apply the change.
    pub fn apply(self, features: &mut Features) {
        match self {
            Self::None => *features = Features::default(),
            Self::Set(bit) => features.set(bit, true),
            Self::Clear(bit) => features.set(bit, false),
        }
    }
}

/// Whether mke2fs lets one choose the feature.
fn is_choosable(bit: FeatureBit) -> bool {
    let mask: u32 = match bit.word {
        // has_journal, ext_attr, resize_inode, dir_index, sparse_super2, fast_commit, stable_inodes, orphan_file
        FeatureWord::Compat => 0x1e3c,
        // filetype, journal_dev, meta_bg, extent, 64bit, mmp, flex_bg, ea_inode, metadata_csum_seed, large_dir,
        // inline_data, encrypt, casefold
        FeatureWord::Incompat => 0x3_e7da,
        // sparse_super, large_file, huge_file, uninit_bg, dir_nlink, extra_isize, quota, bigalloc, metadata_csum,
        // project, verity
        FeatureWord::RoCompat => 0xa77b,
    };
    mask >> bit.bit & 1 == 1
}

/// What to make. `Options::new` is mke2fs's defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which filesystem (`-t`).
    pub fs_type: FsType,
    /// What for (`-T`), names that `conf` knows; by size where empty.
    pub usages: Vec<String>,
    /// Defaults by type and usage.
    pub conf: Conf,
    /// How big.
    pub size: Size,
    /// Block size (`-b`): a power of two from 1024 to 65536. Negative in mke2fs means "at least": see `min_block_size`.
    pub block_size: Option<u32>,
    /// Least block size (`-b -N`).
    pub min_block_size: Option<u32>,
    /// Cluster size (`-C`), with `bigalloc`.
    pub cluster_size: Option<u32>,
    /// Inode size (`-I`).
    pub inode_size: Option<u32>,
    /// Bytes per inode (`-i`).
    pub inode_ratio: Option<u32>,
    /// Number of inodes (`-N`).
    pub inodes: Option<u64>,
    /// Blocks (with `bigalloc`: clusters) per group (`-g`).
    pub blocks_per_group: Option<u32>,
    /// Groups per flexible group (`-G`): a power of two.
    pub flex_bg_size: Option<u32>,
    /// Changes to the default features (`-O`).
    pub features: Vec<FeatureEdit>,
    /// Share of blocks reserved for the super-user, in percent (`-m`), 0 to 50.
    pub reserved_percent: f64,
    /// Label (`-L`), at most 16 bytes.
    pub label: Vec<u8>,
    /// Directory last mounted on (`-M`), at most 64 bytes.
    pub last_mounted: Vec<u8>,
    /// UUID (`-U`).
    pub uuid: [u8; 16],
    /// Seed of directory hashes (`-E hash_seed=`), in the byte order of the superblock's field.
    pub hash_seed: [u8; 16],
    /// The time for everything that is stamped with "now".
    pub now: Timestamp,
    /// Journal (`-j`, `-J`).
    pub journal: JournalOptions,
    /// What the kernel does on errors (`-e`).
    pub on_error: OnError,
    /// Operating system that made it (`-o`): 0 Linux, 1 Hurd, 3 FreeBSD, 4 Lites.
    pub creator_os: u32,
    /// Revision 0: no features, fixed inode size.
    pub revision_0: bool,
    /// RAID chunk per disk in blocks (`-E stride=`).
    pub stride: u32,
    /// RAID stripe in blocks (`-E stripe_width=`).
    pub stripe_width: u32,
    /// Bytes of a group descriptor with `64bit` (`-E desc_size=`).
    pub desc_size: Option<u32>,
    /// What the filesystem can be grown to on-line (`-E resize=`).
    pub resize_to: Option<Amount>,
    /// Backup superblocks with `sparse_super2` (`-E num_backup_sb=`), 0 to 2.
    pub backups: u32,
    /// All bitmaps and inode tables at the start (`-E packed_meta_blocks=1`).
    pub packed_meta_blocks: bool,
    /// Leave inode tables to be zeroed later where they do not read as zeros (`-E lazy_itable_init=`).
    pub lazy_itable_init: bool,
    /// Leave the journal's blocks as they are (`-E lazy_journal_init=`).
    pub lazy_journal_init: bool,
    /// Owner and group of the root directory (`-E root_owner=`); the source's, or the super-user, where `None`.
    pub root_owner: Option<(u32, u32)>,
    /// Permissions of the root directory (`-E root_perms=`); the source's, or 0755, where `None`.
    pub root_perms: Option<u16>,
    /// Blocks that nothing may be put into (`-l`, `-c`); those outside the filesystem do not count.
    pub bad_blocks: Vec<u64>,
    /// Quota files with `quota` (`-E quotatype=`).
    pub quota: QuotaTypes,
    /// Seconds between MMP updates, 0 for the default (`-E mmp_update_interval=`).
    pub mmp_update_interval: u16,
    /// Size of the orphan file (`-E orphan_file_size=`), at most 512 blocks.
    pub orphan_file_size: Option<Amount>,
    /// The encoding of file names is given (`-E encoding=`), which sets `casefold`.
    pub encoding: bool,
    /// Strict file name encoding with `casefold` (`-E encoding_flags=strict`).
    pub strict_encoding: bool,
    /// Hash function of indexed directories.
    pub hash: HashVersion,
    /// `s_default_mount_opts`.
    pub mount_options: u32,
    /// Checked every so many mounts and days (`enable_periodic_fsck` of a configuration).
    pub periodic_check: bool,
    /// Marked as for development only (`-E test_fs`).
    pub test_fs: bool,
}

impl Options {
    /// The defaults of `mke2fs -t ext4` for a size, with the caller's identity and time.
    pub fn new(size: Size, uuid: [u8; 16], hash_seed: [u8; 16], now: Timestamp) -> Self {
        Self {
            fs_type: FsType::Ext4,
            usages: Vec::new(),
            conf: PROFILES.first().and_then(|p| p.conf().ok()).unwrap_or_default(),
            size,
            block_size: None,
            min_block_size: None,
            cluster_size: None,
            inode_size: None,
            inode_ratio: None,
            inodes: None,
            blocks_per_group: None,
            flex_bg_size: None,
            features: Vec::new(),
            reserved_percent: 5.0,
            label: Vec::new(),
            last_mounted: Vec::new(),
            uuid,
            hash_seed,
            now,
            journal: JournalOptions {
                wanted: false,
                size_mib: None,
                fast_commit_kib: None,
                location: None,
                external: None,
            },
            on_error: OnError::Continue,
            creator_os: 0,
            revision_0: false,
            stride: 0,
            stripe_width: 0,
            desc_size: None,
            resize_to: None,
            backups: 2,
            packed_meta_blocks: false,
            lazy_itable_init: true,
            lazy_journal_init: false,
            root_owner: None,
            root_perms: None,
            bad_blocks: Vec::new(),
            quota: QuotaTypes { user: true, group: true, project: false },
            mmp_update_interval: 0,
            orphan_file_size: None,
            encoding: false,
            strict_encoding: false,
            hash: HashVersion::HalfMd4,
            mount_options: DEFAULT_MOUNT_OPTS,
            periodic_check: false,
            test_fs: false,
        }
    }
}

impl Options {
    /// Seconds between MMP updates, with the default filled in.
    pub(crate) const fn mmp_interval(&self) -> u16 {
        if self.mmp_update_interval == 0 { 5 } else { self.mmp_update_interval }
    }
}

/// The size that an argument of mke2fs names: a number of units (the block size, or 1024 where none is given), or with
/// a suffix `s` (512), `k`, `m`, `g`, `t` bytes, rounded down to units.
///
/// # Errors
/// [`Error::InvalidArgument`] for anything else, zero and overflow.
pub fn parse_units(text: &str, unit: u64) -> Result<u64> {
    let bad = || invalid("size", text, "a number of blocks, or a number with one of the suffixes s, k, m, g, t");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let n: u64 = number.parse().map_err(|_| bad())?;
    let scale: u64 = match suffix {
        "" => unit,
        "s" | "S" => 512,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        _ => return Err(bad()),
    };
    n.checked_mul(scale).map(|bytes| bytes / unit).filter(|n| *n != 0).ok_or_else(bad)
}

/// An [`Error::InvalidArgument`].
pub(crate) fn invalid(name: &'static str, value: impl std::fmt::Display, allowed: &'static str) -> Error {
    Error::InvalidArgument { name, value: value.to_string(), allowed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_units() {
        assert_eq!(parse_units("16384", 4096).unwrap(), 16384);
        assert_eq!(parse_units("131072s", 1024).unwrap(), 65536);
        assert_eq!(parse_units("96M", 1024).unwrap(), 98304);
        assert_eq!(parse_units("50000k", 1024).unwrap(), 50000);
        for bad in ["", "0", "k", "1x", "-1", "99999999999t", "1kk"] {
            assert!(parse_units(bad, 1024).is_err(), "{bad}");
        }
    }

    #[test]
    fn features_that_cannot_be_chosen_are_refused() {
        assert!(FeatureEdit::parse_list("needs_recovery").is_err());
        assert!(FeatureEdit::parse_list("compression").is_err());
        assert!(FeatureEdit::parse_list("no_such_thing").is_err());
        assert!(FeatureEdit::parse_list("shared_blocks").is_err());
        let names = "has_journal,ext_attr,resize_inode,dir_index,sparse_super2,fast_commit,stable_inodes,orphan_file,\
                     filetype,journal_dev,meta_bg,extent,64bit,mmp,flex_bg,ea_inode,metadata_csum_seed,large_dir,\
                     inline_data,encrypt,casefold,sparse_super,large_file,huge_file,uninit_bg,dir_nlink,extra_isize,\
                     quota,bigalloc,metadata_csum,project,verity";
        assert_eq!(FeatureEdit::parse_list(names).unwrap().len(), 32);
        let mut f = Features::default();
        for e in FeatureEdit::parse_list("extent,none,^quota,quota").unwrap() {
            e.apply(&mut f);
        }
        assert_eq!(f.bits().map(|b| b.to_string()).collect::<Vec<_>>(), ["quota"]);
    }
}
