//! `e4es check-trace`: a log of ext4's tracepoints, held against the rules of delayed allocation.

use std::io::{Read, Write};
use std::path::PathBuf;

use clap::ArgAction;
use ext4kit::cli::{self, Exit, Failure};
use ext4kit::trace::{Followed, Log, follow};
use serde_json::{Value, json};

/// The events that a log should have.
const AFTER: &str = "Record with (as root, in /sys/kernel/tracing; trace_clock \"global\" or \"mono\" where there are several CPUs): \
ext4_es_insert_extent, ext4_es_insert_delayed_extent, ext4_es_remove_extent, ext4_da_reserve_space, \
ext4_da_update_reserve_space, ext4_da_release_space, ext4_free_blocks, ext4_evict_inode, ext4_allocate_inode; \
ext4_es_cache_extent and any others may be there too. Logs of trace, trace_pipe, trace-cmd and perf script are read, of several \
filesystems, from Linux 6.13 on. An inode is followed from where the log shows that it holds nothing; lost events make all \
inodes unknown again. With --cluster left out, the cluster is the one under which the log is consistent for longest.\n\n\
The exit code is 0 where the log is consistent, 1 where it is not, 3 where it cannot be read or holds no event of ext4.";

#[derive(clap::Args, Debug)]
#[command(after_long_help = AFTER)]
pub(crate) struct Args {
    /// The log; - is standard input.
    trace: PathBuf,

    /// Blocks in a cluster (a power of two; 1 without bigalloc).
    #[arg(long, value_name = "BLOCKS", value_parser = power_of_two)]
    cluster: Option<u32>,

    /// Write the report and errors as JSON.
    #[arg(long, action = ArgAction::SetTrue)]
    json: bool,
}

fn power_of_two(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(n) if n.is_power_of_two() && n <= 1 << 15 => Ok(n),
        _ => Err("a power of two up to 32768 is needed".into()),
    }
}

fn read(args: &Args) -> std::io::Result<Vec<u8>> {
    if args.trace.as_os_str() == "-" {
        let mut all = Vec::new();
        std::io::stdin().lock().read_to_end(&mut all)?;
        return Ok(all);
    }
    std::fs::read(&args.trace)
}

/// Check a log.
pub(crate) fn run(args: &Args, host: &cli::Session) -> Result<Exit, Failure> {
    let mut out = host.out();
    let unreadable = |out: &mut dyn Write, why: String| {
        if args.json {
            writeln!(out, "{}", json!({ "readable": false, "error": why }))?;
        } else {
            eprintln!("e4es: {}: {why}", args.trace.display());
        }
        Ok::<_, Failure>(Exit::Damaged)
    };
    let text = match read(args) {
        Ok(text) => text,
        Err(e) => return unreadable(&mut out, e.to_string()),
    };
    let log = match Log::parse(&text) {
        Ok(log) if log.events.iter().flatten().next().is_some() => log,
        Ok(_) => return unreadable(&mut out, "no event of ext4 is in it".into()),
        Err(e) => return unreadable(&mut out, e.to_string()),
    };
    let devices = follow(&log, args.cluster);
    let line = |n: u64| {
        let line = text.split(|b| *b == b'\n').nth(usize::try_from(n - 1).unwrap_or(usize::MAX));
        String::from_utf8_lossy(line.unwrap_or_default()).trim().to_owned()
    };
    if args.json {
        writeln!(out, "{}", as_json(&log, &devices, line))?;
    } else {
        as_text(&mut out, &log, &devices, line)?;
    }
    Ok(if devices.iter().any(|d| d.first.is_some()) { Exit::Failed } else { Exit::Ok })
}

fn as_json(log: &Log, devices: &[Followed], line: impl Fn(u64) -> String) -> Value {
    let device = |d: &Followed| {
        json!({
            "dev": d.dev.to_string(), "cluster_blocks": d.cluster_blocks, "events": d.events, "inodes": d.inodes,
            "followed": d.known, "held": d.held,
            "inconsistency": d.first.as_ref().map(|w| json!({
                "line": w.line, "ino": w.ino, "event": line(w.line), "expected": w.broken.to_string(),
            })),
        })
    };
    json!({
        "readable": true, "consistent": devices.iter().all(|d| d.first.is_none()), "lines": log.lines, "lost": log.lost,
        "devices": devices.iter().map(device).collect::<Vec<_>>(),
    })
}

fn as_text(
    out: &mut dyn Write,
    log: &Log,
    devices: &[Followed],
    line: impl Fn(u64) -> String,
) -> Result<(), std::io::Error> {
    if log.lost > 0 {
        writeln!(out, "events were lost {} times; nothing is known of inodes before each", log.lost)?;
    }
    for d in devices {
        write!(out, "dev {}: {} events, {} inodes, {} of them followed", d.dev, d.events, d.inodes, d.known)?;
        if d.cluster_blocks > 1 {
            write!(out, ", clusters of {} blocks", d.cluster_blocks)?;
        }
        match &d.first {
            None => writeln!(out, ": consistent")?,
            Some(w) => {
                writeln!(out, ": inconsistent")?;
                writeln!(out, "line {}, inode {}: {}", w.line, w.ino, w.broken)?;
                writeln!(out, "    {}", line(w.line))?;
            }
        }
        if d.first.is_none() && !d.held.is_empty() {
            let all: Vec<String> = d.held.iter().map(|(ino, n)| format!("inode {ino}: {n}")).collect();
            writeln!(out, "  reserved when the log ends (clusters): {}", all.join(", "))?;
        }
    }
    Ok(())
}
