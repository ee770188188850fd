//! What an image is wrapped in or followed by: the sparse format of Android's tools, qcow2, a dm-verity hash tree; and what a device
//! holds already.
//!
//! The formats are written in ascending order, so that they can go to a pipe. What is a hole of the device stays one. Lengths and
//! offsets are in bytes unless a name says otherwise.

mod qcow2;
mod signature;
mod sparse;
mod verity;

pub use qcow2::write_qcow2;
pub use signature::{Signature, signatures};
pub use sparse::write_sparse;
pub use verity::{Verity, append_verity, verity_len};

use std::io::Write;
use std::ops::Range;

use crate::device::BlockDevice;
use crate::error::{Error, IoOp, Result};

/// Bytes copied at once.
const CHUNK: u64 = 1 << 20;

/// What an image file looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// As the device would be.
    #[default]
    Raw,
    /// Android's sparse format, version 1.0.
    Sparse,
    /// QEMU's, version 3.
    Qcow2,
}

impl Format {
    /// The format of that name.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for any other name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "raw" => Ok(Self::Raw),
            "sparse" | "android-sparse" => Ok(Self::Sparse),
            "qcow2" => Ok(Self::Qcow2),
            _ => Err(Error::InvalidArgument {
                name: "format",
                value: name.to_owned(),
                allowed: "raw, sparse (Android's) or qcow2",
            }),
        }
    }
}

/// The units of `unit` bytes that may hold something other than zeros, as ascending ranges that do not touch.
fn data_units(dev: &dyn BlockDevice, unit: u64) -> Result<Vec<Range<u64>>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while let Some(data) = dev.next_data(at)? {
        let range = data.start / unit..data.end.div_ceil(unit);
        match out.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
        at = data.end;
    }
    Ok(out)
}

/// Write bytes `range` of the device; what is behind its end is zeros.
fn copy(dev: &dyn BlockDevice, range: Range<u64>, out: &mut dyn Write) -> Result<()> {
    let mut buf = vec![0; CHUNK.min(range.end - range.start) as usize];
    let mut at = range.start;
    while at < range.end {
        let n = (range.end - at).min(CHUNK) as usize;
        let have = dev.len().saturating_sub(at).min(n as u64) as usize;
        dev.read_at(at, &mut buf[..have])?;
        buf[have..n].fill(0);
        put(out, at, &buf[..n])?;
        at += n as u64;
    }
    Ok(())
}

/// Write bytes; `at` is told where that fails.
fn put(out: &mut dyn Write, at: u64, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(|source| Error::Io { op: IoOp::Write, offset: at, len: bytes.len() as u64, source })
}
