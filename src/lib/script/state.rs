//! What a file holds in memory, as the lines of a recording show it. Blocks are the filesystem's, sizes bytes.

use std::ops::ControlFlow;

use serde_json::{Value, json};

use crate::error::Result;
use crate::file::extent_status::EsStatus;
use crate::file::{MemInode, Mount};
use crate::format::extent::Extent;
use crate::volume::{MapEvent, Owner, Volume};

/// `[lblk, len, pblk or null, status]`.
fn entry(lblk: u32, len: u32, pblk: Option<u64>, status: EsStatus) -> Value {
    json!([lblk, len, pblk, status])
}

fn mapped(e: &Extent) -> Value {
    let status = if e.unwritten { EsStatus::Unwritten } else { EsStatus::Written };
    entry(e.lblk.0, e.len, Some(e.pblk.0), status)
}

/// The extents of an inode, and the blocks of its map outside the inode.
pub(super) fn extents(vol: &Volume, owner: Owner<'_>) -> Result<(Vec<Extent>, u64)> {
    let (mut all, mut nodes) = (Vec::new(), 0);
    vol.walk_map(owner, &mut |event| {
        match event {
            MapEvent::Node { .. } => nodes += 1,
            MapEvent::Data(e) => all.push(e),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((all, nodes))
}

/// What FIEMAP says: what is mapped, and what is delayed.
pub(super) fn fiemap(extents: &[Extent], delayed: impl Iterator<Item = (u32, u32)>) -> Vec<Value> {
    let mut all: Vec<(u32, Value)> = extents.iter().map(|e| (e.lblk.0, mapped(e))).collect();
    all.extend(delayed.map(|(lblk, len)| (lblk, entry(lblk, len, None, EsStatus::Delayed))));
    all.sort_by_key(|(lblk, _)| *lblk);
    all.into_iter().map(|(_, v)| v).collect()
}

/// The state of a file.
pub(super) fn state(m: &Mount, i: &MemInode, with_fiemap: bool) -> Result<Value> {
    let vol = m.volume();
    let geo = vol.geometry();
    let (ext, nodes) = extents(vol, i.o.owner())?;
    let es: Vec<Value> =
        i.dd.es().iter().map(|e| entry(e.lblk.0, e.len, e.status.is_mapped().then_some(e.pblk.0), e.status)).collect();
    let cluster = u64::from(geo.block_size) << geo.cluster_bits;
    let blocks = (i.o.inode.allocated_bytes(geo.block_size) + u64::from(i.dd.reserved()) * cluster) / 512;
    let mut out = json!({
        "ino": i.o.ino.0, "size": i.size, "disksize": i.disksize, "st_blocks": blocks,
        "reserved": i.dd.reserved(), "pending": i.dd.pending().collect::<Vec<_>>(),
        "io_path": m.path_of(i).name(), "io_path_why": m.uses_iomap(i).1,
        "es": es, "ext": ext.iter().map(mapped).collect::<Vec<_>>(), "tree_blocks": nodes,
    });
    if with_fiemap {
        let delayed = i.dd.es().iter().filter(|e| e.status == EsStatus::Delayed).map(|e| (e.lblk.0, e.len));
        out["fiemap"] = fiemap(&ext, delayed).into();
    }
    Ok(out)
}

/// The state of the filesystem.
pub(super) fn fs_state(m: &Mount) -> Value {
    let bits = m.volume().geometry().cluster_bits;
    let (free, dirty) = (m.space().free.exact(), m.space().dirty.exact());
    json!({ "delayed_blocks": dirty << bits, "free_blocks": free.saturating_sub(dirty) << bits })
}
