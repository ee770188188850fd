//! Images of many kinds, made by the reference's mke2fs and hurt by its debugfs, by hand, or both.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ext4kit::check::Problem;
use ext4kit::format::inode::InodeFlags;
use ext4kit::units::Ino;
use ext4kit::volume::{LastLink, Owner, Volume};

use crate::patient::{Cut, Patient};
use crate::{common, treat};

/// Plain images with backups.
pub(crate) const EXT2: &str = "-t ext2 -b 1024";
pub(crate) const EXT3: &str = "-t ext3 -b 1024";
pub(crate) const EXT4: &str = "-t ext4 -b 1024";
/// Without checksums: what is changed by hand needs none.
pub(crate) const PLAIN: &str = "-t ext4 -b 1024 -O ^has_journal,^metadata_csum";
/// One group, thus no backup.
pub(crate) const ONE: &str = "-t ext4 -b 4096 -O ^has_journal";
/// Two groups and no backup.
pub(crate) const TWO: &str = "-t ext4 -b 1024 -O sparse_super2,^resize_inode,^has_journal -E num_backup_sb=0";
pub(crate) const INLINE: &str = "-t ext4 -b 1024 -O inline_data,^has_journal";
pub(crate) const VALUES: &str = "-t ext4 -b 1024 -O ea_inode,^has_journal";
pub(crate) const SECRET: &str = "-t ext4 -b 1024 -O encrypt,^has_journal,^metadata_csum";
pub(crate) const QUOTA: &str = "-t ext4 -b 1024 -O quota";
pub(crate) const ORPHANS: &str = "-t ext4 -b 1024 -O orphan_file";
pub(crate) const CLUSTERS: &str = "-t ext4 -b 1024 -O bigalloc,^has_journal -C 8192";

/// How an image is made, and what is found.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// mke2fs's options.
    args: &'static str,
    /// debugfs's commands, one a line. `{value}` is the first inode that holds an attribute's value, `{file}` and others the numbers of
    /// such files, `{attr}`, `{long}`, `{context}` and `{other}` files on the host.
    commands: &'static str,
    /// What is changed by hand then.
    cut: Option<Cut>,
    /// Bytes that become zero.
    zeros: Option<(usize, usize)>,
    pub(crate) want: Problem,
    /// The reference makes indexes of large directories first.
    indexed: bool,
    /// `/file` cannot be where it was.
    lossy: bool,
}

pub(crate) const fn case(args: &'static str, commands: &'static str, want: Problem) -> Case {
    Case { args, commands, cut: None, zeros: None, want, indexed: false, lossy: false }
}

impl Case {
    pub(crate) const fn cut(self, cut: Cut) -> Self {
        Self { cut: Some(cut), ..self }
    }

    pub(crate) const fn wants(self, want: Problem) -> Self {
        Self { want, ..self }
    }

    pub(crate) const fn zeros(self, at: usize, len: usize) -> Self {
        Self { zeros: Some((at, len)), ..self }
    }

    pub(crate) const fn indexed(self) -> Self {
        Self { indexed: true, ..self }
    }

    pub(crate) const fn lossy(self) -> Self {
        Self { lossy: true, ..self }
    }

    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.args, self.commands.replace('\n', "; "))
    }

    /// What is not as it should be after a repair.
    pub(crate) fn judge(&self, workshop: &Workshop, bytes: Vec<u8>) -> Result<(), String> {
        let after = treat(&workshop.dir.path().join("repaired"), bytes, self.want)?;
        if self.lossy {
            return Ok(());
        }
        let vol = Patient::damaged(&after).vol;
        let (ino, inode) = vol.resolve_inode(b"/file", LastLink::Keep).map_err(|e| e.to_string())?;
        let content = vol.reader(Owner { ino, inode: &inode }).unwrap().read_all(1 << 20).unwrap();
        if content.as_deref() == Some(&[7; 5000][..]) { Ok(()) } else { Err("the file's content".into()) }
    }
}

/// Where images are made.
pub(crate) struct Workshop {
    dir: tempfile::TempDir,
    /// Images as they were made, by options.
    made: BTreeMap<(&'static str, bool), Vec<u8>>,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        // In memory where that is possible: debugfs waits for its writes.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let dir = dir.unwrap();
        let tree = dir.path().join("tree");
        for d in ["dir", "many", "sub/inner"] {
            std::fs::create_dir_all(tree.join(d)).unwrap();
        }
        let write = |name: &str, content: &[u8]| std::fs::write(tree.join(name), content).unwrap();
        write("file", &[7; 5000]);
        write("journal", b"");
        write("dir/second", &[8; 3000]);
        write("victim", &vec![9; 40_000]);
        write("small", b"twenty bytes of text");
        write("sub/inner/one", b"1");
        for i in 0..200 {
            write(&format!("many/entry-{i:03}-{}", "z".repeat(30)), b"");
        }
        std::os::unix::fs::symlink("short", tree.join("link")).unwrap();
        std::os::unix::fs::symlink("t/".repeat(100), tree.join("long")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, tree.join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        std::fs::write(dir.path().join("attr"), [6; 300]).unwrap();
        std::fs::write(dir.path().join("long"), [9; 3000]).unwrap();
        std::fs::write(dir.path().join("context"), [&[1, 1, 4, 0][..], &[5; 24]].concat()).unwrap();
        std::fs::write(dir.path().join("other"), [&[1, 1, 4, 0][..], &[6; 24]].concat()).unwrap();
        Self { dir, made: BTreeMap::new() }
    }

    fn healthy(&mut self, case: &Case) -> Option<Vec<u8>> {
        if let Some(bytes) = self.made.get(&(case.args, case.indexed)) {
            return Some(bytes.clone());
        }
        let image = self.dir.path().join("image");
        let _ = std::fs::remove_file(&image);
        let made = Command::new(common::tool("mke2fs")?)
            .args(["-q", "-F", "-N", "1024", "-d"])
            .arg(self.dir.path().join("tree"))
            .args(case.args.split(' '))
            .args([image.as_os_str(), "10M".as_ref()])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}: {}", case.args, String::from_utf8_lossy(&made.stderr));
        if case.indexed {
            let _ = Command::new(common::tool("e2fsck")?).args(["-fyD"]).arg(&image).output();
        }
        let bytes = std::fs::read(&image).unwrap();
        self.made.insert((case.args, case.indexed), bytes.clone());
        Some(bytes)
    }

    /// The image of a case; `None` where the tools are missing.
    pub(crate) fn damaged(&mut self, case: &Case) -> Option<Vec<u8>> {
        common::tool("debugfs")?;
        let healthy = self.healthy(case)?;
        let image = self.dir.path().join("image");
        std::fs::write(&image, &healthy).unwrap();
        // A line that names what others make waits for them.
        let mut ready = String::new();
        for line in case.commands.lines() {
            if line.contains('{') && !ready.is_empty() {
                debugfs(&image, &std::mem::take(&mut ready));
            }
            ready.push_str(&self.spelled(&image, line));
            ready.push('\n');
        }
        debugfs(&image, &ready);
        let mut bytes = std::fs::read(&image).unwrap();
        if case.commands.contains("{context}") {
            name_contexts(&mut bytes);
        }
        if let Some(cut) = case.cut {
            let mut patient = Patient::damaged(&bytes);
            cut(&mut patient);
            bytes = patient.bytes;
        }
        if let Some((at, len)) = case.zeros {
            bytes[at..at + len].fill(0);
        }
        Some(bytes)
    }

    /// A command with its names replaced.
    fn spelled(&self, image: &Path, line: &str) -> String {
        if !line.contains('{') {
            return line.to_owned();
        }
        let vol = Patient::damaged(&std::fs::read(image).unwrap()).vol;
        let number = |path: &str| vol.resolve(path.as_bytes(), LastLink::Keep).map_or(0, |i| i.0).to_string();
        let host = |name: &str| -> PathBuf { self.dir.path().join(name) };
        let mut line = line
            .replace("{file}", &number("/file"))
            .replace("{journal}", &number("/journal"))
            .replace("{value}", &format!("<{}>", value(&vol)))
            .replace("{orphans}", &format!("<{}>", vol.superblock().orphan_file_inum.get()));
        for name in ["attr", "long", "context", "other"] {
            line = line.replace(&format!("{{{name}}}"), host(name).to_str().unwrap());
        }
        line
    }
}

/// The first inode that holds an attribute's value.
fn value(vol: &Volume) -> u32 {
    let is = |n: &u32| vol.raw_inode(Ino(*n)).is_ok_and(|i| i.flags().contains(InodeFlags::EA_INODE));
    (11..500).find(is).unwrap_or(0)
}

fn debugfs(image: &Path, commands: &str) {
    if commands.trim().is_empty() {
        return;
    }
    let tool = common::tool("debugfs").unwrap();
    let mut child = Command::new(tool)
        .args(["-w", "-f", "-"])
        .arg(image)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    child.wait().unwrap();
}

/// debugfs has no name for the attribute of encryption: its index is put in by hand.
fn name_contexts(bytes: &mut [u8]) {
    let places: Vec<usize> = (0..bytes.len().saturating_sub(20))
        .filter(|at| bytes[*at..at + 2] == [1, 0] && bytes[at + 4..at + 12] == [0, 0, 0, 0, 28, 0, 0, 0])
        .filter(|at| bytes[at + 16] == b'c')
        .collect();
    for at in places {
        bytes[at + 1] = 9;
    }
}
