//! Random operations, done to the filesystem and to the model.

use super::super::{Attributes, What};
use super::content::{Piece, Stuff};
use super::model::{Kind, Model, Names, Node, ROOT, fresh, matches_node};
use crate::Error;
use crate::env::Timestamp;
use crate::format::acl::{Acl, AclTag};
use crate::format::inode::FileType;
use crate::units::Ino;
use crate::volume::MapKind;

pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

type Op = fn(&mut Model);

/// What there is to do.
const OPS: [Op; 18] = [
    Model::make,
    Model::write,
    Model::patch,
    Model::truncate,
    Model::unlink,
    Model::rmdir,
    Model::rename,
    Model::link,
    Model::change,
    Model::set_xattr,
    Model::set_acl,
    Model::share_xattrs,
    Model::reread,
    Model::remove_tree,
    Model::make_many,
    Model::remove_many,
    Model::make_deep,
    Model::clear_xattrs,
];

/// How often, in each kind of phase.
const PHASES: [[u8; OPS.len()]; 6] = [
    [40, 30, 10, 10, 20, 10, 30, 10, 10, 10, 4, 2, 6, 1, 1, 1, 1, 1],
    [60, 30, 6, 6, 10, 2, 20, 20, 6, 10, 4, 2, 2, 0, 1, 0, 2, 0],
    [5, 20, 20, 20, 15, 1, 5, 1, 1, 1, 0, 0, 8, 1, 0, 0, 0, 0],
    [5, 5, 1, 2, 30, 15, 20, 2, 1, 1, 1, 1, 1, 1, 0, 2, 0, 2],
    [10, 3, 1, 1, 5, 3, 10, 3, 15, 40, 20, 10, 1, 1, 0, 0, 0, 5],
    [10, 2, 0, 1, 10, 5, 40, 20, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0],
];
/// More objects than this are not aimed at.
const MANY: usize = 1500;

impl Model {
    /// Operations of one phase.
    pub(super) fn phase(&mut self, operations: u64) {
        let phase = match self.live() {
            0..30 => PHASES[self.below(2) as usize],
            n if n > MANY => PHASES[3],
            _ => self.pick(&PHASES),
        };
        let sum: u32 = phase.iter().map(|w| u32::from(*w)).sum();
        let end = self.counts.operations + operations;
        while self.counts.operations < end {
            let mut at = self.below(sum);
            for (op, weight) in OPS.iter().zip(phase) {
                let Some(rest) = at.checked_sub(weight.into()) else {
                    op(self);
                    break;
                };
                at = rest;
            }
            match self.below(400) {
                0..4 => self.commit(),
                4 if self.below(4) == 0 => self.cut(),
                _ => {}
            }
        }
    }

    fn any_dir(&mut self) -> usize {
        // The root now and then, others most of the time.
        if self.below(10) == 0 { ROOT } else { self.any(Node::is_dir).unwrap() }
    }

    fn any_file(&mut self) -> Option<usize> {
        self.any(Node::is_file)
    }

    fn new_name(&mut self) -> Vec<u8> {
        let n = self.below(26);
        let len = match self.below(12) {
            0 => 255,
            1 => 200,
            2 => 1 + self.below(250),
            _ => 3,
        };
        let mut name = vec![b'a' + n as u8; len as usize];
        if let Some(b) = name.get_mut(1) {
            *b = b'a' + self.below(3) as u8;
        }
        if self.folds {
            for b in &mut name {
                *b = if self.below(2) == 0 { b.to_ascii_uppercase() } else { *b };
            }
        }
        name
    }

    /// A directory and a name, which is there most of the time.
    fn spot(&mut self) -> (usize, Vec<u8>) {
        let dir = self.any_dir();
        let count = self.names(dir).len() as u32;
        if count > 0 && self.below(5) > 0 {
            let i = self.below(count) as usize;
            return (dir, self.names(dir).values().nth(i).unwrap().0.clone());
        }
        (dir, self.new_name())
    }

    pub(super) fn show(name: &[u8]) -> String {
        format!("{}({})", String::from_utf8_lossy(&name[..name.len().min(4)]), name.len())
    }

    /// What an object in `dir` gets that asks for these permissions, as the kernel decides.
    fn inherited(&self, dir: usize, kind: FileType, a: &Attributes) -> Node {
        let up = self.node(dir);
        let now = self.rig.ctx.now();
        let is_dir = kind == FileType::Directory;
        let mut node = Node {
            kind: Kind::Other(kind),
            ino: Ino(0),
            parent: ROOT,
            subdirs: 0,
            permissions: if kind == FileType::Symlink { 0o777 } else { a.permissions },
            owner: (a.uid, a.gid),
            project: if up.hands_project_on { up.project } else { 0 },
            hands_project_on: is_dir && up.hands_project_on,
            names: 1,
            xattrs: std::collections::BTreeMap::new(),
            mtime: a.mtime.unwrap_or(now),
            ctime: Some(now),
        };
        if !a.inherit {
            return node;
        }
        if up.permissions & 0o2000 != 0 {
            node.owner.1 = up.owner.1;
            node.permissions |= if is_dir { 0o2000 } else { 0 };
        }
        if let Some(list) = up.xattrs.get(DEFAULT).filter(|_| kind != FileType::Symlink) {
            let mut acl = Acl::decode_disk(list).unwrap();
            let masked = acl.entries.iter().any(|e| e.tag == AclTag::Mask);
            for e in &mut acl.entries {
                let shift = match e.tag {
                    AclTag::UserObj => 6,
                    AclTag::Mask => 3,
                    AclTag::GroupObj if !masked => 3,
                    AclTag::Other => 0,
                    _ => continue,
                };
                e.perm &= node.permissions >> shift & 7;
                node.permissions = node.permissions & !(7 << shift) | e.perm << shift;
            }
            if masked {
                node.xattrs.insert(ACCESS.to_vec(), acl.encode_disk());
            }
            if is_dir {
                node.xattrs.insert(DEFAULT.to_vec(), list.clone());
            }
        }
        node
    }

    /// Make an object; which one it is, if it was made.
    fn make_as(&mut self, dir: usize, name: Vec<u8>, kind: Kind) -> Option<usize> {
        let target = if let Kind::Link(t) = &kind { t.clone() } else { vec![] };
        let what = match &kind {
            Kind::Dir(_) => What::Directory,
            Kind::File(_) => What::File,
            Kind::Link(_) => What::Symlink(&target),
            Kind::Device(t, major, minor) => {
                What::Device { block: *t == FileType::BlockDevice, major: *major, minor: *minor }
            }
            Kind::Other(FileType::Socket) => What::Socket,
            Kind::Other(_) => What::Fifo,
        };
        let when = Timestamp::from_secs(1_000_000_000 + i64::from(self.below(1000)));
        let a = Attributes {
            permissions: self.pick(&[0o640, 0o777, 0o600]),
            uid: self.below(3) * 70_000,
            gid: self.below(3),
            inherit: self.below(4) > 0,
            mtime: (self.below(3) == 0).then_some(when),
        };
        let want = self.get(dir, &name).map(|_| "exists");
        let parent = self.node(dir).ino;
        let text = format!("make {:?} {} in {parent}", what.kind(), Self::show(&name));
        let got = self.op(text, |n| n.make(parent, &name, what, &a));
        let o = self.agree(want, got)?;
        let node = Node { ino: o.ino, ..self.inherited(dir, what.kind(), &a) };
        Some(self.add(dir, name, Node { kind, ..node }))
    }

    fn make(&mut self) {
        let (dir, name) = (self.any_dir(), self.new_name());
        let longest = self.rig.fs.volume.geometry().block_size as usize - 1;
        let target = vec![b't'; self.pick(&[1, 59, 60, 400, longest])];
        let kind = match self.below(9) {
            0..4 => Kind::File(Stuff::default()),
            4..6 => Kind::Dir(Names::new()),
            6 => Kind::Link(target),
            7 => Kind::Device(self.pick(&[FileType::BlockDevice, FileType::CharDevice]), 300, self.pick(&[1, 70_000])),
            _ => Kind::Other(self.pick(&[FileType::Fifo, FileType::Socket])),
        };
        self.make_as(dir, name, kind);
    }

    fn stuff(&mut self) -> Stuff {
        let size = self.pick(&[0, 1, 59, 60, 61, 150, 400, 1000, 1024, 5000, 20_000, 90_000, 300_000]);
        let piece = |m: &mut Self, start, end| Piece { start, end, salt: m.below(1 << 20) };
        let mut s = Stuff { size, pieces: vec![] };
        match self.below(6) {
            // Scattered over a sparse file, now and then a large one.
            0 => {
                let far = self.pick(&[20_000u32, 300_000, 3_000_000, 100_000_000]);
                for _ in 0..self.below(30) {
                    let start = u64::from(self.below(far));
                    let end = start + 1 + u64::from(self.below(3000));
                    let new = piece(self, start, end);
                    s.put(new);
                    s.size = s.size.max(end);
                }
            }
            1 if size > 2 => {
                let at = u64::from(self.below(size as u32));
                let new = piece(self, at / 2, at + 1);
                s.put(new);
            }
            _ if size > 0 => {
                let new = piece(self, 0, size);
                s.put(new);
            }
            _ => {}
        }
        s
    }

    fn write(&mut self) {
        let Some(id) = self.any_file() else { return };
        let (stuff, ino) = (self.stuff(), self.node(id).ino);
        let text = format!("write {ino}: {} bytes, {} pieces", stuff.size, stuff.pieces.len());
        let got = self.op(text, |n| n.write_file(ino, &mut &stuff));
        if self.agree(None, got).is_some() {
            self.node_mut(id).kind = Kind::File(stuff);
            self.touch(id);
        }
    }

    /// Give some blocks of a file other blocks, with other content.
    fn patch(&mut self) {
        let Some(id) = self.any(|n| matches!(&n.kind, Kind::File(s) if s.size > 0)) else { return };
        let Kind::File(mut stuff) = self.node(id).kind.clone() else { return };
        let ino = self.node(id).ino;
        let vol = &self.rig.fs.volume;
        let geo = vol.geometry();
        let (bs, step) = (u64::from(geo.block_size), u64::from(geo.cluster_ratio));
        if vol.map_kind(&vol.inode(ino).unwrap()) == MapKind::None {
            return;
        }
        let blocks = stuff.size.div_ceil(bs);
        let from = u64::from(self.below(blocks as u32)) / step * step;
        let to = (from + step * (1 + u64::from(self.below(20)))).min(blocks);
        let salt = self.below(1 << 20);
        stuff.put(Piece { start: from * bs, end: (to * bs).min(stuff.size), salt });
        let text = format!("patch {ino}: blocks {from} to {to} of {blocks}");
        let got = self.op(text, |n| {
            let mut o = n.open(ino)?;
            for e in n.replace_blocks(&mut o, from, to)? {
                let mut bytes = vec![0; e.len as usize * bs as usize];
                stuff.fill(u64::from(e.lblk.0) * bs, &mut bytes);
                n.edit.store.write_data(e.pblk, &bytes)?;
            }
            Ok(())
        });
        if self.agree(None, got).is_some() {
            self.node_mut(id).kind = Kind::File(stuff);
            self.touch(id);
        }
    }

    fn truncate(&mut self) {
        let Some(id) = (if self.below(8) == 0 { self.any(|_| true) } else { self.any_file() }) else { return };
        let old = if let Kind::File(s) = &self.node(id).kind { s.size } else { 0 };
        let size = match self.below(4) {
            0 => u64::from(self.below(old as u32 + 1)),
            1 => old + u64::from(self.below(5000)),
            2 => 0,
            _ => u64::from(self.below(2_000_000)),
        };
        let ino = self.node(id).ino;
        let want = match self.node(id).kind {
            Kind::File(_) => None,
            Kind::Dir(_) => Some("is_directory"),
            _ => Some("invalid_argument"),
        };
        let got = self.op(format!("truncate {ino} from {old} to {size}"), |n| n.truncate(ino, size));
        if self.agree(want, got).is_some()
            && let Kind::File(stuff) = &mut self.node_mut(id).kind
        {
            stuff.resize(size);
            self.touch(id);
        }
    }

    fn unlink(&mut self) {
        let (dir, name) = self.spot();
        self.unlink_at(dir, &name);
    }

    fn unlink_at(&mut self, dir: usize, name: &[u8]) {
        let parent = self.node(dir).ino;
        let want = match self.get(dir, name).map(|i| &self.node(i).kind) {
            None => Some("not_found"),
            Some(Kind::Dir(_)) => Some("is_directory"),
            _ => None,
        };
        let got = self.op(format!("unlink {} in {parent}", Self::show(name)), |n| n.unlink(parent, name));
        if self.agree(want, got).is_some() {
            self.leave(dir, name, true);
        }
    }

    fn rmdir(&mut self) {
        let (dir, name) = self.spot();
        let parent = self.node(dir).ino;
        let want = match self.get(dir, &name).map(|i| &self.node(i).kind) {
            None => Some("not_found"),
            Some(Kind::Dir(e)) if e.is_empty() => None,
            Some(Kind::Dir(_)) => Some("not_empty"),
            _ => Some("not_directory"),
        };
        let got = self.op(format!("rmdir {} in {parent}", Self::show(&name)), |n| n.rmdir(parent, &name));
        if self.agree(want, got).is_some() {
            self.leave(dir, &name, true);
        }
    }

    fn rename(&mut self) {
        let (from, name) = self.spot();
        let (to, to_name) = if self.below(4) == 0 { (from, self.new_name()) } else { self.spot() };
        let keep = self.below(4) == 0;
        let (a, b) = (self.node(from).ino, self.node(to).ino);
        let id = self.get(from, &name);
        let old = self.get(to, &to_name);
        let is_dir = |id: usize| self.node(id).is_dir();
        let want = match (id, old) {
            (None, _) => Some("not_found"),
            (Some(id), _) if is_dir(id) && from != to && self.is_below(to, id) => Some("into_itself"),
            (_, Some(_)) if keep => Some("exists"),
            (Some(id), Some(old)) if id == old => None,
            (Some(id), Some(old)) if is_dir(id) && !is_dir(old) => Some("not_directory"),
            (Some(id), Some(old)) if !is_dir(id) && is_dir(old) => Some("is_directory"),
            (_, Some(old)) if is_dir(old) && !self.names(old).is_empty() => Some("not_empty"),
            _ => None,
        };
        let text = format!("rename {} in {a} to {} in {b}, keep {keep}", Self::show(&name), Self::show(&to_name));
        let got = self.op(text, |n| n.rename(a, &name, b, &to_name, keep));
        if self.agree(want, got).is_some() && id != old {
            let id = id.unwrap();
            // The name that is replaced keeps its spelling.
            let to_name = old.map_or(to_name.clone(), |_| self.names(to)[&self.key(&to_name)].0.clone());
            if old.is_some() {
                self.leave(to, &to_name, true);
            }
            self.leave(from, &name, false);
            self.enter(to, to_name, id);
            let now = self.rig.ctx.now();
            self.node_mut(id).ctime = Some(now);
        }
    }

    fn link(&mut self) {
        let Some(id) = self.any(|n| n.ino != Ino::ROOT) else { return };
        let (dir, name) = (self.any_dir(), self.new_name());
        self.link_as(id, dir, name);
    }

    fn link_as(&mut self, id: usize, dir: usize, name: Vec<u8>) {
        let (ino, parent) = (self.node(id).ino, self.node(dir).ino);
        let want = if self.get(dir, &name).is_some() {
            Some("exists")
        } else {
            self.node(id).is_dir().then_some("is_directory")
        };
        let text = format!("link {ino} as {} in {parent}", Self::show(&name));
        let got = self.op(text, |n| n.link(ino, parent, &name));
        if self.agree(want, got).is_some() {
            let now = self.rig.ctx.now();
            let node = self.node_mut(id);
            node.names += 1;
            node.ctime = Some(now);
            self.enter(dir, name, id);
        }
    }

    /// One object, in the middle of a transaction, through another volume.
    fn reread(&mut self) {
        let id = self.any(|_| true).unwrap();
        self.counts.operations += 1;
        matches_node(&self.nodes, id, &fresh(&self.rig), self.folds).unwrap();
    }

    fn remove_tree(&mut self) {
        self.commit();
        let (dir, name) = self.spot();
        let parent = self.node(dir).ino;
        let id = self.get(dir, &name);
        let got = self
            .op_in_steps(format!("remove tree {} in {parent}", Self::show(&name)), |n| n.remove_tree(parent, &name));
        match (id, got) {
            (None, got) => {
                self.agree(Some("not_found"), got);
            }
            (Some(id), Ok(())) => {
                self.drop_below(id);
                self.leave(dir, &name, true);
            }
            (_, Err(e)) => assert!(matches!(e, Error::NoSpace { .. } | Error::TransactionTooLarge { .. }), "{e}"),
        }
    }

    fn drop_below(&mut self, id: usize) {
        let Kind::Dir(names) = &self.node(id).kind else { return };
        for (_, child) in names.values().cloned().collect::<Vec<_>>() {
            self.drop_below(child);
            self.drop_name(child);
        }
    }

    /// Many names in one directory: links to one file, or things without content.
    fn make_many(&mut self) {
        let (dir, count) = (self.any_dir(), self.below(1000));
        let pad = self.pick(&[6, 30, 120, 250]);
        let (links, first) = (self.below(2) == 0, self.below(10_000));
        let parent = self.node(dir).ino;
        let file = self.any_file();
        let ino = file.map(|f| self.node(f).ino);
        for n in 0..count {
            // What was there may have been taken back.
            if self.node_gone(dir) || self.node(dir).ino != parent || !self.node(dir).is_dir() {
                return;
            }
            let name = format!("{:0pad$}", first + n * 7).into_bytes();
            match file.filter(|f| links && !self.node_gone(*f) && Some(self.node(*f).ino) == ino) {
                Some(f) => self.link_as(f, dir, name),
                None => {
                    self.make_as(dir, name, Kind::Other(FileType::Fifo));
                }
            }
            if self.live() > 3 * MANY {
                return;
            }
        }
    }

    fn remove_many(&mut self) {
        let mut dir = self.any_dir();
        for _ in 0..3 {
            let other = self.any_dir();
            if self.names(other).len() > self.names(dir).len() {
                dir = other;
            }
        }
        let (parent, every) = (self.node(dir).ino, 1 + self.below(3));
        let all: Vec<_> = self.names(dir).values().cloned().collect();
        for (name, id) in all {
            if self.node_gone(dir) || self.node(dir).ino != parent || !self.node(dir).is_dir() {
                return;
            }
            if self.below(every) == 0 && self.get(dir, &name) == Some(id) && !self.node(id).is_dir() {
                self.unlink_at(dir, &name);
            }
        }
    }

    /// Directories inside one another.
    fn make_deep(&mut self) {
        let mut dir = self.any_dir();
        for _ in 0..self.below(40) {
            let name = self.new_name();
            match self.make_as(dir, name, Kind::Dir(Names::new())) {
                Some(id) => dir = id,
                None => return,
            }
        }
    }
}
