//! Tar headers: ustar, with pax records for what does not fit.
//!
//! A record is `LENGTH KEYWORD=VALUE\n`, where the length counts itself; values may be any bytes.

use tar::{EntryType, Header};

use crate::env::Timestamp;
use crate::format::acl::{Acl, AclTag};

/// Bytes of a tar block.
pub(super) const BLOCK: u64 = 512;
/// The first value that a numeric field of twelve characters (size, time) does not hold.
const LIMIT_12: u64 = 1 << 33;
/// The first value that a numeric field of eight characters (owner, group) does not hold.
const LIMIT_8: u32 = 1 << 21;

/// The header of one entry, and the pax records before it.
pub(super) struct Entry {
    header: Header,
    records: Vec<u8>,
}

impl Entry {
    pub(super) fn new(kind: EntryType) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        Self { header, records: Vec::new() }
    }

    /// Add a pax record.
    pub(super) fn record(&mut self, keyword: &[u8], value: &[u8]) {
        let rest = keyword.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + decimal_digits(len) {
            len = rest + decimal_digits(len);
        }
        self.records.extend_from_slice(format!("{len} ").as_bytes());
        for part in [keyword, b"=", value, b"\n"] {
            self.records.extend_from_slice(part);
        }
    }

    /// Set the path; a long one is split, or becomes a record.
    pub(super) fn path(&mut self, path: &[u8]) {
        if !self.short_path(path) {
            self.record(b"path", path);
        }
    }

    /// Put the path into the header, cut where it is too long; whether it fits.
    pub(super) fn short_path(&mut self, path: &[u8]) -> bool {
        let Some(h) = self.header.as_ustar_mut() else { return false };
        // A name of at most 100 bytes behind the `/` that ends a prefix of at most 155.
        let cut = path.iter().enumerate().find_map(|(i, b)| (*b == b'/' && path.len() - i <= 101).then_some(i));
        let (prefix, name) = match cut {
            _ if path.len() <= h.name.len() => (&b""[..], path),
            Some(at) if at > 0 && at <= h.prefix.len() && at + 1 < path.len() => (&path[..at], &path[at + 1..]),
            _ => (&b""[..], &path[..h.name.len()]),
        };
        fill(&mut h.prefix, prefix);
        fill(&mut h.name, name);
        prefix.len() + name.len() + usize::from(!prefix.is_empty()) == path.len()
    }

    /// Set where a link leads to.
    pub(super) fn link(&mut self, to: &[u8]) {
        let Some(h) = self.header.as_ustar_mut() else { return };
        let fits = to.len() <= h.linkname.len();
        fill(&mut h.linkname, &to[..to.len().min(100)]);
        if !fits {
            self.record(b"linkpath", to);
        }
    }

    /// Set the bytes that follow the header.
    pub(super) fn size(&mut self, size: u64) {
        if size < LIMIT_12 {
            self.header.set_size(size);
        } else {
            self.header.set_size(0);
            self.record(b"size", size.to_string().as_bytes());
        }
    }

    pub(super) fn owner(&mut self, uid: u32, gid: u32) {
        let mut id = |keyword: &[u8], id: u32| {
            if id < LIMIT_8 {
                return u64::from(id);
            }
            self.record(keyword, id.to_string().as_bytes());
            0
        };
        let (uid, gid) = (id(b"uid", uid), id(b"gid", gid));
        self.header.set_uid(uid);
        self.header.set_gid(gid);
    }

    pub(super) fn mode(&mut self, mode: u32) {
        self.header.set_mode(mode);
    }

    pub(super) fn device(&mut self, major: u32, minor: u32) {
        // Only fails for headers without these fields; the numbers of an inode fit.
        let _ = self.header.set_device_major(major);
        let _ = self.header.set_device_minor(minor);
    }

    pub(super) fn mtime(&mut self, t: Timestamp) {
        let whole = u64::try_from(t.sec).ok().filter(|s| *s < LIMIT_12);
        self.header.set_mtime(whole.unwrap_or(0));
        if t.nsec != 0 || whole.is_none() {
            self.record(b"mtime", decimal_time(t).as_bytes());
        }
    }

    /// The bytes before the content.
    pub(super) fn finish(mut self, path: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(2048);
        if !self.records.is_empty() {
            let mut pax = Self::new(EntryType::XHeader);
            let base = path.rsplit(|b| *b == b'/').find(|c| !c.is_empty()).unwrap_or(b".");
            pax.short_path(&[b"PaxHeaders/", &base[..base.len().min(80)]].concat());
            pax.size(self.records.len() as u64);
            pax.owner(0, 0);
            pax.mode(0o644);
            pax.header.set_mtime(0);
            pax.header.set_cksum();
            out.extend_from_slice(pax.header.as_bytes());
            out.extend_from_slice(&self.records);
            out.resize(out.len() + padding(self.records.len() as u64) as usize, 0);
        }
        self.header.set_cksum();
        out.extend_from_slice(self.header.as_bytes());
        out
    }
}

/// Bytes from `size` to the end of its last block.
pub(super) const fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

fn fill(field: &mut [u8], value: &[u8]) {
    field.fill(0);
    for (to, from) in field.iter_mut().zip(value) {
        *to = *from;
    }
}

const fn decimal_digits(n: usize) -> usize {
    match n.checked_ilog10() {
        Some(log) => log as usize + 1,
        None => 1,
    }
}

/// Seconds with nanoseconds as a decimal fraction.
fn decimal_time(t: Timestamp) -> String {
    if t.sec < 0 && t.nsec > 0 {
        return format!("-{}.{:09}", (t.sec + 1).unsigned_abs(), 1_000_000_000u32.saturating_sub(t.nsec));
    }
    if t.nsec == 0 { t.sec.to_string() } else { format!("{}.{:09}", t.sec, t.nsec) }
}

/// An access control list in the text form of tar, with numbers for names.
pub(super) fn acl_text(acl: &Acl) -> String {
    let entries = acl.entries.iter().map(|e| {
        let who = match e.tag {
            AclTag::UserObj => "user:".to_owned(),
            AclTag::User(id) => format!("user:{id}"),
            AclTag::GroupObj => "group:".to_owned(),
            AclTag::Group(id) => format!("group:{id}"),
            AclTag::Mask => "mask:".to_owned(),
            AclTag::Other => "other:".to_owned(),
        };
        let bit = |bit: u16, letter| if e.perm & bit != 0 { letter } else { '-' };
        format!("{who}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x'))
    });
    entries.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::acl::AclEntry;

    #[test]
    fn records_count_themselves() {
        for len in [0usize, 1, 80, 85, 86, 87, 90, 97, 980, 990, 9985] {
            let mut e = Entry::new(EntryType::Regular);
            e.record(b"k", &vec![b'v'; len]);
            let text = &e.records;
            let space = text.iter().position(|b| *b == b' ').unwrap();
            let counted: usize = str::from_utf8(&text[..space]).unwrap().parse().unwrap();
            assert_eq!(counted, text.len(), "{len}");
        }
    }

    #[test]
    fn paths_are_split_or_become_records() {
        let header = |path: &[u8]| {
            let mut e = Entry::new(EntryType::Regular);
            e.path(path);
            (e.header.path_bytes().into_owned(), !e.records.is_empty())
        };
        let long = [&[b'd'; 120][..], b"/", &[b'f'; 100]].concat();
        assert_eq!(header(&long), (long.clone(), false));
        let dir = [&[b'd'; 150][..], b"/", &[b'e'; 99], b"/"].concat();
        assert_eq!(header(&dir), (dir.clone(), false));
        assert_eq!(header(&[b'x'; 100]), (vec![b'x'; 100], false));
        assert_eq!(header(&[b'x'; 101]), (vec![b'x'; 100], true));
        let longer = [&[b'd'; 160][..], b"/", &[b'f'; 100]].concat();
        assert!(header(&longer).1);
        let flat = [&[b'd'; 150][..], b"/", &[b'f'; 101]].concat();
        assert!(header(&flat).1);
        assert_eq!(header(b"./"), (b"./".to_vec(), false));
    }

    #[test]
    fn times_before_the_epoch_are_negative_decimals() {
        let text = |sec, nsec| decimal_time(Timestamp { sec, nsec });
        assert_eq!(text(-2, 500_000_000), "-1.500000000");
        assert_eq!(text(-1, 999_999_999), "-0.000000001");
        assert_eq!(text(-1, 0), "-1");
        assert_eq!(text(1, 5), "1.000000005");
    }

    #[test]
    fn lists_are_text() {
        let entry = |tag, perm| AclEntry { tag, perm };
        let acl = Acl {
            entries: vec![
                entry(AclTag::UserObj, 6),
                entry(AclTag::User(1000), 7),
                entry(AclTag::GroupObj, 4),
                entry(AclTag::Mask, 5),
                entry(AclTag::Other, 0),
            ],
        };
        assert_eq!(acl_text(&acl), "user::rw-,user:1000:rwx,group::r--,mask::r-x,other::---");
    }
}
