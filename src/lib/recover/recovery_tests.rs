//! Fast commits and orphans made by hand, carried out and judged by our checker; and recovery that is itself interrupted.

use std::sync::Arc;

use super::{Report, open_recovered, recover};
use crate::alloc::Filesystem;
use crate::check::{self, CheckOptions};
use crate::device::crash::{self, Plan};
use crate::device::{BlockDevice, MemoryDevice, OverlayDevice, RecordDevice};
use crate::env::{FixedClock, Timestamp};
use crate::error::Error;
use crate::format::extent::Extent;
use crate::format::fast_commit::{Dentry, Record, Writer};
use crate::format::features::RoCompat;
use crate::format::inode::{FileType, InodeFlags};
use crate::format::jbd2::JournalIncompat;
use crate::format::orphan_file;
use crate::journal::{Handle, Journal, JournalOptions, Log, OnDamage, RecoverOptions};
use crate::mkfs::{Draft, FeatureEdit, Layout, Options, Size, parse};
use crate::progress::Silent;
use crate::units::{Fsblk, Ino, Lblk, Tid};
use crate::volume::edit::modify_block;
use crate::volume::{DirtyJournal, NewInode, OpenInode, OpenOptions, Volume, Wanted};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_500);
/// Free blocks of the test image.
const FREE: u64 = 14_000;

fn image(features: &str) -> Arc<MemoryDevice> {
    let mut o = Options::new(Size::Device(16 << 20), [0x5a; 16], [0x33; 16], Timestamp::from_secs(1_700_000_000));
    o.block_size = Some(1024);
    o.features.extend(FeatureEdit::parse_list(features).unwrap());
    parse::journal(&mut o, &mut parse::Extra::default(), "size=2").unwrap();
    let device = Arc::new(MemoryDevice::new(16 << 20));
    Draft::new(Layout::new(&o).unwrap()).unwrap().write(&*device, true).unwrap();
    device
}

const fn options() -> RecoverOptions {
    RecoverOptions { now: Some(NOW), on_damage: OnDamage::Refuse, keep_counts: false }
}

fn as_is(device: &Arc<MemoryDevice>) -> Volume {
    let options = OpenOptions { dirty_journal: DirtyJournal::Ignore, ..OpenOptions::default() };
    Volume::open(Arc::clone(device) as Arc<dyn BlockDevice>, &options).unwrap()
}

/// Change the filesystem on `device` in one transaction, which stays in the log as after a crash.
fn change(device: &Arc<MemoryDevice>, work: impl FnOnce(&mut Filesystem, &mut Handle<'_>)) -> Tid {
    let write = JournalOptions::new(Arc::new(FixedClock(NOW)));
    let mut journal = Journal::open(&as_is(device), None, write).unwrap();
    let mut fs = Filesystem::open(journal.view(), &OpenOptions::default()).unwrap();
    let mut handle = journal.start(500).unwrap();
    work(&mut fs, &mut handle);
    fs.sync_counts(&mut handle).unwrap();
    journal.commit().unwrap().unwrap()
}

/// A regular file in the root with every other block mapped, each full of its number.
fn file(fs: &mut Filesystem, handle: &mut Handle<'_>, name: &[u8], blocks: u32) -> OpenInode {
    let mut edit = fs.edit(handle);
    let mut root = edit.open(Ino::ROOT).unwrap();
    let kind = FileType::Regular;
    let new = NewInode { kind, permissions: 0o644, uid: 0, gid: 0, when: NOW, generation: 7, name };
    let mut o = edit.new_inode(&root, &new).unwrap();
    for n in 0..blocks {
        let wanted = Wanted { lblk: Lblk(n * 2), len: 1, unwritten: false, ahead: 0 };
        let got = edit.allocate_range(&mut o, wanted).unwrap();
        edit.store.write_data(got.pblk, &[n as u8 + 1; 1024]).unwrap();
    }
    o.inode.set_size(u64::from(blocks) * 2048);
    edit.put(&mut o).unwrap();
    edit.add_entry(&mut root, name, o.ino, kind).unwrap();
    edit.put(&mut root).unwrap();
    o
}

fn problems(device: &Arc<dyn BlockDevice>) -> Vec<String> {
    let options = CheckOptions::everything(NOW);
    let mut found = check::Collect::default();
    let outcome = check::check(device, &options, &mut found, &Silent).unwrap();
    let text: Vec<String> = found.0.iter().map(|f| format!("{f:?}")).collect();
    assert_eq!(outcome.findings, text.len() as u64);
    text
}

fn read_file(volume: &Volume, path: &[u8]) -> Option<Vec<u8>> {
    let ino = volume.resolve(path, crate::volume::LastLink::Keep).ok()?;
    let inode = volume.inode(ino).unwrap();
    let owner = crate::volume::Owner { ino, inode: &inode };
    match inode.file_type() {
        Some(FileType::Regular) => volume.reader(owner).unwrap().read_all(1 << 20).unwrap(),
        Some(FileType::Symlink) => Some(volume.symlink_target(owner).unwrap()),
        _ => Some(Vec::new()),
    }
}

/// `base`'s bytes with another mode, size, links and flags, as a record has them.
fn raw(base: &OpenInode, mode: u16, size: u64, links: u16, flags: InodeFlags, block: &[u8]) -> Vec<u8> {
    let mut inode = base.inode.clone();
    inode.set_size(size);
    inode.set_flags(flags);
    inode.update(|c| {
        c.mode.set(mode);
        c.links_count.set(links);
        c.block = [0; 60];
        c.block[..block.len()].copy_from_slice(block);
    });
    inode.as_bytes()[..160].to_vec()
}

/// An image with two files in its log, and a fast-commit area on top with one of every record.
fn fast_committed() -> Arc<MemoryDevice> {
    let device = image("fast_commit,^orphan_file");
    let mut log = Log::open(&as_is(&device), None).unwrap();
    log.update(|sb| {
        sb.set_features(sb.compat(), sb.incompat() | JournalIncompat::FAST_COMMIT);
        sb.num_fc_blks.set(64);
    })
    .unwrap();
    let mut kept = None;
    let tid = change(&device, |fs, h| {
        kept = Some(file(fs, h, b"kept", 3));
        file(fs, h, b"gone", 9);
    });
    let kept = kept.unwrap();
    let (extents, regular) = (InodeFlags::EXTENTS, 0o100_644);
    let [dir, link, new, brief] = [40, 41, 42, 43].map(Ino);
    let name = |parent, ino, name: &'static [u8]| Dentry { parent, ino, name };
    let map = |lblk, len, at, unwritten| Extent { lblk: Lblk(lblk), len, pblk: Fsblk(FREE + at), unwritten };
    for n in 0..40u64 {
        device.write_at((FREE + n) * 1024, &[100 + n as u8; 1024]).unwrap();
    }
    let inode_new = raw(&kept, regular, 3000, 1, extents, b"");
    let inode_dir = raw(&kept, 0o040_755, 4096, 2, extents | InodeFlags::INDEX, b"");
    let inode_link = raw(&kept, 0o120_777, 6, 1, InodeFlags::empty(), b"target");
    let inode_kept = raw(&kept, 0o100_600, 7 * 1024, 1, extents, b"");
    let mut w = Writer::new(1024, tid.next());
    let mut push = |r: Record<'_>| assert!(w.push(&r));
    push(Record::Inode { ino: dir, raw: &inode_dir });
    push(Record::Create(name(Ino::ROOT, dir, b"dir")));
    push(Record::Inode { ino: link, raw: &inode_link });
    push(Record::Create(name(dir, link, b"link")));
    push(Record::Inode { ino: new, raw: &inode_new });
    push(Record::AddRange { ino: new, extent: map(0, 3, 0, false) });
    push(Record::Create(name(dir, new, b"new")));
    push(Record::AddRange { ino: kept.ino, extent: map(4, 2, 10, false) });
    push(Record::AddRange { ino: kept.ino, extent: map(6, 1, 20, true) });
    push(Record::DelRange { ino: kept.ino, lblk: Lblk(0), len: 2 });
    push(Record::Link(name(dir, kept.ino, b"moved")));
    push(Record::Unlink(name(Ino::ROOT, kept.ino, b"kept")));
    push(Record::Unlink(name(Ino::ROOT, Ino(kept.ino.0 + 1), b"gone")));
    push(Record::Inode { ino: kept.ino, raw: &inode_kept });
    w.commit();
    let mut push = |r: Record<'_>| assert!(w.push(&r));
    push(Record::Inode { ino: brief, raw: &inode_new });
    push(Record::AddRange { ino: brief, extent: map(0, 3, 30, false) });
    push(Record::Create(name(Ino::ROOT, brief, b"brief")));
    push(Record::Unlink(name(Ino::ROOT, brief, b"brief")));
    w.commit();
    // A third commit that was torn: it never happened.
    let mut push = |r: Record<'_>| assert!(w.push(&r));
    push(Record::Unlink(name(Ino::ROOT, dir, b"dir")));
    for (n, block) in w.into_blocks().iter().enumerate() {
        log.area().write(log.fc_first() + n as u32, block).unwrap();
    }
    device
}

fn check_fast_committed(device: &Arc<dyn BlockDevice>) -> Result<(), String> {
    let volume = Volume::open(Arc::clone(device), &OpenOptions::default()).map_err(|e| e.to_string())?;
    let blocks = |parts: &[(u8, usize)]| -> Vec<u8> { parts.iter().flat_map(|(b, n)| vec![*b; *n]).collect() };
    let want = [
        (&b"dir/new"[..], Some(blocks(&[(100, 1024), (101, 1024), (102, 952)]))),
        (b"dir/link", Some(b"target".to_vec())),
        (b"dir/moved", Some(blocks(&[(0, 2048), (2, 1024), (0, 1024), (110, 1024), (111, 1024), (0, 1024)]))),
        (b"dir", Some(Vec::new())),
        (b"kept", None),
        (b"gone", None),
        (b"brief", None),
    ];
    for (path, content) in want {
        if read_file(&volume, path) != content {
            return Err(format!("{}: other content", String::from_utf8_lossy(path)));
        }
    }
    let found = problems(device);
    if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
}

#[test]
fn fast_commits_are_carried_out() {
    let device = fast_committed();
    let before = device.to_bytes();
    let as_device = Arc::clone(&device) as Arc<dyn BlockDevice>;
    let (volume, _) = open_recovered(Arc::clone(&as_device), None, options(), &OpenOptions::default()).unwrap();
    check_fast_committed(volume.device()).unwrap();
    assert_eq!(device.to_bytes(), before);
    let report = recover(&as_device, None, options()).unwrap();
    let a = report.fast_commits;
    assert_eq!((a.added, a.removed, a.created, a.linked, a.unlinked, a.inodes), (4, 1, 4, 1, 3, 5));
    check_fast_committed(&as_device).unwrap();
    let moved = as_is(&device);
    let ino = moved.resolve(b"dir/moved", crate::volume::LastLink::Keep).unwrap();
    assert_eq!(moved.inode(ino).unwrap().core().mode.get(), 0o100_600);
    assert_eq!(recover(&as_device, None, options()).unwrap(), Report::default());
}

#[test]
fn recovery_may_be_interrupted_anywhere() {
    let base = fast_committed().to_bytes();
    let recorded = Arc::new(RecordDevice::new(MemoryDevice::from_bytes(base.clone())));
    let as_device = Arc::clone(&recorded) as Arc<dyn BlockDevice>;
    recover(&as_device, None, options()).unwrap();
    let plan = Plan { samples: 30, ..Plan::default() };
    let out = crash::enumerate(&base, &recorded.log(), plan, |device, _, _| {
        recover(device, None, options()).map_err(|e| e.to_string())?;
        check_fast_committed(device)
    })
    .unwrap();
    assert_eq!(out.failed, 0, "{}", out.first_failure.unwrap());
    assert!(out.counts.total() > 200, "{:?}", out.counts);
}

#[test]
fn fast_commits_that_lie_are_refused() {
    let device = fast_committed();
    let log = Log::open(&as_is(&device), None).unwrap();
    let mut w = Writer::new(1024, log.superblock().sequence().next());
    // Onto the superblock.
    let extent = Extent { lblk: Lblk(0), len: 1, pblk: Fsblk(1), unwritten: false };
    assert!(w.push(&Record::AddRange { ino: Ino(12), extent }));
    w.commit();
    for (n, block) in w.into_blocks().iter().enumerate() {
        log.area().write(log.fc_first() + n as u32, block).unwrap();
    }
    let over: Arc<dyn BlockDevice> = Arc::new(OverlayDevice::new(Arc::clone(&device)));
    assert!(matches!(recover(&over, None, options()), Err(Error::Corrupt { .. })));
    let report = recover(&over, None, RecoverOptions { on_damage: OnDamage::Salvage, ..options() }).unwrap();
    assert!(report.journal.damage.is_some());
    let volume = Volume::open(over, &OpenOptions::default()).unwrap();
    assert!(read_file(&volume, b"kept").is_some());
}

/// An image with one orphan to delete and one to cut, on the list or in the orphan file.
fn orphaned(features: &str) -> Arc<MemoryDevice> {
    let device = image(features);
    let in_file = features.is_empty();
    change(&device, |fs, h| {
        let mut gone = file(fs, h, b"gone", 60);
        let mut cut = file(fs, h, b"cut", 60);
        let mut edit = fs.edit(h);
        let mut root = edit.open(Ino::ROOT).unwrap();
        edit.remove_entry(&mut root, b"gone").unwrap();
        edit.put(&mut root).unwrap();
        gone.set_links(0);
        cut.inode.set_size(4 * 1024 + 100);
        if !in_file {
            gone.inode.update(|c| c.dtime.set(cut.ino.0));
        }
        edit.put(&mut gone).unwrap();
        edit.put(&mut cut).unwrap();
        if !in_file {
            fs.volume.store_superblock(h, |sb| sb.last_orphan.set(gone.ino.0)).unwrap();
            return;
        }
        let ino = Ino(fs.volume.superblock().orphan_file_inum.get());
        let list = fs.edit(h).open(ino).unwrap();
        let seed = fs.volume.inode_seed(ino, &list.inode).unwrap();
        let block = fs.volume.extents(list.owner()).unwrap()[0].pblk;
        modify_block(h, block, |bytes| {
            orphan_file::set_slot(bytes, 3, gone.ino).unwrap();
            orphan_file::set_slot(bytes, 5, cut.ino).unwrap();
            orphan_file::stamp(bytes, seed, block);
        })
        .unwrap();
        fs.volume
            .store_superblock(h, |sb| {
                let mut f = sb.features();
                f.ro_compat |= RoCompat::ORPHAN_PRESENT;
                sb.set_features(f);
            })
            .unwrap();
    });
    device
}

fn check_cleaned(device: &Arc<dyn BlockDevice>) -> Result<(), String> {
    let volume = Volume::open(Arc::clone(device), &OpenOptions::default()).map_err(|e| e.to_string())?;
    let mut want = vec![0; 4 * 1024 + 100];
    want[..1024].fill(1);
    want[2048..3072].fill(2);
    want[4096..].fill(3);
    if read_file(&volume, b"cut") != Some(want) || read_file(&volume, b"gone").is_some() {
        return Err("other content".into());
    }
    if volume.superblock().last_orphan.get() != 0 {
        return Err("orphans left".into());
    }
    let found = problems(device);
    if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
}

#[test]
fn orphans_are_deleted_or_cut() {
    for features in ["", "^orphan_file", "^orphan_file,^extent,^64bit,^flex_bg,^metadata_csum,^metadata_csum_seed"] {
        let device = orphaned(features);
        let base = device.to_bytes();
        let recorded = Arc::new(RecordDevice::new(MemoryDevice::from_bytes(base.clone())));
        let as_device = Arc::clone(&recorded) as Arc<dyn BlockDevice>;
        let report = recover(&as_device, None, options()).unwrap();
        assert_eq!((report.orphans.deleted, report.orphans.truncated), (1, 1), "{features}");
        check_cleaned(&as_device).unwrap_or_else(|e| panic!("{features}: {e}"));
        // Behind the end nothing is left that a longer file would show.
        let volume = Volume::open(Arc::clone(&as_device), &OpenOptions::default()).unwrap();
        let ino = volume.resolve(b"cut", crate::volume::LastLink::Keep).unwrap();
        let inode = volume.inode(ino).unwrap();
        let extents = volume.extents(crate::volume::Owner { ino, inode: &inode }).unwrap();
        assert_eq!(extents.len(), 3);
        assert_eq!(volume.block(extents[2].pblk).unwrap()[100..], [0; 924]);
        let out = crash::enumerate(&base, &recorded.log(), Plan { samples: 10, ..Plan::default() }, |device, _, _| {
            recover(device, None, options()).map_err(|e| e.to_string())?;
            check_cleaned(device)
        })
        .unwrap();
        assert_eq!(out.failed, 0, "{features}: {}", out.first_failure.unwrap());
    }
}

#[test]
fn orphan_lists_that_lie_are_refused() {
    let leading_to = |next: u32| {
        let device = orphaned("^orphan_file");
        let as_device = Arc::clone(&device) as Arc<dyn BlockDevice>;
        super::recover_journal(&as_device, None, options()).unwrap();
        change(&device, |fs, h| {
            let mut gone = fs.edit(h).open(Ino(12)).unwrap();
            gone.inode.update(|c| c.dtime.set(next));
            fs.edit(h).put(&mut gone).unwrap();
        });
        as_device
    };
    // One that names itself is the last one.
    assert_eq!(recover(&leading_to(12), None, options()).unwrap().orphans.damage, None);
    for next in [2, 5000] {
        let as_device = leading_to(next);
        assert!(matches!(recover(&as_device, None, options()), Err(Error::Corrupt { .. })), "{next}");
        let report = recover(&as_device, None, RecoverOptions { on_damage: OnDamage::Salvage, ..options() }).unwrap();
        assert!(report.orphans.damage.is_some());
    }
}
