//! Change on its way.

use std::collections::BTreeSet;
use std::time::Duration;

use fleet::bucket::{ALL, Bucket, Counts};
use fleet::governance::actor::Act;
use fleet::governance::urgent::Debt;
use fleet::offer::Failure;
use fleet::rollout::{Answer, CheckSpec, Inconclusive, Observed, Signs, State, Verdict};
use proto::api;
use proto::api::rollout_service_server::RolloutService;
use proto::store;
use proto::uid::Uid;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::families::on_stop_word;
use super::start::schedule_lines;
use super::{Api, not_stored, short};
use crate::control::rollout_state;
use crate::controller::verbs::{Verb, VerbError, order};
use crate::controller::{observe, window};
use crate::folding::error_groups;
use crate::ledger::{act, entry, now_ms, once, put, table};
use crate::partition::MemberView;
use crate::preview::gate_text;

/// How often a watched rollout is looked at.
const WATCH: Duration = Duration::from_millis(500);

pub(super) fn unknown(id: &str) -> Status {
    Status::not_found(format!(
        "there is no rollout `{id}`: list them with `muster rollout list`"
    ))
}

impl Api {
    /// Members of a rollout that are in this bucket; an empty bucket is all of them.
    pub(super) fn bucketed(&self, id: &str, bucket: &str) -> Result<BTreeSet<Uid>, Status> {
        let stored = self.stored_rollout(id)?;
        if !bucket.is_empty() && !ALL.iter().any(|b| b.name() == bucket) {
            let words: Vec<&str> = ALL.iter().map(|b| b.name()).collect();
            return Err(Status::invalid_argument(format!(
                "there is no bucket `{bucket}`: use one of {}",
                words.join(", ")
            )));
        }
        let members = self
            .members(&stored)
            .into_iter()
            .filter(|m| bucket.is_empty() || m.bucket.name() == bucket);
        Ok(members.map(|m| m.uid).collect())
    }

    pub(super) fn stored_rollout(&self, id: &str) -> Result<store::Rollout, Status> {
        let documents = self.node.control.read();
        documents
            .find_rollout(id)
            .map(|r| store::Rollout::clone(&r.value))
            .ok_or_else(|| unknown(id))
    }

    /// Agents that joined the family since its lists were made.
    fn late(&self, stored: &store::Rollout) -> u64 {
        let partitions = self.node.partitions.iter();
        partitions.map(|partition| partition.late(&stored.id)).sum()
    }

    fn members(&self, stored: &store::Rollout) -> Vec<MemberView> {
        self.node
            .partitions
            .iter()
            .flat_map(|partition| partition.members(stored))
            .collect()
    }

    pub(super) fn rollout_view(&self, stored: &store::Rollout) -> api::Rollout {
        let domain = self.node.control.read().domain(stored);
        let mut observed = if stored.ended_counts.is_empty() {
            observe(&self.node, stored)
        } else {
            as_ended(stored)
        };
        observed.findings = self.node.asker.findings(stored);
        let mut total = Counts::default();
        for counts in observed.roles.values().flatten() {
            total.merge(counts);
        }
        let members = if total.failures() > 0 {
            self.members(stored)
        } else {
            vec![]
        };
        let roles = domain
            .roles
            .iter()
            .zip(&stored.roles)
            .map(|(role, progress)| role_view(&domain, role, progress, &observed));
        let going_back = stored
            .roll_back
            .as_ref()
            .filter(|_| domain.state == State::RollingBack);
        let waiting = self
            .node
            .waiting
            .of(&stored.id)
            .iter()
            .map(ToString::to_string)
            .collect();
        api::Rollout {
            id: stored.id.clone(),
            family: stored.family.clone(),
            from: stored.from,
            to: stored.to,
            plan: stored
                .plan
                .as_ref()
                .map(|p| p.name.clone())
                .unwrap_or_default(),
            state: domain.state.name().to_owned(),
            cause: stored.cause.clone(),
            actor: stored.actor.clone(),
            roles: roles.collect(),
            total: Some(counts_view(&total)),
            waiting,
            created_ms: stored.created_ms,
            started_ms: stored.started_ms,
            ended_ms: stored.ended_ms,
            errors: errors(stored, &members),
            rolling_back: going_back.map(back_text).unwrap_or_default(),
            on_stop: on_stop_word(domain.plan.on_stop).to_owned(),
            window: stored.prepared.then(|| window::view(&self.node, stored)),
            back: stored.back,
            late: self.late(stored),
            debt: stored.debt.as_ref().map(debt_view),
            supersedes: stored.supersedes.clone(),
            schedule: schedule_lines(&domain),
        }
    }

    async fn verb(
        &self,
        request: Request<api::RolloutVerb>,
        verb: Verb,
    ) -> Result<Response<api::Rollout>, Status> {
        let actor = self.actor(&request, Act::MoveRollout)?;
        let request = request.into_inner();
        short("reason", &request.reason)?;
        let done = order(
            &self.node,
            &request.id,
            verb,
            &actor,
            &request.reason,
            &request.idempotency_key,
        )
        .await;
        let id = done.map_err(|error| match &error {
            VerbError::Unknown(_) => Status::not_found(error.to_string()),
            VerbError::State { .. } => Status::failed_precondition(error.to_string()),
            VerbError::Store { source, .. } => not_stored(source),
        })?;
        Ok(Response::new(self.rollout_view(&self.stored_rollout(&id)?)))
    }
}

fn debt_view(debt: &store::Debt) -> api::Debt {
    let store::Debt {
        actor,
        reason,
        missing,
        reviewed_by,
        reviewed_ms,
        note,
    } = debt.clone();
    api::Debt {
        actor,
        reason,
        missing,
        reviewed_by,
        reviewed_ms,
        note,
    }
}

fn is_owed(debt: &store::Debt) -> bool {
    debt.reviewed_ms == 0
}

/// Where its members stood when it ended.
fn as_ended(stored: &store::Rollout) -> Observed {
    let mut observed = Observed {
        evidence_age_ms: Some(0),
        ..Observed::default()
    };
    for ended in &stored.ended_counts {
        let waves = observed.roles.entry(ended.role.clone()).or_default();
        let at = ended.wave as usize;
        if waves.len() <= at {
            waves.resize(at + 1, Counts::default());
        }
        waves[at] = Counts::from_members(&ended.members);
    }
    for (role, waves) in &observed.roles {
        let signs = vec![Signs::default(); waves.len()];
        observed.signs.insert(role.clone(), signs);
    }
    observed
}

fn counts_view(counts: &Counts) -> api::Counts {
    let failed = |failure| counts.of(Bucket::Failed(failure));
    api::Counts {
        members: counts.members(),
        waiting: counts.of(Bucket::Waiting),
        pending_pickup: counts.of(Bucket::PendingPickup),
        applying: counts.of(Bucket::Applying),
        soaking: counts.of(Bucket::Soaking),
        converged: counts.of(Bucket::Converged),
        unchanged: counts.of(Bucket::Unchanged),
        rejected: failed(Failure::Rejected),
        crashed: failed(Failure::Crashed),
        rolled_back_by_agent: failed(Failure::RolledBackByAgent),
        unhealthy: failed(Failure::Unhealthy),
        was_unhealthy: counts.of(Bucket::WasUnhealthy),
        no_answer: failed(Failure::NoAnswer),
        vanished: failed(Failure::Vanished),
        not_reached: counts.of(Bucket::NotReached),
        unverifiable: counts.of(Bucket::Unverifiable),
        left: counts.of(Bucket::Left),
        deleted: counts.of(Bucket::Deleted),
        refused: counts.of(Bucket::Refused),
        excluded: counts.of(Bucket::Excluded),
        returned: counts.of(Bucket::Returned),
        pinned: counts.of(Bucket::Pinned),
        flow_lost: failed(Failure::FlowLost),
    }
}

fn role_view(
    rollout: &fleet::rollout::Rollout,
    role: &fleet::rollout::Role,
    progress: &store::RoleProgress,
    observed: &Observed,
) -> api::RoleRollout {
    let none = Counts::default();
    let seen = observed.waves(&role.name);
    let mut waves = Vec::new();
    for wave in 0..u32::try_from(role.wave_ends.len()).unwrap_or(0) {
        let spec = rollout.wave(role, wave);
        let counts = seen.get(wave as usize).unwrap_or(&none);
        let verdict = rollout.judge(role, wave, observed);
        let newest = wave + 1 == role.open_waves;
        let back = rollout
            .roll_back
            .as_ref()
            .is_some_and(|back| back.scope.has(&role.name, wave as usize));
        let state = if wave >= role.open_waves {
            "waiting"
        } else if back {
            "returned"
        } else if !newest || role.done {
            "passed"
        } else if rollout.state != State::Running {
            "stopped"
        } else if verdict == Verdict::Pass {
            "soaking"
        } else {
            "in flight"
        };
        let start = if wave == 0 {
            0
        } else {
            role.wave_ends[wave as usize - 1]
        };
        waves.push(api::WaveRollout {
            number: u64::from(wave) + 1,
            agents: (role.wave_ends[wave as usize] - start).max(counts.members()),
            state: state.to_owned(),
            counts: Some(counts_view(counts)),
            gate: gate_text(&spec, wave == 0),
            verdict: if wave < role.open_waves {
                verdict_text(&verdict)
            } else {
                String::new()
            },
            soaked_ms: if newest && !role.done {
                role.soaked_ms
            } else {
                0
            },
            soak_ms: spec.soak_ms,
            checks: if role.judged().contains(&wave) && !rollout.state.is_final() {
                checks(rollout, role, wave, observed)
            } else {
                vec![]
            },
        });
    }
    let state = match (role.done, role.open_waves) {
        _ if rollout.state == State::RolledBack && role.open_waves > 0 => "returned",
        (true, _) => "done",
        (false, 0) if rollout.state.is_final() => "not begun",
        (false, 0) => "waiting",
        (false, _) if rollout.state == State::RollingBack => "rolling back",
        (false, _) if rollout.state == State::Running => "running",
        (false, _) => "stopped",
    };
    api::RoleRollout {
        role: role.name.clone(),
        state: state.to_owned(),
        members: progress.members,
        waves,
    }
}

/// The checks of a wave whose gate decides now; a wave that has passed needs them no more.
fn checks(
    rollout: &fleet::rollout::Rollout,
    role: &fleet::rollout::Role,
    wave: u32,
    observed: &Observed,
) -> Vec<api::CheckAnswer> {
    let view = |(spec, answer): (CheckSpec, Answer)| api::CheckAnswer {
        check: spec.check.to_string(),
        observe: spec.observe,
        answer: answer.to_string(),
    };
    let answers = rollout.answers(role, wave, observed);
    answers.into_iter().map(view).collect()
}

fn verdict_text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Pass => "pass".to_owned(),
        Verdict::Fail { cause } => format!("fail: {cause}"),
        Verdict::Inconclusive {
            why: Inconclusive::OnTheirWay { needed },
        } => format!("inconclusive: {needed} have to converge"),
        Verdict::Inconclusive {
            why: Inconclusive::TooFew { needed },
        } => format!("inconclusive: {needed} have to converge, and no member is on its way"),
        Verdict::Inconclusive {
            why: Inconclusive::Unreachable { members, left_ms },
        } => format!(
            "inconclusive: {members} silent, waited for another {} s",
            left_ms.div_ceil(1_000)
        ),
        Verdict::Inconclusive {
            why: Inconclusive::Person(who),
        } => format!("inconclusive: {who} has to say yes"),
        Verdict::Inconclusive {
            why: Inconclusive::NoEvidence(why),
        } => format!("inconclusive: {why}"),
    }
}

fn back_text(back: &store::RollBack) -> String {
    if back.all {
        "all".to_owned()
    } else {
        format!("wave {} of {}", back.wave + 1, back.role)
    }
}

/// What fails now; once everything has gone back, what failed when it stopped.
fn errors(stored: &store::Rollout, members: &[MemberView]) -> Vec<api::ErrorGroup> {
    let now = error_groups(members);
    let groups = if now.is_empty() {
        stored.stopped_errors.clone()
    } else {
        now
    };
    let view = |group: store::ErrorGroup| api::ErrorGroup {
        kind: group.kind,
        error: group.error,
        agents: group.agents,
        examples: group
            .examples
            .iter()
            .filter_map(|uid| Uid::from_wire(uid).ok())
            .map(|uid| uid.to_string())
            .collect(),
    };
    groups.into_iter().map(view).collect()
}

#[tonic::async_trait]
impl RolloutService for Api {
    async fn start_rollout(
        &self,
        request: Request<api::StartRolloutRequest>,
    ) -> Result<Response<api::Rollout>, Status> {
        let caller = self.caller(&request)?;
        self.actor(&request, Act::MoveRollout)?;
        let rollout = self.start(request.into_inner(), &caller).await?;
        Ok(Response::new(rollout))
    }

    async fn list_rollouts(
        &self,
        request: Request<api::ListRolloutsRequest>,
    ) -> Result<Response<api::ListRolloutsResponse>, Status> {
        self.actor(&request, Act::Read)?;
        let request = request.into_inner();
        let stored: Vec<_> = {
            let documents = self.node.control.read();
            let wanted = |r: &&crate::control::Doc<store::Rollout>| {
                let open = !rollout_state(r.value.state()).is_final();
                (request.family.is_empty() || r.value.family == request.family)
                    && (open || !request.open_only)
                    && (!request.unreviewed || r.value.debt.as_ref().is_some_and(is_owed))
            };
            documents
                .rollouts
                .values()
                .rev()
                .filter(wanted)
                .map(|r| r.value.clone())
                .collect()
        };
        let rollouts = stored.iter().map(|r| self.rollout_view(r)).collect();
        Ok(Response::new(api::ListRolloutsResponse { rollouts }))
    }

    async fn get_rollout(
        &self,
        request: Request<api::GetRolloutRequest>,
    ) -> Result<Response<api::Rollout>, Status> {
        self.actor(&request, Act::Read)?;
        let stored = self.stored_rollout(&request.into_inner().id)?;
        Ok(Response::new(self.rollout_view(&stored)))
    }

    type WatchRolloutStream = ReceiverStream<Result<api::Rollout, Status>>;

    async fn watch_rollout(
        &self,
        request: Request<api::WatchRolloutRequest>,
    ) -> Result<Response<Self::WatchRolloutStream>, Status> {
        self.actor(&request, Act::Read)?;
        let id = self.stored_rollout(&request.into_inner().id)?.id;
        let (send, receive) = tokio::sync::mpsc::channel(4);
        let api = self.clone();
        tokio::spawn(async move {
            let mut last = None;
            loop {
                if !api.node.leads() {
                    let moved = "another node leads the control group now: watch again";
                    let _ = send.send(Err(Status::unavailable(moved))).await;
                    return;
                }
                let view = api
                    .stored_rollout(&id)
                    .map(|stored| (rollout_state(stored.state()), api.rollout_view(&stored)));
                match view {
                    Err(status) => {
                        let _ = send.send(Err(status)).await;
                        return;
                    }
                    Ok((state, view)) => {
                        if last.as_ref() != Some(&view)
                            && send.send(Ok(view.clone())).await.is_err()
                        {
                            return;
                        }
                        last = Some(view);
                        if state.is_final() {
                            return;
                        }
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(WATCH) => {}
                    () = send.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn pause_rollout(
        &self,
        request: Request<api::RolloutVerb>,
    ) -> Result<Response<api::Rollout>, Status> {
        self.verb(request, Verb::Pause).await
    }

    async fn resume_rollout(
        &self,
        request: Request<api::RolloutVerb>,
    ) -> Result<Response<api::Rollout>, Status> {
        self.verb(request, Verb::Resume).await
    }

    async fn halt_rollout(
        &self,
        request: Request<api::RolloutVerb>,
    ) -> Result<Response<api::Rollout>, Status> {
        self.verb(request, Verb::Halt).await
    }

    async fn rollback_rollout(
        &self,
        request: Request<api::RolloutVerb>,
    ) -> Result<Response<api::Rollout>, Status> {
        self.verb(request, Verb::RollBack).await
    }

    async fn answer_check(
        &self,
        request: Request<api::AnswerCheckRequest>,
    ) -> Result<Response<api::Rollout>, Status> {
        let actor = self.actor(&request, Act::MoveRollout)?;
        let id = self.answer(&actor, &request.into_inner()).await?;
        Ok(Response::new(self.rollout_view(&self.stored_rollout(&id)?)))
    }

    async fn review_rollout(
        &self,
        request: Request<api::ReviewRolloutRequest>,
    ) -> Result<Response<api::Rollout>, Status> {
        let actor = self.actor(&request, Act::Approve)?;
        let request = request.into_inner();
        short("note", &request.note)?;
        if request.note.trim().is_empty() {
            return Err(Status::invalid_argument(
                "a review says what was found: give it with --note",
            ));
        }
        let key = once("rollout.review", &request.id, &request.idempotency_key);
        let reviewed = self.decide(&key, |documents| {
            let found = documents
                .find_rollout(&request.id)
                .ok_or_else(|| unknown(&request.id))?;
            let mut next = store::Rollout::clone(&found.value);
            let Some(debt) = next.debt.as_mut().filter(|debt| is_owed(debt)) else {
                return Err(Status::failed_precondition(format!(
                    "rollout {} owes no review: list those that do with `muster rollout list --unreviewed`",
                    next.id
                )));
            };
            let owed = Debt {
                actor: debt.actor.clone(),
                reason: debt.reason.clone(),
                missing: debt.missing.clone(),
            };
            owed.review(&actor, &format!("rollout {}", next.id))
                .map_err(|refused| Status::failed_precondition(refused.to_string()))?;
            debt.reviewed_by.clone_from(&actor);
            debt.reviewed_ms = now_ms();
            debt.note.clone_from(&request.note);
            let write = put(table::ROLLOUT, next.id.as_str(), found.version, &next);
            let object = format!("rollout/{}", next.id);
            let acts = vec![act(&actor, "rollout.review", object, request.note.clone())];
            Ok((Some(entry(vec![write], acts)), next))
        });
        Ok(Response::new(self.rollout_view(&reviewed.await?)))
    }
}
