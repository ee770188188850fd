//! Random operations against plain bytes: whatever the block size, the clusters and the mount options, files read back as
//! written, the invariants hold after each operation, nothing stays reserved after a sync, and the filesystem checks clean.
//! `EXT4KIT_MODEL_OPS` is the number of operations (default 1500).

use std::sync::Arc;

use super::extent_status::EsStatus;
use super::{Mount, MountOptions};
use crate::check::{self, CheckOptions, Collect};
use crate::device::{BlockDevice, MemoryDevice};
use crate::env::{Entropy, SeededEntropy, Timestamp};
use crate::error::Error;
use crate::mkfs::{Draft, FeatureEdit, Layout, Options, Size};
use crate::namei::{Attributes, Context, Namei, What};
use crate::progress::Silent;
use crate::units::Ino;

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
/// Files reach so far.
const SPAN: u64 = 300_000;

struct Rig {
    device: Arc<dyn BlockDevice>,
    mount: Mount,
    files: Vec<(Ino, Vec<u8>)>,
    /// Check all that can be checked only every so many operations.
    sampled: u64,
    random: SeededEntropy,
    cluster: u64,
    block: u64,
}

fn make(block: u32, cluster: Option<u32>) -> Arc<dyn BlockDevice> {
    let mut o = Options::new(Size::Units((24 << 20) / u64::from(block)), [1; 16], [2; 16], NOW);
    o.block_size = Some(block);
    if let Some(c) = cluster {
        o.cluster_size = Some(c);
        o.features.extend(FeatureEdit::parse_list("bigalloc").unwrap());
    }
    let device = MemoryDevice::new(24 << 20);
    Draft::new(Layout::new(&o).unwrap()).unwrap().write(&device, true).unwrap();
    Arc::new(device)
}

/// A filesystem with one empty file.
pub(super) fn made(block: u32, options: MountOptions) -> (Mount, Ino) {
    let mut mount = Mount::new(make(block, None), options, NOW).unwrap();
    let mut names = Context::new(mount.volume(), NOW);
    let made = mount.with_edit(&mut names, |e, c| {
        Ok(Namei::new(e, c).make(Ino::ROOT, b"a", What::File, &Attributes::root(0o644))?.ino)
    });
    (mount, made.unwrap())
}

impl Rig {
    fn new(block: u32, cluster: Option<u32>, options: &str, seed: u64) -> Self {
        let device = make(block, cluster);
        let mut mount = Mount::new(Arc::clone(&device), MountOptions::parse(options).unwrap(), NOW).unwrap();
        let mut names = Context::new(mount.volume(), NOW);
        let mut files = Vec::new();
        for name in [b"a", b"b"] {
            let ino = mount.with_edit(&mut names, |e, c| {
                Ok(Namei::new(e, c).make(Ino::ROOT, name, What::File, &Attributes::root(0o644))?.ino)
            });
            files.push((ino.unwrap(), Vec::new()));
        }
        let random = SeededEntropy::new(seed);
        Self { device, mount, files, sampled: 1, random, cluster: cluster.unwrap_or(block).into(), block: block.into() }
    }

    fn below(&mut self, n: u64) -> u64 {
        u64::from(self.random.next_u32()) % n.max(1)
    }

    /// One operation; `false` where there was no room for it.
    fn step(&mut self, n: u64) -> bool {
        let which = self.below(2) as usize;
        let (ino, mut want) = self.files[which].clone();
        let size = want.len() as u64;
        let (mut off, mut len) = (self.below(SPAN), 1 + self.below(9 * self.block));
        if self.below(3) == 0 {
            off -= off % self.block;
            len = len.next_multiple_of(self.block);
        }
        let end = off + len;
        let data: Vec<u8> = (off..end).map(|p| (p * 7 + n * 131) as u8 | 1).collect();
        let fill = |want: &mut Vec<u8>, at: u64, bytes: &[u8]| {
            let to = at as usize + bytes.len();
            want.resize(want.len().max(to), 0);
            want[at as usize..to].copy_from_slice(bytes);
        };
        let zero = |want: &mut [u8]| {
            let (from, to) = (off.min(size) as usize, end.min(size) as usize);
            want[from..to].fill(0);
        };
        let m = &mut self.mount;
        let kind = u64::from(self.random.next_u32()) % 16;
        let done = match kind {
            0..=4 => m.write(ino, off, &data).map(|n| fill(&mut want, off, &data[..n])),
            5 => {
                let (at, len) = (off - off % 512, len.next_multiple_of(512));
                let data: Vec<u8> = (at..at + len).map(|p| (p * 3 + n) as u8 | 1).collect();
                m.write_direct(ino, at, &data).map(|_| fill(&mut want, at, &data))
            }
            6 if size > 0 => {
                let at = off % size;
                let bytes = &data[..(data.len() as u64).min(size - at).min(4096 - at % 4096) as usize];
                m.store_mapped(ino, at, bytes).map(|()| fill(&mut want, at, bytes))
            }
            7 => m.truncate(ino, off).map(|()| want.resize(off as usize, 0)),
            8 => m.fallocate(ino, off, len, n.is_multiple_of(2)).map(|()| {
                if n % 2 == 1 {
                    want.resize(want.len().max(end as usize), 0);
                }
            }),
            9 => m.punch(ino, off, len).map(|()| zero(&mut want)),
            10 => m.zero_range(ino, off, len, n.is_multiple_of(2)).map(|()| {
                zero(&mut want);
                if n % 2 == 1 {
                    want.resize(want.len().max(end as usize), 0);
                }
            }),
            11 if n.is_multiple_of(3) => {
                let (at, len) = (off % size.max(1) / self.cluster * self.cluster, self.cluster);
                if n.is_multiple_of(2) && size > at {
                    m.insert(ino, at, len).map(|()| drop(want.splice(at as usize..at as usize, vec![0; len as usize])))
                } else if at + len < size {
                    m.collapse(ino, at, len).map(|()| drop(want.drain(at as usize..(at + len) as usize)))
                } else {
                    Ok(())
                }
            }
            12 => m.write_back(ino, off..end),
            13 => m.fsync(ino, n.is_multiple_of(2)),
            14 if n.is_multiple_of(4) => m.drop_caches(ino),
            15 if n.is_multiple_of(4) => m.sync(),
            _ => m.clear_es(ino),
        };
        match done {
            Ok(()) => {}
            Err(Error::NoSpace { .. }) => return false,
            Err(e) => panic!("operation {n} (kind {kind}, {off}+{len}): {e}"),
        }
        self.files[which].1 = want;
        let wrong = self.mount.check_state().unwrap();
        assert_eq!(wrong, None, "after operation {n} (kind {kind} at {off}+{len})");
        if kind == 15 && n.is_multiple_of(4) {
            assert_eq!(self.mount.check_synced(), None, "after operation {n}");
        }
        if n.is_multiple_of(self.sampled) {
            assert_eq!(self.mount.check_cache().unwrap(), None, "after operation {n} (kind {kind} at {off}+{len})");
            self.compare(which, n);
        }
        true
    }

    fn compare(&mut self, which: usize, n: u64) {
        let (ino, want) = &self.files[which];
        let got = self.mount.read(*ino, 0, want.len()).unwrap();
        assert_eq!(self.mount.inode(*ino).unwrap().size, want.len() as u64, "size after operation {n}");
        let differs = got.iter().zip(want).position(|(a, b)| a != b);
        assert_eq!(differs, None, "content after operation {n}");
    }

    fn finish(mut self) {
        self.mount.sync().unwrap();
        assert_eq!(self.mount.check_synced(), None);
        for which in 0..self.files.len() {
            self.compare(which, u64::MAX);
        }
        self.mount.unmount().unwrap();
        let options = CheckOptions::everything(NOW);
        let mut found = Collect::default();
        let outcome = check::check(&self.device, &options, &mut found, &Silent).unwrap();
        assert_eq!(outcome.errors, 0, "{:?}", found.0.iter().map(check::Finding::message).collect::<Vec<_>>());
    }
}

#[test]
fn files_hold_what_was_written_whatever_the_options() {
    let total: u64 = std::env::var("EXT4KIT_MODEL_OPS").ok().and_then(|v| v.parse().ok()).unwrap_or(1500);
    let shapes: &[(u32, Option<u32>)] =
        &[(4096, None), (2048, None), (1024, None), (1024, Some(8192)), (2048, Some(8192)), (4096, Some(16384))];
    let mounts = [
        "rw",
        "rw,dioread_lock",
        "rw,nodelalloc",
        "rw,data=journal",
        "rw,data=writeback",
        "rw,buffered_iomap",
        "rw,nodelalloc,buffered_iomap",
        "rw,data=writeback,nodelalloc,dioread_lock",
        "rw,data=writeback,buffered_iomap",
    ];
    let each = total / (shapes.len() * mounts.len()) as u64;
    let (mut files, mut done_in_all) = (0, 0);
    let mut seed = 1;
    for (block, cluster) in shapes {
        for mount in mounts {
            // New files every so often: what one filesystem has become is not all there is.
            let mut left = each;
            while left > 0 {
                let now = left.min(2000);
                let mut rig = Rig::new(*block, *cluster, mount, seed);
                rig.sampled = if total > 100_000 { 8 } else { 1 };
                let done = (0..now).filter(|n| rig.step(*n)).count() as u64;
                assert_eq!(done, now, "there is room for all ({block}, {cluster:?}, {mount}, {seed})");
                rig.finish();
                seed += 1;
                left -= now;
                files += 1;
                done_in_all += done;
            }
        }
    }
    eprintln!("{done_in_all} operations on {files} filesystems");
}

/// A store through a mapping may reach behind the end, in the last page: it is no content, whatever makes the file longer.
#[test]
fn what_was_stored_behind_the_end_is_no_content() {
    let paths = ["rw", "rw,nodelalloc", "rw,buffered_iomap", "rw,nodelalloc,buffered_iomap", "rw,data=journal"];
    for (options, way) in paths.into_iter().flat_map(|o| (0..16).map(move |way| (o, way))) {
        let mut rig = Rig::new(1024, None, options, 1);
        let ino = rig.files[0].0;
        let m = &mut rig.mount;
        let size = if way & 8 == 0 { 4651 } else { 5120 };
        m.write(ino, 0, &vec![1; size as usize]).unwrap();
        m.store_mapped(ino, 5887, &[9; 100]).unwrap();
        if way & 4 != 0 {
            m.sync().unwrap();
        }
        match way & 3 {
            0 => drop(m.write(ino, 12_816, &[1; 100]).unwrap()),
            1 => m.truncate(ino, 20_000).unwrap(),
            2 => m.fallocate(ino, 0, 20_000, false).unwrap(),
            _ => drop(m.write_direct(ino, 12_800, &[1; 512]).unwrap()),
        }
        let seen = m.read(ino, size, (12_800 - size) as usize).unwrap();
        assert!(seen.iter().all(|b| *b == 0), "{options}, way {way}");
        m.fsync(ino, false).unwrap();
        assert_eq!(m.check_cache().unwrap(), None, "{options}, way {way}");
    }
}

#[test]
fn a_write_is_reserved_until_it_is_written_back() {
    let mut rig = Rig::new(4096, None, "rw", 1);
    let ino = rig.files[0].0;
    rig.mount.write(ino, 0, &[1; 10000]).unwrap();
    let i = rig.mount.inode(ino).unwrap();
    assert_eq!((i.size, i.disksize, i.dd.reserved()), (10000, 0, 3));
    rig.mount.write_back(ino, 4096..4097).unwrap();
    let i = rig.mount.inode(ino).unwrap();
    assert_eq!(
        (i.disksize, i.dd.reserved(), rig.mount.space().dirty.exact()),
        (8192, 1, 1),
        "the first two pages are one folio"
    );
    rig.mount.fsync(ino, false).unwrap();
    let i = rig.mount.inode(ino).unwrap();
    assert_eq!((i.disksize, i.dd.reserved()), (10000, 0));
}

#[test]
fn the_size_on_disk_follows_the_data_on_the_iomap_path() {
    let mut rig = Rig::new(4096, None, "rw,buffered_iomap", 1);
    let ino = rig.files[0].0;
    rig.mount.write(ino, 0, &[1; 10000]).unwrap();
    let i = rig.mount.inode(ino).unwrap();
    assert_eq!((rig.mount.path_of(i).name(), i.dd.reserved(), i.disksize), ("iomap", 3, 0));
    // One mapping serves the whole write, and one extent all of it.
    assert_eq!(i.dd.es().iter().filter(|e| e.status == EsStatus::Delayed).map(|e| e.len).collect::<Vec<_>>(), [3]);
    rig.mount.write_back(ino, 0..u64::MAX).unwrap();
    let i = rig.mount.inode(ino).unwrap();
    assert_eq!((i.dd.reserved(), i.disksize, i.ordered.clone()), (0, 10000, None));
    // Without delayed allocation nothing is written before its data is: a crash shows zeros, never old blocks.
    let mut rig = Rig::new(4096, None, "rw,nodelalloc,buffered_iomap", 1);
    let ino = rig.files[0].0;
    rig.mount.write(ino, 0, &[1; 8192]).unwrap();
    rig.mount.force_commit().unwrap();
    let i = rig.mount.inode(ino).unwrap();
    assert!(i.dd.es().iter().all(|e| e.status != EsStatus::Written));
    assert_eq!(i.disksize, 0);
    let data = Rig::new(4096, None, "rw,data=journal,buffered_iomap", 1);
    let mut mount = data.mount;
    mount.load(data.files[0].0).unwrap();
    let i = mount.inode(data.files[0].0).unwrap();
    assert_eq!(mount.uses_iomap(i), (false, "its data goes through the journal"));
}

#[test]
fn a_commit_sends_data_only_where_something_beside_writeback_asked_for_it() {
    let mut rig = Rig::new(4096, None, "rw,dioread_lock", 1);
    let ino = rig.files[0].0;
    let dirty = |rig: &Rig| rig.mount.inode(ino).unwrap().cache.iter().filter(|f| f.dirty).count();
    let fill = |rig: &mut Rig, at: u64, with: u8| {
        for page in 0..2 {
            rig.mount.write(ino, at + 4096 * page, &[with; 4096]).unwrap();
        }
    };
    for (partial, left) in [(false, 2), (true, 1), (false, 0)] {
        let at = rig.mount.inode(ino).map_or(0, |i| i.size);
        fill(&mut rig, at, 1);
        rig.mount.write_back(ino, 0..u64::MAX).unwrap();
        assert_eq!(dirty(&rig), 0);
        fill(&mut rig, at, 2);
        if partial {
            // What is zeroed in a block asks for the bytes zeroed, and is why later commits send all that they expose.
            rig.mount.write_back(ino, 0..u64::MAX).unwrap();
            rig.mount.force_commit().unwrap();
            fill(&mut rig, at, 3);
            rig.mount.punch(ino, at + 100, 100).unwrap();
        }
        rig.mount.force_commit().unwrap();
        assert_eq!(dirty(&rig), left, "partial {partial}");
        rig.mount.write_back(ino, 0..u64::MAX).unwrap();
    }
}

#[test]
fn what_a_look_up_passes_is_noted_but_not_by_a_range_that_is_zeroed() {
    let entries = |change: fn(&mut Mount, Ino)| {
        let mut rig = Rig::new(1024, None, "rw", 1);
        let ino = rig.files[0].0;
        for first in [4, 12, 28, 40] {
            rig.mount.write(ino, first << 10, &[1; 4096]).unwrap();
        }
        rig.mount.fsync(ino, false).unwrap();
        rig.mount.clear_es(ino).unwrap();
        change(&mut rig.mount, ino);
        let es = rig.mount.inode(ino).unwrap().dd.es();
        es.iter().map(|e| (e.lblk.0, e.len, e.status)).collect::<Vec<_>>()
    };
    let (hole, written) = (EsStatus::Hole, EsStatus::Written);
    let inserted = entries(|m, ino| m.insert(ino, 30 << 10, 1024).unwrap());
    assert_eq!(inserted, [(4, 4, written), (8, 4, hole), (12, 4, written), (16, 12, hole), (28, 2, written)]);
    assert_eq!(entries(|m, ino| m.collapse(ino, 28 << 10, 4096).unwrap()), []);
    assert_eq!(entries(|m, ino| m.punch(ino, 30 << 10, 2048).unwrap()), [(30, 2, hole)]);
    let zeroed = entries(|m, ino| m.zero_range(ino, 30 << 10, 2048, true).unwrap());
    assert_eq!(zeroed, [(30, 2, EsStatus::Unwritten)]);
}

#[test]
fn without_room_a_write_is_short_and_nothing_leaks() {
    let mut rig = Rig::new(1024, None, "rw", 1);
    let ino = rig.files[0].0;
    let mut at = 0;
    let end = loop {
        match rig.mount.write(ino, at, &vec![7; 100_000]) {
            Ok(n) => at += n as u64,
            Err(Error::NoSpace { .. }) => break at,
            Err(e) => panic!("{e}"),
        }
        assert_eq!(rig.mount.check_state().unwrap(), None);
        assert!(at < 24 << 20);
    };
    assert!(end > 10 << 20, "{end}");
    // What a cut frees can be handed out after a commit: writeback makes one, and leaves nothing behind.
    for (cut, options) in [(0, "rw"), (1 << 20, "rw,buffered_iomap"), (5 << 20, "rw")] {
        rig.mount.options = MountOptions::parse(options).unwrap();
        rig.mount.sync().unwrap();
        rig.mount.truncate(ino, cut).unwrap();
        let n = rig.mount.write(ino, cut, &vec![7; 6 << 20]).unwrap() as u64;
        rig.mount.sync().unwrap();
        let i = rig.mount.inode(ino).unwrap();
        assert_eq!((i.dd.reserved(), i.disksize, n), (0, cut + n, 6 << 20));
        assert_eq!(rig.mount.check_state().unwrap(), None);
        rig.files[0].1 = vec![7; (cut + n) as usize];
        rig.compare(0, 0);
        let whole = rig.mount.write(ino, cut + n, &vec![7; 20 << 20]).unwrap_or(0) as u64;
        rig.files[0].1 = vec![7; (cut + n + whole) as usize];
    }
    let end = rig.files[0].1.len() as u64;
    assert_eq!(rig.mount.check_state().unwrap(), None);
    rig.files[0].1 = vec![7; end as usize];
    rig.finish();
}
