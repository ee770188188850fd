//! What tests, fuzz targets and benchmarks share. Not part of the public interface: it changes without notice.

pub mod commands;
pub mod exercise;
pub mod fuzz;
pub mod interleave;
pub mod surgery;

pub use crate::device::crash;
