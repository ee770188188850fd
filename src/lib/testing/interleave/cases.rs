//! The cases: a filesystem's shape, what was done to the file before, and the tasks that race.

use super::task::Program;
use crate::error::Result;
use crate::file::Mount;
use crate::units::Ino;

/// What was done before.
#[derive(Clone, Copy, Debug)]
pub enum Setup {
    /// The size is so many bytes.
    Size(u64),
    /// Bytes were written: `(first, length)`.
    Write(u64, usize),
    /// Bytes were allocated: `(first, length)`.
    Fallocate(u64, u64),
    /// All was written back.
    Sync,
    /// Nothing is cached of the extent status.
    Forget,
}

impl Setup {
    pub(super) fn apply(self, m: &mut Mount, ino: Ino) -> Result<()> {
        match self {
            Self::Size(size) => m.truncate(ino, size),
            Self::Write(pos, len) => m.write(ino, pos, &vec![0x5a; len]).map(drop),
            Self::Fallocate(pos, len) => m.fallocate(ino, pos, len, true),
            Self::Sync => m.sync(),
            Self::Forget => m.clear_es(ino),
        }
    }
}

/// A case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Bytes of a block.
    pub block_size: u32,
    /// Bytes of a cluster.
    pub cluster_size: u32,
    /// What was done before.
    pub setup: &'static [Setup],
    /// The tasks.
    pub tasks: &'static [Program],
}

const PAGE: u64 = 4096;

const fn fault(name: &'static str, page: u64, blocks: u32) -> Program {
    Program::Fault { name, page, blocks }
}

const fn case(
    name: &'static str,
    about: &'static str,
    (block_size, cluster_size): (u32, u32),
    setup: &'static [Setup],
    tasks: &'static [Program],
) -> Case {
    Case { name, about, block_size, cluster_size, setup, tasks }
}

static CASES: [Case; 14] = [
    case(
        "fault-fallocate",
        "a page fault looks a block up while fallocate allocates it",
        (4096, 4096),
        &[Setup::Size(PAGE)],
        &[fault("fault", 0, 1), Program::Fallocate { blocks: 0..1, size: None }],
    ),
    case(
        "fault-fallocate-1k",
        "the same with two blocks of 1 KiB in the page",
        (1024, 1024),
        &[Setup::Size(2048)],
        &[fault("fault", 0, 2), Program::Fallocate { blocks: 0..2, size: None }],
    ),
    case(
        "fault-fallocate-bigalloc",
        "fallocate takes the cluster in which a fault reserves another block",
        (1024, 16384),
        &[Setup::Size(2048)],
        &[fault("fault", 0, 2), Program::Fallocate { blocks: 1..3, size: None }],
    ),
    case(
        "fault-fallocate-shrinker",
        "the same while what is cached is dropped, and read again",
        (4096, 4096),
        &[Setup::Size(PAGE)],
        &[
            fault("fault", 0, 1),
            Program::Fallocate { blocks: 0..1, size: None },
            Program::Shrinker,
            Program::Reader { lblk: 0 },
        ],
    ),
    case(
        "fault-fault-fallocate",
        "two faults in one cluster against fallocate in it",
        (4096, 16384),
        &[Setup::Size(2 * PAGE)],
        &[fault("fault-0", 0, 1), fault("fault-1", 1, 1), Program::Fallocate { blocks: 1..2, size: None }],
    ),
    case(
        "fault-writeback",
        "a fault into a page of which one block is dirty, against writeback",
        (1024, 1024),
        &[Setup::Write(0, 1024), Setup::Size(PAGE)],
        &[fault("fault", 0, 4), Program::Writeback { pages: 0..1 }],
    ),
    case(
        "fault-fallocate-writeback",
        "fault, fallocate and writeback of the page before",
        (4096, 4096),
        &[Setup::Write(0, 4096), Setup::Size(2 * PAGE)],
        &[fault("fault", 1, 1), Program::Fallocate { blocks: 0..2, size: None }, Program::Writeback { pages: 0..2 }],
    ),
    case(
        "write-writeback",
        "a write behind the end, against writeback of the page that it goes on in",
        (1024, 1024),
        &[Setup::Write(0, 1000)],
        &[Program::Write { range: 1000..3000 }, Program::Writeback { pages: 0..1 }],
    ),
    case(
        "write-fault-writeback",
        "a write and a fault into neighbouring pages of a cluster, against writeback of both",
        (4096, 16384),
        &[Setup::Write(8192, 4096)],
        &[Program::Write { range: 0..4096 }, fault("fault", 1, 1), Program::Writeback { pages: 0..3 }],
    ),
    case(
        "writeback-truncate",
        "delayed blocks written back while the file is cut",
        (1024, 1024),
        &[Setup::Write(0, 8192)],
        &[Program::Writeback { pages: 0..2 }, Program::Truncate { size: 1500, pages: 2 }],
    ),
    case(
        "writeback-truncate-fault",
        "the same with a fault into what is cut",
        (1024, 4096),
        &[Setup::Write(0, 6000)],
        &[Program::Writeback { pages: 0..2 }, Program::Truncate { size: 1500, pages: 2 }, fault("fault", 1, 2)],
    ),
    case(
        "writeback-punch-bigalloc",
        "part of a cluster punched out while the rest of it is written back",
        (4096, 16384),
        &[Setup::Write(0, 4096), Setup::Sync, Setup::Write(4096, 8192)],
        &[Program::Writeback { pages: 0..3 }, Program::Punch { pages: 0..1 }, Program::Shrinker],
    ),
    case(
        "fault-fallocate-unwritten",
        "a fault into blocks that are allocated unwritten already, of which nothing is cached",
        (1024, 1024),
        &[Setup::Size(3072), Setup::Fallocate(0, 2048), Setup::Forget],
        &[fault("fault", 0, 3), Program::Fallocate { blocks: 1..4, size: None }, Program::Reader { lblk: 2 }],
    ),
    case(
        "faults-fallocate-writeback",
        "two faults of two blocks each, fallocate over both pages, and writeback",
        (2048, 8192),
        &[Setup::Write(8192, 1024), Setup::Size(3 * PAGE)],
        &[
            fault("fault-0", 0, 2),
            fault("fault-1", 1, 2),
            Program::Fallocate { blocks: 1..4, size: None },
            Program::Writeback { pages: 0..3 },
        ],
    ),
];

/// All cases.
pub fn all() -> &'static [Case] {
    &CASES
}
