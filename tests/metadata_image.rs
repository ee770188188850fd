//! Images of the metadata alone: what e2image stores is stored, the checker's verdict is that of the original, and with other names no
//! old one is left. `EXT4KIT_METADATA=1` looks at all geometries, not at the first three.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{image_tree, open, tool};

const KINDS: &[&str] = &[
    "-t ext4 -b 1024",
    "-t ext4 -b 4096 -O inline_data,quota,orphan_file",
    "-t ext4 -O bigalloc,ea_inode -C 16384",
    "-t ext3 -b 1024",
    "-t ext2 -b 1024 -O dir_index",
    "-t ext4 -b 1024 -O ^metadata_csum,mmp",
    "-t ext4 -b 1024 -E encoding=utf8",
];

fn kinds() -> &'static [&'static str] {
    if std::env::var_os("EXT4KIT_METADATA").is_some() { KINDS } else { &KINDS[..3] }
}

/// Words that a metadata image with other names must not hold.
const WORDS: &[&str] = &["confidential", "Unverwechselbar", "geheime-datei", "mighty-long-target", "within-the-inode"];
/// The same of attributes, where the host keeps them.
const ATTRIBUTES: &[&str] = &["an-attribute", "its-value"];

fn image(dir: &Path, kind: &str) -> PathBuf {
    let (tree, image) = (dir.join("tree"), dir.join("image"));
    if !tree.exists() {
        std::fs::create_dir_all(tree.join("confidential/below")).unwrap();
        for n in 0..1200 {
            std::fs::write(tree.join(format!("confidential/geheime-datei-{n}")), "").unwrap();
        }
        for n in 0..40 {
            std::fs::write(tree.join(format!("confidential/below/Unverwechselbar-{n}")), vec![b'C'; n * 500]).unwrap();
            std::fs::write(tree.join(format!("confidential/{}", char::from(b'A' + n as u8 % 26))), "").unwrap();
        }
        // Nearly all names of one byte that there are, and enough others for an index.
        std::fs::create_dir(tree.join("crowded")).unwrap();
        for n in (1..=235).filter(|n| !matches!(n, b'/' | b'.')) {
            let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(std::slice::from_ref(&n));
            std::fs::write(tree.join("crowded").join(name), "").unwrap();
            std::fs::write(tree.join(format!("crowded/geheime-datei-{n}")), "").unwrap();
        }
        std::fs::write(tree.join("large"), "content-of-a-file".repeat(20_000)).unwrap();
        for (name, len) in [("fast", 1), ("inline", 3), ("slow", 20)] {
            std::os::unix::fs::symlink("mighty-long-target/".repeat(len), tree.join(name)).unwrap();
        }
        std::fs::write(tree.join("tiny"), "within-the-inode").unwrap();
        for name in ["tiny", "large", "confidential", "crowded"] {
            let (value, flags) = ("its-value".repeat(name.len() * 8), rustix::fs::XattrFlags::empty());
            if let Err(e) = rustix::fs::lsetxattr(tree.join(name), "user.an-attribute", value.as_bytes(), flags) {
                eprintln!("skipped: attributes: {e}");
            }
        }
        common::fill_tree(&tree, 5);
    }
    let mut make = Command::new(env!("CARGO_BIN_EXE_e4mkfs"));
    make.args(["-q", "--seed", "m", "--owner", "0:0", "-N", "5000", "-d"]).arg(&tree).args(kind.split_whitespace());
    let out = make.arg(&image).arg("48M").env("SOURCE_DATE_EPOCH", "1600000000").output().unwrap();
    assert!(out.status.success(), "{kind}: {}", String::from_utf8_lossy(&out.stderr));
    image
}

fn e4sh(image: &Path, lines: &[&str]) -> Output {
    let mut shell = Command::new(env!("CARGO_BIN_EXE_e4sh"));
    for line in lines {
        shell.args(["-R", line]);
    }
    shell.arg(image).output().unwrap()
}

fn ok(image: &Path, line: &str) -> String {
    let out = e4sh(image, &[line]);
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn verdict(image: &Path) -> Option<i32> {
    let out = Command::new(tool("e2fsck")?).arg("-fn").arg(image).output().unwrap();
    if out.status.code() != Some(0) {
        eprintln!("{}", String::from_utf8_lossy(&out.stdout));
    }
    out.status.code()
}

fn holds(bytes: &[u8], word: &str) -> bool {
    // Most of an image is zeros.
    let first = word.as_bytes()[0];
    let blocks = bytes.chunks(1024).enumerate().filter(|(_, b)| b.iter().any(|b| *b != 0));
    let mut found =
        blocks.flat_map(|(n, b)| b.iter().enumerate().filter(|(_, b)| **b == first).map(move |(i, _)| n * 1024 + i));
    found.any(|at| bytes[at..].starts_with(word.as_bytes()))
}

#[test]
fn what_e2image_stores_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    for kind in kinds() {
        let image = image(dir.path(), kind);
        let said = ok(&image, &format!("image raw {}", ours.display()));
        assert!(said.ends_with(" blocks of metadata\n"), "{kind}: {said}");
        let (original, bytes) = (std::fs::read(&image).unwrap(), std::fs::read(&ours).unwrap());
        assert_eq!(original.len(), bytes.len());
        let small = ours.metadata().unwrap().blocks() * 512;
        assert!(small < image.metadata().unwrap().blocks() * 512, "{kind}: {small}");
        assert!(holds(&original, "content-of-a-file") && !holds(&bytes, "content-of-a-file"), "{kind}");
        assert_eq!(verdict(&ours), verdict(&image), "{kind}");
        for path in ["/", "/confidential", "/large", "/slow", "/confidential/below/Unverwechselbar-7", "<7>", "<8>"] {
            assert_eq!(ok(&image, &format!("stat {path}")), ok(&ours, &format!("stat {path}")), "{kind}: {path}");
        }
        let Some(e2image) = tool("e2image") else { continue };
        let _ = std::fs::remove_file(&theirs);
        common::run(&e2image, &["-r", image.to_str().unwrap(), theirs.to_str().unwrap()]);
        let theirs = std::fs::read(&theirs).unwrap();
        let mut stored = 0;
        for (n, block) in theirs.chunks(1024).enumerate().filter(|(_, b)| b.iter().any(|b| *b != 0)) {
            // e2image takes the time of the superblock for its own.
            assert!(
                n == 1 || bytes[n * 1024..(n + 1) * 1024] == *block,
                "{kind}: 1 KiB block {n} is missing or differs"
            );
            stored += 1;
        }
        assert!(stored > 100, "{kind}: {stored}");
        // The other format holds the same.
        let packed = dir.path().join("packed");
        ok(&image, &format!("image qcow2 {}", packed.display()));
        let Some(qemu_img) = tool("qemu-img") else { continue };
        common::run(
            &qemu_img,
            &["compare", "-f", "raw", "-F", "qcow2", ours.to_str().unwrap(), packed.to_str().unwrap()],
        );
    }
}

#[test]
fn no_old_name_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    for kind in kinds() {
        let image = image(dir.path(), kind);
        // A directory that was there once, a target in an inode that is free, and copies of all of it in the log.
        let mut shell = Command::new(env!("CARGO_BIN_EXE_e4sh"));
        for line in
            ["mkdir confidential2", "symlink gone confidential3", "rm gone", "rmdir confidential2", "rm confidential/A"]
        {
            shell.args(["-R", line]);
        }
        let out = shell.args(["-w", "--keep-going"]).arg(&image).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let original = std::fs::read(&image).unwrap();
        let said = ok(&image, &format!("image raw {} --scramble-names", other.display()));
        assert!(said.contains(" names replaced") && !said.contains("left out"), "{kind}: {said}");
        let bytes = std::fs::read(&other).unwrap();
        let attributes = ATTRIBUTES.iter().filter(|word| holds(&original, word));
        for word in WORDS.iter().chain(attributes) {
            assert!(holds(&original, word), "{kind}: {word}");
            assert!(!holds(&bytes, word), "{kind}: {word} is left");
        }
        assert_eq!(verdict(&other), tool("e2fsck").map(|_| 0), "{kind}");
        // Every name is found through the index, and the tree has its shape.
        let (was, is) = (image_tree(&open(&image)), image_tree(&open(&other)));
        assert_eq!(was.len(), is.len(), "{kind}");
        let shape = |t: &common::Tree| -> Vec<_> {
            let mut all: Vec<_> = t.iter().map(|(path, e)| (path.len(), e.permissions, e.links, e.size)).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(shape(&was), shape(&is), "{kind}");
        let old: BTreeSet<&[u8]> = was.keys().filter(|k| k.len() > 4).map(Vec::as_slice).collect();
        let kept: Vec<_> = is.keys().filter(|k| old.contains(k.as_slice())).collect();
        assert!(kept.is_empty(), "{kind}: {kept:?}");
        // The same again.
        let again = dir.path().join("again");
        ok(&image, &format!("image raw {} --scramble-names", again.display()));
        assert!(bytes == std::fs::read(again).unwrap(), "{kind}");
    }
}

#[test]
fn damaged_images_are_stored_as_far_as_they_go() {
    let dir = tempfile::tempdir().unwrap();
    let (bad, other) = (dir.path().join("bad"), dir.path().join("other"));
    let mut state = 9u32;
    let mut random = |n: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % n
    };
    for kind in &KINDS[..2] {
        let image = image(dir.path(), kind);
        let bytes = std::fs::read(&image).unwrap();
        let used: Vec<usize> = (0..bytes.len() / 1024).filter(|n| bytes[n * 1024..][..1024] != [0; 1024]).collect();
        for case in 0..4 {
            let mut bytes = bytes.clone();
            for _ in 0..40 {
                // The superblock stays: without one there is no filesystem.
                let at = used[random(used.len())].max(2) * 1024 + random(1024);
                bytes[at] = random(256) as u8;
            }
            if case % 4 == 3 {
                bytes.truncate(20 << 20);
            }
            std::fs::write(&bad, &bytes).unwrap();
            for more in ["", " --scramble-names"] {
                let mut shell = Command::new(env!("CARGO_BIN_EXE_e4sh"));
                let line = format!("image raw {}{more}", other.display());
                let out = shell.args(["-c", "-n", "-R", &line]).arg(&bad).output().unwrap();
                let code = out.status.code();
                assert!(
                    matches!(code, Some(0 | 1 | 3 | 4)),
                    "{kind} {case}: {code:?} {}",
                    String::from_utf8_lossy(&out.stderr)
                );
                if more.is_empty() {
                    assert_eq!(code, Some(0), "{kind} {case}: {}", String::from_utf8_lossy(&out.stderr));
                } else if code == Some(0) {
                    let left = std::fs::read(&other).unwrap();
                    assert!(!holds(&left, "geheime-datei"), "{kind} {case}: a name is left");
                }
            }
        }
    }
}

#[test]
fn an_image_that_is_being_changed_is_stored_as_it_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    let image = image(dir.path(), KINDS[0]);
    let mut shell = Command::new(env!("CARGO_BIN_EXE_e4sh"));
    shell.args(["-w", "-R", "mkdir made", "-R", "commit", "-R", "mkdir too", "-R"]);
    let out = shell.arg(format!("image raw {}", other.display())).arg(&image).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(verdict(&other), tool("e2fsck").map(|_| 0));
    assert!(ok(&other, "ls -p /").contains("/too/"));
    for wrong in ["image", "image raw", "image vhd x", "image raw a b", "image raw /nowhere/at/all"] {
        assert!(!e4sh(&image, &[wrong]).status.success(), "{wrong}");
    }
}
