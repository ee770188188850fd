//! Planning without writing, and the smallest filesystem that holds a tree.

use super::fit::{Slack, fit, grant_inodes, value_inodes};
use super::gather::Gathered;
use super::inline::Inlined;
use super::inodes::TreeInodes;
use super::plan::Plan;
use super::xattrs::XattrTable;
use crate::error::{Error, Result};
use crate::format::features::Compat;
use crate::format::inline_data::InlineData;
use crate::mkfs::{Draft, Layout, Options, Size};
use crate::source::tree::{Node, NodeId, Tree};

/// Inodes that a filesystem may have for itself, beside those of the tree.
const OWN_INODES: u64 = 14;
/// Steps in which sizes are tried, bytes.
const STEP: u64 = 4096;
/// How often the first guess may turn out too small.
const MAX_GROWTH: u32 = 16;

/// Plan `tree` into a filesystem of `layout`, without writing anything.
///
/// # Errors
/// [`Error::NoSpace`] where it does not fit.
pub fn trial(layout: Layout, tree: &Tree, attributes: &Gathered) -> Result<Draft> {
    let own = tree.brings_lost_found()?;
    let mut draft = if own { Draft::without_lost_found(layout)? } else { Draft::new(layout)? };
    let lost_found = draft.lost_found();
    let plan = Plan::new(&mut draft, tree, lost_found)?;
    let inlined = stand_ins(&plan, tree);
    let none = Gathered::default();
    let kept = draft.layout().features().compat.contains(Compat::EXT_ATTR);
    let xattrs = XattrTable::new(&mut draft, tree, if kept { attributes } else { &none }, &inlined)?;
    let inodes = TreeInodes::new(&draft, tree, &plan, &xattrs, &inlined);
    draft.complete(&inodes)?;
    Ok(draft)
}

/// Inline data of the right length, without content.
fn stand_ins(plan: &Plan, tree: &Tree) -> Inlined {
    let len = |id: NodeId, node: &Node| plan.inline?.second_len(tree, id, node);
    let all = (0..).zip(&tree.nodes).filter(|(id, _)| plan.is_inline(*id));
    all.filter_map(|(id, n)| len(id, n).map(|n| (id, InlineData { first: [0; 60], second: vec![0; n] }))).collect()
}

/// Set the size of `options`, and the number of inodes where none is asked for, to the least that hold `tree`.
///
/// # Errors
/// As [`fit`].
pub fn minimize(options: &mut Options, tree: &Tree, attributes: &Gathered) -> Result<()> {
    let asked = options.inodes;
    fit(options, tree, attributes, Slack::default())?;
    let block_size = Layout::new(options)?.block_size();
    // What would change with the size stays as it is.
    options.block_size = Some(block_size);
    options.inodes = asked;
    let need = match asked {
        Some(_) => None,
        None => Some(tree.len() as u64 + value_inodes(tree, attributes, options)? + OWN_INODES),
    };
    let step = STEP.max(block_size.into());
    let Size::Device(mut high) = options.size else { return Ok(()) };
    let mut grown = 0;
    while !fits(options, need, high, tree, attributes)? {
        grown += 1;
        if grown > MAX_GROWTH {
            return Err(Error::NoSpace { what: "bytes", need: high, have: 0 });
        }
        high += (high / 16).next_multiple_of(step);
    }
    let mut low = 0;
    while high - low > step {
        let middle = (low + (high - low) / 2).next_multiple_of(step).min(high - step);
        if middle <= low {
            break;
        }
        if fits(options, need, middle, tree, attributes)? { high = middle } else { low = middle }
    }
    options.size = Size::Device(high);
    need.map_or(Ok(()), |n| grant_inodes(options, n))?;
    // The filesystem may leave the end of that unused.
    let used = Layout::new(options)?.byte_len();
    if used < high && fits(options, need, used, tree, attributes)? {
        options.size = Size::Device(used);
        need.map_or(Ok(()), |n| grant_inodes(options, n))?;
    }
    Ok(())
}

/// Whether so many bytes are enough, with `need` inodes where none are asked for.
fn fits(options: &Options, need: Option<u64>, bytes: u64, tree: &Tree, attributes: &Gathered) -> Result<bool> {
    let mut options = Options { size: Size::Device(bytes), ..options.clone() };
    let granted = need.map_or(Ok(()), |n| grant_inodes(&mut options, n));
    let planned = granted.and_then(|()| Layout::new(&options)).and_then(|l| trial(l, tree, attributes));
    match planned {
        Ok(_) => Ok(true),
        // Too small for its own metadata, journal or inode tables.
        Err(Error::NoSpace { .. } | Error::InvalidArgument { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}
