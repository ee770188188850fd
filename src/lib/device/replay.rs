//! From a log of writes to the states a device may be in after the power failed.
//!
//! Offsets and lengths in bytes. The model: the power fails after the first `end` operations were issued. Everything before
//! the last flush among them is on the device; of what came after it, any subset may be, each write torn at
//! sectors of [`SECTOR`] bytes in any way. Writes that made it are applied in the order they were issued, so that of two
//! writes to a sector the later wins where both are kept.
//!
//! A [`CrashState`] names one such state; [`WriteLog::apply`] makes it on a copy of the device as it was at the
//! start of the log (an [`super::OverlayDevice`] over it is the cheapest copy).

use std::ops::Range;
use std::sync::Arc;

use super::BlockDevice;
use crate::env::Entropy;
use crate::error::Result;

/// What a device writes whole or not at all, in bytes.
pub const SECTOR: u64 = 512;

/// One thing done to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A write.
    Write {
        /// Where, in bytes.
        offset: u64,
        /// What.
        data: Arc<[u8]>,
    },
    /// A range was zeroed.
    Zero {
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u64,
    },
    /// Everything before became durable.
    Flush,
}

impl Event {
    /// The bytes it changes; empty for a flush.
    pub fn range(&self) -> Range<u64> {
        match self {
            Self::Write { offset, data } => *offset..offset + data.len() as u64,
            Self::Zero { offset, len } => *offset..offset + len,
            Self::Flush => 0..0,
        }
    }

    /// How many sectors it touches.
    pub fn sectors(&self) -> u64 {
        let r = self.range();
        if r.is_empty() { 0 } else { r.end.div_ceil(SECTOR) - r.start / SECTOR }
    }

    /// Do the part of it that lies in `part` (bytes of the device) to `device`.
    fn apply(&self, part: &Range<u64>, device: &(impl BlockDevice + ?Sized)) -> Result<()> {
        let whole = self.range();
        let (start, end) = (part.start.max(whole.start), part.end.min(whole.end));
        if start >= end {
            return Ok(());
        }
        match self {
            Self::Write { offset, data } => {
                device.write_at(start, &data[(start - offset) as usize..(end - offset) as usize])
            }
            Self::Zero { .. } => device.zero(start, end - start),
            Self::Flush => Ok(()),
        }
    }
}

/// What of one event after the last flush reached the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which event of the log.
    pub event: usize,
    /// The bytes of the device it changed; `None` for all of them.
    pub parts: Option<Vec<Range<u64>>>,
}

/// One state that a power failure may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashState {
    /// How many events were issued before the power failed.
    pub end: usize,
    /// What of those after the last flush made it, in ascending order of events.
    pub kept: Vec<Kept>,
}

/// The writes, zeroings and flushes that a device saw, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteLog {
    events: Vec<Event>,
}

impl WriteLog {
    /// A log of these events.
    pub const fn new(events: Vec<Event>) -> Self {
        Self { events }
    }

    /// All events, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// How many of the first `end` events are durable: all up to and with the last flush among them.
    pub fn durable(&self, end: usize) -> usize {
        self.events[..end.min(self.len())].iter().rposition(|e| *e == Event::Flush).map_or(0, |i| i + 1)
    }

    /// The events after the last flush among the first `end`: each may have happened or not.
    pub fn pending(&self, end: usize) -> Range<usize> {
        self.durable(end)..end.min(self.len())
    }

    /// Repeat the events of a range on `device`, whole and in order.
    ///
    /// # Errors
    /// Those of the device.
    pub fn apply_range(&self, events: Range<usize>, device: &(impl BlockDevice + ?Sized)) -> Result<()> {
        self.events[events].iter().try_for_each(|e| e.apply(&e.range(), device))
    }

    /// Bring `device`, as it was before the log, into a crash state.
    ///
    /// # Errors
    /// Those of the device.
    pub fn apply(&self, state: &CrashState, device: &(impl BlockDevice + ?Sized)) -> Result<()> {
        self.apply_range(0..self.durable(state.end), device)?;
        self.apply_pending(state, device)
    }

    /// The same for a device that holds all durable events already: only what came after the last flush.
    ///
    /// # Errors
    /// Those of the device.
    pub fn apply_pending(&self, state: &CrashState, device: &(impl BlockDevice + ?Sized)) -> Result<()> {
        for kept in &state.kept {
            let event = &self.events[kept.event];
            match &kept.parts {
                None => event.apply(&event.range(), device)?,
                Some(parts) => parts.iter().try_for_each(|p| event.apply(p, device))?,
            }
        }
        Ok(())
    }

    /// The state in which the first `end` events happened and nothing else.
    pub fn prefix(&self, end: usize) -> CrashState {
        CrashState { end, kept: self.pending(end).map(|event| Kept { event, parts: None }).collect() }
    }

    /// Every prefix of the log, from nothing to all.
    pub fn prefixes(&self) -> impl Iterator<Item = CrashState> + '_ {
        (0..=self.len()).map(|end| self.prefix(end))
    }

    /// Every subset of whole events after the last flush among the first `end`; `None` where that would be more than `max`
    /// states.
    pub fn subsets(&self, end: usize, max: u64) -> Option<impl Iterator<Item = CrashState> + '_> {
        let pending = self.pending(end);
        let count = u32::try_from(pending.len()).ok().and_then(|n| 1u64.checked_shl(n)).filter(|&n| n <= max)?;
        Some((0..count).map(move |mask| {
            CrashState {
                end,
                kept: pending
                    .clone()
                    .enumerate()
                    .filter(|(bit, _)| mask >> bit & 1 == 1)
                    .map(|(_, event)| Kept { event, parts: None })
                    .collect(),
            }
        }))
    }

    /// The states in which the first `end` events happened but of the last one only the sectors before a point, for every
    /// point inside it.
    pub fn torn_tails(&self, end: usize) -> impl Iterator<Item = CrashState> + '_ {
        let last = end.checked_sub(1).filter(|&i| i < self.len());
        let sectors = last.map_or(0, |i| self.events[i].sectors());
        (1..sectors).map(move |n| {
            let mut state = self.prefix(end);
            if let Some(kept) = state.kept.last_mut() {
                let range = self.events[kept.event].range();
                let front = range.start..(range.start / SECTOR + n) * SECTOR;
                kept.parts = Some(vec![front]);
            }
            state
        })
    }

    /// A state drawn at random: each event after the last flush among the first `end` is kept (3 in 8), lost (3 in 8), or torn
    /// (2 in 8: at one point, or sector by sector).
    pub fn sample(&self, end: usize, entropy: &mut impl Entropy) -> CrashState {
        let mut kept = Vec::new();
        for event in self.pending(end) {
            let parts = match entropy.next_u32() % 8 {
                0..3 => None,
                3..6 => continue,
                6 => Some(self.torn_at_a_point(event, entropy)),
                _ => Some(self.torn_by_sector(event, entropy)),
            };
            kept.push(Kept { event, parts });
        }
        CrashState { end, kept }
    }

    fn torn_at_a_point(&self, event: usize, entropy: &mut impl Entropy) -> Vec<Range<u64>> {
        let (range, sectors) = (self.events[event].range(), self.events[event].sectors());
        let point = (range.start / SECTOR + u64::from(entropy.next_u32()) % (sectors + 1)) * SECTOR;
        let back = entropy.next_u32().is_multiple_of(4);
        Vec::from([if back { point..range.end } else { range.start..point }])
    }

    fn torn_by_sector(&self, event: usize, entropy: &mut impl Entropy) -> Vec<Range<u64>> {
        /// Beyond this many sectors whole runs of them are kept or lost together.
        const MAX_PARTS: u64 = 64;
        let (range, sectors) = (self.events[event].range(), self.events[event].sectors());
        let step = sectors.div_ceil(MAX_PARTS).max(1) * SECTOR;
        let first = range.start / SECTOR * SECTOR;
        (0..=sectors * SECTOR / step)
            .map(|i| first + i * step..first + (i + 1) * step)
            .filter(|_| entropy.next_u32() & 1 == 1)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{MemoryDevice, OverlayDevice, RecordDevice};
    use crate::env::SeededEntropy;
    use std::collections::BTreeSet;

    /// Three flushed and three pending writes of one sector each, and their log.
    fn example() -> (WriteLog, Vec<u8>) {
        let d = RecordDevice::new(MemoryDevice::new(8 * 512));
        d.write_at(0, &[1; 512]).unwrap();
        d.write_at(512, &[2; 512]).unwrap();
        d.flush().unwrap();
        d.write_at(0, &[3; 512]).unwrap();
        d.write_at(1024, &[4; 1536]).unwrap();
        d.zero(512, 1024).unwrap();
        (d.log(), d.base().to_bytes())
    }

    fn build(log: &WriteLog, state: &CrashState) -> Vec<u8> {
        let d = MemoryDevice::new(8 * 512);
        log.apply(state, &d).unwrap();
        d.into_bytes()
    }

    #[test]
    fn all_of_the_log_gives_the_device_again() {
        let (log, bytes) = example();
        assert_eq!(build(&log, &log.prefix(log.len())), bytes);
        assert_eq!(build(&log, &log.prefix(0)), vec![0; 8 * 512]);
        assert_eq!(log.prefixes().count(), 7);
    }

    #[test]
    fn what_was_flushed_is_never_lost() {
        let (log, _) = example();
        let mut entropy = SeededEntropy::new(1);
        let base = MemoryDevice::new(8 * 512);
        let o = OverlayDevice::new(&base);
        let mut seen = BTreeSet::new();
        for _ in 0..20_000 {
            let state = log.sample(log.len(), &mut entropy);
            o.reset();
            log.apply(&state, &o).unwrap();
            let mut bytes = vec![0; 8 * 512];
            o.read_at(0, &mut bytes).unwrap();
            assert_eq!(bytes, build(&log, &state));
            assert!(matches!(bytes[0], 1 | 3));
            assert!(matches!(bytes[512], 2 | 0));
            for sector in bytes.chunks(512) {
                assert!(sector.iter().all(|&b| b == sector[0]), "sectors are never torn");
            }
            seen.insert(bytes);
        }
        // Five sectors, each in one of two states.
        assert_eq!(seen.len(), 32);
    }

    #[test]
    fn subsets_are_complete_and_counted_before_they_are_made() {
        let (log, _) = example();
        assert_eq!(log.pending(log.len()), 3..6);
        assert_eq!(log.pending(3), 3..3);
        assert_eq!(log.pending(2), 0..2);
        let states: BTreeSet<_> = log.subsets(6, 8).unwrap().map(|s| build(&log, &s)).collect();
        assert_eq!(states.len(), 8);
        assert!(log.subsets(6, 7).is_none());
        let many = WriteLog::new(vec![Event::Zero { offset: 0, len: 1 }; 100]);
        assert!(many.subsets(100, u64::MAX).is_none());
    }

    #[test]
    fn tails_tear_at_every_sector() {
        let (log, _) = example();
        let tails: Vec<_> = log.torn_tails(5).map(|s| build(&log, &s)).collect();
        assert_eq!(tails.len(), 2);
        assert_eq!((tails[0][1024], tails[0][1536]), (4, 0));
        assert_eq!((tails[1][1536], tails[1][2048]), (4, 0));
        assert_eq!(log.torn_tails(0).count(), 0);
    }

    #[test]
    fn writes_that_straddle_sectors_tear_at_the_device_s_sectors() {
        let log = WriteLog::new(vec![Event::Write { offset: 500, data: Arc::from(vec![9; 600]) }]);
        assert_eq!(log.events()[0].sectors(), 3);
        let tails: Vec<_> = log.torn_tails(1).map(|s| build(&log, &s)).collect();
        let ends = tails.iter().map(|t| t.iter().rposition(|&b| b == 9));
        assert_eq!(ends.collect::<Vec<_>>(), [Some(511), Some(1023)]);
    }
}
