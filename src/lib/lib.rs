//! ext4kit: an offline ext4 image toolkit.
//!
//! The library reads and writes the ext4 on-disk format in user space, without mounting and without root.
//! It is built in layers ("rooms"); a room imports only rooms below it:
//!
//! | room | holds |
//! |---|---|
//! | [`units`], [`error`], [`mod@env`], [`progress`] | number spaces, the error, clock and entropy services, progress and cancellation |
//! | [`device`] | block devices: file, memory map, memory, window, overlay, record, fault |
//! | [`image`] | what an image is wrapped in or followed by: Android sparse, qcow2, dm-verity |
//! | [`mod@format`] | bytes on disk, one structure per file, and their checksums |
//! | [`volume`] | an opened filesystem: geometry, inodes, block maps, directories, xattrs, path look-up |
//! | [`journal`] | jbd2: recovery, transactions, commit, checkpoint |
//! | [`recover`] | a filesystem after a crash: log, fast commits, orphans |
//! | [`alloc`] | buddies, goals and criteria, preallocation, placement of inodes, freeing |
//! | [`mod@file`] | the write path: page cache, extent-status tree, delayed allocation, writeback, truncate, fallocate |
//! | [`trace`] | what the write path does, in the kernel's words; logs of tracepoints read and held against its rules |
//! | [`source`] | where files come from: a directory of the host, listed once, read by several threads |
//! | [`namei`] | operations on names: make, link, unlink, rename, content, attributes |
//! | [`batch`] | edits as one transaction: trees, archives and scripts into an image |
//! | [`extract`] | copying out of an image: a tree of the host, a tar stream, a listing |
//! | [`check`] | checking: the table of problems, the passes, findings as text and JSON |
//! | [`mkfs`] | making a filesystem: options, layout, writer |
//! | [`populate`] | filling a new filesystem from a tree of files in one pass |
//! | [`script`] | scripts of file operations in JSON, run through the write path, with the state after each |
//! | [`inspect`] | typed views of everything, rendered as text or JSON from one model |
//! | [`shell`] | the shell: lexer, command table, session, one file per command family |
//! | [`cli`] | what the binaries share: exit codes, sizes, terminal, progress, errors |
//!
//! The library reads no clock, random source, environment, locale or hash order: they are parameters
//! (see [`mod@env`]). The same input gives the same bytes.

pub mod alloc;
pub mod batch;
pub mod check;
pub mod cli;
pub mod device;
pub mod env;
pub mod error;
pub mod extract;
pub mod file;
pub mod format;
pub mod image;
pub mod inspect;
pub mod journal;
pub mod mkfs;
pub mod namei;
pub mod populate;
pub mod progress;
pub mod recover;
pub mod script;
pub mod shell;
pub mod source;
#[doc(hidden)]
pub mod testing;
pub mod trace;
pub mod units;
pub mod volume;

pub use error::{Error, Result};
