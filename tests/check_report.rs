//! What `e4fsck` says beside findings: times, figures, progress for another program, fragments, and what it gives back to the device.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops where it cannot go on")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

fn run(program: &str, args: &[&str]) -> Option<(i32, String)> {
    let out = Command::new(program).args(args).env("LC_ALL", "C").output().ok()?;
    Some((out.status.code().unwrap(), String::from_utf8_lossy(&out.stdout).into_owned()))
}

fn e4fsck(args: &[&str]) -> (i32, String) {
    run(env!("CARGO_BIN_EXE_e4fsck"), args).unwrap()
}

/// An image with files of all kinds, some in pieces; `None`, with a message, where the reference tools are missing.
fn image(dir: &Path, options: &[&str]) -> Option<String> {
    let image = dir.join("img").to_str().unwrap().to_owned();
    std::fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
    let Some((0, _)) = run("mke2fs", &[options, &["-q", "-F", "-b", "1024", &image]].concat()) else {
        eprintln!("skipped: no mke2fs");
        return None;
    };
    let data = dir.join("data");
    std::fs::write(&data, vec![7; 300 << 10]).unwrap();
    let data = data.to_str().unwrap();
    let script = dir.join("script");
    let commands = format!(
        "write {data} a\nwrite {data} b\nrm a\nmkdir d\nmkdir d/e\nsymlink fast target\nsymlink slow {long}\nmknod p p\nmknod c c 1 3\n\
         mknod k b 7 0\nln b d/link\nsif b links_count 2\nwrite {data} x\nwrite {data} y\nrm x\nwrite {data} z\n\
         punch y 10 20\npunch y 40 50\nfallocate y 0 100\n",
        long = "l".repeat(80)
    );
    std::fs::write(&script, commands).unwrap();
    run("debugfs", &["-w", "-f", script.to_str().unwrap(), &image])?;
    run("e2fsck", &["-fy", &image])?;
    Some(image)
}

/// The number at the start of the line that ends with `what`.
fn figure(text: &str, what: &str) -> u64 {
    let line = text.lines().find(|l| l.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with(what));
    line.and_then(|l| l.split_whitespace().next())
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("no {what}: {text}"))
}

#[test]
fn figures_are_those_of_the_reference() {
    for options in [&["-t", "ext4"][..], &["-t", "ext2"], &["-t", "ext4", "-O", "inline_data"]] {
        let dir = tempfile::tempdir().unwrap();
        let Some(image) = image(dir.path(), options) else { return };
        let (_, theirs) = run("e2fsck", &["-fnv", &image]).unwrap();
        let (code, ours) = e4fsck(&["-fnv", &image]);
        assert_eq!(code, 0, "{ours}");
        let pairs = [
            ("inodes used", "inodes used"),
            ("blocks used", "blocks used"),
            ("non-contiguous files", "non-contiguous file"),
            ("non-contiguous directories", "non-contiguous director"),
            ("regular files", "regular file"),
            ("directories", "director"),
            ("character devices", "character device file"),
            ("block devices", "block device file"),
            ("FIFOs", "fifo"),
            ("symbolic links", "symbolic link"),
            ("additional links", "link"),
        ];
        for (mine, reference) in pairs {
            assert_eq!(figure(&ours, mine), figure(&theirs, reference), "{options:?} {mine}:\n{ours}\n{theirs}");
        }
        let fast = format!("({} fast symbolic link", figure(&ours, "of these in their inode"));
        assert!(theirs.contains(&fast), "{fast}: {theirs}");
        let after =
            |text: &str, what: &str| text.lines().find_map(|l| l.split_once(what)).map(|p| p.1.trim().to_owned());
        let (blocks, depths) = ("triple indirect blocks:", "depth 0 and more:");
        assert_eq!(after(&ours, blocks), after(&theirs, "ind/dind/tind blocks:"), "{options:?}");
        assert_eq!(after(&ours, depths), after(&theirs, "Extent depth histogram:"), "{options:?}");
    }
}

#[test]
fn times_are_said_where_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), &["-t", "ext4"]) else { return };
    let times = |text: &str| text.lines().filter(|l| l.contains(" s, processor ")).count();
    assert_eq!(times(&e4fsck(&["-fn", &image]).1), 0);
    let (_, once) = e4fsck(&["-fn", "-t", &image]);
    assert!(times(&once) == 1 && once.contains(", memory ") && once.contains(", read "), "{once}");
    assert_eq!(times(&e4fsck(&["-fn", "-tt", &image]).1), 8, "each pass and all of it");
    let json: serde_json::Value = serde_json::from_str(&e4fsck(&["-fn", "--json", &image]).1).unwrap();
    assert_eq!(json["times"]["passes"].as_array().unwrap().len(), 7);
    assert!(json["times"]["all"]["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn progress_goes_to_a_file_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), &["-t", "ext4"]) else { return };
    let lines = dir.path().join("lines");
    let command = format!("{} -fn -C 7 {image} 7>{}", env!("CARGO_BIN_EXE_e4fsck"), lines.display());
    assert_eq!(run("sh", &["-c", &command]).unwrap().0, 0);
    let text = std::fs::read_to_string(&lines).unwrap();
    let mut last = (0, 0);
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [pass, done, total, name] = words[..] else { panic!("{line}") };
        let number = |w: &str| w.parse::<u64>().unwrap();
        let at = (number(pass), number(done));
        assert!(at > last && at.1 <= number(total) && name == image, "{text}");
        last = at;
    }
    assert!(last.0 >= 5, "{text}");
    assert_eq!(e4fsck(&["-fn", "-C", "99", &image]).0, 16, "no such descriptor");
}

#[test]
fn fragments_are_those_of_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), &["-t", "ext4"]) else { return };
    let (_, theirs) = run("e2fsck", &["-fn", "-E", "fragcheck", &image]).unwrap();
    let want: Vec<(u64, u64, u64)> = theirs
        .lines()
        .filter(|l| l.contains("expecting"))
        .map(|l| {
            let numbers: Vec<u64> = l.split(|c: char| !c.is_ascii_digit()).filter_map(|w| w.parse().ok()).collect();
            (numbers[0], numbers[2], numbers[1])
        })
        .collect();
    assert!(!want.is_empty(), "nothing to compare: {theirs}");
    let (_, ours) = e4fsck(&["-fn", "-E", "fragcheck", &image]);
    let have: Vec<(u64, u64, u64)> = ours
        .lines()
        .filter_map(|l| {
            let (_, rest) = l.split_once(": file ")?;
            let numbers: Vec<u64> = rest.split(|c: char| !c.is_ascii_digit()).filter_map(|w| w.parse().ok()).collect();
            Some((numbers[0], numbers[3], numbers[4]))
        })
        .collect();
    assert_eq!(have, want, "{ours}\n{theirs}");
}

#[test]
fn free_blocks_are_given_back() {
    for options in [&["-t", "ext4"][..], &["-t", "ext2"], &["-t", "ext4", "-O", "bigalloc", "-C", "4096"]] {
        let dir = tempfile::tempdir().unwrap();
        let Some(image) = image(dir.path(), options) else { return };
        // What was free holds something.
        let bytes = std::fs::read(&image).unwrap();
        let free = bytes.len() - 4096..bytes.len();
        let mut full = bytes;
        full[free.clone()].fill(0xa5);
        std::fs::write(&image, &full).unwrap();
        let before = std::fs::metadata(&image).unwrap().blocks();
        let (code, text) = e4fsck(&["-fy", "-E", "discard,nodiscard", &image]);
        assert!(code == 0 && !text.contains("given back"), "{text}");
        assert_eq!(e4fsck(&["-fn", "-E", "discard", &image]).0, 0);
        assert_eq!(std::fs::metadata(&image).unwrap().blocks(), before, "-n changes nothing");
        let (code, text) = e4fsck(&["-fy", "-E", "discard", &image]);
        if text.contains("cannot give up") {
            eprintln!("skipped: no holes can be made here");
            return;
        }
        assert!(code == 0 && text.contains("given back"), "{text}");
        assert!(std::fs::metadata(&image).unwrap().blocks() < before);
        assert!(std::fs::read(&image).unwrap()[free].iter().all(|b| *b == 0));
        assert_eq!(run("e2fsck", &["-fn", &image]).unwrap().0, 0);
        assert_eq!(e4fsck(&["-fn", &image]).0, 0);
    }
}
