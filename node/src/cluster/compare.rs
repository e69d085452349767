//! Are all replicas of a group the same? Its leader asks each for the digest of its state at one index of the log.
//!
//! Replicas that have applied the same entries differ only where a disk or a program has failed silently: nothing else would
//! ever tell, until such a replica leads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use proto::cluster::GroupDescription;
use raft::{GroupId, NodeId};

use super::Cluster;
use super::group::AnyGroup;
use crate::ledger::entry;
use crate::local::{Node, PARTITIONS};

/// How far ahead the index lies: a busy group passes a near one before everybody has been asked, and a quiet one comes to a
/// far one only by entries that are made for it.
const AHEAD: [u64; 3] = [4, 256, 8_192];

/// At most so many entries that change nothing are made to come to the index.
const PUSHES_MAX: u64 = 256;

/// After so long everybody has been asked.
const ASKED: Duration = Duration::from_millis(300);

/// By group: what the last comparison of those that are led here has shown.
#[derive(Default)]
pub struct Compared(Mutex<BTreeMap<u32, Shown>>);

/// What a comparison has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The last index at which all replicas that answered were the same; 0: none yet.
    pub same_at: u64,
    /// Nodes whose replica differs from the others'.
    pub differs: Vec<u64>,
}

impl Compared {
    /// Adds what is known here to what a group says of itself.
    pub fn describe(&self, group: &mut GroupDescription) {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shown) = shown.get(&group.group) {
            group.same_at = shown.same_at;
            group.differs.clone_from(&shown.differs);
        }
    }

    /// What was found when it was led here says nothing later.
    fn forget(&self, group: u32) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.remove(&group);
    }

    fn keep(&self, group: u32, index: u64, differs: Vec<u64>) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = shown.entry(group).or_default();
        if differs.is_empty() {
            shown.same_at = index;
        }
        shown.differs = differs;
    }
}

/// Compares the replicas of every group that is led here, one group after the other.
pub async fn compare(node: Arc<Node>) {
    let Some(cluster) = &node.cluster else { return };
    for id in 0..=PARTITIONS {
        let Some(group) = node.group(GroupId(id)) else {
            continue;
        };
        if group.describe().leader != node.id().0 {
            node.compared.forget(id);
            continue;
        }
        match compare_group(cluster, node.id(), &*group).await {
            Some((index, differs)) => {
                if !differs.is_empty() {
                    tracing::error!(group = id, index, nodes = ?differs, "replicas of a group differ: replace those of these nodes");
                }
                node.compared.keep(id, index, differs);
            }
            None => tracing::debug!(group = id, "its replicas were not compared this time"),
        }
    }
}

/// The index, and the nodes that differ there; none: fewer than two replicas could be seen at one index. Everybody who
/// answers is seen, unless somebody is too far behind each time.
async fn compare_group(
    cluster: &Cluster,
    own: NodeId,
    group: &dyn AnyGroup,
) -> Option<(u64, Vec<u64>)> {
    let mut without_some = None;
    for ahead in AHEAD {
        let described = group.describe();
        let index = described.last_log + ahead;
        let members = described.voters.iter().chain(&described.learners);
        let others = members.filter(|node| **node != own.0).map(|node| async {
            let digest = cluster.digest(NodeId(*node), GroupId(described.group), index);
            (*node, digest.await)
        });
        let push = async {
            tokio::time::sleep(ASKED).await;
            for _ in 0..ahead.min(PUSHES_MAX) {
                let nothing = entry(vec![], vec![]).encode_to_vec().into();
                if group.describe().applied >= index || group.propose(nothing).await.is_err() {
                    return;
                }
            }
        };
        let others = futures::future::join_all(others);
        let (mine, others, ()) = futures::join!(group.digest_at(index), others, push);
        let mut replicas = vec![(own.0, mine.ok()?)];
        // Who does not answer is compared another time.
        replicas.extend(
            others
                .into_iter()
                .filter_map(|(node, d)| Some((node, d.ok()?))),
        );
        let all = replicas.len();
        let known: Vec<(u64, [u8; 32])> = replicas
            .into_iter()
            .filter_map(|(node, digest)| Some((node, digest?)))
            .collect();
        let seen = differing(&known).map(|differs| (index, differs));
        if seen.is_some() && known.len() == all {
            return seen;
        }
        without_some = seen.or(without_some);
    }
    without_some
}

/// Who differs from most of them; where there are as many on both sides, from the first. None: there is nobody to compare.
fn differing(replicas: &[(u64, [u8; 32])]) -> Option<Vec<u64>> {
    if replicas.len() < 2 {
        return None;
    }
    let alike = |digest: &[u8; 32]| replicas.iter().filter(|(_, other)| other == digest).count();
    let most = replicas.iter().map(|(_, digest)| alike(digest)).max();
    let right = replicas
        .iter()
        .find(|(_, digest)| Some(alike(digest)) == most);
    let wrong = replicas
        .iter()
        .filter(|(_, digest)| right.is_some_and(|(_, right)| right != digest));
    Some(wrong.map(|(node, _)| *node).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_differs_from_most_is_named() {
        let named = |digests: [u8; 3]| {
            let replicas: Vec<_> = (1..).zip(digests.map(|digest| [digest; 32])).collect();
            differing(&replicas)
        };
        assert_eq!(named([7, 7, 7]), Some(vec![]));
        assert_eq!(named([7, 8, 7]), Some(vec![2]));
        assert_eq!(named([8, 7, 7]), Some(vec![1]), "also the one that asks");
        assert_eq!(named([7, 8, 9]), Some(vec![2, 3]));
    }

    #[test]
    fn a_replica_that_is_alone_is_not_found_to_be_the_same() {
        assert_eq!(differing(&[]), None);
        assert_eq!(differing(&[(1, [7; 32])]), None);
    }

    #[test]
    fn what_was_found_is_told_until_it_is_found_to_be_otherwise() {
        let compared = Compared::default();
        let told = |compared: &Compared| {
            let mut group = GroupDescription {
                group: 3,
                ..GroupDescription::default()
            };
            compared.describe(&mut group);
            (group.same_at, group.differs)
        };
        assert_eq!(told(&compared), (0, vec![]));
        compared.keep(3, 10, vec![]);
        compared.keep(3, 20, vec![2]);
        assert_eq!(told(&compared), (10, vec![2]));
        compared.keep(3, 30, vec![]);
        assert_eq!(told(&compared), (30, vec![]));
    }
}
