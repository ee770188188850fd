//! Quota files: usage and limits.

use std::io;

use serde::Serialize;

use super::View;
use super::page::Page;
use super::table::{Align, Table};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::quota::{Quota, QuotaEntry, QuotaKind};
use crate::units::Ino;
use crate::volume::{Owner, Volume};

/// Largest quota file that is read, bytes.
const MAX_FILE: usize = 64 << 20;

/// Usage and limits of one id.
#[derive(Debug, Serialize)]
pub struct QuotaRow {
    /// User, group or project.
    pub id: u32,
    /// What it uses and may use.
    #[serde(flatten)]
    pub entry: QuotaEntry,
}

/// A quota file.
#[derive(Debug, Serialize)]
pub struct QuotaView {
    /// Whose: `user`, `group` or `project`.
    pub kind: &'static str,
    /// The file's inode.
    pub ino: Ino,
    /// Ids in order.
    pub entries: Vec<QuotaRow>,
}

const fn name(kind: QuotaKind) -> &'static str {
    match kind {
        QuotaKind::User => "user",
        QuotaKind::Group => "group",
        QuotaKind::Project => "project",
    }
}

impl QuotaView {
    /// The quota file of `volume` for a kind; with `id`, only that one.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the filesystem has none.
    pub fn new(volume: &Volume, kind: QuotaKind, id: Option<u32>) -> Result<Self> {
        let sb = volume.superblock();
        let number = match kind {
            QuotaKind::User => sb.usr_quota_inum,
            QuotaKind::Group => sb.grp_quota_inum,
            QuotaKind::Project => sb.prj_quota_inum,
        };
        let ino = Ino(number.get());
        if ino.0 == 0 {
            return Err(Error::InvalidArgument {
                name: "quota type",
                value: name(kind).into(),
                allowed: "one that the filesystem keeps quota for",
            });
        }
        let inode = volume.inode(ino)?;
        let place = Place::inode(ino);
        let size = inode.size();
        let file = volume.reader(Owner { ino, inode: &inode })?.read_all(MAX_FILE)?;
        let too_large = Flaw::Field { of: Structure::Quota, field: "size", value: size };
        let file = file.ok_or(Error::corrupt(too_large, place))?;
        let quota = Quota::decode(&file, kind).map_err(|e| e.at(place))?;
        let all = quota.entries.into_iter().filter(|(n, _)| id.is_none_or(|id| id == *n));
        let mut entries: Vec<_> = all.map(|(id, entry)| QuotaRow { id, entry }).collect();
        // Who is not there uses nothing and has no limits.
        if let (Some(id), true) = (id, entries.is_empty()) {
            entries.push(QuotaRow { id, entry: QuotaEntry::default() });
        }
        Ok(Self { kind: name(kind), ino, entries })
    }
}

impl View for QuotaView {
    const SCHEMA: &'static str = "quota/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        use Align::Right;
        let heading = match self.kind {
            "user" => "user id",
            "group" => "group id",
            _ => "project id",
        };
        let mut table = Table::new([
            (heading, Right),
            ("space", Right),
            ("quota", Right),
            ("limit", Right),
            ("inodes", Right),
            ("quota", Right),
            ("limit", Right),
        ]);
        for QuotaRow { id, entry: e } in &self.entries {
            table.row([
                id.to_string(),
                e.space.to_string(),
                e.space_soft.to_string(),
                e.space_hard.to_string(),
                e.inodes.to_string(),
                e.inodes_soft.to_string(),
                e.inodes_hard.to_string(),
            ]);
        }
        table.write(page)
    }
}
