//! The on-disk format: one structure per file, read and written, with its checksum.
//!
//! Structures are `#[repr(C)]` views of the bytes (zerocopy, little endian; big endian in [`jbd2`] only) with
//! the kernel's field names less their prefix. Decoding keeps every byte, so that reserved and unknown fields
//! survive an edit. Nothing here does I/O or knows a filesystem's geometry: rooms above hand in bytes, block
//! numbers and checksum seeds. Hostile bytes give [`crate::Error::Corrupt`], never a panic.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

pub mod acl;
pub mod bitmap;
pub(crate) mod bytes;
pub mod casefold;
pub mod csum;
pub mod dirent;
pub mod dirhash;
pub mod extent;
pub mod fast_commit;
pub mod features;
pub mod group_desc;
pub mod htree;
pub mod indirect;
pub mod inline_data;
pub mod inode;
pub mod jbd2;
pub mod mmp;
pub mod orphan_file;
pub mod quota;
pub mod special;
pub mod superblock;
pub mod verity;
pub mod xattr;

pub use zerocopy::little_endian::{U16, U32, U64};
