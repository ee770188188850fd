//! The fast-commit area: which of its records count. They are logical changes on top of the last whole transaction; carrying
//! them out needs allocation and names, so it is done in a room above.

use super::log::Log;
use crate::error::{Error, Flaw, Result};
use crate::format::fast_commit::{Record, Scanner, records};
use crate::format::jbd2::JournalIncompat;
use crate::units::Tid;

/// The blocks of a fast-commit area whose commits are whole.
#[derive(Clone, Debug, Default)]
pub struct FastCommits {
    blocks: Vec<Vec<u8>>,
    valid: usize,
}

impl FastCommits {
    /// Read the area for what follows transaction `expected - 1`. Nothing is found where the journal has no such
    /// area, or what is there is older; a first commit that was torn in writing never happened.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the first commit ends with a wrong checksum, [`Error::Unsupported`], reading failed.
    #[doc(alias = "fc_do_one_pass")]
    pub fn read(log: &Log, expected: Tid) -> Result<Self> {
        let sb = log.superblock();
        let mut found = Self::default();
        // An empty journal has no fast commits either: each log starts with a full commit.
        if !sb.incompat().contains(JournalIncompat::FAST_COMMIT) || sb.is_empty() {
            return Ok(found);
        }
        let mut scanner = Scanner::new(expected);
        for at in log.fc_first()..sb.maxlen.get() {
            let mut block = vec![0; log.format().block_size];
            log.area().read(at, &mut block)?;
            let more = match scanner.block(&block) {
                Err(Error::Corrupt { what: Flaw::Field { .. } | Flaw::Short { .. }, .. }) => false,
                other => other?,
            };
            found.blocks.push(block);
            if !more {
                break;
            }
        }
        found.valid = scanner.valid_records();
        if found.valid == 0 {
            found.blocks.clear();
        }
        Ok(found)
    }

    /// Whether there is nothing to carry out.
    pub const fn is_empty(&self) -> bool {
        self.valid == 0
    }

    /// How many records count, heads, tails and padding included.
    pub const fn len(&self) -> usize {
        self.valid
    }

    /// The records of whole commits, in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.blocks.iter().flat_map(|b| records(b)).filter_map(Result::ok).map(|t| t.record).take(self.valid)
    }
}
