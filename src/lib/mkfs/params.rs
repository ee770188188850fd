//! From options to parameters: every default filled in and every contradiction refused, in the order mke2fs does it.
//!
//! [`Params`] still knows nothing of groups; [`super::layout`] places things. Counts are in blocks, sizes in bytes.

use super::options::{FeatureEdit, Options, Size, invalid, usage_of_size};
use crate::error::{Error, Result};
use crate::format::features::{Compat, Features, Incompat, RoCompat};

/// Smallest block size.
pub(crate) const MIN_BLOCK_SIZE: u32 = 1024;
/// Largest block size.
pub(crate) const MAX_BLOCK_SIZE: u32 = 65536;
/// The host's page size that mke2fs rounds device sizes to.
const PAGE_SIZE: u64 = 4096;
/// Largest `-i`.
const MAX_INODE_RATIO: u32 = MAX_BLOCK_SIZE * 1024;
const MAX_32: u64 = u32::MAX as u64;

/// Everything decided that does not need the groups.
#[derive(Clone, Debug)]
pub(crate) struct Params {
    pub(crate) features: Features,
    pub(crate) block_size: u32,
    pub(crate) cluster_size: u32,
    pub(crate) inode_size: u32,
    pub(crate) desc_size: u32,
    pub(crate) blocks: u64,
    pub(crate) reserved_blocks: u64,
    pub(crate) inodes: u64,
    /// Blocks (with `bigalloc`: clusters) per group, where asked for.
    pub(crate) per_group: Option<u32>,
    pub(crate) log_flex: u32,
    /// Reserved descriptor blocks, where `-E resize=` asks for a number.
    pub(crate) reserved_gdt: Option<u32>,
    pub(crate) quota_project: bool,
}

pub(crate) const fn div_ceil(a: u64, b: u64) -> u64 {
    a.div_ceil(b)
}

impl Params {
    pub(crate) fn resolve(o: &Options) -> Result<Self> {
        check_numbers(o)?;
        let unit = u64::from(o.block_size.unwrap_or(MIN_BLOCK_SIZE));
        let units = match o.size {
            Size::Units(n) => n,
            Size::Device(bytes) => (bytes / unit) & !((PAGE_SIZE / unit).max(1) - 1),
        };
        if units == 0 {
            return Err(invalid("size", 0, "at least one block"));
        }
        let hurd = o.creator_os == 1;
        let types = types(o, usage_of_size(units, unit), hurd);
        let defaults = o.conf.features(&types)?;
        let mut features = defaults;
        if hurd {
            features.incompat -= Incompat::FILETYPE | Incompat::EA_INODE | Incompat::CASEFOLD;
            features.ro_compat -= RoCompat::HUGE_FILE | RoCompat::METADATA_CSUM;
        }
        if let (true, Some(list)) = (o.features.is_empty(), o.conf.get(&types, "default_features")) {
            FeatureEdit::parse_list(list)?.into_iter().for_each(|edit| edit.apply(&mut features));
        }
        for edit in &o.features {
            edit.apply(&mut features);
        }
        if hurd
            && (features.incompat.intersects(Incompat::FILETYPE | Incompat::EA_INODE)
                || features.ro_compat.intersects(RoCompat::HUGE_FILE | RoCompat::METADATA_CSUM))
        {
            return Err(conflict("the Hurd", "does not support", "filetype, ea_inode, huge_file and metadata_csum"));
        }
        let block_size = block_size(o, &types)?;
        let blocks = units * unit / u64::from(block_size);
        if blocks == 0 {
            return Err(invalid("size", units * unit, "at least one block"));
        }
        settle_features((o, &types), defaults, &mut features, blocks)?;
        let cluster_size = cluster_size(o, &types, features, block_size)?;
        let inode_size = inode_size(o, features, &types, block_size)?;
        let desc_size = desc_size(o, features)?;
        let inodes = inode_count(o, features, &types, blocks, block_size, cluster_size, inode_size)?;
        let reserved_gdt = resize_blocks(o, &mut features, blocks, block_size, desc_size)?;
        let (per_group, log_flex) = group_numbers(o, features, &types, block_size)?;
        check_pairs(features)?;
        let reserved = if features.incompat.contains(Incompat::JOURNAL_DEV) { 0.0 } else { o.reserved_percent };
        Ok(Self {
            features,
            block_size,
            cluster_size,
            inode_size,
            desc_size,
            blocks,
            reserved_blocks: percent(reserved, blocks),
            inodes,
            per_group,
            log_flex,
            reserved_gdt,
            quota_project: o.quota.project || features.ro_compat.contains(RoCompat::PROJECT),
        })
    }
}

/// `percent` of `blocks`, rounded down.
pub(crate) fn percent(percent: f64, blocks: u64) -> u64 {
    (percent * blocks as f64 / 100.0) as u64
}

fn conflict(a: &'static str, relation: &'static str, b: &'static str) -> Error {
    Error::Conflict { a, relation, b }
}

fn check_numbers(o: &Options) -> Result<()> {
    for size in [o.block_size, o.min_block_size].into_iter().flatten() {
        if !is_block_size(size) {
            return Err(invalid("block size", size, BLOCK_SIZES));
        }
    }
    if !(0.0..=50.0).contains(&o.reserved_percent) {
        return Err(invalid("reserved blocks percentage", o.reserved_percent, "0 to 50"));
    }
    if let Some(r) = o.inode_ratio
        && !(MIN_BLOCK_SIZE..=MAX_INODE_RATIO).contains(&r)
    {
        return Err(invalid("inode ratio", r, "1024 to 67108864"));
    }
    if let Some(g) = o.flex_bg_size
        && !g.is_power_of_two()
    {
        return Err(invalid("flex_bg size", g, "a power of two"));
    }
    if o.backups > 2 {
        return Err(invalid("num_backup_sb", o.backups, "0, 1 or 2"));
    }
    if o.revision_0 {
        return Err(invalid("revision", 0, "1: revision 0 is not made any more"));
    }
    Ok(())
}

/// What decides the defaults, in order: the type, then what it is for.
fn types<'o>(o: &'o Options, by_size: &'static str, hurd: bool) -> Vec<&'o str> {
    let mut types = vec![o.fs_type.name()];
    if o.usages.is_empty() {
        types.push(by_size);
    }
    types.extend(o.usages.iter().map(String::as_str));
    types.extend(hurd.then_some("hurd"));
    types
}

fn block_size(o: &Options, types: &[&str]) -> Result<u32> {
    if let Some(size) = o.block_size {
        return Ok(size);
    }
    let size = match o.conf.number::<i64>(types, "blocksize")? {
        // The host's page size.
        None | Some(-1) => PAGE_SIZE as u32,
        Some(n) => {
            u32::try_from(n).ok().filter(|n| is_block_size(*n)).ok_or_else(|| invalid("blocksize", n, BLOCK_SIZES))?
        }
    };
    Ok(size.max(o.min_block_size.unwrap_or(0)))
}

const BLOCK_SIZES: &str = "a power of two from 1024 to 65536";

const fn is_block_size(n: u32) -> bool {
    MIN_BLOCK_SIZE <= n && n <= MAX_BLOCK_SIZE && n.is_power_of_two()
}

/// What one feature or the size makes of others.
fn settle_features((o, types): (&Options, &[&str]), defaults: Features, f: &mut Features, blocks: u64) -> Result<()> {
    if blocks > MAX_32 {
        let add = matches!(o.conf.get(types, "auto_64-bit_support"), Some("1" | "yes" | "true" | "on"));
        f.incompat.set(Incompat::BIT64, add || f.incompat.contains(Incompat::BIT64));
        if !f.incompat.contains(Incompat::BIT64) {
            return Err(invalid("size in blocks", blocks, "below 2^32 without the feature 64bit"));
        }
        f.compat -= Compat::RESIZE_INODE;
    }
    if f.incompat.contains(Incompat::JOURNAL_DEV) {
        if o.strict_encoding && !o.encoding {
            return Err(conflict("encoding_flags", "needs", "casefold"));
        }
        let mut incompat = Incompat::JOURNAL_DEV;
        incompat.set(Incompat::CASEFOLD, o.encoding);
        let mut ro_compat = f.ro_compat & RoCompat::METADATA_CSUM;
        ro_compat.set(RoCompat::PROJECT, o.quota.project);
        *f = Features { incompat, ro_compat, ..Features::default() };
        return Ok(());
    }
    if f.compat.contains(Compat::ORPHAN_FILE) && !f.compat.contains(Compat::HAS_JOURNAL) {
        // A default that lacks what it needs is dropped, a wish is not.
        if defaults.compat.contains(Compat::ORPHAN_FILE) {
            f.compat -= Compat::ORPHAN_FILE;
        } else if !o.journal.wanted {
            return Err(conflict("the feature orphan_file", "needs", "has_journal"));
        }
    }
    if o.journal.wanted {
        f.compat |= Compat::HAS_JOURNAL;
    }
    if f.incompat.contains(Incompat::BIT64) && !f.incompat.contains(Incompat::EXTENTS) {
        return Err(conflict("the feature 64bit", "needs", "extent"));
    }
    if o.strict_encoding && !f.incompat.contains(Incompat::CASEFOLD) {
        return Err(conflict("encoding_flags", "needs", "casefold"));
    }
    if o.quota.project {
        f.ro_compat |= RoCompat::PROJECT;
    }
    if f.ro_compat.contains(RoCompat::METADATA_CSUM) {
        f.ro_compat -= RoCompat::GDT_CSUM;
    } else if f.incompat.contains(Incompat::CSUM_SEED) {
        if !defaults.incompat.contains(Incompat::CSUM_SEED) {
            return Err(conflict("the feature metadata_csum_seed", "needs", "metadata_csum"));
        }
        f.incompat -= Incompat::CSUM_SEED;
    }
    Ok(())
}

fn cluster_size(o: &Options, types: &[&str], f: Features, block_size: u32) -> Result<u32> {
    if !f.ro_compat.contains(RoCompat::BIGALLOC) {
        return match o.cluster_size {
            Some(_) => Err(conflict("a cluster size", "needs", "the feature bigalloc")),
            None => Ok(block_size),
        };
    }
    if !f.incompat.contains(Incompat::EXTENTS) {
        return Err(conflict("the feature bigalloc", "needs", "extent"));
    }
    let size = match o.cluster_size {
        Some(size) => size,
        None => o.conf.number(types, "cluster_size")?.unwrap_or(block_size * 16),
    };
    if size < block_size || !size.is_power_of_two() || size > 512 << 20 {
        return Err(invalid("cluster size", size, "a power of two from the block size to 512 MiB"));
    }
    Ok(size)
}

fn inode_size(o: &Options, f: Features, types: &[&str], block_size: u32) -> Result<u32> {
    let default = o.conf.number(types, "inode_size")?.unwrap_or(256);
    let project = f.ro_compat.contains(RoCompat::PROJECT);
    let size = o.inode_size.unwrap_or(if project { default.max(256) } else { default });
    if !(128..=block_size).contains(&size) || !size.is_power_of_two() {
        return Err(invalid("inode size", size, "a power of two from 128 to the block size"));
    }
    if size == 128 && project {
        return Err(conflict("project quota", "needs", "inodes of more than 128 bytes"));
    }
    if size == 128 && f.incompat.contains(Incompat::INLINE_DATA) {
        return Err(conflict("inline data", "needs", "inodes of more than 128 bytes"));
    }
    Ok(size)
}

fn desc_size(o: &Options, f: Features) -> Result<u32> {
    let wide = f.incompat.contains(Incompat::BIT64);
    match o.desc_size {
        None => Ok(if wide { 64 } else { 32 }),
        Some(_) if !wide => Err(conflict("desc_size", "needs", "the feature 64bit")),
        Some(n) if n.is_power_of_two() && (64..=1024).contains(&n) => Ok(n),
        Some(n) => Err(invalid("desc_size", n, "a power of two from 64 to 1024")),
    }
}

fn inode_count(
    o: &Options,
    f: Features,
    types: &[&str],
    blocks: u64,
    block_size: u32,
    cluster_size: u32,
    inode_size: u32,
) -> Result<u64> {
    let bytes = blocks.saturating_mul(u64::from(block_size));
    let n = match o.inodes {
        Some(n) if n > MAX_32 => return Err(invalid("number of inodes", n, "below 2^32")),
        Some(n) if n != 0 => n,
        _ => {
            let ratio = match o.inode_ratio {
                Some(ratio) => ratio,
                None => o.conf.number(types, "inode_ratio")?.unwrap_or(8192).max(block_size).max(cluster_size),
            };
            let n = bytes / u64::from(ratio);
            if n > MAX_32 && !f.incompat.contains(Incompat::BIT64) {
                return Err(invalid("inode ratio", ratio, "large enough for fewer than 2^32 inodes"));
            }
            // A ratio larger than the filesystem: an inode for each block, or for each 4 KiB where blocks are smaller.
            if n == 0 { blocks / u64::from((4096 / block_size).max(1)) } else { n.min(MAX_32) }
        }
    };
    if n.saturating_mul(u64::from(inode_size)) >= bytes {
        return Err(invalid("number of inodes", n, "few enough that their tables leave room in the filesystem"));
    }
    Ok(n)
}

/// The reserved descriptor blocks for `-E resize=`.
fn resize_blocks(o: &Options, f: &mut Features, blocks: u64, block_size: u32, desc_size: u32) -> Result<Option<u32>> {
    let Some(to) = o.resize_to else { return Ok(None) };
    let to = to.blocks(block_size);
    if to <= blocks {
        return Err(invalid("resize limit", to, "more blocks than the filesystem has"));
    }
    let per_group = u64::from(o.blocks_per_group.unwrap_or(block_size * 8));
    let per_block = u64::from(block_size / desc_size);
    let blocks_for = |n: u64| div_ceil(div_ceil(n, per_group), per_block);
    let reserved = (blocks_for(to) - blocks_for(blocks)).min(u64::from(block_size / 4));
    if reserved == 0 {
        return Ok(None);
    }
    f.compat |= Compat::RESIZE_INODE;
    Ok(Some(reserved as u32))
}

fn group_numbers(o: &Options, f: Features, types: &[&str], block_size: u32) -> Result<(Option<u32>, u32)> {
    if let Some(g) = o.blocks_per_group
        && (!(256..=8 * block_size).contains(&g) || !g.is_multiple_of(8))
    {
        return Err(invalid("blocks per group", g, "a multiple of 8 from 256 to 8 times the block size"));
    }
    let flex = f.incompat.contains(Incompat::FLEX_BG);
    let log_flex = match o.flex_bg_size {
        Some(_) if !flex => return Err(conflict("a flex_bg size", "needs", "the feature flex_bg")),
        Some(n) => n.trailing_zeros(),
        None if flex => match o.conf.number::<u32>(types, "flex_bg_size")? {
            None => 4,
            Some(n) if n.is_power_of_two() => n.trailing_zeros(),
            Some(n) => return Err(invalid("flex_bg_size", n, "a power of two")),
        },
        None => 0,
    };
    Ok((o.blocks_per_group, log_flex))
}

fn check_pairs(f: Features) -> Result<()> {
    if f.compat.contains(Compat::RESIZE_INODE) {
        if f.incompat.contains(Incompat::META_BG) {
            return Err(conflict("the feature resize_inode", "cannot be used with", "meta_bg"));
        }
        if !f.ro_compat.contains(RoCompat::SPARSE_SUPER) {
            return Err(conflict("the feature resize_inode", "needs", "sparse_super"));
        }
    }
    Ok(())
}
