//! What the integration tests share: reference tools, source trees, kernel mounts, and comparing an image with a tree.
//!
//! A tool that is missing, or root that is not there, is a loud skip (`skipped: …` on standard error), never a failure.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::missing_panics_doc, missing_docs)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use ext4kit::device::{Access, FileDevice};
use ext4kit::format::inode::{FileType, TimeField};
use ext4kit::units::Ino;
use ext4kit::volume::{OpenOptions, Owner, Volume};

/// A reference program on PATH or in /usr/sbin and /sbin.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|d| d.join(name))
        .find(|p| p.is_file())
        .or_else(|| {
            eprintln!("skipped: no {name} here");
            None
        })
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn run<S: AsRef<OsStr>>(program: &Path, args: &[S]) -> Output {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(
        out.status.success(),
        "{} {:?}: {}\n{}{}",
        program.display(),
        args.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect::<Vec<_>>(),
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    out
}

/// `e2fsck -fn` exits 0. Skips loudly where there is none.
pub fn reference_fsck(image: &Path) {
    let Some(fsck) = tool("e2fsck") else { return };
    let out = Command::new(fsck).args(["-fn".as_ref(), image.as_os_str()]).output().unwrap();
    assert!(
        out.status.success(),
        "e2fsck -fn {}: {}\n{}",
        image.display(),
        out.status,
        String::from_utf8_lossy(&out.stdout)
    );
}

/// A loop mount that ends with the value.
pub struct Mount {
    dir: tempfile::TempDir,
}

impl Mount {
    /// Mount `image` on the real kernel; `None` (loudly) where that is not allowed or the kernel refuses.
    pub fn new(image: &Path, options: &str) -> Option<Self> {
        Self::of_type("ext4", image, options)
    }

    /// The same for another filesystem.
    pub fn of_type(fs: &str, image: &Path, options: &str) -> Option<Self> {
        if !is_root() {
            eprintln!("skipped: mounting needs root");
            return None;
        }
        let mount = tool("mount")?;
        let dir = tempfile::tempdir().unwrap();
        let opts = if options.is_empty() { "loop".to_owned() } else { format!("loop,{options}") };
        let out = Command::new(mount).args(["-t", fs, "-o", &opts]).args([image, dir.path()]).output().unwrap();
        if !out.status.success() {
            eprintln!("skipped: the kernel does not mount it: {}", String::from_utf8_lossy(&out.stderr).trim());
            return None;
        }
        Some(Self { dir })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A program that another test starts holds all open files for a moment, and with them the mount.
        for _ in 0..100 {
            if Command::new("umount").arg(self.dir.path()).output().is_ok_and(|o| o.status.success()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        eprintln!("umount {} failed", self.dir.path().display());
    }
}

/// What a test compares of one file.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: FileType,
    pub permissions: u16,
    pub owner: (u32, u32),
    pub mtime: (i64, u32),
    pub links: u32,
    pub size: u64,
    pub content: Vec<u8>,
    pub device: (u32, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} {:o} {:?} mtime {:?} links {} size {} content crc {:#x} ({} bytes) dev {:?} xattrs {:?}",
            self.kind,
            self.permissions,
            self.owner,
            self.mtime,
            self.links,
            self.size,
            crc32c::crc32c(&self.content),
            self.content.len(),
            self.device,
            self.xattrs.iter().map(|(k, v)| (String::from_utf8_lossy(k), v.len())).collect::<Vec<_>>()
        )
    }
}

pub type Tree = BTreeMap<Vec<u8>, Entry>;

/// A tree of the host, without `lost+found`.
pub fn host_tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(rel) = todo.pop() {
        let path = root.join(&rel);
        let meta = fs::symlink_metadata(&path).unwrap();
        let t = meta.file_type();
        let (kind, content) = if t.is_dir() {
            for e in fs::read_dir(&path).unwrap() {
                let name = e.unwrap().file_name();
                if !(rel.as_os_str().is_empty() && name == "lost+found") {
                    todo.push(rel.join(name));
                }
            }
            (FileType::Directory, vec![])
        } else if t.is_symlink() {
            (FileType::Symlink, fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
        } else if t.is_file() {
            (FileType::Regular, fs::read(&path).unwrap())
        } else if t.is_fifo() {
            (FileType::Fifo, vec![])
        } else if t.is_socket() {
            (FileType::Socket, vec![])
        } else if t.is_block_device() {
            (FileType::BlockDevice, vec![])
        } else {
            (FileType::CharDevice, vec![])
        };
        let is_device = matches!(kind, FileType::BlockDevice | FileType::CharDevice);
        let device = if is_device { (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev())) } else { (0, 0) };
        let entry = Entry {
            kind,
            permissions: (meta.permissions().mode() & 0o7777) as u16,
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec() as u32),
            links: meta.nlink() as u32,
            size: if kind == FileType::Directory { 0 } else { meta.size() },
            content,
            device,
            xattrs: host_xattrs(&path),
        };
        tree.insert(rel.as_os_str().as_bytes().to_vec(), entry);
    }
    tree
}

fn host_xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0u8; 65536];
    let Ok(n) = rustix::fs::llistxattr(path, &mut names[..]) else { return BTreeMap::new() };
    names[..n]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0u8; 65536];
            let n = rustix::fs::lgetxattr(path, name, &mut value[..]);
            let n = n.unwrap_or_else(|e| panic!("{}: {}: {e}", path.display(), String::from_utf8_lossy(name)));
            value.truncate(n);
            (name.to_vec(), value)
        })
        .collect()
}

pub fn open(image: &Path) -> Volume {
    let device = FileDevice::open(image, Access::ReadOnly).unwrap();
    Volume::open(Arc::new(device), &OpenOptions::default()).unwrap()
}

/// A tree inside an image, without `lost+found`, as our reader sees it.
pub fn image_tree(volume: &Volume) -> Tree {
    let mut tree = Tree::new();
    let mut todo = vec![(Vec::new(), Ino::ROOT)];
    while let Some((path, ino)) = todo.pop() {
        let inode = volume.inode(ino).unwrap();
        let owner = Owner { ino, inode: &inode };
        let kind = inode.file_type().unwrap();
        let content = match kind {
            FileType::Directory => {
                for e in volume.read_dir(owner).unwrap() {
                    if path.is_empty() && e.name == b"lost+found" {
                        continue;
                    }
                    let mut child = path.clone();
                    if !child.is_empty() {
                        child.push(b'/');
                    }
                    child.extend(&e.name);
                    assert_eq!(volume.lookup(owner, &e.name).unwrap(), Some(e.ino), "look-up of {child:?}");
                    todo.push((child, e.ino));
                }
                vec![]
            }
            FileType::Symlink => volume.symlink_target(owner).unwrap(),
            FileType::Regular => volume.reader(owner).unwrap().read_all(1 << 30).unwrap().unwrap(),
            _ => vec![],
        };
        let is_device = matches!(kind, FileType::BlockDevice | FileType::CharDevice);
        let mtime = inode.time(TimeField::Modify);
        let entry = Entry {
            kind,
            permissions: inode.permissions(),
            owner: (inode.uid(), inode.gid()),
            mtime: (mtime.sec, mtime.nsec),
            links: u32::from(inode.core().links_count.get()),
            size: if kind == FileType::Directory { 0 } else { inode.size() },
            content,
            device: if is_device { inode.device_numbers() } else { (0, 0) },
            xattrs: volume
                .xattrs(owner)
                .unwrap()
                .into_iter()
                .map(|x| (x.name(), x.host_value().unwrap().into_owned()))
                .collect(),
        };
        tree.insert(path, entry);
    }
    tree
}

/// Panics with the first differences between two trees.
pub fn assert_same_tree(what: &str, want: &Tree, got: &Tree) {
    let mut differences = Vec::new();
    for path in want.keys().chain(got.keys().filter(|p| !want.contains_key(*p))) {
        let (a, b) = (want.get(path), got.get(path));
        if a != b {
            differences.push(format!("/{}\n  want {a:?}\n  got  {b:?}", String::from_utf8_lossy(path)));
        }
    }
    assert!(
        differences.is_empty(),
        "{what}: {} of {} paths differ\n{}",
        differences.len(),
        want.len(),
        differences[..differences.len().min(5)].join("\n")
    );
}

/// Fill `root` with one of everything: sizes around block and inode limits, sparse files, links, many names, xattrs;
/// devices and trusted attributes as root. Content depends on `seed` only.
pub fn fill_tree(root: &Path, seed: u32) {
    let bytes = |n: usize, salt: u32| -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9) ^ salt;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect()
    };
    for (i, size) in
        [0usize, 1, 59, 60, 61, 100, 155, 160, 1023, 1024, 1025, 4096, 5000, 65536, 300_000].into_iter().enumerate()
    {
        fs::write(root.join(format!("file-{size}")), bytes(size, i as u32)).unwrap();
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    for (at, n) in [(0u64, 10usize), (100_000, 5000), (1 << 20, 4096), (5_000_000, 1)] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &bytes(n, at as u32), at).unwrap();
    }
    sparse.set_len(6_000_000).unwrap();
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/b/c/deep"), b"deep").unwrap();
    fs::hard_link(root.join("file-100"), root.join("a/hard")).unwrap();
    std::os::unix::fs::symlink("b/c/deep", root.join("a/fast")).unwrap();
    std::os::unix::fs::symlink("x".repeat(59), root.join("link-59")).unwrap();
    std::os::unix::fs::symlink("x".repeat(60), root.join("link-60")).unwrap();
    std::os::unix::fs::symlink("y/".repeat(400), root.join("link-800")).unwrap();
    fs::create_dir(root.join("many")).unwrap();
    for i in 0..1500 {
        fs::write(root.join(format!("many/entry-number-{i:05}-{}", "z".repeat(i % 50))), format!("{i}")).unwrap();
    }
    fs::create_dir(root.join("small")).unwrap();
    for name in ["x", "yy", "näme", "UPPER"] {
        fs::write(root.join("small").join(name), name).unwrap();
    }
    fs::write(root.join(OsStr::from_bytes(b"not-utf8-\xff\xfe")), b"?").unwrap();
    fs::set_permissions(root.join("file-1"), fs::Permissions::from_mode(0o4755)).unwrap();
    let set = |name: &str, key: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        if let Err(e) = rustix::fs::lsetxattr(root.join(name), key, value, flags) {
            eprintln!("skipped: {key} cannot be set here: {e}");
        }
    };
    set("file-1", "user.small", b"v");
    set("file-1024", "user.empty", b"");
    set("file-4096", "user.larger", &bytes(500, 77));
    set("a", "user.dir", b"on a directory");
    // Needs an inode of its own; where the filesystem cannot, setting it fails.
    set("file-65536", "user.huge", &bytes(10_000, 78));
    if is_root() {
        set("file-5000", "trusted.t", b"trusted");
        set("file-60", "security.test", b"label");
        let nodes = [("fifo", "p", ""), ("null", "c", "1 3"), ("big-minor", "c", "300 70000"), ("disk", "b", "8 1")];
        for (name, kind, numbers) in nodes {
            let mut args = vec![root.join(name).into_os_string(), kind.into()];
            args.extend(numbers.split_whitespace().map(Into::into));
            run(Path::new("mknod"), &args);
        }
        std::os::unix::fs::lchown(root.join("small/x"), Some(70_000), Some(80_000)).unwrap();
    }
}
