//! The write path: what the kernel holds in memory between a write and the disk, and how it gets there.
//!
//! Names are the kernel's: extent status, delayed allocation, pending reservation, `i_disksize`, folio, ioend.
//! [`Mount`] is a filesystem in use, with files ([`MemInode`]) in memory; operations on files are its methods. Below
//! it, pure state that does no I/O: [`extent_status`], the cache of what each block of a file is; [`delalloc`], the cluster
//! arithmetic of reservations over it; [`event`], what both tell of their changes; [`folio`], the page cache; [`space`], what may still be promised.
//!
//! How data gets to the device is a [`WritePath`]: [`buffer_head`] or [`iomap`], chosen for each file by [`Mount::uses_iomap`].
//!
//! Units: logical blocks of the filesystem's block size, clusters of `1 << cluster_bits` blocks, bytes of a file.

pub mod buffer_head;
mod check;
#[cfg(test)]
mod check_tests;
pub mod delalloc;
mod direct;
pub mod event;
pub mod extent_status;
mod fallocate;
#[cfg(test)]
mod fault_tests;
pub mod folio;
mod initialise;
mod inline;
mod inode;
pub mod iomap;
mod lent;
mod map;
#[cfg(test)]
mod model_tests;
mod mount;
mod options;
mod path;
mod peek;
mod read;
mod seek;
pub mod space;
#[doc(hidden)]
pub mod steps;
mod sync;
mod truncate;
mod usage;
mod writeback;

pub use inode::{Disk, Lost, MemInode};
pub use mount::Mount;
pub use options::{Commits, DataMode, MountOptions, PathChoice};
pub use path::{IovIter, WritePath};
pub use seek::Whence;
