//! A filesystem in use that is told what to do one operation after the other: the engine without a script, for who decides as it
//! goes. Files may be anywhere in the tree; they have the name that they were opened by.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::engine::{Engine, Settings, bounded};
use super::parse::{Head, Op, Script};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::file::Mount;
use crate::namei::{Attributes, Namei, What};
use crate::units::Ino;
use crate::volume::Volume;

/// A filesystem in use.
pub struct Running {
    engine: Engine,
    device: Arc<dyn BlockDevice>,
    /// Operations so far.
    steps: u64,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl Running {
    /// Mount what is on `device`, which must not need recovery, with these options of mount.
    ///
    /// # Errors
    /// As [`Mount::new`]; options that are not known.
    pub fn new(device: Arc<dyn BlockDevice>, options: &str, settings: Settings) -> Result<Self> {
        let head =
            Head { size: String::new(), mkfs: Vec::new(), mount: options.into(), fiemap: false, write_chunk: 4096 };
        let script = Script { head, ops: Vec::new(), raw: serde_json::Value::Null };
        Ok(Self { engine: Engine::new(&script, &device, settings)?, device, steps: 0 })
    }

    /// What is in memory.
    pub const fn mount(&self) -> &Mount {
        &self.engine.mount
    }

    /// The volume, as the running transaction has it.
    pub const fn volume(&self) -> &Volume {
        self.engine.mount.volume()
    }

    /// Open files by name.
    pub const fn open_files(&self) -> &BTreeMap<String, Ino> {
        self.engine.open_files()
    }

    /// Operations that were done.
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Open a file, and name it.
    ///
    /// # Errors
    /// [`crate::Error::IsDirectory`] and the like for what is no file; what cannot be read.
    pub fn open(&mut self, name: &str, ino: Ino) -> Result<()> {
        self.engine.adopt(name, ino)
    }

    /// Make a file in a directory, and open it.
    ///
    /// # Errors
    /// Those of making a file.
    pub fn make(&mut self, name: &str, dir: Ino, last: &[u8]) -> Result<()> {
        let Engine { mount, names, .. } = &mut self.engine;
        let ino = mount.with_edit(names, |edit, names| {
            let mut n = Namei::new(edit, names);
            let made = n.make(dir, last, What::File, &Attributes::root(0o644))?;
            n.sync_quota()?;
            Ok(made.ino)
        })?;
        self.engine.adopt(name, ino)
    }

    /// Do an operation on files that are open; what it returns, as records show it.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn perform(&mut self, op: &Op) -> Result<serde_json::Value> {
        self.steps += 1;
        self.engine.execute(op, &self.device)
    }

    /// Write these bytes, as a process does with one call for each page; how many were.
    ///
    /// # Errors
    /// Those of the write path, where nothing was written.
    pub fn write(&mut self, ino: Ino, off: u64, data: &[u8]) -> Result<u64> {
        self.steps += 1;
        self.engine.write_bytes(ino, off, data)
    }

    /// Read through the page cache; less at the end of the file.
    ///
    /// # Errors
    /// [`crate::Error::InvalidArgument`] for too much at once; reading failed.
    pub fn read(&mut self, ino: Ino, off: u64, len: u64) -> Result<Vec<u8>> {
        self.engine.mount.read(ino, off, bounded(len)? as usize)
    }

    /// What breaks a rule of the state in memory, if anything does.
    ///
    /// # Errors
    /// Reading failed.
    pub fn violation(&self) -> Result<Option<String>> {
        self.engine.mount.check_state()
    }

    /// Commit what runs, without writing back what is dirty.
    ///
    /// # Errors
    /// Failed writes.
    pub fn commit(&mut self) -> Result<()> {
        self.engine.mount.force_commit()
    }

    /// Close all files, write everything back, and leave the filesystem clean.
    ///
    /// # Errors
    /// Failed writes, or no space for what was dirty.
    pub fn unmount(self) -> Result<()> {
        self.engine.finish()
    }
}
