//! Man pages and completions, made from the same table as the parser and `--help`: `e4cp --generate man`.

use std::io::Write;

use super::{Failure, Tool, exit};
use crate::error::Result;

/// What can be generated.
const KINDS: &str = "man, bash, zsh or fish";

/// The value of `--generate`, where that is the first argument.
pub(super) fn requested() -> Option<String> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != "--generate" {
        return None;
    }
    Some(args.next().map(|kind| kind.display().to_string()).unwrap_or_default())
}

/// Print it.
pub(super) fn print(tool: Tool, command: clap::Command, kind: &str) -> Result<(), Failure> {
    let text = render(tool, command, kind)?;
    Ok(std::io::stdout().lock().write_all(&text)?)
}

fn render(tool: Tool, mut command: clap::Command, kind: &str) -> Result<Vec<u8>, Failure> {
    use clap_complete::Shell;
    let mut out = Vec::new();
    let shell = match kind {
        "man" => {
            man(tool, command, &mut out)?;
            return Ok(tidy(tool, &String::from_utf8_lossy(&out)).into_bytes());
        }
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        other => return Err(Failure::Usage(format!("--generate {other}: {KINDS} is needed"))),
    };
    clap_complete::generate(shell, &mut command, tool.name, &mut out);
    Ok(out)
}

/// When the pages were last looked through; the day on which they are made says nothing.
const DATE: &str = "2026-11-21";

/// A page as `mandoc -Tlint` likes it: a title with a date, and no break where a section ends or room is left anyway.
fn tidy(tool: Tool, page: &str) -> String {
    let mut text = format!(".TH {} 1 {DATE} \"ext4kit {}\"\n", tool.name.to_uppercase(), env!("CARGO_PKG_VERSION"));
    let is_room =
        |l: &str| l.is_empty() || [".S", ".ie", ".sp", ".PP", ".TP", ".RS", ".RE"].iter().any(|m| l.starts_with(m));
    let lines: Vec<&str> = page.lines().filter(|l| !l.starts_with(".TH ")).collect();
    let mut before = "";
    for (i, line) in lines.iter().enumerate() {
        let next = lines.get(i.saturating_add(1)).copied().unwrap_or(".SH");
        if *line != ".br" || !(is_room(next) || is_room(before)) {
            text.push_str(line);
            text.push('\n');
            before = line;
        }
    }
    text
}

/// The man page.
fn man(tool: Tool, command: clap::Command, out: &mut Vec<u8>) -> Result<(), Failure> {
    let name = tool.name;
    let usage = command.clone().render_usage().to_string();
    let subcommands = command.clone();
    let page = clap_mangen::Man::new(command.after_long_help(None)).title(name.to_uppercase()).section("1").date("");
    let page = page.manual("ext4kit");
    page.render_title(out)?;
    page.render_name_section(out)?;
    // The generator's own synopsis leaves the names of the values out.
    writeln!(out, ".SH SYNOPSIS")?;
    for line in usage.trim_start_matches("Usage:").lines().map(str::trim).filter(|l| !l.is_empty()) {
        writeln!(out, "\\fB{name}\\fR{}\n.br", line.strip_prefix(name).unwrap_or(line).replace('-', "\\-"))?;
    }
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    sections(name, &subcommands, out)?;
    writeln!(out, ".SH \"EXIT STATUS\"")?;
    for (code, meaning) in exit::rows(tool) {
        writeln!(out, ".TP\n{code}\n{meaning}")?;
    }
    writeln!(out, ".SH \"SEE ALSO\"")?;
    let others: Vec<String> =
        Tool::ALL.iter().filter(|other| other.name != name).map(|other| format!("\\fB{}\\fR(1)", other.name)).collect();
    writeln!(out, "{}", others.join(",\n"))?;
    Ok(())
}

/// One section per subcommand: what it is for, how it is called, its options, and what its help ends with.
fn sections(name: &str, command: &clap::Command, out: &mut Vec<u8>) -> Result<(), Failure> {
    let mut all = command.get_subcommands().filter(|s| !s.is_hide_set()).peekable();
    if all.peek().is_some() {
        writeln!(out, ".SH SUBCOMMANDS")?;
    }
    for sub in all {
        // The page says once how to ask for help.
        let sub = sub.clone().disable_help_flag(true).disable_version_flag(true).disable_help_subcommand(true);
        let usage = sub.clone().render_usage().to_string();
        writeln!(out, ".SS \"{}\"", escape(sub.get_name()))?;
        for line in usage.trim_start_matches("Usage:").lines().map(str::trim).filter(|l| !l.is_empty()) {
            let rest = line.strip_prefix(sub.get_name()).unwrap_or(line);
            writeln!(out, "\\fB{name} {}\\fR{}\n.br", escape(sub.get_name()), escape(rest))?;
        }
        if let Some(about) = sub.get_long_about().or_else(|| sub.get_about()) {
            paragraphs(&about.to_string(), out)?;
        }
        let mut options = Vec::new();
        clap_mangen::Man::new(sub.clone()).render_options_section(&mut options)?;
        let options = String::from_utf8_lossy(&options).into_owned();
        // The lines before the first entry are the heading of a page of its own.
        for line in options.lines().skip_while(|l| *l != ".TP") {
            writeln!(out, "{line}")?;
        }
        if let Some(after) = sub.get_after_long_help().or_else(|| sub.get_after_help()) {
            paragraphs(&after.to_string(), out)?;
        }
        sections(&format!("{name} {}", sub.get_name()), &sub, out)?;
    }
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

fn paragraphs(text: &str, out: &mut Vec<u8>) -> Result<(), Failure> {
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        // A dot at the beginning would be a request.
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        writeln!(out, ".PP\n{guard}{}", escape(line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_names_the_flags() {
        let command = || {
            let flag = clap::Arg::new("frobnicate").long("frobnicate").action(clap::ArgAction::SetTrue).help("Frob");
            super::super::command(Tool::COPY, clap::Command::new("x").about("About").arg(flag))
        };
        for kind in ["man", "bash", "zsh", "fish"] {
            let text = String::from_utf8(render(Tool::COPY, command(), kind).unwrap()).unwrap();
            assert!(text.contains("frobnicate"), "{kind}: {text}");
            assert!(text.contains("e4cp"), "{kind}");
            assert_eq!(text.contains(".TP\n141\nthe reader"), kind == "man");
        }
        assert!(matches!(render(Tool::COPY, command(), "pdf"), Err(Failure::Usage(_))));
    }

    #[test]
    fn subcommands_have_their_options() {
        let flag = |name: &'static str| clap::Arg::new(name).long(name).action(clap::ArgAction::SetTrue).help("Do it");
        let sub = clap::Command::new("run").about("Run it").arg(flag("dry-run")).after_long_help("One\n\n.two");
        let command = clap::Command::new("x").about("About").arg(flag("frob")).subcommand(sub);
        let command = super::super::command(Tool::EXTENT_STATUS, command);
        let text = String::from_utf8(render(Tool::EXTENT_STATUS, command, "man").unwrap()).unwrap();
        for want in [".SH SUBCOMMANDS\n.SS \"run\"\n\\fBe4es run\\fR", "Run it", "\\-\\-dry\\-run", ".PP\n\\&.two"] {
            assert!(text.contains(want), "{want}: {text}");
        }
        assert_eq!(text.matches("\\-\\-help").count(), 1, "{text}");
    }
}
