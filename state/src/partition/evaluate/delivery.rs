//! An agent's last offer in its record: made, moved by what the agent says or by time, and remembered when it failed.

use fleet::consistency::{Consistency, compare};
use fleet::digest::Digest;
use fleet::offer::{self, Reported, State};
use fleet::program::{Desired, Reason};
use proto::sequence::is_fresh;
use proto::store::{self, DeliveryState, Match};

use super::Turn;
use crate::control::digest;
use crate::inventory::{is_healthy, reported, state, state_word, state_word_stored, stored_state};
use crate::partition::config::merged_config;
use crate::partition::merge::{cut, transition};

/// A restart within so long after an order to restart is that order's.
const ORDERED_RESTART_MS: u64 = 120_000;

/// Deliveries that an agent has applied before its last one and that are remembered: a snapshot is seldom older.
pub(super) const EARLIER_MAX: usize = 8;

/// What is said of a config that an agent has left without a word.
const WENT_BACK: &str = "the agent went back to what it had before, and did not say why";

/// Behind what is said of an offer that repeats what the agent had applied.
const ONCE_MORE: &str = ", once more, since it drifted";

impl Turn<'_> {
    /// Moves the last offer by what the agent said.
    pub(super) fn judge_delivery(&mut self) {
        let Some(mut delivery) = self.agent.delivery.clone() else {
            return;
        };
        if self.merged.restarted && delivery.state() == DeliveryState::Applied {
            // One that a person ordered says nothing about the config.
            let ordered = std::mem::take(&mut self.agent.restart_sent_ms);
            let is_ordered = ordered != 0 && self.ctx.now_ms < ordered + ORDERED_RESTART_MS;
            delivery.restarts += u32::from(!is_ordered);
        }
        if let Some(effective) = &self.merged.effective {
            delivery.effective = self.match_of(&delivery, effective).into();
        }
        self.agent.delivery = Some(delivery);
        if !self.merged.status {
            return;
        }
        let Some((hash, status)) = self.agent.status.as_ref().and_then(reported) else {
            return;
        };
        let Some(last) = self.last_offer() else {
            return;
        };
        // A first message may be of a clone, or of a record from before.
        let begins_anew = self.report.message.as_ref().is_some_and(is_fresh);
        if let Some(next) = offer::on_report(&last, hash, status, begins_anew) {
            let error = self
                .agent
                .status
                .as_ref()
                .map(|s| s.error.clone())
                .unwrap_or_default();
            self.set_delivery_state(next, &error);
        }
    }

    pub(super) fn match_of(
        &self,
        delivery: &store::Delivery,
        effective: &fleet::value::Value,
    ) -> Match {
        let Some(config) = (self.ctx.config)(delivery) else {
            return Match::Unknown;
        };
        match merged_config(&config).map(|sent| compare(&sent, effective)) {
            Some(Consistency::Agrees) => Match::Yes,
            Some(Consistency::Contradicts) => Match::No,
            Some(Consistency::Unknown) | None => Match::Unknown,
        }
    }

    pub(super) fn last_offer(&self) -> Option<offer::Offer> {
        let d = self.agent.delivery.as_ref()?;
        let age_ms = self.ctx.now_ms.saturating_sub(d.offered_ms);
        Some(offer::Offer {
            hash: Digest::from_slice(&d.hash)?,
            state: state(d.state())?,
            grants: d.offers,
            age_ms,
        })
    }

    /// Moves the offer, remembers a refusal, and writes both down.
    pub(super) fn set_delivery_state(&mut self, next: State, error: &str) {
        let now = self.ctx.now_ms;
        let Some(delivery) = self.agent.delivery.as_mut() else {
            return;
        };
        let before = delivery.state();
        let next_stored = stored_state(next);
        if before == next_stored {
            return;
        }
        delivery.state = next_stored.into();
        if matches!(
            next,
            State::Applied | State::Failed | State::RolledBackByAgent
        ) {
            delivery.answered_ms = now;
        }
        // An agent that went back before it could say why has failed all the same.
        let failed = matches!(next, State::Failed | State::RolledBackByAgent);
        let error = match next {
            State::RolledBackByAgent if delivery.error.is_empty() => WENT_BACK,
            _ => error,
        };
        if failed && !error.is_empty() {
            delivery.error = cut(error, 1024);
        }
        let hash = delivery.hash.clone();
        // When it failed, not when it was offered: a person who resumes accepts what has failed until then.
        let epoch = self.ctx.program.epoch.0;
        let short = digest(&hash).to_string();
        if failed && !self.agent.refused.iter().any(|r| r.hash == hash) {
            self.agent.refused.push(store::Refusal {
                hash,
                why: cut(error, 512),
                at_ms: now,
                epoch,
            });
        }
        let word = state_word(next);
        self.merged.transitions.push(transition(
            now,
            word,
            state_word_stored(before),
            word,
            &format!("{short} {error}"),
        ));
        let detail = if error.is_empty() {
            short
        } else {
            format!("{short}: {}", cut(error, 300))
        };
        self.act(
            "agent",
            &format!("config.{}", word.replace(' ', "-")),
            detail,
        );
    }

    pub(super) fn deliver(&mut self, desired: &Desired, hash: Digest, state: State) {
        let Some((family, role)) = desired.owner.clone() else {
            return;
        };
        self.set_conflict(None);
        let before = self.agent.delivery.take();
        let same = before.clone().filter(|b| b.hash == hash.as_bytes());
        let rollout = rollout_of(&desired.reason);
        let revision = desired.revision.map_or(0, |r| r.0);
        let verb = if state == State::Offered {
            "offer.grant"
        } else {
            "offer.adopt"
        };
        let detail = format!(
            "{family}/{role} revision {revision} ({hash}) in rollout {}{}",
            if rollout.is_empty() { "none" } else { &rollout },
            if self.again { ONCE_MORE } else { "" }
        );
        self.act("partition", verb, detail);
        let word = if state == State::Offered {
            "offered"
        } else {
            "adopted"
        };
        self.merged.transitions.push(transition(
            self.ctx.now_ms,
            word,
            "",
            word,
            &format!(
                "{hash} {family}/{role} r{revision}{}",
                if self.again { ONCE_MORE } else { "" }
            ),
        ));
        let effective = same
            .as_ref()
            .map_or(Match::Unknown, store::Delivery::effective);
        let earlier = before.as_ref().map_or_else(Vec::new, |b| earlier(b, hash));
        // What a person has resolved is done.
        if before
            .as_ref()
            .is_none_or(|b| (&b.family, &b.role) != (&family, &role))
        {
            self.agent.granted = None;
        }
        self.agent.delivery = Some(store::Delivery {
            hash: hash.as_bytes().to_vec(),
            state: stored_state(state).into(),
            family,
            role,
            revision,
            rollout,
            epoch: self.ctx.program.epoch.0,
            owned_since: before
                .as_ref()
                .filter(|b| b.family == desired.owner.as_ref().map_or("", |(family, _)| family))
                .map_or(self.ctx.program.epoch.0, |b| b.owned_since),
            offered_ms: self.ctx.now_ms,
            answered_ms: if state == State::Offered {
                0
            } else {
                self.ctx.now_ms
            },
            offers: same.as_ref().map_or(0, |b| b.offers) + 1,
            was_healthy: is_healthy(&self.agent),
            error: String::new(),
            effective: effective.into(),
            converged_ms: same.as_ref().map_or(0, |b| b.converged_ms),
            previous: match same.as_ref().filter(|_| self.again) {
                Some(again) => again.previous.clone(),
                None => before.map(|b| b.hash).unwrap_or_default(),
            },
            earlier,
            number: self.agent.number,
            asking: match self.report.message {
                Some(_) => vec![],
                None => self.report.digest.to_vec(),
            },
            restarts: 0,
            reoffered: self.again || same.is_some_and(|b| b.reoffered),
        });
    }

    /// Writes down when the delivery was first applied by a healthy agent. What comes later does not unsay it.
    pub(super) fn converge(&mut self) {
        let reported_now = self.agent.status.as_ref().and_then(reported);
        let sound = is_healthy(&self.agent) && !self.agent.duplicate;
        let Some(delivery) = &mut self.agent.delivery else {
            return;
        };
        let names_it = reported_now == Some((digest(&delivery.hash), Reported::Applied));
        let applied = delivery.state() == DeliveryState::Applied && names_it;
        if delivery.converged_ms == 0 && sound && applied && delivery.effective() != Match::No {
            delivery.converged_ms = self.ctx.now_ms;
        }
    }
}

/// The rollout by which this reason delivers; empty: none.
fn rollout_of(reason: &Reason) -> String {
    match reason {
        Reason::Wave { rollout } | Reason::RolledBack { rollout } => rollout.clone(),
        // A rollout has not touched who waits for it.
        Reason::Waiting { .. }
        | Reason::Unassigned
        | Reason::Stable
        | Reason::Kept
        | Reason::Pinned
        | Reason::Stopped => String::new(),
    }
}

/// What the agent has applied before this hash, newest first.
pub(super) fn earlier(before: &store::Delivery, next: Digest) -> Vec<Vec<u8>> {
    let applied = before.state() == DeliveryState::Applied;
    let last = Some(&before.hash).filter(|_| applied);
    let mut earlier: Vec<Vec<u8>> = Vec::new();
    for hash in last.into_iter().chain(&before.earlier) {
        if hash != next.as_bytes() && !earlier.contains(hash) && earlier.len() < EARLIER_MAX {
            earlier.push(hash.clone());
        }
    }
    earlier
}
