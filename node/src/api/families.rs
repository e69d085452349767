//! What the fleet should run: manifests, revisions, previews.

use std::collections::BTreeMap;

use fleet::family::{Role, delivery_hash, revision_hash};
use fleet::governance::actor::Act;
use fleet::validate::{Finding, Policy, Severity, check_policies, validate};
use proto::api::family_service_server::FamilyService;
use proto::api::{self, apply_response};
use proto::store::{self, RevisionState};
use tonic::{Request, Response, Status};

use super::start::check_way_back;
use super::{Api, not_stored};
use crate::control::{Documents, plan_to_store, revision_key, role_to_store};
use crate::ledger::{act, entry, now_ms, once, put, table};
use crate::manifest::{FamilySpec, Manifest, duration_text, parse, policy_text};
use crate::partition::{merged_config, state_of};
use crate::preview;

/// Tries when somebody else applies at the same time.
const TRIES: usize = 5;

/// What an apply will write.
#[derive(Default)]
struct Change {
    results: Vec<apply_response::Result>,
    writes: Vec<store::Write>,
    acts: Vec<store::Act>,
}

impl Api {
    fn plan_apply(
        &self,
        manifests: &[Manifest],
        actor: &str,
        note: &str,
    ) -> Result<Change, Status> {
        let documents = self.node.control.read();
        let mut change = Change::default();
        let mut mistakes = twice(manifests);
        for manifest in manifests {
            match manifest {
                Manifest::Plan { name, spec } => {
                    plan_change(&documents, name, spec, actor, &mut change)
                }
                Manifest::Family(family) => mistakes.extend(family_change(
                    &documents,
                    manifests,
                    family,
                    actor,
                    note,
                    &mut change,
                )),
            }
        }
        if mistakes.is_empty() {
            Ok(change)
        } else {
            Err(Status::invalid_argument(mistakes.join("\n")))
        }
    }

    fn family_view(&self, stored: &store::Family) -> api::Family {
        let mut view = api::Family {
            name: stored.name.clone(),
            owner: stored.owner.clone(),
            precedence: stored.precedence,
            stable: stored.stable,
            target: stored.target,
            latest: stored.latest,
            ..api::Family::default()
        };
        let open = {
            let documents = self.node.control.read();
            let revision = documents.revision(&stored.name, 0);
            view.roles = revision
                .map(|r| r.value.roles.iter().map(|role| role.name.clone()).collect())
                .unwrap_or_default();
            let rollout = documents.rollouts.get(&stored.rollout);
            rollout
                .filter(|r| !crate::control::rollout_state(r.value.state()).is_final())
                .map(|r| r.value.id.clone())
        };
        view.rollout = open.unwrap_or_default();
        for partition in self.node.partitions.iter() {
            let program = partition.program();
            let columns = partition.index().read();
            for row in columns
                .rows
                .values()
                .filter(|row| row.owner().is_some_and(|(family, _)| family == stored.name))
            {
                let place = crate::partition::place_of(&columns, &program, row.uid);
                let desired = crate::partition::desired_of(
                    row,
                    place.as_ref().map(crate::partition::OwnedPlace::borrow),
                    &program,
                );
                let state = state_of(row, &desired);
                view.owned += 1;
                view.converged += u64::from(state == "converged");
                view.failed += u64::from(matches!(
                    state,
                    "failed" | "rolled back" | "no answer" | "refused"
                ));
            }
        }
        let drift = crate::drift::of_family(&self.node, &stored.name);
        view.versions = drift.versions;
        view.outside_versions = drift.outside;
        view.drift = drift.kinds;
        view
    }

    fn revision_view(&self, stored: &store::Revision) -> api::Revision {
        let roles = stored.roles.iter().map(|r| {
            let config = crate::control::config_map(&r.config);
            let selector = fleet::selector::Selector::parse(&r.selector).ok();
            let matches = |row: &&crate::inventory::Row| {
                !row.alias && selector.as_ref().is_some_and(|s| s.matches(*row))
            };
            let matched = self
                .node
                .partitions
                .iter()
                .map(|p| p.index().read().rows.values().filter(matches).count() as u64)
                .sum();
            let file = |(name, f): (&String, &store::ConfigFile)| api::ConfigFile {
                name: name.clone(),
                body: f.body.clone(),
                content_type: f.content_type.clone(),
                note: String::new(),
            };
            api::Role {
                name: r.name.clone(),
                selector: r.selector.clone(),
                after: r.after.clone(),
                config: r.config.iter().map(file).collect(),
                delivery_hash: delivery_hash(&config).to_hex(),
                matched,
            }
        });
        api::Revision {
            number: stored.number,
            hash: hex::encode(&stored.hash),
            state: revision_word(stored.state()).to_owned(),
            author: stored.author.clone(),
            created_ms: stored.created_ms,
            roles: roles.collect(),
            policies: stored
                .policies
                .iter()
                .filter_map(policy_from_store)
                .map(|p| policy_text(&p))
                .collect(),
            note: stored.note.clone(),
            ..api::Revision::default()
        }
    }
}

/// The same name twice in one call.
fn twice(manifests: &[Manifest]) -> Vec<String> {
    let mut seen = BTreeMap::new();
    for manifest in manifests {
        let name = match manifest {
            Manifest::Family(family) => format!("family `{}`", family.name),
            Manifest::Plan { name, .. } => format!("plan `{name}`"),
        };
        *seen.entry(name).or_insert(0) += 1;
    }
    seen.into_iter()
        .filter(|(_, n)| *n > 1)
        .map(|(name, n)| format!("{name} stands {n} times in this call: remove all but one"))
        .collect()
}

fn plan_change(
    documents: &Documents,
    name: &str,
    spec: &fleet::rollout::PlanSpec,
    actor: &str,
    change: &mut Change,
) {
    let stored = plan_to_store(name, spec);
    let before = documents.plans.get(name);
    let word = match before {
        None => "created",
        Some(before) if *before.value == stored => "unchanged",
        Some(_) => "changed",
    };
    if word != "unchanged" {
        change.writes.push(put(
            table::PLAN,
            name,
            before.map_or(0, |b| b.version),
            &stored,
        ));
        change.acts.push(act(
            actor,
            "plan.apply",
            format!("plan/{name}"),
            word.to_owned(),
        ));
    }
    change.results.push(apply_response::Result {
        kind: "Plan".to_owned(),
        name: name.to_owned(),
        change: word.to_owned(),
        ..apply_response::Result::default()
    });
}

/// Adds a family's writes; answers what is wrong with it.
fn family_change(
    documents: &Documents,
    all: &[Manifest],
    family: &FamilySpec,
    actor: &str,
    note: &str,
    change: &mut Change,
) -> Vec<String> {
    let mut mistakes = same_precedence(documents, all, family);
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
    if !mistakes.is_empty() {
        return mistakes;
    }
    let policies: Vec<String> = family.policies.iter().map(policy_text).collect();
    let hash = revision_hash(family.precedence, &family.roles, &policies);
    let before = documents.families.get(&family.name);
    let latest = documents.revision(&family.name, 0);
    let same = latest.is_some_and(|latest| latest.value.hash == hash.as_bytes());
    let number = before.map_or(0, |b| b.value.latest) + u64::from(!same);
    let word = match (before, same) {
        (None, _) => "created",
        (Some(before), true) if before.value.owner == family.owner => "unchanged",
        (Some(_), true) => "owner changed",
        (Some(_), false) => "new revision",
    };
    if word != "unchanged" {
        let stored = store::Family {
            name: family.name.clone(),
            owner: family.owner.clone(),
            // A precedence takes effect with the revision that carries it; the first one is there at once.
            precedence: before.map_or(family.precedence, |b| b.value.precedence),
            latest: number,
            created_ms: before.map_or_else(now_ms, |b| b.value.created_ms),
            ..before
                .map(|b| store::Family::clone(&b.value))
                .unwrap_or_default()
        };
        change.writes.push(put(
            table::FAMILY,
            family.name.as_str(),
            before.map_or(0, |b| b.version),
            &stored,
        ));
        change.acts.push(act(
            actor,
            "family.apply",
            format!("family/{}", family.name),
            format!("{word}: revision {number} ({hash})"),
        ));
    }
    if !same {
        let revision = store::Revision {
            family: family.name.clone(),
            number,
            hash: hash.as_bytes().to_vec(),
            roles: family.roles.iter().map(role_to_store).collect(),
            author: actor.to_owned(),
            created_ms: now_ms(),
            note: note.to_owned(),
            state: RevisionState::Validated.into(),
            policies: family.policies.iter().map(policy_to_store).collect(),
            precedence: family.precedence,
            owner: family.owner.clone(),
            ..store::Revision::default()
        };
        change.writes.push(put(
            table::REVISION,
            revision_key(&family.name, number),
            0,
            &revision,
        ));
    }
    change.results.push(apply_response::Result {
        kind: "Family".to_owned(),
        name: family.name.clone(),
        change: word.to_owned(),
        revision: number,
        findings,
        ..apply_response::Result::default()
    });
    mistakes
}

fn same_precedence(documents: &Documents, all: &[Manifest], family: &FamilySpec) -> Vec<String> {
    let stored = documents.families.values().filter(|f| {
        let replaced = all
            .iter()
            .any(|m| matches!(m, Manifest::Family(other) if other.name == f.value.name));
        !replaced && f.value.precedence == family.precedence
    });
    let sent = all.iter().filter_map(|m| match m {
        Manifest::Family(other)
            if other.name != family.name && other.precedence == family.precedence =>
        {
            Some(other.name.as_str())
        }
        _ => None,
    });
    let names = stored.map(|f| f.value.name.as_str()).chain(sent);
    names
        .map(|other| format!("family {}: precedence {} is that of family {other}: give each family a number of its own", family.name, family.precedence))
        .collect()
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
    for (name, file) in config {
        if file.body.trim().is_empty() {
            let message =
                format!("{what} `{name}` is empty, which would stop the collector: give it a body");
            return vec![Finding {
                severity: Severity::Error,
                path: fleet::value::Path::root(),
                message,
            }];
        }
        if let Err(error) = proto::yaml::parse(&file.body) {
            let message = format!("{what} `{name}` is no YAML: {error}");
            return vec![Finding {
                severity: Severity::Error,
                path: fleet::value::Path::root(),
                message,
            }];
        }
    }
    let Some(config) = merged_config(config) else {
        let message = format!("its {what} cannot be merged: each file has to be a map");
        return vec![Finding {
            severity: Severity::Error,
            path: fleet::value::Path::root(),
            message,
        }];
    };
    let mut findings = validate(&config);
    findings.extend(check_policies(&config, policies));
    findings
}

fn policy_to_store(policy: &Policy) -> store::Policy {
    let rule = match policy {
        Policy::RequireProcessor {
            pipeline,
            processor,
        } => store::policy::Rule::Require(store::RequireProcessor {
            pipeline: pipeline.clone(),
            processor: processor.clone(),
        }),
        Policy::ForbidComponent { kind, component } => {
            store::policy::Rule::Forbid(store::ForbidComponent {
                kind: kind.to_string(),
                component: component.clone(),
            })
        }
    };
    store::Policy { rule: Some(rule) }
}

fn policy_from_store(policy: &store::Policy) -> Option<Policy> {
    Some(match policy.rule.clone()? {
        store::policy::Rule::Require(rule) => Policy::RequireProcessor {
            pipeline: rule.pipeline,
            processor: rule.processor,
        },
        store::policy::Rule::Forbid(rule) => Policy::ForbidComponent {
            kind: fleet::components::Kind::of_section(&format!("{}s", rule.kind))?,
            component: rule.component,
        },
    })
}

pub(super) fn revision_word(state: RevisionState) -> &'static str {
    match state {
        RevisionState::Unspecified | RevisionState::Draft => "draft",
        RevisionState::Validated => "validated",
        RevisionState::Approved => "approved",
        RevisionState::Active => "active",
        RevisionState::Superseded => "superseded",
        RevisionState::Rejected => "rejected",
    }
}

fn preview_status(error: &preview::Error) -> Status {
    let text = crate::partition::chain(error);
    match error {
        preview::Error::Family(_) | preview::Error::Revision { .. } | preview::Error::Plan(_) => {
            Status::not_found(text)
        }
        preview::Error::Waves { .. } | preview::Error::Nobody(_) => Status::invalid_argument(text),
        preview::Error::Read(_) => Status::internal(text),
        preview::Error::Store(_) => Status::unavailable(text),
    }
}

impl Api {
    /// A preview as the fleet is now, off the runtime's threads: it scans every agent.
    pub(super) async fn make_preview(
        &self,
        family: &str,
        revision: u64,
        plan: &str,
    ) -> Result<preview::Preview, Status> {
        let (node, family, plan) = (self.node.clone(), family.to_owned(), plan.to_owned());
        let made =
            tokio::task::spawn_blocking(move || preview::make(&node, &family, revision, &plan))
                .await;
        let made = made.map_err(|error| Status::internal(error.to_string()))?;
        made.map_err(|error| preview_status(&error))
    }

    /// Keeps it for a day.
    pub(super) async fn keep_preview(&self, kept: &store::Preview) -> Result<(), Status> {
        preview::keep(&self.node, kept)
            .await
            .map_err(|error| preview_status(&error))
    }
}

#[tonic::async_trait]
impl FamilyService for Api {
    async fn apply(
        &self,
        request: Request<api::ApplyRequest>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        let actor = self.actor(&request, Act::Edit)?;
        let request = request.into_inner();
        let mut manifests = Vec::new();
        let mut mistakes = Vec::new();
        for sent in &request.manifests {
            match parse(&sent.path, &sent.yaml, &sent.files) {
                Ok(found) => manifests.extend(found),
                Err(found) => mistakes.extend(found.iter().map(ToString::to_string)),
            }
        }
        if !mistakes.is_empty() {
            return Err(Status::invalid_argument(mistakes.join("\n")));
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let change = self.plan_apply(&manifests, &actor, &request.note)?;
            let done = Response::new(api::ApplyResponse {
                results: change.results,
            });
            if request.dry_run || change.writes.is_empty() {
                return Ok(done);
            }
            let entry = store::Entry {
                idempotency_key: once("apply", "", &request.idempotency_key),
                ..entry(change.writes, change.acts)
            };
            match self.node.control_ledger.propose(entry).await {
                Ok(_) => return Ok(done),
                Err(crate::ledger::ProposeError::Conflict(_)) if tries < TRIES => {}
                Err(error) => return Err(not_stored(&error)),
            }
        }
    }

    async fn list_families(
        &self,
        request: Request<api::ListFamiliesRequest>,
    ) -> Result<Response<api::ListFamiliesResponse>, Status> {
        self.actor(&request, Act::Read)?;
        let stored: Vec<_> = self
            .node
            .control
            .read()
            .families
            .values()
            .map(|f| f.value.clone())
            .collect();
        let families = stored.iter().map(|f| self.family_view(f)).collect();
        Ok(Response::new(api::ListFamiliesResponse { families }))
    }

    async fn get_family(
        &self,
        request: Request<api::GetFamilyRequest>,
    ) -> Result<Response<api::FamilyDetail>, Status> {
        self.actor(&request, Act::Read)?;
        let request = request.into_inner();
        let (family, revision, revisions) = {
            let documents = self.node.control.read();
            let unknown = || {
                Status::not_found(format!(
                    "there is no family `{}`: list them with `muster families list`",
                    request.name
                ))
            };
            let family = documents
                .families
                .get(&request.name)
                .ok_or_else(unknown)?
                .value
                .clone();
            let missing = || {
                Status::not_found(format!(
                    "family {} has no revision {}",
                    request.name, request.revision
                ))
            };
            let revision = documents
                .revision(&request.name, request.revision)
                .ok_or_else(missing)?
                .value
                .clone();
            let all = documents
                .revisions
                .range((request.name.clone(), 0)..=(request.name.clone(), u64::MAX));
            let summary = |r: &store::Revision| api::RevisionSummary {
                number: r.number,
                hash: hex::encode(&r.hash),
                state: revision_word(r.state()).to_owned(),
                author: r.author.clone(),
                created_ms: r.created_ms,
                note: r.note.clone(),
                ..api::RevisionSummary::default()
            };
            let mut revisions: Vec<_> = all.map(|(_, r)| summary(&r.value)).collect();
            revisions.reverse();
            (family, revision, revisions)
        };
        let detail = api::FamilyDetail {
            family: Some(self.family_view(&family)),
            revision: Some(self.revision_view(&revision)),
            revisions,
        };
        Ok(Response::new(detail))
    }

    async fn diff_revisions(
        &self,
        request: Request<api::DiffRevisionsRequest>,
    ) -> Result<Response<api::DiffRevisionsResponse>, Status> {
        self.actor(&request, Act::Read)?;
        let request = request.into_inner();
        let documents = self.node.control.read();
        let unknown = || {
            Status::not_found(format!(
                "there is no family `{}`: list them with `muster families list`",
                request.family
            ))
        };
        let family = documents
            .families
            .get(&request.family)
            .ok_or_else(unknown)?;
        let to = if request.to == 0 {
            family.value.latest
        } else {
            request.to
        };
        let from = match request.from {
            0 if family.value.stable != to => family.value.stable,
            0 => to.saturating_sub(1),
            from => from,
        };
        let roles_of = |number: u64| -> Result<BTreeMap<String, store::Role>, Status> {
            if number == 0 {
                return Ok(BTreeMap::new());
            }
            let missing = || {
                Status::not_found(format!(
                    "family {} has no revision {number}: its latest is {}",
                    request.family, family.value.latest
                ))
            };
            let revision = documents
                .revision(&request.family, number)
                .ok_or_else(missing)?;
            Ok(revision
                .value
                .roles
                .iter()
                .map(|role| (role.name.clone(), role.clone()))
                .collect())
        };
        let (before, after) = (roles_of(from)?, roles_of(to)?);
        let names: std::collections::BTreeSet<&String> =
            before.keys().chain(after.keys()).collect();
        let roles = names
            .into_iter()
            .map(|name| role_diff(name, before.get(name), after.get(name)))
            .collect();
        Ok(Response::new(api::DiffRevisionsResponse {
            from,
            to,
            roles,
        }))
    }

    async fn preview(
        &self,
        request: Request<api::PreviewRequest>,
    ) -> Result<Response<api::PreviewResponse>, Status> {
        self.actor(&request, Act::Read)?;
        let mut request = request.into_inner();
        if request.back {
            let documents = self.node.control.read();
            check_way_back(&documents, &request.family, request.revision)?;
            if request.plan.is_empty() {
                "rollback".clone_into(&mut request.plan);
            }
        }
        let made = self
            .make_preview(&request.family, request.revision, &request.plan)
            .await?;
        self.keep_preview(&made.kept).await?;
        let mut shown = made.shown;
        self.complete(&request, &mut shown);
        Ok(Response::new(shown))
    }

    async fn list_plans(
        &self,
        request: Request<api::ListPlansRequest>,
    ) -> Result<Response<api::ListPlansResponse>, Status> {
        self.actor(&request, Act::Read)?;
        let mut plans = vec![plan_view("default", &fleet::rollout::default_plan())];
        let documents = self.node.control.read();
        plans.extend(
            documents
                .plans
                .iter()
                .map(|(name, plan)| plan_view(name, &crate::control::plan_spec(&plan.value))),
        );
        Ok(Response::new(api::ListPlansResponse { plans }))
    }

    async fn list_sources(
        &self,
        _: Request<api::ListSourcesRequest>,
    ) -> Result<Response<api::ListSourcesResponse>, Status> {
        Err(Status::unimplemented("list_sources"))
    }

    async fn set_source(
        &self,
        _: Request<api::SetSourceRequest>,
    ) -> Result<Response<api::Source>, Status> {
        Err(Status::unimplemented("set_source"))
    }

    async fn adopt(
        &self,
        _: Request<api::AdoptRequest>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        Err(Status::unimplemented("adopt"))
    }
}

fn plan_view(name: &str, plan: &fleet::rollout::PlanSpec) -> api::Plan {
    let wave = |w: &fleet::rollout::WaveSpec| {
        format!(
            "{} soak {}",
            preview::size_text(w.size),
            duration_text(w.soak_ms)
        )
    };
    api::Plan {
        name: name.to_owned(),
        waves: plan.waves.iter().map(wave).collect(),
        on_stop: on_stop_word(plan.on_stop).to_owned(),
        ..api::Plan::default()
    }
}

/// What follows a stop, in words.
pub(super) fn on_stop_word(on_stop: fleet::rollout::OnStop) -> &'static str {
    match on_stop {
        fleet::rollout::OnStop::Default => {
            "first wave rolls back, later ones hold; crashes roll back all"
        }
        fleet::rollout::OnStop::Hold => "hold",
        fleet::rollout::OnStop::RollBackWave => "roll back the wave",
        fleet::rollout::OnStop::RollBackAll => "roll back all",
    }
}

fn role_diff(
    name: &str,
    before: Option<&store::Role>,
    after: Option<&store::Role>,
) -> api::diff_revisions_response::RoleDiff {
    let text = |role: Option<&store::Role>| {
        let Some(role) = role else {
            return String::new();
        };
        let mut text = format!(
            "selector: {}\nafter: [{}]\n",
            role.selector,
            role.after.join(", ")
        );
        for (file, config) in &role.config {
            text.push_str(&format!("--- {file}\n{}", config.body));
            if !config.body.ends_with('\n') {
                text.push('\n');
            }
        }
        text
    };
    let (old, new) = (text(before), text(after));
    let unified = similar::TextDiff::from_lines(&old, &new)
        .unified_diff()
        .context_radius(3)
        .to_string();
    let value = |role: Option<&store::Role>| {
        role.and_then(|r| merged_config(&crate::control::config_map(&r.config)))
            .unwrap_or(fleet::value::Value::Null)
    };
    let changes = fleet::diff::diff(&value(before), &value(after))
        .changes()
        .iter()
        .map(ToString::to_string)
        .collect();
    api::diff_revisions_response::RoleDiff {
        role: name.to_owned(),
        text: unified,
        changes,
    }
}
