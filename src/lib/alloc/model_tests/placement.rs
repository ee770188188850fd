//! Where things are placed, first use of groups, limits, and what damage does.

use super::rig::{Dice, Rig};
use crate::alloc::Filesystem;
use crate::device::BlockDevice;
use crate::error::{Error, Flaw};
use crate::format::inode::FileType;
use crate::units::{Fsblk, Group, Ino, Lblk};
use crate::volume::store::{AllocRequest, BlockAlloc as _, FileInUse, InodeRequest};
use crate::volume::{Edit, NewInode, OpenInode, OpenOptions, Wanted};

fn make(edit: &mut Edit<'_>, parent: &mut OpenInode, name: &str, kind: FileType) -> OpenInode {
    let when = crate::env::Timestamp::from_secs(1_700_000_000);
    let new = NewInode { kind, permissions: 0o755, uid: 0, gid: 0, when, generation: 1, name: name.as_bytes() };
    let mut o = edit.new_inode(parent, &new).unwrap();
    if kind == FileType::Directory {
        edit.init_dir(&mut o, parent.ino).unwrap();
        edit.add_link(parent).unwrap();
    }
    edit.add_entry(parent, name.as_bytes(), o.ino, kind).unwrap();
    edit.put(&mut o).unwrap();
    edit.put(parent).unwrap();
    o
}

/// A few hundred directories and files with blocks.
fn populate(rig: &mut Rig, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut edit = rig.fs.edit(&mut rig.store);
    let mut dirs = vec![edit.open(Ino::ROOT).unwrap()];
    for i in 0..600 {
        let parent = dice.below(dirs.len() as u32) as usize;
        if dice.below(8) == 0 {
            let o = make(&mut edit, &mut dirs[parent], &format!("d{i}"), FileType::Directory);
            dirs.push(o);
            continue;
        }
        let mut o = make(&mut edit, &mut dirs[parent], &format!("f{i}"), FileType::Regular);
        let len = 1 + dice.below(9);
        let got = edit.allocate_range(&mut o, Wanted { lblk: Lblk(0), len, unwritten: false, ahead: 0 }).unwrap();
        o.inode.set_size(u64::from(got.len) * edit.block_size() as u64);
        edit.put(&mut o).unwrap();
    }
}

#[test]
fn tables_that_were_never_zeroed_are_zeroed_on_first_use() {
    // mke2fs over garbage: what it does not write stays garbage.
    for options in [
        "-t ext4 -b 1024 -g 1024 -N 2048 -E nodiscard,lazy_itable_init=1",
        "-t ext4 -b 1024 -g 1024 -N 2048 -O ^metadata_csum,uninit_bg,^flex_bg -E nodiscard,lazy_itable_init=1",
        "-t ext4 -b 4096 -O bigalloc -C 16384 -E nodiscard,lazy_itable_init=1",
    ] {
        let Some(mut rig) = Rig::over_garbage(options, 64 << 20) else { return };
        populate(&mut rig, 4);
        rig.commit_and_check();
        rig.mounted(|at| assert!(std::fs::read_dir(at).unwrap().count() > 3));
    }
}

#[test]
fn the_same_calls_give_the_same_bytes() {
    let Some(first) = Rig::new("-t ext4 -b 1024 -g 1024 -O ^has_journal", "16M") else { return };
    let image = first.store.dev.to_bytes();
    let [a, b] = [(); 2].map(|()| {
        let mut rig = Rig::from_bytes(image.clone());
        populate(&mut rig, 9);
        rig.fs.sync_counts(&mut rig.store).unwrap();
        rig.store.dev.to_bytes()
    });
    assert!(a == b && a != image);
}

#[test]
fn directories_at_the_top_are_spread_and_files_stay_near() {
    let Some(mut rig) = Rig::new("-t ext4 -b 1024 -g 1024 -N 2048 -O ^flex_bg,^has_journal", "16M") else { return };
    let mut edit = rig.fs.edit(&mut rig.store);
    let mut root = edit.open(Ino::ROOT).unwrap();
    let mut groups = std::collections::BTreeSet::new();
    for i in 0..8 {
        let mut dir = make(&mut edit, &mut root, &format!("top {i}"), FileType::Directory);
        let (group, _) = edit.vol.geometry().inode_place(dir.ino).unwrap();
        groups.insert(group);
        let file = make(&mut edit, &mut dir, "file", FileType::Regular);
        assert_eq!(edit.vol.geometry().inode_place(file.ino).unwrap().0, group);
        let below = make(&mut edit, &mut dir, "below", FileType::Directory);
        assert_eq!(edit.vol.geometry().inode_place(below.ino).unwrap().0, group);
    }
    assert!(groups.len() >= 6, "{groups:?}");
    rig.commit_and_check();
}

#[test]
fn stripes_reserved_blocks_and_preallocation() {
    let Some(mut rig) = Rig::new("-t ext4 -b 4096 -m 5 -O ^has_journal -E stripe_width=16", "64M") else { return };
    let edit = rig.fs.edit(&mut rig.store);
    let mut ask = |goal, len, ahead, ino| {
        let request = AllocRequest { ahead, ..AllocRequest::data(Ino(ino), Fsblk(goal), len) };
        edit.alloc.allocate(edit.vol, edit.store, request).unwrap()
    };
    // The goal is taken where it is free; else whole stripes are aligned.
    let first = ask(5001, 32, 0, 50);
    assert_eq!((first.start, first.len), (Fsblk(5001), 32));
    assert_eq!(ask(5001, 32, 0, 50).start.0 % 16, 0);
    // What is set aside for an inode is its own.
    let a = ask(9000, 4, 12, 60);
    let other = ask(9004, 4, 0, 61);
    assert!(other.start.0 >= 9016 || other.start.0 < 9000);
    assert_eq!(ask(a.start.0 + 4, 8, 0, 60).start.0, a.start.0 + 4);
    let geo = rig.fs.volume.geometry().clone();
    let reserved = rig.fs.volume.superblock().r_blocks_count();
    rig.fs.alloc.set_privileged(false);
    let free = rig.fs.alloc.available_clusters();
    rig.fs.alloc.check_room(&geo, free, 10).unwrap();
    assert!(matches!(rig.fs.alloc.check_room(&geo, free + 1, 0), Err(Error::NoSpace { what: "blocks", .. })));
    assert!(matches!(rig.fs.alloc.check_room(&geo, 0, u64::MAX), Err(Error::NoSpace { what: "inodes", .. })));
    // An ordinary user stops at the reserve, metadata does not.
    let edit = rig.fs.edit(&mut rig.store);
    let mut got = 0u64;
    let stopped = loop {
        match edit.alloc.allocate(edit.vol, edit.store, AllocRequest::data(Ino(70), Fsblk(0), 1000)) {
            Ok(a) => got += u64::from(a.len),
            Err(e) => break e,
        }
    };
    assert!(matches!(stopped, Error::NoSpace { .. }));
    assert_eq!(got, free);
    edit.alloc.allocate(edit.vol, edit.store, AllocRequest::metadata(Ino(70), Fsblk(0))).unwrap();
    rig.fs.alloc.set_privileged(true);
    assert_eq!(rig.fs.alloc.available_clusters(), reserved - 1);
}

#[test]
fn inodes_run_out_and_come_back() {
    let Some(mut rig) = Rig::new("-t ext4 -b 1024 -N 64 -O ^has_journal", "4M") else { return };
    let edit = rig.fs.edit(&mut rig.store);
    let request = InodeRequest { parent: Ino::ROOT, directory: false, spread: false, name_hash: 0 };
    let mut all = Vec::new();
    while let Ok(ino) = edit.alloc.allocate_inode(edit.vol, edit.store, request) {
        all.push(ino);
    }
    assert_eq!(rig.fs.alloc.free_inodes(), 0);
    let edit = rig.fs.edit(&mut rig.store);
    for ino in &all {
        edit.alloc.free_inode(edit.vol, edit.store, *ino, false).unwrap();
    }
    assert!(edit.alloc.free_inode(edit.vol, edit.store, all[0], false).is_err());
    assert!(matches!(
        edit.alloc.free_inode(edit.vol, edit.store, Ino::JOURNAL, false),
        Err(Error::InvalidArgument { .. })
    ));
    assert_eq!(edit.alloc.allocate_inode(edit.vol, edit.store, request).unwrap(), all[0]);
}

#[test]
fn damage_is_refused_before_anything_is_freed() {
    let Some(mut rig) = Rig::new("-t ext4 -b 1024 -O ^has_journal", "16M") else { return };
    let mut edit = rig.fs.edit(&mut rig.store);
    let mut root = edit.open(Ino::ROOT).unwrap();
    let mut o = make(&mut edit, &mut root, "f", FileType::Regular);
    let got = edit.allocate_range(&mut o, Wanted { lblk: Lblk(0), len: 4, unwritten: false, ahead: 0 }).unwrap();
    // The filesystem's own blocks, blocks outside, and blocks that are free.
    let table = edit.vol.group(Group(0)).unwrap().inode_table();
    let end = Fsblk(edit.vol.geometry().blocks_count);
    for (start, len) in [(table, 1), (Fsblk(1), 1), (end, 1), (Fsblk(got.pblk.0 + 3), 2)] {
        let e = edit.alloc.free(edit.vol, edit.store, start, len, false).unwrap_err();
        assert!(e.is_corruption(), "{start}: {e}");
    }
    edit.alloc.free(edit.vol, edit.store, got.pblk, 4, false).unwrap();
    let twice = edit.alloc.free(edit.vol, edit.store, got.pblk, 4, false).unwrap_err();
    assert!(matches!(twice, Error::Corrupt { what: Flaw::Inconsistent { .. }, .. }));
    // A bitmap whose checksum is wrong is not allocated from.
    let mut bytes = rig.store.dev.to_bytes();
    let block = rig.fs.volume.group(Group(0)).unwrap().block_bitmap();
    bytes[block.0 as usize * 1024 + 100] ^= 1;
    let dev = std::sync::Arc::new(crate::device::MemoryDevice::from_bytes(bytes));
    assert!(dev.len() > 0);
    let mut fs = Filesystem::open(dev.clone(), &OpenOptions::default()).unwrap();
    let mut store = rig.store.over(dev);
    let edit = fs.edit(&mut store);
    let e = edit.alloc.allocate(edit.vol, edit.store, AllocRequest::data(Ino(12), Fsblk(1), 1)).unwrap_err();
    assert!(matches!(e, Error::Corrupt { what: Flaw::Checksum { .. }, .. }));
}

#[test]
fn files_in_use_get_what_they_may_need_and_give_it_back() {
    let Some(mut rig) = Rig::new("-t ext4 -b 4096 -O ^has_journal", "64M") else { return };
    rig.fs.alloc.set_in_use();
    let vol = &mut rig.fs.volume;
    let alloc = &mut rig.fs.alloc;
    let free = |a: &crate::alloc::Allocator, v: &crate::volume::Volume| a.free_clusters(v, Group(0));
    let all = free(alloc, vol);
    let mut ask = |alloc: &mut crate::alloc::Allocator, ino, lblk, len, size| {
        let file = FileInUse { lblk: Lblk(lblk), size, open: true, ..FileInUse::default() };
        let request = AllocRequest { file: Some(file), ..AllocRequest::data(Ino(ino), Fsblk(0), len) };
        alloc.allocate(vol, &mut rig.store, request).unwrap().start.0
    };
    // Small files share one piece: they lie side by side.
    let first = ask(alloc, 12, 0, 2, 8192);
    assert_eq!(ask(alloc, 13, 5, 3, 32768), first + 2);
    assert_eq!(ask(alloc, 12, 2, 1, 12288), first + 5);
    // A large one has its own, in which each block has its place: 100 KiB make a wish for 128.
    let large = ask(alloc, 14, 20, 4, 102_400);
    assert!(large >= first + 512);
    assert_eq!(ask(alloc, 14, 2, 1, 102_400), large - 18);
    assert_eq!(ask(alloc, 14, 31, 1, 102_400), large + 11);
    let changes = alloc.take_changes();
    assert_eq!((changes.len(), changes[3].free, changes[3].claimed), (6, -4, 4));
    let before = free(alloc, &rig.fs.volume);
    assert_eq!(all - before, 512 + 32);
    alloc.release_file(&rig.fs.volume, Ino(14)).unwrap();
    assert_eq!(free(alloc, &rig.fs.volume) - before, 32 - 6);
}
