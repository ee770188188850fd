//! All blocks of an inode, those of its map included: debugfs's `blocks`.

use std::io::{self, Write};

use serde::Serialize;

use super::inode::MapRun;
use super::page::Page;
use super::{Damage, View};
use crate::error::Result;
use crate::units::Ino;
use crate::volume::{Owner, Volume};

/// Blocks of an inode.
#[derive(Debug, Serialize)]
pub struct BlocksView {
    /// Inode.
    pub ino: Ino,
    /// Runs of data blocks and blocks of the map, in the order of a walk.
    pub runs: Vec<MapRun>,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

impl BlocksView {
    /// The blocks of an inode.
    pub fn new(volume: &Volume, owner: Owner<'_>) -> Result<Self> {
        let (runs, damage) = MapRun::all(volume, owner);
        Ok(Self { ino: owner.ino, runs, damage })
    }
}

impl View for BlocksView {
    const SCHEMA: &'static str = "blocks/1";

    /// All block numbers on one line.
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let blocks = self.runs.iter().flat_map(|r| (0..r.len).map(|n| r.pblk.0.saturating_add(n)));
        for (i, block) in blocks.enumerate() {
            write!(page, "{}{block}", if i == 0 { "" } else { " " })?;
        }
        writeln!(page)
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}
