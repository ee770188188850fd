//! Give back to the device what a sound filesystem does not use: free blocks, and the parts of inode tables that were never used.

use std::ops::Range;
use std::sync::Arc;

use crate::device::BlockDevice;
use crate::error::Result;
use crate::format::bitmap::zero_runs;
use crate::units::{Fsblk, Group};
use crate::volume::{OpenOptions, Volume};

/// Discard the free blocks of the filesystem on `dev` and the unused parts of its inode tables. To be called when a full check has
/// found nothing wrong. Returns how many bytes the device gave up; `None` where it cannot do that.
///
/// # Errors
/// [`crate::Error::Io`] where the device fails, and what a filesystem that is not sound leads to.
#[doc(alias = "e2fsck -E discard")]
#[doc(alias = "fstrim")]
pub fn discard(dev: &Arc<dyn BlockDevice>) -> Result<Option<u64>> {
    let volume = Volume::open(Arc::clone(dev), &OpenOptions::default())?;
    // What was freed by a repair must be free durably before it is gone.
    dev.flush()?;
    let block_size = u64::from(volume.geometry().block_size);
    let mut bytes = 0;
    for group in volume.geometry().all_groups() {
        for range in unused(&volume, group)? {
            let (at, len) = (range.start * block_size, (range.end - range.start) * block_size);
            if !dev.discard(at, len)? {
                return Ok(None);
            }
            bytes += len;
        }
    }
    Ok(Some(bytes))
}

/// The blocks of a group that hold nothing.
fn unused(volume: &Volume, group: Group) -> Result<Vec<Range<u64>>> {
    let geo = volume.geometry();
    let desc = volume.group(group)?;
    let (start, ratio) = (geo.group_start(group).0, u64::from(geo.cluster_ratio));
    let end = start + u64::from(geo.blocks_in_group(group));
    let bitmap = volume.block_bitmap(group)?;
    let free = zero_runs(&bitmap, 0, geo.clusters_in_group(group) as usize);
    let block = |bit: usize| (start + bit as u64 * ratio).min(end);
    let mut all: Vec<Range<u64>> = free.map(|r| block(r.start)..block(r.end)).collect();
    if geo.checksums.has_group_desc_csum() {
        let per_block = geo.block_size / u32::from(geo.inode_size);
        let used = if volume.is_inode_uninit(&desc) { 0 } else { geo.inodes_per_group - desc.itable_unused() };
        let Fsblk(table) = desc.inode_table();
        all.push(table + u64::from(used.div_ceil(per_block))..table + u64::from(geo.itable_blocks));
    }
    all.retain(|r| !r.is_empty());
    Ok(all)
}
