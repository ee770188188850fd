//! The error of the library.
//!
//! Four kinds: the host failed ([`Error::Io`], [`Error::Host`]), the image is damaged ([`Error::Corrupt`]: what
//! is wrong and where), the image uses something this library does not know ([`Error::Unsupported`]), and
//! mistakes of the caller (everything else). There are no free-form strings as payload: a program can match on
//! every case, and the text is made when it is shown.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::units::{Fsblk, Group, Ino, Lblk};

/// `Result` with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading, writing or flushing the device failed.
    #[error("{op} of {len} bytes at byte {offset}: {source}")]
    Io {
        /// What was being done.
        op: IoOp,
        /// Byte offset on the device.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// The host's reason.
        source: io::Error,
    },
    /// A file or directory of the host could not be used.
    #[error("{path}: cannot {op}: {source}", path = path.display())]
    Host {
        /// What was being done ("open", "read", "stat").
        op: &'static str,
        /// Which file.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// A file of the host changed while it was read.
    #[error("{path}: changed while it was read", path = path.display())]
    HostChanged {
        /// Which file.
        path: PathBuf,
    },
    /// An archive cannot be read, or holds something that cannot be.
    #[error("{archive}: {at}: {flaw}", archive = archive.display(), at = entry_at(entry, *offset))]
    Archive {
        /// Which archive.
        archive: PathBuf,
        /// The entry's path as the archive has it; empty where it is not known.
        entry: Vec<u8>,
        /// Byte of the (unpacked) archive where the entry's header begins.
        offset: u64,
        /// What is wrong.
        flaw: EntryFlaw,
    },
    /// The image is damaged.
    #[error("{place}: {what}")]
    Corrupt {
        /// What is wrong.
        what: Flaw,
        /// Where.
        place: Place,
    },
    /// The image uses features that this operation does not support.
    #[error("unsupported feature{}: {}", if features.len() == 1 { "" } else { "s" }, list(features))]
    Unsupported {
        /// The features in the way.
        features: Vec<FeatureBit>,
    },
    /// The device is too small for the filesystem it holds.
    #[error("the device holds {have} bytes, the filesystem needs {need}: the image is truncated")]
    DeviceTooSmall {
        /// Bytes needed.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// There is no ext2, ext3 or ext4 filesystem here.
    #[error("no ext2/ext3/ext4 superblock at byte {offset} (magic {found:#06x}, expected 0xef53)")]
    NotExt4 {
        /// Byte offset of the superblock looked for.
        offset: u64,
        /// The magic found.
        found: u16,
    },
    /// The journal holds transactions that were not written back.
    #[error("the journal needs recovery: mount the image once, or run a checker that replays it")]
    NeedsRecovery,
    /// Another process has the image open.
    #[error("{path}: in use by another process", path = path.display())]
    Busy {
        /// Which image.
        path: PathBuf,
    },
    /// The image is not as it was left.
    #[error("block {block} is not as it was left: the image was changed by somebody else since")]
    ChangedElsewhere {
        /// A block that differs.
        block: Fsblk,
    },
    /// A write to something opened read-only.
    #[error("read-only")]
    ReadOnly,
    /// An earlier write failed; nothing more is written until the device is opened again.
    #[error("an earlier write failed; the device takes no more writes until it is opened again")]
    Poisoned,
    /// A path or name does not exist in the image.
    #[error("{path}: no such file or directory", path = lossy(path))]
    NotFound {
        /// The path in the image, as bytes.
        path: Vec<u8>,
    },
    /// A path component is not a directory.
    #[error("{path}: not a directory", path = lossy(path))]
    NotDirectory {
        /// The path in the image, as bytes.
        path: Vec<u8>,
    },
    /// The operation needs something other than a directory.
    #[error("{path}: is a directory", path = lossy(path))]
    IsDirectory {
        /// The path in the image, as bytes.
        path: Vec<u8>,
    },
    /// The name exists already.
    #[error("{path}: exists already", path = lossy(path))]
    Exists {
        /// The path in the image, as bytes.
        path: Vec<u8>,
    },
    /// A directory that should be empty is not.
    #[error("{path}: directory not empty", path = lossy(path))]
    NotEmpty {
        /// The path in the image, as bytes.
        path: Vec<u8>,
    },
    /// A directory cannot be moved below itself.
    #[error("{path}: cannot be moved into itself", path = lossy(path))]
    IntoItself {
        /// The path in the image, as bytes.
        path: Vec<u8>,
    },
    /// A path's operation failed for a reason that does not name it.
    #[error("{path}: {source}", path = lossy(path))]
    OnPath {
        /// The path in the image, as bytes.
        path: Vec<u8>,
        /// Why.
        source: Box<Error>,
    },
    /// A line of a script failed.
    #[error("line {line}: {source}")]
    Script {
        /// Number of the line, from 1.
        line: u64,
        /// Why.
        source: Box<Error>,
    },
    /// One transaction cannot hold all of a change.
    #[error("the change needs at least {need} blocks of journal in one transaction, the journal has {have}")]
    TransactionTooLarge {
        /// Blocks of log needed for what was looked at.
        need: u64,
        /// Blocks of log that there are.
        have: u64,
    },
    /// Multiple-mount protection says that somebody else has the filesystem.
    #[error("in use by {node} (multiple-mount protection)")]
    MmpInUse {
        /// The other host, as it calls itself; or what it does.
        node: String,
    },
    /// Too many symbolic links on the way.
    #[error("{path}: too many levels of symbolic links", path = lossy(path))]
    SymlinkLoop {
        /// The path in the image, as bytes.
        path: Vec<u8>,
    },
    /// An inode number that the filesystem does not have.
    #[error("inode {ino}: the filesystem has inodes 1 to {max}")]
    NoSuchInode {
        /// The number asked for.
        ino: Ino,
        /// The highest there is.
        max: u32,
    },
    /// Not enough room.
    #[error("no space: {need} {what} needed, {have} free")]
    NoSpace {
        /// What ran out ("blocks", "inodes").
        what: &'static str,
        /// How many are needed.
        need: u64,
        /// How many there are.
        have: u64,
    },
    /// A parameter is outside what it may be.
    #[error("{name}: {value} is not valid ({allowed})")]
    InvalidArgument {
        /// The parameter.
        name: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        allowed: &'static str,
    },
    /// Two parameters exclude each other, or one needs another.
    #[error("{a} {relation} {b}")]
    Conflict {
        /// One parameter.
        a: &'static str,
        /// How they clash ("cannot be used with", "needs").
        relation: &'static str,
        /// The other parameter.
        b: &'static str,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

fn lossy(path: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(path)
}

fn entry_at(entry: &[u8], offset: u64) -> String {
    if entry.is_empty() { format!("byte {offset}") } else { format!("entry {} at byte {offset}", lossy(entry)) }
}

fn list(features: &[FeatureBit]) -> String {
    features.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Error {
    /// A [`Error::Host`] about `path`.
    pub fn host(op: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self::Host { op, path: path.as_ref().to_path_buf(), source: source.into() }
    }

    /// A [`Error::Corrupt`].
    pub const fn corrupt(what: Flaw, place: Place) -> Self {
        Self::Corrupt { what, place }
    }

    /// The name of the case, stable, for programs that read reports.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Host { .. } => "host",
            Self::HostChanged { .. } => "host_changed",
            Self::Archive { .. } => "archive",
            Self::Corrupt { .. } => "corrupt",
            Self::Unsupported { .. } => "unsupported",
            Self::DeviceTooSmall { .. } => "device_too_small",
            Self::NotExt4 { .. } => "not_ext4",
            Self::NeedsRecovery => "needs_recovery",
            Self::Busy { .. } => "busy",
            Self::ChangedElsewhere { .. } => "changed_elsewhere",
            Self::ReadOnly => "read_only",
            Self::Poisoned => "poisoned",
            Self::NotFound { .. } => "not_found",
            Self::NotDirectory { .. } => "not_directory",
            Self::IsDirectory { .. } => "is_directory",
            Self::Exists { .. } => "exists",
            Self::NotEmpty { .. } => "not_empty",
            Self::IntoItself { .. } => "into_itself",
            Self::OnPath { source, .. } | Self::Script { source, .. } => source.kind(),
            Self::TransactionTooLarge { .. } => "transaction_too_large",
            Self::MmpInUse { .. } => "mmp_in_use",
            Self::SymlinkLoop { .. } => "symlink_loop",
            Self::NoSuchInode { .. } => "no_such_inode",
            Self::NoSpace { .. } => "no_space",
            Self::InvalidArgument { .. } => "invalid_argument",
            Self::Conflict { .. } => "conflict",
            Self::Cancelled => "cancelled",
        }
    }

    /// The same error with its place made more exact: empty parts of the place are filled from `outer`.
    #[must_use]
    pub fn at(self, outer: Place) -> Self {
        match self {
            Self::Corrupt { what, place } => Self::Corrupt { what, place: place.or(outer) },
            other => other,
        }
    }

    /// The same error, about `path` of the image: a path that it names already is replaced, else the path is added.
    #[must_use]
    pub fn about(self, path: &[u8]) -> Self {
        let path = path.to_vec();
        match self {
            Self::NotFound { .. } => Self::NotFound { path },
            Self::NotDirectory { .. } => Self::NotDirectory { path },
            Self::IsDirectory { .. } => Self::IsDirectory { path },
            Self::Exists { .. } => Self::Exists { path },
            Self::NotEmpty { .. } => Self::NotEmpty { path },
            Self::IntoItself { .. } => Self::IntoItself { path },
            Self::SymlinkLoop { .. } => Self::SymlinkLoop { path },
            e @ (Self::NoSpace { .. }
            | Self::Corrupt { .. }
            | Self::InvalidArgument { .. }
            | Self::Unsupported { .. }) => Self::OnPath { path, source: Box::new(e) },
            other => other,
        }
    }

    /// The error without the path or line that was added to it.
    pub fn bare(&self) -> &Self {
        match self {
            Self::OnPath { source, .. } | Self::Script { source, .. } => source.bare(),
            other => other,
        }
    }

    /// Whether the image is damaged (as opposed to: the host failed, or the caller erred).
    pub fn is_corruption(&self) -> bool {
        matches!(self.bare(), Self::Corrupt { .. } | Self::NotExt4 { .. } | Self::DeviceTooSmall { .. })
    }
}

/// What is wrong with an entry of an archive or of a list of files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryFlaw {
    /// No archive at all.
    #[error("this is not a tar archive")]
    NotArchive,
    /// The archive ends inside the entry.
    #[error("the archive ends here, too early")]
    Truncated,
    /// The header's checksum is wrong.
    #[error("the header's checksum does not match")]
    Checksum,
    /// A number of the header or of a record makes no sense.
    #[error("{field} is not a number in range")]
    Number {
        /// Which one.
        field: &'static str,
    },
    /// A record of a pax header is malformed.
    #[error("malformed extended header")]
    Record,
    /// Something is longer than any sane archive has it.
    #[error("{what} of {len} bytes is too long")]
    TooLong {
        /// What.
        what: &'static str,
        /// Its length in bytes.
        len: u64,
    },
    /// The map of a sparse file is malformed.
    #[error("the map of the sparse file makes no sense")]
    SparseMap,
    /// A type of entry that is not known.
    #[error("entries of type {} are not known", char::from(*code).escape_default())]
    Type {
        /// The type's letter.
        code: u8,
    },
    /// A part of an archive of several volumes.
    #[error("archives of several volumes are not supported")]
    MultiVolume,
    /// The path leads out of the tree.
    #[error("the path leads out of the tree")]
    Escapes,
    /// A name that no directory can hold.
    #[error("a name of {len} bytes is too long")]
    NameTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A name or target with a NUL byte.
    #[error("a path holds a NUL byte")]
    NulInName,
    /// Too many directories on the way.
    #[error("too many directories on the way")]
    TooDeep,
    /// Too many symbolic links on the way.
    #[error("too many levels of symbolic links")]
    SymlinkLoop,
    /// A file stands where a directory is needed.
    #[error("a file is in the way: not a directory")]
    NotDirectory,
    /// The root is a directory, and stays one.
    #[error("the root must be a directory")]
    IsRoot,
    /// A symbolic link without a target.
    #[error("the target of the symbolic link is empty")]
    NoTarget,
    /// A hard link to something that is not there.
    #[error("hard link to {}, which is not there", lossy(target))]
    LinkTarget {
        /// What it should link to.
        target: Vec<u8>,
    },
    /// A hard link to a directory.
    #[error("hard link to {}, which is a directory", lossy(target))]
    LinkToDirectory {
        /// What it should link to.
        target: Vec<u8>,
    },
    /// Device numbers that an inode cannot hold.
    #[error("device {major}:{minor} is out of range")]
    Device {
        /// Major number.
        major: u64,
        /// Minor number.
        minor: u64,
    },
    /// An access control list that cannot be read.
    #[error("the access control list cannot be read: {}", lossy(text))]
    Acl {
        /// The list, as the archive has it.
        text: Vec<u8>,
    },
    /// More files than there can be inodes.
    #[error("more than 2^32 files")]
    TooMany,
}

/// What was being done to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoOp {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Making writes durable.
    Flush,
    /// Dropping or zeroing a range.
    Discard,
}

impl fmt::Display for IoOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
        })
    }
}

/// An on-disk structure, for messages and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Structure {
    /// Superblock.
    Superblock,
    /// Group descriptor.
    GroupDesc,
    /// Block bitmap.
    BlockBitmap,
    /// Inode bitmap.
    InodeBitmap,
    /// Inode.
    Inode,
    /// Extent tree node.
    ExtentNode,
    /// Indirect block.
    IndirectBlock,
    /// Directory block.
    DirBlock,
    /// Hashed-directory node.
    HtreeNode,
    /// Inline data.
    InlineData,
    /// Extended attribute in the inode body.
    InodeXattr,
    /// Extended attribute block.
    XattrBlock,
    /// Extended attribute value inode.
    EaInode,
    /// POSIX ACL.
    Acl,
    /// Symbolic link.
    Symlink,
    /// Multiple-mount protection block.
    Mmp,
    /// Orphan file block.
    OrphanFile,
    /// Orphan list.
    OrphanList,
    /// Quota file.
    Quota,
    /// Journal superblock.
    JournalSuperblock,
    /// Journal block.
    JournalBlock,
    /// Fast-commit block.
    FastCommit,
    /// fs-verity descriptor.
    Verity,
    /// Resize inode.
    ResizeInode,
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Superblock => "superblock",
            Self::GroupDesc => "group descriptor",
            Self::BlockBitmap => "block bitmap",
            Self::InodeBitmap => "inode bitmap",
            Self::Inode => "inode",
            Self::ExtentNode => "extent tree node",
            Self::IndirectBlock => "indirect block",
            Self::DirBlock => "directory block",
            Self::HtreeNode => "directory index node",
            Self::InlineData => "inline data",
            Self::InodeXattr => "extended attributes in the inode",
            Self::XattrBlock => "extended attribute block",
            Self::EaInode => "extended attribute inode",
            Self::Acl => "ACL",
            Self::Symlink => "symbolic link",
            Self::Mmp => "MMP block",
            Self::OrphanFile => "orphan file block",
            Self::OrphanList => "orphan list",
            Self::Quota => "quota file",
            Self::JournalSuperblock => "journal superblock",
            Self::JournalBlock => "journal block",
            Self::FastCommit => "fast-commit block",
            Self::Verity => "verity descriptor",
            Self::ResizeInode => "resize inode",
        })
    }
}

/// What is wrong with a structure.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flaw {
    /// The magic number is wrong.
    Magic {
        /// Which structure.
        of: Structure,
        /// What was found.
        found: u32,
    },
    /// The stored checksum is not that of the bytes.
    Checksum {
        /// Which structure.
        of: Structure,
        /// What is stored.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A field's value is impossible.
    Field {
        /// Which structure.
        of: Structure,
        /// The field, by its on-disk name without the prefix.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The structure ends before it should.
    Short {
        /// Which structure.
        of: Structure,
        /// Bytes needed.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// A block number outside the filesystem.
    BlockOutOfRange {
        /// Which structure holds it.
        of: Structure,
        /// The block.
        block: Fsblk,
    },
    /// A tree is deeper than it may be, or refers to itself.
    TooDeep {
        /// Which structure.
        of: Structure,
        /// How deep.
        depth: u32,
    },
    /// Entries are not in order, or overlap.
    Order {
        /// Which structure.
        of: Structure,
    },
    /// The parts of a structure contradict each other.
    Inconsistent {
        /// Which structure.
        of: Structure,
        /// What contradicts what.
        detail: &'static str,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic { of, found } => write!(f, "{of} has a bad magic number ({found:#x})"),
            Self::Checksum { of, stored, computed } => {
                write!(f, "{of} checksum {stored:#x} does not match its content ({computed:#x})")
            }
            Self::Field { of, field, value } => write!(f, "{of} has an impossible {field} ({value})"),
            Self::Short { of, need, have } => write!(f, "{of} is cut short ({have} of {need} bytes)"),
            Self::BlockOutOfRange { of, block } => write!(f, "{of} refers to block {block}, outside the filesystem"),
            Self::TooDeep { of, depth } => write!(f, "{of} is nested too deeply ({depth})"),
            Self::Order { of } => write!(f, "{of} has entries out of order"),
            Self::Inconsistent { of, detail } => write!(f, "{of} is inconsistent: {detail}"),
        }
    }
}

/// Where something is in the image. Parts that are not known stay empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Place {
    /// Inode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ino: Option<Ino>,
    /// Block group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    /// Logical block of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lblk: Option<Lblk>,
    /// Block of the filesystem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<Fsblk>,
    /// Byte offset inside the block, inode or structure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl Place {
    /// The filesystem as a whole.
    pub const FS: Self = Self { ino: None, group: None, lblk: None, block: None, offset: None };

    /// In an inode.
    pub const fn inode(ino: Ino) -> Self {
        Self { ino: Some(ino), ..Self::FS }
    }

    /// In a block group.
    pub const fn group(group: Group) -> Self {
        Self { group: Some(group), ..Self::FS }
    }

    /// In a block.
    pub const fn block(block: Fsblk) -> Self {
        Self { block: Some(block), ..Self::FS }
    }

    /// The same place, with the byte offset in it.
    #[must_use]
    pub const fn offset(self, offset: u64) -> Self {
        Self { offset: Some(offset), ..self }
    }

    /// The same place, in a block of the filesystem.
    #[must_use]
    pub const fn in_block(self, block: Fsblk) -> Self {
        Self { block: Some(block), ..self }
    }

    /// The same place, in a logical block of a file.
    #[must_use]
    pub const fn in_lblk(self, lblk: Lblk) -> Self {
        Self { lblk: Some(lblk), ..self }
    }

    /// The same place, in an inode.
    #[must_use]
    pub const fn in_inode(self, ino: Ino) -> Self {
        Self { ino: Some(ino), ..self }
    }

    /// This place, with what it leaves open taken from `outer`.
    #[must_use]
    pub fn or(self, outer: Self) -> Self {
        Self {
            ino: self.ino.or(outer.ino),
            group: self.group.or(outer.group),
            lblk: self.lblk.or(outer.lblk),
            block: self.block.or(outer.block),
            offset: self.offset.or(outer.offset),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: [(&str, Option<u64>); 5] = [
            ("group", self.group.map(|v| u64::from(v.0))),
            ("inode", self.ino.map(|v| u64::from(v.0))),
            ("logical block", self.lblk.map(|v| u64::from(v.0))),
            ("block", self.block.map(|v| v.0)),
            ("byte", self.offset),
        ];
        let mut first = true;
        for (name, value) in parts {
            if let Some(v) = value {
                if !first {
                    f.write_str(", ")?;
                }
                first = false;
                write!(f, "{name} {v}")?;
            }
        }
        if first {
            f.write_str("filesystem")?;
        }
        Ok(())
    }
}

/// Which of the superblock's three feature words a bit belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureWord {
    /// `feature_compat`: may be ignored.
    Compat,
    /// `feature_incompat`: must be understood to read.
    Incompat,
    /// `feature_ro_compat`: must be understood to write.
    RoCompat,
}

/// One feature bit, with its name where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FeatureBit {
    /// Which word.
    pub word: FeatureWord,
    /// The bit's number, 0 to 31.
    pub bit: u8,
    /// The name mke2fs uses, where the bit is known.
    pub name: Option<&'static str>,
}

impl fmt::Display for FeatureBit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => f.write_str(name),
            None => write!(
                f,
                "FEATURE_{}{}",
                match self.word {
                    FeatureWord::Compat => 'C',
                    FeatureWord::Incompat => 'I',
                    FeatureWord::RoCompat => 'R',
                },
                self.bit
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_from_the_outside_in() {
        let p = Place::block(Fsblk(77)).in_inode(Ino(12)).offset(24);
        assert_eq!(p.to_string(), "inode 12, block 77, byte 24");
        assert_eq!(Place::FS.to_string(), "filesystem");
    }

    #[test]
    fn the_inner_place_wins() {
        let e = Error::corrupt(Flaw::Order { of: Structure::ExtentNode }, Place::block(Fsblk(5)))
            .at(Place::inode(Ino(9)).in_block(Fsblk(6)));
        assert_eq!(e.to_string(), "inode 9, block 5: extent tree node has entries out of order");
    }

    #[test]
    fn unknown_feature_bits_have_a_name_too() {
        let e = Error::Unsupported { features: vec![FeatureBit { word: FeatureWord::Incompat, bit: 31, name: None }] };
        assert_eq!(e.to_string(), "unsupported feature: FEATURE_I31");
    }
}
