//! Real block devices: a loop device over a sparse file. Needs root, `losetup` and, for one test, `mke2fs` and `mount`;
//! skipped with a message where they are missing.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use std::path::{Path, PathBuf};
use std::process::Command;

use ext4kit::Error;
use ext4kit::device::{Access, BlockDevice, FileDevice, ImageSpec};

const SIZE: u64 = 16 << 20;

/// A loop device, detached when dropped.
struct Loop {
    device: PathBuf,
    mounted: Option<PathBuf>,
    dir: tempfile::TempDir,
}

impl Loop {
    /// `None`, with a message, where the host has none to give.
    fn attach(prepare: impl FnOnce(&Path) -> bool) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: block devices need root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("img");
        drop(FileDevice::create_new(&image, SIZE).unwrap());
        if !prepare(&image) {
            eprintln!("skipped: no mke2fs");
            return None;
        }
        match Command::new("losetup").args(["--find", "--show"]).arg(&image).output() {
            Ok(out) if out.status.success() => {
                let device = PathBuf::from(String::from_utf8(out.stdout).unwrap().trim());
                Some(Self { device, mounted: None, dir })
            }
            _ => {
                eprintln!("skipped: no loop devices");
                None
            }
        }
    }

    fn mount(&mut self) -> bool {
        let point = self.dir.path().join("mnt");
        std::fs::create_dir(&point).unwrap();
        let done = Command::new("mount").args(["-o", "ro"]).arg(&self.device).arg(&point).status();
        if !done.is_ok_and(|s| s.success()) {
            eprintln!("skipped: mounting is not allowed here");
            return false;
        }
        self.mounted = Some(point);
        true
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Some(point) = &self.mounted {
            let _ = Command::new("umount").arg(point).status();
        }
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

/// Open what was closed just now: a program that another test starts holds all open files, and their locks, for a moment.
fn patiently<T>(open: impl Fn() -> ext4kit::Result<T>) -> T {
    for _ in 0..100 {
        match open() {
            Err(Error::Busy { .. }) => std::thread::sleep(std::time::Duration::from_millis(20)),
            done => return done.unwrap(),
        }
    }
    open().unwrap()
}

#[test]
fn reads_writes_and_zeroes() {
    let Some(host) = Loop::attach(|_| true) else { return };
    let d = FileDevice::open(&host.device, Access::ReadWrite).unwrap();
    assert!(d.is_block_device());
    assert_eq!(d.len(), SIZE);
    d.write_at(0, &vec![0xaa; 1 << 20]).unwrap();
    // Odd on both ends: the middle is zeroed by the host, the edges by hand.
    d.zero(4097, 500_000).unwrap();
    d.zero(600_001, 10).unwrap();
    d.flush().unwrap();
    let mut want = vec![0xaa; 1 << 20];
    want[4097..504_097].fill(0);
    want[600_001..600_011].fill(0);
    let mut got = vec![1; 1 << 20];
    d.read_at(0, &mut got).unwrap();
    assert!(got == want);
    assert!(d.write_at(SIZE - 1, &[1, 2]).is_err());
    assert!(d.set_len(1).is_err());
    assert!(d.next_data(0).unwrap().is_some_and(|r| r.start == 0));
    assert!(matches!(FileDevice::open(&host.device, Access::ReadWrite), Err(Error::Busy { .. })));
    assert!(matches!(FileDevice::create(&host.device, 0), Err(Error::InvalidArgument { .. })));
    drop(d);
    let spec = ImageSpec { path: host.device.clone(), offset: 4096 };
    let d = patiently(|| spec.open(Access::ReadOnly));
    assert_eq!(d.len(), SIZE - 4096);
    assert!(d.slice(0, 1).is_none(), "block devices are not mapped");
}

/// Run e4mkfs; exit code, standard output and standard error.
fn e4mkfs(args: &[&str], image: &Path) -> (i32, String, String) {
    let mut run = Command::new(env!("CARGO_BIN_EXE_e4mkfs"));
    let out = run.args(args).arg(image).env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

#[test]
fn what_a_device_held_is_given_up_and_its_marks_go() {
    let Some(host) = Loop::attach(|_| true) else { return };
    let image = host.dir.path().join("img");
    let garbage = || {
        let mut all = vec![0xa5; SIZE as usize];
        all[0x1_0040..0x1_0048].copy_from_slice(b"_BHRfS_M");
        all[SIZE as usize - 8192..][..4].copy_from_slice(b"\xfc\x4e\x2b\xa9");
        patiently(|| FileDevice::open(&host.device, Access::ReadWrite)).write_at(0, &all).unwrap();
    };
    let count = |bytes: &[u8]| bytes.iter().map(|b| u64::from(*b == 0xa5)).sum::<u64>();
    let content = || {
        let mut all = vec![0; SIZE as usize];
        patiently(|| FileDevice::open(&host.device, Access::ReadOnly)).read_at(0, &mut all).unwrap();
        all
    };

    garbage();
    let (code, out, err) = e4mkfs(&["-v", "-E", "nodiscard"], &host.device);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("held a Btrfs filesystem"), "{err}");
    assert!(out.contains("copies of the superblock: 8193") && !out.contains("gave up"), "{out}");
    let all = content();
    assert!(count(&all) > SIZE / 2, "free blocks are as they were");
    assert!(all[0x1_0040..0x1_0048] != *b"_BHRfS_M" && all[SIZE as usize - 8192..][..4] != *b"\xfc\x4e\x2b\xa9");

    garbage();
    let (code, out, err) = e4mkfs(&["-F", "-v"], &host.device);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("gave up"), "{out}");
    assert!(count(&content()) < 4096, "what is left is of the new filesystem");
    if let Ok(check) = Command::new("e2fsck").args(["-fn"]).arg(&host.device).output() {
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }
    let (code, out, err) = e4mkfs(&["-q"], &host.device);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""), "quiet is quiet");
    let d = FileDevice::open(&image, Access::ReadOnly).unwrap();
    assert!(d.next_data(0).unwrap().is_some_and(|r| r.end < SIZE), "the file below has holes again");
}

#[test]
fn a_mounted_device_is_not_written() {
    let mke2fs =
        |image: &Path| Command::new("mke2fs").args(["-q", "-F"]).arg(image).status().is_ok_and(|s| s.success());
    let Some(mut host) = Loop::attach(mke2fs) else { return };
    if !host.mount() {
        return;
    }
    let e = FileDevice::open(&host.device, Access::ReadWrite).unwrap_err();
    assert!(matches!(&e, Error::Busy { path } if *path == host.device), "{e:?}");
    FileDevice::open(&host.device, Access::ReadOnly).unwrap();
}
