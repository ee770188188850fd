//! `wp` of the shell: files through the write path, extent status between the operations, power cuts, and all of it taken back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use common::{assert_same_tree, image_tree, open, reference_fsck};
use ext4kit::device::{BlockDevice, MemoryDevice};
use ext4kit::env::Timestamp;
use ext4kit::file::PathChoice;
use ext4kit::file::event::Tracer;
use ext4kit::inspect::LiveView;
use ext4kit::script::{self, Script};
use serde_json::Value;

const KINDS: &[&str] = &["-t ext4", "-t ext4 -b 1024", "-t ext3 -b 1024", "-t ext2", "-t ext4 -O bigalloc -C 16384"];

/// All of them with `EXT4KIT_SHELL=1`, else a few.
fn kinds() -> Vec<&'static str> {
    if std::env::var_os("EXT4KIT_SHELL").is_some() { KINDS.to_vec() } else { [KINDS[0], KINDS[4]].to_vec() }
}

struct Image {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Image {
    fn new(kind: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tree, path) = (dir.path().join("tree"), dir.path().join("image"));
        std::fs::create_dir_all(tree.join("dir")).unwrap();
        std::fs::write(tree.join("dir/old"), vec![b'o'; 30_000]).unwrap();
        let mut make = Command::new(env!("CARGO_BIN_EXE_e4mkfs"));
        make.args(["-q", "--seed", "wp", "--owner", "0:0", "-d"]).arg(&tree).args(kind.split_whitespace());
        let out = make.arg(&path).arg("16M").env("SOURCE_DATE_EPOCH", "1600000000").output().unwrap();
        assert!(out.status.success(), "{kind}: {}", String::from_utf8_lossy(&out.stderr));
        Self { dir, path }
    }

    fn run(&self, options: &[&str], script: &str) -> Output {
        let file = self.dir.path().join("script");
        std::fs::write(&file, script).unwrap();
        let mut shell = Command::new(env!("CARGO_BIN_EXE_e4sh"));
        shell.arg("-w").args(options).arg("-f").arg(file).arg(&self.path).env("SOURCE_DATE_EPOCH", "1700000000");
        shell.output().unwrap()
    }

    fn ok(&self, options: &[&str], script: &str) -> String {
        let out = self.run(options, script);
        assert!(out.status.success(), "{script}\n{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    fn content(&self, path: &str) -> Option<Vec<u8>> {
        image_tree(&open(&self.path)).remove(path.as_bytes()).map(|e| e.content)
    }
}

fn pattern(_: &Path) -> Vec<u8> {
    // As the writes of scripts have it, with seed 0.
    (0..20_000u64).map(|p| (7 * p + 13 * (p >> 12)) as u8).collect()
}

#[test]
fn a_delayed_write_becomes_an_extent_before_ones_eyes() {
    for kind in kinds() {
        let image = Image::new(kind);
        let said = image.ok(
            &["--json"],
            "wp mount\nwp write dir/new 0 20000\nes dir/new\nwp fsync dir/new\nes dir/new\nstat dir/new\nes\nwp umount\nstat dir/new\n",
        );
        let all: Vec<Value> = said.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(
            all[0],
            serde_json::json!({
            "schema": "ext4kit/wp/1", "operation": "write", "result": 20000, "length": null, "crc32": null })
        );
        let statuses = |v: &Value| -> Vec<String> {
            let es = v["files"][0]["es"].as_array().unwrap().iter();
            es.map(|e| e["status"].as_str().unwrap().to_owned()).collect()
        };
        assert!(statuses(&all[1]).contains(&"delayed".into()), "{kind}: {}", all[1]);
        assert!(all[1]["files"][0]["reserved"].as_u64().unwrap() > 0);
        assert_eq!(all[1]["operation"], "wp write dir/new 0 20000");
        assert!(!statuses(&all[2]).contains(&"delayed".into()) && statuses(&all[2]).contains(&"written".into()));
        assert_eq!((&all[3]["size"], &all[3]["schema"]), (&20000.into(), &"ext4kit/inode/1".into()));
        assert_eq!(all[4]["files"][0]["name"], "dir/new");
        assert_eq!(all[5]["size"], 20000);
        reference_fsck(&image.path);
        assert!(image.content("dir/new").unwrap() == pattern(&image.path), "{kind}");
    }
}

/// The same operations in a script of `e4es run` give the same state after each.
#[test]
fn the_state_is_that_of_the_script_engine() {
    let mut state = 5u32;
    let mut random = |n: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % n
    };
    for kind in kinds() {
        let image = Image::new(kind);
        let (mut lines, mut ops) = (vec!["wp mount".to_owned()], Vec::new());
        for n in 0..40 {
            let file = ["a", "b"][random(2) as usize];
            let (off, len) = (u64::from(random(30)) * 3000, u64::from(random(20) + 1) * 2500);
            let (line, op) = match random(8) {
                0..=2 => (
                    format!("wp write -s {n} {file} {off} {len}"),
                    format!(r#"{{"op":"write","file":"{file}","off":{off},"len":{len},"seed":{n}}}"#),
                ),
                3 => (
                    format!("wp truncate {file} {off}"),
                    format!(r#"{{"op":"truncate","file":"{file}","size":{off}}}"#),
                ),
                4 => (
                    format!("wp writeback {file} {off} {len}"),
                    format!(r#"{{"op":"writeback","file":"{file}","off":{off},"len":{len}}}"#),
                ),
                5 => (format!("wp fsync {file}"), format!(r#"{{"op":"fsync","file":"{file}"}}"#)),
                6 => (
                    format!("wp mmap -s {n} {file} 0 1"),
                    format!(r#"{{"op":"mmap_write","file":"{file}","off":0,"len":1,"seed":{n}}}"#),
                ),
                _ => ("wp sync".to_owned(), r#"{"op":"sync"}"#.to_owned()),
            };
            if n < 2 {
                // Both are there from the start.
                let file = ["a", "b"][n];
                lines.push(format!("wp write {file} 0 100"));
                ops.push(format!(r#"{{"op":"write","file":"{file}","off":0,"len":100}}"#));
                lines.push("es".into());
                continue;
            }
            if line.contains("mmap") {
                lines.push(format!("wp write {file} 0 1"));
                ops.push(format!(r#"{{"op":"write","file":"{file}","off":0,"len":1}}"#));
                lines.push("es".into());
            }
            lines.push(line);
            ops.push(op);
            lines.push("es".into());
        }
        let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(std::fs::read(&image.path).unwrap()));
        let said = image.ok(&["--json"], &(lines.join("\n") + "\nwp umount\n"));
        let ours = said.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        let ours: Vec<Value> = ours.filter(|v| v["schema"] == "ext4kit/live/1").collect();
        let text = format!(r#"{{"size":"16M","ops":[{}]}}"#, ops.join(","));
        let script = Script::parse(text.as_bytes()).unwrap();
        let now = Timestamp::from_secs(1_700_000_000);
        let settings = script::Settings { path: PathChoice::Auto, now, check: false };
        let mut theirs = Vec::new();
        script::watch(&script, &device, settings, &Tracer::OFF, &mut |seen| {
            if let (Some(mount), Some(_)) = (seen.mount, seen.record.get("op")) {
                theirs.push(serde_json::to_value(LiveView::new(mount, seen.open, 0, String::new(), None)).unwrap());
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(ours.len(), theirs.len(), "{kind}");
        for (n, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(ours["files"], theirs["files"], "{kind}: operation {n}: {}", ops[n]);
            assert_eq!(ours["dirty_clusters"], theirs["dirty_clusters"], "{kind}: operation {n}");
        }
        reference_fsck(&image.path);
    }
}

#[test]
fn a_power_cut_leaves_what_was_durable() {
    for kind in &KINDS[..3] {
        for mode in ["", " flushed"] {
            let image = Image::new(kind);
            let said = image.ok(
                &[],
                &format!(
                    "mkdir before\nwp mount\nwp write dir/safe 0 20000\nwp fsync dir/safe\nwp write dir/lost 0 20000\n\
                     wp write -t changed dir/old 0\nwp crash{mode}\nfeatures\n"
                ),
            );
            assert!(said.contains("needs_recovery") && said.contains("the journal needs recovery"), "{kind}: {said}");
            // The image is as the power cut left it.
            let bytes = std::fs::read(&image.path).unwrap();
            assert!(bytes[1024 + 0x60] & 4 != 0, "{kind}: the flag is on the disk");
            image.ok(&[], "journal_run\nmkdir after\n");
            reference_fsck(&image.path);
            assert!(image.content("dir/safe").unwrap() == pattern(&image.path), "{kind}{mode}");
            assert!(image.content("dir/old").unwrap() == vec![b'o'; 30_000], "{kind}{mode}");
            assert!(image.content("before").is_some() && image.content("after").is_some());
            // A file whose data was still delayed is empty, or not there.
            assert!(image.content("dir/lost").is_none_or(|c| c.is_empty()), "{kind}{mode}");
        }
    }
    // And on it goes: mounting recovers.
    let image = Image::new("-t ext4");
    image
        .ok(&[], "wp mount\nwp write a 0 5000\nwp sync\nwp crash\nwp mount\nwp write a 5000 5000\nwp umount\nstat a\n");
    reference_fsck(&image.path);
    assert_eq!(image.content("a").unwrap().len(), 10_000);
}

#[test]
fn a_script_that_fails_leaves_the_image_alone() {
    let image = Image::new("-t ext4");
    let before = std::fs::read(&image.path).unwrap();
    for wrong in [
        "wp write dir 0 100",
        "wp punch nothing 0 4096",
        "mkdir x",
        "wp dance",
        "wp seek data dir/old 900000",
        "cat gone",
    ] {
        for ended in ["", "wp umount\n", "wp crash\n"] {
            let wrong = if ended.is_empty() { wrong } else { "cat gone" };
            let script = format!(
                "mkdir made\nwp mount\nwp write dir/new 0 50000\nwp sync\nwp punch dir/old 4096 8192\n{ended}{wrong}\nwp sync\n"
            );
            let out = image.run(&[], &script);
            assert!(!out.status.success(), "{script}");
            assert!(String::from_utf8_lossy(&out.stderr).contains(wrong), "{}", String::from_utf8_lossy(&out.stderr));
            assert!(before == std::fs::read(&image.path).unwrap(), "{script}: the image changed");
        }
    }
    // Going on, all else is done.
    let out = image.run(
        &["--keep-going"],
        "wp mount\nwp punch none 0 1\nwp write -t text a 0\ncat a\nmkdir x\nwp umount\nmkdir x\n",
    );
    assert_eq!(
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned()),
        (Some(1), "4 bytes written\ntext".into())
    );
    assert!(image.content("x").is_some() && image.content("a").unwrap() == b"text");
    reference_fsck(&image.path);
}

#[test]
fn all_operations_are_there_and_are_taken_back_as_one() {
    for kind in kinds() {
        let image = Image::new(kind);
        let extents = kind.starts_with("-t ext4");
        let mut script = String::from(
            "wp mount\nwp write f 0 100K\nwp mmap -s 3 f 1000 9000\nwp dio -s 4 f 16K 16K\nwp read f 0 100K\nwp truncate f 90000\n\
             wp seek hole f 0\nwp writepage f\nwp writeback f\nwp drop f\nwp forget f\nwp fdatasync f\n\
             wp write -t overwritten dir/old 5\nwp close f\nwp sync\n",
        );
        if extents {
            script += "wp punch dir/old 16K 4K\nwp fallocate f 128K 64K\nwp fallocate -k f 512K 64K\nwp zero f 32K 16K\nwp collapse f 0 16K\nwp insert f 0 16K\n";
        }
        script += "es\nwp umount\n";
        let said = image.ok(&["--keep-going"], &script);
        for text in ["102400 bytes written", "102400 bytes read, CRC-32 ", "90000\n", "dirty pages"] {
            assert!(said.contains(text), "{kind}: {text}: {said}");
        }
        reference_fsck(&image.path);
        assert!(&image.content("dir/old").unwrap()[..18] == b"ooooooverwrittenoo".as_slice(), "{kind}");
        let said = image.ok(
            &["--keep-going"],
            &format!(
                "wp mount\nwp truncate f 5\nwp write dir/old 0 29K\n{}undo -l\nundo\n",
                "wp write g 0 3M\nwp umount\n"
            ),
        );
        assert!(
            said.contains("1: wp mount; wp truncate f 5; ") && said.contains("undone: wp umount"),
            "{kind}: {said}"
        );
        assert!(image.content("f").unwrap().len() >= 90_000 && image.content("g").is_none(), "{kind}");
        reference_fsck(&image.path);
        let fresh = Image::new(kind);
        let before = image_tree(&open(&fresh.path));
        fresh.ok(&[], &(script.clone() + "undo\n"));
        assert_same_tree(kind, &before, &image_tree(&open(&fresh.path)));
        reference_fsck(&fresh.path);
    }
}

#[test]
fn what_it_cannot_do_is_refused() {
    let image = Image::new("-t ext4");
    let before = std::fs::read(&image.path).unwrap();
    for (script, why) in [
        ("wp write a 0 10\n", "wp mount begins"),
        ("wp mount bogus\n", "bogus"),
        ("wp mount\nwp mount\n", "wp umount ends that"),
        ("wp mount\nwp write a 0\n", "usage: wp write"),
        ("wp mount\nwp write a x 10\n", "not a number of bytes"),
        ("wp mount\nwp write a 0 5G\n", "1 GiB"),
        ("wp mount\njo\n", "wp umount ends that"),
        ("wp mount\nundo\n", "wp umount ends that"),
        ("begin\nbegin\nwp mount\n", ""),
        ("wp mount\nwp write big 0 900M\n", "no space"),
    ] {
        let out = image.run(&[], script);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if why.is_empty() {
            assert!(out.status.success(), "{script}: {said}");
        } else {
            assert!(!out.status.success() && said.contains(why), "{script}: {said}");
            assert!(before == std::fs::read(&image.path).unwrap(), "{script}");
        }
    }
    let out = Command::new(env!("CARGO_BIN_EXE_e4sh")).args(["-R", "wp mount"]).arg(&image.path).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("-w"));
}
