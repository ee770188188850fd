//! Scripts: one command a line, carried out in order in the running transaction. Paths of the image are from its root,
//! those of the host from the current directory.

use std::path::{Path, PathBuf};

use super::args::{self, Args, wrong};
use super::{
    Action, CopyOptions, ModeChange, Origin, Pick, Report, Session, Target, WAY, Watch, copy_in, host_origin, join,
    words,
};
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::extract::Preserve;
use crate::format::inode::FileType;
use crate::namei::{Attributes, Change, What, split};
use crate::progress::Silent;
use crate::source::TarFile;
use crate::units::Ino;
use crate::volume::LastLink;

/// Most bytes of a script.
const MAX_SCRIPT: usize = 1 << 30;

/// One command.
#[derive(Clone, Debug)]
pub enum Command {
    /// Copy a file of the host, or a directory with all that is in it.
    Put {
        /// On the host.
        from: PathBuf,
        /// In the image: a name, or a directory to put it into.
        to: Vec<u8>,
        /// Go into directories.
        recursive: bool,
        /// How.
        options: Box<CopyOptions>,
    },
    /// Unpack a tar archive of the host, with all that it says.
    Untar {
        /// On the host.
        from: PathBuf,
        /// The directory in the image that its content goes to.
        to: Vec<u8>,
    },
    /// Remove names.
    Remove {
        /// Which.
        paths: Vec<Vec<u8>>,
        /// Directories too, with all that is in them.
        recursive: bool,
        /// It does not matter where one is not there.
        force: bool,
    },
    /// Remove empty directories.
    RemoveDir(Vec<Vec<u8>>),
    /// Make directories.
    MakeDir {
        /// Which.
        paths: Vec<Vec<u8>>,
        /// With all that is missing on the way; one that is there is left as it is.
        parents: bool,
        /// What to change in 0755.
        mode: Option<ModeChange>,
    },
    /// Another name for an object.
    Link {
        /// A name that it has.
        from: Vec<u8>,
        /// The new one.
        to: Vec<u8>,
    },
    /// Make a symbolic link.
    Symlink {
        /// What it says.
        target: Vec<u8>,
        /// Where it is.
        path: Vec<u8>,
        /// Replace what is there, unless it is a directory.
        force: bool,
    },
    /// Move a name.
    Move {
        /// From.
        from: Vec<u8>,
        /// To a name, or into a directory.
        to: Vec<u8>,
        /// Replace nothing.
        keep: bool,
    },
    /// Change attributes.
    Change {
        /// Of which paths.
        paths: Vec<Vec<u8>>,
        /// And of all that is below.
        recursive: bool,
        /// Of a symbolic link itself.
        no_follow: bool,
        /// What.
        what: Attribute,
    },
    /// Set an extended attribute, or remove it.
    Xattr {
        /// Of which paths.
        paths: Vec<Vec<u8>>,
        /// Its name, as the host has it.
        name: Vec<u8>,
        /// Its value.
        value: Option<Vec<u8>>,
        /// Of a symbolic link itself.
        no_follow: bool,
    },
    /// Give files a size.
    Truncate {
        /// Which.
        paths: Vec<Vec<u8>>,
        /// Bytes.
        size: u64,
        /// Make none that is not there.
        existing: bool,
    },
    /// Set modification and access time; a file that is not there is made.
    Touch {
        /// Which.
        paths: Vec<Vec<u8>>,
        /// When, if not now.
        time: Option<Timestamp>,
        /// Make none that is not there.
        existing: bool,
    },
    /// Make a device or a pipe.
    MakeNode {
        /// Where.
        path: Vec<u8>,
        /// What.
        what: What<'static>,
        /// What to change in 0644.
        mode: Option<ModeChange>,
    },
}

/// What [`Command::Change`] changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// Permissions.
    Mode(ModeChange),
    /// Owner and group.
    Owner(Option<u32>, Option<u32>),
    /// Project.
    Project(u32),
}

/// What a command looks like: its name, the letters of its options, and its usage.
const COMMANDS: &[(&str, &str, &str)] = &[
    ("put", "rapo:m:t:n", "put [-rapn] [-o UID:GID] [-m MODE] [-t TIME] HOST-FILE PATH"),
    ("untar", "", "untar HOST-FILE PATH"),
    ("rm", "rf", "rm [-rf] PATH..."),
    ("rmdir", "", "rmdir PATH..."),
    ("mkdir", "pm:", "mkdir [-p] [-m MODE] PATH..."),
    ("ln", "sf", "ln [-s] [-f] TARGET PATH"),
    ("symlink", "f", "symlink [-f] TARGET PATH"),
    ("mv", "n", "mv [-n] PATH PATH"),
    ("chmod", "R", "chmod [-R] MODE PATH..."),
    ("chown", "Rh", "chown [-Rh] UID[:GID] PATH..."),
    ("chproj", "R", "chproj [-R] PROJECT PATH..."),
    ("setfattr", "hn:v:x:", "setfattr [-h] -n NAME [-v VALUE] | -x NAME PATH..."),
    ("truncate", "cs:", "truncate [-c] -s SIZE PATH..."),
    ("touch", "cd:", "touch [-c] [-d TIME] PATH..."),
    ("mknod", "m:", "mknod [-m MODE] PATH b|c|p [MAJOR MINOR]"),
    ("mkfifo", "m:", "mkfifo [-m MODE] PATH"),
];

impl Command {
    /// Read a line; `None` for one that is empty or a comment.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`].
    pub fn parse(line: &[u8]) -> Result<Option<Self>> {
        let Some(words) = words::split(line) else { return Err(wrong("line", line, "quotes that are closed")) };
        if words.is_empty() { Ok(None) } else { Self::from_words(words).map(Some) }
    }

    /// A command by its words, the first of which is its name.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`].
    pub fn from_words(mut words: Vec<Vec<u8>>) -> Result<Self> {
        let name = if words.is_empty() { Vec::new() } else { words.remove(0) };
        let Some((name, known, usage)) = COMMANDS.iter().find(|c| c.0.as_bytes() == name) else {
            let allowed = "put, untar, rm, rmdir, mkdir, ln, symlink, mv, chmod, chown, chproj, setfattr, truncate, touch, mknod, mkfifo";
            return Err(wrong("command", &name, allowed));
        };
        let mut a = Args::sort(words, known, usage)?;
        let command = Self::read(name, &mut a, usage)?;
        a.end()?;
        Ok(command)
    }

    /// How a command is used.
    pub fn usage(name: &str) -> Option<&'static str> {
        COMMANDS.iter().find(|c| c.0 == name).map(|c| c.2)
    }

    /// Change the paths of the image that it names.
    pub fn for_each_path(&mut self, change: &mut dyn FnMut(&mut Vec<u8>)) {
        match self {
            Self::Put { to, .. } | Self::Untar { to, .. } => change(to),
            Self::Remove { paths, .. }
            | Self::RemoveDir(paths)
            | Self::MakeDir { paths, .. }
            | Self::Change { paths, .. }
            | Self::Xattr { paths, .. }
            | Self::Truncate { paths, .. }
            | Self::Touch { paths, .. } => paths.iter_mut().for_each(change),
            Self::Link { from, to } | Self::Move { from, to, .. } => {
                change(from);
                change(to);
            }
            Self::Symlink { path, .. } | Self::MakeNode { path, .. } => change(path),
        }
    }

    /// Change the path of the host that it names.
    pub fn for_host_path(&mut self, change: &mut dyn FnMut(&mut PathBuf)) {
        if let Self::Put { from, .. } | Self::Untar { from, .. } = self {
            change(from);
        }
    }

    fn read(name: &str, a: &mut Args, usage: &'static str) -> Result<Self> {
        let mode = a.parsed(b'm', args::mode)?;
        Ok(match name {
            "put" => Self::put(a, mode)?,
            "untar" => Self::Untar { from: args::host(&a.operand()?), to: a.operand()? },
            "rm" => Self::Remove { recursive: a.has(b'r'), force: a.has(b'f'), paths: a.rest()? },
            "rmdir" => Self::RemoveDir(a.rest()?),
            "mkdir" => Self::MakeDir { parents: a.has(b'p'), mode, paths: a.rest()? },
            "ln" if !a.has(b's') => Self::Link { from: a.operand()?, to: a.operand()? },
            "ln" | "symlink" => Self::Symlink { force: a.has(b'f'), target: a.operand()?, path: a.operand()? },
            "mv" => Self::Move { keep: a.has(b'n'), from: a.operand()?, to: a.operand()? },
            "chmod" => Self::change(a, |word| Ok(Attribute::Mode(args::mode(word)?)))?,
            "chown" => Self::change(a, |word| args::owner(word).map(|(u, g)| Attribute::Owner(u, g)))?,
            "chproj" => Self::change(a, |word| Ok(Attribute::Project(args::number(word)?)))?,
            "setfattr" => Self::xattr(a, usage)?,
            "truncate" => {
                let Some(size) = a.parsed(b's', args::size)? else { return Err(wrong("size", b"none", usage)) };
                Self::Truncate { size, existing: a.has(b'c'), paths: a.rest()? }
            }
            "touch" => Self::Touch { time: a.parsed(b'd', args::time)?, existing: a.has(b'c'), paths: a.rest()? },
            "mkfifo" => Self::MakeNode { path: a.operand()?, what: What::Fifo, mode },
            _ => Self::node(a, mode, usage)?,
        })
    }

    fn put(a: &mut Args, mode: Option<ModeChange>) -> Result<Self> {
        let preserve = match (a.has(b'a'), a.has(b'p')) {
            (true, _) => Preserve::ALL,
            (_, true) => Preserve::BASIC,
            _ => Preserve::default(),
        };
        let (uid, gid) = a.parsed(b'o', args::owner)?.unwrap_or_default();
        let mtime = a.parsed(b't', args::time)?;
        let options = CopyOptions { preserve, uid, gid, mode, mtime, keep: a.has(b'n'), ..CopyOptions::default() };
        let recursive = a.has(b'r') || a.has(b'a');
        Ok(Self::Put { recursive, options: Box::new(options), from: args::host(&a.operand()?), to: a.operand()? })
    }

    fn change(a: &mut Args, what: impl FnOnce(&[u8]) -> Result<Attribute>) -> Result<Self> {
        let what = what(&a.operand()?)?;
        Ok(Self::Change { what, recursive: a.has(b'R'), no_follow: a.has(b'h'), paths: a.rest()? })
    }

    fn xattr(a: &mut Args, usage: &'static str) -> Result<Self> {
        let (name, value) = match (a.value(b'n'), a.value(b'x')) {
            (Some(name), None) => (name.to_vec(), Some(a.value(b'v').unwrap_or_default().to_vec())),
            (None, Some(name)) if a.value(b'v').is_none() => (name.to_vec(), None),
            _ => return Err(wrong("options", b"", usage)),
        };
        Ok(Self::Xattr { name, value, no_follow: a.has(b'h'), paths: a.rest()? })
    }

    fn node(a: &mut Args, mode: Option<ModeChange>, usage: &'static str) -> Result<Self> {
        let path = a.operand()?;
        let kind = a.operand()?;
        let what = match &kind[..] {
            b"p" => What::Fifo,
            b"b" | b"c" | b"u" => {
                let (major, minor) = (args::number(&a.operand()?)?, args::number(&a.operand()?)?);
                What::Device { block: kind == b"b", major, minor }
            }
            _ => return Err(wrong("type", &kind, usage)),
        };
        Ok(Self::MakeNode { path, what, mode })
    }

    /// Carry it out.
    ///
    /// # Errors
    /// Those of the operations, with the path. The transaction may hold a part of it and must then be given up.
    pub fn run(&self, session: &mut Session, watch: &mut dyn Watch, report: &mut Report) -> Result<()> {
        let mut r = Runner { session, watch, report };
        match self {
            Self::Put { from, to, recursive, options } => r.put(from, to, *recursive, options),
            Self::Untar { from, to } => r.untar(from, to),
            Self::Remove { paths, recursive, force } => paths.iter().try_for_each(|p| r.remove(p, *recursive, *force)),
            Self::RemoveDir(paths) => paths.iter().try_for_each(|p| r.remove_dir(p)),
            Self::MakeDir { paths, parents, mode } => {
                paths.iter().try_for_each(|p| r.make_dir(p, *parents, mode.as_ref()))
            }
            Self::Link { from, to } => r.link(from, to),
            Self::Symlink { target, path, force } => r.symlink(target, path, *force),
            Self::Move { from, to, keep } => r.rename(from, to, *keep),
            Self::Change { paths, recursive, no_follow, what } => {
                paths.iter().try_for_each(|p| r.change(p, *recursive, *no_follow, what))
            }
            Self::Xattr { paths, name, value, no_follow } => {
                paths.iter().try_for_each(|p| r.xattr(p, name, value.as_deref(), *no_follow))
            }
            Self::Truncate { paths, size, existing } => paths.iter().try_for_each(|p| r.truncate(p, *size, *existing)),
            Self::Touch { paths, time, existing } => paths.iter().try_for_each(|p| r.touch(p, *time, *existing)),
            Self::MakeNode { path, what, mode } => r.make(path, *what, mode.as_ref(), 0o644).map(|_| ()),
        }
    }
}

/// Commands with the numbers of their lines, from 1.
#[derive(Clone, Debug, Default)]
pub struct Script(Vec<(u64, Command)>);

impl Script {
    /// Read a script. All lines are read before one is carried out.
    ///
    /// # Errors
    /// [`Error::Script`] with the line; [`Error::InvalidArgument`] for one that is too long.
    pub fn parse(text: &[u8]) -> Result<Self> {
        if text.len() > MAX_SCRIPT {
            return Err(wrong("script", b"too long", "up to 1 GiB"));
        }
        let mut all = Vec::new();
        for (line, text) in (1..).zip(text.split(|b| *b == b'\n')) {
            let command = Command::parse(text).map_err(|e| at_line(line, e))?;
            all.extend(command.map(|c| (line, c)));
        }
        Ok(Self(all))
    }

    /// Commands.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Leave out the commands of the lines before `line`: what an earlier run has committed.
    pub fn skip_to(&mut self, line: u64) {
        self.0.retain(|c| c.0 >= line);
    }

    /// Carry all of it out in the running transaction; `at` hears the line of each command that is done.
    ///
    /// # Errors
    /// [`Error::Script`] with the line. The transaction must then be given up.
    pub fn run(
        &self,
        session: &mut Session,
        watch: &mut dyn Watch,
        report: &mut Report,
        at: &mut dyn FnMut(&Session, u64),
    ) -> Result<()> {
        for (line, command) in &self.0 {
            command.run(session, watch, report).map_err(|e| at_line(*line, e))?;
            at(session, *line);
        }
        Ok(())
    }
}

fn at_line(line: u64, e: Error) -> Error {
    if matches!(e, Error::Cancelled) { e } else { Error::Script { line, source: Box::new(e) } }
}

/// Does commands.
struct Runner<'a> {
    session: &'a mut Session,
    watch: &'a mut dyn Watch,
    report: &'a mut Report,
}

impl Runner<'_> {
    /// Directory and name of a path's last component.
    fn place(&self, path: &[u8]) -> Result<(Ino, Vec<u8>)> {
        match self.session.name_target(path)? {
            Target::Name(dir, _, name) => Ok((dir, name)),
            Target::Merge(dir, _) => Ok((dir, Vec::new())),
        }
    }

    fn put(&mut self, from: &Path, to: &[u8], recursive: bool, options: &CopyOptions) -> Result<()> {
        let (origin, pick) = host_origin(from, recursive, options, 1, &Silent)?;
        let base = base_name(from);
        let target = self.session.target(to, base.as_deref()).map_err(|e| e.about(to))?;
        copy_in(self.session, &origin, pick, &target, options, self.watch, self.report)
    }

    fn untar(&mut self, from: &Path, to: &[u8]) -> Result<()> {
        let archive = TarFile::open(from)?.implied_at(self.session.now());
        let origin = Origin::list(archive, 1, &Silent)?;
        let target = self.session.target(to, None).map_err(|e| e.about(to))?;
        let options = CopyOptions { preserve: Preserve::ALL, ..CopyOptions::default() };
        copy_in(self.session, &origin, Pick::Top, &target, &options, self.watch, self.report)
    }

    fn remove(&mut self, path: &[u8], recursive: bool, force: bool) -> Result<()> {
        let done = self.place(path).and_then(|(dir, name)| {
            if recursive {
                self.session.run_steps(|n| n.remove_tree(dir, &name))
            } else {
                self.session.run(|n| n.unlink(dir, &name))
            }
        });
        match done {
            Err(Error::NotFound { .. }) if force => Ok(()),
            Err(e) => Err(e.about(path)),
            Ok(()) => {
                self.report.removed += 1;
                self.watch.done(Action::Remove, path);
                Ok(())
            }
        }
    }

    fn remove_dir(&mut self, path: &[u8]) -> Result<()> {
        let (dir, name) = self.place(path)?;
        self.session.run(|n| n.rmdir(dir, &name)).map_err(|e| e.about(path))?;
        self.report.removed += 1;
        self.watch.done(Action::Remove, path);
        Ok(())
    }

    fn make_dir(&mut self, path: &[u8], parents: bool, mode: Option<&ModeChange>) -> Result<()> {
        if parents {
            match self.session.volume().resolve_inode(path, LastLink::Follow) {
                Ok((_, inode)) if inode.file_type() == Some(FileType::Directory) => return Ok(()),
                Ok(_) => return Err(Error::NotDirectory { path: path.to_vec() }),
                Err(Error::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
            let (parent, _) = split(path);
            self.session.make_path(parent, &WAY)?;
        }
        self.make(path, What::Directory, mode, 0o755).map(|_| ())
    }

    fn make(&mut self, path: &[u8], what: What<'_>, mode: Option<&ModeChange>, permissions: u16) -> Result<Ino> {
        let (dir, name) = self.place(path)?;
        let is_dir = what == What::Directory;
        let permissions = mode.map_or(permissions, |m| m.apply(permissions, is_dir));
        let attributes = Attributes::root(permissions);
        let ino = self.session.run(|n| Ok(n.make(dir, &name, what, &attributes)?.ino)).map_err(|e| e.about(path))?;
        match what {
            What::Directory => self.report.directories += 1,
            What::File => self.report.files += 1,
            _ => self.report.others += 1,
        }
        self.watch.done(Action::Make, path);
        Ok(ino)
    }

    fn link(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        let ino = self.session.volume().resolve(from, LastLink::Keep)?;
        let (dir, name) = self.entry_for(to, from)?;
        self.session.run(|n| n.link(ino, dir, &name)).map_err(|e| e.about(to))?;
        self.report.links += 1;
        self.watch.done(Action::Link, to);
        Ok(())
    }

    /// Directory and name of `to`; where that is a directory, of `from`'s name in it.
    fn entry_for(&self, to: &[u8], from: &[u8]) -> Result<(Ino, Vec<u8>)> {
        match self.session.target(to, Some(split(from).1)).map_err(|e| e.about(to))? {
            Target::Name(dir, _, name) => Ok((dir, name)),
            Target::Merge(dir, _) => Ok((dir, Vec::new())),
        }
    }

    fn symlink(&mut self, target: &[u8], path: &[u8], force: bool) -> Result<()> {
        if force {
            let (dir, name) = self.place(path)?;
            match self.session.run(|n| n.unlink(dir, &name)) {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(e) => return Err(e.about(path)),
            }
        }
        self.make(path, What::Symlink(target), None, 0o777).map(|_| ())
    }

    fn rename(&mut self, from: &[u8], to: &[u8], keep: bool) -> Result<()> {
        let (from_dir, from_name) = self.place(from)?;
        let (to_dir, to_name) = self.entry_for(to, from)?;
        let done = self.session.run(|n| n.rename(from_dir, &from_name, to_dir, &to_name, keep));
        done.map_err(|e| match &e {
            Error::NotFound { .. } | Error::IntoItself { .. } => e.about(from),
            _ => e.about(to),
        })?;
        self.report.changed += 1;
        self.watch.done(Action::Move, to);
        Ok(())
    }

    fn resolve(&self, path: &[u8], no_follow: bool) -> Result<Ino> {
        self.session.volume().resolve(path, if no_follow { LastLink::Keep } else { LastLink::Follow })
    }

    fn change(&mut self, path: &[u8], recursive: bool, no_follow: bool, what: &Attribute) -> Result<()> {
        let top = self.resolve(path, no_follow || recursive)?;
        let mut stack = vec![(top, path.to_vec())];
        while let Some((ino, path)) = stack.pop() {
            self.change_one(ino, &path, what)?;
            let o = self.session.run(|n| n.open(ino))?;
            if recursive && o.is_dir() {
                let entries = self.session.volume().read_dir(o.owner())?;
                stack.extend(entries.into_iter().rev().map(|e| (e.ino, join(&path, &e.name))));
            }
        }
        Ok(())
    }

    fn change_one(&mut self, ino: Ino, path: &[u8], what: &Attribute) -> Result<()> {
        self.session
            .run(|n| {
                let o = n.open(ino)?;
                let symlink = o.inode.file_type() == Some(FileType::Symlink);
                let change = match what {
                    // Permissions of symbolic links mean nothing.
                    Attribute::Mode(_) if symlink => return Ok(()),
                    Attribute::Mode(m) => {
                        Change { permissions: Some(m.apply(o.inode.permissions(), o.is_dir())), ..Change::default() }
                    }
                    Attribute::Owner(uid, gid) => Change { uid: *uid, gid: *gid, ..Change::default() },
                    Attribute::Project(id) => Change { project: Some(*id), ..Change::default() },
                };
                n.change(ino, &change)
            })
            .map_err(|e| e.about(path))?;
        self.report.changed += 1;
        self.watch.done(Action::Change, path);
        Ok(())
    }

    fn xattr(&mut self, path: &[u8], name: &[u8], value: Option<&[u8]>, no_follow: bool) -> Result<()> {
        let ino = self.resolve(path, no_follow)?;
        let had = self.session.run(|n| n.set_xattr(ino, name, value)).map_err(|e| e.about(path))?;
        if value.is_none() && !had {
            return Err(wrong("attribute", name, "one that is there").about(path));
        }
        self.report.changed += 1;
        self.watch.done(Action::Change, path);
        Ok(())
    }

    /// A file, made where it is not there and may be made.
    fn file(&mut self, path: &[u8], existing: bool) -> Result<Option<Ino>> {
        match self.resolve(path, false) {
            Ok(ino) => Ok(Some(ino)),
            Err(Error::NotFound { .. }) if existing => Ok(None),
            Err(Error::NotFound { .. }) => self.make(path, What::File, None, 0o644).map(Some),
            Err(e) => Err(e),
        }
    }

    fn truncate(&mut self, path: &[u8], size: u64, existing: bool) -> Result<()> {
        let Some(ino) = self.file(path, existing)? else { return Ok(()) };
        self.session.run_on_content(ino, |n| n.truncate(ino, size)).map_err(|e| e.about(path))?;
        self.report.changed += 1;
        self.watch.done(Action::Write, path);
        Ok(())
    }

    fn touch(&mut self, path: &[u8], time: Option<Timestamp>, existing: bool) -> Result<()> {
        let Some(ino) = self.file(path, existing)? else { return Ok(()) };
        let time = Some(time.unwrap_or(self.session.now()));
        let change = Change { atime: time, mtime: time, ..Change::default() };
        self.session.run(|n| n.change(ino, &change)).map_err(|e| e.about(path))?;
        self.report.changed += 1;
        self.watch.done(Action::Change, path);
        Ok(())
    }
}

/// The name that a source of the host has; `None` for one whose content is meant (`dir/.`, `/`).
pub fn base_name(path: &Path) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    match split(bytes).1 {
        b"" | b"." | b".." => None,
        name => Some(name.to_vec()),
    }
}
