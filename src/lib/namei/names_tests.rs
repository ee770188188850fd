//! What new objects inherit, holes and tails of files, features that are noted when they are first used.

use super::model_tests::rig::Rig;
use super::{Attributes, Change, What};
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
