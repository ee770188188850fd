//! Run every command of the shell on an image, for tests with damaged ones.

use std::path::PathBuf;
use std::sync::Arc;

use super::exercise::Tally;
use crate::device::{BlockDevice, ImageSpec};
use crate::inspect::Format;
use crate::shell::{Session, Settings, run_line};
use crate::units::Ino;
use crate::volume::Volume;

/// Commands about the image as a whole. Those that write to the host or open other images are left out.
const WHOLE: &[&str] = &[
    "stats",
    "groups",
    "features",
    "supported_features",
    "freefrag -c 64",
    "params",
    "pwd",
    "ls",
    "ls -cdl",
    "ls -p /",
    "dx_hash -h tea abc",
    "filefrag -rv /",
    "icheck 1 2 100 1000 2000 3000",
    "testb 1 2000",
    "find_free_block 10 500",
    "find_free_inode",
    "ncheck 12 13 14 50 200",
    "help",
    "help stat",
    "block_dump 1",
    "# nothing",
];

/// Commands about one inode.
const EACH: &[&str] = &[
    "stat",
    "ex",
    "ex -n",
    "blocks",
    "es",
    "ea_list",
    "inode_dump",
    "inode_dump -b",
    "inode_dump -x",
    "imap",
    "testi",
    "filefrag -dv",
    "cat",
    "htree",
    "ls -d",
    "cd",
    "chroot",
    "bmap",
    "dirsearch",
    "block_dump -f",
    "ea_get",
];

/// Largest file that is written out, bytes.
const MAX_CAT: u64 = 1 << 20;

/// Run them all, as text and as JSON. What a kind of inode or filesystem has no answer to is not counted as an error.
pub fn run_commands(device: &Arc<dyn BlockDevice>) -> Tally {
    let mut tally = Tally::default();
    for format in [Format::Text { width: Some(80) }, Format::PLAIN, Format::Json] {
        let settings = Settings::new(format);
        let Ok(volume) = Volume::open(Arc::clone(device), &settings.open) else {
            tally.errors += 1;
            continue;
        };
        let inodes = volume.geometry().inodes_count.min(300);
        let image = ImageSpec { path: PathBuf::from("image"), offset: 0 };
        let mut session = Session::with_volume(settings, image, volume);
        for line in WHOLE {
            run(&mut session, line, &mut tally);
        }
        // One format for most inodes: the models are the same.
        let step = if format == Format::PLAIN { 1 } else { 23 };
        for n in (1..=inodes).step_by(step) {
            inode(&mut session, Ino(n), &mut tally);
        }
    }
    tally
}

fn inode(session: &mut Session, ino: Ino, tally: &mut Tally) {
    let Ok(volume) = session.volume() else { return };
    let size = volume.raw_inode(ino).map_or(0, |i| i.size());
    for command in EACH {
        if *command == "cat" && size > MAX_CAT {
            continue;
        }
        let rest = match *command {
            "bmap" => " 3",
            "dirsearch" => " hard",
            "block_dump -f" => " 0",
            "ea_get" => " user.small",
            _ => "",
        };
        let line = format!("{command} <{ino}>{rest}");
        // Most of these do not fit most inodes.
        let mut quiet = Tally::default();
        run(session, &line, &mut quiet);
        tally.answers += quiet.answers;
    }
    run(session, "cd <2>", tally);
    run(session, "chroot <2>", tally);
}

fn run(session: &mut Session, line: &str, tally: &mut Tally) {
    match run_line(session, line.as_bytes(), &mut std::io::sink()) {
        Ok(()) => tally.answers += 1,
        Err(_) => tally.errors += 1,
    }
}
