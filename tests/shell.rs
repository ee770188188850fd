//! `e4sh` and `e4es` as programs: scripts that stop, exit codes, JSON, and what commands write to the host.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod common;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

struct Image {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Image {
    fn new(args: &[&str]) -> Option<Self> {
        let mke2fs = common::tool("mke2fs")?;
        let dir = tempfile::tempdir().unwrap();
        let (source, path) = (dir.path().join("tree"), dir.path().join("img"));
        std::fs::create_dir_all(source.join("sub dir/deep")).unwrap();
        std::fs::write(source.join("hello"), "hello\n").unwrap();
        std::fs::write(source.join("sub dir/a \"b\""), "quoted").unwrap();
        let sparse = std::fs::File::create(source.join("sparse")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"far", 3 << 20).unwrap();
        std::os::unix::fs::symlink("sub dir", source.join("link")).unwrap();
        std::fs::File::create(&path).unwrap().set_len(16 << 20).unwrap();
        let mut all = vec!["-q", "-F", "-t", "ext4", "-d", source.to_str().unwrap()];
        all.extend(args);
        all.push(path.to_str().unwrap());
        common::run(&mke2fs, &all);
        Some(Self { dir, path })
    }
}

fn e4sh(args: &[&str], image: &Path, stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_e4sh"))
        .args(args)
        .arg(image)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that needs no input may be gone before.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_script_stops_at_the_first_failure_and_says_where() {
    let Some(image) = Image::new(&[]) else { return };
    let script = "# a comment\n\npwd\ncd \"sub dir\"\nstat nope\npwd\n";
    let file = image.dir.path().join("script");
    std::fs::write(&file, script).unwrap();
    let by_file = e4sh(&["-f", file.to_str().unwrap()], &image.path, "");
    let by_pipe = e4sh(&[], &image.path, script);
    let by_dash = e4sh(&["-f", "-"], &image.path, script);
    for out in [by_file, by_pipe, by_dash] {
        assert_eq!(out.status.code(), Some(1));
        assert_eq!(text(&out.stdout).lines().count(), 2, "{}", text(&out.stdout));
        assert_eq!(text(&out.stderr), "e4sh: error: line 5 (stat nope): nope: no such file or directory\n");
    }
    let out = e4sh(&["--keep-going"], &image.path, script);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stdout).ends_with("PATH: /sub dir\n[root]  INODE:      2  PATH: /\n"), "{}", text(&out.stdout));
    let out = e4sh(&["-R", "nope"], &image.path, "");
    assert_eq!(out.status.code(), Some(2));
    // What comes after quit is not read.
    let out = e4sh(&[], &image.path, "pwd\nquit\nnope\n");
    assert!(out.status.success());
}

#[test]
fn one_failing_command_anywhere_fails_the_script() {
    let Some(image) = Image::new(&[]) else { return };
    let good = ["pwd", "stat hello", "ls -l /", "cat hello", "ex hello", "icheck 5", "cd link", "cd /", "stats -h"];
    let bad = ["stat gone", "cat", "ls -Z", "cd hello", "bogus", "testb 999999999", "ea_get hello user.x", "stat \"x"];
    for case in 0..100 {
        let at = case * 7 % 10;
        let mut lines: Vec<String> = (0..10).map(|i| good[(case + i) % good.len()].to_owned()).collect();
        lines[at] = bad[case % bad.len()].to_owned();
        // Failing at the right line is told by running up to it: the same output, and success.
        let before = e4sh(&[], &image.path, &(lines[..at].join("\n") + "\n"));
        let out = e4sh(&[], &image.path, &(lines.join("\n") + "\n"));
        assert!(before.status.success() && !out.status.success(), "{lines:?}");
        assert_eq!(text(&before.stdout), text(&out.stdout), "{lines:?}");
        assert!(text(&out.stderr).starts_with(&format!("e4sh: error: line {} (", at + 1)), "{}", text(&out.stderr));
    }
}

#[test]
fn requests_come_in_order() {
    let Some(image) = Image::new(&[]) else { return };
    let out = e4sh(&["-R", "cd \"sub dir\"", "-R", "cat \"a \"\"b\"\"\""], &image.path, "");
    assert_eq!((text(&out.stdout), text(&out.stderr)), ("quoted".into(), String::new()));
    let out = e4sh(&["-R", "cat hello", "-R", "cat gone", "-R", "cat hello"], &image.path, "");
    assert_eq!(text(&out.stdout), "hello\n");
    assert_eq!(text(&out.stderr), "e4sh: error: cat gone: gone: no such file or directory\n");
}

#[test]
fn answers_and_errors_as_json() {
    let Some(image) = Image::new(&[]) else { return };
    let out = e4sh(&["--json", "-R", "stat hello", "-R", "ls", "-R", "stat gone"], &image.path, "");
    let answers: Vec<Value> = text(&out.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(answers.len(), 2);
    assert_eq!((&answers[0]["schema"], &answers[0]["size"]), (&"ext4kit/inode/1".into(), &6.into()));
    assert_eq!(answers[1]["schema"], "ext4kit/directory/1");
    let error: Value = serde_json::from_slice(&out.stderr).unwrap();
    assert_eq!((&error["error"]["kind"], &error["error"]["at"]), (&"not_found".into(), &"stat gone".into()));
}

#[test]
fn dump_keeps_holes_and_attributes() {
    let Some(image) = Image::new(&[]) else { return };
    let to = image.dir.path().join("out");
    std::fs::create_dir(&to).unwrap();
    let script = format!("lcd {}\ndump -p sparse s\ndump hello h\n", to.display());
    let out = e4sh(&[], &image.path, &script);
    assert!(out.status.success() || !common::is_root(), "{}", text(&out.stderr));
    let sparse = std::fs::read(to.join("s")).unwrap();
    assert_eq!((sparse.len(), &sparse[3 << 20..]), ((3 << 20) + 3, &b"far"[..]));
    assert!(sparse[..3 << 20].iter().all(|b| *b == 0));
    let meta = std::fs::metadata(to.join("s")).unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&meta) < 1000, "holes were filled");
    if common::is_root() {
        assert_eq!(std::fs::read(to.join("h")).unwrap(), b"hello\n");
    }
}

#[test]
fn damaged_images_open_as_far_as_asked() {
    let Some(image) = Image::new(&["-b", "1024"]) else { return };
    let bytes = std::fs::read(&image.path).unwrap();
    let bad = image.dir.path().join("bad");
    // The primary superblock is gone: the backup of group 1 is at block 8193.
    let mut broken = bytes.clone();
    broken[1024..2048].fill(0);
    std::fs::write(&bad, &broken).unwrap();
    assert_eq!(e4sh(&["-R", "stats -h"], &bad, "").status.code(), Some(3));
    let out = e4sh(&["-s", "8193", "-b", "1024", "-R", "stats -h"], &bad, "");
    assert!(out.status.success(), "{}", text(&out.stderr));
    // A wrong checksum of the superblock is not looked at with -n; a cut image opens with -c.
    let mut broken = bytes.clone();
    broken[1024 + 0x78] ^= 1;
    std::fs::write(&bad, &broken).unwrap();
    assert_eq!(e4sh(&["-R", "stats -h"], &bad, "").status.code(), Some(3));
    std::fs::write(&bad, &bytes[..12 << 20]).unwrap();
    assert_eq!(e4sh(&["-R", "stats -h"], &bad, "").status.code(), Some(3));
    assert!(e4sh(&["-c", "-R", "stats -h"], &bad, "").status.success());
    for refused in [&["-w", "-c"][..], &["-i"], &["-z", "undo"]] {
        let out = e4sh(refused, &image.path, "pwd\n");
        assert_eq!(out.status.code(), Some(2), "{refused:?}");
        assert!(text(&out.stderr).contains(refused[0]), "{}", text(&out.stderr));
    }
}

#[test]
fn a_damaged_inode_is_shown_and_is_a_failure() {
    let Some(image) = Image::new(&["-b", "1024"]) else { return };
    let place = text(&e4sh(&["--json", "-R", "imap hello"], &image.path, "").stdout);
    let place: Value = serde_json::from_str(&place).unwrap();
    let at = place["block"].as_u64().unwrap() * 1024 + place["offset"].as_u64().unwrap();
    let mut bytes = std::fs::read(&image.path).unwrap();
    bytes[usize::try_from(at).unwrap() + 4] ^= 1; // size
    std::fs::write(&image.path, &bytes).unwrap();
    let out = e4sh(&["-R", "stat <12>"], &image.path, "");
    assert_eq!(out.status.code(), Some(3));
    assert!(text(&out.stdout).contains("Size: 7"), "{}", text(&out.stdout));
    assert!(text(&out.stderr).contains("inode checksum"), "{}", text(&out.stderr));
    assert!(e4sh(&["-n", "-R", "stat <12>"], &image.path, "").status.success());
}

fn e4es(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_e4es")).args(args).output().unwrap()
}

#[test]
fn e4es_shows_files_and_space() {
    let Some(image) = Image::new(&["-b", "1024"]) else { return };
    let path = image.path.to_str().unwrap();
    let out = e4es(&[path, "/sparse"]);
    let shown = text(&out.stdout);
    let rows: Vec<&str> = shown.lines().skip(2).collect();
    assert_eq!(rows.len(), 3, "{shown}");
    assert!(rows[0].starts_with("0-3071 hole") && rows[1].starts_with("3072 written @"), "{shown}");
    assert_eq!(e4es(&["show", path, "/sparse"]).stdout, out.stdout);
    let json = |args: &[&str]| -> Value { serde_json::from_slice(&e4es(args).stdout).unwrap() };
    let by_path = json(&[path, "/hello", "--json"]);
    let ino = format!("<{}>", by_path["ino"]);
    assert_eq!(json(&[path, &ino, "--json"]), by_path);
    assert_eq!(by_path["rows"][0]["difference"], "same");
    let free = json(&[path, "--free", "--chunk", "64K", "--json"]);
    assert!(free["chunks"]["free"].as_u64().unwrap() > 0, "{free}");
    assert_eq!(json(&[path, "/hello", "--frag", "--json"])["runs"].as_array().unwrap().len(), 1);
    assert_eq!(e4es(&[path, "/gone"]).status.code(), Some(1));
    assert_eq!(e4es(&[path]).status.code(), Some(2));
    assert_eq!(e4es(&[path, "/hello", "--free"]).status.code(), Some(2));
}

/// What debugfs says to some commands on a copy of the image that it may change.
fn debugfs(commands: &str, image: &Path) -> Option<Output> {
    let debugfs = common::tool("debugfs")?;
    let mut child = Command::new(debugfs)
        .args(["-w", "-f", "-"])
        .arg(image)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

/// The output without the commands, which debugfs repeats.
fn answers(out: &Output) -> Vec<u8> {
    let mut kept = Vec::new();
    for line in out.stdout.split_inclusive(|b| *b == b'\n') {
        if !line.starts_with(b"debugfs: ") {
            kept.extend_from_slice(line);
        }
    }
    kept
}

#[test]
fn what_was_deleted_is_shown_as_debugfs_shows_it() {
    let Some(image) = Image::new(&["-O", "^extent,^64bit", "-b", "1024"]) else { return };
    let many = image.dir.path().join("many");
    std::fs::write(&many, vec![b'x'; 300_000]).unwrap();
    let made = format!("write {} gone\nkill_file gone\nunlink gone\n", many.display());
    if debugfs(&made, &image.path).is_none() {
        return;
    }
    let (ours, theirs) = (e4sh(&["-R", "lsdel"], &image.path, ""), debugfs("lsdel\n", &image.path).unwrap());
    let rows = |bytes: &[u8]| -> Vec<Vec<String>> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().map(|l| l.split_whitespace().take(5).map(str::to_owned).collect()).collect()
    };
    assert_eq!(rows(&ours.stdout), rows(&answers(&theirs)));
    assert!(text(&ours.stdout).contains("1 deleted inodes found."), "{}", text(&ours.stdout));
    let ours = e4sh(&["-R", "dump_unused"], &image.path, "");
    let theirs = debugfs("dump_unused\n", &image.path).unwrap();
    assert!(ours.stdout.len() > 300_000 && ours.stdout == answers(&theirs));
}

#[test]
fn the_log_is_shown_as_debugfs_shows_it() {
    let Some(image) = Image::new(&[]) else { return };
    let block = image.dir.path().join("block");
    std::fs::write(&block, vec![0x77; 4 * 1024]).unwrap();
    let made = format!("jo\njw -b 333,335-337 {0}\njw -r 333 {0}\njc\n", block.display());
    if debugfs(&made, &image.path).is_none() {
        return;
    }
    for command in ["logdump -a", "logdump -b 336", "logdump -b 333", "logdump"] {
        let ours = text(&e4sh(&["-R", command], &image.path, "").stdout);
        let theirs = String::from_utf8_lossy(&answers(&debugfs(command, &image.path).unwrap())).into_owned();
        assert_eq!(ours, theirs, "{command}");
        assert!(ours.lines().count() > 2);
    }
    assert!(text(&e4sh(&["-R", "logdump -b 336"], &image.path, "").stdout).contains("FS block 336 logged"));
}

#[test]
fn trees_are_shown_and_copied_out() {
    let Some(image) = Image::new(&[]) else { return };
    let shown = text(&e4sh(&["-R", "tree /"], &image.path, "").stdout);
    let want =
        "/\n├── hello\n├── link -> sub dir\n├── lost+found\n├── sparse\n└── sub dir\n    ├── a \"b\"\n    └── deep\n";
    assert_eq!(shown, want);
    let find = |args: &str| text(&e4sh(&["-R", &format!("find {args}")], &image.path, "").stdout);
    assert_eq!(find("-t f -n *e* /"), "/hello\n/sparse\n");
    assert_eq!(find("\"sub dir\""), "sub dir\nsub dir/a \"b\"\nsub dir/deep\n");
    let du = text(&e4sh(&["-R", "du -s /"], &image.path, "").stdout);
    assert!(du.ends_with("\t/\n") && du.split('\t').next().unwrap().parse::<u64>().unwrap() >= 16, "{du}");
    assert!(text(&e4sh(&["-R", "df"], &image.path, "").stdout).contains("Inodes free"));
    let to = image.dir.path().join("out");
    std::fs::create_dir(&to).unwrap();
    let out = e4sh(&["-R", &format!("rdump \"/sub dir\" /hello {}", to.display())], &image.path, "");
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(std::fs::read(to.join("sub dir/a \"b\"")).unwrap(), b"quoted");
    assert_eq!(std::fs::read(to.join("hello")).unwrap(), b"hello\n");
    let out = e4sh(&["-R", "rdump /hello /nowhere/at/all"], &image.path, "");
    assert_eq!(out.status.code(), Some(1));
}
