//! Large maps of one bit, byte or number per block or inode, set from many threads.
//!
//! All start as zeros from the allocator: pages that are never written cost no memory, so a map over a large, mostly
//! empty filesystem is as large as what is in use. Orders are relaxed: results are read after the threads have joined.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI8, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zerocopy::FromZeros;

use crate::error::{Error, Result};

fn zeros<T: FromZeros>(len: u64, what: &'static str) -> Result<Vec<T>> {
    usize::try_from(len).ok().and_then(|n| T::new_vec_zeroed(n).ok()).ok_or(Error::NoSpace {
        what,
        need: len.saturating_mul(size_of::<T>() as u64),
        have: 0,
    })
}

/// One bit each.
pub(super) struct Bits {
    words: Vec<AtomicU64>,
    len: u64,
}

/// The bits `from..to` of a word, `from < to <= 64`.
const fn mask(from: u32, to: u32) -> u64 {
    (u64::MAX >> (64 - (to - from))) << from
}

impl Bits {
    pub(super) fn new(len: u64) -> Result<Self> {
        Ok(Self { words: zeros(len.div_ceil(64), "bytes of memory")?, len })
    }

    pub(super) fn get(&self, bit: u64) -> bool {
        self.words.get((bit / 64) as usize).is_some_and(|w| w.load(Relaxed) >> (bit % 64) & 1 == 1)
    }

    /// Set a bit; whether it was set before.
    pub(super) fn set(&self, bit: u64) -> bool {
        let m = 1u64 << (bit % 64);
        bit < self.len && self.words.get((bit / 64) as usize).is_some_and(|w| w.fetch_or(m, Relaxed) & m != 0)
    }

    /// Call `f` for every word of `from..to` with the index of the word and the mask in it.
    fn each(&self, from: u64, to: u64, mut f: impl FnMut(usize, &AtomicU64, u64)) {
        let to = to.min(self.len);
        let mut at = from;
        while at < to {
            let end = to.min((at / 64 + 1) * 64);
            let m = mask((at % 64) as u32, (end - (at / 64) * 64) as u32);
            let i = (at / 64) as usize;
            if let Some(w) = self.words.get(i) {
                f(i, w, m);
            }
            at = end;
        }
    }

    /// Set `from..to`; bits that were set before are set in `twice`. Whether there were any.
    pub(super) fn claim(&self, from: u64, to: u64, twice: &Self) -> bool {
        let mut any = false;
        self.each(from, to, |i, w, m| {
            let old = w.fetch_or(m, Relaxed) & m;
            if old != 0 {
                any = true;
                if let Some(t) = twice.words.get(i) {
                    t.fetch_or(old, Relaxed);
                }
            }
        });
        any
    }

    /// Set `from..to`.
    pub(super) fn set_range(&self, from: u64, to: u64) {
        self.each(from, to, |_, w, m| {
            w.fetch_or(m, Relaxed);
        });
    }

    /// Whether any bit of `from..to` is set.
    pub(super) fn any(&self, from: u64, to: u64) -> bool {
        let mut any = false;
        self.each(from, to, |_, w, m| any |= w.load(Relaxed) & m != 0);
        any
    }

    /// Whether no bit is set.
    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|w| w.load(Relaxed) == 0)
    }

    /// The runs of set bits in `from..to`.
    pub(super) fn runs(&self, from: u64, to: u64) -> Vec<std::ops::Range<u64>> {
        let mut out: Vec<std::ops::Range<u64>> = Vec::new();
        self.each(from, to, |i, w, m| {
            let mut left = w.load(Relaxed) & m;
            while left != 0 {
                let start = u64::from(left.trailing_zeros());
                let len = u64::from((left >> start).trailing_ones());
                let at = i as u64 * 64 + start;
                match out.last_mut() {
                    Some(last) if last.end == at => last.end += len,
                    _ => out.push(at..at + len),
                }
                left = if start + len == 64 { 0 } else { left >> (start + len) << (start + len) };
            }
        });
        out
    }

    /// The first bit of `from..to` that is set.
    pub(super) fn next_set(&self, from: u64, to: u64) -> Option<u64> {
        self.next(from, to, |w| w)
    }

    /// The first bit of `from..to` that is not set.
    pub(super) fn next_clear(&self, from: u64, to: u64) -> Option<u64> {
        self.next(from, to, |w| !w)
    }

    fn next(&self, from: u64, to: u64, look: impl Fn(u64) -> u64) -> Option<u64> {
        let to = to.min(self.len);
        let mut at = from;
        while at < to {
            let word = look(self.words.get((at / 64) as usize)?.load(Relaxed)) >> (at % 64);
            if word != 0 {
                let bit = at + u64::from(word.trailing_zeros());
                return (bit < to).then_some(bit);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// Copy `count` bits from `from` (a multiple of 8) on into bytes, bit 0 of byte 0 first.
    pub(super) fn copy_bytes(&self, from: u64, out: &mut [u8]) {
        if from.is_multiple_of(64) {
            for (i, chunk) in out.chunks_mut(8).enumerate() {
                let word = self.words.get((from / 64) as usize + i).map_or(0, |w| w.load(Relaxed));
                for (d, s) in chunk.iter_mut().zip(word.to_le_bytes()) {
                    *d = s;
                }
            }
            return;
        }
        for (i, d) in out.iter_mut().enumerate() {
            let bit = from + i as u64 * 8;
            let word = self.words.get((bit / 64) as usize).map_or(0, |w| w.load(Relaxed));
            *d = (word >> (bit % 64)) as u8;
        }
    }
}

/// One byte each.
pub(super) struct Bytes(Vec<AtomicU8>);

impl Bytes {
    pub(super) fn new(len: u64) -> Result<Self> {
        Ok(Self(zeros(len, "bytes of memory")?))
    }

    pub(super) fn get(&self, i: u64) -> u8 {
        self.0.get(i as usize).map_or(0, |b| b.load(Relaxed))
    }

    pub(super) fn set(&self, i: u64, v: u8) {
        if let Some(b) = self.0.get(i as usize) {
            b.store(v, Relaxed);
        }
    }
}

/// One signed number each: a byte, and more for the few that need it.
pub(super) struct Counts {
    small: Vec<AtomicI8>,
    /// Those whose byte is [`LARGE`].
    large: Mutex<BTreeMap<u64, i32>>,
}

/// The number is among the large ones.
const LARGE: i8 = i8::MIN;

impl Counts {
    pub(super) fn new(len: u64) -> Result<Self> {
        Ok(Self { small: zeros(len, "bytes of memory")?, large: Mutex::default() })
    }

    fn large(&self) -> MutexGuard<'_, BTreeMap<u64, i32>> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, i: u64) -> i32 {
        match self.small.get(i as usize).map_or(0, |b| b.load(Relaxed)) {
            LARGE => self.large().get(&i).copied().unwrap_or_default(),
            n => n.into(),
        }
    }

    pub(super) fn add(&self, i: u64, n: i32) {
        let Some(small) = self.small.get(i as usize) else { return };
        let fits = |old: i8| {
            let new = i8::try_from(i32::from(old).saturating_add(n)).ok();
            new.filter(|new| old != LARGE && *new != LARGE)
        };
        let Err(_) = small.fetch_update(Relaxed, Relaxed, fits) else { return };
        // Whoever finds the mark waits until the number is there.
        let mut large = self.large();
        let old = match small.swap(LARGE, Relaxed) {
            LARGE => large.get(&i).copied().unwrap_or_default(),
            old => old.into(),
        };
        large.insert(i, old.saturating_add(n));
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]
mod tests {
    use super::*;

    #[test]
    fn ranges_cross_words() {
        let (a, twice) = (Bits::new(300).unwrap(), Bits::new(300).unwrap());
        assert!(!a.claim(60, 200, &twice));
        assert!(a.claim(190, 260, &twice));
        assert_eq!(a.runs(0, 300), [60..260]);
        assert_eq!(twice.runs(0, 300), [190..200]);
        assert!(a.get(60) && !a.get(59) && a.get(259) && !a.get(260));
        assert!(a.any(0, 61) && !a.any(0, 60) && !a.any(260, 300));
        let mut bytes = [0; 4];
        a.copy_bytes(56, &mut bytes);
        assert_eq!(bytes, [0xf0, 0xff, 0xff, 0xff]);
        a.set_range(0, 1000);
        assert_eq!(a.runs(0, 1000), [0..300]);
    }

    #[test]
    fn counts_grow_beyond_a_byte() {
        let c = Counts::new(3).unwrap();
        for n in [127, -254, 1, -2, 40_000, -40_000] {
            let before = c.get(1);
            c.add(1, n);
            assert_eq!(c.get(1), before + n);
        }
        c.add(2, -65_535);
        (0..65_535).for_each(|_| c.add(2, 1));
        c.add(7, 1);
        assert_eq!((c.get(0), c.get(2), c.get(7)), (0, 0, 0));
    }

    #[test]
    fn full_words_and_single_bits() {
        let a = Bits::new(128).unwrap();
        assert!(a.is_empty());
        assert!(!a.set(127) && a.set(127) && !a.set(500));
        a.set_range(0, 64);
        assert_eq!(a.runs(0, 128), [0..64, 127..128]);
        let mut bytes = [0; 16];
        a.copy_bytes(0, &mut bytes);
        assert_eq!(bytes[7], 0xff);
        assert_eq!(bytes[15], 0x80);
    }
}
