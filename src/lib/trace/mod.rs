//! Traces of the write path: what [`crate::file::event`] tells, as text ([`render`]); logs of the kernel's tracepoints read
//! ([`log`]), and held against the rules of delayed allocation ([`follow()`]).

pub mod follow;
pub mod log;
pub mod render;

pub use follow::{Broken, Followed, Inconsistency, follow};
pub use log::{Log, Unreadable};
