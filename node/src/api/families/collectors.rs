//! An apply's configs, tried with the collectors that would run them.

use std::collections::{BTreeMap, BTreeSet};

use fleet::digest::Digest;
use fleet::family::{ConfigMap, Role, delivery_hash};
use fleet::selector::{Facts, Selector};
use proto::api::{self, apply_response};
use tonic::Status;

use super::super::Api;
use crate::local::Node;
use crate::manifest::{FamilySpec, Manifest};
use crate::otelcol::{Binary, Verdict};
use crate::partition::chain;

/// Refusals that are told in full: each has a collector's words with it.
const REFUSALS_TOLD: usize = 5;

/// A config of a role, and a collector that is asked about it.
struct Trial<'a> {
    family: &'a str,
    role: &'a str,
    what: &'static str,
    config: &'a ConfigMap,
    binary: &'a Binary,
}

impl Api {
    /// What could not be validated, by family; or what collectors refuse. Nothing is asked where nothing is new.
    pub(super) async fn try_configs(
        &self,
        manifests: &[Manifest],
        results: &[apply_response::Result],
    ) -> Result<BTreeMap<String, Vec<api::Finding>>, Status> {
        let families = new_families(manifests, results);
        let roles: Vec<(&FamilySpec, &Role)> = families
            .iter()
            .flat_map(|family| family.roles.iter().map(|role| (*family, role)))
            .collect();
        let selectors: Vec<Selector> = roles
            .iter()
            .map(|(_, role)| role.selector.clone())
            .collect();
        let node = self.node.clone();
        // Scans every agent: not on a thread that answers agents.
        let reported = tokio::task::spawn_blocking(move || distributions(&node, &selectors)).await;
        let reported = reported.map_err(|error| Status::internal(chain(&error)))?;
        let mut trials = Vec::new();
        for ((family, role), reported) in roles.iter().zip(&reported) {
            let baseline = Some(("baseline", &role.baseline)).filter(|(_, b)| !b.is_empty());
            let configs: Vec<_> = [("config", &role.config)]
                .into_iter()
                .chain(baseline)
                .collect();
            for binary in self.node.otelcol.of(reported) {
                trials.extend(configs.iter().map(|(what, config)| Trial {
                    family: &family.name,
                    role: &role.name,
                    what,
                    config,
                    binary,
                }));
            }
        }
        let verdicts = self.verdicts(&trials).await;
        judge(&trials, &verdicts)
    }

    /// Each config once for each binary.
    async fn verdicts(&self, trials: &[Trial<'_>]) -> BTreeMap<(Binary, Digest), Verdict> {
        let once: BTreeMap<_, _> = trials.iter().map(|trial| (trial.key(), trial)).collect();
        let asked = once.into_iter().map(async |(key, trial)| {
            let verdict = self.node.otelcol.validate(trial.binary, trial.config).await;
            (key, verdict)
        });
        futures::future::join_all(asked).await.into_iter().collect()
    }
}

/// Families that get a new revision.
fn new_families<'a>(
    manifests: &'a [Manifest],
    results: &[apply_response::Result],
) -> Vec<&'a FamilySpec> {
    let is_new = |family: &&FamilySpec| {
        results.iter().any(|result| {
            result.kind == "Family"
                && result.name == family.name
                && matches!(result.change.as_str(), "created" | "new revision")
        })
    };
    let families = manifests.iter().filter_map(|manifest| match manifest {
        Manifest::Family(family) => Some(family),
        _ => None,
    });
    families.filter(is_new).collect()
}

/// What agents that match say they are, by selector.
fn distributions(node: &Node, selectors: &[Selector]) -> Vec<BTreeSet<String>> {
    let mut found = vec![BTreeSet::new(); selectors.len()];
    for partition in node.partitions.iter() {
        let columns = partition.index().read();
        for row in columns.rows.values().filter(|row| !row.alias) {
            let Some(name) = row.get("service.name") else {
                continue;
            };
            for (selector, found) in selectors.iter().zip(&mut found) {
                if !found.contains(name) && selector.matches(row) {
                    found.insert(name.to_owned());
                }
            }
        }
    }
    found
}

fn judge(
    trials: &[Trial<'_>],
    verdicts: &BTreeMap<(Binary, Digest), Verdict>,
) -> Result<BTreeMap<String, Vec<api::Finding>>, Status> {
    let mut findings: BTreeMap<String, Vec<api::Finding>> = BTreeMap::new();
    let mut refused = Vec::new();
    for trial in trials {
        match verdicts.get(&trial.key()) {
            None | Some(Verdict::Sound) => {}
            Some(Verdict::Refused(words)) => refused.push(format!(
                "family {}, role {}: {} refuses its {}: {words}",
                trial.family, trial.role, trial.binary, trial.what
            )),
            Some(Verdict::NotValidated(why)) => {
                let of_family = findings.entry(trial.family.to_owned()).or_default();
                of_family.push(api::Finding {
                    severity: "warning".to_owned(),
                    message: format!("its {} was not validated: {why}", trial.what),
                    role: trial.role.to_owned(),
                    ..api::Finding::default()
                });
            }
        }
    }
    if refused.is_empty() {
        return Ok(findings);
    }
    let more = refused.len().saturating_sub(REFUSALS_TOLD);
    refused.truncate(REFUSALS_TOLD);
    if more > 0 {
        refused.push(format!("and {more} more configs are refused"));
    }
    Err(Status::invalid_argument(refused.join("\n")))
}

// === impl Trial ===

impl Trial<'_> {
    fn key(&self) -> (Binary, Digest) {
        (self.binary.clone(), delivery_hash(self.config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(verdicts: &[Verdict]) -> Result<BTreeMap<String, Vec<api::Finding>>, Status> {
        let config = ConfigMap::new();
        let binaries: Vec<Binary> = (0..verdicts.len())
            .map(|n| format!("/otelcol-{n}").parse().unwrap())
            .collect();
        let trial = |binary| Trial {
            family: "web",
            role: "agent",
            what: "config",
            config: &config,
            binary,
        };
        let trials: Vec<_> = binaries.iter().map(trial).collect();
        let verdicts = trials.iter().map(Trial::key).zip(verdicts.iter().cloned());
        judge(&trials, &verdicts.collect())
    }

    #[test]
    fn a_refusal_names_family_role_and_binary() {
        let refused = judged(&[Verdict::Sound, Verdict::Refused("unknown type".to_owned())]);
        assert_eq!(
            refused.unwrap_err().message(),
            "family web, role agent: /otelcol-1 refuses its config: unknown type"
        );
        let many = vec![Verdict::Refused("no".to_owned()); REFUSALS_TOLD + 2];
        let many = judged(&many).unwrap_err();
        assert!(many.message().ends_with("and 2 more configs are refused"));
    }

    #[test]
    fn what_was_not_validated_is_a_warning() {
        let found = judged(&[Verdict::NotValidated("it is not there".to_owned())]).unwrap();
        let finding = &found["web"][0];
        assert_eq!(
            (finding.severity.as_str(), finding.role.as_str()),
            ("warning", "agent")
        );
        assert_eq!(
            finding.message,
            "its config was not validated: it is not there"
        );
    }
}
