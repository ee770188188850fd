//! The arguments of `e4mkfs`, in mke2fs's spelling, and the options they stand for.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Parser};
use ext4kit::cli::{Failure, Session};
use ext4kit::env::{Entropy, Timestamp};
use ext4kit::error::Error;
use ext4kit::mkfs::conf::{Conf, Profile};
use ext4kit::mkfs::parse::{self, Extra};
use ext4kit::mkfs::{FeatureEdit, FsType, Options, Size, parse_units, read_list};
use ext4kit::populate::Slack;

/// Make an ext2, ext3 or ext4 filesystem in a file or on a block device.
#[derive(Parser, Debug)]
#[command(about)]
pub(crate) struct Args {
    /// Block size in bytes; negative: at least so much
    #[arg(short = 'b', value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) block_size: Option<i64>,
    /// Cluster size in bytes, with the feature bigalloc
    #[arg(short = 'C', value_name = "BYTES")]
    pub(crate) cluster_size: Option<String>,
    /// Bytes per inode
    #[arg(short = 'i', value_name = "BYTES")]
    pub(crate) inode_ratio: Option<String>,
    /// Inode size in bytes
    #[arg(short = 'I', value_name = "BYTES")]
    pub(crate) inode_size: Option<u32>,
    /// Number of inodes
    #[arg(short = 'N', value_name = "COUNT")]
    pub(crate) inodes: Option<u64>,
    /// Percentage of blocks reserved for the super-user
    #[arg(short = 'm', value_name = "PERCENT")]
    pub(crate) reserved: Option<f64>,
    /// Label
    #[arg(short = 'L', value_name = "LABEL")]
    pub(crate) label: Option<String>,
    /// Directory last mounted on
    #[arg(short = 'M', value_name = "DIR")]
    pub(crate) last_mounted: Option<String>,
    /// UUID, or clear, random
    #[arg(short = 'U', value_name = "UUID")]
    pub(crate) uuid: Option<String>,
    /// Features to add, or with ^ to drop
    #[arg(short = 'O', value_name = "FEATURE,…", action = ArgAction::Append)]
    pub(crate) features: Vec<String>,
    /// Extended options
    #[arg(short = 'E', value_name = "OPTION,…", action = ArgAction::Append)]
    pub(crate) extended: Vec<String>,
    /// What the filesystem is for: floppy, small, big, huge, news, largefile, largefile4; several are applied in order
    #[arg(short = 'T', value_name = "USAGE,…")]
    pub(crate) usage: Option<String>,
    /// ext2, ext3 or ext4 (the default; a profile or configuration, or the name mke2fs or mkfs.TYPE that the program is called by, may
    /// say otherwise)
    #[arg(short = 't', value_name = "TYPE")]
    pub(crate) fs_type: Option<String>,
    /// Defaults that do not depend on this host: default, linux-5.10, grub2, android, ext2-boot
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) profile: String,
    /// Defaults from a file in the language of mke2fs.conf, instead of a profile. Where it names no type, the filesystem is ext2, and
    /// ext3 with -j
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    pub(crate) conf: Option<PathBuf>,
    /// With a journal
    #[arg(short = 'j')]
    pub(crate) journal: bool,
    /// Journal options: size=MiB, fast_commit_size=KiB, location=BLOCK, device=DEVICE (a journal made with -O journal_dev)
    #[arg(short = 'J', value_name = "OPTION,…", action = ArgAction::Append)]
    pub(crate) journal_options: Vec<String>,
    /// Blocks per group
    #[arg(short = 'g', value_name = "BLOCKS")]
    pub(crate) per_group: Option<u32>,
    /// Groups per flexible group
    #[arg(short = 'G', value_name = "GROUPS")]
    pub(crate) flex: Option<u32>,
    /// What the kernel does on errors: continue, remount-ro, panic
    #[arg(short = 'e', value_name = "BEHAVIOUR")]
    pub(crate) on_error: Option<String>,
    /// Operating system that made it
    #[arg(short = 'o', value_name = "OS")]
    pub(crate) creator_os: Option<String>,
    /// Revision
    #[arg(short = 'r', value_name = "REVISION")]
    pub(crate) revision: Option<u32>,
    /// Fill it from this directory or tar archive (plain, gzip, zstd, xz); `-` is an archive from standard input. Several are
    /// laid on top of each other, with the whiteouts of container images
    #[arg(short = 'd', value_name = "DIR|TAR", action = ArgAction::Append)]
    pub(crate) sources: Vec<PathBuf>,
    /// Files from a list, on top of all -d: a line is TYPE PATH MODE UID:GID KEY=VALUE…, types dflhcbpsr (r: gone), keys source,
    /// text, target, device, mtime, xattr.NAME
    #[arg(long, value_name = "FILE", action = ArgAction::Append)]
    pub(crate) spec: Vec<PathBuf>,
    /// Leave out files of -d: a name, or with a / a whole path; *, ** and ? are understood
    #[arg(long, value_name = "PATTERN", action = ArgAction::Append)]
    pub(crate) exclude: Vec<String>,
    /// Security contexts for the files of -d and --spec, a list in the language of file_contexts(5)
    #[arg(long, value_name = "FILE")]
    pub(crate) selinux_contexts: Option<PathBuf>,
    /// Users that archives name get the numbers that they have in this list, as passwd(5)
    #[arg(long, value_name = "FILE")]
    pub(crate) passwd: Option<PathBuf>,
    /// The same for groups, as group(5)
    #[arg(long, value_name = "FILE")]
    pub(crate) group: Option<PathBuf>,
    /// Change owners: FROM:TO or FROM:TO:COUNT, with u: or g: before it for users or groups alone
    #[arg(long, value_name = "MAP", action = ArgAction::Append)]
    pub(crate) owner_map: Vec<String>,
    /// Take these permission bits from every file (octal)
    #[arg(long, value_name = "BITS")]
    pub(crate) mode_mask: Option<String>,
    /// Overwrite what holds a filesystem or something else that is known without a question or a warning
    #[arg(short = 'F', action = ArgAction::Count)]
    pub(crate) force: u8,
    /// Only say what would be made
    #[arg(short = 'n')]
    pub(crate) dry_run: bool,
    /// Say nothing
    #[arg(short = 'q')]
    pub(crate) quiet: bool,
    /// Say more: the UUID, where copies of the superblock are, what is in use
    #[arg(short = 'v')]
    pub(crate) verbose: bool,
    /// Look for blocks that cannot be read, and use none of them; twice: write to all of them to find out
    #[arg(short = 'c', action = ArgAction::Count)]
    pub(crate) check: u8,
    /// Use none of the blocks that this file names, one number a line
    #[arg(short = 'l', value_name = "FILE")]
    pub(crate) bad_blocks: Option<PathBuf>,
    /// Write superblock and group descriptors only, for a filesystem that lost them; run e4fsck then
    #[arg(short = 'S', conflicts_with_all = ["sources", "spec", "check", "bad_blocks", "format", "verity"])]
    pub(crate) super_only: bool,
    /// Leave nothing of it in the host's memory: what is written is on the disk at the end
    #[arg(short = 'D')]
    pub(crate) direct: bool,
    /// Save what is overwritten to this file; `e4fsck --undo` brings it back
    #[arg(short = 'z', value_name = "FILE", conflicts_with = "format")]
    pub(crate) undo: Option<PathBuf>,
    /// All files belong to this user and group
    #[arg(long, value_name = "UID:GID")]
    pub(crate) owner: Option<String>,
    /// Keep the files' times of last access and change as well; without, they are the time of modification, so that equal
    /// trees make equal images
    #[arg(long)]
    pub(crate) keep_times: bool,
    /// As small as can be, for the files and the journal; needs -d or --spec
    #[arg(long, conflicts_with_all = ["size", "blocks"])]
    pub(crate) minimize: bool,
    /// Number or text from which UUID and hash seed are derived, instead of drawing them at random
    #[arg(long, value_name = "SEED")]
    pub(crate) seed: Option<String>,
    /// Refuse what would not make the same bytes again: the present time, random identifiers, times of access and change
    #[arg(long)]
    pub(crate) reproducible: bool,
    /// What the image file looks like: raw, sparse (Android's) or qcow2
    #[arg(long, value_name = "FORMAT", default_value = "raw")]
    pub(crate) format: String,
    /// Append a dm-verity hash tree, as veritysetup does, and print its root hash
    #[arg(long, conflicts_with = "super_only")]
    pub(crate) verity: bool,
    /// Salt of the hash tree, in hexadecimal digits; `-` for none
    #[arg(long, value_name = "HEX", requires = "verity")]
    pub(crate) verity_salt: Option<String>,
    /// Threads
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Print a summary as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Size of the filesystem, as the second argument; auto, auto+N% or auto+SIZE: what the files need, and so much more
    #[arg(long, value_name = "SIZE")]
    pub(crate) size: Option<String>,
    /// Image file or block device; `-` is standard output
    #[arg(value_name = "IMAGE")]
    pub(crate) image: PathBuf,
    /// Size: blocks, or with a suffix s, k, m, g, t
    #[arg(conflicts_with = "size")]
    pub(crate) blocks: Option<String>,
}

impl Args {
    /// What is asked for but cannot be: refused, never ignored.
    pub(crate) fn refuse(&self, fixed_time: bool) -> Result<(), Failure> {
        let to_stdout = self.image.as_os_str() == "-";
        let asked = [
            (
                to_stdout && (self.undo.is_some() || self.super_only || self.check != 0),
                "-c, -S and -z need an image that is there",
            ),
            (
                self.selinux_contexts.is_some() && self.sources.is_empty() && self.spec.is_empty(),
                "--selinux-contexts needs -d or --spec",
            ),
            (self.reproducible && !fixed_time, "--reproducible: the time is not fixed: set SOURCE_DATE_EPOCH"),
            (
                self.reproducible && matches!(self.uuid.as_deref(), Some("random" | "time")),
                "--reproducible: the UUID is random: name it, or leave it out",
            ),
            (
                self.reproducible && self.keep_times,
                "--reproducible: --keep-times keeps times that differ from host to host",
            ),
            (
                self.reproducible && self.extended.iter().flat_map(|e| e.split(',')).any(|e| e == "root_owner"),
                "--reproducible: root_owner needs numbers",
            ),
            (self.reproducible && self.check != 0, "--reproducible: what -c finds is this device's own"),
        ];
        match asked.into_iter().find(|(on, _)| *on) {
            Some((_, what)) => Err(Failure::Usage(what.into())),
            None => Ok(()),
        }
    }

    /// The salt of the hash tree, where one is given.
    pub(crate) fn salt(&self) -> Result<Option<Vec<u8>>, Failure> {
        let Some(text) = &self.verity_salt else { return Ok(None) };
        let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
        match digits {
            _ if text == "-" => Ok(Some(Vec::new())),
            Some(d) if d.len() % 2 == 0 && d.len() <= 512 => {
                Ok(Some(d.chunks(2).map(|pair| pair.iter().fold(0, |n, d| n << 4 | d)).collect()))
            }
            _ => Err(bad("salt", text)),
        }
    }

    /// The size argument, in units of the block size asked for (1024 where none is).
    pub(crate) fn units(&self) -> Result<Option<u64>, Failure> {
        let unit = self.exact_block_size()?.map_or(1024, u64::from);
        let text = self.blocks.as_ref().or(self.size.as_ref());
        Ok(text.filter(|t| !t.starts_with("auto")).map(|t| parse_units(t, unit)).transpose()?)
    }

    /// Room to be left over, where the size is to be found.
    pub(crate) fn slack(&self) -> Result<Slack, Failure> {
        let text = self.blocks.as_ref().or(self.size.as_ref());
        Ok(text.map_or(Ok(None), |t| Slack::parse(t))?.unwrap_or_default())
    }

    /// Whether the size asked for is what the files need.
    pub(crate) fn wants_fit(&self) -> bool {
        self.minimize || self.size.as_ref().or(self.blocks.as_ref()).is_some_and(|t| t.starts_with("auto"))
    }

    /// The number that identifiers are derived from: the seed, or a fixed time.
    pub(crate) fn seed(&self, fixed: Option<u64>) -> Option<u64> {
        let Some(text) = &self.seed else { return fixed };
        text.parse().ok().or_else(|| {
            let hash = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, text.as_bytes()).as_u64_pair();
            Some(hash.0 ^ hash.1)
        })
    }

    /// Permission bits to be taken away.
    pub(crate) fn mode_bits(&self) -> Result<u16, Failure> {
        let bits = self.mode_mask.as_ref().map_or(Some(0), |t| u16::from_str_radix(t, 8).ok().filter(|b| *b <= 0o7777));
        bits.ok_or_else(|| Failure::Usage("--mode-mask needs an octal number of at most 7777".into()))
    }

    fn exact_block_size(&self) -> Result<Option<u32>, Failure> {
        self.block_size.filter(|b| *b > 0).map(|b| u32::try_from(b).map_err(|_| bad("block size", &b))).transpose()
    }

    /// What everything starts from: the profile or configuration, for the type and usages asked for.
    fn defaults(&self, o: &mut Options, extra: &mut Extra, session: &Session) -> Result<(), Failure> {
        let conf = match &self.conf {
            None => Profile::find(&self.profile)?.conf()?,
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| Error::host("read", path, e))?;
                Conf::parse(&text)?
            }
        };
        let sized = self.journal_options.iter().flat_map(|l| l.split(',')).any(|j| j.starts_with("size="));
        let by_journal = if self.journal || sized { "ext3" } else { "ext2" };
        let (of_device, usage_of_device) = conf.of_device(&self.image.to_string_lossy());
        let named = self.fs_type.as_deref().or(of_device);
        // A journal of its own is no filesystem of any type: what ext4 has by default is not for it.
        let journal = self.features.iter().flat_map(|l| l.split(',')).any(|f| f.trim() == "journal_dev");
        let fs_type = match (named, Program::of_this()) {
            (Some(name), _) => name.to_owned(),
            (None, Program::Own) if journal => by_journal.to_owned(),
            (None, Program::Of(name)) => name,
            (None, Program::Mke2fs) if self.conf.is_none() => by_journal.to_owned(),
            (None, _) => conf.fs_type().unwrap_or(by_journal).to_owned(),
        };
        o.fs_type = FsType::parse(&fs_type)?;
        let usage = self.usage.as_deref().or(usage_of_device);
        let asked = usage.iter().flat_map(|list| list.split(',')).map(str::trim);
        let usages: Vec<&str> = asked.filter(|name| !name.is_empty()).collect();
        for name in usages.iter().filter(|name| **name != "default" && !conf.knows(name)) {
            session.warn(format_args!("the usage type {name} is not known, and taken as default"));
        }
        let types: Vec<&str> = std::iter::once(o.fs_type.name()).chain(usages.iter().copied()).collect();
        conf.preset(o, &types)?;
        for list in conf.extended(&types) {
            parse::extended(o, extra, list)?;
        }
        o.usages = usages.into_iter().map(str::to_owned).collect();
        o.conf = conf;
        Ok(())
    }

    /// The options, with everything but the size.
    pub(crate) fn options(
        &self,
        now: Timestamp,
        entropy: &mut dyn Entropy,
        session: &Session,
    ) -> Result<(Options, Extra), Failure> {
        let mut random = || {
            let mut b = [0; 16];
            entropy.fill(&mut b);
            uuid::Builder::from_random_bytes(b).into_uuid().into_bytes()
        };
        let (id, hash_seed) = (random(), random());
        let id = match self.uuid.as_deref() {
            None | Some("random" | "time") => id,
            Some("clear" | "null") => [0; 16],
            Some(text) => parse::uuid(text)?,
        };
        let mut o = Options::new(Size::Units(0), id, hash_seed, now);
        let mut extra = Extra::default();
        self.defaults(&mut o, &mut extra, session)?;
        o.block_size = self.exact_block_size()?;
        o.min_block_size = self.block_size.filter(|b| *b < 0).map(|b| b.unsigned_abs() as u32);
        o.cluster_size = bytes(self.cluster_size.as_deref())?;
        o.inode_ratio = bytes(self.inode_ratio.as_deref())?;
        o.inode_size = self.inode_size;
        o.inodes = self.inodes;
        o.reserved_percent = self.reserved.unwrap_or(o.reserved_percent);
        o.blocks_per_group = self.per_group;
        o.flex_bg_size = self.flex;
        o.label = text(self.label.as_deref(), 16, "label", session);
        o.last_mounted = text(self.last_mounted.as_deref(), 64, "last mount point", session);
        for list in &self.features {
            o.features.extend(FeatureEdit::parse_list(list)?);
        }
        o.journal.wanted = self.journal;
        for list in &self.journal_options {
            parse::journal(&mut o, &mut extra, list)?;
        }
        for list in &self.extended {
            parse::extended(&mut o, &mut extra, list)?;
        }
        if let Some(name) = &self.on_error {
            o.on_error = parse::on_error(name)?;
        }
        if let Some(name) = &self.creator_os {
            o.creator_os = parse::creator_os(name)?;
        }
        o.revision_0 = match self.revision {
            None => o.revision_0,
            Some(1) => false,
            Some(0) => true,
            Some(n) => return Err(bad("revision", &n)),
        };
        if let Some(path) = &self.bad_blocks {
            let text = std::fs::read_to_string(path).map_err(|e| Error::host("read", path, e))?;
            o.bad_blocks = read_list(&text)?;
        }
        if extra.root_owner_is_caller {
            o.root_owner = Some((rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()));
        }
        Ok((o, extra))
    }
}

/// What the program was called as: it decides on the type where none is asked for, as mke2fs's name does.
enum Program {
    /// `mke2fs`: ext2, or ext3 with a journal.
    Mke2fs,
    /// `mkfs.ext2` and the like, `mke3fs`, `mke4fs`.
    Of(String),
    /// Its own name.
    Own,
}

impl Program {
    fn of_this() -> Self {
        let name = std::env::args_os().next().unwrap_or_default();
        let name = Path::new(&name).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        match name.as_str() {
            "mke2fs" => Self::Mke2fs,
            "mke3fs" => Self::Of("ext3".into()),
            "mke4fs" => Self::Of("ext4".into()),
            other => other.strip_prefix("mkfs.").map_or(Self::Own, |t| Self::Of(t.to_owned())),
        }
    }
}

fn bad(what: &str, value: &dyn std::fmt::Display) -> Failure {
    Failure::Usage(format!("{what} {value} is not valid"))
}

fn bytes(text: Option<&str>) -> Result<Option<u32>, Failure> {
    text.map(|t| parse_units(t, 1).ok().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| bad("size", &t))).transpose()
}

/// A text field of the superblock, cut to what it holds.
fn text(value: Option<&str>, max: usize, what: &str, session: &Session) -> Vec<u8> {
    let mut bytes = value.unwrap_or_default().as_bytes().to_vec();
    if bytes.len() > max {
        session.warn(format_args!("the {what} is cut to {max} bytes"));
        bytes.truncate(max);
    }
    bytes
}
