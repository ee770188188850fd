//! The tables of problems.

use std::io::Write;

use ext4kit::check::{PROBLEMS, UNCOVERED, Why};
use ext4kit::cli::{Failure, FsckExit, Session};

use crate::args::Args;

pub(crate) fn list_problems(args: &Args, session: &Session) -> Result<FsckExit, Failure> {
    let mut out = session.out();
    if args.json {
        writeln!(out, "{:#}", serde_json::to_value(PROBLEMS)?)?;
        return Ok(FsckExit::empty());
    }
    for row in PROBLEMS {
        let code = row.e2fsck.map_or_else(|| "-".into(), |c| format!("{c:#08x}"));
        let mark = match (row.fatal, row.harmless) {
            (true, _) => "fatal",
            (_, true) => "harmless",
            _ => "",
        };
        writeln!(out, "{:<10} {code:<8} {mark:<8} {:?}: {}", row.problem.id(), row.problem, row.text)?;
    }
    Ok(FsckExit::empty())
}

pub(crate) fn list_uncovered(args: &Args, session: &Session) -> Result<FsckExit, Failure> {
    let mut out = session.out();
    if args.json {
        writeln!(out, "{:#}", serde_json::to_value(UNCOVERED)?)?;
        return Ok(FsckExit::empty());
    }
    for code in UNCOVERED {
        let why = match code.why {
            Why::Within(p) => p.id(),
            other => format!("{other:?}").to_lowercase(),
        };
        writeln!(out, "{:#08x} {why:<10} {}", code.e2fsck, code.reason)?;
    }
    Ok(FsckExit::empty())
}
