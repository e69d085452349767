//! What an agent should run by its row, and what follows at its next message: who is told of it beforehand.

use std::collections::BTreeSet;

use fleet::offer::{Decision, Reported, Situation, State, Why, decide};
use fleet::program::{Desired, Epoch, Place, Program, Reason, Subject, desired, desired_borrowed};
use fleet::restored::Doubt;
use proto::opamp::AgentCapabilities;
use proto::store;

use super::evaluate::changes_owner;
use super::place_of;
use crate::drift;
use crate::inventory::{Columns, Row};

/// Would this row be sent something, or asked what it runs, at its next message?
pub fn is_due(
    columns: &Columns,
    program: &Program,
    re_offering: &BTreeSet<String>,
    row: &Row,
) -> bool {
    if row.alias {
        return false;
    }
    let doubt = row.word.doubt(program.epoch.incarnation());
    if row.restart_pending || doubt == Doubt::Unheard {
        return true;
    }
    let place = place_of(columns, program, row.uid, row.whose());
    let desired = desired_borrowed(&subject_of(row, place), program);
    let decision = next_for(row, &desired, doubt, re_offering);
    matches!(decision, Decision::Offer(_) | Decision::Adopt(_))
}

/// What follows for a row at its next message, if that says nothing new: also what it has drifted from, once more.
pub fn next_for(
    row: &Row,
    desired: &Desired<&str>,
    doubt: Doubt,
    re_offering: &BTreeSet<String>,
) -> Decision {
    let decision = decide(&situation(row, desired, doubt));
    let policy = row
        .owner()
        .is_some_and(|(family, _)| re_offering.contains(family));
    let settled = policy && desired.offerable && decision == Decision::Nothing(Why::Settled);
    match desired.delivery {
        Some(hash) if settled && drift::heals(&drift::Seen::of(row), &desired.named()) => {
            Decision::Offer(hash)
        }
        _ => decision,
    }
}

/// A row's situation at its next message, if that says nothing new. Room is asked for when it is offered something.
fn situation<'r>(row: &'r Row, desired: &Desired<&str>, doubt: Doubt) -> Situation<'r> {
    Situation {
        desired: desired.delivery,
        offerable: desired.offerable,
        // Its age decides nothing here, and the clock need not be asked.
        last: row.offer(0),
        reported: row.reported,
        refused: &row.refused,
        accepts: row.can(AgentCapabilities::AcceptsRemoteConfig),
        many_collectors: row.many_collectors(),
        duplicate: row.duplicate,
        doubt,
        changes_owner: changes_owner(row.owner(), desired),
        has_room: true,
        proves_not_received: false,
    }
}

/// What a row should run.
pub fn desired_of(row: &Row, place: Option<Place<'_>>, program: &Program) -> Desired {
    desired(&subject_of(row, place), program)
}

/// A row as the domain decides about it.
pub(super) fn subject_of<'a>(row: &'a Row, place: Option<Place<'a>>) -> Subject<'a, Row> {
    let whose = row.whose();
    Subject {
        uid: *row.uid.as_bytes(),
        owned_since: row.delivery.as_ref().map(|d| Epoch(d.owned_since)),
        granted: whose.granted,
        resolved: whose.resolved,
        stopped: row.stopped,
        facts: row,
        owner: whose.owner,
        delivery: row.delivery.as_ref().map(|d| d.hash),
        delivered_in: row.delivery.as_ref().map_or("", |d| &d.rollout),
        place,
    }
}

/// The delivery of a row by a person's words: what an agent's state is called everywhere.
pub fn state_of(row: &Row, desired: &Desired) -> &'static str {
    let stops = desired.reason == Reason::Stopped;
    let pinned = desired.reason == Reason::Pinned;
    let Some(delivery) = &row.delivery else {
        return match desired.reason {
            Reason::Unassigned => "unassigned",
            _ if desired.offerable => "pending pickup",
            _ => "unassigned",
        };
    };
    if desired.delivery.is_some_and(|hash| hash != delivery.hash) {
        let refused = desired
            .delivery
            .is_some_and(|hash| row.refused.contains(&hash));
        return match (refused, desired.offerable) {
            (true, _) => "refused",
            (false, true) => "pending pickup",
            (false, false) if pinned => "pinned",
            (false, false) => "drifted",
        };
    }
    let runs_another = row
        .reported
        .is_some_and(|(hash, status)| status == Reported::Applied && hash != delivery.hash);
    match delivery.state {
        State::Offered | State::Withdrawn => "pending pickup",
        State::Applying => "applying",
        State::Failed => "failed",
        State::RolledBackByAgent => "rolled back",
        State::NoAnswer => "no answer",
        State::Applied if stops => "stopped",
        State::Applied if delivery.effective == store::Match::No => "drifted",
        State::Applied if runs_another => "drifted",
        State::Applied if pinned && row.healthy => "pinned",
        State::Applied if row.healthy => "converged",
        State::Applied => "soaking",
    }
}
