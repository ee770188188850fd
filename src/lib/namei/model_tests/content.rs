//! Content of files in the model: pieces of one pattern with holes between them. Offsets in bytes.

use std::borrow::Cow;
use std::sync::OnceLock;

use crate::env::{Entropy, SeededEntropy};
use crate::source::Segment;

const PATTERN: usize = 1 << 20;

/// Bytes that are no zeros.
fn pattern() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut all = vec![0; PATTERN];
        SeededEntropy::new(9).fill(&mut all);
        for b in &mut all {
            *b |= u8::from(*b == 0);
        }
        all
    })
}

/// `start..end` holds the pattern, shifted by `salt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) salt: u32,
}

/// A file's content: pieces in order that do not overlap, none beyond the size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stuff {
    pub(super) size: u64,
    pub(super) pieces: Vec<Piece>,
}

impl Stuff {
    pub(super) fn fill(&self, offset: u64, buf: &mut [u8]) {
        buf.fill(0);
        let end = offset + buf.len() as u64;
        let first = self.pieces.partition_point(|p| p.end <= offset);
        for p in self.pieces[first..].iter().take_while(|p| p.start < end) {
            let mut at = p.start.max(offset);
            let stop = p.end.min(end);
            while at < stop {
                let from = (at as usize).wrapping_add(p.salt as usize) % PATTERN;
                let n = (PATTERN - from).min((stop - at) as usize);
                let to = (at - offset) as usize;
                buf[to..to + n].copy_from_slice(&pattern()[from..from + n]);
                at += n as u64;
            }
        }
    }

    pub(super) fn resize(&mut self, size: u64) {
        self.pieces.retain(|p| p.start < size);
        if let Some(p) = self.pieces.last_mut() {
            p.end = p.end.min(size);
        }
        self.size = size;
    }

    /// Put a piece over what is there.
    pub(super) fn put(&mut self, new: Piece) {
        let mut all = Vec::with_capacity(self.pieces.len() + 2);
        for p in &self.pieces {
            let before = Piece { end: p.end.min(new.start), ..*p };
            let after = Piece { start: p.start.max(new.end), ..*p };
            all.extend([before, after].into_iter().filter(|p| p.start < p.end));
        }
        all.push(new);
        all.sort_by_key(|p| p.start);
        self.pieces = all;
    }
}

impl super::super::Content for &Stuff {
    fn size(&self) -> u64 {
        self.size
    }

    fn segments(&self) -> Cow<'_, [Segment]> {
        self.pieces.iter().map(|p| Segment { start: p.start, end: p.end }).collect()
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> crate::Result<()> {
        self.fill(offset, buf);
        Ok(())
    }
}

#[test]
fn pieces_are_cut_and_covered() {
    let piece = |start, end, salt| Piece { start, end, salt };
    let mut s = Stuff { size: 100, pieces: vec![piece(10, 50, 1), piece(60, 90, 2)] };
    s.put(piece(40, 70, 3));
    assert_eq!(s.pieces, [piece(10, 40, 1), piece(40, 70, 3), piece(70, 90, 2)]);
    s.put(piece(20, 25, 4));
    assert_eq!(s.pieces.len(), 5);
    s.resize(45);
    assert_eq!(s.pieces.last(), Some(&piece(40, 45, 3)));
    let mut buf = [1; 20];
    s.fill(30, &mut buf);
    assert!(buf[..15].iter().all(|b| *b != 0) && buf[15..] == [0; 5]);
}
