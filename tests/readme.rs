//! The README's tables say what the code says.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use std::collections::BTreeSet;

use ext4kit::cli::{Exit, FsckExit};

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The lines of a section, from its heading to the next one.
fn section(readme: &str, heading: &str) -> Vec<String> {
    let lines = readme.lines().skip_while(|l| *l != heading).skip(1).take_while(|l| !l.starts_with("## "));
    lines.map(str::to_owned).collect()
}

#[test]
fn every_exit_code_is_listed_with_its_meaning() {
    let section = section(&file("README.md"), "## Exit codes");
    let rows: Vec<&String> = section.iter().filter(|l| l.starts_with("| ") && !l.starts_with("| code")).collect();
    let want: Vec<String> = Exit::TABLE.iter().map(|(code, text)| format!("| {} | {text} |", *code as u8)).collect();
    assert_eq!(rows, want.iter().collect::<Vec<_>>());
    let text = section.join(" ");
    for (code, _) in FsckExit::TABLE {
        assert!(text.contains(&format!(" {code} ")), "fsck's {code} is missing");
    }
}

/// Commands of the walk through with what they write.
fn walk(section: &[String]) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in section {
        match (line.as_str(), inside) {
            ("```console", _) => inside = true,
            ("```", _) => inside = false,
            (line, true) => match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push((command.to_owned(), String::new())),
                (None, Some((_, out))) => out.extend([line.trim_end(), "\n"]),
                (None, None) => {}
            },
            _ => {}
        }
    }
    steps
}

#[test]
fn the_walk_through_comes_out_as_it_is_shown() {
    let steps = walk(&section(&file("README.md"), "## A walk through"));
    assert!(steps.len() > 10, "{steps:?}");
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_e4sh")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let dir = tempfile::tempdir().unwrap();
    for (command, want) in steps {
        let mut shell = std::process::Command::new("sh");
        let all = format!("exec 2>&1; {command}");
        let out =
            shell.args(["-c", &all]).current_dir(dir.path()).env("PATH", &path).env_remove("HOME").output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let got: String = text.lines().flat_map(|l| [l.trim_end(), "\n"]).collect();
        assert_eq!(got.trim_end(), want.trim_end(), "$ {command}");
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = file("Cargo.toml");
    let names = |heading: &str| -> BTreeSet<String> {
        let lines = manifest.lines().skip_while(|l| *l != heading).skip(1).take_while(|l| !l.starts_with('['));
        lines.filter_map(|l| l.split_once(" = ")).map(|(name, _)| name.to_owned()).collect()
    };
    let section = section(&file("README.md"), "## Dependencies");
    let quoted = |lines: &mut dyn Iterator<Item = &str>| -> BTreeSet<String> {
        lines.flat_map(|l| l.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
    };
    let first_cells = section.iter().filter(|l| l.starts_with("| `")).filter_map(|l| l.split('|').nth(1));
    assert_eq!(quoted(&mut first_cells.into_iter()), names("[dependencies]"));
    let tests = section.iter().filter(|l| l.starts_with("For tests:")).map(String::as_str);
    assert_eq!(quoted(&mut tests.into_iter()), names("[dev-dependencies]"));
}
