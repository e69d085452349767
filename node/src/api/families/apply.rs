//! What applying manifests means: documents and manifests to writes, acts and results, or everything that is against it.
//!
//! Functions of their arguments, but for the time that is stamped on what they write.

use std::collections::BTreeMap;

use fleet::budget::Budget;
use fleet::digest::Digest;
use fleet::family::{Role, check_precedence};
use fleet::rollout::PlanSpec;
use fleet::source::{self, Object};
use fleet::validate::{Finding, Policy, Severity, check_policies, validate};
use proto::api::{self, apply_response};
use proto::store::{self, RevisionState};
use tonic::Status;

use super::show::settings_text;
use super::sources;
use crate::control::BUDGET_KEY;
use crate::control::{
    Documents, Settings, budget_to_store, plan_spec, plan_to_store, policy, policy_to_store,
    revision_key, role, role_to_store, settings, settings_to_store,
};
use crate::ledger::{act, now_ms, put, table};
use crate::manifest::{FamilySpec, Manifest, patch};
use crate::partition::merged_config;

/// Kinds of objects, as sources know them.
pub(super) const FAMILY: &str = "family";
pub(super) const PLAN: &str = "plan";
pub(super) const BUDGET: &str = "budget";

/// Who applies, for what, and as what.
#[derive(Clone, Copy, Default)]
pub(super) struct Order<'a> {
    /// For the audit.
    pub actor: &'a str,
    /// Kept with new revisions.
    pub note: &'a str,
    /// The source whose whole content this is; none: API and console.
    pub source: Option<&'a str>,
    /// What the source no longer has stays.
    pub keep_gone: bool,
    /// Of the source.
    pub commit: &'a str,
}

/// What an apply will write.
#[derive(Default)]
pub(super) struct Change {
    pub results: Vec<apply_response::Result>,
    pub writes: Vec<store::Write>,
    pub acts: Vec<store::Act>,
}

/// What these manifests change. `owned` counts agents by the family that owns them.
pub(super) fn change(
    documents: &Documents,
    manifests: &[Manifest],
    order: &Order<'_>,
    owned: &BTreeMap<String, u64>,
) -> Result<Change, Status> {
    let fates = match order.source {
        Some(source) => sources::fates(documents, manifests, source, order.keep_gone, owned),
        None => edits(documents, manifests),
    };
    let gone: Vec<&Object> = fates.iter().flatten().filter_map(pruned).collect();
    let mut mistakes = twice(manifests);
    let mut change = Change::default();
    for manifest in manifests {
        let object = object_of(manifest);
        let fate = fates.as_ref().ok().and_then(|fates| fates.get(&object));
        // With a refusal nothing is stored: what is found on the way are the other mistakes.
        let fate = *fate.unwrap_or(&source::Change::Keep);
        match manifest {
            Manifest::Plan { name, spec } => change.plan(documents, name, spec, fate, order),
            Manifest::Budget(budget) => change.budget(documents, budget, fate, order),
            Manifest::Family(family) => {
                let own = family_mistakes(documents, manifests, &gone, family);
                match own {
                    Ok(findings) => change.family(documents, family, fate, order, findings),
                    Err(found) => mistakes.extend(found),
                }
            }
        }
    }
    if !mistakes.is_empty() {
        return Err(Status::invalid_argument(mistakes.join("\n")));
    }
    let fates = fates.map_err(|refused| Status::failed_precondition(refused.join("\n")))?;
    for object in fates.iter().filter_map(pruned) {
        sources::prune(documents, object, order, &mut change);
    }
    if let Some(source) = order.source {
        sources::applied(documents, source, order, &mut change);
    }
    Ok(change)
}

fn pruned<'a>((object, fate): (&'a Object, &source::Change)) -> Option<&'a Object> {
    (*fate == source::Change::Prune).then_some(object)
}

/// What a manifest is about.
pub(super) fn object_of(manifest: &Manifest) -> Object {
    let (kind, name) = match manifest {
        Manifest::Family(family) => (FAMILY, family.name.as_str()),
        Manifest::Plan { name, .. } => (PLAN, name.as_str()),
        Manifest::Budget(_) => (BUDGET, BUDGET_KEY),
    };
    object(kind, name)
}

/// An object by kind and name.
pub(super) fn object(kind: &str, name: &str) -> Object {
    Object {
        kind: kind.to_owned(),
        name: name.to_owned(),
    }
}

/// Equal for manifests that change nothing where the other one stands.
pub(super) fn content_of(manifest: &Manifest) -> Digest {
    match manifest {
        Manifest::Family(family) => {
            family_content(family.revision_hash(), &family.owner, &family.settings)
        }
        Manifest::Plan { spec, .. } => spec.hash(),
        Manifest::Budget(budget) => {
            let text = format!("{budget:?}");
            Digest::of("muster.content.budget.v1", &[text.as_bytes()])
        }
    }
}

/// Of a stored family at its latest revision.
pub(super) fn stored_family_content(family: &store::Family, latest: &store::Revision) -> Digest {
    let hash = crate::control::digest(&latest.hash);
    let settings = settings(family.settings.as_ref());
    family_content(hash, &family.owner, &settings)
}

fn family_content(revision: Digest, owner: &str, settings: &Settings) -> Digest {
    let settings = settings_text(settings);
    let parts = [
        revision.as_bytes().as_slice(),
        owner.as_bytes(),
        settings.as_bytes(),
    ];
    Digest::of("muster.content.family.v1", &parts)
}

/// A stored object as a manifest; none: there is none, or it is one of a newer version.
fn stored_manifest(documents: &Documents, object: &Object) -> Option<Manifest> {
    match object.kind.as_str() {
        FAMILY => {
            let family = &documents.families.get(&object.name)?.value;
            let latest = &documents.revision(&object.name, 0)?.value;
            Some(Manifest::Family(FamilySpec {
                name: family.name.clone(),
                owner: family.owner.clone(),
                precedence: latest.precedence,
                roles: latest.roles.iter().filter_map(role).collect(),
                policies: latest.policies.iter().filter_map(policy).collect(),
                approvals: latest.approvals,
                settings: settings(family.settings.as_ref()),
            }))
        }
        PLAN => {
            let spec = plan_spec(&documents.plans.get(&object.name)?.value);
            let name = object.name.clone();
            Some(Manifest::Plan { name, spec })
        }
        _ => documents.budget().map(Manifest::Budget),
    }
}

/// What API and console do to each object; or, as patches, what has to be committed instead.
fn edits(
    documents: &Documents,
    manifests: &[Manifest],
) -> Result<BTreeMap<Object, source::Change>, Vec<String>> {
    let stored = sources::objects(documents, &BTreeMap::new());
    let (mut fates, mut refused, mut patches) = (BTreeMap::new(), Vec::new(), Vec::new());
    for manifest in manifests {
        let object = object_of(manifest);
        let fate = match stored.get(&object) {
            None => source::Change::Create,
            Some(found) if found.content == content_of(manifest) => source::Change::Keep,
            Some(found) => {
                if let Err(error) = source::check_edit(&object, found.source.as_deref()) {
                    let before = stored_manifest(documents, &object);
                    patches.extend(before.map(|before| patch(&before, manifest)));
                    refused.push(error.to_string());
                }
                source::Change::Update
            }
        };
        fates.insert(object, fate);
    }
    if refused.is_empty() {
        Ok(fates)
    } else {
        // Last, so that they can be cut out.
        refused.extend(patches);
        Err(refused)
    }
}

/// The same name twice in one call.
fn twice(manifests: &[Manifest]) -> Vec<String> {
    let mut seen = BTreeMap::new();
    for manifest in manifests {
        let object = object_of(manifest);
        let name = format!("{} `{}`", object.kind, object.name);
        *seen.entry(name).or_insert(0) += 1;
    }
    seen.into_iter()
        .filter(|(_, n)| *n > 1)
        .map(|(name, n)| format!("{name} stands {n} times in this call: remove all but one"))
        .collect()
}

// === impl Change ===

impl Change {
    fn plan(
        &mut self,
        documents: &Documents,
        name: &str,
        spec: &PlanSpec,
        fate: source::Change,
        order: &Order<'_>,
    ) {
        if fate != source::Change::Keep {
            let before = documents.plans.get(name);
            let stored = store::Plan {
                source: order.source.unwrap_or_default().to_owned(),
                ..plan_to_store(name, spec)
            };
            let version = before.map_or(0, |b| b.version);
            self.writes.push(put(table::PLAN, name, version, &stored));
            self.acts.push(act(
                order.actor,
                "plan.apply",
                format!("plan/{name}"),
                word(fate).to_owned(),
            ));
        }
        self.result("Plan", name, word(fate));
    }

    fn budget(
        &mut self,
        documents: &Documents,
        budget: &Budget,
        fate: source::Change,
        order: &Order<'_>,
    ) {
        if fate != source::Change::Keep {
            let before = documents.budgets.get(BUDGET_KEY);
            let stored = store::Budget {
                source: order.source.unwrap_or_default().to_owned(),
                ..budget_to_store(budget)
            };
            let version = before.map_or(0, |b| b.version);
            let write = put(table::BUDGET, BUDGET_KEY, version, &stored);
            self.writes.push(write);
            let detail = format!(
                "{} of each {}, {} for urgent rollouts",
                crate::manifest::size_text(budget.size),
                budget.label,
                crate::manifest::size_text(budget.urgent)
            );
            let name = format!("budget/{BUDGET_KEY}");
            self.acts
                .push(act(order.actor, "budget.apply", name, detail));
        }
        self.result("Budget", BUDGET_KEY, word(fate));
    }

    fn family(
        &mut self,
        documents: &Documents,
        family: &FamilySpec,
        fate: source::Change,
        order: &Order<'_>,
        findings: Vec<api::Finding>,
    ) {
        let before = documents.families.get(&family.name);
        let hash = family.revision_hash();
        let latest = documents.revision(&family.name, 0);
        let same = latest.is_some_and(|latest| latest.value.hash == hash.as_bytes());
        let last = match before {
            Some(before) => before.value.latest,
            None => last_number(documents, &family.name),
        };
        let number = last + u64::from(!same);
        let word = match (fate, same) {
            (source::Change::Update, false) => "new revision",
            (fate, _) => word(fate),
        };
        if fate != source::Change::Keep {
            let stored = store::Family {
                name: family.name.clone(),
                owner: family.owner.clone(),
                // A precedence takes effect with the revision that carries it; the first one is there at once.
                precedence: before.map_or(family.precedence, |b| b.value.precedence),
                latest: number,
                created_ms: before.map_or_else(now_ms, |b| b.value.created_ms),
                settings: settings_to_store(&family.settings),
                source: order.source.unwrap_or_default().to_owned(),
                ..before
                    .map(|b| store::Family::clone(&b.value))
                    .unwrap_or_default()
            };
            let version = before.map_or(0, |b| b.version);
            let name = family.name.as_str();
            self.writes.push(put(table::FAMILY, name, version, &stored));
            self.acts.push(act(
                order.actor,
                "family.apply",
                format!("family/{name}"),
                format!("{word}: revision {number} ({hash})"),
            ));
            let settings = settings(before.and_then(|b| b.value.settings.as_ref()));
            if settings != family.settings {
                self.acts.push(act(
                    order.actor,
                    "family.settings",
                    format!("family/{name}"),
                    settings_text(&family.settings),
                ));
            }
        }
        if fate != source::Change::Keep && !same {
            let revision = store::Revision {
                family: family.name.clone(),
                number,
                hash: hash.as_bytes().to_vec(),
                roles: family.roles.iter().map(role_to_store).collect(),
                author: order.actor.to_owned(),
                created_ms: now_ms(),
                note: order.note.to_owned(),
                state: RevisionState::Validated.into(),
                policies: family.policies.iter().map(policy_to_store).collect(),
                precedence: family.precedence,
                owner: family.owner.clone(),
                approvals: family.approvals,
                commit: order.commit.to_owned(),
                ..store::Revision::default()
            };
            let key = revision_key(&family.name, number);
            self.writes.push(put(table::REVISION, key, 0, &revision));
        }
        self.results.push(apply_response::Result {
            kind: "Family".to_owned(),
            name: family.name.clone(),
            change: word.to_owned(),
            revision: number,
            findings,
            ..apply_response::Result::default()
        });
    }

    /// One more line of the answer.
    pub(super) fn result(&mut self, kind: &str, name: &str, change: &str) {
        self.results.push(apply_response::Result {
            kind: kind.to_owned(),
            name: name.to_owned(),
            change: change.to_owned(),
            ..apply_response::Result::default()
        });
    }
}

fn word(fate: source::Change) -> &'static str {
    match fate {
        source::Change::Create => "created",
        source::Change::Update => "changed",
        source::Change::Keep => "unchanged",
        source::Change::Prune => "pruned",
    }
}

/// The last number of a family of this name that is gone: rollouts and agents still speak of its revisions.
fn last_number(documents: &Documents, family: &str) -> u64 {
    let before = documents.rollouts.values();
    let before = before.filter(|rollout| rollout.value.family == family);
    let rolled_out = before.map(|rollout| rollout.value.to).max();
    let gone = documents.gone.get(family).map(|gone| gone.value.latest);
    rolled_out.max(gone).unwrap_or(0)
}

/// What is worth a look in a family's configs; or what is wrong with the family.
fn family_mistakes(
    documents: &Documents,
    all: &[Manifest],
    gone: &[&Object],
    family: &FamilySpec,
) -> Result<Vec<api::Finding>, Vec<String>> {
    let mut mistakes: Vec<String> = same_precedence(documents, all, gone, family)
        .into_iter()
        .collect();
    let mut findings = Vec::new();
    for role in &family.roles {
        for finding in role_findings(role, &family.policies) {
            let message = format!(
                "family {}, role {}: {}",
                family.name, role.name, finding.message
            );
            match finding.severity {
                Severity::Error => mistakes.push(message),
                Severity::Warning => findings.push(api::Finding {
                    severity: "warning".to_owned(),
                    path: finding.path.to_string(),
                    message: finding.message,
                    role: role.name.clone(),
                }),
            }
        }
    }
    if mistakes.is_empty() {
        Ok(findings)
    } else {
        Err(mistakes)
    }
}

/// Against the families of this call as they are sent, and the others as they are and as their latest revision will have
/// them.
fn same_precedence(
    documents: &Documents,
    all: &[Manifest],
    gone: &[&Object],
    family: &FamilySpec,
) -> Option<String> {
    let sent = all.iter().filter_map(|manifest| match manifest {
        Manifest::Family(other) => Some((other.name.as_str(), other.precedence)),
        _ => None,
    });
    let is_out = |name: &str| {
        sent.clone().any(|(other, _)| other == name)
            || gone.iter().any(|o| o.kind == FAMILY && o.name == name)
    };
    let stored = documents.families.values().flat_map(|found| {
        let name = found.value.name.as_str();
        let latest = documents.revision(name, 0).map(|r| r.value.precedence);
        let both = [Some(found.value.precedence), latest];
        both.into_iter().flatten().map(move |number| (name, number))
    });
    let stored = stored.filter(|(name, _)| !is_out(name));
    let others = stored.chain(sent.clone());
    let checked = check_precedence(&family.name, family.precedence, others);
    checked.err().map(|error| error.to_string())
}

fn role_findings(role: &Role, policies: &[Policy]) -> Vec<Finding> {
    let mut findings = config_findings("config", &role.config, policies);
    if !role.baseline.is_empty() {
        findings.extend(config_findings("baseline", &role.baseline, &[]));
    }
    findings
}

fn config_findings(
    what: &str,
    config: &fleet::family::ConfigMap,
    policies: &[Policy],
) -> Vec<Finding> {
    let error = |message: String| {
        vec![Finding {
            severity: Severity::Error,
            path: fleet::value::Path::root(),
            message,
        }]
    };
    for (name, file) in config {
        if file.body.trim().is_empty() {
            return error(format!(
                "{what} `{name}` is empty, which would stop the collector: give it a body"
            ));
        }
        if let Err(found) = proto::yaml::parse(&file.body) {
            return error(format!("{what} `{name}` is no YAML: {found}"));
        }
    }
    let Some(config) = merged_config(config) else {
        return error(format!(
            "its {what} cannot be merged: each file has to be a map"
        ));
    };
    let mut findings = validate(&config);
    findings.extend(check_policies(&config, policies));
    findings
}
