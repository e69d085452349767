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
            Planned => matches!(next, AwaitingApproval | Running | Halted | Aborted),
            AwaitingApproval => matches!(next, Running | Halted | Aborted),
            Running => matches!(next, Paused | Halted | RollingBack | Completed | Superseded),
            Paused => matches!(next, Running | Halted | RollingBack | Superseded),
            // One that a restore halted before it had begun goes back to before its beginning, or is given up.
            Halted => matches!(
                next,
                Running | RollingBack | Superseded | Planned | AwaitingApproval | Aborted
            ),
            RollingBack => matches!(next, RolledBack | Halted),
            RolledBack | Completed | Aborted | Superseded => false,
        }
    }

    /// Where it comes back after a restore; none: as it was. It stands still until a person has looked, also where it had
    /// not begun: approvals from before must not begin it.
    pub fn restored(self) -> Option<State> {
        let moves = self != State::Halted && !self.is_final();
        moves.then_some(State::Halted)
    }

    /// Where a person's resumption leads. What had not begun when it was halted, by a restore, is about to begin again: it
    /// waits for approvals that it still needs, and is held against its preview like any that has waited.
    pub fn resumed(has_begun: bool, needs_approval: bool) -> State {
        match (has_begun, needs_approval) {
            (true, _) => State::Running,
            (false, true) => State::AwaitingApproval,
            (false, false) => State::Planned,
        }
    }

    /// May a person answer a check now? Also while it is paused, since it may be paused for want of the answer: that is
    /// kept, and counts once it goes on.
    pub fn takes_answers(self) -> bool {
        matches!(self, State::Running | State::Paused)
    }

    /// Does a person's no still count when it goes on from here? One that stopped it is asked again; one that was said while
    /// it was paused has stopped nothing yet.
    pub fn keeps_a_no(self) -> bool {
        self == State::Paused
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
            assert!(restored.is_none_or(|to| to == State::Halted));
        }
    }

    #[test]
    fn what_a_restore_halts_goes_on_from_where_it_was_when_a_person_resumes_it() {
        for (has_begun, needs_approval, to) in [
            (true, false, State::Running),
            (true, true, State::Running),
            (false, true, State::AwaitingApproval),
            (false, false, State::Planned),
        ] {
            assert_eq!(State::resumed(has_begun, needs_approval), to);
            assert!(State::Halted.can_move_to(to), "{to:?}");
        }
    }

    #[test]
    fn an_answer_that_is_given_while_it_is_paused_is_kept() {
        let takes = State::ALL.into_iter().filter(|state| state.takes_answers());
        assert_eq!(takes.collect::<Vec<_>>(), [State::Running, State::Paused]);
        assert!(State::Paused.keeps_a_no() && !State::Halted.keeps_a_no());
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
