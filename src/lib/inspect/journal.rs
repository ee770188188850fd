//! The journal's superblock, under dumpe2fs's keys.

use std::io;

use serde::Serialize;

use super::View;
use super::page::Page;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::jbd2::{JournalCompat, JournalIncompat, JournalSuperblock, SUPERBLOCK_SIZE};
use crate::units::Ino;
use crate::volume::{Owner, Volume};

/// What the journal's superblock says.
#[derive(Debug, Serialize)]
pub struct JournalView {
    /// Inode of the journal.
    pub ino: Ino,
    /// Names of the features that are on.
    pub features: Vec<String>,
    /// Block size of the journal in bytes.
    pub block_size: u32,
    /// Blocks of the journal.
    pub blocks: u32,
    /// Blocks of it that fast commits have.
    pub fast_commit_blocks: u32,
    /// First block of the ring.
    pub first: u32,
    /// The first transaction expected in the log.
    pub sequence: u32,
    /// Block where the log starts; 0 where nothing waits to be replayed.
    pub start: u32,
    /// Filesystems that use it.
    pub users: u32,
    /// Error of an aborted journal (negative errno); 0 for none.
    pub errno: i32,
    /// Checksum algorithm, where there are checksums.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum_type: Option<&'static str>,
    /// Stored checksum, with checksums v2 and v3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<u32>,
}

impl JournalView {
    /// The journal inside `volume`; `None` where it has none.
    pub fn new(volume: &Volume) -> Result<Option<Self>> {
        let ino = Ino(volume.superblock().journal_inum.get());
        if ino.0 == 0 {
            return Ok(None);
        }
        let inode = volume.inode(ino)?;
        let mut bytes = [0; SUPERBLOCK_SIZE];
        let read = volume.reader(Owner { ino, inode: &inode })?.read_at(0, &mut bytes)?;
        if read < SUPERBLOCK_SIZE {
            let of = Structure::JournalSuperblock;
            let flaw = Flaw::Short { of, need: SUPERBLOCK_SIZE as u64, have: read as u64 };
            return Err(Error::corrupt(flaw, Place::inode(ino)));
        }
        let sb = JournalSuperblock::decode(&bytes).map_err(|e| e.at(Place::inode(ino)))?;
        let (compat, incompat) = (sb.compat(), sb.incompat());
        let new_csum = incompat.intersects(JournalIncompat::CSUM_V2 | JournalIncompat::CSUM_V3);
        let old_csum = compat.contains(JournalCompat::CHECKSUM);
        let fast = incompat.contains(JournalIncompat::FAST_COMMIT);
        Ok(Some(Self {
            ino,
            features: features(compat, incompat),
            block_size: sb.blocksize.get(),
            blocks: sb.maxlen.get(),
            fast_commit_blocks: if fast { sb.fc_blocks() } else { 0 },
            first: sb.first.get(),
            sequence: sb.sequence.get(),
            start: sb.start.get(),
            users: sb.nr_users.get(),
            errno: sb.error(),
            checksum_type: if new_csum { Some("crc32c") } else { old_csum.then_some("crc32") },
            checksum: new_csum.then(|| sb.checksum.get()),
        }))
    }
}

/// Names of the features of journals that this program knows.
pub(super) fn known_journal_features() -> Vec<String> {
    features(JournalCompat::empty(), JournalIncompat::SUPPORTED)
}

fn features(compat: JournalCompat, incompat: JournalIncompat) -> Vec<String> {
    let names = [
        (JournalIncompat::REVOKE, "journal_incompat_revoke"),
        (JournalIncompat::BIT64, "journal_64bit"),
        (JournalIncompat::ASYNC_COMMIT, "journal_async_commit"),
        (JournalIncompat::CSUM_V2, "journal_checksum_v2"),
        (JournalIncompat::CSUM_V3, "journal_checksum_v3"),
        (JournalIncompat::FAST_COMMIT, "journal_fast_commit"),
    ];
    let checksum = compat.contains(JournalCompat::CHECKSUM).then(|| "journal_checksum".to_owned());
    let known = names.into_iter().filter(|(bit, _)| incompat.contains(*bit)).map(|(_, name)| name.to_owned());
    let unknown = (0..32u32)
        .map(|bit| (bit, 1u32 << bit))
        .filter(|(_, mask)| incompat.bits() & mask & !JournalIncompat::SUPPORTED.bits() != 0);
    checksum.into_iter().chain(known).chain(unknown.map(|(bit, _)| format!("FEATURE_I{bit}"))).collect()
}

impl View for JournalView {
    const SCHEMA: &'static str = "journal/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let features = if self.features.is_empty() { "(none)".into() } else { self.features.join(" ") };
        page.pair("Journal features", features)?;
        let kib = u64::from(self.blocks).saturating_mul(self.block_size.into()) / 1024;
        let size = if kib < 8192 { format!("{kib}k") } else { format!("{}M", kib >> 10) };
        page.pair("Total journal size", size)?;
        page.pair("Total journal blocks", self.blocks)?;
        page.pair("Max transaction length", self.blocks.saturating_sub(self.fast_commit_blocks))?;
        page.pair("Fast commit length", self.fast_commit_blocks)?;
        if self.first != 1 {
            page.pair("Journal first block", self.first)?;
        }
        page.pair("Journal sequence", format_args!("{:#010x}", self.sequence))?;
        page.pair("Journal start", self.start)?;
        if self.users != 1 {
            page.pair("Journal number of users", self.users)?;
        }
        if let Some(name) = self.checksum_type {
            page.pair("Journal checksum type", name)?;
        }
        if let Some(checksum) = self.checksum {
            page.pair("Journal checksum", format_args!("{checksum:#010x}"))?;
        }
        if self.errno != 0 {
            page.pair("Journal errno", self.errno)?;
        }
        Ok(())
    }
}
