//! What a check found: findings with typed arguments, where they go, and the summary.
//!
//! Findings reach a [`Sink`] in an order that does not depend on the number of threads. Text and JSON are made from
//! the same [`Finding`].

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::problem::{Ask, Pass, Problem};
use super::tally::Tally;
use crate::error::Place;
use crate::units::{Fsblk, Group, Ino, Lblk};

/// One problem found at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which problem.
    pub problem: Problem,
    /// Where.
    pub place: Place,
    /// The other arguments.
    pub args: Args,
}

/// Arguments of a finding beyond its place. What a problem has no use for stays empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Args {
    /// What was found, as a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num: Option<u64>,
    /// What it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub want: Option<u64>,
    /// Another inode: the target of an entry, the other parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Ino>,
    /// Another block: the end of a range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block2: Option<Fsblk>,
    /// A name, as bytes.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "lossy")]
    pub name: Option<Vec<u8>>,
    /// A field, a structure, a reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<&'static str>,
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn lossy<S: serde::Serializer>(name: &Option<Vec<u8>>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&String::from_utf8_lossy(name.as_deref().unwrap_or_default()))
}

impl Finding {
    /// A problem at a place.
    pub fn at(problem: Problem, place: Place) -> Self {
        Self { problem, place, args: Args::default() }
    }

    /// A problem of the filesystem as a whole.
    pub fn fs(problem: Problem) -> Self {
        Self::at(problem, Place::FS)
    }

    /// A problem of an inode.
    pub fn inode(problem: Problem, ino: Ino) -> Self {
        Self::at(problem, Place::inode(ino))
    }

    /// A problem of a group.
    pub fn group(problem: Problem, group: Group) -> Self {
        Self::at(problem, Place::group(group))
    }

    /// With a block.
    #[must_use]
    pub fn block(mut self, block: Fsblk) -> Self {
        self.place.block = Some(block);
        self
    }

    /// With a logical block.
    #[must_use]
    pub fn lblk(mut self, lblk: u64) -> Self {
        self.place.lblk = Some(Lblk(u32::try_from(lblk).unwrap_or(u32::MAX)));
        self
    }

    /// With a byte offset.
    #[must_use]
    pub fn offset(mut self, offset: u64) -> Self {
        self.place.offset = Some(offset);
        self
    }

    /// With what was found.
    #[must_use]
    pub fn num(mut self, num: impl Into<u64>) -> Self {
        self.args.num = Some(num.into());
        self
    }

    /// With what it should be.
    #[must_use]
    pub fn want(mut self, want: impl Into<u64>) -> Self {
        self.args.want = Some(want.into());
        self
    }

    /// With another inode.
    #[must_use]
    pub fn target(mut self, ino: Ino) -> Self {
        self.args.target = Some(ino);
        self
    }

    /// With the end of a range.
    #[must_use]
    pub fn block2(mut self, block: Fsblk) -> Self {
        self.args.block2 = Some(block);
        self
    }

    /// With a name.
    #[must_use]
    pub fn name(mut self, name: &[u8]) -> Self {
        self.args.name = Some(name.to_vec());
        self
    }

    /// With a field or reason.
    #[must_use]
    pub fn what(mut self, what: &'static str) -> Self {
        self.args.what = Some(what);
        self
    }

    fn argument(&self, key: &str, out: &mut String) -> fmt::Result {
        let number = |v: Option<u64>, out: &mut String| match v {
            Some(v) => write!(out, "{v}"),
            None => out.write_str("?"),
        };
        match key {
            "ino" => number(self.place.ino.map(|v| v.0.into()), out),
            "group" => number(self.place.group.map(|v| v.0.into()), out),
            "lblk" => number(self.place.lblk.map(|v| v.0.into()), out),
            "block" => number(self.place.block.map(|v| v.0), out),
            "offset" => number(self.place.offset, out),
            "num" => number(self.args.num, out),
            "want" => number(self.args.want, out),
            "hex" => write!(out, "{:#x}", self.args.num.unwrap_or_default()),
            "wanthex" => write!(out, "{:#x}", self.args.want.unwrap_or_default()),
            "target" => number(self.args.target.map(|v| v.0.into()), out),
            "block2" => number(self.args.block2.map(|v| v.0), out),
            "name" => write!(out, "{:?}", String::from_utf8_lossy(self.args.name.as_deref().unwrap_or_default())),
            "what" => out.write_str(self.args.what.unwrap_or("?")),
            _ => write!(out, "{{{key}}}"),
        }
    }

    /// The text, with the arguments filled in.
    pub fn message(&self) -> String {
        let mut out = String::new();
        let mut rest = self.problem.row().text;
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            let Some((key, after)) = after.split_once('}') else { break };
            // Writing to a string does not fail.
            let _ = self.argument(key, &mut out);
            rest = after;
        }
        out.push_str(rest);
        out
    }

    /// As one JSON object.
    pub fn to_json(&self, fixed: bool) -> Value {
        let row = self.problem.row();
        let mut m = Map::new();
        m.insert("id".into(), json!(self.problem.id()));
        if let Some(code) = row.e2fsck {
            m.insert("e2fsck".into(), json!(format!("0x{code:06x}")));
        }
        m.insert("pass".into(), json!(row.pass));
        m.insert("place".into(), json!(self.place));
        if self.args != Args::default() {
            m.insert("args".into(), json!(self.args));
        }
        m.insert("message".into(), json!(self.message()));
        m.insert("harmless".into(), json!(row.harmless));
        if row.ask != Ask::Nothing {
            m.insert("answer".into(), json!(fixed));
        }
        Value::Object(m)
    }
}

/// Where findings go, in order.
pub trait Sink {
    /// A pass begins.
    fn pass(&mut self, pass: Pass) {
        let _ = pass;
    }

    /// A problem was found; `fixed` tells whether it is repaired.
    fn finding(&mut self, finding: &Finding, fixed: bool);
}

/// Keeps findings in memory.
#[derive(Debug, Default)]
pub struct Collect(pub Vec<Finding>);

impl Sink for Collect {
    fn finding(&mut self, finding: &Finding, _fixed: bool) {
        self.0.push(finding.clone());
    }
}

/// Writes one line per finding. An error in writing is kept and reported by [`TextSink::finish`].
#[derive(Debug)]
pub struct TextSink<W> {
    out: W,
    headings: bool,
    failed: Option<io::Error>,
}

impl<W: Write> TextSink<W> {
    /// A sink that writes to `out`, with a line for each pass where `headings` is set.
    pub const fn new(out: W, headings: bool) -> Self {
        Self { out, headings, failed: None }
    }

    /// The writer, or what went wrong.
    pub fn finish(mut self) -> io::Result<W> {
        match self.failed.take() {
            Some(e) => Err(e),
            None => Ok(self.out),
        }
    }

    fn keep(&mut self, r: io::Result<()>) {
        if let Err(e) = r {
            self.failed.get_or_insert(e);
        }
    }
}

impl<W: Write> Sink for TextSink<W> {
    fn pass(&mut self, pass: Pass) {
        if self.headings && pass != Pass::P0 {
            let r = writeln!(self.out, "Pass {}: {}", pass.label(), pass.subject());
            self.keep(r);
        }
    }

    fn finding(&mut self, finding: &Finding, fixed: bool) {
        let tail = match (fixed, finding.problem.row().ask) {
            (true, _) => " (fixed)",
            _ => "",
        };
        let r = writeln!(self.out, "{}: {}{tail}", finding.problem.id(), finding.message());
        self.keep(r);
    }
}

/// Keeps findings as JSON values, for one document at the end.
#[derive(Debug, Default)]
pub struct JsonSink(pub Vec<Value>);

impl Sink for JsonSink {
    fn finding(&mut self, finding: &Finding, fixed: bool) {
        self.0.push(finding.to_json(fixed));
    }
}

/// Figures of the filesystem, as counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Inodes in use.
    pub inodes_used: u64,
    /// Inodes there are.
    pub inodes_total: u64,
    /// Blocks in use.
    pub blocks_used: u64,
    /// Blocks there are.
    pub blocks_total: u64,
    /// Kinds and shapes of inodes.
    #[serde(flatten)]
    pub tally: Tally,
    /// Entries beyond the first that name the same file.
    pub extra_links: u64,
}

impl Summary {
    /// "N/M files (P% non-contiguous), N/M blocks", without the name of the image.
    pub fn line(&self) -> String {
        let permille = (self.tally.fragmented() * 1000).checked_div(self.inodes_used).unwrap_or(0);
        format!(
            "{}/{} files ({}.{}% non-contiguous), {}/{} blocks",
            self.inodes_used,
            self.inodes_total,
            permille / 10,
            permille % 10,
            self.blocks_used,
            self.blocks_total
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_filled_in() {
        let f = Finding::inode(Problem::BadIBlocks, Ino(12)).num(8u64).want(16u64);
        let text = f.message();
        assert!(text.contains("12") && text.contains('8') && text.contains("16"), "{text}");
        let j = f.to_json(false);
        assert_eq!(j["id"], "E4-1-013");
        assert_eq!(j["place"]["ino"], 12);
        assert_eq!(j["args"]["want"], 16);
    }

    #[test]
    fn templates_name_only_known_arguments() {
        for row in super::super::problem::PROBLEMS {
            let text = Finding::fs(row.problem).message();
            assert!(!text.contains('{') && !text.contains('}'), "{}: {text}", row.problem);
        }
    }
}
