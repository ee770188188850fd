//! What new objects inherit, holes and tails of files, features that are noted when they are first used.

use super::model_tests::rig::Rig;
use super::{Attributes, Bytes, Change, What};
use crate::Error;
use crate::format::acl::{Acl, AclEntry, AclTag};
use crate::units::Ino;
use crate::volume::{LastLink, OpenOptions, Owner, Volume};

const IMAGES: &[&str] = &[
    "-t ext4 -b 1024 -E lazy_itable_init=1",
    "-t ext4 -b 2048 -g 2048",
    "-t ext4 -b 4096 -O inline_data -I 512 -J size=4",
    "-t ext4 -b 4096 -O bigalloc,quota -C 16384 -J size=4",
    "-t ext4 -b 1024 -O quota,project,inline_data",
    "-t ext4 -b 1024 -O ea_inode,quota -E quotatype=usrquota:grpquota",
    "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^has_journal -g 1024",
    "-t ext3 -b 1024",
    "-t ext2 -b 4096",
];

#[test]
fn new_objects_inherit() {
    let Some(mut rig) = Rig::new("-t ext4 -b 1024 -O quota,project", "16M") else { return };
    let e = |tag, perm| AclEntry { tag, perm };
    let entries = vec![
        e(AclTag::UserObj, 7),
        e(AclTag::User(1000), 7),
        e(AclTag::GroupObj, 5),
        e(AclTag::Mask, 7),
        e(AclTag::Other, 4),
    ];
    let list = Acl { entries }.encode_host();
    let dir = rig.op(|n| n.make(Ino::ROOT, b"d", What::Directory, &Attributes::root(0o755))).unwrap().ino;
    rig.op(|n| n.set_xattr(dir, b"system.posix_acl_default", Some(&list))).unwrap();
    let change = Change { permissions: Some(0o2755), gid: Some(77), project: Some(5), ..Change::default() };
    rig.op(|n| n.change(dir, &change)).unwrap();
    rig.op(|n| {
        let mut o = n.open(dir)?;
        o.set(crate::format::inode::InodeFlags::PROJINHERIT, true);
        n.put(&mut o)
    })
    .unwrap();
    let a = Attributes::root(0o666);
    let file = rig.op(|n| n.make(dir, b"file", What::File, &a)).unwrap().ino;
    let sub = rig.op(|n| n.make(dir, b"sub", What::Directory, &Attributes::root(0o700))).unwrap().ino;
    let plain = Attributes { inherit: false, ..a };
    let other = rig.op(|n| n.make(dir, b"other", What::File, &plain)).unwrap().ino;
    rig.check();
    let inode = |ino| rig.fs.volume.inode(ino).unwrap();
    let names = |ino| -> Vec<_> {
        let inode = inode(ino);
        rig.fs.volume.xattrs(Owner { ino, inode: &inode }).unwrap().into_iter().map(|x| x.name()).collect()
    };
    assert_eq!((inode(file).permissions(), inode(file).gid(), inode(file).core().projid.get()), (0o664, 77, 5));
    assert_eq!((inode(sub).permissions(), inode(sub).gid(), inode(sub).core().projid.get()), (0o2700, 77, 5));
    assert_eq!((inode(other).permissions(), inode(other).gid(), inode(other).core().projid.get()), (0o666, 0, 5));
    assert_eq!(names(file), [b"system.posix_acl_access".to_vec()]);
    assert_eq!(names(sub), [&b"system.posix_acl_access"[..], b"system.posix_acl_default"]);
    assert!(names(other).is_empty());
    rig.op(|n| n.change(file, &Change { permissions: Some(0o600), ..Change::default() })).unwrap();
    rig.op(|n| n.make_path(b"/x/y//z", &Attributes::root(0o755))).unwrap();
    assert!(rig.op(|n| n.make_path(b"/d/file/z", &Attributes::root(0o755))).is_err());
    rig.check();
}

#[test]
fn holes_stay_and_tails_are_clean() {
    struct Sparse;
    impl super::Content for Sparse {
        fn size(&self) -> u64 {
            3 << 20
        }
        fn segments(&self) -> std::borrow::Cow<'_, [crate::source::Segment]> {
            let s = |start, end| crate::source::Segment { start, end };
            vec![s(5, 10), s(100_000, 100_001), (s((2 << 20) - 3, 2 << 20))].into()
        }
        fn read(&mut self, offset: u64, buf: &mut [u8]) -> crate::Result<()> {
            let segments = self.segments().into_owned();
            for (at, b) in (offset..).zip(buf) {
                *b = u8::from(segments.iter().any(|s| (s.start..s.end).contains(&at))) * 9;
            }
            Ok(())
        }
    }
    for options in IMAGES {
        let Some(mut rig) = Rig::new(options, "32M") else { return };
        let o = rig.op(|n| n.make(Ino::ROOT, b"f", What::File, &Attributes::root(0o644))).unwrap();
        rig.op(|n| n.write_file(o.ino, &mut Sparse)).unwrap();
        rig.check();
        let bytes = |rig: &Rig| {
            let o = OpenOptions::default();
            let vol = Volume::open(rig.view(), &o).unwrap();
            let (ino, inode) = vol.resolve_inode(b"/f", LastLink::Keep).unwrap();
            (vol.reader(Owner { ino, inode: &inode }).unwrap().read_all(4 << 20).unwrap().unwrap(), inode)
        };
        let mut want = vec![0; 3 << 20];
        super::Content::read(&mut Sparse, 0, &mut want).unwrap();
        let (got, inode) = bytes(&rig);
        assert!(got == want);
        let blocks = inode.allocated_bytes(rig.fs.volume.geometry().block_size);
        assert!(blocks <= 3 * 16384 + 8 * 4096, "{blocks} bytes in use ({options})");
        // Cut in the middle of a block that is committed, and extend again: zeros.
        for size in [7u64, 2 << 20, 100_001, 1 << 20] {
            rig.op(|n| n.truncate(o.ino, size)).unwrap();
            want.resize(size as usize, 0);
            assert!(bytes(&rig).0 == want, "{size} ({options})");
        }
        rig.check();
        assert!(bytes(&rig).0 == want);
    }
}

#[test]
fn large_files_and_many_links_are_noted() {
    let Some(mut rig) = Rig::new("-t ext4 -b 1024 -O ^large_file,^huge_file", "16M") else { return };
    let o = rig.op(|n| n.make(Ino::ROOT, b"f", What::File, &Attributes::root(0o644))).unwrap();
    rig.op(|n| n.truncate(o.ino, 3 << 30)).unwrap();
    rig.check();
    let ro = rig.fs.volume.superblock().features().ro_compat;
    assert!(ro.contains(crate::format::features::RoCompat::LARGE_FILE));
    assert!(matches!(rig.op(|n| n.truncate(o.ino, 1 << 43)), Err(Error::InvalidArgument { .. })));
    assert!(matches!(rig.op(|n| n.parent_of(b"/a/..")), Err(Error::InvalidArgument { .. })));
    assert!(matches!(rig.op(|n| n.parent_of(b"/f/x")), Err(Error::NotDirectory { .. })));
}

/// Whether long tests are asked for.
fn is_long_run() -> bool {
    let long = std::env::var_os("EXT4KIT_MODEL_OPS").is_some();
    if !long {
        eprintln!("skipped: a long test, for which EXT4KIT_MODEL_OPS is set");
    }
    long
}

#[test]
fn directories_with_more_links_than_can_be_counted() {
    if !is_long_run() {
        return;
    }
    let dir_name = |n: u32| format!("{n:05}").into_bytes();
    let make = |rig: &mut Rig, dir: Ino, n: u32| {
        if n.is_multiple_of(300) {
            rig.commit();
        }
        rig.op(|namei| namei.make(dir, &dir_name(n), What::Directory, &Attributes::root(0o755)))
    };
    for options in ["-t ext4 -b 1024 -I 128 -N 66000", "-t ext3 -b 1024 -I 128 -N 66000 -O dir_index,^dir_nlink"] {
        let Some(mut rig) = Rig::new(options, "140M") else { return };
        let top = rig.op(|n| n.make(Ino::ROOT, b"top", What::Directory, &Attributes::root(0o755))).unwrap().ino;
        let links = |rig: &Rig| rig.fs.volume.inode(top).unwrap().core().links_count.get();
        for n in 0..64_998 {
            make(&mut rig, top, n).unwrap();
        }
        assert_eq!(links(&rig), 65_000);
        if options.contains("ext3") {
            let refused = make(&mut rig, top, 64_999);
            assert!(matches!(refused, Err(Error::NoSpace { what: "links", .. })), "{refused:?}");
            rig.discard();
            rig.check();
            continue;
        }
        for n in 64_998..65_100 {
            make(&mut rig, top, n).unwrap();
            assert_eq!(links(&rig), 1);
        }
        rig.check();
        // Names still move in and out; the count is not known again.
        rig.op(|n| n.rename(top, &dir_name(7), Ino::ROOT, b"out", false)).unwrap();
        rig.op(|n| n.rename(Ino::ROOT, b"out", top, &dir_name(8), false)).unwrap();
        for n in 10..60 {
            rig.op(|namei| namei.rmdir(top, &dir_name(n))).unwrap();
        }
        assert_eq!(links(&rig), 1);
        rig.check();
        assert_eq!(
            rig.fs.volume.read_dir(Owner { ino: top, inode: &rig.fs.volume.inode(top).unwrap() }).unwrap().len(),
            65_049
        );
    }
}

#[test]
fn indexes_of_two_and_three_levels() {
    if !is_long_run() {
        return;
    }
    let name = |n: u32| format!("{n:0250}").into_bytes();
    for options in ["-t ext4 -b 1024 -O large_dir", "-t ext4 -b 1024"] {
        let Some(mut rig) = Rig::new(options, "90M") else { return };
        let dir = rig.op(|n| n.make(Ino::ROOT, b"dir", What::Directory, &Attributes::root(0o755))).unwrap().ino;
        let file = rig.op(|n| n.make(dir, b"file", What::File, &Attributes::root(0o755))).unwrap().ino;
        let mut full = None;
        for n in 0..60_000 {
            if n % 500 == 0 {
                rig.commit();
            }
            if let Err(e) = rig.op(|namei| namei.link(file, dir, &name(n))) {
                assert!(matches!(e, Error::NoSpace { what: "directory index entries", .. }), "{e}");
                rig.discard();
                full = Some(n / 500 * 500);
                break;
            }
        }
        println!("{options}: full at {full:?}");
        assert_eq!(full.is_some(), !options.contains("large_dir"));
        let made = full.unwrap_or(60_000);
        assert!(made > 10_000, "{made}");
        rig.check();
        for n in 0..made {
            assert_eq!(rig.op(|namei| namei.lookup(dir, &name(n))).unwrap(), Some(file), "{n}");
        }
        for n in (0..made).filter(|n| n % 3 > 0) {
            if n % 500 == 1 {
                rig.commit();
            }
            rig.op(|namei| namei.unlink(dir, &name(n))).unwrap();
        }
        rig.check();
    }
}

fn read_file(rig: &Rig, ino: Ino) -> Vec<u8> {
    let vol = Volume::open(rig.view(), &OpenOptions::default()).unwrap();
    let inode = vol.inode(ino).unwrap();
    vol.reader(Owner { ino, inode: &inode }).unwrap().read_all(8 << 20).unwrap().unwrap()
}

/// A tail that is cleared goes through the journal. When its block is freed and holds other content, neither the log
/// nor a replay may bring it back.
#[test]
fn a_logged_tail_is_forgotten_with_its_block() {
    let Some(mut rig) = Rig::new("-t ext4 -b 1024 -J size=1", "3M") else { return };
    let a = Attributes::root(0o644);
    let first = rig.op(|n| n.make(Ino::ROOT, b"first", What::File, &a)).unwrap().ino;
    rig.op(|n| n.write_file(first, &mut Bytes(&[1; 1500]))).unwrap();
    rig.commit();
    rig.op(|n| n.truncate(first, 1100)).unwrap();
    rig.try_commit().unwrap();
    let inode = rig.fs.volume.inode(first).unwrap();
    let block = rig.fs.volume.extents(Owner { ino: first, inode: &inode }).unwrap()[0].pblk.0 + 1;
    rig.op(|n| n.unlink(Ino::ROOT, b"first")).unwrap();
    rig.try_commit().unwrap();
    let second = rig.op(|n| n.make(Ino::ROOT, b"second", What::File, &a)).unwrap().ino;
    let free = rig.fs.alloc.available_clusters() as usize - 20;
    let content = vec![2; free * 1024];
    rig.op(|n| n.write_file(second, &mut Bytes(&content))).unwrap();
    rig.try_commit().unwrap();
    let inode = rig.fs.volume.inode(second).unwrap();
    let extents = rig.fs.volume.extents(Owner { ino: second, inode: &inode }).unwrap();
    assert!(extents.iter().any(|e| (e.pblk.0..e.pblk.0 + u64::from(e.len)).contains(&block)), "not used again");
    let bytes = rig.device.base().to_bytes();
    rig.recover(bytes);
    assert!(read_file(&rig, second) == content);
    rig.check();
}

#[test]
fn lists_and_links_with_values_in_inodes() {
    let Some(mut rig) = Rig::new("-t ext4 -b 1024 -O ea_inode,quota", "16M") else { return };
    let file = rig.op(|n| n.make(Ino::ROOT, b"file", What::File, &Attributes::root(0o644))).unwrap().ino;
    for (name, len) in [(&b"user.a"[..], 60), (b"user.b", 880)] {
        rig.op(|n| n.set_xattr(file, name, Some(&vec![b'v'; len]))).unwrap();
    }
    let e = |tag, perm| AclEntry { tag, perm };
    let mut entries = vec![e(AclTag::UserObj, 7)];
    entries.extend((0..17).map(|n| e(AclTag::User(n), 7)));
    entries.extend([e(AclTag::GroupObj, 5), e(AclTag::Mask, 7), e(AclTag::Other, 4)]);
    let list = Acl { entries }.encode_host();
    rig.op(|n| n.set_xattr(file, b"system.posix_acl_access", Some(&list))).unwrap();
    let inode = rig.fs.volume.inode(file).unwrap();
    let all = rig.fs.volume.all_xattrs(Owner { ino: file, inode: &inode }).unwrap();
    assert!(all.iter().any(|x| x.name().starts_with(b"system.") && x.value_ino.is_some()), "{all:?}");
    rig.op(|n| n.change(file, &Change { permissions: Some(0o610), uid: Some(5), ..Change::default() })).unwrap();
    rig.check();
    let link = rig.op(|n| n.make(Ino::ROOT, b"link", What::Symlink(b"target"), &Attributes::root(0))).unwrap().ino;
    rig.op(|n| n.set_xattr(link, b"trusted.large", Some("v".repeat(20_000).as_bytes()))).unwrap();
    rig.check();
    let inode = rig.fs.volume.inode(link).unwrap();
    assert_eq!(rig.fs.volume.symlink_target(Owner { ino: link, inode: &inode }).unwrap(), b"target");
    for name in [&b"link"[..], b"file"] {
        rig.op(|n| n.unlink(Ino::ROOT, name)).unwrap();
    }
    rig.check();
}
