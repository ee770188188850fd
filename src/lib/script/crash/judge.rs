//! One crash state, judged: it is recovered, checked, and every file compared with what it may hold.
//!
//! A byte may be what it was when the file was last made durable before the crash, or anything it was since. A size may be
//! what the inode on disk was to say since the last commit of it, or between two such values. Names are those of one moment.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::history::{Content, File, History, Names, regular_files};
use super::marker;
use crate::check::{self, CheckOptions, Collect, Finding};
use crate::device::BlockDevice;
use crate::device::replay::CrashState;
use crate::env::Timestamp;
use crate::error::Result;
use crate::journal::{OnDamage, RecoverOptions};
use crate::progress::Silent;
use crate::recover::recover;
use crate::volume::{OpenInode, OpenOptions, Volume};

/// Findings of a check that are told.
const MAX_FINDINGS: usize = 4;

/// What can be wrong with a crash state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It cannot be recovered.
    Recovery,
    /// The checker finds errors after recovery.
    Check,
    /// The names of files are those of no moment.
    Names,
    /// A size was never to be on disk.
    Size,
    /// What was made durable is gone: zeros or older content in its place.
    Lost,
    /// A byte that was never written to that offset of that file.
    Stale,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Recovery, Self::Check, Self::Names, Self::Size, Self::Lost, Self::Stale];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recovery => "recovery",
            Self::Check => "check",
            Self::Names => "names",
            Self::Size => "size",
            Self::Lost => "lost",
            Self::Stale => "stale",
        }
    }
}

/// What is wrong with a crash state.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// What kind of thing.
    pub kind: Kind,
    /// Which file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where in it, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What may be there.
    pub expected: String,
    /// What is there.
    pub got: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind.name())?;
        if let Some(file) = &self.file {
            write!(f, "file {file}, ")?;
        }
        if let Some(offset) = self.offset {
            write!(f, "offset {offset}, ")?;
        }
        write!(f, "expected {}, got {}", self.expected, self.got)
    }
}

impl Violation {
    fn of(kind: Kind, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self { kind, file: None, offset: None, expected: expected.into(), got: got.into() }
    }
}

/// What a state came out as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// Old content of blocks showed where the mount options allow it.
    pub(super) stale: bool,
}

type Judged<T> = std::result::Result<T, Violation>;

/// Recover, check and compare what `device` holds.
pub(super) fn judge(h: &History, device: &Arc<dyn BlockDevice>, state: &CrashState, now: Timestamp) -> Judged<Passed> {
    let options = RecoverOptions { on_damage: OnDamage::Refuse, now: Some(now), keep_counts: false };
    let failed = |e: crate::Error| Violation::of(Kind::Recovery, "a filesystem", e.to_string());
    recover(device, None, options).map_err(failed)?;
    checked(device, now)?;
    let vol = Volume::open(Arc::clone(device), &OpenOptions::default()).map_err(failed)?;
    let found = regular_files(&vol, &h.known).map_err(failed)?;
    let (over, last) = h.moments(state.end);
    let candidates = named(h, &found, over, last)?;
    let mut passed = Passed::default();
    for (name, ino) in &found {
        let ids: BTreeSet<usize> = candidates.iter().filter_map(|n| n.get(name)).map(|n| n.1).collect();
        let open = || Ok(OpenInode { ino: *ino, inode: vol.inode(*ino)? });
        let o = open().map_err(failed)?;
        let mut wrong = None;
        for id in ids {
            match compare(h, &h.files[id], &vol, &o, over..last + 1) {
                Ok(p) => {
                    passed.stale |= p.stale;
                    wrong = None;
                    break;
                }
                Err(mut v) => {
                    v.file = Some(name.clone());
                    wrong = wrong.or(Some(v));
                }
            }
        }
        wrong.map_or(Ok(()), Err)?;
    }
    Ok(passed)
}

fn checked(device: &Arc<dyn BlockDevice>, now: Timestamp) -> Judged<()> {
    let options = CheckOptions::everything(now);
    let mut found = Collect::default();
    let text = match check::check(device, &options, &mut found, &Silent) {
        Ok(outcome) if outcome.errors == 0 && !outcome.aborted => return Ok(()),
        Ok(_) => found.0.iter().take(MAX_FINDINGS).map(Finding::message).collect::<Vec<_>>().join("; "),
        Err(e) => e.to_string(),
    };
    Err(Violation::of(Kind::Check, "no problems", text))
}

/// The moments whose names are those that were found.
fn named<'h>(
    h: &'h History,
    found: &[(String, crate::units::Ino)],
    over: usize,
    last: usize,
) -> Judged<Vec<&'h Names>> {
    let from = h.floor(&h.names, over);
    let possible: Vec<&Names> = h.names[from..].iter().take_while(|n| n.moment <= last).map(|n| &n.value).collect();
    let is = |n: &&Names| n.len() == found.len() && found.iter().all(|(f, ino)| n.get(f).is_some_and(|x| x.0 == *ino));
    let all: Vec<&Names> = possible.iter().copied().filter(is).collect();
    if !all.is_empty() {
        return Ok(all);
    }
    let list = |n: &Names| n.iter().map(|(name, (ino, _))| format!("{name}={ino}")).collect::<Vec<_>>().join(" ");
    let want = possible.iter().map(|n| format!("[{}]", list(n))).collect::<Vec<_>>().join(" or ");
    let got = found.iter().map(|(name, ino)| format!("{name}={ino}")).collect::<Vec<_>>().join(" ");
    Err(Violation::of(Kind::Names, want, format!("[{got}]")))
}

/// Compare a file with what it may be: `moments` are those from the last that was over to the last that may have been.
fn compare(h: &History, file: &File, vol: &Volume, o: &OpenInode, moments: std::ops::Range<usize>) -> Judged<Passed> {
    let (over, last) = (moments.start, moments.end - 1);
    let size = o.inode.size();
    may_have_size(h, file, size, over, last)?;
    let floor = file.durable.iter().rev().find(|m| **m <= over).copied().unwrap_or(0);
    let unreadable = |e: crate::Error| Violation::of(Kind::Recovery, "a file that can be read", e.to_string());
    let block = h.block_size as u64;
    let mut passed = Passed::default();
    let mut seen = BTreeSet::new();
    let mut one = |lblk: u32, bytes: &[u8]| -> Judged<()> {
        let keep = size.saturating_sub(u64::from(lblk) * block).min(block) as usize;
        let Some((at, kind, want)) = differs(file, lblk, &bytes[..keep], floor, last) else { return Ok(()) };
        let unchanged = want.len() == 1;
        if file.may_be_stale && !(kind == Kind::Lost && unchanged) {
            passed.stale = true;
            return Ok(());
        }
        Err(Violation {
            kind,
            file: None,
            offset: Some(u64::from(lblk) * block + at as u64),
            expected: want.iter().map(|b| format!("{b:#04x}")).collect::<Vec<_>>().join(" or "),
            got: match marker::named(bytes, at) {
                Some(n) => format!("{:#04x}, the content of block {n} when it was free", bytes[at]),
                None => format!("{:#04x}", bytes[at]),
            },
        })
    };
    for (lblk, bytes) in written_blocks(vol, o, size).map_err(unreadable)? {
        seen.insert(lblk);
        one(lblk, &bytes)?;
    }
    let zeros = vec![0; h.block_size];
    for lblk in file.blocks.keys().filter(|b| !seen.contains(b)) {
        one(*lblk, &zeros)?;
    }
    Ok(passed)
}

fn written_blocks(vol: &Volume, o: &OpenInode, size: u64) -> Result<Vec<(u32, Vec<u8>)>> {
    let block = u64::from(vol.geometry().block_size);
    let reader = vol.reader(o.owner())?;
    let mut all = Vec::new();
    let mut take = |n: u64| -> Result<()> {
        let mut bytes = vec![0; block as usize];
        reader.read_at(n * block, &mut bytes)?;
        all.push((n as u32, bytes));
        Ok(())
    };
    if reader.extents().is_empty() && o.has(crate::format::inode::InodeFlags::INLINE_DATA) {
        take(0)?;
        return Ok(all);
    }
    for e in reader.extents().iter().filter(|e| !e.unwritten) {
        (u64::from(e.lblk.0)..e.end().min(size.div_ceil(block))).try_for_each(&mut take)?;
    }
    Ok(all)
}

fn may_have_size(h: &History, file: &File, size: u64, over: usize, last: usize) -> Judged<()> {
    let from = h.floor(&file.sizes, over);
    let possible: Vec<u64> = file.sizes[from..].iter().take_while(|s| s.moment <= last).map(|s| s.value).collect();
    let between = possible.windows(2).any(|w| w[0].min(w[1]) <= size && size <= w[0].max(w[1]));
    if between || possible.contains(&size) {
        return Ok(());
    }
    let list = possible.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    Err(Violation::of(Kind::Size, format!("a size of {list}, or between two of them"), size.to_string()))
}

/// The first byte of a block that may not be what it is, what that means, and what it may be.
fn differs(file: &File, lblk: u32, bytes: &[u8], floor: usize, last: usize) -> Option<(usize, Kind, Vec<u8>)> {
    let allowed = file.allowed(lblk, floor, last);
    let holds = |c: &Content| match c {
        Some(c) => c[..bytes.len()] == *bytes,
        None => bytes.iter().all(|b| *b == 0),
    };
    if allowed.iter().any(|c| holds(c)) {
        return None;
    }
    let byte = |c: &Content, at: usize| c.as_ref().map_or(0, |c| c[at]);
    let at = (0..bytes.len()).find(|at| !allowed.iter().any(|c| byte(c, *at) == bytes[*at]))?;
    let mut want: Vec<u8> = allowed.iter().map(|c| byte(c, at)).collect();
    want.sort_unstable();
    want.dedup();
    let ever = file.allowed(lblk, 0, last).into_iter().any(|c| byte(c, at) == bytes[at]);
    let kind = if ever || bytes[at] == 0 { Kind::Lost } else { Kind::Stale };
    Some((at, kind, want))
}
