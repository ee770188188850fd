//! Every device against a plain `Vec<u8>`: the same random operations, the same bytes and the same refusals.

use proptest::prelude::*;

use super::*;
use crate::error::IoOp;

/// Odd on purpose: the last chunk, page and sector are cut short.
const LEN: usize = 70_001;

#[derive(Clone, Debug)]
enum Op {
    Write { offset: u64, len: usize, byte: u8 },
    Zero { offset: u64, len: u64 },
    Read { offset: u64, len: usize },
    NextData { offset: u64 },
    Flush,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let offset = prop_oneof![4 => 0..LEN as u64 + 10, 2 => (0..20u64).prop_map(|c| c * 4096), 1 => Just(u64::MAX)];
    let len = prop_oneof![0..10usize, 0..9000usize, Just(4096usize), Just(8192usize), Just(LEN)];
    let op = prop_oneof![
        4 => (offset.clone(), len.clone(), 1..=255u8).prop_map(|(offset, len, byte)| Op::Write { offset, len, byte }),
        2 => (offset.clone(), len.clone()).prop_map(|(offset, len)| Op::Zero { offset, len: len as u64 }),
        3 => (offset.clone(), len).prop_map(|(offset, len)| Op::Read { offset, len }),
        2 => offset.prop_map(|offset| Op::NextData { offset }),
        1 => Just(Op::Flush),
    ];
    proptest::collection::vec(op, 1..40)
}

fn inside(offset: u64, len: u64) -> Option<std::ops::Range<usize>> {
    let end = offset.checked_add(len)?;
    (end <= LEN as u64).then_some(offset as usize..end as usize)
}

/// Run `ops` on `device`, which holds `model` at the start, and compare after each; returns the final model.
fn run(device: &dyn BlockDevice, mut model: Vec<u8>, ops: &[Op]) -> Vec<u8> {
    assert_eq!(device.len(), LEN as u64);
    for op in ops {
        match *op {
            Op::Write { offset, len, byte } => {
                let range = inside(offset, len as u64);
                assert_eq!(device.write_at(offset, &vec![byte; len]).is_ok(), range.is_some(), "{op:?}");
                if let Some(r) = range {
                    model[r].fill(byte);
                }
            }
            Op::Zero { offset, len } => {
                let range = inside(offset, len);
                assert_eq!(device.zero(offset, len).is_ok(), range.is_some(), "{op:?}");
                if let Some(r) = range {
                    model[r].fill(0);
                }
            }
            Op::Read { offset, len } => {
                let mut buf = vec![0x5a; len];
                let range = inside(offset, len as u64);
                assert_eq!(device.read_at(offset, &mut buf).is_ok(), range.is_some(), "{op:?}");
                if let Some(r) = range {
                    assert_eq!(buf, model[r.clone()], "{op:?}");
                    if let Some(view) = device.slice(offset, len) {
                        assert_eq!(view, &model[r], "{op:?}");
                    }
                }
            }
            Op::NextData { offset } => {
                let found = device.next_data(offset).unwrap();
                let zero_until = found.as_ref().map_or(LEN as u64, |r| r.start);
                if let Some(skipped) = model.get(offset.min(LEN as u64) as usize..zero_until as usize) {
                    assert!(skipped.iter().all(|&b| b == 0), "{op:?} skipped data before {found:?}");
                }
                if let Some(r) = found {
                    assert!(offset <= r.start && r.start < r.end && r.end <= LEN as u64, "{op:?}: {r:?}");
                }
            }
            Op::Flush => device.flush().unwrap(),
        }
    }
    let mut all = vec![0; LEN];
    device.read_at(0, &mut all).unwrap();
    assert!(all == model, "the devices differ at byte {:?}", all.iter().zip(&model).position(|(a, b)| a != b));
    model
}

fn pattern() -> Vec<u8> {
    (0..LEN).map(|i| if i / 8192 % 2 == 0 { (i % 253) as u8 } else { 0 }).collect()
}

/// Open what was closed just now: a program that another test starts holds all open files, and their locks, for a moment.
fn patiently<T>(open: impl Fn() -> crate::Result<T>) -> T {
    for _ in 0..100 {
        match open() {
            Err(crate::Error::Busy { .. }) => std::thread::sleep(std::time::Duration::from_millis(20)),
            done => return done.unwrap(),
        }
    }
    open().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory(ops in ops()) {
        run(&MemoryDevice::new(LEN), vec![0; LEN], &ops);
    }

    #[test]
    fn window(ops in ops(), start in 0u64..5000) {
        let base = MemoryDevice::from_bytes([vec![0xee; start as usize], pattern(), vec![0xee; 100]].concat());
        let model = run(&WindowDevice::new(&base, start, LEN as u64).unwrap(), pattern(), &ops);
        let want = [vec![0xee; start as usize], model, vec![0xee; 100]].concat();
        assert!(base.into_bytes() == want);
    }

    #[test]
    fn file_and_map(ops in ops()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("img");
        let device = FileDevice::create_new(&path, LEN as u64).unwrap();
        let model = run(&device, vec![0; LEN], &ops);
        drop(device);
        let reads: Vec<Op> = ops.into_iter().filter(|op| matches!(op, Op::Read { .. } | Op::NextData { .. })).collect();
        run(&patiently(|| FileDevice::open(&path, Access::ReadOnly)), model.clone(), &reads);
        run(&patiently(|| MmapDevice::open(&path)), model, &reads);
    }

    #[test]
    fn overlay(first in ops(), second in ops()) {
        let base = MemoryDevice::from_bytes(pattern());
        let device = OverlayDevice::new(&base);
        let model = run(&device, pattern(), &first);
        let model = run(&device, model, &second);
        assert!(base.to_bytes() == pattern(), "the base was written");
        device.apply_to(&base).unwrap();
        assert!(base.to_bytes() == model);
    }

    #[test]
    fn record_and_replay(ops in ops()) {
        let device = RecordDevice::new(MemoryDevice::from_bytes(pattern()));
        let model = run(&device, pattern(), &ops);
        let log = device.take_log();
        let copy = MemoryDevice::from_bytes(pattern());
        log.apply(&log.prefix(log.len()), &copy).unwrap();
        assert!(copy.into_bytes() == model);
    }

    #[test]
    fn fault_free(ops in ops()) {
        let device = FaultDevice::new(MemoryDevice::new(LEN), Vec::new());
        run(&device, vec![0; LEN], &ops);
        assert_eq!(device.count(IoOp::Flush), ops.iter().filter(|op| matches!(op, Op::Flush)).count() as u64);
    }
}
