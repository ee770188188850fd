//! Indirect maps, changed: blocks entered and removed, pointer blocks allocated when first needed and freed when
//! their last pointer goes. Numbers in blocks; pointers have 32 bits.
//!
//! Blocks of the file are neither allocated nor freed here; pointer blocks are.

use super::edit::{Edit, OpenInode, modify_block};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::extent::Extent;
use crate::format::indirect::{self, IndirectGeometry, POINTERS, Path, Pointers};
use crate::units::{Fsblk, Lblk};

const OF: Structure = Structure::IndirectBlock;
/// Most blocks that removed neighbours are merged into.
const MAX_RUN: u32 = 1 << 15;

/// The most metadata blocks that entering `blocks` contiguous logical blocks dirties, the inode and allocation not
/// counted.
#[doc(alias = "ext4_ind_trans_blocks")]
pub const fn insert_credits(block_size: u32, blocks: u32) -> u32 {
    let per_block = IndirectGeometry::new(block_size).per_block();
    // One pointer block for every `per_block` blocks, one more at either edge, and the levels above.
    blocks.div_ceil(if per_block == 0 { 1 } else { per_block }).saturating_add(4)
}

impl Edit<'_> {
    /// Map `new.len` blocks. None of them may be mapped. Unwritten blocks do not exist here.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the map cannot hold the logical or physical numbers.
    #[doc(alias = "ext4_ind_map_blocks")]
    pub fn insert_indirect(&mut self, o: &mut OpenInode, new: Extent) -> Result<()> {
        let shape = IndirectGeometry::new(self.vol.geo.block_size);
        let last = new.pblk.saturating_add(u64::from(new.len.saturating_sub(1)));
        if u32::try_from(last.0).is_err() || new.end() > shape.first_lblk(POINTERS) {
            let (value, allowed) = (last.to_string(), "a block that 32 bits and the map can hold");
            return Err(Error::InvalidArgument { name: "block", value, allowed });
        }
        let mut done = 0;
        while done < new.len {
            let Some(path) = shape.path(new.lblk.saturating_add(done)) else { break };
            let pblk = new.pblk.saturating_add(done.into());
            let left = new.len.saturating_sub(done);
            done = done.saturating_add(self.enter_pointers(o, shape, &path, pblk, left)?.max(1));
        }
        Ok(())
    }

    /// Enter up to `left` pointers, `pblk` and on, from the end of `path` on in one block. Returns how many.
    fn enter_pointers(
        &mut self,
        o: &mut OpenInode,
        shape: IndirectGeometry,
        path: &Path,
        pblk: Fsblk,
        left: u32,
    ) -> Result<u32> {
        let [root, slots @ ..] = path.slots() else { return Ok(0) };
        let root = *root as usize;
        let mut top = Pointers::decode(&o.inode.block_area());
        let Some((last, middle)) = slots.split_last() else {
            if top.get(root).is_some() {
                return Err(mapped_twice());
            }
            if let Some(p) = top.0.get_mut(root) {
                *p = pblk.0 as u32;
            }
            o.inode.update(|c| c.block = top.encode());
            return Ok(1);
        };
        let mut block = if let Some(b) = top.get(root) {
            b
        } else {
            let b = self.new_pointer_block(o, pblk)?;
            if let Some(p) = top.0.get_mut(root) {
                *p = b.0 as u32;
            }
            o.inode.update(|c| c.block = top.encode());
            b
        };
        for slot in middle {
            let bytes = self.pointer_block(block)?;
            block = if let Some(b) = indirect::pointer(&bytes, *slot)? {
                b
            } else {
                let b = self.new_pointer_block(o, pblk)?;
                modify_block(self.store, block, |bytes| indirect::set_pointer(bytes, *slot, Some(b)))??;
                b
            };
        }
        let n = left.min(shape.per_block().saturating_sub(*last));
        let old = self.pointer_block(block)?;
        let taken = (0..n).any(|i| !matches!(indirect::pointer(&old, last.saturating_add(i)), Ok(None)));
        if taken {
            return Err(mapped_twice());
        }
        modify_block(self.store, block, |bytes| {
            (0..n).try_for_each(|i| {
                let p = pblk.saturating_add(i.into());
                indirect::set_pointer(bytes, last.saturating_add(i), Some(p))
            })
        })??;
        Ok(n)
    }

    fn new_pointer_block(&mut self, o: &mut OpenInode, goal: Fsblk) -> Result<Fsblk> {
        let block = self.allocate_metadata(o, goal)?;
        if u32::try_from(block.0).is_err() {
            return Err(Error::corrupt(Flaw::BlockOutOfRange { of: OF, block }, Place::inode(o.ino)));
        }
        self.store.create(block, vec![0; self.block_size()].into())?;
        Ok(block)
    }

    fn pointer_block(&self, block: Fsblk) -> Result<std::sync::Arc<[u8]>> {
        if !self.vol.geo.has_block(block) {
            return Err(Error::corrupt(Flaw::BlockOutOfRange { of: OF, block }, Place::FS));
        }
        let bytes = self.store.read(block)?;
        let range = self.vol.geo.first_data_block..self.vol.geo.blocks_count;
        indirect::check_range(&bytes, range).map_err(|e| e.at(Place::block(block)))?;
        Ok(bytes)
    }

    /// Unmap `start..end`; returns what was mapped there, in order. The blocks are the caller's to free.
    #[doc(alias = "ext4_ind_remove_space")]
    pub fn remove_indirect(&mut self, o: &mut OpenInode, start: Lblk, end: u64) -> Result<Vec<Extent>> {
        // The walk refuses maps in which a pointer block is met twice; what follows relies on it.
        self.vol.walk_map(o.owner(), &mut |_| Ok(std::ops::ControlFlow::Continue(())))?;
        let shape = IndirectGeometry::new(self.vol.geo.block_size);
        let mut cut = Cut { start: start.0.into(), end, shape, runs: Vec::new() };
        for slot in 0..POINTERS {
            let depth = (slot as u32).saturating_sub(11);
            let first = shape.first_lblk(slot);
            if !cut.meets(first, depth) {
                continue;
            }
            let Some(block) = Pointers::decode(&o.inode.block_area()).get(slot) else { continue };
            if self.cut_pointer(o, block, depth, first, &mut cut)? {
                let mut top = Pointers::decode(&o.inode.block_area());
                if let Some(p) = top.0.get_mut(slot) {
                    *p = 0;
                }
                o.inode.update(|c| c.block = top.encode());
            }
        }
        Ok(cut.runs)
    }

    /// Cut below one pointer; whether the pointer is to be cleared. Recursion is bounded by `depth` ≤ 3.
    fn cut_pointer(&mut self, o: &mut OpenInode, block: Fsblk, depth: u32, first: u64, cut: &mut Cut) -> Result<bool> {
        let Some(below) = depth.checked_sub(1) else {
            cut.take(first, block);
            return Ok(true);
        };
        let bytes = self.pointer_block(block)?;
        let mut pointers: Vec<u32> = indirect::pointers(&bytes).collect();
        let mut changed = false;
        let span = cut.shape.span(below);
        let mut at = first;
        for p in &mut pointers {
            if *p != 0 && cut.meets(at, below) && self.cut_pointer(o, Fsblk(u64::from(*p)), below, at, cut)? {
                *p = 0;
                changed = true;
            }
            at = at.saturating_add(span);
        }
        if pointers.iter().all(|p| *p == 0) {
            self.free_metadata(o, block)?;
            return Ok(true);
        }
        if changed {
            modify_block(self.store, block, |bytes| {
                for (slot, p) in bytes.chunks_exact_mut(4).zip(&pointers) {
                    slot.copy_from_slice(&p.to_le_bytes());
                }
            })?;
        }
        Ok(false)
    }
}

/// What is cut out of a map, and the runs found so far.
struct Cut {
    start: u64,
    end: u64,
    shape: IndirectGeometry,
    runs: Vec<Extent>,
}

impl Cut {
    /// Whether what is below a pointer for `first` with `depth` levels meets the range.
    const fn meets(&self, first: u64, depth: u32) -> bool {
        first < self.end && first.saturating_add(self.shape.span(depth)) > self.start
    }

    fn take(&mut self, lblk: u64, pblk: Fsblk) {
        if let Some(run) = self.runs.last_mut()
            && run.end() == lblk
            && run.pblk.0.saturating_add(run.len.into()) == pblk.0
            && run.len < MAX_RUN
        {
            run.len = run.len.saturating_add(1);
            return;
        }
        self.runs.push(Extent { lblk: Lblk(lblk as u32), len: 1, pblk, unwritten: false });
    }
}

const fn mapped_twice() -> Error {
    Error::corrupt(Flaw::Inconsistent { of: OF, detail: "a block is mapped twice" }, Place::FS)
}
