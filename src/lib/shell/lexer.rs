//! Command lines into words.

use super::{Failure, Outcome};

/// Split a line at spaces and tabs. `"…"` keeps them in a word, and `""` inside stands for `"`. No other character is
/// special: names in an image hold what they like.
///
/// # Errors
/// [`Failure::Usage`] for a quote that is not closed.
pub fn split(line: &[u8]) -> Outcome<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quoted = false;
    let mut bytes = line.iter().copied().peekable();
    while let Some(b) = bytes.next() {
        match b {
            b'"' if quoted && bytes.peek() == Some(&b'"') => {
                bytes.next();
                word.get_or_insert_default().push(b'"');
            }
            b'"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            b' ' | b'\t' | b'\r' | b'\n' if !quoted => words.extend(word.take()),
            b => word.get_or_insert_default().push(b),
        }
    }
    if quoted {
        return Err(Failure::Usage("a quote (\") is not closed".into()));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        split(line.as_bytes()).unwrap().into_iter().map(|w| String::from_utf8(w).unwrap()).collect()
    }

    #[test]
    fn words_and_quotes() {
        assert_eq!(words("  stat\t<12> "), ["stat", "<12>"]);
        assert_eq!(words(r#"stat "a b" c"d e"f"#), ["stat", "a b", "cd ef"]);
        assert_eq!(words(r#"stat "say ""hi""" """#), ["stat", r#"say "hi""#, ""]);
        assert_eq!(words(r"stat a\b 'c d'"), ["stat", r"a\b", "'c", "d'"]);
        assert!(words("   ").is_empty());
        assert!(split(b"stat \"a").is_err());
        assert_eq!(split(b"ls \xff").unwrap()[1], b"\xff");
    }
}
