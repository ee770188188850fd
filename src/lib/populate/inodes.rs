//! The inodes of a tree, as bytes.

use super::inline::{self, Inlined};
use super::plan::Plan;
use super::xattrs::XattrTable;
use crate::env::Timestamp;
use crate::error::Result;
use crate::format::csum::Checksums;
use crate::format::extent::{Entries, Node as ExtentNode};
use crate::format::inode::{BLOCK_LEN, Inode, InodeFlags, encode_time};
use crate::format::xattr::{self, NewValue, NewXattr};
use crate::format::{U16, U32};
use crate::mkfs::Draft;
use crate::mkfs::fill::{Inodes, Usage};
use crate::source::tree::{Data, Node, NodeId, Tree};
use crate::units::Ino;

/// Most links that are counted; a directory with more has 1.
const LINK_MAX: u32 = 65000;

/// Makes the inodes.
pub(crate) struct TreeInodes<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) plan: &'a Plan,
    pub(crate) xattrs: &'a XattrTable,
    pub(crate) inlined: &'a Inlined,
    pub(crate) csums: Checksums,
    pub(crate) inode_size: u16,
    /// 512-byte units of a cluster.
    pub(crate) sectors: u64,
    /// Blocks of a cluster.
    pub(crate) ratio: u64,
    pub(crate) now: Timestamp,
    /// The root has one more subdirectory than the tree says.
    pub(crate) lost_found: bool,
    pub(crate) root_owner: Option<(u32, u32)>,
}

impl Inodes for TreeInodes<'_> {
    fn has(&self, ino: Ino) -> bool {
        let first = self.plan.first_ino;
        ino == Ino::ROOT || (first..first + self.tree.len() as u32 - 1).contains(&ino.0)
    }

    fn count(&self, usage: &mut Usage) {
        for id in 0..self.tree.len() as NodeId {
            let Some(node) = self.tree.node(id) else { continue };
            let (uid, gid) = self.owner(id, node);
            let inodes = 1 + self.xattrs.ea(id).1;
            usage.add(uid, gid, inodes, self.sectors_of(id, self.map(id).1) * 512);
        }
    }

    fn fill(&self, ino: Ino, slot: &mut [u8]) -> Result<()> {
        let id = if ino == Ino::ROOT { 0 } else { ino.0 - self.plan.first_ino + 1 };
        let mut inode = self.inode(id);
        inode.update_checksum(self.csums, ino);
        slot.copy_from_slice(inode.as_bytes());
        Ok(())
    }
}

impl<'a> TreeInodes<'a> {
    pub(crate) fn new(d: &Draft, tree: &'a Tree, plan: &'a Plan, xattrs: &'a XattrTable, inlined: &'a Inlined) -> Self {
        let l = d.layout();
        Self {
            tree,
            plan,
            xattrs,
            inlined,
            csums: d.checksums(),
            inode_size: l.inode_size() as u16,
            sectors: d.ratio() * u64::from(l.block_size() / 512),
            ratio: d.ratio(),
            now: l.now(),
            lost_found: d.lost_found().is_some(),
            root_owner: l.root_owner(),
        }
    }

    fn owner(&self, id: NodeId, node: &Node) -> (u32, u32) {
        self.root_owner.filter(|_| id == 0).unwrap_or((node.uid, node.gid))
    }

    /// 512-byte units in use.
    fn sectors_of(&self, id: NodeId, clusters: u64) -> u64 {
        (clusters + u64::from(self.xattrs.block(id).is_some()) + self.xattrs.ea(id).0) * self.sectors
    }

    fn inode(&self, id: NodeId) -> Inode {
        let mut inode = Inode::empty(self.inode_size);
        let (Some(node), Some(place)) = (self.tree.node(id), self.plan.places.get(id as usize)) else { return inode };
        let mut flags = InodeFlags::empty();
        let (mut block, mut clusters) = ([0; BLOCK_LEN], 0);
        let inlined = self.inlined.get(&id);
        let mapped = match node.data {
            _ if inlined.is_some() => {
                block = inlined.map_or(block, |i| i.first);
                flags = InodeFlags::INLINE_DATA;
                false
            }
            Data::Symlink(_) if node.size < BLOCK_LEN as u64 => {
                let target = self.tree.target(node);
                block[..target.len()].copy_from_slice(target);
                false
            }
            Data::Device(..) | Data::Special => false,
            _ => true,
        };
        if mapped {
            (block, clusters) = self.map(id);
            flags.set(InodeFlags::EXTENTS, self.plan.extents);
        }
        let size = match node.data {
            Data::Dir { .. } if let Some(data) = inlined => (BLOCK_LEN + data.second.len()) as u64,
            Data::Dir { .. } => {
                let dir = self.plan.dirs.get(place.dir as usize);
                flags.set(InodeFlags::INDEX, dir.is_some_and(super::dirs::DirPlan::is_indexed));
                dir.map_or(1, |d| u64::from(d.blocks)) * self.plan.block_size
            }
            _ => node.size,
        };
        let links = node.links + u32::from(id == 0 && self.lost_found);
        let links = if links > LINK_MAX { 1 } else { links };
        let (uid, gid) = self.owner(id, node);
        let xattr_block = self.xattrs.block(id);
        let sectors = self.sectors_of(id, clusters);
        let (sec, extra) = node.mtime;
        let [atime, ctime] = self.tree.times.get(id as usize).copied().unwrap_or([node.mtime; 2]);
        let (now, now_extra) = encode_time(self.now);
        inode.update(|c| {
            c.mode = U16::new(node.mode);
            (c.uid_lo, c.uid_high) = (U16::new(uid as u16), U16::new((uid >> 16) as u16));
            (c.gid_lo, c.gid_high) = (U16::new(gid as u16), U16::new((gid >> 16) as u16));
            c.links_count = U16::new(links as u16);
            (c.size_lo, c.size_high) = (U32::new(size as u32), U32::new((size >> 32) as u32));
            (c.blocks_lo, c.blocks_high) = (U32::new(sectors as u32), U16::new((sectors >> 32) as u16));
            c.flags = U32::new(flags.bits());
            c.block = block;
            (c.mtime, c.mtime_extra) = (U32::new(sec), U32::new(extra));
            (c.atime, c.atime_extra) = (U32::new(atime.0), U32::new(atime.1));
            (c.ctime, c.ctime_extra) = (U32::new(ctime.0), U32::new(ctime.1));
            (c.crtime, c.crtime_extra) = (U32::new(now), U32::new(now_extra));
            if let Some(b) = xattr_block {
                (c.file_acl_lo, c.file_acl_high) = (U32::new(b as u32), U16::new((b >> 32) as u16));
            }
        });
        if let Data::Device(major, minor) = node.data {
            inode.set_device_numbers(major, minor);
        }
        let area = inode.xattr_area_mut();
        if let Some(bytes) = self.xattrs.ibody(id) {
            for (to, from) in area.iter_mut().zip(bytes) {
                *to = *from;
            }
        } else if let Some(data) = inlined {
            let value = NewValue::Bytes(&data.second);
            let fits = xattr::build_ibody(&[NewXattr { index: xattr::INDEX_SYSTEM, name: inline::NAME, value }], area);
            debug_assert!(fits, "what is inline fits");
        }
        inode
    }

    /// The inode's 60 bytes, and the clusters in use.
    fn map(&self, id: NodeId) -> ([u8; BLOCK_LEN], u64) {
        let runs = self.plan.runs(id);
        if let Some(map) = self.plan.places.get(id as usize).and_then(|p| self.plan.maps.get(p.map as usize)) {
            return (map.area, map.clusters);
        }
        let mut area = [0; BLOCK_LEN];
        if self.plan.extents {
            let entries = Entries::Leaf(runs.as_slice().to_vec());
            ExtentNode { depth: 0, max: 4, generation: 0, entries }.encode_into(&mut area);
        } else if let [e] = runs.as_slice() {
            for (i, slot) in (0..u64::from(e.len)).zip(area.chunks_exact_mut(4)) {
                slot.copy_from_slice(&((e.pblk.0 + i) as u32).to_le_bytes());
            }
        }
        (area, runs.blocks().div_ceil(self.ratio))
    }
}
