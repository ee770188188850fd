//! Pass 2 for one directory: its blocks, entries and index.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use super::blocks::{Claims, Run, Walk};
use super::index::{Index, Kind, MAX_BLOCKS};
use super::inode::HURD;
use super::names::NameSet;
use super::problem::Problem as P;
use super::report::Finding;
use super::shape::{device_is_sound, has_block_map, symlink_is_sound};
use super::state::{Ctx, Deaf, Judge, Stop, note};
use super::view::{View, le16, le32};
use super::xattrs;
use crate::format::dirent::{self, HEADER, TAIL_SIZE, min_rec_len, rec_len_from_disk};
use crate::format::dirhash::HashVersion;
use crate::format::features::{Compat, Incompat, RoCompat};
use crate::format::group_desc::BgFlags;
use crate::format::inode::{BLOCK_LEN, FileType, InodeFlags};
use crate::format::{casefold, htree, xattr};
use crate::units::{Fsblk, Ino};

/// Shortest encrypted name, bytes.
const CRYPTO_BLOCK: usize = 16;
/// `encoding_flags` bit: names must be valid.
const STRICT: u16 = 1;

/// What looking at a directory gives. Reused from one to the next.
#[derive(Default)]
pub(super) struct Scratch {
    claims: Claims,
    index: Index,
    names: NameSet,
    /// Inodes that entries name, one for each entry.
    pub(super) refs: Vec<Ino>,
    /// Directories that entries other than `.` and `..` name.
    pub(super) children: Vec<Ino>,
    /// The same, once they are many.
    child_set: BTreeSet<Ino>,
    /// Where `..` leads; 0 where there is none.
    pub(super) dotdot: Ino,
}

/// Children up to which looking through them is as fast as a set.
const FEW: usize = 64;

impl Scratch {
    fn has_child(&self, ino: Ino) -> bool {
        if self.children.len() <= FEW { self.children.contains(&ino) } else { self.child_set.contains(&ino) }
    }

    fn push_child(&mut self, ino: Ino) {
        self.children.push(ino);
        if self.children.len() == FEW + 1 {
            self.child_set.extend(self.children.iter().copied());
        } else if self.children.len() > FEW {
            self.child_set.insert(ino);
        }
    }
}

/// How this directory's blocks are read.
#[derive(Clone, Copy)]
struct Shape {
    seed: Option<u32>,
    filetype: bool,
    hash_in_entry: bool,
    encrypted: bool,
    folded: bool,
    strict: bool,
    indexed: bool,
    /// By which policy it is encrypted.
    policy: Option<xattrs::EncryptionPolicy>,
}

/// One directory being checked.
pub(super) struct DirCheck<'i, 'c, J> {
    pub(super) ctx: &'i Ctx<'c>,
    pub(super) judge: &'i mut J,
    pub(super) v: &'i View<'i>,
    pub(super) out: &'i mut Scratch,
    /// Whom a directory's entry names already, where it is known: for hard links to directories.
    pub(super) parent_of: &'i dyn Fn(Ino) -> Option<Ino>,
}

/// An entry being looked at.
struct Entry<'a> {
    ino: Ino,
    name: &'a [u8],
    file_type: u8,
    /// 0 for `.`, 1 for `..`, 2 for all others.
    state: u8,
    /// Where it is: logical block, and byte in it.
    lblk: u64,
    at: usize,
}

impl<J: Judge> DirCheck<'_, '_, J> {
    fn finding(&self, p: P) -> Finding {
        Finding::inode(p, self.v.ino)
    }

    fn entry_finding(&self, p: P, e: &Entry<'_>) -> Finding {
        self.place(p, e).name(e.name).target(e.ino)
    }

    fn place(&self, p: P, e: &Entry<'_>) -> Finding {
        self.finding(p).lblk(e.lblk).offset(e.at as u64)
    }

    fn shape(&self) -> Shape {
        let f = self.ctx.geo.features;
        let encrypted = self.v.has(InodeFlags::ENCRYPT);
        let folded = f.incompat.contains(Incompat::CASEFOLD) && self.v.has(InodeFlags::CASEFOLD);
        Shape {
            seed: self.v.seed(self.ctx.csums),
            filetype: f.incompat.contains(Incompat::FILETYPE),
            hash_in_entry: encrypted && folded,
            encrypted,
            folded,
            strict: folded && self.ctx.sb.encoding_flags.get() & STRICT != 0,
            indexed: self.v.has(InodeFlags::INDEX) && f.compat.contains(Compat::DIR_INDEX),
            policy: encrypted.then(|| xattrs::encryption_policy(self.ctx, self.v)).flatten(),
        }
    }

    /// Check all of it.
    pub(super) fn run(&mut self) -> Result<(), Stop> {
        self.out.refs.clear();
        self.out.children.clear();
        self.out.child_set.clear();
        self.out.dotdot = Ino(0);
        let shape = self.shape();
        if self.v.has(InodeFlags::INLINE_DATA) && self.ctx.geo.features.incompat.contains(Incompat::INLINE_DATA) {
            return self.inline(shape);
        }
        let mut claims = std::mem::take(&mut self.out.claims);
        claims.reset();
        claims.keep_map = true;
        let walked = self.follow(&mut claims);
        let result = if walked { self.mapped(shape, &claims) } else { Ok(()) };
        self.out.claims = claims;
        result
    }

    /// Fill in the map. Problems with it were reported by pass 1.
    fn follow(&self, claims: &mut Claims) -> bool {
        if !has_block_map(self.v, self.ctx) {
            return true;
        }
        let mut walk = Walk { ctx: self.ctx, judge: &mut Deaf, v: self.v, out: claims };
        let extents = self.ctx.geo.features.incompat.contains(Incompat::EXTENTS) && self.v.has(InodeFlags::EXTENTS);
        if extents { walk.extents().is_ok() } else { walk.indirect().is_ok() }
    }

    fn mapped(&mut self, mut shape: Shape, claims: &Claims) -> Result<(), Stop> {
        let blocks = claims.last.map_or(0, |l| l + 1);
        shape.indexed &= blocks > 0 && blocks <= MAX_BLOCKS;
        if shape.indexed {
            self.out.index.start(blocks);
        }
        let holes_allowed = self.ctx.geo.features.incompat.contains(Incompat::LARGEDIR);
        let mut next = 0;
        // A block map always gives block 0, mapped or not; an extent tree only what it maps.
        if claims.map.is_empty() && !self.v.has(InodeFlags::EXTENTS) && !holes_allowed {
            self.judge.raise(self.finding(P::DirectoryHole).lblk(0))?;
        }
        for &Run { lblk, pblk, len, .. } in &claims.map {
            if lblk > next && !holes_allowed {
                self.judge.raise(self.finding(P::DirectoryHole).lblk(next))?;
            }
            for i in 0..len {
                self.block(shape, lblk + i, Fsblk(pblk + i))?;
            }
            next = lblk + len;
        }
        if shape.indexed {
            let mut index = std::mem::take(&mut self.out.index);
            let r = index.finish(self.judge, self.v.ino);
            self.out.index = index;
            r?;
        }
        Ok(())
    }

    fn block(&mut self, shape: Shape, lblk: u64, at: Fsblk) -> Result<(), Stop> {
        let vol = self.ctx.vol;
        let Ok(bytes) = vol.block(at) else {
            self.judge.raise(self.finding(P::ReadDirBlock).lblk(lblk).block(at))?;
            return Ok(());
        };
        let kind = if shape.indexed { self.classify(shape, lblk, &bytes)? } else { Kind::Leaf };
        let mut limit = bytes.len();
        let mut bad_checksum = false;
        if let Some(seed) = shape.seed {
            if kind == Kind::Leaf {
                if dirent::has_tail(&bytes) {
                    limit -= TAIL_SIZE;
                    bad_checksum = dirent::verify(&bytes, seed).is_err();
                } else {
                    self.judge.raise(self.finding(P::LeafMissingCsum).lblk(lblk))?;
                }
            } else if htree::verify(&bytes, seed).is_err() {
                let p = if kind == Kind::Root { P::HtreeRootCsum } else { P::HtreeNodeCsum };
                self.out.index.given_up |= self.judge.raise(self.finding(p).lblk(lblk))?;
            }
        }
        let part = bytes.get(..limit).unwrap_or(&bytes);
        let state = if lblk == 0 { 0 } else { 2 };
        self.entries(shape, part, lblk, state, 0)?;
        if matches!(kind, Kind::Root | Kind::Node) {
            let start = if kind == Kind::Root { 24 + usize::from(bytes.get(29).copied().unwrap_or(8)) } else { 8 };
            let mut index = std::mem::take(&mut self.out.index);
            let r = index.node(self.judge, self.v.ino, lblk, &bytes, start, shape.seed.is_some());
            self.out.index = index;
            r?;
        }
        if bad_checksum {
            self.judge.raise(self.finding(P::LeafOnlyCsumInvalid).lblk(lblk))?;
        }
        Ok(())
    }

    /// What a block of an indexed directory is.
    fn classify(&mut self, shape: Shape, lblk: u64, bytes: &[u8]) -> Result<Kind, Stop> {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
        if lblk == 0 {
            let levels = byte(30);
            let most = if self.ctx.geo.features.incompat.contains(Incompat::LARGEDIR) { 3 } else { 2 };
            if le32(bytes, 24) != 0 || byte(29) < 8 || levels >= most {
                self.out.index.given_up |= self.judge.raise(self.finding(P::HtreeBadRootNode))?;
            }
            let version = HashVersion::from_disk(byte(28), self.ctx.sb.misc_flags());
            self.out.index.hasher = version.and_then(|v| self.ctx.vol.dir_hasher(v));
            self.out.index.hash_in_entry = shape.hash_in_entry && version == Some(HashVersion::SipHash);
            self.out.index.set_root(levels);
            self.out.index.set_kind(0, Kind::Root);
            return Ok(Kind::Root);
        }
        let tail = if shape.seed.is_some() { 8 } else { 0 };
        let node = le32(bytes, 0) == 0
            && rec_len_from_disk(le16(bytes, 4), bytes.len()) == bytes.len()
            && byte(6) == 0
            && usize::from(le16(bytes, 8)) == (bytes.len() - 8 - tail) / 8;
        let kind = if node { Kind::Node } else { Kind::Leaf };
        self.out.index.set_kind(lblk, kind);
        Ok(kind)
    }

    /// A directory inside the inode: `..` and the first entries in the block area, more in an attribute.
    fn inline(&mut self, shape: Shape) -> Result<(), Stop> {
        let v = self.v;
        let more = xattrs::in_body(v, xattr::INDEX_SYSTEM, b"data").unwrap_or_default();
        let size = BLOCK_LEN + more.len();
        if !size.is_multiple_of(4) || (!more.is_empty() && more.len() < min_rec_len(1, false)) {
            self.judge.raise(self.finding(P::BadInlineDirSize).num(size as u64))?;
        }
        let area = *v.area();
        let dir = FileType::Directory.dirent_code();
        let file_type = if shape.filetype { dir } else { 0 };
        let dotdot = Ino(le32(&area, 0));
        let shape = Shape { indexed: false, ..shape };
        self.out.names.clear();
        self.entry(shape, &Entry { ino: v.ino, name: b".", file_type, state: 0, lblk: 0, at: 0 }, 0)?;
        if dotdot.0 == 0 {
            self.judge.raise(self.finding(P::MissingDotDot))?;
        } else {
            self.out.dotdot = dotdot;
            self.entry(shape, &Entry { ino: dotdot, name: b"..", file_type, state: 1, lblk: 0, at: 0 }, 0)?;
        }
        self.entries(shape, &area, 0, 2, 4)?;
        if !more.is_empty() {
            self.entries(shape, more, 1, 2, 0)?;
        }
        Ok(())
    }

    /// The entries of a block, or of a part of the inode. `state`: what the first one should be.
    #[doc(alias = "check_dir_block")]
    fn entries(&mut self, shape: Shape, bytes: &[u8], lblk: u64, state: u8, start: usize) -> Result<(), Stop> {
        self.out.names.clear();
        let block_size = self.ctx.geo.block_size as usize;
        let (mut at, mut state) = (start, state);
        while at < bytes.len() {
            let extended = state > 1 && shape.hash_in_entry;
            let stored = le16(bytes, at + 4);
            let rec_len = rec_len_from_disk(stored, block_size);
            let name_len = usize::from(bytes.get(at + 6).copied().unwrap_or_default());
            let sound = bytes.len() - at >= HEADER
                && at + rec_len <= bytes.len()
                && rec_len >= min_rec_len(1, extended)
                && rec_len.is_multiple_of(4)
                && min_rec_len(name_len, extended) <= rec_len;
            if !sound {
                self.judge.raise(self.finding(P::DirCorrupted).lblk(lblk).offset(at as u64))?;
                return Ok(());
            }
            let e = Entry {
                ino: Ino(le32(bytes, at)),
                name: bytes.get(at + HEADER..at + HEADER + name_len).unwrap_or_default(),
                file_type: bytes.get(at + 7).copied().unwrap_or_default(),
                state,
                lblk,
                at,
            };
            match state {
                0 => self.dot(&e, rec_len, bytes.get(at + HEADER + 1))?,
                1 => self.dotdot(&e, bytes.get(at + HEADER + 2))?,
                _ => {}
            }
            if e.ino.0 != 0 {
                self.entry(shape, &e, lblk)?;
                if shape.indexed && self.out.index.kind(lblk) == Kind::Leaf {
                    self.hash(shape, &e, lblk, bytes, at);
                }
            }
            at += rec_len;
            state = (state + 1).min(2);
        }
        Ok(())
    }

    fn hash(&mut self, shape: Shape, e: &Entry<'_>, lblk: u64, bytes: &[u8], at: usize) {
        let hash = if self.out.index.hash_in_entry {
            let after = at + HEADER + ((e.name.len() + 3) & !3);
            Some(le32(bytes, after) & !1)
        } else {
            let key = if shape.folded && !shape.encrypted { casefold::key(e.name) } else { e.name.into() };
            self.out.index.hasher.and_then(|h| h.hash(&key).ok()).map(|h| h.hash)
        };
        if let Some(hash) = hash {
            self.out.index.saw(lblk, hash);
        }
    }

    fn dot(&mut self, e: &Entry<'_>, rec_len: usize, after: Option<&u8>) -> Result<(), Stop> {
        if e.ino.0 == 0 {
            self.judge.raise(self.place(P::MissingDot, e))?;
        } else if e.name != b"." {
            self.judge.raise(self.entry_finding(P::FirstNotDot, e))?;
        } else if after.is_some_and(|b| *b != 0) {
            self.judge.raise(self.place(P::DotNullTerm, e))?;
        }
        if e.ino != self.v.ino {
            self.judge.raise(self.place(P::BadInodeDot, e).target(e.ino))?;
        }
        if rec_len > 24 {
            self.judge.raise(self.place(P::SplitDot, e).num(rec_len as u64))?;
        }
        Ok(())
    }

    fn dotdot(&mut self, e: &Entry<'_>, after: Option<&u8>) -> Result<(), Stop> {
        if e.ino.0 == 0 {
            self.judge.raise(self.place(P::MissingDotDot, e))?;
        } else if e.name != b".." {
            self.judge.raise(self.entry_finding(P::SecondNotDotDot, e))?;
        } else if after.is_some_and(|b| *b != 0) {
            self.judge.raise(self.place(P::DotDotNullTerm, e))?;
        } else {
            self.out.dotdot = e.ino;
        }
        Ok(())
    }

    /// An entry that names something.
    fn entry(&mut self, shape: Shape, e: &Entry<'_>, lblk: u64) -> Result<(), Stop> {
        let ctx = self.ctx;
        let other = e.state > 1;
        // An entry that goes need not be looked at any more.
        if other && e.ino == self.v.ino && self.judge.raise(self.entry_finding(P::LinkDot, e))? {
            return Ok(());
        }
        let unnameable = (e.ino != Ino::ROOT && e.ino.0 < ctx.geo.first_ino)
            || e.ino.0 > ctx.geo.inodes_count
            || ctx.is_super_quota(e.ino)
            || ctx.is_orphan_file(e.ino);
        let n = ctx.note(e.ino);
        let problem = if unnameable {
            self.judge.raise(self.entry_finding(P::BadIno, e))?;
            return Ok(());
        } else if n & note::BAD_BLOCK != 0 {
            Some(P::BbInode)
        } else if other && e.name == b"." {
            Some(P::DupDot)
        } else if other && e.name == b".." {
            Some(P::DupDotDot)
        } else if other && e.ino == Ino::ROOT {
            Some(P::LinkRoot)
        } else if other && e.name.is_empty() {
            Some(P::NullName)
        } else if other && self.holds_value(e.ino) {
            Some(P::EaInodeDirLink)
        } else {
            None
        };
        if let Some(p) = problem
            && self.judge.raise(self.entry_finding(p, e))?
        {
            return Ok(());
        }
        if self.target(e, n)? {
            return Ok(());
        }
        self.file_type(shape, e, n)?;
        if other {
            self.name(shape, e, n)?;
            if n & note::TYPE == note::DIRECTORY && n & note::USED != 0 {
                self.child(e)?;
            }
        }
        if !self.out.names.insert(e.name, shape.strict && !shape.encrypted) {
            // Without the key there is no other name to give.
            let twice = if shape.encrypted {
                self.entry_finding(P::DupEncrypted, e)
            } else {
                self.finding(P::ReportDupDirent).name(e.name).lblk(lblk)
            };
            if self.judge.raise(twice)? && shape.encrypted {
                return Ok(());
            }
        }
        self.out.refs.push(e.ino);
        Ok(())
    }

    /// Whether an inode holds an attribute's value, and is nobody's file.
    fn holds_value(&self, ino: Ino) -> bool {
        let ctx = self.ctx;
        ctx.values.contains(&ino)
            && ctx.vol.raw_inode(ino).is_ok_and(|inode| inode.flags().contains(InodeFlags::EA_INODE))
    }

    /// The inode that an entry names. `true`: it is not in use, and the entry goes.
    fn target(&mut self, e: &Entry<'_>, n: u8) -> Result<bool, Stop> {
        let ctx = self.ctx;
        if n & note::USED != 0 {
            if ctx.stale_lazy.load(Relaxed) {
                self.hidden(e)?;
            }
            if n & note::BAD != 0 {
                self.bad_inode(e.ino)?;
            }
            return Ok(false);
        }
        self.hidden(e)?;
        self.judge.raise(self.entry_finding(P::UnusedInode, e))
    }

    /// The inode that an entry names is in a part of the table that its group says was never used.
    fn hidden(&mut self, e: &Entry<'_>) -> Result<(), Stop> {
        let ctx = self.ctx;
        let mut missed = None;
        if let Ok((group, index)) = ctx.geo.inode_place(e.ino)
            && let Ok(desc) = ctx.vol.group(group)
        {
            if desc.bg_flags().contains(BgFlags::INODE_UNINIT) {
                missed = Some((P::InoRefUninit, group));
            } else if index >= ctx.geo.inodes_per_group.saturating_sub(desc.itable_unused()) {
                missed = Some((P::InoRefUnused, group));
            }
        }
        if let Some((p, group)) = missed {
            let mut f = self.entry_finding(p, e);
            f.place.group = Some(group);
            self.judge.raise(f)?;
        }
        Ok(())
    }

    fn file_type(&mut self, shape: Shape, e: &Entry<'_>, n: u8) -> Result<(), Stop> {
        if !shape.filetype {
            if e.file_type != 0 {
                self.judge.raise(self.entry_finding(P::ClearFiletype, e).num(e.file_type))?;
            }
            return Ok(());
        }
        let want = if n & note::USED != 0 {
            n & note::TYPE
        } else {
            self.ctx.vol.raw_inode(e.ino).ok().and_then(|i| i.file_type()).map_or(0, FileType::dirent_code)
        };
        if e.file_type != want {
            let p = if e.file_type == 0 { P::SetFiletype } else { P::BadFiletype };
            self.judge.raise(self.entry_finding(p, e).num(e.file_type).want(want))?;
        }
        Ok(())
    }

    fn name(&mut self, shape: Shape, e: &Entry<'_>, n: u8) -> Result<(), Stop> {
        if shape.encrypted {
            if e.name.len() < CRYPTO_BLOCK {
                self.judge.raise(self.entry_finding(P::BadEncryptedName, e))?;
            }
            let plain = n & note::ENCRYPTED == 0 && matches!(n & note::TYPE, 1 | 2 | 7);
            if plain && n & note::USED != 0 {
                self.judge.raise(self.entry_finding(P::UnencryptedFile, e))?;
            } else if n & note::ENCRYPTED != 0 && self.other_policy(shape, e.ino) {
                self.judge.raise(self.entry_finding(P::EncryptionPolicy, e))?;
            }
            return Ok(());
        }
        if shape.strict && !casefold::is_valid(e.name) {
            self.judge.raise(self.entry_finding(P::BadEncodedName, e))?;
        }
        if e.name.iter().any(|b| *b == 0 || *b == b'/') {
            self.judge.raise(self.entry_finding(P::BadName, e))?;
        }
        Ok(())
    }

    /// Whether an inode is encrypted by another policy than the directory.
    fn other_policy(&self, shape: Shape, ino: Ino) -> bool {
        let Some(own) = shape.policy else { return false };
        let Ok(slot) = self.ctx.vol.raw_inode(ino) else { return false };
        let policy = View::new(ino, slot.as_bytes()).and_then(|v| xattrs::encryption_policy(self.ctx, &v));
        policy.is_some_and(|p| p != own)
    }

    /// An entry for a directory: nobody else may have one.
    fn child(&mut self, e: &Entry<'_>) -> Result<(), Stop> {
        let again = self.out.has_child(e.ino);
        if e.ino != Ino::ROOT && (again || (self.parent_of)(e.ino).is_some()) {
            self.judge.raise(self.entry_finding(P::LinkDir, e))?;
        } else {
            self.out.push_child(e.ino);
        }
        Ok(())
    }

    /// An inode with odd fields: say which.
    #[doc(alias = "e2fsck_process_bad_inode")]
    fn bad_inode(&mut self, ino: Ino) -> Result<(), Stop> {
        let ctx = self.ctx;
        let Ok(slot) = ctx.vol.raw_inode(ino) else { return Ok(()) };
        let Some(v) = View::new(ino, slot.as_bytes()) else { return Ok(()) };
        let f = ctx.geo.features;
        let c = v.core();
        let num = |p: P, n: u64| Finding::inode(p, ino).num(n);
        if v.file_acl(ctx.geo).0 != 0 && !f.compat.contains(Compat::EXT_ATTR) {
            self.judge.raise(num(P::FileAclNonzero, v.file_acl(ctx.geo).0))?;
        }
        let inline = xattrs::in_body(&v, xattr::INDEX_SYSTEM, b"data").map(|d| (BLOCK_LEN + d.len()) as u64);
        let problem = match v.file_type() {
            None => Some(P::BadMode),
            Some(FileType::CharDevice) if !device_is_sound(&v) => Some(P::BadCharDev),
            Some(FileType::BlockDevice) if !device_is_sound(&v) => Some(P::BadBlockDev),
            Some(FileType::Fifo) if !device_is_sound(&v) => Some(P::BadFifo),
            Some(FileType::Socket) if !device_is_sound(&v) => Some(P::BadSocket),
            Some(FileType::Symlink) if !symlink_is_sound(ctx, &v, inline) => Some(P::InvalidSymlink),
            _ => None,
        };
        if let Some(p) = problem {
            self.judge.raise(num(p, v.mode().into()))?;
        }
        if c.obso_faddr.get() != 0 {
            self.judge.raise(num(P::FaddrNonzero, c.obso_faddr.get().into()))?;
        }
        let [frag, fsize] = c.blocks_high.get().to_le_bytes();
        let hurd = ctx.sb.creator_os.get() == HURD;
        if hurd && frag != 0 {
            self.judge.raise(num(P::FragNonzero, frag.into()))?;
        }
        if hurd && fsize != 0 {
            self.judge.raise(num(P::FsizeNonzero, fsize.into()))?;
        }
        if !hurd && !f.ro_compat.contains(RoCompat::HUGE_FILE) && c.blocks_high.get() != 0 {
            self.judge.raise(num(P::BlocksHiNonzero, c.blocks_high.get().into()))?;
        }
        if !hurd && !f.incompat.contains(Incompat::BIT64) && c.file_acl_high.get() != 0 {
            self.judge.raise(num(P::FileAclHiNonzero, c.file_acl_high.get().into()))?;
        }
        if f.compat.contains(Compat::EXT_ATTR) && v.file_acl(ctx.geo).0 != 0 && !ctx.geo.has_block(v.file_acl(ctx.geo))
        {
            self.judge.raise(Finding::inode(P::FileAclBad, ino).block(v.file_acl(ctx.geo)))?;
        }
        let big = !f.incompat.contains(Incompat::LARGEDIR) && v.is(FileType::Directory);
        if big && c.size_high.get() != 0 {
            self.judge.raise(num(P::DirSizeHigh, c.size_high.get().into()))?;
        }
        Ok(())
    }
}
