//! Directories: entries, indexes, encryption and case; connectivity and link counts.

use ext4kit::check::Problem as P;

use crate::made::{Case, EXT2, EXT4, INLINE, PLAIN, SECRET, case};
use crate::patient::{Patient, entry};

/// Set bytes of the index of `/many`: its hash is at 28, the limit at 32, the count at 34, the first block at 36, pairs of
/// hash and block from 40 on.
fn index(p: &mut Patient, at: usize, bytes: &[u8]) {
    p.dir_block("/many", |b| b[at..at + bytes.len()].copy_from_slice(bytes));
}

const INDEXED: Case = case(PLAIN, "", P::HtreeSet).indexed();

const fn indexed(commands: &'static str, want: P) -> Case {
    case(PLAIN, commands, want).indexed()
}

const SECRET_FILE: &str = "mkdir secret\nea_set -f {context} secret c\nsif secret flags 0x80800\nwrite {attr} plain\n\
    ea_set -f {other} plain c\nsif plain flags 0x80800\nln plain secret/0123456789abcdef\nunlink plain";
const TWO_SECRETS: &str = "mkdir secret\nea_set -f {context} secret c\nsif secret flags 0x80800\nwrite {attr} plain\n\
    ea_set -f {context} plain c\nsif plain flags 0x80800\nln plain secret/0123456789abcdef\n\
    ln plain secret/0123456789abcdeg\nsif plain links_count 3";

pub(crate) const CASES: &[Case] = &[
    // Entries.
    case(PLAIN, "", P::DupDotDot).cut(|p| {
        p.dir_block("/sub", |b| {
            let at = entry(b, b"inner");
            b[at + 6] = 2;
            b[at + 8..at + 10].copy_from_slice(b"..");
        });
    }),
    case(PLAIN, "", P::SplitDot).cut(|p| {
        // The second entry begins where the first one's long room ends.
        p.dir_block("/dir", |b| {
            let rest: Vec<u8> = b[12..].to_vec();
            b[4..6].copy_from_slice(&36u16.to_le_bytes());
            b[12..36].fill(0);
            let len = rest.len() - 24;
            b[36..].copy_from_slice(&rest[..len]);
            let last = entry(b, b"second");
            let room = (b.len() - last) as u16;
            b[last + 4..last + 6].copy_from_slice(&room.to_le_bytes());
        });
    }),
    case(EXT2, "feature ^filetype", P::ClearFiletype),
    // Indexes.
    indexed("feature ^dir_index", P::HtreeSet),
    INDEXED.wants(P::HtreeBadRoot).cut(|p| index(p, 24, &[1])),
    INDEXED.wants(P::HtreeHashVersion).cut(|p| index(p, 28, &[9])),
    INDEXED.wants(P::HtreeCannotSiphash).cut(|p| index(p, 28, &[6])),
    INDEXED.wants(P::HtreeBadRootNode).cut(|p| index(p, 29, &[4])),
    INDEXED.wants(P::HtreeDepth).cut(|p| index(p, 30, &[5])),
    INDEXED.wants(P::HtreeBadDepth).cut(|p| index(p, 30, &[1])),
    INDEXED.wants(P::HtreeIncompat).cut(|p| index(p, 31, &[1])),
    INDEXED.wants(P::HtreeBadLimit).cut(|p| index(p, 32, &[0xf0, 1])),
    INDEXED.wants(P::HtreeBadCount).cut(|p| index(p, 34, &[0xf0, 1])),
    INDEXED.wants(P::HtreeNotRef).cut(|p| {
        p.dir_block("/many", |b| b[34] -= 1);
    }),
    INDEXED.wants(P::HtreeDupRef).cut(|p| {
        p.dir_block("/many", |b| b.copy_within(36..40, 44));
    }),
    INDEXED.wants(P::HtreeMinHash).cut(|p| {
        p.dir_block("/many", |b| b.copy_within(48..52, 40));
    }),
    INDEXED.wants(P::HtreeMaxHash).cut(|p| index(p, 40, &[2, 0, 0, 0])),
    INDEXED.wants(P::HtreeBadBlock).cut(|p| index(p, 44, &[0xe7, 3, 0, 0])),
    INDEXED.wants(P::HtreeHashOrder).cut(|p| {
        p.dir_block("/many", |b| {
            let first = b[40..48].to_vec();
            b.copy_within(48..56, 40);
            b[48..56].copy_from_slice(&first);
        });
    }),
    case(EXT4, "", P::HtreeRootCsum).indexed().cut(|p| {
        let at = p.mapped(p.ino("/many"), 0);
        p.block(at)[1020] ^= 1;
    }),
    case(
        "-t ext4 -b 1024 -O casefold,encrypt,^has_journal,^metadata_csum",
        "sif many flags 0x40081800",
        P::HtreeNeedsSiphash,
    )
    .indexed(),
    // Encryption and case.
    case(
        SECRET,
        "mkdir secret\nea_set -f {context} secret c\nsif secret flags 0x80800\nln file secret/short",
        P::BadEncryptedName,
    ),
    case(
        SECRET,
        "mkdir secret\nea_set -f {context} secret c\nsif secret flags 0x80800\nln file secret/0123456789abcdef",
        P::UnencryptedFile,
    ),
    case(SECRET, SECRET_FILE, P::EncryptionPolicy),
    case(SECRET, TWO_SECRETS, P::DupEncrypted).cut(|p| {
        p.dir_block("/secret", |b| {
            let at = entry(b, b"0123456789abcdeg");
            b[at + 8 + 15] = b'f';
        });
    }),
    case(
        "-t ext4 -b 1024 -O casefold,^has_journal,^metadata_csum -E encoding_flags=strict",
        "mkdir x\nsif x flags 0x40080000\nln file x/name\nsif file links_count 2",
        P::BadEncodedName,
    )
    .cut(|p| {
        p.dir_block("/x", |b| {
            let at = entry(b, b"name");
            b[at + 9] = 0xff;
        });
    }),
    // Connectivity.
    case(EXT2, "clri <2>", P::NoRootInode).lossy(),
    case(EXT2, "rmdir lost+found", P::NoLostFound),
    case(INLINE, "rmdir lost+found\nmkdir lost+found\nunlink dir/second", P::LostFoundInline),
    case(
        SECRET,
        "ea_set -f {context} lost+found c\nsif lost+found flags 0x80800\nunlink dir/second",
        P::LostFoundEncrypted,
    ),
    case(EXT4, "rmdir lost+found\nln file lost+found\nunlink dir/second", P::LostFoundNotDir),
    // Link counts.
    case(EXT4, "ssv last_orphan {file}\nsif file links_count 9", P::BadRefCount),
    case(EXT2, "unlink journal", P::ZeroLenInode),
    indexed("sif many links_count 1", P::DirOverflowRefCount),
];
