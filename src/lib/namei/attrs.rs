//! Attributes of existing objects: permissions, owners, times, project, extended attributes.

use super::{Namei, acl};
use crate::env::Timestamp;
use crate::error::{Error, FeatureBit, FeatureWord, Result};
use crate::format::acl::Acl;
use crate::format::features::{Compat, Incompat, RoCompat};
use crate::format::inode::TimeField;
use crate::format::xattr;
use crate::units::Ino;
use crate::volume::edit::OpenInode;

/// What to change; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[doc(alias = "iattr")]
pub struct Change {
    /// Permissions with setuid, setgid and sticky. An access control list follows.
    pub permissions: Option<u16>,
    /// Owner. Setuid and setgid stay.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub atime: Option<Timestamp>,
    /// Modification time.
    pub mtime: Option<Timestamp>,
    /// Project; needs the feature `project`.
    pub project: Option<u32>,
}

impl Namei<'_> {
    /// Change attributes of an object.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a project where the filesystem has none.
    #[doc(alias = "ext4_setattr")]
    pub fn change(&mut self, ino: Ino, change: &Change) -> Result<()> {
        let mut o = self.edit.open(ino)?;
        let ro = self.edit.vol.geometry().features.ro_compat;
        if change.project.is_some() && !ro.contains(RoCompat::PROJECT) {
            let bit = RoCompat::PROJECT.bits().trailing_zeros() as u8;
            let project = FeatureBit { word: FeatureWord::RoCompat, bit, name: Some("project") };
            return Err(Error::Unsupported { features: vec![project] });
        }
        let list = match change.permissions {
            Some(_) => acl::stored(self.edit.vol, &o, xattr::INDEX_POSIX_ACL_ACCESS)?,
            None => None,
        };
        let len = list.as_ref().map_or(0, |l| l.encode_disk().len());
        self.begin(self.edit.xattr_credits(&o, len).saturating_add(2))?;
        let before = o.clone();
        // A list in an inode of its own is replaced below.
        let values_before = self.value_inodes(&before)?;
        if let Some(p) = change.permissions {
            o.inode.update(|c| c.mode.set((c.mode.get() & !0o7777) | (p & 0o7777)));
            if let Some(mut list) = list {
                acl::after_chmod(&mut list, p);
                let value = list.encode_disk();
                self.edit.set_xattr(&mut o, xattr::INDEX_POSIX_ACL_ACCESS, b"", Some(&value))?;
            }
        }
        let (uid, gid) = (change.uid.unwrap_or(o.inode.uid()), change.gid.unwrap_or(o.inode.gid()));
        o.inode.set_owner(uid, gid);
        if let Some(project) = change.project {
            o.inode.update(|c| c.projid.set(project));
        }
        if let Some(t) = change.atime {
            o.inode.set_time(TimeField::Access, t);
        }
        if let Some(t) = change.mtime {
            o.inode.set_time(TimeField::Modify, t);
        }
        if o == before {
            return Ok(());
        }
        o.inode.set_time(TimeField::Change, self.ctx.now);
        if self.ctx.quota.is_on() {
            let values = self.value_inodes(&o)?;
            self.ctx.quota.add_inodes(&before.inode, -values_before);
            self.ctx.quota.add_inodes(&o.inode, values);
        }
        self.put(&mut o)
    }

    /// Set an extended attribute by the name and value that the host uses, or remove it with `None`; whether it was there.
    /// An access control list changes the permissions with it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for names with no known prefix and bad lists; [`Error::NoSpace`].
    #[doc(alias = "ext4_xattr_set")]
    pub fn set_xattr(&mut self, ino: Ino, name: &[u8], value: Option<&[u8]>) -> Result<bool> {
        let Some((index, rest)) = xattr::split_name(name).filter(|(i, _)| *i != xattr::INDEX_SYSTEM) else {
            let value = String::from_utf8_lossy(name).into_owned();
            let allowed = "begins with user., trusted., security., or is an access control list";
            return Err(Error::InvalidArgument { name: "attribute name", value, allowed });
        };
        let mut o = self.edit.open(ino)?;
        let access = index == xattr::INDEX_POSIX_ACL_ACCESS;
        let mut stored = value.map(<[u8]>::to_vec);
        if let Some(v) = value.filter(|_| access || index == xattr::INDEX_POSIX_ACL_DEFAULT) {
            let list = Acl::decode_host(v)?;
            list.validate()?;
            if !access && !o.is_dir() {
                return Err(Error::NotDirectory { path: name.to_vec() });
            }
            stored = Some(list.encode_disk());
            if access {
                let (bits, exact) = list.equivalent_mode();
                o.inode.update(|c| c.mode.set((c.mode.get() & !0o777) | bits));
                if exact {
                    stored = None;
                }
            }
        }
        self.begin(self.edit.xattr_credits(&o, stored.as_ref().map_or(0, Vec::len)).saturating_add(2))?;
        self.store_xattr(&mut o, index, rest, stored.as_deref())
    }

    /// Set an attribute (value as stored) and store the inode.
    pub(super) fn store_xattr(
        &mut self,
        o: &mut OpenInode,
        index: u8,
        name: &[u8],
        value: Option<&[u8]>,
    ) -> Result<bool> {
        if value.is_some() && !self.edit.vol.geometry().features.compat.contains(Compat::EXT_ATTR) {
            self.add_feature(|f| f.compat |= Compat::EXT_ATTR)?;
        }
        let values = self.value_inodes(o)?;
        let had = self.edit.set_xattr(o, index, name, value)?;
        if self.ctx.quota.is_on() {
            let more = self.value_inodes(o)? - values;
            let was = o.inode.clone();
            self.ctx.quota.add_inodes(&was, more);
        }
        o.inode.set_time(TimeField::Change, self.ctx.now);
        self.put(o)?;
        Ok(had)
    }

    /// Remove all extended attributes that the host shows.
    pub fn clear_xattrs(&mut self, ino: Ino) -> Result<()> {
        let o = self.edit.open(ino)?;
        for x in self.edit.vol.xattrs(o.owner())? {
            let mut o = self.edit.open(ino)?;
            self.begin(self.edit.xattr_credits(&o, 0).saturating_add(2))?;
            self.store_xattr(&mut o, x.index, &x.suffix, None)?;
        }
        Ok(())
    }

    /// Inodes that hold values of an object's attributes, once for each use. Counted where quotas are kept.
    pub(super) fn value_inodes(&self, o: &OpenInode) -> Result<i64> {
        if !self.ctx.quota.is_on() || !self.has_incompat(Incompat::EA_INODE) {
            return Ok(0);
        }
        let all = self.edit.vol.all_xattrs(o.owner())?;
        Ok(all.iter().filter(|x| x.value_ino.is_some()).count() as i64)
    }

    /// Note a feature in the superblock that the filesystem uses from now on.
    pub(super) fn add_feature(&mut self, add: impl FnOnce(&mut crate::format::features::Features)) -> Result<()> {
        self.edit.vol.store_superblock(self.edit.store, |sb| {
            let mut features = sb.features();
            add(&mut features);
            sb.set_features(features);
        })
    }
}
