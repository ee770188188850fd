//! The codes of e2fsck's table (releases 1.47.x) that have no row of ours, each with the reason.
//!
//! Together with the rows of [`super::problem`] these are all codes; a test counts them.

#![expect(clippy::unreadable_literal, reason = "the codes are written as e2fsck writes them")]

use serde::Serialize;

use super::problem::Problem as P;

/// Why a code has no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The same damage is reported as this problem.
    Within(P),
    /// A heading, a list's end, or a line that says how far things are.
    Progress,
    /// A question, or the second half of one, that goes with another code.
    Question,
    /// A failure to read, write, or get memory or space: an error with an exit code, not a problem of the filesystem.
    Failure,
    /// e2fsck's own mistakes.
    Internal,
    /// Said of a journal or its orphans as they are recovered, in the summary.
    Recovery,
    /// Cannot be found, for a reason of its own.
    Never,
}

/// A code without a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uncovered {
    /// e2fsck's code.
    pub e2fsck: u32,
    /// The kind of reason.
    pub why: Why,
    /// The reason in words.
    pub reason: &'static str,
}

impl Serialize for Uncovered {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut m = s.serialize_struct("Uncovered", 4)?;
        m.serialize_field("e2fsck", &format!("0x{:06x}", self.e2fsck))?;
        let (kind, problem) = match self.why {
            Why::Within(p) => ("within", Some(p.id())),
            Why::Progress => ("progress", None),
            Why::Question => ("question", None),
            Why::Failure => ("failure", None),
            Why::Internal => ("internal", None),
            Why::Recovery => ("recovery", None),
            Why::Never => ("never", None),
        };
        m.serialize_field("why", kind)?;
        m.serialize_field("problem", &problem)?;
        m.serialize_field("reason", self.reason)?;
        m.end()
    }
}

macro_rules! uncovered {
    ($($why:expr, $reason:literal: $($code:literal)*;)*) => {
        /// All of them, by reason.
        pub static UNCOVERED: &[Uncovered] = &[
            $($(Uncovered { e2fsck: $code, why: $why, reason: $reason },)*)*
        ];
    };
}

uncovered! {
    Why::Within(P::OpenFailed), "a superblock with this value is not used: a backup is": 0x000006 0x000008 0x00000d 0x000049 0x000050;
    Why::Within(P::SuperblockField), "the field follows from others and is put right": 0x000007;
    Why::Within(P::JournalBadSuper), "a journal that cannot be read as it says it is gets a new superblock": 0x000014 0x000027;
    Why::Within(P::JournalUnknownFeatures), "asked once": 0x000025;
    Why::Within(P::FutureLastMount), "no difference is made between a day and more": 0x00003c;
    Why::Within(P::FutureLastWrite), "no difference is made between a day and more": 0x00003d;
    Why::Within(P::FreeInodes), "counted by a full check": 0x00003f;
    Why::Within(P::FreeBlocks), "counted by a full check": 0x000040;
    Why::Within(P::OrphanFileCorrupted), "said once, when the file is checked": 0x000052 0x000053 0x000054 0x000055 0x06000f 0x060010;
    Why::Within(P::UpdateQuotas), "a quota file that cannot be read is written anew": 0x00004c;
    Why::Within(P::ShareMetadata), "said of the file that shares blocks with metadata": 0x01000f;
    Why::Within(P::AttrValueSize), "a value's place is checked together with its size": 0x010051;
    Why::Within(P::AttrValueEaInode), "the field is the number of the inode that holds the value": 0x010052;
    Why::Within(P::MissingExtentHeader), "the tree cannot be read": 0x010056;
    Why::Within(P::AttrSetEaInodeFlag), "asked once: to mark the inode": 0x010085;
    Why::Within(P::QuotaBadMode), "no release since 1.42 looks for it": 0x010064;
    Why::Within(P::DirCorrupted), "an entry that does not end with its block is damaged": 0x02001d;
    Why::Within(P::ReportDupDirent), "what becomes of a name that is there twice": 0x020041 0x020042;
    Why::Within(P::HtreeNotRef), "asked once for each index": 0x020038;
    Why::Within(P::BadInlineDirSize), "what cannot be made right is cleared": 0x02004f;
    Why::Within(P::UnconnectedDir), "what becomes of a directory that cannot be connected": 0x030006 0x030007 0x030008 0x030010;
    Why::Within(P::NoLostFound), "what becomes of lost files without a place for them": 0x030002 0x030019 0x03001a;
    Why::Within(P::NoRootInode), "without a root nothing goes on": 0x030014 0x030015;
    Why::Within(P::OrphanPresentNoFile), "asked once": 0x060008 0x06000a 0x06000b;

    Why::Progress, "a heading": 0x010000 0x011000 0x011001 0x012000 0x013000 0x014000 0x020000 0x030000 0x031000 0x040000 0x050000;
    Why::Progress, "a heading or the end of a list": 0x011003 0x014002 0x014003 0x014004 0x031003 0x031004 0x031005;
    Why::Progress, "a heading or the end of a list": 0x050003 0x050006 0x050007 0x05000a;
    Why::Progress, "says where metadata goes": 0x010020 0x010021;
    Why::Progress, "says which files share blocks, and how many": 0x013002 0x013004 0x013005;
    Why::Progress, "a hint for the user": 0x00000a 0x010014;
    Why::Progress, "said only with the wish to make extent trees smaller": 0x014006 0x014007;

    Why::Question, "asked for each problem of its kind": 0x00003e 0x010010 0x010013 0x010037 0x010043;
    Why::Question, "goes with the journal's problem": 0x000019 0x00002b 0x00002c 0x060001;
    Why::Question, "goes with the list of bad blocks": 0x010016 0x010017 0x010018;
    Why::Question, "goes with shared blocks: a copy is made, nothing is deleted": 0x013006 0x013007;
    Why::Question, "messages are never suppressed": 0x01002d;

    Why::Failure, "the device's size": 0x00000c;
    Why::Failure, "reading, writing or memory while metadata moves": 0x01001e 0x01001f 0x010022 0x010023 0x01004e 0x000029;
    Why::Failure, "memory": 0x010024 0x010025 0x010026 0x010027 0x010038 0x01003f 0x010061 0x01007c 0x01007e;
    Why::Failure, "memory": 0x01008c 0x011005 0x02001e 0x030011;
    Why::Failure, "reading or writing": 0x010028 0x010029 0x01002a 0x01002b 0x01002c 0x01003b 0x01003d 0x0100a0 0x011004 0x011006 0x011007;
    Why::Failure, "reading or writing": 0x02001f 0x020021 0x020022 0x020023 0x02003b 0x050012 0x050013;
    Why::Failure, "no room for a copy": 0x013008;
    Why::Failure, "making things smaller": 0x014001 0x031001 0x031002;
    Why::Failure, "no room for the root or lost+found": 0x030009 0x03000a 0x03000b 0x03000c 0x03000d 0x03000e 0x03000f 0x030012 0x030013;
    Why::Failure, "storing what was done": 0x060003 0x060004 0x060005 0x060006;

    Why::Internal, "a count that cannot be": 0x014005 0x02001c 0x020045 0x030016 0x040004 0x050010 0x050011;

    Why::Recovery, "orphans are counted": 0x000020 0x000021 0x000022 0x000023 0x000024;
    Why::Recovery, "the journal's damage": 0x00003a;

    Why::Never, "a length of eight bits holds no longer name": 0x020014;
    Why::Never, "numbers of devices mean nothing offline: an external journal is found by its identifier": 0x000033;
    Why::Never, "an identifier is nothing that a check could know; without one a filesystem is sound": 0x000009;
    Why::Never, "only with the wish to clear all marks of unwritten extents": 0x010087;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::check::PROBLEMS;

    /// Ranges of codes in use, by pass. What is missing in between was never used, or is used no more.
    const CODES: &[(u32, u32)] = &[
        (0x000001, 0x00001a),
        (0x000020, 0x000036),
        (0x000038, 0x000055),
        (0x010000, 0x01002d),
        (0x01002f, 0x010030),
        (0x010032, 0x01005f),
        (0x010061, 0x01006a),
        (0x01006c, 0x010083),
        (0x010085, 0x010092),
        (0x0100a0, 0x0100a0),
        (0x011000, 0x011008),
        (0x012000, 0x012000),
        (0x013000, 0x013008),
        (0x014000, 0x014007),
        (0x020000, 0x020029),
        (0x020030, 0x02004a),
        (0x02004c, 0x020055),
        (0x030000, 0x03001b),
        (0x03001d, 0x03001d),
        (0x031000, 0x031005),
        (0x040000, 0x040008),
        (0x050000, 0x05001b),
        (0x060001, 0x060010),
    ];

    #[test]
    fn every_code_is_covered_or_explained() {
        let mut known = BTreeSet::new();
        for code in PROBLEMS.iter().filter_map(|r| r.e2fsck).chain(UNCOVERED.iter().map(|u| u.e2fsck)) {
            assert!(known.insert(code), "{code:#08x} twice");
        }
        let all: BTreeSet<u32> = CODES.iter().flat_map(|(from, to)| *from..=*to).collect();
        let hex = |codes: &mut dyn Iterator<Item = &u32>| codes.map(|c| format!("{c:#08x}")).collect::<Vec<_>>();
        assert_eq!(hex(&mut all.difference(&known)), Vec::<String>::new(), "neither covered nor explained");
        assert_eq!(hex(&mut known.difference(&all)), Vec::<String>::new(), "no such code");
        let covered = PROBLEMS.iter().filter(|r| r.e2fsck.is_some()).count();
        println!("{covered} covered, {} explained, {} in all", UNCOVERED.len(), all.len());
    }
}
