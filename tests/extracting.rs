//! Copying out of images: trees as the kernel made them come out equal, as root and without; tar streams are what GNU
//! tar reads; whatever an image says, nothing is written outside the destination.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Mount, Tree, assert_same_tree, fill_tree, host_tree, is_root, open, run, tool};
use ext4kit::format::inode::FileType;
use ext4kit::units::Ino;
use ext4kit::volume::{LastLink, Owner, Volume};

const E4CP: &str = env!("CARGO_BIN_EXE_e4cp");

fn e4cp<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    Command::new(E4CP).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Ends well, and says nothing.
fn silent(out: &Output) {
    assert!(out.status.success() && out.stderr.is_empty(), "{}: {}", out.status, text(&out.stderr));
}

/// Ends with 1 and exactly these lines, each of which begins with `e4cp: ` and holds what is given.
fn partial(out: &Output, lines: &[&str]) {
    let told = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert_eq!(told.lines().count(), lines.len(), "{told}");
    for want in lines {
        assert!(told.lines().any(|l| l.starts_with("e4cp: ") && l.contains(want)), "no {want:?} in\n{told}");
    }
}

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `IMAGE:path`.
    fn source(&self, path: &str) -> String {
        format!("{}:{path}", self.at("img").display())
    }

    fn mke2fs(&self, args: &[&str]) -> Option<()> {
        let mke2fs = tool("mke2fs")?;
        let image = self.at("img");
        fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        let mut all: Vec<&str> = vec!["-q", "-F"];
        all.extend(args);
        all.push(image.to_str().unwrap());
        run(&mke2fs, &all);
        Some(())
    }

    /// An image of what `fill` makes, without checksums so that it can be operated on.
    fn image_of(&self, fill: impl FnOnce(&Path)) -> Option<()> {
        let tree = self.at("tree");
        fs::create_dir(&tree).unwrap();
        fill(&tree);
        self.mke2fs(&["-t", "ext4", "-O", "^metadata_csum,^has_journal", "-b", "4096", "-d", tree.to_str().unwrap()])
    }

    fn volume(&self) -> Volume {
        open(&self.at("img"))
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let file = fs::OpenOptions::new().write(true).open(self.at("img")).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    /// Byte offset in the image of a path's inode.
    fn inode_at(&self, path: &str) -> u64 {
        let volume = self.volume();
        let ino = volume.resolve(path.as_bytes(), LastLink::Keep).unwrap();
        volume.inode_offset(ino).unwrap().0
    }

    fn ino(&self, path: &str) -> u32 {
        self.volume().resolve(path.as_bytes(), LastLink::Keep).unwrap().0
    }

    /// Byte offset in the image of a path's directory entry.
    fn entry_at(&self, path: &str) -> u64 {
        let volume = self.volume();
        let (dir, name) = path.rsplit_once('/').unwrap();
        let (ino, inode) = volume.resolve_inode(dir.as_bytes(), LastLink::Keep).unwrap();
        let mut found = None;
        volume
            .for_each_entry(Owner { ino, inode: &inode }, &mut |e| {
                if e.entry.name == name.as_bytes() {
                    found = Some(volume.geometry().byte_of(e.block.unwrap()) + e.entry.offset as u64);
                }
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        found.unwrap()
    }

    /// Give an entry another name of at most the same length.
    fn rename(&self, path: &str, to: &[u8]) {
        let at = self.entry_at(path);
        assert!(to.len() <= path.rsplit('/').next().unwrap().len());
        self.write(at + 6, &[to.len() as u8]);
        self.write(at + 8, to);
    }

    /// Make an entry lead to another inode.
    fn redirect(&self, path: &str, ino: u32) {
        self.write(self.entry_at(path), &ino.to_le_bytes());
    }
}

/// Link counts of directories are the host filesystem's business.
fn comparable(mut tree: Tree) -> Tree {
    for e in tree.values_mut() {
        if e.kind == FileType::Directory {
            e.links = 0;
        }
    }
    tree
}

fn blocks_in_use(dir: &Path) -> u64 {
    fs::metadata(dir.join("sparse")).unwrap().blocks()
}

/// What the kernel writes into an image comes out as it went in, at any number of threads.
#[test]
fn trees_come_out_as_the_kernel_made_them() {
    let shapes: [(&str, &[&str]); 4] = [
        ("default", &["-t", "ext4"]),
        ("ext3, 1 KiB blocks, small inodes", &["-t", "ext3", "-b", "1024", "-I", "128"]),
        ("inline data and EA inodes", &["-t", "ext4", "-O", "inline_data,ea_inode", "-I", "256"]),
        ("bigalloc", &["-t", "ext4", "-O", "bigalloc", "-C", "65536"]),
    ];
    for (name, args) in shapes {
        let b = Bench::new();
        if b.mke2fs(args).is_none() {
            return;
        }
        let Some(mount) = Mount::new(&b.at("img"), "") else { return };
        fill_tree(mount.path(), 3);
        without_huge_xattr(mount.path(), b.dir.path());
        acls_on(mount.path());
        fs::set_permissions(mount.path().join("a/b"), fs::Permissions::from_mode(0o3711)).unwrap();
        let want = comparable(host_tree(mount.path()));
        drop(mount);
        for jobs in ["1", "4"] {
            let out = b.at(&format!("out{jobs}"));
            silent(&e4cp(&["-a", "-j", jobs, &b.source("/"), out.to_str().unwrap()]));
            assert_same_tree(name, &want, &comparable(host_tree(&out)));
            assert!(blocks_in_use(&out) * 512 < 500_000, "{name}: holes were filled");
            assert!(!out.join("lost+found").exists(), "{name}");
            let same = ["file-100", "a/hard"].map(|n| fs::metadata(out.join(n)).unwrap().ino());
            assert_eq!(same[0], same[1], "{name}: hard link");
        }
        let out = e4cp(&["--discard", "--json", &b.source("/")]);
        silent(&out);
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let count = |kind| want.values().filter(|e| e.kind == kind).count();
        assert_eq!(report["directories"], count(FileType::Directory), "{name}");
        assert_eq!(report["symlinks"], count(FileType::Symlink), "{name}");
        assert_eq!(report["hard_links"], 1, "{name}");
        assert_eq!(report["files"], count(FileType::Regular) - 1, "{name}");
    }
}

/// The host may not take an attribute of 10,000 bytes.
fn without_huge_xattr(tree: &Path, host: &Path) {
    let probe = host.join("probe");
    fs::write(&probe, b"").unwrap();
    if let Err(e) = rustix::fs::lsetxattr(&probe, "user.huge", &[1; 10_000], rustix::fs::XattrFlags::empty()) {
        eprintln!("skipped: an attribute of 10,000 bytes: {e}");
        let _ = rustix::fs::lremovexattr(tree.join("file-65536"), "user.huge");
    }
}

fn acls_on(dir: &Path) {
    let Some(setfacl) = tool("setfacl") else { return };
    run(&setfacl, &["-m", "u:1234:rwx,g:77:r", dir.join("file-59").to_str().unwrap()]);
    run(&setfacl, &["-d", "-m", "u:99:rwx", dir.join("a").to_str().unwrap()]);
    let cap = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(dir.join("file-155"), "security.capability", &cap, flags).unwrap();
    rustix::fs::lsetxattr(dir.join("a/fast"), "trusted.on-link", b"v", flags).unwrap();
}

/// GNU tar reads the stream without complaint, and makes the same tree of it.
#[test]
fn tar_streams_are_what_gnu_tar_reads() {
    let b = Bench::new();
    let (Some(tar), Some(())) = (tool("tar"), b.mke2fs(&["-t", "ext4", "-I", "512"])) else { return };
    let Some(mount) = Mount::new(&b.at("img"), "") else { return };
    fill_tree(mount.path(), 4);
    acls_on(mount.path());
    let long = mount.path().join("l".repeat(120)).join("m".repeat(200));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("n".repeat(255)), b"long name").unwrap();
    fs::hard_link(long.join("n".repeat(255)), mount.path().join("short")).unwrap();
    fs::write(mount.path().join("old"), b"").unwrap();
    set_mtime(&mount.path().join("old"), -5, 250_000_000);
    std::os::unix::fs::lchown(mount.path().join("old"), Some(4_000_000_000), Some(3_000_000)).unwrap();
    fs::File::create(mount.path().join("hole")).unwrap().set_len(9 << 30).unwrap();
    let sparse = mount.path().join("l".repeat(90)).join("p".repeat(90));
    fs::create_dir_all(sparse.parent().unwrap()).unwrap();
    let sparse = fs::File::create(sparse).unwrap();
    for i in 0..300u64 {
        sparse.write_all_at(&[i as u8; 5000], i * 100_000).unwrap();
    }
    let mut want = comparable(host_tree_without_content(mount.path(), "hole"));
    drop((sparse, mount));

    let out = e4cp(&[&b.source("/"), "-"]);
    silent(&out);
    assert_eq!(out.stdout, e4cp(&["-a", "-j", "3", &b.source("/"), "-"]).stdout);
    let archive = b.at("a.tar");
    fs::write(&archive, &out.stdout).unwrap();
    assert!(out.stdout.len() < 64 << 20, "{} bytes: holes were written", out.stdout.len());
    let told = run(&tar, &["-tvf", archive.to_str().unwrap()]);
    assert!(told.stderr.is_empty(), "{}", text(&told.stderr));
    fs::create_dir(b.at("out")).unwrap();
    let args = ["--xattrs", "--xattrs-include=*", "--acls", "-xpf", archive.to_str().unwrap(), "-C"];
    let args: Vec<&str> =
        args.into_iter().chain([b.at("out").to_str().unwrap()].map(|s| &*s.to_owned().leak())).collect();
    let told = text(&run(&tar, &args).stderr);
    assert!(told.lines().all(|l| l.contains("old: implausibly old time stamp")), "{told}");
    let mut got = comparable(host_tree_without_content(&b.at("out"), "hole"));
    // GNU tar sets no attributes of symbolic links.
    for tree in [&mut want, &mut got] {
        tree.get_mut(&b"a/fast"[..]).unwrap().xattrs.clear();
    }
    assert_same_tree("tar", &want, &got);
    assert!(blocks_in_use(&b.at("out")) * 512 < 500_000);

    // A source that is not the root comes under its own name.
    let out = e4cp(&[&b.source("/a"), &b.source("/old"), "-"]);
    silent(&out);
    fs::write(&archive, &out.stdout).unwrap();
    let told = text(&run(&tar, &["-tf", archive.to_str().unwrap()]).stdout);
    assert_eq!(told, "a/\na/b/\na/b/c/\na/b/c/deep\na/fast\na/hard\nold\n");
}

/// [`host_tree`] of a tree with a file too large to be read.
fn host_tree_without_content(root: &Path, large: &str) -> Tree {
    let path = root.join(large);
    let len = fs::metadata(&path).unwrap().len();
    let times = fs::metadata(&path).map(|m| (m.mtime(), m.mtime_nsec())).unwrap();
    let root_times = fs::metadata(root).map(|m| (m.mtime(), m.mtime_nsec())).unwrap();
    let moved = tempfile::NamedTempFile::new_in(root.parent().unwrap()).unwrap();
    drop(moved);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    set_mtime(&path, times.0, times.1 as u32);
    let mut tree = host_tree(root);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
    set_mtime(&path, times.0, times.1 as u32);
    set_mtime(root, root_times.0, root_times.1 as u32);
    tree.get_mut(large.as_bytes()).unwrap().size = len;
    tree
}

fn set_mtime(path: &Path, sec: i64, nsec: u32) {
    use rustix::fs::{Timespec, Timestamps};
    let t = Timespec { tv_sec: sec, tv_nsec: nsec.into() };
    let times = Timestamps { last_access: t, last_modification: t };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Without root: content, modes and times are there, owners are told about once, devices are left out.
#[test]
fn extraction_without_root() {
    let b = Bench::new();
    let (Some(setpriv), true) = (tool("setpriv"), is_root()) else { return };
    let made = b.image_of(|tree| {
        fill_tree(tree, 5);
        let _ = rustix::fs::lremovexattr(tree.join("file-65536"), "user.huge");
        fs::create_dir_all(tree.join("locked/in/side")).unwrap();
        fs::write(tree.join("locked/in/side/file"), b"inside").unwrap();
        fs::hard_link(tree.join("locked/in/side/file"), tree.join("zz-link")).unwrap();
        for (name, mode) in [("locked/in/side/file", 0o400), ("locked/in", 0o000), ("locked", 0o500)] {
            fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
    });
    if made.is_none() {
        return;
    }
    let mut want = comparable(host_tree(&b.at("tree")));
    let home = b.at("home");
    fs::create_dir(&home).unwrap();
    for (path, mode) in [(b.dir.path(), 0o755), (&b.at("img"), 0o644), (&home, 0o777)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    // The binary may lie where others cannot go.
    let binary = b.at("e4cp");
    fs::copy(E4CP, &binary).unwrap();
    for jobs in ["1", "4"] {
        let out = home.join(format!("out{jobs}"));
        let source = b.source("/");
        let ids = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
        let args = ["-a", "-j", jobs, source.as_str(), out.to_str().unwrap()];
        let done = Command::new(&setpriv).args(ids).arg(&binary).args(args).output().unwrap();
        partial(
            &done,
            &["warning: owners are not kept", "warning: some extended attributes", "warning: device files are skipped"],
        );
        let mut got = comparable(host_tree(&out));
        for name in ["null", "big-minor", "disk"] {
            want.remove(name.as_bytes());
            assert!(!got.contains_key(name.as_bytes()));
        }
        // mke2fs -d of this version may store whole seconds, and its own time for the root.
        let root_time = got[&b""[..]].mtime;
        for (path, e) in &mut want {
            e.owner = (65534, 65534);
            e.xattrs.retain(|k, _| k.starts_with(b"user."));
            e.permissions &= if e.kind == FileType::Directory { 0o7777 } else { 0o1777 };
            e.mtime = (e.mtime.0, 0);
            if path.is_empty() {
                e.mtime = (root_time.0, 0);
            }
        }
        for e in got.values_mut() {
            e.mtime.1 = 0;
        }
        assert_same_tree(jobs, &want, &got);
        assert_eq!(fs::metadata(out.join("zz-link")).unwrap().nlink(), 2);
    }
}

/// Where the host's filesystem can do that, large files share the image's blocks, and are the same all the same.
#[test]
fn large_files_share_blocks_with_the_image() {
    let (Some(xfs), Some(filefrag), true) = (tool("mkfs.xfs"), tool("filefrag"), is_root()) else { return };
    let b = Bench::new();
    let disk = b.at("disk");
    fs::File::create(&disk).unwrap().set_len(400 << 20).unwrap();
    run(&xfs, &["-q", "-m", "reflink=1", disk.to_str().unwrap()]);
    let Some(mount) = Mount::of_type("xfs", &disk, "") else { return };
    let made = b.image_of(|tree| {
        let content: Vec<u8> = (0..20_000_123u32).map(|i| (i >> 8 ^ i) as u8).collect();
        fs::write(tree.join("large"), &content).unwrap();
        let sparse = fs::File::create(tree.join("sparse")).unwrap();
        sparse.write_all_at(&content[..5_000_000], 40_000_000).unwrap();
        fs::write(tree.join("small"), &content[..100_000]).unwrap();
    });
    if made.is_none() {
        return;
    }
    let want = |name: &str| fs::read(b.at("tree").join(name)).unwrap();
    // An image that begins at an odd place cannot share, and is copied.
    for (image, place, shared) in [("img", 0u64, true), ("disk-img@512", 512, false)] {
        let file = fs::File::create(mount.path().join(image.split('@').next().unwrap())).unwrap();
        let bytes = fs::read(b.at("img")).unwrap();
        for (i, chunk) in bytes.chunks(1 << 20).enumerate() {
            if chunk.iter().any(|b| *b != 0) {
                file.write_all_at(chunk, place + ((i as u64) << 20)).unwrap();
            }
        }
        file.set_len(place + bytes.len() as u64).unwrap();
        drop(file);
        let out = mount.path().join(format!("out{place}"));
        silent(&e4cp(&["-a", &format!("{}:/", mount.path().join(image).display()), out.to_str().unwrap()]));
        for name in ["large", "sparse", "small"] {
            assert!(want(name) == fs::read(out.join(name)).unwrap(), "{name} from {image}");
        }
        let map = text(&run(&filefrag, &["-v", out.join("large").to_str().unwrap()]).stdout);
        assert_eq!(map.contains("shared"), shared, "{map}");
    }
}

/// The rules of cp for one file, several, and directories.
#[test]
fn destinations_are_those_of_cp() {
    let b = Bench::new();
    let made = b.image_of(|tree| {
        fs::write(tree.join("one"), b"1").unwrap();
        fs::write(tree.join("two"), b"22").unwrap();
        fs::set_permissions(tree.join("two"), fs::Permissions::from_mode(0o4751)).unwrap();
        set_mtime(&tree.join("two"), 1_000_000_000, 0);
        symlink("two", tree.join("link")).unwrap();
        fs::create_dir(tree.join("dir")).unwrap();
        fs::write(tree.join("dir/three"), b"333").unwrap();
        fs::hard_link(tree.join("one"), tree.join("dir/one")).unwrap();
    });
    if made.is_none() {
        return;
    }
    let cp = |args: &[&str]| {
        let mut all: Vec<String> =
            args.iter().map(|a| a.strip_prefix(':').map_or_else(|| (*a).into(), |path| b.source(path))).collect();
        let last = all.pop().unwrap();
        let last = if last.starts_with('/') || last == "-" { last } else { b.at(&last).to_str().unwrap().into() };
        e4cp(&[all, vec![last]].concat())
    };
    let read = |name: &str| fs::read(b.at(name)).unwrap();
    silent(&cp(&[":/one", "new"]));
    assert_eq!(read("new"), b"1");
    // Over a file: its content is replaced, not the file.
    fs::hard_link(b.at("new"), b.at("other-name")).unwrap();
    silent(&cp(&[":/two", "new"]));
    assert_eq!(read("other-name"), b"22");
    assert_eq!(fs::metadata(b.at("new")).unwrap().mode() & 0o7777, 0o644);
    silent(&cp(&["-p", ":/two", "new"]));
    let meta = fs::metadata(b.at("new")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o4751, 1_000_000_000));
    let out = cp(&[":/dir/three", "/dev/stdout"]);
    silent(&out);
    assert_eq!(out.stdout, b"333");
    // A link is followed, and kept with -r.
    silent(&cp(&[":/link", "followed"]));
    assert_eq!(read("followed"), b"22");
    silent(&cp(&["-r", ":/link", "kept"]));
    assert_eq!(fs::read_link(b.at("kept")).unwrap(), Path::new("two"));
    // Directories: only with -r; into one that is there under their name, else as the new one.
    partial(&cp(&[":/dir", "d"]), &["/dir: is a directory"]);
    silent(&cp(&["-r", ":/dir", "d"]));
    assert_eq!(read("d/three"), b"333");
    silent(&cp(&["-r", ":/dir", "d"]));
    assert_eq!(read("d/dir/three"), b"333");
    silent(&cp(&["-r", ":/dir/.", "d"]));
    assert!(!b.at("d/.").join("dir/dir").exists());
    // Several need a directory; one that is not there does not keep the others back.
    partial(&cp(&[":/one", ":/no", ":/dir", ":/two", "d"]), &["/no: no such file", "/dir: is a directory"]);
    assert_eq!(read("d/two"), b"22");
    let out = cp(&[":/one", ":/two", "new"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("destination"));
    // Hard links between sources, with -a only.
    fs::create_dir(b.at("links")).unwrap();
    silent(&cp(&["-a", ":/dir", ":/one", "links"]));
    assert_eq!(fs::metadata(b.at("links/one")).unwrap().nlink(), 2);
    // Without a place to go, from a host file.
    for args in [&[":/one"][..], &["-l", "new"]] {
        let out = cp(args);
        assert!(out.status.code() == Some(2), "{args:?}: {}", text(&out.stderr));
    }
    // -v names each.
    let out = cp(&["-rv", ":/dir", "v"]);
    let mut named: Vec<String> = text(&out.stdout).lines().map(str::to_owned).collect();
    named.sort();
    assert_eq!(named, ["/dir", "/dir/one", "/dir/three"]);
}

/// What was in the destination before is replaced, but never followed.
#[test]
fn what_is_in_the_way_is_replaced_not_followed() {
    let b = Bench::new();
    let made = b.image_of(|tree| {
        for d in ["sub", "plain", "taken"] {
            fs::create_dir(tree.join(d)).unwrap();
            fs::write(tree.join(d).join("file"), b"new").unwrap();
        }
        fs::write(tree.join("f"), b"new").unwrap();
        fs::write(tree.join("isdir"), b"new").unwrap();
        symlink("anywhere", tree.join("s")).unwrap();
    });
    if made.is_none() {
        return;
    }
    let (out, outside) = (b.at("out"), b.at("outside"));
    for d in [&out, &outside, &out.join("plain"), &out.join("isdir")] {
        fs::create_dir(d).unwrap();
    }
    fs::write(outside.join("file"), b"old").unwrap();
    symlink(&outside, out.join("sub")).unwrap();
    symlink(outside.join("file"), out.join("f")).unwrap();
    symlink(outside.join("file"), out.join("s")).unwrap();
    symlink(outside.join("file"), out.join("plain/file")).unwrap();
    fs::write(out.join("taken"), b"a file").unwrap();
    let done = e4cp(&["-a", &b.source("/"), out.to_str().unwrap()]);
    partial(&done, &["/sub: cannot open", "/taken: cannot open", "/isdir: cannot replace"]);
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"old");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    for name in ["f", "plain/file"] {
        assert!(fs::symlink_metadata(out.join(name)).unwrap().is_file(), "{name}");
        assert_eq!(fs::read(out.join(name)).unwrap(), b"new");
    }
    assert_eq!(fs::read_link(out.join("s")).unwrap(), Path::new("anywhere"));
}

/// A list that the destination gives to new files does not stay on what is copied.
#[test]
fn inherited_lists_do_not_stay() {
    let b = Bench::new();
    let Some(setfacl) = tool("setfacl") else { return };
    let made = b.image_of(|tree| {
        fs::create_dir(tree.join("d")).unwrap();
        fs::write(tree.join("d/f"), b"").unwrap();
        fs::write(tree.join("f"), b"").unwrap();
        fs::set_permissions(tree.join("f"), fs::Permissions::from_mode(0o640)).unwrap();
    });
    if made.is_none() {
        return;
    }
    let out = b.at("out");
    fs::create_dir(&out).unwrap();
    run(&setfacl, &["-d", "-m", "u:99:rwx", out.to_str().unwrap()]);
    silent(&e4cp(&["-a", &b.source("/"), out.to_str().unwrap()]));
    let tree = host_tree(&out);
    for name in ["d", "d/f", "f"] {
        assert_eq!(tree[name.as_bytes()].xattrs.len(), 0, "{name}");
    }
    assert_eq!(tree[&b"f"[..]].permissions, 0o640);
}

/// Names that would lead elsewhere make nothing, and nothing else is lost.
#[test]
fn hostile_names() {
    let b = Bench::new();
    let names = ["slash-00000", "dotdot", "dot", "nul-xxxx", "twin-b", "sub/escape-000000000"];
    let made = b.image_of(|tree| {
        fs::create_dir(tree.join("sub")).unwrap();
        for n in names.iter().chain(&["twin-a", "good", "sub/good"]) {
            fs::write(tree.join(n), n).unwrap();
        }
    });
    if made.is_none() {
        return;
    }
    b.rename("/slash-00000", b"../evil-000");
    b.rename("/dotdot", b"..");
    b.rename("/dot", b".");
    b.rename("/nul-xxxx", b"nul\0xxxx");
    b.rename("/twin-b", b"twin-a");
    b.rename("/sub/escape-000000000", b"/tmp/e4cp-escape");
    for jobs in ["1", "3"] {
        let out = b.at("in").join(jobs);
        fs::create_dir_all(b.at("in")).unwrap();
        let done = e4cp(&["-a", "-j", jobs, &b.source("/"), out.to_str().unwrap()]);
        let told = text(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{told}");
        assert_eq!(told.matches("a name holds '/' or NUL").count(), 3, "{told}");
        assert!(told.contains("'.' or '..' is there twice"), "{told}");
        assert!(told.contains("/twin-a: exists already"), "{told}");
        assert_eq!(told.lines().filter(|l| l.contains("error")).count(), 5, "{told}");
        let got: Vec<String> = host_tree(&out).keys().map(|k| text(k)).collect();
        assert_eq!(got, ["", "good", "sub", "sub/good", "twin-a"]);
        // The entry that comes first in the order of inodes is the one that stays, whoever makes it.
        assert!(!Path::new("/tmp/e4cp-escape").exists());
        assert!(!b.at("evil-000").exists() && !b.at("in/evil-000").exists());
    }
    // A tar holds none of them either.
    let done = e4cp(&[&b.source("/"), "-"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(!done.stdout.windows(4).any(|w| w == b"evil" || w == b"/tmp"));
    // A listing shows them, made harmless.
    let done = e4cp(&["-l", &b.source("/")]);
    assert!(text(&done.stdout).contains("nul\\x00xxxx"), "{}", text(&done.stdout));
}

/// A symbolic link and a directory of the same name: nothing goes through the link.
#[test]
fn a_directory_under_the_name_of_a_link() {
    for first in ["link", "directory"] {
        let b = Bench::new();
        let outside = b.at("outside");
        fs::create_dir(&outside).unwrap();
        let made = b.image_of(|tree| {
            // Whichever is made first in the tree gets the lower inode number, and is made first.
            let link = || symlink(&outside, tree.join("evil-1")).unwrap();
            let dir = || {
                fs::create_dir(tree.join("evil-2")).unwrap();
                fs::write(tree.join("evil-2/payload"), b"x").unwrap();
            };
            if first == "link" {
                link();
                dir();
            } else {
                dir();
                link();
            }
        });
        if made.is_none() {
            return;
        }
        b.rename("/evil-2", b"evil-1");
        for dest_exists in [false, true] {
            let out = b.at(&format!("out-{dest_exists}"));
            if dest_exists {
                fs::create_dir(&out).unwrap();
            }
            let done = e4cp(&["-a", &b.source("/"), out.to_str().unwrap()]);
            assert_eq!(done.status.code(), Some(1), "{}", text(&done.stderr));
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{first} first");
        }
    }
}

/// Directories that contain themselves, or have two names, are entered once; which name wins does not depend on threads.
#[test]
fn cycles_and_second_names_of_directories() {
    let b = Bench::new();
    let made = b.image_of(|tree| {
        for d in ["a/b/c/up", "a/self", "a/second", "zz-same", "real/below", "zroot", "journal"] {
            fs::create_dir_all(tree.join(d)).unwrap();
        }
        fs::write(tree.join("real/below/file"), b"x").unwrap();
    });
    if made.is_none() {
        return;
    }
    let (a, real, own) = (b.ino("/a"), b.ino("/real"), b.ino("/a/b"));
    b.redirect("/a/b/c/up", a);
    b.redirect("/a/second", real);
    b.redirect("/zz-same", real);
    b.redirect("/zroot", Ino::ROOT.0);
    b.redirect("/journal", 8);
    b.redirect("/a/self", own);
    for jobs in ["1", "2", "4"] {
        let out = b.at(&format!("out{jobs}"));
        let done = e4cp(&["-a", "-j", jobs, &b.source("/"), out.to_str().unwrap()]);
        let twice = "a directory has more than one name";
        let want = ["/a/b/c/up: ", "/a/second: ", "/zz-same: ", "/a/self: ", "/zroot: ", "/journal: "];
        partial(&done, &want);
        assert_eq!(text(&done.stderr).matches(twice).count(), 4, "{}", text(&done.stderr));
        let got: Vec<String> = host_tree(&out).keys().map(|k| text(k)).collect();
        assert_eq!(got, ["", "a", "a/b", "a/b/c", "real", "real/below", "real/below/file"], "{jobs}");
    }
    for args in [vec!["-lr".to_owned(), b.source("/")], vec![b.source("/"), "-".to_owned()]] {
        let done = e4cp(&args);
        assert_eq!(done.status.code(), Some(1), "{}", text(&done.stderr));
    }
}

/// A damaged file is named and left out; the rest is there.
#[test]
fn damaged_files_are_left_out() {
    let b = Bench::new();
    let made = b.image_of(|tree| {
        for n in ["bad-extent", "huge", "no-type", "time", "bad-link", "deep/good", "good", "gone"] {
            fs::create_dir_all(tree.join("deep")).unwrap();
            fs::write(tree.join(n), [7u8; 5000]).unwrap();
        }
        fs::hard_link(tree.join("bad-extent"), tree.join("bad-second")).unwrap();
        symlink("x".repeat(30), tree.join("nul")).unwrap();
    });
    if made.is_none() {
        return;
    }
    // The only extent's first block, low half: behind the header of 12 bytes, 8 bytes on.
    b.write(b.inode_at("/bad-extent") + 0x28 + 12 + 8, &[0xff; 4]);
    b.write(b.inode_at("/huge") + 0x6c, &0x4000_0000u32.to_le_bytes());
    b.write(b.inode_at("/no-type"), &0o644u16.to_le_bytes());
    // Nanoseconds that the host would take for "now".
    b.write(b.inode_at("/time") + 0x88, &(0x3fff_ffffu32 << 2).to_le_bytes());
    b.write(b.inode_at("/bad-link"), &(FileType::Symlink.mode_bits() | 0o777).to_le_bytes());
    b.write(b.inode_at("/nul") + 0x28 + 4, &[0]);
    b.redirect("/gone", 40_000_000);
    let out = b.at("out");
    let done = e4cp(&["-a", &b.source("/"), out.to_str().unwrap()]);
    let told = text(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{told}");
    for name in ["bad-extent", "bad-second", "huge", "no-type", "bad-link", "nul", "gone"] {
        // The one bad entry ends the reading of its directory block: then the directory is named.
        let named =
            told.lines().any(|l| l.contains(&format!("/{name}: "))) || name == "gone" && told.contains("40000000");
        assert!(named, "{name} in\n{told}");
        assert!(fs::symlink_metadata(out.join(name)).is_err(), "{name}");
    }
    assert_eq!(fs::read(out.join("deep/good")).unwrap(), [7; 5000]);
    assert_eq!(fs::read(out.join("good")).unwrap(), [7; 5000]);
    let time = fs::metadata(out.join("time")).unwrap();
    assert_eq!(time.mtime_nsec(), 999_999_999);
    // A tar goes on as well, and stays in step.
    let done = e4cp(&[&b.source("/"), "-"]);
    assert_eq!(done.status.code(), Some(1));
    if let Some(tar) = tool("tar") {
        fs::write(b.at("a.tar"), &done.stdout).unwrap();
        let listed = text(&run(&tar, &["-tf", b.at("a.tar").to_str().unwrap()]).stdout);
        assert!(listed.contains("./deep/good") && listed.contains("./good"), "{listed}");
    }
}

/// Directories nested beyond what a path can name come out with few open files, and so does what hangs on each level.
#[test]
fn nesting_beyond_path_max() {
    const DEPTH: usize = 2500;
    let b = Bench::new();
    if b.mke2fs(&["-t", "ext4", "-N", "60000"]).is_none() {
        return;
    }
    let Some(mount) = Mount::new(&b.at("img"), "") else { return };
    make_comb(mount.path(), DEPTH);
    drop(mount);
    let limit = "ulimit -n 40; exec \"$0\" \"$@\"";
    for jobs in ["1", "3"] {
        let out = b.at(&format!("out{jobs}"));
        let args = ["-c", limit, E4CP, "-a", "-j", jobs, &b.source("/"), out.to_str().unwrap()];
        silent(&Command::new("sh").args(args).output().unwrap());
        let found = Command::new("find").arg(&out).args(["-printf", "%y"]).output().unwrap();
        let count = |kind: char| text(&found.stdout).matches(kind).count();
        assert_eq!((count('d'), count('f')), (2 * DEPTH + 1, DEPTH), "{}", text(&found.stderr));
        // Such a tree is too deep for a recursive removal that keeps directories open.
        run(Path::new("rm"), &["-rf", out.to_str().unwrap()]);
    }
    let out = e4cp(&["--discard", "--json", &b.source("/")]);
    silent(&out);
    let out = e4cp(&[&b.source("/"), "-"]);
    silent(&out);
}

/// At each level a directory that goes on, one that does not, and a file.
fn make_comb(root: &Path, depth: usize) {
    use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
    // Not for the programs that other tests start meanwhile: they would keep the mount busy.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = open(root, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&dir, "side", Mode::RWXU).unwrap();
        openat(&dir, "file", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR).unwrap();
        mkdirat(&dir, "down", Mode::RWXU).unwrap();
        dir = openat(&dir, "down", flags, Mode::empty()).unwrap();
    }
}

/// Text and JSON tell the same.
#[test]
fn listings() {
    let b = Bench::new();
    let made = b.image_of(|tree| {
        fs::create_dir_all(tree.join("d/e")).unwrap();
        fs::write(tree.join("d/.hidden"), b"12345").unwrap();
        symlink("e", tree.join("d/l")).unwrap();
        for path in ["d/.hidden", "d/e", "d/l", "d"] {
            set_mtime(&tree.join(path), 86_400, 0);
        }
    });
    if made.is_none() {
        return;
    }
    let owner = fs::metadata(b.at("tree/d")).map(|m| format!("{} {}", m.uid(), m.gid())).unwrap();
    let out = e4cp(&["-l", &b.source("/d")]);
    silent(&out);
    let want = [
        format!("-rw-r--r-- 1 {owner}    5 1970-01-02 00:00:00 .hidden"),
        format!("drwxr-xr-x 2 {owner} 4096 1970-01-02 00:00:00 e"),
        format!("lrwxrwxrwx 1 {owner}    1 1970-01-02 00:00:00 l -> e"),
    ];
    assert_eq!(text(&out.stdout).lines().collect::<Vec<_>>(), want);
    let out = e4cp(&["-lr", &b.source("/d")]);
    assert!(text(&out.stdout).starts_with("/d:\n-rw-"), "{}", text(&out.stdout));
    assert!(text(&out.stdout).ends_with("\n\n/d/e:\n"), "{}", text(&out.stdout));
    let out = e4cp(&["-lr", "--json", &b.source("/")]);
    silent(&out);
    let all: Vec<serde_json::Value> = serde_json::from_slice(&out.stdout).unwrap();
    let paths: Vec<&str> = all.iter().map(|e| e["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/d", "/lost+found", "/d/.hidden", "/d/e", "/d/l"]);
    assert_eq!(all[2]["size"], 5);
    assert_eq!(all[4]["target"], "e");
    // A file that is named is one line.
    let out = e4cp(&["-l", &b.source("/d/.hidden")]);
    assert_eq!(text(&out.stdout).lines().count(), 1);
    let out = e4cp(&["-l", "--json", &b.source("/none")]);
    assert_eq!(out.status.code(), Some(1));
    let error: serde_json::Value = serde_json::from_slice(&out.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "not_found");
    assert_eq!(text(&out.stdout).trim(), "[\n]");
}

/// Takes bytes and counts them.
#[derive(Default)]
struct Sink(u64);

impl std::io::Write for Sink {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0 += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Fields of every structure changed, with the checksum made right again: each way out ends without a panic, writes no more
/// than the image can hold, and leaves a tar in step. `EXT4KIT_HOSTILE=N` does N times as many.
#[test]
fn damaged_fields_end_no_copy_badly() {
    use ext4kit::device::{BlockDevice, MemoryDevice, OverlayDevice};
    use ext4kit::env::{Entropy, SeededEntropy};
    use ext4kit::extract::{Destination, Extractor, Options, SilentObserver, Source};
    use ext4kit::progress::Silent;
    use ext4kit::testing::surgery::Surgeon;
    use ext4kit::volume::OpenOptions;
    use std::sync::Arc;

    let scale: u64 = std::env::var("EXT4KIT_HOSTILE").ok().and_then(|v| v.parse().ok()).unwrap_or(1);
    for (kind, extra) in
        [("ext4", "inline_data,ea_inode,^has_journal"), ("ext4", "^has_journal"), ("ext2", "dir_index")]
    {
        let b = Bench::new();
        let Some(mke2fs) = tool("mke2fs") else { return };
        let tree = b.at("tree");
        fs::create_dir(&tree).unwrap();
        fill_tree(&tree, 9);
        let _ = rustix::fs::lremovexattr(tree.join("file-65536"), "user.huge");
        fs::remove_dir_all(tree.join("many")).unwrap();
        fs::File::create(b.at("img")).unwrap().set_len(12 << 20).unwrap();
        let args = ["-q", "-F", "-t", kind, "-b", "1024", "-O", extra, "-d"];
        let paths = [tree.to_str().unwrap().to_owned(), b.at("img").to_str().unwrap().to_owned()];
        run(&mke2fs, &[&args.map(str::to_owned)[..], &paths].concat());
        let base = Arc::new(MemoryDevice::from_bytes(fs::read(b.at("img")).unwrap()));
        let healthy: Arc<dyn BlockDevice> = base.clone();
        let surgeon = Surgeon::new(&Volume::open(healthy, &OpenOptions::default()).unwrap()).unwrap();
        let mut entropy = SeededEntropy::new(0xe4c9);
        let (mut failed, mut whole) = (0, 0);
        for case in 0..150 * scale {
            let device = Arc::new(OverlayDevice::new(Arc::clone(&base)));
            for _ in 0..=case % 3 {
                surgeon.operate(&device, &mut entropy).unwrap();
            }
            let Ok(volume) = Volume::open(device, &OpenOptions::default()) else { continue };
            let Ok(root) = Source::find(&volume, b"/", LastLink::Keep) else { continue };
            let jobs = 1 + (entropy.next_u32() % 2) as usize;
            let options = Options { jobs, umask: 0o022, ..Options::default() };
            let all = Extractor { volume: &volume, options, observer: &SilentObserver, progress: &Silent };
            let sources = [root];
            let report = all.discard(&sources).unwrap();
            failed += u64::from(!report.is_complete());
            whole += u64::from(report.is_complete());
            all.list(&sources, &mut |_| Ok(())).unwrap();
            let mut sink = Sink::default();
            all.tar(&sources, &mut sink).unwrap();
            assert!(sink.0 % 512 == 0 && sink.0 < 64 << 20, "case {case}: {} bytes", sink.0);
            if case % 4 == 0 {
                let out = b.at("out");
                all.copy(&sources, &Destination::open(&out, 1).unwrap()).unwrap();
                // A mode of a directory can lock out whoever is not root; the root itself may have become anything.
                if fs::symlink_metadata(&out).is_ok_and(|m| m.is_dir()) {
                    run(Path::new("chmod"), &["-R", "u+rwX", out.to_str().unwrap()]);
                }
                run(Path::new("rm"), &["-rf", out.to_str().unwrap()]);
            }
        }
        assert!(failed > 10 && whole > 10, "{kind} {extra}: {failed} with errors, {whole} without");
    }
}
