//! A device whose writes can be held back: from [`StagedDevice::stage`] on they stay in memory, in order, until they are applied or
//! forgotten. Until then it is the device below.
//!
//! Offsets and lengths in bytes. Invariants: while writes are held back, nothing reaches the device below, and reads see all of
//! them; they are applied in the order in which they came, flushes with them, so that a kill in the middle leaves what a power
//! failure would have left.

use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::overlay::Change;
use super::replay::Event;
use super::{BlockDevice, FrozenView, OverlayDevice, RecordDevice};
use crate::error::Result;

/// Bytes of a change that are listed as one.
const PIECE: usize = 1 << 20;

type Base = Arc<dyn BlockDevice>;
type Stage = RecordDevice<OverlayDevice<Base>>;

/// A device whose writes can be held back.
pub struct StagedDevice {
    base: Base,
    stage: RwLock<Option<Stage>>,
}

impl std::fmt::Debug for StagedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StagedDevice").field("staged", &self.is_staged()).finish_non_exhaustive()
    }
}

impl StagedDevice {
    /// Over `base`, to which everything goes at first.
    pub fn new(base: Base) -> Self {
        Self { base, stage: RwLock::default() }
    }

    /// Hold writes back from now on. Where they are already, nothing changes.
    pub fn stage(&self) {
        self.write().get_or_insert_with(|| RecordDevice::new(OverlayDevice::new(Arc::clone(&self.base))));
    }

    /// Whether writes are held back.
    pub fn is_staged(&self) -> bool {
        self.read().is_some()
    }

    /// The device below, without what is held back.
    pub const fn base(&self) -> &Base {
        &self.base
    }

    /// What is held back, as ranges that differ from the device below (or may): ascending.
    pub fn changes(&self) -> Vec<Range<u64>> {
        let stage = self.read();
        let changes = stage.as_ref().map(|s| s.base().changes(PIECE)).unwrap_or_default();
        let range = |c: &Change| match c {
            Change::Data { offset, bytes } => *offset..offset + bytes.len() as u64,
            Change::Zero { offset, len } => *offset..offset + len,
        };
        changes.iter().map(range).collect()
    }

    /// Forget all that was held back behind the last flush; how many writes. They stay held back otherwise.
    ///
    /// # Errors
    /// Those of the device below.
    pub fn lose_unflushed(&self) -> Result<usize> {
        let mut stage = self.write();
        let Some(old) = stage.as_ref() else { return Ok(0) };
        let log = old.log();
        let events = log.events();
        let kept = events.iter().rposition(|e| matches!(e, Event::Flush)).map_or(0, |i| i + 1);
        let new = RecordDevice::new(OverlayDevice::new(Arc::clone(&self.base)));
        events.iter().take(kept).try_for_each(|e| play(e, &new))?;
        let lost = events.len() - kept;
        *stage = Some(new);
        Ok(lost)
    }

    /// Do to the device below what was held back, in order, and hold nothing back any more.
    ///
    /// # Errors
    /// Failed writes; a part is done then.
    pub fn apply(&self) -> Result<()> {
        let mut stage = self.write();
        let Some(held) = stage.take() else { return Ok(()) };
        held.log().events().iter().try_for_each(|e| play(e, &self.base))?;
        self.base.flush()
    }

    /// Forget what was held back, and hold nothing back any more.
    pub fn forget(&self) {
        *self.write() = None;
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<Stage>> {
        self.stage.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Option<Stage>> {
        self.stage.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Do it where it belongs now.
    fn on<T>(&self, f: impl FnOnce(&dyn BlockDevice) -> Result<T>) -> Result<T> {
        match &*self.read() {
            Some(stage) => f(stage),
            None => f(&self.base),
        }
    }
}

fn play(event: &Event, device: &dyn BlockDevice) -> Result<()> {
    match event {
        Event::Write { offset, data } => device.write_at(*offset, data),
        Event::Zero { offset, len } => device.zero(*offset, *len),
        Event::Flush => device.flush(),
    }
}

impl BlockDevice for StagedDevice {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.on(|d| d.read_at(offset, buf))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.on(|d| d.write_at(offset, data))
    }

    fn write_parts_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        self.on(|d| d.write_parts_at(offset, parts))
    }

    fn copy_from(&self, file: BorrowedFd<'_>, from: u64, offset: u64, len: u64) -> Result<u64> {
        self.on(|d| d.copy_from(file, from, offset, len))
    }

    fn flush(&self) -> Result<()> {
        self.on(|d| d.flush())
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.on(|d| d.zero(offset, len))
    }

    fn freeze(&self, offset: u64, len: usize) -> Option<FrozenView<'_>> {
        if self.is_staged() { None } else { self.base.freeze(offset, len) }
    }

    fn host_file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        if self.is_staged() { None } else { self.base.host_file() }
    }

    fn release(&self) {
        self.base.release();
    }

    fn is_read_only(&self) -> bool {
        self.base.is_read_only()
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        self.on(|d| d.next_data(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    #[test]
    fn what_is_held_back_is_applied_lost_or_forgotten() {
        let base = Arc::new(MemoryDevice::from_bytes(vec![1; 20_000]));
        let d = StagedDevice::new(Arc::<MemoryDevice>::clone(&base));
        d.write_at(0, &[2; 10]).unwrap();
        assert_eq!(base.to_bytes()[..11], [[2; 10].as_slice(), &[1]].concat());
        d.stage();
        d.write_at(5, &[3; 10]).unwrap();
        d.flush().unwrap();
        d.zero(8192, 4096).unwrap();
        let mut now = vec![0; 15];
        d.read_at(0, &mut now).unwrap();
        assert_eq!(now, [[2; 5].as_slice(), &[3; 10]].concat());
        assert_eq!(base.to_bytes()[5], 2, "it is held back");
        assert_eq!(d.changes(), [0..4096, 8192..12288]);
        assert_eq!(d.lose_unflushed().unwrap(), 1);
        assert_eq!((d.changes().len(), d.changes().first()), (1, Some(&(0..4096))));
        d.apply().unwrap();
        assert!(!d.is_staged());
        assert_eq!((base.to_bytes()[5], base.to_bytes()[8192]), (3, 1));
        d.stage();
        d.write_at(0, &[9]).unwrap();
        d.forget();
        assert_eq!(base.to_bytes()[0], 2);
    }
}
