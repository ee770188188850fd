//! What the model tests share: an image in memory, a store without a journal, a checker.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;

use crate::alloc::Filesystem;
use crate::device::{BlockDevice, MemoryDevice};
use crate::env::{Entropy, SeededEntropy};
use crate::error::Result;
use crate::units::Fsblk;
use crate::volume::OpenOptions;
use crate::volume::store::MetaStore;

/// A store that writes through at once.
pub(super) struct DirectStore {
    pub(super) dev: Arc<MemoryDevice>,
    block_size: usize,
    /// Metadata blocks written since the last [`DirectStore::take_dirty`].
    dirty: BTreeSet<Fsblk>,
}

impl DirectStore {
    /// The same kind of store over another device.
    pub(super) fn over(&self, dev: Arc<MemoryDevice>) -> Self {
        Self { dev, block_size: self.block_size, dirty: BTreeSet::new() }
    }

    /// How many metadata blocks were written since the last call.
    pub(super) fn take_dirty(&mut self) -> usize {
        std::mem::take(&mut self.dirty).len()
    }
}

impl MetaStore for DirectStore {
    fn read(&self, block: Fsblk) -> Result<Arc<[u8]>> {
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, self.block_size).collect();
        self.dev.read_at(block.0 * self.block_size as u64, Arc::get_mut(&mut bytes).unwrap())?;
        Ok(bytes)
    }
    fn write(&mut self, block: Fsblk, bytes: Arc<[u8]>) -> Result<()> {
        assert_eq!(bytes.len(), self.block_size);
        self.dirty.insert(block);
        self.dev.write_at(block.0 * self.block_size as u64, &bytes)
    }
    fn create(&mut self, block: Fsblk, bytes: Arc<[u8]>) -> Result<()> {
        self.write(block, bytes)
    }
    fn forget(&mut self, block: Fsblk) -> Result<()> {
        self.dirty.remove(&block);
        // What is freed must not be read again.
        self.dev.write_at(block.0 * self.block_size as u64, &vec![0xdb; self.block_size])
    }
    fn forget_content(&mut self, _start: Fsblk, _len: u32) -> Result<()> {
        Ok(())
    }
    fn write_data(&mut self, block: Fsblk, bytes: &[u8]) -> Result<()> {
        self.dev.write_at(block.0 * self.block_size as u64, bytes)
    }
    fn credits(&self) -> u32 {
        u32::MAX
    }
    fn extend(&mut self, _more: u32) -> Result<bool> {
        Ok(true)
    }
}

/// A filesystem under test.
pub(super) struct Rig {
    pub(super) fs: Filesystem,
    pub(super) store: DirectStore,
    pub(super) name: String,
}

fn tool(name: &str) -> Option<std::path::PathBuf> {
    let found =
        ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"].iter().map(|d| std::path::Path::new(d).join(name));
    let found = found.into_iter().find(|p| p.is_file());
    if found.is_none() {
        eprintln!("skipped: no {name} here");
    }
    found
}

impl Rig {
    /// An image of `size` (as mke2fs takes it) made with `options`; `None`, loudly, where there is no mke2fs.
    pub(super) fn new(options: &str, size: &str) -> Option<Self> {
        Self::make(options, Some(size), &[])
    }

    /// An image made over `len` bytes that are not zeros.
    pub(super) fn over_garbage(options: &str, len: usize) -> Option<Self> {
        Self::make(options, None, &vec![0xb7; len])
    }

    fn make(options: &str, size: Option<&str>, before: &[u8]) -> Option<Self> {
        let mke2fs = tool("mke2fs")?;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, before).unwrap();
        let mut command = Command::new(mke2fs);
        command.args(["-q", "-F"]).args(options.split_whitespace()).arg(&path).args(size);
        let out = command.output().unwrap();
        assert!(out.status.success(), "mke2fs {options}: {}", String::from_utf8_lossy(&out.stderr));
        let rig = Self::from_bytes(std::fs::read(&path).unwrap());
        Some(Self { name: options.to_owned(), ..rig })
    }

    pub(super) fn from_bytes(bytes: Vec<u8>) -> Self {
        let dev = Arc::new(MemoryDevice::from_bytes(bytes));
        let fs = Filesystem::open(dev.clone(), &OpenOptions::default()).unwrap();
        let block_size = fs.volume.geometry().block_size as usize;
        Self { fs, store: DirectStore { dev, block_size, dirty: BTreeSet::new() }, name: String::new() }
    }

    /// The end of a transaction, and `e2fsck -fn` on what it left.
    pub(super) fn commit_and_check(&mut self) {
        self.fs.sync_counts(&mut self.store).unwrap();
        self.fs.committed();
        self.check();
    }

    pub(super) fn check(&self) {
        let Some(e2fsck) = tool("e2fsck") else { return };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, self.store.dev.to_bytes()).unwrap();
        let out = Command::new(e2fsck).arg("-fn").arg(&path).output().unwrap();
        if !out.status.success() {
            let kept = std::env::temp_dir().join("ext4kit-failed.img");
            let _ = std::fs::copy(&path, &kept);
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            panic!("e2fsck -fn ({}), image kept as {}:\n{text}", self.name, kept.display());
        }
    }
}

impl Rig {
    /// Mount a copy on the kernel, read-only, and look at it; skips loudly where that is not possible.
    pub(super) fn mounted(&self, look: impl FnOnce(&std::path::Path)) {
        let (Some(mount), Some(umount)) = (tool("mount"), tool("umount")) else { return };
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (path, at) = (dir.path().join("image"), dir.path().join("mnt"));
        std::fs::write(&path, self.store.dev.to_bytes()).unwrap();
        std::fs::create_dir(&at).unwrap();
        let out = Command::new(mount).args(["-t", "ext4", "-o", "loop,ro"]).args([&path, &at]).output().unwrap();
        if !out.status.success() {
            eprintln!("skipped: no mount of {}: {}", self.name, String::from_utf8_lossy(&out.stderr).trim());
            return;
        }
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(&at)));
        // Whoever looks at every new mount keeps it busy for a moment.
        let unmounted = (0..100).any(|n| {
            std::thread::sleep(std::time::Duration::from_millis(10 * n));
            Command::new(&umount).arg(&at).status().unwrap().success()
        });
        assert!(unmounted);
        if let Err(e) = looked {
            std::panic::resume_unwind(e);
        }
    }
}

/// Numbers for tests.
pub(super) struct Dice(SeededEntropy);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(SeededEntropy::new(seed))
    }

    /// A number below `n`.
    pub(super) fn below(&mut self, n: u32) -> u32 {
        self.0.next_u32() % n.max(1)
    }
}

/// The images that structures are tested on: name of the kind, options.
pub(super) const IMAGES: &[&str] = &[
    "-t ext4 -b 1024 -E lazy_itable_init=1",
    "-t ext4 -b 2048 -g 2048",
    "-t ext4 -b 4096 -O ^has_journal,inline_data -I 512",
    "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg -g 1024",
    "-t ext4 -b 4096 -O bigalloc -C 16384",
    "-t ext4 -b 1024 -O bigalloc,^resize_inode -C 8192",
    "-t ext3 -b 1024",
    "-t ext2 -b 4096",
    "-t ext4 -b 1024 -O meta_bg,^resize_inode,^flex_bg -g 1024",
];
