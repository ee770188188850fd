//! The plain model: what names, content and attributes should be; taken back with the transaction, compared with a volume.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::super::Namei;
use super::content::Stuff;
use super::rig::Rig;
use crate::Error;
use crate::env::{Entropy, SeededEntropy, Timestamp};
use crate::format::casefold;
use crate::format::inode::{FileType, Inode, InodeFlags, TimeField};
use crate::units::Ino;
use crate::volume::{OpenOptions, Owner, Volume};

/// Names of a directory, as they are compared: each with how it is spelled, and what it stands for.
pub(super) type Names = BTreeMap<Vec<u8>, (Vec<u8>, usize)>;

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Dir(Names),
    File(Stuff),
    Link(Vec<u8>),
    Device(FileType, u32, u32),
    /// A pipe or socket.
    Other(FileType),
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) ino: Ino,
    /// Of directories.
    pub(super) parent: usize,
    pub(super) subdirs: u32,
    pub(super) permissions: u16,
    pub(super) owner: (u32, u32),
    pub(super) project: u32,
    pub(super) hands_project_on: bool,
    pub(super) names: u32,
    /// Values as stored.
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) mtime: Timestamp,
    /// Unknown where whether anything changed depends on the order of attributes.
    pub(super) ctime: Option<Timestamp>,
}

impl Node {
    pub(super) const fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir(_))
    }

    pub(super) const fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File(_))
    }
}

/// The objects; slots of those that are gone are used again.
pub(super) type Nodes = Vec<Option<Rc<Node>>>;

pub(super) const ROOT: usize = 0;

/// What happened in a run.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) operations: u64,
    pub(super) refused: u64,
    pub(super) full: u64,
    pub(super) commits: u64,
    pub(super) cuts: u64,
    pub(super) lost_commits: u64,
    pub(super) checks: u64,
}

/// The filesystem and its model.
pub(super) struct Model {
    pub(super) rig: Rig,
    pub(super) nodes: Nodes,
    free: Vec<usize>,
    /// As at the last commit.
    committed: Nodes,
    pub(super) entropy: SeededEntropy,
    pub(super) counts: Counts,
    pub(super) folds: bool,
    /// Bytes of the device before the running transaction, where its commit is to be cut.
    base: Option<Vec<u8>>,
    seed: u64,
    trace: VecDeque<String>,
    /// Most operations that are remembered.
    kept: u64,
}

impl Drop for Model {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("mke2fs {}, seed {}: {:?}", self.rig.options, self.seed, self.counts);
            eprintln!("last operations:");
            self.trace.iter().for_each(|t| eprintln!("  {t}"));
        }
    }
}

impl Model {
    pub(super) fn new(options: &str, size: &str, seed: u64) -> Option<Self> {
        let mut rig = Rig::new(options, size)?;
        rig.op(|n| n.remove_tree(Ino::ROOT, b"lost+found")).unwrap();
        let folds = options.contains("casefold");
        if folds {
            rig.op(|n| {
                let mut root = n.open(Ino::ROOT)?;
                root.set(InodeFlags::CASEFOLD, true);
                n.put(&mut root)
            })
            .unwrap();
        }
        let node = Node {
            kind: Kind::Dir(Names::new()),
            ino: Ino::ROOT,
            parent: ROOT,
            subdirs: 0,
            permissions: 0o755,
            owner: (0, 0),
            project: 0,
            hands_project_on: false,
            names: 1,
            xattrs: BTreeMap::new(),
            mtime: rig.ctx.now(),
            ctime: None,
        };
        let nodes = vec![Some(Rc::new(node))];
        let mut m = Self {
            rig,
            committed: nodes.clone(),
            nodes,
            free: vec![],
            entropy: SeededEntropy::new(seed),
            counts: Counts::default(),
            folds,
            base: None,
            seed,
            trace: VecDeque::new(),
            kept: super::number("EXT4KIT_MODEL_TRACE").unwrap_or(30),
        };
        m.commit();
        Some(m)
    }

    pub(super) fn below(&mut self, n: u32) -> u32 {
        self.entropy.next_u32() % n.max(1)
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    pub(super) fn node(&self, id: usize) -> &Node {
        self.nodes[id].as_ref().unwrap()
    }

    pub(super) fn node_mut(&mut self, id: usize) -> &mut Node {
        Rc::make_mut(self.nodes[id].as_mut().unwrap())
    }

    pub(super) fn names(&self, id: usize) -> &Names {
        match &self.node(id).kind {
            Kind::Dir(e) => e,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn names_mut(&mut self, id: usize) -> &mut Names {
        match &mut self.node_mut(id).kind {
            Kind::Dir(e) => e,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn live(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    pub(super) fn any(&mut self, want: impl Fn(&Node) -> bool) -> Option<usize> {
        let len = self.nodes.len();
        let start = self.below(len as u32) as usize;
        (start..len).chain(0..start).find(|i| self.nodes[*i].as_ref().is_some_and(|n| want(n)))
    }

    /// A name as it is compared.
    pub(super) fn key(&self, name: &[u8]) -> Vec<u8> {
        if self.folds { casefold::key(name).into_owned() } else { name.to_vec() }
    }

    pub(super) fn get(&self, dir: usize, name: &[u8]) -> Option<usize> {
        self.names(dir).get(&self.key(name)).map(|e| e.1)
    }

    /// A new object under a new name.
    pub(super) fn add(&mut self, dir: usize, name: Vec<u8>, node: Node) -> usize {
        let id = self.free.pop().unwrap_or(self.nodes.len());
        if id == self.nodes.len() {
            self.nodes.push(None);
        }
        self.nodes[id] = Some(Rc::new(node));
        self.enter(dir, name, id);
        id
    }

    pub(super) fn enter(&mut self, dir: usize, name: Vec<u8>, id: usize) {
        let key = self.key(&name);
        self.names_mut(dir).insert(key, (name, id));
        if self.node(id).is_dir() {
            self.node_mut(id).parent = dir;
            self.node_mut(dir).subdirs += 1;
        }
        self.touch(dir);
    }

    /// Take a name away; what it stood for loses a name too, if it is `gone`.
    pub(super) fn leave(&mut self, dir: usize, name: &[u8], gone: bool) {
        let key = self.key(name);
        let (_, id) = self.names_mut(dir).remove(&key).unwrap();
        if self.node(id).is_dir() {
            self.node_mut(dir).subdirs -= 1;
        }
        self.touch(dir);
        if gone {
            self.drop_name(id);
        }
    }

    pub(super) fn drop_name(&mut self, id: usize) {
        let now = self.rig.ctx.now();
        let node = self.node_mut(id);
        node.names -= 1;
        node.ctime = Some(now);
        if node.names == 0 {
            self.nodes[id] = None;
            self.free.push(id);
        }
    }

    /// The content has changed.
    pub(super) fn touch(&mut self, id: usize) {
        let now = self.rig.ctx.now();
        let node = self.node_mut(id);
        (node.mtime, node.ctime) = (now, Some(now));
    }

    pub(super) fn is_below(&self, dir: usize, top: usize) -> bool {
        let mut at = dir;
        while at != top && at != ROOT {
            at = self.node(at).parent;
        }
        at == top
    }

    /// One operation. Where it fails for want of space, it and all before it since the last commit never happened.
    pub(super) fn op<T>(&mut self, text: String, f: impl Fn(&mut Namei<'_>) -> crate::Result<T>) -> crate::Result<T> {
        let done = self.op_as_it_is(text, f);
        if matches!(done, Err(Error::NoSpace { .. })) {
            self.roll_back();
        }
        done
    }

    /// An operation that changes an attribute. Where there is no room for that, nothing has changed.
    pub(super) fn op_on_attribute(
        &mut self,
        id: usize,
        text: String,
        f: impl Fn(&mut Namei<'_>) -> crate::Result<bool>,
    ) -> crate::Result<bool> {
        let done = self.op_as_it_is(text, f);
        if matches!(done, Err(Error::NoSpace { what: "bytes for extended attributes", .. })) {
            self.counts.full -= 1;
            self.counts.refused += 1;
            matches_node(&self.nodes, id, &self.rig.fs.volume, self.folds).unwrap();
        } else if matches!(done, Err(Error::NoSpace { .. })) {
            self.roll_back();
        }
        done
    }

    fn op_as_it_is<T>(&mut self, text: String, f: impl Fn(&mut Namei<'_>) -> crate::Result<T>) -> crate::Result<T> {
        self.start(text);
        // What a commit adds must fit as well.
        if self.rig.journal().room() < 400 {
            self.commit();
        }
        let mut before = self.rig.journal().changes();
        let mut done = self.rig.try_op(&f);
        if matches!(done, Err(Error::TransactionTooLarge { .. })) && self.rig.journal().changes() == before {
            self.commit();
            before = self.rig.journal().changes();
            done = self.rig.try_op(&f);
        }
        // Content in many pieces may find the transaction full in its middle.
        if let Err(Error::TransactionTooLarge { need, have }) = done {
            assert!(self.rig.journal().changes() != before, "larger than an empty transaction");
            done = Err(Error::NoSpace { what: "blocks of the journal", need, have });
        }
        if let Err(e @ Error::NoSpace { what, .. }) = &done {
            assert!(*what != "credits", "{e}");
            self.counts.full += 1;
        }
        done
    }

    /// An operation of several steps, which leaves nothing where it is larger than a transaction. To be the first of one.
    pub(super) fn op_in_steps(
        &mut self,
        text: String,
        f: impl Fn(&mut Namei<'_>) -> crate::Result<()>,
    ) -> crate::Result<()> {
        self.start(text);
        let done = self.rig.try_op(&f);
        if matches!(done, Err(Error::NoSpace { .. } | Error::TransactionTooLarge { .. })) {
            self.counts.full += 1;
            self.roll_back();
        }
        done
    }

    fn start(&mut self, text: String) {
        self.counts.operations += 1;
        if self.trace.len() as u64 >= self.kept {
            self.trace.pop_front();
        }
        self.trace.push_back(text);
        let n = self.counts.operations;
        let now = Timestamp { sec: super::rig::NOW.sec + (n / 8) as i64, nsec: (n % 8 * 1000) as u32 };
        self.rig.ctx.set_now(now);
    }

    fn note(&mut self, text: &str) {
        self.trace.push_back(text.to_owned());
    }

    /// What came of an operation, where it is what the model wants; nothing where it was refused or had no space.
    pub(super) fn agree<T>(&mut self, want: Option<&str>, got: crate::Result<T>) -> Option<T> {
        match (want, got) {
            (None, Ok(v)) => Some(v),
            (None, Err(Error::NoSpace { .. })) => None,
            (want, got) => {
                let kind = got.as_ref().err().map(Error::kind);
                assert_eq!(kind, want, "{:?}: {:?}", self.trace.back(), got.err());
                self.counts.refused += 1;
                None
            }
        }
    }

    fn renew_free(&mut self) {
        self.free = (0..self.nodes.len()).filter(|i| self.nodes[*i].is_none()).collect();
    }

    pub(super) fn roll_back(&mut self) {
        self.note("-- given up");
        self.rig.discard();
        self.nodes = self.committed.clone();
        self.renew_free();
        let all = self.below(8) == 0;
        for _ in 0..5 {
            let id = self.any(|_| true).unwrap();
            matches_node(&self.nodes, id, &self.rig.fs.volume, self.folds).unwrap();
        }
        if all {
            self.compare_all();
        }
    }

    pub(super) fn commit(&mut self) {
        if self.base.is_some() && self.rig.journal().is_atomic() {
            return self.cut_commit();
        }
        match self.rig.try_commit() {
            Err(Error::NoSpace { what, .. }) if what != "credits" => return self.roll_back(),
            done => done.unwrap(),
        }
        self.counts.commits += 1;
        if self.below(3) == 0 {
            self.rig.journal().checkpoint().unwrap();
        }
        self.after_commit();
    }

    fn after_commit(&mut self) {
        self.committed = self.nodes.clone();
        let _ = self.rig.device.take_log();
        self.base = (self.below(60) == 0).then(|| self.rig.device.base().to_bytes());
        self.note("-- committed");
    }

    /// Let the power fail somewhere in the transaction, its commit, or a checkpoint after it.
    fn cut_commit(&mut self) {
        let Some(base) = self.base.take() else { return };
        if self.rig.try_commit().is_err() {
            return self.roll_back();
        }
        if self.below(2) == 0 {
            self.rig.journal().checkpoint().unwrap();
        }
        self.counts.cuts += 1;
        let log = self.rig.device.take_log();
        let end = self.below(log.len() as u32 + 1) as usize;
        let state = log.sample(end, &mut self.entropy);
        let device = crate::device::MemoryDevice::from_bytes(base);
        log.apply(&state, &device).unwrap();
        self.rig.recover(device.into_bytes());
        let new = first_difference(&self.nodes, &self.rig.fs.volume, self.folds);
        if let Err(new) = new {
            let old = first_difference(&self.committed, &self.rig.fs.volume, self.folds);
            let at = format!("cut after {end} of {} events", log.len());
            assert!(old.is_ok(), "{at}: neither old ({}) nor new ({new})", old.unwrap_err());
            assert!(end < log.len(), "{at}: a commit is lost ({new})");
            self.nodes = self.committed.clone();
            self.renew_free();
            self.counts.lost_commits += 1;
        }
        self.note("-- cut in a commit");
        self.after_commit();
        if self.below(4) == 0 {
            let bytes = self.rig.device.base().to_bytes();
            self.rig.judge(&bytes);
        }
    }

    /// Let the power fail in the middle of a transaction.
    pub(super) fn cut(&mut self) {
        self.note("-- cut");
        self.counts.cuts += 1;
        let bytes = self.rig.device.base().to_bytes();
        self.rig.recover(bytes);
        self.nodes = self.committed.clone();
        self.renew_free();
        self.compare_all();
        self.after_commit();
    }

    pub(super) fn compare_all(&self) {
        if let Err(e) = first_difference(&self.nodes, &self.rig.fs.volume, self.folds) {
            panic!("{e}");
        }
    }

    /// Close, judge, open again, compare.
    pub(super) fn check(&mut self) {
        self.commit();
        self.base = None;
        self.counts.checks += 1;
        self.rig.reopen();
        let bytes = self.rig.device.base().to_bytes();
        self.rig.judge(&bytes);
        self.compare_all();
        self.commit();
    }
}

/// The first object that differs between a model and a volume.
fn first_difference(nodes: &Nodes, vol: &Volume, folds: bool) -> Result<(), String> {
    let live = (0..nodes.len()).filter(|i| nodes[*i].is_some());
    live.into_iter().try_for_each(|id| matches_node(nodes, id, vol, folds))
}

/// Another volume over the same, as somebody else would open it.
pub(super) fn fresh(rig: &Rig) -> Volume {
    Volume::open(rig.view(), &OpenOptions::default()).unwrap()
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, want: &T) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("{what}: {got:?} instead of {want:?}")) }
}

pub(super) fn matches_node(nodes: &Nodes, id: usize, vol: &Volume, folds: bool) -> Result<(), String> {
    let node = nodes[id].as_ref().unwrap();
    let inode = vol.inode(node.ino).map_err(|e| e.to_string())?;
    matches_inode(nodes, node, &inode, vol, folds)
        .map_err(|e| format!("inode {} ({:?}): {e}", node.ino, inode.file_type()))
}

fn matches_inode(nodes: &Nodes, node: &Node, inode: &Inode, vol: &Volume, folds: bool) -> Result<(), String> {
    let owner = Owner { ino: node.ino, inode };
    let fail = |e: Error| e.to_string();
    let kind = inode.file_type().ok_or("no type")?;
    match (&node.kind, kind) {
        (Kind::Dir(names), FileType::Directory) => {
            let all = vol.read_dir(owner).map_err(fail)?;
            same("entries", &all.len(), &names.len())?;
            for e in all {
                let key = if folds { casefold::key(&e.name).into_owned() } else { e.name.clone() };
                let (name, id) = names.get(&key).ok_or_else(|| format!("unknown name {:?}", e.name))?;
                same("name", &e.name, name)?;
                same("entry", &e.ino, &nodes[*id].as_ref().unwrap().ino)?;
                let asked = if folds { e.name.to_ascii_uppercase() } else { e.name };
                same("look-up", &vol.lookup(owner, &asked).map_err(fail)?, &Some(e.ino))?;
            }
            let parent = nodes[node.parent].as_ref().unwrap().ino;
            same("..", &vol.lookup(owner, b"..").map_err(fail)?, &Some(parent))?;
        }
        (Kind::File(stuff), FileType::Regular) => matches_content(stuff, owner, vol)?,
        (Kind::Link(target), FileType::Symlink) => same("target", &vol.symlink_target(owner).map_err(fail)?, target)?,
        (Kind::Device(t, major, minor), _) => {
            same("type", &kind, t)?;
            same("device", &inode.device_numbers(), &(*major, *minor))?;
        }
        (Kind::Other(t), _) => same("type", &kind, t)?,
        _ => return Err("another type".into()),
    }
    same("permissions", &inode.permissions(), &node.permissions)?;
    same("owner", &(inode.uid(), inode.gid()), &node.owner)?;
    same("project", &inode.core().projid.get(), &node.project)?;
    let links = if node.is_dir() { 2 + node.subdirs } else { node.names };
    same("links", &u32::from(inode.core().links_count.get()), &links)?;
    let seen = vol.xattrs(owner).map_err(fail)?.into_iter().map(|x| (x.name(), x.value));
    let seen: BTreeMap<_, _> = seen.collect();
    if seen != node.xattrs {
        let sizes = |m: &BTreeMap<Vec<u8>, Vec<u8>>| -> Vec<_> {
            m.iter().map(|(k, v)| (String::from_utf8_lossy(k).into_owned(), v.len())).collect()
        };
        return Err(format!("attributes: {:?} instead of {:?}", sizes(&seen), sizes(&node.xattrs)));
    }
    let fine = |t: Timestamp| if inode.as_bytes().len() > 128 { t } else { Timestamp::from_secs(t.sec) };
    same("mtime", &inode.time(TimeField::Modify), &fine(node.mtime))?;
    match node.ctime {
        Some(t) => same("ctime", &inode.time(TimeField::Change), &fine(t)),
        None => Ok(()),
    }
}

fn matches_content(stuff: &Stuff, owner: Owner<'_>, vol: &Volume) -> Result<(), String> {
    let reader = vol.reader(owner).map_err(|e| e.to_string())?;
    same("size", &reader.size(), &stuff.size)?;
    let bs = u64::from(vol.geometry().block_size);
    let part = |start: u64, end: u64| -> Result<(), String> {
        let (mut got, mut want) = (vec![0; (end - start) as usize], vec![0; (end - start) as usize]);
        reader.read_at(start, &mut got).map_err(|e| e.to_string())?;
        stuff.fill(start, &mut want);
        match got.iter().zip(&want).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(at) => Err(format!("byte {} of {} differs", start + at as u64, stuff.size)),
        }
    };
    if stuff.size <= 1 << 18 {
        return part(0, stuff.size);
    }
    for p in &stuff.pieces {
        part(p.start.saturating_sub(100), (p.end + 100).min(stuff.size))?;
    }
    for e in reader.extents() {
        let start = u64::from(e.lblk.0) * bs;
        // What lies behind the end is not shown.
        if start < stuff.size {
            part(start, (e.end() * bs).min(stuff.size))?;
        }
    }
    Ok(())
}
