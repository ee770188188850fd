//! What an inode is by its content: a block map, a directory, a device, a symbolic link.

use super::blocks::extent_header;
use super::state::Ctx;
use super::view::{View, le16, le32};
use crate::format::inode::{BLOCK_LEN, FileType, InodeFlags};
use crate::units::{Fsblk, Ino};

/// Whether the area holds a block map (as opposed to a symlink's target, or nothing).
#[doc(alias = "ext2fs_inode_has_valid_blocks2")]
pub(super) fn has_block_map(v: &View<'_>, ctx: &Ctx<'_>) -> bool {
    match v.file_type() {
        Some(FileType::Regular | FileType::Directory) => {}
        Some(FileType::Symlink) => {
            if v.file_acl(ctx.geo).0 == 0 {
                if v.core().blocks_lo.get() == 0 {
                    return false;
                }
            } else {
                return v.size() >= BLOCK_LEN as u64 || (v.size() > 4 && v.pointer(1) == 0);
            }
        }
        _ => return false,
    }
    !v.has(InodeFlags::INLINE_DATA)
}

/// Whether a block begins as that of the directory does.
pub(super) fn starts_like_directory(bytes: &[u8], ino: Ino) -> bool {
    let len = usize::from(le16(bytes, 4));
    let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
    let dot = le32(bytes, 0) == ino.0
        && byte(6) == 1
        && byte(8) == b'.'
        && len >= 12
        && len % 4 == 0
        && len < bytes.len().saturating_sub(12);
    let next = usize::from(le16(bytes, len + 4));
    dot && byte(len + 6) == 2 && byte(len + 8) == b'.' && byte(len + 9) == b'.' && next >= 12 && next % 4 == 0
}

/// Devices, pipes and sockets: no map and no index.
#[doc(alias = "e2fsck_pass1_check_device_inode")]
pub(super) fn device_is_sound(v: &View<'_>) -> bool {
    if v.has(InodeFlags::INDEX | InodeFlags::EXTENTS) {
        return false;
    }
    !v.has(InodeFlags::IMMUTABLE | InodeFlags::APPEND) || (4..15).all(|i| v.pointer(i) == 0)
}

/// A symlink's target: where its size says, and as long.
#[doc(alias = "e2fsck_pass1_check_symlink")]
pub(super) fn symlink_is_sound(ctx: &Ctx<'_>, v: &View<'_>, inline_size: Option<u64>) -> bool {
    let size = v.size();
    if v.core().size_high.get() != 0 || size == 0 || v.has(InodeFlags::INDEX) {
        return false;
    }
    if v.has(InodeFlags::INLINE_DATA) {
        return !v.has(InodeFlags::EXTENTS) && inline_size == Some(size);
    }
    let target_len = |bytes: &[u8]| {
        if v.has(InodeFlags::ENCRYPT) {
            usize::from(le16(bytes, 0)) + 2
        } else {
            bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len())
        }
    };
    if size < BLOCK_LEN as u64 {
        let len = target_len(v.area());
        return !v.has(InodeFlags::EXTENTS) && len < BLOCK_LEN && len as u64 == size;
    }
    let block = if v.has(InodeFlags::EXTENTS) {
        match extent_header(v.area()) {
            Some((1, 0)) if le32(v.area(), 12) == 0 && le16(v.area(), 16) == 1 => {
                u64::from(le32(v.area(), 20)) | (u64::from(le16(v.area(), 18)) << 32)
            }
            _ => return false,
        }
    } else {
        if (1..15).any(|i| v.pointer(i) != 0) {
            return false;
        }
        v.pointer(0).into()
    };
    if !ctx.geo.has_block(Fsblk(block)) {
        return false;
    }
    ctx.vol.block(Fsblk(block)).is_ok_and(|b| {
        let len = target_len(&b);
        len < b.len() && len as u64 == size
    })
}
