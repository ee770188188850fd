//! What a shell has open: a filesystem, and a root and current directory in it.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Failure, Outcome};
use crate::batch::{Options, Session as Edit};
use crate::device::{Access, BlockDevice, ImageSpec, StagedDevice, UndoDevice};
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::format::features::Incompat;
use crate::inspect::{Format, View, show};
use crate::journal::{OnDamage, RecoverOptions};
use crate::recover::{open_recovered, read_superblock};
use crate::script::Running;
use crate::units::Ino;
use crate::volume::{DirtyJournal, OpenOptions, Volume};

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
pub(super) struct Opened {
    image: ImageSpec,
    pub(super) store: Store,
    root: Ino,
    cwd: Ino,
    /// What is written to, where something may be: writes can be held back.
    pub(super) staged: Option<Arc<StagedDevice>>,
    /// Commands of the write path since it began.
    pub(super) used: Vec<String>,
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
    pub(super) opened: Option<Opened>,
    /// Where what is overwritten is saved.
    undo: Option<PathBuf>,
    /// The journal's device, where the image that is opened has one.
    journal_device: Option<Arc<dyn BlockDevice>>,
    /// How images are opened for changing, where they are.
    pub(super) writing: Option<Options>,
    pub(super) commits: Commits,
    host_dir: PathBuf,
    done: bool,
    /// Asks a person; `None` where there is none.
    asker: Option<Asker>,
    /// The journal that `journal_open` opened.
    journal: Option<super::journal::Opened>,
    /// The inode that `extent_open` opened.
    extents: Option<super::extents::Cursor>,
    /// What can be taken back.
    pub(super) history: super::undo::History,
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
            journal_device: None,
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

    /// The journal of images that are opened from now on is on `device`, where it is not inside.
    pub fn set_journal_device(&mut self, device: Arc<dyn BlockDevice>) {
        self.journal_device = Some(device);
    }

    /// The journal's device for the image that is open; `None` where its journal is inside.
    pub(super) fn journal_device(&self) -> Option<Arc<dyn BlockDevice>> {
        let outside = |v: &Volume| v.superblock().journal_inum.get() == 0;
        self.journal_device.clone().filter(|_| self.volume().is_ok_and(outside))
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
            let mut how = writing.clone();
            // Images with a journal inside are opened as well.
            let outside = read_superblock(&*staged).is_ok_and(|sb| sb.journal_inum.get() == 0);
            how.journal = self.journal_device.clone().filter(|_| outside);
            let edit = Edit::open(Arc::<StagedDevice>::clone(&staged), how)?;
            let seen = edit.recovered().map(|_| DirtyJournalSeen::WrittenBack);
            self.opened = Some(Opened::new(image, Store::Write(Box::new(edit)), Some(staged)));
            return Ok(seen);
        }
        let device = image.open(Access::ReadOnly)?;
        let volume = Volume::open(Arc::clone(&device), options)?;
        let (volume, seen) = if volume.geometry().features.incompat.contains(Incompat::RECOVER) {
            recovered(volume, device, self.journal_device.clone(), options)
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
fn recovered(
    as_is: Volume,
    device: Arc<dyn BlockDevice>,
    journal: Option<Arc<dyn BlockDevice>>,
    options: &OpenOptions,
) -> (Volume, Option<DirtyJournalSeen>) {
    if options.superblock.is_some() || options.allow_truncated {
        return (as_is, Some(DirtyJournalSeen::LeftOut(None)));
    }
    let recovery = RecoverOptions { on_damage: OnDamage::Salvage, now: None, keep_counts: false };
    let journal = journal.filter(|_| as_is.superblock().journal_inum.get() == 0);
    match open_recovered(device, journal, recovery, options) {
        Ok((volume, report)) => {
            let damage = report.journal.damage.or(report.orphans.damage);
            (volume, Some(damage.map_or(DirtyJournalSeen::Recovered, DirtyJournalSeen::Damaged)))
        }
        Err(e) => (as_is, Some(DirtyJournalSeen::LeftOut(Some(e)))),
    }
}

pub(super) fn in_use() -> Failure {
    Failure::Usage("the write path uses the filesystem: wp umount ends that".into())
}

pub(super) fn read_only() -> Failure {
    Failure::Usage("the image is open for reading only (-w opens it for writing)".into())
}

pub(super) fn nothing_open() -> Failure {
    Failure::Usage("no filesystem is open".into())
}
