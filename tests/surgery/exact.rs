//! One change each to a small image, and exactly what is found then.

use ext4kit::check::Problem;
use ext4kit::env::Timestamp;
use ext4kit::format::inode::InodeFlags;
use ext4kit::units::{Fsblk, Group};
use ext4kit::volume::Owner;

use crate::patient::{Cut, entry};
use crate::single::bad;

/// Name, what is changed, what is found.
pub(crate) const CUTS: &[(&str, Cut, &[Problem])] = &[
    ("size", |p| p.inode("/sub/file-a", |i| i.set_size(1)), &[Problem::BadISize]),
    ("blocks", |p| p.inode("/sub/file-a", |i| i.set_blocks_raw(i.blocks_raw() + 2)), &[Problem::BadIBlocks]),
    ("links", |p| p.inode("/sub/file-a", |i| i.update(|c| c.links_count.set(7))), &[Problem::BadRefCount]),
    ("dtime", |p| p.inode("/sub/file-a", |i| i.update(|c| c.dtime.set(1_900_000_000))), &[Problem::SetDtime]),
    (
        "low dtime",
        |p| p.inode("/sub/file-a", |i| i.update(|c| c.dtime.set(20))),
        &[Problem::LowDtime, Problem::SetDtime],
    ),
    ("imagic", |p| p.inode("/sub/file-a", |i| i.set_flags(i.flags() | InodeFlags::IMAGIC)), &[Problem::SetImagic]),
    (
        "casefold",
        |p| p.inode("/sub/file-a", |i| i.set_flags(i.flags() | InodeFlags::CASEFOLD)),
        &[Problem::CasefoldNonDir, Problem::CasefoldFeature],
    ),
    (
        "encrypt",
        |p| p.inode("/sub/file-a", |i| i.set_flags(i.flags() | InodeFlags::ENCRYPT)),
        &[Problem::MissingEncryptionXattr],
    ),
    (
        "index on a file",
        |p| p.inode("/sub/file-a", |i| i.set_flags(i.flags() | InodeFlags::INDEX)),
        &[Problem::HtreeNoDir],
    ),
    ("fragment address", |p| p.inode("/sub/file-a", |i| i.update(|c| c.obso_faddr.set(3))), &[Problem::FaddrNonzero]),
    ("attribute block", |p| p.inode("/sub/file-a", |i| i.set_file_acl(Fsblk(1 << 30))), &[Problem::FileAclBad]),
    ("symlink size", |p| p.inode("/sub/link", |i| i.set_size(3)), &[Problem::InvalidSymlink]),
    ("pipe size", |p| p.inode("/sub/pipe", |i| i.set_size(3)), &[Problem::SetNonzeroSize]),
    ("pipe flags", |p| p.inode("/sub/pipe", |i| i.set_flags(InodeFlags::IMMUTABLE)), &[Problem::SetImmutable]),
    (
        "inode checksum",
        |p| {
            let at = p.vol.inode_offset(p.ino("/sub/file-a")).unwrap().0 as usize;
            p.bytes[at + 0x7c] ^= 1;
        },
        &[Problem::InodeOnlyCsumInvalid],
    ),
    (
        "directory checksum",
        |p| {
            p.dir_block("/sub", |_| {});
            let ino = p.ino("/sub");
            let inode = p.vol.raw_inode(ino).unwrap();
            let e = p.vol.extents(Owner { ino, inode: &inode }).unwrap()[0];
            let at = p.vol.geometry().byte_of(e.pblk) as usize + 1023;
            p.bytes[at] ^= 1;
        },
        &[Problem::LeafOnlyCsumInvalid],
    ),
    ("no tail", |p| p.dir_block("/sub", |b| b[1019] = 0), &[Problem::LeafMissingCsum]),
    ("entry type", |p| p.dir_block("/sub", |b| b[entry(b, b"file-a") + 7] = 2), &[Problem::BadFiletype]),
    ("entry without type", |p| p.dir_block("/sub", |b| b[entry(b, b"file-a") + 7] = 0), &[Problem::SetFiletype]),
    ("slash", |p| p.dir_block("/sub", |b| b[entry(b, b"file-a") + 8] = b'/'), &[Problem::BadName]),
    ("same name", |p| p.dir_block("/sub", |b| b[entry(b, b"file-a") + 13] = b'b'), &[Problem::ReportDupDirent]),
    (
        "second dot",
        |p| {
            p.dir_block("/sub", |b| {
                let at = entry(b, b"file-a");
                b[at + 6] = 1;
                b[at + 8] = b'.';
            });
        },
        &[Problem::DupDot, Problem::ReportDupDirent],
    ),
    (
        "dot elsewhere",
        |p| p.dir_block("/sub", |b| b[0..4].copy_from_slice(&2u32.to_le_bytes())),
        &[Problem::BadInodeDot, Problem::BadRefCount, Problem::BadRefCount],
    ),
    (
        "parent elsewhere",
        |p| {
            let to = p.ino("/sub").0;
            p.dir_block("/sub/inner", |b| b[12..16].copy_from_slice(&2u32.to_le_bytes()));
            assert_ne!(to, 2);
        },
        &[Problem::BadDotDot, Problem::BadRefCount, Problem::BadRefCount],
    ),
    (
        "entry for nothing",
        |p| {
            p.dir_block("/sub", |b| {
                let at = entry(b, b"file-a");
                b[at..at + 4].copy_from_slice(&1900u32.to_le_bytes());
            });
        },
        &[Problem::InoRefUninit, Problem::UnusedInode, Problem::BadFiletype, Problem::UnattachedInode],
    ),
    (
        "entry beyond",
        |p| {
            p.dir_block("/sub", |b| {
                let at = entry(b, b"file-a");
                b[at..at + 4].copy_from_slice(&9_000_000u32.to_le_bytes());
            });
        },
        &[Problem::BadIno, Problem::UnattachedInode],
    ),
    (
        "entry for the root",
        |p| {
            p.dir_block("/sub", |b| {
                let at = entry(b, b"inner");
                b[at..at + 4].copy_from_slice(&2u32.to_le_bytes());
            });
        },
        &[Problem::LinkRoot, Problem::UnconnectedDir, Problem::BadRefCount, Problem::BadRefCount],
    ),
    ("free blocks of all", |p| p.superblock(|s| s.set_free_blocks_count(5)), &[Problem::FreeBlocks]),
    ("free inodes of all", |p| p.superblock(|s| s.free_inodes_count.set(5)), &[Problem::FreeInodes]),
    ("free blocks of a group", |p| p.group(|d| d.set_free_clusters(5)), &[Problem::FreeBlocksGroup]),
    ("directories of a group", |p| p.group(|d| d.set_used_dirs(5)), &[Problem::DirsGroup]),
    (
        "descriptor checksum",
        |p| {
            let at = p.vol.geometry().byte_of(p.vol.geometry().gdt_block(Fsblk(0), 0)) as usize;
            p.bytes[at + 0x1e] ^= 1;
        },
        &[Problem::GroupDescCsum],
    ),
    (
        "block bitmap",
        |p| p.block_bitmap(|m| m[0] &= !4),
        &[Problem::BlockUsed, Problem::FreeBlocksGroup, Problem::FreeBlocks],
    ),
    (
        "block bitmap checksum",
        |p| {
            let at = p.vol.geometry().byte_of(p.vol.geometry().gdt_block(Fsblk(0), 0)) as usize;
            p.group(|d| d.set_block_bitmap_csum(d.block_bitmap_csum() ^ 1));
            assert!(p.bytes.len() > at);
        },
        &[Problem::BlockBitmapCsum],
    ),
    ("extra isize", |p| p.superblock(|s| s.min_extra_isize.set(3)), &[Problem::BadMinExtraIsize]),
    ("reserved blocks", |p| p.superblock(|s| s.set_r_blocks_count(s.blocks_count())), &[Problem::MiscCorruptSuper]),
    (
        "written in the future",
        |p| p.superblock(|s| s.set_write_time(Timestamp::from_secs(3_000_000_000))),
        &[Problem::FutureLastWrite],
    ),
    (
        "bad backup superblock",
        |p| bad(p, &[|p| p.vol.geometry().group_start(Group(1)).0 as u32]),
        &[Problem::BadBackupSuper],
    ),
    (
        "bad backup descriptor",
        |p| bad(p, &[|p| p.vol.geometry().group_start(Group(1)).0 as u32 + 1]),
        &[Problem::BadBackupDescriptor],
    ),
    ("bad reserved block", |p| bad(p, &[|_| 3]), &[Problem::BadBlockClaimed]),
    // A backup's descriptors do not tell that the inode bitmap of group 1 was never written.
    ("no magic", |p| p.bytes[1080] = 0, &[Problem::OpenFailed, Problem::InodeBitmapPadding]),
];
