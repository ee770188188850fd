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
            return Ok(out);
        }
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        other => return Err(Failure::Usage(format!("--generate {other}: {KINDS} is needed"))),
    };
    clap_complete::generate(shell, &mut command, tool.name, &mut out);
    Ok(out)
}

/// The man page. The date stays out: the page depends on the flags alone.
fn man(tool: Tool, command: clap::Command, out: &mut Vec<u8>) -> Result<(), Failure> {
    let name = tool.name;
    let usage = command.clone().render_usage().to_string();
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
}
