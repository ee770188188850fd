//! Entry points for fuzzers: one per family of on-disk structures. Each takes any bytes, decodes them in every way that
//! the family has, and checks what decoding promises (nothing is lost, offsets are inside). They fail by panicking.
//!
//! `tests/fuzz` wraps them for cargo-fuzz; the tests here run them over random and half-valid bytes.

use crate::format::csum::Checksums;
use crate::format::dirent::{self, DirFormat};
use crate::format::dirhash::DirHash;
use crate::format::extent::Node;
use crate::format::group_desc::GroupDesc;
use crate::format::htree::{self, DxNode, HtreeFormat};
use crate::format::inline_data::InlineData;
use crate::format::inode::Inode;
use crate::format::jbd2::{self, Commit, Descriptor, JournalCsum, JournalFormat, JournalSuperblock, Revoke};
use crate::format::quota::{Quota, QuotaKind};
use crate::format::superblock::Superblock;
use crate::format::verity::VerityDescriptor;
use crate::format::{acl, casefold, extent, fast_commit, indirect, mmp, orphan_file, xattr};
use crate::units::{Fsblk, Group, Ino, Tid};

const SEED: u32 = 0x1234_5678;

/// An entry point.
pub type Target = fn(&[u8]);

/// All entry points with their names.
pub const TARGETS: [(&str, Target); 11] = [
    ("superblock", superblock),
    ("group_desc", group_desc),
    ("inode", inode),
    ("extent", extent_node),
    ("dirent", dir_block),
    ("htree", htree_node),
    ("xattr", attributes),
    ("acl", access_lists),
    ("quota", quota_file),
    ("jbd2", journal_block),
    ("fast_commit", fast_commits),
];

/// Superblocks, MMP blocks and verity descriptors.
pub fn superblock(bytes: &[u8]) {
    if let Ok(sb) = Superblock::decode_unchecked(bytes) {
        let again = Superblock::decode_unchecked(&sb.encode()).map(|s| s.encode());
        assert_eq!(again.ok(), Some(sb.encode()));
        let _ = (Superblock::decode(bytes), sb.checksums(), sb.blocks_count());
    }
    let _ = mmp::Mmp::decode(bytes, Some(SEED));
    let _ = VerityDescriptor::decode(bytes, 1000);
}

/// Group descriptors.
pub fn group_desc(bytes: &[u8]) {
    if let Ok(d) = GroupDesc::decode(bytes) {
        let mut out = bytes.to_vec();
        d.encode_into(&mut out);
        assert_eq!(out, bytes);
        for csums in [Checksums::Metadata { seed: SEED }, Checksums::Gdt { uuid: [7; 16] }] {
            let _ = d.computed_checksum(csums, Group(3), bytes.len() as u16, bytes);
        }
    }
}

/// Inodes with what is inside them: times, attributes, inline data, pointers.
pub fn inode(bytes: &[u8]) {
    let Ok(mut i) = Inode::decode(bytes) else { return };
    i.update(|_| ());
    assert_eq!(i.as_bytes(), bytes);
    let csums = Checksums::Metadata { seed: SEED };
    let _ = i.verify_checksum(csums, Ino(12));
    let _ = xattr::parse_ibody(i.xattr_area());
    if let Ok(d) = InlineData::read(&i) {
        let _ = d.content(i.size());
    }
    let area = i.block_area();
    assert_eq!(indirect::Pointers::decode(&area).encode(), area);
    let _ = Node::decode(&area);
    i.update_checksum(csums, Ino(12));
    assert!(i.verify_checksum(csums, Ino(12)).is_ok());
}

/// Extent tree nodes and pointer blocks.
pub fn extent_node(bytes: &[u8]) {
    if let Ok(node) = Node::decode(bytes) {
        let mut out = bytes.to_vec();
        node.encode_into(&mut out);
        assert_eq!(Node::decode(&out).ok(), Some(node));
    }
    let _ = extent::verify_block(bytes, SEED);
    let mut copy = bytes.to_vec();
    extent::stamp_block(&mut copy, SEED);
    let _ = indirect::check_range(bytes, 1..1000);
}

/// Directory blocks, orphan blocks and folded names.
pub fn dir_block(bytes: &[u8]) {
    for (hash_in_entry, tail) in [(false, false), (false, true), (true, true)] {
        let format = DirFormat { filetype: true, hash_in_entry, tail };
        let mut end = 0;
        for e in dirent::entries(bytes, format).flatten() {
            assert_eq!(e.offset, end);
            end = e.offset.saturating_add(e.rec_len);
            assert!(end <= bytes.len());
        }
        let mut copy = bytes.to_vec();
        let new = dirent::NewDirent { ino: Ino(12), name: b"name", file_type: 1, hash: DirHash::default() };
        if let Ok(Some(at)) = dirent::insert(&mut copy, format, &new) {
            assert!(dirent::entries(&copy, format).flatten().any(|e| e.offset == at && e.name == b"name"));
            assert!(dirent::remove(&mut copy, format, at).is_ok_and(|found| found));
        }
        let _ = dirent::verify(bytes, SEED);
    }
    let _ = orphan_file::verify(bytes, SEED, Fsblk(5));
    let key = casefold::key(bytes);
    assert_eq!(casefold::key(&key), key);
}

/// Index blocks of directories.
pub fn htree_node(bytes: &[u8]) {
    let format = HtreeFormat { block_size: bytes.len(), checksums: true, hash_in_entry: false, large_dir: true };
    for node in [DxNode::decode_root(bytes, format), DxNode::decode_node(bytes, format)].into_iter().flatten() {
        let mut out = bytes.to_vec();
        node.encode_into(&mut out, true);
        htree::stamp(&mut out, SEED);
        assert!(htree::verify(&out, SEED).is_ok());
        let again =
            if node.root.is_some() { DxNode::decode_root(&out, format) } else { DxNode::decode_node(&out, format) };
        assert_eq!(again.ok(), Some(node));
    }
    let _ = htree::verify(bytes, SEED);
}

/// Extended attributes of inode and block.
pub fn attributes(bytes: &[u8]) {
    let attrs = [xattr::parse_ibody(bytes).ok(), xattr::parse_block(bytes).ok().map(|b| b.1)];
    for a in attrs.into_iter().flatten().flatten() {
        let _ = a.verify_hash(crate::error::Structure::XattrBlock);
        if let Some(full) = xattr::full_name(a.index, a.name)
            && let Some(split) = xattr::split_name(&full)
        {
            assert_eq!(xattr::full_name(split.0, split.1).as_ref(), Some(&full));
        }
    }
    let _ = xattr::verify_block(bytes, SEED, Fsblk(9));
}

/// Access control lists.
pub fn access_lists(bytes: &[u8]) {
    if let Ok(list) = acl::Acl::decode_disk(bytes) {
        assert_eq!(list.encode_disk(), bytes);
        let _ = (list.validate(), list.equivalent_mode());
        assert_eq!(acl::Acl::decode_host(&list.encode_host()).ok(), Some(list));
    }
    let _ = acl::Acl::decode_host(bytes);
}

/// Quota files.
pub fn quota_file(bytes: &[u8]) {
    let kind = QuotaKind::User;
    if let Ok(q) = Quota::decode(bytes, kind) {
        let again = Quota::decode(&q.encode(kind), kind).map(|a| a.entries.len());
        assert_eq!(again.ok(), Some(q.entries.len()));
    }
}

/// The journal's blocks, in every form.
pub fn journal_block(bytes: &[u8]) {
    for bits64 in [false, true] {
        for csum in [JournalCsum::None, JournalCsum::V1, JournalCsum::V2(SEED), JournalCsum::V3(SEED)] {
            let f = JournalFormat { block_size: bytes.len(), bits64, csum };
            if let Ok(d) = Descriptor::decode(bytes, f) {
                assert_eq!(Descriptor::decode(&d.encode(f), f).ok(), Some(d));
            }
            if let Ok(r) = Revoke::decode(bytes, f) {
                assert_eq!(Revoke::decode(&r.encode(f), f).ok(), Some(r));
            }
            if let Ok(c) = Commit::decode(bytes) {
                let _ = c.verify(bytes, f);
            }
            let _ = f.verify_tail(bytes);
        }
    }
    if let Ok(sb) = JournalSuperblock::decode_unchecked(bytes) {
        let _ = (sb.format(), sb.validate(1024, 1024), sb.fc_range());
    }
    let _ = jbd2::BlockHeader::decode(bytes);
}

/// Fast-commit blocks.
pub fn fast_commits(bytes: &[u8]) {
    for t in fast_commit::records(bytes).flatten() {
        assert!(t.offset < bytes.len());
    }
    let mut scanner = fast_commit::Scanner::new(Tid(1));
    let _ = scanner.block(bytes);
    let _ = scanner.block(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Entropy, SeededEntropy};

    /// Starts that get past the magic numbers.
    const STARTS: [&[u8]; 9] = [
        &[],
        &[0x0a, 0xf3, 2, 0, 84, 0, 0, 0],
        &[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 1, 0, 0, 0, 5],
        &[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 1, 0],
        &[0, 0, 2, 0xea, 1, 0, 0, 0, 1, 0, 0, 0],
        &[1, 0, 0, 0, 1, 0, 6, 0],
        &[9, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        &[12, 0, 0, 0, 12, 0, 1, 2, b'.', 0, 0, 0, 2, 0, 0, 0, 0xf4, 3, 2, 2, b'.', b'.', 0, 0, 0, 0, 0, 0, 1, 8],
        &[0x11, 0x1f, 0xc0, 0xd9, 1, 0, 0, 0],
    ];

    #[test]
    fn any_bytes() {
        let mut random = SeededEntropy::new(11);
        for round in 0..4000u32 {
            let len = match round % 4 {
                0 => 1024,
                1 => 256,
                2 => 8192,
                _ => random.next_u32() as usize % 2000,
            };
            let mut bytes = vec![0; len];
            random.fill(&mut bytes);
            if round % 3 != 0 {
                // Small numbers are likelier to make sense.
                for b in &mut bytes {
                    *b = if *b < 128 { 0 } else { *b % 24 };
                }
            }
            for (to, from) in bytes.iter_mut().zip(STARTS[random.next_u32() as usize % STARTS.len()]) {
                *to = *from;
            }
            for (_, target) in TARGETS {
                target(&bytes);
            }
        }
    }
}
