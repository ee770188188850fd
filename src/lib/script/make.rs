//! The filesystem of a script, made in memory with the arguments that mke2fs would get.

use serde_json::Value;

use super::parse::Head;
use crate::device::MemoryDevice;
use crate::env::Timestamp;
use crate::error::{Error, Result};
use crate::mkfs::{Draft, FeatureEdit, FsType, Layout, Options, Size, parse, parse_units};

/// Every filesystem of a script has the same UUID and hash seed.
const UUID: [u8; 16] = *b"ext4kit-scripts.";

/// Largest image that is made in memory, bytes.
const MAX_IMAGE: u64 = 4 << 30;

/// Make the filesystem.
///
/// # Errors
/// [`Error::InvalidArgument`] for arguments that are not known, and those of making a filesystem.
pub fn make(head: &Head, now: Timestamp) -> Result<MemoryDevice> {
    let mut options = Options::new(Size::Units(1), UUID, UUID, now);
    // The recordings' filesystems were made by a mke2fs whose defaults have no orphan file.
    options.features.extend(FeatureEdit::parse_list("^orphan_file")?);
    let words: Vec<String> = head.mkfs.iter().map(word).collect();
    let mut rest = words.iter();
    while let Some(name) = rest.next() {
        let value = rest.next().ok_or_else(|| invalid(name, "an option with its value"))?;
        match name.as_str() {
            "-b" => options.block_size = Some(number(value)?),
            "-C" => options.cluster_size = Some(number(value)?),
            "-I" => options.inode_size = Some(number(value)?),
            "-i" => options.inode_ratio = Some(number(value)?),
            "-N" => options.inodes = Some(number(value)?),
            "-g" => options.blocks_per_group = Some(number(value)?),
            "-G" => options.flex_bg_size = Some(number(value)?),
            "-m" => options.reserved_percent = number(value)?,
            "-t" => options.fs_type = FsType::parse(value)?,
            "-O" => options.features.extend(FeatureEdit::parse_list(value)?),
            "-J" => parse::journal(&mut options, &mut parse::Extra::default(), value)?,
            "-E" => parse::extended(&mut options, &mut parse::Extra::default(), value)?,
            _ => return Err(invalid(name, "-b, -C, -E, -G, -I, -i, -J, -m, -N, -O, -g or -t")),
        }
    }
    let unit = u64::from(options.block_size.unwrap_or(1024));
    options.size = Size::Units(parse_units(&head.size, unit)?);
    let bytes = parse_units(&head.size, unit)? * unit;
    if bytes > MAX_IMAGE {
        return Err(Error::InvalidArgument { name: "size", value: head.size.clone(), allowed: "at most 4G" });
    }
    let device = MemoryDevice::new(bytes as usize);
    Draft::new(Layout::new(&options)?)?.write(&device, true)?;
    Ok(device)
}

fn word(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| invalid(text, "a number"))
}

fn invalid(value: &str, allowed: &'static str) -> Error {
    Error::InvalidArgument { name: "mkfs argument", value: value.to_owned(), allowed }
}
