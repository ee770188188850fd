//! Pass 1 for one inode: mode, flags, times, size, block map, attributes. The order of tests is e2fsck's.

use std::sync::atomic::Ordering::Relaxed;

use super::blocks::{self, Claims, Walk, extent_header};
use super::problem::Problem as P;
use super::report::Finding;
use super::shape::{device_is_sound, has_block_map, starts_like_directory, symlink_is_sound};
use super::state::{Ctx, Judge, Stop, note};
use super::view::{TIME_CUTOFF, View, le16, le32};
use super::xattrs::{self, Attributes};
use crate::format::features::{Compat, Incompat, RoCompat};
use crate::format::inode::{BLOCK_LEN, FileType, GOOD_OLD_SIZE, InodeFlags};
use crate::format::xattr;
use crate::units::{Fsblk, Ino};

/// Directory levels of an index that need `large_dir`.
const PLAIN_LEVELS: u8 = 2;
/// Directory levels of an index at most.
const MAX_LEVELS: u8 = 3;
/// From here on files need the `large_file` feature, bytes.
const LARGE: u64 = 1 << 31;
/// `creator_os` of the Hurd.
pub(super) const HURD: u32 = 1;

/// What looking at an inode gives. Reused from inode to inode.
#[derive(Debug, Default)]
pub(super) struct Harvest {
    pub(super) claims: Claims,
    pub(super) attrs: Attributes,
    /// Its [`note`]; 0 where it is not in use.
    pub(super) note: u8,
    /// Needs the `large_file` feature.
    pub(super) large_file: bool,
    /// Needs the `large_dir` feature.
    pub(super) large_dir: bool,
    /// Clusters that count for quota; `None` where the inode does not.
    pub(super) quota: Option<u64>,
    /// Links as stored, where they count.
    pub(super) links: u16,
    inline_size: Option<u64>,
}

impl Harvest {
    pub(super) fn reset(&mut self) {
        self.claims.reset();
        self.attrs.reset();
        (self.note, self.links) = (0, 0);
        (self.large_file, self.large_dir) = (false, false);
        (self.quota, self.inline_size) = (None, None);
    }
}

/// The features that matter for inodes, looked up once.
#[derive(Clone, Copy)]
struct Has {
    extents: bool,
    inline: bool,
    casefold: bool,
    ea_inode: bool,
}

/// One inode being checked.
pub(super) struct Check<'i, 'c, J> {
    pub(super) ctx: &'i Ctx<'c>,
    pub(super) judge: &'i mut J,
    pub(super) v: &'i View<'i>,
    pub(super) out: &'i mut Harvest,
}

/// Whether the rest of the checks apply.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    Done,
}

impl<J: Judge> Check<'_, '_, J> {
    fn raise(&mut self, p: P) -> Result<bool, Stop> {
        self.judge.raise(Finding::inode(p, self.v.ino))
    }

    fn has(&self) -> Has {
        let f = self.ctx.geo.features;
        Has {
            extents: f.incompat.contains(Incompat::EXTENTS),
            inline: f.incompat.contains(Incompat::INLINE_DATA),
            casefold: f.incompat.contains(Incompat::CASEFOLD),
            ea_inode: f.incompat.contains(Incompat::EA_INODE),
        }
    }

    fn is_reserved(&self) -> bool {
        self.v.ino.0 < self.ctx.geo.first_ino
    }

    /// Check it all, the checksum where `checksum` asks for it. What the inode uses is in `out`, even where something
    /// is wrong.
    pub(super) fn run_if(&mut self, checksum: bool) -> Result<(), Stop> {
        self.out.reset();
        let bad_checksum = if checksum { self.v.bad_checksum(self.ctx.csums) } else { None };
        self.body(bad_checksum.is_some())?;
        if let Some((stored, computed)) = bad_checksum {
            let f = Finding::inode(P::InodeOnlyCsumInvalid, self.v.ino).num(stored).want(computed);
            self.judge.raise(f)?;
        }
        Ok(())
    }

    fn body(&mut self, bad_checksum: bool) -> Result<(), Stop> {
        if self.deletion()? == Next::Done {
            return Ok(());
        }
        if self.flags()? == Next::Done {
            // It is read in another way when that is mended.
            self.ctx.unread.store(true, Relaxed);
            return Ok(());
        }
        if self.v.ino == Ino::BAD {
            return self.bad_blocks_inode(bad_checksum);
        }
        if self.special()? == Next::Done || self.v.links() == 0 {
            return Ok(());
        }
        if self.v.dtime() != 0 {
            self.raise(P::SetDtime)?;
        }
        self.out.note |= note::USED;
        self.odd_fields()?;
        self.extra_space()?;
        self.maybe_directory()?;
        self.types()?;
        self.blocks(true)
    }

    /// Deletion time and link count.
    fn deletion(&mut self) -> Result<Next, Stop> {
        let (v, sb) = (self.v, self.ctx.sb);
        let dtime = v.dtime();
        if dtime != 0 && dtime < sb.inodes_count.get() {
            // Times before that number make a low deletion time unremarkable.
            let early = [sb.wtime.get(), sb.mtime.get(), sb.mkfs_time.get()];
            if !early.iter().any(|t| *t != 0 && *t < sb.inodes_count.get()) {
                self.raise(P::LowDtime)?;
            }
        }
        if v.links() != 0 {
            self.out.links = v.links();
            return Ok(Next::Go);
        }
        let reserved_quota = [Ino::USR_QUOTA.0, Ino::GRP_QUOTA.0, sb.prj_quota_inum.get()].contains(&v.ino.0);
        if self.is_reserved() || reserved_quota {
            return Ok(Next::Go);
        }
        if dtime == 0 && v.mode() != 0 {
            self.raise(P::ZeroDtime)?;
        }
        Ok(Next::Done)
    }

    /// Flags that contradict each other or the features.
    fn flags(&mut self) -> Result<Next, Stop> {
        let (v, has) = (self.v, self.has());
        let mut changes = false;
        if v.has(InodeFlags::CASEFOLD) {
            if !v.is(FileType::Directory) {
                self.raise(P::CasefoldNonDir)?;
            }
            if !has.casefold {
                self.raise(P::CasefoldFeature)?;
            }
        }
        let tree = extent_header(v.area()).is_some();
        if v.flags().contains(InodeFlags::INLINE_DATA | InodeFlags::EXTENTS) && (has.extents || has.inline) {
            // What the flags that are left ask for is seen when it is looked at again.
            if self.inline_and_extents(tree)? {
                return Ok(Next::Done);
            }
        }
        let data = v.has(InodeFlags::INLINE_DATA).then(|| xattrs::in_body(v, xattr::INDEX_SYSTEM, b"data")).flatten();
        self.out.inline_size = data.map(|d| BLOCK_LEN as u64 + d.len() as u64);
        if v.has(InodeFlags::INLINE_DATA) && v.ino == Ino::ROOT && !has.inline {
            changes |= self.raise(P::InlineDataSet)?;
        }
        if v.has(InodeFlags::INLINE_DATA) && !self.is_reserved() {
            match (has.inline, data.is_some()) {
                (true, true) => {}
                (true, false) => {
                    changes |= self.raise(P::InlineDataNoAttr)?;
                }
                (false, true) => {
                    changes |= self.raise(P::InlineDataFeature)?;
                }
                (false, false) => {
                    changes |= self.raise(P::InlineDataSet)?;
                }
            }
        }
        if v.has(InodeFlags::EXTENTS) && !has.extents {
            changes |= self.raise(if tree { P::ExtentFeature } else { P::ExtentsSet })?;
        }
        let mapped = matches!(v.file_type(), Some(FileType::Regular | FileType::Directory));
        if has.extents && !v.has(InodeFlags::EXTENTS) && v.links() != 0 && mapped && tree {
            changes |= self.raise(P::UnsetExtentFlag)?;
        }
        if v.has(InodeFlags::EA_INODE) && v.links() != 0 && (v.ino == Ino::ROOT || !self.is_reserved()) {
            if !has.ea_inode {
                self.raise(P::EaInodeFeature)?;
            } else if !v.is(FileType::Regular) {
                self.raise(P::EaInodeNonReg)?;
            }
        }
        Ok(if changes { Next::Done } else { Next::Go })
    }

    /// Both flags, of which only one can be meant.
    fn inline_and_extents(&mut self, tree: bool) -> Result<bool, Stop> {
        let v = self.v;
        if self.is_special_type() {
            return self.raise(P::SpecialExtentsInline);
        }
        let room = v.raw.len().saturating_sub(GOOD_OLD_SIZE + usize::from(v.extra_isize()));
        let could_be_map = (0..15).all(|i| u64::from(v.pointer(i)) < self.ctx.geo.blocks_count);
        let problem = if tree {
            P::ClearInlineForExtent
        } else if v.size() < (BLOCK_LEN + room) as u64 {
            P::ClearExtentForInline
        } else if could_be_map {
            P::ClearBothFlags
        } else {
            P::ClearExtentInlineInode
        };
        self.raise(problem)
    }

    fn is_special_type(&self) -> bool {
        matches!(
            self.v.file_type(),
            Some(FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket)
        )
    }

    /// The inode of bad blocks: its pointers are handled apart.
    fn bad_blocks_inode(&mut self, bad_checksum: bool) -> Result<(), Stop> {
        let v = self.v;
        let odd = v.mode() != 0
            || v.core().uid_lo.get() != 0
            || v.core().gid_lo.get() != 0
            || v.links() != 0
            || v.has(InodeFlags::INLINE_DATA)
            || v.core().file_acl_lo.get() != 0;
        if odd || bad_checksum {
            self.raise(P::InvalidBadInode)?;
        }
        self.out.note |= note::USED;
        self.out.links = 0;
        Ok(())
    }

    /// The root and the reserved inodes.
    fn special(&mut self) -> Result<Next, Stop> {
        let (v, ctx) = (self.v, self.ctx);
        let f = ctx.geo.features;
        if v.ino == Ino::ROOT {
            if !v.is(FileType::Directory) {
                self.raise(P::RootNoDir)?;
            }
            if v.dtime() != 0 && v.links() != 0 {
                self.raise(P::RootDtime)?;
            }
            return Ok(Next::Go);
        }
        let prj = ctx.sb.prj_quota_inum.get();
        let quota = v.ino == Ino::USR_QUOTA || v.ino == Ino::GRP_QUOTA || (prj != 0 && v.ino.0 == prj);
        let (in_use, bad_mode, not_clear) = if v.ino == Ino::JOURNAL {
            (ctx.sb.journal_inum.get() == Ino::JOURNAL.0, P::JournalBadMode, P::JournalInodeNotClear)
        } else if quota {
            let on = f.ro_compat.contains(RoCompat::QUOTA) && ctx.is_super_quota(v.ino);
            (on, P::QuotaBadMode, P::QuotaInodeNotClear)
        } else if ctx.sb.orphan_file_inum.get() != 0 && ctx.is_orphan_file(v.ino) {
            (f.compat.contains(Compat::ORPHAN_FILE), P::OrphanFileBadMode, P::OrphanFileNotClear)
        } else if self.is_reserved() {
            return self.reserved();
        } else {
            return Ok(Next::Go);
        };
        self.out.note |= note::USED;
        if in_use {
            if !v.is(FileType::Regular) {
                self.raise(bad_mode)?;
            }
            self.blocks(false)?;
            return Ok(Next::Done);
        }
        // What becomes blank need not be looked at.
        let used = v.links() != 0 || v.core().blocks_lo.get() != 0 || v.pointer(0) != 0;
        Ok(if used && self.raise(not_clear)? { Next::Done } else { Next::Go })
    }

    fn reserved(&mut self) -> Result<Next, Stop> {
        let v = self.v;
        self.out.note |= note::USED;
        let bad = match v.ino {
            Ino::BOOT_LOADER => v.is(FileType::Directory),
            Ino::RESIZE => v.mode() != 0 && !v.is(FileType::Regular),
            _ => v.mode() != 0,
        };
        if bad {
            self.raise(P::ReservedBadMode)?;
        }
        self.blocks(false)?;
        Ok(Next::Done)
    }

    /// Fields that make the inode one to be looked at again where it has a name.
    fn odd_fields(&mut self) -> Result<(), Stop> {
        let (v, ctx) = (self.v, self.ctx);
        let f = ctx.geo.features;
        let c = v.core();
        let big_dir = !f.incompat.contains(Incompat::LARGEDIR) && v.is(FileType::Directory) && c.size_high.get() != 0;
        let not_hurd = ctx.sb.creator_os.get() != HURD;
        let acl_high = !f.incompat.contains(Incompat::BIT64) && c.file_acl_high.get() != 0;
        // The Hurd keeps fragments where others have the high part of the block count.
        let fragments = !not_hurd && c.blocks_high.get() != 0;
        let blocks_high = !f.ro_compat.contains(RoCompat::HUGE_FILE) && c.blocks_high.get() != 0;
        if c.obso_faddr.get() != 0 || big_dir || fragments || (not_hurd && (acl_high || blocks_high)) {
            self.out.note |= note::BAD;
        }
        if v.has(InodeFlags::IMAGIC) {
            if f.compat.contains(Compat::IMAGIC_INODES) {
                self.out.note |= note::IMAGIC;
            } else {
                self.raise(P::SetImagic)?;
            }
        }
        Ok(())
    }

    /// Extra fields, and attributes in the inode.
    fn extra_space(&mut self) -> Result<(), Stop> {
        let v = self.v;
        let room = v.raw.len().saturating_sub(GOOD_OLD_SIZE);
        if room == 0 {
            return Ok(());
        }
        let extra = usize::from(v.extra_isize());
        if extra != 0 && (extra < 4 || extra > room || extra % 4 != 0) {
            self.judge.raise(Finding::inode(P::ExtraIsize, v.ino).num(extra as u64))?;
            return Ok(());
        }
        xattrs::body(self.ctx, self.judge, v, &mut self.out.attrs)?;
        if self.ctx.now < TIME_CUTOFF.sec && v.has_suspicious_time() {
            self.raise(P::TimeOutOfRange)?;
        }
        Ok(())
    }

    /// Something that is no directory by its mode, but whose first block looks like one.
    #[doc(alias = "check_is_really_dir")]
    fn maybe_directory(&mut self) -> Result<(), Stop> {
        let (v, ctx) = (self.v, self.ctx);
        let plain = matches!(v.file_type(), Some(FileType::Directory | FileType::Regular | FileType::Symlink));
        if plain || v.pointer(0) == 0 {
            return Ok(());
        }
        let mut not_device = false;
        let block = if self.has().inline && v.has(InodeFlags::INLINE_DATA) {
            if self.looks_like_inline_dir() {
                self.raise(P::TreatAsDirectory)?;
            }
            return Ok(());
        } else if self.has().extents && v.has(InodeFlags::EXTENTS) {
            not_device = true;
            match extent_header(v.area()) {
                Some((n, 0)) if n > 0 && le32(v.area(), 12) == 0 => {
                    u64::from(le32(v.area(), 20)) | (u64::from(le16(v.area(), 18)) << 32)
                }
                _ => return Ok(()),
            }
        } else {
            for i in 0..15 {
                let b = u64::from(v.pointer(i));
                if b == 0 {
                    continue;
                }
                not_device |= i >= 4;
                if !ctx.geo.has_block(Fsblk(b)) || ctx.meta.get(b) {
                    return Ok(());
                }
            }
            u64::from(v.pointer(0))
        };
        let device = matches!(v.file_type(), Some(FileType::CharDevice | FileType::BlockDevice));
        if device && v.links() == 1 && !not_device {
            return Ok(());
        }
        if ctx.geo.has_block(Fsblk(block))
            && let Ok(bytes) = ctx.vol.block(Fsblk(block))
            && starts_like_directory(&bytes, v.ino)
        {
            self.raise(P::TreatAsDirectory)?;
        }
        Ok(())
    }

    fn looks_like_inline_dir(&self) -> bool {
        let (v, geo) = (self.v, self.ctx.geo);
        let Some(size) = self.out.inline_size else { return false };
        let (dotdot, first, rec_len) = (le32(v.area(), 0), le32(v.area(), 4), le16(v.area(), 8));
        let plausible = |n: u32| n < geo.inodes_count && (n >= geo.first_ino || n == Ino::ROOT.0);
        size % 4 == 0
            && plausible(dotdot)
            && (first == 0 || (first < geo.inodes_count && first >= geo.first_ino))
            && usize::from(rec_len) <= BLOCK_LEN - 4
    }

    /// What the inode's type asks of it; its note.
    fn types(&mut self) -> Result<(), Stop> {
        let (v, has) = (self.v, self.has());
        if has.extents && v.has(InodeFlags::EXTENTS) && v.is(FileType::Symlink) && !has_block_map(v, self.ctx) {
            self.raise(P::FastSymlinkExtents)?;
        }
        if v.has(InodeFlags::ENCRYPT) {
            self.out.note |= note::ENCRYPTED;
            match xattrs::encryption_context(self.ctx, v) {
                Some(true) => {}
                Some(false) => {
                    self.raise(P::CorruptEncryptionXattr)?;
                }
                None => {
                    self.raise(P::MissingEncryptionXattr)?;
                }
            }
        }
        let Some(t) = v.file_type() else {
            self.out.note |= note::BAD;
            return Ok(());
        };
        self.out.note |= t.dirent_code();
        match t {
            FileType::Directory | FileType::Regular => {}
            FileType::Symlink => {
                if symlink_is_sound(self.ctx, v, self.out.inline_size) {
                    self.immutable()?;
                } else {
                    self.out.note |= note::BAD;
                }
            }
            _ if device_is_sound(v) => {
                if v.has(InodeFlags::EXTENTS | InodeFlags::INLINE_DATA) {
                    self.raise(P::SpecialExtentsInline)?;
                }
                self.immutable()?;
                if v.size() != 0 {
                    self.judge.raise(Finding::inode(P::SetNonzeroSize, v.ino).num(v.size()))?;
                }
            }
            _ => self.out.note |= note::BAD,
        }
        Ok(())
    }

    fn immutable(&mut self) -> Result<(), Stop> {
        if self.v.has(InodeFlags::IMMUTABLE | InodeFlags::APPEND) {
            self.raise(P::SetImmutable)?;
        }
        Ok(())
    }

    /// The block map, and what follows from it. `ordinary`: attributes in the inode were looked at.
    #[doc(alias = "check_blocks")]
    fn blocks(&mut self, ordinary: bool) -> Result<(), Stop> {
        let (v, ctx) = (self.v, self.ctx);
        if !ordinary {
            self.out.attrs.reset();
        }
        if v.file_acl(ctx.geo).0 != 0 {
            let known = ctx.geo.features.compat.contains(Compat::EXT_ATTR) && ctx.geo.has_block(v.file_acl(ctx.geo));
            if known {
                xattrs::block(ctx, self.judge, v, &mut self.out.attrs)?;
            } else {
                self.out.note |= note::BAD;
            }
        }
        self.out.claims.clusters = self.out.attrs.clusters;
        let inline = self.has().inline && v.has(InodeFlags::INLINE_DATA);
        if !inline && has_block_map(v, ctx) {
            let mut walk = Walk { ctx, judge: &mut *self.judge, v, out: &mut self.out.claims };
            if self.ctx.geo.features.incompat.contains(Incompat::EXTENTS) && v.has(InodeFlags::EXTENTS) {
                walk.extents()?;
            } else {
                walk.indirect()?;
            }
        }
        if v.has(InodeFlags::INDEX) {
            self.index()?;
        }
        let clusters = self.out.claims.clusters;
        if clusters == 0 && v.is(FileType::Directory) && !v.has(InodeFlags::INLINE_DATA) {
            self.raise(P::ZeroLengthDir)?;
        }
        let prj = ctx.sb.prj_quota_inum.get();
        if v.ino.0 != prj
            && !ctx.is_orphan_file(v.ino)
            && (v.ino == Ino::ROOT || !self.is_reserved())
            && !v.has(InodeFlags::EA_INODE)
        {
            self.out.quota = Some(clusters);
        }
        self.sizes()?;
        self.block_count(clusters)?;
        let mapped = matches!(v.file_type(), Some(FileType::Regular | FileType::Directory));
        if ctx.geo.features.ro_compat.contains(RoCompat::BIGALLOC)
            && mapped
            && v.blocks_raw() > u64::from(v.file_acl(ctx.geo).0 != 0) * (u64::from(ctx.geo.block_size) >> 9)
            && (v.ino == Ino::ROOT || !self.is_reserved())
            && !v.has(InodeFlags::EXTENTS | InodeFlags::INLINE_DATA)
        {
            self.raise(P::NoBigallocBlockMap)?;
        }
        Ok(())
    }

    fn sizes(&mut self) -> Result<(), Stop> {
        let (v, ctx) = (self.v, self.ctx);
        let bs = u64::from(ctx.geo.block_size);
        let size = v.size();
        let mapped = self.out.claims.last.map_or(0, |l| l + 1);
        let extents = self.has().extents && v.has(InodeFlags::EXTENTS);
        let mut want = mapped.saturating_mul(bs);
        let bad = if v.is(FileType::Directory) {
            let blocks = size >> ctx.geo.block_bits;
            if v.has(InodeFlags::INLINE_DATA) {
                want = self.out.inline_size.unwrap_or(0);
                self.out.inline_size != Some(size)
            } else {
                size % bs != 0
                    || blocks > mapped
                    || mapped.saturating_sub(blocks) > u64::from(ctx.sb.prealloc_dir_blocks)
            }
        } else {
            let past = self.out.claims.last_written.is_some_and(|l| size < l.saturating_mul(bs));
            (past && !v.has(InodeFlags::VERITY))
                || (!extents && size > blocks::max_mapped_size(ctx.geo.block_size))
                || (extents && size > (bs << 32) - 1)
        };
        if extents {
            // The very last block of a file that there can be lies across the largest size.
            want = want.min((bs << 32) - 1);
        }
        if bad && !v.is(FileType::Symlink) {
            self.judge.raise(Finding::inode(P::BadISize, v.ino).num(size).want(want))?;
        }
        self.out.large_file = v.is(FileType::Regular) && size >= LARGE;
        Ok(())
    }

    fn block_count(&mut self, clusters: u64) -> Result<(), Stop> {
        let (v, ctx) = (self.v, self.ctx);
        if ctx.sb.creator_os.get() == HURD {
            return Ok(());
        }
        let in_blocks = blocks::counts_fs_blocks(ctx, v);
        let unit = if in_blocks { 1 } else { u64::from(ctx.geo.block_size) >> 9 };
        let want = (clusters << ctx.geo.cluster_bits).saturating_mul(unit);
        let huge = ctx.geo.features.ro_compat.contains(RoCompat::HUGE_FILE);
        let have = if huge { v.blocks_raw() } else { v.core().blocks_lo.get().into() };
        if have != want {
            self.judge.raise(Finding::inode(P::BadIBlocks, v.ino).num(have).want(want))?;
        }
        Ok(())
    }

    /// The root of a directory's index.
    #[doc(alias = "handle_htree")]
    fn index(&mut self) -> Result<(), Stop> {
        let (v, ctx) = (self.v, self.ctx);
        if !v.is(FileType::Directory) {
            self.raise(P::HtreeNoDir)?;
            return Ok(());
        }
        if !ctx.geo.features.compat.contains(Compat::DIR_INDEX) {
            self.raise(P::HtreeSet)?;
        }
        let first = self.out.claims.first.filter(|b| ctx.geo.has_block(*b));
        let Some(root) = first.and_then(|b| ctx.vol.block(b).ok()) else {
            self.raise(P::HtreeBadRoot)?;
            return Ok(());
        };
        let byte = |at: usize| root.get(at).copied().unwrap_or_default();
        let (version, info_len, levels, flags) = (byte(28), byte(29), byte(30), byte(31));
        if le32(&root, 24) != 0 || info_len < 8 {
            self.raise(P::HtreeBadRoot)?;
        }
        let with = |p: P, n: u8| Finding::inode(p, v.ino).num(n);
        let siphash = version == 6;
        if version > 2 && !siphash {
            self.judge.raise(with(P::HtreeHashVersion, version))?;
        }
        let hash_in_entry = v.flags().contains(InodeFlags::ENCRYPT | InodeFlags::CASEFOLD);
        if hash_in_entry != siphash {
            self.judge.raise(with(if siphash { P::HtreeCannotSiphash } else { P::HtreeNeedsSiphash }, version))?;
        }
        if flags & 1 != 0 {
            self.raise(P::HtreeIncompat)?;
        }
        let large = ctx.geo.features.incompat.contains(Incompat::LARGEDIR);
        if levels > MAX_LEVELS || (levels > PLAIN_LEVELS && !large) {
            self.judge.raise(with(P::HtreeDepth, levels))?;
        }
        self.out.large_dir = levels > PLAIN_LEVELS || v.size() >= LARGE;
        Ok(())
    }
}
