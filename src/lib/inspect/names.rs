//! Which paths lead to an inode: debugfs's `ncheck`.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use serde::Serialize;

use super::page::Page;
use super::scan::for_each_inode;
use super::table::{Align, Table};
use super::text::PathText;
use super::{Damage, View};
use crate::error::Result;
use crate::format::dirent::is_dot_or_dotdot;
use crate::format::inode::FileType;
use crate::units::Ino;
use crate::volume::{Owner, Volume};

/// Most directories above one another.
const MAX_DEPTH: usize = 4096;
/// Most names that are collected.
const MAX_HITS: usize = 1 << 20;

/// A name of an inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NameHit {
    /// The inode.
    pub ino: Ino,
    /// Its path. Where the root cannot be reached, it begins with the number of the highest directory, as `<12>`.
    #[serde(flatten)]
    pub path: PathText,
    /// The type that the entry records differs from the inode's own; where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrong_type: Option<bool>,
}

/// Names of inodes.
#[derive(Debug, Serialize)]
pub struct NamesView {
    /// The names, in the order of the directories that hold them.
    pub names: Vec<NameHit>,
    /// Inodes asked about that have no name.
    pub nameless: Vec<Ino>,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

impl NamesView {
    /// Read all directories, looking for names of `inodes`.
    pub fn new(volume: &Volume, inodes: &[Ino], check_type: bool) -> Result<Self> {
        // Where each directory is named: by the first entry found.
        let mut parents: BTreeMap<Ino, (Ino, Vec<u8>)> = BTreeMap::new();
        let mut hits: Vec<(Ino, Ino, Vec<u8>, Option<FileType>)> = Vec::new();
        let (mut damage, mut flaws) = (Vec::new(), Vec::new());
        for_each_inode(volume, &mut damage, &mut |dir, inode| {
            if inode.file_type() != Some(FileType::Directory) {
                return Ok(ControlFlow::Continue(()));
            }
            let read = volume.for_each_entry(Owner { ino: dir, inode }, &mut |e| {
                if is_dot_or_dotdot(e.entry.name) {
                    return Ok(ControlFlow::Continue(()));
                }
                let (ino, file_type) = (e.entry.ino, e.file_type());
                if inodes.contains(&ino) && hits.len() < MAX_HITS {
                    hits.push((ino, dir, e.entry.name.to_vec(), file_type));
                }
                // Without types in the entries, every name may be a directory's.
                if file_type.is_none_or(|t| t == FileType::Directory) {
                    parents.entry(ino).or_insert_with(|| (dir, e.entry.name.to_vec()));
                }
                Ok(ControlFlow::Continue(()))
            });
            flaws.extend(read.err().map(Damage::from));
            Ok(ControlFlow::Continue(()))
        })?;
        damage.append(&mut flaws);
        let names: Vec<NameHit> = hits
            .into_iter()
            .map(|(ino, dir, name, file_type)| NameHit {
                ino,
                path: PathText(path_of(&parents, dir, &name)),
                wrong_type: check_type.then(|| {
                    file_type.is_some() && volume.raw_inode(ino).is_ok_and(|inode| inode.file_type() != file_type)
                }),
            })
            .collect();
        let named = |ino: &Ino| names.iter().any(|n| n.ino == *ino);
        let nameless = inodes.iter().copied().filter(|ino| *ino != Ino::ROOT && !named(ino)).collect();
        Ok(Self { names, nameless, damage })
    }
}

fn path_of(parents: &BTreeMap<Ino, (Ino, Vec<u8>)>, dir: Ino, name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = vec![name];
    let mut at = dir;
    while at != Ino::ROOT && parts.len() < MAX_DEPTH {
        let Some((parent, name)) = parents.get(&at) else { break };
        parts.push(name);
        at = *parent;
    }
    let mut path = if at == Ino::ROOT { Vec::new() } else { format!("<{at}>").into_bytes() };
    for part in parts.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    path
}

impl View for NamesView {
    const SCHEMA: &'static str = "inode-names/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let mut table = Table::new([("Inode", Align::Left), ("Pathname", Align::Left)]);
        for n in &self.names {
            let mut path = n.path.0.clone();
            if n.wrong_type == Some(true) {
                path.extend_from_slice(b" (the entry has another type than the inode)");
            }
            table.row_with_bytes([n.ino.to_string()], path);
        }
        // debugfs says nothing about those.
        for ino in self.nameless.iter().filter(|_| page.is_terminal()) {
            table.row([ino.to_string(), "<inode not found>".into()]);
        }
        table.write(page)
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}
