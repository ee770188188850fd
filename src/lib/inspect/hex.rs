//! Bytes in hexadecimal and ASCII.

use std::io::{self, Write};

use serde::Serialize;

use super::View;
use super::page::Page;
use super::text::hex;

/// Bytes of a line.
const LINE: usize = 16;

/// A piece of the image.
#[derive(Debug, Serialize)]
pub struct HexView {
    /// Length in bytes.
    pub len: usize,
    /// The bytes, in hexadecimal.
    #[serde(serialize_with = "as_hex", rename = "hex")]
    pub bytes: Vec<u8>,
}

fn as_hex<S: serde::Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&hex(bytes))
}

impl HexView {
    /// A view of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        Self { len: bytes.len(), bytes: bytes.to_vec() }
    }
}

impl View for HexView {
    const SCHEMA: &'static str = "bytes/1";

    /// Offset (octal, as debugfs has it), 16 bytes, their ASCII; `*` stands for repetitions of the line before.
    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        let mut last: Option<&[u8]> = None;
        let mut repeated = false;
        for (index, line) in self.bytes.chunks(LINE).enumerate() {
            // The last line may be shorter.
            if last.is_some_and(|l| l.starts_with(line)) {
                if !repeated {
                    writeln!(page, "*")?;
                }
                repeated = true;
                continue;
            }
            (last, repeated) = (Some(line), false);
            let mut digits = String::new();
            for pair in line.chunks(2) {
                digits.push_str(&hex(pair));
                digits.push(' ');
            }
            let ascii: String = line.iter().map(|b| if matches!(b, 0x20..=0x7e) { *b as char } else { '.' }).collect();
            writeln!(page, "{:04o}  {digits:<40} {ascii}", index.saturating_mul(LINE))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_left_out() {
        let mut bytes = vec![0; 64];
        bytes[1] = b'a';
        bytes.push(0xff);
        let mut out = Vec::new();
        HexView::new(&bytes).text(&mut Page::new(&mut out, None)).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "0000  0061 0000 0000 0000 0000 0000 0000 0000  .a..............");
        assert_eq!(lines[2..], ["*", "0100  ff                                       ."]);
    }
}
