//! Copying into images and scripts, by the binary: what it does is what was asked for, judged by the reference and by the
//! kernel, and what fails leaves the image as it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{assert_same_tree, fill_tree, host_tree, image_tree, open, reference_fsck};
use ext4kit::format::mmp::{Mmp, SEQ_FSCK};
use ext4kit::units::Fsblk;

const E4CP: &str = env!("CARGO_BIN_EXE_e4cp");

/// An image of a kind, empty; `None` (loudly) without mke2fs.
fn image(dir: &Path, options: &str, size: &str) -> Option<PathBuf> {
    let mke2fs = common::tool("mke2fs")?;
    let path = dir.join("image");
    let _ = std::fs::remove_file(&path);
    let mut args = vec!["-q", "-F"];
    args.extend(options.split_whitespace());
    args.extend([path.to_str().unwrap(), size]);
    common::run(&mke2fs, &args);
    Some(path)
}

fn e4cp(args: &[&str]) -> Output {
    Command::new(E4CP).args(args).stdin(Stdio::null()).env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap()
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn succeeds(args: &[&str]) -> String {
    let out = e4cp(args);
    assert!(out.status.success(), "e4cp {args:?}: {}", text(&out));
    text(&out)
}

fn fails(args: &[&str], code: i32) -> String {
    let out = e4cp(args);
    assert_eq!(out.status.code(), Some(code), "e4cp {args:?}: {}", text(&out));
    text(&out)
}

fn script(image: &Path, lines: &str, more: &[&str]) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    let mut args = more.to_vec();
    args.extend(["--script", file.path().to_str().unwrap(), image.to_str().unwrap()]);
    e4cp(&args)
}

fn at(image: &Path, path: &str) -> String {
    format!("{}:{path}", image.display())
}

const KINDS: &[&str] = &[
    "-t ext4",
    "-t ext4 -b 1024 -O inline_data,ea_inode",
    "-t ext4 -b 1024 -O bigalloc -C 8192 -O ea_inode",
    "-t ext3 -b 2048 -O ea_inode",
    "-t ext2 -b 1024 -O ea_inode",
    "-t ext4 -O fast_commit,orphan_file,ea_inode",
];

#[test]
fn a_tree_that_goes_in_is_there_for_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("tree");
    std::fs::create_dir(&source).unwrap();
    fill_tree(&source, 11);
    // lost+found is there besides.
    let mut want = host_tree(&source);
    want.get_mut(&b""[..]).unwrap().links += 1;
    for kind in KINDS {
        let Some(image) = image(dir.path(), kind, "64M") else { return };
        succeeds(&["-a", source.join(".").to_str().unwrap(), &at(&image, "/")]);
        reference_fsck(&image);
        assert_same_tree(kind, &want, &image_tree(&open(&image)));
        if let Some(mount) = common::Mount::new(&image, "ro") {
            assert_same_tree(kind, &want, &host_tree(mount.path()));
        }
        // Once more changes nothing that --sync would see, and removing it all leaves an empty filesystem.
        let before = std::fs::read(&image).unwrap();
        let said = succeeds(&["-a", "--sync", "--json", source.join(".").to_str().unwrap(), &at(&image, "/")]);
        let report: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
        for key in ["files", "directories", "removed", "others", "links", "bytes"] {
            assert_eq!(report[key], 0, "{kind}: {key} in {report}");
        }
        assert_eq!(before, std::fs::read(&image).unwrap(), "{kind}");
        let out = remove_all(&image, &want);
        assert!(out.status.success(), "{kind}: {}", text(&out));
        reference_fsck(&image);
        assert_eq!(image_tree(&open(&image)).len(), 1, "{kind}");
    }
}

/// Remove every top name, also those that are not UTF-8.
fn remove_all(image: &Path, tree: &common::Tree) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut lines = Vec::new();
    for name in tree.keys().filter(|k| !k.is_empty() && !k.contains(&b'/')) {
        lines.extend(b"rm -r '/");
        lines.extend(name);
        lines.extend(b"'\n");
    }
    std::fs::write(file.path(), lines).unwrap();
    e4cp(&["--script", file.path().to_str().unwrap(), image.to_str().unwrap()])
}

#[test]
fn destinations_are_those_of_cp() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext4", "16M") else { return };
    let file = dir.path().join("file");
    std::fs::write(&file, b"content").unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    std::fs::write(tree.join("sub/x"), b"x").unwrap();
    let (file, tree) = (file.to_str().unwrap(), tree.to_str().unwrap());
    succeeds(&[file, &at(&image, "/name")]);
    succeeds(&[file, &at(&image, "/")]);
    assert!(fails(&[file, &at(&image, "/no/name")], 1).contains("/no"));
    assert!(fails(&[file, &at(&image, "/nodir/")], 1).contains("/nodir/"));
    succeeds(&["--mkdir", file, &at(&image, "/made/on/the/way")]);
    assert!(fails(&[tree, &at(&image, "/t")], 1).contains("-r"));
    succeeds(&["-r", tree, &at(&image, "/t")]);
    succeeds(&["-r", tree, &at(&image, "/t")]);
    succeeds(&["-r", &format!("{tree}/."), &at(&image, "/made")]);
    assert!(fails(&[file, &at(&image, "/t"), "-n", file], 2).contains("IMAGE:PATH"));
    assert!(fails(&[file, file, &at(&image, "/name")], 1).contains("not a directory"));
    assert!(fails(&["-r", tree, &at(&image, "/name")], 1).contains("not a directory"));
    succeeds(&["--mode", "u=rw,go=", "--owner", "7:8", "--mtime", "@99", file, &at(&image, "/attr")]);
    let got = image_tree(&open(&image));
    let paths: Vec<String> = got.keys().map(|k| String::from_utf8_lossy(k).into_owned()).collect();
    let want = [
        "",
        "attr",
        "file",
        "made",
        "made/on",
        "made/on/the",
        "made/on/the/way",
        "made/sub",
        "made/sub/x",
        "name",
        "t",
        "t/sub",
        "t/sub/x",
        "t/tree",
        "t/tree/sub",
        "t/tree/sub/x",
    ];
    assert_eq!(paths, want);
    let attr = &got[&b"attr"[..]];
    assert_eq!((attr.permissions, attr.owner, attr.mtime), (0o600, (7, 8), (99, 0)));
    assert_eq!((got[&b"name"[..]].mtime, got[&b"name"[..]].owner), ((1_700_000_000, 0), (0, 0)));
    reference_fsck(&image);
}

#[test]
fn what_fails_leaves_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext4 -J size=8 -N 4096", "24M") else { return };
    let big = dir.path().join("big");
    std::fs::write(&big, vec![7; 20 << 20]).unwrap();
    let many = dir.path().join("many");
    std::fs::create_dir(&many).unwrap();
    for i in 0..5000 {
        std::fs::write(many.join(format!("{i}")), b"").unwrap();
    }
    let before = std::fs::read(&image).unwrap();
    assert!(fails(&[big.to_str().unwrap(), &at(&image, "/")], 1).contains("no space"));
    assert!(fails(&["-r", many.to_str().unwrap(), &at(&image, "/")], 1).contains("inodes"));
    assert!(fails(&[dir.path().join("none").to_str().unwrap(), &at(&image, "/")], 1).contains("none"));
    for (lines, message) in [
        ("mkdir /a\nmkdir /b\nrm /none\n", "line 3: /none: no such file"),
        ("mkdir /a\nmkdir /a", "line 2: /a: exists"),
        ("mkdir /a\nfrobnicate", "line 2"),
        ("put /none/such /a", "line 1"),
        ("mkdir /a\nmv /a /a/b", "line 2"),
        ("mkdir /a /a/b\nrmdir /a", "line 2: /a: directory not empty"),
        ("touch /f\ntruncate -s 20T /f", "line 2"),
        ("setfattr -n bad.name -v x /", "line 1"),
    ] {
        let out = script(&image, lines, &[]);
        assert_eq!(out.status.code(), Some(1), "{lines}: {}", text(&out));
        assert!(text(&out).contains(message), "{lines}: {}", text(&out));
    }
    assert_eq!(before, std::fs::read(&image).unwrap());
    let said = succeeds(&["--dry-run", "-r", "/proc/self/status", &at(&image, "/new")]);
    assert!(said.contains("make /new"), "{said}");
    assert_eq!(before, std::fs::read(&image).unwrap());
}

#[test]
fn the_same_edit_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let Some(first) = image(dir.path(), "-t ext4 -O ea_inode", "64M") else { return };
    let source = dir.path().join("tree");
    std::fs::create_dir(&source).unwrap();
    fill_tree(&source, 12);
    let second = dir.path().join("second");
    std::fs::copy(&first, &second).unwrap();
    for (image, jobs) in [(&first, "1"), (&second, "4")] {
        succeeds(&["-a", "--jobs", jobs, source.to_str().unwrap(), &at(image, "/")]);
    }
    assert!(std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap(), "the images differ");
}

#[test]
fn sync_changes_what_differs_and_little_else() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext4 -b 4096", "64M") else { return };
    let source = dir.path().join("tree");
    std::fs::create_dir_all(source.join("d/e")).unwrap();
    let mut big = vec![1u8; 8 << 20];
    std::fs::write(source.join("big"), &big).unwrap();
    std::fs::write(source.join("d/gone"), b"gone").unwrap();
    std::fs::write(source.join("d/e/file"), b"was a file").unwrap();
    std::fs::write(source.join("kept"), b"kept").unwrap();
    let from = source.join(".");
    let from = from.to_str().unwrap();
    succeeds(&["-a", from, &at(&image, "/")]);
    succeeds(&[source.join("kept").to_str().unwrap(), &at(&image, "/d/stranger")]);
    big[5_000_000] = 2;
    std::fs::write(source.join("big"), &big).unwrap();
    std::fs::remove_file(source.join("d/gone")).unwrap();
    std::fs::remove_file(source.join("d/e/file")).unwrap();
    std::fs::create_dir(source.join("d/e/file")).unwrap();
    std::os::unix::fs::symlink("x", source.join("d/link")).unwrap();
    let said = succeeds(&["-a", "--sync", "--json", from, &at(&image, "/")]);
    let report: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!((&report["bytes"], &report["same"]), (&4096.into(), &1.into()), "{report}");
    assert!(image_tree(&open(&image)).contains_key(&b"d/gone"[..]));
    succeeds(&["-a", "--sync", "--delete", from, &at(&image, "/")]);
    reference_fsck(&image);
    let mut want = host_tree(&source);
    want.get_mut(&b""[..]).unwrap().links += 1;
    assert_same_tree("after --delete", &want, &image_tree(&open(&image)));
}

#[test]
fn a_script_does_what_its_commands_say() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext4 -O project -I 256", "32M") else { return };
    let file = dir.path().join("a file");
    std::fs::write(&file, vec![3; 10_000]).unwrap();
    let lines = format!(
        "# everything\nmkdir -p /a/b/c\nmkdir -m 700 /m\nput '{0}' /a/b/\nput -m 4755 -o 1:2 -t 2001-02-03 '{0}' /a/x\nln /a/x /a/y\n\
         symlink 'to here' /a/l\nln -s t2 /a/l2\nln -s -f t3 /a/l2\nmv /a/b /a/moved\nmv /a/y /a/moved/c\nchmod -R go-rx /a/moved\n\
         chown -R 5:6 /a/moved\nchown :9 /m\nchproj 77 /m\nsetfattr -n user.k -v \"v w\" /a/x\ntruncate -s 5 '/a/moved/a file'\n\
         truncate -s 1M /new\ntouch -d @5.5 /touched\nmknod /dev0 c 4 5\nmknod /dev1 b 6 7\nmkfifo /pipe\nmkdir /gone /gone/x\n\
         touch /gone/x/y\nrm -r /gone\nmkdir /e\nrmdir /e\nrm -f /never\n",
        file.display()
    );
    let out = script(&image, &lines, &[]);
    assert!(out.status.success(), "{}", text(&out));
    reference_fsck(&image);
    let tree = image_tree(&open(&image));
    let paths: Vec<String> = tree.keys().map(|k| String::from_utf8_lossy(k).into_owned()).collect();
    let want = [
        "",
        "a",
        "a/l",
        "a/l2",
        "a/moved",
        "a/moved/a file",
        "a/moved/c",
        "a/moved/c/y",
        "a/x",
        "dev0",
        "dev1",
        "m",
        "new",
        "pipe",
        "touched",
    ];
    assert_eq!(paths, want);
    let of = |p: &str| &tree[p.as_bytes()];
    assert_eq!((of("a/x").permissions, of("a/x").owner, of("a/x").links), (0o4700, (5, 6), 2));
    assert_eq!(of("a/x").mtime, (981_158_400, 0));
    assert_eq!(of("a/x").xattrs[&b"user.k"[..]], b"v w");
    assert_eq!(of("a/l").content, b"to here");
    assert_eq!(of("a/l2").content, b"t3");
    assert_eq!((of("a/moved").owner, of("a/moved").permissions), ((5, 6), 0o700));
    assert_eq!(of("a/moved/a file").content, [3; 5]);
    assert_eq!((of("m").permissions, of("m").owner), (0o700, (0, 9)));
    assert_eq!((of("new").size, of("touched").mtime), (1 << 20, (5, 500_000_000)));
    assert_eq!((of("dev0").device, of("dev1").device), ((4, 5), (6, 7)));
    // From a line on.
    let out = script(&image, "mkdir /one\nmkdir /two\n", &["--from", "2"]);
    assert!(out.status.success(), "{}", text(&out));
    let tree = image_tree(&open(&image));
    assert!(tree.contains_key(&b"two"[..]) && !tree.contains_key(&b"one"[..]));
}

#[test]
fn a_change_larger_than_the_journal_needs_permission() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext4 -b 1024 -J size=1 -N 40000", "64M") else { return };
    let many = dir.path().join("many");
    for d in 0..30 {
        std::fs::create_dir_all(many.join(format!("directory {d}"))).unwrap();
        for i in 0..400 {
            std::fs::write(many.join(format!("directory {d}/a file with a name {i}")), b"x").unwrap();
        }
    }
    let many = many.to_str().unwrap();
    let before = std::fs::read(&image).unwrap();
    let said = fails(&["-r", many, &at(&image, "/")], 1);
    assert!(said.contains("--chunked") && said.contains("journal"), "{said}");
    assert_eq!(before, std::fs::read(&image).unwrap());
    let said = succeeds(&["-r", "--chunked", "--json", many, &at(&image, "/")]);
    let report: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert!(report["transactions"].as_u64().unwrap() > 1, "{report}");
    reference_fsck(&image);
    assert_eq!(image_tree(&open(&image)).len(), 30 * 401 + 2);
    let out = script(&image, "rm -r /many\n", &["--chunked"]);
    assert!(out.status.success(), "{}", text(&out));
    reference_fsck(&image);
    assert_eq!(image_tree(&open(&image)).len(), 1);
}

#[test]
fn archives_are_unpacked() {
    let Some(tar) = common::tool("tar") else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext4 -O ea_inode", "64M") else { return };
    let source = dir.path().join("tree");
    std::fs::create_dir(&source).unwrap();
    fill_tree(&source, 13);
    let archive = dir.path().join("x.tar");
    let args = ["--xattrs", "--xattrs-include=*", "--format=pax", "-C", source.to_str().unwrap(), "-cf"];
    common::run(&tar, &[&args[..], &[archive.to_str().unwrap(), "."]].concat());
    succeeds(&["--untar", archive.to_str().unwrap(), &at(&image, "/")]);
    reference_fsck(&image);
    let mut want = host_tree(&source);
    want.get_mut(&b""[..]).unwrap().links += 1;
    // tar leaves sockets out; there are none. Device numbers and everything else are as they were.
    let got = image_tree(&open(&image));
    for (path, entry) in &mut want {
        // Holes that tar did not see are no difference.
        assert!(got.contains_key(path), "{}", String::from_utf8_lossy(path));
        entry.size = got[path].size;
    }
    assert_same_tree("from tar", &want, &got);
    // From standard input, into a directory that is made.
    let out = Command::new(E4CP)
        .args(["--mkdir", "-", &at(&image, "/in/here")])
        .stdin(std::fs::File::open(&archive).unwrap())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out));
    reference_fsck(&image);
    assert!(image_tree(&open(&image)).contains_key(&b"in/here/a/b/c/deep"[..]));
}

#[test]
fn two_writers_are_one_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext4", "16M") else { return };
    let held = ext4kit::device::FileDevice::open(&image, ext4kit::device::Access::ReadWrite).unwrap();
    assert!(fails(&["/etc/passwd", &at(&image, "/")], 1).contains("in use"));
    drop(held);
    succeeds(&["/etc/passwd", &at(&image, "/")]);
    // Multiple-mount protection: clean before and after; what a checker holds is refused.
    let Some(image) = self::image(dir.path(), "-t ext4 -O mmp", "16M") else { return };
    succeeds(&["/etc/passwd", &at(&image, "/")]);
    reference_fsck(&image);
    let volume = open(&image);
    let (block, seed) = (Fsblk(volume.superblock().mmp_block.get()), volume.geometry().checksums.seed());
    let mut mmp = Mmp::decode(&volume.block(block).unwrap(), seed).unwrap();
    assert!(mmp.is_clean());
    let byte = volume.geometry().byte_of(block);
    drop(volume);
    mmp.seq.set(SEQ_FSCK);
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.write_all_at(&mmp.encode(seed), byte).unwrap();
    assert!(fails(&["/etc/passwd", &at(&image, "/2")], 1).contains("multiple-mount"));
}

#[test]
fn without_a_journal_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext2", "16M") else { return };
    let said = succeeds(&["/etc/passwd", &at(&image, "/")]);
    assert!(said.contains("no journal"), "{said}");
    reference_fsck(&image);
}

/// `kill -9` at random moments. `EXT4KIT_KILL=N` says how often; each time the old tree or the new one is there.
#[test]
fn killed_it_leaves_old_or_new() {
    let rounds: u32 = std::env::var("EXT4KIT_KILL").ok().and_then(|v| v.parse().ok()).unwrap_or(3);
    let files: u32 = if rounds > 3 { 20_000 } else { 1_500 };
    let dir = tempfile::tempdir().unwrap();
    let Some(clean) = image(dir.path(), "-t ext4 -b 4096 -J size=16 -N 45000", "400M") else { return };
    let source = dir.path().join("tree");
    for i in 0..files {
        let sub = source.join(format!("{}", i / 500));
        if i % 500 == 0 {
            std::fs::create_dir_all(&sub).unwrap();
        }
        std::fs::write(sub.join(format!("file number {i}")), format!("{i}").repeat((i % 700) as usize)).unwrap();
    }
    succeeds(&["-a", source.to_str().unwrap(), &at(&clean, "/first")]);
    succeeds(&["--mkdir", "/etc/passwd", &at(&clean, "/second/old")]);
    let old = image_tree(&open(&clean));
    let work = dir.path().join("work");
    let edit = |image: &Path| {
        let mut c = Command::new(E4CP);
        c.args(["-a", source.to_str().unwrap(), &at(image, "/second")]).env("SOURCE_DATE_EPOCH", "1700000777");
        c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        c
    };
    std::fs::copy(&clean, &work).unwrap();
    let start = std::time::Instant::now();
    assert!(edit(&work).status().unwrap().success());
    let whole = start.elapsed();
    let new = image_tree(&open(&work));
    let (mut olds, mut news, mut dirty) = (0, 0, 0);
    for round in 0..rounds {
        std::fs::copy(&clean, &work).unwrap();
        let mut child = edit(&work).spawn().unwrap();
        // Spread over the time that it takes, with a part that no clock sees.
        let part = f64::from(round * 2_654_435_761u32.wrapping_mul(round) % 1000) / 1000.0;
        let spread = (f64::from(round) + part) / f64::from(rounds) * 1.05;
        std::thread::sleep(whole.mul_f64(spread));
        let _ = child.kill();
        child.wait().unwrap();
        // The next edit recovers it.
        let size = |p: &Path| std::fs::metadata(p).unwrap().size();
        assert_eq!(size(&work), size(&clean), "the image has another size");
        let device = ext4kit::device::ImageSpec::parse(&work).open(ext4kit::device::Access::ReadWrite).unwrap();
        let options = ext4kit::journal::RecoverOptions {
            on_damage: ext4kit::journal::OnDamage::Refuse,
            now: Some(ext4kit::env::Timestamp::from_secs(1_700_000_777)),
            keep_counts: false,
        };
        let report = ext4kit::recover::recover(&device, None, options).unwrap();
        dirty += u32::from(report.journal.needed);
        drop(device);
        let got = image_tree(&open(&work));
        assert!(got == old || got == new, "round {round}: neither old nor new");
        if got == old {
            olds += 1;
        } else {
            news += 1;
        }
        reference_fsck(&work);
    }
    eprintln!(
        "{rounds} kills in {files} files: {olds} times the old tree, {news} times the new, {dirty} needed recovery"
    );
}
