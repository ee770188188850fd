//! Tables: columns padded with spaces, or with lines and fitted to the width on a terminal.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, presets};

use super::page::Page;
use super::text::printable;

/// On which side a column is padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table under construction.
#[derive(Debug)]
pub(super) struct Table {
    headers: Vec<&'static str>,
    align: Vec<Align>,
    rows: Vec<Vec<Vec<u8>>>,
}

impl Table {
    /// A table with columns of a header and alignment each.
    pub(super) fn new<const N: usize>(columns: [(&'static str, Align); N]) -> Self {
        Self { headers: columns.map(|c| c.0).to_vec(), align: columns.map(|c| c.1).to_vec(), rows: Vec::new() }
    }

    /// Add a row of texts.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(String::into_bytes).into());
    }

    /// Add a row whose last cell is bytes from the image.
    pub(super) fn row_with_bytes<const N: usize>(&mut self, cells: [String; N], last: Vec<u8>) {
        let mut row: Vec<Vec<u8>> = cells.map(String::into_bytes).into();
        row.push(last);
        self.rows.push(row);
    }

    /// Write it.
    pub(super) fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        match page.width() {
            Some(width) => self.write_lined(page, width),
            None => self.write_plain(page),
        }
    }

    fn write_lined(&self, page: &mut Page<'_>, width: u16) -> io::Result<()> {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty().set_width(width);
        table.set_content_arrangement(ContentArrangement::Dynamic).set_header(self.headers.clone());
        for row in &self.rows {
            table.add_row(row.iter().map(|c| printable(c)));
        }
        for (column, align) in table.column_iter_mut().zip(&self.align) {
            column.set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
        writeln!(page, "{}", table.trim_fmt())
    }

    fn write_plain(&self, page: &mut Page<'_>) -> io::Result<()> {
        let mut widths: Vec<usize> = self.headers.iter().map(|h| h.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(chars(cell));
            }
        }
        let headers: Vec<Vec<u8>> = self.headers.iter().map(|h| h.as_bytes().to_vec()).collect();
        for row in std::iter::once(&headers).chain(&self.rows) {
            // Nothing is padded behind the last cell that has something.
            let last = row.iter().rposition(|c| !c.is_empty()).unwrap_or(0);
            for (i, ((cell, width), align)) in row.iter().zip(&widths).zip(&self.align).enumerate().take(last + 1) {
                let pad = width.saturating_sub(chars(cell));
                let gap: usize = if i == 0 { 0 } else { 2 };
                let (before, after) = match align {
                    Align::Left => (gap, if i == last { 0 } else { pad }),
                    Align::Right => (gap.saturating_add(pad), 0),
                };
                write!(page, "{:before$}", "")?;
                page.write_all(cell)?;
                write!(page, "{:after$}", "")?;
            }
            page.write_all(b"\n")?;
        }
        Ok(())
    }
}

fn chars(cell: &[u8]) -> usize {
    std::str::from_utf8(cell).map_or(cell.len(), |t| t.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(width: Option<u16>) -> String {
        let mut table = Table::new([("Block", Align::Right), ("Name", Align::Left)]);
        table.row(["7".into(), "seven".into()]);
        table.row_with_bytes(["12345678".into()], b"a\x1bb".to_vec());
        let mut out = Vec::new();
        table.write(&mut Page::new(&mut out, width)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn plain_columns_and_raw_bytes() {
        assert_eq!(render(None), "   Block  Name\n       7  seven\n12345678  a\u{1b}b\n");
    }

    #[test]
    fn lines_and_escapes_on_a_terminal() {
        let text = render(Some(40));
        assert!(text.contains('│') && text.contains("a\\x1bb") && !text.contains('\u{1b}'), "{text}");
    }
}
