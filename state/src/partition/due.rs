//! What an agent should run by its row, and what follows at its next message: who is told of it beforehand.

use std::collections::BTreeSet;

use fleet::offer::{Decision, Reported, Situation, State, Why, decide};
use fleet::program::{Desired, Epoch, Place, Program, Reason, Subject, desired, desired_borrowed};
use fleet::restored::Doubt;
use proto::opamp::AgentCapabilities;
use proto::store::{self, Link};

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
        components: row.build.as_ref().and_then(|build| build.available()),
        facts: row,
        owner: whose.owner,
        delivery: row.delivery.as_ref().map(|d| d.hash),
        delivered_in: row.delivery.as_ref().map_or("", |d| &d.rollout),
        place,
    }
}

/// The delivery of a row by a person's words: what an agent's state is called everywhere. `unchanged`: an open rollout
/// lists it, and does not change its delivery.
pub fn state_of(row: &Row, desired: &Desired, unchanged: bool) -> &'static str {
    let stops = desired.reason == Reason::Stopped;
    let pinned = desired.reason == Reason::Pinned;
    let due = match row.link {
        Link::Connected => "pending pickup",
        Link::Lost | Link::Left | Link::Unspecified => "not reached",
    };
    let Some(delivery) = &row.delivery else {
        return match desired.reason {
            Reason::Unassigned => "unassigned",
            _ if desired.offerable => due,
            _ => "unassigned",
        };
    };
    if desired.delivery.is_some_and(|hash| hash != delivery.hash) {
        let refused = desired
            .delivery
            .is_some_and(|hash| row.refused.contains(&hash));
        return match (refused, desired.offerable) {
            (true, _) => "refused",
            (false, true) => due,
            (false, false) if pinned => "pinned",
            (false, false) => "drifted",
        };
    }
    let runs_another = row
        .reported
        .is_some_and(|(hash, status)| status == Reported::Applied && hash != delivery.hash);
    // Who reports no config statuses proves by its effective config what it cannot say, as in a rollout.
    let proves =
        !row.can(AgentCapabilities::ReportsRemoteConfig) && delivery.effective == store::Match::Yes;
    let state = match delivery.state {
        State::Offered | State::NoAnswer if proves => State::Applied,
        state => state,
    };
    match state {
        State::Offered | State::Withdrawn => "pending pickup",
        State::Applying => "applying",
        State::Failed => "failed",
        State::RolledBackByAgent => "rolled back",
        State::NoAnswer => "no answer",
        State::Applied if stops => "stopped",
        State::Applied if delivery.effective == store::Match::No => "drifted",
        State::Applied if runs_another => "drifted",
        State::Applied if pinned && row.healthy => "pinned",
        // What was so when it was heard last is no evidence of now.
        State::Applied if row.healthy && row.link != Link::Connected => "not reached",
        State::Applied if row.healthy && unchanged => "unchanged",
        State::Applied if row.healthy => "converged",
        State::Applied => "soaking",
    }
}

#[cfg(test)]
mod tests {
    use fleet::digest::Digest;
    use fleet::program::RevisionNumber;
    use proto::uid::Uid;

    use super::*;
    use crate::inventory::Interner;

    fn hash(of: &str) -> Digest {
        Digest::of("test", &[of.as_bytes()])
    }

    /// An agent that runs `a` by its own word. It does not report health, and counts as healthy.
    fn runs_a(link: Link) -> Row {
        let agent = store::Agent {
            link: link.into(),
            delivery: Some(store::Delivery {
                hash: hash("a").as_bytes().to_vec(),
                state: store::DeliveryState::Applied.into(),
                ..store::Delivery::default()
            }),
            ..store::Agent::default()
        };
        let uid = Uid::from_wire(&[7; 16]).unwrap();
        Row::new(uid, 1, &agent, &mut Interner::default())
    }

    fn should_run(what: &str) -> Desired {
        Desired {
            owner: Some(("web".into(), "agent".into())),
            revision: Some(RevisionNumber(1)),
            delivery: Some(hash(what)),
            offerable: true,
            reason: Reason::Stable,
            conditions: vec![],
        }
    }

    #[test]
    fn who_cannot_say_what_it_runs_converges_by_its_effective_config() {
        let mut row = runs_a(Link::Connected);
        row.delivery.as_mut().unwrap().state = State::NoAnswer;
        let word = |row: &Row| state_of(row, &should_run("a"), false);
        assert_eq!(word(&row), "no answer");
        row.delivery.as_mut().unwrap().effective = store::Match::Yes;
        assert_eq!(word(&row), "converged");
        // One that could say so and does not has not.
        row.capabilities |= AgentCapabilities::ReportsRemoteConfig as u64;
        assert_eq!(word(&row), "no answer");
    }

    #[test]
    fn who_is_due_and_silent_is_not_reached() {
        let word = |link| state_of(&runs_a(link), &should_run("b"), false);
        assert_eq!(word(Link::Connected), "pending pickup");
        assert_eq!([Link::Lost, Link::Left].map(word), ["not reached"; 2]);
    }

    #[test]
    fn who_is_silent_or_gone_is_not_called_converged() {
        let word = |link| state_of(&runs_a(link), &should_run("a"), false);
        assert_eq!(word(Link::Connected), "converged");
        assert_eq!([Link::Lost, Link::Left].map(word), ["not reached"; 2]);
    }

    #[test]
    fn who_is_listed_without_a_change_is_unchanged_and_converged_at_other_times() {
        let row = runs_a(Link::Connected);
        let word = |unchanged| state_of(&row, &should_run("a"), unchanged);
        assert_eq!((word(true), word(false)), ("unchanged", "converged"));
    }
}
