//! What applying manifests means: documents and manifests to writes, acts and results, or everything that is against it.
//!
//! Functions of their arguments, but for the time that is stamped on what they write.

use std::collections::BTreeMap;

use fleet::budget::Budget;
use fleet::digest::Digest;
use fleet::rollout::PlanSpec;
use fleet::source::{self, Object};
use proto::api::{self, apply_response};
use proto::store;
use tonic::Status;

use super::lent::Lent;
use super::sources;
use crate::checks;
use crate::control::BUDGET_KEY;
use crate::control::{
    Doc, Documents, Settings, budget_to_store, plan_spec, plan_to_store, policy, policy_to_store,
    revision_key, revision_settings, role, role_to_store, settings, settings_in_force,
    settings_to_store,
};
use crate::ledger::{act, now_ms, put, table};
use crate::manifest::{FamilySpec, Manifest, patch, settings_change, settings_text};

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
    /// What does not pass every check is stored as a draft.
    pub draft: bool,
}

/// What an apply will write.
#[derive(Default)]
pub(super) struct Change {
    pub results: Vec<apply_response::Result>,
    pub writes: Vec<store::Write>,
    pub acts: Vec<store::Act>,
}

/// What was seen of the fleet before an apply.
#[derive(Default)]
pub(super) struct Seen {
    /// Agents by the family that owns them.
    pub owned: BTreeMap<String, u64>,
    /// Agents by the family that another one's rollout takes them from.
    pub lent: BTreeMap<String, Lent>,
    /// By family that gets a new revision: what its agents and their collectors say against it.
    pub findings: BTreeMap<String, Vec<api::Finding>>,
}

/// What these manifests change.
pub(super) fn change(
    documents: &Documents,
    manifests: &[Manifest],
    order: &Order<'_>,
    seen: &Seen,
) -> Result<Change, Status> {
    let fates = match order.source {
        Some(source) => sources::fates(documents, manifests, source, order.keep_gone, seen),
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
                let mut findings = checks::by_itself(documents, manifests, &gone, family);
                if is_fresh(documents, family) {
                    let seen = seen.findings.get(&family.name);
                    findings.extend(seen.ok_or_else(|| overtaken(family))?.iter().cloned());
                }
                match checks::errors(&family.name, &findings) {
                    errors if errors.is_empty() || order.draft => {
                        change.family(documents, family, fate, order, findings);
                    }
                    errors => mistakes.extend(errors),
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

/// Does it differ from the latest revision, or has that not passed every check yet?
pub(super) fn is_fresh(documents: &Documents, family: &FamilySpec) -> bool {
    let latest = documents.revision(&family.name, 0);
    latest.is_none_or(|latest| checks::is_draft(&latest.value) || !is_same(documents, family))
}

/// It was the same when its agents were looked at.
fn overtaken(family: &FamilySpec) -> Status {
    Status::aborted(format!(
        "somebody else has changed family {} at the same time: look at it and apply again",
        family.name
    ))
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
        Manifest::Family(family) => family_content(family.revision_hash(), &family.owner),
        Manifest::Plan { spec, .. } => spec.hash(),
        Manifest::Budget(budget) => {
            let text = format!("{budget:?}");
            Digest::of("muster.content.budget.v1", &[text.as_bytes()])
        }
    }
}

/// Of a stored family at its latest revision.
pub(super) fn stored_family_content(family: &store::Family, latest: &store::Revision) -> Digest {
    family_content(whole_hash(family, latest), &family.owner)
}

fn family_content(revision: Digest, owner: &str) -> Digest {
    let parts = [revision.as_bytes().as_slice(), owner.as_bytes()];
    Digest::of("muster.content.family.v2", &parts)
}

/// The hash of a revision that covers its settings. One from before revisions had settings, whose family has some, is
/// like no other: the next apply makes a revision of them.
fn whole_hash(family: &store::Family, revision: &store::Revision) -> Digest {
    let hash = crate::control::digest(&revision.hash);
    match (&revision.settings, &family.settings) {
        (None, Some(apart)) => {
            let text = settings_text(&settings(Some(apart)));
            let parts = [hash.as_bytes().as_slice(), text.as_bytes()];
            Digest::of("muster.settings.apart.v1", &parts)
        }
        _ => hash,
    }
}

/// Does a family's latest revision say the same?
fn is_same(documents: &Documents, family: &FamilySpec) -> bool {
    let stored = documents.families.get(&family.name);
    let latest = documents.revision(&family.name, 0);
    stored.zip(latest).is_some_and(|(stored, latest)| {
        whole_hash(&stored.value, &latest.value) == family.revision_hash()
    })
}

/// A stored object as a manifest; none: there is none, or it is one of a newer version.
fn stored_manifest(documents: &Documents, object: &Object) -> Option<Manifest> {
    match object.kind.as_str() {
        FAMILY => {
            let family = &documents.families.get(&object.name)?.value;
            let latest = &documents.revision(&object.name, 0)?.value;
            Some(Manifest::Family(spec_of(family, latest)))
        }
        PLAN => {
            let spec = plan_spec(&documents.plans.get(&object.name)?.value);
            let name = object.name.clone();
            Some(Manifest::Plan { name, spec })
        }
        _ => documents.budget().map(Manifest::Budget),
    }
}

/// A family as somebody has written this revision.
pub(super) fn spec_of(family: &store::Family, revision: &store::Revision) -> FamilySpec {
    FamilySpec {
        name: family.name.clone(),
        owner: family.owner.clone(),
        precedence: revision.precedence,
        roles: revision.roles.iter().filter_map(role).collect(),
        policies: revision.policies.iter().filter_map(policy).collect(),
        approvals: revision.approvals,
        settings: revision_settings(family, revision),
    }
}

/// What API and console do to each object; or, as patches, what has to be committed instead.
fn edits(
    documents: &Documents,
    manifests: &[Manifest],
) -> Result<BTreeMap<Object, source::Change>, Vec<String>> {
    let stored = sources::objects(documents, &Seen::default());
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
        let same = is_same(documents, family);
        let last = match before {
            Some(before) => before.value.latest,
            None => last_number(documents, &family.name),
        };
        let number = last + u64::from(!same);
        // A draft that is applied again passes if its cause has gone.
        let draft = latest.filter(|latest| same && checks::is_draft(&latest.value));
        let stays = findings.iter().any(checks::is_error);
        let is_draft = stays && (!same || draft.is_some());
        let word = match (fate, same) {
            (source::Change::Update, false) => "new revision",
            (source::Change::Keep, true) if draft.is_some() && !stays => "validated",
            (fate, _) => word(fate),
        };
        if fate != source::Change::Keep {
            let stored = store::Family {
                name: family.name.clone(),
                owner: family.owner.clone(),
                // A precedence takes effect with the revision that carries it; where none ever did, it is there at once.
                precedence: before
                    .filter(|b| b.value.stable != 0 || is_open(documents, &family.name))
                    .map_or(family.precedence, |b| b.value.precedence),
                latest: number,
                created_ms: before.map_or_else(now_ms, |b| b.value.created_ms),
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
                format!(
                    "{word}: revision {number} ({hash}){}{}",
                    draft_words(is_draft),
                    settings_words(before, &family.settings)
                ),
            ));
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
                policies: family.policies.iter().map(policy_to_store).collect(),
                precedence: family.precedence,
                owner: family.owner.clone(),
                approvals: family.approvals,
                commit: order.commit.to_owned(),
                settings: Some(settings_to_store(&family.settings).unwrap_or_default()),
                ..store::Revision::default()
            };
            let key = revision_key(&family.name, number);
            let revision = checks::checked(&revision, &findings);
            self.writes.push(put(table::REVISION, key, 0, &revision));
        }
        if let Some(draft) = draft.filter(|_| !stays) {
            let (write, act) = check_again(draft, &findings, order.actor);
            self.writes.push(write);
            self.acts.push(act);
        }
        self.results.push(apply_response::Result {
            kind: "Family".to_owned(),
            name: family.name.clone(),
            change: word.to_owned(),
            revision: number,
            draft: is_draft,
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

/// For the audit: what will change once the revision is stable.
fn settings_words(before: Option<&Doc<store::Family>>, after: &Settings) -> String {
    let before = before.map(|family| settings_in_force(&family.value));
    match settings_change(&before.unwrap_or_default(), after) {
        none if none.is_empty() => none,
        change => format!(", with {change}"),
    }
}

fn draft_words(is_draft: bool) -> &'static str {
    match is_draft {
        true => ", a draft",
        false => "",
    }
}

/// A draft with what its checks have found now; it is validated if no error is among it.
pub(super) fn check_again(
    draft: &Doc<store::Revision>,
    findings: &[api::Finding],
    actor: &str,
) -> (store::Write, store::Act) {
    let checked = checks::checked(&draft.value, findings);
    let store::Revision { family, number, .. } = &checked;
    let errors = findings.iter().filter(|f| checks::is_error(f)).count();
    let detail = match errors {
        0 => format!("revision {number} passes every check"),
        1 => format!("revision {number} stays a draft: 1 error"),
        errors => format!("revision {number} stays a draft: {errors} errors"),
    };
    let key = revision_key(family, *number);
    let act = act(
        actor,
        "revision.validate",
        format!("family/{family}"),
        detail,
    );
    (put(table::REVISION, key, draft.version, &checked), act)
}

fn is_open(documents: &Documents, family: &str) -> bool {
    sources::open_rollout(documents, family).is_some()
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
