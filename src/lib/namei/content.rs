//! Content of regular files: written whole, cut, extended. Offsets and sizes in bytes.
//!
//! New content never goes to blocks that the committed filesystem uses: it gets blocks of its own, which are written before
//! the commit that maps them. What must change in a block that is in use (the tail behind a new end) goes through the
//! journal. Holes stay holes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::Namei;
use crate::error::{Error, FeatureBit, FeatureWord, Result};
use crate::format::extent::{Extent, MAX_WRITTEN_LEN};
use crate::format::features::{Incompat, RoCompat};
use crate::format::inode::{FileType, InodeFlags, TimeField};
use crate::source::Segment;
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::edit::OpenInode;
use crate::volume::{MapKind, Mapping, Wanted};

/// Bytes that are copied at a time, a multiple of every block size.
const PIECE: usize = 1 << 20;
/// Direct pointers of an inode without extents.
const DIRECT: u64 = 12;
/// The largest file that needs no feature.
#[doc(alias = "EXT4_FEATURE_RO_COMPAT_LARGE_FILE")]
const SMALL_FILE: u64 = 0x7fff_ffff;
/// Runs that a file's content is expected to need at most before more credits are asked for.
const RUNS: u32 = 4;

/// Content as it goes into a file.
pub trait Content {
    /// Bytes, holes included.
    fn size(&self) -> u64;

    /// What is not a hole, ascending.
    fn segments(&self) -> Cow<'_, [Segment]>;

    /// Fill `buf` from byte `offset`; holes are zeros.
    ///
    /// # Errors
    /// What cannot be read, by name.
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()>;
}

/// Content in memory.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Content for Bytes<'_> {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn segments(&self) -> Cow<'_, [Segment]> {
        Cow::Owned(vec![Segment { start: 0, end: self.size() }])
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let from = self.0.get(offset as usize..).unwrap_or_default();
        for (to, from) in buf.iter_mut().zip(from) {
            *to = *from;
        }
        Ok(())
    }
}

/// Blocks of content that were allocated in the running transaction.
#[derive(Debug, Default)]
pub(super) struct Fresh(BTreeMap<u64, u64>);

impl Fresh {
    fn add(&mut self, e: &Extent) {
        self.0.insert(e.pblk.0, u64::from(e.len));
    }

    pub(super) fn has(&self, block: Fsblk) -> bool {
        self.0.range(..=block.0).next_back().is_some_and(|(at, len)| block.0 - at < *len)
    }
}

impl Namei<'_> {
    /// Make `content` all of a file's content, and write it.
    ///
    /// # Errors
    /// [`Error::NoSpace`], those of the content.
    pub fn write_file(&mut self, ino: Ino, content: &mut dyn Content) -> Result<()> {
        let mut o = self.edit.open(ino)?;
        let extents = self.lay_out(&mut o, content)?;
        let mut buf = vec![0; PIECE];
        for e in &extents {
            self.copy(e, content, &mut buf)?;
        }
        Ok(())
    }

    /// Copy the part of `content` that an extent maps.
    fn copy(&mut self, e: &Extent, content: &mut dyn Content, buf: &mut [u8]) -> Result<()> {
        let bs = self.edit.block_size() as u64;
        let mut block = e.pblk;
        let mut at = u64::from(e.lblk.0) * bs;
        let end = e.end() * bs;
        while at < end {
            let n = (end - at).min(buf.len() as u64);
            let Some(piece) = buf.get_mut(..n as usize) else { break };
            read_padded(content, at, piece)?;
            self.edit.store.write_data(block, piece)?;
            block = block.saturating_add(n / bs);
            at += n;
        }
        Ok(())
    }

    /// Make room for `content` as all of a file's content: what was there is freed, new blocks are allocated and mapped, the
    /// size and times are set and the inode stored. Returns what is to be written, in logical order; content that fits inside
    /// the inode is read and stored at once.
    ///
    /// # Errors
    /// [`Error::NoSpace`]; [`Error::IsDirectory`] and [`Error::InvalidArgument`] for what is no regular file.
    pub fn lay_out(&mut self, o: &mut OpenInode, content: &mut dyn Content) -> Result<Vec<Extent>> {
        let size = content.size();
        Self::check_content(o)?;
        self.check_size(o, size)?;
        let old = self.edit.remove_credits(o, Lblk(0), u64::MAX)?;
        self.begin(old.saturating_add(self.edit.map_credits(o, RUNS, RUNS)?).saturating_add(2))?;
        self.empty(o)?;
        let mut out = Vec::new();
        if !self.store_inline(o, content)? {
            let segments = content.segments().into_owned();
            for (from, to) in block_runs(&segments, self.edit.block_size() as u64) {
                self.allocate(o, from, to, &mut out)?;
            }
            o.inode.set_size(size);
        }
        self.finish_content(o)?;
        Ok(out)
    }

    /// Give blocks `from..to` of a file new blocks, those of a committed state included, without changing its size. For
    /// content of which only a part differs; the range is whole clusters, or goes to the end.
    pub fn replace_blocks(&mut self, o: &mut OpenInode, from: u64, to: u64) -> Result<Vec<Extent>> {
        Self::check_content(o)?;
        let start = Lblk(u32::try_from(from).unwrap_or(u32::MAX));
        let credits = self.edit.remove_credits(o, start, to)?;
        self.begin(credits.saturating_add(self.edit.map_credits(o, RUNS, RUNS)?).saturating_add(2))?;
        self.edit.remove_blocks(o, start, to)?;
        let mut out = Vec::new();
        self.allocate(o, from, to, &mut out)?;
        self.finish_content(o)?;
        Ok(out)
    }

    /// Make a hole of blocks `from..to` of a file; its size stays.
    ///
    /// # Errors
    /// As [`Namei::truncate`].
    #[doc(alias = "FALLOC_FL_PUNCH_HOLE")]
    pub fn punch(&mut self, ino: Ino, from: u64, to: u64) -> Result<()> {
        let mut o = self.edit.open(ino)?;
        Self::check_content(&o)?;
        let Ok(start) = u32::try_from(from).map(Lblk) else { return Ok(()) };
        let credits = self.edit.remove_credits(&o, start, to)?;
        self.begin(credits.saturating_add(self.edit.map_credits(&o, 1, 1)?).saturating_add(2))?;
        if o.has(InodeFlags::INLINE_DATA) {
            self.edit.inline_file_to_block(&mut o)?;
        }
        self.edit.remove_blocks(&mut o, start, to)?;
        self.finish_content(&mut o)
    }

    /// Whether a file of `size` bytes is to lie inside its inode.
    pub fn is_inline(&self, ino: Ino, size: u64) -> Result<bool> {
        let o = self.edit.open(ino)?;
        let possible = size > 0 && self.has_incompat(Incompat::INLINE_DATA);
        Ok(possible && size <= self.edit.inline_capacity(&o)? as u64)
    }

    /// Empty a file for content of `size` bytes that is written in pieces, beside the operations on names. Returns the inode
    /// for [`Namei::end_content`].
    ///
    /// # Errors
    /// As [`Namei::lay_out`].
    pub fn begin_content(&mut self, ino: Ino, size: u64) -> Result<OpenInode> {
        let mut o = self.edit.open(ino)?;
        Self::check_content(&o)?;
        self.check_size(&o, size)?;
        let old = self.edit.remove_credits(&o, Lblk(0), u64::MAX)?;
        self.begin(old.saturating_add(self.edit.map_credits(&o, 1, 1)?).saturating_add(2))?;
        self.empty(&mut o)?;
        self.put(&mut o)?;
        Ok(o)
    }

    /// A file that was `was` has been written: note times, owner's usage, and which blocks are new.
    pub fn end_content(&mut self, was: &OpenInode) -> Result<()> {
        self.begin(3)?;
        let mut o = self.edit.open(was.ino)?;
        let block_size = self.edit.vol.geometry().block_size;
        self.ctx.quota.replace(o.ino, Some(&was.inode), Some(&o.inode), block_size);
        let blocks = o.inode.size().div_ceil(block_size.into());
        let mut at = 0;
        while let Ok(lblk) = u32::try_from(at)
            && at < blocks
        {
            at += match self.edit.vol.map(o.owner(), Lblk(lblk))? {
                Mapping::Hole { len } => len,
                Mapping::Mapped { pblk, len, unwritten } => {
                    let part = u32::try_from(len).unwrap_or(u32::MAX);
                    self.ctx.fresh.add(&Extent { lblk: Lblk(lblk), len: part, pblk, unwritten });
                    len
                }
            };
        }
        self.finish_content(&mut o)
    }

    fn finish_content(&mut self, o: &mut OpenInode) -> Result<()> {
        o.inode.set_time(TimeField::Modify, self.ctx.now);
        o.inode.set_time(TimeField::Change, self.ctx.now);
        self.note_large(o)?;
        self.put(o)
    }

    /// Allocate and map blocks `from..to`, appending the runs to `out`.
    fn allocate(&mut self, o: &mut OpenInode, from: u64, to: u64, out: &mut Vec<Extent>) -> Result<()> {
        let mut at = from;
        while at < to {
            let len = (to - at).min(u64::from(MAX_WRITTEN_LEN)) as u32;
            if out.len() >= RUNS as usize {
                self.begin(self.edit.map_credits(o, 1, 1)?)?;
            }
            let lblk = Lblk(u32::try_from(at).unwrap_or(u32::MAX));
            let e = self.edit.allocate_range(o, Wanted { lblk, len, unwritten: false, ahead: 0 })?;
            self.ctx.fresh.add(&e);
            out.push(e);
            at += u64::from(e.len.max(1));
        }
        Ok(())
    }

    /// Whether content of this size went into the inode.
    fn store_inline(&mut self, o: &mut OpenInode, content: &mut dyn Content) -> Result<bool> {
        let size = content.size();
        if size == 0 || !self.has_incompat(Incompat::INLINE_DATA) || size > self.edit.inline_capacity(o)? as u64 {
            return Ok(false);
        }
        let mut bytes = vec![0; size as usize];
        content.read(0, &mut bytes)?;
        self.edit.write_inline(o, &bytes)
    }

    /// Free all of a file's content.
    fn empty(&mut self, o: &mut OpenInode) -> Result<()> {
        if o.has(InodeFlags::INLINE_DATA) {
            self.edit.write_inline(o, &[])?;
            self.edit.inline_file_to_block(o)?;
        } else {
            self.edit.truncate_blocks(o, Lblk(0))?;
        }
        o.inode.set_size(0);
        Ok(())
    }

    /// Give a file another size: what is cut off is freed, what is added is a hole.
    ///
    /// # Errors
    /// [`Error::IsDirectory`] and [`Error::InvalidArgument`] for what is no regular file or a size that it cannot have.
    #[doc(alias = "ext4_truncate")]
    pub fn truncate(&mut self, ino: Ino, size: u64) -> Result<()> {
        let mut o = self.edit.open(ino)?;
        Self::check_content(&o)?;
        self.check_size(&o, size)?;
        let bs = self.edit.block_size() as u64;
        let old = o.inode.size();
        let first = Lblk(u32::try_from(size.div_ceil(bs)).unwrap_or(u32::MAX));
        let credits = self.edit.remove_credits(&o, first, u64::MAX)?;
        self.begin(credits.saturating_add(self.edit.map_credits(&o, 1, 1)?).saturating_add(3))?;
        let inline = o.has(InodeFlags::INLINE_DATA) && self.resize_inline(&mut o, size)?;
        if !inline {
            if size < old {
                self.edit.truncate_blocks(&mut o, first)?;
            }
            self.clear_tail(&o, size.min(old))?;
            o.inode.set_size(size);
        }
        self.finish_content(&mut o)
    }

    /// Whether content inside the inode could be resized there; else it is in a block now.
    fn resize_inline(&mut self, o: &mut OpenInode, size: u64) -> Result<bool> {
        let mut bytes = self.edit.vol.inline_content(o.owner())?;
        if size <= self.edit.inline_capacity(o)? as u64 {
            bytes.resize(size as usize, 0);
            return self.edit.write_inline(o, &bytes);
        }
        self.edit.inline_file_to_block(o)?;
        if let Mapping::Mapped { pblk, .. } = self.edit.vol.map(o.owner(), Lblk(0))? {
            self.ctx.fresh.add(&Extent { lblk: Lblk(0), len: 1, pblk, unwritten: false });
        }
        Ok(false)
    }

    /// Make the bytes between `end` and the end of its block zeros. Where a committed file may show the block, the change goes
    /// through the journal.
    #[doc(alias = "ext4_block_truncate_page")]
    fn clear_tail(&mut self, o: &OpenInode, end: u64) -> Result<()> {
        let bs = self.edit.block_size() as u64;
        let at = (end % bs) as usize;
        let Ok(lblk) = u32::try_from(end / bs) else { return Ok(()) };
        if at == 0 {
            return Ok(());
        }
        let Mapping::Mapped { pblk, unwritten: false, .. } = self.edit.vol.map(o.owner(), Lblk(lblk))? else {
            return Ok(());
        };
        let mut bytes = self.edit.store.read(pblk)?.to_vec();
        let Some(tail) = bytes.get_mut(at..).filter(|t| t.iter().any(|b| *b != 0)) else { return Ok(()) };
        tail.fill(0);
        if self.ctx.fresh.has(pblk) {
            self.edit.store.write_data(pblk, &bytes)
        } else {
            self.edit.store.write(pblk, bytes.into())
        }
    }

    /// `Err` unless the content may be changed.
    fn check_content(o: &OpenInode) -> Result<()> {
        match o.inode.file_type() {
            Some(FileType::Regular) => {}
            Some(FileType::Directory) => return Err(Error::IsDirectory { path: format!("<{}>", o.ino).into_bytes() }),
            _ => {
                let value = format!("<{}>", o.ino);
                return Err(Error::InvalidArgument { name: "file", value, allowed: "a regular file" });
            }
        }
        let unsupported = |word, bits: u32, name| {
            let features = vec![FeatureBit { word, bit: bits.trailing_zeros() as u8, name: Some(name) }];
            Err(Error::Unsupported { features })
        };
        if o.has(InodeFlags::ENCRYPT) {
            return unsupported(FeatureWord::Incompat, Incompat::ENCRYPT.bits(), "encrypt");
        }
        if o.has(InodeFlags::VERITY) {
            return unsupported(FeatureWord::RoCompat, RoCompat::VERITY.bits(), "verity");
        }
        Ok(())
    }

    fn check_size(&self, o: &OpenInode, size: u64) -> Result<()> {
        let bs = self.edit.block_size() as u64;
        let most = match self.edit.vol.map_kind(&o.inode) {
            MapKind::Indirect => {
                let per = bs / 4;
                DIRECT + per + per * per + per.saturating_mul(per).saturating_mul(per)
            }
            _ => u64::from(u32::MAX),
        };
        if size.div_ceil(bs) > most.min(u64::from(u32::MAX)) {
            let value = size.to_string();
            return Err(Error::InvalidArgument { name: "size", value, allowed: "what the file's block map can hold" });
        }
        Ok(())
    }

    fn note_large(&mut self, o: &OpenInode) -> Result<()> {
        if o.inode.size() <= SMALL_FILE
            || self.edit.vol.superblock().features().ro_compat.contains(RoCompat::LARGE_FILE)
        {
            return Ok(());
        }
        self.add_feature(|f| f.ro_compat |= RoCompat::LARGE_FILE)
    }
}

/// Read into `buf` from byte `at`, zeros behind the end.
pub(crate) fn read_padded(content: &mut dyn Content, at: u64, buf: &mut [u8]) -> Result<()> {
    let n = content.size().saturating_sub(at).min(buf.len() as u64) as usize;
    let (data, rest) = buf.split_at_mut(n);
    rest.fill(0);
    if data.is_empty() { Ok(()) } else { content.read(at, data) }
}

/// The runs of blocks that segments touch.
fn block_runs(segments: &[Segment], block_size: u64) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for s in segments.iter().filter(|s| s.start < s.end) {
        let (from, to) = (s.start / block_size, s.end.div_ceil(block_size));
        match out.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => out.push((from, to)),
        }
    }
    out
}
