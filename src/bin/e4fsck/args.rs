//! The command line: e2fsck's options, and which of them go together.

use std::path::PathBuf;

use clap::Parser;
use ext4kit::check::Optimise;
use ext4kit::cli::{self, Failure};

/// Check and repair a filesystem.
///
/// IMAGE is a file or a block device; IMAGE@OFFSET is a filesystem inside it. Without -n, what the journal holds is recovered
/// first. Without -n, -p, -a and -y, questions are asked on the terminal.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "one per option of e2fsck")]
pub(crate) struct Args {
    /// The image.
    #[arg(required_unless_present_any = ["problems", "uncovered"])]
    pub(crate) image: Option<PathBuf>,
    /// Change nothing; answer all questions with no.
    #[arg(short = 'n', conflicts_with_all = ["yes", "preen", "auto"])]
    pub(crate) no: bool,
    /// Answer all questions with yes.
    #[arg(short = 'y', conflicts_with_all = ["preen", "auto"])]
    pub(crate) yes: bool,
    /// Repair what can be repaired safely without asking.
    #[arg(short = 'p')]
    pub(crate) preen: bool,
    /// The same as -p.
    #[arg(short = 'a')]
    pub(crate) auto: bool,
    /// Check even where the filesystem says that it is clean.
    #[arg(short = 'f')]
    pub(crate) force: bool,
    /// Use the backup superblock at this block.
    #[arg(short = 'b', value_name = "BLOCK")]
    pub(crate) superblock: Option<u64>,
    /// Block size in bytes, for finding the superblock of -b.
    #[arg(short = 'B', value_name = "BYTES")]
    pub(crate) block_size: Option<u32>,
    /// Write progress to this file descriptor, a line "PASS DONE TOTAL IMAGE" for each hundredth (0: a bar on the terminal; below 0: none).
    #[arg(short = 'C', value_name = "FD", allow_negative_numbers = true)]
    pub(crate) completion: Option<i32>,
    /// Look for blocks that cannot be read, and set the bad blocks to them; twice, write all blocks as well, without changing what
    /// is in them (a kill can leave the 256 KiB that it was at changed).
    #[arg(short = 'c', action = clap::ArgAction::Count)]
    pub(crate) badblocks: u8,
    /// Add the blocks that this file lists, one a line, to the bad blocks.
    #[arg(short = 'l', value_name = "FILE")]
    pub(crate) add_bad: Option<PathBuf>,
    /// Set the bad blocks to those that this file lists.
    #[arg(short = 'L', value_name = "FILE")]
    pub(crate) set_bad: Option<PathBuf>,
    /// Where the external journal is.
    #[arg(short = 'j', value_name = "DEVICE")]
    pub(crate) journal: Option<PathBuf>,
    /// With -c, keep the bad blocks known so far.
    #[arg(short = 'k')]
    pub(crate) keep_bad: bool,
    /// Write all directories anew: as few blocks as they need, indexed.
    #[arg(short = 'D')]
    pub(crate) optimise: bool,
    /// Accepted for e2fsck's sake.
    #[arg(short = 'd', hide = true)]
    pub(crate) debug: bool,
    /// Accepted for e2fsck's sake.
    #[arg(short = 'F', hide = true)]
    pub(crate) flush: bool,
    /// Print how long it took and what memory it needed; twice, each pass as well.
    #[arg(short = 't', action = clap::ArgAction::Count)]
    pub(crate) timing: u8,
    /// Print why all is checked, and what kinds of files there are.
    #[arg(short = 'v')]
    pub(crate) verbose: bool,
    /// Extended options, separated by commas.
    #[arg(short = 'E', value_name = "OPTIONS", value_delimiter = ',')]
    pub(crate) extended: Vec<String>,
    /// Save what is overwritten to this new file, durably and before it is overwritten.
    #[arg(short = 'z', value_name = "FILE", conflicts_with = "no")]
    pub(crate) undo: Option<PathBuf>,
    /// Bring the image back to what it was before the run whose -z wrote this file, and do nothing else.
    #[arg(long = "undo", value_name = "FILE", conflicts_with_all = ["no", "yes", "preen", "auto", "undo"])]
    pub(crate) bring_back: Option<PathBuf>,
    /// With -n: exactly the problems whose ids this file lists, one a line, are expected. Exit code 0 where they are what was
    /// found, 4 where not.
    #[arg(long, value_name = "FILE", requires = "no")]
    pub(crate) expect: Option<PathBuf>,
    /// Give up after so many seconds, with exit code 32. What was repaired by then stays.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) max_time: Option<u64>,
    /// Give up where the maps of blocks and inodes would need more bytes than this.
    #[arg(long, value_name = "BYTES", value_parser = cli::size_in(1))]
    pub(crate) max_memory: Option<u64>,
    /// Print the result as one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the table of problems and nothing else.
    #[arg(long)]
    pub(crate) problems: bool,
    /// Print the codes of e2fsck's table that have no row of their own, with the reasons, and nothing else.
    #[arg(long, conflicts_with = "problems")]
    pub(crate) uncovered: bool,
    /// Threads; 0 for as many as the machine has.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) jobs: usize,
}

impl Args {
    /// Whether an extended option was given, and not taken back by one that says no.
    pub(crate) fn has(&self, name: &str) -> bool {
        let base = |e: &str| e.strip_prefix("no_").or_else(|| e.strip_prefix("no")).unwrap_or(e).to_owned();
        self.extended.iter().rev().find(|e| base(e) == name).is_some_and(|e| e == name)
    }
}

/// Extended options that are known, with whether they take a value.
const EXTENDED: &[(&str, bool)] = &[
    ("ea_ver", true),
    ("journal_only", false),
    ("fragcheck", false),
    ("discard", false),
    ("nodiscard", false),
    ("no_optimize_extents", false),
    ("optimize_extents", false),
    ("inode_count_fullmap", false),
    ("no_inode_count_fullmap", false),
    ("readahead_kb", true),
    ("bmap2extent", false),
    ("fixes_only", false),
    ("unshare_blocks", false),
    ("check_encoding", false),
];

pub(crate) fn check_arguments(args: &Args) -> Result<(), Failure> {
    let usage = |text: &str| Err(Failure::Usage(text.into()));
    for option in &args.extended {
        let (name, value) = option.split_once('=').map_or((option.as_str(), None), |(n, v)| (n, Some(v)));
        match EXTENDED.iter().find(|(n, _)| *n == name) {
            Some((_, takes)) if *takes == value.is_some() => {}
            Some(_) => return Err(Failure::Usage(format!("-E {name}: wrong use of a value"))),
            None => return Err(Failure::Usage(format!("-E {name}: no such extended option"))),
        }
    }
    if args.block_size.is_some_and(|b| !(1024..=65536).contains(&b) || !b.is_power_of_two()) {
        return usage("-B: a power of two from 1024 to 65536 is needed");
    }
    if args.badblocks > 0 && (args.add_bad.is_some() || args.set_bad.is_some()) {
        return usage("-c and -l or -L exclude each other");
    }
    let has = |name: &str| args.has(name);
    if has("fixes_only") && (args.optimise || has("bmap2extent") || has("optimize_extents")) {
        return usage("-E fixes_only makes nothing better: not with -D, bmap2extent or optimize_extents");
    }
    if args.no && (has("bmap2extent") || has("unshare_blocks") || has("optimize_extents")) {
        return usage("-n changes nothing: bmap2extent, optimize_extents and unshare_blocks cannot be used with it");
    }
    if args.no && (args.badblocks > 0 || args.add_bad.is_some() || args.set_bad.is_some() || args.optimise) {
        return usage("-n changes nothing: -c, -l, -L and -D cannot be used with it");
    }
    Ok(())
}

/// What is asked for beyond repairs.
pub(crate) fn optimise(args: &Args) -> Optimise {
    Optimise {
        directories: args.optimise,
        bmap_to_extents: args.has("bmap2extent"),
        extents: args.has("optimize_extents"),
        unshare_blocks: args.has("unshare_blocks"),
    }
}
