//! Transactions: what is visible when, what a crash leaves, what failures do.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::image_tests::{data, image, open, read, superblock};
use super::{Journal, JournalOptions, Log, RecoverOptions, direct, recover};
use crate::device::crash::{self, Counts, Plan};
use crate::device::fault::{Effect, Fault, Trigger};
use crate::device::{BlockDevice, FaultDevice, MemoryDevice, RecordDevice, WindowDevice};
use crate::env::{Entropy, FixedClock, SeededEntropy, Timestamp};
use crate::error::{Error, IoOp};
use crate::format::features::{Features, Incompat};
use crate::format::jbd2::{JournalCompat, JournalCsum, JournalIncompat, JournalSuperblock};
use crate::format::superblock::{self, State, Superblock};
use crate::units::Fsblk;
use crate::volume::store::MetaStore;
use crate::volume::{DirtyJournal, OpenOptions, Volume};

/// Free blocks of the test image.
const A: u64 = 13_000;

fn options() -> JournalOptions {
    JournalOptions::new(Arc::new(FixedClock(Timestamp::from_secs(1_700_000_500))))
}

fn volume(device: Arc<dyn BlockDevice>) -> Volume {
    Volume::open(device, &OpenOptions::default()).unwrap()
}

fn journal(device: &Arc<MemoryDevice>) -> Journal {
    Journal::open(&volume(Arc::clone(device) as Arc<dyn BlockDevice>), None, options()).unwrap()
}

fn put(journal: &mut Journal, block: u64, fill: u8) {
    journal.start(1).unwrap().write(Fsblk(block), data(fill).into()).unwrap();
}

#[test]
fn changes_are_seen_at_once_and_reach_the_device_in_steps() {
    let device = image("");
    let before = device.to_bytes();
    let mut j = journal(&device);
    let view = j.view();
    let mut h = j.start(3).unwrap();
    h.write(Fsblk(A), data(1).into()).unwrap();
    h.create(Fsblk(A + 1), data(0xc0).into()).unwrap();
    h.write(Fsblk(A), data(2).into()).unwrap();
    assert_eq!(h.credits(), 1);
    assert_eq!(*h.read(Fsblk(A)).unwrap(), *data(2));
    assert_eq!((read(&*view, A), read(&*view, A + 1)), (data(2), data(0xc0)));
    let mut bytes = vec![0; 3000];
    view.read_at(A * 1024 - 500, &mut bytes).unwrap();
    assert_eq!((bytes[499], bytes[500], bytes[1523], bytes[1524], bytes[2999]), (0, 2, 2, 0xc0, 0));
    assert_eq!(device.to_bytes(), before, "nothing is written before the commit");
    j.discard();
    assert_eq!(read(&*view, A), vec![0; 1024]);
    assert_eq!(j.commit().unwrap(), None);
    put(&mut j, A, 3);
    let tid = j.running();
    assert_eq!(j.commit().unwrap(), Some(tid));
    assert_eq!((j.committed(), j.running()), (Some(tid), tid.next()));
    assert_eq!((read(&*view, A), read(&*device, A)), (data(3), vec![0; 1024]));
    assert!(superblock(&*device).features().incompat.contains(Incompat::RECOVER));
    // The view has none of the marks: it opens as it is.
    volume(j.view());
    j.checkpoint().unwrap();
    assert_eq!(read(&*device, A), data(3));
    assert!(Log::open(&open(&device), None).unwrap().superblock().is_empty());
    j.close().unwrap();
    let sb = superblock(&*device);
    assert!(!sb.features().incompat.contains(Incompat::RECOVER));
    assert_eq!(sb.write_time().sec, 1_700_000_500);
}

#[test]
fn a_journal_that_did_nothing_writes_nothing() {
    let device = image("");
    let before = device.to_bytes();
    journal(&device).close().unwrap();
    assert_eq!(device.to_bytes(), before);
}

#[test]
fn the_superblock_stays_marked_while_in_use() {
    for features in ["", "^has_journal"] {
        let device = image(features);
        let before = superblock(&*device);
        let as_device = Arc::clone(&device) as Arc<dyn BlockDevice>;
        let vol = volume(as_device);
        let mut j =
            if features.is_empty() { Journal::open(&vol, None, options()) } else { direct::open(&vol, options()) }
                .unwrap();
        let in_use = |sb: Superblock| {
            if features.is_empty() {
                sb.features().incompat.contains(Incompat::RECOVER)
            } else {
                !sb.state_flags().contains(State::VALID)
            }
        };
        for n in 1..4u32 {
            let mut vol = volume(j.view());
            assert_eq!(vol.superblock().free_inodes_count.get(), before.free_inodes_count.get() + n - 1);
            let mut h = j.start(1).unwrap();
            vol.store_superblock(&mut h, |sb| sb.free_inodes_count.set(before.free_inodes_count.get() + n)).unwrap();
            j.commit().unwrap();
            assert!(in_use(superblock(&*device)));
            if n != 2 {
                j.checkpoint().unwrap();
                let sb = superblock(&*device);
                assert_eq!(sb.free_inodes_count.get(), before.free_inodes_count.get() + n);
                assert!(in_use(sb));
            }
            assert!(!in_use(superblock(&*j.view())));
        }
        j.close().unwrap();
        let sb = superblock(&*device);
        assert!(!in_use(sb.clone()));
        assert_eq!(sb.free_inodes_count.get(), before.free_inodes_count.get() + 3);
        assert_eq!(sb.state.get(), before.state.get());
    }
}

#[test]
fn credits_and_the_log_have_an_end() {
    let device = image("");
    let mut j = journal(&device);
    let max = j.max_blocks();
    assert_eq!(j.capacity(), Some(1022));
    assert!(max > 900 && max < 1022);
    assert!(matches!(j.start(max as u32 + 1), Err(Error::NoSpace { .. })));
    let mut h = j.start(1).unwrap();
    h.write(Fsblk(A), data(1).into()).unwrap();
    assert!(matches!(h.write(Fsblk(A + 1), data(1).into()), Err(Error::NoSpace { what: "credits", .. })));
    assert!(!h.extend(max as u32).unwrap());
    assert!(h.extend(max as u32 - 1).unwrap());
    for n in 1..max {
        h.write(Fsblk(A + n), data(n as u8).into()).unwrap();
    }
    assert_eq!((j.room(), j.log_blocks(0)), (0, 1022));
    assert_eq!(j.log_blocks(1), 1023);
    j.commit().unwrap();
    // The next one needs a checkpoint first; the log goes round.
    for round in 0..5u8 {
        let mut h = j.start(700).unwrap();
        for n in 0..700 {
            h.write(Fsblk(A + n), data(n as u8 ^ round).into()).unwrap();
        }
        j.commit().unwrap();
    }
    drop(j);
    let as_device = Arc::clone(&device) as Arc<dyn BlockDevice>;
    let report = recover(&as_device, None, RecoverOptions::default()).unwrap();
    assert_eq!((report.transactions, report.blocks), (1, 700));
    for n in 0..max {
        assert_eq!(read(&*device, A + n), data(if n < 700 { n as u8 ^ 4 } else { n as u8 }), "{n}");
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let device = image("");
    let inside = Log::open(&open(&device), None).unwrap().area().place(9).unwrap().0 / 1024;
    let mut j = journal(&device);
    let mut h = j.start(9).unwrap();
    for (block, len) in [(A, 1023), (16384, 1024), (u64::MAX, 1024), (inside, 1024)] {
        assert!(matches!(h.write(Fsblk(block), vec![0; len].into()), Err(Error::InvalidArgument { .. })), "{block}");
    }
    assert!(h.write_data(Fsblk(16383), &[0; 2048]).is_err());
    assert!(h.write_data(Fsblk(A), &[0; 1000]).is_err());
    h.write(Fsblk(A), data(1).into()).unwrap();
    assert!(h.write_data(Fsblk(A - 1), &[0; 2048]).is_err(), "changed as metadata in this transaction");
    assert_eq!(j.pending(), (1, 0));
    let as_device = Arc::clone(&device) as Arc<dyn BlockDevice>;
    j.commit().unwrap();
    let as_is = OpenOptions { dirty_journal: DirtyJournal::Ignore, ..OpenOptions::default() };
    let dirty = Volume::open(as_device, &as_is).unwrap();
    assert!(matches!(Journal::open(&dirty, None, options()), Err(Error::NeedsRecovery)));
}

#[test]
fn the_first_failed_write_is_the_last() {
    // Fail each write and flush in turn: whatever happens, the filesystem is old or new after recovery.
    let faults = [IoOp::Write, IoOp::Flush].into_iter().flat_map(|op| (0..12).map(move |n| (op, n)));
    let mut failures = 0;
    for (op, n) in faults {
        let base = image("");
        let effect = if n % 2 == 0 { Effect::Fail } else { Effect::Short(700) };
        let fault = Fault { op, trigger: Trigger::Nth(n), effect };
        let device = Arc::new(FaultDevice::new(Arc::clone(&base), vec![fault]));
        let vol = volume(Arc::clone(&device) as Arc<dyn BlockDevice>);
        let mut j = Journal::open(&vol, None, options()).unwrap();
        put(&mut j, A, 1);
        put(&mut j, A + 1, 2);
        let done = j.commit().and_then(|_| j.checkpoint());
        if done.is_err() {
            failures += 1;
            assert!(j.is_poisoned());
            assert!(matches!(j.commit(), Err(Error::Poisoned)));
            assert!(matches!(j.start(1), Err(Error::Poisoned)));
        }
        drop(j);
        let as_device = Arc::clone(&base) as Arc<dyn BlockDevice>;
        recover(&as_device, None, RecoverOptions::default()).unwrap();
        let got = (read(&*base, A), read(&*base, A + 1));
        let (old, new) = ((vec![0; 1024], vec![0; 1024]), (data(1), data(2)));
        assert!(got == new || (done.is_err() && got == old), "{op} {n}");
    }
    assert!(failures >= 8, "{failures}");
}

/// What each version of the filesystem holds; a block that is not there may hold anything.
type Version = BTreeMap<u64, Vec<u8>>;

/// Random edits in `n` transactions: blocks changed, freed, and used again for content.
fn edit(j: &mut Journal, entropy: &mut SeededEntropy, n: u32, done: &mut dyn FnMut(Version)) {
    const BLOCKS: u64 = 40;
    let mut now = Version::new();
    let mut freed: Vec<u64> = Vec::new();
    let mut content: Vec<u64> = Vec::new();
    done(now.clone());
    for _ in 0..n {
        let was_free = std::mem::take(&mut freed);
        for _ in 0..=entropy.next_u32() % 4 {
            let mut h = j.start(30).unwrap();
            for _ in 0..entropy.next_u32() % 12 {
                let block = A + u64::from(entropy.next_u32()) % BLOCKS;
                let fill = if entropy.next_u32().is_multiple_of(8) { 0xc0 } else { entropy.next_u32() as u8 };
                if freed.contains(&block) || content.contains(&block) {
                    continue;
                }
                if now.contains_key(&block) && entropy.next_u32().is_multiple_of(4) {
                    h.forget(Fsblk(block)).unwrap();
                    now.remove(&block);
                    freed.push(block);
                } else if was_free.contains(&block) && !now.contains_key(&block) {
                    h.write_data(Fsblk(block), &data(fill)).unwrap();
                    now.insert(block, data(fill));
                    content.push(block);
                } else {
                    h.write(Fsblk(block), data(fill).into()).unwrap();
                    now.insert(block, data(fill));
                }
            }
        }
        j.commit().unwrap();
        done(now.clone());
        if entropy.next_u32().is_multiple_of(7) {
            j.checkpoint().unwrap();
        }
    }
}

struct Recorded {
    base: Vec<u8>,
    device: Arc<RecordDevice<MemoryDevice>>,
    versions: Vec<Version>,
    /// Events in the log when each version was acknowledged.
    acknowledged: Vec<usize>,
}

/// Edit an image whose journal has these features.
fn recorded(compat: JournalCompat, incompat: JournalIncompat, seed: u64, barriers: bool) -> Recorded {
    let image = image(if incompat.intersects(JournalIncompat::CSUM_V3 | JournalIncompat::CSUM_V2) {
        ""
    } else {
        "^metadata_csum,^metadata_csum_seed,^orphan_file"
    });
    Log::open(&open(&image), None).unwrap().update(|sb| sb.set_features(compat, incompat)).unwrap();
    let base = image.to_bytes();
    let device = Arc::new(RecordDevice::new(MemoryDevice::from_bytes(base.clone())));
    let vol = volume(Arc::clone(&device) as Arc<dyn BlockDevice>);
    let mut j = Journal::open(&vol, None, JournalOptions { barriers, ..options() }).unwrap();
    let (mut versions, mut acknowledged) = (Vec::new(), Vec::new());
    edit(&mut j, &mut SeededEntropy::new(seed), 24, &mut |v| {
        versions.push(v);
        acknowledged.push(device.recorded());
    });
    j.close().unwrap();
    Recorded { base, device, versions, acknowledged }
}

impl Recorded {
    fn crash(&self, plan: Plan) -> crash::Outcome {
        crash::enumerate(&self.base, &self.device.log(), plan, |device, state, _| {
            let options = RecoverOptions::default();
            recover(device, None, options).map_err(|e| e.to_string())?;
            Volume::open(Arc::clone(device), &OpenOptions::default()).map_err(|e| e.to_string())?;
            let least = self.acknowledged.partition_point(|a| *a <= state.end).saturating_sub(1);
            let fits = |v: &Version| v.iter().all(|(b, bytes)| read(&**device, *b) == *bytes);
            if self.versions[least..].iter().take(2).any(fits) {
                Ok(())
            } else {
                Err(format!("neither version {least} nor the next"))
            }
        })
        .unwrap()
    }
}

#[test]
fn a_crash_leaves_the_old_or_the_new_state() {
    let none = JournalCompat::empty();
    let kinds = [
        (none, JournalIncompat::CSUM_V3),
        (none, JournalIncompat::CSUM_V2.union(JournalIncompat::BIT64)),
        (none, JournalIncompat::empty()),
        (JournalCompat::CHECKSUM, JournalIncompat::BIT64),
    ];
    let mut counts = Counts::default();
    for (i, (compat, incompat)) in kinds.into_iter().enumerate() {
        let run = recorded(compat, incompat, 40 + i as u64, true);
        let out = run.crash(Plan { seed: 5, samples: 40, ..Plan::default() });
        assert_eq!(out.failed, 0, "{compat:?} {incompat:?}: {}", out.first_failure.unwrap());
        counts += out.counts;
    }
    println!("{} crash states: {counts:?}", counts.total());
    assert!(counts.total() > 5000, "{counts:?}");
}

#[test]
fn without_the_barrier_a_crash_shows() {
    // Without checksums nothing but the barrier keeps a commit block from counting too early.
    let run = recorded(JournalCompat::empty(), JournalIncompat::empty(), 50, false);
    let out = run.crash(Plan { seed: 5, samples: 40, ..Plan::default() });
    println!("{} of {} crash states are neither old nor new without the barrier", out.failed, out.counts.total());
    assert!(out.failed > 0);
}

#[test]
fn a_journal_on_its_own_device() {
    let fs = image("");
    let size = 18 << 20;
    let both = Arc::new(RecordDevice::new(MemoryDevice::new(size)));
    let fs_dev: Arc<dyn BlockDevice> = Arc::new(WindowDevice::new(Arc::clone(&both), 0, 16 << 20).unwrap());
    let log_dev: Arc<dyn BlockDevice> = Arc::new(WindowDevice::new(Arc::clone(&both), 16 << 20, 2 << 20).unwrap());
    let mut sb = superblock(&*fs);
    sb.journal_inum = 0.into();
    sb.journal_uuid = [9; 16];
    fs.write_at(superblock::OFFSET, &sb.encode()).unwrap();
    fs_dev.write_at(0, &fs.to_bytes()).unwrap();
    let mut ext = sb.clone();
    ext.set_features(Features { incompat: Incompat::JOURNAL_DEV, ..Features::default() });
    ext.uuid = [9; 16];
    ext.set_blocks_count(2048);
    log_dev.write_at(superblock::OFFSET, &ext.encode()).unwrap();
    let mut js = JournalSuperblock::new(1024, 2048, [9; 16]);
    js.first = 3.into();
    log_dev.write_at(2048, &js.encode()).unwrap();

    let vol = volume(Arc::clone(&fs_dev));
    assert!(matches!(Journal::open(&vol, None, options()), Err(Error::Conflict { .. })));
    let base = crash::bytes_of(&*both).unwrap();
    both.take_log();
    let mut j = Journal::open(&vol, Some(Arc::clone(&log_dev)), options()).unwrap();
    assert_eq!(Log::open(&vol, Some(log_dev)).unwrap().format().csum, JournalCsum::None);
    let (mut versions, mut acknowledged) = (Vec::new(), Vec::new());
    edit(&mut j, &mut SeededEntropy::new(3), 12, &mut |v| {
        versions.push(v);
        acknowledged.push(both.recorded());
    });
    j.close().unwrap();
    let out = crash::enumerate(&base, &both.log(), Plan::default(), |device, state, _| {
        let fs: Arc<dyn BlockDevice> = Arc::new(WindowDevice::new(Arc::clone(device), 0, 16 << 20).unwrap());
        let log: Arc<dyn BlockDevice> = Arc::new(WindowDevice::new(Arc::clone(device), 16 << 20, 2 << 20).unwrap());
        recover(&fs, Some(log), RecoverOptions::default()).map_err(|e| e.to_string())?;
        let least = acknowledged.partition_point(|a| *a <= state.end).saturating_sub(1);
        let fits = |v: &Version| v.iter().all(|(b, bytes)| read(&*fs, *b) == *bytes);
        if versions[least..].iter().take(2).any(fits) { Ok(()) } else { Err(format!("version {least}")) }
    })
    .unwrap();
    assert_eq!(out.failed, 0, "{}", out.first_failure.unwrap());
}
