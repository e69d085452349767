//! A revision's life, and the way back to an earlier one.

use crate::program::RevisionNumber;
use crate::rollout::{Direction, PlanSpec, rollback_plan};

/// Where a revision is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// Written.
    Draft,
    /// Every check passed.
    Validated,
    /// By as many as the family asks for.
    Approved,
    /// The one that new members get, for which a rollout is complete.
    Active,
    /// Was active.
    Superseded,
    /// Not wanted.
    Rejected,
}

/// A way back that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayBack {
    /// Where to.
    pub to: RevisionNumber,
    /// Roles go against their order.
    pub direction: Direction,
    /// One canary, then everything: it has run before.
    pub plan: PlanSpec,
}

/// Why there is no way back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWayBack {
    /// No such revision.
    #[error("family {family} has no revision {to}: list them with `muster families get {family}`")]
    Unknown {
        /// Family.
        family: String,
        /// As given.
        to: u64,
    },
    /// It is where it is.
    #[error("family {family} is at revision {to} already: name an earlier one")]
    IsStable {
        /// Family.
        family: String,
        /// As given.
        to: u64,
    },
    /// It is a way forward.
    #[error(
        "revision {to} of family {family} is newer than the stable one: start a rollout with `muster rollout start`"
    )]
    Newer {
        /// Family.
        family: String,
        /// As given.
        to: u64,
    },
    /// It never was active.
    #[error(
        "revision {to} of family {family} is {state} and never ran: going back is for revisions that were active"
    )]
    NeverRan {
        /// Family.
        family: String,
        /// As given.
        to: u64,
        /// Where it is.
        state: &'static str,
    },
    /// Nothing to go back from, and this never was active.
    #[error(
        "family {family} has no stable revision, and revision {to} never was: start a rollout with `muster rollout start`, or roll an open one back with `muster rollout rollback {family}`"
    )]
    NothingStable {
        /// Family.
        family: String,
        /// As given.
        to: u64,
    },
}

impl Life {
    /// The whole life cycle.
    pub fn can_move_to(self, next: Life) -> bool {
        use Life::{Active, Approved, Draft, Rejected, Superseded, Validated};
        match self {
            Draft => matches!(next, Validated | Rejected),
            // An edit makes a new draft; families without approvals go on at once.
            Validated => matches!(next, Approved | Active | Rejected | Draft),
            Approved => matches!(next, Active | Rejected | Draft),
            Active => next == Superseded,
            // By going back to it.
            Superseded => next == Active,
            Rejected => false,
        }
    }

    /// The word people see.
    pub fn name(self) -> &'static str {
        match self {
            Life::Draft => "draft",
            Life::Validated => "validated",
            Life::Approved => "approved",
            Life::Active => "active",
            Life::Superseded => "superseded",
            Life::Rejected => "rejected",
        }
    }
}

/// The way from the stable revision back to an earlier one. Takes its selectors back, too; allowed in a freeze; needs no
/// approval, since that revision had it. `last`: what the family has brought its agents to; of one that was deactivated,
/// so that it has no stable revision, what was stable then. It goes back to that, too, but not beyond.
pub fn way_back(
    family: &str,
    stable: Option<RevisionNumber>,
    last: Option<RevisionNumber>,
    to: RevisionNumber,
    life: Option<Life>,
) -> Result<WayBack, NoWayBack> {
    let family = || family.to_owned();
    match life {
        None => Err(NoWayBack::Unknown {
            family: family(),
            to: to.0,
        }),
        _ if stable == Some(to) => Err(NoWayBack::IsStable {
            family: family(),
            to: to.0,
        }),
        _ if last.is_some_and(|last| to > last) => Err(NoWayBack::Newer {
            family: family(),
            to: to.0,
        }),
        Some(Life::Superseded) => Ok(WayBack {
            to,
            direction: Direction::Back,
            plan: rollback_plan(),
        }),
        Some(_) if stable.is_none() => Err(NoWayBack::NothingStable {
            family: family(),
            to: to.0,
        }),
        Some(life) => Err(NoWayBack::NeverRan {
            family: family(),
            to: to.0,
            state: life.name(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_active_only_after_validation_and_never_after_rejection() {
        assert!(!Life::Draft.can_move_to(Life::Active));
        assert!(Life::Validated.can_move_to(Life::Active));
        assert!(Life::Approved.can_move_to(Life::Draft), "any edit voids it");
        assert!(Life::Active.can_move_to(Life::Superseded));
        assert!(Life::Superseded.can_move_to(Life::Active));
        assert!(!Life::Rejected.can_move_to(Life::Active));
    }

    #[test]
    fn the_way_back_goes_to_any_earlier_revision_that_ran() {
        let to = |n, life| {
            let stable = Some(RevisionNumber(5));
            way_back("web", stable, stable, RevisionNumber(n), life)
        };
        let back = to(2, Some(Life::Superseded)).unwrap();
        assert_eq!(
            (back.to, back.direction),
            (RevisionNumber(2), Direction::Back)
        );
        let said = |n, life| to(n, life).unwrap_err().to_string();
        assert_eq!(
            said(9, None),
            "family web has no revision 9: list them with `muster families get web`"
        );
        assert_eq!(
            said(5, Some(Life::Active)),
            "family web is at revision 5 already: name an earlier one"
        );
        assert_eq!(
            said(6, Some(Life::Validated)),
            "revision 6 of family web is newer than the stable one: start a rollout with `muster rollout start`"
        );
        for life in [Life::Draft, Life::Approved, Life::Rejected] {
            let expected = format!(
                "revision 4 of family web is {} and never ran: going back is for revisions that were active",
                life.name()
            );
            assert_eq!(said(4, Some(life)), expected);
        }
        let none = way_back("web", None, None, RevisionNumber(1), Some(Life::Draft));
        assert_eq!(
            none.unwrap_err().to_string(),
            "family web has no stable revision, and revision 1 never was: start a rollout with `muster rollout start`, or roll an open one back with `muster rollout rollback web`"
        );
    }

    #[test]
    fn a_family_that_was_deactivated_goes_back_to_what_it_had_and_not_forward() {
        let last = Some(RevisionNumber(5));
        let to = |n, life| way_back("web", None, last, RevisionNumber(n), life);
        for n in [4, 5] {
            let back = to(n, Some(Life::Superseded));
            assert_eq!(back.unwrap().to, RevisionNumber(n));
        }
        // It had been active before the family went back to 5: forward is a rollout as any.
        let newer = to(6, Some(Life::Superseded)).unwrap_err();
        assert!(matches!(newer, NoWayBack::Newer { .. }), "{newer}");
        let unknown = to(9, None).unwrap_err();
        assert!(
            unknown.to_string().contains("has no revision 9"),
            "{unknown}"
        );
    }
}
