//! What an agent should run, and whether it is offered that now.

use fleet::digest::Digest;
use fleet::family::ConfigMap;
use fleet::offer::{self, Decision, Situation, State, Why};
use fleet::program::{Desired, Epoch, Reason, Subject, desired};
use proto::edge::Transport;
use proto::opamp::AgentCapabilities;
use proto::store::Link;

use super::Turn;
use crate::drift::{self, Last, Seen};
use crate::inventory::build::available;
use crate::inventory::{BRIDGE, RecordFacts, is_healthy, owner, reported, reverted, whose};
use crate::partition::merge::attribute;

impl Turn<'_> {
    pub(super) fn desired(&self) -> Desired {
        let facts = RecordFacts(&self.agent);
        let delivery = self.agent.delivery.as_ref();
        let whose = whose(&self.agent);
        // What it tells with this very message is not kept yet.
        let told = self.report.message.as_ref();
        let told = told.and_then(|message| message.available_components.as_ref());
        let told = told.filter(|list| !list.components.is_empty());
        let told = told.map(available);
        let named = self.agent.components.as_ref();
        let build = named.and_then(|list| (self.ctx.build)(&list.hash));
        let kept = build.as_ref().and_then(|build| build.available());
        let subject = Subject {
            uid: *self.uid.as_bytes(),
            owned_since: delivery.map(|d| Epoch(d.owned_since)),
            granted: whose.granted,
            resolved: whose.resolved,
            stopped: self.agent.stopped,
            components: told.as_ref().or(kept),
            facts: &facts,
            owner: whose.owner,
            delivery: delivery.and_then(|d| Digest::from_slice(&d.hash)),
            delivered_in: delivery.map_or("", |d| d.rollout.as_str()),
            place: self.ctx.place,
        };
        desired(&subject, self.ctx.program)
    }

    /// Offers, adopts, or leaves it. True: something is due that may not be sent yet.
    pub(super) fn decide(&mut self) -> bool {
        let desired = self.desired();
        let refused: Vec<Digest> = self
            .agent
            .refused
            .iter()
            .filter_map(|r| Digest::from_slice(&r.hash))
            .collect();
        let last = self.last_offer();
        let reported_now = self.agent.status.as_ref().and_then(reported);
        let offered_ms = self.agent.delivery.as_ref().map_or(0, |d| d.offered_ms);
        let names_another = reported_now.is_none_or(|(hash, _)| Some(hash) != last.map(|l| l.hash));
        let owner = owner(&self.agent);
        let situation = Situation {
            desired: desired.delivery,
            offerable: desired.offerable,
            last,
            reported: reported_now,
            refused: &refused,
            accepts: self.agent.capabilities & AgentCapabilities::AcceptsRemoteConfig as u64 != 0,
            many_collectors: attribute(&self.agent, "service.name") == BRIDGE,
            duplicate: self.agent.duplicate,
            doubt: self.doubt(),
            changes_owner: changes_owner(owner, &desired),
            has_room: true,
            proves_not_received: self.full
                && names_another
                && reported_now.is_some()
                && self.agent.started_ms != 0
                && self.agent.started_ms < offered_ms,
        };
        let decision = match offer::decide(&situation) {
            Decision::Nothing(Why::Settled) => self.once_more(&desired, &situation),
            decided => decided,
        };
        match decision {
            Decision::Nothing(_) => false,
            Decision::Adopt(hash) => {
                self.deliver(&desired, hash, State::Applied);
                false
            }
            // A command travels alone over HTTP; what is offered now would not be sent.
            Decision::Offer(_) if !self.ctx.lease || self.restarts_first() || self.is_silent() => {
                true
            }
            Decision::Offer(hash) => {
                if !(self.ctx.has_room)(&desired, &RecordFacts(&self.agent)) {
                    return true;
                }
                // Never an empty map: that is an order to stop the collector, and only a person gives it.
                let config = (self.ctx.desired_config)(&desired)
                    .filter(|c| says_something(c) || desired.reason == Reason::Stopped);
                let Some(config) = config else { return false };
                self.deliver(&desired, hash, State::Offered);
                self.offer = Some((hash, config));
                false
            }
        }
    }

    /// What it settled on is sent once more, where it has drifted from it and its family says so.
    pub(super) fn once_more(&mut self, desired: &Desired, situation: &Situation<'_>) -> Decision {
        let seen = Seen {
            identity: drift::identity(situation.duplicate, || reverted(&self.agent)),
            healthy: is_healthy(&self.agent),
            reported: situation.reported,
            last: self.agent.delivery.as_ref().and_then(Last::stored),
            refused: situation.refused,
        };
        let policy = desired.owner.as_ref();
        let policy = policy.is_some_and(|(family, _)| (self.ctx.re_offers)(family));
        let hash = desired.delivery.filter(|_| policy && situation.offerable);
        let hash = hash.filter(|_| drift::heals(&seen, desired));
        self.again = hash.is_some();
        hash.map_or(Decision::Nothing(Why::Settled), Decision::Offer)
    }

    pub(super) fn restarts_first(&self) -> bool {
        self.agent.restart_pending
            && self.accepts_restart()
            && self.report.transport() != Transport::Websocket
    }

    /// Nothing was heard of it for long: what is pushed now it may never read, and it would count as vanished.
    pub(super) fn is_silent(&self) -> bool {
        self.report.message.is_none() && self.agent.link() != Link::Connected
    }

    pub(super) fn accepts_restart(&self) -> bool {
        self.agent.capabilities & AgentCapabilities::AcceptsRestartCommand as u64 != 0
    }
}

/// Is what the agent has to be another owner's?
pub(in crate::partition) fn changes_owner<S: AsRef<str>>(
    owner: Option<(&str, &str)>,
    desired: &Desired<S>,
) -> bool {
    let next = desired.owner.as_ref();
    next.is_some_and(|(family, role)| owner != Some((family.as_ref(), role.as_ref())))
}

/// An empty map, or one of empty bodies, is an order to stop the collector.
fn says_something(config: &ConfigMap) -> bool {
    config.values().any(|file| !file.body.trim().is_empty())
}
