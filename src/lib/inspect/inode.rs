//! An inode: debugfs's `stat`.

use std::io::{self, Write};
use std::ops::ControlFlow;

use serde::Serialize;

use super::page::Page;
use super::text::{Target, date};
use super::xattrs::{XattrItem, XattrsView};
use super::{Damage, View};
use crate::env::Timestamp;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::extent::Node;
use crate::format::inode::{FileType, GOOD_OLD_SIZE, InodeFlags, TimeField};
use crate::units::{Fsblk, Ino, Lblk};
use crate::volume::{MapEvent, MapKind, Owner, Volume};

/// A run of blocks of a file, or a block of its map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapRun {
    /// For a block of the map: how many levels of the map are below it. `None` for data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_depth: Option<u32>,
    /// First logical block (that a block of the map describes).
    pub lblk: Lblk,
    /// Blocks; 1 for a block of the map.
    pub len: u64,
    /// First block.
    pub pblk: Fsblk,
    /// Allocated, but reads as zeros.
    pub unwritten: bool,
}

impl MapRun {
    /// All runs of an inode, and why the walk ended early where it did. Data of indirect maps is merged where contiguous.
    pub fn all(volume: &Volume, owner: Owner<'_>) -> (Vec<Self>, Vec<Damage>) {
        let merges = volume.map_kind(owner.inode) == MapKind::Indirect;
        let mut runs: Vec<Self> = Vec::new();
        let walked = volume.walk_map(owner, &mut |event| {
            match event {
                MapEvent::Node { block, depth, lblk } => {
                    runs.push(Self { node_depth: Some(depth), lblk, len: 1, pblk: block, unwritten: false });
                }
                MapEvent::Data(e) => match runs.last_mut() {
                    Some(last) if merges && last.continues(e.lblk, e.pblk) => {
                        last.len = last.len.saturating_add(e.len.into());
                    }
                    _ => runs.push(Self {
                        node_depth: None,
                        lblk: e.lblk,
                        len: e.len.into(),
                        pblk: e.pblk,
                        unwritten: e.unwritten,
                    }),
                },
            }
            Ok(ControlFlow::Continue(()))
        });
        (runs, walked.err().map(Damage::from).into_iter().collect())
    }

    fn continues(&self, lblk: Lblk, pblk: Fsblk) -> bool {
        self.node_depth.is_none()
            && u64::from(self.lblk.0).saturating_add(self.len) == u64::from(lblk.0)
            && self.pblk.0.saturating_add(self.len) == pblk.0
    }

    /// `(4-7):3345-3348`, `(200-299[u]):3241-3340`, `(IND):607`; `(ETB0):8450` in an extent tree of a depth.
    fn text(&self, tree_depth: Option<u16>) -> String {
        match (self.node_depth, tree_depth) {
            (Some(depth), Some(tree)) => {
                let level = u32::from(tree).saturating_sub(depth.saturating_add(1));
                return format!("(ETB{level}):{}", self.pblk);
            }
            (Some(depth), None) => {
                let name = ["IND", "DIND", "TIND"].get(depth as usize).unwrap_or(&"?");
                return format!("({name}):{}", self.pblk);
            }
            (None, _) => {}
        }
        let mark = if self.unwritten { "[u]" } else { "" };
        let more = self.len.saturating_sub(1);
        if more == 0 {
            return format!("({}{mark}):{}", self.lblk, self.pblk);
        }
        let (last, plast) = (u64::from(self.lblk.0).saturating_add(more), self.pblk.0.saturating_add(more));
        format!("({}-{last}{mark}):{}-{plast}", self.lblk, self.pblk)
    }
}

/// What an inode's block area holds.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Content {
    /// Nothing.
    None,
    /// An extent tree.
    Extents {
        /// Levels of nodes below the inode.
        depth: u16,
        /// Its runs.
        runs: Vec<MapRun>,
    },
    /// Block pointers.
    Indirect {
        /// Their runs.
        runs: Vec<MapRun>,
    },
    /// The target of a symbolic link.
    FastLink,
    /// Data inside the inode.
    Inline {
        /// Bytes that there is room for now: in the block area, and in the attribute that holds the rest.
        room: usize,
    },
    /// A device.
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
        /// In the encoding that has room for more than 8 bits each.
        new_style: bool,
    },
}

/// The checksum of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct InodeChecksum {
    /// As stored.
    pub stored: u32,
    /// As it should be.
    pub computed: u32,
}

/// A time with its two words on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct InodeTime {
    /// The time.
    #[serde(flatten)]
    pub time: Timestamp,
    /// Seconds, as stored.
    pub raw: u32,
    /// Epoch bits and nanoseconds, as stored; `None` where the inode has no room for them.
    pub raw_extra: Option<u32>,
}

/// An inode.
#[derive(Debug, Serialize)]
pub struct InodeView {
    /// Its number.
    pub ino: Ino,
    /// What it is; `None` where the mode says nothing known.
    #[serde(rename = "type")]
    pub file_type: Option<FileType>,
    /// Type and permissions, as stored.
    pub mode: u16,
    /// Flags, as stored.
    pub flags: u32,
    /// Names of the flags that are on.
    pub flag_names: Vec<String>,
    /// Generation.
    pub generation: u32,
    /// Version: 64 bits where the inode has room for them.
    pub version: u64,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Project, where the inode has room for it.
    pub project: Option<u32>,
    /// Size in bytes.
    pub size: u64,
    /// Extended attribute block; 0 where there is none.
    pub file_acl: Fsblk,
    /// Hard links.
    pub links: u16,
    /// Space in use, as stored: units of 512 bytes, or blocks with the `huge_file` flag.
    pub blockcount: u64,
    /// Space in use, bytes.
    pub allocated_bytes: u64,
    /// Fragment address (unused since ext2).
    pub fragment: u32,
    /// Status change.
    pub ctime: InodeTime,
    /// Access.
    pub atime: InodeTime,
    /// Modification.
    pub mtime: InodeTime,
    /// Creation, where the inode has room for it.
    pub crtime: Option<InodeTime>,
    /// Deletion time, or the next inode of the orphan list; 0 where neither.
    pub dtime: u32,
    /// Bytes of extra fields; `None` for 128-byte inodes.
    pub extra_isize: Option<u16>,
    /// Extended attributes.
    pub xattrs: Vec<XattrItem>,
    /// Checksum, with metadata_csum.
    pub checksum: Option<InodeChecksum>,
    /// What the block area holds.
    pub content: Content,
    /// Target of a symbolic link.
    #[serde(flatten)]
    pub target: Option<Target>,
    /// What is wrong with it.
    pub damage: Vec<Damage>,
}

impl InodeView {
    /// Inode `ino`, whether it is in use or not. A wrong checksum is reported, not refused.
    pub fn new(volume: &Volume, ino: Ino) -> Result<Self> {
        let inode = volume.raw_inode(ino)?;
        let owner = Owner { ino, inode: &inode };
        let core = inode.core();
        let mut damage = Vec::new();
        let checksum = inode
            .computed_checksum(volume.geometry().checksums, ino)
            .map(|computed| InodeChecksum { stored: inode.stored_checksum(), computed });
        // A slot that was never written is zeros, its checksum too.
        let blank = inode.as_bytes().iter().all(|b| *b == 0);
        if let Some(InodeChecksum { stored, computed }) = checksum
            && stored != computed
            && volume.verifies_checksums()
            && !blank
        {
            let flaw = Flaw::Checksum { of: Structure::Inode, stored, computed };
            damage.push(Error::corrupt(flaw, Place::inode(ino)).into());
        }
        let extra = inode.extra_isize().unwrap_or_else(|e| {
            damage.push(e.at(Place::inode(ino)).into());
            0
        });
        let has = |end: usize| usize::from(extra) >= end.saturating_sub(GOOD_OLD_SIZE) && extra > 0;
        let mut xattrs = XattrsView::new(volume, owner);
        damage.append(&mut xattrs.damage);
        let content = Self::content(volume, owner, &mut damage);
        let target = link_target(volume, owner, &mut damage);
        let time = |field: TimeField, raw: u32, extra: Option<u32>| InodeTime {
            time: inode.time(field),
            raw,
            raw_extra: extra,
        };
        Ok(Self {
            ino,
            file_type: inode.file_type(),
            mode: core.mode.get(),
            flags: core.flags.get(),
            flag_names: inode.flags().iter_names().map(|(name, _)| name.to_lowercase()).collect(),
            generation: core.generation.get(),
            version: u64::from(core.version.get()) | (u64::from(core.version_hi.get()) << 32),
            user: inode.uid(),
            group: inode.gid(),
            project: has(160).then(|| core.projid.get()),
            size: inode.size(),
            file_acl: inode.file_acl(),
            links: core.links_count.get(),
            blockcount: inode.blocks_raw(),
            allocated_bytes: inode.allocated_bytes(volume.geometry().block_size),
            fragment: core.obso_faddr.get(),
            ctime: time(TimeField::Change, core.ctime.get(), has(136).then(|| core.ctime_extra.get())),
            atime: time(TimeField::Access, core.atime.get(), has(144).then(|| core.atime_extra.get())),
            mtime: time(TimeField::Modify, core.mtime.get(), has(140).then(|| core.mtime_extra.get())),
            crtime: has(148)
                .then(|| time(TimeField::Create, core.crtime.get(), has(152).then(|| core.crtime_extra.get()))),
            dtime: core.dtime.get(),
            extra_isize: (inode.as_bytes().len() > GOOD_OLD_SIZE).then_some(extra),
            xattrs: xattrs.xattrs,
            checksum,
            content,
            target,
            damage,
        })
    }

    fn content(volume: &Volume, owner: Owner<'_>, damage: &mut Vec<Damage>) -> Content {
        let inode = owner.inode;
        let mut runs = || {
            let (runs, mut flaws) = MapRun::all(volume, owner);
            damage.append(&mut flaws);
            runs
        };
        match volume.map_kind(inode) {
            MapKind::Extents => {
                let depth = Node::decode(&inode.block_area()).map_or(0, |n| n.depth);
                Content::Extents { depth, runs: runs() }
            }
            MapKind::Indirect => Content::Indirect { runs: runs() },
            MapKind::None if inode.flags().contains(InodeFlags::INLINE_DATA) => inline_content(volume, owner),
            MapKind::None => match inode.file_type() {
                Some(FileType::Symlink) => Content::FastLink,
                Some(FileType::CharDevice | FileType::BlockDevice) => {
                    let (major, minor) = inode.device_numbers();
                    let new_style = inode.block_area().first_chunk::<4>() == Some(&[0; 4]);
                    Content::Device { major, minor, new_style }
                }
                _ => Content::None,
            },
        }
    }
}

fn inline_content(volume: &Volume, owner: Owner<'_>) -> Content {
    // Damaged attributes were reported already.
    let rest = volume.all_xattrs(owner).unwrap_or_default();
    let rest = rest.iter().find(|x| x.name() == b"system.data").map_or(0, |x| x.value.len());
    Content::Inline { room: crate::format::inode::BLOCK_LEN.saturating_add(rest) }
}

fn link_target(volume: &Volume, owner: Owner<'_>, damage: &mut Vec<Damage>) -> Option<Target> {
    if owner.inode.file_type() != Some(FileType::Symlink) || owner.inode.core().links_count.get() == 0 {
        return None;
    }
    match volume.symlink_target(owner) {
        Ok(target) => Some(Target(target)),
        Err(e) => {
            damage.push(e.into());
            None
        }
    }
}

/// What debugfs calls a type.
const fn type_name(file_type: Option<FileType>) -> &'static str {
    match file_type {
        Some(FileType::Regular) => "regular",
        Some(FileType::Directory) => "directory",
        Some(FileType::CharDevice) => "character special",
        Some(FileType::BlockDevice) => "block special",
        Some(FileType::Symlink) => "symlink",
        Some(FileType::Socket) => "socket",
        Some(FileType::Fifo) => "FIFO",
        None => "bad type",
    }
}

impl InodeTime {
    fn line(&self, page: &mut Page<'_>, name: &str) -> io::Result<()> {
        let extra = self.raw_extra.map(|e| format!(":{e:08x}")).unwrap_or_default();
        write!(page, "{name:>6}: {:#010x}{extra} -- {}", self.raw, date(self.time))?;
        if self.time.nsec != 0 && page.is_terminal() {
            write!(page, " +{} ns", self.time.nsec)?;
        }
        writeln!(page)
    }
}

impl InodeView {
    fn head(&self, page: &mut Page<'_>) -> io::Result<()> {
        let names = if self.flag_names.is_empty() || !page.is_terminal() {
            String::new()
        } else {
            format!(" ({})", self.flag_names.join(" "))
        };
        writeln!(
            page,
            "Inode: {}   Type: {}    Mode:  0{:03o}   Flags: {:#x}{names}",
            self.ino,
            type_name(self.file_type),
            self.mode & 0o7777,
            self.flags
        )?;
        let version = if self.extra_isize.is_some_and(|n| n >= 28) {
            format!("{:#010x}:{:08x}", self.version >> 32, self.version as u32)
        } else {
            format!("{:#010x}", self.version as u32)
        };
        writeln!(page, "Generation: {}    Version: {version}", self.generation)?;
        write!(page, "User: {:5}   Group: {:5}   ", self.user, self.group)?;
        if let Some(project) = self.project {
            write!(page, "Project: {project:5}   ")?;
        }
        writeln!(page, "Size: {}", self.size)?;
        writeln!(page, "File ACL: {}", self.file_acl)?;
        writeln!(page, "Links: {}   Blockcount: {}", self.links, self.blockcount)?;
        writeln!(page, "Fragment:  Address: {}    Number: 0    Size: 0", self.fragment)
    }

    fn tail(&self, page: &mut Page<'_>) -> io::Result<()> {
        let list = |runs: &[MapRun], depth| runs.iter().map(|r| r.text(depth)).collect::<Vec<_>>().join(", ");
        match &self.content {
            Content::None => writeln!(page, "BLOCKS:")?,
            Content::FastLink => {}
            Content::Extents { depth, runs } => writeln!(page, "EXTENTS:\n{}", list(runs, Some(*depth)))?,
            Content::Indirect { runs } => {
                writeln!(page, "BLOCKS:\n{}", list(runs, None))?;
                let total: u64 = runs.iter().map(|r| r.len).sum();
                if total > 0 {
                    writeln!(page, "TOTAL: {total}")?;
                }
            }
            Content::Inline { room } => writeln!(page, "Size of inline data: {room}")?,
            Content::Device { major, minor, new_style } => {
                write!(page, "{}", if *new_style { "(New-style) " } else { "" })?;
                writeln!(page, "Device major/minor number: {major:02}:{minor:02} (hex {major:02x}:{minor:02x})")?;
            }
        }
        let Some(target) = &self.target else { return Ok(()) };
        let fast = matches!(self.content, Content::FastLink);
        if !fast && !page.is_terminal() {
            return Ok(());
        }
        write!(page, "{}: \"", if fast { "Fast link dest" } else { "Link dest" })?;
        page.bytes(&target.0)?;
        writeln!(page, "\"")
    }
}

impl View for InodeView {
    const SCHEMA: &'static str = "inode/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        self.head(page)?;
        self.ctime.line(page, "ctime")?;
        self.atime.line(page, "atime")?;
        self.mtime.line(page, "mtime")?;
        if let Some(t) = &self.crtime {
            t.line(page, "crtime")?;
        }
        if self.dtime != 0 {
            let time = Timestamp::from_secs(self.dtime.into());
            InodeTime { time, raw: self.dtime, raw_extra: None }.line(page, "dtime")?;
        }
        if let Some(extra) = self.extra_isize {
            writeln!(page, "Size of extra inode fields: {extra}")?;
        }
        if !self.xattrs.is_empty() {
            writeln!(page, "Extended attributes:")?;
        }
        for x in &self.xattrs {
            write!(page, "  ")?;
            x.line(page, false, false)?;
            writeln!(page)?;
        }
        if let Some(c) = self.checksum {
            writeln!(page, "Inode checksum: {:#010x}", c.stored)?;
        }
        self.tail(page)
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}
