//! A device in memory. Offsets and lengths in bytes.

use std::sync::{PoisonError, RwLock};

use super::{BlockDevice, check_range};
use crate::error::{IoOp, Result};

/// Bytes in memory; all of them allocated up front.
#[derive(Debug, Default)]
pub struct MemoryDevice {
    bytes: RwLock<Vec<u8>>,
}

impl MemoryDevice {
    /// A device of `len` zero bytes.
    pub fn new(len: usize) -> Self {
        Self::from_bytes(vec![0; len])
    }

    /// A device that holds `bytes`.
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes: RwLock::new(bytes) }
    }

    /// A copy of all bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The bytes themselves.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockDevice for MemoryDevice {
    fn len(&self) -> u64 {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        check_range(IoOp::Read, offset, buf.len() as u64, bytes.len() as u64)?;
        let start = offset as usize;
        buf.copy_from_slice(&bytes[start..start + buf.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        check_range(IoOp::Write, offset, data.len() as u64, bytes.len() as u64)?;
        let start = offset as usize;
        bytes[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_range_changes_nothing() {
        let d = MemoryDevice::new(10);
        d.write_at(8, &[1, 2]).unwrap();
        assert!(d.write_at(9, &[3, 4]).is_err());
        assert!(d.read_at(u64::MAX, &mut [0]).is_err());
        assert_eq!(d.to_bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
    }

    #[test]
    fn zero_default_covers_exactly_the_range() {
        let d = MemoryDevice::from_bytes(vec![7; 6]);
        d.zero(1, 3).unwrap();
        assert_eq!(d.to_bytes(), [7, 0, 0, 0, 7, 7]);
    }
}
