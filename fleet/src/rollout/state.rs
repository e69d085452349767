//! Where a rollout is, and where it can go from there.

/// Where a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its lists are being made.
    Planned,
    /// Needs approvals.
    AwaitingApproval,
    /// Moves.
    Running,
    /// Stands still until a person resumes it.
    Paused,
    /// Stopped by a gate or a person.
    Halted,
    /// Gives members back what they had.
    RollingBack,
    /// Has given everything back.
    RolledBack,
    /// Everyone has converged or is a named exception.
    Completed,
    /// Given up before anything was offered.
    Aborted,
    /// Replaced by a newer revision's rollout.
    Superseded,
}

// === impl State ===

impl State {
    /// Every state.
    pub const ALL: [State; 10] = [
        State::Planned,
        State::AwaitingApproval,
        State::Running,
        State::Paused,
        State::Halted,
        State::RollingBack,
        State::RolledBack,
        State::Completed,
        State::Aborted,
        State::Superseded,
    ];

    /// The whole life cycle.
    pub fn can_move_to(self, next: State) -> bool {
        use State::{
            Aborted, AwaitingApproval, Completed, Halted, Paused, Planned, RolledBack, RollingBack,
            Running, Superseded,
        };
        match self {
            Planned => matches!(next, AwaitingApproval | Running | Aborted),
            AwaitingApproval => matches!(next, Running | Aborted),
            Running => matches!(next, Paused | Halted | RollingBack | Completed | Superseded),
            Paused => matches!(next, Running | Halted | RollingBack | Superseded),
            Halted => matches!(next, Running | RollingBack | Superseded),
            RollingBack => matches!(next, RolledBack | Halted),
            RolledBack | Completed | Aborted | Superseded => false,
        }
    }

    /// Where it comes back after a restore; none: as it was. It stands still until a person has looked. Of one that had
    /// not begun, nobody has anything: it is given up, as by a halt, rather than begun by approvals from before.
    pub fn restored(self) -> Option<State> {
        match self {
            State::Planned | State::AwaitingApproval => Some(State::Aborted),
            State::Running | State::Paused | State::RollingBack => Some(State::Halted),
            State::Halted
            | State::RolledBack
            | State::Completed
            | State::Aborted
            | State::Superseded => None,
        }
    }

    /// Nothing follows.
    pub fn is_final(self) -> bool {
        State::ALL.iter().all(|next| !self.can_move_to(*next))
    }

    /// The word people see.
    pub fn name(self) -> &'static str {
        match self {
            State::Planned => "planned",
            State::AwaitingApproval => "awaiting approval",
            State::Running => "running",
            State::Paused => "paused",
            State::Halted => "halted",
            State::RollingBack => "rolling back",
            State::RolledBack => "rolled back",
            State::Completed => "completed",
            State::Aborted => "aborted",
            State::Superseded => "superseded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_has_no_way_back_from_its_end() {
        let ends = State::ALL.into_iter().filter(|state| state.is_final());
        assert_eq!(
            ends.map(State::name).collect::<Vec<_>>(),
            ["rolled back", "completed", "aborted", "superseded"]
        );
        assert!(!State::Planned.can_move_to(State::Completed));
    }

    #[test]
    fn after_a_restore_nothing_moves_and_what_has_ended_stays_so() {
        for state in State::ALL {
            let restored = state.restored();
            let stands = state.is_final() || state == State::Halted;
            assert_eq!(restored.is_none(), stands, "{state:?}");
            assert!(restored.is_none_or(|to| to == state || state.can_move_to(to)));
            assert!(restored.is_none_or(|to| to == State::Halted || to == State::Aborted));
        }
    }

    #[test]
    fn every_state_has_its_word_and_can_be_reached() {
        for state in State::ALL {
            assert!(!state.name().is_empty());
            let reached = State::ALL.iter().any(|from| from.can_move_to(state));
            assert!(reached || state == State::Planned, "{state:?}");
        }
    }
}
