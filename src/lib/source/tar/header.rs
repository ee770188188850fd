//! One tar header of 512 bytes: old, ustar or GNU. Numbers are octal text, or big-endian binary where the first bit is set.

use crate::error::EntryFlaw;
use crate::source::tree::Segment;

/// Bytes of a tar block.
pub(crate) const BLOCK: usize = 512;
/// Pieces of a sparse file in its header, and in each block that goes on with them.
const SLOTS: usize = 4;
const MORE_SLOTS: usize = 21;
/// Bytes of one of them: offset and length.
const SLOT: usize = 24;

/// The bytes of a header.
pub(crate) struct Header(pub(crate) [u8; BLOCK]);

type Flawed<T> = Result<T, EntryFlaw>;

impl Header {
    fn field<const N: usize>(&self, at: usize) -> &[u8] {
        self.0.get(at..at + N).unwrap_or_default()
    }

    /// Nothing but zeros: the end of an archive.
    pub(crate) fn is_zero(&self) -> bool {
        self.0.iter().all(|b| *b == 0)
    }

    /// Whether the checksum is right: the sum of the bytes, its own field taken as spaces. Old programs took them as signed.
    pub(crate) fn is_valid(&self) -> bool {
        let Ok(stored) = number(self.field::<8>(148), "checksum") else { return false };
        let sum = |bytes: &[u8]| bytes.iter().map(|b| u32::from(*b)).sum::<u32>();
        let negative = |bytes: &[u8]| bytes.iter().map(|b| u32::from(*b >> 7)).sum::<u32>();
        let field = self.field::<8>(148);
        let unsigned = i64::from(sum(&self.0) - sum(field)) + 8 * i64::from(b' ');
        stored == unsigned || stored == unsigned - 256 * i64::from(negative(&self.0) - negative(field))
    }

    fn is_gnu(&self) -> bool {
        self.field::<8>(257) == b"ustar  \0"
    }

    /// The path: name, with ustar's prefix before it.
    pub(crate) fn path(&self) -> Vec<u8> {
        let name = text(self.field::<100>(0));
        let ustar = self.field::<6>(257) == b"ustar\0";
        // star keeps times behind a shorter prefix.
        let star = self.field::<4>(508) == b"tar\0";
        let prefix = if star { self.field::<131>(345) } else { self.field::<155>(345) };
        match text(prefix) {
            prefix if ustar && !prefix.is_empty() => [prefix, b"/", name].concat(),
            _ => name.to_vec(),
        }
    }

    pub(crate) fn link(&self) -> Vec<u8> {
        text(self.field::<100>(157)).to_vec()
    }

    /// The letter of the type.
    pub(crate) fn kind(&self) -> u8 {
        self.0.get(156).copied().unwrap_or(0)
    }

    pub(crate) fn mode(&self) -> Flawed<u16> {
        Ok((number(self.field::<8>(100), "the mode")? & 0o7777) as u16)
    }

    pub(crate) fn uid(&self) -> Flawed<u32> {
        id(number(self.field::<8>(108), "the owner")?, "the owner")
    }

    pub(crate) fn gid(&self) -> Flawed<u32> {
        id(number(self.field::<8>(116), "the group")?, "the group")
    }

    /// Names of owner and group; empty where there are none.
    pub(crate) fn owner_names(&self) -> (&[u8], &[u8]) {
        let known = self.field::<5>(257) == b"ustar";
        let name = |at| if known { text(self.field::<32>(at)) } else { &[][..] };
        (name(265), name(297))
    }

    /// Bytes that follow.
    pub(crate) fn size(&self) -> Flawed<u64> {
        size(number(self.field::<12>(124), "the size")?)
    }

    /// Seconds since the epoch.
    pub(crate) fn mtime(&self) -> Flawed<i64> {
        number(self.field::<12>(136), "the time")
    }

    /// Major and minor number.
    pub(crate) fn device(&self) -> Flawed<(u64, u64)> {
        let number = |at| number(self.field::<8>(at), "the device").map(i64::unsigned_abs);
        Ok((number(329)?, number(337)?))
    }

    /// The size with holes of GNU's old sparse files.
    pub(crate) fn real_size(&self) -> Flawed<u64> {
        size(number(self.field::<12>(483), "the size")?)
    }

    /// The first pieces of an old sparse file, and whether more blocks of them follow.
    pub(crate) fn pieces(&self, out: &mut Vec<Segment>) -> Flawed<bool> {
        if !self.is_gnu() {
            return Err(EntryFlaw::SparseMap);
        }
        pieces(self.field::<{ SLOTS * SLOT }>(386), out)?;
        Ok(self.0.get(482) == Some(&1))
    }

    /// The pieces of a block that goes on with them, and whether one more follows.
    pub(crate) fn more_pieces(&self, out: &mut Vec<Segment>) -> Flawed<bool> {
        pieces(self.field::<{ MORE_SLOTS * SLOT }>(0), out)?;
        Ok(self.0.get(504) == Some(&1))
    }
}

fn pieces(slots: &[u8], out: &mut Vec<Segment>) -> Flawed<()> {
    for slot in slots.chunks_exact(SLOT) {
        let (offset, len) = slot.split_at(SLOT / 2);
        if len.first() == Some(&0) {
            break;
        }
        let (start, len) = (size(number(offset, "an offset")?)?, size(number(len, "a length")?)?);
        out.push(Segment { start, end: start.checked_add(len).ok_or(EntryFlaw::SparseMap)? });
    }
    Ok(())
}

/// The bytes before the first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

fn id(n: i64, field: &'static str) -> Flawed<u32> {
    // Some programs write what does not fit as a negative number of 32 bits.
    u32::try_from(n).or_else(|_| i32::try_from(n).map(|n| n as u32)).map_err(|_| EntryFlaw::Number { field })
}

fn size(n: i64) -> Flawed<u64> {
    u64::try_from(n).map_err(|_| EntryFlaw::Number { field: "the size" })
}

/// A numeric field. A blank one is 0.
fn number(field: &[u8], name: &'static str) -> Flawed<i64> {
    let bad = || EntryFlaw::Number { field: name };
    let first = field.first().copied().unwrap_or(0);
    if first & 0x80 != 0 {
        // Two's complement; the first bit only marks the form, the second is the sign.
        let start = if first & 0x40 != 0 { -1i64 } else { 0 };
        let head = (start << 6) | i64::from(first & 0x3f);
        return field
            .iter()
            .skip(1)
            .try_fold(head, |n, b| n.checked_mul(256).and_then(|n| n.checked_add(i64::from(*b))).ok_or_else(bad));
    }
    let digits = text(field).trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    let digits = str::from_utf8(digits).map_err(|_| bad())?;
    i64::from_str_radix(digits, 8).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        let n = |f: &[u8]| number(f, "x").ok();
        assert_eq!(n(b"0000644\0"), Some(0o644));
        assert_eq!(n(b"   644 \0"), Some(0o644));
        assert_eq!(n(b"77777777777\0"), Some((1 << 33) - 1));
        assert_eq!(n(b"777777777777"), Some((1 << 36) - 1));
        assert_eq!(n(&[0; 8]), Some(0));
        assert_eq!(n(b"12x45\0"), None);
        assert_eq!(n(b"9\0"), None);
        assert_eq!(n(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]), Some((2 << 32) + 1));
        assert_eq!(n(&[0xff; 12]), Some(-1));
        assert_eq!(n(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]), Some(-2));
        assert_eq!(n(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]), Some(0xffff_ffff));
        assert_eq!(n(&[0xbf; 12]), None);
        assert_eq!(id(-2, "x"), Ok(0xffff_fffe));
        assert!(id(1 << 32, "x").is_err());
    }

    #[test]
    fn headers_of_the_tar_crate_are_read() {
        for mut h in [tar::Header::new_ustar(), tar::Header::new_gnu(), tar::Header::new_old()] {
            h.set_path("dir/name").unwrap();
            h.set_size(1 << 20);
            h.set_mode(0o4755);
            h.set_uid(1000);
            h.set_gid(70_000);
            h.set_mtime(1_700_000_000);
            h.set_cksum();
            let mut got = Header(*h.as_bytes());
            assert!(got.is_valid());
            assert_eq!(got.path(), b"dir/name");
            assert_eq!((got.size(), got.mode(), got.uid(), got.gid()), (Ok(1 << 20), Ok(0o4755), Ok(1000), Ok(70_000)));
            assert_eq!(got.mtime(), Ok(1_700_000_000));
            got.0[0] ^= 1;
            assert!(!got.is_valid());
        }
        let mut h = tar::Header::new_ustar();
        let long = format!("{}/{}", "p".repeat(150), "n".repeat(100));
        h.set_path(&long).unwrap();
        assert_eq!(Header(*h.as_bytes()).path(), long.as_bytes());
    }
}
