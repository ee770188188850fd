//! The metadata of a filesystem without its files' content, as a device: superblocks, descriptors, bitmaps, inode tables, maps,
//! extended attributes, directories, symbolic links, the journal, quotas. All else reads as zeros and takes no room. e2fsprogs'
//! name: `e2image -r`.
//!
//! Blocks are stored as they are, damage with them; what cannot be reached is left out and told. With other names (see
//! [`super::scramble`]) the log of the journal, which has copies of directories, is left out, and what is in no use is wiped.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use super::scramble;
use crate::device::{BlockDevice, NewFile};
use crate::error::{Error, Result};
use crate::format::bitmap;
use crate::format::inode::{FileType, Inode, InodeFlags};
use crate::units::{Fsblk, Group, Ino};
use crate::volume::{MapEvent, OpenOptions, Owner, Volume};

/// Bytes that are looked at together.
const STEP: u64 = 1 << 20;
/// Most errors that are kept.
const MAX_DAMAGE: usize = 100;

/// What there is to tell of a metadata image.
#[derive(Debug, Default)]
pub struct MetadataReport {
    /// Blocks that are stored.
    pub blocks: u64,
    /// Names and targets that were replaced.
    pub names: u64,
    /// Directories that lost their index, because there are no other names for its order.
    pub flattened: Vec<Ino>,
    /// What could not be read; at most a hundred.
    pub damage: Vec<Error>,
}

/// The metadata of a filesystem, as a device.
pub struct MetadataImage {
    base: Arc<dyn BlockDevice>,
    len: u64,
    /// Bytes that are stored: ascending, apart.
    stored: Vec<Range<u64>>,
    /// What there is to tell.
    pub report: MetadataReport,
}

impl std::fmt::Debug for MetadataImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataImage").field("report", &self.report).finish_non_exhaustive()
    }
}

/// Inodes that are in use, or may be, in order.
pub(super) fn used_inodes(volume: &Volume, damage: &mut Vec<Error>, visit: &mut dyn FnMut(Ino, Inode)) {
    let geo = volume.geometry();
    for group in geo.all_groups() {
        let Ok(desc) = volume.group(group) else { continue };
        if volume.is_inode_uninit(&desc) {
            continue;
        }
        let unused = if geo.checksums.has_group_desc_csum() { desc.itable_unused() } else { 0 };
        let map = volume.inode_bitmap(group).ok();
        for n in 0..geo.inodes_per_group.saturating_sub(unused) {
            let ino = Ino(geo.group_first_ino(group).0.saturating_add(n));
            match volume.raw_inode(ino) {
                Ok(inode) => {
                    let marked = map.as_ref().is_some_and(|m| bitmap::test(m, n as usize));
                    let core = inode.core();
                    if core.links_count.get() != 0 || marked && core.mode.get() != 0 {
                        visit(ino, inode);
                    }
                }
                Err(e) if damage.len() < MAX_DAMAGE => damage.push(e),
                Err(_) => {}
            }
        }
    }
}

/// Collects blocks.
struct Collector<'v> {
    volume: &'v Volume,
    blocks: BTreeSet<u64>,
    report: MetadataReport,
    scrambled: bool,
}

impl Collector<'_> {
    fn add(&mut self, first: Fsblk, len: u64) {
        let end = first.0.saturating_add(len).min(self.volume.geometry().blocks_count);
        self.blocks.extend(first.0..end);
    }

    fn group(&mut self, group: Group) {
        let geo = self.volume.geometry();
        if let Some(at) = geo.super_block(group) {
            self.add(at, 1);
        }
        let (start, own) = (geo.group_start(group), geo.super_and_gdt_blocks(group));
        let descriptors = own.saturating_sub(if geo.has_super(group) { geo.reserved_gdt_blocks } else { 0 });
        self.add(start, descriptors.into());
        let Ok(desc) = self.volume.group(group) else { return };
        let table = geo.itable_blocks;
        self.add(desc.block_bitmap(), 1);
        self.add(desc.inode_bitmap(), 1);
        self.add(desc.inode_table(), table.into());
    }

    /// Whether an inode's content is metadata.
    fn keeps_content(&self, ino: Ino, inode: &Inode) -> bool {
        let sb = self.volume.superblock();
        let own = [sb.journal_inum.get(), sb.usr_quota_inum.get(), sb.grp_quota_inum.get(), sb.prj_quota_inum.get()];
        let own = own.contains(&ino.0) || sb.orphan_file_inum.get() == ino.0;
        let named = matches!(inode.file_type(), Some(FileType::Directory | FileType::Symlink));
        named || own && ino.0 != 0 || inode.flags().contains(InodeFlags::EA_INODE)
    }

    fn inode(&mut self, ino: Ino, inode: &Inode) {
        if inode.file_acl().0 != 0 {
            self.add(inode.file_acl(), 1);
        }
        let content = self.keeps_content(ino, inode);
        let log = self.scrambled && ino.0 == self.volume.superblock().journal_inum.get();
        let volume = self.volume;
        let walked = volume.walk_map(Owner { ino, inode }, &mut |event| {
            match event {
                MapEvent::Node { block, .. } => self.add(block, 1),
                // Of the log only its superblock.
                MapEvent::Data(e) if log && e.lblk.0 == 0 => self.add(e.pblk, 1),
                MapEvent::Data(e) if content && !log => self.add(e.pblk, e.len.into()),
                MapEvent::Data(_) => {}
            }
            Ok(ControlFlow::Continue(()))
        });
        if let Err(e) = walked
            && self.report.damage.len() < MAX_DAMAGE
        {
            self.report.damage.push(e);
        }
    }
}

impl MetadataImage {
    /// The metadata of what is on `device`.
    ///
    /// # Errors
    /// There is no superblock; [`Error::Unsupported`] for features in whose presence names cannot be replaced.
    pub fn new(device: &Arc<dyn BlockDevice>, scramble_names: bool) -> Result<Self> {
        let (base, renamed) = if scramble_names {
            let (over, report) = scramble::scramble(device, &OpenOptions::as_it_is())?;
            (over, report)
        } else {
            (Arc::clone(device), scramble::Renamed::default())
        };
        let volume = Volume::open(Arc::clone(&base), &OpenOptions::as_it_is())?;
        let scramble::Renamed { names, flattened, left_out, damage } = renamed;
        let report = MetadataReport { names, flattened, damage, blocks: 0 };
        let mut c = Collector { volume: &volume, blocks: BTreeSet::new(), report, scrambled: scramble_names };
        let geo = volume.geometry();
        c.add(Fsblk(geo.first_data_block), 1);
        for group in geo.all_groups() {
            c.group(group);
        }
        let mmp = volume.superblock().mmp_block.get();
        if mmp != 0 {
            c.add(Fsblk(mmp), 1);
        }
        let mut damage = Vec::new();
        used_inodes(&volume, &mut damage, &mut |ino, inode| c.inode(ino, &inode));
        c.report.damage.extend(damage);
        let (mut blocks, mut report) = (c.blocks, c.report);
        blocks.retain(|b| !left_out.contains(&Fsblk(*b)));
        let size = u64::from(geo.block_size);
        let len = geo.total_bytes();
        let stored = not_zero(&base, &blocks, size, &mut report);
        Ok(Self { base, len, stored, report })
    }

    /// Write it to a new file of the host, in which what is not stored is a hole.
    ///
    /// # Errors
    /// Those of the host.
    pub fn write_raw(&self, path: &Path) -> Result<()> {
        let file = NewFile::create(path, self.len)?;
        for range in &self.stored {
            let mut at = range.start;
            while at < range.end {
                let mut bytes = vec![0; (range.end - at).min(STEP) as usize];
                self.base.read_at(at, &mut bytes)?;
                file.device().write_at(at, &bytes)?;
                at += bytes.len() as u64;
            }
        }
        file.device().flush()?;
        file.publish()
    }
}

/// The bytes of blocks that hold something.
fn not_zero(
    device: &dyn BlockDevice,
    blocks: &BTreeSet<u64>,
    size: u64,
    report: &mut MetadataReport,
) -> Vec<Range<u64>> {
    let mut stored: Vec<Range<u64>> = Vec::new();
    let mut bytes = vec![0; size as usize];
    for block in blocks {
        let at = block * size;
        if let Err(e) = device.read_at(at, &mut bytes) {
            // Behind the end of a truncated image.
            if report.damage.len() < MAX_DAMAGE {
                report.damage.push(e);
            }
            continue;
        }
        if bytes.iter().all(|b| *b == 0) {
            continue;
        }
        report.blocks += 1;
        match stored.last_mut() {
            Some(last) if last.end == at => last.end += size,
            _ => stored.push(at..at + size),
        }
    }
    stored
}

impl BlockDevice for MetadataImage {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        buf.fill(0);
        let end = offset.saturating_add(buf.len() as u64);
        let first = self.stored.partition_point(|r| r.end <= offset);
        for range in self.stored.iter().skip(first).take_while(|r| r.start < end) {
            let (from, to) = (range.start.max(offset), range.end.min(end));
            if let Some(part) = buf.get_mut((from - offset) as usize..(to - offset) as usize) {
                self.base.read_at(from, part)?;
            }
        }
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::ReadOnly)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let next = self.stored.get(self.stored.partition_point(|r| r.end <= offset));
        Ok(next.map(|r| r.start.max(offset)..r.end))
    }
}
