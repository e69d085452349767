//! What a restore has left open about an agent: is its record older than what it runs?

use fleet::digest::Digest;
use fleet::restored::{Doubt, is_conflict};
use proto::store;

use super::Turn;
use crate::inventory::word;
use crate::partition::merge::transition;

impl Turn<'_> {
    /// What a restore has left open about this agent.
    pub(super) fn doubt(&self) -> Doubt {
        word(&self.agent).doubt(self.ctx.program.epoch.incarnation())
    }

    /// Is its record older than what it runs? Asked when it is first heard in full after a restore, and of a conflict each
    /// time that it says what it runs.
    pub(super) fn judge_record(&mut self, reported_before: Option<Digest>) {
        let doubt = self.doubt();
        let recorded = match doubt {
            // What was found to be a conflict is not known because it was said twice.
            Doubt::Unheard if self.full || self.merged.status => {
                reported_before.filter(|hash| self.agent.conflict != hash.as_bytes())
            }
            Doubt::Conflict(_) if self.merged.status => None,
            Doubt::None | Doubt::Unheard | Doubt::Conflict(_) => return,
        };
        let (reported, desired) = (self.reported_hash(), self.desired().delivery);
        let recorded = recorded.into_iter().chain(recorded_hashes(&self.agent));
        let conflict = reported.filter(|_| is_conflict(reported, recorded, desired));
        if self.full || doubt != Doubt::Unheard {
            self.agent.heard_in = self.ctx.program.epoch.incarnation().into();
        }
        self.set_conflict(conflict);
    }

    pub(super) fn set_conflict(&mut self, conflict: Option<Digest>) {
        let next = conflict.map_or_else(Vec::new, |hash| hash.as_bytes().to_vec());
        let before = std::mem::replace(&mut self.agent.conflict, next);
        if before == self.agent.conflict {
            return;
        }
        let (action, word, detail) = match conflict {
            Some(hash) => (
                "agent.conflict",
                "conflict",
                format!("it runs {hash}, which this server never offered to it"),
            ),
            None => (
                "agent.conflict-over",
                "conflict over",
                "it runs what this server knows of it again".to_owned(),
            ),
        };
        self.act("partition", action, detail.clone());
        self.merged
            .transitions
            .push(transition(self.ctx.now_ms, word, "", "", &detail));
    }
}

/// Every hash that the record says was offered to the agent, as far as it remembers.
fn recorded_hashes(agent: &store::Agent) -> Vec<Digest> {
    let delivery = agent.delivery.iter();
    let offered = delivery.flat_map(|d| [&d.hash, &d.previous].into_iter().chain(&d.earlier));
    let refused = agent.refused.iter().map(|refusal| &refusal.hash);
    let hashes = offered.chain(refused);
    hashes.filter_map(|hash| Digest::from_slice(hash)).collect()
}
