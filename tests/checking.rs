//! The checker against healthy images, images with one field changed, and the reference checker's verdict.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/patient.rs"]
mod patient;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ext4kit::Error;
use ext4kit::check::{
    Answers, CheckOptions, Collect, Finding, Outcome, Problem, RepairOptions, Summary, check, repair,
};
use ext4kit::device::{BlockDevice, MemoryDevice, RecordDevice};
use ext4kit::env::{SeededEntropy, Timestamp};
use ext4kit::progress::Silent;
use ext4kit::testing::crash::{self, Plan};
use ext4kit::testing::surgery::Surgeon;
use ext4kit::units::Ino;
use ext4kit::volume::{OpenOptions, Owner, Volume};
use patient::Patient;

fn options(jobs: usize) -> CheckOptions {
    CheckOptions { jobs, ..CheckOptions::everything(Timestamp::from_secs(1_800_000_000)) }
}

fn check_bytes(bytes: Vec<u8>, jobs: usize) -> (Outcome, Vec<Finding>) {
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes));
    let mut sink = Collect::default();
    let outcome = match check(&device, &options(jobs), &mut sink, &Silent) {
        Err(Error::Unsupported { .. }) => {
            Outcome { opened: false, errors: 0, findings: 0, aborted: true, reason: None, summary: Summary::default() }
        }
        other => other.unwrap(),
    };
    (outcome, sink.0)
}

fn texts(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|f| format!("{}: {}", f.problem.id(), f.message())).collect()
}

const GEOMETRIES: &[(&str, &[&str])] = &[
    ("ext4-1k", &["-t", "ext4", "-b", "1024"]),
    ("ext4-2k", &["-t", "ext4", "-b", "2048"]),
    ("ext4-4k", &["-t", "ext4", "-b", "4096", "-O", "^has_journal"]),
    ("inline", &["-t", "ext4", "-b", "1024", "-O", "inline_data,^has_journal"]),
    ("inline-512", &["-t", "ext4", "-b", "4096", "-I", "512", "-O", "inline_data,^has_journal"]),
    ("ea-inode", &["-t", "ext4", "-b", "1024", "-O", "ea_inode,^has_journal"]),
    ("bigalloc", &["-t", "ext4", "-b", "1024", "-O", "bigalloc,^has_journal", "-C", "4096"]),
    ("meta-bg", &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,^has_journal"]),
    ("no-flex", &["-t", "ext4", "-b", "1024", "-O", "^flex_bg,^64bit"]),
    ("uninit-bg", &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"]),
    ("no-csum", &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^has_journal"]),
    ("csum-seed", &["-t", "ext4", "-b", "1024", "-O", "metadata_csum_seed"]),
    ("sparse-super2", &["-t", "ext4", "-b", "1024", "-O", "sparse_super2,^resize_inode"]),
    ("casefold", &["-t", "ext4", "-b", "1024", "-O", "casefold,^has_journal"]),
    ("small-inodes", &["-t", "ext4", "-b", "1024", "-I", "128", "-O", "^metadata_csum,^has_journal"]),
    ("orphan-file", &["-t", "ext4", "-b", "1024", "-O", "orphan_file"]),
    ("mmp", &["-t", "ext4", "-b", "1024", "-O", "mmp"]),
    ("ext3", &["-t", "ext3", "-b", "1024", "-J", "size=1"]),
    ("ext2", &["-t", "ext2", "-b", "1024"]),
];

/// A tree that fits small images.
fn source(dir: &Path) -> PathBuf {
    let source = dir.join("tree");
    std::fs::create_dir(&source).unwrap();
    common::fill_tree(&source, 3);
    // Values that need an inode of their own: mke2fs refuses them, or miscounts the blocks.
    for entry in std::fs::read_dir(&source).unwrap() {
        let _ = rustix::fs::lremovexattr(entry.unwrap().path(), "user.huge");
    }
    for i in (0..1500).filter(|i| i % 8 != 0) {
        std::fs::remove_file(source.join(format!("many/entry-number-{i:05}-{}", "z".repeat(i % 50)))).unwrap();
    }
    source
}

/// One image per geometry; those that this mke2fs cannot make are skipped loudly.
fn images(which: &[&str]) -> Vec<(&'static str, Vec<u8>)> {
    let Some(mke2fs) = common::tool("mke2fs") else { return Vec::new() };
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let mut all = Vec::new();
    for (name, args) in GEOMETRIES.iter().filter(|(n, _)| which.is_empty() || which.contains(n)) {
        let image = dir.path().join(name);
        std::fs::File::create(&image).unwrap().set_len(12 << 20).unwrap();
        let done = Command::new(&mke2fs)
            .args(["-q", "-F", "-N", "2048"])
            .args(*args)
            .args(["-d".as_ref(), source.as_os_str(), image.as_os_str()])
            .output()
            .unwrap();
        if done.status.success() {
            all.push((*name, std::fs::read(&image).unwrap()));
            std::fs::remove_file(&image).unwrap();
        } else {
            eprintln!("skipped: {name}: {}", String::from_utf8_lossy(&done.stderr).trim());
        }
    }
    all
}

/// The reference's verdict; `None` where it gives none in time.
fn reference(fsck: &Path, image: &Path) -> Option<i32> {
    let out = Command::new("timeout").arg("20").arg(fsck).arg("-fn").arg(image).output().unwrap();
    out.status.code().filter(|c| *c < 64)
}

#[test]
fn healthy_images_have_nothing_to_report() {
    for (name, bytes) in images(&[]) {
        let (outcome, findings) = check_bytes(bytes, 2);
        assert!(findings.is_empty(), "{name}: {:#?}", texts(&findings));
        assert!(!outcome.aborted && outcome.summary.inodes_used > 200, "{name}: {outcome:?}");
    }
}

/// The first few texts.
fn first(findings: &[Finding]) -> Vec<String> {
    texts(&findings[..findings.len().min(3)])
}

fn scale() -> u64 {
    std::env::var("EXT4KIT_HOSTILE").ok().and_then(|v| v.parse().ok()).unwrap_or(1)
}

/// Damage that the reference passes over and the kernel does not: an extent node whose depth is not its place's.
fn is_known_difference(findings: &[Finding], reference: i32) -> bool {
    reference == 0 && findings.iter().any(|f| f.problem == Problem::ExtentHeaderInvalid)
}

#[test]
fn damage_is_judged_as_the_reference_judges_it() {
    let Some(fsck) = common::tool("e2fsck") else { return };
    let all = images(&["ext4-1k", "inline", "bigalloc", "ext2", "uninit-bg", "meta-bg"]);
    let dir = tempfile::tempdir().unwrap();
    let (mut cases, mut differ) = (0, Vec::new());
    for (name, bytes) in &all {
        let healthy: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.clone()));
        let surgeon = Surgeon::new(&Volume::open(healthy, &OpenOptions::default()).unwrap()).unwrap();
        let mut entropy = SeededEntropy::new(0xc4ed);
        for case in 0..20 * scale() {
            let device = MemoryDevice::from_bytes(bytes.clone());
            let done: Vec<_> = (0..=case % 3).map(|_| surgeon.operate(&device, &mut entropy).unwrap()).collect();
            let mut damaged = vec![0; bytes.len()];
            device.read_at(0, &mut damaged).unwrap();
            let image = dir.path().join("damaged");
            std::fs::write(&image, &damaged).unwrap();
            let start = Instant::now();
            let (outcome, findings) = check_bytes(damaged, 1 + case as usize % 2);
            let took = start.elapsed();
            assert!(took < Duration::from_secs(20), "{name} case {case}: {done:x?} took {took:?}");
            let Some(theirs) = reference(&fsck, &image) else { continue };
            cases += 1;
            let ours = outcome.errors > 0 || outcome.aborted;
            if ours != (theirs != 0) && !is_known_difference(&findings, theirs) {
                if let Ok(keep) = std::env::var("EXT4KIT_KEEP") {
                    std::fs::copy(&image, format!("{keep}/{name}-{case}.img")).unwrap();
                }
                differ.push(format!("{name} case {case}: {done:x?}: reference {theirs}, ours {:?}", first(&findings)));
            }
        }
    }
    println!("{cases} damaged images, {} judged otherwise", differ.len());
    assert!(differ.len() * 50 <= cases, "{}", differ.join("\n"));
    println!("{}", differ.join("\n"));
}

#[test]
fn exit_codes_and_json() {
    let Some(mke2fs) = common::tool("mke2fs") else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let e4fsck = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_e4fsck")).args(args).arg(&image).output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap())
    };
    std::fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    assert_eq!(e4fsck(&["-n"]).0, 8);
    let out = Command::new(&mke2fs).args(["-q", "-F", "-t", "ext4"]).arg(&image).output().unwrap();
    assert!(out.status.success());
    let (code, text) = e4fsck(&["-n"]);
    assert!(code == 0 && text.contains(": clean, 11/"), "{code} {text}");
    let (code, text) = e4fsck(&["-fn"]);
    assert!(code == 0 && text.contains("Pass 5") && text.contains("11/"), "{code} {text}");
    assert_eq!(e4fsck(&["-n", "-y"]).0, 16);
    assert_eq!(e4fsck(&["-n", "-E", "nonsense"]).0, 16);
    let mut patient = Patient::new(&std::fs::read(&image).unwrap());
    patient.group(|d| d.set_used_dirs(9));
    std::fs::write(&image, &patient.bytes).unwrap();
    assert_eq!(e4fsck(&["-n"]).0, 0, "the superblock says that it is clean");
    assert_eq!(e4fsck(&["-fn"]).0, 4);
    let (code, text) = e4fsck(&["-fn", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["errors"], &json["exit"]), (4, &1.into(), &4.into()));
    assert_eq!(json["findings"][0]["id"], "E4-5-012");
    assert_eq!(json["findings"][0]["e2fsck"], "0x05000c");
    assert_eq!(std::fs::read(&image).unwrap(), patient.bytes, "nothing is written");
    assert_eq!(e4fsck(&["-fy"]).0, 1);
    assert_eq!(e4fsck(&["-fn"]).0, 0);
}

/// Repair all; what is left.
fn mend(device: &Arc<dyn BlockDevice>) -> Result<Outcome, String> {
    let options = RepairOptions::new(options(1));
    let done = repair(device, &options, Answers::Yes, &mut Collect::default(), &Silent).map_err(|e| e.to_string())?;
    Ok(done.left)
}

/// Sizes and checksums of the contents of all files in use, sorted.
fn contents(bytes: &[u8]) -> Vec<(u64, u32)> {
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.to_vec()));
    let vol = Volume::open(device, &OpenOptions { verify_groups: false, ..OpenOptions::default() }).unwrap();
    let mut all: Vec<_> = (vol.geometry().first_ino..=vol.geometry().inodes_count)
        .filter_map(|n| {
            let inode = vol.inode(Ino(n)).ok()?;
            let file = inode.core().links_count.get() > 0 && inode.core().mode.get() & 0o170_000 == 0o100_000;
            let owner = Owner { ino: Ino(n), inode: &inode };
            let content = file.then(|| vol.reader(owner).ok()?.read_all(16 << 20).ok()?).flatten()?;
            Some((inode.size(), crc32c::crc32c(&content)))
        })
        .collect();
    all.sort_unstable();
    all
}

fn missing(want: &[(u64, u32)], have: &[(u64, u32)]) -> usize {
    want.iter().filter(|c| have.binary_search(c).is_err()).count()
}

fn bytes_of(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; device.len() as usize];
    device.read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn damage_is_repaired_as_well_as_the_reference_does() {
    let Some(fsck) = common::tool("e2fsck") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (mut cases, mut bad) = (0, Vec::new());
    for (name, bytes) in &images(&["ext4-1k", "inline", "bigalloc", "ext2", "uninit-bg", "meta-bg", "orphan-file"]) {
        let healthy: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.clone()));
        let surgeon = Surgeon::new(&Volume::open(healthy, &OpenOptions::default()).unwrap()).unwrap();
        let before = contents(bytes);
        let mut entropy = SeededEntropy::new(0x3e4d);
        for case in 0..6 * scale() {
            let device = Arc::new(MemoryDevice::from_bytes(bytes.clone()));
            let done: Vec<_> = (0..=case % 4).map(|_| surgeon.operate(&*device, &mut entropy).unwrap()).collect();
            let [ours, theirs] = ["ours", "theirs"].map(|n| dir.path().join(n));
            std::fs::write(&theirs, device.to_bytes()).unwrap();
            let left = mend(&(Arc::clone(&device) as Arc<dyn BlockDevice>));
            let after = device.to_bytes();
            std::fs::write(&ours, &after).unwrap();
            let run = |args: &[&str], image: &Path| {
                Command::new("timeout").arg("20").arg(&fsck).args(args).arg(image).output().unwrap().status.code()
            };
            // Where the reference gives up, nothing is to be compared.
            if run(&["-fy"], &theirs).is_none_or(|c| c > 3) || run(&["-fn"], &theirs) != Some(0) {
                continue;
            }
            cases += 1;
            let (outcome, found) = check_bytes(after.clone(), 2);
            let saved: Vec<_> = contents(&std::fs::read(&theirs).unwrap());
            let saved: Vec<_> = saved.into_iter().filter(|c| before.binary_search(c).is_ok()).collect();
            let lost = missing(&saved, &contents(&after));
            let reference = run(&["-fn"], &ours);
            if left.as_ref().is_ok_and(|l| l.errors == 0) && outcome.errors == 0 && reference == Some(0) && lost == 0 {
                continue;
            }
            if let Ok(keep) = std::env::var("EXT4KIT_KEEP") {
                std::fs::copy(&ours, format!("{keep}/repaired-{name}-{case}.img")).unwrap();
            }
            bad.push(format!(
                "{name} {case}: {done:x?}: {left:?}, {:?}, e2fsck {reference:?}, {lost} lost",
                first(&found)
            ));
        }
    }
    println!("{cases} damaged images repaired, {} not as they should be\n{}", bad.len(), bad.join("\n"));
    assert!(bad.len() * 100 <= cases, "{}", bad.join("\n"));
}

/// A kill at any moment of a repair leaves what a second one finishes, and nothing that was saved is lost.
#[test]
fn a_repair_may_be_killed_anywhere() {
    for (name, bytes) in &images(&["ext4-1k", "ext2"]) {
        let healthy: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.clone()));
        let surgeon = Surgeon::new(&Volume::open(healthy, &OpenOptions::default()).unwrap()).unwrap();
        let mut entropy = SeededEntropy::new(77);
        for case in 0..2 * scale() {
            let device = MemoryDevice::from_bytes(bytes.clone());
            let done: Vec<_> = (0..3).map(|_| surgeon.operate(&device, &mut entropy).unwrap()).collect();
            let base = device.to_bytes();
            let recorded = Arc::new(RecordDevice::new(MemoryDevice::from_bytes(base.clone())));
            let whole = mend(&(Arc::clone(&recorded) as Arc<dyn BlockDevice>)).unwrap();
            if whole.errors > 0 || whole.aborted {
                continue;
            }
            let saved = contents(&bytes_of(&*recorded));
            let plan = Plan { samples: 1, ..Plan::default() };
            let out = crash::enumerate(&base, &recorded.log(), plan, |device, _, _| {
                let left = mend(device)?;
                let lost = missing(&saved, &contents(&bytes_of(&**device)));
                if left.errors == 0 && lost == 0 { Ok(()) } else { Err(format!("{left:?}, {lost} lost")) }
            })
            .unwrap();
            println!("{name} {case}: {:?}", out.counts);
            assert_eq!(out.failed, 0, "{name} {case} {done:x?}: {}", out.first_failure.unwrap());
        }
    }
}
