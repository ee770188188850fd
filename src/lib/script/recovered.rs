//! What is left on a device: recovered over an overlay, read back, and checked. The device itself stays as it is.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::content::crc32;
use super::state::{extents, fiemap};
use crate::check::{self, CheckOptions, Collect};
use crate::device::{BlockDevice, OverlayDevice};
use crate::env::Timestamp;
use crate::error::Result;
use crate::format::inode::FileType;
use crate::journal::RecoverOptions;
use crate::progress::Silent;
use crate::recover::recover;
use crate::units::Ino;
use crate::volume::{OpenInode, OpenOptions, Volume};

/// Bytes that are summed together.
const PAGE: u64 = 4096;
/// The exit status of a checker that found errors and corrected none.
const UNCORRECTED: u8 = 4;

/// Recover what `device` holds, and describe it: the files of the root directory with sizes, sums and mappings, free blocks,
/// and the exit status that a check gives.
pub fn recovered(device: &Arc<dyn BlockDevice>, now: Timestamp) -> Result<Value> {
    let over: Arc<dyn BlockDevice> = Arc::new(OverlayDevice::new(Arc::clone(device)));
    recover(&over, None, RecoverOptions { now: Some(now), ..RecoverOptions::default() })?;
    let vol = Volume::open(Arc::clone(&over), &OpenOptions::default())?;
    let root = vol.inode(Ino::ROOT)?;
    let root = OpenInode { ino: Ino::ROOT, inode: root };
    let mut files = Map::new();
    for e in vol.read_dir(root.owner())? {
        let name = String::from_utf8_lossy(&e.name).into_owned();
        if name.starts_with('.') {
            continue;
        }
        let o = OpenInode { ino: e.ino, inode: vol.inode(e.ino)? };
        if o.inode.file_type() == Some(FileType::Regular) {
            files.insert(name, describe(&vol, &o)?);
        }
    }
    let options = CheckOptions::everything(now);
    let outcome = check::check(&over, &options, &mut Collect::default(), &Silent)?;
    let status = if outcome.errors > 0 || outcome.aborted { UNCORRECTED } else { 0 };
    Ok(json!({ "files": files, "free_blocks": vol.superblock().free_blocks_count(), "fsck": status }))
}

fn describe(vol: &Volume, o: &OpenInode) -> Result<Value> {
    let size = o.inode.size();
    let block_size = u64::from(vol.geometry().block_size);
    let (ext, _) = extents(vol, o.owner())?;
    let reader = vol.reader(o.owner())?;
    let (mut crc, mut next) = (0, 0);
    let mut page = vec![0; PAGE as usize];
    for e in ext.iter().filter(|e| !e.unwritten) {
        let mut at = ((u64::from(e.lblk.0) * block_size) & !(PAGE - 1)).max(next);
        let end = (e.end() * block_size).min(size);
        while at < end {
            page.fill(0);
            reader.read_at(at, &mut page)?;
            if page.iter().any(|b| *b != 0) {
                crc = crc32(crc32(crc, &at.to_le_bytes()), &page);
            }
            at += PAGE;
        }
        next = next.max(at);
    }
    Ok(json!({
        "size": size, "st_blocks": o.inode.allocated_bytes(vol.geometry().block_size) / 512,
        "fiemap": fiemap(&ext, std::iter::empty()), "crc32": crc,
    }))
}
