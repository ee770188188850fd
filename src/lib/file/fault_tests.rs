//! Writeback on a device that fails: the data is lost, the next fsync says so, once, and nothing else comes of it. Extents stay
//! unwritten, the journal goes on.

use std::sync::Arc;

use super::extent_status::EsStatus;
use super::{Mount, MountOptions};
use crate::check::{self, CheckOptions, Collect};
use crate::device::fault::{Effect, Fault, FaultDevice, Trigger};
use crate::device::{BlockDevice, MemoryDevice};
use crate::env::{Entropy, SeededEntropy, Timestamp};
use crate::error::{Error, IoOp};
use crate::mkfs::{Draft, Layout, Options, Size};
use crate::namei::{Attributes, Context, Namei, What};
use crate::progress::Silent;
use crate::units::Ino;

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

struct Rig {
    device: Arc<FaultDevice<MemoryDevice>>,
    mount: Mount,
    ino: Ino,
}

fn bad(trigger: Trigger) -> Vec<Fault> {
    vec![Fault { op: IoOp::Write, trigger, effect: Effect::Bad }]
}

impl Rig {
    fn new(block: u32, options: &str) -> Self {
        let mut o = Options::new(Size::Units((16 << 20) / u64::from(block)), [1; 16], [2; 16], NOW);
        o.block_size = Some(block);
        let memory = MemoryDevice::new(16 << 20);
        Draft::new(Layout::new(&o).unwrap()).unwrap().write(&memory, true).unwrap();
        let device = Arc::new(FaultDevice::new(memory, Vec::new()));
        let mut mount = Mount::new(Arc::clone(&device) as _, MountOptions::parse(options).unwrap(), NOW).unwrap();
        let mut names = Context::new(mount.volume(), NOW);
        let ino = mount.with_edit(&mut names, |e, c| {
            Ok(Namei::new(e, c).make(Ino::ROOT, b"f", What::File, &Attributes::root(0o644))?.ino)
        });
        let ino = ino.unwrap();
        mount.sync().unwrap();
        mount.load(ino).unwrap();
        Self { device, mount, ino }
    }

    /// The `n`th write from now on fails, and no other.
    fn fail(&self, n: u64) {
        self.device.plan(bad(Trigger::Nth(self.device.count(IoOp::Write) + n)));
    }

    fn statuses(&self) -> Vec<(u32, u32, EsStatus)> {
        let i = self.mount.inode(self.ino).unwrap();
        i.dd.es().iter().filter(|e| e.status != EsStatus::Hole).map(|e| (e.lblk.0, e.len, e.status)).collect()
    }

    fn is_sound(&self) {
        assert_eq!(self.mount.check_state().unwrap(), None);
        assert_eq!(self.mount.check_cache().unwrap(), None);
    }

    /// Unmount, check, and read the file back.
    fn finish(self) -> Vec<u8> {
        self.mount.unmount().unwrap();
        let device = self.device as Arc<dyn BlockDevice>;
        is_clean(&device);
        let mut mount = Mount::new(device, MountOptions::default(), NOW).unwrap();
        mount.load(self.ino).unwrap();
        let size = mount.inode(self.ino).unwrap().size;
        mount.read(self.ino, 0, size as usize).unwrap()
    }
}

fn is_clean(device: &Arc<dyn BlockDevice>) {
    let options = CheckOptions::everything(NOW);
    let mut found = Collect::default();
    let outcome = check::check(device, &options, &mut found, &Silent).unwrap();
    assert_eq!(outcome.errors, 0, "{:?}", found.0.iter().map(check::Finding::message).collect::<Vec<_>>());
}

fn is_io(done: crate::Result<()>) -> bool {
    matches!(done.unwrap_err().bare(), Error::Io { op: IoOp::Write, .. })
}

#[test]
fn what_was_not_written_stays_unwritten_and_is_told_once() {
    for (options, disksize) in [("rw", 10_000), ("rw,buffered_iomap", 0)] {
        let mut rig = Rig::new(4096, options);
        rig.mount.write(rig.ino, 0, &[7; 10_000]).unwrap();
        rig.fail(0);
        assert!(is_io(rig.mount.fsync(rig.ino, false)), "{options}");
        assert_eq!(rig.statuses(), [(0, 3, EsStatus::Unwritten)], "{options}");
        let i = rig.mount.inode(rig.ino).unwrap();
        assert_eq!((i.disksize, i.dd.reserved()), (disksize, 0), "{options}");
        assert_eq!(rig.mount.read(rig.ino, 0, 10_000).unwrap(), [7; 10_000], "the page cache still has it");
        rig.is_sound();
        rig.mount.fsync(rig.ino, false).unwrap();
        // Written again it arrives, and is converted.
        rig.mount.write(rig.ino, 0, &[8; 10_000]).unwrap();
        rig.mount.fsync(rig.ino, false).unwrap();
        assert_eq!(rig.statuses(), [(0, 3, EsStatus::Written)], "{options}");
        rig.is_sound();
        assert_eq!(rig.finish(), [8; 10_000], "{options}");
    }
}

#[test]
fn lost_data_is_zeros_and_never_old_blocks() {
    for options in ["rw", "rw,buffered_iomap", "rw,nodelalloc,buffered_iomap"] {
        let mut rig = Rig::new(1024, options);
        rig.mount.write(rig.ino, 0, &[7; 10_000]).unwrap();
        rig.fail(0);
        rig.mount.sync().unwrap();
        rig.mount.truncate(rig.ino, 10_000).unwrap();
        // A sync says nothing; the next fsync does, another file's does not.
        assert!(is_io(rig.mount.fsync(rig.ino, true)), "{options}");
        rig.mount.fsync(rig.ino, true).unwrap();
        rig.is_sound();
        let back = rig.finish();
        assert_eq!(back.len(), 10_000);
        assert!(back.chunks(1024).all(|c| c.iter().all(|b| *b == c[0]) && (c[0] == 0 || c[0] == 7)), "{options}");
        assert_eq!(back[0], 0, "{options}: the block that failed");
    }
}

#[test]
fn an_error_in_ordered_data_does_not_end_the_journal() {
    let mut rig = Rig::new(4096, "rw,nodelalloc");
    rig.mount.write(rig.ino, 0, &[7; 8192]).unwrap();
    rig.fail(0);
    rig.mount.force_commit().unwrap();
    assert!(is_io(rig.mount.fsync(rig.ino, false)));
    rig.mount.write(rig.ino, 0, &[9; 8192]).unwrap();
    rig.mount.fsync(rig.ino, false).unwrap();
    rig.is_sound();
    assert_eq!(rig.finish(), [9; 8192]);
}

#[test]
fn a_direct_write_that_fails_is_told_at_once() {
    for pos in [0, 8192] {
        let mut rig = Rig::new(4096, "rw");
        rig.mount.write(rig.ino, 0, &[7; 8192]).unwrap();
        rig.mount.fsync(rig.ino, false).unwrap();
        rig.mount.punch(rig.ino, 0, 4096).unwrap();
        rig.fail(1);
        assert!(is_io(rig.mount.write_direct(rig.ino, pos, &[9; 8192]).map(|_| ())));
        assert_eq!(rig.mount.inode(rig.ino).unwrap().size, 8192);
        rig.mount.fsync(rig.ino, false).unwrap();
        assert_eq!(rig.mount.check_state().unwrap(), None);
        assert_eq!(rig.finish()[..4096], [0; 4096]);
    }
}

/// Random operations over bad blocks: errors come from where they may, state stays sound, and the filesystem clean.
#[test]
fn random_faults_leave_a_sound_state() {
    let rounds: u64 = std::env::var("EXT4KIT_FAULT_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(12);
    let (mut told, mut ended) = (0, 0);
    for seed in 0..rounds {
        let mounts = ["rw", "rw,dioread_lock", "rw,nodelalloc", "rw,buffered_iomap", "rw,nodelalloc,buffered_iomap"];
        let options = mounts[seed as usize % mounts.len()];
        let mut rig = Rig::new([1024, 2048, 4096][seed as usize % 3], options);
        let mut random = SeededEntropy::new(seed);
        let mut below = |n: u64| u64::from(random.next_u32()) % n;
        for n in 0..120u64 {
            let (pos, len) = (below(200_000), 1 + below(20_000));
            // Where data goes: somewhere in the image, mostly free blocks.
            let at = below(16 << 20);
            rig.device.plan(if n % 3 == 0 { bad(Trigger::Range(at..at + (1 << 20))) } else { Vec::new() });
            let data = vec![n as u8 | 1; len as usize];
            let (m, ino) = (&mut rig.mount, rig.ino);
            let done = match below(8) {
                0..=2 => m.write(ino, pos, &data).map(|_| ()),
                3 => m.punch(ino, pos, len),
                4 => m.truncate(ino, pos),
                5 => m.write_back(ino, pos..pos + len),
                6 => m.fsync(ino, false),
                _ => m.write_direct(ino, pos / 512 * 512, &data[..data.len() / 512 * 512]).map(|_| ()),
            };
            match done.as_ref().map_err(Error::bare) {
                Ok(()) | Err(Error::InvalidArgument { .. }) => {}
                Err(Error::Io { .. }) => told += 1,
                Err(Error::Poisoned) => break,
                Err(e) => panic!("{options}, {seed}, operation {n}: {e}"),
            }
            if rig.mount.journal().is_poisoned() {
                break;
            }
            assert_eq!(rig.mount.check_state().unwrap(), None, "{options}, {seed}, operation {n}");
        }
        rig.device.plan(Vec::new());
        if rig.mount.journal().is_poisoned() {
            // Metadata could not be written: what was committed is recovered.
            ended += 1;
            let device = Arc::clone(&rig.device) as Arc<dyn BlockDevice>;
            drop(rig);
            crate::recover::recover(
                &device,
                None,
                crate::journal::RecoverOptions { now: Some(NOW), ..Default::default() },
            )
            .unwrap();
            is_clean(&device);
            continue;
        }
        let _ = rig.mount.fsync(rig.ino, false);
        rig.mount.sync().unwrap();
        rig.finish();
    }
    assert!(told > 0, "some fault is told");
    eprintln!("{rounds} runs: {told} errors told, {ended} journals ended");
}
