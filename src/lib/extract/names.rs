//! Names as they come from an image: which may be used on a host, and how they are shown.

use std::borrow::Cow;
use std::fmt::Write;

use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::dirent;
use crate::units::Ino;

/// Refuse a name that would not be one entry of one directory on the host. `dir` is where it was found.
pub(super) fn check(name: &[u8], dir: Ino) -> Result<()> {
    if dirent::is_valid_name(name) && !dirent::is_dot_or_dotdot(name) {
        return Ok(());
    }
    let detail = "a name holds '/' or NUL, is empty or too long, or is '.' or '..'";
    Err(Error::corrupt(Flaw::Inconsistent { of: Structure::DirBlock, detail }, Place::inode(dir)))
}

/// Bytes of a path as text that is safe to show: UTF-8 as it is; control characters, backslashes and other bytes as
/// `\n`, `\t`, `\\` or `\xNN`, so that different names look different.
pub fn printable(path: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(path)
        && !text.chars().any(needs_escape)
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(path.len() + 8);
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\\' => out.push_str("\\\\"),
                c if needs_escape(c) => {
                    for b in c.encode_utf8(&mut [0; 4]).bytes() {
                        let _ = write!(out, "\\x{b:02x}");
                    }
                }
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    Cow::Owned(out)
}

/// Control characters, and those that change the direction of text.
fn needs_escape(c: char) -> bool {
    c.is_control()
        || c == '\\'
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &[b'x'; 256]] {
            assert!(check(bad, Ino(2)).unwrap_err().is_corruption(), "{bad:?}");
        }
        for good in [&b"..."[..], b" ", b"-rf", b"\xff", b"a\nb", &[b'x'; 255]] {
            check(good, Ino(2)).unwrap();
        }
    }

    #[test]
    fn names_are_shown_without_surprises() {
        assert_eq!(printable("näme".as_bytes()), "näme");
        assert_eq!(printable(b"a\x1b[2Jb\n\\\xff"), "a\\x1b[2Jb\\n\\\\\\xff");
        assert_eq!(printable("\u{202e}x".as_bytes()), "\\xe2\\x80\\xaex");
    }
}
