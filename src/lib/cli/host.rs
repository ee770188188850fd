//! The host's clock and random numbers, and what replaces them when an image must be reproducible.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::rand::GetRandomFlags;

use super::Failure;
use crate::env::{Clock, Entropy, FixedClock, SeededEntropy, Timer, Timestamp};
use crate::error::{Error, Result};
use crate::source::TarFile;

/// The host's real-time clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Timestamp { sec: t.tv_sec, nsec: u32::try_from(t.tv_nsec).unwrap_or(0) }
    }
}

/// The host's timer.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemTimer;

impl Timer for SystemTimer {
    fn elapsed(&self) -> Duration {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// A tar archive at a path, or on standard input for `-`. Temporary files go to the host's directory for them.
///
/// # Errors
/// [`Error::Host`] where it cannot be opened.
pub fn open_tar(path: &Path) -> Result<TarFile> {
    let source = if path.as_os_str() == "-" {
        let name = "standard input";
        let input = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 0).map_err(|e| Error::host("read", name, e))?;
        TarFile::from_file(File::from(input), name)?
    } else {
        TarFile::open(path)?
    };
    Ok(source.spool_in(std::env::temp_dir()))
}

/// The clock to build or edit with: the first of these variables that is set, in seconds since 1970, else the host's.
///
/// `e4fsck` looks at `E2FSCK_TIME` before `SOURCE_DATE_EPOCH`; the others at the latter only.
///
/// # Errors
/// [`Failure::Usage`] where a variable is set to something other than a number of seconds.
pub fn clock(variables: &[&str]) -> Result<Box<dyn Clock>, Failure> {
    for name in variables {
        if let Some(value) = std::env::var_os(name).filter(|v| !v.is_empty()) {
            return Ok(Box::new(fixed(name, &value)?));
        }
    }
    Ok(Box::new(SystemClock))
}

fn fixed(name: &str, value: &OsString) -> Result<FixedClock, Failure> {
    let sec = value.to_str().and_then(|v| v.parse::<i64>().ok()).filter(|&sec| sec >= 0);
    sec.map(|sec| FixedClock(Timestamp::from_secs(sec))).ok_or_else(|| {
        Failure::Usage(format!("{name} is {:?}: a number of seconds since 1970 is needed", value.display().to_string()))
    })
}

/// Random bytes from the host's kernel.
#[derive(Debug)]
pub struct SystemEntropy {
    /// Takes over should the kernel stop answering; seeded by it.
    spare: SeededEntropy,
}

impl SystemEntropy {
    /// Ask the kernel once, so that its absence shows here.
    ///
    /// # Errors
    /// [`Error::Host`] where the kernel gives no random numbers.
    pub fn new() -> Result<Self> {
        let mut seed = [0; 8];
        draw(&mut seed).map_err(|e| Error::host("read", "getrandom", e))?;
        Ok(Self { spare: SeededEntropy::new(u64::from_le_bytes(seed)) })
    }
}

impl Entropy for SystemEntropy {
    fn fill(&mut self, buf: &mut [u8]) {
        if draw(buf).is_err() {
            self.spare.fill(buf);
        }
    }
}

fn draw(buf: &mut [u8]) -> rustix::io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match rustix::rand::getrandom(&mut buf[done..], GetRandomFlags::empty()) {
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Random numbers to build with: from `seed` where one is given (reproducible), else from the kernel.
///
/// # Errors
/// [`Error::Host`] where the kernel gives no random numbers.
pub fn entropy(seed: Option<u64>) -> Result<Box<dyn Entropy>> {
    Ok(match seed {
        Some(seed) => Box::new(SeededEntropy::new(seed)),
        None => Box::new(SystemEntropy::new()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_seconds() {
        assert_eq!(fixed("X", &"1700000000".into()).unwrap().now(), Timestamp::from_secs(1_700_000_000));
        for bad in ["-1", "now", "1.5", "", "99999999999999999999"] {
            assert!(matches!(fixed("X", &bad.into()), Err(Failure::Usage(m)) if m.starts_with("X is ")), "{bad}");
        }
    }

    #[test]
    fn the_kernel_s_bytes_differ_and_the_clock_runs() {
        let mut e = entropy(None).unwrap();
        let (mut a, mut b) = ([0; 300], [0; 300]);
        e.fill(&mut a);
        e.fill(&mut b);
        assert_ne!(a, b);
        assert!(SystemClock.now().sec > 1_600_000_000);
    }
}
