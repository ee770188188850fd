//! Integers and byte runs at offsets of untrusted buffers: every access is checked, nothing panics.

use crate::error::{Error, Flaw, Place, Result, Structure};

/// `N` bytes at `at`; `None` where the buffer ends before.
#[inline]
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

/// Little-endian 16 bits at `at`.
#[inline]
pub(crate) fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

/// Little-endian 32 bits at `at`.
#[inline]
pub(crate) fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

/// Overwrite the bytes at `at`; `None`, with nothing changed, where they do not fit.
#[inline]
pub(crate) fn put(bytes: &mut [u8], at: usize, what: &[u8]) -> Option<()> {
    bytes.get_mut(at..)?.get_mut(..what.len())?.copy_from_slice(what);
    Some(())
}

/// [`Flaw::Short`] about `of`.
pub(crate) const fn short(of: Structure, need: usize, have: usize) -> Error {
    Error::corrupt(Flaw::Short { of, need: need as u64, have: have as u64 }, Place::FS)
}

/// [`Flaw::Field`] about `of`, at a byte offset of it.
pub(crate) const fn field(of: Structure, field: &'static str, value: u64, offset: usize) -> Error {
    Error::corrupt(Flaw::Field { of, field, value }, Place::FS.offset(offset as u64))
}

/// [`Flaw::Checksum`] where the two differ.
pub(crate) const fn same_checksum(of: Structure, stored: u32, computed: u32) -> Result<()> {
    if stored == computed { Ok(()) } else { Err(Error::corrupt(Flaw::Checksum { of, stored, computed }, Place::FS)) }
}
