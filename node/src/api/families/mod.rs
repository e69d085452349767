//! What the fleet should run: manifests, revisions, plans, sources, previews.

mod apply;
mod collectors;
mod lent;
mod show;
mod sources;
mod validate;

use std::collections::BTreeMap;

use fleet::governance::actor::{self, Act};
use fleet::source::check_activation;
use proto::api::family_service_server::FamilyService;
use proto::api::{self, apply_response};
use proto::store;
use tonic::{Request, Response, Status};

use super::start::take_way_back;
use super::{Actor, Api, broken, not_stored};
use crate::control::Documents;
use crate::ledger::{ProposeError, entry, once};
use crate::manifest::{FamilySpec, Manifest, parse};
use crate::preview;
use apply::{Change, FAMILY, Order, Seen, is_fresh};
use lent::Lent;
use sources::Due;

pub(super) use show::{on_stop_word, summary};

/// Tries when somebody else applies at the same time.
const TRIES: usize = 5;

impl Api {
    /// Families that get a new revision by an apply of these.
    fn fresh(&self, manifests: &[Manifest]) -> Vec<FamilySpec> {
        let documents = self.node.control.read();
        let families = manifests.iter().filter_map(|manifest| match manifest {
            Manifest::Family(family) => Some(family),
            _ => None,
        });
        let fresh = families.filter(|family| is_fresh(&documents, family));
        fresh.cloned().collect()
    }

    /// What an apply means now.
    fn plan_apply(
        &self,
        manifests: &[Manifest],
        request: &api::ApplyRequest,
        actor: &str,
        findings: &BTreeMap<String, Vec<api::Finding>>,
    ) -> Result<Change, Status> {
        let order = Order {
            actor,
            note: &request.note,
            source: (!request.source.is_empty()).then_some(request.source.as_str()),
            keep_gone: request.keep_gone,
            commit: &request.commit,
            draft: request.draft,
        };
        // Before the agents, so that what has changed since then has a newer version.
        let documents = self.node.control.read().clone();
        let mut seen = Seen {
            findings: findings.clone(),
            ..Seen::default()
        };
        if let Some(source) = order.source.filter(|_| !order.keep_gone) {
            seen.owned = self.owned();
            seen.lent = self.lent_by(&documents, source);
        }
        apply::change(&documents, manifests, &order, &seen)
    }

    /// Starts what follows from an apply. A start that is refused undoes nothing: its result says why.
    async fn activate(
        &self,
        request: &api::ApplyRequest,
        caller: &Actor,
        results: &mut [apply_response::Result],
    ) {
        for result in results {
            let may_be_due = result.kind == "Family" && result.change != "pruned";
            let is_new = matches!(result.change.as_str(), "created" | "new revision");
            if !may_be_due || (request.dry_run && !is_new) {
                continue;
            }
            let (due, leave) = {
                let documents = self.node.control.read();
                let due = sources::due(&documents, &result.name, is_new);
                let source = documents.sources.get(&request.source);
                let plan = source.map(|source| source.value.plan.clone());
                (due, plan.filter(|plan| !plan.is_empty()))
            };
            let due = match request.dry_run {
                true => Due::Start,
                false => due,
            };
            let plan = match request.source.as_str() {
                "" => Ok(String::new()),
                source => {
                    let family = apply::object(FAMILY, &result.name);
                    check_activation(&family, source, leave.as_deref())
                }
            };
            match (due, plan) {
                (Due::No, _) => {}
                (Due::Not(why), _) => result.not_started = why,
                (Due::Start, Err(refused)) => result.not_started = refused.to_string(),
                (Due::Start, Ok(_)) if request.dry_run => {}
                (Due::Start, Ok(plan)) => {
                    let start = api::StartRolloutRequest {
                        family: result.name.clone(),
                        revision: result.revision,
                        plan,
                        supersede: "restart".to_owned(),
                        idempotency_key: request.idempotency_key.clone(),
                        ..api::StartRolloutRequest::default()
                    };
                    match Box::pin(self.start(start, caller)).await {
                        Ok(started) => result.rollout = started.id,
                        Err(refused) => result.not_started = refused.message().to_owned(),
                    }
                }
            }
        }
    }

    /// Proposes what `change` says, and asks it again when somebody else was quicker. None: there is nothing to store.
    async fn store<T>(
        &self,
        key: &str,
        mut change: impl FnMut() -> Result<(Change, T), Status>,
    ) -> Result<T, Status> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (change, answer) = change()?;
            if change.writes.is_empty() {
                return Ok(answer);
            }
            let entry = store::Entry {
                idempotency_key: key.to_owned(),
                ..entry(change.writes, change.acts)
            };
            match self.node.control_ledger.propose(entry).await {
                Ok(_) => return Ok(answer),
                Err(ProposeError::Conflict(_)) if tries < TRIES => {}
                Err(error) => return Err(not_stored(&error)),
            }
        }
    }

    /// Deletes or deactivates (`done`) a family by what `change` makes of the documents, and of how many agents it owns and
    /// which it has lent. When this answers, nobody is offered anything of it any more.
    async fn end_family(
        &self,
        name: &str,
        done: &str,
        key: &str,
        change: impl Fn(&Documents, (u64, Lent)) -> Result<Change, Status>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        let known = self.node.control_ledger.has_done(key);
        let results = if known.map_err(|error| broken(&error))? {
            // The answer was lost, and so is the number of agents.
            vec![sources::ended(name, done, 0)]
        } else {
            let end = || {
                // Before the agents: whose lists are complete only afterwards has given the family a newer version.
                let documents = self.node.control.read().clone();
                let owned = self.owned().get(name).copied().unwrap_or(0);
                let mut change = change(&documents, (owned, self.lent(name)))?;
                let results = std::mem::take(&mut change.results);
                Ok((change, results))
            };
            self.store(key, end).await?
        };
        let fenced = self.node.fence().await;
        fenced.map_err(|error| not_stored(&error))?;
        Ok(Response::new(api::ApplyResponse { results }))
    }

    /// A preview as the fleet is now, off the runtime's threads: it scans every agent.
    pub(super) async fn make_preview(
        &self,
        family: &str,
        revision: u64,
        plan: &str,
        back: bool,
    ) -> Result<preview::Preview, Status> {
        let (node, family, plan) = (self.node.clone(), family.to_owned(), plan.to_owned());
        let made = tokio::task::spawn_blocking(move || {
            preview::make(&node, &family, revision, &plan, back)
        })
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

fn preview_status(error: &preview::Error) -> Status {
    let text = crate::partition::chain(error);
    match error {
        preview::Error::Family(_) | preview::Error::Revision { .. } | preview::Error::Plan(_) => {
            Status::not_found(text)
        }
        preview::Error::Unassignable(_) => Status::invalid_argument(text),
        preview::Error::Read(_) => Status::internal(text),
        preview::Error::Store(_) => Status::unavailable(text),
    }
}

/// Everything that was sent, or all mistakes in it.
fn read(sent: &[api::Manifest]) -> Result<Vec<Manifest>, Status> {
    let (mut manifests, mut mistakes) = (Vec::new(), Vec::new());
    for sent in sent {
        match parse(&sent.path, &sent.yaml, &sent.files) {
            Ok(found) => manifests.extend(found),
            Err(found) => mistakes.extend(found.iter().map(ToString::to_string)),
        }
    }
    if mistakes.is_empty() {
        Ok(manifests)
    } else {
        Err(Status::invalid_argument(mistakes.join("\n")))
    }
}

#[tonic::async_trait]
impl FamilyService for Api {
    async fn apply(
        &self,
        request: Request<api::ApplyRequest>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        let actor = self.actor(&request, Act::Edit)?;
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        if request.activate {
            actor::check(&caller.name, caller.role, Act::MoveRollout)
                .map_err(|refused| Status::permission_denied(refused.to_string()))?;
        }
        sources::check_request(&request)?;
        let manifests = read(&request.manifests)?;
        let findings = self.look(self.fresh(&manifests)).await?;
        let key = once("apply", "", &request.idempotency_key);
        let plan = || {
            let mut change = self.plan_apply(&manifests, &request, &actor, &findings)?;
            if request.dry_run {
                change.writes.clear();
            }
            let results = std::mem::take(&mut change.results);
            Ok((change, results))
        };
        let mut results = self.store(&key, plan).await?;
        if request.activate {
            self.activate(&request, &caller, &mut results).await;
        }
        Ok(Response::new(api::ApplyResponse { results }))
    }

    async fn validate_revision(
        &self,
        request: Request<api::ValidateRevisionRequest>,
    ) -> Result<Response<api::RevisionSummary>, Status> {
        let actor = self.actor(&request, Act::Edit)?;
        let checked = self.check_draft(request.get_ref(), &actor).await?;
        Ok(Response::new(checked))
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
            let newest_first = all.rev().map(|(_, r)| summary(&r.value));
            let revisions: Vec<_> = newest_first.collect();
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
        let documents = self.node.control.read();
        let diff = show::revision_diff(&documents, request.get_ref())?;
        Ok(Response::new(diff))
    }

    async fn preview(
        &self,
        request: Request<api::PreviewRequest>,
    ) -> Result<Response<api::PreviewResponse>, Status> {
        self.actor(&request, Act::Read)?;
        let mut request = request.into_inner();
        if request.back {
            let documents = self.node.control.read();
            let (family, to) = (&request.family, request.revision);
            take_way_back(&documents, family, to, &mut request.plan)?;
        }
        let made = self
            .make_preview(
                &request.family,
                request.revision,
                &request.plan,
                request.back,
            )
            .await?;
        self.keep_preview(&made.kept).await?;
        let mut shown = made.shown;
        self.complete(&request, &made.rollout, &mut shown);
        if !request.back {
            shown.needs.extend(made.against);
            shown.needs.extend(made.blocked);
        }
        Ok(Response::new(shown))
    }

    async fn list_plans(
        &self,
        request: Request<api::ListPlansRequest>,
    ) -> Result<Response<api::ListPlansResponse>, Status> {
        self.actor(&request, Act::Read)?;
        let plans = show::plans(&self.node.control.read());
        Ok(Response::new(api::ListPlansResponse { plans }))
    }

    async fn list_sources(
        &self,
        request: Request<api::ListSourcesRequest>,
    ) -> Result<Response<api::ListSourcesResponse>, Status> {
        self.actor(&request, Act::Read)?;
        let documents = self.node.control.read();
        let sources = documents.sources.values();
        let sources = sources.map(|source| sources::view(&documents, &source.value));
        let sources = sources.collect();
        Ok(Response::new(api::ListSourcesResponse { sources }))
    }

    async fn set_source(
        &self,
        request: Request<api::SetSourceRequest>,
    ) -> Result<Response<api::Source>, Status> {
        let actor = self.actor(&request, Act::ManageTokens)?;
        let request = request.into_inner();
        let (name, plan) = (request.name.as_str(), request.plan.as_str());
        let set = || {
            let documents = self.node.control.read();
            let mut change = Change::default();
            if let Some((write, act)) = sources::leave(&documents, name, plan, &actor)? {
                change.writes.push(write);
                change.acts.push(act);
            }
            Ok((change, ()))
        };
        let key = once("source.set", name, &request.idempotency_key);
        self.store(&key, set).await?;
        let documents = self.node.control.read();
        let gone = || Status::not_found(format!("there is no source `{name}` any more"));
        let source = documents.sources.get(name).ok_or_else(gone)?;
        Ok(Response::new(sources::view(&documents, &source.value)))
    }

    async fn delete_source(
        &self,
        request: Request<api::DeleteSourceRequest>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        let actor = self.actor(&request, Act::ManageTokens)?;
        let request = request.into_inner();
        let key = once("source.delete", &request.name, &request.idempotency_key);
        let done = self.node.control_ledger.has_done(&key);
        if done.map_err(|error| broken(&error))? {
            let mut gone = Change::default();
            gone.result("Source", &request.name, "deleted");
            let results = gone.results;
            return Ok(Response::new(api::ApplyResponse { results }));
        }
        let delete = || {
            let documents = self.node.control.read();
            let mut change = sources::source_deletion(&documents, &request, &actor)?;
            let results = std::mem::take(&mut change.results);
            Ok((change, results))
        };
        let results = self.store(&key, delete).await?;
        Ok(Response::new(api::ApplyResponse { results }))
    }

    async fn adopt(
        &self,
        request: Request<api::AdoptRequest>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        let actor = self.actor(&request, Act::Edit)?;
        let request = request.into_inner();
        let adopt = || {
            let documents = self.node.control.read();
            let mut change = sources::adoption(&documents, &request, &actor)?;
            let results = std::mem::take(&mut change.results);
            Ok((change, results))
        };
        let key = once("adopt", &request.source, &request.idempotency_key);
        let results = self.store(&key, adopt).await?;
        Ok(Response::new(api::ApplyResponse { results }))
    }

    async fn delete_family(
        &self,
        request: Request<api::DeleteFamilyRequest>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        let actor = self.actor(&request, Act::Edit)?;
        let request = request.into_inner();
        let key = once("family.delete", &request.name, &request.idempotency_key);
        let delete =
            |documents: &Documents, agents| sources::deletion(documents, &request, &actor, agents);
        self.end_family(&request.name, "deleted", &key, delete)
            .await
    }

    async fn deactivate_family(
        &self,
        request: Request<api::DeactivateFamilyRequest>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        let actor = self.actor(&request, Act::Edit)?;
        let request = request.into_inner();
        let key = once("family.deactivate", &request.name, &request.idempotency_key);
        let deactivate = |documents: &Documents, agents| {
            sources::deactivation(documents, &request, &actor, agents)
        };
        self.end_family(&request.name, "deactivated", &key, deactivate)
            .await
    }
}

#[cfg(test)]
mod tests;
