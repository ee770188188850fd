//! Filesystems made from a directory: judged by the reference e2fsck, by the kernel's own reading, and by ours.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{Mode, OFlags};

use common::{Mount, Tree, assert_same_tree, fill_tree, host_tree, image_tree, open, reference_fsck};

fn e4mkfs(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_e4mkfs")).args(args).env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap()
}

/// Make `image` from `source`; it must work.
fn build(source: &Path, image: &Path, more: &[&str]) {
    let mut args = vec!["-q", "-d", source.to_str().unwrap()];
    args.extend(more);
    args.push(image.to_str().unwrap());
    let out = e4mkfs(&args);
    assert!(out.status.success(), "{more:?}: {}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stdout.is_empty());
}

/// The tree as the image should have it: the root has lost+found too.
fn expected(source: &Path) -> Tree {
    let mut tree = host_tree(source);
    if let Some(root) = tree.get_mut(&b""[..]) {
        root.links += 1;
    }
    tree
}

fn judge(what: &str, source: &Path, image: &Path) {
    reference_fsck(image);
    let want = expected(source);
    let ignore_sizes_of_dirs = |mut tree: Tree| {
        for e in tree.values_mut() {
            if e.kind == ext4kit::format::inode::FileType::Directory {
                e.size = 0;
            }
        }
        tree
    };
    let want = ignore_sizes_of_dirs(want);
    assert_same_tree(what, &want, &ignore_sizes_of_dirs(image_tree(&open(image))));
    if let Some(mount) = Mount::new(image, "ro") {
        assert_same_tree(what, &want, &ignore_sizes_of_dirs(host_tree(mount.path())));
    }
}

struct Scratch {
    _dir: tempfile::TempDir,
    source: PathBuf,
    image: PathBuf,
}

fn scratch() -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("tree");
    fs::create_dir(&source).unwrap();
    Scratch { source, image: dir.path().join("img"), _dir: dir }
}

#[test]
fn every_geometry_holds_the_tree() {
    let s = scratch();
    fill_tree(&s.source, 7);
    for args in [
        &[][..],
        &["-b", "1024"],
        &["-b", "2048"],
        &["-t", "ext2"],
        &["-t", "ext3", "-b", "1024"],
        &["-O", "bigalloc", "-C", "16384"],
        &["-O", "^metadata_csum,^metadata_csum_seed"],
        &["-O", "^metadata_csum,^metadata_csum_seed,uninit_bg"],
        &["-O", "^64bit"],
        &["-O", "^dir_index"],
        &["-O", "^flex_bg"],
        &["-O", "meta_bg,^resize_inode"],
        &["-O", "quota,project"],
        &["-O", "mmp"],
        &["-O", "large_dir,ea_inode,inline_data"],
        &["-O", "inline_data", "-I", "1024"],
        &["-O", "inline_data,^extent,^64bit", "-b", "1024", "-I", "512"],
        &["-I", "128", "-E", "no_copy_xattrs"],
        &["-I", "512"],
    ] {
        build(&s.source, &s.image, args);
        if args.contains(&"128") {
            // Without extra fields: no nanoseconds, and no attributes were asked for.
            reference_fsck(&s.image);
        } else {
            judge(&format!("{args:?}"), &s.source, &s.image);
        }
        fs::remove_file(&s.image).unwrap();
    }
}

#[test]
fn the_order_of_creation_and_the_number_of_threads_do_not_show() {
    let (a, b) = (scratch(), scratch());
    let names: Vec<String> = (0..3000).map(|i| format!("name-{}-{i}", i * 7919 % 3000)).collect();
    let fill = |dir: &Path, names: &mut dyn Iterator<Item = &String>| {
        for n in names {
            fs::write(dir.join(n), n.repeat(50)).unwrap();
            fs::create_dir(dir.join(format!("d-{n}"))).unwrap();
        }
        let when = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_234_567));
        for e in fs::read_dir(dir).unwrap() {
            fs::File::open(e.unwrap().path()).unwrap().set_times(when).unwrap();
        }
        fs::File::open(dir).unwrap().set_times(when).unwrap();
    };
    fill(&a.source, &mut names.iter());
    fill(&b.source, &mut names.iter().rev());
    build(&a.source, &a.image, &["--jobs", "1"]);
    build(&b.source, &b.image, &["--jobs", "4"]);
    assert!(fs::read(&a.image).unwrap() == fs::read(&b.image).unwrap());
    reference_fsck(&a.image);
}

#[test]
fn large_directories_are_indexed() {
    let s = scratch();
    for i in 0..20_000 {
        symlink("x", s.source.join(format!("entry-with-a-longer-name-{i:06}-{}", "n".repeat(i % 150)))).unwrap();
    }
    for block_size in ["1024", "4096"] {
        build(&s.source, &s.image, &["-b", block_size]);
        judge(block_size, &s.source, &s.image);
        let volume = open(&s.image);
        let root = volume.inode(ext4kit::units::Ino::ROOT).unwrap();
        assert!(root.flags().contains(ext4kit::format::inode::InodeFlags::INDEX));
        fs::remove_file(&s.image).unwrap();
    }
}

#[test]
fn a_directory_lost_found_of_the_source_is_kept() {
    let s = scratch();
    fs::create_dir(s.source.join("lost+found")).unwrap();
    fs::write(s.source.join("lost+found/#12"), "found").unwrap();
    build(&s.source, &s.image, &[]);
    reference_fsck(&s.image);
    let volume = open(&s.image);
    let found = volume.resolve(b"/lost+found/#12", ext4kit::volume::LastLink::Keep).unwrap();
    assert_eq!(volume.inode(found).unwrap().size(), 5);
    fs::remove_dir_all(s.source.join("lost+found")).unwrap();
    fs::write(s.source.join("lost+found"), "a file").unwrap();
    let again = s.image.with_extension("2");
    let out = e4mkfs(&["-q", "-d", s.source.to_str().unwrap(), again.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1));
    assert!(!again.exists());
}

#[test]
fn failures_name_the_file_and_leave_nothing() {
    let s = scratch();
    fs::write(s.source.join("file"), vec![1u8; 3 << 20]).unwrap();
    let (source, image) = (s.source.to_str().unwrap(), s.image.to_str().unwrap());
    let out = e4mkfs(&["-q", "-d", source, image, "2M"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("no space"), "{out:?}");
    let out = e4mkfs(&["-q", "-d", &format!("{source}/none"), image]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("none"), "{out:?}");
    let left: Vec<_> = fs::read_dir(s.image.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["tree"], "{left:?}");
}

#[test]
fn an_image_that_exists_is_filled_and_cleared() {
    let s = scratch();
    fs::write(s.source.join("file"), "content").unwrap();
    fs::write(&s.image, vec![0xa5u8; 16 << 20]).unwrap();
    build(&s.source, &s.image, &["-F"]);
    assert_eq!(fs::metadata(&s.image).unwrap().size(), 16 << 20);
    judge("old bytes", &s.source, &s.image);
    assert!(fs::metadata(&s.image).unwrap().blocks() * 512 < 4 << 20, "the old bytes are gone");
}

#[test]
fn paths_longer_than_path_max() {
    let s = scratch();
    let name = "d".repeat(200);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at = rustix::fs::open(&s.source, flags, Mode::empty()).unwrap();
    for _ in 0..60 {
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap();
    }
    let file = rustix::fs::openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"deep\n").unwrap();
    build(&s.source, &s.image, &[]);
    reference_fsck(&s.image);
    let path = [vec![name.as_str(); 60], vec!["file"]].concat().join("/");
    let tree = image_tree(&open(&s.image));
    assert_eq!(tree.get(path.as_bytes()).unwrap().content, b"deep\n");
}

#[test]
fn values_too_large_for_a_block_get_inodes() {
    let s = scratch();
    for i in 0..40u8 {
        let file = s.source.join(format!("file-{i}"));
        fs::write(&file, [i]).unwrap();
        // Every second value is the same.
        let value = vec![if i % 2 == 0 { 7 } else { i }; 2000];
        let set = rustix::fs::setxattr(&file, "user.large", &value, rustix::fs::XattrFlags::empty());
        if set.is_err() {
            eprintln!("skipped: no extended attributes here");
            return;
        }
    }
    build(&s.source, &s.image, &["-b", "1024", "-O", "ea_inode,quota", "--size", "16M"]);
    judge("ea_inode", &s.source, &s.image);
    let none = s.image.with_extension("2");
    let out = e4mkfs(&["-q", "-b", "1024", "-d", s.source.to_str().unwrap(), none.to_str().unwrap(), "16M"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("file-0"), "{out:?}");
    assert!(!none.exists());
}

/// Whether the file's or directory's content is inside its inode.
fn is_inline(image: &Path, path: &str) -> bool {
    let volume = open(image);
    let ino = volume.resolve(path.as_bytes(), ext4kit::volume::LastLink::Keep).unwrap();
    volume.inode(ino).unwrap().flags().contains(ext4kit::format::inode::InodeFlags::INLINE_DATA)
}

#[test]
fn small_files_are_inside_their_inodes() {
    let s = scratch();
    let file = |name: &str, len: usize| fs::write(s.source.join(name), vec![b'c'; len]).unwrap();
    for (name, len) in [("empty", 0), ("one", 1), ("f60", 60), ("f61", 61), ("f128", 128), ("f129", 129)] {
        file(name, len);
    }
    fs::create_dir(s.source.join("dir")).unwrap();
    for i in 0..7 {
        file(&format!("dir/n{i}"), 3);
    }
    fs::create_dir(s.source.join("full")).unwrap();
    for i in 0..40 {
        file(&format!("full/n{i}"), 3);
    }
    symlink("t".repeat(100), s.source.join("soft")).unwrap();
    let set = rustix::fs::setxattr(s.source.join("f128"), "user.x", &[1; 90], rustix::fs::XattrFlags::empty());
    build(&s.source, &s.image, &["-O", "inline_data"]);
    judge("inline", &s.source, &s.image);
    for (path, want) in [
        ("/empty", false),
        ("/one", true),
        ("/f60", true),
        ("/f61", true),
        ("/f128", true),
        ("/f129", false),
        ("/dir", true),
        ("/dir/n0", true),
        ("/full", false),
        ("/soft", true),
        ("/", false),
    ] {
        assert_eq!(is_inline(&s.image, path), want, "{path}");
    }
    assert!(
        set.is_ok() || {
            eprintln!("skipped: no extended attributes here");
            true
        }
    );
    let Some(mount) = Mount::new(&s.image, "") else { return };
    for name in ["one", "f60", "f128"] {
        let mut f = fs::OpenOptions::new().append(true).open(mount.path().join(name)).unwrap();
        std::io::Write::write_all(&mut f, &[b'd'; 100]).unwrap();
    }
    for i in 0..50 {
        fs::write(mount.path().join(format!("dir/more-{i}")), "x").unwrap();
    }
    fs::remove_file(mount.path().join("dir/n0")).unwrap();
    drop(mount);
    reference_fsck(&s.image);
    assert!(!is_inline(&s.image, "/dir"));
}

#[test]
fn room_for_attributes_is_counted() {
    let s = scratch();
    for i in 0..1500u32 {
        let file = s.source.join(format!("file-{i}"));
        fs::write(&file, "").unwrap();
        let value = [i.to_le_bytes(); 150].concat();
        if rustix::fs::setxattr(&file, "user.different", &value, rustix::fs::XattrFlags::empty()).is_err() {
            eprintln!("skipped: no extended attributes here");
            return;
        }
    }
    for args in [&[][..], &["-b", "4096"], &["-O", "inline_data,ea_inode", "-b", "1024"], &["-I", "1024"]] {
        build(&s.source, &s.image, args);
        judge(&format!("{args:?}"), &s.source, &s.image);
        fs::remove_file(&s.image).unwrap();
    }
}

#[test]
fn a_given_size_gets_inodes_enough() {
    let s = scratch();
    for i in 0..2000 {
        symlink("x", s.source.join(format!("l{i}"))).unwrap();
    }
    build(&s.source, &s.image, &["--size", "8M"]);
    judge("inodes", &s.source, &s.image);
    let out = e4mkfs(&["-q", "-N", "500", "-d", s.source.to_str().unwrap(), s.image.to_str().unwrap(), "8M"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("inodes needed"), "{out:?}");
}

#[test]
fn times_of_access_and_change_are_kept_when_asked_for() {
    use ext4kit::format::inode::TimeField;
    let s = scratch();
    let file = s.source.join("file");
    fs::write(&file, "x").unwrap();
    let at = |sec| std::time::UNIX_EPOCH + std::time::Duration::new(sec, 123_456_789);
    for keep in [false, true] {
        // Reading the file may have changed its time of access.
        let times = fs::FileTimes::new().set_modified(at(10)).set_accessed(at(20));
        fs::File::open(&file).unwrap().set_times(times).unwrap();
        build(&s.source, &s.image, if keep { &["--keep-times"] } else { &[] });
        let volume = open(&s.image);
        let ino = volume.resolve(b"/file", ext4kit::volume::LastLink::Keep).unwrap();
        let inode = volume.inode(ino).unwrap();
        let [mtime, atime, ctime] =
            [TimeField::Modify, TimeField::Access, TimeField::Change].map(|t| inode.time(t).sec);
        let ctime_of_host = fs::metadata(&file).unwrap().ctime();
        assert_eq!((mtime, atime, ctime), if keep { (10, 20, ctime_of_host) } else { (10, 10, 10) });
        fs::remove_file(&s.image).unwrap();
    }
}
