//! What the partitions see of a rollout's members.

use std::collections::BTreeMap;

use fleet::bucket::{Bucket, Counts, Presence, Sighting, bucket};
use fleet::membership::{Circumstances, Exclusion, exclusion};
use fleet::program::{Epoch, Program, Reason, matching};
use fleet::rollout::{Answer, Check, Finding, Observed, Signs, State, is_restart_loop};

use super::agent::POLL_MS;
use super::{Id, OFFER_TIMEOUT_MS, World};

impl World {
    /// Counts and signs, and where each member stands.
    pub fn observe(&self, rollout: &str, program: &Program) -> (Observed, BTreeMap<Id, Bucket>) {
        let doc = &self.rollouts[rollout];
        let mut observed = Observed {
            evidence_age_ms: Some(0),
            offer_timeout_ms: OFFER_TIMEOUT_MS,
            ..Observed::default()
        };
        for (wave, (who, pass)) in &doc.answers {
            let answer = match pass {
                true => Answer::Pass,
                false => Answer::Fail("by ben".into()),
            };
            let said = Finding {
                check: Check::Person(who.clone()),
                answer,
                age_ms: 0,
            };
            observed.findings.insert(wave.clone(), vec![said]);
        }
        let mut stands = BTreeMap::new();
        for role in &doc.memory.roles {
            let waves = role.wave_ends.len().max(1);
            observed
                .roles
                .insert(role.name.clone(), vec![Counts::default(); waves]);
            observed
                .signs
                .insert(role.name.clone(), vec![Signs::default(); waves]);
        }
        for (id, member) in &doc.members {
            let found = self.stand(*id, rollout, program);
            stands.insert(*id, found);
            let wave = member.wave as usize;
            let counts = observed.roles.get_mut(&member.role).expect("a role");
            counts[wave].add(found);
            let agent = &self.agents[id];
            let signs = observed.signs.get_mut(&member.role).expect("a role");
            let delivery = agent.delivery.as_ref().filter(|d| d.rollout == rollout);
            let loops = !agent.deleted
                && delivery
                    .is_some_and(|d| is_restart_loop(d.restarts, self.now_ms - d.offered_ms));
            signs[wave].add(found, agent.told_healthy, loops);
        }
        (observed, stands)
    }

    fn stand(&self, id: Id, rollout: &str, program: &Program) -> Bucket {
        let (doc, agent) = (&self.rollouts[rollout], &self.agents[&id]);
        let member = &doc.members[&id];
        let place = self.place_in(id, rollout).expect("it is listed");
        let named = program.rollout(rollout);
        let desired = self.desired_at(id, named.map(|_| place), program);
        let delivery = agent.delivery.as_ref();
        let touched = delivery.is_some_and(|d| d.rollout == rollout);
        let target = super::delivery(&doc.family, &member.role, doc.to);
        let covered = named.is_some_and(|(_, r)| r.covers(&place));
        let takes_back = named.is_some_and(|(_, r)| r.takes_back(&place));
        let went_back = covered && touched && delivery.is_some_and(|d| d.hash != target);
        let (goal, taken_back) = match delivery {
            Some(d) if went_back => (Some(d.hash), true),
            _ => (desired.delivery, takes_back),
        };
        let roles = program.family(&doc.family).map_or(0, |f| {
            let target = f.roles(fleet::program::RevisionNumber(doc.to));
            matching(target, &agent.labels).len()
        });
        // What was taken from another family goes back to it.
        let held = matches!(desired.reason, Reason::Wave { .. } | Reason::Waiting { .. });
        let owner = agent.owner.as_ref().filter(|_| !touched && !held);
        let mut excluded = exclusion(&Circumstances {
            duplicate: agent.duplicate,
            re_owned: owner
                .is_some_and(|owner| *owner != (doc.family.clone(), member.role.clone())),
            touched,
            roles,
            accepts: true,
            ..Circumstances::default()
        });
        if excluded == Some(Exclusion::Relabelled) && delivery.is_some_and(|d| d.hash == target) {
            excluded = None;
        }
        if agent.stopped {
            excluded = excluded.or(Some(Exclusion::Conflict));
        }
        let presence = match (agent.deleted, agent.left, agent.is_lost(self.now_ms)) {
            (true, ..) => Presence::Deleted,
            (_, true, _) => Presence::Left,
            (_, _, true) => Presence::Lost,
            _ => Presence::Connected,
        };
        let is_open = named.is_some_and(|(_, r)| r.is_open(&place));
        bucket(&Sighting {
            presence,
            unchanged: member.unchanged,
            open: is_open || doc.memory.state == State::Completed,
            touched,
            covered,
            taken_back,
            fresh: self.now_ms - agent.seen_ms <= 2 * POLL_MS,
            excluded,
            pinned: desired.reason == Reason::Pinned && desired.delivery != Some(target),
            since: Epoch(doc.since),
            refused: goal
                .and_then(|hash| agent.refusals.get(&hash))
                .map(|(by, failure)| (Epoch(*by), *failure)),
            reports_status: true,
            target: Some(target),
            goal,
            offer: delivery.map(|d| (d.hash, d.state, d.error.as_str())),
            offered_by: Epoch(delivery.map_or(0, |d| d.epoch)),
            reported: agent.reported,
            healthy: agent.told_healthy,
            health_age_ms: self.now_ms - agent.health_since_ms,
            was_healthy: delivery.is_some_and(|d| d.was_healthy),
            contradicts: false,
            proves: false,
            flow_lost: agent.flow_lost,
        })
    }
}
