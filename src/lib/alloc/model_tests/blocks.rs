//! Block maps against a model: logical block → physical block and state, over many files of one image.

use std::collections::{BTreeMap, BTreeSet};

use super::rig::{Dice, IMAGES, Rig};
use crate::env::Timestamp;
use crate::format::inode::{FileType, InodeFlags};
use crate::units::{Ino, Lblk};
use crate::volume::{Edit, MapKind, Mapping, NewInode, OpenInode, Wanted};

const WHEN: Timestamp = Timestamp::from_secs(1_700_000_000);

type Model = BTreeMap<u32, (u64, bool)>;

/// A file in the root directory.
fn new_file(edit: &mut Edit<'_>, name: &str) -> OpenInode {
    let mut root = edit.open(Ino::ROOT).unwrap();
    let new = NewInode {
        kind: FileType::Regular,
        permissions: 0o644,
        uid: 0,
        gid: 0,
        when: WHEN,
        generation: 3,
        name: name.as_bytes(),
    };
    let mut o = edit.new_inode(&root, &new).unwrap();
    edit.add_entry(&mut root, name.as_bytes(), o.ino, FileType::Regular).unwrap();
    edit.put(&mut root).unwrap();
    edit.put(&mut o).unwrap();
    o
}

/// Let the size cover all that is mapped: e2fsck does not like blocks behind it.
fn cover(edit: &mut Edit<'_>, o: &mut OpenInode, model: &Model) {
    let blocks = model.keys().next_back().map_or(0, |l| u64::from(*l) + 1);
    o.inode.set_size(blocks * edit.block_size() as u64);
    edit.put(o).unwrap();
}

fn delete(edit: &mut Edit<'_>, o: &mut OpenInode, name: &str) {
    let mut root = edit.open(Ino::ROOT).unwrap();
    assert_eq!(edit.remove_entry(&mut root, name.as_bytes()).unwrap(), Some(o.ino));
    edit.delete_inode(o, WHEN).unwrap();
}

fn check_map(edit: &Edit<'_>, o: &OpenInode, model: &Model) {
    let mut found = Model::new();
    for e in edit.vol.extents(o.owner()).unwrap() {
        for n in 0..e.len {
            found.insert(e.lblk.0 + n, (e.pblk.0 + u64::from(n), e.unwritten));
        }
    }
    assert_eq!(found.len(), model.len());
    assert!(found == *model, "maps differ");
}

/// Random allocation, punching, conversion and truncation.
fn churn(options: &str, files: usize, rounds: u32, span: u32, seed: u64) {
    let Some(mut rig) = Rig::new(options, "24M") else { return };
    let extents = options.contains("ext4");
    let mut dice = Dice::new(seed);
    let mut edit = rig.fs.edit(&mut rig.store);
    let free_before = edit.vol.geometry().all_groups().map(|g| edit.vol.group(g).unwrap().free_clusters()).sum::<u32>();
    let mut all: Vec<(OpenInode, Model)> =
        (0..files).map(|i| (new_file(&mut edit, &format!("f{i}")), Model::new())).collect();
    for round in 0..rounds {
        let (o, model) = &mut all[dice.below(files as u32) as usize];
        let at = dice.below(span);
        let longest = if dice.below(4) == 0 { 200 } else { 6 };
        let len = 1 + dice.below(longest);
        let mut credits = u32::MAX;
        match dice.below(10) {
            0..6 => {
                let unwritten = extents && dice.below(3) == 0;
                let wanted = Wanted { lblk: Lblk(at), len, unwritten, ahead: dice.below(2) * 8 };
                credits = edit.map_credits(o, 1, len).unwrap();
                let got = edit.allocate_range(o, wanted);
                let got = match got {
                    Ok(got) => got,
                    Err(crate::Error::NoSpace { .. }) => continue,
                    Err(e) => panic!("{e}"),
                };
                assert!(got.len >= 1 && got.len <= len);
                for n in 0..got.len {
                    let new = (got.pblk.0 + u64::from(n), got.unwritten);
                    let old = model.insert(at + n, new);
                    assert!(old.is_none() || old == Some(new));
                }
            }
            6..8 => {
                let end = if dice.below(8) == 0 { 1 << 32 } else { u64::from(at + len) };
                credits = edit.remove_credits(o, Lblk(at), end).unwrap();
                let n = edit.remove_blocks(o, Lblk(at), end).unwrap();
                let gone: Vec<u32> = model.range(at..).map(|(k, _)| *k).take_while(|k| u64::from(*k) < end).collect();
                assert_eq!(n, gone.len() as u64);
                for k in gone {
                    model.remove(&k);
                }
            }
            _ if extents => {
                let unwritten = dice.below(2) == 0;
                edit.convert_extents(o, Lblk(at), u64::from(at + len), unwritten).unwrap();
                model.range_mut(at..at + len).for_each(|(_, v)| v.1 = unwritten);
            }
            _ => {}
        }
        edit.put(o).unwrap();
        check_map(&edit, o, model);
        let dirty = rig.store.take_dirty();
        assert!(dirty <= credits as usize, "{dirty} blocks, {credits} credits");
        edit = rig.fs.edit(&mut rig.store);
        if round % 50 == 0 {
            for (o, model) in &mut all {
                cover(&mut edit, o, model);
            }
            let used: Vec<u64> = all.iter().flat_map(|(_, m)| m.values().map(|v| v.0)).collect();
            assert_eq!(used.len(), used.iter().collect::<BTreeSet<_>>().len(), "a block has two owners");
            rig.fs.committed();
            if round % 200 == 0 {
                rig.commit_and_check();
            }
            edit = rig.fs.edit(&mut rig.store);
        }
    }
    let deepest = all.iter().map(|(o, _)| if extents { edit.extent_depth(o).unwrap() } else { 0 }).max();
    eprintln!("{options}: deepest {deepest:?}");
    // All gone again: the same space is free.
    for (i, (o, _)) in all.iter_mut().enumerate() {
        delete(&mut edit, o, &format!("f{i}"));
    }
    let free_after = edit.vol.geometry().all_groups().map(|g| edit.vol.group(g).unwrap().free_clusters()).sum::<u32>();
    assert_eq!(free_before, free_after);
    rig.commit_and_check();
}

#[test]
fn maps_equal_a_model() {
    for (i, options) in IMAGES.iter().enumerate() {
        churn(options, 6, 600, 3000, i as u64);
    }
}

#[test]
fn deep_trees_equal_a_model() {
    // Every other block of a file with 1 KiB blocks: 84 extents a leaf.
    let Some(mut rig) = Rig::new("-t ext4 -b 1024 -N 1024 -O ^has_journal", "96M") else { return };
    let mut edit = rig.fs.edit(&mut rig.store);
    let mut o = new_file(&mut edit, "file");
    let mut model = Model::new();
    let mut dice = Dice::new(5);
    let mut order: Vec<u32> = (0..30_000).map(|n| n * 2).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, dice.below(i as u32 + 1) as usize);
    }
    for at in order {
        let wanted = Wanted { lblk: Lblk(at), len: 1, unwritten: at % 8 == 0, ahead: 0 };
        let got = edit.allocate_range(&mut o, wanted).unwrap();
        model.insert(at, (got.pblk.0, got.unwritten));
    }
    cover(&mut edit, &mut o, &model);
    check_map(&edit, &o, &model);
    rig.commit_and_check();
    rig.mounted(|at| assert_eq!(std::fs::read(at.join("file")).unwrap().len(), 59_999 * 1024));
    let mut edit = rig.fs.edit(&mut rig.store);
    assert!(edit.extent_depth(&o).unwrap() >= 3, "depth {}", edit.extent_depth(&o).unwrap());
    for _ in 0..400 {
        let (at, len) = (dice.below(60_000), 1 + dice.below(300));
        if dice.below(2) == 0 {
            edit.remove_blocks(&mut o, Lblk(at), u64::from(at + len)).unwrap();
            model.retain(|k, _| *k < at || *k >= at + len);
        } else {
            edit.convert_extents(&mut o, Lblk(at), u64::from(at + len), at % 2 == 0).unwrap();
            model.range_mut(at..at + len).for_each(|(_, v)| v.1 = at % 2 == 0);
        }
    }
    cover(&mut edit, &mut o, &model);
    check_map(&edit, &o, &model);
    rig.commit_and_check();
    let mut edit = rig.fs.edit(&mut rig.store);
    edit.truncate_blocks(&mut o, Lblk(1000)).unwrap();
    model.retain(|k, _| *k < 1000);
    check_map(&edit, &o, &model);
    edit.truncate_blocks(&mut o, Lblk(0)).unwrap();
    assert_eq!((edit.extent_depth(&o).unwrap(), o.inode.blocks_raw()), (0, 0));
    delete(&mut edit, &mut o, "file");
    rig.commit_and_check();
}

#[test]
fn freed_blocks_wait_for_the_commit() {
    let Some(mut rig) = Rig::new("-t ext4 -b 4096 -O ^has_journal", "8M") else { return };
    let mut edit = rig.fs.edit(&mut rig.store);
    let mut o = new_file(&mut edit, "file");
    let first = edit.allocate_range(&mut o, Wanted { lblk: Lblk(0), len: 10, unwritten: false, ahead: 0 }).unwrap();
    edit.truncate_blocks(&mut o, Lblk(0)).unwrap();
    let second = edit.allocate_range(&mut o, Wanted { lblk: Lblk(0), len: 10, unwritten: false, ahead: 0 }).unwrap();
    assert!(second.pblk.0 >= first.pblk.0 + 10 || second.pblk.0 + 10 <= first.pblk.0);
    edit.truncate_blocks(&mut o, Lblk(0)).unwrap();
    rig.fs.committed();
    let mut edit = rig.fs.edit(&mut rig.store);
    let third = edit.allocate_range(&mut o, Wanted { lblk: Lblk(0), len: 10, unwritten: false, ahead: 0 }).unwrap();
    assert_eq!(third.pblk, first.pblk);
    assert_eq!(edit.vol.map_kind(&o.inode), MapKind::Extents);
    assert!(o.has(InodeFlags::EXTENTS));
    assert!(matches!(edit.vol.map(o.owner(), Lblk(10)).unwrap(), Mapping::Hole { .. }));
}
