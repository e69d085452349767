//! An agent as people see it: one line of a list, and everything there is to know of it.

use fleet::program::{Condition, Desired};
use fleet::selector::Facts;
use proto::api;
use proto::opamp::AgentCapabilities;
use proto::store::{self, Link};
use proto::uid::Uid;
use tonic::Status;

use crate::api::{Api, broken};
use crate::inventory::Row;
use crate::ledger::table;
use crate::partition::{
    Partition, body, desired_of, doubt_text, excluded_text, is_unchanged, place_of, state_of,
};

/// Without the time since it was heard, which is the core's to know. `unchanged`: as in [`state_of`].
pub(super) fn view(row: &Row, desired: &Desired, unchanged: bool) -> api::Agent {
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
        state: state_of(row, desired, unchanged).to_owned(),
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
        labels: row.labels().collect(),
        drift: vec![],
    }
}

pub(super) fn link_word(link: Link) -> &'static str {
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
        Condition::Late { rollout } => format!("late: joined while rollout {rollout} was open"),
        Condition::Relabelled { rollout } => {
            format!("relabelled: listed by rollout {rollout}, matches its role no more")
        }
        Condition::LacksComponents { family, components } => {
            format!("lacks components: {components}, which family {family} needs; upgrade it")
        }
    }
}

impl Api {
    /// With what its row does not say: when it was heard, and what its revision was validated with.
    pub(super) fn completed(&self, shown: api::Agent, uid: Uid) -> api::Agent {
        let ages = self.node.partition(uid).ages_ms(&[uid]);
        let unvalidated = crate::drift::unvalidated(&self.node.control.read(), &shown);
        let mut shown = shown;
        shown.last_seen_ms_ago = ages.first().copied().unwrap_or(0);
        shown.conditions.extend(unvalidated);
        shown
    }

    pub(super) fn detail(
        &self,
        uid: Uid,
        agent: &store::Agent,
    ) -> Result<api::AgentDetail, Status> {
        let partition = self.node.partition(uid);
        let program = partition.program();
        let (row, desired, unchanged, claims, excluded) = {
            let columns = partition.index().read();
            let row = columns
                .rows
                .get(&uid)
                .ok_or_else(|| Status::not_found(format!("there is no agent {uid}")))?;
            let place = place_of(&columns, &program, uid, row.whose());
            let desired = desired_of(row, place, &program);
            let claims = program
                .claims(row)
                .into_iter()
                .map(|c| format!("{}: {}", c.family, c.roles.join(", ")))
                .collect();
            let excluded = place.and_then(|p| excluded_text(row, &program, &p, &desired));
            let unchanged = is_unchanged(&columns, uid, place.as_ref());
            (row.clone(), desired, unchanged, claims, excluded)
        };
        let mut detail = api::AgentDetail {
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
        detail.drift = self.drift(&row, &desired, &detail.effective);
        let mut shown = api::Agent {
            drift: detail.drift.iter().map(|d| d.kind.clone()).collect(),
            ..view(&row, &desired, unchanged)
        };
        shown.conditions.extend(doubt_text(&row, &program));
        shown.conditions.extend(excluded);
        detail.agent = Some(self.completed(shown, uid));
        detail.history = self.history(uid, 20)?;
        Ok(detail)
    }

    /// Why each role of a family's latest revision matches an agent or not.
    pub(super) fn why(&self, uid: Uid, family: &str) -> Result<Vec<api::RoleMatch>, Status> {
        let roles = {
            let documents = self.node.control.read();
            let revision = documents.revision(family, 0).ok_or_else(|| {
                Status::not_found(format!(
                    "there is no family `{family}`: list them with `muster families list`"
                ))
            })?;
            let roles = revision.value.roles.iter();
            roles.filter_map(crate::control::role).collect::<Vec<_>>()
        };
        let columns = self.node.partition(uid).index().read();
        let row = columns
            .rows
            .get(&uid)
            .ok_or_else(|| Status::not_found(format!("there is no agent {uid}")))?;
        let matches = |role: &fleet::family::Role| {
            let found = role.selector.explain(row);
            api::RoleMatch {
                role: role.name.clone(),
                matched: found.matched(),
                why: found.to_string(),
            }
        };
        Ok(roles.iter().map(matches).collect())
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
                .map(|told| told.address);
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

    /// Newest first.
    pub(super) fn history(&self, uid: Uid, limit: usize) -> Result<Vec<api::Transition>, Status> {
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
