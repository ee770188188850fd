//! The shell's answers against the reference debugfs and dumpe2fs, fact by fact, on images of many geometries made by the
//! reference mke2fs and filled by the kernel (or by `mke2fs -d` where the kernel does not mount them).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where it cannot go on")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Mount, fill_tree, run, tool};
use ext4kit::inspect::Format;
use ext4kit::shell::{Failure, Session, Settings, run_line};

/// An image, and the programs to compare with.
struct Bench {
    image: PathBuf,
    debugfs: PathBuf,
    dumpe2fs: PathBuf,
    session: Session,
    _dir: tempfile::TempDir,
}

fn fragment(root: &Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(root.join("frag")).unwrap();
    for n in (0..400u64).rev() {
        if n % 3 != 0 {
            file.write_all_at(&[n as u8; 1024], n * 4096).unwrap();
            file.sync_data().unwrap();
        }
    }
    // Where the filesystem has extents.
    let mode = rustix::fs::FallocateFlags::KEEP_SIZE;
    if let Err(e) = rustix::fs::fallocate(&file, mode, 2_000_000, 300_000) {
        eprintln!("skipped: fallocate: {e}");
    }
    for n in 0..40 {
        std::fs::remove_file(root.join(format!("many/entry-number-{n:05}-{}", "z".repeat(n % 50)))).unwrap();
    }
}

impl Bench {
    fn new(args: &[&str]) -> Option<Self> {
        let (mke2fs, debugfs, dumpe2fs) = (tool("mke2fs")?, tool("debugfs")?, tool("dumpe2fs")?);
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("img");
        std::fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
        let mut all: Vec<&str> = vec!["-q", "-F"];
        all.extend(args);
        let name = image.to_str().unwrap();
        run(&mke2fs, &all.iter().copied().chain([name]).collect::<Vec<_>>());
        if let Some(mount) = Mount::new(&image, "") {
            fill_tree(mount.path(), 1);
            fragment(mount.path());
        } else {
            let source = dir.path().join("tree");
            std::fs::create_dir(&source).unwrap();
            fill_tree(&source, 1);
            all.extend(["-d", source.to_str().unwrap(), name]);
            run(&mke2fs, &all);
        }
        let mut session = Session::new(Settings::new(Format::PLAIN));
        session.open(image.as_os_str()).unwrap();
        Some(Self { image, debugfs, dumpe2fs, session, _dir: dir })
    }

    fn ours(&mut self, command: &str) -> String {
        let mut out = Vec::new();
        run_line(&mut self.session, command.as_bytes(), &mut out).unwrap_or_else(|e| panic!("{command}: {e}"));
        escaped(&out)
    }

    /// What debugfs answers to each command.
    fn theirs(&self, commands: &[String]) -> Vec<String> {
        if commands.is_empty() {
            return Vec::new();
        }
        let mut child = Command::new(&self.debugfs)
            .args(["-f", "-"])
            .arg(&self.image)
            .env("TZ", "UTC")
            .env("DEBUGFS_PAGER", "__none__")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let script = commands.join("\n") + "\n";
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
        let out = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        let text = escaped(&out.stdout);
        let parts: Vec<String> = format!("\n{text}").split("\ndebugfs: ").skip(1).map(str::to_owned).collect();
        assert_eq!(parts.len(), commands.len());
        parts.iter().map(|p| p.split_once('\n').map_or("", |(_, answer)| answer).to_owned()).collect()
    }

    /// Ask both, and compare what `facts` makes of the answers.
    fn compare<T: PartialEq + std::fmt::Debug>(&mut self, commands: &[String], facts: impl Fn(&str) -> T) {
        for (command, theirs) in commands.iter().zip(self.theirs(commands)) {
            let ours = self.ours(command);
            assert_eq!(facts(&ours), facts(&theirs), "{command}\nours:\n{ours}\ntheirs:\n{theirs}");
        }
    }

    /// All files and directories: path, inode, directory.
    fn tree(&mut self) -> Vec<(String, u32, bool)> {
        let mut all = vec![("/".to_owned(), 2, true)];
        let mut next = 0;
        while let Some((path, _, is_dir)) = all.get(next).cloned() {
            next += 1;
            if !is_dir {
                continue;
            }
            for line in self.ours(&format!("ls -p {path}")).lines() {
                let fields: Vec<&str> = line.split('/').collect();
                let (ino, mode, name) = (fields[1].parse().unwrap(), fields[2], fields[5]);
                if name != "." && name != ".." && !name.contains('\\') {
                    all.push((format!("{}/{name}", path.trim_end_matches('/')), ino, mode.starts_with("04")));
                }
            }
        }
        all
    }
}

/// Text, with what is not ASCII as debugfs shows it in some listings.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for b in bytes {
        if b.is_ascii() {
            text.push(char::from(*b));
        } else {
            write!(text, "\\x{b:02x}").unwrap();
        }
    }
    text
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Lines with their spaces made alike, empty ones left out.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(words).filter(|l| !l.is_empty()).collect()
}

/// `Key: value` lines.
fn pairs(text: &str) -> BTreeMap<String, String> {
    let pair = |l: &str| l.split_once(':').map(|(k, v)| (k.trim().to_owned(), words(v)));
    text.lines().filter_map(pair).collect()
}

fn superblock(b: &mut Bench) {
    let out = Command::new(&b.dumpe2fs).arg("-h").arg(&b.image).env("TZ", "UTC").output().unwrap();
    let theirs = pairs(&String::from_utf8_lossy(&out.stdout));
    let ours = pairs(&b.ours("stats -h"));
    for (key, value) in &theirs {
        // Their words, and a structure of its own.
        if key.starts_with("mmp_") || key == "MMP_block" {
            continue;
        }
        let ours = ours.get(key).unwrap_or_else(|| panic!("no {key}: {value}"));
        if key == "Check interval" {
            assert_eq!(ours.split(' ').next(), value.split(' ').next());
        } else {
            assert_eq!(ours, value, "{key}");
        }
    }
}

fn groups(b: &mut Bench, bigalloc: bool) {
    let out = Command::new(&b.dumpe2fs).arg(&b.image).env("TZ", "UTC").output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let theirs = text.find("\nGroup 0:").map_or("", |at| &text[at..]);
    // Of a run of free clusters they name the first block of the last one, not its last block.
    let facts = |t: &str| {
        let free = |l: &String| bigalloc && l.starts_with("Free blocks");
        lines(t).into_iter().filter(|l| !free(l)).collect::<Vec<_>>()
    };
    for (ours, theirs) in facts(&b.ours("groups")).iter().zip(facts(theirs)) {
        assert_eq!(*ours, theirs);
    }
    // debugfs knows the same in other words; the counts must add up.
    let stats = pairs(&b.ours("stats -h"));
    let theirs = pairs(&b.theirs(&["stats -h".into()])[0]);
    assert_eq!(stats["Directories"], theirs["Directories"]);
}

/// `stat` without what only one side has.
fn stat_facts(text: &str) -> Vec<String> {
    let mut facts = Vec::new();
    for mut line in lines(text) {
        let is_xattr = ["user.", "system.", "trusted.", "security."].iter().any(|p| line.starts_with(p));
        if is_xattr {
            line = String::from(line.split_inclusive(')').next().unwrap_or_default());
        }
        // debugfs leaves these headings without content, and writes the rest of a deletion time.
        if ["BLOCKS:", "EXTENTS:", "Link dest:"].iter().any(|h| line.starts_with(h)) || line.starts_with("dtime") {
            continue;
        }
        facts.push(line);
    }
    facts
}

fn inodes(b: &mut Bench, tree: &[(String, u32, bool)]) {
    let by_path = tree.iter().map(|(path, ..)| format!("stat {path}"));
    let reserved = (2..20).map(|n| format!("stat <{n}>"));
    let commands: Vec<String> = by_path.chain(reserved).collect();
    b.compare(&commands, stat_facts);
    let few = || tree.iter().take(80).chain(tree.iter().rev().take(20));
    let places: Vec<String> = few()
        .flat_map(|(path, ..)| ["imap", "testi"].map(|c| format!("{c} {path}")))
        .chain(["testi <3000>".into()])
        .collect();
    b.compare(&places, |t| lines(&t.replace("not in use", "NOT").replace("marked in use", "USED")));
    let dumps: Vec<String> =
        few().flat_map(|(path, ..)| ["", "-b ", "-e "].map(|o| format!("inode_dump {o}{path}"))).collect();
    // They take the start of a line for a repetition at the end of the bytes.
    b.compare(&dumps, |t| lines(t).into_iter().filter(|l| l.split(' ').count() > 9).collect::<Vec<_>>());
}

/// Numbers of an extent listing.
fn extent_facts(text: &str) -> Vec<(Vec<u64>, bool)> {
    let numbers = |line: &str| {
        let digits = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
        let mut digits: Vec<u64> = digits.collect();
        // The estimated length of what a node describes; theirs wraps around beyond the end of the file.
        if let [.., start, end, _, len] = &mut digits[..]
            && (*len == 0 || *len > 1 << 31 || *end > *start + (1 << 31))
        {
            (*end, *len) = (0, 0);
        }
        (digits, line.contains("Uninit") || line.contains("Unwritten"))
    };
    text.lines().filter(|l| l.contains(" - ")).map(numbers).collect()
}

fn content(b: &mut Bench, tree: &[(String, u32, bool)]) {
    let mut with_extents: Vec<String> = Vec::new();
    let files: Vec<&str> =
        tree.iter().map(|(path, ..)| path.as_str()).filter(|p| !p.contains("entry-number")).collect();
    for path in &files {
        if b.ours(&format!("stat {path}")).contains("EXTENTS:") {
            with_extents.extend(["", "-n ", "-l "].map(|o| format!("ex {o}{path}")));
        }
    }
    b.compare(&with_extents, extent_facts);
    let mapped: Vec<&&str> = files.iter().filter(|p| b.session.resolve(p.as_bytes()).is_ok()).collect();
    let mut commands: Vec<String> = Vec::new();
    for path in mapped.iter().filter(|p| p.contains("file-") || p.contains("sparse") || p.contains("frag")) {
        for n in [0, 1, 2, 24, 25, 300, 1220, 70_000] {
            commands.push(format!("bmap {path} {n}"));
        }
    }
    // A file inside its inode has no blocks; debugfs reads the content as pointers.
    commands.retain(|c| {
        let path = c.split(' ').nth(1).unwrap();
        let stat = b.theirs_of(path);
        stat.contains("EXTENTS:") || stat.contains("BLOCKS:")
    });
    b.compare(&commands, |t| words(&t.replace("uninit", "unwritten")));
    let blocks: Vec<String> = commands.iter().map(|c| format!("blocks {}", c.split(' ').nth(1).unwrap())).collect();
    let blocks: Vec<String> = blocks.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    b.compare(&blocks, words);
}

impl Bench {
    fn theirs_of(&self, path: &str) -> String {
        self.theirs(&[format!("stat {path}")]).remove(0)
    }
}

fn directories(b: &mut Bench, tree: &[(String, u32, bool)]) {
    let dirs: Vec<&str> = tree.iter().filter(|(.., dir)| *dir).map(|(path, ..)| path.as_str()).collect();
    let listings: Vec<String> = dirs.iter().map(|d| format!("ls -p {d}")).collect();
    // Blocks of an index look like unused entries, which debugfs shows here.
    b.compare(&listings, |t| lines(t).into_iter().filter(|l| !l.starts_with("/0/")).collect::<Vec<_>>());
    // A directory inside its inode has no entries of its own for these; what stands in has no type and length there.
    let dots = |l: &str| l.ends_with(" .") || l.ends_with(" ..");
    let long: Vec<String> = dirs.iter().map(|d| format!("ls -l {d}")).collect();
    b.compare(&long, |t| lines(t).into_iter().filter(|l| !l.starts_with("0 0 (") && !dots(l)).collect::<Vec<_>>());
    let short: Vec<String> = dirs.iter().map(|d| format!("ls {d}")).collect();
    let entries = |t: &str| {
        let all: Vec<String> =
            t.split("    ").flat_map(|l| l.split('\n')).map(words).filter(|w| !w.is_empty()).collect();
        all.into_iter().filter(|e| !e.starts_with("0 (") && !dots(e)).map(|e| e.replace(" )", ")")).collect::<Vec<_>>()
    };
    b.compare(&short, |t| entries(t).concat().replace(' ', ""));
    // Searching: where the entry is.
    let searches: Vec<String> = tree
        .iter()
        .filter(|(path, ..)| path != "/")
        .step_by(37)
        .map(|(path, ..)| {
            let (dir, name) = path.rsplit_once('/').unwrap();
            format!("dirsearch {dir}/ {name}")
        })
        .collect();
    b.compare(&searches, |t| {
        t.lines().next().unwrap_or_default().split(": inode").next().unwrap_or_default().replace("offset ", "").clone()
    });
    for dir in &dirs {
        if b.ours(&format!("stat {dir}")).contains("index") {
            // Entries of the index, and names with their hashes; they list unused entries too.
            b.compare(&[format!("htree {dir}")], |t| {
                let fact = |l: &String| l.starts_with("Entry #") || l.contains(" 0x") || l.contains("(limit)");
                // Short ones may share a line.
                let all: BTreeSet<String> = lines(&t.replace("    ", "\n")).into_iter().filter(fact).collect();
                all.into_iter().filter(|l| !l.contains("hecksum") && !l.starts_with("0 ")).collect::<Vec<_>>()
            });
        }
    }
    for name in ["a", "abc", "entry-number-00042-zzzz", "n\u{e4}me", &"long".repeat(60)] {
        for version in ["legacy", "half_md4", "tea"] {
            b.compare(
                &[
                    format!("dx_hash -h {version} {name}"),
                    format!("dx_hash -h {version} -s ebc89e38-d91b-435b-ab12-5121b90ac6dc {name}"),
                ],
                words,
            );
        }
    }
}

/// First two words of each line: block and inode, or inode and path.
fn two_words(text: &str) -> Vec<(String, String)> {
    let two = |l: &str| {
        let mut w = l.split_whitespace();
        Some((w.next()?.to_owned(), w.next()?.replace("//", "/")))
    };
    text.lines().skip(1).filter_map(two).collect()
}

fn ownership(b: &mut Bench, tree: &[(String, u32, bool)]) {
    let numbers: Vec<String> = (1..4000).step_by(53).chain([8193, 9000, 16_500]).map(|n: u32| n.to_string()).collect();
    let command = format!("icheck {}", numbers.join(" "));
    let theirs: BTreeMap<_, _> = two_words(&b.theirs(std::slice::from_ref(&command))[0]).into_iter().collect();
    let mut ours: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (block, owner) in two_words(&b.ours(&command)) {
        ours.entry(block).or_default().insert(owner);
    }
    for (block, owner) in theirs {
        let found = &ours[&block];
        if owner == "<block" {
            // Not an inode's: free, or metadata, which only we name.
            assert!(found.iter().all(|o| o == "-" || o == "<block"), "block {block}: {found:?}");
        } else {
            assert!(found.contains(&owner), "block {block}: {owner}, ours {found:?}");
        }
    }
    let inodes: BTreeSet<String> = tree.iter().step_by(97).map(|(_, ino, _)| ino.to_string()).collect();
    let list = inodes.into_iter().filter(|i| i != "2").collect::<Vec<_>>().join(" ");
    b.compare(&[format!("ncheck {list}")], |t| two_words(t).into_iter().collect::<BTreeSet<_>>());
    b.compare(&["testb 1 3000".into()], lines);
}

fn attributes(b: &mut Bench, tree: &[(String, u32, bool)]) {
    let list: Vec<String> = tree.iter().take(60).map(|(path, ..)| format!("ea_list {path}")).collect();
    b.compare(&list, |t| {
        let fact = |l: String| l.split_inclusive(')').next().unwrap_or_default().to_owned();
        lines(t).into_iter().map(fact).collect::<Vec<_>>()
    });
    if !b.ours("ea_list /file-1").contains("user.small") {
        return;
    }
    b.compare(&["ea_get /file-1 user.small".into(), "ea_get -x /file-1 user.small".into()], words);
    b.compare(&["ea_get -V /file-1 user.small".into()], words);
    if b.ours("ea_list /file-65536").contains("user.huge") {
        b.compare(&["ea_get -x /file-65536 user.huge".into()], words);
    }
}

fn space(b: &mut Bench, tree: &[(String, u32, bool)], bigalloc: bool) {
    // debugfs counts clusters as if they were blocks, and finds nothing.
    if !bigalloc {
        b.compare(&["freefrag".into(), "freefrag -c 64".into()], |t| {
            let mut facts = pairs(t);
            facts.remove("Device");
            facts.remove("Extent Size Range");
            facts.retain(|k, _| !k.contains("..."));
            let class = |l: &str| l.contains("...").then(|| words(&l.replace(": ", "")).replace("... ", "..."));
            (facts, t.lines().filter_map(class).collect::<Vec<_>>())
        });
    }
    let files: Vec<String> = tree
        .iter()
        .filter(|(p, ..)| p.contains("file-") || p.contains("frag"))
        .map(|(p, ..)| format!("filefrag {p}"))
        .collect();
    b.compare(&files, |t| words(&t.replace("extents", "extent")));
    b.compare(&["filefrag -dv /many".into()], |t| {
        let row = |l: &str| l.split_whitespace().map(|w| w.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
        // Their first row's `expected` is there or not by what came before; ours is by the row before.
        t.lines()
            .filter_map(row)
            .filter(|r| r.len() > 3)
            .map(|r| (r[0], r[1], r[2], r[r.len() - 1]))
            .collect::<Vec<_>>()
    });
}

/// Who else may have it open, and how much everybody uses.
fn protection(b: &mut Bench, features: &str) {
    if features.contains("mmp") {
        b.compare(&["dump_mmp".into()], lines);
    }
    if features.contains("quota") {
        let lists = ["list_quota user", "list_quota group", "list_quota project", "get_quota user 0"];
        b.compare(&lists.map(str::to_owned), |t| lines(t).into_iter().skip(1).collect::<Vec<_>>());
    }
}

fn all_facts(name: &str, args: &[&str]) {
    let Some(mut b) = Bench::new(args) else { return };
    let tree = b.tree();
    assert!(tree.len() > 1400, "{name}: {} files", tree.len());
    superblock(&mut b);
    let bigalloc = args.iter().any(|a| a.contains("bigalloc"));
    groups(&mut b, bigalloc);
    inodes(&mut b, &tree);
    content(&mut b, &tree);
    directories(&mut b, &tree);
    ownership(&mut b, &tree);
    attributes(&mut b, &tree);
    protection(&mut b, &args.concat());
    space(&mut b, &tree, bigalloc);
}

macro_rules! geometries {
    ($($name:ident: $args:expr;)*) => {$(
        #[test]
        fn $name() {
            all_facts(stringify!($name), &$args);
        }
    )*};
}

geometries! {
    ext4_4k: ["-t", "ext4", "-b", "4096"];
    ext4_1k: ["-t", "ext4", "-b", "1024"];
    ext4_no_csum: ["-t", "ext4", "-O", "^metadata_csum,uninit_bg,^64bit"];
    ext4_inode_128: ["-t", "ext4", "-I", "128"];
    bigalloc: ["-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "8192"];
    meta_bg: ["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode"];
    inline_data: ["-t", "ext4", "-O", "inline_data"];
    many_features: ["-t", "ext4", "-b", "1024", "-O", "ea_inode,large_dir,quota,project,mmp,metadata_csum_seed"];
    casefold: ["-t", "ext4", "-O", "casefold,sparse_super2,^resize_inode", "-L", "a label", "-e", "panic"];
    ext3: ["-t", "ext3", "-b", "1024"];
    ext2: ["-t", "ext2", "-O", "^filetype,^dir_index"];
}

#[test]
fn failures_are_failures() {
    let Some(mut b) = Bench::new(&["-t", "ext4"]) else { return };
    for bad in [
        "stat /nope",
        "stat",
        "stat <0>",
        "stat <999999>",
        "nope",
        "ls /file-1",
        "cd /file-1",
        "cat /nope",
        "ex /null",
        "bmap /file-1",
        "bmap /file-1 x",
        "icheck x",
        "testb 0 0",
        "testb 99999999",
        "ncheck 0",
        "htree /",
        "ea_get /file-1 user.nope",
        "dirsearch / nope",
        "dx_hash -h md5 a",
        "dump /file-1",
        "dump /file-1 /nope/nope",
        "stat \"",
        "ls -Z",
        "freefrag -c 3",
        "open x",
        "lcd /nope",
        "block_dump 99999999",
    ] {
        let mut out = Vec::new();
        let outcome = run_line(&mut b.session, bad.as_bytes(), &mut out);
        assert!(matches!(outcome, Err(Failure::Library(_) | Failure::Usage(_))), "{bad}: {outcome:?}");
    }
}
