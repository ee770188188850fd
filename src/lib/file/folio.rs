//! The page cache of one inode: folios of one or more pages, each with a state per block. Kernel names: `struct folio`,
//! `struct buffer_head`, `address_space`.
//!
//! A page is 4096 bytes; a folio is `1 << order` pages, aligned to its size. Offsets and lengths in bytes unless they say
//! pages or blocks. A folio has buffers (one per block) once the buffer-head path has looked at it; a folio that was
//! only read has none. Folios do not overlap.

use std::collections::BTreeMap;
use std::ops::Range;

use super::extent_status::{EsEntry, EsStatus};
use crate::units::Fsblk;

/// log2 of the page size.
pub const PAGE_BITS: u32 = 12;
/// Bytes of a page.
pub const PAGE: u64 = 1 << PAGE_BITS;
/// The largest folio: `1 << MAX_ORDER` pages.
#[doc(alias = "MAX_PAGECACHE_ORDER")]
const MAX_ORDER: u32 = 9;
/// Most bytes of memory that are kept for folios to come.
const MAX_SPARE: u64 = 64 << 20;

/// The state of a block in the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[doc(alias = "buffer_head")]
pub struct Buffer {
    /// Holds the content of the block.
    pub uptodate: bool,
    /// Must be written back.
    pub dirty: bool,
    /// What the block is was looked up: it has a place, or (delayed) a reservation.
    pub mapped: bool,
    /// Just mapped: what a write does not cover must be zeroed.
    pub new: bool,
    /// Reserved, not allocated.
    pub delay: bool,
    /// Allocated, to be converted when the data is on the device.
    pub unwritten: bool,
    /// Where it is, if mapped and not delayed.
    pub pblk: Fsblk,
}

impl Buffer {
    /// Note the place that was found or made for the block; `new` where this look made it.
    pub fn place(&mut self, e: &EsEntry, new: bool) {
        self.mapped = true;
        self.delay = e.status == EsStatus::Delayed;
        self.unwritten = e.status == EsStatus::Unwritten;
        self.new = new || self.delay || self.unwritten;
        self.pblk = e.pblk;
    }

    /// Whether writeback has to ask for a place, or for a conversion, first.
    pub const fn needs_mapping(&self) -> bool {
        self.dirty && self.mapped && (self.delay || self.unwritten)
    }

    /// Whether writeback can write it as it is.
    pub const fn is_writable(&self) -> bool {
        self.dirty && self.mapped && !self.delay && !self.unwritten
    }

    /// Forget everything but that the content is known.
    #[doc(alias = "discard_buffer")]
    fn discard(&mut self) {
        *self = Self { uptodate: self.uptodate, ..Self::default() };
    }
}

/// Contiguous pages of a file in memory.
#[derive(Clone, Debug)]
pub struct Folio {
    /// First page.
    pub index: u64,
    /// log2 of the number of pages.
    pub order: u32,
    /// Content, unless it is lent.
    pub data: Vec<u8>,
    /// What it holds is still in the file of the host that lends it; `data` may be anything.
    pub lent: bool,
    /// All of the content is known.
    pub uptodate: bool,
    /// To be written back.
    pub dirty: bool,
    /// Writing it back failed once: what it holds is not all on the device.
    #[doc(alias = "AS_EIO")]
    pub error: bool,
    /// One per block, or none at all.
    pub buffers: Vec<Buffer>,
}

impl Folio {
    /// A folio of which nothing is known, in memory that may hold anything.
    fn new(index: u64, order: u32, (data, buffers): (Vec<u8>, Vec<Buffer>)) -> Self {
        Self { index, order, data, lent: false, uptodate: false, dirty: false, error: false, buffers }
    }

    /// Byte of the file where it begins.
    pub const fn pos(&self) -> u64 {
        self.index << PAGE_BITS
    }

    /// Bytes.
    pub const fn size(&self) -> u64 {
        PAGE << self.order
    }

    /// Byte of the file where it ends.
    pub const fn end(&self) -> u64 {
        self.pos() + self.size()
    }

    /// Page behind its last one.
    pub const fn next_index(&self) -> u64 {
        self.index + (1 << self.order)
    }

    /// Give it buffers, if it has none.
    #[doc(alias = "create_empty_buffers")]
    pub fn create_buffers(&mut self, block_bits: u32) {
        if self.buffers.is_empty() {
            let one = Buffer { uptodate: self.uptodate, dirty: self.dirty, ..Buffer::default() };
            self.buffers.resize((self.size() >> block_bits) as usize, one);
        }
    }

    /// The bytes `range` of the folio hold what was written: their blocks are dirty and known.
    #[doc(alias = "block_write_end", alias = "iomap_set_range_dirty")]
    pub fn written(&mut self, range: &Range<usize>, block_bits: u32) {
        let blocks = range.start >> block_bits..((range.end - 1) >> block_bits) + 1;
        let all = blocks.len() == self.buffers.len();
        for b in &mut self.buffers[blocks] {
            (b.uptodate, b.dirty, b.new) = (true, true, false);
        }
        self.dirty = true;
        self.uptodate = self.uptodate || all || self.buffers.iter().all(|b| b.uptodate);
    }

    /// Mark all of it for writeback, as a store through a mapping does.
    #[doc(alias = "block_dirty_folio")]
    pub fn dirty_all(&mut self) {
        for b in &mut self.buffers {
            b.dirty = true;
        }
        self.dirty = true;
    }

    /// Forget the state of the blocks that lie wholly in `[offset, offset + len)` of the folio.
    #[doc(alias = "block_invalidate_folio")]
    fn invalidate(&mut self, offset: u64, len: u64, block_bits: u32) {
        let block = 1u64 << block_bits;
        for (n, b) in self.buffers.iter_mut().enumerate() {
            let at = n as u64 * block;
            if at >= offset && at + block <= offset + len {
                b.discard();
            }
        }
    }

    /// Drop the buffers where none is dirty; a folio whose buffers are all clean is clean.
    #[doc(alias = "filemap_release_folio")]
    fn release(&mut self) -> bool {
        if self.buffers.iter().any(|b| b.dirty) {
            return false;
        }
        if !self.buffers.is_empty() {
            self.dirty = false;
        }
        self.buffers.clear();
        true
    }
}

/// Memory of folios that are gone, kept for new ones: pages that are in use stay in the processor's caches, and no page
/// has to be faulted in again.
#[derive(Clone, Default)]
#[doc(alias = "free_list")]
pub struct Spare {
    /// By order: bytes, and room for buffers.
    lists: [Vec<(Vec<u8>, Vec<Buffer>)>; MAX_ORDER as usize + 1],
    bytes: u64,
}

impl std::fmt::Debug for Spare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spare").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Spare {
    /// Memory for a folio; zeros, unless all of it will be `covered` at once.
    fn take(&mut self, order: u32, covered: bool) -> (Vec<u8>, Vec<Buffer>) {
        let size = PAGE << order;
        let had = self.lists.get_mut(order as usize).and_then(Vec::pop);
        let Some((mut data, buffers)) = had else { return (vec![0; size as usize], Vec::new()) };
        self.bytes -= size;
        if !covered {
            data.fill(0);
        }
        (data, buffers)
    }

    fn give(&mut self, mut folio: Folio) {
        let size = folio.size();
        // What was split off a larger folio may have more memory than it uses.
        let fits = folio.data.len() as u64 == size && folio.data.capacity() as u64 == size;
        if fits
            && self.bytes + size <= MAX_SPARE
            && let Some(list) = self.lists.get_mut(folio.order as usize)
        {
            folio.buffers.clear();
            list.push((folio.data, folio.buffers));
            self.bytes += size;
        }
    }
}

/// The page cache of an inode.
#[derive(Clone, Debug)]
#[doc(alias = "address_space")]
pub struct PageCache {
    folios: BTreeMap<u64, Folio>,
    spare: Spare,
    block_bits: u32,
    large: bool,
}

impl PageCache {
    /// An empty cache; `large` allows folios of more than one page.
    pub const fn new(block_bits: u32, large: bool) -> Self {
        const EMPTY: Vec<(Vec<u8>, Vec<Buffer>)> = Vec::new();
        let spare = Spare { lists: [EMPTY; MAX_ORDER as usize + 1], bytes: 0 };
        Self { folios: BTreeMap::new(), spare, block_bits, large }
    }

    /// Take up memory that another cache left.
    pub fn adopt(&mut self, spare: Spare) {
        self.spare = spare;
    }

    /// Drop everything; what is left is memory for other caches.
    pub fn into_spare(mut self) -> Spare {
        self.discard(0, u64::MAX);
        self.spare
    }

    /// Whether there is no folio.
    pub fn is_empty(&self) -> bool {
        self.folios.is_empty()
    }

    /// All folios in order.
    pub fn iter(&self) -> impl Iterator<Item = &Folio> {
        self.folios.values()
    }

    /// All folios in order, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Folio> {
        self.folios.values_mut()
    }

    /// The folio that holds a page.
    pub fn find(&self, page: u64) -> Option<&Folio> {
        let (_, f) = self.folios.range(..=page).next_back()?;
        (f.next_index() > page).then_some(f)
    }

    /// The folio that holds a page, to be changed.
    pub fn find_mut(&mut self, page: u64) -> Option<&mut Folio> {
        let (_, f) = self.folios.range_mut(..=page).next_back()?;
        (f.next_index() > page).then_some(f)
    }

    /// The folios from the one that holds a page on, in order, as far as they follow each other without a gap.
    pub fn following(&self, page: u64) -> impl Iterator<Item = &Folio> {
        let first = self.find(page).map_or(u64::MAX, |f| f.index);
        let mut next = first;
        self.folios.range(first..).map_while(move |(index, f)| {
            let follows = *index == next;
            next = f.next_index();
            follows.then_some(f)
        })
    }

    /// The folios that meet the pages `first..=last`, in order, to be changed.
    pub fn meeting_mut(&mut self, first: u64, last: u64) -> impl Iterator<Item = &mut Folio> {
        let first = self.find(first).map_or(first, |f| f.index);
        self.folios.range_mut(first..=last.max(first)).map(|(_, f)| f)
    }

    /// The first dirty folio that reaches beyond page `from` and begins at or before `last`.
    pub fn next_dirty(&self, from: u64, last: u64) -> Option<u64> {
        let first = self.find(from).map_or(from, |f| f.index);
        let mut all = self.folios.range(first..);
        all.find(|(i, f)| f.dirty || **i > last).filter(|(i, _)| **i <= last).map(|(i, _)| *i)
    }

    /// The folio that holds a page; a new one, as large as `len` bytes from there allow, where there is none.
    #[doc(alias = "__filemap_get_folio")]
    pub fn grab(&mut self, page: u64, len: u64) -> &mut Folio {
        self.grab_with(page, len, false)
    }

    /// The folio for a write of `len` bytes at `pos`, with buffers; a new one that the write does not cover is zeros.
    #[doc(alias = "iomap_get_folio")]
    pub fn grab_to_write(&mut self, pos: u64, len: u64) -> &mut Folio {
        let bits = self.block_bits;
        let f = self.grab_with(pos >> PAGE_BITS, len, pos.is_multiple_of(PAGE));
        f.create_buffers(bits);
        f
    }

    fn grab_with(&mut self, page: u64, len: u64, whole: bool) -> &mut Folio {
        let found = self.find(page).map(|f| f.index);
        let (index, order) = found.map_or_else(|| (page, self.order_for(page, len)), |index| (index, 0));
        let spare = &mut self.spare;
        self.folios.entry(index).or_insert_with(|| {
            let covered = whole && len >= PAGE << order;
            Folio::new(index, order, spare.take(order, covered))
        })
    }

    /// How large a new folio at `page` is for `len` bytes.
    fn order_for(&self, page: u64, len: u64) -> u32 {
        let mut order = 0;
        if self.large && len > PAGE {
            order = (len.ilog2() - PAGE_BITS).min(MAX_ORDER);
        }
        if page & ((1 << order) - 1) != 0 {
            order = page.trailing_zeros();
        }
        while order > 0 && self.folios.range(page..page + (1 << order)).next().is_some() {
            order -= 1;
        }
        order
    }

    /// Drop the folios that begin in pages `first..stop`.
    fn discard(&mut self, first: u64, stop: u64) {
        let gone = self.folios.extract_if(first..stop, |_, _| true);
        gone.for_each(|(_, f)| self.spare.give(f));
    }

    /// Drop what is cached of `[start, end)`: whole folios go, parts of folios become zeros, large ones are split where
    /// their state allows it. `size` is the file's.
    #[doc(alias = "truncate_inode_pages_range")]
    pub fn truncate(&mut self, start: u64, end: u64, size: u64) {
        if start >= end {
            return;
        }
        let (mut first, mut stop) = (start.div_ceil(PAGE), end >> PAGE_BITS);
        let mut same = start >> PAGE_BITS == (end - 1) >> PAGE_BITS;
        if let Some((index, next, last)) = self.find(start >> PAGE_BITS).map(|f| (f.index, f.next_index(), f.end())) {
            same = end <= last;
            if !self.truncate_partial(index, start, end, size) {
                first = next;
                if same {
                    stop = index;
                }
            }
        }
        if !same
            && let Some(index) = self.find((end - 1) >> PAGE_BITS).map(|f| f.index)
            && !self.truncate_partial(index, start, end, size)
        {
            stop = index;
        }
        if first < stop {
            self.discard(first, stop);
        }
    }

    /// `false` where the folio stays whole because it could not be split.
    #[doc(alias = "truncate_inode_partial_folio")]
    fn truncate_partial(&mut self, index: u64, start: u64, end: u64, size: u64) -> bool {
        let bits = self.block_bits;
        let Some(f) = self.folios.get_mut(&index) else { return true };
        let offset = start.saturating_sub(f.pos());
        let len = (f.end().min(end) - f.pos()) - offset;
        if len == f.size() {
            self.folios.remove(&index);
            return true;
        }
        f.data[offset as usize..(offset + len) as usize].fill(0);
        f.invalidate(offset, len, bits);
        if f.order == 0 {
            return true;
        }
        let (pages, whole, dirty) = (index, f.size(), f.dirty);
        if self.split(pages, pages + (offset >> PAGE_BITS), size) {
            let behind = pages + ((offset + len) >> PAGE_BITS);
            if offset + len != whole
                && let Some(second) = self.find(behind).map(|f| f.index)
            {
                self.split(second, behind, size);
            }
            return true;
        }
        if dirty {
            return false;
        }
        self.folios.remove(&index);
        true
    }

    /// Split a folio into ever smaller halves around page `at`; pieces behind the end of the file go.
    #[doc(alias = "folio_split")]
    fn split(&mut self, index: u64, at: u64, size: u64) -> bool {
        let Some(f) = self.folios.get_mut(&index) else { return false };
        if f.order == 0 {
            return true;
        }
        if !f.release() {
            return false;
        }
        let Some(mut whole) = self.folios.remove(&index) else { return false };
        let limit = size.div_ceil(PAGE);
        while whole.order > 0 {
            let order = whole.order - 1;
            let middle = whole.index + (1 << order);
            let upper = whole.data.split_off((PAGE << order) as usize);
            let lower = Folio { order, data: std::mem::take(&mut whole.data), buffers: Vec::new(), ..whole };
            let upper = Folio { index: middle, data: upper, buffers: Vec::new(), ..lower };
            let (next, done) = if at >= middle { (upper, lower) } else { (lower, upper) };
            if done.index < limit || done.index == index {
                self.folios.insert(done.index, done);
            }
            whole = next;
        }
        if whole.index < limit || whole.index == index {
            self.folios.insert(whole.index, whole);
        }
        true
    }

    /// Drop the clean folios that meet the pages `first..=last`.
    #[doc(alias = "invalidate_inode_pages2_range")]
    pub fn drop_clean(&mut self, first: u64, last: u64) {
        let gone = self.folios.extract_if(.., |i, f| !f.dirty && *i <= last && f.next_index() > first);
        gone.for_each(|(_, f)| self.spare.give(f));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(c: &PageCache) -> Vec<(u64, u32)> {
        c.iter().map(|f| (f.index, f.order)).collect()
    }

    #[test]
    fn folios_are_as_large_as_alignment_and_neighbours_allow() {
        let mut c = PageCache::new(12, true);
        c.grab(0, 16 * PAGE);
        c.grab(17, 16 * PAGE);
        c.grab(18, 16 * PAGE);
        c.grab(24, 100 * PAGE);
        c.grab(20, 16 * PAGE);
        assert_eq!(orders(&c), [(0, 4), (17, 0), (18, 1), (20, 2), (24, 3)]);
        let mut small = PageCache::new(12, false);
        small.grab(0, 16 * PAGE);
        assert_eq!(orders(&small), [(0, 0)]);
    }

    #[test]
    fn cutting_splits_a_clean_folio_and_zeros_a_dirty_one() {
        let mut c = PageCache::new(12, true);
        let f = c.grab(0, 16 * PAGE);
        f.data.fill(7);
        f.create_buffers(12);
        let mut dirty = c.clone();
        dirty.grab(0, 1).buffers[0].dirty = true;
        dirty.grab(0, 1).dirty = true;
        c.truncate(5 * PAGE + 100, u64::MAX, 5 * PAGE + 100);
        assert_eq!(orders(&c), [(0, 2), (4, 0), (5, 0)]);
        assert_eq!(c.find(5).unwrap().data[99..101], [7, 0]);
        dirty.truncate(5 * PAGE + 100, u64::MAX, 5 * PAGE + 100);
        assert_eq!(orders(&dirty), [(0, 4)]);
        assert_eq!(dirty.find(9).unwrap().data[9 * 4096], 0);
    }
}
