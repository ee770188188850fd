//! A superblock where neither the primary one nor a backup at a usual place is usable: fields that follow from others are put
//! right, else the whole device is looked through for a backup.

use std::sync::Arc;

use super::locate::{self, Table};
use super::open::{descriptors_are_sound, options};
use crate::device::{BlockDevice, OverlayDevice};
use crate::format::features::{Features, Incompat, RoCompat};
use crate::format::group_desc::GroupDesc;
use crate::format::inode::FileType;
use crate::format::superblock::{self, Superblock};
use crate::units::{Fsblk, Group, Ino};
use crate::volume::{Geometry, Volume};

/// Bytes of a device that are looked through for a backup.
const SCANNED: u64 = 4 << 30;
/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;
/// Groups per flexible group, as a power of two, in most filesystems.
pub(super) const LOG_FLEX: u8 = 4;
/// The largest sensible such power.
pub(super) const MAX_LOG_FLEX: u8 = 31;
/// Sizes of inodes, the usual one first.
pub(super) const INODE_SIZES: [u16; 5] = [256, 128, 512, 1024, 2048];

/// A field of the superblock that was not what the others ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) have: u64,
    pub(super) want: u64,
}

/// A primary superblock that is usable with some fields changed.
pub(super) struct Mended {
    pub(super) vol: Volume,
    pub(super) sb: Superblock,
    pub(super) fields: Vec<Field>,
}

pub(super) fn primary(dev: &Arc<dyn BlockDevice>) -> Option<Superblock> {
    let mut bytes = [0; superblock::SIZE];
    dev.read_at(superblock::OFFSET, &mut bytes).ok()?;
    Superblock::decode_unchecked(&bytes).ok()
}

/// The primary superblock with the fields that follow from others put right, where nothing better is known: it says what it
/// is, and its descriptors may be as damaged.
pub(super) fn readable(dev: &Arc<dyn BlockDevice>) -> Option<Mended> {
    let stored = primary(dev).filter(|sb| sb.magic.get() == superblock::MAGIC)?;
    variants(&stored, dev.len()).iter().map(derive).find_map(|sb| as_mended(overlaid(dev, &sb)?, &stored, sb))
}

/// The primary superblock with fields put right, and descriptors that lead to one of `tables`.
pub(super) fn relocated(dev: &Arc<dyn BlockDevice>, tables: &[Table]) -> Option<Mended> {
    let stored = primary(dev).filter(|sb| sb.magic.get() == superblock::MAGIC)?;
    let all = variants(&stored, dev.len());
    tables.iter().find_map(|t| {
        let sized = all.iter().filter(|sb| sb.log_block_size.get().checked_add(10) == Some(t.bits)).map(|sb| {
            let mut sb = sb.clone();
            sb.inode_size.set(t.inode_size);
            derive(&sb)
        });
        sized.into_iter().find_map(|sb| {
            let vol = locate::relocated(dev, &overlaid(dev, &sb)?, std::slice::from_ref(t))?;
            Some(Mended { fields: differences(&stored, vol.superblock()), sb: vol.superblock().clone(), vol })
        })
    })
}

/// The filesystem with this superblock.
pub(super) fn overlaid(dev: &Arc<dyn BlockDevice>, sb: &Superblock) -> Option<Volume> {
    layered(dev, sb).map(|l| l.1)
}

/// A layer over the device that has this superblock, and the filesystem with it.
pub(super) fn layered(dev: &Arc<dyn BlockDevice>, sb: &Superblock) -> Option<(Arc<dyn BlockDevice>, Volume)> {
    let over: Arc<dyn BlockDevice> = Arc::new(OverlayDevice::new(Arc::clone(dev)));
    over.write_at(superblock::OFFSET, &sb.encode()).ok()?;
    let vol = Volume::open(Arc::clone(&over), &options(None, None, false)).ok()?;
    Some((over, vol))
}

pub(super) fn as_mended(vol: Volume, stored: &Superblock, mut sb: Superblock) -> Option<Mended> {
    sb.update_checksum();
    let fields = differences(stored, &sb);
    (!fields.is_empty()).then_some(Mended { vol, sb, fields })
}

/// The primary superblock with the fields that follow from others put right, where the filesystem holds together then.
pub(super) fn mended(dev: &Arc<dyn BlockDevice>) -> Option<Mended> {
    let stored = primary(dev)?;
    variants(&stored, dev.len()).iter().map(derive).find_map(|derived| {
        let sizes = std::iter::once(derived.inode_size.get()).chain(INODE_SIZES);
        sizes.into_iter().find_map(|size| {
            let mut sb = derived.clone();
            sb.inode_size.set(size);
            holds(dev, &stored, sb)
        })
    })
}

/// The superblock as it is, and with one field each that others, or the size of the device in bytes, tell as well.
fn variants(stored: &Superblock, device: u64) -> Vec<Superblock> {
    let bigalloc = stored.features().ro_compat.contains(RoCompat::BIGALLOC);
    let bits = stored.log_block_size.get();
    let ratio = stored.log_cluster_size.get().wrapping_sub(bits);
    let mut all = vec![stored.clone()];
    let mut with = |change: &dyn Fn(&mut Superblock)| {
        let mut sb = stored.clone();
        change(&mut sb);
        all.push(sb);
    };
    if !bigalloc {
        with(&|sb| sb.log_block_size = stored.log_cluster_size);
        with(&|sb| sb.blocks_per_group = stored.clusters_per_group);
    } else if let Some(blocks) = stored.clusters_per_group.get().checked_shl(ratio) {
        with(&|sb| sb.blocks_per_group.set(blocks));
    }
    if bits <= superblock::MAX_LOG_BLOCK_SIZE {
        let size = 1024u32 << bits;
        let blocks = device / u64::from(size);
        with(&|sb| sb.blocks_per_group.set(size * 8));
        with(&|sb| sb.set_blocks_count(blocks));
        let per = u64::from(stored.blocks_per_group.get().max(1));
        let groups = stored.blocks_count().saturating_sub(stored.first_data_block.get().into()).div_ceil(per);
        if let Ok(inodes) = u32::try_from(u64::from(stored.inodes_count.get()) / groups.max(1)) {
            with(&|sb| sb.inodes_per_group.set(inodes));
        }
    }
    all
}

/// Whether what `sb` describes is there.
fn holds(dev: &Arc<dyn BlockDevice>, stored: &Superblock, sb: Superblock) -> Option<Mended> {
    let vol = overlaid(dev, &sb)?;
    let root = vol.raw_inode(Ino::ROOT).ok()?;
    if !descriptors_are_sound(&vol).ok()? || root.file_type() != Some(FileType::Directory) {
        return None;
    }
    // Where no checksum is right, the identifier is not either: a backup knows it.
    let geo = vol.geometry();
    let right = |g: Group| {
        let raw = vol.raw_group(g).ok()?;
        let desc = GroupDesc::decode(raw).ok()?;
        Some(desc.computed_checksum(geo.checksums, g, geo.desc_size, raw)? == desc.checksum.get())
    };
    if geo.checksums.has_group_desc_csum() && !geo.all_groups().any(|g| right(g) == Some(true)) {
        return None;
    }
    as_mended(vol, stored, sb)
}

/// Fields of which there is only one possible value, given the others.
fn derive(stored: &Superblock) -> Superblock {
    let mut sb = stored.clone();
    sb.magic.set(superblock::MAGIC);
    sb.rev_level.set(sb.rev_level.get().min(1));
    let f: Features = sb.features();
    let bigalloc = f.ro_compat.contains(RoCompat::BIGALLOC);
    let bits = sb.log_block_size.get();
    if !bigalloc {
        sb.log_cluster_size.set(bits);
        sb.clusters_per_group.set(sb.blocks_per_group.get());
    }
    let ratio = sb.log_cluster_size.get().saturating_sub(bits);
    if bigalloc && ratio < 32 {
        let clusters = sb.blocks_per_group.get() >> ratio;
        sb.clusters_per_group.set(clusters);
    }
    sb.first_data_block.set(u32::from(bits == 0 && ratio == 0));
    let per = u64::from(sb.blocks_per_group.get());
    let blocks = sb.blocks_count().saturating_sub(sb.first_data_block.get().into());
    if per > 0
        && let Ok(inodes) = u32::try_from(blocks.div_ceil(per).saturating_mul(sb.inodes_per_group.get().into()))
    {
        sb.inodes_count.set(inodes);
    }
    if sb.rev_level.get() > 0 && !(11..=sb.inodes_count.get()).contains(&sb.first_ino.get()) {
        sb.first_ino.set(Ino::GOOD_OLD_FIRST.0);
    }
    if sb.log_groups_per_flex > MAX_LOG_FLEX {
        sb.log_groups_per_flex = LOG_FLEX;
    }
    if f.ro_compat.contains(RoCompat::METADATA_CSUM) {
        sb.checksum_type = 1;
    }
    let wide = f.incompat.contains(Incompat::BIT64);
    let size = sb.desc_size.get();
    if wide && !(size.is_power_of_two() && (superblock::DESC_SIZE_64BIT..=1024).contains(&size)) {
        sb.desc_size.set(superblock::DESC_SIZE_64BIT);
    }
    sb
}

fn differences(a: &Superblock, b: &Superblock) -> Vec<Field> {
    let all = [
        ("magic", u64::from(a.magic.get()), u64::from(b.magic.get())),
        ("rev_level", a.rev_level.get().into(), b.rev_level.get().into()),
        ("log_block_size", a.log_block_size.get().into(), b.log_block_size.get().into()),
        ("blocks_count", a.blocks_count(), b.blocks_count()),
        ("blocks_per_group", a.blocks_per_group.get().into(), b.blocks_per_group.get().into()),
        ("inodes_per_group", a.inodes_per_group.get().into(), b.inodes_per_group.get().into()),
        ("log_cluster_size", a.log_cluster_size.get().into(), b.log_cluster_size.get().into()),
        ("clusters_per_group", a.clusters_per_group.get().into(), b.clusters_per_group.get().into()),
        ("first_data_block", a.first_data_block.get().into(), b.first_data_block.get().into()),
        ("inodes_count", a.inodes_count.get().into(), b.inodes_count.get().into()),
        ("first_ino", a.first_ino.get().into(), b.first_ino.get().into()),
        ("inode_size", a.inode_size.get().into(), b.inode_size.get().into()),
        ("log_groups_per_flex", a.log_groups_per_flex.into(), b.log_groups_per_flex.into()),
        ("checksum_type", a.checksum_type.into(), b.checksum_type.into()),
        ("desc_size", a.desc_size.get().into(), b.desc_size.get().into()),
        ("checksum", a.checksum.get().into(), b.checksum.get().into()),
    ];
    let mut out: Vec<Field> =
        all.into_iter().filter(|f| f.1 != f.2).map(|(name, have, want)| Field { name, have, want }).collect();
    // The checksum differs where anything does.
    if out.len() > 1 {
        out.retain(|f| f.name != "checksum");
    }
    out
}

/// Go over the beginning of a device: what is at each multiple of 1024 bytes, with that offset and up to `ahead` bytes more, until
/// something is found. What cannot be read is passed over.
pub(super) fn each_kib<T>(
    dev: &Arc<dyn BlockDevice>,
    ahead: usize,
    mut look: impl FnMut(u64, &[u8]) -> Option<T>,
) -> Option<T> {
    const STEP: usize = 1024;
    let end = dev.len().min(SCANNED);
    let mut buf = vec![0; CHUNK + ahead];
    let mut at = 0;
    while at < end {
        let len = usize::try_from(dev.len() - at).map_or(buf.len(), |n| n.min(buf.len()));
        let part = buf.get_mut(..len)?;
        if dev.read_at(at, part).is_ok() {
            for from in (0..len.min(CHUNK)).step_by(STEP) {
                let bytes = part.get(from..len.min(from + STEP + ahead)).unwrap_or_default();
                if let Some(found) = look(at + from as u64, bytes) {
                    return Some(found);
                }
            }
        }
        at += CHUNK as u64;
    }
    None
}

/// The first usable backup anywhere on the device, and its block: one that is where it says that it is.
pub(super) fn scan(dev: &Arc<dyn BlockDevice>) -> Option<(Volume, Fsblk)> {
    const MAGIC_AT: usize = 0x38;
    each_kib(dev, 0, |offset, bytes| {
        let magic = bytes.get(MAGIC_AT..MAGIC_AT + 2) == Some(&superblock::MAGIC.to_le_bytes());
        if magic && offset > superblock::OFFSET { backup_at(dev, bytes, offset) } else { None }
    })
}

fn backup_at(dev: &Arc<dyn BlockDevice>, bytes: &[u8], offset: u64) -> Option<(Volume, Fsblk)> {
    let sb = Superblock::decode(bytes).ok()?;
    let geo = Geometry::new(&sb).ok()?;
    let group = Group(sb.block_group_nr.get().into());
    let at = geo.group_start(group);
    if group.0 == 0 || geo.byte_of(at) != offset || !geo.has_super(group) {
        return None;
    }
    let vol = Volume::open(Arc::clone(dev), &options(Some(at), Some(geo.block_size), false)).ok()?;
    Some((vol, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_field_may_be_told_by_others() {
        let mut sb = Superblock::decode_unchecked(&[0; superblock::SIZE]).unwrap();
        sb.set_blocks_count(7);
        sb.clusters_per_group.set(8192);
        sb.blocks_per_group.set(3);
        sb.inodes_count.set(1024);
        let all = variants(&sb, 4 << 20);
        assert_eq!((all[0].blocks_count(), all[0].blocks_per_group.get()), (7, 3));
        assert!(all.iter().any(|v| v.blocks_per_group.get() == 8192) && all.iter().any(|v| v.blocks_count() == 4096));
        assert!(all.iter().any(|v| v.inodes_per_group.get() == 341), "three groups as it is");
    }

    #[test]
    fn fields_follow_from_others() {
        let mut bytes = [0; superblock::SIZE];
        bytes[..4].copy_from_slice(&7u32.to_le_bytes());
        let mut sb = Superblock::decode_unchecked(&bytes).unwrap();
        sb.rev_level.set(9);
        sb.blocks_count_lo.set(20_000);
        sb.blocks_per_group.set(8192);
        sb.inodes_per_group.set(512);
        sb.log_block_size.set(0);
        sb.log_cluster_size.set(5);
        let d = derive(&sb);
        assert_eq!(d.magic.get(), superblock::MAGIC);
        assert_eq!((d.rev_level.get(), d.first_data_block.get(), d.inodes_count.get()), (1, 1, 3 * 512));
        assert_eq!((d.log_cluster_size.get(), d.clusters_per_group.get(), d.first_ino.get()), (0, 8192, 11));
        let names: Vec<&str> = differences(&sb, &d).iter().map(|f| f.name).collect();
        assert!(
            names.contains(&"magic") && names.contains(&"inodes_count") && !names.contains(&"checksum"),
            "{names:?}"
        );
    }
}
