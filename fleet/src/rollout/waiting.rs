//! What a rollout waits for: data, so that API, CLI and console show the same.

use std::fmt;

/// What a rollout waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// A role that goes first.
    Role {
        /// Who waits.
        role: String,
        /// For whom.
        after: String,
    },
    /// The same wave of a role that goes first, in an interleaved rollout.
    Wave {
        /// Who waits.
        role: String,
        /// For whom.
        after: String,
        /// Wave index from 0.
        wave: u32,
    },
    /// The end of a freeze.
    Freeze {
        /// Who waits.
        role: String,
        /// Which freeze.
        freeze: String,
    },
    /// Members of the open wave that have no outcome yet.
    Members {
        /// Role.
        role: String,
        /// Wave index from 0.
        wave: u32,
        /// Converged so far.
        converged: u64,
        /// Needed for the gate.
        needed: u64,
        /// Not picked up, applying, soaking.
        in_flight: u64,
    },
    /// Members that are silent, for as long as the plan gives them.
    Unreachable {
        /// Role.
        role: String,
        /// Wave index from 0.
        wave: u32,
        /// So many.
        members: u64,
        /// Still to go.
        left_ms: u64,
    },
    /// The soak.
    Soak {
        /// Role.
        role: String,
        /// Wave index from 0.
        wave: u32,
        /// Still to go.
        left_ms: u64,
    },
    /// Every wave has passed; these members are neither converged nor a named exception.
    Rest {
        /// Not picked up, applying, soaking.
        in_flight: u64,
        /// Failed, and not accepted by a person.
        failed: u64,
    },
    /// Evidence.
    Evidence {
        /// Why there is none.
        why: String,
    },
    /// Members that have not gone back yet.
    Returning {
        /// Role.
        role: String,
        /// So many.
        members: u64,
    },
    /// A person.
    Person {
        /// To do what.
        what: String,
    },
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: &u64| ms.div_ceil(1000);
        match self {
            Waiting::Role { role, after } => write!(f, "{after}, which goes before {role}"),
            Waiting::Wave { role, after, wave } => {
                write!(f, "{after} wave {}, which goes before {role}'s", wave + 1)
            }
            Waiting::Freeze { role, freeze } => {
                write!(
                    f,
                    "the end of freeze {freeze}: {role}'s next wave does not start before"
                )
            }
            Waiting::Members {
                role,
                wave,
                converged,
                needed,
                in_flight,
            } => write!(
                f,
                "{role} wave {}: {converged} of {needed} needed have converged, {in_flight} on their way",
                wave + 1
            ),
            Waiting::Unreachable {
                role,
                wave,
                members,
                left_ms,
            } => write!(
                f,
                "{role} wave {}: {members} unreachable members, for another {} s",
                wave + 1,
                seconds(left_ms)
            ),
            Waiting::Soak {
                role,
                wave,
                left_ms,
            } => write!(
                f,
                "{role} wave {}: soaking for another {} s",
                wave + 1,
                seconds(left_ms)
            ),
            Waiting::Rest {
                in_flight: 0,
                failed,
            } => write!(
                f,
                "a person: {failed} members have failed, all others are converged or named; retry them, accept them with resume after a pause, or roll back"
            ),
            Waiting::Rest { in_flight, failed } => write!(
                f,
                "the last members: {in_flight} on their way, {failed} failed"
            ),
            Waiting::Evidence { why } => write!(f, "evidence: {why}"),
            Waiting::Returning { role, members } => {
                write!(f, "{role}: {members} agents have not gone back yet")
            }
            Waiting::Person { what } => write!(f, "a person: {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_said_in_words() {
        let role = || "agent".to_owned();
        let said = [
            Waiting::Freeze {
                role: role(),
                freeze: "black-friday".into(),
            },
            Waiting::Unreachable {
                role: role(),
                wave: 1,
                members: 3,
                left_ms: 1_500,
            },
            Waiting::Rest {
                in_flight: 2,
                failed: 1,
            },
            Waiting::Returning {
                role: role(),
                members: 4,
            },
            Waiting::Wave {
                role: role(),
                after: "gateway".into(),
                wave: 0,
            },
        ]
        .map(|waiting| waiting.to_string());
        assert_eq!(
            said,
            [
                "the end of freeze black-friday: agent's next wave does not start before",
                "agent wave 2: 3 unreachable members, for another 2 s",
                "the last members: 2 on their way, 1 failed",
                "agent: 4 agents have not gone back yet",
                "gateway wave 1, which goes before agent's",
            ]
        );
    }
}
