//! Where a member of a rollout stands: what [`fleet::bucket`] has to know of it, from its row.
//!
//! What is the same for all members is found once, and nothing is copied. The controller asks twice a second: what was
//! found of each is kept in `verdicts`.

pub mod verdicts;

use fleet::bucket::{Bucket, Presence, Sighting, bucket};
use fleet::digest::Digest;
use fleet::membership::{Circumstances, Exclusion, exclusion};
use fleet::program::{
    Condition, Desired, Epoch, Place, Placed, Program, Reason, desired_borrowed, matching,
};
use fleet::restored::Doubt;
use proto::opamp::AgentCapabilities;
use proto::store::{self, Link, Match};

use super::listing::Listing;
use super::subject_of;
use crate::control::failures_since;
use crate::inventory::{Delivery, Member, Row};

/// One look at a rollout's members.
pub struct Stand<'a> {
    rollout: &'a store::Rollout,
    program: &'a Program,
    /// None: the program does not name it any more.
    named: Option<Listing<'a>>,
    now_ms: u64,
}

impl<'a> Stand<'a> {
    pub fn of(rollout: &'a store::Rollout, program: &'a Program, now_ms: u64) -> Self {
        Stand {
            rollout,
            program,
            named: Listing::of(program, &rollout.id),
            now_ms,
        }
    }

    /// The one bucket a member is in. Fresh: it was heard within two intervals.
    pub fn bucket(&mut self, row: &Row, member: &Member, fresh: impl FnOnce() -> bool) -> Bucket {
        let sighting = self.sighting(row, member);
        bucket(&Sighting {
            fresh: fresh(),
            ..sighting
        })
    }

    /// A member as seen now, but for whether it was heard lately.
    fn sighting<'m>(&mut self, row: &'m Row, member: &'m Member) -> Sighting<'m>
    where
        'a: 'm,
    {
        let rollout = self.rollout;
        let (placed, desired) = match &mut self.named {
            Some(listing) => listing.desired(row, member),
            None => (None, desired_borrowed(&subject_of(row, None), self.program)),
        };
        let is = |what: fn(&Placed<'_>) -> bool| placed.as_ref().is_some_and(what);
        let covered = is(|placed| placed.covered);
        let taken_back = is(|placed| placed.taken_back);
        // A completed rollout has opened every wave; the program names it no more, and people still ask who was missing.
        let completed = rollout.state() == store::RolloutState::Completed;
        let open = completed || is(|placed| placed.open);
        let delivery = row.delivery.as_ref();
        let touched = delivery.is_some_and(|d| *d.rollout == *rollout.id);
        let target = placed.map(|placed| placed.target.delivery);
        // A rollback that stands still has still given back what it gave back.
        let went_back = covered && touched && delivery.is_some_and(|d| Some(d.hash) != target);
        let (goal, taken_back) = match delivery {
            Some(d) if went_back => (Some(d.hash), true),
            _ => (desired.delivery, taken_back),
        };
        let doubt = row.word.doubt(self.program.epoch.incarnation());
        let excluded = excluded(
            row,
            doubt,
            || self.named.as_ref().map_or(1, |named| named.roles(row)),
            (
                &rollout.family,
                placed.map(|placed| placed.target.name.as_str()),
            ),
            (touched, covered),
            Held::of(&desired.reason, &desired.conditions),
            target,
        );
        Sighting {
            presence: match row.link {
                Link::Connected => Presence::Connected,
                Link::Left => Presence::Left,
                Link::Lost | Link::Unspecified => Presence::Lost,
            },
            unchanged: member.unchanged,
            open,
            touched,
            covered,
            taken_back,
            fresh: false,
            excluded,
            pinned: desired.reason == Reason::Pinned && (desired.delivery != target || taken_back),
            target,
            flow_lost: false,
            since: failures_since(rollout),
            refused: goal.and_then(|hash| row.refusal(hash)),
            reports_status: row.can(AgentCapabilities::ReportsRemoteConfig),
            goal,
            offer: delivery.map(|d| (d.hash, d.state, &*d.error)),
            offered_by: Epoch(delivery.map_or(0, |d| d.epoch)),
            // What it said before a restore is no evidence.
            reported: row.reported.filter(|_| doubt != Doubt::Unheard),
            healthy: row.healthy,
            health_age_ms: self.now_ms.saturating_sub(row.health_since_ms),
            was_healthy: delivery.is_some_and(|d| d.was_healthy),
            contradicts: delivery.is_some_and(|d| d.effective == Match::No),
            proves: delivery.is_some_and(|d| d.effective == Match::Yes),
        }
    }
}

/// Who decides what a listed agent should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// The list does.
    ByList,
    /// It would, but the agent's build lacks a component.
    Lacking,
    /// Somebody or something else.
    Elsewhere,
}

impl Held {
    fn of<N>(reason: &Reason<N>, conditions: &[Condition]) -> Self {
        let lacks = |c: &Condition| matches!(c, Condition::LacksComponents { .. });
        match reason {
            Reason::Wave { .. } | Reason::Waiting { .. } => Held::ByList,
            _ if conditions.iter().any(lacks) => Held::Lacking,
            _ => Held::Elsewhere,
        }
    }
}

/// Why a rollout of this family and role cannot configure an agent that it lists; none: it can. `touched`: it has offered
/// it something, and, if that goes back or went, `covered`. `roles`: how many of its target match.
fn excluded(
    row: &Row,
    doubt: Doubt,
    roles: impl FnOnce() -> usize,
    (family, role): (&str, Option<&str>),
    (touched, covered): (bool, bool),
    held: Held,
    target: Option<Digest>,
) -> Option<Exclusion> {
    let delivery = row.delivery.as_ref();
    // What was taken from another family or role goes back to it.
    let here = |d: &Delivery| *d.family == *family && role.is_none_or(|role| *d.role == *role);
    let goes_back = touched && covered;
    let elsewhere = delivery.is_some_and(|d| !here(d)) && !goes_back && held == Held::Elsewhere;
    // Relabelling takes nothing back from who was touched: its selectors need not be asked.
    let roles = if touched { 1 } else { roles() };
    let excluded = exclusion(&Circumstances {
        duplicate: row.duplicate,
        reassigned: row.alias,
        re_owned: elsewhere,
        stopped: row.stopped,
        touched,
        roles,
        accepts: row.can(AgentCapabilities::AcceptsRemoteConfig),
        many_collectors: row.many_collectors(),
        lacks_components: held == Held::Lacking,
        conflict: matches!(doubt, Doubt::Conflict(_)),
    });
    // It runs the target by its own word: no longer matching its role takes nothing back.
    let has_target = delivery.is_some_and(|d| Some(d.hash) == target);
    excluded.filter(|why| !(has_target && *why == Exclusion::Relabelled))
}

/// What a restore has left open about an agent, in words that name the way out; none: nothing.
pub fn doubt_text(row: &Row, program: &Program) -> Option<String> {
    match row.word.doubt(program.epoch.incarnation()) {
        Doubt::None => None,
        Doubt::Unheard => Some(
            "restored: nothing is offered to it until it has said in full what it runs".to_owned(),
        ),
        Doubt::Conflict(hash) => Some(format!(
            "conflict: it runs {}, which this server never offered to it; it keeps that until `muster agents retry`",
            &hash.to_hex()[..12]
        )),
    }
}

/// Why the open rollout that lists an agent cannot configure it, in words; none: it can.
pub fn excluded_text(
    row: &Row,
    program: &Program,
    place: &Place<'_>,
    desired: &Desired,
) -> Option<String> {
    let (family, rollout) = program.rollout(place.rollout)?;
    let target = family
        .role(rollout.to, place.role)
        .map(|role| role.delivery);
    let held = Held::of(&desired.reason, &desired.conditions);
    let touched = row.delivery.as_ref();
    let touched = touched.is_some_and(|d| *d.rollout == *place.rollout);
    let of = (family.name.as_str(), Some(place.role));
    let state = (touched, rollout.covers(place));
    let doubt = row.word.doubt(program.epoch.incarnation());
    let roles = || matching(family.roles(rollout.to), row).len();
    let why = excluded(row, doubt, roles, of, state, held, target)?;
    Some(format!(
        "excluded from rollout {}: {}",
        place.rollout,
        why.why()
    ))
}

#[cfg(test)]
mod tests;
