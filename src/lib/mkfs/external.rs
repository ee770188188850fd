//! The user of a journal that is on a device of its own: finding out what the journal is, and entering the filesystem in it.
//!
//! A journal device begins with an ext4 superblock of the feature `journal_dev`; the journal's own superblock is in the block behind
//! that one. Kernel name: `ext4_get_journal_blkdev`.

use super::options::{ExternalJournal, invalid};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::format::features::Incompat;
use crate::format::jbd2::{JournalSuperblock, SUPERBLOCK_SIZE};
use crate::format::superblock::{self, Superblock};

/// Where the journal's superblock is, in bytes.
const fn place(block_size: u32) -> u64 {
    if block_size == 1024 { 2048 } else { block_size as u64 }
}

/// What the journal on `dev` is; `number` is the kernel's number of the device, 0 where it has none.
///
/// # Errors
/// [`crate::Error::InvalidArgument`] where the device holds no journal; what is wrong with its superblocks.
pub fn find_journal(dev: &dyn BlockDevice, number: u32) -> Result<ExternalJournal> {
    let none = |what: &str| invalid("journal device", what, "a device that was made with -O journal_dev");
    if dev.len() < superblock::OFFSET + SUPERBLOCK_SIZE as u64 {
        return Err(none("too short"));
    }
    let mut bytes = [0; SUPERBLOCK_SIZE];
    dev.read_at(superblock::OFFSET, &mut bytes)?;
    let sb = Superblock::decode(&bytes)?;
    if !sb.features().incompat.contains(Incompat::JOURNAL_DEV) {
        return Err(none("a filesystem"));
    }
    let block_size = 1024u32.checked_shl(sb.log_block_size.get()).filter(|n| (1024..=65536).contains(n));
    let block_size = block_size.ok_or_else(|| none("of an impossible block size"))?;
    let journal = superblock_of(dev, block_size)?;
    if journal.blocksize.get() != block_size {
        return Err(none("of two block sizes"));
    }
    Ok(ExternalJournal { uuid: sb.uuid, block_size, number })
}

/// Enter the filesystem `user` among those that use the journal.
///
/// # Errors
/// [`crate::Error::InvalidArgument`] where the journal has all users that it can have; what the device reports.
pub fn join_journal(dev: &dyn BlockDevice, journal: ExternalJournal, user: [u8; 16]) -> Result<()> {
    let mut sb = superblock_of(dev, journal.block_size)?;
    let count = sb.nr_users.get() as usize;
    if sb.users.iter().take(count).any(|u| *u == user) {
        return Ok(());
    }
    let full = || invalid("journal device", format!("used by {count} filesystems"), "one that has room for another");
    *sb.users.get_mut(count).ok_or_else(full)? = user;
    sb.nr_users = (count as u32 + 1).into();
    dev.write_at(place(journal.block_size), &sb.encode())?;
    dev.flush()
}

fn superblock_of(dev: &dyn BlockDevice, block_size: u32) -> Result<JournalSuperblock> {
    let mut bytes = [0; SUPERBLOCK_SIZE];
    dev.read_at(place(block_size), &mut bytes)?;
    JournalSuperblock::decode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::super::{Draft, FeatureEdit, Layout, Options, Size};
    use super::*;
    use crate::device::MemoryDevice;
    use crate::env::Timestamp;

    #[test]
    fn a_journal_is_found_and_joined_once_by_each() {
        for block_size in [1024, 4096] {
            let mut o = Options::new(Size::Units(4096), [7; 16], [0; 16], Timestamp::default());
            o.block_size = Some(block_size);
            o.features = FeatureEdit::parse_list("journal_dev").unwrap();
            let dev = MemoryDevice::new(4096 * block_size as usize);
            Draft::new(Layout::new(&o).unwrap()).unwrap().write(&dev, true).unwrap();
            let journal = find_journal(&dev, 5).unwrap();
            assert_eq!(journal, ExternalJournal { uuid: [7; 16], block_size, number: 5 });
            for user in [[1; 16], [2; 16], [1; 16]] {
                join_journal(&dev, journal, user).unwrap();
            }
            let sb = superblock_of(&dev, block_size).unwrap();
            assert_eq!((sb.nr_users.get(), sb.users[0], sb.users[1]), (2, [1; 16], [2; 16]));
            for n in 3..=48 {
                join_journal(&dev, journal, [n; 16]).unwrap();
            }
            assert!(join_journal(&dev, journal, [99; 16]).is_err());
        }
        assert!(find_journal(&MemoryDevice::new(1 << 20), 0).is_err());
        assert!(find_journal(&MemoryDevice::new(100), 0).is_err());
    }
}
