//! Small texts: dates, names with hostile bytes, joined ranges.

use std::fmt::Write as _;

use serde::Serialize;

use crate::env::Timestamp;

macro_rules! image_text {
    ($(#[$doc:meta])* $name:ident, $key:literal, $hex:literal) => {
        $(#[$doc])*
        ///
        /// Made to be flattened into the object it belongs to. The text has replacement characters where the bytes are
        /// no UTF-8; only then a second field holds the bytes, in hexadecimal.
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub Vec<u8>);

        impl From<&[u8]> for $name {
            fn from(bytes: &[u8]) -> Self {
                Self(bytes.to_vec())
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeStruct;
                let mut object = s.serialize_struct(stringify!($name), 2)?;
                object.serialize_field($key, &String::from_utf8_lossy(&self.0))?;
                if std::str::from_utf8(&self.0).is_err() {
                    object.serialize_field($hex, &hex(&self.0))?;
                } else {
                    object.skip_field($hex)?;
                }
                object.end()
            }
        }
    };
}

image_text!(
    /// A name from the image: `name`, `name_hex`.
    Name, "name", "name_hex"
);
image_text!(
    /// A path in the image: `path`, `path_hex`.
    PathText, "path", "path_hex"
);
image_text!(
    /// What a symbolic link points to: `target`, `target_hex`.
    Target, "target", "target_hex"
);

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// Bytes as text that cannot upset a terminal: control characters and what is no UTF-8 as `\xNN`.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || is_direction_mark(c) {
                let mut utf8 = [0; 4];
                escape(&mut text, c.encode_utf8(&mut utf8).as_bytes());
            } else {
                text.push(c);
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

fn escape(text: &mut String, bytes: &[u8]) {
    for b in bytes {
        let _ = write!(text, "\\x{b:02x}");
    }
}

/// Characters that reorder the text around them.
const fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Calendar fields of a time, UTC.
struct Civil {
    year: i64,
    month: usize,
    day: i64,
    weekday: usize,
    hour: i64,
    minute: i64,
    second: i64,
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

impl Civil {
    fn new(t: Timestamp) -> Self {
        let (days, second) = (t.sec.div_euclid(86400), t.sec.rem_euclid(86400));
        // Counted from 1 March of year 0, in eras of 400 years: leap days come last.
        let z = days.saturating_add(719_468);
        let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
        let yoe = (doe - doe / 1460 + doe / 36524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let shifted = (5 * doy + 2) / 153;
        let month = if shifted < 10 { shifted + 2 } else { shifted - 10 };
        Self {
            year: yoe + era * 400 + i64::from(month < 2),
            month: month as usize,
            day: doy - (153 * shifted + 2) / 5 + 1,
            weekday: (days + 4).rem_euclid(7) as usize,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }
}

/// `Fri Nov 20 20:33:46 2026`, UTC.
pub fn date(t: Timestamp) -> String {
    let c = Civil::new(t);
    let (weekday, month) = (DAYS[c.weekday % 7], MONTHS[c.month % 12]);
    format!("{weekday} {month} {:2} {:02}:{:02}:{:02} {}", c.day, c.hour, c.minute, c.second, c.year)
}

/// `20-Nov-2026 20:33`, UTC.
pub(super) fn short_date(t: Timestamp) -> String {
    let c = Civil::new(t);
    format!("{:2}-{}-{} {:02}:{:02}", c.day, MONTHS[c.month % 12], c.year, c.hour, c.minute)
}

/// The text up to the first NUL.
pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_at_the_edges() {
        let at = |sec| date(Timestamp::from_secs(sec));
        assert_eq!(at(0), "Thu Jan  1 00:00:00 1970");
        assert_eq!(at(-1), "Wed Dec 31 23:59:59 1969");
        assert_eq!(at(0x6b00_aeaa), "Fri Nov 20 20:33:46 2026");
        assert_eq!(at(951_782_400), "Tue Feb 29 00:00:00 2000");
        assert_eq!(at(4_107_542_400), "Mon Mar  1 00:00:00 2100");
        assert_eq!(at(-0x8000_0000), "Fri Dec 13 20:45:52 1901");
        assert_eq!(at(0x3_7fff_ffff), "Thu May 10 22:38:55 2446");
        assert_eq!(short_date(Timestamp::from_secs(0x6b00_aeaa)), "20-Nov-2026 20:33");
    }

    #[test]
    fn hostile_names_are_tamed() {
        assert_eq!(printable(b"a\x1b[31m\xff\n\xc3\xa9"), "a\\x1b[31m\\xff\\x0aé");
        assert_eq!(printable("x\u{202e}y".as_bytes()), "x\\xe2\\x80\\xaey");
        let json = |b: &[u8]| serde_json::to_string(&Name::from(b)).unwrap();
        assert_eq!(json(b"a"), r#"{"name":"a"}"#);
        assert_eq!(json(b"a\xff"), "{\"name\":\"a\u{fffd}\",\"name_hex\":\"61ff\"}");
    }
}
