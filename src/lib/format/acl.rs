//! POSIX access control lists: as ext4 stores them, and as the host's `system.posix_acl_*` attributes hold them.
//! Little endian. Kernel names: `ext4_acl_header`, `ext4_acl_entry`, `ext4_acl_entry_short`; `posix_acl_xattr_*`.
//!
//! On disk: version 1 (le32), then entries of tag and permissions (le16 each), with a le32 id behind `USER` and
//! `GROUP` entries only. On the host: version 2, and every entry has an id (all ones where it means nothing).

use super::bytes::{field, le16, le32, short};
use crate::error::{Error, Flaw, Place, Result, Structure};

const DISK_VERSION: u32 = 1;
const HOST_VERSION: u32 = 2;
const HEADER: usize = 4;
const SHORT_ENTRY: usize = 4;
const LONG_ENTRY: usize = 8;
const NO_ID: u32 = u32::MAX;
const OF: Structure = Structure::Acl;

/// Whom an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AclTag {
    /// The owner.
    UserObj,
    /// A user.
    User(u32),
    /// The owning group.
    GroupObj,
    /// A group.
    Group(u32),
    /// The most that everybody but owner and others may have.
    Mask,
    /// Everybody else.
    Other,
}

impl AclTag {
    const fn code(self) -> u16 {
        match self {
            Self::UserObj => 0x01,
            Self::User(_) => 0x02,
            Self::GroupObj => 0x04,
            Self::Group(_) => 0x08,
            Self::Mask => 0x10,
            Self::Other => 0x20,
        }
    }

    const fn from_code(code: u16, id: u32) -> Option<Self> {
        match code {
            0x01 => Some(Self::UserObj),
            0x02 => Some(Self::User(id)),
            0x04 => Some(Self::GroupObj),
            0x08 => Some(Self::Group(id)),
            0x10 => Some(Self::Mask),
            0x20 => Some(Self::Other),
            _ => None,
        }
    }

    /// The user or group named.
    pub const fn id(self) -> Option<u32> {
        match self {
            Self::User(id) | Self::Group(id) => Some(id),
            _ => None,
        }
    }
}

/// One entry: what somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct AclEntry {
    /// Who.
    pub tag: AclTag,
    /// Read 4, write 2, execute 1.
    pub perm: u16,
}

/// An access control list, entries in stored order.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Acl {
    /// The entries.
    pub entries: Vec<AclEntry>,
}

impl Acl {
    /// Decode the value of an ACL attribute as stored on disk.
    #[doc(alias = "ext4_acl_from_disk")]
    pub fn decode_disk(value: &[u8]) -> Result<Self> {
        Self::decode(value, DISK_VERSION, |code| if matches!(code, 0x02 | 0x08) { LONG_ENTRY } else { SHORT_ENTRY })
    }

    /// Decode the value of the host's `system.posix_acl_access` or `system.posix_acl_default` attribute.
    pub fn decode_host(value: &[u8]) -> Result<Self> {
        Self::decode(value, HOST_VERSION, |_| LONG_ENTRY)
    }

    fn decode(value: &[u8], version: u32, entry_len: fn(u16) -> usize) -> Result<Self> {
        let Some(found) = le32(value, 0) else { return Err(short(OF, HEADER, value.len())) };
        if found != version {
            return Err(field(OF, "version", found.into(), 0));
        }
        let mut entries = Vec::with_capacity(value.len() / SHORT_ENTRY);
        let mut at = HEADER;
        while at < value.len() {
            let cut = |len: usize| short(OF, at.saturating_add(len), value.len());
            let (Some(code), Some(perm)) = (le16(value, at), le16(value, at.saturating_add(2))) else {
                return Err(cut(SHORT_ENTRY));
            };
            let len = entry_len(code);
            let id = if len == LONG_ENTRY {
                le32(value, at.saturating_add(4)).ok_or_else(|| cut(LONG_ENTRY))?
            } else {
                NO_ID
            };
            let Some(tag) = AclTag::from_code(code, id) else { return Err(field(OF, "tag", code.into(), at)) };
            if perm > 7 {
                return Err(field(OF, "perm", perm.into(), at.saturating_add(2)));
            }
            entries.push(AclEntry { tag, perm });
            at = at.saturating_add(len);
        }
        Ok(Self { entries })
    }

    /// The attribute's value as stored on disk.
    #[doc(alias = "ext4_acl_to_disk")]
    pub fn encode_disk(&self) -> Vec<u8> {
        self.encode(DISK_VERSION, AclTag::id)
    }

    /// The value of the host's attribute.
    pub fn encode_host(&self) -> Vec<u8> {
        self.encode(HOST_VERSION, |tag| Some(tag.id().unwrap_or(NO_ID)))
    }

    fn encode(&self, version: u32, id: fn(AclTag) -> Option<u32>) -> Vec<u8> {
        let mut out = version.to_le_bytes().to_vec();
        for e in &self.entries {
            out.extend(e.tag.code().to_le_bytes());
            out.extend(e.perm.to_le_bytes());
            out.extend(id(e.tag).into_iter().flat_map(u32::to_le_bytes));
        }
        out
    }

    /// Check that the entries make a complete list in order: owner, users, owning group, groups, mask (needed where
    /// users or groups are named), others.
    #[doc(alias = "posix_acl_valid")]
    pub fn validate(&self) -> Result<()> {
        let rank = |e: &AclEntry| e.tag.code();
        let mut ascending = self.entries.windows(2).map(|w| match w {
            [a, b] => rank(a) < rank(b) || (rank(a) == rank(b) && a.tag.id().is_some()),
            _ => true,
        });
        if !ascending.all(|ok| ok) {
            return Err(Error::corrupt(Flaw::Order { of: OF }, Place::FS));
        }
        let has = |code: u16| self.entries.iter().any(|e| rank(e) == code);
        let named = self.entries.iter().any(|e| e.tag.id().is_some());
        let complete = has(0x01) && has(0x04) && has(0x20) && (has(0x10) || !named);
        if complete {
            return Ok(());
        }
        Err(Error::corrupt(Flaw::Inconsistent { of: OF, detail: "a required entry is missing" }, Place::FS))
    }

    /// The permission bits of `mode` that this access ACL stands for, and whether they say all it says.
    #[doc(alias = "posix_acl_equiv_mode")]
    pub fn equivalent_mode(&self) -> (u16, bool) {
        let (mut mode, mut mask, mut exact) = (0, None, true);
        for e in &self.entries {
            match e.tag {
                AclTag::UserObj => mode |= (e.perm & 7) << 6,
                AclTag::GroupObj => mode |= (e.perm & 7) << 3,
                AclTag::Other => mode |= e.perm & 7,
                AclTag::Mask => mask = Some(e.perm & 7),
                AclTag::User(_) | AclTag::Group(_) => exact = false,
            }
        }
        match mask {
            Some(m) => ((mode & !0o070) | (m << 3), false),
            None => (mode, exact),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Acl {
        let e = |tag, perm| AclEntry { tag, perm };
        Acl {
            entries: vec![
                e(AclTag::UserObj, 6),
                e(AclTag::User(1000), 7),
                e(AclTag::User(1001), 0),
                e(AclTag::GroupObj, 4),
                e(AclTag::Group(5), 5),
                e(AclTag::Mask, 5),
                e(AclTag::Other, 0),
            ],
        }
    }

    #[test]
    fn both_encodings() {
        let acl = sample();
        let disk = acl.encode_disk();
        assert_eq!(disk.len(), 4 + 4 * 4 + 3 * 8);
        assert_eq!(disk[..16], [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 7, 0, 0xe8, 3, 0, 0]);
        assert_eq!(Acl::decode_disk(&disk).unwrap(), acl);
        let host = acl.encode_host();
        assert_eq!(host.len(), 4 + 7 * 8);
        assert_eq!(host[..12], [2, 0, 0, 0, 1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(Acl::decode_host(&host).unwrap(), acl);
        acl.validate().unwrap();
        assert_eq!(acl.equivalent_mode(), (0o650, false));
    }

    #[test]
    fn flaws_are_named() {
        let disk = sample().encode_disk();
        assert!(matches!(
            Acl::decode_disk(&sample().encode_host()),
            Err(Error::Corrupt { what: Flaw::Field { field: "version", value: 2, .. }, .. })
        ));
        assert!(matches!(
            Acl::decode_disk(&disk[..disk.len() - 1]),
            Err(Error::Corrupt { what: Flaw::Short { have: 43, need: 44, .. }, .. })
        ));
        let mut bad = disk.clone();
        bad[8] = 3;
        assert!(matches!(
            Acl::decode_disk(&bad),
            Err(Error::Corrupt { what: Flaw::Field { field: "tag", value: 3, .. }, .. })
        ));
        let mut bad = disk;
        bad[6] = 8;
        assert!(matches!(Acl::decode_disk(&bad), Err(Error::Corrupt { what: Flaw::Field { field: "perm", .. }, .. })));
        let mut acl = sample();
        acl.entries.swap(0, 1);
        assert!(matches!(acl.validate(), Err(Error::Corrupt { what: Flaw::Order { .. }, .. })));
        let mut acl = sample();
        acl.entries.remove(5);
        assert!(matches!(acl.validate(), Err(Error::Corrupt { what: Flaw::Inconsistent { .. }, .. })));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(
            mut bytes in proptest::collection::vec(prop_oneof![0u8..33, any::<u8>()], 0..80),
            version in 0u8..3,
        ) {
            if bytes.len() >= 4 && version > 0 {
                bytes[..4].copy_from_slice(&[version, 0, 0, 0]);
            }
            if let Ok(acl) = Acl::decode_disk(&bytes) {
                prop_assert_eq!(acl.encode_disk(), bytes.clone());
                let _ = (acl.validate(), acl.equivalent_mode());
            }
            if let Ok(acl) = Acl::decode_host(&bytes) {
                prop_assert_eq!(Acl::decode_host(&acl.encode_host()).unwrap(), acl);
            }
        }
    }
}
