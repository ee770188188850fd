//! The options and operands of one command of a script.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::ModeChange;
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::units::parse_size;

/// Words behind a command's name, sorted.
pub(super) struct Args {
    /// Options that were given, with the value of those that take one.
    options: Vec<(u8, Option<Vec<u8>>)>,
    operands: std::vec::IntoIter<Vec<u8>>,
    usage: &'static str,
}

impl Args {
    /// Sort `words`. `known` has the letters of options; a colon follows those that take a value.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for other options.
    pub(super) fn sort(words: Vec<Vec<u8>>, known: &str, usage: &'static str) -> Result<Self> {
        let mut options = Vec::new();
        let mut operands = Vec::new();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if word == b"--" {
                operands.extend(words);
                break;
            }
            if word.len() < 2 || word.first() != Some(&b'-') {
                operands.push(word);
                continue;
            }
            for (i, letter) in word.get(1..).unwrap_or_default().iter().copied().enumerate() {
                let wrong = || wrong("option", &[b'-', letter], usage);
                let at = known.bytes().position(|k| k == letter && k != b':').ok_or_else(wrong)?;
                if known.as_bytes().get(at + 1) != Some(&b':') {
                    options.push((letter, None));
                    continue;
                }
                let rest = word.get(i + 2..).filter(|r| !r.is_empty()).map(<[u8]>::to_vec);
                let value = rest.or_else(|| words.next()).ok_or_else(wrong)?;
                options.push((letter, Some(value)));
                break;
            }
        }
        Ok(Self { options, operands: operands.into_iter(), usage })
    }

    /// Whether an option was given.
    pub(super) fn has(&self, letter: u8) -> bool {
        self.options.iter().any(|o| o.0 == letter)
    }

    /// The last value of an option.
    pub(super) fn value(&self, letter: u8) -> Option<&[u8]> {
        self.options.iter().rev().find(|o| o.0 == letter)?.1.as_deref()
    }

    /// An option's value, read.
    pub(super) fn parsed<T>(&self, letter: u8, parse: impl FnOnce(&[u8]) -> Result<T>) -> Result<Option<T>> {
        self.value(letter).map(parse).transpose()
    }

    /// The next operand.
    pub(super) fn operand(&mut self) -> Result<Vec<u8>> {
        self.operands.next().ok_or_else(|| wrong("operands", b"too few", self.usage))
    }

    /// All operands that are left, at least one.
    pub(super) fn rest(&mut self) -> Result<Vec<Vec<u8>>> {
        let first = self.operand()?;
        Ok(std::iter::once(first).chain(self.operands.by_ref()).collect())
    }

    /// No operand is left.
    pub(super) fn end(mut self) -> Result<()> {
        match self.operands.next() {
            Some(word) => Err(wrong("operand", &word, self.usage)),
            None => Ok(()),
        }
    }
}

/// Something in a command makes no sense.
pub(super) fn wrong(name: &'static str, value: &[u8], allowed: &'static str) -> Error {
    Error::InvalidArgument { name, value: String::from_utf8_lossy(value).into_owned(), allowed }
}

fn text(word: &[u8]) -> &str {
    str::from_utf8(word).unwrap_or("")
}

pub(super) fn mode(word: &[u8]) -> Result<ModeChange> {
    ModeChange::parse(text(word))
}

pub(super) fn time(word: &[u8]) -> Result<Timestamp> {
    Timestamp::parse(text(word)).ok_or_else(|| wrong("time", word, "@SECONDS or YYYY-MM-DD HH:MM:SS (UTC)"))
}

pub(super) fn size(word: &[u8]) -> Result<u64> {
    parse_size(text(word), 1).ok_or_else(|| wrong("size", word, "bytes, or a number with K, M, G, T"))
}

pub(super) fn number(word: &[u8]) -> Result<u32> {
    text(word).parse().map_err(|_| wrong("number", word, "0 to 4294967295"))
}

/// Read an owner: `UID`, `UID:GID` or `:GID`; user and group, where they are there.
///
/// # Errors
/// [`Error::InvalidArgument`].
pub fn owner(word: &[u8]) -> Result<(Option<u32>, Option<u32>)> {
    let (user, group) = text(word).split_once(':').unwrap_or((text(word), ""));
    let id = |t: &str| {
        let id = (!t.is_empty()).then(|| t.parse().map_err(|_| wrong("owner", word, "UID, UID:GID or :GID, numbers")));
        id.transpose()
    };
    let owner = (id(user)?, id(group)?);
    if owner == (None, None) { Err(wrong("owner", word, "UID, UID:GID or :GID, numbers")) } else { Ok(owner) }
}

pub(super) fn host(word: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(word))
}
