//! Making things durable, and letting go of what is in memory: fsync, sync, close, eviction, unmounting. Kernel names:
//! `ext4_sync_file`, `ext4_sync_fs`, `ext4_release_file`, `ext4_evict_inode`.
//!
//! fsync commits only the transaction that last changed that file; fdatasync the one that last changed what reading its data
//! needs. What other files changed stays in the running transaction.

use std::ops::Range;

use super::event::{Event, Task};
use super::inode::MemInode;
use super::mount::Mount;
use super::path::{Bytes, IovIter};
use crate::error::Result;
use crate::format::inode::Inode;
use crate::units::Ino;
use crate::volume::OpenInode;
use crate::volume::edit::Edit;

impl Mount {
    /// Write at byte `pos`; returns the bytes taken. A short write is not an error.
    ///
    /// # Errors
    /// [`crate::Error::NoSpace`] where nothing could be taken.
    pub fn write(&mut self, ino: Ino, pos: u64, data: &[u8]) -> Result<usize> {
        self.write_from(ino, pos, &mut Bytes(data))
    }

    /// Write at byte `pos` what `from` gives, straight into the page cache; returns the bytes taken.
    ///
    /// # Errors
    /// As [`Mount::write`], and those of `from`; what it gave before is written.
    pub fn write_from(&mut self, ino: Ino, pos: u64, from: &mut dyn IovIter) -> Result<usize> {
        self.will_change(ino);
        self.on_lent(ino, |m, i| {
            m.touch(i)?;
            if Self::is_inline(i)
                && let Some(taken) = m.write_inline(i, pos, from)?
            {
                return Ok(taken);
            }
            let taken = m.path_of(i).write(m, i, pos, from)?;
            m.balance(i, taken as u64)?;
            Ok(taken)
        })
    }

    /// Write back and drop what is in the page cache of a file, where more has been written than may stay there.
    #[doc(alias = "balance_dirty_pages", alias = "folio_end_dropbehind")]
    fn balance(&mut self, i: &mut MemInode, written: u64) -> Result<()> {
        i.since += written;
        if self.options.dirty_bytes == 0 || i.since < self.options.dirty_bytes {
            return Ok(());
        }
        i.since = 0;
        self.write_back_range(i, 0..u64::MAX)?;
        i.cache.drop_clean(0, u64::MAX);
        Ok(())
    }

    /// Store bytes through a shared mapping, inside one page.
    ///
    /// # Errors
    /// [`crate::Error::InvalidArgument`] for a page behind the end of the file, [`crate::Error::NoSpace`]: a process would
    /// be sent `SIGBUS`.
    pub fn store_mapped(&mut self, ino: Ino, pos: u64, data: &[u8]) -> Result<()> {
        self.will_change(ino);
        self.on(ino, |m, i| {
            let page = pos >> super::folio::PAGE_BITS;
            if pos & !(super::folio::PAGE - 1) < i.size {
                m.store(i)?;
            }
            m.leave_inline(i)?;
            m.path_of(i).make_writable(m, i, page)?;
            let Some(f) = i.cache.find_mut(page) else { return Ok(()) };
            let at = (pos - f.pos()) as usize;
            f.data[at..at + data.len()].copy_from_slice(data);
            let (index, all) = (f.index, f.pos()..f.end().min(i.size));
            if m.journals_data(i) {
                return m.journal_folio(i, index, &all);
            }
            if !m.uses_iomap(i).0
                && let Some(f) = i.cache.find_mut(page)
            {
                f.dirty_all();
            }
            Ok(())
        })
    }

    /// Write back what is dirty in a range, and wait; nothing is committed.
    #[doc(alias = "sync_file_range")]
    pub fn write_back(&mut self, ino: Ino, range: Range<u64>) -> Result<()> {
        self.on_lent(ino, |m, i| m.write_back_range(i, range))
    }

    /// Memory is short: write what of a range can be written without allocating or converting anything. A folio with blocks
    /// that are delayed or unwritten stays dirty.
    #[doc(alias = "writepage")]
    pub fn write_without_mapping(&mut self, ino: Ino, range: Range<u64>) -> Result<()> {
        self.on(ino, |m, i| if range.is_empty() { Ok(()) } else { m.write_placed(i, &range) })
    }

    /// Make a file durable; with `data_only`, what reading its data back needs.
    ///
    /// # Errors
    /// What writeback could not write since the last call, here or before: [`crate::Error::Io`] or
    /// [`crate::Error::NoSpace`], once. Nothing is committed then.
    #[doc(alias = "ext4_sync_file")]
    pub fn fsync(&mut self, ino: Ino, data_only: bool) -> Result<()> {
        self.on(ino, |m, i| {
            m.tracer.emit(i.o.ino, || Event::SyncFile { datasync: data_only });
            let done = m.write_back_range(i, 0..u64::MAX);
            if let Some(lost) = i.lost.take() {
                return Err(lost.error());
            }
            done?;
            let tid = if data_only { i.datasync_tid } else { i.sync_tid };
            if tid == Some(m.journal.running()) { m.commit(Some(i)) } else { m.journal.flush_content() }
        })
    }

    /// Write back all files and commit.
    #[doc(alias = "sync_filesystem")]
    pub fn sync(&mut self) -> Result<()> {
        self.write_back_all()?;
        self.commit(None)
    }

    /// Write back all files; the ends of their I/O come behind what is submitted for the last one.
    #[doc(alias = "writeback_sb_inodes")]
    fn write_back_all(&mut self) -> Result<()> {
        self.ended = Some(Vec::new());
        let done = self.submit_all();
        let ended = self.end_submitted();
        self.ended = None;
        done.and(ended)
    }

    /// Convert what was submitted of several files so far. The file that is taken out is none of them.
    pub(super) fn end_submitted(&mut self) -> Result<()> {
        let Some(ended) = &mut self.ended else { return Ok(()) };
        let ends = std::mem::take(ended);
        let task = self.tracer.act_as(Task::EndIo);
        let done = ends.into_iter().try_for_each(|(ino, r)| {
            let mut i = self.take(ino)?;
            let done = self.end_io(&mut i, r);
            self.inodes.insert(ino, i);
            done
        });
        self.tracer.act_as(task);
        done
    }

    fn submit_all(&mut self) -> Result<()> {
        for ino in self.take_dirtied() {
            if self.inodes.contains_key(&ino) {
                full_is_no_error(self.write_back(ino, 0..u64::MAX))?;
            }
        }
        Ok(())
    }

    /// All files in memory in the order in which they became dirty; those that did not, last.
    fn take_dirtied(&mut self) -> Vec<Ino> {
        let mut all = std::mem::take(&mut self.dirtied);
        let rest: Vec<Ino> = self.inodes.keys().copied().filter(|i| !all.contains(i)).collect();
        all.extend(rest);
        all
    }

    /// Commit the running transaction without writing back first.
    #[doc(alias = "ext4_force_commit")]
    pub fn force_commit(&mut self) -> Result<()> {
        self.commit(None)
    }

    /// So much is reserved that what is dirty has to go to the device. `i` is the file that is taken out.
    pub(super) fn relieve(&mut self, i: &mut MemInode) -> Result<()> {
        // It goes back for so long: a commit in between must find its ordered data.
        let ino = i.o.ino;
        let empty = MemInode::new(i.o.clone(), self.block_bits(), self.fs.volume.geometry().cluster_bits, false);
        self.inodes.insert(ino, std::mem::replace(i, empty));
        let done = self.write_back_all();
        *i = self.take(ino)?;
        self.dirtied.push(ino);
        done
    }

    /// Write back and drop a file's pages.
    pub fn drop_caches(&mut self, ino: Ino) -> Result<()> {
        self.on(ino, |m, i| {
            m.write_back_range(i, 0..u64::MAX)?;
            i.cache.drop_clean(0, u64::MAX);
            Ok(())
        })
    }

    /// Look up all of a file's blocks, as FIEMAP does: what is known of them is complete then.
    #[doc(alias = "ext4_fiemap")]
    pub fn look_up_all(&mut self, ino: Ino) -> Result<()> {
        self.on(ino, |m, i| {
            let mut at = 0;
            while at < super::extent_status::MAX_BLOCKS {
                at = m.query(i, at, super::extent_status::MAX_BLOCKS - at)?.end();
            }
            Ok(())
        })
    }

    /// Forget what is cached of a file's extents, but for delayed ones.
    #[doc(alias = "EXT4_IOC_CLEAR_ES_CACHE")]
    pub fn clear_es(&mut self, ino: Ino) -> Result<()> {
        self.on(ino, |_, i| {
            i.dd.shrink();
            Ok(())
        })
    }

    /// The last handle on a file is closed: what was cut to nothing and written anew goes to the device, a file without a
    /// name goes altogether.
    #[doc(alias = "ext4_release_file")]
    pub fn close(&mut self, ino: Ino) -> Result<()> {
        self.release(ino)?;
        if let Some(i) = self.inodes.get_mut(&ino) {
            i.open = false;
            if i.dd.reserved() == 0 {
                self.fs.alloc.release_file(&self.fs.volume, ino)?;
            }
        }
        if self.inodes.get(&ino).is_some_and(|i| i.unlinked) { self.evict(ino) } else { Ok(()) }
    }

    /// One of several handles on a file is closed.
    pub fn release(&mut self, ino: Ino) -> Result<()> {
        if !self.inodes.get(&ino).is_some_and(|i| i.flush_on_close) {
            return Ok(());
        }
        self.on(ino, |m, i| {
            i.flush_on_close = false;
            m.flush_delayed(i)
        })
    }

    /// Start writing back a file that holds reservations.
    #[doc(alias = "ext4_alloc_da_blocks")]
    pub(super) fn flush_delayed(&mut self, i: &mut MemInode) -> Result<()> {
        if i.dd.reserved() == 0 {
            return Ok(());
        }
        self.tracer.emit(i.o.ino, || Event::AllocDaBlocks { reserved: i.dd.reserved() });
        self.write_back_range(i, 0..u64::MAX)
    }

    /// Another file is about to lose its name to this one: what is reserved goes to the device first.
    pub fn before_replace(&mut self, ino: Ino) -> Result<()> {
        if !self.options.auto_da_alloc {
            return Ok(());
        }
        self.on(ino, Self::flush_delayed)
    }

    /// The last name of a file has gone: it is on the orphan list until it is closed.
    pub fn orphan(&mut self, ino: Ino) -> Result<()> {
        self.on(ino, |m, i| {
            i.unlinked = true;
            i.o.set_links(0);
            m.join_orphans(i)
        })
    }

    /// Put a file on the orphan list: after a crash what lies behind its end is cut off, and without a name it goes.
    #[doc(alias = "ext4_orphan_add")]
    pub(super) fn join_orphans(&mut self, i: &mut MemInode) -> Result<()> {
        let (head, ino) = (self.fs.volume.superblock().last_orphan.get(), i.o.ino.0);
        i.o.inode.update(|c| c.dtime.set(head));
        self.edit(|e: &mut Edit<'_>| e.vol.store_superblock(e.store, |sb| sb.last_orphan.set(ino)))?;
        self.store(i)
    }

    /// Let go of a file without a name: its pages, its reservations, its blocks and its number.
    #[doc(alias = "ext4_evict_inode")]
    fn evict(&mut self, ino: Ino) -> Result<()> {
        let mut i = self.take(ino)?;
        self.dirtied.retain(|d| *d != ino);
        self.make_room(Some(&mut i))?;
        self.discharge(ino, &i);
        self.leave_orphans(&i)?;
        self.tracer.emit(ino, || Event::EvictInode { nlink: 0 });
        i.dd.remove(0..u32::MAX, &mut self.space);
        self.fs.alloc.release_file(&self.fs.volume, ino)?;
        let now = self.now;
        let journalled = self.journals_data(&i);
        self.edit(|e: &mut Edit<'_>| {
            let had = journalled.then(|| e.vol.extents(i.o.owner())).transpose()?;
            e.delete_inode(&mut i.o, now)?;
            for x in had.unwrap_or_default() {
                for n in 0..u64::from(x.len) {
                    e.store.forget(x.pblk.saturating_add(n))?;
                }
            }
            Ok(())
        })
    }

    /// Take a file off the orphan list.
    #[doc(alias = "ext4_orphan_del")]
    pub(super) fn leave_orphans(&mut self, i: &MemInode) -> Result<()> {
        let next = i.o.inode.core().dtime.get();
        let mut at = Ino(self.fs.volume.superblock().last_orphan.get());
        if at == i.o.ino {
            return self.edit(|e: &mut Edit<'_>| e.vol.store_superblock(e.store, |sb| sb.last_orphan.set(next)));
        }
        // The list is as long as there are files without a name in memory.
        for _ in 0..=self.inodes.len() {
            let Some(before) = self.inodes.get_mut(&at) else { return Ok(()) };
            let follows = Ino(before.o.inode.core().dtime.get());
            if follows == i.o.ino {
                before.o.inode.update(|c| c.dtime.set(next));
                let mut o = before.o.clone();
                return self.edit(|e| e.put(&mut o));
            }
            at = follows;
        }
        Ok(())
    }

    /// Take up what an operation on names did to a file's inode.
    pub fn refresh(&mut self, ino: Ino) -> Result<()> {
        let inode: Inode = self.fs.volume.inode(ino)?;
        if let Some(i) = self.inodes.get_mut(&ino) {
            i.o = OpenInode { ino, inode };
            i.stored = None;
            i.sync_tid = Some(self.journal.running());
        }
        Ok(())
    }

    /// Unmount: everything is written back and committed, the journal is empty and the filesystem clean.
    #[doc(alias = "ext4_put_super")]
    pub fn unmount(mut self) -> Result<()> {
        let gone: Vec<Ino> = self.inodes.values().filter(|i| i.unlinked).map(|i| i.o.ino).collect();
        for ino in gone {
            self.evict(ino)?;
        }
        self.sync()?;
        self.journal.close()
    }
}

/// Writeback for the filesystem's sake goes on with the next file where one has no room.
fn full_is_no_error(done: Result<()>) -> Result<()> {
    match done {
        Err(e) if super::mount::is_full(&e) => Ok(()),
        done => done,
    }
}
