//! `undo` of the shell: what a command, or a batch of them, changed is as it was before, in memory and on the disk, also when other
//! commands have written over what it freed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::{Tree, assert_same_tree, image_tree, open, reference_fsck};
use ext4kit::batch::Options;
use ext4kit::cli::SystemTimer;
use ext4kit::env::{FixedClock, Timestamp};
use ext4kit::inspect::Format;
use ext4kit::shell::{Commits, Failure, Session, Settings, run_line};

const KINDS: &[&str] = &[
    "-t ext4 -b 1024",
    "-t ext4 -O inline_data,quota",
    "-t ext3 -b 1024",
    "-t ext2 -b 1024",
    "-t ext4 -O bigalloc -C 16384",
    "-t ext4 -O ^has_journal",
];

/// All of them with `EXT4KIT_SHELL=1`, else a few.
fn kinds() -> Vec<&'static str> {
    if std::env::var_os("EXT4KIT_SHELL").is_some() { KINDS.to_vec() } else { [KINDS[0], KINDS[1], KINDS[4]].to_vec() }
}

/// A session that changes a new image, and a directory of the host with a few files.
struct Rig {
    dir: tempfile::TempDir,
    image: PathBuf,
    session: Session,
}

fn writing(image: &Path, commits: Commits) -> Session {
    let mut session = Session::new(Settings::new(Format::PLAIN));
    let clock = FixedClock(Timestamp::from_secs(1_700_000_000));
    session.allow_writing(Options::new(Arc::new(clock), Arc::new(SystemTimer)), commits);
    session.open(image.as_os_str()).unwrap();
    session
}

impl Rig {
    fn new(kind: &str, commits: Commits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let mut make = Command::new(env!("CARGO_BIN_EXE_e4mkfs"));
        make.args(["-q", "--seed", "undo"]).args(kind.split_whitespace()).arg(&image).arg("12M");
        let out = make.env("SOURCE_DATE_EPOCH", "1600000000").output().unwrap();
        assert!(out.status.success(), "{kind}: {}", String::from_utf8_lossy(&out.stderr));
        for (name, len) in [
            ("tiny", 40),
            ("small", 5000),
            ("large", 3_000_000),
            ("huge", 4_000_000),
            ("giant", 5_500_000),
            ("medium", 600_000),
        ] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 31 + len) as u8 | 1).collect();
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let session = writing(&image, commits);
        Self { dir, image, session }
    }

    fn run(&mut self, line: &str) -> Result<String, Failure> {
        let line = line.replace("HOST", self.dir.path().to_str().unwrap());
        let mut out = Vec::new();
        run_line(&mut self.session, line.as_bytes(), &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    fn ok(&mut self, line: &str) -> String {
        self.run(line).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    fn tree(&mut self) -> Tree {
        // Commands that look see all content.
        self.ok("pwd");
        image_tree(self.session.volume().unwrap())
    }
}

const CHANGES: &[&str] = &[
    "mkdir d",
    "put HOST/large new",
    "write HOST/tiny t",
    "rm big",
    "rm -r dir",
    "mv dir/file moved",
    "ln big hard",
    "symlink s target-that-is-longer-than-what-fits-into-an-inode-of-sixty-bytes",
    "truncate -s 1000 big",
    "truncate -s 9000000 big",
    "punch big 3 200",
    "chmod 700 dir",
    "chown 5:6 big",
    "ea_set big user.x value",
    "mknod p p",
    "sif big mtime 20010203040506",
    "sif big size 100",
    "kill_file big",
    "clri big",
    "setb 12000 20",
    "zap_block -f big 1",
    "ssv volume_name other",
    "fallocate big 3000 3400",
    "cp big copy",
    "feature ^large_file",
    "set_bg 0 free_blocks_count 5",
];

#[test]
fn every_command_is_taken_back() {
    for kind in kinds() {
        let mut rig = Rig::new(kind, Commits::Each);
        for line in ["put HOST/large big", "mkdir dir", "put HOST/small dir/file", "touch dir/empty"] {
            rig.ok(line);
        }
        for line in CHANGES {
            let (before, free) = (rig.tree(), rig.ok("stats -h"));
            if let Err(e) = rig.run(line) {
                // What the kind of filesystem does not have.
                assert!(!kind.starts_with("-t ext4 -b"), "{kind}: {line}: {e}");
                continue;
            }
            let said = rig.ok("undo");
            let shown = line.replace("HOST", rig.dir.path().to_str().unwrap());
            assert_eq!(said, format!("undone: {shown}\n"), "{kind}");
            assert_same_tree(&format!("{kind}: {line}"), &before, &rig.tree());
            assert_eq!(free, rig.ok("stats -h"), "{kind}: {line}");
        }
        rig.session.finish().unwrap();
        reference_fsck(&rig.image);
    }
}

/// Where nothing is between the commands and the blocks, all of the image is as it was.
#[test]
fn the_image_is_the_same_byte_for_byte() {
    for kind in ["-t ext2 -b 1024", "-t ext4 -O ^has_journal"] {
        let mut rig = Rig::new(kind, Commits::Each);
        for line in ["put HOST/large big", "mkdir dir", "put HOST/small dir/file"] {
            rig.ok(line);
        }
        rig.session.finish().unwrap();
        let before = std::fs::read(&rig.image).unwrap();
        for line in CHANGES {
            rig.session = writing(&rig.image, Commits::Each);
            if rig.run(line).is_ok() {
                rig.ok("undo");
            }
            rig.session.finish().unwrap();
            let mut now = std::fs::read(&rig.image).unwrap();
            // When it was last written, and how much ever, with the checksum.
            for range in [0x30..0x34, 0x178..0x180, 0x274..0x275, 0x3fc..0x400] {
                now[1024 + range.start..1024 + range.end]
                    .copy_from_slice(&before[1024 + range.start..1024 + range.end]);
            }
            let differing = before.iter().zip(&now).position(|(a, b)| a != b);
            assert_eq!(differing, None, "{kind}: {line}");
        }
    }
}

/// What a command freed is overwritten by the next one: to take back both, the content must come back as well.
#[test]
fn content_comes_back() {
    for kind in kinds() {
        for commits in [Commits::Each, Commits::AtEnd] {
            let mut rig = Rig::new(kind, commits);
            rig.ok("put HOST/medium a");
            rig.ok("mkdir dir");
            rig.ok("put HOST/small dir/file");
            if commits == Commits::AtEnd {
                rig.ok("commit");
            }
            let mut states = vec![rig.tree()];
            // More than is free beside the first one.
            for line in ["rm a", "put HOST/huge b", "put HOST/huge c", "rm b", "rm -r dir", "put HOST/medium d"] {
                if rig.run(line).is_err() {
                    rig.ok("undo -l");
                    continue;
                }
                if commits == Commits::AtEnd {
                    rig.ok("commit");
                }
                states.push(rig.tree());
            }
            assert!(states.len() > 5, "{kind}");
            states.pop();
            while let Some(want) = states.pop() {
                rig.ok("undo");
                if commits == Commits::AtEnd && states.len() % 2 == 0 {
                    // Every other time two are taken back in one transaction.
                    rig.ok("commit");
                }
                assert_same_tree(&format!("{kind} {commits:?} {}", states.len()), &want, &rig.tree());
            }
            rig.session.finish().unwrap();
            reference_fsck(&rig.image);
            assert_eq!(open(&rig.image).resolve(b"/b", ext4kit::volume::LastLink::Keep).ok(), None);
        }
    }
}

#[test]
fn batches_are_taken_back_as_one() {
    let mut rig = Rig::new("-t ext4 -b 1024", Commits::Each);
    rig.ok("mkdir first");
    for line in ["begin", "mkdir a", "put HOST/small a/f", "mkdir b", "undo", "rmdir first", "commit"] {
        rig.ok(line);
    }
    let steps = rig.ok("undo -l");
    assert!(steps.starts_with("1: mkdir a; put ") && steps.contains("; rmdir first (committed"), "{steps}");
    assert!(steps.lines().nth(1).unwrap().starts_with("2: mkdir first (committed"), "{steps}");
    rig.ok("cd a");
    assert_eq!(rig.ok("undo").lines().count(), 3);
    assert!(rig.tree().contains_key(&b"first"[..]) && !rig.tree().contains_key(&b"a"[..]));
    // The directory that the shell was in is gone.
    assert!(rig.ok("pwd").contains("PATH: /\n"));
    // What is taken back in a transaction that is given up is there again.
    for line in ["begin", "undo", "mkdir x", "abort"] {
        rig.ok(line);
    }
    assert!(rig.tree().contains_key(&b"first"[..]) && !rig.tree().contains_key(&b"x"[..]));
    rig.ok("undo");
    assert_eq!(rig.tree().len(), 1);
    let nothing = rig.run("undo").unwrap_err();
    assert!(nothing.to_string().contains("nothing to take back"), "{nothing}");
    rig.session.finish().unwrap();
    reference_fsck(&rig.image);
}

/// Blocks of what is durable are not written to before a commit, whatever was taken back meanwhile.
#[test]
fn what_is_durable_stays_until_the_commit() {
    for kind in kinds() {
        let mut rig = Rig::new(kind, Commits::Each);
        rig.ok("put HOST/large a");
        rig.ok("put HOST/huge b");
        let before = rig.tree();
        for line in ["begin", "rm a", "rm b", "undo", "put HOST/small c", "undo"] {
            rig.ok(line);
        }
        // Only what a had is left, and it is not free yet.
        let full = rig.run("put HOST/giant d");
        assert!(full.is_err(), "{kind}");
        let _ = rig.run("abort");
        assert_same_tree(kind, &before, &rig.tree());
        rig.session.abandon().unwrap();
        assert_same_tree(kind, &before, &image_tree(&open(&rig.image)));
        reference_fsck(&rig.image);
    }
}

#[test]
fn random_commands_go_back_step_by_step() {
    let mut state = 77u32;
    let mut random = |n: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % n
    };
    for (i, kind) in kinds().into_iter().enumerate() {
        let commits = if i % 2 == 0 { Commits::Each } else { Commits::AtEnd };
        let mut rig = Rig::new(kind, commits);
        let mut states = vec![rig.tree()];
        for n in 0..25 {
            let (a, b) = (random(6), random(6));
            let line = match random(9) {
                0 => format!("mkdir n{a}"),
                1 => format!("put HOST/small n{a}"),
                2 => format!("put HOST/large n{a}"),
                3 => format!("rm -rf n{a}"),
                4 => format!("mv n{a} n{b}"),
                5 => format!("truncate -s {} n{a}", b * 70_000),
                6 => format!("ln n{a} n{b}x{n}"),
                7 => format!("touch n{a}/inside{b}"),
                _ => "undo".to_owned(),
            };
            if line == "undo" {
                if states.len() > 1 {
                    rig.ok("undo");
                    states.pop();
                }
            } else if rig.run(&line).is_ok() {
                // Some change nothing, and are no step.
                if rig.ok("undo -l").lines().count() == states.len() {
                    states.push(rig.tree());
                }
            } else {
                // One that fails midway takes with it what was not committed.
                states.truncate(rig.ok("undo -l").lines().count() + 1);
            }
            assert_same_tree(&format!("{kind} {n}: {line}"), states.last().unwrap(), &rig.tree());
        }
        while states.len() > 1 && rig.run("undo").is_ok() {
            states.pop();
            assert_same_tree(&format!("{kind} at the end"), states.last().unwrap(), &rig.tree());
        }
        rig.session.finish().unwrap();
        reference_fsck(&rig.image);
    }
}

/// Content that waits for the commit is of the command that it came with.
#[test]
fn content_that_waits_is_kept() {
    for kind in kinds() {
        let mut rig = Rig::new(kind, Commits::AtEnd);
        for line in ["put HOST/medium a", "punch a 1 2", "undo", "cp a b", "undo", "put HOST/small a", "undo"] {
            rig.ok(line);
        }
        let host = std::fs::read(rig.dir.path().join("medium")).unwrap();
        assert!(rig.tree()[&b"a"[..]].content == host, "{kind}");
        for line in ["put HOST/small a", "rm a", "put HOST/large c", "undo", "undo", "undo"] {
            rig.ok(line);
        }
        assert!(rig.tree()[&b"a"[..]].content == host, "{kind}");
        rig.session.finish().unwrap();
        assert!(image_tree(&open(&rig.image))[&b"a"[..]].content == host, "{kind}");
        reference_fsck(&rig.image);
    }
}

#[test]
fn what_somebody_else_changed_is_not_touched() {
    let mut rig = Rig::new("-t ext4 -b 1024", Commits::Each);
    rig.ok("mkdir d");
    // Somebody who does not heed the lock counts a mount.
    let file = std::fs::File::options().read(true).write(true).open(&rig.image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[9], 1024 + 0x34).unwrap();
    let e = rig.run("undo").unwrap_err();
    assert!(e.to_string().contains("changed by somebody else"), "{e}");
    assert!(rig.tree().contains_key(&b"d"[..]));
    // It is still there to be taken back once that is sorted out.
    assert!(rig.ok("undo -l").contains("mkdir d"));
}

#[test]
fn scripts_take_back() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    assert!(Command::new(env!("CARGO_BIN_EXE_e4mkfs")).arg("-q").arg(&image).arg("8M").status().unwrap().success());
    let mut shell = Command::new(env!("CARGO_BIN_EXE_e4sh"));
    for line in ["mkdir a", "mkdir b", "undo", "mkdir c"] {
        shell.args(["-R", line]);
    }
    let out = shell.args(["--json", "-w"]).arg(&image).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(String::from_utf8_lossy(&out.stdout), "{\"schema\":\"ext4kit/undo/1\",\"undone\":[\"mkdir b\"]}\n");
    let names: Vec<Vec<u8>> = image_tree(&open(&image)).into_keys().filter(|k| !k.is_empty()).collect();
    assert_eq!(names, [b"a".to_vec(), b"c".to_vec()]);
    // A script in which there is nothing to take back fails, as a whole.
    let out = Command::new(env!("CARGO_BIN_EXE_e4sh"))
        .args(["-w", "-R", "mkdir e", "-R", "undo", "-R", "undo"])
        .arg(&image)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert_eq!(image_tree(&open(&image)).len(), 3);
    reference_fsck(&image);
}
