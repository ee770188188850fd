//! The write path: what the kernel holds in memory between a write and the disk, and how it gets there.
//!
//! Names are the kernel's: extent status, delayed allocation, pending reservation, `i_disksize`, folio, ioend. The
//! parts that stand: [`extent_status`], the cache of what each block of a file is; and [`delalloc`], the
//! cluster arithmetic of reservations over it. Both are pure state: they do no I/O and allocate no blocks.
//!
//! Units: logical blocks of the filesystem's block size, and clusters of `1 << cluster_bits` blocks.

pub mod delalloc;
pub mod extent_status;
