//! The rooms of the library are layers: a room imports only rooms below it. This test reads every source file under
//! `src/lib`, with comments, strings and test modules aside, and lists each path that leads upwards.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The rooms from the ground up. Rooms of one row may use each other.
const LAYERS: &[&[&str]] = &[
    &["units", "error", "env", "progress"],
    &["device"],
    &["image"],
    &["format"],
    &["volume"],
    &["journal"],
    &["alloc"],
    &["file", "source"],
    &["trace"],
    &["namei"],
    &["recover"],
    &["batch", "extract"],
    &["check"],
    &["mkfs", "populate"],
    &["script"],
    &["inspect"],
    &["shell"],
    &["cli"],
    &["testing"],
];

/// Pairs that the order would allow and the design does not: bytes on disk know nothing of where they are kept.
const FORBIDDEN: &[(&str, &str)] = &[("format", "device")];

fn rank(room: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&room))
}

/// Source code as words and punctuation; comments, strings and characters are gone.
fn tokens(source: &str) -> Vec<String> {
    let s: Vec<char> = source.chars().collect();
    let at = |i: usize| s.get(i).copied().unwrap_or('\0');
    let mut out = Vec::new();
    let mut i = 0;
    while i < s.len() {
        let c = s[i];
        if c == '/' && at(i + 1) == '/' {
            while i < s.len() && s[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            i = skip_block_comment(&s, i);
        } else if c == '"' {
            i = skip_string(&s, i);
        } else if let Some(end) = skip_raw_string(&s, i) {
            i = end;
        } else if c == '\'' {
            // A character ends with a quote one or (escaped) several characters on; a lifetime does not.
            i = if at(i + 1) == '\\' {
                (i + 3..s.len()).find(|&j| s[j] == '\'').map_or(s.len(), |j| j + 1)
            } else if at(i + 2) == '\'' {
                i + 3
            } else {
                i + 1
            };
        } else if c.is_alphanumeric() || c == '_' {
            let end = (i..s.len()).find(|&j| !(s[j].is_alphanumeric() || s[j] == '_')).unwrap_or(s.len());
            out.push(s[i..end].iter().collect());
            i = end;
        } else if c == ':' && at(i + 1) == ':' {
            out.push("::".into());
            i += 2;
        } else {
            if !c.is_whitespace() {
                out.push(c.to_string());
            }
            i += 1;
        }
    }
    out
}

fn skip_block_comment(s: &[char], mut i: usize) -> usize {
    let mut depth = 0;
    while i < s.len() {
        match (s[i], s.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn skip_string(s: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < s.len() && s[i] != '"' {
        i += if s[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// The end of a raw string that begins at `i`; `None` where none does.
fn skip_raw_string(s: &[char], i: usize) -> Option<usize> {
    let mut j = i + usize::from(s[i] == 'b' || s[i] == 'c');
    if s.get(j) != Some(&'r') || i > 0 && (s[i - 1].is_alphanumeric() || s[i - 1] == '_') {
        return None;
    }
    j += 1;
    let hashes = s[j..].iter().take_while(|&&c| c == '#').count();
    j += hashes;
    if s.get(j) != Some(&'"') {
        return None;
    }
    j += 1;
    while j < s.len() {
        if s[j] == '"' && s[j + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes {
            return Some(j + 1 + hashes);
        }
        j += 1;
    }
    Some(s.len())
}

/// The tokens without `#[cfg(test)] mod … { … }`: tests may use whatever helps them.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let marker = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut out = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let starts = tokens[i..].iter().take(marker.len()).eq(marker.iter());
        let body = (i..tokens.len()).find(|&j| tokens[j] == "{" || tokens[j] == ";");
        match body {
            Some(open) if starts && tokens[i..open].iter().any(|t| t == "mod") => {
                let mut depth = 0;
                i = open;
                while i < tokens.len() {
                    match tokens[i].as_str() {
                        "{" => depth += 1,
                        "}" => depth -= 1,
                        _ => {}
                    }
                    i += 1;
                    if depth == 0 {
                        break;
                    }
                }
            }
            _ => {
                out.push(tokens[i].clone());
                i += 1;
            }
        }
    }
    out
}

/// The names that follow a path's prefix at `i`: one, or several in braces.
fn heads(tokens: &[String], i: usize) -> Vec<String> {
    let Some(first) = tokens.get(i) else { return Vec::new() };
    if first != "{" {
        return vec![first.clone()];
    }
    let mut found = Vec::new();
    let (mut depth, mut fresh) = (0, false);
    for t in &tokens[i..] {
        match t.as_str() {
            "{" => (depth, fresh) = (depth + 1, depth == 0),
            "}" => depth -= 1,
            "," if depth == 1 => fresh = true,
            _ if fresh && depth == 1 => {
                found.push(t.clone());
                fresh = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

/// The names at the crate's root that a file uses. `depth` is how many modules deep the file is: 1 for `env.rs` and
/// `device/mod.rs`, 2 for `device/file.rs`.
fn imports(source: &str, depth: usize) -> Vec<String> {
    let tokens = without_tests(&tokens(source));
    let mut found = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let is_path = |j: usize| tokens.get(j).is_some_and(|t| t == "::");
        if token == "crate" && is_path(i + 1) {
            found.extend(heads(&tokens, i + 2));
        }
        let chained = i >= 2 && tokens[i - 1] == "::" && tokens[i - 2] == "super";
        if token == "super" && !chained {
            let supers = (0..).take_while(|n| tokens.get(i + 2 * n).is_some_and(|t| t == "super")).take(64).count();
            if supers >= depth && is_path(i + 2 * supers - 1) {
                found.extend(heads(&tokens, i + 2 * supers));
            }
        }
    }
    found
}

/// What is wrong with the imports of a file in `room`, one line each.
fn violations(room: &str, depth: usize, source: &str) -> Vec<String> {
    let Some(own) = rank(room) else {
        return vec![format!("{room}: a room that the table of layers does not know")];
    };
    let mut found: Vec<String> = imports(source, depth)
        .iter()
        .filter(|name| name.as_str() != room)
        .filter(|name| rank(name).is_some_and(|other| other > own) || FORBIDDEN.contains(&(room, name.as_str())))
        .map(|name| format!("{room} uses {name}"))
        .collect();
    found.sort();
    found.dedup();
    found
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn rooms_import_only_rooms_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    files.sort();
    assert!(files.len() > 20, "the sources were not found");
    let mut report = String::new();
    for file in &files {
        let parts: Vec<&str> = file.strip_prefix(&root).unwrap().iter().map(|p| p.to_str().unwrap()).collect();
        let (stem, room) = (parts[parts.len() - 1].trim_end_matches(".rs"), parts[0].trim_end_matches(".rs"));
        // lib.rs names all rooms; files of tests alone may use what they like.
        if room == "lib" || stem.ends_with("tests") || parts.iter().any(|p| p.ends_with("tests")) {
            continue;
        }
        let depth = parts.len() - usize::from(stem == "mod");
        for line in violations(room, depth, &std::fs::read_to_string(file).unwrap()) {
            writeln!(report, "  {}: {line}", parts.join("/")).unwrap();
        }
    }
    assert!(report.is_empty(), "imports that lead upwards:\n{report}");
}

#[test]
fn bad_imports_are_found_in_every_form() {
    for (room, depth, source, want) in [
        ("volume", 2, "use crate::check::Problem;", vec!["volume uses check"]),
        (
            "device",
            2,
            "use crate::{error::Error, volume::{self, check}, format as f};",
            vec!["device uses format", "device uses volume"],
        ),
        ("format", 1, "use crate::device::BlockDevice;", vec!["format uses device"]),
        (
            "journal",
            2,
            "fn f() { crate::alloc::run(); let x: Vec<crate::file::F>; }",
            vec!["journal uses alloc", "journal uses file"],
        ),
        ("device", 1, "use super::volume::Volume;", vec!["device uses volume"]),
        ("device", 2, "use super::super::volume::Volume;", vec!["device uses volume"]),
        ("error", 1, "fn f<'a>(c: char) { c == '\"'; } use crate::device::X; // \"", vec!["error uses device"]),
        ("attic", 1, "", vec!["attic: a room that the table of layers does not know"]),
        ("units", 1, "#[cfg(test)] mod t { use crate::cli::X; } use crate::shell::Y;", vec!["units uses shell"]),
    ] {
        assert_eq!(violations(room, depth, source), want, "{source}");
    }
}

#[test]
fn good_imports_pass() {
    for (room, depth, source) in [
        ("volume", 2, "use crate::device::X; use crate::{Error, format::Y}; use super::Z; use self::check::A;"),
        ("device", 2, "use super::check; mod volume { use super::format; }"),
        ("device", 1, "/* use crate::volume::X; /* nested */ */ // crate::check\nconst S: &str = \"crate::cli\";"),
        ("device", 1, "const S: &str = r#\"use crate::cli; \" \"#; const B: &[u8] = br\"crate::cli\";"),
        ("device", 1, "#[cfg(test)]\nmod tests { use crate::volume::V; fn f() { if true {} } }"),
        ("error", 1, "use crate::units::Ino; use crate::env::Clock;"),
        ("mkfs", 2, "use crate::populate::P; use crate::volume::V;"),
    ] {
        assert_eq!(violations(room, depth, source), Vec::<String>::new(), "{source}");
    }
}
