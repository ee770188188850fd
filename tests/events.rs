//! The events of `e4es run --events` against those that the kernel gave for the same scripts (`../shared/oracle/corpus`, the
//! scripts `fact-*`). Compared are extent status and reservations (`es_*`, `da_*`), operation by operation. They must be equal, with
//! what is a matter of chance or of the cache aside:
//!
//! - physical blocks are not compared: they depend on the allocator;
//! - the process and the end of I/O are two sequences: the kernel runs them on different CPUs;
//! - what tells nothing is left out: an insert of what is known already, a removal of what is not known, and inserts of holes, which
//!   are a cache (`es_cache_extent` counts as known, and is not compared either);
//! - inode 2, the root directory, is none of the write path's.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use ext4kit::file::extent_status::{EsEntry, EsStatus, EsTree};
use ext4kit::units::{Fsblk, Lblk};
use serde_json::Value;

/// Scripts whose events are equal. Where others differ: when writeback begins where space runs out, what is removed from
/// the cache twice, and how far zeroing goes.
const EQUAL: [&str; 30] = [
    "bigalloc",
    "bigalloc-pending",
    "commit-delalloc",
    "commit-journal",
    "commit-lock",
    "commit-nodelalloc",
    "commit-writeback",
    "data-journal",
    "delayed",
    "delayed-lock",
    "dio",
    "disksize",
    "disksize-lock",
    "enospc-fallocate",
    "eof",
    "es-cache",
    "fallocate",
    "large-folio",
    "mmap",
    "nodelalloc",
    "nodelalloc-lock",
    "overwrite-crash",
    "punch",
    "shutdown-logflush",
    "shutdown-nologflush",
    "small-block",
    "small-block-lock",
    "truncate",
    "writeback-range",
    "zero-range",
];

fn corpus() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/oracle/corpus");
    if !dir.is_dir() {
        eprintln!("skipped: no recordings of the kernel here ({})", dir.display());
        return None;
    }
    Some(dir)
}

/// The events of each operation.
fn events(lines: &str) -> Vec<Vec<String>> {
    let records = lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).filter(|r| r.get("i").is_some());
    let words = |r: &Value| {
        r["events"].as_array().into_iter().flatten().map(|e| e.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    records.map(|r| words(&r)).collect()
}

fn status(word: &str) -> EsStatus {
    match word {
        "written" => EsStatus::Written,
        "unwritten" => EsStatus::Unwritten,
        "hole" => EsStatus::Hole,
        _ => EsStatus::Delayed,
    }
}

/// Take up an event of extent status; whether it told something.
fn tells(known: &mut EsTree, name: &str, field: &BTreeMap<&str, &str>) -> bool {
    let number = |key: &str| field[key].parse::<u32>().unwrap();
    let (lblk, len) = (number("lblk"), number("len"));
    let range = lblk..lblk.saturating_add(len);
    let status = field.get("status").map_or(EsStatus::Hole, |w| status(w));
    // Places are not compared: each block stands where its number says.
    let e = EsEntry { lblk: Lblk(lblk), len, status, pblk: Fsblk(if status.is_mapped() { lblk.into() } else { 0 }) };
    match name {
        "es_cache_extent" => {
            known.cache(e);
            false
        }
        "es_remove_extent" => {
            let told = known.overlapping(range.clone()).any(|e| e.status != EsStatus::Hole);
            known.remove(range);
            told
        }
        _ => {
            let same = known.lookup(Lblk(lblk)).is_some_and(|had| had.end() >= range.end && had.status == status);
            known.insert(e);
            !same && (status != EsStatus::Hole)
        }
    }
}

/// The two sequences of each operation, as the rules leave them.
fn sequences(ops: &[Vec<String>]) -> Vec<[Vec<String>; 2]> {
    let mut known: BTreeMap<String, EsTree> = BTreeMap::new();
    let mut all = Vec::new();
    for events in ops {
        let mut both = [Vec::new(), Vec::new()];
        for e in events {
            let (task, rest) = e.split_once(' ').unwrap();
            let (name, fields) = rest.split_once(' ').unwrap_or((rest, ""));
            let field: BTreeMap<&str, &str> = fields.split(' ').filter_map(|f| f.split_once('=')).collect();
            let is_one = name.starts_with("es_") || name.starts_with("da_") && name != "da_write_pages_extent";
            let Some(ino) = field.get("ino").filter(|ino| is_one && **ino != "2") else { continue };
            let known = known.entry((*ino).to_owned()).or_default();
            if name.starts_with("da_") || tells(known, name, &field) {
                let shown: Vec<&str> = fields.split(' ').filter(|f| !f.starts_with("pblk=")).collect();
                both[usize::from(task == "k")].push(format!("{name} {}", shown.join(" ")));
            }
        }
        all.push(both);
    }
    all
}

#[test]
fn extent_status_and_reservations_change_as_in_the_kernel() {
    let Some(corpus) = corpus() else { return };
    let mut compared = 0;
    for name in EQUAL {
        let script = corpus.join(format!("fact-{name}.json"));
        let out = Command::new(env!("CARGO_BIN_EXE_e4es")).args(["run", "--events"]).arg(&script).output().unwrap();
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        let mut recorded = String::new();
        let file = std::fs::File::open(corpus.join(format!("fact-{name}.jsonl.gz"))).unwrap();
        flate2::read::MultiGzDecoder::new(file).read_to_string(&mut recorded).unwrap();
        let ours = sequences(&events(&String::from_utf8(out.stdout).unwrap()));
        let theirs = sequences(&events(&recorded));
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (n, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(a, b, "{name}, operation {n}: ours, then the kernel's");
            compared += b[0].len() + b[1].len();
        }
    }
    assert!(compared > 500, "{compared} events were compared");
}

#[test]
fn events_are_there_only_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (script, log) = (dir.path().join("s.json"), dir.path().join("log.txt"));
    let text = r#"{"size": "16M", "mkfs": ["-b", 4096], "mount": "rw", "ops": [
        {"op": "write", "file": "a", "off": 0, "len": 10000, "seed": 1}, {"op": "fsync", "file": "a"}]}"#;
    std::fs::write(&script, text).unwrap();
    let run = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_e4es")).arg("run").arg(&script).args(args).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(!run(&[]).contains("\"events\""));
    let told = events(&run(&["--events", "--trace", log.to_str().unwrap()]));
    assert!(
        told[0].contains(&"- da_reserve_space ino=12 reserve_blocks=1 reserved_data_blocks=3".to_owned()),
        "{told:?}"
    );
    assert!(told[1].iter().any(|e| e.starts_with("k es_insert_extent ino=12 lblk=0 len=3")), "{told:?}");
    let out = Command::new(env!("CARGO_BIN_EXE_e4es")).arg("check-trace").arg(&log).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stdout));
    let live = run(&["--live", "--json"]);
    let states: Vec<Value> = live.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(states.len(), 2);
    assert_eq!(states[0]["schema"], "ext4kit/live/1");
    let file = &states[0]["files"][0];
    assert_eq!((&file["reserved"], &file["disksize"], &file["size"]), (&3.into(), &0.into(), &10000.into()));
    assert_eq!(file["es"][0]["status"], "delayed");
    assert!(states[1]["files"][0]["seq"].as_u64() > file["seq"].as_u64(), "{live}");
    assert!(run(&["--live"]).contains("delayed"));
}
