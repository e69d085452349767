//! The cluster itself: nodes, groups, and what it waits for.

use std::collections::BTreeMap;

use fleet::digest::Digest;
use fleet::governance::actor::Act;
use proto::api::cluster_service_server::ClusterService;
use proto::api::{
    ApplyPlanRequest, BackupHeader, BackupPart, BackupRequest, Cluster, ClusterGroup, ClusterNode,
    ClusterPlan, ClusterProgress, ClusterReplica, GetClusterRequest, PlanClusterRequest,
    RemoveNodeRequest, RemoveNodeResponse,
};
use proto::cluster::GroupDescription;
use proto::store;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Api, short};
use crate::backup::send;
use crate::cluster::members::{self, Found};
use crate::cluster::plan;
use crate::control::IDENTITY_KEY;
use crate::ledger::{act, entry, now_ms, once, put, table};

/// A replica that is so many entries behind is catching up.
const BEHIND: u64 = 10_000;

#[tonic::async_trait]
impl ClusterService for Api {
    async fn get_cluster(
        &self,
        request: Request<GetClusterRequest>,
    ) -> Result<Response<Cluster>, Status> {
        self.actor(&request, Act::Read)?;
        let node = &self.node;
        let described = members::find(node).await;
        let names: BTreeMap<u32, &str> = (0..).zip(node.groups().map(|(name, _)| name)).collect();
        let name = node.cluster.as_ref().map(|c| c.config.name.clone());
        let mut cluster = view(name.unwrap_or_default(), &described, &names);
        cluster.answered_by = node.id().0;
        Ok(Response::new(cluster))
    }

    async fn plan_cluster(
        &self,
        request: Request<PlanClusterRequest>,
    ) -> Result<Response<ClusterPlan>, Status> {
        self.actor(&request, Act::Read)?;
        let state = members::state(&members::find(&self.node).await);
        let steps = plan::plan(&state);
        let leaderless = state
            .groups
            .iter()
            .filter(|(_, group)| group.leader.is_none());
        let silent = state
            .nodes
            .iter()
            .filter(|(_, node)| !node.answers && !node.leaves);
        let remarks = leaderless
            .map(|(group, _)| format!("group {group} has no leader and is left as it is"))
            .chain(silent.map(|(node, _)| {
                format!("node {node} does not answer and keeps what it has: if it is lost for good, `muster cluster remove {node}`")
            }));
        Ok(Response::new(ClusterPlan {
            id: plan_id(&steps),
            steps: steps.iter().map(ToString::to_string).collect(),
            remarks: remarks.collect(),
        }))
    }

    type ApplyPlanStream = ReceiverStream<Result<ClusterProgress, Status>>;

    async fn apply_plan(
        &self,
        request: Request<ApplyPlanRequest>,
    ) -> Result<Response<Self::ApplyPlanStream>, Status> {
        let actor = self.actor(&request, Act::ManageCluster)?;
        let asked = request.into_inner().plan;
        let steps = plan::plan(&members::state(&members::find(&self.node).await));
        if !asked.is_empty() && asked != plan_id(&steps) {
            return Err(Status::failed_precondition(
                "the plan is another one by now: look at it with `muster cluster plan`, then apply that",
            ));
        }
        let (send, progress) = tokio::sync::mpsc::channel(4);
        let node = self.node.clone();
        tokio::spawn(async move {
            let of = u32::try_from(steps.len()).unwrap_or(u32::MAX);
            for (number, step) in (1..).zip(&steps) {
                let told = |done| ClusterProgress {
                    number,
                    of,
                    step: step.to_string(),
                    done,
                };
                // Who has gone does not want the next step: each is one that can be stopped after.
                if send.send(Ok(told(false))).await.is_err() {
                    return;
                }
                if let Err(why) = members::take(&node, step).await {
                    let why = format!(
                        "{step}: {why}; what was done stays: look with `muster cluster plan`"
                    );
                    let _gone = send.send(Err(Status::aborted(why))).await;
                    return;
                }
                tracing::info!(%step, actor, "done");
                if send.send(Ok(told(true))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(progress)))
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveNodeResponse>, Status> {
        let actor = self.actor(&request, Act::ManageCluster)?;
        let request = request.into_inner();
        short("reason", &request.reason)?;
        let key = once(
            "node.remove",
            &request.node.to_string(),
            &request.idempotency_key,
        );
        let node = &self.node;
        self.decide(&key, |documents| {
            members::removal(documents, request.node, &actor, &request.reason)
                .map(|entry| (entry, ()))
        })
        .await?;
        let found = members::find(node).await;
        let answers = found
            .iter()
            .any(|found| found.id == request.node && found.says.is_some());
        Ok(Response::new(RemoveNodeResponse { answers }))
    }

    type BackupStream = ReceiverStream<Result<BackupPart, Status>>;

    async fn backup(
        &self,
        request: Request<BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let actor = self.actor(&request, Act::ManageCluster)?;
        let node = self.node.clone();
        let Ok(alone) = node.backing_up.clone().try_acquire_owned() else {
            return Err(Status::resource_exhausted(
                "another backup is being made: wait for its end",
            ));
        };
        let at_ms = now_ms();
        let fresh = uuid::Uuid::new_v4();
        // Who reads everything is written down before anything is read. A process alone has an id from its first backup on.
        let identity = self
            .decide("", |documents| {
                let known = documents.identity.get(IDENTITY_KEY);
                let identity = known.map_or_else(
                    || store::Identity {
                        id: fresh.as_bytes().to_vec(),
                        ..store::Identity::default()
                    },
                    |known| store::Identity::clone(&known.value),
                );
                let writes = match known {
                    Some(_) => vec![],
                    None => vec![put(table::IDENTITY, IDENTITY_KEY, 0, &identity)],
                };
                let object = format!("cluster/{}", hex::encode(&identity.id));
                let acts = vec![act(&actor, "cluster.backup", object, String::new())];
                Ok((Some(entry(writes, acts)), identity))
            })
            .await?;
        let name = node.cluster.as_ref().map(|c| c.config.name.clone());
        let header = BackupHeader {
            cluster: identity.id,
            name: name.unwrap_or_default(),
            incarnation: identity.incarnation,
            at_ms,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            groups: send::groups(&node),
        };
        let (to, parts) = tokio::sync::mpsc::channel(send::WAITING);
        tokio::spawn(send::send(node, header, alone, to));
        Ok(Response::new(ReceiverStream::new(parts)))
    }
}

/// Of exactly these steps.
fn plan_id(steps: &[plan::Step]) -> String {
    let words: Vec<String> = steps.iter().map(ToString::to_string).collect();
    let parts: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
    Digest::of("muster.cluster-plan.v1", &parts).to_hex()[..12].to_owned()
}

fn view(name: String, found: &[Found], names: &BTreeMap<u32, &str>) -> Cluster {
    let groups = names
        .iter()
        .map(|(id, name)| group(*id, name, found))
        .collect::<Vec<_>>();
    let node = |node: &Found| ClusterNode {
        id: node.id,
        address: node.address.clone(),
        answers: node.says.is_some(),
        version: node
            .says
            .as_ref()
            .map(|says| says.version.clone())
            .unwrap_or_default(),
        running_ms: node.says.as_ref().map_or(0, |says| says.running_ms),
        leaves: node.leaves,
        leads: count(&groups, |group| group.leader == node.id),
        replicas: count(&groups, |group| {
            group.replicas.iter().any(|r| r.node == node.id)
        }),
    };
    let nodes: Vec<_> = found.iter().map(node).collect();
    let mut waits_for: Vec<String> = nodes.iter().filter(|n| !n.answers).map(silent).collect();
    waits_for.extend(groups.iter().filter_map(lacks));
    let stopped = found.iter().flat_map(|node| {
        node.says
            .iter()
            .flat_map(|says| &says.groups)
            .map(|g| (node.id, g))
    });
    waits_for.extend(
        stopped
            .filter(|(_, g)| !g.stopped.is_empty())
            .map(|(id, group)| {
                let name = names.get(&group.group).copied().unwrap_or("");
                format!(
                    "node {id} to be restarted: its replica of {name} has stopped: {}",
                    group.stopped
                )
            }),
    );
    waits_for.extend(groups.iter().flat_map(differs));
    Cluster {
        name,
        nodes,
        groups,
        waits_for,
        answered_by: 0,
    }
}

/// What is to be done about replicas that are not what they should be.
fn differs(group: &ClusterGroup) -> impl Iterator<Item = String> {
    let is_there = |node: &&u64| group.replicas.iter().any(|r| r.node == **node);
    group.differs.iter().filter(is_there).map(|node| {
        let name = &group.name;
        format!(
            "node {node} to be replaced: its replica of {name} differs from the others; `muster cluster remove {node}`, and join a new one"
        )
    })
}

fn count(groups: &[ClusterGroup], is: impl Fn(&ClusterGroup) -> bool) -> u32 {
    u32::try_from(groups.iter().filter(|group| is(group)).count()).unwrap_or(u32::MAX)
}

fn group(id: u32, name: &str, found: &[Found]) -> ClusterGroup {
    let mut said: Vec<(u64, &GroupDescription)> = Vec::new();
    for node in found {
        let groups = node.says.iter().flat_map(|says| &says.groups);
        said.extend(
            groups
                .filter(|group| group.group == id)
                .map(|group| (node.id, group)),
        );
    }
    // The word of the highest term counts; in it, of who knows the leader.
    let newest = said
        .iter()
        .map(|(_, group)| *group)
        .max_by_key(|group| (group.term, group.leader != 0));
    let Some(newest) = newest else {
        return ClusterGroup {
            name: name.to_owned(),
            ..ClusterGroup::default()
        };
    };
    let last_log = said
        .iter()
        .map(|(_, group)| group.last_log)
        .max()
        .unwrap_or(0);
    let replica = |node: &u64, votes: bool| {
        let says = said
            .iter()
            .find(|(id, _)| id == node)
            .map(|(_, group)| *group);
        let applied = says.map_or(0, |group| group.applied);
        ClusterReplica {
            node: *node,
            votes,
            answers: says.is_some(),
            applied,
            behind: last_log.saturating_sub(applied),
        }
    };
    let leads = said.iter().find(|(node, _)| *node == newest.leader);
    let leads = leads.map(|(_, group)| *group);
    let voters = newest.voters.iter().map(|node| replica(node, true));
    let learners = newest.learners.iter().map(|node| replica(node, false));
    ClusterGroup {
        name: name.to_owned(),
        leader: newest.leader,
        term: newest.term,
        last_log,
        replicas: voters.chain(learners).collect(),
        same_at: leads.map_or(0, |group| group.same_at),
        differs: leads.map(|group| group.differs.clone()).unwrap_or_default(),
    }
}

fn silent(node: &ClusterNode) -> String {
    format!(
        "node {} at {}, which does not answer",
        node.id, node.address
    )
}

/// What a group waits for.
fn lacks(group: &ClusterGroup) -> Option<String> {
    if group.leader == 0 {
        return Some(format!(
            "{} to elect a leader: nothing of it changes until then",
            group.name
        ));
    }
    let behind = group
        .replicas
        .iter()
        .filter(|r| r.answers && r.behind > BEHIND);
    let behind: Vec<String> = behind
        .map(|r| format!("node {} ({} entries)", r.node, r.behind))
        .collect();
    (!behind.is_empty()).then(|| format!("{} to be caught up by {}", group.name, behind.join(", ")))
}

#[cfg(test)]
mod tests {
    use proto::cluster::NodeDescription;

    use super::*;

    fn says(node: u64, leader: u64, term: u64, applied: u64) -> Found {
        let group = GroupDescription {
            leader,
            term,
            last_log: applied,
            applied,
            voters: vec![1, 2, 3],
            ..GroupDescription::default()
        };
        Found {
            id: node,
            address: format!("127.0.0.1:{node}"),
            leaves: false,
            says: Some(NodeDescription {
                node,
                groups: vec![group],
                ..NodeDescription::default()
            }),
        }
    }

    fn silent(node: u64) -> Found {
        Found {
            says: None,
            ..says(node, 0, 0, 0)
        }
    }

    fn of(found: &[Found]) -> Cluster {
        view("prod".into(), found, &BTreeMap::from([(0, "control")]))
    }

    #[test]
    fn a_cluster_with_everybody_there_waits_for_nothing() {
        let cluster = of(&[says(1, 2, 7, 50), says(2, 2, 7, 51), says(3, 2, 7, 51)]);
        assert_eq!(cluster.waits_for, Vec::<String>::new());
        let group = &cluster.groups[0];
        assert_eq!((group.leader, group.last_log), (2, 51));
        assert_eq!(group.replicas[0].behind, 1);
        assert_eq!((cluster.nodes[1].leads, cluster.nodes[0].leads), (1, 0));
    }

    #[test]
    fn what_is_missing_is_named_with_what_it_keeps_from_happening() {
        let cluster = of(&[says(1, 0, 8, 50_000), silent(2), says(3, 2, 7, 10)]);
        assert_eq!(
            cluster.waits_for,
            [
                "node 2 at 127.0.0.1:2, which does not answer",
                "control to elect a leader: nothing of it changes until then",
            ]
        );
        let cluster = of(&[
            says(1, 1, 8, 50_000),
            says(2, 1, 8, 50_000),
            says(3, 1, 8, 10),
        ]);
        assert_eq!(
            cluster.waits_for,
            ["control to be caught up by node 3 (49990 entries)"]
        );
    }
}
