//! Scripts of file operations against the kernel: recordings of it, made before or on the spot, and the two buffered write paths
//! against each other. What is not there (the recordings, Python, root) is skipped, aloud.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::{is_root, tool};
use ext4kit::device::BlockDevice;
use ext4kit::env::Timestamp;
use ext4kit::file::PathChoice;
use ext4kit::script::{self, Script, Settings};
use serde_json::Value;

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

/// The folder of the oracle; `None`, aloud, where it is not.
fn oracle() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/oracle");
    if dir.join("corpus").is_dir() {
        return Some(dir);
    }
    eprintln!("skipped: no ../shared/oracle here");
    None
}

/// The scripts of the corpus by name.
fn corpus(dir: &Path) -> Vec<(String, Script)> {
    let mut all: Vec<PathBuf> = fs::read_dir(dir.join("corpus")).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == "json"));
    all.sort();
    let parse = |p: PathBuf| {
        let name = p.file_stem().unwrap().to_string_lossy().into_owned();
        (name, Script::parse(&fs::read(p).unwrap()).unwrap())
    };
    all.into_iter().map(parse).collect()
}

/// Run a script in memory; its records. No invariant may be violated on the way.
fn records(name: &str, script: &Script, path: PathChoice) -> Vec<Value> {
    let device: Arc<dyn BlockDevice> = Arc::new(script::make(&script.head, NOW).unwrap());
    let mut out = Vec::new();
    let settings = Settings { path, now: NOW, check: true };
    script::run(script, &device, settings, &mut |r| {
        assert!(r.get("violation").is_none(), "{name}: {r}");
        out.push(r.clone());
        Ok(())
    })
    .unwrap();
    out
}

fn write_records(at: &Path, all: &[Value]) {
    let lines: Vec<String> = all.iter().map(Value::to_string).collect();
    fs::write(at, lines.join("\n") + "\n").unwrap();
}

/// What `compare.py` says of two recordings, or folders of them; whether they are equal.
fn compare(dir: &Path, a: &Path, b: &Path) -> Option<(bool, String)> {
    let out = Command::new(tool("python3")?).arg(dir.join("compare.py")).args([a, b]).output().unwrap();
    Some((out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned()))
}

#[test]
fn the_corpus_equals_the_kernel() {
    let Some(dir) = oracle() else { return };
    let tmp = tempfile::tempdir().unwrap();
    for (name, script) in corpus(&dir) {
        write_records(&tmp.path().join(format!("{name}.jsonl")), &records(&name, &script, PathChoice::Auto));
    }
    let Some((equal, said)) = compare(&dir, &dir.join("corpus"), tmp.path()) else { return };
    assert!(equal, "{said}");
}

/// Record what the kernel does; `None`, aloud, where that is not allowed here or somebody disturbed it.
fn record(dir: &Path, script: &Path, out: &Path) -> Option<()> {
    let done = Command::new(tool("python3")?)
        .arg(dir.join("kernel_oracle.py"))
        .arg(script)
        .arg("-o")
        .arg(out)
        .output()
        .unwrap();
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr);
        eprintln!("skipped: the kernel cannot be recorded here: {}", why.lines().last().unwrap_or_default());
        return None;
    }
    let disturbed = fs::read_to_string(out).unwrap().contains("\"disturbed\"");
    if disturbed {
        eprintln!("skipped: another process called sync while the kernel was recorded");
    }
    (!disturbed).then_some(())
}

#[test]
fn fresh_scripts_equal_the_running_kernel() {
    let Some(dir) = oracle() else { return };
    if !is_root() {
        eprintln!("skipped: recording the kernel needs root");
        return;
    }
    let (Some(python), tmp) = (tool("python3"), tempfile::tempdir().unwrap()) else { return };
    for (profile, seed) in [("basic-4k", 5007), ("bigalloc", 5011), ("fallocate-heavy", 5018), ("large-folio", 5009)] {
        let at = |ext: &str| tmp.path().join(format!("{profile}-{seed}.{ext}"));
        let made = Command::new(&python)
            .arg(dir.join("gen_ops.py"))
            .args([profile, &seed.to_string(), "-n", "50", "-o"])
            .arg(at("json"))
            .status()
            .unwrap();
        assert!(made.success());
        let script = Script::parse(&fs::read(at("json")).unwrap()).unwrap();
        write_records(&at("tool"), &records(profile, &script, PathChoice::Auto));
        let Some(()) = record(&dir, &at("json"), &at("kernel")) else { continue };
        let Some((equal, said)) = compare(&dir, &at("kernel"), &at("tool")) else { return };
        if equal {
            continue;
        }
        // A recording counts where a second one is equal to it.
        let Some(()) = record(&dir, &at("json"), &at("again")) else { continue };
        let Some((repeatable, _)) = compare(&dir, &at("kernel"), &at("again")) else { return };
        assert!(!repeatable, "{profile} {seed}: {said}");
        eprintln!("skipped: {profile} {seed}: two recordings of the kernel are not equal");
    }
}

/// Mounts an image, which replays its journal, and compares its files with what a recording says of them in the end.
const READ_BACK: &str = r#"
import sys, os, gzip, json, subprocess, tempfile, time
dir, img, recording = sys.argv[1:]
sys.path.insert(0, dir)
import kernel_oracle
with gzip.open(recording, "rt") as f:
    lines = [json.loads(line) for line in f]
want, mnt = lines[-1]["final"]["files"], tempfile.mkdtemp()
subprocess.run(["mount", "-o", "loop,noatime", img, mnt], check=True)
try:
    got = kernel_oracle.collect(mnt, lines[0]["header"]["block_size"])
finally:
    for _ in range(50):
        if subprocess.run(["umount", mnt], stderr=subprocess.DEVNULL).returncode == 0:
            break
        time.sleep(0.1)
    os.rmdir(mnt)
of = lambda files: {n: (f["size"], f["crc32"]) for n, f in files.items()}
fsck = subprocess.run(["e2fsck", "-fn", img], capture_output=True, text=True)
print("equal" if of(got) == of(want) else f"{of(want)} / {of(got)}", "and", fsck.returncode, fsck.stdout[-300:] if fsck.returncode else "")
"#;

/// Whether `EXT4KIT_ORACLE_ALL` asks for all of the scripts.
fn is_long() -> bool {
    let long = std::env::var_os("EXT4KIT_ORACLE_ALL").is_some();
    if !long {
        eprintln!("skipped: EXT4KIT_ORACLE_ALL is not set");
    }
    long
}

/// Run a script in memory, and leave the image at `at`.
fn image(script: &Script, path: PathChoice, at: &Path) {
    let memory = Arc::new(script::make(&script.head, NOW).unwrap());
    let device = Arc::clone(&memory) as Arc<dyn BlockDevice>;
    script::run(script, &device, Settings { path, now: NOW, check: false }, &mut |_| Ok(())).unwrap();
    fs::write(at, memory.to_bytes()).unwrap();
}

#[test]
fn the_kernel_reads_the_same_from_what_is_left() {
    if !is_long() {
        return;
    }
    let (Some(dir), Some(python), Some(_)) = (oracle(), tool("python3"), tool("e2fsck")) else { return };
    if !is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let mut equal = 0;
    for (name, script) in corpus(&dir) {
        let at = tmp.path().join("image");
        image(&script, PathChoice::Auto, &at);
        let recording = dir.join("corpus").join(format!("{name}.jsonl.gz"));
        let out = Command::new(&python).args(["-c", READ_BACK]).arg(&dir).arg(&at).arg(recording).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        let why = String::from_utf8_lossy(&out.stderr);
        assert_eq!(said.trim(), "equal and 0", "{name}: {why}");
        equal += 1;
    }
    eprintln!("{equal} images: the kernel reads what it wrote itself, e2fsck finds nothing");
}

#[test]
fn quota_files_say_what_owners_use() {
    if !is_long() {
        return;
    }
    let (Some(dir), Some(e2fsck)) = (oracle(), tool("e2fsck")) else { return };
    let (tmp, mut images) = (tempfile::tempdir().unwrap(), 0);
    for (name, mut script) in corpus(&dir).into_iter().step_by(17) {
        // What is left behind a shutdown has to be recovered first; one list of features is enough.
        if script.head.mkfs.contains(&Value::from("-O"))
            || script.ops.iter().any(|(op, _)| matches!(op, script::Op::Shutdown { .. }))
        {
            continue;
        }
        script.head.mkfs.extend([Value::from("-O"), Value::from("quota")]);
        for path in [PathChoice::BufferHead, PathChoice::Iomap] {
            let at = tmp.path().join("image");
            image(&script, path, &at);
            let out = Command::new(&e2fsck).arg("-fn").arg(&at).output().unwrap();
            assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stdout));
            images += 1;
        }
    }
    assert!(images > 0);
}

/// Records a script of the oracle with a look for data or a hole behind each operation.
const WITH_SEEKS: &str = r#"
import sys, os, json, random
dir, profile, seed, script, out = sys.argv[1:]
sys.path.insert(0, dir)
import kernel_oracle, gen_ops
def seek(self, o):
    return os.lseek(self.fd(o), o["off"], os.SEEK_HOLE if o["whence"] == "hole" else os.SEEK_DATA)
kernel_oracle.Oracle.op_seek = seek
made = gen_ops.generate(profile, int(seed), 40)
rng, ops, span = random.Random(int(seed)), [], 1
for op in made["ops"]:
    ops.append(op)
    span = max(span, op.get("off", 0) + op.get("len", 0), op.get("size", 0))
    for whence in ("data", "hole"):
        off = rng.randrange(0, span + 5000)
        ops.append({"op": "seek", "file": rng.choice("ab"), "off": off, "whence": whence})
made["ops"] = ops
with open(script, "w") as f:
    json.dump(made, f)
sys.argv = ["kernel_oracle.py", script, "-o", out, "--no-events"]
kernel_oracle.main()
"#;

#[test]
fn data_and_holes_are_found_where_the_kernel_finds_them() {
    if !is_long() {
        return;
    }
    let (Some(dir), Some(python)) = (oracle(), tool("python3")) else { return };
    if !is_root() {
        eprintln!("skipped: recording the kernel needs root");
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let at = |ext: &str| tmp.path().join(ext);
    for (profile, seed) in [("basic-4k", "71"), ("small-block", "72"), ("large-folio", "73"), ("fallocate-heavy", "75")]
    {
        let out = Command::new(&python)
            .args(["-c", WITH_SEEKS])
            .arg(&dir)
            .args([profile, seed])
            .args([at("script"), at("kernel")])
            .output()
            .unwrap();
        if !out.status.success() {
            eprintln!("skipped: {}", String::from_utf8_lossy(&out.stderr).lines().last().unwrap_or_default());
            return;
        }
        let script = Script::parse(&fs::read(at("script")).unwrap()).unwrap();
        let lines = fs::read_to_string(at("kernel")).unwrap();
        let kernel: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let ours = records(profile, &script, PathChoice::Auto);
        for (k, o) in kernel.iter().zip(&ours).filter(|(k, _)| k["op"]["op"] == "seek") {
            assert_eq!((&k["ret"], &k["errno"]), (&o["ret"], &o["errno"]), "{profile} {seed}: {} {}", k["i"], k["op"]);
        }
    }
}

/// Why the paths may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    /// `i_disksize` moves at the end of I/O, not when blocks are allocated.
    SizeAtEndOfIo,
    /// New blocks are unwritten until their data is on the device, also where buffer heads would make them written (no delayed
    /// allocation, `dioread_lock`); nothing beside them is zeroed.
    AlwaysUnwritten,
    /// A commit puts no data on the device first: after a crash, what was not synced may be missing.
    NoOrderedMode,
    /// The end of I/O changes the inode where buffer heads had made blocks written before: fsync commits, and a crash leaves more.
    CommitAtEndOfIo,
}

/// Blocks of a list of extents, each with its status.
fn blocks(list: &Value, keep: impl Fn(&str) -> bool) -> BTreeMap<u64, String> {
    let mut out = BTreeMap::new();
    for e in list.as_array().into_iter().flatten() {
        let status = e[3].as_str().unwrap();
        if keep(status) {
            let first = e[0].as_u64().unwrap();
            out.extend((first..first + e[1].as_u64().unwrap()).map(|b| (b, status.to_owned())));
        }
    }
    out
}

/// The two paths, and the mount options that say what may differ.
struct Pair<'a> {
    name: &'a str,
    /// Buffer heads would make new blocks written.
    written_at_once: bool,
    rules: BTreeSet<Rule>,
}

impl Pair<'_> {
    fn same(&self, at: &str, a: &Value, b: &Value) {
        assert_eq!(a, b, "{} {at}: buffer heads and iomap", self.name);
    }

    /// Maps have the same blocks; those that differ are unwritten with iomap.
    fn maps(&mut self, at: &str, a: &Value, b: &Value) {
        let (a, b) = (blocks(a, |s| s != "hole"), blocks(b, |s| s != "hole"));
        assert!(a.keys().eq(b.keys()), "{} {at}: other blocks: {a:?} / {b:?}", self.name);
        for (block, (x, y)) in a.iter().map(|(n, x)| (n, (x, &b[n]))).filter(|(_, (x, y))| x != y) {
            let known = self.written_at_once && x == "written" && y == "unwritten";
            assert!(known, "{} {at}: block {block} is {x} / {y}", self.name);
            self.rules.insert(Rule::AlwaysUnwritten);
        }
    }

    fn file(&mut self, at: &str, a: &Value, b: &Value) {
        for key in ["size", "reserved", "pending"] {
            self.same(&format!("{at} {key}"), &a[key], &b[key]);
        }
        let delayed = |s: &Value| blocks(&s["es"], |s| s == "delayed");
        assert_eq!(delayed(a), delayed(b), "{} {at}: delayed blocks", self.name);
        self.maps(at, &a["ext"], &b["ext"]);
        let (early, late) = (a["disksize"].as_u64().unwrap(), b["disksize"].as_u64().unwrap());
        assert!(late <= early, "{} {at}: i_disksize is {early} / {late}", self.name);
        if late < early {
            self.rules.insert(Rule::SizeAtEndOfIo);
        }
    }

    /// What a crash leaves: the same names, sizes no larger, and other content only below them; or more was committed.
    fn crash(&mut self, at: &str, a: &Value, b: &Value) {
        let (Some(heads), Some(iomap)) = (a["files"].as_object(), b["files"].as_object()) else { return };
        self.same(&format!("{at} fsck"), &a["fsck"], &b["fsck"]);
        let size = |files: &serde_json::Map<String, Value>, name| files[name]["size"].as_u64();
        let fewer = heads.keys().eq(iomap.keys()) && heads.keys().all(|n| size(iomap, n) <= size(heads, n));
        if !fewer {
            assert!(self.written_at_once, "{} {at}: {a} / {b}", self.name);
            self.rules.insert(Rule::CommitAtEndOfIo);
        } else if heads.iter().any(|(n, f)| f["size"] != iomap[n]["size"] || f["crc32"] != iomap[n]["crc32"]) {
            self.rules.insert(Rule::NoOrderedMode);
        }
    }

    fn step(&mut self, a: &Value, b: &Value) {
        let at = format!("op {} {}", a["i"], a["op"]);
        self.same(&at, &a["errno"], &b["errno"]);
        if a["op"]["op"] == "crash" {
            return self.crash(&at, &a["ret"], &b["ret"]);
        }
        self.same(&at, &a["ret"], &b["ret"]);
        self.same(&at, &a["fs"]["delayed_blocks"], &b["fs"]["delayed_blocks"]);
        for (name, s) in a["files"].as_object().into_iter().flatten() {
            let t = &b["files"][name];
            if !t.is_null() {
                self.file(&format!("{at} {name}"), s, t);
            }
        }
    }

    /// What is there in the end is the same to the byte.
    fn end(&mut self, a: &Value, b: &Value, shut_down: bool) {
        if shut_down {
            return self.crash("final", a, b);
        }
        self.same("final fsck", &a["fsck"], &b["fsck"]);
        for (name, s) in a["files"].as_object().into_iter().flatten() {
            let t = &b["files"][name];
            self.same(&format!("final {name}"), &s["size"], &t["size"]);
            self.same(&format!("final {name}"), &s["crc32"], &t["crc32"]);
            self.maps(&format!("final {name}"), &s["fiemap"], &t["fiemap"]);
        }
    }
}

#[test]
fn iomap_differs_from_buffer_heads_by_known_rules_only() {
    use Rule::{AlwaysUnwritten, CommitAtEndOfIo, NoOrderedMode, SizeAtEndOfIo};
    let Some(dir) = oracle() else { return };
    let mut seen = BTreeSet::new();
    let mut skipped = 0;
    // A third of the scripts shows every rule; EXT4KIT_ORACLE_ALL runs all.
    let every = if std::env::var_os("EXT4KIT_ORACLE_ALL").is_some() { 1 } else { 3 };
    for (name, script) in corpus(&dir).into_iter().step_by(every) {
        let mount = &script.head.mount;
        // Where space runs out, what is written when decides what fits; data in the journal has one path only.
        if name.contains("enospc") || mount.contains("data=journal") {
            skipped += 1;
            continue;
        }
        let a = records(&name, &script, PathChoice::BufferHead);
        let b = records(&name, &script, PathChoice::Iomap);
        assert_eq!(a.len(), b.len(), "{name}");
        let written_at_once = mount.contains("nodelalloc") || mount.contains("dioread_lock");
        let mut pair = Pair { name: &name, written_at_once, rules: BTreeSet::new() };
        let shut_down = a.iter().any(|r| r["op"]["op"] == "shutdown");
        for (x, y) in a.iter().zip(&b) {
            match (x.get("op"), x.get("final")) {
                (Some(_), _) => pair.step(x, y),
                (_, Some(end)) => pair.end(end, &y["final"], shut_down),
                _ => {}
            }
        }
        seen.extend(pair.rules);
    }
    assert!(skipped < 20, "{skipped} scripts were not compared");
    // Few crashes show a commit more.
    if every == 1 {
        assert!(seen.contains(&CommitAtEndOfIo));
    }
    assert!(seen.is_superset(&BTreeSet::from([SizeAtEndOfIo, AlwaysUnwritten, NoOrderedMode])), "{seen:?}");
}
