//! Who uses how much, and the quota files that say so. Units: bytes and inodes.

use std::collections::BTreeMap;

use super::draft::Draft;
use super::system::finish_inode;
use crate::error::Result;
use crate::format::features::RoCompat;
use crate::format::inode::{FileType, Inode, InodeFlags};
use crate::format::quota::{Quota, QuotaEntry, QuotaKind};
use crate::units::Ino;

const KINDS: [QuotaKind; 3] = [QuotaKind::User, QuotaKind::Group, QuotaKind::Project];

/// Use by user, group and project.
#[derive(Debug, Default)]
pub(crate) struct Usage([BTreeMap<u32, QuotaEntry>; 3]);

impl Usage {
    /// Count inodes of project 0 that take so many bytes together.
    pub(crate) fn add(&mut self, uid: u32, gid: u32, inodes: u64, bytes: u64) {
        for (map, id) in self.0.iter_mut().zip([uid, gid, 0]) {
            let e = map.entry(id).or_default();
            e.space += bytes;
            e.inodes += inodes;
        }
    }

    fn add_inode(&mut self, inode: &Inode, block_size: u32) {
        self.add(inode.uid(), inode.gid(), 1, inode.allocated_bytes(block_size));
    }
}

/// Write the quota files of the draft's own inodes and of `usage`. What the quota files take is not counted.
pub(crate) fn create_quota_files(d: &mut Draft, mut usage: Usage) -> Result<()> {
    if !d.layout().features.ro_compat.contains(RoCompat::QUOTA) {
        return Ok(());
    }
    let bs = d.layout().block_size;
    let [_, _, project] = d.system.quota;
    for (ino, inode) in &d.inodes {
        let counted = *ino == Ino::ROOT.0 || *ino >= super::layout::FIRST_INO;
        let counted = counted && !inode.flags().contains(InodeFlags::EA_INODE);
        if counted && *ino != project && *ino != d.system.orphan_file {
            usage.add_inode(inode, bs);
        }
    }
    let wanted = d.layout().quota;
    for (i, (entries, kind)) in usage.0.into_iter().zip(KINDS).enumerate() {
        let ino = [Ino::USR_QUOTA, Ino::GRP_QUOTA, Ino(project)][i];
        if !wanted[i] {
            continue;
        }
        let bytes = Quota { entries, ..Quota::default() }.encode(kind);
        let blocks = bytes.len().div_ceil(bs as usize) as u64;
        let mut extents = Vec::new();
        d.allocate_extents(0, blocks, &mut extents)?;
        let numbers: Vec<u64> = extents.iter().flat_map(|e| e.pblk.0..e.pblk.0 + u64::from(e.len)).collect();
        for (number, part) in numbers.into_iter().zip(bytes.chunks(bs as usize)) {
            let mut block = part.to_vec();
            block.resize(bs as usize, 0);
            d.keep(number, block);
        }
        let mut inode = d.system_inode(FileType::Regular.mode_bits() | 0o600);
        inode.set_flags(InodeFlags::IMMUTABLE);
        inode.set_size(bytes.len() as u64);
        let clusters = blocks.div_ceil(d.ratio());
        finish_inode(d, ino, inode, &extents, clusters)?;
        d.system.quota[i] = ino.0;
    }
    Ok(())
}
