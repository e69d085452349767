//! What the controller counts of its own looks, for whoever watches it. Nothing is decided by it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet::rollout::{Step, Verdict, Waiting};

/// Shared with who shows it. It is written twice a second.
#[derive(Default)]
pub struct Tally(Mutex<Counts>);

/// Since this node runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Looks at every open rollout.
    pub looks: u64,
    /// What they took, all together.
    pub looking: Duration,
    /// Looks in which a partition could not be read, by its name.
    pub unread: BTreeMap<String, u64>,
    /// Steps of rollouts that were stored, by their names.
    pub steps: BTreeMap<&'static str, u64>,
    /// Looks at one rollout that ended in an error; they are tried again.
    pub failed: u64,
    /// The gates that decide now, as they were judged last; none while this node does not move rollouts.
    pub gates: Gates,
}

/// Gates by their answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    /// Enough converged, and every check passes.
    pub pass: u64,
    /// Too many failed.
    pub fail: u64,
    /// Neither can be said.
    pub inconclusive: u64,
}

// === impl Tally ===

impl Tally {
    /// Everything that was counted.
    pub fn counts(&self) -> Counts {
        self.state().clone()
    }

    /// A look has ended.
    pub(super) fn looked(&self, took: Duration, unread: &[String], gates: Gates) {
        let mut counts = self.state();
        counts.looks += 1;
        counts.looking += took;
        counts.gates = gates;
        for partition in unread {
            *counts.unread.entry(partition.clone()).or_default() += 1;
        }
    }

    /// Another node moves rollouts: nothing is judged here.
    pub(super) fn rests(&self) {
        self.state().gates = Gates::default();
    }

    /// These steps were stored.
    pub(super) fn stepped(&self, steps: &[&'static str]) {
        let mut counts = self.state();
        for step in steps {
            *counts.steps.entry(*step).or_default() += 1;
        }
    }

    /// A rollout was not moved.
    pub(super) fn failed(&self) {
        self.state().failed += 1;
    }

    fn state(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Gates ===

impl Gates {
    /// Adds what the gates of a rollout have said.
    pub(super) fn add(&mut self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            match verdict {
                Verdict::Pass => self.pass += 1,
                Verdict::Fail { .. } => self.fail += 1,
                Verdict::Inconclusive { .. } => self.inconclusive += 1,
            }
        }
    }
}

/// Every name that a step has in counts.
pub const STEPS: [&str; 7] = [
    "open wave",
    "finish role",
    "complete",
    "stop",
    "pause",
    "open roll back",
    "finish roll back",
];

/// What a step is called in counts.
pub(super) fn step_name(step: &Step) -> &'static str {
    match step {
        Step::OpenWave { .. } => STEPS[0],
        Step::FinishRole { .. } => STEPS[1],
        Step::Complete => STEPS[2],
        Step::Stop { .. } => STEPS[3],
        Step::Pause { .. } => STEPS[4],
        Step::OpenRollBack { .. } => STEPS[5],
        Step::FinishRollBack => STEPS[6],
    }
}

/// What a rollout waits for, in one word.
pub(super) fn waiting_name(waiting: &Waiting) -> &'static str {
    match waiting {
        Waiting::Role { .. } | Waiting::Wave { .. } => "role",
        Waiting::Freeze { .. } => "freeze",
        Waiting::Members { .. } | Waiting::Rest { .. } => "members",
        Waiting::Unreachable { .. } => "unreachable",
        Waiting::Soak { .. } => "soak",
        Waiting::Evidence { .. } => "evidence",
        Waiting::Returning { .. } => "returning",
        Waiting::Person { .. } => "person",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_add_up_and_gates_are_those_of_the_last_one() {
        let tally = Tally::default();
        let gates = Gates {
            pass: 1,
            ..Gates::default()
        };
        tally.looked(Duration::from_millis(3), &[], gates);
        let unread = ["inventory-2".to_owned()];
        tally.looked(Duration::from_millis(4), &unread, Gates::default());
        tally.stepped(&["open wave", "open wave"]);
        tally.failed();
        let expected = Counts {
            looks: 2,
            looking: Duration::from_millis(7),
            unread: BTreeMap::from([("inventory-2".to_owned(), 1)]),
            steps: BTreeMap::from([("open wave", 2)]),
            failed: 1,
            gates: Gates::default(),
        };
        assert_eq!(tally.counts(), expected);
    }

    #[test]
    fn who_does_not_move_rollouts_judges_no_gate() {
        let tally = Tally::default();
        let gates = Gates {
            inconclusive: 2,
            ..Gates::default()
        };
        tally.looked(Duration::ZERO, &[], gates);
        assert_eq!(tally.counts().gates, gates);
        tally.rests();
        assert_eq!(tally.counts().gates, Gates::default());
    }
}
