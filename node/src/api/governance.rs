//! Who has to agree, and what stands in the way of a change.

use fleet::governance::actor::Act;
use fleet::governance::approval::{self, Approval};
use fleet::governance::{freeze, pin};
use fleet::program::{PinTarget, RevisionNumber};
use proto::api::governance_service_server::GovernanceService;
use proto::store::{self, RevisionState};
use proto::{api, uid::Uid};
use tonic::{Request, Response, Status};

use super::families::summary;
use super::{Api, not_stored, short};
use crate::checks;
use crate::control::{self, Documents, revision_key};
use crate::ledger::{ProposeError, act, entry, now_ms, once, put, table};
use crate::preview::plan_of;

/// Tries when somebody else changes the same document.
const TRIES: usize = 5;

/// Pins, and freezes, that hold at a time: each is looked at for every agent, or every wave.
const HELD_MAX: usize = 1_000;

/// Freezes and pins that are kept after their end, for those who ask what held then.
const PAST_MS: u64 = 90 * 24 * 3_600_000;

/// So many approvals a family asks for by what is stable, or by what was when it was deactivated or deleted.
pub fn asked_for(documents: &Documents, family: &str) -> u32 {
    let stored = documents.families.get(family);
    let stable = stored.map(|stored| documents.last_stable(&stored.value));
    let stable = stable.filter(|stable| *stable != 0);
    match stable.and_then(|stable| documents.revision(family, stable)) {
        Some(stable) => stable.value.approvals,
        None => documents.gone.get(family).map_or(0, |g| g.value.approvals),
    }
}

/// What open rollouts of a revision need, e.g. since they take agents of a family that asks for approvals.
fn asked_by_open(documents: &Documents, revision: &store::Revision) -> u32 {
    let rollouts = documents.of_family(&revision.family).map(|r| &r.value);
    let open = rollouts.filter(|rollout| {
        rollout.to == revision.number && !control::rollout_state(rollout.state()).is_final()
    });
    open.map(|rollout| rollout.approvals).max().unwrap_or(0)
}

/// What a rollout of this revision with this plan needs, and at least so many approvals. As many as the stable revision
/// asks for, too: who asks for fewer does not decide that alone.
pub fn approval_request(
    documents: &Documents,
    revision: &store::Revision,
    plan: &fleet::rollout::PlanSpec,
    at_least: u32,
) -> approval::Request {
    approval::Request {
        what: format!("{} revision {}", revision.family, revision.number),
        author: revision.author.clone(),
        revision: control::digest(&revision.hash),
        plan: plan.hash(),
        needed: revision
            .approvals
            .max(asked_for(documents, &revision.family))
            .max(at_least),
    }
}

/// Are there enough approvals that count?
pub fn check_approvals(
    documents: &Documents,
    revision: &store::Revision,
    plan: &fleet::rollout::PlanSpec,
    at_least: u32,
) -> Result<(), approval::Refused> {
    let given: Vec<Approval> = revision.given.iter().map(control::approval).collect();
    approval_request(documents, revision, plan, at_least).check(&given)
}

/// What a rollout that has not begun still waits for; none: nothing, e.g. since its revision had its approvals when it was
/// active, or since somebody broke the glass.
pub fn still_missing(documents: &Documents, rollout: &store::Rollout) -> Option<approval::Refused> {
    if rollout.back || rollout.debt.is_some() {
        return None;
    }
    let revision = &documents.revision(&rollout.family, rollout.to)?.value;
    let plan = control::plan_spec(rollout.plan.as_ref()?);
    check_approvals(documents, revision, &plan, rollout.approvals).err()
}

fn unknown_revision(family: &str, revision: u64) -> Status {
    Status::not_found(match revision {
        0 => format!("there is no family `{family}`: list them with `muster families list`"),
        number => {
            format!("family {family} has no revision {number}: see `muster families get {family}`")
        }
    })
}

fn freeze_view(stored: &store::Freeze, now: u64) -> api::Freeze {
    let state = match (stored.from_ms > now, stored.until_ms > now) {
        (_, false) => "over",
        (true, true) => "coming",
        (false, true) => "holds",
    };
    api::Freeze {
        name: stored.name.clone(),
        reason: stored.reason.clone(),
        from_ms: stored.from_ms,
        until_ms: stored.until_ms,
        families: stored.families.clone(),
        created_by: stored.created_by.clone(),
        state: state.to_owned(),
    }
}

impl Api {
    /// Proposes what `change` makes of the documents; again when somebody else was quicker. None: nothing to do.
    pub(super) async fn decide<T>(
        &self,
        key: &str,
        change: impl Fn(&Documents) -> Result<(Option<store::Entry>, T), Status>,
    ) -> Result<T, Status> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (entry, done) = change(&self.node.control.read())?;
            let Some(entry) = entry else { return Ok(done) };
            let entry = store::Entry {
                idempotency_key: key.to_owned(),
                ..entry
            };
            match self.node.control_ledger.propose(entry).await {
                Ok(_) => return Ok(done),
                Err(ProposeError::Conflict(_)) if tries < TRIES => {}
                Err(error) => return Err(not_stored(&error)),
            }
        }
    }

    fn pin_view(&self, stored: &store::Pin) -> api::Pin {
        let held = control::pin(stored).filter(|_| !stored.ended);
        let agents = held.map_or(0, |pin| {
            let counts = |row: &&crate::inventory::Row| {
                let owns = row.owner().is_some_and(|(owner, _)| owner == stored.family);
                owns && match &pin.held.target {
                    PinTarget::Agent(uid) => row.uid.as_bytes() == uid,
                    PinTarget::Selected(selector) => selector.matches(*row),
                }
            };
            let partitions = self.node.partitions.iter();
            let count = |p: &std::sync::Arc<crate::partition::Partition>| {
                p.index().read().rows.values().filter(counts).count() as u64
            };
            partitions.map(count).sum()
        });
        api::Pin {
            name: stored.name.clone(),
            family: stored.family.clone(),
            agent: Uid::from_wire(&stored.uid).map_or_else(|_| String::new(), |u| u.to_string()),
            selector: stored.selector.clone(),
            revision: stored.revision,
            reason: stored.reason.clone(),
            owner: stored.owner.clone(),
            until_ms: stored.until_ms,
            created_by: stored.created_by.clone(),
            state: if stored.ended { "over" } else { "holds" }.to_owned(),
            agents,
        }
    }

    /// Whom a pin is about: one agent, or a selector that stands in its canonical form.
    fn pin_target(&self, request: &api::SetPinRequest) -> Result<(Vec<u8>, String), Status> {
        let (agent, text) = (request.agent.as_str(), request.selector.as_str());
        match (agent.is_empty(), super::selector(text)?) {
            (false, None) => Ok((self.find(agent)?.as_bytes().to_vec(), String::new())),
            (true, Some(selector)) => Ok((vec![], selector.to_string())),
            _ => Err(Status::invalid_argument(format!(
                "pin {} has to be for one agent or for a selector: give --agent or --selector",
                request.name
            ))),
        }
    }
}

/// The old documents of a kind that nobody asks for any more.
fn past<T: prost::Message + Default>(
    all: &std::collections::BTreeMap<String, control::Doc<T>>,
    table: u8,
    until: impl Fn(&T) -> u64,
) -> Vec<store::Write> {
    let before = now_ms().saturating_sub(PAST_MS);
    let old = all.iter().filter(|(_, doc)| until(&doc.value) < before);
    old.map(|(name, _)| crate::ledger::delete_any(table, name.as_str()))
        .collect()
}

#[tonic::async_trait]
impl GovernanceService for Api {
    async fn approve(
        &self,
        request: Request<api::ApproveRequest>,
    ) -> Result<Response<api::RevisionSummary>, Status> {
        let actor = self.actor(&request, Act::Approve)?;
        let request = request.into_inner();
        let key = once(
            "revision.approve",
            &request.family,
            &request.idempotency_key,
        );
        let approved = self.decide(&key, |documents| {
            let found = documents
                .revision(&request.family, request.revision)
                .ok_or_else(|| unknown_revision(&request.family, request.revision))?;
            let revision = &found.value;
            let plan = plan_of(documents, &request.plan)
                .map_err(|error| Status::not_found(error.to_string()))?;
            let asked = asked_by_open(documents, revision);
            let wanted = approval_request(documents, revision, &plan, asked);
            if !revision.rejected.is_empty() {
                return Err(Status::failed_precondition(format!(
                    "{} was rejected {}: apply a new revision",
                    wanted.what, revision.rejected
                )));
            }
            if let Some(why) = checks::draft_refusal(revision) {
                return Err(Status::failed_precondition(why));
            }
            let seen = request.revision_hash.as_str();
            if !hex::encode(&revision.hash).starts_with(seen) {
                return Err(Status::failed_precondition(format!(
                    "{} has hash {}, not {seen}: look at it again and approve what you saw",
                    wanted.what, wanted.revision
                )));
            }
            let given: Vec<Approval> = revision.given.iter().map(control::approval).collect();
            let approval = Approval {
                by: actor.clone(),
                revision: wanted.revision,
                plan: wanted.plan,
            };
            match wanted.add(&given, &approval) {
                Err(approval::Refused::Twice { .. }) => {
                    return Ok((None, (store::Revision::clone(revision), wanted.needed)));
                }
                Err(refused) => return Err(Status::failed_precondition(refused.to_string())),
                Ok(()) => {}
            }
            let mut next = store::Revision::clone(revision);
            let plan_name = match request.plan.as_str() {
                "" => "default",
                name => name,
            };
            next.given.push(store::Approval {
                by: actor.clone(),
                revision: wanted.revision.as_bytes().to_vec(),
                plan: wanted.plan.as_bytes().to_vec(),
                plan_name: plan_name.to_owned(),
                at_ms: now_ms(),
                reason: request.reason.clone(),
            });
            if check_approvals(documents, &next, &plan, asked).is_ok()
                && next.state() == RevisionState::Validated
            {
                next.set_state(RevisionState::Approved);
            }
            let write = put(
                table::REVISION,
                revision_key(&next.family, next.number),
                found.version,
                &next,
            );
            let detail = format!(
                "revision {} ({}) with plan {plan_name} ({}){}",
                next.number,
                wanted.revision,
                wanted.plan,
                because(&request.reason)
            );
            let object = format!("family/{}", next.family);
            let acts = vec![act(&actor, "revision.approve", object, detail)];
            Ok((Some(entry(vec![write], acts)), (next, wanted.needed)))
        });
        let (revision, needed) = approved.await?;
        Ok(Response::new(api::RevisionSummary {
            // By the stable revision, or for agents of other families, it may be more than it asks for itself.
            approvals: needed,
            ..summary(&revision)
        }))
    }

    async fn reject(
        &self,
        request: Request<api::RejectRequest>,
    ) -> Result<Response<api::RevisionSummary>, Status> {
        let actor = self.actor(&request, Act::Approve)?;
        let request = request.into_inner();
        short("reason", &request.reason)?;
        if request.reason.trim().is_empty() {
            return Err(Status::invalid_argument(
                "a rejection has a reason: say it with --reason, its author will ask",
            ));
        }
        let key = once("revision.reject", &request.family, &request.idempotency_key);
        let rejected = self.decide(&key, |documents| {
            let found = documents
                .revision(&request.family, request.revision)
                .ok_or_else(|| unknown_revision(&request.family, request.revision))?;
            let mut next = store::Revision::clone(&found.value);
            let what = format!("{} revision {}", next.family, next.number);
            if matches!(
                next.state(),
                RevisionState::Active | RevisionState::Superseded
            ) {
                return Err(Status::failed_precondition(format!(
                    "{what} runs or has run: go back with `muster rollout back {} REVISION`",
                    next.family
                )));
            }
            if !next.rejected.is_empty() {
                return Ok((None, next));
            }
            let open = documents
                .rollouts
                .values()
                .map(|r| &r.value)
                .find(|r| r.family == next.family && r.to == next.number && has_begun(r));
            if let Some(open) = open {
                return Err(Status::failed_precondition(format!(
                    "{what} is being rolled out by {}: halt or roll back that first",
                    open.id
                )));
            }
            next.set_state(RevisionState::Rejected);
            next.rejected = format!("by {actor}: {}", request.reason);
            let write = put(
                table::REVISION,
                revision_key(&next.family, next.number),
                found.version,
                &next,
            );
            let detail = format!("revision {}{}", next.number, because(&request.reason));
            let object = format!("family/{}", next.family);
            let acts = vec![act(&actor, "revision.reject", object, detail)];
            Ok((Some(entry(vec![write], acts)), next))
        });
        Ok(Response::new(summary(&rejected.await?)))
    }

    async fn set_freeze(
        &self,
        request: Request<api::SetFreezeRequest>,
    ) -> Result<Response<api::Freeze>, Status> {
        let actor = self.actor(&request, Act::Freeze)?;
        let request = request.into_inner();
        short("reason", &request.reason)?;
        fleet::family::check_name("freeze", &request.name)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let now = now_ms();
        let stored = store::Freeze {
            name: request.name.clone(),
            reason: request.reason.clone(),
            from_ms: if request.from_ms == 0 {
                now
            } else {
                request.from_ms
            },
            until_ms: request.until_ms,
            families: request.families.clone(),
            created_by: actor.clone(),
            created_ms: now,
        };
        control::freeze(&stored)
            .check(now)
            .map_err(|error: freeze::Error| Status::invalid_argument(error.to_string()))?;
        let key = once("freeze.set", &request.name, &request.idempotency_key);
        self.decide(&key, |documents| {
            if let Some(unknown) = stored
                .families
                .iter()
                .find(|f| !documents.families.contains_key(*f))
            {
                return Err(unknown_revision(unknown, 0));
            }
            let live = documents
                .freezes
                .values()
                .filter(|f| f.value.until_ms > now);
            if live.count() >= HELD_MAX {
                return Err(too_many("freezes", "muster freeze end"));
            }
            let before = documents.freezes.get(&stored.name);
            let mut writes = past(&documents.freezes, table::FREEZE, |f| f.until_ms);
            writes.push(put(
                table::FREEZE,
                stored.name.as_str(),
                before.map_or(0, |b| b.version),
                &stored,
            ));
            let about = match stored.families.as_slice() {
                [] => "all families".to_owned(),
                families => families.join(", "),
            };
            let detail = format!(
                "{about}, from {} until {}{}",
                time_text(stored.from_ms),
                time_text(stored.until_ms),
                because(&stored.reason)
            );
            let acts = vec![act(
                &actor,
                "freeze.set",
                format!("freeze/{}", stored.name),
                detail,
            )];
            Ok((Some(entry(writes, acts)), ()))
        })
        .await?;
        Ok(Response::new(freeze_view(&stored, now)))
    }

    async fn end_freeze(
        &self,
        request: Request<api::EndFreezeRequest>,
    ) -> Result<Response<api::Freeze>, Status> {
        let actor = self.actor(&request, Act::Freeze)?;
        let request = request.into_inner();
        let key = once("freeze.end", &request.name, &request.idempotency_key);
        let now = now_ms();
        let ended = self.decide(&key, |documents| {
            let found = documents.freezes.get(&request.name).ok_or_else(|| {
                Status::not_found(format!(
                    "there is no freeze `{}`: list them with `muster freeze list`",
                    request.name
                ))
            })?;
            let mut next = store::Freeze::clone(&found.value);
            if next.until_ms <= now {
                return Ok((None, next));
            }
            (next.from_ms, next.until_ms) = (next.from_ms.min(now), now);
            let write = put(table::FREEZE, next.name.as_str(), found.version, &next);
            let object = format!("freeze/{}", next.name);
            let acts = vec![act(&actor, "freeze.end", object, String::new())];
            Ok((Some(entry(vec![write], acts)), next))
        });
        Ok(Response::new(freeze_view(&ended.await?, now)))
    }

    async fn list_freezes(
        &self,
        request: Request<api::ListFreezesRequest>,
    ) -> Result<Response<api::ListFreezesResponse>, Status> {
        self.actor(&request, Act::Read)?;
        let (past, now) = (request.into_inner().past, now_ms());
        let mut freezes: Vec<api::Freeze> = {
            let documents = self.node.control.read();
            let all = documents
                .freezes
                .values()
                .map(|f| freeze_view(&f.value, now));
            all.filter(|f| past || f.state != "over").collect()
        };
        freezes.sort_by_key(|f| f.from_ms);
        Ok(Response::new(api::ListFreezesResponse { freezes }))
    }

    async fn set_pin(
        &self,
        request: Request<api::SetPinRequest>,
    ) -> Result<Response<api::Pin>, Status> {
        let actor = self.actor(&request, Act::Pin)?;
        let request = request.into_inner();
        short("reason", &request.reason)?;
        short("owner", &request.owner)?;
        fleet::family::check_name("pin", &request.name)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (uid, selector) = self.pin_target(&request)?;
        let key = once("pin.set", &request.name, &request.idempotency_key);
        let pinned = self.decide(&key, |documents| {
            let family = documents
                .families
                .get(&request.family)
                .ok_or_else(|| unknown_revision(&request.family, 0))?;
            let revision = match request.revision {
                0 => family.value.stable,
                number => number,
            };
            let stored = store::Pin {
                name: request.name.clone(),
                family: request.family.clone(),
                uid: uid.clone(),
                selector: selector.clone(),
                revision,
                reason: request.reason.clone(),
                owner: match request.owner.as_str() {
                    "" => actor.clone(),
                    owner => owner.to_owned(),
                },
                until_ms: request.until_ms,
                created_by: actor.clone(),
                created_ms: now_ms(),
                ended: false,
            };
            let known = (request.family.clone(), 0)..=(request.family.clone(), u64::MAX);
            let known = documents.revisions.range(known);
            let known: Vec<RevisionNumber> = known
                .map(|((_, number), _)| RevisionNumber(*number))
                .collect();
            if let Some(pin) = control::pin(&stored) {
                pin.check(now_ms(), &known)
                    .map_err(|error: pin::Error| Status::invalid_argument(error.to_string()))?;
            }
            // It is brought there at once, without waves: to what has had its approvals and its rollout.
            let ran = documents.revision(&stored.family, revision).is_some_and(|r| {
                matches!(
                    r.value.state(),
                    RevisionState::Active | RevisionState::Superseded
                )
            });
            if !stored.uid.is_empty() && !ran {
                return Err(Status::failed_precondition(format!(
                    "pin {}: revision {revision} of family {} never was active: pin an agent to one that was, or roll it out",
                    stored.name, stored.family
                )));
            }
            if !stored.uid.is_empty() && family.value.stable == 0 {
                return Err(Status::failed_precondition(format!(
                    "pin {}: family {} is deactivated, so nothing is sent to its agents: roll a revision out first",
                    stored.name, stored.family
                )));
            }
            let held = documents.pins.values().filter(|pin| !pin.value.ended);
            if held.count() >= HELD_MAX {
                return Err(too_many("pins", "muster pin remove"));
            }
            let before = documents.pins.get(&stored.name);
            let mut writes = past(&documents.pins, table::PIN, |p| p.until_ms);
            writes.push(put(
                table::PIN,
                stored.name.as_str(),
                before.map_or(0, |b| b.version),
                &stored,
            ));
            let whom = match Uid::from_wire(&uid) {
                Ok(uid) => format!("agent {uid}"),
                Err(_) => format!("agents with `{selector}`"),
            };
            let detail = format!(
                "{whom} at {} revision {revision} until {}, {} answers for it{}",
                stored.family,
                time_text(stored.until_ms),
                stored.owner,
                because(&stored.reason)
            );
            let acts = vec![act(
                &actor,
                "pin.set",
                format!("pin/{}", stored.name),
                detail,
            )];
            Ok((Some(entry(writes, acts)), stored))
        });
        Ok(Response::new(self.pin_view(&pinned.await?)))
    }

    async fn remove_pin(
        &self,
        request: Request<api::RemovePinRequest>,
    ) -> Result<Response<api::Pin>, Status> {
        let actor = self.actor(&request, Act::Pin)?;
        let request = request.into_inner();
        let key = once("pin.remove", &request.name, &request.idempotency_key);
        let removed = self.decide(&key, |documents| {
            let found = documents.pins.get(&request.name).ok_or_else(|| {
                Status::not_found(format!(
                    "there is no pin `{}`: list them with `muster pin list`",
                    request.name
                ))
            })?;
            let mut next = store::Pin::clone(&found.value);
            if next.ended {
                return Ok((None, next));
            }
            (next.ended, next.until_ms) = (true, next.until_ms.min(now_ms()));
            let write = put(table::PIN, next.name.as_str(), found.version, &next);
            let object = format!("pin/{}", next.name);
            let acts = vec![act(&actor, "pin.remove", object, String::new())];
            Ok((Some(entry(vec![write], acts)), next))
        });
        Ok(Response::new(self.pin_view(&removed.await?)))
    }

    async fn list_pins(
        &self,
        request: Request<api::ListPinsRequest>,
    ) -> Result<Response<api::ListPinsResponse>, Status> {
        self.actor(&request, Act::Read)?;
        let family = request.into_inner().family;
        let stored: Vec<_> = {
            let documents = self.node.control.read();
            let wanted = |p: &&control::Doc<store::Pin>| {
                !p.value.ended && (family.is_empty() || p.value.family == family)
            };
            let wanted = documents.pins.values().filter(wanted);
            wanted.map(|p| p.value.clone()).collect()
        };
        let pins = stored.iter().map(|p| self.pin_view(p)).collect();
        Ok(Response::new(api::ListPinsResponse { pins }))
    }
}

/// What only waits for its approvals ends by the rejection.
fn has_begun(rollout: &store::Rollout) -> bool {
    rollout.prepared && !control::rollout_state(rollout.state()).is_final()
}

fn too_many(what: &str, end: &str) -> Status {
    Status::resource_exhausted(format!(
        "there are {HELD_MAX} {what}: end one with `{end}`, or name more agents or families in one"
    ))
}

fn because(reason: &str) -> String {
    match reason {
        "" => String::new(),
        reason => format!(": {reason}"),
    }
}

/// For the audit chain: RFC 3339, to the second.
fn time_text(ms: u64) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms);
    humantime::format_rfc3339_seconds(at).to_string()
}
