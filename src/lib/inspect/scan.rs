//! All inodes that may be in use, in order, read a piece of the inode table at a time.

use std::ops::ControlFlow;

use super::Damage;
use crate::error::{Place, Result};
use crate::format::inode::Inode;
use crate::units::{Group, Ino};
use crate::volume::Volume;

/// Blocks of an inode table that are read at once.
const STEP: u32 = 32;

/// What a visitor of inodes does with one.
pub type VisitInode<'v> = &'v mut dyn FnMut(Ino, &Inode) -> Result<ControlFlow<()>>;

/// Visit every inode with links, in order. Groups and ends of tables that were never used are skipped; what cannot be
/// read is added to `damage`, and the walk goes on. Checksums are not compared.
///
/// # Errors
/// Those of the visitor.
pub fn for_each_inode(volume: &Volume, damage: &mut Vec<Damage>, visit: VisitInode<'_>) -> Result<()> {
    for group in volume.geometry().all_groups() {
        if scan_group(volume, group, damage, visit)?.is_break() {
            break;
        }
    }
    Ok(())
}

fn scan_group(
    volume: &Volume,
    group: Group,
    damage: &mut Vec<Damage>,
    visit: VisitInode<'_>,
) -> Result<ControlFlow<()>> {
    let geo = volume.geometry();
    let desc = volume.group(group)?;
    if volume.is_inode_uninit(&desc) {
        return Ok(ControlFlow::Continue(()));
    }
    let unused = if geo.checksums.has_group_desc_csum() { desc.itable_unused() } else { 0 };
    let used = geo.inodes_per_group.saturating_sub(unused);
    let per_block = geo.block_size / u32::from(geo.inode_size.max(1));
    let blocks = used.div_ceil(per_block.max(1));
    let mut index = 0u32;
    for first in (0..blocks).step_by(STEP as usize) {
        let count = STEP.min(blocks - first);
        let at = desc.inode_table().saturating_add(first.into());
        let bytes = match volume.blocks(at, count) {
            Ok(bytes) => bytes,
            Err(e) => {
                damage.push(e.at(Place::group(group)).into());
                index = index.saturating_add(count.saturating_mul(per_block));
                continue;
            }
        };
        for slot in bytes.chunks_exact(usize::from(geo.inode_size)) {
            let ino = Ino(geo.group_first_ino(group).0.saturating_add(index));
            index = index.saturating_add(1);
            // The links count is at byte 26; most free slots are skipped before anything is copied.
            if index > used || matches!(slot.get(26..28), Some([0, 0])) {
                continue;
            }
            if visit(ino, &Inode::decode(slot)?)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}
