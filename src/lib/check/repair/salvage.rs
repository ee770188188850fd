//! Damaged entries of a directory block, brought back into a list that can be followed: what is in the way is taken into the entry
//! before it, and what can still be read stays. The rules are those of the reference, so that the same names are saved.
//! Offsets and lengths in bytes.

use crate::format::dirent::{HEADER, min_rec_len, rec_len_from_disk, rec_len_to_disk};

/// How a block's entries are read.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Block size, which decides how lengths are stored.
    pub(super) block_size: usize,
    /// Entries carry a hash.
    pub(super) hashed: bool,
    /// Highest inode number.
    pub(super) inodes: u32,
    /// Entries at the start that have no hash: `.` and `..`.
    pub(super) dots: bool,
}

fn le32(b: &[u8], at: usize) -> u32 {
    b.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

pub(super) fn rec_len(b: &[u8], at: usize, block_size: usize) -> usize {
    let stored = b.get(at + 4..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_le_bytes(*b));
    rec_len_from_disk(stored, block_size)
}

pub(super) fn set_rec_len(b: &mut [u8], at: usize, len: usize, block_size: usize) {
    if let Some(slot) = b.get_mut(at + 4..at + 6) {
        slot.copy_from_slice(&rec_len_to_disk(len & !3, block_size).to_le_bytes());
    }
}

fn name_len(b: &[u8], at: usize) -> usize {
    b.get(at + 6).copied().unwrap_or_default().into()
}

/// Whether the entry at `at` can be followed.
fn is_sound(b: &[u8], at: usize, shape: Shape, hashed: bool) -> bool {
    let len = rec_len(b, at, shape.block_size);
    b.len() - at >= HEADER
        && at + len <= b.len()
        && len >= min_rec_len(1, hashed)
        && len.is_multiple_of(4)
        && min_rec_len(name_len(b, at), hashed) <= len
}

/// Mend all entries of `b` from `start` on.
#[doc(alias = "salvage_directory")]
pub(super) fn salvage(b: &mut [u8], start: usize, shape: Shape) {
    let mut at = start;
    let mut before: Option<usize> = None;
    let mut index = 0u32;
    // Every turn either goes on or takes bytes away; the bound is for what cannot happen.
    for _ in 0..b.len() * 2 {
        if at >= b.len() {
            break;
        }
        let hashed = shape.hashed && !(shape.dots && index < 2);
        if is_sound(b, at, shape, hashed) {
            before = Some(at);
            at += rec_len(b, at, shape.block_size);
            index += 1;
        } else {
            at = mend_one(b, at, before, shape, hashed);
        }
    }
}

/// Mend the entry at `at`; where to look next.
fn mend_one(b: &mut [u8], at: usize, before: Option<usize>, shape: Shape, hashed: bool) -> usize {
    let size = shape.block_size;
    let room = b.len() - at;
    let (len, names) = if room < HEADER { (room, 0) } else { (rec_len(b, at, size), name_len(b, at)) };
    let grow = |b: &mut [u8], p: usize, by: usize| set_rec_len(b, p, rec_len(b, p, size) + by, size);
    // Only a header: what comes behind it moves up.
    if len == HEADER && room >= HEADER + min_rec_len(1, hashed) {
        b.copy_within(at + HEADER.., at);
        let end = b.len() - HEADER;
        b[end..].fill(0);
        return at;
    }
    // Too long, but the name is whole: it ends with the block.
    let name = b.get(at + HEADER..at + HEADER + names).unwrap_or_default();
    if len > room
        && room > HEADER
        && names + HEADER <= room
        && le32(b, at) <= shape.inodes
        && name.len() == names
        && !name.contains(&0)
    {
        set_rec_len(b, at, room, size);
        // A name that would need more than there is cannot stay.
        if min_rec_len(names, hashed) <= room && room.is_multiple_of(4) {
            return at;
        }
    }
    // A length that fits: the entry before takes it in.
    if let Some(p) = before {
        if len > 0 && len.is_multiple_of(4) && len <= room {
            grow(b, p, len);
            return at + len;
        }
        grow(b, p, room);
        return b.len();
    }
    // The rest of the block becomes one unused entry.
    if let Some(head) = b.get_mut(at..at + HEADER.min(room)) {
        head.fill(0);
    }
    set_rec_len(b, at, room, size);
    b.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { block_size: 1024, hashed: false, inodes: 100, dots: false };

    fn entry(b: &mut [u8], at: usize, ino: u32, len: u16, name: &[u8]) {
        b[at..at + 4].copy_from_slice(&ino.to_le_bytes());
        b[at + 4..at + 6].copy_from_slice(&len.to_le_bytes());
        b[at + 6] = name.len() as u8;
        b[at + 8..at + 8 + name.len()].copy_from_slice(name);
    }

    fn names(b: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < b.len() {
            assert!(is_sound(b, at, SHAPE, false), "{at}");
            out.push((le32(b, at), b[at + 8..at + 8 + name_len(b, at)].to_vec()));
            at += rec_len(b, at, 1024);
        }
        out
    }

    #[test]
    fn what_can_be_read_stays() {
        // The second entry's length is odd: it and all behind it go into the first.
        let mut b = vec![0; 1024];
        entry(&mut b, 0, 12, 12, b"abc");
        entry(&mut b, 12, 13, 13, b"def");
        entry(&mut b, 24, 14, 1000, b"ghi");
        salvage(&mut b, 0, SHAPE);
        assert_eq!(names(&b), [(12, b"abc".to_vec())]);
        // Its name is too long for it: it goes into the first, the third stays.
        entry(&mut b, 0, 12, 12, b"abc");
        entry(&mut b, 12, 13, 12, b"def");
        b[12 + 6] = 200;
        salvage(&mut b, 0, SHAPE);
        assert_eq!(names(&b), [(12, b"abc".to_vec()), (14, b"ghi".to_vec())]);
        // The last one is longer than the block.
        entry(&mut b, 0, 12, 24, b"abc");
        entry(&mut b, 24, 14, 2000, b"ghi");
        salvage(&mut b, 0, SHAPE);
        assert_eq!(names(&b), [(12, b"abc".to_vec()), (14, b"ghi".to_vec())]);
        // Nothing but rubbish.
        let mut b = vec![0xa5; 1024];
        salvage(&mut b, 0, SHAPE);
        assert_eq!(names(&b).len(), 1);
        // A header of length eight: what is behind moves up.
        let mut b = vec![0; 1024];
        entry(&mut b, 0, 12, 12, b"abc");
        entry(&mut b, 12, 0, 8, b"");
        entry(&mut b, 20, 14, 1004, b"ghi");
        salvage(&mut b, 0, SHAPE);
        assert_eq!(names(&b)[1].0, 14);
    }
}
