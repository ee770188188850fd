//! Links the programs statically where the host can: one file that runs on any Linux, and that starts in two thirds of the
//! time, most of which for a small edit is the loading of shared libraries.
//!
//! Cargo has no setting for this that leaves procedural macros alone and the programs where everybody looks for them
//! (`target/release`), so the linker of the programs, and of nothing else, is told: it is to make a static executable at a
//! fixed place (moving itself would cost as much as opening an image), and finds the names of the shared libraries that the
//! standard library asks for in a directory of ours, where each is a script that names the archives instead. Where an archive is missing (some distributions
//! keep them in a package of their own), for another target, or with `EXT4KIT_DYNAMIC` set, nothing is done.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Shared libraries by the name that the linker is asked for, and the archives that stand in for them.
const INSTEAD: [(&str, &[&str]); 3] = [
    ("libgcc_s.so", &["libgcc_eh.a", "libgcc.a", "libc.a"]),
    ("libc.so", &["libc.a", "libgcc_eh.a", "libgcc.a"]),
    ("libm.so", &["libm.a"]),
];

/// What else a static executable begins with.
const START: [&str; 2] = ["crt1.o", "crtbeginT.o"];

fn main() {
    for name in ["EXT4KIT_DYNAMIC", "RUSTC_LINKER"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    let wanted = env::var_os("EXT4KIT_DYNAMIC").is_none();
    if let (true, Some(out)) = (wanted && is_native_glibc(), env::var_os("OUT_DIR"))
        && let Some(directory) = scripts(Path::new(&out))
    {
        println!("cargo::rustc-link-arg-bins=-no-pie");
        println!("cargo::rustc-link-arg-bins=-static");
        println!("cargo::rustc-link-arg-bins=-L{}", directory.display());
    }
}

/// Whether the target is the host, with the GNU C library, and not linked statically already.
fn is_native_glibc() -> bool {
    let is = |name: &str, what: &str| env::var(name).is_ok_and(|v| v == what);
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && env::var_os("HOST") == env::var_os("TARGET")
        && !features.split(',').any(|f| f == "crt-static")
}

/// The directory with the scripts; nothing where the linker lacks a file that it would need.
fn scripts(out: &Path) -> Option<PathBuf> {
    let linker = env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    let has = |file: &str| {
        let found = Command::new(&linker).arg(format!("-print-file-name={file}")).output().ok()?;
        // The bare name comes back where there is no such file.
        let path = String::from_utf8(found.stdout).ok()?;
        (Path::new(path.trim()).is_absolute()).then_some(())
    };
    let archives = INSTEAD.iter().flat_map(|(_, archives)| *archives);
    archives.chain(&START).try_for_each(|file| has(file))?;
    let directory = out.join("static");
    fs::create_dir_all(&directory).ok()?;
    for (name, archives) in INSTEAD {
        fs::write(directory.join(name), format!("GROUP ( {} )\n", archives.join(" "))).ok()?;
    }
    Some(directory)
}
