//! When what commands change is committed, and what is noted of it to be taken back.

use std::sync::Arc;

use super::session::{Commits, Session, Store, in_use, nothing_open, read_only};
use super::{Failure, Outcome};
use crate::batch::{Options, Session as Edit};
use crate::device::BlockDevice;
use crate::volume::Volume;

impl Session {
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
        opened.store = Store::Read(Box::new(Volume::open(Arc::clone(&device), &self.settings().open)?));
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
        let journal = self.journal_device();
        let (Some(writing), Some(opened)) = (&self.writing, &mut self.opened) else { return Err(read_only()) };
        opened.store = Store::Write(Box::new(Edit::open(device, Options { journal, ..writing.clone() })?));
        Ok(())
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
}

/// A command line, to be shown.
fn shown(command: &[u8]) -> String {
    String::from_utf8_lossy(command.trim_ascii()).escape_debug().to_string()
}
