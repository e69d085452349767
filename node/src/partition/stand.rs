//! Where a member of a rollout stands: what [`fleet::bucket`] has to know of it, from its row.
//!
//! The controller asks this of every member twice a second. What is the same for all of them is found once, and nothing
//! is copied.

use fleet::bucket::{Bucket, Presence, Sighting, bucket};
use fleet::digest::Digest;
use fleet::membership::{Circumstances, Exclusion, exclusion};
use fleet::program::{
    Desired, Place, Program, ProgramRole, ProgramRollout, Reason, desired_borrowed, matching,
};
use proto::opamp::AgentCapabilities;
use proto::store::{self, Link, Match};

use super::subject_of;
use crate::inventory::{Delivery, Member, Row};

/// One look at a rollout's members.
pub(super) struct Stand<'a> {
    rollout: &'a store::Rollout,
    program: &'a Program,
    /// With the roles of its target; none: the program does not name it any more.
    named: Option<(&'a ProgramRollout, &'a [ProgramRole])>,
    now_ms: u64,
}

impl<'a> Stand<'a> {
    pub(super) fn of(rollout: &'a store::Rollout, program: &'a Program, now_ms: u64) -> Self {
        let named = program.rollout(&rollout.id);
        Stand {
            rollout,
            program,
            named: named.map(|(family, rollout)| (rollout, family.roles(rollout.to))),
            now_ms,
        }
    }

    /// The one bucket a member is in. Fresh: it was heard within two intervals.
    pub(super) fn bucket(&self, row: &Row, member: &Member, fresh: bool) -> Bucket {
        let rollout = self.rollout;
        let role = |(_, roles): (_, &'a [ProgramRole])| roles.get(member.role as usize);
        let role = self.named.and_then(role);
        let place = self.named.zip(role).map(|((rollout, _), role)| Place {
            rollout: &rollout.id,
            role: &role.name,
            wave: member.wave,
            taken_from: member.taken_from.as_ref().map(|from| (&*from.0, &*from.1)),
        });
        let desired = desired_borrowed(&subject_of(row, place), self.program);
        let is = |what: fn(&ProgramRollout, &Place<'_>) -> bool| {
            let there = self.named.zip(place.as_ref());
            there.is_some_and(|((rollout, _), place)| what(rollout, place))
        };
        let covered = is(ProgramRollout::covers);
        let taken_back = is(ProgramRollout::takes_back);
        // A completed rollout has opened every wave; the program names it no more, and people still ask who was missing.
        let completed = rollout.state() == store::RolloutState::Completed;
        let open = completed || is(ProgramRollout::is_open);
        let delivery = row.delivery.as_ref();
        let touched = delivery.is_some_and(|d| *d.rollout == *rollout.id);
        let target = role.map(|role| role.delivery);
        // A rollback that stands still has still given back what it gave back.
        let went_back = covered && touched && delivery.is_some_and(|d| Some(d.hash) != target);
        let (goal, taken_back) = match delivery {
            Some(d) if went_back => (Some(d.hash), true),
            _ => (desired.delivery, taken_back),
        };
        let excluded = excluded(
            row,
            self.named.map(|(_, roles)| roles),
            (
                &rollout.family,
                role.map(|role| role.name.as_str()),
                &rollout.id,
            ),
            matches!(desired.reason, Reason::Wave { .. } | Reason::Waiting { .. }),
            target,
        );
        bucket(&Sighting {
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
            fresh,
            excluded,
            pinned: desired.reason == Reason::Pinned && (desired.delivery != target || taken_back),
            target,
            flow_lost: false,
            refuses: goal.is_some_and(|hash| row.refused.contains(&hash)),
            reports_status: row.can(AgentCapabilities::ReportsRemoteConfig),
            goal,
            offer: delivery.map(|d| (d.hash, d.state, &*d.error)),
            reported: row.reported,
            healthy: row.healthy,
            health_age_ms: self.now_ms.saturating_sub(row.health_since_ms),
            was_healthy: delivery.is_some_and(|d| d.was_healthy),
            contradicts: delivery.is_some_and(|d| d.effective == Match::No),
            proves: delivery.is_some_and(|d| d.effective == Match::Yes),
        })
    }
}

/// Why a rollout, by family, role and id, cannot configure an agent that it lists; none: it can. `held`: its list decides
/// what the agent should run. `roles` are those of its target.
fn excluded(
    row: &Row,
    roles: Option<&[ProgramRole]>,
    (family, role, id): (&str, Option<&str>, &str),
    held: bool,
    target: Option<Digest>,
) -> Option<Exclusion> {
    let delivery = row.delivery.as_ref();
    let touched = delivery.is_some_and(|d| *d.rollout == *id);
    // What was taken from another family or role goes back to it.
    let here = |d: &Delivery| *d.family == *family && role.is_none_or(|role| *d.role == *role);
    let elsewhere = delivery.is_some_and(|d| !here(d)) && !touched && !held;
    // Relabelling takes nothing back from who was touched: its selectors need not be asked.
    let roles = match roles {
        Some(roles) if !touched => matching(roles, row).len(),
        _ => 1,
    };
    let excluded = exclusion(&Circumstances {
        duplicate: row.duplicate,
        reassigned: row.alias,
        re_owned: elsewhere,
        stopped: row.stopped,
        touched,
        roles,
        accepts: row.can(AgentCapabilities::AcceptsRemoteConfig),
        many_collectors: row.many_collectors(),
        ..Circumstances::default()
    });
    // It runs the target by its own word: no longer matching its role takes nothing back.
    let has_target = delivery.is_some_and(|d| Some(d.hash) == target);
    excluded.filter(|why| !(has_target && *why == Exclusion::Relabelled))
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
    let held = matches!(desired.reason, Reason::Wave { .. } | Reason::Waiting { .. });
    let of = (family.name.as_str(), Some(place.role), place.rollout);
    let why = excluded(row, Some(family.roles(rollout.to)), of, held, target)?;
    Some(format!(
        "excluded from rollout {}: {}",
        place.rollout,
        why.why()
    ))
}
