//! One operation on a filesystem that is being edited: the volume, a handle on the transaction, and the allocator.
//!
//! [`Edit`] is what all changes are methods of: block maps ([`super::map_edit`]), directories, extended attributes,
//! inline data, inodes. Reading goes through the volume, which is opened over the store's view, so it sees what the
//! transaction has done. Inodes are changed in memory ([`OpenInode`]) and stored with [`Edit::put`].
//!
//! An operation that fails may have changed part of what it had to. The transaction must then be given up, and the
//! volume and allocator opened anew; what could be refused was refused before the first change.

use std::sync::Arc;

use super::store::{AllocRequest, BlockAlloc, MetaStore};
use super::{Owner, Volume};
use crate::error::{Error, Result};
use crate::format::features::RoCompat;
use crate::format::group_desc::GroupDesc;
use crate::format::inode::{FileType, Inode, InodeFlags};
use crate::format::superblock::{self, Superblock};
use crate::units::{Fsblk, Group, Ino};

/// Most links of an object, and of a directory without `dir_nlink`.
#[doc(alias = "EXT4_LINK_MAX")]
pub const LINK_MAX: u16 = 65000;

/// One operation's hands on the filesystem.
pub struct Edit<'a> {
    /// The volume, opened over the store's view.
    pub vol: &'a mut Volume,
    /// The handle.
    pub store: &'a mut dyn MetaStore,
    /// Where blocks and inodes come from.
    pub alloc: &'a mut dyn BlockAlloc,
}

impl std::fmt::Debug for Edit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edit").field("vol", &self.vol).finish_non_exhaustive()
    }
}

/// An inode in memory, with its number. Changes reach the transaction with [`Edit::put`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenInode {
    /// Number.
    pub ino: Ino,
    /// Content.
    pub inode: Inode,
}

impl OpenInode {
    /// As readers take it.
    pub const fn owner(&self) -> Owner<'_> {
        Owner { ino: self.ino, inode: &self.inode }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.inode.file_type() == Some(FileType::Directory)
    }

    /// Whether one of `flags` is set.
    pub fn has(&self, flags: InodeFlags) -> bool {
        self.inode.flags().intersects(flags)
    }

    /// Set or clear flags.
    pub fn set(&mut self, flags: InodeFlags, on: bool) {
        let mut all = self.inode.flags();
        all.set(flags, on);
        self.inode.set_flags(all);
    }

    /// Hard links as stored.
    pub fn links(&self) -> u16 {
        self.inode.core().links_count.get()
    }

    /// Store the number of hard links.
    pub fn set_links(&mut self, n: u16) {
        self.inode.update(|c| c.links_count.set(n));
    }
}

impl Volume {
    /// Replace a group descriptor: in the volume, and through `store` in the primary table, checksum stamped.
    #[doc(alias = "ext4_group_desc_csum_set")]
    pub fn store_group(&mut self, store: &mut dyn MetaStore, group: Group, desc: &GroupDesc) -> Result<()> {
        let size = usize::from(self.geo.desc_size);
        let start = (group.0 as usize).saturating_mul(size);
        let mut desc = *desc;
        let raw = self.raw_group(group)?;
        if let Some(sum) = desc.computed_checksum(self.geo.checksums, group, self.geo.desc_size, raw) {
            desc.checksum.set(sum);
        }
        if let Some(slot) = self.gdt.get_mut(start..start.saturating_add(size)) {
            desc.encode_into(slot);
        }
        let index = group.0.checked_div(self.geo.desc_per_block).unwrap_or(0);
        let block = self.geo.gdt_block(Fsblk(0), index);
        let first = index.saturating_mul(self.geo.desc_per_block);
        let at = (group.0.saturating_sub(first) as usize).saturating_mul(size);
        modify_block(store, block, |bytes| {
            if let Some(slot) = bytes.get_mut(at..at.saturating_add(size)) {
                desc.encode_into(slot);
            }
        })
    }

    /// Change the superblock: in the volume, and through `store` in the primary copy, checksum stamped. The change
    /// must not touch what the geometry depends on.
    pub fn store_superblock(&mut self, store: &mut dyn MetaStore, change: impl FnOnce(&mut Superblock)) -> Result<()> {
        change(&mut self.sb);
        self.sb.update_checksum();
        let bytes = self.sb.encode();
        let size = u64::from(self.geo.block_size);
        let block = superblock::OFFSET.checked_div(size).unwrap_or(0);
        let at = superblock::OFFSET.saturating_sub(block.saturating_mul(size)) as usize;
        modify_block(store, Fsblk(block), |out| {
            if let Some(slot) = out.get_mut(at..at.saturating_add(bytes.len())) {
                slot.copy_from_slice(&bytes);
            }
        })
    }
}

/// Read a block, change a copy, and write it back.
pub fn modify_block<T>(store: &mut dyn MetaStore, block: Fsblk, change: impl FnOnce(&mut [u8]) -> T) -> Result<T> {
    let mut bytes: Arc<[u8]> = Arc::from(&*store.read(block)?);
    // The copy has one owner, so this does not copy again.
    let done = change(Arc::make_mut(&mut bytes));
    store.write(block, bytes)?;
    Ok(done)
}

impl Edit<'_> {
    /// An inode, as the transaction has it.
    pub fn open(&self, ino: Ino) -> Result<OpenInode> {
        Ok(OpenInode { ino, inode: self.vol.inode(ino)? })
    }

    /// Store an inode, checksum stamped.
    #[doc(alias = "ext4_mark_inode_dirty")]
    pub fn put(&mut self, o: &mut OpenInode) -> Result<()> {
        o.inode.update_checksum(self.vol.geo.checksums, o.ino);
        let (offset, block) = self.vol.inode_offset(o.ino)?;
        let at = offset.saturating_sub(self.vol.geo.byte_of(block)) as usize;
        let slot = o.inode.as_bytes();
        modify_block(self.store, block, |bytes| {
            if let Some(to) = bytes.get_mut(at..at.saturating_add(slot.len())) {
                to.copy_from_slice(slot);
            }
        })
    }

    /// Block size in bytes.
    pub const fn block_size(&self) -> usize {
        self.vol.geo.block_size as usize
    }

    /// The checksum seed for an inode's blocks; `None` without `metadata_csum`.
    pub fn seed(&self, o: &OpenInode) -> Option<u32> {
        self.vol.inode_seed(o.ino, &o.inode)
    }

    /// Add `clusters` (may be negative) to an inode's count of blocks in use.
    #[doc(alias = "ext4_inode_blocks_set")]
    pub fn count_clusters(&self, o: &mut OpenInode, clusters: i64) -> Result<()> {
        let geo = &self.vol.geo;
        let sectors_per_block = u64::from(geo.block_size >> 9);
        let huge = geo.features.ro_compat.contains(RoCompat::HUGE_FILE);
        let in_blocks = huge && o.has(InodeFlags::HUGE_FILE);
        let now = o.inode.blocks_raw().saturating_mul(if in_blocks { sectors_per_block } else { 1 });
        let each = sectors_per_block.saturating_mul(geo.cluster_ratio.into());
        let change = clusters.unsigned_abs().saturating_mul(each);
        let sectors = if clusters < 0 { now.saturating_sub(change) } else { now.saturating_add(change) };
        const LOW: u64 = 1 << 32;
        const HIGH: u64 = 1 << 48;
        let (raw, in_blocks) = match (sectors, huge) {
            (n, _) if n < LOW => (n, false),
            (n, true) if n < HIGH => (n, false),
            (n, true) => (n.checked_div(sectors_per_block).unwrap_or(0), true),
            (n, false) => {
                let have = LOW.saturating_sub(1);
                return Err(Error::NoSpace { what: "sectors in one file without huge_file", need: n, have });
            }
        };
        o.set(InodeFlags::HUGE_FILE, in_blocks);
        o.inode.set_blocks_raw(raw);
        Ok(())
    }

    /// Allocate a metadata block for an inode near `goal` and count it.
    pub fn allocate_metadata(&mut self, o: &mut OpenInode, goal: Fsblk) -> Result<Fsblk> {
        let got = self.alloc.allocate(self.vol, self.store, AllocRequest::metadata(o.ino, goal))?;
        self.count_clusters(o, 1)?;
        Ok(got.start)
    }

    /// Free a metadata block of an inode and uncount it.
    pub fn free_metadata(&mut self, o: &mut OpenInode, block: Fsblk) -> Result<()> {
        self.alloc.free(self.vol, self.store, block, 1, true)?;
        self.count_clusters(o, -1)
    }

    /// Count one more link. A directory that has more than can be counted shows 1 from then on (`dir_nlink`).
    ///
    /// # Errors
    /// [`Error::NoSpace`] ("links") where the object can have no more.
    #[doc(alias = "ext4_inc_count")]
    pub fn add_link(&self, o: &mut OpenInode) -> Result<()> {
        let links = o.links();
        let uncounted = o.is_dir() && self.uncounts_links(o);
        if o.is_dir() && links == 1 {
            return Ok(());
        }
        if links >= LINK_MAX && !uncounted {
            return Err(Error::NoSpace { what: "links", need: 1, have: 0 });
        }
        let more = links.saturating_add(1);
        o.set_links(if uncounted && more > LINK_MAX { 1 } else { more });
        Ok(())
    }

    fn uncounts_links(&self, o: &OpenInode) -> bool {
        self.vol.geo.features.ro_compat.contains(RoCompat::DIR_NLINK) && self.vol.is_indexed(o.owner())
    }

    /// Count one link less. A directory whose links are not counted, or that has only its own two, stays as it is.
    #[doc(alias = "ext4_dec_count")]
    pub fn drop_link(&self, o: &mut OpenInode) {
        let links = o.links();
        if !o.is_dir() || links > 2 {
            o.set_links(links.saturating_sub(1));
        }
    }
}
