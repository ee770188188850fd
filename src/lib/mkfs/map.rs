//! From the extents of a new file to its map: an extent tree, or indirect blocks. Unit: blocks.
//!
//! The blocks of the map itself are allocated after the data, and their bytes are kept until the filesystem is written.
//! Kernel names: `ext4_extent_header` and its tree; `i_block[]` with single, double and triple indirect blocks.

use super::draft::Draft;
use crate::error::{Error, Result};
use crate::format::extent::{self, Entries, Extent, Index, Node};
use crate::format::features::Incompat;
use crate::format::inode::{BLOCK_LEN, Inode, InodeFlags};
use crate::units::{Fsblk, Ino, Lblk};

/// Entries of an extent root in the inode.
const ROOT_ENTRIES: usize = 4;
/// Direct pointers of an inode without extents.
const DIRECT: u64 = 12;

/// Give `inode` the map for `extents` (ascending), and count the blocks it takes for itself into `clusters`.
pub(crate) fn attach(d: &mut Draft, ino: Ino, inode: &mut Inode, extents: &[Extent], clusters: &mut u64) -> Result<()> {
    if d.layout().features.incompat.contains(Incompat::EXTENTS) {
        inode.set_flags(inode.flags() | InodeFlags::EXTENTS);
        let area = extent_root(d, ino, extents, clusters)?;
        inode.update(|c| c.block = area);
    } else {
        let area = indirect_root(d, extents, clusters)?;
        inode.update(|c| c.block = area);
    }
    Ok(())
}

/// The inode's extent root; other nodes are allocated and kept.
pub(crate) fn extent_root(d: &mut Draft, ino: Ino, extents: &[Extent], clusters: &mut u64) -> Result<[u8; BLOCK_LEN]> {
    let mut area = [0; BLOCK_LEN];
    let bs = d.layout().block_size as usize;
    let cap = extent::capacity(bs);
    let seed = d.layout().checksums().inode_seed(ino, 0);
    let mut depth = 0u16;
    let mut level = Entries::Leaf(extents.to_vec());
    loop {
        let node = |entries, max| Node { depth, max, generation: 0, entries };
        let count = match &level {
            Entries::Leaf(v) => v.len(),
            Entries::Index(v) => v.len(),
        };
        if count <= ROOT_ENTRIES {
            node(level, ROOT_ENTRIES as u16).encode_into(&mut area);
            return Ok(area);
        }
        let mut above = Vec::with_capacity(count.div_ceil(cap));
        let mut emit = |d: &mut Draft, first: Lblk, entries: Entries| -> Result<()> {
            let child = d.allocate_one()?;
            *clusters += 1;
            let mut block = vec![0; bs];
            Node { depth, max: cap as u16, generation: 0, entries }.encode_into(&mut block);
            if let Some(seed) = seed {
                extent::stamp_block(&mut block, seed);
            }
            d.keep(child, block);
            above.push(Index { lblk: first, child: Fsblk(child) });
            Ok(())
        };
        match &level {
            Entries::Leaf(v) => {
                for part in v.chunks(cap) {
                    emit(d, part[0].lblk, Entries::Leaf(part.to_vec()))?;
                }
            }
            Entries::Index(v) => {
                for part in v.chunks(cap) {
                    emit(d, part[0].lblk, Entries::Index(part.to_vec()))?;
                }
            }
        }
        level = Entries::Index(above);
        depth += 1;
    }
}

/// Extents in ascending order, asked for one logical block after the other.
struct Lookup<'a> {
    extents: &'a [Extent],
}

impl Lookup<'_> {
    /// The physical block for `lblk`, 0 for a hole. Must be asked in ascending order.
    fn get(&mut self, lblk: u64) -> u32 {
        while let Some(first) = self.extents.first()
            && first.end() <= lblk
        {
            self.extents = &self.extents[1..];
        }
        match self.extents.first() {
            Some(e) if u64::from(e.lblk.0) <= lblk => (e.pblk.0 + (lblk - u64::from(e.lblk.0))) as u32,
            _ => 0,
        }
    }

    /// Whether anything is mapped in `from..from + len`, beyond what has been passed.
    fn any(&self, from: u64, len: u64) -> bool {
        self.extents.iter().find(|e| e.end() > from).is_some_and(|e| u64::from(e.lblk.0) < from + len)
    }
}

/// The inode's pointers; indirect blocks are allocated and kept.
pub(crate) fn indirect_root(d: &mut Draft, extents: &[Extent], clusters: &mut u64) -> Result<[u8; BLOCK_LEN]> {
    let per = u64::from(d.layout().block_size) / 4;
    let end = extents.last().map_or(0, Extent::end);
    let most = DIRECT + per + per * per + per * per * per;
    if end > most {
        return Err(Error::NoSpace { what: "blocks that a file without extents can have", need: end, have: most });
    }
    let mut look = Lookup { extents };
    let mut pointers = [0u32; 15];
    for (i, p) in (0..DIRECT).zip(&mut pointers) {
        *p = look.get(i);
    }
    let (mut from, mut span) = (DIRECT, per);
    for (level, p) in (1u32..=3).zip(pointers.iter_mut().skip(12)) {
        *p = indirect(d, &mut look, from, level, per, clusters)?;
        from += span;
        span *= per;
    }
    let mut area = [0; BLOCK_LEN];
    for (to, from) in area.chunks_exact_mut(4).zip(pointers) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    Ok(area)
}

/// The indirect block of `level` for the logical blocks from `from`; 0 where there is nothing.
fn indirect(d: &mut Draft, look: &mut Lookup<'_>, from: u64, level: u32, per: u64, clusters: &mut u64) -> Result<u32> {
    let step = per.pow(level - 1);
    if !look.any(from, step * per) {
        return Ok(0);
    }
    let at = d.allocate_one()?;
    *clusters += 1;
    let mut block = Vec::with_capacity(per as usize * 4);
    for i in 0..per {
        let lblk = from + i * step;
        let p = if level == 1 { look.get(lblk) } else { indirect(d, look, lblk, level - 1, per, clusters)? };
        block.extend_from_slice(&p.to_le_bytes());
    }
    d.keep(at, block);
    Ok(at as u32)
}
