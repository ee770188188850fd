//! What the library would otherwise have to ask the host: the time and random numbers.
//!
//! The library reads no clock and no random source itself; whoever builds a filesystem passes these in.
//! The binaries pass the system's (or `SOURCE_DATE_EPOCH` and a seed), tests pass fixed ones.

use std::time::Duration;

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

    /// Read a time: `@SECONDS` or `SECONDS` since 1970, or `YYYY-MM-DD`, then perhaps `HH:MM` or `HH:MM:SS` after a space or
    /// `T`, and `Z`; both may end with a fraction of a second. UTC.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, nsec) = match text.trim_end_matches('Z').split_once('.') {
            Some((whole, fraction)) => (whole, parse_fraction(fraction)?),
            None => (text.trim_end_matches('Z'), 0),
        };
        if let Ok(sec) = whole.trim_start_matches('@').parse() {
            return Some(Self { sec, nsec });
        }
        let (date, time) = whole.split_once(['T', ' ']).unwrap_or((whole, "00:00"));
        let date: Vec<i64> = date.splitn(3, '-').map(|p| p.parse().ok()).collect::<Option<_>>()?;
        let time: Vec<i64> = time.splitn(3, ':').map(|p| p.parse().ok()).collect::<Option<_>>()?;
        let ([year, month, day], [hour, minute, rest @ ..]) = (date.as_slice(), time.as_slice()) else { return None };
        let second = rest.first().copied().unwrap_or(0);
        let valid = (1..=9999).contains(year)
            && (1..=12).contains(month)
            && (1..=days_in_month(*year, *month)).contains(day)
            && (0..24).contains(hour)
            && (0..60).contains(minute)
            && (0..=60).contains(&second);
        let sec = days_since_epoch(*year, *month, *day) * 86400 + hour * 3600 + minute * 60 + second;
        valid.then_some(Self { sec, nsec })
    }
}

/// Nanoseconds of the digits behind a decimal point.
fn parse_fraction(digits: &str) -> Option<u32> {
    if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    format!("{digits:0<9}").parse().ok()
}

const fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
const fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the leap day is the last.
    let y = if month <= 2 { year - 1 } else { year };
    let m = (month + 9) % 12;
    365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (m * 306 + 5) / 10 + day - 1 - 719_468
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

/// Waiting, and how long something took: nothing that is stored depends on it.
pub trait Timer: Send + Sync {
    /// Time since some moment that stays the same.
    fn elapsed(&self) -> Duration;

    /// Do nothing for a while.
    fn pause(&self, time: Duration);
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
    fn times_are_read_in_several_forms() {
        let t = |text| Timestamp::parse(text).map(|t| (t.sec, t.nsec));
        assert_eq!(t("0"), Some((0, 0)));
        assert_eq!(t("@1700000000.5"), Some((1_700_000_000, 500_000_000)));
        assert_eq!(t("-5"), Some((-5, 0)));
        assert_eq!(t("1970-01-01"), Some((0, 0)));
        assert_eq!(t("2000-02-29T12:34:56Z"), Some((951_827_696, 0)));
        assert_eq!(t("2026-11-20 23:59"), Some((1_795_219_140, 0)));
        assert_eq!(t("1901-12-14 00:00:00.25"), Some((-2_147_472_000, 250_000_000)));
        for bad in ["", "x", "2001-02-29", "2001-13-01", "2001-01-01T24:00", "2001-01-01T1", "1.", "1.1234567890"] {
            assert_eq!(t(bad), None, "{bad}");
        }
    }

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
