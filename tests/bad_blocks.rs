//! Bad blocks: lists that are given (`-l`, `-L`), blocks that a scan finds (`-c`, `-cc`, `-k`), judged by the reference.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use ext4kit::check::{CheckOptions, Medium, bad_blocks};
use ext4kit::device::fault::{Effect, Fault, FaultDevice, Trigger};
use ext4kit::device::{BlockDevice, MemoryDevice};
use ext4kit::env::Timestamp;
use ext4kit::error::IoOp;
use ext4kit::progress::Silent;
use ext4kit::volume::{LastLink, Owner};

/// An image with files in it.
fn image(dir: &Path, options: &[&str]) -> PathBuf {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("d")).unwrap();
    for i in 0..40u8 {
        std::fs::write(tree.join(format!("d/{i}")), vec![i; 3000 + 777 * usize::from(i)]).unwrap();
    }
    let path = dir.join("img");
    let mut args = options.to_vec();
    args.extend(["-q", "-d", tree.to_str().unwrap(), path.to_str().unwrap(), "12M"]);
    common::run(Path::new(env!("CARGO_BIN_EXE_e4mkfs")), &args);
    path
}

fn e4fsck(options: &[&str], image: &Path) -> (Option<i32>, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_e4fsck")).args(options).arg(image).output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    (out.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// What the reference says is listed.
fn listed(image: &Path) -> Option<Vec<u64>> {
    let out = Command::new(common::tool("dumpe2fs")?).arg("-b").arg(image).output().unwrap();
    Some(String::from_utf8_lossy(&out.stdout).lines().filter_map(|l| l.trim().parse().ok()).collect())
}

/// Block `n` of a file.
fn block_of(image: &Path, path: &str, n: usize) -> u64 {
    let vol = common::open(image);
    let ino = vol.resolve(path.as_bytes(), LastLink::Follow).unwrap();
    let inode = vol.inode(ino).unwrap();
    let extents = vol.extents(Owner { ino, inode: &inode }).unwrap();
    extents.iter().flat_map(|e| e.pblk.0..e.pblk.0 + u64::from(e.len)).nth(n).unwrap()
}

#[test]
fn a_list_is_set_and_added_to() {
    for options in [&["-t", "ext4", "-b", "1024"][..], &["-t", "ext2", "-b", "1024"], &["-t", "ext4"]] {
        let dir = tempfile::tempdir().unwrap();
        let img = image(dir.path(), options);
        let before = common::image_tree(&common::open(&img));
        let mine = block_of(&img, "/d/30", 2);
        let many: Vec<u64> = (2000..2700).chain([mine]).collect();
        let list = dir.path().join("list");
        let write = |blocks: &[u64]| {
            let lines: Vec<String> = blocks.iter().map(ToString::to_string).collect();
            std::fs::write(&list, lines.join("\n")).unwrap();
        };
        let expect = |flag: &str, blocks: &[u64], want: &[u64], code| {
            write(blocks);
            let (got, said) = e4fsck(&["-y", flag, list.to_str().unwrap()], &img);
            assert_eq!(got, Some(code), "{flag}: {said}");
            let mut want = want.to_vec();
            want.sort_unstable();
            want.dedup();
            if let Some(have) = listed(&img) {
                assert!(have == want, "{options:?} {flag}: {have:?}");
            }
            assert_eq!(e4fsck(&["-fn"], &img).0, Some(0));
            common::reference_fsck(&img);
            common::assert_same_tree(flag, &before, &common::image_tree(&common::open(&img)));
            said
        };
        expect("-L", &many, &many, 1);
        assert_ne!(block_of(&img, "/d/30", 2), mine, "the file has it still");
        expect("-l", &[mine], &many, 0);
        let said = expect("-l", &[2900, 99_999_999], &[&many[..], &[2900]].concat(), 1);
        assert!(said.contains("99999999 is outside"), "{said}");
        expect("-L", &[2900], &[2900], 1);
        expect("-L", &[], &[], 1);
    }
}

/// What a scan finds in an image of which some bytes cannot be read or written, and whether the rest is what it was.
fn scan(img: &Path, faults: &[(IoOp, Range<u64>)], medium: Medium) -> Vec<u64> {
    let base = Arc::new(MemoryDevice::from_bytes(std::fs::read(img).unwrap()));
    let before = base.to_bytes();
    let fault = |(op, r): &(IoOp, Range<u64>)| Fault {
        op: *op,
        trigger: Trigger::Range(r.clone()),
        effect: if *op == IoOp::Read { Effect::Bad } else { Effect::Fail },
    };
    let faults: Vec<Fault> = faults.iter().map(fault).collect();
    let mut reopen = || Ok(Arc::new(FaultDevice::new(Arc::clone(&base), faults.clone())) as Arc<dyn BlockDevice>);
    let options = CheckOptions::everything(Timestamp::from_secs(0));
    let bad = bad_blocks(&mut reopen, &options, medium, &Silent).unwrap();
    assert!(base.to_bytes() == before, "the scan has changed something");
    bad.iter().map(|b| b.0).collect()
}

#[test]
fn a_scan_finds_what_cannot_be_read_or_written() {
    let dir = tempfile::tempdir().unwrap();
    let img = image(dir.path(), &["-t", "ext4", "-b", "1024"]);
    let reads = (IoOp::Read, 5_000_000..5_000_100);
    let writes = (IoOp::Write, 7_000_000..7_002_000);
    let first = 7_000_000 / 1024;
    assert!(scan(&img, &[], Medium::Write).is_empty());
    assert_eq!(scan(&img, &[reads.clone(), writes.clone()], Medium::Read), [5_000_000 / 1024]);
    let both = scan(&img, &[reads, writes], Medium::Write);
    assert_eq!(both, [5_000_000 / 1024, first, first + 1, first + 2]);
}

#[test]
fn a_scan_of_a_good_image_empties_the_list_unless_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let img = image(dir.path(), &["-t", "ext4", "-b", "1024"]);
    let before = common::image_tree(&common::open(&img));
    let list = dir.path().join("list");
    std::fs::write(&list, "9000\n9001\n").unwrap();
    assert_eq!(e4fsck(&["-y", "-l", list.to_str().unwrap()], &img).0, Some(1));
    assert_eq!(e4fsck(&["-y", "-c", "-k"], &img).0, Some(0));
    assert!(listed(&img).is_none_or(|l| l == [9000, 9001]));
    let (code, said) = e4fsck(&["-ycc"], &img);
    assert!(code == Some(1) && said.contains("0 bad blocks are listed, now"), "{said}");
    assert!(listed(&img).is_none_or(|l| l.is_empty()));
    common::reference_fsck(&img);
    common::assert_same_tree("-cc", &before, &common::image_tree(&common::open(&img)));
    std::fs::write(&list, "nonsense\n").unwrap();
    assert_eq!(e4fsck(&["-y", "-l", list.to_str().unwrap()], &img).0, Some(16));
}
