//! How large a filesystem must be for a tree.

use std::collections::{HashMap, HashSet};

use super::dirs::DirRules;
use super::gather::Gathered;
use super::inline::InlineRules;
use super::xattrs::{REFCOUNT_MAX, Room, shape};
use crate::error::{Error, Result};
use crate::format::dirent::min_rec_len;
use crate::format::features::Compat;
use crate::format::xattr;
use crate::mkfs::fill::dir_format;
use crate::mkfs::{Draft, Layout, Options, Size, parse_units};
use crate::source::tree::{Data, Tree};

/// Share of room left over, in percent of what the tree takes.
const HEADROOM: u64 = 5;
/// Smallest filesystem, bytes.
const SMALLEST: u64 = 2 << 20;
/// Steps of the size, bytes.
const STEP: u64 = 1 << 20;

/// Room to be left over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slack {
    /// In percent of what the tree takes.
    pub percent: u64,
    /// And so many bytes.
    pub bytes: u64,
}

impl Default for Slack {
    fn default() -> Self {
        Self { percent: HEADROOM, bytes: 0 }
    }
}

impl Slack {
    /// What `auto`, `auto+N%` and `auto+SIZE` ask for; `None` for any other text.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where something else follows `auto`.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let Some(rest) = text.strip_prefix("auto") else { return Ok(None) };
        let bad = || Error::InvalidArgument {
            name: "size",
            value: text.to_owned(),
            allowed: "auto, auto+N% or auto+SIZE, where SIZE may have a suffix K, M, G or T",
        };
        if rest.is_empty() {
            return Ok(Some(Self::default()));
        }
        let more = rest.strip_prefix('+').ok_or_else(bad)?;
        let slack = match more.strip_suffix('%') {
            Some(percent) => {
                Self { percent: percent.parse().ok().filter(|p| *p <= 100_000).ok_or_else(bad)?, bytes: 0 }
            }
            None => Self { percent: 0, bytes: parse_units(more, 1).map_err(|_| bad())? },
        };
        Ok(Some(slack))
    }
}

/// Set the number of inodes, where none is asked for and the usual share is not enough for `tree`.
///
/// # Errors
/// What [`Layout::new`] says about the options.
pub fn enough_inodes(options: &mut Options, tree: &Tree) -> Result<()> {
    let need = tree.len() as u64 + 16;
    if options.inodes.is_none() && u64::from(Layout::new(options)?.inode_count()) < need {
        grant_inodes(options, need)?;
    }
    Ok(())
}

/// Ask for so many inodes that there are at least `need`: groups have a multiple of eight, rounded down.
pub(super) fn grant_inodes(options: &mut Options, need: u64) -> Result<()> {
    options.inodes = Some(need);
    let layout = Layout::new(options)?;
    if u64::from(layout.inode_count()) < need {
        options.inodes = Some(need + 8 * u64::from(layout.group_count()));
    }
    Ok(())
}

/// Set the size of `options` (and the number of inodes, where it is not given and the usual share is not enough) so that
/// `tree` with its attributes fits with some room to spare.
///
/// # Errors
/// [`Error::NoSpace`] where no size will do; what [`Layout::new`] says about the options.
pub fn fit(options: &mut Options, tree: &Tree, attributes: &Gathered, slack: Slack) -> Result<()> {
    let own: HashSet<&[u8]> = attributes.iter().flat_map(|(_, _, set)| set).map(|(_, v)| v.as_slice()).collect();
    // Only large values can have inodes of their own; with small blocks more do than here, and room is left for them.
    let own = own.into_iter().filter(|v| v.len() > 900).count() as u64;
    let inodes = (tree.len() as u64 + own) * (100 + HEADROOM) / 100 + 16;
    let asked = options.inodes;
    let mut bytes = (tree.data_bytes() + tree.data_bytes() / 20).next_multiple_of(STEP).max(SMALLEST);
    for _ in 0..64 {
        options.size = Size::Device(bytes);
        options.inodes = asked;
        let have = Layout::new(options).map_or(0, |l| u64::from(l.inode_count()));
        if asked.is_none() && have < inodes && grant_inodes(options, inodes).is_err() {
            // What is wrong with it shows below.
            options.inodes = Some(inodes);
        }
        let short = match Layout::new(options).and_then(Draft::new) {
            Ok(draft) => {
                let l = draft.layout();
                let need = blocks(tree, l) + attribute_use(tree, attributes, l).0;
                let need = need + need * slack.percent / 100 + slack.bytes.div_ceil(l.block_size().into()) + 16;
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

/// Values that get inodes of their own in a filesystem of `options`, at most.
pub(super) fn value_inodes(tree: &Tree, attributes: &Gathered, options: &Options) -> Result<u64> {
    Ok(attribute_use(tree, attributes, &Layout::new(options)?).1)
}

/// Blocks that extended attributes take at most, shared blocks and values in inodes of their own, and how many such
/// inodes there are.
fn attribute_use(tree: &Tree, attributes: &Gathered, l: &Layout) -> (u64, u64) {
    let room = Room::of(l);
    let inline = InlineRules::of(l);
    let (ratio, bs) = (l.cluster_ratio(), u64::from(l.block_size()));
    // For each way of placing a set, whether it needs a block, and how many nodes have it.
    let mut users: HashMap<(u32, Option<usize>), (bool, u64)> = HashMap::new();
    let mut values: HashSet<&[u8]> = HashSet::new();
    for (id, set, attrs) in attributes.iter() {
        let second = tree.node(id).and_then(|n| inline?.second_len(tree, id, n));
        let (outside, users) = users.entry((set, second)).or_default();
        *users += 1;
        if *users == 1 {
            let need = |name: usize, value: usize| {
                let bare = xattr::entry_len(name);
                (bare + xattr::padded(value), bare)
            };
            let data = second.map(|n| need(super::inline::NAME.len(), n));
            let known = attrs.iter().filter_map(|(n, v)| xattr::split_name(n).map(|(_, rest)| (rest.len(), v)));
            let known: Vec<_> = known.collect();
            let needs = data.into_iter().chain(known.iter().map(|(n, v)| need(*n, v.len())));
            let places = shape(room, needs);
            let places = &places[usize::from(data.is_some())..];
            values.extend(places.iter().zip(&known).filter(|(p, _)| p.own).map(|(_, k)| k.1.as_slice()));
            *outside = places.iter().any(|p| !p.inside);
        }
    }
    let blocks: u64 = users.values().filter(|u| u.0).map(|u| u.1.div_ceil(REFCOUNT_MAX.into())).sum();
    let own: u64 = values.iter().map(|v| (v.len() as u64).div_ceil(bs * ratio) + map_clusters(0, 1, bs)).sum();
    ((blocks + own) * ratio, values.len() as u64)
}

/// Blocks that the tree takes at most, extended attributes outside of inodes not counted.
fn blocks(tree: &Tree, l: &Layout) -> u64 {
    let bs = u64::from(l.block_size());
    let cluster = bs * l.cluster_ratio();
    let rules =
        DirRules { block_size: bs as usize, format: dir_format(l), hasher: None, large_dir: false, lost_found: None };
    let index = l.features().compat.contains(Compat::DIR_INDEX);
    let inline = InlineRules::of(l);
    let clusters: u64 = (0..)
        .zip(&tree.nodes)
        .map(|(id, n)| match n.data {
            _ if inline.is_some_and(|rules| rules.holds(tree, id, n)) => 0,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slack_is_a_share_or_a_size() {
        let parse = |t| Slack::parse(t).ok().flatten().map(|s| (s.percent, s.bytes));
        assert_eq!(parse("auto"), Some((HEADROOM, 0)));
        assert_eq!(parse("auto+0%"), Some((0, 0)));
        assert_eq!(parse("auto+25%"), Some((25, 0)));
        assert_eq!(parse("auto+64M"), Some((0, 64 << 20)));
        assert_eq!(Slack::parse("64M").unwrap(), None);
        for bad in ["auto+", "auto-5%", "auto5%", "auto+x", "auto+%", "automatic"] {
            assert!(Slack::parse(bad).is_err(), "{bad}");
        }
    }
}
