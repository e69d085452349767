//! The fleet as it is.

use std::collections::BTreeMap;

use fleet::program::{Condition, Desired};
use fleet::selector::{Facts, Selector};
use proto::api::agent_service_server::AgentService;
use proto::api::{self, ChangedAgents};
use proto::edge::notice;
use proto::opamp::AgentCapabilities;
use proto::store::{self, Link};
use proto::uid::Uid;
use tonic::{Request, Response, Status};

use super::{Api, Rank, broken, not_stored, selector};
use crate::folding::fold;
use crate::inventory::Row;
use crate::ledger::{act, delete_any, entry, now_ms, put_any, table};
use crate::partition::{Partition, body, chain, desired_of, merge, place_of, state_of};

const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;
const EXAMPLES: usize = 5;
const HISTORY: usize = 100;

/// What a listing asks for.
struct Filter {
    selector: Option<Selector>,
    text: String,
    state: String,
}

impl Filter {
    fn new(selector_text: &str, text: &str, state: &str) -> Result<Self, Status> {
        Ok(Filter {
            selector: selector(selector_text)?,
            text: text.to_lowercase(),
            state: state.to_owned(),
        })
    }

    fn takes(&self, row: &Row) -> bool {
        !row.alias
            && self.selector.as_ref().is_none_or(|s| s.matches(row))
            && self.text_matches(row)
    }

    fn text_matches(&self, row: &Row) -> bool {
        let contains = |text: &str| text.to_lowercase().contains(&self.text);
        self.text.is_empty()
            || contains(&row.uid.to_string())
            || row.facts().any(|(k, v)| contains(v) || contains(k))
            || contains(&row.config_error)
            || contains(&row.health_error)
    }

    fn state_matches(&self, row: &Row, state: &str) -> bool {
        match self.state.as_str() {
            "" => true,
            "connected" => row.link == Link::Connected,
            "lost" => row.link == Link::Lost,
            "left" => row.link == Link::Left,
            "healthy" => row.healthy,
            "unhealthy" => !row.healthy,
            other => state == other,
        }
    }
}

/// Without the time since it was heard, which is the core's to know.
fn view(row: &Row, desired: &Desired) -> api::Agent {
    let fact = |key: &str| row.get(key).unwrap_or("").to_owned();
    let delivery = row.delivery.as_ref();
    let failed = delivery
        .filter(|d| !d.error.is_empty())
        .map(|d| d.error.to_string());
    let error = failed.unwrap_or_else(|| {
        if row.healthy {
            row.config_error.to_string()
        } else {
            row.health_error.to_string()
        }
    });
    let mut conditions: Vec<String> = desired.conditions.iter().map(condition).collect();
    if row.duplicate {
        conditions.push("duplicate uid".to_owned());
    }
    if !row.can(AgentCapabilities::ReportsRemoteConfig)
        && row.can(AgentCapabilities::AcceptsRemoteConfig)
    {
        conditions.push("unverifiable: it reports no config status".to_owned());
    }
    if row.many_collectors() {
        conditions.push("many collectors: shown, never configured".to_owned());
    }
    api::Agent {
        uid: row.uid.to_string(),
        name: row.name(),
        version: fact("service.version"),
        service: fact("service.name"),
        os: fact("os.type"),
        arch: fact("host.arch"),
        link: link_word(row.link).to_owned(),
        healthy: row.healthy,
        health_status: row.health_status.to_string(),
        error,
        state: state_of(row, desired).to_owned(),
        family: delivery.map(|d| d.family.to_string()).unwrap_or_default(),
        role: delivery.map(|d| d.role.to_string()).unwrap_or_default(),
        revision: delivery.map_or(0, |d| d.revision),
        delivery_hash: delivery.map(|d| d.hash.to_hex()).unwrap_or_default(),
        reported_hash: row
            .reported
            .map(|(hash, _)| hash.to_hex())
            .unwrap_or_default(),
        transport: if row.websocket { "websocket" } else { "http" }.to_owned(),
        last_seen_ms_ago: 0,
        conditions,
        labels: BTreeMap::new(),
    }
}

fn link_word(link: Link) -> &'static str {
    match link {
        Link::Connected => "connected",
        Link::Lost | Link::Unspecified => "lost",
        Link::Left => "left",
    }
}

fn condition(condition: &Condition) -> String {
    match condition {
        Condition::Shadowed { family } => format!("shadowed: family {family} claims it too"),
        Condition::OwnerChanging {
            claimed_by: Some(by),
        } => format!("owner changing: claimed by {by}"),
        Condition::OwnerChanging { claimed_by: None } => {
            "owner changing: nobody claims it any more".to_owned()
        }
        Condition::AmbiguousRole { family, roles } => format!(
            "ambiguous role: matches {} of {family}",
            roles.join(" and ")
        ),
        Condition::Relabelled { rollout } => {
            format!("relabelled: listed by rollout {rollout}, matches its role no more")
        }
    }
}

impl Api {
    /// Every matching agent of every partition.
    fn matching(&self, filter: &Filter) -> Vec<api::Agent> {
        let mut agents = Vec::new();
        for partition in self.node.partitions.iter() {
            let program = partition.program();
            let mut found: Vec<(Uid, api::Agent)> = Vec::new();
            {
                let columns = partition.index().read();
                for row in columns.rows.values().filter(|row| filter.takes(row)) {
                    let place = place_of(&columns, &program, row.uid);
                    let desired = desired_of(
                        row,
                        place.as_ref().map(crate::partition::OwnedPlace::borrow),
                        &program,
                    );
                    if filter.state_matches(row, state_of(row, &desired)) {
                        found.push((row.uid, view(row, &desired)));
                    }
                }
            }
            let uids: Vec<Uid> = found.iter().map(|(uid, _)| *uid).collect();
            let aged = found.into_iter().zip(partition.ages_ms(&uids));
            agents.extend(aged.map(|((_, agent), age)| api::Agent {
                last_seen_ms_ago: age,
                ..agent
            }));
        }
        agents
    }

    fn chosen(&self, uids: &[String], selector_text: &str) -> Result<Vec<Uid>, Status> {
        if uids.is_empty() && selector_text.trim().is_empty() {
            return Err(Status::invalid_argument(
                "no agents are named: give uids, or a selector (`*` for all)",
            ));
        }
        if !uids.is_empty() {
            return uids.iter().map(|uid| self.find(uid)).collect();
        }
        let filter = Filter::new(selector_text, "", "")?;
        let rows = self.node.partitions.iter().flat_map(|partition| {
            let columns = partition.index().read();
            columns
                .rows
                .values()
                .filter(|row| filter.takes(row))
                .map(|row| row.uid)
                .collect::<Vec<_>>()
        });
        Ok(rows.collect())
    }

    /// Changes each of these agents; `Err` from the closure names why one is left as it is.
    async fn change_each(
        &self,
        uids: Vec<Uid>,
        acts: impl Fn(Uid) -> Vec<store::Act>,
        change: impl Fn(&mut store::Agent) -> Result<Option<store::Transition>, String>,
    ) -> Result<ChangedAgents, Status> {
        let mut answer = ChangedAgents::default();
        for uid in uids {
            let partition = self.node.partition(uid);
            let stored = partition
                .agent(uid)
                .map_err(|error| Status::internal(chain(&error)))?;
            let Some((_, mut agent)) = stored else {
                answer
                    .refused
                    .push(format!("{uid}: there is no such agent"));
                continue;
            };
            if let Err(why) = change(&mut agent) {
                answer.refused.push(format!("{uid}: {why}"));
                continue;
            }
            let changed = partition
                .change_with(uid, acts(uid), |agent| change(agent).ok().flatten())
                .await;
            match changed {
                Ok(true) => answer.changed += 1,
                Ok(false) => {}
                Err(error) => answer.refused.push(format!("{uid}: {}", chain(&error))),
            }
        }
        Ok(answer)
    }

    fn body_text(&self, partition: &Partition, digest: &[u8]) -> Result<Option<Vec<u8>>, Status> {
        if digest.is_empty() {
            return Ok(None);
        }
        let kept: Option<(u64, store::Body)> = partition
            .ledger
            .view()
            .and_then(|view| view.get(table::BODY, digest))
            .map_err(|e| broken(&e))?;
        Ok(kept.and_then(|(_, kept)| body::open(&kept)))
    }

    fn history(&self, uid: Uid, limit: usize) -> Result<Vec<api::Transition>, Status> {
        let view = self
            .node
            .partition(uid)
            .ledger
            .view()
            .map_err(|e| broken(&e))?;
        let rows: Result<Vec<_>, _> = view
            .scan::<store::Transition>(table::HISTORY, uid.as_bytes())
            .collect();
        let mut transitions: Vec<api::Transition> = rows
            .map_err(|e| broken(&e))?
            .into_iter()
            .map(|(_, _, t)| api::Transition {
                at_ms: t.at_ms,
                kind: t.kind,
                from: t.from,
                to: t.to,
                detail: t.detail,
            })
            .collect();
        transitions.reverse();
        transitions.truncate(limit);
        Ok(transitions)
    }

    fn detail(&self, uid: Uid, agent: &store::Agent) -> Result<api::AgentDetail, Status> {
        let partition = self.node.partition(uid);
        let program = partition.program();
        let (shown, claims) = {
            let columns = partition.index().read();
            let row = columns
                .rows
                .get(&uid)
                .ok_or_else(|| Status::not_found(format!("there is no agent {uid}")))?;
            let place = place_of(&columns, &program, uid);
            let desired = desired_of(
                row,
                place.as_ref().map(crate::partition::OwnedPlace::borrow),
                &program,
            );
            let claims = program
                .claims(row)
                .into_iter()
                .map(|c| format!("{}: {}", c.family, c.roles.join(", ")))
                .collect();
            (view(row, &desired), claims)
        };
        let age = partition.ages_ms(&[uid]).first().copied().unwrap_or(0);
        let shown = api::Agent {
            last_seen_ms_ago: age,
            ..shown
        };
        let mut detail = api::AgentDetail {
            agent: Some(shown),
            claims,
            ..api::AgentDetail::default()
        };
        let attribute = |a: &store::Attribute| api::KeyValue {
            key: a.key.clone(),
            value: a.value.clone(),
            identifying: a.identifying,
        };
        detail.attributes = agent.attributes.iter().map(attribute).collect();
        detail.operator_labels.clone_from(&agent.operator_labels);
        detail.token_labels.clone_from(&agent.token_labels);
        detail.token.clone_from(&agent.token);
        detail.capabilities = capabilities(agent.capabilities);
        detail.status = agent.status.as_ref().map(|s| api::ConfigStatus {
            hash: hex::encode(&s.hash),
            state: s
                .state()
                .as_str_name()
                .trim_start_matches("CONFIG_STATE_")
                .to_lowercase(),
            error: s.error.clone(),
            since_ms: s.since_ms,
        });
        detail.delivery = agent.delivery.as_ref().map(delivery);
        let refusal = |r: &store::Refusal| api::Refusal {
            hash: hex::encode(&r.hash),
            why: r.why.clone(),
            at_ms: r.at_ms,
        };
        detail.refused = agent.refused.iter().map(refusal).collect();
        detail.peer.clone_from(&agent.peer);
        detail.first_seen_ms = agent.first_seen_ms;
        detail.number = agent.number;
        self.bodies(partition, agent, &mut detail)?;
        detail.history = self.history(uid, 20)?;
        Ok(detail)
    }

    fn bodies(
        &self,
        partition: &Partition,
        agent: &store::Agent,
        detail: &mut api::AgentDetail,
    ) -> Result<(), Status> {
        if let Some(health) = &agent.health {
            let tree = self.body_text(partition, &health.tree)?;
            let tree = tree.and_then(|bytes| {
                <proto::opamp::ComponentHealth as prost::Message>::decode(bytes.as_slice()).ok()
            });
            let mut root = tree.map(|tree| component("", &tree)).unwrap_or_default();
            root.healthy = health.healthy;
            root.status.clone_from(&health.status);
            root.last_error.clone_from(&health.last_error);
            root.started_ms = health.started_unix_nano / 1_000_000;
            detail.health = Some(root);
        }
        for file in agent.effective.iter().flat_map(|e| &e.files) {
            let kept = self
                .body_text(partition, &file.body)?
                .and_then(|bytes| String::from_utf8(bytes).ok());
            let text = kept
                .map(|shared| body::restore(shared, &file.substitutions))
                .unwrap_or_default();
            let file = api::ConfigFile {
                name: file.name.clone(),
                body: text,
                note: file.dropped.clone(),
                content_type: "text/yaml".to_owned(),
            };
            detail.effective.push(file);
        }
        if let Some(d) = &agent.delivery {
            let documents = self.node.control.read();
            let role = documents
                .revision(&d.family, d.revision)
                .filter(|_| d.revision != 0);
            let role = role.and_then(|r| r.value.roles.iter().find(|r| r.name == d.role).cloned());
            let files = role.into_iter().flat_map(|r| r.config);
            detail.delivered = files
                .map(|(name, f)| api::ConfigFile {
                    name,
                    body: f.body,
                    content_type: f.content_type,
                    note: String::new(),
                })
                .collect();
        }
        if let Some(list) = &agent.components {
            let address = partition
                .index()
                .read()
                .components
                .get(list.hash.as_slice())
                .copied();
            let bytes = self.body_text(
                partition,
                address.as_ref().map_or(&list.body, |a| a.as_slice()),
            )?;
            let list = bytes.and_then(|b| {
                <proto::opamp::AvailableComponents as prost::Message>::decode(b.as_slice()).ok()
            });
            let kind =
                |(kind, details): (String, proto::opamp::ComponentDetails)| api::ComponentKind {
                    kind,
                    components: details.sub_component_map.into_keys().collect(),
                };
            detail.components = list
                .into_iter()
                .flat_map(|l| l.components)
                .map(kind)
                .collect();
        }
        Ok(())
    }
}

fn component(name: &str, health: &proto::opamp::ComponentHealth) -> api::Health {
    api::Health {
        name: name.to_owned(),
        healthy: health.healthy,
        status: health.status.clone(),
        last_error: health.last_error.clone(),
        started_ms: health.start_time_unix_nano / 1_000_000,
        components: health
            .component_health_map
            .iter()
            .map(|(name, health)| component(name, health))
            .collect(),
    }
}

fn delivery(d: &store::Delivery) -> api::Delivery {
    api::Delivery {
        hash: hex::encode(&d.hash),
        state: d
            .state()
            .as_str_name()
            .trim_start_matches("DELIVERY_STATE_")
            .to_lowercase()
            .replace('_', " "),
        family: d.family.clone(),
        role: d.role.clone(),
        revision: d.revision,
        rollout: d.rollout.clone(),
        offered_ms: d.offered_ms,
        answered_ms: d.answered_ms,
        offers: d.offers,
        error: d.error.clone(),
        effective: match d.effective() {
            store::Match::Unknown => "cannot be compared",
            store::Match::Yes => "agrees with what was sent",
            store::Match::No => "differs from what was sent",
        }
        .to_owned(),
    }
}

fn capabilities(mask: u64) -> Vec<String> {
    let known = (0..64).filter(|bit| mask & (1 << bit) != 0).map(|bit| {
        let name = i32::try_from(1u64 << bit)
            .ok()
            .and_then(|value| AgentCapabilities::try_from(value).ok());
        name.map_or_else(
            || format!("bit {bit}"),
            |c| {
                c.as_str_name()
                    .trim_start_matches("AgentCapabilities_")
                    .to_owned()
            },
        )
    });
    known.collect()
}

#[tonic::async_trait]
impl AgentService for Api {
    async fn list_agents(
        &self,
        request: Request<api::ListAgentsRequest>,
    ) -> Result<Response<api::ListAgentsResponse>, Status> {
        self.actor(&request, Rank::Viewer)?;
        let request = request.into_inner();
        let filter = Filter::new(&request.selector, &request.text, &request.state)?;
        let mut agents = self.matching(&filter);
        if !request.rollout.is_empty() {
            let members = self.bucketed(&request.rollout, &request.bucket.replace('_', " "))?;
            agents.retain(|agent| {
                agent
                    .uid
                    .parse()
                    .is_ok_and(|uid: Uid| members.contains(&uid))
            });
        }
        sort(&mut agents, &request.sort);
        let total = agents.len() as u64;
        let from = if request.page_token.is_empty() {
            0
        } else {
            let bad = |_| {
                Status::invalid_argument(format!(
                    "page_token `{}` is none of this server's",
                    request.page_token
                ))
            };
            request.page_token.parse::<usize>().map_err(bad)?
        };
        let size = if request.page_size == 0 {
            PAGE
        } else {
            (request.page_size as usize).min(PAGE_MAX)
        };
        let page: Vec<_> = agents.into_iter().skip(from).take(size).collect();
        let next = from + page.len();
        let next_page_token = if (next as u64) < total {
            next.to_string()
        } else {
            String::new()
        };
        Ok(Response::new(api::ListAgentsResponse {
            agents: page,
            next_page_token,
            total,
            unreadable_partitions: 0,
        }))
    }

    async fn group_agents(
        &self,
        request: Request<api::GroupAgentsRequest>,
    ) -> Result<Response<api::GroupAgentsResponse>, Status> {
        self.actor(&request, Rank::Viewer)?;
        let request = request.into_inner();
        if request.by.is_empty() {
            return Err(Status::invalid_argument(
                "no key to group by: give an attribute, a label, or state, link, family, role, revision",
            ));
        }
        let filter = Filter::new(&request.selector, &request.text, &request.state)?;
        let mut groups: BTreeMap<String, api::group_agents_response::Group> = BTreeMap::new();
        let mut total = 0;
        for partition in self.node.partitions.iter() {
            let program = partition.program();
            let columns = partition.index().read();
            for row in columns.rows.values().filter(|row| filter.takes(row)) {
                let place = place_of(&columns, &program, row.uid);
                let desired = desired_of(
                    row,
                    place.as_ref().map(crate::partition::OwnedPlace::borrow),
                    &program,
                );
                let state = state_of(row, &desired);
                if !filter.state_matches(row, state) {
                    continue;
                }
                let delivery = row.delivery.as_ref();
                let value = match request.by.as_str() {
                    "state" => state.to_owned(),
                    "link" => link_word(row.link).to_owned(),
                    "family" => delivery.map(|d| d.family.to_string()).unwrap_or_default(),
                    "revision" => delivery
                        .map(|d| format!("{} r{}", d.family, d.revision))
                        .unwrap_or_default(),
                    key => row.get(key).unwrap_or("").to_owned(),
                };
                let group = groups.entry(value.clone()).or_insert_with(|| {
                    api::group_agents_response::Group {
                        value,
                        ..Default::default()
                    }
                });
                group.agents += 1;
                group.connected += u64::from(row.link == Link::Connected);
                group.healthy += u64::from(row.healthy);
                total += 1;
            }
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.agents));
        Ok(Response::new(api::GroupAgentsResponse { groups, total }))
    }

    async fn get_agent(
        &self,
        request: Request<api::GetAgentRequest>,
    ) -> Result<Response<api::AgentDetail>, Status> {
        self.actor(&request, Rank::Viewer)?;
        let uid = self.find(&request.into_inner().uid)?;
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
        Ok(Response::new(self.detail(uid, &agent)?))
    }

    async fn agent_history(
        &self,
        request: Request<api::AgentHistoryRequest>,
    ) -> Result<Response<api::AgentHistoryResponse>, Status> {
        self.actor(&request, Rank::Viewer)?;
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

    async fn list_errors(
        &self,
        request: Request<api::ListErrorsRequest>,
    ) -> Result<Response<api::ListErrorsResponse>, Status> {
        self.actor(&request, Rank::Viewer)?;
        let filter = Filter::new(&request.into_inner().selector, "", "")?;
        let mut groups: BTreeMap<String, api::list_errors_response::Group> = BTreeMap::new();
        for agent in self
            .matching(&filter)
            .into_iter()
            .filter(|agent| !agent.error.is_empty())
        {
            let error = fold(&agent.error);
            let group =
                groups
                    .entry(error.clone())
                    .or_insert_with(|| api::list_errors_response::Group {
                        error,
                        example_text: agent.error.clone(),
                        ..Default::default()
                    });
            group.agents += 1;
            if group.examples.len() < EXAMPLES {
                group.examples.push(agent.uid);
            }
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.agents));
        Ok(Response::new(api::ListErrorsResponse { groups }))
    }

    async fn label_agents(
        &self,
        request: Request<api::LabelAgentsRequest>,
    ) -> Result<Response<ChangedAgents>, Status> {
        let actor = self.actor(&request, Rank::Editor)?;
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
        let labelled = uids.clone();
        let set: Vec<String> = request
            .set
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        let removed: Vec<String> = request.remove.iter().map(|k| format!("{k}-")).collect();
        let text = [set, removed].concat().join(" ");
        let acts = |uid: Uid| {
            vec![act(
                &actor,
                "agent.label",
                format!("agent/{uid}"),
                text.clone(),
            )]
        };
        let changed = self
            .change_each(uids, acts, |agent| {
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
            })
            .await?;
        // An agent that nobody owned may have come under a family's claim.
        for uid in labelled {
            self.node.partition(uid).tell(uid, notice::Kind::Pending);
        }
        Ok(Response::new(changed))
    }

    async fn restart_agents(
        &self,
        request: Request<api::RestartAgentsRequest>,
    ) -> Result<Response<ChangedAgents>, Status> {
        let actor = self.actor(&request, Rank::Approver)?;
        let request = request.into_inner();
        let uids = self.chosen(&request.uids, &request.selector)?;
        let acts = |uid: Uid| {
            vec![act(
                &actor,
                "agent.restart",
                format!("agent/{uid}"),
                String::new(),
            )]
        };
        let changed = self
            .change_each(uids.clone(), acts, |agent| {
                if agent.capabilities & AgentCapabilities::AcceptsRestartCommand as u64 == 0 {
                    return Err("it does not accept restart commands: set accepts_restart_command in its supervisor".to_owned());
                }
                let already = std::mem::replace(&mut agent.restart_pending, true);
                Ok((!already).then(|| merge::transition(now_ms(), "restart ordered", "", "", &actor)))
            })
            .await?;
        for uid in uids {
            self.node.partition(uid).tell(uid, notice::Kind::Pending);
        }
        Ok(Response::new(changed))
    }

    async fn forget_agent(
        &self,
        request: Request<api::ForgetAgentRequest>,
    ) -> Result<Response<ChangedAgents>, Status> {
        let actor = self.actor(&request, Rank::Editor)?;
        let request = request.into_inner();
        let uid = self.find(&request.uid)?;
        let partition = self.node.partition(uid);
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
        let acts = vec![act(
            &actor,
            "agent.forget",
            format!("agent/{uid}"),
            String::new(),
        )];
        let entry = store::Entry {
            idempotency_key: request.idempotency_key,
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
            refused: vec![],
        }))
    }

    async fn retry_agents(
        &self,
        request: Request<api::RetryAgentsRequest>,
    ) -> Result<Response<ChangedAgents>, Status> {
        let actor = self.actor(&request, Rank::Approver)?;
        let request = request.into_inner();
        let uids = self.chosen(&request.uids, &request.selector)?;
        let acts = |uid: Uid| {
            vec![act(
                &actor,
                "agent.retry",
                format!("agent/{uid}"),
                String::new(),
            )]
        };
        let changed = self
            .change_each(uids.clone(), acts, |agent| {
                let refusals = agent.refused.len() + usize::from(agent.duplicate);
                agent.refused.clear();
                agent.duplicate = false;
                agent.reassigned_to.clear();
                let open = agent.delivery.as_ref().is_some_and(|d| {
                    use store::DeliveryState::{Failed, NoAnswer, RolledBackByAgent};
                    matches!(d.state(), Failed | NoAnswer | RolledBackByAgent)
                });
                if let Some(delivery) = agent.delivery.as_mut().filter(|_| open) {
                    delivery.state = store::DeliveryState::Withdrawn.into();
                    delivery.offers = 0;
                }
                Ok((refusals > 0 || open)
                    .then(|| merge::transition(now_ms(), "retry ordered", "", "", &actor)))
            })
            .await?;
        for uid in uids {
            self.node.partition(uid).tell(uid, notice::Kind::Pending);
        }
        Ok(Response::new(changed))
    }
}

fn sort(agents: &mut [api::Agent], by: &str) {
    let (key, descending) = by.strip_prefix('-').map_or((by, false), |key| (key, true));
    agents.sort_by(|a, b| {
        let order = match key {
            "version" => a.version.cmp(&b.version),
            "state" => a.state.cmp(&b.state),
            "link" => a.link.cmp(&b.link),
            "family" => (&a.family, &a.role, a.revision).cmp(&(&b.family, &b.role, b.revision)),
            "health" => a.healthy.cmp(&b.healthy),
            "seen" => a.last_seen_ms_ago.cmp(&b.last_seen_ms_ago),
            _ => a.name.cmp(&b.name),
        };
        let order = if descending { order.reverse() } else { order };
        order.then_with(|| a.uid.cmp(&b.uid))
    });
}
