//! A session whose filesystem is in use: how that begins and ends. Until it ends, what is written is held back; a script that is one
//! transaction holds it back until its own end.

use std::sync::Arc;

use super::session::{Commits, Session, Store};
use super::{Failure, Outcome};
use crate::batch::Change;
use crate::device::StagedDevice;
use crate::format::features::Incompat;
use crate::script::{Running, Settings};
use crate::volume::{DirtyJournal, OpenOptions, Volume};

fn needs_recovery(volume: &Volume) -> bool {
    volume.superblock().features().incompat.contains(Incompat::RECOVER)
}

impl Session {
    /// The filesystem in use.
    ///
    /// # Errors
    /// [`Failure::Usage`] where it is not.
    pub(super) fn running(&mut self) -> Outcome<&mut Running> {
        match self.store() {
            Some(Store::Used(running)) => Ok(running),
            _ => Err(Failure::Usage("the filesystem is not in use (wp mount begins)".into())),
        }
    }

    fn staged(&self) -> Outcome<Arc<StagedDevice>> {
        self.staged_device()
            .ok_or_else(|| Failure::Usage("the image is open for reading only (-w opens it for writing)".into()))
    }

    /// Use the filesystem from now on, with these options of mount. What its journal holds is recovered before.
    ///
    /// # Errors
    /// Those of mounting; then it is open for changes as before.
    pub(super) fn use_through(&mut self, options: &str, settings: Settings) -> Outcome {
        if self.commits() == Commits::Begun {
            return Err(Failure::Usage("a transaction has begun: commit or abort it first".into()));
        }
        if self.journal().is_some() {
            return Err(Failure::Usage("the journal is open: journal_close first".into()));
        }
        let staged = self.staged()?;
        self.stop_editing()?;
        staged.stage();
        let begun = self.begin_use(&staged, options, settings);
        if begun.is_err() {
            if self.commits() == Commits::Each {
                staged.forget();
            }
            self.go_on_editing()?;
        }
        begun
    }

    fn begin_use(&mut self, staged: &Arc<StagedDevice>, options: &str, settings: Settings) -> Outcome {
        if needs_recovery(self.volume()?) {
            self.go_on_editing()?;
            self.stop_editing()?;
        }
        let running = Running::new(Arc::<StagedDevice>::clone(staged), options, settings)?;
        self.set_store(Store::Used(Box::new(running)));
        Ok(())
    }

    /// Write everything back, and change the filesystem as before. What was done is one step back.
    ///
    /// # Errors
    /// What cannot be written back (no space): then all of it is forgotten, as the image is as it was before.
    pub(super) fn end_use(&mut self) -> Outcome {
        self.running()?;
        let staged = self.staged()?;
        let mut used = self.take_used();
        used.push("wp umount".into());
        let Some(Store::Used(running)) = self.take_store(Arc::<StagedDevice>::clone(&staged))? else { return Ok(()) };
        let ended = running.unmount();
        if ended.is_err() {
            staged.forget();
            self.go_on_editing()?;
            return Ok(ended?);
        }
        self.look_again()?;
        let options = OpenOptions { dirty_journal: DirtyJournal::Ignore, ..OpenOptions::default() };
        let change = match Volume::open(Arc::clone(staged.base()), &options) {
            Ok(before) if !needs_recovery(&before) => Change::between(&before, self.volume()?, &staged.changes())?,
            _ => None,
        };
        if self.commits() == Commits::Each {
            staged.apply()?;
        }
        self.go_on_editing()?;
        if let Some(change) = change {
            self.history().push_committed(used, change);
        }
        Ok(())
    }

    /// Cut the power: what was written, or (`flushed`) flushed, is there, and is looked at without being recovered. Tells how
    /// many writes are lost, and whether the journal needs recovery.
    ///
    /// # Errors
    /// Those of the device; what is left is no filesystem.
    pub(super) fn cut_power(&mut self, flushed: bool) -> Outcome<(usize, bool)> {
        self.running()?;
        let staged = self.staged()?;
        let Some(Store::Used(running)) = self.take_store(Arc::<StagedDevice>::clone(&staged))? else {
            return Ok((0, false));
        };
        drop(running);
        self.take_used();
        let lost = if flushed { staged.lose_unflushed()? } else { 0 };
        if self.commits() == Commits::Each {
            staged.apply()?;
        }
        let volume = Volume::open(staged, &self.settings().open)?;
        let needs = needs_recovery(&volume);
        self.set_store(Store::Read(Box::new(volume)));
        self.leave_missing_directory();
        Ok((lost, needs))
    }
}
