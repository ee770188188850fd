//! Random damage: an image is made, changed at random in one to fifty places, and repaired. A repair ends, a second check
//! finds nothing, the reference agrees, and no file is lost that the reference saves.
//!
//! A second test cuts repairs off after a random number of their writes and lets them begin again ([`kills`]).
//!
//! The default run is short. `EXT4KIT_DAMAGE=N` makes N cases of every image, `EXT4KIT_DAMAGE_SEED` other ones,
//! `EXT4KIT_DAMAGE_ONLY=NAME` or `NAME:CASE` picks some, `EXT4KIT_KEEP=DIR` keeps what went wrong, and
//! `EXT4KIT_DAMAGE_IMAGES=DIR` keeps the images, so that cases stay the same. `EXT4KIT_DAMAGE_WOUNDS=N` changes N places of each,
//! `EXT4KIT_DAMAGE_SWEEP=STEP` goes over all fields of the dense parts of structures with values that are likely to hurt, and takes
//! every STEPth case of that. `EXT4KIT_DAMAGE_FULL=1` compares trees, exit codes and preening with the reference's too, which takes
//! longer: else the reference is asked about the repaired image, and repairs the damaged one only where files are missing from it.
//! A case is *hopeless* where we give up and say so, and the reference does not bring the image in order either.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod images;
mod kills;
mod wounds;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ext4kit::check::{Answers, CheckOptions, Collect, Finding, PROBLEMS, Problem, RepairOptions, check, repair};
use ext4kit::device::{BlockDevice, MemoryDevice};
use ext4kit::env::{SeededEntropy, Timestamp};
use ext4kit::format::inode::FileType;
use ext4kit::progress::Silent;
use ext4kit::units::Ino;
use ext4kit::volume::{OpenOptions, Owner, Volume};

/// The time of all checks, seconds.
const NOW: i64 = 1_800_000_000;
/// How long a repair may take.
const LIMIT: Duration = Duration::from_mins(1);

fn options() -> CheckOptions {
    CheckOptions::everything(Timestamp::from_secs(NOW))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|v| v.parse().ok())
}

/// The name of an image and a case of it, where only they are wanted.
fn only() -> (String, Option<u64>) {
    let only = std::env::var("EXT4KIT_DAMAGE_ONLY").unwrap_or_default();
    match only.split_once(':') {
        Some((name, case)) => (name.to_owned(), case.parse().ok()),
        None => (only, None),
    }
}

fn entropy(seed: u64, case: u64, name: &str) -> SeededEntropy {
    SeededEntropy::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (case << 8) ^ name.len() as u64)
}

/// What stands at a path: type, size, checksum of the content.
type Node = (Option<FileType>, u64, u32);

/// What is in an image: paths outside of `lost+found`, and what is in it.
#[derive(Default)]
struct Tree {
    paths: BTreeMap<Vec<u8>, Node>,
    found: Vec<Node>,
}

fn node(vol: &Volume, ino: Ino) -> Option<Node> {
    let inode = vol.inode(ino).ok()?;
    let owner = Owner { ino, inode: &inode };
    let kind = inode.file_type();
    let content = match kind {
        Some(FileType::Regular) => vol.reader(owner).ok()?.read_all(16 << 20).ok()??,
        Some(FileType::Symlink) => vol.symlink_target(owner).ok()?,
        _ => return Some((kind, 0, 0)),
    };
    Some((kind, inode.size(), crc32c::crc32c(&content)))
}

fn tree(bytes: &[u8]) -> Option<Tree> {
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.to_vec()));
    let vol = Volume::open(device, &OpenOptions { verify_groups: false, ..OpenOptions::default() }).ok()?;
    let mut out = Tree::default();
    let mut todo = vec![(Vec::new(), Ino::ROOT)];
    while let Some((path, ino)) = todo.pop() {
        let Ok(inode) = vol.inode(ino) else { continue };
        let Ok(entries) = vol.read_dir(Owner { ino, inode: &inode }) else { continue };
        for e in entries {
            let mut child = path.clone();
            child.push(b'/');
            child.extend(&e.name);
            let this = node(&vol, e.ino).unwrap_or((None, 0, 0));
            if path.starts_with(b"/lost+found") {
                out.found.push(this);
            } else {
                out.paths.insert(child.clone(), this);
            }
            // Where it leads into itself it is not followed.
            if this.0 == Some(FileType::Directory) && child.len() < 4096 {
                todo.push((child, e.ino));
            }
        }
    }
    out.found.sort_unstable_by_key(|n| (n.1, n.2));
    Some(out)
}

/// Contents that a tree has, sorted.
fn contents(t: &Tree) -> Vec<(u64, u32)> {
    let files = t.paths.values().chain(&t.found).filter(|n| n.0 == Some(FileType::Regular) && n.1 > 0);
    let mut all: Vec<_> = files.map(|n| (n.1, n.2)).collect();
    all.sort_unstable();
    all
}

/// Where a repaired image goes, and who is asked about it.
struct Bench {
    dir: tempfile::TempDir,
    e2fsck: Option<PathBuf>,
    /// Trees, exit codes and preening are compared with the reference's as well.
    full: bool,
    /// What was found so far.
    found: RefCell<BTreeSet<Problem>>,
}

/// The reference's answer: its exit code, and its first complaint without the numbers.
struct Answer {
    code: i32,
    complaint: String,
}

impl Bench {
    fn new() -> Self {
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
        let full = number("EXT4KIT_DAMAGE_FULL").is_some_and(|n| n > 0);
        Self { dir: dir.unwrap(), e2fsck: common::tool("e2fsck"), full, found: RefCell::default() }
    }

    /// Remember what was found.
    fn note(&self, findings: &[Finding]) {
        self.found.borrow_mut().extend(findings.iter().map(|f| f.problem));
    }

    fn ask(&self, options: &str, image: &Path) -> Option<Answer> {
        let out = Command::new("timeout")
            .args(["30".as_ref(), self.e2fsck.as_ref()?.as_os_str(), options.as_ref(), image.as_os_str()])
            .env("E2FSCK_TIME", NOW.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let quiet = |l: &&str| !(l.starts_with("Pass ") || l.is_empty() || l.contains("***"));
        let first = text.lines().find(quiet).unwrap_or("");
        Some(Answer { code: out.status.code().unwrap_or(99), complaint: plain(first) })
    }

    /// What the reference makes of `damaged`, where it brings it in order.
    fn saves(&self, damaged: &[u8]) -> Option<Vec<u8>> {
        let theirs = self.dir.path().join("theirs");
        std::fs::write(&theirs, damaged).unwrap();
        let done = self.ask("-fy", &theirs).is_some_and(|a| a.code < 4);
        (done && self.ask("-fn", &theirs).is_some_and(|a| a.code == 0)).then(|| std::fs::read(&theirs).unwrap())
    }
}

/// A line with its numbers taken out, so that like ones are alike.
fn plain(line: &str) -> String {
    let mut out = String::new();
    for c in line.chars().take(100) {
        if !c.is_ascii_digit() {
            out.push(c);
        } else if !out.ends_with('#') {
            out.push('#');
        }
    }
    out
}

fn ids(findings: &[Finding]) -> String {
    let mut all: Vec<String> = findings.iter().map(|f| format!("{:?}", f.problem)).collect();
    all.dedup();
    all.truncate(4);
    all.join(",")
}

/// Repair all of `device`, or what preening does; what is left in a word, where anything is.
fn mend_as<D: BlockDevice + 'static>(device: &Arc<D>, preen: bool, bench: Option<&Bench>) -> Result<(), String> {
    let mut sink = Collect::default();
    let options = RepairOptions::new(options());
    let as_device: Arc<dyn BlockDevice> = Arc::clone(device) as _;
    let answers = if preen { Answers::Preen } else { Answers::Yes };
    let done = catch_unwind(AssertUnwindSafe(|| repair(&as_device, &options, answers, &mut sink, &Silent)));
    if let Some(bench) = bench {
        bench.note(&sink.0);
    }
    match done {
        Err(_) => Err("panic".into()),
        Ok(Err(e)) => Err(format!("error: {}", plain(&e.to_string()))),
        Ok(Ok(done)) if done.stopped => Err("stops".into()),
        Ok(Ok(done)) if done.left.aborted || !done.left.opened => Err("gives up".into()),
        Ok(Ok(done)) if done.left.errors > 0 => Err("problems left".into()),
        Ok(Ok(_)) => Ok(()),
    }
}

/// Repair `device`; what is left in a word, where anything is.
fn mend<D: BlockDevice + 'static>(device: &Arc<D>) -> Result<(), String> {
    mend_as(device, false, None)
}

fn look(bytes: &[u8]) -> Result<(), String> {
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.to_vec()));
    let mut sink = Collect::default();
    match check(&device, &options(), &mut sink, &Silent) {
        Ok(o) if o.errors == 0 && !o.aborted => Ok(()),
        Ok(_) => Err(format!("second check: {}", ids(&sink.0))),
        Err(e) => Err(format!("second check: {}", plain(&e.to_string()))),
    }
}

/// How a case ended.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Fine,
    /// The reference does not bring it in order either.
    Hopeless(String),
    Wrong(String),
    /// Clean, but not the tree that the reference leaves.
    Other(String),
}

struct Case<'c> {
    bench: &'c Bench,
    healthy: &'c Tree,
    damaged: &'c [u8],
}

impl Case<'_> {
    fn judge(&self) -> Verdict {
        let device = Arc::new(MemoryDevice::from_bytes(self.damaged.to_vec()));
        let start = Instant::now();
        let done = mend_as(&device, false, Some(self.bench));
        if start.elapsed() > LIMIT {
            return Verdict::Wrong("takes too long".into());
        }
        let after = device.to_bytes();
        drop(device);
        let done = done.and_then(|()| look(&after));
        if let Err(e) = done {
            let harmless = e == "gives up" || e == "problems left" || e.starts_with("error");
            let hopeless = harmless && self.bench.saves(self.damaged).is_none();
            return if hopeless { Verdict::Hopeless(e) } else { Verdict::Wrong(e) };
        }
        let ours = self.bench.dir.path().join("ours");
        std::fs::write(&ours, &after).unwrap();
        let Some(answer) = self.bench.ask("-fn", &ours) else { return Verdict::Fine };
        if answer.code != 0 {
            return Verdict::Wrong(format!("reference {}: {}", answer.code, answer.complaint));
        }
        let Some(mine) = tree(&after) else { return Verdict::Wrong("no tree".into()) };
        if self.bench.full {
            return self.as_the_reference(&mine);
        }
        // What nothing is missing from, nobody could have saved more of.
        let (before, have) = (contents(self.healthy), contents(&mine));
        if missing(&before, &have).is_empty() {
            return Verdict::Fine;
        }
        let theirs = self.bench.saves(self.damaged).and_then(|t| tree(&t));
        theirs.map_or(Verdict::Fine, |t| self.lost(&mine, &t).unwrap_or(Verdict::Fine))
    }

    /// Files that the reference saves, and we do not.
    fn lost(&self, mine: &Tree, theirs: &Tree) -> Option<Verdict> {
        let before = contents(self.healthy);
        let lost = missing(&contents(theirs), &contents(mine));
        let lost = lost.into_iter().filter(|c| before.binary_search(c).is_ok()).count();
        (lost > 0).then(|| Verdict::Wrong("files lost".into()))
    }

    /// Compare what is found, what is left, and what preening does.
    fn as_the_reference(&self, mine: &Tree) -> Verdict {
        let mut what: Vec<String> = Vec::new();
        let image = self.bench.dir.path().join("preened");
        std::fs::write(&image, self.damaged).unwrap();
        let found = self.bench.ask("-fn", &image).map_or(0, |a| a.code);
        let ours = look(self.damaged);
        if found < 8 && ours.is_ok() != (found == 0) {
            what.push(format!("detects {found}: {}", ours.err().unwrap_or_default()));
        }
        let preened = self.bench.ask("-fp", &image);
        let device = Arc::new(MemoryDevice::from_bytes(self.damaged.to_vec()));
        let ours = mend_as(&device, true, None);
        if let Some(p) = preened.filter(|p| p.code < 8)
            && (p.code < 4) != ours.is_ok()
        {
            what.push(format!("preen {}: {} {}", p.code, p.complaint, ours.err().unwrap_or_default()));
        }
        if let Some(theirs) = self.bench.saves(self.damaged).and_then(|t| tree(&t)) {
            if let Some(lost) = self.lost(mine, &theirs) {
                return lost;
            }
            what.extend(differences(mine, &theirs));
        }
        if what.is_empty() { Verdict::Fine } else { Verdict::Other(what.join("; ")) }
    }
}

/// What is in `want`, and not in `have`. Both are sorted.
fn missing(want: &[(u64, u32)], have: &[(u64, u32)]) -> Vec<(u64, u32)> {
    want.iter().filter(|c| have.binary_search(c).is_err()).copied().collect()
}

/// How one tree differs from the other.
fn differences(ours: &Tree, theirs: &Tree) -> Option<String> {
    let gone = theirs.paths.iter().filter(|(p, _)| !ours.paths.contains_key(*p)).count();
    let more = ours.paths.iter().filter(|(p, _)| !theirs.paths.contains_key(*p)).count();
    let unlike = theirs.paths.iter().filter(|(p, n)| ours.paths.get(*p).is_some_and(|o| o != *n)).count();
    let what = [(gone, "fewer names"), (more, "more names"), (unlike, "other content")];
    let mut what: Vec<&str> = what.iter().filter(|w| w.0 > 0).map(|w| w.1).collect();
    if what.is_empty() && ours.found != theirs.found {
        what.push("other lost+found");
    }
    (!what.is_empty()).then(|| what.join(", "))
}

#[test]
fn random_damage_is_repaired() {
    let each = number("EXT4KIT_DAMAGE").unwrap_or(2);
    let wounds = number("EXT4KIT_DAMAGE_WOUNDS").and_then(|n| u32::try_from(n).ok());
    let seed = number("EXT4KIT_DAMAGE_SEED").unwrap_or(1);
    let (name_only, case_only) = only();
    let sweep = number("EXT4KIT_DAMAGE_SWEEP").filter(|n| *n > 0);
    let bench = Bench::new();
    if bench.e2fsck.is_none() {
        return;
    }
    let mut classes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut cases, mut wrong, mut hopeless) = (0u64, 0u64, 0u64);
    for (name, bytes) in images::all(&name_only) {
        let clinic = wounds::Clinic::new(&bytes);
        let whole = Arc::new(MemoryDevice::from_bytes(bytes.clone()));
        mend(&whole).unwrap();
        let healthy = tree(&whole.to_bytes()).unwrap();
        // In a sweep the cases are fields and values in order, of which every so manieth is taken.
        let cuts = sweep.map(|_| clinic.sweep(&whole));
        let all: Vec<u64> = match (&cuts, sweep) {
            (Some(cuts), Some(step)) => (seed % step..cuts.len() as u64).step_by(step as usize).collect(),
            _ => (0..each).collect(),
        };
        for case in all.into_iter().filter(|c| case_only.is_none_or(|o| o == *c)) {
            let mut entropy = entropy(seed, case, name);
            let device = MemoryDevice::from_bytes(bytes.clone());
            let done = match &cuts {
                Some(cuts) => clinic.cut(&device, &cuts[case as usize]),
                None => clinic.wound(&device, wounds, &mut entropy),
            };
            let damaged = device.to_bytes();
            let verdict = Case { bench: &bench, healthy: &healthy, damaged: &damaged }.judge();
            cases += 1;
            let class = match verdict {
                Verdict::Fine => continue,
                Verdict::Hopeless(what) => {
                    hopeless += 1;
                    format!("hopeless {what}")
                }
                Verdict::Wrong(what) => {
                    wrong += 1;
                    format!("WRONG {what}")
                }
                Verdict::Other(what) => format!("other {what}"),
            };
            if let Ok(keep) = std::env::var("EXT4KIT_KEEP") {
                std::fs::write(format!("{keep}/{name}-{seed}-{case}.damaged"), &damaged).unwrap();
            }
            println!("{name}:{case} {class}: {}", done.join("; "));
            classes.entry(class).or_default().push(format!("{name}:{case}"));
        }
    }
    let mut list: Vec<_> = classes.into_iter().collect();
    list.sort_by_key(|(_, who)| std::cmp::Reverse(who.len()));
    for (class, who) in &list {
        println!("{:5} {class}: {}", who.len(), who[..who.len().min(6)].join(" "));
    }
    if sweep.is_some() {
        let found = bench.found.borrow();
        let never: Vec<Problem> = PROBLEMS.iter().map(|r| r.problem).filter(|p| !found.contains(p)).collect();
        println!("{} of {} problems never found: {never:?}", never.len(), PROBLEMS.len());
    }
    println!("{cases} damaged images, {wrong} not as they should be, {hopeless} beyond the reference too");
    assert!(wrong * 200 <= cases, "{wrong} of {cases}: {list:#?}");
}

#[test]
fn a_repair_that_is_killed_begins_again() {
    kills::run(&Bench::new());
}
