//! Tests of [`super`].

use super::*;
use proptest::prelude::*;

fn entry(n: u64) -> QuotaEntry {
    QuotaEntry { space: n * 4096, inodes: n, space_soft: 1024, space_hard: 2048, ..QuotaEntry::default() }
}

fn sample(ids: impl IntoIterator<Item = u32>) -> Quota {
    Quota { entries: ids.into_iter().map(|id| (id, entry(u64::from(id) % 100))).collect(), ..Quota::default() }
}

fn flaw(file: &[u8]) -> (Flaw, Option<u64>) {
    match Quota::decode(file, QuotaKind::User) {
        Err(Error::Corrupt { what, place }) => (what, place.offset),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sizes_and_lists() {
    // Root user only: header, root, three tree blocks, one leaf with room.
    let file = sample([0]).encode(QuotaKind::User);
    assert_eq!(file.len(), 6 * BLOCK);
    let got = Quota::decode(&file, QuotaKind::User).unwrap();
    assert_eq!((got.info.blocks.get(), got.info.free_entry.get(), got.info.free_blk.get()), (6, 5, 0));
    // Fourteen ids fill the leaf; the list is empty then.
    let got = Quota::decode(&sample(0..14).encode(QuotaKind::User), QuotaKind::User).unwrap();
    assert_eq!((got.info.blocks.get(), got.info.free_entry.get()), (6, 0));
    assert_eq!(sample([]).encode(QuotaKind::User).len(), 2 * BLOCK);
}

#[test]
fn an_empty_entry_of_id_0_is_still_there() {
    let mut q = Quota::default();
    q.entries.insert(0, QuotaEntry::default());
    let got = Quota::decode(&q.encode(QuotaKind::Group), QuotaKind::Group).unwrap();
    assert_eq!(got.entries[&0], QuotaEntry { inodes_deadline: 1, ..QuotaEntry::default() });
}

#[test]
fn flaws_are_named() {
    let good = sample([0, 1000, 70_000]).encode(QuotaKind::User);
    let with = |at: usize, v: u8| {
        let mut f = good.clone();
        f[at] = v;
        flaw(&f)
    };
    assert!(matches!(with(0, 0), (Flaw::Magic { of: OF, .. }, Some(0))));
    assert!(matches!(Quota::decode(&good, QuotaKind::Project), Err(Error::Corrupt { what: Flaw::Magic { .. }, .. })));
    assert_eq!(with(4, 0), (Flaw::Field { of: OF, field: "version", value: 0 }, Some(4)));
    assert_eq!(with(20, 200), (Flaw::Field { of: OF, field: "blocks", value: 200 }, Some(20)));
    assert_eq!(with(BLOCK, 200), (Flaw::Field { of: OF, field: "block", value: 200 }, Some(1024)));
    // The root's first slot leads back to the root: refused as a block number; to the leaf: read as a tree.
    assert_eq!(with(BLOCK, 1), (Flaw::Field { of: OF, field: "block", value: 1 }, Some(1024)));
    assert!(matches!(with(BLOCK + 4, 2), (Flaw::Inconsistent { of: OF, .. }, _)));
    // The leaf is block 5: its count, then its first id.
    assert_eq!(with(5 * BLOCK + 8, 9), (Flaw::Field { of: OF, field: "entries", value: 9 }, Some(5128)));
    assert!(matches!(with(5 * BLOCK + 16, 7), (Flaw::Inconsistent { of: OF, .. }, Some(4096))));
    assert!(matches!(flaw(&good[..1000]), (Flaw::Short { .. }, _)));
}

proptest! {
    #[test]
    fn any_set_comes_back(ids in proptest::collection::btree_set(prop_oneof![0u32..3000, any::<u32>()], 0..60)) {
        let q = sample(ids);
        let file = q.encode(QuotaKind::Project);
        let got = Quota::decode(&file, QuotaKind::Project).unwrap();
        prop_assert_eq!(&got.entries.keys().collect::<Vec<_>>(), &q.entries.keys().collect::<Vec<_>>());
        for (id, e) in &got.entries {
            if *id != 0 {
                prop_assert_eq!(e, &q.entries[id]);
            }
        }
        prop_assert_eq!(got.encode(QuotaKind::Project), file);
    }

    #[test]
    fn random_bytes_never_panic(
        noise in proptest::collection::vec((0usize..8192, 0u8..9), 0..200),
        len in 0usize..8192,
    ) {
        let mut file = sample([0, 1, 300, 70_000]).encode(QuotaKind::User);
        file.resize(8192, 0);
        for (at, v) in noise {
            file[at] = v;
        }
        file[..8].copy_from_slice(&[0x11, 0x1f, 0xc0, 0xd9, 1, 0, 0, 0]);
        let _ = Quota::decode(&file, QuotaKind::User);
        let _ = Quota::decode(&file[..len], QuotaKind::User);
    }
}
