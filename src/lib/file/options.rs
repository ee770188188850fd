//! How a filesystem is mounted, as far as the write path cares. Names and defaults are the kernel's.

use crate::error::{Error, Result};

/// How data and the commits that show it are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DataMode {
    /// New blocks are on the device before the commit that maps them.
    #[default]
    Ordered,
    /// Nothing is ordered.
    Writeback,
    /// Data goes through the journal.
    Journal,
}

/// Which of the two buffered write paths is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathChoice {
    /// The recorded kernel's: buffer heads, unless `buffered_iomap` is among the mount options.
    #[default]
    Auto,
    /// Buffer heads, block by block.
    BufferHead,
    /// iomap, where the file allows it.
    Iomap,
}

/// Who commits the running transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Commits {
    /// The write path, where it must: when the transaction is full, and before what was freed can be used again.
    #[default]
    Own,
    /// Only the owner of the journal, for whom all that happens is one transaction. What does not fit it fails.
    Held,
}

/// Mount options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Blocks are allocated at writeback.
    pub delalloc: bool,
    /// Writeback allocates unwritten extents and converts them when the data is on the device.
    pub dioread_nolock: bool,
    /// Data and commits.
    pub data: DataMode,
    /// Write back at close after a truncate to nothing, and at rename over a file.
    pub auto_da_alloc: bool,
    /// Which buffered write path.
    pub path: PathChoice,
    /// Folios of more than one page, where the path and the data mode allow them.
    pub large_folios: bool,
    /// Write back a file, and drop its pages, when so many bytes of it have been written; 0: only when asked to.
    #[doc(alias = "dirty_background_bytes", alias = "RWF_DONTCACHE")]
    pub dirty_bytes: u64,
    /// Who commits.
    pub commits: Commits,
    /// CPUs: free-space counters are approximate by so many.
    pub cpus: u32,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            delalloc: true,
            dioread_nolock: true,
            data: DataMode::Ordered,
            auto_da_alloc: true,
            path: PathChoice::Auto,
            large_folios: true,
            dirty_bytes: 0,
            commits: Commits::Own,
            cpus: 2,
        }
    }
}

impl MountOptions {
    /// The options of a comma-separated list; those that have nothing to do with writing are passed over.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a name that is not known.
    pub fn parse(text: &str) -> Result<Self> {
        let mut o = Self::default();
        let mut delalloc = None;
        for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word {
                "rw" | "ro" | "noatime" | "noinit_itable" | "defaults" | "barrier" | "relatime" | "lazytime" => {}
                w if w.starts_with("commit=") || w.starts_with("errors=") => {}
                "delalloc" => delalloc = Some(true),
                "nodelalloc" => delalloc = Some(false),
                "dioread_nolock" => o.dioread_nolock = true,
                "dioread_lock" => o.dioread_nolock = false,
                "auto_da_alloc" => o.auto_da_alloc = true,
                "noauto_da_alloc" => o.auto_da_alloc = false,
                "data=ordered" => o.data = DataMode::Ordered,
                "data=writeback" => o.data = DataMode::Writeback,
                "data=journal" => o.data = DataMode::Journal,
                "buffered_iomap" => o.path = PathChoice::Iomap,
                "nobuffered_iomap" => o.path = PathChoice::BufferHead,
                _ => {
                    let allowed = "an option of mount that the write path knows";
                    return Err(Error::InvalidArgument { name: "mount option", value: word.to_owned(), allowed });
                }
            }
        }
        o.delalloc = delalloc.unwrap_or(true) && o.data != DataMode::Journal;
        Ok(o)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journalled_data_is_never_delayed() {
        let o = MountOptions::parse("rw,data=journal").unwrap();
        assert!(!o.delalloc && o.data == DataMode::Journal);
        let o = MountOptions::parse("rw,nodelalloc,dioread_lock,noatime,commit=300").unwrap();
        assert!(!o.delalloc && !o.dioread_nolock);
        assert!(MountOptions::parse("rw,nodelaloc").is_err());
    }
}
