//! The checker against healthy images, images with one field changed, and the reference checker's verdict.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ext4kit::Error;
use ext4kit::check::{
    Answers, CheckOptions, Collect, Finding, Outcome, Problem, RepairOptions, Summary, check, repair,
};
use ext4kit::device::{BlockDevice, MemoryDevice, RecordDevice};
use ext4kit::env::{SeededEntropy, Timestamp};
use ext4kit::format::bitmap::{self, Kind};
use ext4kit::format::dirent;
use ext4kit::format::features::RoCompat;
use ext4kit::format::group_desc::GroupDesc;
use ext4kit::format::inode::{Inode, InodeFlags};
use ext4kit::format::superblock::Superblock;
use ext4kit::progress::Silent;
use ext4kit::testing::crash::{self, Plan};
use ext4kit::testing::surgery::Surgeon;
use ext4kit::units::{Fsblk, Group, Ino, Lblk};
use ext4kit::volume::{LastLink, Mapping, OpenOptions, Owner, Volume};

fn options(jobs: usize) -> CheckOptions {
    CheckOptions { jobs, ..CheckOptions::everything(Timestamp::from_secs(1_800_000_000)) }
}

fn check_bytes(bytes: Vec<u8>, jobs: usize) -> (Outcome, Vec<Finding>) {
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes));
    let mut sink = Collect::default();
    let outcome = match check(&device, &options(jobs), &mut sink, &Silent) {
        Err(Error::Unsupported { .. }) => {
            Outcome { opened: false, errors: 0, findings: 0, aborted: true, reason: None, summary: Summary::default() }
        }
        other => other.unwrap(),
    };
    (outcome, sink.0)
}

fn texts(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|f| format!("{}: {}", f.problem.id(), f.message())).collect()
}

const GEOMETRIES: &[(&str, &[&str])] = &[
    ("ext4-1k", &["-t", "ext4", "-b", "1024"]),
    ("ext4-2k", &["-t", "ext4", "-b", "2048"]),
    ("ext4-4k", &["-t", "ext4", "-b", "4096", "-O", "^has_journal"]),
    ("inline", &["-t", "ext4", "-b", "1024", "-O", "inline_data,^has_journal"]),
    ("inline-512", &["-t", "ext4", "-b", "4096", "-I", "512", "-O", "inline_data,^has_journal"]),
    ("ea-inode", &["-t", "ext4", "-b", "1024", "-O", "ea_inode,^has_journal"]),
    ("bigalloc", &["-t", "ext4", "-b", "1024", "-O", "bigalloc,^has_journal", "-C", "4096"]),
    ("meta-bg", &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,^has_journal"]),
    ("no-flex", &["-t", "ext4", "-b", "1024", "-O", "^flex_bg,^64bit"]),
    ("uninit-bg", &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"]),
    ("no-csum", &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^has_journal"]),
    ("csum-seed", &["-t", "ext4", "-b", "1024", "-O", "metadata_csum_seed"]),
    ("sparse-super2", &["-t", "ext4", "-b", "1024", "-O", "sparse_super2,^resize_inode"]),
    ("casefold", &["-t", "ext4", "-b", "1024", "-O", "casefold,^has_journal"]),
    ("small-inodes", &["-t", "ext4", "-b", "1024", "-I", "128", "-O", "^metadata_csum,^has_journal"]),
    ("orphan-file", &["-t", "ext4", "-b", "1024", "-O", "orphan_file"]),
    ("mmp", &["-t", "ext4", "-b", "1024", "-O", "mmp"]),
    ("ext3", &["-t", "ext3", "-b", "1024", "-J", "size=1"]),
    ("ext2", &["-t", "ext2", "-b", "1024"]),
];

/// A tree that fits small images.
fn source(dir: &Path) -> PathBuf {
    let source = dir.join("tree");
    std::fs::create_dir(&source).unwrap();
    common::fill_tree(&source, 3);
    // Values that need an inode of their own: mke2fs refuses them, or miscounts the blocks.
    for entry in std::fs::read_dir(&source).unwrap() {
        let _ = rustix::fs::lremovexattr(entry.unwrap().path(), "user.huge");
    }
    for i in (0..1500).filter(|i| i % 8 != 0) {
        std::fs::remove_file(source.join(format!("many/entry-number-{i:05}-{}", "z".repeat(i % 50)))).unwrap();
    }
    source
}

/// One image per geometry; those that this mke2fs cannot make are skipped loudly.
fn images(which: &[&str]) -> Vec<(&'static str, Vec<u8>)> {
    let Some(mke2fs) = common::tool("mke2fs") else { return Vec::new() };
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let mut all = Vec::new();
    for (name, args) in GEOMETRIES.iter().filter(|(n, _)| which.is_empty() || which.contains(n)) {
        let image = dir.path().join(name);
        std::fs::File::create(&image).unwrap().set_len(12 << 20).unwrap();
        let done = Command::new(&mke2fs)
            .args(["-q", "-F", "-N", "2048"])
            .args(*args)
            .args(["-d".as_ref(), source.as_os_str(), image.as_os_str()])
            .output()
            .unwrap();
        if done.status.success() {
            all.push((*name, std::fs::read(&image).unwrap()));
            std::fs::remove_file(&image).unwrap();
        } else {
            eprintln!("skipped: {name}: {}", String::from_utf8_lossy(&done.stderr).trim());
        }
    }
    all
}

/// The reference's verdict; `None` where it gives none in time.
fn reference(fsck: &Path, image: &Path) -> Option<i32> {
    let out = Command::new("timeout").arg("20").arg(fsck).arg("-fn").arg(image).output().unwrap();
    out.status.code().filter(|c| *c < 64)
}

#[test]
fn healthy_images_have_nothing_to_report() {
    for (name, bytes) in images(&[]) {
        let (outcome, findings) = check_bytes(bytes, 2);
        assert!(findings.is_empty(), "{name}: {:#?}", texts(&findings));
        assert!(!outcome.aborted && outcome.summary.inodes_used > 200, "{name}: {outcome:?}");
    }
}

/// The first few texts.
fn first(findings: &[Finding]) -> Vec<String> {
    texts(&findings[..findings.len().min(3)])
}

fn scale() -> u64 {
    std::env::var("EXT4KIT_HOSTILE").ok().and_then(|v| v.parse().ok()).unwrap_or(1)
}

/// Damage that the reference passes over and the kernel does not: an extent node whose depth is not its place's.
fn is_known_difference(findings: &[Finding], reference: i32) -> bool {
    reference == 0 && findings.iter().any(|f| f.problem == Problem::ExtentHeaderInvalid)
}

#[test]
fn damage_is_judged_as_the_reference_judges_it() {
    let Some(fsck) = common::tool("e2fsck") else { return };
    let all = images(&["ext4-1k", "inline", "bigalloc", "ext2", "uninit-bg", "meta-bg"]);
    let dir = tempfile::tempdir().unwrap();
    let (mut cases, mut differ) = (0, Vec::new());
    for (name, bytes) in &all {
        let healthy: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.clone()));
        let surgeon = Surgeon::new(&Volume::open(healthy, &OpenOptions::default()).unwrap()).unwrap();
        let mut entropy = SeededEntropy::new(0xc4ed);
        for case in 0..20 * scale() {
            let device = MemoryDevice::from_bytes(bytes.clone());
            let done: Vec<_> = (0..=case % 3).map(|_| surgeon.operate(&device, &mut entropy).unwrap()).collect();
            let mut damaged = vec![0; bytes.len()];
            device.read_at(0, &mut damaged).unwrap();
            let image = dir.path().join("damaged");
            std::fs::write(&image, &damaged).unwrap();
            let start = Instant::now();
            let (outcome, findings) = check_bytes(damaged, 1 + case as usize % 2);
            let took = start.elapsed();
            assert!(took < Duration::from_secs(20), "{name} case {case}: {done:x?} took {took:?}");
            let Some(theirs) = reference(&fsck, &image) else { continue };
            cases += 1;
            let ours = outcome.errors > 0 || outcome.aborted;
            if ours != (theirs != 0) && !is_known_difference(&findings, theirs) {
                if let Ok(keep) = std::env::var("EXT4KIT_KEEP") {
                    std::fs::copy(&image, format!("{keep}/{name}-{case}.img")).unwrap();
                }
                differ.push(format!("{name} case {case}: {done:x?}: reference {theirs}, ours {:?}", first(&findings)));
            }
        }
    }
    println!("{cases} damaged images, {} judged otherwise", differ.len());
    assert!(differ.len() * 50 <= cases, "{}", differ.join("\n"));
    println!("{}", differ.join("\n"));
}

/// An image being operated on.
struct Patient {
    bytes: Vec<u8>,
    vol: Volume,
}

impl Patient {
    fn new(bytes: &[u8]) -> Self {
        let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.to_vec()));
        Self { bytes: bytes.to_vec(), vol: Volume::open(device, &OpenOptions::default()).unwrap() }
    }

    fn ino(&self, path: &str) -> Ino {
        self.vol.resolve(path.as_bytes(), LastLink::Keep).unwrap()
    }

    fn inode(&mut self, path: &str, change: impl FnOnce(&mut Inode)) {
        let ino = self.ino(path);
        let mut inode = self.vol.raw_inode(ino).unwrap();
        change(&mut inode);
        inode.update_checksum(self.vol.geometry().checksums, ino);
        let at = self.vol.inode_offset(ino).unwrap().0 as usize;
        self.bytes[at..at + inode.as_bytes().len()].copy_from_slice(inode.as_bytes());
    }

    fn superblock(&mut self, change: impl FnOnce(&mut Superblock)) {
        let mut sb = self.vol.superblock().clone();
        change(&mut sb);
        self.bytes[1024..2048].copy_from_slice(&sb.encode());
    }

    fn group(&mut self, change: impl FnOnce(&mut GroupDesc)) {
        let geo = self.vol.geometry();
        let mut desc = self.vol.group(Group(0)).unwrap();
        change(&mut desc);
        desc.update_checksum(geo.checksums, Group(0), geo.desc_size);
        let at = geo.byte_of(geo.gdt_block(Fsblk(0), 0)) as usize;
        desc.encode_into(&mut self.bytes[at..at + usize::from(geo.desc_size)]);
    }

    /// Change the block bitmap of group 0 and the checksum that its descriptor keeps.
    fn block_bitmap(&mut self, change: impl FnOnce(&mut [u8])) {
        let geo = self.vol.geometry().clone();
        let at = geo.byte_of(self.vol.group(Group(0)).unwrap().block_bitmap()) as usize;
        let map = &mut self.bytes[at..at + geo.block_size as usize];
        change(map);
        let map = map.to_vec();
        self.group(|d| bitmap::stamp(Kind::Block, &map, geo.clusters_per_group, geo.checksums, d, geo.desc_size));
    }

    /// Change logical block 0 of a directory.
    fn dir_block(&mut self, path: &str, change: impl FnOnce(&mut [u8])) {
        let ino = self.ino(path);
        let inode = self.vol.raw_inode(ino).unwrap();
        let owner = Owner { ino, inode: &inode };
        let Mapping::Mapped { pblk, .. } = self.vol.map(owner, Lblk(0)).unwrap() else { panic!("{path}") };
        let at = self.vol.geometry().byte_of(pblk) as usize;
        let block = &mut self.bytes[at..at + self.vol.geometry().block_size as usize];
        change(block);
        if let Some(seed) = self.vol.inode_seed(ino, &inode) {
            dirent::stamp(block, seed);
        }
    }
}

/// Offset of an entry in a directory block.
fn entry(block: &[u8], name: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let len = usize::from(u16::from_le_bytes([block[at + 4], block[at + 5]]));
        if &block[at + 8..at + 8 + usize::from(block[at + 6])] == name {
            return at;
        }
        at += len;
    }
}

type Cut = fn(&mut Patient);

/// One change each, and exactly what is found then.
const CUTS: &[(&str, Cut, &[Problem])] = &[
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

/// One change each, and a problem that is found then; all is repaired, and nothing is found afterwards, by the reference neither.
/// A new case is one line here.
const ILLS: &[(&str, Cut, Problem)] = &[
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
fn bad(p: &mut Patient, blocks: &[fn(&Patient) -> u32]) {
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

#[test]
fn what_is_found_is_repaired() {
    let Some(bytes) = small_image() else { return };
    let Some(fsck) = common::tool("e2fsck") else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let mut wrong = Vec::new();
    for (name, cut, want) in ILLS {
        let mut patient = Patient::new(&bytes);
        cut(&mut patient);
        let (_, findings) = check_bytes(patient.bytes.clone(), 1);
        let found = findings.iter().any(|f| f.problem == *want);
        let device = Arc::new(MemoryDevice::from_bytes(patient.bytes));
        let left = mend(&(Arc::clone(&device) as Arc<dyn BlockDevice>));
        let after = device.to_bytes();
        std::fs::write(&image, &after).unwrap();
        let rest = check_bytes(after, 1).1;
        let theirs = reference(&fsck, &image);
        if !found || !left.as_ref().is_ok_and(|l| l.errors == 0 && !l.aborted) || !rest.is_empty() || theirs != Some(0)
        {
            wrong.push(format!("{name}: {:?}; {left:?}; {:?}; reference {theirs:?}", first(&findings), first(&rest)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An image of 16 MiB with a few files.
fn small_image() -> Option<Vec<u8>> {
    let mke2fs = common::tool("mke2fs")?;
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("sub/inner")).unwrap();
    for name in ["file-a", "file-b"] {
        std::fs::write(tree.join("sub").join(name), [7; 5000]).unwrap();
    }
    std::fs::write(tree.join("sub/empty"), "").unwrap();
    std::os::unix::fs::symlink("nowhere at all", tree.join("sub/link")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, tree.join("sub/pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let image = dir.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let args = ["-q", "-F", "-t", "ext4", "-b", "1024", "-N", "2048", "-O", "^has_journal,uninit_bg,^flex_bg", "-d"];
    let out = Command::new(&mke2fs).args(args).arg(&tree).arg(&image).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(std::fs::read(&image).unwrap())
}

#[test]
fn one_change_gives_what_belongs_to_it() {
    let Some(bytes) = small_image() else { return };
    assert_eq!(texts(&check_bytes(bytes.clone(), 1).1), Vec::<String>::new());
    let mut wrong = Vec::new();
    for (name, cut, want) in CUTS {
        let mut patient = Patient::new(&bytes);
        cut(&mut patient);
        let (outcome, findings) = check_bytes(patient.bytes.clone(), 1);
        let got: Vec<Problem> = findings.iter().map(|f| f.problem).collect();
        if got != *want {
            wrong.push(format!("{name}: {:#?}", texts(&findings)));
            continue;
        }
        let errors = want.iter().filter(|p| !p.row().harmless).count() as u64;
        assert_eq!(outcome.errors, errors, "{name}");
        // Threads change nothing.
        assert_eq!(check_bytes(patient.bytes, 3).1, findings, "{name}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn exit_codes_and_json() {
    let Some(mke2fs) = common::tool("mke2fs") else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let e4fsck = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_e4fsck")).args(args).arg(&image).output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap())
    };
    std::fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    assert_eq!(e4fsck(&["-n"]).0, 8);
    let out = Command::new(&mke2fs).args(["-q", "-F", "-t", "ext4"]).arg(&image).output().unwrap();
    assert!(out.status.success());
    let (code, text) = e4fsck(&["-n"]);
    assert!(code == 0 && text.contains(": clean, 11/"), "{code} {text}");
    let (code, text) = e4fsck(&["-fn"]);
    assert!(code == 0 && text.contains("Pass 5") && text.contains("11/"), "{code} {text}");
    assert_eq!(e4fsck(&["-n", "-y"]).0, 16);
    assert_eq!(e4fsck(&["-n", "-E", "nonsense"]).0, 16);
    let mut patient = Patient::new(&std::fs::read(&image).unwrap());
    patient.group(|d| d.set_used_dirs(9));
    std::fs::write(&image, &patient.bytes).unwrap();
    assert_eq!(e4fsck(&["-n"]).0, 0, "the superblock says that it is clean");
    assert_eq!(e4fsck(&["-fn"]).0, 4);
    let (code, text) = e4fsck(&["-fn", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["errors"], &json["exit"]), (4, &1.into(), &4.into()));
    assert_eq!(json["findings"][0]["id"], "E4-5-012");
    assert_eq!(json["findings"][0]["e2fsck"], "0x05000c");
    assert_eq!(std::fs::read(&image).unwrap(), patient.bytes, "nothing is written");
    assert_eq!(e4fsck(&["-fy"]).0, 1);
    assert_eq!(e4fsck(&["-fn"]).0, 0);
}

/// Repair all; what is left.
fn mend(device: &Arc<dyn BlockDevice>) -> Result<Outcome, String> {
    let options = RepairOptions::new(options(1));
    let done = repair(device, &options, Answers::Yes, &mut Collect::default(), &Silent).map_err(|e| e.to_string())?;
    Ok(done.left)
}

/// Sizes and checksums of the contents of all files in use, sorted.
fn contents(bytes: &[u8]) -> Vec<(u64, u32)> {
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.to_vec()));
    let vol = Volume::open(device, &OpenOptions { verify_groups: false, ..OpenOptions::default() }).unwrap();
    let mut all: Vec<_> = (vol.geometry().first_ino..=vol.geometry().inodes_count)
        .filter_map(|n| {
            let inode = vol.inode(Ino(n)).ok()?;
            let file = inode.core().links_count.get() > 0 && inode.core().mode.get() & 0o170_000 == 0o100_000;
            let owner = Owner { ino: Ino(n), inode: &inode };
            let content = file.then(|| vol.reader(owner).ok()?.read_all(16 << 20).ok()?).flatten()?;
            Some((inode.size(), crc32c::crc32c(&content)))
        })
        .collect();
    all.sort_unstable();
    all
}

fn missing(want: &[(u64, u32)], have: &[(u64, u32)]) -> usize {
    want.iter().filter(|c| have.binary_search(c).is_err()).count()
}

fn bytes_of(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; device.len() as usize];
    device.read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn damage_is_repaired_as_well_as_the_reference_does() {
    let Some(fsck) = common::tool("e2fsck") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (mut cases, mut bad) = (0, Vec::new());
    for (name, bytes) in &images(&["ext4-1k", "inline", "bigalloc", "ext2", "uninit-bg", "meta-bg", "orphan-file"]) {
        let healthy: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.clone()));
        let surgeon = Surgeon::new(&Volume::open(healthy, &OpenOptions::default()).unwrap()).unwrap();
        let before = contents(bytes);
        let mut entropy = SeededEntropy::new(0x3e4d);
        for case in 0..6 * scale() {
            let device = Arc::new(MemoryDevice::from_bytes(bytes.clone()));
            let done: Vec<_> = (0..=case % 4).map(|_| surgeon.operate(&*device, &mut entropy).unwrap()).collect();
            let [ours, theirs] = ["ours", "theirs"].map(|n| dir.path().join(n));
            std::fs::write(&theirs, device.to_bytes()).unwrap();
            let left = mend(&(Arc::clone(&device) as Arc<dyn BlockDevice>));
            let after = device.to_bytes();
            std::fs::write(&ours, &after).unwrap();
            let run = |args: &[&str], image: &Path| {
                Command::new("timeout").arg("20").arg(&fsck).args(args).arg(image).output().unwrap().status.code()
            };
            // Where the reference gives up, nothing is to be compared.
            if run(&["-fy"], &theirs).is_none_or(|c| c > 3) || run(&["-fn"], &theirs) != Some(0) {
                continue;
            }
            cases += 1;
            let (outcome, found) = check_bytes(after.clone(), 2);
            let saved: Vec<_> = contents(&std::fs::read(&theirs).unwrap());
            let saved: Vec<_> = saved.into_iter().filter(|c| before.binary_search(c).is_ok()).collect();
            let lost = missing(&saved, &contents(&after));
            let reference = run(&["-fn"], &ours);
            if left.as_ref().is_ok_and(|l| l.errors == 0) && outcome.errors == 0 && reference == Some(0) && lost == 0 {
                continue;
            }
            if let Ok(keep) = std::env::var("EXT4KIT_KEEP") {
                std::fs::copy(&ours, format!("{keep}/repaired-{name}-{case}.img")).unwrap();
            }
            bad.push(format!(
                "{name} {case}: {done:x?}: {left:?}, {:?}, e2fsck {reference:?}, {lost} lost",
                first(&found)
            ));
        }
    }
    println!("{cases} damaged images repaired, {} not as they should be\n{}", bad.len(), bad.join("\n"));
    assert!(bad.len() * 100 <= cases, "{}", bad.join("\n"));
}

/// A kill at any moment of a repair leaves what a second one finishes, and nothing that was saved is lost.
#[test]
fn a_repair_may_be_killed_anywhere() {
    for (name, bytes) in &images(&["ext4-1k", "ext2"]) {
        let healthy: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.clone()));
        let surgeon = Surgeon::new(&Volume::open(healthy, &OpenOptions::default()).unwrap()).unwrap();
        let mut entropy = SeededEntropy::new(77);
        for case in 0..2 * scale() {
            let device = MemoryDevice::from_bytes(bytes.clone());
            let done: Vec<_> = (0..3).map(|_| surgeon.operate(&device, &mut entropy).unwrap()).collect();
            let base = device.to_bytes();
            let recorded = Arc::new(RecordDevice::new(MemoryDevice::from_bytes(base.clone())));
            let whole = mend(&(Arc::clone(&recorded) as Arc<dyn BlockDevice>)).unwrap();
            if whole.errors > 0 || whole.aborted {
                continue;
            }
            let saved = contents(&bytes_of(&*recorded));
            let plan = Plan { samples: 1, ..Plan::default() };
            let out = crash::enumerate(&base, &recorded.log(), plan, |device, _, _| {
                let left = mend(device)?;
                let lost = missing(&saved, &contents(&bytes_of(&**device)));
                if left.errors == 0 && lost == 0 { Ok(()) } else { Err(format!("{left:?}, {lost} lost")) }
            })
            .unwrap();
            println!("{name} {case}: {:?}", out.counts);
            assert_eq!(out.failed, 0, "{name} {case} {done:x?}: {}", out.first_failure.unwrap());
        }
    }
}
