//! Geometries against what mke2fs 1.47.4 makes of the same options, as recorded from it.

use super::options::{FeatureEdit, FsType, Options, Size};
use super::{Draft, Layout};
use crate::device::MemoryDevice;
use crate::env::Timestamp;

fn options(bytes: u64) -> Options {
    Options::new(Size::Device(bytes), [0x5a; 16], [0x33; 16], Timestamp::from_secs(1_700_000_000))
}

fn features(o: &mut Options, list: &str) {
    o.features.extend(FeatureEdit::parse_list(list).unwrap());
}

/// Blocks, free blocks, inodes, inodes per group, overhead clusters, reserved descriptor blocks, reserved blocks, journal.
type Facts = [u64; 8];

fn facts(o: &Options) -> Facts {
    let l = Layout::new(o).unwrap();
    let d = Draft::new(l.clone()).unwrap();
    [
        l.blocks,
        d.free_blocks(),
        u64::from(l.inodes()),
        u64::from(l.inodes_per_group),
        l.overhead,
        u64::from(l.reserved_gdt),
        l.reserved_blocks,
        l.journal.total(),
    ]
}

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

#[test]
fn sizes() {
    assert_eq!(facts(&options(8 * M)), [8192, 6542, 2048, 2048, 1604, 63, 409, 1024]);
    assert_eq!(facts(&options(64 * M)), [65536, 55991, 16384, 2048, 9499, 256, 3276, 4096]);
    assert_eq!(facts(&options(600 * M)), [153_600, 146_823, 38400, 7680, 6734, 74, 7680, 4096]);
    assert_eq!(facts(&options(3 * G)), [786_432, 755_204, 196_608, 8192, 31030, 383, 39321, 16384]);
    assert_eq!(facts(&options(20 * G)), [5_242_880, 5_116_046, 1_310_720, 8192, 126_316, 1024, 262_144, 32768]);
    assert_eq!(facts(&options(33 * M + 777)), [33792, 26755, 8440, 1688, 6991, 256, 1689, 4096]);
}

#[test]
fn types() {
    let mut o = options(64 * M);
    o.fs_type = FsType::Ext2;
    assert_eq!(facts(&o), [65536, 60124, 16384, 2048, 5398, 255, 3276, 0]);
    o.fs_type = FsType::Ext3;
    assert_eq!(facts(&o), [65536, 56011, 16384, 2048, 9494, 255, 3276, 4096]);
}

#[test]
fn the_edges_of_groups() {
    let mut o = options(0);
    o.fs_type = FsType::Ext2;
    o.block_size = Some(1024);
    for (blocks, want) in [
        (60, [60, 37, 16, 16, 9, 0, 3, 0]),
        (8213, [8193, 7628, 2056, 2056, 551, 32, 409, 0]),
        (8192 + 600, [8792, 8153, 2192, 1096, 625, 34, 439, 0]),
    ] {
        o.size = Size::Units(blocks);
        assert_eq!(facts(&o), want, "{blocks} blocks");
    }
    o.size = Size::Units(5);
    assert!(Layout::new(&o).is_err());
}

#[test]
fn features_that_move_things() {
    let mut o = options(300 * M);
    o.cluster_size = Some(16384);
    features(&mut o, "bigalloc");
    assert_eq!(facts(&o), [307_200, 293_760, 19200, 6400, 832, 149, 15360, 8192]);
    let mut o = options(G);
    features(&mut o, "meta_bg,^resize_inode");
    assert_eq!(facts(&o), [262_144, 249_764, 65536, 8192, 12311, 0, 13107, 8192]);
    let mut o = options(G);
    features(&mut o, "sparse_super2,^resize_inode");
    assert_eq!(facts(&o), [262_144, 249_765, 65536, 8192, 12310, 0, 13107, 8192]);
    let mut o = options(200 * M);
    features(&mut o, "^extent,^64bit");
    assert_eq!(facts(&o), [204_800, 186_223, 51200, 2048, 18495, 256, 10240, 4096]);
    let mut o = options(600 * M);
    o.packed_meta_blocks = true;
    assert_eq!(facts(&o), [153_600, 146_823, 38400, 7680, 6734, 74, 7680, 4096]);
}

#[test]
fn very_large() {
    let mut o = options(17 << 40);
    o.inodes = Some(2_500_000);
    assert_eq!(facts(&o), [4_563_402_752, 4_562_528_609, 4_456_448, 32, 873_625, 0, 228_170_137, 262_144]);
    features(&mut o, "^64bit");
    assert!(Layout::new(&o).is_err());
}

#[test]
fn contradictions_are_refused() {
    for list in ["^sparse_super", "bigalloc,^extent", "meta_bg", "^extent"] {
        let mut o = options(600 * M);
        features(&mut o, list);
        assert!(Layout::new(&o).is_err(), "{list}");
    }
    type Change = fn(&mut Options);
    let changes: [Change; 8] = [
        |o| o.block_size = Some(512),
        |o| o.block_size = Some(131_072),
        |o| o.inode_size = Some(200),
        |o| o.inode_size = Some(2048),
        |o| o.inode_ratio = Some(512),
        |o| o.reserved_percent = 60.0,
        |o| o.journal.size_mib = Some(1000),
        |o| o.inodes = Some(100_000_000),
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut o = options(32 * M);
        change(&mut o);
        assert!(Layout::new(&o).is_err(), "change {i}");
    }
}

#[test]
fn what_is_written_can_be_opened_and_repeats() {
    let make = |threads| {
        let dev = MemoryDevice::new(64 << 20);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Draft::new(Layout::new(&options(64 * M)).unwrap()).unwrap().write(&dev, true)).unwrap();
        dev.into_bytes()
    };
    let (one, four) = (make(1), make(4));
    assert!(one == four);
    let dev = std::sync::Arc::new(MemoryDevice::from_bytes(one));
    let volume = crate::volume::Volume::open(dev, &crate::volume::OpenOptions::default()).unwrap();
    let root = volume.inode(crate::units::Ino::ROOT).unwrap();
    assert_eq!(root.core().links_count.get(), 3);
}
