//! Tests of [`super`].

use super::*;
use proptest::prelude::*;

fn new<'a>(index: u8, name: &'a [u8], value: &'a [u8]) -> NewXattr<'a> {
    NewXattr { index, name, value: NewValue::Bytes(value) }
}

fn flaw(r: Result<impl std::fmt::Debug>) -> (Flaw, Option<u64>) {
    match r {
        Err(Error::Corrupt { what, place }) => (what, place.offset),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_split_and_join() {
    for (full, index, rest) in [
        (&b"user.a"[..], 1, &b"a"[..]),
        (b"system.posix_acl_access", 2, b""),
        (b"system.posix_acl_default", 3, b""),
        (b"trusted.overlay.opaque", 4, b"overlay.opaque"),
        (b"security.capability", 6, b"capability"),
        (b"system.data", 7, b"data"),
        (b"system.richacl", 8, b""),
        (b"gnu.translator", 10, b"translator"),
    ] {
        assert_eq!(split_name(full), Some((index, rest)));
        assert_eq!(full_name(index, rest).unwrap(), full);
    }
    assert_eq!(split_name(b"user."), None);
    assert_eq!(split_name(b"other.x"), None);
    assert_eq!(full_name(INDEX_ENCRYPTION, NAME_ENCRYPTION_CONTEXT), None);
}

#[test]
fn blocks_are_sorted_packed_and_hashed() {
    let attrs = [
        new(6, b"selinux", b"label\0"),
        new(1, b"bb", b"12345"),
        new(1, b"c", b""),
        NewXattr {
            index: 1,
            name: b"aa",
            value: NewValue::Inode { ino: Ino(77), size: 5000, value_hash: 0xdead_beef },
        },
    ];
    let mut block = build_block(&attrs, 1024).unwrap();
    stamp_block(&mut block, 4, Fsblk(99));
    verify_block(&block, 4, Fsblk(99)).unwrap();
    assert!(matches!(flaw(verify_block(&block, 4, Fsblk(98))).0, Flaw::Checksum { of: Structure::XattrBlock, .. }));
    let (header, got) = parse_block(&block).unwrap();
    let names: Vec<_> = got.iter().map(|a| (a.index, a.name)).collect();
    assert_eq!(names, [(1, &b"c"[..]), (1, b"aa"), (1, b"bb"), (6, b"selinux")]);
    assert_eq!(got[0].value, Value::Bytes(b""));
    assert_eq!(got[1].value, Value::Inode { ino: Ino(77), size: 5000 });
    assert_eq!(got[2].value, Value::Bytes(b"12345"));
    assert_eq!(header.hash.get(), block_hash(got.iter().map(|a| a.hash)));
    assert_ne!(header.hash.get(), 0);
    for a in &got {
        a.verify_hash(Structure::XattrBlock).unwrap();
    }
    assert_eq!(got[1].hash, entry_hash_of_inode(b"aa", 0xdead_beef, false));
    // The values fill the end of the block: 8 bytes of "12345" last, "label" before it.
    assert_eq!(&block[1016..], b"12345\0\0\0");
    assert_eq!(&block[1008..1016], b"label\0\0\0");
}

#[test]
fn the_inode_body() {
    let mut area = [0xff; 96];
    let attrs = [new(7, b"data", b"xyz"), new(1, b"k", b"value")];
    assert!(build_ibody(&attrs, &mut area));
    let got = parse_ibody(&area).unwrap();
    assert_eq!(got[0].name, b"data");
    assert_eq!((got[1].value, got[1].hash), (Value::Bytes(b"value"), 0));
    let before = area;
    assert!(!build_ibody(&[new(1, b"k", &[1; 80])], &mut area));
    assert_eq!(area, before);
    // Exactly full, and one byte too many.
    assert_eq!(need(&[new(1, b"abcd", &[1; 68])]), 92);
    assert!(build_ibody(&[new(1, b"abcd", &[1; 68])], &mut area));
    assert_eq!(parse_ibody(&area).unwrap()[0].value, Value::Bytes(&[1; 68]));
    assert!(!build_ibody(&[new(1, b"abcd", &[1; 69])], &mut area));
    assert!(build_ibody(&[], &mut area));
    assert_eq!(area, [0; 96]);
    assert!(parse_ibody(&area).unwrap().is_empty());
    assert!(parse_ibody(&[]).unwrap().is_empty());
}

#[test]
fn flaws_are_named() {
    let good = build_block(&[new(1, b"aaaa", b"1234"), new(1, b"bbbb", b"5678")], 1024).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut b = good.clone();
        b[at..at + bytes.len()].copy_from_slice(bytes);
        flaw(parse_block(&b))
    };
    let of = Structure::XattrBlock;
    assert!(matches!(with(0, &[1]), (Flaw::Magic { .. }, Some(0))));
    assert_eq!(with(8, &[2]), (Flaw::Field { of, field: "blocks", value: 2 }, Some(8)));
    // Entries are at 32 and 52.
    assert_eq!(with(52 + 16, b"b\0bb"), (Flaw::Field { of, field: "name", value: 0 }, Some(52)));
    assert_eq!(with(52 + 2, &[0xff, 3]), (Flaw::Field { of, field: "value_offs", value: 0x3ff }, Some(52)));
    assert_eq!(with(32 + 2, &[72, 0]), (Flaw::Field { of, field: "value_offs", value: 72 }, Some(32)));
    assert_eq!(with(32 + 11, &[2]), (Flaw::Field { of, field: "value_size", value: 0x200_0004 }, Some(32)));
    assert_eq!(with(52 + 2, &good[34..36]).0, Flaw::Order { of });
    let mut full = vec![1; 1024];
    full[..32].copy_from_slice(&good[..32]);
    assert!(matches!(flaw(parse_block(&full)).0, Flaw::Field { field: "name_len" | "name", .. } | Flaw::Short { .. }));
    let mut wrong = good.clone();
    wrong[32 + 12] ^= 1;
    let (_, attrs) = parse_block(&wrong).unwrap();
    assert!(matches!(flaw(attrs[0].verify_hash(of)).0, Flaw::Checksum { .. }));
}

#[test]
fn signed_hashes_of_old_kernels_are_accepted() {
    let (s, u) = (entry_hash(b"\xe9", b"v", true), entry_hash(b"\xe9", b"v", false));
    assert_ne!(s, u);
    let mut x = Xattr { offset: 0, index: 1, name: b"\xe9", value: Value::Bytes(b"v"), hash: s };
    x.verify_hash(Structure::XattrBlock).unwrap();
    x.hash = u;
    x.verify_hash(Structure::XattrBlock).unwrap();
    assert_eq!(block_hash([1, 0, 2]), 0);
}

#[test]
fn ea_inode_fields() {
    let mut inode = Inode::empty(256);
    set_ea_inode_refs(&mut inode, 0x1_0000_0002);
    set_ea_inode_hash(&mut inode, 0x8765_4321);
    assert_eq!((ea_inode_refs(&inode), ea_inode_hash(&inode)), (0x1_0000_0002, 0x8765_4321));
    assert_eq!(inode.core().version.get(), 2);
}

proptest! {
    #[test]
    fn any_set_comes_back(
        set in proptest::collection::btree_map(
            (1u8..8, proptest::collection::vec(1u8..=255, 1..20)),
            proptest::collection::vec(any::<u8>(), 0..50),
            0..12,
        )
    ) {
        let attrs: Vec<_> = set.iter().map(|((i, n), v)| new(*i, n, v)).collect();
        let mut want: Vec<_> = set.iter().map(|((i, n), v)| (*i, n.as_slice(), v.as_slice())).collect();
        let as_list = |got: Vec<Xattr<'_>>| -> Vec<(u8, Vec<u8>, Vec<u8>)> {
            got.iter()
                .map(|a| {
                    let Value::Bytes(v) = a.value else { panic!() };
                    (a.index, a.name.to_vec(), v.to_vec())
                })
                .collect()
        };
        let owned = |w: &[(u8, &[u8], &[u8])]| -> Vec<(u8, Vec<u8>, Vec<u8>)> {
            w.iter().map(|(i, n, v)| (*i, n.to_vec(), v.to_vec())).collect()
        };
        let mut area = vec![0; 4096];
        prop_assert!(build_ibody(&attrs, &mut area));
        prop_assert_eq!(as_list(parse_ibody(&area).unwrap()), owned(&want));
        let block = build_block(&attrs, 4096).unwrap();
        want.sort_by_key(|w| (w.0, w.1.len(), w.1));
        prop_assert_eq!(as_list(parse_block(&block).unwrap().1), owned(&want));
    }

    #[test]
    fn random_bytes_never_panic(
        mut bytes in proptest::collection::vec(prop_oneof![Just(0u8), 0u8..40, any::<u8>()], 0..300)
    ) {
        if bytes.len() >= 12 {
            bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
            bytes[8..12].copy_from_slice(&[1, 0, 0, 0]);
        }
        for a in parse_ibody(&bytes).unwrap_or_default() {
            let _ = a.verify_hash(Structure::InodeXattr);
        }
        if let Ok((_, attrs)) = parse_block(&bytes) {
            for a in attrs {
                let _ = a.verify_hash(Structure::XattrBlock);
            }
        }
        let _ = verify_block(&bytes, 0, Fsblk(1));
        stamp_block(&mut bytes, 0, Fsblk(1));
    }
}
