//! What e4mkfs makes beside a plain image, each judged by a program that is not ours: qcow2, Android's sparse format, dm-verity hash
//! trees, users of external journals, lists of bad blocks, undo files, superblocks alone, security contexts, and files that are
//! replaced only when the new ones are complete.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{is_root, reference_fsck, run, tool};

fn e4mkfs(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_e4mkfs"));
    command.args(args).env("SOURCE_DATE_EPOCH", "1700000000").stdin(Stdio::null()).output().unwrap()
}

fn made(args: &[&str]) -> String {
    let out = e4mkfs(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn refused(args: &[&str], word: &str) {
    let out = e4mkfs(args);
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && text.contains(word), "{args:?}: {text}");
}

struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    /// With a small tree in `tree`.
    fn new() -> Self {
        let s = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(s.path("tree/etc")).unwrap();
        fs::write(s.path("tree/etc/passwd"), "root:x:0:0\n").unwrap();
        fs::write(s.path("tree/data"), vec![7; 3_000_000]).unwrap();
        symlink("etc/passwd", s.path("tree/link")).unwrap();
        s
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

/// Decode Android's sparse format: what is left alone reads as 0xee.
fn unsparse(bytes: &[u8]) -> Vec<u8> {
    let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), half(4), half(8), half(10)), (0xed26_ff3a, 1, 28, 12));
    let (block, total, chunks) = (word(12) as usize, word(16) as usize, word(20));
    let mut out = Vec::new();
    let mut at = 28;
    for _ in 0..chunks {
        let (kind, blocks, size) = (half(at), word(at + 4) as usize, word(at + 8) as usize);
        match kind {
            0xcac1 => out.extend_from_slice(&bytes[at + 12..at + 12 + blocks * block]),
            0xcac2 => out.extend(bytes[at + 12..at + 16].repeat(blocks * block / 4)),
            0xcac3 => out.extend(vec![0xee; blocks * block]),
            other => panic!("chunk {other:x}"),
        }
        at += size;
    }
    assert_eq!((out.len(), at), (total * block, bytes.len()));
    out
}

#[test]
fn sparse_images_hold_all_that_is_in_use() {
    let s = Scratch::new();
    for options in [&["-b", "1024"][..], &["-t", "ext2"], &["-E", "offset=4096"]] {
        let (raw, packed) = (s.text("raw"), s.text("packed"));
        let _ = fs::remove_file(&raw);
        made(&[&["-q", "-d", &s.text("tree")], options, &[&raw, "40M"]].concat());
        made(&[&["-q", "--format", "sparse", "-d", &s.text("tree")], options, &[&packed, "40M"]].concat());
        let to_stdout =
            e4mkfs(&[&["-q", "--format", "sparse", "-d", &s.text("tree")], options, &["-", "40M"]].concat());
        let bytes = fs::read(&packed).unwrap();
        assert!(bytes.len() < 12 << 20 && to_stdout.stdout == bytes, "{options:?}");
        let (got, want) = (unsparse(&bytes), fs::read(&raw).unwrap());
        assert_eq!(got.len(), want.len());
        assert!(got.iter().zip(&want).all(|(g, w)| g == w || *g == 0xee && *w == 0), "{options:?}");
        if options[0] != "-E" {
            // What is left alone may hold anything.
            fs::write(s.path("back"), &got).unwrap();
            reference_fsck(&s.path("back"));
        }
        if let Some(simg2img) = tool("simg2img") {
            run(&simg2img, &[&packed, &s.text("out")]);
            assert!(fs::read(s.path("out")).unwrap() == want);
        }
    }
}

#[test]
fn qcow2_images_hold_the_same() {
    let s = Scratch::new();
    let Some(qemu_img) = tool("qemu-img") else { return };
    let (raw, packed, out) = (s.text("raw"), s.text("packed"), s.text("out"));
    for args in [&["-d", "tree"][..], &["-b", "1024"], &["-t", "ext3"]] {
        let args: Vec<String> =
            args.iter().map(|a| if *a == "tree" { s.text("tree") } else { (*a).to_owned() }).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        for size in ["40M", "12345s", "3G"] {
            let _ = fs::remove_file(&raw);
            made(&[&["-q"], &args[..], &[&raw, size]].concat());
            made(&[&["-q", "--format", "qcow2"], &args[..], &[&packed, size]].concat());
            run(&qemu_img, &["check", "-f", "qcow2", &packed]);
            run(&qemu_img, &["compare", "-f", "raw", "-F", "qcow2", &raw, &packed]);
        }
    }
    run(&qemu_img, &["convert", "-f", "qcow2", "-O", "raw", &packed, &out]);
    reference_fsck(&s.path("out"));
    refused(&["-q", "--format", "vmdk", &packed, "40M"], "qcow2");
}

#[test]
fn hash_trees_are_those_of_veritysetup() {
    let s = Scratch::new();
    let image = s.text("img");
    let hash = |text: &str, key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_else(|| panic!("no {key} in {text}"));
        line.trim().to_owned()
    };
    for (options, size) in [
        (&["--verity-salt", "0123abcd"][..], "40M"),
        (&["--verity-salt", "-"], "8M"),
        (&["-b", "1024"], "9001"),
        (&[], "600M"),
    ] {
        let _ = fs::remove_file(&image);
        let text = made(&[&["-q", "--verity", "-d", &s.text("tree")], options, &[&image, size]].concat());
        let (root, offset) = (hash(&text, "root hash:"), hash(&text, "hash offset:"));
        if let Some(veritysetup) = tool("veritysetup") {
            let offset = format!("--hash-offset={offset}");
            run(&veritysetup, &["verify", &image, &image, &root, &offset]);
            let wrong = format!("{:0>64}", 1);
            let out = Command::new(&veritysetup).args(["verify", &image, &image, &wrong, &offset]).output().unwrap();
            assert!(!out.status.success());
        }
        reference_fsck(Path::new(&image));
        let json = e4mkfs(
            &[&["--json", "--jobs", "1", "--verity", "-d", &s.text("tree")], options, &[&s.text("again"), size]]
                .concat(),
        );
        let v: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(v["verity"]["root_hash"], root, "{options:?}");
    }
    refused(&["-q", "--verity", "--verity-salt", "xyz", &image, "40M"], "salt");
}

#[test]
fn a_journal_outside_is_used_by_all_who_join_it() {
    let s = Scratch::new();
    let (journal, image) = (s.text("journal"), s.text("img"));
    made(&["-q", "-b", "4096", "-O", "journal_dev", &journal, "16M"]);
    refused(&["-q", "-b", "1024", "-J", &format!("device={journal}"), &image, "64M"], "4096");
    for name in ["img", "img2"] {
        let uuid =
            if name == "img" { "11111111-1111-1111-1111-111111111111" } else { "22222222-2222-2222-2222-222222222222" };
        let device = format!("device={journal}");
        made(&["-q", "-U", uuid, "-J", &device, "-d", &s.text("tree"), &s.text(name), "64M"]);
        // The reference knows journals of one user only.
        if let Some(e2fsck) = tool("e2fsck").filter(|_| name == "img") {
            run(&e2fsck, &["-fn", "-j", &journal, &s.text(name)]);
        }
        if let Some(dumpe2fs) = tool("dumpe2fs") {
            let of = |image: &str| String::from_utf8(run(&dumpe2fs, &["-h", image]).stdout).unwrap();
            assert!(of(&journal).contains(uuid), "{}", of(&journal));
            let journal_uuid =
                of(&journal).lines().find_map(|l| Some(l.strip_prefix("Filesystem UUID:")?.trim().to_owned()));
            let named = of(&s.text(name))
                .lines()
                .any(|l| l.starts_with("Journal UUID:") && l.ends_with(journal_uuid.as_ref().unwrap()));
            assert!(named, "{}", of(&s.text(name)));
        }
    }
    refused(&["-q", "-J", &format!("device={image}"), &s.text("img3"), "64M"], "journal");
}

/// Attach loop devices; they go with the value.
struct Loops(Vec<String>);

impl Drop for Loops {
    fn drop(&mut self) {
        for device in &self.0 {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
    }
}

#[test]
fn the_kernel_mounts_with_a_journal_outside() {
    if !is_root() {
        eprintln!("skipped: loop devices need root");
        return;
    }
    let s = Scratch::new();
    let mut loops = Loops(Vec::new());
    for name in ["journal", "img"] {
        fs::File::create(s.path(name)).unwrap().set_len(64 << 20).unwrap();
        let out = Command::new("losetup").args(["--find", "--show", &s.text(name)]).output().unwrap();
        if !out.status.success() {
            eprintln!("skipped: no loop devices");
            return;
        }
        loops.0.push(String::from_utf8(out.stdout).unwrap().trim().to_owned());
    }
    let (journal, image) = (&loops.0[0], &loops.0[1]);
    made(&["-q", "-b", "4096", "-O", "journal_dev", journal, "16M"]);
    made(&["-q", "-J", &format!("device={journal}"), "-d", &s.text("tree"), image]);
    let point = s.path("mnt");
    fs::create_dir(&point).unwrap();
    let mounted = Command::new("mount").arg(image).arg(&point).status();
    if !mounted.is_ok_and(|m| m.success()) {
        eprintln!("skipped: mounting is not allowed here");
        return;
    }
    let written = fs::write(point.join("new"), "x");
    let read = fs::read(point.join("etc/passwd"));
    let again = (0..20).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        Command::new("umount").arg(&point).status().is_ok_and(|m| m.success())
    });
    assert!(again && written.is_ok() && read.unwrap() == b"root:x:0:0\n");
}

#[test]
fn nothing_is_put_into_bad_blocks() {
    let s = Scratch::new();
    let (list, image) = (s.text("list"), s.text("img"));
    for (options, bad) in [
        (&["-b", "4096"][..], "900\n5000\n5001\n\n7000\n"),
        (&["-b", "1024", "-t", "ext2"], "300\n301\n8500\n20000\n"),
        (&["-b", "4096", "-O", "bigalloc"], "900\n9000\n"),
        (&["-b", "1024", "-O", "^flex_bg"], "8200\n8210\n8500\n99999999\n"),
    ] {
        fs::write(&list, bad).unwrap();
        let _ = fs::remove_file(&image);
        made(&[&["-q", "-l", &list, "-d", &s.text("tree")], options, &[&image, "64M"]].concat());
        reference_fsck(Path::new(&image));
        if let Some(dumpe2fs) = tool("dumpe2fs") {
            let got = String::from_utf8(run(&dumpe2fs, &["-b", &image]).stdout).unwrap();
            let want: Vec<&str> = bad.lines().filter(|l| !l.is_empty() && *l != "99999999").collect();
            assert_eq!(got.lines().collect::<Vec<_>>(), want, "{options:?}");
        }
    }
    fs::write(&list, "0\n").unwrap();
    refused(&["-q", "-b", "4096", "-l", &list, &image, "64M"], "bad block");
    // Nothing is wrong with a file.
    for check in ["-c", "-cc"] {
        made(&["-q", check, &image, "8M"]);
        reference_fsck(Path::new(&image));
    }
}

#[test]
fn an_undo_file_brings_everything_back() {
    let s = Scratch::new();
    let (image, undo) = (s.text("img"), s.text("undo"));
    made(&["-q", "-d", &s.text("tree"), &image, "32M"]);
    let before = fs::read(&image).unwrap();
    made(&["-q", "-F", "-b", "1024", "-z", &undo, &image, "32M"]);
    assert!(fs::read(&image).unwrap() != before);
    reference_fsck(Path::new(&image));
    refused(&["-q", "-F", "-z", &undo, &image, "32M"], "undo");
    run(Path::new(env!("CARGO_BIN_EXE_e4fsck")), &["--undo", &undo, &image]);
    assert!(fs::read(&image).unwrap() == before);
    refused(&["-q", "-z", &undo, &s.text("none"), "32M"], "-z");
}

#[test]
fn a_lost_superblock_comes_back_with_the_files() {
    let s = Scratch::new();
    let (image, id) = (s.text("img"), "01234567-89ab-cdef-0123-456789abcdef");
    let Some(e2fsck) = tool("e2fsck") else { return };
    for options in [&["-b", "4096"][..], &["-b", "1024", "-t", "ext2"], &["-b", "1024", "-O", "^orphan_file"]] {
        let _ = fs::remove_file(&image);
        made(&[&["-q", "-U", id, "-d", &s.text("tree")], options, &[&image, "32M"]].concat());
        let mut bytes = fs::read(&image).unwrap();
        let descs = if options[1] == "4096" { 4096..8192 } else { 2048..3072 };
        bytes[1024..2048].fill(0);
        bytes[descs].fill(0);
        fs::write(&image, &bytes).unwrap();
        made(&[&["-q", "-F", "-S", "-U", id], options, &[&image, "32M"]].concat());
        let out = Command::new(&e2fsck).args(["-fy", &image]).output().unwrap();
        assert!(out.status.code().unwrap() < 4, "{}", String::from_utf8_lossy(&out.stdout));
        reference_fsck(Path::new(&image));
        let tree = common::image_tree(&common::open(Path::new(&image)));
        assert!(tree.keys().any(|p| p.ends_with(b"etc/passwd")), "{:?}", tree.keys());
    }
}

#[test]
fn files_get_their_security_contexts() {
    let s = Scratch::new();
    let Some(debugfs) = tool("debugfs") else { return };
    let (list, image) = (s.text("contexts"), s.text("img"));
    fs::write(
        &list,
        "/.* u:object_r:all:s0\n/etc(/.*)? u:object_r:etc:s0\n/link -l u:object_r:link:s0\n/data <<none>>\n",
    )
    .unwrap();
    made(&["-q", "--selinux-contexts", &list, "-d", &s.text("tree"), &image, "16M"]);
    reference_fsck(Path::new(&image));
    let of = |image: &str, path: &str| {
        let out = run(&debugfs, &["-R", &format!("ea_get {path} security.selinux"), image]);
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    for (path, want) in [("/", "all"), ("/etc", "etc"), ("/etc/passwd", "etc"), ("/link", "link")] {
        let text = of(&image, path);
        assert!(text.contains(&format!("u:object_r:{want}:s0\\000")), "{path}: {text}");
    }
    assert!(!of(&image, "/data").contains("object_r"));
    let empty = s.text("empty");
    made(&["-q", "-E", "root_selinux=u:object_r:root:s0,root_perms=0700,root_owner=3:4", &empty, "16M"]);
    reference_fsck(Path::new(&empty));
    let stat = String::from_utf8(run(&debugfs, &["-R", "stat /", &empty]).stdout).unwrap();
    assert!(of(&empty, "/").contains("u:object_r:root:s0") && stat.contains("Mode:  0700"), "{stat}");
    assert!(stat.contains("User:     3   Group:     4"), "{stat}");
    refused(&["-q", "--selinux-contexts", &list, &empty, "16M"], "-d");
    fs::write(&list, "/( x\n").unwrap();
    refused(&["-q", "--selinux-contexts", &list, "-d", &s.text("tree"), &empty, "16M"], "1 (");
}

#[test]
fn what_cannot_be_made_again_is_refused() {
    let s = Scratch::new();
    let (tree, image) = (s.text("tree"), s.text("img"));
    let out = Command::new(env!("CARGO_BIN_EXE_e4mkfs"))
        .args(["-q", "--reproducible", "--seed", "1", "-d", &tree, &image])
        .env_remove("SOURCE_DATE_EPOCH")
        .output()
        .unwrap();
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("SOURCE_DATE_EPOCH"));
    for bad in [&["-U", "random"][..], &["--keep-times"], &["-E", "root_owner"], &["-c"]] {
        refused(&[&["-q", "--reproducible"], bad, &["-d", &tree, &image, "32M"]].concat(), "--reproducible");
    }
    made(&["-q", "--reproducible", "-d", &tree, &image, "32M"]);
    made(&["-q", "--reproducible", "-d", &tree, &s.text("again"), "32M"]);
    assert!(fs::read(&image).unwrap() == fs::read(s.path("again")).unwrap());
}

#[test]
fn a_file_is_replaced_only_by_a_complete_one() {
    let s = Scratch::new();
    let image = s.text("img");
    fs::write(&image, vec![9; 1 << 20]).unwrap();
    fs::set_permissions(&image, fs::Permissions::from_mode(0o640)).unwrap();
    let old = fs::metadata(&image).unwrap();
    // A tree that does not fit: the file is what it was.
    refused(&["-q", "-F", "-d", &s.text("tree"), &image, "2M"], "");
    assert!(fs::read(&image).unwrap() == vec![9; 1 << 20]);
    made(&["-q", "-F", "-d", &s.text("tree"), &image, "16M"]);
    reference_fsck(Path::new(&image));
    let new = fs::metadata(&image).unwrap();
    assert!(new.ino() != old.ino() && new.mode() == old.mode() && new.len() == 16 << 20);
    // With another name it stays the file that it is.
    fs::hard_link(&image, s.path("other")).unwrap();
    made(&["-q", "-F", &image, "16M"]);
    assert!(fs::metadata(&image).unwrap().ino() == new.ino());
    assert!(fs::read(&image).unwrap() == fs::read(s.path("other")).unwrap());
    reference_fsck(Path::new(&image));
}

#[test]
fn the_name_of_the_program_decides_on_the_type() {
    let s = Scratch::new();
    let Some(dumpe2fs) = tool("dumpe2fs") else { return };
    let image = s.text("img");
    for (name, options, word, without) in [
        ("mke2fs", &[][..], "filetype", "has_journal"),
        ("mke2fs", &["-j"], "has_journal", "extent"),
        ("mke2fs", &["-J", "size=4"], "has_journal", "extent"),
        ("mkfs.ext3", &[], "has_journal", "extent"),
        ("mkfs.ext4", &[], "extent", "nothing"),
        ("e4mkfs", &[], "extent", "nothing"),
        ("mke2fs", &["-t", "ext4"], "extent", "nothing"),
    ] {
        let link = s.path(name);
        let _ = symlink(env!("CARGO_BIN_EXE_e4mkfs"), &link);
        let _ = fs::remove_file(&image);
        run(&link, &[&["-q"], options, &[&image, "64M"]].concat());
        let text = String::from_utf8(run(&dumpe2fs, &["-h", &image]).stdout).unwrap();
        let features = text.lines().find(|l| l.starts_with("Filesystem features")).unwrap();
        assert!(features.contains(word) && !features.contains(without), "{name} {options:?}: {features}");
    }
}
