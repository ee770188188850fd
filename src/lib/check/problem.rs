//! What can be wrong: one row per problem.
//!
//! A row is data, never a branch: a stable id, e2fsck's number for the same thing where it has one, the pass that
//! finds it, a one-line text with typed arguments, the question that goes with a repair, and how it is answered when
//! nobody is asked. Ids never change their meaning; numbers from 500 on have no counterpart in e2fsck.
//! Rows live in [`super::table`].

use std::fmt;

use serde::Serialize;

pub use super::table::{PROBLEMS, Problem};

/// The stage of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pass {
    /// Superblock, group descriptors, journal.
    P0,
    /// Inodes, block maps, attributes.
    P1,
    /// Which inodes claim blocks that others claim too.
    P1B,
    /// What to do about such blocks.
    P1D,
    /// Directories.
    P2,
    /// Directory connectivity.
    P3,
    /// Link counts.
    P4,
    /// Bitmaps and counts.
    P5,
    /// Quota, orphan file.
    P6,
}

impl Pass {
    /// As it stands in an id.
    pub const fn label(self) -> &'static str {
        match self {
            Self::P0 => "0",
            Self::P1 => "1",
            Self::P1B => "1B",
            Self::P1D => "1D",
            Self::P2 => "2",
            Self::P3 => "3",
            Self::P4 => "4",
            Self::P5 => "5",
            Self::P6 => "6",
        }
    }

    /// What is checked in it.
    pub const fn subject(self) -> &'static str {
        match self {
            Self::P0 => "superblock, group descriptors and journal",
            Self::P1 => "inodes, blocks and sizes",
            Self::P1B => "blocks claimed more than once",
            Self::P1D => "files that share blocks",
            Self::P2 => "directories",
            Self::P3 => "directory connectivity",
            Self::P4 => "link counts",
            Self::P5 => "bitmaps and counts",
            Self::P6 => "quota and orphan file",
        }
    }
}

impl Serialize for Pass {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.label())
    }
}

/// What a repair would do, as the question that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Nothing is asked: a statement.
    Nothing,
    /// Put it right.
    Fix,
    /// Remove the wrong part.
    Clear,
    /// Clear the inode.
    ClearInode,
    /// Clear the directory's index.
    ClearIndex,
    /// Clear a flag.
    ClearFlag,
    /// Put it somewhere else.
    Relocate,
    /// Give it a block.
    Allocate,
    /// Put it into lost+found.
    Connect,
    /// Save what can be saved.
    Salvage,
    /// Cut it off.
    Truncate,
    /// Stop here.
    Abort,
    /// Give each file its own copy.
    Clone,
    /// Make it anew.
    Recreate,
    /// Rename it.
    Rename,
}

/// What the preen mode (`-p`) does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Preen {
    /// Repairs it without asking.
    Fix,
    /// Leaves it.
    Decline,
    /// Stops: a person must look.
    Stop,
}

/// A problem's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which problem.
    pub problem: Problem,
    /// Found in this pass.
    pub pass: Pass,
    /// Number within the pass.
    pub number: u16,
    /// e2fsck's code for it.
    pub e2fsck: Option<u32>,
    /// The question.
    pub ask: Ask,
    /// What preen mode does.
    pub preen: Preen,
    /// Left as it is, the filesystem still counts as valid.
    pub harmless: bool,
    /// Derived from what is right, or the checker's own bookkeeping: mending it alone does not count as a correction.
    pub minor: bool,
    /// The check cannot go on.
    pub fatal: bool,
    /// Text with `{argument}`s.
    pub text: &'static str,
}

impl Problem {
    /// The row.
    pub fn row(self) -> &'static Row {
        // The table is made in the order of the enumeration; a test compares them.
        &PROBLEMS[self as usize]
    }

    /// The stable id, like `E4-1-013`.
    pub fn id(self) -> String {
        let row = self.row();
        format!("E4-{}-{:03}", row.pass.label(), row.number)
    }

    /// The problem with this id.
    pub fn from_id(id: &str) -> Option<Self> {
        PROBLEMS.iter().map(|r| r.problem).find(|p| p.id() == id)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())
    }
}

impl Row {
    /// The answer when nobody is asked and repairs are allowed: yes, except where there is no question.
    pub const fn default_yes(&self) -> bool {
        !matches!(self.ask, Ask::Nothing)
    }
}

impl Serialize for Row {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut m = s.serialize_struct("Row", 10)?;
        m.serialize_field("id", &self.problem.id())?;
        m.serialize_field("name", &format!("{:?}", self.problem))?;
        m.serialize_field("e2fsck", &self.e2fsck.map(|c| format!("0x{c:06x}")))?;
        m.serialize_field("pass", &self.pass)?;
        m.serialize_field("ask", &self.ask)?;
        m.serialize_field("default_yes", &self.default_yes())?;
        m.serialize_field("preen", &self.preen)?;
        m.serialize_field("harmless", &self.harmless)?;
        m.serialize_field("fatal", &self.fatal)?;
        m.serialize_field("text", self.text)?;
        m.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_in_order_and_ids_are_unique() {
        let mut ids = BTreeSet::new();
        for (i, row) in PROBLEMS.iter().enumerate() {
            assert_eq!(row.problem as usize, i);
            assert!(ids.insert(row.problem.id()), "{} twice", row.problem);
            assert_eq!(Problem::from_id(&row.problem.id()), Some(row.problem));
            if let Some(code) = row.e2fsck {
                assert!(row.number >= 500 || code & 0xfff == u32::from(row.number), "{}", row.problem);
            } else {
                assert!(row.number >= 500, "{}", row.problem);
            }
        }
    }

    #[test]
    fn every_problem_is_raised_somewhere() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib/check");
        let mut code = String::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("table.rs") {
                code.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
        let silent: Vec<String> = PROBLEMS
            .iter()
            .map(|r| format!("{:?}", r.problem))
            .filter(|name| {
                let mut rest = code.as_str();
                let needle = format!("P::{name}");
                while let Some(at) = rest.find(&needle) {
                    rest = &rest[at + needle.len()..];
                    if !rest.starts_with(|c: char| c.is_alphanumeric()) {
                        return false;
                    }
                }
                true
            })
            .collect();
        assert!(silent.is_empty(), "never raised: {silent:?}");
    }
}
