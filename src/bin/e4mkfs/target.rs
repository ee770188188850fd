//! Where the filesystem goes: a new file that appears complete or not at all, also in place of one that exists; an existing file or
//! block device, in place; or standard output, every byte in order. In another format than raw it is made in a file without a name
//! first.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ext4kit::Result;
use ext4kit::cli::Failure;
use ext4kit::device::{Access, BlockDevice, FileDevice, NewFile, UndoDevice, WindowDevice};
use ext4kit::error::{Error, IoOp};
use ext4kit::format::inode::encode_device;
use ext4kit::image::{Format, signatures, write_qcow2, write_sparse};

/// Bytes written to standard output at once.
const CHUNK: usize = 1 << 20;

/// A file or device to be written.
#[derive(Debug)]
pub(crate) struct Target {
    place: Place,
    format: Format,
    /// Reads as zeros all over.
    pub(crate) fresh: bool,
}

#[derive(Debug)]
enum Place {
    Existing(FileDevice),
    New(NewFile),
    /// In place of a file that is kept from others meanwhile.
    Replaced(NewFile, #[expect(dead_code, reason = "open for its lock")] FileDevice),
    /// In place, with what is overwritten saved elsewhere.
    Saved(UndoDevice<FileDevice>),
    /// Kept in a file without a name until it is complete, then written to standard output, or to a new file in its format.
    Stdout(FileDevice),
    Packed(FileDevice, PathBuf),
}

impl Target {
    fn of(place: Place, fresh: bool) -> Self {
        Self { place, format: Format::Raw, fresh }
    }

    /// What exists, for `need` bytes from `offset`. A regular file is replaced by a new one once that is complete, where this changes
    /// nothing else about it.
    pub(crate) fn existing(path: &Path, offset: u64, need: u64) -> Result<Self> {
        let old = FileDevice::open(path, Access::ReadWrite)?;
        if offset == 0
            && !old.is_block_device()
            && old.len() <= need
            && let Some(new) = replacement(path, &old, need)
        {
            return Ok(Self::of(Place::Replaced(new, old), true));
        }
        let fresh = Self::grow(&old, offset, need)?;
        if fresh && old.next_data(offset)?.is_some_and(|r| r.start < offset + need) {
            if offset == 0 && old.len() == need {
                old.set_len(0)?;
                old.set_len(need)?;
            } else {
                old.zero(offset, need)?;
            }
        }
        Ok(Self::of(Place::Existing(old), fresh))
    }

    /// What exists, as it is, for superblock and descriptors alone.
    pub(crate) fn as_it_is(path: &Path, offset: u64, need: u64) -> Result<Self> {
        let device = FileDevice::open(path, Access::ReadWrite)?;
        Self::grow(&device, offset, need)?;
        Ok(Self::of(Place::Existing(device), false))
    }

    /// What exists, in place; the old bytes go to the file `undo`. `keep` leaves those that are not written.
    pub(crate) fn saved(path: &Path, offset: u64, need: u64, undo: &Path, keep: bool) -> Result<Self> {
        let device = FileDevice::open(path, Access::ReadWrite)?;
        let fresh = Self::grow(&device, offset, need)? && !keep;
        let device = UndoDevice::create(device, undo)?;
        if fresh {
            device.zero(offset, need)?;
        }
        Ok(Self::of(Place::Saved(device), fresh))
    }

    /// Make ready for a filesystem in the `need` bytes from `offset` of something that exists: a block device gives up what they
    /// hold, unless `keep` says otherwise; where it cannot, the marks of what was there go. Returns whether a device gave all up.
    pub(crate) fn clear(&mut self, offset: u64, need: u64, keep: bool) -> Result<bool> {
        let device = match &self.place {
            Place::Existing(file) if file.is_block_device() => file as &dyn BlockDevice,
            Place::Saved(saved) => saved,
            _ => return Ok(false),
        };
        let window = WindowDevice::new(device, offset, need.min(device.len().saturating_sub(offset)))?;
        if !self.fresh && !keep && window.discard(0, window.len())? {
            self.fresh = true;
            return Ok(true);
        }
        for mark in signatures(&window)? {
            window.zero(mark.offset, mark.len)?;
        }
        Ok(false)
    }

    /// Make a regular file long enough. Returns whether it can be made to read as zeros at no cost.
    fn grow(device: &FileDevice, offset: u64, need: u64) -> Result<bool> {
        let regular = !device.is_block_device();
        if regular && device.len() < offset + need {
            device.set_len(offset + need)?;
        }
        Ok(regular)
    }

    /// A new file of `len` bytes that gets its name in [`Target::finish`].
    pub(crate) fn new_file(path: &Path, len: u64) -> Result<Self> {
        Ok(Self::of(Place::New(NewFile::create(path, len)?), true))
    }

    /// A file of another format, for an image of `len` bytes.
    pub(crate) fn packed(path: &Path, len: u64, format: Format) -> Result<Self> {
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let place = Place::Packed(NewFile::unnamed(dir, len)?, path.to_path_buf());
        Ok(Self { format, ..Self::of(place, true) })
    }

    /// Standard output, for an image of `len` bytes.
    pub(crate) fn stdout(len: u64, format: Format) -> Result<Self> {
        let place = Place::Stdout(NewFile::unnamed(std::env::temp_dir(), len)?);
        Ok(Self { format, ..Self::of(place, true) })
    }

    pub(crate) fn device(&self) -> &dyn BlockDevice {
        match &self.place {
            Place::Existing(device) | Place::Stdout(device) | Place::Packed(device, _) => device,
            Place::New(file) | Place::Replaced(file, _) => file.device(),
            Place::Saved(device) => device,
        }
    }

    /// The filesystem is complete; `in_use` are the bytes that it needs. With `uncached`, nothing of it is left in memory.
    pub(crate) fn finish(self, in_use: &[Range<u64>], uncached: bool) -> Result<(), Failure> {
        let done = |file: &FileDevice| -> Result<(), Failure> {
            if uncached {
                file.flush()?;
                let advice = rustix::fs::Advice::DontNeed;
                rustix::fs::fadvise(file.as_fd(), 0, None, advice)
                    .map_err(|e| Error::host("release the memory of", file.path(), e))?;
            }
            Ok(())
        };
        match self.place {
            Place::Existing(file) => {
                if file.is_block_device() {
                    file.flush()?;
                }
                done(&file)
            }
            Place::Saved(device) => Ok(device.flush()?),
            Place::New(file) | Place::Replaced(file, _) => {
                done(file.device())?;
                Ok(file.publish()?)
            }
            Place::Packed(raw, path) => {
                let new = NewFile::create(&path, 0)?;
                let copy = new.device().as_fd().try_clone_to_owned();
                let copy = copy.map_err(|source| Error::Io { op: IoOp::Write, offset: 0, len: 0, source })?;
                let mut out = BufWriter::with_capacity(CHUNK, File::from(copy));
                pack(&raw, self.format, in_use, &mut out)?;
                done(new.device())?;
                Ok(new.publish()?)
            }
            Place::Stdout(raw) => pack(&raw, self.format, in_use, &mut std::io::stdout().lock()),
        }
    }
}

/// A file that can take the name of `old`, an open file at `path`, with nobody noticing but by its content; `None` where there is
/// none.
fn replacement(path: &Path, old: &FileDevice, len: u64) -> Option<NewFile> {
    let meta = std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let data = old.next_data(0).ok()?.is_some();
    // Room that was set aside for it, other names, attributes, a loop device over it.
    if meta.nlink() != 1 || meta.blocks() != 0 && !data || has_attributes(path) || is_looped(path) {
        return None;
    }
    let new = NewFile::create(path, len).ok()?;
    let fd = new.device().as_fd();
    let made = rustix::fs::fstat(fd).ok()?;
    if (made.st_uid, made.st_gid) != (meta.uid(), meta.gid()) {
        let owner = (rustix::fs::Uid::from_raw(meta.uid()), rustix::fs::Gid::from_raw(meta.gid()));
        rustix::fs::fchown(fd, Some(owner.0), Some(owner.1)).ok()?;
    }
    rustix::fs::fchmod(fd, rustix::fs::Mode::from_raw_mode(meta.mode() & 0o7777)).ok()?;
    Some(new)
}

fn has_attributes(path: &Path) -> bool {
    let mut none: [u8; 0] = [];
    rustix::fs::listxattr(path, &mut none).is_ok_and(|n| n != 0)
}

/// Whether a loop device shows the file.
fn is_looped(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return true };
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut backing = devices.filter_map(|d| std::fs::read_to_string(d.path().join("loop/backing_file")).ok());
    backing.any(|name| Path::new(name.trim_end()) == path)
}

/// Write an image in its format.
fn pack(raw: &FileDevice, format: Format, in_use: &[Range<u64>], out: &mut dyn Write) -> Result<(), Failure> {
    match format {
        Format::Raw => stream(raw, out)?,
        Format::Sparse => write_sparse(raw, in_use, out).map_err(output)?,
        Format::Qcow2 => write_qcow2(raw, out).map_err(output)?,
    }
    Ok(out.flush()?)
}

/// What a reader that went away did is not the image's failure.
fn output(e: Error) -> Failure {
    match e {
        Error::Io { op: IoOp::Write, source, .. } => Failure::Output(source),
        e => e.into(),
    }
}

/// Write all of `file`; its holes are zeros.
fn stream(file: &FileDevice, out: &mut dyn Write) -> Result<(), Failure> {
    let mut buf = vec![0; CHUNK];
    let zeros = vec![0; CHUNK];
    let (mut at, len) = (0, file.len());
    while at < len {
        let data = file.next_data(at)?.unwrap_or(len..len);
        while at < data.start {
            let n = (data.start - at).min(CHUNK as u64);
            out.write_all(&zeros[..n as usize])?;
            at += n;
        }
        while at < data.end {
            let n = (data.end - at).min(CHUNK as u64);
            let part = &mut buf[..n as usize];
            file.read_at(at, part)?;
            out.write_all(part)?;
            at += n;
        }
    }
    Ok(())
}

/// The kernel's number of a block device, as a superblock stores it; 0 for a file.
pub(crate) fn device_number(device: &FileDevice) -> u32 {
    let Ok(stat) = rustix::fs::fstat(device.as_fd()) else { return 0 };
    if !device.is_block_device() {
        return 0;
    }
    encode_device(rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
}
