//! What the replicas of a process show of a rollout's members.

use std::collections::BTreeMap;

use fleet::bucket::{Bucket, Counts, Presence, Sighting, bucket};
use fleet::membership::{Circumstances, exclusion};
use fleet::offer::Failure;
use fleet::program::{Epoch, Program, RevisionNumber, matching};
use fleet::rollout::{Observed, Signs, State};

use crate::agent::SLOW_POLL_MS;
use crate::cluster::Process;
use crate::evaluate::OFFER_TIMEOUT_MS;
use crate::gateway::partition_of;
use crate::ledger::{AgentDoc, RolloutDoc};
use crate::program::{ROLE, delivery, place, wants_at};
use crate::time::now_ms;

/// Silent for so long: lost.
const LOST_MS: u64 = 3 * SLOW_POLL_MS;

/// Counts by wave, with evidence of this age.
pub fn observe(
    process: &Process,
    program: &Program,
    id: &str,
    doc: &RolloutDoc,
    evidence_age_ms: Option<u64>,
) -> Observed {
    let ends = doc
        .moves
        .roles
        .first()
        .map_or(0, |role| role.wave_ends.len());
    let mut counts = vec![Counts::default(); ends.max(1)];
    for (agent, wave) in &doc.members {
        let ledger = process.group(partition_of(*agent)).view().1;
        let found = match ledger.agent(*agent).1 {
            Some(record) => stand(process, program, id, doc, *agent, record),
            None => Bucket::Deleted,
        };
        counts[*wave as usize].add(found);
    }
    let signs = vec![Signs::default(); counts.len()];
    Observed {
        roles: BTreeMap::from([(ROLE.to_owned(), counts)]),
        signs: BTreeMap::from([(ROLE.to_owned(), signs)]),
        evidence_age_ms,
        offer_timeout_ms: OFFER_TIMEOUT_MS,
        ..Observed::default()
    }
}

fn stand(
    process: &Process,
    program: &Program,
    id: &str,
    doc: &RolloutDoc,
    agent: u32,
    record: &AgentDoc,
) -> Bucket {
    let now = now_ms();
    let place = place(id, doc, agent).expect("it is listed");
    let named = program.rollout(id).map(|(_, rollout)| rollout);
    let desired = wants_at(program, agent, record, named.map(|_| place));
    let last = record.delivery.as_ref();
    let target = delivery(&doc.family, doc.to);
    let touched = last.is_some_and(|last| last.rollout == id);
    let covered = named.is_some_and(|rollout| rollout.covers(&place));
    let takes_back = named.is_some_and(|rollout| rollout.takes_back(&place));
    let (goal, taken_back) = match last {
        // A rollback has reached it already.
        Some(last) if covered && touched && last.hash != target => (Some(last.hash), true),
        _ => (desired.delivery, takes_back),
    };
    let family = program.family(&doc.family);
    let roles = family.map_or(0, |family| {
        matching(family.roles(RevisionNumber(doc.to)), &record.labels).len()
    });
    let heard = process.leaders.heard_ms(agent);
    let silent = heard.map_or(now, |heard| now.saturating_sub(heard));
    bucket(&Sighting {
        presence: if silent > LOST_MS {
            Presence::Lost
        } else {
            Presence::Connected
        },
        unchanged: false,
        open: named.is_some_and(|rollout| rollout.is_open(&place))
            || doc.moves.state == State::Completed,
        touched,
        covered,
        taken_back,
        fresh: silent <= 2 * SLOW_POLL_MS,
        excluded: exclusion(&Circumstances {
            touched,
            roles,
            accepts: true,
            ..Circumstances::default()
        }),
        pinned: false,
        // Nothing is superseded here: what failed before has failed before this rollout.
        since: Epoch(doc.opened),
        refused: goal
            .filter(|hash| record.refused.contains(hash))
            .map(|_| (Epoch(0), Failure::NoAnswer)),
        reports_status: true,
        target: Some(target),
        goal,
        offer: last.map(|last| (last.hash, last.state, last.error.as_str())),
        offered_by: Epoch(0),
        reported: record.reported,
        healthy: record.healthy,
        health_age_ms: now.saturating_sub(record.health_since_ms),
        was_healthy: last.is_some_and(|last| last.was_healthy),
        contradicts: false,
        proves: false,
        flow_lost: false,
    })
}
