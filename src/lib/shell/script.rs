//! Running commands: one, or a script.

use std::io::{BufRead, Write};

use super::args::Args;
use super::lexer::split;
use super::session::Session;
use super::table::{Family, find};
use super::{Failure, Outcome};

/// Why a script stopped, and where.
#[derive(Debug)]
pub struct Stopped {
    /// The line, from 1; `None` where it was the only one.
    pub line: Option<u64>,
    /// The command line.
    pub text: String,
    /// What happened.
    pub failure: Failure,
}

impl Stopped {
    /// The place, for messages: `line 3 (stat /x)`.
    pub fn place(&self) -> String {
        match self.line {
            Some(line) => format!("line {line} ({})", self.text),
            None => self.text.clone(),
        }
    }
}

/// Run one command line. An empty one, and one that begins with `#`, does nothing.
///
/// # Errors
/// [`Failure::Usage`] for a command that does not exist or is used wrongly; those of the command.
pub fn run_line(session: &mut Session, line: &[u8], out: &mut dyn Write) -> Outcome {
    if line.trim_ascii_start().first() == Some(&b'#') {
        return Ok(());
    }
    let words = split(line)?;
    let Some((name, rest)) = words.split_first() else { return Ok(()) };
    let name = String::from_utf8_lossy(name);
    let command = find(&name)
        .ok_or_else(|| Failure::Usage(format!("no command \"{}\" (\"help\" lists them)", name.escape_debug())))?;
    let before = session.before_command(command.family == Family::Change)?;
    let done = (command.run)(session, &Args { command, words: rest }, out);
    let settled = session.after_command(before, line, done.is_err());
    done.and(settled)
}

/// Run all lines of `script`, up to the end or `quit`. At a command that fails, `failed` decides: `None` goes on.
///
/// # Errors
/// What `failed` returned, where it ended the script.
pub fn run_script<W: Write, E>(
    session: &mut Session,
    script: &mut dyn BufRead,
    out: &mut W,
    failed: &mut dyn FnMut(Box<Stopped>, &mut W) -> Option<E>,
) -> Result<(), E> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = script.read_until(b'\n', &mut line).map_err(|e| crate::Error::host("read", "script", e).into());
        let ended = matches!(read, Err(_) | Ok(0));
        let ran = match read {
            Ok(0) => Ok(()),
            Ok(_) => run_line(session, &line, out),
            Err(e) => Err(e),
        };
        if let Err(failure) = ran {
            let text = String::from_utf8_lossy(line.trim_ascii()).escape_debug().to_string();
            if let Some(e) = failed(Box::new(Stopped { line: Some(number), text, failure }), out) {
                return Err(e);
            }
        }
        if ended || session.is_done() {
            break;
        }
    }
    Ok(())
}
