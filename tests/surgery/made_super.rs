//! Superblock, descriptors, bitmaps, journal, quota, orphan file, multiple-mount protection.

use ext4kit::check::Problem as P;
use ext4kit::units::{Fsblk, Group, Ino};

use crate::made::{CLUSTERS, Case, EXT2, EXT3, EXT4, ONE, ORPHANS, QUOTA, TWO, case};
use crate::patient::Patient;

/// Set a number of the journal's superblock, which has its high byte first.
fn journal(p: &mut Patient, at: usize, value: u32) {
    let block = p.mapped(Ino::JOURNAL, 0);
    p.block(block)[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn mmp(p: &mut Patient, at: usize, value: u8) {
    let block = Fsblk(p.vol.superblock().mmp_block.get());
    p.block(block)[at] = value;
}

/// Change the beginning of the orphan file.
fn orphans(p: &mut Patient, at: usize, value: u32) {
    let block = p.mapped(Ino(p.vol.superblock().orphan_file_inum.get()), 0);
    p.block(block)[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) const CASES: &[Case] = &[
    case(ONE, "", P::SuperblockLost).zeros(1024, 1024),
    case(CLUSTERS, "", P::SuperblockLost).zeros(1024, 1024),
    case(ONE, "", P::DescriptorsLost).zeros(4096, 64),
    case(CLUSTERS, "", P::DescriptorsLost).zeros(2048, 64),
    case(TWO, "", P::DescriptorsLost).zeros(2048, 128),
    case(ONE, "", P::DescriptorsLost).zeros(1024, 4096),
    case(CLUSTERS, "", P::DescriptorsLost).zeros(1024, 2048),
    case(ONE, "", P::SuperblockField).cut(|p| p.superblock(|s| s.log_cluster_size.set(5))),
    case(ONE, "feature FEATURE_I29 FEATURE_C30", P::FeaturesUnknown),
    case(EXT4, "feature FEATURE_I29", P::SuperblockTooNew),
    case(EXT4, "", P::OpenFailed).zeros(1024, 1024),
    case(EXT2, "ssv rev_level 9", P::SuperblockTooNew),
    case(EXT2, "ssv desc_size 48", P::MiscCorruptSuper),
    case(EXT2, "ssv log_groups_per_flex 77", P::FlexGroupSize),
    case("-t ext2 -b 1024 -I 128", "ssv rev_level 0", P::FeaturesInRevisionZero),
    case(EXT2, "ssv rev_level 0", P::SuperblockField),
    case("-t ext2 -b 1024 -r 0 -O none", "sif victim size 5000000000", P::FsRevLevel),
    case(EXT2, "ssv creator_os 1", P::HurdClearFiletype),
    case(EXT2, "ssv flags 0", P::DirhashHint),
    case(EXT2, "feature bigalloc", P::NoBigallocBlockMap),
    case(EXT4, "feature uninit_bg", P::MetaAndGdtCsumSet),
    case("-t ext4 -b 1024 -O ^has_journal,^metadata_csum,64bit", "feature ^extent", P::Bit64WithoutExtents),
    case("-t ext4 -b 1024 -O metadata_csum_seed", "feature ^metadata_csum", P::CsumSeedWithoutMetaCsum),
    case(EXT2, "feature ^resize_inode", P::NonzeroReservedGdtBlocks),
    case(EXT2, "feature ^resize_inode\nssv reserved_gdt_blocks 0", P::ClearResizeInode),
    case(EXT2, "clri <7>", P::ResizeInodeInvalid),
    case(EXT2, "feature meta_bg\nssv first_meta_bg 1", P::DisableResizeInode),
    // Descriptors.
    case(ONE, "set_bg 0 block_bitmap 70000\nset_bg 0 checksum calc", P::BlockBitmapNotInGroup),
    case(ONE, "set_bg 0 inode_bitmap 70000\nset_bg 0 checksum calc", P::InodeBitmapNotInGroup),
    case(TWO, "set_bg 1 inode_table 70000\nset_bg 1 checksum calc", P::InodeTableNotInGroup),
    case(TWO, "set_bg 1 block_bitmap 0\nset_bg 1 checksum calc", P::BlockBitmapMissing),
    case(TWO, "set_bg 1 inode_bitmap 0\nset_bg 1 checksum calc", P::InodeBitmapMissing),
    case(TWO, "set_bg 1 inode_table 0\nset_bg 1 checksum calc", P::InodeTableMissing),
    case(TWO, "set_bg 1 block_bitmap 2\nset_bg 1 checksum calc", P::BlockBitmapConflict),
    case(TWO, "set_bg 1 inode_bitmap 2\nset_bg 1 checksum calc", P::InodeBitmapConflict),
    case(TWO, "set_bg 1 inode_table 2\nset_bg 1 checksum calc", P::InodeTableConflict),
    case(EXT2, "set_bg 0 flags 1", P::GroupDescUninit),
    case(EXT4, "set_bg 1 flags 2\nset_bg 1 checksum calc", P::BlockBitmapUninitLast),
    case(EXT4, "set_bg 0 flags 2\nset_bg 0 checksum calc", P::BlockUninit),
    case(EXT4, "set_bg 0 flags 1\nset_bg 0 checksum calc", P::GroupDescItableUnused),
    case(EXT4, "set_bg 0 itable_unused 1000\nset_bg 0 checksum calc", P::GroupDescItableUnused),
    case(EXT4, "set_bg 0 free_inodes_count 500\nset_bg 0 itable_unused 500\nset_bg 0 checksum calc", P::InoRefUnused),
    // Bitmaps.
    case(EXT2, "setb 7000", P::BlockUnused),
    case(EXT2, "setb 7000 5", P::BlockRangeUnused),
    case(EXT2, "freeb 100 5", P::BlockRangeUsed),
    case(EXT2, "seti <900>", P::InodeUnused),
    case(EXT2, "seti <900>\nseti <901>\nseti <902>", P::InodeRangeUnused),
    case(EXT2, "freei <12>", P::InodeUsed),
    case(EXT2, "freei <12>\nfreei <13>\nfreei <14>", P::InodeRangeUsed),
    case(EXT2, "set_bg 0 free_inodes_count 5", P::FreeInodesGroup),
    case(EXT2, "", P::BlockBitmapPadding).cut(|p| {
        let at = p.vol.group(Group(1)).unwrap().block_bitmap();
        p.block(at)[1000] = 0;
    }),
    case(EXT2, "", P::InodeBitmapPadding).cut(|p| {
        let at = p.vol.group(Group(0)).unwrap().inode_bitmap();
        p.block(at)[1000] = 0;
    }),
    case(EXT4, "set_bg 0 inode_bitmap_csum 0x1234\nset_bg 0 checksum calc", P::InodeBitmapCsum),
    // Journals.
    case(EXT3, "clri <8>", P::JournalInodeLost),
    case(EXT4, "clri <8>", P::JournalInodeLost),
    case(EXT3, "ssv jnl_backup_type 0\nclri <8>", P::JournalBadInode),
    case(EXT4, "ssv journal_inum {file}", P::JournalInumWrong),
    case(EXT4, "ssv journal_uuid 11111111-2222-3333-4444-555555555555", P::JournalUuidSpurious),
    case(EXT3, "copy_inode <8> journal\nclri <8>\nssv journal_inum {journal}", P::MoveJournal),
    case(EXT2, "feature needs_recovery", P::JournalRecoverSet),
    case(EXT3, "feature ^has_journal", P::JournalHasJournal),
    case(EXT3, "", P::JournalBadSuper).cut(|p| journal(p, 12, 512)),
    case(EXT3, "", P::JournalRecoveryClear).cut(|p| journal(p, 28, 1)),
    case(EXT3, "", P::JournalUnknownForm).cut(|p| journal(p, 40, 0x1000)),
    case(EXT3, "", P::JournalClearV2).cut(|p| journal(p, 4, 3)),
    case(EXT3, "ssv jnl_backup_type 0", P::BackupJournal),
    case(EXT2, "sif <8> mode 0100600\nsif <8> links_count 1\nsif <8> size 5000", P::JournalInodeNotClear),
    case(EXT3, "sif <8> mode 010600", P::JournalBadMode),
    // Quota.
    case(QUOTA, "copy_inode <3> journal\nclri <3>\nssv usr_quota_inum {journal}", P::HideQuota),
    case(QUOTA, "sif victim uid 77", P::UpdateQuotas),
    case(QUOTA, "sif <3> mode 010600", P::QuotaBadMode),
    // A header that names a free block outside the file.
    case(QUOTA, "", P::UpdateQuotas).cut(|p| {
        let block = p.mapped(Ino(3), 0);
        p.block(block)[24] = 99;
    }),
    case(EXT2, "sif <3> mode 0100600\nsif <3> links_count 1\nsif <3> size 5000", P::QuotaInodeNotClear),
    // Orphan file.
    case(ORPHANS, "feature ^has_journal\nssv journal_inum 0", P::OrphanFileWithoutJournal),
    case(ORPHANS, "sif {orphans} mode 010600", P::OrphanFileBadMode),
    case(ORPHANS, "sif {orphans} size 1000", P::OrphanFileCorrupted),
    case(ORPHANS, "feature orphan_present", P::OrphanPresentCleanFile),
    case(ORPHANS, "", P::OrphanBlockDirty).cut(|p| orphans(p, 0, 900)),
    // Multiple-mount protection.
    case("-t ext4 -b 1024 -O mmp", "ssv mmp_block 99999999", P::MmpInvalidBlock),
    case("-t ext4 -b 1024 -O mmp", "smmp magic 5", P::MmpInvalidMagic),
    case("-t ext4 -b 1024 -O mmp", "", P::MmpCsumInvalid).cut(|p| mmp(p, 1020, 1)),
];
