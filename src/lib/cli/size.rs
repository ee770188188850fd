//! Sizes on the command line: read with [`parse_size`], shown exactly or for people.

use crate::units::parse_size;

/// A value parser for clap: bytes, with `unit` bytes for a count that has no suffix (1, or the block size where mke2fs would
/// count blocks).
///
/// ```
/// use clap::{Arg, Command};
/// let command = Command::new("x").arg(Arg::new("size").value_parser(ext4kit::cli::size_in(1024)));
/// let matches = command.get_matches_from(["x", "8M"]);
/// assert_eq!(matches.get_one::<u64>("size"), Some(&(8 << 20)));
/// ```
pub fn size_in(unit: u64) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| {
        parse_size(text, unit).ok_or_else(|| {
            let meaning = if unit == 1 { String::from("bytes") } else { format!("units of {unit} bytes") };
            format!("a number and an optional suffix s, K, M, G, T or P is needed; with no suffix it counts {meaning}")
        })
    }
}

/// A size that [`parse_size`] reads back to the same number: `512`, `64K`, `3G`.
pub fn exact_size(bytes: u64) -> String {
    const SUFFIXES: [(&str, u32); 5] = [("P", 50), ("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    for (suffix, shift) in SUFFIXES {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// A size for people: `512 B`, `1.5 KiB`, `16 TiB`; one decimal below ten, rounded down.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let step = (bytes.max(1).ilog2() / 10) as usize;
    let whole = bytes >> (10 * step);
    let tenths = ((u128::from(bytes) * 10) >> (10 * step)) % 10;
    let unit = UNITS[step];
    if whole < 10 && tenths != 0 { format!("{whole}.{tenths} {unit}") } else { format!("{whole} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10 * 1024 + 512, "10 KiB"),
            (16 << 40, "16 TiB"),
            (u64::MAX, "15 EiB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
        assert_eq!(exact_size(64 << 10), "64K");
        assert_eq!(exact_size((1 << 30) + 1), "1073741825");
        assert_eq!(size_in(4096)("3"), Ok(12288));
        assert!(size_in(1)("3X").unwrap_err().contains("counts bytes"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn exact_sizes_round_trip(bytes: u64, shift in 0u32..60) {
            prop_assert_eq!(parse_size(&exact_size(bytes), 1), Some(bytes));
            let round = bytes << shift;
            prop_assert_eq!(parse_size(&exact_size(round), 1), Some(round));
        }
    }
}
