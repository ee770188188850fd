//! Listing: what `ls -l` says, as text or JSON, from one model. Times are UTC, owners are numbers.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::listing::Entry;
use super::names::{self, printable};
use super::run::{Report, Run};
use super::scan::Scan;
use super::walk::{self, Item};
use super::{Extractor, Source};
use crate::env::Timestamp;
use crate::error::Result;
use crate::format::inode::{FileType, TimeField};
use crate::format::xattr;
use crate::units::Ino;

/// One file of a listing.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its path in the image.
    pub path: Vec<u8>,
    /// Its name in the directory; for a source that is no directory, the path as given.
    pub name: Vec<u8>,
    /// Inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileType,
    /// Twelve bits of permissions.
    pub permissions: u16,
    /// Whether it has an access control list.
    pub has_acl: bool,
    /// Hard links.
    pub links: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Space in use, bytes.
    pub allocated: u64,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Modification time.
    pub modified: Timestamp,
    /// Where a symbolic link leads.
    pub target: Option<Vec<u8>>,
    /// Names of extended attributes.
    pub xattrs: Vec<Vec<u8>>,
}

/// The files of one directory, or one file.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The directory; `None` for a source that is none.
    pub directory: Option<Vec<u8>>,
    /// By name.
    pub entries: Vec<Listed>,
}

/// List `sources`: the entries of directories, of those below too where that is asked for.
pub(super) fn list(
    extractor: &Extractor<'_>,
    sources: &[Source],
    visit: &mut dyn FnMut(Listing) -> Result<()>,
) -> Result<Report> {
    let run = Run::new(extractor);
    for source in sources {
        let mut todo = vec![(source.path.clone(), source.ino, source.inode.clone())];
        let mut scan = Scan::new(&run);
        while let Some((path, ino, inode)) = todo.pop() {
            let item = Item { name: &path, ino, inode: &inode };
            if inode.file_type() != Some(FileType::Directory) {
                visit(Listing { directory: None, entries: vec![listed(&run, path.clone(), &item)] })?;
                continue;
            }
            let entries = match scan.entries(item.owner(), || path.clone()) {
                Ok(entries) => entries,
                Err(e) => {
                    run.fail(&path, e);
                    continue;
                }
            };
            let (all, below) = directory(&run, &path, ino, entries);
            visit(Listing { directory: Some(path.clone()), entries: all })?;
            if run.options.recursive {
                todo.extend(below.into_iter().rev());
            }
        }
    }
    run.finish()
}

type Below = Vec<(Vec<u8>, Ino, crate::format::inode::Inode)>;

fn directory(run: &Run<'_>, path: &[u8], dir: Ino, entries: Vec<Entry>) -> (Vec<Listed>, Below) {
    let (mut all, mut below) = (Vec::with_capacity(entries.len()), Vec::new());
    for (name, ino) in entries {
        let mut full = path.to_vec();
        if full.last() != Some(&b'/') {
            full.push(b'/');
        }
        full.extend_from_slice(&name);
        // A bad name is told, and shown all the same: looking does no harm.
        if let Err(e) = names::check(&name, dir) {
            run.fail(&full, e);
        }
        let inode = match walk::entry_inode(run.volume, dir, ino) {
            Ok(inode) => inode,
            Err(e) => {
                run.fail(&full, e);
                continue;
            }
        };
        let item = Item { name: &name, ino, inode: &inode };
        all.push(listed(run, full.clone(), &item));
        if inode.file_type() == Some(FileType::Directory) && run.options.recursive {
            below.push((full, ino, inode));
        }
    }
    (all, below)
}

fn listed(run: &Run<'_>, path: Vec<u8>, item: &Item<'_>) -> Listed {
    let inode = item.inode;
    let kind = inode.file_type().unwrap_or(FileType::Regular);
    let told = |result: Result<()>| {
        if let Err(e) = result {
            run.fail(&path, e);
        }
    };
    let mut xattrs = Vec::new();
    let mut has_acl = false;
    told(run.volume.xattrs(item.owner()).map(|all| {
        has_acl = all.iter().any(|x| matches!(x.index, xattr::INDEX_POSIX_ACL_ACCESS | xattr::INDEX_POSIX_ACL_DEFAULT));
        xattrs = all.iter().map(crate::volume::NamedXattr::name).collect();
    }));
    let mut target = None;
    if kind == FileType::Symlink {
        told(run.volume.symlink_target(item.owner()).map(|t| target = Some(t)));
    }
    let is_device = matches!(kind, FileType::CharDevice | FileType::BlockDevice);
    Listed {
        name: item.name.to_vec(),
        ino: item.ino,
        kind,
        permissions: inode.permissions(),
        has_acl,
        links: inode.core().links_count.get(),
        uid: inode.uid(),
        gid: inode.gid(),
        size: inode.size(),
        allocated: inode.allocated_bytes(run.volume.geometry().block_size),
        device: is_device.then(|| inode.device_numbers()),
        modified: inode.time(TimeField::Modify),
        target,
        xattrs,
        path,
    }
}

impl Listed {
    /// Type and permissions as letters, `+` behind them for an access control list.
    fn mode(&self) -> String {
        let p = self.permissions;
        let mut text = String::from(self.kind.letter());
        for (shift, special, letter) in [(6u32, 0o4000u16, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
            let bits = p >> shift;
            text.push(if bits & 4 != 0 { 'r' } else { '-' });
            text.push(if bits & 2 != 0 { 'w' } else { '-' });
            text.push(match (bits & 1 != 0, p & special != 0) {
                (true, true) => letter,
                (false, true) => letter.to_ascii_uppercase(),
                (true, false) => 'x',
                (false, false) => '-',
            });
        }
        if self.has_acl {
            text.push('+');
        }
        text
    }

    fn columns(&self) -> [String; 6] {
        let size = match self.device {
            Some((major, minor)) => format!("{major}, {minor}"),
            None => self.size.to_string(),
        };
        [self.mode(), self.links.to_string(), self.uid.to_string(), self.gid.to_string(), size, utc(self.modified)]
    }
}

impl Listing {
    /// Write it as `ls -l` would: one line per file, columns aligned, names with escapes for what cannot be shown.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let rows: Vec<_> = self.entries.iter().map(Listed::columns).collect();
        let mut widths = [0; 6];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.len());
            }
        }
        for (entry, row) in self.entries.iter().zip(&rows) {
            let [mode, links, uid, gid, size, time] = row;
            let [w0, w1, w2, w3, w4, w5] = widths;
            write!(out, "{mode:w0$} {links:>w1$} {uid:>w2$} {gid:>w3$} {size:>w4$} {time:>w5$} ")?;
            out.write_all(printable(&entry.name).as_bytes())?;
            if let Some(target) = &entry.target {
                write!(out, " -> {}", printable(target))?;
            }
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}

impl Serialize for Listed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        put_bytes(&mut map, "path", "path_hex", &self.path)?;
        map.serialize_entry("ino", &self.ino)?;
        map.serialize_entry("type", &self.kind)?;
        map.serialize_entry("mode", &format!("{:04o}", self.permissions))?;
        map.serialize_entry("links", &self.links)?;
        map.serialize_entry("uid", &self.uid)?;
        map.serialize_entry("gid", &self.gid)?;
        map.serialize_entry("size", &self.size)?;
        map.serialize_entry("allocated", &self.allocated)?;
        map.serialize_entry("mtime", &self.modified)?;
        if let Some((major, minor)) = self.device {
            map.serialize_entry("major", &major)?;
            map.serialize_entry("minor", &minor)?;
        }
        if let Some(target) = &self.target {
            put_bytes(&mut map, "target", "target_hex", target)?;
        }
        if !self.xattrs.is_empty() {
            let names: Vec<_> = self.xattrs.iter().map(|n| String::from_utf8_lossy(n)).collect();
            map.serialize_entry("xattrs", &names)?;
        }
        map.end()
    }
}

/// Bytes that are text mostly: as text, and where that loses something in hexadecimal too.
fn put_bytes<M: SerializeMap>(map: &mut M, key: &str, hex_key: &str, bytes: &[u8]) -> Result<(), M::Error> {
    let text = String::from_utf8_lossy(bytes);
    map.serialize_entry(key, &text)?;
    if text.as_bytes() != bytes {
        let hex = bytes.iter().fold(String::new(), |mut hex, b| {
            let _ = write!(hex, "{b:02x}");
            hex
        });
        map.serialize_entry(hex_key, &hex)?;
    }
    Ok(())
}

/// `2024-02-29 23:59:59`, UTC.
fn utc(t: Timestamp) -> String {
    let (days, second) = (t.sec.div_euclid(86_400), t.sec.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}")
}

/// The Gregorian date of a day counted from 1970-01-01. Years are taken to begin in March, so that the leap day is
/// the last; 719468 days lie between 0000-03-01 and 1970-01-01, 146097 in 400 years.
const fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        let at = |sec| utc(Timestamp::from_secs(sec));
        assert_eq!(at(0), "1970-01-01 00:00:00");
        assert_eq!(at(-1), "1969-12-31 23:59:59");
        assert_eq!(at(951_868_799), "2000-02-29 23:59:59");
        assert_eq!(at(951_868_800), "2000-03-01 00:00:00");
        assert_eq!(at(4_107_542_399), "2100-02-28 23:59:59");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00");
        assert_eq!(at(-0x8000_0000), "1901-12-13 20:45:52");
        assert_eq!(at(0x3_7fff_ffff), "2446-05-10 22:38:55");
    }

    fn entry(name: &[u8]) -> Listed {
        Listed {
            path: [b"/", name].concat(),
            name: name.to_vec(),
            ino: Ino(12),
            kind: FileType::Regular,
            permissions: 0o4755,
            has_acl: false,
            links: 1,
            uid: 0,
            gid: 1000,
            size: 123,
            allocated: 4096,
            device: None,
            modified: Timestamp::from_secs(0),
            target: None,
            xattrs: vec![],
        }
    }

    #[test]
    fn columns_are_aligned_and_names_harmless() {
        let device = Listed {
            kind: FileType::CharDevice,
            device: Some((1, 3)),
            permissions: 0o1666,
            has_acl: true,
            ..entry(b"null")
        };
        let link =
            Listed { kind: FileType::Symlink, target: Some(b"a\n".to_vec()), permissions: 0o777, ..entry(b"x\x1b") };
        let listing = Listing { directory: None, entries: vec![entry(b"su"), device, link] };
        let mut out = Vec::new();
        listing.write_text(&mut out).unwrap();
        let want = "-rwsr-xr-x  1 0 1000  123 1970-01-01 00:00:00 su\n\
                    crw-rw-rwT+ 1 0 1000 1, 3 1970-01-01 00:00:00 null\n\
                    lrwxrwxrwx  1 0 1000  123 1970-01-01 00:00:00 x\\x1b -> a\\n\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }

    #[test]
    fn json_keeps_bytes_that_are_no_text() {
        let value = serde_json::to_value(entry(b"\xff")).unwrap();
        assert_eq!(value["path_hex"], "2fff");
        assert_eq!(value["mode"], "4755");
        assert_eq!(value["type"], "regular");
        assert!(serde_json::to_value(entry(b"a")).unwrap().get("path_hex").is_none());
    }
}
