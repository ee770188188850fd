//! The journal (jbd2): recovery of what a crash left in the log, and transactions that survive one.
//!
//! Transaction ids wrap around; journal blocks are numbered from the start of the journal's file or device. Multi-byte
//! numbers of the journal are big endian, those of fast commits little endian.
//!
//! Recovery goes [`Log`] (found and checked) → [`Scan`] (which transactions are whole) → [`replay`] (blocks home) →
//! [`Replayed::finish`] (journal empty). [`recover`] is all of it.
//!
//! Writing goes [`Journal::start`] → [`Handle`] (the volume's [`crate::volume::store::MetaStore`]) → [`Journal::commit`] →
//! [`Journal::checkpoint`], and [`Journal::close`] at the end. Images without a journal are written by [`direct`].

mod area;
mod before;
mod by_hand;
mod content;
pub mod direct;
mod fast;
mod handle;
#[cfg(test)]
mod image_tests;
mod log;
mod pending;
mod recover;
#[cfg(test)]
mod recover_tests;
mod replay;
mod scan;
mod transact;
#[cfg(test)]
mod transact_tests;
mod writer;

pub use area::LogArea;
pub(crate) use area::backup_inode;
pub use before::{Before, OldContent};
pub use by_hand::ByHand;
pub use content::ContentWriter;
pub use fast::FastCommits;
pub use handle::Handle;
pub use log::Log;
pub use recover::{OnDamage, RecoverOptions, Replayed, Report, open_log_recovered, recover, replay_log};
pub use replay::{Outcome, replay};
pub use scan::{End, Logged, Scan};
pub use transact::{Journal, JournalOptions, Savepoint};
