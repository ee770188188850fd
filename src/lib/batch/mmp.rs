//! Multiple-mount protection while an image is edited: a block in which whoever has the filesystem keeps counting.
//! Times in seconds. Kernel names: `ext4_multi_mount_protect`, `kmmpd`.
//!
//! [`Claim::take`] waits as long as the other side may take to count on, where the block says that somebody has the
//! filesystem; [`Claim::beat`] counts on for us, [`Claim::release`] says that nobody has it. The block is not journalled.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::device::BlockDevice;
use crate::env::{Timer, Timestamp};
use crate::error::{Error, Place, Result};
use crate::format::features::Incompat;
use crate::format::mmp::{Mmp, SEQ_CLEAN, SEQ_FSCK, SEQ_MAX};
use crate::units::Fsblk;
use crate::volume::Volume;

/// Seconds that are waited for at least.
#[doc(alias = "EXT4_MMP_MIN_CHECK_INTERVAL")]
const MIN_CHECK_INTERVAL: u64 = 5;
/// Seconds between two counts at most.
const MAX_UPDATE: u64 = 300;
/// What we call ourselves in the block.
const NODE: &[u8] = b"ext4kit";

/// The filesystem is ours.
pub(super) struct Claim {
    device: Arc<dyn BlockDevice>,
    timer: Arc<dyn Timer>,
    offset: u64,
    seed: Option<u32>,
    every: Duration,
    /// What the block is to be in the end, where somebody says.
    wanted: Mutex<Option<Mmp>>,
    now: Timestamp,
    state: Mutex<State>,
}

struct State {
    block: Mmp,
    written: Duration,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Claim {
    /// Claim the filesystem, where it has this protection.
    ///
    /// # Errors
    /// [`Error::MmpInUse`]; [`Error::Corrupt`] for a block that is none.
    pub(super) fn take(volume: &Volume, timer: &Arc<dyn Timer>, now: Timestamp) -> Result<Option<Self>> {
        if !volume.geometry().features.incompat.contains(Incompat::MMP) {
            return Ok(None);
        }
        let sb = volume.superblock();
        let at = Fsblk(sb.mmp_block.get());
        let seed = volume.geometry().checksums.seed();
        let read = || Mmp::decode(&volume.block(at)?, seed).map_err(|e| e.at(Place::block(at)));
        let mut block = read()?;
        if block.seq.get() == SEQ_FSCK {
            return Err(Error::MmpInUse { node: "a checker".into() });
        }
        let update = u64::from(sb.mmp_update_interval.get());
        if !block.is_clean() {
            let interval = update.max(block.check_interval.get().into()).max(MIN_CHECK_INTERVAL);
            timer.pause(Duration::from_secs((interval * 2 + 1).min(interval + 60)));
            let again = read()?;
            if again.seq.get() != block.seq.get() {
                return Err(Error::MmpInUse { node: name(&again.nodename) });
            }
        }
        // Some number that the last user did not have.
        let seq = (block.time.get() as u32 ^ (now.sec as u32).rotate_left(7) ^ now.nsec) % SEQ_MAX;
        block.seq.set(if seq == block.seq.get() { seq + 1 } else { seq });
        block.nodename = [0; 64];
        for (to, from) in block.nodename.iter_mut().zip(NODE) {
            *to = *from;
        }
        let every = Duration::from_secs(update.clamp(1, MAX_UPDATE));
        let device = Arc::clone(volume.device());
        let state = Mutex::new(State { block, written: timer.elapsed() });
        let timer = Arc::clone(timer);
        let claim = Self {
            device,
            timer,
            offset: volume.geometry().byte_of(at),
            seed,
            every,
            wanted: Mutex::new(None),
            now,
            state,
        };
        claim.write(|_| ())?;
        Ok(Some(claim))
    }

    fn write(&self, change: impl FnOnce(&mut Mmp)) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.block.time.set(u64::try_from(self.now.sec).unwrap_or(0));
        change(&mut state.block);
        state.written = self.timer.elapsed();
        self.device.write_at(self.offset, &state.block.encode(self.seed))?;
        self.device.flush()
    }

    /// Count on, where it is time to. Cheap, to be called often.
    pub(super) fn beat(&self) -> Result<()> {
        let due = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            self.timer.elapsed().saturating_sub(state.written) >= self.every
        };
        if due { self.write(|m| m.seq.set((m.seq.get() + 1) % SEQ_MAX)) } else { Ok(()) }
    }

    /// Leave the block like this in the end; `None` leaves it as nobody's.
    pub(super) fn leave(&self, block: Option<Mmp>) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = block;
    }

    /// Nobody has the filesystem any more.
    pub(super) fn release(&self) -> Result<()> {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.write(|m| match wanted {
            Some(block) => *m = block,
            None => m.seq.set(SEQ_CLEAN),
        })
    }
}

fn name(node: &[u8]) -> String {
    let end = node.iter().position(|b| *b == 0).unwrap_or(node.len());
    String::from_utf8_lossy(node.get(..end).unwrap_or_default()).into_owned()
}
