//! The words of a command: options and operands.

use super::table::Command;
use super::{Failure, Outcome};

/// A command with its words.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    /// Which command.
    pub command: &'static Command,
    /// The words after its name.
    pub words: &'a [Vec<u8>],
}

/// Options and operands of a command.
#[derive(Debug, Default)]
pub struct Options<'a> {
    flags: Vec<u8>,
    values: Vec<(u8, &'a [u8])>,
    /// The operands in order.
    pub operands: Vec<&'a [u8]>,
}

impl<'a> Args<'a> {
    /// That the command was used wrongly.
    pub fn usage(&self) -> Failure {
        Failure::Usage(format!("usage: {}", self.command.synopsis()))
    }

    /// Read options by the letters of `known`; a letter with `:` behind takes a value. Options may come anywhere, `--`
    /// ends them. There must be `least` to `most` operands.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn options(&self, known: &str, least: usize, most: usize) -> Outcome<Options<'a>> {
        let takes_value = |letter: u8| {
            let at = known.bytes().position(|k| k == letter && k != b':')?;
            Some(known.as_bytes().get(at.saturating_add(1)) == Some(&b':'))
        };
        let mut options = Options::default();
        let mut words = self.words.iter();
        while let Some(word) = words.next() {
            let letters = match word.strip_prefix(b"-") {
                Some(b"-") => {
                    options.operands.extend(words.map(Vec::as_slice));
                    break;
                }
                Some(letters) if !letters.is_empty() => letters,
                _ => {
                    options.operands.push(word);
                    continue;
                }
            };
            for (i, letter) in letters.iter().enumerate() {
                match takes_value(*letter) {
                    None => return Err(self.usage()),
                    Some(false) => options.flags.push(*letter),
                    Some(true) => {
                        let rest = letters.get(i.saturating_add(1)..).unwrap_or_default();
                        let mut next = || words.next().map(Vec::as_slice);
                        let value = if rest.is_empty() { next() } else { Some(rest) };
                        options.values.push((*letter, value.ok_or_else(|| self.usage())?));
                        break;
                    }
                }
            }
        }
        if (least..=most).contains(&options.operands.len()) { Ok(options) } else { Err(self.usage()) }
    }
}

impl<'a> Options<'a> {
    /// Whether a flag was given.
    pub fn has(&self, letter: char) -> bool {
        self.flags.iter().any(|f| char::from(*f) == letter)
    }

    /// The last value given for an option.
    pub fn value(&self, letter: char) -> Option<&'a [u8]> {
        self.values.iter().rev().find(|(l, _)| char::from(*l) == letter).map(|(_, v)| *v)
    }

    /// An operand; empty where there are fewer.
    pub fn operand(&self, index: usize) -> &'a [u8] {
        self.operands.get(index).copied().unwrap_or_default()
    }
}

/// A number: decimal, `0x…`, or octal with a leading zero.
///
/// # Errors
/// [`Failure::Usage`], naming `what` it should be.
pub(super) fn number(word: &[u8], what: &str) -> Outcome<u64> {
    let text = std::str::from_utf8(word).unwrap_or_default();
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8),
        None => text.parse(),
    };
    let signed = text.contains(['+', '-']);
    parsed
        .ok()
        .filter(|_| !signed)
        .ok_or_else(|| Failure::Usage(format!("{}: not a {what}", String::from_utf8_lossy(word))))
}

/// A number of 32 bits.
pub(super) fn number32(word: &[u8], what: &str) -> Outcome<u32> {
    let n = number(word, what)?;
    u32::try_from(n).map_err(|_| Failure::Usage(format!("{n}: not a {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::find;

    fn read(line: &str, known: &str) -> Option<(Vec<u8>, Vec<String>, Option<String>)> {
        let words = crate::shell::split(line.as_bytes()).unwrap();
        let args = Args { command: find("stat").unwrap(), words: &words };
        let o = args.options(known, 0, 2).ok()?;
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        Some((o.flags.clone(), o.operands.iter().map(|w| text(w)).collect(), o.value('c').map(text)))
    }

    #[test]
    fn options_come_anywhere() {
        let (flags, operands, value) = read("-ld h -c 64 -- -x", "ldc:").unwrap();
        assert_eq!((flags, operands, value), (b"ld".to_vec(), vec!["h".into(), "-x".into()], Some("64".into())));
        assert_eq!(read("-lc64", "lc:").unwrap().2.unwrap(), "64");
        assert_eq!(read("-", "").unwrap().1, ["-"]);
        for bad in ["-x", "-c", "a b c"] {
            assert!(read(bad, "lc:").is_none(), "{bad}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(number(b"0x1f", "n").unwrap(), 31);
        assert_eq!(number(b"017", "n").unwrap(), 15);
        assert_eq!(number(b"0", "n").unwrap(), 0);
        for bad in ["", "0x", "+1", "0x+1", "-1", "9a", "18446744073709551616"] {
            assert!(number(bad.as_bytes(), "n").is_err(), "{bad}");
        }
        assert!(number32(b"4294967296", "n").is_err());
    }
}
