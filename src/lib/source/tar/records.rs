//! The records of pax extended headers: `LENGTH KEYWORD=VALUE\n`, where the length counts itself.
//!
//! Keywords known: POSIX's own, GNU's sparse files (0.0, 0.1, 1.0), extended attributes as star, GNU tar and libarchive
//! write them, access control lists as text. Others are about what an inode does not hold, and are passed over.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::acl;
use crate::env::Timestamp;
use crate::error::EntryFlaw;
use crate::source::OwnerNames;
use crate::source::tree::Segment;

/// Pieces of a sparse file at most.
pub(super) const MAX_PIECES: usize = 1 << 22;

/// What extended headers say about an entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) user: Option<Vec<u8>>,
    pub(super) group: Option<Vec<u8>>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) atime: Option<Timestamp>,
    pub(super) ctime: Option<Timestamp>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: Sparse,
    /// For the names in access control lists.
    pub(super) names: Option<Arc<OwnerNames>>,
}

/// What they say about its holes.
#[derive(Clone, Debug, Default)]
pub(super) struct Sparse {
    /// Version 1.0: the map stands before the data.
    pub(super) map_in_data: bool,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) pieces: Option<Vec<Segment>>,
    /// Version 0.0: an offset whose length is still to come.
    offset: Option<u64>,
}

type Flawed<T> = Result<T, EntryFlaw>;

impl Records {
    /// Apply the records of one header.
    pub(super) fn parse(&mut self, mut bytes: &[u8]) -> Flawed<()> {
        // Blocks are padded with zeros, which some programs count in.
        while bytes.first().is_some_and(|b| *b != 0) {
            let space = bytes.iter().take(20).position(|b| *b == b' ').ok_or(EntryFlaw::Record)?;
            let len = decimal(&bytes[..space]).ok_or(EntryFlaw::Record)?;
            let len = usize::try_from(len).map_err(|_| EntryFlaw::Record)?;
            let record = bytes.get(space + 1..len).ok_or(EntryFlaw::Record)?;
            let record = record.strip_suffix(b"\n").ok_or(EntryFlaw::Record)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or(EntryFlaw::Record)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            bytes = bytes.get(len..).unwrap_or_default();
        }
        Ok(())
    }

    fn record(&mut self, keyword: &[u8], value: &[u8]) -> Flawed<()> {
        let bytes = || (!value.is_empty()).then(|| value.to_vec());
        match keyword {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link = bytes(),
            b"size" => self.size = optional(value, "the size", decimal)?,
            b"uid" => self.uid = optional(value, "the owner", id)?,
            b"gid" => self.gid = optional(value, "the group", id)?,
            b"uname" => self.user = bytes(),
            b"gname" => self.group = bytes(),
            b"mtime" => self.mtime = optional(value, "the time", time)?,
            b"atime" => self.atime = optional(value, "the time", time)?,
            b"ctime" => self.ctime = optional(value, "the time", time)?,
            b"RHT.security.selinux" => {
                // The text as the kernel has it, with its NUL.
                self.xattrs.entry(b"security.selinux".to_vec()).or_insert_with(|| [value, b"\0"].concat());
            }
            b"SCHILY.acl.access" => self.acl(b"system.posix_acl_access", value)?,
            b"SCHILY.acl.default" => self.acl(b"system.posix_acl_default", value)?,
            _ => {
                if let Some(name) = keyword.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                } else if let Some(name) = keyword.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let name = unescape(name);
                    if let (false, Some(value)) = (self.xattrs.contains_key(&name), base64(value)) {
                        self.xattrs.insert(name, value);
                    }
                } else if let Some(rest) = keyword.strip_prefix(b"GNU.sparse.") {
                    self.sparse.record(rest, value)?;
                }
            }
        }
        Ok(())
    }

    /// A list as an attribute, unless the attribute is there itself.
    fn acl(&mut self, name: &[u8], text: &[u8]) -> Flawed<()> {
        if !text.is_empty() && !self.xattrs.contains_key(name) {
            let list = acl::parse(text, self.names.as_deref()).ok_or_else(|| EntryFlaw::Acl { text: text.to_vec() })?;
            self.xattrs.insert(name.to_vec(), list.encode_host());
        }
        Ok(())
    }
}

impl Sparse {
    fn record(&mut self, keyword: &[u8], value: &[u8]) -> Flawed<()> {
        let number = || decimal(value).ok_or(EntryFlaw::SparseMap);
        match keyword {
            b"major" => self.map_in_data = number()? >= 1,
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(number()?),
            b"numblocks" => self.pieces = Some(Vec::new()),
            b"offset" => self.offset = Some(number()?),
            b"numbytes" => {
                let start = self.offset.take().ok_or(EntryFlaw::SparseMap)?;
                push(self.pieces.get_or_insert_default(), start, number()?)?;
            }
            b"map" => {
                let mut numbers = value.split(|b| *b == b',').map(decimal);
                let mut pieces = Vec::new();
                while let Some(start) = numbers.next() {
                    match (start, numbers.next().flatten()) {
                        (Some(start), Some(len)) => push(&mut pieces, start, len)?,
                        (None, None) if value.is_empty() => {}
                        _ => return Err(EntryFlaw::SparseMap),
                    }
                }
                self.pieces = Some(pieces);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Add a piece of a sparse file.
pub(super) fn push(pieces: &mut Vec<Segment>, start: u64, len: u64) -> Flawed<()> {
    if pieces.len() >= MAX_PIECES {
        return Err(EntryFlaw::SparseMap);
    }
    pieces.push(Segment { start, end: start.checked_add(len).ok_or(EntryFlaw::SparseMap)? });
    Ok(())
}

/// A value, or none where it is empty.
fn optional<T>(value: &[u8], field: &'static str, parse: fn(&[u8]) -> Option<T>) -> Flawed<Option<T>> {
    if value.is_empty() {
        return Ok(None);
    }
    parse(value).map(Some).ok_or(EntryFlaw::Number { field })
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

fn id(text: &[u8]) -> Option<u32> {
    u32::try_from(decimal(text)?).ok()
}

/// Seconds with a decimal fraction, which may be negative; digits beyond nanoseconds are cut off.
fn time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |b| *b == b'.');
    let whole = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nsec = fraction.iter().chain(std::iter::repeat(&b'0')).take(9).fold(0, |n, d| n * 10 + u32::from(d - b'0'));
    Some(match (negative, nsec) {
        (false, _) => Timestamp { sec: whole, nsec },
        (true, 0) => Timestamp { sec: -whole, nsec },
        (true, _) => Timestamp { sec: -whole - 1, nsec: 1_000_000_000 - nsec },
    })
}

/// A name in which `%XX` stands for a byte.
fn unescape(text: &[u8]) -> Vec<u8> {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(b) = text.get(at) {
        match (digit(text.get(at + 1)), digit(text.get(at + 2))) {
            (Some(high), Some(low)) if *b == b'%' => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*b);
                at += 1;
            }
        }
    }
    out
}

/// Bytes in base 64; `=` at the end may be missing.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut have) = (0u32, 0);
    for b in text.iter().filter(|b| !b.is_ascii_whitespace()) {
        let six = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' => break,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
            bits &= (1 << have) - 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(keyword: &str, value: &[u8]) -> Vec<u8> {
        let rest = keyword.len() + value.len() + 3;
        let len = (rest + 1..rest + 20).find(|n| *n == rest + n.to_string().len()).unwrap();
        [format!("{len} {keyword}=").as_bytes(), value, b"\n"].concat()
    }

    fn parse(records: &[(&str, &[u8])]) -> Flawed<Records> {
        let mut r = Records::default();
        r.parse(&records.iter().flat_map(|(k, v)| record(k, v)).collect::<Vec<_>>())?;
        Ok(r)
    }

    #[test]
    fn what_posix_defines() {
        let r = parse(&[
            ("comment", b"anything"),
            ("path", b"a\nb=c"),
            ("mtime", b"1700000000.123456789123"),
            ("uid", b"4294967295"),
            ("size", b"99999999999"),
        ])
        .unwrap();
        assert_eq!(r.path.as_deref(), Some(&b"a\nb=c"[..]));
        assert_eq!(r.mtime, Some(Timestamp { sec: 1_700_000_000, nsec: 123_456_789 }));
        assert_eq!((r.uid, r.size), (Some(u32::MAX), Some(99_999_999_999)));
        assert_eq!(time(b"-1.5"), Some(Timestamp { sec: -2, nsec: 500_000_000 }));
        assert_eq!(time(b"-3"), Some(Timestamp { sec: -3, nsec: 0 }));
        assert_eq!(time(b"3.5"), Some(Timestamp { sec: 3, nsec: 500_000_000 }));
    }

    #[test]
    fn attributes_in_every_spelling() {
        let r = parse(&[
            ("SCHILY.xattr.user.a=b", b"x"),
            ("SCHILY.xattr.user.raw", b"\0\n=\xff"),
            ("LIBARCHIVE.xattr.user.%C3%A4", b"AP8="),
            ("LIBARCHIVE.xattr.user.raw", b"AAAA"),
            ("RHT.security.selinux", b"u:r:t"),
            ("SCHILY.acl.access", b"user::rwx,group::r-x,other::r--"),
        ])
        .unwrap();
        let get = |n: &[u8]| r.xattrs.get(n).cloned();
        assert_eq!(get(b"user.raw"), Some(b"\0\n=\xff".to_vec()));
        assert_eq!(get("user.ä".as_bytes()), Some(vec![0, 0xff]));
        assert_eq!(get(b"security.selinux"), Some(b"u:r:t\0".to_vec()));
        assert_eq!(get(b"system.posix_acl_access").map(|v| v.len()), Some(4 + 3 * 8));
    }

    #[test]
    fn maps_of_sparse_files() {
        let want = [Segment { start: 0, end: 4 }, Segment { start: 10, end: 12 }];
        let old = parse(&[
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"0"),
            ("GNU.sparse.numbytes", b"4"),
            ("GNU.sparse.offset", b"10"),
            ("GNU.sparse.numbytes", b"2"),
        ]);
        assert_eq!(old.unwrap().sparse.pieces.unwrap(), want);
        assert_eq!(parse(&[("GNU.sparse.map", b"0,4,10,2")]).unwrap().sparse.pieces.unwrap(), want);
        assert_eq!(parse(&[("GNU.sparse.map", b"")]).unwrap().sparse.pieces.unwrap(), []);
        for bad in [&b"1"[..], b"1,2,3", b"a,b", b"18446744073709551615,2"] {
            assert_eq!(parse(&[("GNU.sparse.map", bad)]).err(), Some(EntryFlaw::SparseMap));
        }
        assert!(parse(&[("GNU.sparse.numbytes", b"2")]).is_err());
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in
            [&b"5 a=b"[..], b"99 a=b\n", b"x a=b\n", b"6 abcd\n", b"3 a=b\n", b"0 a=b\n", b"60000000000000000000 a"]
        {
            assert_eq!(Records::default().parse(bad), Err(EntryFlaw::Record), "{bad:?}");
        }
        assert!(parse(&[("mtime", b"yesterday")]).is_err());
        assert!(parse(&[("uid", b"-1")]).is_err());
        assert!(parse(&[("SCHILY.acl.access", b"user:bob:rwx")]).is_err());
        Records::default().parse(&[record("path", b"x"), vec![0; 30]].concat()).unwrap();
    }
}
