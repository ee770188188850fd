//! Surgery: images with one thing wrong, checksums made right again. Each problem is found by its id, repaired, and nothing is found
//! afterwards, by the reference neither.
//!
//! [`exact`] holds changes for which it is known exactly what is found; [`single`] changes to the same small image; [`made`]
//! images of other kinds, hurt by the reference's debugfs or by hand. [`every_problem_has_an_image`] counts the rows of the problem
//! table that have an image here, and knows the reasons for the others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod exact;
mod made;
mod made_dirs;
mod made_inodes;
mod made_super;
#[path = "../common/patient.rs"]
mod patient;
mod single;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ext4kit::check::{
    Answers, CheckOptions, Collect, Finding, Outcome, PROBLEMS, Problem, RepairOptions, check, repair,
};
use ext4kit::device::{BlockDevice, MemoryDevice};
use ext4kit::env::Timestamp;
use ext4kit::progress::Silent;
use patient::Patient;

fn options(jobs: usize) -> CheckOptions {
    CheckOptions { jobs, ..CheckOptions::everything(Timestamp::from_secs(1_800_000_000)) }
}

fn look(bytes: Vec<u8>, jobs: usize) -> Result<(Outcome, Vec<Finding>), String> {
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes));
    let mut sink = Collect::default();
    let outcome = check(&device, &options(jobs), &mut sink, &Silent);
    Ok((outcome.map_err(|e| format!("{e} {:?}", first(&sink.0)))?, sink.0))
}

fn check_bytes(bytes: Vec<u8>, jobs: usize) -> (Outcome, Vec<Finding>) {
    look(bytes, jobs).unwrap()
}

/// Repair all; what is left, and what was found.
fn mend(device: &Arc<MemoryDevice>) -> Result<(Outcome, Vec<Finding>), String> {
    let device: Arc<dyn BlockDevice> = Arc::clone(device) as _;
    let mut sink = Collect::default();
    let done = repair(&device, &RepairOptions::new(options(1)), Answers::Yes, &mut sink, &Silent);
    Ok((done.map_err(|e| e.to_string())?.left, sink.0))
}

fn texts(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|f| format!("{}: {}", f.problem.id(), f.message())).collect()
}

/// The first few texts.
fn first(findings: &[Finding]) -> Vec<String> {
    texts(&findings[..findings.len().min(4)])
}

/// What the reference has to say against an image; `None` where it says nothing, or is not here.
fn complaint(image: &Path, bytes: &[u8]) -> Option<String> {
    std::fs::write(image, bytes).unwrap();
    let fsck = common::tool("e2fsck")?;
    let out = Command::new("timeout").arg("20").arg(fsck).arg("-fn").arg(image).output().unwrap();
    (out.status.code() != Some(0)).then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Find `want` in an image, repair all, and find nothing more; the repaired image.
fn treat(image: &Path, bytes: Vec<u8>, want: Problem) -> Result<Vec<u8>, String> {
    // What stands before a check is found by the repair alone.
    let (_, mut findings) = look(bytes.clone(), 1)?;
    let device = Arc::new(MemoryDevice::from_bytes(bytes));
    let (left, found) = mend(&device)?;
    findings.extend(found);
    if !findings.iter().any(|f| f.problem == want) {
        return Err(format!("not found: {:?}", first(&findings)));
    }
    let after = device.to_bytes();
    let rest = look(after.clone(), 1)?.1;
    if left.errors > 0 || left.aborted || !rest.is_empty() {
        return Err(format!("left: {left:?} {:?} of {:?}", first(&rest), first(&findings)));
    }
    match complaint(image, &after) {
        Some(text) => Err(format!("the reference: {text}")),
        None => Ok(after),
    }
}

/// An image of 16 MiB with a few files.
fn small_image() -> Option<Vec<u8>> {
    let mke2fs = common::tool("mke2fs")?;
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("sub/inner")).unwrap();
    for name in ["file-a", "file-b"] {
        std::fs::write(tree.join("sub").join(name), [7; 5000]).unwrap();
    }
    std::fs::write(tree.join("sub/empty"), "").unwrap();
    std::os::unix::fs::symlink("nowhere at all", tree.join("sub/link")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, tree.join("sub/pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let image = dir.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let args = ["-q", "-F", "-t", "ext4", "-b", "1024", "-N", "2048", "-O", "^has_journal,uninit_bg,^flex_bg", "-d"];
    let out = Command::new(&mke2fs).args(args).arg(&tree).arg(&image).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(std::fs::read(&image).unwrap())
}

#[test]
fn what_is_found_is_repaired() {
    let Some(bytes) = small_image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (name, cut, want) in single::ILLS {
        let mut patient = Patient::new(&bytes);
        cut(&mut patient);
        if let Err(e) = treat(&dir.path().join("image"), patient.bytes, *want) {
            wrong.push(format!("{name}: {e}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn one_change_gives_what_belongs_to_it() {
    let Some(bytes) = small_image() else { return };
    assert_eq!(texts(&check_bytes(bytes.clone(), 1).1), Vec::<String>::new());
    let mut wrong = Vec::new();
    for (name, cut, want) in exact::CUTS {
        let mut patient = Patient::new(&bytes);
        cut(&mut patient);
        let (outcome, findings) = check_bytes(patient.bytes.clone(), 1);
        let got: Vec<Problem> = findings.iter().map(|f| f.problem).collect();
        if got != *want {
            wrong.push(format!("{name}: {:#?}", texts(&findings)));
            continue;
        }
        let errors = want.iter().filter(|p| !p.row().harmless).count() as u64;
        assert_eq!(outcome.errors, errors, "{name}");
        // Threads change nothing.
        assert_eq!(check_bytes(patient.bytes, 3).1, findings, "{name}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn images_of_other_kinds_are_repaired() {
    let mut workshop = made::Workshop::new();
    let mut wrong = Vec::new();
    for case in [made_super::CASES, made_inodes::CASES, made_dirs::CASES].concat() {
        let Some(bytes) = workshop.damaged(&case) else { return };
        if let Err(e) = case.judge(&workshop, bytes) {
            wrong.push(format!("{:?} ({}): {e}", case.want, case.name()));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Problems without an image here, and the reasons.
const WITHOUT: &[(&str, &[Problem])] = &[
    (
        "nothing is repaired: there is no filesystem, or somebody uses it, or only a check without repairs says it",
        &[Problem::SuperblockCorrupt, Problem::FsSizeWrong, Problem::MmpInUse, Problem::NeedsRecovery],
    ),
    ("nothing is repaired: the journal is of a version to come", &[Problem::JournalUnknownFeatures]),
    (
        "the journal is on a device of its own",
        &[
            Problem::JournalBadUuid,
            Problem::CantFindJournal,
            Problem::ExtJournalBadSuper,
            Problem::ExtJournalCsum,
            Problem::JournalMultiFs,
        ],
    ),
    ("a file of 2 TiB, a directory of 2 GiB", &[Problem::TooBigReg, Problem::FeatureLargeDirs]),
    ("thousands of names in one directory", &[Problem::HtreeNodeCsum, Problem::DirNlinkFeature]),
    (
        "another problem comes first where only one thing is wrong",
        &[Problem::InodeUninit, Problem::ExtentCollision, Problem::BadInlineDirSize, Problem::EaInodeSpuriousFlag],
    ),
    (
        "the device must fail to read",
        &[Problem::ReadEaBlock, Problem::InodeTableUnreadable, Problem::ReadDirBlock, Problem::BitmapUnreadable],
    ),
];

#[test]
fn every_problem_has_an_image() {
    let made = [made_super::CASES, made_inodes::CASES, made_dirs::CASES].concat();
    let exact = exact::CUTS.iter().flat_map(|c| c.2).copied();
    let with: BTreeSet<Problem> =
        exact.chain(single::ILLS.iter().map(|c| c.2)).chain(made.iter().map(|c| c.want)).collect();
    let without: BTreeSet<Problem> = WITHOUT.iter().flat_map(|w| w.1).copied().collect();
    let both: Vec<_> = with.intersection(&without).collect();
    assert!(both.is_empty(), "these have an image: {both:?}");
    let neither: Vec<Problem> =
        PROBLEMS.iter().map(|r| r.problem).filter(|p| !with.contains(p) && !without.contains(p)).collect();
    println!("{} of {} problems have an image", with.len(), PROBLEMS.len());
    for (why, problems) in WITHOUT {
        println!("without: {why}: {problems:?}");
    }
    assert!(neither.is_empty(), "{} have neither an image nor a reason: {neither:?}", neither.len());
}
