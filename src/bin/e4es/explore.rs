//! `e4es explore`: small races in all orders of their steps.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::ArgAction;
use ext4kit::cli::{self, Exit, Failure};
use ext4kit::testing::interleave::{Case, Explore, Found, Outcome, Program, all, explore};
use ext4kit::trace::render::LogWriter;
use serde_json::{Value, json};

use crate::run::IoPath;

/// How it works.
const AFTER: &str = "A case is two to four tasks on one file of a small filesystem in memory, each cut into steps where the kernel \
would take or let go of a lock. All orders that the locks allow are run, through the code of the write path. After each step the \
reservations must be those that delayed blocks need, and the extent status must be what the map of the file says; at the end \
nothing may stay reserved once all is written back.\n\n\
The exit code is 0 where no order breaks a rule, 1 where one does.";

#[derive(clap::Args, Debug)]
#[command(after_long_help = AFTER)]
pub(crate) struct Args {
    /// The case; all of them where none is named.
    case: Option<String>,

    /// List the cases.
    #[arg(long)]
    list: bool,

    /// Leave out the second look-up of a delayed write, under the exclusive lock: page faults then race with fallocate, and a
    /// reservation leaks.
    #[arg(long)]
    no_recheck: bool,

    /// Run at most N orders of each case.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    limit: u64,

    /// Which write path.
    #[arg(long, value_enum, default_value = "buffer-head")]
    io_path: IoPath,

    /// Write the events of the first order that breaks a rule here, as a log in the format of the tracing filesystem
    /// (`e4es check-trace` reads it).
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Write the report and errors as JSON.
    #[arg(long, action = ArgAction::SetTrue)]
    json: bool,
}

fn list(json: bool, out: &mut dyn Write) -> std::io::Result<()> {
    let tasks = |c: &Case| c.tasks.iter().map(Program::name).collect::<Vec<_>>();
    if json {
        let one = |c: &Case| {
            json!({ "case": c.name, "about": c.about, "block_size": c.block_size, "cluster_size": c.cluster_size,
                "tasks": tasks(c) })
        };
        return writeln!(out, "{}", Value::from(all().iter().map(one).collect::<Vec<_>>()));
    }
    for c in all() {
        writeln!(out, "{:<28} {}", c.name, c.about)?;
    }
    Ok(())
}

fn report(o: &Outcome, out: &mut dyn Write) -> std::io::Result<()> {
    let more = if o.complete { "" } else { " (there are more)" };
    writeln!(
        out,
        "{:<28} {} interleavings{more} in {} runs, {} steps, {} violations",
        o.case, o.interleavings, o.runs, o.steps, o.violations
    )?;
    let Some(found) = &o.first else { return Ok(()) };
    writeln!(out, "    {}", found.violation)?;
    let columns = o.tasks.iter().map(|t| t.len()).max().unwrap_or(0);
    for (n, d) in found.schedule.iter().enumerate() {
        writeln!(out, "    {:>3}  {:<columns$}  {:<36}  reserved {}; {}", n + 1, d.task, d.step, d.reserved, d.status)?;
    }
    Ok(())
}

fn log(found: &Found, tasks: &[&str], file: &PathBuf) -> std::io::Result<()> {
    let mut log = LogWriter::new(BufWriter::new(File::create(file)?))?;
    for (n, e) in &found.events {
        log.put(tasks.get(*n).copied().unwrap_or("setup"), 100 + *n as u32, e)?;
    }
    log.finish().map(drop)
}

/// Explore.
pub(crate) fn run(args: &Args, host: &cli::Session) -> Result<Exit, Failure> {
    let mut out = host.out();
    if args.list {
        list(args.json, &mut out)?;
        return Ok(Exit::Ok);
    }
    let wanted = |c: &&Case| args.case.as_ref().is_none_or(|name| name == c.name);
    let cases: Vec<&Case> = all().iter().filter(wanted).collect();
    if cases.is_empty() {
        return Err(Failure::Usage("no case has this name; --list names them all".into()));
    }
    let mut violated = false;
    for case in cases {
        let found = explore(case, Explore { recheck: !args.no_recheck, path: args.io_path.into(), limit: args.limit })?;
        if let (Some(file), Some(first), false) = (&args.trace, &found.first, violated) {
            log(first, &found.tasks, file)?;
        }
        violated |= found.violations > 0;
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&found).map_err(std::io::Error::from)?)?;
        } else {
            report(&found, &mut out)?;
        }
        out.flush()?;
    }
    Ok(if violated { Exit::Failed } else { Exit::Ok })
}
