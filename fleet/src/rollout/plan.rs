//! The next steps of a rollout, what to keep, and what is waited for.

use std::collections::BTreeMap;

use super::advance::advance;
use super::gate::{Cause, Verdict};
use super::go_back::go_back;
use super::{Clock, Observed, Rollout, State, Waiting};
use crate::program::Scope;

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// Soak of the newest open wave by role, to be kept.
    pub soaked_ms: BTreeMap<String, u64>,
    /// The other clocks by role, to be kept.
    pub clocks: BTreeMap<String, Clock>,
    /// By role, what is still forgiven where that has become less, to be kept.
    pub forgiven: BTreeMap<String, Vec<u64>>,
    /// How long the gate could not decide, to be kept.
    pub inconclusive_ms: u64,
    /// What keeps it from going on.
    pub waiting: Vec<Waiting>,
    /// What the gates that decide now have said, until one of them stopped the rollout.
    pub verdicts: Vec<Verdict>,
}

/// One change of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next wave of this role begins.
    OpenWave {
        /// Role.
        role: String,
        /// Index from 0.
        wave: u32,
    },
    /// The role's last wave has passed.
    FinishRole {
        /// Role.
        role: String,
    },
    /// Every role is done, and every member has converged, is unchanged, or is a named exception.
    Complete,
    /// A gate failed.
    Stop {
        /// Role.
        role: String,
        /// Wave index from 0.
        wave: u32,
        /// Why.
        cause: Cause,
        /// What to take back; none: hold.
        roll_back: Option<Scope>,
    },
    /// A person has to look.
    Pause {
        /// Why.
        why: String,
    },
    /// The next role's turn to go back.
    OpenRollBack {
        /// Role.
        role: String,
    },
    /// Everything went back.
    FinishRollBack,
}

/// The next steps, what to keep, and what is waited for. `elapsed_ms` since the last call, by a monotonic clock.
///
/// Works on counts: its cost does not depend on the number of agents.
pub fn plan(rollout: &Rollout, observed: &Observed, elapsed_ms: u64) -> Plan {
    match rollout.state {
        State::Running => advance(rollout, observed, elapsed_ms),
        State::RollingBack => go_back(rollout, observed),
        state => Plan {
            waiting: standing(state),
            inconclusive_ms: rollout.inconclusive_ms,
            ..Plan::default()
        },
    }
}

fn standing(state: State) -> Vec<Waiting> {
    let what = match state {
        State::Paused => "resume, halt or roll back",
        State::Halted => "resume or roll back",
        State::AwaitingApproval => "approve",
        _ => return vec![],
    };
    vec![Waiting::Person {
        what: what.to_owned(),
    }]
}
