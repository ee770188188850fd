//! The engine for scripts of file operations in JSON: it makes the filesystem in memory, runs the operations through the write
//! path ([`crate::file`]), and shows after each what the kernel would hold, in the format of recordings of the kernel.
//!
//! A script is parsed ([`Script`]), its filesystem made ([`make()`]), and run ([`run`]); each record is one JSON object. The crash
//! operations look at what the device holds, recovered over an overlay ([`recovered()`]). What a crash may leave at any moment of
//! a script, and whether that is allowed, is [`mod@crash`]'s matter. [`Running`]
//! is the engine for who has no script, and decides operation by operation.

mod content;
pub mod crash;
mod engine;
mod make;
mod parse;
mod recovered;
mod running;
mod state;

pub use engine::{Emit, Seen, Settings, run, watch};
pub use make::make;
pub use parse::{Head, Op, Script, Whence};
pub use recovered::recovered;
pub use running::Running;
