//! Content that is not copied into the page cache, because a file of the host lends it: a folio that one write covers
//! altogether stays a reference until writeback, which has the host copy (or share, where its filesystem can) from that
//! file. Kernel name: `splice`. Offsets in bytes.
//!
//! Invariants: byte `n` of the file is byte `base + n` of the lender's, wherever a folio is [lent](super::folio::Folio::lent). Nobody
//! looks at the `data` of such a folio: every operation but writes and writeback begins with [`Mount::own_all`]. Only
//! files on the iomap path are lent to, by mounts that do not commit by themselves.

use std::fs::File;
use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::folio::{Folio, PAGE_BITS};
use super::inode::MemInode;
use super::mount::Mount;
use crate::error::{Error, Result};
use crate::units::{Fsblk, Ino};

/// Bytes that are copied at once where the host does not copy.
const PIECE: u64 = 1 << 20;

/// A file of the host that holds what is written to one of ours.
#[derive(Debug)]
pub(super) struct Lender {
    file: File,
    /// Where in it the content begins.
    base: u64,
    path: PathBuf,
    /// The host did not copy once; it is not asked again.
    refuses: AtomicBool,
}

impl Lender {
    /// Fill `out` with what the file has from byte `at` on.
    fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, self.base + at).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::HostChanged { path: self.path.clone() },
            _ => Error::host("read", &self.path, e),
        })
    }

    /// Copy what a folio refers to into it.
    pub(super) fn copy_to(&self, f: &mut Folio) -> Result<()> {
        self.read(f.pos(), &mut f.data)?;
        f.lent = false;
        Ok(())
    }
}

impl Mount {
    /// What is written to a file from now on is what `file` has from byte `base` on; `path` names it in errors. Writes whose
    /// [`IovIter::is_lent`](super::IovIter::is_lent) says so are not copied before writeback.
    ///
    /// # Errors
    /// [`Error::Host`] where there are no more file descriptors.
    pub fn lend(&mut self, ino: Ino, file: BorrowedFd<'_>, base: u64, path: &Path) -> Result<()> {
        let file = file.try_clone_to_owned().map_err(|e| Error::host("open", path, e))?;
        let lender = Lender { file: file.into(), base, path: path.to_path_buf(), refuses: AtomicBool::new(false) };
        self.on(ino, |_, i| {
            i.lender = Some(lender.into());
            Ok(())
        })
    }

    /// Copy what is lent: from here on the content of all folios is in memory.
    pub(super) fn own_all(i: &mut MemInode) -> Result<()> {
        let Some(lender) = &i.lender else { return Ok(()) };
        i.cache.iter_mut().filter(|f| f.lent).try_for_each(|f| lender.copy_to(f))
    }

    /// Write bytes of the page cache, whole blocks, from block `pblk` on, lent or not.
    pub(super) fn write_either(&mut self, i: &mut MemInode, bytes: &Range<u64>, pblk: Fsblk) -> Result<()> {
        if i.lender.is_none() {
            return self.write_bytes(i, bytes, pblk);
        }
        let mut runs: Vec<(Range<u64>, bool)> = Vec::new();
        for f in i.cache.following(bytes.start >> PAGE_BITS).take_while(|f| f.pos() < bytes.end) {
            let part = bytes.start.max(f.pos())..bytes.end.min(f.end());
            match runs.last_mut() {
                Some((run, lent)) if *lent == f.lent => run.end = part.end,
                _ => runs.push((part, f.lent)),
            }
        }
        for (run, lent) in runs {
            let to = pblk.saturating_add((run.start - bytes.start) >> self.block_bits());
            if lent { self.copy_lent(i, &run, to)? } else { self.write_bytes(i, &run, to)? }
        }
        Ok(())
    }

    /// Have the host copy lent bytes, whole blocks, to block `pblk` and on; copy here what it does not.
    fn copy_lent(&mut self, i: &MemInode, bytes: &Range<u64>, pblk: Fsblk) -> Result<()> {
        let Some(lender) = i.lender.clone() else { return Ok(()) };
        let (len, bits) = (bytes.end - bytes.start, self.block_bits());
        let mut done = 0;
        if !lender.refuses.load(Ordering::Relaxed) {
            let from = lender.base + bytes.start;
            done = self.journal.copy_content(pblk, lender.file.as_fd(), from, len)? >> bits << bits;
            lender.refuses.store(done < len, Ordering::Relaxed);
        }
        let mut piece = Vec::new();
        while done < len {
            piece.resize((len - done).min(PIECE) as usize, 0);
            lender.read(bytes.start + done, &mut piece)?;
            self.journal.write_content(pblk.saturating_add(done >> bits), &[IoSlice::new(&piece)])?;
            done += piece.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::model_tests::made;
    use super::super::{Commits, IovIter, MountOptions};
    use super::*;

    /// A write of what the lender has.
    struct Lent(usize);

    impl IovIter for Lent {
        fn len(&self) -> usize {
            self.0
        }

        fn copy(&mut self, at: usize, out: &mut [u8]) -> Result<()> {
            out.copy_from_slice(&content()[at..at + out.len()]);
            Ok(())
        }

        fn is_lent(&self) -> bool {
            true
        }
    }

    const LEN: usize = 300_000;
    const BASE: u64 = 77;

    fn content() -> Vec<u8> {
        (0..LEN as u32).map(|n| (n / 7) as u8 | 1).collect()
    }

    fn lent_to() -> (Mount, Ino, File) {
        let options = MountOptions::parse("rw,buffered_iomap").unwrap();
        let (mut mount, ino) = made(1024, MountOptions { commits: Commits::Held, ..options });
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&content(), BASE).unwrap();
        mount.lend(ino, file.as_fd(), BASE, Path::new("lender")).unwrap();
        assert_eq!(mount.write_from(ino, 0, &mut Lent(LEN)).unwrap(), LEN);
        let lent = mount.inode(ino).unwrap().cache.iter().filter(|f| f.lent).count();
        assert!(lent > 1, "the last folio is not covered, others are: {lent}");
        (mount, ino, file)
    }

    #[test]
    fn what_is_lent_is_written_and_read_as_if_it_were_here() {
        // The device in memory does not copy from files: the path that does is that of e4cp's tests.
        let (mut mount, ino, _) = lent_to();
        mount.write_back(ino, 0..100_000).unwrap();
        assert_eq!(mount.read(ino, 0, LEN).unwrap(), content());
        let (mut mount, ino, _) = lent_to();
        mount.write_back(ino, 0..u64::MAX).unwrap();
        mount.forget(ino);
        assert_eq!(mount.read(ino, 0, LEN).unwrap()[..], content()[..mount.inode(ino).unwrap().size as usize]);
        assert_eq!(mount.check_state().unwrap(), None);
    }

    #[test]
    fn a_folio_that_changes_is_lent_no_more() {
        let (mut mount, ino, _) = lent_to();
        let mut want = content();
        want[5000..5010].fill(0);
        mount.write(ino, 5000, &[0; 10]).unwrap();
        mount.truncate(ino, 299_000).unwrap();
        mount.truncate(ino, LEN as u64).unwrap();
        want[299_000..].fill(0);
        assert_eq!(mount.read(ino, 0, LEN).unwrap(), want);
        mount.write_back(ino, 0..u64::MAX).unwrap();
        assert_eq!(mount.check_cache().unwrap(), None);
        assert_eq!(mount.read(ino, 0, LEN).unwrap(), want);
    }

    #[test]
    fn a_lender_that_shrinks_is_named() {
        let (mut mount, ino, file) = lent_to();
        file.set_len(100_000).unwrap();
        let done = mount.write_back(ino, 0..u64::MAX);
        assert!(matches!(&done, Err(Error::HostChanged { path }) if path == Path::new("lender")), "{done:?}");
    }
}
