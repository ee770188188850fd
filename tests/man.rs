//! `man/*.1` are what the binaries print with `--generate man`. After a change of flags:
//! `EXT4KIT_REGENERATE=1 cargo test --test man`.

use std::path::PathBuf;
use std::process::Command;

/// The binaries of this package, where they are built.
const BINARIES: [(&str, Option<&str>); 5] = [
    ("e4mkfs", option_env!("CARGO_BIN_EXE_e4mkfs")),
    ("e4cp", option_env!("CARGO_BIN_EXE_e4cp")),
    ("e4fsck", option_env!("CARGO_BIN_EXE_e4fsck")),
    ("e4es", option_env!("CARGO_BIN_EXE_e4es")),
    ("e4sh", option_env!("CARGO_BIN_EXE_e4sh")),
];

#[test]
fn man_pages_are_those_of_the_flags() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("man");
    let regenerate = std::env::var_os("EXT4KIT_REGENERATE").is_some();
    let mut stale = Vec::new();
    for (name, path) in BINARIES {
        let Some(path) = path else {
            eprintln!("skipped: {name} does not exist yet");
            continue;
        };
        let out = Command::new(path).args(["--generate", "man"]).output().unwrap();
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        let file = dir.join(format!("{name}.1"));
        if regenerate {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&file, &out.stdout).unwrap();
        } else if std::fs::read(&file).ok() != Some(out.stdout) {
            stale.push(name);
        }
    }
    assert!(stale.is_empty(), "man pages of {stale:?} are stale: EXT4KIT_REGENERATE=1 cargo test --test man");
}

#[test]
fn completions_know_the_flags() {
    for (name, path) in BINARIES {
        let Some(path) = path else { continue };
        for shell in ["bash", "zsh", "fish"] {
            let out = Command::new(path).args(["--generate", shell]).output().unwrap();
            let text = String::from_utf8(out.stdout).unwrap();
            assert!(out.status.success() && text.contains("help") && text.contains(name), "{name} {shell}");
        }
    }
}
