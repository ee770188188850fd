//! The feature words of the superblock.
//!
//! Unknown bits stay representable: the types keep whatever the disk says. The `SUPPORTED` masks are promises:
//! a bit in them is one that this library handles in reading (and, for `WRITE`, in changing) an image.

use bitflags::bitflags;

use crate::error::{FeatureBit, FeatureWord};

bitflags! {
    /// `s_feature_compat`: may be ignored by who does not know them.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Compat: u32 {
        /// Directory preallocation.
        const DIR_PREALLOC = 1 << 0;
        /// "Imagic" inodes of AFS servers.
        const IMAGIC_INODES = 1 << 1;
        /// Has a journal.
        const HAS_JOURNAL = 1 << 2;
        /// Extended attributes.
        const EXT_ATTR = 1 << 3;
        /// Reserved group descriptor blocks for growth.
        const RESIZE_INODE = 1 << 4;
        /// Hashed directory indexes.
        const DIR_INDEX = 1 << 5;
        /// Lazy block groups (never used).
        const LAZY_BG = 1 << 6;
        /// Exclude inode (never merged).
        const EXCLUDE_INODE = 1 << 7;
        /// Exclude bitmap (snapshots).
        const EXCLUDE_BITMAP = 1 << 8;
        /// At most two backup superblocks, at places of their own.
        const SPARSE_SUPER2 = 1 << 9;
        /// Fast commits in the journal.
        const FAST_COMMIT = 1 << 10;
        /// Inode numbers and UUID never change.
        const STABLE_INODES = 1 << 11;
        /// Has an orphan file.
        const ORPHAN_FILE = 1 << 12;
        const _ = !0;
    }
}

bitflags! {
    /// `s_feature_incompat`: needed to read.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Incompat: u32 {
        /// Compressed files (never used by ext4).
        const COMPRESSION = 1 << 0;
        /// Directory entries hold the file type.
        const FILETYPE = 1 << 1;
        /// The journal needs recovery.
        const RECOVER = 1 << 2;
        /// This device is an external journal.
        const JOURNAL_DEV = 1 << 3;
        /// Group descriptors live in meta block groups.
        const META_BG = 1 << 4;
        /// Files use extents.
        const EXTENTS = 1 << 6;
        /// 64-bit block numbers and group descriptors of more than 32 bytes.
        const BIT64 = 1 << 7;
        /// Multiple-mount protection.
        const MMP = 1 << 8;
        /// Flexible block groups.
        const FLEX_BG = 1 << 9;
        /// Large extended attribute values in inodes of their own.
        const EA_INODE = 1 << 10;
        /// Data in directory entries (never used by ext4).
        const DIRDATA = 1 << 12;
        /// The checksum seed is stored, not derived from the UUID.
        const CSUM_SEED = 1 << 13;
        /// Directories of more than 2 GiB or three index levels.
        const LARGEDIR = 1 << 14;
        /// Small files inside the inode.
        const INLINE_DATA = 1 << 15;
        /// Encrypted files.
        const ENCRYPT = 1 << 16;
        /// Case-insensitive directories.
        const CASEFOLD = 1 << 17;
        const _ = !0;
    }
}

bitflags! {
    /// `s_feature_ro_compat`: needed to write.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct RoCompat: u32 {
        /// Backup superblocks in groups that are powers of 3, 5 and 7 only.
        const SPARSE_SUPER = 1 << 0;
        /// Files above 2 GiB.
        const LARGE_FILE = 1 << 1;
        /// B-tree directories (never used).
        const BTREE_DIR = 1 << 2;
        /// File sizes counted in filesystem blocks, beyond 2 TiB.
        const HUGE_FILE = 1 << 3;
        /// Group descriptors have a crc16 checksum ("uninit_bg").
        const GDT_CSUM = 1 << 4;
        /// More than 65,000 subdirectories.
        const DIR_NLINK = 1 << 5;
        /// Inodes have extra fields.
        const EXTRA_ISIZE = 1 << 6;
        /// Has snapshots (never merged).
        const HAS_SNAPSHOT = 1 << 7;
        /// Quota files are filesystem metadata.
        const QUOTA = 1 << 8;
        /// Allocation in clusters of several blocks.
        const BIGALLOC = 1 << 9;
        /// All metadata has crc32c checksums.
        const METADATA_CSUM = 1 << 10;
        /// Replica (never merged).
        const REPLICA = 1 << 11;
        /// The image must not be written.
        const READONLY = 1 << 12;
        /// Project quotas.
        const PROJECT = 1 << 13;
        /// Several files may share blocks (written by Android's tools).
        const SHARED_BLOCKS = 1 << 14;
        /// fs-verity files.
        const VERITY = 1 << 15;
        /// The orphan file may hold entries.
        const ORPHAN_PRESENT = 1 << 16;
        const _ = !0;
    }
}

/// The features that this library can read.
pub const READ_INCOMPAT: Incompat = Incompat::FILETYPE
    .union(Incompat::RECOVER)
    .union(Incompat::META_BG)
    .union(Incompat::EXTENTS)
    .union(Incompat::BIT64)
    .union(Incompat::MMP)
    .union(Incompat::FLEX_BG)
    .union(Incompat::EA_INODE)
    .union(Incompat::CSUM_SEED)
    .union(Incompat::LARGEDIR)
    .union(Incompat::INLINE_DATA)
    .union(Incompat::ENCRYPT)
    .union(Incompat::CASEFOLD);

/// The three feature words together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features {
    /// Compatible features.
    pub compat: Compat,
    /// Incompatible features.
    pub incompat: Incompat,
    /// Features that matter for writing.
    pub ro_compat: RoCompat,
}

/// Name of every feature bit as mke2fs and tune2fs spell it: word, bit, name.
pub const NAMES: &[(FeatureWord, u8, &str)] = &[
    (FeatureWord::Compat, 0, "dir_prealloc"),
    (FeatureWord::Compat, 1, "imagic_inodes"),
    (FeatureWord::Compat, 2, "has_journal"),
    (FeatureWord::Compat, 3, "ext_attr"),
    (FeatureWord::Compat, 4, "resize_inode"),
    (FeatureWord::Compat, 5, "dir_index"),
    (FeatureWord::Compat, 6, "lazy_bg"),
    (FeatureWord::Compat, 8, "snapshot_bitmap"),
    (FeatureWord::Compat, 9, "sparse_super2"),
    (FeatureWord::Compat, 10, "fast_commit"),
    (FeatureWord::Compat, 11, "stable_inodes"),
    (FeatureWord::Compat, 12, "orphan_file"),
    (FeatureWord::Incompat, 0, "compression"),
    (FeatureWord::Incompat, 1, "filetype"),
    (FeatureWord::Incompat, 2, "needs_recovery"),
    (FeatureWord::Incompat, 3, "journal_dev"),
    (FeatureWord::Incompat, 4, "meta_bg"),
    (FeatureWord::Incompat, 6, "extent"),
    (FeatureWord::Incompat, 7, "64bit"),
    (FeatureWord::Incompat, 8, "mmp"),
    (FeatureWord::Incompat, 9, "flex_bg"),
    (FeatureWord::Incompat, 10, "ea_inode"),
    (FeatureWord::Incompat, 12, "dirdata"),
    (FeatureWord::Incompat, 13, "metadata_csum_seed"),
    (FeatureWord::Incompat, 14, "large_dir"),
    (FeatureWord::Incompat, 15, "inline_data"),
    (FeatureWord::Incompat, 16, "encrypt"),
    (FeatureWord::Incompat, 17, "casefold"),
    (FeatureWord::RoCompat, 0, "sparse_super"),
    (FeatureWord::RoCompat, 1, "large_file"),
    (FeatureWord::RoCompat, 3, "huge_file"),
    (FeatureWord::RoCompat, 4, "uninit_bg"),
    (FeatureWord::RoCompat, 5, "dir_nlink"),
    (FeatureWord::RoCompat, 6, "extra_isize"),
    (FeatureWord::RoCompat, 7, "snapshot"),
    (FeatureWord::RoCompat, 8, "quota"),
    (FeatureWord::RoCompat, 9, "bigalloc"),
    (FeatureWord::RoCompat, 10, "metadata_csum"),
    (FeatureWord::RoCompat, 11, "replica"),
    (FeatureWord::RoCompat, 12, "read-only"),
    (FeatureWord::RoCompat, 13, "project"),
    (FeatureWord::RoCompat, 14, "shared_blocks"),
    (FeatureWord::RoCompat, 15, "verity"),
    (FeatureWord::RoCompat, 16, "orphan_present"),
];

/// Other spellings that are accepted for a feature.
pub const ALIASES: &[(&str, &str)] =
    &[("extents", "extent"), ("ext_attrs", "ext_attr"), ("gdt_checksum", "uninit_bg"), ("quotas", "quota")];

impl Features {
    fn word(&self, word: FeatureWord) -> u32 {
        match word {
            FeatureWord::Compat => self.compat.bits(),
            FeatureWord::Incompat => self.incompat.bits(),
            FeatureWord::RoCompat => self.ro_compat.bits(),
        }
    }

    /// The bit that a name (or alias, or `FEATURE_I31`-style number) stands for.
    pub fn parse(name: &str) -> Option<FeatureBit> {
        let canonical = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, n)| n);
        if let Some(&(word, bit, n)) = NAMES.iter().find(|(_, _, n)| *n == canonical) {
            return Some(FeatureBit { word, bit, name: Some(n) });
        }
        let rest = name.strip_prefix("FEATURE_")?;
        let word = match rest.get(..1)? {
            "C" => FeatureWord::Compat,
            "I" => FeatureWord::Incompat,
            "R" => FeatureWord::RoCompat,
            _ => return None,
        };
        let bit: u8 = rest.get(1..)?.parse().ok().filter(|b| *b < 32)?;
        Some(bit_name(word, bit))
    }

    /// Switch a bit on or off.
    pub fn set(&mut self, bit: FeatureBit, on: bool) {
        let mask = 1u32.checked_shl(u32::from(bit.bit)).unwrap_or(0);
        match bit.word {
            FeatureWord::Compat => self.compat.set(Compat::from_bits_retain(mask), on),
            FeatureWord::Incompat => self.incompat.set(Incompat::from_bits_retain(mask), on),
            FeatureWord::RoCompat => self.ro_compat.set(RoCompat::from_bits_retain(mask), on),
        }
    }

    /// Whether a bit is set.
    pub fn has(&self, bit: FeatureBit) -> bool {
        self.word(bit.word).checked_shr(u32::from(bit.bit)).is_some_and(|v| v & 1 == 1)
    }

    /// Every bit that is set, in the order that `dumpe2fs` prints them.
    pub fn bits(&self) -> impl Iterator<Item = FeatureBit> + use<> {
        let words = [FeatureWord::Compat, FeatureWord::Incompat, FeatureWord::RoCompat].map(|w| (w, self.word(w)));
        words.into_iter().flat_map(|(word, v)| {
            (0u8..32)
                .filter(move |b| v.checked_shr(u32::from(*b)).is_some_and(|v| v & 1 == 1))
                .map(move |b| bit_name(word, b))
        })
    }

    /// The bits that stand in the way of reading.
    pub fn unreadable(&self) -> Vec<FeatureBit> {
        Self { incompat: self.incompat.difference(READ_INCOMPAT), ..Self::default() }.bits().collect()
    }
}

fn bit_name(word: FeatureWord, bit: u8) -> FeatureBit {
    let name = NAMES.iter().find(|(w, b, _)| *w == word && *b == bit).map(|(_, _, n)| *n);
    FeatureBit { word, bit, name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bits_map_both_ways() {
        for &(word, bit, name) in NAMES {
            let parsed = Features::parse(name).unwrap();
            assert_eq!((parsed.word, parsed.bit), (word, bit));
            let mut f = Features::default();
            f.set(parsed, true);
            assert_eq!(f.bits().collect::<Vec<_>>(), [parsed]);
        }
        assert_eq!(Features::parse("extents").unwrap().bit, 6);
        assert_eq!(Features::parse("FEATURE_I31").unwrap().to_string(), "FEATURE_I31");
        assert!(Features::parse("FEATURE_I32").is_none());
        assert!(Features::parse("nonsense").is_none());
    }
}
