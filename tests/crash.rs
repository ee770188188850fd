//! Batches that are cut off: whatever a device may hold after the power failed in the middle of one, recovery gives the old
//! tree or the new one, and a filesystem without faults.
//!
//! Each batch is recorded, and its crash states are enumerated (see `testing::crash`). `EXT4KIT_CRASH=1` takes many more
//! states and judges more of them by the reference and by the kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fmt::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Tree, image_tree};
use ext4kit::batch::{Options, Report, Script, Session, Through, Unwatched};
use ext4kit::check::{CheckOptions, Collect, check};
use ext4kit::device::{BlockDevice, MemoryDevice, RecordDevice, WriteLog};
use ext4kit::env::{FixedClock, Timer, Timestamp};
use ext4kit::file::PathChoice;
use ext4kit::journal::{OnDamage, RecoverOptions};
use ext4kit::progress::Silent;
use ext4kit::recover::recover;
use ext4kit::testing::crash::{Counts, Outcome, Plan, bytes_of, enumerate};
use ext4kit::volume::{OpenOptions, Volume};

const SETUP: Timestamp = Timestamp { sec: 1_700_000_000, nsec: 1 };
const EDIT: Timestamp = Timestamp { sec: 1_700_000_500, nsec: 2 };

struct NoTimer;

impl Timer for NoTimer {
    fn elapsed(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    fn pause(&self, _: std::time::Duration) {}
}

/// Kinds of filesystems: name, mke2fs's options.
const KINDS: &[(&str, &str)] = &[
    ("ext4-4k", "-t ext4 -b 4096"),
    ("ext4-1k", "-t ext4 -b 1024 -J size=4"),
    ("ext3-1k", "-t ext3 -b 1024 -J size=4"),
    ("bigalloc", "-t ext4 -b 1024 -O bigalloc -C 4096 -J size=4"),
    ("inline-ea", "-t ext4 -b 2048 -O inline_data,ea_inode -J size=4"),
    ("small-inodes", "-t ext4 -b 4096 -I 128 -O ^metadata_csum,uninit_bg"),
    ("quota", "-t ext4 -b 1024 -O quota,project -E quotatype=usrquota:grpquota:prjquota -J size=4"),
    ("fast-commit", "-t ext4 -b 4096 -O fast_commit,orphan_file,metadata_csum_seed"),
];

/// What is there before each batch.
const BASE: &str = "\
put -r HOST/tree /tree
put HOST/big /big
put HOST/mid /mid
put HOST/small /small
put HOST/comb /comb
put -r HOST/many /many
ln /mid /tree/mid-too
symlink tree/a /link
mkdir -p /d/e/f
mkdir /empty
setfattr -n user.one -v first /mid
setfattr -n user.block -v XXX300 /small
setfattr -n user.block -v XXX300 /big
";

/// The batches; `XXXn` stands for n letters.
const BATCHES: &[&str] = &[
    "put HOST/small /new",
    "put HOST/big /new",
    "put HOST/small /mid",
    "put HOST/big /mid\nput HOST/mid /big",
    "mv /mid /big",
    "mv /big /mid\nmv /small /big",
    "mv /tree /t2\nmv /t2/a /d/e/f/a",
    "mv /tree /d/e/f\nrmdir /empty",
    "mv /d/e/f /empty\nmv /d/e /many",
    "mv /many/n-1 /many/n-2\nmv /many/n-3 /new\nmv /small /many/n-4",
    "rm /big",
    "rm -r /tree",
    "rm -r /many",
    "rm -r /many /tree /d\nrm -f /big /mid /small /link",
    "mkdir -p /a/b/c/d/e/f/g/h\nmkdir /a/x /a/y /a/z",
    "put -r HOST/many /m2",
    "put -r HOST/many /empty\nput -a HOST/tree /empty",
    "put -a HOST/tree /tree",
    "truncate -s 0 /big",
    "truncate -s 4097 /big\ntruncate -s 1 /mid",
    "truncate -s 3M /mid\ntruncate -s 5M /new",
    "setfattr -n user.a -v XXX20 /small\nsetfattr -n user.b -v XXX500 /mid\nsetfattr -n user.c -v XXX30 /tree",
    "setfattr -n user.block -v XXX301 /small\nsetfattr -x user.block /big\nsetfattr -n user.one -v XXX700 /mid",
    "setfattr -n user.block -v XXX300 /mid\nsetfattr -n user.block -v XXX300 /tree\nrm /small",
    "ln /big /l1\nln /big /d/l2\nln /big /many/l3\nrm /big",
    "symlink XXX58 /s1\nsymlink XXX61 /s2\nsymlink XXX900 /s3\nsymlink -f gone /link",
    "chmod -R u+rwX,go= /tree\nchown -R 70000:5 /many\nchmod 4755 /small",
    "mknod /null c 1 3\nmknod /disk b 259 70000\nmkfifo -m 600 /fifo\ntouch -d 2001-02-03 /mid /touched",
    "put HOST/comb /comb2\nrm /comb",
    "put HOST/comb /big\nput HOST/small /comb",
    "rm /mid\nput HOST/big /mid\nrm /tree/mid-too\nln /mid /tree/mid-too",
    "put -n HOST/big /small\nput -n HOST/big /n1\nput -t @5 -m 600 -o 7:8 HOST/small /n2",
    "rm -r /many\nput -r HOST/many /many\nmv /many/n-7 /n-7",
    "put -r HOST/tree /d\nmv /d/tree /d/t\nrm -r /d/t/b\nmkdir /d/t/b\nput HOST/mid /d/t/b/m\nrm /small",
    "",
];

fn is_long() -> bool {
    std::env::var_os("EXT4KIT_CRASH").is_some()
}

fn plan(seed: u64) -> Plan {
    if is_long() {
        Plan { seed, samples: 80, all_subsets_up_to: 6, torn: 3, prefixes: 120 }
    } else {
        Plan { seed, samples: 2, all_subsets_up_to: 2, torn: 1, prefixes: 4 }
    }
}

/// Files of the host that batches put.
fn host(dir: &Path) {
    let bytes = |n: usize, salt: u8| -> Vec<u8> {
        (0..n).map(|i| (i as u8).wrapping_mul(31) ^ salt ^ (i >> 8) as u8).collect()
    };
    std::fs::write(dir.join("small"), bytes(100, 1)).unwrap();
    std::fs::write(dir.join("mid"), bytes(10_000, 2)).unwrap();
    std::fs::write(dir.join("big"), bytes(400_000, 3)).unwrap();
    // More pieces than an inode has room for.
    let comb = std::fs::File::create(dir.join("comb")).unwrap();
    for i in 0..150u64 {
        comb.write_all_at(&bytes(500, i as u8), i * 8192).unwrap();
    }
    for sub in ["tree/a", "tree/b/c"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
        for i in 0..6usize {
            std::fs::write(dir.join(sub).join(format!("f{i}")), bytes(i * i * 200, i as u8)).unwrap();
        }
    }
    std::os::unix::fs::symlink("a/f1", dir.join("tree/l")).unwrap();
    std::fs::hard_link(dir.join("tree/a/f2"), dir.join("tree/hard")).unwrap();
    std::fs::create_dir(dir.join("many")).unwrap();
    for i in 0..120 {
        std::fs::write(dir.join(format!("many/n-{i}")), bytes(i * 7, 5)).unwrap();
        if i % 3 == 0 {
            std::fs::write(dir.join(format!("many/a-rather-long-name-that-fills-blocks-of-the-directory-{i}")), b"")
                .unwrap();
        }
    }
}

fn expand(text: &str, host: &Path) -> Script {
    let mut out = String::new();
    for line in text.replace("HOST", host.to_str().unwrap()).lines() {
        for word in line.split(' ') {
            match word.strip_prefix("XXX").and_then(|n| n.parse().ok()) {
                Some(n) => out.extend(std::iter::repeat_n('x', n)),
                None => out.push_str(word),
            }
            out.push(' ');
        }
        out.push('\n');
    }
    Script::parse(out.as_bytes()).unwrap()
}

fn edit(device: Arc<dyn BlockDevice>, script: &Script, now: Timestamp, barriers: bool) {
    edit_through(device, script, now, barriers, None);
}

fn edit_through(
    device: Arc<dyn BlockDevice>,
    script: &Script,
    now: Timestamp,
    barriers: bool,
    through: Option<Through>,
) {
    let mut options = Options::new(Arc::new(FixedClock(now)), Arc::new(NoTimer));
    options.barriers = barriers;
    options.through = through;
    let mut session = Session::open(device, options).unwrap();
    script.run(&mut session, &mut Unwatched, &mut Report::default(), &mut |_, _| ()).unwrap();
    session.close().unwrap();
}

fn tree(device: &Arc<dyn BlockDevice>) -> Tree {
    image_tree(&Volume::open(Arc::clone(device), &OpenOptions::default()).unwrap())
}

/// Problems that our checker finds.
fn problems(device: &Arc<dyn BlockDevice>) -> Option<String> {
    let options = CheckOptions::everything(EDIT);
    let mut found = Collect::default();
    let outcome = check(device, &options, &mut found, &Silent).unwrap();
    let mut text = String::new();
    for f in &found.0 {
        let _ = writeln!(text, "{f:?}");
    }
    (outcome.errors > 0 || outcome.aborted).then_some(text)
}

/// A batch on a filesystem, recorded.
struct Recording {
    base: Vec<u8>,
    log: WriteLog,
    old: Tree,
    new: Tree,
}

fn record(image: &[u8], batch: &Script, barriers: bool) -> Recording {
    record_through(image, batch, barriers, None)
}

fn record_through(image: &[u8], batch: &Script, barriers: bool, through: Option<Through>) -> Recording {
    let device = Arc::new(RecordDevice::new(MemoryDevice::from_bytes(image.to_vec())));
    let as_device: Arc<dyn BlockDevice> = Arc::<RecordDevice<MemoryDevice>>::clone(&device);
    let old = tree(&as_device);
    edit_through(Arc::clone(&as_device), batch, EDIT, barriers, through);
    assert_eq!(problems(&as_device), None, "after the batch");
    Recording { base: image.to_vec(), log: device.log(), old, new: tree(&as_device) }
}

/// How many states others have judged.
#[derive(Default)]
struct Judged {
    states: AtomicU64,
    reference: AtomicU64,
    kernel: AtomicU64,
}

/// Every how many states the reference and the kernel are asked.
const REFERENCE: u64 = 60;
const KERNEL: u64 = 300;

impl Recording {
    /// Crash states that are neither old nor new, or have faults.
    fn enumerate(&self, seed: u64, judged: &Judged) -> Outcome {
        let end = self.log.len();
        enumerate(&self.base, &self.log, plan(seed), |device, _, durable| {
            let n = judged.states.fetch_add(1, Ordering::Relaxed);
            if is_long() && n.is_multiple_of(KERNEL) {
                self.kernel(device, judged)?;
            }
            recover(device, None, RecoverOptions { on_damage: OnDamage::Refuse, now: Some(EDIT), keep_counts: false })
                .map_err(|e| e.to_string())?;
            if let Some(text) = problems(device) {
                return Err(text);
            }
            let got = tree(device);
            if got != self.new && (durable == end || got != self.old) {
                let only = |a: &Tree, b: &Tree| a.iter().filter(|e| b.get(e.0) != Some(e.1)).count();
                let (old, new) = (only(&got, &self.old), only(&got, &self.new));
                return Err(format!("neither old nor new: {old} entries are not old, {new} are not new"));
            }
            if n.is_multiple_of(REFERENCE) {
                Self::reference(device, judged)?;
            }
            Ok(())
        })
        .unwrap()
    }

    fn reference(device: &Arc<dyn BlockDevice>, judged: &Judged) -> Result<(), String> {
        let Some(e2fsck) = common::tool("e2fsck") else { return Ok(()) };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes_of(&**device).unwrap()).unwrap();
        let out = Command::new(e2fsck).arg("-fn").arg(file.path()).output().unwrap();
        judged.reference.fetch_add(1, Ordering::Relaxed);
        if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stdout).into_owned()) }
    }

    /// The kernel recovers it and sees the old tree or the new one.
    fn kernel(&self, device: &Arc<dyn BlockDevice>, judged: &Judged) -> Result<(), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes_of(&**device).unwrap()).unwrap();
        let Some(mount) = common::Mount::new(file.path(), "") else { return Ok(()) };
        let got = common::host_tree(mount.path());
        judged.kernel.fetch_add(1, Ordering::Relaxed);
        if got == self.old || got == self.new { Ok(()) } else { Err("the kernel sees neither old nor new".into()) }
    }
}

/// Filesystems of every kind with what is there before a batch. Empty (loudly) without mke2fs.
fn images(host: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let Some(mke2fs) = common::tool("mke2fs") else { return Vec::new() };
    let base = expand(BASE, host);
    KINDS
        .iter()
        .map(|(name, options)| {
            let file = host.join(format!("image-{name}"));
            let mut args: Vec<&str> = vec!["-q", "-F", "-N", "1200"];
            args.extend(options.split(' '));
            args.extend([file.to_str().unwrap(), "12M"]);
            common::run(&mke2fs, &args);
            let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(std::fs::read(&file).unwrap()));
            edit(Arc::clone(&device), &base, SETUP, true);
            (*name, bytes_of(&*device).unwrap())
        })
        .collect()
}

#[test]
fn a_batch_that_is_cut_off_is_there_or_not() {
    let dir = tempfile::tempdir().unwrap();
    host(dir.path());
    let images = images(dir.path());
    let judged = Judged::default();
    let mut counts = Counts::default();
    let mut runs = 0;
    for (i, batch) in BATCHES.iter().enumerate() {
        let script = expand(batch, dir.path());
        // Each batch on some kinds, each kind with some batches.
        let kinds = if is_long() { 3 } else { 1 };
        for k in 0..kinds.min(images.len()) {
            let (name, image) = &images[(i + k * 3) % images.len()];
            let recording = record(image, &script, true);
            assert_eq!(batch.is_empty(), recording.old == recording.new);
            let outcome = recording.enumerate(i as u64, &judged);
            if let Some(failure) = outcome.first_failure {
                panic!("{name}, {} states failed, batch\n{batch}\n{failure}", outcome.failed);
            }
            counts += outcome.counts;
            runs += 1;
        }
    }
    eprintln!(
        "{} batches in {runs} runs: {} crash states ({} prefixes, {} subsets, {} torn, {} sampled), {} by e2fsck, {} by the kernel",
        BATCHES.len(),
        counts.total(),
        counts.prefixes,
        counts.subsets,
        counts.torn,
        counts.sampled,
        judged.reference.load(Ordering::Relaxed),
        judged.kernel.load(Ordering::Relaxed),
    );
}

/// Batches whose content goes through the page cache: new files, files that are there, holes, what does not end with a block.
const THROUGH: &[&str] = &[
    "put HOST/big /new",
    "put HOST/big /mid\nput HOST/mid /big\nrm -r /many",
    "put HOST/comb /comb2\nput HOST/comb /big\nput HOST/small /comb",
    "rm /mid\nput -r HOST/tree /d\nput HOST/mid /d/e/f/m\ntruncate -s 5000 /d/e/f/m\nput HOST/big /small",
];

#[test]
fn content_through_the_page_cache_is_there_or_not() {
    let dir = tempfile::tempdir().unwrap();
    host(dir.path());
    let images = images(dir.path());
    let judged = Judged::default();
    let mut counts = Counts::default();
    let ways = [(PathChoice::Iomap, 4096), (PathChoice::BufferHead, 100_000), (PathChoice::Auto, 3000)];
    for (i, (name, image)) in images.iter().enumerate() {
        for (k, batch) in THROUGH.iter().enumerate() {
            if !is_long() && (i + k) % 4 != 0 {
                continue;
            }
            let (path, write_size) = ways[(i + k) % ways.len()];
            let script = expand(batch, dir.path());
            let recording = record_through(image, &script, true, Some(Through { path, write_size }));
            let direct = record(image, &script, true);
            common::assert_same_tree(&format!("{name}, {batch}"), &direct.new, &recording.new);
            let outcome = recording.enumerate((i * 10 + k) as u64, &judged);
            if let Some(failure) = outcome.first_failure {
                panic!("{name}, {path:?}, {} states failed, batch\n{batch}\n{failure}", outcome.failed);
            }
            counts += outcome.counts;
        }
    }
    eprintln!("{} crash states, {} by e2fsck", counts.total(), judged.reference.load(Ordering::Relaxed));
}

/// An archive of 2,000 files is one batch.
#[test]
fn an_archive_that_is_cut_off_is_there_or_not() {
    let Some(mke2fs) = common::tool("mke2fs") else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut archive = tar::Builder::new(std::fs::File::create(dir.path().join("x.tar")).unwrap());
    for i in 0..2000u32 {
        let mut header = tar::Header::new_gnu();
        let content = format!("{i} ").repeat((i % 90) as usize);
        header.set_size(content.len() as u64);
        header.set_mode(0o640);
        header.set_mtime(u64::from(i));
        header.set_cksum();
        archive.append_data(&mut header, format!("d{}/file {i}", i / 300), content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap();
    let file = dir.path().join("image");
    let args = ["-q", "-F", "-t", "ext4", "-b", "1024", "-J", "size=4", "-N", "2500"];
    common::run(&mke2fs, &[&args[..], &[file.to_str().unwrap(), "12M"]].concat());
    let recording = record(&std::fs::read(&file).unwrap(), &expand("untar HOST/x.tar /", dir.path()), true);
    assert_eq!(recording.new.len(), 2000 + 7 + 1);
    let judged = Judged::default();
    let outcome = recording.enumerate(7, &judged);
    assert_eq!(outcome.failed, 0, "{}", outcome.first_failure.unwrap());
    let others = (judged.reference.load(Ordering::Relaxed), judged.kernel.load(Ordering::Relaxed));
    eprintln!(
        "2,000 files from a tar: {} crash states, {} by e2fsck, {} by the kernel",
        outcome.counts.total(),
        others.0,
        others.1
    );
}

/// The tests above see what happens where nothing is flushed before the commit block.
#[test]
fn without_the_barrier_it_shows() {
    let dir = tempfile::tempdir().unwrap();
    host(dir.path());
    let images = images(dir.path());
    let mut failed = 0;
    for (name, image) in images.iter().take(3) {
        for batch in ["put HOST/big /new", "mv /tree /t2\nrm -r /many"] {
            let recording = record(image, &expand(batch, dir.path()), false);
            let outcome = recording.enumerate(1, &Judged::default());
            eprintln!("{name}: {} of {} states fail without the barrier", outcome.failed, outcome.counts.total());
            failed += outcome.failed;
        }
    }
    assert!(images.is_empty() || failed > 0);
}
