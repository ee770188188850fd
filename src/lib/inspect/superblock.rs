//! The superblock, under dumpe2fs's keys, and the feature list.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;
use uuid::Uuid;

use super::groups::directories;
use super::journal::{JournalView, known_journal_features};
use super::page::Page;
use super::text::{date, until_nul};
use super::{Damage, View};
use crate::env::Timestamp;
use crate::error::FeatureWord;
use crate::error::Result;
use crate::format::dirhash::HashVersion;
use crate::format::features::{Features, Incompat, NAMES, READ_INCOMPAT, RoCompat};
use crate::format::superblock::{DATA_MODES, MOUNT_OPTIONS, SbFlags, State, Superblock};
use crate::volume::{Geometry, Volume};

/// What the superblock says.
#[derive(Debug, Serialize)]
pub struct SuperblockView {
    /// Label.
    pub volume_name: Option<String>,
    /// Directory last mounted on.
    pub last_mounted: Option<String>,
    /// UUID.
    pub uuid: String,
    /// Magic number.
    pub magic: u16,
    /// Revision: 0 or 1.
    pub revision: u32,
    /// Names of the features that are on.
    pub features: Vec<String>,
    /// Names of the miscellaneous flags that are on.
    pub flags: Vec<&'static str>,
    /// Names of the default mount options.
    pub default_mount_options: Vec<String>,
    /// Mount options as text.
    pub mount_options: Option<String>,
    /// State: `clean`, `not clean`, with `with errors`.
    pub state: String,
    /// What the kernel does on an error.
    pub errors_behavior: &'static str,
    /// Operating system that made it.
    pub os_type: String,
    /// Inodes.
    pub inode_count: u32,
    /// Blocks.
    pub block_count: u64,
    /// Blocks reserved for the super-user.
    pub reserved_block_count: u64,
    /// Clusters of static metadata, where computed.
    pub overhead_clusters: u32,
    /// Free blocks.
    pub free_blocks: u64,
    /// Free inodes.
    pub free_inodes: u32,
    /// First data block.
    pub first_block: u32,
    /// Block size in bytes.
    pub block_size: u32,
    /// Cluster size in bytes, with bigalloc.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// Group descriptor size in bytes, with 64bit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_descriptor_size: Option<u16>,
    /// Reserved group descriptor blocks.
    pub reserved_gdt_blocks: u16,
    /// Blocks per group.
    pub blocks_per_group: u32,
    /// Clusters per group.
    pub clusters_per_group: u32,
    /// Inodes per group.
    pub inodes_per_group: u32,
    /// Blocks of a group's inode table.
    pub inode_blocks_per_group: u32,
    /// Groups.
    pub groups: u32,
    /// First meta block group.
    pub first_meta_bg: u32,
    /// RAID stride, blocks.
    pub raid_stride: u16,
    /// RAID stripe width, blocks.
    pub raid_stripe_width: u32,
    /// Groups per flexible group; 0 without.
    pub flex_bg_size: u32,
    /// Creation.
    pub created: Timestamp,
    /// Last mount.
    pub last_mount: Timestamp,
    /// Last write.
    pub last_write: Timestamp,
    /// Mounts since the last check.
    pub mount_count: u16,
    /// Mounts after which a check is due; -1 for never.
    pub max_mount_count: i16,
    /// Last check.
    pub last_checked: Timestamp,
    /// Longest time between checks, seconds.
    pub check_interval: u32,
    /// KiB written over the filesystem's life.
    pub lifetime_writes_kib: u64,
    /// User that may use reserved blocks.
    pub reserved_uid: u32,
    /// Group that may use reserved blocks.
    pub reserved_gid: u32,
    /// First inode that is not reserved.
    pub first_inode: u32,
    /// Inode size in bytes.
    pub inode_size: u16,
    /// Extra inode bytes that all inodes have.
    pub min_extra_isize: u16,
    /// Extra inode bytes that new inodes should have.
    pub want_extra_isize: u16,
    /// Inode of the journal.
    pub journal_inode: u32,
    /// UUID of the external journal.
    pub journal_uuid: Option<String>,
    /// Device number of the external journal.
    pub journal_device: u32,
    /// Whether the superblock holds a copy of the journal inode's map.
    pub journal_backup: bool,
    /// Head of the orphan list.
    pub first_orphan: u32,
    /// Default directory hash.
    pub default_hash: Option<&'static str>,
    /// Seed of the directory hash, as a UUID.
    pub hash_seed: String,
    /// Groups of the two backups, with sparse_super2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_groups: Option<[u32; 2]>,
    /// Errors that the kernel recorded.
    pub error_count: u32,
    /// The first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<RecordedError>,
    /// The last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<RecordedError>,
    /// Block of the MMP structure, with mmp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mmp_block: Option<u64>,
    /// Seconds between MMP updates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mmp_update_interval: Option<u16>,
    /// Inode of the user quota file.
    pub user_quota_inode: u32,
    /// Inode of the group quota file.
    pub group_quota_inode: u32,
    /// Inode of the project quota file.
    pub project_quota_inode: u32,
    /// Checksum algorithm, with metadata_csum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum_type: Option<&'static str>,
    /// Stored checksum, with metadata_csum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<u32>,
    /// Stored checksum seed, with metadata_csum_seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum_seed: Option<u32>,
    /// Salt for encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption_salt: Option<String>,
    /// File name encoding, with casefold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Inode of the orphan file, with orphan_file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orphan_file_inode: Option<u32>,
    /// Directories, as the group descriptors count them.
    pub directories: u64,
    /// The journal, where it is inside and can be read.
    pub journal: Option<JournalView>,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

/// An error that the kernel recorded in the superblock.
#[derive(Debug, Serialize)]
pub struct RecordedError {
    /// When.
    pub time: Timestamp,
    /// In which function.
    pub function: String,
    /// In which line.
    pub line: u32,
    /// About which inode.
    pub inode: u32,
    /// About which block.
    pub block: u64,
    /// Error code (the kernel's own numbers).
    pub code: u8,
}

impl SuperblockView {
    /// What the superblock of `volume` says.
    pub fn new(volume: &Volume) -> Result<Self> {
        let (sb, geo) = (volume.superblock(), volume.geometry());
        let f = geo.features;
        let csum = f.ro_compat.contains(RoCompat::METADATA_CSUM);
        let mmp = f.incompat.contains(Incompat::MMP);
        let (journal, flaw) = JournalView::new(volume).map_or_else(|e| (None, Some(e)), |j| (j, None));
        Ok(Self {
            volume_name: text(&sb.volume_name),
            last_mounted: text(&sb.last_mounted),
            uuid: uuid(sb.uuid),
            magic: sb.magic.get(),
            revision: sb.rev_level.get(),
            features: f.bits().map(|b| b.to_string()).collect(),
            flags: flag_names(sb.misc_flags()),
            default_mount_options: mount_options(sb.default_mount_opts.get()),
            mount_options: text(&sb.mount_opts),
            state: state(sb.state_flags()),
            errors_behavior: errors_behavior(sb.errors.get()),
            os_type: os_type(sb.creator_os.get()),
            inode_count: geo.inodes_count,
            block_count: geo.blocks_count,
            reserved_block_count: sb.r_blocks_count(),
            overhead_clusters: sb.overhead_clusters.get(),
            free_blocks: sb.free_blocks_count(),
            free_inodes: sb.free_inodes_count.get(),
            first_block: sb.first_data_block.get(),
            block_size: geo.block_size,
            cluster_size: cluster_size(geo),
            group_descriptor_size: f.incompat.contains(Incompat::BIT64).then_some(geo.desc_size),
            reserved_gdt_blocks: sb.reserved_gdt_blocks.get(),
            blocks_per_group: geo.blocks_per_group,
            clusters_per_group: geo.clusters_per_group,
            inodes_per_group: geo.inodes_per_group,
            inode_blocks_per_group: geo.itable_blocks,
            groups: geo.groups,
            first_meta_bg: sb.first_meta_bg.get(),
            raid_stride: sb.raid_stride.get(),
            raid_stripe_width: sb.raid_stripe_width.get(),
            flex_bg_size: if sb.log_groups_per_flex == 0 { 0 } else { 1u32.wrapping_shl(geo.flex_bits) },
            created: sb.created(),
            last_mount: sb.mount_time(),
            last_write: sb.write_time(),
            mount_count: sb.mnt_count.get(),
            max_mount_count: sb.max_mnt_count.get() as i16,
            last_checked: sb.check_time(),
            check_interval: sb.checkinterval.get(),
            lifetime_writes_kib: sb.kbytes_written.get(),
            reserved_uid: both(sb.def_resuid.get(), sb.def_resuid_hi.get()),
            reserved_gid: both(sb.def_resgid.get(), sb.def_resgid_hi.get()),
            first_inode: geo.first_ino,
            inode_size: geo.inode_size,
            min_extra_isize: sb.min_extra_isize.get(),
            want_extra_isize: sb.want_extra_isize.get(),
            journal_inode: sb.journal_inum.get(),
            journal_uuid: (sb.journal_uuid != [0; 16]).then(|| uuid(sb.journal_uuid)),
            journal_device: sb.journal_dev.get(),
            journal_backup: sb.jnl_backup_type == 1,
            first_orphan: sb.last_orphan.get(),
            default_hash: HashVersion::from_code(sb.def_hash_version).map(HashVersion::name),
            hash_seed: hash_seed(sb),
            backup_groups: (geo.backup_groups != [0, 0]).then_some(geo.backup_groups),
            error_count: sb.error_count.get(),
            first_error: first_error(sb),
            last_error: last_error(sb),
            mmp_block: mmp.then_some(sb.mmp_block.get()),
            mmp_update_interval: mmp.then_some(sb.mmp_update_interval.get()),
            user_quota_inode: sb.usr_quota_inum.get(),
            group_quota_inode: sb.grp_quota_inum.get(),
            project_quota_inode: sb.prj_quota_inum.get(),
            checksum_type: csum.then_some("crc32c"),
            checksum: csum.then_some(sb.checksum.get()),
            checksum_seed: f.incompat.contains(Incompat::CSUM_SEED).then_some(sb.checksum_seed.get()),
            encryption_salt: (sb.encrypt_pw_salt != [0; 16]).then(|| uuid(sb.encrypt_pw_salt)),
            encoding: f.incompat.contains(Incompat::CASEFOLD).then(|| encoding(sb)),
            orphan_file_inode: Some(sb.orphan_file_inum.get()).filter(|ino| *ino != 0),
            directories: directories(volume)?,
            journal,
            damage: flaw.map(Damage::from).into_iter().collect(),
        })
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    let bytes = until_nul(bytes);
    (!bytes.is_empty()).then(|| super::text::printable(bytes))
}

fn uuid(bytes: [u8; 16]) -> String {
    Uuid::from_bytes(bytes).to_string()
}

fn hash_seed(sb: &Superblock) -> String {
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_exact_mut(4).zip(sb.hash_seed) {
        to.copy_from_slice(&word.get().to_le_bytes());
    }
    uuid(bytes)
}

fn flag_names(flags: SbFlags) -> Vec<&'static str> {
    let names = [
        (SbFlags::SIGNED_HASH, "signed_directory_hash"),
        (SbFlags::UNSIGNED_HASH, "unsigned_directory_hash"),
        (SbFlags::TEST_FILESYS, "test_filesystem"),
        (SbFlags::IS_SNAPSHOT, "is_snapshot"),
        (SbFlags::FIX_SNAPSHOT, "fix_snapshot"),
        (SbFlags::FIX_EXCLUDE, "fix_exclude"),
    ];
    names.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| name).collect()
}

fn mount_options(word: u32) -> Vec<String> {
    const DATA_MODE: u32 = 0x60;
    let mut all: Vec<String> = Vec::new();
    for bit in 0..32u32 {
        let mask = 1 << bit;
        if word & mask == 0 || mask & DATA_MODE != 0 {
            continue;
        }
        let name = MOUNT_OPTIONS.iter().find(|(m, _)| *m == mask).map(|(_, name)| (*name).to_owned());
        all.push(name.unwrap_or_else(|| format!("MNTOPT_{bit}")));
    }
    let mode = DATA_MODES.iter().find(|(m, _)| *m == word & DATA_MODE);
    all.extend(mode.map(|(_, name)| (*name).to_owned()));
    all
}

fn state(flags: State) -> String {
    let mut text = String::from(if flags.contains(State::VALID) { "clean" } else { "not clean" });
    if flags.contains(State::ERROR) {
        text.push_str(" with errors");
    }
    text
}

const fn both(low: u16, high: u16) -> u32 {
    low as u32 | ((high as u32) << 16)
}

fn cluster_size(geo: &Geometry) -> Option<u64> {
    let bigalloc = geo.features.ro_compat.contains(RoCompat::BIGALLOC);
    bigalloc.then_some(u64::from(geo.block_size) << geo.cluster_bits)
}

const fn errors_behavior(code: u16) -> &'static str {
    match code {
        1 => "Continue",
        2 => "Remount read-only",
        3 => "Panic",
        _ => "Unknown (continue)",
    }
}

fn os_type(code: u32) -> String {
    match code {
        0 => "Linux".into(),
        1 => "Hurd".into(),
        2 => "Masix".into(),
        3 => "FreeBSD".into(),
        4 => "Lites".into(),
        other => format!("unknown ({other})"),
    }
}

fn encoding(sb: &Superblock) -> String {
    match sb.encoding.get() {
        1 => "utf8-12.1".into(),
        other => format!("unknown ({other})"),
    }
}

fn first_error(sb: &Superblock) -> Option<RecordedError> {
    (sb.first_error_time.get() != 0).then(|| RecordedError {
        time: wide(sb.first_error_time.get(), sb.first_error_time_hi),
        function: text(&sb.first_error_func).unwrap_or_default(),
        line: sb.first_error_line.get(),
        inode: sb.first_error_ino.get(),
        block: sb.first_error_block.get(),
        code: sb.first_error_errcode,
    })
}

fn last_error(sb: &Superblock) -> Option<RecordedError> {
    (sb.last_error_time.get() != 0).then(|| RecordedError {
        time: wide(sb.last_error_time.get(), sb.last_error_time_hi),
        function: text(&sb.last_error_func).unwrap_or_default(),
        line: sb.last_error_line.get(),
        inode: sb.last_error_ino.get(),
        block: sb.last_error_block.get(),
        code: sb.last_error_errcode,
    })
}

fn wide(lo: u32, hi: u8) -> Timestamp {
    Timestamp::from_secs(i64::from(lo) | (i64::from(hi) << 32))
}

fn or<'a>(value: Option<&'a str>, otherwise: &'a str) -> &'a str {
    value.unwrap_or(otherwise)
}

fn list<T: AsRef<str>>(items: &[T]) -> String {
    let mut text = String::new();
    for item in items {
        let _ = write!(text, "{}{}", if text.is_empty() { "" } else { " " }, item.as_ref());
    }
    if text.is_empty() { "(none)".into() } else { text }
}

fn when(t: Timestamp) -> String {
    if t.sec == 0 { "n/a".into() } else { date(t) }
}

/// KiB in the unit that keeps a few digits, as dumpe2fs has it.
fn written(kib: u64) -> String {
    let rounded = |shift: u32| kib.saturating_add(1 << (shift - 1)) >> shift;
    match kib {
        0..0x2000 => format!("{kib} kB"),
        0x2000..0x80_0000 => format!("{} MB", rounded(10)),
        0x80_0000..0x2_0000_0000 => format!("{} GB", rounded(20)),
        _ => format!("{} TB", rounded(30)),
    }
}

fn owner(id: u32, what: &str) -> String {
    if id == 0 { format!("0 ({what} root)") } else { id.to_string() }
}

impl SuperblockView {
    fn text_identity(&self, page: &mut Page<'_>) -> io::Result<()> {
        page.pair("Filesystem volume name", or(self.volume_name.as_deref(), "<none>"))?;
        page.pair("Last mounted on", or(self.last_mounted.as_deref(), "<not available>"))?;
        page.pair("Filesystem UUID", &self.uuid)?;
        page.pair("Filesystem magic number", format_args!("{:#06X}", self.magic).to_string().replace("0X", "0x"))?;
        let revision = match self.revision {
            0 => "original",
            1 => "dynamic",
            _ => "unknown",
        };
        page.pair("Filesystem revision #", format_args!("{} ({revision})", self.revision))?;
        page.pair("Filesystem features", list(&self.features))?;
        page.pair("Filesystem flags", list(&self.flags))?;
        page.pair("Default mount options", list(&self.default_mount_options))?;
        if let Some(options) = &self.mount_options {
            page.pair("Mount options", options)?;
        }
        page.pair("Filesystem state", &self.state)?;
        page.pair("Errors behavior", self.errors_behavior)?;
        page.pair("Filesystem OS type", &self.os_type)
    }

    fn text_geometry(&self, page: &mut Page<'_>) -> io::Result<()> {
        page.pair("Inode count", self.inode_count)?;
        page.pair("Block count", self.block_count)?;
        page.pair("Reserved block count", self.reserved_block_count)?;
        if self.overhead_clusters != 0 {
            page.pair("Overhead clusters", self.overhead_clusters)?;
        }
        page.pair("Free blocks", self.free_blocks)?;
        page.pair("Free inodes", self.free_inodes)?;
        page.pair("First block", self.first_block)?;
        page.pair("Block size", self.block_size)?;
        match self.cluster_size {
            Some(size) => page.pair("Cluster size", size)?,
            None => page.pair("Fragment size", self.block_size)?,
        }
        optional(page, "Group descriptor size", self.group_descriptor_size)?;
        non_zero(page, "Reserved GDT blocks", self.reserved_gdt_blocks.into())?;
        page.pair("Blocks per group", self.blocks_per_group)?;
        let clusters = if self.cluster_size.is_some() { "Clusters per group" } else { "Fragments per group" };
        page.pair(clusters, self.clusters_per_group)?;
        page.pair("Inodes per group", self.inodes_per_group)?;
        page.pair("Inode blocks per group", self.inode_blocks_per_group)?;
        non_zero(page, "RAID stride", self.raid_stride.into())?;
        non_zero(page, "RAID stripe width", self.raid_stripe_width.into())?;
        non_zero(page, "First meta block group", self.first_meta_bg.into())?;
        non_zero(page, "Flex block group size", self.flex_bg_size.into())
    }

    fn text_history(&self, page: &mut Page<'_>) -> io::Result<()> {
        if self.created.sec != 0 {
            page.pair("Filesystem created", date(self.created))?;
        }
        page.pair("Last mount time", when(self.last_mount))?;
        page.pair("Last write time", date(self.last_write))?;
        page.pair("Mount count", self.mount_count)?;
        page.pair("Maximum mount count", self.max_mount_count)?;
        page.pair("Last checked", date(self.last_checked))?;
        let interval = match self.check_interval {
            0 => "<none>".into(),
            s => format!("{} days", s / 86400),
        };
        page.pair("Check interval", format_args!("{} ({interval})", self.check_interval))?;
        if self.check_interval != 0 {
            let next = self.last_checked.sec.saturating_add(self.check_interval.into());
            page.pair("Next check after", date(Timestamp::from_secs(next)))?;
        }
        if self.lifetime_writes_kib != 0 {
            page.pair("Lifetime writes", written(self.lifetime_writes_kib))?;
        }
        page.pair("Reserved blocks uid", owner(self.reserved_uid, "user"))?;
        page.pair("Reserved blocks gid", owner(self.reserved_gid, "group"))
    }

    fn text_structures(&self, page: &mut Page<'_>) -> io::Result<()> {
        if self.revision > 0 {
            page.pair("First inode", self.first_inode)?;
            page.pair("Inode size", self.inode_size)?;
            non_zero(page, "Required extra isize", self.min_extra_isize.into())?;
            non_zero(page, "Desired extra isize", self.want_extra_isize.into())?;
        }
        optional(page, "Journal UUID", self.journal_uuid.as_ref())?;
        non_zero(page, "Journal inode", self.journal_inode.into())?;
        if self.journal_device != 0 {
            page.pair("Journal device", format_args!("{:#06x}", self.journal_device))?;
        }
        non_zero(page, "First orphan inode", self.first_orphan.into())?;
        optional(page, "Default directory hash", self.default_hash)?;
        page.pair("Directory Hash Seed", &self.hash_seed)?;
        if self.journal_backup {
            page.pair("Journal backup", "inode blocks")?;
        }
        if let Some([a, b]) = self.backup_groups {
            page.pair("Backup block groups", format_args!("{a} {b}"))?;
        }
        self.text_errors(page)?;
        optional(page, "MMP block number", self.mmp_block)?;
        optional(page, "MMP update interval", self.mmp_update_interval)?;
        non_zero(page, "User quota inode", self.user_quota_inode.into())?;
        non_zero(page, "Group quota inode", self.group_quota_inode.into())?;
        non_zero(page, "Project quota inode", self.project_quota_inode.into())?;
        optional(page, "Checksum type", self.checksum_type)?;
        optional(page, "Checksum", self.checksum.map(|c| format!("{c:#010x}")))?;
        optional(page, "Checksum seed", self.checksum_seed.map(|c| format!("{c:#010x}")))?;
        optional(page, "Encryption PW Salt", self.encryption_salt.as_ref())?;
        optional(page, "Character encoding", self.encoding.as_ref())?;
        optional(page, "Orphan file inode", self.orphan_file_inode)
    }

    fn text_errors(&self, page: &mut Page<'_>) -> io::Result<()> {
        non_zero(page, "FS Error count", self.error_count.into())?;
        for (which, error) in [("First", &self.first_error), ("Last", &self.last_error)] {
            let Some(e) = error else { continue };
            page.pair(&format!("{which} error time"), date(e.time))?;
            page.pair(&format!("{which} error function"), &e.function)?;
            page.pair(&format!("{which} error line #"), e.line)?;
            non_zero(page, &format!("{which} error inode #"), e.inode.into())?;
            non_zero(page, &format!("{which} error block #"), e.block)?;
            non_zero(page, &format!("{which} error err"), e.code.into())?;
        }
        Ok(())
    }
}

fn optional(page: &mut Page<'_>, key: &str, value: Option<impl std::fmt::Display>) -> io::Result<()> {
    value.map_or(Ok(()), |v| page.pair(key, v))
}

fn non_zero(page: &mut Page<'_>, key: &str, value: u64) -> io::Result<()> {
    optional(page, key, Some(value).filter(|v| *v != 0))
}

impl View for SuperblockView {
    const SCHEMA: &'static str = "superblock/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        self.text_identity(page)?;
        self.text_geometry(page)?;
        self.text_history(page)?;
        self.text_structures(page)?;
        if let Some(journal) = &self.journal {
            journal.text(page)?;
        }
        page.pair("Directories", self.directories)
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}

/// The features that are on, or all that are known.
#[derive(Debug, Serialize)]
pub struct FeaturesView {
    /// Their names.
    pub features: Vec<String>,
    /// Those of journals; in a list of all that are supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal: Option<Vec<String>>,
}

impl FeaturesView {
    /// The features of a volume.
    pub fn of(features: Features) -> Self {
        Self { features: features.bits().map(|b| b.to_string()).collect(), journal: None }
    }

    /// One feature, by its name; `None` where this program does not know it.
    pub fn known_as(name: &str) -> Option<Self> {
        let Self { features, journal } = Self::known();
        let one = |all: Vec<String>| all.into_iter().filter(|f| f.eq_ignore_ascii_case(name)).collect::<Vec<_>>();
        let (features, journal) = (one(features), one(journal.unwrap_or_default()));
        (!features.is_empty() || !journal.is_empty()).then_some(Self { features, journal: Some(journal) })
    }

    /// All features that this program has a name for.
    pub fn known() -> Self {
        let readable = |word: FeatureWord, bit: u8| {
            word != FeatureWord::Incompat || READ_INCOMPAT.bits().checked_shr(bit.into()).is_some_and(|v| v & 1 == 1)
        };
        // Names of what was never merged say nothing about this program.
        let unused = ["lazy_bg", "snapshot_bitmap", "snapshot", "replica"];
        let known = NAMES.iter().filter(|(word, bit, name)| readable(*word, *bit) && !unused.contains(name));
        Self {
            features: known.map(|(_, _, name)| (*name).to_owned()).collect(),
            journal: Some(known_journal_features()),
        }
    }
}

impl View for FeaturesView {
    const SCHEMA: &'static str = "features/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        match &self.journal {
            None => writeln!(page, "Filesystem features: {}", list(&self.features)),
            // One that was asked for.
            Some(journal) if self.features.len() + journal.len() == 1 => {
                self.features.iter().chain(journal).try_for_each(|f| writeln!(page, "Supported feature: {f}"))
            }
            Some(journal) => {
                writeln!(page, "Supported features: {}", list(&self.features))?;
                writeln!(page, "                    {}", list(journal))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_bits() {
        assert_eq!(mount_options(0xc), ["user_xattr", "acl"]);
        assert_eq!(mount_options(0x8000_0060), ["MNTOPT_31", "journal_data_writeback"]);
        assert_eq!(
            flag_names(SbFlags::SIGNED_HASH | SbFlags::TEST_FILESYS),
            ["signed_directory_hash", "test_filesystem"]
        );
        assert_eq!(state(State::ERROR), "not clean with errors");
        assert_eq!(
            (written(2821), written(1 << 21), written(1 << 34)),
            ("2821 kB".into(), "2048 MB".into(), "16 TB".into())
        );
    }
}
