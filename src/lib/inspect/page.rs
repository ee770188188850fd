//! What text is rendered onto: a writer and what is known about who reads it.

use std::fmt;
use std::io::{self, Write};

use super::text;

/// How to show a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text.
    Text {
        /// Columns of the terminal; `None` where it is not one.
        width: Option<u16>,
    },
    /// One line of JSON.
    Json,
}

impl Format {
    /// Text for a file or a pipe.
    pub const PLAIN: Self = Self::Text { width: None };
}

/// Where text goes.
pub struct Page<'a> {
    out: &'a mut dyn Write,
    width: Option<u16>,
}

impl fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("width", &self.width).finish_non_exhaustive()
    }
}

impl<'a> Page<'a> {
    /// A page for a terminal of `width` columns, or for something else.
    pub fn new(out: &'a mut dyn Write, width: Option<u16>) -> Self {
        Self { out, width }
    }

    /// Columns of the terminal, where it is one.
    pub const fn width(&self) -> Option<u16> {
        self.width
    }

    /// Whether a terminal shows it.
    pub const fn is_terminal(&self) -> bool {
        self.width.is_some()
    }

    /// A `key: value` line; values start in column 27, as dumpe2fs has them.
    pub fn pair(&mut self, key: &str, value: impl fmt::Display) -> io::Result<()> {
        writeln!(self.out, "{:<25} {value}", format_args!("{key}:").to_string())
    }

    /// Bytes from the image: as they are, or escaped on a terminal.
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_terminal() {
            self.out.write_all(text::printable(bytes).as_bytes())
        } else {
            self.out.write_all(bytes)
        }
    }
}

impl Write for Page<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.out.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
