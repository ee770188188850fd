//! Inodes: modes, flags, maps, attributes, inline data.

use ext4kit::check::Problem as P;
use ext4kit::format::inode::InodeFlags;
use ext4kit::units::{Fsblk, Ino};

use crate::made::{CLUSTERS, Case, EXT2, EXT4, INLINE, ORPHANS, PLAIN, SECRET, VALUES, case};
use crate::patient::Patient;

/// Change the attribute block of `/victim`.
fn attributes(p: &mut Patient, at: usize, bytes: &[u8]) {
    let block = p.vol.raw_inode(p.ino("/victim")).unwrap().file_acl();
    p.block(block)[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Change the attributes in the inode of `/victim`: their first entry is at 4.
fn body(p: &mut Patient, at: usize, bytes: &[u8]) {
    p.inode("/victim", |i| i.xattr_area_mut()[at..at + bytes.len()].copy_from_slice(bytes));
}

/// Give an inode a tree of extents in the inode: first logical block, length, first block.
fn extents(p: &mut Patient, path: &str, all: &[(u32, u16, u32)]) {
    p.inode(path, |i| {
        i.update(|c| {
            c.block[2..4].copy_from_slice(&(all.len() as u16).to_le_bytes());
            for (slot, (lblk, len, start)) in c.block[12..].chunks_exact_mut(12).zip(all) {
                slot[..4].copy_from_slice(&lblk.to_le_bytes());
                slot[4..6].copy_from_slice(&len.to_le_bytes());
                slot[6..8].fill(0);
                slot[8..].copy_from_slice(&start.to_le_bytes());
            }
        });
    });
}

fn start(p: &Patient, path: &str) -> u32 {
    p.mapped(p.ino(path), 0).0 as u32
}

/// Give `/victim` an index of extents: logical block and place of each leaf, which holds what the inode had, and is changed.
fn leaves(p: &mut Patient, all: &[(u32, u32)], change: fn(&mut [u8])) {
    let area = p.vol.raw_inode(p.ino("/victim")).unwrap().block_area();
    let mut root = area;
    root[2] = all.len() as u8;
    root[6] = 1;
    for (slot, (lblk, at)) in root[12..].chunks_exact_mut(12).zip(all) {
        slot[..4].copy_from_slice(&lblk.to_le_bytes());
        slot[4..8].copy_from_slice(&at.to_le_bytes());
        slot[8..].fill(0);
        let node = p.block(Fsblk((*at).into()));
        node[..24].copy_from_slice(&area[..24]);
        node[4] = 84;
        node[12..16].copy_from_slice(&lblk.to_le_bytes());
        change(node);
    }
    p.inode("/victim", |i| i.update(|c| c.block = root));
}

/// A list of one bad block, or of the block of the table that has an inode.
fn bad_table(p: &mut Patient, ino: Ino) {
    let at = (p.vol.inode_offset(ino).unwrap().0 / 1024) as u32;
    p.numbered(Ino::BAD, |i| {
        i.set_size(1024);
        i.set_blocks_raw(2);
        i.update(|c| c.block[..4].copy_from_slice(&at.to_le_bytes()));
    });
}

/// A list of bad blocks that is kept in an indirect block, which holds `bad`.
fn indirect_list(p: &mut Patient, at: u32, bad: u32) {
    p.block(Fsblk(at.into()))[..4].copy_from_slice(&bad.to_le_bytes());
    p.numbered(Ino::BAD, |i| {
        i.set_size(13 * 1024);
        i.set_blocks_raw(4);
        i.update(|c| c.block[48..52].copy_from_slice(&at.to_le_bytes()));
    });
}

const ATTR: &str = "ea_set -f {attr} victim user.a";
const TWO_ATTRS: &str = "ea_set -f {attr} victim user.a\nea_set -f {attr} victim user.b";
const SMALL_ATTR: &str = "ea_set victim user.a value";
const SMALL_ATTRS: &str = "ea_set victim user.a value\nea_set victim user.b other";

pub(crate) const CASES: &[Case] = &[
    case(EXT2, "sif <2> mode 0100644", P::RootNoDir).lossy(),
    case(EXT2, "sif <6> mode 0100644", P::ReservedBadMode),
    case(EXT2, "mkdir x\nsif x block[0] 0\nsif x size 0\nsif x blocks 0", P::ZeroLengthDir),
    case(EXT2, "mknod x c 4 4\nsif x flags 0x1000", P::BadCharDev),
    case(EXT2, "mknod x b 4 4\nsif x flags 0x1000", P::BadBlockDev),
    case(EXT2, "sif pipe mode 0140600\nsif pipe flags 0x1000", P::BadSocket),
    case(EXT2, "mkdir x\nsif x mode 020600", P::TreatAsDirectory),
    case(INLINE, "mknod x c 4 4\nsif x flags 0x10000000", P::SpecialExtentsInline),
    case(EXT4, "sif victim atime 0x90000000\nsif victim atime_extra 3", P::TimeOutOfRange),
    case(EXT2, "sif victim file_acl 0x100000000", P::FileAclHiNonzero),
    case(EXT2, "sif victim blocks 0x100000052", P::BlocksHiNonzero),
    case(EXT2, "feature ^ext_attr\nsif victim file_acl 5000", P::FileAclNonzero),
    case(EXT2, "feature ^large_file\nsif victim size 5000000000", P::FeatureLargeFiles),
    // Block maps.
    case(EXT2, "sif victim block[0] 99999999", P::IllegalBlockNum),
    case(EXT2, "", P::TooManyBadBlocks).cut(|p| p.inode("/victim", |i| i.update(|c| c.block[..48].fill(0x77)))),
    case(EXT2, "sif long block[1] 5000\nsif long blocks 4", P::TooBigSymlink),
    case(EXT2, "", P::DupBlock).cut(|p| {
        let block = start(p, "/file");
        p.inode("/victim", |i| i.update(|c| c.block[8..12].copy_from_slice(&block.to_le_bytes())));
    }),
    case(EXT2, "", P::DupRange).cut(|p| {
        let area = p.vol.raw_inode(p.ino("/file")).unwrap().block_area();
        p.inode("/victim", |i| i.update(|c| c.block[..20].copy_from_slice(&area[..20])));
    }),
    case(EXT2, "sif victim block[2] 3", P::ShareMetadata),
    case(EXT2, "sif victim block[IND] 3", P::CriticalCollision),
    // Its only block is the resize inode's, and leads to descriptors.
    case(EXT2, "copy_inode <7> small\nsif small links_count 1", P::DupFile),
    case(EXT2, "sif many block[2] 0", P::DirectoryHole),
    // The list of bad blocks.
    case(EXT2, "sif <1> mode 040755", P::InvalidBadInode),
    case(EXT2, "", P::BadInodeMetaBlock).cut(|p| indirect_list(p, 7000, 7000)),
    case(EXT2, "", P::BadInodeFsBlock).cut(|p| indirect_list(p, 3, 7000)),
    case(EXT2, "", P::BadBlocksInBadBlocks).lossy().cut(|p| bad_table(p, Ino::BAD)),
    case(EXT2, "", P::BbInode).lossy().cut(|p| bad_table(p, p.ino("/victim"))),
    // Trees of extents.
    case(EXT2, "sif victim flags 0x80000", P::ExtentsSet).lossy(),
    case("-t ext4 -b 1024 -O ^has_journal,^metadata_csum,^64bit", "feature ^extent", P::ExtentFeature),
    case(EXT4, "sif link flags 0x80000", P::FastSymlinkExtents),
    case(EXT4, "", P::OutOfOrderExtents).cut(|p| {
        let at = start(p, "/victim");
        extents(p, "/victim", &[(20, 20, at + 20), (0, 20, at)]);
    }),
    case(PLAIN, "", P::ExtentHeaderInvalid).cut(|p| leaves(p, &[(0, 9000)], |b| b[6] = 3)),
    case(PLAIN, "", P::ExtentIndexStart).cut(|p| leaves(p, &[(0, 9000)], |b| b[12] = 3)),
    case(PLAIN, "", P::ExtentEndOutOfBounds).cut(|p| leaves(p, &[(0, 9000), (5, 9001)], |b| b[12] = 0)),
    case(EXT4, "", P::ExtentOnlyCsumInvalid).cut(|p| leaves(p, &[(0, 9000)], |_| ())),
    case(PLAIN, "", P::TooBigDir).cut(|p| {
        let at = start(p, "/many");
        extents(p, "/many", &[(0, 6, at), (3_000_000, 1, 9000)]);
    }),
    case(EXT4, "", P::CollapseDirBlock).cut(|p| {
        let at = start(p, "/many");
        extents(p, "/many", &[(0, 2, at), (3, 4, at + 2)]);
    }),
    case(EXT4, "", P::UninitDirBlock).cut(|p| {
        let at = start(p, "/dir");
        extents(p, "/dir", &[(0, 0x8001, at)]);
    }),
    case(CLUSTERS, "", P::MisalignedCluster).cut(|p| {
        let at = start(p, "/victim");
        extents(p, "/victim", &[(0, 39, at + 1)]);
    }),
    case(EXT4, "", P::ExtentBadMaxDepth).cut(|p| p.inode("/victim", |i| i.update(|c| c.block[6] = 6))),
    // Attributes in a block.
    case(PLAIN, ATTR, P::BadEaBlock).cut(|p| attributes(p, 0, &[1])),
    case(PLAIN, ATTR, P::EaRefcount).cut(|p| attributes(p, 4, &[7])),
    case(PLAIN, ATTR, P::EaMultiBlock).cut(|p| attributes(p, 8, &[2])),
    case(PLAIN, ATTR, P::EaBadName).cut(|p| attributes(p, 33, &[0])),
    case(PLAIN, ATTR, P::EaBadValue).cut(|p| attributes(p, 34, &[0xf0, 0xff])),
    case(PLAIN, TWO_ATTRS, P::EaAllocCollision).cut(|p| {
        let block = p.vol.raw_inode(p.ino("/victim")).unwrap().file_acl();
        let first = p.block(block)[34..36].to_vec();
        attributes(p, 54, &first);
    }),
    case(EXT4, ATTR, P::EaBlockOnlyCsumInvalid).cut(|p| attributes(p, 16, &[1, 2, 3, 4])),
    // Attributes in the inode.
    case(EXT4, SMALL_ATTR, P::AttrNameLen).cut(|p| body(p, 4, &[255])),
    case(EXT4, SMALL_ATTR, P::AttrValueSize).cut(|p| body(p, 12, &[0, 1])),
    case(EXT4, SMALL_ATTR, P::AttrHash).cut(|p| body(p, 16, &[1, 2, 3, 4])),
    case(EXT4, SMALL_ATTRS, P::InodeEaCollision).cut(|p| {
        let area = p.vol.raw_inode(p.ino("/victim")).unwrap().xattr_area().to_vec();
        body(p, 4 + 20 + 2, &area[6..8]);
    }),
    // Values in inodes.
    case(VALUES, "ea_set -f {long} file user.long\nsif {value} flags 0x80000", P::AttrSetEaInodeFlag),
    case(VALUES, "ea_set -f {long} file user.long\nfeature ^ea_inode", P::EaInodeFeature),
    case(VALUES, "ea_set -f {long} victim user.long\nclri {value}", P::AttrValueEaInode),
    case(VALUES, "sif dir flags 0x280000", P::EaInodeNonReg),
    case(VALUES, "ea_set -f {long} victim user.long\nsif {value} ctime 9", P::EaInodeRefCount),
    case(VALUES, "ea_set -f {long} victim user.long\nln {value} name", P::EaInodeDirLink),
    // Inline data.
    case(INLINE, "feature ^inline_data", P::InlineDataFeature),
    case(EXT4, "sif victim flags 0x10000000", P::InlineDataSet),
    case(INLINE, "sif victim flags 0x10000000", P::InlineDataNoAttr),
    case(INLINE, "sif small flags 0x10080000", P::ClearExtentForInline),
    case(INLINE, "", P::ClearExtentInlineInode).cut(|p| {
        p.inode("/victim", |i| {
            i.set_flags(i.flags() | InodeFlags::INLINE_DATA);
            i.update(|c| c.block.fill(0xee));
        });
    }),
    case(INLINE, "", P::ClearBothFlags).cut(|p| {
        let at = start(p, "/victim");
        p.inode("/victim", |i| {
            i.set_flags(i.flags() | InodeFlags::INLINE_DATA);
            i.update(|c| {
                c.block.fill(0);
                c.block[..4].copy_from_slice(&at.to_le_bytes());
            });
        });
    }),
    // Encryption.
    case(SECRET, "mkdir x\nea_set -f {context} x c\nsif x flags 0x80800", P::CorruptEncryptionXattr).cut(|p| {
        p.inode("/x", |i| {
            let area = i.xattr_area_mut();
            let at = area.len() - 28;
            area[at] = 2;
        });
    }),
    case(ORPHANS, "", P::InodeGarbage).cut(|p| {
        let at = p.vol.inode_offset(Ino(101)).unwrap().0 as usize / 1024 * 1024;
        for (i, b) in p.bytes[at..at + 1024].iter_mut().enumerate() {
            *b = (i * 7 % 251) as u8;
        }
    }),
];
