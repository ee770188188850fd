//! Plans of extent tree changes: what a leaf becomes, whether it still fits, and how many blocks a change may dirty.
//! Pure; [`super::extent_edit`] carries them out. Lengths and positions in logical blocks.
//!
//! Neighbours are merged wherever they continue each other and the sum fits an entry.

use crate::format::extent::{Extent, MAX_DEPTH, MAX_UNWRITTEN_LEN, MAX_WRITTEN_LEN};
use crate::units::Lblk;

/// The longest extent of a kind, blocks.
pub const fn max_len(unwritten: bool) -> u32 {
    (if unwritten { MAX_UNWRITTEN_LEN } else { MAX_WRITTEN_LEN }) as u32
}

/// Whether `b` continues `a` and both fit one entry.
#[doc(alias = "ext4_can_extents_be_merged")]
pub const fn can_merge(a: &Extent, b: &Extent) -> bool {
    a.unwritten == b.unwritten
        && a.end() == b.lblk.0 as u64
        && a.pblk.0.saturating_add(a.len as u64) == b.pblk.0
        && a.len.saturating_add(b.len) <= max_len(a.unwritten)
}

/// The part of `e` inside `start..end`; `None` where there is none.
pub fn clip(e: &Extent, start: u64, end: u64) -> Option<Extent> {
    let first = u64::from(e.lblk.0);
    let (from, to) = (first.max(start), e.end().min(end));
    let len = to.checked_sub(from).filter(|n| *n > 0)?;
    Some(Extent {
        lblk: Lblk(from as u32),
        len: len as u32,
        pblk: e.pblk.saturating_add(from.saturating_sub(first)),
        unwritten: e.unwritten,
    })
}

/// Put `new` into a leaf, merged with its neighbours where it continues them. The leaf must have no extent that
/// overlaps. May grow the leaf by one entry.
pub fn inserted(leaf: &[Extent], new: Extent) -> Vec<Extent> {
    let at = leaf.partition_point(|e| e.lblk <= new.lblk);
    let (before, after) = leaf.split_at_checked(at).unwrap_or((leaf, &[]));
    let mut out = Vec::with_capacity(leaf.len().saturating_add(1));
    out.extend_from_slice(before);
    push_merged(&mut out, new);
    let mut rest = after.iter();
    if let Some(next) = rest.next() {
        push_merged(&mut out, *next);
    }
    out.extend(rest);
    out
}

/// Put `new` into a leaf as an extent of its own.
pub fn inserted_apart(leaf: &[Extent], new: Extent) -> Vec<Extent> {
    let mut out = leaf.to_vec();
    out.insert(leaf.partition_point(|e| e.lblk <= new.lblk), new);
    out
}

/// Append, or lengthen the last extent.
fn push_merged(out: &mut Vec<Extent>, e: Extent) {
    match out.last_mut() {
        Some(last) if can_merge(last, &e) => last.len = last.len.saturating_add(e.len),
        _ => out.push(e),
    }
}

/// A leaf with `start..end` cut out, and what was cut. May grow the leaf by one entry.
pub fn removed(leaf: &[Extent], start: u64, end: u64) -> (Vec<Extent>, Vec<Extent>) {
    let (mut kept, mut cut) = (Vec::with_capacity(leaf.len().saturating_add(1)), Vec::new());
    for e in leaf {
        kept.extend(clip(e, 0, start));
        cut.extend(clip(e, start, end));
        kept.extend(clip(e, end, u64::MAX));
    }
    (kept, cut)
}

/// A leaf with all of `start..end` that is mapped made written or unwritten, merged with what it then continues.
/// May grow the leaf by two entries (more where written extents of full length become unwritten).
#[doc(alias = "ext4_convert_unwritten_extents")]
pub fn converted(leaf: &[Extent], start: u64, end: u64, unwritten: bool) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::with_capacity(leaf.len().saturating_add(2));
    for e in leaf {
        if e.unwritten == unwritten || e.end() <= start || u64::from(e.lblk.0) >= end {
            push_near(&mut out, *e, start, end);
            continue;
        }
        let middle = clip(e, start, end).map(|m| Extent { unwritten, ..m });
        let longest = u64::from(max_len(unwritten));
        let pieces = middle.into_iter().flat_map(|m| {
            let first = u64::from(m.lblk.0);
            let cut = first.saturating_add(longest);
            [clip(&m, 0, cut), clip(&m, cut, u64::MAX)].into_iter().flatten()
        });
        let all = clip(e, 0, start).into_iter().chain(pieces).chain(clip(e, end, u64::MAX));
        for piece in all {
            push_near(&mut out, piece, start, end);
        }
    }
    out
}

/// Append, merging only at what lies in or touches `start..end`: the rest of the leaf stays as it was.
fn push_near(out: &mut Vec<Extent>, e: Extent, start: u64, end: u64) {
    let touches = e.end() >= start && u64::from(e.lblk.0) <= end;
    if touches { push_merged(out, e) } else { out.push(e) }
}

/// The most metadata blocks that inserting `extents` new extents into a tree of `depth` levels dirties, the inode and
/// allocation not counted: every insertion may split the whole path and deepen the tree.
#[doc(alias = "ext4_ext_index_trans_blocks")]
pub const fn insert_credits(depth: u16, extents: u32) -> u32 {
    // Each level: the node that was there and the one it was split into. One more where the tree grows.
    let depth = if depth < MAX_DEPTH { depth.saturating_add(1) } else { depth };
    extents.saturating_mul((depth as u32).saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Fsblk;

    fn e(lblk: u32, len: u32, pblk: u64, unwritten: bool) -> Extent {
        Extent { lblk: Lblk(lblk), len, pblk: Fsblk(pblk), unwritten }
    }

    #[test]
    fn an_insert_merges_both_ways() {
        let leaf = [e(0, 10, 100, false), e(20, 10, 120, false)];
        assert_eq!(inserted(&leaf, e(10, 10, 110, false)), [e(0, 30, 100, false)]);
        assert_eq!(inserted(&leaf, e(10, 5, 110, false)), [e(0, 15, 100, false), e(20, 10, 120, false)]);
        assert_eq!(inserted(&leaf, e(15, 5, 115, false)), [e(0, 10, 100, false), e(15, 15, 115, false)]);
        assert_eq!(inserted(&leaf, e(10, 10, 110, true)).len(), 3);
        assert_eq!(inserted(&leaf, e(10, 10, 200, false)).len(), 3);
        let full = [e(0, 32768, 0, false)];
        assert_eq!(inserted(&full, e(32768, 1, 32768, false)).len(), 2);
    }

    #[test]
    fn conversions_split_and_merge() {
        let leaf = [e(0, 10, 100, false), e(10, 10, 110, true), e(20, 10, 120, false)];
        assert_eq!(converted(&leaf, 10, 20, false), [e(0, 30, 100, false)]);
        assert_eq!(
            converted(&leaf, 12, 15, false),
            [
                e(0, 10, 100, false),
                e(10, 2, 110, true),
                e(12, 3, 112, false),
                e(15, 5, 115, true),
                e(20, 10, 120, false)
            ]
        );
        assert_eq!(converted(&leaf, 5, 25, true), [e(0, 5, 100, false), e(5, 20, 105, true), e(25, 5, 125, false)]);
        let full = [e(0, 32768, 0, false)];
        assert_eq!(converted(&full, 0, 40000, true), [e(0, 32767, 0, true), e(32767, 1, 32767, true)]);
    }

    #[test]
    fn removal_cuts_the_middle() {
        let leaf = [e(0, 10, 100, false), e(10, 10, 110, true)];
        let (kept, cut) = removed(&leaf, 3, 15);
        assert_eq!(kept, [e(0, 3, 100, false), e(15, 5, 115, true)]);
        assert_eq!(cut, [e(3, 7, 103, false), e(10, 5, 110, true)]);
        let (kept, cut) = removed(&leaf[..1], 3, 4);
        assert_eq!((kept.len(), cut.len()), (2, 1));
    }
}
