//! Access control lists and permissions: what a new object inherits, and how the two follow each other.
//! Kernel names: `posix_acl_create`, `posix_acl_chmod`.

use crate::error::Result;
use crate::format::acl::{Acl, AclTag};
use crate::format::inode::FileType;
use crate::format::xattr;
use crate::volume::Volume;
use crate::volume::edit::OpenInode;

/// What a new object gets from its directory's default list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inherited {
    /// Permissions of the object.
    pub(super) permissions: u16,
    access: Option<Acl>,
    default: Option<Acl>,
}

impl Inherited {
    /// Name index and stored value of each list.
    pub(super) fn attributes(&self) -> impl Iterator<Item = (u8, Vec<u8>)> {
        let access = self.access.as_ref().map(|a| (xattr::INDEX_POSIX_ACL_ACCESS, a.encode_disk()));
        let default = self.default.as_ref().map(|a| (xattr::INDEX_POSIX_ACL_DEFAULT, a.encode_disk()));
        access.into_iter().chain(default)
    }
}

/// The list with `index` of an inode, where it has one.
pub(super) fn stored(vol: &Volume, o: &OpenInode, index: u8) -> Result<Option<Acl>> {
    if o.inode.file_acl().0 == 0 && o.inode.xattr_area().is_empty() {
        return Ok(None);
    }
    let all = vol.all_xattrs(o.owner())?;
    all.iter().find(|x| x.index == index).map(|x| Acl::decode_disk(&x.value)).transpose()
}

/// What an object of type `kind` that asks for `permissions` gets in `dir`.
#[doc(alias = "posix_acl_create")]
pub(super) fn inherited(vol: &Volume, dir: &OpenInode, kind: FileType, permissions: u16) -> Result<Inherited> {
    let Some(list) = stored(vol, dir, xattr::INDEX_POSIX_ACL_DEFAULT)? else {
        return Ok(Inherited { permissions, ..Inherited::default() });
    };
    let mut access = list.clone();
    let (permissions, exact) = mask_by(&mut access, permissions);
    Ok(Inherited {
        permissions,
        access: (!exact).then_some(access),
        default: (kind == FileType::Directory).then_some(list),
    })
}

/// Limit a list to what `permissions` ask for, and the permissions to what the list allows; whether the permissions then
/// say all that the list does.
#[doc(alias = "posix_acl_create_masq")]
fn mask_by(acl: &mut Acl, permissions: u16) -> (u16, bool) {
    let has_mask = acl.entries.iter().any(|e| e.tag == AclTag::Mask);
    let mut mode = permissions;
    let mut exact = true;
    for e in &mut acl.entries {
        let shift = match e.tag {
            AclTag::UserObj => 6,
            AclTag::Other => 0,
            AclTag::Mask => 3,
            AclTag::GroupObj if !has_mask => 3,
            AclTag::GroupObj => continue,
            AclTag::User(_) | AclTag::Group(_) => {
                exact = false;
                continue;
            }
        };
        exact &= e.tag != AclTag::Mask;
        e.perm &= (mode >> shift) & 7;
        mode = (mode & !(7 << shift)) | (e.perm << shift);
    }
    (mode, exact)
}

/// A list after its object got other permissions.
#[doc(alias = "posix_acl_chmod")]
pub(super) fn after_chmod(acl: &mut Acl, permissions: u16) {
    let has_mask = acl.entries.iter().any(|e| e.tag == AclTag::Mask);
    for e in &mut acl.entries {
        match e.tag {
            AclTag::UserObj => e.perm = (permissions >> 6) & 7,
            AclTag::Mask => e.perm = (permissions >> 3) & 7,
            AclTag::GroupObj if !has_mask => e.perm = (permissions >> 3) & 7,
            AclTag::Other => e.perm = permissions & 7,
            AclTag::GroupObj | AclTag::User(_) | AclTag::Group(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::acl::AclEntry;

    fn list(entries: &[(AclTag, u16)]) -> Acl {
        Acl { entries: entries.iter().map(|&(tag, perm)| AclEntry { tag, perm }).collect() }
    }

    #[test]
    fn new_objects_get_what_both_sides_allow() {
        let mut plain = list(&[(AclTag::UserObj, 7), (AclTag::GroupObj, 5), (AclTag::Other, 0)]);
        assert_eq!(mask_by(&mut plain, 0o4666), (0o4640, true));
        let mut named = list(&[
            (AclTag::UserObj, 7),
            (AclTag::User(5), 7),
            (AclTag::GroupObj, 5),
            (AclTag::Mask, 7),
            (AclTag::Other, 4),
        ]);
        assert_eq!(mask_by(&mut named, 0o640), (0o640, false));
        let want =
            [(AclTag::UserObj, 6), (AclTag::User(5), 7), (AclTag::GroupObj, 5), (AclTag::Mask, 4), (AclTag::Other, 0)];
        assert_eq!(named, list(&want));
    }

    #[test]
    fn lists_follow_permissions() {
        let mut named = list(&[(AclTag::UserObj, 7), (AclTag::GroupObj, 5), (AclTag::Mask, 7), (AclTag::Other, 4)]);
        after_chmod(&mut named, 0o612);
        assert_eq!(named, list(&[(AclTag::UserObj, 6), (AclTag::GroupObj, 5), (AclTag::Mask, 1), (AclTag::Other, 2)]));
    }
}
