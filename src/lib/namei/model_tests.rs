//! Random operations on names against a plain model in memory, through the journal; the reference `e2fsck -fn` judges the
//! image at checkpoints. `EXT4KIT_MODEL_OPS` sets how many operations each kind of image gets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::{Attributes, Bytes, Change, Context, Namei, What};
use crate::Error;
use crate::alloc::Filesystem;
use crate::device::{BlockDevice, MemoryDevice};
use crate::env::{Entropy, FixedClock, SeededEntropy, Timestamp};
use crate::format::acl::{Acl, AclEntry, AclTag};
use crate::format::inode::FileType;
use crate::journal::{Journal, JournalOptions, direct};
use crate::units::Ino;
use crate::volume::{LastLink, OpenOptions, Owner, Volume};

const NOW: Timestamp = Timestamp { sec: 1_700_000_000, nsec: 7 };

fn tool(name: &str) -> Option<PathBuf> {
    let found = ["/usr/sbin", "/sbin", "/usr/bin"].iter().map(|d| Path::new(d).join(name)).find(|p| p.is_file());
    if found.is_none() {
        eprintln!("skipped: no {name} here");
    }
    found
}

/// A filesystem that is edited through its journal.
struct Rig {
    device: Arc<MemoryDevice>,
    journal: Journal,
    fs: Filesystem,
    ctx: Context,
    options: String,
}

impl Rig {
    fn new(options: &str, size: &str) -> Option<Self> {
        let mke2fs = tool("mke2fs")?;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let out = Command::new(mke2fs)
            .args(["-q", "-F"])
            .args(options.split_whitespace())
            .arg(&path)
            .arg(size)
            .output()
            .unwrap();
        assert!(out.status.success(), "mke2fs {options}: {}", String::from_utf8_lossy(&out.stderr));
        let device = Arc::new(MemoryDevice::from_bytes(std::fs::read(&path).unwrap()));
        let vol = Volume::open(device.clone(), &OpenOptions::default()).unwrap();
        let journal_options = JournalOptions::new(Arc::new(FixedClock(NOW)));
        let journal = if vol.superblock().journal_inum.get() == 0 {
            direct::open(&vol, journal_options).unwrap()
        } else {
            Journal::open(&vol, None, journal_options).unwrap()
        };
        let fs = Filesystem::open(journal.view(), &OpenOptions::default()).unwrap();
        let ctx = Context::new(&fs.volume, NOW);
        Some(Self { device, journal, fs, ctx, options: options.to_owned() })
    }

    /// One operation. A transaction that is full is committed first.
    fn op<T>(&mut self, f: impl Fn(&mut Namei<'_>) -> crate::Result<T>) -> crate::Result<T> {
        for _ in 0..2 {
            let mut handle = self.journal.start(0)?;
            let done = f(&mut Namei::new(self.fs.edit(&mut handle), &mut self.ctx));
            match done {
                Err(Error::TransactionTooLarge { .. }) => self.commit(),
                other => return other,
            }
        }
        panic!("an operation is larger than the log of {}", self.options)
    }

    fn commit(&mut self) {
        let mut handle = self.journal.start(0).unwrap();
        {
            use crate::volume::store::MetaStore;
            assert!(handle.extend(40).unwrap());
        }
        Namei::new(self.fs.edit(&mut handle), &mut self.ctx).sync_quota().unwrap();
        self.fs.sync_counts(&mut handle).unwrap();
        self.journal.commit().unwrap();
        self.journal.checkpoint().unwrap();
        self.fs.committed();
        self.ctx.committed();
    }

    fn check(&mut self) {
        self.commit();
        let Some(e2fsck) = tool("e2fsck") else { return };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        // As it will be when the journal is closed.
        let mut bytes = vec![0; self.device.len() as usize];
        self.journal.view().read_at(0, &mut bytes).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let out = Command::new(e2fsck).arg("-fn").arg(&path).output().unwrap();
        if !out.status.success() {
            let kept = std::env::temp_dir().join("ext4kit-failed-namei.img");
            let _ = std::fs::copy(&path, &kept);
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            panic!("e2fsck -fn ({}), image kept as {}:\n{text}", self.options, kept.display());
        }
    }
}

/// What an object is, in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Dir(BTreeMap<Vec<u8>, usize>),
    File(Vec<u8>),
    Link(Vec<u8>),
    Device(u32, u32),
    Fifo,
}

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    ino: Ino,
    permissions: u16,
    owner: (u32, u32),
    names: u32,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The filesystem and its model.
struct Model {
    rig: Rig,
    nodes: Vec<Option<Node>>,
    entropy: SeededEntropy,
    refused: u32,
}

const ROOT: usize = 0;

impl Model {
    fn new(options: &str, seed: u64) -> Option<Self> {
        let mut rig = Rig::new(options, "32M")?;
        rig.op(|n| n.remove_tree(Ino::ROOT, b"lost+found")).unwrap();
        let node = Node {
            kind: Kind::Dir(BTreeMap::new()),
            ino: Ino::ROOT,
            permissions: 0o755,
            owner: (0, 0),
            names: 1,
            xattrs: BTreeMap::new(),
        };
        Some(Self { rig, nodes: vec![Some(node)], entropy: SeededEntropy::new(seed), refused: 0 })
    }

    fn below(&mut self, n: u32) -> u32 {
        self.entropy.next_u32() % n.max(1)
    }

    fn node(&self, id: usize) -> &Node {
        self.nodes[id].as_ref().unwrap()
    }

    fn node_mut(&mut self, id: usize) -> &mut Node {
        self.nodes[id].as_mut().unwrap()
    }

    fn entries(&self, id: usize) -> Option<&BTreeMap<Vec<u8>, usize>> {
        match &self.node(id).kind {
            Kind::Dir(e) => Some(e),
            _ => None,
        }
    }

    fn entries_mut(&mut self, id: usize) -> &mut BTreeMap<Vec<u8>, usize> {
        match &mut self.node_mut(id).kind {
            Kind::Dir(e) => e,
            other => panic!("{other:?}"),
        }
    }

    fn any(&mut self, want: impl Fn(&Node) -> bool) -> Option<usize> {
        let start = self.below(self.nodes.len() as u32) as usize;
        (0..self.nodes.len())
            .map(|i| (start + i) % self.nodes.len())
            .find(|i| self.nodes[*i].as_ref().is_some_and(&want))
    }

    fn any_dir(&mut self) -> usize {
        self.any(|n| matches!(n.kind, Kind::Dir(_))).unwrap()
    }

    fn name(&mut self) -> Vec<u8> {
        let n = self.below(24);
        let pad = if n.is_multiple_of(5) { 200 } else { 3 };
        format!("{n:0pad$}").into_bytes()
    }

    /// A directory and a name, which is there most of the time.
    fn spot(&mut self) -> (usize, Vec<u8>) {
        let dir = self.any_dir();
        let count = self.entries(dir).unwrap().len() as u32;
        if count > 0 && self.below(4) > 0 {
            let i = self.below(count) as usize;
            return (dir, self.entries(dir).unwrap().keys().nth(i).unwrap().clone());
        }
        (dir, self.name())
    }

    fn content(&mut self) -> Vec<u8> {
        let sizes = [0, 1, 59, 60, 61, 150, 1000, 1024, 5000, 20_000, 90_000];
        let len = sizes[self.below(sizes.len() as u32) as usize];
        let salt = self.below(250) as u8 + 1;
        (0..len).map(|i: usize| (i as u8).wrapping_mul(31) ^ salt).collect()
    }

    /// Both agree on the outcome.
    fn agree(&mut self, what: &str, want: Option<&str>, got: &crate::Result<()>) -> bool {
        let kind = got.as_ref().err().map(Error::kind);
        assert_eq!(kind, want, "{what}: {got:?} ({})", self.rig.options);
        self.refused += u32::from(want.is_some());
        want.is_none()
    }

    fn step(&mut self) {
        match self.below(20) {
            0..4 => self.make(),
            4..7 => self.write(),
            7 => self.truncate(),
            8..10 => self.unlink(),
            10 => self.rmdir(),
            11..15 => self.rename(),
            15 => self.link(),
            16 => self.change(),
            17 => self.xattr(),
            18 => self.reread(),
            _ => {
                if self.below(12) == 0 {
                    self.remove_tree();
                }
            }
        }
    }

    fn make(&mut self) {
        let (dir, name) = (self.any_dir(), self.name());
        let target_len = [1, 59, 60, 400][self.below(4) as usize];
        let target = vec![b't'; target_len];
        let (kind, what) = match self.below(7) {
            0..3 => (Kind::File(vec![]), What::File),
            3 | 4 => (Kind::Dir(BTreeMap::new()), What::Directory),
            5 => (Kind::Link(target.clone()), What::Symlink(&target)),
            _ if target_len == 1 => (Kind::Fifo, What::Fifo),
            _ => (Kind::Device(300, 5000), What::Device { block: target_len == 59, major: 300, minor: 5000 }),
        };
        let a = Attributes { uid: self.below(3) * 70_000, gid: self.below(3), ..Attributes::root(0o640) };
        let parent = self.node(dir).ino;
        let got = self.rig.op(|n| n.make(parent, &name, what, &a));
        let want = self.entries(dir).unwrap().contains_key(&name).then_some("exists");
        let ino = got.as_ref().map_or(Ino(0), |o| o.ino);
        if self.agree("make", want, &got.map(|_| ())) {
            let permissions = if matches!(kind, Kind::Link(_)) { 0o777 } else { a.permissions };
            let node = Node { kind, ino, permissions, owner: (a.uid, a.gid), names: 1, xattrs: BTreeMap::new() };
            self.nodes.push(Some(node));
            let id = self.nodes.len() - 1;
            self.entries_mut(dir).insert(name, id);
        }
    }

    fn write(&mut self) {
        let Some(id) = self.any(|n| matches!(n.kind, Kind::File(_))) else { return };
        let (content, ino) = (self.content(), self.node(id).ino);
        self.rig.op(|n| n.write_file(ino, &mut Bytes(&content))).unwrap();
        self.node_mut(id).kind = Kind::File(content);
    }

    fn truncate(&mut self) {
        let Some(id) = self.any(|n| !matches!(n.kind, Kind::Fifo)) else { return };
        let size = self.content().len() + self.below(3000) as usize;
        let ino = self.node(id).ino;
        let got = self.rig.op(|n| n.truncate(ino, size as u64));
        let want = match self.node(id).kind {
            Kind::File(_) => None,
            Kind::Dir(_) => Some("is_directory"),
            _ => Some("invalid_argument"),
        };
        if self.agree("truncate", want, &got)
            && let Kind::File(content) = &mut self.node_mut(id).kind
        {
            content.resize(size, 0);
        }
    }

    /// A name is gone.
    fn drop_name(&mut self, id: usize) {
        let node = self.node_mut(id);
        node.names -= 1;
        if node.names == 0 {
            self.nodes[id] = None;
        }
    }

    fn unlink(&mut self) {
        let (dir, name) = self.spot();
        let ino = self.node(dir).ino;
        let got = self.rig.op(|n| n.unlink(ino, &name));
        let id = self.entries(dir).unwrap().get(&name).copied();
        let want = match id.map(|i| &self.node(i).kind) {
            None => Some("not_found"),
            Some(Kind::Dir(_)) => Some("is_directory"),
            _ => None,
        };
        if self.agree("unlink", want, &got) {
            self.entries_mut(dir).remove(&name);
            self.drop_name(id.unwrap());
        }
    }

    fn rmdir(&mut self) {
        let (dir, name) = self.spot();
        let ino = self.node(dir).ino;
        let got = self.rig.op(|n| n.rmdir(ino, &name));
        let id = self.entries(dir).unwrap().get(&name).copied();
        let want = match id.map(|i| &self.node(i).kind) {
            None => Some("not_found"),
            Some(Kind::Dir(e)) if e.is_empty() => None,
            Some(Kind::Dir(_)) => Some("not_empty"),
            _ => Some("not_directory"),
        };
        if self.agree("rmdir", want, &got) {
            self.entries_mut(dir).remove(&name);
            self.drop_name(id.unwrap());
        }
    }

    fn is_below(&self, dir: usize, top: usize) -> bool {
        dir == top || self.entries(top).is_some_and(|e| e.values().any(|c| self.is_below(dir, *c)))
    }

    fn rename(&mut self) {
        let (from, name) = self.spot();
        let (to, to_name) = self.spot();
        let keep = self.below(4) == 0;
        let (a, b) = (self.node(from).ino, self.node(to).ino);
        let got = self.rig.op(|n| n.rename(a, &name, b, &to_name, keep));
        let id = self.entries(from).unwrap().get(&name).copied();
        let old = self.entries(to).unwrap().get(&to_name).copied();
        let is_dir = |id: usize| matches!(self.node(id).kind, Kind::Dir(_));
        let want = match (id, old) {
            (None, _) => Some("not_found"),
            (Some(id), _) if is_dir(id) && from != to && self.is_below(to, id) => Some("into_itself"),
            (_, Some(_)) if keep => Some("exists"),
            (Some(id), Some(old)) if id == old => None,
            (Some(id), Some(old)) if is_dir(id) && !is_dir(old) => Some("not_directory"),
            (Some(id), Some(old)) if !is_dir(id) && is_dir(old) => Some("is_directory"),
            (_, Some(old)) if self.entries(old).is_some_and(|e| !e.is_empty()) => Some("not_empty"),
            _ => None,
        };
        if self.agree("rename", want, &got) && id != old {
            self.entries_mut(from).remove(&name);
            self.entries_mut(to).insert(to_name, id.unwrap());
            if let Some(old) = old {
                self.drop_name(old);
            }
        }
    }

    fn link(&mut self) {
        let Some(id) = self.any(|n| n.ino != Ino::ROOT) else { return };
        let (dir, name) = (self.any_dir(), self.name());
        let (ino, parent) = (self.node(id).ino, self.node(dir).ino);
        let got = self.rig.op(|n| n.link(ino, parent, &name));
        let want = if self.entries(dir).unwrap().contains_key(&name) {
            Some("exists")
        } else {
            matches!(self.node(id).kind, Kind::Dir(_)).then_some("is_directory")
        };
        if self.agree("link", want, &got) {
            self.node_mut(id).names += 1;
            self.entries_mut(dir).insert(name, id);
        }
    }

    fn change(&mut self) {
        let Some(id) = self.any(|n| !matches!(n.kind, Kind::Link(_))) else { return };
        let (p, uid, gid) = (self.below(0o10000) as u16, self.below(3) * 1000, self.below(100_000));
        let ino = self.node(id).ino;
        let change = Change { permissions: Some(p), uid: Some(uid), gid: Some(gid), ..Change::default() };
        self.rig.op(|n| n.change(ino, &change)).unwrap();
        let node = self.node_mut(id);
        (node.permissions, node.owner) = (p, (uid, gid));
        // Setgid directories would hand their group on.
        if matches!(node.kind, Kind::Dir(_)) && p & 0o2000 != 0 {
            node.permissions &= !0o2000;
            let change = Change { permissions: Some(p & !0o2000), ..Change::default() };
            self.rig.op(|n| n.change(ino, &change)).unwrap();
        }
    }

    fn xattr(&mut self) {
        let Some(id) = self.any(|n| matches!(n.kind, Kind::File(_) | Kind::Dir(_))) else { return };
        let name = format!("user.{}", self.below(4)).into_bytes();
        let len = [0, 5, 60, 300, 700][self.below(5) as usize];
        let value = (self.below(3) > 0).then(|| vec![b'v'; len]);
        let ino = self.node(id).ino;
        match self.rig.op(|n| n.set_xattr(ino, &name, value.as_deref())) {
            Ok(had) => {
                let xattrs = &mut self.node_mut(id).xattrs;
                let old = match value {
                    Some(v) => xattrs.insert(name, v),
                    None => xattrs.remove(&name),
                };
                assert_eq!(had, old.is_some());
            }
            Err(Error::NoSpace { .. }) => assert!(value.is_some()),
            Err(e) => panic!("{e}"),
        }
    }

    fn remove_tree(&mut self) {
        let (dir, name) = self.spot();
        let ino = self.node(dir).ino;
        let got = self.rig.op(|n| n.remove_tree(ino, &name));
        let id = self.entries(dir).unwrap().get(&name).copied();
        if self.agree("remove_tree", id.is_none().then_some("not_found"), &got) {
            self.entries_mut(dir).remove(&name);
            self.drop_tree(id.unwrap());
        }
    }

    fn drop_tree(&mut self, id: usize) {
        let children: Vec<usize> = self.entries(id).map(|e| e.values().copied().collect()).unwrap_or_default();
        for c in children {
            self.drop_tree(c);
        }
        self.drop_name(id);
    }

    /// One file, in the middle of a transaction.
    fn reread(&mut self) {
        let Some(id) = self.any(|n| matches!(n.kind, Kind::File(_))) else { return };
        self.compare(id, &self.rig.fs.volume);
    }

    fn compare(&self, id: usize, vol: &Volume) {
        let node = self.node(id);
        let inode = vol.inode(node.ino).unwrap();
        let owner = Owner { ino: node.ino, inode: &inode };
        let kind = match inode.file_type().unwrap() {
            FileType::Directory => {
                let all = vol.read_dir(owner).unwrap();
                let want = self.entries(id).unwrap();
                assert_eq!(all.len(), want.len());
                for e in all {
                    assert_eq!(self.node(want[&e.name]).ino, e.ino);
                    assert_eq!(vol.lookup(owner, &e.name).unwrap(), Some(e.ino));
                }
                Kind::Dir(want.clone())
            }
            FileType::Regular => Kind::File(vol.reader(owner).unwrap().read_all(1 << 20).unwrap().unwrap()),
            FileType::Symlink => Kind::Link(vol.symlink_target(owner).unwrap()),
            FileType::Fifo => Kind::Fifo,
            _ => Kind::Device(inode.device_numbers().0, inode.device_numbers().1),
        };
        assert!(kind == node.kind, "content of inode {} differs ({})", node.ino, self.rig.options);
        assert_eq!((inode.permissions(), (inode.uid(), inode.gid())), (node.permissions, node.owner), "{}", node.ino);
        let links = match &node.kind {
            Kind::Dir(e) => 2 + e.values().filter(|c| matches!(self.node(**c).kind, Kind::Dir(_))).count() as u32,
            _ => node.names,
        };
        assert_eq!(u32::from(inode.core().links_count.get()), links, "links of inode {}", node.ino);
        let xattrs: BTreeMap<_, _> = vol.xattrs(owner).unwrap().into_iter().map(|x| (x.name(), x.value)).collect();
        assert!(xattrs == node.xattrs, "attributes of inode {}", node.ino);
    }

    fn check(&mut self) {
        self.rig.check();
        let vol = Volume::open(self.rig.journal.view(), &OpenOptions::default()).unwrap();
        for id in 0..self.nodes.len() {
            if self.nodes[id].is_some() {
                self.compare(id, &vol);
            }
        }
    }
}

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
fn names_equal_a_model() {
    let operations = std::env::var("EXT4KIT_MODEL_OPS").ok().and_then(|v| v.parse().ok()).unwrap_or(2500u32);
    for (seed, options) in IMAGES.iter().enumerate() {
        let Some(mut m) = Model::new(options, seed as u64) else { return };
        for i in 0..operations {
            m.step();
            if i % 25_000 == 700 {
                m.check();
            }
        }
        m.check();
        let live = m.nodes.iter().flatten().count();
        println!("{options}: {operations} operations, {} refused, {live} objects", m.refused);
        assert_eq!(m.node(ROOT).ino, Ino::ROOT);
    }
}

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
            let vol = Volume::open(rig.journal.view(), &o).unwrap();
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
