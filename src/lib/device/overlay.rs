//! Changes kept in memory over a device that stays as it is: dry runs, `-n`, and crash states over one base.
//!
//! Offsets and lengths in bytes. Changes are kept in chunks of [`CHUNK`] bytes, zeroed stretches as ranges of chunk
//! numbers, so that zeroing a terabyte costs one entry.
//!
//! Invariants: nothing is ever written to the device below but by [`OverlayDevice::apply_to`], when the caller hands
//! it in; a chunk that is both in `data` and in `zeros` is what `data` says; `zeros` holds non-empty ranges that neither
//! touch nor overlap.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{BlockDevice, check_range};
use crate::error::{IoOp, Result};

/// Bytes of one chunk of changes.
pub const CHUNK: u64 = 4096;

/// A device whose writes stay in memory.
#[derive(Debug, Default)]
pub struct OverlayDevice<D> {
    base: D,
    state: RwLock<State>,
}

/// One changed stretch, in bytes from the start of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Holds these bytes.
    Data {
        /// Where it begins.
        offset: u64,
        /// What it holds.
        bytes: Vec<u8>,
    },
    /// Reads as zeros.
    Zero {
        /// Where it begins.
        offset: u64,
        /// How long it is.
        len: u64,
    },
}

#[derive(Debug, Default)]
struct State {
    /// Chunk number to content; the last chunk of the device may be shorter.
    data: BTreeMap<u64, Box<[u8]>>,
    /// First chunk to the one after the last.
    zeros: BTreeMap<u64, u64>,
}

/// What the overlay says about a chunk.
enum Source<'a> {
    Data(&'a [u8]),
    Zero,
    Base,
}

impl State {
    fn source(&self, chunk: u64) -> Source<'_> {
        if let Some(bytes) = self.data.get(&chunk) {
            return Source::Data(bytes);
        }
        match self.zeros.range(..=chunk).next_back() {
            Some((_, &end)) if chunk < end => Source::Zero,
            _ => Source::Base,
        }
    }

    fn touches(&self, chunks: &Range<u64>) -> bool {
        self.data.range(chunks.clone()).next().is_some()
            || self.zeros.range(..chunks.end).next_back().is_some_and(|(_, &end)| end > chunks.start)
    }

    fn zero_chunks(&mut self, chunks: Range<u64>) {
        let doomed: Vec<u64> = self.data.range(chunks.clone()).map(|(&c, _)| c).collect();
        for c in doomed {
            self.data.remove(&c);
        }
        let Range { mut start, mut end } = chunks;
        while let Some((&s, &e)) = self.zeros.range(..=end).next_back() {
            if e < start {
                break;
            }
            start = start.min(s);
            end = end.max(e);
            self.zeros.remove(&s);
        }
        self.zeros.insert(start, end);
    }

    /// The first chunk at or after `chunk` about which the overlay says something.
    fn next_change(&self, chunk: u64) -> Option<u64> {
        let data = self.data.range(chunk..).next().map(|(&c, _)| c);
        let zeros = self.zeros.range(chunk..).next().map(|(&c, _)| c);
        data.into_iter().chain(zeros).min()
    }
}

impl<D: BlockDevice> OverlayDevice<D> {
    /// No changes yet over `base`.
    pub fn new(base: D) -> Self {
        Self { base, state: RwLock::default() }
    }

    /// The device below.
    pub const fn base(&self) -> &D {
        &self.base
    }

    /// Forget all changes.
    pub fn reset(&self) {
        *self.write() = State::default();
    }

    /// Whether anything was written.
    pub fn is_changed(&self) -> bool {
        let state = self.read();
        !(state.data.is_empty() && state.zeros.is_empty())
    }

    /// Bytes of memory that the changes take, about.
    pub fn memory(&self) -> u64 {
        self.read().data.len() as u64 * CHUNK
    }

    /// All changed stretches, in ascending order, neighbours joined up to `max` bytes of data (at least one chunk). Whole
    /// chunks are listed: bytes beside a write, and writes of what was there already, count as changed.
    pub fn changes(&self, max: usize) -> Vec<Change> {
        let state = self.read();
        let mut out = Vec::new();
        let mut chunk = 0;
        while let Some(next) = state.next_change(chunk) {
            chunk = next;
            while let Source::Data(bytes) = state.source(chunk) {
                match out.last_mut() {
                    Some(Change::Data { offset, bytes: have })
                        if *offset + have.len() as u64 == chunk * CHUNK && have.len() + bytes.len() <= max =>
                    {
                        have.extend_from_slice(bytes);
                    }
                    _ => out.push(Change::Data { offset: chunk * CHUNK, bytes: bytes.to_vec() }),
                }
                chunk += 1;
            }
            if let Some((_, &end)) = state.zeros.range(..=chunk).next_back()
                && chunk < end
            {
                let next = state.data.range(chunk..end).next().map_or(end, |(&c, _)| c);
                let (offset, stop) = (chunk * CHUNK, (next * CHUNK).min(self.len()));
                out.push(Change::Zero { offset, len: stop - offset });
                chunk = next;
            }
        }
        out
    }

    /// Write all changes to `target`, in ascending order, and flush it.
    ///
    /// # Errors
    /// Those of the target, which then holds a part of the changes.
    pub fn apply_to(&self, target: &(impl BlockDevice + ?Sized)) -> Result<()> {
        for change in self.changes(1 << 20) {
            match change {
                Change::Data { offset, bytes } => target.write_at(offset, &bytes)?,
                Change::Zero { offset, len } => target.zero(offset, len)?,
            }
        }
        target.flush()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of a chunk; the last one of the device may be shorter than [`CHUNK`].
    fn chunk_range(&self, chunk: u64) -> Range<u64> {
        chunk * CHUNK..(chunk * CHUNK).saturating_add(CHUNK).min(self.base.len())
    }

    /// What a chunk holds now, as the start of a change to it.
    fn load(&self, state: &State, chunk: u64) -> Result<Box<[u8]>> {
        let range = self.chunk_range(chunk);
        let mut bytes = vec![0; (range.end - range.start) as usize].into_boxed_slice();
        match state.source(chunk) {
            Source::Data(have) => bytes.copy_from_slice(have),
            Source::Zero => {}
            Source::Base => self.base.read_at(range.start, &mut bytes)?,
        }
        Ok(bytes)
    }

    /// Put `data` at `offset`, inside one chunk.
    fn patch(&self, state: &mut State, offset: u64, data: &[u8]) -> Result<()> {
        let chunk = offset / CHUNK;
        let range = self.chunk_range(chunk);
        if data.len() as u64 == range.end - range.start {
            state.data.insert(chunk, data.into());
            return Ok(());
        }
        if !state.data.contains_key(&chunk) {
            let bytes = self.load(state, chunk)?;
            state.data.insert(chunk, bytes);
        }
        if let Some(bytes) = state.data.get_mut(&chunk) {
            let at = (offset % CHUNK) as usize;
            bytes[at..at + data.len()].copy_from_slice(data);
        }
        Ok(())
    }

    fn write_locked(&self, state: &mut State, offset: u64, data: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let n = ((CHUNK - at % CHUNK) as usize).min(data.len() - done);
            self.patch(state, at, &data[done..done + n])?;
            done += n;
        }
        Ok(())
    }
}

/// The chunks that a range of bytes touches.
fn chunks_of(offset: u64, len: u64) -> Range<u64> {
    offset / CHUNK..(offset + len).div_ceil(CHUNK)
}

impl<D: BlockDevice> BlockDevice for OverlayDevice<D> {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let len = buf.len() as u64;
        check_range(IoOp::Read, offset, len, self.len())?;
        let state = self.read();
        let chunks = chunks_of(offset, len);
        if len == 0 || !state.touches(&chunks) {
            return self.base.read_at(offset, buf);
        }
        let mut chunk = chunks.start;
        while chunk < chunks.end {
            // Chunks that the overlay does not know are read in one go.
            let mut next = chunk + 1;
            let source = state.source(chunk);
            if matches!(source, Source::Base) {
                next = state.next_change(chunk).unwrap_or(chunks.end).min(chunks.end);
            }
            let start = (chunk * CHUNK).max(offset);
            let end = (next * CHUNK).min(offset + len);
            let part = &mut buf[(start - offset) as usize..(end - offset) as usize];
            match source {
                Source::Data(bytes) => {
                    let at = (start - chunk * CHUNK) as usize;
                    part.copy_from_slice(&bytes[at..at + part.len()]);
                }
                Source::Zero => part.fill(0),
                Source::Base => self.base.read_at(start, part)?,
            }
            chunk = next;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        check_range(IoOp::Write, offset, data.len() as u64, self.len())?;
        self.write_locked(&mut self.write(), offset, data)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        check_range(IoOp::Discard, offset, len, self.len())?;
        let end = offset + len;
        let mut state = self.write();
        let first = offset.div_ceil(CHUNK);
        // The last chunk is whole even where the device ends inside it.
        let last = if end == self.len() { end.div_ceil(CHUNK) } else { end / CHUNK };
        let zeros = [0; CHUNK as usize];
        if first >= last {
            return self.write_locked(&mut state, offset, &vec![0; len as usize]);
        }
        state.zero_chunks(first..last);
        self.write_locked(&mut state, offset, &zeros[..(first * CHUNK - offset) as usize])?;
        let tail = end.saturating_sub(last * CHUNK);
        self.write_locked(&mut state, end - tail, &zeros[..tail as usize])
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let state = self.read();
        let len = self.len();
        let mut at = offset;
        while at < len {
            let chunk = at / CHUNK;
            match state.source(chunk) {
                Source::Data(_) => {
                    let mut end = chunk + 1;
                    while state.data.contains_key(&end) {
                        end += 1;
                    }
                    return Ok(Some(at..(end * CHUNK).min(len)));
                }
                Source::Zero => {
                    let end = state.zeros.range(..=chunk).next_back().map_or(chunk + 1, |(_, &end)| end);
                    at = state.data.range(chunk..end).next().map_or(end, |(&c, _)| c) * CHUNK;
                }
                Source::Base => {
                    let limit = state.next_change(chunk).map_or(len, |c| c * CHUNK);
                    match self.base.next_data(at)? {
                        Some(r) if r.start < limit => return Ok(Some(r.start..r.end.min(limit))),
                        _ => at = limit,
                    }
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    #[test]
    fn nothing_reaches_the_base_until_it_is_applied() {
        let base = MemoryDevice::from_bytes(vec![1; 10_000]);
        let o = OverlayDevice::new(&base);
        assert!(!o.is_changed());
        o.write_at(4000, &[2; 200]).unwrap();
        o.zero(9000, 1000).unwrap();
        assert!(o.is_changed());
        o.flush().unwrap();
        assert_eq!(base.to_bytes(), vec![1; 10_000]);
        let mut want = vec![1; 10_000];
        want[4000..4200].fill(2);
        want[9000..].fill(0);
        let mut got = vec![9; 10_000];
        o.read_at(0, &mut got).unwrap();
        assert_eq!(got, want);
        o.apply_to(&base).unwrap();
        assert_eq!(base.to_bytes(), want);
        o.reset();
        assert_eq!(o.changes(1 << 20), []);
    }

    #[test]
    fn zeroing_a_lot_costs_little_and_is_listed_once() {
        struct Huge;
        impl BlockDevice for Huge {
            fn len(&self) -> u64 {
                1 << 50
            }
            fn read_at(&self, _: u64, buf: &mut [u8]) -> Result<()> {
                buf.fill(0xaa);
                Ok(())
            }
            fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
                panic!("the base is not written")
            }
            fn flush(&self) -> Result<()> {
                Ok(())
            }
        }
        let o = OverlayDevice::new(Huge);
        o.zero(0, 1 << 40).unwrap();
        o.zero(1 << 40, 1 << 40).unwrap();
        assert_eq!(o.memory(), 0);
        assert_eq!(o.changes(1), [Change::Zero { offset: 0, len: 2 << 40 }]);
        o.write_at(CHUNK, &[5; CHUNK as usize]).unwrap();
        let end = (2 << 40) - 2 * CHUNK;
        assert_eq!(
            o.changes(1),
            [
                Change::Zero { offset: 0, len: CHUNK },
                Change::Data { offset: CHUNK, bytes: vec![5; CHUNK as usize] },
                Change::Zero { offset: 2 * CHUNK, len: end }
            ]
        );
        assert_eq!(o.next_data(0).unwrap(), Some(CHUNK..2 * CHUNK));
        assert_eq!(o.next_data(2 * CHUNK).unwrap(), Some(2 << 40..1 << 50));
    }
}
