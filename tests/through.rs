//! Content that is copied in through the page cache: each path gives the bytes that the direct way gives, a filesystem that
//! the reference and the kernel take, and leaves the image as it was where there is no room.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{assert_same_tree, host_tree, image_tree, open, reference_fsck};

const E4CP: &str = env!("CARGO_BIN_EXE_e4cp");

fn e4cp(args: &[&str]) -> Output {
    Command::new(E4CP).args(args).stdin(Stdio::null()).env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap()
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn succeeds(args: &[&str]) -> String {
    let out = e4cp(args);
    assert!(out.status.success(), "e4cp {args:?}: {}", text(&out));
    text(&out)
}

/// An image of a kind, empty; `None` (loudly) without mke2fs.
fn image(dir: &Path, name: &str, options: &str, size: &str) -> Option<PathBuf> {
    let mke2fs = common::tool("mke2fs")?;
    let path = dir.join(name);
    let _ = std::fs::remove_file(&path);
    let mut args = vec!["-q", "-F"];
    args.extend(options.split_whitespace());
    args.extend([path.to_str().unwrap(), size]);
    common::run(&mke2fs, &args);
    Some(path)
}

/// Files of all kinds of sizes and holes.
fn fill(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    let bytes = |n: usize| -> Vec<u8> { (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect() };
    for n in [0, 1, 59, 1023, 1024, 4095, 4096, 4097, 65_536, 70_001, 1_048_576, 3_000_000] {
        std::fs::write(dir.join(format!("f{n}")), bytes(n)).unwrap();
    }
    // Larger than what may stay dirty, so that writeback runs in between.
    std::fs::write(dir.join("large"), bytes(20_000_001)).unwrap();
    let sparse = std::fs::File::create(dir.join("sparse")).unwrap();
    for i in 0..40u64 {
        sparse.write_all_at(&bytes(5000), i * 50_000 + i * i * 17).unwrap();
    }
    sparse.set_len(3_333_333).unwrap();
    std::fs::File::create(dir.join("hole")).unwrap().set_len(1 << 20).unwrap();
}

/// Kind of filesystem, and what iomap is told not to be there for.
const KINDS: &[(&str, &str)] = &[
    ("-t ext4 -b 4096", ""),
    ("-t ext4 -b 1024", ""),
    ("-t ext4 -b 1024 -O bigalloc -C 16384", ""),
    ("-t ext3 -b 2048", "buffer-head /t/f4097: it has no extent tree"),
    ("-t ext4 -b 4096 -O inline_data -I 256", "direct /t/f59: inline data"),
    ("-t ext4 -b 4096 -O quota,project,^has_journal", ""),
];

#[test]
fn each_path_gives_what_the_direct_way_gives() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("t");
    fill(&source);
    let source = source.to_str().unwrap();
    let want = host_tree(Path::new(source));
    for (n, (kind, why)) in KINDS.iter().enumerate() {
        let Some(direct) = image(dir.path(), "direct", kind, "64M") else { return };
        succeeds(&["-a", source, &format!("{}:/", direct.display())]);
        let direct = image_tree(&open(&direct));
        for (k, (path, size)) in [("iomap", "4096"), ("buffer-head", "64K"), ("auto", "999")].into_iter().enumerate() {
            // The small writes are many: one kind is enough.
            let size = if size == "999" && n > 0 { "1M" } else { size };
            let image = image(dir.path(), "image", kind, "64M").unwrap();
            let to = format!("{}:/", image.display());
            let said = succeeds(&["-av", "--io-path", path, "--write-size", size, source, &to]);
            let (first, second) = if path == "buffer-head" { ("buffer-head", "") } else { ("iomap", *why) };
            let told =
                if second.is_empty() { format!("through {first} /t/f4097\n") } else { format!("through {second}\n") };
            assert!(path == "buffer-head" || said.contains(&told), "{kind}, {path}: {told:?} is not in {said}");
            reference_fsck(&image);
            assert_same_tree(&format!("{kind}, {path}"), &direct, &image_tree(&open(&image)));
            if k == n % 3
                && let Some(mount) = common::Mount::new(&image, "ro")
            {
                assert_same_tree(kind, &want, &host_tree(&mount.path().join("t")));
            }
            // Once more, over what is there, and gone without a trace.
            succeeds(&["-a", "--io-path", path, source, &to]);
            assert_same_tree(kind, &direct, &image_tree(&open(&image)));
            reference_fsck(&image);
        }
    }
}

#[test]
fn what_has_no_room_leaves_the_image_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, len: u64| {
        let path = dir.path().join(name);
        std::fs::write(&path, vec![7; len as usize]).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let Some(image) = image(dir.path(), "image", "-t ext4 -b 1024 -J size=4", "24M") else { return };
    let to = |name: &str| format!("{}:/{name}", image.display());
    succeeds(&[&file("first", 4 << 20), &to("first")]);
    let before = std::fs::read(&image).unwrap();
    let tree = image_tree(&open(&image));
    let free = u64::from(open(&image).superblock().free_blocks_count_lo.get()) * 1024;
    let huge = file("huge", free + (1 << 20));
    // It would fit, but for what is kept back for metadata: that is found out while it is written.
    let large = file("large", free - 20 * 1024);
    for path in ["iomap", "buffer-head"] {
        let out = e4cp(&["--io-path", path, &huge, &to("huge")]);
        assert_eq!(out.status.code(), Some(1), "{path}: {}", text(&out));
        assert!(std::fs::read(&image).unwrap() == before, "{path}: refused before a byte is written");
        let out = e4cp(&["--io-path", path, "--write-size", "64K", &large, &to("large")]);
        assert_eq!(out.status.code(), Some(1), "{path}: {}", text(&out));
        assert_same_tree(path, &tree, &image_tree(&open(&image)));
        assert_eq!(u64::from(open(&image).superblock().free_blocks_count_lo.get()) * 1024, free, "{path}");
        reference_fsck(&image);
        std::fs::write(&image, &before).unwrap();
    }
}

#[test]
fn the_same_command_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, vec![5; 3_000_001]).unwrap();
    let Some(image) = image(dir.path(), "image", "-t ext4 -b 4096", "32M") else { return };
    let empty = std::fs::read(&image).unwrap();
    let to = format!("{}:/f", image.display());
    let run = |size: &str| {
        std::fs::write(&image, &empty).unwrap();
        succeeds(&["--io-path", "iomap", "--write-size", size, file.to_str().unwrap(), &to]);
        std::fs::read(&image).unwrap()
    };
    assert!(run("4K") == run("4K"));
    // Nothing of the size of the writes is left in what fits one round of writeback.
    assert!(run("4K") == run("1M"));
}
