//! Structures that other programs wrote, read by `format/`; and structures written by it, judged by e2fsck.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Mount, is_root, reference_fsck, run, tool};
use ext4kit::format::csum::Checksums;
use ext4kit::format::dirent::{self, DirFormat};
use ext4kit::format::htree::{DxNode, HtreeFormat};
use ext4kit::format::inline_data::InlineData;
use ext4kit::format::inode::Inode;
use ext4kit::format::jbd2::{BlockHeader, BlockKind, Commit, Descriptor, JournalSuperblock, Revoke};
use ext4kit::format::mmp::Mmp;
use ext4kit::format::quota::{Quota, QuotaKind};
use ext4kit::format::special::ReservedGdt;
use ext4kit::format::superblock::Superblock;
use ext4kit::format::xattr::{self, Value};
use ext4kit::format::{acl, fast_commit, htree, indirect, orphan_file};
use ext4kit::units::{Fsblk, Group, Ino};

const BS: usize = 1024;

/// An image in memory, with debugfs to find things in it.
struct Image {
    path: PathBuf,
    bytes: Vec<u8>,
    sb: Superblock,
}

impl Image {
    fn load(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let sb = Superblock::decode(&bytes[1024..2048]).unwrap();
        Self { path: path.to_path_buf(), bytes, sb }
    }

    fn debugfs(&self, request: &str) -> String {
        let out = run(&tool("debugfs").unwrap(), &["-R", request, self.path.to_str().unwrap()]);
        String::from_utf8(out.stdout).unwrap()
    }

    fn blocks(&self, ino: u32) -> Vec<usize> {
        self.debugfs(&format!("blocks <{ino}>")).split_whitespace().map(|b| b.parse().unwrap()).collect()
    }

    fn block(&self, number: usize) -> &[u8] {
        &self.bytes[number * BS..(number + 1) * BS]
    }

    fn content(&self, ino: u32) -> Vec<u8> {
        self.blocks(ino).iter().flat_map(|b| self.block(*b)).copied().collect()
    }

    /// `imap` prints the block and the byte offset (in hex) of an inode.
    fn inode(&self, ino: u32) -> Inode {
        let text = self.debugfs(&format!("imap <{ino}>"));
        let after = |word: &str| text.split(word).nth(1).unwrap().split([',', '\n']).next().unwrap().trim().to_owned();
        let block: usize = after("located at block").parse().unwrap();
        let offset = usize::from_str_radix(after("offset").trim_start_matches("0x"), 16).unwrap();
        let at = block * BS + offset;
        let inode = Inode::decode(&self.bytes[at..at + usize::from(self.sb.inode_size_bytes())]).unwrap();
        inode.verify_checksum(self.sb.checksums(), Ino(ino)).unwrap();
        inode
    }

    fn ino_of(&self, path: &str) -> u32 {
        let text = self.debugfs(&format!("stat {path}"));
        text.split("Inode:").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap()
    }

    fn inode_seed(&self, ino: u32) -> u32 {
        let generation = self.inode(ino).core().generation.get();
        self.sb.checksums().inode_seed(Ino(ino), generation).unwrap()
    }

    fn seed(&self) -> u32 {
        let Checksums::Metadata { seed } = self.sb.checksums() else { panic!() };
        seed
    }
}

/// A fresh image of 32 MiB with 1 KiB blocks. `None` (loudly) without the reference tools.
fn make(dir: &Path, args: &[&str]) -> Option<PathBuf> {
    let (mke2fs, _) = (tool("mke2fs")?, tool("debugfs")?);
    let path = dir.join("img");
    fs::File::create(&path).unwrap().set_len(32 << 20).unwrap();
    let args: Vec<&str> = ["-q", "-F", "-t", "ext4", "-b", "1024"]
        .into_iter()
        .chain(args.iter().copied())
        .chain([path.to_str().unwrap()])
        .collect();
    run(&mke2fs, &args);
    Some(path)
}

#[test]
fn quota_files_are_read_and_rebuilt() {
    if !is_root() {
        eprintln!("skipped: owners need root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let mut inodes = BTreeMap::<u32, u64>::new();
    for i in 0..60u32 {
        let owner = [0, 7, 1000, 70_000, 16_777_300, 4_000_000_000][i as usize % 6] + i / 6;
        let file = tree.join(format!("f{i}"));
        fs::write(&file, vec![1; i as usize * 100]).unwrap();
        std::os::unix::fs::chown(&file, Some(owner), Some(owner / 2)).unwrap();
        *inodes.entry(owner).or_default() += 1;
    }
    let quota = "quotatype=usrquota:grpquota:prjquota";
    let Some(path) = make(dir.path(), &["-O", "quota,project", "-E", quota, "-d", tree.to_str().unwrap()]) else {
        return;
    };
    // mke2fs counts before it copies the tree; e2fsck counts it.
    let Some(fsck) = tool("e2fsck") else { return };
    std::process::Command::new(&fsck).args(["-fy", path.to_str().unwrap()]).output().unwrap();
    let image = Image::load(&path);
    let project = image.sb.prj_quota_inum.get();
    let mut bytes = image.bytes.clone();
    for (ino, kind) in [(3, QuotaKind::User), (4, QuotaKind::Group), (project, QuotaKind::Project)] {
        let file = image.content(ino);
        let q = Quota::decode(&file, kind).unwrap();
        if kind == QuotaKind::User {
            // Root also owns directories and files of the filesystem itself.
            for (id, n) in inodes.iter().filter(|(id, _)| **id != 0) {
                assert_eq!(q.entries[id].inodes, *n, "user {id}");
            }
            assert_eq!(q.entries.len(), inodes.len());
        }
        let new = q.encode(kind);
        assert!(new.len() <= file.len(), "{kind:?}: {} instead of {} bytes", new.len(), file.len());
        let mut padded = new;
        padded.resize(file.len(), 0);
        for (number, content) in image.blocks(ino).iter().zip(padded.chunks(BS)) {
            bytes[number * BS..(number + 1) * BS].copy_from_slice(content);
        }
    }
    fs::write(&path, &bytes).unwrap();
    reference_fsck(&path);
    // The judge looks: one inode too many for one user is seen.
    let mut q = Quota::decode(&image.content(3), QuotaKind::User).unwrap();
    q.entries.get_mut(&1000).unwrap().inodes += 1;
    for (number, content) in image.blocks(3).iter().zip(q.encode(QuotaKind::User).chunks(BS)) {
        bytes[number * BS..(number + 1) * BS].copy_from_slice(content);
    }
    fs::write(&path, &bytes).unwrap();
    let out = std::process::Command::new(fsck).args(["-fn", path.to_str().unwrap()]).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("[QUOTA WARNING]"), "{out:?}");
}

#[test]
fn special_blocks_of_mke2fs() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = make(dir.path(), &["-O", "mmp,orphan_file,resize_inode,sparse_super"]) else { return };
    let image = Image::load(&path);
    let mmp = Mmp::decode(image.block(image.sb.mmp_block.get() as usize), Some(image.seed())).unwrap();
    assert!(mmp.is_clean());
    assert_eq!(mmp.encode(Some(image.seed()))[..], *image.block(image.sb.mmp_block.get() as usize));
    let orphan = image.sb.orphan_file_inum.get();
    let blocks = image.blocks(orphan);
    assert!(!blocks.is_empty());
    for b in blocks {
        orphan_file::verify(image.block(b), image.inode_seed(orphan), Fsblk(b as u64)).unwrap();
        assert_eq!(orphan_file::orphans(image.block(b)).unwrap().count(), 0);
    }
    // The resize inode: its pointers, the double indirect block, and each reserved block.
    let desc = u32::from(image.sb.desc_size_bytes()) * 4;
    let r = ReservedGdt {
        block_size: BS as u32,
        first_data_block: 1,
        desc_blocks: desc.div_ceil(BS as u32),
        reserved: image.sb.reserved_gdt_blocks.get(),
        blocks_per_group: image.sb.blocks_per_group.get(),
    };
    let inode = image.inode(7);
    let pointers = indirect::Pointers::decode(&inode.block_area());
    let dind = pointers.get(indirect::DOUBLE).unwrap();
    assert_eq!(pointers, ReservedGdt::pointers(dind));
    assert_eq!(inode.size(), r.inode_size());
    let backups = || [1, 3].map(Group);
    assert_eq!(inode.blocks_raw(), r.owned_blocks(2) * 2);
    r.verify_dind(image.block(dind.0 as usize)).unwrap();
    assert!(r.blocks().count() > 100);
    for b in r.blocks() {
        r.verify_primary(image.block(b.primary.0 as usize), b.primary, backups()).unwrap();
    }
}

/// Write back the filesystem that `root` is in, and no other.
fn sync(root: &Path) {
    rustix::fs::syncfs(fs::File::open(root).unwrap()).unwrap();
}

/// Mount, let `fill` work, and copy the image before it is unmounted: the journal still holds what happened.
fn with_kernel(args: &[&str], options: &str, fill: impl FnOnce(&Path)) -> Option<(tempfile::TempDir, Image, Image)> {
    let dir = tempfile::tempdir().unwrap();
    let path = make(dir.path(), args)?;
    let dirty = dir.path().join("dirty");
    {
        let mount = Mount::new(&path, options)?;
        fill(mount.path());
        sync(mount.path());
        fs::copy(&path, &dirty).unwrap();
    }
    Some((dir, Image::load(&path), Image::load(&dirty)))
}

#[test]
fn directories_and_attributes_of_the_kernel() {
    let rules = acl::Acl {
        entries: [
            (acl::AclTag::UserObj, 6),
            (acl::AclTag::User(1000), 7),
            (acl::AclTag::GroupObj, 4),
            (acl::AclTag::Mask, 7),
            (acl::AclTag::Other, 0),
        ]
        .map(|(tag, perm)| acl::AclEntry { tag, perm })
        .to_vec(),
    };
    let big = vec![0x5a; 5000];
    let Some((_dir, image, dirty)) = with_kernel(&["-O", "ea_inode,^64bit", "-I", "256"], "", |root| {
        fs::create_dir(root.join("d")).unwrap();
        for i in 0..3000 {
            fs::write(root.join(format!("d/a file with a longer name {i}")), b"").unwrap();
        }
        let f = root.join("f");
        fs::write(&f, b"x").unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        for i in 0..8 {
            rustix::fs::setxattr(&f, format!("user.attr{i}\u{e9}"), &vec![i; 20 + usize::from(i)], flags).unwrap();
        }
        rustix::fs::setxattr(&f, "user.big", &big, flags).unwrap();
        rustix::fs::setxattr(&f, "system.posix_acl_access", &rules.encode_host(), flags).unwrap();
    }) else {
        return;
    };
    directory(&image, image.ino_of("/d"));
    // Attributes: in the inode, in its block, and one value in an inode of its own.
    let inode = image.inode(image.ino_of("/f"));
    let number = inode.file_acl();
    assert_ne!(number.0, 0);
    let block = image.block(number.0 as usize);
    xattr::verify_block(block, image.seed(), number).unwrap();
    let (header, in_block) = xattr::parse_block(block).unwrap();
    assert_eq!(header.hash.get(), xattr::block_hash(in_block.iter().map(|a| a.hash)));
    let in_inode = xattr::parse_ibody(inode.xattr_area()).unwrap();
    assert!(!in_inode.is_empty() && !in_block.is_empty());
    let all: Vec<_> = in_inode.iter().chain(&in_block).collect();
    assert_eq!(all.len(), 10);
    for a in &all {
        a.verify_hash(ext4kit::error::Structure::XattrBlock).unwrap();
        match (xattr::full_name(a.index, a.name).unwrap().as_slice(), a.value) {
            (b"system.posix_acl_access", Value::Bytes(v)) => assert_eq!(acl::Acl::decode_disk(v).unwrap(), rules),
            (b"user.big", Value::Inode { ino, size }) => {
                assert_eq!(size, 5000);
                let ea = image.inode(ino.0);
                assert_eq!(xattr::ea_inode_refs(&ea), 1);
                let value_hash = xattr::ea_inode_value_hash(image.seed(), &big);
                assert_eq!(xattr::ea_inode_hash(&ea), value_hash);
                assert_eq!(xattr::entry_hash_of_inode(a.name, value_hash, false), a.hash);
            }
            (_, Value::Bytes(v)) => assert!(v.len() >= 20),
            other => panic!("{other:?}"),
        }
    }
    // The block built anew from its attributes is sorted and hashed as the kernel has it.
    let mut new: Vec<_> = vec![];
    for a in &in_block {
        let value = match a.value {
            Value::Bytes(v) => xattr::NewValue::Bytes(v),
            Value::Inode { ino, size } => {
                xattr::NewValue::Inode { ino, size, value_hash: xattr::ea_inode_value_hash(image.seed(), &big) }
            }
        };
        new.push(xattr::NewXattr { index: a.index, name: a.name, value });
    }
    new.reverse();
    let built = xattr::build_block(&new, BS).unwrap();
    let (built_header, built_attrs) = xattr::parse_block(&built).unwrap();
    assert_eq!(built_header.hash, header.hash);
    assert!(built_attrs.iter().zip(&in_block).all(|(x, y)| (x.name, x.value, x.hash) == (y.name, y.value, y.hash)));
    journal(&dirty);
}

fn directory(image: &Image, ino: u32) {
    let seed = image.inode_seed(ino);
    let tree = HtreeFormat { block_size: BS, checksums: true, hash_in_entry: false, large_dir: false };
    let format = DirFormat { filetype: true, hash_in_entry: false, tail: true };
    let blocks = image.blocks(ino);
    let root_block = image.block(blocks[0]);
    htree::verify(root_block, seed).unwrap();
    let root = DxNode::decode_root(root_block, tree).unwrap();
    let info = root.root.unwrap();
    assert_eq!(info.dot, Ino(ino));
    let mut copy = root_block.to_vec();
    root.encode_into(&mut copy, true);
    assert_eq!(copy, root_block);
    let version = ext4kit::format::dirhash::HashVersion::from_disk(info.hash_version.code(), image.sb.misc_flags());
    let hash_seed = image.sb.hash_seed.map(ext4kit::format::U32::get);
    let hasher = ext4kit::format::dirhash::DirHasher::new(version.unwrap(), hash_seed);
    let mut leaves = root.entries;
    for _ in 0..info.indirect_levels {
        let below = leaves.iter().flat_map(|e| {
            let block = image.block(blocks[e.lblk().0 as usize]);
            htree::verify(block, seed).unwrap();
            let node = DxNode::decode_node(block, tree).unwrap();
            let first = node.entries[0].block;
            let mut entries = node.entries;
            entries[0] = htree::DxEntry { hash: e.hash, block: first };
            entries
        });
        leaves = below.collect();
    }
    assert!(leaves.len() > 50, "{} leaves", leaves.len());
    let mut names = 0;
    for (i, leaf) in leaves.iter().enumerate() {
        let block = image.block(blocks[leaf.lblk().0 as usize]);
        dirent::verify(block, seed).unwrap();
        for e in dirent::entries(block, format).map(|e| e.unwrap()).filter(dirent::Dirent::is_used) {
            names += 1;
            let hash = hasher.hash(e.name).unwrap().hash;
            assert!(hash >= leaf.hash & !1 && leaves.get(i + 1).is_none_or(|n| hash <= n.hash), "{hash:#x}");
        }
    }
    assert_eq!(names, 3000);
}

/// Every block of the log that belongs to a transaction is read, verified and written again, byte for byte.
fn journal(image: &Image) {
    let blocks = image.blocks(8);
    let sb = JournalSuperblock::decode(image.block(blocks[0])).unwrap();
    sb.validate(BS as u32, blocks.len() as u64).unwrap();
    assert_eq!(sb.encode()[..], *image.block(blocks[0]));
    let f = sb.format().unwrap();
    assert!(f.csum.seed().is_some());
    let (mut descriptors, mut commits, mut data) = (0, 0, 0);
    let mut at = sb.first.get() as usize;
    while at < sb.log_end() as usize {
        let block = image.block(blocks[at]);
        at += 1;
        let Some(header) = BlockHeader::decode(block) else { continue };
        match header.kind().unwrap() {
            BlockKind::Descriptor => {
                f.verify_tail(block).unwrap();
                let d = Descriptor::decode(block, f).unwrap();
                assert_eq!(d.encode(f), block);
                // A later lap of the ring may have overwritten some of the data: stop where a tag does not match.
                let fits = d.tags.iter().enumerate().all(|(i, tag)| {
                    blocks.get(at + i).is_some_and(|b| f.verify_data(d.sequence, tag, image.block(*b)).is_ok())
                });
                if fits {
                    descriptors += 1;
                    data += d.tags.len();
                    at += d.tags.len();
                }
            }
            BlockKind::Commit => {
                let c = Commit::decode(block).unwrap();
                c.verify(block, f).unwrap();
                assert_eq!(c.encode(f), block);
                assert!(c.time.sec > 1_500_000_000);
                commits += 1;
            }
            BlockKind::Revoke => {
                f.verify_tail(block).unwrap();
                assert_eq!(Revoke::decode(block, f).unwrap().encode(f), block);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(descriptors > 0 && commits > 0 && data > 50, "{descriptors} descriptors, {commits} commits, {data} blocks");
}

#[test]
fn the_kernels_64_bit_journal_and_inline_data() {
    let Some((_dir, image, dirty)) = with_kernel(&["-O", "inline_data,64bit", "-I", "256"], "", |root| {
        for len in [5usize, 60, 61, 120] {
            fs::write(root.join(format!("f{len}")), vec![len as u8; len]).unwrap();
        }
        fs::create_dir(root.join("d")).unwrap();
        for i in 0..6 {
            fs::write(root.join(format!("d/n{i}")), b"").unwrap();
        }
        for i in 0..300 {
            fs::write(root.join(format!("other{i}")), vec![1; 2000]).unwrap();
        }
        // Data that looks like a journal block is escaped, with data journalling and for directories' blocks; revoked
        // blocks come from removing directories.
        for i in 0..100 {
            fs::create_dir(root.join(format!("dir{i}"))).unwrap();
            fs::write(root.join(format!("dir{i}/{}", "x".repeat(200))), b"").unwrap();
        }
        sync(root);
        for i in 0..100 {
            fs::remove_dir_all(root.join(format!("dir{i}"))).unwrap();
        }
    }) else {
        return;
    };
    for len in [5u64, 60, 61, 120] {
        let inode = image.inode(image.ino_of(&format!("/f{len}")));
        let data = InlineData::read(&inode).unwrap();
        assert_eq!(data.content(len).unwrap(), vec![len as u8; len as usize]);
        assert_eq!(data.second.is_empty(), len <= 60);
    }
    let d = InlineData::read(&image.inode(image.ino_of("/d"))).unwrap();
    assert_eq!(d.parent(), Ino(2));
    let format = DirFormat { filetype: true, hash_in_entry: false, tail: true };
    let names = d.lists(format).into_iter().flatten().map(|e| e.unwrap()).filter(dirent::Dirent::is_used).count();
    assert_eq!(names, 6);
    journal(&dirty);
}

#[test]
fn fast_commits_of_the_kernel() {
    let Some((_dir, _, dirty)) = with_kernel(&["-O", "fast_commit"], "", |root| {
        fs::write(root.join("first"), b"1").unwrap();
        sync(root);
        for i in 0..5 {
            let f = fs::File::create(root.join(format!("file{i}"))).unwrap();
            rustix::io::write(&f, &vec![7; 3000]).unwrap();
            rustix::fs::fsync(&f).unwrap();
        }
    }) else {
        return;
    };
    let blocks = dirty.blocks(8);
    let sb = JournalSuperblock::decode(dirty.block(blocks[0])).unwrap();
    if sb.fc_blocks() == 0 {
        eprintln!("skipped: the kernel did not switch fast commits on");
        return;
    }
    let area: Vec<&[u8]> = sb.fc_range().map(|i| dirty.block(blocks[i as usize])).collect();
    let Some(Ok(fast_commit::Tag { record: fast_commit::Record::Head { tid, .. }, .. })) =
        fast_commit::records(area[0]).next()
    else {
        eprintln!("skipped: the kernel made no fast commits");
        return;
    };
    let mut scanner = fast_commit::Scanner::new(tid);
    let mut names = 0;
    for block in area {
        let before = scanner.valid_records();
        let more = scanner.block(block).unwrap();
        if !more || scanner.valid_records() == before {
            break;
        }
        let records: Vec<_> = fast_commit::records(block).map(|t| t.unwrap().record).collect();
        names += records
            .iter()
            .filter(|r| matches!(r, fast_commit::Record::Create(d) if d.name.starts_with(b"file")))
            .count();
    }
    assert!(names > 0 && scanner.valid_records() > 5, "{names} names, {} records", scanner.valid_records());
}
