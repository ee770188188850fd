//! Random combinations of options, held against the reference mke2fs: both refuse, or both accept and `dumpe2fs -h` shows the
//! same; what is made is clean for the reference e2fsck. `EXT4KIT_MKFS_RANDOM=500` tries more of them, `EXT4KIT_MKFS_SEED=1000` others.
//! Some have no type, and are asked of a link named mke2fs.
//!
//! Differences that are meant, and left out here: a block or cluster size that is no power of two is refused (mke2fs rounds
//! it down without a word), so are revision 0 and descriptors of 32 bytes with the feature 64bit, which no kernel mounts; and
//! so few inodes that mke2fs fails half-way through writing are enough.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::tool;
use ext4kit::env::{Entropy, SeededEntropy};

/// The defaults that e4mkfs has built in, for mke2fs.
const CONF: &str = "[defaults]
base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
default_mntopts = acl,user_xattr
enable_periodic_fsck = 0
blocksize = 4096
inode_size = 256
inode_ratio = 16384
[fs_types]
ext3 = { features = has_journal }
ext4 = { features = has_journal,extent,huge_file,flex_bg,metadata_csum,metadata_csum_seed,64bit,dir_nlink,extra_isize,orphan_file }
small = { blocksize = 1024
inode_ratio = 4096 }
floppy = { blocksize = 1024
inode_ratio = 8192 }
big = { inode_ratio = 32768 }
huge = { inode_ratio = 65536 }
news = { inode_ratio = 4096 }
largefile = { inode_ratio = 1048576
blocksize = -1 }
largefile4 = { inode_ratio = 4194304
blocksize = -1 }
hurd = { blocksize = 4096
inode_size = 128
warn_y2038_dates = 0 }
";

const FEATURES: [&str; 32] = [
    "journal_dev",
    "has_journal",
    "ext_attr",
    "resize_inode",
    "dir_index",
    "sparse_super2",
    "fast_commit",
    "stable_inodes",
    "orphan_file",
    "filetype",
    "meta_bg",
    "extent",
    "64bit",
    "mmp",
    "flex_bg",
    "ea_inode",
    "metadata_csum_seed",
    "large_dir",
    "inline_data",
    "encrypt",
    "casefold",
    "sparse_super",
    "large_file",
    "huge_file",
    "uninit_bg",
    "dir_nlink",
    "extra_isize",
    "quota",
    "bigalloc",
    "metadata_csum",
    "project",
    "verity",
];

/// An option, how many of a hundred combinations have it, and its values.
const OPTIONS: [(&str, u32, &[&str]); 14] = [
    ("-b", 50, &["1024", "2048", "4096", "4096", "8192", "65536", "512"]),
    ("-I", 20, &["128", "256", "512", "1024", "4096", "100", "200"]),
    ("-i", 20, &["1024", "4096", "8192", "16384", "65536", "512", "67108864", "67108865"]),
    ("-N", 15, &["100", "5000", "50000", "1000000", "100000000"]),
    ("-m", 15, &["0", "1", "2.5", "50", "51"]),
    ("-g", 12, &["256", "1024", "8192", "16384", "32768", "100", "1000", "65536"]),
    ("-G", 12, &["1", "2", "16", "64", "3", "0", "1024"]),
    ("-C", 12, &["4096", "16384", "65536", "1048576", "1024"]),
    ("-J", 15, &["size=1", "size=4", "size=8", "size=64", "size=1000", "fast_commit_size=256", "location=1000"]),
    ("-T", 10, &["small", "floppy", "news", "largefile", "big", "huge", "none"]),
    ("-r", 6, &["1", "2"]),
    ("-o", 6, &["linux", "hurd", "freebsd", "nonsense"]),
    ("-e", 5, &["continue", "panic", "remount-ro", "nonsense"]),
    (
        "-E",
        30,
        &[
            "stride=16",
            "stripe_width=32",
            "resize=1000000",
            "resize=4G",
            "packed_meta_blocks=1",
            "num_backup_sb=0",
            "num_backup_sb=1",
            "num_backup_sb=3",
            "lazy_itable_init=0",
            "desc_size=64",
            "desc_size=48",
            "quotatype=usrquota",
            "quotatype=prjquota",
            "root_owner=1:2",
            "mmp_update_interval=10",
            "orphan_file_size=64k",
            "test_fs",
            "nodiscard",
            "lazy_journal_init=1",
            "encoding=utf8",
            "encoding_flags=strict",
            "no_copy_xattrs",
            "stripe-width=8,stride=4",
            "stride=x",
            "encoding=utf8,encoding_flags=strict",
            "assume_storage_prezeroed=1",
        ],
    ),
];
const SIZES: [&str; 10] = ["2M", "4M", "8M", "16M", "64M", "100M", "300M", "600M", "1G", "3000M"];

/// Fields of `dumpe2fs -h` that must agree.
const FIELDS: [&str; 25] = [
    "Check interval",
    "Default mount options",
    "Errors behavior",
    "Default directory hash",
    "Flex block group size",
    "Filesystem features",
    "Block count",
    "Reserved block count",
    "Inode count",
    "Free blocks",
    "Free inodes",
    "First block",
    "Block size",
    "Cluster size",
    "Group descriptor size",
    "Blocks per group",
    "Clusters per group",
    "Inodes per group",
    "Inode blocks per group",
    "First inode",
    "Inode size",
    "Total journal size",
    "Journal inode",
    "RAID stride",
    "RAID stripe width",
];

struct Dice(SeededEntropy);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0.next_u32() as usize % n
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }

    /// Options and a size.
    fn combination(&mut self) -> (Vec<String>, &'static str) {
        let mut out = match self.one_of(&["ext4", "ext4", "ext4", "ext3", "ext2", ""]) {
            "" => vec![],
            name => vec!["-t".to_owned(), name.to_owned()],
        };
        if self.below(10) == 0 {
            out.push("-j".to_owned());
        }
        let features: Vec<String> = (0..[0, 0, 1, 2, 3, 5][self.below(6)])
            .map(|_| format!("{}{}", self.one_of(&["", "", "^"]), self.one_of(&FEATURES)))
            .collect();
        if !features.is_empty() {
            out.extend(["-O".to_owned(), features.join(",")]);
        }
        for (name, share, values) in OPTIONS {
            if self.below(100) < share as usize {
                out.extend([name.to_owned(), self.one_of(values).to_owned()]);
            }
        }
        (out, self.one_of(&SIZES))
    }
}

fn make(program: &Path, conf: &Path, options: &[String], image: &Path, size: &str) -> Output {
    let _ = std::fs::remove_file(image);
    File::create(image).unwrap();
    let mut command = Command::new(program);
    command.args(["-F", "-q"]).args(options).arg(image).arg(size).stdin(Stdio::null());
    for (name, value) in [("LC_ALL", "C"), ("MKE2FS_SKIP_CHECK_MSG", "1"), ("E2FSPROGS_LIBMAGIC_SUPPRESS", "1")] {
        command.env(name, value);
    }
    command.env("MKE2FS_CONFIG", conf).output().unwrap()
}

fn fields(dumpe2fs: &Path, image: &Path) -> BTreeMap<String, String> {
    let out = Command::new(dumpe2fs).arg("-h").arg(image).env("LC_ALL", "C").output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let all = text.lines().filter_map(|l| l.split_once(':'));
    let kept = all.filter(|(name, _)| FIELDS.contains(name)).map(|(name, value)| {
        let mut words: Vec<&str> = value.split_whitespace().collect();
        words.sort_unstable();
        (name.to_owned(), words.join(" "))
    });
    kept.collect()
}

/// What is different; `None` where nothing is.
fn difference(ours_is: &Path, tools: [&Path; 3], dir: &Path, options: &[String], size: &str) -> Option<String> {
    let [mke2fs, dumpe2fs, e2fsck] = tools;
    let (ours, theirs, conf) = (dir.join("ours"), dir.join("theirs"), dir.join("conf"));
    let a = make(ours_is, &conf, options, &ours, size);
    let b = make(mke2fs, &conf, options, &theirs, size);
    let text = |o: &Output| String::from_utf8_lossy(&o.stderr).trim().to_owned();
    let half_way = ["Illegal inode number", "Could not allocate inode"].iter().any(|t| text(&b).contains(t));
    if a.status.success() != b.status.success() && !half_way {
        return Some(format!("ours {} ({}), reference {} ({})", a.status, text(&a), b.status, text(&b)));
    }
    if !a.status.success() {
        return None;
    }
    let check = Command::new(e2fsck).arg("-fn").arg(&ours).output().unwrap();
    // A journal alone is none of a checker's filesystems.
    let journal = options.iter().any(|o| o.split(',').any(|f| f == "journal_dev"));
    if !check.status.success() && !journal {
        return Some(format!("e2fsck: {}", String::from_utf8_lossy(&check.stdout)));
    }
    let (got, want) = (fields(dumpe2fs, &ours), fields(dumpe2fs, &theirs));
    (!half_way && got != want).then(|| {
        let names = FIELDS.into_iter().filter(|f| got.get(*f) != want.get(*f));
        let shown: Vec<_> = names.map(|f| format!("{f}: {:?}, reference {:?}", got.get(f), want.get(f))).collect();
        shown.join("; ")
    })
}

#[test]
fn random_options_do_what_the_reference_does() {
    let (Some(mke2fs), Some(dumpe2fs), Some(e2fsck)) = (tool("mke2fs"), tool("dumpe2fs"), tool("e2fsck")) else {
        return;
    };
    let count: u64 = std::env::var("EXT4KIT_MKFS_RANDOM").map_or(25, |v| v.parse().unwrap());
    let first: u64 = std::env::var("EXT4KIT_MKFS_SEED").map_or(0, |v| v.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("conf"), CONF.replace("{ ", "{\n").replace(" }", "\n}")).unwrap();
    let own = &dir.path().join("mke2fs");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_e4mkfs"), own).unwrap();
    let mut found = Vec::new();
    for seed in first..first + count {
        let (options, size) = Dice(SeededEntropy::new(seed)).combination();
        if let Some(what) = difference(own, [&mke2fs, &dumpe2fs, &e2fsck], dir.path(), &options, size) {
            found.push(format!("{seed}: {} {size}: {what}", options.join(" ")));
        }
    }
    assert!(found.is_empty(), "{} of {count} differ:\n{}", found.len(), found.join("\n"));
}

/// A configuration that uses what can be used, in two types and the defaults.
const OWN_CONF: &str = "[defaults]
\tfs_type = ext4
\tbase_features = sparse_super,large_file,filetype,dir_index
\tdefault_mntopts = journal_data_ordered,user_xattr
\tblocksize = 2048
\tinode_size = 512
\tinode_ratio = 8192
\treserved_ratio = 2.0
\thash_alg = tea
\terrors = remount-ro
\tenable_periodic_fsck = 1
[fs_types]
\text4 = {
\t\tfeatures = has_journal,extents,flex_bg,64bit
\t\tdefault_features = metadata_csum
\t\tflex_bg_size = 8
\t}
\tmine =
\t{
\t\t; small files
\t\tfeatures = ^has_journal,uninit_bg
\t\tinode_ratio = \"4096\"
\t\tblocksize = 1024
\t\toptions = stride=8,stripe_width=16
\t}
\twide = {
\t\tbase_features = sparse_super2,filetype
\t\tnum_backup_sb = 1
\t\tblocksize = -1
\t\tdefault_features = ^flex_bg
\t}
";

#[test]
fn a_configuration_means_what_it_means_to_the_reference() {
    let (Some(mke2fs), Some(dumpe2fs), Some(e2fsck)) = (tool("mke2fs"), tool("dumpe2fs"), tool("e2fsck")) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("conf");
    std::fs::write(&conf, OWN_CONF).unwrap();
    let ours = dir.path().join("e4mkfs");
    // The reference is told by the environment.
    let script = format!("#!/bin/sh\nexec {} --conf {} \"$@\"\n", env!("CARGO_BIN_EXE_e4mkfs"), conf.display());
    std::fs::write(&ours, script).unwrap();
    std::fs::set_permissions(&ours, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for line in [
        "",
        "-t ext3",
        "-T mine",
        "-t ext2 -T mine",
        "-T wide",
        "-T mine,wide",
        "-T wide,mine -O quota",
        "-m 0 -b 4096",
    ] {
        let options: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let what = difference(&ours, [&mke2fs, &dumpe2fs, &e2fsck], dir.path(), &options, "64M");
        assert!(what.is_none(), "{line}: {}", what.unwrap_or_default());
    }
}

#[test]
fn profiles_make_what_they_say() {
    let Some(dumpe2fs) = tool("dumpe2fs") else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("img");
    let features = |profile: &str| {
        let _ = std::fs::remove_file(&image);
        let mut command = Command::new(env!("CARGO_BIN_EXE_e4mkfs"));
        let status = command.args(["-q", "--profile", profile]).arg(&image).arg("64M").status().unwrap();
        assert!(status.success(), "{profile}");
        fields(&dumpe2fs, &image).remove("Filesystem features").unwrap()
    };
    let (all, older) = (features("default"), features("linux-5.10"));
    assert!(all.contains("orphan_file") && all.contains("metadata_csum_seed"));
    assert!(!older.contains("orphan_file") && !older.contains("metadata_csum_seed") && older.contains("metadata_csum"));
    assert!(!features("grub2").contains("metadata_csum_seed"));
    assert!(!features("android").contains("resize_inode"));
    assert_eq!(features("ext2-boot"), "filetype large_file sparse_super");
    let wrong =
        Command::new(env!("CARGO_BIN_EXE_e4mkfs")).args(["--profile", "dos"]).arg(&image).arg("64M").output().unwrap();
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("linux-5.10"));
}
