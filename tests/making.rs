//! What makes images is killed, run again, and given whole roots: a new image is there whole or not at all, the same tree gives the same
//! bytes in any order and by any number of threads, and an archive's tree is what `tar` unpacks.
//!
//! `EXT4KIT_MAKING=N` kills N times and runs N times. `EXT4KIT_ROOTS=DIR:DIR...` makes archives of these directories of the host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where it cannot go on")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Mount, assert_same_tree, host_tree, reference_fsck, tool};

fn rounds(few: usize) -> usize {
    std::env::var("EXT4KIT_MAKING").ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

fn e4mkfs(tree: &Path, image: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_e4mkfs"));
    command.args(["-q", "--seed", "making", "--owner", "0:0", "-d"]).arg(tree).arg(image).arg("64M");
    command.env("SOURCE_DATE_EPOCH", "1700000000").stdin(Stdio::null());
    command
}

/// Files in an order, with the same times.
fn tree(root: &Path, order: &[usize]) -> PathBuf {
    for n in order {
        let dir = root.join(format!("d{}", n % 7));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("file-{n}")), vec![*n as u8; n * n % 9000]).unwrap();
    }
    let touch = ["-exec", "touch", "-h", "-d", "@1600000000", "{}", "+"];
    let args: Vec<&std::ffi::OsStr> =
        std::iter::once(root.as_os_str()).chain(touch.iter().map(AsRef::as_ref)).collect();
    common::run(Path::new("find"), &args);
    root.to_path_buf()
}

#[test]
fn killed_it_leaves_no_image_or_a_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    common::fill_tree(&source, 3);
    std::fs::write(source.join("large"), vec![7; 20 << 20]).unwrap();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    std::fs::create_dir(&out).unwrap();
    let begun = Instant::now();
    assert!(e4mkfs(&source, &whole).status().unwrap().success());
    let (took, want) = (begun.elapsed(), std::fs::read(&whole).unwrap());
    let (image, rounds) = (out.join("image"), rounds(8));
    let mut made = 0;
    for n in 0..rounds {
        let mut child = e4mkfs(&source, &image).spawn().unwrap();
        std::thread::sleep(took.mul_f64((n * 37 % rounds) as f64 * 1.2 / rounds as f64));
        let _ = child.kill();
        child.wait().unwrap();
        let left: Vec<_> = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
        if image.exists() {
            assert!(std::fs::read(&image).unwrap() == want, "round {n}: half an image");
            made += 1;
            std::fs::remove_file(&image).unwrap();
        } else {
            assert!(left.is_empty(), "round {n}: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    eprintln!("{made} of {rounds} were done before the kill");
}

#[test]
fn order_and_threads_do_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let mut want = None;
    for n in 0..rounds(4) {
        let root = dir.path().join(format!("tree-{n}"));
        let mut order: Vec<usize> = (0..400).collect();
        order.rotate_left(n * 53 % 400);
        if n % 2 == 1 {
            order.reverse();
        }
        let tree = tree(&root, &order);
        let image = dir.path().join("image");
        let mut make = e4mkfs(&tree, &image);
        assert!(make.args(["--jobs", &(n % 4 + 1).to_string()]).status().unwrap().success());
        let bytes = std::fs::read(&image).unwrap();
        let want = want.get_or_insert_with(|| bytes.clone());
        assert!(*want == bytes, "run {n} gives other bytes");
        std::fs::remove_dir_all(root).unwrap();
    }
}

#[test]
fn archives_of_roots_are_what_tar_unpacks() {
    let Some(tar) = tool("tar") else { return };
    if !common::is_root() {
        return eprintln!("skipped: unpacking with owners needs root");
    }
    let dir = tempfile::tempdir().unwrap();
    let roots = std::env::var("EXT4KIT_ROOTS");
    let roots: Vec<PathBuf> = if let Ok(list) = &roots {
        std::env::split_paths(list).collect()
    } else {
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        common::fill_tree(&root, 11);
        vec![root]
    };
    let attributes = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"];
    for root in roots {
        let (archive, image, plain) = (dir.path().join("a.tar"), dir.path().join("image"), dir.path().join("plain"));
        let mut pack = Command::new(&tar);
        pack.args(attributes)
            .args(["--sparse", "--one-file-system", "-cf"])
            .arg(&archive)
            .arg("-C")
            .arg(&root)
            .arg(".");
        assert!(pack.status().unwrap().success(), "{}", root.display());
        let make = Command::new(env!("CARGO_BIN_EXE_e4mkfs"))
            .args(["-q", "-O", "ea_inode", "-d"])
            .arg(&archive)
            .arg(&image)
            .status();
        assert!(make.unwrap().success(), "{}", root.display());
        reference_fsck(&image);
        // Another filesystem of the same kind, for tar.
        let size = std::fs::metadata(&archive).unwrap().len() * 3 + (64 << 20);
        let empty = Command::new(env!("CARGO_BIN_EXE_e4mkfs"))
            .args(["-q", "-F", "-O", "ea_inode", "-i", "4096"])
            .arg(&plain)
            .arg(format!("{}K", size / 1024))
            .status();
        assert!(empty.unwrap().success());
        let (Some(ours), Some(theirs)) = (Mount::new(&image, "ro"), Mount::new(&plain, "")) else { return };
        let mut unpack = Command::new(&tar);
        unpack.args(attributes).arg("-xpf").arg(&archive).arg("-C").arg(theirs.path());
        assert!(unpack.status().unwrap().success());
        assert_same_tree(&root.display().to_string(), &host_tree(theirs.path()), &host_tree(ours.path()));
        drop((ours, theirs));
        for file in [&archive, &image, &plain] {
            std::fs::remove_file(file).unwrap();
        }
    }
}
