//! What the library would otherwise have to ask the host: the time and random numbers.
//!
//! The library reads no clock and no random source itself; whoever builds a filesystem passes these in.
//! The binaries pass the system's (or `SOURCE_DATE_EPOCH` and a seed), tests pass fixed ones.

/// A point in time: seconds since 1970-01-01 00:00 UTC (may be negative) and nanoseconds in `0..1_000_000_000`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Timestamp {
    /// Whole seconds since the epoch.
    pub sec: i64,
    /// Nanoseconds past `sec`.
    pub nsec: u32,
}

impl Timestamp {
    /// A time of whole seconds.
    pub const fn from_secs(sec: i64) -> Self {
        Self { sec, nsec: 0 }
    }
}

/// Where "now" comes from.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> Timestamp;
}

/// A clock that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedClock(pub Timestamp);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// Where random bytes come from: UUIDs, hash seeds, inode generations.
pub trait Entropy: Send {
    /// Fill `buf` with bytes.
    fn fill(&mut self, buf: &mut [u8]);

    /// The next 32 bits, little endian from [`Entropy::fill`].
    fn next_u32(&mut self) -> u32 {
        let mut b = [0; 4];
        self.fill(&mut b);
        u32::from_le_bytes(b)
    }
}

/// Deterministic bytes from a 64-bit seed (SplitMix64): the same seed gives the same filesystem. Not for secrets.
#[derive(Clone, Debug)]
pub struct SeededEntropy {
    state: u64,
}

impl SeededEntropy {
    /// A generator that starts at `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            let v = self.next_u64().to_le_bytes();
            for (d, s) in chunk.iter_mut().zip(v) {
                *d = s;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_entropy_repeats_and_differs_by_seed() {
        let bytes = |seed| {
            let mut b = [0u8; 37];
            SeededEntropy::new(seed).fill(&mut b);
            b
        };
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }
}
