//! Names in case-insensitive directories: the folded form by which they are compared and hashed.
//! Kernel name: `utf8_casefold` (NFDICF: canonical decomposition, ignorables dropped, full case folding).
//!
//! A name that is not UTF-8 has no folded form. In a strict filesystem (`encoding_flags` bit 0) such a name cannot
//! be made or looked up; otherwise it compares and hashes as its bytes.
//!
//! The kernel's tables are those of Unicode 12.1, the tables here are newer: they agree on every character that 12.1
//! assigns, and later letters are kept from folding (`LATER`). Combining marks assigned later may still be put in
//! order here, which the kernel would not do.

use std::borrow::Cow;

use caseless::Caseless;
use unicode_normalization::UnicodeNormalization;

use crate::error::{Error, Flaw, Place, Result, Structure};

/// The only encoding there is: UTF-8 of Unicode 12.1 (`s_encoding`).
#[doc(alias = "EXT4_ENC_UTF8_12_1")]
pub const ENCODING_UTF8_12_1: u16 = 1;
/// Names that are not valid are refused (`s_encoding_flags`).
#[doc(alias = "SB_ENC_STRICT_MODE_FL")]
pub const ENCODING_STRICT: u16 = 1;

/// Code points without effect on what a name means (Default_Ignorable_Code_Point), as inclusive ranges.
const IGNORABLE: [(u32, u32); 17] = [
    (0xad, 0xad),
    (0x34f, 0x34f),
    (0x61c, 0x61c),
    (0x115f, 0x1160),
    (0x17b4, 0x17b5),
    (0x180b, 0x180e),
    (0x200b, 0x200f),
    (0x202a, 0x202e),
    (0x2060, 0x206f),
    (0x3164, 0x3164),
    (0xfe00, 0xfe0f),
    (0xfeff, 0xfeff),
    (0xffa0, 0xffa0),
    (0xfff0, 0xfff8),
    (0x1_bca0, 0x1_bca3),
    (0x1_d173, 0x1_d17a),
    (0xe_0000, 0xe_0fff),
];

/// Characters that fold or decompose today and were not assigned in Unicode 12.1, as inclusive ranges: they stay as
/// they are. Found by comparing every code point with the reference tables.
const LATER: [(u32, u32); 28] = [
    (0x1c89, 0x1c89),
    (0x2c2f, 0x2c2f),
    (0xa7c0, 0xa7c0),
    (0xa7c7, 0xa7c7),
    (0xa7c9, 0xa7c9),
    (0xa7cb, 0xa7cc),
    (0xa7d0, 0xa7d0),
    (0xa7d6, 0xa7d6),
    (0xa7d8, 0xa7d8),
    (0xa7da, 0xa7da),
    (0xa7dc, 0xa7dc),
    (0xa7f5, 0xa7f5),
    (0x1_0570, 0x1_057a),
    (0x1_057c, 0x1_058a),
    (0x1_058c, 0x1_0592),
    (0x1_0594, 0x1_0595),
    (0x1_05c9, 0x1_05c9),
    (0x1_05e4, 0x1_05e4),
    (0x1_0d50, 0x1_0d65),
    (0x1_1383, 0x1_1383),
    (0x1_1385, 0x1_1385),
    (0x1_138e, 0x1_138e),
    (0x1_1391, 0x1_1391),
    (0x1_13c5, 0x1_13c5),
    (0x1_13c7, 0x1_13c8),
    (0x1_1938, 0x1_1938),
    (0x1_6121, 0x1_6128),
    (0x1_6d68, 0x1_6d6a),
];

fn is_later(c: char) -> bool {
    let c = u32::from(c);
    c >= 0x1c89 && LATER.iter().any(|(from, to)| (*from..=*to).contains(&c))
}

fn is_ignorable(c: char) -> bool {
    let c = u32::from(c);
    c >= 0xad && IGNORABLE.iter().any(|(from, to)| (*from..=*to).contains(&c))
}

/// The number of an encoding by its name, as mke2fs and debugfs know them.
pub fn encoding(name: &str) -> Option<u16> {
    matches!(name, "utf8" | "utf8-12.1").then_some(ENCODING_UTF8_12_1)
}

/// Whether `name` is valid in a strict filesystem.
pub fn is_valid(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok()
}

/// The folded form of `name`; `None` where it is not UTF-8.
#[doc(alias = "utf8_casefold")]
pub fn fold(name: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(name).ok()?;
    if text.is_ascii() {
        return Some(name.to_ascii_lowercase());
    }
    let mut folded = String::with_capacity(text.len());
    for part in text.split_inclusive(is_later) {
        let later = part.chars().next_back().filter(|c| is_later(*c));
        let known = part.strip_suffix(is_later).unwrap_or(part);
        // Ignorable characters are dropped last: combining marks do not change places across them.
        folded.extend(known.nfd().default_case_fold().nfd().filter(|c| !is_ignorable(*c)));
        folded.extend(later);
    }
    Some(folded.into_bytes())
}

/// What names are compared and hashed by: the folded form, or the bytes of a name that has none.
pub fn key(name: &[u8]) -> Cow<'_, [u8]> {
    match fold(name) {
        Some(folded) => Cow::Owned(folded),
        None => Cow::Borrowed(name),
    }
}

/// Whether two names are the same to a case-insensitive directory.
#[doc(alias = "generic_ci_match")]
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a == b || matches!((fold(a), fold(b)), (Some(a), Some(b)) if a == b)
}

/// [`key`], refusing names that are not valid where `strict`.
///
/// # Errors
/// [`Error::Corrupt`] ([`Flaw::Inconsistent`]) for an invalid name in a strict filesystem.
pub fn checked_key(name: &[u8], strict: bool) -> Result<Cow<'_, [u8]>> {
    match fold(name) {
        Some(folded) => Ok(Cow::Owned(folded)),
        None if strict => {
            let detail = "a name is not valid UTF-8";
            Err(Error::corrupt(Flaw::Inconsistent { of: Structure::DirBlock, detail }, Place::FS))
        }
        None => Ok(Cow::Borrowed(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::dirhash::{DirHasher, HashVersion};
    use super::*;

    /// Name, half-MD4 hash and minor hash of its folded form: from `debugfs -R "dx_hash -h 1 -c -e utf8 NAME"`
    /// (e2fsprogs 1.47.0). Every single code point was compared with the same library once, with no difference.
    const VECTORS: &[(&str, u32, u32)] = &[
        ("\u{c9}", 0x78c4_9f9e, 0xd834_01cc),
        ("E\u{301}", 0x78c4_9f9e, 0xd834_01cc),
        ("stra\u{df}e", 0x7e09_9ecc, 0x63e3_5612),
        ("STRASSE", 0x7e09_9ecc, 0x63e3_5612),
        ("\u{130}x", 0xc5fa_d9fc, 0xcf79_d595),
        ("\u{17f}", 0xb31b_7842, 0xa0aa_1f22),
        ("\u{d55c}\u{ae00}", 0x865d_f74a, 0xa97b_074e),
        ("a\u{200d}b", 0xee5e_f564, 0x4bcb_e18e),
        ("\u{fb01}le", 0x019c_cbc2, 0xb9c6_49b1),
        ("\u{2167}", 0x7218_e8d8, 0x735f_3fd7),
        ("\u{1c5}", 0x43e2_7be0, 0xb22a_54b5),
        ("\u{212b}", 0x6fa9_0dea, 0x9d34_6e67),
        ("\u{1fb3}", 0xc0ad_7cba, 0x7201_f4d0),
        ("\u{ad}soft", 0xb494_421c, 0x806a_7664),
        ("\u{391}\u{3a3}", 0xa417_082c, 0x1b70_0d6e),
        ("\u{1fba}\u{345}", 0xa9d5_60b0, 0x69f5_ce67),
        ("q\u{323}\u{307}", 0x5438_c31a, 0xa36b_70da),
        ("q\u{307}\u{323}", 0x5438_c31a, 0xa36b_70da),
        ("q\u{307}\u{34f}\u{323}", 0xbb7d_9e3e, 0xe225_57f4),
        ("a\u{10570}Z", 0x7e03_3fea, 0xbefb_0010),
    ];

    #[test]
    fn folded_names_hash_like_the_reference() {
        let hasher = DirHasher::new(HashVersion::HalfMd4, [0; 4]);
        for (name, hash, minor) in VECTORS {
            let got = hasher.hash(&fold(name.as_bytes()).unwrap()).unwrap();
            assert_eq!((got.hash, got.minor), (*hash, *minor), "{name:?}");
        }
    }

    #[test]
    fn invalid_names_are_bytes_or_refused() {
        let bad = b"A\xff";
        assert!(!is_valid(bad));
        assert_eq!(key(bad), Cow::Borrowed(&bad[..]));
        assert!(same(bad, bad) && !same(bad, b"a\xff"));
        assert!(checked_key(bad, true).unwrap_err().is_corruption());
        assert_eq!(checked_key(bad, false).unwrap(), Cow::Borrowed(&bad[..]));
        assert!(same("Fran\u{e7}ois".as_bytes(), "FRANC\u{327}OIS".as_bytes()));
        assert!(!same(b"a", b"b"));
    }
}
