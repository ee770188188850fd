//! Sources on top of each other, lists of files, changes of owners and permissions, sizes to measure, standard output.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Tree, fill_tree, host_tree, image_tree, open, reference_fsck, run, tool};
use ext4kit::format::inode::FileType;

fn e4mkfs(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_e4mkfs"))
        .args(args)
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A file with its directories; an empty content makes a directory.
    fn file(&self, name: &str, content: &str) {
        let path = self.path(name);
        if content.is_empty() {
            return fs::create_dir_all(path).unwrap();
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn build(&self, args: &[&str]) -> Tree {
        let image = self.path("img");
        let _ = fs::remove_file(&image);
        let out = e4mkfs(&[&["-q"], args, &[image.to_str().unwrap()]].concat());
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        reference_fsck(&image);
        image_tree(&open(&image))
    }
}

fn paths(tree: &Tree) -> Vec<String> {
    tree.keys().filter(|p| !p.is_empty()).map(|p| String::from_utf8(p.clone()).unwrap()).collect()
}

fn free_blocks(volume: &ext4kit::volume::Volume) -> u64 {
    let sb = volume.superblock();
    u64::from(sb.free_blocks_count_hi.get()) << 32 | u64::from(sb.free_blocks_count_lo.get())
}

/// An archive of files in this order, without entries for directories.
fn archive(path: &Path, files: &[(&str, &str)]) {
    let mut a = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, content) in files {
        let mut h = tar::Header::new_ustar();
        h.set_mode(0o644);
        h.set_uid(5);
        h.set_gid(6);
        h.set_mtime(7);
        h.set_size(content.len() as u64);
        a.append_data(&mut h, name, content.as_bytes()).unwrap();
    }
    a.into_inner().unwrap();
}

#[test]
fn layers_hide_join_and_replace() {
    let s = Scratch::new();
    for (name, content) in [
        ("base/usr/lib/one", "1"),
        ("base/etc/gone", "x"),
        ("base/etc/kept", "old"),
        ("base/opaque/a", "x"),
        ("base/opaque/sub/b", "x"),
        ("base/file", "a file"),
        ("base/dir/x", "x"),
    ] {
        s.file(name, content);
    }
    symlink("usr/lib", s.path("base/lib")).unwrap();
    archive(
        &s.path("top.tar"),
        &[
            ("lib/two", "22"),
            ("etc/.wh.gone", ""),
            ("etc/kept", "newer"),
            ("opaque/.wh..wh..opq", ""),
            ("opaque/c", "c"),
            ("file/now/dir", "d"),
            ("dir", "now a file"),
        ],
    );
    fs::write(s.path("list"), "r /usr/lib/one\nf /etc/made 0600 1:2 text=made\nh /etc/same target=/etc/made\n")
        .unwrap();
    let (base, top, list) = (s.text("base"), s.text("top.tar"), s.text("list"));
    let tree = s.build(&["-d", &base, "-d", &top, "--spec", &list]);
    let want = [
        "dir",
        "etc",
        "etc/kept",
        "etc/made",
        "etc/same",
        "file",
        "file/now",
        "file/now/dir",
        "lib",
        "opaque",
        "opaque/c",
        "usr",
        "usr/lib",
        "usr/lib/two",
    ];
    assert_eq!(paths(&tree), want);
    let get = |p: &str| &tree[p.as_bytes()];
    assert_eq!((&get("etc/kept").content[..], get("etc/kept").owner), (&b"newer"[..], (5, 6)));
    assert_eq!(get("lib").kind, FileType::Symlink);
    assert_eq!((get("usr/lib/two").size, get("etc/same").links, get("etc/made").permissions), (2, 2, 0o600));
    // A directory that the upper layer only implies keeps what it was.
    let etc = fs::metadata(s.path("base/etc")).unwrap();
    assert_eq!(get("etc").mtime, (etc.mtime(), etc.mtime_nsec() as u32));
    assert_eq!(get("file/now").mtime, (1_700_000_000, 0));
    // The other way round nothing is hidden, and a single source is taken as it is.
    let tree = s.build(&["-d", &top, "-d", &base]);
    assert_eq!(tree[&b"etc/gone"[..]].content, b"x");
    assert!(paths(&s.build(&["-d", &top])).contains(&"etc/.wh.gone".to_owned()));
}

#[test]
fn files_are_left_out_and_change_hands() {
    let s = Scratch::new();
    for name in ["t/a.o", "t/a.c", "t/sub/b.o", "t/sub/.git/config", "t/build/x", "t/sub/build/y"] {
        s.file(name, "x");
    }
    let (tree, tar) = (s.text("t"), s.text("t.tar"));
    let args =
        ["--exclude", "*.o", "--exclude", ".git", "--exclude", "/build", "--owner-map", "0:1000", "--mode-mask", "077"];
    let got = s.build(&[&["-d", &tree], &args[..]].concat());
    assert_eq!(paths(&got), ["a.c", "sub", "sub/build", "sub/build/y"]);
    let owner = if common::is_root() { (1000, 1000) } else { got[&b"a.c"[..]].owner };
    assert!(got.values().all(|e| e.permissions.trailing_zeros() >= 6 && e.owner == owner));
    if let Some(program) = tool("tar") {
        run(&program, &["-c", "-f", &tar, "-C", &tree, "--format=pax", "."]);
        assert_eq!(s.build(&[&["-d", &tar], &args[..]].concat()), got);
    }
    let out = e4mkfs(&["-q", "-d", &tree, "--mode-mask", "9", &s.text("none")]);
    assert_eq!(out.status.code(), Some(2));
}

#[test]
fn minimal_images_cannot_be_smaller() {
    let s = Scratch::new();
    fs::create_dir(s.path("tree")).unwrap();
    fill_tree(&s.path("tree"), 11);
    let tree = s.text("tree");
    for args in [&[][..], &["-b", "4096"], &["-O", "inline_data,ea_inode,quota"], &["-t", "ext2"]] {
        let got = s.build(&[args, &["--minimize", "-d", &tree]].concat());
        let mut want = host_tree(&s.path("tree"));
        want.get_mut(&b""[..]).unwrap().links += 1;
        common::assert_same_tree(&format!("{args:?}"), &want, &got);
        let size = fs::metadata(s.path("img")).unwrap().len();
        let smaller = format!("{}k", size / 1024 - (size / 102_400).max(8));
        let inodes = open(&s.path("img")).geometry().inodes_count.to_string();
        let block = open(&s.path("img")).geometry().block_size.to_string();
        let same_blocks = if args.contains(&"-b") { &[][..] } else { &["-b", &block] };
        let more = ["-q", "-d", &tree, "-N", &inodes, "--size", &smaller];
        let out = e4mkfs(&[args, same_blocks, &more, &[&s.text("none")]].concat());
        assert_eq!(out.status.code(), Some(1), "{args:?}: {size} bytes, and {smaller} would do");
        let Some(resize) = tool("resize2fs") else { continue };
        let out = Command::new(resize).args(["-M", &s.text("img")]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let shrunk = fs::metadata(s.path("img")).unwrap().len();
        assert!(size * 100 <= shrunk * 102, "{args:?}: {size} bytes, and resize2fs makes it {shrunk}");
    }
}

#[test]
fn room_is_left_as_asked_for() {
    let s = Scratch::new();
    s.file("t/file", &"x".repeat(5_000_000));
    let tree = s.text("t");
    let free = |size: &str| {
        s.build(&["-d", &tree, "--size", size]);
        let volume = open(&s.path("img"));
        free_blocks(&volume) * u64::from(volume.geometry().block_size)
    };
    let (none, mebibytes) = (free("auto+0%"), free("auto+20M"));
    assert!(none < 3 << 20, "{none}");
    assert!((20 << 20..24 << 20).contains(&mebibytes), "{mebibytes}");
    assert!(free("auto+300%") > 15_000_000);
    let out = e4mkfs(&["-q", "-d", &tree, "--size", "auto-5%", &s.text("none")]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("auto+N%"), "{out:?}");
}

#[test]
fn a_seed_decides_and_standard_output_takes_the_same_bytes() {
    let s = Scratch::new();
    s.file("t/file", "content");
    let tree = s.text("t");
    let image = |seed: &str| {
        s.build(&["-d", &tree, "--seed", seed]);
        fs::read(s.path("img")).unwrap()
    };
    let first = image("some text");
    assert!(first == image("some text"));
    assert!(first != image("other text"));
    let out = e4mkfs(&["-d", &tree, "--seed", "some text", "-"]);
    assert!(out.status.success() && out.stdout == first);
}

#[test]
fn plans_are_told_without_writing() {
    let s = Scratch::new();
    s.file("t/file", "content");
    let (tree, image) = (s.text("t"), s.text("img"));
    let out = e4mkfs(&["-n", "--json", "-d", &tree, &image]);
    assert!(out.status.success() && !s.path("img").exists());
    let plan: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&plan["written"], &plan["files"], &plan["bytes"]), (&false.into(), &2.into(), &7.into()));
    s.build(&["-d", &tree]);
    let volume = open(&s.path("img"));
    assert_eq!(plan["free_blocks"], free_blocks(&volume));
    assert_eq!(plan["size"], fs::metadata(s.path("img")).unwrap().len());
    s.file("t/large", &"x".repeat(9_000_000));
    let out = e4mkfs(&["-n", "-d", &tree, &image, "4M"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("no space"), "{out:?}");
}
