//! The shell with `-w`: what its commands change is what debugfs's users expect, judged by the reference; a script is one
//! transaction.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{image_tree, open, reference_fsck};

fn image(dir: &Path, options: &str) -> Option<PathBuf> {
    let mke2fs = common::tool("mke2fs")?;
    let path = dir.join("image");
    let _ = std::fs::remove_file(&path);
    let mut args = vec!["-q", "-F"];
    args.extend(options.split_whitespace());
    args.extend([path.to_str().unwrap(), "16M"]);
    common::run(&mke2fs, &args);
    Some(path)
}

fn e4sh(image: &Path, args: &[&str], input: &str) -> Output {
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), input).unwrap();
    Command::new(env!("CARGO_BIN_EXE_e4sh"))
        .arg("-w")
        .args(args)
        .arg(image)
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .stdin(Stdio::from(std::fs::File::open(script.path()).unwrap()))
        .output()
        .unwrap()
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn paths(image: &Path) -> Vec<String> {
    image_tree(&open(image)).keys().map(|k| String::from_utf8_lossy(k).into_owned()).collect()
}

#[test]
fn commands_change_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["-t ext4 -O ea_inode", "-t ext3 -b 1024", "-t ext2", "-t ext4 -b 1024 -O inline_data,project"] {
        let Some(image) = image(dir.path(), kind) else { return };
        std::fs::write(dir.path().join("host"), vec![9; 30_000]).unwrap();
        let script = format!(
            "lcd {}\nmkdir a\ncd a\nwrite host file\nwrite host \"with space\"\nln file hard\nlink file /hard2\nsymlink sym target\n\
             mkdir -p x/y/z\nmv x ../moved\nrm \"with space\"\nmknod pipe p\nmknod dev b 8 1\nea_set file user.a value\nea_set sym2 user.x y\n",
            dir.path().display()
        );
        // The last line fails: nothing is there.
        let before = std::fs::read(&image).unwrap();
        let out = e4sh(&image, &[], &script);
        assert_eq!(out.status.code(), Some(1), "{kind}: {}", text(&out));
        assert!(text(&out).contains("line 15"), "{}", text(&out));
        assert!(before == std::fs::read(&image).unwrap(), "{kind}: the image changed");
        let script = script.replace("ea_set sym2 user.x y\n", "ea_list file\nsif file mode 0100600\nsif file mtime 20010203040506\n\
             sif <12> uid 5\npunch file 1 3\ntruncate -s 20000 hard\nchown 7:8 /moved/y\nunlink /hard2\nrmdir /moved/y/z\ncat file\n");
        let out = e4sh(&image, &[], &script);
        assert!(out.status.success(), "{kind}: {}", text(&out));
        assert!(text(&out).contains("user.a"), "{}", text(&out));
        reference_fsck(&image);
        assert_eq!(paths(&image), ["", "a", "a/dev", "a/file", "a/hard", "a/pipe", "a/sym", "moved", "moved/y"]);
        let tree = image_tree(&open(&image));
        let file = &tree[&b"a/file"[..]];
        let block = open(&image).geometry().block_size as usize;
        let mut want = vec![9; 20_000];
        want[block..(4 * block).min(20_000)].fill(0);
        assert!(file.content == want, "{kind}");
        assert_eq!((file.permissions, file.links, file.size), (0o600, 2, 20_000));
        assert_eq!(tree[&b"moved/y"[..]].owner, (7, 8));
        assert_eq!(tree[&b"a/sym"[..]].content, b"target");
        assert_eq!(file.xattrs[&b"user.a"[..]], b"value");
    }
}

#[test]
fn quotas_follow_what_is_done_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext4 -O quota,project -E quotatype=usrquota:grpquota:prjquota") else {
        return;
    };
    std::fs::write(dir.path().join("host"), vec![9; 30_000]).unwrap();
    let script = format!("lcd {}\nwrite host f\nchown 7:8 f\nmkdir d\nchown 7 d\nwrite host g\n", dir.path().display());
    assert!(e4sh(&image, &[], &script).status.success());
    for line in
        ["expand_dir d", "fallocate f 5 40", "bmap -a g 50", "punch f 2 9", "kill_file f\nunlink f\nundel <13> h"]
    {
        let out = e4sh(&image, &[], &format!("{line}\n"));
        assert!(out.status.success(), "{line}: {}", text(&out));
        reference_fsck(&image);
    }
}

#[test]
fn files_are_named_by_number_and_questions_are_answered_by_the_lines_that_follow() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext4") else { return };
    let host = dir.path().join("host");
    std::fs::write(&host, "hello").unwrap();
    let script = format!("write {} f\nmkdir d\nchmod 0640 <12>\nln <12> d/g\nmknod d/null c 0x1 03\n", host.display());
    let out = e4sh(&image, &[], &script);
    assert!(text(&out).contains("Allocated inode: 12\n"), "{}", text(&out));
    // Mode, owner, 28 other fields; then the next command.
    let script = format!("mi f\n0100600\n70000\n{}sif f mtime 20010203\nsif f fsize 0\nstat f\n", "\n".repeat(29));
    let out = e4sh(&image, &[], &script);
    assert!(out.status.success(), "{}", text(&out));
    let tree = image_tree(&open(&image));
    let f = &tree[&b"d/g"[..]];
    assert_eq!((f.permissions, f.owner.0, f.links, f.mtime.0), (0o600, 70_000, 2, 981_158_400));
    assert_eq!(tree[&b"d/null"[..]].device, (1, 3));
    assert!(text(&out).contains("[0100640]") && text(&out).contains("Inode: 12 "), "{}", text(&out));
    for wrong in ["chmod 0600 <99>", "sif f links_count -1", "ssv def_hash_version 9", "punch d 0", "eo f\ncurrent"] {
        assert!(!e4sh(&image, &[], &format!("{wrong}\n")).status.success(), "{wrong}");
    }
    reference_fsck(&image);
}

#[test]
fn a_journal_on_its_own_device_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, image) = (dir.path().join("journal"), dir.path().join("image"));
    let e4mkfs = |args: &[&str]| {
        let out =
            Command::new(env!("CARGO_BIN_EXE_e4mkfs")).args(["-q", "-F", "-b", "4096"]).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", text(&out));
    };
    let device = format!("device={}", journal.display());
    e4mkfs(&["-O", "journal_dev", journal.to_str().unwrap(), "8M"]);
    e4mkfs(&["-J", &device, image.to_str().unwrap(), "32M"]);
    let options = ["--journal", journal.to_str().unwrap()];
    let script = "mkdir a\njo\njw -b 3000 /proc/self/exe\njc\nlogdump -a\njr\nmkdir b\n";
    // Without it there is no transaction.
    assert!(!e4sh(&image, &[], "mkdir a\n").status.success());
    let out = e4sh(&image, &options, script);
    assert!(out.status.success() && text(&out).contains("FS block 3000 logged"), "{}", text(&out));
    assert_eq!(paths(&image), ["", "a", "b"]);
    let shown = Command::new(env!("CARGO_BIN_EXE_e4sh"))
        .arg("-R")
        .arg(format!("logdump -f {}", journal.display()))
        .arg(&image)
        .output();
    assert!(text(&shown.unwrap()).contains("superblock header found"));
    let Some(fsck) = common::tool("e2fsck") else { return };
    common::run(&fsck, &["-fn", "-j", journal.to_str().unwrap(), image.to_str().unwrap()]);
}

#[test]
fn transactions_are_committed_or_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext4") else { return };
    let out = e4sh(&image, &[], "mkdir a\ncommit\nmkdir b\nabort\nmkdir c\n");
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(paths(&image), ["", "a", "c"]);
    // What was committed stays where a later command fails.
    let out = e4sh(&image, &[], "mkdir d\ncommit\nmkdir e\nmkdir e\n");
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(paths(&image), ["", "a", "c", "d"]);
    let out =
        e4sh(&image, &["--keep-going"], "mkdir e\nmkdir e\nbegin\nmkdir f\nabort\nbegin\nmkdir g\ncommit\nmkdir h\n");
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(paths(&image), ["", "a", "c", "d", "e", "g", "h"]);
    reference_fsck(&image);
    let out = Command::new(env!("CARGO_BIN_EXE_e4sh")).args(["-R", "mkdir x"]).arg(&image).output().unwrap();
    assert_eq!(out.status.code(), Some(2), "{}", text(&out));
    assert!(text(&out).contains("-w"), "{}", text(&out));
}

/// 100 scripts, each with one command that fails, somewhere.
#[test]
fn a_script_with_a_mistake_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext4") else { return };
    let out = e4sh(&image, &[], "mkdir there\nmkdir there/inside\ntouch file\n");
    assert!(out.status.success(), "{}", text(&out));
    let before = std::fs::read(&image).unwrap();
    let wrong = [
        "mkdir there",
        "rm none",
        "rmdir there",
        "mv there there/inside/x",
        "frobnicate",
        "chmod 9 file",
        "sif file uid x",
        "ln there hard",
        "cat none",
        "write /none/none x",
        "truncate -s 1 there",
        "mknod x q",
    ];
    let mut state = 12345u32;
    let mut random = |n: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % n
    };
    for case in 0..100 {
        let bad = wrong[case % wrong.len()];
        let at = random(8);
        let lines: Vec<String> = (0..8)
            .map(|i| match (i == at, random(4)) {
                (true, _) => bad.to_owned(),
                (_, 0) => format!("mkdir new{i}"),
                (_, 1) => format!("touch there/f{i}"),
                (_, 2) => format!("symlink s{i} target"),
                _ => format!("truncate -s {} /t{i}", i * 5000),
            })
            .collect();
        let all = lines.join("\n");
        let out = e4sh(&image, &[], &all);
        assert!(!out.status.success(), "{all}\n{}", text(&out));
        assert!(before == std::fs::read(&image).unwrap(), "{all}\nchanged the image");
        if case % 3 != 0 {
            continue;
        }
        // Going on, everything else is done.
        let copy = dir.path().join("copy");
        std::fs::copy(&image, &copy).unwrap();
        let out = e4sh(&copy, &["--keep-going"], &all);
        assert!(!out.status.success());
        let without: Vec<&str> = lines.iter().filter(|l| *l != bad).map(String::as_str).collect();
        let other = dir.path().join("other");
        std::fs::copy(&image, &other).unwrap();
        assert!(e4sh(&other, &[], &without.join("\n")).status.success());
        common::assert_same_tree(&all, &image_tree(&open(&other)), &image_tree(&open(&copy)));
        if case % 12 == 0 {
            reference_fsck(&copy);
        }
    }
}

#[test]
fn bits_change_with_their_counts_and_the_filesystems_own_stay() {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["-t ext4", "-t ext2 -b 1024", "-t ext4 -O bigalloc -C 16384", "-t ext4 -O quota"] {
        let Some(image) = image(dir.path(), kind) else { return };
        let out = e4sh(&image, &[], "setb 3500 4\ntestb 3500 4\nseti <40> 2\ntesti <41>\n");
        assert!(out.status.success(), "{kind}: {}", text(&out));
        assert!(text(&out).matches("marked in use").count() >= 2, "{kind}: {}", text(&out));
        let out = e4sh(&image, &[], "freeb 3500 4\nfreei <40> 2\n");
        assert!(out.status.success(), "{kind}: {}", text(&out));
        reference_fsck(&image);
        let before = std::fs::read(&image).unwrap();
        for wrong in
            ["freeb 1", "freeb 3500", "setb 99999999", "seti <2>", "freei <8>", "freei <40>", "zap -o 4096 -l 5 3500"]
        {
            assert!(!e4sh(&image, &[], wrong).status.success(), "{kind}: {wrong}");
            assert!(before == std::fs::read(&image).unwrap(), "{kind}: {wrong}");
        }
    }
}

#[test]
fn fields_of_the_superblock_are_set_as_debugfs_sets_them() {
    let (Some(debugfs), Some(dumpe2fs)) = (common::tool("debugfs"), common::tool("dumpe2fs")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext4") else { return };
    let theirs = dir.path().join("theirs");
    std::fs::copy(&image, &theirs).unwrap();
    let script = "ssv volume_name hello\nssv max_mnt_count 33\nssv mkfs_time 20200102030405\nssv raid_stride 8\n\
                  ssv r_blocks_count 100\nssv errors 2\nssv last_mounted /over/there\nssv lastcheck 1600000000\nssv def_resuid 7\n\
                  ssv checkinterval 3600\nssv default_mount_opts 0x10c\n";
    let out = e4sh(&image, &[], script);
    assert!(out.status.success(), "{}", text(&out));
    let commands = dir.path().join("commands");
    std::fs::write(&commands, script.replace("1600000000", "@1600000000")).unwrap();
    common::run(&debugfs, &["-w", "-f", commands.to_str().unwrap(), theirs.to_str().unwrap()]);
    let shown = |image: &Path| {
        let out = Command::new(&dumpe2fs).arg("-h").arg(image).env("TZ", "UTC").output().unwrap();
        let all = String::from_utf8_lossy(&out.stdout).into_owned();
        let written = ["Last write time", "Checksum", "Lifetime writes", "Journal"];
        let kept: Vec<_> =
            all.lines().filter(|l| !written.iter().any(|w| l.starts_with(w))).map(str::to_owned).collect();
        kept.join("\n")
    };
    assert_eq!(shown(&image), shown(&theirs));
    reference_fsck(&image);
    let out = e4sh(&image, &["-R", "ssv nonsense 7"], "");
    assert!(!out.status.success() && text(&out).contains("volume_name"), "{}", text(&out));
    assert!(e4sh(&image, &["-R", "dirty"], "").status.success());
    assert!(shown(&image).contains("not clean"), "{}", shown(&image));
    assert!(e4sh(&image, &["-R", "dirty -clean"], "").status.success());
    assert!(!shown(&image).contains("not clean"));
}

#[test]
fn blocks_and_inodes_are_overwritten_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext4 -b 4096") else { return };
    std::fs::write(dir.path().join("host"), vec![b'x'; 5000]).unwrap();
    let script = format!("lcd {}\nput host f\nzap -f f -o 10 -l 5 -p 65 0\nzap -f f 1\ncat f\n", dir.path().display());
    let out = e4sh(&image, &[], &script);
    let mut want = vec![b'x'; 5000];
    want[10..15].fill(b'A');
    want[4096..].fill(0);
    assert!(out.status.success() && out.stdout == want, "{}", text(&out));
    reference_fsck(&image);
    let out = e4sh(&image, &[], "set_current_time 20300101000000\nmkdir d\nstat d\nclri f\nidump f\n");
    assert!(out.status.success() && text(&out).contains("2030"), "{}", text(&out));
    let fsck = common::tool("e2fsck").unwrap();
    let found = Command::new(fsck).arg("-fn").arg(&image).output().unwrap();
    assert!(!found.status.success(), "a name without its inode is damage");
}

#[test]
fn directories_are_copied_inside_the_image() {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["-t ext4 -O inline_data", "-t ext3 -b 1024"] {
        let Some(image) = image(dir.path(), kind) else { return };
        std::fs::write(dir.path().join("host"), vec![9; 30_000]).unwrap();
        let script = format!(
            "lcd {}\nmkdir -p a/b/c\nput host a/f\nput host a/b/g\nln a/f a/b/hard\nsymlink a/l f\nmknod -m 600 a/n b 8 1\n\
             ea_set a/f user.x y\nchmod 700 a/b\nchown 3:4 a/b\ntouch -d @5 a/b\ncp -r a z\nmkdir in\ncp -r a in\ncp -r a/l link\ncp a/f f\n",
            dir.path().display()
        );
        let out = e4sh(&image, &[], &script);
        assert!(out.status.success(), "{kind}: {}", text(&out));
        reference_fsck(&image);
        let tree = image_tree(&open(&image));
        for to in ["z", "in/a"] {
            for path in ["", "/f", "/b", "/b/c", "/b/g", "/b/hard", "/l", "/n"] {
                let (from, copy) = (&tree[format!("a{path}").as_bytes()], &tree[format!("{to}{path}").as_bytes()]);
                assert!(from == copy, "{kind}: {to}{path}: {from:?} {copy:?}");
            }
        }
        assert_eq!((tree[&b"z/f"[..]].links, tree[&b"f"[..]].links), (2, 1));
        assert_eq!(tree[&b"link"[..]].content, b"f");
        let before = std::fs::read(&image).unwrap();
        for wrong in ["cp a q", "cp -r a a/b", "cp -r a a/new", "cp -r / a", "cp -r none x", "cp -r a f"] {
            let out = e4sh(&image, &[], wrong);
            assert!(!out.status.success(), "{wrong}");
            assert!(before == std::fs::read(&image).unwrap(), "{wrong}");
        }
    }
}

#[test]
fn backups_follow_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["-t ext4 -b 1024", "-t ext4 -b 1024 -O meta_bg,^resize_inode", "-t ext2 -b 1024"] {
        let Some(image) = image(dir.path(), kind) else { return };
        let shown = || {
            let mut shell = Command::new(env!("CARGO_BIN_EXE_e4sh"));
            text(&shell.args(["-s", "8193", "-b", "1024", "-R", "stats -h"]).arg(&image).output().unwrap())
        };
        assert!(e4sh(&image, &[], "ssv volume_name uno\nclose\n").status.success());
        assert!(!shown().contains("uno"), "{kind}");
        assert!(e4sh(&image, &[], "ssv volume_name dos\nmkdir d\nclose -a\n").status.success());
        assert!(shown().contains("dos"), "{kind}: {}", shown());
        reference_fsck(&image);
        // With its descriptors the filesystem can be read.
        let mut shell = Command::new(env!("CARGO_BIN_EXE_e4sh"));
        let out =
            shell.args(["-s", "8193", "-b", "1024", "-R", "groups", "-R", "stat d"]).arg(&image).output().unwrap();
        assert!(out.status.success(), "{kind}: {}", text(&out));
    }
}

#[test]
fn what_was_deleted_lately_and_the_journal_by_its_backup() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(dir.path(), "-t ext4") else { return };
    std::fs::write(dir.path().join("host"), vec![9; 30_000]).unwrap();
    let made = format!(
        "lcd {}\nput host f\nput host g\nkill_file f\nset_current_time @1700000500\nkill_file g\n",
        dir.path().display()
    );
    let out = e4sh(&image, &[], &made);
    assert!(out.status.success(), "{}", text(&out));
    let look = |line: &str, now: &str| {
        let mut shell = Command::new(env!("CARGO_BIN_EXE_e4sh"));
        text(&shell.args(["-R", line]).arg(&image).env("SOURCE_DATE_EPOCH", now).output().unwrap())
    };
    for (line, found) in [("lsdel", 2), ("lsdel 0", 2), ("lsdel 99", 0), ("lsdel 100", 1), ("lsdel 600", 2)] {
        assert!(look(line, "1700000600").contains(&format!("{found} deleted inodes found")), "{line}");
    }
    let (plain, backup) = (look("logdump -aO", "0"), look("logdump -asO", "0"));
    assert!(plain.lines().count() > 5 && plain == backup, "{plain}\n{backup}");
    assert!(e4sh(&image, &["-R", "clri <8>"], "").status.success());
    assert!(look("logdump -asO", "0").lines().count() > 5);
    let without = image.with_extension("none");
    let mke2fs = common::tool("mke2fs").unwrap();
    common::run(&mke2fs, &["-q", "-F", "-t", "ext2", without.to_str().unwrap(), "4M"]);
    let out = Command::new(env!("CARGO_BIN_EXE_e4sh")).args(["-R", "logdump -s"]).arg(&without).output().unwrap();
    assert!(!out.status.success(), "{}", text(&out));
}
