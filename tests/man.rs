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

/// `man --warnings` and `mandoc -Tlint` have nothing to say but matters of taste.
#[test]
fn every_page_renders_without_a_warning() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("man");
    let pages: Vec<PathBuf> =
        std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()).collect();
    assert!(pages.len() >= 6, "{pages:?}");
    for page in &pages {
        let man = Command::new("man")
            .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
            .arg(page)
            .env("MANROFFSEQ", "")
            .output();
        match man {
            Ok(out) => {
                assert!(out.status.success(), "{}", page.display());
                let said = String::from_utf8_lossy(&out.stderr).into_owned();
                assert!(said.is_empty(), "man: {}: {said}", page.display());
            }
            Err(e) => eprintln!("skipped: man: {e}"),
        }
        match Command::new("mandoc").args(["-Tlint", "-Wwarning"]).arg(page).output() {
            Ok(out) => {
                let said = String::from_utf8_lossy(&out.stdout).into_owned();
                assert!(said.is_empty(), "mandoc: {said}");
            }
            Err(e) => eprintln!("skipped: mandoc: {e}"),
        }
    }
}

/// The overview names every program and every exit code.
#[test]
fn the_overview_is_whole() {
    let page = std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("man/ext4kit.7")).unwrap();
    for (name, _) in BINARIES {
        assert!(page.contains(&format!(".BR {name} (1)")), "{name}");
    }
    for (code, meaning) in ext4kit::cli::Exit::TABLE {
        assert!(page.contains(&format!(".TP\n{}\n{meaning}\n", code as u8)), "{meaning}");
    }
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
