//! Transactions for images without a journal: the same interface, and no atomicity.
//!
//! A commit writes content and blocks that were free first, flushes, then the rest of the metadata, and the superblock last. From the first commit to
//! [`super::Journal::close`] the superblock says that the filesystem was not cleanly unmounted, so that a kill in between is
//! noticed and checked for. Nothing is written before the first commit but content of files.

use super::transact::{Journal, JournalOptions};
use crate::error::Result;
use crate::volume::Volume;

/// Start writing to `volume` without a journal. [`Journal::is_atomic`] is false: tell the user that a kill is not covered.
///
/// # Errors
/// [`crate::Error::ReadOnly`], reading failed.
pub fn open(volume: &Volume, options: JournalOptions) -> Result<Journal> {
    Journal::home(volume, options)
}

/// The same where the journal cannot be recovered, or is not to be: for a checker that mends the rest. `needs_recovery` stays
/// as it is.
///
/// # Errors
/// As [`open`].
pub fn open_regardless(volume: &Volume, options: JournalOptions) -> Result<Journal> {
    Journal::home_regardless(volume, options)
}
