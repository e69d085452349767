//! The state machine of every group: versioned documents and an audit chain, as the server's ledger has them.
//!
//! A change names the version of each document that it was decided on, is compared, and is stored whole or refused
//! whole. It evaluates nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::audit;
use fleet::digest::Digest;
use fleet::offer::{Offer, Reported, State};
use fleet::rollout::Rollout;

/// Family and role.
pub type Owner = (String, String);

/// What a document is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Family(String),
    Rollout(String),
    Agent(u32),
}

/// A document.
#[derive(Clone, Debug, PartialEq)]
pub enum Doc {
    Family(Family),
    Rollout(Box<RolloutDoc>),
    Agent(Box<AgentDoc>),
}

/// The two pointers of a family, its newest revision and its newest rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    pub stable: Option<u64>,
    pub latest: u64,
    pub rollout: Option<String>,
}

/// A rollout with its list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutDoc {
    pub family: String,
    pub from: Option<u64>,
    pub to: u64,
    pub opened: u64,
    pub moves: Rollout,
    /// Agent to wave.
    pub members: BTreeMap<u32, u32>,
}

/// What is recorded of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentDoc {
    pub labels: BTreeMap<String, String>,
    /// The last message that changed this: which life of the agent, which message in it.
    pub number: (u64, u64),
    pub owner: Option<Owner>,
    pub owned_since: Option<u64>,
    pub delivery: Option<Delivery>,
    pub reported: Option<(Digest, Reported)>,
    pub healthy: bool,
    pub health_since_ms: u64,
    pub refused: Vec<Digest>,
}

/// The last authorised offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub hash: Digest,
    pub rollout: String,
    pub state: State,
    pub grants: u32,
    pub offered_ms: u64,
    /// The message that it answers.
    pub asking: (u64, u64),
    pub was_healthy: bool,
    pub error: String,
}

/// A document to be stored, if it still has this version; 0: if there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub key: Key,
    pub version: u64,
    pub doc: Doc,
}

/// Who did what to which object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub actor: String,
    pub action: String,
    pub object: String,
    pub detail: String,
}

/// What is proposed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// No two proposals have the same; for the checker, the ledger does not look at it.
    pub id: u64,
    /// A person's order is stored once, however often it is sent; 0: not one.
    pub once: u64,
    /// The program that an offer was decided by; 0: it offers nothing.
    pub epoch: u64,
    pub raise_floor: u64,
    pub writes: Vec<Write>,
    pub acts: Vec<Act>,
    pub at_ms: u64,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Not a change: membership, or a new leader's first entry.
    #[default]
    Nothing,
    /// Stored, as the change with this number.
    Stored(u64),
    /// The document has moved.
    Conflict(Key),
    /// It offers by an older program than this group has accepted.
    StaleEpoch(u64),
}

/// State of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Ledger {
    /// Entries seen, and a sum of all of them in order: what makes two replicas comparable anywhere.
    pub entries: u64,
    pub trail: u64,
    /// Changes stored: versions of documents, and the program's epoch in the control group.
    pub changes: u64,
    pub floor: u64,
    pub docs: BTreeMap<Key, (u64, Arc<Doc>)>,
    pub head: audit::Head,
    once: BTreeMap<u64, Outcome>,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            entries: 0,
            trail: 0,
            changes: 0,
            floor: 0,
            docs: BTreeMap::new(),
            head: audit::Head::genesis("sim"),
            once: BTreeMap::new(),
        }
    }
}

impl Ledger {
    /// An entry that changes nothing.
    pub fn pass(&mut self) {
        self.entries += 1;
        self.trail = mix(self.trail, 0);
    }

    /// Compares and stores; what became of it, and its links of the audit chain. `fenced`: offers of an older program
    /// are refused.
    pub fn apply(&mut self, change: &Change, fenced: bool) -> (Outcome, Vec<audit::Entry>) {
        self.entries += 1;
        self.trail = mix(self.trail, change.id);
        if let Some(before) = self.once.get(&change.once) {
            return (before.clone(), vec![]);
        }
        if fenced && change.epoch != 0 && change.epoch < self.floor {
            return (Outcome::StaleEpoch(self.floor), vec![]);
        }
        let moved = change
            .writes
            .iter()
            .find(|write| self.version(&write.key) != write.version);
        if let Some(write) = moved {
            return (Outcome::Conflict(write.key.clone()), vec![]);
        }
        self.floor = self.floor.max(change.raise_floor);
        self.changes += 1;
        for write in &change.writes {
            let doc = Arc::new(write.doc.clone());
            self.docs.insert(write.key.clone(), (self.changes, doc));
        }
        let outcome = Outcome::Stored(self.changes);
        if change.once != 0 {
            self.once.insert(change.once, outcome.clone());
        }
        let links = change.acts.iter().map(|act| self.link(act, change.at_ms));
        (outcome, links.collect())
    }

    fn link(&mut self, act: &Act, at_ms: u64) -> audit::Entry {
        let record = audit::Record {
            actor: act.actor.clone(),
            action: act.action.clone(),
            object: act.object.clone(),
            detail: act.detail.clone(),
            at_ms,
        };
        let (head, entry) = audit::append(self.head, record);
        self.head = head;
        entry
    }

    fn version(&self, key: &Key) -> u64 {
        self.docs.get(key).map_or(0, |(version, _)| *version)
    }

    // ---- reading ----

    pub fn agents(&self) -> impl Iterator<Item = (u32, u64, &AgentDoc)> {
        self.docs.iter().filter_map(|(key, (version, doc))| {
            let (Key::Agent(id), Doc::Agent(agent)) = (key, &**doc) else {
                return None;
            };
            Some((*id, *version, &**agent))
        })
    }

    pub fn agent(&self, id: u32) -> (u64, Option<&AgentDoc>) {
        match self.docs.get(&Key::Agent(id)) {
            Some((version, doc)) => match &**doc {
                Doc::Agent(agent) => (*version, Some(agent)),
                _ => (*version, None),
            },
            None => (0, None),
        }
    }

    pub fn family(&self, name: &str) -> (u64, Family) {
        match self.docs.get(&Key::Family(name.to_owned())) {
            Some((version, doc)) => match &**doc {
                Doc::Family(family) => (*version, family.clone()),
                _ => (*version, Family::default()),
            },
            None => (0, Family::default()),
        }
    }

    pub fn rollouts(&self) -> impl Iterator<Item = (&str, u64, &RolloutDoc)> {
        self.docs.iter().filter_map(|(key, (version, doc))| {
            let (Key::Rollout(id), Doc::Rollout(rollout)) = (key, &**doc) else {
                return None;
            };
            Some((id.as_str(), *version, &**rollout))
        })
    }

    pub fn rollout(&self, id: &str) -> Option<(u64, &RolloutDoc)> {
        let (version, doc) = self.docs.get(&Key::Rollout(id.to_owned()))?;
        match &**doc {
            Doc::Rollout(rollout) => Some((*version, rollout)),
            _ => None,
        }
    }
}

impl Delivery {
    pub fn offer(&self, now_ms: u64) -> Offer {
        Offer {
            hash: self.hash,
            state: self.state,
            grants: self.grants,
            age_ms: now_ms.saturating_sub(self.offered_ms),
        }
    }
}

fn mix(trail: u64, id: u64) -> u64 {
    (trail ^ id.wrapping_add(0x9e37_79b9_7f4a_7c15))
        .rotate_left(23)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(id: u64, version: u64) -> Change {
        Change {
            id,
            writes: vec![Write {
                key: Key::Family("base".to_owned()),
                version,
                doc: Doc::Family(Family::default()),
            }],
            ..Change::default()
        }
    }

    #[test]
    fn a_change_of_a_document_that_has_moved_is_refused_whole() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.apply(&change(1, 0), true).0, Outcome::Stored(1));
        let moved = Outcome::Conflict(Key::Family("base".to_owned()));
        assert_eq!(ledger.apply(&change(2, 0), true).0, moved);
        assert_eq!(ledger.apply(&change(3, 1), true).0, Outcome::Stored(2));
    }

    #[test]
    fn an_offer_of_an_older_program_is_refused() {
        let mut ledger = Ledger::default();
        let floor = Change {
            raise_floor: 7,
            ..Change::default()
        };
        ledger.apply(&floor, true);
        let offer = |epoch| Change {
            epoch,
            ..change(2, 0)
        };
        assert_eq!(ledger.apply(&offer(6), true).0, Outcome::StaleEpoch(7));
        assert_eq!(ledger.apply(&offer(7), true).0, Outcome::Stored(2));
    }

    #[test]
    fn an_order_that_is_sent_twice_is_stored_once() {
        let mut ledger = Ledger::default();
        let order = Change {
            once: 5,
            ..change(1, 0)
        };
        assert_eq!(ledger.apply(&order, true).0, Outcome::Stored(1));
        assert_eq!(ledger.apply(&order, true).0, Outcome::Stored(1));
        assert_eq!(ledger.changes, 1);
    }
}
