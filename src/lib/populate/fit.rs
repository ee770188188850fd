//! How large a filesystem must be for a tree.

use super::dirs::DirRules;
use crate::error::{Error, Result};
use crate::format::dirent::min_rec_len;
use crate::format::features::Compat;
use crate::mkfs::fill::dir_format;
use crate::mkfs::{Draft, Layout, Options, Size};
use crate::source::tree::{Data, Tree};

/// Share of room left over, in percent of what the tree takes.
const HEADROOM: u64 = 5;
/// Smallest filesystem, bytes.
const SMALLEST: u64 = 2 << 20;
/// Steps of the size, bytes.
const STEP: u64 = 1 << 20;

/// Set the size of `options` (and the number of inodes, where it is not given and the usual share is not enough) so that
/// `tree` fits with some room to spare.
///
/// # Errors
/// [`Error::NoSpace`] where no size will do; what [`Layout::new`] says about the options.
pub fn fit(options: &mut Options, tree: &Tree) -> Result<()> {
    let inodes = tree.len() as u64 * (100 + HEADROOM) / 100 + 16;
    let asked = options.inodes;
    let mut bytes = (tree.data_bytes() + tree.data_bytes() / 20).next_multiple_of(STEP).max(SMALLEST);
    for _ in 0..64 {
        options.size = Size::Device(bytes);
        options.inodes = asked;
        let have = Layout::new(options).map_or(0, |l| u64::from(l.inode_count()));
        if asked.is_none() && have < inodes {
            options.inodes = Some(inodes);
        }
        let short = match Layout::new(options).and_then(Draft::new) {
            Ok(draft) => {
                let l = draft.layout();
                let need = blocks(tree, l);
                let need = need + need * HEADROOM / 100 + 16;
                need.saturating_sub(draft.free_blocks()) * u64::from(l.block_size())
            }
            Err(Error::NoSpace { .. } | Error::InvalidArgument { .. }) if bytes < 64 * SMALLEST => STEP,
            Err(e) => return Err(e),
        };
        if short == 0 {
            return Ok(());
        }
        bytes = (bytes + short + short / 50).next_multiple_of(STEP);
    }
    Err(Error::NoSpace { what: "bytes", need: bytes, have: 0 })
}

/// Blocks that the tree takes at most, extended attributes outside of inodes not counted.
fn blocks(tree: &Tree, l: &Layout) -> u64 {
    let bs = u64::from(l.block_size());
    let cluster = bs * l.cluster_ratio();
    let rules =
        DirRules { block_size: bs as usize, format: dir_format(l), hasher: None, large_dir: false, lost_found: None };
    let index = l.features().compat.contains(Compat::DIR_INDEX);
    let clusters: u64 = tree
        .nodes
        .iter()
        .map(|n| match n.data {
            Data::Dir { .. } => {
                let entries = tree.dir_entries(n);
                let bytes: usize = entries.iter().map(|e| min_rec_len(usize::from(e.name.len), false)).sum();
                // A leaf loses at most one longest entry.
                let room = rules.block_size - 12 - min_rec_len(255, false);
                let leaves = (bytes + 24).div_ceil(room) as u64;
                let blocks = if index && leaves > 1 { leaves + leaves / 100 + 2 } else { leaves };
                (blocks * bs).div_ceil(cluster)
            }
            Data::File => n.size.div_ceil(cluster) + map_clusters(n.size.div_ceil(bs), 1, bs),
            Data::Sparse(i) => {
                let segments = tree.segments(i);
                let data: u64 = segments.iter().map(|s| s.end.div_ceil(cluster) - s.start / cluster).sum();
                data + map_clusters(data * cluster / bs, segments.len() as u64, bs)
            }
            Data::Symlink(_) if n.size >= 60 => 1,
            Data::Symlink(_) | Data::Device(..) | Data::Special => 0,
        })
        .sum();
    clusters * l.cluster_ratio()
}

/// Blocks of a file's map at most: extents or indirect, whichever is more.
fn map_clusters(blocks: u64, runs: u64, bs: u64) -> u64 {
    if blocks <= 12 && runs <= 4 {
        return 0;
    }
    let indirect = 1 + blocks.div_ceil(bs / 4) + blocks.div_ceil(bs / 4 * (bs / 4));
    let extents = if runs <= 4 { 0 } else { 1 + (runs + blocks / 32768).div_ceil(bs / 12 - 1) * 2 };
    if blocks > 32768 { indirect.min(blocks / 128) + extents } else { indirect.min(4 + blocks / 128) + extents }
}
