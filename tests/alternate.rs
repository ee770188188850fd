//! Images edited by the kernel and by the library in turn: after each turn the reference checker has nothing to say, and both
//! see the same tree. `EXT4KIT_ALTERNATE` sets how many turns each image gets, `EXT4KIT_ALTERNATE_SEED` what happens in them,
//! `EXT4KIT_ALTERNATE_ONLY` which image it is; with `EXT4KIT_ALTERNATE_KEEP` it stays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Mount, Tree, assert_same_tree, host_tree, image_tree, is_root, open, reference_fsck, run, tool};
use ext4kit::Error;
use ext4kit::alloc::Filesystem;
use ext4kit::device::{Access, FileDevice};
use ext4kit::env::{Entropy, FixedClock, SeededEntropy, Timestamp};
use ext4kit::format::inode::FileType;
use ext4kit::journal::{Journal, JournalOptions, direct};
use ext4kit::namei::{Attributes, Bytes, Change, Context, Namei, What};
use ext4kit::volume::{LastLink, OpenOptions, Volume};

const MKE2FS: [&str; 12] = [
    "-t ext4",
    "-t ext4 -b 1024 -O fast_commit",
    "-t ext4 -O bigalloc -C 16384",
    "-t ext4 -b 1024 -O inline_data",
    "-t ext4 -b 2048 -O inline_data,metadata_csum_seed -g 2048",
    "-t ext3 -b 1024",
    "-t ext4 -b 1024 -O ea_inode,orphan_file",
    "-t ext4 -b 1024 -I 128 -O ^dir_index,^metadata_csum,uninit_bg",
    "-t ext2 -b 1024",
    // Where the kernel has quotas.
    "-t ext4 -b 1024 -O quota",
    "-t ext4 -O bigalloc,quota -C 16384",
    "-t ext4 -b 1024 -O ea_inode,quota,project,inline_data",
];

/// A change by name.
#[derive(Clone, Debug)]
enum Op {
    Make(FileType, Vec<u8>),
    /// Byte ranges of a new content, and its size.
    Write(Vec<u8>, Vec<(u64, u64, u8)>, u64),
    Truncate(Vec<u8>, u64),
    /// Unwritten blocks, or a hole: the kernel only.
    Allocate(Vec<u8>, bool, u64, u64),
    Rename(Vec<u8>, Vec<u8>),
    Link(Vec<u8>, Vec<u8>),
    Unlink(Vec<u8>),
    RemoveTree(Vec<u8>),
    Chmod(Vec<u8>, u16),
    Chown(Vec<u8>, u32, u32),
    SetXattr(Vec<u8>, String, Option<Vec<u8>>),
}

/// Somebody who can carry out changes. `Ok(false)`: refused, as it should be.
trait Editor {
    fn edit(&mut self, op: &Op) -> bool;
}

fn bytes_of(pieces: &[(u64, u64, u8)], size: u64) -> Vec<u8> {
    let mut all = vec![0; size as usize];
    for &(start, end, salt) in pieces {
        for (i, b) in (start..).zip(&mut all[start as usize..end as usize]) {
            *b = (i as u8).wrapping_mul(29) ^ (i >> 9) as u8 ^ salt;
        }
    }
    all
}

struct Kernel<'m>(&'m Path);

impl Kernel<'_> {
    fn at(&self, path: &[u8]) -> PathBuf {
        self.0.join(OsStr::from_bytes(path))
    }

    fn try_edit(&self, op: &Op) -> io::Result<()> {
        match op {
            Op::Make(FileType::Directory, p) => fs::create_dir(self.at(p)),
            Op::Make(FileType::Symlink, p) => {
                let target = "t".repeat(1 + p.len() * 7 % 90);
                std::os::unix::fs::symlink(target, self.at(p))
            }
            Op::Make(FileType::Fifo, p) => Ok(rustix::fs::mknodat(
                rustix::fs::CWD,
                self.at(p),
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o640),
                0,
            )?),
            Op::Make(_, p) => fs::File::create_new(self.at(p)).map(|_| ()),
            Op::Write(p, pieces, size) => {
                let file = fs::OpenOptions::new().write(true).truncate(true).open(self.at(p))?;
                let all = bytes_of(pieces, *size);
                for &(start, end, _) in pieces {
                    file.write_all_at(&all[start as usize..end as usize], start)?;
                }
                file.set_len(*size)
            }
            Op::Truncate(p, size) => fs::OpenOptions::new().write(true).open(self.at(p))?.set_len(*size),
            Op::Allocate(p, hole, start, len) => {
                use rustix::fs::FallocateFlags as F;
                let mode = if *hole { F::PUNCH_HOLE | F::KEEP_SIZE } else { F::empty() };
                let file = fs::OpenOptions::new().write(true).open(self.at(p))?;
                Ok(rustix::fs::fallocate(&file, mode, *start, *len)?)
            }
            Op::Rename(a, b) => fs::rename(self.at(a), self.at(b)),
            Op::Link(a, b) => fs::hard_link(self.at(a), self.at(b)),
            Op::Unlink(p) => fs::remove_file(self.at(p)),
            Op::RemoveTree(p) => fs::remove_dir_all(self.at(p)),
            Op::Chmod(p, mode) => {
                fs::symlink_metadata(self.at(p))?;
                fs::set_permissions(self.at(p), fs::Permissions::from_mode((*mode).into()))
            }
            Op::Chown(p, u, g) => std::os::unix::fs::lchown(self.at(p), Some(*u), Some(*g)),
            Op::SetXattr(p, name, Some(v)) => {
                Ok(rustix::fs::lsetxattr(self.at(p), name.as_str(), v, rustix::fs::XattrFlags::empty())?)
            }
            Op::SetXattr(p, name, None) => Ok(rustix::fs::lremovexattr(self.at(p), name.as_str())?),
        }
    }
}

impl Editor for Kernel<'_> {
    fn edit(&mut self, op: &Op) -> bool {
        match self.try_edit(op) {
            Ok(()) => true,
            Err(e) => {
                // Input/output errors and damage.
                assert!(!matches!(e.raw_os_error(), Some(5 | 117 | 30)), "the kernel: {op:?}: {e}");
                false
            }
        }
    }
}

/// The library, through a journal.
struct Ours {
    journal: Journal,
    fs: Filesystem,
    ctx: Context,
    full: bool,
}

impl Ours {
    fn new(image: &Path, now: Timestamp) -> Self {
        let device = Arc::new(FileDevice::open(image, Access::ReadWrite).unwrap());
        let volume = Volume::open(device, &OpenOptions::default()).unwrap();
        let options = JournalOptions::new(Arc::new(FixedClock(now)));
        let journal = if volume.superblock().journal_inum.get() == 0 {
            direct::open(&volume, options).unwrap()
        } else {
            Journal::open(&volume, None, options).unwrap()
        };
        let fs = Filesystem::open(journal.view(), &OpenOptions::default()).unwrap();
        let ctx = Context::new(&fs.volume, now);
        Self { journal, fs, ctx, full: false }
    }

    fn commit(&mut self) {
        let mut handle = self.journal.start(0).unwrap();
        Namei::new(self.fs.edit(&mut handle), &mut self.ctx).sync_quota().unwrap();
        {
            use ext4kit::volume::store::MetaStore;
            assert!(handle.extend(2).unwrap());
        }
        self.fs.sync_counts(&mut handle).unwrap();
        self.journal.commit().unwrap();
        self.fs.committed();
        self.ctx.committed();
    }

    fn close(mut self) {
        if self.full {
            self.journal.discard();
        } else {
            self.commit();
        }
        self.journal.close().unwrap();
    }

    fn try_edit(namei: &mut Namei<'_>, op: &Op) -> ext4kit::Result<()> {
        let find = |namei: &Namei<'_>, p: &[u8]| namei.resolve(p, LastLink::Keep);
        let plain = Attributes::root(0o644);
        match op {
            Op::Make(kind, p) => {
                let (dir, name) = namei.parent_of(p)?;
                let target = vec![b't'; 1 + p.len() * 7 % 90];
                let what = match kind {
                    FileType::Directory => What::Directory,
                    FileType::Symlink => What::Symlink(&target),
                    FileType::Fifo => What::Fifo,
                    _ => What::File,
                };
                namei.make(dir, &name, what, &plain).map(|_| ())
            }
            Op::Write(p, pieces, size) => namei.write_file(find(namei, p)?, &mut Bytes(&bytes_of(pieces, *size))),
            Op::Truncate(p, size) => namei.truncate(find(namei, p)?, *size),
            Op::Allocate(..) => Ok(()),
            Op::Rename(old, new) => {
                let ((from, name), (to, to_name)) = (namei.parent_of(old)?, namei.parent_of(new)?);
                namei.rename(from, &name, to, &to_name, false)
            }
            Op::Link(old, new) => {
                let (ino, (dir, name)) = (find(namei, old)?, namei.parent_of(new)?);
                namei.link(ino, dir, &name)
            }
            Op::Unlink(p) => {
                let (dir, name) = namei.parent_of(p)?;
                namei.unlink(dir, &name)
            }
            Op::RemoveTree(p) => {
                let (dir, name) = namei.parent_of(p)?;
                namei.remove_tree(dir, &name)
            }
            Op::Chmod(p, mode) => {
                namei.change(find(namei, p)?, &Change { permissions: Some(*mode), ..Change::default() })
            }
            Op::Chown(p, uid, gid) => {
                namei.change(find(namei, p)?, &Change { uid: Some(*uid), gid: Some(*gid), ..Change::default() })
            }
            Op::SetXattr(p, name, v) => {
                let ino = find(namei, p)?;
                // The kernel has them on files and directories only.
                let kind = namei.open(ino)?.inode.file_type();
                if name.starts_with("user.") && !matches!(kind, Some(FileType::Regular | FileType::Directory)) {
                    return Err(Error::NotDirectory { path: p.clone() });
                }
                namei.set_xattr(ino, name.as_bytes(), v.as_deref()).map(|_| ())
            }
        }
    }
}

impl Editor for Ours {
    fn edit(&mut self, op: &Op) -> bool {
        if self.full {
            return false;
        }
        if self.journal.room() < 600 {
            self.commit();
        }
        let mut handle = self.journal.start(0).unwrap();
        match Self::try_edit(&mut Namei::new(self.fs.edit(&mut handle), &mut self.ctx), op) {
            Ok(()) => true,
            Err(Error::NoSpace { what: "bytes for extended attributes", .. }) => false,
            // Given up, as a batch would be.
            Err(Error::NoSpace { what: "blocks" | "inodes", .. }) => {
                self.full = true;
                false
            }
            Err(e) => {
                let kinds = ["not_found", "exists", "not_directory", "is_directory", "not_empty", "into_itself"];
                let refused = kinds.contains(&e.kind()) || matches!(op, Op::Truncate(..) | Op::Write(..));
                assert!(refused && !e.is_corruption(), "{op:?}: {e}");
                false
            }
        }
    }
}

/// Draws changes for a tree.
struct Dice {
    entropy: SeededEntropy,
    /// Roughly what is there.
    paths: BTreeMap<Vec<u8>, FileType>,
}

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.entropy.next_u32() as usize % n.max(1)
    }

    fn any(&mut self, kind: Option<FileType>) -> Option<Vec<u8>> {
        let fits = |k: &FileType| kind.is_none_or(|w| w == *k);
        let n = self.paths.values().filter(|k| fits(k)).count();
        let at = self.below(n);
        self.paths.iter().filter(|(_, k)| fits(k)).nth(at).map(|(p, _)| p.clone())
    }

    fn new_path(&mut self) -> Vec<u8> {
        let mut path = match self.below(4) {
            0 => Vec::new(),
            _ => self.any(Some(FileType::Directory)).unwrap_or_default(),
        };
        if path.len() > 600 {
            path.clear();
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        let len = [3, 3, 3, 20, 150, 250][self.below(6)];
        let name = format!("{:0len$}", self.below(60));
        path.extend(name.bytes());
        path
    }

    fn content(&mut self, path: Vec<u8>) -> Op {
        let size = [0, 10, 59, 61, 150, 1000, 5000, 30_000, 200_000][self.below(9)] as u64;
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < size {
            let start = if self.below(2) == 0 { at } else { at + self.below(20_000) as u64 };
            let end = (start + 1 + self.below(50_000) as u64).min(size);
            if start >= end {
                break;
            }
            pieces.push((start, end, self.below(255) as u8));
            at = end;
        }
        Op::Write(path, pieces, size)
    }

    fn xattr(&mut self, path: Vec<u8>) -> Op {
        let name = ["user.a", "user.b", "trusted.c", "security.d"][self.below(4)].to_owned();
        let len = [0, 5, 40, 200, 800, 800, 3000, 20_000][self.below(8)];
        // Few different values, so that the kernel shares blocks and inodes of them.
        let value = vec![b'a' + self.below(3) as u8; len];
        Op::SetXattr(path, name, (self.below(4) > 0).then_some(value))
    }

    fn draw(&mut self) -> Option<Op> {
        let file = FileType::Regular;
        Some(match self.below(30) {
            0..4 => Op::Make(file, self.new_path()),
            4..7 => Op::Make(FileType::Directory, self.new_path()),
            7 => Op::Make([FileType::Symlink, FileType::Fifo][self.below(2)], self.new_path()),
            8..13 => {
                let path = self.any(Some(file))?;
                self.content(path)
            }
            13..15 => Op::Truncate(self.any(Some(file))?, self.below(300_000) as u64),
            15..17 => {
                let (start, len) = (self.below(200_000) as u64, 1 + self.below(100_000) as u64);
                Op::Allocate(self.any(Some(file))?, self.below(2) == 0, start, len)
            }
            17..20 => {
                let old = self.below(2) == 0;
                Op::Rename(self.any(None)?, if old { self.any(None)? } else { self.new_path() })
            }
            20 => Op::Link(self.any(Some(file))?, self.new_path()),
            21..23 => Op::Unlink(self.any(Some(file))?),
            23 if self.below(4) == 0 => Op::RemoveTree(self.any(Some(FileType::Directory))?),
            24 => {
                let path = self.any(None).filter(|p| self.paths[p] != FileType::Symlink)?;
                Op::Chmod(path, self.below(0o2000) as u16)
            }
            25 => Op::Chown(self.any(None)?, self.below(3) as u32 * 1000, self.below(3) as u32),
            26..30 => {
                let path =
                    self.any(None).filter(|p| matches!(self.paths[p], FileType::Regular | FileType::Directory))?;
                self.xattr(path)
            }
            _ => return None,
        })
    }

    /// Note what a change did to the names.
    fn note(&mut self, op: &Op) {
        let below = |p: &[u8]| [p, b"/"].concat();
        match op {
            Op::Make(kind, p) => {
                self.paths.insert(p.clone(), *kind);
            }
            Op::Link(_, p) => {
                self.paths.insert(p.clone(), FileType::Regular);
            }
            Op::Unlink(p) => {
                self.paths.remove(p);
            }
            Op::RemoveTree(p) => {
                let gone = below(p);
                self.paths.retain(|q, _| q != p && !q.starts_with(&gone));
            }
            Op::Rename(a, b) if a != b => {
                let prefix = below(a);
                let moved: Vec<_> = self.paths.keys().filter(|q| *q == a || q.starts_with(&prefix)).cloned().collect();
                for q in moved {
                    let kind = self.paths.remove(&q).unwrap();
                    self.paths.insert([b, &q[a.len()..]].concat(), kind);
                }
            }
            _ => {}
        }
    }

    /// One turn; how many changes were made.
    fn turn(&mut self, tree: &Tree, editor: &mut dyn Editor) -> u32 {
        self.paths = tree.iter().filter(|(p, _)| !p.is_empty()).map(|(p, e)| (p.clone(), e.kind)).collect();
        let mut done = 0;
        for _ in 0..60 + self.below(60) {
            let op = if self.paths.len() > 700 { self.any(None).map(Op::RemoveTree) } else { self.draw() };
            let Some(op) = op else { continue };
            if editor.edit(&op) {
                self.note(&op);
                done += 1;
            }
        }
        // Many names now and then.
        if self.below(4) == 0 {
            let dir = self.any(Some(FileType::Directory)).unwrap_or_default();
            let pad = [8, 60, 200][self.below(3)];
            for n in 0..self.below(300) {
                let mut path = dir.clone();
                path.extend(format!("/{n:0pad$}").bytes());
                let op = Op::Make(FileType::Fifo, path.strip_prefix(b"/").unwrap_or(&path).to_vec());
                if editor.edit(&op) {
                    self.note(&op);
                    done += 1;
                }
            }
        }
        done
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|v| v.parse().ok())
}

fn alternate(options: &str, turns: u64, seed: u64) -> Option<u32> {
    let mke2fs = tool("mke2fs")?;
    let mut dir = tempfile::tempdir().unwrap();
    dir.disable_cleanup(std::env::var_os("EXT4KIT_ALTERNATE_KEEP").is_some());
    let image = dir.path().join("image");
    let args = ["-q", "-F"].into_iter().chain(options.split_whitespace());
    run(&mke2fs, &args.chain([image.to_str().unwrap(), "48M"]).collect::<Vec<_>>());
    let mut dice = Dice { entropy: SeededEntropy::new(seed), paths: BTreeMap::new() };
    let mut ours = Tree::new();
    let mut done = 0;
    for turn in 0..turns {
        {
            let mount = Mount::new(&image, "")?;
            if turn > 0 {
                assert_same_tree(&format!("{options}, turn {turn}, the kernel reads"), &ours, &host_tree(mount.path()));
            }
            done += dice.turn(&ours, &mut Kernel(mount.path()));
        }
        // What is on the disk: while it works, the kernel's cache may show other bytes behind a file's former end.
        let theirs = host_tree(Mount::new(&image, "ro")?.path());
        reference_fsck(&image);
        let seen = image_tree(&open(&image));
        assert_same_tree(&format!("{options}, turn {turn}, the library reads"), &theirs, &seen);
        let now = Timestamp { sec: 1_750_000_000 + turn as i64, nsec: 5 };
        let mut editor = Ours::new(&image, now);
        for _ in 0..=dice.below(3) {
            done += dice.turn(&seen, &mut editor);
            if !editor.full {
                editor.commit();
            }
        }
        editor.close();
        reference_fsck(&image);
        ours = image_tree(&open(&image));
    }
    Some(done)
}

#[test]
fn the_kernel_and_the_library_take_turns() {
    if !is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let turns = number("EXT4KIT_ALTERNATE").unwrap_or(2);
    let seed = number("EXT4KIT_ALTERNATE_SEED").unwrap_or(1);
    let only = number("EXT4KIT_ALTERNATE_ONLY");
    for (n, options) in (0u64..).zip(MKE2FS).filter(|(n, _)| only.is_none_or(|o| o == *n)) {
        let start = std::time::Instant::now();
        if let Some(done) = alternate(options, turns, seed * 100 + n) {
            println!("{options}: {turns} turns each, {done} changes, {:.1?}", start.elapsed());
        }
    }
}
