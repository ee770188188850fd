//! Reading file content: through the block map, or from inside the inode. Offsets and sizes in bytes.
//!
//! Holes and unwritten extents read as zeros. Content of a directory or symlink can be read like a file's.

use super::{Mapping, Owner, Volume};
use crate::error::Result;
use crate::format::extent::Extent;
use crate::format::inode::InodeFlags;
use crate::units::{Fsblk, Lblk};

/// A file opened for reading: its map is loaded once.
#[derive(Debug)]
pub struct FileReader<'a> {
    volume: &'a Volume,
    size: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Inline(Vec<u8>),
    Mapped(Vec<Extent>),
}

/// A piece of a file, as [`FileReader::segments`] reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Bytes that read as zeros and (for a hole) take no space.
    Zeros {
        /// First byte in the file.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Bytes that are on the device, contiguously.
    Data {
        /// First byte in the file.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// First byte on the filesystem.
        at: u64,
    },
    /// Bytes that are inside the inode.
    Inline {
        /// Length in bytes; the first byte is byte 0 of the file.
        len: u64,
    },
}

impl Volume {
    /// Open an inode's content for reading. Loads its block map.
    pub fn reader(&self, owner: Owner<'_>) -> Result<FileReader<'_>> {
        let size = owner.inode.size();
        let content = if owner.inode.flags().contains(InodeFlags::INLINE_DATA) || self.is_fast_symlink(owner.inode) {
            Content::Inline(self.inline_content(owner)?)
        } else {
            Content::Mapped(self.extents(owner)?)
        };
        Ok(FileReader { volume: self, size, content })
    }

    /// One logical block of a file, zeros for a hole. For directories and other metadata in blocks.
    pub fn file_block(&self, owner: Owner<'_>, lblk: Lblk) -> Result<Option<(Fsblk, std::borrow::Cow<'_, [u8]>)>> {
        match self.map(owner, lblk)? {
            Mapping::Mapped { pblk, unwritten: false, .. } => Ok(Some((pblk, self.block(pblk)?))),
            _ => Ok(None),
        }
    }
}

impl FileReader<'_> {
    /// Size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The mapped ranges; empty for content inside the inode.
    pub fn extents(&self) -> &[Extent] {
        match &self.content {
            Content::Mapped(v) => v,
            Content::Inline(_) => &[],
        }
    }

    /// Content that is inside the inode.
    pub fn inline(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Inline(v) => Some(v),
            Content::Mapped(_) => None,
        }
    }

    /// The whole file in pieces, in order and without gaps, up to its size.
    pub fn segments(&self) -> Vec<Segment> {
        let size = self.size;
        let extents = match &self.content {
            Content::Inline(v) => {
                let len = size.min(v.len() as u64);
                let rest = size.saturating_sub(len);
                let mut all = vec![Segment::Inline { len }];
                if rest > 0 {
                    all.push(Segment::Zeros { offset: len, len: rest });
                }
                return all;
            }
            Content::Mapped(v) => v,
        };
        let geo = self.volume.geometry();
        let bs = u64::from(geo.block_size);
        let mut all: Vec<Segment> = Vec::new();
        let mut pos = 0u64;
        for e in extents.iter().filter(|e| !e.unwritten) {
            let start = u64::from(e.lblk.0).saturating_mul(bs);
            if start >= size {
                break;
            }
            if start > pos {
                all.push(Segment::Zeros { offset: pos, len: start.saturating_sub(pos) });
            }
            let end = e.end().saturating_mul(bs).min(size);
            let (at, len) = (geo.byte_of(e.pblk), end.saturating_sub(start));
            match all.last_mut() {
                Some(Segment::Data { len: l, at: a, .. }) if a.saturating_add(*l) == at => *l = l.saturating_add(len),
                _ => all.push(Segment::Data { offset: start, len, at }),
            }
            pos = end;
        }
        if pos < size {
            all.push(Segment::Zeros { offset: pos, len: size.saturating_sub(pos) });
        }
        all
    }

    /// Read from byte `offset`; returns how many bytes were read, fewer than asked for only at the end of the file.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let want = self.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let Some(buf) = buf.get_mut(..want) else { return Ok(0) };
        buf.fill(0);
        match &self.content {
            Content::Inline(v) => {
                let from = v.get(offset as usize..).unwrap_or_default();
                for (d, s) in buf.iter_mut().zip(from) {
                    *d = *s;
                }
            }
            Content::Mapped(v) => self.read_mapped(v, offset, buf)?,
        }
        Ok(want)
    }

    /// Read all of the file, where it is not longer than `limit` bytes; `None` where it is.
    pub fn read_all(&self, limit: usize) -> Result<Option<Vec<u8>>> {
        if self.size > limit as u64 {
            return Ok(None);
        }
        let mut all = vec![0; self.size as usize];
        self.read_at(0, &mut all)?;
        Ok(Some(all))
    }

    fn read_mapped(&self, extents: &[Extent], offset: u64, buf: &mut [u8]) -> Result<()> {
        let geo = self.volume.geometry();
        let bs = u64::from(geo.block_size);
        let end = offset.saturating_add(buf.len() as u64);
        let first = extents.partition_point(|e| e.end().saturating_mul(bs) <= offset);
        for e in extents.get(first..).unwrap_or_default() {
            let start = u64::from(e.lblk.0).saturating_mul(bs);
            if start >= end {
                break;
            }
            if e.unwritten {
                continue;
            }
            let from = start.max(offset);
            let to = e.end().saturating_mul(bs).min(end);
            let range = from.saturating_sub(offset) as usize..to.saturating_sub(offset) as usize;
            if let Some(part) = buf.get_mut(range) {
                let at = geo.byte_of(e.pblk).saturating_add(from.saturating_sub(start));
                self.volume.device().read_at(at, part)?;
            }
        }
        Ok(())
    }
}
