//! Every command of debugfs beside ours, on the same image. Commands that look must answer the same, line by line; commands
//! that write must leave an image that the reference `e2fsck` judges the same, with the same inodes and the same tree.
//! What differs is listed here, each with its reason. `EXT4KIT_TRANSCRIPT=1` writes to all images, not to the first only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where it cannot go on")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Mount, tool};
use ext4kit::inspect::Format;
use ext4kit::shell::{Session, Settings, run_line};

/// Geometries: a name, what mke2fs is told, and the size.
const IMAGES: &[(&str, &[&str])] = &[
    ("ext4", &["-t", "ext4"]),
    ("ext4, 1 KiB", &["-t", "ext4", "-b", "1024"]),
    ("ext3", &["-t", "ext3", "-b", "1024"]),
    ("ext2", &["-t", "ext2", "-b", "2048"]),
    ("no checksums", &["-t", "ext4", "-O", "^metadata_csum,^64bit", "-I", "128"]),
    ("bigalloc", &["-t", "ext4", "-O", "bigalloc", "-C", "16384"]),
    ("inline data", &["-t", "ext4", "-O", "inline_data"]),
    ("meta_bg", &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"]),
    ("quota", &["-t", "ext4", "-O", "quota,project", "-E", "quotatype=usrquota:grpquota:prjquota"]),
    ("ea_inode", &["-t", "ext4", "-O", "ea_inode", "-I", "512"]),
    ("casefold", &["-t", "ext4", "-O", "casefold"]),
    ("orphan file", &["-t", "ext4", "-O", "orphan_file,fast_commit"]),
    ("sparse_super2", &["-t", "ext4", "-b", "1024", "-O", "sparse_super2,^resize_inode", "-L", "label"]),
];

const LOOKING: &[&str] = &[
    "stats",
    "stats -h",
    "feature",
    "ls /",
    "ls -l /",
    "ls -p /",
    "ls -ld /",
    "ls -c /many",
    "ls -d many",
    "ls -lc many",
    "stat /",
    "stat hello",
    "stat mid",
    "stat big",
    "stat empty",
    "stat frag",
    "stat sl",
    "stat longsl",
    "stat null",
    "stat fifo",
    "stat many",
    "stat <7>",
    "stat <8>",
    "stat <1>",
    "imap hello",
    "imap many",
    "testi hello",
    "testi <999>",
    "ex hello",
    "ex big",
    "ex frag",
    "ex -n frag",
    "ex -l frag",
    "blocks hello",
    "blocks big",
    "blocks frag",
    "bmap big 0",
    "bmap big 12",
    "bmap frag 4",
    "filefrag -v big",
    "filefrag -v frag",
    "filefrag -dv many",
    "freefrag",
    "icheck 1 2 3 100 500 1000 2000 5000",
    "ncheck 11 12 13 14 99",
    "ncheck -c 12 13",
    "htree_dump many",
    "dirsearch / hello",
    "dirsearch many a-file-with-a-longer-name-33",
    "dx_hash -h half_md4 abc",
    "dx_hash -h tea -s 01020304-0506-0708-090a-0b0c0d0e0f10 abc",
    "ea_list mid",
    "ea_list hello",
    "ea_get mid user.a",
    "ea_get -x mid user.a",
    "ea_get -V mid user.a",
    "idump hello",
    "idump -b hello",
    "idump -e mid",
    "idump -x mid",
    "bd 1",
    "bd -f big 2",
    "bd -x 1",
    "testb 1 3",
    "testb 100 40",
    "ffb",
    "ffb 5",
    "ffi",
    "dump_mmp",
    "lq user",
    "lq group",
    "lq project",
    "gq user 1000",
    "lsdel",
    "dump_unused",
    "logdump",
    "logdump -S",
    "logdump -O",
    "logdump -aO",
    "logdump -acO",
    "logdump -O -b 131",
    "params",
    "pwd",
    "cat big",
    "supported_features metadata_csum",
    "supported_features journal_64bit",
    "icheck 99999999 10",
    "ex -n -l frag",
    "filefrag",
    "filefrag -rv /",
    "filefrag -d",
    "freefrag -c 64",
    "ea_get -xV mid user.a",
    "idump -x hello",
    "ls -l dir/sub",
    "ls -pd dir",
    "imap <12>",
    "ffb 3 9000",
    "ffi 12 0100644",
    "gq group 0",
    "stat dir/../hello",
    "stat ./dir/hard",
];

/// Differences that have a reason: the command, a part of the image's name, why.
const EXPLAINED: &[(&str, &str, &str)] = &[
    ("freefrag", "bigalloc", "debugfs takes clusters for blocks"),
    ("ffb", "bigalloc", "debugfs finds one block of a cluster only"),
    ("cat", "inline", "debugfs writes the whole area, not the file"),
    ("stat", "bigalloc", "debugfs takes clusters for blocks"),
    ("ls -d", "casefold", "the hashes behind names of the index look like entries to debugfs"),
    ("ls -l dir/sub", "inline", "debugfs shows an empty record as an entry"),
    ("stat dir/..", "inline", "debugfs finds no parent in a directory inside its inode"),
];

/// Lines that only we have: what dumpe2fs knows of the journal.
const OURS_ONLY: &[&str] = &[
    "Journal features",
    "Total journal",
    "Max transaction",
    "Fast commit length",
    "Journal sequence",
    "Journal start:",
    "Journal checksum",
    "Journal first block",
];

struct Tools {
    debugfs: PathBuf,
    mke2fs: PathBuf,
}

fn tools() -> Option<Tools> {
    Some(Tools { debugfs: tool("debugfs")?, mke2fs: tool("mke2fs")? })
}

/// One of everything, small.
fn fill(root: &Path) {
    use std::os::unix::fs::{FileExt, symlink};
    let bytes = |n: usize| -> Vec<u8> { (0..n).map(|i| (i * 31 % 251) as u8 + 1).collect() };
    std::fs::write(root.join("hello"), "hello").unwrap();
    std::fs::write(root.join("mid"), bytes(5000)).unwrap();
    std::fs::write(root.join("big"), bytes(300_000)).unwrap();
    std::fs::write(root.join("empty"), "").unwrap();
    let frag = std::fs::File::create(root.join("frag")).unwrap();
    for i in (0..60).step_by(2) {
        frag.write_all_at(&bytes(4096), i * 4096).unwrap();
    }
    std::fs::create_dir_all(root.join("dir/sub")).unwrap();
    std::fs::hard_link(root.join("hello"), root.join("dir/hard")).unwrap();
    symlink("hello", root.join("sl")).unwrap();
    symlink("y/".repeat(100), root.join("longsl")).unwrap();
    std::fs::create_dir(root.join("many")).unwrap();
    for i in 0..400 {
        std::fs::write(root.join(format!("many/a-file-with-a-longer-name-{i}")), "").unwrap();
    }
    let flags = rustix::fs::XattrFlags::empty();
    for (file, name, value) in [("mid", "user.a", b"value"), ("hello", "trusted.t", b"\x00\xff\x01\x02\x03")] {
        if let Err(e) = rustix::fs::lsetxattr(root.join(file), name, value, flags) {
            eprintln!("skipped: {name}: {e}");
        }
    }
    if common::is_root() {
        for (name, kind) in [("null", &["c", "1", "3"][..]), ("fifo", &["p"][..])] {
            let args: Vec<_> =
                std::iter::once(root.join(name).into_os_string()).chain(kind.iter().map(Into::into)).collect();
            common::run(Path::new("mknod"), &args);
        }
    }
}

/// An image, filled by the kernel where it mounts it, else by mke2fs.
fn image(tools: &Tools, dir: &Path, args: &[&str]) -> PathBuf {
    let path = dir.join("image");
    let _ = std::fs::remove_file(&path);
    std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let mut all = vec!["-q", "-F", "-E", "nodiscard"];
    all.extend(args);
    all.push(path.to_str().unwrap());
    common::run(&tools.mke2fs, &all);
    if let Some(mount) = Mount::new(&path, "") {
        fill(mount.path());
        return path;
    }
    let source = dir.join("source");
    if !source.exists() {
        std::fs::create_dir(&source).unwrap();
        fill(&source);
    }
    let with = ["-d", source.to_str().unwrap()];
    all.splice(0..0, with);
    common::run(&tools.mke2fs, &all);
    path
}

fn run(program: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).env("TZ", "UTC").env("PAGER", "cat").env("DEBUGFS_PAGER", "cat");
    // After everything that the images hold.
    command.env("SOURCE_DATE_EPOCH", "1900000000").env("E2FSPROGS_FAKE_TIME", "1900000000");
    command.output().unwrap()
}

fn e4sh() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_e4sh"))
}

/// Lines with single spaces, without empty ones.
fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let words = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ").replace("//", "/");
    text.lines().map(words).filter(|l| !l.is_empty()).collect()
}

/// The answers of debugfs, which repeats each command before it.
fn theirs(tools: &Tools, dir: &Path, image: &Path, commands: &[&str]) -> Vec<Vec<String>> {
    let script = dir.join("script");
    std::fs::write(&script, commands.join("\n") + "\n").unwrap();
    let out = run(&tools.debugfs, &["-f", script.to_str().unwrap(), image.to_str().unwrap()]).stdout;
    let out = String::from_utf8_lossy(&out).into_owned();
    let mut rest = out.as_str();
    let mut answers = Vec::new();
    for (i, command) in commands.iter().enumerate() {
        let marker = |c: &str| format!("debugfs: {c}\n");
        let here = marker(command);
        rest = &rest[rest.find(&here).unwrap_or_else(|| panic!("{command}")) + here.len()..];
        let end = commands.get(i + 1).and_then(|next| rest.find(&marker(next))).unwrap_or(rest.len());
        answers.push(lines(&rest.as_bytes()[..end]));
    }
    answers
}

/// Ours.
fn ours(image: &Path, commands: &[&str]) -> Vec<Vec<String>> {
    let mut session = Session::new(Settings::new(Format::PLAIN));
    session.open(image.as_os_str()).unwrap();
    let answer = |command: &&str| {
        let mut out = Vec::new();
        // What fails has said nothing, or what it found before.
        let _ = run_line(&mut session, command.as_bytes(), &mut out);
        lines(&out)
    };
    commands.iter().map(answer).collect()
}

#[test]
fn what_is_shown_is_what_debugfs_shows() {
    let Some(tools) = tools() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    let mut same = 0;
    for (name, args) in IMAGES {
        let image = image(&tools, dir.path(), args);
        let explained = |c: &str| EXPLAINED.iter().any(|(e, i, _)| c.starts_with(e) && name.contains(i));
        let commands: Vec<&str> = LOOKING.iter().copied().filter(|c| !explained(c)).collect();
        let both = theirs(&tools, dir.path(), &image, &commands).into_iter().zip(ours(&image, &commands));
        for (command, (theirs, mut ours)) in commands.iter().zip(both) {
            ours.retain(|l| !OURS_ONLY.iter().any(|o| l.starts_with(o)) || command.starts_with("logdump"));
            if theirs == ours {
                same += 1;
                continue;
            }
            let first = theirs.iter().zip(&ours).find(|(a, b)| a != b);
            wrong.push(format!("{name}: {command}: {} and {} lines, {first:?}", theirs.len(), ours.len()));
        }
    }
    eprintln!("{same} answers are the same");
    assert!(wrong.is_empty(), "{same} the same, {} not:\n{}", wrong.len(), wrong.join("\n"));
}

/// How an image with our changes must compare with debugfs's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    /// Both whole, with the same tree.
    Whole,
    /// Both damaged, with the same fields.
    Damaged,
    /// Theirs is damaged, ours is whole.
    Better,
}

const WRITING: &[(As, &[&str])] = &[
    (As::Whole, &["write DATA newf"]),
    (As::Whole, &["mkdir nd", "cd nd", "mkdir x"]),
    (As::Whole, &["ln hello h2", "sif hello links_count 3"]),
    // Without counting, as debugfs does it, the count is wrong.
    (As::Better, &["ln hello h2"]),
    (As::Better, &["unlink big"]),
    (As::Whole, &["rm big"]),
    (As::Whole, &["mkdir q", "rmdir q"]),
    (
        As::Whole,
        &[
            "symlink s1 target",
            "symlink s2 zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
        ],
    ),
    (As::Whole, &["mknod p1 p", "mknod c1 c 4 5", "mknod c2 c 0x4 010"]),
    (As::Whole, &["ln <12> h3", "sif <12> links_count 3", "sif <12> mtime 20200101"]),
    (As::Whole, &["ssv max_mnt_count -1", "ssv def_hash_version tea", "set_bg 0 checksum calc"]),
    (As::Whole, &["eo frag", "root", "down", "next", "info", "ec"]),
    (As::Damaged, &["sif hello checksum 5"]),
    (As::Damaged, &["eo frag", "root", "down", "delete", "ec"]),
    (As::Whole, &["ea_set hello user.q vvv", "ea_rm mid user.a"]),
    (As::Whole, &["sif hello mode 0100755", "sif hello uid 70000", "sif hello gid 5", "sif hello generation 77"]),
    (As::Damaged, &["sif hello links_count 9"]),
    (As::Damaged, &["sif big dtime 20200101"]),
    (As::Damaged, &["sif hello faddr 3"]),
    (As::Damaged, &["ssv inodes_count 7"]),
    (As::Whole, &["ssv free_blocks_count 1000", "ssv free_inodes_count 77"]),
    (
        As::Whole,
        &[
            "ssv volume_name ab",
            "ssv max_mnt_count 3",
            "ssv errors 3",
            "ssv mount_opts abc",
            "ssv raid_stride 4",
            "ssv def_resuid 7",
        ],
    ),
    (As::Damaged, &["set_bg 0 free_blocks_count 5", "set_bg 0 used_dirs_count 9", "set_bg 0 checksum calc"]),
    (As::Whole, &["dirty", "dirty -clean"]),
    (As::Damaged, &["setb 16000 3"]),
    (As::Damaged, &["freei hello"]),
    (As::Damaged, &["clri big"]),
    (As::Damaged, &["kill_file big"]),
    (As::Whole, &["kill_file big", "unlink big", "undel <14> back"]),
    (As::Whole, &["mkdir ee", "expand_dir ee"]),
    (As::Whole, &["punch frag 3 20"]),
    (As::Damaged, &["bmap hello 5 9600"]),
    (As::Better, &["bmap -a hello 5"]),
    (As::Whole, &["zap_block -f big -o 1 -l 2 -p 65 0"]),
    (As::Whole, &["set_current_time 20300101000000", "mkdir tt"]),
    (As::Whole, &["jo", "jw -b 9600,9602-9603 DATA", "jw -r 9600", "jc"]),
    (As::Whole, &["jo", "jw -b 9600,9602-9603 DATA", "jr"]),
];

/// What is not alike for a reason: a part of the image's name, the start of a command.
const UNLIKE: &[(&str, &str)] = &[
    // debugfs leaves the clusters of what it brings back uncounted.
    ("bigalloc", "undel"),
    // What lies inside the inode has no blocks; debugfs makes a map of its bytes.
    ("inline", "expand_dir"),
    ("inline", "bmap"),
    // Inodes have other numbers where mke2fs fills the image.
    ("quota", "undel"),
    ("casefold", "undel"),
    ("orphan file", "undel"),
    ("quota", "ln <12>"),
    ("casefold", "ln <12>"),
    ("orphan file", "ln <12>"),
    // There are no extents, and no checksums.
    ("ext3", "eo"),
    ("ext2", "eo"),
    ("ext3", "sif hello checksum"),
    ("ext2", "sif hello checksum"),
    ("no checksums", "sif hello checksum"),
    // The cluster belongs to other extents as well; debugfs leaves another count.
    ("bigalloc", "delete"),
    // There nothing has used the group yet, and debugfs's bits are lost with its flag.
    ("casefold", "setb"),
];

/// Inodes by path: type, mode, owner, size, links; not times and places.
fn tree(debugfs: &Path, image: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut todo = vec!["/".to_owned()];
    while let Some(dir) = todo.pop() {
        for line in lines(&run(debugfs, &["-R", &format!("ls -p \"{dir}\""), image]).stdout) {
            // Inode numbers may differ, as may the sizes of directories.
            let parts: Vec<&str> = line.split('/').collect();
            let [_, ino, mode, user, group, name, size, ..] = parts[..] else { continue };
            if ino == "0" || name == "." || name == ".." {
                continue;
            }
            all.insert(format!("{dir}{name} {mode} {user} {group} {size}"));
            if mode.starts_with("04") && name != "many" && name != "lost+found" {
                todo.push(format!("{dir}{name}/"));
            }
        }
    }
    all
}

#[test]
fn what_is_written_is_what_debugfs_writes() {
    let Some(tools) = tools() else { return };
    let Some(fsck) = tool("e2fsck") else { return };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::write(&data, (0..20_000).map(|i| (i % 256) as u8).collect::<Vec<_>>()).unwrap();
    let mut wrong = Vec::new();
    let few = if std::env::var_os("EXT4KIT_TRANSCRIPT").is_some() { IMAGES.len() } else { 1 };
    for (name, args) in IMAGES.iter().take(few) {
        let image = image(&tools, dir.path(), args);
        let judged = |image: &str| run(&fsck, &["-fn", image]).status.code().unwrap();
        // Where mke2fs fills the image, it does not count quotas.
        run(&fsck, &["-fy", image.to_str().unwrap()]);
        assert_eq!(judged(image.to_str().unwrap()), 0, "{name}");
        for (how, commands) in WRITING {
            let unlike = |(image, command): &(&str, &str)| {
                name.contains(image) && commands.iter().any(|c| c.starts_with(command))
            };
            if UNLIKE.iter().any(unlike) {
                continue;
            }
            let journalled = *name != "ext2";
            if commands[0] == "jo" && !journalled {
                continue;
            }
            let script = dir.path().join("script");
            std::fs::write(&script, commands.join("\n").replace("DATA", data.to_str().unwrap()) + "\n").unwrap();
            let copies = ["theirs", "ours"].map(|n| dir.path().join(n));
            for copy in &copies {
                std::fs::copy(&image, copy).unwrap();
            }
            let [theirs, ours] = copies.each_ref().map(|p| p.to_str().unwrap());
            let script = script.to_str().unwrap();
            run(&tools.debugfs, &["-w", "-f", script, theirs]);
            let out = run(e4sh(), &["-w", "-f", script, ours]);
            if !out.status.success() {
                wrong.push(format!("{name}: {commands:?}: {}", String::from_utf8_lossy(&out.stderr).trim()));
                continue;
            }
            let found = (judged(theirs) != 0, judged(ours) != 0);
            let want = match how {
                As::Whole => (false, false),
                As::Damaged => (true, true),
                As::Better => (true, false),
            };
            // debugfs does not count quotas.
            let found = if name.contains("quota") { (want.0, found.1) } else { found };
            if found != want {
                wrong.push(format!("{name}: {commands:?}: damaged {found:?} (theirs, ours), expected {want:?}"));
            }
            let trees = (tree(&tools.debugfs, theirs), tree(&tools.debugfs, ours));
            if *how != As::Better && trees.0 != trees.1 {
                let differing: Vec<_> = trees.0.symmetric_difference(&trees.1).take(4).collect();
                wrong.push(format!("{name}: {commands:?}: {differing:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn debugfs_commands_are_all_there_or_named() {
    let Some(tools) = tools() else { return };
    let out = run(&tools.debugfs, &["-R", "lr"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    // Names stand at the start of a line, before two spaces; what is behind, and indented lines, describe.
    let names = text.lines().skip(2).filter(|l| !l.starts_with(' ') && !l.is_empty());
    let names: BTreeSet<String> = names
        .flat_map(|l| l.split("  ").next().unwrap().split(',').map(|n| n.trim().to_owned()).collect::<Vec<_>>())
        .filter(|n| !n.is_empty())
        .collect();
    assert!(names.len() > 90, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|n| ext4kit::shell::find(n).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
