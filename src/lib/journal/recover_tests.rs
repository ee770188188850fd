//! Hand-made logs of every kind, whole and damaged, and what recovery makes of them.

use std::sync::Arc;

use super::image_tests::{RawLog, data, image, open, read, superblock};
use super::{End, Log, OnDamage, RecoverOptions, Report, open_log_recovered, recover};
use crate::device::{BlockDevice, MemoryDevice};
use crate::env::{Entropy, SeededEntropy};
use crate::error::{Error, Flaw, Structure};
use crate::format::features::Incompat;
use crate::format::jbd2::{Descriptor, JournalCompat, JournalIncompat};
use crate::format::superblock::State;
use crate::units::Tid;
use crate::volume::{DirtyJournal, OpenOptions, Volume};

const NONE: JournalCompat = JournalCompat::empty();
const V3: JournalIncompat = JournalIncompat::CSUM_V3;

fn run(device: &Arc<MemoryDevice>, on_damage: OnDamage) -> crate::Result<Report> {
    let device = Arc::clone(device) as Arc<dyn BlockDevice>;
    recover(&device, None, RecoverOptions { on_damage, now: None, keep_counts: false })
}

fn refuse(device: &Arc<MemoryDevice>) -> Error {
    let e = run(device, OnDamage::Refuse).unwrap_err();
    assert!(superblock(&**device).features().incompat.contains(Incompat::RECOVER), "recovery is still due");
    e
}

fn journal(device: &Arc<MemoryDevice>) -> Log {
    Log::open(&open(device), None).unwrap()
}

/// Blocks of the filesystem that nothing uses.
const A: u64 = 13_000;
const B: u64 = 13_001;
const C: u64 = 14_001;

#[test]
fn every_kind_of_log_comes_home() {
    let kinds = [
        (NONE, JournalIncompat::empty()),
        (JournalCompat::CHECKSUM, JournalIncompat::empty()),
        (NONE, JournalIncompat::CSUM_V2),
        (NONE, V3),
        (JournalCompat::CHECKSUM, JournalIncompat::ASYNC_COMMIT),
        (NONE, V3.union(JournalIncompat::ASYNC_COMMIT)),
    ];
    for (compat, incompat) in kinds {
        for wide in [JournalIncompat::empty(), JournalIncompat::BIT64] {
            // At the start; across the end of the ring in each part of a transaction; across the end of the numbers.
            for (start, tid) in (1018..1024).map(|s| (s, 7)).chain([(1, 1), (500, u32::MAX - 1)]) {
                let what = format!("{compat:?} {incompat:?} {wide:?} from {start} with {tid}");
                let device = image("");
                let mut raw = RawLog::new(&device, compat, incompat | wide, start, Tid(tid));
                raw.transaction(&[(B, data(1)), (A, data(2)), (C, data(3))], &[]);
                raw.transaction(&[(A, data(0xc0))], &[C]);
                raw.transaction(&[(B, data(5))], &[]);
                // Not finished: no commit block.
                raw.blocks(&[(A, data(9)), (C, data(9))]);
                let report = run(&device, OnDamage::Refuse).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(read(&*device, A), data(0xc0), "{what}");
                assert_eq!(read(&*device, B), data(5), "{what}");
                assert_eq!(read(&*device, C), vec![0; 1024], "{what}");
                assert_eq!((report.transactions, report.first), (3, tid), "{what}");
                assert_eq!((report.blocks, report.superseded, report.revoked), (2, 2, 1), "{what}");
                assert_eq!(report.ending, Some(End::Unfinished { blocks: 3 }), "{what}");
                assert_eq!(report.damage, None, "{what}");
                let log = journal(&device);
                assert!(log.superblock().is_empty());
                assert_eq!(log.superblock().sequence(), Tid(tid.wrapping_add(4)));
                assert!(!superblock(&*device).features().incompat.contains(Incompat::RECOVER));
                assert_eq!(run(&device, OnDamage::Refuse).unwrap(), Report::default());
            }
        }
    }
}

#[test]
fn a_block_logged_again_after_its_revocation_counts() {
    let device = image("");
    let mut raw = RawLog::new(&device, NONE, V3, 1, Tid(3));
    raw.transaction(&[(A, data(1)), (B, data(1))], &[]);
    raw.transaction(&[], &[A, B]);
    raw.transaction(&[(A, data(2))], &[]);
    let report = run(&device, OnDamage::Refuse).unwrap();
    assert_eq!((read(&*device, A), read(&*device, B)), (data(2), vec![0; 1024]));
    assert_eq!((report.revoke_records, report.revoked, report.blocks), (2, 2, 1));
    assert_eq!(report.ending, Some(End::Whole));
}

#[test]
fn many_tags_fill_several_descriptors() {
    for incompat in [JournalIncompat::empty(), V3 | JournalIncompat::BIT64] {
        let device = image("");
        let mut raw = RawLog::new(&device, NONE, incompat, 900, Tid(1));
        let writes: Vec<_> = (0..400).rev().map(|i| (A + i, data(i as u8))).collect();
        raw.transaction(&writes, &[]);
        assert_eq!(run(&device, OnDamage::Refuse).unwrap().blocks, 400);
        for i in 0..400 {
            assert_eq!(read(&*device, A + i), data(i as u8));
        }
    }
}

/// Three transactions of one block each, and where their descriptor, data and commit blocks are.
fn three(compat: JournalCompat, incompat: JournalIncompat) -> (Arc<MemoryDevice>, RawLog, Vec<[u32; 3]>) {
    let device = image("");
    let mut raw = RawLog::new(&device, compat, incompat, 1, Tid(10));
    let mut at = Vec::new();
    for n in 0..3u8 {
        let start = raw.at;
        raw.transaction(&[(A + u64::from(n), data(n + 1))], &[]);
        at.push([start, start + 1, start + 2]);
    }
    (device, raw, at)
}

fn spoil(raw: &RawLog, at: u32, byte: usize) {
    let mut block = vec![0; 1024];
    raw.log.area().read(at, &mut block).unwrap();
    block[byte] ^= 0x40;
    raw.log.area().write(at, &block).unwrap();
}

#[test]
fn a_damaged_block_is_refused_or_left_out() {
    for csum in [V3, JournalIncompat::CSUM_V2] {
        let (device, raw, at) = three(NONE, csum);
        spoil(&raw, at[1][1], 77);
        let want =
            |e: &Error| matches!(e, Error::Corrupt { what: Flaw::Checksum { of: Structure::JournalBlock, .. }, .. });
        assert!(want(&refuse(&device)));
        let report = run(&device, OnDamage::Salvage).unwrap();
        assert_eq!((report.blocks, report.damaged), (2, 1));
        assert_eq!(
            [read(&*device, A), read(&*device, A + 1), read(&*device, A + 2)],
            [data(1), vec![0; 1024], data(3)]
        );
        let state = superblock(&*device).state_flags();
        assert!(state.contains(State::ERROR) && !state.contains(State::VALID));
        // Nothing that is still in the log may ever count again.
        assert!(journal(&device).superblock().sequence().is_after(Tid(13 + 500)));
    }
}

#[test]
fn a_bad_commit_block_ends_the_log() {
    for (compat, incompat, byte) in
        [(NONE, V3, 50), (NONE, JournalIncompat::CSUM_V2, 17), (JournalCompat::CHECKSUM, JournalIncompat::empty(), 16)]
    {
        let (device, raw, at) = three(compat, incompat);
        spoil(&raw, at[1][2], byte);
        refuse(&device);
        let report = run(&device, OnDamage::Salvage).unwrap();
        assert_eq!(report.ending, Some(End::BadCommit { tid: Tid(11), at: at[1][2] }));
        assert_eq!((report.transactions, report.blocks, report.journal_error), (1, 1, -22));
        assert!(superblock(&*device).state_flags().contains(State::ERROR));
        // Asynchronous commits: the last one may be on its way.
        let (device, raw, at) = three(compat, incompat | JournalIncompat::ASYNC_COMMIT);
        spoil(&raw, at[2][2], byte);
        let report = run(&device, OnDamage::Refuse).unwrap();
        assert_eq!((report.ending, report.transactions), (Some(End::Asynchronous), 2));
        assert_eq!(read(&*device, A + 2), vec![0; 1024]);
    }
    // v1: a data block that does not belong to the commit.
    let (device, raw, at) = three(JournalCompat::CHECKSUM, JournalIncompat::empty());
    spoil(&raw, at[2][1], 5);
    refuse(&device);
}

#[test]
fn a_commit_block_whose_first_sector_was_written_counts() {
    for incompat in [V3, JournalIncompat::CSUM_V2] {
        let (device, raw, at) = three(NONE, incompat);
        let mut block = vec![0; 1024];
        raw.log.area().read(at[2][2], &mut block).unwrap();
        block[512..].fill(0x77);
        raw.log.area().write(at[2][2], &block).unwrap();
        assert_eq!(run(&device, OnDamage::Refuse).unwrap().transactions, 3);
        assert_eq!(read(&*device, A + 2), data(3));
    }
}

#[test]
fn a_bad_descriptor_is_old_or_damage() {
    for (age, damage) in [(-1000, false), (0, true)] {
        let device = image("");
        let mut raw = RawLog::new(&device, NONE, V3, 1, Tid(10));
        raw.transaction(&[(A, data(1))], &[]);
        let at = raw.at;
        raw.time += age;
        raw.transaction(&[(B, data(2))], &[]);
        spoil(&raw, at, 30);
        if damage {
            refuse(&device);
            assert_eq!(read(&*device, A), vec![0; 1024], "nothing of such a log is replayed");
            let report = run(&device, OnDamage::Salvage).unwrap();
            assert_eq!((report.transactions, report.ending), (0, None));
        } else {
            assert_eq!(run(&device, OnDamage::Refuse).unwrap().transactions, 1);
            assert_eq!(read(&*device, A), data(1));
        }
        assert_eq!(read(&*device, B), vec![0; 1024]);
    }
}

#[test]
fn the_error_of_an_aborted_journal_is_carried_over() {
    let device = image("");
    let mut raw = RawLog::new(&device, NONE, V3, 1, Tid(10));
    raw.transaction(&[(A, data(1))], &[]);
    raw.log.update(|sb| sb.set_error(-5)).unwrap();
    let report = run(&device, OnDamage::Refuse).unwrap();
    assert_eq!(report.journal_error, -5);
    let state = superblock(&*device).state_flags();
    assert!(state.contains(State::ERROR | State::VALID));
    assert_eq!(journal(&device).superblock().error(), 0);
}

#[test]
fn an_empty_journal_only_loses_the_flag() {
    let device = image("");
    let raw = RawLog::new(&device, NONE, V3, 1, Tid(10));
    let mut log = raw.log;
    log.update(|sb| sb.set_log(None, Tid(10))).unwrap();
    let report = run(&device, OnDamage::Refuse).unwrap();
    assert!(report.needed && report.transactions == 0);
    assert_eq!(journal(&device).superblock().sequence(), Tid(11));
}

#[test]
fn recovery_over_an_overlay_changes_nothing_below() {
    let (device, _, _) = three(NONE, V3);
    let before = device.to_bytes();
    let as_device = Arc::clone(&device) as Arc<dyn BlockDevice>;
    let options = OpenOptions::default();
    assert!(matches!(Volume::open(Arc::clone(&as_device), &options), Err(Error::NeedsRecovery)));
    let (volume, report) = open_log_recovered(as_device, None, RecoverOptions::default(), &options).unwrap();
    assert_eq!(report.blocks, 3);
    assert_eq!(&*volume.block(crate::units::Fsblk(A + 2)).unwrap(), data(3));
    assert_eq!(device.to_bytes(), before);
}

#[test]
fn logs_that_lie_do_no_harm() {
    // Outside the filesystem, into the journal itself.
    let device = image("");
    let inside = {
        let log = journal(&device);
        log.area().place(5).unwrap().0 / 1024
    };
    let mut raw = RawLog::new(&device, NONE, V3 | JournalIncompat::BIT64, 1, Tid(1));
    raw.transaction(&[(1 << 40, data(1)), (16384, data(1)), (inside, data(1)), (A, data(2))], &[]);
    assert!(matches!(refuse(&device), Error::Corrupt { what: Flaw::BlockOutOfRange { .. }, .. }));
    let report = run(&device, OnDamage::Salvage).unwrap();
    assert_eq!((report.damaged, report.blocks), (3, 1));
    // A ring full of descriptors of one transaction, each valid.
    let device = image("");
    let mut raw = RawLog::new(&device, NONE, V3, 1, Tid(1));
    let block = Descriptor { sequence: Tid(1), tags: Vec::new() }.encode(raw.format());
    for _ in 0..raw.log.ring() {
        raw.put(&block);
    }
    assert_eq!(run(&device, OnDamage::Refuse).unwrap().blocks, 0);
}

#[test]
fn random_damage_never_panics() {
    let mut entropy = SeededEntropy::new(7);
    let kinds = [(NONE, JournalIncompat::empty()), (JournalCompat::CHECKSUM, JournalIncompat::empty()), (NONE, V3)];
    for round in 0..300 {
        let (compat, incompat) = kinds[round % 3];
        let (device, raw, _) = three(compat, incompat);
        for _ in 0..=entropy.next_u32() % 8 {
            spoil(
                &raw,
                entropy.next_u32() % 10,
                (entropy.next_u32() % 1024) as usize & !(entropy.next_u32() as usize % 2 * 1008),
            );
        }
        let before = read(&*device, C);
        let _ = run(&device, OnDamage::Salvage);
        assert_eq!(read(&*device, C), before);
        let as_is = OpenOptions { dirty_journal: DirtyJournal::Ignore, ..OpenOptions::default() };
        Volume::open(device, &as_is).unwrap();
    }
}
