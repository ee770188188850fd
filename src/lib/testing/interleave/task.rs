//! Tasks as sequences of steps, and the locks that order them.
//!
//! Locks are those of the kernel: `i_rwsem` ([`Lock::Inode`]), `invalidate_lock` (shared by faults), a folio's lock, and a
//! folio's writeback, which truncation waits for. `i_data_sem` is held within a step only. A page fault takes neither
//! `i_rwsem` nor anything that fallocate takes: between its look-up and its reservation fallocate may allocate.

use std::ops::Range;

use crate::error::Result;
use crate::file::Mount;
use crate::file::extent_status::EsEntry;
use crate::file::folio::PAGE_BITS;
use crate::file::steps::{Held, Writeback};
use crate::units::Ino;

/// A lock of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// `i_rwsem`, exclusive.
    Inode,
    /// `invalidate_lock`, shared.
    InvalidateShared,
    /// `invalidate_lock`, exclusive.
    Invalidate,
    /// The lock of a folio of one page.
    Folio(u64),
    /// The folio of a page is under writeback.
    Writeback(u64),
}

impl Lock {
    /// Whether who holds this keeps another from taking `other`.
    pub fn excludes(self, other: &Self) -> bool {
        match (self, other) {
            (Self::InvalidateShared, Self::InvalidateShared) => false,
            (Self::InvalidateShared | Self::Invalidate, Self::InvalidateShared | Self::Invalidate) => true,
            _ => self == *other,
        }
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the pieces in file::steps")]
pub enum Act {
    /// Nothing but locks.
    Nothing,
    BeginFolio {
        page: u64,
        fault: bool,
    },
    LookUp {
        lblk: u32,
    },
    Reserve {
        lblk: u32,
    },
    EndFault {
        page: u64,
    },
    EndWrite {
        range: Range<u64>,
    },
    Allocate {
        first: u32,
        end: u32,
    },
    Extend {
        size: u64,
    },
    Shrink {
        size: u64,
    },
    DropPages {
        range: Range<u64>,
    },
    Cut,
    Free {
        blocks: Range<u32>,
    },
    Gather {
        range: Range<u64>,
    },
    MapDirty,
    EndIo,
    Forget,
    /// iomap: the mapping of what is left of a range.
    MapLook {
        range: Range<u64>,
    },
    MapReserve {
        range: Range<u64>,
        again: bool,
    },
    CopyMapped {
        range: Range<u64>,
    },
}

/// A step: the locks it needs, what it does, the locks it lets go of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Taken before.
    pub takes: Vec<Lock>,
    /// What it does.
    pub act: Act,
    /// Let go of after.
    pub frees: Vec<Lock>,
    /// In words.
    pub label: String,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A store into a page through a shared mapping.
    Fault {
        /// Its name in schedules.
        name: &'static str,
        /// The page.
        page: u64,
        /// Blocks of it that lie below the end of the file.
        blocks: u32,
    },
    /// A buffered write inside one page. Bytes.
    Write {
        /// First byte, and one beyond the last.
        range: Range<u64>,
    },
    /// Blocks allocated; the size in bytes follows where it is given.
    Fallocate {
        /// The blocks.
        blocks: Range<u32>,
        /// The new size.
        size: Option<u64>,
    },
    /// A smaller size, in bytes; the file had pages up to `pages`.
    Truncate {
        /// The new size.
        size: u64,
        /// One beyond the last page.
        pages: u64,
    },
    /// Whole pages punched out.
    Punch {
        /// The pages.
        pages: Range<u64>,
    },
    /// What is dirty in some pages is written back.
    Writeback {
        /// The pages.
        pages: Range<u64>,
    },
    /// What is cached of the extent status goes, but for delayed blocks.
    Shrinker,
    /// A reader looks a block up.
    Reader {
        /// The block.
        lblk: u32,
    },
}

impl Program {
    /// Its name in schedules.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fault { name, .. } => name,
            Self::Write { .. } => "write",
            Self::Fallocate { .. } => "fallocate",
            Self::Truncate { .. } => "truncate",
            Self::Punch { .. } => "punch",
            Self::Writeback { .. } => "writeback",
            Self::Shrinker => "shrinker",
            Self::Reader { .. } => "reader",
        }
    }

    /// Its steps on the iomap path, where they are others: one mapping for as much as possible, then the folio.
    fn mapped_steps(&self, block: u64) -> Option<Vec<Step>> {
        match self {
            Self::Fault { page, blocks, .. } => {
                let range = page << PAGE_BITS..(page << PAGE_BITS) + u64::from(*blocks) * block;
                let lock = [Lock::InvalidateShared, Lock::Folio(*page)];
                Some(vec![
                    step(&lock, Act::BeginFolio { page: *page, fault: true }, &[], "lock the folio".into()),
                    step(&[], Act::MapLook { range: range.clone() }, &[], "look up, no lock".into()),
                    step(&[], Act::MapReserve { range, again: true }, &[], "reserve, under the lock".into()),
                    step(&[], Act::EndFault { page: *page }, &lock, "mark the folio dirty".into()),
                ])
            }
            Self::Write { range } => {
                let folio = [Lock::Folio(range.start >> PAGE_BITS)];
                let range = range.clone();
                Some(vec![
                    step(&[Lock::Inode], Act::Nothing, &[], "lock the inode".into()),
                    step(&[], Act::MapLook { range: range.clone() }, &[], "look up, no lock".into()),
                    step(
                        &[],
                        Act::MapReserve { range: range.clone(), again: false },
                        &[],
                        "reserve, under the lock".into(),
                    ),
                    step(&folio, Act::CopyMapped { range }, &folio, "lock the folio, check the cookie, copy".into()),
                    step(&[], Act::Nothing, &[Lock::Inode], "unlock the inode".into()),
                ])
            }
            _ => None,
        }
    }

    /// Its steps in a filesystem with blocks of `block_size` bytes, on the iomap path or with buffer heads.
    pub fn steps(&self, block_size: u32, iomap: bool) -> Vec<Step> {
        let block = u64::from(block_size);
        if let Some(steps) = self.mapped_steps(block).filter(|_| iomap) {
            return steps;
        }
        match self {
            Self::Fault { page, blocks, .. } => {
                let first = ((page << PAGE_BITS) / block) as u32;
                let lock = [Lock::InvalidateShared, Lock::Folio(*page)];
                let mut all =
                    vec![step(&lock, Act::BeginFolio { page: *page, fault: true }, &[], "lock the folio".into())];
                all.extend(delayed(first..first + blocks));
                all.push(step(&[], Act::EndFault { page: *page }, &lock, "mark the folio dirty".into()));
                all
            }
            Self::Write { range } => {
                let page = range.start >> PAGE_BITS;
                let lock = [Lock::Inode, Lock::Folio(page)];
                let mut all =
                    vec![step(&lock, Act::BeginFolio { page, fault: false }, &[], "lock inode and folio".into())];
                all.extend(delayed((range.start / block) as u32..range.end.div_ceil(block) as u32));
                all.push(step(&[], Act::EndWrite { range: range.clone() }, &lock, "copy, move i_size".into()));
                all
            }
            Self::Fallocate { blocks, size } => {
                let mut all = vec![step(&[Lock::Inode], Act::Nothing, &[], "lock the inode".into())];
                all.extend(blocks.clone().map(|b| {
                    step(&[], Act::Allocate { first: b, end: b + 1 }, &[], format!("allocate block {b}, unwritten"))
                }));
                let last = size.map_or(Act::Nothing, |size| Act::Extend { size });
                all.push(step(&[], last, &[Lock::Inode], "move i_size, unlock".into()));
                all
            }
            Self::Truncate { size, pages } => truncate(*size, *pages),
            Self::Punch { pages } => {
                let lock = [Lock::Inode, Lock::Invalidate];
                let bytes = pages.start << PAGE_BITS..pages.end << PAGE_BITS;
                let blocks = (bytes.start / block) as u32..(bytes.end / block) as u32;
                vec![
                    step(&lock, Act::Nothing, &[], "lock inode and mapping".into()),
                    drop_pages(pages.clone(), bytes),
                    step(&[], Act::Free { blocks }, &lock, "free the blocks".into()),
                ]
            }
            Self::Writeback { pages } => {
                let folios: Vec<Lock> = pages.clone().map(Lock::Folio).collect();
                let busy: Vec<Lock> = pages.clone().map(Lock::Writeback).collect();
                let range = pages.start << PAGE_BITS..pages.end << PAGE_BITS;
                let all: Vec<Lock> = folios.iter().chain(&busy).copied().collect();
                vec![
                    step(&all, Act::Gather { range }, &[], "lock dirty folios, gather".into()),
                    step(&[], Act::MapDirty, &folios, "map, submit, unlock".into()),
                    step(&[], Act::EndIo, &busy, "end of I/O: convert".into()),
                ]
            }
            Self::Shrinker => vec![step(&[], Act::Forget, &[], "forget the extent status".into())],
            Self::Reader { lblk } => {
                vec![step(&[], Act::LookUp { lblk: *lblk }, &[], format!("look up block {lblk}"))]
            }
        }
    }
}

fn step(takes: &[Lock], act: Act, frees: &[Lock], label: String) -> Step {
    Step { takes: takes.to_vec(), act, frees: frees.to_vec(), label }
}

/// Look-up without the lock, then the reservation under it, block by block.
fn delayed(blocks: Range<u32>) -> impl Iterator<Item = Step> {
    blocks.flat_map(|lblk| {
        [
            step(&[], Act::LookUp { lblk }, &[], format!("look up block {lblk}, no lock")),
            step(&[], Act::Reserve { lblk }, &[], format!("reserve block {lblk}, under the lock")),
        ]
    })
}

/// Pages go once nobody holds them.
fn drop_pages(pages: Range<u64>, range: Range<u64>) -> Step {
    let locks: Vec<Lock> = pages.flat_map(|p| [Lock::Folio(p), Lock::Writeback(p)]).collect();
    step(&locks, Act::DropPages { range }, &locks, "drop the pages".into())
}

fn truncate(size: u64, pages: u64) -> Vec<Step> {
    let lock = [Lock::Inode, Lock::Invalidate];
    vec![
        step(&lock, Act::Shrink { size }, &[], "lock inode and mapping, move i_size".into()),
        drop_pages(size >> PAGE_BITS..pages, size..u64::MAX),
        step(&[], Act::Cut, &lock, "free what lies behind".into()),
    ]
}

/// A task on its way.
#[derive(Debug)]
pub struct Running {
    /// Its name.
    pub name: &'static str,
    steps: Vec<Step>,
    at: usize,
    recheck: bool,
    found: Option<EsEntry>,
    /// iomap: the mapping, and the bytes that are done.
    held: Option<Held>,
    done: u64,
    /// A fault behind the end: the process gets a signal instead.
    failed: bool,
    writeback: Option<Writeback>,
}

impl Running {
    /// At its beginning.
    pub fn new(program: &Program, block_size: u32, iomap: bool, recheck: bool) -> Self {
        let steps = program.steps(block_size, iomap);
        let (found, held, writeback) = (None, None, None);
        Self { name: program.name(), steps, at: 0, recheck, found, held, done: 0, failed: false, writeback }
    }

    /// The step that is next.
    pub fn next(&self) -> Option<&Step> {
        self.steps.get(self.at)
    }

    /// Do it.
    ///
    /// # Errors
    /// Those of the filesystem.
    pub fn act(&mut self, m: &mut Mount, ino: Ino, act: &Act) -> Result<()> {
        self.at += 1;
        match act {
            Act::BeginFolio { page, fault } => self.failed = !m.begin_folio(ino, *page, *fault)?,
            _ if self.failed => {}
            Act::Nothing => {}
            Act::LookUp { lblk } => self.found = m.look_up_block(ino, *lblk)?,
            Act::Reserve { .. } => {
                if let Some(found) = self.found.take() {
                    m.reserve_block(ino, found, self.recheck)?;
                }
            }
            Act::EndFault { page } => m.end_fault(ino, *page)?,
            Act::EndWrite { range } => m.end_write(ino, range.clone())?,
            Act::Allocate { first, end } => drop(m.allocate_some(ino, *first, *end)?),
            Act::Extend { size } => m.extend_to(ino, *size)?,
            Act::Shrink { size } => m.shrink_to(ino, *size)?,
            Act::DropPages { range } => m.drop_range(ino, range.clone())?,
            Act::Cut => m.cut_end(ino)?,
            Act::Free { blocks } => m.free_blocks(ino, blocks.clone())?,
            Act::Gather { range } => self.writeback = Some(m.gather_dirty(ino, range.clone())?),
            Act::MapDirty => {
                if let Some(w) = &mut self.writeback {
                    m.map_dirty(ino, w)?;
                }
            }
            Act::EndIo => {
                if let Some(w) = &mut self.writeback {
                    m.finish_io(ino, w)?;
                }
            }
            Act::Forget => m.clear_es(ino)?,
            Act::MapLook { range } => self.found = Some(m.look_up_range(ino, &(range.start + self.done..range.end))?),
            Act::MapReserve { range, again } => {
                if let Some(found) = self.found.take() {
                    let held = m.reserve_range(ino, found, self.recheck)?;
                    if *again && held.end(m) < range.end {
                        // One mapping does not reach to the end of the folio.
                        self.done = held.end(m) - range.start;
                        self.at -= 2;
                    }
                    self.held = Some(held);
                }
            }
            Act::CopyMapped { range } => {
                if let Some(held) = self.held.take() {
                    self.done += m.copy_range(ino, &(range.start + self.done..range.end), &held)?;
                    if range.start + self.done < range.end {
                        // Stale, or short: map again.
                        self.at -= 3;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_share_the_mapping_and_truncation_does_not() {
        assert!(!Lock::InvalidateShared.excludes(&Lock::InvalidateShared));
        assert!(
            Lock::InvalidateShared.excludes(&Lock::Invalidate) && Lock::Invalidate.excludes(&Lock::InvalidateShared)
        );
        assert!(Lock::Folio(1).excludes(&Lock::Folio(1)) && !Lock::Folio(1).excludes(&Lock::Folio(2)));
        assert!(!Lock::Folio(1).excludes(&Lock::Writeback(1)));
    }

    #[test]
    fn every_lock_that_is_taken_is_let_go_of() {
        let page = Program::Fault { name: "fault", page: 1, blocks: 4 };
        let all = [
            page,
            Program::Write { range: 100..3000 },
            Program::Fallocate { blocks: 0..3, size: None },
            Program::Truncate { size: 0, pages: 2 },
            Program::Punch { pages: 0..2 },
            Program::Writeback { pages: 0..2 },
        ];
        for (p, iomap) in all.iter().flat_map(|p| [(p, false), (p, true)]) {
            let mut held = Vec::new();
            for s in p.steps(1024, iomap) {
                held.extend(s.takes);
                held.retain(|l| !s.frees.contains(l));
            }
            assert!(held.is_empty(), "{}: {held:?}", p.name());
        }
    }
}
