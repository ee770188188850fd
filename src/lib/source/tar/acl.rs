//! Access control lists as tar archives have them: `user::rw-,user:1000:r-x,group::r--,mask::r-x,other::---`.
//!
//! Names have the numbers that the caller's lists give them. star writes the number behind the permissions (`user:joe:rwx:1000`); else
//! only numbers in place of names are understood.

use crate::format::acl::{Acl, AclEntry, AclTag};
use crate::source::OwnerNames;

/// The list that a text stands for.
pub(super) fn parse(text: &[u8], names: Option<&OwnerNames>) -> Option<Acl> {
    let text = str::from_utf8(text).ok()?;
    let lines = text.split([',', '\n', '\0']).map(|l| l.split('#').next().unwrap_or_default().trim());
    let mut entries = lines.filter(|l| !l.is_empty()).map(|l| entry(l, names)).collect::<Option<Vec<_>>>()?;
    entries.sort_by_key(|e| order(e.tag));
    let acl = Acl { entries };
    acl.validate().ok()?;
    Some(acl)
}

const fn order(tag: AclTag) -> (u8, u32) {
    match tag {
        AclTag::UserObj => (0, 0),
        AclTag::User(id) => (1, id),
        AclTag::GroupObj => (2, 0),
        AclTag::Group(id) => (3, id),
        AclTag::Mask => (4, 0),
        AclTag::Other => (5, 0),
    }
}

fn entry(text: &str, names: Option<&OwnerNames>) -> Option<AclEntry> {
    let mut parts = text.split(':').map(str::trim);
    let (kind, who) = (parts.next()?, parts.next()?);
    match (parts.next(), parts.next()) {
        (Some(perm), number) => entry_of(kind, who, number, perm, names),
        // `other:rwx` and `mask:rwx` without the empty name.
        (None, _) => entry_of(kind, "", None, who, names),
    }
}

fn entry_of(kind: &str, who: &str, number: Option<&str>, perm: &str, names: Option<&OwnerNames>) -> Option<AclEntry> {
    let id = || {
        let named =
            names.and_then(|n| if kind.starts_with('u') { n.user(who.as_bytes()) } else { n.group(who.as_bytes()) });
        named.or_else(|| number.unwrap_or(who).parse().ok())
    };
    let tag = match (kind, who.is_empty()) {
        ("user" | "u", true) => AclTag::UserObj,
        ("user" | "u", false) => AclTag::User(id()?),
        ("group" | "g", true) => AclTag::GroupObj,
        ("group" | "g", false) => AclTag::Group(id()?),
        ("mask" | "m", _) => AclTag::Mask,
        ("other" | "o", _) => AclTag::Other,
        _ => return None,
    };
    let perm = perm.chars().try_fold(0u16, |p, c| {
        Some(
            p | match c {
                'r' => 4,
                'w' => 2,
                'x' => 1,
                '-' => 0,
                _ => return None,
            },
        )
    })?;
    Some(AclEntry { tag, perm })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_lists() {
        let acl = parse(b"other::r--,user::rw-,mask::r-x,user:joe:rwx:1000,user:5:---\ngroup::r--", None).unwrap();
        let tags: Vec<_> = acl.entries.iter().map(|e| (e.tag, e.perm)).collect();
        let want = [
            (AclTag::UserObj, 6),
            (AclTag::User(5), 0),
            (AclTag::User(1000), 7),
            (AclTag::GroupObj, 4),
            (AclTag::Mask, 5),
            (AclTag::Other, 4),
        ];
        assert_eq!(tags, want);
        let names = OwnerNames::parse(b"joe:x:7:8\n", b"team:x:9:\n");
        let acl =
            parse(b"user::rw-,user:joe:rwx,group::r--,group:team:r--,mask::r-x,other::---", Some(&names)).unwrap();
        let tags: Vec<_> = acl.entries.iter().map(|e| e.tag).collect();
        assert!(tags.contains(&AclTag::User(7)) && tags.contains(&AclTag::Group(9)), "{tags:?}");
        for bad in ["user:joe:rwx", "user", "user::rwx", "who::rwx", "user::rwz,group::r--,other::r--"] {
            assert!(parse(bad.as_bytes(), None).is_none(), "{bad}");
        }
    }
}
