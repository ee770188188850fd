//! Exit codes: one table for all binaries, and fsck's own for `e4fsck`.

use std::process::ExitCode;

use super::{Failure, Tool};
use crate::error::Error;

/// How `e4mkfs`, `e4cp`, `e4es` and `e4sh` end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Everything that was asked for happened.
    Ok = 0,
    /// Something failed.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// The image is damaged, truncated, or holds no ext2, ext3 or ext4 filesystem.
    Damaged = 3,
    /// The image uses features that this version does not know.
    Unsupported = 4,
    /// Interrupted; the image is as it was.
    Cancelled = 130,
    /// The reader of the output went away.
    BrokenPipe = 141,
}

impl Exit {
    /// All of them, with what they mean.
    pub const TABLE: [(Self, &'static str); 7] = [
        (Self::Ok, "everything that was asked for happened"),
        (Self::Failed, "something failed; the message says what"),
        (Self::Usage, "the arguments make no sense"),
        (Self::Damaged, "the image is damaged, truncated, or no ext2/ext3/ext4 filesystem"),
        (Self::Unsupported, "the image uses features that this version does not know"),
        (Self::Cancelled, "interrupted; the image is as it was"),
        (Self::BrokenPipe, "the reader of the output went away"),
    ];
}

impl From<&Error> for Exit {
    fn from(e: &Error) -> Self {
        match e.bare() {
            Error::Unsupported { .. } => Self::Unsupported,
            Error::Cancelled => Self::Cancelled,
            e if e.is_corruption() => Self::Damaged,
            _ => Self::Failed,
        }
    }
}

bitflags::bitflags! {
    /// How `e4fsck` ends: fsck(8)'s bits, which may come together.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct FsckExit: u8 {
        /// Problems were found and corrected.
        #[doc(alias = "FSCK_NONDESTRUCT")]
        const CORRECTED = 1;
        /// Corrected, and the system should be rebooted (the filesystem was mounted).
        #[doc(alias = "FSCK_REBOOT")]
        const REBOOT = 2;
        /// Problems were left uncorrected.
        #[doc(alias = "FSCK_UNCORRECTED")]
        const UNCORRECTED = 4;
        /// The check could not be done.
        #[doc(alias = "FSCK_ERROR")]
        const OPERATIONAL = 8;
        /// The arguments make no sense.
        #[doc(alias = "FSCK_USAGE")]
        const USAGE = 16;
        /// Interrupted.
        #[doc(alias = "FSCK_CANCELED")]
        const CANCELLED = 32;
        /// A shared library failed (never used; listed because fsck(8) does).
        #[doc(alias = "FSCK_LIBRARY")]
        const LIBRARY = 128;
    }
}

impl FsckExit {
    /// All values, with what they mean.
    pub const TABLE: [(u8, &'static str); 8] = [
        (0, "no problems"),
        (Self::CORRECTED.bits(), "problems were found and corrected"),
        (Self::REBOOT.bits(), "corrected, and the system should be rebooted"),
        (Self::UNCORRECTED.bits(), "problems were left uncorrected"),
        (Self::OPERATIONAL.bits(), "the check could not be done"),
        (Self::USAGE.bits(), "the arguments make no sense"),
        (Self::CANCELLED.bits(), "interrupted"),
        (Self::LIBRARY.bits(), "a shared library failed (never used)"),
    ];
}

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(pub u8);

impl From<Exit> for Status {
    fn from(exit: Exit) -> Self {
        Self(exit as u8)
    }
}

impl From<FsckExit> for Status {
    fn from(exit: FsckExit) -> Self {
        Self(exit.bits())
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.0)
    }
}

/// The code of a failure that ended `tool`.
pub(super) fn of_failure(tool: Tool, failure: &Failure) -> Status {
    match failure.bare() {
        Failure::Output(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Exit::BrokenPipe.into(),
        Failure::Usage(_) if tool.fsck_codes => FsckExit::USAGE.into(),
        Failure::Usage(_) => Exit::Usage.into(),
        Failure::Library(Error::Cancelled) if tool.fsck_codes => FsckExit::CANCELLED.into(),
        Failure::Library(_) | Failure::Output(_) if tool.fsck_codes => FsckExit::OPERATIONAL.into(),
        Failure::Library(e) => Exit::from(e).into(),
        // What is bare has no place around it.
        Failure::Output(_) | Failure::At { .. } => Exit::Failed.into(),
    }
}

/// The code of a bug.
pub(super) fn of_panic(tool: Tool) -> Status {
    if tool.fsck_codes { FsckExit::OPERATIONAL.into() } else { Exit::Failed.into() }
}

/// The codes of `tool`, with what they mean.
pub(super) fn rows(tool: Tool) -> Vec<(u8, &'static str)> {
    if !tool.fsck_codes {
        return Exit::TABLE.iter().map(|&(code, meaning)| (code as u8, meaning)).collect();
    }
    let mut rows = FsckExit::TABLE.to_vec();
    rows.push((Exit::BrokenPipe as u8, "the reader of the output went away"));
    rows
}

/// The table as text, for the end of `--help`.
pub(super) fn table(tool: Tool) -> String {
    let rows: Vec<String> = rows(tool).iter().map(|(code, meaning)| format!("  {code:>3}  {meaning}")).collect();
    format!("Exit codes:\n{}", rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_their_codes() {
        let code = |tool, failure| of_failure(tool, &failure).0;
        let pipe = || Failure::Output(std::io::ErrorKind::BrokenPipe.into());
        assert_eq!(code(Tool::COPY, Failure::Library(Error::ReadOnly)), 1);
        assert_eq!(code(Tool::COPY, Failure::Usage(String::new())), 2);
        assert_eq!(code(Tool::COPY, Failure::Library(Error::NotExt4 { offset: 1024, found: 0 })), 3);
        assert_eq!(code(Tool::COPY, Failure::Library(Error::Unsupported { features: vec![] })), 4);
        assert_eq!(code(Tool::COPY, Failure::Library(Error::Cancelled)), 130);
        assert_eq!(code(Tool::COPY, pipe()), 141);
        assert_eq!(code(Tool::FSCK, Failure::Library(Error::ReadOnly)), 8);
        assert_eq!(code(Tool::FSCK, Failure::Library(Error::NotExt4 { offset: 1024, found: 0 })), 8);
        assert_eq!(code(Tool::FSCK, Failure::Usage(String::new())), 16);
        assert_eq!(code(Tool::FSCK, Failure::Library(Error::Cancelled)), 32);
        assert_eq!(code(Tool::FSCK, pipe()), 141);
    }

    #[test]
    fn tables_list_each_code_once() {
        for tool in Tool::ALL {
            let text = table(tool);
            let codes: Vec<&str> = text.lines().skip(1).filter_map(|l| l.split_whitespace().next()).collect();
            let mut unique = codes.clone();
            unique.dedup();
            assert_eq!(codes, unique, "{}", tool.name);
            assert!(codes.len() >= 7);
        }
    }
}
