//! Random operations on names against a plain model in memory, through the journal, on images of many geometries; the power
//! fails now and then, and the reference `e2fsck -fn` judges the image at checkpoints.
//!
//! `EXT4KIT_MODEL_OPS` sets how many operations each geometry gets, `EXT4KIT_MODEL_SEED` which, `EXT4KIT_MODEL_TRACE` how many are
//! shown where one fails.

mod attributes;
mod content;
mod model;
mod ops;
pub(super) mod rig;

use model::{Model, ROOT};

use crate::units::Ino;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|v| v.parse().ok())
}

fn run(options: &str, size: &str) {
    let operations = number("EXT4KIT_MODEL_OPS").unwrap_or(800);
    let seed = number("EXT4KIT_MODEL_SEED").unwrap_or(1);
    let seed = options.bytes().fold(seed, |s, b| s.wrapping_mul(31).wrapping_add(b.into()));
    let Some(mut m) = Model::new(options, size, seed) else { return };
    let start = std::time::Instant::now();
    let mut next = 700;
    while m.counts.operations < operations {
        let steps = 100 + u64::from(m.below(500));
        m.phase(steps.min(operations - m.counts.operations));
        if m.counts.operations >= next {
            m.check();
            next = m.counts.operations + 4000;
        }
    }
    m.check();
    assert_eq!(m.node(ROOT).ino, Ino::ROOT);
    println!("{options} {size}: {:?}, {} objects, {:.1?}", m.counts, m.live(), start.elapsed());
}

macro_rules! geometries {
    ($($name:ident: $options:literal, $size:literal;)*) => {$(
        #[test]
        fn $name() {
            run($options, $size);
        }
    )*};
}

geometries! {
    blocks_of_1k: "-t ext4 -b 1024 -E lazy_itable_init=1", "32M";
    blocks_of_2k: "-t ext4 -b 2048 -g 2048", "24M";
    blocks_of_4k: "-t ext4 -b 4096 -O metadata_csum_seed,64bit -J size=4", "40M";
    small_inodes: "-t ext4 -b 1024 -I 128", "24M";
    large_inodes: "-t ext4 -b 4096 -I 1024 -J size=4", "40M";
    inline_data: "-t ext4 -b 1024 -O inline_data", "24M";
    inline_data_in_large_inodes: "-t ext4 -b 4096 -O inline_data -I 512 -J size=4", "40M";
    bigalloc: "-t ext4 -b 4096 -O bigalloc,quota -C 16384 -J size=4", "48M";
    bigalloc_of_1k: "-t ext4 -b 1024 -O bigalloc,inline_data -C 8192 -J size=1", "32M";
    quota_and_project: "-t ext4 -b 1024 -O quota,project,inline_data", "24M";
    value_inodes: "-t ext4 -b 1024 -O ea_inode,quota -E quotatype=usrquota:grpquota", "32M";
    everything: "-t ext4 -b 4096 -O ea_inode,inline_data,quota,project,bigalloc,large_dir,metadata_csum_seed -C 8192 -I 512 -J size=4", "48M";
    without_journal: "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^has_journal -g 1024", "24M";
    without_index: "-t ext4 -b 1024 -O ^dir_index", "24M";
    without_extents: "-t ext4 -b 2048 -O ^extents,^64bit,quota", "32M";
    without_flexible_groups: "-t ext4 -b 1024 -O ^flex_bg,^resize_inode,meta_bg -g 1024", "24M";
    without_file_types: "-t ext4 -b 1024 -O ^filetype,^dir_nlink,^extra_isize,^huge_file", "24M";
    large_dir: "-t ext4 -b 1024 -O large_dir", "32M";
    casefold: "-t ext4 -b 1024 -O casefold -E encoding=utf8", "24M";
    fast_commit: "-t ext4 -b 4096 -O fast_commit -J size=5", "32M";
    orphan_file: "-t ext4 -b 1024 -O orphan_file -E stride=4,stripe_width=16", "24M";
    ext3: "-t ext3 -b 1024", "24M";
    ext2: "-t ext2 -b 4096", "24M";
    ext2_of_1k: "-t ext2 -b 1024 -I 128", "16M";
    nearly_full: "-t ext4 -b 1024 -N 300 -J size=1", "3M";
    nearly_full_bigalloc: "-t ext4 -b 1024 -O bigalloc,quota -C 4096 -J size=1 -N 200", "4M";
    nearly_full_ext2: "-t ext2 -b 1024 -N 400", "1M";
    nearly_full_of_4k: "-t ext4 -b 4096 -J size=4 -O quota,inline_data,ea_inode -m 0", "7M";
}
