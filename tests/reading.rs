//! Reading what others made: images by the reference mke2fs in many geometries, filled through a kernel mount (or
//! by `mke2fs -d` where the kernel does not mount it), read back by this library and compared file by file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{Mount, Tree, assert_same_tree, fill_tree, host_tree, image_tree, open, run, tool};

/// Make an image with `args`, fill it, and compare what we read with what went in.
fn round_trip(name: &str, args: &[&str]) {
    let Some(mke2fs) = tool("mke2fs") else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("img");
    std::fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
    let mut all: Vec<&str> = vec!["-q", "-F"];
    all.extend(args);
    let image_text = image.to_str().unwrap();
    let plain: Vec<&str> = all.iter().copied().chain([image_text]).collect();
    run(&mke2fs, &plain);
    let (mut want, by_kernel) = match fill_by_kernel(&image) {
        Some(tree) => (tree, true),
        None => (fill_by_mke2fs(&mke2fs, &all, &image, dir.path()), false),
    };
    let mut got = image_tree(&open(&image));
    if !by_kernel {
        // Older mke2fs -d stores whole seconds, and gives the root its own time.
        for e in got.values_mut() {
            e.mtime.1 = 0;
        }
        if let (Some(root), Some(want)) = (got.get_mut(&b""[..]), want.get(&b""[..])) {
            root.mtime = want.mtime;
        }
        if args.iter().any(|a| a.contains("inline_data")) {
            // mke2fs 1.47.0 -d with inline_data loses a hole at the end of a file.
            want.remove(&b"sparse"[..]);
            got.remove(&b"sparse"[..]);
        }
    }
    assert_same_tree(name, &want, &got);
}

fn fill_by_kernel(image: &Path) -> Option<Tree> {
    let mount = Mount::new(image, "")?;
    fill_tree(mount.path(), 1);
    Some(host_tree(mount.path()))
}

fn fill_by_mke2fs(mke2fs: &Path, args: &[&str], image: &Path, dir: &Path) -> Tree {
    let source = dir.join("tree");
    std::fs::create_dir(&source).unwrap();
    fill_tree(&source, 1);
    let mut all: Vec<&str> = args.to_vec();
    all.extend(["-d", source.to_str().unwrap(), image.to_str().unwrap()]);
    run(mke2fs, &all);
    let mut tree = host_tree(&source);
    for e in tree.values_mut() {
        e.mtime.1 = 0;
    }
    // The root of the image has lost+found too, and mke2fs gives it to root whoever runs it.
    if let Some(root) = tree.get_mut(&b""[..]) {
        root.owner = (0, 0);
        root.links += 1;
    }
    tree
}

macro_rules! geometries {
    ($($name:ident: $args:expr;)*) => {$(
        #[test]
        fn $name() {
            round_trip(stringify!($name), &$args);
        }
    )*};
}

geometries! {
    ext4_4k: ["-t", "ext4", "-b", "4096"];
    ext4_2k: ["-t", "ext4", "-b", "2048"];
    ext4_1k: ["-t", "ext4", "-b", "1024"];
    ext4_no_64bit: ["-t", "ext4", "-O", "^64bit"];
    ext4_no_csum: ["-t", "ext4", "-O", "^metadata_csum,uninit_bg"];
    ext4_inode_128: ["-t", "ext4", "-I", "128"];
    ext4_inode_1024: ["-t", "ext4", "-b", "4096", "-I", "1024"];
    bigalloc: ["-t", "ext4", "-O", "bigalloc", "-C", "16384"];
    bigalloc_64k: ["-t", "ext4", "-O", "bigalloc", "-C", "65536"];
    bigalloc_1k: ["-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "8192"];
    meta_bg: ["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode"];
    inline_data: ["-t", "ext4", "-O", "inline_data"];
    ea_inode: ["-t", "ext4", "-O", "ea_inode"];
    large_dir: ["-t", "ext4", "-b", "1024", "-O", "large_dir"];
    casefold: ["-t", "ext4", "-O", "casefold"];
    sparse_super2: ["-t", "ext4", "-O", "sparse_super2,^resize_inode"];
    ext3: ["-t", "ext3"];
    ext3_1k: ["-t", "ext3", "-b", "1024"];
    ext2: ["-t", "ext2"];
    ext2_no_filetype: ["-t", "ext2", "-O", "^filetype,^dir_index"];
    block_64k: ["-t", "ext4", "-b", "65536"];
}
