//! Pass 3A: a directory written anew from its entries, indexed where it has more than one block and the filesystem does that. Names that
//! are there twice are told apart; the same name for the same inode is kept once.

use std::collections::{BTreeMap, BTreeSet};

use super::map::{extents_of, write_map};
use super::work::{Work, raw};
use crate::error::{Error, Result};
use crate::format::casefold;
use crate::format::dirent::{self, DirFormat, DirPacker, NewDirent};
use crate::format::dirhash::{DirHash, DirHasher, HashVersion};
use crate::format::extent::Extent;
use crate::format::features::{Compat, Incompat};
use crate::format::htree::{self, DxEntry, DxNode, RootInfo};
use crate::format::inode::{FileType, InodeFlags};
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::store::AllocRequest;
use crate::volume::{Edit, OpenInode, dir_plan::LeafEntry};

/// Tries to find a name that is not there.
const MAX_RENAMES: u32 = 100_000;

/// An entry of `.` or `..`.
pub(super) const fn dot(ino: Ino, name: &[u8]) -> NewDirent<'_> {
    NewDirent { ino, name, file_type: FileType::Directory.dirent_code(), hash: DirHash { hash: 0, minor: 0 } }
}

/// A directory's entries, read as far as they can be.
struct Content {
    entries: Vec<LeafEntry>,
    dotdot: Ino,
}

/// Write directory `ino` anew.
pub(super) fn rebuild(work: &mut Work<'_, '_>, ino: Ino) -> Result<()> {
    let o = raw(work.vol(), ino)?;
    let ctx = work.ctx;
    if o.has(InodeFlags::INLINE_DATA) && ctx.geo.features.incompat.contains(Incompat::INLINE_DATA) {
        return inline(work, &o);
    }
    let Some(extents) = extents_of(ctx, &o) else { return Ok(()) };
    let mut written = None;
    // Where a kill may leave a part of it, nothing is written over.
    for in_place in [work.is_atomic(), true] {
        if written.is_none() {
            written = work.step(|edit| anew(edit, o.clone(), &extents, in_place))?;
        }
    }
    Ok(())
}

fn anew(edit: &mut Edit<'_>, o: OpenInode, extents: &[Extent], in_place: bool) -> Result<()> {
    let mut content = read(edit, &o, extents)?;
    let hasher = hasher(edit, &o);
    tell_apart(edit, &o, &mut content.entries);
    if let Some(h) = &hasher {
        hash(edit, &o, &mut content.entries, h);
    }
    write(edit, o, extents, &content, hasher, in_place)
}

/// The hash of the directory's index; `None` where it gets none.
fn hasher(edit: &Edit<'_>, o: &OpenInode) -> Option<DirHasher> {
    let sb = edit.vol.superblock();
    if !edit.vol.geometry().features.compat.contains(Compat::DIR_INDEX) {
        return None;
    }
    if edit.vol.dir_format(o.owner()).hash_in_entry {
        return None;
    }
    let version = HashVersion::from_disk(sb.def_hash_version, sb.misc_flags())?;
    edit.vol.dir_hasher(version)
}

fn read(edit: &Edit<'_>, o: &OpenInode, extents: &[Extent]) -> Result<Content> {
    let mut out = Content { entries: Vec::new(), dotdot: Ino::ROOT };
    let format = edit.vol.dir_format(o.owner());
    for (n, pblk) in blocks(extents).enumerate() {
        let bytes = edit.store.read(pblk)?;
        let indexed = o.has(InodeFlags::INDEX) && crate::volume::is_index_block(&bytes, Lblk(n as u32));
        if indexed && n > 0 {
            continue;
        }
        // The root of an index ends with another tail.
        let format = DirFormat { tail: format.tail && !indexed, ..format };
        for (i, e) in dirent::entries(&bytes, format).enumerate() {
            let e = e?;
            if n == 0 && i < 2 && dirent::is_dot_or_dotdot(e.name) {
                if i == 1 {
                    out.dotdot = e.ino;
                }
                continue;
            }
            if e.is_used() && !e.name.is_empty() {
                let hash = e.hash.unwrap_or_default();
                out.entries.push(LeafEntry { hash, ino: e.ino, file_type: e.file_type, name: e.name.to_vec() });
            }
        }
    }
    Ok(out)
}

fn blocks(extents: &[Extent]) -> impl Iterator<Item = Fsblk> + '_ {
    extents.iter().flat_map(|e| (0..u64::from(e.len)).map(|n| Fsblk(e.pblk.0 + n)))
}

/// Whether the directory compares names folded.
fn folds(edit: &Edit<'_>, o: &OpenInode) -> bool {
    edit.vol.geometry().features.incompat.contains(Incompat::CASEFOLD)
        && o.has(InodeFlags::CASEFOLD)
        && !o.has(InodeFlags::ENCRYPT)
}

fn hash(edit: &Edit<'_>, o: &OpenInode, entries: &mut [LeafEntry], hasher: &DirHasher) {
    let folds = folds(edit, o);
    for e in entries {
        let done = if folds { hasher.hash(&casefold::key(&e.name)) } else { hasher.hash(&e.name) };
        e.hash = done.unwrap_or_default();
    }
}

/// Drop entries that are there twice for the same inode; give others new names.
#[doc(alias = "duplicate_search_and_fix")]
fn tell_apart(edit: &Edit<'_>, o: &OpenInode, entries: &mut Vec<LeafEntry>) {
    if o.has(InodeFlags::ENCRYPT) {
        return;
    }
    let strict = folds(edit, o) && edit.vol.superblock().encoding_flags.get() & casefold::ENCODING_STRICT != 0;
    let key = |name: &[u8]| if strict { casefold::key(name).into_owned() } else { name.to_vec() };
    let mut names: BTreeMap<Vec<u8>, Ino> = BTreeMap::new();
    let mut later = Vec::new();
    for (i, e) in entries.iter().enumerate() {
        match names.get(&key(&e.name)) {
            Some(_) => later.push(i),
            None => {
                names.insert(key(&e.name), e.ino);
            }
        }
    }
    let mut gone = Vec::new();
    let mut dropped = BTreeSet::new();
    for i in later {
        let Some(e) = entries.get_mut(i) else { continue };
        // A third one is kept under another name.
        if names.get(&key(&e.name)) == Some(&e.ino) && dropped.insert(e.name.clone()) {
            gone.push(i);
            continue;
        }
        for _ in 0..MAX_RENAMES {
            mutate(&mut e.name);
            if !names.contains_key(&key(&e.name)) {
                break;
            }
        }
        names.insert(key(&e.name), e.ino);
    }
    for i in gone.into_iter().rev() {
        entries.remove(i);
    }
}

/// Another name, like this one: with `~0` at its end, or the number there counted up. The rules are the reference's, so that
/// names come out alike.
#[doc(alias = "mutate_name")]
fn mutate(name: &mut Vec<u8>) {
    let len = name.len();
    let digits = name.iter().rev().take_while(|c| c.is_ascii_digit()).count().min(len.saturating_sub(1));
    let tilde = digits > 0 && name.get(len - 1 - digits) == Some(&b'~');
    if !tilde {
        let new = if (len.wrapping_sub(1)) & 3 < 2 { len + 2 } else { (len + 3) & !3 };
        let new = new.clamp(2, 255);
        name.resize(new, b'~');
        name[new - 2] = b'~';
        name[new - 1] = b'0';
        return;
    }
    for i in (0..len).rev() {
        match name[i] {
            b'9' => name[i] = b'0',
            b'0'..=b'8' => {
                name[i] += 1;
                return;
            }
            _ if i > 1 => {
                name[i] = b'1';
                name[i - 1] = b'~';
                return;
            }
            _ => {
                name[0] = match name[0] {
                    b'z' => b'A',
                    b'Z' | b'~' => b'a',
                    c => c.wrapping_add(1).max(b'!'),
                };
                return;
            }
        }
    }
}

/// Leaves: entries in order, as many in each as fit. The first leaf of a directory without an index starts with `.` and `..`.
fn leaves<'e>(
    edit: &Edit<'_>,
    o: &OpenInode,
    dots: &[NewDirent<'_>],
    entries: &'e [LeafEntry],
) -> Vec<&'e [LeafEntry]> {
    let format = edit.vol.dir_format(o.owner());
    let tail = if format.tail { dirent::TAIL_SIZE } else { 0 };
    let room = edit.block_size() - tail;
    let mut left = room - dots.iter().map(|d| d.need(format)).sum::<usize>();
    let mut out = Vec::new();
    let mut from = 0;
    for (i, e) in entries.iter().enumerate() {
        let need = e.as_new().need(format);
        if need > left {
            out.push(&entries[from..i]);
            (from, left) = (i, room);
        }
        left -= need;
    }
    out.push(&entries[from..]);
    out
}

fn write(
    edit: &mut Edit<'_>,
    mut o: OpenInode,
    extents: &[Extent],
    content: &Content,
    hasher: Option<DirHasher>,
    in_place: bool,
) -> Result<()> {
    let dots = [dot(o.ino, b"."), dot(content.dotdot, b"..")];
    let mut entries = content.entries.clone();
    let linear = leaves(edit, &o, &dots, &entries).len();
    let mut images: Vec<Vec<u8>> = Vec::new();
    let mut indexed = false;
    if let (Some(_), true) = (&hasher, linear > 1) {
        entries.sort_by(|a, b| a.hash.hash.cmp(&b.hash.hash).then_with(|| a.name.cmp(&b.name)));
        let parts = leaves(edit, &o, &[], &entries);
        if let Some(tree) = index(edit, &o, content.dotdot, &parts) {
            images = tree;
            indexed = true;
        } else {
            entries.clone_from(&content.entries);
        }
    }
    if !indexed {
        for (i, part) in leaves(edit, &o, &dots, &entries).into_iter().enumerate() {
            images.push(leaf(edit, &o, if i == 0 { &dots } else { &[] }, part)?);
        }
    }
    o.set(InodeFlags::INDEX, indexed);
    store(edit, o, extents, &images, in_place || images.len() == 1)
}

fn leaf(edit: &Edit<'_>, o: &OpenInode, dots: &[NewDirent<'_>], part: &[LeafEntry]) -> Result<Vec<u8>> {
    let mut bytes = vec![0; edit.block_size()];
    let mut packer = DirPacker::new(&mut bytes, edit.vol.dir_format(o.owner()));
    for d in dots {
        let _ = packer.push(d);
    }
    for e in part {
        if !packer.push(&e.as_new()) {
            return Err(Error::NoSpace { what: "bytes of a directory block", need: e.name.len() as u64, have: 0 });
        }
    }
    packer.finish(edit.seed(o).unwrap_or(0));
    Ok(bytes)
}

/// Root, nodes and leaves, in the order of their logical blocks: root, leaves, nodes. `None` where the index would be too deep.
fn index(edit: &Edit<'_>, o: &OpenInode, dotdot: Ino, parts: &[&[LeafEntry]]) -> Option<Vec<Vec<u8>>> {
    let format = edit.vol.htree_format(o.owner());
    let filetype = edit.vol.geometry().features.incompat.contains(Incompat::FILETYPE);
    let version = HashVersion::from_disk(edit.vol.superblock().def_hash_version, edit.vol.superblock().misc_flags())?;
    let seed = edit.seed(o);
    let mut images: Vec<Vec<u8>> = vec![Vec::new()];
    let mut level = Vec::new();
    let mut last: Option<u32> = None;
    for part in parts {
        let first = part.first().map_or(0, |e| e.hash.hash);
        let continued = last == Some(first);
        level.push(DxEntry::new(first | u32::from(continued), Lblk(images.len() as u32)));
        last = part.last().map(|e| e.hash.hash);
        images.push(leaf(edit, o, &[], part).ok()?);
    }
    let mut levels = 0;
    while level.len() > usize::from(format.root_limit()) {
        levels += 1;
        if levels > format.max_indirect_levels() {
            return None;
        }
        let mut above = Vec::new();
        for group in level.chunks(usize::from(format.node_limit())) {
            above.push(DxEntry::new(group.first()?.hash, Lblk(images.len() as u32)));
            images.push(node(edit, &DxNode::new_node(first_zero(group), format), filetype, seed));
        }
        level = above;
    }
    let info = RootInfo { dot: o.ino, dotdot, hash_version: version, indirect_levels: levels, unused_flags: 0 };
    images[0] = node(edit, &DxNode::new_root(info, first_zero(&level), format), filetype, seed);
    Some(images)
}

fn first_zero(entries: &[DxEntry]) -> Vec<DxEntry> {
    let mut all = entries.to_vec();
    if let Some(first) = all.first_mut() {
        first.hash = 0;
    }
    all
}

fn node(edit: &Edit<'_>, node: &DxNode, filetype: bool, seed: Option<u32>) -> Vec<u8> {
    let mut bytes = vec![0; edit.block_size()];
    node.encode_into(&mut bytes, filetype);
    if let Some(seed) = seed {
        htree::stamp(&mut bytes, seed);
    }
    bytes
}

/// Put blocks where the directory has its own (`in_place`), and into new ones behind; give up those that are left.
fn store(edit: &mut Edit<'_>, mut o: OpenInode, extents: &[Extent], images: &[Vec<u8>], in_place: bool) -> Result<()> {
    let mut places: Vec<Fsblk> = blocks(extents).take(if in_place { images.len() } else { 0 }).collect();
    let have = extents.iter().map(|e| e.len as usize).sum::<usize>();
    let ratio = edit.vol.geometry().cluster_ratio;
    while places.len() < images.len() {
        let goal = places.last().map_or_else(|| blocks(extents).next().unwrap_or_default(), |b| Fsblk(b.0 + 1));
        let within = places.len() as u32 % ratio;
        // Behind a block that has room in its cluster.
        if ratio > 1 && within > 0 {
            places.push(goal);
            continue;
        }
        let got = edit.alloc.allocate(edit.vol, edit.store, AllocRequest::metadata(o.ino, goal))?;
        places.push(got.start);
    }
    for (at, bytes) in places.iter().zip(images) {
        edit.store.create(*at, bytes.clone().into())?;
    }
    o.inode.set_size((images.len() * edit.block_size()) as u64);
    let dense = extents.first().is_none_or(|e| e.lblk.0 == 0)
        && extents.windows(2).all(|w| w[0].end() == u64::from(w[1].lblk.0));
    if in_place && places.len() == have && dense {
        return edit.put(&mut o);
    }
    let mut map: Vec<Extent> = Vec::new();
    for (n, at) in places.iter().enumerate() {
        match map.last_mut() {
            Some(l) if l.pblk.0 + u64::from(l.len) == at.0 && l.len < 1 << 14 => l.len += 1,
            _ => map.push(Extent { lblk: Lblk(n as u32), len: 1, pblk: *at, unwritten: false }),
        }
    }
    write_map(edit, o, &map)
}

/// An inline directory: entries are written one after the other again.
fn inline(work: &mut Work<'_, '_>, o: &OpenInode) -> Result<()> {
    work.step(|edit| {
        let entries = edit.vol.read_dir(o.owner())?;
        let mut all: Vec<LeafEntry> = entries
            .into_iter()
            .map(|e| LeafEntry {
                hash: DirHash::default(),
                ino: e.ino,
                file_type: e.file_type.map_or(0, FileType::dirent_code),
                name: e.name,
            })
            .collect();
        tell_apart(edit, o, &mut all);
        let mut dir = o.clone();
        let parent = crate::format::inline_data::InlineData::read(&dir.inode)?.parent();
        let empty = crate::format::inline_data::InlineData::empty_directory(parent);
        let bytes = empty.content(crate::format::inode::BLOCK_LEN as u64)?;
        edit.write_inline(&mut dir, &bytes)?;
        for e in &all {
            let kind = FileType::from_dirent_code(e.file_type).unwrap_or(FileType::Regular);
            edit.add_entry(&mut dir, &e.name, e.ino, kind)?;
        }
        edit.put(&mut dir)
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let next = |name: &str| {
            let mut n = name.as_bytes().to_vec();
            mutate(&mut n);
            String::from_utf8(n).unwrap()
        };
        assert_eq!(next("modules.conf.o"), "modules.conf.o~0");
        assert_eq!(next("abcd"), "ab~0");
        assert_eq!(next("abcde~0"), "abcde~1");
        assert_eq!(next("abcde~9"), "abcd~10");
    }
}
