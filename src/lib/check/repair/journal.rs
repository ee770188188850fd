//! The journal as a structure: its superblock made anew, or the journal given up.

use super::super::journal::{V2_FIELDS, copied};
use super::super::problem::Problem as P;
use super::super::report::Finding;
use super::Hands;
use super::fields::EXTRA_ISIZE;
use super::work::Work;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::device::BlockDevice;
use crate::error::Result;
use crate::format::features::Compat;
use crate::format::inode::{GOOD_OLD_SIZE, TimeField};
use crate::format::superblock::{self, State, Superblock};
use crate::journal::{Log, LogArea};
use crate::units::{Ino, Tid};
use crate::volume::{MapEvent, OpenInode, OpenOptions, Owner, Volume};

pub(super) const MENDS: &[P] = &[
    P::JournalBadInode,
    P::JournalBadSuper,
    P::JournalClearV2,
    P::JournalHasJournal,
    P::JournalRecoverSet,
    P::JournalRecoveryClear,
    P::ExtJournalCsum,
    P::JournalInodeLost,
    P::JournalUnknownForm,
    P::JournalInumWrong,
    P::JournalUuidSpurious,
];

pub(super) fn mend(hands: &Hands<'_>, work: &mut Work<'_, '_>, f: &Finding) -> Result<()> {
    match f.problem {
        P::JournalBadSuper | P::JournalUnknownForm => {
            // What the log still holds must not be taken for what comes: a number far from all of its own.
            let vol = Volume::open(Arc::clone(hands.dev), &OpenOptions::as_it_is())?;
            let area = LogArea::locate(&vol, hands.options.check.journal_device.clone())?;
            let device = area.device().clone();
            Log::reset(area, vol.superblock().uuid, Tid(1))?;
            device.flush()?;
            forget(work, false)
        }
        P::JournalClearV2 => {
            let vol = Volume::open(Arc::clone(hands.dev), &OpenOptions::as_it_is())?;
            let area = LogArea::locate(&vol, hands.options.check.journal_device.clone())?;
            let mut bytes = vec![0; area.block_size() as usize];
            area.device().read_at(area.superblock_at(), &mut bytes)?;
            if let Some(later) = bytes.get_mut(V2_FIELDS..) {
                later.fill(0);
            }
            area.device().write_at(area.superblock_at(), &bytes)?;
            area.device().flush()
        }
        P::JournalBadInode => {
            let has = work.vol().geometry().features.compat.contains(Compat::HAS_JOURNAL);
            if has {
                hands.wants_journal.set(true);
            }
            forget(work, true)
        }
        P::JournalHasJournal => {
            // The journal is good: the feature was lost.
            superblock(work, |sb| {
                let mut features = sb.features();
                features.compat |= Compat::HAS_JOURNAL;
                sb.set_features(features);
            })
        }
        P::JournalInodeLost => restore(work),
        P::JournalInumWrong => superblock(work, |sb| sb.journal_inum.set(Ino::JOURNAL.0)),
        P::JournalUuidSpurious => superblock(work, |sb| sb.journal_uuid = [0; 16]),
        P::JournalRecoverSet => superblock(work, |sb| sb.set_needs_recovery(false)),
        // A backup superblock never says it; the log is brought home before the next round.
        P::JournalRecoveryClear => superblock(work, |sb| sb.set_needs_recovery(true)),
        P::ExtJournalCsum => match &hands.options.check.journal_device {
            Some(device) => {
                let mut bytes = [0; superblock::SIZE];
                device.read_at(superblock::OFFSET, &mut bytes)?;
                device.write_at(superblock::OFFSET, &Superblock::decode_unchecked(&bytes)?.encode())?;
                device.flush()
            }
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Write the journal's inode as the copy of its block map has it.
fn restore(work: &mut Work<'_, '_>) -> Result<()> {
    let Some(mut inode) = copied(work.ctx) else { return Ok(()) };
    let now = work.now;
    let geo = work.ctx.geo;
    let mut blocks = 0u64;
    work.ctx.vol.walk_map(Owner { ino: Ino::JOURNAL, inode: &inode }, &mut |event| {
        blocks += match event {
            MapEvent::Node { .. } => u64::from(geo.cluster_ratio),
            MapEvent::Data(e) => u64::from(e.len),
        };
        Ok(ControlFlow::Continue(()))
    })?;
    work.step(|edit| {
        if usize::from(geo.inode_size) > GOOD_OLD_SIZE {
            inode.update(|c| c.extra_isize.set(EXTRA_ISIZE.min(geo.inode_size - GOOD_OLD_SIZE as u16)));
        }
        for t in [TimeField::Access, TimeField::Change, TimeField::Modify] {
            inode.set_time(t, now);
        }
        inode.set_blocks_raw(blocks * (u64::from(geo.block_size) / 512));
        edit.put(&mut OpenInode { ino: Ino::JOURNAL, inode })
    })?;
    Ok(())
}

/// Nothing is to be recovered; `entirely`: there is no journal any more. The feature stays until there is a new one, so that
/// after a kill the next run knows.
fn forget(work: &mut Work<'_, '_>, entirely: bool) -> Result<()> {
    superblock(work, |sb| {
        sb.set_needs_recovery(false);
        sb.state = (sb.state_flags() - State::VALID).bits().into();
        if entirely {
            sb.journal_inum.set(0);
            sb.jnl_blocks = Default::default();
        }
    })
}

/// Change the superblock.
pub(super) fn superblock(work: &mut Work<'_, '_>, change: impl FnOnce(&mut Superblock)) -> Result<()> {
    work.step(|edit| edit.vol.store_superblock(edit.store, change)).map(|_| ())
}
