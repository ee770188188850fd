//! What differs between the trees of two filesystems.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::page::Page;
use super::text::PathText;
use super::tree::{Below, below};
use super::{Damage, View};
use crate::error::Result;
use crate::format::inode::{FileType, TimeField};
use crate::units::Ino;
use crate::volume::{Owner, Volume};

/// Bytes that are compared at once.
const STEP: usize = 1 << 16;

/// A path that is not the same in both.
#[derive(Debug, Serialize)]
pub struct Differing {
    /// The path.
    #[serde(flatten)]
    pub path: PathText,
    /// Where it is, or what of it differs: `only_first`, `only_second`, `type`, `mode`, `owner`, `size`, `content`, `target`,
    /// `attributes`, `mtime`.
    pub what: Vec<&'static str>,
}

/// What differs.
#[derive(Debug, Serialize)]
pub struct DiffView {
    /// The paths, in order.
    pub differing: Vec<Differing>,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

impl DiffView {
    /// Compare all that is below the roots.
    ///
    /// # Errors
    /// A root that cannot be read.
    pub fn new(first: &Volume, second: &Volume) -> Result<Self> {
        let (a, mut damage) = below(first, Ino::ROOT, b"/")?;
        let (b, more) = below(second, Ino::ROOT, b"/")?;
        damage.extend(more);
        let by_path = |names: Vec<Below>| names.into_iter().map(|n| (n.path.clone(), n)).collect::<BTreeMap<_, _>>();
        let (a, mut b) = (by_path(a), by_path(b));
        let mut differing = Vec::new();
        for (path, one) in a {
            let what = match b.remove(&path) {
                None => vec!["only_first"],
                Some(two) => match differences(first, &one, second, &two) {
                    Ok(what) => what,
                    Err(e) => {
                        damage.push(e.into());
                        continue;
                    }
                },
            };
            if !what.is_empty() {
                differing.push(Differing { path, what });
            }
        }
        differing.extend(b.into_keys().map(|path| Differing { path, what: vec!["only_second"] }));
        differing.sort_by(|x, y| x.path.cmp(&y.path));
        Ok(Self { differing, damage })
    }
}

fn differences(first: &Volume, one: &Below, second: &Volume, two: &Below) -> Result<Vec<&'static str>> {
    let (a, b) = (first.raw_inode(one.ino)?, second.raw_inode(two.ino)?);
    if a.file_type() != b.file_type() {
        return Ok(vec!["type"]);
    }
    let (x, y) = (Owner { ino: one.ino, inode: &a }, Owner { ino: two.ino, inode: &b });
    let names = |v: &Volume, o: Owner<'_>| -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let all = v.xattrs(o)?.into_iter();
        all.map(|x| Ok((x.name(), x.host_value()?.into_owned()))).collect()
    };
    let is_dir = a.file_type() == Some(FileType::Directory);
    let regular = a.file_type() == Some(FileType::Regular);
    let same_size = a.size() == b.size() || is_dir;
    let checks = [
        ("mode", a.permissions() == b.permissions()),
        ("owner", (a.uid(), a.gid()) == (b.uid(), b.gid())),
        ("size", same_size),
        ("content", !regular || !same_size || same_content(first, x, second, y)?),
        ("target", one.target == two.target && (regular || is_dir || a.device_numbers() == b.device_numbers())),
        ("attributes", names(first, x)? == names(second, y)?),
        ("mtime", a.time(TimeField::Modify) == b.time(TimeField::Modify)),
    ];
    Ok(checks.into_iter().filter(|(_, same)| !same).map(|(what, _)| what).collect())
}

fn same_content(first: &Volume, x: Owner<'_>, second: &Volume, y: Owner<'_>) -> Result<bool> {
    let readers = [first.reader(x)?, second.reader(y)?];
    let mut bytes = [vec![0; STEP], vec![0; STEP]];
    let mut at = 0u64;
    loop {
        let mut read = [0; 2];
        for ((reader, buf), n) in readers.iter().zip(&mut bytes).zip(&mut read) {
            *n = reader.read_at(at, buf)?;
        }
        if read[0] != read[1] || bytes[0].get(..read[0]) != bytes[1].get(..read[1]) {
            return Ok(false);
        }
        if read[0] == 0 {
            return Ok(true);
        }
        at = at.saturating_add(read[0] as u64);
    }
}

impl View for DiffView {
    const SCHEMA: &'static str = "diff/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        for d in &self.differing {
            let (sign, what) = match d.what[..] {
                ["only_first"] => ('-', String::new()),
                ["only_second"] => ('+', String::new()),
                _ => ('!', format!("  ({})", d.what.join(", "))),
            };
            write!(page, "{sign} ")?;
            page.bytes(&d.path.0)?;
            writeln!(page, "{what}")?;
        }
        Ok(())
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}
