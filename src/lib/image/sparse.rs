//! Android's sparse format, version 1.0 (`libsparse`): a header, then chunks that are written, filled with a word, or left alone.
//! Little-endian; chunks count blocks.
//!
//! Blocks in use that are holes are filled with zeros, because what they are written to may hold something else; blocks that
//! nothing uses are left alone.

use std::io::Write;
use std::ops::Range;

use super::{copy, data_units, put};
use crate::device::BlockDevice;
use crate::error::{Error, Result};

const MAGIC: u32 = 0xed26_ff3a;
const HEADER: u16 = 28;
const CHUNK_HEADER: u16 = 12;
const RAW: u16 = 0xcac1;
const FILL: u16 = 0xcac2;
const DONT_CARE: u16 = 0xcac3;
/// Largest block.
const BLOCK: u64 = 4096;
/// Most bytes of a raw chunk: readers take one into memory.
const RAW_MAX: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Raw,
    Zeros,
    Free,
}

/// A row of blocks that are treated alike.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chunk {
    kind: Kind,
    blocks: Range<u64>,
}

/// Write what is on the device in the sparse format. `in_use` are the bytes that must read as they do on the device, ascending; holes
/// elsewhere may become anything.
///
/// # Errors
/// [`Error::InvalidArgument`] where the device is too long for the format; what reading and writing report.
pub fn write_sparse(dev: &dyn BlockDevice, in_use: &[Range<u64>], out: &mut dyn Write) -> Result<()> {
    // The largest that the length is a multiple of; a word at least.
    let mut block = BLOCK;
    while block > 4 && !dev.len().is_multiple_of(block) {
        block /= 2;
    }
    let total = dev.len().div_ceil(block);
    let chunks = chunks(&data_units(dev, block)?, in_use, total, block);
    let (Ok(blocks), Ok(count)) = (u32::try_from(total), u32::try_from(chunks.len())) else {
        let allowed = "below 2^32 blocks for the sparse format";
        return Err(Error::InvalidArgument { name: "size", value: dev.len().to_string(), allowed });
    };
    let mut header = Vec::with_capacity(usize::from(HEADER));
    header.extend_from_slice(&MAGIC.to_le_bytes());
    for half in [1u16, 0, HEADER, CHUNK_HEADER] {
        header.extend_from_slice(&half.to_le_bytes());
    }
    for word in [block as u32, blocks, count, 0] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    put(out, 0, &header)?;
    for Chunk { kind, blocks } in chunks {
        let count = blocks.end - blocks.start;
        let (code, more) = match kind {
            Kind::Raw => (RAW, count * block),
            Kind::Zeros => (FILL, 4),
            Kind::Free => (DONT_CARE, 0),
        };
        let mut head = [code.to_le_bytes(), [0; 2]].concat();
        head.extend_from_slice(&(count as u32).to_le_bytes());
        head.extend_from_slice(&((u64::from(CHUNK_HEADER) + more) as u32).to_le_bytes());
        put(out, blocks.start * block, &head)?;
        match kind {
            Kind::Raw => copy(dev, blocks.start * block..blocks.end * block, out)?,
            Kind::Zeros => put(out, blocks.start * block, &[0; 4])?,
            Kind::Free => {}
        }
    }
    Ok(())
}

/// All blocks in order, as chunks.
fn chunks(data: &[Range<u64>], in_use: &[Range<u64>], total: u64, block: u64) -> Vec<Chunk> {
    let mut out = Vec::new();
    let mut at = 0;
    for d in data.iter().cloned().chain(std::iter::once(total..total)) {
        holes(&mut out, at..d.start.min(total), in_use, block);
        let end = d.end.min(total);
        at = d.start.min(end);
        while at < end {
            let next = (at + RAW_MAX / block).min(end);
            out.push(Chunk { kind: Kind::Raw, blocks: at..next });
            at = next;
        }
    }
    out
}

/// A hole: zeros where it is in use.
fn holes(out: &mut Vec<Chunk>, hole: Range<u64>, in_use: &[Range<u64>], block: u64) {
    let mut push = |kind, blocks: Range<u64>| {
        if !blocks.is_empty() {
            out.push(Chunk { kind, blocks });
        }
    };
    let mut at = hole.start;
    let first = in_use.partition_point(|r| r.end.div_ceil(block) <= at);
    for used in in_use.get(first..).unwrap_or_default() {
        let (start, end) = ((used.start / block).max(at), used.end.div_ceil(block).min(hole.end));
        if start >= hole.end {
            break;
        }
        push(Kind::Free, at..start);
        push(Kind::Zeros, start..end);
        at = end.max(at);
    }
    push(Kind::Free, at..hole.end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_in_use_are_zeros_and_others_are_left_alone() {
        let chunk = |kind, blocks| Chunk { kind, blocks };
        let in_use = [0..8192, 5 * 4096..5 * 4096 + 1, 8 * 4096..20 * 4096];
        let got = chunks(&[1..2, 6..7], &in_use, 12, 4096);
        let want = [
            chunk(Kind::Zeros, 0..1),
            chunk(Kind::Raw, 1..2),
            chunk(Kind::Free, 2..5),
            chunk(Kind::Zeros, 5..6),
            chunk(Kind::Raw, 6..7),
            chunk(Kind::Free, 7..8),
            chunk(Kind::Zeros, 8..12),
        ];
        assert_eq!(got, want);
        let long = chunks(std::slice::from_ref(&(0..40_000)), &[], 40_000, 4096);
        assert_eq!(long.iter().map(|c| c.blocks.end - c.blocks.start).collect::<Vec<_>>(), [16384, 16384, 7232]);
    }
}
