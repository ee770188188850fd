//! A device that fails when it is told to. Offsets and lengths in bytes.
//!
//! Invariants: a fault takes effect on the operation it names and on no other; after the first failed write, zeroing or
//! flush ([`Effect::Bad`] apart) the device is poisoned, as [`super::FileDevice`] is: later writes fail with [`Error::Poisoned`].

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::{BlockDevice, check_range};
use crate::error::{Error, IoOp, Result};

/// When a fault strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// On the operation with this number, counted from 0 among those of its kind, and on no other.
    Nth(u64),
    /// On every operation from this number on.
    From(u64),
    /// On every operation that touches one of these bytes.
    Range(Range<u64>),
}

/// What happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// An error; nothing was done.
    Fail,
    /// An error, after the first so many bytes were done.
    Short(u64),
    /// An error, nothing was done, and the device goes on: a bad sector.
    Bad,
    /// Success is reported, and nothing was done: a device that lies.
    Lose,
}

/// One planned fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind of operation it strikes; zeroing is [`IoOp::Discard`].
    pub op: IoOp,
    /// Which of them.
    pub trigger: Trigger,
    /// What happens.
    pub effect: Effect,
}

/// A device with faults planned in.
#[derive(Debug)]
pub struct FaultDevice<D> {
    base: D,
    faults: RwLock<Vec<Fault>>,
    counts: [AtomicU64; 4],
    poisoned: AtomicBool,
}

impl<D: BlockDevice> FaultDevice<D> {
    /// `base`, with these faults. With none it counts operations, so that a test can then fail each in turn.
    pub fn new(base: D, faults: Vec<Fault>) -> Self {
        Self { base, faults: RwLock::new(faults), counts: Default::default(), poisoned: AtomicBool::new(false) }
    }

    /// The device below.
    pub const fn base(&self) -> &D {
        &self.base
    }

    /// Other faults, from now on.
    pub fn plan(&self, faults: Vec<Fault>) {
        *self.faults.write().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// How many operations of a kind there were, those that failed and those refused after poisoning included.
    pub fn count(&self, op: IoOp) -> u64 {
        self.counts[index(op)].load(Ordering::Relaxed)
    }

    /// Count an operation and find the fault that strikes it.
    fn strike(&self, op: IoOp, range: &Range<u64>) -> Result<Option<Effect>> {
        let n = self.counts[index(op)].fetch_add(1, Ordering::Relaxed);
        if op != IoOp::Read && self.poisoned.load(Ordering::Acquire) {
            return Err(Error::Poisoned);
        }
        let struck = |f: &&Fault| {
            f.op == op
                && match &f.trigger {
                    Trigger::Nth(k) => *k == n,
                    Trigger::From(k) => n >= *k,
                    Trigger::Range(r) => r.start < range.end && range.start < r.end,
                }
        };
        let faults = self.faults.read().unwrap_or_else(PoisonError::into_inner);
        Ok(faults.iter().find(struck).map(|f| f.effect))
    }

    fn failed(&self, op: IoOp, range: &Range<u64>, for_good: bool) -> Error {
        if op != IoOp::Read && for_good {
            self.poisoned.store(true, Ordering::Release);
        }
        let source = std::io::Error::from(rustix::io::Errno::IO);
        Error::Io { op, offset: range.start, len: range.end - range.start, source }
    }

    /// Run one operation of `len` bytes through the plan; `act` does the first so many bytes of it.
    fn run(&self, op: IoOp, offset: u64, len: u64, act: impl FnOnce(u64) -> Result<()>) -> Result<()> {
        check_range(op, offset, len, self.base.len())?;
        let range = offset..offset + len;
        match self.strike(op, &range)? {
            None => act(len),
            Some(Effect::Lose) => Ok(()),
            Some(Effect::Fail) => Err(self.failed(op, &range, true)),
            Some(Effect::Bad) => Err(self.failed(op, &range, false)),
            Some(Effect::Short(n)) => {
                act(n.min(len))?;
                Err(self.failed(op, &range, true))
            }
        }
    }
}

const fn index(op: IoOp) -> usize {
    match op {
        IoOp::Read => 0,
        IoOp::Write => 1,
        IoOp::Flush => 2,
        IoOp::Discard => 3,
    }
}

impl<D: BlockDevice> BlockDevice for FaultDevice<D> {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let len = buf.len() as u64;
        self.run(IoOp::Read, offset, len, |n| self.base.read_at(offset, &mut buf[..n as usize]))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.run(IoOp::Write, offset, data.len() as u64, |n| self.base.write_at(offset, &data[..n as usize]))
    }

    fn flush(&self) -> Result<()> {
        self.run(IoOp::Flush, 0, 0, |_| self.base.flush())
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.run(IoOp::Discard, offset, len, |n| self.base.zero(offset, n))
    }

    fn is_read_only(&self) -> bool {
        self.base.is_read_only()
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        self.base.next_data(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    fn with(op: IoOp, trigger: Trigger, effect: Effect) -> FaultDevice<MemoryDevice> {
        FaultDevice::new(MemoryDevice::new(100), vec![Fault { op, trigger, effect }])
    }

    #[test]
    fn the_nth_write_fails_and_is_the_last() {
        let d = with(IoOp::Write, Trigger::Nth(1), Effect::Fail);
        d.write_at(0, &[1; 4]).unwrap();
        assert!(matches!(d.write_at(4, &[2; 4]), Err(Error::Io { op: IoOp::Write, offset: 4, len: 4, .. })));
        assert!(matches!(d.write_at(8, &[3]), Err(Error::Poisoned)));
        assert!(matches!(d.zero(0, 1), Err(Error::Poisoned)));
        assert!(matches!(d.flush(), Err(Error::Poisoned)));
        let mut b = [9; 9];
        d.read_at(0, &mut b).unwrap();
        assert_eq!(b, [1, 1, 1, 1, 0, 0, 0, 0, 0]);
        assert_eq!((d.count(IoOp::Write), d.count(IoOp::Read), d.count(IoOp::Flush)), (3, 1, 1));
    }

    #[test]
    fn a_short_write_leaves_its_beginning() {
        let d = with(IoOp::Write, Trigger::From(0), Effect::Short(3));
        assert!(d.write_at(10, &[7; 8]).is_err());
        assert_eq!(d.base().to_bytes()[9..15], [0, 7, 7, 7, 0, 0]);
    }

    #[test]
    fn a_bad_range_fails_every_time_and_reads_do_not_poison() {
        let d = with(IoOp::Read, Trigger::Range(20..30), Effect::Fail);
        assert!(d.read_at(10, &mut [0; 11]).is_err());
        assert!(d.read_at(29, &mut [0; 1]).is_err());
        d.read_at(10, &mut [0; 10]).unwrap();
        d.read_at(30, &mut [0; 10]).unwrap();
        d.write_at(20, &[1]).unwrap();
        d.flush().unwrap();
    }

    #[test]
    fn a_bad_sector_is_no_end() {
        let d = with(IoOp::Write, Trigger::Range(10..20), Effect::Bad);
        assert!(matches!(d.write_at(15, &[1]), Err(Error::Io { .. })));
        d.write_at(20, &[1]).unwrap();
        d.plan(Vec::new());
        d.write_at(15, &[1]).unwrap();
        d.flush().unwrap();
    }

    #[test]
    fn a_device_may_lie() {
        let d = with(IoOp::Write, Trigger::Nth(0), Effect::Lose);
        d.write_at(0, &[1]).unwrap();
        d.write_at(1, &[1]).unwrap();
        assert_eq!(d.base().to_bytes()[..2], [0, 1]);
        let d = with(IoOp::Flush, Trigger::Nth(0), Effect::Fail);
        assert!(matches!(d.flush(), Err(Error::Io { op: IoOp::Flush, .. })));
        assert!(matches!(d.flush(), Err(Error::Poisoned)));
    }
}
