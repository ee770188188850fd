//! Buffered standard output whose last error is not lost.

use std::io::{BufWriter, Error, Result, StdoutLock, Write};
use std::sync::{Mutex, PoisonError};

/// The error of a buffer that could not be written out when it was dropped.
static LOST: Mutex<Option<Error>> = Mutex::new(None);

/// Standard output, locked and buffered; written out when dropped.
#[derive(Debug)]
pub struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    pub(super) fn new() -> Self {
        Self(BufWriter::with_capacity(1 << 16, std::io::stdout().lock()))
    }
}

impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Err(e) = self.0.flush() {
            LOST.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
        }
    }
}

/// Write out what is left, and report what an [`Output`] could not.
pub(super) fn finish() -> Result<()> {
    let lost = LOST.lock().unwrap_or_else(PoisonError::into_inner).take();
    lost.map_or_else(|| std::io::stdout().flush(), Err)
}
