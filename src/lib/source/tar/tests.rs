//! Archives made by the `tar` crate, and malformed ones.

use std::io::Cursor;

use tar::{Builder, EntryType, Header};

use super::*;
use crate::error::EntryFlaw;
use crate::progress::Silent;

type Archive = Builder<Vec<u8>>;

fn header(kind: EntryType, size: u64) -> Header {
    let mut h = Header::new_ustar();
    h.set_entry_type(kind);
    h.set_size(size);
    h.set_mode(0o640);
    h.set_uid(1);
    h.set_gid(2);
    h.set_mtime(3);
    h
}

fn file(a: &mut Archive, path: &str, content: &[u8]) {
    let mut h = header(EntryType::Regular, content.len() as u64);
    a.append_data(&mut h, path, content).unwrap();
}

fn link(a: &mut Archive, kind: EntryType, path: &str, to: &str) {
    a.append_link(&mut header(kind, 0), path, to).unwrap();
}

/// An entry whose path is not checked by whoever writes it.
fn raw(path: &str, kind: u8, size: u64, content: &[u8]) -> Vec<u8> {
    let mut h = header(EntryType::new(kind), size);
    let name = &mut h.as_old_mut().name;
    name[..path.len()].copy_from_slice(path.as_bytes());
    h.set_cksum();
    let mut out = h.as_bytes().to_vec();
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn read(bytes: Vec<u8>) -> Result<(TarFile, Tree)> {
    let tar = TarFile::from_reader(Cursor::new(bytes), "x.tar").spool_in(std::env::temp_dir());
    let tree = tar.list(1, &Silent)?;
    Ok((tar, tree))
}

/// Path, mode, links, content of every file.
fn contents(tar: &TarFile, tree: &Tree) -> Vec<(String, u16, u32, Vec<u8>)> {
    let mut reader = tar.reader(tree).unwrap();
    let all = (0..tree.len() as NodeId).map(|id| {
        let n = tree.node(id).unwrap();
        reader.open(id).unwrap();
        let mut bytes = vec![0xee; if n.is_dir() { 0 } else { n.size as usize }];
        match n.data {
            Data::Symlink(_) => bytes.copy_from_slice(tree.target(n)),
            _ => reader.read(0, &mut bytes).unwrap(),
        }
        (String::from_utf8(tree.path(id)).unwrap(), n.mode, n.links, bytes)
    });
    let all = all.collect();
    reader.finish().unwrap();
    all
}

fn flaw(bytes: Vec<u8>) -> EntryFlaw {
    match read(bytes).map(|(_, tree)| tree.len()) {
        Err(Error::Archive { flaw, .. }) => flaw,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_type_of_entry() {
    let mut a = Builder::new(Vec::new());
    file(&mut a, "dir/file", b"content");
    link(&mut a, EntryType::Link, "also", "dir/file");
    link(&mut a, EntryType::Symlink, "soft", "dir/file");
    for (kind, name) in [(EntryType::Char, "c"), (EntryType::Block, "b"), (EntryType::Fifo, "f")] {
        let mut h = header(kind, 0);
        h.set_device_major(8).unwrap();
        h.set_device_minor(257).unwrap();
        a.append_data(&mut h, name, &[][..]).unwrap();
    }
    let mut h = header(EntryType::Directory, 0);
    h.set_mode(0o1777);
    a.append_data(&mut h, "dir/", &[][..]).unwrap();
    file(&mut a, &format!("long/{}", "n".repeat(200)), b"");
    let (tar, tree) = read(a.into_inner().unwrap()).unwrap();
    let got = contents(&tar, &tree);
    let short: Vec<_> = got.iter().map(|(p, m, l, c)| (&p[..p.len().min(8)], *m, *l, c.len())).collect();
    let want = [
        ("", 0o40755, 4, 0),
        ("also", 0o100_640, 2, 7),
        ("b", 0o60640, 1, 0),
        ("c", 0o20640, 1, 0),
        ("f", 0o10640, 1, 0),
        ("soft", 0o120_777, 1, 8),
        ("dir", 0o41777, 2, 0),
        ("long", 0o40755, 2, 0),
        ("long/nnn", 0o100_640, 1, 0),
    ];
    assert_eq!(short, want);
    assert_eq!(got[1].3, b"content");
    assert_eq!(tree.node(2).unwrap().data, Data::Device(8, 257));
    assert_eq!(tree.implied, [0, 7]);
    let again = tar.list(1, &Silent).unwrap();
    assert_eq!(contents(&tar, &again), got);
}

#[test]
fn later_entries_win_and_links_keep_the_earlier() {
    let mut a = Builder::new(Vec::new());
    file(&mut a, "x", b"one");
    link(&mut a, EntryType::Link, "y", "./x");
    file(&mut a, "x", b"two!");
    let (tar, tree) = read(a.into_inner().unwrap()).unwrap();
    let got = contents(&tar, &tree);
    assert_eq!((&got[1].3[..], &got[2].3[..]), (&b"two!"[..], &b"one"[..]));
    assert_eq!((got[1].2, got[2].2), (1, 1));
}

#[test]
fn attributes_of_extended_headers() {
    let mut a = Builder::new(Vec::new());
    let records: [(&str, &[u8]); 5] = [
        ("path", b"renamed"),
        ("mtime", b"10.5"),
        ("uid", b"3000000000"),
        ("SCHILY.xattr.user.b", b"\0\n"),
        ("SCHILY.xattr.user.a", b"1"),
    ];
    a.append_pax_extensions(records).unwrap();
    file(&mut a, "x", b"12");
    file(&mut a, "y", b"34");
    let (tar, tree) = read(a.into_inner().unwrap()).unwrap();
    assert_eq!(tree.path(1), b"renamed");
    let n = tree.node(1).unwrap();
    assert_eq!((n.uid, n.gid, n.mtime.0, n.mtime.1 >> 2), (3_000_000_000, 2, 10, 500_000_000));
    let mut reader = tar.reader(&tree).unwrap();
    reader.open(1).unwrap();
    let want = [(&b"user.a"[..], &b"1"[..]), (b"user.b", b"\0\n")].map(|(n, v)| (n.to_vec(), v.to_vec()));
    assert_eq!(reader.xattrs().unwrap(), want);
    reader.open(2).unwrap();
    assert_eq!(reader.xattrs().unwrap(), []);
    assert_eq!(tree.node(2).unwrap().uid, 1);
}

#[test]
fn holes_of_format_1_0() {
    let map = b"2\n1000\n5\n9000\n0\n";
    let content = [&map[..], &[0; 512][map.len()..], b"abcde"].concat();
    let mut a = Builder::new(Vec::new());
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"holes"),
        ("GNU.sparse.realsize", b"9000"),
    ];
    a.append_pax_extensions(records).unwrap();
    file(&mut a, "GNUSparseFile.0/holes", &content);
    let (tar, tree) = read(a.into_inner().unwrap()).unwrap();
    assert_eq!(tree.data_bytes(), 5);
    let got = contents(&tar, &tree);
    assert_eq!(got[1].0, "holes");
    let want = [&[0; 1000][..], b"abcde", &[0; 7995]].concat();
    assert!(got[1].3 == want);
    let mut reader = tar.reader(&tree).unwrap();
    reader.open(1).unwrap();
    for (from, to) in [(0, 10), (998, 1003), (1002, 1003), (1004, 1010), (8000, 9000)] {
        let mut buf = vec![1; to - from];
        reader.read(from as u64, &mut buf).unwrap();
        assert_eq!(buf, want[from..to]);
    }
    assert!(reader.read(8999, &mut [0; 2]).is_err());
}

#[test]
fn sizes_of_entries_without_content() {
    // A hard link that names its file's size, without and with content.
    let one = [raw("a", b'0', 3, b"abc"), raw("b", b'0', 3, b"def")].concat();
    let mut linked = raw("l", b'1', 3, b"");
    linked[157] = b'a';
    linked[148..156].fill(b' ');
    let sum: u32 = linked.iter().map(|b| u32::from(*b)).sum();
    linked[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for content in [vec![], raw("", 0, 0, b"")[512..].to_vec(), [b"abc".to_vec(), vec![0; 509]].concat()] {
        let bytes = [&one[..], &linked, &content, &raw("z", b'0', 0, b"")].concat();
        let (_, tree) = read(bytes).unwrap();
        assert_eq!(tree.path(3), b"z");
        assert_eq!(tree.node(1).unwrap().links, 2);
    }
}

#[test]
fn what_leads_out_is_refused() {
    for path in ["../x", "a/../../x", "/../x"] {
        assert_eq!(flaw(raw(path, b'0', 0, b"")), EntryFlaw::Escapes);
    }
    let (_, tree) = read(raw("/abs/x", b'0', 0, b"")).unwrap();
    assert_eq!(tree.path(2), b"abs/x");
    let mut a = Builder::new(Vec::new());
    link(&mut a, EntryType::Link, "l", "none");
    assert_eq!(flaw(a.into_inner().unwrap()), EntryFlaw::LinkTarget { target: b"none".to_vec() });
    let mut a = Builder::new(Vec::new());
    link(&mut a, EntryType::Symlink, "out", "../../../etc");
    file(&mut a, "out/passwd", b"inside");
    let (_, tree) = read(a.into_inner().unwrap()).unwrap();
    assert_eq!(tree.path(3), b"etc/passwd");
}

#[test]
fn damaged_archives_are_named() {
    assert_eq!(flaw(b"".to_vec()), EntryFlaw::NotArchive);
    assert_eq!(flaw(b"hello".to_vec()), EntryFlaw::NotArchive);
    assert_eq!(flaw(vec![b'x'; 4096]), EntryFlaw::NotArchive);
    assert_eq!(flaw(raw("a", b'0', 2000, b"abc")), EntryFlaw::Truncated);
    assert_eq!(flaw(raw("a", b'x', 1 << 40, b"")), EntryFlaw::TooLong { what: "an extended header", len: 1 << 40 });
    assert_eq!(flaw(raw("a", b'L', 600, b"")), EntryFlaw::Truncated);
    assert_eq!(flaw(raw("a", b'!', 0, b"")), EntryFlaw::Type { code: b'!' });
    assert_eq!(flaw(raw("a", b'M', 0, b"")), EntryFlaw::MultiVolume);
    assert_eq!(flaw(raw("a", b'S', 0, b"")), EntryFlaw::SparseMap);
    let mut second = [raw("a", b'0', 0, b""), raw("b", b'0', 0, b"")].concat();
    second[512] ^= 1;
    match read(second) {
        Err(e @ Error::Archive { offset: 512, flaw: EntryFlaw::Checksum, .. }) => {
            assert_eq!(e.to_string(), "x.tar: byte 512: the header's checksum does not match");
        }
        other => panic!("{other:?}"),
    }
    let e = read(raw("dir/a", b'0', 2000, b"abc")).unwrap_err();
    assert_eq!(e.to_string(), "x.tar: entry dir/a at byte 0: the archive ends here, too early");
    assert_eq!(read(vec![0; 1024]).unwrap().1.len(), 1);
}

#[test]
fn random_changes_never_panic() {
    let mut a = Builder::new(Vec::new());
    a.append_pax_extensions([("SCHILY.xattr.user.b", &b"x"[..]), ("mtime", b"1.5")]).unwrap();
    file(&mut a, "dir/file", b"content");
    link(&mut a, EntryType::Link, "also", "dir/file");
    file(&mut a, &format!("long/{}", "n".repeat(200)), b"");
    let good = a.into_inner().unwrap();
    let mut state = 1u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for _ in 0..2000 {
        let mut bytes = good.clone();
        let at = random(bytes.len());
        bytes[at] = random(256) as u8;
        // Half of the time the header is made valid again.
        let block = at / 512 * 512;
        if random(2) == 0 {
            let mut h = Header::from_byte_slice(&bytes[block..block + 512]).clone();
            h.set_cksum();
            bytes[block..block + 512].copy_from_slice(h.as_bytes());
        }
        if let Ok((tar, tree)) = read(bytes) {
            let _ = tree.data_bytes();
            let _ = tar.reader(&tree).map(|_| ());
        }
    }
}
