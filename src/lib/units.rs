//! Number spaces of the filesystem, one newtype each.
//!
//! Conversions between spaces (block to byte, block to group, block to cluster) need the geometry of a
//! filesystem and live in [`crate::volume::Geometry`] only. Here are just the types, their textual form and
//! the arithmetic that stays inside one space.

use std::fmt;

macro_rules! number_space {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare number.
            #[inline]
            pub const fn get(self) -> $inner {
                self.0
            }

            /// `self + n`, or `None` beyond the space's range.
            #[inline]
            pub const fn checked_add(self, n: $inner) -> Option<Self> {
                match self.0.checked_add(n) {
                    Some(v) => Some(Self(v)),
                    None => None,
                }
            }

            /// `self + n`, clamped to the end of the space.
            #[inline]
            #[must_use]
            pub const fn saturating_add(self, n: $inner) -> Self {
                Self(self.0.saturating_add(n))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            #[inline]
            fn from(v: $inner) -> Self {
                Self(v)
            }
        }
    };
}

number_space! {
    /// A filesystem block number, in units of the block size, from the start of the filesystem.
    #[doc(alias = "ext4_fsblk_t")]
    Fsblk(u64)
}
number_space! {
    /// A logical block of a file, in units of the block size, from the start of the file.
    #[doc(alias = "ext4_lblk_t")]
    Lblk(u32)
}
number_space! {
    /// A cluster number: the unit of allocation (one block, or `2^n` blocks with bigalloc).
    Cluster(u64)
}
number_space! {
    /// A block group number.
    #[doc(alias = "ext4_group_t")]
    Group(u32)
}
number_space! {
    /// An inode number. Inode 0 does not exist; the root directory is 2.
    Ino(u32)
}
number_space! {
    /// A journal transaction id; wraps around.
    #[doc(alias = "tid_t")]
    Tid(u32)
}

impl Ino {
    /// Bad-blocks inode.
    #[doc(alias = "EXT4_BAD_INO")]
    pub const BAD: Self = Self(1);
    /// Root directory.
    #[doc(alias = "EXT4_ROOT_INO")]
    pub const ROOT: Self = Self(2);
    /// User quota file.
    #[doc(alias = "EXT4_USR_QUOTA_INO")]
    pub const USR_QUOTA: Self = Self(3);
    /// Group quota file.
    #[doc(alias = "EXT4_GRP_QUOTA_INO")]
    pub const GRP_QUOTA: Self = Self(4);
    /// Boot loader inode.
    #[doc(alias = "EXT4_BOOT_LOADER_INO")]
    pub const BOOT_LOADER: Self = Self(5);
    /// Undelete directory (never used).
    #[doc(alias = "EXT4_UNDEL_DIR_INO")]
    pub const UNDEL_DIR: Self = Self(6);
    /// Reserved group descriptors for on-line growth.
    #[doc(alias = "EXT4_RESIZE_INO")]
    pub const RESIZE: Self = Self(7);
    /// Journal.
    #[doc(alias = "EXT4_JOURNAL_INO")]
    pub const JOURNAL: Self = Self(8);
    /// Exclude (snapshots), and the replica inode.
    #[doc(alias = "EXT4_EXCLUDE_INO")]
    pub const EXCLUDE: Self = Self(9);
    /// Replica inode.
    #[doc(alias = "EXT4_REPLICA_INO")]
    pub const REPLICA: Self = Self(10);
    /// First inode that is not reserved, on a revision 0 filesystem and by default.
    #[doc(alias = "EXT4_GOOD_OLD_FIRST_INO")]
    pub const GOOD_OLD_FIRST: Self = Self(11);
}

impl Tid {
    /// Whether `self` is later than `other`, with wrap-around.
    #[doc(alias = "tid_gt")]
    #[inline]
    pub const fn is_after(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) > 0
    }

    /// The id of the following transaction.
    #[inline]
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// A size as people type it: a decimal (or `0x…`) count and an optional suffix, in bytes.
///
/// Suffixes, in either case: `s` sectors of 512 bytes, `K`, `M`, `G`, `T`, `P` powers of 1024. A count with no
/// suffix counts `unit` bytes each: 1 for an offset, the block size where mke2fs would count blocks.
/// `None` where the text is not a size or the size does not fit.
#[doc(alias = "parse_num_blocks2")]
pub fn parse_size(text: &str, unit: u64) -> Option<u64> {
    let (digits, scale) = match text.as_bytes().last()? {
        b's' | b'S' => (&text[..text.len() - 1], 512),
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        b'g' | b'G' => (&text[..text.len() - 1], 1 << 30),
        b't' | b'T' => (&text[..text.len() - 1], 1 << 40),
        b'p' | b'P' => (&text[..text.len() - 1], 1 << 50),
        _ => (text, unit),
    };
    let count = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16).ok()?,
        None if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<u64>().ok()?,
        _ => return None,
    };
    count.checked_mul(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(parse_size("0", 1), Some(0));
        assert_eq!(parse_size("17", 4096), Some(17 * 4096));
        assert_eq!(parse_size("2048s", 1), Some(1 << 20));
        assert_eq!(parse_size("3M", 4096), Some(3 << 20));
        assert_eq!(parse_size("1t", 1), Some(1 << 40));
        assert_eq!(parse_size("0x10k", 1), Some(16 << 10));
        assert_eq!(parse_size("18446744073709551615", 1), Some(u64::MAX));
        for bad in ["", "K", "0x", "-1", "+1", "1.5G", "1KB", "1 K", "0x+1", "18446744073709551616", "16777216T", "é"]
        {
            assert_eq!(parse_size(bad, 1), None, "{bad:?}");
        }
    }

    #[test]
    fn tids_compare_across_the_wrap() {
        assert!(Tid(1).is_after(Tid(u32::MAX)));
        assert!(!Tid(u32::MAX).is_after(Tid(1)));
        assert!(!Tid(7).is_after(Tid(7)));
        assert_eq!(Tid(u32::MAX).next(), Tid(0));
    }
}
