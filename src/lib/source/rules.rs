//! What to change of the files that a source lists: which are left out, whose they become, which permissions they lose.

use super::tree::Tree;
use crate::error::{Error, Result};
use crate::format::inode::FileType;

/// Patterns of paths that are left out, with all that is below them.
///
/// `*` stands for any characters but `/`, `**` for any at all, `?` for one. A pattern with a `/` is held against the
/// whole path below the root, one without against the name.
#[derive(Clone, Debug, Default)]
pub struct Exclude {
    patterns: Vec<Vec<u8>>,
}

impl Exclude {
    /// These patterns.
    pub fn new(patterns: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        Self { patterns: patterns.into_iter().map(|p| p.as_ref().to_vec()).collect() }
    }

    /// Whether nothing is left out.
    pub const fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether `path`, below the root and without a leading slash, is left out.
    pub fn matches(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or(path);
        self.patterns.iter().any(|p| {
            let p = p.strip_suffix(b"/").unwrap_or(p);
            if p.contains(&b'/') { matches(p.strip_prefix(b"/").unwrap_or(p), path) } else { matches(p, name) }
        })
    }
}

/// Whether a pattern covers all of `text`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on behind the last `*` and the last `**`, and with which character of the text.
    let mut near = None;
    let mut far: Option<(usize, usize)> = None;
    loop {
        match pattern.get(p) {
            Some(b'*') if pattern.get(p + 1) == Some(&b'*') => {
                p += 2;
                (near, far) = (None, Some((p, t)));
                continue;
            }
            Some(b'*') => {
                p += 1;
                near = Some((p, t));
                continue;
            }
            Some(c) if text.get(t).is_some_and(|x| x == c || *c == b'?' && *x != b'/') => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            None if t == text.len() => return true,
            _ => {}
        }
        // The star covers one character more.
        if let Some((after, from)) = near.filter(|n: &(usize, usize)| text.get(n.1).is_some_and(|c| *c != b'/')) {
            near = Some((after, from + 1));
            (p, t) = (after, from + 1);
        } else if let Some((after, from)) = far.filter(|f| f.1 < text.len()) {
            (near, far) = (None, Some((after, from + 1)));
            (p, t) = (after, from + 1);
        } else {
            return false;
        }
    }
}

/// Whose a file becomes: the first range that holds the owner (or group) counts.
#[derive(Clone, Debug, Default)]
pub struct OwnerMap {
    ranges: Vec<Range>,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    users: bool,
    groups: bool,
    from: u32,
    to: u32,
    count: u32,
}

impl OwnerMap {
    /// Add what `text` says: `[u:|g:|b:]FROM:TO[:COUNT]`, for users, groups or both.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for anything else.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let bad = || Error::InvalidArgument {
            name: "owner map",
            value: text.to_owned(),
            allowed: "[u:|g:|b:]FROM:TO[:COUNT], all numbers",
        };
        let (users, groups, rest) = match text.split_at_checked(2) {
            Some(("u:", rest)) => (true, false, rest),
            Some(("g:", rest)) => (false, true, rest),
            Some(("b:", rest)) => (true, true, rest),
            _ => (true, true, text),
        };
        let numbers: Option<Vec<u32>> = rest.split(':').map(|n| n.parse().ok()).collect();
        let (from, to, count) = match numbers.ok_or_else(bad)?.as_slice() {
            [from, to] => (*from, *to, 1),
            [from, to, count] => (*from, *to, *count),
            _ => return Err(bad()),
        };
        if from.checked_add(count).is_none() || to.checked_add(count).is_none() {
            return Err(bad());
        }
        self.ranges.push(Range { users, groups, from, to, count });
        Ok(())
    }

    fn map(&self, id: u32, wanted: fn(&Range) -> bool) -> u32 {
        let range = self.ranges.iter().find(|r| wanted(r) && (r.from..r.from + r.count).contains(&id));
        range.map_or(id, |r| r.to + (id - r.from))
    }
}

impl Tree {
    /// Everything belongs to this user and group.
    pub fn set_owner(&mut self, (uid, gid): (u32, u32)) {
        for n in &mut self.nodes {
            (n.uid, n.gid) = (uid, gid);
        }
    }

    /// Give every file its owner by the map; owners that it does not name stay.
    pub fn map_owners(&mut self, map: &OwnerMap) {
        for n in &mut self.nodes {
            n.uid = map.map(n.uid, |r| r.users);
            n.gid = map.map(n.gid, |r| r.groups);
        }
    }

    /// Give the root these permission bits.
    pub fn set_root_permissions(&mut self, bits: u16) {
        if let Some(root) = self.nodes.first_mut() {
            root.mode = root.mode & !0o7777 | bits & 0o7777;
        }
    }

    /// Take these permission bits from every file but symbolic links.
    pub fn clear_permissions(&mut self, bits: u16) {
        let symlink = Some(FileType::Symlink);
        for n in self.nodes.iter_mut().filter(|n| FileType::from_mode(n.mode) != symlink) {
            n.mode &= !(bits & 0o7777);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_names_and_paths() {
        for (pattern, path, want) in [
            ("*.o", "a/b/x.o", true),
            ("*.o", "x.oo", false),
            ("a*/x", "abc/x", true),
            ("a*/x", "abc/d/x", false),
            ("/a/**", "a/b/c", true),
            ("a/**/x", "a/b/c/x", true),
            ("/a", "b/a", false),
            ("/a", "a", true),
            ("a", "b/a", true),
            ("dir/", "x/dir", true),
            ("?a?", "bac", true),
            ("/x?y", "x/y", false),
            ("**", "a/b", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("/**/*.x", "a/b/c.x", true),
            ("/**/*.x", "a/b/c.y", false),
            ("a/*/c/**/d*", "a/b/c/x/y/dd", true),
            ("", "x", false),
        ] {
            assert_eq!(Exclude::new([pattern]).matches(path.as_bytes()), want, "{pattern} {path}");
        }
        assert!(!Exclude::default().matches(b"x"));
    }

    #[test]
    fn owners_are_mapped_by_ranges() {
        let mut map = OwnerMap::default();
        for text in ["u:1000:0", "g:100:5:10", "0:100000:1000"] {
            map.add(text).unwrap();
        }
        let user = |id| map.map(id, |r| r.users);
        let group = |id| map.map(id, |r| r.groups);
        assert_eq!((user(1000), user(0), user(999), user(1001)), (0, 100_000, 100_999, 1001));
        assert_eq!((group(1000), group(105), group(110)), (1000, 10, 100_110));
        for bad in ["", "1", "x:1:2", "1:2:3:4", "u:1", "4294967295:0:2", "-1:0"] {
            assert!(OwnerMap::default().add(bad).is_err(), "{bad}");
        }
    }
}
