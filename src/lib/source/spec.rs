//! A list of files as a source: a text, one file per line.
//!
//! ```text
//! # type path mode uid:gid key=value…
//! d /etc 0755 0:0
//! f /etc/hostname 0644 0:0 text=box\n
//! f /bin/tool 0755 0:0 source=build/tool xattr.user.origin=here
//! l /bin/sh 0777 0:0 target=tool
//! h /bin/alias target=/bin/tool
//! c /dev/console 0600 0:5 device=5:1
//! p /run/fifo 0600 0:0 mtime=1700000000.5
//! r /usr/share/doc
//! ```
//!
//! Types: `d` directory, `f` file, `l` symbolic link, `h` hard link, `c` and `b` devices, `p` fifo, `s` socket, `r` something
//! of the sources below that is to be gone. `source=` is a file of the host, relative to the list. Words are separated by
//! spaces; `\s`, `\t`, `\n`, `\\` and `\xHH` stand for a space, tab, newline, backslash and any byte.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::forest::{Body, Forest, Item, NO_SET};
use super::tree::{Attributes, NodeId, Tree};
use super::{Reader, Source, Xattrs};
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::format::inode::FileType;
use crate::progress::Progress;

/// Bytes of a list at most.
const MAX_LEN: u64 = 256 << 20;
/// Begins the name of what stands for something that is gone.
const WHITEOUT: &[u8] = b".wh.";

/// A list of files.
#[derive(Debug)]
pub struct SpecFile {
    name: PathBuf,
    text: Vec<u8>,
    time: Timestamp,
    listed: OnceLock<Listed>,
}

#[derive(Debug)]
struct Listed {
    contents: Vec<Content>,
    sets: Vec<Xattrs>,
    set_of: Vec<u32>,
}

/// What a file holds.
#[derive(Debug)]
enum Content {
    Text(Vec<u8>),
    Host { path: PathBuf, size: u64, changed: (i64, i64) },
}

/// A line, taken apart.
struct Line<'a> {
    words: Vec<Vec<u8>>,
    spec: &'a SpecFile,
}

/// What is being put together.
struct Build {
    forest: Forest,
    contents: Vec<Content>,
    sets: Vec<Xattrs>,
}

impl SpecFile {
    /// The list in the file at `path`. Files without a time of their own, and directories that it does not name, get `time`.
    ///
    /// # Errors
    /// [`Error::Host`] where it cannot be read.
    pub fn open(path: impl AsRef<Path>, time: Timestamp) -> Result<Self> {
        let path = path.as_ref();
        let fail = |e| Error::host("read", path, e);
        let file = File::open(path).map_err(fail)?;
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_LEN), &mut text).map_err(fail)?;
        Ok(Self::new(path, text, time))
    }

    /// A list as text; `source=` is relative to the directory of `name`.
    pub fn new(name: impl AsRef<Path>, text: impl Into<Vec<u8>>, time: Timestamp) -> Self {
        Self { name: name.as_ref().to_path_buf(), text: text.into(), time, listed: OnceLock::new() }
    }

    fn host_path(&self, value: &[u8]) -> PathBuf {
        let dir = self.name.parent().unwrap_or(Path::new(""));
        dir.join(std::ffi::OsStr::from_bytes(value))
    }
}

impl Source for SpecFile {
    fn list(&self, _threads: usize, progress: &dyn Progress) -> Result<Tree> {
        let implied = Attributes { mode: 0o40755, uid: 0, gid: 0, mtime: self.time, stamp: 0, size: 0, device: (0, 0) };
        let mut build = Build { forest: Forest::new(implied), contents: Vec::new(), sets: Vec::new() };
        for (number, line) in (1u64..).zip(self.text.split(|b| *b == b'\n')) {
            progress.check()?;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let words = line.split(|b| matches!(b, b' ' | b'\t')).filter(|w| !w.is_empty());
            let words: Vec<&[u8]> = words.take_while(|w| !w.starts_with(b"#")).collect();
            if words.is_empty() {
                continue;
            }
            let done = words
                .into_iter()
                .map(unescape)
                .collect::<Result<Vec<_>>>()
                .and_then(|words| Line { words, spec: self }.add(&mut build));
            done.map_err(|e| {
                let path = self.name.as_os_str().as_bytes().to_vec();
                Error::OnPath { path, source: Box::new(Error::Script { line: number, source: Box::new(e) }) }
            })?;
        }
        let flat = build.forest.flatten()?;
        let set_of = flat.item_of.iter().map(|i| build.forest.item(*i).map_or(NO_SET, |i| i.set)).collect();
        let _ = self.listed.set(Listed { contents: build.contents, sets: build.sets, set_of });
        Ok(flat.tree)
    }

    fn reader<'a>(&'a self, tree: &'a Tree) -> Result<Box<dyn Reader + 'a>> {
        let changed = || Error::HostChanged { path: self.name.clone() };
        let listed = self.listed.get().ok_or_else(changed)?;
        Ok(Box::new(SpecReader { spec: self, listed, tree, node: 0, file: None }))
    }
}

fn invalid(name: &'static str, value: &[u8], allowed: &'static str) -> Error {
    Error::InvalidArgument { name, value: String::from_utf8_lossy(value).into_owned(), allowed }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    str::from_utf8(text).ok()?.parse().ok()
}

fn pair(text: &[u8]) -> Option<(u32, u32)> {
    let at = text.iter().position(|b| *b == b':')?;
    Some((number(&text[..at])?, number(&text[at + 1..])?))
}

/// Seconds, and a decimal fraction of them.
fn time(text: &[u8]) -> Option<Timestamp> {
    let text = str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nsec = format!("{fraction:0<9}").parse().ok()?;
    whole.parse().ok().filter(|s: &i64| *s >= 0 || nsec == 0).map(|sec| Timestamp { sec, nsec })
}

/// A word without its escapes.
fn unescape(word: &[u8]) -> Result<Vec<u8>> {
    let bad = || invalid("escape", word, "\\s, \\t, \\n, \\\\ or \\xHH");
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let (kind, tail) = rest.split_first().ok_or_else(bad)?;
        rest = tail;
        out.push(match kind {
            b's' => b' ',
            b't' => b'\t',
            b'n' => b'\n',
            b'\\' => b'\\',
            b'x' => {
                let hex = rest.get(..2).and_then(|h| str::from_utf8(h).ok()).ok_or_else(bad)?;
                rest = &rest[2..];
                u8::from_str_radix(hex, 16).map_err(|_| bad())?
            }
            _ => return Err(bad()),
        });
    }
    Ok(out)
}

impl Line<'_> {
    fn word(&self, at: usize, what: &'static str) -> Result<&[u8]> {
        self.words.get(at).map(Vec::as_slice).ok_or(Error::InvalidArgument {
            name: "line",
            value: String::from_utf8_lossy(&self.words.join(&b' ')).into_owned(),
            allowed: what,
        })
    }

    /// The value of a key, which is used up.
    fn take(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let at = self.words.iter().position(|w| w.strip_prefix(key).is_some_and(|r| r.starts_with(b"=")))?;
        Some(self.words.remove(at).split_off(key.len() + 1))
    }

    fn need(&mut self, key: &'static [u8], what: &'static str) -> Result<Vec<u8>> {
        match self.take(key) {
            Some(value) => Ok(value),
            None => self.word(usize::MAX, what).map(<[u8]>::to_vec),
        }
    }

    /// Nothing may be left over.
    fn end(&self, from: usize) -> Result<()> {
        match self.words.get(from) {
            None => Ok(()),
            Some(w) => Err(invalid(
                "word",
                w,
                "source=, text=, target=, device=, mtime= or xattr.NAME=, where they make sense",
            )),
        }
    }

    fn add(mut self, build: &mut Build) -> Result<()> {
        let kind = self.word(0, "a type first")?.to_vec();
        let path = self.word(1, "a path after the type")?.to_vec();
        let about = |flaw| Error::InvalidArgument {
            name: "entry",
            value: format!("{}: {flaw}", String::from_utf8_lossy(&path)),
            allowed: "a path inside the tree",
        };
        match kind.as_slice() {
            b"h" => {
                let target = self.need(b"target", "target= for a hard link")?;
                self.end(2)?;
                let found = build.forest.find(&target).map_err(about)?;
                let file = found.filter(|id| !matches!(build.forest.item(*id).map(|i| &i.body), Some(Body::Dir(_))));
                let id = file.ok_or_else(|| invalid("target", &target, "a file that an earlier line names"))?;
                let (dir, name) = build.forest.place(&path).map_err(about)?;
                build.forest.link(dir, name, id);
                return Ok(());
            }
            b"r" => {
                self.end(2)?;
                let cut = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
                let path = [&path[..cut], WHITEOUT, &path[cut..]].concat();
                let mode = FileType::Regular.mode_bits();
                let item = Item::new(self.attributes_of(mode, (0, 0)), Body::Special);
                build.forest.put(&path, item).map_err(about)?;
                return Ok(());
            }
            _ => {}
        }
        let item = self.item(&kind, build)?;
        build.forest.put(&path, item).map_err(about)?;
        Ok(())
    }

    const fn attributes_of(&self, mode: u16, (uid, gid): (u32, u32)) -> Attributes {
        Attributes { mode, uid, gid, mtime: self.spec.time, stamp: 0, size: 0, device: (0, 0) }
    }

    /// The file that the line stands for.
    fn item(&mut self, kind: &[u8], build: &mut Build) -> Result<Item> {
        let mode = self.word(2, "a mode after the path")?;
        let bits = str::from_utf8(mode).ok().and_then(|m| u16::from_str_radix(m, 8).ok()).filter(|m| *m <= 0o7777);
        let bits = bits.ok_or_else(|| invalid("mode", mode, "an octal number of at most 7777"))?;
        let owner = self.word(3, "an owner after the mode")?;
        let owner = pair(owner).ok_or_else(|| invalid("owner", owner, "UID:GID, both numbers"))?;
        let mut attributes = self.attributes_of(bits, owner);
        let given = match self.take(b"mtime") {
            Some(t) => Some(time(&t).ok_or_else(|| invalid("mtime", &t, "seconds, and a fraction of up to 9 digits"))?),
            None => None,
        };
        let (file_type, body) = match kind {
            b"d" => (FileType::Directory, Body::Dir(std::collections::BTreeMap::new())),
            b"f" => {
                self.content(&mut attributes, build)?;
                (FileType::Regular, Body::File)
            }
            b"l" => {
                let target = self.need(b"target", "target= for a symbolic link")?;
                if target.is_empty() || target.contains(&0) {
                    return Err(invalid("target", &target, "a path"));
                }
                (FileType::Symlink, Body::Symlink(target.into()))
            }
            b"c" | b"b" => {
                let device = self.need(b"device", "device= for a device")?;
                let numbers = pair(&device).filter(|(major, minor)| *major < 1 << 12 && *minor < 1 << 20);
                attributes.device = numbers.ok_or_else(|| invalid("device", &device, "MAJOR:MINOR"))?;
                (if kind == b"c" { FileType::CharDevice } else { FileType::BlockDevice }, Body::Special)
            }
            b"p" => (FileType::Fifo, Body::Special),
            b"s" => (FileType::Socket, Body::Special),
            _ => return Err(invalid("type", kind, "d, f, l, h, c, b, p, s or r")),
        };
        attributes.mode |= file_type.mode_bits();
        attributes.mtime = given.unwrap_or(attributes.mtime);
        let mut item = Item::new(attributes, body);
        item.set = self.xattrs(build);
        self.end(4)?;
        Ok(item)
    }

    /// The content of a regular file: from the host, from the line, or nothing.
    fn content(&mut self, attributes: &mut Attributes, build: &mut Build) -> Result<()> {
        let content = if let Some(source) = self.take(b"source") {
            let path = self.spec.host_path(&source);
            let meta = std::fs::metadata(&path).map_err(|e| Error::host("stat", &path, e))?;
            if !meta.is_file() {
                return Err(invalid("source", &source, "a regular file"));
            }
            attributes.mtime = Timestamp { sec: meta.mtime(), nsec: meta.mtime_nsec() as u32 };
            attributes.size = meta.size();
            Content::Host { path, size: meta.size(), changed: (meta.ctime(), meta.ctime_nsec()) }
        } else {
            let text = self.take(b"text").unwrap_or_default();
            attributes.size = text.len() as u64;
            Content::Text(text)
        };
        attributes.stamp = build.contents.len() as u64;
        build.contents.push(content);
        Ok(())
    }

    fn xattrs(&mut self, build: &mut Build) -> u32 {
        const KEY: &[u8] = b"xattr.";
        let mut found: Xattrs = Vec::new();
        self.words.retain(|w| {
            let (Some(rest), Some(at)) = (w.strip_prefix(KEY), w.iter().position(|b| *b == b'=')) else { return true };
            let at = at - KEY.len();
            found.push((rest[..at].to_vec(), rest[at + 1..].to_vec()));
            false
        });
        if found.is_empty() {
            return NO_SET;
        }
        found.sort();
        found.dedup_by(|a, b| a.0 == b.0);
        build.sets.push(found);
        build.sets.len() as u32 - 1
    }
}

/// Reads files of a [`SpecFile`].
struct SpecReader<'a> {
    spec: &'a SpecFile,
    listed: &'a Listed,
    tree: &'a Tree,
    node: NodeId,
    file: Option<File>,
}

impl SpecReader<'_> {
    fn content(&self) -> Option<&Content> {
        let node = self.tree.node(self.node)?;
        let regular = node.file_type() == FileType::Regular;
        self.listed.contents.get(node.stamp as usize).filter(|_| regular)
    }
}

impl Reader for SpecReader<'_> {
    fn open(&mut self, node: u32) -> Result<()> {
        self.node = node;
        self.file = match self.content() {
            Some(Content::Host { path, .. }) => Some(File::open(path).map_err(|e| Error::host("open", path, e))?),
            _ => None,
        };
        Ok(())
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match (self.content(), &self.file) {
            (Some(Content::Host { path, .. }), Some(file)) => {
                file.read_exact_at(buf, offset).map_err(|e| match e.kind() {
                    std::io::ErrorKind::UnexpectedEof => Error::HostChanged { path: path.clone() },
                    _ => Error::host("read", path, e),
                })
            }
            (Some(Content::Text(text)), _) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let part = text.get(from..from.saturating_add(buf.len()));
                buf.copy_from_slice(part.ok_or(Error::HostChanged { path: self.spec.name.clone() })?);
                Ok(())
            }
            _ => Err(Error::HostChanged { path: self.spec.name.clone() }),
        }
    }

    fn xattrs(&mut self) -> Result<Xattrs> {
        let set = self.listed.set_of.get(self.node as usize).and_then(|s| self.listed.sets.get(*s as usize));
        Ok(set.cloned().unwrap_or_default())
    }

    fn attributes(&mut self, node: u32) -> Result<Xattrs> {
        self.node = node;
        self.file = None;
        self.xattrs()
    }

    fn close(&mut self) -> Result<()> {
        if let (Some(file), Some(Content::Host { path, size, changed })) = (&self.file, self.content()) {
            let meta = file.metadata().map_err(|e| Error::host("stat", path, e))?;
            if (meta.size(), meta.ctime(), meta.ctime_nsec()) != (*size, changed.0, changed.1) {
                return Err(Error::HostChanged { path: path.clone() });
            }
        }
        self.file = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn list(text: &str) -> Result<(SpecFile, Tree)> {
        let spec = SpecFile::new("list", text, Timestamp::from_secs(7));
        let tree = spec.list(1, &Silent)?;
        Ok((spec, tree))
    }

    #[test]
    fn every_type_of_line() {
        let text = "# a comment\n\
            d /etc 0750 1:2 xattr.user.b=2 xattr.user.a=1\n\
            f /etc/name 0644 0:0 text=box\\n # more\n\
            f /etc/a\\sb\\x21 0600 3:4 mtime=5.25\r\n\
            l /etc/link 0777 0:0 target=name\n\
            h /alias target=etc/name\n\
            c /dev/console 0600 0:5 device=5:1\n\
            p fifo 0600 0:0\n\
            r /usr/doc\n";
        let (spec, tree) = list(text).unwrap();
        let paths: Vec<_> = (0..tree.len() as u32).map(|i| String::from_utf8(tree.path(i)).unwrap()).collect();
        let want = ["", "alias", "fifo", "dev", "dev/console", "etc", "etc/a b!", "etc/link", "usr", "usr/.wh.doc"];
        assert_eq!(paths, want);
        let node = |i: u32| tree.node(i).unwrap();
        assert_eq!((node(1).links, node(1).size, node(1).mtime), (2, 4, (7, 0)));
        assert_eq!((node(5).mode, node(5).uid, node(5).gid), (0o40750, 1, 2));
        assert_eq!((node(6).mtime.0, node(6).mtime.1 >> 2), (5, 250_000_000));
        assert_eq!(tree.target(node(7)), b"name");
        let mut reader = spec.reader(&tree).unwrap();
        let mut buf = [0; 3];
        reader.open(1).unwrap();
        reader.read(1, &mut buf).unwrap();
        assert_eq!(&buf, b"ox\n");
        assert!(reader.read(2, &mut buf).is_err());
        let attributes: Vec<_> = reader.attributes(5).unwrap().into_iter().map(|a| a.1).collect();
        assert_eq!(attributes, [b"1", b"2"]);
    }

    #[test]
    fn mistakes_name_the_line() {
        for bad in [
            "x /a 0644 0:0",
            "f /a 0844 0:0",
            "f /a 0644 root",
            "f /a",
            "f",
            "l /a 0777 0:0",
            "c /a 0600 0:0",
            "c /a 0600 0:0 device=5000:1",
            "f /a 0644 0:0 colour=red",
            "d /a 0755 0:0 target=x",
            "f ../a 0644 0:0",
            "f /a\\q 0644 0:0",
            "h /a target=/none",
            "f /a 0644 0:0 source=/none/at/all",
            "f /a 0644 0:0 mtime=1.5.2",
        ] {
            let e = list(&format!("d / 0755 0:0\n{bad}\n")).unwrap_err().to_string();
            assert!(e.starts_with("list: line 2: "), "{bad}: {e}");
        }
    }
}
