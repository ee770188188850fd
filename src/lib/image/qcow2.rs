//! QEMU's format qcow2, version 3: clusters of 64 KiB that are found through two levels of tables, and a reference count for each.
//! Big-endian. Clusters without data do not exist, and read as zeros.
//!
//! The order is header, table of reference counts, blocks of them, first-level table, second-level tables, data.

use std::io::Write;
use std::ops::Range;

use super::{copy, data_units, put};
use crate::device::BlockDevice;
use crate::error::Result;

const MAGIC: &[u8; 4] = b"QFI\xfb";
const VERSION: u32 = 3;
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of a table of one cluster.
const PER_TABLE: u64 = CLUSTER / 8;
/// Reference counts of one cluster, of 16 bits each.
const PER_BLOCK: u64 = CLUSTER / 2;
const REFCOUNT_ORDER: u32 = 4;
const HEADER_LEN: u32 = 104;
/// The cluster is used once, here.
const COPIED: u64 = 1 << 63;

/// How many clusters of each kind there are.
struct Shape {
    refcount_table: u64,
    refcount_blocks: u64,
    l1: u64,
    l2: u64,
    data: u64,
}

impl Shape {
    fn of(data: &[Range<u64>], l1_entries: u64) -> Self {
        let mut l2 = 0;
        let mut next = 0;
        for r in data {
            let (first, end) = ((r.start / PER_TABLE).max(next), (r.end - 1) / PER_TABLE + 1);
            l2 += end.saturating_sub(first);
            next = next.max(end);
        }
        let count = data.iter().map(|r| r.end - r.start).sum();
        let l1 = (l1_entries * 8).div_ceil(CLUSTER).max(1);
        let mut s = Self { refcount_table: 1, refcount_blocks: 1, l1, l2, data: count };
        // What counts references is counted itself.
        loop {
            let blocks = s.total().div_ceil(PER_BLOCK);
            let table = (blocks * 8).div_ceil(CLUSTER);
            if (blocks, table) == (s.refcount_blocks, s.refcount_table) {
                return s;
            }
            (s.refcount_blocks, s.refcount_table) = (blocks, table);
        }
    }

    fn total(&self) -> u64 {
        1 + self.refcount_table + self.refcount_blocks + self.l1 + self.l2 + self.data
    }

    fn first_l1(&self) -> u64 {
        1 + self.refcount_table + self.refcount_blocks
    }
}

/// Write what is on the device as a qcow2 image.
///
/// # Errors
/// What reading and writing report.
pub fn write_qcow2(dev: &dyn BlockDevice, out: &mut dyn Write) -> Result<()> {
    let data = data_units(dev, CLUSTER)?;
    let size = dev.len().next_multiple_of(512);
    let l1_entries = size.div_ceil(CLUSTER * PER_TABLE);
    let shape = Shape::of(&data, l1_entries);
    cluster(out, 0, header(size, l1_entries, &shape))?;
    let offsets =
        |first: u64, n: u64| (first..first + n).flat_map(|c| (c * CLUSTER).to_be_bytes()).collect::<Vec<u8>>();
    padded(out, offsets(1 + shape.refcount_table, shape.refcount_blocks), shape.refcount_table)?;
    for block in 0..shape.refcount_blocks {
        let used = (shape.total() - block * PER_BLOCK).min(PER_BLOCK);
        cluster(out, block, 1u16.to_be_bytes().repeat(used as usize))?;
    }
    tables(&data, l1_entries, &shape, out)?;
    for r in data {
        copy(dev, r.start * CLUSTER..r.end * CLUSTER, out)?;
    }
    Ok(())
}

fn header(size: u64, l1_entries: u64, shape: &Shape) -> Vec<u8> {
    let mut h = MAGIC.to_vec();
    let words = |h: &mut Vec<u8>, all: &[u32]| all.iter().for_each(|w| h.extend_from_slice(&w.to_be_bytes()));
    let longs = |h: &mut Vec<u8>, all: &[u64]| all.iter().for_each(|w| h.extend_from_slice(&w.to_be_bytes()));
    words(&mut h, &[VERSION]);
    // No backing file.
    longs(&mut h, &[0]);
    words(&mut h, &[0, CLUSTER_BITS]);
    longs(&mut h, &[size]);
    // Not encrypted.
    words(&mut h, &[0, l1_entries as u32]);
    longs(&mut h, &[shape.first_l1() * CLUSTER, CLUSTER]);
    // No snapshots.
    words(&mut h, &[shape.refcount_table as u32, 0]);
    longs(&mut h, &[0]);
    // No features.
    longs(&mut h, &[0, 0, 0]);
    words(&mut h, &[REFCOUNT_ORDER, HEADER_LEN]);
    h
}

/// The table of tables, and those that have something in them.
fn tables(data: &[Range<u64>], l1_entries: u64, shape: &Shape, out: &mut dyn Write) -> Result<()> {
    let first_l2 = shape.first_l1() + shape.l1;
    let in_table = |i: u64| {
        let from = data.partition_point(|r| r.end <= i * PER_TABLE);
        data.get(from..).unwrap_or_default().iter().take_while(move |r| r.start < (i + 1) * PER_TABLE)
    };
    let mut l1 = Vec::with_capacity(l1_entries as usize * 8);
    let mut next = first_l2;
    for i in 0..l1_entries {
        let used = in_table(i).next().is_some();
        l1.extend_from_slice(&(if used { (next * CLUSTER) | COPIED } else { 0 }).to_be_bytes());
        next += u64::from(used);
    }
    padded(out, l1, shape.l1)?;
    let mut at = first_l2 + shape.l2;
    for i in (0..l1_entries).filter(|i| in_table(*i).next().is_some()) {
        let mut table = vec![0; CLUSTER as usize];
        for r in in_table(i) {
            for unit in r.start.max(i * PER_TABLE)..r.end.min((i + 1) * PER_TABLE) {
                let slot = (unit % PER_TABLE) as usize * 8;
                if let Some(entry) = table.get_mut(slot..slot + 8) {
                    entry.copy_from_slice(&((at * CLUSTER) | COPIED).to_be_bytes());
                }
                at += 1;
            }
        }
        cluster(out, at, table)?;
    }
    Ok(())
}

/// One cluster, filled up with zeros.
fn cluster(out: &mut dyn Write, number: u64, bytes: Vec<u8>) -> Result<()> {
    let mut bytes = bytes;
    bytes.resize(CLUSTER as usize, 0);
    put(out, number * CLUSTER, &bytes)
}

/// Bytes of a table, filled up to so many clusters.
fn padded(out: &mut dyn Write, bytes: Vec<u8>, clusters: u64) -> Result<()> {
    let mut bytes = bytes;
    bytes.resize((clusters * CLUSTER) as usize, 0);
    put(out, 0, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_references_is_counted() {
        let s = Shape::of(std::slice::from_ref(&(0..PER_BLOCK)), PER_BLOCK / PER_TABLE);
        assert_eq!((s.l2, s.data, s.refcount_blocks, s.refcount_table), (4, PER_BLOCK, 2, 1));
        let s = Shape::of(&[1..2, 3..PER_TABLE + 1, 5 * PER_TABLE..5 * PER_TABLE + 1], 9);
        assert_eq!((s.l1, s.l2), (1, 3));
        assert_eq!(Shape::of(&[], 1).total(), 4);
    }
}
