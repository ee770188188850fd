//! Who hears of problems in order, reports them once, and answers the questions that go with them.

use std::collections::{BTreeMap, BTreeSet};

use super::problem::{Ask, Pass, Preen};
use super::report::{Finding, Sink};
use super::state::{Judge, Stop};

/// How often the same repair of the same place is tried before it counts as not possible.
const MAX_TRIES: u8 = 3;
/// Findings that are kept in mind so that none is reported twice.
const MAX_KNOWN: usize = 1 << 20;

/// Who answers the questions.
#[derive(Default)]
pub enum Answers<'a> {
    /// Nobody: nothing is repaired.
    #[default]
    No,
    /// Everything is repaired.
    Yes,
    /// What the table of problems says is safe is repaired; others end the check.
    Preen,
    /// Whoever is behind this.
    Ask(&'a mut dyn FnMut(&Finding) -> bool),
}

impl std::fmt::Debug for Answers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::No => "No",
            Self::Yes => "Yes",
            Self::Preen => "Preen",
            Self::Ask(_) => "Ask",
        })
    }
}

/// Reports every problem and goes on.
pub(super) struct Clerk<'a> {
    sink: &'a mut dyn Sink,
    answers: Answers<'a>,
    /// Which problems can be repaired.
    can_mend: fn(&Finding) -> bool,
    /// Problems of this round that leave the filesystem invalid and are not repaired.
    pub(super) errors: u64,
    /// All problems of this round.
    pub(super) found: u64,
    /// One of them ends the check.
    pub(super) fatal: bool,
    /// One of them is not for preening.
    pub(super) stopped: bool,
    /// What is to be repaired now.
    pub(super) accepted: Vec<Finding>,
    /// Repairs accepted in all rounds.
    pub(super) fixed: u64,
    /// Those of them that are more than bookkeeping.
    pub(super) corrected: u64,
    /// Bitmaps and counts are behind what was done on request: bringing them in line is no repair.
    pub(super) own_doing: bool,
    /// The next findings are known from the round before.
    known: BTreeSet<String>,
    tries: BTreeMap<String, u8>,
    refused: BTreeSet<String>,
    last_pass: Option<Pass>,
}

impl<'a> Clerk<'a> {
    /// One that repairs nothing.
    pub(super) fn new(sink: &'a mut dyn Sink) -> Self {
        Self::answered(sink, Answers::No, |_| false)
    }

    /// One that asks.
    pub(super) fn answered(sink: &'a mut dyn Sink, answers: Answers<'a>, can_mend: fn(&Finding) -> bool) -> Self {
        Self {
            sink,
            answers,
            can_mend,
            errors: 0,
            found: 0,
            fatal: false,
            stopped: false,
            accepted: Vec::new(),
            fixed: 0,
            corrected: 0,
            own_doing: false,
            known: BTreeSet::new(),
            tries: BTreeMap::new(),
            refused: BTreeSet::new(),
            last_pass: None,
        }
    }

    /// The check begins again, after repairs.
    pub(super) fn begin_round(&mut self) {
        (self.errors, self.found, self.fatal) = (0, 0, false);
        self.accepted.clear();
    }

    /// Answer every question with no from here on.
    pub(super) fn only_report(&mut self) {
        self.answers = Answers::No;
    }

    /// Whether anything is repaired at all.
    pub(super) const fn repairs(&self) -> bool {
        !matches!(self.answers, Answers::No)
    }

    pub(super) fn pass(&mut self, pass: Pass) {
        // Rounds go over the same passes again; each is named once.
        if self.last_pass.is_none_or(|last| pass > last) {
            self.last_pass = Some(pass);
            self.sink.pass(pass);
        }
    }

    /// Report a problem; the answer.
    pub(super) fn report(&mut self, finding: Finding) -> bool {
        let row = finding.problem.row();
        self.found += 1;
        let yes = self.repairs() && self.answer(&finding);
        self.errors += u64::from(!row.harmless && !yes);
        self.fatal |= row.fatal && !yes;
        if !(yes && self.is_own_doing(&finding)) && self.is_new(&finding) {
            self.sink.finding(&finding, yes);
        }
        if yes {
            self.accepted.push(finding);
        }
        yes
    }

    fn is_own_doing(&self, finding: &Finding) -> bool {
        self.own_doing && finding.problem.row().pass == Pass::P5
    }

    fn is_new(&mut self, finding: &Finding) -> bool {
        if !self.repairs() && self.known.is_empty() {
            return true;
        }
        self.known.len() >= MAX_KNOWN || self.known.insert(format!("{finding:?}"))
    }

    /// This cannot be repaired, whatever the answer.
    pub(super) fn refuse(&mut self, finding: &Finding) {
        self.refused.insert(place_of(finding));
    }

    /// Whether to repair it. What was tried in vain, and what was refused, is left alone.
    fn answer(&mut self, finding: &Finding) -> bool {
        let row = finding.problem.row();
        let place = place_of(finding);
        if self.refused.contains(&place) || self.tries.get(&place).is_some_and(|n| *n >= MAX_TRIES) {
            return false;
        }
        let able = row.ask != Ask::Nothing && (self.can_mend)(finding);
        let yes = match &mut self.answers {
            Answers::No => false,
            Answers::Yes => able,
            Answers::Preen => match row.preen {
                Preen::Fix => able,
                Preen::Decline => false,
                Preen::Stop => {
                    self.stopped = true;
                    false
                }
            },
            Answers::Ask(ask) => able && ask(finding),
        };
        if !yes {
            self.refused.insert(place);
        }
        yes
    }

    /// These are being repaired.
    pub(super) fn tried(&mut self, findings: &[Finding]) {
        let repairs = findings.iter().filter(|f| !self.is_own_doing(f));
        let (all, more) = repairs.fold((0, 0), |(n, m), f| (n + 1, m + u64::from(!f.problem.row().minor)));
        self.fixed += all;
        self.corrected += more;
        for f in findings {
            *self.tries.entry(place_of(f)).or_default() += 1;
        }
    }
}

/// What a repair is recognised by when it is tried again.
fn place_of(f: &Finding) -> String {
    format!("{:?} {:?} {:?} {:?}", f.problem, f.place, f.args.target, f.args.name)
}

impl Judge for Clerk<'_> {
    fn raise(&mut self, finding: Finding) -> Result<bool, Stop> {
        Ok(self.report(finding))
    }
}
