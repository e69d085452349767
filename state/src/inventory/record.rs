//! What a stored record says, in the domain's words.

use fleet::digest::Digest;
use fleet::drift::{self, Identity};
use fleet::offer::{Reported, State};
use fleet::program::{Epoch, Whose};
use fleet::restored::Word;
use fleet::selector::Facts;
use proto::opamp::AgentCapabilities;
use proto::store::{self, ConfigState, DeliveryState};

/// Labels and attributes of a stored record.
pub struct RecordFacts<'a>(pub &'a store::Agent);

/// Name under which the operator's bridge reports.
pub const BRIDGE: &str = "io.opentelemetry.operator-opamp-bridge";

/// Health as it counts: agents that do not report it are not called sick.
pub fn is_healthy(agent: &store::Agent) -> bool {
    let reports = agent.capabilities & AgentCapabilities::ReportsHealth as u64 != 0;
    match &agent.health {
        Some(health) => health.healthy,
        None => !reports,
    }
}

/// The program when a person last said whose an agent is, as it is stored.
pub fn resolved(epoch: u64) -> Option<Epoch> {
    (epoch != 0).then_some(Epoch(epoch))
}

/// What stands in a record about a restore.
pub fn word(agent: &store::Agent) -> Word {
    Word {
        heard_in: u16::try_from(agent.heard_in).unwrap_or(u16::MAX),
        conflict: Digest::from_slice(&agent.conflict),
    }
}

/// A status with a hash, in the domain's words.
pub fn reported(status: &store::ConfigStatus) -> Option<(Digest, Reported)> {
    let hash = Digest::from_slice(&status.hash)?;
    let state = match status.state() {
        ConfigState::Unset => Reported::Unset,
        ConfigState::Applied => Reported::Applied,
        ConfigState::Applying => Reported::Applying,
        ConfigState::Failed => Reported::Failed,
    };
    Some((hash, state))
}

/// Delivery state in the domain's words; none for a value of a newer version.
pub fn state(state: DeliveryState) -> Option<State> {
    Some(match state {
        DeliveryState::Unspecified => return None,
        DeliveryState::Offered => State::Offered,
        DeliveryState::Applying => State::Applying,
        DeliveryState::Applied => State::Applied,
        DeliveryState::Failed => State::Failed,
        DeliveryState::RolledBackByAgent => State::RolledBackByAgent,
        DeliveryState::NoAnswer => State::NoAnswer,
        DeliveryState::Withdrawn => State::Withdrawn,
    })
}

/// And back.
pub fn stored_state(state: State) -> DeliveryState {
    match state {
        State::Offered => DeliveryState::Offered,
        State::Applying => DeliveryState::Applying,
        State::Applied => DeliveryState::Applied,
        State::Failed => DeliveryState::Failed,
        State::RolledBackByAgent => DeliveryState::RolledBackByAgent,
        State::NoAnswer => DeliveryState::NoAnswer,
        State::Withdrawn => DeliveryState::Withdrawn,
    }
}

/// Was its machine put back to an older snapshot, by what its record says?
pub fn reverted(agent: &store::Agent) -> Option<Identity> {
    let last = agent.delivery.as_ref()?;
    // A record from before there was a list has one earlier hash.
    let earlier = last.earlier.iter().chain([&last.previous]);
    let earlier: Vec<Digest> = earlier
        .filter_map(|hash| Digest::from_slice(hash))
        .collect();
    let state = state(last.state())?;
    let last = Digest::from_slice(&last.hash)?;
    let reported = agent.status.as_ref().and_then(reported);
    drift::reverted(Some((last, state)), &earlier, reported)
}

/// Family and role of an agent's last authorised offer.
pub fn owner(agent: &store::Agent) -> Option<(&str, &str)> {
    let delivery = agent.delivery.as_ref()?;
    Some((&delivery.family, &delivery.role))
}

/// Whose it is, and what a person has said last about that.
pub fn whose(agent: &store::Agent) -> Whose<'_> {
    let granted = agent.granted.as_ref();
    Whose {
        owner: owner(agent),
        granted: granted.map(|to| (to.family.as_str(), to.role.as_str())),
        resolved: resolved(agent.resolved_epoch),
    }
}

/// The word people see.
pub fn state_word(state: State) -> &'static str {
    match state {
        State::Offered => "offered",
        State::Applying => "applying",
        State::Applied => "applied",
        State::Failed => "failed",
        State::RolledBackByAgent => "rolled back by the agent",
        State::NoAnswer => "no answer",
        State::Withdrawn => "withdrawn",
    }
}

/// As [`state_word`], of a stored state; empty for one of a newer version.
pub fn state_word_stored(stored: DeliveryState) -> &'static str {
    state(stored).map_or("", state_word)
}

impl Facts for RecordFacts<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let labels = self
            .0
            .operator_labels
            .get(key)
            .or_else(|| self.0.token_labels.get(key));
        labels.map(String::as_str).or_else(|| {
            self.0
                .attributes
                .iter()
                .find(|a| a.key == key)
                .map(|a| a.value.as_str())
        })
    }
}
