//! The images that are damaged: small, of many geometries, with one of everything in them.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common;

/// Name and mke2fs's options.
const GEOMETRIES: &[(&str, &[&str])] = &[
    ("ext4-1k", &["-t", "ext4", "-b", "1024", "-g", "4096", "-J", "size=1"]),
    ("ext4-4k", &["-t", "ext4", "-b", "4096", "-O", "^has_journal"]),
    ("ext2", &["-t", "ext2", "-b", "1024", "-g", "4096"]),
    ("ext3", &["-t", "ext3", "-b", "1024", "-J", "size=1"]),
    ("bigalloc", &["-t", "ext4", "-b", "1024", "-O", "bigalloc,^has_journal", "-C", "8192"]),
    ("inline", &["-t", "ext4", "-b", "1024", "-O", "inline_data,^has_journal"]),
    ("inline-512", &["-t", "ext4", "-b", "4096", "-I", "512", "-O", "inline_data,^has_journal,^metadata_csum"]),
    ("meta-bg", &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,^has_journal"]),
    (
        "quota",
        &[
            "-t",
            "ext4",
            "-b",
            "1024",
            "-J",
            "size=1",
            "-O",
            "quota,project",
            "-E",
            "quotatype=usrquota:grpquota:prjquota",
        ],
    ),
    ("orphan-file", &["-t", "ext4", "-b", "1024", "-J", "size=1", "-O", "orphan_file,metadata_csum_seed"]),
    ("casefold", &["-t", "ext4", "-b", "1024", "-O", "casefold,encrypt,verity,^has_journal"]),
    ("sparse-super2", &["-t", "ext4", "-b", "1024", "-g", "2048", "-O", "sparse_super2,^resize_inode,^has_journal"]),
    ("uninit-bg", &["-t", "ext4", "-b", "1024", "-J", "size=1", "-O", "^metadata_csum,uninit_bg,^64bit,^flex_bg"]),
    ("mmp", &["-t", "ext4", "-b", "2048", "-O", "mmp,^has_journal"]),
    ("small-inodes", &["-t", "ext4", "-b", "1024", "-I", "128", "-O", "^metadata_csum,^has_journal,^flex_bg"]),
];

/// Images of the kernel's making: name, mke2fs's options, taken while it is mounted.
const KERNEL: &[(&str, &[&str], bool)] = &[
    ("kernel", &["-t", "ext4", "-b", "1024", "-J", "size=1", "-O", "ea_inode,inline_data"], false),
    ("kernel-dirty", &["-t", "ext4", "-b", "1024", "-J", "size=1", "-O", "orphan_file,large_dir"], true),
];

/// One of everything, few of each.
fn fill(root: &Path) {
    let noise = |n: usize, salt: u32| -> Vec<u8> {
        let mut state = salt.wrapping_mul(0x9e37_79b9);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..n).map(|_| next()).collect()
    };
    std::fs::create_dir_all(root.join("a/b/c")).unwrap();
    for (i, size) in [0usize, 1, 40, 59, 61, 120, 1024, 5000, 40_000, 300_000].into_iter().enumerate() {
        std::fs::write(root.join(format!("file-{size}")), noise(size, i as u32)).unwrap();
        std::fs::write(root.join(format!("a/b/other-{size}")), noise(size + 7, 100 + i as u32)).unwrap();
    }
    // Enough pieces for an extent tree of three levels, and for doubly indirect blocks.
    let sparse = std::fs::File::create(root.join("a/pieces")).unwrap();
    for i in 0..400u64 {
        sparse.write_all_at(&noise(700, i as u32), i * 2048).unwrap();
    }
    let far = std::fs::File::create(root.join("a/far")).unwrap();
    far.write_all_at(b"far away", 40 << 20).unwrap();
    std::fs::hard_link(root.join("file-120"), root.join("a/hard")).unwrap();
    for (name, len) in [("short", 20), ("edge", 60), ("long", 700)] {
        std::os::unix::fs::symlink("t/".repeat(len / 2), root.join(format!("a/link-{name}"))).unwrap();
    }
    for (dir, count) in [("few", 6), ("some", 40), ("many", 300)] {
        std::fs::create_dir(root.join(dir)).unwrap();
        for i in 0..count {
            let name = format!("{dir}/entry-{i:04}-{}", "z".repeat(i % 30));
            std::fs::write(root.join(name), format!("{dir} {i}")).unwrap();
        }
    }
    std::fs::create_dir_all(root.join("tree/x/y")).unwrap();
    for d in ["tree/e", "tree/x/f", "tree/x/y/g", "tree/x/y/h"] {
        std::fs::create_dir(root.join(d)).unwrap();
    }
    let set = |name: &str, key: &str, value: &[u8]| {
        let _ = rustix::fs::lsetxattr(root.join(name), key, value, rustix::fs::XattrFlags::empty());
    };
    set("file-1", "user.small", b"v");
    set("file-1024", "user.body", &noise(40, 1));
    for name in ["file-5000", "file-40000", "a/b"] {
        set(name, "user.shared", &noise(400, 2));
    }
    set("file-61", "user.one", &noise(300, 3));
    set("file-61", "user.two", &noise(200, 4));
    set("a/far", "user.value", &noise(5000, 5));
    if common::is_root() {
        for (name, kind, numbers) in [("a/fifo", "p", ""), ("a/null", "c", "1 3"), ("a/disk", "b", "8 70000")] {
            let mut args = vec![root.join(name).into_os_string(), kind.into()];
            args.extend(numbers.split_whitespace().map(Into::into));
            common::run(Path::new("mknod"), &args);
        }
    }
}

fn mke2fs(image: &Path, args: &[&str], tree: Option<&Path>) -> bool {
    let Some(mke2fs) = common::tool("mke2fs") else { return false };
    std::fs::File::create(image).unwrap().set_len(10 << 20).unwrap();
    let mut command = Command::new(mke2fs);
    command.args(["-q", "-F", "-N", "1024", "-U", "11111111-2222-3333-4444-555555555555"]).args(args);
    if let Some(tree) = tree {
        command.arg("-d").arg(tree);
    }
    let out = command.arg(image).output().unwrap();
    if !out.status.success() {
        eprintln!("skipped: {}: {}", image.display(), String::from_utf8_lossy(&out.stderr).trim());
    }
    out.status.success()
}

/// Directories get their indexes from the reference, which does not make them when it fills an image.
fn index(image: &Path) {
    if let Some(e2fsck) = common::tool("e2fsck") {
        let _ = Command::new(e2fsck).args(["-fyD"]).arg(image).output();
    }
}

fn by_kernel(image: &Path, args: &[&str], mounted: bool) -> bool {
    if !common::is_root() || !mke2fs(image, args, None) {
        eprintln!("skipped: {}: needs root", image.display());
        return false;
    }
    let work = image.with_extension("work");
    std::fs::copy(image, &work).unwrap();
    let Some(mount) = common::Mount::new(&work, "") else { return false };
    let root = mount.path().to_owned();
    fill(&root);
    let _ = Command::new("fallocate").args(["-l", "200K"]).arg(root.join("a/reserved")).output();
    rustix::fs::syncfs(std::fs::File::open(&root).unwrap()).unwrap();
    for i in (0..300).step_by(3) {
        let _ = std::fs::remove_file(root.join(format!("many/entry-{i:04}-{}", "z".repeat(i % 30))));
    }
    if mounted {
        rustix::fs::syncfs(std::fs::File::open(&root).unwrap()).unwrap();
        std::fs::write(root.join("after"), "written last").unwrap();
        rustix::fs::fsync(std::fs::File::open(root.join("after")).unwrap()).unwrap();
        std::fs::copy(&work, image).unwrap();
    }
    drop(mount);
    if !mounted {
        std::fs::copy(&work, image).unwrap();
    }
    let _ = std::fs::remove_file(&work);
    true
}

fn make(dir: &Path, tree: &Path, name: &str) -> Option<PathBuf> {
    let image = dir.join(format!("{name}.img"));
    if image.exists() {
        return Some(image);
    }
    let made = if let Some((_, args)) = GEOMETRIES.iter().find(|g| g.0 == name) {
        let made = mke2fs(&image, args, Some(tree));
        index(&image);
        made
    } else {
        KERNEL.iter().find(|k| k.0 == name).is_some_and(|(_, args, mounted)| by_kernel(&image, args, *mounted))
    };
    if !made {
        let _ = std::fs::remove_file(&image);
    }
    made.then_some(image)
}

/// All images, or the one of this name.
pub(crate) fn all(only: &str) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    fill(&tree);
    // Values that need an inode of their own: mke2fs refuses them.
    let _ = rustix::fs::lremovexattr(tree.join("a/far"), "user.value");
    let kept = std::env::var_os("EXT4KIT_DAMAGE_IMAGES").map(PathBuf::from);
    let names: Vec<&str> = GEOMETRIES.iter().map(|g| g.0).chain(KERNEL.iter().map(|k| k.0)).collect();
    let wanted: Vec<&str> = names.into_iter().filter(|n| only.is_empty() || *n == only).collect();
    wanted.into_iter().filter_map(move |name| {
        let dir = kept.clone().unwrap_or_else(|| scratch.path().to_owned());
        let bytes = std::fs::read(make(&dir, &tree, name)?).unwrap();
        Some((name, bytes))
    })
}
