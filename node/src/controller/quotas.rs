//! Divides what may be in work at once among partitions, twice a second: asks them, and tells them what they get. What
//! that is, [`state::partition::quotas`] says.

use std::sync::Arc;
use std::time::Instant;

use proto::store;
use state::partition::millis;
use state::partition::quotas::{Given, Rules, quotas};

use crate::control::rollout_state;
use crate::local::{Node, Uncounted};

/// What this controller has given, by a clock that begins with it.
pub struct Divider {
    began: Instant,
    given: Given,
}

impl Divider {
    /// It has given nothing yet.
    pub fn new() -> Self {
        Divider {
            began: Instant::now(),
            given: Given::nothing(0),
        }
    }

    /// This node leads the control group in this term.
    pub fn leads_in(&mut self, term: u64) {
        let now_ms = self.ms(Instant::now());
        self.given.leads_in(term, now_ms);
    }

    fn ms(&self, at: Instant) -> u64 {
        millis(at.saturating_duration_since(self.began))
    }
}

/// Counts, divides, and lets go. `unread`: partitions, by name, whose stored offers are not known here up to `read`.
pub async fn divide(node: &Arc<Node>, divider: &mut Divider, unread: &[String], read: Instant) {
    let limited = node
        .partitions
        .iter()
        .any(|p| !p.rooms().limits().is_empty());
    if !limited {
        return;
    }
    let rules = rules(node);
    // From here to the new quotas nothing is granted.
    let count = divider.given.count();
    let counting = node.partitions.iter().map(|p| node.hold_rooms(p, count));
    let counted = futures::future::join_all(counting).await;
    // Somebody else divides by now, and has counted all of them or will.
    if counted.iter().any(|c| matches!(c, Err(Uncounted::Older))) {
        let term = divider.given.term();
        tracing::info!(term, "another controller divides");
        return;
    }
    let mut seen = Vec::with_capacity(counted.len());
    for (at, counted) in counted.into_iter().enumerate() {
        // Of a partition that does not answer: what is stored here, and at most what it was given. It asks for nothing.
        seen.push(match counted {
            Ok(counted) => counted,
            Err(_) => {
                let partition = node.partitions[at].clone();
                // What it has offered is stored here too, if it could be read a moment ago: it is busy, not cut off.
                let is_unread = unread.iter().any(|name| name == partition.ledger.name());
                let offers_live_ms = if is_unread {
                    partition.offer_timeout_ms()
                } else {
                    0
                };
                let read_ms = divider.ms(read);
                let Some(quotas) = divider.given.to(at, offers_live_ms, read_ms) else {
                    return;
                };
                let seen = tokio::task::spawn_blocking(move || partition.seen_here(&quotas));
                let Ok(seen) = seen.await else { return };
                seen
            }
        });
    }
    let answered: Vec<Option<u64>> = seen.iter().map(|counted| counted.number).collect();
    let (occupied, bounds): (Vec<_>, Vec<_>) =
        seen.into_iter().map(|c| (c.occupancy, c.bounds)).unzip();
    let quotas = quotas(&rules, &occupied, &bounds);
    let now_ms = divider.ms(Instant::now());
    divider.given.renew(&answered, &bounds, &quotas, now_ms);
    let opening = node.partitions.iter().zip(&answered).zip(&quotas);
    let opening = opening.filter_map(|((partition, answered), quotas)| {
        let count = (*answered)?;
        Some(node.open_rooms(partition, count, quotas))
    });
    futures::future::join_all(opening).await;
}

fn rules(node: &Node) -> Rules {
    let documents = node.control.read();
    let open = || {
        let all = documents.rollouts.values().map(|r| &*r.value);
        all.filter(|r| !rollout_state(r.state()).is_final())
    };
    let limit = |stored: &store::Rollout| {
        let rollout = documents.domain(stored);
        let of_role = |role: &fleet::rollout::Role| {
            let newest = role.open_waves.checked_sub(1)?;
            let max = rollout.wave(role, newest).max_in_flight;
            (max > 0).then(|| ((stored.id.clone(), role.name.clone()), u64::from(max)))
        };
        rollout.roles.iter().filter_map(of_role).collect::<Vec<_>>()
    };
    let is_urgent = |r: &&store::Rollout| r.plan.as_ref().is_some_and(|plan| plan.urgent);
    Rules {
        budget: documents.budget(),
        waves: open().flat_map(limit).collect(),
        urgent: open().filter(is_urgent).map(|r| r.id.clone()).collect(),
        back: open().filter(|r| r.back).map(|r| r.id.clone()).collect(),
    }
}
