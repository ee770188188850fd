//! How fast the extent-status tree is, and how much memory an entry takes, from 10 entries to 10 million.
//!
//! `cargo bench --bench extent_status [MOST]`; MOST is the largest number of entries (default 10000000). Entries are single
//! written blocks with unknown ones between them, so that no two join; the order is random, and the same in each run. A figure is
//! nanoseconds for one operation, the median of [`RUNS`] runs. Memory is what the process grows by, told by the host; below
//! 100,000 entries that says nothing.

use std::hint::black_box;
use std::time::Instant;

use ext4kit::env::{Entropy, SeededEntropy};
use ext4kit::file::extent_status::{EsEntry, EsStatus, EsTree};
use ext4kit::units::{Fsblk, Lblk};

const RUNS: usize = 3;
/// From here on the host's figures say something.
const SEEN_BY_HOST: u32 = 100_000;

/// The numbers below `n` in a random order.
fn shuffled(n: u32) -> Vec<u32> {
    let mut random = SeededEntropy::new(u64::from(n));
    let mut all: Vec<u32> = (0..n).collect();
    for i in (1..n as usize).rev() {
        let j = random.next_u32() as usize % (i + 1);
        all.swap(i, j);
    }
    all
}

fn entry(n: u32) -> EsEntry {
    EsEntry { lblk: Lblk(2 * n), len: 1, status: EsStatus::Written, pblk: Fsblk(1000 + 7 * u64::from(n)) }
}

/// Bytes that the process holds.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(text.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}

/// Do something to each tree with each number.
fn each(trees: &mut [EsTree], order: &[u32], mut body: impl FnMut(&mut EsTree, u32)) {
    for t in trees {
        for i in order {
            body(t, *i);
        }
    }
}

/// Nanoseconds for one of `n` operations.
fn time(n: u32, body: impl FnOnce()) -> f64 {
    let start = Instant::now();
    body();
    start.elapsed().as_nanos() as f64 / f64::from(n)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() {
    let most: u32 = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(10_000_000);
    println!(
        "{:>10} {:>10} {:>10} {:>10} {:>10} {:>12}",
        "entries", "insert ns", "append ns", "look up ns", "remove ns", "bytes/entry"
    );
    let mut n = 10;
    while n <= most {
        let order = shuffled(n);
        // Small trees are made many times, or there would be nothing to measure.
        let times = (100_000 / n).max(1);
        let (mut inserts, mut appends, mut looks, mut removes) = (vec![], vec![], vec![], vec![]);
        let mut bytes = None;
        for _ in 0..RUNS {
            let mut trees = vec![EsTree::new(); times as usize];
            let before = resident();
            inserts.push(time(n * times, || each(&mut trees, &order, |t, i| t.insert(entry(i)))));
            bytes = bytes.or(before.and_then(|b| resident()?.checked_sub(b)));
            assert_eq!(trees[0].len(), n as usize);
            let mut found = 0;
            looks.push(time(n * times, || {
                each(&mut trees, &order, |t, i| found += u64::from(black_box(t.lookup(Lblk(2 * i))).is_some()));
            }));
            assert_eq!(found, u64::from(n * times));
            removes.push(time(n * times, || each(&mut trees, &order, |t, i| t.remove(2 * i..2 * i + 1))));
            assert!(trees[0].is_empty());
            let ordered: Vec<u32> = (0..n).collect();
            appends.push(time(n * times, || each(&mut trees, &ordered, |t, i| t.insert(entry(i)))));
        }
        let bytes = bytes
            .filter(|_| n >= SEEN_BY_HOST)
            .map_or("-".into(), |b| format!("{:.1}", b as f64 / f64::from(n * times)));
        println!(
            "{n:>10} {:>10.0} {:>10.0} {:>10.0} {:>10.0} {bytes:>12}",
            median(inserts),
            median(appends),
            median(looks),
            median(removes)
        );
        n = n.saturating_mul(10);
    }
}
