//! What standard output and standard error are connected to.

use std::io::IsTerminal;

/// Columns where the width is not known.
const DEFAULT_WIDTH: u16 = 80;

/// Facts about the terminal, as it is when they are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Standard input is a terminal: questions can be asked.
    pub stdin: bool,
    /// Standard output is a terminal.
    pub stdout: bool,
    /// Standard error is a terminal.
    pub stderr: bool,
    /// Columns.
    pub width: u16,
    /// Rows; 0 where they are not known.
    pub height: u16,
    /// Colours may be used on standard output.
    pub color: bool,
    /// `TERM` names a terminal that can move the cursor.
    pub cursor: bool,
}

impl Terminal {
    /// Look at the process's standard streams and at `NO_COLOR`, `TERM` and `COLUMNS`.
    pub fn detect() -> Self {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let stdout = std::io::stdout().is_terminal();
        let cursor = var("TERM").is_some_and(|term| term != "dumb");
        let columns = var("COLUMNS").and_then(|v| v.to_str()?.parse().ok());
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let asked = size.map(|s| s.ws_col);
        Self {
            stdin: std::io::stdin().is_terminal(),
            stdout,
            stderr: std::io::stderr().is_terminal(),
            width: asked.filter(|&w| w > 0).or(columns).unwrap_or(DEFAULT_WIDTH),
            height: size.map_or(0, |s| s.ws_row),
            color: stdout && cursor && var("NO_COLOR").is_none(),
            cursor,
        }
    }

    /// Whether a progress bar can be drawn on standard error.
    pub const fn draws(&self) -> bool {
        self.stderr && self.cursor
    }
}
