//! Journals that the kernel left: a load on a loop mount, a forced shutdown, then our recovery against the kernel's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ext4kit::device::{Access, BlockDevice, FileDevice, OverlayDevice};
use ext4kit::format::features::Incompat;
use ext4kit::format::inode::FileType;
use ext4kit::format::superblock::{self, Superblock};
use ext4kit::journal::{RecoverOptions, replay_log};

/// Much metadata, little content: files with attributes, renames over files, deletions, links, truncations, directories that
/// get an index. Some of it is synced on the way, then the power goes: `EXT4_IOC_SHUTDOWN` with the flag given.
const LOAD: &str = r#"
import fcntl, os, struct, sys
top, flag, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def p(*a): return os.path.join(top, *a)
def put(path, data):
    with open(path, "wb") as f: f.write(data)
os.makedirs(p("many"))
for i in range(n):
    d = p("d%02d" % (i % 7))
    os.makedirs(d, exist_ok=True)
    f = os.path.join(d, "file-%05d" % i)
    put(f, b"%d" % i * (i % 300))
    os.setxattr(f, "user.blob", b"x" * (i % 200))
    os.chmod(f, 0o600 + i % 64)
    os.chown(f, i, i * 3)
    os.utime(f, (i, 1000 + i))
    os.link(f, p("many", "name-%05d-%s" % (i, "z" * (i % 40))))
    if i % 3 == 0: os.unlink(f)
    if i % 5 == 0: os.rename(f, os.path.join(d, "over")) if os.path.exists(f) else None
    if i % 7 == 0: os.truncate(p("many", "name-%05d-%s" % (i, "z" * (i % 40))), i * 10)
    if i % 11 == 0: os.symlink("t" * (i % 90 + 1), p("link-%d" % i))
    if i % 200 == 150: os.sync()
    if i % 97 == 50:
        fd = os.open(p("many", "name-%05d-%s" % (i, "z" * (i % 40))), os.O_RDWR)
        os.fsync(fd)
        os.close(fd)
held = open(p("held"), "wb")
held.write(b"h" * 200000)
held.flush()
os.fsync(held.fileno())
os.unlink(p("held"))
for i in range(0, n, 4):
    path = p("many", "name-%05d-%s" % (i, "z" * (i % 40)))
    if os.path.exists(path): os.unlink(path)
    if i % 64 == 0: put(p("late-%d" % i), b"late" * 500)
fd = os.open(p("late-0"), os.O_RDWR)
os.fsync(fd)
top_fd = os.open(top, os.O_RDONLY)
fcntl.ioctl(top_fd, 0x8004587D, struct.pack("I", flag))
"#;

/// What fast commits can hold, each change made durable by itself on top of a whole transaction: new names, links, removed
/// names, content, lengths, owners. With "recycled" the inodes were in use before, with attributes, and directories are made.
const QUICK: &str = r#"
import os, sys
top, recycled = sys.argv[1], sys.argv[2] == "recycled"
def p(*a): return os.path.join(top, *a)
os.mkdir(p("dir"))
if recycled:
    for i in range(60):
        with open(p("old-%d" % i), "wb") as f: f.write(b"old" * i)
        os.setxattr(p("old-%d" % i), "user.blob", b"x" * (i + 1))
    os.sync()
    for i in range(60): os.unlink(p("old-%d" % i))
with open(p("grown"), "wb") as f: f.write(b"g" * 50000)
os.sync()
for i in range(24):
    f = p("dir", "quick-%d" % i)
    with open(f, "wb") as h:
        if i % 6 == 5: os.unlink(p("dir", "quick-%d" % (i - 1)))
        if recycled and i % 7 == 0: os.mkdir(p("quick-dir-%d" % i))
        h.write(b"q" * (i * 150))
        h.flush()
        os.fsync(h.fileno())
        if i % 3 == 0:
            os.link(f, p("quick-link-%d" % i))
            os.chmod(f, 0o640)
            os.fsync(h.fileno())
        if i % 4 == 0:
            h.write(b"r" * 3000)
            h.flush()
            os.fsync(h.fileno())
        if i % 5 == 0:
            os.ftruncate(h.fileno(), i * 20)
            os.chown(f, i, 2 * i)
            os.fsync(h.fileno())
with open(p("grown"), "r+b") as f:
    for at in (70000, 10, 300000, 130000):
        f.seek(at)
        f.write(b"G" * 5000)
        f.flush()
        os.fsync(f.fileno())
"#;

/// The power goes, and no log is written first.
const CUT: &str =
    "import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// Records of fast commits that recovery has to carry out on top of the log. The image stays as it is.
fn fast_commit_records(image: &Path) -> usize {
    let file = FileDevice::open(image, Access::ReadOnly).unwrap();
    let device: Arc<dyn BlockDevice> = Arc::new(OverlayDevice::new(file));
    replay_log(&device, None, RecoverOptions::default()).unwrap().map_or(0, |r| r.report().fast_commit_records)
}

fn needs_recovery(image: &Path) -> bool {
    let device = FileDevice::open(image, Access::ReadOnly).unwrap();
    let mut bytes = [0; superblock::SIZE];
    device.read_at(superblock::OFFSET, &mut bytes).unwrap();
    Superblock::decode_unchecked(&bytes).unwrap().features().incompat.contains(Incompat::RECOVER)
}

fn e4fsck(options: &[&str], image: &Path) -> i32 {
    let out = Command::new(env!("CARGO_BIN_EXE_e4fsck")).args(options).arg(image).output().unwrap();
    print!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    out.status.code().unwrap()
}

fn power_cut(features: &str, flag: u32) {
    let (Some(mkfs), Some(python)) = (common::tool("mke2fs"), common::tool("python3")) else { return };
    if !common::is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let what = format!("{features} shutdown flag {flag}");
    let dir = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|n| dir.path().join(n));
    std::fs::File::create(&ours).unwrap().set_len(48 << 20).unwrap();
    let args = ["-q", "-F", "-t", "ext4", "-b", "1024", "-O", features, "-J", "size=4"];
    common::run(&mkfs, &[&args[..], &[ours.to_str().unwrap()]].concat());
    let Some(mount) = common::Mount::new(&ours, "") else { return };
    let done =
        Command::new(python).args(["-c", LOAD]).arg(mount.path()).args([&flag.to_string(), "1200"]).output().unwrap();
    drop(mount);
    assert!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
    assert!(needs_recovery(&ours), "{what}: the kernel left nothing to recover");
    std::fs::copy(&ours, &theirs).unwrap();
    assert_eq!(e4fsck(&["-p"], &ours), 0, "{what}");
    assert!(!needs_recovery(&ours));
    let Some(mount) = common::Mount::new(&theirs, "") else { return };
    let want = common::host_tree(mount.path());
    drop(mount);
    assert!(want.len() > 300, "{what}: {} paths", want.len());
    common::assert_same_tree(&what, &want, &common::image_tree(&common::open(&ours)));
    common::reference_fsck(&ours);
    common::reference_fsck(&theirs);
    assert_eq!(e4fsck(&["-fn"], &ours), 0, "{what}");
}

/// Nothing but what was committed.
#[test]
fn without_a_last_commit() {
    power_cut("metadata_csum", 2);
}

/// The running transaction is committed first.
#[test]
fn with_a_last_commit() {
    power_cut("metadata_csum", 1);
    power_cut("^metadata_csum,^64bit,^extent", 1);
}

#[test]
fn with_fast_commits() {
    power_cut("metadata_csum,fast_commit", 2);
    power_cut("metadata_csum,fast_commit", 1);
}

/// Without the times of directories: fast commits do not hold them, and each replay sets its own.
fn timeless(mut tree: common::Tree) -> common::Tree {
    tree.values_mut().filter(|e| e.kind == FileType::Directory).for_each(|e| e.mtime = (0, 0));
    tree
}

/// Everything was made durable, so what was there before the power went is what recovery has to bring back. Where inodes are
/// fresh, the kernel's own mount says the same. (In inodes that are used again, its replay brings back attributes of the file
/// before, and directories it makes are not counted.)
fn quick_power_cut(recycled: bool) {
    let (Some(mkfs), Some(python)) = (common::tool("mke2fs"), common::tool("python3")) else { return };
    if !common::is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let what = if recycled { "recycled" } else { "fresh" };
    let dir = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|n| dir.path().join(n));
    std::fs::File::create(&ours).unwrap().set_len(48 << 20).unwrap();
    let args = ["-q", "-F", "-t", "ext4", "-b", "1024", "-O", "metadata_csum,fast_commit", "-J", "size=4"];
    common::run(&mkfs, &[&args[..], &[ours.to_str().unwrap()]].concat());
    let Some(mount) = common::Mount::new(&ours, "") else { return };
    let run = |script: &str| {
        let out = Command::new(&python).args(["-c", script]).arg(mount.path()).arg(what).output().unwrap();
        assert!(out.status.success(), "{what}: {}", String::from_utf8_lossy(&out.stderr));
    };
    run(QUICK);
    let live = timeless(common::host_tree(mount.path()));
    run(CUT);
    drop(mount);
    let records = fast_commit_records(&ours);
    assert!(records > 100, "{what}: {records} records of fast commits");
    std::fs::copy(&ours, &theirs).unwrap();
    assert_eq!(e4fsck(&["-p"], &ours), 0, "{what}");
    let got = timeless(common::image_tree(&common::open(&ours)));
    common::assert_same_tree(what, &live, &got);
    common::reference_fsck(&ours);
    assert_eq!(e4fsck(&["-fn"], &ours), 0, "{what}");
    if recycled {
        return;
    }
    let Some(mount) = common::Mount::new(&theirs, "") else { return };
    let want = timeless(common::host_tree(mount.path()));
    drop(mount);
    common::assert_same_tree(what, &want, &got);
    common::reference_fsck(&theirs);
}

#[test]
fn fast_commits_on_top_of_the_log() {
    quick_power_cut(false);
}

#[test]
fn fast_commits_in_inodes_that_are_used_again() {
    quick_power_cut(true);
}
