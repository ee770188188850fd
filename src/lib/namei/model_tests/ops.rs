//! Random operations, done to the filesystem and to the model.

use super::super::{Attributes, Change, What};
use super::content::{Piece, Stuff};
use super::model::{Kind, Model, Names, Node, ROOT, fresh, matches_node};
use crate::Error;
use crate::env::Timestamp;
use crate::format::acl::{Acl, AclEntry, AclTag};
use crate::format::features::RoCompat;
use crate::format::inode::{FileType, InodeFlags};
use crate::format::xattr;
use crate::units::Ino;
use crate::volume::edit::modify_block;
use crate::volume::{MapKind, Owner, XattrPlace};

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

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

    fn show(name: &[u8]) -> String {
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

    fn change(&mut self) {
        let Some(id) = self.any(|n| !matches!(n.kind, Kind::Link(_))) else { return };
        let projects = self.rig.fs.volume.geometry().features.ro_compat.contains(RoCompat::PROJECT);
        let (p, uid) = (self.below(0o10000) as u16, self.below(3) * 1000);
        let gid = self.pick(&[0, 5, 100_000]);
        let node = self.node(id);
        let (ino, is_dir, listed) = (node.ino, node.is_dir(), node.xattrs.contains_key(ACCESS));
        let change = Change {
            permissions: (self.below(3) > 0).then_some(p),
            uid: (self.below(2) == 0).then_some(uid),
            gid: (self.below(2) == 0).then_some(gid),
            project: (projects && self.below(2) == 0).then(|| self.below(4)),
            ..Change::default()
        };
        let hands_on = (projects && is_dir && change.project.is_some()).then(|| self.below(2) == 0);
        let got = self.op(format!("change {ino}: {change:?}"), |n| {
            if let Some(on) = hands_on {
                let mut o = n.open(ino)?;
                n.begin(1)?;
                o.set(InodeFlags::PROJINHERIT, on);
                n.put(&mut o)?;
            }
            n.change(ino, &change)
        });
        if self.agree(None, got).is_none() {
            return;
        }
        let now = self.rig.ctx.now();
        let node = self.node_mut(id);
        let before = (node.permissions, node.owner, node.project);
        node.owner = (change.uid.unwrap_or(node.owner.0), change.gid.unwrap_or(node.owner.1));
        node.project = change.project.unwrap_or(node.project);
        node.hands_project_on = hands_on.unwrap_or(node.hands_project_on);
        if let Some(p) = change.permissions {
            node.permissions = p;
            if let Some(list) = node.xattrs.get_mut(ACCESS) {
                let mut acl = Acl::decode_disk(list).unwrap();
                for e in &mut acl.entries {
                    match e.tag {
                        AclTag::UserObj => e.perm = p >> 6 & 7,
                        AclTag::Mask => e.perm = p >> 3 & 7,
                        AclTag::Other => e.perm = p & 7,
                        _ => {}
                    }
                }
                *list = acl.encode_disk();
            }
        }
        if before != (node.permissions, node.owner, node.project) {
            node.ctime = Some(now);
        } else if listed {
            node.ctime = None;
        }
    }

    fn set_xattr(&mut self) {
        let Some(id) = self.any(|_| true) else { return };
        let plain = matches!(self.node(id).kind, Kind::File(_) | Kind::Dir(_));
        let prefix = if plain { self.pick(&["user.", "trusted.", "security."]) } else { "trusted." };
        let tail = if self.below(8) == 0 { "n".repeat(100) } else { String::new() };
        let name = format!("{prefix}{}{tail}", self.below(4)).into_bytes();
        let len = self.pick(&[0, 1, 5, 30, 60, 100, 300, 700, 900, 3000, 20_000, 65_000]);
        let value = (self.below(3) > 0).then(|| vec![b'a' + self.below(26) as u8; len]);
        let ino = self.node(id).ino;
        let text = format!("xattr {} of {ino}: {:?} bytes", Self::show(&name), value.as_ref().map(Vec::len));
        let got = self.op_on_attribute(id, text, |n| n.set_xattr(ino, &name, value.as_deref()));
        self.attribute_is(id, name, value, got);
    }

    fn attribute_is(&mut self, id: usize, name: Vec<u8>, value: Option<Vec<u8>>, got: crate::Result<bool>) -> bool {
        let had = match got {
            Err(Error::NoSpace { .. }) => {
                assert!(value.is_some() || self.node_gone(id), "no space to remove an attribute");
                return false;
            }
            got => got.unwrap(),
        };
        let now = self.rig.ctx.now();
        let node = self.node_mut(id);
        let old = match value {
            Some(v) => node.xattrs.insert(name, v),
            None => node.xattrs.remove(&name),
        };
        node.ctime = Some(now);
        assert_eq!(had, old.is_some());
        true
    }

    /// Taken back with a transaction.
    fn node_gone(&self, id: usize) -> bool {
        self.nodes.get(id).is_none_or(Option::is_none)
    }

    fn list(&mut self) -> Acl {
        let mut entries = Vec::new();
        let named = self.below(4) > 0;
        let perm = |m: &mut Self| m.below(8) as u16;
        entries.push(AclEntry { tag: AclTag::UserObj, perm: perm(self) });
        if named {
            for user in 0..=self.below(12) {
                entries.push(AclEntry { tag: AclTag::User(user * 1000), perm: perm(self) });
            }
        }
        entries.push(AclEntry { tag: AclTag::GroupObj, perm: perm(self) });
        if named {
            entries.push(AclEntry { tag: AclTag::Group(7), perm: perm(self) });
            entries.push(AclEntry { tag: AclTag::Mask, perm: perm(self) });
        }
        entries.push(AclEntry { tag: AclTag::Other, perm: perm(self) });
        Acl { entries }
    }

    fn set_acl(&mut self) {
        let Some(id) = self.any(|n| n.is_dir() || n.is_file()) else { return };
        let (ino, is_dir) = (self.node(id).ino, self.node(id).is_dir());
        let access = self.below(2) == 0;
        let list = (self.below(4) > 0).then(|| self.list());
        let name = if access { ACCESS } else { DEFAULT };
        let host = list.as_ref().map(Acl::encode_host);
        let text = format!("acl of {ino}, access {access}: {:?} entries", list.as_ref().map(|l| l.entries.len()));
        let got = self.op_on_attribute(id, text, |n| n.set_xattr(ino, name, host.as_deref()));
        if !access && !is_dir && list.is_some() {
            self.agree::<bool>(Some("not_directory"), got);
            return;
        }
        let mut stored = list.as_ref().map(Acl::encode_disk);
        let mut permissions = None;
        if let Some(list) = list.filter(|_| access) {
            let perm = |tag| list.entries.iter().find(|e| e.tag == tag).map(|e| e.perm);
            let group = perm(AclTag::Mask).or(perm(AclTag::GroupObj)).unwrap();
            permissions = Some(perm(AclTag::UserObj).unwrap() << 6 | group << 3 | perm(AclTag::Other).unwrap());
            stored = stored.filter(|_| list.entries.len() > 3);
        }
        if self.attribute_is(id, name.to_vec(), stored, got)
            && let Some(p) = permissions
        {
            let node = self.node_mut(id);
            node.permissions = node.permissions & !0o777 | p;
        }
    }

    fn clear_xattrs(&mut self) {
        self.commit();
        let Some(id) = self.any(|n| !n.xattrs.is_empty()) else { return };
        let ino = self.node(id).ino;
        let done = self.op_in_steps(format!("clear attributes of {ino}"), |n| n.clear_xattrs(ino));
        if done.is_ok() {
            let now = self.rig.ctx.now();
            let node = self.node_mut(id);
            if !std::mem::take(&mut node.xattrs).is_empty() {
                node.ctime = Some(now);
            }
        }
    }

    /// Let two inodes have one attribute block, as the kernel does where they have the same attributes.
    fn share_xattrs(&mut self) {
        let Some(from) = self.any(|n| !n.xattrs.is_empty()) else { return };
        let Some(to) = self.any(|n| n.xattrs.is_empty() && (n.is_dir() || n.is_file())) else { return };
        let (a, b) = (self.node(from).ino, self.node(to).ino);
        let vol = &self.rig.fs.volume;
        let inode = vol.inode(a).unwrap();
        let mut all = vol.all_xattrs(Owner { ino: a, inode: &inode }).unwrap();
        all.retain(|x| matches!(x.place, XattrPlace::Block(_)));
        if all.is_empty() || all.iter().any(|x| x.value_ino.is_some() || x.name().starts_with(b"system.")) {
            return;
        }
        let block = inode.file_acl();
        let got = self.op(format!("share the attributes of {a} with {b}"), |n| {
            n.begin(2)?;
            let mut o = n.open(b)?;
            o.inode.set_file_acl(block);
            n.edit.count_clusters(&mut o, 1)?;
            let seed = n.volume().geometry().checksums.seed();
            modify_block(n.edit.store, block, |bytes| {
                let users = xattr::parse_block(bytes)?.0.refcount.get();
                xattr::set_refcount(bytes, users + 1);
                if let Some(seed) = seed {
                    xattr::stamp_block(bytes, seed, block);
                }
                Ok(())
            })??;
            n.put(&mut o)
        });
        if self.agree(None, got).is_some() {
            self.node_mut(to).xattrs = all.into_iter().map(|x| (x.name(), x.value)).collect();
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
