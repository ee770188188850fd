//! Tests of [`super`].

use super::*;
use crate::env::Timestamp;
use crate::units::Fsblk;
use proptest::prelude::*;

fn formats() -> Vec<JournalFormat> {
    let mut v = vec![];
    for bits64 in [false, true] {
        for csum in [JournalCsum::None, JournalCsum::V1, JournalCsum::V2(7), JournalCsum::V3(7)] {
            v.push(JournalFormat { block_size: 1024, bits64, csum });
        }
    }
    v
}

fn corrupt<T: std::fmt::Debug>(r: Result<T>) -> Flaw {
    match r {
        Err(Error::Corrupt { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn tag_sizes_are_the_kernels() {
    let sizes: Vec<usize> = formats().iter().map(|f| f.tag_len()).collect();
    assert_eq!(sizes, [8, 8, 10, 16, 12, 12, 14, 16]);
}

#[test]
fn descriptors_come_back_in_every_form() {
    for f in formats() {
        let mut b = DescriptorBuilder::new(f, [9; 16], Tid(5));
        let mut data = vec![];
        for i in 0u64.. {
            let mut block = vec![i as u8; 1024];
            if i % 3 == 0 {
                block[..4].copy_from_slice(&MAGIC.to_be_bytes());
            }
            let escaped = escape(&mut block);
            assert_eq!(escaped, i % 3 == 0);
            let number = Fsblk(if f.bits64 { (i << 32) + 77 } else { i * 1000 });
            if !b.push(number, &block, escaped) {
                break;
            }
            data.push((number, block));
        }
        assert!(b.len() >= f.tags_per_block());
        let block = b.finish();
        assert_eq!(BlockHeader::decode(&block).unwrap().kind(), Some(BlockKind::Descriptor));
        f.verify_tail(&block).unwrap();
        let d = Descriptor::decode(&block, f).unwrap();
        assert_eq!((d.sequence, d.tags.len()), (Tid(5), data.len()));
        assert_eq!(d.encode(f), block);
        for (i, (tag, (number, mut stored))) in d.tags.iter().zip(data).enumerate() {
            assert_eq!((tag.block, tag.is_escaped()), (number, i % 3 == 0));
            assert_eq!(tag.uuid, (i == 0).then_some([9; 16]));
            assert_eq!(tag.flags.contains(TagFlags::LAST_TAG), i + 1 == d.tags.len());
            f.verify_data(Tid(5), tag, &stored).unwrap();
            if f.csum.seed().is_some() {
                assert!(f.verify_data(Tid(6), tag, &stored).is_err());
                stored[1000] ^= 1;
                assert!(matches!(corrupt(f.verify_data(Tid(5), tag, &stored)), Flaw::Checksum { .. }));
            }
        }
        let mut bad = block;
        bad[100] ^= 1;
        assert_eq!(f.verify_tail(&bad).is_err(), f.csum.seed().is_some());
    }
}

#[test]
fn large_block_numbers_need_64bit() {
    let f = JournalFormat { block_size: 1024, bits64: false, csum: JournalCsum::None };
    assert!(!DescriptorBuilder::new(f, [0; 16], Tid(1)).push(Fsblk(1 << 32), &[], false));
    assert!(!RevokeBuilder::new(f, Tid(1)).push(Fsblk(1 << 32)));
}

#[test]
fn revocations_come_back() {
    for f in formats() {
        let mut b = RevokeBuilder::new(f, Tid(8));
        assert!(b.is_empty());
        let mut n = 0u64;
        while b.push(Fsblk(n * 3)) {
            n += 1;
        }
        assert_eq!(n as usize, f.records_per_block());
        let block = b.finish();
        f.verify_tail(&block).unwrap();
        let r = Revoke::decode(&block, f).unwrap();
        assert_eq!(r.blocks.last(), Some(&Fsblk((n - 1) * 3)));
        assert_eq!(r.encode(f), block);
        for count in [0u32, 15, f.body_end() as u32 + 1, u32::MAX] {
            let mut bad = block.clone();
            bad[12..16].copy_from_slice(&count.to_be_bytes());
            assert!(matches!(corrupt(Revoke::decode(&bad, f)), Flaw::Field { field: "count", .. }));
        }
    }
}

#[test]
fn the_latest_revocation_counts() {
    let mut t = RevokeTable::default();
    t.add(&Revoke { sequence: Tid(u32::MAX), blocks: vec![Fsblk(5)] });
    t.add(&Revoke { sequence: Tid(1), blocks: vec![Fsblk(5), Fsblk(6)] });
    t.add(&Revoke { sequence: Tid(0), blocks: vec![Fsblk(5)] });
    assert_eq!(t.len(), 2);
    assert!(t.is_revoked(Fsblk(5), Tid(u32::MAX)) && t.is_revoked(Fsblk(5), Tid(1)));
    assert!(!t.is_revoked(Fsblk(5), Tid(2)) && !t.is_revoked(Fsblk(7), Tid(0)));
}

#[test]
fn commits_come_back() {
    for f in formats() {
        let mut sum = V1Checksum::default();
        sum.update(b"123456789");
        let v1 = (f.csum == JournalCsum::V1).then_some(sum);
        let c = Commit::new(Tid(3), Timestamp { sec: 1_700_000_000, nsec: 5 }, v1);
        let block = c.encode(f);
        let got = Commit::decode(&block).unwrap();
        assert_eq!((got.sequence, got.time), (c.sequence, c.time));
        got.verify(&block, f).unwrap();
        got.verify_v1(f, sum).unwrap();
        let mut other = sum;
        other.update(b"x");
        assert_eq!(got.verify_v1(f, other).is_err(), f.csum == JournalCsum::V1);
        let mut bad = block;
        bad[900] ^= 1;
        assert_eq!(got.verify(&bad, f).is_err(), f.csum.seed().is_some());
    }
}

#[test]
fn crc32_is_the_published_one() {
    // CRC-32/MPEG-2: the same polynomial and order, all ones at the start.
    assert_eq!(crc32_be(!0, b"123456789"), 0x0376_e6e7);
}

#[test]
fn the_superblock() {
    let mut sb = JournalSuperblock::new(4096, 1024, [3; 16]);
    assert!(sb.is_empty());
    assert_eq!(sb.format().unwrap().csum, JournalCsum::None);
    sb.set_features(JournalCompat::CHECKSUM, JournalIncompat::REVOKE);
    assert_eq!(sb.format().unwrap().csum, JournalCsum::V1);
    let v3 = JournalIncompat::REVOKE | JournalIncompat::BIT64 | JournalIncompat::CSUM_V3 | JournalIncompat::FAST_COMMIT;
    sb.set_features(JournalCompat::empty(), v3);
    sb.set_log(Some(1), Tid(5));
    sb.set_error(-5);
    sb.validate(4096, 1024).unwrap();
    let bytes = sb.encode();
    let back = JournalSuperblock::decode(&bytes).unwrap();
    assert_eq!(back.encode(), bytes);
    assert_eq!((back.error(), back.sequence(), back.fc_blocks(), back.log_end()), (-5, Tid(5), 256, 768));
    assert_eq!(
        back.format().unwrap(),
        JournalFormat { block_size: 4096, bits64: true, csum: JournalCsum::V3(back.csum_seed()) }
    );
    assert_eq!(back.fc_range(), 769..1024);
    let mut bad = bytes;
    bad[0x300] ^= 1;
    assert!(matches!(
        corrupt(JournalSuperblock::decode(&bad)),
        Flaw::Checksum { of: Structure::JournalSuperblock, .. }
    ));
    let check = |change: &dyn Fn(&mut JournalSuperblock)| {
        let mut sb = back.clone();
        change(&mut sb);
        corrupt(sb.validate(4096, 1024))
    };
    use zerocopy::big_endian::U32;
    let name = |f: Flaw| if let Flaw::Field { field, .. } = f { field } else { "" };
    assert_eq!(name(check(&|s| s.blocksize = U32::new(1024))), "blocksize");
    assert_eq!(name(check(&|s| s.maxlen = U32::new(1025))), "maxlen");
    assert_eq!(name(check(&|s| s.first = U32::new(0))), "first");
    assert_eq!(name(check(&|s| s.start = U32::new(768))), "start");
    assert_eq!(name(check(&|s| s.num_fc_blks = U32::new(1024))), "first");
    assert_eq!(name(check(&|s| s.nr_users = U32::new(49))), "nr_users");
    let mut both = back.clone();
    both.set_features(JournalCompat::empty(), JournalIncompat::CSUM_V2 | JournalIncompat::CSUM_V3);
    assert!(matches!(corrupt(both.format()), Flaw::Inconsistent { .. }));
    both.set_features(JournalCompat::empty(), JournalIncompat::from_bits_retain(0x80));
    assert!(matches!(both.format(), Err(Error::Unsupported { features }) if features[0].bit == 7));
    let mut old = back;
    old.blocktype = U32::new(BlockKind::SuperblockV1.code());
    assert_eq!(old.incompat(), JournalIncompat::empty());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 1024),
        kind in 1u32..6,
        f in 0usize..8,
        cut in 0usize..1024,
    ) {
        let f = formats()[f];
        bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&kind.to_be_bytes());
        bytes[12] &= 3;
        bytes[13] = 0;
        for b in [&bytes[..], &bytes[..cut]] {
            let _ = Revoke::decode(b, f);
            if let Ok(c) = Commit::decode(b) {
                let _ = c.verify(b, f);
                let _ = c.verify_v1(f, V1Checksum::default());
            }
            let _ = f.verify_tail(b);
            if let Ok(sb) = JournalSuperblock::decode_unchecked(b) {
                prop_assert_eq!(zerocopy::IntoBytes::as_bytes(&sb), &b[..1024]);
                let _ = sb.format();
                let _ = sb.validate(1024, 5);
                let _ = JournalSuperblock::decode(b);
            }
            if let Ok(d) = Descriptor::decode(b, f) {
                // What was read is written the same: tags, flags, UUIDs.
                prop_assert_eq!(Descriptor::decode(&d.encode(f), f).unwrap(), d);
            }
        }
    }
}
