//! Random changes of attributes: permissions, owners, projects, lists, extended attributes of all sizes.

use super::super::Change;
use super::model::{Kind, Model};
use super::ops::{ACCESS, DEFAULT};
use crate::Error;
use crate::format::acl::{Acl, AclEntry, AclTag};
use crate::format::features::RoCompat;
use crate::format::inode::InodeFlags;
use crate::format::xattr;
use crate::units::Ino;
use crate::volume::edit::modify_block;
use crate::volume::{Owner, XattrPlace};

impl Model {
    pub(super) fn change(&mut self) {
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

    pub(super) fn set_xattr(&mut self) {
        let Some(id) = self.any(|_| true) else { return };
        let plain = matches!(self.node(id).kind, Kind::File(_) | Kind::Dir(_));
        let prefix = if plain { self.pick(&["user.", "trusted.", "security."]) } else { "trusted." };
        let tail = if self.below(8) == 0 { "n".repeat(100) } else { String::new() };
        let name = format!("{prefix}{}{tail}", self.below(4)).into_bytes();
        let len = self.pick(&[0, 1, 5, 30, 60, 100, 300, 700, 900, 3000, 20_000, 65_000]);
        let value = (self.below(3) > 0).then(|| vec![b'a' + self.below(26) as u8; len]);
        let ino = self.node(id).ino;
        let shared = self.shares_xattrs(ino);
        let text = format!("xattr {} of {ino}: {:?} bytes", Self::show(&name), value.as_ref().map(Vec::len));
        let got = self.op_on_attribute(id, text, |n| n.set_xattr(ino, &name, value.as_deref()));
        self.attribute_is(id, name, value, got, shared);
    }

    /// What is to be expected of a change of an attribute. To remove one needs room only where the attribute block was
    /// `shared`: the file gets a block of its own then.
    fn attribute_is(
        &mut self,
        id: usize,
        name: Vec<u8>,
        value: Option<Vec<u8>>,
        got: crate::Result<bool>,
        shared: bool,
    ) -> bool {
        let had = match got {
            Err(e @ Error::NoSpace { .. }) => {
                assert!(value.is_some() || shared || self.node_gone(id), "to remove an attribute: {e}");
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
    pub(super) fn node_gone(&self, id: usize) -> bool {
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

    pub(super) fn set_acl(&mut self) {
        let Some(id) = self.any(|n| n.is_dir() || n.is_file()) else { return };
        let (ino, is_dir) = (self.node(id).ino, self.node(id).is_dir());
        let access = self.below(2) == 0;
        let list = (self.below(4) > 0).then(|| self.list());
        let name = if access { ACCESS } else { DEFAULT };
        let host = list.as_ref().map(Acl::encode_host);
        let shared = self.shares_xattrs(ino);
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
        if self.attribute_is(id, name.to_vec(), stored, got, shared)
            && let Some(p) = permissions
        {
            let node = self.node_mut(id);
            node.permissions = node.permissions & !0o777 | p;
        }
    }

    pub(super) fn clear_xattrs(&mut self) {
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

    /// Whether other inodes have the same attribute block.
    fn shares_xattrs(&self, ino: Ino) -> bool {
        let vol = &self.rig.fs.volume;
        let block = vol.inode(ino).unwrap().file_acl();
        let mut bytes = vec![0; vol.geometry().block_size as usize];
        if block.0 == 0 || vol.read_blocks(block, &mut bytes).is_err() {
            return false;
        }
        xattr::parse_block(&bytes).is_ok_and(|(header, _)| header.refcount.get() > 1)
    }

    /// Let two inodes have one attribute block, as the kernel does where they have the same attributes.
    pub(super) fn share_xattrs(&mut self) {
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
}
