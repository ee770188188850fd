//! One operation's part of the running transaction, as rooms above see it. Changes are in the transaction as they are made; credits
//! are blocks of metadata that it may still add.

use std::io::IoSlice;
use std::sync::Arc;

use super::content::{check_block, invalid};
use super::transact::{Journal, Target};
use crate::error::{Error, Result};
use crate::units::{Fsblk, Tid};
use crate::volume::store::MetaStore;

/// One operation's part of the running transaction. Its changes are in the transaction as they are made; dropping it gives
/// back the credits that were not used.
#[derive(Debug)]
#[doc(alias = "handle_t")]
pub struct Handle<'j> {
    journal: &'j mut Journal,
    credits: u32,
}

impl<'j> Handle<'j> {
    /// A part of what runs in `journal`, with credits for so many blocks.
    pub(super) const fn new(journal: &'j mut Journal, credits: u32) -> Self {
        Self { journal, credits }
    }

    /// The transaction.
    pub const fn tid(&self) -> Tid {
        self.journal.running()
    }

    /// Metadata blocks of the running transaction, with `more`.
    pub fn blocks_with(&self, more: u64) -> u64 {
        self.journal.pending().0 + more
    }

    /// Commit what is running and go on in a new transaction with `credits`: what was done so far and what comes are no
    /// longer one.
    ///
    /// # Errors
    /// Those of [`Journal::commit`] and [`Journal::start`].
    #[doc(alias = "jbd2_journal_restart")]
    pub fn restart(&mut self, credits: u32) -> Result<()> {
        self.journal.commit()?;
        self.credits = self.journal.start(credits)?.credits;
        Ok(())
    }

    fn put(&mut self, block: Fsblk, bytes: Arc<[u8]>, made: bool) -> Result<()> {
        self.journal.check_alive()?;
        let shared = &self.journal.shared;
        let size = shared.block_size as usize;
        if bytes.len() != size {
            return Err(invalid("bytes", bytes.len() as u64, "a whole block"));
        }
        check_block(shared, block, 1)?;
        if let Target::Log(w) = &self.journal.target
            && w.log().area().holds(block)
        {
            return Err(invalid("block", block.0, "outside the journal"));
        }
        let mut state = shared.write();
        state.keep_block(shared, block)?;
        let fresh = !state.running.blocks.contains_key(&block);
        if fresh {
            let Some(left) = self.credits.checked_sub(1) else {
                return Err(Error::NoSpace { what: "credits", need: 1, have: 0 });
            };
            self.credits = left;
            if made {
                state.running.made.insert(block);
            }
        }
        state.changes += 1;
        state.running.revoked.remove(&block);
        state.running.blocks.insert(block, bytes);
        Ok(())
    }
}

impl MetaStore for Handle<'_> {
    fn read(&self, block: Fsblk) -> Result<Arc<[u8]>> {
        check_block(&self.journal.shared, block, 1)?;
        self.journal.shared.block(block)
    }

    fn write(&mut self, block: Fsblk, bytes: Arc<[u8]>) -> Result<()> {
        self.put(block, bytes, false)
    }

    fn create(&mut self, block: Fsblk, bytes: Arc<[u8]>) -> Result<()> {
        self.put(block, bytes, true)
    }

    fn forget(&mut self, block: Fsblk) -> Result<()> {
        self.journal.check_alive()?;
        check_block(&self.journal.shared, block, 1)?;
        let mut state = self.journal.shared.write();
        state.keep_block(&self.journal.shared, block)?;
        state.changes += 1;
        state.running.made.remove(&block);
        if state.running.blocks.remove(&block).is_some() {
            self.credits = self.credits.saturating_add(1);
        }
        // What is home already, or never was in the log, cannot come back.
        if state.committed.contains_key(&block) {
            state.running.revoked.insert(block);
        }
        Ok(())
    }

    fn forget_content(&mut self, start: Fsblk, len: u32) -> Result<()> {
        check_block(&self.journal.shared, start, len.into())?;
        let logged: Vec<Fsblk> = {
            let span = start..Fsblk(start.0 + u64::from(len));
            let state = self.journal.shared.read();
            let running = state.running.blocks.range(span.clone());
            running.chain(state.committed.range(span)).map(|(b, _)| *b).collect()
        };
        logged.into_iter().try_for_each(|b| self.forget(b))
    }

    fn write_data(&mut self, block: Fsblk, bytes: &[u8]) -> Result<()> {
        self.journal.write_content(block, &[IoSlice::new(bytes)])
    }

    fn credits(&self) -> u32 {
        self.credits
    }

    fn extend(&mut self, more: u32) -> Result<bool> {
        self.journal.check_alive()?;
        if u64::from(self.credits) + u64::from(more) > self.journal.room() {
            return Ok(false);
        }
        self.credits += more;
        Ok(true)
    }
}
