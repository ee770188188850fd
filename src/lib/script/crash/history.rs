//! What files held at each moment of a script, as far as a crash may ask: content, sizes on disk and names, with what of
//! it was durable when. Moments are counted from 0, before the first operation; moment `n + 1` is behind operation `n`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::device::BlockDevice;
use crate::error::Result;
use crate::file::{DataMode, MemInode, Mount};
use crate::format::inode::FileType;
use crate::units::{Ino, Tid};
use crate::volume::{OpenInode, OpenOptions, Volume};

/// Content of a block; `None` where it is all zeros.
pub(super) type Content = Option<Arc<[u8]>>;

/// Names of files, and which file (by its place among [`History::files`]) each leads to.
pub(super) type Names = BTreeMap<String, (Ino, usize)>;

/// A value from a moment on, and the transaction that makes it durable; without one it was durable at that moment.
#[derive(Clone, Debug)]
pub(super) struct Dated<T> {
    pub(super) moment: usize,
    pub(super) tid: Option<Tid>,
    pub(super) value: T,
}

/// Blocks that an operation moved: those from `first` on, by so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shift {
    pub(super) first: u32,
    pub(super) by: i64,
}

impl Shift {
    fn target(self, block: u32) -> Option<u32> {
        if block < self.first { Some(block) } else { u32::try_from(i64::from(block) + self.by).ok() }
    }
}

/// One file, from its making to its end. Another file with the same number is another.
#[derive(Debug)]
pub(super) struct File {
    /// What the inode on disk is to say, as it moves.
    pub(super) sizes: Vec<Dated<u64>>,
    /// What each block held, from which moment on. Before the first entry it was zeros.
    pub(super) blocks: BTreeMap<u32, Vec<(usize, Content)>>,
    /// When which blocks moved. Until that is committed, what is written to a block at its new place is found at its old
    /// one after a crash.
    pub(super) shifts: Vec<(usize, Shift)>,
    /// Moments at which everything in it had been made durable.
    pub(super) durable: Vec<usize>,
    /// Its mount lets a crash show what lay in its blocks before.
    pub(super) may_be_stale: bool,
}

/// What an operation made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durable {
    Nothing,
    File(Ino),
    All,
}

/// All moments of a script.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Events of the log by each moment.
    pub(super) events: Vec<usize>,
    /// The last transaction committed by each moment.
    committed: Vec<Option<Tid>>,
    pub(super) names: Vec<Dated<Names>>,
    pub(super) files: Vec<File>,
    /// Which file a number is now.
    current: BTreeMap<Ino, usize>,
    /// Names that count.
    pub(super) known: BTreeSet<String>,
    pub(super) block_size: usize,
}

impl File {
    fn new() -> Self {
        Self {
            sizes: Vec::new(),
            blocks: BTreeMap::new(),
            shifts: Vec::new(),
            durable: Vec::new(),
            may_be_stale: false,
        }
    }

    fn note(&mut self, moment: usize, seen: BTreeMap<u32, Content>) {
        let now_zero: Vec<u32> = self.blocks.keys().filter(|b| !seen.contains_key(b)).copied().collect();
        for (b, content) in seen.into_iter().chain(now_zero.into_iter().map(|b| (b, None))) {
            let versions = self.blocks.entry(b).or_default();
            let last = versions.last().and_then(|v| v.1.as_ref());
            if last != content.as_ref() {
                versions.push((moment, content));
            }
        }
        self.blocks.retain(|_, versions| !versions.is_empty());
    }

    fn note_size(&mut self, moment: usize, tid: Option<Tid>, value: u64) {
        if self.sizes.last().is_none_or(|s| s.value != value || tid.is_none()) {
            self.sizes.push(Dated { moment, tid, value });
        }
    }

    /// What a block may hold after a crash: what it held at `floor`, and what it held later, up to `last`, also where it had
    /// moved by then.
    pub(super) fn allowed(&self, block: u32, floor: usize, last: usize) -> Vec<&Content> {
        let mut places = vec![(block, floor)];
        for (moment, shift) in self.shifts.iter().filter(|s| s.0 > floor && s.0 <= last) {
            let moved: Vec<_> = places.iter().filter_map(|p| Some((shift.target(p.0)?, *moment))).collect();
            places.extend(moved.into_iter().filter(|(b, _)| places.iter().all(|p| p.0 != *b)).collect::<Vec<_>>());
        }
        places.into_iter().flat_map(|(block, from)| self.held(block, from, last)).collect()
    }

    fn held(&self, block: u32, floor: usize, last: usize) -> Vec<&Content> {
        let versions = self.blocks.get(&block).map_or(&[][..], Vec::as_slice);
        let at = versions.partition_point(|v| v.0 <= floor);
        let first = at.checked_sub(1).map_or(&None, |n| &versions[n].1);
        std::iter::once(first).chain(versions[at..].iter().take_while(|v| v.0 <= last).map(|v| &v.1)).collect()
    }
}

fn content(bytes: &[u8]) -> Content {
    bytes.iter().any(|b| *b != 0).then(|| Arc::from(bytes))
}

impl History {
    /// The moment before a script: what the names that it uses lead to on the image.
    pub(super) fn new(device: &Arc<dyn BlockDevice>, known: BTreeSet<String>) -> Result<Self> {
        let vol = Volume::open(Arc::clone(device), &OpenOptions::default())?;
        let block_size = vol.geometry().block_size as usize;
        let mut h = Self { known, block_size, events: vec![0], committed: vec![None], ..Self::default() };
        let mut names = Names::new();
        for (name, ino) in regular_files(&vol, &h.known)? {
            let id = *h.current.entry(ino).or_insert(h.files.len());
            if id == h.files.len() {
                let o = OpenInode { ino, inode: vol.inode(ino)? };
                let mut file = File::new();
                let mut seen = BTreeMap::new();
                let reader = vol.reader(o.owner())?;
                let mut bytes = vec![0; block_size];
                for n in 0..o.inode.size().div_ceil(block_size as u64) {
                    bytes.fill(0);
                    reader.read_at(n * block_size as u64, &mut bytes)?;
                    if let (Ok(n), Some(c)) = (u32::try_from(n), content(&bytes)) {
                        seen.insert(n, Some(c));
                    }
                }
                file.note(0, seen);
                file.note_size(0, None, o.inode.size());
                file.durable.push(0);
                h.files.push(file);
            }
            names.insert(name, (ino, id));
        }
        h.names.push(Dated { moment: 0, tid: None, value: names });
        Ok(h)
    }

    /// Blocks of a file have moved since the last moment.
    pub(super) fn moved(&mut self, ino: Ino, shift: Shift) {
        let moment = self.events.len();
        if let Some(file) = self.current.get(&ino).and_then(|id| self.files.get_mut(*id)) {
            file.shifts.push((moment, shift));
        }
    }

    /// Take down what holds after an operation, when the log has `events` events.
    pub(super) fn observe(&mut self, m: &Mount, events: usize, durable: Durable) -> Result<()> {
        let moment = self.events.len();
        self.events.push(events);
        self.committed.push(m.journal().committed());
        let named = regular_files(m.volume(), &self.known)?;
        self.current.retain(|ino, _| m.inode(*ino).is_some() || named.iter().any(|n| n.1 == *ino));
        let tid = Some(m.journal().running());
        for i in m.inodes() {
            let id = self.id_of(i.o.ino, moment, tid);
            let all = durable == Durable::All || durable == Durable::File(i.o.ino);
            self.observe_file(m, i, id, moment, all)?;
        }
        let mut names = Names::new();
        for (name, ino) in named {
            let id = self.id_of(ino, moment, tid);
            names.insert(name, (ino, id));
        }
        if self.names.last().is_none_or(|n| n.value != names) {
            self.names.push(Dated { moment, tid, value: names });
        }
        Ok(())
    }

    fn id_of(&mut self, ino: Ino, moment: usize, tid: Option<Tid>) -> usize {
        let id = *self.current.entry(ino).or_insert(self.files.len());
        if id == self.files.len() {
            let mut file = File::new();
            file.sizes.push(Dated { moment, tid, value: 0 });
            self.files.push(file);
        }
        id
    }

    fn observe_file(&mut self, m: &Mount, i: &MemInode, id: usize, moment: usize, durable: bool) -> Result<()> {
        let tid = Some(m.journal().running());
        let mut seen = BTreeMap::new();
        m.peek(i, &mut |lblk, bytes| {
            if let Some(c) = content(bytes) {
                seen.insert(lblk, Some(c));
            }
        })?;
        let Some(file) = self.files.get_mut(id) else { return Ok(()) };
        file.note(moment, seen);
        file.note_size(moment, tid, i.disksize);
        let o = m.options();
        let unwritten_first = m.uses_iomap(i).0 || (o.delalloc && o.dioread_nolock);
        file.may_be_stale |= o.data == DataMode::Writeback && !unwritten_first;
        if durable {
            file.note_size(moment, None, i.size);
            file.durable.push(moment);
        }
        Ok(())
    }

    /// The last moment that was over when the log had `events` events, and the last that may have begun to be.
    pub(super) fn moments(&self, events: usize) -> (usize, usize) {
        let over = self.events.partition_point(|e| *e <= events).saturating_sub(1);
        (over, (over + 1).min(self.events.len() - 1))
    }

    /// The place of the last value that is durable at `over`; the first where none is.
    pub(super) fn floor<T>(&self, values: &[Dated<T>], over: usize) -> usize {
        let committed = self.committed.get(over).copied().flatten();
        let safe = |tid: Option<Tid>| match (tid, committed) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(t), Some(c)) => !t.is_after(c),
        };
        values.iter().rposition(|v| v.moment <= over && safe(v.tid)).unwrap_or(0)
    }
}

/// The regular files of the root directory that `known` names.
pub(super) fn regular_files(vol: &Volume, known: &BTreeSet<String>) -> Result<Vec<(String, Ino)>> {
    let root = OpenInode { ino: Ino::ROOT, inode: vol.inode(Ino::ROOT)? };
    let mut found = Vec::new();
    for e in vol.read_dir(root.owner())? {
        let name = String::from_utf8_lossy(&e.name).into_owned();
        if known.contains(&name) && vol.inode(e.ino)?.file_type() == Some(FileType::Regular) {
            found.push((name, e.ino));
        }
    }
    Ok(found)
}
