//! The JSON form of the views is a promise: `man/schema/fields.txt` lists every field with its type, and within a version
//! none may go away or change. After adding a field: `EXT4KIT_REGENERATE=1 cargo test --test schema`.
//!
//! A line that ends with `?` is a field that the test's image may not have (the host decides).

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops where it cannot go on")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use ext4kit::batch::Options;
use ext4kit::cli::SystemTimer;
use ext4kit::env::{FixedClock, Timestamp};
use ext4kit::inspect::Format;
use ext4kit::shell::{Commits, Session, Settings, run_line};
use serde_json::Value;

const COMMANDS: &[&str] = &[
    "stats",
    "groups",
    "features",
    "freefrag -c 64",
    "params",
    "pwd",
    "ls /",
    "ls -cd /many",
    "stat /",
    "stat /many",
    "stat /link",
    "stat /long",
    "stat /file",
    "stat /sparse",
    "ex /sparse",
    "ex /many",
    "blocks /file",
    "bmap /file 0",
    "bmap /sparse 1",
    "filefrag -v /",
    "es /sparse",
    "icheck 1 2 3 200 1100 8193 9000",
    "icheck 70 71 72",
    "ncheck -c 12 13",
    "dirsearch / file",
    "htree /many",
    "dx_hash abc",
    "ea_list /file",
    "inode_dump /file",
    "imap /file",
    "testi /file",
    "testb 1 2",
    "list_quota user",
    "dump_mmp",
    "help ls",
    "tree /",
    "find -n *file* /",
    "du /",
    "df",
    "lsdel",
    "logdump",
    "logdump -aO",
    "idump -x /file",
    "bd -x 1",
    "ffb 2",
    "ffi",
    "supported_features",
    "eo /sparse",
    "all",
    "info",
    "map /file",
];

/// Commands of a session that changes a copy of the image, `IMAGE`.
const CHANGING: &[&str] = &[
    "mkdir /new",
    "chmod 600 /file",
    "diff IMAGE",
    "undo -l",
    "undo",
    "wp mount",
    "wp write /file 0 30000",
    "wp read /file 0 100",
    "wp mmap /file 0 10",
    "es",
    "wp crash",
    "image raw OUT --scramble-names",
];

/// Every path into `value` with the type that is there. What depends on an object's variant keeps its name.
fn walk(value: &Value, path: &str, out: &mut BTreeSet<String>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(items) => {
            out.insert(format!("{path} array"));
            return items.iter().for_each(|v| walk(v, &format!("{path}[]"), out));
        }
        Value::Object(fields) => {
            return fields.iter().for_each(|(k, v)| walk(v, &format!("{path}.{k}"), out));
        }
    };
    out.insert(format!("{path} {kind}"));
}

fn found() -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let (source, image) = (dir.path().join("tree"), dir.path().join("img"));
    std::fs::create_dir_all(source.join("many")).unwrap();
    for n in 0..300 {
        std::fs::write(source.join(format!("many/with-a-longer-name-{n}")), "").unwrap();
    }
    std::fs::write(source.join("file"), vec![1; 20_000]).unwrap();
    let sparse = std::fs::File::create(source.join("sparse")).unwrap();
    for n in 0..20 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[7; 1024], n * 4096).unwrap();
    }
    std::os::unix::fs::symlink("file", source.join("link")).unwrap();
    std::os::unix::fs::symlink("x".repeat(100), source.join("long")).unwrap();
    let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"not-utf8-\xff");
    std::fs::write(source.join(name), "").unwrap();
    if let Err(e) = rustix::fs::lsetxattr(source.join("file"), "user.a", b"b", rustix::fs::XattrFlags::empty()) {
        eprintln!("skipped: user attributes: {e}");
    }
    let out = Command::new(env!("CARGO_BIN_EXE_e4mkfs"))
        .args(["-q", "-t", "ext4", "-b", "1024", "-O", "quota,mmp", "-d", source.to_str().unwrap()])
        .args([image.to_str().unwrap(), "32M"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut all = BTreeSet::new();
    let mut session = Session::new(Settings::new(Format::Json));
    session.open(image.as_os_str()).unwrap();
    answers(&mut session, COMMANDS.iter().map(|c| (*c).to_owned()), &mut all);
    let (copy, out_file) = (dir.path().join("copy"), dir.path().join("out"));
    std::fs::copy(&image, &copy).unwrap();
    let mut session = Session::new(Settings::new(Format::Json));
    let clock = FixedClock(Timestamp::from_secs(1_700_000_000));
    session.allow_writing(Options::new(Arc::new(clock), Arc::new(SystemTimer)), Commits::Each);
    session.open(copy.as_os_str()).unwrap();
    answers(
        &mut session,
        CHANGING.iter().map(|c| c.replace("IMAGE", image.to_str().unwrap()).replace("OUT", out_file.to_str().unwrap())),
        &mut all,
    );
    all
}

/// Run commands, and note the fields of their answers.
fn answers(session: &mut Session, commands: impl Iterator<Item = String>, all: &mut BTreeSet<String>) {
    for command in commands {
        let mut answer = Vec::new();
        run_line(session, command.as_bytes(), &mut answer).unwrap_or_else(|e| panic!("{command}: {e}"));
        for line in String::from_utf8(answer).unwrap().lines() {
            let value: Value = serde_json::from_str(line).unwrap();
            let schema = value["schema"].as_str().unwrap().strip_prefix("ext4kit/").unwrap().to_owned();
            let mut paths = BTreeSet::new();
            walk(&value, "", &mut paths);
            all.extend(paths.iter().map(|p| format!("{schema} {p}")));
        }
    }
}

/// What a value may be, as the lines of the list say.
#[derive(Default)]
struct Shape {
    types: BTreeSet<String>,
    fields: BTreeMap<String, Shape>,
    items: Option<Box<Shape>>,
}

impl Shape {
    /// Enter a line: a path like `.a.b[].c`, and the type there.
    fn enter(&mut self, path: &str, kind: &str) {
        if path.is_empty() {
            self.types.insert(kind.to_owned());
        } else if let Some(rest) = path.strip_prefix("[]") {
            self.types.insert("array".into());
            self.items.get_or_insert_default().enter(rest, kind);
        } else {
            let path = &path[1..];
            let end = path.find(['.', '[']).unwrap_or(path.len());
            self.types.insert("object".into());
            self.fields.entry(path[..end].to_owned()).or_default().enter(&path[end..], kind);
        }
    }

    fn schema(&self) -> Value {
        let mut object = serde_json::Map::new();
        let types: Vec<&String> = self.types.iter().collect();
        object.insert("type".into(), if let [one] = types[..] { one.clone().into() } else { serde_json::json!(types) });
        if !self.fields.is_empty() {
            let fields = self.fields.iter().map(|(name, shape)| (name.clone(), shape.schema()));
            object.insert("properties".into(), Value::Object(fields.collect()));
        }
        if let Some(items) = &self.items {
            object.insert("items".into(), items.schema());
        }
        Value::Object(object)
    }
}

/// A JSON Schema for each view, from the list of fields: file name and text.
fn schemas(list: &str) -> BTreeMap<String, String> {
    let mut shapes: BTreeMap<String, Shape> = BTreeMap::new();
    for line in list.lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.trim_end_matches('?').split(' ');
        let (name, path, kind) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        shapes.entry(name.to_owned()).or_default().enter(path, kind);
    }
    let file = |(name, shape): (&String, &Shape)| {
        let mut schema = shape.schema();
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
        schema["title"] = format!("ext4kit/{name}").into();
        schema["properties"]["schema"] = serde_json::json!({ "const": format!("ext4kit/{name}") });
        schema["required"] = serde_json::json!(["schema"]);
        (format!("{}.schema.json", name.replace('/', "-")), serde_json::to_string_pretty(&schema).unwrap() + "\n")
    };
    shapes.iter().map(file).collect()
}

#[test]
fn every_view_has_its_schema() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("man/schema");
    let want = schemas(&std::fs::read_to_string(dir.join("fields.txt")).unwrap());
    if std::env::var_os("EXT4KIT_REGENERATE").is_some() {
        for (name, text) in &want {
            std::fs::write(dir.join(name), text).unwrap();
        }
        return;
    }
    for (name, text) in &want {
        let have = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        assert!(have == *text, "{name} is stale: EXT4KIT_REGENERATE=1 cargo test --test schema (twice)");
    }
    let files = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let old: Vec<String> = files.filter(|f| f != "fields.txt" && !want.contains_key(f)).collect();
    assert!(old.is_empty(), "no view has these: {old:?}");
}

#[test]
fn fields_stay_as_they_are() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("man/schema/fields.txt");
    let found = found();
    let old = std::fs::read_to_string(&file).unwrap_or_default();
    let known: BTreeSet<&str> = old.lines().filter(|l| !l.starts_with('#')).collect();
    if std::env::var_os("EXT4KIT_REGENERATE").is_some() {
        let mut text = String::from(
            "# Fields of the JSON that e4sh --json and e4es --json write: schema (with its version), path, type.\n\
             # Several types: any of them. A `?` behind: not in every image. Made by `cargo test --test schema`.\n",
        );
        let kept = known.iter().map(|l| l.trim_end_matches('?').to_owned());
        for line in found.iter().cloned().chain(kept).collect::<BTreeSet<_>>() {
            let mark = if known.contains(format!("{line}?").as_str()) || !found.contains(&line) { "?" } else { "" };
            writeln!(text, "{line}{mark}").unwrap();
        }
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        return;
    }
    let new: Vec<&String> =
        found.iter().filter(|l| !known.contains(l.as_str()) && !known.contains(format!("{l}?").as_str())).collect();
    let gone: Vec<&&str> = known.iter().filter(|l| !l.ends_with('?') && !found.contains(**l)).collect();
    assert!(gone.is_empty(), "fields went away or changed: a new version of the schema is needed: {gone:#?}");
    assert!(new.is_empty(), "fields are not in {}: {new:#?}", file.display());
}
