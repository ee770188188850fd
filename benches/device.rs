//! How fast bytes come in, are summed and go out: devices and checksums.
//!
//! `cargo bench --bench device [NAME]`; `EXT4KIT_BENCH_MIB` sets the amount (default 512). Each figure is the median of
//! [`RUNS`] runs over the same bytes, with the page cache warm; the least and the largest stand behind it.

#![expect(clippy::unwrap_used, reason = "a benchmark stops where it cannot go on")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use ext4kit::device::{Access, BlockDevice, FileDevice, MemoryDevice, MmapDevice, OverlayDevice, RecordDevice};
use ext4kit::format::csum;

const RUNS: usize = 7;
const BLOCK: usize = 4096;
const LARGE: usize = 1 << 20;

struct Bench {
    only: Option<String>,
    len: usize,
}

impl Bench {
    /// Time `body`, which handles `bytes` bytes per call.
    fn measure(&self, name: &str, bytes: usize, mut body: impl FnMut()) {
        if self.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            return;
        }
        let mut times: Vec<Duration> = (0..RUNS)
            .map(|_| {
                let start = Instant::now();
                body();
                start.elapsed()
            })
            .collect();
        times.sort();
        let rate = |t: Duration| bytes as f64 / t.as_secs_f64() / f64::from(1 << 30);
        let (slowest, median, fastest) = (rate(times[RUNS - 1]), rate(times[RUNS / 2]), rate(times[0]));
        println!("{name:<32} {median:>7.2} GiB/s  ({slowest:.2} .. {fastest:.2})");
    }

    fn read(&self, name: &str, device: &dyn BlockDevice, step: usize) {
        let mut buf = vec![0; step];
        self.measure(name, self.len, || {
            for at in (0..self.len).step_by(step) {
                device.read_at(at as u64, &mut buf).unwrap();
                black_box(&buf);
            }
        });
    }

    fn write(&self, name: &str, device: &dyn BlockDevice, step: usize) {
        let buf = vec![0x5a; step];
        self.measure(name, self.len, || {
            for at in (0..self.len).step_by(step) {
                device.write_at(at as u64, black_box(&buf)).unwrap();
            }
        });
    }

    fn checksums(&self) {
        let bytes: Vec<u8> = (0..16 << 20).map(|i: u32| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
        for size in [64, 256, 1024, BLOCK, 1 << 16] {
            self.measure(&format!("crc32c, {size} bytes at a time"), bytes.len(), || {
                for part in bytes.chunks(size) {
                    black_box(csum::crc32c(!0, part));
                }
            });
        }
        self.measure("crc16, 64 bytes at a time", 1 << 20, || {
            for part in bytes[..1 << 20].chunks(64) {
                black_box(csum::crc16(!0, part));
            }
        });
    }
}

fn main() {
    // Cargo passes `--bench`; a name may follow.
    let only = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let mib = std::env::var("EXT4KIT_BENCH_MIB").ok().and_then(|v| v.parse::<usize>().ok()).unwrap_or(512).max(1);
    let bench = Bench { only, len: mib << 20 };
    bench.checksums();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("img");
    let file = FileDevice::create_new(&path, bench.len as u64).unwrap();
    bench.write("file, write 1 MiB", &file, LARGE);
    bench.write("file, write 4 KiB", &file, BLOCK);
    drop(file);
    let file = FileDevice::open(&path, Access::ReadOnly).unwrap();
    bench.read("file, read 1 MiB", &file, LARGE);
    bench.read("file, read 4 KiB", &file, BLOCK);
    let map = MmapDevice::open(&path).unwrap();
    bench.read("map, read 1 MiB", &map, LARGE);
    bench.read("map, read 4 KiB", &map, BLOCK);
    bench.measure("map, checksum 4 KiB views", bench.len, || {
        for at in (0..bench.len).step_by(BLOCK) {
            black_box(csum::crc32c(!0, map.slice(at as u64, BLOCK).unwrap()));
        }
    });
    let overlay = OverlayDevice::new(&map);
    bench.read("overlay without changes, 4 KiB", &overlay, BLOCK);
    bench.write("overlay, write 4 KiB", &overlay, BLOCK);
    bench.read("overlay with changes, 1 MiB", &overlay, LARGE);
    bench.read("overlay with changes, 4 KiB", &overlay, BLOCK);
    let record = RecordDevice::new(MemoryDevice::new(bench.len));
    bench.measure("record, write 4 KiB", bench.len, || {
        for at in (0..bench.len).step_by(BLOCK) {
            record.write_at(at as u64, &[0x5a; BLOCK]).unwrap();
        }
        record.take_log();
    });
}
