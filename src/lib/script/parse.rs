//! A script: what filesystem to make, how to mount it, and the operations. The format is that of the oracle's scripts.
//! Offsets and lengths in bytes.

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// A script.
#[derive(Clone, Debug)]
pub struct Script {
    /// Everything but the operations.
    pub head: Head,
    /// The operations, each with its text as it was read.
    pub ops: Vec<(Op, Value)>,
    /// The head as it was read.
    pub raw: Value,
}

/// What a script says beside its operations.
#[derive(Clone, Debug, Deserialize)]
pub struct Head {
    /// Size of the image, as mke2fs takes it.
    pub size: String,
    /// Arguments of mke2fs.
    #[serde(default)]
    pub mkfs: Vec<Value>,
    /// Mount options.
    #[serde(default = "read_write")]
    pub mount: String,
    /// Show the mapping after every operation.
    #[serde(default)]
    pub fiemap: bool,
    /// Split writes at multiples of this; 0 for one call each.
    #[serde(default = "page")]
    pub write_chunk: u64,
}

fn read_write() -> String {
    "rw".to_owned()
}

const fn page() -> u64 {
    4096
}

/// What is looked for.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whence {
    /// `SEEK_DATA`.
    #[default]
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

/// An operation.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of the script's format")]
pub enum Op {
    /// Write the pattern of a seed.
    #[serde(alias = "overwrite")]
    Write {
        file: String,
        off: u64,
        len: u64,
        #[serde(default)]
        seed: u64,
    },
    /// Store the pattern through a shared mapping.
    MmapWrite {
        file: String,
        off: u64,
        len: u64,
        #[serde(default)]
        seed: u64,
    },
    /// Write the pattern around the page cache.
    DioWrite {
        file: String,
        off: u64,
        len: u64,
        #[serde(default)]
        seed: u64,
    },
    /// Read.
    Read { file: String, off: u64, len: u64 },
    /// Allocate.
    Fallocate {
        file: String,
        off: u64,
        len: u64,
        #[serde(default)]
        mode: String,
    },
    /// Make a hole.
    Punch { file: String, off: u64, len: u64 },
    /// Make zeros.
    ZeroRange {
        file: String,
        off: u64,
        len: u64,
        #[serde(default)]
        keep: bool,
    },
    /// Take a range out.
    Collapse { file: String, off: u64, len: u64 },
    /// Put a range in.
    Insert { file: String, off: u64, len: u64 },
    /// Set the size.
    Truncate { file: String, size: u64 },
    /// Write back a range; 0 for all behind `off`.
    Writeback { file: String, off: u64, len: u64 },
    /// Find data, or a hole (`whence`).
    Seek {
        file: String,
        off: u64,
        #[serde(default)]
        whence: Whence,
    },
    /// Memory is short: write what needs no mapping; 0 for all behind `off`.
    Writepage { file: String, off: u64, len: u64 },
    /// Make durable.
    Fsync { file: String },
    /// Make the data durable.
    Fdatasync { file: String },
    /// Close.
    Close { file: String },
    /// Show the mapping.
    Fiemap { file: String },
    /// Remove the name.
    Unlink {
        file: String,
        #[serde(default)]
        keep: bool,
    },
    /// Move the name.
    Rename { file: String, to: String },
    /// Write back and drop pages.
    DropCaches { file: String },
    /// Forget extent status.
    ClearEs { file: String },
    /// Make everything durable.
    Sync {},
    /// Recover what a power failure would leave now, and look at it.
    Crash {},
    /// Stop using the filesystem.
    Shutdown {
        #[serde(default)]
        mode: Option<String>,
    },
}

impl Op {
    /// The file that it names.
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::Write { file, .. }
            | Self::MmapWrite { file, .. }
            | Self::DioWrite { file, .. }
            | Self::Read { file, .. }
            | Self::Fallocate { file, .. }
            | Self::Punch { file, .. }
            | Self::ZeroRange { file, .. }
            | Self::Collapse { file, .. }
            | Self::Insert { file, .. }
            | Self::Truncate { file, .. }
            | Self::Writeback { file, .. }
            | Self::Seek { file, .. }
            | Self::Writepage { file, .. }
            | Self::Fsync { file }
            | Self::Fdatasync { file }
            | Self::Close { file }
            | Self::Fiemap { file }
            | Self::Unlink { file, .. }
            | Self::Rename { file, .. }
            | Self::DropCaches { file }
            | Self::ClearEs { file } => Some(file),
            Self::Sync {} | Self::Crash {} | Self::Shutdown { .. } => None,
        }
    }
}

impl Script {
    /// Read a script.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for text that is not a script, naming what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let mut raw: Value = serde_json::from_slice(text).map_err(|e| bad(&e))?;
        let ops = raw.get_mut("ops").map(Value::take).unwrap_or_default();
        let head = Head::deserialize(&raw).map_err(|e| bad(&e))?;
        let list = match ops {
            Value::Array(list) => list,
            _ => Vec::new(),
        };
        let ops = list.into_iter().map(|v| Ok((Op::deserialize(&v).map_err(|e| bad(&e))?, v)));
        Ok(Self { head, ops: ops.collect::<Result<_>>()?, raw })
    }
}

fn bad(e: &serde_json::Error) -> Error {
    Error::InvalidArgument { name: "script", value: e.to_string(), allowed: "a script of file operations in JSON" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_and_errors_are_named() {
        let text = br#"{"size": "64M", "mkfs": ["-b", 4096], "ops": [
            {"op": "overwrite", "file": "a", "off": 1, "len": 2, "seed": 3}, {"op": "sync"}]}"#;
        let s = Script::parse(text).unwrap();
        assert!(matches!(s.ops[0].0, Op::Write { off: 1, len: 2, seed: 3, .. }));
        assert_eq!((s.head.write_chunk, s.head.mount.as_str()), (4096, "rw"));
        assert_eq!(s.ops[0].1["op"], "overwrite");
        let e = Script::parse(br#"{"size": "1M", "ops": [{"op": "dance"}]}"#).unwrap_err();
        assert!(e.to_string().contains("dance"), "{e}");
    }
}
