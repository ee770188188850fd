//! Filesystems made from tar archives: judged by what `tar x` makes on an ext4 that the kernel has mounted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{
    Mount, Tree, assert_same_tree, fill_tree, host_tree, image_tree, is_root, open, reference_fsck, run, tool,
};

fn e4mkfs(args: &[&str], input: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_e4mkfs"));
    command.args(args).env("SOURCE_DATE_EPOCH", "1700000000");
    command.stdin(input.map_or_else(Stdio::null, |p| File::open(p).unwrap().into()));
    command.output().unwrap()
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

    fn build(&self, tar: &Path, more: &[&str]) -> PathBuf {
        let image = self.path("img");
        let _ = fs::remove_file(&image);
        let mut args = vec!["-q", "-d", tar.to_str().unwrap()];
        args.extend(more);
        args.push(image.to_str().unwrap());
        let out = e4mkfs(&args, None);
        assert!(out.status.success(), "{} {more:?}: {}", tar.display(), String::from_utf8_lossy(&out.stderr));
        reference_fsck(&image);
        image
    }
}

/// A source tree without sockets, and the archive of it that `tar` makes with `args`.
fn archive(s: &Scratch, tree: &Path, name: &str, args: &[&str]) -> Option<PathBuf> {
    let tar = tool("tar")?;
    let out = s.path(name);
    let mut all = vec!["-c", "-f", out.to_str().unwrap(), "-C", tree.to_str().unwrap()];
    all.extend(args);
    all.push(".");
    run(&tar, &all);
    Some(out)
}

const ALL: [&str; 4] = ["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse"];

/// Directories' link counts as those of a root that has lost+found too.
fn with_lost_found(mut tree: Tree) -> Tree {
    if let Some(root) = tree.get_mut(&b""[..]) {
        root.links += 1;
    }
    tree
}

#[test]
fn an_image_holds_what_tar_extracts() {
    let s = Scratch::new();
    let source = s.path("tree");
    fs::create_dir(&source).unwrap();
    fill_tree(&source, 3);
    let (Some(tar), true) = (tool("tar"), is_root()) else { return };
    // Longer than a header's field.
    let deep = source.join("l".repeat(120)).join("m".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("n".repeat(250)), "long").unwrap();
    std::os::unix::fs::symlink("t/".repeat(150), deep.join("soft")).unwrap();
    fs::hard_link(deep.join("n".repeat(250)), deep.join("hard")).unwrap();
    for args in
        [&ALL[..], &["--format=gnu", "--sparse"], &["--format=gnu"], &["--format=pax"], &["--format=oldgnu", "-S"]]
    {
        let Some(archive) = archive(&s, &source, "a.tar", args) else { return };
        let blank = s.path("blank");
        let _ = fs::remove_file(&blank);
        let made = e4mkfs(&["-q", "-O", "ea_inode", blank.to_str().unwrap(), "64M"], None);
        assert!(made.status.success());
        let Some(judge) = Mount::new(&blank, "") else { return };
        let into = judge.path().to_str().unwrap();
        let file = archive.to_str().unwrap();
        run(&tar, &["-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f", file, "-C", into]);
        let want = host_tree(judge.path());
        let image = s.build(&archive, &["-O", "ea_inode"]);
        assert_same_tree(&format!("{args:?}"), &want, &image_tree(&open(&image)));
        let Some(mount) = Mount::new(&image, "ro") else { return };
        assert_same_tree(&format!("{args:?}, kernel"), &want, &host_tree(mount.path()));
        let blocks = |m: &Mount| fs::metadata(m.path().join("sparse")).unwrap().blocks();
        assert_eq!(blocks(&judge), blocks(&mount), "{args:?}");
    }
}

#[test]
fn packed_archives_and_streams_give_the_same_image() {
    let s = Scratch::new();
    let source = s.path("tree");
    fs::create_dir(&source).unwrap();
    fill_tree(&source, 5);
    let Some(plain) = archive(&s, &source, "plain.tar", &ALL) else { return };
    let want = fs::read(s.build(&plain, &[])).unwrap();
    assert_same_tree("plain", &with_lost_found(host_tree(&source)), &image_tree(&open(&s.path("img"))));
    for (program, name) in [("gzip", "gz"), ("zstd", "zst"), ("xz", "xz")] {
        let Some(program) = tool(program) else { continue };
        let packed = s.path(name);
        let done = Command::new(program).arg("-c").arg(&plain).stdout(File::create(&packed).unwrap()).status().unwrap();
        assert!(done.success());
        assert!(fs::read(s.build(&packed, &[])).unwrap() == want, "{name}");
        let bytes = fs::read(&packed).unwrap();
        fs::write(&packed, &bytes[..bytes.len() - bytes.len() / 3]).unwrap();
        let out = e4mkfs(&["-q", "-d", packed.to_str().unwrap(), s.path("none").to_str().unwrap()], None);
        assert_eq!(out.status.code(), Some(1), "{name} cut short");
        assert!(!s.path("none").exists());
    }
    let image = s.path("img2");
    let args = ["-q", "-d", "-", image.to_str().unwrap()];
    assert!(e4mkfs(&args, Some(&plain)).status.success());
    assert!(fs::read(&image).unwrap() == want, "from a redirected file");
    fs::remove_file(&image).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_e4mkfs"))
        .args(args)
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&fs::read(&plain).unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(fs::read(&image).unwrap() == want, "from a pipe");
    let left: Vec<_> = fs::read_dir(s.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|n| !n.to_string_lossy().starts_with('.')), "{left:?}");
}

#[test]
fn what_this_kit_writes_it_reads_back() {
    let s = Scratch::new();
    let source = s.path("tree");
    fs::create_dir(&source).unwrap();
    fill_tree(&source, 9);
    let first = s.path("first.img");
    let from = source.to_str().unwrap();
    assert!(e4mkfs(&["-q", "-O", "ea_inode", "-d", from, first.to_str().unwrap()], None).status.success());
    let written = s.path("out.tar");
    let spec = format!("{}:/", first.display());
    let out =
        Command::new(env!("CARGO_BIN_EXE_e4cp")).args([&spec, "-"]).stdout(File::create(&written).unwrap()).status();
    assert!(out.unwrap().success());
    let image = s.build(&written, &["-O", "ea_inode"]);
    let mut want = image_tree(&open(&first));
    want.retain(|path, _| path != b"lost+found");
    assert_same_tree("tar of e4cp", &want, &image_tree(&open(&image)));
}

#[test]
fn failures_name_archive_and_entry() {
    let s = Scratch::new();
    let bad = s.path("bad.tar");
    fs::write(&bad, "no archive at all").unwrap();
    let image = s.path("img");
    for (args, want) in [
        (["-q", "-d", bad.to_str().unwrap(), image.to_str().unwrap()], "bad.tar: byte 0: this is not a tar archive"),
        (["-q", "-d", "/none.tar", image.to_str().unwrap()], "/none.tar: cannot open"),
        (["-q", "-d", "-", image.to_str().unwrap()], "standard input: byte 0: this is not a tar archive"),
    ] {
        let out = e4mkfs(&args, None);
        assert_eq!(out.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&out.stderr).contains(want), "{out:?}");
        assert!(!image.exists());
    }
}

#[test]
fn attributes_that_cannot_be_are_told() {
    let s = Scratch::new();
    let mut a = tar::Builder::new(File::create(s.path("a.tar")).unwrap());
    for name in ["one", "two"] {
        a.append_pax_extensions([("SCHILY.xattr.system.data", &b"evil"[..]), ("SCHILY.xattr.user.good", b"1")])
            .unwrap();
        let mut h = tar::Header::new_ustar();
        h.set_size(0);
        h.set_mode(0o644);
        h.set_uid(0);
        h.set_gid(0);
        h.set_mtime(0);
        a.append_data(&mut h, name, &[][..]).unwrap();
    }
    a.into_inner().unwrap();
    let image = s.path("img");
    let out = e4mkfs(&["-q", "-d", s.path("a.tar").to_str().unwrap(), image.to_str().unwrap()], None);
    assert!(out.status.success());
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(text.contains("attribute system.data of /one and of 1 more files"), "{text}");
    reference_fsck(&image);
    let tree = image_tree(&open(&image));
    assert_eq!(tree[&b"two"[..]].xattrs.keys().collect::<Vec<_>>(), [b"user.good"]);
}
