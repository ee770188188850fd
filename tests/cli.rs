//! What all binaries do alike: help, version, usage errors, JSON errors, pipes that close, no terminal.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use std::process::{Command, Output, Stdio};

struct Binary {
    name: &'static str,
    path: &'static str,
    usage: i32,
    damaged: i32,
}

/// The binaries that are built.
fn binaries() -> Vec<Binary> {
    let all = [
        ("e4mkfs", option_env!("CARGO_BIN_EXE_e4mkfs"), 2, 3),
        ("e4cp", option_env!("CARGO_BIN_EXE_e4cp"), 2, 3),
        ("e4fsck", option_env!("CARGO_BIN_EXE_e4fsck"), 16, 8),
        ("e4es", option_env!("CARGO_BIN_EXE_e4es"), 2, 3),
        ("e4sh", option_env!("CARGO_BIN_EXE_e4sh"), 2, 3),
    ];
    let mut found = Vec::new();
    for (name, path, usage, damaged) in all {
        match path {
            Some(path) => found.push(Binary { name, path, usage, damaged }),
            None => eprintln!("skipped: {name} does not exist yet"),
        }
    }
    found
}

impl Binary {
    /// Run with arguments, nothing on standard input and an empty environment (no HOME, no TERM, no locale).
    fn run(&self, args: &[&str]) -> Output {
        Command::new(self.path).args(args).env_clear().stdin(Stdio::null()).output().unwrap()
    }

    /// Arguments that look into `image`.
    fn reading<'a>(&self, image: &'a str, root: &'a str) -> Vec<&'a str> {
        match self.name {
            "e4cp" => vec!["--discard", root],
            "e4fsck" => vec!["-n", image],
            "e4es" => vec![image, "/"],
            "e4sh" => vec!["-R", "ls", image],
            _ => Vec::new(),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_and_version() {
    for b in binaries() {
        let out = b.run(&["--version"]);
        assert_eq!(text(&out.stdout), format!("{} {}\n", b.name, env!("CARGO_PKG_VERSION")));
        let out = b.run(&["--help"]);
        assert!(out.status.success(), "{}", b.name);
        assert!(text(&out.stdout).contains("Exit codes:"), "{}", b.name);
        assert!(!out.stdout.contains(&0x1b), "{}: colours with no terminal", b.name);
    }
}

#[test]
fn usage_errors_have_their_code_and_name_the_tool() {
    for b in binaries() {
        let out = b.run(&["--no-such-flag"]);
        assert_eq!(out.status.code(), Some(b.usage), "{}", b.name);
        assert!(text(&out.stderr).starts_with(&format!("{}: error: ", b.name)), "{}", text(&out.stderr));
        let out = b.run(&["--json", "--no-such-flag"]);
        assert_eq!(out.status.code(), Some(b.usage), "{}", b.name);
        let error: serde_json::Value = serde_json::from_slice(&out.stderr).unwrap();
        assert_eq!(error["error"]["kind"], "usage", "{}", b.name);
    }
}

#[test]
fn what_is_no_filesystem_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("img");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let (image, missing) = (image.to_str().unwrap(), dir.path().join("none"));
    for b in binaries() {
        let root = format!("{image}:/");
        let args = b.reading(image, &root);
        if args.is_empty() {
            continue;
        }
        let out = b.run(&args);
        let told = text(&out.stdout) + &text(&out.stderr);
        let code = out.status.code().unwrap();
        // fsck's codes are bits; another may say that what was found is not repaired.
        assert!(code == b.damaged || b.name == "e4fsck" && code & b.damaged != 0, "{}: {code}: {told}", b.name);
        assert!(told.contains("superblock") && !told.contains("panicked"), "{}: {told}", b.name);
        let missing = missing.to_str().unwrap();
        let root = format!("{missing}:/");
        let out = b.run(&b.reading(missing, &root));
        assert!(!out.status.success(), "{}", b.name);
        assert!(text(&out.stderr).contains(missing), "{}: {}", b.name, text(&out.stderr));
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_program_silently() {
    for b in binaries() {
        // A pipe whose reading end is closed already.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = Command::new(b.path).arg("--help").stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(text(&out.stderr), "", "{}", b.name);
        assert_eq!(out.status.code(), Some(141), "{}", b.name);
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    for b in binaries() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let out = Command::new(b.path).args(["--generate", "man"]).stdout(full).output().unwrap();
        assert!(!out.status.success(), "{}", b.name);
        assert!(text(&out.stderr).contains("cannot write the output"), "{}: {}", b.name, text(&out.stderr));
    }
}
