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
