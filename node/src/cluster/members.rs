//! Who is in the cluster: nodes register, and replicas and leaders go where `plan` says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto::cluster::change_request::Change;
use proto::cluster::{
    ChangeRequest, NodeDescription, RegisterReply, RegisterRequest, RegisteredNode, Voters,
};
use proto::store::{Act, ClusterNode, Entry, Identity, Write};
use raft::{GroupId, NodeId};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Cluster;
use super::plan::{self, GroupState, NodeState, Step};
use crate::control::{Documents, IDENTITY_KEY};
use crate::ledger::{ProposeError, act, entry, now_ms, put, table};
use crate::local::Node;
use crate::partition::chain;

/// Leaders are spread, and new nodes get their documents, one step at a time.
const BY_ITSELF: Duration = Duration::from_secs(5);

/// A new copy may take so long to have what the others have; then the plan is made anew.
const CATCH_UP: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(250);

/// Registering is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// Tries after somebody else has registered meanwhile.
const TRIES: usize = 10;

// === founding ===

/// The others are waited for so long, if half of them have answered.
const FOUND: Duration = Duration::from_secs(5);

/// May a founder with an empty data directory begin? Not before half of the others have been asked whether they remember
/// it: if it has voted before and lost its disk, it would vote again for somebody else. Err: they do.
pub async fn may_found(cluster: &Cluster) -> Result<(), String> {
    let own = &cluster.config;
    let mut others: BTreeSet<NodeId> = own
        .founders
        .keys()
        .copied()
        .filter(|id| *id != own.node)
        .collect();
    let enough = others.len() - others.len() / 2;
    let began = tokio::time::Instant::now();
    let mut told = false;
    while !others.is_empty() {
        for id in others.clone() {
            let Ok(reply) = cluster.hello(id).await else {
                continue;
            };
            if !reply.caller_disk.is_empty() && reply.caller_disk[..] != own.disk {
                return Err(lost_its_data(own.node.0));
            }
            others.remove(&id);
        }
        if others.len() <= own.founders.len() - 1 - enough && began.elapsed() > FOUND {
            return Ok(());
        }
        if !others.is_empty() && !told {
            told = true;
            let names: Vec<String> = others.iter().map(NodeId::to_string).collect();
            tracing::info!(
                waits_for = names.join(", "),
                "waiting for the other founders"
            );
        }
        if !others.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

fn lost_its_data(id: u64) -> String {
    format!(
        "node {id} has had another data directory: what it had promised there is lost, so this number cannot be used again. Remove it with `muster cluster remove {id}`, and start this node with an empty data directory and --join instead of --id"
    )
}

// === registering ===

/// Gives a node its number, or takes note of where it is now. Stored once and for all: a number belongs to one disk. The
/// first that registers gives the cluster its id.
pub async fn register(node: &Arc<Node>, request: RegisterRequest) -> Result<RegisterReply, Status> {
    let caller = request.caller.unwrap_or_default();
    for _ in 0..TRIES {
        let (id, version, before, has_id) = {
            let documents = node.control.read();
            let of_disk = documents
                .nodes
                .iter()
                .find(|(_, known)| known.value.disk == caller.from_disk[..]);
            let id = match (caller.from, of_disk) {
                // It has asked before, and the answer was lost.
                (0, Some((id, _))) => *id,
                (0, None) => next_id(node, documents.nodes.keys().copied()),
                (id, _) => id,
            };
            let known = documents.nodes.get(&id);
            (
                id,
                known.map_or(0, |known| known.version),
                known.map(|known| known.value.clone()),
                documents.cluster_id().is_some(),
            )
        };
        if let Some(known) = &before {
            check(id, known, &caller.from_disk)?;
        }
        let next = ClusterNode {
            id,
            address: request.address.clone(),
            disk: caller.from_disk.to_vec(),
            joined_ms: before.as_ref().map_or_else(now_ms, |known| known.joined_ms),
            version: request.version.clone(),
            removed: false,
            gone: false,
        };
        let actor = format!("node-{id}");
        let (mut writes, mut acts) = (vec![], vec![]);
        if before.as_deref() != Some(&next) {
            let action = if before.is_some() {
                "node.move"
            } else {
                "node.join"
            };
            let detail = format!("{} running {}", next.address, next.version);
            acts.push(act(&actor, action, format!("node/{id}"), detail));
            writes.push(put(table::NODE, id.to_be_bytes(), version, &next));
        }
        if !has_id {
            let (write, named) = name_cluster(&actor);
            acts.push(named);
            writes.push(write);
        }
        if writes.is_empty() {
            return Ok(reply(node, id));
        }
        match node.control_ledger.propose(entry(writes, acts)).await {
            Ok(_) => return Ok(reply(node, id)),
            Err(ProposeError::Conflict(_)) => {}
            Err(error) => return Err(Status::unavailable(chain(&error))),
        }
    }
    Err(Status::aborted(
        "others register at the same time: try again",
    ))
}

/// An id for a cluster that has none.
fn name_cluster(actor: &str) -> (Write, Act) {
    let identity = Identity {
        id: uuid::Uuid::new_v4().as_bytes().to_vec(),
        ..Identity::default()
    };
    let object = format!("cluster/{}", hex::encode(&identity.id));
    (
        put(table::IDENTITY, IDENTITY_KEY, 0, &identity),
        act(actor, "cluster.named", object, String::new()),
    )
}

/// Numbers are never given twice, also not those of founders that have not registered yet.
fn next_id(node: &Node, known: impl Iterator<Item = u64>) -> u64 {
    let founders = node
        .cluster
        .iter()
        .flat_map(|cluster| cluster.config.founders.keys());
    known.chain(founders.map(|id| id.0)).max().unwrap_or(0) + 1
}

fn check(id: u64, known: &ClusterNode, disk: &[u8]) -> Result<(), Status> {
    if known.removed {
        return Err(Status::failed_precondition(format!(
            "node {id} was removed from the cluster for good: give it an empty data directory and --join instead"
        )));
    }
    if known.disk != disk {
        return Err(Status::failed_precondition(lost_its_data(id)));
    }
    Ok(())
}

fn reply(node: &Node, id: u64) -> RegisterReply {
    let addresses = node
        .cluster
        .iter()
        .flat_map(|cluster| cluster.channels.addresses());
    let nodes = addresses.map(|(node, address)| RegisteredNode {
        node: node.0,
        address,
    });
    RegisterReply {
        node: id,
        nodes: nodes.collect(),
    }
}

/// May a node that is known take part? One that has just begun is not known yet. Who was removed goes on until nothing of
/// it is left: it hands over, and brings who comes after it up to date.
pub(super) fn heard(known: &ClusterNode, disk: &[u8]) -> Result<(), String> {
    if known.gone {
        return Err(format!(
            "node {} was removed from the cluster for good, and nobody hears it any more: stop it. To use the machine again give it an empty data directory and --join",
            known.id
        ));
    }
    match known.disk == disk {
        true => Ok(()),
        false => Err(lost_its_data(known.id)),
    }
}

/// Registers this node where the control group is led, until that has worked. Err: it may not run under this number.
pub async fn register_self(node: &Arc<Node>, stop: &CancellationToken) -> Result<(), String> {
    let Some(cluster) = &node.cluster else {
        return Ok(());
    };
    loop {
        let request = RegisterRequest {
            caller: cluster.caller(NodeId(0)),
            address: cluster.config.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        // Through this node's own replica: what it proposes goes to the leader, wherever that is.
        let registered = async {
            node.control_ledger
                .sync()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            register(node, request).await
        };
        match registered.await {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                return Err(status.message().to_owned());
            }
            Err(status) => tracing::debug!(%status, "this node has not registered yet"),
        }
        if stop
            .run_until_cancelled(tokio::time::sleep(AGAIN))
            .await
            .is_none()
        {
            return Ok(());
        }
    }
}

/// Nodes that have registered are reached where they say they are. Of founders the command line says so, until they
/// register anew: after a move of all of them the documents name where nobody is any more.
pub async fn follow_addresses(node: Arc<Node>, stop: CancellationToken) {
    let Some(cluster) = node.cluster.clone() else {
        return;
    };
    let mut changes = node.control.changes();
    let at_start: BTreeMap<u64, u64> = {
        let documents = node.control.read();
        let founders = documents
            .nodes
            .iter()
            .filter(|(id, _)| cluster.config.founders.contains_key(&NodeId(**id)));
        founders.map(|(id, known)| (*id, known.version)).collect()
    };
    loop {
        cluster.learn(&node.control.read());
        for (id, known) in &node.control.read().nodes {
            let is_news = at_start.get(id) != Some(&known.version);
            // Also of who leaves: until it has nothing more, it is asked, and hands over.
            if is_news {
                cluster.channels.set(NodeId(*id), &known.value.address);
            }
        }
        if stop
            .run_until_cancelled(changes.changed())
            .await
            .is_none_or(|changed| changed.is_err())
        {
            return;
        }
    }
}

// === what is ===

/// A node as it was found: where it is, and what it says of itself if it answers.
pub struct Found {
    /// Its number.
    pub id: u64,
    /// `host:port`; empty in a process alone.
    pub address: String,
    /// None: it does not answer.
    pub says: Option<NodeDescription>,
    /// It is to leave.
    pub leaves: bool,
}

/// Asks every node that is known.
pub async fn find(node: &Node) -> Vec<Found> {
    let here = node.id();
    let Some(cluster) = &node.cluster else {
        return vec![Found {
            id: here.0,
            address: String::new(),
            says: Some(node.describe()),
            leaves: false,
        }];
    };
    let leaving: BTreeSet<u64> = {
        let documents = node.control.read();
        let leaving = documents
            .nodes
            .iter()
            .filter(|(_, known)| known.value.removed);
        leaving.map(|(id, _)| *id).collect()
    };
    let mut addresses = cluster.channels.addresses();
    // Who leaves is still asked while a group has a replica there.
    for id in &leaving {
        let in_use = node.groups().any(|(_, status)| {
            status.voters.contains(&NodeId(*id)) || status.learners.contains(&NodeId(*id))
        });
        if !in_use {
            addresses.remove(&NodeId(*id));
        }
    }
    let ask = |(id, address): (NodeId, String)| {
        let leaves = leaving.contains(&id.0);
        async move {
            let says = match id == here {
                true => Some(node.describe()),
                false => cluster.describe(id).await.ok(),
            };
            Found {
                id: id.0,
                address,
                says,
                leaves,
            }
        }
    };
    futures::future::join_all(addresses.into_iter().map(ask)).await
}

/// As the planner takes it: of each group what its leader says.
pub fn state(found: &[Found]) -> plan::Cluster {
    let node = |found: &Found| {
        let state = NodeState {
            answers: found.says.is_some(),
            leaves: found.leaves,
        };
        (found.id, state)
    };
    let mut groups: BTreeMap<u32, (u64, GroupState)> = BTreeMap::new();
    for (from, group) in found
        .iter()
        .flat_map(|f| f.says.iter().flat_map(|s| &s.groups).map(|g| (f.id, g)))
    {
        let leads = group.leader == from;
        let (term, known) = groups.entry(group.group).or_default();
        if leads && group.term >= *term {
            *term = group.term;
            *known = GroupState {
                leader: Some(from),
                voters: group.voters.iter().copied().collect(),
                learners: group.learners.iter().copied().collect(),
                caught_up: group.caught_up.iter().copied().collect(),
            };
        }
    }
    plan::Cluster {
        nodes: found.iter().map(node).collect(),
        groups: groups
            .into_iter()
            .map(|(id, (_, state))| (id, state))
            .collect(),
    }
}

// === steps ===

/// Takes one step, and answers when it is done.
pub async fn take(node: &Node, step: &Step) -> Result<(), String> {
    if let Step::CatchUp {
        group,
        node: learner,
    } = step
    {
        return catch_up(node, *group, *learner).await;
    }
    let leader = state(&find(node).await)
        .groups
        .get(&step.group())
        .and_then(|g| g.leader);
    let leader = leader.ok_or("the group has no leader")?;
    let change = match step {
        Step::AddLearner { node, .. } => Change::AddLearner(*node),
        Step::RemoveLearner { node, .. } => Change::RemoveLearner(*node),
        Step::SetVoters { voters, .. } => Change::SetVoters(Voters {
            nodes: voters.iter().copied().collect(),
        }),
        Step::MoveLeader { to, .. } => Change::MoveLeader(*to),
        Step::CatchUp { .. } => return Ok(()),
    };
    let group = GroupId(step.group());
    match (&node.cluster, leader == node.id().0) {
        (Some(cluster), false) => {
            let request = ChangeRequest {
                group: group.0,
                change: Some(change),
                ..ChangeRequest::default()
            };
            let changed = cluster.change(NodeId(leader), request).await;
            changed.map_err(|status| status.message().to_owned())
        }
        _ => {
            node.group(group)
                .ok_or("no such group")?
                .change(change)
                .await
        }
    }
}

async fn catch_up(node: &Node, group: u32, learner: u64) -> Result<(), String> {
    let until = tokio::time::Instant::now() + CATCH_UP;
    while tokio::time::Instant::now() < until {
        let now = state(&find(node).await);
        if now
            .groups
            .get(&group)
            .is_some_and(|group| group.caught_up.contains(&learner))
        {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(format!(
        "node {learner} has not caught up within {} s",
        CATCH_UP.as_secs()
    ))
}

/// Who was removed and has no replica left, as the leaders of all groups say, is not heard from now on: its certificate is
/// good for longer. No group gets a replica there again, so that what they say cannot be out of date.
async fn shut_out(node: &Node, state: &plan::Cluster) {
    let gone: Vec<(u64, ClusterNode)> = {
        let documents = node.control.read();
        let gone = documents
            .nodes
            .values()
            .filter(|known| is_gone(&known.value, state));
        gone.map(|known| (known.version, ClusterNode::clone(&known.value)))
            .collect()
    };
    for (version, known) in gone {
        let id = known.id;
        let next = ClusterNode {
            gone: true,
            ..known
        };
        let writes = vec![put(table::NODE, id.to_be_bytes(), version, &next)];
        let acts = vec![act(
            "controller",
            "node.gone",
            format!("node/{id}"),
            "no group has a replica there".to_owned(),
        )];
        match node.control_ledger.propose(entry(writes, acts)).await {
            Ok(_) => tracing::info!(node = id, "it has left: it is not heard any more"),
            Err(error) => {
                tracing::debug!(node = id, error = %chain(&error), "that it has left is written down later");
            }
        }
    }
}

fn is_gone(known: &ClusterNode, state: &plan::Cluster) -> bool {
    let without = |group: &GroupState| {
        let members = group.voters.union(&group.learners);
        group.leader.is_some() && members.into_iter().all(|member| *member != known.id)
    };
    known.removed && !known.gone && !state.groups.is_empty() && state.groups.values().all(without)
}

/// Gives new nodes their documents and spreads leaders, a step at a time, and shuts out who has left, while this node leads the control group.
pub async fn keep(node: Arc<Node>, stop: CancellationToken) {
    if node.cluster.is_none() {
        return;
    }
    while stop
        .run_until_cancelled(tokio::time::sleep(BY_ITSELF))
        .await
        .is_some()
    {
        if !node.leads() {
            continue;
        }
        let state = state(&find(&node).await);
        shut_out(&node, &state).await;
        let Some(step) = plan::by_itself(&state) else {
            continue;
        };
        match take(&node, &step).await {
            Ok(()) => tracing::info!(%step, "done"),
            Err(why) => tracing::debug!(%step, why, "it is tried again"),
        }
    }
}

/// Hands over what this node leads, before it stops: nobody has to wait for an election.
pub async fn hand_over(node: &Node) {
    let Some(cluster) = &node.cluster else {
        return;
    };
    let here = cluster.config.node;
    let hand = node
        .groups()
        .filter(|(_, status)| status.leadership.role == raft::Role::Leader);
    let hand = hand.map(|(name, status)| async move {
        let group = node.group(status.group)?;
        let others = group.describe();
        let voters = others.voters.iter().filter(|id| **id != here.0);
        for to in voters.filter(|id| others.caught_up.contains(id)) {
            match group.change(Change::MoveLeader(*to)).await {
                Ok(()) => return Some(()),
                Err(why) => tracing::debug!(group = name, to, why, "it was not handed over"),
            }
        }
        None
    });
    futures::future::join_all(hand).await;
}

/// Marks a node as one that leaves for good. None: it is marked already.
pub fn removal(
    documents: &Documents,
    id: u64,
    actor: &str,
    reason: &str,
) -> Result<Option<Entry>, Status> {
    let known = documents.nodes.get(&id).ok_or_else(|| {
        Status::not_found(format!(
            "there is no node {id}: list them with `muster cluster status`"
        ))
    })?;
    if known.value.removed {
        return Ok(None);
    }
    let staying = documents
        .nodes
        .values()
        .filter(|other| !other.value.removed && other.value.id != id);
    if staying.count() == 0 {
        return Err(Status::failed_precondition(format!(
            "node {id} is the last one: add another one first"
        )));
    }
    let next = ClusterNode {
        removed: true,
        ..ClusterNode::clone(&known.value)
    };
    let write = put(table::NODE, id.to_be_bytes(), known.version, &next);
    let acts = vec![act(
        actor,
        "node.remove",
        format!("node/{id}"),
        reason.to_owned(),
    )];
    Ok(Some(entry(vec![write], acts)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> ClusterNode {
        ClusterNode {
            id: 2,
            disk: vec![2; 16],
            ..ClusterNode::default()
        }
    }

    #[test]
    fn who_was_removed_is_heard_until_it_is_gone_and_another_disk_never_is() {
        let removed = ClusterNode {
            removed: true,
            ..known()
        };
        let gone = ClusterNode {
            gone: true,
            ..removed.clone()
        };
        assert_eq!(heard(&known(), &[2; 16]), Ok(()));
        assert_eq!(heard(&removed, &[2; 16]), Ok(()));
        let why = heard(&gone, &[2; 16]).unwrap_err();
        assert!(
            why.contains("was removed") && why.contains("--join"),
            "{why}"
        );
        for other in [&[3; 16][..], &[]] {
            let why = heard(&known(), other).unwrap_err();
            assert!(why.contains("another data directory"), "{why}");
        }
    }

    #[test]
    fn a_removed_node_is_gone_when_the_leaders_of_all_groups_say_that_they_have_no_replica_there() {
        let group = |voters: &[u64], learners: &[u64]| GroupState {
            leader: Some(1),
            voters: voters.iter().copied().collect(),
            learners: learners.iter().copied().collect(),
            ..GroupState::default()
        };
        let cluster = |groups: Vec<GroupState>| plan::Cluster {
            nodes: BTreeMap::new(),
            groups: (0..).zip(groups).collect(),
        };
        let removed = ClusterNode {
            removed: true,
            ..known()
        };
        let without = group(&[1, 3, 4], &[5]);
        let all = cluster(vec![without.clone(), without.clone()]);
        assert!(is_gone(&removed, &all));
        assert!(!is_gone(&known(), &all), "nobody has removed it");
        for other in [
            group(&[1, 2, 3], &[]),
            group(&[1, 3, 4], &[2]),
            GroupState::default(),
        ] {
            let some = cluster(vec![without.clone(), other]);
            assert!(!is_gone(&removed, &some));
        }
        assert!(!is_gone(&removed, &cluster(vec![])), "nothing is known");
        let gone = ClusterNode {
            gone: true,
            ..removed
        };
        assert!(!is_gone(&gone, &all), "it is written down once");
    }
}
