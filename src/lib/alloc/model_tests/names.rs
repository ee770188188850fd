//! Directories, extended attributes and inline data against models.

use std::collections::{BTreeMap, BTreeSet};

use super::rig::{Dice, IMAGES, Rig};
use crate::env::Timestamp;
use crate::format::features::Incompat;
use crate::format::inode::{FileType, InodeFlags};
use crate::format::xattr;
use crate::units::Ino;
use crate::volume::{Edit, NewInode, OpenInode};

/// Name index and name → value.
type Attributes = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// An object with a name in `dir`. Both inodes are stored.
fn make(edit: &mut Edit<'_>, dir: &mut OpenInode, name: &[u8], kind: FileType) -> OpenInode {
    let new = NewInode {
        kind,
        permissions: 0o755,
        uid: 1000,
        gid: 100,
        when: Timestamp { sec: 1_700_000_000, nsec: 5 },
        generation: 77,
        name,
    };
    let mut o = edit.new_inode(dir, &new).unwrap();
    if kind == FileType::Directory {
        edit.init_dir(&mut o, dir.ino).unwrap();
        edit.add_link(dir).unwrap();
    } else if kind == FileType::Regular && edit.vol.has_inline_data() {
        assert!(edit.write_inline(&mut o, b"").unwrap());
    }
    edit.add_entry(dir, name, o.ino, kind).unwrap();
    edit.put(&mut o).unwrap();
    edit.put(dir).unwrap();
    o
}

fn name(dice: &mut Dice, longest: u32) -> Vec<u8> {
    let len = 5 + dice.below(longest - 4);
    (0..len).map(|_| b'a' + dice.below(26) as u8).collect()
}

/// Names of a directory come and go; they lead to a few files, whose links are counted.
struct Names {
    rig: Rig,
    dir: OpenInode,
    files: Vec<OpenInode>,
    model: BTreeMap<Vec<u8>, usize>,
}

impl Names {
    fn new(options: &str, size: &str, files: usize) -> Option<Self> {
        let mut rig = Rig::new(options, size)?;
        let mut edit = rig.fs.edit(&mut rig.store);
        let mut root = edit.open(Ino::ROOT).unwrap();
        let dir = make(&mut edit, &mut root, b"directory", FileType::Directory);
        let files =
            (0..files).map(|i| make(&mut edit, &mut root, format!("file{i}").as_bytes(), FileType::Regular)).collect();
        Some(Self { rig, dir, files, model: BTreeMap::new() })
    }

    fn add(&mut self, name: Vec<u8>, file: usize) {
        self.rig.store.take_dirty();
        let mut edit = self.rig.fs.edit(&mut self.rig.store);
        let ino = self.files[file].ino;
        let credits = edit.add_entry_credits(&self.dir).unwrap();
        let added = edit.add_entry(&mut self.dir, &name, ino, FileType::Regular);
        match (self.model.get(&name), added) {
            (Some(_), Err(crate::Error::Exists { .. })) => {}
            (None, Ok(())) => {
                edit.add_link(&mut self.files[file]).unwrap();
                self.model.insert(name, file);
            }
            (old, new) => panic!("{old:?} {new:?}"),
        }
        let dirty = self.rig.store.take_dirty();
        assert!(dirty < credits as usize, "{dirty} blocks, {credits} credits");
    }

    fn remove(&mut self, name: &[u8]) {
        let mut edit = self.rig.fs.edit(&mut self.rig.store);
        let removed = edit.remove_entry(&mut self.dir, name).unwrap();
        let file = self.model.remove(name);
        assert_eq!(removed, file.map(|f| self.files[f].ino));
        if let Some(f) = file {
            edit.drop_link(&mut self.files[f]);
        }
    }

    fn retarget(&mut self, name: &[u8], file: usize) {
        let mut edit = self.rig.fs.edit(&mut self.rig.store);
        let ino = self.files[file].ino;
        let old = edit.retarget_entry(&mut self.dir, name, ino, FileType::Regular).unwrap().unwrap();
        let was = self.model.insert(name.to_vec(), file).unwrap();
        assert_eq!(old, self.files[was].ino);
        edit.drop_link(&mut self.files[was]);
        edit.add_link(&mut self.files[file]).unwrap();
    }

    fn any_name(&self, dice: &mut Dice) -> Option<Vec<u8>> {
        let probe = name(dice, 10);
        self.model.range(probe..).next().or(self.model.iter().next()).map(|(k, _)| k.clone())
    }

    /// The tree equals the model, and e2fsck has nothing to say.
    fn check(&mut self) {
        let mut edit = self.rig.fs.edit(&mut self.rig.store);
        edit.put(&mut self.dir).unwrap();
        for f in &mut self.files {
            edit.put(f).unwrap();
        }
        let dir = edit.open(self.dir.ino).unwrap();
        let all: BTreeMap<_, _> =
            edit.vol.read_dir(dir.owner()).unwrap().into_iter().map(|e| (e.name, e.ino)).collect();
        let want: BTreeMap<_, _> = self.model.iter().map(|(k, f)| (k.clone(), self.files[*f].ino)).collect();
        assert!(all == want, "{} entries, {} expected", all.len(), want.len());
        for (i, (name, ino)) in want.iter().enumerate() {
            if i % 37 == 0 {
                assert_eq!(edit.vol.lookup(dir.owner(), name).unwrap(), Some(*ino));
            }
        }
        assert_eq!(edit.is_empty_dir(&dir).unwrap(), want.is_empty());
        self.rig.commit_and_check();
    }

    /// The kernel sees the same names.
    fn check_mounted(&self) {
        self.rig.mounted(|at| {
            use std::os::unix::ffi::OsStringExt;
            let dir = at.join("directory");
            let names = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_vec());
            let names: BTreeSet<Vec<u8>> = names.collect();
            assert!(names.iter().eq(self.model.keys()), "{} names, {} expected", names.len(), self.model.len());
            for (i, name) in names.into_iter().enumerate() {
                if i % 31 == 0 {
                    std::fs::symlink_metadata(dir.join(std::ffi::OsString::from_vec(name))).unwrap();
                }
            }
        });
    }
}

#[test]
fn directories_equal_a_model() {
    for (i, options) in IMAGES.iter().enumerate() {
        let Some(mut t) = Names::new(options, "24M", 3) else { return };
        let mut dice = Dice::new(i as u64);
        for round in 0..3000u32 {
            match dice.below(10) {
                0..6 => {
                    let (n, f) = (name(&mut dice, if i % 2 == 0 { 20 } else { 255 }), dice.below(3) as usize);
                    t.add(n, f);
                }
                6..8 => {
                    if let Some(n) = t.any_name(&mut dice) {
                        t.remove(&n);
                    }
                }
                8 => {
                    if let Some(n) = t.any_name(&mut dice) {
                        let f = dice.below(3) as usize;
                        t.retarget(&n, f);
                    }
                }
                _ => t.remove(b"not there"),
            }
            if round == 5 || round == 60 {
                t.check();
            }
        }
        t.check();
        t.check_mounted();
        for n in t.model.keys().cloned().collect::<Vec<_>>() {
            t.remove(&n);
        }
        t.check();
    }
}

#[test]
fn a_hundred_thousand_names_in_1k_blocks() {
    let Some(mut t) = Names::new("-t ext4 -b 1024 -O ^has_journal", "64M", 3) else { return };
    let mut dice = Dice::new(11);
    for i in 0..100_000u32 {
        let n = format!("{}-{i}", String::from_utf8(name(&mut dice, 12)).unwrap());
        t.add(n.into_bytes(), i as usize % 3);
    }
    t.check();
    let gone: Vec<_> = t.model.keys().step_by(3).cloned().collect();
    for n in gone {
        t.remove(&n);
    }
    for i in 0..5_000u32 {
        t.add(format!("again {i}").into_bytes(), 0);
    }
    t.check();
    t.check_mounted();
}

#[test]
fn large_dir_gets_a_third_level() {
    let Some(mut t) = Names::new("-t ext4 -b 1024 -O ^has_journal,large_dir", "96M", 2) else { return };
    for i in 0..40_000u32 {
        t.add(format!("{i:0220}").into_bytes(), i as usize % 2);
    }
    t.check();
    let root = t.rig.fs.volume.file_block(t.dir.owner(), crate::units::Lblk(0)).unwrap().unwrap().1[30];
    assert_eq!(root, 2, "indirect levels");
    t.check_mounted();
}

#[test]
fn without_large_dir_the_index_is_full_at_two_levels() {
    let Some(mut t) = Names::new("-t ext4 -b 1024 -O ^has_journal,^large_dir", "96M", 2) else { return };
    let mut edit = t.rig.fs.edit(&mut t.rig.store);
    let ino = t.files[0].ino;
    let failed = (0..80_000u32).find_map(|i| {
        let name = format!("{i:0250}");
        edit.add_entry(&mut t.dir, name.as_bytes(), ino, FileType::Regular).err()
    });
    assert!(matches!(failed, Some(crate::Error::NoSpace { .. })), "{failed:?}");
}

#[test]
fn case_insensitive_directories() {
    let Some(mut t) = Names::new("-t ext4 -b 1024 -O casefold -E encoding_flags=strict", "24M", 2) else { return };
    if !t.rig.fs.volume.geometry().features.incompat.contains(Incompat::CASEFOLD) {
        eprintln!("skipped: this mke2fs does not do casefold");
        return;
    }
    t.dir.set(InodeFlags::CASEFOLD, true);
    for i in 0..2000 {
        t.add(format!("N\u{e4}me {i}").into_bytes(), i % 2);
    }
    t.check();
    let mut edit = t.rig.fs.edit(&mut t.rig.store);
    let same = edit.add_entry(&mut t.dir, "n\u{c4}ME 77".as_bytes(), t.files[0].ino, FileType::Regular);
    assert!(matches!(same, Err(crate::Error::Exists { .. })));
    let bad = edit.add_entry(&mut t.dir, b"\xff", t.files[0].ino, FileType::Regular);
    assert!(matches!(bad, Err(crate::Error::InvalidArgument { .. })));
    assert!(edit.remove_entry(&mut t.dir, "N\u{c4}ME 5".as_bytes()).unwrap().is_some());
}

#[test]
fn parents_change_and_directories_nest() {
    for options in IMAGES {
        let Some(mut rig) = Rig::new(options, "24M") else { return };
        let mut edit = rig.fs.edit(&mut rig.store);
        let mut root = edit.open(Ino::ROOT).unwrap();
        let mut a = make(&mut edit, &mut root, b"a", FileType::Directory);
        let mut b = make(&mut edit, &mut root, b"b", FileType::Directory);
        let mut child = make(&mut edit, &mut a, b"child", FileType::Directory);
        for i in 0..300 {
            make(&mut edit, &mut child, format!("name of file {i}").as_bytes(), FileType::Regular);
        }
        // a/child becomes b/moved.
        assert_eq!(edit.remove_entry(&mut a, b"child").unwrap(), Some(child.ino));
        edit.drop_link(&mut a);
        edit.add_entry(&mut b, b"moved", child.ino, FileType::Directory).unwrap();
        edit.add_link(&mut b).unwrap();
        edit.set_parent(&mut child, b.ino).unwrap();
        for o in [&mut a, &mut b, &mut child] {
            edit.put(o).unwrap();
        }
        assert_eq!(edit.vol.resolve(b"/b/moved/..", crate::volume::LastLink::Follow).unwrap(), b.ino);
        let inos: BTreeSet<_> = edit.vol.read_dir(child.owner()).unwrap().into_iter().map(|e| e.ino).collect();
        assert_eq!(inos.len(), 300);
        rig.commit_and_check();
    }
}

#[test]
fn attributes_equal_a_model() {
    let more = [
        "-t ext4 -b 1024 -O ea_inode -I 256",
        "-t ext4 -b 4096 -O ea_inode,^metadata_csum -I 1024",
        "-t ext4 -b 1024 -I 128",
    ];
    for (seed, options) in IMAGES.iter().chain(&more).enumerate() {
        let Some(mut rig) = Rig::new(options, "24M") else { return };
        let mut dice = Dice::new(seed as u64);
        let mut edit = rig.fs.edit(&mut rig.store);
        let mut root = edit.open(Ino::ROOT).unwrap();
        let mut all: Vec<(OpenInode, Attributes)> = (0..4)
            .map(|i| (make(&mut edit, &mut root, format!("f{i}").as_bytes(), FileType::Regular), Attributes::new()))
            .collect();
        let big = edit.vol.geometry().features.incompat.contains(Incompat::EA_INODE);
        for round in 0..600 {
            let which = dice.below(4) as usize;
            let (o, model) = &mut all[which];
            let key = (if dice.below(2) == 0 { xattr::INDEX_USER } else { xattr::INDEX_TRUSTED }, name(&mut dice, 7));
            let key = match (dice.below(3), model.keys().nth(dice.below(8) as usize)) {
                (0, _) | (_, None) => key,
                (_, Some(k)) => k.clone(),
            };
            let had = model.contains_key(&key);
            if dice.below(3) == 0 {
                assert_eq!(edit.set_xattr(o, key.0, &key.1, None).unwrap(), had);
                model.remove(&key);
            } else {
                let longest = if big && dice.below(4) == 0 { 20_000 } else { 300 };
                let value: Vec<u8> = (0..dice.below(longest)).map(|_| dice.below(256) as u8).collect();
                match edit.set_xattr(o, key.0, &key.1, Some(&value)) {
                    Ok(replaced) => {
                        assert_eq!(replaced, had);
                        model.insert(key, value);
                    }
                    Err(crate::Error::NoSpace { .. }) => {}
                    Err(e) => panic!("{e}"),
                }
            }
            edit.put(o).unwrap();
            // Now and then two files share a block.
            if round % 100 == 50 {
                share_block(&mut edit, &mut all);
            }
            for (o, model) in &all {
                let found: Attributes =
                    edit.vol.xattrs(o.owner()).unwrap().into_iter().map(|x| ((x.index, x.suffix), x.value)).collect();
                assert!(found == *model, "attributes differ");
            }
            if round % 200 == 199 {
                rig.commit_and_check();
                edit = rig.fs.edit(&mut rig.store);
            }
        }
        // Deleted files give everything back.
        let mut root = edit.open(Ino::ROOT).unwrap();
        for (i, (o, _)) in all.iter_mut().enumerate() {
            edit.remove_entry(&mut root, format!("f{i}").as_bytes()).unwrap();
            edit.delete_inode(o, Timestamp::from_secs(1_700_000_001)).unwrap();
        }
        rig.commit_and_check();
    }
}

/// Let the first file without a block use that of the first file that has one, where neither has values elsewhere.
fn share_block(edit: &mut Edit<'_>, all: &mut [(OpenInode, Attributes)]) {
    let Some(from) = all.iter().position(|(o, _)| o.inode.file_acl().0 != 0) else { return };
    let Some(to) = (0..all.len()).find(|i| *i != from) else { return };
    let (source, block) = (all[from].0.clone(), all[from].0.inode.file_acl());
    let attrs = edit.vol.all_xattrs(source.owner()).unwrap();
    if attrs.iter().any(|x| x.value_ino.is_some()) {
        return;
    }
    let in_block: Vec<_> = attrs.into_iter().filter(|x| x.place != crate::volume::XattrPlace::Inode).collect();
    let (o, model) = &mut all[to];
    for (index, name) in std::mem::take(model).into_keys() {
        edit.set_xattr(o, index, &name, None).unwrap();
    }
    assert_eq!(o.inode.file_acl().0, 0);
    let seed = edit.vol.geometry().checksums.seed();
    crate::volume::edit::modify_block(edit.store, block, |bytes| {
        let users = xattr::parse_block(bytes).unwrap().0.refcount.get();
        xattr::set_refcount(bytes, users + 1);
        if let Some(seed) = seed {
            xattr::stamp_block(bytes, seed, block);
        }
    })
    .unwrap();
    o.inode.set_file_acl(block);
    edit.count_clusters(o, 1).unwrap();
    edit.put(o).unwrap();
    *model = in_block.into_iter().map(|x| ((x.index, x.suffix), x.value)).collect();
}

#[test]
fn inline_content_goes_in_and_out() {
    for options in ["-t ext4 -b 1024 -O inline_data -I 256", "-t ext4 -b 4096 -O inline_data -I 1024"] {
        let Some(mut rig) = Rig::new(options, "24M") else { return };
        let mut edit = rig.fs.edit(&mut rig.store);
        let mut root = edit.open(Ino::ROOT).unwrap();
        let mut all = Vec::new();
        for i in 0..40usize {
            let mut o = make(&mut edit, &mut root, format!("file {i}").as_bytes(), FileType::Regular);
            if i % 3 == 0 {
                edit.set_xattr(&mut o, xattr::INDEX_USER, b"tag", Some(b"0123456789")).unwrap();
            }
            let room = edit.inline_capacity(&o).unwrap();
            let len = [0, 1, 59, 60, 61, room / 2, room - 1, room][i % 8];
            let mut content: Vec<u8> = (0..len).map(|n| (n * 7 + i) as u8).collect();
            assert!(edit.write_inline(&mut o, &content).unwrap());
            let mut long = content.clone();
            long.resize(room + 1, 1);
            assert!(!edit.write_inline(&mut o, &long).unwrap());
            if i % 5 == 0 {
                edit.inline_file_to_block(&mut o).unwrap();
                assert!(!o.has(InodeFlags::INLINE_DATA));
            } else if i % 7 == 0 {
                content.truncate(10);
                assert!(edit.write_inline(&mut o, &content).unwrap());
            }
            edit.put(&mut o).unwrap();
            all.push((o.ino, content));
        }
        for (ino, content) in &all {
            let o = edit.open(*ino).unwrap();
            let got = edit.vol.reader(o.owner()).unwrap().read_all(1 << 20).unwrap().unwrap();
            assert_eq!(&got, content);
        }
        rig.commit_and_check();
    }
}
