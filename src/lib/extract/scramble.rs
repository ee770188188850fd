//! Other names for all that has one: entries of directories and targets of symbolic links are replaced by characters that say nothing
//! of them, of the same length, so that everything stays where it is. `lost+found` keeps its name. What directories, index
//! nodes and inodes hold that is not in use is wiped.
//!
//! In a directory with an index a name goes to a leaf by its hash: names are drawn until each leaf has as many of each length as it
//! had. Where that does not succeed (short names in a large directory) the directory loses its index. Names that are encrypted
//! stay. The result depends on the filesystem alone, and not on the old names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::metadata::used_inodes;
use super::scramble_xattrs::Done;
use crate::alloc::Filesystem;
use crate::device::{BlockDevice, OverlayDevice};
use crate::env::{FixedClock, Timestamp};
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::bitmap;
use crate::format::dirent::{self, DirFormat, DirPacker, HEADER, NewDirent, is_dot_or_dotdot};
use crate::format::dirhash::{DirHash, DirHasher};
use crate::format::htree::{self, DxEntry, DxNode, HtreeFormat};
use crate::format::inline_data::InlineData;
use crate::format::inode::{FileType, InodeFlags};
use crate::journal::{Journal, JournalOptions, direct};
use crate::units::{Fsblk, Group, Ino, Lblk};
use crate::volume::edit::modify_block;
use crate::volume::store::MetaStore;
use crate::volume::{OpenInode, OpenOptions, Volume};

/// Names that are drawn for each one that is needed, before the index is given up.
const DRAWS: u64 = 256;
/// Blocks of changes that are kept before they are written to the overlay.
const MANY: u64 = 4096;
/// Letters of names: in any case they are different, and are text.
const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// What was renamed.
#[derive(Debug, Default)]
pub(super) struct Renamed {
    pub(super) names: u64,
    pub(super) flattened: Vec<Ino>,
    /// Blocks with names that could not be replaced.
    pub(super) left_out: BTreeSet<Fsblk>,
    pub(super) damage: Vec<Error>,
}

/// Names of one directory.
pub(super) struct Names {
    state: u64,
    taken: BTreeSet<Vec<u8>>,
    folds: bool,
}

impl Names {
    pub(super) fn new(ino: Ino, folds: bool) -> Self {
        Self { state: u64::from(ino.0), taken: BTreeSet::new(), folds }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn draw(&mut self, len: usize) -> Vec<u8> {
        // Of short names there are too few in letters alone.
        let any = len < 4 && !self.folds;
        (0..len)
            .map(|_| {
                let n = self.random() >> 11;
                let letter = LETTERS.get((n % 36) as usize).copied().unwrap_or(b'x');
                let byte = (n >> 8) as u8;
                if any && !matches!(byte, 0 | b'/' | b'.') { byte } else { letter }
            })
            .collect()
    }

    /// One that is not taken yet.
    pub(super) fn fresh(&mut self, len: usize) -> Vec<u8> {
        for _ in 0..100_000 {
            let name = self.draw(len);
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
        // There are no more of this length than were there before.
        self.draw(len)
    }
}

/// Where names go by their hash.
struct Index {
    hasher: DirHasher,
    /// Hash where each leaf begins, ascending, and its block.
    leaves: Vec<(u32, Lblk)>,
    /// Index nodes.
    nodes: Vec<Lblk>,
}

/// Blocks of a directory.
type Blocks = BTreeMap<Lblk, (Fsblk, Vec<u8>)>;

pub(super) fn bad(ino: Ino, detail: &'static str) -> Error {
    Error::corrupt(Flaw::Inconsistent { of: Structure::HtreeNode, detail }, Place::inode(ino))
}

impl Index {
    fn read(volume: &Volume, dir: &OpenInode, blocks: &Blocks) -> Result<Self> {
        let format = volume.htree_format(dir.owner());
        let bytes = |lblk: Lblk| blocks.get(&lblk).ok_or_else(|| bad(dir.ino, "an index entry leads to a hole"));
        let root = DxNode::decode_root(&bytes(Lblk(0))?.1, format)?;
        let info = root.root.ok_or_else(|| bad(dir.ino, "no root"))?;
        let hasher = volume.dir_hasher(info.hash_version).ok_or_else(|| bad(dir.ino, "an unknown hash"))?;
        let mut level: Vec<DxEntry> = root.entries;
        let mut nodes = vec![Lblk(0)];
        for _ in 0..info.indirect_levels {
            let mut below = Vec::new();
            for e in level {
                if nodes.len() > blocks.len() {
                    return Err(bad(dir.ino, "index nodes are there twice"));
                }
                nodes.push(e.lblk());
                let node = DxNode::decode_node(&bytes(e.lblk())?.1, format)?;
                let first = std::iter::once(e.hash).chain(node.entries.iter().skip(1).map(|n| n.hash));
                below.extend(first.zip(&node.entries).map(|(hash, n)| DxEntry::new(hash, n.lblk())));
            }
            level = below;
        }
        let leaves: Vec<(u32, Lblk)> = level.iter().map(|e| (e.hash, e.lblk())).collect();
        Ok(Self { hasher, leaves, nodes })
    }

    /// The leaf of a hash.
    fn leaf(&self, hash: u32) -> Option<Lblk> {
        let at = self.leaves.partition_point(|(start, _)| *start <= hash).checked_sub(1)?;
        self.leaves.get(at).map(|(_, lblk)| *lblk)
    }

    /// Names for as many of each length as each leaf had; `None` where they cannot be found.
    fn names(&self, lengths: &BTreeMap<usize, BTreeMap<Lblk, usize>>, names: &mut Names) -> Option<Slots> {
        let mut slots = Slots::new();
        for (len, leaves) in lengths {
            let mut open = leaves.clone();
            let mut missing: usize = open.values().sum();
            let draws = (missing as u64 + self.leaves.len() as u64).saturating_mul(DRAWS);
            for _ in 0..draws {
                if missing == 0 {
                    break;
                }
                let name = names.draw(*len);
                let leaf = self.leaf(self.hasher.hash(&name).ok()?.hash)?;
                let Some(room) = open.get_mut(&leaf).filter(|n| **n > 0) else { continue };
                if !names.taken.insert(name.clone()) {
                    continue;
                }
                *room -= 1;
                missing -= 1;
                slots.entry((leaf, *len)).or_default().push(name);
            }
            if missing > 0 {
                return None;
            }
        }
        Some(slots)
    }
}

/// Names that are ready, by leaf and length.
type Slots = BTreeMap<(Lblk, usize), Vec<Vec<u8>>>;

/// Replace the names of a list of entries, and wipe what is not in use. Tells how many.
fn rename_list(
    list: &mut [u8],
    format: DirFormat,
    keep: Option<&[u8]>,
    next: &mut dyn FnMut(usize) -> Vec<u8>,
) -> Result<u64> {
    let old = list.to_vec();
    let mut done = 0;
    for entry in dirent::entries(&old, format) {
        let e = entry?;
        let name_at = e.offset.saturating_add(HEADER);
        let end = e.offset.saturating_add(e.rec_len);
        let used = e.offset.saturating_add(e.used_len(format).max(HEADER));
        if let Some(rest) = list.get_mut(used..end) {
            rest.fill(0);
        }
        if !e.is_used() {
            // Length and type of what was there.
            list.get_mut(e.offset.saturating_add(6)..name_at).unwrap_or_default().fill(0);
            continue;
        }
        if is_dot_or_dotdot(e.name) || keep == Some(e.name) {
            continue;
        }
        let new = next(e.name.len());
        if let Some(slot) = list.get_mut(name_at..name_at.saturating_add(new.len())) {
            slot.copy_from_slice(&new);
            done += 1;
        }
        // What fills the name up to a multiple of four.
        if !format.hash_in_entry {
            list.get_mut(name_at.saturating_add(new.len())..used).unwrap_or_default().fill(0);
        }
    }
    Ok(done)
}

/// The work on one filesystem.
pub(super) struct Work {
    pub(super) journal: Journal,
    pub(super) fs: Filesystem,
    pub(super) renamed: Renamed,
    pub(super) done: Done,
}

/// Replace the names of what is on `device`, in an overlay. What its journal holds must have been recovered.
pub(super) fn scramble(
    device: &Arc<dyn BlockDevice>,
    options: &OpenOptions,
) -> Result<(Arc<dyn BlockDevice>, Renamed)> {
    let over: Arc<dyn BlockDevice> = Arc::new(OverlayDevice::new(Arc::clone(device)));
    let volume = Volume::open(Arc::clone(&over), options)?;
    let when = Timestamp::from_secs(volume.superblock().write_time().sec);
    let journal = direct::open(&volume, JournalOptions::new(Arc::new(FixedClock(when))))?;
    let fs = Filesystem::open(journal.view(), options)?;
    let mut renamed = Renamed::default();
    let mut named = Vec::new();
    used_inodes(&volume, &mut renamed.damage, &mut |ino, inode| {
        let keyed = inode.flags().contains(InodeFlags::ENCRYPT);
        let is_named = matches!(inode.file_type(), Some(FileType::Directory | FileType::Symlink)) && !keyed;
        named.push((ino, is_named));
    });
    drop(volume);
    let mut work = Work { journal, fs, renamed, done: Done::default() };
    for (ino, is_named) in named {
        if is_named && let Err(e) = work.inode(ino) {
            work.leave_out(ino);
            work.renamed.damage.push(e);
        }
        if let Err(e) = work.attributes(ino) {
            work.drop_attributes(ino);
            work.renamed.damage.push(e);
        }
        if work.journal.pending().0 > MANY {
            work.journal.commit()?;
        }
    }
    work.wipe_inodes()?;
    let Work { journal, renamed, .. } = work;
    journal.close()?;
    Ok((over, renamed))
}

impl Work {
    fn inode(&mut self, ino: Ino) -> Result<()> {
        let o = OpenInode { ino, inode: self.fs.volume.raw_inode(ino)? };
        let inline = o.has(InodeFlags::INLINE_DATA);
        match (o.is_dir(), inline) {
            (true, true) => self.inline_directory(o),
            (true, false) => self.directory(o),
            (false, _) => self.symlink(o),
        }
    }

    /// Blocks whose names could not be replaced are not stored.
    fn leave_out(&mut self, ino: Ino) {
        let Ok(inode) = self.fs.volume.raw_inode(ino) else { return };
        let o = OpenInode { ino, inode };
        if let Ok(extents) = self.fs.volume.extents(o.owner()) {
            for e in extents {
                self.renamed.left_out.extend((0..u64::from(e.len)).map(|n| e.pblk.saturating_add(n)));
            }
        }
    }

    /// Attributes that could not be replaced are not stored.
    fn drop_attributes(&mut self, ino: Ino) {
        let Ok(mut inode) = self.fs.volume.raw_inode(ino) else { return };
        if inode.file_acl().0 != 0 {
            self.renamed.left_out.insert(inode.file_acl());
        }
        if inode.flags().contains(InodeFlags::INLINE_DATA) {
            inode.update(|c| c.block = [0; 60]);
        }
        inode.xattr_area_mut().fill(0);
        if let Err(e) = self.put(OpenInode { ino, inode }) {
            self.renamed.damage.push(e);
        }
    }

    fn put_blocks(&mut self, blocks: Blocks) -> Result<()> {
        let mut handle = self.journal.start(blocks.len() as u32)?;
        blocks.into_values().try_for_each(|(block, bytes)| handle.write(block, bytes.into()))
    }

    pub(super) fn put(&mut self, mut o: OpenInode) -> Result<()> {
        let mut handle = self.journal.start(1)?;
        self.fs.edit(&mut handle).put(&mut o)
    }

    fn directory(&mut self, mut dir: OpenInode) -> Result<()> {
        let volume = &self.fs.volume;
        let (format, folds) = (volume.dir_format(dir.owner()), volume.folds_case(dir.owner()));
        let size = dir.inode.size().div_ceil(volume.geometry().block_size.into());
        let mut blocks = Blocks::new();
        for e in volume.extents(dir.owner())? {
            for n in 0..e.len.min(u32::try_from(size).unwrap_or(u32::MAX)) {
                let block = e.pblk.saturating_add(n.into());
                if blocks.len() as u64 > volume.geometry().blocks_count {
                    return Err(bad(dir.ino, "more blocks than there are"));
                }
                blocks.insert(e.lblk.saturating_add(n), (block, volume.block(block)?.into_owned()));
            }
        }
        let seed = volume.inode_seed(dir.ino, &dir.inode).unwrap_or(0);
        let keep = (dir.ino == Ino::ROOT).then_some(b"lost+found".as_slice());
        let mut names = Names::new(dir.ino, folds);
        names.taken.extend(keep.map(<[u8]>::to_vec));
        let htree = volume.htree_format(dir.owner());
        let (mut nodes, mut ready) = (BTreeSet::new(), Slots::new());
        if volume.is_indexed(dir.owner()) {
            let index = Index::read(volume, &dir, &blocks)?;
            nodes.extend(index.nodes.iter().copied());
            if let Some(slots) = index.names(&lengths(&blocks, &nodes, format, keep)?, &mut names) {
                ready = slots;
                for lblk in &nodes {
                    if let Some((_, bytes)) = blocks.get_mut(lblk) {
                        wipe_node(bytes, *lblk, htree, seed)?;
                    }
                }
            } else {
                flatten(&mut blocks, &nodes, format, seed)?;
                nodes.clear();
                names.taken.retain(|n| keep == Some(n.as_slice()));
                dir.set(InodeFlags::INDEX, false);
                self.renamed.flattened.push(dir.ino);
            }
        }
        for (lblk, (_, bytes)) in blocks.iter_mut().filter(|(lblk, _)| !nodes.contains(lblk)) {
            let mut next = |len| match ready.get_mut(&(*lblk, len)).and_then(Vec::pop) {
                Some(name) => name,
                None => names.fresh(len),
            };
            self.renamed.names += rename_list(bytes, format, keep, &mut next)?;
            dirent::stamp(bytes, seed);
        }
        self.put_blocks(blocks)?;
        self.put(dir)
    }

    fn inline_directory(&mut self, mut dir: OpenInode) -> Result<()> {
        let volume = &self.fs.volume;
        let format = DirFormat { tail: false, ..volume.dir_format(dir.owner()) };
        let mut data = InlineData::read(&dir.inode)?;
        let mut names = Names::new(dir.ino, volume.folds_case(dir.owner()));
        for list in data.lists_mut().into_iter().filter(|l| !l.is_empty()) {
            self.renamed.names += rename_list(list, format, None, &mut |len| names.fresh(len))?;
        }
        let content = data.content(dir.inode.size())?;
        self.store_inline(&mut dir, &content)
    }

    pub(super) fn store_inline(&mut self, o: &mut OpenInode, content: &[u8]) -> Result<()> {
        let mut handle = self.journal.start(1)?;
        let mut edit = self.fs.edit(&mut handle);
        if !edit.write_inline(o, content)? {
            return Err(bad(o.ino, "inline data that has no room"));
        }
        edit.put(o)
    }

    fn symlink(&mut self, mut link: OpenInode) -> Result<()> {
        let volume = &self.fs.volume;
        let len = usize::try_from(link.inode.size()).unwrap_or(usize::MAX).min(volume.geometry().block_size as usize);
        let target = Names::new(link.ino, true).draw(len);
        self.renamed.names += 1;
        if volume.is_fast_symlink(&link.inode) {
            let mut area = [0; 60];
            area.iter_mut().zip(target).for_each(|(to, b)| *to = b);
            link.inode.update(|c| c.block = area);
            return self.put(link);
        }
        if link.has(InodeFlags::INLINE_DATA) {
            return self.store_inline(&mut link, &target);
        }
        let block_size = volume.geometry().block_size as usize;
        let blocks = volume.extents(link.owner())?;
        let mut content = target;
        content.resize(block_size, 0);
        for e in blocks {
            for n in 0..u64::from(e.len) {
                // A target has one block; more of them are damage, and hold nothing.
                let bytes = std::mem::replace(&mut content, vec![0; block_size]);
                self.journal.start(1)?.write(e.pblk.saturating_add(n), bytes.into())?;
            }
        }
        Ok(())
    }

    /// Inodes that are not in use may hold targets and inline directories.
    fn wipe_inodes(&mut self) -> Result<()> {
        let geo = self.fs.volume.geometry();
        let (groups, per_group, inode_size) = (geo.groups, geo.inodes_per_group, usize::from(geo.inode_size));
        let per_block = geo.block_size / u32::from(geo.inode_size.max(1));
        for group in (0..groups).map(Group) {
            let Ok(desc) = self.fs.volume.group(group) else { continue };
            if self.fs.volume.is_inode_uninit(&desc) {
                continue;
            }
            let map = self.fs.volume.inode_bitmap(group).map(std::borrow::Cow::into_owned).unwrap_or_default();
            for first in (0..per_group).step_by(per_block.max(1) as usize) {
                let block = desc.inode_table().saturating_add(u64::from(first / per_block.max(1)));
                if !self.fs.volume.geometry().has_block(block) {
                    continue;
                }
                let Ok(bytes) = self.journal.block(block) else { continue };
                let idle = |(n, slot): &(usize, &[u8])| {
                    let marked = map.is_empty() || bitmap::test(&map, first as usize + n);
                    let linked = !matches!(slot.get(26..28), Some([0, 0]));
                    !marked && !linked && slot.iter().any(|b| *b != 0)
                };
                let wiped: Vec<usize> =
                    bytes.chunks_exact(inode_size).enumerate().filter(idle).map(|(n, _)| n).collect();
                if wiped.is_empty() {
                    continue;
                }
                let mut handle = self.journal.start(1)?;
                modify_block(&mut handle, block, |bytes| {
                    for n in wiped {
                        bytes.get_mut(n * inode_size..(n + 1) * inode_size).unwrap_or_default().fill(0);
                    }
                })?;
            }
        }
        Ok(())
    }
}

/// How many names of each length the leaves of an index have.
fn lengths(
    blocks: &Blocks,
    nodes: &BTreeSet<Lblk>,
    format: DirFormat,
    keep: Option<&[u8]>,
) -> Result<BTreeMap<usize, BTreeMap<Lblk, usize>>> {
    let mut all: BTreeMap<usize, BTreeMap<Lblk, usize>> = BTreeMap::new();
    for (lblk, (_, bytes)) in blocks.iter().filter(|(lblk, _)| !nodes.contains(lblk)) {
        for entry in dirent::entries(bytes, format) {
            let e = entry?;
            if e.is_used() && !is_dot_or_dotdot(e.name) && keep != Some(e.name) {
                *all.entry(e.name.len()).or_default().entry(*lblk).or_default() += 1;
            }
        }
    }
    Ok(all)
}

/// Write an index node anew: what is behind its entries goes.
fn wipe_node(bytes: &mut [u8], lblk: Lblk, format: HtreeFormat, seed: u32) -> Result<()> {
    let root = lblk.0 == 0;
    let node = if root { DxNode::decode_root(bytes, format)? } else { DxNode::decode_node(bytes, format)? };
    let mut new = vec![0; bytes.len()];
    for at in [7, 19] {
        // The types of . and .., where there are any.
        if let (true, Some(to), Some(from)) = (root, new.get_mut(at), bytes.get(at)) {
            *to = *from;
        }
    }
    node.encode_into(&mut new, false);
    htree::stamp(&mut new, seed);
    bytes.copy_from_slice(&new);
    Ok(())
}

/// Make blocks of entries of the nodes of an index: the root has `.` and `..`, the others nothing.
fn flatten(blocks: &mut Blocks, nodes: &BTreeSet<Lblk>, format: DirFormat, seed: u32) -> Result<()> {
    for lblk in nodes {
        let Some((_, bytes)) = blocks.get_mut(lblk) else { continue };
        let old = std::mem::take(bytes);
        let mut new = vec![0; old.len()];
        if lblk.0 == 0 {
            let mut packer = DirPacker::new(&mut new, format);
            for entry in dirent::entries(&old, DirFormat { tail: false, ..format }).take(2) {
                let e = entry?;
                let hash = DirHash { hash: 0, minor: 0 };
                let new = NewDirent { ino: e.ino, name: e.name, file_type: e.file_type, hash };
                if !is_dot_or_dotdot(e.name) || !packer.push(&new) {
                    return Err(bad(e.ino, "the root does not start with . and .."));
                }
            }
            packer.finish(seed);
        } else {
            dirent::init_empty(&mut new, format);
            dirent::stamp(&mut new, seed);
        }
        *bytes = new;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dirhash::HashVersion;
    use crate::format::htree::RootInfo;

    #[test]
    fn an_index_that_is_given_up_leaves_blocks_of_entries() {
        let tree = HtreeFormat { block_size: 1024, checksums: true, hash_in_entry: false, large_dir: false };
        let info = RootInfo {
            dot: Ino(20),
            dotdot: Ino(2),
            hash_version: HashVersion::HalfMd4,
            indirect_levels: 1,
            unused_flags: 0,
        };
        let (mut root, mut node) = (vec![0; 1024], vec![0; 1024]);
        DxNode::new_root(info, vec![DxEntry::new(0, Lblk(1))], tree).encode_into(&mut root, true);
        DxNode::new_node(vec![DxEntry::new(0, Lblk(2)), DxEntry::new(8, Lblk(3))], tree).encode_into(&mut node, true);
        let mut blocks = Blocks::from([(Lblk(0), (Fsblk(70), root)), (Lblk(1), (Fsblk(71), node))]);
        let format = DirFormat { filetype: true, hash_in_entry: false, tail: true };
        flatten(&mut blocks, &BTreeSet::from([Lblk(0), Lblk(1)]), format, 77).unwrap();
        let names = |lblk: u32| -> Vec<(Ino, Vec<u8>)> {
            let bytes = &blocks[&Lblk(lblk)].1;
            dirent::verify(bytes, 77).unwrap();
            let all = dirent::entries(bytes, format).map(Result::unwrap);
            all.filter(dirent::Dirent::is_used).map(|e| (e.ino, e.name.to_vec())).collect()
        };
        assert_eq!(names(0), [(Ino(20), b".".to_vec()), (Ino(2), b"..".to_vec())]);
        assert_eq!(names(1), []);
    }

    #[test]
    fn names_are_drawn_for_each_leaf_by_its_hashes() {
        let hasher = DirHasher::new(HashVersion::HalfMd4, [1, 2, 3, 4]);
        let leaves = vec![(0, Lblk(1)), (1 << 30, Lblk(2)), (0xc000_0000, Lblk(3))];
        let index = Index { hasher, leaves, nodes: vec![Lblk(0)] };
        let lengths =
            BTreeMap::from([(5, BTreeMap::from([(Lblk(1), 20), (Lblk(3), 7)])), (1, BTreeMap::from([(Lblk(2), 3)]))]);
        let slots = index.names(&lengths, &mut Names::new(Ino(12), false)).unwrap();
        assert_eq!(
            slots.iter().map(|(k, v)| (*k, v.len())).collect::<Vec<_>>(),
            [((Lblk(1), 5), 20), ((Lblk(2), 1), 3), ((Lblk(3), 5), 7)]
        );
        for ((leaf, len), names) in &slots {
            for name in names {
                assert_eq!((name.len(), index.leaf(index.hasher.hash(name).unwrap().hash)), (*len, Some(*leaf)));
            }
        }
        // There are not that many names of one byte.
        let lengths = BTreeMap::from([(1, BTreeMap::from([(Lblk(2), 300)]))]);
        assert!(index.names(&lengths, &mut Names::new(Ino(12), false)).is_none());
    }
}
