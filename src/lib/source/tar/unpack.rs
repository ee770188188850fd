//! Compressed streams, told apart by their first bytes: gzip, zstd, xz, each of one or several parts in a row.
//!
//! Memory is capped: zstd windows at 128 MiB (the format's own default), xz dictionaries at 1 GiB.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::BlockDecodingStrategy;
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

/// Bytes of compressed data read at once.
const BUFFER: usize = 256 * 1024;
/// Memory for unpacking xz, KiB.
const XZ_MEMORY: u32 = 1 << 20;
/// Decoded zstd data kept before it is handed out, bytes.
const ZSTD_STEP: usize = 1 << 20;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Zstd,
    Xz,
}

impl Packing {
    /// Bytes needed to tell.
    pub(super) const MAGIC: usize = 6;

    /// By the first bytes.
    pub(super) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Whatever `stream` is, unpacked.
pub(super) fn unpack(stream: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let mut start = Vec::with_capacity(Packing::MAGIC);
    let mut stream = stream;
    stream.by_ref().take(Packing::MAGIC as u64).read_to_end(&mut start)?;
    let packing = Packing::of(&start);
    let whole = BufReader::with_capacity(BUFFER, io::Cursor::new(start).chain(stream));
    Ok(match packing {
        Packing::None => Box::new(whole),
        Packing::Gzip => Box::new(MultiGzDecoder::new(whole)),
        Packing::Xz => Box::new(XzReader::new_mem_limit(whole, true, XZ_MEMORY)),
        Packing::Zstd => Box::new(Zstd { input: whole, decoder: FrameDecoder::new(), open: false }),
    })
}

/// Zstd frames in a row; skippable frames are passed over, checksums are held against the data.
struct Zstd<R> {
    input: R,
    decoder: FrameDecoder,
    /// A frame is being decoded.
    open: bool,
}

impl<R: BufRead> Zstd<R> {
    /// Begin the next frame; `false` at the end of the input.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.input.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.init(&mut self.input) {
                Ok(()) => {
                    self.open = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut self.input.by_ref().take(length.into()), &mut io::sink())?;
                    if skipped != u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(e) => return Err(damaged(e)),
            }
        }
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.open = false;
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(stored), Some(computed)) if stored != computed => Err(damaged("the checksum does not match")),
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.open && !self.next_frame()? {
                return Ok(0);
            }
            if self.decoder.can_collect() != 0 {
                let n = self.decoder.read(buf)?;
                if n != 0 || buf.is_empty() {
                    return Ok(n);
                }
            }
            if self.decoder.is_finished() {
                self.end_frame()?;
            } else {
                let step = BlockDecodingStrategy::UptoBytes(ZSTD_STEP);
                self.decoder.decode_blocks(&mut self.input, step).map_err(damaged)?;
            }
        }
    }
}

fn damaged(reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn unpacked(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        unpack(Box::new(io::Cursor::new(bytes)))?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn sample() -> Vec<u8> {
        (0..300_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect()
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(data).unwrap();
        e.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn parts_in_a_row_are_one_stream() {
        let (data, twice) = (sample(), [sample(), sample()].concat());
        assert_eq!(unpacked(data.clone()).unwrap(), data);
        assert_eq!(unpacked(Vec::new()).unwrap(), b"");
        assert_eq!(unpacked(gzip(&data).repeat(2)).unwrap(), twice);
        assert_eq!(unpacked(zstd(&data).repeat(2)).unwrap(), twice);
        let skippable = [&[0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        assert_eq!(unpacked([skippable.clone(), zstd(&data), skippable.clone()].concat()).unwrap(), data);
        assert!(unpacked(skippable[..9].to_vec()).is_err());
    }

    #[test]
    fn damage_is_an_error() {
        for packed in [gzip(&sample()), zstd(&sample())] {
            for cut in [7, packed.len() / 2, packed.len() - 1] {
                assert!(unpacked(packed[..cut].to_vec()).is_err(), "{cut}");
            }
            let mut changed = packed.clone();
            let end = changed.len() - 6;
            changed[end] ^= 0x55;
            assert!(unpacked(changed).is_err());
        }
    }
}
