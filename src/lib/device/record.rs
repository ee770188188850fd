//! A device that writes down, in order and with their data, the writes, zeroings and flushes that reach the one below.
//!
//! Offsets and lengths in bytes. The log is what [`super::replay`] makes crash states from.
//!
//! Invariants: the order of the log is the order on the device below; an operation is in the log when it succeeded there,
//! and only then; the log holds at most the bytes it was given room for: a write beyond fails and changes nothing.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::BlockDevice;
use super::replay::{Event, WriteLog};
use crate::error::{Error, Result};

/// A device with a log of what was done to it.
#[derive(Debug)]
pub struct RecordDevice<D> {
    base: D,
    limit: u64,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    events: Vec<Event>,
    bytes: u64,
}

impl<D: BlockDevice> RecordDevice<D> {
    /// Record what is done to `base`, however much it is.
    pub const fn new(base: D) -> Self {
        Self::with_limit(base, u64::MAX)
    }

    /// Record at most `limit` bytes of written data.
    pub const fn with_limit(base: D, limit: u64) -> Self {
        Self { base, limit, log: Mutex::new(Log { events: Vec::new(), bytes: 0 }) }
    }

    /// The device below.
    pub const fn base(&self) -> &D {
        &self.base
    }

    /// The log so far. Data is shared, not copied.
    pub fn log(&self) -> WriteLog {
        WriteLog::new(self.lock().events.clone())
    }

    /// The log so far, which then starts anew.
    pub fn take_log(&self) -> WriteLog {
        WriteLog::new(std::mem::take(&mut *self.lock()).events)
    }

    /// How many operations the log holds.
    pub fn recorded(&self) -> usize {
        self.lock().events.len()
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: BlockDevice> BlockDevice for RecordDevice<D> {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.base.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        // Held across the write, so that the log's order is the device's.
        let mut log = self.lock();
        let bytes = log.bytes.saturating_add(data.len() as u64);
        if bytes > self.limit {
            let have = self.limit - log.bytes;
            return Err(Error::NoSpace { what: "bytes of the write log", need: data.len() as u64, have });
        }
        self.base.write_at(offset, data)?;
        log.bytes = bytes;
        log.events.push(Event::Write { offset, data: Arc::from(data) });
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let mut log = self.lock();
        self.base.flush()?;
        log.events.push(Event::Flush);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        let mut log = self.lock();
        self.base.zero(offset, len)?;
        log.events.push(Event::Zero { offset, len });
        Ok(())
    }

    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.base.slice(offset, len)
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

    #[test]
    fn what_happened_is_in_the_log_and_nothing_else() {
        let d = RecordDevice::with_limit(MemoryDevice::new(100), 10);
        d.write_at(3, b"abc").unwrap();
        d.flush().unwrap();
        d.zero(4, 50).unwrap();
        assert!(d.write_at(99, b"xy").is_err());
        assert!(matches!(d.write_at(0, b"12345678"), Err(Error::NoSpace { need: 8, have: 7, .. })));
        assert_eq!(d.base().to_bytes()[0], 0);
        let want =
            [Event::Write { offset: 3, data: Arc::from(*b"abc") }, Event::Flush, Event::Zero { offset: 4, len: 50 }];
        assert_eq!(d.log().events(), want);
        assert_eq!(d.take_log().events(), want);
        assert_eq!(d.recorded(), 0);
        d.write_at(0, b"1234567890").unwrap();
    }
}
