//! Members of groups change, one node at a time: nodes join, stop voting, and vote again.

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
    for group in Cluster::groups() {
        while !votes(&cluster, group, node).unwrap_or(false) {
            let _done_or_not = set_voter(&cluster, group, node, true).await;
            sleep_ms(300).await;
        }
    }
}

/// Who votes there, by what its leader knows; none: it has none now.
fn votes(cluster: &Cluster, group: GroupId, node: u64) -> Option<bool> {
    Some(voters(&leader(cluster, group)?).contains(&node))
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
    if set_voter(&cluster, group, node, false).await.is_some() {
        sleep_ms(ms).await;
        while !votes(&cluster, group, node).unwrap_or(false) {
            let _done_or_not = set_voter(&cluster, group, node, true).await;
            sleep_ms(300).await;
        }
    }
}
