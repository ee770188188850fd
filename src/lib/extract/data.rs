//! Content of regular files: from the image to an open file of the host, straight from the memory map where there is
//! one. Holes and unwritten ranges stay holes. Offsets and lengths in bytes.

use std::io::Write;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::run::Run;
use super::walk;
use crate::error::{Error, Flaw, Place, Result, Structure};
use crate::format::features::RoCompat;
use crate::format::inode::InodeFlags;
use crate::volume::{FileReader, Owner, Segment};

/// Bytes between two looks at whether the copy is to stop.
const STEP: u64 = 8 << 20;
/// Blocks of the host are at least as large; only whole ones can be shared.
const SHARED_ALIGN: u64 = 4096;
/// Fewest bytes that are worth sharing with the image.
const MIN_SHARED: u64 = 1 << 20;
/// Bytes read at a time where the device has no views.
const BUFFER: u64 = 1 << 18;

/// Which side failed.
pub(super) enum CopyError {
    /// Reading the image.
    Image(Error),
    /// The host, while doing what is named.
    Host(&'static str, Errno),
}

impl From<Error> for CopyError {
    fn from(e: Error) -> Self {
        Self::Image(e)
    }
}

/// Open a file's content, refusing what no sound filesystem holds: a size that block numbers
/// cannot reach, more data than there are blocks.
pub(super) fn open<'v>(run: &Run<'v>, owner: Owner<'_>) -> Result<FileReader<'v>> {
    if owner.inode.flags().contains(InodeFlags::ENCRYPT) {
        return Err(walk::encrypted());
    }
    let reader = run.volume.reader(owner)?;
    let geo = run.volume.geometry();
    if reader.size() > u64::from(geo.block_size) << 32 {
        let flaw = Flaw::Field { of: Structure::Inode, field: "size", value: reader.size() };
        return Err(Error::corrupt(flaw, Place::inode(owner.ino)));
    }
    let mapped = reader.extents().iter().fold(0u64, |sum, e| sum.saturating_add(e.len.into()));
    if mapped > geo.blocks_count && !geo.features.ro_compat.contains(RoCompat::SHARED_BLOCKS) {
        let flaw = Flaw::Inconsistent { of: Structure::ExtentNode, detail: "more blocks than the filesystem has" };
        return Err(Error::corrupt(flaw, Place::inode(owner.ino)));
    }
    Ok(reader)
}

/// A piece of a file's data.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    /// Where it is in the file.
    pub offset: u64,
    /// Where it is on the device; `None` where it is inside the inode.
    at: Option<u64>,
    pub bytes: &'a [u8],
}

impl Piece<'_> {
    /// Where it ends in the file.
    pub(super) const fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

/// Visit a file's data in order, in pieces; holes are left out. Returns the bytes visited.
pub(super) fn for_each_piece<E: From<Error>>(
    run: &Run<'_>,
    reader: &FileReader<'_>,
    buf: &mut Vec<u8>,
    mut visit: impl FnMut(Piece<'_>) -> Result<(), E>,
) -> Result<u64, E> {
    let device = run.volume.device();
    let mut total = 0;
    for segment in reader.segments() {
        match segment {
            Segment::Zeros { .. } => {}
            Segment::Inline { len } => {
                let bytes = reader.inline().unwrap_or_default();
                visit(Piece { offset: 0, at: None, bytes: bytes.get(..len as usize).unwrap_or(bytes) })?;
                total += len;
            }
            Segment::Data { offset, len, at } => {
                let mut done = 0;
                while done < len {
                    let mut n = (len - done).min(STEP);
                    if let Some(bytes) = device.slice(at + done, n as usize) {
                        visit(Piece { offset: offset + done, at: Some(at + done), bytes })?;
                    } else {
                        n = n.min(BUFFER);
                        buf.resize(n as usize, 0);
                        device.read_at(at + done, buf)?;
                        visit(Piece { offset: offset + done, at: Some(at + done), bytes: buf })?;
                    }
                    done += n;
                    run.used(n);
                    if done < len {
                        run.check_cancelled();
                        if run.is_stopped() {
                            return Err(Error::Cancelled.into());
                        }
                    }
                }
                total += len;
            }
        }
    }
    Ok(total)
}

/// Fill an empty file of the host.
pub(super) fn write_to(
    run: &Run<'_>,
    reader: &FileReader<'_>,
    fd: BorrowedFd<'_>,
    buf: &mut Vec<u8>,
) -> Result<(), CopyError> {
    let mut end = 0;
    let bytes = for_each_piece(run, reader, buf, |piece| {
        end = piece.end();
        let done = share(run, fd, piece);
        let rest = piece.bytes.get(done as usize..).unwrap_or_default();
        write_all(fd, piece.offset + done, rest).map_err(|e| CopyError::Host("write", e))
    })?;
    if end != reader.size() {
        rustix::fs::ftruncate(fd, reader.size()).map_err(|e| CopyError::Host("set the size of", e))?;
    }
    run.count_bytes(bytes);
    Ok(())
}

/// Let the host share a large piece between the image and the new file, where its filesystem does that; returns how many
/// bytes from the start of the piece are done.
fn share(run: &Run<'_>, fd: BorrowedFd<'_>, piece: Piece<'_>) -> u64 {
    let (Some(at), true) = (piece.at, piece.bytes.len() as u64 >= MIN_SHARED && run.shares()) else { return 0 };
    let Some((image, base)) = run.volume.device().host_file() else { return 0 };
    let (mut from, mut to, len) = (base + at, piece.offset, piece.bytes.len() as u64);
    if !from.is_multiple_of(SHARED_ALIGN) || !to.is_multiple_of(SHARED_ALIGN) {
        return 0;
    }
    while to < piece.end() {
        let left = (len - (to - piece.offset)) as usize;
        match rustix::fs::copy_file_range(image, Some(&mut from), fd, Some(&mut to), left) {
            Ok(n) if n > 0 => {}
            Err(Errno::INTR) => {}
            _ => {
                run.stop_sharing();
                break;
            }
        }
    }
    to - piece.offset
}

/// Write a file's content, holes as zeros, to something that takes bytes in order.
pub(super) fn stream_to(
    run: &Run<'_>,
    reader: &FileReader<'_>,
    mut out: impl Write,
    buf: &mut Vec<u8>,
) -> Result<(), CopyError> {
    let mut at = 0;
    let host = |e: std::io::Error| CopyError::Host("write", Errno::from_io_error(&e).unwrap_or(Errno::IO));
    let bytes = for_each_piece(run, reader, buf, |piece| {
        write_zeros(&mut out, piece.offset - at).and_then(|()| out.write_all(piece.bytes)).map_err(host)?;
        at = piece.end();
        Ok::<(), CopyError>(())
    })?;
    write_zeros(&mut out, reader.size().saturating_sub(at)).map_err(host)?;
    run.count_bytes(bytes);
    Ok(())
}

/// Write `n` zero bytes.
pub(super) fn write_zeros(out: &mut impl Write, mut n: u64) -> std::io::Result<()> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    while n > 0 {
        let step = n.min(ZEROS.len() as u64);
        out.write_all(ZEROS.get(..step as usize).unwrap_or_default())?;
        n -= step;
    }
    Ok(())
}

fn write_all(fd: BorrowedFd<'_>, mut offset: u64, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                bytes = bytes.get(n..).unwrap_or_default();
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
