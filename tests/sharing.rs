//! Files that share blocks on purpose (`shared_blocks`): `-E unshare_blocks` gives each its own, or changes nothing where there is no room.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use ext4kit::format::features::RoCompat;
use ext4kit::format::superblock::Superblock;

fn run(program: &str, args: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(program).args(args).output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    (out.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// An image, with no free block where it is `full`, in which `/b` has the first block of `/a`.
fn shared(dir: &Path, full: bool) -> PathBuf {
    let (tree, img) = (dir.join("tree"), dir.join("img"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("a"), [1; 1024]).unwrap();
    // A hole.
    std::fs::File::create(tree.join("b")).unwrap().set_len(1024).unwrap();
    let made = run(
        env!("CARGO_BIN_EXE_e4mkfs"),
        &["-q", "-t", "ext2", "-b", "1024", "-m", "0", "-d", tree.to_str().unwrap(), img.to_str().unwrap(), "2M"],
    );
    assert_eq!(made.0, Some(0), "{}", made.1);
    if full {
        fill(&img, &dir.join("more"));
    }
    let vol = common::open(&img);
    let at = |name: &[u8]| {
        let ino = vol.resolve(name, ext4kit::volume::LastLink::Follow).unwrap();
        let (offset, _) = vol.inode_offset(ino).unwrap();
        offset as usize + 40
    };
    let (a, b) = (at(b"/a"), at(b"/b"));
    drop(vol);
    let mut bytes = std::fs::read(&img).unwrap();
    bytes.copy_within(a..a + 4, b);
    let mut sb = Superblock::decode(&bytes[1024..2048]).unwrap();
    let mut f = sb.features();
    f.ro_compat |= RoCompat::SHARED_BLOCKS;
    sb.set_features(f);
    bytes[1024..2048].copy_from_slice(&sb.encode());
    std::fs::write(&img, bytes).unwrap();
    // The count of blocks is brought in line.
    let image = img.to_str().unwrap();
    assert_eq!(run(env!("CARGO_BIN_EXE_e4fsck"), &["-fy", image]).0, Some(1));
    assert_eq!(run(env!("CARGO_BIN_EXE_e4fsck"), &["-fn", image]).0, Some(0));
    img
}

/// Use up all blocks.
fn fill(img: &Path, content: &Path) {
    let free = || common::open(img).superblock().free_blocks_count();
    let mut blocks = free();
    while free() > 0 && blocks > 0 {
        std::fs::write(content, vec![4; blocks as usize * 1024]).unwrap();
        let command = format!("write {} more{blocks}", content.display());
        let _ = run(env!("CARGO_BIN_EXE_e4sh"), &["-w", "-R", &command, img.to_str().unwrap()]);
        blocks = free().min(if blocks > 16 { blocks - 8 } else { blocks - 1 });
    }
    assert_eq!(free(), 0);
}

fn is_shared(img: &Path) -> bool {
    common::open(img).superblock().features().ro_compat.contains(RoCompat::SHARED_BLOCKS)
}

#[test]
fn files_get_blocks_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let img = shared(dir.path(), false);
    let before = common::image_tree(&common::open(&img));
    let (code, said) = run(env!("CARGO_BIN_EXE_e4fsck"), &["-fy", "-E", "unshare_blocks", img.to_str().unwrap()]);
    assert!(code == Some(1) && !is_shared(&img), "{code:?} {said}");
    common::reference_fsck(&img);
    common::assert_same_tree("unshared", &before, &common::image_tree(&common::open(&img)));
}

#[test]
fn without_room_they_stay_shared() {
    let dir = tempfile::tempdir().unwrap();
    let img = shared(dir.path(), true);
    let before = std::fs::read(&img).unwrap();
    let (code, said) = run(env!("CARGO_BIN_EXE_e4fsck"), &["-fy", "-E", "unshare_blocks", img.to_str().unwrap()]);
    assert!(code == Some(4) && is_shared(&img), "{code:?} {said}");
    let after = std::fs::read(&img).unwrap();
    assert!(before[2048..] == after[2048..], "something but the superblock has changed");
}
