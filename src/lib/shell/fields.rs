//! Fields of structures on disk by name, to be set one at a time: inodes, the superblock, group descriptors, the block of
//! multiple-mount protection. Names are the kernel's without the prefix, as debugfs has them. Little endian.

use std::mem::offset_of;

use super::args::number;
use super::change::time;
use super::{Failure, Outcome};
use crate::env::Timestamp;
use crate::format::features::Features;
use crate::format::group_desc::GroupDesc;
use crate::format::indirect::POINTERS;
use crate::format::inode::InodeCore;
use crate::format::mmp::Mmp;
use crate::format::superblock::Superblock;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A number.
    Number,
    /// A number that may be negative.
    Signed,
    /// So many numbers behind one another; `name[n]` is one of them.
    Numbers(usize),
    /// Seconds; the high part holds those beyond 32 bits (in an inode: in its two lowest bits).
    Time,
    /// A name padded with zeros.
    Text,
    /// 16 bytes.
    Uuid,
    /// A hash function, by name or number.
    Hash,
    /// A feature word: a number.
    Features,
    /// An encoding of names, by name or number.
    Encoding,
}

/// Where a field is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    kind: Kind,
    /// First byte and length.
    low: (usize, usize),
    /// Those of its high part.
    high: Option<(usize, usize)>,
}

macro_rules! fields {
    ($of:ty: $($name:literal $kind:expr, $low:ident $(at $in:literal)? $len:literal $(+ $high:ident $high_len:literal)?;)*) => {
        &[$(Field {
            name: $name,
            kind: $kind,
            low: (offset_of!($of, $low) $(+ $in)?, $len),
            high: fields!(@high $of $(, $high $high_len)?),
        }),*]
    };
    (@high $of:ty, $high:ident $len:literal) => { Some((offset_of!($of, $high), $len)) };
    (@high $of:ty) => { None };
}

use Kind::{Hash, Number, Numbers, Signed, Text, Time, Uuid};

pub(super) const INODE: &[Field] = fields! { InodeCore:
    "mode" Number, mode 2;
    "uid" Number, uid_lo 2 + uid_high 2;
    "size" Number, size_lo 4 + size_high 4;
    "atime" Time, atime 4 + atime_extra 4;
    "ctime" Time, ctime 4 + ctime_extra 4;
    "mtime" Time, mtime 4 + mtime_extra 4;
    "dtime" Time, dtime 4;
    "gid" Number, gid_lo 2 + gid_high 2;
    "links_count" Number, links_count 2;
    "blocks" Number, blocks_lo 4 + blocks_high 2;
    "flags" Number, flags 4;
    "version" Number, version 4 + version_hi 4;
    "translator" Number, version 4;
    "block" Numbers(POINTERS), block 4;
    "generation" Number, generation 4;
    "file_acl" Number, file_acl_lo 4 + file_acl_high 2;
    "faddr" Number, obso_faddr 4;
    "frag" Number, blocks_high 1;
    "fsize" Number, blocks_high at 1 1;
    "author" Number, checksum_lo 4;
    "checksum" Number, checksum_lo 2 + checksum_hi 2;
    "extra_isize" Number, extra_isize 2;
    "ctime_extra" Number, ctime_extra 4;
    "mtime_extra" Number, mtime_extra 4;
    "atime_extra" Number, atime_extra 4;
    "crtime" Time, crtime 4 + crtime_extra 4;
    "crtime_extra" Number, crtime_extra 4;
    "projid" Number, projid 4;
};

pub(super) const SUPER: &[Field] = fields! { Superblock:
    "inodes_count" Number, inodes_count 4;
    "blocks_count" Number, blocks_count_lo 4 + blocks_count_hi 4;
    "r_blocks_count" Number, r_blocks_count_lo 4 + r_blocks_count_hi 4;
    "free_blocks_count" Number, free_blocks_count_lo 4 + free_blocks_count_hi 4;
    "free_inodes_count" Number, free_inodes_count 4;
    "first_data_block" Number, first_data_block 4;
    "log_block_size" Number, log_block_size 4;
    "log_cluster_size" Signed, log_cluster_size 4;
    "blocks_per_group" Number, blocks_per_group 4;
    "clusters_per_group" Number, clusters_per_group 4;
    "inodes_per_group" Number, inodes_per_group 4;
    "mtime" Time, mtime 4 + mtime_hi 1;
    "wtime" Time, wtime 4 + wtime_hi 1;
    "mnt_count" Number, mnt_count 2;
    "max_mnt_count" Signed, max_mnt_count 2;
    "state" Number, state 2;
    "errors" Number, errors 2;
    "minor_rev_level" Number, minor_rev_level 2;
    "lastcheck" Time, lastcheck 4 + lastcheck_hi 1;
    "checkinterval" Number, checkinterval 4;
    "creator_os" Number, creator_os 4;
    "rev_level" Number, rev_level 4;
    "def_resuid" Number, def_resuid 2;
    "def_resgid" Number, def_resgid 2;
    "first_ino" Number, first_ino 4;
    "inode_size" Number, inode_size 2;
    "block_group_nr" Number, block_group_nr 2;
    "feature_compat" Kind::Features, feature_compat 4;
    "feature_incompat" Kind::Features, feature_incompat 4;
    "feature_ro_compat" Kind::Features, feature_ro_compat 4;
    "uuid" Uuid, uuid 16;
    "volume_name" Text, volume_name 16;
    "last_mounted" Text, last_mounted 64;
    "algorithm_usage_bitmap" Number, algorithm_usage_bitmap 4;
    "prealloc_blocks" Number, prealloc_blocks 1;
    "prealloc_dir_blocks" Number, prealloc_dir_blocks 1;
    "reserved_gdt_blocks" Number, reserved_gdt_blocks 2;
    "journal_uuid" Uuid, journal_uuid 16;
    "journal_inum" Number, journal_inum 4;
    "journal_dev" Number, journal_dev 4;
    "last_orphan" Number, last_orphan 4;
    "hash_seed" Uuid, hash_seed 16;
    "def_hash_version" Hash, def_hash_version 1;
    "jnl_backup_type" Number, jnl_backup_type 1;
    "desc_size" Number, desc_size 2;
    "default_mount_opts" Number, default_mount_opts 4;
    "first_meta_bg" Number, first_meta_bg 4;
    "mkfs_time" Time, mkfs_time 4 + mkfs_time_hi 1;
    "jnl_blocks" Numbers(17), jnl_blocks 4;
    "min_extra_isize" Number, min_extra_isize 2;
    "want_extra_isize" Number, want_extra_isize 2;
    "flags" Number, flags 4;
    "raid_stride" Number, raid_stride 2;
    "mmp_interval" Number, mmp_update_interval 2;
    "mmp_update_interval" Number, mmp_update_interval 2;
    "mmp_block" Number, mmp_block 8;
    "raid_stripe_width" Number, raid_stripe_width 4;
    "log_groups_per_flex" Number, log_groups_per_flex 1;
    "kbytes_written" Number, kbytes_written 8;
    "snapshot_inum" Number, snapshot_inum 4;
    "snapshot_id" Number, snapshot_id 4;
    "snapshot_r_blocks_count" Number, snapshot_r_blocks_count 8;
    "snapshot_list" Number, snapshot_list 4;
    "mount_opts" Text, mount_opts 64;
    "usr_quota_inum" Number, usr_quota_inum 4;
    "grp_quota_inum" Number, grp_quota_inum 4;
    "prj_quota_inum" Number, prj_quota_inum 4;
    "overhead_clusters" Number, overhead_clusters 4;
    "backup_bgs" Numbers(2), backup_bgs 4;
    "checksum_type" Number, checksum_type 1;
    "encryption_level" Number, encryption_level 1;
    "error_count" Number, error_count 4;
    "first_error_time" Time, first_error_time 4 + first_error_time_hi 1;
    "first_error_ino" Number, first_error_ino 4;
    "first_error_block" Number, first_error_block 8;
    "first_error_func" Text, first_error_func 32;
    "first_error_line" Number, first_error_line 4;
    "last_error_time" Time, last_error_time 4 + last_error_time_hi 1;
    "last_error_ino" Number, last_error_ino 4;
    "last_error_block" Number, last_error_block 8;
    "last_error_func" Text, last_error_func 32;
    "last_error_line" Number, last_error_line 4;
    "encrypt_algos" Numbers(4), encrypt_algos 1;
    "encrypt_pw_salt" Uuid, encrypt_pw_salt 16;
    "lpf_ino" Number, lpf_ino 4;
    "checksum_seed" Number, checksum_seed 4;
    "encoding" Kind::Encoding, encoding 2;
    "encoding_flags" Number, encoding_flags 2;
    "orphan_file_inum" Number, orphan_file_inum 4;
};

pub(super) const GROUP: &[Field] = fields! { GroupDesc:
    "block_bitmap" Number, block_bitmap_lo 4 + block_bitmap_hi 4;
    "inode_bitmap" Number, inode_bitmap_lo 4 + inode_bitmap_hi 4;
    "inode_table" Number, inode_table_lo 4 + inode_table_hi 4;
    "free_blocks_count" Number, free_blocks_count_lo 2 + free_blocks_count_hi 2;
    "free_inodes_count" Number, free_inodes_count_lo 2 + free_inodes_count_hi 2;
    "used_dirs_count" Number, used_dirs_count_lo 2 + used_dirs_count_hi 2;
    "flags" Number, flags 2;
    "exclude_bitmap" Number, exclude_bitmap_lo 4 + exclude_bitmap_hi 4;
    "block_bitmap_csum" Number, block_bitmap_csum_lo 2 + block_bitmap_csum_hi 2;
    "inode_bitmap_csum" Number, inode_bitmap_csum_lo 2 + inode_bitmap_csum_hi 2;
    "itable_unused" Number, itable_unused_lo 2 + itable_unused_hi 2;
    "checksum" Number, checksum 2;
};

pub(super) const MMP: &[Field] = fields! { Mmp:
    "magic" Number, magic 4;
    "seq" Number, seq 4;
    "time" Time, time 8;
    "nodename" Text, nodename 64;
    "bdevname" Text, bdevname 32;
    "check_interval" Number, check_interval 2;
};

/// The field and its place that a name means: `size`, `size_hi`, `block[3]`, `block[IND]`.
pub(super) fn place(table: &'static [Field], prefix: &str, name: &str) -> Option<Field> {
    let name = name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase();
    let find = |wanted: &str| table.iter().find(|f| f.name == wanted).copied();
    if let Some(field) = find(&name).filter(|f| !matches!(f.kind, Numbers(_))) {
        return Some(field);
    }
    if let Some((array, index)) = name.split_once('[').and_then(|(a, i)| Some((a, i.strip_suffix(']')?))) {
        let field = find(array)?;
        let Numbers(count) = field.kind else { return None };
        let index = match index {
            "ind" => 12,
            "dind" => 13,
            "tind" => 14,
            n => n.parse().ok()?,
        };
        let at = field.low.0.checked_add(field.low.1.checked_mul(index)?)?;
        return (index < count).then_some(Field { kind: Number, low: (at, field.low.1), ..field });
    }
    let low = name.strip_suffix("_lo").and_then(find).map(|f| Field { kind: Number, high: None, ..f });
    let high = name
        .strip_suffix("_hi")
        .and_then(find)
        .and_then(|f| Some(Field { kind: Number, low: f.high?, high: None, ..f }));
    low.or(high)
}

/// Put `v`'s low bytes at a place.
fn put(bytes: &mut [u8], (at, len): (usize, usize), v: u64) -> Outcome {
    let to = at.checked_add(len).and_then(|end| bytes.get_mut(at..end));
    let Some(to) = to else { return Err(Failure::Usage("there is no room for this field".into())) };
    to.iter_mut().zip(v.to_le_bytes()).for_each(|(to, from)| *to = from);
    Ok(())
}

/// A hash function's number.
fn hash(value: &[u8]) -> Outcome<u64> {
    use crate::format::dirhash::HashVersion;
    let named =
        |v: &HashVersion| v.name().as_bytes() == value || number(value, "").is_ok_and(|n| n == u64::from(v.code()));
    let known = (0..=5).filter_map(HashVersion::from_code).find(named);
    let bad = || Failure::Usage(format!("{}: not a hash function", String::from_utf8_lossy(value)));
    known.map(|v| v.code().into()).ok_or_else(bad)
}

/// Bytes of a number that may be negative, as so many bytes have it.
fn signed(value: &[u8], len: usize) -> Outcome<u64> {
    let Some(digits) = value.strip_prefix(b"-") else { return number(value, "number") };
    let bits = (len.min(8) as u32).saturating_mul(8);
    let n = number(digits, "number")?;
    if n > 1u64.checked_shl(bits.saturating_sub(1)).unwrap_or(0) {
        return Err(Failure::Usage(format!("-{n}: too small")));
    }
    Ok(n.wrapping_neg() & u64::MAX.checked_shr(64u32.saturating_sub(bits)).unwrap_or(0))
}

/// What a field is, as a row of a list: its name with what may stand behind it, and what it holds.
pub(super) fn described(field: &Field) -> Vec<(String, &'static str)> {
    let what = match field.kind {
        Number | Numbers(_) | Kind::Features => "unsigned integer",
        Signed => "integer",
        Time => "date/time",
        Text => "string",
        Uuid => "UUID",
        Hash => "hash algorithm",
        Kind::Encoding => "encoding",
    };
    let name = field.name;
    match field.kind {
        // Of the map the last three lead to blocks of it.
        Numbers(POINTERS) => ["12", "IND", "DIND", "TIND"].map(|i| (format!("{name}[{i}]"), what)).to_vec(),
        Numbers(n) => vec![(format!("{name}[{n}]"), what)],
        _ if field.high.is_some_and(|h| h.1 > 1) => vec![(format!("{name}[_hi|_lo]"), what)],
        _ => vec![(name.to_owned(), what)],
    }
}

impl Field {
    fn put_number(&self, bytes: &mut [u8], v: u64) -> Outcome {
        let bits = |len: usize| (len as u32).saturating_mul(8);
        let low = bits(self.low.1);
        let rest = v.checked_shr(low).unwrap_or(0);
        let room = self.high.map_or(0, |h| bits(h.1));
        if rest.checked_shr(room).unwrap_or(0) != 0 {
            return Err(Failure::Usage(format!("{v}: too large for {}", self.name)));
        }
        put(bytes, self.low, v)?;
        match self.high {
            // Only what is not zero needs the room.
            Some((at, _)) if rest == 0 && at >= bytes.len() => Ok(()),
            Some(high) => put(bytes, high, rest),
            None => Ok(()),
        }
    }

    /// Seconds; an inode's high part keeps its nanoseconds.
    fn put_time(&self, bytes: &mut [u8], t: Timestamp) -> Outcome {
        put(bytes, self.low, t.sec as u64)?;
        let Some((at, len)) = self.high else { return Ok(()) };
        if len == 1 {
            return put(bytes, (at, 1), (t.sec >> 32) as u64);
        }
        let epoch = ((t.sec.saturating_sub(i64::from(t.sec as i32))) >> 32) as u8 & 3;
        match bytes.get_mut(at) {
            Some(byte) => *byte = *byte & !3 | epoch,
            None if epoch == 0 => {}
            None => return Err(Failure::Usage(format!("{}: beyond what the inode has room for", self.name))),
        }
        Ok(())
    }
}

/// Set the field called `name` (with or without `prefix`) in a structure's bytes.
///
/// # Errors
/// [`Failure::Usage`] for an unknown name, and for a value that the field cannot hold.
pub(super) fn set(
    table: &'static [Field],
    prefix: &str,
    bytes: &mut [u8],
    (name, value): (&str, &[u8]),
    now: Timestamp,
) -> Outcome {
    let Some(field) = place(table, prefix, name) else {
        let names: Vec<&str> = table.iter().map(|f| f.name).collect();
        return Err(Failure::Usage(format!("{name}: not one of {}", names.join(" "))));
    };
    match field.kind {
        Time => field.put_time(bytes, if value == b"now" { now } else { time(value)? }),
        Hash => field.put_number(bytes, hash(value)?),
        Uuid => {
            let random = || Failure::Usage("a UUID is needed (the library makes up none), or clear".into());
            let uuid = match value {
                b"clear" | b"null" => uuid::Uuid::nil(),
                _ => uuid::Uuid::try_parse_ascii(value).map_err(|_| random())?,
            };
            let (at, len) = field.low;
            let to = bytes.get_mut(at..at.saturating_add(len)).unwrap_or_default();
            to.iter_mut().zip(uuid.as_bytes()).for_each(|(to, from)| *to = *from);
            Ok(())
        }
        Text => {
            let (at, len) = field.low;
            if value.len() > len {
                return Err(Failure::Usage(format!("{name}: at most {len} bytes")));
            }
            let to = bytes.get_mut(at..at.saturating_add(len)).unwrap_or_default();
            to.fill(0);
            to.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
            Ok(())
        }
        Signed => field.put_number(bytes, signed(value, field.low.1)?),
        Kind::Encoding => {
            let named = crate::format::casefold::encoding(&String::from_utf8_lossy(value));
            field.put_number(bytes, named.map_or_else(|| number(value, "encoding"), |n| Ok(n.into()))?)
        }
        Number | Numbers(_) | Kind::Features => field.put_number(bytes, number(value, "number")?),
    }
}

/// The value of a field that is a number, for questions about it.
pub(super) fn value(field: &Field, bytes: &[u8]) -> u64 {
    let get = |(at, len): (usize, usize)| {
        let part = bytes.get(at..at.saturating_add(len)).unwrap_or_default();
        part.iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b))
    };
    let high = field.high.filter(|_| field.kind == Number).map_or(0, get);
    get(field.low) | high.checked_shl((field.low.1 as u32).saturating_mul(8)).unwrap_or(0)
}

/// Features that say how everything is laid out, or what every checksum covers.
pub(super) fn frozen(old: Features, new: Features) -> Option<&'static str> {
    let all = [
        "64bit",
        "meta_bg",
        "bigalloc",
        "metadata_csum",
        "uninit_bg",
        "metadata_csum_seed",
        "journal_dev",
        "inline_data",
    ];
    all.into_iter().find(|name| Features::parse(name).is_some_and(|bit| old.has(bit) != new.has(bit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn inode(len: usize, name: &str, value: &str) -> Outcome<Vec<u8>> {
        let mut bytes = vec![0; len];
        set(INODE, "i_", &mut bytes, (name, value.as_bytes()), NOW).map(|()| bytes)
    }

    #[test]
    fn halves_arrays_and_limits() {
        assert_eq!(inode(256, "uid", "0x12345").unwrap()[2..4], [0x45, 0x23]);
        assert_eq!(inode(256, "i_uid", "0x12345").unwrap()[120..122], [1, 0]);
        assert_eq!(inode(256, "uid_hi", "7").unwrap()[120], 7);
        assert_eq!(inode(256, "block[IND]", "9").unwrap()[40 + 48], 9);
        assert_eq!(inode(256, "block[1]", "9").unwrap()[44], 9);
        assert_eq!(inode(256, "fsize", "9").unwrap()[116..118], [0, 9]);
        for (name, value) in [
            ("block[15]", "1"),
            ("block", "1"),
            ("mode", "65536"),
            ("nope", "1"),
            ("mode", "x"),
            ("mode_hi", "1"),
            ("links_count", "-1"),
        ] {
            assert!(inode(256, name, value).is_err(), "{name} {value}");
        }
        assert!(inode(128, "projid", "1").is_err());
        assert!(inode(128, "version", "1").is_ok());
    }

    #[test]
    fn negative_numbers_where_they_make_sense() {
        let mut sb = vec![0; 1024];
        let mut set = |name: &str, value: &str| set(SUPER, "s_", &mut sb, (name, value.as_bytes()), NOW);
        for bad in ["-32769", "65536", "-", "--1"] {
            assert!(set("max_mnt_count", bad).is_err(), "{bad}");
        }
        set("max_mnt_count", "-1").unwrap();
        set("encoding", "utf8").unwrap();
        assert!(set("def_hash_version", "9").is_err() && set("encoding", "latin1").is_err());
        assert_eq!(sb[offset_of!(Superblock, max_mnt_count)..][..2], [0xff, 0xff]);
        assert_eq!(sb[offset_of!(Superblock, encoding)], 1);
    }

    #[test]
    fn times_go_beyond_2038_where_there_is_room() {
        let t = inode(256, "mtime", "4294967296").unwrap();
        assert_eq!((&t[16..20], t[136]), (&[0; 4][..], 1));
        assert!(inode(128, "mtime", "4294967296").is_err());
        assert_eq!(inode(128, "mtime", "now").unwrap()[16..20], 1_700_000_000u32.to_le_bytes());
        let mut sb = vec![0; 1024];
        set(SUPER, "s_", &mut sb, ("mkfs_time", b"4294967297"), NOW).unwrap();
        assert_eq!(sb[offset_of!(Superblock, mkfs_time)], 1);
        assert_eq!(sb[offset_of!(Superblock, mkfs_time_hi)], 1);
    }
}
