//! One change each to a small image, and a problem that is found then among others.

use ext4kit::check::Problem;
use ext4kit::env::Timestamp;
use ext4kit::format::dirent;
use ext4kit::format::features::RoCompat;
use ext4kit::format::inode::InodeFlags;
use ext4kit::units::{Fsblk, Group, Ino};
use ext4kit::volume::Owner;

use crate::patient::{Cut, Patient, entry};

/// Set bytes of the block area of `/sub/file-a`: the header of its extent tree at 0, its extent at 12.
fn area(p: &mut Patient, at: usize, bytes: &[u8]) {
    p.inode("/sub/file-a", |i| i.update(|c| c.block[at..at + bytes.len()].copy_from_slice(bytes)));
}

/// Change the entry of a name in `/sub`.
fn entry_of(p: &mut Patient, name: &[u8], change: impl FnOnce(&mut [u8])) {
    p.dir_block("/sub", |b| {
        let at = entry(b, name);
        change(&mut b[at..]);
    });
}

/// Name, what is changed, what is found. All is repaired, and nothing is found afterwards, by the reference neither.
/// A new case is one line here.
pub(crate) const ILLS: &[(&str, Cut, Problem)] = &[
    ("reserved blocks", |p| p.superblock(|s| s.set_r_blocks_count(s.blocks_count())), Problem::MiscCorruptSuper),
    ("flex groups", |p| p.superblock(|s| s.log_groups_per_flex = 40), Problem::FlexGroupSize),
    ("wanted isize", |p| p.superblock(|s| s.want_extra_isize.set(3)), Problem::BadWantExtraIsize),
    (
        "mounted later",
        |p| p.superblock(|s| s.set_mount_time(Timestamp::from_secs(3_000_000_000))),
        Problem::FutureLastMount,
    ),
    ("root deleted", |p| p.inode("/", |i| i.update(|c| c.dtime.set(1_900_000_000))), Problem::RootDtime),
    ("high size", |p| p.inode("/sub", |i| i.update(|c| c.size_high.set(1))), Problem::DirSizeHigh),
    ("no type", |p| p.inode("/sub/empty", |i| i.update(|c| c.mode.set(0x3000))), Problem::BadMode),
    ("extents of a pipe", |p| p.inode("/sub/pipe", |i| i.set_flags(InodeFlags::EXTENTS)), Problem::BadFifo),
    ("no links", |p| p.inode("/sub/empty", |i| i.update(|c| c.links_count.set(0))), Problem::ZeroDtime),
    ("name without inode", |p| p.inode("/sub/empty", |i| i.update(|c| c.links_count.set(0))), Problem::UnusedInode),
    (
        "inline data",
        |p| p.inode("/sub/file-a", |i| i.set_flags(i.flags() | InodeFlags::INLINE_DATA)),
        Problem::ClearInlineForExtent,
    ),
    ("value", |p| p.inode("/sub/file-a", |i| i.set_flags(i.flags() | InodeFlags::EA_INODE)), Problem::EaInodeFeature),
    (
        "extents flag",
        |p| p.inode("/sub/file-a", |i| i.set_flags(i.flags() - InodeFlags::EXTENTS)),
        Problem::UnsetExtentFlag,
    ),
    ("extra isize", |p| p.inode("/sub/file-a", |i| i.update(|c| c.extra_isize.set(3))), Problem::ExtraIsize),
    ("tree without magic", |p| area(p, 0, &[0, 0]), Problem::MissingExtentHeader),
    ("extent nowhere", |p| area(p, 20, &[0, 0, 0, 0]), Problem::ExtentBadStart),
    ("extent beyond", |p| area(p, 20, &[0xfe, 0x3f, 0, 0]), Problem::ExtentEndsBeyond),
    ("extent of nothing", |p| area(p, 16, &[0, 0]), Problem::ExtentLengthZero),
    ("extent on metadata", |p| area(p, 20, &[3, 0, 0, 0]), Problem::DupFile),
    (
        "extents of another",
        |p| {
            let other = p.vol.raw_inode(p.ino("/sub/file-b")).unwrap().block_area();
            area(p, 0, &other);
        },
        Problem::DupFile,
    ),
    ("first entry", |p| entry_of(p, b".", |e| e[8] = b'x'), Problem::FirstNotDot),
    ("second entry", |p| entry_of(p, b"..", |e| e[9] = b'x'), Problem::SecondNotDotDot),
    ("no first entry", |p| entry_of(p, b".", |e| e[..4].fill(0)), Problem::MissingDot),
    ("no second entry", |p| entry_of(p, b"..", |e| e[..4].fill(0)), Problem::MissingDotDot),
    ("first entry not ended", |p| entry_of(p, b".", |e| e[9] = 1), Problem::DotNullTerm),
    ("second entry not ended", |p| entry_of(p, b"..", |e| e[10] = 1), Problem::DotDotNullTerm),
    ("entry of odd length", |p| entry_of(p, b"file-a", |e| e[4] = 13), Problem::DirCorrupted),
    ("no name", |p| entry_of(p, b"file-a", |e| e[6] = 0), Problem::NullName),
    (
        "directory in itself",
        |p| {
            let ino = p.ino("/sub").0;
            entry_of(p, b"file-a", |e| e[..4].copy_from_slice(&ino.to_le_bytes()));
        },
        Problem::LinkDot,
    ),
    (
        "directory twice",
        |p| {
            let ino = p.ino("/sub/inner").0;
            entry_of(p, b"file-a", |e| e[..4].copy_from_slice(&ino.to_le_bytes()));
        },
        Problem::LinkDir,
    ),
    ("unused inodes", |p| p.group(|d| d.set_itable_unused(5000)), Problem::GroupDescItableUnused),
    ("no block bitmap", |p| p.group(|d| d.set_block_bitmap(Fsblk(0))), Problem::CheckDescFailed),
    ("inode table elsewhere", |p| p.group(|d| d.set_inode_table(Fsblk(3))), Problem::CheckDescFailed),
    ("quota file of users", |p| p.superblock(|s| s.usr_quota_inum.set(14)), Problem::InvalidQuotaIno),
    ("inodes of all", |p| p.superblock(|s| s.inodes_count.set(7)), Problem::OpenFailed),
    ("reserved number of nobody", |p| p.superblock(|s| s.usr_quota_inum.set(5)), Problem::InvalidQuotaIno),
    ("quota file nowhere", |p| p.superblock(|s| s.grp_quota_inum.set(90_000)), Problem::InvalidQuotaIno),
    ("for tests only", |p| p.superblock(|s| s.flags.set(5)), Problem::ClearTestFs),
    (
        "orphans without a file",
        |p| {
            p.superblock(|s| {
                let mut f = s.features();
                f.ro_compat |= RoCompat::ORPHAN_PRESENT;
                s.set_features(f);
            });
        },
        Problem::OrphanPresentNoFile,
    ),
    (
        "somebody's file as orphan file",
        |p| {
            let ino = p.ino("/sub/file-a").0;
            p.superblock(|s| s.orphan_file_inum.set(ino));
        },
        Problem::OrphanFileNotClear,
    ),
    (
        "below itself",
        |p| {
            let (sub, inner) = (p.ino("/sub").0, p.ino("/sub/inner").0);
            p.dir_block("/", |b| {
                let at = entry(b, b"sub");
                b[at..at + 4].copy_from_slice(&0u32.to_le_bytes());
            });
            p.dir_block("/sub/inner", |b| {
                // The first entry behind `..`.
                let at = 24;
                b[16..18].copy_from_slice(&12u16.to_le_bytes());
                let rest = (b.len() - at - dirent::TAIL_SIZE) as u16;
                b[at..at + 4].copy_from_slice(&sub.to_le_bytes());
                b[at + 4..at + 6].copy_from_slice(&rest.to_le_bytes());
                b[at + 6..at + 11].copy_from_slice(b"\x03\x02sub");
            });
            assert_ne!(sub, inner);
        },
        Problem::LoopedDir,
    ),
    ("tree of one empty leaf", |p| leaf(p, |b| b[2] = 0), Problem::ExtentIterateFailure),
    ("leaf of nothing but wrong extents", |p| leaf(p, |b| b[20..24].fill(0xff)), Problem::ExtentBadStart),
    (
        "fragment of the Hurd",
        |p| {
            p.superblock(|s| s.creator_os.set(1));
            p.inode("/sub/file-a", |i| i.update(|c| c.blocks_high.set(0x0102)));
        },
        Problem::FragNonzero,
    ),
    (
        "fragment size of the Hurd",
        |p| {
            p.superblock(|s| s.creator_os.set(1));
            p.inode("/sub/file-a", |i| i.update(|c| c.blocks_high.set(0x0200)));
        },
        Problem::FsizeNonzero,
    ),
    ("bad block in use", |p| bad(p, &[file_block]), Problem::DupFile),
    ("bad block of the root", |p| bad(p, &[|p| block_of(p, "/")]), Problem::DupFile),
    ("bad superblock", |p| bad(p, &[|_| 1]), Problem::BadPrimarySuper),
    ("bad descriptors", |p| bad(p, &[|_| 2]), Problem::BadPrimaryDescriptor),
    ("bad block nowhere", |p| bad(p, &[|_| 1 << 30]), Problem::BadBlockIllegalNum),
    (
        "bad block bitmap",
        |p| bad(p, &[|p| p.vol.group(Group(0)).unwrap().block_bitmap().0 as u32]),
        Problem::BlockBitmapBadBlock,
    ),
    (
        "bad inode bitmap",
        |p| bad(p, &[|p| p.vol.group(Group(0)).unwrap().inode_bitmap().0 as u32]),
        Problem::InodeBitmapBadBlock,
    ),
    ("quota file of everybody", |p| p.superblock(|s| s.prj_quota_inum.set(3)), Problem::InvalidQuotaIno),
];

/// Set the list of bad blocks.
pub(crate) fn bad(p: &mut Patient, blocks: &[fn(&Patient) -> u32]) {
    let list: Vec<u32> = blocks.iter().map(|b| b(p)).collect();
    let mut inode = p.vol.raw_inode(Ino::BAD).unwrap();
    inode.set_size(1024 * list.len() as u64);
    inode.set_blocks_raw(2 * list.len() as u64);
    inode.update(|c| {
        for (slot, block) in c.block.chunks_exact_mut(4).zip(&list) {
            slot.copy_from_slice(&block.to_le_bytes());
        }
    });
    inode.update_checksum(p.vol.geometry().checksums, Ino::BAD);
    let at = p.vol.inode_offset(Ino::BAD).unwrap().0 as usize;
    p.bytes[at..at + inode.as_bytes().len()].copy_from_slice(inode.as_bytes());
}

/// The first block of a file or directory.
fn block_of(p: &Patient, path: &str) -> u32 {
    let ino = p.ino(path);
    let inode = p.vol.raw_inode(ino).unwrap();
    p.vol.extents(Owner { ino, inode: &inode }).unwrap()[0].pblk.0 as u32
}

fn file_block(p: &Patient) -> u32 {
    block_of(p, "/sub/file-a")
}

/// Put the only extent of `/sub/file-a` into a node of its own, and change that.
fn leaf(p: &mut Patient, change: impl FnOnce(&mut [u8])) {
    const FREE: u32 = 9000;
    let area = p.vol.raw_inode(p.ino("/sub/file-a")).unwrap().block_area();
    let mut node = vec![0; 1024];
    node[..24].copy_from_slice(&area[..24]);
    node[4] = 84;
    change(&mut node);
    p.bytes[FREE as usize * 1024..][..1024].copy_from_slice(&node);
    let mut root = area;
    root[6] = 1;
    root[16..20].copy_from_slice(&FREE.to_le_bytes());
    root[20..24].fill(0);
    p.inode("/sub/file-a", |i| i.update(|c| c.block = root));
}
