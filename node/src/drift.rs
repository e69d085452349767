//! Drift and versions over all agents that a node knows, by [`state::drift`].

use std::collections::{BTreeMap, BTreeSet};

use fleet::versions::{self, Spread};
use proto::api;
use proto::uid::Uid;
use state::drift::version;

pub use state::drift::{KINDS, Norms, Seen};

use crate::control::Documents;
use crate::inventory::Row;
use crate::local::Node;
use crate::partition::{desired_of, place_of};

/// Findings about versions in one preview; versions with most agents go first.
const FINDINGS: usize = 5;

/// A family's agents, by version and by drift.
pub struct FamilyDrift {
    /// `12 × 0.151.0, 9 × 0.150.1`, newest first.
    pub versions: String,
    /// Agents outside of its version policy.
    pub outside: u64,
    /// Agents by kind of drift; kinds without any are left out.
    pub kinds: Vec<api::DriftCount>,
}

/// What every family says. Looks at all agents when a family limits how far they may be behind.
pub fn norms(node: &Node) -> Norms {
    let mut norms = Norms::of(&node.control.read());
    for family in norms.limiting() {
        norms.measure(&family, spread(node, &family));
    }
    norms
}

/// What one family says, with what its agents run.
pub fn norms_of(node: &Node, family: &str) -> Norms {
    let mut norms = Norms::of(&node.control.read()).only(family);
    norms.measure(family, spread(node, family));
    norms
}

/// A family's agents by version and by drift.
pub fn of_family(node: &Node, family: &str) -> FamilyDrift {
    let norms = norms_of(node, family);
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
        versions: norms.spread(family),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_outside_are_one_finding_each_with_most_agents_first() {
        let reasons = BTreeMap::from([
            ("0.140.0 is below".to_owned(), (1, "web-9".to_owned())),
            ("0.141.0 is below".to_owned(), (7, "web-1".to_owned())),
        ]);
        let said: Vec<String> = findings(reasons).into_iter().map(|f| f.message).collect();
        assert_eq!(
            said,
            [
                "7 agents are outside of the family's version policy: 0.141.0 is below, e.g. web-1",
                "1 agent is outside of the family's version policy: 0.140.0 is below, e.g. web-9",
            ]
        );
        let many = (0..7).map(|i| (format!("reason {i}"), (1, "x".to_owned())));
        let said = findings(many.collect());
        assert_eq!(said.len(), 6);
        assert_eq!(
            said[5].message,
            "2 agents are outside of the family's version policy for other reasons"
        );
    }
}
