//! Events as text, in two forms: as recordings of the kernel list them (`- es_insert_extent ino=12 lblk=0 len=1 pblk=0
//! status=hole`), and as the tracing filesystem prints them (`ext4_es_insert_extent: dev 7,0 ino 12 es [0/1) mapped 0
//! status H`).
//!
//! Where the library does not have what a tracepoint prints (the mode of the file, the flags of the allocator), the short form
//! leaves the field out and the long one says 0, so that whoever reads logs of the kernel can read these.

use std::io::{self, Write};

use crate::file::event::{Event, Task, Traced};
use crate::file::extent_status::{EsEntry, EsStatus};
use crate::units::Ino;

/// `MAP_DELAYED` of a buffer, as `da_write_pages_extent` shows it.
const BUFFER_DELAY: u32 = 1 << 8;
/// `BH_Unwritten`.
const BUFFER_UNWRITTEN: u32 = 1 << 11;

/// The letter of a status, as tracepoints print it.
const fn letter(status: EsStatus) -> char {
    match status {
        EsStatus::Written => 'W',
        EsStatus::Unwritten => 'U',
        EsStatus::Delayed => 'D',
        EsStatus::Hole => 'H',
    }
}

const fn word(status: EsStatus) -> &'static str {
    match status {
        EsStatus::Written => "written",
        EsStatus::Unwritten => "unwritten",
        EsStatus::Delayed => "delayed",
        EsStatus::Hole => "hole",
    }
}

/// The tracepoint's name.
pub const fn name(event: &Event) -> &'static str {
    match event {
        Event::EsInsert(_) => "ext4_es_insert_extent",
        Event::EsCache(_) => "ext4_es_cache_extent",
        Event::EsInsertDelayed { .. } => "ext4_es_insert_delayed_extent",
        Event::EsRemove { .. } => "ext4_es_remove_extent",
        Event::DaReserve { .. } => "ext4_da_reserve_space",
        Event::DaUpdate { .. } => "ext4_da_update_reserve_space",
        Event::DaRelease { .. } => "ext4_da_release_space",
        Event::DaWritePagesExtent { .. } => "ext4_da_write_pages_extent",
        Event::AllocateBlocks { .. } => "ext4_allocate_blocks",
        Event::RemoveSpace { .. } => "ext4_ext_remove_space",
        Event::WritePages { .. } => "ext4_writepages",
        Event::SyncFile { .. } => "ext4_sync_file_enter",
        Event::Fallocate { .. } => "ext4_fallocate_enter",
        Event::PunchHole { .. } => "ext4_punch_hole",
        Event::ZeroRange { .. } => "ext4_zero_range",
        Event::CollapseRange { .. } => "ext4_collapse_range",
        Event::InsertRange { .. } => "ext4_insert_range",
        Event::Truncate { .. } => "ext4_truncate_enter",
        Event::AllocDaBlocks { .. } => "ext4_alloc_da_blocks",
        Event::EvictInode { .. } => "ext4_evict_inode",
        Event::JournalStart { .. } => "ext4_journal_start_inode",
        Event::StartCommit { .. } => "jbd2_start_commit",
        Event::SubmitInodeData => "jbd2_submit_inode_data",
        Event::EndCommit { .. } => "jbd2_end_commit",
    }
}

fn entry(e: &EsEntry) -> String {
    format!("lblk={} len={} pblk={} status={}", e.lblk.0, e.len, e.pblk.0, word(e.status))
}

const fn buffer_flags(delayed: bool, unwritten: bool) -> u32 {
    (if delayed { BUFFER_DELAY } else { 0 }) | (if unwritten { BUFFER_UNWRITTEN } else { 0 })
}

/// The largest byte offset, as the kernel's signed type has it.
fn loff(byte: u64) -> u64 {
    byte.min(i64::MAX as u64)
}

fn fields(event: &Event) -> String {
    match event {
        Event::EsInsert(e) | Event::EsCache(e) => entry(e),
        Event::EsInsertDelayed { lblk, len, lclu_allocated, end_allocated } => format!(
            "lblk={lblk} len={len} pblk=0 status=delayed lclu_allocated={} end_allocated={}",
            u8::from(*lclu_allocated),
            u8::from(*end_allocated)
        ),
        Event::EsRemove { lblk, len } => format!("lblk={lblk} len={len}"),
        Event::DaReserve { clusters, reserved } => format!("reserve_blocks={clusters} reserved_data_blocks={reserved}"),
        Event::DaUpdate { clusters, reserved, quota_claim } => {
            format!("used_blocks={clusters} reserved_data_blocks={reserved} quota_claim={}", u8::from(*quota_claim))
        }
        Event::DaRelease { clusters, reserved } => format!("freed_blocks={clusters} reserved_data_blocks={reserved}"),
        Event::DaWritePagesExtent { lblk, len, delayed, unwritten } => {
            format!("lblk={lblk} len={len} flags={:#x}", buffer_flags(*delayed, *unwritten))
        }
        Event::AllocateBlocks { lblk, len, pblk } => format!("block={} len={len} logical={lblk}", pblk.0),
        Event::RemoveSpace { start, end, depth } => format!("start={start} end={} depth={depth}", *end as i32),
        Event::WritePages { start, end } => format!("range_start={start} range_end={}", loff(*end)),
        Event::SyncFile { datasync } => format!("datasync={}", u8::from(*datasync)),
        Event::Fallocate { offset, len, .. }
        | Event::ZeroRange { offset, len, .. }
        | Event::PunchHole { offset, len }
        | Event::CollapseRange { offset, len }
        | Event::InsertRange { offset, len } => format!("offset={offset} len={len}"),
        Event::Truncate { sectors } => format!("blocks={sectors}"),
        Event::AllocDaBlocks { reserved } => format!("data_blocks={reserved}"),
        Event::EvictInode { nlink } => format!("nlink={nlink}"),
        Event::JournalStart { caller, blocks } => format!("ip={caller} blocks={blocks}"),
        Event::StartCommit { transaction } | Event::EndCommit { transaction } => format!("transaction={transaction}"),
        Event::SubmitInodeData => String::new(),
    }
}

/// As recordings list it: `TASK NAME field=value ...`. TASK is `-` for the process, `k` for the end of I/O, `j` for a commit;
/// the names of ext4's events go without `ext4_`.
pub fn short(t: &Traced) -> String {
    let task = match t.task {
        Task::Caller => '-',
        Task::EndIo => 'k',
        Task::Commit => 'j',
    };
    let name = name(&t.event);
    let mut line = format!("{task} {}", name.strip_prefix("ext4_").unwrap_or(name));
    for part in [if t.ino == Ino(0) { String::new() } else { format!("ino={}", t.ino) }, fields(&t.event)] {
        if !part.is_empty() {
            line.push(' ');
            line.push_str(&part);
        }
    }
    line
}

fn mode_flags(keep_size: bool, other: &str) -> String {
    let keep = if keep_size { "KEEP_SIZE" } else { "" };
    [keep, other].into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join("|")
}

/// What follows the device and the inode in a log of the kernel.
fn long(event: &Event) -> String {
    let es = |e: &EsEntry| format!("es [{}/{}) mapped {} status {}", e.lblk.0, e.len, e.pblk.0, letter(e.status));
    match event {
        Event::EsInsert(e) | Event::EsCache(e) => es(e),
        Event::EsInsertDelayed { lblk, len, lclu_allocated, end_allocated } => format!(
            "es [{lblk}/{len}) mapped 0 status D allocated {} {}",
            u8::from(*lclu_allocated),
            u8::from(*end_allocated)
        ),
        Event::EsRemove { lblk, len } => format!("es [{lblk}/{len})"),
        // The two fields run together in the kernel too.
        Event::DaReserve { clusters, reserved } => {
            format!("mode 0100644 i_blocks 0 reserve_blocks {clusters}reserved_data_blocks {reserved}")
        }
        Event::DaUpdate { clusters, reserved, quota_claim } => format!(
            "mode 0100644 i_blocks 0 used_blocks {clusters} reserved_data_blocks {reserved} quota_claim {}",
            u8::from(*quota_claim)
        ),
        Event::DaRelease { clusters, reserved } => {
            format!("mode 0100644 i_blocks 0 freed_blocks {clusters} reserved_data_blocks {reserved}")
        }
        Event::DaWritePagesExtent { lblk, len, delayed, unwritten } => {
            let u = if *unwritten { "U" } else { "" };
            let rest = if *delayed { "0x100" } else { "" };
            format!("lblk {lblk} len {len} flags {u}{rest}")
        }
        Event::AllocateBlocks { lblk, len, pblk } => {
            format!("flags 0x0 len {len} block {} lblk {lblk} goal 0 lleft 0 lright 0 pleft 0 pright 0", pblk.0)
        }
        Event::RemoveSpace { start, end, depth } => format!("since {start} end {end} depth {depth}"),
        Event::WritePages { start, end } => format!("range_start {start} range_end {}", loff(*end)),
        Event::SyncFile { datasync } => format!("datasync {}", u8::from(*datasync)),
        Event::Fallocate { offset, len, keep_size } => {
            format!("offset {offset} len {len} mode {}", mode_flags(*keep_size, ""))
        }
        Event::PunchHole { offset, len } => {
            format!("offset {offset} len {len} mode {}", mode_flags(true, "PUNCH_HOLE"))
        }
        Event::ZeroRange { offset, len, keep_size } => {
            format!("offset {offset} len {len} mode {}", mode_flags(*keep_size, "ZERO_RANGE"))
        }
        Event::CollapseRange { offset, len } | Event::InsertRange { offset, len } => {
            format!("offset {offset} len {len}")
        }
        Event::Truncate { sectors } => format!("blocks {sectors}"),
        Event::AllocDaBlocks { reserved } => format!("reserved_data_blocks {reserved}"),
        Event::EvictInode { nlink } => format!("nlink {nlink}"),
        Event::JournalStart { caller, blocks } => {
            format!("blocks {blocks}, rsv_blocks 0, revoke_creds 0, type 0, caller {caller}+0x0/0x0")
        }
        Event::StartCommit { transaction } => format!("transaction {transaction} sync 0"),
        Event::EndCommit { transaction } => format!("transaction {transaction} sync 0 head 0"),
        Event::SubmitInodeData => String::new(),
    }
}

/// As the tracing filesystem prints it behind the columns: `ext4_es_remove_extent: dev 7,0 ino 12 es [0/1)`.
pub fn message(t: &Traced) -> String {
    let ino = if t.ino == Ino(0) { String::new() } else { format!(" ino {}", t.ino) };
    let rest = long(&t.event);
    let gap = if rest.is_empty() { "" } else { " " };
    format!("{}: dev 7,0{ino}{gap}{rest}", name(&t.event))
}

/// A log in the format of `trace_pipe`. Timestamps count events: the library has no clock.
#[derive(Debug)]
pub struct LogWriter<W> {
    out: W,
    events: u64,
}

impl<W: Write> LogWriter<W> {
    /// One that writes to `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(b"# tracer: nop\n#\n#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n")?;
        Ok(Self { out, events: 0 })
    }

    /// Add an event, as one of the task `task` with the number `pid`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn put(&mut self, task: &str, pid: u32, t: &Traced) -> io::Result<()> {
        self.events += 1;
        let (secs, micros) = (self.events / 1_000_000, self.events % 1_000_000);
        writeln!(self.out, "{task:>16}-{pid:<7} [000] ..... {secs:>5}.{micros:06}: {}", message(t))
    }

    /// Add an event under the name of its [`Task`].
    ///
    /// # Errors
    /// Those of the writer.
    pub fn put_own(&mut self, t: &Traced) -> io::Result<()> {
        let (task, pid) = match t.task {
            Task::Caller => ("e4es", 1000),
            Task::EndIo => ("kworker/0:1", 1001),
            Task::Commit => ("jbd2/loop0-8", 1002),
        };
        self.put(task, pid, t)
    }

    /// The writer, when all is written.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Fsblk, Lblk};

    fn traced(event: Event) -> Traced {
        Traced { task: Task::Caller, ino: Ino(12), event }
    }

    #[test]
    fn both_forms_are_those_of_the_kernel() {
        let e = EsEntry { lblk: Lblk(4), len: 2, status: EsStatus::Unwritten, pblk: Fsblk(2065) };
        let t = traced(Event::EsInsert(e));
        assert_eq!(short(&t), "- es_insert_extent ino=12 lblk=4 len=2 pblk=2065 status=unwritten");
        assert_eq!(message(&t), "ext4_es_insert_extent: dev 7,0 ino 12 es [4/2) mapped 2065 status U");
        let t = traced(Event::DaReserve { clusters: 1, reserved: 3 });
        assert_eq!(short(&t), "- da_reserve_space ino=12 reserve_blocks=1 reserved_data_blocks=3");
        let t = traced(Event::EsInsertDelayed { lblk: 4, len: 1, lclu_allocated: true, end_allocated: false });
        assert_eq!(
            short(&t),
            "- es_insert_delayed_extent ino=12 lblk=4 len=1 pblk=0 status=delayed lclu_allocated=1 end_allocated=0"
        );
        let t = traced(Event::RemoveSpace { start: 6, end: u32::MAX - 1, depth: 0 });
        assert_eq!(short(&t), "- ext_remove_space ino=12 start=6 end=-2 depth=0");
        let t = traced(Event::DaWritePagesExtent { lblk: 0, len: 3, delayed: true, unwritten: false });
        assert_eq!(short(&t), "- da_write_pages_extent ino=12 lblk=0 len=3 flags=0x100");
        let commit = Traced { task: Task::Commit, ino: Ino(0), event: Event::StartCommit { transaction: 2 } };
        assert_eq!(short(&commit), "j jbd2_start_commit transaction=2");
    }
}
