//! Talking to a person: a line editor with history, completion, hints and colours. Ctrl-C ends the command that runs (a second
//! one ends the program), Ctrl-D the conversation.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs;
use std::io::{self, BufRead, ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ext4kit::cli::{self, Exit, Failure, Terminal};
use ext4kit::inspect::Format;
use ext4kit::shell::{self, Session, complete, expected, run_line};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::{History, MemHistory, SearchDirection};
use rustyline::validate::Validator;
use rustyline::{ColorMode, CompletionType, Config, Context, Editor, Helper};

use crate::pager::{self, Paged};

/// Commands whose output is a file's content: it goes to the terminal as it is.
const CONTENT: [&str; 1] = ["cat"];
/// Lines of history that are kept.
const HISTORY: usize = 1000;

/// What the line editor asks about a line.
struct Typing<'s> {
    session: &'s RefCell<&'s mut Session>,
    color: bool,
}

impl Helper for Typing<'_> {}
impl Validator for Typing<'_> {}

impl Completer for Typing<'_> {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let found = complete(&self.session.borrow(), line.get(..pos).unwrap_or(line));
        Ok((found.start, found.candidates))
    }
}

impl Hinter for Typing<'_> {
    type Hint = String;

    fn hint(&self, line: &str, pos: usize, ctx: &Context<'_>) -> Option<String> {
        if pos < line.len() || line.is_empty() {
            return None;
        }
        // The last command that began like this, else what the command expects.
        let last = ctx.history().len().checked_sub(1)?;
        let old = ctx.history().starts_with(line, last, SearchDirection::Reverse).ok().flatten();
        let rest = old.and_then(|o| o.entry.get(pos..).map(str::to_owned)).filter(|r| !r.is_empty());
        rest.or_else(|| expected(line))
    }
}

impl Highlighter for Typing<'_> {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        if self.color { format!("\x1b[1;32m{prompt}\x1b[0m").into() } else { prompt.into() }
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        if self.color { format!("\x1b[2m{hint}\x1b[0m").into() } else { hint.into() }
    }
}

/// Output of a command that ends where Ctrl-C was pressed.
struct Interruptible<'a> {
    out: &'a mut dyn Write,
    pressed: &'a AtomicBool,
}

impl Write for Interruptible<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.pressed.load(Ordering::Relaxed) {
            // Not `Interrupted`, which means that one should try again.
            return Err(io::Error::other(Pressed));
        }
        self.out.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Ctrl-C was pressed.
#[derive(Debug)]
struct Pressed;

impl std::fmt::Display for Pressed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Pressed {}

/// Where the history is kept between conversations, where the host has a place for it.
fn history_file() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|h| h.join(".local/state")))?;
    Some(state.join("ext4kit/e4sh_history"))
}

/// Standard input, a line at a time: nothing of the next one is taken, which may be the answer to a question.
pub(crate) struct Lines;

impl io::Read for Lines {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut stdin = io::stdin().lock();
        let waiting = stdin.fill_buf()?;
        let line = waiting.iter().position(|b| *b == b'\n').map_or(waiting.len(), |at| at + 1);
        let len = line.min(buf.len());
        buf.iter_mut().zip(waiting.iter().take(len)).for_each(|(to, from)| *to = *from);
        stdin.consume(len);
        Ok(len)
    }
}

/// Show a question, read a line; for commands that ask.
pub(crate) fn ask(question: &str) -> io::Result<Option<Vec<u8>>> {
    let mut out = io::stdout();
    out.write_all(question.as_bytes())?;
    out.flush()?;
    let mut line = Vec::new();
    let read = io::stdin().lock().read_until(b'\n', &mut line)?;
    Ok((read > 0).then_some(line))
}

/// Prompt, read, run, and go on after what fails, up to `quit` or the end of the input.
pub(crate) fn talk(session: &mut Session, host: &cli::Session, out: &mut dyn Write) -> Result<(), Failure> {
    let input = |e: ReadlineError| Failure::from(ext4kit::Error::host("read", "terminal", io::Error::other(e)));
    let pressed = Arc::new(AtomicBool::new(false));
    let signal = |e| Failure::from(ext4kit::Error::host("set up", "Ctrl-C", e));
    let sigint = signal_hook::consts::SIGINT;
    // In this order: the first one is noted, the second one ends the program.
    signal_hook::flag::register_conditional_shutdown(sigint, i32::from(Exit::Cancelled as u8), Arc::clone(&pressed))
        .map_err(signal)?;
    signal_hook::flag::register(sigint, Arc::clone(&pressed)).map_err(signal)?;
    let session = RefCell::new(session);
    let color = host.terminal.color;
    let config = Config::builder()
        .max_history_size(HISTORY)
        .map_err(input)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .color_mode(if color { ColorMode::Enabled } else { ColorMode::Disabled })
        .build();
    let history = MemHistory::with_config(&config);
    let mut editor = Editor::with_history(config, history).map_err(input)?;
    editor.set_helper(Some(Typing { session: &session, color }));
    let kept = history_file();
    let pager = pager::wanted();
    let old = kept.as_ref().and_then(|f| fs::read_to_string(f).ok()).unwrap_or_default();
    old.lines().for_each(|line| drop(editor.add_history_entry(line)));
    while !session.borrow().is_done() {
        out.flush().map_err(shell::Failure::Output)?;
        let prompt = session.borrow().prompt();
        let line = match editor.readline(&prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(e) => return Err(input(e)),
        };
        let _ = editor.add_history_entry(line.as_str());
        pressed.store(false, Ordering::Relaxed);
        let now = Terminal::detect();
        let format = session.borrow().settings().format;
        if let Format::Text { width: Some(_) } = format {
            session.borrow_mut().set_format(Format::Text { width: Some(now.width) });
        }
        let content = line.split_whitespace().next().is_some_and(|name| CONTENT.contains(&name));
        let paged = pager.as_deref().filter(|_| !content && now.stdout && now.cursor);
        let mut paged = Paged::new(&mut *out, paged, (now.width, now.height));
        let done = run_line(
            &mut session.borrow_mut(),
            line.as_bytes(),
            &mut Interruptible { out: &mut paged, pressed: &pressed },
        );
        let interrupted = pressed.load(Ordering::Relaxed);
        paged.finish(&pressed).map_err(shell::Failure::Output)?;
        match done {
            Ok(()) => {}
            Err(shell::Failure::Output(_)) if interrupted => {
                writeln!(out, "interrupted").map_err(shell::Failure::Output)?;
            }
            Err(shell::Failure::Output(e)) if e.kind() == ErrorKind::BrokenPipe => {
                return Err(shell::Failure::Output(e).into());
            }
            Err(e) => {
                out.flush().map_err(shell::Failure::Output)?;
                host.report(&e.into());
            }
        }
        pressed.store(false, Ordering::Relaxed);
    }
    out.flush().map_err(shell::Failure::Output)?;
    if let Some(file) = kept {
        keep_history(&file, editor.history());
    }
    Ok(())
}

/// Write the history where it is kept. That this may fail (a read-only home) is nobody's concern.
fn keep_history(file: &std::path::Path, history: &MemHistory) {
    let line = |i| history.get(i, SearchDirection::Forward).ok().flatten();
    let lines: Vec<_> = (0..history.len()).filter_map(line).map(|l| l.entry.into_owned() + "\n").collect();
    if let Some(dir) = file.parent() {
        let _ = fs::create_dir_all(dir);
    }
    let _ = fs::write(file, lines.concat());
}
