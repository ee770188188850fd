//! Extended attributes: a table of entries that grows up, values that grow down. Little endian.
//! Kernel names: `struct ext4_xattr_ibody_header`, `ext4_xattr_header`, `ext4_xattr_entry`.
//!
//! They live in three places. In the inode, behind its extra fields: a 4-byte magic number, then entries; value
//! offsets count from the first entry. In a block: a 32-byte header, then entries sorted by name index, name
//! length and name; value offsets count from the start of the block. And, with `ea_inode`, a large value is the
//! content of an inode of its own. Entries are 16 bytes and the name, padded to 4; four zero bytes end the table.
//! Values are padded to 4 with zeros.
//!
//! An entry's hash covers name and value (in the inode body it is 0, except where the value is an inode); a
//! block's hash covers those of its entries, so that equal blocks can be found and shared.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::bytes::{field, put, same_checksum, short};
use super::csum::crc32c;
use super::inode::{Inode, TimeField};
use super::{U16, U32};
use crate::env::Timestamp;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::units::{Fsblk, Ino};

/// Magic number of both headers.
#[doc(alias = "EXT4_XATTR_MAGIC")]
pub const MAGIC: u32 = 0xea02_0000;
/// Bytes of the header in the inode.
pub const IBODY_HEADER: usize = 4;
/// Bytes of the header of a block.
pub const BLOCK_HEADER: usize = 32;
/// Bytes of an entry before its name.
pub const ENTRY: usize = 16;
/// Largest value, bytes.
#[doc(alias = "EXT4_XATTR_SIZE_MAX")]
pub const MAX_VALUE: u32 = 1 << 24;
/// Most inodes that may share a block.
#[doc(alias = "EXT4_XATTR_REFCOUNT_MAX")]
pub const MAX_REFCOUNT: u32 = 1024;

/// Name indexes with the prefix that they stand for, as the host names attributes. The first match wins: whole names
/// come before the prefixes that they begin with. (5 was Lustre; 9 is the encryption context, see below.)
const PREFIXES: [(u8, &[u8]); 8] = [
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (8, b"system.richacl"),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
    (7, b"system."),
    (10, b"gnu."),
];
/// Name index of `user.` names.
pub const INDEX_USER: u8 = 1;
/// Name index of the access ACL; the name is empty.
pub const INDEX_POSIX_ACL_ACCESS: u8 = 2;
/// Name index of the default ACL; the name is empty.
pub const INDEX_POSIX_ACL_DEFAULT: u8 = 3;
/// Name index of `trusted.` names.
pub const INDEX_TRUSTED: u8 = 4;
/// Name index of `security.` names.
pub const INDEX_SECURITY: u8 = 6;
/// Name index of `system.` names; `system.data` is the second part of inline data.
pub const INDEX_SYSTEM: u8 = 7;
/// Name index of the encryption context, whose name is `c`. The host does not show it.
pub const INDEX_ENCRYPTION: u8 = 9;
/// Name of the encryption context.
pub const NAME_ENCRYPTION_CONTEXT: &[u8] = b"c";

/// The attribute name the host would use; `None` where it has none for that index (unknown, encryption).
#[doc(alias = "ext4_xattr_prefix")]
pub fn full_name(index: u8, name: &[u8]) -> Option<Vec<u8>> {
    let prefix = PREFIXES.iter().find(|p| p.0 == index)?.1;
    Some([prefix, name].concat())
}

/// Index and rest of a host's attribute name; `None` where no prefix matches, or nothing follows one that ends with
/// a dot.
pub fn split_name(full: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(index, prefix)| {
        let rest = full.strip_prefix(*prefix)?;
        let fits = if prefix.ends_with(b".") { !rest.is_empty() } else { rest.is_empty() };
        fits.then_some((*index, rest))
    })
}

/// The header of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "ext4_xattr_header")]
pub struct BlockHeader {
    /// [`MAGIC`].
    pub magic: U32,
    /// Inodes that use the block.
    pub refcount: U32,
    /// Blocks; always 1.
    pub blocks: U32,
    /// Hash over the entries' hashes; 0 where the block is not to be shared.
    pub hash: U32,
    /// Checksum (`metadata_csum`).
    pub checksum: U32,
    /// Unused; kept.
    pub reserved: [U32; 3],
}

/// The fixed part of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[doc(alias = "ext4_xattr_entry")]
pub struct RawEntry {
    /// Length of the name in bytes.
    pub name_len: u8,
    /// What the name begins with.
    pub name_index: u8,
    /// Where the value is, from the place's base.
    pub value_offs: U16,
    /// Inode that holds the value; 0 where the value is here.
    pub value_inum: U32,
    /// Length of the value in bytes.
    pub value_size: U32,
    /// Hash of name and value.
    pub hash: U32,
}

const HASH_AT: usize = std::mem::offset_of!(BlockHeader, hash);
const CHECKSUM_AT: usize = std::mem::offset_of!(BlockHeader, checksum);
const _: () = {
    assert!(size_of::<BlockHeader>() == BLOCK_HEADER);
    assert!(size_of::<RawEntry>() == ENTRY);
    assert!(CHECKSUM_AT == 16);
    assert!(std::mem::offset_of!(RawEntry, hash) == 12);
};

/// Bytes of an entry with a name of `name_len` bytes.
#[doc(alias = "EXT4_XATTR_LEN")]
pub const fn entry_len(name_len: usize) -> usize {
    ENTRY.saturating_add(name_len).saturating_add(3) & !3
}

/// Bytes a value of `len` bytes takes.
#[doc(alias = "EXT4_XATTR_SIZE")]
pub const fn padded(len: usize) -> usize {
    len.saturating_add(3) & !3
}

/// A value: here, or in an inode of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// The bytes.
    Bytes(&'a [u8]),
    /// The content of an inode.
    Inode {
        /// Which inode.
        ino: Ino,
        /// Length of the value in bytes.
        size: u32,
    },
}

impl Value<'_> {
    /// Length in bytes.
    pub const fn len(&self) -> usize {
        match self {
            Self::Bytes(b) => b.len(),
            Self::Inode { size, .. } => *size as usize,
        }
    }

    /// Whether the value is empty.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An attribute, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xattr<'a> {
    /// Byte offset of the entry in the area or block.
    pub offset: usize,
    /// What the name begins with; see [`full_name`].
    pub index: u8,
    /// The rest of the name.
    pub name: &'a [u8],
    /// The value.
    pub value: Value<'a>,
    /// The stored hash.
    pub hash: u32,
}

impl Xattr<'_> {
    /// Check the stored hash against name and value bytes. A hash of 0 is not checked, and a value in an inode is
    /// checked by [`entry_hash_of_inode`]. Both signednesses of name characters are accepted.
    pub fn verify_hash(&self, of: Structure) -> Result<()> {
        let Value::Bytes(value) = self.value else { return Ok(()) };
        let computed = entry_hash(self.name, value, false);
        if self.hash == 0 || self.hash == computed || self.hash == entry_hash(self.name, value, true) {
            return Ok(());
        }
        let flaw = Flaw::Checksum { of, stored: self.hash, computed };
        Err(Error::corrupt(flaw, Place::FS.offset(self.offset as u64)))
    }
}

/// The attributes in an inode's area behind the extra fields ([`Inode::xattr_area`]). None where the area has no
/// magic number.
///
/// # Errors
/// [`Error::Corrupt`] about [`Structure::InodeXattr`], with the byte offset in the area.
pub fn parse_ibody(area: &[u8]) -> Result<Vec<Xattr<'_>>> {
    match super::bytes::le32(area, 0) {
        Some(MAGIC) => parse(Structure::InodeXattr, area, IBODY_HEADER, IBODY_HEADER),
        _ => Ok(Vec::new()),
    }
}

/// Header and attributes of a block. The order of entries, hashes and the checksum are not checked here.
///
/// # Errors
/// [`Error::Corrupt`] about [`Structure::XattrBlock`], with the byte offset in the block.
pub fn parse_block(block: &[u8]) -> Result<(BlockHeader, Vec<Xattr<'_>>)> {
    let of = Structure::XattrBlock;
    let Ok((header, _)) = BlockHeader::read_from_prefix(block) else {
        return Err(short(of, BLOCK_HEADER, block.len()));
    };
    if header.magic.get() != MAGIC {
        return Err(Error::corrupt(Flaw::Magic { of, found: header.magic.get() }, Place::FS.offset(0)));
    }
    if header.blocks.get() != 1 {
        return Err(field(of, "blocks", header.blocks.get().into(), 8));
    }
    Ok((header, parse(of, block, BLOCK_HEADER, 0)?))
}

/// Entries from byte `start` of `area`, their values `base + value_offs`.
fn parse(of: Structure, area: &[u8], start: usize, base: usize) -> Result<Vec<Xattr<'_>>> {
    let mut raw = Vec::new();
    let mut at = start;
    loop {
        let rest = area.get(at..).unwrap_or_default();
        match rest.first_chunk::<4>() {
            Some([0, 0, 0, 0]) => break,
            Some(_) => (),
            None => return Err(short(of, at.saturating_add(4), area.len())),
        }
        let Ok((entry, names)) = RawEntry::read_from_prefix(rest) else {
            return Err(short(of, at.saturating_add(ENTRY), area.len()));
        };
        let next = at.saturating_add(entry_len(usize::from(entry.name_len)));
        // The name must leave room for the four zeros that end the table.
        let name = match names.get(..usize::from(entry.name_len)) {
            Some(name) if next.saturating_add(4) <= area.len() => name,
            _ => return Err(field(of, "name_len", entry.name_len.into(), at)),
        };
        if name.contains(&0) {
            return Err(field(of, "name", 0, at));
        }
        raw.push((at, entry, name));
        at = next;
    }
    let table_end = at.saturating_add(4);
    let mut ranges = Vec::with_capacity(raw.len());
    let mut found = Vec::with_capacity(raw.len());
    for (offset, entry, name) in raw {
        let value = value_of(of, area, base, table_end, offset, &entry)?;
        if let Value::Bytes(v) = value
            && !v.is_empty()
        {
            let from = base.saturating_add(usize::from(entry.value_offs.get()));
            ranges.push((from, from.saturating_add(padded(v.len())), offset));
        }
        found.push(Xattr { offset, index: entry.name_index, name, value, hash: entry.hash.get() });
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if let [(_, end, _), (from, _, offset)] = pair
            && from < end
        {
            return Err(Error::corrupt(Flaw::Order { of }, Place::FS.offset(*offset as u64)));
        }
    }
    Ok(found)
}

fn value_of<'a>(
    of: Structure,
    area: &'a [u8],
    base: usize,
    table_end: usize,
    offset: usize,
    entry: &RawEntry,
) -> Result<Value<'a>> {
    let (size, ino) = (entry.value_size.get(), entry.value_inum.get());
    if size > MAX_VALUE {
        return Err(field(of, "value_size", size.into(), offset));
    }
    if ino != 0 {
        return Ok(Value::Inode { ino: Ino(ino), size });
    }
    if size == 0 {
        return Ok(Value::Bytes(&[]));
    }
    let offs = entry.value_offs.get();
    let from = base.saturating_add(usize::from(offs));
    let size = size as usize;
    if from < table_end || from.saturating_add(padded(size)) > area.len() {
        return Err(field(of, "value_offs", offs.into(), offset));
    }
    let to = from.saturating_add(size);
    area.get(from..to).map(Value::Bytes).ok_or_else(|| field(of, "value_offs", offs.into(), offset))
}

/// An attribute to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewXattr<'a> {
    /// Name index.
    pub index: u8,
    /// The rest of the name, at most 255 bytes.
    pub name: &'a [u8],
    /// The value.
    pub value: NewValue<'a>,
}

/// A value to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewValue<'a> {
    /// Here.
    Bytes(&'a [u8]),
    /// In an inode that holds it already.
    Inode {
        /// Which inode.
        ino: Ino,
        /// Length of the value in bytes.
        size: u32,
        /// Hash of the value; see [`ea_inode_value_hash`].
        value_hash: u32,
    },
}

impl NewXattr<'_> {
    /// Bytes that entry and value take.
    pub const fn need(&self) -> usize {
        let value = match self.value {
            NewValue::Bytes(v) => padded(v.len()),
            NewValue::Inode { .. } => 0,
        };
        entry_len(self.name.len()).saturating_add(value)
    }

    /// The place of the attribute in a block.
    const fn order(&self) -> (u8, usize, &[u8]) {
        (self.index, self.name.len(), self.name)
    }
}

/// Bytes that `attrs` take in the inode or a block, with the four zeros that end the table, without the header.
pub fn need(attrs: &[NewXattr<'_>]) -> usize {
    attrs.iter().map(NewXattr::need).fold(4, usize::saturating_add)
}

/// Lay `attrs` into an inode's area, in the order given. `false`, with the area unchanged, where they do not fit
/// or a name is too long. Without attributes the area becomes zeros.
#[must_use]
pub fn build_ibody(attrs: &[NewXattr<'_>], area: &mut [u8]) -> bool {
    if attrs.is_empty() {
        area.fill(0);
        return true;
    }
    let attrs: Vec<&NewXattr<'_>> = attrs.iter().collect();
    let done = lay(&attrs, area.len(), IBODY_HEADER, IBODY_HEADER, |a| match a.value {
        NewValue::Bytes(_) => 0,
        NewValue::Inode { value_hash, .. } => entry_hash_of_inode(a.name, value_hash, false),
    });
    let Some(mut bytes) = done else { return false };
    put(&mut bytes, 0, &MAGIC.to_le_bytes());
    area.copy_from_slice(&bytes);
    true
}

/// Lay `attrs` into a block of `block_size` bytes, sorted, with hashes and a reference count of 1. `None` where
/// they do not fit or a name is too long. The checksum is the caller's to add ([`stamp_block`]).
pub fn build_block(attrs: &[NewXattr<'_>], block_size: usize) -> Option<Vec<u8>> {
    let mut sorted: Vec<&NewXattr<'_>> = attrs.iter().collect();
    sorted.sort_by(|a, b| a.order().cmp(&b.order()));
    let hash_of = |a: &NewXattr<'_>| match a.value {
        NewValue::Bytes(v) => entry_hash(a.name, v, false),
        NewValue::Inode { value_hash, .. } => entry_hash_of_inode(a.name, value_hash, false),
    };
    let mut block = lay(&sorted, block_size, BLOCK_HEADER, 0, hash_of)?;
    let header = BlockHeader {
        magic: U32::new(MAGIC),
        refcount: U32::new(1),
        blocks: U32::new(1),
        hash: U32::new(block_hash(sorted.iter().map(|a| hash_of(a)))),
        ..BlockHeader::default()
    };
    put(&mut block, 0, header.as_bytes())?;
    Some(block)
}

fn lay(
    attrs: &[&NewXattr<'_>],
    size: usize,
    start: usize,
    base: usize,
    hash: impl Fn(&NewXattr<'_>) -> u32,
) -> Option<Vec<u8>> {
    let need = attrs.iter().map(|a| a.need()).fold(4, usize::saturating_add);
    if start.saturating_add(need) > size {
        return None;
    }
    let mut area = vec![0; size];
    // Values are packed from the last multiple of 4 downwards.
    let (mut at, mut end) = (start, base.checked_add(size.checked_sub(base)? & !3)?);
    for a in attrs {
        let (offs, inum, len) = match a.value {
            NewValue::Bytes([]) => (0, 0, 0),
            NewValue::Bytes(v) => {
                end = end.checked_sub(padded(v.len()))?;
                put(&mut area, end, v)?;
                (end.checked_sub(base)?, 0, v.len() as u32)
            }
            NewValue::Inode { ino, size, .. } => (0, ino.0, size),
        };
        let entry = RawEntry {
            name_len: u8::try_from(a.name.len()).ok()?,
            name_index: a.index,
            value_offs: U16::new(u16::try_from(offs).ok()?),
            value_inum: U32::new(inum),
            value_size: U32::new(len),
            hash: U32::new(hash(a)),
        };
        put(&mut area, at, entry.as_bytes())?;
        put(&mut area, at.checked_add(ENTRY)?, a.name)?;
        at = at.checked_add(entry_len(a.name.len()))?;
    }
    (at.checked_add(4)? <= end).then_some(area)
}

fn name_hash(name: &[u8], signed: bool) -> u32 {
    name.iter().fold(0u32, |h, b| {
        let c = if signed { i32::from(*b as i8) as u32 } else { u32::from(*b) };
        h.rotate_left(5) ^ c
    })
}

/// Hash of an entry whose value is here. Characters of names are unsigned today (`signed` false); old kernels on some
/// machines took them as signed.
#[doc(alias = "ext4_xattr_hash_entry")]
pub fn entry_hash(name: &[u8], value: &[u8], signed: bool) -> u32 {
    value.chunks(4).fold(name_hash(name, signed), |h, chunk| {
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        h.rotate_left(16) ^ u32::from_le_bytes(word)
    })
}

/// Hash of an entry whose value is in an inode: the value's hash stands for the value.
pub fn entry_hash_of_inode(name: &[u8], value_hash: u32, signed: bool) -> u32 {
    name_hash(name, signed).rotate_left(16) ^ value_hash
}

/// Hash of a block from its entries' hashes; 0 (not to be shared) where one of them is 0.
#[doc(alias = "ext4_xattr_rehash")]
pub fn block_hash(entries: impl IntoIterator<Item = u32>) -> u32 {
    entries.into_iter().try_fold(0u32, |h, e| (e != 0).then(|| h.rotate_left(16) ^ e)).unwrap_or(0)
}

/// Hash of a value that is stored in an inode, with the filesystem's seed.
#[doc(alias = "ext4_xattr_inode_hash")]
pub fn ea_inode_value_hash(seed: u32, value: &[u8]) -> u32 {
    crc32c(seed, value)
}

/// The checksum that a block should have, with the filesystem's seed and its block number.
#[doc(alias = "ext4_xattr_block_csum")]
pub fn block_checksum(block: &[u8], seed: u32, number: Fsblk) -> Option<u32> {
    let crc = crc32c(seed, &number.0.to_le_bytes());
    let crc = crc32c(crc, block.get(..CHECKSUM_AT)?);
    let crc = crc32c(crc, &[0; 4]);
    Some(crc32c(crc, block.get(CHECKSUM_AT.checked_add(4)?..)?))
}

/// Compare the checksum of a block.
pub fn verify_block(block: &[u8], seed: u32, number: Fsblk) -> Result<()> {
    let of = Structure::XattrBlock;
    let stored = super::bytes::le32(block, CHECKSUM_AT);
    match stored.zip(block_checksum(block, seed, number)) {
        Some((stored, computed)) => same_checksum(of, stored, computed).map_err(|e| e.at(Place::block(number))),
        None => Err(short(of, BLOCK_HEADER, block.len())),
    }
}

/// Bring the checksum of a block up to date.
pub fn stamp_block(block: &mut [u8], seed: u32, number: Fsblk) {
    if let Some(crc) = block_checksum(block, seed, number) {
        put(block, CHECKSUM_AT, &crc.to_le_bytes());
    }
}

/// Store a block's reference count. The checksum is the caller's to renew.
pub fn set_refcount(block: &mut [u8], n: u32) {
    put(block, 4, &n.to_le_bytes());
}

/// Store the hash of a block (see [`block_hash`]). The checksum is the caller's to renew.
pub fn set_block_hash(block: &mut [u8], hash: u32) {
    put(block, HASH_AT, &hash.to_le_bytes());
}

/// How many attributes refer to an EA inode.
#[doc(alias = "ext4_xattr_inode_get_ref")]
pub fn ea_inode_refs(inode: &Inode) -> u64 {
    let c = inode.core();
    (u64::from(c.ctime.get()) << 32) | u64::from(c.version.get())
}

/// Store how many attributes refer to an EA inode.
pub fn set_ea_inode_refs(inode: &mut Inode, refs: u64) {
    inode.update(|c| {
        c.ctime = U32::new((refs >> 32) as u32);
        c.version = U32::new(refs as u32);
    });
}

/// The stored hash of an EA inode's content.
#[doc(alias = "ext4_xattr_inode_get_hash")]
pub fn ea_inode_hash(inode: &Inode) -> u32 {
    inode.core().atime.get()
}

/// Store the hash of an EA inode's content.
pub fn set_ea_inode_hash(inode: &mut Inode, hash: u32) {
    inode.set_time(TimeField::Access, Timestamp::default());
    inode.update(|c| c.atime = U32::new(hash));
}

#[cfg(test)]
#[path = "xattr_tests.rs"]
mod tests;
