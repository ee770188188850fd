//! Files whose content lies inside their inode. Kernel names: `ext4_try_to_write_inline_data`, `ext4_convert_inline_data`.
//! Offsets and lengths in bytes.
//!
//! A buffered write and a new size that fit inside stay there: the content is part of the inode, and journalled with it. Before
//! anything else (stores through a mapping, direct writes, ranges) the content moves to a block, which is on the device
//! before the commit that shows it. A file that has left its inode does not go back; new files begin with a block map.

use super::extent_status::MAX_BLOCKS;
use super::folio::{PAGE, PAGE_BITS};
use super::inode::MemInode;
use super::mount::Mount;
use super::path::IovIter;
use crate::error::Result;
use crate::format::inode::InodeFlags;

impl Mount {
    /// Whether the file's content lies inside its inode.
    #[doc(alias = "ext4_has_inline_data")]
    pub(super) fn is_inline(i: &MemInode) -> bool {
        i.o.has(InodeFlags::INLINE_DATA)
    }

    /// Bring the content into its folio.
    #[doc(alias = "ext4_readpage_inline")]
    pub(super) fn read_inline(&self, i: &mut MemInode, index: u64) -> Result<()> {
        let content = self.fs.volume.inline_content(i.o.owner())?;
        let Some(f) = i.cache.find_mut(index) else { return Ok(()) };
        let at = (f.pos() as usize).min(content.len());
        let part = &content[at..content.len().min(at + f.data.len())];
        f.data.fill(0);
        f.data[..part.len()].copy_from_slice(part);
        f.uptodate = true;
        Ok(())
    }

    /// Make `change` to the content, which is `size` bytes long then, where that fits inside the inode.
    fn change_inline(
        &mut self,
        i: &mut MemInode,
        size: u64,
        change: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<bool> {
        let mut content = self.fs.volume.inline_content(i.o.owner())?;
        if size > self.edit(|e| e.inline_capacity(&i.o))? as u64 {
            return Ok(false);
        }
        content.resize(size as usize, 0);
        change(&mut content)?;
        let fits = self.edit(|e| {
            let fits = e.write_inline(&mut i.o, &content)?;
            e.put(&mut i.o)?;
            Ok(fits)
        })?;
        if fits {
            (i.size, i.disksize) = (size, size);
            self.store_data(i)?;
            i.cache.truncate(0, u64::MAX, size);
        }
        Ok(fits)
    }

    /// Write inside the inode; `None` where it does not fit, and the content is in a block now.
    #[doc(alias = "ext4_try_to_write_inline_data")]
    pub(super) fn write_inline(&mut self, i: &mut MemInode, pos: u64, from: &mut dyn IovIter) -> Result<Option<usize>> {
        let (len, size) = (from.len(), i.size.max(pos.saturating_add(from.len() as u64)));
        let written = self.change_inline(i, size, |content| {
            let at = pos as usize;
            from.copy(0, &mut content[at..at + len])
        })?;
        if written {
            return Ok(Some(len));
        }
        self.leave_inline(i)?;
        Ok(None)
    }

    /// Set a size inside the inode; `false` where it does not fit, and the content is in a block now.
    #[doc(alias = "ext4_inline_data_truncate")]
    pub(super) fn set_inline_size(&mut self, i: &mut MemInode, size: u64) -> Result<bool> {
        let done = self.change_inline(i, size, |_| Ok(()))?;
        if !done {
            self.leave_inline(i)?;
        }
        Ok(done)
    }

    /// Before what needs blocks: content inside the inode goes to one.
    #[doc(alias = "ext4_convert_inline_data")]
    pub(super) fn leave_inline(&mut self, i: &mut MemInode) -> Result<()> {
        if !Self::is_inline(i) {
            return Ok(());
        }
        i.dd.remove(0..MAX_BLOCKS, &mut self.space);
        self.edit(|e| {
            e.inline_file_to_block(&mut i.o)?;
            e.put(&mut i.o)
        })?;
        i.cache.drop_clean(0, PAGE >> PAGE_BITS);
        self.store_data(i)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::check::{self, CheckOptions, Collect};
    use crate::device::{BlockDevice, MemoryDevice};
    use crate::env::{Entropy as _, SeededEntropy, Timestamp};
    use crate::file::{MountOptions, PathChoice};
    use crate::mkfs::{Draft, FeatureEdit, Layout, Options, Size};
    use crate::namei::{Attributes, Context, Namei, What};
    use crate::progress::Silent;
    use crate::units::Ino;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    /// A filesystem with one file inside its inode.
    fn make(path: PathChoice, content: &[u8]) -> (Arc<dyn BlockDevice>, Mount, Ino) {
        let mut o = Options::new(Size::Units(4096), [1; 16], [2; 16], NOW);
        o.block_size = Some(4096);
        o.features.extend(FeatureEdit::parse_list("inline_data").unwrap());
        let memory = MemoryDevice::new(16 << 20);
        Draft::new(Layout::new(&o).unwrap()).unwrap().write(&memory, true).unwrap();
        let device: Arc<dyn BlockDevice> = Arc::new(memory);
        let options = MountOptions { path, ..MountOptions::default() };
        let mut mount = Mount::new(Arc::clone(&device), options, NOW).unwrap();
        let mut names = Context::new(mount.volume(), NOW);
        let ino = mount.with_edit(&mut names, |e, c| {
            let mut n = Namei::new(e, c);
            Ok(n.make(Ino::ROOT, b"f", What::File, &Attributes::root(0o644))?.ino)
        });
        let ino = ino.unwrap();
        let written = mount.edit(|e| {
            let mut o = e.open(ino)?;
            let fits = e.write_inline(&mut o, content)?;
            e.put(&mut o)?;
            Ok(fits)
        });
        assert!(written.unwrap());
        mount.sync().unwrap();
        (device, mount, ino)
    }

    fn is_inside(m: &Mount, ino: Ino) -> bool {
        m.volume().inode(ino).unwrap().flags().contains(InodeFlags::INLINE_DATA)
    }

    #[test]
    fn what_fits_stays_inside_and_the_path_says_why() {
        let (_device, mut m, ino) = make(PathChoice::Iomap, b"hello inline");
        assert_eq!(m.read(ino, 0, 100).unwrap(), b"hello inline");
        assert_eq!(m.uses_iomap(m.inode(ino).unwrap()), (false, "inline data"));
        m.write(ino, 6, b"content").unwrap();
        m.truncate(ino, 20).unwrap();
        assert_eq!(m.read(ino, 0, 100).unwrap(), b"hello content\0\0\0\0\0\0\0");
        m.truncate(ino, 5).unwrap();
        assert_eq!((m.read(ino, 0, 100).unwrap(), is_inside(&m, ino)), (b"hello".to_vec(), true));
        assert_eq!(m.check_state().unwrap(), None);
        assert_eq!(m.check_cache().unwrap(), None);
        m.truncate(ino, 5000).unwrap();
        assert!(!is_inside(&m, ino));
        assert!(m.uses_iomap(m.inode(ino).unwrap()).0);
    }

    /// Random operations on a file that begins inside its inode: content is right, and the filesystem checks clean.
    #[test]
    fn random_operations_read_back() {
        for seed in 0..60u64 {
            let mut random = SeededEntropy::new(seed);
            let mut below = |n: u64| u64::from(random.next_u32()) % n;
            let path = if seed % 2 == 0 { PathChoice::BufferHead } else { PathChoice::Iomap };
            let mut want: Vec<u8> = (0..=below(100)).map(|n| n as u8 | 1).collect();
            let (device, mut m, ino) = make(path, &want);
            for n in 0..6 {
                let most = if n < 3 { 120 } else { 9000 };
                let (pos, len) = (below(most), 1 + below(most));
                let end = (pos + len) as usize;
                let data = vec![seed as u8 | 1; len as usize];
                match below(8) {
                    0..=2 => {
                        m.write(ino, pos, &data).unwrap();
                        want.resize(want.len().max(end), 0);
                        want[pos as usize..end].copy_from_slice(&data);
                    }
                    3 => {
                        m.truncate(ino, pos).unwrap();
                        want.resize(pos as usize, 0);
                    }
                    4 => {
                        m.punch(ino, pos, len).unwrap();
                        let size = want.len();
                        want[(pos as usize).min(size)..end.min(size)].fill(0);
                    }
                    5 if pos < want.len() as u64 => {
                        let part = data.len().min(want.len() - pos as usize).min(4096 - pos as usize % 4096);
                        m.store_mapped(ino, pos, &data[..part]).unwrap();
                        want[pos as usize..pos as usize + part].copy_from_slice(&data[..part]);
                    }
                    6 => {
                        m.write_direct(ino, 0, &[7; 1024]).unwrap();
                        want.resize(want.len().max(1024), 0);
                        want[..1024].fill(7);
                    }
                    _ => m.fsync(ino, false).unwrap(),
                }
                assert_eq!(m.read(ino, 0, want.len() + 1).unwrap(), want, "seed {seed}, operation {n}");
                assert_eq!(m.check_state().unwrap(), None, "seed {seed}, operation {n}");
            }
            m.unmount().unwrap();
            let mut found = Collect::default();
            let outcome = check::check(&device, &CheckOptions::everything(NOW), &mut found, &Silent).unwrap();
            assert_eq!(outcome.errors, 0, "seed {seed}: {:?}", found.0.first().map(check::Finding::message));
            let mut m = Mount::new(device, MountOptions::default(), NOW).unwrap();
            assert_eq!(m.read(ino, 0, want.len() + 1).unwrap(), want, "seed {seed}: behind the mount");
        }
    }
}
