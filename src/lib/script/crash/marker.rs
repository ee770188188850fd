//! Free blocks that say so: each is filled with sixteen bytes over and over that name it, so that a byte of one in a file is
//! seen for what it is.

use crate::device::BlockDevice;
use crate::error::Result;
use crate::format::bitmap;
use crate::volume::Volume;

/// Bytes of the text.
const LEN: usize = 16;
/// How it begins.
const BEGINS: &[u8] = b"<free ";

/// Fill every free block of `volume`, which is what `device` holds.
pub(super) fn fill(volume: &Volume, device: &dyn BlockDevice) -> Result<()> {
    let geo = volume.geometry();
    for group in geo.all_groups() {
        let map = volume.block_bitmap(group)?;
        let start = geo.group_start(group).0;
        let end = start.saturating_add(geo.blocks_in_group(group).into());
        for run in bitmap::zero_runs(&map, 0, geo.clusters_in_group(group) as usize) {
            let first = start.saturating_add((run.start as u64) << geo.cluster_bits);
            let last = start.saturating_add((run.end as u64) << geo.cluster_bits).min(end);
            for block in first..last {
                let text = format!("<free {block:>9}>");
                let bytes = text.as_bytes()[..LEN].repeat(geo.block_size as usize / LEN);
                device.write_at(block * u64::from(geo.block_size), &bytes)?;
            }
        }
    }
    Ok(())
}

/// The free block whose content is at byte `at` of `bytes`, as it is written there.
pub(super) fn named(bytes: &[u8], at: usize) -> Option<String> {
    let from = at / LEN * LEN;
    let text = bytes.get(from..from + LEN)?;
    let number = text.strip_prefix(BEGINS)?.strip_suffix(b">")?;
    Some(String::from_utf8_lossy(number).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;
    use crate::env::Timestamp;
    use crate::script::Script;
    use crate::volume::OpenOptions;
    use std::sync::Arc;

    #[test]
    fn all_free_blocks_are_filled_and_nothing_else_is() {
        let script = Script::parse(br#"{"size": "4M", "mkfs": ["-b", 1024, "-J", "size=1"]}"#).unwrap();
        let plain = crate::script::make(&script.head, Timestamp::from_secs(5)).unwrap().into_bytes();
        let device = Arc::new(MemoryDevice::from_bytes(plain.clone()));
        let volume = Volume::open(Arc::<MemoryDevice>::clone(&device), &OpenOptions::default()).unwrap();
        fill(&volume, &*device).unwrap();
        let filled = device.to_bytes();
        let changed = filled.chunks(1024).zip(plain.chunks(1024)).filter(|(a, b)| a != b).count() as u64;
        assert_eq!(changed, volume.superblock().free_blocks_count());
        assert_eq!(named(&filled, 3_000_000).as_deref(), Some("2929"));
        assert_eq!(named(&filled, 1024), None);
    }
}
