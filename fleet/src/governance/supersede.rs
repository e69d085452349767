//! One rollout per family. A newer revision replaces an open one only when that is said, and how.

use crate::program::Epoch;
use crate::rollout::{Rollout, State};
use crate::waves::continued;

/// How a newer revision takes an open rollout's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum How {
    /// From wave 1: what is new is proven from the start.
    #[default]
    Restart,
    /// Waves that the old rollout has passed open at once; its newest wave begins behind their gate.
    Continue,
}

/// Why a start is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another one is open, and nothing was said about it.
    #[error(
        "rollout {rollout} of family {family} is {state}: finish it, roll it back with `muster rollout rollback {rollout}`, or replace it with --supersede restart or --supersede continue"
    )]
    Open {
        /// Family.
        family: String,
        /// Which.
        rollout: String,
        /// Where it is.
        state: &'static str,
    },
    /// It cannot be replaced where it is.
    #[error("rollout {rollout} of family {family} is {state} and cannot be replaced: {way_out}")]
    NotNow {
        /// Family.
        family: String,
        /// Which.
        rollout: String,
        /// Where it is.
        state: &'static str,
        /// What to do.
        way_out: &'static str,
    },
}

/// May a new rollout of this family begin while `open` is the newest one? `Some` state: the old one has to move there.
/// `has_begun`: its lists are made.
pub fn check(
    family: &str,
    rollout: &str,
    (open, has_begun): (State, bool),
    how: Option<How>,
) -> Result<Option<State>, Refused> {
    let (family, rollout, state) = (family.to_owned(), rollout.to_owned(), open.name());
    if open.is_final() {
        return Ok(None);
    }
    if how.is_none() {
        return Err(Refused::Open {
            family,
            rollout,
            state,
        });
    }
    // Nothing of it has been offered: it ends, and the new one begins from the start either way.
    if !has_begun {
        return Ok(Some(State::Aborted));
    }
    if open.can_move_to(State::Superseded) {
        return Ok(Some(State::Superseded));
    }
    Err(Refused::NotNow {
        family,
        rollout,
        state,
        way_out: "wait until it is rolled back",
    })
}

/// Says which waves of a new rollout open at once when their role's turn comes: as many as those fill that the old one
/// has passed. A wave that was only open proves nothing, and would put everybody into one wave without a canary.
///
/// Their members are `ahead` in the order of waves, so that they are the same agents. They are judged anew, nothing
/// counts as passed, and roles still wait for those before them.
pub fn take_over(old: &Rollout, new: &mut Rollout, how: How) {
    for role in &mut new.roles {
        let before = old.roles.iter().find(|before| before.name == role.name);
        let reached = before.map_or(0, |before| {
            let passed =
                before.open_waves as usize - usize::from(!before.done && before.open_waves > 0);
            let last = passed.checked_sub(1);
            last.and_then(|last| before.wave_ends.get(last).copied())
                .unwrap_or(0)
        });
        role.continue_at = match how {
            How::Restart => 0,
            How::Continue => continued(reached, &role.wave_ends),
        };
    }
}

/// From which program on a failure counts in a rollout that this one has opened: see [`crate::bucket::Sighting::since`].
/// `replaced`: the same of the open rollout whose place it takes; none: it takes nobody's.
///
/// Otherwise a bad config could be brought once more by a rollout that replaces the one in which it failed, and pass a
/// wave over those that it has broken.
pub fn since(opened: Epoch, replaced: Option<Epoch>) -> Epoch {
    replaced.map_or(opened, |before| before.min(opened))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::{Direction, Role, default_plan};

    fn rollout(ends: &[u64], open_waves: u32) -> Rollout {
        let role = Role {
            name: "agent".into(),
            wave_ends: ends.into(),
            open_waves,
            ..Role::default()
        };
        Rollout {
            state: State::Running,
            direction: Direction::Forward,
            plan: default_plan(),
            roles: vec![role],
            roll_back: None,
            inconclusive_ms: 0,
        }
    }

    #[test]
    fn a_second_rollout_of_a_family_says_what_becomes_of_the_first() {
        assert_eq!(
            check("web", "ro-1", (State::Running, true), None)
                .unwrap_err()
                .to_string(),
            "rollout ro-1 of family web is running: finish it, roll it back with `muster rollout rollback ro-1`, or replace it with --supersede restart or --supersede continue"
        );
        assert_eq!(
            check(
                "web",
                "ro-1",
                (State::RollingBack, true),
                Some(How::Restart)
            )
            .unwrap_err()
            .to_string(),
            "rollout ro-1 of family web is rolling back and cannot be replaced: wait until it is rolled back"
        );
        let replaced = check("web", "ro-1", (State::Halted, true), Some(How::Continue));
        assert_eq!(replaced, Ok(Some(State::Superseded)));
        // Also one that a restore halted before it had begun.
        for state in [State::Planned, State::AwaitingApproval, State::Halted] {
            let planned = check("web", "ro-1", (state, false), Some(How::Restart));
            assert_eq!(planned, Ok(Some(State::Aborted)));
        }
        assert_eq!(
            check("web", "ro-1", (State::Completed, true), None),
            Ok(None)
        );
    }

    #[test]
    fn failures_count_from_the_first_rollout_on_that_was_replaced_without_a_gap() {
        let first = since(Epoch(3), None);
        let second = since(Epoch(7), Some(first));
        assert_eq!(since(Epoch(9), Some(second)), Epoch(3));
        assert_eq!(since(Epoch(12), None), Epoch(12));
    }

    #[test]
    fn continuing_opens_what_was_reached_and_restarting_nothing() {
        let mut old = rollout(&[1, 10, 100], 3);
        let mut new = rollout(&[1, 5, 50, 110], 0);
        take_over(&old, &mut new, How::Continue);
        assert_eq!((new.roles[0].open_waves, new.roles[0].continue_at), (0, 2));
        old.roles[0].done = true;
        take_over(&old, &mut new, How::Continue);
        assert_eq!(new.roles[0].continue_at, 3);
        take_over(&old, &mut new, How::Restart);
        assert_eq!(new.roles[0].continue_at, 0);
    }
}
