//! What changes replaced: the blocks as they were before the first change of each, and the content that went over the content of
//! other files. With it, changes can be taken back also after they were committed.
//!
//! Blocks are those of the filesystem, as [`super::Journal::view`] shows them. A block that was freed is kept as well, because what
//! takes it next overwrites it.
//!
//! Invariants: a block is kept once, as it was when [`super::Journal::watch`] was called; content is kept before it is
//! overwritten, as far as there is room, and what there was no room for is named.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::pending::{Shared, State};
use crate::error::Result;
use crate::units::Fsblk;

/// What blocks of content held before they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldContent {
    /// Nothing but zeros.
    Zeros,
    /// These bytes.
    Bytes(Arc<[u8]>),
    /// There was no room to keep it.
    Lost,
}

/// What a stretch of changes replaced.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// Blocks that went through the transaction, or were dropped from it.
    pub blocks: BTreeMap<Fsblk, Arc<[u8]>>,
    /// Content that was written beside it: first block, blocks, what they held. Blocks that are there twice held what comes first.
    pub content: Vec<(Fsblk, u32, OldContent)>,
    /// Bytes of content that there is still room for.
    room: usize,
}

impl Before {
    /// Nothing yet, with room for so many bytes of content.
    pub(super) fn with_room(room: usize) -> Self {
        Self { room, ..Self::default() }
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        let content = self.content.iter().map(|(_, _, old)| if let OldContent::Bytes(b) = old { b.len() } else { 0 });
        self.blocks.values().map(|b| b.len()).sum::<usize>() + content.sum::<usize>()
    }

    /// Whether content was overwritten that there was no room for.
    pub fn has_lost(&self) -> bool {
        self.content.iter().any(|(_, _, old)| *old == OldContent::Lost)
    }

    /// What both replaced, one after the other.
    pub fn absorb(&mut self, newer: Self) {
        for (block, bytes) in newer.blocks {
            self.blocks.entry(block).or_insert(bytes);
        }
        self.content.extend(newer.content);
    }
}

impl State {
    /// A block is about to change or to go.
    pub(super) fn keep_block(&mut self, shared: &Shared, block: Fsblk) -> Result<()> {
        if self.before.as_ref().is_none_or(|b| b.blocks.contains_key(&block)) {
            return Ok(());
        }
        let bytes = self.get(shared, block).cloned().map_or_else(|| shared.at_home(block), Ok)?;
        if let Some(before) = &mut self.before {
            before.blocks.insert(block, bytes);
        }
        Ok(())
    }

    /// Content is about to go to blocks.
    pub(super) fn keep_content(&mut self, shared: &Shared, span: Range<Fsblk>) -> Result<()> {
        let Some(before) = &mut self.before else { return Ok(()) };
        let (at, end) = (shared.byte(span.start), shared.byte(span.end));
        let (len, blocks) = ((end - at) as usize, (span.end.0 - span.start.0) as u32);
        let hole = shared.device.next_data(at)?.is_none_or(|data| data.start >= end);
        let old = if hole {
            OldContent::Zeros
        } else if len > before.room {
            OldContent::Lost
        } else {
            let mut bytes = vec![0; len];
            shared.device.read_at(at, &mut bytes)?;
            if bytes.iter().all(|b| *b == 0) {
                OldContent::Zeros
            } else {
                before.room -= len;
                OldContent::Bytes(bytes.into())
            }
        };
        before.content.push((span.start, blocks, old));
        Ok(())
    }
}
