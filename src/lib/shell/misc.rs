//! Commands about the shell itself.

use std::io::Write;

use serde::Serialize;

use super::args::Args;
use super::session::Session;
use super::table::{Command, Family, commands, find, row};
use super::{Failure, Outcome};
use crate::error::Error;
use crate::inspect::{Page, View};

const FAMILY: Family = Family::Shell;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "help",
        aliases: &["list_requests", "lr", "?"],
        args: "[command]",
        help: "List the commands, or explain one",
        family: FAMILY,
        run: help,
    },
    Command {
        name: "lcd",
        aliases: &[],
        args: "directory",
        help: "Go to a directory of the host, for files that commands write",
        family: FAMILY,
        run: lcd,
    },
    row(
        "init_filesys",
        &[],
        "image block_size",
        "Left out: e4mkfs makes filesystems that are whole",
        (FAMILY, left_out),
    ),
    Command { name: "quit", aliases: &["q", "exit"], args: "", help: "Leave the shell", family: FAMILY, run: quit },
];

/// The commands.
#[derive(Debug, Serialize)]
struct HelpView {
    commands: Vec<Row>,
}

/// A command.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    aliases: &'static [&'static str],
    synopsis: String,
    help: &'static str,
    #[serde(skip)]
    family: Family,
}

impl From<&'static Command> for Row {
    fn from(c: &'static Command) -> Self {
        Self { name: c.name, aliases: c.aliases, synopsis: c.synopsis(), help: c.help, family: c.family }
    }
}

impl View for HelpView {
    const SCHEMA: &'static str = "help/1";

    fn text(&self, page: &mut Page<'_>) -> std::io::Result<()> {
        if let [row] = &self.commands[..] {
            writeln!(page, "{}\n  {}", row.synopsis, row.help)?;
            if !row.aliases.is_empty() {
                writeln!(page, "  also: {}", row.aliases.join(", "))?;
            }
            return Ok(());
        }
        let mut family = None;
        for row in &self.commands {
            if family != Some(row.family) {
                writeln!(page, "{}{}:", if family.is_some() { "\n" } else { "" }, row.family.title())?;
                family = Some(row.family);
            }
            let names: Vec<&str> = std::iter::once(&row.name).chain(row.aliases).copied().collect();
            writeln!(page, "  {:<34} {}", names.join(", "), row.help)?;
        }
        writeln!(page, "\nA file is a path or <inode>. \"help COMMAND\" shows its arguments.")
    }
}

fn help(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 0, 1)?;
    let rows: Vec<Row> = match o.operands.first() {
        None => commands().map(Row::from).collect(),
        Some(word) => {
            let name = String::from_utf8_lossy(word);
            let command =
                find(&name).ok_or_else(|| Failure::Usage(format!("no command \"{}\"", name.escape_debug())))?;
            vec![command.into()]
        }
    };
    session.show(HelpView { commands: rows }, out)
}

fn lcd(session: &mut Session, args: &Args<'_>, _out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let dir = session.host_path(o.operand(0));
    let found = std::fs::metadata(&dir).map_err(|e| Error::host("open", &dir, e))?;
    if !found.is_dir() {
        return Err(Error::host("open", &dir, std::io::Error::from(std::io::ErrorKind::NotADirectory)).into());
    }
    session.set_host_dir(dir);
    Ok(())
}

/// A command of debugfs that is not carried out; its line of help says why.
fn left_out(_: &mut Session, args: &Args<'_>, _: &mut dyn Write) -> Outcome {
    Err(Failure::Usage(format!("{}: {}", args.command.name, args.command.help.to_lowercase())))
}

fn quit(session: &mut Session, args: &Args<'_>, _out: &mut dyn Write) -> Outcome {
    args.options("", 0, 0)?;
    session.quit();
    Ok(())
}
