//! Damage that takes more than one change, made by the reference's debugfs: each is found by its problem, repaired, and nothing is
//! found afterwards, by the reference neither; files keep their names and content.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use ext4kit::check::{Answers, CheckOptions, Collect, Finding, Problem, RepairOptions, check, repair};
use ext4kit::device::{BlockDevice, MemoryDevice};
use ext4kit::env::Timestamp;
use ext4kit::format::inode::InodeFlags;
use ext4kit::progress::Silent;
use ext4kit::units::Ino;
use ext4kit::volume::{LastLink, OpenOptions, Owner, Volume};

/// Name, mke2fs's options, size, debugfs's commands (`{value}` is the first inode that holds an attribute's value, `{file}` that
/// of `/file`), bytes that become zero, and what is found.
type Case = (&'static str, &'static str, &'static str, &'static str, Option<(usize, usize)>, Problem);

const CASES: &[Case] = &[
    ("superblock lost", "-t ext4 -b 4096 -O ^has_journal", "10M", "", Some((1024, 1024)), Problem::SuperblockLost),
    (
        "superblock of large clusters lost",
        "-t ext4 -b 1024 -O bigalloc,^has_journal -C 8192",
        "10M",
        "",
        Some((1024, 1024)),
        Problem::SuperblockLost,
    ),
    ("superblock and backup", "-t ext4 -b 1024", "20M", "", Some((1024, 1024)), Problem::OpenFailed),
    ("revision to come", "-t ext2 -b 1024", "20M", "ssv rev_level 9", None, Problem::SuperblockTooNew),
    ("journal's inode lost", "-t ext3 -b 1024", "10M", "clri <8>", None, Problem::JournalInodeLost),
    ("journal's tree lost", "-t ext4 -b 1024", "10M", "clri <8>", None, Problem::JournalInodeLost),
    ("another journal", "-t ext4 -b 1024", "10M", "ssv journal_inum {file}", None, Problem::JournalInumWrong),
    (
        "journal elsewhere",
        "-t ext4 -b 1024",
        "10M",
        "ssv journal_uuid 11111111-2222-3333-4444-555555555555",
        None,
        Problem::JournalUuidSpurious,
    ),
    (
        "journal with a name",
        "-t ext3 -b 1024",
        "10M",
        "copy_inode <8> journal\nclri <8>\nssv journal_inum {journal}",
        None,
        Problem::MoveJournal,
    ),
    (
        "recovery without a journal",
        "-t ext2 -b 1024",
        "10M",
        "feature needs_recovery",
        None,
        Problem::JournalRecoverSet,
    ),
    (
        "quota file with a name",
        "-t ext4 -b 1024 -O quota",
        "10M",
        "copy_inode <3> journal\nclri <3>\nssv usr_quota_inum {journal}",
        None,
        Problem::HideQuota,
    ),
    (
        "inline lost+found",
        "-t ext4 -b 1024 -O inline_data,^has_journal",
        "10M",
        "rmdir lost+found\nmkdir lost+found\nunlink dir/second",
        None,
        Problem::LostFoundInline,
    ),
    (
        "encrypted lost+found",
        "-t ext4 -b 1024 -O encrypt,^has_journal,^metadata_csum",
        "10M",
        "ea_set -f {context} lost+found c\nsif lost+found flags 0x80800\nunlink dir/second",
        None,
        Problem::LostFoundEncrypted,
    ),
    (
        "lost+found is a file",
        "-t ext4 -b 1024",
        "10M",
        "rmdir lost+found\nln file lost+found\nunlink dir/second",
        None,
        Problem::LostFoundNotDir,
    ),
    (
        "name in an encrypted directory",
        "-t ext4 -b 1024 -O encrypt,^has_journal,^metadata_csum",
        "10M",
        "mkdir secret\nea_set -f {context} secret c\nsif secret flags 0x80800\nln file secret/short",
        None,
        Problem::BadEncryptedName,
    ),
    (
        "file in an encrypted directory",
        "-t ext4 -b 1024 -O encrypt,^has_journal,^metadata_csum",
        "10M",
        "mkdir secret\nea_set -f {context} secret c\nsif secret flags 0x80800\nln file secret/0123456789abcdef",
        None,
        Problem::UnencryptedFile,
    ),
    (
        "value without a mark",
        "-t ext4 -b 1024 -O ea_inode,^has_journal",
        "10M",
        "ea_set -f {long} file user.long\nsif {value} flags 0x80000",
        None,
        Problem::AttrSetEaInodeFlag,
    ),
    (
        "value without the feature",
        "-t ext4 -b 1024 -O ea_inode,^has_journal",
        "10M",
        "ea_set -f {long} file user.long\nfeature ^ea_inode",
        None,
        Problem::EaInodeFeature,
    ),
    ("size of descriptors", "-t ext2 -b 1024", "10M", "ssv desc_size 48", None, Problem::MiscCorruptSuper),
    ("size of flexible groups", "-t ext2 -b 1024", "10M", "ssv log_groups_per_flex 77", None, Problem::FlexGroupSize),
    (
        "orphan that names itself",
        "-t ext4 -b 1024",
        "10M",
        "ssv last_orphan {file}\nsif file links_count 9",
        None,
        Problem::BadRefCount,
    ),
];

fn open(bytes: &[u8]) -> Volume {
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes.to_vec()));
    let options = OpenOptions {
        verify_groups: false,
        dirty_journal: ext4kit::volume::DirtyJournal::Ignore,
        ..OpenOptions::default()
    };
    Volume::open(device, &options).unwrap()
}

fn debugfs(image: &Path, commands: &str) {
    let tool = common::tool("debugfs").unwrap();
    let mut child = Command::new(tool)
        .args(["-w", "-f", "-"])
        .arg(image)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    child.wait().unwrap();
}

/// debugfs has no name for the attribute of encryption: its index is put in by hand.
fn name_contexts(bytes: &mut [u8]) {
    let places: Vec<usize> = (0..bytes.len().saturating_sub(20))
        .filter(|at| bytes[*at..at + 2] == [1, 0] && bytes[at + 4..at + 12] == [0, 0, 0, 0, 28, 0, 0, 0])
        .filter(|at| bytes[at + 16] == b'c')
        .collect();
    for at in places {
        bytes[at + 1] = 9;
    }
}

/// The image of a case; `None` where the tools are missing.
fn damaged(dir: &Path, case: &Case) -> Option<Vec<u8>> {
    let (name, args, size, commands, zeros, _) = case;
    let mke2fs = common::tool("mke2fs")?;
    common::tool("debugfs")?;
    let tree = dir.join("tree");
    if !tree.exists() {
        std::fs::create_dir_all(tree.join("dir")).unwrap();
        std::fs::write(tree.join("file"), [7; 5000]).unwrap();
        std::fs::write(tree.join("journal"), "").unwrap();
        std::fs::write(tree.join("dir/second"), [8; 3000]).unwrap();
        std::fs::write(dir.join("long"), [9; 3000]).unwrap();
        std::fs::write(dir.join("context"), [&[1, 1, 4, 0][..], &[5; 24]].concat()).unwrap();
    }
    let image = dir.join("image");
    let _ = std::fs::remove_file(&image);
    let made = Command::new(mke2fs)
        .args(["-q", "-F", "-N", "1024", "-d"])
        .arg(&tree)
        .args(args.split(' '))
        .arg(&image)
        .arg(size)
        .output()
        .unwrap();
    assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
    for line in commands.lines() {
        let bytes = std::fs::read(&image).unwrap();
        let vol = open(&bytes);
        let number = |path: &str| vol.resolve(path.as_bytes(), LastLink::Keep).map_or(0, |i| i.0).to_string();
        let value = (11..200).find(|n| vol.raw_inode(Ino(*n)).is_ok_and(|i| i.flags().contains(InodeFlags::EA_INODE)));
        let line = line
            .replace("{file}", &number("/file"))
            .replace("{journal}", &number("/journal"))
            .replace("{value}", &format!("<{}>", value.unwrap_or(0)))
            .replace("{long}", dir.join("long").to_str().unwrap())
            .replace("{context}", dir.join("context").to_str().unwrap());
        debugfs(&image, &line);
    }
    let mut bytes = std::fs::read(&image).unwrap();
    if commands.contains("{context}") {
        name_contexts(&mut bytes);
    }
    if let Some((at, len)) = zeros {
        bytes[*at..at + len].fill(0);
    }
    Some(bytes)
}

fn options() -> CheckOptions {
    CheckOptions::everything(Timestamp::from_secs(1_800_000_000))
}

/// What is not as it should be after a repair.
fn judge(dir: &Path, bytes: Vec<u8>, want: Problem) -> Result<(), String> {
    let device = Arc::new(MemoryDevice::from_bytes(bytes));
    let mut sink = Collect::default();
    let as_device: Arc<dyn BlockDevice> = Arc::clone(&device) as _;
    let done = repair(&as_device, &RepairOptions::new(options()), Answers::Yes, &mut sink, &Silent);
    let done = done.map_err(|e| e.to_string())?;
    if !sink.0.iter().any(|f| f.problem == want) {
        return Err(format!("not found: {:?}", sink.0.iter().map(Finding::message).collect::<Vec<_>>()));
    }
    if done.left.errors > 0 || done.left.aborted {
        return Err(format!("left: {:?}", done.left));
    }
    let mut again = Collect::default();
    check(&as_device, &options(), &mut again, &Silent).map_err(|e| e.to_string())?;
    if let Some(f) = again.0.first() {
        return Err(format!("found again: {}", f.message()));
    }
    let after = device.to_bytes();
    let image = dir.join("repaired");
    std::fs::write(&image, &after).unwrap();
    if let Some(e2fsck) = common::tool("e2fsck") {
        let out = Command::new(e2fsck).arg("-fn").arg(&image).output().unwrap();
        if out.status.code() != Some(0) {
            return Err(format!("the reference: {}", String::from_utf8_lossy(&out.stdout)));
        }
    }
    let vol = open(&after);
    let (ino, inode) = vol.resolve_inode(b"/file", LastLink::Keep).map_err(|e| e.to_string())?;
    let content = vol.reader(Owner { ino, inode: &inode }).unwrap().read_all(1 << 20).unwrap();
    if content.as_deref() == Some(&[7; 5000][..]) { Ok(()) } else { Err("the file's content".into()) }
}

#[test]
fn what_debugfs_breaks_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for case in CASES {
        let Some(bytes) = damaged(dir.path(), case) else { return };
        if let Err(e) = judge(dir.path(), bytes, case.5) {
            wrong.push(format!("{}: {e}", case.0));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
