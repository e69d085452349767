//! Git sources: what they own, what a sync makes of it, and who hands what over to whom.
//!
//! Functions of documents; `fleet::source` has the rules.

use std::collections::BTreeMap;

use fleet::digest::Digest;
use fleet::source::{self, Object, Stored};
use proto::api;
use proto::store;
use tonic::Status;

use super::apply::{
    BUDGET, Change, FAMILY, Order, PLAN, Seen, content_of, object, object_of, stored_family_content,
};
use super::lent::Lent;
use crate::api::governance::asked_for;
use crate::control::BUDGET_KEY;
use crate::control::{Doc, Documents, built_in_plan, plan_spec, revision_key, rollout_state};
use crate::ledger::{act, delete, now_ms, put, table};
use crate::manifest::Manifest;

/// Longest name of a commit: what a hash or a tag needs.
const COMMIT_CHARS_MAX: usize = 200;

/// Is a call as it has to be for a source, or for none?
pub(super) fn check_request(request: &api::ApplyRequest) -> Result<(), Status> {
    let source = request.source.as_str();
    let mistake = if request.draft && request.activate {
        Some(
            "a draft is not started: leave out what starts it, or what lets it be a draft"
                .to_owned(),
        )
    } else if source.is_empty() {
        match (request.keep_gone, request.commit.is_empty()) {
            (true, _) => Some("only a source has something that is gone: name it with --source, or leave out what keeps it".to_owned()),
            (_, false) => Some(format!("commit {} is of no source: name it with --source", request.commit)),
            _ => None,
        }
    } else if let Err(error) = fleet::family::check_name("source", source) {
        Some(error.to_string())
    } else if request.manifests.is_empty() {
        Some(format!(
            "there is no manifest for source {source}, so that all it owns would go: to end a source, hand what it \
             owns back with `muster adopt`"
        ))
    } else if request.commit.chars().count() > COMMIT_CHARS_MAX
        || request.commit.contains(char::is_control)
    {
        Some(format!(
            "the commit of source {source} is no name of one: use at most {COMMIT_CHARS_MAX} characters on one line"
        ))
    } else {
        None
    };
    mistake.map_or(Ok(()), |mistake| Err(Status::invalid_argument(mistake)))
}

/// Everything that can be owned, as it is stored.
pub(super) fn objects(documents: &Documents, seen: &Seen) -> BTreeMap<Object, Stored> {
    let mut objects = BTreeMap::new();
    let families = documents.families.iter().filter_map(|(name, family)| {
        let latest = documents.revision(name, 0)?;
        let content = stored_family_content(&family.value, &latest.value);
        let in_use = family_in_use(documents, &family.value, seen);
        Some((
            object(FAMILY, name),
            stored(&family.value.source, content, in_use),
        ))
    });
    objects.extend(families);
    let plans = documents.plans.iter().map(|(name, plan)| {
        let content = plan_spec(&plan.value).hash();
        let in_use = plan_in_use(documents, name);
        (
            object(PLAN, name),
            stored(&plan.value.source, content, in_use),
        )
    });
    objects.extend(plans);
    if let (Some(doc), Some(budget)) = (documents.budgets.get(BUDGET_KEY), documents.budget()) {
        let content = content_of(&Manifest::Budget(budget));
        let budget = stored(&doc.value.source, content, None);
        objects.insert(object(BUDGET, BUDGET_KEY), budget);
    }
    objects
}

fn stored(source: &str, content: Digest, in_use: Option<String>) -> Stored {
    Stored {
        source: (!source.is_empty()).then(|| source.to_owned()),
        content,
        in_use,
    }
}

fn family_in_use(documents: &Documents, family: &store::Family, seen: &Seen) -> Option<String> {
    if let Some(open) = open_rollout(documents, &family.name) {
        return Some(open);
    }
    let lent = seen.lent.get(&family.name);
    if let Some(lent) = lent.filter(|lent| lent.agents > 0) {
        return Some(takes(lent));
    }
    match seen.owned.get(&family.name).copied().unwrap_or(0) {
        0 => None,
        1 => Some("1 agent runs it or may go back to it".to_owned()),
        agents => Some(format!("{agents} agents run it or may go back to it")),
    }
}

/// What is lent, and by whose doing, in words.
fn takes(lent: &Lent) -> String {
    format!("another family's rollout takes {lent} and may have to give them back")
}

/// In words; none: no rollout of this family is open, nor does one wait.
pub(super) fn open_rollout(documents: &Documents, family: &str) -> Option<String> {
    let of_it = |rollout: &&Doc<store::Rollout>| rollout.value.family == family && is_open(rollout);
    let open = documents.rollouts.values().rev().find(of_it)?;
    let state = rollout_state(open.value.state()).name();
    Some(format!("rollout {} is {state}", open.value.id))
}

fn plan_in_use(documents: &Documents, name: &str) -> Option<String> {
    let of_it = |rollout: &&Doc<store::Rollout>| {
        let plan = rollout.value.plan.as_ref();
        plan.is_some_and(|plan| plan.name == name)
    };
    let mut open = documents.rollouts.values().filter(|r| is_open(r));
    if let Some(open) = open.find(of_it) {
        return Some(format!("rollout {} goes by it", open.value.id));
    }
    let mut sources = documents.sources.values();
    let activating = sources.find(|source| source.value.plan == name);
    activating.map(|source| format!("source {} activates with it", source.value.name))
}

fn is_open(rollout: &Doc<store::Rollout>) -> bool {
    !rollout_state(rollout.value.state()).is_final()
}

/// What a sync does to each object, or everything that is against it.
pub(super) fn fates(
    documents: &Documents,
    manifests: &[Manifest],
    source: &str,
    keep_gone: bool,
    seen: &Seen,
) -> Result<BTreeMap<Object, source::Change>, Vec<String>> {
    let written = manifests
        .iter()
        .map(|manifest| (object_of(manifest), content_of(manifest)));
    let stored = objects(documents, seen);
    let fates = source::sync(source, &stored, &written.collect(), !keep_gone);
    fates.map_err(|refused| refused.iter().map(ToString::to_string).collect())
}

/// A family with its revisions and its pins.
pub(super) fn remove_family(documents: &Documents, name: &str, actor: &str, change: &mut Change) {
    let Some(family) = documents.families.get(name) else {
        return;
    };
    change
        .writes
        .push(delete(table::FAMILY, name, family.version));
    let all = (name.to_owned(), 0)..=(name.to_owned(), u64::MAX);
    let revisions = documents.revisions.range(all);
    change.writes.extend(
        revisions.map(|((_, number), r)| {
            delete(table::REVISION, revision_key(name, *number), r.version)
        }),
    );
    let gone = store::GoneFamily {
        latest: family.value.latest,
        gone_ms: now_ms(),
        by: actor.to_owned(),
        approvals: asked_for(documents, name),
    };
    let before = documents.gone.get(name).map_or(0, |gone| gone.version);
    change.writes.push(put(table::GONE, name, before, &gone));
    end_pins(documents, name, actor, "gone", change);
}

/// Ends the pins of a family, which would still bring agents somewhere.
fn end_pins(documents: &Documents, name: &str, actor: &str, done: &str, change: &mut Change) {
    let pins = documents.pins.iter();
    for (pin, held) in pins.filter(|(_, pin)| pin.value.family == name && !pin.value.ended) {
        let ended = store::Pin {
            ended: true,
            until_ms: held.value.until_ms.min(now_ms()),
            ..store::Pin::clone(&held.value)
        };
        change
            .writes
            .push(put(table::PIN, pin.as_str(), held.version, &ended));
        let why = format!("family {name} is {done}");
        change
            .acts
            .push(act(actor, "pin.remove", format!("pin/{pin}"), why));
    }
}

/// Deletes a family, unless something stands against it. Agents that it owns keep what they run; those that are lent
/// another family's rollout has taken and may have to give back.
pub(super) fn deletion(
    documents: &Documents,
    request: &api::DeleteFamilyRequest,
    actor: &str,
    (owned, lent): (u64, Lent),
) -> Result<Change, Status> {
    let name = request.name.as_str();
    let family = family_to_end(documents, name, "deleted", &lent)?;
    if let Some(owner) = git_owner(&family.value) {
        // The patch that this refusal ends with elsewhere is here a file that goes.
        return Err(Status::failed_precondition(format!(
            "family {name} is owned by source {owner}: remove it there, or take it back with `muster adopt {name} --to-api`"
        )));
    }
    let mut change = Change::default();
    remove_family(documents, name, actor, &mut change);
    let act = act_of_end(actor, "family.delete", name, owned, &request.reason);
    change.acts.insert(0, act);
    change.results.push(ended(name, "deleted", owned));
    Ok(change)
}

/// Takes a family's stable revision from it, so that it claims nobody: it is as before its first rollout, and another
/// rollout activates it again. Agents that it owns keep what they run, as after a deletion.
pub(super) fn deactivation(
    documents: &Documents,
    request: &api::DeactivateFamilyRequest,
    actor: &str,
    (owned, lent): (u64, Lent),
) -> Result<Change, Status> {
    let name = request.name.as_str();
    let family = family_to_end(documents, name, "deactivated", &lent)?;
    if let Some(owner) = git_owner(&family.value) {
        return Err(Status::failed_precondition(format!(
            "family {name} is owned by source {owner}: take it back with `muster adopt {name} --to-api` first"
        )));
    }
    let stable = family.value.stable;
    if stable == 0 {
        return Err(Status::failed_precondition(format!(
            "family {name} is not active: it has no stable revision and claims nobody; `muster rollout start {name}` \
             activates one"
        )));
    }
    let mut change = Change::default();
    let next = store::Family {
        stable: 0,
        target: 0,
        // One that was rolled back would still give it to who returns.
        rollout: String::new(),
        ..store::Family::clone(&family.value)
    };
    let write = put(table::FAMILY, name, family.version, &next);
    change.writes.push(write);
    if let Some(revision) = documents.revision(name, stable) {
        let next = store::Revision {
            state: store::RevisionState::Superseded.into(),
            ..store::Revision::clone(&revision.value)
        };
        let key = revision_key(name, stable);
        let write = put(table::REVISION, key, revision.version, &next);
        change.writes.push(write);
    }
    end_pins(documents, name, actor, "deactivated", &mut change);
    let act = act_of_end(actor, "family.deactivate", name, owned, &request.reason);
    change.acts.insert(0, act);
    change.results.push(ended(name, "deactivated", owned));
    Ok(change)
}

/// The family that is to be deleted or deactivated (`done`), unless a rollout of it is open, or one of another family may
/// have to give agents back to it.
fn family_to_end<'d>(
    documents: &'d Documents,
    name: &str,
    done: &str,
    lent: &Lent,
) -> Result<&'d Doc<store::Family>, Status> {
    let family = documents.families.get(name).ok_or_else(|| {
        Status::not_found(format!(
            "there is no family `{name}`: list them with `muster families list`"
        ))
    })?;
    if let Some(open) = open_rollout(documents, name) {
        return Err(Status::failed_precondition(format!(
            "family {name} is not {done} while {open}: roll it back or let it end first"
        )));
    }
    if lent.agents > 0 {
        return Err(Status::failed_precondition(format!(
            "family {name} is not {done} while {}: let it end first. Where it has been rolled back, wait for those that \
             are silent, and try those again that have refused what they had (`muster agents retry UID`), or let them \
             stay where they are (`muster agents owner UID --keep`), or forget them (`muster agents forget UID`)",
            takes(lent)
        )));
    }
    Ok(family)
}

/// The Git source that owns a family; none: API and console do.
fn git_owner(family: &store::Family) -> Option<String> {
    let source = Some(family.source.as_str()).filter(|source| !source.is_empty());
    match source::check_edit(&object(FAMILY, &family.name), source) {
        Err(source::Refused::OwnedByGit { owner, .. }) => Some(owner),
        _ => None,
    }
}

/// Who has ended what a family claims, what becomes of its agents, and why.
fn act_of_end(actor: &str, action: &str, name: &str, owned: u64, reason: &str) -> store::Act {
    let mut detail = match owned {
        1 => "1 agent keeps what it runs".to_owned(),
        agents => format!("{agents} agents keep what they run"),
    };
    if !reason.is_empty() {
        detail = format!("{detail}: {reason}");
    }
    act(actor, action, format!("family/{name}"), detail)
}

/// The answer of a deletion or deactivation.
pub(super) fn ended(name: &str, change: &str, keep: u64) -> api::apply_response::Result {
    api::apply_response::Result {
        kind: "Family".to_owned(),
        name: name.to_owned(),
        change: change.to_owned(),
        keep,
        ..api::apply_response::Result::default()
    }
}

/// Removes an object that its source no longer has. Agents of a family keep what they run.
pub(super) fn prune(
    documents: &Documents,
    object: &Object,
    order: &Order<'_>,
    change: &mut Change,
) {
    let Object { kind, name } = object;
    match kind.as_str() {
        FAMILY => {
            remove_family(documents, name, order.actor, change);
            change.result("Family", name, "pruned");
        }
        PLAN => {
            let plan = documents.plans.get(name);
            let plan = plan.map(|p| delete(table::PLAN, name.as_str(), p.version));
            change.writes.extend(plan);
            change.result("Plan", name, "pruned");
        }
        _ => {
            let budget = documents.budgets.get(name);
            let budget = budget.map(|b| delete(table::BUDGET, name.as_str(), b.version));
            change.writes.extend(budget);
            change.result("Budget", name, "pruned");
        }
    }
    change.acts.push(act(
        order.actor,
        &format!("{kind}.prune"),
        format!("{kind}/{name}"),
        format!(
            "gone from source {}{}",
            order.source.unwrap_or_default(),
            at(order.commit)
        ),
    ));
}

/// Notes that a source was applied, if that changed something or its commit is another one.
pub(super) fn applied(documents: &Documents, source: &str, order: &Order<'_>, change: &mut Change) {
    let before = documents.sources.get(source);
    let is_known =
        before.is_some_and(|b| order.commit.is_empty() || b.value.commit == order.commit);
    if change.writes.is_empty() && is_known {
        return;
    }
    let stored = store::Source {
        name: source.to_owned(),
        plan: before.map(|b| b.value.plan.clone()).unwrap_or_default(),
        commit: order.commit.to_owned(),
        applied_ms: now_ms(),
        applied_by: order.actor.to_owned(),
    };
    let version = before.map_or(0, |b| b.version);
    let write = put(table::SOURCE, source, version, &stored);
    change.writes.push(write);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for result in &change.results {
        *counts.entry(&result.change).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(word, n)| format!("{n} {word}"))
        .collect();
    change.acts.push(act(
        order.actor,
        "source.apply",
        format!("source/{source}"),
        format!("{}{}", counts.join(", "), at(order.commit)),
    ));
}

fn at(commit: &str) -> String {
    if commit.is_empty() {
        String::new()
    } else {
        format!(", commit {commit}")
    }
}

/// Hands objects over to a source, or back to API and console where it is empty.
pub(super) fn adoption(
    documents: &Documents,
    request: &api::AdoptRequest,
    actor: &str,
) -> Result<Change, Status> {
    let source = request.source.as_str();
    if !source.is_empty() {
        fleet::family::check_name("source", source)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
    }
    let mut change = Change::default();
    let mut unknown = Vec::new();
    for name in &request.families {
        match documents.families.get(name) {
            None => unknown.push(format!("family `{name}`")),
            Some(doc) => {
                let next = store::Family {
                    source: source.to_owned(),
                    ..store::Family::clone(&doc.value)
                };
                let write = put(table::FAMILY, name.as_str(), doc.version, &next);
                change.adopt(FAMILY, name, &doc.value.source, source, actor, write);
            }
        }
    }
    for name in &request.plans {
        match documents.plans.get(name) {
            None => unknown.push(format!("plan `{name}`")),
            Some(doc) => {
                let next = store::Plan {
                    source: source.to_owned(),
                    ..store::Plan::clone(&doc.value)
                };
                let write = put(table::PLAN, name.as_str(), doc.version, &next);
                change.adopt(PLAN, name, &doc.value.source, source, actor, write);
            }
        }
    }
    match documents.budgets.get(BUDGET_KEY).filter(|_| request.budget) {
        None if request.budget => unknown.push("budget".to_owned()),
        None => {}
        Some(doc) => {
            let next = store::Budget {
                source: source.to_owned(),
                ..store::Budget::clone(&doc.value)
            };
            let write = put(table::BUDGET, BUDGET_KEY, doc.version, &next);
            change.adopt(BUDGET, BUDGET_KEY, &doc.value.source, source, actor, write);
        }
    }
    if !unknown.is_empty() {
        return Err(Status::not_found(format!(
            "there is no {}: list what there is with `muster families list` and `muster plans list`",
            unknown.join(", no ")
        )));
    }
    if change.results.is_empty() {
        return Err(Status::invalid_argument(
            "nothing is named: name the families and plans that are to be handed over",
        ));
    }
    if !source.is_empty() && !change.writes.is_empty() && !documents.sources.contains_key(source) {
        let stored = store::Source {
            name: source.to_owned(),
            ..store::Source::default()
        };
        change.writes.push(put(table::SOURCE, source, 0, &stored));
    }
    Ok(change)
}

impl Change {
    fn adopt(
        &mut self,
        kind: &str,
        name: &str,
        from: &str,
        to: &str,
        actor: &str,
        write: store::Write,
    ) {
        let shown = match kind {
            FAMILY => "Family",
            PLAN => "Plan",
            _ => "Budget",
        };
        if from == to {
            return self.result(shown, name, "unchanged");
        }
        // The same name twice in one call is one hand-over.
        if self
            .writes
            .iter()
            .any(|w| w.table == write.table && w.key == write.key)
        {
            return;
        }
        self.writes.push(write);
        self.acts.push(act(
            actor,
            &format!("{kind}.adopt"),
            format!("{kind}/{name}"),
            format!("from {} to {}", owner_text(from), owner_text(to)),
        ));
        self.result(shown, name, "adopted");
    }
}

fn owner_text(source: &str) -> String {
    match source {
        "" => "API and console".to_owned(),
        source => format!("source {source}"),
    }
}

/// Lets a source activate with a plan, or write drafts only where the plan is empty. None: that is so already.
pub(super) fn leave(
    documents: &Documents,
    name: &str,
    plan: &str,
    actor: &str,
) -> Result<Option<(store::Write, store::Act)>, Status> {
    fleet::family::check_name("source", name)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    if !plan.is_empty() && built_in_plan(plan).is_none() && !documents.plans.contains_key(plan) {
        return Err(Status::not_found(format!(
            "there is no plan `{plan}` for source {name}: apply it first, or use `default`"
        )));
    }
    let before = documents.sources.get(name);
    if before.is_some_and(|before| before.value.plan == plan) {
        return Ok(None);
    }
    let stored = store::Source {
        name: name.to_owned(),
        plan: plan.to_owned(),
        ..before
            .map(|b| store::Source::clone(&b.value))
            .unwrap_or_default()
    };
    let detail = match plan {
        "" => "writes drafts only".to_owned(),
        plan => format!("activates with plan {plan}"),
    };
    let version = before.map_or(0, |b| b.version);
    let write = put(table::SOURCE, name, version, &stored);
    let act = act(actor, "source.set", format!("source/{name}"), detail);
    Ok(Some((write, act)))
}

/// Deletes a source. What it owns is that of API and console then, if the caller says so.
pub(super) fn source_deletion(
    documents: &Documents,
    request: &api::DeleteSourceRequest,
    actor: &str,
) -> Result<Change, Status> {
    let name = request.name.as_str();
    let source = documents.sources.get(name).ok_or_else(|| {
        Status::not_found(format!(
            "there is no source `{name}`: list them with `muster sources list`"
        ))
    })?;
    let stored = objects(documents, &Seen::default());
    let owned = source::orphaned(name, &stored, request.orphan)
        .map_err(|refused| Status::failed_precondition(refused.to_string()))?;
    let of_kind = |kind: &str| {
        let owned = owned.iter().filter(|object| object.kind == kind);
        owned.map(|object| object.name.clone()).collect()
    };
    let back = api::AdoptRequest {
        families: of_kind(FAMILY),
        plans: of_kind(PLAN),
        budget: owned.iter().any(|object| object.kind == BUDGET),
        ..api::AdoptRequest::default()
    };
    let mut change = match owned.as_slice() {
        [] => Change::default(),
        _ => adoption(documents, &back, actor)?,
    };
    change
        .writes
        .push(delete(table::SOURCE, name, source.version));
    let detail = match owned.len() {
        0 => "it owned nothing".to_owned(),
        owned => format!("{owned} of its objects are those of API and console now"),
    };
    let object = format!("source/{name}");
    change
        .acts
        .push(act(actor, "source.delete", object, detail));
    change.result("Source", name, "deleted");
    Ok(change)
}

/// A source with what it owns.
pub(super) fn view(documents: &Documents, source: &store::Source) -> api::Source {
    let families = documents.families.values();
    let plans = documents.plans.values();
    let budget = documents.budgets.get(BUDGET_KEY);
    api::Source {
        name: source.name.clone(),
        plan: source.plan.clone(),
        families: families
            .filter(|family| family.value.source == source.name)
            .map(|family| family.value.name.clone())
            .collect(),
        plans: plans
            .filter(|plan| plan.value.source == source.name)
            .map(|plan| plan.value.name.clone())
            .collect(),
        commit: source.commit.clone(),
        applied_ms: source.applied_ms,
        applied_by: source.applied_by.clone(),
        budget: budget.is_some_and(|budget| budget.value.source == source.name),
    }
}

/// Whether a rollout of a family's latest revision follows from an apply that activates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Its latest revision is stable, or on its way.
    No,
    /// It has to be started.
    Start,
    /// It is not stable, and a person has to look first.
    Not(String),
}

/// `is_new`: its latest revision was made by this apply.
///
/// A revision that had its rollout and is not stable was stopped or taken back. An apply of the same content does not
/// try it again: otherwise each commit to another family would.
pub(super) fn due(documents: &Documents, family: &str, is_new: bool) -> Due {
    let Some(stored) = documents.families.get(family).map(|doc| &doc.value) else {
        return Due::No;
    };
    let latest = stored.latest;
    let open = documents.rollouts.get(&stored.rollout);
    if is_new {
        return Due::Start;
    }
    if latest == stored.stable || open.is_some_and(is_open) {
        return Due::No;
    }
    let mut rollouts = documents.rollouts.values().rev();
    let tried = rollouts.find(|r| r.value.family == family && r.value.to == latest);
    let Some(tried) = tried else {
        return Due::Start;
    };
    let state = rollout_state(tried.value.state()).name();
    Due::Not(format!(
        "revision {latest} of family {family} was rolled out before and rollout {} is {state}: start it again with \
         `muster rollout start {family}`, or commit a change",
        tried.value.id
    ))
}
