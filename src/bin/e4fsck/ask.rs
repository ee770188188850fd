//! Questions on the terminal.

use std::io::BufRead;

use ext4kit::check::{Ask, Finding};

/// Asks on the terminal.
#[derive(Default)]
pub(crate) struct Asker {
    all: bool,
}

impl Asker {
    pub(crate) fn ask(&mut self, finding: &Finding) -> bool {
        if self.all {
            return true;
        }
        let mut line = String::new();
        loop {
            eprint!(
                "{}: {}. {}? (yes, no, all) ",
                finding.problem.id(),
                finding.message(),
                question(finding.problem.row().ask)
            );
            line.clear();
            // Without an answer nothing is changed.
            if std::io::stdin().lock().read_line(&mut line).is_ok_and(|n| n == 0) {
                return false;
            }
            match line.trim().to_ascii_lowercase().as_str() {
                "y" | "yes" => return true,
                "n" | "no" => return false,
                "a" | "all" => {
                    self.all = true;
                    return true;
                }
                _ => {}
            }
        }
    }
}

const fn question(ask: Ask) -> &'static str {
    match ask {
        Ask::Nothing => "Go on",
        Ask::Fix => "Fix it",
        Ask::Clear => "Clear it",
        Ask::ClearInode => "Clear the inode",
        Ask::ClearIndex => "Clear the index",
        Ask::ClearFlag => "Clear the flag",
        Ask::Relocate => "Put it elsewhere",
        Ask::Allocate => "Allocate a block",
        Ask::Connect => "Connect it to lost+found",
        Ask::Salvage => "Save what can be saved",
        Ask::Truncate => "Truncate it",
        Ask::Abort => "Stop here",
        Ask::Clone => "Make copies",
        Ask::Recreate => "Make it anew",
        Ask::Rename => "Rename it",
    }
}
