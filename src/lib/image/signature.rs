//! What a device holds already, by the marks that filesystems, volume managers and partition tables leave at fixed places.
//!
//! For asking before it is overwritten, and for taking the marks away, so that nothing takes the new filesystem for the old one. The
//! list is not complete; what is not recognised is not empty because of that. Offsets are in bytes.

use std::fmt;

use crate::device::BlockDevice;
use crate::error::Result;

/// A mark: `bytes` at `offset` from the start of the device, or from its end where that is negative.
struct Mark {
    kind: &'static str,
    offset: i64,
    bytes: &'static [u8],
}

const fn mark(kind: &'static str, offset: i64, bytes: &'static [u8]) -> Mark {
    Mark { kind, offset, bytes }
}

/// Where the formats say that their marks are.
const MARKS: &[Mark] = &[
    mark("an ext2, ext3 or ext4 filesystem or journal", 1080, b"\x53\xef"),
    mark("an XFS filesystem", 0, b"XFSB"),
    mark("a Btrfs filesystem", 0x1_0040, b"_BHRfS_M"),
    mark("a bcachefs or bcache device", 0x1018, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    mark("a bcachefs filesystem", 0x1018, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    mark("an F2FS filesystem", 1024, b"\x10\x20\xf5\xf2"),
    mark("an EROFS filesystem", 1024, b"\xe2\xe1\xf5\xe0"),
    mark("a Squashfs filesystem", 0, b"hsqs"),
    mark("a cramfs filesystem", 0, b"\x45\x3d\xcd\x28"),
    mark("a ReiserFS filesystem", 0x1_0034, b"ReIsErFs"),
    mark("a ReiserFS filesystem", 0x1_0034, b"ReIsEr2Fs"),
    mark("a JFS filesystem", 0x8000, b"JFS1"),
    mark("a NILFS2 filesystem", 1030, b"\x34\x34"),
    mark("a GFS2 filesystem", 0x1_0000, b"\x01\x16\x19\x70"),
    mark("an OCFS2 filesystem", 0x2000, b"OCFSV2"),
    mark("an NTFS filesystem", 3, b"NTFS    "),
    mark("an exFAT filesystem", 3, b"EXFAT   "),
    mark("a FAT filesystem", 54, b"FAT12   "),
    mark("a FAT filesystem", 54, b"FAT16   "),
    mark("a FAT filesystem", 82, b"FAT32   "),
    mark("an ISO 9660 filesystem", 0x8001, b"CD001"),
    mark("a UDF filesystem", 0x8001, b"BEA01"),
    mark("an APFS container", 32, b"NXSB"),
    mark("an HFS+ filesystem", 1024, b"H+"),
    mark("an HFS+ filesystem", 1024, b"HX"),
    mark("a UFS filesystem", 0x2000 + 1372, b"\x54\x19\x01\x00"),
    mark("a UFS filesystem", 0x1_0000 + 1372, b"\x19\x01\x54\x19"),
    mark("a ZFS pool", 0x2_0000, b"\x0c\xb1\xba\x00\x00\x00\x00\x00"),
    mark("swap space", 4086, b"SWAPSPACE2"),
    mark("swap space", 0x1_0000 - 10, b"SWAPSPACE2"),
    mark("a LUKS container", 0, b"LUKS\xba\xbe"),
    mark("a BitLocker volume", 3, b"-FVE-FS-"),
    mark("an LVM physical volume", 512, b"LABELONE"),
    mark("an LVM physical volume", 0, b"LABELONE"),
    mark("a member of a Linux RAID", 0, b"\xfc\x4e\x2b\xa9"),
    mark("a member of a Linux RAID", 4096, b"\xfc\x4e\x2b\xa9"),
    mark("a member of a Linux RAID", -8192, b"\xfc\x4e\x2b\xa9"),
    mark("a DRBD device", -4096 + 60, b"\x83\x74\x02\x6b"),
    mark("a GPT partition table", 512, b"EFI PART"),
    mark("a GPT partition table", 4096, b"EFI PART"),
    mark("a GPT partition table", -512, b"EFI PART"),
    mark("a qcow2 image", 0, b"QFI\xfb"),
    mark("an Android sparse image", 0, b"\x3a\xff\x26\xed"),
    mark("a VMDK image", 0, b"KDMV"),
];

/// Old RAID superblocks lie in the last whole 64 KiB but one.
const RAID_0_90: u64 = 65536;
/// Where the entries of a partition table in the first sector are, their length and how many there are.
const PARTITIONS: (usize, usize, usize) = (446, 16, 4);

/// A mark that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What leaves such a mark, with its article.
    pub kind: &'static str,
    /// First byte of the mark.
    pub offset: u64,
    /// Bytes of the mark.
    pub len: u64,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (its mark is at byte {})", self.kind, self.offset)
    }
}

/// The marks on a device, those at its start first.
///
/// # Errors
/// What the device reports.
#[doc(alias = "blkid")]
#[doc(alias = "wipefs")]
pub fn signatures(dev: &dyn BlockDevice) -> Result<Vec<Signature>> {
    let len = dev.len();
    let mut found = Vec::new();
    let mut look = |kind, offset: u64, bytes: &[u8]| -> Result<()> {
        let n = bytes.len() as u64;
        let mut have = vec![0; bytes.len()];
        if offset.checked_add(n).is_some_and(|end| end <= len) {
            dev.read_at(offset, &mut have)?;
            if have == bytes {
                found.push(Signature { kind, offset, len: n });
            }
        }
        Ok(())
    };
    for m in MARKS {
        if let Some(at) = if m.offset < 0 { len.checked_add_signed(m.offset) } else { u64::try_from(m.offset).ok() } {
            look(m.kind, at, m.bytes)?;
        }
    }
    if let Some(at) = (len / RAID_0_90 * RAID_0_90).checked_sub(RAID_0_90) {
        look("a member of a Linux RAID", at, b"\xfc\x4e\x2b\xa9")?;
    }
    if found.is_empty() && has_partitions(dev)? {
        found.push(Signature { kind: "a DOS partition table", offset: 510, len: 2 });
    }
    Ok(found)
}

/// Whether the first sector is a partition table: bootable or not, and at least one partition. Boot sectors of filesystems end with
/// the same two bytes.
fn has_partitions(dev: &dyn BlockDevice) -> Result<bool> {
    let mut sector = [0; 512];
    if dev.len() < sector.len() as u64 {
        return Ok(false);
    }
    dev.read_at(0, &mut sector)?;
    let (first, size, count) = PARTITIONS;
    let entries = sector.get(first..first + size * count).unwrap_or_default();
    let sound = entries.chunks(size).all(|e| matches!(e.first(), Some(0 | 0x80)));
    let any = entries.chunks(size).any(|e| e.get(4).is_some_and(|t| *t != 0));
    Ok(sector.ends_with(&[0x55, 0xaa]) && sound && any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    fn kinds(bytes: Vec<u8>) -> Vec<(&'static str, u64)> {
        signatures(&MemoryDevice::from_bytes(bytes)).unwrap().iter().map(|s| (s.kind, s.offset)).collect()
    }

    #[test]
    fn marks_are_found_where_they_belong_and_nowhere_else() {
        assert_eq!(kinds(vec![0; 1 << 20]), []);
        assert_eq!(kinds(Vec::new()), []);
        assert_eq!(kinds(vec![0xff; 2000]), []);
        for m in MARKS {
            let mut bytes = vec![0; 1 << 20];
            let at = (m.offset + if m.offset < 0 { 1 << 20 } else { 0 }) as usize;
            bytes[at..at + m.bytes.len()].copy_from_slice(m.bytes);
            assert_eq!(kinds(bytes.clone()), [(m.kind, at as u64)]);
            bytes.copy_within(at..at + m.bytes.len(), at + 1);
            bytes[at] = !m.bytes[0];
            assert_eq!(kinds(bytes), []);
        }
    }

    #[test]
    fn a_partition_table_has_partitions() {
        let mut bytes = vec![0; 4096];
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(kinds(bytes.clone()), []);
        bytes[446 + 4] = 0x83;
        assert_eq!(kinds(bytes.clone()), [("a DOS partition table", 510)]);
        bytes[446] = 0x33;
        assert_eq!(kinds(bytes), [], "code, not a table");
    }

    #[test]
    fn raid_of_the_first_version_is_near_the_end() {
        let mut bytes = vec![0; 1_000_000];
        let at = 1_000_000 / 65536 * 65536 - 65536;
        bytes[at..at + 4].copy_from_slice(b"\xfc\x4e\x2b\xa9");
        assert_eq!(kinds(bytes), [("a member of a Linux RAID", at as u64)]);
    }
}
