//! Drift and versions by rows and documents: feeds `fleet::drift` and `fleet::versions`.
//!
//! A row alone tells which kinds of drift an agent has. Which keys differ is read for one agent at a time, elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use fleet::digest::Digest;
use fleet::drift::{Answer, Drift, Identity, Policy, Subject, answer, drift};
use fleet::offer::{Reported, State};
use fleet::program::{Desired, Reason};
use fleet::selector::Facts;
use fleet::versions::{self, Spread, Violation};
use proto::store::{self, Match};

use crate::control::{Documents, settings_in_force};
use crate::inventory::{self, Row};

/// Every kind, in the order in which people read them.
pub const KINDS: [&str; 5] = ["content", "assignment", "version", "identity", "fallback"];

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
    settings_in_force(family).drift
}

// === impl Norms ===

impl Norms {
    /// By the documents alone: what agents run is added with [`Norms::measure`].
    pub fn of(documents: &Documents) -> Self {
        let norm = |family: &store::Family| {
            let settings = settings_in_force(family);
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

    /// Of this family alone.
    pub fn only(mut self, family: &str) -> Self {
        self.0.retain(|name, _| name == family);
        self
    }

    /// Families that limit how far their agents may be behind.
    pub fn limiting(&self) -> Vec<String> {
        let limits = |norm: &Norm| norm.versions.behind_max.is_some();
        let limiting = self.0.iter().filter(|(_, norm)| limits(norm));
        limiting.map(|(family, _)| family.clone()).collect()
    }

    /// What the agents of a family run.
    pub fn measure(&mut self, family: &str, spread: Spread) {
        if let Some(norm) = self.0.get_mut(family) {
            norm.spread = spread;
        }
    }

    /// What was measured of it, for people; empty: nothing.
    pub fn spread(&self, family: &str) -> String {
        let norm = self.0.get(family);
        norm.map(|norm| norm.spread.to_string()).unwrap_or_default()
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

/// The version that an agent says it has; empty: none.
pub fn version(row: &Row) -> &str {
    row.get("service.version").unwrap_or("")
}

#[cfg(test)]
mod tests;
