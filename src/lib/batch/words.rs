//! A script's lines into words, as a shell would quote them.

/// Split a line at blanks. `'…'` keeps everything, `"…"` everything but `\"` and `\\`; outside of quotes `\` keeps the next
/// character, and `#` at the start of a word begins a comment. `None` where a quote is not closed.
pub(super) fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = line.iter().copied();
    while let Some(b) = bytes.next() {
        match b {
            b' ' | b'\t' | b'\r' | b'\n' => words.extend(word.take()),
            b'#' if word.is_none() => break,
            b'\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next()? {
                        b'\'' => break,
                        b => word.push(b),
                    }
                }
            }
            b'"' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next()? {
                        b'"' => break,
                        b'\\' => match bytes.next()? {
                            b @ (b'"' | b'\\') => word.push(b),
                            b => word.extend([b'\\', b]),
                        },
                        b => word.push(b),
                    }
                }
            }
            b'\\' => word.get_or_insert_default().push(bytes.next()?),
            b => word.get_or_insert_default().push(b),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_quotes_and_comments() {
        let words = |line: &str| {
            split(line.as_bytes()).map(|w| w.into_iter().map(|w| String::from_utf8(w).unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(words("  put a\tb # c").unwrap(), ["put", "a", "b"]);
        assert_eq!(words(r#"'a b'c "d \"e\" \x" f\ g ''"#).unwrap(), ["a bc", r#"d "e" \x"#, "f g", ""]);
        assert_eq!(words("a#b \\#c").unwrap(), ["a#b", "#c"]);
        assert_eq!(words("# all").unwrap(), Vec::<String>::new());
        for open in ["'a", "\"a", "a\\", "\"a\\"] {
            assert_eq!(words(open), None, "{open}");
        }
    }
}
