//! The superblock: restored from a backup, and what it says of the check when that is over.

use std::sync::Arc;

use zerocopy::FromZeros;

use super::super::Outcome;
use super::super::clerk::Clerk;
use super::Hands;
use crate::device::BlockDevice;
use crate::env::FixedClock;
use crate::error::Result;
use crate::format::group_desc::{BgFlags, GroupDesc};
use crate::format::superblock::{self, State, Superblock};
use crate::journal::{JournalOptions, direct};
use crate::recover;
use crate::units::Fsblk;
use crate::volume::{OpenOptions, Volume};

/// Write the superblock and the descriptors of `vol`, which come from a backup, over the primary ones. A backup knows nothing
/// of unused parts, so none are marked. The superblock comes last: without it the backup is found again.
pub(super) fn restore(dev: &Arc<dyn BlockDevice>, vol: &Volume) -> Result<()> {
    let geo = vol.geometry();
    let size = usize::from(geo.desc_size);
    let mut table = vec![0u8; geo.gdt_blocks as usize * geo.block_size as usize];
    for (group, slot) in geo.all_groups().zip(table.chunks_mut(size)) {
        let raw = vol.raw_group(group)?;
        slot.copy_from_slice(raw);
        let mut desc = GroupDesc::decode(raw)?;
        if geo.checksums.has_group_desc_csum() {
            desc.set_bg_flags(desc.bg_flags() - (BgFlags::BLOCK_UNINIT | BgFlags::INODE_UNINIT));
            desc.set_itable_unused(0);
            if let Some(sum) = desc.computed_checksum(geo.checksums, group, geo.desc_size, raw) {
                desc.checksum.set(sum);
            }
            desc.encode_into(slot);
        }
    }
    for (i, block) in table.chunks(geo.block_size as usize).enumerate() {
        dev.write_at(geo.byte_of(geo.gdt_block(Fsblk(0), i as u32)), block)?;
    }
    dev.flush()?;
    let mut sb = vol.superblock().clone();
    sb.block_group_nr.set(0);
    write(dev, &sb)
}

/// Write the primary superblock, of a filesystem that is yet to be checked.
pub(super) fn write(dev: &Arc<dyn BlockDevice>, sb: &Superblock) -> Result<()> {
    let mut sb = sb.clone();
    sb.state = (sb.state_flags() - State::VALID).bits().into();
    dev.write_at(superblock::OFFSET, &sb.encode())?;
    dev.flush()
}

/// Whether the filesystem says that it is valid; `None` where it cannot be asked.
pub(super) fn is_valid(dev: &Arc<dyn BlockDevice>) -> Option<bool> {
    let vol = Volume::open(Arc::clone(dev), &OpenOptions::as_it_is()).ok()?;
    Some(vol.superblock().state_flags().contains(State::VALID))
}

/// Bring the superblock's counts up to date after a recovery that no check follows.
pub(super) fn count(hands: &Hands<'_>, recovered: &recover::Report) -> Result<()> {
    if !recovered.journal.needed {
        return Ok(());
    }
    let write = JournalOptions::new(Arc::new(FixedClock(hands.options.check.now)));
    let mut journal = direct::open_regardless(&Volume::open(Arc::clone(hands.dev), &OpenOptions::as_it_is())?, write)?;
    let mut vol = Volume::open(journal.view(), &OpenOptions::as_it_is())?;
    let (mut clusters, mut inodes) = (0u64, 0u64);
    for group in vol.geometry().all_groups() {
        let desc = vol.group(group)?;
        clusters += u64::from(desc.free_clusters());
        inodes += u64::from(desc.free_inodes());
    }
    let blocks = clusters << vol.geometry().cluster_bits;
    let mut handle = journal.start(1)?;
    vol.store_superblock(&mut handle, |sb| {
        sb.set_free_blocks_count(blocks);
        sb.free_inodes_count.set(u32::try_from(inodes).unwrap_or(u32::MAX));
    })?;
    journal.close()
}

/// Note in the superblock that the filesystem was checked, and whether it is valid; whether it is. Where no full check was made, nothing is noted.
pub(super) fn settle(hands: &Hands<'_>, left: &Outcome, clerk: &Clerk<'_>) -> Result<bool> {
    if !left.opened || left.aborted || left.reason.is_none() || !clerk.repairs() {
        return Ok(false);
    }
    let now = hands.options.check.now;
    let write = JournalOptions::new(Arc::new(FixedClock(now)));
    let mut journal = direct::open_regardless(&Volume::open(Arc::clone(hands.dev), &OpenOptions::as_it_is())?, write)?;
    let mut vol = Volume::open(journal.view(), &OpenOptions::as_it_is())?;
    let mut handle = journal.start(1)?;
    vol.store_superblock(&mut handle, |sb| {
        let mut state = sb.state_flags();
        if clerk.stopped {
            state |= State::ERROR;
        } else if left.errors > 0 {
            state -= State::VALID;
        } else {
            state |= State::VALID;
            state -= State::ERROR;
            forget_errors(sb);
        }
        sb.state = state.bits().into();
        sb.mnt_count.set(0);
        sb.set_check_time(now);
    })?;
    let is = vol.superblock().state_flags().contains(State::VALID);
    journal.close()?;
    Ok(is)
}

/// What was recorded about errors is dealt with.
fn forget_errors(sb: &mut Superblock) {
    let clean = Superblock::new_zeroed();
    sb.error_count = clean.error_count;
    sb.first_error_time = clean.first_error_time;
    sb.first_error_time_hi = clean.first_error_time_hi;
    sb.first_error_ino = clean.first_error_ino;
    sb.first_error_block = clean.first_error_block;
    sb.first_error_func = clean.first_error_func;
    sb.first_error_line = clean.first_error_line;
    sb.first_error_errcode = clean.first_error_errcode;
    sb.last_error_time = clean.last_error_time;
    sb.last_error_time_hi = clean.last_error_time_hi;
    sb.last_error_ino = clean.last_error_ino;
    sb.last_error_line = clean.last_error_line;
    sb.last_error_block = clean.last_error_block;
    sb.last_error_func = clean.last_error_func;
    sb.last_error_errcode = clean.last_error_errcode;
}
