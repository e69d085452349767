//! An apply as agents and their collectors see it: who matches two roles, which rules count where, and what the
//! collectors that would run its configs say of them.

use std::collections::{BTreeMap, BTreeSet};

use fleet::digest::Digest;
use fleet::family::{ConfigMap, Role, delivery_hash};
use fleet::selector::{Facts, Selector};
use proto::api;
use tonic::Status;

use super::super::Api;
use crate::checks;
use crate::local::Node;
use crate::manifest::FamilySpec;
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
    /// What agents and their collectors say against families as they are written.
    pub(super) async fn look(
        &self,
        families: Vec<FamilySpec>,
    ) -> Result<BTreeMap<String, Vec<api::Finding>>, Status> {
        let (node, asked) = (self.node.clone(), families.clone());
        // Scans every agent: not on a thread that answers agents.
        let seen = tokio::task::spawn_blocking(move || {
            let seen = asked.iter().map(|f| (f.name.clone(), agents(&node, f)));
            seen.collect::<BTreeMap<_, _>>()
        });
        let mut findings = seen
            .await
            .map_err(|error| Status::internal(chain(&error)))?;
        for (family, found) in self.try_configs(families).await? {
            findings.entry(family).or_default().extend(found);
        }
        Ok(findings)
    }

    /// What could not be validated, and what collectors refuse, by family.
    async fn try_configs(
        &self,
        mut families: Vec<FamilySpec>,
    ) -> Result<BTreeMap<String, Vec<api::Finding>>, Status> {
        // Nobody is asked about what is wrong by itself.
        families.retain(|family| !checks::configs(family).iter().any(checks::is_error));
        if self.node.otelcol.is_empty() || families.is_empty() {
            return Ok(BTreeMap::new());
        }
        let roles: Vec<(&FamilySpec, &Role)> = families
            .iter()
            .flat_map(|family| family.roles.iter().map(move |role| (family, role)))
            .collect();
        let selectors: Vec<Selector> = roles
            .iter()
            .map(|(_, role)| role.selector.clone())
            .collect();
        let node = self.node.clone();
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
        Ok(judge(&trials, &verdicts))
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

/// What is wrong with it by the agents that there are.
fn agents(node: &Node, family: &FamilySpec) -> Vec<api::Finding> {
    let census = checks::census(node, &family.roles, &family.policies);
    let mut findings = checks::overlaps(&family.name, &census);
    findings.extend(checks::conditional(&family.roles, &census));
    findings
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
) -> BTreeMap<String, Vec<api::Finding>> {
    let mut findings: BTreeMap<String, Vec<api::Finding>> = BTreeMap::new();
    let mut refused = 0;
    for trial in trials {
        let finding = match verdicts.get(&trial.key()) {
            None | Some(Verdict::Sound) => continue,
            Some(Verdict::Refused(words)) => {
                refused += 1;
                let why = match refused {
                    ..=REFUSALS_TOLD => format!(": {words}"),
                    _ => ", too".to_owned(),
                };
                let message = format!("{} refuses its {}{why}", trial.binary, trial.what);
                checks::error(trial.role, message)
            }
            Some(Verdict::NotValidated(why)) => {
                let message = format!("its {} was not validated: {why}", trial.what);
                checks::warning(trial.role, message)
            }
        };
        let of_family = findings.entry(trial.family.to_owned()).or_default();
        of_family.push(finding);
    }
    findings
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

    fn judged(verdicts: &[Verdict]) -> Vec<api::Finding> {
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
        let mut judged = judge(&trials, &verdicts.collect());
        judged.remove("web").unwrap_or_default()
    }

    #[test]
    fn a_refusal_names_family_role_and_binary() {
        let refused = judged(&[Verdict::Sound, Verdict::Refused("unknown type".to_owned())]);
        assert_eq!(
            checks::errors("web", &refused),
            ["family web, role agent: /otelcol-1 refuses its config: unknown type"]
        );
        let many = vec![Verdict::Refused("no".to_owned()); REFUSALS_TOLD + 2];
        let many = checks::errors("web", &judged(&many));
        assert_eq!(many.len(), REFUSALS_TOLD + 2);
        assert!(many[REFUSALS_TOLD].ends_with("refuses its config, too"));
    }

    #[test]
    fn what_was_not_validated_is_a_warning() {
        let found = judged(&[Verdict::NotValidated("it is not there".to_owned())]);
        let finding = &found[0];
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
