//! Directory blocks: variable-length entries that fill the block, and the checksum tail. Little endian.
//! Kernel names: `struct ext4_dir_entry_2`, `ext4_dir_entry_hash`, `ext4_dir_entry_tail`.
//!
//! An entry is `inode` (le32), `rec_len` (le16), `name_len` (u8), `file_type` (u8, 0 without the `filetype`
//! feature), and the name. `rec_len` is a multiple of 4 and leads to the next entry; the last one leads to the end
//! of the block, or to the 12-byte tail of `metadata_csum`, which looks like an unused entry. Inode 0 marks an
//! unused entry. In directories that are both encrypted and case-insensitive, entries other than `.` and `..`
//! carry hash and minor hash (8 bytes) behind the padded name.
//!
//! With 64 KiB blocks a `rec_len` of 65536 is stored as 65535 (0 is read as the same).

use super::bytes::{array, field, le16, le32, put, same_checksum, short};
use super::csum::crc32c;
use super::dirhash::DirHash;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::units::Ino;

/// Longest name, bytes.
#[doc(alias = "EXT4_NAME_LEN")]
pub const MAX_NAME: usize = 255;
/// Bytes of an entry before the name.
pub const HEADER: usize = 8;
/// Bytes of the checksum tail.
pub const TAIL_SIZE: usize = 12;
/// The `file_type` of the tail.
#[doc(alias = "EXT4_FT_DIR_CSUM")]
pub const TAIL_TYPE: u8 = 0xde;
/// Bytes of hash and minor hash behind the name.
const HASH_SIZE: usize = 8;
const OF: Structure = Structure::DirBlock;

/// What a directory's blocks look like; the same for all blocks of one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirFormat {
    /// Entries hold the file type (the `filetype` feature).
    pub filetype: bool,
    /// Entries carry their hash (encrypted and case-insensitive directory).
    #[doc(alias = "ext4_hash_in_dirent")]
    pub hash_in_entry: bool,
    /// Blocks end with a checksum tail (`metadata_csum`).
    pub tail: bool,
}

/// Bytes an entry needs at least: header, name, padding and, where `with_hash`, the hash.
#[doc(alias = "ext4_dir_rec_len")]
pub const fn min_rec_len(name_len: usize, with_hash: bool) -> usize {
    let base = HEADER.saturating_add(name_len).saturating_add(3) & !3;
    if with_hash { base.saturating_add(HASH_SIZE) } else { base }
}

/// The `rec_len` that a stored value stands for, in a block of `block_size` bytes.
#[doc(alias = "ext4_rec_len_from_disk")]
pub const fn rec_len_from_disk(stored: u16, block_size: usize) -> usize {
    if block_size < 65536 {
        return stored as usize;
    }
    match stored {
        0 | 0xffff => block_size,
        v => (v as usize & 0xfffc) | ((v as usize & 3) << 16),
    }
}

/// The value to store for `rec_len` (a multiple of 4, at most the block size) in a block of `block_size` bytes.
#[doc(alias = "ext4_rec_len_to_disk")]
pub const fn rec_len_to_disk(rec_len: usize, block_size: usize) -> u16 {
    debug_assert!(rec_len.is_multiple_of(4) && rec_len <= block_size);
    if rec_len < 65536 {
        rec_len as u16
    } else if rec_len == block_size {
        if block_size == 65536 { 0xffff } else { 0 }
    } else {
        ((rec_len & 0xfffc) | ((rec_len >> 16) & 3)) as u16
    }
}

/// Whether `name` may be the name of an entry: 1 to 255 bytes, no `/`, no NUL. (`.` and `..` are names too.)
pub fn is_valid_name(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.iter().any(|b| matches!(b, b'/' | 0))
}

/// Whether `name` is `.` or `..`.
pub const fn is_dot_or_dotdot(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

/// An entry of a block, as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirent<'a> {
    /// Byte offset in the block.
    pub offset: usize,
    /// Inode; 0 for an unused entry.
    pub ino: Ino,
    /// Bytes to the next entry.
    pub rec_len: usize,
    /// The name; any bytes. May be empty in an unused entry, and in a damaged one.
    pub name: &'a [u8],
    /// The file type byte; see [`super::inode::FileType::from_dirent_code`].
    pub file_type: u8,
    /// The hash that the entry carries, where it does.
    pub hash: Option<DirHash>,
}

impl Dirent<'_> {
    /// Whether the entry names something.
    pub const fn is_used(&self) -> bool {
        self.ino.0 != 0
    }

    /// Bytes of the entry that are in use: none where the entry is unused.
    pub const fn used_len(&self, format: DirFormat) -> usize {
        if !self.is_used() {
            return 0;
        }
        let with_hash = format.hash_in_entry && !is_dot_or_dotdot(self.name);
        // An empty name is damage, but an entry is never shorter than one with a name.
        let name_len = if self.name.is_empty() { 1 } else { self.name.len() };
        min_rec_len(name_len, with_hash)
    }
}

/// The entries of `block` in order, used or not; without the tail.
///
/// Each entry is checked as the kernel does: `rec_len` is large enough for the name, a multiple of 4, stays inside
/// the block and leaves no room too small for an entry. The first flaw is yielded with its byte offset, and ends
/// the iteration. Inode numbers, types and the characters of names are the caller's to check.
pub fn entries(block: &[u8], format: DirFormat) -> Dirents<'_> {
    let end = if format.tail && has_tail(block) { block.len().saturating_sub(TAIL_SIZE) } else { block.len() };
    Dirents { block, end, at: 0, format }
}

/// Iterator over the entries of a block; see [`entries`].
#[derive(Clone, Debug)]
pub struct Dirents<'a> {
    block: &'a [u8],
    end: usize,
    at: usize,
    format: DirFormat,
}

impl<'a> Dirents<'a> {
    /// The same bytes, read from the entry at byte `offset` on.
    #[must_use]
    pub const fn from_offset(self, offset: usize) -> Self {
        Self { at: offset, ..self }
    }

    /// Where the entries end: the tail, or the end of the block.
    pub const fn end(&self) -> usize {
        self.end
    }

    fn read(&self) -> Result<Dirent<'a>> {
        let at = self.at;
        let room = self.end.saturating_sub(at);
        let bad = |name, value: usize| Err(field(OF, name, value as u64, at));
        let Some([i0, i1, i2, i3, r0, r1, name_len, file_type]) = array::<HEADER>(self.block, at) else {
            return Err(short(OF, HEADER, room)).map_err(|e| e.at(Place::FS.offset(at as u64)));
        };
        let stored = u16::from_le_bytes([r0, r1]);
        let rec_len = rec_len_from_disk(stored, self.block.len());
        let name_len = usize::from(name_len);
        let name_at = at.saturating_add(HEADER);
        let name = self.block.get(name_at..name_at.saturating_add(name_len)).unwrap_or_default();
        let with_hash = self.format.hash_in_entry && !is_dot_or_dotdot(name);
        if rec_len < min_rec_len(1, false) || !rec_len.is_multiple_of(4) || rec_len > room {
            return bad("rec_len", rec_len);
        }
        let left = room.saturating_sub(rec_len);
        if left != 0 && left < min_rec_len(1, self.format.hash_in_entry) {
            return bad("rec_len", rec_len);
        }
        let ino = Ino(u32::from_le_bytes([i0, i1, i2, i3]));
        if rec_len < min_rec_len(name_len, with_hash && ino.0 != 0) {
            return bad("name_len", name_len);
        }
        let hash = if with_hash && ino.0 != 0 {
            let hash_at = at.saturating_add(min_rec_len(name_len, false));
            let hash = le32(self.block, hash_at);
            let minor = le32(self.block, hash_at.saturating_add(4));
            hash.zip(minor).map(|(hash, minor)| DirHash { hash, minor })
        } else {
            None
        };
        Ok(Dirent { offset: at, ino, rec_len, name, file_type, hash })
    }
}

impl<'a> Iterator for Dirents<'a> {
    type Item = Result<Dirent<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let entry = self.read();
        self.at = match &entry {
            Ok(e) => e.offset.saturating_add(e.rec_len),
            Err(_) => self.end,
        };
        Some(entry)
    }
}

/// An entry to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewDirent<'a> {
    /// Inode.
    pub ino: Ino,
    /// Name, 1 to 255 bytes.
    pub name: &'a [u8],
    /// File type byte; not stored without the `filetype` feature.
    pub file_type: u8,
    /// Hash, for directories whose entries carry it.
    pub hash: DirHash,
}

impl NewDirent<'_> {
    /// Bytes it needs in a block.
    pub const fn need(&self, format: DirFormat) -> usize {
        min_rec_len(self.name.len(), format.hash_in_entry && !is_dot_or_dotdot(self.name))
    }

    /// Write it at byte `at` with `rec_len`, zeroing the rest of what it needs. `None` where it does not fit.
    fn write(&self, block: &mut [u8], at: usize, rec_len: usize, format: DirFormat) -> Option<()> {
        let need = self.need(format);
        if need > rec_len || self.name.len() > MAX_NAME {
            return None;
        }
        let stored = rec_len_to_disk(rec_len, block.len());
        let slot = block.get_mut(at..at.checked_add(rec_len)?)?;
        slot.get_mut(..need)?.fill(0);
        put(slot, 0, &self.ino.0.to_le_bytes())?;
        put(slot, 4, &stored.to_le_bytes())?;
        put(slot, 6, &[self.name.len() as u8, if format.filetype { self.file_type } else { 0 }])?;
        put(slot, HEADER, self.name)?;
        if format.hash_in_entry && !is_dot_or_dotdot(self.name) {
            let hash_at = need.saturating_sub(HASH_SIZE);
            put(slot, hash_at, &self.hash.hash.to_le_bytes())?;
            put(slot, hash_at.saturating_add(4), &self.hash.minor.to_le_bytes())?;
        }
        Some(())
    }
}

fn set_rec_len(block: &mut [u8], at: usize, rec_len: usize) {
    let stored = rec_len_to_disk(rec_len, block.len());
    put(block, at.saturating_add(4), &stored.to_le_bytes());
}

/// Lays entries into a block one after the other, for directories that are written in one go.
#[derive(Debug)]
pub struct DirPacker<'a> {
    block: &'a mut [u8],
    format: DirFormat,
    end: usize,
    at: usize,
    last: Option<usize>,
}

impl<'a> DirPacker<'a> {
    /// Start with an empty `block`; its old content is overwritten.
    pub fn new(block: &'a mut [u8], format: DirFormat) -> Self {
        block.fill(0);
        let end = block.len().saturating_sub(if format.tail { TAIL_SIZE } else { 0 });
        Self { block, format, end, at: 0, last: None }
    }

    /// Append an entry; `false` where the block has no room for it (or the name is too long), and nothing changed.
    #[must_use]
    pub fn push(&mut self, entry: &NewDirent<'_>) -> bool {
        let need = entry.need(self.format);
        let end = self.at.saturating_add(need);
        if end > self.end || entry.write(self.block, self.at, need, self.format).is_none() {
            return false;
        }
        self.last = Some(self.at);
        self.at = end;
        true
    }

    /// Bytes left for entries.
    pub const fn room(&self) -> usize {
        self.end.saturating_sub(self.at)
    }

    /// Stretch the last entry to the end and write the tail, stamped with `inode_seed` (0 where the directory has
    /// no checksums). A block without entries becomes one unused entry.
    pub fn finish(self, inode_seed: u32) {
        let last = self.last.unwrap_or(0);
        set_rec_len(self.block, last, self.end.saturating_sub(last));
        if self.format.tail {
            write_tail(self.block);
            stamp(self.block, inode_seed);
        }
    }
}

/// Make `block` an empty directory block: one unused entry, and the tail (not stamped) where there is one.
pub fn init_empty(block: &mut [u8], format: DirFormat) {
    DirPacker::new(block, format).finish(0);
}

/// Put an entry into the first place of `block` that has room: an unused entry, or the slack of a used one.
/// Returns its byte offset; `None` where there is no room. The checksum is the caller's to renew.
///
/// # Errors
/// [`Error::Corrupt`] where the entries are damaged.
#[doc(alias = "ext4_insert_dentry")]
pub fn insert(block: &mut [u8], format: DirFormat, entry: &NewDirent<'_>) -> Result<Option<usize>> {
    let need = entry.need(format);
    let mut place = None;
    for old in entries(block, format) {
        let old = old?;
        let used = old.used_len(format);
        if old.rec_len.saturating_sub(used) >= need {
            place = Some((old.offset, used, old.rec_len));
            break;
        }
    }
    let Some((offset, used, rec_len)) = place else { return Ok(None) };
    let at = offset.saturating_add(used);
    let left = rec_len.saturating_sub(used);
    if entry.write(block, at, left, format).is_none() {
        return Ok(None);
    }
    if used != 0 {
        set_rec_len(block, offset, used);
    }
    Ok(Some(at))
}

/// Remove the entry at byte `offset`: the one before it takes its place, or, at the start of the block, it becomes
/// unused. `false` where no entry starts there. The checksum is the caller's to renew.
///
/// # Errors
/// [`Error::Corrupt`] where the entries are damaged.
#[doc(alias = "ext4_generic_delete_entry")]
pub fn remove(block: &mut [u8], format: DirFormat, offset: usize) -> Result<bool> {
    let mut before: Option<(usize, usize)> = None;
    let mut found = None;
    for entry in entries(block, format) {
        let entry = entry?;
        if entry.offset == offset {
            found = Some(entry.rec_len);
            break;
        }
        before = Some((entry.offset, entry.rec_len));
    }
    let Some(rec_len) = found else { return Ok(false) };
    if let Some((at, len)) = before {
        set_rec_len(block, at, len.saturating_add(rec_len));
    } else {
        put(block, offset, &[0; 4]);
    }
    Ok(true)
}

/// Point the entry at byte `offset` to another inode. The checksum is the caller's to renew.
pub fn set_target(block: &mut [u8], format: DirFormat, offset: usize, ino: Ino, file_type: u8) -> Option<()> {
    put(block, offset, &ino.0.to_le_bytes())?;
    if format.filetype {
        put(block, offset.checked_add(7)?, &[file_type])?;
    }
    Some(())
}

/// Whether `block` ends with a checksum tail.
#[doc(alias = "get_dirent_tail")]
pub fn has_tail(block: &[u8]) -> bool {
    let at = block.len().saturating_sub(TAIL_SIZE);
    block.len() >= TAIL_SIZE && array::<8>(block, at) == Some([0, 0, 0, 0, TAIL_SIZE as u8, 0, 0, TAIL_TYPE])
}

/// Write an unstamped tail over the last 12 bytes of `block`.
pub fn write_tail(block: &mut [u8]) {
    let at = block.len().saturating_sub(TAIL_SIZE);
    put(block, at, &[0, 0, 0, 0, TAIL_SIZE as u8, 0, 0, TAIL_TYPE, 0, 0, 0, 0]);
}

/// The stored and the right checksum of a block, with the directory's inode seed; `None` where there is no tail.
#[doc(alias = "ext4_dirblock_csum")]
pub fn checksum(block: &[u8], inode_seed: u32) -> Option<(u32, u32)> {
    if !has_tail(block) {
        return None;
    }
    let at = block.len().checked_sub(TAIL_SIZE)?;
    Some((le32(block, at.checked_add(8)?)?, crc32c(inode_seed, block.get(..at)?)))
}

/// Compare the checksum of a block. A missing tail is a flaw too.
#[doc(alias = "ext4_dirblock_csum_verify")]
pub fn verify(block: &[u8], inode_seed: u32) -> Result<()> {
    if let Some((stored, computed)) = checksum(block, inode_seed) {
        return same_checksum(OF, stored, computed);
    }
    let at = block.len().saturating_sub(TAIL_SIZE);
    Err(Error::corrupt(Flaw::Inconsistent { of: OF, detail: "no checksum tail" }, Place::FS.offset(at as u64)))
}

/// Bring the checksum of a block up to date, where it has a tail.
pub fn stamp(block: &mut [u8], inode_seed: u32) {
    if let Some((_, crc)) = checksum(block, inode_seed) {
        let at = block.len().saturating_sub(4);
        put(block, at, &crc.to_le_bytes());
    }
}

/// The stored `rec_len` of the entry at byte `offset`, decoded, with nothing checked.
pub(crate) fn raw_rec_len(block: &[u8], offset: usize) -> Option<usize> {
    Some(rec_len_from_disk(le16(block, offset.checked_add(4)?)?, block.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: DirFormat = DirFormat { filetype: true, hash_in_entry: false, tail: false };
    const FORMATS: [DirFormat; 4] = [
        PLAIN,
        DirFormat { filetype: false, hash_in_entry: false, tail: false },
        DirFormat { filetype: true, hash_in_entry: false, tail: true },
        DirFormat { filetype: true, hash_in_entry: true, tail: true },
    ];

    fn new(ino: u32, name: &[u8]) -> NewDirent<'_> {
        NewDirent { ino: Ino(ino), name, file_type: 1, hash: DirHash { hash: ino * 2, minor: 7 } }
    }

    fn list(block: &[u8], format: DirFormat) -> Vec<(u32, Vec<u8>)> {
        entries(block, format).map(|e| e.unwrap()).filter(Dirent::is_used).map(|e| (e.ino.0, e.name.to_vec())).collect()
    }

    #[test]
    fn rec_len_of_all_block_sizes() {
        for block_size in [1024usize, 4096, 32768, 65536] {
            for rec_len in (12..=block_size).step_by(4) {
                assert_eq!(rec_len_from_disk(rec_len_to_disk(rec_len, block_size), block_size), rec_len);
            }
        }
        assert_eq!(rec_len_to_disk(65536, 65536), 0xffff);
        assert_eq!(rec_len_from_disk(0, 65536), 65536);
        assert_eq!(rec_len_from_disk(0, 4096), 0);
    }

    #[test]
    fn packed_entries_come_back() {
        for format in FORMATS {
            for size in [1024, 4096, 65536] {
                let mut block = vec![0xff; size];
                let mut want = vec![];
                let mut packer = DirPacker::new(&mut block, format);
                for i in 0.. {
                    let name = match i {
                        0 => b".".to_vec(),
                        1 => b"..".to_vec(),
                        _ => vec![b'a' + (i % 26) as u8; 1 + i as usize % 255],
                    };
                    if !packer.push(&new(i + 11, &name)) {
                        break;
                    }
                    want.push((i + 11, name));
                }
                packer.finish(5);
                assert_eq!(list(&block, format), want);
                for e in entries(&block, format).map(|e| e.unwrap()) {
                    assert_eq!(e.hash.is_some(), format.hash_in_entry && e.offset > 12 + 11);
                    assert_eq!(e.file_type, u8::from(format.filetype));
                    if let Some(h) = e.hash {
                        assert_eq!(h, DirHash { hash: e.ino.0 * 2, minor: 7 });
                    }
                }
                if format.tail {
                    verify(&block, 5).unwrap();
                    assert!(matches!(
                        verify(&block, 6),
                        Err(Error::Corrupt { what: Flaw::Checksum { of: Structure::DirBlock, .. }, .. })
                    ));
                } else {
                    assert!(verify(&block, 5).is_err());
                }
            }
        }
    }

    #[test]
    fn an_empty_block_is_one_unused_entry() {
        for size in [1024, 65536] {
            let mut block = vec![1; size];
            init_empty(&mut block, PLAIN);
            let all: Vec<_> = entries(&block, PLAIN).map(|e| e.unwrap()).collect();
            assert_eq!(all.len(), 1);
            assert_eq!((all[0].ino.0, all[0].rec_len), (0, size));
        }
    }

    #[test]
    fn flaws_are_named_with_their_offset() {
        let mut good = vec![0; 1024];
        let mut packer = DirPacker::new(&mut good, PLAIN);
        for (i, n) in [&b"."[..], b"..", b"name"].iter().enumerate() {
            assert!(packer.push(&new(i as u32 + 2, n)));
        }
        packer.finish(0);
        // The third entry starts at byte 24: break its fields one by one.
        for (at, value, name, shown) in [
            (28, 8, "rec_len", 8),         // below the minimum
            (28, 14, "rec_len", 14),       // not a multiple of 4
            (29, 0xff, "rec_len", 0xffe8), // beyond the block
            (28, 0xe0, "rec_len", 0x3e0),  // leaves 8 bytes
            (30, 255, "name_len", 255),
        ] {
            let mut block = good.clone();
            if name == "rec_len" && shown != 0xffe8 {
                block[28..30].copy_from_slice(&(shown as u16).to_le_bytes());
            } else {
                block[at] = value;
            }
            if name == "name_len" {
                block[28..30].copy_from_slice(&12u16.to_le_bytes());
            }
            let last = entries(&block, PLAIN).last().unwrap();
            match last {
                Err(Error::Corrupt { what: Flaw::Field { of: OF, field, value }, place }) => {
                    assert_eq!((field, value, place.offset), (name, shown, Some(24)));
                }
                other => panic!("{name} {shown}: {other:?}"),
            }
            assert_eq!(entries(&block, PLAIN).flatten().count(), 2);
        }
    }

    #[test]
    fn insert_and_remove() {
        for format in FORMATS {
            let mut block = vec![0; 1024];
            init_empty(&mut block, format);
            assert_eq!(insert(&mut block, format, &new(5, b"one")).unwrap(), Some(0));
            let two = insert(&mut block, format, &new(6, b"two")).unwrap().unwrap();
            insert(&mut block, format, &new(7, b"three")).unwrap().unwrap();
            assert!(remove(&mut block, format, two).unwrap());
            assert!(!remove(&mut block, format, two).unwrap());
            assert_eq!(list(&block, format), [(5, b"one".to_vec()), (7, b"three".to_vec())]);
            assert_eq!(insert(&mut block, format, &new(8, b"2")).unwrap(), Some(two));
            assert!(remove(&mut block, format, 0).unwrap());
            assert_eq!(list(&block, format), [(8, b"2".to_vec()), (7, b"three".to_vec())]);
            set_target(&mut block, format, two, Ino(99), 2).unwrap();
            assert_eq!(list(&block, format)[0].0, 99);
            let mut n = 0;
            while insert(&mut block, format, &new(9, format!("file{n}").as_bytes())).unwrap().is_some() {
                n += 1;
            }
            assert!(n > 30 && list(&block, format).len() == n + 2);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048), f in 0usize..4) {
            let format = FORMATS[f];
            let mut total = 0;
            for e in entries(&bytes, format).flatten() {
                prop_assert_eq!(e.offset, total);
                total += e.rec_len;
                prop_assert!(total <= bytes.len());
            }
            let mut copy = bytes.clone();
            let _ = insert(&mut copy, format, &new(1, b"x"));
            let _ = remove(&mut copy, format, 12);
            let _ = verify(&copy, 1);
            stamp(&mut copy, 1);
        }

        #[test]
        fn names_survive_inserts(names in proptest::collection::btree_set("[a-z]{1,40}", 1..30), f in 0usize..4) {
            let format = FORMATS[f];
            let mut block = vec![0; 4096];
            init_empty(&mut block, format);
            for (i, n) in names.iter().enumerate() {
                prop_assert!(insert(&mut block, format, &new(i as u32 + 1, n.as_bytes())).unwrap().is_some());
            }
            let got: std::collections::BTreeSet<_> =
                list(&block, format).into_iter().map(|(_, n)| String::from_utf8(n).unwrap()).collect();
            prop_assert_eq!(got, names);
        }
    }
}
