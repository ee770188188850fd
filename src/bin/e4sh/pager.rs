//! Output that is longer than the terminal goes through a pager: `DEBUGFS_PAGER`, else `PAGER`, else less or more. An empty one,
//! `__none__`, or `NO_PAGER` mean that there is none.

use std::io::{self, ErrorKind, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a pager is looked at whether it has ended.
const LOOK: Duration = Duration::from_millis(20);

/// The pager's command line, as the environment asks for it.
pub(crate) fn wanted() -> Option<String> {
    let var = |name: &str| std::env::var(name).ok();
    if var("NO_PAGER").is_some_and(|v| !v.is_empty()) {
        return None;
    }
    if let Some(asked) = var("DEBUGFS_PAGER").or_else(|| var("PAGER")) {
        let asked = asked.trim();
        return (!asked.is_empty() && asked != "__none__").then(|| asked.to_owned());
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &&str| std::env::split_paths(&paths).any(|dir| dir.join(name).is_file());
    ["less", "more"].iter().find(|n| there(n)).map(|n| (*n).to_owned())
}

/// Where output goes.
enum To {
    /// Kept until it is too long for the terminal.
    Held(Vec<u8>),
    Direct,
    Pager(Child),
    /// The person has seen enough.
    Nowhere(Child),
}

/// The output of one command.
pub(crate) struct Paged<'a> {
    out: &'a mut dyn Write,
    pager: Option<&'a str>,
    /// Columns and rows of the terminal.
    size: (usize, usize),
    /// Rows that are used, and columns of the last one.
    used: (usize, usize),
    to: To,
}

impl<'a> Paged<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, pager: Option<&'a str>, (width, height): (u16, u16)) -> Self {
        let to = if pager.is_some() && height > 1 { To::Held(Vec::new()) } else { To::Direct };
        Self { out, pager, size: (width.max(1).into(), height.into()), used: (0, 0), to }
    }

    /// Whether what was counted leaves a row for the prompt.
    fn fits(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            let (rows, columns) = &mut self.used;
            match byte {
                b'\n' => (*rows, *columns) = (*rows + 1, 0),
                // What follows the first byte of a character takes no column.
                0x80..=0xbf => {}
                _ => {
                    *columns += 1;
                    if *columns > self.size.0 {
                        (*rows, *columns) = (*rows + 1, 1);
                    }
                }
            }
        }
        self.used.0 < self.size.1
    }

    fn start(&mut self) -> io::Result<()> {
        let To::Held(held) = std::mem::replace(&mut self.to, To::Direct) else { return Ok(()) };
        self.out.flush()?;
        let mut shell = Command::new("sh");
        shell.args(["-c", self.pager.unwrap_or("cat")]).stdin(Stdio::piped());
        if std::env::var_os("LESS").is_none() {
            shell.env("LESS", "FRX");
        }
        match shell.spawn() {
            Ok(child) => {
                self.to = To::Pager(child);
                self.write_all(&held)
            }
            Err(_) => self.out.write_all(&held),
        }
    }

    /// All has been written. Waits until the pager has ended; Ctrl-C is the pager's until then.
    pub(crate) fn finish(self, pressed: &AtomicBool) -> io::Result<()> {
        match self.to {
            To::Held(held) => self.out.write_all(&held),
            To::Direct => Ok(()),
            To::Pager(mut child) | To::Nowhere(mut child) => {
                drop(child.stdin.take());
                while child.try_wait()?.is_none() {
                    pressed.store(false, Ordering::Relaxed);
                    std::thread::sleep(LOOK);
                }
                pressed.store(false, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

impl Write for Paged<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if matches!(self.to, To::Held(_)) && !self.fits(buf) {
            self.start()?;
        }
        match &mut self.to {
            To::Held(held) => held.extend_from_slice(buf),
            To::Direct => self.out.write_all(buf)?,
            To::Nowhere(_) => {}
            To::Pager(child) => {
                let sent = child.stdin.as_mut().map_or(Ok(()), |to| to.write_all(buf));
                match sent {
                    // The command goes on all the same: what it changes does not depend on who looks.
                    Err(e) if e.kind() == ErrorKind::BrokenPipe => {
                        if let To::Pager(child) = std::mem::replace(&mut self.to, To::Direct) {
                            self.to = To::Nowhere(child);
                        }
                    }
                    other => other?,
                }
            }
        }
        Ok(buf.len())
    }

    /// Somebody waits for what was written: a question comes.
    fn flush(&mut self) -> io::Result<()> {
        if let To::Held(held) = &mut self.to {
            let held = std::mem::take(held);
            self.to = To::Direct;
            self.out.write_all(&held)?;
        }
        match &mut self.to {
            To::Pager(child) => child.stdin.as_mut().map_or(Ok(()), Write::flush).or(Ok(())),
            _ => self.out.flush(),
        }
    }
}
