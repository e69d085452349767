//! Drift and versions as a node knows them: feeds `fleet::drift` and `fleet::versions` from rows and documents.
//!
//! A list tells which kinds of drift an agent has, from its row alone. Which keys differ is read for one agent at a time,
//! by `muster agents get`.

use std::collections::{BTreeMap, BTreeSet};

use fleet::digest::Digest;
use fleet::drift::{Answer, Drift, Identity, Policy, Subject, answer, drift};
use fleet::offer::{Reported, State};
use fleet::program::{Desired, Reason};
use fleet::selector::Facts;
use fleet::versions::{self, Spread, Violation};
use proto::api;
use proto::store::{self, Match};
use proto::uid::Uid;

use crate::control::{Documents, settings};
use crate::inventory::{self, Row};
use crate::local::Node;
use crate::partition::{desired_of, place_of};

/// Every kind, in the order in which people read them.
pub const KINDS: [&str; 5] = ["content", "assignment", "version", "identity", "fallback"];

/// Findings about versions in one preview; versions with most agents go first.
const FINDINGS: usize = 5;

/// The last authorised offer, as far as drift goes.
#[derive(Clone, Copy, Debug)]
pub struct Last {
    hash: Digest,
    state: State,
    effective: Match,
    reoffered: bool,
}

/// An agent, as far as drift goes and as it is known without reading a body.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What is wrong with who it says it is.
    pub identity: Option<Identity>,
    /// A collector that is down runs no last good config.
    pub healthy: bool,
    /// Last reported hash and status.
    pub reported: Option<(Digest, Reported)>,
    /// Last authorised offer.
    pub last: Option<Last>,
    /// Hashes it is not offered again.
    pub refused: &'a [Digest],
}

/// What families say about versions and drift, and what their agents run. Taken once, for many agents.
#[derive(Default)]
pub struct Norms(BTreeMap<String, Norm>);

#[derive(Default)]
struct Norm {
    versions: versions::Policy,
    drift: Policy,
    spread: Spread,
}

/// A family's agents, by version and by drift.
pub struct FamilyDrift {
    /// `12 × 0.151.0, 9 × 0.150.1`, newest first.
    pub versions: String,
    /// Agents outside of its version policy.
    pub outside: u64,
    /// Agents by kind of drift; kinds without any are left out.
    pub kinds: Vec<api::DriftCount>,
}

// === impl Last ===

impl Last {
    /// As stored; none for what is written by a newer version.
    pub fn stored(delivery: &store::Delivery) -> Option<Self> {
        Some(Last {
            hash: Digest::from_slice(&delivery.hash)?,
            state: inventory::state(delivery.state())?,
            effective: delivery.effective(),
            reoffered: delivery.reoffered,
        })
    }
}

// === impl Seen ===

impl<'a> Seen<'a> {
    /// As its row has it.
    pub fn of(row: &'a Row) -> Self {
        Seen {
            identity: identity(row.duplicate, || reverted(row)),
            healthy: row.healthy,
            reported: row.reported,
            last: row.delivery.as_ref().map(|delivery| Last {
                hash: delivery.hash,
                state: delivery.state,
                effective: delivery.effective,
                reoffered: delivery.reoffered,
            }),
            refused: &row.refused,
        }
    }

    /// For [`fleet::drift::drift`], without the content, the name of what it runs, and its version.
    pub fn subject(&self, desired: &Desired) -> Subject<'static> {
        let outside = matches!(desired.reason, Reason::Stable | Reason::Pinned);
        let should = desired.revision.zip(desired.delivery);
        let last = self.last.as_ref();
        Subject {
            content: None,
            contradicts: last.is_some_and(Last::contradicts),
            should: should.filter(|(_, hash)| outside && !self.is_on_its_way(*hash, desired)),
            reported: self.reported,
            reported_revision: None,
            went_back_from: last.and_then(|last| last.went_back(self.reported, self.healthy)),
            version: None,
            identity: self.identity,
        }
    }

    /// What is or will be offered to it in the ordinary way is no drift yet.
    fn is_on_its_way(&self, hash: Digest, desired: &Desired) -> bool {
        let last = self.last.filter(|last| last.hash == hash);
        let settled = last.is_some_and(|last| {
            !matches!(
                last.state,
                State::Offered | State::Applying | State::Withdrawn
            )
        });
        !settled && desired.offerable && !self.refused.contains(&hash)
    }

    /// What a family with this policy does about a drift of this agent. Room is asked for when it is offered something.
    pub fn answer(&self, drift: &Drift, desired: &Desired, policy: Policy) -> Answer {
        let refused = desired
            .delivery
            .is_some_and(|hash| self.refused.contains(&hash));
        let tried = self.last.is_some_and(|last| last.reoffered);
        answer(drift, policy, refused, tried, true)
    }
}

/// Two agents with one uid say nothing that is known to be one of theirs.
pub fn identity(duplicate: bool, reverted: impl Fn() -> Option<Identity>) -> Option<Identity> {
    match duplicate {
        true => Some(Identity::Duplicate),
        false => reverted(),
    }
}

fn reverted(row: &Row) -> Option<Identity> {
    let delivery = row.delivery.as_ref().filter(|_| row.reverted)?;
    let ((runs, _), applied) = (row.reported?, delivery.hash);
    Some(Identity::Reverted { runs, applied })
}

impl Last {
    /// Only what it said it applied can be contradicted by what it runs.
    fn contradicts(&self) -> bool {
        self.state == State::Applied && self.effective == Match::No
    }

    /// What it failed with, when it is seen to run something else.
    fn went_back(&self, reported: Option<(Digest, Reported)>, healthy: bool) -> Option<Digest> {
        let runs_another = reported
            .is_some_and(|(hash, status)| hash != self.hash && status == Reported::Applied)
            || self.effective == Match::No;
        let went_back = match self.state {
            State::RolledBackByAgent => true,
            State::Failed => runs_another && healthy,
            _ => false,
        };
        went_back.then_some(self.hash)
    }
}

/// Is this agent to be offered once more what it has settled on, in a family that sends again what was drifted from?
pub fn heals(seen: &Seen<'_>, desired: &Desired) -> bool {
    let found = drift(&seen.subject(desired));
    let answer = |drift| seen.answer(drift, desired, Policy::ReOffer);
    found.iter().any(|drift| answer(drift) == Answer::ReOffer)
}

/// Names of the families that send again what an agent has drifted from.
pub fn re_offering(documents: &Documents) -> BTreeSet<String> {
    let families = documents.families.values().map(|family| &family.value);
    let again = families.filter(|family| policy(family) == Policy::ReOffer);
    again.map(|family| family.name.clone()).collect()
}

fn policy(family: &store::Family) -> Policy {
    settings(family.settings.as_ref()).drift
}

// === impl Norms ===

impl Norms {
    /// Of every family. Looks at all agents when a family limits how far they may be behind.
    pub fn of(node: &Node) -> Self {
        let mut norms = Norms::stored(&node.control.read());
        let limits: BTreeSet<String> = norms
            .0
            .iter()
            .filter(|(_, norm)| norm.versions.behind_max.is_some())
            .map(|(family, _)| family.clone())
            .collect();
        for (family, norm) in norms
            .0
            .iter_mut()
            .filter(|(family, _)| limits.contains(*family))
        {
            norm.spread = spread(node, family);
        }
        norms
    }

    /// Of one family, with what its agents run.
    pub fn of_family(node: &Node, family: &str) -> Self {
        let mut norms = Norms::stored(&node.control.read());
        norms.0.retain(|name, _| name == family);
        if let Some(norm) = norms.0.get_mut(family) {
            norm.spread = spread(node, family);
        }
        norms
    }

    fn stored(documents: &Documents) -> Self {
        let norm = |family: &store::Family| {
            let settings = settings(family.settings.as_ref());
            Norm {
                versions: settings.versions,
                drift: settings.drift,
                spread: Spread::default(),
            }
        };
        let families = documents.families.iter();
        Norms(
            families
                .map(|(name, family)| (name.clone(), norm(&family.value)))
                .collect(),
        )
    }

    /// What its family does about drift.
    pub fn policy(&self, row: &Row) -> Policy {
        self.owner(row).map_or(Policy::Report, |norm| norm.drift)
    }

    /// Why the agent's version is outside of its family's policy; none: it is not.
    pub fn violation(&self, row: &Row) -> Option<Violation> {
        let norm = self.owner(row)?;
        norm.versions.violation(version(row), &norm.spread)
    }

    /// Every drift of an agent as its row tells it.
    pub fn drift(&self, row: &Row, desired: &Desired) -> Vec<Drift> {
        drift(&Subject {
            version: self.violation(row),
            ..Seen::of(row).subject(desired)
        })
    }

    fn owner(&self, row: &Row) -> Option<&Norm> {
        self.0.get(row.owner()?.0)
    }
}

/// A family's agents by version and by drift.
pub fn of_family(node: &Node, family: &str) -> FamilyDrift {
    let norms = Norms::of_family(node, family);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for partition in node.partitions.iter() {
        let program = partition.program();
        let columns = partition.index().read();
        for row in columns.rows.values().filter(|row| owns(family, row)) {
            let place = place_of(&columns, &program, row.uid, row.whose());
            let desired = desired_of(row, place, &program);
            for found in norms.drift(row, &desired) {
                *counts.entry(found.kind()).or_default() += 1;
            }
        }
    }
    let count = |kind: &str| counts.get(kind).copied().unwrap_or(0);
    let kinds = KINDS.iter().map(|kind| api::DriftCount {
        kind: (*kind).to_owned(),
        agents: count(kind),
    });
    FamilyDrift {
        versions: norms
            .0
            .get(family)
            .map(|norm| norm.spread.to_string())
            .unwrap_or_default(),
        outside: count("version"),
        kinds: kinds.filter(|kind| kind.agents > 0).collect(),
    }
}

/// For a preview: which of these agents are outside of the version policy that the revision has.
pub fn outside(
    node: &Node,
    family: &str,
    policy: &versions::Policy,
    members: impl Iterator<Item = Uid>,
) -> Vec<api::Finding> {
    if *policy == versions::Policy::default() {
        return vec![];
    }
    let spread = spread(node, family);
    // How many are outside for one reason, and the name of one of them.
    let mut reasons: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for uid in members {
        let columns = node.partition(uid).index().read();
        let Some(row) = columns.rows.get(&uid) else {
            continue;
        };
        if let Some(violation) = policy.violation(version(row), &spread) {
            let reason = reasons
                .entry(violation.to_string())
                .or_insert_with(|| (0, row.name()));
            reason.0 += 1;
        }
    }
    findings(reasons)
}

/// One finding a reason, most agents first.
fn findings(reasons: BTreeMap<String, (u64, String)>) -> Vec<api::Finding> {
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, (agents, _))| std::cmp::Reverse(*agents));
    let rest: u64 = reasons
        .iter()
        .skip(FINDINGS)
        .map(|(_, (agents, _))| agents)
        .sum();
    let warning = |message: String| api::Finding {
        severity: "warning".to_owned(),
        message,
        ..api::Finding::default()
    };
    let subject = |agents: u64| match agents {
        1 => "1 agent is".to_owned(),
        agents => format!("{agents} agents are"),
    };
    let named = reasons.iter().take(FINDINGS);
    let mut findings: Vec<_> = named
        .map(|(why, (agents, example))| {
            warning(format!(
                "{} outside of the family's version policy: {why}, e.g. {example}",
                subject(*agents)
            ))
        })
        .collect();
    if rest > 0 {
        findings.push(warning(format!(
            "{} outside of the family's version policy for other reasons",
            subject(rest)
        )));
    }
    findings
}

/// The condition of an agent whose build nobody tried its revision with; none: it has been, or nobody knows.
pub fn unvalidated(documents: &Documents, agent: &api::Agent) -> Option<String> {
    let revision = &documents
        .revision(&agent.family, agent.revision)
        .filter(|_| agent.revision != 0)?
        .value;
    let validated: BTreeSet<String> = revision.versions.iter().cloned().collect();
    versions::is_unvalidated(&agent.version, &validated).then(|| {
        format!(
            "unvalidated version: no agent of this build was there when revision {} was validated",
            revision.number
        )
    })
}

fn spread(node: &Node, family: &str) -> Spread {
    let mut reported: Vec<std::sync::Arc<str>> = Vec::new();
    for partition in node.partitions.iter() {
        let columns = partition.index().read();
        let owned = columns.rows.values().filter(|row| owns(family, row));
        reported.extend(owned.map(|row| row.shared("service.version").unwrap_or_default()));
    }
    Spread::of(reported.iter().map(|version| &**version))
}

fn owns(family: &str, row: &Row) -> bool {
    !row.alias && row.owner().is_some_and(|(owner, _)| owner == family)
}

fn version(row: &Row) -> &str {
    row.get("service.version").unwrap_or("")
}

#[cfg(test)]
mod tests;
