//! How failures are told: one line of text, or one JSON object, on standard error.

use std::io::Write;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::{Exit, Session, Status, Tool, exit};
use crate::error::Error;
use crate::shell;

/// Why a binary ends early.
#[derive(Debug)]
pub enum Failure {
    /// The library reports an error.
    Library(Error),
    /// The arguments make no sense together; the text says why.
    Usage(String),
    /// Standard output cannot be written.
    Output(std::io::Error),
    /// Another failure, with where it happened: a line of a script, a command.
    At {
        /// Where.
        place: String,
        /// What.
        failure: Box<Self>,
    },
}

impl Failure {
    /// The failure itself, without where it happened.
    pub fn bare(&self) -> &Self {
        match self {
            Self::At { failure, .. } => failure.bare(),
            other => other,
        }
    }
}

impl From<shell::Failure> for Failure {
    fn from(e: shell::Failure) -> Self {
        match e {
            shell::Failure::Library(e) => Self::Library(e),
            shell::Failure::Usage(text) => Self::Usage(text),
            shell::Failure::Output(e) => Self::Output(e),
        }
    }
}

impl From<Box<shell::Stopped>> for Failure {
    fn from(stopped: Box<shell::Stopped>) -> Self {
        Self::At { place: stopped.place(), failure: Box::new(stopped.failure.into()) }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Library(e)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::Output(e)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(e: serde_json::Error) -> Self {
        Self::Output(e.into())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Library(e) => e.fmt(f),
            Self::Usage(text) => f.write_str(text),
            Self::Output(e) => write!(f, "cannot write the output: {e}"),
            Self::At { place, failure } => write!(f, "{place}: {failure}"),
        }
    }
}

impl std::error::Error for Failure {}

/// What to do next about an error, where there is something.
pub fn hint(e: &Error) -> Option<&'static str> {
    Some(match e.bare() {
        Error::TransactionTooLarge { .. } => {
            "allow several transactions (e4cp --chunked), do less at once, or give the image a larger journal"
        }
        Error::MmpInUse { .. } => "unmount it there; a claim that was left behind is removed by a checker",
        Error::Corrupt { .. } => "`e4fsck -n IMAGE` lists all that is wrong",
        Error::NotExt4 { .. } => "a filesystem that begins inside the image is named IMAGE@OFFSET",
        Error::NeedsRecovery => "e4sh and e4es show what is there without the journal",
        Error::Busy { .. } => "close the program that uses it, or unmount it",
        Error::DeviceTooSmall { .. } => "the image may be an incomplete copy",
        Error::ChangedElsewhere { .. } => "`e4fsck -n IMAGE` tells whether it is whole",
        Error::Poisoned => "run `e4fsck IMAGE` before it is used again",
        _ => return None,
    })
}

/// The text without the number that the standard library puts behind the host's reason: " (os error 2)".
fn plain(text: &str) -> String {
    let Some((before, rest)) = text.rsplit_once(" (os error ") else { return text.to_owned() };
    match rest.split_once(')') {
        Some((number, after)) if number.bytes().all(|b| b.is_ascii_digit()) => format!("{before}{after}"),
        _ => text.to_owned(),
    }
}

/// An error as a JSON object: `kind`, `message`, and where they apply `place`, `path`, `features` and `hint`.
pub fn error_json(e: &Error) -> Value {
    let mut object = Map::new();
    object.insert("kind".into(), e.kind().into());
    object.insert("message".into(), plain(&e.to_string()).into());
    if let Error::OnPath { path, .. } = e {
        object.insert("path".into(), String::from_utf8_lossy(path).into());
    }
    match e.bare() {
        Error::Corrupt { place, .. } => {
            object.insert("place".into(), json!(place));
        }
        Error::Unsupported { features } => {
            object.insert("features".into(), features.iter().map(ToString::to_string).collect());
        }
        Error::Host { path, .. } | Error::HostChanged { path } | Error::Busy { path } => {
            object.insert("path".into(), path.to_string_lossy().into());
        }
        Error::NotFound { path }
        | Error::NotDirectory { path }
        | Error::IsDirectory { path }
        | Error::Exists { path }
        | Error::NotEmpty { path }
        | Error::IntoItself { path }
        | Error::SymlinkLoop { path } => {
            object.insert("path".into(), String::from_utf8_lossy(path).into());
        }
        _ => {}
    }
    if let Some(hint) = hint(e) {
        object.insert("hint".into(), hint.into());
    }
    Value::Object(object)
}

/// The text of a failure, without a newline at the end.
fn render(tool: Tool, json: bool, failure: &Failure) -> String {
    if json {
        let mut error = match failure.bare() {
            Failure::Library(e) => error_json(e),
            Failure::Usage(text) => json!({ "kind": "usage", "message": text }),
            bare => json!({ "kind": "output", "message": plain(&bare.to_string()) }),
        };
        if let (Failure::At { place, .. }, Some(object)) = (failure, error.as_object_mut()) {
            object.insert("at".into(), place.clone().into());
        }
        return json!({ "error": error }).to_string();
    }
    let mut text = format!("{}: error: {}", tool.name, plain(&failure.to_string()));
    if let Failure::Library(e) = failure.bare()
        && let Some(hint) = hint(e)
    {
        text.push_str("\n  hint: ");
        text.push_str(hint);
    }
    text
}

/// Tell a failure; a reader that went away is not one worth telling.
pub(super) fn failure(session: &Session, failure: &Failure) {
    if matches!(failure.bare(), Failure::Output(e) if e.kind() == std::io::ErrorKind::BrokenPipe) {
        return;
    }
    // Nobody is left to tell where standard error is gone too.
    let _ = writeln!(std::io::stderr(), "{}", render(session.tool, session.json, failure));
}

/// Tell what clap found: help and version are no failures.
pub(super) fn usage(session: &Session, e: &clap::Error) -> ExitCode {
    if !e.use_stderr() {
        return match e.print() {
            Ok(()) => Exit::Ok.into_code(),
            Err(e) => exit::of_failure(session.tool, &Failure::Output(e)).into(),
        };
    }
    let status = exit::of_failure(session.tool, &Failure::Usage(String::new()));
    if session.json {
        let text = e.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned();
        failure(session, &Failure::Usage(text));
    } else {
        // clap's own text begins with "error:"; the tool's name goes before it.
        let _ = write!(std::io::stderr(), "{}: ", session.tool.name);
        let _ = e.print();
    }
    status.into()
}

impl Exit {
    fn into_code(self) -> ExitCode {
        Status::from(self).into()
    }
}

/// A panic is a bug, told in one line; `RUST_BACKTRACE` brings the details back. The panic of `print!` into a closed pipe
/// ends the program silently.
pub(super) fn install_panic_hook(tool: Tool) {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or("unknown");
        if text.starts_with("failed printing to std") && text.contains("Broken pipe") {
            std::process::exit(i32::from(Status::from(Exit::BrokenPipe).0));
        }
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v != "0") {
            default(info);
            return;
        }
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(std::io::stderr(), "{}: internal error (a bug, please report it): {place}: {text}", tool.name);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Flaw, Place, Structure};
    use crate::units::Ino;

    fn corrupt() -> Error {
        Error::corrupt(Flaw::Order { of: Structure::ExtentNode }, Place::inode(Ino(12)))
    }

    #[test]
    fn text_says_who_what_where_and_what_next() {
        assert_eq!(
            render(Tool::COPY, false, &corrupt().into()),
            "e4cp: error: inode 12: extent tree node has entries out of order\n  hint: `e4fsck -n IMAGE` lists all that is wrong"
        );
        let missing = Error::host("open", "a", rustix::io::Errno::NOENT);
        assert_eq!(
            render(Tool::COPY, false, &missing.into()),
            "e4cp: error: a: cannot open: No such file or directory"
        );
        assert_eq!(render(Tool::SHELL, false, &Failure::Usage("no".into())), "e4sh: error: no");
    }

    #[test]
    fn json_is_one_object() {
        let value: Value = serde_json::from_str(&render(Tool::COPY, true, &corrupt().into())).unwrap();
        assert_eq!(value["error"]["kind"], "corrupt");
        assert_eq!(value["error"]["place"]["ino"], 12);
        let e = Error::NotFound { path: b"/a\xff".to_vec() };
        let value: Value = serde_json::from_str(&render(Tool::COPY, true, &e.into())).unwrap();
        assert_eq!(value["error"]["path"], "/a\u{fffd}");
        let value: Value = serde_json::from_str(&render(Tool::FSCK, true, &Failure::Usage("no".into()))).unwrap();
        assert_eq!(value["error"], json!({ "kind": "usage", "message": "no" }));
    }
}
