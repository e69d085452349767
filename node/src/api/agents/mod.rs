//! The fleet as it is: questions about it, and what a person may do to an agent.

mod drifted;
mod moment;
mod owner;
mod query;
mod show;

use std::collections::BTreeMap;

use fleet::governance::actor::Act;
use futures::StreamExt;
use proto::api::agent_service_server::AgentService;
use proto::api::{self, ChangedAgents};
use proto::edge::notice;
use proto::opamp::AgentCapabilities;
use proto::store;
use proto::uid::Uid;
use tonic::{Request, Response, Status};

use super::{Api, broken, not_stored, short};
use crate::ledger::{act, delete_any, entry, now_ms, once, put_any, table};
use crate::partition::{Decided, chain, history_key, merge};

const HISTORY: usize = 100;

/// Changes of agents that one call has under way.
const CHANGES: usize = 256;

const NOT_OURS_TO_STOP: &str =
    "nothing was ever delivered to it: stop it where it runs, or let a family claim it first";

const NO_RESTARTS: &str =
    "it does not accept restart commands: set accepts_restart_command in its supervisor";

/// A person's order to agents, for the audit chain.
struct Order<'a> {
    actor: &'a str,
    action: &'a str,
    detail: &'a str,
    /// Of the call; empty: none.
    key: &'a str,
}

/// What an order makes of an agent.
struct Change {
    transition: store::Transition,
    /// For the audit chain.
    detail: String,
    /// For who gave the order; empty: that it is changed.
    words: String,
}

/// Why an agent is left as it is.
struct Left(String);

impl From<crate::partition::Error> for Left {
    fn from(error: crate::partition::Error) -> Self {
        Left(chain(&error))
    }
}

impl From<raft::Fatal> for Left {
    fn from(error: raft::Fatal) -> Self {
        Left(chain(&error))
    }
}

impl Api {
    /// Changes each of these agents, once for each key, and has their gateways ask what follows; `Err` from the
    /// closure names why one is left as it is.
    async fn change_each(
        &self,
        uids: &[Uid],
        order: Order<'_>,
        change: impl Fn(&mut store::Agent) -> Result<Option<store::Transition>, String>,
    ) -> ChangedAgents {
        let detail = order.detail;
        self.decide_each(uids, order, |_, agent| {
            Ok(change(agent)?.map(|transition| Change {
                transition,
                detail: detail.to_owned(),
                words: String::new(),
            }))
        })
        .await
    }

    /// As [`Api::change_each`], where each agent's own record decides what is said of it.
    async fn decide_each(
        &self,
        uids: &[Uid],
        order: Order<'_>,
        decide: impl Fn(Uid, &mut store::Agent) -> Result<Option<Change>, String>,
    ) -> ChangedAgents {
        let Order {
            actor, action, key, ..
        } = order;
        let mut answer = ChangedAgents::default();
        let one = async |uid: Uid| -> Result<Option<String>, Left> {
            let partition = self.node.partition(uid);
            let key = once(action, &uid.to_string(), key);
            if partition.ledger.has_done(&key)? {
                return Ok(Some(String::new()));
            }
            let stored = partition.agent(uid)?;
            stored.ok_or_else(|| Left("there is no such agent".to_owned()))?;
            let decide = |agent: &mut store::Agent| {
                let decided = decide(uid, agent).map_err(Left)?;
                Ok(decided.map(|change| Decided {
                    transition: change.transition,
                    acts: vec![act(actor, action, format!("agent/{uid}"), change.detail)],
                    said: change.words,
                }))
            };
            partition.decide(uid, key, decide).await
        };
        // Many at a time, so that they share their fsyncs; told in the order of the request.
        let mut changes = futures::stream::iter(uids.to_vec())
            .map(one)
            .buffered(CHANGES);
        let mut told = uids.iter();
        let mut words: BTreeMap<String, u64> = BTreeMap::new();
        while let (Some(changed), Some(uid)) = (changes.next().await, told.next()) {
            match changed {
                Ok(None) => {}
                Ok(Some(said)) => {
                    answer.changed += 1;
                    *words.entry(said).or_default() += 1;
                }
                Err(Left(why)) => answer.refused.push(format!("{uid}: {why}")),
            }
        }
        let words = words.into_iter().filter(|(what, _)| !what.is_empty());
        answer.decided = words
            .map(|(what, agents)| api::Decided { what, agents })
            .collect();
        for uid in uids {
            self.node.partition(*uid).tell(*uid, notice::Kind::Pending);
        }
        answer
    }
}

#[tonic::async_trait]
impl AgentService for Api {
    async fn list_agents(
        &self,
        request: Request<api::ListAgentsRequest>,
    ) -> Result<Response<api::ListAgentsResponse>, Status> {
        self.actor(&request, Act::Read)?;
        Ok(Response::new(self.page(request.get_ref())?))
    }

    async fn group_agents(
        &self,
        request: Request<api::GroupAgentsRequest>,
    ) -> Result<Response<api::GroupAgentsResponse>, Status> {
        self.actor(&request, Act::Read)?;
        Ok(Response::new(self.groups(request.get_ref())?))
    }

    async fn list_errors(
        &self,
        request: Request<api::ListErrorsRequest>,
    ) -> Result<Response<api::ListErrorsResponse>, Status> {
        self.actor(&request, Act::Read)?;
        Ok(Response::new(self.errors(&request.get_ref().selector)?))
    }

    async fn get_agent(
        &self,
        request: Request<api::GetAgentRequest>,
    ) -> Result<Response<api::AgentDetail>, Status> {
        self.actor(&request, Act::Read)?;
        let request = request.into_inner();
        let uid = self.find(&request.uid)?;
        let stored = self
            .node
            .partition(uid)
            .agent(uid)
            .map_err(|error| Status::internal(chain(&error)))?;
        let (_, agent) = stored.ok_or_else(|| {
            Status::not_found(format!(
                "there is no agent {uid}: list them with `muster agents list`"
            ))
        })?;
        let mut detail = self.detail(uid, &agent)?;
        if !request.why.is_empty() {
            detail.why = self.why(uid, &request.why)?;
        }
        Ok(Response::new(detail))
    }

    async fn agent_history(
        &self,
        request: Request<api::AgentHistoryRequest>,
    ) -> Result<Response<api::AgentHistoryResponse>, Status> {
        self.actor(&request, Act::Read)?;
        let request = request.into_inner();
        let uid = self.find(&request.uid)?;
        let limit = if request.limit == 0 {
            HISTORY
        } else {
            request.limit as usize
        };
        Ok(Response::new(api::AgentHistoryResponse {
            uid: uid.to_string(),
            transitions: self.history(uid, limit)?,
        }))
    }

    async fn label_agents(
        &self,
        request: Request<api::LabelAgentsRequest>,
    ) -> Result<Response<ChangedAgents>, Status> {
        let actor = self.actor(&request, Act::ManageAgents)?;
        let request = request.into_inner();
        if request.set.is_empty() && request.remove.is_empty() {
            return Err(Status::invalid_argument(
                "no label is set or removed: give KEY=VALUE to set and KEY- to remove",
            ));
        }
        let long = request
            .set
            .iter()
            .find(|(k, v)| k.is_empty() || k.len() > 128 || v.len() > 256);
        if let Some((key, _)) = long {
            return Err(Status::invalid_argument(format!(
                "label `{key}` is too long: keys have 1 to 128 bytes, values up to 256"
            )));
        }
        let uids = self.chosen(&request.uids, &request.selector)?;
        let set: Vec<String> = request
            .set
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        let removed: Vec<String> = request.remove.iter().map(|k| format!("{k}-")).collect();
        let text = [set, removed].concat().join(" ");
        let changed = self
            .change_each(
                &uids,
                Order {
                    actor: &actor,
                    action: "agent.label",
                    detail: &text,
                    key: &request.idempotency_key,
                },
                |agent| {
                    let before = agent.operator_labels.clone();
                    agent.operator_labels.extend(request.set.clone());
                    agent
                        .operator_labels
                        .retain(|key, _| !request.remove.contains(key));
                    if agent.operator_labels.len() > 64 {
                        return Err("it would have more than 64 labels".to_owned());
                    }
                    let same = agent.operator_labels == before;
                    Ok((!same).then(|| merge::transition(now_ms(), "labelled", "", &text, &actor)))
                },
            )
            .await;
        Ok(Response::new(changed))
    }

    async fn restart_agents(
        &self,
        request: Request<api::RestartAgentsRequest>,
    ) -> Result<Response<ChangedAgents>, Status> {
        let actor = self.actor(&request, Act::ManageAgents)?;
        let request = request.into_inner();
        let uids = self.chosen(&request.uids, &request.selector)?;
        let changed = self
            .change_each(
                &uids,
                Order {
                    actor: &actor,
                    action: "agent.restart",
                    detail: "",
                    key: &request.idempotency_key,
                },
                |agent| {
                    if agent.capabilities & AgentCapabilities::AcceptsRestartCommand as u64 == 0 {
                        return Err(NO_RESTARTS.to_owned());
                    }
                    let already = std::mem::replace(&mut agent.restart_pending, true);
                    Ok((!already)
                        .then(|| merge::transition(now_ms(), "restart ordered", "", "", &actor)))
                },
            )
            .await;
        Ok(Response::new(changed))
    }

    async fn forget_agent(
        &self,
        request: Request<api::ForgetAgentRequest>,
    ) -> Result<Response<ChangedAgents>, Status> {
        let actor = self.actor(&request, Act::ManageAgents)?;
        let request = request.into_inner();
        let uid = self.find(&request.uid)?;
        let partition = self.node.partition(uid);
        let key = once("agent.forget", &uid.to_string(), &request.idempotency_key);
        if partition
            .ledger
            .has_done(&key)
            .map_err(|error| broken(&error))?
        {
            return Ok(Response::new(ChangedAgents {
                changed: 1,
                ..ChangedAgents::default()
            }));
        }
        let stored = partition
            .agent(uid)
            .map_err(|error| Status::internal(chain(&error)))?;
        let (version, agent) =
            stored.ok_or_else(|| Status::not_found(format!("there is no agent {uid}")))?;
        let mut writes = vec![crate::ledger::delete(
            table::AGENT,
            *uid.as_bytes(),
            version,
        )];
        if agent.refused.is_empty() {
            writes.push(delete_any(table::TOMBSTONE, *uid.as_bytes()));
        } else {
            let tombstone = store::Agent {
                uid: agent.uid,
                refused: agent.refused,
                last_seen_ms: now_ms(),
                ..store::Agent::default()
            };
            writes.push(put_any(table::TOMBSTONE, *uid.as_bytes(), &tombstone));
        }
        let at_ms = now_ms();
        writes.push(put_any(
            table::HISTORY,
            history_key(uid, at_ms, version, 0),
            &merge::transition(at_ms, "forgotten", "", "", &actor),
        ));
        let acts = vec![act(
            &actor,
            "agent.forget",
            format!("agent/{uid}"),
            String::new(),
        )];
        let entry = store::Entry {
            idempotency_key: key,
            ..entry(writes, acts)
        };
        partition
            .ledger
            .propose(entry)
            .await
            .map_err(|e| not_stored(&e))?;
        partition.forget(uid);
        Ok(Response::new(ChangedAgents {
            changed: 1,
            ..ChangedAgents::default()
        }))
    }

    async fn retry_agents(
        &self,
        request: Request<api::RetryAgentsRequest>,
    ) -> Result<Response<ChangedAgents>, Status> {
        let actor = self.actor(&request, Act::ManageAgents)?;
        let request = request.into_inner();
        let uids = self.chosen(&request.uids, &request.selector)?;
        let changed = self
            .change_each(
                &uids,
                Order {
                    actor: &actor,
                    action: "agent.retry",
                    detail: "",
                    key: &request.idempotency_key,
                },
                |agent| {
                    let refusals = agent.refused.len() + usize::from(agent.duplicate);
                    agent.refused.clear();
                    agent.duplicate = false;
                    agent.reassigned_to.clear();
                    // A conflict is resolved: it gets what it should run, whatever it runs now.
                    let conflict = !std::mem::take(&mut agent.conflict).is_empty();
                    let open = agent.delivery.as_ref().is_some_and(|d| {
                        use store::DeliveryState::{Failed, NoAnswer, RolledBackByAgent};
                        // Who has fallen silent after its offer stays a failure until it is heard.
                        let silent = agent.link() != store::Link::Connected;
                        matches!(d.state(), Failed | RolledBackByAgent)
                            || d.state() == NoAnswer && !silent
                    });
                    if let Some(delivery) = agent.delivery.as_mut().filter(|_| open || conflict) {
                        delivery.state = store::DeliveryState::Withdrawn.into();
                        delivery.offers = 0;
                    }
                    Ok((refusals > 0 || open || conflict)
                        .then(|| merge::transition(now_ms(), "retry ordered", "", "", &actor)))
                },
            )
            .await;
        Ok(Response::new(changed))
    }

    async fn resolve_owner(
        &self,
        request: Request<api::ResolveOwnerRequest>,
    ) -> Result<Response<ChangedAgents>, Status> {
        let actor = self.actor(&request, Act::ManageAgents)?;
        let request = request.into_inner();
        short("reason", &request.reason)?;
        Ok(Response::new(self.resolve(&request, &actor).await?))
    }

    async fn stop_collectors(
        &self,
        request: Request<api::StopCollectorsRequest>,
    ) -> Result<Response<ChangedAgents>, Status> {
        let actor = self.actor(&request, Act::StopCollectors)?;
        let request = request.into_inner();
        short("reason", &request.reason)?;
        if request.reason.trim().is_empty() && !request.start {
            return Err(Status::invalid_argument(
                "stopping collectors needs a reason: nothing is collected there until they are started again",
            ));
        }
        let uids = self.chosen(&request.uids, &request.selector)?;
        let (action, word) = match request.start {
            true => ("agent.start", "start ordered"),
            false => ("agent.stop", "stop ordered"),
        };
        let order = Order {
            actor: &actor,
            action,
            detail: &request.reason,
            key: &request.idempotency_key,
        };
        let changed = self
            .change_each(&uids, order, |agent| {
                if agent.delivery.is_none() && !request.start {
                    return Err(NOT_OURS_TO_STOP.to_owned());
                }
                let before = std::mem::replace(&mut agent.stopped, !request.start);
                Ok((before == request.start)
                    .then(|| merge::transition(now_ms(), word, "", "", &actor)))
            })
            .await;
        Ok(Response::new(changed))
    }

    async fn agents_at(
        &self,
        request: Request<api::AgentsAtRequest>,
    ) -> Result<Response<api::AgentsAtResponse>, Status> {
        self.actor(&request, Act::Read)?;
        let api = self.clone();
        let request = request.into_inner();
        // Reads the history of many agents: not on a thread that answers agents.
        let found = tokio::task::spawn_blocking(move || api.moment(&request)).await;
        let found = found.map_err(|error| Status::internal(chain(&error)))?;
        Ok(Response::new(found?))
    }
}
