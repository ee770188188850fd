//! What is not home yet: the running transaction, and what was committed to the log and waits for its checkpoint. Blocks
//! are whole and immutable behind `Arc`.
//!
//! [`View`] shows a device as it would be with all of that home, without the marks that say that the journal is in use: a
//! [`crate::volume::Volume`] opened over it works in the middle of a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::before::Before;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::superblock::{self, Superblock};
use crate::units::Fsblk;
use crate::volume::Geometry;

/// Blocks by number.
pub(super) type Blocks = BTreeMap<Fsblk, Arc<[u8]>>;

/// What the running transaction has changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Running {
    pub(super) blocks: Blocks,
    /// Those of them that were free before: nothing at home refers to them.
    pub(super) made: BTreeSet<Fsblk>,
    /// Freed blocks of which the log holds copies.
    pub(super) revoked: BTreeSet<Fsblk>,
    /// Whether content was written that must be on the device before the commit.
    pub(super) data: bool,
}

impl Running {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.revoked.is_empty()
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) running: Running,
    /// In the log, not home.
    pub(super) committed: Blocks,
    /// Changes of metadata so far.
    pub(super) changes: u64,
    /// The block with the superblock as it is at home, without marks of ours.
    pub(super) home_super: Option<Arc<[u8]>>,
    /// What changes replace, where that is kept.
    pub(super) before: Option<Before>,
}

impl State {
    pub(super) fn get(&self, shared: &Shared, block: Fsblk) -> Option<&Arc<[u8]>> {
        let pending = self.running.blocks.get(&block).or_else(|| self.committed.get(&block));
        pending.or_else(|| self.home_super.as_ref().filter(|_| block == shared.super_block))
    }
}

/// The state that handles and views share.
pub(super) struct Shared {
    pub(super) device: Arc<dyn BlockDevice>,
    pub(super) block_size: u32,
    pub(super) blocks_count: u64,
    /// Block that holds the primary superblock, and where in it.
    pub(super) super_block: Fsblk,
    pub(super) super_at: usize,
    state: RwLock<State>,
}

impl Shared {
    /// Nothing pending over `device`, whose superblock is clean.
    pub(super) fn new(device: Arc<dyn BlockDevice>, geometry: &Geometry) -> Result<Self> {
        let size = u64::from(geometry.block_size);
        let shared = Self {
            device,
            block_size: geometry.block_size,
            blocks_count: geometry.blocks_count,
            super_block: Fsblk(superblock::OFFSET / size),
            super_at: (superblock::OFFSET % size) as usize,
            state: RwLock::default(),
        };
        let home = shared.at_home(shared.super_block)?;
        shared.write().home_super = Some(home);
        Ok(shared)
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Byte offset of a block.
    pub(super) const fn byte(&self, block: Fsblk) -> u64 {
        block.0 * self.block_size as u64
    }

    pub(super) fn at_home(&self, block: Fsblk) -> Result<Arc<[u8]>> {
        let mut bytes = vec![0; self.block_size as usize];
        self.device.read_at(self.byte(block), &mut bytes)?;
        Ok(bytes.into())
    }

    /// A block with everything pending.
    pub(super) fn block(&self, block: Fsblk) -> Result<Arc<[u8]>> {
        let state = self.read();
        match state.get(self, block) {
            Some(bytes) => Ok(Arc::clone(bytes)),
            None => self.at_home(block),
        }
    }

    /// The bytes of the superblock's block with the superblock changed.
    pub(super) fn with_super(&self, block: &[u8], change: impl FnOnce(&mut Superblock)) -> Result<Arc<[u8]>> {
        let mut bytes = block.to_vec();
        let end = (self.super_at + superblock::SIZE).min(bytes.len());
        if let Some(slot) = bytes.get_mut(self.super_at..end) {
            let mut sb = Superblock::decode_unchecked(slot)?;
            change(&mut sb);
            slot.copy_from_slice(&sb.encode());
        }
        Ok(bytes.into())
    }
}

/// A device with everything pending in it; see the module.
pub(super) struct View(pub(super) Arc<Shared>);

impl BlockDevice for View {
    fn len(&self) -> u64 {
        self.0.device.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let size = u64::from(self.0.block_size);
        let (first, end) = (Fsblk(offset / size), offset.saturating_add(buf.len() as u64));
        let state = self.0.read();
        if end <= self.0.byte(first).saturating_add(size)
            && let Some(bytes) = state.get(&self.0, first)
        {
            let at = (offset % size) as usize;
            buf.copy_from_slice(&bytes[at..at + buf.len()]);
            return Ok(());
        }
        self.0.device.read_at(offset, buf)?;
        let span = first..Fsblk(end.div_ceil(size));
        if span.contains(&self.0.super_block)
            && let Some(bytes) = &state.home_super
        {
            patch(buf, offset, self.0.byte(self.0.super_block), bytes);
        }
        for (block, bytes) in state.committed.range(span.clone()).chain(state.running.blocks.range(span)) {
            patch(buf, offset, self.0.byte(*block), bytes);
        }
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::ReadOnly)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn zero(&self, _: u64, _: u64) -> Result<()> {
        Err(Error::ReadOnly)
    }

    fn is_read_only(&self) -> bool {
        true
    }
}

/// Put the part of `bytes`, which belong at `at`, into `buf`, which starts at `offset`, as far as they overlap.
fn patch(buf: &mut [u8], offset: u64, at: u64, bytes: &[u8]) {
    let start = at.max(offset);
    let end = (at + bytes.len() as u64).min(offset + buf.len() as u64);
    if start < end {
        let (to, from) = ((start - offset) as usize, (start - at) as usize);
        let len = (end - start) as usize;
        buf[to..to + len].copy_from_slice(&bytes[from..from + len]);
    }
}

/// Write `blocks` home: ascending, neighbours in one write.
pub(super) fn write_home<'b>(shared: &Shared, blocks: impl Iterator<Item = (Fsblk, &'b Arc<[u8]>)>) -> Result<()> {
    let mut out = super::replay::Out::new(&*shared.device, shared.block_size);
    for (block, bytes) in blocks {
        out.push(block, bytes)?;
    }
    out.write()
}
