//! Damaged images: every reader comes back with an answer or an error. No panic, no hang, no large allocation.
//!
//! Small images in several geometries are damaged by random single bytes and by changes to fields with the checksum
//! restamped. `EXT4KIT_HOSTILE=N` multiplies the number of cases: 1 by default, 100 for 100,000 and 20,000 cases.
#![allow(unsafe_code, reason = "a counting allocator")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ext4kit::device::{BlockDevice, MemoryDevice, OverlayDevice};
use ext4kit::env::{Entropy, SeededEntropy};
use ext4kit::testing::commands::run_commands;
use ext4kit::testing::exercise::{Tally, read_everything};
use ext4kit::testing::surgery::Surgeon;
use ext4kit::volume::{OpenOptions, Volume};

/// Counts what the process holds, and the most it ever held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system allocator unchanged; the counters are plain numbers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MAX_MEMORY: usize = 256 << 20;
const MAX_TIME: Duration = Duration::from_secs(5);

/// Small images, filled by the reference tool; each with its name. Empty (loudly) where there is no mke2fs.
fn images() -> Vec<(&'static str, Vec<u8>)> {
    let Some(mke2fs) = common::tool("mke2fs") else { return Vec::new() };
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("tree");
    std::fs::create_dir(&source).unwrap();
    common::fill_tree(&source, 3);
    // Many alike only slow the loop down.
    for i in (0..1500).filter(|i| i % 8 != 0) {
        std::fs::remove_file(source.join(format!("many/entry-number-{i:05}-{}", "z".repeat(i % 50)))).unwrap();
    }
    let geometries: [(&str, &[&str]); 7] = [
        ("ext4-1k", &["-t", "ext4", "-b", "1024"]),
        ("ext4-4k", &["-t", "ext4", "-b", "4096", "-O", "^has_journal"]),
        ("inline-ea", &["-t", "ext4", "-b", "1024", "-O", "inline_data,ea_inode,^has_journal"]),
        ("bigalloc", &["-t", "ext4", "-b", "1024", "-O", "bigalloc,^has_journal", "-C", "4096"]),
        ("meta-bg", &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,^has_journal"]),
        ("ext3", &["-t", "ext3", "-b", "1024", "-J", "size=1"]),
        ("ext2", &["-t", "ext2", "-b", "1024"]),
    ];
    geometries
        .into_iter()
        .map(|(name, args)| {
            let image = dir.path().join(name);
            std::fs::File::create(&image).unwrap().set_len(12 << 20).unwrap();
            let mut all = vec!["-q", "-F", "-N", "2048"];
            all.extend(args);
            all.extend(["-d", source.to_str().unwrap(), image.to_str().unwrap()]);
            common::run(&mke2fs, &all);
            (name, std::fs::read(&image).unwrap())
        })
        .collect()
}

fn scale() -> u64 {
    std::env::var("EXT4KIT_HOSTILE").ok().and_then(|v| v.parse().ok()).unwrap_or(1)
}

/// Read the damaged image and hold time and memory against the limits.
fn survives(what: &dyn Fn() -> String, device: &Arc<dyn BlockDevice>) -> (u64, u64) {
    survives_in(what, device, read_everything)
}

/// The same, for another way of reading.
fn survives_in(
    what: &dyn Fn() -> String,
    device: &Arc<dyn BlockDevice>,
    read: fn(&Arc<dyn BlockDevice>) -> Tally,
) -> (u64, u64) {
    // Cases run side by side, so this counts what the others hold for a moment too: the limit is the stricter for it.
    let held = HELD.load(Ordering::Relaxed);
    PEAK.store(held, Ordering::Relaxed);
    let start = Instant::now();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(device)));
    let took = start.elapsed();
    let peak = PEAK.load(Ordering::Relaxed).saturating_sub(held);
    let Ok(tally) = result else { panic!("{}: panicked", what()) };
    assert!(took < MAX_TIME, "{}: took {took:?}", what());
    assert!(peak < MAX_MEMORY, "{}: allocated {peak} bytes", what());
    (tally.answers, tally.errors)
}

type Base = Arc<MemoryDevice>;

fn overlay(base: &Base) -> Arc<OverlayDevice<Base>> {
    Arc::new(OverlayDevice::new(Arc::clone(base)))
}

fn as_device(d: &Arc<OverlayDevice<Base>>) -> Arc<dyn BlockDevice> {
    let d: Arc<OverlayDevice<Base>> = Arc::clone(d);
    d
}

/// The bytes that hold something: changing zeros in free space tells nothing.
fn interesting(bytes: &[u8]) -> Vec<u32> {
    (0..bytes.len() / 64)
        .filter(|i| bytes[i * 64..][..64].iter().any(|b| *b != 0))
        .flat_map(|i| (i * 64..(i + 1) * 64).map(|at| at as u32))
        .collect()
}

#[test]
fn healthy_images_give_no_errors_beyond_the_deliberate_ones() {
    for (name, bytes) in images() {
        let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::from_bytes(bytes));
        let tally = read_everything(&device);
        assert!(tally.answers > 5_000, "{name}: {tally:?}");
        // Block number out of range, and dangling links: the same few in every image, checksums on and off.
        assert!(tally.errors < 20, "{name}: {tally:?}");
    }
}

/// One plain thread per image: on a thread of a pool, a reader that waits for its own pool would do another image's
/// work meanwhile, and be timed for it.
fn side_by_side(images: Vec<(&'static str, Vec<u8>)>, work: impl Fn(&'static str, Vec<u8>) + Sync) {
    std::thread::scope(|scope| {
        let work = &work;
        let all: Vec<_> = images.into_iter().map(|(name, bytes)| scope.spawn(move || work(name, bytes))).collect();
        for thread in all {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

#[test]
fn random_bytes() {
    let all = images();
    let per_image = if all.is_empty() { 0 } else { 1_000 * scale() / all.len() as u64 + 1 };
    side_by_side(all, |name, bytes| {
        let places = interesting(&bytes);
        let base: Base = Arc::new(MemoryDevice::from_bytes(bytes));
        let mut entropy = SeededEntropy::new(0xb17e);
        let mut sums = (0, 0);
        for case in 0..per_image {
            let device = overlay(&base);
            let at = u64::from(places[entropy.next_u32() as usize % places.len()]);
            let value = entropy.next_u32() as u8;
            device.write_at(at, &[value]).unwrap();
            let (a, e) = survives(&|| format!("{name} case {case}: byte {at} = {value:#x}"), &as_device(&device));
            sums = (sums.0 + a, sums.1 + e);
        }
        println!("{name}: {per_image} single-byte changes, {} answers, {} errors", sums.0, sums.1);
    });
}

#[test]
fn fields_with_the_checksum_restamped() {
    let all = images();
    let per_image = if all.is_empty() { 0 } else { 200 * scale() / all.len() as u64 + 1 };
    side_by_side(all, |name, bytes| {
        let base: Base = Arc::new(MemoryDevice::from_bytes(bytes));
        let device: Arc<dyn BlockDevice> = Arc::<MemoryDevice>::clone(&base);
        let surgeon = Surgeon::new(&Volume::open(device, &OpenOptions::default()).unwrap()).unwrap();
        let mut entropy = SeededEntropy::new(0xf1e1d);
        let mut sums = (0, 0);
        for case in 0..per_image {
            let device = overlay(&base);
            let mut done = Vec::new();
            for _ in 0..=case % 3 {
                done.push(surgeon.operate(&device, &mut entropy).unwrap());
            }
            let (a, e) = survives(&|| format!("{name} case {case}: {done:x?}"), &as_device(&device));
            sums = (sums.0 + a, sums.1 + e);
        }
        println!("{name}: {per_image} field changes, {} answers, {} errors", sums.0, sums.1);
    });
}

/// Every command of the shell, as text and as JSON.
#[test]
fn commands_of_the_shell() {
    let all = images();
    let per_image = if all.is_empty() { 0 } else { 140 * scale() / all.len() as u64 + 1 };
    side_by_side(all, |name, bytes| {
        let places = interesting(&bytes);
        let base: Base = Arc::new(MemoryDevice::from_bytes(bytes));
        let device: Arc<dyn BlockDevice> = Arc::<MemoryDevice>::clone(&base);
        let healthy = run_commands(&device);
        assert_eq!(healthy.errors, 0, "{name}");
        let surgeon = Surgeon::new(&Volume::open(device, &OpenOptions::default()).unwrap()).unwrap();
        let mut entropy = SeededEntropy::new(0x5e11);
        let mut sums = (0, 0);
        for case in 0..per_image {
            let device = overlay(&base);
            let mut done = String::new();
            if case % 2 == 0 {
                let at = u64::from(places[entropy.next_u32() as usize % places.len()]);
                let value = entropy.next_u32() as u8;
                device.write_at(at, &[value]).unwrap();
                done = format!("byte {at} = {value:#x}");
            }
            for _ in 0..case % 4 {
                done = format!("{done} {:x?}", surgeon.operate(&device, &mut entropy).unwrap());
            }
            let what = || format!("{name} case {case}: {done}");
            let (a, e) = survives_in(&what, &as_device(&device), run_commands);
            sums = (sums.0 + a, sums.1 + e);
        }
        println!("{name}: {per_image} damaged images, {} commands answered, {} failed", sums.0, sums.1);
    });
}
