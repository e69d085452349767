//! An agent in the column index: what decisions, filters and counts need, with every text interned.

use std::collections::HashMap;
use std::sync::Arc;

use fleet::digest::Digest;
use fleet::offer::{Failure, Offer, Reported, State, failure_of};
use fleet::program::{Epoch, Whose};
use fleet::restored::Word;
use fleet::selector::Facts;
use proto::opamp::AgentCapabilities;
use proto::store::{self, Link};
use proto::uid::Uid;

use super::answer::Answer;
use super::build::Build;
use super::record::{BRIDGE, is_healthy, reported, resolved, reverted, state, word};

/// Texts and component lists that many agents share, kept once.
#[derive(Default)]
pub struct Interner {
    texts: HashMap<Arc<str>, ()>,
    builds: HashMap<Box<[u8]>, Arc<Build>>,
}

impl Interner {
    /// The shared copy of this text.
    pub fn get(&mut self, text: &str) -> Arc<str> {
        if let Some((shared, ())) = self.texts.get_key_value(text) {
            return Arc::clone(shared);
        }
        let shared: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&shared), ());
        shared
    }

    /// The shared component list of this hash; none: an empty hash names none.
    fn build(&mut self, hash: &[u8]) -> Option<Arc<Build>> {
        if hash.is_empty() {
            return None;
        }
        if let Some(shared) = self.builds.get(hash) {
            return Some(Arc::clone(shared));
        }
        let shared = Arc::new(Build::new(hash));
        self.builds.insert(hash.into(), Arc::clone(&shared));
        Some(shared)
    }

    /// Forgets what no agent uses any more.
    pub fn sweep(&mut self) {
        self.texts.retain(|text, ()| Arc::strong_count(text) > 1);
        self.builds.retain(|_, build| Arc::strong_count(build) > 1);
    }
}

/// An agent's last authorised offer.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Delivery hash.
    pub hash: Digest,
    /// Where it stands.
    pub state: State,
    /// Owner's family.
    pub family: Arc<str>,
    /// Owner's role.
    pub role: Arc<str>,
    /// Revision; 0 = baseline.
    pub revision: u64,
    /// Rollout; empty: joined at stable.
    pub rollout: Arc<str>,
    /// Times it was granted.
    pub offers: u32,
    /// Program that it was made by.
    pub epoch: u64,
    /// Wall clock of the grant.
    pub offered_ms: u64,
    /// Collector starts since the offer, beyond the one that applies it.
    pub restarts: u32,
    /// Program by which its family came to own it.
    pub owned_since: u64,
    /// Health before it.
    pub was_healthy: bool,
    /// Does the effective config agree?
    pub effective: store::Match,
    /// First applied by a healthy agent, wall clock; 0 = not yet.
    pub converged_ms: u64,
    /// It was offered once more, since the agent had drifted from it.
    pub reoffered: bool,
    /// Why it failed.
    pub error: Arc<str>,
}

/// One agent.
#[derive(Clone, Debug)]
pub struct Row {
    /// Identity.
    pub uid: Uid,
    /// Version of the record.
    pub version: u64,
    /// Sorted by key; labels and attributes in one, labels winning.
    facts: Box<[(Arc<str>, Arc<str>)]>,
    /// Which of them are labels.
    labels: Box<[u16]>,
    /// What selectors have said of the facts.
    pub(super) matched: Answer,
    /// What a count has found of it: see [`crate::partition::occupancy::kept`].
    pub(crate) counted: Answer,
    many_collectors: bool,
    /// Enrolment token.
    pub token: Arc<str>,
    /// Capability mask.
    pub capabilities: u64,
    /// Is it there?
    pub link: Link,
    /// Since when, wall clock.
    pub link_since_ms: u64,
    /// Last reported health; agents that do not report health count as healthy.
    pub healthy: bool,
    /// Since when, wall clock.
    pub health_since_ms: u64,
    /// Agent-defined word.
    pub health_status: Arc<str>,
    /// Why not.
    pub health_error: Arc<str>,
    /// Start of the collector process, wall clock; 0 = not known.
    pub started_ms: u64,
    /// Last reported hash and status.
    pub reported: Option<(Digest, Reported)>,
    /// Error of the last status.
    pub config_error: Arc<str>,
    /// Last authorised offer.
    pub delivery: Option<Delivery>,
    /// Hashes it is not offered again.
    pub refused: Box<[Digest]>,
    /// Of each of them: program by which it was offered, and how it failed.
    refusals: Box<[(Epoch, Failure)]>,
    /// Two agents, one uid.
    pub duplicate: bool,
    /// What stands in its record about a restore.
    pub word: Word,
    /// It runs what it had applied before its last delivery again: see [`fleet::drift::reverted`].
    pub reverted: bool,
    /// Whom a person has resolved its owner to.
    pub granted: Option<super::Owner>,
    /// Program when a person last said whose it is; 0: nobody has.
    pub resolved: u64,
    /// A person has ordered its collector to be stopped.
    pub stopped: bool,
    /// A restart has been ordered and not sent.
    pub restart_pending: bool,
    /// Transport of the last record change.
    pub websocket: bool,
    /// Last message that changed the record, wall clock.
    pub last_seen_ms: u64,
    /// Its component list; none: it names none.
    pub build: Option<Arc<Build>>,
    /// This uid was replaced: a stub.
    pub alias: bool,
    /// Addresses of the bodies of its effective config, in hex and in order; agents that run the same share it.
    pub effective: Arc<str>,
}

// === impl Row ===

impl Row {
    /// From a stored record.
    pub fn new(uid: Uid, version: u64, agent: &store::Agent, interner: &mut Interner) -> Self {
        let mut facts: std::collections::BTreeMap<&str, &str> = std::collections::BTreeMap::new();
        facts.extend(
            agent
                .attributes
                .iter()
                .map(|a| (a.key.as_str(), a.value.as_str())),
        );
        facts.extend(
            agent
                .token_labels
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str())),
        );
        facts.extend(
            agent
                .operator_labels
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str())),
        );
        let is_label = |key: &str| {
            agent.operator_labels.contains_key(key) || agent.token_labels.contains_key(key)
        };
        let labels = facts.keys().enumerate().filter(|(_, key)| is_label(key));
        let labels = labels
            .filter_map(|(at, _)| u16::try_from(at).ok())
            .collect();
        let many_collectors = facts
            .get("service.name")
            .is_some_and(|name| *name == BRIDGE);
        let facts = facts
            .into_iter()
            .map(|(k, v)| (interner.get(k), interner.get(v)))
            .collect();
        let health = agent.health.as_ref();
        let status = agent.status.as_ref();
        Row {
            uid,
            version,
            facts,
            labels,
            matched: Answer::default(),
            counted: Answer::default(),
            many_collectors,
            token: interner.get(&agent.token),
            capabilities: agent.capabilities,
            link: agent.link(),
            link_since_ms: agent.link_since_ms,
            healthy: is_healthy(agent),
            health_since_ms: health.map_or(agent.first_seen_ms, |h| h.since_ms),
            health_status: interner.get(health.map_or("", |h| h.status.as_str())),
            health_error: interner.get(short(health.map_or("", |h| h.last_error.as_str()))),
            started_ms: agent.started_ms,
            reported: status.and_then(reported),
            config_error: interner.get(short(status.map_or("", |s| s.error.as_str()))),
            delivery: agent.delivery.as_ref().and_then(|d| delivery(d, interner)),
            refused: refused(agent).map(|(hash, _)| hash).collect(),
            refusals: refused(agent).map(|(_, of)| of).collect(),
            duplicate: agent.duplicate,
            word: word(agent),
            reverted: reverted(agent).is_some(),
            granted: owner(agent.granted.as_ref(), interner),
            resolved: agent.resolved_epoch,
            stopped: agent.stopped,
            restart_pending: agent.restart_pending,
            websocket: agent.transport == "websocket",
            last_seen_ms: agent.last_seen_ms,
            build: agent
                .components
                .as_ref()
                .and_then(|c| interner.build(&c.hash)),
            alias: !agent.alias_of.is_empty(),
            effective: interner.get(&effective(agent)),
        }
    }

    /// Every fact, by key.
    pub fn facts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.facts.iter().map(|(k, v)| (&**k, &**v))
    }

    /// What the control plane set, by key.
    pub fn labels(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let labels = self.labels.iter().map(|at| &self.facts[usize::from(*at)]);
        labels.map(|(k, v)| (k.to_string(), v.to_string()))
    }

    /// A fact's text as it is shared.
    pub fn shared(&self, key: &str) -> Option<Arc<str>> {
        let at = self.facts.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(Arc::clone(&self.facts[at].1))
    }

    /// Owner: family and role of the last authorised offer.
    pub fn owner(&self) -> Option<(&str, &str)> {
        self.delivery.as_ref().map(|d| (&*d.family, &*d.role))
    }

    /// Whose it is, and what a person has said last about that.
    pub fn whose(&self) -> Whose<'_> {
        Whose {
            owner: self.owner(),
            granted: self.granted.as_ref().map(|to| (&*to.0, &*to.1)),
            resolved: resolved(self.resolved),
        }
    }

    /// Does it refuse this hash: by which program was it offered, and how has it failed?
    pub fn refusal(&self, hash: Digest) -> Option<(Epoch, Failure)> {
        let at = self.refused.iter().position(|refused| *refused == hash)?;
        self.refusals.get(at).copied()
    }

    /// Last authorised offer, for [`fleet::offer`].
    pub fn offer(&self, now_ms: u64) -> Option<Offer> {
        self.delivery.as_ref().map(|d| Offer {
            hash: d.hash,
            state: d.state,
            grants: d.offers,
            age_ms: now_ms.saturating_sub(d.offered_ms),
        })
    }

    /// Name for people: host, else instance id, else uid.
    pub fn name(&self) -> String {
        let named = ["host.name", "k8s.pod.name", "service.instance.id"]
            .iter()
            .find_map(|key| self.get(key));
        named.map_or_else(|| self.uid.to_string(), str::to_owned)
    }

    /// Does it declare this capability?
    pub fn can(&self, capability: AgentCapabilities) -> bool {
        self.capabilities & capability as u64 != 0
    }

    /// One agent for many collectors.
    pub fn many_collectors(&self) -> bool {
        self.many_collectors
    }

    /// What makes agents alike for a canary.
    pub fn stratum(&self) -> String {
        let part = |key| self.get(key).unwrap_or("");
        format!(
            "{}|{}|{}",
            part("service.version"),
            part("os.type"),
            part("host.arch")
        )
    }
}

/// Kept of an error text in memory; the record has more. A collector says what is wrong at the end of a chain of 300
/// bytes and more.
const ERROR_BYTES: usize = 512;

fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(ERROR_BYTES)]
}

impl Facts for Row {
    fn get(&self, key: &str) -> Option<&str> {
        let at = self.facts.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.facts[at].1)
    }
}

/// Each hash that it refuses, with the program by which it was offered and how it failed.
fn refused(agent: &store::Agent) -> impl Iterator<Item = (Digest, (Epoch, Failure))> {
    agent.refused.iter().filter_map(|refused| {
        let of = (Epoch(refused.epoch), failure_of(&refused.why));
        Some((Digest::from_slice(&refused.hash)?, of))
    })
}

/// A stored owner.
pub(super) fn owner(
    stored: Option<&store::Owner>,
    interner: &mut Interner,
) -> Option<super::Owner> {
    let owner = stored?;
    Some(Box::new((
        interner.get(&owner.family),
        interner.get(&owner.role),
    )))
}

fn effective(agent: &store::Agent) -> String {
    let files = agent.effective.iter().flat_map(|e| &e.files);
    let bodies = files.filter(|file| !file.body.is_empty());
    let addresses: Vec<String> = bodies.map(|file| hex::encode(&file.body)).collect();
    addresses.join(",")
}

fn delivery(d: &store::Delivery, interner: &mut Interner) -> Option<Delivery> {
    Some(Delivery {
        hash: Digest::from_slice(&d.hash)?,
        state: state(d.state())?,
        family: interner.get(&d.family),
        role: interner.get(&d.role),
        revision: d.revision,
        rollout: interner.get(&d.rollout),
        offers: d.offers,
        epoch: d.epoch,
        offered_ms: d.offered_ms,
        restarts: d.restarts,
        owned_since: d.owned_since,
        was_healthy: d.was_healthy,
        effective: d.effective(),
        converged_ms: d.converged_ms,
        reoffered: d.reoffered,
        error: interner.get(short(&d.error)),
    })
}
