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
//!
//! # A tour
//!
//! Everything works on a [`device::BlockDevice`]: a file ([`device::ImageSpec`] opens one), or memory. Made is a filesystem from
//! options, a layout and a writer:
//!
//! ```
//! use std::sync::Arc;
//!
//! use ext4kit::device::{BlockDevice, MemoryDevice};
//! use ext4kit::env::{FixedClock, Timestamp};
//! use ext4kit::mkfs::{Draft, Layout, Options, Size};
//!
//! # fn main() -> ext4kit::Result<()> {
//! let now = Timestamp::from_secs(1_700_000_000);
//! let options = Options::new(Size::Device(16 << 20), [1; 16], [2; 16], now);
//! let image = MemoryDevice::new(16 << 20);
//! Draft::new(Layout::new(&options)?)?.write(&image, true)?;
//! let image: Arc<dyn BlockDevice> = Arc::new(image);
//!
//! // Edit it: all of a batch is one transaction of its journal, or nothing.
//! use ext4kit::batch::{self, Report, Script, Unwatched};
//! use ext4kit::cli::SystemTimer;
//!
//! let how = batch::Options::new(Arc::new(FixedClock(now)), Arc::new(SystemTimer));
//! let mut session = batch::Session::open(Arc::clone(&image), how)?;
//! let script = Script::parse(b"mkdir -p /etc/conf\ntouch /etc/conf/empty\nsymlink conf/empty /etc/link\n")?;
//! script.run(&mut session, &mut Unwatched, &mut Report::default(), &mut |_, _| ())?;
//! session.close()?;
//!
//! // Open it and read.
//! use ext4kit::volume::{LastLink, OpenOptions, Owner, Volume};
//!
//! let volume = Volume::open(Arc::clone(&image), &OpenOptions::default())?;
//! let (ino, inode) = volume.resolve_inode(b"/etc", LastLink::Follow)?;
//! let names: Vec<_> = volume.read_dir(Owner { ino, inode: &inode })?.into_iter().map(|e| e.name).collect();
//! assert!(names.contains(&b"link".to_vec()));
//! let (ino, inode) = volume.resolve_inode(b"/etc/link", LastLink::Follow)?;
//! assert_eq!(volume.reader(Owner { ino, inode: &inode })?.size(), 0);
//!
//! // Check it.
//! use ext4kit::check::{CheckOptions, Collect, check};
//! use ext4kit::progress::Silent;
//!
//! let mut findings = Collect::default();
//! let outcome = check(&image, &CheckOptions::everything(now), &mut findings, &Silent)?;
//! assert_eq!((outcome.errors, findings.0.len()), (0, 0));
//!
//! // Ask it as a person would.
//! use ext4kit::inspect::Format;
//! use ext4kit::shell::{Session, Settings, run_line};
//!
//! let name = ext4kit::device::ImageSpec::parse("memory");
//! let mut shell = Session::with_volume(Settings::new(Format::PLAIN), name, volume);
//! let mut answer = Vec::new();
//! run_line(&mut shell, b"find /etc", &mut answer).expect("the directory is there");
//! assert!(answer.ends_with(b"/etc/link\n"));
//! # Ok(())
//! # }
//! ```
//!
//! A script of file operations goes through the write path as the kernel would do it, and shows the state after each: here a
//! delayed write that becomes an extent.
//!
//! ```
//! use std::sync::Arc;
//!
//! use ext4kit::device::BlockDevice;
//! use ext4kit::env::Timestamp;
//! use ext4kit::file::PathChoice;
//! use ext4kit::script::{Script, Settings, make, run};
//!
//! # fn main() -> ext4kit::Result<()> {
//! let script = Script::parse(
//!     br#"{"size": "16M", "mkfs": ["-b", 4096], "ops": [
//!         {"op": "write", "file": "f", "off": 0, "len": 8192},
//!         {"op": "fsync", "file": "f"}]}"#,
//! )?;
//! let now = Timestamp::from_secs(1_700_000_000);
//! let device: Arc<dyn BlockDevice> = Arc::new(make(&script.head, now)?);
//! let mut states = Vec::new();
//! let settings = Settings { path: PathChoice::Auto, now, check: true };
//! run(&script, &device, settings, &mut |record| {
//!     states.push(record.to_string());
//!     Ok(())
//! })?;
//! let delayed = |state: &str| state.contains(r#""delayed"]"#);
//! assert!(delayed(&states[1]) && !delayed(&states[2]));
//! # Ok(())
//! # }
//! ```
//!
//! Larger programs are in `examples/`. Before version 1.0 a minor version may change the interface; fields of the JSON forms
//! ([`inspect`]) stay within a version of their schema.

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
