//! The superblock of a new filesystem.

use super::draft::Draft;
use super::options::OnError;
use crate::format::casefold;
use crate::format::csum::crc32c;
use crate::format::features::{Incompat, RoCompat};
use crate::format::superblock::{MAGIC, SbFlags, State, Superblock};
use crate::format::{U16, U32, U64};

/// Smallest inode that has room for the extra fields.
const LARGE_INODE: u32 = 160;
/// Bytes of the extra fields.
const EXTRA: u16 = 32;
/// Encryption algorithms AES-256-XTS and AES-256-CTS.
const ENCRYPT_ALGOS: [u8; 4] = [1, 4, 0, 0];
/// Mounts between checks, and half of the most.
#[doc(alias = "EXT2_DFL_MAX_MNT_COUNT")]
const MOUNTS: u16 = 20;
/// Seconds between checks: 180 days.
#[doc(alias = "EXT2_DFL_CHECKINTERVAL")]
const CHECK_INTERVAL: u32 = 180 * 86400;
/// `s_mnt_count` limit "never".
const NEVER: u16 = u16::MAX;

/// The primary superblock, complete but for the checksum.
pub(crate) fn build(d: &Draft) -> Superblock {
    let l = d.layout();
    let o = &l.options;
    let mut sb = Superblock { magic: U16::new(MAGIC), ..Superblock::default() };
    sb.set_features(l.features);
    sb.set_blocks_count(l.blocks);
    sb.set_r_blocks_count(l.reserved_blocks);
    sb.state = U16::new(State::VALID.bits());
    sb.errors = U16::new(match o.on_error {
        OnError::Continue => 1,
        OnError::ReadOnly => 2,
        OnError::Panic => 3,
    });
    sb.rev_level = U32::new(1);
    sb.first_data_block = U32::new(l.first_data_block as u32);
    sb.log_block_size = U32::new((l.block_size / 1024).trailing_zeros());
    sb.log_cluster_size = U32::new((l.block_size / 1024 * l.ratio).trailing_zeros());
    sb.blocks_per_group = U32::new(l.blocks_per_group);
    sb.clusters_per_group = U32::new(l.blocks_per_group / l.ratio);
    sb.max_mnt_count = U16::new(NEVER);
    if o.periodic_check {
        // Not all filesystems of a host at the same time.
        let spread = o.uuid.iter().map(|b| u16::from(*b)).sum::<u16>() % MOUNTS;
        sb.max_mnt_count = U16::new(MOUNTS + spread);
        sb.checkinterval = U32::new(CHECK_INTERVAL);
    }
    sb.first_ino = U32::new(super::layout::FIRST_INO);
    sb.inode_size = U16::new(l.inode_size as u16);
    sb.creator_os = U32::new(o.creator_os);
    sb.uuid = o.uuid;
    copy_padded(&mut sb.volume_name, &o.label);
    copy_padded(&mut sb.last_mounted, &o.last_mounted);
    for (word, bytes) in sb.hash_seed.iter_mut().zip(o.hash_seed.chunks_exact(4)) {
        *word = U32::from_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    sb.def_hash_version = o.hash.disk_code();
    sb.default_mount_opts = U32::new(o.mount_options);
    sb.set_created(o.now);
    sb.set_write_time(o.now);
    sb.set_check_time(o.now);
    sb.raid_stride = U16::new(o.stride as u16);
    sb.raid_stripe_width = U32::new(o.stripe_width);
    if l.inode_size >= LARGE_INODE {
        sb.min_extra_isize = U16::new(EXTRA);
        sb.want_extra_isize = U16::new(EXTRA);
    }
    if l.features.incompat.contains(Incompat::JOURNAL_DEV) {
        sb.checksum_type = u8::from(l.features.ro_compat.contains(RoCompat::METADATA_CSUM));
        return sb;
    }
    sb.flags = U32::new(SbFlags::SIGNED_HASH.bits() | if o.test_fs { SbFlags::TEST_FILESYS.bits() } else { 0 });
    sb.inodes_count = U32::new(l.inodes());
    sb.inodes_per_group = U32::new(l.inodes_per_group);
    sb.free_inodes_count = U32::new(l.inodes() - (d.next_ino - 1));
    sb.set_free_blocks_count(d.free_blocks());
    sb.overhead_clusters = U32::new(u32::try_from(l.overhead).unwrap_or(0));
    sb.reserved_gdt_blocks = U16::new(l.reserved_gdt as u16);
    sb.log_groups_per_flex = l.log_flex as u8;
    sb.backup_bgs = l.backups.map(U32::new);
    feature_fields(d, &mut sb);
    sb
}

fn feature_fields(d: &Draft, sb: &mut Superblock) {
    let l = d.layout();
    let f = l.features;
    if f.incompat.contains(Incompat::BIT64) {
        sb.desc_size = U16::new(l.desc_size as u16);
    }
    if f.ro_compat.contains(RoCompat::METADATA_CSUM) {
        sb.checksum_type = 1;
    }
    if f.incompat.contains(Incompat::CSUM_SEED) {
        sb.checksum_seed = U32::new(crc32c(!0, &l.options.uuid));
    }
    if f.incompat.contains(Incompat::ENCRYPT) {
        sb.encrypt_algos = ENCRYPT_ALGOS;
    }
    if f.incompat.contains(Incompat::CASEFOLD) {
        sb.encoding = U16::new(casefold::ENCODING_UTF8_12_1);
        sb.encoding_flags = U16::new(if l.options.strict_encoding { casefold::ENCODING_STRICT } else { 0 });
    }
    if f.incompat.contains(Incompat::FLEX_BG)
        || f.ro_compat.intersects(
            RoCompat::HUGE_FILE
                | RoCompat::GDT_CSUM
                | RoCompat::DIR_NLINK
                | RoCompat::METADATA_CSUM
                | RoCompat::EXTRA_ISIZE,
        )
    {
        sb.kbytes_written = U64::new(1);
    }
    if let Some(inode) = &d.system.journal {
        sb.journal_inum = U32::new(crate::units::Ino::JOURNAL.0);
        sb.jnl_backup_type = 1;
        let core = inode.core();
        for (word, bytes) in sb.jnl_blocks.iter_mut().zip(core.block.chunks_exact(4)) {
            *word = U32::from_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        sb.jnl_blocks[15] = core.size_high;
        sb.jnl_blocks[16] = core.size_lo;
    }
    if let Some(journal) = l.options.journal.external {
        sb.journal_uuid = journal.uuid;
        sb.journal_dev = U32::new(journal.number);
    }
    sb.orphan_file_inum = U32::new(d.system.orphan_file);
    let [user, group, project] = d.system.quota.map(U32::new);
    (sb.usr_quota_inum, sb.grp_quota_inum, sb.prj_quota_inum) = (user, group, project);
    sb.mmp_block = U64::new(d.system.mmp_block);
    if f.incompat.contains(Incompat::MMP) {
        sb.mmp_update_interval = U16::new(l.options.mmp_interval());
    }
}

fn copy_padded(to: &mut [u8], from: &[u8]) {
    for (t, f) in to.iter_mut().zip(from) {
        *t = *f;
    }
}
