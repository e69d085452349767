//! Members of groups change, one node at a time: nodes join, stop voting, and vote again; those whose disk is lost are
//! replaced.

use std::collections::BTreeSet;
use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use openraft::{ChangeMembers, EmptyNode};

use crate::cluster::{Cluster, Group};
use crate::invariants::Fact;
use crate::time::{sleep_ms, within_ms};
use crate::types::GroupId;

/// A cluster of five begins with so many; the others join.
pub const FIRST: u64 = 3;

/// A step takes so long at most; one that was cut off goes on when it is asked for again.
const STEP_MS: u64 = 5_000;

/// Makes this node a voter of every group, as soon as that is possible.
pub async fn join(cluster: Arc<Cluster>, node: u64) {
    let _changing = cluster.changing();
    for group in Cluster::groups() {
        while !votes(&cluster, group, node).unwrap_or(false) {
            let _done_or_not = set_voter(&cluster, group, node, true).await;
            sleep_ms(300).await;
        }
    }
}

/// Does it vote there for good, by what its leader knows? None: the group has none now, or its members are just changing.
fn votes(cluster: &Cluster, group: GroupId, node: u64) -> Option<bool> {
    let leader = leader(cluster, group)?;
    is_settled(&leader).then(|| voters(&leader).contains(&node))
}

/// The last change of members is over: one quorum decides, and what says so is applied. Before that, who is replaced is
/// still needed.
fn is_settled(group: &Group) -> bool {
    let metrics = group.raft.metrics();
    let metrics = metrics.borrow_watched();
    let members = &metrics.membership_config;
    members.membership().get_joint_config().len() == 1 && metrics.last_applied >= *members.log_id()
}

/// Is it a member in any way, by what the leader knows? None: it has none now.
fn belongs(cluster: &Cluster, group: GroupId, node: u64) -> Option<bool> {
    let leader = leader(cluster, group)?;
    let metrics = leader.raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    is_settled(&leader).then(|| membership.get_node(&node).is_some())
}

fn voters(group: &Group) -> BTreeSet<u64> {
    let metrics = group.raft.metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.membership().voter_ids().collect()
}

fn leader(cluster: &Cluster, group: GroupId) -> Option<Group> {
    let mut processes = cluster.node_ids().filter_map(|node| cluster.process(node));
    let found = processes.find(|process| process.group(group).leads_in().is_some())?;
    Some(found.group(group).clone())
}

/// One step. None: nobody leads, or it is not known whether it was done.
pub async fn set_voter(cluster: &Cluster, group: GroupId, node: u64, votes: bool) -> Option<()> {
    let leader = leader(cluster, group)?;
    let mut next = voters(&leader);
    if votes {
        let added = leader.raft.add_learner(node, EmptyNode::new(), true);
        within_ms(STEP_MS, added).await?.ok()?;
        next.insert(node);
    } else {
        next.remove(&node);
    }
    let change = ChangeMembers::ReplaceAllVoters(next);
    let changed = leader.raft.change_membership(change, true);
    within_ms(STEP_MS, changed).await?.ok()?;
    cluster.watch.note(Fact::Members { group, node, votes });
    Some(())
}

/// A node of five stops voting in a group, and votes again after a while.
pub async fn rest(cluster: Arc<Cluster>, group: GroupId, node: u64, ms: u64) {
    let Some(found) = leader(&cluster, group) else {
        return;
    };
    let voters = voters(&found);
    if voters.len() as u64 <= FIRST || !voters.contains(&node) {
        return;
    }
    let _changing = cluster.changing();
    if set_voter(&cluster, group, node, false).await.is_some() {
        sleep_ms(ms).await;
        while !votes(&cluster, group, node).unwrap_or(false) {
            let _done_or_not = set_voter(&cluster, group, node, true).await;
            sleep_ms(300).await;
        }
    }
}

/// Has a node with an empty disk and an id of its own take the place of one that is gone with its disk: no group counts on
/// that one any more before the new one votes.
pub async fn replace(cluster: Arc<Cluster>, gone: u64, by: u64) {
    let _changing = cluster.changing();
    for group in Cluster::groups() {
        while belongs(&cluster, group, gone).unwrap_or(true) {
            let _done_or_not = remove(&cluster, group, gone).await;
            sleep_ms(300).await;
        }
    }
    join(Arc::clone(&cluster), by).await;
    cluster.watch.note(Fact::Replaced { gone, by });
}

/// One step.
async fn remove(cluster: &Cluster, group: GroupId, node: u64) -> Option<()> {
    let leader = leader(cluster, group)?;
    let mut voters = voters(&leader);
    let change = if voters.remove(&node) {
        ChangeMembers::ReplaceAllVoters(voters)
    } else {
        ChangeMembers::RemoveNodes(BTreeSet::from([node]))
    };
    let changed = leader.raft.change_membership(change, false);
    within_ms(STEP_MS, changed).await?.ok()?;
    Some(())
}
