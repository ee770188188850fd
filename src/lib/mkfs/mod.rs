//! Making a filesystem: options, then a layout, then a writer.
//!
//! [`Options`] is what was asked for, [`Layout`] is where everything goes, [`Draft`] is the filesystem being filled, and
//! [`Draft::write`] puts it on a device. Nothing touches a device before that. The numbers (group sizes, inode counts,
//! journal sizes, places of tables) are those of mke2fs 1.47.4.

mod bad;
pub mod conf;
mod draft;
mod external;
mod layout;
#[cfg(test)]
mod layout_tests;
mod map;
mod options;
mod params;
pub mod parse;
mod space;
mod superblock;
mod system;
mod tables;
mod usage;
mod write;

pub use bad::{read_list, scan, wear};
pub use draft::Draft;
pub use external::{find_journal, join_journal};
pub use layout::{JournalSize, Layout};
pub use options::{
    Amount, ExternalJournal, FeatureEdit, FsType, JournalOptions, OnError, Options, QuotaTypes, Size, parse_units,
};

/// What the room above needs to fill a draft.
pub(crate) mod fill {
    pub(crate) use super::map::{extent_root, indirect_root};
    pub(crate) use super::system::{dir_format, finish_inode};
    pub(crate) use super::usage::Usage;
    pub(crate) use super::write::Inodes;
}
