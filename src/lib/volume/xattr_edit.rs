//! Extended attributes, changed: in the inode, in the block (copied first where other inodes share it), and values in
//! inodes of their own, which count who refers to them.
//!
//! Blocks are not looked for to be shared; what is shared stays shared until it is changed.

use super::edit::{Edit, OpenInode, modify_block};
use super::map_edit::Wanted;
use super::store::InodeRequest;
use super::xattr_plan::{Destination, HeldValue, HeldXattr, Room};
use crate::env::Timestamp;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::csum::crc32c;
use crate::format::features::Incompat;
use crate::format::inode::{FileType, Inode, InodeFlags, TimeField};
use crate::format::xattr::{self, Value, Xattr};
use crate::units::{Fsblk, Ino, Lblk};

/// Longest attribute name behind its prefix.
const MAX_NAME: usize = 255;

impl Edit<'_> {
    /// Set an attribute (value as stored on disk), or remove it with `None`; whether it was there before. The inode
    /// is changed in memory.
    ///
    /// # Errors
    /// [`Error::NoSpace`], with nothing changed where the attribute fits none of its places.
    #[doc(alias = "ext4_xattr_set_handle")]
    pub fn set_xattr(&mut self, o: &mut OpenInode, index: u8, name: &[u8], value: Option<&[u8]>) -> Result<bool> {
        if name.len() > MAX_NAME || name.contains(&0) {
            let value = String::from_utf8_lossy(name).into_owned();
            return Err(Error::InvalidArgument { name: "attribute name", value, allowed: "at most 255 bytes, no NUL" });
        }
        let (mut in_inode, mut in_block) = (self.inode_xattrs(o)?, self.block_xattrs(o)?);
        let before = (in_inode.clone(), in_block.clone());
        let mut old = None;
        for list in [&mut in_inode, &mut in_block] {
            if let Some(at) = list.iter().position(|x| x.is(index, name)) {
                old = Some(list.remove(at));
            }
        }
        if let Some(value) = value {
            let room = self.xattr_room(o);
            let Some((place, apart)) = room.place(name.len(), value.len(), &in_inode, &in_block) else {
                let have = room.block as u64;
                return Err(Error::NoSpace { what: "bytes for extended attributes", need: value.len() as u64, have });
            };
            let held = if apart { self.create_value_inode(o, value)? } else { HeldValue::Bytes(value.to_vec()) };
            let new = HeldXattr { index, name: name.to_vec(), value: held };
            match place {
                Destination::Inode => in_inode.push(new),
                Destination::Block => in_block.push(new),
            }
        }
        let charge = self.value_charge([&in_inode[..], &in_block]);
        let charged = self.value_charge([&before.0[..], &before.1]);
        self.count_clusters(o, charge.saturating_sub(charged))?;
        if in_inode != before.0 && !store_inode_xattrs(o, &in_inode) {
            return Err(no_room());
        }
        if in_block != before.1 {
            self.store_block_xattrs(o, &in_block, &before.1, old.as_ref())?;
        } else if let Some(ino) = old.as_ref().and_then(HeldXattr::value_ino) {
            self.drop_value(ino)?;
        }
        Ok(old.is_some())
    }

    /// Clusters that an inode is charged for values in inodes of their own, as if it had them itself.
    #[doc(alias = "ext4_xattr_inode_alloc_quota")]
    fn value_charge(&self, lists: [&[HeldXattr]; 2]) -> i64 {
        let cluster = u64::from(self.vol.geo.block_size).saturating_mul(self.vol.geo.cluster_ratio.into());
        let each = |x: &HeldXattr| match x.value {
            HeldValue::Inode { size, .. } => u64::from(size).div_ceil(cluster.max(1)),
            HeldValue::Bytes(_) => 0,
        };
        let sum = lists.into_iter().flatten().map(each).fold(0, u64::saturating_add);
        i64::try_from(sum).unwrap_or(i64::MAX)
    }

    /// Room for an inode's attributes.
    pub fn xattr_room(&self, o: &OpenInode) -> Room {
        Room {
            inode_area: o.inode.xattr_area().len(),
            block: self.block_size(),
            ea_inode: self.vol.geo.features.incompat.contains(Incompat::EA_INODE),
            apart_inside: o.inode.file_type() != Some(FileType::Symlink),
        }
    }

    /// The attributes behind the inode's fields.
    pub(super) fn inode_xattrs(&self, o: &OpenInode) -> Result<Vec<HeldXattr>> {
        let all = xattr::parse_ibody(o.inode.xattr_area()).map_err(|e| e.at(Place::inode(o.ino)))?;
        all.iter().map(|x| self.hold(x)).collect()
    }

    fn block_xattrs(&self, o: &OpenInode) -> Result<Vec<HeldXattr>> {
        let block = o.inode.file_acl();
        if block.0 == 0 {
            return Ok(Vec::new());
        }
        let bytes = self.xattr_block_bytes(o)?;
        let (_, all) = xattr::parse_block(&bytes).map_err(|e| e.at(Place::inode(o.ino).in_block(block)))?;
        all.iter().map(|x| self.hold(x)).collect()
    }

    fn xattr_block_bytes(&self, o: &OpenInode) -> Result<std::sync::Arc<[u8]>> {
        let block = o.inode.file_acl();
        let place = Place::inode(o.ino).in_block(block);
        if !self.vol.geo.has_block(block) {
            return Err(Error::corrupt(Flaw::BlockOutOfRange { of: Structure::XattrBlock, block }, place));
        }
        let bytes = self.store.read(block)?;
        if let Some(seed) = self.vol.geo.checksums.seed().filter(|_| self.vol.verifies_checksums()) {
            xattr::verify_block(&bytes, seed, block).map_err(|e| e.at(place))?;
        }
        Ok(bytes)
    }

    fn hold(&self, x: &Xattr<'_>) -> Result<HeldXattr> {
        let value = match x.value {
            Value::Bytes(b) => HeldValue::Bytes(b.to_vec()),
            Value::Inode { ino, size } => {
                HeldValue::Inode { ino, size, value_hash: xattr::ea_inode_hash(&self.value_inode(ino)?.inode) }
            }
        };
        Ok(HeldXattr { index: x.index, name: x.name.to_vec(), value })
    }

    /// Replace what the attribute block holds, `before`, with `all`. `old` is the attribute that was replaced or
    /// removed.
    #[doc(alias = "ext4_xattr_block_set")]
    fn store_block_xattrs(
        &mut self,
        o: &mut OpenInode,
        all: &[HeldXattr],
        before: &[HeldXattr],
        old: Option<&HeldXattr>,
    ) -> Result<()> {
        let block = o.inode.file_acl();
        let users = if block.0 == 0 {
            0
        } else {
            let bytes = self.xattr_block_bytes(o)?;
            xattr::parse_block(&bytes)?.0.refcount.get()
        };
        let attrs: Vec<_> = all.iter().map(HeldXattr::as_new).collect();
        let new = if all.is_empty() { None } else { Some(self.built_block(&attrs)?) };
        if users > 1 {
            // The others keep the block and what it refers to; what the copy refers to as well is counted again.
            let kept = all.iter().filter(|x| before.contains(x));
            for ino in kept.filter_map(HeldXattr::value_ino).collect::<Vec<_>>() {
                self.change_value_refs(ino, 1)?;
            }
            self.set_block_users(block, users.saturating_sub(1))?;
            o.inode.set_file_acl(Fsblk(0));
            self.count_clusters(o, -1)?;
            // An attribute that lived in the inode is not part of the shared block.
            if let Some(ino) = old.filter(|x| !before.contains(x)).and_then(HeldXattr::value_ino) {
                self.drop_value(ino)?;
            }
        } else {
            if let Some(ino) = old.and_then(HeldXattr::value_ino) {
                self.drop_value(ino)?;
            }
            match (&new, block.0) {
                (_, 0) => {}
                (None, _) => {
                    o.inode.set_file_acl(Fsblk(0));
                    self.free_metadata(o, block)?;
                }
                (Some(bytes), _) => {
                    let bytes = self.stamped(bytes.clone(), block);
                    return self.store.write(block, bytes.into());
                }
            }
        }
        let Some(bytes) = new else { return Ok(()) };
        let goal = self.vol.inode_goal(o);
        let block = self.allocate_metadata(o, goal)?;
        let bytes = self.stamped(bytes, block);
        self.store.create(block, bytes.into())?;
        o.inode.set_file_acl(block);
        Ok(())
    }

    fn built_block(&self, attrs: &[xattr::NewXattr<'_>]) -> Result<Vec<u8>> {
        xattr::build_block(attrs, self.block_size()).ok_or_else(no_room)
    }

    fn stamped(&self, mut bytes: Vec<u8>, block: Fsblk) -> Vec<u8> {
        if let Some(seed) = self.vol.geo.checksums.seed() {
            xattr::stamp_block(&mut bytes, seed, block);
        }
        bytes
    }

    fn set_block_users(&mut self, block: Fsblk, users: u32) -> Result<()> {
        let seed = self.vol.geo.checksums.seed();
        modify_block(self.store, block, |bytes| {
            xattr::set_refcount(bytes, users);
            if let Some(seed) = seed {
                xattr::stamp_block(bytes, seed, block);
            }
        })
    }

    /// Free what holds an inode's attributes outside of it, and drop its references to value inodes.
    #[doc(alias = "ext4_xattr_delete_inode")]
    pub fn release_xattrs(&mut self, o: &mut OpenInode) -> Result<()> {
        if o.has(InodeFlags::EA_INODE) {
            return Ok(());
        }
        let (own, shared) = (self.inode_xattrs(o)?, self.block_xattrs(o)?);
        self.count_clusters(o, self.value_charge([&own[..], &shared]).wrapping_neg())?;
        for ino in own.iter().filter_map(HeldXattr::value_ino) {
            self.drop_value(ino)?;
        }
        let block = o.inode.file_acl();
        if block.0 == 0 {
            return Ok(());
        }
        let users = xattr::parse_block(&self.xattr_block_bytes(o)?)?.0.refcount.get();
        if users > 1 {
            self.set_block_users(block, users.saturating_sub(1))?;
            self.count_clusters(o, -1)?;
        } else {
            for ino in shared.iter().filter_map(HeldXattr::value_ino) {
                self.drop_value(ino)?;
            }
            self.free_metadata(o, block)?;
        }
        o.inode.set_file_acl(Fsblk(0));
        Ok(())
    }

    /// An inode that holds a value.
    fn value_inode(&self, ino: Ino) -> Result<OpenInode> {
        let o = self.open(ino)?;
        if o.has(InodeFlags::EA_INODE) {
            return Ok(o);
        }
        let flaw = Flaw::Field { of: Structure::EaInode, field: "flags", value: o.inode.flags().bits().into() };
        Err(Error::corrupt(flaw, Place::inode(ino)))
    }

    /// Put a value into an inode of its own, referred to once.
    #[doc(alias = "ext4_xattr_inode_lookup_create")]
    fn create_value_inode(&mut self, o: &OpenInode, value: &[u8]) -> Result<HeldValue> {
        let sb = &self.vol.sb;
        let seed = if sb.features().incompat.contains(Incompat::CSUM_SEED) {
            sb.checksum_seed.get()
        } else {
            crc32c(!0, &sb.uuid)
        };
        let value_hash = xattr::ea_inode_value_hash(seed, value);
        let request = InodeRequest { parent: o.ino, directory: false, spread: false, name_hash: 0 };
        let ino = self.alloc.allocate_inode(self.vol, self.store, request)?;
        let mut inode = Inode::empty(self.vol.geo.inode_size);
        inode.set_owner(o.inode.uid(), o.inode.gid());
        inode.set_time(TimeField::Modify, o.inode.time(TimeField::Modify));
        inode.set_time(TimeField::Create, o.inode.time(TimeField::Modify));
        inode.update(|c| {
            c.mode.set(FileType::Regular.mode_bits() | 0o600);
            c.links_count.set(1);
            c.generation = o.inode.core().generation;
        });
        let mut held = OpenInode { ino, inode };
        if self.vol.geo.features.incompat.contains(Incompat::EXTENTS) {
            self.init_extents(&mut held);
        }
        held.set(InodeFlags::EA_INODE, true);
        xattr::set_ea_inode_hash(&mut held.inode, value_hash);
        xattr::set_ea_inode_refs(&mut held.inode, 1);
        held.inode.set_size(value.len() as u64);
        let block_size = self.block_size();
        let mut chunks = value.chunks(block_size);
        let blocks = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let mut lblk = 0u32;
        while lblk < blocks {
            let len = blocks.saturating_sub(lblk);
            let got = self.allocate_range(&mut held, Wanted { lblk: Lblk(lblk), len, unwritten: false, ahead: 0 })?;
            for (n, chunk) in (0u64..got.len.into()).zip(chunks.by_ref().take(got.len as usize)) {
                let mut bytes = chunk.to_vec();
                bytes.resize(block_size, 0);
                self.store.create(got.pblk.saturating_add(n), bytes.into())?;
            }
            lblk = lblk.saturating_add(got.len.max(1));
        }
        self.put(&mut held)?;
        Ok(HeldValue::Inode { ino, size: value.len() as u32, value_hash })
    }

    fn change_value_refs(&mut self, ino: Ino, by: i64) -> Result<u64> {
        let mut o = self.value_inode(ino)?;
        let refs = xattr::ea_inode_refs(&o.inode).saturating_add_signed(by);
        xattr::set_ea_inode_refs(&mut o.inode, refs);
        self.put(&mut o)?;
        Ok(refs)
    }

    /// One reference less to a value inode; the last one deletes it.
    #[doc(alias = "ext4_xattr_inode_dec_ref")]
    fn drop_value(&mut self, ino: Ino) -> Result<()> {
        if self.change_value_refs(ino, -1)? > 0 {
            return Ok(());
        }
        let mut o = self.value_inode(ino)?;
        self.delete_inode(&mut o, Timestamp::default())
    }
}

/// Lay the attributes into the inode; whether they fit.
pub(super) fn store_inode_xattrs(o: &mut OpenInode, all: &[HeldXattr]) -> bool {
    let all: Vec<_> = all.iter().map(HeldXattr::as_new).collect();
    xattr::build_ibody(&all, o.inode.xattr_area_mut())
}

const fn no_room() -> Error {
    Error::NoSpace { what: "bytes for extended attributes", need: 1, have: 0 }
}
