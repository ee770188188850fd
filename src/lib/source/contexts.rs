//! Security contexts of SELinux for the files of a source, from a list in the language of file_contexts(5), and owners by name from
//! the lists of passwd(5) and group(5).
//!
//! A line is `EXPRESSION [TYPE] CONTEXT`. The expression is held against the whole path, `/` for the root. Of the lines that match,
//! one without special characters counts before the others, and the last before those above it. `<<none>>` is no context. The
//! attribute `security.selinux` that a source brings is replaced where a line matches.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use regex_lite::Regex;

use super::tree::Tree;
use super::{Reader, Source, Xattrs};
use crate::error::{Error, Result};
use crate::format::inode::FileType;
use crate::progress::Progress;

/// The attribute that holds the context, with a NUL at its end.
const NAME: &[u8] = b"security.selinux";
/// Characters that stand for others than themselves.
const SPECIAL: &[u8] = b".^$?*+|[({";

/// Which file gets which context.
#[derive(Debug, Default)]
pub struct FileContexts {
    /// Those that count first come last.
    lines: Vec<Line>,
    /// The root's, before all others.
    root: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Line {
    /// What a path begins with if it matches.
    stem: Vec<u8>,
    /// `None` where the stem is all of it.
    rest: Option<Regex>,
    kind: Option<FileType>,
    /// Empty for no context.
    context: Vec<u8>,
}

impl FileContexts {
    /// The lines of a list.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the number of a line that is not understood.
    pub fn parse(text: &str) -> Result<Self> {
        let (mut lines, mut exact) = (Vec::new(), Vec::new());
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parsed = Line::parse(line).map_err(|allowed| Error::InvalidArgument {
                name: "line of the list of contexts",
                value: format!("{} ({line})", n + 1),
                allowed,
            })?;
            if parsed.rest.is_none() { exact.push(parsed) } else { lines.push(parsed) }
        }
        lines.extend(exact);
        Ok(Self { lines, root: None })
    }

    /// The root gets this context, whatever the lines say.
    #[must_use]
    pub fn with_root(mut self, context: &str) -> Self {
        self.root = Some([context.as_bytes(), b"\0"].concat());
        self
    }

    /// The value of the attribute for the file at `path` (below the root, without a leading slash); `None` where no line matches,
    /// an empty one where it shall have none.
    fn of(&self, path: &[u8], kind: Option<FileType>) -> Option<&[u8]> {
        if let (Some(root), true) = (&self.root, path.is_empty()) {
            return Some(root);
        }
        let path = [b"/", path].concat();
        // Bytes as characters of the same number: names need not be UTF-8.
        let mut text = None;
        let line = self.lines.iter().rev().find(|line| {
            let kind_fits = line.kind.is_none() || line.kind == kind;
            kind_fits
                && path.starts_with(&line.stem)
                && match &line.rest {
                    None => path.len() == line.stem.len(),
                    Some(regex) => regex.is_match(text.get_or_insert_with(|| latin(&path))),
                }
        });
        line.map(|l| l.context.as_slice())
    }
}

fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

impl Line {
    fn parse(line: &str) -> std::result::Result<Self, &'static str> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (pattern, kind, context) = match words.as_slice() {
            [pattern, context] => (*pattern, None, *context),
            [pattern, kind, context] => (*pattern, Some(*kind), *context),
            _ => return Err("EXPRESSION [TYPE] CONTEXT"),
        };
        let kind = kind.map(|k| match k {
            "--" => Ok(FileType::Regular),
            "-d" => Ok(FileType::Directory),
            "-l" => Ok(FileType::Symlink),
            "-c" => Ok(FileType::CharDevice),
            "-b" => Ok(FileType::BlockDevice),
            "-p" => Ok(FileType::Fifo),
            "-s" => Ok(FileType::Socket),
            _ => Err("one of the types -- -d -l -c -b -p -s"),
        });
        let (stem, whole) = stem(pattern.as_bytes());
        let rest = if whole {
            None
        } else {
            let text = format!("(?s)^(?:{})$", latin(pattern.as_bytes()));
            Some(Regex::new(&text).map_err(|_| "a regular expression")?)
        };
        let context = if context == "<<none>>" { Vec::new() } else { [context.as_bytes(), b"\0"].concat() };
        Ok(Self { stem, rest, kind: kind.transpose()?, context })
    }
}

/// What everything that a pattern matches begins with, and whether that is all of the pattern.
fn stem(pattern: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    // An alternative at the top has a beginning of its own.
    if pattern.contains(&b'|') && !pattern.contains(&b'(') {
        return (out, false);
    }
    let mut at = 0;
    while let Some(c) = pattern.get(at) {
        let (literal, len) = match c {
            b'\\' => match pattern.get(at + 1) {
                Some(c) if !c.is_ascii_alphanumeric() => (*c, 2),
                _ => return (out, false),
            },
            c if SPECIAL.contains(c) => {
                // What is before it may be there any number of times, even none.
                if matches!(c, b'?' | b'*' | b'{') {
                    out.pop();
                }
                // An alternative may follow the group.
                if top_level_alternative(pattern) {
                    out.clear();
                }
                return (out, false);
            }
            c => (*c, 1),
        };
        out.push(literal);
        at += len;
    }
    (out, true)
}

/// Whether there is a `|` outside of all groups.
fn top_level_alternative(pattern: &[u8]) -> bool {
    let (mut depth, mut escaped) = (0i32, false);
    for c in pattern {
        match c {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'|' if depth <= 0 => return true,
            _ => {}
        }
    }
    false
}

/// A source whose files have the contexts of a list.
pub struct Labelled<S> {
    inner: S,
    contexts: FileContexts,
}

impl<S> std::fmt::Debug for Labelled<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Labelled").field("contexts", &self.contexts).finish_non_exhaustive()
    }
}

impl<S: Source> Labelled<S> {
    /// The files of `inner`, with contexts.
    pub const fn new(inner: S, contexts: FileContexts) -> Self {
        Self { inner, contexts }
    }
}

impl<S: Source> Source for Labelled<S> {
    fn list(&self, threads: usize, progress: &dyn Progress) -> Result<Tree> {
        self.inner.list(threads, progress)
    }

    fn reader<'a>(&'a self, tree: &'a Tree) -> Result<Box<dyn Reader + 'a>> {
        Ok(Box::new(Labeller { inner: self.inner.reader(tree)?, contexts: &self.contexts, tree, current: 0 }))
    }
}

struct Labeller<'a> {
    inner: Box<dyn Reader + 'a>,
    contexts: &'a FileContexts,
    tree: &'a Tree,
    current: u32,
}

impl Labeller<'_> {
    fn label(&self, id: u32, mut attrs: Xattrs) -> Xattrs {
        let kind = self.tree.node(id).map(super::tree::Node::file_type);
        if let Some(context) = self.contexts.of(&self.tree.path(id), kind) {
            attrs.retain(|(name, _)| name != NAME);
            if !context.is_empty() {
                let at = attrs.partition_point(|(name, _)| name.as_slice() < NAME);
                attrs.insert(at, (NAME.to_vec(), context.to_vec()));
            }
        }
        attrs
    }
}

impl Reader for Labeller<'_> {
    fn open(&mut self, node: u32) -> Result<()> {
        self.current = node;
        self.inner.open(node)
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read(offset, buf)
    }

    fn host_file(&self) -> Option<BorrowedFd<'_>> {
        self.inner.host_file()
    }

    fn host_range(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.inner.host_range()
    }

    fn xattrs(&mut self) -> Result<Xattrs> {
        let found = self.inner.xattrs()?;
        Ok(self.label(self.current, found))
    }

    fn attributes(&mut self, node: u32) -> Result<Xattrs> {
        let found = self.inner.attributes(node)?;
        Ok(self.label(node, found))
    }

    fn close(&mut self) -> Result<()> {
        self.inner.close()
    }

    fn finish(&mut self) -> Result<()> {
        self.inner.finish()
    }
}

/// Numbers of users and groups by their names.
#[derive(Clone, Debug, Default)]
pub struct OwnerNames {
    users: HashMap<Vec<u8>, u32>,
    groups: HashMap<Vec<u8>, u32>,
}

impl OwnerNames {
    /// From the texts of passwd(5) and group(5); lines that are not like theirs are passed over.
    pub fn parse(passwd: &[u8], group: &[u8]) -> Self {
        let entries = |text: &[u8]| {
            let lines = text.split(|b| *b == b'\n').filter_map(|line| {
                let mut fields = line.split(|b| *b == b':');
                let name = fields.next().filter(|n| !n.is_empty())?;
                let id = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
                Some((name.to_vec(), id))
            });
            let mut map = HashMap::new();
            for (name, id) in lines {
                map.entry(name).or_insert(id);
            }
            map
        };
        Self { users: entries(passwd), groups: entries(group) }
    }

    pub(super) fn user(&self, name: &[u8]) -> Option<u32> {
        self.users.get(name).copied()
    }

    pub(super) fn group(&self, name: &[u8]) -> Option<u32> {
        self.groups.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_and_plain_paths_before_all() {
        let text = "
# a comment
/.*                  u:object_r:all:s0
/bin(/.*)?           u:object_r:bin:s0
/etc/passwd          u:object_r:passwd:s0
/etc/.*\t--\tu:object_r:etc:s0
/dev/[^/]*   -c      u:object_r:dev:s0
/lib\\.so             u:object_r:lib:s0
/proc                <<none>>
/(a|b)/x|/c/y        u:object_r:either:s0
/opt/vendors?/.+     u:object_r:opt:s0
";
        let c = FileContexts::parse(text).unwrap();
        let file = Some(FileType::Regular);
        let of = |path: &str, kind| {
            let name = |v: &[u8]| v.get(11..v.len().saturating_sub(4)).map(|v| String::from_utf8_lossy(v).into_owned());
            c.of(path.as_bytes(), kind).map(|v| name(v).unwrap_or_default())
        };
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(of("", Some(FileType::Directory)), some("all"));
        assert_eq!(of("bin", Some(FileType::Directory)), some("bin"));
        assert_eq!(of("bin/sh", file), some("bin"));
        assert_eq!(of("binary", file), some("all"));
        assert_eq!(of("etc/passwd", file), some("passwd"));
        assert_eq!(of("etc/shadow", file), some("etc"));
        assert_eq!(of("etc/ssl", Some(FileType::Directory)), some("all"));
        assert_eq!(of("dev/null", Some(FileType::CharDevice)), some("dev"));
        assert_eq!(of("lib.so", file), some("lib"));
        assert_eq!(of("libxso", file), some("all"));
        assert_eq!(of("proc", Some(FileType::Directory)), some(""));
        assert_eq!(of("b/x", file), some("either"));
        assert_eq!(of("c/y", file), some("either"));
        assert_eq!(of("opt/vendor/x", file), some("opt"));
        assert_eq!(c.of(b"\xff\n", file).map(<[u8]>::len), Some(18));
        assert!(FileContexts::parse("/bin u:r:c:s0").unwrap().of(b"x", file).is_none());
        for bad in ["/x", "/x -z c", "/( c", "a b c d"] {
            assert!(FileContexts::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_have_numbers() {
        let names = OwnerNames::parse(b"root:x:0:0::/:/bin/sh\nann:x:1000:100::/:\nbad\n:x:5:\n", b"wheel:x:10:ann\n");
        assert_eq!((names.user(b"ann"), names.group(b"wheel"), names.user(b"bob")), (Some(1000), Some(10), None));
    }
}
