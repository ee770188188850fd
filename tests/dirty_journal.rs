//! Images whose journal was not written back: the tools show what a mount would show, say so, and leave the image as it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use common::{Mount, assert_same_tree, fill_tree, host_tree, run, tool};
use ext4kit::alloc::Filesystem;
use ext4kit::device::{Access, FileDevice};
use ext4kit::env::{FixedClock, Timestamp};
use ext4kit::format::features::Incompat;
use ext4kit::format::superblock::Superblock;
use ext4kit::journal::{Journal, JournalOptions};
use ext4kit::namei::{Attributes, Bytes, Context, Namei, What};
use ext4kit::units::Ino;
use ext4kit::volume::{OpenOptions, Volume};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
const NOTE: &str = "warning: the journal was not written back: it is recovered in memory, the image stays as it is";

fn tool_of_ours(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap()
}

/// An image with `/new` in its log only; `None` (loudly) without mke2fs.
fn dirty_image(dir: &Path) -> Option<PathBuf> {
    let path = dir.join("img");
    run(&tool("mke2fs")?, &["-q", "-F", "-t", "ext4", "-b", "1024", path.to_str().unwrap(), "16M"]);
    let device = Arc::new(FileDevice::open(&path, Access::ReadWrite).unwrap());
    let volume = Volume::open(device, &OpenOptions::default()).unwrap();
    let mut journal = Journal::open(&volume, None, JournalOptions::new(Arc::new(FixedClock(NOW)))).unwrap();
    let mut fs = Filesystem::open(journal.view(), &OpenOptions::default()).unwrap();
    let mut ctx = Context::new(&fs.volume, NOW);
    let mut handle = journal.start(0).unwrap();
    let mut namei = Namei::new(fs.edit(&mut handle), &mut ctx);
    let o = namei.make(Ino::ROOT, b"new", What::File, &Attributes::root(0o644)).unwrap();
    namei.write_file(o.ino, &mut Bytes(&[b'x'; 5000])).unwrap();
    fs.sync_counts(&mut handle).unwrap();
    journal.commit().unwrap();
    // Dropped, not closed: as after a crash.
    Some(path)
}

#[test]
fn tools_recover_in_memory_and_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = dirty_image(dir.path()) else { return };
    let before = fs::read(&path).unwrap();
    let image = path.to_str().unwrap();
    let (root, out) = (format!("{image}:/"), dir.path().join("out"));
    let runs: [(&str, &[&str], &str); 5] = [
        (env!("CARGO_BIN_EXE_e4cp"), &["-l", &root], " 5000 "),
        (env!("CARGO_BIN_EXE_e4cp"), &["-a", &root, out.to_str().unwrap()], ""),
        (env!("CARGO_BIN_EXE_e4cp"), &[&root, "-"], "xxxx"),
        (env!("CARGO_BIN_EXE_e4es"), &[image, "/new"], "written"),
        (env!("CARGO_BIN_EXE_e4sh"), &["-R", "stat new", image], "Size: 5000"),
    ];
    for (program, args, want) in runs {
        let got = tool_of_ours(program, args);
        let (said, shown) = (String::from_utf8_lossy(&got.stderr), String::from_utf8_lossy(&got.stdout));
        assert!(got.status.success(), "{program} {args:?}: {said}");
        assert!(said.contains(NOTE) && said.lines().count() == 1, "{program} {args:?}: {said}");
        assert!(shown.contains(want), "{program} {args:?}: no {want:?} in\n{shown}");
    }
    assert_eq!(fs::read(out.join("new")).unwrap(), [b'x'; 5000]);
    assert!(fs::read(&path).unwrap() == before, "the image has changed");
    // Badly damaged images are shown as they are.
    let got = tool_of_ours(env!("CARGO_BIN_EXE_e4sh"), &["-c", "-R", "stat new", image]);
    let said = String::from_utf8_lossy(&got.stderr);
    assert!(got.status.code() == Some(1) && said.contains("may be out of date"), "{said}");
}

#[test]
fn a_damaged_log_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = dirty_image(dir.path()) else { return };
    // A block of the transaction: the copy of the block bitmap or what comes near it.
    let vol = Volume::open(
        Arc::new(FileDevice::open(&path, Access::ReadOnly).unwrap()),
        &OpenOptions { dirty_journal: ext4kit::volume::DirtyJournal::Ignore, ..OpenOptions::default() },
    )
    .unwrap();
    let ino = Ino(vol.superblock().journal_inum.get());
    let inode = vol.inode(ino).unwrap();
    let first = vol.extents(ext4kit::volume::Owner { ino, inode: &inode }).unwrap()[0].pblk.0;
    let size = u64::from(vol.geometry().block_size);
    drop(vol);
    let mut bytes = fs::read(&path).unwrap();
    bytes[((first + 3) * size) as usize + 77] ^= 1;
    fs::write(&path, bytes).unwrap();
    let got = tool_of_ours(env!("CARGO_BIN_EXE_e4cp"), &["-l", &format!("{}:/", path.display())]);
    let said = String::from_utf8_lossy(&got.stderr);
    assert!(got.status.code() == Some(1) && said.contains("is damaged ("), "{said}");
    let got = tool_of_ours(env!("CARGO_BIN_EXE_e4sh"), &["-R", "ls", path.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&got.stderr).contains("is damaged ("));
}

#[test]
fn a_log_of_the_kernel_comes_out_as_it_was_mounted() {
    for args in [&["-t", "ext4"][..], &["-t", "ext4", "-b", "1024", "-O", "fast_commit"], &["-t", "ext3"]] {
        let dir = tempfile::tempdir().unwrap();
        let (image, dirty, out) = (dir.path().join("img"), dir.path().join("dirty"), dir.path().join("out"));
        let Some(mke2fs) = tool("mke2fs") else { return };
        let mut all = vec!["-q", "-F"];
        all.extend(args);
        run(&mke2fs, &all.into_iter().chain([image.to_str().unwrap(), "64M"]).collect::<Vec<_>>());
        let mut want = {
            let Some(mount) = Mount::new(&image, "") else { return };
            fill_tree(mount.path(), 3);
            rustix::fs::syncfs(fs::File::open(mount.path()).unwrap()).unwrap();
            let late = fs::File::create(mount.path().join("late")).unwrap();
            late.sync_all().unwrap();
            fs::copy(&image, &dirty).unwrap();
            host_tree(mount.path())
        };
        let got =
            tool_of_ours(env!("CARGO_BIN_EXE_e4cp"), &["-a", &format!("{}:/", dirty.display()), out.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&got.stderr);
        assert!(got.status.success() && said.contains(NOTE), "{args:?}: {said}");
        let mut have = host_tree(&out);
        // The host's directories keep what their filesystem says about times of the top.
        want.remove(&b""[..]);
        have.remove(&b""[..]);
        for tree in [&mut want, &mut have] {
            for e in tree.values_mut() {
                e.xattrs.remove(&b"user.huge"[..]);
            }
        }
        assert_same_tree(&format!("{args:?}"), &want, &have);
    }
}

/// A backup superblock does not say that the journal is in use, nor does one whose feature was lost: the log is brought home all
/// the same.
#[test]
fn a_repair_brings_home_a_log_that_the_superblock_does_not_know_of() {
    type Hurt = fn(&mut [u8]);
    let feature_lost: Hurt = |bytes| {
        let mut sb = Superblock::decode(&bytes[1024..2048]).unwrap();
        let mut f = sb.features();
        f.incompat -= Incompat::RECOVER;
        sb.set_features(f);
        bytes[1024..2048].copy_from_slice(&sb.encode());
    };
    let superblock_lost: Hurt = |bytes| bytes[1024..2048].fill(0xff);
    for hurt in [feature_lost, superblock_lost] {
        let dir = tempfile::tempdir().unwrap();
        let Some(path) = dirty_image(dir.path()) else { return };
        let mut bytes = fs::read(&path).unwrap();
        hurt(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let image = path.to_str().unwrap();
        let got = tool_of_ours(env!("CARGO_BIN_EXE_e4fsck"), &["-fy", image]);
        assert_eq!(got.status.code(), Some(1), "{}", String::from_utf8_lossy(&got.stdout));
        let got = tool_of_ours(env!("CARGO_BIN_EXE_e4sh"), &["-R", "stat new", image]);
        let shown = String::from_utf8_lossy(&got.stdout);
        assert!(shown.contains("Size: 5000"), "{shown}");
        common::reference_fsck(&path);
    }
}
