//! The engine: runs a script's operations on a mount, one record each.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::content::{crc32, pattern};
use super::parse::{Head, Op, Script, Whence};
use super::recovered::recovered;
use super::state::{fs_state, state};
use crate::device::BlockDevice;
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::file::event::{Traced, Tracer};
use crate::file::{Mount, MountOptions, PathChoice};
use crate::format::inode::{FileType, TimeField};
use crate::namei::{Attributes, Context, Namei, What};
use crate::units::Ino;

/// Bytes of a page: a store through a mapping is one page at a time.
const PAGE: u64 = 4096;
/// Most bytes that one operation reads or writes.
const MAX_BYTES: u64 = 1 << 30;

/// Where records go.
pub type Emit<'e> = &'e mut dyn FnMut(&Value) -> Result<()>;

/// How a script is run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Which write path; [`PathChoice::Auto`] leaves it to the mount options.
    pub path: PathChoice,
    /// The time for everything that is stamped with "now".
    pub now: Timestamp,
    /// Check the invariants after each operation; a record says `violation` where one does not hold.
    pub check: bool,
}

/// A script that is being run.
#[derive(Debug)]
pub(super) struct Engine {
    head: Head,
    /// The head as it was read.
    raw: Value,
    pub(super) mount: Mount,
    pub(super) names: Context,
    /// Open files by name.
    open: BTreeMap<String, Ino>,
    /// What was shown of each last.
    last: BTreeMap<String, Value>,
    settings: Settings,
}

/// The name of an error of `op`, as a process would see it; `Err` for what is not the script's doing.
fn errno(e: Error, op: &Op) -> Result<&'static str> {
    let mapped = matches!(op, Op::MmapWrite { .. });
    Ok(match e.bare() {
        Error::NoSpace { .. } | Error::InvalidArgument { .. } if mapped => "SIGBUS",
        Error::NotFound { .. } if matches!(op, Op::Seek { .. }) => "ENXIO",
        Error::NoSpace { .. } => "ENOSPC",
        Error::InvalidArgument { .. } => "EINVAL",
        Error::NotFound { .. } => "ENOENT",
        Error::IsDirectory { .. } => "EISDIR",
        _ => return Err(e),
    })
}

/// Run a script on the filesystem that `device` holds; `emit` gets one record per line.
///
/// # Errors
/// What the device and the filesystem report beyond what a script can cause.
pub fn run(script: &Script, device: &Arc<dyn BlockDevice>, settings: Settings, emit: Emit<'_>) -> Result<()> {
    watch(script, device, settings, &Tracer::OFF, &mut |seen| emit(&seen.record))
}

/// What is seen of a script that is being run.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The record.
    pub record: Value,
    /// The filesystem, between two operations; none where it is not mounted any more.
    pub mount: Option<&'a Mount>,
    /// Open files by name.
    pub open: &'a BTreeMap<String, Ino>,
    /// What happened since the last record.
    pub events: &'a [Traced],
}

/// As [`run`], with a look at the filesystem after each operation, and at what `tracer` took since.
///
/// # Errors
/// As [`run`].
pub fn watch(
    script: &Script,
    device: &Arc<dyn BlockDevice>,
    settings: Settings,
    tracer: &Tracer,
    see: &mut dyn FnMut(Seen<'_>) -> Result<()>,
) -> Result<()> {
    let mut engine = Engine::new(script, device, settings)?;
    engine.mount.trace(tracer.clone());
    see(Seen { record: engine.header(), mount: Some(&engine.mount), open: &engine.open, events: &[] })?;
    let finally = |events: &[Traced], see: &mut dyn FnMut(Seen<'_>) -> Result<()>| {
        let record = json!({ "final": recovered(device, settings.now)? });
        see(Seen { record, mount: None, open: &BTreeMap::new(), events })
    };
    for (n, (op, raw)) in script.ops.iter().enumerate() {
        let record = engine.step(n, op, raw, device)?;
        let events = tracer.take();
        see(Seen { record, mount: Some(&engine.mount), open: &engine.open, events: &events })?;
        if let Op::Shutdown { .. } = op {
            drop(engine);
            return finally(&[], see);
        }
    }
    engine.finish()?;
    finally(&tracer.take(), see)
}

impl Engine {
    pub(super) fn new(script: &Script, device: &Arc<dyn BlockDevice>, settings: Settings) -> Result<Self> {
        let mut options = MountOptions::parse(&script.head.mount)?;
        if settings.path != PathChoice::Auto {
            options.path = settings.path;
        }
        let mount = Mount::new(Arc::clone(device), options, settings.now)?;
        let names = Context::new(mount.volume(), settings.now);
        let (head, raw) = (script.head.clone(), script.raw.clone());
        Ok(Self { head, raw, mount, names, open: BTreeMap::new(), last: BTreeMap::new(), settings })
    }

    /// Close everything and unmount.
    pub(super) fn finish(mut self) -> Result<()> {
        let open: Vec<Ino> = self.open.values().copied().collect();
        for ino in open {
            self.mount.close(ino)?;
        }
        self.mount.unmount()
    }

    /// Open files by name.
    pub(super) const fn open_files(&self) -> &BTreeMap<String, Ino> {
        &self.open
    }

    /// Open a file that is there, under a name.
    pub(super) fn adopt(&mut self, name: &str, ino: Ino) -> Result<()> {
        let path = || name.as_bytes().to_vec();
        match self.mount.volume().inode(ino)?.file_type() {
            Some(FileType::Regular) => {}
            Some(FileType::Directory) => return Err(Error::IsDirectory { path: path() }),
            _ => {
                return Err(Error::InvalidArgument { name: "file", value: name.into(), allowed: "a regular file" });
            }
        }
        self.mount.open(ino)?;
        self.open.insert(name.to_owned(), ino);
        Ok(())
    }

    /// The number of an open file.
    pub(super) fn ino_of(&self, name: &str) -> Option<Ino> {
        self.open.get(name).copied()
    }

    /// Do an operation; its errno where it has one.
    pub(super) fn perform(&mut self, op: &Op, device: &Arc<dyn BlockDevice>) -> Result<Option<&'static str>> {
        match self.execute(op, device) {
            Ok(_) => Ok(None),
            Err(e) => errno(e, op).map(Some),
        }
    }

    fn header(&self) -> Value {
        let geo = self.mount.volume().geometry();
        let mut script = self.raw.clone();
        script["ops"] = Value::Null;
        json!({ "header": {
            "format": 1, "kernel": concat!("ext4kit ", env!("CARGO_PKG_VERSION")),
            "cpus": self.mount.options().cpus, "block_size": geo.block_size,
            "cluster_size": geo.block_size << geo.cluster_bits, "fs": fs_state(&self.mount), "script": script,
        }})
    }

    fn step(&mut self, n: usize, op: &Op, raw: &Value, device: &Arc<dyn BlockDevice>) -> Result<Value> {
        let (ret, errno) = match self.execute(op, device) {
            Ok(ret) => (ret, Value::Null),
            Err(e) => (Value::Null, errno(e, op)?.into()),
        };
        let mut record = json!({ "i": n, "op": raw, "ret": ret, "errno": errno });
        if let Op::Shutdown { .. } = op {
            return Ok(record);
        }
        if self.settings.check
            && let Some(wrong) = self.mount.check_state()?
        {
            record["violation"] = wrong.into();
        }
        let (mut files, mut mapped) = (Map::new(), Vec::new());
        let touched = [op.file(), if let Op::Rename { to, .. } = op { Some(to) } else { None }];
        for (name, ino) in &self.open {
            let Some(i) = self.mount.inode(*ino) else { continue };
            let named = touched.contains(&Some(name.as_str()));
            let fiemap = named && (matches!(op, Op::Fiemap { .. }) || self.head.fiemap);
            let shown = state(&self.mount, i, fiemap)?;
            let mut plain = shown.clone();
            if let Some(o) = plain.as_object_mut() {
                o.remove("fiemap");
            }
            if named || self.last.get(name) != Some(&plain) {
                files.insert(name.clone(), shown);
            }
            self.last.insert(name.clone(), plain);
            if fiemap {
                mapped.push(*ino);
            }
        }
        // Asking for the mapping makes what is known complete, which the next record shows.
        for ino in mapped {
            self.mount.look_up_all(ino)?;
        }
        record["fs"] = fs_state(&self.mount);
        record["files"] = files.into();
        Ok(record)
    }

    /// The open file called `name`; made where there is none.
    fn fd(&mut self, name: &str) -> Result<Ino> {
        if let Some(ino) = self.open.get(name) {
            return Ok(*ino);
        }
        let (ino, new) = self.mount.with_edit(&mut self.names, |edit, names| {
            let mut n = Namei::new(edit, names);
            if let Some(ino) = n.lookup(Ino::ROOT, name.as_bytes())? {
                return Ok((ino, false));
            }
            let made = n.make(Ino::ROOT, name.as_bytes(), What::File, &Attributes::root(0o644))?;
            n.sync_quota()?;
            Ok((made.ino, true))
        })?;
        if new {
            self.mount.made(ino)?;
        } else {
            self.mount.open(ino)?;
        }
        self.open.insert(name.to_owned(), ino);
        Ok(ino)
    }

    /// Do an operation, after which all open files are looked at.
    pub(super) fn execute(&mut self, op: &Op, device: &Arc<dyn BlockDevice>) -> Result<Value> {
        let done = self.dispatch(op, device);
        for ino in self.open.values() {
            self.mount.look_at(*ino);
        }
        done
    }

    fn dispatch(&mut self, op: &Op, device: &Arc<dyn BlockDevice>) -> Result<Value> {
        let ino = match op {
            Op::Close { .. } | Op::Rename { .. } | Op::Unlink { keep: false, .. } => Ino(0),
            _ => op.file().map_or(Ok(Ino(0)), |f| self.fd(f))?,
        };
        let m = &mut self.mount;
        match op {
            Op::Write { off, len, seed, .. } => return self.write(ino, *off, *len, *seed).map(Value::from),
            Op::MmapWrite { off, len, seed, .. } => self.store(ino, *off, *len, *seed)?,
            Op::DioWrite { off, len, seed, .. } => {
                // Through a handle of its own, which is closed again.
                let done = m.write_direct(ino, *off, &pattern(*seed, *off, bounded(*len)?));
                m.release(ino)?;
                return Ok(done?.into());
            }
            Op::Read { off, len, .. } => {
                let data = m.read(ino, *off, bounded(*len)? as usize)?;
                return Ok(json!({ "len": data.len(), "crc32": crc32(0, &data) }));
            }
            Op::Fallocate { off, len, mode, .. } => m.fallocate(ino, *off, *len, mode == "keep")?,
            Op::Punch { off, len, .. } => m.punch(ino, *off, *len)?,
            Op::ZeroRange { off, len, keep, .. } => m.zero_range(ino, *off, *len, *keep)?,
            Op::Collapse { off, len, .. } => m.collapse(ino, *off, *len)?,
            Op::Insert { off, len, .. } => m.insert(ino, *off, *len)?,
            Op::Truncate { size, .. } => m.truncate(ino, *size)?,
            Op::Writeback { off, len, .. } => m.write_back(ino, *off..end_of(*off, *len))?,
            Op::Writepage { off, len, .. } => m.write_without_mapping(ino, *off..end_of(*off, *len))?,
            Op::Seek { off, whence, .. } => {
                let whence = match whence {
                    Whence::Data => crate::file::Whence::Data,
                    Whence::Hole => crate::file::Whence::Hole,
                };
                let found = m.seek(ino, *off, whence)?;
                return found.map(Value::from).ok_or(Error::NotFound { path: Vec::new() });
            }
            Op::Fsync { .. } => m.fsync(ino, false)?,
            Op::Fdatasync { .. } => m.fsync(ino, true)?,
            Op::Fiemap { .. } => {}
            Op::Close { file } => self.close(file)?,
            Op::Unlink { file, keep } => self.unlink(file, *keep)?,
            Op::Rename { file, to } => self.rename(file, to)?,
            Op::DropCaches { .. } => m.drop_caches(ino)?,
            Op::ClearEs { .. } => m.clear_es(ino)?,
            Op::Sync {} => m.sync()?,
            Op::Crash {} => return recovered(device, self.settings.now),
            Op::Shutdown { mode } => match mode.as_deref() {
                Some("default") => m.sync()?,
                Some("logflush") => m.force_commit()?,
                _ => {}
            },
        }
        Ok(Value::Null)
    }

    /// One call per piece that the script's `write_chunk` cuts; a short one ends it.
    fn write(&mut self, ino: Ino, off: u64, len: u64, seed: u64) -> Result<u64> {
        self.write_bytes(ino, off, &pattern(seed, off, bounded(len)?))
    }

    pub(super) fn write_bytes(&mut self, ino: Ino, off: u64, data: &[u8]) -> Result<u64> {
        let end = off.saturating_add(data.len() as u64);
        let chunk = if self.head.write_chunk == 0 { end.max(1) } else { self.head.write_chunk };
        let mut at = off;
        while at < end {
            let stop = end.min((at / chunk + 1) * chunk);
            match self.mount.write(ino, at, &data[(at - off) as usize..(stop - off) as usize]) {
                Ok(n) => at += n as u64,
                Err(e) if at > off && matches!(e.bare(), Error::NoSpace { .. }) => break,
                Err(e) => return Err(e),
            }
            if at < stop {
                break;
            }
        }
        Ok(at - off)
    }

    fn store(&mut self, ino: Ino, off: u64, len: u64, seed: u64) -> Result<()> {
        let data = pattern(seed, off, bounded(len)?);
        let end = off + len;
        let mut at = off;
        while at < end {
            let stop = end.min((at / PAGE + 1) * PAGE);
            self.mount.store_mapped(ino, at, &data[(at - off) as usize..(stop - off) as usize])?;
            at = stop;
        }
        Ok(())
    }

    fn close(&mut self, name: &str) -> Result<()> {
        self.last.remove(name);
        match self.open.remove(name) {
            Some(ino) => self.mount.close(ino),
            None => Ok(()),
        }
    }

    /// Take a name away; what it stood for becomes an orphan, and goes unless it is open.
    fn unlink(&mut self, name: &str, keep: bool) -> Result<()> {
        let now = self.settings.now;
        let ino = self.mount.with_edit(&mut (), |mut e, ()| {
            let mut dir = e.open(Ino::ROOT)?;
            let ino = e.remove_entry(&mut dir, name.as_bytes())?;
            let ino = ino.ok_or_else(|| Error::NotFound { path: name.as_bytes().to_vec() })?;
            dir.inode.set_time(TimeField::Modify, now);
            dir.inode.set_time(TimeField::Change, now);
            e.put(&mut dir)?;
            Ok(ino)
        })?;
        self.mount.orphan(ino)?;
        if !self.open.values().any(|i| *i == ino) {
            return self.mount.close(ino);
        }
        if keep { Ok(()) } else { self.close(name) }
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let find = |e: &crate::volume::Edit<'_>, name: &str| {
            let dir = e.open(Ino::ROOT)?;
            e.vol.lookup(dir.owner(), name.as_bytes())
        };
        let (old, new) = self.mount.with_edit(&mut (), |e, ()| Ok((find(&e, from)?, find(&e, to)?)))?;
        let ino = old.ok_or_else(|| Error::NotFound { path: from.as_bytes().to_vec() })?;
        if new.is_some_and(|n| n != ino) {
            self.mount.before_replace(ino)?;
            self.unlink(to, true)?;
        }
        self.mount.with_edit(&mut self.names, |edit, names| {
            let mut n = Namei::new(edit, names);
            n.rename(Ino::ROOT, from.as_bytes(), Ino::ROOT, to.as_bytes(), false)?;
            n.sync_quota()
        })?;
        self.mount.refresh(ino)?;
        self.close(to)?;
        self.last.remove(from);
        if let Some(ino) = self.open.remove(from) {
            self.open.insert(to.to_owned(), ino);
        }
        Ok(())
    }
}

/// Where a range ends; without a length, nowhere.
const fn end_of(off: u64, len: u64) -> u64 {
    if len == 0 { u64::MAX } else { off.saturating_add(len) }
}

pub(super) fn bounded(len: u64) -> Result<u64> {
    if len <= MAX_BYTES {
        return Ok(len);
    }
    Err(Error::InvalidArgument { name: "length", value: len.to_string(), allowed: "at most 1 GiB at a time" })
}
