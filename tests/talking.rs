//! `e4sh` with a person: a scripted tmux session types, completes, goes back in history, interrupts and resizes.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::tool;

/// What a busy machine is given for an answer.
const PATIENCE: Duration = Duration::from_mins(2);

/// A terminal that is typed into.
struct Tmux {
    program: PathBuf,
    socket: PathBuf,
}

impl Tmux {
    /// Start `command` in a terminal of 80 columns; a server of its own, which ends with the value.
    fn new(dir: &Path, command: &str) -> Option<Self> {
        let tmux = Self { program: tool("tmux")?, socket: dir.join("socket") };
        let started = tmux.run(&["-f", "/dev/null", "new-session", "-d", "-s", "s", "-x", "80", "-y", "40", command]);
        if started.is_none() {
            eprintln!("skipped: tmux does not start");
        }
        started.map(|_| tmux)
    }

    fn run(&self, args: &[&str]) -> Option<String> {
        let out = Command::new(&self.program)
            .arg("-S")
            .arg(&self.socket)
            .args(args)
            .env("LC_ALL", "C.UTF-8")
            .output()
            .ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn keys(&self, keys: &[&str]) {
        let mut args = vec!["send-keys", "-t", "s"];
        args.extend(keys);
        self.run(&args).unwrap();
    }

    /// Wait until an empty line can be typed into.
    fn waits(&self) {
        let start = Instant::now();
        loop {
            let screen = self.run(&["capture-pane", "-p", "-t", "s", "-S", "-200"]).unwrap_or_default();
            if screen.trim_end().ends_with("\ne4sh:") || screen.trim() == "e4sh:" {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "there is no prompt:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Wait until the screen shows `text`.
    fn shows(&self, text: &str) -> String {
        let start = Instant::now();
        loop {
            let screen = self.run(&["capture-pane", "-p", "-t", "s", "-S", "-200"]).unwrap_or_default();
            if screen.contains(text) {
                return screen;
            }
            assert!(start.elapsed() < PATIENCE, "{text:?} is not on the screen:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[test]
fn a_person_is_helped() {
    let dir = tempfile::tempdir().unwrap();
    let (source, image) = (dir.path().join("tree"), dir.path().join("image"));
    std::fs::create_dir_all(source.join("some directory")).unwrap();
    std::fs::write(source.join("some directory/unusual-name"), "found\n").unwrap();
    // More than a terminal shows in a moment.
    std::fs::write(source.join("large"), "0123456789abcdef\n".repeat(4_000_000)).unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_e4mkfs")).args(["-q", "-d"]).args([&source, &image]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let start = format!(
        "env HOME={} XDG_STATE_HOME= DEBUGFS_PAGER='sed s/^/PAGED:/' {} {}",
        dir.path().display(),
        env!("CARGO_BIN_EXE_e4sh"),
        image.display()
    );
    let Some(t) = Tmux::new(dir.path(), &start) else { return };
    t.shows("e4sh:");
    // A name of a command, then a path with a space in it, in two steps.
    t.keys(&["show_sup", "Tab", " -h", "Enter"]);
    // More than the terminal has rows goes through the pager; what fits does not.
    t.shows("PAGED:Filesystem magic number");
    t.waits();
    t.keys(&["tree /", "Enter"]);
    assert!(!t.shows("└── some directory").contains("PAGED:/\n"));
    t.waits();
    t.keys(&["cat /some", "Tab"]);
    t.shows("cat \"/some directory/");
    t.keys(&["unu", "Tab"]);
    t.shows("unusual-name\"");
    t.keys(&["Enter"]);
    t.shows("found");
    // What is typed is kept.
    t.waits();
    t.keys(&["pwd", "Enter"]);
    t.shows("[root]");
    t.waits();
    t.keys(&["Up", "Up", "Enter"]);
    let start = Instant::now();
    while t.shows("e4sh:").matches("\nfound").count() < 2 {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(50));
    }
    // What a command expects.
    t.waits();
    t.keys(&["ncheck", "Space"]);
    t.shows("inode");
    t.keys(&["C-c"]);
    t.waits();
    // A mistake is told, and the conversation goes on.
    t.keys(&["stat /nope", "Enter"]);
    t.shows("no such file");
    // Another width, and tables that fit it.
    t.run(&["resize-window", "-t", "s", "-x", "60", "-y", "4"]).unwrap();
    t.waits();
    t.keys(&["tree /", "Enter"]);
    t.shows("PAGED:/\n");
    t.run(&["resize-window", "-t", "s", "-x", "60", "-y", "30"]).unwrap();
    // Ctrl-C ends the command, not the shell.
    t.waits();
    t.keys(&["cat /large", "Enter"]);
    t.shows("0123456789abcdef\n0123456789abcdef");
    t.keys(&["C-c"]);
    t.shows("interrupted");
    t.waits();
    t.keys(&["imap /large", "Enter"]);
    t.shows("part of block group");
    t.waits();
    t.keys(&["quit", "Enter"]);
    let start = Instant::now();
    let history = dir.path().join(".local/state/ext4kit/e4sh_history");
    while !history.exists() {
        assert!(start.elapsed() < PATIENCE, "no history was kept");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn nobody_is_forced_to_have_a_pager() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let made = Command::new(env!("CARGO_BIN_EXE_e4mkfs")).arg("-q").arg(&image).arg("8M").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for (n, none) in ["DEBUGFS_PAGER=__none__ PAGER=false", "NO_PAGER=1 PAGER=false", "PAGER="].iter().enumerate() {
        let own = dir.path().join(n.to_string());
        std::fs::create_dir(&own).unwrap();
        let (home, program) = (own.display(), env!("CARGO_BIN_EXE_e4sh"));
        let start = format!("env -u DEBUGFS_PAGER HOME={home} XDG_STATE_HOME= {none} {program} {}", image.display());
        let Some(t) = Tmux::new(&own, &start) else { return };
        t.shows("e4sh:");
        t.keys(&["stats -h", "Enter"]);
        t.shows("Filesystem magic number");
        t.waits();
        t.keys(&["quit", "Enter"]);
    }
}
