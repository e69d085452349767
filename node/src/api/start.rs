//! The start of a rollout: bound to a preview, within its reach, with its approvals, and in the place of the one before.

use fleet::governance::supersede::{self, How};
use fleet::governance::urgent::{self, Allowed, Debt};
use fleet::membership::{Reach, check_reach};
use fleet::program::RevisionNumber;
use fleet::revisions::{Life, way_back};
use fleet::rollout::{PlanSpec, Rollout, State, schedule};
use proto::api;
use proto::store::{self, RevisionState, RolloutState};
use tonic::Status;

use super::governance::{asked_for, check_approvals};
use super::{Actor, Api, broken, not_stored, short};
use crate::checks;
use crate::control::{Doc, Documents, plan_to_store, rollout_state, stored_rollout_state};
use crate::ledger::{act, entry, now_ms, once, put, table};
use crate::preview::{self, Preview, plan_of, short_id};

/// What was asked for, with what it means in these documents.
struct Start {
    request: api::StartRolloutRequest,
    /// Name and waves.
    plan: (String, PlanSpec),
    how: Option<How>,
}

/// May this revision be started at all?
fn check_revision(revision: &store::Revision) -> Result<(), Status> {
    if !revision.rejected.is_empty() {
        return Err(Status::failed_precondition(format!(
            "{} revision {} was rejected {}: apply a new revision",
            revision.family, revision.number, revision.rejected
        )));
    }
    checks::draft_refusal(revision).map_or(Ok(()), |why| Err(Status::failed_precondition(why)))
}

/// What the opening entry makes.
struct Opening {
    rollout: store::Rollout,
    writes: Vec<store::Write>,
    acts: Vec<store::Act>,
}

fn refused(why: &impl std::fmt::Display) -> Status {
    Status::failed_precondition(why.to_string())
}

/// The key of a start.
pub(super) fn start_key(request: &api::StartRolloutRequest) -> String {
    once("rollout.start", &request.family, &request.idempotency_key)
}

/// A stored revision's life in the domain's words.
pub fn life(state: RevisionState) -> Life {
    match state {
        RevisionState::Unspecified | RevisionState::Draft => Life::Draft,
        RevisionState::Validated => Life::Validated,
        RevisionState::Approved => Life::Approved,
        RevisionState::Active => Life::Active,
        RevisionState::Superseded => Life::Superseded,
        RevisionState::Rejected => Life::Rejected,
    }
}

/// Is there a way back to this revision? It takes the plan that is named, or its own.
pub(super) fn take_way_back(
    documents: &Documents,
    family: &str,
    to: u64,
    plan: &mut String,
) -> Result<(), Status> {
    let stored = documents.families.get(family).ok_or_else(|| {
        Status::not_found(format!(
            "there is no family `{family}`: list them with `muster families list`"
        ))
    })?;
    let number = |number: u64| (number != 0).then_some(RevisionNumber(number));
    let stable = number(stored.value.stable);
    let last = number(documents.last_stable(&stored.value));
    // No number names the latest here: back to where has to be said.
    let revision = (to != 0).then(|| documents.revision(family, to)).flatten();
    let life = revision.map(|r| life(r.value.state()));
    way_back(family, stable, last, RevisionNumber(to), life).map_err(|error| refused(&error))?;
    if plan.is_empty() {
        "rollback".clone_into(plan);
    }
    Ok(())
}

impl Start {
    fn of(documents: &Documents, mut request: api::StartRolloutRequest) -> Result<Start, Status> {
        let how = match request.supersede.as_str() {
            "" => None,
            "restart" => Some(How::Restart),
            "continue" => Some(How::Continue),
            other => {
                return Err(Status::invalid_argument(format!(
                    "supersede is `{other}`: use `restart` or `continue`"
                )));
            }
        };
        if request.back {
            let (family, to) = (&request.family, request.revision);
            take_way_back(documents, family, to, &mut request.plan)?;
        }
        // Before a preview is made of what cannot be started.
        if let Some(revision) = documents.revision(&request.family, request.revision) {
            check_revision(&revision.value)?;
        }
        let plan = plan_of(documents, &request.plan)
            .map_err(|error| Status::not_found(error.to_string()))?;
        let name = match request.plan.as_str() {
            "" => "default",
            name => name,
        };
        Ok(Start {
            plan: (name.to_owned(), plan),
            how,
            request,
        })
    }
}

impl Api {
    /// Opens a rollout, or has it wait for its approvals.
    pub(super) async fn start(
        &self,
        request: api::StartRolloutRequest,
        caller: &Actor,
    ) -> Result<api::Rollout, Status> {
        let key = start_key(&request);
        let started = self.node.control_ledger.has_done(&key);
        if started.map_err(|error| broken(&error))? {
            let started = self.started_by(&request.family, &key)?;
            return Ok(self.rollout_view(&started));
        }
        short("reason", &request.break_glass)?;
        let start = Start::of(&self.node.control.read(), request)?;
        let preview = self.bind(&start.request).await?;
        check(&start.request, &preview)?;
        let opening = start.opening(&self.node.control.read(), &preview, caller)?;
        let entry = store::Entry {
            idempotency_key: key,
            ..entry(opening.writes, opening.acts)
        };
        let proposed = self.node.control_ledger.propose(entry).await;
        proposed.map_err(|error| not_stored(&error))?;
        Ok(self.rollout_view(&self.stored_rollout(&opening.rollout.id)?))
    }

    /// The rollout that a repeated call has started; its list may have gone, its document has not.
    fn started_by(&self, family: &str, key: &str) -> Result<store::Rollout, Status> {
        let started = {
            let documents = self.node.control.read();
            let mut all = documents.of_family(family);
            let started = all.find(|r| r.value.start_key == key);
            started.map(|r| store::Rollout::clone(&r.value))
        };
        started.map_or_else(|| self.stored_rollout(family), Ok)
    }

    /// The preview an activation is bound to: the one that was named, held against the fleet as it is now, or a new one.
    async fn bind(&self, request: &api::StartRolloutRequest) -> Result<Preview, Status> {
        let now = self
            .make_preview(
                &request.family,
                request.revision,
                &request.plan,
                request.back,
            )
            .await?;
        if request.preview.is_empty() {
            self.keep_preview(&now.kept).await?;
            return Ok(now);
        }
        let before = {
            let documents = self.node.control.read();
            let gone = || {
                Status::failed_precondition(format!(
                    "there is no preview `{}` any more: make one with `muster preview {}`",
                    request.preview, request.family
                ))
            };
            preview::kept(&documents, &request.preview).ok_or_else(gone)?
        };
        if before.family != request.family {
            return Err(Status::invalid_argument(format!(
                "preview {} is of family {}, not of {}",
                before.id, before.family, request.family
            )));
        }
        let differences = preview::differences(&before, &now.kept);
        if differences.is_empty() {
            return Ok(Preview {
                kept: before,
                ..now
            });
        }
        Err(Status::failed_precondition(format!(
            "the fleet is not what preview {} showed: {}; make a new one with `muster preview {}`",
            before.id,
            differences.join("; "),
            request.family
        )))
    }
}

impl Api {
    /// Adds to a preview the order in which its waves would go, and what a start would wait for or has to say.
    pub(super) fn complete(
        &self,
        request: &api::PreviewRequest,
        rollout: &Rollout,
        shown: &mut api::PreviewResponse,
    ) {
        let documents = self.node.control.read();
        shown.schedule = schedule_lines(rollout);
        shown.needs = needs(&documents, request, shown.revision, rollout);
    }
}

/// A rollout's order, a line each; the last is the way back.
pub(super) fn schedule_lines(rollout: &Rollout) -> Vec<String> {
    let text = schedule(rollout).to_string();
    text.lines().map(str::to_owned).collect()
}

fn needs(
    documents: &Documents,
    request: &api::PreviewRequest,
    revision: u64,
    rollout: &Rollout,
) -> Vec<String> {
    let mut needs = Vec::new();
    if let Some(revision) = documents.revision(&request.family, revision) {
        if !revision.value.rejected.is_empty() {
            needs.push(format!("it was rejected {}", revision.value.rejected));
        }
        needs.extend(checks::draft_refusal(&revision.value));
        let missing = check_approvals(documents, &revision.value, &rollout.plan, 0).err();
        needs.extend(missing.filter(|_| !request.back).map(|m| m.to_string()));
    }
    if let Some(open) = documents.find_rollout(&request.family) {
        let open = &open.value;
        let state = (rollout_state(open.state()), open.prepared);
        let refused = supersede::check(&request.family, &open.id, state, None);
        needs.extend(refused.err().map(|refused| refused.to_string()));
    }
    let freeze = documents.freeze(&request.family, rollout, now_ms());
    needs.extend(freeze.map(|freeze| format!("no wave starts before the end of freeze {freeze}")));
    needs
}

/// Is this what a person has seen and said, and is there anybody to roll out to?
fn check(request: &api::StartRolloutRequest, bound: &Preview) -> Result<(), Status> {
    let shown = &bound.shown;
    let reach = Reach {
        family: request.family.clone(),
        owned: shown.owned,
        // The number that the person has seen: a few may have joined or left since.
        members: bound.kept.members.len() as u64,
        takeovers: bound.takeovers.clone(),
    };
    check_reach(&reach, (request.reach != 0).then_some(request.reach))
        .map_err(|error| refused(&error))?;
    // The way back is not held up by it: who lacks something is left out there.
    if let Some(lacking) = bound.blocked.as_ref().filter(|_| !request.back) {
        return Err(Status::failed_precondition(format!(
            "family {} does not start while agents lack components: {lacking}",
            request.family
        )));
    }
    if !bound.against.is_empty() && !request.back {
        return Err(Status::failed_precondition(format!(
            "{} revision {} is against the rules for agents that it has now: {}; apply a revision that keeps them, or \
             make its selectors leave those agents out",
            request.family,
            shown.revision,
            bound.against.join("; ")
        )));
    }
    if !shown.conflicts.is_empty() {
        return Err(Status::failed_precondition(format!(
            "two roles match the same agent: {}; make the selectors of family {} exclude each other",
            shown.conflicts.join("; "),
            request.family
        )));
    }
    if shown.members > 0 {
        return Ok(());
    }
    let why = shown.left_out.iter();
    let why: Vec<String> = why
        .map(|l| format!("{} left out: {}", l.agents, l.why))
        .collect();
    let why = match why.as_slice() {
        [] => "no agent matches its selectors".to_owned(),
        why => why.join("; "),
    };
    Err(Status::failed_precondition(format!(
        "there is nobody to roll out to: {why}"
    )))
}

impl Start {
    /// Everything that the opening stores, or why it is refused.
    fn opening(
        &self,
        documents: &Documents,
        preview: &Preview,
        caller: &Actor,
    ) -> Result<Opening, Status> {
        let request = &self.request;
        let family = documents
            .families
            .get(&request.family)
            .ok_or_else(|| Status::not_found(format!("there is no family `{}`", request.family)))?;
        let revision = documents
            .revision(&request.family, preview.shown.revision)
            .ok_or_else(|| Status::aborted("the revision is gone: look again"))?;
        check_revision(&revision.value)?;
        let taken_from = preview.takeovers.iter().map(|(family, _)| family);
        let approvals = taken_from.map(|family| asked_for(documents, family)).max();
        let approvals = approvals.unwrap_or(0);
        let (debt, waits_for) = self.governed(documents, &revision.value, approvals, caller)?;
        let state = match waits_for {
            Some(_) => RolloutState::AwaitingApproval,
            None => RolloutState::Planned,
        };
        let cause = waits_for.unwrap_or_else(|| format!("started by {}", caller.name));
        let (plan_name, plan) = &self.plan;
        let role = |r: &api::RolePreview| store::RoleProgress {
            role: r.role.clone(),
            ..store::RoleProgress::default()
        };
        let mut rollout = store::Rollout {
            // Ids grow with time, so that the newest is the last.
            id: format!("ro-{:011x}-{}", now_ms(), short_id()),
            family: request.family.clone(),
            from: documents.last_stable(&family.value),
            to: preview.shown.revision,
            plan: Some(plan_to_store(plan_name, plan)),
            state: state.into(),
            cause,
            actor: caller.name.clone(),
            roles: preview.shown.roles.iter().map(role).collect(),
            preview: preview.kept.id.clone(),
            created_ms: now_ms(),
            opening_epoch: documents.epoch().0,
            back: request.back,
            continues: self.how == Some(How::Continue),
            debt,
            reach: request.reach,
            approvals,
            start_key: start_key(request),
            ..store::Rollout::default()
        };
        let mut writes = Vec::new();
        let mut acts = Vec::new();
        for (open, next) in self.replaces(documents)? {
            // What has begun goes on until the lists of the new one are complete: if they cannot be made, or approvals
            // do not come, nothing has ended.
            if next == State::Superseded {
                rollout.supersedes.clone_from(&open.value.id);
                continue;
            }
            let (write, act) = supersede_with(open, next, &rollout, &caller.name);
            writes.push(write);
            acts.push(act);
        }
        // The program names the new one when its lists are complete; until then the old one decides.
        let next = store::Family {
            target: rollout.to,
            ..store::Family::clone(&family.value)
        };
        writes.push(put(
            table::FAMILY,
            request.family.as_str(),
            family.version,
            &next,
        ));
        writes.push(put(table::ROLLOUT, rollout.id.as_str(), 0, &rollout));
        acts.push(self.started(&rollout, caller));
        Ok(Opening {
            rollout,
            writes,
            acts,
        })
    }

    /// A review that is owed, and what it has to wait for.
    fn governed(
        &self,
        documents: &Documents,
        revision: &store::Revision,
        at_least: u32,
        caller: &Actor,
    ) -> Result<(Option<store::Debt>, Option<String>), Status> {
        let approved = match self.request.back {
            true => Ok(()), // it had them when it was active
            false => check_approvals(documents, revision, &self.plan.1, at_least),
        };
        let start = urgent::Start {
            actor: &caller.name,
            role: caller.role,
            plan: &self.plan.1,
            break_glass: Some(self.request.break_glass.as_str()).filter(|r| !r.is_empty()),
            approved,
        };
        let allowed = urgent::check(start).map_err(|error| match error {
            urgent::Refused::Actor(error) => Status::permission_denied(error.to_string()),
            error => refused(&error),
        })?;
        Ok(match allowed {
            Allowed::Approved => (None, None),
            Allowed::Awaiting(missing) => (None, Some(missing.to_string())),
            Allowed::GlassBroken(Debt {
                actor,
                reason,
                missing,
            }) => {
                let debt = store::Debt {
                    actor,
                    reason,
                    missing,
                    ..store::Debt::default()
                };
                (Some(debt), None)
            }
        })
    }

    /// The open rollouts of the family, of which one may have begun, and where each has to go.
    fn replaces<'d>(
        &self,
        documents: &'d Documents,
    ) -> Result<Vec<(&'d Doc<store::Rollout>, State)>, Status> {
        let family = &self.request.family;
        let all = documents.rollouts.values().rev();
        let mut replaced = Vec::new();
        for open in all.filter(|r| r.value.family == *family) {
            let state = (rollout_state(open.value.state()), open.value.prepared);
            let next = supersede::check(family, &open.value.id, state, self.how)
                .map_err(|error| refused(&error))?;
            replaced.extend(next.map(|next| (open, next)));
        }
        Ok(replaced)
    }

    fn started(&self, rollout: &store::Rollout, caller: &Actor) -> store::Act {
        let debt = rollout.debt.as_ref();
        let detail = format!(
            "family {} revision {} with plan {}, bound to preview {}{}{}{}",
            rollout.family,
            rollout.to,
            self.plan.0,
            rollout.preview,
            if rollout.back { ", back" } else { "" },
            match rollout.reach {
                0 => String::new(),
                reach => format!(", reach {reach}"),
            },
            debt.map_or_else(String::new, |debt| format!(
                "; without approvals ({}): {}: a review is owed",
                debt.missing, debt.reason
            ))
        );
        act(
            &caller.name,
            "rollout.start",
            format!("rollout/{}", rollout.id),
            detail,
        )
    }
}

/// Ends an open rollout in favour of another one.
pub fn supersede_with(
    open: &Doc<store::Rollout>,
    next: State,
    by: &store::Rollout,
    actor: &str,
) -> (store::Write, store::Act) {
    let old = store::Rollout {
        state: stored_rollout_state(next).into(),
        cause: format!("replaced by {} with revision {}, by {actor}", by.id, by.to),
        ended_ms: now_ms(),
        ..store::Rollout::clone(&open.value)
    };
    let object = format!("rollout/{}", old.id);
    let act = act(actor, "rollout.supersede", object, old.cause.clone());
    (
        put(table::ROLLOUT, old.id.as_str(), open.version, &old),
        act,
    )
}

#[cfg(test)]
mod tests {
    use fleet::rollout::{Direction, rollback_plan};

    use super::*;

    /// Of three agents that it owns.
    fn preview() -> Preview {
        Preview {
            shown: api::PreviewResponse {
                revision: 2,
                members: 3,
                owned: 3,
                ..api::PreviewResponse::default()
            },
            takeovers: vec![],
            blocked: None,
            rollout: Rollout {
                state: State::Planned,
                direction: Direction::Forward,
                plan: rollback_plan(),
                roles: vec![],
                roll_back: None,
                inconclusive_ms: 0,
            },
            against: vec![],
            kept: store::Preview {
                members: vec![vec![1], vec![2], vec![3]],
                ..store::Preview::default()
            },
        }
    }

    /// What a start of family `web` bound to it is told, forward and back.
    fn said(bound: &Preview) -> [String; 2] {
        [false, true].map(|back| {
            let request = api::StartRolloutRequest {
                family: "web".into(),
                back,
                ..api::StartRolloutRequest::default()
            };
            let checked = check(&request, bound);
            checked.map_or_else(|refused| refused.message().to_owned(), |()| String::new())
        })
    }

    #[test]
    fn what_stands_against_a_start_is_named_and_does_not_hold_up_the_way_back() {
        assert_eq!(said(&preview()), ["", ""]);
        let lacking = Preview {
            blocked: Some("1 agent lacks processor redaction".into()),
            ..preview()
        };
        let why = "family web does not start while agents lack components: 1 agent lacks processor redaction";
        assert_eq!(said(&lacking), [why, ""]);
        let against = Preview {
            against: vec!["1 agent has no version".into()],
            ..preview()
        };
        let why = "web revision 2 is against the rules for agents that it has now: 1 agent has no version; apply a revision that \
                   keeps them, or make its selectors leave those agents out";
        assert_eq!(said(&against), [why, ""]);
    }

    #[test]
    fn roles_that_have_come_to_match_the_same_agent_are_named_with_the_way_out() {
        let mut overlapping = preview();
        overlapping.shown.conflicts = vec!["host-1: agent, edge".into()];
        let why = "two roles match the same agent: host-1: agent, edge; make the selectors of family web exclude each other";
        assert_eq!(said(&overlapping), [why, why]);
    }
}
