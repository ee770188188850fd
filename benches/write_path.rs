//! The write path in memory: how fast bytes go through the page cache on each path, what operations on the extent-status
//! tree cost, how much each path logs.
//!
//! `cargo bench --bench write_path [NAME]`; `EXT4KIT_BENCH_MIB` sets the amount for each figure (default 2048), written in order
//! in rounds. Rates are GB/s (10^9) of processor time, which does not see what else the machine does; wall time stands
//! behind.
//!
//! - `cache`: writes into the page cache, nothing written back, as the kernel's buffered write is measured; between
//!   rounds the file is cut to nothing, and its pages are free for the next.
//! - `device`: the same with writeback, conversion and drop-behind every 8 MiB, and an fsync at the end of each round, to a
//!   device in memory: every byte is copied twice.
//! - `buffer-head, pages` has folios of one page, as the kernel had on that path before 6.16.

#![expect(clippy::unwrap_used, reason = "a benchmark stops where it cannot go on")]

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ext4kit::device::{BlockDevice, MemoryDevice};
use ext4kit::env::Timestamp;
use ext4kit::file::extent_status::{EsEntry, EsStatus, EsTree};
use ext4kit::file::{Mount, MountOptions, PathChoice};
use ext4kit::mkfs::{Draft, Layout, Options, Size};
use ext4kit::namei::{Attributes, Context, Namei, What};
use ext4kit::units::{Fsblk, Ino, Lblk};
use ext4kit::volume::{OpenOptions, Volume};
use rustix::time::{ClockId, clock_gettime};

const MIB: usize = 1 << 20;
const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
/// Write sizes.
const SIZES: [(&str, usize); 3] = [("4 KiB", 4096), ("64 KiB", 64 << 10), ("1 MiB", MIB)];

/// The paths, by name.
fn paths() -> [(&'static str, MountOptions); 3] {
    let with = |path| MountOptions { path, ..MountOptions::default() };
    let pages = MountOptions { large_folios: false, ..with(PathChoice::BufferHead) };
    [("iomap", with(PathChoice::Iomap)), ("buffer-head", with(PathChoice::BufferHead)), ("buffer-head, pages", pages)]
}

/// Processor time of this process.
fn processor() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// Processor and wall time that add up.
#[derive(Default)]
struct Clock {
    cpu: Duration,
    wall: Duration,
}

impl Clock {
    fn time<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let (cpu, wall) = (processor(), Instant::now());
        let done = f();
        self.cpu += processor().saturating_sub(cpu);
        self.wall += wall.elapsed();
        done
    }

    fn rate(&self, bytes: usize) -> (f64, f64) {
        let rate = |t: Duration| bytes as f64 / t.as_secs_f64() / 1e9;
        (rate(self.cpu), rate(self.wall))
    }
}

/// Memory that counts the bytes that are written to the journal.
struct Counting {
    memory: Arc<MemoryDevice>,
    journal: Vec<Range<u64>>,
    logged: AtomicU64,
}

impl BlockDevice for Counting {
    fn len(&self) -> u64 {
        self.memory.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> ext4kit::Result<()> {
        self.memory.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> ext4kit::Result<()> {
        if self.journal.iter().any(|r| r.contains(&offset)) {
            self.logged.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        self.memory.write_at(offset, data)
    }
    fn flush(&self) -> ext4kit::Result<()> {
        Ok(())
    }
}

/// A mounted filesystem with one empty file.
struct Rig {
    device: Arc<Counting>,
    mount: Mount,
    ino: Ino,
}

impl Rig {
    fn new(mib: usize, options: MountOptions) -> Self {
        let mut o = Options::new(Size::Units((mib * MIB / 4096) as u64), [1; 16], [2; 16], NOW);
        o.block_size = Some(4096);
        let memory = Arc::new(MemoryDevice::new(mib * MIB));
        Draft::new(Layout::new(&o).unwrap()).unwrap().write(&*memory, true).unwrap();
        let shared: Arc<dyn BlockDevice> = Arc::<MemoryDevice>::clone(&memory);
        let volume = Volume::open(shared, &OpenOptions::default()).unwrap();
        let inode = volume.inode(Ino(8)).unwrap();
        let owner = ext4kit::volume::OpenInode { ino: Ino(8), inode };
        let extents = volume.extents(owner.owner()).unwrap();
        let journal = extents.iter().map(|e| e.pblk.0 * 4096..(e.pblk.0 + u64::from(e.len)) * 4096).collect();
        let device = Arc::new(Counting { memory, journal, logged: AtomicU64::new(0) });
        let as_device: Arc<dyn BlockDevice> = Arc::<Counting>::clone(&device);
        let mut mount = Mount::new(as_device, options, NOW).unwrap();
        let mut names = Context::new(mount.volume(), NOW);
        let made = mount.with_edit(&mut names, |e, c| {
            Ok(Namei::new(e, c).make(Ino::ROOT, b"f", What::File, &Attributes::root(0o644))?.ino)
        });
        Self { device, mount, ino: made.unwrap() }
    }

    /// Write `bytes` in order in pieces.
    fn write(&mut self, bytes: usize, piece: &[u8]) {
        for at in (0..bytes).step_by(piece.len()) {
            let taken = self.mount.write(self.ino, at as u64, black_box(piece)).unwrap();
            assert_eq!(taken, piece.len());
        }
    }

    /// Cut the file to nothing.
    fn cut(&mut self) {
        self.mount.truncate(self.ino, 0).unwrap();
    }
}

struct Bench {
    only: Option<String>,
    bytes: usize,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    /// What one copy costs here.
    fn memcpy(&self) -> Option<f64> {
        if !self.wants("memcpy") && !self.wants("cache") {
            return None;
        }
        let (from, mut to) = (vec![1_u8; 256 * MIB], vec![2_u8; 256 * MIB]);
        let mut clock = Clock::default();
        for _ in 0..self.bytes / from.len() {
            clock.time(|| black_box(&mut to).copy_from_slice(black_box(&from)));
        }
        let (cpu, wall) = clock.rate(self.bytes);
        println!("{:<40} {cpu:>6.2} GB/s   (wall {wall:.2})", "memcpy, 256 MiB");
        Some(cpu)
    }

    /// Writes in order, `round` bytes at a time, with or without writing back.
    fn writes(&self, name: &str, round: usize, through: bool, limit: Option<f64>) {
        for (size, len) in SIZES {
            let mut first = None;
            for (path, options) in paths() {
                let title = format!("{name}, {size}, {path}");
                if !self.wants(&title) {
                    continue;
                }
                let options = MountOptions { dirty_bytes: if through { 8 << 20 } else { 0 }, ..options };
                let mut rig = Rig::new(1024.min(round / MIB * 4), options);
                let piece: Vec<u8> = (0..len).map(|n| n as u8).collect();
                // Once without the clock: pages and blocks of the device are in memory.
                rig.write(round, &piece);
                rig.mount.fsync(rig.ino, false).unwrap();
                rig.cut();
                rig.write(round, &piece);
                rig.cut();
                rig.mount.sync().unwrap();
                let mut clock = Clock::default();
                for _ in 0..self.bytes.div_ceil(round) {
                    clock.time(|| {
                        rig.write(round, &piece);
                        if through {
                            rig.mount.fsync(rig.ino, false).unwrap();
                        }
                    });
                    rig.cut();
                    rig.mount.sync().unwrap();
                }
                let (cpu, wall) = clock.rate(self.bytes.next_multiple_of(round));
                let ratio = first.map_or(String::new(), |f: f64| format!(", iomap is {:.2} times as fast", f / cpu));
                let share = limit.map_or(String::new(), |l| format!(", {:.2} of memcpy", cpu / l));
                first = first.or(Some(cpu));
                println!("{title:<40} {cpu:>6.2} GB/s   (wall {wall:.2}{share}{ratio})");
            }
        }
    }

    /// Operations on a tree of so many extents, none of which can be joined with another.
    fn extent_status(&self) {
        const OPS: u32 = 200_000;
        for count in [1_u32, 1000, 1_000_000] {
            if !self.wants("extent status") {
                return;
            }
            let entry = |lblk: u32, status| EsEntry { lblk: Lblk(lblk), len: 1, status, pblk: Fsblk(0) };
            let mut tree = EsTree::new();
            for n in 0..count {
                tree.insert(EsEntry { pblk: Fsblk(u64::from(n) * 7 + 100), ..entry(n * 4, EsStatus::Written) });
            }
            // A step that comes to every extent in an order of its own.
            let step = |n: u32| (n.wrapping_mul(2_654_435_761) % count) * 4;
            let cost = |what: &str, f: &mut dyn FnMut(u32)| {
                let mut clock = Clock::default();
                clock.time(|| (0..OPS).for_each(f));
                let each = clock.cpu.as_nanos() / u128::from(OPS);
                println!("extent status, {count:>7} extents, {what:<15} {each:>6} ns");
            };
            cost("look up", &mut |n| {
                black_box(tree.lookup(Lblk(step(n))));
            });
            cost("insert, remove", &mut |n| {
                tree.insert(entry(step(n) + 2, EsStatus::Delayed));
                tree.remove(step(n) + 2..step(n) + 3);
            });
            let end = count * 4;
            cost("append a block", &mut |n| tree.insert(entry(end + n, EsStatus::Delayed)));
        }
    }

    /// What goes to the log while a GiB is appended in writes of 1 MiB.
    fn logged(&self) {
        for (what, every) in [("each MiB", 1), ("each 64 MiB", 64)] {
            for (path, options) in paths() {
                let title = format!("log, fsync {what}, {path}");
                if !self.wants(&title) {
                    continue;
                }
                let mut rig = Rig::new(1280, options);
                rig.mount.sync().unwrap();
                let before = rig.device.logged.load(Ordering::Relaxed);
                let piece = vec![7; MIB];
                for n in 0..1024 {
                    rig.mount.write(rig.ino, (n * MIB) as u64, &piece).unwrap();
                    if (n + 1) % every == 0 {
                        rig.mount.fsync(rig.ino, false).unwrap();
                        rig.mount.drop_caches(rig.ino).unwrap();
                    }
                }
                let blocks = (rig.device.logged.load(Ordering::Relaxed) - before) / 4096;
                println!("{title:<40} {blocks:>6} blocks of log per GiB");
            }
        }
    }
}

fn main() {
    let only = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let mib = std::env::var("EXT4KIT_BENCH_MIB").ok().and_then(|v| v.parse().ok()).unwrap_or(2048);
    let bench = Bench { only, bytes: mib * MIB };
    let limit = bench.memcpy();
    bench.writes("cache", 64 * MIB, false, limit);
    bench.writes("device", 256 * MIB, true, None);
    bench.extent_status();
    bench.logged();
}
