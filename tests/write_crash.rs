//! The write path, cut off: scripts of file operations are recorded, and every state that a power failure may leave is recovered
//! and judged (see `script::crash`). `EXT4KIT_WRITE_CRASH=1` takes all of the oracle's scripts and many generated ones, on both
//! paths, in more than 100,000 states, some of them also judged by e2fsck and recovered by the kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use ext4kit::device::crash::Plan;
use ext4kit::device::replay::Event;
use ext4kit::device::{BlockDevice, MemoryDevice, WriteLog};
use ext4kit::env::{Entropy, SeededEntropy, Timestamp};
use ext4kit::file::PathChoice;
use ext4kit::script::crash::{Recording, Report};
use ext4kit::script::{self, Script, Settings};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

fn is_long() -> bool {
    std::env::var_os("EXT4KIT_WRITE_CRASH").is_some()
}

fn record(script: &Script, path: PathChoice) -> Recording {
    let image = script::make(&script.head, NOW).unwrap().into_bytes();
    Recording::new(script, image, Settings { path, now: NOW, check: false }).unwrap()
}

/// The oracle's scripts, by name.
fn corpus() -> Vec<PathBuf> {
    let dir = match std::env::var_os("EXT4KIT_ORACLE") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/oracle"),
    };
    let Ok(list) = std::fs::read_dir(dir.join("corpus")) else {
        eprintln!("skipped: the oracle's scripts are not at {}", dir.display());
        return Vec::new();
    };
    let mut all: Vec<PathBuf> = list.map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == "json"));
    all.sort();
    all
}

/// Filesystems of generated scripts: mke2fs's arguments, block size, what shifts are multiples of.
const SHAPES: &[(&str, u64, u64)] = &[
    ("-b 1024 -J size=1", 1024, 1024),
    ("-b 4096 -J size=4", 4096, 4096),
    ("-b 2048 -J size=2", 2048, 2048),
    ("-b 1024 -J size=1 -O bigalloc -C 8192", 1024, 8192),
    ("-b 4096 -J size=4 -O bigalloc -C 16384", 4096, 16384),
];
const MOUNTS: &[&str] =
    &["rw", "rw,dioread_lock", "rw,nodelalloc", "rw,data=journal", "rw,data=writeback", "rw,nodelalloc,dioread_lock"];

/// A random script.
fn generate(seed: u64, ops: usize) -> Script {
    let mut random = SeededEntropy::new(seed);
    let mut below = |n: u64| u64::from(random.next_u32()) % n.max(1);
    let (mkfs, block, unit) = SHAPES[below(SHAPES.len() as u64) as usize];
    let mount = MOUNTS[below(MOUNTS.len() as u64) as usize];
    let span = 60 * block;
    let mut list = Vec::new();
    for n in 0..ops {
        let file = ["a", "a", "b", "c"][below(4) as usize];
        let (mut off, mut len) = (below(span), 1 + below(12 * block));
        if below(2) == 0 {
            (off, len) = (off / block * block, len.next_multiple_of(block));
        }
        let (at, whole) = (off / unit * unit, (1 + below(2)) * unit);
        let seed = n as u64 + 1;
        list.push(match below(40) {
            0..=11 => json!({"op": "write", "file": file, "off": off, "len": len, "seed": seed}),
            12 | 13 => json!({"op": "mmap_write", "file": file, "off": off / 2, "len": len.min(5000), "seed": seed}),
            14 | 15 => json!({"op": "dio_write", "file": file, "off": off / 512 * 512, "len": len.next_multiple_of(512), "seed": seed}),
            16 | 17 => json!({"op": "truncate", "file": file, "size": off}),
            18 | 19 => json!({"op": "punch", "file": file, "off": off, "len": len}),
            20 => json!({"op": "zero_range", "file": file, "off": off, "len": len, "keep": below(2) == 0}),
            21 | 22 => json!({"op": "fallocate", "file": file, "off": off, "len": len, "mode": (if below(2) == 0 { "keep" } else { "" })}),
            23 => json!({"op": "collapse", "file": file, "off": at, "len": whole}),
            24 => json!({"op": "insert", "file": file, "off": at, "len": whole}),
            25..=28 => json!({"op": "fsync", "file": file}),
            29 => json!({"op": "fdatasync", "file": file}),
            30..=32 => json!({"op": "writeback", "file": file, "off": off, "len": len}),
            33 => json!({"op": "sync"}),
            34 => json!({"op": "rename", "file": file, "to": (["a", "b", "d"][below(3) as usize])}),
            35 => json!({"op": "unlink", "file": file, "keep": below(2) == 0}),
            36 => json!({"op": "close", "file": file}),
            37 => json!({"op": "drop_caches", "file": file}),
            38 => json!({"op": "read", "file": file, "off": off, "len": len}),
            _ => json!({"op": "clear_es", "file": file}),
        });
    }
    let args: Vec<Value> = mkfs.split(' ').map(Value::from).collect();
    let text = json!({"size": "16M", "mkfs": args, "mount": mount, "ops": list}).to_string();
    if std::env::var_os("EXT4KIT_WRITE_CRASH_SEED").is_some() {
        println!("{text}");
    }
    Script::parse(text.as_bytes()).unwrap()
}

#[derive(Default)]
struct Total {
    runs: u64,
    states: u64,
    stale_allowed: u64,
    kinds: BTreeMap<&'static str, u64>,
    reference: u64,
    kernel: u64,
    failures: Vec<String>,
}

impl Total {
    fn add(&mut self, name: &str, report: &Report) {
        if report.failed > 0 {
            self.failures.push(format!("{name}:\n{report}"));
        }
        self.runs += 1;
        self.states += report.states.total();
        self.stale_allowed += report.stale_allowed;
        let s = &report.states;
        for (kind, n) in [("prefixes", s.prefixes), ("torn", s.torn), ("subsets", s.subsets), ("sampled", s.sampled)] {
            *self.kinds.entry(kind).or_default() += n;
        }
    }

    /// A few states, recovered by the kernel and checked by e2fsck.
    fn others(&mut self, name: &str, recording: &Recording) {
        for share in [1, 2] {
            let state = recording.log.prefix(recording.log.len() * share / 3);
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), recording.image(&state).unwrap()).unwrap();
            let Some(mount) = common::Mount::new(file.path(), "") else { return };
            drop(mount);
            self.kernel += 1;
            let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(std::fs::read(file.path()).unwrap()));
            if let Err(v) = recording.judge(&device, &state) {
                panic!("{name}: recovered by the kernel, after {} events: {v}", state.end);
            }
            let Some(e2fsck) = common::tool("e2fsck") else { return };
            let out = Command::new(e2fsck).arg("-fn").arg(file.path()).output().unwrap();
            assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stdout));
            self.reference += 1;
        }
    }

    fn say(&self, what: &str) {
        eprintln!(
            "{what}: {} runs, {} crash states {:?}, {} with old content that writeback mode allows, {} by the kernel, {} by e2fsck",
            self.runs, self.states, self.kinds, self.stale_allowed, self.kernel, self.reference
        );
        assert!(self.failures.is_empty(), "{} runs failed:\n{}", self.failures.len(), self.failures.join("\n"));
    }
}

const PATHS: [PathChoice; 2] = [PathChoice::BufferHead, PathChoice::Iomap];

#[test]
fn generated_scripts_survive_a_crash_at_any_moment() {
    let (scripts, states) = if is_long() { (300, 200) } else { (10, 60) };
    let mut total = Total::default();
    // One seed alone, its script shown: to be looked at with `e4es crash`.
    let one: Option<u64> = std::env::var("EXT4KIT_WRITE_CRASH_SEED").ok().and_then(|s| s.parse().ok());
    for seed in one.map_or(0..scripts, |s| s..s + 1) {
        let script = generate(seed, 40);
        for path in PATHS {
            let name = format!("generated {seed} ({path:?}, {}, {:?})", script.head.mount, script.head.mkfs);
            let recording = record(&script, path);
            let report = recording.crash(recording.plan(states, seed)).unwrap();
            total.add(&name, &report);
            if is_long() && seed % 10 == 0 {
                total.others(&name, &recording);
            }
        }
    }
    total.say("generated scripts");
}

#[test]
fn the_oracle_s_scripts_survive_a_crash_at_any_moment() {
    let mut total = Total::default();
    let (step, states) = if is_long() { (1, 300) } else { (37, 30) };
    for (n, file) in corpus().iter().enumerate().step_by(step) {
        let script = Script::parse(&std::fs::read(file).unwrap()).unwrap();
        for path in PATHS {
            let recording = record(&script, path);
            let report = recording.crash(recording.plan(states, n as u64)).unwrap();
            let name = format!("{} ({path:?})", file.display());
            total.add(&name, &report);
            if is_long() && n % 20 == 0 {
                total.others(&name, &recording);
            }
        }
    }
    total.say("the oracle's scripts");
}

/// Files of 5 blocks, new and appended to, with fsync behind each.
fn simple(mount: &str) -> Script {
    let text = json!({"size": "8M", "mkfs": ["-b", 1024, "-J", "size=1"], "mount": mount, "ops": [
        {"op": "write", "file": "a", "off": 0, "len": 5000, "seed": 1},
        {"op": "fsync", "file": "a"},
        {"op": "write", "file": "a", "off": 5000, "len": 5000, "seed": 2},
        {"op": "write", "file": "b", "off": 0, "len": 5000, "seed": 3},
        {"op": "fsync", "file": "b"},
        {"op": "write", "file": "a", "off": 1024, "len": 2048, "seed": 4},
        {"op": "fdatasync", "file": "a"},
    ]});
    Script::parse(text.to_string().as_bytes()).unwrap()
}

/// The log with some events made to do nothing; the numbers of the others stay.
fn without(log: &WriteLog, gone: impl Fn(usize, &Event) -> bool) -> WriteLog {
    let nothing = Event::Zero { offset: 0, len: 0 };
    let all = log.events().iter().enumerate();
    WriteLog::new(all.map(|(n, e)| if gone(n, e) { nothing.clone() } else { e.clone() }).collect())
}

/// The judge sees what happens on a device whose flushes do nothing: data is not there when the commit is.
#[test]
fn without_flushes_stale_and_lost_data_is_found() {
    for mount in ["rw,nodelalloc", "rw,dioread_lock", "rw"] {
        let mut recording = record(&simple(mount), PathChoice::BufferHead);
        let plan = Plan { seed: 1, samples: 400, all_subsets_up_to: 0, torn: 0, prefixes: 8 };
        assert_eq!(recording.crash(plan).unwrap().failed, 0);
        recording.log = without(&recording.log, |_, e| *e == Event::Flush);
        let report = recording.crash(plan).unwrap();
        eprintln!("{mount}, without flushes: {:?} of {} states", report.violations, report.states.total());
        assert!(report.violations.contains_key("stale"), "{report}");
        let first = report.first[0].to_string();
        assert!(first.contains("operation ") && first.contains("expected"), "{first}");
    }
}

/// Each single write that a device loses, while it says that it has it, is missed somewhere.
#[test]
fn a_write_that_a_device_loses_is_missed() {
    let recording = record(&simple("rw,dioread_lock"), PathChoice::BufferHead);
    let plan = Plan { seed: 1, samples: 0, all_subsets_up_to: 0, torn: 0, prefixes: usize::MAX };
    let mut kinds = BTreeMap::new();
    for (n, _) in recording.log.events().iter().enumerate().filter(|(_, e)| matches!(e, Event::Write { .. })) {
        let mut lying = recording.clone();
        lying.log = without(&recording.log, |at, _| at == n);
        for (kind, count) in lying.crash(plan).unwrap().violations {
            *kinds.entry(kind).or_insert(0) += count;
        }
    }
    eprintln!("one write lost: {kinds:?}");
    assert!(kinds.contains_key("stale") && kinds.contains_key("lost"), "{kinds:?}");
}

/// Without a journal nothing is promised.
#[test]
fn an_image_without_a_journal_is_refused() {
    let text = br#"{"size": "4M", "mkfs": ["-b", 1024, "-O", "^has_journal"], "ops": []}"#;
    let script = Script::parse(text).unwrap();
    let image = script::make(&script.head, NOW).unwrap().into_bytes();
    let settings = Settings { path: PathChoice::Auto, now: NOW, check: false };
    assert!(Recording::new(&script, image, settings).unwrap_err().to_string().contains("journal"));
}
