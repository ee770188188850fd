//! Completion of a line that is being typed: names of commands, paths inside the image, paths of the host where a command
//! takes one; and what a command expects next.

use super::session::Session;
use super::table::{commands, find};
use crate::format::dirent::is_dot_or_dotdot;
use crate::format::inode::FileType;
use crate::volume::Owner;

/// Most candidates that are offered.
const MAX_CANDIDATES: usize = 1000;
/// Commands whose first operand is a path of the host.
const FROM_HOST: [&str; 4] = ["write", "put", "untar", "lcd"];

/// What the end of a line may become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// Byte of the line that the candidates replace it from.
    pub start: usize,
    /// The candidates, in order.
    pub candidates: Vec<String>,
}

/// Byte where the last word of a line begins, the quote before it included; whether a quote is open; words before it.
fn last_word(line: &str) -> (usize, bool, usize) {
    let (mut start, mut quoted, mut words, mut inside) = (line.len(), false, 0usize, false);
    for (i, c) in line.char_indices() {
        match c {
            ' ' | '\t' if !quoted => {
                words = words.saturating_add(usize::from(inside));
                inside = false;
            }
            _ => {
                if !inside {
                    start = i;
                }
                inside = true;
                quoted ^= c == '"';
            }
        }
    }
    (if inside { start } else { line.len() }, quoted, words)
}

/// A word as it is typed: in quotes where it has spaces or quotes.
fn typed(word: &str, directory: bool) -> String {
    if !word.contains([' ', '\t', '"']) {
        return word.to_owned();
    }
    // The quote stays open where the path goes on.
    format!("\"{}{}", word.replace('"', "\"\""), if directory { "" } else { "\"" })
}

/// Complete `line`, which ends at the cursor.
pub fn complete(session: &Session, line: &str) -> Completion {
    let (start, quoted, before) = last_word(line);
    let word = line.get(start..).unwrap_or_default();
    let bare = word.replacen('"', "", usize::from(word.starts_with('"'))).replace("\"\"", "\"");
    let bare =
        if quoted || !word.starts_with('"') { bare } else { return Completion { start, candidates: Vec::new() } };
    let candidates = if before == 0 {
        names(&bare)
    } else {
        let name = line.split_whitespace().next().unwrap_or_default();
        let command = find(name).map_or(name, |c| c.name);
        if matches!(command, "help") {
            names(&bare)
        } else if before == 1 && FROM_HOST.contains(&command) {
            host_paths(session, &bare)
        } else {
            image_paths(session, &bare)
        }
    };
    Completion { start, candidates }
}

/// Names and aliases of commands.
fn names(prefix: &str) -> Vec<String> {
    let all = commands().flat_map(|c| std::iter::once(&c.name).chain(c.aliases));
    let mut found: Vec<String> = all.filter(|n| n.starts_with(prefix)).map(|n| (*n).to_owned()).collect();
    found.sort();
    found
}

/// Paths inside the image; directories end with a slash.
fn image_paths(session: &Session, prefix: &str) -> Vec<String> {
    let (dir, start) = prefix.rfind('/').map_or(("", prefix), |i| prefix.split_at(i.saturating_add(1)));
    let place = if dir.is_empty() { "." } else { dir };
    let Ok(ino) = session.directory(place.as_bytes()) else { return Vec::new() };
    let Ok(volume) = session.volume() else { return Vec::new() };
    let Ok(inode) = volume.raw_inode(ino) else { return Vec::new() };
    let Ok(entries) = volume.read_dir(Owner { ino, inode: &inode }) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.into_iter().filter(|e| !is_dot_or_dotdot(&e.name)).take(MAX_CANDIDATES.saturating_mul(100)) {
        // What is no text cannot be typed.
        let Ok(name) = String::from_utf8(entry.name) else { continue };
        if !name.starts_with(start) || name.contains(char::is_control) || found.len() >= MAX_CANDIDATES {
            continue;
        }
        let is_dir = volume.raw_inode(entry.ino).is_ok_and(|i| i.file_type() == Some(FileType::Directory));
        found.push(typed(&format!("{dir}{name}{}", if is_dir { "/" } else { "" }), is_dir));
    }
    found.sort();
    found
}

/// Paths of the host.
fn host_paths(session: &Session, prefix: &str) -> Vec<String> {
    let (dir, start) = prefix.rfind('/').map_or(("", prefix), |i| prefix.split_at(i.saturating_add(1)));
    let place = session.host_path(if dir.is_empty() { b"." } else { dir.as_bytes() });
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten().take(MAX_CANDIDATES) {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with(start) && (!start.is_empty() || !name.starts_with('.')) {
            let is_dir = entry.path().is_dir();
            found.push(typed(&format!("{dir}{name}{}", if is_dir { "/" } else { "" }), is_dir));
        }
    }
    found.sort();
    found
}

/// What a command expects, where only its name and a space have been typed.
pub fn expected(line: &str) -> Option<String> {
    let name = line.strip_suffix(' ')?.trim_start();
    let command = find(name)?;
    (!command.args.is_empty()).then(|| command.args.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_is_found_through_quotes() {
        assert_eq!(last_word(""), (0, false, 0));
        assert_eq!(last_word("st"), (0, false, 0));
        assert_eq!(last_word("stat "), (5, false, 1));
        assert_eq!(last_word("stat /a b"), (8, false, 2));
        assert_eq!(last_word("stat \"/a b"), (5, true, 1));
        assert_eq!(last_word("stat \"/a b\" x"), (12, false, 2));
    }

    #[test]
    fn names_and_expectations() {
        assert!(names("sta").iter().eq(["stat", "stats"]));
        assert!(names("zzz").is_empty());
        assert_eq!(expected("stat ").as_deref(), Some("file"));
        assert_eq!(expected("stat x"), None);
        assert_eq!(expected("nothing "), None);
        assert_eq!(typed("a b/", true), "\"a b/");
        assert_eq!(typed("say \"hi\"", false), "\"say \"\"hi\"\"\"");
    }
}
