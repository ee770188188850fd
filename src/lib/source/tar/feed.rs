//! The bytes of an archive in order, read or passed over. Unit: bytes from the archive's (unpacked) beginning.
//!
//! A plain file is read where something is looked at, and not elsewhere. A stream is kept on the way in a file without a
//! name, holes for its zeros, so that contents can be read later in any order.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::header::BLOCK;

/// Bytes of a file read at once: a header, and what comes before and after it.
const FILE_WINDOW: usize = 4096;
/// Bytes of a stream read at once.
const STREAM_WINDOW: usize = 256 * 1024;
/// Pieces in which a stream's zeros are found.
const PIECE: usize = 4096;

/// An archive being read from its beginning to its end.
pub(super) struct Feed<'a> {
    from: Origin<'a>,
    /// The next byte.
    pos: u64,
    window: Vec<u8>,
    /// Where the window begins, and how much of it is filled.
    window_at: u64,
    filled: usize,
}

enum Origin<'a> {
    File {
        file: &'a File,
        base: u64,
        /// Where it ends, once that was asked for.
        end: Option<u64>,
    },
    Stream {
        stream: Box<dyn Read + Send>,
        spool: &'a File,
    },
}

impl<'a> Feed<'a> {
    /// From byte `base` of a file.
    pub(super) fn file(file: &'a File, base: u64) -> Self {
        Self::new(Origin::File { file, base, end: None }, FILE_WINDOW)
    }

    /// From a stream, which is kept in `spool`.
    pub(super) fn stream(stream: Box<dyn Read + Send>, spool: &'a File) -> Self {
        Self::new(Origin::Stream { stream, spool }, STREAM_WINDOW)
    }

    fn new(from: Origin<'a>, window: usize) -> Self {
        Self { from, pos: 0, window: vec![0; window], window_at: 0, filled: 0 }
    }

    pub(super) const fn pos(&self) -> u64 {
        self.pos
    }

    /// What the window holds from the next byte on; empty at the end only.
    fn rest(&mut self) -> io::Result<&[u8]> {
        while self.pos >= self.window_at + self.filled as u64 {
            match &mut self.from {
                Origin::File { file, base, .. } => {
                    self.filled = read_full(|b, at| file.read_at(b, *base + self.pos + at), &mut self.window)?;
                    self.window_at = self.pos;
                }
                Origin::Stream { stream, spool } => {
                    self.window_at += self.filled as u64;
                    self.filled = read_full(|b, _| stream.read(b), &mut self.window)?;
                    keep(spool, self.window_at, &self.window[..self.filled])?;
                }
            }
            if self.filled == 0 {
                return Ok(&[]);
            }
        }
        let from = (self.pos - self.window_at) as usize;
        Ok(&self.window[from..self.filled])
    }

    /// Fill `buf`; how much of it, less only at the end.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let rest = self.rest()?;
            if rest.is_empty() {
                break;
            }
            let n = rest.len().min(buf.len() - done);
            buf[done..done + n].copy_from_slice(&rest[..n]);
            done += n;
            self.pos += n as u64;
        }
        Ok(done)
    }

    /// Look at the next block without passing it; less of it at the end only. Windows are whole blocks.
    pub(super) fn peek(&mut self) -> io::Result<&[u8]> {
        let rest = self.rest()?;
        Ok(&rest[..rest.len().min(BLOCK)])
    }

    /// Pass over `len` bytes; `false` where the archive ends before.
    pub(super) fn skip(&mut self, len: u64) -> io::Result<bool> {
        let Some(to) = self.pos.checked_add(len) else { return Ok(false) };
        if let Origin::File { file, base, end } = &mut self.from {
            self.pos = to;
            let known = match *end {
                Some(known) => known,
                None => *end.insert(file.metadata()?.len().saturating_sub(*base)),
            };
            return Ok(to <= known);
        }
        while self.pos < to {
            let n = self.rest()?.len() as u64;
            if n == 0 {
                return Ok(false);
            }
            self.pos += n.min(to - self.pos);
        }
        Ok(true)
    }

    /// Read a stream to its end, so that damage there is found. Nothing of it is kept.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        if let Origin::Stream { stream, .. } = &mut self.from {
            io::copy(stream, &mut io::sink())?;
        }
        Ok(())
    }
}

/// Read until `buf` is full or there is no more.
fn read_full(mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match read(&mut buf[done..], done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Write what is not zero.
fn keep(spool: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    let is_zero = |piece: &[u8]| piece.iter().all(|b| *b == 0);
    let mut from = 0;
    while from < bytes.len() {
        let mut to = from;
        while to < bytes.len() && !is_zero(&bytes[to..bytes.len().min(to + PIECE)]) {
            to = bytes.len().min(to + PIECE);
        }
        if to != from {
            spool.write_all_at(&bytes[from..to], at + from as u64)?;
        }
        from = to + PIECE;
    }
    // The file ends where the archive does, even where that is a hole.
    let end = at + bytes.len() as u64;
    if spool.metadata()?.len() < end { spool.set_len(end) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::anonymous_file;
    use std::os::unix::fs::MetadataExt;

    fn bytes() -> Vec<u8> {
        let mut b = vec![0u8; 700_000];
        for (i, x) in b[300_000..310_000].iter_mut().enumerate() {
            *x = i as u8 | 1;
        }
        b[5] = 5;
        b
    }

    fn check(mut feed: Feed<'_>) {
        let want = bytes();
        let mut buf = [0u8; 1000];
        assert_eq!(feed.read(&mut buf[..10]).unwrap(), 10);
        assert_eq!(buf[..10], want[..10]);
        assert!(feed.skip(300_022).unwrap());
        assert_eq!(feed.pos(), 300_032);
        assert_eq!(feed.peek().unwrap(), &want[300_032..300_544]);
        assert_eq!(feed.read(&mut buf).unwrap(), 1000);
        assert_eq!(buf[..], want[300_032..301_032]);
        assert!(feed.skip(want.len() as u64 - 301_032 - 3).unwrap());
        assert_eq!(feed.read(&mut buf).unwrap(), 3);
        assert_eq!(feed.read(&mut buf).unwrap(), 0);
        assert!(!feed.skip(1).unwrap());
        assert!(!feed.skip(u64::MAX).unwrap());
    }

    #[test]
    fn files_and_streams_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, [vec![9; 777], bytes()].concat()).unwrap();
        check(Feed::file(&File::open(path).unwrap(), 777));
        let spool = anonymous_file(dir.path()).unwrap();
        check(Feed::stream(Box::new(io::Cursor::new(bytes())), &spool));
        let mut kept = vec![0; bytes().len()];
        spool.read_exact_at(&mut kept, 0).unwrap();
        assert!(kept == bytes());
        assert!(spool.metadata().unwrap().blocks() * 512 < 100_000, "zeros are holes");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
