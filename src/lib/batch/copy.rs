//! Files of a source copied into the image, merged with what is there. Paths are those in the image, from its root.
//!
//! Rules: directories are merged; a file replaces the content of a file that has its name and leaves its inode; anything
//! else that is not a directory is replaced by name, so symbolic links of the image are not written through. A directory
//! does not replace a file, nor a file a directory, unless what is there is to be made equal ([`CopyOptions::sync`]).

use std::collections::HashMap;
use std::sync::Arc;

use super::contents::{Origin, fill};
use super::session::Session;
use super::{Action, ModeChange, Report, Watch, join};
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::extract::Preserve;
use crate::format::inode::{FileType, InodeFlags, TimeField, decode_time};
use crate::namei::{Attributes, Change, Namei, What};
use crate::source::Reader;
use crate::source::tree::{Data, Node, NodeId};
use crate::units::Ino;
use crate::volume::edit::OpenInode;
use crate::volume::{Owner, Volume};

/// Bytes that are compared at a time, a multiple of every cluster size that is worth comparing by clusters.
const PIECE: usize = 1 << 20;

/// How files are copied.
#[derive(Clone, Debug, Default)]
pub struct CopyOptions {
    /// What is kept of the source's metadata. What is not kept is as for root's new files, with the source's permissions but
    /// no set-id bits.
    pub preserve: Preserve,
    /// Owner, whatever the source says.
    pub uid: Option<u32>,
    /// Group, whatever the source says.
    pub gid: Option<u32>,
    /// Changes the permissions of everything but symbolic links.
    pub mode: Option<ModeChange>,
    /// Modification time, whatever the source says.
    pub mtime: Option<Timestamp>,
    /// Leave what is there; only what is missing is copied.
    pub keep: bool,
    /// Make what is there equal, changing only what differs.
    pub sync: bool,
    /// In directories that are copied, remove what the source does not have.
    pub delete: bool,
}

/// One copy under way.
pub(super) struct Copier<'a> {
    pub(super) session: &'a mut Session,
    pub(super) options: &'a CopyOptions,
    pub(super) watch: &'a mut dyn Watch,
    pub(super) report: &'a mut Report,
    origin: &'a Arc<Origin>,
    reader: Box<dyn Reader + 'a>,
    /// What nodes with several names became.
    linked: HashMap<NodeId, Ino>,
}

/// A directory whose entries are being copied.
struct Frame {
    node: NodeId,
    ino: Ino,
    path: Vec<u8>,
    next: usize,
    is_new: bool,
}

impl<'a> Copier<'a> {
    pub(super) fn new(
        session: &'a mut Session,
        origin: &'a Arc<Origin>,
        options: &'a CopyOptions,
        watch: &'a mut dyn Watch,
        report: &'a mut Report,
    ) -> Result<Self> {
        let reader = origin.source.reader(&origin.tree)?;
        Ok(Self { session, options, watch, report, origin, reader, linked: HashMap::new() })
    }

    /// Copy a node as `name` in `dir`, whose path is `parent`, with all that is below.
    pub(super) fn copy(&mut self, id: NodeId, dir: Ino, parent: &[u8], name: &[u8]) -> Result<()> {
        let path = join(parent, name);
        if let Some(frame) = self.place(id, dir, false, name, path)? { self.walk(frame) } else { Ok(()) }
    }

    /// Copy what is in a directory of the source into directory `ino`, which gets the source's attributes where they are
    /// preserved.
    pub(super) fn merge(&mut self, id: NodeId, ino: Ino, path: &[u8]) -> Result<()> {
        self.walk(Frame { node: id, ino, path: path.to_vec(), next: 0, is_new: false })
    }

    fn walk(&mut self, top: Frame) -> Result<()> {
        let mut stack = vec![top];
        while let Some(frame) = stack.last_mut() {
            if frame.next == 0 && self.options.delete && !frame.is_new {
                let (node, ino, path) = (frame.node, frame.ino, frame.path.clone());
                self.remove_others(node, ino, &path)?;
            }
            let node = self.origin.node(frame.node)?;
            if let Some(entry) = self.origin.tree.dir_entries(node).get(frame.next) {
                frame.next += 1;
                let name = self.origin.tree.name(entry.name);
                let (dir, is_new, path) = (frame.ino, frame.is_new, join(&frame.path, name));
                stack.extend(self.place(entry.node, dir, is_new, name, path)?);
                continue;
            }
            if let Some(done) = stack.pop() {
                self.attributes(done.node, done.ino, done.is_new, &done.path)?;
            }
        }
        Ok(())
    }

    /// Copy one node into a directory, which may be a new one; a directory's frame, whose entries are to be copied.
    fn place(&mut self, id: NodeId, dir: Ino, dir_is_new: bool, name: &[u8], path: Vec<u8>) -> Result<Option<Frame>> {
        let old = |n: &mut Namei<'_>| n.lookup(dir, name)?.map(|ino| n.open(ino)).transpose();
        let old = if dir_is_new { None } else { self.session.run(old).map_err(|e| e.about(&path))? };
        let frame = self.place_at(id, dir, name, &path, old).map_err(|e| e.about(&path))?;
        Ok(frame.map(|(ino, is_new)| Frame { node: id, ino, path, next: 0, is_new }))
    }

    fn place_at(
        &mut self,
        id: NodeId,
        dir: Ino,
        name: &[u8],
        path: &[u8],
        old: Option<OpenInode>,
    ) -> Result<Option<(Ino, bool)>> {
        let node = self.origin.node(id)?;
        if node.is_dir() {
            return self.directory(node, dir, name, path, old);
        }
        if self.options.keep && old.is_some() {
            self.report.skipped += 1;
            return Ok(None);
        }
        let links = self.options.preserve.links && node.links > 1;
        if let Some(&made) = self.linked.get(&id).filter(|_| links) {
            self.link(made, dir, name, path, old)?;
            return Ok(None);
        }
        let ino = match old {
            Some(old) => self.replace(id, node, dir, name, path, &old)?,
            None => self.make(id, node, dir, name, path)?,
        };
        if links {
            self.linked.insert(id, ino);
        }
        Ok(None)
    }

    fn directory(
        &mut self,
        node: &Node,
        dir: Ino,
        name: &[u8],
        path: &[u8],
        old: Option<OpenInode>,
    ) -> Result<Option<(Ino, bool)>> {
        match old {
            Some(old) if old.is_dir() => return Ok(Some((old.ino, false))),
            Some(_) if self.options.keep => {
                self.report.skipped += 1;
                return Ok(None);
            }
            Some(_) if self.options.sync => self.remove(dir, name, path)?,
            Some(_) => return Err(Error::NotDirectory { path: path.to_vec() }),
            None => {}
        }
        let attributes = self.new_attributes(node);
        let ino = self.session.run(|n| Ok(n.make_absent(dir, name, What::Directory, &attributes)?.ino))?;
        self.report.directories += 1;
        self.tell(Action::Make, path);
        Ok(Some((ino, true)))
    }

    /// Another name for a node that was copied already.
    fn link(&mut self, made: Ino, dir: Ino, name: &[u8], path: &[u8], old: Option<OpenInode>) -> Result<()> {
        match old {
            Some(old) if old.ino == made => return Ok(()),
            Some(old) if old.is_dir() && !self.options.sync => return Err(Error::IsDirectory { path: path.to_vec() }),
            Some(_) => self.remove(dir, name, path)?,
            None => {}
        }
        self.session.run(|n| n.link(made, dir, name))?;
        self.report.links += 1;
        self.tell(Action::Link, path);
        Ok(())
    }

    /// Something has the name already.
    fn replace(&mut self, id: NodeId, node: &Node, dir: Ino, name: &[u8], path: &[u8], old: &OpenInode) -> Result<Ino> {
        if old.is_dir() && !self.options.sync {
            return Err(Error::IsDirectory { path: path.to_vec() });
        }
        let same_type = old.inode.file_type() == Some(node.file_type());
        // Other names of what is there keep their content, unless they are the source's as well.
        let same_links = self.options.preserve.links && u32::from(old.links()) == node.links;
        let shared = self.options.sync && old.links() > 1 && !same_links;
        if same_type && node.file_type() == FileType::Regular && !shared {
            if self.options.sync {
                self.sync_content(id, node, path, old)?;
            } else {
                self.put_content(old.ino, id, path)?;
                self.report.files += 1;
                self.report.bytes += node.size;
                self.tell(Action::Write, path);
            }
            self.attributes(id, old.ino, false, path)?;
            return Ok(old.ino);
        }
        if self.options.sync && same_type && !shared && self.same_special(node, old)? {
            self.attributes(id, old.ino, false, path)?;
            return Ok(old.ino);
        }
        self.remove(dir, name, path)?;
        self.make(id, node, dir, name, path)
    }

    /// Whether a link has the same target, a device the same numbers.
    fn same_special(&self, node: &Node, old: &OpenInode) -> Result<bool> {
        Ok(match node.data {
            Data::Symlink(_) => self.session.volume().symlink_target(old.owner())? == self.origin.tree.target(node),
            Data::Device(major, minor) => old.inode.device_numbers() == (major, minor),
            Data::Special => true,
            _ => false,
        })
    }

    fn make(&mut self, id: NodeId, node: &Node, dir: Ino, name: &[u8], path: &[u8]) -> Result<Ino> {
        let target = self.origin.tree.target(node);
        let what = match (node.data, node.file_type()) {
            (Data::Symlink(_), _) => What::Symlink(target),
            (Data::Device(major, minor), kind) => What::Device { block: kind == FileType::BlockDevice, major, minor },
            (Data::Special, FileType::Socket) => What::Socket,
            (Data::Special, _) => What::Fifo,
            _ => What::File,
        };
        let attributes = self.new_attributes(node);
        let ino = self.session.run(|n| Ok(n.make_absent(dir, name, what, &attributes)?.ino))?;
        if what == What::File {
            if node.size > 0 {
                self.put_content(ino, id, path)?;
            }
            self.report.files += 1;
            self.report.bytes += node.size;
        } else {
            self.report.others += 1;
        }
        self.attributes(id, ino, true, path)?;
        self.tell(Action::Make, path);
        Ok(ino)
    }

    fn put_content(&mut self, ino: Ino, id: NodeId, path: &[u8]) -> Result<()> {
        let route = self.session.put_content(ino, self.origin, id, &mut *self.reader)?;
        if self.session.is_through() {
            self.watch.route(path, route);
        }
        Ok(())
    }

    /// Make a file's content equal to the source's, writing only what differs.
    fn sync_content(&mut self, id: NodeId, node: &Node, path: &[u8], old: &OpenInode) -> Result<()> {
        let differing = if old.inode.size() == node.size { self.differing(id, node, old)? } else { None };
        let Some(ranges) = differing else {
            self.put_content(old.ino, id, path)?;
            self.report.files += 1;
            self.report.bytes += node.size;
            self.tell(Action::Write, path);
            return Ok(());
        };
        if ranges.is_empty() {
            self.report.same += 1;
            return Ok(());
        }
        for (from, to) in ranges {
            let extents = self.session.run_on_content(old.ino, |n| {
                let mut o = n.open(old.ino)?;
                n.replace_blocks(&mut o, from, to)
            })?;
            self.report.bytes += (to - from) * u64::from(self.session.volume().geometry().block_size);
            self.session.await_content(old.ino, self.origin, id, extents);
        }
        self.report.files += 1;
        self.tell(Action::Write, path);
        Ok(())
    }

    /// Ranges of blocks, whole clusters, in which a file of the same size differs from the source; `None` where it is to be
    /// written whole.
    fn differing(&mut self, id: NodeId, node: &Node, old: &OpenInode) -> Result<Option<Vec<(u64, u64)>>> {
        self.session.write_contents()?;
        let geo = self.session.volume().geometry();
        let (bs, ratio) = (u64::from(geo.block_size), u64::from(geo.cluster_ratio));
        let cluster = (bs * ratio) as usize;
        let least = usize::try_from(node.size).unwrap_or(PIECE).clamp(1, PIECE);
        let piece = least.next_multiple_of(cluster);
        let segments = self.origin.segments(node);
        let file = self.session.volume().reader(old.owner())?;
        let (mut ours, mut theirs) = (vec![0; piece], vec![0; piece]);
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut differ = 0;
        self.reader.open(id)?;
        let mut at = 0;
        while at < node.size {
            ours.fill(0);
            theirs.fill(0);
            file.read_at(at, &mut ours)?;
            fill(&mut theirs, at, &segments, node.size, &mut *self.reader)?;
            for (i, (a, b)) in ours.chunks(cluster).zip(theirs.chunks(cluster)).enumerate() {
                let from = at / bs + i as u64 * ratio;
                if a == b || from * bs >= node.size {
                    continue;
                }
                differ += ratio;
                match ranges.last_mut() {
                    Some((_, end)) if *end == from => *end += ratio,
                    _ => ranges.push((from, from + ratio)),
                }
            }
            at += piece as u64;
        }
        self.reader.close()?;
        let blocks = node.size.div_ceil(bs);
        if let Some((_, end)) = ranges.last_mut() {
            *end = (*end).min(blocks);
        }
        // Many pieces cost more than they spare; content inside the inode has no blocks.
        let whole = old.has(InodeFlags::INLINE_DATA) || differ * 2 > blocks || ranges.len() > 256;
        Ok(Some(ranges).filter(|r| r.is_empty() || !whole))
    }

    /// Remove what is in directory `ino` and not in the source's.
    fn remove_others(&mut self, id: NodeId, ino: Ino, path: &[u8]) -> Result<()> {
        let node = self.origin.node(id)?;
        let tree = &self.origin.tree;
        let entries = tree.dir_entries(node);
        let dir = self.session.run(|n| n.open(ino))?;
        let there = self.session.volume().read_dir(dir.owner())?;
        for entry in there {
            let lost_found = ino == Ino::ROOT && entry.name == b"lost+found";
            let wanted = entries.binary_search_by(|e| tree.name(e.name).cmp(&entry.name)).is_ok();
            if !wanted && !lost_found {
                let path = join(path, &entry.name);
                self.remove(ino, &entry.name, &path).map_err(|e| e.about(&path))?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, dir: Ino, name: &[u8], path: &[u8]) -> Result<()> {
        self.session.run_steps(|n| n.remove_tree(dir, name))?;
        self.report.removed += 1;
        self.tell(Action::Remove, path);
        Ok(())
    }

    /// Permissions, owner and group that an object of the source gets.
    fn wanted(&self, node: &Node) -> (u16, u32, u32) {
        let keep = self.options.preserve;
        let kept = if keep.mode { node.mode & 0o7777 } else { node.mode & 0o777 };
        let permissions = match &self.options.mode {
            Some(change) if node.file_type() != FileType::Symlink => change.apply(kept, node.is_dir()),
            _ => kept,
        };
        let owner = if keep.owner { (node.uid, node.gid) } else { (0, 0) };
        (permissions, self.options.uid.unwrap_or(owner.0), self.options.gid.unwrap_or(owner.1))
    }

    /// Whether the source does not say what a directory's attributes are.
    fn is_implied(&self, id: NodeId) -> bool {
        self.origin.tree.implied.binary_search(&id).is_ok()
    }

    fn mtime(&self, node: &Node) -> Option<Timestamp> {
        let own = self.options.preserve.times.then(|| decode_time(node.mtime.0, node.mtime.1));
        self.options.mtime.or(own)
    }

    fn new_attributes(&self, node: &Node) -> Attributes {
        let (permissions, uid, gid) = self.wanted(node);
        Attributes { permissions, uid, gid, inherit: !self.options.preserve.mode, mtime: self.mtime(node) }
    }

    /// Bring an object's attributes to what they should be. Those of an object that was there before change only where the
    /// source's are preserved or others were asked for.
    fn attributes(&mut self, id: NodeId, ino: Ino, is_new: bool, path: &[u8]) -> Result<()> {
        let node = self.origin.node(id)?;
        if !is_new && self.is_implied(id) {
            return Ok(());
        }
        let keep = self.options.preserve;
        let mut changed = false;
        if keep.xattrs || keep.mode {
            changed = self.xattrs(id, ino, path)?;
        }
        let (permissions, uid, gid) = self.wanted(node);
        let own = |asked: bool, kept: bool| asked || kept;
        let symlink = node.file_type() == FileType::Symlink;
        let change = Change {
            permissions: (own(self.options.mode.is_some(), keep.mode) && !symlink).then_some(permissions),
            uid: own(self.options.uid.is_some(), keep.owner).then_some(uid),
            gid: own(self.options.gid.is_some(), keep.owner).then_some(gid),
            atime: self.mtime(node).filter(|_| is_new),
            mtime: self.mtime(node),
            project: None,
        };
        if change == Change::default() {
            return Ok(());
        }
        let was = self.session.run(|n| n.open(ino))?;
        let differs = change.permissions.is_some_and(|p| p != was.inode.permissions())
            || change.uid.is_some_and(|u| u != was.inode.uid())
            || change.gid.is_some_and(|g| g != was.inode.gid())
            || change.mtime.is_some_and(|t| t != was.inode.time(TimeField::Modify));
        if differs {
            self.session.run(|n| n.change(ino, &change)).map_err(|e| e.about(path))?;
            changed = true;
        }
        if changed && !is_new {
            self.report.changed += 1;
        }
        Ok(())
    }

    /// Give an object the source's extended attributes; whether something changed. Lists of access control come with the
    /// permissions.
    fn xattrs(&mut self, id: NodeId, ino: Ino, path: &[u8]) -> Result<bool> {
        self.reader.open(id)?;
        let wanted = self.reader.xattrs()?;
        self.reader.close()?;
        let is_list = |name: &[u8]| name.starts_with(b"system.posix_acl_");
        let keep = self.options.preserve;
        let counts = |name: &[u8]| if is_list(name) { keep.mode } else { keep.xattrs };
        let o = self.session.run(|n| n.open(ino))?;
        let there = host_xattrs(self.session.volume(), o.owner())?;
        let mut changed = false;
        for (name, _) in &there {
            if counts(name) && (self.options.sync || is_list(name)) && !wanted.iter().any(|(n, _)| n == name) {
                self.session.run(|n| n.set_xattr(ino, name, None)).map_err(|e| e.about(path))?;
                changed = true;
            }
        }
        for (name, value) in wanted.iter().filter(|x| counts(&x.0) && !there.contains(x)) {
            match self.session.run(|n| n.set_xattr(ino, name, Some(value))) {
                Ok(_) => changed = true,
                Err(Error::InvalidArgument { name: "attribute name", .. }) => {
                    self.watch.left_out(path, name);
                    self.report.left_out += 1;
                }
                Err(e) => return Err(e.about(path)),
            }
        }
        Ok(changed)
    }

    fn tell(&mut self, action: Action, path: &[u8]) {
        self.watch.done(action, path);
    }
}

/// Extended attributes by the names and values that the host uses.
fn host_xattrs(volume: &Volume, owner: Owner<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let all = volume.xattrs(owner)?;
    all.iter().map(|x| Ok((x.name(), x.host_value()?.into_owned()))).collect()
}
