//! `e4es check-trace` on logs of the kernel (`fixtures/traces`, recorded on Linux 6.18) and on such as the library writes: what
//! the kernel did is consistent, and a line that is taken out, or says something else, is found.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ext4kit::trace::{Broken, Log, follow};

const E4ES: &str = env!("CARGO_BIN_EXE_e4es");

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/traces").join(name)
}

fn e4es(args: &[&str]) -> Output {
    Command::new(E4ES).args(args).output().unwrap()
}

/// The line and the rule of the first event that is inconsistent.
fn first(text: &str) -> Option<(u64, Broken)> {
    let log = Log::parse(text.as_bytes()).unwrap();
    follow(&log, None).into_iter().find_map(|d| d.first).map(|w| (w.line, w.broken))
}

/// The number of the first line that holds all of `words`, from 1 on.
fn line_of(text: &str, words: &[&str]) -> u64 {
    1 + text.lines().position(|l| words.iter().all(|w| l.contains(w))).unwrap() as u64
}

fn without(text: &str, line: u64) -> String {
    let keep = text.lines().zip(1..).filter(|(_, n)| *n != line).map(|(l, _)| format!("{l}\n"));
    keep.collect()
}

#[test]
fn what_the_kernel_did_is_consistent() {
    for (name, cluster) in [("delalloc.txt", 1), ("bigalloc.txt", 16)] {
        let text = std::fs::read_to_string(fixture(name)).unwrap();
        let all = follow(&Log::parse(text.as_bytes()).unwrap(), Some(cluster));
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].first, None, "{name}");
        assert!(all[0].known >= 2 && all[0].held.is_empty(), "{name}: {:?}", all[0]);
        assert_eq!(first(&text), None, "{name}, the cluster left to be found out");
        let out = e4es(&["check-trace", fixture(name).to_str().unwrap()]);
        assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stdout));
    }
}

/// Take each line away in turn: of those whose loss leaves something owed or unasked, each is found.
#[test]
fn a_line_that_is_missing_is_found() {
    for (name, cluster) in [("delalloc.txt", 1), ("bigalloc.txt", 16)] {
        let text = std::fs::read_to_string(fixture(name)).unwrap();
        let (mut found, mut all) = (0, 0);
        for (line, n) in text.lines().zip(1..) {
            let matters = ["da_reserve_space", "da_update_reserve_space", "da_release_space"];
            if !matters.iter().any(|m| line.contains(m)) {
                continue;
            }
            all += 1;
            let cut = Log::parse(without(&text, n).as_bytes()).unwrap();
            let wrong = follow(&cut, Some(cluster)).into_iter().find_map(|d| d.first);
            assert!(wrong.is_some(), "{name}: without line {n} ({line}) nothing is found");
            // No later than the next event of the same process or inode: a few lines on.
            let at = wrong.unwrap().line;
            assert!((n.saturating_sub(1)..n + 40).contains(&at), "{name}: line {n} is missing, line {at} was found");
            found += 1;
        }
        assert!(found == all && all >= 4, "{name}: {found} of {all}");
    }
}

#[test]
fn what_is_altered_is_named() {
    let text = std::fs::read_to_string(fixture("delalloc.txt")).unwrap();
    // A count that is another.
    let n = line_of(&text, &["da_update_reserve_space"]);
    let shown = text.lines().nth(n as usize - 1).unwrap();
    let before: u32 = shown.split("reserved_data_blocks ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let other = format!("reserved_data_blocks {} ", before + 1);
    let bad = text.replacen(shown, &shown.replace(&format!("reserved_data_blocks {before} "), &other), 1);
    assert_eq!(first(&bad), Some((n, Broken::Count { expected: before, shown: before + 1 })));
    // A delayed block that vanishes: its removal is of other blocks, so what follows releases what was not removed.
    let n = line_of(&text, &["da_release_space"]);
    let removal = text.lines().nth(n as usize - 2).unwrap();
    assert!(removal.contains("es_remove_extent"), "{removal}");
    let wrong = first(&without(&text, n - 1)).unwrap();
    assert!(matches!(wrong, (line, Broken::Unasked { .. }) if line == n - 1), "{wrong:?}");
    // And one whose release does not follow.
    let wrong = first(&without(&text, n)).unwrap();
    assert!(matches!(wrong.1, Broken::Owed { since, .. } if since == n - 1), "{wrong:?}");
    // An allocation that moves blocks without a removal.
    let n = line_of(&text, &["kworker", "es_insert_extent", "status W"]);
    let shown = text.lines().nth(n as usize - 1).unwrap();
    let bad = text.replacen(shown, &shown.replace("mapped ", "mapped 1"), 1);
    assert!(matches!(first(&bad), Some((line, Broken::Moved { .. })) if line == n), "{:?}", first(&bad));
}

#[test]
fn lost_events_and_several_filesystems() {
    let text = std::fs::read_to_string(fixture("delalloc.txt")).unwrap();
    let n = line_of(&text, &["da_reserve_space"]) as usize;
    // Without the reservation the log is inconsistent; where it says that events were lost, it is not.
    let mut lines: Vec<&str> = text.lines().collect();
    lines[n - 1] = "CPU:0 [LOST 1 EVENTS]";
    assert_eq!(first(&(lines.join("\n") + "\n")), None);
    // The same on another device, line by line beside each other: both are followed.
    let dev = text.split("dev ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let mut both = String::new();
    for line in text.lines() {
        writeln!(both, "{line}\n{}", line.replace(&format!("dev {dev} "), "dev 253,9 ")).unwrap();
    }
    let all = follow(&Log::parse(both.as_bytes()).unwrap(), None);
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|d| d.first.is_none()), "{all:?}");
}

#[test]
fn exit_codes_tell_inconsistent_from_unreadable() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let text = std::fs::read_to_string(fixture("delalloc.txt")).unwrap();
    let bad = put("bad", &without(&text, line_of(&text, &["da_reserve_space"])));
    let out = e4es(&["check-trace", "--json", &bad]);
    assert_eq!(out.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["consistent"], false);
    let wrong = &report["devices"][0]["inconsistency"];
    assert!(wrong["line"].as_u64().unwrap() > 0 && wrong["event"].as_str().unwrap().contains("ext4_"), "{wrong}");
    let broken = put("broken", "x-1 [000] ..... 1.0: ext4_es_remove_extent: dev 7,0 ino 12 es [0)\nx\n");
    for file in [put("empty", ""), put("other", "hello\nworld\n"), broken, "/no/such/file".to_owned()] {
        assert_eq!(e4es(&["check-trace", &file]).status.code(), Some(3), "{file}");
    }
}

/// The race of a page fault against fallocate, as the explorer finds it without the second look.
#[test]
fn the_leak_of_the_race_is_found_in_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("race.txt");
    let name = file.to_str().unwrap();
    let out = e4es(&["explore", "fault-fallocate", "--no-recheck", "--trace", name]);
    assert_eq!(out.status.code(), Some(1));
    let shown = String::from_utf8(out.stdout).unwrap();
    assert!(shown.contains("look up block 0, no lock") && shown.contains("allocate block 0"), "{shown}");
    let (line, broken) = first(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert!(matches!(broken, Broken::OverAllocated { lblk: 0, .. }), "line {line}: {broken}");
    let out = e4es(&["check-trace", name]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8(out.stdout).unwrap().contains("its reservation leaks"));
    // With the second look no order is wrong.
    assert_eq!(e4es(&["explore", "fault-fallocate"]).status.code(), Some(0));
    assert_eq!(e4es(&["explore", "no-such-case"]).status.code(), Some(2));
}
