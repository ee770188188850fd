//! What a shell has open: a filesystem, and a root and current directory in it.

use std::ffi::OsStr;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Failure, Outcome};
use crate::batch::{Options, Session as Edit};
use crate::device::{Access, BlockDevice, ImageSpec, StagedDevice, UndoDevice};
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::format::dirent::is_dot_or_dotdot;
use crate::format::features::Incompat;
use crate::format::inode::{FileType, Inode};
use crate::inspect::{Format, View, show};
use crate::journal::{OnDamage, RecoverOptions};
use crate::recover::open_recovered;
use crate::script::Running;
use crate::units::Ino;
use crate::volume::{DirtyJournal, LastLink, OpenOptions, Owner, Volume};

/// Most directories above one another.
const MAX_DEPTH: usize = 4096;

/// How a session behaves.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How views are shown.
    pub format: Format,
    /// How filesystems are opened.
    pub open: OpenOptions,
    /// What time it is, where that is known: for what happened so long ago.
    pub now: Option<Timestamp>,
}

impl Settings {
    /// Show views in a format; a journal that was not written back is no obstacle to looking.
    pub fn new(format: Format) -> Self {
        let open = OpenOptions { dirty_journal: DirtyJournal::Ignore, ..OpenOptions::default() };
        Self { format, open, now: None }
    }
}

/// What came of a journal that was not written back.
#[derive(Debug)]
pub enum DirtyJournalSeen {
    /// It was recovered in memory: shown is what a mount would show.
    Recovered,
    /// It was written back, because the image is to be changed.
    WrittenBack,
    /// The same, as far as it could be read.
    Damaged(String),
    /// It could not be recovered, for this reason, or was not wanted: shown is what is there without it.
    LeftOut(Option<Error>),
}

impl std::fmt::Display for DirtyJournalSeen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let old = "what is shown may be out of date";
        f.write_str("the journal was not written back")?;
        match self {
            Self::WrittenBack => f.write_str(": it is now"),
            Self::Recovered => f.write_str(": it is recovered in memory, the image stays as it is"),
            Self::Damaged(why) => write!(f, " and is damaged ({why}): {old}"),
            Self::LeftOut(Some(why)) => write!(f, " and cannot be recovered ({why}): {old}"),
            Self::LeftOut(None) => write!(f, ": {old}"),
        }
    }
}

/// A filesystem, for reading, for changing, or in use.
#[derive(Debug)]
pub(super) enum Store {
    Read(Box<Volume>),
    Write(Box<Edit>),
    Used(Box<Running>),
}

/// A filesystem that is open.
#[derive(Debug)]
struct Opened {
    image: ImageSpec,
    store: Store,
    root: Ino,
    cwd: Ino,
    /// What is written to, where something may be: writes can be held back.
    staged: Option<Arc<StagedDevice>>,
    /// Commands of the write path since it began.
    used: Vec<String>,
}

impl Opened {
    const fn new(image: ImageSpec, store: Store, staged: Option<Arc<StagedDevice>>) -> Self {
        Self { image, store, root: Ino::ROOT, cwd: Ino::ROOT, staged, used: Vec::new() }
    }
}

/// When changes are committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Commits {
    /// Each command that changes something is a transaction.
    #[default]
    Each,
    /// All is one transaction, which ends with [`Session::finish`].
    AtEnd,
    /// As [`Commits::Each`], but a transaction was begun that is not ended yet.
    Begun,
}

/// A running shell.
pub struct Session {
    settings: Settings,
    opened: Option<Opened>,
    /// Where what is overwritten is saved.
    undo: Option<PathBuf>,
    /// How images are opened for changing, where they are.
    writing: Option<Options>,
    commits: Commits,
    host_dir: PathBuf,
    done: bool,
    /// Asks a person; `None` where there is none.
    asker: Option<Asker>,
    /// The journal that `journal_open` opened.
    journal: Option<super::journal::Opened>,
    /// The inode that `extent_open` opened.
    extents: Option<super::extents::Cursor>,
    /// What can be taken back.
    history: super::undo::History,
}

/// Shows a question and reads the answer; `None` at the end of the input.
pub type Asker = Box<dyn FnMut(&str) -> std::io::Result<Option<Vec<u8>>>>;

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("opened", &self.opened).field("commits", &self.commits).finish_non_exhaustive()
    }
}

impl Session {
    /// A shell with nothing open.
    pub fn new(settings: Settings) -> Self {
        let host_dir = PathBuf::new();
        let (opened, undo, writing, commits) = (None, None, None, Commits::default());
        Self {
            settings,
            opened,
            undo,
            writing,
            commits,
            host_dir,
            done: false,
            asker: None,
            journal: None,
            extents: None,
            history: super::undo::History::default(),
        }
    }

    /// Images that are opened from now on may be changed.
    pub fn allow_writing(&mut self, options: Options, commits: Commits) {
        self.writing = Some(options);
        self.commits = commits;
    }

    /// Who answers the questions that commands ask.
    pub fn set_asker(&mut self, asker: Asker) {
        self.asker = Some(asker);
    }

    /// Ask a question.
    ///
    /// # Errors
    /// [`Failure::Usage`] where nobody can be asked.
    pub(super) fn ask(&mut self, question: &str, out: &mut dyn Write) -> Outcome<Option<Vec<u8>>> {
        out.flush()?;
        match &mut self.asker {
            Some(asker) => Ok(asker(question)?),
            None => Err(Failure::Usage("this command asks questions: it needs a person".into())),
        }
    }

    /// Save what is overwritten in the image that is opened next, so that `e4fsck --undo` can bring it back.
    pub fn save_overwritten(&mut self, file: PathBuf) {
        self.undo = Some(file);
    }

    /// A shell with a filesystem that is open already; `image` is only its name.
    pub fn with_volume(settings: Settings, image: ImageSpec, volume: Volume) -> Self {
        let opened = Opened::new(image, Store::Read(Box::new(volume)), None);
        Self { opened: Some(opened), ..Self::new(settings) }
    }

    /// How it behaves.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Show views in another format from now on.
    pub const fn set_format(&mut self, format: Format) {
        self.settings.format = format;
    }

    /// Open an image (`PATH` or `PATH@OFFSET`), in place of what was open. Tells where its journal was not written back.
    /// Such a journal is recovered in memory; not for what is opened by a backup superblock or as badly damaged.
    pub fn open(&mut self, image: &OsStr) -> Result<Option<DirtyJournalSeen>> {
        let options = self.settings.open;
        self.open_with(image, &options)
    }

    /// [`Session::open`] with other options.
    pub fn open_with(&mut self, image: &OsStr, options: &OpenOptions) -> Result<Option<DirtyJournalSeen>> {
        let image = ImageSpec::parse(image);
        self.history.clear();
        if let Some(writing) = &self.writing {
            let mut device = image.open(Access::ReadWrite)?;
            if let Some(file) = self.undo.take() {
                device = Arc::new(UndoDevice::create(device, &file)?);
            }
            let staged = Arc::new(StagedDevice::new(device));
            let edit = Edit::open(Arc::<StagedDevice>::clone(&staged), writing.clone())?;
            let seen = edit.recovered().map(|_| DirtyJournalSeen::WrittenBack);
            self.opened = Some(Opened::new(image, Store::Write(Box::new(edit)), Some(staged)));
            return Ok(seen);
        }
        let device = image.open(Access::ReadOnly)?;
        let volume = Volume::open(Arc::clone(&device), options)?;
        let (volume, seen) = if volume.geometry().features.incompat.contains(Incompat::RECOVER) {
            recovered(volume, device, options)
        } else {
            (volume, None)
        };
        self.opened = Some(Opened::new(image, Store::Read(Box::new(volume)), None));
        Ok(seen)
    }

    /// Close what is open; what was changed is committed, and what is in use unmounted.
    pub fn close(&mut self) -> Outcome {
        self.history.clear();
        let opened = self.opened.take().ok_or_else(nothing_open)?;
        match opened.store {
            Store::Read(_) => {}
            Store::Write(edit) => edit.close()?,
            Store::Used(running) => running.unmount()?,
        }
        if let Some(staged) = opened.staged {
            staged.apply()?;
        }
        Ok(())
    }

    /// Close what is open, if anything is; what was changed is committed.
    ///
    /// # Errors
    /// Those of the commit; what was not committed before is lost then.
    pub fn finish(&mut self) -> Outcome {
        if self.opened.is_some() { self.close() } else { Ok(()) }
    }

    /// Close what is open, if anything is, without what was not committed.
    ///
    /// # Errors
    /// Writing failed.
    pub fn abandon(&mut self) -> Outcome {
        let Some(opened) = self.opened.take() else { return Ok(()) };
        if let Store::Write(edit) = opened.store {
            edit.abandon()?;
        }
        if let Some(staged) = opened.staged {
            staged.forget();
        }
        Ok(())
    }

    /// The filesystem that is open, to be changed.
    ///
    /// # Errors
    /// [`Failure::Usage`] where it is open for reading only.
    pub fn edit(&mut self) -> Outcome<&mut Edit> {
        match self.opened.as_mut().ok_or_else(nothing_open)?.store {
            Store::Write(ref mut edit) => Ok(edit),
            Store::Used(_) => Err(in_use()),
            Store::Read(_) if self.writing.is_some() => {
                Err(Failure::Usage("the journal holds what is not home: journal_run recovers it".into()))
            }
            Store::Read(_) => Err(read_only()),
        }
    }

    /// The journal that is open for writing by hand.
    pub(super) const fn journal(&mut self) -> &mut Option<super::journal::Opened> {
        &mut self.journal
    }

    /// How what is open is held.
    pub(super) fn store(&mut self) -> Option<&mut Store> {
        self.opened.as_mut().map(|o| &mut o.store)
    }

    /// Hold what is open in another way.
    pub(super) fn set_store(&mut self, store: Store) {
        if let Some(o) = &mut self.opened {
            o.store = store;
        }
    }

    /// Let go of how what is open is held: it is looked at as it is on `device`.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn take_store(&mut self, device: Arc<dyn BlockDevice>) -> Outcome<Option<Store>> {
        let volume = Volume::open(device, &self.settings.open)?;
        Ok(self.opened.as_mut().map(|o| std::mem::replace(&mut o.store, Store::Read(Box::new(volume)))))
    }

    /// What is written to, where something may be.
    pub(super) fn staged_device(&self) -> Option<Arc<StagedDevice>> {
        self.opened.as_ref().and_then(|o| o.staged.clone())
    }

    /// Commands since the filesystem came into use.
    pub(super) fn take_used(&mut self) -> Vec<String> {
        self.opened.as_mut().map(|o| std::mem::take(&mut o.used)).unwrap_or_default()
    }

    /// The last of them.
    pub(super) fn last_used(&self) -> String {
        let last = self.opened.as_ref().and_then(|o| o.used.iter().rev().find(|c| c.starts_with("wp ")));
        last.cloned().unwrap_or_default()
    }

    /// When changes are committed.
    pub(super) const fn commits(&self) -> Commits {
        self.commits
    }

    /// What can be taken back.
    pub(super) const fn history(&mut self) -> &mut super::undo::History {
        &mut self.history
    }

    /// The inode whose extents are open.
    pub(super) const fn extents(&mut self) -> &mut Option<super::extents::Cursor> {
        &mut self.extents
    }

    /// The time that goes into the image.
    ///
    /// # Errors
    /// [`Failure::Usage`] where nothing may be written.
    pub(super) fn now(&self) -> Outcome<Timestamp> {
        self.writing.as_ref().map(|w| w.clock.now()).ok_or_else(read_only)
    }

    /// Commit what was changed, and keep the filesystem open for looking only. Returns its device, for writing.
    ///
    /// # Errors
    /// Those of the commit; [`Failure::Usage`] where it is open for reading only.
    pub(super) fn stop_editing(&mut self) -> Outcome<Arc<dyn BlockDevice>> {
        if self.writing.is_none() {
            return Err(read_only());
        }
        let mut opened = self.opened.take().ok_or_else(nothing_open)?;
        self.history.clear();
        if self.commits == Commits::AtEnd
            && let Some(staged) = &opened.staged
        {
            // All that comes is undone where the script fails.
            staged.stage();
        }
        let device = match opened.store {
            Store::Write(edit) => {
                let device = Arc::clone(edit.device());
                edit.close()?;
                device
            }
            Store::Read(volume) => Arc::clone(volume.device()),
            Store::Used(running) => {
                opened.store = Store::Used(running);
                self.opened = Some(opened);
                return Err(in_use());
            }
        };
        opened.store = Store::Read(Box::new(Volume::open(Arc::clone(&device), &self.settings.open)?));
        self.opened = Some(opened);
        Ok(device)
    }

    /// Read again what is open for looking.
    ///
    /// # Errors
    /// It cannot be opened any more.
    pub(super) fn look_again(&mut self) -> Outcome {
        self.stop_editing().map(|_| ())
    }

    /// After [`Session::stop_editing`]: change the filesystem again. What its journal holds is recovered.
    ///
    /// # Errors
    /// Those of opening.
    pub(super) fn go_on_editing(&mut self) -> Outcome {
        let device = self.stop_editing()?;
        let (Some(writing), Some(opened)) = (&self.writing, &mut self.opened) else { return Err(read_only()) };
        opened.store = Store::Write(Box::new(Edit::open(device, writing.clone())?));
        Ok(())
    }

    /// Whether images are opened for changing.
    pub(super) const fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// What a person is asked for a command with.
    pub fn prompt(&self) -> String {
        match &self.extents {
            Some(cursor) => format!("e4sh (extent ino {}): ", cursor.ino()),
            None => "e4sh: ".into(),
        }
    }

    /// Whether what is open may be changed.
    pub fn is_writable(&self) -> bool {
        matches!(self.opened.as_ref().map(|o| &o.store), Some(Store::Write(_) | Store::Used(_)))
    }

    /// Begin a transaction: what comes is committed together.
    pub fn begin(&mut self) -> Outcome {
        self.edit()?;
        match self.commits {
            Commits::Each => self.commits = Commits::Begun,
            Commits::AtEnd => self.commit()?,
            Commits::Begun => return Err(Failure::Usage("a transaction has begun already".into())),
        }
        Ok(())
    }

    /// Commit what was done since the last commit.
    pub fn commit(&mut self) -> Outcome {
        self.edit()?;
        self.show_contents()?;
        self.edit()?.commit()?;
        self.history.committed();
        self.end_transaction();
        Ok(())
    }

    /// Forget what was done since the last commit.
    pub fn abort(&mut self) -> Outcome {
        self.edit()?.discard()?;
        self.history.forgotten();
        self.leave_missing_directory();
        self.end_transaction();
        Ok(())
    }

    fn end_transaction(&mut self) {
        if self.commits == Commits::Begun {
            self.commits = Commits::Each;
        }
    }

    /// How much has been changed, to compare with later; 0 where nothing can be.
    pub(super) fn changes(&self) -> u64 {
        match self.opened.as_ref().map(|o| &o.store) {
            Some(Store::Write(edit)) => edit.changes(),
            _ => 0,
        }
    }

    /// Write content of files that waits for a commit, so that commands see it.
    pub(super) fn show_contents(&mut self) -> Outcome {
        let Some(Store::Write(edit)) = self.opened.as_mut().map(|o| &mut o.store) else { return Ok(()) };
        edit.write_contents()?;
        self.note_contents();
        Ok(())
    }

    /// Content that waited is of commands that are done already.
    fn note_contents(&mut self) {
        if let Some(Store::Write(edit)) = self.opened.as_mut().map(|o| &mut o.store)
            && let Some(late) = edit.take_late()
        {
            self.history.more(late);
        }
    }

    /// A command begins; tells how many changes there were before. Unless it only changes (`changing`), it sees all content.
    pub(super) fn before_command(&mut self, changing: bool) -> Outcome<u64> {
        if let Some(Store::Write(edit)) = self.opened.as_mut().map(|o| &mut o.store) {
            edit.watch();
        }
        if !changing {
            self.show_contents()?;
        }
        Ok(self.changes())
    }

    /// A command is done, which began when there were `before` changes: note what it changed, and commit it, where each one is.
    /// Where it `failed` in the middle of a change, what was not committed is lost.
    pub(super) fn after_command(&mut self, before: u64, command: &[u8], failed: bool) -> Outcome {
        self.note_contents();
        if let Some(opened) = self.opened.as_mut().filter(|o| matches!(o.store, Store::Used(_))) {
            opened.used.push(shown(command));
        }
        // What ended the editing committed all before.
        if self.changes() == before || !matches!(self.store(), Some(Store::Write(_))) {
            return Ok(());
        }
        if failed {
            return self.abort();
        }
        let done = self.note_change(command);
        if done.is_err() {
            self.abort()?;
        }
        done
    }

    fn note_change(&mut self, command: &[u8]) -> Outcome {
        let edit = self.edit()?;
        edit.prepare()?;
        if let Some(change) = edit.take_change()? {
            self.history.push(shown(command), change);
        }
        if self.commits == Commits::Each {
            self.edit()?.watch();
            self.show_contents()?;
            self.edit()?.commit()?;
            self.history.committed();
        }
        Ok(())
    }

    /// Where the current directory is none any more, go to the root.
    pub(super) fn leave_missing_directory(&mut self) {
        let is_dir = |s: &Self, ino| {
            s.volume().is_ok_and(|v| {
                v.inode(ino).is_ok_and(|i| i.file_type() == Some(FileType::Directory) && i.core().links_count.get() > 0)
            })
        };
        let Ok((root, cwd)) = self.directories() else { return };
        let root = if is_dir(self, root) { root } else { Ino::ROOT };
        self.set_directories(root, if is_dir(self, cwd) { cwd } else { root });
    }

    /// The image that is open.
    pub fn image(&self) -> Option<&ImageSpec> {
        self.opened.as_ref().map(|o| &o.image)
    }

    /// The filesystem that is open.
    pub fn volume(&self) -> Outcome<&Volume> {
        let opened = self.opened.as_ref().ok_or_else(nothing_open)?;
        Ok(match &opened.store {
            Store::Read(volume) => volume,
            Store::Write(edit) => edit.volume(),
            Store::Used(running) => running.volume(),
        })
    }

    /// End after the running command.
    pub const fn quit(&mut self) {
        self.done = true;
    }

    /// Whether the shell is to end.
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// A path of the host, from the directory that `lcd` went to.
    pub fn host_path(&self, word: &[u8]) -> PathBuf {
        self.host_dir.join(OsStr::from_bytes(word))
    }

    /// Go to another directory of the host.
    pub fn set_host_dir(&mut self, dir: PathBuf) {
        self.host_dir = dir;
    }

    /// Root and current directory.
    pub fn directories(&self) -> Outcome<(Ino, Ino)> {
        self.opened.as_ref().map(|o| (o.root, o.cwd)).ok_or_else(nothing_open)
    }

    /// Change root and current directory.
    pub fn set_directories(&mut self, root: Ino, cwd: Ino) {
        if let Some(o) = &mut self.opened {
            (o.root, o.cwd) = (root, cwd);
        }
    }

    /// The inode that a filespec names. A symbolic link at the end is not followed.
    pub fn resolve(&self, spec: &[u8]) -> Outcome<Ino> {
        self.resolve_link(spec, LastLink::Keep)
    }

    /// [`Session::resolve`], and what to do with a symbolic link at the end.
    pub fn resolve_link(&self, spec: &[u8], last: LastLink) -> Outcome<Ino> {
        let volume = self.volume()?;
        let (root, cwd) = self.directories()?;
        if let Some(number) = spec.strip_prefix(b"<").and_then(|s| s.strip_suffix(b">"))
            && let Ok(ino) = super::args::number32(number, "inode number")
        {
            volume.geometry().inode_place(Ino(ino))?;
            return Ok(Ino(ino));
        }
        if spec.is_empty() {
            return Err(Error::NotFound { path: Vec::new() }.into());
        }
        let start = if spec.starts_with(b"/") || root == cwd { vec![root] } else { self.chain(root, cwd)? };
        Ok(volume.resolve_from(&start, spec, last)?)
    }

    /// The inode that a filespec names, with its content. Its checksum is not compared: commands look at what is there.
    pub fn inode(&self, spec: &[u8]) -> Outcome<(Ino, Inode)> {
        let ino = self.resolve(spec)?;
        Ok((ino, self.volume()?.raw_inode(ino)?))
    }

    /// The directory that a filespec names.
    pub fn directory(&self, spec: &[u8]) -> Outcome<Ino> {
        let ino = self.resolve_link(spec, LastLink::Follow)?;
        if self.volume()?.raw_inode(ino)?.file_type() != Some(FileType::Directory) {
            return Err(Error::NotDirectory { path: spec.to_vec() }.into());
        }
        Ok(ino)
    }

    /// The directories from `root` to `dir`, both included; of a directory that is not below the root, those above it.
    fn chain(&self, root: Ino, dir: Ino) -> Outcome<Vec<Ino>> {
        let volume = self.volume()?;
        let mut chain = vec![dir];
        let mut at = dir;
        while at != root && at != Ino::ROOT && chain.len() < MAX_DEPTH {
            let inode = volume.raw_inode(at)?;
            match volume.lookup(Owner { ino: at, inode: &inode }, b"..")? {
                Some(parent) if parent != at && !chain.contains(&parent) => at = parent,
                _ => break,
            }
            chain.push(at);
        }
        if at != root {
            chain.push(root);
        }
        chain.reverse();
        Ok(chain)
    }

    /// A path of the image from the root of the filesystem, as commands that change it name it.
    pub fn absolute(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        let (root, cwd) = self.directories()?;
        let mut all = self.path_of(if path.starts_with(b"/") { root } else { cwd })?;
        all.push(b'/');
        all.extend_from_slice(path);
        Ok(all)
    }

    /// The path of a directory from the root of the filesystem.
    pub fn path_of(&self, dir: Ino) -> Outcome<Vec<u8>> {
        let volume = self.volume()?;
        let chain = self.chain(Ino::ROOT, dir)?;
        let mut path = Vec::new();
        for pair in chain.windows(2) {
            let &[parent, child] = pair else { continue };
            let inode = volume.raw_inode(parent)?;
            let mut name = format!("<{child}>").into_bytes();
            volume.for_each_entry(Owner { ino: parent, inode: &inode }, &mut |e| {
                if e.entry.ino != child || is_dot_or_dotdot(e.entry.name) {
                    return Ok(ControlFlow::Continue(()));
                }
                name = e.entry.name.to_vec();
                Ok(ControlFlow::Break(()))
            })?;
            path.push(b'/');
            path.extend_from_slice(&name);
        }
        Ok(if path.is_empty() { b"/".to_vec() } else { path })
    }

    /// Show a view. What it found damaged is an error, after all of it was shown.
    pub fn show<V: View>(&self, mut view: V, out: &mut dyn Write) -> Outcome {
        show(&view, self.settings.format, out)?;
        let damage = view.damage();
        if damage.len() > 1 && self.settings.format != Format::Json {
            for d in &damage {
                writeln!(out, "damaged: {}", d.0)?;
            }
        }
        damage.into_iter().next().map_or(Ok(()), |d| Err(d.0.into()))
    }
}

/// A volume over `device`, which `as_is` shows without its journal, recovered in memory where that is possible.
fn recovered(as_is: Volume, device: Arc<dyn BlockDevice>, options: &OpenOptions) -> (Volume, Option<DirtyJournalSeen>) {
    if options.superblock.is_some() || options.allow_truncated {
        return (as_is, Some(DirtyJournalSeen::LeftOut(None)));
    }
    let recovery = RecoverOptions { on_damage: OnDamage::Salvage, now: None, keep_counts: false };
    match open_recovered(device, None, recovery, options) {
        Ok((volume, report)) => {
            let damage = report.journal.damage.or(report.orphans.damage);
            (volume, Some(damage.map_or(DirtyJournalSeen::Recovered, DirtyJournalSeen::Damaged)))
        }
        Err(e) => (as_is, Some(DirtyJournalSeen::LeftOut(Some(e)))),
    }
}

/// A command line, to be shown.
fn shown(command: &[u8]) -> String {
    String::from_utf8_lossy(command.trim_ascii()).escape_debug().to_string()
}

fn in_use() -> Failure {
    Failure::Usage("the write path uses the filesystem: wp umount ends that".into())
}

fn read_only() -> Failure {
    Failure::Usage("the image is open for reading only (-w opens it for writing)".into())
}

fn nothing_open() -> Failure {
    Failure::Usage("no filesystem is open".into())
}
